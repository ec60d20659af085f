/* SPDX-License-Identifier: MIT */
/*
 * Frames for slabs: cut into blocks, shared by the caches of an instance, given back when no slab
 * is left. Also the beginning and the end of the instance's slab part, whose own state lies in the
 * first frame that it takes.
 */
#include <errno.h>
#include <string.h>

#include "mm/slab_internal.h"
#include "mm/slab_rseq.h"

static const gfp_t frame_type_gfp[NR_SLAB_FRAME_TYPES] = {
	[SLAB_FRAME_UNMOVABLE] = 0,
	[SLAB_FRAME_RECLAIMABLE] = __GFP_RECLAIMABLE,
	[SLAB_FRAME_DMA32] = __GFP_DMA32,
	[SLAB_FRAME_DMA] = __GFP_DMA,
};

/* What of an object's gfp concerns the frame under it. */
#define SLAB_FRAME_GFP_MASK \
	(~(GFP_ZONEMASK | __GFP_RECLAIMABLE | __GFP_ZERO | __GFP_COMP | __GFP_COLD | __GFP_NO_GROW))

/* state is NULL for the frame that will hold it. */
static struct slab_frame *frame_create(struct mm *mm, struct slab_state *state, gfp_t gfp,
				       enum slab_frame_type type, int nid)
{
	gfp_t frame_gfp = (gfp & SLAB_FRAME_GFP_MASK) | frame_type_gfp[type];
	struct page *page = mm_alloc_pages_node(mm, nid, frame_gfp, 0);
	struct slab_frame *frame;

	if (!page)
		return NULL;
	frame = mm_page_address(mm, page);
	if (!frame || !frame_aligned((uintptr_t)frame)) {
		mm_free_pages(mm, page, 0);
		return NULL;
	}
	memset(frame, 0, SLAB_FRAME_HEADER);
	frame->state = state;
	frame->page = page;
	frame->free_blocks = ~UINT64_C(0);
	frame->nid = (uint16_t)page_to_nid(page);
	frame->type = (uint16_t)type;
	frame->magic = SLAB_FRAME_MAGIC ^ (uintptr_t)frame;
	page_test_and_set(page, PAGE_FLAG(slab));
	return frame;
}

static void frame_release(struct mm *mm, struct slab_frame *frame)
{
	struct page *page = frame->page;

	slab_asan_blocks(frame, 0, SLAB_NR_BLOCKS);
	frame->magic = 0;
	page_test_and_clear(page, PAGE_FLAG(slab));
	mm_free_pages(mm, page, 0);
}

/* The frame that an address lies in, if it is one of slabs; any address may be asked for. */
struct slab_frame *slab_frame_lookup(struct mm *mm, const void *addr)
{
	const struct page *page = mm_virt_to_page(mm, addr);
	struct slab_frame *frame = slab_frame_of(addr);

	if (!page || !page_test(page, PAGE_FLAG(slab)) || !slab_frame_ok(frame))
		return NULL;
	return frame;
}

/* nr is below 64: the first block of a frame is never part of a longer slab. */
static uint64_t block_mask(unsigned int nr)
{
	return (UINT64_C(1) << nr) - 1;
}

/* First of nr free blocks in a row, at a multiple of align; -1: none. */
static int find_blocks(uint64_t free_blocks, unsigned int nr, unsigned int align, bool first_ok)
{
	uint64_t starts = free_blocks;
	unsigned int have = 1;

	/* Bit n of starts: "have" free blocks from n on. Doubles until there are nr. */
	while (have < nr && starts) {
		unsigned int more = have < nr - have ? have : nr - have;

		starts &= starts >> more;
		have += more;
	}
	if (!first_ok)
		starts &= ~UINT64_C(1);
	for (; starts; starts &= starts - 1) {
		int block = __builtin_ctzll(starts);

		if ((unsigned int)block % align == 0)
			return block;
	}
	return -1;
}

