/* SPDX-License-Identifier: MIT */
/*
 * What a VMM process and the pool owner say to each other, over RUNDIR/pool.sock (SOCK_SEQPACKET).
 *
 * One message per packet, fixed layout, host byte order (both ends run on one machine). The client
 * speaks first; every request has exactly one reply, in order. The owner treats each message as
 * hostile: a packet whose size, type, version or counts do not fit ends the connection.
 *
 *   client                         owner
 *   HELLO (name, size)      ->
 *                           <-     WELCOME (+ one fd per node, SCM_RIGHTS; + the VMM's end of the
 *                                  notice channel, framevisor/owner_notice.h; + /dev/userfaultfd
 *                                  if asked)
 *                           <-     FILLING before WELCOME, each second, if asked for: no reply
 *   GRANT (n frames)        ->
 *                           <-     GRANTED (runs of zeroed frames; -ENOMEM when there are none)
 *   RETURN (runs)           ->
 *                           <-     RETURNED (frames taken back)
 *   RESIZE (frames)         ->
 *                           <-     RESIZED (its limit now; -ENOMEM and why, when it does not fit)
 *   BIND (node, frames)     ->
 *                           <-     BOUND (of that node, from now on; -ENOMEM and why)
 *   DECLARE (runs it holds) ->
 *                           <-     DECLARED (of the packet's frames; of none: what it holds)
 *
 * A client may hold as many frames as its RAM has (ram_frames); what it asks beyond gets -ENOMEM.
 * RESIZE changes that limit: up, when the pool has or can get the memory (the reply may take as
 * long as that of HELLO, or comes at once: OWNER_RESIZE_LATER); down, but not below what the client
 * holds (-EBUSY).
 *
 * BIND keeps frames of one node for a client: of what it may hold in all, so many are to be had
 * there whatever others take. A pool that grows grows there for it. What a client holds of the node
 * counts. On all nodes together no more is kept than it may hold, or with overcommit than it was
 * guaranteed: the rest is as much the others' then. BOUND says what it came to.
 *
 * An owner that takes over from one that died connects to the clients that it finds in the ledger,
 * on their sockets RUNDIR/vm/NAME/owner.sock. Such a client says HELLO with OWNER_HELLO_ADOPT, is
 * welcomed without files (it has them), and declares every frame that it holds, once each; a
 * DECLARE of no runs ends that. A frame that is not the client's ends the connection.
 *
 * When the connection ends, the owner waits until the client's process is gone (killing it if it is
 * not) and takes all its frames back: a frame is never given on while somebody may still map it.
 */
#ifndef FRAMEVISOR_OWNER_PROTOCOL_H
#define FRAMEVISOR_OWNER_PROTOCOL_H

#include <stdint.h>

#define OWNER_PROTOCOL_VERSION 3
#define OWNER_NAME_MAX         64 /* VM name with its terminating 0 */
#define OWNER_NODES_MAX        64
#define OWNER_RUNS_MAX         256  /* runs in one message */
#define OWNER_GRANT_MAX        4096 /* frames in one request */

enum owner_message_type {
	OWNER_HELLO = 1,
	OWNER_WELCOME,
	OWNER_GRANT,
	OWNER_GRANTED,
	OWNER_RETURN,
	OWNER_RETURNED,
	OWNER_RESIZE,
	OWNER_RESIZED,
	OWNER_BIND,
	OWNER_BOUND,
	OWNER_DECLARE,
	OWNER_DECLARED,
	OWNER_FILLING,
};

/* Consecutive frames of one node: file offset first * FRAME_SIZE in the node's fd. */
struct frame_run {
	uint64_t first; /* node relative frame number */
	uint32_t nr;    /* frames, at least 1 */
	uint16_t node;
	uint16_t reserved; /* 0 */
};

struct owner_header {
	uint32_t type;   /* enum owner_message_type */
	uint32_t length; /* of the whole packet, in bytes */
	int32_t status;  /* replies: 0 or a negative errno; requests: 0 */
	uint32_t reserved;
};

#define OWNER_SHARES_DEFAULT 1000
#define OWNER_SHARES_MAX     1000000

#define OWNER_HELLO_WANT_UFFD 0x1 /* send /dev/userfaultfd: this process may not open it */

/* A client of an owner that died, on a connection that the new owner made. Of the rest of HELLO
 * nothing counts. */
#define OWNER_HELLO_ADOPT 0x2

/* The client counts in frames of 1 GiB; without it, of 2 MiB. They have to be the owner's. */
#define OWNER_HELLO_FRAMES_1G 0x4

