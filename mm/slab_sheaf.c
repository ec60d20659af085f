/* SPDX-License-Identifier: MIT */
/*
 * Sheaves: free objects of a cache on a CPU, in front of the slabs. Here is what happens when the
 * hit path (slab_rseq.h) finds none or no room: some are fetched from or put back into the slabs at
 * once, so that a node's lock is taken once for many objects.
 *
 * A sheaf is emptied for others (shrink, destroy) by putting the frozen stand-in in its place,
 * which sends every new arrival the slow way, and then making all sequences in progress on any CPU
 * start again (membarrier(2)): after that nobody is inside.
 */
#include <errno.h>
#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "mm/slab_internal.h"
#include "mm/slab_rseq.h"

/* Whether threads of this process have rseq, and it can be interrupted from outside. */
bool slab_rseq_usable(void)
{
#if SLAB_HAVE_RSEQ
	return __rseq_size != 0 &&
	       syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ, 0, 0) == 0;
#else
	return false;
#endif
}

static struct kmem_sheaf *sheaf_read(struct kmem_cache *cache, unsigned int cpu)
{
	return __atomic_load_n(&cache->sheaf[cpu], __ATOMIC_ACQUIRE);
}

/* The sheaf of this CPU under its lock, or NULL: without rseq. */
static struct kmem_sheaf *sheaf_trylock(struct kmem_cache *cache)
{
	struct kmem_sheaf *sheaf = sheaf_read(cache, mm_this_cpu(cache->mm));

	if (sheaf == &cache->state->frozen || !spin_trylock(&sheaf->lock))
		return NULL;
	return sheaf;
}

/* Others look at the size without the lock. */
static void sheaf_set_size(struct kmem_sheaf *sheaf, uint32_t size)
{
	__atomic_store_n(&sheaf->size, size, __ATOMIC_RELAXED);
}

static void *any_pop(struct kmem_cache *cache)
{
	struct kmem_sheaf *sheaf;
	void *object = NULL;

	if (cache->rseq_cpus)
		return sheaf_pop(cache);
	sheaf = sheaf_trylock(cache);
	if (sheaf) {
		if (sheaf->size) {
			object = sheaf_objects(sheaf)[sheaf->size - 1];
			sheaf_set_size(sheaf, sheaf->size - 1);
		}
		spin_unlock(&sheaf->lock);
	}
	return object;
}

static bool any_push(struct kmem_cache *cache, void *object)
{
	struct kmem_sheaf *sheaf;
	bool pushed = false;

	if (cache->rseq_cpus)
		return sheaf_push(cache, object);
	sheaf = sheaf_trylock(cache);
	if (sheaf) {
		pushed = sheaf->size < sheaf->capacity;
		if (pushed) {
			sheaf_objects(sheaf)[sheaf->size] = object;
			sheaf_set_size(sheaf, sheaf->size + 1);
		}
		spin_unlock(&sheaf->lock);
	}
	return pushed;
}

/* Which sheaf the calling thread would use now; beyond the instance's CPUs: none. */
static unsigned int sheaf_cpu(const struct kmem_cache *cache)
{
	int cpu;

	if (!cache->rseq_cpus)
		return mm_this_cpu(cache->mm);
	cpu = sched_getcpu();
	return cpu < 0 ? cache->mm->nr_cpus : (unsigned int)cpu;
}

/* Makes a sheaf for this CPU if there is none. False: still none. */
static bool sheaf_ensure(struct kmem_cache *cache, gfp_t gfp)
{
	struct slab_state *state = cache->state;
	unsigned int cpu = sheaf_cpu(cache);
	struct kmem_sheaf *sheaf;
	void *object;

	if (cpu >= cache->mm->nr_cpus)
		return false;
	if (sheaf_read(cache, cpu) != &state->frozen)
		return true;
	gfp = (gfp & ~(gfp_t)__GFP_NOFAIL) | __GFP_NOWARN;
	if (!slab_take(sheaf_cache_of(cache), gfp, NUMA_NO_NODE, &object, 1))
		return false;
	sheaf = object;
	*sheaf = (struct kmem_sheaf){ .capacity = cache->sheaf_capacity };
	pthread_mutex_lock(&cache->sheaf_lock);
	if (cache->sheaf[cpu] == &state->frozen) {
		__atomic_store_n(&cache->sheaf[cpu], sheaf, __ATOMIC_RELEASE);
		object = NULL;
	}
	pthread_mutex_unlock(&cache->sheaf_lock);
	if (object)
		slab_put(sheaf_cache_of(cache), &object, 1, NULL);
	return true;
}

/* Half a sheaf, of large ones less. */
static size_t sheaf_batch(const struct kmem_cache *cache)
{
	size_t half = cache->sheaf_capacity / 2;

	return half < SHEAF_BATCH_MAX ? half : SHEAF_BATCH_MAX - 1;
}

