/* SPDX-License-Identifier: MIT */
/* Reserves of elements: see framevisor/mempool.h for the promise and how it is kept. */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "framevisor/clock.h"
#include "framevisor/mempool.h"
#include "mm/internal.h"

/* Memory may also become free without anybody giving an element back: look now and then. */
#define MEMPOOL_RETRY_NS 100000000

/* The reserve is the plan for failure, so the callback is not to go to extremes. */
#define MEMPOOL_GFP (__GFP_NOMEMALLOC | __GFP_NORETRY | __GFP_NOWARN)

/* The ready-made kinds: pool_data is the pool itself, except for slab pools. */
static void *alloc_page_element(gfp_t gfp, void *pool_data)
{
	const mempool_t *pool = pool_data;

	return mm_alloc_pages(pool->mm, gfp, (unsigned int)pool->param);
}

static void free_page_element(void *element, void *pool_data)
{
	const mempool_t *pool = pool_data;

	mm_free_pages(pool->mm, element, (unsigned int)pool->param);
}

static void *alloc_kmalloc_element(gfp_t gfp, void *pool_data)
{
	const mempool_t *pool = pool_data;

	return mm_kmalloc(pool->mm, pool->param, gfp);
}

static void free_kmalloc_element(void *element, void *pool_data)
{
	const mempool_t *pool = pool_data;

	mm_kfree(pool->mm, element);
}

static void *alloc_slab_element(gfp_t gfp, void *pool_data)
{
	return kmem_cache_alloc(pool_data, gfp);
}

static void free_slab_element(void *element, void *pool_data)
{
	kmem_cache_free(pool_data, element);
}

static void free_elements(mempool_t *pool, void **elements, unsigned int nr)
{
	while (nr)
		pool->free(elements[--nr], pool->pool_data);
}

/* Fills elements[from, to), all or nothing. */
static int fill_elements(mempool_t *pool, void **elements, unsigned int from, unsigned int to)
{
	unsigned int i;

	for (i = from; i < to; i++) {
		elements[i] =
			pool->alloc(GFP_KERNEL | __GFP_NOWARN | __GFP_NORETRY, pool->pool_data);
		if (!elements[i]) {
			free_elements(pool, elements + from, i - from);
			return -ENOMEM;
		}
	}
	return 0;
}

/* The callbacks, mm, pool_data, param and perhaps elements are set. */
static int pool_start(mempool_t *pool, unsigned int min_nr)
{
	pthread_condattr_t attr;
	int ret;

	if (min_nr == 0 || !pool->alloc || !pool->free)
		return -EINVAL;
	pool->own_elements = !pool->elements;
	if (pool->own_elements)
		pool->elements =
			mm_kmalloc(pool->mm, min_nr * sizeof(pool->elements[0]), GFP_KERNEL);
	if (!pool->elements)
		return -ENOMEM;
	ret = fill_elements(pool, pool->elements, 0, min_nr);
	if (ret) {
		if (pool->own_elements)
			mm_kfree(pool->mm, pool->elements);
		return ret;
	}
	pool->min_nr = min_nr;
	pool->curr_nr = min_nr;
	pthread_mutex_init(&pool->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&pool->wait, &attr);
	pthread_condattr_destroy(&attr);
	return 0;
}

int mempool_init(mempool_t *pool, struct mm *mm, unsigned int min_nr, mempool_alloc_t alloc_fn,
		 mempool_free_t free_fn, void *pool_data)
{
	*pool = (mempool_t){ .mm = mm, .alloc = alloc_fn, .free = free_fn, .pool_data = pool_data };
	return pool_start(pool, min_nr);
}

int mempool_init_page_pool(mempool_t *pool, struct mm *mm, unsigned int min_nr, void **elements,
			   unsigned int order)
{
	*pool = (mempool_t){ .mm = mm,
			     .elements = elements,
			     .param = order,
			     .alloc = alloc_page_element,
			     .free = free_page_element };
	pool->pool_data = pool;
	return order > MAX_ORDER ? -EINVAL : pool_start(pool, min_nr);
}

