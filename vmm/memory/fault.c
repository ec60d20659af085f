/* SPDX-License-Identifier: MIT */
/*
 * The fault thread: answers each first touch of a guest frame with a zeroed frame of the pool.
 *
 * It must never wait for something that may wait for it: it touches no guest memory, allocates
 * nothing, and takes no lock that is held across mremap or an access to the window. A fault that
 * cannot be answered now (the frame is being taken away, an mremap is under way, the pool is empty)
 * goes to the waiting list, which is looked at again after a kick or after some time; the thread
 * that touched stays blocked in the kernel meanwhile.
 */
#include <errno.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "framevisor/log.h"
#include "vmm/memory/internal.h"

#define EVENTS_PER_READ 64

/* How long the waiting list is left alone without a kick. */
#define RETRY_MS_MIN 2
#define RETRY_MS_MAX 100

/* Appends to the waiting list. Lock held. */
static void wait_for(struct vm_memory *mem, uint32_t number)
{
	struct guest_frame *frame = &mem->frames[number];

	if (frame->flags & GUEST_FRAME_WAITING)
		return;
	frame->flags |= GUEST_FRAME_WAITING;
	frame->next_waiting = NO_FRAME;
	if (mem->waiting_head == NO_FRAME)
		mem->waiting_head = number;
	else
		mem->frames[mem->waiting_tail].next_waiting = number;
	mem->waiting_tail = number;
}

/* The pool has nothing for this frame now. Lock held. */
static void wait_for_pool(struct vm_memory *mem, uint32_t number, int reason)
{
	struct guest_frame *frame = &mem->frames[number];

	if (!(frame->flags & GUEST_FRAME_STARVED)) {
		frame->flags |= GUEST_FRAME_STARVED;
		mem->stats.waits++;
	}
	wait_for(mem, number);
	if (atomic_exchange(&mem->said_empty, true))
		return;
	if (reason == -ENOMEM)
		log_warn("the pool is empty: the guest waits until frames are free");
	else
		log_warn("no frames can be had from the pool (%s): the guest waits",
			 strerror(-reason));
}

/* Binds one stock frame to a hole. Lock held. Returns 0, -ENODATA (stock empty) or an error. */
static int bind_from_stock(struct vm_memory *mem, uint32_t number)
{
	struct guest_frame *frame = &mem->frames[number];
	bool was_released = frame->flags & GUEST_FRAME_RELEASED;
	struct frame_run run;
	int ret;

	if (stock_take(mem, 1, &run) == 0)
		return -ENODATA;
	ret = window_bind(mem, number, &run);
	if (ret) {
		stock_put(mem, &run);
		return ret;
	}
	mem->stats.faults++;
	mem->stats.touched_released += was_released;
	frame->flags &= (uint8_t)~GUEST_FRAME_STARVED;
	atomic_store(&mem->said_empty, false);
	return 0;
}

/* Answers a fault on a frame, or puts it on the waiting list. */
static void serve(struct vm_memory *mem, uint32_t number)
{
	struct guest_frame *frame = &mem->frames[number];
	int ret;

	pthread_mutex_lock(&mem->lock);
	while (frame->state == FRAME_HOLE) {
		ret = bind_from_stock(mem, number);
		if (ret == -ENODATA) {
			pthread_mutex_unlock(&mem->lock);
			ret = stock_refill(mem, 0);
			pthread_mutex_lock(&mem->lock);
			/* The lock was open: the frame may be bound by now, the stock filled. */
			if (mem->stock.nr_frames > 0)
				continue;
		}
		if (ret && frame->state == FRAME_HOLE) {
			wait_for_pool(mem, number, ret);
			break;
		}
		if (frame->state == FRAME_HOLE) { /* what came was used by somebody else */
			wait_for(mem, number);
			break;
		}
	}
	if (frame->state == FRAME_TAKING) {
		wait_for(mem, number);
	} else if (frame->state == FRAME_BOUND) {
		frame->flags &= (uint8_t)~GUEST_FRAME_STARVED;
		if (window_continue(mem, number, 1) == -EAGAIN)
			wait_for(mem, number);
	}
	pthread_mutex_unlock(&mem->lock);
}

