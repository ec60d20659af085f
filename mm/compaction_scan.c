/* SPDX-License-Identifier: MIT */
/*
 * Emptying one area: its blocks are taken from their holders, the largest first because they are
 * the hardest to place, and free blocks are taken off the lists of other areas for them, under the
 * zone lock, the smallest that fit.
 *
 * Isolated free blocks are counted as NR_ZEROING, like those being zeroed: free, but for a moment
 * on no list.
 */
#include "mm/compaction_internal.h"

/* Passes over an area whose holders may wait: one of them may be busy for a moment. */
#define SYNC_PASSES 3

bool compact_in_zone(const struct compact_control *cc, const struct page *page)
{
	return page_test(page, PAGE_FLAG(present)) && page_zonenum(page) == cc->zone->idx &&
	       page_to_nid(page) == cc->zone->nid;
}

static bool suitable_target(const struct compact_control *cc, const struct page *page)
{
	enum migratetype mt = page_list_migratetype(page);

	if (page_order(page) >= cc->area_order)
		return false; /* large already */
	return mt == MIGRATE_MOVABLE || (cc->ignore_block_suitable && mt < MIGRATE_PCPTYPES);
}

/* Frames at the upper end of a free block, as many as are needed. Kernel: __isolate_free_page(). */
static bool isolate_free_block(struct compact_control *cc, struct page *head, uint64_t need)
{
	struct zone *zone = cc->zone;
	uint64_t end = pfn_of(cc->mm, head) + order_frames(page_order(head));
	uint64_t frames = order_frames(page_order(head));
	uint64_t pfn;

	if (frames > need)
		frames = need;
	if (!zone_watermark_ok(zone, 0, zone_read(zone, _watermark[WMARK_MIN]) + frames, 0, 0))
		return false;
	pfn = end - frames;
	take_free_range(cc->mm, zone, head, pfn, end);
	zone_stat_add(zone, NR_ZEROING, (int64_t)frames);
	while (pfn < end) {
		struct page *piece = &cc->mm->hot.mem_map[pfn];

		page_set_flags(piece, page_flags(piece) | PAGE_FLAG(isolated));
		list_add(&piece->lru, &cc->freepages[page_order(piece)]);
		pfn += order_frames(page_order(piece));
	}
	return true;
}

/* Those free blocks of an area that have exactly this order. Returns the frames still needed. */
static uint64_t isolate_free_order(struct compact_control *cc, uint64_t pfn, unsigned int order,
				   uint64_t need)
{
	uint64_t end = pfn + order_frames(cc->area_order);

	while (pfn < end && need > 0) {
		struct page *page = &cc->mm->hot.mem_map[pfn];
		uint64_t frames = order_frames(page_order(page));

		cc->free_scanned++;
		if (!compact_in_zone(cc, page) || !page_test(page, PAGE_FLAG(buddy))) {
			pfn++;
			continue;
		}
		pfn += frames;
		if (page_order(page) != order || !suitable_target(cc, page))
			continue;
		if (!isolate_free_block(cc, page, need))
			break;
		need -= frames < need ? frames : need;
	}
	return need;
}

/* Targets of one order for the batch, from the areas that are not to be emptied, last one first.
 * An area that has none is not asked for this order again. Kernel: isolate_freepages(). */
static void isolate_freepages(struct compact_control *cc, unsigned int order)
{
	uint64_t need = cc->batch.frames;

	while (need > 0 && cc->target[order] > cc->source) {
		uint64_t pfn = cc->areas[cc->target[order] - 1].pfn;

		spin_lock(&cc->zone->lock);
		for (unsigned int o = order; o < cc->area_order && need > 0; o++)
			need = isolate_free_order(cc, pfn, o, need);
		spin_unlock(&cc->zone->lock);
		if (need > 0)
			cc->target[order]--;
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
	return page;
}

/* A block for one that moves. Kernel: compaction_alloc(). */
static struct page *compaction_alloc(struct compact_control *cc, unsigned int order)
{
	struct page *page = take_target(cc, order);

	if (!page)
		return NULL;
	spin_lock(&cc->zone->lock);
	page_set_flags(page, page_flags(page) & ~PAGE_FLAG(isolated));
	zone_stat_add(cc->zone, NR_ZEROING, -(int64_t)order_frames(order));
	spin_unlock(&cc->zone->lock);
	return prep_new_page(cc->mm, page, order, __GFP_MOVABLE) ? page : NULL;
}

static void release_freepages(struct compact_control *cc)
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
	spin_unlock(&cc->zone->lock);
}

