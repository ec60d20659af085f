/* SPDX-License-Identifier: MIT */
/* The free path: drop a reference, check the frame, put it into the cache or on the free lists. */
#include "mm/internal.h"
#include "mm/pcp_hot.h"

/* Whether page points at an entry of this instance's array. */
static bool page_known(const struct mm *mm, const struct page *page)
{
	uintptr_t offset = (uintptr_t)page - (uintptr_t)mm->mem_map;

	return offset < mm->mem_map_size && offset % sizeof(*page) == 0;
}

/*
 * Drops one reference. Returns true if it was the last one. The holder of the only reference needs
 * no atomic operation: nobody else may take one from a frame it does not hold.
 */
static inline __attribute__((always_inline)) bool put_page_testzero(struct mm *mm,
								    struct page *page)
{
	int count;

	if (unlikely(!page_known(mm, page))) {
		mm_message(mm, "bad page: %p is no frame of this pool", (const void *)page);
		__atomic_add_fetch(&mm->nr_bad_pages, 1, __ATOMIC_RELAXED);
		return false;
	}
	/* Acquire: what former holders did before they dropped theirs. */
	if (likely(__atomic_load_n(&page->_refcount, __ATOMIC_ACQUIRE) == 1)) {
		set_page_count(page, 0);
		return true;
	}
	count = __atomic_load_n(&page->_refcount, __ATOMIC_RELAXED);
	do {
		if (count <= 0) {
			bad_page(mm, page, "freed, but not allocated");
			quarantine_free(mm, page);
			return false;
		}
	} while (!__atomic_compare_exchange_n(&page->_refcount, &count, count - 1, true,
					      __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
	return count == 1;
}

/* What can be done before the lists are touched. False: the block was quarantined. */
static inline __attribute__((always_inline)) bool
free_pages_prepare(struct mm *mm, struct page *page, unsigned int order, bool zeroed)
{
	if (unlikely(!page_freeable(page, order))) {
		bad_page(mm, page, why_not_freeable(page, order));
		quarantine_held(mm, page);
		return false;
	}
	if (unlikely(mm->page_owner != NULL))
		page_owner_record(mm, page, order, PAGE_OWNER_FREE);
	if (unlikely(mm->flags & MM_DEBUG_POISON) && !zeroed)
		poison_pages(mm, page, order);
	page->nr_zeroed = zeroed ? (uint16_t)order_frames(order) : 0;
	return true;
}

static void free_unref(struct mm *mm, struct page *page, unsigned int order, bool zeroed)
{
	struct zone *zone;

	if (unlikely(!free_pages_prepare(mm, page, order, zeroed)))
		return;
	zone = page_zone(mm, page);
	if (likely(order <= PCP_MAX_ORDER)) {
		pcp_free(mm, zone, page, order, false);
		return;
	}
	spin_lock(&zone->lock);
	free_one_page(mm, zone, page, order, page->nr_zeroed);
	zone_count_free(zone, order_frames(order));
	spin_unlock(&zone->lock);
}

/* Past the caches: the caller wants large free blocks, not frames at hand. */
void free_to_buddy(struct mm *mm, struct page *page, unsigned int order)
{
	struct zone *zone;

	if (!put_page_testzero(mm, page) || !free_pages_prepare(mm, page, order, false))
		return;
	zone = page_zone(mm, page);
	spin_lock(&zone->lock);
	free_one_page(mm, zone, page, order, 0);
	spin_unlock(&zone->lock);
}

#if HAVE_PCP_HOT
/*
 * One frame onto this CPU's stack, without a lock. False: take the usual way, nothing was changed.
 * The stack is that of the type the frame was allocated as; on its way to the free lists the frame
 * goes by the type of its pageblock.
 */
static inline bool hot_free(struct mm *mm, struct page *page)
{
	uint64_t flags = page_flags(page);
	unsigned int mt = page_list_migratetype(page);

	if (unlikely(page_counts(page) != 1 || !page_freeable(page, 0) ||
		     !__atomic_load_n(&mm->hot_cpus, __ATOMIC_RELAXED)))
		return false;
	/* Complete before it is on the stack: it may be popped at once by another thread. */
	set_page_counts(page, 0);
	page_set_flags(page, (flags & (PAGE_IDENTITY | PAGE_MT_MASK)) | PAGE_FLAG(pcp));
	if (likely(hot_push(mm, &mm->pagesets[PAGE_PAGESET(flags)]->hot[mt], page)))
		return true;
	page_set_flags(page, flags);
	set_page_counts(page, 1);
	return false;
}
#endif

__attribute__((noinline)) static void free_pages_any(struct mm *mm, struct page *page,
						     unsigned int order)
{
	if (page && put_page_testzero(mm, page))
		free_unref(mm, page, order, false);
}

void mm_free_pages(struct mm *mm, struct page *page, unsigned int order)
{
#if HAVE_PCP_HOT
	if (likely(order == 0 && page_known(mm, page)) && likely(hot_free(mm, page)))
		return;
#endif
	free_pages_any(mm, page, order);
}

void mm_free_pages_zeroed(struct mm *mm, struct page *page, unsigned int order)
{
	if (page && put_page_testzero(mm, page))
		free_unref(mm, page, order, true);
}

/* Consecutive frames of one zone, in the largest blocks that fit. The zone lock is held. */
void free_run(struct mm *mm, struct zone *zone, uint64_t pfn, uint64_t nr, bool zeroed)
{
	while (nr > 0) {
		unsigned int order = 0;

		while (order < MAX_ORDER && !(pfn >> order & 1) && order_frames(order + 1) <= nr)
			order++;
		free_one_page(mm, zone, &mm->mem_map[pfn], order, zeroed ? order_frames(order) : 0);
		pfn += order_frames(order);
		nr -= order_frames(order);
	}
}

/* Checked frames of order 0 without references. */
static void free_chunk(struct mm *mm, struct page **pages, unsigned int nr, bool zeroed)
{
	struct zone *zone = NULL;
	unsigned int run;

	for (unsigned int i = 0; i < nr; i += run) {
		struct zone *next = page_zone(mm, pages[i]);

		for (run = 1; i + run < nr && pages[i + run] == pages[i] + run; run++)
			if (page_zone(mm, pages[i + run]) != next)
				break;
		if (!zone || next != zone) {
			if (zone)
				spin_unlock(&zone->lock);
			zone = next;
			spin_lock(&zone->lock);
		}
		free_run(mm, zone, pfn_of(mm, pages[i]), run, zeroed);
		zone_count_free(zone, run);
	}
	if (zone)
		spin_unlock(&zone->lock);
}

void mm_free_pages_bulk(struct mm *mm, struct page **pages, uint64_t nr, bool zeroed)
{
	struct page *chunk[MAX_ORDER_NR_PAGES];
	unsigned int in_chunk = 0;

	for (uint64_t i = 0; i < nr; i++) {
		if (pages[i] && put_page_testzero(mm, pages[i]) &&
		    free_pages_prepare(mm, pages[i], 0, zeroed))
			chunk[in_chunk++] = pages[i];
		if (in_chunk == MAX_ORDER_NR_PAGES || i + 1 == nr) {
			free_chunk(mm, chunk, in_chunk, zeroed);
			in_chunk = 0;
		}
	}
}

/* The head of whatever block the frame is in: free, cached, allocated. */
struct page *mm_compound_head(struct mm *mm, struct page *page)
{
	uint64_t pfn = pfn_of(mm, page);

	if (page_count(page) > 0)
		return page;
	for (unsigned int order = 0; order < NR_PAGE_ORDERS; order++) {
		struct page *head = &mm->mem_map[pfn & ~(uint64_t)(order_frames(order) - 1)];
		bool used =
			page_test(head, PAGE_FLAG(buddy) | PAGE_FLAG(pcp)) || page_count(head) > 0;

		if (used && page_test(head, PAGE_FLAG(present)) && page_order(head) >= order)
			return head;
	}
	return page;
}

void mm_get_page(struct mm *mm, struct page *page)
{
	page = mm_compound_head(mm, page);
	if (__atomic_fetch_add(&page->_refcount, 1, __ATOMIC_RELAXED) <= 0)
		bad_page(mm, page, "reference taken, but not allocated");
}

void mm_put_page(struct mm *mm, struct page *page)
{
	page = mm_compound_head(mm, page);
	if (put_page_testzero(mm, page))
		free_unref(mm, page, page_order(page), false);
}

void mm_split_page(struct mm *mm, struct page *page, unsigned int order)
{
	uint64_t flags = page_flags(page) & ~(PAGE_ORDER_MASK | PAGE_FLAG(head));

	if (page_count(page) < 1 || page_order(page) != order) {
		bad_page(mm, page, "split, but not an allocated block of this order");
		return;
	}
	for (unsigned int i = 0; i < order_frames(order); i++) {
		page_set_flags(page + i, flags);
		set_page_count(page + i, 1);
		page[i].mapping = NULL;
		if (i > 0)
			page_set_owner(page + i, page->owner, 0);
	}
}

void *mm_alloc_pages_exact(struct mm *mm, size_t size, gfp_t gfp)
{
	uint64_t frames = bytes_to_frames_up(size);
	struct page *page;
	unsigned int order = 0;

	if (frames == 0 || frames > MAX_ORDER_NR_PAGES)
		return NULL;
	while (order_frames(order) < frames)
		order++;
	page = mm_alloc_pages(mm, gfp & ~(__GFP_COMP | __GFP_HIGHMEM), order);
	if (!page)
		return NULL;
	mm_split_page(mm, page, order);
	for (uint64_t i = frames; i < order_frames(order); i++)
		mm_free_pages(mm, page + i, 0);
	return mm_page_address(mm, page);
}

void mm_free_pages_exact(struct mm *mm, void *addr, size_t size)
{
	struct page *page = mm_virt_to_page(mm, addr);

	for (uint64_t i = 0; page && i < bytes_to_frames_up(size); i++)
		mm_free_pages(mm, page + i, 0);
}
