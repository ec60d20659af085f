/* SPDX-License-Identifier: MIT */
/*
 * Slabs of a cache on a node: making them, taking objects out and putting objects back, in batches.
 * Objects are taken from the fullest slabs first, so that others become empty.
 */
#include <string.h>

#include "mm/slab_asan.h"

/* Leftover bytes of a slab are used to start the objects of slab after slab at other cache lines.
 */
#define SLAB_COLOUR_STEP 64u

static uint32_t align_up(uint32_t value, uint32_t align)
{
	return (value + align - 1) & ~(align - 1);
}

/* Places the bitmaps and the objects in the slab's blocks; colour counts the cache's slabs. */
static void slab_lay_out(struct slab *slab, uint32_t colour)
{
	struct kmem_cache *cache = slab->cache;
	uint32_t start = slab->first_block ? slab->first_block * SLAB_BLOCK_SIZE
					   : (uint32_t)SLAB_FRAME_HEADER;
	uint32_t end = (slab->first_block + slab->nr_blocks) * SLAB_BLOCK_SIZE;
	uint32_t first = align_up(start, cache->align);
	uint32_t nr = (end - first) / cache->stride;
	uint32_t step = cache->align > SLAB_COLOUR_STEP ? cache->align : SLAB_COLOUR_STEP;

	slab->free_map = slab->inline_map;
	if (nr > 64) {
		slab->free_map = (void *)((char *)slab_frame_of(slab) + start);
		first = align_up(start + 2 * ((nr + 63) / 64) * (uint32_t)sizeof(uint64_t),
				 cache->align);
		nr = (end - first) / cache->stride;
	}
	if (nr)
		first += colour % ((end - first - nr * cache->stride) / step + 1) * step;
	slab->objects = first;
	slab->nr_objects = (uint16_t)nr;
}

static void slab_init(struct slab *slab, uint32_t colour)
{
	struct kmem_cache *cache = slab->cache;
	unsigned int words;
	unsigned int i;

	slab_lay_out(slab, colour);
	slab->inuse = 0;
	slab->quarantined = 0;
	slab->hint = 0;
	words = (slab->nr_objects + 63u) / 64;
	memset(slab->free_map, 0, (size_t)words * 2 * sizeof(uint64_t));
	for (i = 0; i < slab->nr_objects; i++)
		map_set(slab->free_map, i);
	for (i = 0; (cache->ctor || cache->debug) && i < slab->nr_objects; i++) {
		if (cache->debug)
			slab_debug_init_object(cache, slab_object(slab, i));
		if (cache->ctor)
			cache->ctor(slab_object(slab, i));
	}
	slab_asan_slab(slab);
}

/* A new slab of the cache on node nid or, if that has no frame and gfp allows, on another. */
static struct slab *slab_new(struct kmem_cache *cache, gfp_t gfp, unsigned int nid)
{
	uint32_t colour = __atomic_fetch_add(&cache->node[nid].next_colour, 1, __ATOMIC_RELAXED);
	struct slab *slab = slab_blocks_alloc(cache, gfp, nid);

	if (slab)
		slab_init(slab, colour);
	return slab;
}

/* The list a slab belongs on, by what is in it. With the node's lock held. */
static void slab_file(struct kmem_cache_node *node, struct slab *slab)
{
	if (slab->inuse + slab->quarantined == slab->nr_objects)
		list_move(&slab->list, &node->full);
	else if (slab->inuse == 0 && slab->quarantined == 0)
		list_move(&slab->list, &node->empty);
	else
		list_move(&slab->list, &node->partial);
}

/* Up to nr objects out of one slab. With the node's lock held. */
static size_t slab_take_objects(struct slab *slab, void **objects, size_t nr)
{
	unsigned int words = (slab->nr_objects + 63u) / 64;
	unsigned int word = slab->hint;
	size_t got = 0;

	for (; word < words && got < nr; word++) {
		uint64_t free_bits = slab->free_map[word];

		while (free_bits && got < nr) {
			unsigned int bit = (unsigned int)__builtin_ctzll(free_bits);

			objects[got++] = slab_object(slab, word * 64 + bit);
			free_bits &= free_bits - 1;
		}
		slab->free_map[word] = free_bits;
		slab->hint = (uint16_t)word;
	}
	slab->inuse = (uint16_t)(slab->inuse + got);
	return got;
}

/* Up to nr objects out of the slabs that the node has. */
static size_t node_take(struct kmem_cache_node *node, void **objects, size_t nr)
{
	size_t got = 0;

	spin_lock(&node->lock);
	while (got < nr) {
		struct slab *slab;
		size_t taken;

		if (!list_empty(&node->partial)) {
			slab = list_first_entry(&node->partial, struct slab, list);
		} else if (!list_empty(&node->empty)) {
			slab = list_first_entry(&node->empty, struct slab, list);
			node->nr_empty--;
		} else {
			break;
		}
		taken = slab_take_objects(slab, objects + got, nr - got);
		node->nr_inuse += taken;
		got += taken;
		slab_file(node, slab);
	}
	spin_unlock(&node->lock);
	return got;
}

