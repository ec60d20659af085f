/* SPDX-License-Identifier: MIT */
/* What the files of the pool share; see pool.h. */
#ifndef VMM_OWNER_POOL_PRIVATE_H
#define VMM_OWNER_POOL_PRIVATE_H

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

#include "framevisor/backing.h"
#include "framevisor/page_alloc.h"
#include "vmm/owner/host.h"
#include "vmm/owner/hugepages.h"
#include "vmm/owner/pool.h"

#define POOL_BATCH 512 /* frames handed to the allocator in one call */

struct pool_node {
	int host_nid;
	struct backing *backing; /* NULL: metadata only */
	uint64_t spanned;
	uint64_t filled;    /* frames [0, filled) are populated and present */
	uint32_t *owner;    /* per frame: id of the client that holds it, 0 for none */
	uint64_t *phys_pfn; /* per frame: host physical frame number, 0 if not known */
};

struct pool {
	struct pool_config config;
	struct hugepages hugepages;
	bool hugepages_ready;
	bool hugetlb;
	uint64_t max_frames;
	uint64_t raised; /* hugepages added to the host's, as of the last growth */
	uint64_t committed;

	unsigned int nr_nodes;
	struct pool_node node[OWNER_NODES_MAX];
	uint8_t distance[OWNER_NODES_MAX][OWNER_NODES_MAX];

	struct mm *mm;
	void *metadata;
	size_t metadata_size;

	/* Why the last fill failed; written by its thread, read after that has been joined. */
	struct error fill_error;
	bool memory_short; /* the machine lacks memory of any kind, not only hugepages */
	atomic_bool cancel;

	/* The zeroing thread works under zero_lock; zero_pause asks it to stay away from it. */
	pthread_t zero_thread;
	bool zero_started;
	pthread_mutex_t zero_lock;
	sem_t zero_wanted;
	atomic_uint zero_pause;
	atomic_bool zero_stop;

	struct page *batch[POOL_BATCH];
};

/* The allocator at rest: no frame is between two lists because it is being zeroed. */
void pool_quiesce(struct pool *pool);
void pool_resume(struct pool *pool);

/* There may be frames to zero. */
void pool_zero_kick(struct pool *pool);

/* Frames that would have to be added for ram_frames more; 0 if they fit. */
uint64_t pool_missing(struct pool *pool, uint64_t ram_frames);

#endif
