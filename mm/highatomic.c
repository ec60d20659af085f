/* SPDX-License-Identifier: MIT */
/*
 * The highatomic reserve: requests of order > 0 that cannot wait (GFP_ATOMIC) are the first to fail
 * when memory is fragmented. The pageblock that served one is kept for their kind, up to 1 % of a
 * zone; when others run dry it is given up again.
 */
#include "mm/free_list.h"

/* Frames that may be reserved; none if 1 % is less than a pageblock. */
static uint64_t reserve_limit(const struct mm *mm, const struct zone *zone)
{
	uint64_t block = order_frames(mm->pageblock_order);
	uint64_t percent = zone_read(zone, managed_pages) / 100;

	return percent < block ? 0 : (percent + block - 1) / block * block;
}

/* page was just allocated. Kernel: reserve_highatomic_pageblock(). */
void reserve_highatomic(struct mm *mm, struct zone *zone, struct page *page)
{
	uint64_t block = order_frames(mm->pageblock_order);

	/* A block larger than a pageblock is beyond what the reserve is for. */
	if (page_order(page) >= mm->pageblock_order ||
	    zone_read(zone, nr_reserved_highatomic) + block > reserve_limit(mm, zone))
		return;
	spin_lock(&zone->lock);
	if (zone->nr_reserved_highatomic + block <= reserve_limit(mm, zone) &&
	    get_pageblock_migratetype(mm, page) < MIGRATE_PCPTYPES) {
		move_freepages_block(mm, zone, page, MIGRATE_HIGHATOMIC);
		__atomic_store_n(&zone->nr_reserved_highatomic,
				 zone->nr_reserved_highatomic + block, __ATOMIC_RELAXED);
	}
	spin_unlock(&zone->lock);
}

/* A free block of the reserve, of any order; NULL if there is none. Zone lock held. */
static struct page *reserved_block(struct zone *zone)
{
	for (unsigned int order = 0; order < NR_PAGE_ORDERS; order++) {
		struct free_area *area = &zone->free_area[order];
		struct list_head *list = area->free_list[MIGRATE_HIGHATOMIC];

		for (unsigned int kind = 0; kind < NR_FREE_KINDS; kind++)
			if (!list_empty(&list[kind]))
				return list_first_entry(&list[kind], struct page, lru);
	}
	return NULL;
}

/* Of a free block of several pageblocks the first one; the others stay in the reserve. Zone lock
 * held. */
static void cut_to_pageblock(struct mm *mm, struct zone *zone, struct page *page)
{
	unsigned int order = page_order(page);
	unsigned int low, high;

	unlist_free_block(zone, page);
	while (order > mm->pageblock_order) {
		split_halves(page, order, &low, &high);
		order--;
		list_free_block(mm, zone, page + order_frames(order), order, MIGRATE_HIGHATOMIC,
				false);
	}
	list_free_block(mm, zone, page, order, MIGRATE_HIGHATOMIC, false);
}

/* Gives the pageblock that a free block is in, or the first of those that it has, to type mt. Zone
 * lock held. */
static void give_up_block(struct mm *mm, struct zone *zone, struct page *page, enum migratetype mt)
{
	const unsigned int order = mm->pageblock_order;

	if (page_order(page) > order)
		cut_to_pageblock(mm, zone, page);
	if (page_order(page) < order) {
		move_freepages_block(mm, zone, page, mt);
	} else {
		const int64_t frames = order_frames(order), zeroed = page->nr_zeroed;

		unlist_free_block(zone, page);
		set_pageblock_migratetype(mm, page, order, mt);
		/* Not a plain list_add: its neighbours may be mergeable now. */
		free_one_page(mm, zone, page, order, page->nr_zeroed);
		account_freepages(zone, -frames, -zeroed, MIGRATE_HIGHATOMIC);
	}
	__atomic_store_n(&zone->nr_reserved_highatomic,
			 zone->nr_reserved_highatomic - order_frames(order), __ATOMIC_RELAXED);
}

/*
 * Gives up one pageblock of a zone that the request may use. Each zone keeps its last one unless
 * force. Returns true if there was one. Kernel: unreserve_highatomic_pageblock().
 */
bool unreserve_highatomic(struct mm *mm, const struct alloc_context *ac, bool force)
{
	for (uint32_t at = 0; at < ac->zonelist->nr; at++) {
		struct zone *zone = ac->zonelist->refs[at].zone;
		struct page *page = NULL;

		if (zone->idx > ac->highest_zoneidx || !(ac->nodemask >> zone->nid & 1) ||
		    zone_read(zone, nr_reserved_highatomic) <=
			    (force ? 0 : order_frames(mm->pageblock_order)))
			continue;
		spin_lock(&zone->lock);
		page = reserved_block(zone);
		if (page)
			give_up_block(mm, zone, page, ac->migratetype);
		spin_unlock(&zone->lock);
		if (page)
			return true;
	}
	return false;
}
