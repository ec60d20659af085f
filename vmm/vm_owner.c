/* SPDX-License-Identifier: MIT */
/* What a VM does when the pool owner asks: see vm_owner.h. */
#include "vmm/vm_owner.h"

#include <errno.h>
#include <linux/virtio_balloon.h>
#include <stdlib.h>

#include "framevisor/frame.h"
#include "framevisor/log.h"
#include "vmm/mem_devices.h"
#include "vmm/owner_channel.h"
#include "vmm/vm_internal.h"

struct vm_owner {
	struct owner_channel *channel;
	uint64_t tax_frames;
	bool paused;   /* by the owner, and nobody has let it go on since */
	bool sampling; /* for idle frames, because the owner wants to know */

	/* A RECLAIM by hints that is under way; 0: none. */
	uint64_t hint_id;
	uint64_t hinted_before;
};

static int reclaim_stock(struct vm *vm, uint64_t *frames)
{
	struct vm_memory_stats before, after;

	vm_memory_stats(vm->memory, &before);
	vm_memory_reclaim_stock(vm->memory);
	vm_memory_stats(vm->memory, &after);
	*frames = before.stock > after.stock ? before.stock - after.stock : 0;
	return 0;
}

static int reclaim_hint(struct vm *vm, uint64_t id)
{
	struct virtio_balloon_stats stats;
	struct error err = { 0 };
	int ret;

	if (vm->owner->hint_id)
		return -EBUSY;
	virtio_balloon_stats(vm->devices.balloon, &stats);
	/* What it reports by itself is all that it would hint at; and for a hint it allocates all
	 * its free memory for a while, and clears it: that takes frames, where there are none. */
	if (stats.accepted >> VIRTIO_BALLOON_F_REPORTING & 1)
		return -EOPNOTSUPP;
	ret = virtio_balloon_start_hint(vm->devices.balloon, &err);
	if (ret < 0)
		return ret;
	vm->owner->hint_id = id;
	vm->owner->hinted_before = stats.frames_hinted;
	return -EINPROGRESS;
}

static int on_reclaim(void *opaque, const struct notice_reclaim *reclaim, uint64_t *frames)
{
	struct vm *vm = opaque;

	switch (reclaim->kind) {
	case NOTICE_RECLAIM_STOCK:
		return reclaim_stock(vm, frames);
	case NOTICE_RECLAIM_HINT:
		return reclaim_hint(vm, reclaim->id);
	case NOTICE_RECLAIM_SWAP_OUT: /* they come back one by one after this */
		return vm_memory_swap_out(vm->memory, reclaim->nr_frames);
	default:
		return -EOPNOTSUPP;
	}
}

static int on_target(void *opaque, const struct notice_target *target, uint64_t *frames)
{
	struct vm *vm = opaque;

	vm->owner->tax_frames = target->tax_frames;
	target_set_tax(vm->target, frames_to_bytes(target->tax_frames));
	*frames = target->tax_frames;
	return 0;
}

static int on_move(void *opaque, const struct notice_move *move, uint64_t *frames)
{
	struct vm *vm = opaque;
	struct vm_memory_move what = {
		.from = move->runs,
		.nr_from = move->nr_runs,
		.nodemask = move->nodemask,
	};
	struct error err = { 0 };
	int64_t moved = vm_memory_move_frames(vm->memory, &what, &err);

	if (moved < 0) {
		log_warn("%s: cannot move frames as the pool asks: %s", vm->config.name,
			 err.message);
		return (int)moved;
	}
	*frames = (uint64_t)moved;
	return 0;
}

/* A vCPU that waits for a frame counts as stopped: it parks as soon as it has one. So this is for
 * one that is busy outside its guest. */
#define PAUSE_MS 500

static int on_pause(void *opaque, const struct notice_pause *pause, uint64_t *frames)
{
	struct vm *vm = opaque;
	int ret;

	(void)frames;
	if (vm->state != VM_STATE_RUNNING)
		return 0; /* it takes nothing as it is, and RESUME is not to start it */
	log_warn("%s: the pool has no memory left (%llu of its frames are free): paused until it "
		 "has",
		 vm->config.name, (unsigned long long)pause->free);
	ret = vm_pause_within(vm, PAUSE_MS);
	vm->owner->paused = ret == 0;
	return ret;
}

static int on_resume(void *opaque, const struct notice_resume *resume, uint64_t *frames)
{
	struct vm *vm = opaque;
	struct error err = { 0 };

	(void)resume;
	(void)frames;
	if (!vm->owner->paused)
		return 0;
	log_info("%s: the pool has memory again: it goes on", vm->config.name);
	return vm_resume(vm, &err);
}

static int on_limit(void *opaque, const struct notice_limit *limit, uint64_t *frames)
{
	struct vm *vm = opaque;

	(void)frames;
	log_info("%s: guaranteed %llu frames, at most %llu, %u shares", vm->config.name,
		 (unsigned long long)limit->min, (unsigned long long)limit->max, limit->shares);
	return 0;
}

void vm_owner_grown(struct vm *vm)
{
	mem_devices_pool_moved(vm);
	target_pool_moved(vm->target);
	/* A driver that asked for a block too early waits for a word. */
	for (unsigned int i = 0; i < vm->devices.nr_mem; i++)
		virtio_mem_ask_again(vm->devices.mem[i]);
}

static int on_grown(void *opaque)
{
	vm_owner_grown(opaque);
	return 0;
}

/* Above that the owner only wants to know; below it decides by what guests have available. */
#define PACE_POLICY_MS 2000

