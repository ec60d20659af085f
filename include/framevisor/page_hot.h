/* SPDX-License-Identifier: MIT */
/*
 * The hot end of a per-CPU cache: a stack of frames, popped and pushed as restartable sequences
 * (rseq(2), registered by glibc 2.35 or later for every thread). When the kernel preempts or moves
 * the thread, or delivers a signal, between labels 1 and 2, the thread continues at label 4 and
 * starts again; the store just before label 2 is what makes the change. So there is neither a lock
 * nor an atomic operation. Other CPUs get at a stack by hot_stop() (mm/pcp_hot.c): it clears
 * hot_cpus, which each sequence looks at, and has the kernel restart the sequences that run at the
 * moment (membarrier(2)).
 *
 * This is the inside of mm_alloc_page() and mm_free_page() (page_alloc.h), which are inline because
 * a call and its return cost as much as a quarter of the rest. Not for use by itself.
 */
#ifndef FRAMEVISOR_PAGE_HOT_H
#define FRAMEVISOR_PAGE_HOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "framevisor/page.h"

/* ThreadSanitizer does not see what the assembly orders: it gets the locked lists. */
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
#define HAVE_PCP_HOT 1
#else
#define HAVE_PCP_HOT 0
#endif

struct mm;
struct zone;

/*
 * Dirty frames of order 0 of one zone, one type and one CPU, linked by page->lru.next. Each frame
 * knows how many are in the stack up to itself (page->depth). One more frame has a place of its own
 * in front: a free into it when it is empty, and an allocation out of it, change one word and touch
 * no other frame. A frame in a stack differs from an allocated one by having no reference, and by
 * nothing else.
 */
struct hot_stack {
	struct page *front; /* first to be popped; NULL: empty */
	struct page *top;
	uint64_t used;   /* page->flags of an allocated frame of this zone and type: constant */
	uint64_t pushed; /* frames; may count one twice when preempted in between */
	uint32_t limit;  /* frames behind the front; grows with bursts of frees */
	uint32_t unused;
	struct zone *zone;
};

/* The beginning of struct mm, for the inline functions. */
struct mm_hot {
	struct page *mem_map; /* one per pfn, all nodes */
	uint64_t nr_pfns;
	/* CPUs below this use the stacks in front of their caches: all, or none (no rseq, debugging
	 * wants to see every allocation, or the stacks are being emptied). */
	uint32_t hot_cpus;
	uint32_t hot_cpus_usual;
};

/* At the end of struct mm, at a fixed offset because that saves a load: pointers to the stacks of
 * each CPU. [cpu * HOT_PER_CPU + HOT_SLOT()]: of the nearest zone; + HOT_LAST: freed to last. */
#define MM_HOT_TABLE       7296
#define HOT_PER_CPU        16
#define HOT_SLOT(zone, mt) ((unsigned long)(zone)*MIGRATE_PCPTYPES + (mt))
#define HOT_LAST           (HOT_PER_CPU - 1)

static inline struct mm_hot *mm_hot(struct mm *mm)
{
	return (struct mm_hot *)(void *)mm;
}

/* Whether page points at an entry of the instance's array. What is not a multiple of the size
 * rotates to far beyond the end. */
static inline bool page_in_map(const struct mm_hot *hot, const struct page *page)
{
	uintptr_t offset = (uintptr_t)page - (uintptr_t)hot->mem_map;

	_Static_assert(sizeof(*page) == 1 << 6, "rotated by that");
	return (offset >> 6 | offset << 58) < hot->nr_pfns;
}

#if HAVE_PCP_HOT

#include <sys/rseq.h>

_Static_assert(offsetof(struct rseq, cpu_id) == 4 && offsetof(struct rseq, rseq_cs) == 8,
	       "as the assembly has it");
_Static_assert(RSEQ_SIG == 0x53053053, "as the assembly has it");

/*
 * Where the thread's struct rseq is, from the thread pointer: the registered one, or one that is
 * on no CPU: before the thread's first allocation, and while it has chosen a CPU (mm_set_cpu()).
 */
#if defined(__PIC__) && !defined(__PIE__)
#define HOT_TLS_MODEL "initial-exec"
#else
#define HOT_TLS_MODEL "local-exec"
#endif
extern _Thread_local intptr_t mm_rseq __attribute__((tls_model(HOT_TLS_MODEL)));