/* Moves the batch, whose blocks are of one order. True: all of it. */
static bool migrate_batch(struct compact_control *cc, unsigned int order)
{
	struct migrate_batch *batch = &cc->batch;
	bool moved = true;
	unsigned int i;

	if (batch->nr == 0)
		return true;
	count_vm_events(cc->mm, COMPACTISOLATED, batch->frames);
	isolate_freepages(cc, order);
	for (i = 0; i < batch->nr && (moved || cc->mode == MIGRATE_SYNC); i++) {
		struct page *to = compaction_alloc(cc, order);

		if (!to)
			break;
		if (migrate_page(cc->mm, batch->pages[i], batch->from_lru >> i & 1, to, cc->mode)) {
			moved = false;
			free_to_buddy(cc->mm, to, order);
		} else {
			cc->migrated += order_frames(order);
		}
	}
	moved = moved && i == batch->nr;
	putback_batch(cc->mm, batch, i);
	release_freepages(cc);
	return moved;
}

/* The orders of the blocks in use, bit by bit. */
static unsigned int orders_in_use(const struct compact_control *cc, uint64_t pfn)
{
	uint64_t end = pfn + order_frames(cc->area_order);
	unsigned int orders = 0;

	while (pfn < end) {
		const struct page *page = &cc->mm->hot.mem_map[pfn];
		bool used = page_count(page) > 0;

		if (used)
			orders |= 1u << page_order(page);
		pfn += used || page_test(page, PAGE_FLAG(buddy) | PAGE_FLAG(pcp))
			       ? order_frames(page_order(page))
			       : 1;
	}
	return orders;
}

/* All blocks of one order. False: one of them stays, so the area will not be empty. */
static bool empty_order(struct compact_control *cc, uint64_t pfn, unsigned int order)
{
	uint64_t end = pfn + order_frames(cc->area_order);
	bool emptied = true;

	while (pfn < end && (emptied || cc->mode == MIGRATE_SYNC)) {
		struct page *page = &cc->mm->hot.mem_map[pfn];
		bool used = page_count(page) > 0;
		unsigned int found = page_order(page);

		cc->migrate_scanned++;
		pfn += used || page_test(page, PAGE_FLAG(buddy) | PAGE_FLAG(pcp))
			       ? order_frames(found)
			       : 1;
		if (!used || found != order || !compact_in_zone(cc, page))
			continue;
		emptied &= isolate_movable_page(cc->mm, page, &cc->batch);
		if (cc->batch.nr == COMPACT_CLUSTER_MAX)
			emptied &= migrate_batch(cc, order);
	}
	return migrate_batch(cc, order) && emptied;
}

/* Moves what is in the area to others. Gives up early when that will not succeed. */
void compact_empty_area(struct compact_control *cc, uint64_t pfn)
{
	unsigned int passes = cc->mode == MIGRATE_SYNC ? SYNC_PASSES : 1;

	for (bool emptied = false; !emptied && passes > 0; passes--) {
		unsigned int orders = orders_in_use(cc, pfn);

		emptied = true;
		for (unsigned int order = cc->area_order; order-- > 0;)
			if (orders >> order & 1)
				emptied = (emptied || cc->mode == MIGRATE_SYNC) &&
					  empty_order(cc, pfn, order) && emptied;
	}
}
