/* SPDX-License-Identifier: MIT */
/*
 * Putting a block on the free list of its order, mobility and kind, taking it off, and the counts
 * of free frames. Inline, because every allocation of a large block does it. All with the zone lock
 * held.
 *
 * The watermarks are compared with the free count without the lock. So whoever splits, merges or
 * moves a block counts once what left or came in the end: listing does not count. A block off its
 * list for a moment, with the holder of the lock preempted, must not look like an empty zone.
 * Kernel: account_freepages().
 */
#ifndef MM_FREE_LIST_H
#define MM_FREE_LIST_H

#include "mm/internal.h"

/* Orders beyond those of the caches that the zone has a block of, for a walk over many zones. */
static inline void update_large_orders(struct mm *mm, const struct zone *zone)
{
	unsigned int orders = 0;

	for (unsigned int mt = 0; mt < MIGRATE_ISOLATE; mt++)
		orders |= zone->free_orders[mt][FREE_DIRTY] | zone->free_orders[mt][FREE_ZEROED];
	__atomic_store_n(&mm->large_orders[zone->nid][zone->idx],
			 (uint16_t)(orders >> (PCP_MAX_ORDER + 1)), __ATOMIC_RELAXED);
}

static inline void account_freepages(struct zone *zone, int64_t frames, int64_t zeroed,
				     enum migratetype mt)
{
	zone_stat_add(zone, mt == MIGRATE_ISOLATE ? NR_FREE_ISOLATE : NR_FREE_PAGES, frames);
	if (zeroed)
		zone_stat_add(zone, NR_FREE_ZEROED, zeroed);
	if (mt == MIGRATE_HIGHATOMIC)
		zone_stat_add(zone, NR_FREE_HIGHATOMIC, frames);
}

/* Without the free counts. page->nr_zeroed is set, and says the kind: inline, so that callers who
 * know it get less code. */
static inline __attribute__((always_inline)) void list_block(struct mm *mm, struct zone *zone,
							     struct page *page, unsigned int order,
							     enum migratetype mt, unsigned int kind,
							     bool tail)
{
	struct free_area *area = &zone->free_area[order];

	page_set_flags(page, (page_flags(page) & PAGE_IDENTITY) | PAGE_FLAG(buddy) |
				     PAGE_ORDER(order) | PAGE_MT(mt));
	/* Mixed blocks in front of all-zero ones: they are what both kinds of requests break. */
	if (kind == FREE_ZEROED)
		tail = page->nr_zeroed == order_frames(order);
	if (tail)
		list_add_tail(&page->lru, &area->free_list[mt][kind]);
	else
		list_add(&page->lru, &area->free_list[mt][kind]);
	if (unlikely(!(zone->free_orders[mt][kind] >> order & 1))) {
		zone->free_orders[mt][kind] |= (uint16_t)(1u << order);
		if (order > PCP_MAX_ORDER)
			update_large_orders(mm, zone);
	}
	__atomic_store_n(&area->nr[mt], area->nr[mt] + 1, __ATOMIC_RELAXED);
}

/* Off its list, still counted; the flags are those of a free block. */
static inline __attribute__((always_inline)) void unlist_block(struct zone *zone, struct page *page,
							       unsigned int order,
							       enum migratetype mt,
							       unsigned int kind)
{
	struct free_area *area = &zone->free_area[order];

	list_del(&page->lru);
	if (unlikely(list_empty(&area->free_list[mt][kind]))) {
		zone->free_orders[mt][kind] &= (uint16_t) ~(1u << order);
		if (order > PCP_MAX_ORDER)
			update_large_orders(zone->mm, zone);
	}
	__atomic_store_n(&area->nr[mt], area->nr[mt] - 1, __ATOMIC_RELAXED);
}

static inline unsigned int free_kind(const struct page *page)
{
	return page->nr_zeroed ? FREE_ZEROED : FREE_DIRTY;
}

/* The page keeps its order and list type in its flags, but is no buddy any more. */
static inline __attribute__((always_inline)) void unlist_free_block(struct zone *zone,
								    struct page *page)
{
	unlist_block(zone, page, page_order(page), page_list_migratetype(page), free_kind(page));
	page_set_flags(page, page_flags(page) & ~PAGE_FLAG(buddy));
}

static inline void list_free_block(struct mm *mm, struct zone *zone, struct page *page,
				   unsigned int order, enum migratetype mt, bool tail)
{
	list_block(mm, zone, page, order, mt, free_kind(page), tail);
}

/* Whether the frames of both types are in the same counts. */
static inline bool counted_alike(enum migratetype a, enum migratetype b)
{
	return a == b || (a < MIGRATE_PCPTYPES && b < MIGRATE_PCPTYPES);
}

/* A free block onto the list of another type. */
static inline void move_to_free_list(struct mm *mm, struct zone *zone, struct page *page,
				     enum migratetype mt, bool tail)
{
	enum migratetype old = page_list_migratetype(page);
	unsigned int order = page_order(page);
	int64_t frames = order_frames(order);

	unlist_free_block(zone, page);
	list_free_block(mm, zone, page, order, mt, tail);
	if (!counted_alike(old, mt)) {
		account_freepages(zone, frames, page->nr_zeroed, mt);
		account_freepages(zone, -frames, -(int64_t)page->nr_zeroed, old);
	}
}

#endif
