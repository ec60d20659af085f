/* SPDX-License-Identifier: MIT */
/* Frames to clients and back, and the proof that none is lost on the way. */
#include "vmm/owner/pool_private.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "framevisor/clock.h"
#include "vmm/owner/map_check.h"

/* Frames between two looks at the clock: not zero yet, 2 MiB cost 84 us. */
#define TAKE_STEP (FRAME_SHIFT == FRAME_SHIFT_1G ? 1u : 64u)
/* The others wait so long at most for one request. */
#define TAKE_TIME_NS (20 * NS_PER_MS)

/* Never sleeps: the thread that would wait is the one that takes frames back. */
#define GFP_GUEST ((GFP_HIGHUSER_MOVABLE & ~__GFP_DIRECT_RECLAIM) | __GFP_ZERO | __GFP_NOWARN)

struct take {
	struct pool *pool;
	uint32_t id;
	bool small;
	uint64_t left;
	uint64_t taken;
	struct frame_run *runs;
	unsigned int nr_runs, room;
};

/* Adds a frame to the runs. Returns false when there is no room for another run. */
static bool add_frame(struct take *take, struct page *page)
{
	struct pool *pool = take->pool;
	unsigned int nid = mm_page_nid(pool->mm, page);
	uint64_t idx = mm_page_idx(pool->mm, page);
	struct frame_run *last = take->nr_runs ? &take->runs[take->nr_runs - 1] : NULL;

	if (last && last->node == nid && last->first + last->nr == idx) {
		last->nr++;
	} else {
		if (take->nr_runs == take->room)
			return false;
		take->runs[take->nr_runs++] =
			(struct frame_run){ .first = idx, .nr = 1, .node = (uint16_t)nid };
	}
	pool->node[nid].owner[idx] = take->id;
	page_set_owner(page, take->id, 0);
	take->taken++;
	take->left--;
	return true;
}

/* Single frames: those that are no part of a free block, as long as there are some. */
static uint64_t alloc_small(struct pool *pool, nodemask_t mask, uint64_t want)
{
	uint64_t got = 0;

	while (got < want) {
		struct page *page = mm_alloc_pages_nodemask(
			pool->mm, GFP_GUEST, 0, mask ? __builtin_ctzll(mask) : 0, &mask);

		if (!page)
			break;
		pool->batch[got++] = page;
	}
	return got;
}

/*
 * Some frames: whole blocks, the largest first, and the ones that follow each other come out of one
 * larger block, so that they join to long runs. Returns false when there are no more, or no room.
 */
static bool take_some(struct take *take, nodemask_t mask)
{
	struct pool *pool = take->pool;
	uint64_t want = take->left < TAKE_STEP ? take->left : TAKE_STEP;
	uint64_t got = take->small
			       ? alloc_small(pool, mask, want)
			       : mm_alloc_pages_bulk(pool->mm, GFP_GUEST, mask, want, pool->batch);
	uint64_t used = 0;

	while (used < got && add_frame(take, pool->batch[used]))
		used++;
	if (used < got)
		mm_free_pages_bulk(pool->mm, pool->batch + used, got - used, true);
	return used == want;
}

uint64_t pool_take(struct pool *pool, const struct pool_want *want, struct frame_run *runs,
		   unsigned int *nr_runs)
{
	struct take take = { .pool = pool,
			     .id = want->id,
			     .small = want->small,
			     .left = want->nr,
			     .runs = runs,
			     .room = *nr_runs };
	uint64_t deadline = now_ns() + TAKE_TIME_NS;
	bool more = true;

	while (more && take.left && (take.taken == 0 || now_ns() < deadline))
		more = take_some(&take, want->nodemask);
	*nr_runs = take.nr_runs;
	return take.taken;
}

/* Clears the owner of every frame of the runs. Returns how many were right before the first that
 * was not. */
static uint64_t disown(struct pool *pool, uint32_t id, const struct frame_run *runs,
		       unsigned int nr_runs)
{
	uint64_t done = 0;

	for (unsigned int r = 0; r < nr_runs; r++) {
		uint32_t *owner = pool->node[runs[r].node].owner;

		for (uint64_t i = runs[r].first; i < runs[r].first + runs[r].nr; i++, done++) {
			if (owner[i] != id)
				return done;
			owner[i] = 0;
		}
	}
	return done;
}

static void own_again(struct pool *pool, uint32_t id, const struct frame_run *runs, uint64_t nr)
{
	for (; nr; runs++) {
		uint32_t *owner = pool->node[runs->node].owner;

		for (uint64_t i = 0; i < runs->nr && nr; i++, nr--)
			owner[runs->first + i] = id;
	}
}

static void free_run(struct pool *pool, const struct frame_run *run)
{
	uint64_t done = 0;

	while (done < run->nr) {
		uint64_t nr = run->nr - done < POOL_BATCH ? run->nr - done : POOL_BATCH;

		for (uint64_t i = 0; i < nr; i++)
			pool->batch[i] = mm_page(pool->mm, run->node, run->first + done + i);
		mm_free_pages_bulk(pool->mm, pool->batch, nr, false);
		done += nr;
	}
}