/* Tries each waiting frame once; those that still cannot be served queue up again. */
static void serve_waiting(struct vm_memory *mem)
{
	uint32_t number, next;

	pthread_mutex_lock(&mem->lock);
	number = mem->waiting_head;
	mem->waiting_head = NO_FRAME;
	pthread_mutex_unlock(&mem->lock);

	for (; number != NO_FRAME; number = next) {
		pthread_mutex_lock(&mem->lock);
		next = mem->frames[number].next_waiting;
		mem->frames[number].flags &= (uint8_t)~GUEST_FRAME_WAITING;
		pthread_mutex_unlock(&mem->lock);
		serve(mem, number);
	}
}

/* Reads events until there are none. Returns false if the descriptor is broken. */
static bool read_events(struct vm_memory *mem)
{
	struct uffd_msg msgs[EVENTS_PER_READ];

	for (;;) {
		ssize_t len = read(mem->uffd, msgs, sizeof(msgs));

		if (len < 0 && errno == EINTR)
			continue;
		if (len < 0)
			return errno == EAGAIN;
		for (unsigned int i = 0; i < (size_t)len / sizeof(msgs[0]); i++) {
			uint32_t number;

			/* UFFD_EVENT_REMAP: having read it is all that mremap waits for. */
			if (msgs[i].event != UFFD_EVENT_PAGEFAULT)
				continue;
			number = window_frame_at(mem, msgs[i].arg.pagefault.address);
			if (number != NO_FRAME)
				serve(mem, number);
		}
		if ((size_t)len < sizeof(msgs))
			return true;
	}
}

static void *fault_thread(void *opaque)
{
	struct vm_memory *mem = opaque;
	struct pollfd fds[2] = {
		{ .fd = mem->uffd, .events = POLLIN },
		{ .fd = mem->kick_fd, .events = POLLIN },
	};
	int delay = RETRY_MS_MIN;

	while (!atomic_load(&mem->stop)) {
		bool waiting;
		uint64_t count;
		int ret;

		pthread_mutex_lock(&mem->lock);
		waiting = mem->waiting_head != NO_FRAME;
		pthread_mutex_unlock(&mem->lock);
		if (!waiting)
			delay = RETRY_MS_MIN;
		ret = poll(fds, 2, waiting ? delay : -1);
		if (ret < 0 && errno != EINTR)
			break;
		if (ret > 0 && (fds[1].revents & POLLIN) &&
		    read(mem->kick_fd, &count, sizeof(count)) == sizeof(count))
			delay = RETRY_MS_MIN;
		if (ret > 0 && fds[0].revents && !read_events(mem))
			break;
		/* Not after every event: a list that waits for the pool would ask it each time. */
		if (ret == 0 || (ret > 0 && fds[1].revents)) {
			serve_waiting(mem);
			if (ret == 0 && delay < RETRY_MS_MAX)
				delay *= 2;
		}
	}
	if (!atomic_load(&mem->stop))
		log_error("the fault thread ended: errno %d; guest memory is served no more",
			  errno);
	return NULL;
}

int fault_start(struct vm_memory *mem, struct error *err)
{
	sigset_t all, old;
	int ret;

	mem->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (mem->kick_fd < 0)
		return error_set_errno(err, errno, "cannot create an eventfd for the fault thread");
	/* Signals belong to the threads that expect them. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = pthread_create(&mem->fault_thread, NULL, fault_thread, mem);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (ret)
		return error_set_errno(err, ret, "cannot create the fault thread");
	pthread_setname_np(mem->fault_thread, "fault");
	mem->fault_thread_runs = true;
	return 0;
}

static void kick(const struct vm_memory *mem)
{
	uint64_t one = 1;

	/* The counter cannot reach its limit: that would take 2^64 kicks that nobody read. */
	if (write(mem->kick_fd, &one, sizeof(one)) < 0 && errno != EAGAIN)
		log_error("cannot wake the fault thread: errno %d", errno);
}

void fault_kick(struct vm_memory *mem)
{
	bool waiting;

	if (!mem->fault_thread_runs)
		return;
	pthread_mutex_lock(&mem->lock);
	waiting = mem->waiting_head != NO_FRAME;
	pthread_mutex_unlock(&mem->lock);
	if (waiting)
		kick(mem);
}

void fault_stop(struct vm_memory *mem)
{
	if (mem->fault_thread_runs) {
		atomic_store(&mem->stop, true);
		kick(mem);
		pthread_join(mem->fault_thread, NULL);
		mem->fault_thread_runs = false;
	}
	if (mem->kick_fd >= 0)
		close(mem->kick_fd);
	mem->kick_fd = -1;
}
