/* SPDX-License-Identifier: MIT */
/*
 * The allocation path. First the per-CPU cache of the nearest zone; then the zonelist at the low
 * mark; then the slow path (slowpath.c).
 */
#include "mm/free_list.h"

/* What the request says of the content and of what the block is: the flags with it, or 0 when the
 * block was quarantined. By value: in a register on the usual path. */
__attribute__((noinline)) static uint64_t
prep_special(struct mm *mm, struct page *page, unsigned int order, gfp_t gfp, uint64_t flags)
{
	if ((gfp & (__GFP_ZERO | __GFP_SKIP_ZERO)) == __GFP_ZERO) {
		enum page_clear_result cleared = page_clear(mm, page, order);

		if (cleared == PAGE_CLEAR_FAILED) {
			bad_page(mm, page, "cannot be mapped to be zeroed");
			quarantine_held(mm, page);
			return 0;
		}
		if (cleared == PAGE_CLEAR_DONE && order == 0)
			flags |= PAGE_FLAG(zeroed);
	}
	if ((gfp & __GFP_COMP) && order > 0)
		flags |= PAGE_FLAG(head);
	return flags;
}

/*
 * Makes a block from a free list or cache the caller's. Returns false if its state is bad: then it
 * was reported and quarantined, and another must be found. Kernel: prep_new_page().
 */
bool prep_new_page(struct mm *mm, struct page *page, unsigned int order, gfp_t gfp)
{
	uint64_t flags = (page_flags(page) & PAGE_IDENTITY) | PAGE_ORDER(order) |
			 PAGE_MT(gfpflags_to_migratetype(gfp));

	if (unlikely(!page_allocatable(page))) {
		bad_page(mm, page, why_not_allocatable(page));
		quarantine_held(mm, page);
		return false;
	}
	if (unlikely((mm->flags & MM_DEBUG_POISON) && !poison_intact(mm, page, order))) {
		bad_page(mm, page, "written to while it was free");
		quarantine_held(mm, page);
		return false;
	}
	if (order == 0 && page->nr_zeroed)
		flags |= PAGE_FLAG(zeroed);
	if (unlikely(gfp & (__GFP_ZERO | __GFP_COMP))) {
		flags = prep_special(mm, page, order, gfp, flags);
		if (unlikely(flags == 0))
			return false;
	}
	page_set_flags(page, flags);
	page->private = 0;
	set_page_counts(page, 1);
	if (unlikely(mm->page_owner != NULL))
		page_owner_record(mm, page, order, PAGE_OWNER_ALLOC);
	return true;
}

/* From the free lists, not through a cache. */
struct page *rmqueue_buddy(struct mm *mm, struct zone *zone, unsigned int order,
			   enum migratetype mt, unsigned int alloc_flags, bool want_zeroed)
{
	struct page *page = NULL;

	spin_lock(&zone->lock);
	if (alloc_flags & ALLOC_HIGHATOMIC)
		page = rmqueue_smallest(mm, zone, order, MIGRATE_HIGHATOMIC, want_zeroed);
	if (!page)
		page = rmqueue_smallest(mm, zone, order, mt, want_zeroed);
	if (!page)
		page = rmqueue_fallback(mm, zone, order, mt, alloc_flags);
	/* Better than an OOM, or than failing an important caller that cannot wait. */
	if (!page && (alloc_flags & (ALLOC_OOM | ALLOC_NON_BLOCK)))
		page = rmqueue_smallest(mm, zone, order, MIGRATE_HIGHATOMIC, want_zeroed);
	if (page)
		zone_count_alloc(zone, order_frames(order));
	spin_unlock(&zone->lock);
	return page;
}

static struct page *rmqueue(struct mm *mm, struct zone *zone, unsigned int order,
			    const struct alloc_context *ac, unsigned int alloc_flags)
{
	struct page *page = NULL;

	if (order <= PCP_MAX_ORDER)
		page = pcp_alloc(mm, zone, order, ac, alloc_flags);
	if (!page)
		page = rmqueue_buddy(mm, zone, order, ac->migratetype, alloc_flags,
				     ac->want_zeroed);
	return page;
}

