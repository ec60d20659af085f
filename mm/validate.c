/* SPDX-License-Identifier: MIT */
/*
 * Cross-checks everything: each list against the frames on it, each frame against the lists, each
 * counter against a recount. The first contradiction is put into words.
 */
#include <errno.h>
#include <stdio.h>

#include "mm/internal.h"

struct check {
	struct mm *mm;
	struct zone *zone;
	char *buf;
	size_t len;
	bool failed;
	/* Recount of one zone, in frames. */
	uint64_t present, buddy, isolate, highatomic, zeroed, cached, quarantined, zeroing;
	/* Frames found in stacks, and frames that look as if they were in one. */
	uint64_t stacked, bare;
};

__attribute__((format(printf, 2, 3))) static void fail(struct check *check, const char *fmt, ...)
{
	va_list args;
	int used = 0;

	if (check->failed)
		return;
	check->failed = true;
	if (check->zone)
		used = snprintf(check->buf, check->len, "node %u zone %s: ", check->zone->nid,
				check->zone->name);
	if (used < 0 || (size_t)used >= check->len)
		return;
	va_start(args, fmt);
	vsnprintf(check->buf + used, check->len - (size_t)used, fmt, args);
	va_end(args);
}

static unsigned long long pfn_ll(const struct check *check, const struct page *page)
{
	return (unsigned long long)pfn_of(check->mm, page);
}

/* What must hold for the head of any block on a list. */
static void check_head(struct check *check, const struct page *page, unsigned int order)
{
	const struct mm *mm = check->mm;
	const pg_data_t *pgdat = check->zone->zone_pgdat;
	uint64_t pfn = pfn_of(mm, page);

	if (page_zonenum(page) != check->zone->idx || page_to_nid(page) != check->zone->nid)
		fail(check, "frame %llu on a list belongs to node %u zone %u", pfn_ll(check, page),
		     page_to_nid(page), page_zonenum(page));
	if (pfn & (order_frames(order) - 1))
		fail(check, "frame %llu is not aligned to its order %u", pfn_ll(check, page),
		     order);
	if (pfn < pgdat->node_start_pfn ||
	    pfn + order_frames(order) > pgdat->node_start_pfn + pgdat->node_spanned_pages)
		fail(check, "frame %llu order %u leaves its node", pfn_ll(check, page), order);
	if (page_order(page) != order)
		fail(check, "frame %llu on a list of order %u has order %u", pfn_ll(check, page),
		     order, page_order(page));
	if (page_count(page) != 0 || page_mapcount(page) != 0)
		fail(check, "free frame %llu has count %d mapcount %d", pfn_ll(check, page),
		     page_count(page), page_mapcount(page));
	if (page->nr_zeroed > order_frames(order))
		fail(check, "frame %llu order %u has %u zeroed frames", pfn_ll(check, page), order,
		     page->nr_zeroed);
}

/* The numbers of zeroed frames inside a mixed block add up, level by level. */
static void check_zeroed(struct check *check, const struct page *page, unsigned int order,
			 unsigned int total)
{
	unsigned int half = order_frames(order) / 2;
	unsigned int high;

	if (total == 0 || total == order_frames(order))
		return;
	high = page[half].nr_zeroed;
	if (high > half || high > total || total - high > half) {
		fail(check, "frame %llu order %u: %u zeroed frames, %u of them in the upper half",
		     pfn_ll(check, page), order, total, high);
		return;
	}
	check_zeroed(check, page, order - 1, total - high);
	check_zeroed(check, page + half, order - 1, high);
}

static void check_unmerged(struct check *check, const struct page *page, unsigned int order)
{
	const struct mm *mm = check->mm;
	const struct page *buddy = &mm->hot.mem_map[pfn_of(mm, page) ^ order_frames(order)];
	enum migratetype mt = page_list_migratetype(page);
	enum migratetype buddy_mt = page_list_migratetype(buddy);

	if (order == MAX_ORDER || !page_test(buddy, PAGE_FLAG(buddy)) ||
	    page_order(buddy) != order || page_zonenum(buddy) != check->zone->idx)
		return;
	if (mt == buddy_mt || (mt < MIGRATE_PCPTYPES && buddy_mt < MIGRATE_PCPTYPES))
		fail(check, "buddies %llu and %llu of order %u are both free", pfn_ll(check, page),
		     pfn_ll(check, buddy), order);
}

