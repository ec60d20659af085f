/* SPDX-License-Identifier: MIT */
/*
 * Objects smaller than a frame: caches of one size (kmem_cache_*) and general memory (kmalloc).
 *
 * A frame is large for a slab, so the caches of an instance share frames: each frame is cut into 64
 * blocks of 32 KiB, a slab is a run of one or more blocks, and a header at the start of the frame
 * holds one descriptor per slab. An empty slab's blocks go back to the frame, a frame without slabs
 * goes back to the frame allocator. Slabs of unmovable, reclaimable, DMA and DMA32 caches do not
 * share frames.
 *
 * In front of the slabs each CPU has a small stack of free objects per cache (a sheaf). An
 * allocation or a free that finds room there takes no lock and does no atomic operation: it is a
 * restartable sequence (rseq(2)), or a lock of the CPU's own where the host has none.
 *
 * All calls are thread safe unless they say otherwise. Memory comes from the instance itself, which
 * therefore needs frames with memory behind them: on a metadata-only pool everything here returns
 * NULL. What is found broken (SLAB_* debug flags) is reported line by line to the instance's
 * message handler (mm_set_message_handler()) and never handed out again.
 */
#ifndef FRAMEVISOR_SLAB_H
#define FRAMEVISOR_SLAB_H

#include <stddef.h>
#include <stdint.h>

#include "framevisor/gfp.h"
#include "framevisor/page_alloc.h"

typedef uint32_t slab_flags_t;

/* Objects start at a cache line (smaller ones at the fraction of a line that holds them). */
#define SLAB_HWCACHE_ALIGN ((slab_flags_t)0x00002000u)
/* Frames of low zones. */
#define SLAB_CACHE_DMA   ((slab_flags_t)0x00004000u)
#define SLAB_CACHE_DMA32 ((slab_flags_t)0x00008000u)
/* A shrinker gives these objects back under pressure: frames of migrate type reclaimable. */
#define SLAB_RECLAIM_ACCOUNT ((slab_flags_t)0x00020000u)
/* The per-CPU sheaves are guarded by a lock each instead of rseq (what happens anyway where the
 * host or a sanitizer does not allow rseq). For measurements and tests. */
#define SLAB_LOCKED_SHEAVES ((slab_flags_t)0x01000000u)

/*
 * Debugging; each of them takes the sheaves away, so that every call is checked at once. All three
 * find double frees, objects of another cache and pointers that are not objects.
 */
/* Guard words before and after the object, checked at free and at the next allocation. */
#define SLAB_RED_ZONE ((slab_flags_t)0x00000400u)
/* Free objects are filled with POISON_FREE and checked when allocated (use after free); not with a
 * constructor, whose work must survive. */
#define SLAB_POISON ((slab_flags_t)0x00000800u)
/* Who allocated and who freed the object last, for reports. */
#define SLAB_STORE_USER  ((slab_flags_t)0x00010000u)
#define SLAB_DEBUG_FLAGS (SLAB_RED_ZONE | SLAB_POISON | SLAB_STORE_USER)

#define POISON_INUSE 0x5a /* allocated, not yet written */
#define POISON_FREE  0x6b
#define POISON_END   0xa5 /* last byte of a free object */

/* Largest object of a cache: 2 MiB less one block. Frames of 1 GiB are not cut into objects, there
 * is no slab of them (EOPNOTSUPP), unless the instance has MM_SLAB_SPARSE. */
#define KMEM_CACHE_MAX_SIZE ((size_t)(FRAME_SIZE_2M - 32768))
#define KMEM_CACHE_NAME_MAX 32

struct kmem_cache;

/*
 * Sets up the slab part of an instance; the other calls do it when needed. Returns 0, -ENOMEM,
 * -ENODEV for a pool without memory behind its frames, or -EOPNOTSUPP for frames of 1 GiB.
 */
int kmem_cache_init(struct mm *mm);

/*
 * Ends it: reports every cache that still has objects, then gives back every frame of every cache,
 * whether it is in use or not. No other call may be in progress, and vmalloc and kmalloc memory
 * must not be used afterwards. Returns how many objects had leaked. The instance can be used again.
 */
uint64_t kmem_cache_exit(struct mm *mm);

/*
 * A cache of objects of size bytes, aligned to align (a power of two up to 1 MiB; 0: 8). ctor, if
 * given, runs once on each object when its slab is made; users give objects back in that state. The
 * name is copied (cut at KMEM_CACHE_NAME_MAX) and need not be unique. Returns NULL with errno
 * EINVAL (size, align or flags), ENOMEM or ENODEV.
 */
struct kmem_cache *kmem_cache_create(struct mm *mm, const char *name, size_t size, size_t align,
				     slab_flags_t flags, void (*ctor)(void *object));

/*
 * Gives back all memory of the cache and the cache. No other call on it may be in progress.
 * If objects are still allocated, reports how many and where they are, changes nothing, and returns
 * -EBUSY: the objects stay valid and can be freed, and the call repeated. NULL is ignored.
 */
int kmem_cache_destroy(struct kmem_cache *cache);

