/* SPDX-License-Identifier: MIT */
/*
 * Pools that keep their promise when memory is exhausted: min_nr elements lie in reserve, and an
 * allocation that may sleep waits for one to come back instead of failing. An element is a block of
 * frames, an object of a kmem_cache, kmalloc memory, or whatever two callbacks make.
 *
 * An allocation tries the callback first without waiting, then the reserve, then the callback with
 * what gfp allows, then waits. A free fills the reserve before anything else. So as long as each
 * user gives its element back without needing another, min_nr users always make progress.
 *
 * All calls are thread safe except init, exit, create and destroy.
 */
#ifndef FRAMEVISOR_MEMPOOL_H
#define FRAMEVISOR_MEMPOOL_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

#include "framevisor/gfp.h"
#include "framevisor/page_alloc.h"
#include "framevisor/slab.h"

/* NULL when there is none. May be called by several threads at once, never with the pool locked. */
typedef void *(*mempool_alloc_t)(gfp_t gfp, void *pool_data);
typedef void (*mempool_free_t)(void *element, void *pool_data);

typedef struct mempool {
	pthread_mutex_t lock;
	pthread_cond_t wait; /* an element came into the reserve */
	unsigned int min_nr;
	unsigned int curr_nr; /* elements in reserve */
	void **elements;
	bool own_elements; /* the array is kmalloc'ed */
	void *pool_data;
	mempool_alloc_t alloc;
	mempool_free_t free;
	struct mm *mm;
	size_t param; /* of the ready-made kinds: order or size */
} mempool_t;

/*
 * Prepares a pool in the caller's memory and fills the reserve (GFP_KERNEL); its array of min_nr
 * pointers is kmalloc'ed from mm. Returns 0, -EINVAL (min_nr 0 or no callback) or -ENOMEM, with
 * nothing left behind.
 */
int mempool_init(mempool_t *pool, struct mm *mm, unsigned int min_nr, mempool_alloc_t alloc_fn,
		 mempool_free_t free_fn, void *pool_data);
/* Blocks of 2^order frames (struct page *). elements is an array of min_nr pointers of the
 * caller's, so that this also works on metadata-only pools, or NULL for one that is kmalloc'ed. */
int mempool_init_page_pool(mempool_t *pool, struct mm *mm, unsigned int min_nr, void **elements,
			   unsigned int order);
/* Frees the reserve. Elements still in use are counted in a message, and are their users' to free
 * by other means than the pool. */
void mempool_exit(mempool_t *pool);

/* The same with the pool itself kmalloc'ed. NULL with errno. */
mempool_t *mempool_create(struct mm *mm, unsigned int min_nr, mempool_alloc_t alloc_fn,
			  mempool_free_t free_fn, void *pool_data);
mempool_t *mempool_create_page_pool(struct mm *mm, unsigned int min_nr, unsigned int order);
mempool_t *mempool_create_slab_pool(struct mm *mm, unsigned int min_nr, struct kmem_cache *cache);
mempool_t *mempool_create_kmalloc_pool(struct mm *mm, unsigned int min_nr, size_t size);
/* NULL is ignored. */
void mempool_destroy(mempool_t *pool);

/*
 * An element. With __GFP_DIRECT_RECLAIM in gfp never NULL, but it may sleep for as long as others
 * keep theirs; without it NULL when the reserve is empty. __GFP_ZERO is not allowed: elements from
 * the reserve are as they were freed.
 */
void *mempool_alloc(mempool_t *pool, gfp_t gfp);
/* NULL is ignored. */
void mempool_free(void *element, mempool_t *pool);

/*
 * Another promised minimum. Growing fills the reserve before it returns, or fails with -ENOMEM and
 * changes nothing; shrinking frees what is too much. -EINVAL: 0, or growing beyond an array that
 * the caller gave. One call at a time per pool.
 */
int mempool_resize(mempool_t *pool, unsigned int min_nr);

/* Elements in reserve; a momentary number. */
unsigned int mempool_reserved(mempool_t *pool);

#endif
