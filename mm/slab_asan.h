/* SPDX-License-Identifier: MIT */
/*
 * In a build with AddressSanitizer: an access to a free object, or between two objects, ends the
 * program with a report, as it does for malloc (kernel: KASAN). Objects are marked where they
 * change hands with the user; on the way between slabs and sheaves they stay as they are. Debug
 * caches have checks of their own, and the allocator's own caches are not marked. In other builds
 * all of this is nothing.
 */
#ifndef MM_SLAB_ASAN_H
#define MM_SLAB_ASAN_H

#include "mm/slab_internal.h"

#if defined(__SANITIZE_ADDRESS__)
#define SLAB_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SLAB_ASAN 1
#endif
#endif

#ifdef SLAB_ASAN

#include <sanitizer/asan_interface.h>

static inline bool slab_asan_marks(const struct kmem_cache *cache)
{
	const struct slab_state *state = cache->state;

	return !cache->debug && cache != state->cache_cache &&
	       cache != state->sheaf_cache[SHEAF_SMALL] && cache != state->sheaf_cache[SHEAF_LARGE];
}

static inline void slab_asan_alloc(const struct kmem_cache *cache, const void *object)
{
	if (object && slab_asan_marks(cache))
		__asan_unpoison_memory_region(object, cache->object_size);
}

/* Only what is an object of the cache: the wrong pointer is somebody else's to report. */
static inline void slab_asan_free(const struct kmem_cache *cache, const void *object)
{
	const struct slab_frame *frame = slab_frame_lookup(cache->mm, object);
	const struct slab *slab = frame ? slab_of(object) : NULL;
	uint32_t offset;
	unsigned int index;

	if (!slab || slab->cache != cache || !slab_asan_marks(cache))
		return;
	offset = (uint32_t)((uintptr_t)object - (uintptr_t)frame);
	index = object_index(cache, offset - slab->objects);
	if (offset < slab->objects || index >= slab->nr_objects ||
	    slab_object(slab, index) != object)
		return;
	(void)*(const volatile char *)object; /* a second free is reported here */
	__asan_poison_memory_region(object, cache->stride);
}

/* A new slab: nobody has an object of it. */
static inline void slab_asan_slab(const struct slab *slab)
{
	if (slab_asan_marks(slab->cache))
		__asan_poison_memory_region((const char *)slab_frame_of(slab) + slab->objects,
					    (size_t)slab->nr_objects * slab->cache->stride);
}

/* So many blocks of the frame from first on are no slab any more. */
static inline void slab_asan_blocks(const struct slab_frame *frame, unsigned int first,
				    unsigned int nr)
{
	__asan_unpoison_memory_region((const char *)frame + (size_t)first * SLAB_BLOCK_SIZE,
				      (size_t)nr * SLAB_BLOCK_SIZE);
}

#else

static inline void slab_asan_alloc(const struct kmem_cache *cache, const void *object)
{
	(void)cache;
	(void)object;
}

static inline void slab_asan_free(const struct kmem_cache *cache, const void *object)
{
	(void)cache;
	(void)object;
}

static inline void slab_asan_slab(const struct slab *slab)
{
	(void)slab;
}

static inline void slab_asan_blocks(const struct slab_frame *frame, unsigned int first,
				    unsigned int nr)
{
	(void)frame;
	(void)first;
	(void)nr;
}

#endif

#endif