void mempool_exit(mempool_t *pool)
{
	if (pool->curr_nr < pool->min_nr)
		mm_message(pool->mm, "mempool: %u elements of the reserve are still in use",
			   pool->min_nr - pool->curr_nr);
	free_elements(pool, pool->elements, pool->curr_nr);
	if (pool->own_elements)
		mm_kfree(pool->mm, pool->elements);
	pthread_cond_destroy(&pool->wait);
	pthread_mutex_destroy(&pool->lock);
}

/* A kmalloc'ed pool from what shape has set; pool_data NULL means the pool itself if self. */
static mempool_t *pool_create(const mempool_t *shape, unsigned int min_nr, bool self)
{
	mempool_t *pool = mm_kmalloc(shape->mm, sizeof(*pool), GFP_KERNEL);
	int ret;

	if (!pool) {
		errno = ENOMEM;
		return NULL;
	}
	*pool = *shape;
	if (self)
		pool->pool_data = pool;
	ret = pool_start(pool, min_nr);
	if (ret) {
		mm_kfree(shape->mm, pool);
		errno = -ret;
		return NULL;
	}
	return pool;
}

mempool_t *mempool_create(struct mm *mm, unsigned int min_nr, mempool_alloc_t alloc_fn,
			  mempool_free_t free_fn, void *pool_data)
{
	const mempool_t shape = {
		.mm = mm, .alloc = alloc_fn, .free = free_fn, .pool_data = pool_data
	};

	return pool_create(&shape, min_nr, false);
}

mempool_t *mempool_create_page_pool(struct mm *mm, unsigned int min_nr, unsigned int order)
{
	const mempool_t shape = {
		.mm = mm, .alloc = alloc_page_element, .free = free_page_element, .param = order
	};

	if (order > MAX_ORDER) {
		errno = EINVAL;
		return NULL;
	}
	return pool_create(&shape, min_nr, true);
}

mempool_t *mempool_create_slab_pool(struct mm *mm, unsigned int min_nr, struct kmem_cache *cache)
{
	const mempool_t shape = {
		.mm = mm, .alloc = alloc_slab_element, .free = free_slab_element, .pool_data = cache
	};

	return pool_create(&shape, min_nr, false);
}

mempool_t *mempool_create_kmalloc_pool(struct mm *mm, unsigned int min_nr, size_t size)
{
	const mempool_t shape = { .mm = mm,
				  .alloc = alloc_kmalloc_element,
				  .free = free_kmalloc_element,
				  .param = size };

	return pool_create(&shape, min_nr, true);
}

void mempool_destroy(mempool_t *pool)
{
	struct mm *mm;

	if (!pool)
		return;
	mm = pool->mm;
	mempool_exit(pool);
	mm_kfree(mm, pool);
}

/* With the lock held. */
static void *take_reserved(mempool_t *pool)
{
	unsigned int nr = pool->curr_nr;

	if (!nr)
		return NULL;
	__atomic_store_n(&pool->curr_nr, nr - 1, __ATOMIC_RELAXED);
	return pool->elements[nr - 1];
}

/* With the lock held: until an element comes back, or it is time to look elsewhere. */
static void *wait_reserved(mempool_t *pool)
{
	const struct timespec until = deadline_after(MEMPOOL_RETRY_NS);
	void *element = take_reserved(pool);
	int ret = 0;

	while (!element && ret == 0) {
		ret = pthread_cond_timedwait(&pool->wait, &pool->lock, &until);
		element = take_reserved(pool);
	}
	return element;
}

