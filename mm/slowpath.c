/* SPDX-License-Identifier: MIT */
/*
 * When the free lists have nothing above the low mark: dig into the reserves as far as the flags
 * allow, empty the per-CPU caches, let others free something, and at last fail, or never.
 */
#include <time.h>

#include "mm/compaction_internal.h"
#include "mm/oom_internal.h"
#include "mm/vmscan_internal.h"

/* Rounds of reclaim with progress and without a frame, until the progress is not believed. */
#define MAX_FRUITLESS_ROUNDS 256

/* Kernel: gfp_to_alloc_flags(). */
unsigned int gfp_to_alloc_flags(gfp_t gfp, unsigned int order)
{
	unsigned int alloc_flags = ALLOC_WMARK_MIN | ALLOC_EXACT;

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
	if (gfp & __GFP_NOMEMALLOC)
		return alloc_flags;
	if ((gfp & __GFP_MEMALLOC) || reclaim_in_progress())
		alloc_flags |= ALLOC_NO_WATERMARKS;
	else if (is_oom_victim())
		alloc_flags =
			ALLOC_WMARK_MIN | ALLOC_EXACT | ALLOC_OOM | (alloc_flags & ALLOC_KSWAPD);
	return alloc_flags;
}

static void sleep_us(long us)
{
	struct timespec ts = { .tv_nsec = us * 1000 };

	nanosleep(&ts, NULL);
}

/* How far a waiting allocation has come. */
struct attempt {
	uint64_t progress; /* frames that the last round freed, by what the callbacks say */
	unsigned int rounds;
	unsigned int idle_rounds; /* without any */
	uint64_t busy_ns;         /* since when another thread has been choosing a victim, or 0 */
	struct page *page;        /* found where the OOM was about to begin */
};

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
	bool zeroing = zeroing_in_progress(mm);
	struct page *page;

	mm_drain_all_pages(mm);
	page = get_page_from_freelist(mm, gfp, order, alloc_flags, ac);
	/* The reserve for others: all but its last pageblock before anybody fails. */
	while (!page && unreserve_highatomic(mm, ac, false))
		page = get_page_from_freelist(mm, gfp, order, alloc_flags, ac);
	for (unsigned int i = 0; !page && i < MAX_RECLAIM_RETRIES && zeroing; i++) {
		sleep_us(100);
		/* Asked first: what it had in its hands then is on the lists by the look after. */
		zeroing = zeroing_in_progress(mm);
		page = get_page_from_freelist(mm, gfp, order, alloc_flags, ac);
	}
	return page;
}

/* One wake-up for each node that could serve the request. */
void wake_all_kswapds(gfp_t gfp, unsigned int order, const struct alloc_context *ac)
{
	int64_t last = -1;

	if (!(gfp & __GFP_KSWAPD_RECLAIM))
		return;
	for (uint32_t i = 0; i < ac->zonelist->nr; i++) {
		const struct zoneref *ref = &ac->zonelist->refs[i];

		if (ref->nid == last || !(ac->nodemask >> ref->nid & 1) ||
		    ref->zone_idx > ac->highest_zoneidx || !managed_zone(ref->zone))
			continue;
		wakeup_kswapd(ref->zone, order, ac->highest_zoneidx);
		last = ref->nid;
	}
}

/* Whether reclaim and compaction are worth another round. Kernel: should_reclaim_retry(). */
static bool should_retry(gfp_t gfp, unsigned int order, uint64_t progress, unsigned int idle_rounds)
{
	if (gfp & __GFP_NORETRY)
		return false;
	/* Large blocks: more reclaim does not make frames neighbours, unless the caller insists. */
	if (order > PCP_MAX_ORDER && !(gfp & __GFP_RETRY_MAYFAIL))
		return false;
	return progress && idle_rounds < MAX_RECLAIM_RETRIES;
}

/*
 * Whether frames are on their way. A victim has a time limit, so this ends. Another thread that is
 * in the middle of it counts as much (kernel: a trylock that fails is progress), since its callback
 * may take as long as a VM does; but not for ever, should that callback wait for this thread.
 */
static bool oom_under_way(enum oom_result oom, struct attempt *attempt)
{
	if (oom != OOM_BUSY)
		attempt->busy_ns = 0;
	else if (!attempt->busy_ns)
		attempt->busy_ns = now_ns();
	return oom == OOM_VICTIM ||
	       (oom == OOM_BUSY && now_ns() - attempt->busy_ns < OOM_VICTIM_NS);
}

/* After a round that did not help: what to do about it. False: the allocation fails. */
static bool next_round(struct mm *mm, gfp_t gfp, unsigned int order, const struct alloc_context *ac,
		       struct attempt *attempt)
{
	enum oom_result oom;

