/* SPDX-License-Identifier: MIT */
/*
 * Caches of objects of one size: making and ending them, and the calls that take and give objects.
 * What the calls are built on is told in slab_internal.h.
 */
#include <errno.h>
#include <string.h>

#include "mm/slab_internal.h"
#include "mm/slab_rseq.h"

#define SLAB_MIN_ALIGN 8u
#define SLAB_MAX_ALIGN (1u << 20)

#define SLAB_VALID_FLAGS                                                                 \
	(SLAB_HWCACHE_ALIGN | SLAB_CACHE_DMA | SLAB_CACHE_DMA32 | SLAB_RECLAIM_ACCOUNT | \
	 SLAB_LOCKED_SHEAVES | SLAB_DEBUG_FLAGS)

/* Bytes of a struct kmem_cache of this instance, with its CPUs and nodes. */
static size_t cache_head_bytes(const struct mm *mm)
{
	size_t bytes = sizeof(struct kmem_cache) + mm->nr_cpus * sizeof(struct kmem_sheaf *);

	return (bytes + MM_CACHELINE - 1) & ~(size_t)(MM_CACHELINE - 1);
}

size_t slab_cache_bytes(const struct mm *mm)
{
	return cache_head_bytes(mm) + mm->nr_nodes * sizeof(struct kmem_cache_node);
}

static uint32_t choose_align(size_t size, size_t align, slab_flags_t flags)
{
	uint32_t result = align > SLAB_MIN_ALIGN ? (uint32_t)align : SLAB_MIN_ALIGN;

	if (flags & SLAB_HWCACHE_ALIGN) {
		uint32_t line = MM_CACHELINE;

		/* Small objects share a line, but none lies across two. */
		while (line > SLAB_MIN_ALIGN && size <= line / 2)
			line /= 2;
		if (line > result)
			result = line;
	}
	return result;
}

/* Blocks per slab: the fewest that waste at most an eighth and hold four objects, within a quarter
 * of a frame. Large objects get a slab each. */
static uint32_t choose_blocks(uint32_t stride)
{
	const uint32_t max_blocks = SLAB_NR_BLOCKS / 4;
	uint32_t one = 1 + (stride - 1) / SLAB_BLOCK_SIZE;
	uint32_t best = one;
	uint32_t best_waste = UINT32_MAX;
	uint32_t nr;

	if (one > max_blocks / 4)
		return one;
	for (nr = one; nr <= max_blocks; nr++) {
		uint32_t bytes = nr * SLAB_BLOCK_SIZE;
		uint32_t waste = (uint32_t)((uint64_t)(bytes % stride) * 1000 / bytes);

		if (waste <= 125 && bytes / stride >= 4)
			return nr;
		if (waste < best_waste) {
			best_waste = waste;
			best = nr;
		}
	}
	return best;
}

/* At most 64 KiB of objects per CPU. */
static uint32_t choose_sheaf_capacity(uint32_t stride)
{
	if (stride <= 64)
		return SHEAF_LARGE_CAPACITY;
	if (stride <= 256)
		return 65536 / stride;
	if (stride <= 1024)
		return 64;
	if (stride <= 4096)
		return 32;
	if (stride <= 16384)
		return 8;
	return stride <= 32768 ? 4 : 0;
}

static enum slab_frame_type choose_frame_type(slab_flags_t flags)
{
	if (flags & SLAB_CACHE_DMA)
		return SLAB_FRAME_DMA;
	if (flags & SLAB_CACHE_DMA32)
		return SLAB_FRAME_DMA32;
	return flags & SLAB_RECLAIM_ACCOUNT ? SLAB_FRAME_RECLAIMABLE : SLAB_FRAME_UNMOVABLE;
}

static void choose_sheaves(struct kmem_cache *cache)
{
	struct slab_state *state = cache->state;
	/* The two caches that sheaves and caches come from have none: nothing to recurse into. */
	bool internal = !state->sheaf_cache[SHEAF_LARGE];

	cache->sheaf_capacity = internal || cache->debug ? 0 : choose_sheaf_capacity(cache->stride);
	if (cache->sheaf_capacity && state->rseq && !(cache->flags & SLAB_LOCKED_SHEAVES))
		cache->rseq_cpus = cache->mm->nr_cpus;
}

/* Fills a zeroed struct kmem_cache. Returns 0 or -EINVAL. */
int slab_cache_setup(struct kmem_cache *cache, struct slab_state *state, const char *name,
		     size_t size, size_t align, slab_flags_t flags)
{
	struct mm *mm = state->mm;
	unsigned int i;

	cache->mm = mm;
	cache->state = state;
	cache->flags = flags;
	cache->debug = (flags & SLAB_DEBUG_FLAGS) != 0;
	cache->numa = mm->nr_nodes > 1;
	cache->object_size = (uint32_t)size;
	cache->align = choose_align(size, align, flags);
	cache->stride = (uint32_t)size;
	if (cache->debug)
		slab_debug_layout(cache);
	cache->stride = (cache->stride + cache->align - 1) & ~(cache->align - 1);
	if (cache->stride > KMEM_CACHE_MAX_SIZE)
		return -EINVAL;
	cache->reciprocal =
		((UINT64_C(1) << SLAB_RECIPROCAL_SHIFT) + cache->stride - 1) / cache->stride;
	cache->nr_blocks = choose_blocks(cache->stride);
	cache->frame_type = choose_frame_type(flags);
	strncpy(cache->name, name, KMEM_CACHE_NAME_MAX - 1);
	choose_sheaves(cache);
	pthread_mutex_init(&cache->sheaf_lock, NULL);
	for (i = 0; i < mm->nr_cpus; i++)
		cache->sheaf[i] = &state->frozen;
	cache->node = (void *)((char *)cache + cache_head_bytes(mm));
	for (i = 0; i < mm->nr_nodes; i++) {
		list_init(&cache->node[i].partial);
		list_init(&cache->node[i].full);
		list_init(&cache->node[i].empty);
	}
	return 0;
}

