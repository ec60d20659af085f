/* SPDX-License-Identifier: MIT */
/*
 * A VMM's connection to the pool owner. All calls are thread safe (one request at a time under a
 * mutex) and touch no guest memory, so the fault thread may use them.
 */
#ifndef FRAMEVISOR_OWNER_CLIENT_H
#define FRAMEVISOR_OWNER_CLIENT_H

#include <stdbool.h>
#include <stdint.h>

#include "framevisor/error.h"
#include "framevisor/owner_protocol.h"

/* The words of --hugepages. GIGANTIC: frames are hugepages of 1 GiB, in the VMM as in the owner
 * (frame_use_shift()). */
enum hugepages_mode { HUGEPAGES_AUTO, HUGEPAGES_REQUIRE, HUGEPAGES_NEVER, HUGEPAGES_GIGANTIC };

struct owner_client_config {
	const char *vm_name;
	uint64_t ram_frames;
	/* For an owner that has to be started; a running one keeps what it has, but a VM that
	 * demands hugepages is refused by a pool without them. */
	enum hugepages_mode hugepages;
	uint64_t pool_bytes; /* 0: as much as the VMs need */
	/* Where a pool that has to grow grows, as far as it can: bit n = node n of the host; 0:
	 * anywhere. One that does not exist there is an error. */
	uint64_t host_nodes;
	/* Frames that are never taken away, frames that it may ever have, its weight when memory
	 * is short: 0: the defaults, see framevisor/owner_protocol.h. */
	uint64_t min_frames, max_frames;
	uint32_t shares;
	int32_t oom_score_adj;
	/* How far the pool is filled, while that is waited for, is told on stderr also where that
	 * is no terminal: a line each second. */
	bool tell_filling;
	/* Starts an owner and waits until it is ready; NULL: as a child of this process. */
	int (*start)(void *opaque, const struct owner_client_config *config, struct error *err);
	void *start_opaque;
};

struct owner_client;

/*
 * Connects to the pool owner of the run directory, starting framevisord if none answers (found
 * beside the running program, then in PATH), says HELLO and receives the pool's files. Returns NULL
 * with err set: nothing was left behind.
 */
struct owner_client *owner_client_connect(const struct owner_client_config *config,
					  struct error *err);
/* Ends the connection; every frame goes back to the pool once this process has ended. A process
 * that still holds frames and lives on for a second after this is killed by the owner. */
void owner_client_close(struct owner_client *client);

unsigned int owner_client_nr_nodes(const struct owner_client *client);
/* The kernel's number of a node of the pool, or -1. */
int owner_client_host_node(const struct owner_client *client, unsigned int nid);
int owner_client_node_fd(const struct owner_client *client, unsigned int nid);
/* Gives the nodes' files the descriptors first, first + 1, ... and no other. No other thread uses
 * them meanwhile. Returns 0 or a negative errno. */
int owner_client_move_files(struct owner_client *client, int first);
bool owner_client_hugetlb(const struct owner_client *client);
/* A userfaultfd of this process (CLOEXEC, NONBLOCK, kernel faults too), created by right of its own
 * or with the device that the owner sent, or -1; the caller takes it (only once). UFFDIO_API is the
 * caller's. */
int owner_client_take_uffd(struct owner_client *client);

/*
 * Asks for nr frames; gets at most that many, zeroed, as runs. *nr_runs is the room in runs on
 * entry and the number filled on return. Returns the number of frames (> 0), -ENOMEM when the pool
 * has none, or -EPIPE when the owner is gone.
 */
int64_t owner_client_grant(struct owner_client *client, uint64_t nr, uint64_t nodemask,
			   struct frame_run *runs, unsigned int *nr_runs);

/* The same for frames that others of this VM's move to: up to OWNER_MOVE_FRAMES beyond its limit,
 * as the old ones go back at once. */
int64_t owner_client_grant_to_move(struct owner_client *client, uint64_t nr, uint64_t nodemask,
				   struct frame_run *runs, unsigned int *nr_runs);

/* Gives frames back. The caller has unmapped them everywhere. Returns 0 or a negative errno. */
int owner_client_return(struct owner_client *client, const struct frame_run *runs,
			unsigned int nr_runs);

/*
 * Changes how many frames this VM may hold in all (at first ram_frames of the configuration): what
 * it is to be promised more than before has to fit into the pool, which grows for it if it can;
 * that may take a while, and other requests wait meanwhile. Returns 0, -ENOMEM with a sentence when
 * it does not fit, -EBUSY when the VM holds more than that, or another negative errno; err is set.
 */
int owner_client_resize(struct owner_client *client, uint64_t ram_frames, struct error *err);
/*
 * The same without waiting until the pool has grown: -EINPROGRESS, with no sentence, when it has
 * to; owner_client_limit() is what is promised by then. Calling it again, after NOTICE_GROWN, says
 * how it goes on.
 */
int owner_client_resize_later(struct owner_client *client, uint64_t ram_frames, struct error *err);
/*
 * Of the frames that this VM may hold, has so many kept for it in node nid of the pool, whatever
 * others take (at first 0). The pool grows there if it can and must. Returns 0, -ENOMEM with a
 * sentence when that node cannot have them, or another negative errno; err is set.
 */
int owner_client_bind(struct owner_client *client, unsigned int nid, uint64_t frames,
		      struct error *err);
/* The limit as of now. */
uint64_t owner_client_limit(struct owner_client *client);

/* This end of the notice channel (framevisor/owner_notice.h; non-blocking), for
 * owner_channel_attach(); -1: the owner gave none. */
int owner_client_notice_fd(const struct owner_client *client);
/* What nodes and frame numbers may be (vmm/owner/packet.h). */
struct packet_limits;
const struct packet_limits *owner_client_limits(const struct owner_client *client);

/*
 * A new owner connected to this process on fd (taken over) after the last one died: tells it that
 * runs is all that this process holds, and talks to it from now on. owner_client_fd() and
 * owner_client_notice_fd() are other ones afterwards; nobody watches the old ones any more. Returns
 * 0, or a negative errno with err set: then as before.
 */
int owner_client_rejoin(struct owner_client *client, int fd, const struct frame_run *runs,
			unsigned int nr_runs, struct error *err);

/* Becomes readable (hangup) when the owner ends; for an event loop. */
int owner_client_fd(const struct owner_client *client);

#endif
