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
#include "vmm/owner/ledger.h"
#include "vmm/owner/pool.h"

#define POOL_BATCH 512 /* frames handed to the allocator in one call */

/* PRESENT_BAD: in quarantine or marked for it, which the next owner has to know. */
enum { PRESENT = 1, PRESENT_BAD = 2 };

struct pool_node {
	int host_nid;
	struct backing *backing;    /* NULL: metadata only */
	uint64_t capacity;          /* frames that it may have */
	uint64_t spanned;           /* the same, or twice: once for each part */
	uint64_t movable;           /* of these, at the end, for ZONE_MOVABLE */
	uint64_t present[NR_PARTS]; /* frames in the allocator */
	uint8_t *present_map;       /* per frame: PRESENT, PRESENT_BAD, or 0 */
	uint32_t *owner;            /* per frame: id of the client that holds it, 0 for none */
	bool cpuless;               /* the host's node has memory only */
	uint64_t owed;              /* frames kept for clients, see pool_keep() */
	uint64_t *phys_pfn;         /* per frame: host physical frame number, 0 if not known */
};

#define POOL_SETTINGS_MAX 32

struct pool_setting {
	char name[32];
	unsigned int index;
	uint64_t value;
};

struct pool {
	struct pool_config config;
	struct hugepages hugepages;
	bool hugepages_ready;
	bool hugetlb;
	uint64_t max_frames;
	uint64_t raised;     /* hugepages added to the host's, as of the last change of size */
	uint64_t committed;  /* frames that VMs may hold, all together */
	uint64_t guaranteed; /* of these, never to be taken away */
	uint64_t unclaimed;  /* of these, not held yet */
	struct pool_setting set[POOL_SETTINGS_MAX]; /* what the user said, in this order */
	unsigned int nr_set;

	struct ledger *ledger; /* owner and present_map of the nodes are in it; NULL: none */
	bool adopted;          /* from an owner that died */
	bool leave;

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
	/* Memory is coming or going: the nodes' files and the allocator may differ. Main thread. */
	bool changing;
	uint64_t changes;                       /* see pool_changes() */
	_Atomic uint64_t work_done, work_total; /* frames of that */

	/* The zeroing thread works under zero_lock; zero_pause asks it to stay away from it. */
	pthread_t zero_thread;
	bool zero_started;
	pthread_mutex_t zero_lock;
	sem_t zero_wanted;
	atomic_uint zero_pause;
	atomic_bool zero_stop;

	struct page *batch[POOL_BATCH];
};

/* pool_span.c. Main thread, except pool_each_absent(), which only looks. */
void pool_part_bounds(const struct pool_node *node, enum pool_part part, uint64_t *start,
		      uint64_t *end);
enum pool_part pool_frame_part(const struct pool_node *node, uint64_t idx);
/* Frames that the part could still get. */
uint64_t pool_part_left(const struct pool_node *node, enum pool_part part);
/* Calls fn for the runs of absent frames that this growth takes, always in the same order, until
 * it returns a negative number, which is returned. */
int pool_each_absent(struct pool *pool, const struct pool_growth *growth,
		     int (*fn)(void *opaque, const struct frame_run *run), void *opaque);
/* Filled frames into the allocator, free ones out of it (-EBUSY if one is not). At rest. */
int pool_online_run(struct pool *pool, const struct frame_run *run, bool zeroed);
int pool_offline_run(struct pool *pool, const struct frame_run *run);
bool pool_has_movable(const struct pool *pool);
/* Of frames more, how many keep the pool's share of ZONE_MOVABLE as it was configured. */
uint64_t pool_movable_share(const struct pool *pool, uint64_t frames);
uint64_t pool_node_present(const struct pool_node *node);
uint64_t pool_present(const struct pool *pool, enum pool_part part);

/* pool_adopt.c */
/* The tables of the nodes, in a new ledger if there is to be one. */
int pool_create_tables(struct pool *pool, struct error *err);
void pool_destroy_tables(struct pool *pool);
/* The pool of the ledger that was just opened. 0 or a negative errno with err set. */
int pool_adopt(struct pool *pool, const struct host *host, struct error *err);
/* The file of the i-th node, from one of the VMs. */
int pool_adopt_backing(struct pool *pool, unsigned int i, int host_nid, struct error *err);
/* Backings without memory yet, and the allocator. */
int pool_create_memory(struct pool *pool, bool hugetlb, struct error *err);

/* There may be frames to zero. */
void pool_zero_kick(struct pool *pool);

/* pool_numa.c: what allocations without special rights can get of a node; and what can leave it:
 * frames that are isolated, too, which is what they are isolated for. */
uint64_t pool_to_be_had(struct pool *pool, unsigned int nid);
uint64_t pool_to_be_taken_out(struct pool *pool, unsigned int nid);

/* Frames that VMs can be promised at most. */
uint64_t pool_limit(const struct pool *pool);
/* Puts the pool's defaults and what the user set into a new allocator. */
void pool_settings_apply(struct pool *pool);

/*
 * A larger pool keeps more in reserve, so what is missing grows by that, and so on: whoever finds
 * missing with *reserve goes on until this says that it suffices for a pool of so many frames more.
 */
bool pool_reserve_grows(struct pool *pool, uint64_t missing, uint64_t *reserve);

/* Frames that would have to be added for ram_frames more; 0 if they fit. */
uint64_t pool_missing(struct pool *pool, uint64_t ram_frames);

#endif
