/* SPDX-License-Identifier: MIT */
/*
 * Pageblocks: frames of the same mobility are kept together, so that free memory stays in large
 * blocks. Each pageblock has a type per zone (zones may interleave within a block, because hosts
 * give hugepages in any physical order). When a type has no free block, one of another type is
 * taken: the whole pageblock if most of it can be had, otherwise just the frames needed.
 *
 * The kernel's pageblock is 2 MiB, the size its users want in one piece; here that is an order-9
 * block, 1 GiB. Small pools use smaller ones, so that there are always at least 128 and 1 % of a
 * zone is a whole block.
 *
 * Called with the zone lock held, except get_pageblock_migratetype().
 */
#include <string.h>

#include "mm/free_list.h"

unsigned int choose_pageblock_order(uint64_t frames)
{
	unsigned int order = MAX_ORDER;

	while (order > 1 && frames >> order < 128)
		order--;
	return order;
}

uint64_t mm_pageblock_frames(const struct mm *mm)
{
	return order_frames(mm->pageblock_order);
}

/* For all pageblocks that 2^order frames from page on touch. */
void set_pageblock_migratetype(struct mm *mm, struct page *page, unsigned int order,
			       enum migratetype mt)
{
	uint8_t *entry = pageblock_entry(mm, page);
	unsigned int blocks = order > mm->pageblock_order ? 1u << (order - mm->pageblock_order) : 1;

	for (unsigned int i = 0; i < blocks; i++)
		__atomic_store_n(&entry[i], (uint8_t)mt, __ATOMIC_RELAXED);
}

/* The first frame of the pageblock that page is in. */
static struct page *block_start(const struct mm *mm, const struct page *page)
{
	return &mm->hot.mem_map[pfn_of(mm, page) >> mm->pageblock_order << mm->pageblock_order];
}

/* Frames to go from page to the next block head, whatever page is. */
static unsigned int block_step(const struct page *page)
{
	uint64_t flags = page_flags(page);

	if ((flags & PAGE_FLAG(present)) == 0)
		return 1;
	if ((flags & (PAGE_FLAG(buddy) | PAGE_FLAG(pcp))) || page_count(page) > 0)
		return order_frames(page_order(page));
	return 1;
}

/* What is in the part of a pageblock that belongs to zone, in frames. */
struct block_use {
	unsigned int free;
	unsigned int movable; /* allocated, and can be moved */
	unsigned int total;
};

static void count_block(const struct mm *mm, const struct zone *zone, const struct page *start,
			struct block_use *use)
{
	unsigned int size = order_frames(mm->pageblock_order);
	unsigned int step;

	*use = (struct block_use){ 0 };
	for (unsigned int i = 0; i < size; i += step) {
		const struct page *page = start + i;

		step = block_step(page);
		if (!page_test(page, PAGE_FLAG(present)) || page_zonenum(page) != zone->idx ||
		    page_to_nid(page) != zone->nid)
			continue;
		use->total += step;
		if (page_test(page, PAGE_FLAG(buddy)))
			use->free += step;
		else if (page_count(page) > 0 && page_list_migratetype(page) == MIGRATE_MOVABLE)
			use->movable += step;
	}
}

/*
 * Makes the pageblock of page one of type mt and moves its free blocks to mt's lists. Returns the
 * frames moved. A free block larger than a pageblock is not handled: it has no neighbours to care
 * for and is claimed as a whole.
 */
uint64_t move_freepages_block(struct mm *mm, struct zone *zone, struct page *page,
			      enum migratetype mt)
{
	struct page *start = block_start(mm, page);
	unsigned int size = order_frames(mm->pageblock_order);
	uint64_t moved = 0;
	unsigned int step;

	set_pageblock_migratetype(mm, page, mm->pageblock_order, mt);
	for (unsigned int i = 0; i < size; i += step) {
		struct page *head = start + i;

		step = block_step(head);
		if (!page_test(head, PAGE_FLAG(buddy)) || page_zonenum(head) != zone->idx)
			continue;
		move_to_free_list(mm, zone, head, mt, true);
		moved += step;
	}
	return moved;
}

/* A type without free blocks takes from these, in this order. */
static const uint8_t fallbacks[MIGRATE_PCPTYPES][MIGRATE_PCPTYPES - 1] = {
	[MIGRATE_UNMOVABLE] = { MIGRATE_RECLAIMABLE, MIGRATE_MOVABLE },
	[MIGRATE_MOVABLE] = { MIGRATE_RECLAIMABLE, MIGRATE_UNMOVABLE },
	[MIGRATE_RECLAIMABLE] = { MIGRATE_UNMOVABLE, MIGRATE_MOVABLE },
};

/* The first fallback type with a free block of this order, or MIGRATE_TYPES. */
static enum migratetype find_fallback(const struct zone *zone, unsigned int order,
				      enum migratetype mt)
{
	for (unsigned int i = 0; mt < MIGRATE_PCPTYPES && i < MIGRATE_PCPTYPES - 1; i++)
		if (zone->free_area[order].nr[fallbacks[mt][i]])
			return fallbacks[mt][i];
	return MIGRATE_TYPES;
}

