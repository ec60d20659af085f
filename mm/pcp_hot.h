/* SPDX-License-Identifier: MIT */
/*
 * The stacks of framevisor/page_hot.h by zone and type, for the longer paths.
 *
 * Measured (tests/bench/bench_mm.c; docs/performance.md has the figures): through the locked lists
 * behind, an allocation and its free cost more than ten times as much: each locked instruction
 * waits for all stores before it.
 */
#ifndef MM_PCP_HOT_H
#define MM_PCP_HOT_H

#include "framevisor/page_hot.h"
#include "mm/internal.h"

#if HAVE_PCP_HOT

/* The CPU the thread runs on; beyond all limits if it uses no stacks. */
static inline uint32_t hot_cpu(void)
{
	const struct rseq *rseq =
		(const struct rseq *)((char *)__builtin_thread_pointer() + mm_rseq);

	return *(const volatile uint32_t *)&rseq->cpu_id;
}

#define HOT_FIND_STACK                      \
	"imulq %[size], %[cpu], %[cpu]\n\t" \
	"addq %[stack], %[cpu]\n\t"

/* A frame of a certain zone and type; stack is CPU 0's. */
static inline struct page *hot_pop_stack(struct mm *mm, struct hot_stack *stack)
{
	const struct mm_hot *hot = &mm->hot;
	struct page *page;
	uintptr_t cpu, rest;

	asm volatile(HOT_POP(HOT_FIND_STACK)
		     : [result] "=&r"(page), [cpu] "=&r"(cpu), [rest] "=&r"(rest)
		     : HOT_INPUTS, [stack] "r"(stack), [size] "i"(sizeof(struct per_cpu_pages)),
		       HOT_FIELDS
		     : "memory", "cc");
	return page;
}

/*
 * Onto stack, which is CPU 0's of the zone and type, behind the front. False: full or stopped. The
 * page is the caller's alone, has no references and the stack's flags; nr_zeroed becomes 0.
 */
static inline bool hot_push(struct mm *mm, struct hot_stack *stack, struct page *page)
{
	const struct mm_hot *hot = &mm->hot;
	uintptr_t cpu, rest;
	uint32_t depth;

	asm volatile(HOT_DESCRIPTOR() "6:\n\t" HOT_CPU() HOT_FIND_STACK HOT_BEHIND
		     "movq %[page], %c[top](%[cpu])\n"
		     "2:\n"
		     "7:\n\t" HOT_APART HOT_ABORT() "jmp 6b\n" HOT_REFUSE
		     : [result] "=&r"(depth), [rest] "=&r"(rest), [cpu] "=&r"(cpu)
		     : HOT_INPUTS, [stack] "r"(stack), [page] "r"(page),
		       [size] "i"(sizeof(struct per_cpu_pages)), HOT_FIELDS
		     : "memory", "cc");
	return depth != 0;
}

#endif

#endif
