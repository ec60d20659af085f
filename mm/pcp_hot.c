/* SPDX-License-Identifier: MIT */
/* The stacks in front of the per-CPU caches: set-up, use from the longer paths, stopping them. */
#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "mm/internal.h"
#include "mm/pcp_hot.h"

#if HAVE_PCP_HOT

/* Frames moved from a list to the stack at once, and one for the caller. */
#define HOT_REFILL_MAX 16

/* Only where threads have a registration and the kernel can restart the sequences of others. */
static uint32_t usable_cpus(const struct mm *mm)
{
	if (__rseq_size == 0 || (mm->flags & (MM_DEBUG_POISON | MM_PAGE_OWNER)))
		return 0;
	if (syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ, 0, 0))
		return 0;
	return mm->nr_cpus;
}

void hot_init(struct mm *mm)
{
	mm->hot_cpus_usual = usable_cpus(mm);
	mm->hot_cpus = mm->hot_cpus_usual;
}

/* What is in the stacks when they are switched off comes out with the next drain. */
void hot_enable(struct mm *mm, bool on)
{
	hot_stop(mm);
	mm->hot_cpus_usual = on ? usable_cpus(mm) : 0;
	hot_start(mm);
}

/*
 * What is empty gets its share of the list behind it, so that the next allocations need no lock.
 * Returns one frame more than that, or NULL if the list is empty too.
 */
static struct page *hot_refill(struct mm *mm, struct zone *zone, enum migratetype mt)
{
	uint32_t cpu = hot_cpu() | mm_not_hot;
	struct page *pages[HOT_REFILL_MAX];
	struct per_cpu_pages *pcp;
	struct list_head *list;
	unsigned int nr = 0;

	if (cpu >= mm->hot_cpus)
		return NULL;
	pcp = &zone->pageset[cpu];
	list = &pcp->lists[mt * (PCP_ZEROED + 1)]; /* dirty frames of order 0 */
	spin_lock(&pcp->lock);
	while (nr < HOT_REFILL_MAX && nr <= pcp->hot[mt].limit / 2 && !list_empty(list)) {
		pages[nr] = list_first_entry(list, struct page, lru);
		list_del(&pages[nr++]->lru);
	}
	__atomic_store_n(&pcp->count, pcp->count - (int32_t)nr, __ATOMIC_RELAXED);
	pcp->pgalloc += nr > 0;
	pcp->pgfree -= nr > 0 ? nr - 1 : 0; /* what the pushes count */
	spin_unlock(&pcp->lock);
	if (nr == 0)
		return NULL;
	while (nr > 1 && hot_push(mm, &zone->pageset[0].hot[mt], pages[nr - 1]))
		nr--;
	/* This is another CPU by now, or the stacks were stopped: back where they were. */
	if (nr > 1) {
		spin_lock(&pcp->lock);
		__atomic_store_n(&pcp->count, pcp->count + (int32_t)nr - 1, __ATOMIC_RELAXED);
		pcp->pgfree += nr - 1;
		while (nr > 1)
			list_add(&pages[--nr]->lru, list);
		spin_unlock(&pcp->lock);
	}
	return pages[0];
}

/* From this CPU's stack of a certain zone. */
struct page *hot_alloc_zone(struct mm *mm, struct zone *zone, enum migratetype mt)
{
	struct page *page = hot_pop_stack(mm, &zone->pageset[0].hot[mt]);

	return page ? page : hot_refill(mm, zone, mt);
}

/* The page looks like one in a cache. */
bool hot_free_zone(struct mm *mm, struct zone *zone, struct page *page, enum migratetype mt)
{
	return hot_push(mm, &zone->pageset[0].hot[mt], page);
}

/*
 * The two halves of page->flags: the flag bits, and where the frame is and what it was allocated
 * as. A frame in a stack has the type of the stack, so that only the flag bits change when it comes
 * and goes, and what is stored does not depend on what was loaded: the loads and stores of one pair
 * are no chain. Checks are or-ed together because branches, not instructions, are what costs.
 */
static inline uint32_t *flag_bits(struct page *page)
{
	return (uint32_t *)(void *)&page->flags;
}