/* A zone whose mark forbids more may still have frames in this CPU's cache: those left the free
 * count when they came there. */
static struct page *rmqueue_cached(struct mm *mm, struct zone *zone, unsigned int order,
				   const struct alloc_context *ac)
{
	struct page *page;

	if (order > PCP_MAX_ORDER)
		return NULL;
	page = pcp_alloc_hit(mm, zone, order, ac, false);
	if (!page && order == 0) {
		struct alloc_context other = *ac;

		other.want_zeroed = !ac->want_zeroed;
		page = pcp_alloc_hit(mm, zone, order, &other, false);
	}
	return page;
}

/* Numbers read without the lock are enough to go and take frames. That there are none they only
 * hint at: a block that is being split is on no list. */
static bool zone_has_frames(struct zone *zone, unsigned int order, gfp_t gfp,
			    unsigned int alloc_flags, const struct alloc_context *ac)
{
	uint64_t mark = wmark_pages(zone, alloc_flags & ALLOC_WMARK_MASK);
	bool ok = zone_watermark_fast(zone, order, mark, ac->highest_zoneidx, alloc_flags, gfp);

	if (ok || !(alloc_flags & ALLOC_EXACT))
		return ok;
	spin_lock(&zone->lock);
	ok = zone_watermark_fast(zone, order, mark, ac->highest_zoneidx, alloc_flags, gfp);
	spin_unlock(&zone->lock);
	return ok;
}

/*
 * The first time that a zone is below its high mark its caches are told not to grow (pcp.c): what
 * they hold is what kswapd would have to reclaim. Here, and not where frames are freed, since those
 * who come here have missed the caches (kernel: get_page_from_freelist()). pcp.c and kswapd take
 * the mark off.
 */
static void note_below_high(struct zone *zone)
{
	if (!(zone_read(zone, flags) & ZONE_FLAG_BELOW_HIGH) && !zone_above_high(zone))
		__atomic_fetch_or(&zone->flags, ZONE_FLAG_BELOW_HIGH, __ATOMIC_RELAXED);
}

static struct page *try_zone(struct mm *mm, struct zone *zone, unsigned int order, gfp_t gfp,
			     unsigned int alloc_flags, const struct alloc_context *ac)
{
	struct page *page;

	note_below_high(zone);
	do {
		if ((alloc_flags & ALLOC_NO_WATERMARKS) ||
		    zone_has_frames(zone, order, gfp, alloc_flags, ac))
			page = rmqueue(mm, zone, order, ac, alloc_flags);
		else
			page = rmqueue_cached(mm, zone, order, ac);
	} while (page && !prep_new_page(mm, page, order, gfp));
	if (page && order > 0 && unlikely(alloc_flags & ALLOC_HIGHATOMIC))
		reserve_highatomic(mm, zone, page);
	return page;
}

/* One word of a table instead of the zone's own lines: a walk may pass hundreds of zones. */
static inline bool may_have_block(const struct mm *mm, const struct zoneref *ref,
				  unsigned int order)
{
	return order <= PCP_MAX_ORDER ||
	       __atomic_load_n(&mm->large_orders[ref->nid][ref->zone_idx], __ATOMIC_RELAXED) >>
		       (order - PCP_MAX_ORDER - 1);
}

/* Walks the zonelist once. Kernel: get_page_from_freelist(). */
struct page *get_page_from_freelist(struct mm *mm, gfp_t gfp, unsigned int order,
				    unsigned int alloc_flags, const struct alloc_context *ac)
{
	const struct zonelist *zonelist = ac->zonelist;
	uint32_t at = __atomic_load_n(&zonelist->first[ac->highest_zoneidx], __ATOMIC_RELAXED);

	for (; at < zonelist->nr; at++) {
		const struct zoneref *ref = &zonelist->refs[at];
		struct page *page;

		if (ref->zone_idx > ac->highest_zoneidx || !(ac->nodemask >> ref->nid & 1) ||
		    !managed_zone(ref->zone) ||
		    (!may_have_block(mm, ref, order) && !(alloc_flags & ALLOC_EXACT)))
			continue;
		page = try_zone(mm, ref->zone, order, gfp, alloc_flags, ac);
		if (page)
			return page;
	}
	return NULL;
}

