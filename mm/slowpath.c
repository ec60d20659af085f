/* SPDX-License-Identifier: MIT */
/*
 * When the free lists have nothing above the low mark: dig into the reserves as far as the flags
 * allow, empty the per-CPU caches, let others free something, and at last fail, or never.
 */
#include <time.h>

#include "mm/internal.h"

/* Rounds without progress before giving up (kernel: MAX_RECLAIM_RETRIES). */
#define MAX_RETRIES 16

/* Kernel: gfp_to_alloc_flags(). */
unsigned int gfp_to_alloc_flags(gfp_t gfp, unsigned int order)
{
	unsigned int alloc_flags = ALLOC_WMARK_MIN;

	if (gfp & __GFP_HIGH)
		alloc_flags |= ALLOC_MIN_RESERVE;
	if (gfp & __GFP_KSWAPD_RECLAIM)
		alloc_flags |= ALLOC_KSWAPD;
	/* Who cannot wait: __GFP_ATOMIC says so, as does the want of direct reclaim with HIGH. */
	if ((gfp & __GFP_ATOMIC) || ((gfp & __GFP_HIGH) && !(gfp & __GFP_DIRECT_RECLAIM))) {
		if (!(gfp & __GFP_NOMEMALLOC)) {
			alloc_flags |= ALLOC_NON_BLOCK;
			if (order > 0)
				alloc_flags |= ALLOC_HIGHATOMIC;
		}
	}
	if ((gfp & (__GFP_MEMALLOC | __GFP_NOMEMALLOC)) == __GFP_MEMALLOC)
		alloc_flags |= ALLOC_NO_WATERMARKS;
	return alloc_flags;
}

static void sleep_us(long us)
{
	struct timespec ts = { .tv_nsec = us * 1000 };

	nanosleep(&ts, NULL);
}

/* Whether the background zeroer holds frames that are free a moment later. */
static bool zeroing_in_progress(struct mm *mm)
{
	unsigned int nid, idx;
	struct zone *zone;

	for_each_zone (mm, nid, idx, zone)
		if (zone_page_state(zone, NR_ZEROING))
			return true;
	return false;
}

static void warn_alloc(struct mm *mm, gfp_t gfp, unsigned int order)
{
	if (!(gfp & __GFP_NOWARN))
		mm_message(mm, "page allocation failure: order:%u, mode:0x%x", order, gfp);
}

/* One look at the lists after the caches were emptied; false hints of the zeroer are waited for. */
static struct page *try_after_drain(struct mm *mm, gfp_t gfp, unsigned int order,
				    unsigned int alloc_flags, const struct alloc_context *ac)
{
	struct page *page;

	mm_drain_all_pages(mm);
	page = get_page_from_freelist(mm, gfp, order, alloc_flags, ac);
	for (unsigned int i = 0; !page && i < MAX_RETRIES && zeroing_in_progress(mm); i++) {
		sleep_us(100);
		page = get_page_from_freelist(mm, gfp, order, alloc_flags, ac);
	}
	return page;
}

/* The OOM callback may make room (kernel: __alloc_pages_may_oom()). */
static bool may_oom(struct mm *mm, gfp_t gfp, unsigned int order)
{
	if (!mm->oom_fn || order > PCP_MAX_ORDER ||
	    (gfp & (__GFP_NORETRY | __GFP_RETRY_MAYFAIL | __GFP_THISNODE)))
		return false;
	return mm->oom_fn(mm->oom_opaque, mm, gfp, order);
}

struct page *alloc_pages_slowpath(struct mm *mm, gfp_t gfp, unsigned int order,
				  const struct alloc_context *ac)
{
	unsigned int alloc_flags = gfp_to_alloc_flags(gfp, order);
	bool can_wait = (gfp & __GFP_DIRECT_RECLAIM) != 0;
	bool nofail = can_wait && (gfp & __GFP_NOFAIL);
	struct page *page;

	page = get_page_from_freelist(mm, gfp, order, alloc_flags, ac);
	if (!page)
		page = try_after_drain(mm, gfp, order, alloc_flags, ac);
	for (unsigned int tries = 0; !page && can_wait; tries++) {
		if (!may_oom(mm, gfp, order) && !nofail)
			break;
		if (tries >= MAX_RETRIES && !nofail)
			break;
		/* Somebody else frees; after a while the last reserves are better than waiting. */
		sleep_us(tries < 10 ? 100 : 1000);
		if (nofail && tries > MAX_RETRIES)
			alloc_flags |= ALLOC_OOM;
		page = try_after_drain(mm, gfp, order, alloc_flags, ac);
	}
	if (!page)
		warn_alloc(mm, gfp, order);
	return page;
}

void mm_set_oom_handler(struct mm *mm, mm_oom_fn fn, void *opaque)
{
	mm->oom_opaque = opaque;
	mm->oom_fn = fn;
}
