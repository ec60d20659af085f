/* SPDX-License-Identifier: MIT */
/*
 * Reclaim: who gives frames back when a zone is short of them.
 *
 * Two sources. Shrinkers have objects that can be dropped, and say how many. Frames on the LRU
 * lists are in use, by a guest for example; the least recently used ones are offered to the reclaim
 * callback, which takes them away (swap, balloon) or refuses. Reclaim runs in kswapd, one thread
 * per node that works when a zone falls below its low mark until one is above its high mark, and in
 * allocations with __GFP_DIRECT_RECLAIM when that is too late.
 */
#ifndef FRAMEVISOR_VMSCAN_H
#define FRAMEVISOR_VMSCAN_H

#include <stdbool.h>
#include <stdint.h>

#include "framevisor/gfp.h"
#include "framevisor/list.h"
#include "framevisor/page_alloc.h"

/* What a scan is for. The callbacks must not do what gfp forbids (I/O without __GFP_IO). */
struct shrink_control {
	struct mm *mm;
	gfp_t gfp;
	int nid;
	uint64_t nr_to_scan; /* for scan_objects: objects to look at */
};

#define SHRINK_STOP (~UINT64_C(0)) /* no progress possible now */

#define SHRINKER_IO 0x1u /* called only for requests with __GFP_IO */
#define SHRINKER_FS 0x2u /* ... with __GFP_FS */

/* Owned by the caller. Callbacks may free frames, and allocate with __GFP_MEMALLOC. */
struct shrinker {
	/* Objects that could be freed; 0 if none. Called often: a good guess is enough. */
	uint64_t (*count_objects)(struct shrinker *shrinker, struct shrink_control *sc);
	/* Frees up to nr_to_scan objects. Returns how many, or SHRINK_STOP. */
	uint64_t (*scan_objects)(struct shrinker *shrinker, struct shrink_control *sc);
	unsigned int seeks; /* cost of making an object anew; 0: 2, as in the kernel */
	unsigned int flags; /* SHRINKER_* */
	void *opaque;

	struct list_head list; /* the instance's from here on */
	uint32_t running;      /* calls in progress */
};

/* Returns 0 or -EINVAL (a callback is missing). */
int mm_register_shrinker(struct mm *mm, struct shrinker *shrinker);
/* Afterwards no callback of it runs. Not from within one. */
void mm_unregister_shrinker(struct mm *mm, struct shrinker *shrinker);

/* How frames on the LRU lists are taken away from whoever has them. */
struct mm_reclaim_ops {
	/*
	 * Takes the block away from its holder. 0: the holder has given it up (unmapped, mapping
	 * cleared, and its own reference is now the caller's, who frees it). Negative: it stays
	 * (-EBUSY: in use just now).
	 */
	int (*reclaim)(void *opaque, struct page *page, gfp_t gfp);
	/* Whether it was used since the last call. May be NULL: only mm_mark_page_accessed(). */
	bool (*referenced)(void *opaque, struct page *page);
};
/* ops stay the caller's. NULL: frames on the lists cannot be reclaimed. */
void mm_set_reclaim_ops(struct mm *mm, const struct mm_reclaim_ops *ops, void *opaque);

/*
 * The LRU lists of a node. A holder puts an allocated block on them when it may be reclaimed, and
 * takes it off before it frees it. mm_lru_del() returns false if the block is not on a list: it is
 * being looked at by reclaim in this moment, and the callback decides.
 */
void mm_lru_add(struct mm *mm, struct page *page);
bool mm_lru_del(struct mm *mm, struct page *page);
/* Used: the second time on the inactive list makes it active (kernel: mark_page_accessed()). */
void mm_mark_page_accessed(struct mm *mm, struct page *page);

/* Starts one thread per node. mm_destroy() ends them. Returns 0 or a negative errno. */
int mm_start_kswapd(struct mm *mm);
void mm_stop_kswapd(struct mm *mm);

/* Reclaims about nr frames from node nid (-1: all) as an allocation with gfp would. Returns how
 * many came back; 0 within a callback of reclaim, migration or OOM. */
uint64_t mm_reclaim_pages(struct mm *mm, int nid, uint64_t nr, gfp_t gfp);

static inline int register_shrinker(struct shrinker *shrinker)
{
	return mm_register_shrinker(mm_current, shrinker);
}

static inline void unregister_shrinker(struct shrinker *shrinker)
{
	mm_unregister_shrinker(mm_current, shrinker);
}

#endif
