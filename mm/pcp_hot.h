/* SPDX-License-Identifier: MIT */
/*
 * The hot end of a per-CPU cache: push and pop as restartable sequences (rseq(2), registered by
 * glibc 2.35 or later for every thread). When the kernel preempts or moves the thread, or delivers
 * a signal, between labels 1 and 2, the thread continues at label 4 and starts again; the store
 * just before label 2 is what makes the change. So there is neither a lock nor an atomic operation.
 *
 * Other CPUs get at a stack by hot_stop(): it raises a flag that each sequence looks at, and has
 * the kernel restart the sequences that run at the moment (membarrier(2)).
 *
 * Measured (tests/bench/bench_mm.c, 2.6 GHz Zen 4): allocating and freeing a frame costs 4.8 ns
 * this way (6.5 with flags that the compiler does not know), also with two threads, and 37 ns
 * through the locked lists behind, where each locked instruction waits for all stores before it.
 */
#ifndef MM_PCP_HOT_H
#define MM_PCP_HOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mm/internal.h"

/* ThreadSanitizer does not see what the assembly orders: it gets the locked lists. */
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
#define HAVE_PCP_HOT 1
#else
#define HAVE_PCP_HOT 0
#endif

#if HAVE_PCP_HOT

#include <sys/rseq.h>

_Static_assert(offsetof(struct rseq, cpu_id) == 4 && offsetof(struct rseq, rseq_cs) == 8,
	       "as the assembly has it");
_Static_assert(RSEQ_SIG == 0x53053053, "as the assembly has it");

/* The CPU the thread runs on; beyond all limits if the thread has no registration. */
static inline uint32_t hot_cpu(void)
{
	const struct rseq *rseq =
		(const struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);

	return *(const volatile uint32_t *)&rseq->cpu_id;
}

/*
 * struct rseq_cs: version, flags, start, length, where to go on abort. Then the number of the CPU,
 * if that is below hot_cpus: else on to label 7, behind the sequence. Plain asm with a result
 * instead of asm goto: gcc 12 drops the target of an asm goto with outputs in small functions.
 */
#define HOT_BEGIN                            \
	".pushsection __rseq_cs, \"aw\"\n\t" \
	".balign 32\n"                       \
	"3:\n\t"                             \
	".long 0, 0\n\t"                     \
	".quad 1f, 2f - 1f, 4f\n\t"          \
	".popsection\n"                      \
	"6:\n\t"                             \
	"xorl %k[result], %k[result]\n\t"    \
	"leaq 3b(%%rip), %[cpu]\n\t"         \
	"movq %[cpu], %%fs:8(%[rseq])\n"     \
	"1:\n\t"                             \
	"movl %%fs:4(%[rseq]), %k[cpu]\n\t"  \
	"orl %[not_hot], %k[cpu]\n\t"        \
	"cmpl %[cpus], %k[cpu]\n\t"          \
	"jae 7f\n\t"

/* RSEQ_SIG has to stand before the abort address; here it is the operand of an ud1. */
#define HOT_END                                   \
	"2:\n"                                    \
	"7:\n\t"                                  \
	".pushsection .text.unlikely, \"ax\"\n\t" \
	".byte 0x0f, 0xb9, 0x3d\n\t"              \
	".long 0x53053053\n"                      \
	"4:\n\t"                                  \
	"jmp 6b\n\t"                              \
	".popsection\n\t"

#define HOT_INPUTS [rseq] "r"(__rseq_offset), [not_hot] "m"(mm_not_hot), [cpus] "m"(mm->hot_cpus)

_Static_assert(offsetof(struct hot_stack, top) == 0 && HOT_PER_CPU == 16, "as the assembly has it");

/* With the address of a stack in cpu. */
#define HOT_POP                                \
	"movq (%[cpu]), %[result]\n\t"         \
	"testq %[result], %[result]\n\t"       \
	"jz 7f\n\t"                            \
	"incq %c[count](%[cpu])\n\t"           \
	"movq %c[next](%[result]), %[tmp]\n\t" \
	"movq %[tmp], (%[cpu])\n"