/*
 * A NORMAL zone with a DMA32 zone below it on the same node: rather than mixing mobility, the first
 * try goes on to that one (kernel: alloc_flags_nofragment()).
 */
static unsigned int alloc_flags_nofragment(const struct alloc_context *ac)
{
	uint32_t at = __atomic_load_n(&ac->zonelist->first[ac->highest_zoneidx], __ATOMIC_RELAXED);
	const struct zone *zone;

	if (at >= ac->zonelist->nr)
		return 0;
	zone = ac->zonelist->refs[at].zone;
	if (zone->idx != ZONE_NORMAL || !managed_zone(&zone->zone_pgdat->node_zones[ZONE_DMA32]))
		return 0;
	return ALLOC_NOFRAGMENT;
}

/* The nearest zone's cache: no watermark, no list walk. */
static struct page *alloc_fast(struct mm *mm, gfp_t gfp, unsigned int order,
			       const struct alloc_context *ac)
{
	const struct zonelist *zonelist = ac->zonelist;
	uint32_t at = __atomic_load_n(&zonelist->first[ac->highest_zoneidx], __ATOMIC_RELAXED);
	const struct zoneref *ref = &zonelist->refs[at];
	struct page *page;

	if (unlikely(at >= zonelist->nr || !(ac->nodemask >> ref->nid & 1)))
		return NULL;
	page = pcp_alloc_hit(mm, ref->zone, order, ac, (gfp & __GFP_COLD) != 0);
	if (page && unlikely(!prep_new_page(mm, page, order, gfp)))
		return NULL;
	return page;
}

/* Nothing else has to be looked at for a block of this order. */
static inline bool far_above_low(const struct zone *zone, gfp_t gfp, unsigned int order)
{
	return zone_page_state(zone, NR_FREE_PAGES) >
	       wmark_pages(zone, WMARK_LOW) + zone_page_state(zone, NR_FREE_HIGHATOMIC) +
		       order_frames(order) + zone_read(zone, lowmem_reserve[gfp_zone(gfp)]);
}

/*
 * A large block from the nearest zone's own lists, when the zone is so far above its low mark that
 * nothing else has to be looked at. NULL: take the usual way.
 */
static struct page *alloc_large_fast(struct mm *mm, struct zone *zone, gfp_t gfp,
				     unsigned int order, enum migratetype mt)
{
	const bool want_zeroed = (gfp & __GFP_ZERO) != 0;
	struct page *page;

	if (!far_above_low(zone, gfp, order))
		return NULL;
	spin_lock(&zone->lock);
	page = rmqueue_smallest(mm, zone, order, mt, want_zeroed);
	if (likely(page != NULL))
		zone_count_alloc(zone, order_frames(order));
	spin_unlock(&zone->lock);
	return page && likely(prep_new_page(mm, page, order, gfp)) ? page : NULL;
}

/* The first zone for a request, or NULL if it may not be used. */
static struct zone *first_zone(const struct alloc_context *ac)
{
	const struct zonelist *zonelist = ac->zonelist;
	uint32_t at = __atomic_load_n(&zonelist->first[ac->highest_zoneidx], __ATOMIC_RELAXED);
	struct zone *zone = zonelist->refs[at].zone;

	return at < zonelist->nr && (ac->nodemask >> zone->nid & 1) ? zone : NULL;
}

/* What a large block is not taken without further ado for. */
#define GFP_NOT_PLAIN (__GFP_ZERO | __GFP_THISNODE)

/* A dirty block of exactly this order from the zone's list; NULL: there is none, or its state is
 * bad (then it was quarantined). rmqueue_smallest() and prep_new_page() with all that is known. */
static struct page *take_plain(struct mm *mm, struct zone *zone, gfp_t gfp, unsigned int order,
			       enum migratetype mt)
{
	struct list_head *list = &zone->free_area[order].free_list[mt][FREE_DIRTY];
	uint64_t flags = PAGE_ORDER(order) | PAGE_MT(gfpflags_to_migratetype(gfp));
	struct page *page;

