/* SPDX-License-Identifier: MIT */
/*
 * Structures of the slab allocator and what its files use of each other.
 *
 *   slab.c         caches: create, destroy, the alloc and free calls
 *   slab_rseq.h    the hit paths
 *   slab_sheaf.c   per-CPU sheaves: refill, flush, draining those of other CPUs
 *   slab_node.c    slabs of a cache on a node: taking objects out and putting them back
 *   slab_frame.c   frames cut into blocks; set-up and end of the instance's slab part
 *   slab_debug.c   red zones, poison, owners, reports
 *   slab_report.c  slabinfo, validation
 *
 * Locks, outermost first: slab_state.lock, kmem_cache.sheaf_lock, kmem_sheaf.lock,
 * kmem_cache_node.lock; slab_pool.lock is taken with no node's lock held. Frames are allocated with
 * none of them held, because direct reclaim comes back here through kmem_cache_shrink_all();
 * freeing frames never reclaims, and happens under the first three.
 */
#ifndef MM_SLAB_INTERNAL_H
#define MM_SLAB_INTERNAL_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "framevisor/list.h"
#include "framevisor/slab.h"
#include "framevisor/vmscan.h"
#include "mm/internal.h"

#define SLAB_BLOCK_SHIFT 15
#define SLAB_BLOCK_SIZE  (1u << SLAB_BLOCK_SHIFT)
#define SLAB_NR_BLOCKS   64u /* one bit each in a word */
_Static_assert((uint64_t)SLAB_NR_BLOCKS << SLAB_BLOCK_SHIFT == FRAME_SIZE_2M, "they make a frame");

/* Objects up to this size may use the first block of a frame, whose start is the header. */
#define SLAB_FIRST_BLOCK_MAX 2048

/* Empty slabs that a cache keeps per node before blocks go back to the frame; none of large ones.
 */
#define SLAB_MAX_EMPTY        2
#define SLAB_MAX_EMPTY_BLOCKS 8

/*
 * A run of blocks with objects of one cache. Which objects are free is a bitmap outside of them:
 * writes after a free cannot break it, and a constructed object keeps its state. Up to 64 objects
 * it is in the descriptor, beyond that at the start of the slab. A second bitmap of the same size
 * marks quarantined objects.
 */
struct slab {
	struct list_head list; /* partial, full or empty, of its node */
	struct kmem_cache *cache;
	uint64_t *free_map;
	uint64_t inline_map[2];
	uint32_t objects; /* offset of the first object in the frame */
	uint16_t nr_objects;
	uint16_t inuse; /* taken out of the slab: allocated or in a sheaf, not quarantined */
	uint16_t quarantined;
	uint16_t hint; /* no free object in words of the bitmap before this one */
	uint8_t first_block;
	uint8_t nr_blocks;
	uint16_t unused;
};
_Static_assert(sizeof(struct slab) == 64, "one cache line per slab");

enum slab_frame_type {
	SLAB_FRAME_UNMOVABLE,
	SLAB_FRAME_RECLAIMABLE,
	SLAB_FRAME_DMA32,
	SLAB_FRAME_DMA,
	NR_SLAB_FRAME_TYPES
};

/* The header of a frame cut into slabs, at its first byte: found from any object by masking. */
struct slab_frame {
	uint64_t magic; /* SLAB_FRAME_MAGIC ^ its own address */
	struct slab_state *state;
	struct page *page;
	struct list_head list; /* of its pool */
	uint64_t free_blocks;  /* bit n: block n */
	uint16_t nid;
	uint16_t type;
	uint8_t slab_of_block[64]; /* the descriptor for an address in the block */
	/* And directly the cache, one load instead of two in every kfree(); NULL: no slab. */
	struct kmem_cache *cache_of_block[64];
	struct slab slabs[64] __attribute__((aligned(64))); /* by first block */
};
#define SLAB_FRAME_MAGIC  UINT64_C(0x6672616d65736c62)
#define SLAB_FRAME_HEADER sizeof(struct slab_frame)
_Static_assert(sizeof(struct slab_frame) % 64 == 0 &&
		       sizeof(struct slab_frame) < SLAB_BLOCK_SIZE / 4,
	       "the header leaves most of the first block");

/* Free objects of one cache on one CPU. size and objects are written by that CPU only. */
struct kmem_sheaf {
	uint32_t size;
	uint32_t capacity;
	uint32_t lock; /* where rseq is not used */
	uint32_t unused;
	/* capacity pointers follow: sheaf_objects() */
};
_Static_assert(sizeof(struct kmem_sheaf) == 16, "as the assembly has it");

static inline void **sheaf_objects(const struct kmem_sheaf *sheaf)
{
	return (void **)(uintptr_t)(sheaf + 1);
}