void *mempool_alloc(mempool_t *pool, gfp_t gfp)
{
	gfp_t full = (gfp & ~(__GFP_NOFAIL | __GFP_ZERO)) | MEMPOOL_GFP;
	void *element = pool->alloc(full & ~(__GFP_DIRECT_RECLAIM | __GFP_IO), pool->pool_data);

	if (likely(element != NULL))
		return element;
	for (;;) {
		pthread_mutex_lock(&pool->lock);
		element = take_reserved(pool);
		pthread_mutex_unlock(&pool->lock);
		if (element || !(gfp & __GFP_DIRECT_RECLAIM))
			return element;
		element = pool->alloc(full, pool->pool_data);
		if (element)
			return element;
		pthread_mutex_lock(&pool->lock);
		element = wait_reserved(pool);
		pthread_mutex_unlock(&pool->lock);
		if (element)
			return element;
	}
}

void mempool_free(void *element, mempool_t *pool)
{
	if (!element)
		return;
	/*
	 * Without the lock: whoever took this element out of the reserve lowered curr_nr before the
	 * element came here, so a reserve that needs it is seen. Reading a number that is too low
	 * only costs the lock; one that is too high cannot be, but for a reserve that others fill.
	 */
	if (__atomic_load_n(&pool->curr_nr, __ATOMIC_ACQUIRE) <
	    __atomic_load_n(&pool->min_nr, __ATOMIC_RELAXED)) {
		pthread_mutex_lock(&pool->lock);
		if (pool->curr_nr < pool->min_nr) {
			pool->elements[pool->curr_nr] = element;
			__atomic_store_n(&pool->curr_nr, pool->curr_nr + 1, __ATOMIC_RELEASE);
			pthread_cond_signal(&pool->wait);
			element = NULL;
		}
		pthread_mutex_unlock(&pool->lock);
	}
	if (element)
		pool->free(element, pool->pool_data);
}

static void shrink(mempool_t *pool, unsigned int min_nr)
{
	pthread_mutex_lock(&pool->lock);
	__atomic_store_n(&pool->min_nr, min_nr, __ATOMIC_RELAXED);
	while (pool->curr_nr > min_nr) {
		void *element = take_reserved(pool);

		pthread_mutex_unlock(&pool->lock);
		pool->free(element, pool->pool_data);
		pthread_mutex_lock(&pool->lock);
	}
	pthread_mutex_unlock(&pool->lock);
}

static int grow(mempool_t *pool, unsigned int min_nr)
{
	unsigned int more = min_nr - pool->min_nr;
	void **elements = mm_kmalloc(pool->mm, min_nr * sizeof(elements[0]), GFP_KERNEL);
	void **old = NULL;
	unsigned int i;

	if (!elements)
		return -ENOMEM;
	/* The new ones first, at the end of the new array, where they are out of the way. */
	if (fill_elements(pool, elements, min_nr - more, min_nr)) {
		mm_kfree(pool->mm, elements);
		return -ENOMEM;
	}
	pthread_mutex_lock(&pool->lock);
	old = pool->elements;
	memcpy(elements, old, pool->curr_nr * sizeof(elements[0]));
	for (i = 0; i < more; i++)
		elements[pool->curr_nr + i] = elements[min_nr - more + i];
	pool->elements = elements;
	__atomic_store_n(&pool->min_nr, min_nr, __ATOMIC_RELAXED);
	__atomic_store_n(&pool->curr_nr, pool->curr_nr + more, __ATOMIC_RELEASE);
	pthread_cond_broadcast(&pool->wait);
	pthread_mutex_unlock(&pool->lock);
	mm_kfree(pool->mm, old);
	return 0;
}

int mempool_resize(mempool_t *pool, unsigned int min_nr)
{
	if (min_nr == 0 || (min_nr > pool->min_nr && !pool->own_elements))
		return -EINVAL;
	if (min_nr > pool->min_nr)
		return grow(pool, min_nr);
	shrink(pool, min_nr);
	return 0;
}

unsigned int mempool_reserved(mempool_t *pool)
{
	return __atomic_load_n(&pool->curr_nr, __ATOMIC_RELAXED);
}
