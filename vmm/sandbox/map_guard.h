/* SPDX-License-Identifier: MIT */
/*
 * What a VM's process may map of the pool, decided by its keeper: frames that the ledger says are
 * its own. The kernel asks (seccomp user notification), and passes on the numbers of the call, so
 * there is nothing that the process could change after it was looked at. docs/security.md says what
 * this is a part of; owner/map_check.h is the other part.
 */
#ifndef VMM_SANDBOX_MAP_GUARD_H
#define VMM_SANDBOX_MAP_GUARD_H

#include <stdint.h>
#include <sys/types.h>

#include "framevisor/error.h"
#include "vmm/owner/ledger.h"

struct map_guard_config {
	pid_t pid;
	int guarded; /* the pool's descriptors: guarded .. guarded + nr_pool - 1 */
	int nr_pool;
	/* Where the process may map them. Nothing is moved out of here (seccomp.h). */
	uint64_t window, views, end;
};

/* Threads of one process that may ask at the same time; more have to wait. */
#define MAP_GUARD_QUEUE 32

struct map_guard_question; /* map_guard.c */

struct map_guard {
	struct map_guard_config config;
	struct ledger *ledger;
	struct ledger_client *client;
	uint32_t id; /* the client's */
	int maps_fd;
	int listener;                     /* -1: it does not guard */
	struct map_guard_question *queue; /* asked, and not answered yet */
	unsigned int nr_queued;
};
#define MAP_GUARD_NONE                        \
	{                                     \
		.maps_fd = -1, .listener = -1 \
	}

/* Whether this can be done for that process: there is a ledger that has it and can be written, and
 * the kernel says what is mapped. Returns 0 or a negative errno with err set. */
int map_guard_open(struct map_guard *guard, const struct map_guard_config *config,
		   struct error *err);
/* From here on every mapping is asked for on listener (its own from now on). */
void map_guard_begin(struct map_guard *guard, int listener);
/* Answers what is asked; listener is readable. Returns 0, or a negative errno when nobody is left
 * who could ask. */
int map_guard_serve(struct map_guard *guard);
void map_guard_close(struct map_guard *guard);

#endif