int pool_give(struct pool *pool, uint32_t id, const struct frame_run *runs, unsigned int nr_runs,
	      struct map_check *check)
{
	uint64_t total = 0, done;
	int ret;

	for (unsigned int r = 0; r < nr_runs; r++)
		total += runs[r].nr;
	/* A frame named twice has no owner the second time: found in the same pass. */
	done = disown(pool, id, runs, nr_runs);
	if (done < total) {
		own_again(pool, id, runs, done);
		return -EPERM;
	}
	/* They are nobody's now, so that none of them can be mapped any more; nor given on yet. */
	ret = map_check_returned(check, runs, nr_runs);
	if (ret < 0) {
		own_again(pool, id, runs, done);
		return ret;
	}
	for (unsigned int r = 0; r < nr_runs; r++)
		free_run(pool, &runs[r]);
	pool_zero_kick(pool);
	return 0;
}

uint64_t pool_take_back(struct pool *pool, uint32_t id)
{
	uint64_t total = 0;

	for (unsigned int nid = 0; nid < pool->nr_nodes; nid++) {
		struct pool_node *node = &pool->node[nid];
		struct frame_run run = { .node = (uint16_t)nid };

		for (uint64_t i = 0; i < node->spanned; i++) {
			if (node->owner[i] != id)
				continue;
			node->owner[i] = 0;
			total++;
			if (run.nr && run.first + run.nr == i && run.nr < UINT32_MAX) {
				run.nr++;
				continue;
			}
			free_run(pool, &run);
			run.first = i;
			run.nr = 1;
		}
		free_run(pool, &run);
	}
	if (total)
		pool_zero_kick(pool);
	return total;
}

static uint64_t count_held(const struct pool_node *node, uint32_t id)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < node->spanned; i++)
		sum += id ? node->owner[i] == id : node->owner[i] != 0;
	return sum;
}

uint32_t pool_owner(const struct pool *pool, unsigned int nid, uint64_t idx)
{
	return pool->node[nid].owner[idx];
}

uint64_t pool_held(const struct pool *pool, uint32_t id)
{
	uint64_t sum = 0;

	for (unsigned int nid = 0; nid < pool->nr_nodes; nid++)
		sum += count_held(&pool->node[nid], id);
	return sum;
}

void pool_counts(struct pool *pool, int nid, struct mm_counts *counts, uint64_t *held)
{
	pool_quiesce(pool);
	mm_counts(pool->mm, nid, counts);
	if (held)
		*held = nid < 0 ? pool_held(pool, 0) : count_held(&pool->node[nid], 0);
	pool_resume(pool);
}

static int check_conservation(struct pool *pool, char *buf, size_t len)
{
	for (unsigned int nid = 0; nid < pool->nr_nodes; nid++) {
		const struct pool_node *node = &pool->node[nid];
		uint64_t held = count_held(node, 0);
		struct mm_counts c;

		mm_counts(pool->mm, (int)nid, &c);
		if (c.present != pool_node_present(node)) {
			snprintf(buf, len,
				 "node %u: the allocator has %" PRIu64 " frames, the pool %" PRIu64,
				 nid, c.present, pool_node_present(node));
			return -EUCLEAN;
		}
		if (c.free + c.cached + held + c.quarantined == c.present && c.allocated == held)
			continue;
		snprintf(buf, len,
			 "node %u: free %" PRIu64 " + cached %" PRIu64 " + held %" PRIu64
			 " + quarantined %" PRIu64 " is not present %" PRIu64
			 " (the allocator counts %" PRIu64 " as allocated)",
			 nid, c.free, c.cached, held, c.quarantined, c.present, c.allocated);
		return -EUCLEAN;
	}
	return 0;
}

int pool_check_conservation(struct pool *pool, char *buf, size_t len)
{
	int ret;

	pool_quiesce(pool);
	ret = check_conservation(pool, buf, len);
	pool_resume(pool);
	return ret;
}

/* Every frame in the allocator has memory of the host behind it, and no other frame has. */
static int check_host_memory(const struct pool *pool, char *buf, size_t len)
{
	for (unsigned int nid = 0; nid < pool->nr_nodes && !pool->changing; nid++) {
		const struct pool_node *node = &pool->node[nid];
		uint64_t present = pool_node_present(node), host;

		if (!node->backing)
			continue;
		host = backing_host_frames(node->backing);
		if (host == present && backing_populated(node->backing) == present)
			continue;
		snprintf(buf, len,
			 "node %u: the pool has %" PRIu64 " frames, the host holds %" PRIu64
			 " for it",
			 nid, present, host);
		return -EUCLEAN;
	}
	return 0;
}

int pool_validate(struct pool *pool, char *buf, size_t len)
{
	int ret;

	pool_quiesce(pool);
	ret = mm_validate(pool->mm, buf, len);
	if (ret == 0)
		ret = check_conservation(pool, buf, len);
	if (ret == 0)
		ret = check_host_memory(pool, buf, len);
	pool_resume(pool);
	return ret;
}
