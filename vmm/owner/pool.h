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

/* Where in a node a frame lies: see pool_span.c. */
enum pool_part { PART_NORMAL, PART_MOVABLE, NR_PARTS };

/* How much of a pool is ZONE_MOVABLE: a part of it in percent (whatever its size is), or so many
 * bytes. All 0: nothing. */
struct pool_movable {
	uint64_t bytes;
	unsigned int percent;
};

/* done and total in frames. Returning false gives up. */
typedef bool (*pool_progress_fn)(void *opaque, uint64_t done, uint64_t total);

struct pool_config {
	enum hugepages_mode hugepages;
	uint64_t size;    /* bytes of a pool of fixed size; 0: grows with the VMs */
	uint64_t max;     /* bytes that it may ever have; 0: what the machine allows */
	uint64_t initial; /* bytes of VMs that a growing pool has room for from the start */
	struct pool_movable movable;
	const char *record; /* path of the file that keeps what was reserved */
	const char *ledger; /* path of the pool's ledger (ledger.h); NULL: none */
	bool keep;          /* for the ledger: this owner stays without VMs */
	pool_progress_fn progress;
	void *progress_opaque;

	/* Tests: metadata only, that many nodes of that many frames, all present. */
	unsigned int sim_nodes;
	uint64_t sim_frames;
};

/*
 * If an owner died and VMs of it live, the pool is theirs: what the ledger says is taken over, and
 * of the configuration only the paths count. Otherwise:
 * Reserves and fills the memory of a fixed pool, or the initial part of a growing one. Returns NULL
 * with err set; nothing was left behind.
 */
struct pool *pool_create(const struct pool_config *config, struct error *err);
/* Gives everything back to the host, hugepages included. Processes that still map frames keep
 * them until they end. */
void pool_destroy(struct pool *pool);

/* What a VM is promised, in frames. */
struct pool_promise {
	uint64_t ram; /* it may hold so many ... */
	uint64_t min; /* ... and so many of them are never taken from it; at most ram */
};

struct pool_request {
	const char *name;         /* of the VM, for the sentence */
	struct pool_promise old;  /* what it has been promised; 0: nothing yet */
	struct pool_promise want; /* what it is to be promised instead */
	bool may_grow;
};

/* --- An owner that goes on with another one's pool --- */
struct ledger;
struct ledger *pool_ledger(struct pool *pool); /* NULL: it has none */
bool pool_adopted(const struct pool *pool);
/* Whether a frame within its node's span is not to be used any more, for the next owner. */
void pool_note_bad(struct pool *pool, unsigned int nid, uint64_t idx, bool bad);
/* If any VM lives, the next owner is to take the pool over: pool_destroy() leaves it as it is. */
void pool_leave(struct pool *pool);
/* What a client was promised before. */
void pool_promise_again(struct pool *pool, const struct pool_promise *promise);
/* Adds up what id holds of each node in held[]. Returns the sum. */
uint64_t pool_held_by_node(const struct pool *pool, uint32_t id, uint64_t *held);
/* Calls fn for each run of frames of id that is not marked in declared[nid] (a byte per frame;
 * declared NULL: nothing is), until it returns false. */
void pool_each_held(struct pool *pool, uint32_t id, uint8_t *const *declared,
		    bool (*fn)(void *opaque, const struct frame_run *run), void *opaque);
/* Whether all frames of the run are id's. */
bool pool_holds(const struct pool *pool, uint32_t id, const struct frame_run *run);

/*
 * Admission, by the settings overcommit_memory and overcommit_ratio; see admit.c for the rules.
 * Returns 0 (it is promised), -EAGAIN when the pool has to grow by *missing frames first, or
 * another negative errno with a sentence that says by how much it does not fit.
 */
int pool_admit(struct pool *pool, const struct pool_request *request, uint64_t *missing,
	       struct error *err);
void pool_release(struct pool *pool, const struct pool_promise *promise);
/* What a VM that does not say it is guaranteed. */
uint64_t pool_default_min(struct pool *pool, uint64_t ram_frames);

/* Frames that a VM was guaranteed and does not hold yet went from before to after. */
void pool_claim(struct pool *pool, uint64_t before, uint64_t after);
/* How many frames a VM that has not claimed own of its minimum may be granted now without touching
 * what others were guaranteed, and leaving so many. */
uint64_t pool_grantable(struct pool *pool, uint64_t own, uint64_t withheld);

/* The watermarks of all zones together, in frames: VMs get nothing below min, reclaim begins below
 * low and goes on to high. */
