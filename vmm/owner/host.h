/* SPDX-License-Identifier: MIT */
/* The machine under the pool: its memory nodes, how large they are, how far apart. */
#ifndef VMM_OWNER_HOST_H
#define VMM_OWNER_HOST_H

#include <stdbool.h>
#include <stdint.h>

#include "framevisor/error.h"
#include "framevisor/owner_protocol.h"

struct host_node {
	unsigned int nid;   /* the kernel's number; nodes without memory are left out */
	unsigned int rank;  /* place among the online nodes, with or without memory */
	uint64_t total;     /* bytes, hugepages included */
	uint64_t available; /* bytes that could be had without swapping; no hugepages */
	bool cpuless;       /* it has memory only */
};

struct host {
	unsigned int nr_nodes;
	struct host_node node[OWNER_NODES_MAX];
	uint8_t distance[OWNER_NODES_MAX][OWNER_NODES_MAX]; /* by index, not by nid */
	uint64_t total;
	uint64_t available;
};

/* Reads all of it from /sys and /proc below root ("" outside of tests). */
int host_read(struct host *host, const char *root, struct error *err);

/* Bytes that a pool leaves to the rest of the system unless it is told its size. */
uint64_t host_own_share(uint64_t total);

/* The value of "KEY:  N kB" in a meminfo file, in bytes. Returns 0 or a negative errno. */
int host_meminfo(const char *path, const char *key, uint64_t *bytes);

/* The decimal number that a file holds, and writing one. Return 0 or a negative errno. */
int host_read_u64(const char *path, uint64_t *value);
int host_write_u64(const char *path, uint64_t value);

/*
 * Spreads want over nr parts as evenly as their room allows: part[i] <= room[i]. Returns the sum,
 * which is less than want when the room does not suffice.
 */
uint64_t host_spread(uint64_t want, unsigned int nr, const uint64_t *room, uint64_t *part);

#endif
