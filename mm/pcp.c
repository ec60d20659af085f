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
#include "mm/internal.h"

/* Batches a refill or drain may be doubled to, as a power of two (kernel: the same). */
#define PCP_BATCH_SCALE_MAX 5
/* Frames moved between a stack and the lists at once. */
#define HOT_MOVE_MAX 31

void pcp_init(struct per_cpu_pages *pcp, struct zone *zone)
{
	pcp->batch = 1;
	for (unsigned int mt = 0; mt < MIGRATE_PCPTYPES; mt++) {
		pcp->hot[mt].zone = zone;
		pcp->hot[mt].used = (uint64_t)zone->nid << PAGE_NODE_SHIFT |
				    (uint64_t)zone->idx << PAGE_ZONE_SHIFT | PAGE_MT(mt) |
				    PAGE_FLAG(present);
	}
	for (unsigned int i = 0; i < NR_PCP_LISTS; i++)
		list_init(&pcp->lists[i]);
}

static uint64_t clamp_u64(uint64_t value, uint64_t low, uint64_t high)
{
	if (value > high)
		value = high;
	return value < low ? low : value;
}

static int32_t clamp_i32(int32_t value, int32_t low, int32_t high)
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
		for (unsigned int mt = 0; mt < MIGRATE_PCPTYPES; mt++)
			__atomic_store_n(&pcp->hot[mt].limit, share < 2 ? 0 : (uint32_t)batch * 2,
					 __ATOMIC_RELAXED);
		pcp->grown = 0;
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

/* Written under the lock; a drain looks without it. */
static void pcp_count_add(struct per_cpu_pages *pcp, int32_t frames)
{
	__atomic_store_n(&pcp->count, pcp->count + frames, __ATOMIC_RELAXED);
}

static void pcp_add(struct per_cpu_pages *pcp, struct page *page, unsigned int order,
		    enum migratetype mt, bool cold)
{
	bool zeroed = order == 0 && page->nr_zeroed;
	struct list_head *list = pcp_list(pcp, order, mt, zeroed);

	page_set_flags(page, (page_flags(page) & PAGE_IDENTITY) | PAGE_FLAG(pcp) |
				     PAGE_ORDER(order) | PAGE_MT(mt));
	if (cold)
		list_add_tail(&page->lru, list);
	else
		list_add(&page->lru, list);
	pcp_count_add(pcp, (int32_t)order_frames(order));
	pcp->nr_zeroed += page->nr_zeroed;
}