/* With the pool's lock held. NULL: no room for a slab of this cache. */
static struct slab *frame_carve(struct slab_pool *pool, struct slab_frame *frame,
				struct kmem_cache *cache)
{
	unsigned int nr = cache->nr_blocks;
	unsigned int align = cache->align > SLAB_BLOCK_SIZE ? cache->align / SLAB_BLOCK_SIZE : 1;
	bool first_ok = nr == 1 && cache->stride <= SLAB_FIRST_BLOCK_MAX &&
			cache->align <= SLAB_FIRST_BLOCK_MAX;
	int first = find_blocks(frame->free_blocks, nr, align, first_ok);
	struct slab *slab;

	if (first < 0)
		return NULL;
	frame->free_blocks &= ~(block_mask(nr) << first);
	for (unsigned int i = 0; i < nr; i++) {
		frame->slab_of_block[(unsigned int)first + i] = (uint8_t)first;
		frame->cache_of_block[(unsigned int)first + i] = cache;
	}
	slab = &frame->slabs[first];
	slab->cache = cache;
	slab->first_block = (uint8_t)first;
	slab->nr_blocks = (uint8_t)nr;
	if (!frame->free_blocks)
		list_move(&frame->list, &pool->full);
	return slab;
}

static struct slab *pool_carve(struct slab_pool *pool, struct kmem_cache *cache)
{
	struct list_head *pos;
	struct slab *slab = NULL;

	spin_lock(&pool->lock);
	list_for_each(pos, &pool->partial[cache->frame_type])
	{
		slab = frame_carve(pool, list_entry(pos, struct slab_frame, list), cache);
		if (slab)
			break;
	}
	spin_unlock(&pool->lock);
	return slab;
}

/*
 * Blocks for a slab of the cache, from a frame of node nid or from a new one (which may be another
 * node's). Only cache, first_block and nr_blocks of the descriptor are set.
 */
struct slab *slab_blocks_alloc(struct kmem_cache *cache, gfp_t gfp, unsigned int nid)
{
	struct slab_state *state = cache->state;
	struct slab *slab = pool_carve(&state->pool[nid], cache);
	struct slab_frame *frame;
	struct slab_pool *pool;

	if (slab)
		return slab;
	frame = frame_create(cache->mm, state, gfp, cache->frame_type, (int)nid);
	if (!frame)
		return NULL;
	pool = &state->pool[frame->nid];
	spin_lock(&pool->lock);
	list_add_tail(&frame->list, &pool->partial[frame->type]);
	pool->nr_frames++;
	slab = frame_carve(pool, frame, cache);
	spin_unlock(&pool->lock);
	return slab;
}

/* Gives a slab's blocks back. True: that was the last slab of the frame, which is free now. */
bool slab_blocks_free(struct slab *slab)
{
	struct slab_frame *frame = slab_frame_of(slab);
	struct slab_pool *pool = &frame->state->pool[frame->nid];
	struct mm *mm = frame->state->mm;
	bool was_full;
	bool last;

	slab_asan_blocks(frame, slab->first_block, slab->nr_blocks);
	spin_lock(&pool->lock);
	was_full = frame->free_blocks == 0;
	slab->cache = NULL;
	for (unsigned int i = 0; i < slab->nr_blocks; i++)
		frame->cache_of_block[slab->first_block + i] = NULL;
	frame->free_blocks |= block_mask(slab->nr_blocks) << slab->first_block;
	last = frame->free_blocks == ~UINT64_C(0);
	if (last) {
		list_del(&frame->list);
		pool->nr_frames--;
	} else if (was_full) {
		list_move_tail(&frame->list, &pool->partial[frame->type]);
	}
	spin_unlock(&pool->lock);
	if (last)
		frame_release(mm, frame);
	return last;
}

static size_t state_bytes(const struct mm *mm)
{
	size_t bytes = sizeof(struct slab_state) + mm->nr_nodes * sizeof(struct slab_pool);

	return (bytes + MM_CACHELINE - 1) & ~(size_t)(MM_CACHELINE - 1);
}