/* Sheaves come in two sizes, 1 KiB and 8 KiB: small objects have the large ones. */
enum sheaf_kind { SHEAF_SMALL, SHEAF_LARGE, NR_SHEAF_KINDS };
#define SHEAF_SMALL_CAPACITY  126
#define SHEAF_LARGE_CAPACITY  1022
#define SHEAF_BYTES(capacity) (sizeof(struct kmem_sheaf) + (capacity) * sizeof(void *))
/* Objects fetched from or put back into the slabs at once, and the caller's. */
#define SHEAF_BATCH_MAX (SHEAF_SMALL_CAPACITY / 2 + 1)

struct kmem_cache_node {
	uint32_t lock;
	uint32_t nr_empty;
	struct list_head partial; /* fullest first, roughly */
	struct list_head full;
	struct list_head empty;
	uint64_t nr_slabs;
	uint64_t nr_objects;     /* room in all slabs */
	uint64_t nr_inuse;       /* sum of slab.inuse */
	uint64_t nr_quarantined; /* sum of slab.quarantined */
	uint32_t next_colour;
} __attribute__((aligned(64)));

struct kmem_cache {
	/* What the hit paths read. */
	uint32_t rseq_cpus;   /* CPUs with a sheaf used by rseq; 0: rseq not in use */
	bool numa;            /* objects of other nodes do not go into sheaves */
	bool debug;           /* any of SLAB_DEBUG_FLAGS */
	uint32_t object_size; /* asked for */
	uint32_t stride;      /* from object to object */
	uint32_t red_left;    /* from the start of the stride to the object */
	uint64_t reciprocal;  /* of stride, for object_index() */
	struct mm *mm;
	struct slab_state *state;

	uint32_t sheaf_capacity; /* 0: no sheaves */
	uint32_t nr_blocks;      /* per slab */
	uint32_t align;
	uint32_t track_offset; /* of struct slab_track[2] in the stride; SLAB_STORE_USER */
	uint32_t red_end;      /* end of the right red zone in the stride */
	uint32_t orig_offset;  /* of the size asked for; debug caches */
	slab_flags_t flags;
	enum slab_frame_type frame_type;
	void (*ctor)(void *object);
	pthread_mutex_t sheaf_lock; /* publishing and draining of sheaves */
	struct list_head list;      /* of the instance */
	char name[KMEM_CACHE_NAME_MAX];
	struct kmem_cache_node *node; /* one per node, behind sheaf[] */
	struct kmem_sheaf *sheaf[];   /* one per CPU; never NULL: at least the frozen one */
};

/* kmalloc.c */
#define KMALLOC_NR_SIZES 20
enum kmalloc_type { KMALLOC_NORMAL, KMALLOC_RECLAIM, KMALLOC_DMA32, KMALLOC_DMA, NR_KMALLOC_TYPES };

/* Frames of one node that slabs live in. */
struct slab_pool {
	uint32_t lock;
	uint64_t nr_frames;
	struct list_head partial[NR_SLAB_FRAME_TYPES]; /* with free blocks */
	struct list_head full;
} __attribute__((aligned(64)));

/* The slab part of an instance (mm->slab). Lies in the first frame that it takes. */
struct slab_state {
	struct mm *mm;
	pthread_mutex_t lock; /* the list of caches */
	struct list_head caches;
	bool rseq;
	struct shrinker shrinker; /* kmem_cache_shrink_all() for reclaim */
	uintptr_t low;            /* the permanent mapping of all nodes lies in [low, high) */
	uintptr_t high;
	uint64_t nr_errors;
	uint64_t nr_large; /* kmalloc blocks of whole frames */
	/* Stands in for a sheaf that does not exist or is being drained: neither pop nor push
	 * succeeds. */
	struct kmem_sheaf frozen;
	struct kmem_cache *cache_cache; /* of struct kmem_cache; lies in this state's memory */
	struct kmem_cache *sheaf_cache[NR_SHEAF_KINDS];
	struct kmem_cache *kmalloc[NR_KMALLOC_TYPES][KMALLOC_NR_SIZES];
	struct slab_pool pool[]; /* one per node */
};

/* Who did something to an object, and when. */
struct slab_track {
	uint64_t caller;
	uint64_t when_ns; /* CLOCK_MONOTONIC; 0: never */
	int32_t tid;
	int32_t cpu;
};
enum slab_track_item { TRACK_ALLOC, TRACK_FREE, NR_TRACKS };

static inline struct slab_frame *slab_frame_of(const void *object)
{
	return (struct slab_frame *)((uintptr_t)object & (uintptr_t)FRAME_MASK);
}

static inline bool slab_frame_ok(const struct slab_frame *frame)
{
	return frame->magic == (SLAB_FRAME_MAGIC ^ (uintptr_t)frame);
}

static inline unsigned int slab_block_of(const void *object)
{
	return (unsigned int)((uintptr_t)object >> SLAB_BLOCK_SHIFT) % SLAB_NR_BLOCKS;
}