static void node_add(struct kmem_cache_node *node, struct slab *slab)
{
	spin_lock(&node->lock);
	list_add(&slab->list, &node->empty);
	node->nr_empty++;
	node->nr_slabs++;
	node->nr_objects += slab->nr_objects;
	spin_unlock(&node->lock);
}

/*
 * Up to nr objects of node nid; at least one when there is memory, from another node if gfp allows.
 * Only the first justifies a new slab. Returns how many.
 */
size_t slab_take(struct kmem_cache *cache, gfp_t gfp, int nid, void **objects, size_t nr)
{
	unsigned int first = nid >= 0 ? (unsigned int)nid : slab_this_node(cache->mm);
	unsigned int other;
	size_t got = node_take(&cache->node[first], objects, nr);

	while (!got && !(gfp & __GFP_NO_GROW)) {
		struct slab *slab = slab_new(cache, gfp, first);
		struct kmem_cache_node *node;

		if (!slab)
			break;
		node = &cache->node[slab_frame_of(slab)->nid];
		node_add(node, slab);
		/* Sheaves are for the objects of their node. Others may have emptied the slab
		 * already: then again. */
		got = node_take(node, objects, node == &cache->node[first] ? nr : 1);
	}
	if (got || (gfp & __GFP_THISNODE))
		return got;
	for_each_node (cache->mm, other) {
		if (!got && other != first)
			got = node_take(&cache->node[other], objects, 1);
	}
	return got;
}

/* Takes an object out of circulation for good. With the node's lock held; on the right list after.
 */
void slab_quarantine(struct slab *slab, unsigned int index)
{
	struct kmem_cache_node *node = &slab->cache->node[slab_frame_of(slab)->nid];

	if (map_test(slab_quarantine_map(slab), index))
		return;
	map_set(slab_quarantine_map(slab), index);
	if (map_test(slab->free_map, index)) {
		if (slab->inuse == 0 && slab->quarantined == 0)
			node->nr_empty--;
		map_clear(slab->free_map, index);
	} else {
		slab->inuse--;
		node->nr_inuse--;
	}
	slab->quarantined++;
	node->nr_quarantined++;
	slab_file(node, slab);
}

/* Whether there is a slab where the object lies. Of any cache, or (*slab)->cache is NULL. */
static bool find_any_slab(const struct kmem_cache *cache, const void *object, struct slab **slab)
{
	if (cache->debug ? !slab_frame_lookup(cache->mm, object)
			 : !slab_frame_ok(slab_frame_of(object)))
		return false;
	*slab = slab_of(object);
	return true;
}

/*
 * If the object belongs to a cache other than the one it was given to: its user is done with it,
 * and nobody knows what else was done to it. Takes the lock of its own cache, so no other node's
 * lock is held: two threads with each other's objects would wait for each other.
 */
static void quarantine_stray(const struct kmem_cache *given, const void *object)
{
	struct kmem_cache_node *node;
	struct kmem_cache *cache;
	struct slab *slab;
	unsigned int index;
	uint32_t offset;

	if (!find_any_slab(given, object, &slab) || !slab->cache || slab->cache == given)
		return;
	cache = slab->cache;
	node = &cache->node[slab_frame_of(slab)->nid];
	offset = (uint32_t)((uintptr_t)object & (FRAME_SIZE - 1)) - cache->red_left;
	index = object_index(cache, offset - slab->objects);
	if (offset < slab->objects || index >= slab->nr_objects ||
	    slab_object(slab, index) != object)
		return;
	spin_lock(&node->lock);
	slab_quarantine(slab, index);
	spin_unlock(&node->lock);
}

/*
 * The slab and the number of an object of the cache, or NULL, reported, if it is none. Checks what
 * can be checked without a lock. One of another cache is for quarantine_stray().
 */
struct slab *slab_find(struct kmem_cache *cache, const void *object, unsigned int *index,
		       const void *caller)
{
	uint32_t offset = (uint32_t)((uintptr_t)object & (FRAME_SIZE - 1)) - cache->red_left;
	struct slab *slab;
	unsigned int i;

	if (!find_any_slab(cache, object, &slab)) {
		slab_report(cache, object, "freed pointer is not in a slab", caller);
		return NULL;
	}
	if (slab->cache != cache) {
		slab_report(cache, object,
			    slab->cache ? "freed object is of another cache"
					: "freed pointer is not in a slab",
			    caller);
		return NULL;
	}
	i = object_index(cache, offset - slab->objects);
	if (offset < slab->objects || i >= slab->nr_objects || slab_object(slab, i) != object) {
		slab_report(cache, object, "freed pointer is not the start of an object", caller);
		return NULL;
	}
	*index = i;
	return slab;
}