static void check_free_list(struct check *check, unsigned int order, enum migratetype mt,
			    unsigned int kind, uint64_t *blocks)
{
	struct zone *zone = check->zone;
	struct list_head *list = &zone->free_area[order].free_list[mt][kind];
	uint64_t limit = zone->present_pages + 1;
	bool all_zero_seen = false;
	struct list_head *pos;

	list_for_each(pos, list)
	{
		const struct page *page = list_entry(pos, struct page, lru);
		bool all_zero = page->nr_zeroed == order_frames(order);

		if (pos->next->prev != pos || limit-- == 0) {
			fail(check, "list of order %u type %u is broken", order, mt);
			return;
		}
		check_head(check, page, order);
		if (check->failed)
			return; /* the rest counts on it */
		check_zeroed(check, page, order, page->nr_zeroed);
		check_unmerged(check, page, order);
		if (!page_test(page, PAGE_FLAG(buddy)) || page_list_migratetype(page) != mt)
			fail(check, "frame %llu on a free list of type %u is not marked so",
			     pfn_ll(check, page), mt);
		if (get_pageblock_migratetype(check->mm, page) != mt ||
		    !pageblocks_uniform(check->mm, pageblock_entry(check->mm, page), order))
			fail(check, "frame %llu of type %u is in a pageblock of type %u",
			     pfn_ll(check, page), mt, get_pageblock_migratetype(check->mm, page));
		if ((page->nr_zeroed != 0) != (kind == FREE_ZEROED))
			fail(check, "frame %llu is on the wrong kind of list", pfn_ll(check, page));
		if (kind == FREE_ZEROED && all_zero_seen && !all_zero)
			fail(check, "mixed block %llu behind all-zero ones", pfn_ll(check, page));
		all_zero_seen = all_zero;
		*blocks += 1;
		check->zeroed += page->nr_zeroed;
	}
}

static void check_free_areas(struct check *check)
{
	for (unsigned int order = 0; order < NR_PAGE_ORDERS; order++) {
		for (unsigned int mt = 0; mt < MIGRATE_TYPES && !check->failed; mt++) {
			struct zone *zone = check->zone;
			uint64_t blocks = 0;

			for (unsigned int kind = 0; kind < NR_FREE_KINDS; kind++) {
				bool listed = zone->free_orders[mt][kind] >> order & 1;

				if (list_empty(&zone->free_area[order].free_list[mt][kind]) ==
				    listed)
					fail(check, "bitmap of lists: order %u type %u", order, mt);
				if (listed)
					check_free_list(check, order, mt, kind, &blocks);
			}
			if (blocks != check->zone->free_area[order].nr[mt])
				fail(check, "order %u type %u: %llu blocks, but nr is %u", order,
				     mt, (unsigned long long)blocks,
				     check->zone->free_area[order].nr[mt]);
			if (mt == MIGRATE_ISOLATE)
				check->isolate += blocks << order;
			else
				check->buddy += blocks << order;
			if (mt == MIGRATE_HIGHATOMIC)
				check->highatomic += blocks << order;
		}
	}
}

static void check_stacked(struct check *check, const struct hot_stack *stack,
			  const struct page *page, unsigned int cpu)
{
	check_head(check, page, 0);
	if (page->nr_zeroed || page_flags(page) != stack->used)
		fail(check,
		     "cpu %u: frame %llu is no part of its stack: flags %#llx, not %#llx, zeroed "
		     "%u",
		     cpu, pfn_ll(check, page), (unsigned long long)page_flags(page),
		     (unsigned long long)stack->used, page->nr_zeroed);
}

/* The stacks of dirty frames. Returns how many. */
static uint32_t check_hot(struct check *check, const struct per_cpu_pages *pcp, unsigned int cpu)
{
	uint32_t frames = 0;

	for (unsigned int mt = 0; mt < MIGRATE_PCPTYPES && !check->failed; mt++) {
		const struct page *page = pcp->hot[mt].front;
		uint32_t depth;

		if (page) {
			check_stacked(check, &pcp->hot[mt], page, cpu);
			frames++;
		}
		page = pcp->hot[mt].top;
		depth = page ? page->depth : 0;
		frames += depth;
		for (; page && !check->failed; page = (const void *)page->lru.next, depth--) {
			check_stacked(check, &pcp->hot[mt], page, cpu);
			if (depth == 0 || page->depth != depth)
				fail(check, "cpu %u: frame %llu has a wrong depth", cpu,
				     pfn_ll(check, page));
		}
		if (depth != 0)
			fail(check, "cpu %u: stack of type %u ends too early", cpu, mt);
	}
	return frames;
}

