/* SPDX-License-Identifier: MIT */
/*
 * In which order an allocation tries the zones: all zones of the nearest node from high to low,
 * then the next node (the kernel's node order). The lists are built once, with every zone that can
 * ever have frames; zones that are empty at the moment are skipped on the walk, so that onlining
 * and offlining never change a list under a reader.
 */
#include "mm/internal.h"

/* Adds a node's zones, highest first. */
static void add_node_zones(struct zonelist *zonelist, pg_data_t *pgdat)
{
	for (unsigned int type = MAX_NR_ZONES; type-- > 0;) {
		struct zone *zone = &pgdat->node_zones[type];

		if (!zone->pageset)
			continue;
		zonelist->refs[zonelist->nr++] =
			(struct zoneref){ .zone = zone, .zone_idx = type, .nid = zone->nid };
	}
}

/*
 * The nearest node not in used, or -1. A node with CPUs is a little further away than one without
 * (kernel: PENALTY_FOR_NODE_WITH_CPUS), and one with a smaller number than the next ones, so that
 * nodes overflow around a ring. Ties are broken by load: a node that is already another node's
 * first choice at the same distance comes later, so that neighbours do not all overflow into the
 * same one (kernel: find_next_best_node()).
 */
static int find_next_best_node(const struct mm *mm, unsigned int nid, nodemask_t used,
			       const uint32_t *load)
{
	uint64_t best_value = UINT64_MAX;
	int best = -1;

	if (!(used >> nid & 1))
		return (int)nid;
	for (unsigned int n = 0; n < mm->nr_nodes; n++) {
		uint64_t value;

		if (used >> n & 1)
			continue;
		value = (uint64_t)mm->distance[nid][n] + (n < nid) + !(mm->cpuless >> n & 1);
		value = value * MAX_NUMNODES * MAX_NUMNODES + load[n];
		if (value < best_value) {
			best_value = value;
			best = (int)n;
		}
	}
	return best;
}

void build_zonelists(struct mm *mm)
{
	uint32_t load[MAX_NUMNODES] = { 0 };

	for (unsigned int nid = 0; nid < mm->nr_nodes; nid++) {
		pg_data_t *pgdat = mm->node[nid];
		struct zonelist *fallback = &pgdat->node_zonelists[ZONELIST_FALLBACK];
		int previous = (int)nid;
		nodemask_t used = 0;
		int next;

		add_node_zones(&pgdat->node_zonelists[ZONELIST_NOFALLBACK], pgdat);
		while ((next = find_next_best_node(mm, nid, used, load)) >= 0) {
			/* Only the first of a group of equal distance is loaded. */
			if (mm->distance[nid][next] != mm->distance[nid][previous])
				load[next] += 1;
			used |= UINT64_C(1) << next;
			previous = next;
			add_node_zones(fallback, mm->node[next]);
		}
	}
	update_zonelist_starts(mm);
}

/* After zones became populated or empty. Single words: a reader sees the old or the new start. */
void update_zonelist_starts(struct mm *mm)
{
	for (unsigned int nid = 0; nid < mm->nr_nodes; nid++) {
		for (unsigned int i = 0; i < MAX_ZONELISTS; i++) {
			struct zonelist *zonelist = &mm->node[nid]->node_zonelists[i];

			for (unsigned int type = 0; type < MAX_NR_ZONES; type++) {
				uint32_t at = 0;

				while (at < zonelist->nr &&
				       (zonelist->refs[at].zone_idx > type ||
					!managed_zone(zonelist->refs[at].zone)))
					at++;
				__atomic_store_n(&zonelist->first[type], at, __ATOMIC_RELAXED);
			}
		}
	}
	hot_update_tables(mm);
}
