/* SPDX-License-Identifier: MIT */
/* The thread that samples for cold frames and swaps out, when there is something to do. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "framevisor/log.h"
#include "vmm/memory/swap.h"

/* Sampling goes on for so long after something was swapped out. */
#define AFTERMATH_MS  30000
#define SWAP_AGAIN_MS 20

int background_thread(pthread_t *thread, void *(*fn)(void *opaque), void *opaque)
{
	sigset_t all, old;
	int ret;

	/* Signals belong to the threads that expect them. */
	sigfillset(&all);
	sigdelset(&all, SIGSYS); /* the sandbox's, to whoever broke its rules */
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = pthread_create(thread, NULL, fn, opaque);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return ret;
}

static bool sampling(struct vm_memory *mem)
{
	uint32_t last;

	if (atomic_load(&mem->cold.on))
		return true;
	if (!mem->swap || mem->swap->at_random)
		return false;
	last = atomic_load(&mem->swap->last_activity);
	return last && park_clock() - last < AFTERMATH_MS;
}

/* How long there is nothing to do; -1: until there is a kick. */
static int rest(struct vm_memory *mem)
{
	if (sampling(mem))
		return cold_step(mem);
	/* What could not be swapped out just now: nobody asks again while it is being asked for. */
	return mem->swap && atomic_load(&mem->swap->to_do) ? SWAP_AGAIN_MS : -1;
}

static void *background_main(void *opaque)
{
	struct vm_memory *mem = opaque;
	struct background *background = &mem->background;
	struct pollfd fd = { .fd = background->kick_fd, .events = POLLIN };
	uint64_t count;

	pthread_setname_np(pthread_self(), "memory");
	while (!atomic_load(&background->stop)) {
		bool more = mem->swap && swap_out_step(mem);
		int delay = rest(mem);

		if (poll(&fd, 1, more ? 0 : delay) > 0 &&
		    read(background->kick_fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
			log_error("background thread: errno %d", errno);
	}
	return NULL;
}

int background_start(struct vm_memory *mem, struct error *err)
{
	struct background *background = &mem->background;
	int ret;

	if (background->runs)
		return 0;
	if (background->stop)
		return error_set(err, ESHUTDOWN, "the VM's memory comes to its end");
	background->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (background->kick_fd < 0)
		return error_set_errno(err, errno, "cannot create an eventfd");
	ret = background_thread(&background->thread, background_main, mem);
	if (ret) {
		close(background->kick_fd);
		background->kick_fd = -1;
		return error_set_errno(err, ret, "cannot create the thread for cold memory");
	}
	background->runs = true;
	return 0;
}

void background_kick(struct vm_memory *mem)
{
	uint64_t one = 1;

	if (mem->background.runs && write(mem->background.kick_fd, &one, sizeof(one)) < 0 &&
	    errno != EAGAIN)
		log_error("cannot wake the background thread: errno %d", errno);
}

void background_stop(struct vm_memory *mem)
{
	struct background *background = &mem->background;

	if (!background->runs)
		return;
	atomic_store(&background->stop, true);
	background_kick(mem);
	pthread_join(background->thread, NULL);
	background->runs = false;
}

void background_destroy(struct vm_memory *mem)
{
	background_stop(mem);
	if (mem->background.kick_fd >= 0)
		close(mem->background.kick_fd);
	mem->background.kick_fd = -1;
}
