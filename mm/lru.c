/* SPDX-License-Identifier: MIT */
/*
 * LRU lists: per node an active and an inactive one. New frames start inactive; a frame used twice
 * there becomes active; active frames that were not used fall back. What is unused at the tail of
 * the inactive list is reclaimed.
 */
#include "mm/internal.h"
#include "mm/vmscan_internal.h"

static enum lru_list page_lru(const struct page *page)
{
	return page_test(page, PAGE_FLAG(active)) ? LRU_ACTIVE : LRU_INACTIVE;
}

static void lru_account(struct mm *mm, const struct page *page, enum lru_list lru, int64_t sign)
{
	pg_data_t *pgdat = mm->node[page_to_nid(page)];
	struct zone *zone = page_zone(mm, page);
	int64_t frames = sign * (int64_t)order_frames(page_order(page));

	__atomic_store_n(&pgdat->nr_lru[lru], pgdat->nr_lru[lru] + (uint64_t)frames,
			 __ATOMIC_RELAXED);
	zone_stat_add(zone, lru == LRU_ACTIVE ? NR_ZONE_ACTIVE : NR_ZONE_INACTIVE, frames);
}

/* With lru_lock held. The block is on no list. */
void lru_link(struct mm *mm, struct page *page, enum lru_list lru)
{
	pg_data_t *pgdat = mm->node[page_to_nid(page)];

	page_test_and_set(page, PAGE_FLAG(lru) | (lru == LRU_ACTIVE ? PAGE_FLAG(active) : 0));
	if (lru == LRU_INACTIVE)
		page_test_and_clear(page, PAGE_FLAG(active));
	list_add(&page->lru, &pgdat->lru[lru]);
	lru_account(mm, page, lru, 1);
}

/* With lru_lock held. */
void lru_unlink(struct mm *mm, struct page *page)
{
	list_del(&page->lru);
	lru_account(mm, page, page_lru(page), -1);
	page_test_and_clear(page, PAGE_FLAG(lru));
}

/* A block that was isolated from a list. */
void lru_putback(struct mm *mm, struct page *page, enum lru_list lru)
{
	pg_data_t *pgdat = mm->node[page_to_nid(page)];

	spin_lock(&pgdat->lru_lock);
	page_test_and_clear(page, PAGE_FLAG(isolated));
	lru_link(mm, page, lru);
	spin_unlock(&pgdat->lru_lock);
}

void mm_lru_add(struct mm *mm, struct page *page)
{
	pg_data_t *pgdat = mm->node[page_to_nid(page)];

	spin_lock(&pgdat->lru_lock);
	if (!page_test(page, PAGE_FLAG(lru) | PAGE_FLAG(isolated)))
		lru_link(mm, page, LRU_INACTIVE);
	spin_unlock(&pgdat->lru_lock);
}

bool mm_lru_del(struct mm *mm, struct page *page)
{
	pg_data_t *pgdat = mm->node[page_to_nid(page)];
	bool listed;

	spin_lock(&pgdat->lru_lock);
	listed = page_test(page, PAGE_FLAG(lru));
	if (listed) {
		lru_unlink(mm, page);
		page_test_and_clear(page, PAGE_FLAG(active) | PAGE_FLAG(referenced));
	}
	spin_unlock(&pgdat->lru_lock);
	return listed;
}

void mm_mark_page_accessed(struct mm *mm, struct page *page)
{
	pg_data_t *pgdat = mm->node[page_to_nid(page)];

	if (!(page_test_and_set(page, PAGE_FLAG(referenced)) & PAGE_FLAG(referenced)) ||
	    page_test(page, PAGE_FLAG(active)))
		return;
	spin_lock(&pgdat->lru_lock);
	if (page_test(page, PAGE_FLAG(lru)) && !page_test(page, PAGE_FLAG(active))) {
		lru_unlink(mm, page);
		page_test_and_clear(page, PAGE_FLAG(referenced));
		lru_link(mm, page, LRU_ACTIVE);
		count_vm_events(mm, PGACTIVATE, order_frames(page_order(page)));
	}
	spin_unlock(&pgdat->lru_lock);
}
