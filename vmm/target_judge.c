/* SPDX-License-Identifier: MIT */
/* How far a guest is on the way to its target, and why no further: see target.h. No device is
 * touched. */
#include <errno.h>

#include "vmm/target.h"

const char *const target_state_names[TARGET_STATES] = {
	[TARGET_REACHED] = "reached",
	[TARGET_MOVING] = "moving",
	[TARGET_PAUSED] = "paused",
	[TARGET_NO_BALLOON] = "no-balloon-driver",
	[TARGET_NO_MEM] = "no-virtio-mem-driver",
	[TARGET_BALLOON_BROKEN] = "balloon-broken",
	[TARGET_MEM_BROKEN] = "virtio-mem-broken",
	[TARGET_POOL] = "pool-full",
	[TARGET_AVAILABLE] = "guest-needs-memory",
	[TARGET_UNMOVABLE] = "guest-unmovable",
	[TARGET_SILENT] = "guest-silent",
	[TARGET_BUSY] = "guest-busy",
	[TARGET_TAXED] = "taxed",
	[TARGET_GROWING] = "pool-grows",
	[TARGET_COMPACTING] = "compacting",
};

const char *const target_state_texts[TARGET_STATES] = {
	[TARGET_REACHED] = "the guest is there",
	[TARGET_MOVING] = "the guest is on its way",
	[TARGET_PAUSED] = "the VM does not run",
	[TARGET_NO_BALLOON] = "the guest has no balloon driver loaded (Linux: virtio_balloon)",
	[TARGET_NO_MEM] = "the guest has no driver for hot-plug memory loaded (Linux: virtio_mem)",
	[TARGET_BALLOON_BROKEN] = "the balloon is out of order: its guest broke the protocol",
	[TARGET_MEM_BROKEN] = "virtio-mem is out of order: its guest broke the protocol",
	[TARGET_POOL] = "the pool has no more memory for it",
	[TARGET_AVAILABLE] = "the guest needs the rest: it has nothing more available",
	[TARGET_UNMOVABLE] =
		("the guest cannot move what is in its hot-plug memory (kernel data, pinned "
		 "pages), and no balloon stands in for it; load a balloon driver, or reboot the "
		 "guest"),
	[TARGET_SILENT] = "the guest does not respond; look at its console",
	[TARGET_BUSY] = "the guest is busy: it has the memory but does not get further now",
	[TARGET_TAXED] = "the pool is short of memory: the guest does without the rest for now",
	[TARGET_GROWING] = "the pool grows for it",
	[TARGET_COMPACTING] = "the guest moves its memory together, so that whole frames come back",
};

bool target_is_stopped(enum target_state state)
{
	return state == TARGET_AVAILABLE || state == TARGET_UNMOVABLE || state == TARGET_SILENT ||
	       state == TARGET_BUSY;
}

static uint64_t less(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

/* So little that the balloon would leave it to the guest. */
static bool out_of_memory(const struct target_parts *parts)
{
	return parts->guest.tells &&
	       parts->guest.available < target_margin(parts) + TARGET_STEP_MIN;
}

/* It leaves a question about its statistics unanswered; or, having none, what it was told. */
static bool silent(const struct target_parts *parts, uint64_t ignores_ms)
{
	if (parts->guest.unanswered_ms >= TARGET_SILENT_MS)
		return true;
	return !parts->guest.tells && ignores_ms >= TARGET_SILENT_MAX_MS;
}

/* Shrinking and growing: blocks that do not move although their driver is there. */
static enum target_state judge_stalled(const struct target_parts *parts, enum target_state in_vain)
{
	if (parts->starves)
		return TARGET_POOL;
	if (silent(parts, parts->mem.unread_ms))
		return TARGET_SILENT;
	if (out_of_memory(parts))
		return TARGET_AVAILABLE;
	/* A driver that has not read what it was told is still at what it was told before. */
	return parts->in_vain && !parts->mem.unread_ms ? in_vain : TARGET_BUSY;
}

enum target_state target_judge_blocks(const struct target_parts *parts)
{
	if (parts->mem.broken)
		return TARGET_MEM_BROKEN;
	if (!parts->mem.driver_ready)
		return TARGET_NO_MEM;
	return judge_stalled(parts, TARGET_UNMOVABLE);
}

static enum target_state judge_plug(const struct target_parts *parts)
{
	if (parts->mem.broken)
		return TARGET_MEM_BROKEN;
	if (!parts->mem.driver_ready)
		return TARGET_NO_MEM;
	if (parts->mem.last_error == -ENOMEM)
		return TARGET_POOL;
	/* It has got what there is. */
	if (parts->mem.plugged >= parts->mem.requested || parts->mem.last_error == -EINPROGRESS)
		if (less(parts->size, parts->boot) > parts->promised)
			return parts->pool_grows ? TARGET_GROWING : TARGET_POOL;
	if (parts->mem.idle_ms < parts->mem_stall_ms)
		return TARGET_MOVING;
	return judge_stalled(parts, TARGET_BUSY);
}

/* A balloon that is to give back: the guest has nothing to find for that. */
static enum target_state judge_deflate(const struct target_parts *parts)
{
	if (parts->balloon_idle_ms < TARGET_STALL_MS)
		return TARGET_MOVING;
	if (parts->starves)
		return TARGET_POOL;
	return silent(parts, parts->balloon.quiet_ms) ? TARGET_SILENT : TARGET_BUSY;
}

static enum target_state judge_inflate(const struct target_parts *parts)
{
	if (parts->balloon_idle_ms < TARGET_STALL_MS)
		return TARGET_MOVING;
	if (parts->starves)
		return TARGET_POOL;
	if (silent(parts, parts->balloon.quiet_ms))
		return TARGET_SILENT;
	/* It has what it was told: it was told no more because the guest needs the rest. */
	if (parts->balloon.actual >= parts->balloon.target || out_of_memory(parts))
		return TARGET_AVAILABLE;
	/* A guest that does not tell, and whose driver tries all the time, finds no page. */
	if (!parts->guest.tells && parts->balloon.quiet_ms < TARGET_STALL_MS)
		return TARGET_AVAILABLE;
	return target_stuck(parts) && !parts->mem.unread_ms ? TARGET_UNMOVABLE : TARGET_BUSY;
}

static enum target_state judge_shrink(const struct target_parts *parts)
{
	if (parts->balloon.broken)
		return TARGET_BALLOON_BROKEN;
	if (parts->balloon.driver_ready)
		return judge_inflate(parts);
	/* Blocks alone could do it. */
	return parts->size >= parts->boot && target_mem_excess(parts) ? target_judge_blocks(parts)
								      : TARGET_NO_BALLOON;
}

enum target_state target_judge(const struct target_parts *parts)
{
	uint64_t actual = target_actual(parts);

	if (parts->compacting)
		return TARGET_COMPACTING;
	if (actual == parts->size)
		return TARGET_REACHED;
	if (!parts->running)
		return TARGET_PAUSED;
	if (actual > parts->size)
		return target_mem_shrinks(parts) ? TARGET_MOVING : judge_shrink(parts);
	if (parts->balloon.actual <= less(parts->boot + parts->mem.plugged, parts->size))
		return judge_plug(parts);
	if (parts->balloon.broken)
		return TARGET_BALLOON_BROKEN;
	return parts->balloon.driver_ready ? judge_deflate(parts) : TARGET_NO_BALLOON;
}