struct kmem_cache *kmem_cache_create(struct mm *mm, const char *name, size_t size, size_t align,
				     slab_flags_t flags, void (*ctor)(void *object))
{
	struct slab_state *state;
	struct kmem_cache *cache;
	void *object;
	int err;

	if (!name || size == 0 || size > KMEM_CACHE_MAX_SIZE || (align & (align - 1)) != 0 ||
	    align > SLAB_MAX_ALIGN || (flags & ~SLAB_VALID_FLAGS) != 0) {
		errno = EINVAL;
		return NULL;
	}
	state = slab_state_get(mm);
	if (!state)
		return NULL;
	if (!slab_take(state->cache_cache, GFP_KERNEL, NUMA_NO_NODE, &object, 1)) {
		errno = ENOMEM;
		return NULL;
	}
	cache = object;
	memset(cache, 0, slab_cache_bytes(mm));
	err = slab_cache_setup(cache, state, name, size, align, flags);
	if (err) {
		slab_put(state->cache_cache, &object, 1, NULL);
		errno = -err;
		return NULL;
	}
	cache->ctor = ctor;
	pthread_mutex_lock(&state->lock);
	list_add_tail(&cache->list, &state->caches);
	pthread_mutex_unlock(&state->lock);
	return cache;
}

int kmem_cache_destroy(struct kmem_cache *cache)
{
	struct slab_state *state;
	void *object = cache;

	if (!cache)
		return 0;
	state = cache->state;
	slab_drain_sheaves(cache, NULL);
	if (slab_report_leaks(cache))
		return -EBUSY;
	pthread_mutex_lock(&state->lock);
	list_del(&cache->list);
	pthread_mutex_unlock(&state->lock);
	slab_release_all(cache);
	slab_free_sheaves(cache);
	pthread_mutex_destroy(&cache->sheaf_lock);
	slab_put(state->cache_cache, &object, 1, NULL);
	return 0;
}

void *kmem_cache_alloc(struct kmem_cache *cache, gfp_t gfp)
{
	return slab_alloc(cache, gfp, cache->object_size, __builtin_return_address(0));
}

void *kmem_cache_alloc_node(struct kmem_cache *cache, gfp_t gfp, int nid)
{
	void *object = NULL;

	if (nid < 0)
		return kmem_cache_alloc(cache, gfp);
	if ((unsigned int)nid >= cache->mm->nr_nodes)
		return NULL;
	if (cache->debug)
		object = slab_debug_alloc(cache, gfp, nid, cache->object_size,
					  __builtin_return_address(0));
	else if (!slab_take(cache, gfp, nid, &object, 1))
		return NULL;
	slab_asan_alloc(cache, object);
	if ((gfp & __GFP_ZERO) && object)
		memset(object, 0, cache->object_size);
	return object;
}

void kmem_cache_free(struct kmem_cache *cache, void *object)
{
	if (likely(object != NULL))
		slab_free(cache, object, __builtin_return_address(0));
}

size_t kmem_cache_alloc_bulk(struct kmem_cache *cache, gfp_t gfp, size_t nr, void **objects)
{
	const void *caller = __builtin_return_address(0);
	size_t i;

	if (!cache->debug) {
		if (!slab_alloc_batch(cache, gfp, nr, objects))
			return 0;
	} else {
		for (i = 0; i < nr; i++) {
			objects[i] = slab_debug_alloc(cache, gfp, NUMA_NO_NODE, cache->object_size,
						      caller);
			if (!objects[i]) {
				kmem_cache_free_bulk(cache, i, objects);
				return 0;
			}
		}
	}
	for (i = 0; i < nr; i++)
		slab_asan_alloc(cache, objects[i]);
	for (i = 0; (gfp & __GFP_ZERO) && i < nr; i++)
		memset(objects[i], 0, cache->object_size);
	return nr;
}

void kmem_cache_free_bulk(struct kmem_cache *cache, size_t nr, void **objects)
{
	for (size_t i = 0; i < nr; i++)
		slab_asan_free(cache, objects[i]);
	slab_free_batch(cache, nr, objects, __builtin_return_address(0));
}

uint64_t kmem_cache_shrink(struct kmem_cache *cache)
{
	slab_drain_sheaves(cache, NULL);
	return slab_release_empty(cache, NULL);
}

uint64_t kmem_cache_shrink_all(struct mm *mm)
{
	struct slab_state *state = __atomic_load_n(&mm->slab, __ATOMIC_ACQUIRE);
	struct list_head *pos;
	uint64_t frames = 0;

	if (!state)
		return 0;
	pthread_mutex_lock(&state->lock);
	list_for_each(pos, &state->caches)
	{
		struct kmem_cache *cache = list_entry(pos, struct kmem_cache, list);

		slab_drain_sheaves(cache, &frames);
		slab_release_empty(cache, &frames);
	}
	pthread_mutex_unlock(&state->lock);
	return frames;
}

size_t kmem_cache_size(const struct kmem_cache *cache)
{
	return cache->object_size;
}

const char *kmem_cache_name(const struct kmem_cache *cache)
{
	return cache->name;
}
