/* SPDX-License-Identifier: MIT */
/*
 * The two scanners. The migrate scanner reads struct pages without a lock and asks their holders;
 * the free scanner takes blocks off the free lists under the zone lock, one pageblock at a time.
 *
 * Isolated free blocks are counted as NR_ZEROING, like those being zeroed: free, but for a moment
 * on no list.
 */
#include "mm/compaction_internal.h"

static uint64_t pageblock_frames(const struct compact_control *cc)
{
	return order_frames(cc->mm->pageblock_order);
}

static uint64_t pageblock_start(const struct compact_control *cc, uint64_t pfn)
{
	return pfn & ~(pageblock_frames(cc) - 1);
}

static bool in_zone(const struct compact_control *cc, const struct page *page)
{
	return page_test(page, PAGE_FLAG(present)) && page_zonenum(page) == cc->zone->idx &&
	       page_to_nid(page) == cc->zone->nid;
}

bool compact_scanners_met(const struct compact_control *cc)
{
	return cc->free_pfn <= cc->migrate_pfn ||
	       pageblock_start(cc, cc->free_pfn - 1) <= pageblock_start(cc, cc->migrate_pfn);
}

/* Kernel: suitable_migration_source(). */
static bool suitable_source(const struct compact_control *cc, const struct page *page)
{
	enum migratetype mt = get_pageblock_migratetype(cc->mm, page);

	if (mt >= MIGRATE_PCPTYPES)
		return false;
	return cc->mode != MIGRATE_ASYNC || mt == MIGRATE_MOVABLE || mt == cc->migratetype;
}

/* Whether moving the block away helps: not if it is itself as large as what is wanted. */
static bool worth_moving(const struct compact_control *cc, const struct page *page)
{
	unsigned int wanted = cc->order >= 0 ? (unsigned int)cc->order : MAX_ORDER;

	return page_order(page) < wanted;
}

/* From pfn to end, until the batch is full. Returns where it stopped. */
static uint64_t isolate_migratepages_block(struct compact_control *cc, uint64_t pfn, uint64_t end)
{
	while (pfn < end && cc->batch.nr < COMPACT_CLUSTER_MAX) {
		struct page *page = &cc->mm->mem_map[pfn];
		bool allocated = page_count(page) > 0;

		cc->migrate_scanned++;
		if (!in_zone(cc, page)) {
			pfn++;
			continue;
		}
		if (allocated && worth_moving(cc, page))
			isolate_movable_page(cc->mm, page, &cc->batch);
		if (allocated || page_test(page, PAGE_FLAG(buddy) | PAGE_FLAG(pcp)))
			pfn += order_frames(page_order(page));
		else
			pfn++;
	}
	return pfn;
}

/* Fills the batch. False: there is nothing more between the scanners. */
bool isolate_migratepages(struct compact_control *cc)
{
	while (cc->batch.nr == 0 && !compact_scanners_met(cc)) {
		struct page *page = &cc->mm->mem_map[cc->migrate_pfn];
		uint64_t end = pageblock_start(cc, cc->migrate_pfn) + pageblock_frames(cc);

		if (end > cc->free_pfn)
			end = cc->free_pfn;
		/* The type is of a zone in a node: absent frames have neither. */
		if (!in_zone(cc, page))
			cc->migrate_pfn++;
		else if (suitable_source(cc, page))
			cc->migrate_pfn = isolate_migratepages_block(cc, cc->migrate_pfn, end);
		else
			cc->migrate_pfn = end;
	}
	return cc->batch.nr > 0;
}

static bool suitable_target(const struct compact_control *cc, const struct page *page)
{
	enum migratetype mt = page_list_migratetype(page);
	unsigned int wanted = cc->order > 0 ? (unsigned int)cc->order : cc->mm->pageblock_order;

	if (page_order(page) >= wanted)
		return false; /* large already */
	return mt == MIGRATE_MOVABLE || (cc->ignore_block_suitable && mt < MIGRATE_PCPTYPES);
}

/* The upper end of a free block, as much as is needed. Kernel: __isolate_free_page(). */
static bool isolate_free_block(struct compact_control *cc, struct page *head, uint64_t need)
{
	struct zone *zone = cc->zone;
	uint64_t end = pfn_of(cc->mm, head) + order_frames(page_order(head));
	unsigned int order = 0;
	struct page *page;
	uint64_t mark;

	while (order < page_order(head) && order_frames(order) < need)
		order++;
	mark = zone_read(zone, _watermark[WMARK_MIN]) + order_frames(order);
	if (!zone_watermark_ok(zone, 0, mark, 0, 0))
		return false;
	take_free_range(cc->mm, zone, head, end - order_frames(order), end);
	page = &cc->mm->mem_map[end - order_frames(order)];
	page_set_flags(page, page_flags(page) | PAGE_FLAG(isolated));
	zone_stat_add(zone, NR_ZEROING, order_frames(order));
	list_add(&page->lru, &cc->freepages[order]);
	cc->nr_freepages += order_frames(order);
	return true;
}