/* An object, or NULL. gfp as for frames; zone modifiers have no effect (the cache decides). */
void *kmem_cache_alloc(struct kmem_cache *cache, gfp_t gfp);
/* From a slab of node nid, or of another when it has none and gfp lacks __GFP_THISNODE. */
void *kmem_cache_alloc_node(struct kmem_cache *cache, gfp_t gfp, int nid);
static inline void *kmem_cache_zalloc(struct kmem_cache *cache, gfp_t gfp)
{
	return kmem_cache_alloc(cache, gfp | __GFP_ZERO);
}
/* NULL is ignored. */
void kmem_cache_free(struct kmem_cache *cache, void *object);

/* nr objects: all of them (returns nr) or none (returns 0). */
size_t kmem_cache_alloc_bulk(struct kmem_cache *cache, gfp_t gfp, size_t nr, void **objects);
void kmem_cache_free_bulk(struct kmem_cache *cache, size_t nr, void **objects);

/* Empties the sheaves of all CPUs and gives empty slabs back. Returns how many slabs. */
uint64_t kmem_cache_shrink(struct kmem_cache *cache);
/* The same for all caches of the instance: the shrinker. Returns how many frames became free. */
uint64_t kmem_cache_shrink_all(struct mm *mm);
/* Frames that the caches hold now; an upper bound of what shrinking can give. */
uint64_t kmem_cache_frames(struct mm *mm);

size_t kmem_cache_size(const struct kmem_cache *cache); /* as asked for */
const char *kmem_cache_name(const struct kmem_cache *cache);

/* /proc/slabinfo, version 2.1; "pages" are 4 KiB. Like snprintf: returns the length needed. */
int mm_report_slabinfo(struct mm *mm, char *buf, size_t len);
/* Broken objects and wrong calls reported so far. */
uint64_t mm_slab_errors(struct mm *mm);
/*
 * Walks all frames, slabs and sheaves and cross-checks every counter, for a quiet instance. Writes
 * the first contradiction to buf. Returns 0 or -EUCLEAN.
 */
int mm_slab_validate(struct mm *mm, char *buf, size_t len);

/*
 * General memory. Up to 1 MiB from caches of fixed sizes (8, 16, 32, 64, 96, 128, 192, 256, 512,
 * 1k ... 1M), beyond from blocks of frames. A size that is a power of two is aligned to itself (up
 * to a frame), others to 8 bytes at least. gfp may ask for __GFP_DMA, __GFP_DMA32,
 * __GFP_RECLAIMABLE and __GFP_ZERO. Size 0 gives ZERO_SIZE_PTR, which may be freed and not
 * accessed. NULL: no memory, or more than 1 GiB. With MM_DEBUG_POISON the caches have all debug
 * flags, and bytes beyond the size asked for are guarded too.
 */
#define ZERO_SIZE_PTR          ((void *)16)
#define ZERO_OR_NULL_PTR(ptr)  ((uintptr_t)(ptr) <= (uintptr_t)ZERO_SIZE_PTR)
#define KMALLOC_MAX_CACHE_SIZE ((size_t)1 << 20)
#define KMALLOC_MAX_SIZE       ((size_t)FRAME_SIZE << MAX_ORDER)
void *mm_kmalloc(struct mm *mm, size_t size, gfp_t gfp);
void *mm_kzalloc(struct mm *mm, size_t size, gfp_t gfp);
/* nr elements of size bytes; NULL on overflow. Kernel: kcalloc(). */
void *mm_kcalloc(struct mm *mm, size_t nr, size_t size, gfp_t gfp);
/* Keeps the content up to the smaller size; on failure ptr stays valid and NULL is returned. ptr
 * may be NULL; size 0 frees and returns ZERO_SIZE_PTR. What is beyond the old content is undefined,
 * __GFP_ZERO or not. */
void *mm_krealloc(struct mm *mm, void *ptr, size_t size, gfp_t gfp);
/* NULL and ZERO_SIZE_PTR are ignored. Also takes objects of a kmem_cache. */
void mm_kfree(struct mm *mm, const void *ptr);
/* Usable bytes at ptr (0 for NULL and ZERO_SIZE_PTR). In a debug cache: those asked for. */
size_t mm_ksize(struct mm *mm, const void *ptr);

static inline void *kmalloc(size_t size, gfp_t gfp)
{
	return mm_kmalloc(mm_current, size, gfp);
}

static inline void *kzalloc(size_t size, gfp_t gfp)
{
	return mm_kzalloc(mm_current, size, gfp);
}

static inline void *kcalloc(size_t nr, size_t size, gfp_t gfp)
{
	return mm_kcalloc(mm_current, nr, size, gfp);
}

static inline void *krealloc(void *ptr, size_t size, gfp_t gfp)
{
	return mm_krealloc(mm_current, ptr, size, gfp);
}

static inline void kfree(const void *ptr)
{
	mm_kfree(mm_current, ptr);
}

static inline size_t ksize(const void *ptr)
{
	return mm_ksize(mm_current, ptr);
}

#endif