static inline uint32_t flag_place(struct page *page)
{
	return __atomic_load_n(flag_bits(page) + 1, __ATOMIC_RELAXED);
}

_Static_assert(NR_PAGEFLAGS <= 32 && PAGE_ORDER_SHIFT >= 32, "flag bits are the lower half");
_Static_assert(HOT_SLOT(1, 1) == MIGRATE_PCPTYPES + 1, "mm_alloc_page() counts the same way");

/* What the stack cannot serve, or a frame of it in a state it must not have. */
__attribute__((noinline, cold)) static struct page *alloc_page_slow(struct mm *mm,
								    struct page *page, gfp_t gfp)
{
	if (page && prep_new_page(mm, page, 0, gfp))
		return page;
	return mm_alloc_pages_nodemask(mm, gfp, 0, NUMA_NO_NODE, NULL);
}

struct page *mm_alloc_page_hot(struct mm *mm, gfp_t gfp, unsigned long slot)
{
	struct page *page = hot_pop(mm, mm->hot_alloc + slot);

	if (unlikely(!page))
		return alloc_page_slow(mm, NULL, gfp);
	/* page_allocatable() in one */
	if (unlikely((__atomic_load_n(flag_bits(page), __ATOMIC_RELAXED) &
		      PAGE_FLAGS_CHECK_AT_PREP) |
		     page_counts(page) | (uintptr_t)page->mapping))
		return alloc_page_slow(mm, page, gfp);
	__atomic_store_n(flag_bits(page), (uint32_t)PAGE_FLAG(present), __ATOMIC_RELAXED);
	page->private = 0;
	set_page_counts(page, 1);
	return page;
}

/* Not a frame of the instance, not the last reference, not to be freed, or no room: false. */
static inline bool free_page_hot(struct mm *mm, struct page *page)
{
	uintptr_t offset = (uintptr_t)page - (uintptr_t)mm->mem_map;
	uint32_t bits, place;
	enum migratetype mt;

	/* What is not a multiple of the size rotates to far beyond the end. */
	_Static_assert(sizeof(*page) == 1 << 6, "rotated by that");
	if (unlikely((offset >> 6 | offset << 58) >= mm->nr_pfns))
		return false;
	bits = __atomic_load_n(flag_bits(page), __ATOMIC_RELAXED);
	place = flag_place(page);
	/* page_freeable() in one */
	if (unlikely(((bits & (PAGE_FLAGS_CHECK_AT_FREE | PAGE_FLAG(present))) ^
		      PAGE_FLAG(present)) |
		     (place & PAGE_ORDER_MASK >> 32) | (page_counts(page) ^ 1) |
		     (uintptr_t)page->mapping))
		return false;
	mt = (enum migratetype)(place >> (PAGE_MT_SHIFT - 32) & PAGE_MT_MASK >> PAGE_MT_SHIFT);
	/* Complete before it is on the stack: it may be popped at once by another thread. */
	set_page_counts(page, 0);
	__atomic_store_n(flag_bits(page), (uint32_t)(PAGE_FLAG(present) | PAGE_FLAG(pcp)),
			 __ATOMIC_RELAXED);
	if (likely(hot_push(mm, &mm->pagesets[place >> (PAGE_ZONE_SHIFT - 32)]->hot[mt], page)))
		return true;
	__atomic_store_n(flag_bits(page), bits, __ATOMIC_RELAXED);
	set_page_counts(page, 1);
	return false;
}

void mm_free_page(struct mm *mm, struct page *page)
{
	if (unlikely(!free_page_hot(mm, page)))
		free_pages_any(mm, page, 0);
}

/* Up to half of the stack if that is full, at most nr frames. */
unsigned int hot_detach_some(struct mm *mm, struct zone *zone, enum migratetype mt,
			     struct page **pages, unsigned int nr)
{
	uint32_t cpu = hot_cpu() | mm_not_hot;
	const struct hot_stack *stack;
	const struct page *top;
	unsigned int done = 0;

