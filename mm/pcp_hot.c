/* SPDX-License-Identifier: MIT */
/* The stacks in front of the per-CPU caches: set-up, use from the longer paths, stopping them. */
#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "mm/internal.h"
#include "mm/pcp_hot.h"

_Thread_local int mm_thread_cpu = -1;

#if HAVE_PCP_HOT

/* As the registered one is when a thread runs on no CPU. */
static _Thread_local struct rseq no_rseq = { .cpu_id = UINT32_MAX };

/* No C expression says where a thread-local variable is from the thread pointer. */
asm(".pushsection .tdata, \"awT\", @progbits\n\t"
    ".balign 8\n\t"
    ".globl mm_rseq\n\t"
    ".type mm_rseq, @object\n\t"
    ".size mm_rseq, 8\n"
    "mm_rseq:\n\t"
    ".quad no_rseq@tpoff\n\t"
    ".popsection");

/* Before it the thread's mm_rseq names no_rseq. */
void hot_thread_init(void)
{
	if (mm_thread_cpu < 0 && __rseq_size)
		mm_rseq = __rseq_offset;
}

void mm_set_cpu(int cpu)
{
	mm_thread_cpu = cpu;
	mm_rseq = (char *)&no_rseq - (char *)__builtin_thread_pointer();
	hot_thread_init();
}

/* Frames moved from a list to the stack at once, and one for the caller. */
#define HOT_REFILL_MAX 32

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
	mm->hot.hot_cpus_usual = usable_cpus(mm);
	mm->hot.hot_cpus = mm->hot.hot_cpus_usual;
}

/* What is in the stacks when they are switched off comes out with the next drain. */
void hot_enable(struct mm *mm, bool on)
{
	hot_stop(mm);
	mm->hot.hot_cpus_usual = on ? usable_cpus(mm) : 0;
	hot_start(mm);
}

/* The page is from a list of the zone's caches. False: it is no longer marked as being there. */
bool hot_free_zone(struct mm *mm, struct zone *zone, struct page *page, enum migratetype mt)
{
	page_set_flags(page, zone->pageset[0].hot[mt].used);
	return hot_push(mm, &zone->pageset[0].hot[mt], page);
}

/*
 * What is empty gets its share of the list behind it, so that the next allocations need no lock.
 * Returns one frame more than that, or NULL if the list is empty too.
 */
static struct page *hot_refill(struct mm *mm, struct zone *zone, enum migratetype mt)
{
	uint32_t cpu = hot_cpu();
	struct page *pages[HOT_REFILL_MAX];
	struct per_cpu_pages *pcp;
	struct list_head *list;
	unsigned int nr = 0;

	if (cpu >= mm->hot.hot_cpus)
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
	while (nr > 1 && hot_free_zone(mm, zone, pages[nr - 1], mt))
		nr--;
	/* This is another CPU by now, or the stacks were stopped: back where they were. */
	if (nr > 1) {
		spin_lock(&pcp->lock);
		__atomic_store_n(&pcp->count, pcp->count + (int32_t)nr - 1, __ATOMIC_RELAXED);
		pcp->pgfree += nr - 1;
		while (nr > 1) {
			page_set_flags(pages[--nr], pcp->hot[mt].used | PAGE_FLAG(pcp));
			list_add(&pages[nr]->lru, list);
		}
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

/* What the stack cannot serve, or a frame of it in a state it must not have. */
struct page *mm_alloc_page_slow(struct mm *mm, gfp_t gfp, struct page *page)
{
	hot_thread_init();
	if (page && prep_new_page(mm, page, 0, gfp))
		return page;
	return mm_alloc_pages_nodemask(mm, gfp, 0, NUMA_NO_NODE, NULL);
}

/* So that the next free of such a frame takes the short way. */
static void remember_last(struct mm *mm, const struct zone *zone, enum migratetype mt)
{
	uint32_t cpu = hot_cpu();

	if (cpu < mm->nr_cpus)
		__atomic_store_n(&mm->hot_alloc[cpu * HOT_PER_CPU + HOT_LAST],
				 &zone->pageset[cpu].hot[mt], __ATOMIC_RELAXED);
}

/* Any frame that a stack takes: of another zone or type than the one before, zeroed before, or
 * with flags of its holder's. False: not the last reference, not to be freed, or no room. */
static bool free_page_other(struct mm *mm, struct page *page)
{
	uint64_t flags = page_flags(page);
	enum migratetype mt = page_list_migratetype(page);
	struct zone *zone;

	if (!page_freeable(page, 0) || page_count(page) != 1 || mt >= MIGRATE_PCPTYPES)
		return false;
	zone = page_zone(mm, page);
	/* Complete before it is on the stack: it may be popped at once by another thread. */
	set_page_counts(page, 0);
	page_set_flags(page, zone->pageset[0].hot[mt].used);
	if (likely(hot_push(mm, &zone->pageset[0].hot[mt], page))) {
		remember_last(mm, zone, mt);
		return true;
	}
	page_set_flags(page, flags);
	set_page_counts(page, 1);
	return false;
}

void mm_free_page_slow(struct mm *mm, struct page *page)
{
	hot_thread_init();
	if (!page_in_map(&mm->hot, page) || !free_page_other(mm, page))
		free_pages_any(mm, page, 0);
}

/* Up to half of the stack if that is full, at most nr frames. Those freed last come first. */
unsigned int hot_detach_some(struct mm *mm, struct zone *zone, enum migratetype mt,
			     struct page **pages, unsigned int nr)
{
	uint32_t cpu = hot_cpu();
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
	__atomic_store_n(&mm->hot.hot_cpus, 0, __ATOMIC_SEQ_CST);
	if (mm->hot.hot_cpus_usual)
		syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ, 0, 0);
}

#else

struct page *mm_alloc_page_slow(struct mm *mm, gfp_t gfp, struct page *page)
{
	(void)page;
	return mm_alloc_pages_nodemask(mm, gfp, 0, NUMA_NO_NODE, NULL);
}

void mm_free_page_slow(struct mm *mm, struct page *page)
{
	free_pages_any(mm, page, 0);
}

void mm_set_cpu(int cpu)
{
	mm_thread_cpu = cpu;
}

void hot_thread_init(void)
{
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
	__atomic_store_n(&mm->hot.hot_cpus, mm->hot_paused ? 0 : mm->hot.hot_cpus_usual,
			 __ATOMIC_RELEASE);
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

/* What the table has where there is nothing to be had: always empty, and no frame looks as if it
 * came from it. */
static struct hot_stack no_stack = { .used = UINT64_MAX };

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
	for (unsigned int cpu = 0; cpu < mm->nr_cpus; cpu++) {
		struct hot_stack **table = &mm->hot_alloc[cpu * HOT_PER_CPU];

		for (unsigned int type = 0; type < MAX_NR_ZONES; type++)
			for (unsigned int mt = 0; mt < MIGRATE_PCPTYPES; mt++)
				__atomic_store_n(&table[HOT_SLOT(type, mt)],
						 first_stack(mm, cpu, type, mt), __ATOMIC_RELAXED);
		__atomic_store_n(&table[HOT_LAST], &no_stack, __ATOMIC_RELAXED);
	}
}