static void pcp_remove(struct per_cpu_pages *pcp, struct page *page, unsigned int order)
{
	list_del(&page->lru);
	pcp_count_add(pcp, -(int32_t)order_frames(order));
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
			   const struct alloc_context *ac, bool cold)
{
	struct per_cpu_pages *pcp;
	struct page *page = NULL;

	if (order == 0 && !ac->want_zeroed && !cold)
		page = hot_alloc_zone(mm, zone, ac->migratetype);
	if (page)
		return page;
	pcp = &zone->pageset[mm_this_cpu(mm)];
	spin_lock(&pcp->lock);
	page = pcp_take(pcp, order, ac->migratetype, ac->want_zeroed, cold);
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

/*
 * Frames to refill: a batch, doubled with each refill that no free came between. Allocating in bulk
 * also lets the cache grow (kernel: nr_pcp_alloc()). Unlike there, a refill never digs below the
 * caller's watermark: a batch here may be more than a small pool's whole reserve.
 */
static unsigned int refill_nr(struct zone *zone, struct per_cpu_pages *pcp, unsigned int order,
			      int64_t allowed)
{
	int32_t nr = pcp->batch << pcp->alloc_factor;
	int32_t most;

	if (!(zone_read(zone, flags) & (ZONE_FLAG_BELOW_HIGH | ZONE_FLAG_RECLAIMING)))
		pcp->high = clamp_i32(pcp->high + pcp->batch, pcp->high_min, pcp->high_max);
	most = pcp->high - pcp->count - pcp->batch;
	if (most < pcp->batch)
		most = pcp->batch;
	if (nr <= most && pcp->alloc_factor < PCP_BATCH_SCALE_MAX)
		pcp->alloc_factor++;
	if (nr > most)
		nr = most;
	if (nr > allowed)
		nr = allowed > 0 ? (int32_t)allowed : 0;
	nr >>= order;
	return nr > 1 ? (unsigned int)nr : 1;
}

/* Whether the free lists have the wanted kind (a hint: no lock). */
static bool zone_has_kind(const struct zone *zone, bool zeroed)
{
	uint64_t nr_zeroed = zone_page_state(zone, NR_FREE_ZEROED);

	return zeroed ? nr_zeroed > 0 : zone_page_state(zone, NR_FREE_PAGES) > nr_zeroed;
}

/* Dirty frames of order 0 from the list for the stack. */
static unsigned int take_for_stack(struct per_cpu_pages *pcp, enum migratetype mt,
				   struct page **pages)
{
	unsigned int want = pcp->hot[mt].limit / 2;
	unsigned int nr = 0;

	while (nr < want && nr < HOT_MOVE_MAX) {
		struct page *page = pcp_take(pcp, 0, mt, false, false);

		if (!page)
			break;
		pages[nr++] = page;
	}
	/* Neither allocated yet, nor freed when the stack gets them. */
	pcp->pgalloc -= nr;
	pcp->pgfree -= nr;
	return nr;
}

/* What does not fit (this is another CPU by now) goes back to the list it came from. */
static void push_to_stack(struct mm *mm, struct zone *zone, struct per_cpu_pages *pcp,
			  struct page **pages, unsigned int nr)
{
	enum migratetype mt;

	while (nr > 0 &&
	       hot_free_zone(mm, zone, pages[nr - 1], page_list_migratetype(pages[nr - 1])))
		nr--;
	if (nr == 0)
		return;
	spin_lock(&pcp->lock);
	while (nr > 0) {
		mt = page_list_migratetype(pages[--nr]);
		pcp->pgfree++;
		pcp_add(pcp, pages[nr], 0, mt, false);
	}
	spin_unlock(&pcp->lock);
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
	struct page *stack[HOT_MOVE_MAX];
	unsigned int nr_stack = 0;
	bool want = ac->want_zeroed;
	struct page *page;

	spin_lock(&pcp->lock);
	page = pcp_take(pcp, order, mt, want, false);
	if (!page && order == 0 && !zone_has_kind(zone, want))
		page = pcp_take(pcp, order, mt, !want, false);
	if (!page) {
		uint64_t mark = wmark_pages(zone, alloc_flags & ALLOC_WMARK_MASK);
		int64_t allowed =
			zone_allowance(zone, order, mark, ac->highest_zoneidx, alloc_flags);

		refill(mm, zone, pcp, order, refill_nr(zone, pcp, order, allowed), ac, alloc_flags);
		page = pcp_take(pcp, order, mt, want, false);
		if (!page)
			page = pcp_take(pcp, order, mt, !want, false);
	}
	pcp->free_count /= 2;
	if (page && order == 0 && !want && __atomic_load_n(&mm->hot.hot_cpus, __ATOMIC_RELAXED))
		nr_stack = take_for_stack(pcp, mt, stack);
	spin_unlock(&pcp->lock);
	if (nr_stack)
		push_to_stack(mm, zone, pcp, stack, nr_stack);
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
	note_above_high(zone);
	spin_unlock(&zone->lock);
}

/*
 * How many frames the lists may hold, tuned: a CPU that frees much gets room for what it frees
 * between two allocations; while the zone is short of memory the room shrinks (kernel:
 * nr_pcp_high()).
 */
static int32_t tune_high(struct zone *zone, struct per_cpu_pages *pcp)
{
	uint32_t flags = zone_read(zone, flags);
	int32_t need = pcp->free_count + pcp->batch;

	if (flags & ZONE_FLAG_RECLAIMING) {
		pcp->high = clamp_i32(pcp->high - pcp->batch, pcp->high_min, pcp->high_max);
		return pcp->batch * 4 < pcp->high ? pcp->batch * 4 : pcp->high;
	}
	if (flags & ZONE_FLAG_BELOW_HIGH)
		pcp->high = clamp_i32(pcp->high - pcp->batch, pcp->high_min, pcp->high_max);
	else if (pcp->count + pcp->grown > pcp->high && pcp->high_min != pcp->high_max)
		pcp->high = clamp_i32(need > pcp->high ? need : pcp->high, pcp->high_min,
				      pcp->high_max);
	return pcp->high;
}

static void add_and_trim(struct mm *mm, struct zone *zone, struct per_cpu_pages *pcp, int32_t freed)
{
	int32_t high;

	if (pcp->free_count < pcp->batch << PCP_BATCH_SCALE_MAX)
		pcp->free_count = (int16_t)(pcp->free_count + freed);
	pcp->alloc_factor = 0;
	high = tune_high(zone, pcp);
	if (unlikely(pcp->count + pcp->grown > high))
		drain(mm, zone, pcp, pcp->count + pcp->grown - high + pcp->batch);
}

/*
 * Frames that are freed and allocated again need not come to the lists, so a stack that is full
 * gets part of the room that the cache has. It is taken back when the cache idles.
 */
static bool grow_stack(const struct zone *zone, struct per_cpu_pages *pcp, enum migratetype mt)
{
	if ((zone_read(zone, flags) & (ZONE_FLAG_BELOW_HIGH | ZONE_FLAG_RECLAIMING)) ||
	    pcp->count + pcp->grown + 2 * pcp->batch > pcp->high ||
	    pcp->hot[mt].limit + (uint32_t)pcp->batch > UINT16_MAX || pcp->hot[mt].limit == 0)
		return false;
	__atomic_store_n(&pcp->hot[mt].limit, pcp->hot[mt].limit + (uint32_t)pcp->batch,
			 __ATOMIC_RELAXED);
	pcp->grown += pcp->batch;
	return true;
}

static void shrink_stacks(struct per_cpu_pages *pcp)
{
	const uint32_t least = (uint32_t)pcp->batch * 2;

	pcp->grown = 0;
	for (unsigned int mt = 0; mt < MIGRATE_PCPTYPES; mt++) {
		uint32_t limit = pcp->hot[mt].limit;

		if (limit <= least)
			continue;
		limit -= (limit - least + 7) / 8;
		__atomic_store_n(&pcp->hot[mt].limit, limit, __ATOMIC_RELAXED);
		pcp->grown += (int32_t)(limit - least);
	}
}

/* A full stack: its upper half goes behind the list, together with the frame that did not fit. */
static void spill_stack(struct mm *mm, struct zone *zone, struct per_cpu_pages *pcp,
			enum migratetype mt)
{
	struct page *pages[HOT_MOVE_MAX];
	unsigned int nr;
	bool grown;

	spin_lock(&pcp->lock);
	grown = grow_stack(zone, pcp, mt);
	spin_unlock(&pcp->lock);
	if (grown)
		return;
	nr = hot_detach_some(mm, zone, mt, pages, HOT_MOVE_MAX);
	if (nr == 0)
		return;
	spin_lock(&pcp->lock);
	for (unsigned int i = nr; i-- > 0;)
		pcp_add(pcp, pages[i], 0, mt, false);
	pcp->pgalloc -= nr;
	add_and_trim(mm, zone, pcp, (int32_t)nr);
	spin_unlock(&pcp->lock);
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
		zone_count_free(zone, order_frames(order));
		spin_unlock(&zone->lock);
		return;
	}
	if (order == 0 && !page->nr_zeroed && __atomic_load_n(&mm->hot.hot_cpus, __ATOMIC_RELAXED))
		spill_stack(mm, zone, pcp, mt);
	spin_lock(&pcp->lock);
	pcp_add(pcp, page, order, mt, cold);
	pcp->pgfree += order_frames(order);
	add_and_trim(mm, zone, pcp, (int32_t)order_frames(order));
	spin_unlock(&pcp->lock);
}

