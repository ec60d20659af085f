/* SPDX-License-Identifier: MIT */
/*
 * Emptying a range of frames before it leaves the pool: what is free in it is not handed out any
 * more, what is in use is moved elsewhere by its holders.
 */
#include "mm/compaction_internal.h"
#include "mm/offline_internal.h"

/* Targets that turn out to lie in the range itself are kept aside until a better one is found. */
#define MAX_ASIDE 16

/*
 * Changes the type of a zone's part of a pageblock, free blocks with it. They may be parts of
 * larger ones, so they are taken off the lists and freed again. Zone lock held.
 */
static void retype_block(struct mm *mm, struct zone *zone, uint64_t start, enum migratetype mt)
{
	uint64_t end = start + order_frames(mm->pageblock_order);
	struct list_head taken;
	uint64_t pfn = start;

	list_init(&taken);
	while (pfn < end) {
		struct page *head = find_free_head(mm, &mm->hot.mem_map[pfn]);
		uint64_t stop;

		if (!head || page_zonenum(head) != zone->idx) {
			pfn++;
			continue;
		}
		stop = pfn_of(mm, head) + order_frames(page_order(head));
		if (stop > end)
			stop = end;
		take_free_range(mm, zone, head, pfn, stop);
		while (pfn < stop) {
			struct page *piece = &mm->hot.mem_map[pfn];

			list_add_tail(&piece->lru, &taken);
			pfn += order_frames(page_order(piece));
		}
	}
	__atomic_store_n(zone_pageblock(mm, zone, start), (uint8_t)mt, __ATOMIC_RELAXED);
	while (!list_empty(&taken)) {
		struct page *piece = list_first_entry(&taken, struct page, lru);

		list_del(&piece->lru);
		free_one_page(mm, zone, piece, page_order(piece), piece->nr_zeroed);
	}
}

/* For each zone's part of each pageblock that lies within the range: from one type to another. */
static void retype_range(struct mm *mm, pg_data_t *pgdat, uint64_t pfn, uint64_t nr, bool isolate)
{
	uint64_t block = order_frames(mm->pageblock_order);
	uint64_t start = (pfn + block - 1) & ~(block - 1);

	for (; start + block <= pfn + nr; start += block) {
		for (unsigned int type = 0; type < MAX_NR_ZONES; type++) {
			struct zone *zone = &pgdat->node_zones[type];
			uint8_t mt;

			if (!zone->pageset)
				continue;
			spin_lock(&zone->lock);
			mt = *zone_pageblock(mm, zone, start);
			if (isolate && mt < MIGRATE_PCPTYPES)
				retype_block(mm, zone, start, MIGRATE_ISOLATE);
			else if (!isolate && mt == MIGRATE_ISOLATE)
				retype_block(mm, zone, start, MIGRATE_MOVABLE);
			spin_unlock(&zone->lock);
		}
	}
}

/* Kernel: start_isolate_page_range(). Pageblocks at the ends that are only partly in the range
 * stay as they are. */
void isolate_page_range(struct mm *mm, pg_data_t *pgdat, uint64_t pfn, uint64_t nr)
{
	retype_range(mm, pgdat, pfn, nr, true);
}

void undo_isolate_page_range(struct mm *mm, pg_data_t *pgdat, uint64_t pfn, uint64_t nr)
{
	retype_range(mm, pgdat, pfn, nr, false);
}

/* Whether somebody has isolated all that can be: no free frame of the range is on another list. */
bool page_range_isolated(struct mm *mm, pg_data_t *pgdat, uint64_t pfn, uint64_t nr)
{
	uint64_t block = order_frames(mm->pageblock_order);
	uint64_t start = (pfn + block - 1) & ~(block - 1);
	bool any = false;

	for (; start + block <= pfn + nr; start += block) {
		for (unsigned int type = 0; type < MAX_NR_ZONES; type++) {
			const struct zone *zone = &pgdat->node_zones[type];

			if (!zone->pageset)
				continue;
			if (__atomic_load_n(zone_pageblock(mm, zone, start), __ATOMIC_RELAXED) !=
			    MIGRATE_ISOLATE)
				return false;
			any = true;
		}
	}
	return any;
}

/* A block outside the range. */
static struct page *alloc_target(struct mm *mm, const struct page *from, uint64_t pfn, uint64_t nr)
{
	const gfp_t gfp = GFP_HIGHUSER_MOVABLE | __GFP_RETRY_MAYFAIL | __GFP_NOWARN;
	unsigned int order = page_order(from);
	struct page *aside[MAX_ASIDE];
	unsigned int nr_aside = 0;
	struct page *page;

	for (;;) {
		page = mm_alloc_pages_node(mm, (int)page_to_nid(from), gfp, order);
		if (!page || pfn_of(mm, page) + order_frames(order) <= pfn ||
		    pfn_of(mm, page) >= pfn + nr)
			break;
		if (nr_aside == MAX_ASIDE) {
			free_to_buddy(mm, page, order);
			page = NULL;
			break;
		}
		aside[nr_aside++] = page;
	}
	while (nr_aside > 0)
		free_to_buddy(mm, aside[--nr_aside], order);
	return page;
}

static void move_block(struct mm *mm, struct page *from, uint64_t pfn, uint64_t nr)
{
	struct migrate_batch batch = { .nr = 0 };
	struct page *to;

	if (!isolate_movable_page(mm, from, &batch))
		return;
	to = alloc_target(mm, from, pfn, nr);
	if (!to) {
		putback_batch(mm, &batch, 0);
		return;
	}
	if (migrate_page(mm, from, batch.from_lru & 1, to, MIGRATE_SYNC) != 0)
		free_to_buddy(mm, to, page_order(to));
}

/* Kernel: do_migrate_range(). No lock is held. */
void migrate_range(struct mm *mm, uint64_t pfn, uint64_t nr)
{
	uint64_t at = pfn_of(mm, mm_compound_head(mm, &mm->hot.mem_map[pfn]));

	while (at < pfn + nr) {
		struct page *page = &mm->hot.mem_map[at];
		bool allocated = page_test(page, PAGE_FLAG(present)) && page_count(page) > 0;
		unsigned int order = page_order(page);

		if (allocated)
			move_block(mm, page, pfn, nr);
		at += allocated || page_test(page, PAGE_FLAG(buddy)) ? order_frames(order) : 1;
	}
}