/* Frames that hold something that can be dropped; a guess from above. */
static uint64_t count_frames(struct shrinker *shrinker, struct shrink_control *sc)
{
	(void)shrinker;
	return kmem_cache_frames(sc->mm);
}

static uint64_t scan_frames(struct shrinker *shrinker, struct shrink_control *sc)
{
	uint64_t frames = kmem_cache_shrink_all(sc->mm);

	(void)shrinker;
	return frames ? frames : SHRINK_STOP;
}

/* The state, the cache of caches behind it, both in the first blocks of a new frame. */
static struct slab_state *state_create(struct mm *mm, struct slab_frame *frame)
{
	size_t cache_offset = SLAB_FRAME_HEADER + state_bytes(mm);
	size_t bytes = cache_offset + slab_cache_bytes(mm);
	unsigned int nr = (unsigned int)((bytes + SLAB_BLOCK_SIZE - 1) / SLAB_BLOCK_SIZE);
	struct slab_state *state = (void *)((char *)frame + SLAB_FRAME_HEADER);
	struct slab_pool *pool;
	unsigned int nid;
	unsigned int type;

	memset(state, 0, bytes - SLAB_FRAME_HEADER);
	state->mm = mm;
	pthread_mutex_init(&state->lock, NULL);
	list_init(&state->caches);
	state->low = UINTPTR_MAX;
	for_each_node (mm, nid) {
		uintptr_t base = (uintptr_t)mm->node[nid]->base;
		uintptr_t end = base + mm->node[nid]->node_spanned_pages * FRAME_SIZE;

		if (base && base < state->low)
			state->low = base;
		if (base && end > state->high)
			state->high = end;
		pool = &state->pool[nid];
		for (type = 0; type < NR_SLAB_FRAME_TYPES; type++)
			list_init(&pool->partial[type]);
		list_init(&pool->full);
	}
	frame->state = state;
	frame->free_blocks &= ~block_mask(nr);
	pool = &state->pool[frame->nid];
	list_add(&frame->list, &pool->partial[frame->type]);
	pool->nr_frames = 1;
	state->rseq = slab_rseq_usable();
	state->shrinker =
		(struct shrinker){ .count_objects = count_frames, .scan_objects = scan_frames };
	state->cache_cache = (void *)((char *)frame + cache_offset);
	slab_cache_setup(state->cache_cache, state, "kmem_cache", slab_cache_bytes(mm), 64, 0);
	list_add_tail(&state->cache_cache->list, &state->caches);
	return state;
}

static void state_destroy(struct slab_state *state)
{
	struct list_head *pos;

	list_for_each(pos, &state->caches)
	{
		struct kmem_cache *cache = list_entry(pos, struct kmem_cache, list);

		pthread_mutex_destroy(&cache->sheaf_lock);
	}
	pthread_mutex_destroy(&state->lock);
}

static bool make_sheaf_cache(struct slab_state *state, struct slab_frame *frame,
			     enum sheaf_kind kind)
{
	static const struct {
		const char *name;
		size_t bytes;
	} kinds[NR_SHEAF_KINDS] = {
		[SHEAF_SMALL] = { "kmem_sheaf", SHEAF_BYTES(SHEAF_SMALL_CAPACITY) },
		[SHEAF_LARGE] = { "kmem_sheaf-8k", SHEAF_BYTES(SHEAF_LARGE_CAPACITY) },
	};
	struct kmem_cache *cache;
	void *object;

	if (!slab_take(state->cache_cache, GFP_KERNEL, (int)frame->nid, &object, 1))
		return false;
	cache = object;
	memset(cache, 0, slab_cache_bytes(state->mm));
	slab_cache_setup(cache, state, kinds[kind].name, kinds[kind].bytes, 64, 0);
	list_add_tail(&cache->list, &state->caches);
	state->sheaf_cache[kind] = cache;
	return true;
}