/* Frames in a stack. While its CPU runs what is read may belong to different moments: then again,
 * a few times, after which it is a guess. */
uint32_t hot_stack_frames(const struct hot_stack *stack)
{
	uint32_t frames = 0;

	for (unsigned int tries = 0; tries < 8; tries++) {
		uint64_t pushed = __atomic_load_n(&stack->pushed, __ATOMIC_ACQUIRE);
		const struct page *top = __atomic_load_n(&stack->top, __ATOMIC_ACQUIRE);

		frames = __atomic_load_n(&stack->front, __ATOMIC_RELAXED) ? 1 : 0;
		if (top)
			frames += __atomic_load_n(&top->depth, __ATOMIC_ACQUIRE);
		if (__atomic_load_n(&stack->top, __ATOMIC_ACQUIRE) == top &&
		    __atomic_load_n(&stack->pushed, __ATOMIC_RELAXED) == pushed)
			break;
	}
	return frames;
}

/* In all stacks of a cache. */
uint32_t pcp_hot_frames(const struct per_cpu_pages *pcp)
{
	uint32_t frames = 0;

	for (unsigned int mt = 0; mt < MIGRATE_PCPTYPES; mt++)
		frames += hot_stack_frames(&pcp->hot[mt]);
	return frames;
}

static bool hot_frames_on_node(const struct mm *mm, unsigned int nid)
{
	for (unsigned int type = 0; type < MAX_NR_ZONES; type++) {
		const struct zone *zone = &mm->node[nid]->node_zones[type];

		for (unsigned int cpu = 0; zone->pageset && cpu < mm->nr_cpus; cpu++)
			if (pcp_hot_frames(&zone->pageset[cpu]))
				return true;
	}
	return false;
}

