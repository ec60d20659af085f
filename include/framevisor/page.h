/* SPDX-License-Identifier: MIT */
/*
 * struct page: what the allocator knows of one frame, in exactly one cache line.
 *
 * Only the first frame of a block carries state: a free block of order 9 is one struct page on a
 * list, the other 511 are not touched when it is allocated, split, merged or freed. The head of any
 * frame is found by looking at the aligned frames below it (mm_compound_head()).
 *
 * flags packs what a merge check needs (flag bits, order, list, zone, node) into one word, so that
 * "is this my buddy" is one load. It may be read without a lock at any time, so all accesses go
 * through the accessors here (relaxed atomics: plain loads and stores on x86). It is written only
 * by whoever owns the frame: the zone lock's holder (PG_buddy), the per-CPU cache's (PG_pcp), or
 * the holder of a reference; bits that several holders of references may change at once
 * (PG_referenced, PG_active, PG_locked) are changed with the atomic calls.
 */
#ifndef FRAMEVISOR_PAGE_H
#define FRAMEVISOR_PAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "framevisor/list.h"

enum pageflags {
	PG_present,    /* in the pool; else absent (never populated, or offline) */
	PG_buddy,      /* head of a free block on a buddy list */
	PG_pcp,        /* head of a block in a per-CPU cache */
	PG_reserved,   /* present, but not the allocator's to give */
	PG_zeroed,     /* order 0, free or just allocated: content known to be zero */
	PG_head,       /* allocated with __GFP_COMP: head of a compound frame */
	PG_slab,       /* belongs to a kmem_cache */
	PG_vmalloc,    /* part of a vmalloc area */
	PG_lru,        /* on an LRU list */
	PG_active,     /* on the active LRU list */
	PG_referenced, /* used since the LRU last looked */
	PG_movable,    /* may be migrated by the callback of its owner */
	PG_isolated,   /* taken off its list for a while by compaction, reclaim or zeroing */
	PG_locked,     /* being migrated or written out */
	PG_pinned,     /* I/O in flight: not to be moved */
	PG_hwpoison,   /* quarantined: never handed out again; with a reference: when it is freed */
	PG_offline,    /* of these: taken out on purpose, nobody uses it (mm_soft_offline_page()) */
	NR_PAGEFLAGS,
};

#define PAGE_FLAG(name) (UINT64_C(1) << (PG_##name))

/* Fields of flags above the flag bits. */
#define PAGE_ORDER_SHIFT 44
#define PAGE_ORDER_MASK  (UINT64_C(0xf) << PAGE_ORDER_SHIFT)
#define PAGE_MT_SHIFT    48
#define PAGE_MT_MASK     (UINT64_C(0xf) << PAGE_MT_SHIFT)
#define PAGE_ZONE_SHIFT  52
#define PAGE_ZONE_MASK   (UINT64_C(0xf) << PAGE_ZONE_SHIFT)
#define PAGE_NODE_SHIFT  56
#define PAGE_NODE_MASK   (UINT64_C(0xff) << PAGE_NODE_SHIFT)
/* Values of the fields, ready to be or-ed in. */
#define PAGE_ORDER(order) ((uint64_t)(order) * (UINT64_C(1) << PAGE_ORDER_SHIFT))
#define PAGE_MT(mt)       ((uint64_t)(mt) * (UINT64_C(1) << PAGE_MT_SHIFT))
/* What stays with a frame through all its lives. */
#define PAGE_IDENTITY (PAGE_NODE_MASK | PAGE_ZONE_MASK | PAGE_FLAG(present))

struct kmem_cache;

struct page {
	uint64_t flags;
	int32_t _refcount; /* 0: free (or in the middle of a block) */
	int32_t _mapcount; /* guest mappings; must be 0 when freed */

	/* Buddy, PCP and LRU lists; a slab's list; free for the holder otherwise. */
	struct list_head lru;

	union {
		uint64_t private; /* the holder's */
		struct {          /* PG_slab */
			uint16_t slab_inuse;
			uint16_t slab_objects;
			uint32_t slab_flags;
		};
	};
	union {
		void *mapping; /* the holder's object; must be NULL when freed */
		struct kmem_cache *slab_cache;
	};
	union {
		uint64_t index; /* reverse map: guest frame number within owner */
		void *freelist; /* PG_slab: first free object */
	};
	uint32_t owner; /* reverse map: VM id, by the holder; kept after the free for reports */
	/* Head of a free block: how many of its frames are known to be zero. The head of a free
	 * block's upper half keeps the number it had when the halves merged (buddy.c). Allocated,
	 * of order 0 and without PG_zeroed: 0. */
	uint16_t nr_zeroed;
	uint16_t depth; /* in a stack of a per-CPU cache: frames up to this one */
};

