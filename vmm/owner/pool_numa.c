/* SPDX-License-Identifier: MIT */
/*
 * Frames of a node that are kept for clients: see pool_keep(). A VM whose memory is bound to a node
 * would wait for ever when others, who could use any, have taken that node's frames.
 */
#include "vmm/owner/pool_private.h"

#include <errno.h>
#include <inttypes.h>

#include "framevisor/size.h"

/* A node's frames beyond its part of the reserve; isolated ones among them or not. */
static uint64_t beyond_reserve(struct pool *pool, unsigned int nid, bool isolated)
{
	uint64_t reserve = mm_totalreserve_pages(pool->mm);
	struct mm_counts all, node;
	uint64_t unused;

	mm_counts(pool->mm, -1, &all);
	mm_counts(pool->mm, (int)nid, &node);
	unused = node.free + node.cached - (isolated ? 0 : node.isolated);
	if (all.present)
		reserve = (reserve * node.present + all.present - 1) / all.present;
	return unused > reserve ? unused - reserve : 0;
}

uint64_t pool_to_be_had(struct pool *pool, unsigned int nid)
{
	return beyond_reserve(pool, nid, false);
}

uint64_t pool_to_be_taken_out(struct pool *pool, unsigned int nid)
{
	return beyond_reserve(pool, nid, true);
}

/* More is wanted there than is left. */
static int refuse(struct pool *pool, unsigned int nid, uint64_t wanted, uint64_t room,
		  struct error *err)
{
	char want[SIZE_TEXT_MAX], has[SIZE_TEXT_MAX], kept[SIZE_TEXT_MAX], lack[SIZE_TEXT_MAX];

	return error_set(
		err, ENOMEM,
		"node %d of the host cannot give %s: of the pool there %s can be had, and "
		"%s of it are kept for other VMs, %s are missing; use policy=preferred, another "
		"node, or a larger pool",
		pool->node[nid].host_nid, size_format(frames_to_bytes(wanted), want, sizeof(want)),
		size_format(frames_to_bytes(room), has, sizeof(has)),
		size_format(frames_to_bytes(pool->node[nid].owed), kept, sizeof(kept)),
		size_format(frames_to_bytes(wanted + pool->node[nid].owed - room), lack,
			    sizeof(lack)));
}

void pool_owe(struct pool *pool, unsigned int nid, uint64_t before, uint64_t after)
{
	pool->node[nid].owed += after - before;
}

uint64_t pool_owed(const struct pool *pool, unsigned int nid)
{
	return pool->node[nid].owed;
}

int pool_keep(struct pool *pool, unsigned int nid, uint64_t before, uint64_t after,
	      uint64_t *missing, struct error *err)
{
	struct pool_node *node = &pool->node[nid];
	uint64_t room = pool_to_be_had(pool, nid);
	uint64_t need = node->owed - before + after;
	uint64_t now = mm_totalreserve_pages(pool->mm), reserve = now;
	struct mm_counts counts;

	if (after <= before || need <= room) {
		pool_owe(pool, nid, before, after);
		return 0;
	}
	/* The node's part of a larger reserve, at most all of it. */
	do {
		*missing = need - room + (reserve - now);
	} while (pool_reserve_grows(pool, *missing, &reserve));
	mm_counts(pool->mm, -1, &counts);
	if (node->capacity - pool_node_present(node) < *missing || pool->config.size ||
	    counts.present + *missing > pool->max_frames)
		return refuse(pool, nid, after - before, room, err);
	return -EAGAIN;
}

uint64_t pool_take_owed(struct pool *pool, const struct pool_want *want, const uint64_t *owed,
			struct frame_run *runs, unsigned int *nr_runs)
{
	unsigned int room = *nr_runs, used = 0;
	bool others = false;
	uint64_t taken = 0;

	for (unsigned int nid = 0; nid < pool->nr_nodes; nid++)
		others = others || pool->node[nid].owed > owed[nid];
	if (!others)
		return pool_take(pool, want, runs, nr_runs);
	for (unsigned int nid = 0; nid < pool->nr_nodes && taken < want->nr && used < room; nid++) {
		uint64_t kept = pool->node[nid].owed - owed[nid];
		unsigned int got_runs = room - used;
		struct pool_want part = *want;
		uint64_t most;

		if (want->nodemask && !(want->nodemask >> nid & 1))
			continue;
		most = pool_to_be_had(pool, nid);
		if (kept && most <= kept)
			continue;
		part.nodemask = UINT64_C(1) << nid;
		part.nr = want->nr - taken;
		if (kept && part.nr > most - kept)
			part.nr = most - kept;
		taken += pool_take(pool, &part, runs + used, &got_runs);
		used += got_runs;
	}
	*nr_runs = used;
	return taken;
}

uint64_t pool_nodes_of_host(const struct pool *pool, uint64_t host_nodes, bool *all)
{
	uint64_t nodes = 0, found = 0;

	for (unsigned int nid = 0; nid < pool->nr_nodes; nid++) {
		int host = pool->node[nid].host_nid;

		if (host < 0 || host >= OWNER_NODES_MAX || !(host_nodes >> host & 1))
			continue;
		nodes |= UINT64_C(1) << nid;
		found |= UINT64_C(1) << host;
	}
	*all = found == host_nodes;
	return nodes;
}
