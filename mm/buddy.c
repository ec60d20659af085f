/* SPDX-License-Identifier: MIT */
/*
 * The buddy system of a zone. A free block of order n is 2^n frames aligned to 2^n; its buddy is
 * the block whose number differs in bit n only. Two free buddies become one block of order n + 1; a
 * block is halved until it fits.
 *
 * Zeroed frames. The head of a free block has the number of its frames known to be zero. When two
 * halves merge, the head of the upper half keeps its own number, so that a later split can divide
 * the sum again without a look at the frames: the lower half has the rest. A block that is all zero
 * or all dirty needs no such memory, and the numbers inside it mean nothing. Every split and merge
 * is therefore O(1), however large the block.
 *
 * All functions are called with the zone lock held.
 */
#include "mm/free_list.h"

/*
 * A block may merge with buddy if that is a free block of the same order, zone and node. All of it
 * is in one word of flags (kernel: page_is_buddy()).
 */
static bool page_is_buddy(const struct page *page, const struct page *buddy, unsigned int order)
{
	uint64_t want = (page_flags(page) & PAGE_IDENTITY) | PAGE_FLAG(buddy) | PAGE_ORDER(order);

	return (page_flags(buddy) & (PAGE_IDENTITY | PAGE_FLAG(buddy) | PAGE_ORDER_MASK)) == want;
}

/* Whether the mobility of two buddies allows to merge them. */
static bool types_mergeable(struct mm *mm, struct page *buddy, unsigned int order,
			    enum migratetype mt)
{
	enum migratetype buddy_mt;

	if (order < mm->pageblock_order)
		return true; /* the same pageblock */
	buddy_mt = get_pageblock_migratetype(mm, buddy);
	return buddy_mt == mt || (mt < MIGRATE_PCPTYPES && buddy_mt < MIGRATE_PCPTYPES);
}

/*
 * If the block one order up would have a free buddy too, this block will probably be merged soon:
 * it goes to the tail, where it is not handed out so quickly (kernel: buddy_merge_likely()).
 */
static bool merge_likely(const struct mm *mm, const struct page *page, uint64_t pfn,
			 unsigned int order)
{
	uint64_t higher_buddy = (pfn & ~(uint64_t)order_frames(order)) ^ order_frames(order + 1);

	if (order >= MAX_ORDER - 1)
		return false;
	return page_is_buddy(page, &mm->hot.mem_map[higher_buddy], order + 1);
}

/*
 * Divides the number of zeroed frames of a block, which page heads, between its halves: writes it
 * into the head of each and returns it. order is the block's.
 */
void split_halves(struct page *page, unsigned int order, unsigned int *low, unsigned int *high)
{
	unsigned int half = order_frames(order) / 2;
	struct page *upper = page + half;
	unsigned int total = page->nr_zeroed;

	if (total == 0)
		upper->nr_zeroed = 0;
	else if (total == 2 * half)
		upper->nr_zeroed = (uint16_t)half;
	*high = upper->nr_zeroed;
	*low = total - *high;
	page->nr_zeroed = (uint16_t)*low;
}

/*
 * Frees a block whose head nobody refers to, merging it with its buddies as far as that goes.
 * nr_zeroed is the number of its frames known to be zero: none, all, or what the head of this very
 * block had when it left the free lists. Kernel: __free_one_page().
 */
