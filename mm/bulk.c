/* SPDX-License-Identifier: MIT */
/*
 * Many frames at once. Whole blocks are taken off the lists under one hold of the zone lock and
 * divided afterwards: cheaper than one by one, and the frames are consecutive, so that one mapping
 * can cover them.
 */
#include "mm/vmscan_internal.h"

/* Blocks per hold of the zone lock. */
#define BULK_BLOCKS 32

struct bulk {
	struct mm *mm;
	gfp_t gfp;
	struct page **pages;
	uint64_t nr;
	uint64_t done;
	bool plain; /* no debugging that wants to see each frame */
};

/*
 * prep_new_page() for many frames whose content is known and wanted as it is: one look and one
 * store per word of each struct page. Whatever is unusual takes the long way.
 */
static void prep_frames(struct bulk *bulk, struct page *page, unsigned int frames, bool zeroed)
{
	const uint64_t flags = (page_flags(page) & PAGE_IDENTITY) |
			       PAGE_MT(gfpflags_to_migratetype(bulk->gfp)) |
			       (zeroed ? PAGE_FLAG(zeroed) : 0);
	struct page **pages = bulk->pages + bulk->done;

	for (const struct page *end = page + frames; page < end; page++) {
		page->nr_zeroed = zeroed;
		/* page_allocatable() in one */
		if (unlikely((page_flags(page) & PAGE_FLAGS_CHECK_AT_PREP) | page_counts(page) |
			     (uintptr_t)page->mapping)) {
			if (prep_new_page(bulk->mm, page, 0, bulk->gfp))
				*pages++ = page;
			continue;
		}
		page_set_flags(page, flags);
		page->private = 0;
		set_page_counts(page, 1);
		*pages++ = page;
	}
	bulk->done = (uint64_t)(pages - bulk->pages);
}

/* Makes a block just taken off the lists into frames of order 0, each the caller's. */
static void hand_out(struct bulk *bulk, struct page *page, unsigned int order)
{
	unsigned int frames = order_frames(order);
	unsigned int low, high;

	if (page->nr_zeroed != 0 && page->nr_zeroed != frames) {
		split_halves(page, order, &low, &high);
		hand_out(bulk, page, order - 1);
		hand_out(bulk, page + frames / 2, order - 1);
		return;
	}
	low = page->nr_zeroed != 0;
	if (bulk->plain && (low || !(bulk->gfp & __GFP_ZERO))) {
		prep_frames(bulk, page, frames, low != 0);
		return;
	}
	for (unsigned int i = 0; i < frames; i++) {
		page[i].nr_zeroed = (uint16_t)low;
		if (prep_new_page(bulk->mm, page + i, 0, bulk->gfp))
			bulk->pages[bulk->done++] = page + i;
	}
}

/* One block of at most 2^order frames, the largest there is; NULL if the zone has nothing. */
static struct page *take_block(struct mm *mm, struct zone *zone, unsigned int order,
			       unsigned int alloc_flags, const struct alloc_context *ac)
{
	struct page *page;

	for (unsigned int o = order + 1; o-- > 0;) {
		page = rmqueue_smallest(mm, zone, o, ac->migratetype, ac->want_zeroed);
		if (page)
			return page;
	}
	for (unsigned int o = order + 1; o-- > 0;) {
		page = rmqueue_fallback(mm, zone, o, ac->migratetype, alloc_flags);
		if (page)
			return page;
	}
	return NULL;
}

static unsigned int floor_log2(uint64_t x)
{
	return 63 - (unsigned int)__builtin_clzll(x);
}

/* Takes what the zone may give. Returns false when it has no more. */
static bool bulk_from_zone(struct bulk *bulk, struct zone *zone, unsigned int alloc_flags,
			   const struct alloc_context *ac)
{
	struct page *blocks[BULK_BLOCKS];
	uint64_t mark = wmark_pages(zone, alloc_flags & ALLOC_WMARK_MASK);
	uint64_t want = bulk->nr - bulk->done;
	unsigned int nr_blocks = 0;
	int64_t allowed;

	spin_lock(&zone->lock);
	allowed = zone_allowance(zone, 0, mark, ac->highest_zoneidx, alloc_flags);
	if (alloc_flags & ALLOC_NO_WATERMARKS)
		allowed = INT64_MAX;
	while (want > 0 && allowed > 0 && nr_blocks < BULK_BLOCKS) {
		uint64_t most = want < (uint64_t)allowed ? want : (uint64_t)allowed;
		unsigned int order = most >= MAX_ORDER_NR_PAGES ? MAX_ORDER : floor_log2(most);
		struct page *page = take_block(bulk->mm, zone, order, alloc_flags, ac);

		if (!page)
			break;
		blocks[nr_blocks++] = page;
		zone_count_alloc(zone, order_frames(page_order(page)));
		want -= order_frames(page_order(page));
		allowed -= order_frames(page_order(page));
	}
	spin_unlock(&zone->lock);
	for (unsigned int i = 0; i < nr_blocks; i++)
		hand_out(bulk, blocks[i], page_order(blocks[i]));
	return nr_blocks > 0;
}

static void bulk_from_zonelist(struct bulk *bulk, unsigned int alloc_flags,
			       const struct alloc_context *ac)
{
	const struct zonelist *zonelist = ac->zonelist;
	uint32_t at = __atomic_load_n(&zonelist->first[ac->highest_zoneidx], __ATOMIC_RELAXED);

	for (; at < zonelist->nr && bulk->done < bulk->nr; at++) {
		const struct zoneref *ref = &zonelist->refs[at];

		if (ref->zone_idx > ac->highest_zoneidx || !(ac->nodemask >> ref->nid & 1) ||
		    !managed_zone(ref->zone))
			continue;
		while (bulk->done < bulk->nr && bulk_from_zone(bulk, ref->zone, alloc_flags, ac))
			;
	}
}

uint64_t mm_alloc_pages_bulk(struct mm *mm, gfp_t gfp, nodemask_t nodemask, uint64_t nr,
			     struct page **pages)
{
	struct bulk bulk = { .mm = mm, .gfp = gfp & ~__GFP_COMP, .pages = pages, .nr = nr };
	int nid = mm->cpu_node[mm_this_cpu(mm)];
	struct alloc_context ac;
	struct page *page;

	if (nr == 0 || should_fail_alloc(mm, gfp, 0))
		return 0;
	bulk.plain = !mm->page_owner && !(mm->flags & MM_DEBUG_POISON);
	if (nodemask && !(nodemask >> nid & 1))
		nid = __builtin_ctzll(nodemask);
	prepare_alloc_context(mm, gfp, nid, nodemask, &ac);
	bulk_from_zonelist(&bulk, ALLOC_WMARK_LOW, &ac);
	if (bulk.done < nr) {
		wake_all_kswapds(gfp, 0, &ac);
		mm_drain_all_pages(mm);
		bulk_from_zonelist(&bulk, gfp_to_alloc_flags(gfp, 0), &ac);
	}
	if (bulk.done == 0) {
		page = mm_alloc_pages_nodemask(mm, gfp, 0, nid, &nodemask);
		if (page)
			pages[bulk.done++] = page;
	}
	return bulk.done;
}
