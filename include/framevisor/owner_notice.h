/* SPDX-License-Identifier: MIT */
/*
 * The notice channel: what the pool owner asks of a VMM without being asked, and what the VMM
 * reports. A SOCK_SEQPACKET socket of its own, one end of which comes with WELCOME (see
 * framevisor/owner_protocol.h), so that the requests of the VMM's threads are not mixed with it.
 *
 * One message per packet, fixed layout, host byte order, the header of owner_protocol.h. Neither
 * side waits for the other: what does not fit into the socket's buffer is not sent, and the owner
 * says it again later. Both sides check everything: a packet whose size, type, flags or counts do
 * not fit ends the connection. Memory is counted in frames.
 *
 *   owner                                VMM
 *   RECLAIM (id, kind, frames)     ->        give that much back by this means
 *   TARGET (id, tax)               ->        do without so much of the user's target, from now on
 *   MOVE (id, runs)                ->        vacate these frames of yours: take others (GRANT),
 *                                            RETURN these
 *   PAUSE, RESUME (id, numbers)    ->        stop and go on: there is no memory
 *   LIMIT (id, min, max, shares)   ->        what the VM is promised and may have changed
 *   ASK (id, interval, flags)      ->        STATUS now, and then every so often
 *   GROWN (id)                     ->        RESIZE again: what it was to get later has changed
 *                                  <-    DONE (id, status, frames): one for each id but ASK's
 *                                  <-    STATUS (id of ASK, or 0)
 *
 * An id is the owner's and not 0. A request that the VMM cannot serve is DONE with a negative
 * status (-EOPNOTSUPP: it never can; -EBUSY, -EAGAIN: not now) and what it did by then.
 */
#ifndef FRAMEVISOR_OWNER_NOTICE_H
#define FRAMEVISOR_OWNER_NOTICE_H

#include <stdint.h>

#include "framevisor/owner_protocol.h"

enum notice_type {
	NOTICE_RECLAIM = 64,
	NOTICE_TARGET,
	NOTICE_MOVE,
	NOTICE_PAUSE,
	NOTICE_RESUME,
	NOTICE_LIMIT,
	NOTICE_ASK,
	NOTICE_GROWN,
	NOTICE_DONE = 96,
	NOTICE_STATUS,
};

enum notice_reclaim_kind {
	NOTICE_RECLAIM_STOCK,    /* frames that the guest does not have yet, but for those
				    that devices may need at once */
	NOTICE_RECLAIM_HINT,     /* what the guest has free and says so when asked */
	NOTICE_RECLAIM_SWAP_OUT, /* cold frames, to the swap file */
	NOTICE_RECLAIM_KINDS,
};

struct notice_reclaim {
	struct owner_header header;
	uint64_t id;
	uint64_t nr_frames; /* of SWAP_OUT; by the others all that can be had */
	uint32_t kind;      /* enum notice_reclaim_kind */
	uint32_t reserved;
};

/* The VM's effective target is the user's, less the tax. 0 ends it. */
struct notice_target {
	struct owner_header header;
	uint64_t id;
	uint64_t tax_frames;
};

enum notice_move_reason {
	NOTICE_MOVE_COMPACT, /* for large free blocks */
	NOTICE_MOVE_OFFLINE, /* their memory leaves the pool */
	NOTICE_MOVE_POISON,  /* the memory is failing: now rather than later */
	NOTICE_MOVE_REASONS,
};

/* Length covers the runs used. DONE counts the frames that were returned; the others stay. */
struct notice_move {
	struct owner_header header;
	uint64_t id;
	uint64_t nodemask; /* nodes to ask GRANT for the replacements from; 0: all */
	uint32_t reason;   /* enum notice_move_reason */
	uint32_t nr_runs;  /* at least 1 */
	uint32_t nr_frames;
	uint32_t reserved;
	struct frame_run runs[OWNER_RUNS_MAX];
};

/* Why this VM has to stop: it has the highest badness of all. */
struct notice_pause {
	struct owner_header header;
	uint64_t id;
	uint64_t held;   /* frames it holds */
	uint64_t free;   /* frames that are free in the pool, ... */
	uint64_t wanted; /* ... and how many it takes until the VM goes on */
	int64_t badness;
	int32_t oom_score_adj;
	uint32_t reserved;
};

