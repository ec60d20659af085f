/* SPDX-License-Identifier: MIT */
/*
 * Less memory for the pool: free frames leave the allocator, their part of the file becomes a hole,
 * and the host has its hugepages back. See pool.h.
 *
 * What is taken: ZONE_MOVABLE first, in which nothing lies that could not be moved; within a zone
 * from the end of the node down, as growth fills from its start; of several nodes from each alike.
 */
#include "vmm/owner/pool_private.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "framevisor/size.h"
#include "vmm/owner/objects.h"

/* Runs are released in pieces of this many frames, so that progress and an end can be seen. */
#define RELEASE_STEP 512

/* What a node has that nobody holds: free or in a cache, and in a state to be given away. */
static bool takeable(const struct pool *pool, unsigned int nid, uint64_t idx)
{
	const struct pool_node *node = &pool->node[nid];

	return node->present_map[idx] && node->owner[idx] == 0 &&
	       !page_test(mm_page(pool->mm, nid, idx), PAGE_FLAG(hwpoison));
}

static uint64_t count_takeable(const struct pool *pool, unsigned int nid, enum pool_part part)
{
	uint64_t start, end, sum = 0;

	pool_part_bounds(&pool->node[nid], part, &start, &end);
	for (uint64_t i = start; i < end; i++)
		sum += takeable(pool, nid, i);
	return sum;
}

/* The same, without what is kept for VMs that are bound to the node. */
static uint64_t count_free_to_go(struct pool *pool, unsigned int nid, enum pool_part part)
{
	uint64_t owed = pool->node[nid].owed, can, nr = count_takeable(pool, nid, part);

	if (!owed)
		return nr;
	can = pool_to_be_taken_out(pool, nid);
	can = can > owed ? can - owed : 0;
	return nr < can ? nr : can;
}

static int add_run(struct pool_shrink *shrink, const struct frame_run *run)
{
	if (shrink->nr_runs == shrink->room) {
		unsigned int room = shrink->room ? 2 * shrink->room : 64;
		struct frame_run *runs = krealloc(shrink->runs, room * sizeof(*runs), GFP_OBJECTS);

		if (!runs)
			return -ENOMEM;
		shrink->runs = runs;
		shrink->room = room;
	}
	shrink->runs[shrink->nr_runs++] = *run;
	return 0;
}

/* Takes a run out of the allocator, or the frames of it that can be. Returns how many. */
static uint64_t take_run(struct pool *pool, struct pool_shrink *shrink, struct frame_run run)
{
	struct frame_run one = run;
	uint64_t taken = 0;

	/* Room for it first: a frame that left the allocator has to be remembered. */
	if (add_run(shrink, &run) < 0)
		return 0;
	if (pool_offline_run(pool, &run) == 0)
		return run.nr;
	shrink->nr_runs--;
	if (run.nr == 1)
		return 0;
	one.nr = 1;
	for (uint64_t i = 0; i < run.nr; i++) {
		one.first = run.first + i;
		taken += take_run(pool, shrink, one);
	}
	return taken;
}

/* Up to nr frames of a part, from its end down. Returns how many. */
static uint64_t take_from(struct pool *pool, struct pool_shrink *shrink, unsigned int nid,
			  enum pool_part part, uint64_t nr)
{
	uint64_t start, end, taken = 0;

	pool_part_bounds(&pool->node[nid], part, &start, &end);
	while (taken < nr && end > start) {
		struct frame_run run = { .node = (uint16_t)nid };

		while (end > start && !takeable(pool, nid, end - 1))
			end--;
		while (end > start && run.nr < RELEASE_STEP && run.nr < nr - taken &&
		       takeable(pool, nid, end - 1)) {
			run.nr++;
			end--;
		}
		run.first = end;
		if (run.nr)
			taken += take_run(pool, shrink, run);
	}
	return taken;
}

/* From the chosen nodes alike, as far as they have some. Returns how many are still missing. */
static uint64_t take_part(struct pool *pool, struct pool_shrink *shrink, int nid,
			  enum pool_part part, uint64_t missing)
{
	uint64_t room[OWNER_NODES_MAX] = { 0 }, nr[OWNER_NODES_MAX];

	for (unsigned int i = 0; i < pool->nr_nodes; i++)
		if (nid < 0 || i == (unsigned int)nid)
			room[i] = count_free_to_go(pool, i, part);
	host_spread(missing, pool->nr_nodes, room, nr);
	for (unsigned int i = 0; i < pool->nr_nodes; i++)
		missing -= take_from(pool, shrink, i, part, nr[i]);
	return missing;
}

/* Everything that has not been released is the allocator's again. */
static void take_back(struct pool *pool, struct pool_shrink *shrink)
{
	for (unsigned int i = shrink->released; i < shrink->nr_runs; i++)
		pool_online_run(pool, &shrink->runs[i], false);
	kfree(shrink->runs);
	shrink->runs = NULL;
	shrink->nr_runs = shrink->room = shrink->released = 0;
}

