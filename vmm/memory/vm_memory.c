/* SPDX-License-Identifier: MIT */
/* A guest's memory as one object: set-up, end, numbers. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "framevisor/log.h"
#include "vmm/memory/swap.h"

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
static int populate(struct vm_memory *mem, const struct vm_memory_config *config, struct error *err)
{
	int ret;

	log_warn("no userfaultfd that serves KVM (needs root, CAP_SYS_PTRACE or access to "
		 "/dev/userfaultfd): all guest memory is taken now and stays with the guest");
	ret = check_hotplug(mem, err);
	if (ret == 0)
		ret = swap_create(mem, config, err); /* refuses */
	return ret ? ret : vm_memory_prealloc(mem, NULL, NULL, err);
}

static int serve_on_demand(struct vm_memory *mem, const struct vm_memory_config *config,
			   struct error *err)
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
	for (unsigned int i = 0; i < mem->stocks.nr; i++) {
		struct stock *stock = &mem->stocks.stock[i];

		stock->refill_due = true;
		stock_fill(mem, stock, STOCK_RESERVE + stock->batch, STOCK_BATCH_MAX);
	}
	stock_wake_loop(mem);
	ret = swap_create(mem, config, err);
	return ret ? ret : fault_start(mem, err);
}

/* Who tells a new owner of all frames comes before the next one that has some in hand. */
static void init_hand_lock(struct vm_memory *mem)
{
	pthread_rwlockattr_t attr;

	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&mem->hand_lock, &attr);
	pthread_rwlockattr_destroy(&attr);
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
	mem->background.kick_fd = -1;
	mem->vm_fd = -1;
	mem->stocks.loop_fd = -1;
	mem->event = config->event;
	mem->event_opaque = config->event_opaque;
	mem->first_limit = owner_client_limit(config->client);
	mem->waiting_head = NO_FRAME;
	mem->waiting_tail = NO_FRAME;
	frame_lru_init(mem);
	init_hand_lock(mem);
	pthread_mutex_init(&mem->take_lock, NULL);
	pthread_mutex_init(&mem->refill_lock, NULL);
	pthread_mutex_init(&mem->lock, NULL);
	pthread_mutex_init(&mem->view_lock, NULL);

	uffd_open(mem);
	if (window_create(mem, config, err) || stock_create(mem, config, err) ||
	    slots_create(mem, err) || stock_start(mem, config->loop, err) ||
	    (mem->uffd < 0 ? populate(mem, config, err) : serve_on_demand(mem, config, err))) {
		vm_memory_destroy(mem);
		return NULL;
	}
	return mem;
}

void vm_memory_end_waits(struct vm_memory *mem)
{
	/* Who takes frames away waits for the fault thread to read of it, and who swaps in would
	 * register frames again. */
	move_job_destroy(mem);
	background_stop(mem);
	swap_in_stop(mem);
	/* Nor does a vCPU that is late with what its balloon gave up. */
	take_lock(mem);
	mem->ended = true;
	take_unlock(mem);
	fault_stop(mem);
	if (mem->uffd < 0)
		return;
	take_lock(mem);
	window_fill_holes(mem);
	take_unlock(mem);
	for (unsigned int i = 0; i < mem->nr_ranges; i++) {
		uint64_t len = frames_to_bytes(mem->ranges[i].nr_frames);

		uffd_unregister(mem->uffd, mem->ranges[i].hva, len);
		/* Where nothing is registered any more, that wakes nobody. */
		uffd_wake(mem->uffd, mem->ranges[i].hva, len);
	}
}

void vm_memory_destroy(struct vm_memory *mem)
{
	if (!mem)
		return;
	move_job_destroy(mem);
	background_stop(mem);
	swap_in_stop(mem);
	/* Nobody touches the window any more, so no fault can be left without an answer; but the
	 * fault thread may still try one. The frames go back only after they are unmapped here. */
	fault_stop(mem);
	swap_destroy(mem);
	background_destroy(mem);
	window_destroy(mem);
	if (mem->uffd >= 0)
		close(mem->uffd);
	if (mem->frames)
		takeaway_return_all(mem);
	stock_unbind(mem);
	stock_destroy(mem);
	/* Refused or not heard, it ends with the connection. */
	if (owner_client_limit(mem->client) > mem->first_limit)
		owner_client_resize(mem->client, mem->first_limit, NULL);
	free(mem->frames);
	free(mem->slots);
	pthread_mutex_destroy(&mem->lock);
	pthread_mutex_destroy(&mem->view_lock);
	pthread_mutex_destroy(&mem->refill_lock);
	pthread_mutex_destroy(&mem->take_lock);
	pthread_rwlock_destroy(&mem->hand_lock);
	free(mem);
}

struct guest_memory *vm_memory_guest(struct vm_memory *mem)
{
	return &mem->guest;
}

struct owner_client *vm_memory_client(struct vm_memory *mem)
{
	return mem->client;
}

void vm_memory_stats(struct vm_memory *mem, struct vm_memory_stats *stats)
{
	pthread_mutex_lock(&mem->lock);
	*stats = mem->stats;
	fault_count_stall(mem, stats);
	stats->stock = stock_frames(mem);
	stats->stock_spare = stock_spare(mem);
	pthread_mutex_unlock(&mem->lock);
	swap_stats(mem, stats);
}

/* The record of a guest node, a new one in its place if need be; NULL: no room. */
static struct vm_memory_node *find_node(struct vm_memory_node *nodes, unsigned int *nr,
					unsigned int max, uint16_t node)
{
	unsigned int i = 0;

	while (i < *nr && nodes[i].node < node)
		i++;
	if (i < *nr && nodes[i].node == node)
		return &nodes[i];
	if (*nr == max)
		return NULL;
	memmove(&nodes[i + 1], &nodes[i], (*nr - i) * sizeof(*nodes));
	(*nr)++;
	nodes[i] = (struct vm_memory_node){ .node = node };
	return &nodes[i];
}

unsigned int vm_memory_nodes(struct vm_memory *mem, struct vm_memory_node *nodes, unsigned int max)
{
	unsigned int nr = 0;

	pthread_mutex_lock(&mem->lock);
	for (unsigned int i = 0; i < mem->nr_ranges; i++) {
		const struct window_range *range = &mem->ranges[i];
		struct vm_memory_node *node = find_node(nodes, &nr, max, range->node);

		if (!node)
			break;
		if (range->first < mem->nr_boot_frames)
			node->ram += range->nr_frames;
		else
			node->plugged += range->usable;
		for (unsigned int nid = 0; nid < OWNER_NODES_MAX; nid++)
			node->bound[nid] += range->bound[nid];
	}
	pthread_mutex_unlock(&mem->lock);
	return nr;
}

const void *vm_memory_range_address(struct vm_memory *mem, unsigned int i, uint64_t *gpa,
				    uint64_t *size)
{
	if (i >= mem->nr_ranges)
		return NULL;
	*gpa = mem->ranges[i].gpa;
	*size = frames_to_bytes(mem->ranges[i].nr_frames);
	return mem->ranges[i].hva;
}
