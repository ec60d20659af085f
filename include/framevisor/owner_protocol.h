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
 *                           <-     WELCOME (+ one fd per node, SCM_RIGHTS; + /dev/userfaultfd if
 * asked) GRANT (n frames)        ->
 *                           <-     GRANTED (runs of zeroed frames; -ENOMEM when there are none)
 *   RETURN (runs)           ->
 *                           <-     RETURNED (frames taken back)
 *   RESIZE (frames)         ->
 *                           <-     RESIZED (its limit now; -ENOMEM and why, when it does not fit)
 *
 * A client may hold as many frames as its RAM has (ram_frames); what it asks beyond gets -ENOMEM.
 * RESIZE changes that limit: up, when the pool has or can get the memory (the reply may take as
 * long as that of HELLO); down, but not below what the client holds (-EBUSY).
 *
 * When the connection ends, the owner waits until the client's process is gone (killing it if it is
 * not) and takes all its frames back: a frame is never given on while somebody may still map it.
 */
#ifndef FRAMEVISOR_OWNER_PROTOCOL_H
#define FRAMEVISOR_OWNER_PROTOCOL_H

#include <stdint.h>

#define OWNER_PROTOCOL_VERSION 1
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

#define OWNER_HELLO_WANT_UFFD 0x1 /* send /dev/userfaultfd: this process may not open it */

struct owner_hello {
	struct owner_header header;
	uint32_t version;
	uint32_t flags;
	uint64_t ram_frames; /* the VM's RAM: admission is decided by this */
	char name[OWNER_NAME_MAX];
};

#define OWNER_WELCOME_HUGETLB 0x1 /* the pool's files are hugetlb files */
/* The last fd is an open /dev/userfaultfd (USERFAULTFD_IOC_NEW): a userfaultfd itself would belong
 * to the address space of the owner, who created it. */
#define OWNER_WELCOME_UFFD 0x2

/* On failure (status != 0) message holds a sentence for the user and no fd is passed. */
struct owner_welcome {
	struct owner_header header;
	uint32_t client_id;
	uint32_t flags;
	uint32_t nr_nodes;
	uint32_t reserved;
	uint64_t spanned[OWNER_NODES_MAX]; /* frames that node's file may ever hold */
	char message[256];
};

struct owner_grant {
	struct owner_header header;
	uint32_t nr_frames;
	uint32_t flags;    /* 0 */
	uint64_t nodemask; /* nodes to take from, bit n = node n; 0: all */
};

/* For GRANTED and RETURN; length covers the runs used. */
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

struct owner_resize {
	struct owner_header header;
	uint64_t ram_frames; /* wanted in all */
};

/* On failure (status != 0) message holds a sentence for the user and the limit is the old one. */
struct owner_resized {
	struct owner_header header;
	uint64_t ram_frames; /* the limit from now on */
	char message[256];
};

_Static_assert(sizeof(struct frame_run) == 16, "wire layout");
_Static_assert(sizeof(struct owner_header) == 16, "wire layout");
_Static_assert(sizeof(struct owner_grant) == 32, "wire layout");

#endif