/* Nothing in this CPU's sheaf: fetches some from the slabs. */
void *slab_alloc_slow(struct kmem_cache *cache, gfp_t gfp, size_t orig_size, const void *caller)
{
	void *batch[SHEAF_BATCH_MAX];
	size_t nr = 1;

	if (cache->debug)
		return slab_debug_alloc(cache, gfp, NUMA_NO_NODE, orig_size, caller);
	if (cache->sheaf_capacity) {
		void *object = any_pop(cache);

		if (object)
			return object;
		if (sheaf_ensure(cache, gfp))
			nr = sheaf_batch(cache);
	}
	nr = slab_take(cache, gfp, NUMA_NO_NODE, batch, nr);
	if (!nr)
		return NULL;
	while (nr > 1 && any_push(cache, batch[nr - 1]))
		nr--;
	if (nr > 1)
		slab_put(cache, batch + 1, nr - 1, caller);
	return batch[0];
}

/* No room in this CPU's sheaf: puts half of it into the slabs, with the object. */
void slab_free_slow(struct kmem_cache *cache, void *object, const void *caller)
{
	void *batch[SHEAF_BATCH_MAX];
	size_t nr = 0;

	if (cache->debug) {
		slab_put(cache, &object, 1, caller);
		return;
	}
	if (cache->sheaf_capacity &&
	    (!cache->numa || slab_frame_of(object)->nid == slab_this_node(cache->mm))) {
		if (any_push(cache, object))
			return;
		/* No new frame for the sake of a free. */
		if (sheaf_ensure(cache, GFP_NOWAIT | __GFP_NO_GROW) && any_push(cache, object))
			return;
		while (nr < sheaf_batch(cache) && (batch[nr] = any_pop(cache)) != NULL)
			nr++;
	}
	batch[nr++] = object;
	slab_put(cache, batch, nr, caller);
}

/* All nr or none: returns nr or 0. */
size_t slab_alloc_batch(struct kmem_cache *cache, gfp_t gfp, size_t nr, void **objects)
{
	size_t got = 0;

	while (got < nr && (objects[got] = any_pop(cache)) != NULL)
		got++;
	while (got < nr) {
		size_t more = slab_take(cache, gfp, NUMA_NO_NODE, objects + got, nr - got);

		if (!more) {
			slab_free_batch(cache, got, objects, NULL);
			return 0;
		}
		got += more;
	}
	return nr;
}

void slab_free_batch(struct kmem_cache *cache, size_t nr, void **objects, const void *caller)
{
	size_t done = 0;

	if (!cache->numa && cache->sheaf_capacity) {
		while (done < nr && any_push(cache, objects[done]))
			done++;
	}
	slab_put(cache, objects + done, nr - done, caller);
}

static bool sheaves_freeze(struct kmem_cache *cache, struct kmem_sheaf *sheaf, unsigned int cpu)
{
	if (!cache->rseq_cpus) {
		spin_lock(&sheaf->lock);
		return true;
	}
	__atomic_store_n(&cache->sheaf[cpu], &cache->state->frozen, __ATOMIC_SEQ_CST);
	/* Pairs with the load of the sheaf's address inside the sequence. */
	return syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ,
		       MEMBARRIER_CMD_FLAG_CPU, cpu) == 0 ||
	       syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ, 0, 0) == 0;
}

static void sheaves_thaw(struct kmem_cache *cache, struct kmem_sheaf *sheaf, unsigned int cpu)
{
	if (!cache->rseq_cpus)
		spin_unlock(&sheaf->lock);
	else
		__atomic_store_n(&cache->sheaf[cpu], sheaf, __ATOMIC_RELEASE);
}

/* Puts the objects of all CPUs' sheaves back into the slabs. Adds to *frames how many that freed.
 */
void slab_drain_sheaves(struct kmem_cache *cache, uint64_t *frames)
{
	unsigned int cpu;

	pthread_mutex_lock(&cache->sheaf_lock);
	for (cpu = 0; cpu < cache->mm->nr_cpus; cpu++) {
		struct kmem_sheaf *sheaf = cache->sheaf[cpu];

		if (sheaf == &cache->state->frozen ||
		    __atomic_load_n(&sheaf->size, __ATOMIC_RELAXED) == 0)
			continue;
		if (sheaves_freeze(cache, sheaf, cpu)) {
			slab_put_counted(cache, sheaf_objects(sheaf), sheaf->size, NULL, frames);
			sheaf_set_size(sheaf, 0);
		}
		sheaves_thaw(cache, sheaf, cpu);
	}
	pthread_mutex_unlock(&cache->sheaf_lock);
}

/* Objects in sheaves; a momentary number while others work. */
uint64_t slab_sheaf_objects(const struct kmem_cache *cache)
{
	uint64_t nr = 0;
	unsigned int cpu;

	for (cpu = 0; cpu < cache->mm->nr_cpus; cpu++) {
		const struct kmem_sheaf *sheaf =
			__atomic_load_n(&cache->sheaf[cpu], __ATOMIC_ACQUIRE);

		nr += __atomic_load_n(&sheaf->size, __ATOMIC_RELAXED);
	}
	return nr;
}

/* For a cache that nobody uses any more, drained before. */
void slab_free_sheaves(struct kmem_cache *cache)
{
	unsigned int cpu;

	for (cpu = 0; cpu < cache->mm->nr_cpus; cpu++) {
		void *sheaf = cache->sheaf[cpu];

		if (sheaf == &cache->state->frozen)
			continue;
		cache->sheaf[cpu] = &cache->state->frozen;
		slab_put(sheaf_cache_of(cache), &sheaf, 1, NULL);
	}
}
