/* SPDX-License-Identifier: MIT */
/*
 * What to empty, and into what. A window of the zone is looked at as areas of the wanted size.
 * Areas in which everything can be moved are sorted by how much that is; the others, which will
 * never be one free block, come behind them. So the cheapest areas are emptied first, and what was
 * in them fills the holes where holes do no harm.
 *
 * Struct pages are read without a lock: a survey is a plan, and who carries it out looks again.
 */
#include "mm/compaction_internal.h"

/* used of an area that cannot be emptied. */
#define USED_FIXED UINT16_MAX

/* Kernel: suitable_migration_source(). */
static bool suitable_source(const struct compact_control *cc, enum migratetype mt)
{
	return cc->mode != MIGRATE_ASYNC || mt == MIGRATE_MOVABLE || mt == cc->migratetype;
}

/* Adds a frame, or the block that it heads, to the figures of its area. Returns its frames. */
static unsigned int survey_block(const struct compact_control *cc, const struct page *page,
				 struct compact_area *area, bool *fixed)
{
	unsigned int frames = order_frames(page_order(page));

	if (!compact_in_zone(cc, page)) {
		*fixed = true;
		return 1;
	}
	if (page_test(page, PAGE_FLAG(buddy))) {
		area->free = (uint16_t)(area->free + frames);
		return frames;
	}
	if (page_test(page, PAGE_FLAG(pcp)))
		return frames;
	/* In a stack, or on its way between lists and holders. */
	if ((page_flags(page) & ~(PAGE_IDENTITY | PAGE_MT_MASK)) == 0 && page_count(page) == 0)
		return 1;
	if (page_count(page) <= 0 || page_order(page) >= cc->area_order ||
	    !page_may_move(cc->mm, page)) {
		*fixed = true;
		return page_count(page) > 0 ? frames : 1;
	}
	area->used = (uint16_t)(area->used + frames);
	return frames;
}

/* False: the area is neither to be emptied nor of use for what is moved. */
static bool survey_area(const struct compact_control *cc, uint64_t pfn, struct compact_area *area)
{
	const uint64_t end = pfn + order_frames(cc->area_order);
	const uint64_t block = order_frames(cc->mm->pageblock_order);
	const struct page *head = find_free_head(cc->mm, &cc->mm->hot.mem_map[pfn]);
	bool fixed = false;

	*area = (struct compact_area){ .pfn = pfn };
	if (head && page_order(head) >= cc->area_order)
		return false;
	for (uint64_t at = pfn, next_block = pfn; at < end;) {
		const struct page *page = &cc->mm->hot.mem_map[at];

		if (at >= next_block && compact_in_zone(cc, page)) {
			enum migratetype mt = get_pageblock_migratetype(cc->mm, page);

			if (mt >= MIGRATE_PCPTYPES)
				return false;
			fixed |= !suitable_source(cc, mt);
			next_block = (at & ~(block - 1)) + block;
		}
		at += survey_block(cc, page, area, &fixed);
	}
	if (fixed)
		area->used = USED_FIXED;
	return area->free > 0;
}

/* By what is to be moved, the least first. */
static void sort_areas(struct compact_area *areas, unsigned int nr)
{
	for (unsigned int gap = nr / 2; gap > 0; gap /= 2) {
		for (unsigned int i = gap; i < nr; i++) {
			struct compact_area area = areas[i];
			unsigned int j = i;

			for (; j >= gap && areas[j - gap].used > area.used; j -= gap)
				areas[j] = areas[j - gap];
			areas[j] = area;
		}
	}
}

/* Looks at the areas from pfn on, up to a window's number of them. Returns where the next starts.
 */
uint64_t compact_survey(struct compact_control *cc, uint64_t pfn, uint64_t end)
{
	const uint64_t size = order_frames(cc->area_order);

	cc->nr_areas = 0;
	cc->room = 0;
	pfn &= ~(size - 1);
	for (unsigned int i = 0; i < COMPACT_WINDOW && pfn < end; i++, pfn += size) {
		struct compact_area *area = &cc->areas[cc->nr_areas];

		cc->migrate_scanned += size;
		if (!survey_area(cc, pfn, area))
			continue;
		cc->room += area->free;
		cc->nr_areas++;
	}
	sort_areas(cc->areas, cc->nr_areas);
	cc->source = 0;
	for (unsigned int order = 0; order < NR_PAGE_ORDERS; order++)
		cc->target[order] = cc->nr_areas;
	return pfn;
}

/*
 * The next area to be emptied, or NULL: there is no other, or no room for what is in it. Its own
 * holes are none for others any more.
 */
const struct compact_area *compact_next_source(struct compact_control *cc)
{
	const struct compact_area *area = &cc->areas[cc->source];

	if (cc->source >= cc->nr_areas || area->used == USED_FIXED)
		return NULL;
	cc->room -= area->free;
	if (cc->room < area->used)
		return NULL;
	cc->room -= area->used;
	cc->source++;
	return area;
}