/*
 * A sequence. struct rseq_cs: version, flags, start, length, where to go on abort. Then the number
 * of the CPU, if that is below hot_cpus (loaded first: measured to be faster): else on to label 8.
 * n makes the labels of a second sequence in the same asm others. Plain asm with a result instead
 * of asm goto: gcc 12 drops the target of an asm goto with outputs in small functions.
 */
#define HOT_DESCRIPTOR(n)                                   \
	".pushsection __rseq_cs, \"aw\"\n\t"                \
	".balign 32\n" #n "3:\n\t"                          \
	".long 0, 0\n\t"                                    \
	".quad " #n "1f, " #n "2f - " #n "1f, " #n "4f\n\t" \
	".popsection\n"
#define HOT_CPU(n)                                   \
	"leaq " #n "3b(%%rip), %[cpu]\n\t"           \
	"movq %[cpu], %%fs:8(%[rseq])\n" #n "1:\n\t" \
	"movl %%fs:4(%[rseq]), %k[cpu]\n\t"          \
	"movl %[cpus], %k[rest]\n\t"                 \
	"cmpl %k[rest], %k[cpu]\n\t"                 \
	"jae 8f\n\t"
/* RSEQ_SIG has to stand before the abort address; here it is the operand of an ud1. */
#define HOT_ABORT(n)                 \
	".byte 0x0f, 0xb9, 0x3d\n\t" \
	".long 0x53053053\n" #n "4:\n\t"

/* Out of the way of what usually happens. Nothing was changed: the result is 0. */
#define HOT_APART ".pushsection .text.unlikely, \"ax\"\n\t"
#define HOT_REFUSE                        \
	"8:\n\t"                          \
	"xorl %k[result], %k[result]\n\t" \
	"jmp 7b\n\t"                      \
	".popsection\n\t"

#define HOT_INPUTS \
	[rseq] "r"(mm_rseq), [hot] "r"(hot), [cpus] "m"(hot->hot_cpus), [table] "i"(MM_HOT_TABLE)
#define HOT_FIELDS                                                                                \
	[top] "i"(offsetof(struct hot_stack, top)), [used] "i"(offsetof(struct hot_stack, used)), \
		[limit] "i"(offsetof(struct hot_stack, limit)),                                   \
		[pushed] "i"(offsetof(struct hot_stack, pushed)),                                 \
		[next] "i"(offsetof(struct page, lru.next)),                                      \
		[depth] "i"(offsetof(struct page, depth)),                                        \
		[nr_zeroed] "i"(offsetof(struct page, nr_zeroed)),                                \
		[counts] "i"(offsetof(struct page, _refcount)),                                   \
		[mapping] "i"(offsetof(struct page, mapping))

_Static_assert(offsetof(struct hot_stack, front) == 0 && HOT_PER_CPU == 16,
	       "as the assembly has it");
_Static_assert(offsetof(struct page, nr_zeroed) % 4 == 0 &&
		       offsetof(struct page, depth) == offsetof(struct page, nr_zeroed) + 2,
	       "one store sets both");

/*
 * Takes the front, or else, in a sequence of its own, the top. find makes the number of the CPU in
 * cpu the address of its stack. The frame below the top is about to be the top, and so the next.
 */
#define HOT_POP(find)                                                \
	HOT_DESCRIPTOR()                                             \
	HOT_DESCRIPTOR(1)                                            \
	"6:\n\t" HOT_CPU() find "movq (%[cpu]), %[result]\n\t"       \
				"testq %[result], %[result]\n\t"     \
				"jz 9f\n\t"                          \
				"movq $0, (%[cpu])\n"                \
				"2:\n"                               \
				"7:\n\t" HOT_APART                   \
				HOT_ABORT() "jmp 6b\n"               \
					    "9:\n\t" HOT_CPU(1) find \
		"cmpq $0, (%[cpu])\n\t"                              \
		"jne 6b\n\t"                                         \
		"movq %c[top](%[cpu]), %[result]\n\t"                \
		"testq %[result], %[result]\n\t"                     \
		"jz 8f\n\t"                                          \
		"movq %c[next](%[result]), %[rest]\n\t"              \
		"prefetcht0 (%[rest])\n\t"                           \
		"movq %[rest], %c[top](%[cpu])\n"                    \
		"12:\n\t"                                            \
		"jmp 7b\n\t" HOT_ABORT(1) "jmp 6b\n" HOT_REFUSE

