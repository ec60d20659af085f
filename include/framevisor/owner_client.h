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

enum hugepages_mode { HUGEPAGES_AUTO, HUGEPAGES_REQUIRE, HUGEPAGES_NEVER };

struct owner_client_config {
	const char *vm_name;
	uint64_t ram_frames;
	/* For an owner that has to be started; a running one keeps what it has, but a VM that
	 * demands hugepages is refused by a pool without them. */
	enum hugepages_mode hugepages;
	uint64_t pool_bytes; /* 0: as much as the VMs need */
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
int owner_client_node_fd(const struct owner_client *client, unsigned int nid);
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
/* The limit as of now. */
uint64_t owner_client_limit(struct owner_client *client);

/* Becomes readable (hangup) when the owner ends; for an event loop. */
int owner_client_fd(const struct owner_client *client);

#endif