struct pool_marks {
	uint64_t min, low, high;
};
void pool_marks(struct pool *pool, struct pool_marks *marks);
/* Another number after each change of the pool's size, or of its settings
 * (and sometimes without); not after frames were granted or given back. */
uint64_t pool_changes(const struct pool *pool);

/*
 * Settings at run time: those of the allocator (framevisor/mm.h) under their names. A list has
 * several values (lowmem_reserve_ratio); index says which. Return 0, -ENOENT or -EINVAL with a
 * sentence.
 */
int pool_setting_set(struct pool *pool, const char *name, unsigned int index, uint64_t value,
		     struct error *err);
int pool_setting_get(struct pool *pool, const char *name, unsigned int index, uint64_t *value);
/* Name and number of values of the n-th setting; NULL: there are no more. */
const char *pool_setting_name(unsigned int n, unsigned int *nr_values);

/*
 * Frames of a node that clients had kept for them (BIND) and do not hold yet. They are not given to
 * others. pool_keep() is admission: it moves the node's sum from what a client was owed before to
 * what it is owed after. Returns 0, -EAGAIN when the node has to grow by *missing frames first, or
 * -ENOMEM with a sentence. pool_owe() moves it without asking: frames came, went, or the client
 * did.
 */
int pool_keep(struct pool *pool, unsigned int nid, uint64_t before, uint64_t after,
	      uint64_t *missing, struct error *err);
void pool_owe(struct pool *pool, unsigned int nid, uint64_t before, uint64_t after);

/*
 * pool_take() for a client that is owed owed[nid] frames of each node: leaves those that others are
 * owed.
 */
struct pool_want;
uint64_t pool_take_owed(struct pool *pool, const struct pool_want *want, const uint64_t *owed,
			struct frame_run *runs, unsigned int *nr_runs);

/* The pool's nodes in a mask of the host's; *all: each of those exists in the pool. */
uint64_t pool_nodes_of_host(const struct pool *pool, uint64_t host_nodes, bool *all);

/*
 * More memory. pool_grow_begin() in the main thread decides how many frames come and how many of
 * them are MOVABLE (frames: that many; POOL_MOVABLE_AS_SET: what keeps the pool as configured). It
 * refuses what is beyond the limit. pool_grow_fill() reserves and fills them, in any thread. All or
 * nothing: on failure err has the numbers and the remedy. pool_grow_finish() in the main thread
 * gives them to the allocator; it needs the same result, and may turn a failure into -EAGAIN: an
 * empty pool that was to have hugepages if possible was changed to ordinary memory, begin again.
 * Nothing else may change the pool's size from begin to finish.
 */
#define POOL_MOVABLE_AS_SET UINT64_MAX
struct pool_growth {
	/* Set by the caller: the nodes to grow at, 0: all. Not strict: others when these cannot. */
	uint64_t nodemask;
	bool strict;
	uint64_t frames, movable;               /* in all */
	uint64_t nr[OWNER_NODES_MAX][NR_PARTS]; /* filled in by pool_grow_fill() */
};
int pool_grow_begin(struct pool *pool, uint64_t frames, uint64_t movable,
		    struct pool_growth *growth, struct error *err);
int pool_grow_fill(struct pool *pool, struct pool_growth *growth, struct error *err);
int pool_grow_finish(struct pool *pool, const struct pool_growth *growth, int result);
/* Makes a pool_grow_fill() or pool_shrink_release() in another thread end soon, with -ECANCELED.
 * Any thread. */
void pool_work_cancel(struct pool *pool);
/* How far it is, in frames. Any thread. */
void pool_work_progress(struct pool *pool, uint64_t *done, uint64_t *total);

/*
 * Less memory: free frames leave the pool and go back to the host, those of ZONE_MOVABLE first.
 * The same three steps: pool_shrink_begin() takes them out of the allocator (from node nid; -1:
 * any) or refuses, with the numbers, what would break a promise; pool_shrink_release() punches the
 * holes and lowers the host's number of hugepages by what the pool had added; pool_shrink_finish()
 * takes back what could not be released.
 */
struct pool_shrink {
	uint64_t frames;
	struct frame_run *runs; /* taken out; allocated by begin, freed by finish */
	unsigned int nr_runs, room;
	bool elsewhere;               /* refused, but other nodes have what is missing */
	unsigned int released;        /* runs that the host has */
	uint64_t nr[OWNER_NODES_MAX]; /* frames per node that it has */
	uint64_t hugepages;           /* fewer that are reserved on the host */
};
int pool_shrink_begin(struct pool *pool, uint64_t frames, int nid, struct pool_shrink *shrink,
		      struct error *err);