/* While it waits for WELCOME because the pool has to grow, it is told FILLING each second. */
#define OWNER_HELLO_TELL_FILLING 0x8

struct owner_hello {
	struct owner_header header;
	uint32_t version;
	uint32_t flags;
	uint64_t ram_frames; /* the VM's RAM: admission is decided by this, */
	/* Where the pool grows, if it has to, as far as it can: bit n = node n of the host; 0:
	 * anywhere.
	 */
	uint64_t host_nodes;
	/* In these 0 means the default. */
	uint64_t min_frames;   /* and by what is never taken away (default: by the settings) */
	uint64_t max_frames;   /* with all that may ever be plugged (ram_frames) */
	uint32_t shares;       /* who has more is taxed less when memory is short (1000) */
	int32_t oom_score_adj; /* -1000 (never chosen) to 1000 */
	char name[OWNER_NAME_MAX];
};

#define OWNER_WELCOME_HUGETLB 0x1 /* the pool's files are hugetlb files */
/* The last fd is an open /dev/userfaultfd (USERFAULTFD_IOC_NEW): a userfaultfd itself would belong
 * to the address space of the owner, who created it. */
#define OWNER_WELCOME_UFFD 0x2
/* The fd behind those of the nodes is the VMM's end of the notice channel. */
#define OWNER_WELCOME_NOTICE 0x4

/* No files of nodes come along: it is known from before and has them. */
#define OWNER_WELCOME_ADOPTED 0x8

/* Frames that were added to the pool of those that this growth is to add; no reply, and unasked. */
struct owner_filling {
	struct owner_header header;
	uint64_t done, total;
};

/* On failure (status != 0) message holds a sentence for the user and no fd is passed. */
struct owner_welcome {
	struct owner_header header;
	uint32_t client_id;
	uint32_t flags;
	uint32_t nr_nodes;
	uint32_t reserved;
	uint64_t spanned[OWNER_NODES_MAX];   /* frames that node's file may ever hold */
	uint16_t host_node[OWNER_NODES_MAX]; /* the kernel's number of that node */
	char message[256];
};

/* For frames that it holds already and moves: so many may go beyond the VM's limit, which sends the
 * old ones back at once. One that stays beyond it is given no more to move to, and then cut off. */
#define OWNER_GRANT_TO_MOVE  0x1
#define OWNER_MOVE_FRAMES    64
#define OWNER_MOVE_FRAMES_1G 4 /* of 1 GiB: two for each of those who may move at a time */

struct owner_grant {
	struct owner_header header;
	uint32_t nr_frames;
	uint32_t flags;    /* OWNER_GRANT_TO_MOVE or 0 */
	uint64_t nodemask; /* nodes to take from, bit n = node n; 0: all */
};

/* For GRANTED, RETURN and DECLARE; length covers the runs used. */
struct owner_runs {
	struct owner_header header;
	uint32_t nr_runs;
	uint32_t nr_frames; /* sum over the runs; fewer than asked is not an error */
	struct frame_run runs[OWNER_RUNS_MAX];
};

struct owner_returned {
	struct owner_header header;
	uint64_t nr_frames;
};

/*
 * When the pool has to grow first, the answer does not wait for it: it is -EINPROGRESS, with as
 * much of it promised as there is. The pool grows in steps; when there is more, or there will be no
 * more, NOTICE_GROWN says so, and the same RESIZE again is told how much it is by now, or why there
 * is no more. Another RESIZE calls it off.
 */
#define OWNER_RESIZE_LATER 0x1

struct owner_resize {
	struct owner_header header;
	uint64_t ram_frames; /* wanted in all */
	uint32_t flags;      /* OWNER_RESIZE_LATER or 0 */
	uint32_t reserved;   /* 0 */
};

/* On failure (status != 0, but for -EINPROGRESS) message holds a sentence for the user and the
 * limit is what it was before. */
struct owner_resized {
	struct owner_header header;
	uint64_t ram_frames; /* the limit from now on */
	char message[256];
};

struct owner_bind {
	struct owner_header header;
	uint32_t node;
	uint32_t reserved; /* 0 */
	uint64_t frames;   /* wanted of it in all; 0: none in particular */
};

/* On failure (status != 0) message holds a sentence for the user and nothing has changed. */
struct owner_bound {
	struct owner_header header;
	uint64_t frames;
	char message[256];
};

_Static_assert(sizeof(struct frame_run) == 16, "wire layout");
_Static_assert(sizeof(struct owner_header) == 16, "wire layout");
_Static_assert(sizeof(struct owner_grant) == 32, "wire layout");

#endif