/* One object back into its slab. With the node's lock held. */
static void put_object(struct kmem_cache_node *node, struct slab *slab, unsigned int index,
		       const void *caller)
{
	bool was_full;

	if (unlikely(map_test(slab->free_map, index) ||
		     map_test(slab_quarantine_map(slab), index))) {
		slab_report(slab->cache, slab_object(slab, index),
			    map_test(slab->free_map, index) ? "double free"
							    : "free of a quarantined object",
			    caller);
		slab_quarantine(slab, index);
		return;
	}
	if (slab->cache->debug &&
	    !slab_debug_check_free(slab->cache, slab_object(slab, index), caller)) {
		slab_quarantine(slab, index);
		return;
	}
	was_full = slab->inuse + slab->quarantined == slab->nr_objects;
	map_set(slab->free_map, index);
	if (index / 64 < slab->hint)
		slab->hint = (uint16_t)(index / 64);
	slab->inuse--;
	node->nr_inuse--;
	if (slab->inuse == 0 && slab->quarantined == 0)
		node->nr_empty++;
	else if (!was_full)
		return;
	slab_file(node, slab);
}

/* Empty slabs beyond max off the node's lists onto out. With the node's lock held. */
static void node_detach_empty(struct kmem_cache_node *node, uint32_t max, struct list_head *out)
{
	while (node->nr_empty > max) {
		struct slab *slab = list_last_entry(&node->empty, struct slab, list);

		list_move(&slab->list, out);
		node->nr_empty--;
		node->nr_slabs--;
		node->nr_objects -= slab->nr_objects;
	}
}

static uint64_t free_slabs(struct list_head *slabs, uint64_t *frames)
{
	uint64_t nr = 0;
	struct list_head *pos;
	struct list_head *next;

	list_for_each_safe(pos, next, slabs)
	{
		if (slab_blocks_free(list_entry(pos, struct slab, list)) && frames)
			(*frames)++;
		nr++;
	}
	return nr;
}

/*
 * Puts objects back into their slabs; those that are broken or foreign are reported and kept out.
 * Adds to *frames, if given, how many frames that freed.
 */
void slab_put_counted(struct kmem_cache *cache, void **objects, size_t nr, const void *caller,
		      uint64_t *frames)
{
	uint32_t max_empty = cache->nr_blocks > SLAB_MAX_EMPTY_BLOCKS ? 0 : SLAB_MAX_EMPTY;
	struct kmem_cache_node *locked = NULL;
	struct list_head empty;
	size_t i;

	list_init(&empty);
	for (i = 0; i < nr; i++) {
		struct kmem_cache_node *node;
		unsigned int index;
		struct slab *slab = slab_find(cache, objects[i], &index, caller);

		if (unlikely(!slab)) {
			if (locked)
				spin_unlock(&locked->lock);
			locked = NULL;
			quarantine_stray(cache, objects[i]);
			continue;
		}
		node = &cache->node[slab_frame_of(slab)->nid];
		if (!locked || node != locked) {
			if (locked)
				spin_unlock(&locked->lock);
			spin_lock(&node->lock);
			locked = node;
		}
		put_object(node, slab, index, caller);
		if (unlikely(node->nr_empty > max_empty))
			node_detach_empty(node, max_empty, &empty);
	}
	if (locked)
		spin_unlock(&locked->lock);
	free_slabs(&empty, frames);
}

void slab_put(struct kmem_cache *cache, void **objects, size_t nr, const void *caller)
{
	slab_put_counted(cache, objects, nr, caller, NULL);
}

/* Orders partial slabs so that the fullest are used first: the emptiest may then become empty. */
#define SHRINK_BUCKETS 8u
static void node_sort_partial(struct kmem_cache_node *node)
{
	struct list_head buckets[SHRINK_BUCKETS];
	struct list_head *pos;
	struct list_head *next;
	unsigned int i;

	for (i = 0; i < SHRINK_BUCKETS; i++)
		list_init(&buckets[i]);
	list_for_each_safe(pos, next, &node->partial)
	{
		struct slab *slab = list_entry(pos, struct slab, list);

		i = slab->inuse * SHRINK_BUCKETS / (slab->nr_objects + 1u);
		list_move_tail(&slab->list, &buckets[SHRINK_BUCKETS - 1 - i]);
	}
	for (i = 0; i < SHRINK_BUCKETS; i++)
		list_splice_tail_init(&buckets[i], &node->partial);
}

/* All slabs of a cache that nobody uses any more, quarantined objects or not. */
void slab_release_all(struct kmem_cache *cache)
{
	struct list_head slabs;
	unsigned int nid;

	list_init(&slabs);
	for_each_node (cache->mm, nid) {
		struct kmem_cache_node *node = &cache->node[nid];

		spin_lock(&node->lock);
		list_splice_tail_init(&node->partial, &slabs);
		list_splice_tail_init(&node->full, &slabs);
		list_splice_tail_init(&node->empty, &slabs);
		spin_unlock(&node->lock);
	}
	free_slabs(&slabs, NULL);
}

/* Gives all empty slabs back. Returns how many; adds to *frames how many frames that freed. */
uint64_t slab_release_empty(struct kmem_cache *cache, uint64_t *frames)
{
	struct list_head empty;
	unsigned int nid;

	list_init(&empty);
	for_each_node (cache->mm, nid) {
		struct kmem_cache_node *node = &cache->node[nid];

		spin_lock(&node->lock);
		node_detach_empty(node, 0, &empty);
		node_sort_partial(node);
		spin_unlock(&node->lock);
	}
	return free_slabs(&empty, frames);
}
