/* SPDX-License-Identifier: MIT */
/* A guest's memory as one object: set-up, end, numbers. */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "framevisor/log.h"
#include "vmm/memory/internal.h"

/* Memory that cannot be taken away cannot be unplugged. */
static int check_hotplug(const struct vm_memory *mem, struct error *err)
{
	if (mem->nr_slots == 0)
		return 0;
	return error_set(err, ENOTSUP,
			 "memory that can be plugged and unplugged needs a userfaultfd that serves "
			 "KVM and follows mremap (root, CAP_SYS_PTRACE or access to "
			 "/dev/userfaultfd)");
}

/* Without a userfaultfd no touch can be caught, so every frame has to be there before the first. */
static int populate(struct vm_memory *mem, struct error *err)
{
	int ret;

	log_warn("no userfaultfd that serves KVM (needs root, CAP_SYS_PTRACE or access to "
		 "/dev/userfaultfd): all guest memory is taken now and stays with the guest");
	ret = check_hotplug(mem, err);
	return ret ? ret : vm_memory_prealloc(mem, NULL, NULL, err);
}

static int serve_on_demand(struct vm_memory *mem, struct error *err)
{
	int ret = mem->remap ? 0 : check_hotplug(mem, err);

	if (ret)
		return ret;
	if (mem->remap) {
		mem->guest.frame_ops = &takeaway_frame_ops;
		mem->guest.frame_opaque = mem;
	} else {
		log_warn("this kernel's userfaultfd does not follow mremap: frames that the guest "
			 "gives up stay with it");
	}
	/* Frames at hand for the first touches; whether the pool has any is known soon enough. */
	mem->stock.refill_due = true;
	stock_fill(mem, STOCK_RESERVE + mem->stock.batch, STOCK_BATCH_MAX);
	stock_wake_loop(mem);
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
	mem->vm_fd = -1;
	mem->stock.loop_fd = -1;
	mem->event = config->event;
	mem->event_opaque = config->event_opaque;
	mem->first_limit = owner_client_limit(config->client);
	mem->waiting_head = NO_FRAME;
	mem->waiting_tail = NO_FRAME;
	pthread_mutex_init(&mem->take_lock, NULL);
	pthread_mutex_init(&mem->refill_lock, NULL);
	pthread_mutex_init(&mem->lock, NULL);

	uffd_open(mem);
	if (window_create(mem, config, err) || slots_create(mem, err) ||
	    stock_create(mem, config->loop, err) ||
	    (mem->uffd < 0 ? populate(mem, err) : serve_on_demand(mem, err))) {
		vm_memory_destroy(mem);
		return NULL;
	}
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
	/* Refused or not heard, it ends with the connection. */
	if (owner_client_limit(mem->client) > mem->first_limit)
		owner_client_resize(mem->client, mem->first_limit, NULL);
	free(mem->frames);
	free(mem->slots);
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
