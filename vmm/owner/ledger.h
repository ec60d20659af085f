/* SPDX-License-Identifier: MIT */
/*
 * The ledger: the pool owner's tables in a file of the run directory, mapped shared, so that they
 * outlive an owner that is killed. The next owner finds in it which frames there are, who holds
 * which, and which files and processes to look for (see pool_adopt.c).
 *
 * What is written to it is in effect at once. A kill may come between any two stores, so the order
 * of them matters: a client's entry is complete before its id is there, and a request that moves
 * frames is noted (in_flight) before the first of them moves. It belongs to one boot of the host.
 */
#ifndef VMM_OWNER_LEDGER_H
#define VMM_OWNER_LEDGER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "framevisor/error.h"
#include "framevisor/owner_protocol.h"

/* In the run directory. */
#define LEDGER_FILE "pool.ledger"

#define LEDGER_CLIENTS_MAX 1000

/* What a client's last request may have moved without the client knowing it. */
enum ledger_in_flight { LEDGER_NONE, LEDGER_GRANT, LEDGER_RETURN };

/*
 * Of a VM whose keeper checks what it maps: see owner/map_check.h. The keeper writes it.
 */
struct ledger_maps {
	uint32_t checked; /* from here on nothing of the pool is mapped but through the keeper */
	uint32_t busy;    /* run is being mapped; it may be that it is by now */
	struct frame_run run;
	uint64_t window, views, end; /* addresses: of what the guest has, of views, and their end */
};

struct ledger_client {
	uint32_t id; /* 0: not used. Written last, cleared first. */
	int32_t pid;
	uint64_t start_time; /* of the process: a pid alone may be another one's by now */
	char name[OWNER_NAME_MAX];
	uint64_t ram_frames, min_frames, max_frames, ceiling, guaranteed;
	uint64_t hello_nodes;
	uint64_t bound[OWNER_NODES_MAX];
	uint32_t shares;
	int32_t oom_score_adj;
	uint32_t in_flight; /* enum ledger_in_flight */
	uint32_t nr_runs;   /* of a RETURN */
	struct frame_run runs[OWNER_RUNS_MAX];
	struct ledger_maps maps;
};

struct ledger_node {
	int32_t host_nid;
	uint64_t capacity, spanned, movable;
	uint64_t dev, ino; /* the node's file */
};

/* The pool as it was set up. */
struct ledger_pool {
	uint32_t hugepages; /* enum hugepages_mode */
	uint32_t hugetlb;
	uint32_t keep; /* the owner stays when the last VM has ended */
	uint32_t frame_shift;
	uint32_t nr_nodes;
	uint64_t size, max, max_frames;
	uint64_t movable_bytes;
	uint32_t movable_percent;
	struct ledger_node node[OWNER_NODES_MAX];
};

struct ledger;

/* Opens the ledger of an owner that died, if there is one and a client of it lives. 0 and NULL,
 * quietly, if not; what is of no use is removed. An error, and it stays, if that cannot be said. */
int ledger_open(const char *path, struct ledger **ledger, struct error *err);
/* The ledger of an owner that runs, for a keeper. NULL: there is none that this process may write,
 * or of another layout; errno is 0 in the latter case. */
struct ledger *ledger_join(const char *path);
/* A new one, in place of any other. NULL with err set: the owner can work without. */
struct ledger *ledger_create(const char *path, const struct ledger_pool *pool, struct error *err);
/* Unmaps it; the file stays, or goes. NULL is ignored. */
void ledger_close(struct ledger *ledger, bool remove);

struct ledger_pool *ledger_pool(struct ledger *ledger);
uint32_t *ledger_owners(struct ledger *ledger, unsigned int nid); /* per frame: who holds it */
uint8_t *ledger_present(struct ledger *ledger, unsigned int nid); /* per frame: is it there */
/* Per frame: where in its holder's window it was mapped last, in frames, plus 1. A keeper's to
 * write. */
uint32_t *ledger_places(struct ledger *ledger, unsigned int nid);

/* The i-th of LEDGER_CLIENTS_MAX entries. */
struct ledger_client *ledger_client(struct ledger *ledger, unsigned int i);
/* A free entry, to be filled in, with its id last; NULL when there is none. */
struct ledger_client *ledger_client_new(struct ledger *ledger);

/* When the process started, in the kernel's ticks; 0 if there is none, UINT64_MAX if that cannot be
 * said (no file descriptor is left, for example). */
uint64_t ledger_start_time(pid_t pid);
/* Whether the client's process lives, or may live: what it holds must not be another's then. */
bool ledger_client_lives(const struct ledger_client *client);

#endif