/* Onto the lists. They count as freed there now, not as pushed and not popped any more. */
static void unstack(struct per_cpu_pages *pcp, struct hot_stack *stack, struct page *page)
{
	stack->pushed--;
	pcp->pgfree++;
	pcp_add(pcp, page, 0, page_list_migratetype(page), false);
}

/* The stacks are stopped. */
static void empty_stacks(struct per_cpu_pages *pcp)
{
	for (unsigned int mt = 0; mt < MIGRATE_PCPTYPES; mt++) {
		struct hot_stack *stack = &pcp->hot[mt];

		while (stack->top) {
			struct page *page = stack->top;

			stack->top = (struct page *)(void *)page->lru.next;
			unstack(pcp, stack, page);
		}
		if (stack->front)
			unstack(pcp, stack, stack->front);
		stack->front = NULL;
	}
}

/* All CPUs' caches of one zone; with stacks, only while they are stopped. */
static void drain_zone_pages(struct mm *mm, struct zone *zone, bool stacks)
{
	for (unsigned int cpu = 0; cpu < mm->nr_cpus; cpu++) {
		struct per_cpu_pages *pcp = &zone->pageset[cpu];

		if (!stacks && __atomic_load_n(&pcp->count, __ATOMIC_RELAXED) == 0)
			continue;
		spin_lock(&pcp->lock);
		if (stacks)
			empty_stacks(pcp);
		drain(mm, zone, pcp, pcp->count);
		spin_unlock(&pcp->lock);
	}
}

