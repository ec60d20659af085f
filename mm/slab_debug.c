/* SPDX-License-Identifier: MIT */
/*
 * Finding broken objects: red zones around them, poison in free ones, who had them last; and the
 * reports. The stride of a debug cache is
 *
 *   left red zone | object | right red zone | size asked for | tracks: allocated, freed
 *
 * The right red zone starts where the size asked for ends (kmalloc gives larger objects). Caches
 * with these flags have no sheaves, so the free bitmap tells the truth about each object.
 */
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "framevisor/clock.h"
#include "mm/slab_internal.h"

#define RED_INACTIVE 0xbb
#define RED_ACTIVE   0xcc

/* Leaked objects that a report names. */
#define LEAKS_NAMED 16

void slab_debug_layout(struct kmem_cache *cache)
{
	bool red = (cache->flags & SLAB_RED_ZONE) != 0;
	uint32_t end;

	cache->red_left = red ? cache->align : 0;
	end = (cache->red_left + cache->object_size + 7u) & ~7u;
	cache->red_end = red ? end + 8 : cache->red_left + cache->object_size;
	end = red ? end + 8 : end;
	cache->orig_offset = end;
	cache->track_offset = end + 8;
	cache->stride = end + 8;
	if (cache->flags & SLAB_STORE_USER)
		cache->stride += NR_TRACKS * (uint32_t)sizeof(struct slab_track);
}

static unsigned char *stride_start(const struct kmem_cache *cache, const void *object)
{
	return (unsigned char *)(uintptr_t)object - cache->red_left;
}

static uint32_t *orig_size(const struct kmem_cache *cache, const void *object)
{
	return (uint32_t *)(void *)(stride_start(cache, object) + cache->orig_offset);
}

static struct slab_track *tracks(const struct kmem_cache *cache, const void *object)
{
	return (struct slab_track *)(void *)(stride_start(cache, object) + cache->track_offset);
}

/* Bytes asked for, as far as it is known. */
size_t slab_orig_size(const struct kmem_cache *cache, const void *object)
{
	return cache->debug ? *orig_size(cache, object) : cache->object_size;
}

static void track_set(struct kmem_cache *cache, const void *object, enum slab_track_item item,
		      const void *caller)
{
	if (!(cache->flags & SLAB_STORE_USER))
		return;
	tracks(cache, object)[item] = (struct slab_track){
		.caller = (uintptr_t)caller,
		.when_ns = now_ns(),
		.tid = (int32_t)syscall(SYS_gettid),
		.cpu = sched_getcpu(),
	};
}

static bool poisoned(const struct kmem_cache *cache)
{
	return (cache->flags & SLAB_POISON) != 0 && !cache->ctor;
}

/* size: where the object ends for its user. */
static void red_zones_set(struct kmem_cache *cache, void *object, uint32_t size, int value)
{
	unsigned char *start = stride_start(cache, object);

	if (!(cache->flags & SLAB_RED_ZONE))
		return;
	memset(start, value, cache->red_left);
	memset(start + cache->red_left + size, value, cache->red_end - cache->red_left - size);
}

static void fill_free(struct kmem_cache *cache, void *object)
{
	red_zones_set(cache, object, cache->object_size, RED_INACTIVE);
	if (poisoned(cache)) {
		memset(object, POISON_FREE, cache->object_size - 1);
		((unsigned char *)object)[cache->object_size - 1] = POISON_END;
	}
}

/* Objects of a new slab, before the constructor. */
void slab_debug_init_object(struct kmem_cache *cache, void *object)
{
	*orig_size(cache, object) = cache->object_size;
	if (cache->flags & SLAB_STORE_USER)
		memset(tracks(cache, object), 0, NR_TRACKS * sizeof(struct slab_track));
	fill_free(cache, object);
}

/* The object's slab and its number in it, or NULL if there is none. */
static const struct slab *object_slab(struct mm *mm, const void *object)
{
	const struct slab_frame *frame = slab_frame_lookup(mm, object);
	const struct slab *slab = frame ? slab_of(object) : NULL;
	uint32_t offset;
	unsigned int index;

	if (!slab || !slab->cache)
		return NULL;
	offset = (uint32_t)((uintptr_t)object & (FRAME_SIZE - 1)) - slab->cache->red_left;
	index = object_index(slab->cache, offset - slab->objects);
	if (offset < slab->objects || index >= slab->nr_objects ||
	    slab_object(slab, index) != object)
		return NULL;
	return slab;
}

static void track_print(struct mm *mm, const struct slab_track *track, const char *what)
{
	if (!track->when_ns)
		return;
	mm_message(mm, "slab:   %s by %#llx, thread %d, cpu %d, %llu ms ago", what,
		   (unsigned long long)track->caller, track->tid, track->cpu,
		   (unsigned long long)((now_ns() - track->when_ns) / NS_PER_MS));
}

/* One line about what is wrong, and the object's history. cache is the one of the call. */
void slab_report(struct kmem_cache *cache, const void *object, const char *what, const void *caller)
{
	struct mm *mm = cache->mm;
	const struct slab *slab = object_slab(mm, object);

	__atomic_fetch_add(&cache->state->nr_errors, 1, __ATOMIC_RELAXED);
	if (slab && slab->cache != cache)
		mm_message(mm, "slab: cache %s: %s: object %p of cache %s, called from %p",
			   cache->name, what, object, slab->cache->name, caller);
	else
		mm_message(mm, "slab: cache %s: %s: object %p, called from %p", cache->name, what,
			   object, caller);
	if (slab && (slab->cache->flags & SLAB_STORE_USER)) {
		track_print(mm, &tracks(slab->cache, object)[TRACK_ALLOC], "allocated");
		track_print(mm, &tracks(slab->cache, object)[TRACK_FREE], "freed");
	}
}

