/* SPDX-License-Identifier: MIT */
/* slabinfo in the kernel's format, and the check of everything against everything. */
#include <errno.h>
#include <stdio.h>

#include "mm/slab_internal.h"
#include "mm/text.h"

/* Objects in a slab that does not share its first block with a frame's header. */
static unsigned int objects_per_slab(const struct kmem_cache *cache)
{
	unsigned int bytes = cache->nr_blocks * SLAB_BLOCK_SIZE;
	unsigned int nr = bytes / cache->stride;
	unsigned int maps = (nr + 63) / 64 * 2 * (unsigned int)sizeof(uint64_t);

	if (nr <= 64)
		return nr;
	return (bytes - ((maps + cache->align - 1) & ~(cache->align - 1))) / cache->stride;
}

static void cache_line(struct text *text, struct kmem_cache *cache)
{
	uint64_t slabs = 0;
	uint64_t active_slabs = 0;
	uint64_t objects = 0;
	uint64_t inuse = 0;
	uint64_t idle = slab_sheaf_objects(cache);
	unsigned int nid;

	for_each_node (cache->mm, nid) {
		struct kmem_cache_node *node = &cache->node[nid];

		spin_lock(&node->lock);
		slabs += node->nr_slabs;
		active_slabs += node->nr_slabs - node->nr_empty;
		objects += node->nr_objects;
		inuse += node->nr_inuse;
		spin_unlock(&node->lock);
	}
	inuse -= idle < inuse ? idle : inuse;
	text_add(
		text,
		"%-17s %6llu %6llu %6u %4u %4u : tunables %4u %4u %4u : slabdata %6llu %6llu %6u\n",
		cache->name, (unsigned long long)inuse, (unsigned long long)objects, cache->stride,
		objects_per_slab(cache),
		cache->nr_blocks * (SLAB_BLOCK_SIZE / (unsigned int)GUEST_PAGE_SIZE),
		cache->sheaf_capacity, cache->sheaf_capacity / 2, 0u,
		(unsigned long long)active_slabs, (unsigned long long)slabs, 0u);
}

int mm_report_slabinfo(struct mm *mm, char *buf, size_t len)
{
	struct slab_state *state = __atomic_load_n(&mm->slab, __ATOMIC_ACQUIRE);
	struct text text = { .buf = buf, .len = len };
	struct list_head *pos;

	text_add(&text,
		 "slabinfo - version: 2.1\n"
		 "# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab>"
		 " : tunables <limit> <batchcount> <sharedfactor>"
		 " : slabdata <active_slabs> <num_slabs> <sharedavail>\n");
	if (!state)
		return (int)text.used;
	pthread_mutex_lock(&state->lock);
	list_for_each(pos, &state->caches)
		cache_line(&text, list_entry(pos, struct kmem_cache, list));
	pthread_mutex_unlock(&state->lock);
	return (int)text.used;
}

uint64_t mm_slab_errors(struct mm *mm)
{
	const struct slab_state *state = __atomic_load_n(&mm->slab, __ATOMIC_ACQUIRE);

	return state ? __atomic_load_n(&state->nr_errors, __ATOMIC_RELAXED) : 0;
}

/* What a walk over a node's slabs counted. */
struct walk {
	uint64_t slabs;
	uint64_t objects;
	uint64_t inuse;
	uint64_t quarantined;
	uint64_t empty;
};

/* NULL, or what is wrong with a slab. */
static const char *check_slab(const struct kmem_cache *cache, const struct slab *slab,
			      const struct slab_frame *frame)
{
	unsigned int free = 0;
	unsigned int quarantined = 0;
	unsigned int i;

	if (!slab_frame_ok(frame) || frame->state != cache->state)
		return "lies in a frame without header";
	if (slab->cache != cache)
		return "belongs to another cache";
	if (slab->nr_blocks != cache->nr_blocks || slab != &frame->slabs[slab->first_block])
		return "has a wrong place";
	for (i = 0; i < slab->nr_blocks; i++) {
		if (frame->slab_of_block[slab->first_block + i] != slab->first_block ||
		    frame->cache_of_block[slab->first_block + i] != cache ||
		    (frame->free_blocks >> (slab->first_block + i) & 1))
			return "has blocks that are not its own";
	}
	for (i = 0; i < slab->nr_objects; i++) {
		free += map_test(slab->free_map, i);
		quarantined += map_test(slab_quarantine_map(slab), i);
		if (map_test(slab->free_map, i) && map_test(slab_quarantine_map(slab), i))
			return "has an object both free and quarantined";
		if (map_test(slab->free_map, i) && i / 64 < slab->hint)
			return "has a free object before the hint";
	}
	if (slab->quarantined != quarantined)
		return "counts its quarantined objects wrongly";
	if (slab->inuse + free + quarantined != slab->nr_objects)
		return "counts its objects wrongly";
	return NULL;
}