/* Only for an address in a frame of slabs. */
static inline struct slab *slab_of(const void *object)
{
	struct slab_frame *frame = slab_frame_of(object);

	return &frame->slabs[frame->slab_of_block[slab_block_of(object)]];
}

static inline void *slab_object(const struct slab *slab, unsigned int index)
{
	return (char *)slab_frame_of(slab) + slab->objects + (size_t)index * slab->cache->stride +
	       slab->cache->red_left;
}

/*
 * offset / stride, for offsets below 2 MiB: with reciprocal = ceil(2^43 / stride) the error stays
 * under 1 / stride because offset * stride < 2^43.
 */
#define SLAB_RECIPROCAL_SHIFT 43
static inline unsigned int object_index(const struct kmem_cache *cache, uint32_t offset)
{
	return (unsigned int)((offset * cache->reciprocal) >> SLAB_RECIPROCAL_SHIFT);
}

static inline uint64_t *slab_quarantine_map(const struct slab *slab)
{
	return slab->free_map + (slab->nr_objects + 63) / 64;
}

static inline bool map_test(const uint64_t *map, unsigned int bit)
{
	return (map[bit / 64] >> (bit % 64) & 1) != 0;
}

static inline void map_set(uint64_t *map, unsigned int bit)
{
	map[bit / 64] |= UINT64_C(1) << (bit % 64);
}

static inline void map_clear(uint64_t *map, unsigned int bit)
{
	map[bit / 64] &= ~(UINT64_C(1) << (bit % 64));
}

static inline unsigned int slab_this_node(const struct mm *mm)
{
	return mm->nr_nodes == 1 ? 0 : mm->cpu_node[mm_this_cpu(mm)];
}

/* Where a cache's sheaves come from. */
static inline struct kmem_cache *sheaf_cache_of(const struct kmem_cache *cache)
{
	return cache->state
		->sheaf_cache[cache->sheaf_capacity > SHEAF_SMALL_CAPACITY ? SHEAF_LARGE
									   : SHEAF_SMALL];
}

/* slab.c */
int slab_cache_setup(struct kmem_cache *cache, struct slab_state *state, const char *name,
		     size_t size, size_t align, slab_flags_t flags);
size_t slab_cache_bytes(const struct mm *mm);
struct slab_state *slab_state_get(struct mm *mm);

/* slab_sheaf.c */
void *slab_alloc_slow(struct kmem_cache *cache, gfp_t gfp, size_t orig_size, const void *caller);
void slab_free_slow(struct kmem_cache *cache, void *object, const void *caller);
void slab_drain_sheaves(struct kmem_cache *cache, uint64_t *frames);
uint64_t slab_sheaf_objects(const struct kmem_cache *cache);
void slab_free_sheaves(struct kmem_cache *cache);
size_t slab_alloc_batch(struct kmem_cache *cache, gfp_t gfp, size_t nr, void **objects);
void slab_free_batch(struct kmem_cache *cache, size_t nr, void **objects, const void *caller);
bool slab_rseq_usable(void);

/* slab_node.c */
size_t slab_take(struct kmem_cache *cache, gfp_t gfp, int nid, void **objects, size_t nr);
void slab_put(struct kmem_cache *cache, void **objects, size_t nr, const void *caller);
void slab_put_counted(struct kmem_cache *cache, void **objects, size_t nr, const void *caller,
		      uint64_t *frames);
struct slab *slab_find(struct kmem_cache *cache, const void *object, unsigned int *index,
		       const void *caller);
void slab_quarantine(struct slab *slab, unsigned int index);
void slab_release_all(struct kmem_cache *cache);
uint64_t slab_release_empty(struct kmem_cache *cache, uint64_t *frames);

/* slab_frame.c */
struct slab *slab_blocks_alloc(struct kmem_cache *cache, gfp_t gfp, unsigned int nid);
bool slab_blocks_free(struct slab *slab);
struct slab_frame *slab_frame_lookup(struct mm *mm, const void *addr);

/* slab_debug.c: SLAB_DEBUG_FLAGS. */
void slab_debug_layout(struct kmem_cache *cache);
void slab_debug_init_object(struct kmem_cache *cache, void *object);
void *slab_debug_alloc(struct kmem_cache *cache, gfp_t gfp, int nid, size_t orig_size,
		       const void *caller);
bool slab_debug_check_free(struct kmem_cache *cache, void *object, const void *caller);
size_t slab_orig_size(const struct kmem_cache *cache, const void *object);
bool slab_debug_resize(struct kmem_cache *cache, void *object, size_t size);
void slab_report(struct kmem_cache *cache, const void *object, const char *what,
		 const void *caller);
uint64_t slab_report_leaks(struct kmem_cache *cache);

#endif
