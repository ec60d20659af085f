/* SPDX-License-Identifier: MIT */
/*
 * Which frames of a node's span are there. A span has two parts: what may become NORMAL (or DMA32,
 * as the host's addresses have it), and at its end what is ZONE_MOVABLE. Each is as large as the
 * node may ever need, so that how much of the pool lies in which is decided when memory comes, and
 * frames that left may come again at the same place.
 */
#include "vmm/owner/pool_private.h"

#include <string.h>

void pool_part_bounds(const struct pool_node *node, enum pool_part part, uint64_t *start,
		      uint64_t *end)
{
	uint64_t boundary = node->spanned - node->movable;

	*start = part == PART_MOVABLE ? boundary : 0;
	*end = part == PART_MOVABLE ? node->spanned : boundary;
}

enum pool_part pool_frame_part(const struct pool_node *node, uint64_t idx)
{
	return idx < node->spanned - node->movable ? PART_NORMAL : PART_MOVABLE;
}

uint64_t pool_part_left(const struct pool_node *node, enum pool_part part)
{
	uint64_t start, end;

	pool_part_bounds(node, part, &start, &end);
	return end - start - node->present[part];
}

/* The next run of frames that are absent in [*pos, end), at most max long. */
static bool next_absent(const struct pool_node *node, uint64_t *pos, uint64_t end, uint64_t max,
			struct frame_run *run)
{
	const uint8_t *map = node->present_map;
	uint64_t first = *pos, stop;

	while (first < end && map[first])
		first++;
	for (stop = first; stop < end && stop - first < max && !map[stop];)
		stop++;
	run->first = first;
	run->nr = (uint32_t)(stop - first);
	*pos = stop;
	return stop > first;
}

int pool_each_absent(struct pool *pool, const struct pool_growth *growth,
		     int (*fn)(void *opaque, const struct frame_run *run), void *opaque)
{
	for (unsigned int nid = 0; nid < pool->nr_nodes; nid++) {
		for (unsigned int part = 0; part < NR_PARTS; part++) {
			uint64_t left = growth->nr[nid][part], pos, end;
			struct frame_run run = { .node = (uint16_t)nid };

			pool_part_bounds(&pool->node[nid], part, &pos, &end);
			while (left && next_absent(&pool->node[nid], &pos, end, left, &run)) {
				int ret = fn(opaque, &run);

				if (ret < 0)
					return ret;
				left -= run.nr;
			}
		}
	}
	return 0;
}

/* Marks frames as there or not. The caller tells the allocator. */
static void set_present(struct pool_node *node, const struct frame_run *run, bool present)
{
	memset(node->present_map + run->first, present ? PRESENT : 0, run->nr);
	for (uint64_t i = run->first; i < run->first + run->nr; i++) {
		enum pool_part part = pool_frame_part(node, i);

		node->present[part] += present ? 1 : UINT64_MAX;
	}
}

int pool_online_run(struct pool *pool, const struct frame_run *run, bool zeroed)
{
	struct pool_node *node = &pool->node[run->node];
	int ret;

	/* Decides the frames' zones. Where the host does not tell, they are NORMAL. */
	if (node->backing)
		backing_phys_pfns(node->backing, run->first, run->nr, node->phys_pfn + run->first);
	ret = mm_online_pages(pool->mm, run->node, run->first, run->nr, zeroed);
	if (ret == 0)
		set_present(node, run, true);
	return ret;
}

int pool_offline_run(struct pool *pool, const struct frame_run *run)
{
	int ret = mm_offline_pages(pool->mm, run->node, run->first, run->nr);

	if (ret == 0)
		set_present(&pool->node[run->node], run, false);
	return ret;
}

bool pool_has_movable(const struct pool *pool)
{
	return pool->config.movable.bytes || pool->config.movable.percent;
}

uint64_t pool_node_present(const struct pool_node *node)
{
	return node->present[PART_NORMAL] + node->present[PART_MOVABLE];
}

uint64_t pool_present(const struct pool *pool, enum pool_part part)
{
	uint64_t sum = 0;

	for (unsigned int nid = 0; nid < pool->nr_nodes; nid++)
		sum += pool->node[nid].present[part];
	return sum;
}