/* The top of the stack that table[cpu * HOT_PER_CPU] names; NULL if it is empty or stopped. */
static inline struct page *hot_pop(struct mm *mm, struct hot_stack **table)
{
	struct page *page;
	uintptr_t cpu, tmp;

	asm volatile(
		HOT_BEGIN "shlq $7, %[cpu]\n\t"
			  "movq (%[table],%[cpu]), %[cpu]\n\t" HOT_POP HOT_END
		: [result] "=&r"(page), [cpu] "=&r"(cpu), [tmp] "=&r"(tmp)
		: HOT_INPUTS, [table] "r"(table), [count] "i"(offsetof(struct hot_stack, pgalloc)),
		  [next] "i"(offsetof(struct page, lru.next))
		: "memory", "cc");
	return page;
}

/* The same for a certain zone and type; stack is CPU 0's. */
static inline struct page *hot_pop_stack(struct mm *mm, struct hot_stack *stack)
{
	struct page *page;
	uintptr_t cpu, tmp;

	asm volatile(HOT_BEGIN "imulq %[size], %[cpu], %[cpu]\n\t"
			       "addq %[stack], %[cpu]\n\t" HOT_POP HOT_END
		     : [result] "=&r"(page), [cpu] "=&r"(cpu), [tmp] "=&r"(tmp)
		     : HOT_INPUTS, [stack] "r"(stack), [size] "i"(sizeof(struct per_cpu_pages)),
		       [count] "i"(offsetof(struct hot_stack, pgalloc)),
		       [next] "i"(offsetof(struct page, lru.next))
		     : "memory", "cc");
	return page;
}

_Static_assert(offsetof(struct page, nr_zeroed) % 4 == 0 &&
		       offsetof(struct page, depth) == offsetof(struct page, nr_zeroed) + 2,
	       "one store sets both");

/*
 * Onto stack, which is CPU 0's of the zone and type. False: full or stopped. The page is the
 * caller's alone and looks like one in a cache, a dirty one: nr_zeroed becomes 0.
 */
static inline bool hot_push(struct mm *mm, struct hot_stack *stack, struct page *page)
{
	uintptr_t cpu, top;
	uint32_t depth;

	asm volatile(HOT_BEGIN "imulq %[size], %[cpu], %[cpu]\n\t"
			       "addq %[stack], %[cpu]\n\t"
			       "movq (%[cpu]), %[top]\n\t"
			       "testq %[top], %[top]\n\t"
			       "jz 5f\n\t"
			       "movzwl %c[at](%[top]), %k[result]\n"
			       "5:\n\t"
			       "addl $1, %k[result]\n\t"
			       "cmpl %c[limit](%[cpu]), %k[result]\n\t"
			       "ja 8f\n\t"
			       "shll $16, %k[result]\n\t"
			       "movl %k[result], %c[both](%[page])\n\t"
			       "movq %[top], %c[next](%[page])\n\t"
			       "incq %c[count](%[cpu])\n\t"
			       "movq %[page], (%[cpu])\n" HOT_END
			       ".pushsection .text.unlikely, \"ax\"\n"
			       "8:\n\t"
			       "xorl %k[result], %k[result]\n\t"
			       "jmp 7b\n\t"
			       ".popsection\n\t"
		     : [result] "=&r"(depth), [top] "=&r"(top), [cpu] "=&r"(cpu)
		     : HOT_INPUTS, [stack] "r"(stack), [page] "r"(page),
		       [size] "i"(sizeof(struct per_cpu_pages)),
		       [limit] "i"(offsetof(struct hot_stack, limit)),
		       [count] "i"(offsetof(struct hot_stack, pgfree)),
		       [at] "i"(offsetof(struct page, depth)),
		       [both] "i"(offsetof(struct page, nr_zeroed)),
		       [next] "i"(offsetof(struct page, lru.next))
		     : "memory", "cc");
	return depth != 0;
}

#endif

#endif
