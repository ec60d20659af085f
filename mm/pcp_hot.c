/* SPDX-License-Identifier: MIT */
/* The stacks in front of the per-CPU caches: set-up, use from the longer paths, stopping them. */
#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "mm/internal.h"
#include "mm/pcp_hot.h"

#if HAVE_PCP_HOT

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

/* From this CPU's stack of a certain zone. */
struct page *hot_alloc_zone(struct mm *mm, struct zone *zone, enum migratetype mt)
{
	struct hot_stack *stack = &zone->pageset[0].hot[mt];

	return hot_pop_stack(mm, stack);
}

/* The page looks like one in a cache. */
bool hot_free_zone(struct mm *mm, struct zone *zone, struct page *page, enum migratetype mt)
{
	return hot_push(mm, &zone->pageset[0].hot[mt], page);
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
		pages[done] = hot_alloc_zone(mm, zone, mt);
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
	__atomic_store_n(&mm->hot_cpus, mm->hot_cpus_usual, __ATOMIC_RELEASE);
	spin_unlock(&mm->hot_lock);
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