/*
 * Whether taking over the pageblock is worth a try. Unmovable and reclaimable frames spoil a block
 * for good, so they always try to get one of their own (kernel: should_try_claim_block()).
 */
static bool should_try_claim(const struct mm *mm, unsigned int order, enum migratetype mt)
{
	return order >= mm->pageblock_order / 2 || mt == MIGRATE_RECLAIMABLE ||
	       mt == MIGRATE_UNMOVABLE || !grouping(mm);
}

/*
 * Mixing was necessary: more free memory would help, so kswapd is to free a pageblock beyond the
 * high mark (kernel: boost_watermark()). Not in zones so small that a block is a large part.
 */
static bool boost_watermark(const struct mm *mm, struct zone *zone)
{
	uint64_t factor = __atomic_load_n(&mm->settings.watermark_boost_factor, __ATOMIC_RELAXED);
	uint64_t block = order_frames(mm->pageblock_order);
	uint64_t max = zone_read(zone, _watermark[WMARK_HIGH]) * factor / 10000;
	uint64_t boost = zone->watermark_boost + block;

	if (max == 0 || zone->managed_pages < block * 4)
		return false;
	if (max < block)
		max = block;
	__atomic_store_n(&zone->watermark_boost, boost < max ? boost : max, __ATOMIC_RELAXED);
	return true;
}

/* A free block of another type: takes over its pageblock if half of that can be had. */
static struct page *try_to_claim(struct mm *mm, struct zone *zone, struct page *page,
				 unsigned int order, enum migratetype mt, unsigned int alloc_flags)
{
	enum migratetype block_mt = page_list_migratetype(page);
	unsigned int found = page_order(page);
	struct block_use use;
	unsigned int alike;

	if (found >= mm->pageblock_order) {
		set_pageblock_migratetype(mm, page, found, mt);
		move_to_free_list(mm, zone, page, mt, false);
		return rmqueue_smallest(mm, zone, order, mt, false);
	}
	if ((alloc_flags & ALLOC_KSWAPD) &&
	    __atomic_load_n(&zone->zone_pgdat->kswapd_running, __ATOMIC_RELAXED) &&
	    boost_watermark(mm, zone))
		__atomic_fetch_or(&zone->flags, ZONE_FLAG_BOOSTED, __ATOMIC_RELAXED);
	count_block(mm, zone, block_start(mm, page), &use);
	/* Frames in the block that suit the new type: known for movable ones only. */
	if (mt == MIGRATE_MOVABLE)
		alike = use.movable;
	else
		alike = block_mt == MIGRATE_MOVABLE ? use.total - use.free - use.movable : 0;
	if (grouping(mm) && use.free + alike < order_frames(mm->pageblock_order - 1))
		return NULL;
	move_freepages_block(mm, zone, page, mt);
	return rmqueue_smallest(mm, zone, order, mt, false);
}

static struct page *any_block(struct zone *zone, unsigned int order, enum migratetype mt)
{
	struct free_area *area = &zone->free_area[order];
	unsigned int kind = list_empty(&area->free_list[mt][FREE_DIRTY]) ? FREE_ZEROED : FREE_DIRTY;

	return list_first_entry(&area->free_list[mt][kind], struct page, lru);
}

/* From the largest block down: a large one leaves the fewest mixed pageblocks. */
static struct page *rmqueue_claim(struct mm *mm, struct zone *zone, unsigned int order,
				  enum migratetype mt, unsigned int alloc_flags)
{
	unsigned int min_order = order;

	if ((alloc_flags & ALLOC_NOFRAGMENT) && order < mm->pageblock_order)
		min_order = mm->pageblock_order;
	for (unsigned int o = NR_PAGE_ORDERS; o-- > min_order;) {
		enum migratetype from = find_fallback(zone, o, mt);
		struct page *page;

		if (!should_try_claim(mm, o, mt))
			break;
		if (from == MIGRATE_TYPES)
			continue;
		page = try_to_claim(mm, zone, any_block(zone, o, from), order, mt, alloc_flags);
		if (page)
			return page;
	}
	return NULL;
}

/* Takes just the frames, from the smallest block; the pageblock stays what it is. */
static struct page *rmqueue_steal(struct mm *mm, struct zone *zone, unsigned int order,
				  enum migratetype mt)
{
	for (unsigned int o = order; o < NR_PAGE_ORDERS; o++) {
		enum migratetype from = find_fallback(zone, o, mt);

		if (from != MIGRATE_TYPES)
			return rmqueue_smallest(mm, zone, order, from, false);
	}
	return NULL;
}

/* When the lists of mt itself have nothing. */
struct page *rmqueue_fallback(struct mm *mm, struct zone *zone, unsigned int order,
			      enum migratetype mt, unsigned int alloc_flags)
{
	struct page *page = rmqueue_claim(mm, zone, order, mt, alloc_flags);

	if (!page && !(alloc_flags & ALLOC_NOFRAGMENT))
		page = rmqueue_steal(mm, zone, order, mt);
	return page;
}
