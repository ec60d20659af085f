/* SPDX-License-Identifier: MIT */
/*
 * Offlining ZONE_MOVABLE: see jobs.h. One node after the other is emptied: what is in it is kept
 * from being given out, and VMs are asked to move, first to the other zones of the node. The host
 * has the memory in the end, all of it at once.
 */
#include "vmm/owner/jobs_private.h"

#include <errno.h>
#include <inttypes.h>

#include "vmm/owner/pool_pick.h"

static int next_node(struct jobs *jobs);

static bool chosen(const struct jobs *jobs, unsigned int nid)
{
	return jobs->only < 0 || (unsigned int)jobs->only == nid;
}

static uint64_t frames_left(const struct jobs *jobs)
{
	uint64_t sum = 0;

	for (unsigned int nid = 0; nid < pool_nr_nodes(jobs->config.pool); nid++)
		sum += chosen(jobs, nid) ? pool_movable(jobs->config.pool, nid) : 0;
	return sum;
}

static uint64_t other_nodes(const struct jobs *jobs)
{
	unsigned int nr = pool_nr_nodes(jobs->config.pool);

	return ((UINT64_C(2) << (nr - 1)) - 1) & ~(UINT64_C(1) << jobs->node);
}

static void go_on(struct jobs *jobs)
{
	int ret = next_node(jobs);

	if (ret != WORK_LATER)
		work_begun(jobs->config.work, ret);
}

static void note_why(struct jobs *jobs, int result, const struct error *err)
{
	if (result < 0)
		error_set(&jobs->why, -result, "%s", err->message);
}

static void on_left_node(void *opaque, int result, struct error *err)
{
	struct jobs *jobs = opaque;

	jobs->vacate = NULL;
	note_why(jobs, result, err);
	go_on(jobs);
}

/* What the node had no room for may go to others; what is bound to it stays for the reason that it
 * has here. */
static void on_left_zone(void *opaque, int result, struct error *err)
{
	struct jobs *jobs = opaque;

	jobs->vacate = NULL;
	note_why(jobs, result, err);
	if (result < 0 && pool_nr_nodes(jobs->config.pool) > 1 &&
	    jobs_vacate(jobs, jobs->isolated + jobs->first_isolated,
			jobs->nr_isolated - jobs->first_isolated, other_nodes(jobs),
			NOTICE_MOVE_OFFLINE, on_left_node) == WORK_LATER)
		return;
	go_on(jobs);
}

/* Where its frames may go, in frames. Other nodes' ZONE_MOVABLE may be next. */
static uint64_t room_for(const struct jobs *jobs)
{
	uint64_t room = 0;

	for (unsigned int nid = 0; nid < pool_nr_nodes(jobs->config.pool); nid++)
		room += pool_room_beside_movable(jobs->config.pool, nid);
	return room;
}

/* Begins with a node. Returns WORK_LATER, 0 when nothing has to move, or -ENOMEM. */
static int empty_node(struct jobs *jobs)
{
	unsigned int nid = (unsigned int)jobs->node, nr_runs;
	struct pool *pool = jobs->config.pool;
	uint64_t promised, spare = pool_spare(pool, &promised);
	struct frame_run *runs;
	int64_t move;
	int ret = 0;

	/* What the nodes before are to lose still counts as free. */
	for (unsigned int i = 0; i < jobs->nr_isolated; i++)
		spare -= spare < jobs->isolated[i].nr ? spare : jobs->isolated[i].nr;
	move = pool_pick_movable(pool, nid, spare, room_for(jobs), &runs, &nr_runs);
	if (move < 0)
		return (int)move;
	jobs->first_isolated = jobs->nr_isolated;
	pool_quiesce(pool);
	for (unsigned int i = 0; i < nr_runs; i++)
		jobs_isolate(jobs, &runs[i]);
	pool_resume(pool);
	if (move)
		ret = jobs_vacate(jobs, runs, nr_runs, UINT64_C(1) << nid, NOTICE_MOVE_OFFLINE,
				  on_left_zone);
	kfree(runs);
	return ret;
}

/* Nobody was asked in vain: what keeps the rest from going. */
static const char *other_reason(const struct jobs *jobs, uint64_t left)
{
	struct mm_counts counts;

	pool_counts(jobs->config.pool, jobs->only, &counts, NULL);
	if (counts.quarantined >= left)
		return "they are in quarantine";
	for (unsigned int nid = 0; nid < pool_nr_nodes(jobs->config.pool); nid++)
		if (chosen(jobs, nid) && pool_owed(jobs->config.pool, nid))
			return "VMs that are bound to the node, and the reserve, need them";
	return "there is no room elsewhere for what VMs hold there";
}

static void say_why(struct jobs *jobs)
{
	uint64_t left = frames_left(jobs);

	if (!left || jobs->err.code)
		return;
	if (!jobs->why.code)
		error_set(&jobs->why, EBUSY, "%s", other_reason(jobs, left));
	error_set(&jobs->err, EBUSY,
		  "%" PRIu64 " of %" PRIu64 " frames of ZONE_MOVABLE stay, %" PRIu64
		  " have gone: %s",
		  left, jobs->frames, jobs->frames - left, jobs->why.message);
}

/* All nodes are as empty as they become. 0, or -EBUSY when nothing is. */
static int take_out(struct jobs *jobs)
{
	int ret = pool_shrink_movable(jobs->config.pool, jobs->only, &jobs->shrink);

	jobs->begun = ret == 0;
	return ret;
}

static int next_node(struct jobs *jobs)
{
	int nr = (int)pool_nr_nodes(jobs->config.pool), ret = 0;

	while (ret == 0 && ++jobs->node < nr)
		if (chosen(jobs, (unsigned int)jobs->node))
			ret = empty_node(jobs);
	return ret ? ret : take_out(jobs);
}

int jobs_begin_movable(void *opaque)
{
	struct jobs *jobs = opaque;
	struct pool *pool = jobs->config.pool;
	uint64_t blocks = pool_blocks_max(pool, mm_pageblock_frames(pool_mm(pool)));

	jobs->state = JOB_RUNNING;
	jobs->frames = frames_left(jobs);
	if (!jobs->frames)
		return error_set(&jobs->err, ENOENT, "no memory is in ZONE_MOVABLE there");
	/* What others were promised stays, whoever may move. */
	pool_shrink_check(pool, jobs->frames, &jobs->why);
	/* Both ends of a zone may lie within a block. */
	jobs->isolated =
		kcalloc(blocks + 2 * pool_nr_nodes(pool), sizeof(*jobs->isolated), GFP_OBJECTS);
	return jobs->isolated ? next_node(jobs) : -ENOMEM;
}

void jobs_end_movable(void *opaque, int result)
{
	struct jobs *jobs = opaque;

	jobs_finish_shrink(jobs);
	if (result == 0 || result == -EBUSY) {
		say_why(jobs);
		result = jobs->err.code ? -EBUSY : 0;
	}
	jobs_conclude(jobs, result);
}

int jobs_offline_movable(struct jobs *jobs, int node, struct error *err)
{
	int ret = jobs_take_on(jobs, JOB_OFFLINE_MOVABLE, err);

	if (ret < 0)
		return ret;
	jobs->only = node;
	return jobs_submit(jobs, err);
}
