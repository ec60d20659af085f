/* SPDX-License-Identifier: MIT */
/*
 * Putting a block on the free list of its order, mobility and kind, and taking it off, with the
 * counters that belong to it. Inline, because every allocation of a large block does both. All with
 * the zone lock held.
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

/* page->nr_zeroed is set, and says the kind: inline, so that callers who know it get less code. */
static inline __attribute__((always_inline)) void link_block(struct mm *mm, struct zone *zone,
							     struct page *page, unsigned int order,
							     enum migratetype mt, unsigned int kind,
							     bool tail)
{
	struct free_area *area = &zone->free_area[order];
	unsigned int frames = order_frames(order);
	unsigned int zeroed = kind == FREE_ZEROED ? page->nr_zeroed : 0;

	page_set_flags(page, (page_flags(page) & PAGE_IDENTITY) | PAGE_FLAG(buddy) |
				     PAGE_ORDER(order) | PAGE_MT(mt));
	/* Mixed blocks in front of all-zero ones: they are what both kinds of requests break. */
	if (kind == FREE_ZEROED)
		tail = zeroed == frames;
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
	account_freepages(zone, frames, zeroed, mt);
}

/* Off its list; the flags are still those of a free block. */
static inline __attribute__((always_inline)) void unlink_block(struct zone *zone, struct page *page,
							       unsigned int order,
							       enum migratetype mt,
							       unsigned int kind)
{
	struct free_area *area = &zone->free_area[order];
	unsigned int zeroed = kind == FREE_ZEROED ? page->nr_zeroed : 0;

	list_del(&page->lru);
	if (unlikely(list_empty(&area->free_list[mt][kind]))) {
		zone->free_orders[mt][kind] &= (uint16_t) ~(1u << order);
		if (order > PCP_MAX_ORDER)
			update_large_orders(zone->mm, zone);
	}
	__atomic_store_n(&area->nr[mt], area->nr[mt] - 1, __ATOMIC_RELAXED);
	account_freepages(zone, -(int64_t)order_frames(order), -(int64_t)zeroed, mt);
}

static inline __attribute__((always_inline)) void add_to_free_list(struct mm *mm, struct zone *zone,
								   struct page *page,
								   unsigned int order,
								   enum migratetype mt, bool tail)
{
	link_block(mm, zone, page, order, mt, page->nr_zeroed ? FREE_ZEROED : FREE_DIRTY, tail);
}

/* The page keeps its order and list type in its flags, but is no buddy any more. */
static inline __attribute__((always_inline)) void del_from_free_list(struct zone *zone,
								     struct page *page)
{
	unlink_block(zone, page, page_order(page), page_list_migratetype(page),
		     page->nr_zeroed ? FREE_ZEROED : FREE_DIRTY);
	page_set_flags(page, page_flags(page) & ~PAGE_FLAG(buddy));
}

#endif