/* From the stack that hot_alloc[cpu * HOT_PER_CPU + slot] names; NULL if it is empty or stopped. */
static inline __attribute__((always_inline)) struct page *hot_pop(struct mm_hot *hot,
								  unsigned long slot)
{
	struct page *page;
	uintptr_t cpu, rest;

	asm volatile(HOT_POP("shlq $7, %[cpu]\n\t"
			     "addq %[slot], %[cpu]\n\t"
			     "movq %c[table](%[hot],%[cpu]), %[cpu]\n\t")
		     : [result] "=&r"(page), [cpu] "=&r"(cpu), [rest] "=&r"(rest)
		     : HOT_INPUTS, [slot] "er"(slot * sizeof(struct hot_stack *)), HOT_FIELDS
		     : "memory", "cc");
	return page;
}

/* Behind the front of the stack at cpu, unless there is no room: then to label 8. Up to the store
 * that makes the change. */
#define HOT_BEHIND                                    \
	"movq %c[top](%[cpu]), %[rest]\n\t"           \
	"xorl %k[result], %k[result]\n\t"             \
	"testq %[rest], %[rest]\n\t"                  \
	"jz 5f\n\t"                                   \
	"movzwl %c[depth](%[rest]), %k[result]\n"     \
	"5:\n\t"                                      \
	"addl $1, %k[result]\n\t"                     \
	"cmpl %c[limit](%[cpu]), %k[result]\n\t"      \
	"ja 8f\n\t"                                   \
	"shll $16, %k[result]\n\t"                    \
	"movl %k[result], %c[nr_zeroed](%[page])\n\t" \
	"movq %[rest], %c[next](%[page])\n\t"         \
	"movq $0, %c[counts](%[page])\n\t"            \
	"incq %c[pushed](%[cpu])\n\t"

/* The stack of this CPU that frees go to, and whether the page is one of its. */
#define HOT_FIND_LAST                              \
	"shlq $7, %[cpu]\n\t"                      \
	"movq %c[last](%[hot],%[cpu]), %[cpu]\n\t" \
	"movq %c[used](%[cpu]), %[result]\n\t"     \
	"cmpq %[result], (%[page])\n\t"            \
	"jne 8f\n\t"

/*
 * A free in one sequence, checks and all: of a frame that is exactly as one looks that was
 * allocated from the stack this CPU freed to last (HOT_LAST) and has one reference, no mapping, no
 * object. Where the frame goes does not depend on what is read from it then, only whether it goes:
 * the processor need not wait. If the front is taken, a second sequence puts the frame behind it.
 * False: something else, or no room.
 *
 * The frame must have no reference before it is in the stack. A sequence that is restarted in
 * between gives it back its own first: when state is 0, all checks are through. (State is 0 before
 * that, too, when there is one reference and then something else wrong: nothing to undo.)
 */
static inline __attribute__((always_inline)) bool hot_free(struct mm_hot *hot, struct page *page)
{
	uintptr_t cpu, rest, state;
	uint64_t result;

	asm volatile(
		HOT_DESCRIPTOR() HOT_DESCRIPTOR(1) "6:\n\t"
						   "movq $-1, %[state]\n\t" HOT_CPU() HOT_FIND_LAST
		"addq %c[counts](%[page]), %[state]\n\t"
		"orq %c[mapping](%[page]), %[state]\n\t"
		"jnz 8f\n\t"
		"cmpq $0, (%[cpu])\n\t"
		"jne 9f\n\t"
		"movq $0, %c[counts](%[page])\n\t"
		"incq %c[pushed](%[cpu])\n\t"
		"movq %[page], (%[cpu])\n"
		"2:\n"
		"7:\n\t" HOT_APART HOT_ABORT() "testq %[state], %[state]\n\t"
					       "jnz 6b\n\t"
					       "movq $1, %c[counts](%[page])\n\t"
					       "jmp 6b\n"
					       "9:\n\t" HOT_CPU(1) HOT_FIND_LAST
		"cmpq $0, (%[cpu])\n\t"
		"je 6b\n\t" HOT_BEHIND "movq %[page], %c[top](%[cpu])\n"
		"12:\n\t"
		"jmp 7b\n\t" HOT_ABORT(1) "movq $1, %c[counts](%[page])\n\t"
					  "jmp 6b\n" HOT_REFUSE
		: [result] "=&r"(result), [rest] "=&r"(rest), [cpu] "=&r"(cpu), [state] "=&r"(state)
		: HOT_INPUTS, [page] "r"(page),
		  [last] "i"(MM_HOT_TABLE + HOT_LAST * sizeof(struct hot_stack *)), HOT_FIELDS
		: "memory", "cc");
	return result != 0;
}

#endif

#endif
