/* SPDX-License-Identifier: MIT */
/*
 * The host's pool of hugepages of a frame's size: what is free per node, raising it by what is
 * missing, and giving exactly that back, also after the owner that raised it was killed.
 *
 * What was raised stands in a record file of the run directory, written before the kernel is asked.
 * Not thread safe: the pool calls it from one thread at a time.
 */
#ifndef VMM_OWNER_HUGEPAGES_H
#define VMM_OWNER_HUGEPAGES_H

#include <stdbool.h>
#include <stdint.h>

#include "framevisor/error.h"
#include "framevisor/owner_protocol.h"
#include "vmm/owner/host.h"

#define HUGEPAGES_PATH_MAX 256

struct hugepages_node {
	unsigned int nid;
	uint64_t raised;  /* hugepages that we added to the node */
	uint64_t pending; /* being added or taken off, outcome not recorded yet: ours of them are */
	uint64_t before;  /* those that the node has more than that many */
};

struct hugepages {
	char root[64]; /* before /sys and /proc; "" outside of tests */
	char record[HUGEPAGES_PATH_MAX];
	unsigned int page_kb;
	bool one_node; /* of the machine: its global files will do */
	unsigned int nr_nodes;
	struct hugepages_node node[OWNER_NODES_MAX];
	int lock_fd;
};

/*
 * Prepares for the host's nodes, and first gives back what the record says a killed owner left.
 * *returned (may be NULL) is how many hugepages those were.
 */
int hugepages_init(struct hugepages *hp, const struct host *host, const char *root,
		   const char *record, uint64_t *returned, struct error *err);

/* The same for an owner that goes on with the pool of a killed one: what the record says is raised,
 * and stays so until it is lowered. */
int hugepages_adopt(struct hugepages *hp, const struct host *host, const char *record,
		    struct error *err);

/* Whether the kernel knows hugepages of this size, and whether this process may ask for more. */
bool hugepages_supported(const struct hugepages *hp);
bool hugepages_may_raise(const struct hugepages *hp);

/*
 * Between these two no other pool owner of this machine counts or raises. Other programs are not
 * bound by it. Waits 2 s at most and then goes on without: whoever may read the file may hold it.
 * Raising and lowering are safe against those of other owners by themselves; with this lock held
 * they do not take away what another owner has just counted.
 */
void hugepages_lock(struct hugepages *hp);
void hugepages_unlock(struct hugepages *hp);

/* Hugepages of the i-th node that are free and not reserved by a mapping already. */
uint64_t hugepages_usable(const struct hugepages *hp, unsigned int i);

/* Asks for nr more hugepages on the i-th node; returns how many came (the kernel stops where memory
 * is short or fragmented). */
uint64_t hugepages_raise(struct hugepages *hp, unsigned int i, uint64_t nr);

/*
 * Takes nr of what was raised on the i-th node off again. In use, they go when they are freed. What
 * the kernel refuses to take counts as raised further on, here and in the record.
 */
int hugepages_lower(struct hugepages *hp, unsigned int i, uint64_t nr);
void hugepages_give_back(struct hugepages *hp); /* all of it; removes the record, if all went */

uint64_t hugepages_raised(const struct hugepages *hp);

#endif