static void drain_nodes(struct mm *mm, unsigned int first, unsigned int end)
{
	bool stacks = false;

	for (unsigned int nid = first; nid < end && !stacks; nid++)
		stacks = hot_frames_on_node(mm, nid);
	if (stacks)
		hot_stop(mm);
	for (unsigned int nid = first; nid < end; nid++)
		for (unsigned int type = 0; type < MAX_NR_ZONES; type++)
			if (mm->node[nid]->node_zones[type].pageset)
				drain_zone_pages(mm, &mm->node[nid]->node_zones[type], stacks);
	if (stacks)
		hot_start(mm);
}

void mm_drain_all_pages(struct mm *mm)
{
	drain_nodes(mm, 0, mm->nr_nodes);
}

void mm_drain_node_pages(struct mm *mm, unsigned int nid)
{
	if (nid < mm->nr_nodes)
		drain_nodes(mm, nid, nid + 1);
}

/* Ticks without a change until a cache counts as idle (kernel: the expire of remote caches). */
#define PCP_IDLE_TICKS 3

/* Frames that went through since the start. */
static uint64_t pcp_activity(const struct per_cpu_pages *pcp)
{
	uint64_t activity = pcp->pgalloc + pcp->pgfree;

	/* What was pushed and is not there any more was popped. */
	for (unsigned int mt = 0; mt < MIGRATE_PCPTYPES; mt++)
		activity += __atomic_load_n(&pcp->hot[mt].pushed, __ATOMIC_RELAXED) * 2 -
			    hot_stack_frames(&pcp->hot[mt]);
	return activity;
}

/* One tick of one cache. True: it is idle and holds frames. The pcp's lock is held. */
static bool pcp_tick(struct per_cpu_pages *pcp)
{
	uint64_t activity = pcp_activity(pcp);

	if (activity != pcp->activity) {
		pcp->activity = activity;
		pcp->expire = PCP_IDLE_TICKS;
	} else if (pcp->expire > 0) {
		pcp->expire--;
	}
	/* Room that was won by a burst shrinks again (kernel: decay_pcp_high()). */
	pcp->high = clamp_i32(pcp->high - pcp->high / 8, pcp->high_min, pcp->high_max);
	shrink_stacks(pcp);
	return pcp->expire == 0 && (pcp->count > 0 || pcp_hot_frames(pcp) > 0);
}

static bool tick_zone(struct mm *mm, struct zone *zone)
{
	bool idle = false;

	for (unsigned int cpu = 0; zone->pageset && cpu < mm->nr_cpus; cpu++) {
		struct per_cpu_pages *pcp = &zone->pageset[cpu];

		spin_lock(&pcp->lock);
		idle |= pcp_tick(pcp);
		spin_unlock(&pcp->lock);
	}
	return idle;
}

/* The stacks are stopped: who woke up since the tick keeps its frames. */
static void drain_idle_zone(struct mm *mm, struct zone *zone)
{
	for (unsigned int cpu = 0; zone->pageset && cpu < mm->nr_cpus; cpu++) {
		struct per_cpu_pages *pcp = &zone->pageset[cpu];

		spin_lock(&pcp->lock);
		if (pcp->expire == 0 && pcp_activity(pcp) == pcp->activity &&
		    (pcp->count > 0 || pcp_hot_frames(pcp) > 0)) {
			empty_stacks(pcp);
			drain(mm, zone, pcp, pcp->count);
			count_vm_events(mm, PCP_IDLE_DRAIN, 1);
		}
		spin_unlock(&pcp->lock);
	}
}

/* What CPUs that went idle have in their caches is of use to others. Each tick, by kswapd. */
void drain_idle_pages(pg_data_t *pgdat)
{
	bool idle = false;

	for (unsigned int type = 0; type < MAX_NR_ZONES; type++)
		idle |= tick_zone(pgdat->mm, &pgdat->node_zones[type]);
	if (!idle)
		return;
	hot_stop(pgdat->mm);
	for (unsigned int type = 0; type < MAX_NR_ZONES; type++)
		drain_idle_zone(pgdat->mm, &pgdat->node_zones[type]);
	hot_start(pgdat->mm);
}