/* First byte in [from, to) that is not value, or NULL. */
static const unsigned char *first_other(const unsigned char *from, const unsigned char *to,
					int value)
{
	for (; from < to; from++) {
		if (*from != value)
			return from;
	}
	return NULL;
}

static void report_byte(struct kmem_cache *cache, const void *object, const char *what,
			const unsigned char *at, const void *caller)
{
	char text[128];

	snprintf(text, sizeof(text), "%s (byte %+td is 0x%02x)", what,
		 at - (const unsigned char *)object, *at);
	slab_report(cache, object, text, caller);
}

static bool red_zones_ok(struct kmem_cache *cache, void *object, int value, const void *caller)
{
	const unsigned char *start = stride_start(cache, object);
	const unsigned char *body = object;
	const unsigned char *bad;
	uint32_t size = value == RED_ACTIVE ? *orig_size(cache, object) : cache->object_size;

	if (!(cache->flags & SLAB_RED_ZONE))
		return true;
	bad = first_other(start, body, value);
	if (bad) {
		report_byte(cache, object, "write before the object", bad, caller);
		return false;
	}
	/* A size that cannot be lies in the part that was overwritten. */
	if (size > cache->object_size)
		bad = (const unsigned char *)orig_size(cache, object);
	else
		bad = first_other(body + size, start + cache->red_end, value);
	if (bad)
		report_byte(cache, object, "write beyond the object", bad, caller);
	return !bad;
}

static bool free_poison_ok(struct kmem_cache *cache, void *object, const void *caller)
{
	const unsigned char *body = object;
	const unsigned char *last = body + cache->object_size - 1;
	const unsigned char *bad;

	if (!poisoned(cache))
		return true;
	bad = first_other(body, last, POISON_FREE);
	if (!bad && *last != POISON_END)
		bad = last;
	if (bad)
		report_byte(cache, object, "write after free", bad, caller);
	return !bad;
}

/* An intact object; broken ones on the way are reported and quarantined. */
void *slab_debug_alloc(struct kmem_cache *cache, gfp_t gfp, int nid, size_t size,
		       const void *caller)
{
	void *object;

	while (slab_take(cache, gfp, nid, &object, 1)) {
		struct kmem_cache_node *node = &cache->node[slab_frame_of(object)->nid];
		struct slab *slab = slab_of(object);

		if (red_zones_ok(cache, object, RED_INACTIVE, caller) &&
		    free_poison_ok(cache, object, caller)) {
			*orig_size(cache, object) = (uint32_t)size;
			red_zones_set(cache, object, (uint32_t)size, RED_ACTIVE);
			if (poisoned(cache))
				memset(object, POISON_INUSE, size);
			track_set(cache, object, TRACK_ALLOC, caller);
			return object;
		}
		spin_lock(&node->lock);
		slab_quarantine(
			slab, object_index(cache, (uint32_t)(stride_start(cache, object) -
							     (unsigned char *)slab_frame_of(slab)) -
							  slab->objects));
		spin_unlock(&node->lock);
	}
	return NULL;
}

/* An allocated object that is about to be free: false if it is broken. With the node's lock held.
 */
bool slab_debug_check_free(struct kmem_cache *cache, void *object, const void *caller)
{
	if (!red_zones_ok(cache, object, RED_ACTIVE, caller))
		return false;
	track_set(cache, object, TRACK_FREE, caller);
	*orig_size(cache, object) = cache->object_size;
	fill_free(cache, object);
	return true;
}

/* Another size for an allocated object, if it has room. */
bool slab_debug_resize(struct kmem_cache *cache, void *object, size_t size)
{
	if (size > cache->object_size)
		return false;
	if (cache->debug) {
		*orig_size(cache, object) = (uint32_t)size;
		red_zones_set(cache, object, (uint32_t)size, RED_ACTIVE);
	}
	return true;
}

static uint64_t report_slab_leaks(struct slab *slab, uint64_t named)
{
	struct kmem_cache *cache = slab->cache;
	uint64_t nr = 0;
	unsigned int i;

	for (i = 0; i < slab->nr_objects; i++) {
		void *object = slab_object(slab, i);

		if (map_test(slab->free_map, i) || map_test(slab_quarantine_map(slab), i))
			continue;
		if (named + nr < LEAKS_NAMED) {
			mm_message(cache->mm, "slab:   object %p", object);
			if (cache->flags & SLAB_STORE_USER)
				track_print(cache->mm, &tracks(cache, object)[TRACK_ALLOC],
					    "  allocated");
		}
		nr++;
	}
	return nr;
}

/* Objects that are still allocated, for a cache without objects in sheaves. Returns how many. */
uint64_t slab_report_leaks(struct kmem_cache *cache)
{
	uint64_t nr = 0;
	uint64_t named = 0;
	unsigned int nid;

	for_each_node (cache->mm, nid)
		nr += __atomic_load_n(&cache->node[nid].nr_inuse, __ATOMIC_RELAXED);
	if (!nr)
		return 0;
	mm_message(cache->mm, "slab: cache %s: %llu objects still allocated", cache->name,
		   (unsigned long long)nr);
	for_each_node (cache->mm, nid) {
		struct kmem_cache_node *node = &cache->node[nid];
		struct list_head *lists[] = { &node->partial, &node->full };
		struct list_head *pos;
		unsigned int i;

		spin_lock(&node->lock);
		for (i = 0; i < 2; i++) {
			list_for_each(pos, lists[i]) named +=
				report_slab_leaks(list_entry(pos, struct slab, list), named);
		}
		spin_unlock(&node->lock);
	}
	return nr;
}