static int state_set_up(struct mm *mm)
{
	struct slab_frame *frame = frame_create(mm, NULL, GFP_KERNEL | __GFP_NOWARN,
						SLAB_FRAME_UNMOVABLE, NUMA_NO_NODE);
	struct slab_state *expected = NULL;
	struct slab_state *state;
	bool sheaves;

	if (!frame)
		return mm->node[0]->base ? -ENOMEM : -ENODEV;
	state = state_create(mm, frame);
	sheaves = make_sheaf_cache(state, frame, SHEAF_SMALL) &&
		  make_sheaf_cache(state, frame, SHEAF_LARGE);
	/* Somebody else may have been faster: theirs counts. */
	if (sheaves && __atomic_compare_exchange_n(&mm->slab, &expected, state, false,
						   __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
		mm_register_shrinker(mm, &state->shrinker);
		return 0;
	}
	state_destroy(state);
	frame_release(mm, frame);
	return sheaves ? 0 : -ENOMEM;
}

/* NULL with errno set when it cannot be set up. */
struct slab_state *slab_state_get(struct mm *mm)
{
	struct slab_state *state = __atomic_load_n(&mm->slab, __ATOMIC_ACQUIRE);

	if (likely(state != NULL))
		return state;
	bool possible = FRAME_SHIFT == FRAME_SHIFT_2M || (mm->flags & MM_SLAB_SPARSE);
	int err = possible ? state_set_up(mm) : -EOPNOTSUPP;

	if (err) {
		errno = -err;
		return NULL;
	}
	return __atomic_load_n(&mm->slab, __ATOMIC_ACQUIRE);
}

int kmem_cache_init(struct mm *mm)
{
	return slab_state_get(mm) ? 0 : -errno;
}

static void pool_release(struct mm *mm, struct list_head *frames, const struct slab_frame *keep)
{
	struct list_head *pos;
	struct list_head *next;

	list_for_each_safe(pos, next, frames)
	{
		struct slab_frame *frame = list_entry(pos, struct slab_frame, list);

		if (frame != keep)
			frame_release(mm, frame);
	}
}

uint64_t kmem_cache_exit(struct mm *mm)
{
	struct slab_state *state = mm->slab;
	struct slab_frame *home;
	struct list_head *pos;
	uint64_t leaked = 0;
	unsigned int nid;
	unsigned int type;

	if (!state)
		return 0;
	mm_unregister_shrinker(mm, &state->shrinker);
	list_for_each(pos, &state->caches)
	{
		struct kmem_cache *cache = list_entry(pos, struct kmem_cache, list);

		if (cache == state->cache_cache || cache == state->sheaf_cache[SHEAF_SMALL] ||
		    cache == state->sheaf_cache[SHEAF_LARGE])
			continue;
		slab_drain_sheaves(cache, NULL);
		leaked += slab_report_leaks(cache);
	}
	leaked += state->nr_large;
	if (state->nr_large)
		mm_message(mm, "slab: kmalloc blocks of whole frames still allocated: %llu",
			   (unsigned long long)state->nr_large);
	state_destroy(state);
	home = slab_frame_of(state);
	for_each_node (mm, nid) {
		for (type = 0; type < NR_SLAB_FRAME_TYPES; type++)
			pool_release(mm, &state->pool[nid].partial[type], home);
		pool_release(mm, &state->pool[nid].full, home);
	}
	mm->slab = NULL;
	frame_release(mm, home);
	return leaked;
}

uint64_t kmem_cache_frames(struct mm *mm)
{
	const struct slab_state *state = __atomic_load_n(&mm->slab, __ATOMIC_ACQUIRE);
	uint64_t frames = 0;
	unsigned int nid;

	if (!state)
		return 0;
	for_each_node (mm, nid)
		frames += __atomic_load_n(&state->pool[nid].nr_frames, __ATOMIC_RELAXED);
	return frames;
}