/* The free blocks of one pageblock. False: the zone must not give more. */
static bool isolate_freepages_block(struct compact_control *cc, uint64_t pfn, uint64_t end,
				    uint64_t need)
{
	bool allowed = true;

	spin_lock(&cc->zone->lock);
	while (pfn < end && cc->nr_freepages < need && allowed) {
		struct page *page = &cc->mm->mem_map[pfn];

		cc->free_scanned++;
		if (!in_zone(cc, page) || !page_test(page, PAGE_FLAG(buddy))) {
			pfn++;
			continue;
		}
		pfn += order_frames(page_order(page));
		/* A rest of the block that was not needed is found when it is looked at again. */
		if (suitable_target(cc, page))
			allowed = isolate_free_block(cc, page, need - cc->nr_freepages);
	}
	spin_unlock(&cc->zone->lock);
	return allowed;
}

/* Down from free_pfn until there are targets for the batch. Kernel: isolate_freepages(). */
static void isolate_freepages(struct compact_control *cc)
{
	uint64_t need = cc->batch.frames;

	while (!compact_scanners_met(cc) && cc->nr_freepages < need) {
		uint64_t start = pageblock_start(cc, cc->free_pfn - 1);

		if (!isolate_freepages_block(cc, start, cc->free_pfn, need))
			break;
		if (cc->nr_freepages < need)
			cc->free_pfn = start;
	}
}

/* Free frames kept for this run, smallest fitting block first. NULL: none of this order. */
static struct page *take_target(struct compact_control *cc, unsigned int order)
{
	unsigned int found = order, low, high;
	struct page *page;

	while (found < NR_PAGE_ORDERS && list_empty(&cc->freepages[found]))
		found++;
	if (found == NR_PAGE_ORDERS)
		return NULL;
	page = list_first_entry(&cc->freepages[found], struct page, lru);
	list_del(&page->lru);
	while (found > order) {
		struct page *upper;

		split_halves(page, found, &low, &high);
		found--;
		upper = page + order_frames(found);
		page_set_flags(page, (page_flags(page) & ~PAGE_ORDER_MASK) | PAGE_ORDER(found));
		page_set_flags(upper, (page_flags(upper) & PAGE_IDENTITY) | PAGE_FLAG(isolated) |
					      PAGE_ORDER(found));
		list_add(&upper->lru, &cc->freepages[found]);
	}
	cc->nr_freepages -= order_frames(order);
	return page;
}

/* A block for one that moves. Kernel: compaction_alloc(). */
struct page *compaction_alloc(struct compact_control *cc, unsigned int order)
{
	struct page *page = take_target(cc, order);

	if (!page) {
		isolate_freepages(cc);
		page = take_target(cc, order);
	}
	if (!page)
		return NULL;
	spin_lock(&cc->zone->lock);
	page_set_flags(page, page_flags(page) & ~PAGE_FLAG(isolated));
	zone_stat_add(cc->zone, NR_ZEROING, -(int64_t)order_frames(order));
	spin_unlock(&cc->zone->lock);
	return prep_new_page(cc->mm, page, order, __GFP_MOVABLE) ? page : NULL;
}

/* What compaction_alloc() gave and nobody took, its content unknown. */
void compaction_free(struct compact_control *cc, struct page *page, unsigned int order)
{
	free_to_buddy(cc->mm, page, order);
}

void release_freepages(struct compact_control *cc)
{
	spin_lock(&cc->zone->lock);
	for (unsigned int order = 0; order < NR_PAGE_ORDERS; order++) {
		while (!list_empty(&cc->freepages[order])) {
			struct page *page =
				list_first_entry(&cc->freepages[order], struct page, lru);

			list_del(&page->lru);
			page_set_flags(page, page_flags(page) & ~PAGE_FLAG(isolated));
			zone_stat_add(cc->zone, NR_ZEROING, -(int64_t)order_frames(order));
			free_one_page(cc->mm, cc->zone, page, order, page->nr_zeroed);
		}
	}
	cc->nr_freepages = 0;
	spin_unlock(&cc->zone->lock);
}
