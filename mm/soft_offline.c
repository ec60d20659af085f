/* SPDX-License-Identifier: MIT */
/*
 * Single frames taken out of circulation on purpose, and given back. A frame in use is moved by its
 * holder; one that cannot be moved now is marked, and the free path quarantines it.
 */
#include <errno.h>
#include <time.h>

#include "mm/compaction_internal.h"
#include "mm/offline_internal.h"

/* A frame that was moved may be somebody else's before it is taken. */
#define SOFT_OFFLINE_TRIES 5

/* From the free lists. Zone lock not held. */
static bool take_free_frame(struct mm *mm, struct page *page)
{
	struct zone *zone = page_zone(mm, page);
	uint64_t pfn = pfn_of(mm, page);
	struct page *head;

	spin_lock(&zone->lock);
	head = find_free_head(mm, page);
	if (head) {
		take_free_range(mm, zone, head, pfn, pfn + 1);
		mark_quarantined(zone, page, 0);
		page_test_and_set(page, PAGE_FLAG(offline));
	}
	spin_unlock(&zone->lock);
	return head != NULL;
}

/* The last reference to a marked frame is gone. */
void quarantine_marked(struct mm *mm, struct page *page)
{
	struct zone *zone = page_zone(mm, page);

	if (mm->page_owner)
		page_owner_record(mm, page, 0, PAGE_OWNER_FREE);
	spin_lock(&zone->lock);
	mark_quarantined(zone, page, 0);
	page_test_and_set(page, PAGE_FLAG(offline));
	zone_count_free(zone, 1);
	spin_unlock(&zone->lock);
}

int mm_soft_offline_page(struct mm *mm, struct page *page)
{
	const struct timespec pause = { .tv_nsec = 200000 };
	uint64_t pfn = pfn_of(mm, page);

	if (!page_test(page, PAGE_FLAG(present)))
		return -EINVAL;
	if (page_test(page, PAGE_FLAG(hwpoison)))
		return -EALREADY;
	for (unsigned int tries = 0; tries < SOFT_OFFLINE_TRIES; tries++) {
		/* Whoever zeroes it or has it isolated is done in a moment. */
		if (tries > 0)
			nanosleep(&pause, NULL);
		mm_drain_node_pages(mm, page_to_nid(page));
		if (take_free_frame(mm, page))
			return 0;
		if (migration_possible(mm))
			migrate_range(mm, pfn, 1);
		if (take_free_frame(mm, page))
			return 0;
	}
	if (page_count(page) == 0 || page_order(page) != 0)
		return -EBUSY;
	page_test_and_set(page, PAGE_FLAG(hwpoison) | PAGE_FLAG(offline));
	return -EINPROGRESS;
}

int mm_unpoison_page(struct mm *mm, struct page *page)
{
	const uint64_t mark = PAGE_FLAG(hwpoison) | PAGE_FLAG(offline);
	struct zone *zone;
	unsigned int order;

	if (!page_test(page, PAGE_FLAG(present)) || !page_test(page, PAGE_FLAG(hwpoison)))
		return -EINVAL;
	if (page_count(page) > 0) {
		page_test_and_clear(page, mark);
		return 0;
	}
	zone = page_zone(mm, page);
	order = page_order(page);
	if (mm->flags & MM_DEBUG_POISON)
		poison_pages(mm, page, order);
	spin_lock(&zone->lock);
	page->mapping = NULL;
	__atomic_store_n(&page->_mapcount, 0, __ATOMIC_RELAXED);
	page_set_flags(page, page_flags(page) & (PAGE_IDENTITY | PAGE_ORDER_MASK));
	zone_stat_add(zone, NR_QUARANTINED, -(int64_t)order_frames(order));
	__atomic_store_n(&zone->managed_pages, zone->managed_pages + order_frames(order),
			 __ATOMIC_RELAXED);
	free_one_page(mm, zone, page, order, 0);
	spin_unlock(&zone->lock);
	return 0;
}
