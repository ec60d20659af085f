/* SPDX-License-Identifier: MIT */
/*
 * Per-CPU page caches. Most allocations and frees end here, under a lock that no other CPU takes
 * unless it drains this cache. Refill and drain go in batches, so that the zone lock is taken
 * rarely.
 *
 * A frame in a cache has left the zone's free count (as in the kernel), so a hit needs no look at
 * watermarks. Dirty and zeroed frames of order 0 have lists of their own: who needs zeroed frames
 * gets them without paying, and who does not leaves them.
 */
#include <sched.h>
#include <sys/rseq.h>

#include "mm/internal.h"

static _Thread_local int thread_cpu = -1;

void mm_set_cpu(int cpu)
{
	thread_cpu = cpu;
}

/* The cache this thread uses. It may be on another CPU the next moment: the lock makes it safe. */
unsigned int mm_this_cpu(const struct mm *mm)
{
	unsigned int cpu = (unsigned int)thread_cpu;

	if (thread_cpu < 0) {
		/* glibc registers rseq; the kernel keeps cpu_id up to date in it. */
		const struct rseq *rseq =
			(const struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);

		cpu = __rseq_size ? *(const volatile uint32_t *)&rseq->cpu_id
				  : (unsigned int)sched_getcpu();
	}
	return likely(cpu < mm->nr_cpus) ? cpu : cpu % mm->nr_cpus;
}

void pcp_init(struct per_cpu_pages *pcp)
{
	pcp->batch = 1;
	for (unsigned int i = 0; i < NR_PCP_LISTS; i++)
		list_init(&pcp->lists[i]);
}

static uint64_t clamp_u64(uint64_t value, uint64_t low, uint64_t high)
{
	if (value > high)
		value = high;
	return value < low ? low : value;
}

/*
 * Kernel: zone_batchsize(), zone_highsize(). Re-based: the kernel's batch is at most 252 KiB; a
 * batch of 31 frames is 62 MiB, so all caches together never hold more than an eighth of a zone,
 * and a zone with less than 8 frames per CPU has no caches at all.
 */
void pcp_update_limits(struct mm *mm, struct zone *zone)
{
	uint64_t share = zone->managed_pages / 8 / mm->nr_cpus;
	uint64_t batch = clamp_u64(zone->managed_pages >> 9, 1, 21) * 3 / 2;
	uint64_t high_min;

	batch = clamp_u64((UINT64_C(1) << (63 - __builtin_clzll(batch))) - 1, 1, 31);
	batch = clamp_u64(batch, 1, share / 4 ? share / 4 : 1);
	high_min = clamp_u64(zone->_watermark[WMARK_LOW] / mm->nr_cpus, 4 * batch, share);
	if (high_min > share)
		high_min = share;
	for (unsigned int cpu = 0; cpu < mm->nr_cpus; cpu++) {
		struct per_cpu_pages *pcp = &zone->pageset[cpu];

		spin_lock(&pcp->lock);
		pcp->batch = (int32_t)batch;
		pcp->high_min = (int32_t)clamp_u64(high_min, 0, INT32_MAX);
		pcp->high_max = (int32_t)clamp_u64(share, high_min, INT32_MAX);
		pcp->high = (int32_t)clamp_u64((uint64_t)pcp->high, (uint64_t)pcp->high_min,
					       (uint64_t)pcp->high_max);
		spin_unlock(&pcp->lock);
	}
}

static struct list_head *pcp_list(struct per_cpu_pages *pcp, unsigned int order,
				  enum migratetype mt, bool zeroed)
{
	return &pcp->lists[mt * (PCP_ZEROED + 1) + (order == 0 && zeroed ? PCP_ZEROED : order)];
}

static void pcp_add(struct per_cpu_pages *pcp, struct page *page, unsigned int order,
		    enum migratetype mt, bool cold)
{
	bool zeroed = order == 0 && page->nr_zeroed;
	struct list_head *list = pcp_list(pcp, order, mt, zeroed);

	page_set_flags(page, (page_flags(page) & PAGE_IDENTITY) | PAGE_FLAG(pcp) |
				     (uint64_t)order << PAGE_ORDER_SHIFT |
				     (uint64_t)mt << PAGE_MT_SHIFT);
	if (cold)
		list_add_tail(&page->lru, list);
	else
		list_add(&page->lru, list);
	pcp->count += (int32_t)order_frames(order);
	pcp->nr_zeroed += page->nr_zeroed;
}

static void pcp_remove(struct per_cpu_pages *pcp, struct page *page, unsigned int order)
{
	list_del(&page->lru);
	pcp->count -= (int32_t)order_frames(order);
	pcp->nr_zeroed -= page->nr_zeroed;
}

/* Takes one block of exactly this kind, or NULL. */
static struct page *pcp_take(struct per_cpu_pages *pcp, unsigned int order, enum migratetype mt,
			     bool zeroed, bool cold)
{
	struct list_head *list = pcp_list(pcp, order, mt, zeroed);
	struct page *page;

	if (list_empty(list))
		return NULL;
	page = cold ? list_last_entry(list, struct page, lru)
		    : list_first_entry(list, struct page, lru);
	pcp_remove(pcp, page, order);
	pcp->pgalloc += order_frames(order);
	return page;
}

/* From the cache alone and of the wanted kind, else NULL. The shortest way to a frame. */
struct page *pcp_alloc_hit(struct mm *mm, struct zone *zone, unsigned int order,
			   enum migratetype mt, bool want_zeroed, bool cold)
{
	struct per_cpu_pages *pcp = &zone->pageset[mm_this_cpu(mm)];
	struct page *page;

	spin_lock(&pcp->lock);
	page = pcp_take(pcp, order, mt, want_zeroed, cold);
	spin_unlock(&pcp->lock);
	return page;
}