/* Frames that may leave the pool: what is promised (*promised) and the reserves stay. */
uint64_t pool_spare(struct pool *pool, uint64_t *promised);
/* Whether that is enough for so many: 0, or -EBUSY with err set. */
int pool_shrink_check(struct pool *pool, uint64_t frames, struct error *err);
/* As pool_shrink_begin(), for all of ZONE_MOVABLE (of node nid; -1: of each) that is free and not
 * promised: shrink->frames says how many that are. -EBUSY if there are none. */
int pool_shrink_movable(struct pool *pool, int nid, struct pool_shrink *shrink);
/* Frames of node nid that are kept for clients bound to it: see pool_keep(). */
uint64_t pool_owed(const struct pool *pool, unsigned int nid);
/* Frames of node nid to be had outside of ZONE_MOVABLE. */
uint64_t pool_room_beside_movable(struct pool *pool, unsigned int nid);
int pool_shrink_release(struct pool *pool, struct pool_shrink *shrink, struct error *err);
void pool_shrink_finish(struct pool *pool, struct pool_shrink *shrink);

/*
 * Takes up to nr zeroed frames for client id from the nodes of the mask (0: all), in runs as long
 * as possible; small: single ones that are no part of a free block, for what moves together.
 * *nr_runs: room on entry, number on return. Returns the number of frames, 0 if there are none.
 * Fewer than asked when runs or the time for one request are used up.
 */
struct pool_want {
	uint32_t id;
	bool small;
	uint64_t nr;
	uint64_t nodemask;
};
uint64_t pool_take(struct pool *pool, const struct pool_want *want, struct frame_run *runs,
		   unsigned int *nr_runs);

/* Takes frames back from client id. All or nothing: -EPERM if it does not hold one of them, or
 * names one twice; -EPERM or -EBUSY if it maps one, see map_check.h: it keeps them. The runs lie
 * within the nodes' spans. */
struct map_check;
int pool_give(struct pool *pool, uint32_t id, const struct frame_run *runs, unsigned int nr_runs,
	      struct map_check *check);

/* Takes back whatever client id holds; its process is gone. Returns the number of frames. */
uint64_t pool_take_back(struct pool *pool, uint32_t id);

/* The allocator at rest: no frame is between two lists because it is being zeroed. */
void pool_quiesce(struct pool *pool);
void pool_resume(struct pool *pool);

unsigned int pool_nr_nodes(const struct pool *pool);
uint64_t pool_spanned(const struct pool *pool, unsigned int nid); /* frames */
uint64_t pool_movable(const struct pool *pool, unsigned int nid); /* present in that zone */
int pool_host_node(const struct pool *pool, unsigned int nid);
int pool_fd(const struct pool *pool, unsigned int nid); /* the pool's; -1: metadata only */
bool pool_hugetlb(const struct pool *pool);
struct mm *pool_mm(struct pool *pool);

struct pool_info {
	enum hugepages_mode hugepages; /* as asked */
	bool hugetlb;                  /* as it is */
	bool fixed;
	uint64_t max_frames; /* what it may grow to, by itself or by command */
	uint64_t movable;    /* frames present in ZONE_MOVABLE */
	uint64_t committed;  /* frames of RAM of the admitted VMs */
	uint64_t guaranteed; /* of these, their minimums */
	uint64_t unclaimed;  /* of these, not held yet */
	uint64_t reserve;    /* frames kept for the allocator's watermarks */
	bool keep;           /* its owner stays without VMs */
	uint64_t raised;     /* hugepages that we added to the host's */
};
void pool_info(const struct pool *pool, struct pool_info *info);

/*
 * Counts of one node (nid < 0: all) with the zeroing thread at rest. *held (may be NULL) is
 * counted from the frames' owners.
 */
void pool_counts(struct pool *pool, int nid, struct mm_counts *counts, uint64_t *held);
/* Who holds a frame: the client's id, or 0. The frame is within its node's span. */
uint32_t pool_owner(const struct pool *pool, unsigned int nid, uint64_t idx);
/* Frames that client id holds, counted from the frames' owners. */
uint64_t pool_held(const struct pool *pool, uint32_t id);

/* Whether free + cached + held + quarantined = present in every node. Returns 0, or -EUCLEAN with
 * the contradiction in buf. */
int pool_check_conservation(struct pool *pool, char *buf, size_t len);
/* The same, after the allocator has checked itself. */
int pool_validate(struct pool *pool, char *buf, size_t len);

#endif