_Static_assert(sizeof(struct page) == 64, "one cache line per frame");
_Static_assert(__builtin_offsetof(struct page, _mapcount) == 12 &&
		       __builtin_offsetof(struct page, _refcount) == 8,
	       "both counts are one word");

static inline uint64_t page_flags(const struct page *page)
{
	return __atomic_load_n(&page->flags, __ATOMIC_RELAXED);
}

/* Whole-word store by the frame's only owner. */
static inline void page_set_flags(struct page *page, uint64_t flags)
{
	__atomic_store_n(&page->flags, flags, __ATOMIC_RELAXED);
}

static inline bool page_test(const struct page *page, uint64_t mask)
{
	return (page_flags(page) & mask) != 0;
}

/* Atomic changes, for bits that others may change at the same time. Return the old flags. */
static inline uint64_t page_test_and_set(struct page *page, uint64_t mask)
{
	return __atomic_fetch_or(&page->flags, mask, __ATOMIC_ACQ_REL);
}

static inline uint64_t page_test_and_clear(struct page *page, uint64_t mask)
{
	return __atomic_fetch_and(&page->flags, ~mask, __ATOMIC_ACQ_REL);
}

static inline unsigned int page_to_nid(const struct page *page)
{
	return (unsigned int)(page_flags(page) >> PAGE_NODE_SHIFT);
}

static inline unsigned int page_zonenum(const struct page *page)
{
	return (unsigned int)((page_flags(page) & PAGE_ZONE_MASK) >> PAGE_ZONE_SHIFT);
}

/* The order of a block, from its head: while free, and while allocated. */
static inline unsigned int page_order(const struct page *page)
{
	return (unsigned int)((page_flags(page) & PAGE_ORDER_MASK) >> PAGE_ORDER_SHIFT);
}

static inline unsigned int page_list_migratetype(const struct page *page)
{
	return (unsigned int)((page_flags(page) & PAGE_MT_MASK) >> PAGE_MT_SHIFT);
}

static inline int page_count(const struct page *page)
{
	return __atomic_load_n(&page->_refcount, __ATOMIC_RELAXED);
}

static inline void set_page_count(struct page *page, int count)
{
	__atomic_store_n(&page->_refcount, count, __ATOMIC_RELAXED);
}

static inline int page_mapcount(const struct page *page)
{
	return __atomic_load_n(&page->_mapcount, __ATOMIC_RELAXED);
}

/* Reference count and map count in one word, for those who check both. */
static inline uint64_t page_counts(const struct page *page)
{
	return __atomic_load_n((const uint64_t *)(const void *)&page->_refcount, __ATOMIC_RELAXED);
}

static inline void set_page_counts(struct page *page, uint64_t refcount)
{
	__atomic_store_n((uint64_t *)(void *)&page->_refcount, refcount, __ATOMIC_RELAXED);
}

/*
 * What must not be set when a block is freed (somebody still has it on a list or uses it for
 * something), and when it comes out of the free lists.
 */
#define PAGE_FLAGS_CHECK_AT_FREE                                                         \
	(PAGE_FLAG(buddy) | PAGE_FLAG(pcp) | PAGE_FLAG(reserved) | PAGE_FLAG(slab) |     \
	 PAGE_FLAG(vmalloc) | PAGE_FLAG(lru) | PAGE_FLAG(isolated) | PAGE_FLAG(locked) | \
	 PAGE_FLAG(pinned) | PAGE_FLAG(hwpoison))
#define PAGE_FLAGS_CHECK_AT_PREP (PAGE_FLAGS_CHECK_AT_FREE & ~PAGE_FLAG(pcp))

_Static_assert(NR_PAGEFLAGS <= 32, "flag bits are the lower half");

/* Neither references nor mappings, nor any flag of another use. */
static inline bool page_allocatable(const struct page *page)
{
	return (((uint32_t)page_flags(page) & (uint32_t)PAGE_FLAGS_CHECK_AT_PREP) |
		page_counts(page) | (uintptr_t)page->mapping) == 0;
}

static inline void page_map(struct page *page)
{
	__atomic_add_fetch(&page->_mapcount, 1, __ATOMIC_RELAXED);
}

static inline void page_unmap(struct page *page)
{
	__atomic_sub_fetch(&page->_mapcount, 1, __ATOMIC_RELAXED);
}

/* Who has the frame: a VM and its guest frame number. By the holder of the frame. */
static inline void page_set_owner(struct page *page, uint32_t owner, uint64_t index)
{
	page->owner = owner;
	page->index = index;
}

/* Whether an allocated order-0 frame came zeroed (true after any __GFP_ZERO allocation). */
static inline bool page_zeroed(const struct page *page)
{
	return page_test(page, PAGE_FLAG(zeroed));
}

#endif
