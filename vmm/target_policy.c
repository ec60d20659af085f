/* SPDX-License-Identifier: MIT */
/* How a target is split between virtio-mem and the balloon: see target.h. No device is touched. */
#include "vmm/target.h"

#include "framevisor/frame.h"

/* Left to the guest when the balloon grows: this, or a part of its memory. */
#define MARGIN_MIN   (UINT64_C(16) << 20)
#define MARGIN_SHARE 32

static uint64_t less(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

uint64_t target_actual(const struct target_parts *parts)
{
	/* A guest may claim more in the balloon than it has; it is not believed. */
	return less(parts->boot + parts->mem.plugged, parts->balloon.actual);
}

static bool balloon_works(const struct target_parts *parts)
{
	return parts->balloon.driver_ready && !parts->balloon.broken;
}

/* Blocks may still come or go. */
static bool mem_moves(const struct target_parts *parts)
{
	return parts->has_mem && parts->mem.driver_ready && !parts->mem.broken &&
	       parts->mem.idle_ms < parts->mem_stall_ms;
}

/*
 * What is to be plugged. A tax is the balloon's: it comes at once and goes as soon, and the balloon
 * takes what the guest has free, while a block that goes first moves what is in it into memory that
 * has no frames under it: in a pool that has none left a guest waits for them then, and nothing
 * comes back.
 */
static uint64_t mem_wanted(const struct target_parts *parts)
{
	uint64_t least = less(parts->size, parts->boot), most = least, tax = parts->tax;

	/* What the balloon does not get. Not at once: a guest that waits for a frame gets on. */
	if (parts->balloon_idle_ms >= TARGET_STALL_MAX_MS)
		tax = less(tax, less(parts->balloon.target, parts->balloon.actual));
	if (balloon_works(parts))
		most = less(parts->size + tax, parts->boot);
	if (parts->mem.plugged < least)
		return least;
	return parts->mem.plugged < most ? parts->mem.plugged : most;
}

bool target_mem_excess(const struct target_parts *parts)
{
	return parts->mem.plugged > mem_wanted(parts);
}

bool target_mem_shrinks(const struct target_parts *parts)
{
	return target_mem_excess(parts) && (mem_moves(parts) || parts->give_way);
}

uint64_t target_stuck(const struct target_parts *parts)
{
	return target_mem_excess(parts) && parts->in_vain
		       ? less(parts->mem.plugged, mem_wanted(parts))
		       : 0;
}

uint64_t target_margin(const struct target_parts *parts)
{
	uint64_t margin = (parts->boot + parts->mem.plugged) / MARGIN_SHARE;

	return margin > MARGIN_MIN ? margin : MARGIN_MIN;
}

/* What is to be in the balloon when all blocks have gone that shall. */
static uint64_t balloon_in_the_end(const struct target_parts *parts)
{
	return less(parts->boot + mem_wanted(parts), parts->size);
}

/* The balloon is giving memory back that the target leaves to the guest. */
static bool balloon_deflates(const struct target_parts *parts)
{
	return balloon_works(parts) && parts->balloon.actual &&
	       parts->balloon_idle_ms < TARGET_STALL_MS;
}

static uint64_t decide_requested(const struct target_parts *parts)
{
	uint64_t want = mem_wanted(parts);

	if (want <= parts->mem.plugged)
		return want;
	if (balloon_deflates(parts))
		return parts->mem.plugged;
	if (want > parts->promised)
		want = parts->promised > parts->mem.plugged ? parts->promised : parts->mem.plugged;
	return want;
}

static uint64_t decide_balloon(const struct target_parts *parts)
{
	uint64_t excess = less(parts->boot + parts->mem.plugged, parts->size);
	uint64_t balloon = excess, limit = parts->balloon_limit;

	/* Blocks are still going: no more than there is, and nothing that stands in their way.
	 * While the pool is short, the tax does not wait for them, and it gives back only what
	 * blocks that went make superfluous. */
	if (target_mem_shrinks(parts)) {
		uint64_t end = balloon_in_the_end(parts), most = parts->balloon.target;

		if (parts->tax ? most < end : most > end)
			most = end;
		if (balloon > most)
			balloon = most;
	}
	/* What is in it already does not come out because the guest is short: that is the guest's
	 * to do (deflate on OOM). */
	if (limit < parts->balloon.actual)
		limit = parts->balloon.actual;
	return balloon < limit ? balloon : limit;
}

void target_decide(const struct target_parts *parts, struct target_plan *plan)
{
	plan->requested = parts->has_mem ? decide_requested(parts) : 0;
	plan->balloon = decide_balloon(parts);
}

bool target_mem_wanting(const struct target_parts *parts)
{
	return parts->has_mem && parts->running && parts->mem.driver_ready && !parts->mem.broken &&
	       parts->mem.plugged != parts->mem.requested;
}

uint64_t target_pace(struct target_pace *pace, const struct target_parts *parts)
{
	bool wanting = target_mem_wanting(parts);
	uint64_t idle = wanting ? parts->mem.idle_ms : 0, stall;

	/* Only a guest that goes on has paused: one that is stopped, or whose driver went, has not.
	 */
	if (wanting && idle < pace->idle_ms && pace->longest_ms < pace->idle_ms)
		pace->longest_ms = pace->idle_ms;
	pace->idle_ms = idle;
	stall = TARGET_PACE_FACTOR * pace->longest_ms;
	if (stall < TARGET_STALL_MS)
		return TARGET_STALL_MS;
	return stall < TARGET_STALL_MAX_MS ? stall : TARGET_STALL_MAX_MS;
}

static bool stands_in(const struct target_parts *parts)
{
	return balloon_works(parts) && target_mem_excess(parts) &&
	       parts->balloon.actual > balloon_in_the_end(parts);
}

static bool ask_now(struct target_ask *ask, uint64_t now_ms)
{
	ask->at_ms = now_ms;
	ask->interval_ms = ask->interval_ms ? 2 * ask->interval_ms : TARGET_ASK_MIN_MS;
	if (ask->interval_ms > TARGET_ASK_MAX_MS)
		ask->interval_ms = TARGET_ASK_MAX_MS;
	return true;
}

/* First the balloon lets go, then the guest is asked, then it has the time that it needs. */
static bool ask_while_giving_way(struct target_ask *ask, const struct target_parts *parts,
				 uint64_t now_ms)
{
	if (!ask->asked) {
		bool told = parts->balloon.target <= balloon_in_the_end(parts);

		if (stands_in(parts) && (!told || parts->balloon_idle_ms < TARGET_STALL_MS))
			return false;
		ask->asked = true;
		ask->gave_in_vain = true;
		return ask_now(ask, now_ms);
	}
	if (mem_moves(parts) || now_ms - ask->at_ms < parts->mem_stall_ms)
		return false;
	ask->gives_way = false;
	ask->at_ms = now_ms;
	if (!ask->interval_ms)
		ask->interval_ms = TARGET_ASK_MIN_MS;
	return false;
}

bool target_ask_again(struct target_ask *ask, const struct target_parts *parts, uint64_t now_ms)
{
	if (!target_mem_wanting(parts)) {
		*ask = (struct target_ask){ 0 };
		return false;
	}
	/* It has moved since it was asked. */
	if (now_ms - ask->at_ms > parts->mem.idle_ms) {
		ask->interval_ms = 0;
		ask->gave_in_vain = false;
		ask->in_vain = false;
	} else if (now_ms - ask->at_ms >= parts->mem_stall_ms) {
		ask->in_vain = true;
	}
	if (ask->gives_way)
		return ask_while_giving_way(ask, parts, now_ms);
	if (mem_moves(parts) || (ask->interval_ms && now_ms - ask->at_ms < ask->interval_ms))
		return false;
	if (stands_in(parts) && !ask->gave_in_vain && !parts->tax) {
		ask->gives_way = true;
		ask->asked = false;
		return false;
	}
	return ask_now(ask, now_ms);
}

void target_share(uint64_t bytes, unsigned int nr, const uint64_t *max, uint64_t *share)
{
	uint64_t frames = bytes_to_frames(bytes), all = 0;

	for (unsigned int i = 0; i < nr; i++)
		all += bytes_to_frames(max[i]);
	/* What is left goes in the same proportion to those that are left, so that the last one
	 * gets exactly the rest. */
	for (unsigned int i = 0; i < nr; i++) {
		uint64_t room = bytes_to_frames(max[i]);
		uint64_t part = all ? (uint64_t)((__uint128_t)frames * room / all) : 0;

		if (part > room)
			part = room;
		share[i] = frames_to_bytes(part);
		frames -= part;
		all -= room;
	}
}

/* A device that has what it was asked for is in no trouble any more. */
static int trouble(const struct virtio_mem_stats *stats)
{
	return stats->plugged != stats->requested ? stats->last_error : 0;
}

void target_sum_mem(const struct virtio_mem_stats *stats, unsigned int nr,
		    struct virtio_mem_stats *sum)
{
	*sum = stats[0];
	sum->last_error = trouble(&stats[0]);
	for (unsigned int i = 1; i < nr; i++) {
		sum->driver_ready = sum->driver_ready && stats[i].driver_ready;
		sum->broken = sum->broken || stats[i].broken;
		sum->region_size += stats[i].region_size;
		sum->usable += stats[i].usable;
		sum->requested += stats[i].requested;
		sum->plugged += stats[i].plugged;
		sum->acks += stats[i].acks;
		sum->nacks += stats[i].nacks;
		sum->busy += stats[i].busy;
		sum->errors += stats[i].errors;
		if (stats[i].unread_ms > sum->unread_ms)
			sum->unread_ms = stats[i].unread_ms;
		if (!sum->last_error)
			sum->last_error = trouble(&stats[i]);
		if (stats[i].idle_ms < sum->idle_ms)
			sum->idle_ms = stats[i].idle_ms;
	}
}