void free_one_page(struct mm *mm, struct zone *zone, struct page *page, unsigned int order,
		   unsigned int nr_zeroed)
{
	const unsigned int frames = order_frames(order), zeroed = nr_zeroed;
	uint64_t pfn = pfn_of(mm, page);
	const uint8_t *entry = zone_pageblock(mm, zone, pfn);
	enum migratetype mt = __atomic_load_n(entry, __ATOMIC_RELAXED);

	if (unlikely(order > mm->pageblock_order && !pageblocks_uniform(mm, entry, order))) {
		/* Its pageblocks became different while it was allocated: not one free block. */
		unsigned int low, high;

		page->nr_zeroed = (uint16_t)nr_zeroed;
		split_halves(page, order, &low, &high);
		free_one_page(mm, zone, page, order - 1, low);
		free_one_page(mm, zone, page + order_frames(order - 1), order - 1, high);
		return;
	}
	while (order < MAX_ORDER) {
		uint64_t buddy_pfn = pfn ^ order_frames(order);
		struct page *buddy = &mm->hot.mem_map[buddy_pfn];
		unsigned int buddy_zeroed;

		if (!page_is_buddy(page, buddy, order) || !types_mergeable(mm, buddy, order, mt))
			break;
		unlist_free_block(zone, buddy);
		buddy_zeroed = buddy->nr_zeroed;
		if (order >= mm->pageblock_order)
			set_pageblock_migratetype(mm, buddy, order, mt);
		page->nr_zeroed = (uint16_t)nr_zeroed; /* remembered if this is the upper half */
		nr_zeroed += buddy_zeroed;
		pfn &= buddy_pfn;
		page = &mm->hot.mem_map[pfn];
		order++;
	}
	page->nr_zeroed = (uint16_t)nr_zeroed;
	list_free_block(mm, zone, page, order, mt, merge_likely(mm, page, pfn, order));
	account_freepages(zone, frames, zeroed, mt);
}

/*
 * Cuts a block just taken off its list (and still counted) down to order low; what is cut off goes
 * back to the lists of mt. The half that has the wanted kind of frames is kept, the lower one if
 * both have. Returns the rest, which is not counted any more. Kernel: page_del_and_expand().
 */
static struct page *expand(struct mm *mm, struct zone *zone, struct page *page, unsigned int low,
			   enum migratetype mt, bool want_zeroed)
{
	unsigned int order = page_order(page);

	while (order > low) {
		unsigned int nr_low, nr_high, half;
		struct page *upper;

		split_halves(page, order, &nr_low, &nr_high);
		order--;
		half = order_frames(order);
		upper = page + half;
		if (want_zeroed ? nr_low == 0 && nr_high > 0 : nr_low == half && nr_high < half) {
			list_free_block(mm, zone, page, order, mt, false);
			page = upper;
		} else {
			list_free_block(mm, zone, upper, order, mt, false);
		}
	}
	account_freepages(zone, -(int64_t)order_frames(low), -(int64_t)page->nr_zeroed, mt);
	page_set_flags(page, (page_flags(page) & PAGE_IDENTITY) | PAGE_ORDER(low));
	return page;
}

static struct page *first_block(struct zone *zone, unsigned int order, enum migratetype mt,
				unsigned int kind)
{
	struct list_head *list = &zone->free_area[order].free_list[mt][kind];

	return list_first_entry(list, struct page, lru);
}

/* All-zero blocks are at the tail. */
static struct page *last_block(struct zone *zone, unsigned int order, enum migratetype mt,
			       unsigned int kind)
{
	struct list_head *list = &zone->free_area[order].free_list[mt][kind];

	return list_last_entry(list, struct page, lru);
}

/* The smallest order not below order with a block of this kind; MAX_ORDER + 1 if there is none. */
static unsigned int smallest_order(const struct zone *zone, unsigned int order, enum migratetype mt,
				   unsigned int kind)
{
	unsigned int orders = (unsigned int)zone->free_orders[mt][kind] >> order << order;

	return orders ? (unsigned int)__builtin_ctz(orders) : NR_PAGE_ORDERS;
}

/*
 * A block of exactly this order from the lists of one type; NULL if there is none. The smallest
 * block that has the wanted kind of frames, even if a smaller one has the other kind: zeroing a
 * frame costs a thousand times more than splitting. Kernel: __rmqueue_smallest().
 */
