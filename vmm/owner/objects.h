/* SPDX-License-Identifier: MIT */
/*
 * The pool owner's own objects: records of VMs and of requests under way, tables whose length
 * follows the number of VMs or runs. They come from an instance of the frame allocator of their own
 * (framevisor/slab.h, framevisor/mempool.h), over ordinary memory of this process: reserved address
 * space, of which only the pages in use cost memory. The guests' pool has nothing to do with it.
 *
 *   one size          a struct object_cache, defined beside its structure and entered in the
 *                     table in objects.c; object_zalloc(), object_free()
 *   other sizes       kcalloc(), krealloc(), kfree() with GFP_OBJECTS: objects_init() makes the
 *                     instance the process's own (mm_use())
 *   elsewhere         what the owner has one of for all its life, tables with an entry per frame of
 *                     the pool (which are mapped, and mostly zero pages), and what libraries
 *                     allocate for themselves
 *
 * Threads: init and exit in the main thread, with no other one at work on objects; the rest in any.
 * No call waits for another one to free something.
 */
#ifndef VMM_OWNER_OBJECTS_H
#define VMM_OWNER_OBJECTS_H

#include <stddef.h>
#include <stdint.h>

#include "framevisor/error.h"
#include "framevisor/gfp.h"
#include "framevisor/mempool.h"
#include "framevisor/slab.h"

/* May give back what caches hold, and fails then: the owner's loop serves others meanwhile. */
#define GFP_OBJECTS (GFP_KERNEL | __GFP_NORETRY)

/*
 * reserve: so many are promised. They can be in use at once however short of memory the host is, as
 * their pages are there from the start; so it is what the owner needs to go on with what it has
 * begun, not for new work.
 */
struct object_cache {
	const char *name; /* as slabinfo shows it */
	size_t size;
	unsigned int reserve; /* at least 1 */

	/* From objects_init() to objects_exit(). */
	struct kmem_cache *cache;
	mempool_t *promised;
};
/* Clients that may come in spite of it, each with its notice channel. */
#define CLIENTS_PROMISED 4
#define OBJECT_CACHE(type, nr_reserved)                                              \
	{                                                                            \
		.name = #type, .size = sizeof(struct type), .reserve = (nr_reserved) \
	}

/*
 * Sets up the instance, the caches and their reserves, once per process at a time. The frame size
 * is decided (frame_use_shift()). Returns 0, or -ENOMEM with err set and nothing left behind.
 */
int objects_init(struct error *err);
/* Gives all of it back. Objects that are still in use are reported, one line of warning for each
 * cache and object; returns how many there were. Without objects_init(): 0. */
uint64_t objects_exit(void);

/* A zeroed object. NULL only when there is no memory and the reserve is in use. */
void *object_zalloc(struct object_cache *cache);
/* NULL is ignored. */
void object_free(struct object_cache *cache, void *object);

/* The instance, for reports and tests; NULL before objects_init(). */
struct mm *objects_mm(void);

#endif