	if (is_oom_victim() && !(gfp & __GFP_NOFAIL))
		return false;
	if (should_retry(gfp, order, attempt->progress, attempt->idle_rounds))
		return true;
	oom = out_of_memory(mm, gfp, order, ac, &attempt->page);
	if (attempt->page)
		return true;
	if (oom_under_way(oom, attempt)) {
		attempt->idle_rounds = 0;
		return true;
	}
	/* The word of a handler counts for a while. */
	if (oom == OOM_HANDLED && attempt->idle_rounds < MAX_RECLAIM_RETRIES)
		return true;
	return (gfp & __GFP_NOFAIL) != 0;
}

/* Kernel: the loop of __alloc_pages_slowpath(), for those who can wait. No lock is held. */
static struct page *reclaim_and_retry(struct mm *mm, gfp_t gfp, unsigned int order,
				      unsigned int alloc_flags, const struct alloc_context *ac)
{
	enum compact_priority prio = COMPACT_PRIO_SYNC_LIGHT;
	struct attempt attempt = { 0 };
	struct page *page;

	for (;;) {
		attempt.progress = try_to_free_pages(mm, gfp, ac);
		/* Whoever says so often that frames came back has not freed any, or others are
		 * always faster: the OOM has to decide. */
		if (++attempt.rounds > MAX_FRUITLESS_ROUNDS)
			attempt.progress = 0;
		page = try_after_drain(mm, gfp, order, alloc_flags, ac);
		if (!page)
			page = direct_compact(mm, gfp, order, alloc_flags, ac, prio);
		if (page)
			return page;
		/* Harder each time (kernel: should_compact_retry()). */
		prio = COMPACT_PRIO_SYNC_FULL;
		if (attempt.progress && order == 0)
			attempt.idle_rounds = 0;
		else
			attempt.idle_rounds++;
		/* The very last of it before an OOM. */
		if (!attempt.progress && unreserve_highatomic(mm, ac, true))
			continue;
		if (!next_round(mm, gfp, order, ac, &attempt) || attempt.page)
			return attempt.page;
		page = try_after_drain(mm, gfp, order, alloc_flags, ac);
		if (page)
			return page;
		/* Others have to free; after a while the reserves are better than waiting. */
		if (!attempt.progress)
			sleep_us(attempt.idle_rounds < 10 ? 100 : 1000);
		if ((gfp & __GFP_NOFAIL) && attempt.idle_rounds > MAX_RECLAIM_RETRIES)
			alloc_flags |= ALLOC_NO_WATERMARKS;
		wake_all_kswapds(gfp, order, ac);
	}
}

/*
 * __GFP_NOFAIL where reclaim is not possible, because this thread is already at it: the reserves
 * down to the last frame, then waiting for others. No lock of the allocator is held meanwhile.
 */
static struct page *wait_for_frames(struct mm *mm, gfp_t gfp, unsigned int order,
				    const struct alloc_context *ac)
{
	struct page *page;

	for (;;) {
		page = try_after_drain(mm, gfp, order, ALLOC_NO_WATERMARKS, ac);
		if (page || (unreserve_highatomic(mm, ac, true) &&
			     (page = get_page_from_freelist(mm, gfp, order, ALLOC_NO_WATERMARKS,
							    ac)) != NULL))
			return page;
		wake_all_kswapds(gfp, order, ac);
		sleep_us(1000);
	}
}

struct page *alloc_pages_slowpath(struct mm *mm, gfp_t gfp, unsigned int order,
				  const struct alloc_context *ac)
{
	unsigned int alloc_flags = gfp_to_alloc_flags(gfp, order);
	struct page *page;

	wake_all_kswapds(gfp, order, ac);
	page = get_page_from_freelist(mm, gfp, order, alloc_flags, ac);
	if (!page)
		page = try_after_drain(mm, gfp, order, alloc_flags, ac);
	/* Reclaim that needs memory itself must not wait for reclaim. */
	if (!page && (gfp & __GFP_DIRECT_RECLAIM) && !(gfp & __GFP_MEMALLOC) &&
	    !reclaim_in_progress()) {
		/* Moving frames is cheaper than taking them away. */
		page = direct_compact(mm, gfp, order, alloc_flags, ac, COMPACT_PRIO_ASYNC);
		if (!page)
			page = reclaim_and_retry(mm, gfp, order, alloc_flags, ac);
	}
	if (!page && (gfp & __GFP_NOFAIL) && (gfp & __GFP_DIRECT_RECLAIM) && order <= MAX_ORDER)
		page = wait_for_frames(mm, gfp, order, ac);
	if (!page)
		warn_alloc(mm, gfp, order);
	return page;
}

void mm_set_oom_handler(struct mm *mm, mm_oom_fn fn, void *opaque)
{
	mm->oom_opaque = opaque;
	mm->oom_fn = fn;
}