/* Moves up to nr blocks from the free lists into the cache. Kernel: rmqueue_bulk(). */
static unsigned int refill(struct mm *mm, struct zone *zone, struct per_cpu_pages *pcp,
			   unsigned int order, unsigned int nr, const struct alloc_context *ac,
			   unsigned int alloc_flags)
{
	unsigned int done = 0;

	spin_lock(&zone->lock);
	while (done < nr) {
		struct page *page =
			rmqueue_smallest(mm, zone, order, ac->migratetype, ac->want_zeroed);

		if (!page)
			page = rmqueue_fallback(mm, zone, order, ac->migratetype, alloc_flags);
		if (!page)
			break;
		/* In address order: the next allocations are neighbours. */
		pcp_add(pcp, page, order, ac->migratetype, true);
		done++;
		/* No zeroed ones left: one is enough, the lists of dirty ones are not worth it. */
		if (ac->want_zeroed && order == 0 && !page->nr_zeroed)
			break;
	}
	spin_unlock(&zone->lock);
	if (done)
		pcp->refills++;
	return done;
}

/* Blocks to refill: a batch, doubled with each refill that no free came between. */
static unsigned int refill_nr(struct per_cpu_pages *pcp, unsigned int order)
{
	int32_t nr = pcp->batch << pcp->alloc_factor;

	if (nr > pcp->high - pcp->count)
		nr = pcp->high - pcp->count;
	if (nr < pcp->batch)
		nr = pcp->batch;
	if (pcp->alloc_factor < 4)
		pcp->alloc_factor++;
	nr >>= order;
	return nr > 1 ? (unsigned int)nr : 1;
}

/* Whether the free lists have the wanted kind (a hint: no lock). */
static bool zone_has_kind(const struct zone *zone, bool zeroed)
{
	uint64_t nr_zeroed = zone_page_state(zone, NR_FREE_ZEROED);

	return zeroed ? nr_zeroed > 0 : zone_page_state(zone, NR_FREE_PAGES) > nr_zeroed;
}

/*
 * From the cache, refilled if need be. The caller has checked the watermark. Order of choice: the
 * wanted kind from the cache, from the free lists, the other kind from the cache, from the lists.
 */
struct page *pcp_alloc(struct mm *mm, struct zone *zone, unsigned int order,
		       const struct alloc_context *ac, unsigned int alloc_flags)
{
	struct per_cpu_pages *pcp = &zone->pageset[mm_this_cpu(mm)];
	enum migratetype mt = ac->migratetype;
	bool want = ac->want_zeroed;
	struct page *page;

	spin_lock(&pcp->lock);
	page = pcp_take(pcp, order, mt, want, false);
	if (!page && order == 0 && !zone_has_kind(zone, want))
		page = pcp_take(pcp, order, mt, !want, false);
	if (!page) {
		refill(mm, zone, pcp, order, refill_nr(pcp, order), ac, alloc_flags);
		page = pcp_take(pcp, order, mt, want, false);
		if (!page)
			page = pcp_take(pcp, order, mt, !want, false);
	}
	spin_unlock(&pcp->lock);
	return page;
}

/* Frees nr frames' worth of blocks, cold ends first, lists in turn. Kernel: free_pcppages_bulk().
 */
static void drain(struct mm *mm, struct zone *zone, struct per_cpu_pages *pcp, int32_t nr)
{
	unsigned int i = 0;

	if (pcp->count == 0)
		return;
	pcp->drains++;
	spin_lock(&zone->lock);
	while (nr > 0 && pcp->count > 0) {
		struct list_head *list = &pcp->lists[i++ % NR_PCP_LISTS];
		struct page *page;
		unsigned int order;

		if (list_empty(list))
			continue;
		page = list_last_entry(list, struct page, lru);
		order = page_order(page);
		pcp_remove(pcp, page, order);
		page_set_flags(page, page_flags(page) & ~PAGE_FLAG(pcp));
		free_one_page(mm, zone, page, order, page->nr_zeroed);
		nr -= (int32_t)order_frames(order);
	}
	spin_unlock(&zone->lock);
}

/* A checked block without references. page->nr_zeroed says what is known of its content. */
void pcp_free(struct mm *mm, struct zone *zone, struct page *page, unsigned int order, bool cold)
{
	struct per_cpu_pages *pcp = &zone->pageset[mm_this_cpu(mm)];
	enum migratetype mt = get_pageblock_migratetype(mm, page);

	if (unlikely(mt >= MIGRATE_PCPTYPES)) {
		/* Frames of the highatomic reserve and of blocks being offlined go back at once. */
		spin_lock(&zone->lock);
		free_one_page(mm, zone, page, order, page->nr_zeroed);
		spin_unlock(&zone->lock);
		return;
	}
	spin_lock(&pcp->lock);
	pcp_add(pcp, page, order, mt, cold);
	pcp->pgfree += order_frames(order);
	pcp->alloc_factor = 0;
	if (unlikely(pcp->count > pcp->high))
		drain(mm, zone, pcp, pcp->count - pcp->high + pcp->batch);
	spin_unlock(&pcp->lock);
}

/* All CPUs' caches of one zone. */
void drain_zone_pages(struct mm *mm, struct zone *zone)
{
	for (unsigned int cpu = 0; cpu < mm->nr_cpus; cpu++) {
		struct per_cpu_pages *pcp = &zone->pageset[cpu];

		spin_lock(&pcp->lock);
		drain(mm, zone, pcp, pcp->count);
		spin_unlock(&pcp->lock);
	}
}

void mm_drain_all_pages(struct mm *mm)
{
	unsigned int nid, idx;
	struct zone *zone;

	for_each_zone (mm, nid, idx, zone)
		drain_zone_pages(mm, zone);
}
