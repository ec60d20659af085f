/* SPDX-License-Identifier: MIT */
/*
 * Allocating and freeing frames. The mm_* calls take their instance; the kernel's names are
 * one-line inlines over the process's chosen instance (mm_use()).
 *
 * All calls are thread safe. They never sleep, except with __GFP_DIRECT_RECLAIM when memory is
 * short (reclaim, the OOM callback, the wait of __GFP_NOFAIL): then the caller must not hold a lock
 * that reclaim callbacks take. Returned blocks of order n are 2^n frames, consecutive in their node
 * and aligned to 2^n, with a reference count of 1 on the first frame.
 */
#ifndef FRAMEVISOR_PAGE_ALLOC_H
#define FRAMEVISOR_PAGE_ALLOC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "framevisor/frame.h"
#include "framevisor/gfp.h"
#include "framevisor/mm.h"
#include "framevisor/page.h"
#include "framevisor/page_hot.h"

#define NUMA_NO_NODE (-1)

/* 2^order frames from the node of the calling CPU or the nearest that has them. NULL: none. */
struct page *mm_alloc_pages(struct mm *mm, gfp_t gfp, unsigned int order);

/* The same, starting from node nid (NUMA_NO_NODE: the calling CPU's). */
struct page *mm_alloc_pages_node(struct mm *mm, int nid, gfp_t gfp, unsigned int order);

/* What the stacks cannot serve, or a page of one that is not as it must be. For the inlines only.
 */
struct page *mm_alloc_page_slow(struct mm *mm, gfp_t gfp, struct page *page);
void mm_free_page_slow(struct mm *mm, struct page *page);

/* Flags that no stack serves (zeroed, cold, this node only). */
#define GFP_NOT_HOT (__GFP_ZERO | __GFP_COLD | __GFP_THISNODE)

/* A frame from this CPU's stack. There it has the flags of an allocated one already. */
static inline __attribute__((always_inline)) struct page *mm_alloc_page_hot(struct mm *mm,
									    gfp_t gfp)
{
#if HAVE_PCP_HOT
	struct page *page =
		hot_pop(mm_hot(mm), HOT_SLOT(gfp_zone(gfp), gfpflags_to_migratetype(gfp)));

	if (__builtin_expect(!page, 0))
		return mm_alloc_page_slow(mm, gfp, NULL);
	if (__builtin_expect(!page_allocatable(page), 0))
		return mm_alloc_page_slow(mm, gfp, page);
	set_page_counts(page, 1);
	page->private = 0;
	return page;
#else
	return mm_alloc_page_slow(mm, gfp, NULL);
#endif
}

/*
 * One frame, as mm_alloc_pages() with order 0. When gfp is known at compile time, which stack of
 * the CPU's cache has it is known too, and most of the work is gone.
 */
static inline __attribute__((always_inline)) struct page *mm_alloc_page(struct mm *mm, gfp_t gfp)
{
	if (__builtin_constant_p(gfp) && !(gfp & GFP_NOT_HOT))
		return mm_alloc_page_hot(mm, gfp);
	return mm_alloc_pages(mm, gfp, 0);
}

/* The same, only from nodes in nodemask (bit n: node n; 0 or NULL: all).
 * Kernel: __alloc_pages_nodemask(). */
struct page *mm_alloc_pages_nodemask(struct mm *mm, gfp_t gfp, unsigned int order,
				     int preferred_nid, const nodemask_t *nodemask);

/*
 * Up to nr frames of order 0 into pages[], in one pass over the free lists (frames of one block
 * come out in order, so that callers can make runs of them). Nodes in nodemask only (0: all),
 * nearest first, starting with the lowest node of the mask (or the calling CPU's node when that is
 * in it). With __GFP_ZERO all are zeroed on return. Returns how many; fewer than nr when the
 * watermarks for these flags do not allow more. Reclaims and waits only for the first frame.
 */
uint64_t mm_alloc_pages_bulk(struct mm *mm, gfp_t gfp, nodemask_t nodemask, uint64_t nr,
			     struct page **pages);

/*
 * Gives up one reference; the last one frees the block. order must be the one allocated with. The
 * content counts as dirty. A frame in a state that forbids it (already free, other order, still
 * mapped, not a frame of this instance) is reported (mm_set_message_handler) and quarantined.
 */
void mm_free_pages(struct mm *mm, struct page *page, unsigned int order);
/* The same for one frame of order 0, by a shorter way. */
static inline __attribute__((always_inline)) void mm_free_page(struct mm *mm, struct page *page)
{
#if HAVE_PCP_HOT
	if (__builtin_expect(page_in_map(mm_hot(mm), page) && hot_free(mm_hot(mm), page), 1))
		return;
#endif
	mm_free_page_slow(mm, page);
}

/* The same for a block that the caller knows to be all zero. */
void mm_free_pages_zeroed(struct mm *mm, struct page *page, unsigned int order);
/* Many frames of order 0 at once; consecutive ones are merged on the way. */
void mm_free_pages_bulk(struct mm *mm, struct page **pages, uint64_t nr, bool zeroed);

/* References. mm_put_page() may be given any frame of a compound block. */
void mm_get_page(struct mm *mm, struct page *page);
void mm_put_page(struct mm *mm, struct page *page);
/* Head of the allocated or free block that the frame is part of; the frame itself if none. */
struct page *mm_compound_head(struct mm *mm, struct page *page);

/* Makes an allocated block of order > 0 into frames of order 0, to be freed one by one. */
void mm_split_page(struct mm *mm, struct page *page, unsigned int order);

/*
 * size bytes rounded up to frames, what is beyond the size given back at once. Returns the address
 * in the permanent mapping, so only for zones in it. Freed by mm_free_pages_exact() with the same
 * size.
 */
