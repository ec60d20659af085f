/* SPDX-License-Identifier: MIT */
/* Making a guest move its memory together: see target_compact.h. No device is touched. */
#include "vmm/target_compact.h"

#include <linux/virtio_balloon.h>

#include "framevisor/frame.h"

/* Less than this in the balloon is not worth the guest's effort. */
#define USEFUL_MIN (UINT64_C(64) << 20)
/* Nor is it when so many of ten frames are complete already. */
#define GOOD_TENTHS 9

/* A taxed guest gives its complete frames up to others: not more than one in so many of all that it
 * gave may be taken back for a round. */
#define TAXED_SHARE 8
/* And the next round does not begin before that is over: its tax may change every second. */
#define TAXED_REST_MS 60000

/* A balloon that has not moved for so long does not give up more. */
#define EMPTY_STALL_MS 2000
/* The kernel looks every 500 ms whether to compact; then blocks come one after the other. */
#define HOLD_STALL_MS 5000
#define HOLD_MAX_MS   30000
/* How often the driver is asked for the blocks that have come up. */
#define ASK_EVERY_MS 100
/* The driver frees what it held in a thread of its own. */
#define SETTLE_MS 200

static bool has_feature(const struct target_parts *parts, unsigned int feature)
{
	return parts->balloon.accepted >> feature & 1;
}

bool compact_useful(const struct target_parts *parts)
{
	const struct virtio_balloon_stats *balloon = &parts->balloon;
	uint64_t complete = frames_to_bytes(balloon->frames_released);

	if (!parts->running || !balloon->driver_ready || balloon->broken || balloon->hinting ||
	    !has_feature(parts, VIRTIO_BALLOON_F_FREE_PAGE_HINT))
		return false;
	/* At rest, and for itself: not in the place of blocks that are still on their way. */
	if (balloon->actual != balloon->target || balloon->actual < USEFUL_MIN ||
	    balloon->inflated < balloon->actual)
		return false;
	if (parts->has_mem && parts->mem.plugged != parts->mem.requested)
		return false;
	if (parts->tax)
		return complete <= balloon->actual / TAXED_SHARE;
	return complete < balloon->actual / 10 * GOOD_TENTHS;
}

bool compact_due(const struct target_compact *compact, const struct target_parts *parts,
		 uint64_t now)
{
	if (compact->phase != COMPACT_NOT_YET || !compact_useful(parts))
		return false;
	return !parts->tax || !compact->ended_ms || now - compact->ended_ms >= TAXED_REST_MS;
}

bool compact_runs(const struct target_compact *compact)
{
	return compact->phase == COMPACT_EMPTY || compact->phase == COMPACT_HOLD ||
	       compact->phase == COMPACT_SETTLE;
}

static void enter(struct target_compact *compact, enum compact_phase phase, uint64_t now)
{
	compact->phase = phase;
	compact->since_ms = now;
}

void compact_consider(struct target_compact *compact, const struct target_parts *parts,
		      uint64_t now)
{
	if (!compact_due(compact, parts, now))
		return;
	compact->before = parts->balloon.frames_released;
	enter(compact, COMPACT_EMPTY, now);
}

static enum compact_act step_hold(struct target_compact *compact, const struct target_parts *parts,
				  uint64_t now)
{
	const struct virtio_balloon_stats *balloon = &parts->balloon;

	if (balloon->held > compact->held) {
		compact->held = balloon->held;
		compact->held_since_ms = now;
	}
	/* Not holding any more: the driver was reset, or somebody else ended it. */
	if (!balloon->holding || now - compact->held_since_ms > HOLD_STALL_MS ||
	    now - compact->since_ms > HOLD_MAX_MS) {
		compact->after = bytes_to_frames(compact->held);
		enter(compact, COMPACT_SETTLE, now);
		return COMPACT_LET_GO;
	}
	if (now - compact->asked_ms < ASK_EVERY_MS)
		return COMPACT_LEAVE;
	compact->asked_ms = now;
	return COMPACT_ASK;
}

enum compact_act compact_step(struct target_compact *compact, const struct target_parts *parts,
			      uint64_t now, struct target_plan *plan)
{
	uint64_t actual = parts->balloon.actual;

	plan->balloon = 0;
	switch (compact->phase) {
	case COMPACT_EMPTY:
		if (actual > 0 && (parts->balloon_idle_ms < EMPTY_STALL_MS ||
				   now - compact->since_ms < EMPTY_STALL_MS))
			return COMPACT_LEAVE;
		enter(compact, COMPACT_HOLD, now);
		compact->held = 0;
		compact->held_since_ms = now;
		compact->asked_ms = now;
		return COMPACT_ASK;
	case COMPACT_HOLD:
		return step_hold(compact, parts, now);
	case COMPACT_SETTLE:
		if (now - compact->since_ms >= SETTLE_MS) {
			enter(compact, COMPACT_OVER, now);
			compact->ended_ms = now;
			compact->rounds++;
		}
		return COMPACT_LEAVE;
	default:
		return COMPACT_LEAVE;
	}
}

enum compact_act compact_restart(struct target_compact *compact)
{
	bool holds = compact->phase == COMPACT_HOLD;

	compact->phase = COMPACT_NOT_YET;
	return holds ? COMPACT_LET_GO : COMPACT_LEAVE;
}
