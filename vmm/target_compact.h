/* SPDX-License-Identifier: MIT */
/*
 * When the balloon of a fragmented guest holds many frames in part only, the guest is made to move
 * its memory together: with the means of a stock kernel, and no more than once for a target.
 *
 * A balloon is filled with the smallest free pieces first, so it takes the gaps between the pages
 * that a fragmented guest uses, and few frames become complete. But Linux compacts by itself
 * ("proactive compaction", since 5.9) while more than 90 % of its free memory is in pieces smaller
 * than a hugepage. So:
 *
 *   empty   the balloon gives everything back: its gaps are free memory again
 *   hold    the driver allocates all large free blocks (free page hints without a release) and
 *           goes on with those that compaction makes, so that only gaps are free and the kernel
 *           does not stop before all are closed
 *   settle  the blocks are free again
 *
 * and then the balloon is filled a second time. A guest that is taxed does so only when hardly any
 * frame came of its tax: those that did are needed elsewhere, and it would take them back. Little
 * is lost if the guest does not compact (its administrator can switch that off): the balloon is as
 * it was some seconds before.
 */
#ifndef VMM_TARGET_COMPACT_H
#define VMM_TARGET_COMPACT_H

#include "vmm/target.h"

enum compact_phase {
	COMPACT_NOT_YET, /* it may become of use */
	COMPACT_EMPTY,
	COMPACT_HOLD,
	COMPACT_SETTLE,
	COMPACT_OVER, /* done, or of no use, until the target changes */
};

struct target_compact {
	enum compact_phase phase;
	uint64_t since_ms;      /* the phase began */
	uint64_t held;          /* the most that was held */
	uint64_t held_since_ms; /* so much was held first */
	uint64_t asked_ms;      /* the driver was asked last */
	uint64_t ended_ms;      /* the last round was finished; 0: there was none */
	uint64_t rounds;        /* that were finished, since the VM's start */
	uint64_t before, after; /* complete frames before the last one, and what it made free */
};

/* What the driver is to be told about free blocks. */
enum compact_act { COMPACT_LEAVE, COMPACT_ASK, COMPACT_LET_GO };

/* Whether the balloon is at rest and would hold more complete frames after a round. Pure. */
bool compact_useful(const struct target_parts *parts);

/* Between the first phase and the last: plan->balloon is compact_step()'s to set. */
bool compact_runs(const struct target_compact *compact);

/* Whether a round is of use and may begin: for a guest that is taxed not soon after the last one,
 * whatever its tax is meanwhile. Pure. */
bool compact_due(const struct target_compact *compact, const struct target_parts *parts,
		 uint64_t now);

/* Begins a round if one is due. */
void compact_consider(struct target_compact *compact, const struct target_parts *parts,
		      uint64_t now);

/* Moves on, sets plan->balloon while a round runs, and returns what the driver is to be told. */
enum compact_act compact_step(struct target_compact *compact, const struct target_parts *parts,
			      uint64_t now, struct target_plan *plan);

/* The target changed: what there was to do is obsolete. Returns what the driver is to be told. */
enum compact_act compact_restart(struct target_compact *compact);

#endif
