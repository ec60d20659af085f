/* SPDX-License-Identifier: MIT */
/*
 * When nothing can be reclaimed: who has to give up everything, so that the others go on.
 *
 * Holders of frames (guests) register. When an allocation that can wait finds nothing, the OOM
 * handler of the instance (mm_set_oom_handler()), if there is one, is asked first; when it has
 * nothing, the holder with the highest badness is killed: the frames it has, plus its adjustment
 * in 1/1000 of all frames. Until it has given them up, or for three seconds, no other is chosen.
 */
#ifndef FRAMEVISOR_OOM_H
#define FRAMEVISOR_OOM_H

#include <stdbool.h>
#include <stdint.h>

#include "framevisor/list.h"
#include "framevisor/page_alloc.h"

#define OOM_SCORE_ADJ_MIN (-1000) /* never chosen */
#define OOM_SCORE_ADJ_MAX 1000

/*
 * Owned by the caller. The callbacks run without locks in the thread of some allocation; they may
 * free frames and allocate (from the reserves, without reclaim).
 */
struct mm_oom_holder {
	/* Frames that would come back. */
	uint64_t (*held_pages)(struct mm_oom_holder *holder);
	/* Begins to give everything up. 0: the frames are free, or will be without waiting for
	 * allocations. Negative: not possible; another is chosen. */
	int (*kill)(struct mm_oom_holder *holder);
	uint32_t id; /* for reports */
	int adj;     /* OOM_SCORE_ADJ_MIN to _MAX; changed with mm_oom_set_adj() */
	void *opaque;

	/* The instance's from here on. */
	struct list_head list;
	uint32_t running;   /* calls in progress */
	uint64_t killed_ns; /* CLOCK_MONOTONIC, or 0 */
	uint64_t skip_ns;   /* not chosen until then */
};

/* Returns 0 or -EINVAL (a callback is missing, adj out of range). */
int mm_register_oom_holder(struct mm *mm, struct mm_oom_holder *holder);
/* Afterwards no callback of it runs. Not from within one. */
void mm_unregister_oom_holder(struct mm *mm, struct mm_oom_holder *holder);
int mm_oom_set_adj(struct mm *mm, struct mm_oom_holder *holder, int adj);

/*
 * Says that the calling thread works for a holder that was killed, and may need frames to give up
 * its own: it gets half of what the min marks keep and the highatomic reserve, and fails rather
 * than wait for another victim, unless __GFP_NOFAIL. Returns what was said before. Within kill() it
 * is not needed. Kernel: oom_reserves_allowed().
 */
bool mm_set_oom_victim(bool victim);

struct mm_oom_candidate {
	struct mm_oom_holder *holder; /* valid while it is registered */
	uint64_t held;                /* frames */
	int adj;
	int64_t badness; /* INT64_MIN: not to be chosen */
};

/* The holders, worst first, at most max. Returns how many. For OOM handlers with a policy of their
 * own, and for reports. */
unsigned int mm_oom_candidates(struct mm *mm, struct mm_oom_candidate *candidates,
			       unsigned int max);

#endif
