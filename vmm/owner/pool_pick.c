/* SPDX-License-Identifier: MIT */
/* Choosing what to empty: see pool_pick.h. */
#include "vmm/owner/pool_pick.h"

#include <errno.h>

#include "vmm/owner/objects.h"
#include "vmm/owner/pool_private.h"

/* One block, or one pageblock. */
struct use {
	uint64_t free, held;
	bool whole; /* all present, of one zone, none quarantined */
};

static struct use look_at(const struct pool *pool, unsigned int nid, uint64_t first, uint64_t nr)
{
	const struct pool_node *node = &pool->node[nid];
	unsigned int zone = page_zonenum(mm_page(pool->mm, nid, first));
	struct use use = { .whole = true };

	for (uint64_t i = first; i < first + nr; i++) {
		const struct page *page = mm_page(pool->mm, nid, i);

		if (!node->present_map[i] || page_zonenum(page) != zone ||
		    page_test(page, PAGE_FLAG(hwpoison)))
			use.whole = false;
		else if (node->owner[i])
			use.held++;
		else
			use.free++;
	}
	return use;
}

uint64_t pool_block_frames(struct pool *pool, unsigned int order)
{
	uint64_t block = UINT64_C(1) << order, grain = mm_pageblock_frames(pool->mm);

	return block > grain ? block : grain;
}

uint64_t pool_blocks_max(const struct pool *pool, uint64_t block)
{
	uint64_t sum = 0;

	for (unsigned int nid = 0; nid < pool->nr_nodes; nid++)
		sum += pool->node[nid].spanned / block;
	return sum;
}

uint64_t pool_free_blocks(const struct pool *pool, uint64_t block)
{
	uint64_t sum = 0;

	for (unsigned int nid = 0; nid < pool->nr_nodes; nid++) {
		for (uint64_t i = 0; i + block <= pool->node[nid].spanned; i += block) {
			struct use use = look_at(pool, nid, i, block);

			sum += use.whole && use.free == block;
		}
	}
	return sum;
}

/* The best of one node. index is that of the node's first block. */
static bool pick_of_node(const struct pool *pool, unsigned int nid, uint64_t block,
			 const uint8_t *tried, struct frame_run *run, uint64_t *held)
{
	uint64_t spanned = pool->node[nid].spanned, room = 0, best_free = 0;

	*held = UINT64_MAX;
	for (uint64_t i = 0; i < spanned; i += block) {
		uint64_t nr = spanned - i < block ? spanned - i : block;
		struct use use = look_at(pool, nid, i, nr);

		/* A block that is free as a whole is no place to move to. */
		if (use.whole && use.free == block)
			continue;
		room += use.free;
		if (nr < block || !use.whole || tried[i / block] || use.held >= *held)
			continue;
		*held = use.held;
		best_free = use.free;
		*run = (struct frame_run){ .first = i,
					   .nr = (uint32_t)block,
					   .node = (uint16_t)nid };
	}
	return *held != UINT64_MAX && room - best_free >= *held;
}

bool pool_pick_block(const struct pool *pool, uint64_t block, const uint8_t *tried,
		     struct frame_run *run, uint64_t *held, uint64_t *index)
{
	uint64_t base = 0;

	*held = UINT64_MAX;
	for (unsigned int nid = 0; nid < pool->nr_nodes; nid++) {
		struct frame_run found;
		uint64_t cost;

		if (pick_of_node(pool, nid, block, tried + base, &found, &cost) && cost < *held) {
			*run = found;
			*held = cost;
			*index = base + found.first / block;
		}
		base += pool->node[nid].spanned / block;
	}
	return *held != UINT64_MAX;
}

/* A pageblock of the node: what is free in it, and what may move. bound NULL: all may. */
static void count_to_vacate(const struct pool *pool, const struct frame_run *run,
			    bool (*bound)(void *opaque, uint32_t id), void *opaque, struct use *use)
{
	const struct pool_node *node = &pool->node[run->node];

	*use = (struct use){ 0 };
	for (uint64_t i = run->first; i < run->first + run->nr; i++) {
		if (!node->present_map[i] ||
		    page_test(mm_page(pool->mm, run->node, i), PAGE_FLAG(hwpoison)))
			continue;
		if (!node->owner[i])
			use->free++;
		else if (!bound || !bound(opaque, node->owner[i]))
			use->held++;
	}
}

int64_t pool_pick_to_vacate(struct pool *pool, unsigned int nid, uint64_t frames,
			    bool (*bound)(void *opaque, uint32_t id), void *opaque,
			    struct frame_run **runs, unsigned int *nr_runs)
{
	uint64_t grain = mm_pageblock_frames(pool->mm), end = pool->node[nid].spanned;
	uint64_t found = 0, move = 0;

	*nr_runs = 0;
	*runs = kcalloc(end / grain + 1, sizeof(**runs), GFP_OBJECTS);
	if (!*runs)
		return -ENOMEM;
	/* ZONE_MOVABLE is the end of the span, so this is its order of preference. */
	while (end > 0 && found < frames) {
		uint64_t first = (end - 1) / grain * grain;
		struct frame_run run = { .first = first,
					 .nr = (uint32_t)(end - first),
					 .node = (uint16_t)nid };
		struct use use;

		count_to_vacate(pool, &run, bound, opaque, &use);
		end = first;
		if (use.free + use.held == 0)
			continue;
		found += use.free + use.held;
		move += use.held;
		(*runs)[(*nr_runs)++] = run;
	}
	if (found >= frames)
		return (int64_t)move;
	kfree(*runs);
	*runs = NULL;
	return -EBUSY;
}

int64_t pool_pick_movable(struct pool *pool, unsigned int nid, uint64_t frames, uint64_t room,
			  struct frame_run **runs, unsigned int *nr_runs)
{
	uint64_t grain = mm_pageblock_frames(pool->mm), start, end, found = 0, move = 0;

	pool_part_bounds(&pool->node[nid], PART_MOVABLE, &start, &end);
	*nr_runs = 0;
	*runs = kcalloc((end - start) / grain + 2, sizeof(**runs), GFP_OBJECTS);
	if (!*runs)
		return -ENOMEM;
	while (end > start && found < frames) {
		uint64_t first = (end - 1) / grain * grain;
		struct frame_run run = { .first = first > start ? first : start,
					 .node = (uint16_t)nid };
		struct use use;

		run.nr = (uint32_t)(end - run.first);
		count_to_vacate(pool, &run, NULL, NULL, &use);
		end = run.first;
		if (use.free + use.held == 0 || use.held > room - move)
			continue;
		found += use.free + use.held;
		move += use.held;
		(*runs)[(*nr_runs)++] = run;
	}
	return (int64_t)move;
}