struct page *rmqueue_smallest(struct mm *mm, struct zone *zone, unsigned int order,
			      enum migratetype mt, bool want_zeroed)
{
	unsigned int kind = want_zeroed ? FREE_ZEROED : FREE_DIRTY;
	unsigned int found = smallest_order(zone, order, mt, kind);
	struct page *page;

	if (found >= NR_PAGE_ORDERS) {
		kind = !kind;
		found = smallest_order(zone, order, mt, kind);
	}
	if (found >= NR_PAGE_ORDERS)
		return NULL;
	if (want_zeroed && order > 0)
		page = last_block(zone, found, mt, kind);
	else
		page = first_block(zone, found, mt, kind);
	unlist_free_block(zone, page);
	return expand(mm, zone, page, order, mt, want_zeroed);
}

/* A block with at least one dirty frame, or NULL. */
static struct page *block_with_dirty(struct zone *zone, enum migratetype mt)
{
	unsigned int order = smallest_order(zone, 0, mt, FREE_DIRTY);

	if (order < NR_PAGE_ORDERS)
		return first_block(zone, order, mt, FREE_DIRTY);
	/* Mixed blocks are at the head of their lists. */
	for (order = 1; order < NR_PAGE_ORDERS; order++) {
		if (zone->free_orders[mt][FREE_ZEROED] >> order & 1) {
			struct page *page = first_block(zone, order, mt, FREE_ZEROED);

			if (page->nr_zeroed < order_frames(order))
				return page;
		}
	}
	return NULL;
}

/* One dirty frame, off the lists; NULL when all free frames are zeroed. */
struct page *rmqueue_dirty(struct mm *mm, struct zone *zone)
{
	for (unsigned int mt = 0; mt < MIGRATE_ISOLATE; mt++) {
		struct page *page = block_with_dirty(zone, mt);

		if (page) {
			unlist_free_block(zone, page);
			return expand(mm, zone, page, 0, mt, false);
		}
	}
	return NULL;
}

/* The head of the free block that a frame is in, or NULL. */
struct page *find_free_head(struct mm *mm, struct page *page)
{
	uint64_t pfn = pfn_of(mm, page);

	for (unsigned int order = 0; order < NR_PAGE_ORDERS; order++) {
		struct page *head = &mm->hot.mem_map[pfn & ~(uint64_t)(order_frames(order) - 1)];

		if (page_test(head, PAGE_FLAG(buddy)) && page_order(head) >= order)
			return head;
	}
	return NULL;
}

/* One piece of a block, still counted, whose frames in [start, end) leave the lists for good. */
static void take_piece(struct mm *mm, struct zone *zone, struct page *page, unsigned int order,
		       enum migratetype mt, const uint64_t range[2])
{
	uint64_t pfn = pfn_of(mm, page);
	unsigned int low, high;

	if (pfn >= range[1] || pfn + order_frames(order) <= range[0]) {
		list_free_block(mm, zone, page, order, mt, false);
		return;
	}
	if (pfn >= range[0] && pfn + order_frames(order) <= range[1]) {
		page_set_flags(page, (page_flags(page) & PAGE_IDENTITY) | PAGE_ORDER(order));
		account_freepages(zone, -(int64_t)order_frames(order), -(int64_t)page->nr_zeroed,
				  mt);
		return;
	}
	split_halves(page, order, &low, &high);
	take_piece(mm, zone, page, order - 1, mt, range);
	take_piece(mm, zone, page + order_frames(order - 1), order - 1, mt, range);
}

/*
 * Takes the frames of [start, end) (pfns) out of the free block that head leads; the rest stays
 * free. The pieces taken carry their order and no state.
 */
void take_free_range(struct mm *mm, struct zone *zone, struct page *head, uint64_t start,
		     uint64_t end)
{
	const uint64_t range[2] = { start, end };
	enum migratetype mt = page_list_migratetype(head);

	unlist_free_block(zone, head);
	take_piece(mm, zone, head, page_order(head), mt, range);
}