void *mm_alloc_pages_exact(struct mm *mm, size_t size, gfp_t gfp);
void mm_free_pages_exact(struct mm *mm, void *addr, size_t size);

/* Frame numbers of the instance and addresses of the permanent mapping. Lock-free, any thread. */
struct page *mm_pfn_to_page(struct mm *mm, uint64_t pfn); /* NULL: no such frame */
uint64_t mm_page_to_pfn(struct mm *mm, const struct page *page);
/* NULL for frames of metadata-only pools and of ZONE_HIGHMEM (kmap() those). */
void *mm_page_address(struct mm *mm, const struct page *page);
struct page *mm_virt_to_page(struct mm *mm, const void *addr); /* NULL: not in the mapping */

/*
 * Which of the instance's per-CPU caches the calling thread uses: cpu, modulo the instance's
 * number; -1 (the default) is the CPU that it runs on.
 */
void mm_set_cpu(int cpu);
/* The node that a CPU of the instance is on (default 0 for all). Before the CPU allocates. */
void mm_set_cpu_node(struct mm *mm, unsigned int cpu, unsigned int nid);

/* Empties all per-CPU caches into the free lists, remote ones too. Kernel: drain_all_pages(). */
void mm_drain_all_pages(struct mm *mm);
/* The same for the frames of one node (all CPUs'). */
void mm_drain_node_pages(struct mm *mm, unsigned int nid);

/*
 * Called when an allocation with __GFP_DIRECT_RECLAIM found nothing and reclaim made no progress.
 * Returns true if frames were or will soon be freed: try again. No lock is held.
 */
typedef bool (*mm_oom_fn)(void *opaque, struct mm *mm, gfp_t gfp, unsigned int order);
void mm_set_oom_handler(struct mm *mm, mm_oom_fn fn, void *opaque);

/*
 * Called with one line of text for each frame found in a bad state and, without __GFP_NOWARN, for
 * each allocation that fails. Default: the line goes to stderr. May be called with locks held: it
 * must not call the allocator.
 */
typedef void (*mm_message_fn)(void *opaque, const char *line);
void mm_set_message_handler(struct mm *mm, mm_message_fn fn, void *opaque);

/* The process's instance for the kernel's names below. Set once, before threads use it. */
extern struct mm *mm_current;
void mm_use(struct mm *mm);

static inline struct page *alloc_pages(gfp_t gfp, unsigned int order)
{
	return mm_alloc_pages(mm_current, gfp, order);
}

static inline struct page *alloc_page(gfp_t gfp)
{
	return mm_alloc_page(mm_current, gfp);
}

static inline struct page *alloc_pages_node(int nid, gfp_t gfp, unsigned int order)
{
	return mm_alloc_pages_node(mm_current, nid, gfp, order);
}

static inline struct page *__alloc_pages_nodemask(gfp_t gfp, unsigned int order, int preferred_nid,
						  const nodemask_t *nodemask)
{
	return mm_alloc_pages_nodemask(mm_current, gfp, order, preferred_nid, nodemask);
}

static inline void __free_pages(struct page *page, unsigned int order)
{
	mm_free_pages(mm_current, page, order);
}

static inline void __free_page(struct page *page)
{
	mm_free_page(mm_current, page);
}

static inline void *page_address(const struct page *page)
{
	return mm_page_address(mm_current, page);
}

static inline struct page *virt_to_page(const void *addr)
{
	return mm_virt_to_page(mm_current, addr);
}

static inline struct page *pfn_to_page(uint64_t pfn)
{
	return mm_pfn_to_page(mm_current, pfn);
}

static inline uint64_t page_to_pfn(const struct page *page)
{
	return mm_page_to_pfn(mm_current, page);
}

/* Addresses: 0 on failure, as in the kernel. Never from ZONE_HIGHMEM, so __GFP_HIGHMEM is dropped.
 */
static inline unsigned long __get_free_pages(gfp_t gfp, unsigned int order)
{
	struct page *page = mm_alloc_pages(mm_current, gfp & ~__GFP_HIGHMEM, order);

	return page ? (unsigned long)mm_page_address(mm_current, page) : 0;
}

static inline unsigned long __get_free_page(gfp_t gfp)
{
	return __get_free_pages(gfp, 0);
}

static inline unsigned long get_zeroed_page(gfp_t gfp)
{
	return __get_free_pages(gfp | __GFP_ZERO, 0);
}

static inline unsigned long __get_dma_pages(gfp_t gfp, unsigned int order)
{
	return __get_free_pages(gfp | __GFP_DMA, order);
}

static inline void free_pages(unsigned long addr, unsigned int order)
{
	if (addr)
		mm_free_pages(mm_current, mm_virt_to_page(mm_current, (void *)addr), order);
}

static inline void free_page(unsigned long addr)
{
	free_pages(addr, 0);
}

static inline void *alloc_pages_exact(size_t size, gfp_t gfp)
{
	return mm_alloc_pages_exact(mm_current, size, gfp);
}

static inline void free_pages_exact(void *addr, size_t size)
{
	mm_free_pages_exact(mm_current, addr, size);
}

static inline void split_page(struct page *page, unsigned int order)
{
	mm_split_page(mm_current, page, order);
}

static inline void get_page(struct page *page)
{
	mm_get_page(mm_current, page);
}

static inline void put_page(struct page *page)
{
	mm_put_page(mm_current, page);
}

static inline struct page *compound_head(struct page *page)
{
	return mm_compound_head(mm_current, page);
}

static inline void drain_all_pages(void)
{
	mm_drain_all_pages(mm_current);
}

#endif
