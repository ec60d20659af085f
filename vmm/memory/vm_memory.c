/* SPDX-License-Identifier: MIT */
/* A guest's memory as one object: set-up, end, numbers. */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "framevisor/log.h"
#include "vmm/memory/internal.h"

/* Without a userfaultfd no touch can be caught, so every frame has to be there before the first. */
static int populate(struct vm_memory *mem, struct error *err)
{
	int ret;

	log_warn("no userfaultfd that serves KVM (needs root, CAP_SYS_PTRACE or access to "
		 "/dev/userfaultfd): all guest memory is taken now and stays with the guest");
	ret = takeaway_back(mem, 0, mem->nr_frames);
	if (ret)
		return error_set(err, -ret,
				 "the pool has only %llu of the guest's %u frames (2 MiB)",
				 (unsigned long long)mem->stats.bound, mem->nr_frames);
	return 0;
}

static int serve_on_demand(struct vm_memory *mem, struct error *err)
{
	if (mem->remap) {
		mem->guest.frame_ops = &takeaway_frame_ops;
		mem->guest.frame_opaque = mem;
	} else {
		log_warn("this kernel's userfaultfd does not follow mremap: frames that the guest "
			 "gives up stay with it");
	}
	/* Frames at hand for the first touches; whether the pool has any is known soon enough. */
	stock_refill(mem, 0);
	return fault_start(mem, err);
}

struct vm_memory *vm_memory_create(const struct vm_memory_config *config, struct error *err)
{
	struct vm_memory *mem = calloc(1, sizeof(*mem));

	if (!mem) {
		error_set(err, ENOMEM, "no memory for the guest memory map");
		return NULL;
	}
	mem->client = config->client;
	mem->hugetlb = owner_client_hugetlb(config->client);
	mem->hole_fd = -1;
	mem->kick_fd = -1;
	mem->stock.refill_fd = -1;
	mem->waiting_head = NO_FRAME;
	mem->waiting_tail = NO_FRAME;
	pthread_mutex_init(&mem->take_lock, NULL);
	pthread_mutex_init(&mem->refill_lock, NULL);
	pthread_mutex_init(&mem->lock, NULL);

	uffd_open(mem);
	if (window_create(mem, config, err) || stock_create(mem, config->loop, err) ||
	    (mem->uffd < 0 ? populate(mem, err) : serve_on_demand(mem, err))) {
		vm_memory_destroy(mem);
		return NULL;
	}
	mem->stats.ram = mem->nr_frames;
	return mem;
}

void vm_memory_destroy(struct vm_memory *mem)
{
	if (!mem)
		return;
	/* Nobody touches the window any more, so no fault can be left without an answer. The
	 * frames go back only after they are unmapped here. */
	fault_stop(mem);
	window_destroy(mem);
	if (mem->uffd >= 0)
		close(mem->uffd);
	stock_destroy(mem);
	if (mem->frames)
		takeaway_return_all(mem);
	free(mem->frames);
	pthread_mutex_destroy(&mem->lock);
	pthread_mutex_destroy(&mem->refill_lock);
	pthread_mutex_destroy(&mem->take_lock);
	free(mem);
}

struct guest_memory *vm_memory_guest(struct vm_memory *mem)
{
	return &mem->guest;
}

void vm_memory_stats(struct vm_memory *mem, struct vm_memory_stats *stats)
{
	pthread_mutex_lock(&mem->lock);
	*stats = mem->stats;
	stats->stock = mem->stock.nr_frames;
	pthread_mutex_unlock(&mem->lock);
}