static void check_pcp(struct check *check, const struct per_cpu_pages *pcp, unsigned int cpu)
{
	int64_t count = 0, zeroed = 0;

	for (unsigned int i = 0; i < NR_PCP_LISTS && !check->failed; i++) {
		unsigned int slot = i % (PCP_ZEROED + 1);
		unsigned int order = slot == PCP_ZEROED ? 0 : slot;
		uint64_t limit = check->zone->present_pages + 1;
		const struct list_head *pos;

		list_for_each(pos, &pcp->lists[i])
		{
			const struct page *page = list_entry(pos, struct page, lru);

			if (pos->next->prev != pos || limit-- == 0) {
				fail(check, "cpu %u: list %u of the cache is broken", cpu, i);
				return;
			}
			check_head(check, page, order);
			if (check->failed)
				return;
			check_zeroed(check, page, order, page->nr_zeroed);
			if (!page_test(page, PAGE_FLAG(pcp)))
				fail(check, "frame %llu in a cache is not marked so",
				     pfn_ll(check, page));
			if (order == 0 && (page->nr_zeroed != 0) != (slot == PCP_ZEROED))
				fail(check, "frame %llu is on the wrong list of the cache",
				     pfn_ll(check, page));
			count += order_frames(order);
			zeroed += page->nr_zeroed;
		}
	}
	if (count != pcp->count || zeroed != pcp->nr_zeroed)
		fail(check, "cpu %u: cache has %lld frames, %lld zeroed; counters say %d and %d",
		     cpu, (long long)count, (long long)zeroed, pcp->count, pcp->nr_zeroed);
	check->cached += (uint64_t)count;
	check->stacked += check_hot(check, pcp, cpu);
}

/* What a block is, by its head; the frames behind it must have no state. */
static unsigned int check_block(struct check *check, const struct page *page, uint64_t left)
{
	const uint64_t state = PAGE_FLAG(buddy) | PAGE_FLAG(pcp) | PAGE_FLAG(hwpoison);
	uint64_t flags = page_flags(page);
	unsigned int frames = order_frames(page_order(page));

	/* Nothing marks frames in stacks, so they are counted: one more than the stacks have is
	 * lost. */
	if ((flags & ~(PAGE_IDENTITY | PAGE_MT_MASK)) == 0 && page_count(page) == 0 &&
	    check->bare < check->stacked) {
		check->bare++;
		return 1;
	}
	if (!(flags & (state | PAGE_FLAG(isolated))) && page_count(page) <= 0) {
		fail(check, "frame %llu is lost: neither free, cached, allocated nor quarantined",
		     pfn_ll(check, page));
		return 1;
	}
	if (frames > left) {
		fail(check, "block %llu leaves its node", pfn_ll(check, page));
		return 1;
	}
	for (unsigned int i = 1; i < frames; i++)
		if (page_test(page + i, state) || page_count(page + i) != 0 ||
		    ((page_flags(page + i) ^ flags) & PAGE_IDENTITY))
			fail(check, "frame %llu inside block %llu has a state of its own",
			     pfn_ll(check, page + i), pfn_ll(check, page));
	if (flags & PAGE_FLAG(hwpoison) && page_count(page) == 0)
		check->quarantined += frames;
	else if (flags & PAGE_FLAG(isolated) && page_count(page) == 0)
		check->zeroing += frames;
	return frames;
}

/* All frames of the zone, which are in its span (check_spans()). */
static void check_frames(struct check *check)
{
	const struct zone *zone = check->zone;
	uint64_t end = zone->zone_start_pfn + zone->spanned_pages;
	uint64_t pfn = zone->zone_start_pfn;

	while (pfn < end && !check->failed) {
		const struct page *page = &check->mm->hot.mem_map[pfn];
		unsigned int frames;

		if (!page_test(page, PAGE_FLAG(present)) || page_zonenum(page) != zone->idx) {
			pfn++;
			continue;
		}
		frames = check_block(check, page, end - pfn);
		check->present += frames;
		pfn += frames;
	}
}

/* Each frame of the node is in the span of its zone. */
static void check_spans(struct check *check, const pg_data_t *pgdat)
{
	uint64_t end = pgdat->node_start_pfn + pgdat->node_spanned_pages;

	for (uint64_t pfn = pgdat->node_start_pfn; pfn < end && !check->failed; pfn++) {
		const struct page *page = &check->mm->hot.mem_map[pfn];
		unsigned int idx = page_zonenum(page);

		if (!page_test(page, PAGE_FLAG(present))) {
			if (page_flags(page))
				fail(check, "absent frame %llu has flags", pfn_ll(check, page));
		} else if (idx >= MAX_NR_ZONES) {
			fail(check, "frame %llu belongs to zone %u", pfn_ll(check, page), idx);
		} else if (pfn - pgdat->node_zones[idx].zone_start_pfn >=
			   pgdat->node_zones[idx].spanned_pages) {
			fail(check, "frame %llu is outside the zone's span", pfn_ll(check, page));
		}
	}
}