	spin_lock(&zone->lock);
	if (list_empty(list)) {
		spin_unlock(&zone->lock);
		return NULL;
	}
	page = list_first_entry(list, struct page, lru);
	unlist_block(zone, page, order, mt, FREE_DIRTY);
	account_freepages(zone, -(int64_t)order_frames(order), 0, mt);
	page_set_flags(page, page_flags(page) & ~PAGE_FLAG(buddy));
	zone_count_alloc(zone, order_frames(order));
	spin_unlock(&zone->lock);
	if (unlikely(!page_allocatable(page)))
		return prep_new_page(mm, page, order, gfp) ? page : NULL;
	flags |= page_flags(page) & PAGE_IDENTITY;
	page_set_flags(page, gfp & __GFP_COMP ? flags | PAGE_FLAG(head) : flags);
	set_page_counts(page, 1);
	page->private = 0;
	return page;
}

/* A large block for a request without a node. The table of the stacks has the nearest zone; and
 * there are stacks only when no debugging wants to see each allocation. NULL: the usual way. */
static struct page *alloc_large(struct mm *mm, gfp_t gfp, unsigned int order)
{
	enum migratetype mt = gfpflags_to_migratetype(gfp);
	const unsigned long slot = mm_this_cpu(mm) * HOT_PER_CPU + HOT_SLOT(gfp_zone(gfp), mt);
	struct zone *zone = __atomic_load_n(&mm->hot_alloc[slot], __ATOMIC_RELAXED)->zone;

	if (unlikely(!__atomic_load_n(&mm->hot.hot_cpus_usual, __ATOMIC_RELAXED) || !zone ||
		     (gfp & GFP_NOT_PLAIN) || !far_above_low(zone, gfp, order)))
		return NULL;
	return take_plain(mm, zone, gfp, order, grouping(mm) ? mt : MIGRATE_MOVABLE);
}

static struct page *alloc_pages_context(struct mm *mm, gfp_t gfp, unsigned int order,
					const struct alloc_context *ac)
{
	unsigned int alloc_flags;
	struct page *page;

	if (likely(order <= PCP_MAX_ORDER)) {
		page = alloc_fast(mm, gfp, order, ac);
		if (likely(page != NULL))
			return page;
	} else {
		struct zone *zone = order <= MAX_ORDER ? first_zone(ac) : NULL;

		page = zone ? alloc_large_fast(mm, zone, gfp, order, ac->migratetype) : NULL;
		if (page || order > MAX_ORDER)
			return page;
	}
	alloc_flags = ALLOC_WMARK_LOW | alloc_flags_nofragment(ac);
	if (gfp & __GFP_KSWAPD_RECLAIM)
		alloc_flags |= ALLOC_KSWAPD;
	page = get_page_from_freelist(mm, gfp, order, alloc_flags, ac);
	if (!page)
		page = alloc_pages_slowpath(mm, gfp, order, ac);
	return page;
}

struct page *mm_alloc_pages_nodemask(struct mm *mm, gfp_t gfp, unsigned int order,
				     int preferred_nid, const nodemask_t *nodemask)
{
	struct alloc_context ac;

	if (unlikely(should_fail_alloc(mm, gfp, order)))
		return NULL;
	prepare_alloc_context(mm, gfp, preferred_nid, nodemask ? *nodemask : 0, &ac);
	return alloc_pages_context(mm, gfp, order, &ac);
}

struct page *mm_alloc_pages_node(struct mm *mm, int nid, gfp_t gfp, unsigned int order)
{
	return mm_alloc_pages_nodemask(mm, gfp, order, nid, NULL);
}

struct page *mm_alloc_pages(struct mm *mm, gfp_t gfp, unsigned int order)
{
	struct page *page;

	if (likely(order == 0 && !(gfp & GFP_NOT_HOT)))
		return mm_alloc_page_hot(mm, gfp);
	if (order > PCP_MAX_ORDER && order <= MAX_ORDER) {
		page = alloc_large(mm, gfp, order);
		if (likely(page != NULL))
			return page;
	}
	return mm_alloc_pages_nodemask(mm, gfp, order, NUMA_NO_NODE, NULL);
}