static void on_pace(void *opaque, const struct notice_ask *ask)
{
	struct vm *vm = opaque;
	bool policy = ask->interval_ms && ask->interval_ms <= PACE_POLICY_MS;
	bool sample = (ask->flags & NOTICE_ASK_IDLE) != 0;

	target_poll_for_owner(vm->target, policy ? 1 : 0);
	if (sample != vm->owner->sampling)
		vm_memory_set_sampling(vm->memory, sample);
	vm->owner->sampling = sample;
}

static void add_memory(const struct vm *vm, struct notice_status *status)
{
	struct vm_memory_stats stats;

	vm_memory_stats(vm->memory, &stats);
	status->ram = stats.ram;
	status->plugged = stats.plugged;
	status->bound = stats.bound;
	status->stock = stats.stock_spare;
	status->swapped = stats.swapped;
	status->swap_in = stats.swap_in;
	status->swap_out = stats.swap_out;
	status->faults = stats.faults;
	status->waits = stats.waits;
	status->stall_some_us = stats.stall_ns / 1000;
	status->wait_max_us = stats.stall_max_ns / 1000;
	/* With one vCPU nothing else runs while it waits. */
	if (vm->config.cpus == 1)
		status->stall_full_us = status->stall_some_us;
	status->balloon_in = stats.given_up;
	status->balloon_out = stats.given_up - stats.released;
}

static void add_guest(const struct vm *vm, struct notice_status *status)
{
	const uint32_t needed = 1u << BALLOON_STAT_TOTAL | 1u << BALLOON_STAT_AVAILABLE;
	struct virtio_balloon_guest_stats stats;

	virtio_balloon_guest_stats(vm->devices.balloon, &stats);
	if ((stats.valid & needed) != needed)
		return;
	status->flags |= NOTICE_STATUS_AVAILABLE;
	/* A guest may say what it likes; more than it has does not help it. */
	status->guest_total = bytes_to_frames(stats.values[BALLOON_STAT_TOTAL]);
	if (status->guest_total > status->max)
		status->guest_total = status->max;
	status->available = bytes_to_frames(stats.values[BALLOON_STAT_AVAILABLE]);
	if (status->available > status->guest_total)
		status->available = status->guest_total;
	status->stats_age_ms = stats.age_ms < NOTICE_AGE_MAX_MS ? stats.age_ms : NOTICE_AGE_MAX_MS;
}

/* Idle is what nobody has touched for so long. It is known of all frames when each was sampled once
 * and could be as old since. */
#define IDLE_AGE 1 /* of vm_memory_idle_ages[] */

static void add_idle(const struct vm *vm, struct notice_status *status)
{
	struct vm_memory_idle idle;
	uint64_t all;

	if (!vm->owner->sampling)
		return;
	vm_memory_idle(vm->memory, &idle);
	all = idle.active + idle.inactive;
	if (!all || idle.complete_ms < vm_memory_idle_ages[IDLE_AGE])
		return;
	status->flags |= NOTICE_STATUS_IDLE;
	status->idle_permille = (uint32_t)(idle.idle[IDLE_AGE] * 1000 / all);
}

static void on_status(void *opaque, struct notice_status *status)
{
	struct vm *vm = opaque;
	struct target_info info;

	vm_size_info(vm, &info);
	status->max = bytes_to_frames(info.max);
	status->target = bytes_to_frames_up(info.size);
	status->tax = vm->owner->tax_frames;
	status->flags =
		(vm->state == VM_STATE_RUNNING ? NOTICE_STATUS_RUNNING : 0) |
		(info.state == TARGET_REACHED || info.state == TARGET_TAXED ? NOTICE_STATUS_REACHED
									    : 0) |
		(info.state == TARGET_COMPACTING ? NOTICE_STATUS_COMPACTS : 0) |
		(vm_memory_starves(vm->memory) ? NOTICE_STATUS_WAITS : 0) |
		(vm->owner->paused ? NOTICE_STATUS_PAUSED : 0);
	add_memory(vm, status);
	add_guest(vm, status);
	add_idle(vm, status);
}

static const struct owner_channel_ops ops = {
	.reclaim = on_reclaim,
	.target = on_target,
	.move = on_move,
	.pause = on_pause,
	.resume = on_resume,
	.limit = on_limit,
	.grown = on_grown,
	.pace = on_pace,
	.status = on_status,
};

void vm_owner_balloon_changed(struct vm *vm)
{
	struct virtio_balloon_stats stats;
	uint64_t id;

	if (!vm->owner || !vm->owner->hint_id)
		return;
	virtio_balloon_stats(vm->devices.balloon, &stats);
	if (stats.hinting)
		return;
	id = vm->owner->hint_id;
	vm->owner->hint_id = 0;
	owner_channel_done(vm->owner->channel, id, 0,
			   stats.frames_hinted - vm->owner->hinted_before);
}

void vm_owner_state_changed(struct vm *vm)
{
	if (!vm->owner)
		return;
	vm->owner->paused = false;
	owner_channel_report(vm->owner->channel);
}

int vm_owner_create(struct vm *vm, struct error *err)
{
	int ret;

	vm->owner = calloc(1, sizeof(*vm->owner));
	if (!vm->owner)
		return error_set(err, ENOMEM, "out of memory");
	vm->owner->channel =
		owner_channel_create(vm->loop, owner_client_limits(vm->client), &ops, vm, err);
	if (!vm->owner->channel)
		return -EINVAL;
	ret = owner_channel_attach(vm->owner->channel, owner_client_notice_fd(vm->client));
	return ret < 0 ? error_set_errno(err, -ret, "cannot watch the notice channel") : 0;
}

int vm_owner_attach(struct vm *vm, int fd)
{
	return vm->owner ? owner_channel_attach(vm->owner->channel, fd) : 0;
}

void vm_owner_destroy(struct vm *vm)
{
	if (!vm->owner)
		return;
	owner_channel_destroy(vm->owner->channel);
	free(vm->owner);
	vm->owner = NULL;
}