struct notice_resume {
	struct owner_header header;
	uint64_t id;
	uint64_t free;
};

struct notice_limit {
	struct owner_header header;
	uint64_t id;
	uint64_t min;   /* frames that are never taken away */
	uint64_t limit; /* frames that it may hold now; the reply to RESIZE says the same */
	uint64_t max;   /* frames that it may ever be given */
	uint32_t shares;
	int32_t oom_score_adj;
};

/* It says no number: those are in the replies to RESIZE alone, so that none overtakes another. */
struct notice_grown {
	struct owner_header header;
	uint64_t id;
};

#define NOTICE_ASK_IDLE  0x1 /* find out which frames are idle, from now until an ASK without it */
#define NOTICE_ASK_FLAGS 0x1

struct notice_ask {
	struct owner_header header;
	uint64_t id;
	uint32_t interval_ms; /* 0: only now; else at least NOTICE_INTERVAL_MIN_MS */
	uint32_t flags;
};
#define NOTICE_INTERVAL_MIN_MS 100
#define NOTICE_INTERVAL_MAX_MS 3600000

struct notice_done {
	struct owner_header header; /* status: 0 or a negative errno */
	uint64_t id;
	uint64_t nr_frames;
};

#define NOTICE_STATUS_RUNNING   0x1  /* vCPUs run */
#define NOTICE_STATUS_AVAILABLE 0x2  /* available, guest_total and stats_age_ms are the guest's */
#define NOTICE_STATUS_IDLE      0x4  /* idle_permille is measured (ASK_IDLE) */
#define NOTICE_STATUS_REACHED   0x8  /* the guest is at its effective target */
#define NOTICE_STATUS_PAUSED    0x10 /* stopped by PAUSE */
#define NOTICE_STATUS_WAITS     0x20 /* somebody waits for a frame just now */
#define NOTICE_STATUS_COMPACTS  0x40 /* the guest moves its memory together for the balloon */
#define NOTICE_STATUS_FLAGS     0x7f

/* No age larger than this is said. */
#define NOTICE_AGE_MAX_MS UINT64_C(0xffffffff)

struct notice_status {
	struct owner_header header;
	uint64_t id; /* of the ASK that this answers; 0: by the clock */
	uint32_t flags;
	uint32_t idle_permille; /* share of the bound frames that nobody touched lately */
	uint64_t ram;           /* frames of boot memory */
	uint64_t max;           /* with all that could be plugged */
	uint64_t plugged;
	uint64_t bound;       /* frames that the guest has */
	uint64_t stock;       /* frames that wait for a touch and can be asked for */
	uint64_t target;      /* as the user set it, in frames */
	uint64_t tax;         /* as TARGET said */
	uint64_t swapped;     /* frames in the swap file */
	uint64_t guest_total; /* MemTotal and MemAvailable, in frames */
	uint64_t available;
	uint64_t stats_age_ms;
	uint64_t reserved;
	/* Since the VM began. Stalled: a vCPU or a device waits for a frame that the pool does not
	 * have; up to now, if it still waits. What is being read from swap does not count, if
	 * there is a frame for it. Some: at least one; full: nothing else runs. */
	uint64_t stall_some_us;
	uint64_t stall_full_us;
	uint64_t faults;
	uint64_t waits;       /* faults that found the pool empty */
	uint64_t wait_max_us; /* the longest of them */
	uint64_t swap_in, swap_out;
	uint64_t balloon_in, balloon_out; /* frames given up by the guest, and taken again */
};

_Static_assert(sizeof(struct notice_reclaim) == 40, "wire layout");
_Static_assert(sizeof(struct notice_move) == 48 + OWNER_RUNS_MAX * 16, "wire layout");
_Static_assert(sizeof(struct notice_pause) == 64, "wire layout");
_Static_assert(sizeof(struct notice_limit) == 56, "wire layout");
_Static_assert(sizeof(struct notice_done) == 32, "wire layout");
_Static_assert(sizeof(struct notice_status) == 32 + 21 * 8, "wire layout");

#endif