static int refuse(struct pool *pool, uint64_t frames, uint64_t can, uint64_t promised,
		  const char *why, struct error *err)
{
	char size[SIZE_TEXT_MAX], most[SIZE_TEXT_MAX], lack[SIZE_TEXT_MAX], used[SIZE_TEXT_MAX],
		reserve[SIZE_TEXT_MAX];

	return error_set(err, EBUSY,
			 "the pool cannot shrink by %s: that is %s too much (%s promised to VMs, "
			 "%s in reserve%s); %s can go",
			 size_format(frames_to_bytes(frames), size, sizeof(size)),
			 size_format(frames_to_bytes(frames - can), lack, sizeof(lack)),
			 size_format(frames_to_bytes(promised), used, sizeof(used)),
			 size_format(frames_to_bytes(mm_totalreserve_pages(pool->mm)), reserve,
				     sizeof(reserve)),
			 why, size_format(frames_to_bytes(can), most, sizeof(most)));
}

int pool_shrink_check(struct pool *pool, uint64_t frames, struct error *err)
{
	uint64_t promised, spare = pool_spare(pool, &promised);

	return frames > spare ? refuse(pool, frames, spare, promised, "", err) : 0;
}

/* So many frames are out of the allocator, and on their way to the host. */
static void begin_release(struct pool *pool, uint64_t frames)
{
	pool->changing = true;
	atomic_store(&pool->work_done, 0);
	atomic_store(&pool->work_total, frames);
}

int pool_shrink_begin(struct pool *pool, uint64_t frames, int nid, struct pool_shrink *shrink,
		      struct error *err)
{
	uint64_t missing = frames, promised;
	char held[96];
	int ret;

	*shrink = (struct pool_shrink){ .frames = frames };
	ret = pool_shrink_check(pool, frames, err);
	if (ret < 0)
		return ret;
	pool_quiesce(pool);
	for (int part = PART_MOVABLE; missing && part >= PART_NORMAL; part--)
		missing = take_part(pool, shrink, nid, (enum pool_part)part, missing);
	if (missing)
		take_back(pool, shrink);
	else
		begin_release(pool, frames);
	pool_resume(pool);
	if (!missing)
		return 0;
	pool_spare(pool, &promised);
	shrink->elsewhere = nid >= 0;
	snprintf(held, sizeof(held), ", the rest%s is held by VMs or kept for them",
		 nid < 0 ? "" : " of this node");
	return refuse(pool, frames, frames - missing, promised, held, err);
}

int pool_shrink_movable(struct pool *pool, int nid, struct pool_shrink *shrink)
{
	uint64_t promised, spare = pool_spare(pool, &promised), all = 0;

	*shrink = (struct pool_shrink){ 0 };
	pool_quiesce(pool);
	for (unsigned int i = 0; i < pool->nr_nodes; i++)
		if (nid < 0 || i == (unsigned int)nid)
			all += count_free_to_go(pool, i, PART_MOVABLE);
	if (all > spare)
		all = spare;
	shrink->frames = all - take_part(pool, shrink, nid, PART_MOVABLE, all);
	if (shrink->frames)
		begin_release(pool, shrink->frames);
	else
		take_back(pool, shrink);
	pool_resume(pool);
	return shrink->frames ? 0 : -EBUSY;
}

uint64_t pool_room_beside_movable(struct pool *pool, unsigned int nid)
{
	uint64_t room = count_takeable(pool, nid, PART_NORMAL),
		 can = pool_to_be_taken_out(pool, nid);

	return room < can ? room : can;
}

int pool_shrink_release(struct pool *pool, struct pool_shrink *shrink, struct error *err)
{
	uint64_t done = 0, before = hugepages_raised(&pool->hugepages);
	int ret = 0;

	while (ret == 0 && shrink->released < shrink->nr_runs) {
		const struct frame_run *run = &shrink->runs[shrink->released];
		struct backing *backing = pool->node[run->node].backing;

		if (atomic_load(&pool->cancel))
			ret = -ECANCELED;
		else if (backing)
			ret = backing_depopulate(backing, run->first, run->nr);
		if (ret < 0)
			break;
		shrink->released++;
		shrink->nr[run->node] += run->nr;
		done += run->nr;
		atomic_store(&pool->work_done, done);
	}
	if (pool->hugetlb) {
		hugepages_lock(&pool->hugepages);
		for (unsigned int i = 0; i < pool->nr_nodes; i++)
			hugepages_lower(&pool->hugepages, i, shrink->nr[i]);
		hugepages_unlock(&pool->hugepages);
		shrink->hugepages = before - hugepages_raised(&pool->hugepages);
	}
	if (ret < 0)
		return error_set_errno(err, -ret,
				       "the host took back %" PRIu64 " of %" PRIu64 " frames", done,
				       shrink->frames);
	return 0;
}

void pool_shrink_finish(struct pool *pool, struct pool_shrink *shrink)
{
	pool_quiesce(pool);
	take_back(pool, shrink);
	pool->raised = hugepages_raised(&pool->hugepages);
	pool->changing = false;
	pool_resume(pool);
	pool_zero_kick(pool);
}