static const char *check_list(const struct kmem_cache *cache, struct kmem_cache_node *node,
			      const struct list_head *list, struct walk *walk)
{
	const struct list_head *pos;

	list_for_each(pos, list)
	{
		const struct slab *slab = list_entry(pos, struct slab, list);
		const struct slab_frame *frame = slab_frame_of(slab);
		const char *wrong = check_slab(cache, slab, frame);
		bool full = slab->inuse + slab->quarantined == slab->nr_objects;
		bool empty = slab->inuse == 0 && slab->quarantined == 0;

		if (wrong)
			return wrong;
		if (node != &cache->node[frame->nid])
			return "is on the lists of another node";
		if (list != (full ? &node->full : empty ? &node->empty : &node->partial))
			return "is on the wrong list";
		walk->slabs++;
		walk->objects += slab->nr_objects;
		walk->inuse += slab->inuse;
		walk->quarantined += slab->quarantined;
		walk->empty += empty;
	}
	return NULL;
}

static const char *check_node(const struct kmem_cache *cache, struct kmem_cache_node *node,
			      uint64_t *inuse)
{
	struct walk walk = { 0 };
	const char *wrong;

	wrong = check_list(cache, node, &node->partial, &walk);
	if (!wrong)
		wrong = check_list(cache, node, &node->full, &walk);
	if (!wrong)
		wrong = check_list(cache, node, &node->empty, &walk);
	if (!wrong && (walk.slabs != node->nr_slabs || walk.objects != node->nr_objects ||
		       walk.inuse != node->nr_inuse || walk.quarantined != node->nr_quarantined ||
		       walk.empty != node->nr_empty))
		wrong = "does not add up to the node's counters";
	*inuse += walk.inuse;
	return wrong;
}

/* Objects in sheaves must be objects of the cache that are out of their slabs. */
static const char *check_sheaves(const struct kmem_cache *cache)
{
	unsigned int cpu;
	unsigned int i;

	for (cpu = 0; cpu < cache->mm->nr_cpus; cpu++) {
		const struct kmem_sheaf *sheaf = cache->sheaf[cpu];

		if (sheaf->size > sheaf->capacity)
			return "has a sheaf beyond its capacity";
		for (i = 0; i < sheaf->size; i++) {
			const struct slab *slab = slab_of(sheaf_objects(sheaf)[i]);
			uint32_t offset =
				(uint32_t)((uintptr_t)sheaf_objects(sheaf)[i] & (FRAME_SIZE - 1)) -
				slab->objects;

			if (slab->cache != cache)
				return "has a foreign object in a sheaf";
			if (map_test(slab->free_map, object_index(cache, offset)))
				return "has an object both in a sheaf and free in its slab";
		}
	}
	return NULL;
}

static const char *check_cache(struct kmem_cache *cache)
{
	const char *wrong = NULL;
	uint64_t inuse = 0;
	unsigned int nid;

	for (nid = 0; nid < cache->mm->nr_nodes && !wrong; nid++) {
		spin_lock(&cache->node[nid].lock);
		wrong = check_node(cache, &cache->node[nid], &inuse);
		spin_unlock(&cache->node[nid].lock);
	}
	if (!wrong)
		wrong = check_sheaves(cache);
	if (!wrong && slab_sheaf_objects(cache) > inuse)
		wrong = "has more objects in sheaves than out of slabs";
	return wrong;
}

static const char *check_pool(const struct slab_pool *pool, unsigned int nid)
{
	uint64_t nr = 0;
	unsigned int type;

	for (type = 0; type <= NR_SLAB_FRAME_TYPES; type++) {
		bool full = type == NR_SLAB_FRAME_TYPES;
		const struct list_head *list = full ? &pool->full : &pool->partial[type];
		const struct list_head *pos;

		list_for_each(pos, list)
		{
			const struct slab_frame *frame = list_entry(pos, struct slab_frame, list);

			nr++;
			if (!slab_frame_ok(frame) || frame->nid != nid ||
			    (!full && frame->type != type) || full != (frame->free_blocks == 0))
				return "frame of slabs on a wrong list";
			if (!page_test(frame->page, PAGE_FLAG(slab)))
				return "frame of slabs without PG_slab";
		}
	}
	return nr == pool->nr_frames ? NULL : "frames of slabs do not add up";
}

int mm_slab_validate(struct mm *mm, char *buf, size_t len)
{
	struct slab_state *state = __atomic_load_n(&mm->slab, __ATOMIC_ACQUIRE);
	const char *wrong = NULL;
	struct list_head *pos;
	unsigned int nid;

	if (len)
		buf[0] = '\0';
	if (!state)
		return 0;
	pthread_mutex_lock(&state->lock);
	list_for_each(pos, &state->caches)
	{
		struct kmem_cache *cache = list_entry(pos, struct kmem_cache, list);

		wrong = check_cache(cache);
		if (wrong) {
			snprintf(buf, len, "cache %s: a slab or the cache %s", cache->name, wrong);
			break;
		}
	}
	pthread_mutex_unlock(&state->lock);
	for (nid = 0; nid < mm->nr_nodes && !wrong; nid++) {
		spin_lock(&state->pool[nid].lock);
		wrong = check_pool(&state->pool[nid], nid);
		spin_unlock(&state->pool[nid].lock);
		if (wrong)
			snprintf(buf, len, "node %u: %s", nid, wrong);
	}
	return wrong ? -EUCLEAN : 0;
}
