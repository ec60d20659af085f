/* SPDX-License-Identifier: MIT */
/*
 * General memory: caches of fixed sizes up to 1 MiB, blocks of whole frames beyond. The caches are
 * made when first used. A block of frames is recognised by its address, which is a frame's: no
 * object of a slab starts there, because the header does.
 */
#include <stdio.h>
#include <string.h>

#include "mm/slab_internal.h"
#include "mm/slab_rseq.h"

/* In page->private of the first frame of a block. */
#define KMALLOC_LARGE_MAGIC UINT64_C(0x6b6d616c6c6f6321)

/* Debug caches double their stride for the alignment of the object: not for the largest. */
#define KMALLOC_DEBUG_MAX ((size_t)256 << 10)

#define KMALLOC_SMALL_MAX 192u
static const uint8_t small_index[KMALLOC_SMALL_MAX / 8 + 1] = {
	0, 0, 1, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 6,
};

static const uint32_t kmalloc_sizes[KMALLOC_NR_SIZES] = {
	8,        16,       32,       64,       96,       128,      192,
	256,      512,      1u << 10, 1u << 11, 1u << 12, 1u << 13, 1u << 14,
	1u << 15, 1u << 16, 1u << 17, 1u << 18, 1u << 19, 1u << 20,
};

/* Number of the smallest size that is enough; 1 <= size <= KMALLOC_MAX_CACHE_SIZE. */
static unsigned int size_index(size_t size)
{
	if (size <= KMALLOC_SMALL_MAX)
		return small_index[(size + 7) / 8];
	/* 193 to 256 is 7, and one more with each doubling. */
	return 7 + (unsigned int)(64 - __builtin_clzll(size - 1)) - 8;
}

/* Threads that meet at the first use each make a state, and one of them is published; who is late
 * looks at the word while that happens. */
static struct slab_state *slab_state(const struct mm *mm)
{
	return __atomic_load_n(&mm->slab, __ATOMIC_ACQUIRE);
}

static enum kmalloc_type gfp_type(gfp_t gfp)
{
	if (likely(!(gfp & (__GFP_DMA | __GFP_DMA32 | __GFP_RECLAIMABLE))))
		return KMALLOC_NORMAL;
	if (gfp & __GFP_DMA)
		return KMALLOC_DMA;
	return gfp & __GFP_DMA32 ? KMALLOC_DMA32 : KMALLOC_RECLAIM;
}

static struct kmem_cache *kmalloc_cache_create(struct slab_state *state, enum kmalloc_type type,
					       unsigned int index)
{
	static const struct {
		const char *prefix;
		slab_flags_t flags;
	} types[NR_KMALLOC_TYPES] = {
		[KMALLOC_NORMAL] = { "kmalloc", 0 },
		[KMALLOC_RECLAIM] = { "kmalloc-rcl", SLAB_RECLAIM_ACCOUNT },
		[KMALLOC_DMA32] = { "dma32-kmalloc", SLAB_CACHE_DMA32 },
		[KMALLOC_DMA] = { "dma-kmalloc", SLAB_CACHE_DMA },
	};
	struct kmem_cache **slot = &state->kmalloc[type][index];
	uint32_t size = kmalloc_sizes[index];
	slab_flags_t flags = types[type].flags;
	struct kmem_cache *expected = NULL;
	struct kmem_cache *cache;
	char name[KMEM_CACHE_NAME_MAX];

	if (size < 1024)
		snprintf(name, sizeof(name), "%s-%u", types[type].prefix, size);
	else if (size < 1u << 20)
		snprintf(name, sizeof(name), "%s-%uk", types[type].prefix, size >> 10);
	else
		snprintf(name, sizeof(name), "%s-%uM", types[type].prefix, size >> 20);
	if ((state->mm->flags & MM_DEBUG_POISON) && size <= KMALLOC_DEBUG_MAX)
		flags |= SLAB_DEBUG_FLAGS;
	/* Aligned to the power of two in the size. */
	cache = kmem_cache_create(state->mm, name, size, size & -size, flags, NULL);
	if (cache && !__atomic_compare_exchange_n(slot, &expected, cache, false, __ATOMIC_ACQ_REL,
						  __ATOMIC_ACQUIRE)) {
		kmem_cache_destroy(cache);
		cache = expected;
	}
	return cache;
}

static void *kmalloc_large(struct mm *mm, size_t size, gfp_t gfp)
{
	struct slab_state *state = slab_state_get(mm);
	unsigned int order = 0;
	struct page *page;

	if (!state || size > KMALLOC_MAX_SIZE)
		return NULL;
	while ((FRAME_SIZE << order) < size)
		order++;
	gfp &= ~(__GFP_HIGHMEM | __GFP_MOVABLE | __GFP_NO_GROW);
	page = mm_alloc_pages(mm, order ? gfp | __GFP_COMP : gfp & ~__GFP_COMP, order);
	if (!page)
		return NULL;
	page->private = KMALLOC_LARGE_MAGIC;
	__atomic_fetch_add(&state->nr_large, 1, __ATOMIC_RELAXED);
	return mm_page_address(mm, page);
}

/* The first frame of a block from kmalloc_large(), or NULL. */
static struct page *large_page(struct mm *mm, const void *ptr)
{
	struct page *page = mm_virt_to_page(mm, ptr);

	if (!page || page->private != KMALLOC_LARGE_MAGIC || page_count(page) == 0)
		return NULL;
	return page;
}

static void report_foreign(struct mm *mm, const void *ptr, const char *what, const void *caller)
{
	struct slab_state *state = slab_state(mm);

	if (state)
		__atomic_fetch_add(&state->nr_errors, 1, __ATOMIC_RELAXED);
	mm_message(mm, "slab: %s: %p is not from kmalloc, called from %p", what, ptr, caller);
}