	if (cpu >= mm->nr_cpus)
		return 0;
	stack = &zone->pageset[cpu].hot[mt];
	top = __atomic_load_n(&stack->top, __ATOMIC_RELAXED);
	if (!top || __atomic_load_n(&top->depth, __ATOMIC_RELAXED) < stack->limit)
		return 0;
	if (nr > (stack->limit + 1) / 2)
		nr = (stack->limit + 1) / 2;
	while (done < nr) {
		pages[done] = hot_pop_stack(mm, &zone->pageset[0].hot[mt]);
		if (!pages[done])
			break;
		done++;
	}
	return done;
}

/*
 * Until hot_start() no stack changes, and what was done to them before is visible here: each
 * sequence begins with a look at hot_cpus, and membarrier() restarts those that looked before it
 * became 0.
 */
void hot_stop(struct mm *mm)
{
	spin_lock(&mm->hot_lock);
	__atomic_store_n(&mm->hot_cpus, 0, __ATOMIC_SEQ_CST);
	if (mm->hot_cpus_usual)
		syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ, 0, 0);
}

#else

struct page *mm_alloc_page_hot(struct mm *mm, gfp_t gfp, unsigned long slot)
{
	(void)slot;
	return mm_alloc_pages_nodemask(mm, gfp, 0, NUMA_NO_NODE, NULL);
}

void mm_free_page(struct mm *mm, struct page *page)
{
	free_pages_any(mm, page, 0);
}

void hot_init(struct mm *mm)
{
	(void)mm;
}

void hot_enable(struct mm *mm, bool on)
{
	(void)mm, (void)on;
}

struct page *hot_alloc_zone(struct mm *mm, struct zone *zone, enum migratetype mt)
{
	(void)mm, (void)zone, (void)mt;
	return NULL;
}

bool hot_free_zone(struct mm *mm, struct zone *zone, struct page *page, enum migratetype mt)
{
	(void)mm, (void)zone, (void)page, (void)mt;
	return false;
}

unsigned int hot_detach_some(struct mm *mm, struct zone *zone, enum migratetype mt,
			     struct page **pages, unsigned int nr)
{
	(void)mm, (void)zone, (void)mt, (void)pages, (void)nr;
	return 0;
}

void hot_stop(struct mm *mm)
{
	spin_lock(&mm->hot_lock);
}

#endif

/* Pairs with the load of hot_cpus at the start of each sequence. */
void hot_start(struct mm *mm)
{
	__atomic_store_n(&mm->hot_cpus, mm->hot_paused ? 0 : mm->hot_cpus_usual, __ATOMIC_RELEASE);
	spin_unlock(&mm->hot_lock);
}

/* Frames go around in the stacks without a look at their pageblock, so offlining has them out of
 * use (kernel: zone_pcp_disable()). Calls with true and false come in pairs. */
void hot_pause(struct mm *mm, bool pause)
{
	hot_stop(mm);
	mm->hot_paused += pause ? 1 : -1u;
	hot_start(mm);
}

/* What the table has where there is nothing to be had: always empty. */
static struct hot_stack no_stack;

static struct hot_stack *first_stack(const struct mm *mm, unsigned int cpu, unsigned int type,
				     enum migratetype mt)
{
	const struct zonelist *zonelist =
		&mm->node[mm->cpu_node[cpu]]->node_zonelists[ZONELIST_FALLBACK];
	uint32_t at = zonelist->first[type];

	if (at >= zonelist->nr)
		return &no_stack;
	return &zonelist->refs[at].zone->pageset[cpu].hot[mt];
}

/* Which stack an allocation without a node looks at, by CPU, highest zone and type. */
void hot_update_tables(struct mm *mm)
{
	for (unsigned int cpu = 0; cpu < mm->nr_cpus; cpu++)
		for (unsigned int type = 0; type < MAX_NR_ZONES; type++)
			for (unsigned int mt = 0; mt < MIGRATE_PCPTYPES; mt++)
				__atomic_store_n(
					&mm->hot_alloc[cpu * HOT_PER_CPU + HOT_SLOT(type, mt)],
					first_stack(mm, cpu, type, mt), __ATOMIC_RELAXED);
}