static void compare(struct check *check, const char *what, uint64_t counted, uint64_t kept)
{
	if (counted != kept)
		fail(check, "%s: counted %llu, kept %llu", what, (unsigned long long)counted,
		     (unsigned long long)kept);
}

/* Pageblocks of the highatomic type, by frames. */
static uint64_t highatomic_frames(const struct check *check)
{
	const pg_data_t *pgdat = check->zone->zone_pgdat;
	uint64_t blocks =
		(pgdat->node_spanned_pages + order_frames(check->mm->pageblock_order) - 1) >>
		check->mm->pageblock_order;
	uint64_t frames = 0;

	for (uint64_t i = 0; i < blocks; i++)
		if (pgdat->pageblock_mt[check->zone->idx * pgdat->nr_pageblocks + i] ==
		    MIGRATE_HIGHATOMIC)
			frames += order_frames(check->mm->pageblock_order);
	return frames;
}

static void check_counters(struct check *check)
{
	const struct zone *zone = check->zone;
	uint64_t allocated;

	compare(check, "frames in stacks", check->bare, check->stacked);
	compare(check, "free frames", check->buddy, zone->vm_stat[NR_FREE_PAGES]);
	compare(check, "isolated free frames", check->isolate, zone->vm_stat[NR_FREE_ISOLATE]);
	compare(check, "free highatomic frames", check->highatomic,
		zone->vm_stat[NR_FREE_HIGHATOMIC]);
	compare(check, "reserved highatomic frames", highatomic_frames(check),
		zone->nr_reserved_highatomic);
	compare(check, "free zeroed frames", check->zeroed, zone->vm_stat[NR_FREE_ZEROED]);
	compare(check, "quarantined frames", check->quarantined, zone->vm_stat[NR_QUARANTINED]);
	compare(check, "frames being zeroed", check->zeroing, zone->vm_stat[NR_ZEROING]);
	compare(check, "present frames", check->present, zone->present_pages);
	compare(check, "managed frames", zone->present_pages - check->quarantined,
		zone->managed_pages);
	allocated = check->present - check->buddy - check->isolate - check->cached -
		    check->stacked - check->quarantined - check->zeroing;
	if (allocated > check->present)
		fail(check, "more frames free than present");
}

static bool check_zone(struct mm *mm, struct zone *zone, char *buf, size_t len)
{
	struct check check = { .mm = mm, .zone = zone, .buf = buf, .len = len };

	hot_stop(mm);
	for (unsigned int cpu = 0; cpu < mm->nr_cpus; cpu++)
		spin_lock(&zone->pageset[cpu].lock);
	spin_lock(&zone->lock);
	check_free_areas(&check);
	for (unsigned int cpu = 0; cpu < mm->nr_cpus && !check.failed; cpu++)
		check_pcp(&check, &zone->pageset[cpu], cpu);
	if (!check.failed)
		check_frames(&check);
	if (!check.failed)
		check_counters(&check);
	spin_unlock(&zone->lock);
	for (unsigned int cpu = mm->nr_cpus; cpu-- > 0;)
		spin_unlock(&zone->pageset[cpu].lock);
	hot_start(mm);
	return !check.failed;
}

int mm_validate(struct mm *mm, char *buf, size_t len)
{
	unsigned int nid, idx;
	struct zone *zone;
	bool ok = true;

	if (len)
		buf[0] = 0;
	spin_lock(&mm->hotplug_lock);
	for_each_zone (mm, nid, idx, zone)
		ok = ok && check_zone(mm, zone, buf, len);
	for_each_node (mm, nid) {
		struct check check = { .mm = mm, .buf = buf, .len = len, .failed = !ok };
		uint64_t present = 0;

		check_spans(&check, mm->node[nid]);
		for (idx = 0; idx < MAX_NR_ZONES; idx++)
			present += mm->node[nid]->node_zones[idx].present_pages;
		if (present != mm->node[nid]->node_present_pages)
			fail(&check, "node %u: zones have %llu frames, the node %llu", nid,
			     (unsigned long long)present,
			     (unsigned long long)mm->node[nid]->node_present_pages);
		ok = ok && !check.failed;
	}
	spin_unlock(&mm->hotplug_lock);
	return ok ? 0 : -EUCLEAN;
}