/*
 * The cache of a pointer from kmalloc or a cache, or NULL, reported. The quick check is the range
 * of the pool and the frame's header; with debugging, struct page is asked.
 */
static struct kmem_cache *cache_of(struct mm *mm, const void *ptr, const char *what,
				   const void *caller)
{
	struct slab_state *state = slab_state(mm);

	if (likely(state && (uintptr_t)ptr - state->low < state->high - state->low) &&
	    (!(mm->flags & MM_DEBUG_POISON) || slab_frame_lookup(mm, ptr))) {
		const struct slab_frame *frame = slab_frame_of(ptr);

		if (likely(slab_frame_ok(frame)) && frame->cache_of_block[slab_block_of(ptr)])
			return frame->cache_of_block[slab_block_of(ptr)];
	}
	report_foreign(mm, ptr, what, caller);
	return NULL;
}

static void *do_kmalloc(struct mm *mm, size_t size, gfp_t gfp, const void *caller)
{
	struct slab_state *state = slab_state(mm);
	struct kmem_cache *cache;
	unsigned int index;
	enum kmalloc_type type;

	if (unlikely(size > KMALLOC_MAX_CACHE_SIZE))
		return kmalloc_large(mm, size, gfp);
	if (unlikely(size == 0))
		return ZERO_SIZE_PTR;
	if (unlikely(!state)) {
		state = slab_state_get(mm);
		if (!state)
			return NULL;
	}
	index = size_index(size);
	type = gfp_type(gfp);
	cache = __atomic_load_n(&state->kmalloc[type][index], __ATOMIC_ACQUIRE);
	if (unlikely(!cache)) {
		cache = kmalloc_cache_create(state, type, index);
		if (!cache)
			return NULL;
	}
	return slab_alloc(cache, gfp, size, caller);
}

void *mm_kmalloc(struct mm *mm, size_t size, gfp_t gfp)
{
	return do_kmalloc(mm, size, gfp, __builtin_return_address(0));
}

void *mm_kzalloc(struct mm *mm, size_t size, gfp_t gfp)
{
	return do_kmalloc(mm, size, gfp | __GFP_ZERO, __builtin_return_address(0));
}

void *mm_kcalloc(struct mm *mm, size_t nr, size_t size, gfp_t gfp)
{
	size_t bytes;

	if (__builtin_mul_overflow(nr, size, &bytes))
		return NULL;
	return do_kmalloc(mm, bytes, gfp | __GFP_ZERO, __builtin_return_address(0));
}

static void kfree_large(struct mm *mm, const void *ptr, const void *caller)
{
	struct page *page = large_page(mm, ptr);

	if (!page) {
		report_foreign(mm, ptr, "kfree", caller);
		return;
	}
	page->private = 0;
	__atomic_fetch_sub(&slab_state(mm)->nr_large, 1, __ATOMIC_RELAXED);
	mm_free_pages(mm, page, page_order(page));
}

static void do_kfree(struct mm *mm, const void *ptr, const void *caller)
{
	struct kmem_cache *cache;

	if (unlikely(ZERO_OR_NULL_PTR(ptr)))
		return;
	if (unlikely(frame_aligned((uintptr_t)ptr))) {
		kfree_large(mm, ptr, caller);
		return;
	}
	cache = cache_of(mm, ptr, "kfree", caller);
	if (likely(cache != NULL))
		slab_free(cache, (void *)(uintptr_t)ptr, caller);
}

void mm_kfree(struct mm *mm, const void *ptr)
{
	do_kfree(mm, ptr, __builtin_return_address(0));
}

size_t mm_ksize(struct mm *mm, const void *ptr)
{
	const struct page *page;
	struct kmem_cache *cache;

	if (ZERO_OR_NULL_PTR(ptr))
		return 0;
	if (frame_aligned((uintptr_t)ptr)) {
		page = large_page(mm, ptr);
		return page ? FRAME_SIZE << page_order(page) : 0;
	}
	cache = cache_of(mm, ptr, "ksize", __builtin_return_address(0));
	return cache ? slab_orig_size(cache, ptr) : 0;
}

/* Whether the memory at ptr can have the new size without moving. */
static bool resize_in_place(struct mm *mm, void *ptr, size_t size, const void *caller)
{
	const struct page *page;
	struct kmem_cache *cache;

	if (frame_aligned((uintptr_t)ptr)) {
		page = large_page(mm, ptr);
		return page && size <= FRAME_SIZE << page_order(page) &&
		       size > KMALLOC_MAX_CACHE_SIZE;
	}
	cache = cache_of(mm, ptr, "krealloc", caller);
	return cache && slab_debug_resize(cache, ptr, size);
}

void *mm_krealloc(struct mm *mm, void *ptr, size_t size, gfp_t gfp)
{
	const void *caller = __builtin_return_address(0);
	size_t old = ptr ? mm_ksize(mm, ptr) : 0;
	void *copy;

	if (size == 0) {
		do_kfree(mm, ptr, caller);
		return ZERO_SIZE_PTR;
	}
	if (!ZERO_OR_NULL_PTR(ptr)) {
		if (resize_in_place(mm, ptr, size, caller))
			return ptr;
		if (!old)
			return NULL; /* not ours: reported */
	}
	copy = do_kmalloc(mm, size, gfp & ~__GFP_ZERO, caller);
	if (copy && old) {
		memcpy(copy, ptr, old < size ? old : size);
		do_kfree(mm, ptr, caller);
	}
	return copy;
}
