/* SPDX-License-Identifier: MIT */
/*
 * The pool: host memory per NUMA node (framevisor/backing.h), the allocator over it
 * (framevisor/mm.h), and who holds which frame.
 *
 * Everything is called from the owner's main thread, except pool_grow_fill(), which may run in a
 * thread of its own while the main thread goes on serving, and the pool's own zeroing thread.
 */
#ifndef VMM_OWNER_POOL_H
#define VMM_OWNER_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "framevisor/error.h"
#include "framevisor/mm.h"
#include "framevisor/owner_client.h"
#include "framevisor/owner_protocol.h"

struct pool;

/* done and total in frames. Returning false gives up. */
typedef bool (*pool_progress_fn)(void *opaque, uint64_t done, uint64_t total);

struct pool_config {
	enum hugepages_mode hugepages;
	uint64_t size;      /* bytes of a pool of fixed size; 0: grows with the VMs */
	uint64_t max;       /* bytes that a growing pool may reach; 0: what the machine allows */
	uint64_t initial;   /* bytes of VMs that a growing pool has room for from the start */
	const char *record; /* path of the file that keeps what was reserved */
	pool_progress_fn progress;
	void *progress_opaque;

	/* Tests: metadata only, that many nodes of that many frames, all present. */
	unsigned int sim_nodes;
	uint64_t sim_frames;
};

/* Reserves and fills the memory of a fixed pool, or the initial part of a growing one. Returns NULL
 * with err set; nothing was left behind. */
struct pool *pool_create(const struct pool_config *config, struct error *err);
/* Gives everything back to the host, hugepages included. Processes that still map frames keep
 * them until they end. */
void pool_destroy(struct pool *pool);

/*
 * Admission. A VM is admitted when its whole RAM fits beside that of the others and the
 * allocator's reserves. Returns 0 (the frames are committed), -EAGAIN when the pool has to grow by
 * *missing frames first, or another negative errno with a sentence that has the numbers.
 */
int pool_admit(struct pool *pool, const char *name, uint64_t ram_frames, uint64_t *missing,
	       struct error *err);
void pool_release(struct pool *pool, uint64_t ram_frames);

/* Frames per node that pool_grow_fill() brought and pool_grow_finish() puts into the allocator. */
struct pool_growth {
	uint64_t nr[OWNER_NODES_MAX];
};

/*
 * Reserves and fills frames more. Any thread, one at a time. All or nothing: on failure err has the
 * numbers and the remedy. pool_grow_finish() runs in the main thread afterwards and needs the
 * same result; it may turn a failure into -EAGAIN: an empty pool that was to have hugepages if
 * possible was changed to ordinary memory, try again.
 */
int pool_grow_fill(struct pool *pool, uint64_t frames, struct pool_growth *growth,
		   struct error *err);
int pool_grow_finish(struct pool *pool, const struct pool_growth *growth, int result);
/* Makes a pool_grow_fill() in another thread end soon, with -ECANCELED. Any thread. */
void pool_grow_cancel(struct pool *pool);

/*
 * Takes up to nr zeroed frames for client id from the nodes of the mask (0: all), in runs as long
 * as possible. *nr_runs: room on entry, number on return. Returns the number of frames, 0 if there
 * are none. Fewer than asked when runs or the time for one request are used up.
 */
uint64_t pool_take(struct pool *pool, uint32_t id, uint64_t nr, uint64_t nodemask,
		   struct frame_run *runs, unsigned int *nr_runs);

/* Takes frames back from client id. All or nothing: -EPERM if it does not hold one of them, or
 * names one twice. The runs lie within the nodes' spans. */
int pool_give(struct pool *pool, uint32_t id, const struct frame_run *runs, unsigned int nr_runs);

/* Takes back whatever client id holds; its process is gone. Returns the number of frames. */
uint64_t pool_take_back(struct pool *pool, uint32_t id);

unsigned int pool_nr_nodes(const struct pool *pool);
uint64_t pool_spanned(const struct pool *pool, unsigned int nid); /* frames */
int pool_host_node(const struct pool *pool, unsigned int nid);
int pool_fd(const struct pool *pool, unsigned int nid); /* the pool's; -1: metadata only */
bool pool_hugetlb(const struct pool *pool);
struct mm *pool_mm(struct pool *pool);

struct pool_info {
	enum hugepages_mode hugepages; /* as asked */
	bool hugetlb;                  /* as it is */
	bool fixed;
	uint64_t max_frames; /* the pool's limit */
	uint64_t committed;  /* frames of RAM of the admitted VMs */
	uint64_t reserve;    /* frames kept for the allocator's watermarks */
	uint64_t raised;     /* hugepages that we added to the host's */
};
void pool_info(const struct pool *pool, struct pool_info *info);

/*
 * Counts of one node (nid < 0: all) with the zeroing thread at rest. *held (may be NULL) is
 * counted from the frames' owners.
 */
void pool_counts(struct pool *pool, int nid, struct mm_counts *counts, uint64_t *held);
/* Frames that client id holds, counted from the frames' owners. */
uint64_t pool_held(const struct pool *pool, uint32_t id);

/* Whether free + cached + held + quarantined = present in every node. Returns 0, or -EUCLEAN with
 * the contradiction in buf. */
int pool_check_conservation(struct pool *pool, char *buf, size_t len);
/* The same, after the allocator has checked itself. */
int pool_validate(struct pool *pool, char *buf, size_t len);

#endif
