/* SPDX-License-Identifier: MIT */
/* The free path: drop a reference, check the frame, put it into the cache or on the free lists. */
#include "framevisor/vmscan.h"
#include "mm/free_list.h"

/*
 * Drops one reference. Returns true if it was the last one. The holder of the only reference needs
 * no atomic operation: nobody else may take one from a frame it does not hold.
 */
static inline __attribute__((always_inline)) bool put_page_testzero(struct mm *mm,
								    struct page *page)
{
	int count;

	if (unlikely(!page_in_map(&mm->hot, page))) {
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

/* Its last reference is gone, and mm_soft_offline_page() has waited for that. */
static bool marked_for_quarantine(const struct page *page, unsigned int order)
{
	const uint64_t wrong = PAGE_FLAGS_CHECK_AT_FREE & ~PAGE_FLAG(hwpoison);

	return order == 0 && page_test(page, PAGE_FLAG(hwpoison)) && !page_test(page, wrong) &&
	       page_order(page) == 0 && page_mapcount(page) == 0 && page->mapping == NULL;
}

/* The last reference to a block that is not to be handed out again is gone. */
__attribute__((noinline)) static void quarantine_freed(struct mm *mm, struct page *page,
						       unsigned int order)
{
	if (marked_for_quarantine(page, order)) {
		quarantine_marked(mm, page);
		return;
	}
	/* What is in quarantine already has no reference to lose: this was but a mark. */
	page_test_and_clear(page, PAGE_FLAG(hwpoison) | PAGE_FLAG(offline));
	bad_page(mm, page, why_not_freeable(page, order));
	mm_lru_del(mm, page); /* nobody is left to take it off */
	quarantine_held(mm, page);
}

/* What can be done before the lists are touched. False: the block was quarantined. */
static inline __attribute__((always_inline)) bool
free_pages_prepare(struct mm *mm, struct page *page, unsigned int order, bool zeroed)
{
	if (unlikely(!page_freeable(page, order))) {
		quarantine_freed(mm, page, order);
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

/* Not onto a stack. page may be NULL. */
void free_pages_any(struct mm *mm, struct page *page, unsigned int order)
{
	if (page && put_page_testzero(mm, page))
		free_unref(mm, page, order, false);
}

/*
 * A large block with one reference, nothing else wrong with it, and no debugging that wants to see
 * it: what free_pages_any() does, with all that is known. False: that is for free_pages_any().
 */
static bool free_large(struct mm *mm, struct page *page, unsigned int order)
{
	enum migratetype mt;
	struct zone *zone;

	/* page_freeable() and the count in one */
	if (unlikely(!__atomic_load_n(&mm->hot.hot_cpus_usual, __ATOMIC_RELAXED) ||
		     order > MAX_ORDER || !page_in_map(&mm->hot, page) ||
		     ((page_flags(page) ^ (PAGE_FLAG(present) | PAGE_ORDER(order))) &
		      (PAGE_FLAGS_CHECK_AT_FREE | PAGE_ORDER_MASK | PAGE_FLAG(present))) |
			     (page_counts(page) ^ 1) | (uintptr_t)page->mapping))
		return false;
	set_page_counts(page, 0);
	page->nr_zeroed = 0;
	zone = page_zone(mm, page);
	spin_lock(&zone->lock);
	if (order < MAX_ORDER || !pageblocks_uniform(mm, pageblock_entry(mm, page), order)) {
		free_one_page(mm, zone, page, order, 0);
	} else { /* there is nothing to be merged with */
		mt = get_pageblock_migratetype(mm, page);
		list_block(mm, zone, page, order, mt, FREE_DIRTY, false);
		account_freepages(zone, order_frames(order), 0, mt);
	}
	zone_count_free(zone, order_frames(order));
	spin_unlock(&zone->lock);
	return true;
}

void mm_free_pages(struct mm *mm, struct page *page, unsigned int order)
{
	if (likely(order == 0))
		mm_free_page(mm, page);
	else if (order <= PCP_MAX_ORDER || !free_large(mm, page, order))
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
		free_one_page(mm, zone, &mm->hot.mem_map[pfn], order,
			      zeroed ? order_frames(order) : 0);
		pfn += order_frames(order);
		nr -= order_frames(order);
	}
}

/* Consecutive frames of one zone, checked and without references. */
struct frame_run {
	struct page *first;
	uint64_t nr;
};
#define FREE_RUNS 64

struct bulk_free {
	struct mm *mm;
	unsigned int nr;
	struct frame_run run[FREE_RUNS];
};

static void free_runs(struct bulk_free *bulk, bool zeroed)
{
	struct mm *mm = bulk->mm;
	struct zone *zone = NULL;

	for (unsigned int i = 0; i < bulk->nr; i++) {
		const struct frame_run *run = &bulk->run[i];
		struct zone *next = page_zone(mm, run->first);

		if (!zone || next != zone) {
			if (zone)
				spin_unlock(&zone->lock);
			zone = next;
			spin_lock(&zone->lock);
		}
		free_run(mm, zone, pfn_of(mm, run->first), run->nr, zeroed);
		zone_count_free(zone, run->nr);
	}
	if (zone)
		spin_unlock(&zone->lock);
	bulk->nr = 0;
}

static void add_run(struct bulk_free *bulk, struct page *first, uint64_t nr, bool zeroed)
{
	if (bulk->nr == FREE_RUNS)
		free_runs(bulk, zeroed);
	bulk->run[bulk->nr++] = (struct frame_run){ first, nr };
}

/*
 * How many of the pages, of which there is at least one, are consecutive frames in order with one
 * reference each: that is taken away. What free_pages_prepare() looks at, in one comparison.
 */
static uint64_t take_run(const struct mm *mm, struct page **pages, uint64_t nr, bool zeroed)
{
	const uint64_t checked = PAGE_FLAGS_CHECK_AT_FREE | PAGE_ORDER_MASK | PAGE_IDENTITY;
	struct page *page = pages[0];
	uint64_t done = 0, want;

	if (!page_in_map(&mm->hot, page) || !page_test(page, PAGE_FLAG(present)))
		return 0;
	want = page_flags(page) & PAGE_IDENTITY;
	if (nr > mm->hot.nr_pfns - pfn_of(mm, page))
		nr = mm->hot.nr_pfns - pfn_of(mm, page);
	for (; done < nr && pages[done] == page; done++, page++) {
		/* Acquire: what former holders did before they dropped theirs. */
		uint64_t counts =
			__atomic_load_n((uint64_t *)(void *)&page->_refcount, __ATOMIC_ACQUIRE);

		if (unlikely(((page_flags(page) ^ want) & checked) | (counts ^ 1) |
			     (uintptr_t)page->mapping))
			break;
		set_page_counts(page, 0);
		page->nr_zeroed = zeroed;
	}
	return done;
}

void mm_free_pages_bulk(struct mm *mm, struct page **pages, uint64_t nr, bool zeroed)
{
	const bool plain = !mm->page_owner && !(mm->flags & MM_DEBUG_POISON);
	struct bulk_free bulk = { .mm = mm, .nr = 0 };
	uint64_t run;

	for (uint64_t i = 0; i < nr; i += run) {
		struct page *page = pages[i];

		run = plain ? take_run(mm, pages + i, nr - i, zeroed) : 0;
		if (run > 0) {
			add_run(&bulk, page, run, zeroed);
			continue;
		}
		run = 1;
		/* Freed twice, maybe in this very call: quarantining finds only what is on the
		 * lists. */
		if (page && page_in_map(&mm->hot, page) && unlikely(page_count(page) <= 0))
			free_runs(&bulk, zeroed);
		if (page && put_page_testzero(mm, page) && free_pages_prepare(mm, page, 0, zeroed))
			add_run(&bulk, page, 1, zeroed);
	}
	free_runs(&bulk, zeroed);
}

/* The head of whatever block the frame is in: free, cached, allocated. */
struct page *mm_compound_head(struct mm *mm, struct page *page)
{
	uint64_t pfn = pfn_of(mm, page);

	if (page_count(page) > 0)
		return page;
	for (unsigned int order = 0; order < NR_PAGE_ORDERS; order++) {
		struct page *head = &mm->hot.mem_map[pfn & ~(uint64_t)(order_frames(order) - 1)];
		bool used =
			page_test(head, PAGE_FLAG(buddy) | PAGE_FLAG(pcp)) || page_count(head) > 0;

		if (used && page_test(head, PAGE_FLAG(present)) && page_order(head) >= order)
			return head;
	}
	return page;
}

void mm_get_page(struct mm *mm, struct page *page)
{
	int count;

	page = mm_compound_head(mm, page);
	count = __atomic_load_n(&page->_refcount, __ATOMIC_RELAXED);
	do {
		if (count <= 0) {
			bad_page(mm, page, "reference taken, but not allocated");
			return;
		}
	} while (!__atomic_compare_exchange_n(&page->_refcount, &count, count + 1, true,
					      __ATOMIC_RELAXED, __ATOMIC_RELAXED));
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
		page[i].nr_zeroed = 0; /* as with any frame that is not known to be zero */
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
