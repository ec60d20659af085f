/* SPDX-License-Identifier: MIT */
/* NUMA policies: which node is asked first, and which may be asked at all. */
#include "framevisor/mempolicy.h"
#include "mm/internal.h"

static nodemask_t existing_nodes(const struct mm *mm)
{
	return mm->nr_nodes == MAX_NUMNODES ? ~(nodemask_t)0 : (UINT64_C(1) << mm->nr_nodes) - 1;
}

/* The node of the mask that is nearest to the calling CPU's. */
static int nearest(const struct mm *mm, nodemask_t nodes)
{
	unsigned int here = mm->cpu_node[mm_this_cpu(mm)];
	unsigned int best_distance = UINT32_MAX;
	int best = NUMA_NO_NODE;

	if (nodes >> here & 1)
		return (int)here;
	for (unsigned int nid = 0; nid < mm->nr_nodes; nid++) {
		if ((nodes >> nid & 1) && mm->distance[here][nid] < best_distance) {
			best_distance = mm->distance[here][nid];
			best = (int)nid;
		}
	}
	return best;
}

/* The next node of the mask after the last one, from the start again at the end. */
static int interleave(struct mempolicy *policy, nodemask_t nodes)
{
	uint32_t prev = __atomic_load_n(&policy->il_prev, __ATOMIC_RELAXED);
	uint32_t nid;

	do {
		nodemask_t later = prev < MAX_NUMNODES ? nodes >> prev << prev : 0;

		nid = (uint32_t)__builtin_ctzll(later ? later : nodes);
	} while (!__atomic_compare_exchange_n(&policy->il_prev, &prev, nid + 1, true,
					      __ATOMIC_RELAXED, __ATOMIC_RELAXED));
	return (int)nid;
}

struct page *mm_alloc_pages_policy(struct mm *mm, struct mempolicy *policy, gfp_t gfp,
				   unsigned int order)
{
	nodemask_t nodes;

	if (!policy || policy->mode == POLICY_LOCAL)
		return mm_alloc_pages(mm, gfp, order);
	nodes = policy->nodes & existing_nodes(mm);
	if (!nodes)
		return NULL;
	switch (policy->mode) {
	case POLICY_BIND:
		return mm_alloc_pages_nodemask(mm, gfp, order, nearest(mm, nodes), &nodes);
	case POLICY_INTERLEAVE:
		return mm_alloc_pages_node(mm, interleave(policy, nodes), gfp, order);
	default:
		return mm_alloc_pages_node(mm, nearest(mm, nodes), gfp, order);
	}
}
