/* SPDX-License-Identifier: MIT */
/*
 * Jobs for which VMs have to move out of frames: compaction, a frame that goes out of use, and room
 * on one node for a shrink. See jobs.h, vacate.h and pool_pick.h.
 *
 * While they are asked, the pageblocks in question are isolated: what comes free there is not given
 * out. So many other frames stay in circulation that no VM has to wait for it.
 */
#include "vmm/owner/jobs_private.h"

#include <errno.h>
#include <inttypes.h>

#include "framevisor/frame.h"
#include "framevisor/mmzone.h"
#include "framevisor/page.h"
#include "framevisor/vmstat.h"
#include "vmm/owner/pool_pick.h"

/* Without any frame coming back, of a VMM that is alive. */
#define MOVE_TIMEOUT_MS 10000
/* Of the node's frames this part stays in circulation, beside the reserves and those that are moved
 * to. */
#define SLACK_PART 32

static struct mm *mm_of(const struct jobs *jobs)
{
	return pool_mm(jobs->config.pool);
}

int jobs_isolate(struct jobs *jobs, const struct frame_run *run)
{
	int ret = mm_isolate_pages(mm_of(jobs), run->node, run->first, run->nr);

	if (ret == 0)
		jobs->isolated[jobs->nr_isolated++] = *run;
	return ret;
}

void jobs_stop_moving(struct jobs *jobs)
{
	vacate_cancel(jobs->vacate);
	jobs->vacate = NULL;
	for (unsigned int i = 0; i < jobs->nr_isolated; i++) {
		const struct frame_run *run = &jobs->isolated[i];

		mm_unisolate_pages(mm_of(jobs), run->node, run->first, run->nr);
	}
	kfree(jobs->isolated);
	jobs->isolated = NULL;
	jobs->nr_isolated = 0;
}

static void on_moved(void *opaque, uint64_t frames)
{
	struct jobs *jobs = opaque;

	jobs->moved += frames;
	mm_count_vm_events(pool_mm(jobs->config.pool), PGMIGRATE_SUCCESS, frames);
}

struct bound_search {
	unsigned int node;
	uint32_t id;
	bool bound;
};

static void look_bound(void *opaque, const struct server_client_info *info)
{
	struct bound_search *search = opaque;

	if (info->session->id == search->id)
		search->bound = info->session->wants_bound[search->node] != 0;
}

/* Whether a VM is to have its memory on the job's node. */
static bool is_bound(void *opaque, uint32_t id)
{
	const struct jobs *jobs = opaque;
	struct bound_search search = { .node = (unsigned int)jobs->node, .id = id };

	server_each(jobs->config.server, look_bound, &search);
	return search.bound;
}

int jobs_vacate(struct jobs *jobs, const struct frame_run *runs, unsigned int nr_runs,
		uint64_t nodemask, enum notice_move_reason reason,
		void (*done)(void *opaque, int result, struct error *err))
{
	/* Who is bound to the node does not leave it. */
	bool leaves = reason == NOTICE_MOVE_OFFLINE && !(nodemask >> jobs->node & 1);
	const struct vacate_config config = { .loop = jobs->config.loop,
					      .pool = jobs->config.pool,
					      .server = jobs->config.server,
					      .runs = runs,
					      .nr_runs = nr_runs,
					      .nodemask = nodemask,
					      .reason = reason,
					      .timeout_ms = MOVE_TIMEOUT_MS,
					      .stays = leaves ? is_bound : NULL,
					      .done = done,
					      .progress = on_moved,
					      .opaque = jobs };

	jobs->vacate = vacate_start(&config);
	return jobs->vacate ? WORK_LATER : -ENOMEM;
}

/* --- compact --- */

static int compact_next(struct jobs *jobs);

static void on_block_vacated(void *opaque, int result, struct error *err)
{
	struct jobs *jobs = opaque;
	int ret;

	(void)result; /* the next block may be easier */
	(void)err;
	jobs->vacate = NULL;
	jobs_stop_moving(jobs);
	ret = work_waiting(jobs->config.work) ? 0 : compact_next(jobs);
	if (ret != WORK_LATER)
		work_begun(jobs->config.work, ret);
}

/* Isolates the block. -EAGAIN if the VMs cannot do without what is free in it. */
static int isolate_for(struct jobs *jobs, const struct frame_run *run, uint64_t held)
{
	struct mm_counts counts;
	uint64_t left, keep;

	jobs->isolated = kcalloc(1, sizeof(*jobs->isolated), GFP_OBJECTS);
	if (!jobs->isolated)
		return -ENOMEM;
	mm_counts(mm_of(jobs), run->node, &counts);
	keep = held + mm_totalreserve_pages(mm_of(jobs)) + counts.present / SLACK_PART;
	left = counts.free + counts.cached - (jobs->block - held);
	return left < keep ? -EAGAIN : jobs_isolate(jobs, run);
}

/* Begins with the next block. Returns WORK_LATER, or 0 when there is none. */
static int compact_next(struct jobs *jobs)
{
	struct frame_run run = { 0 };
	uint64_t held = 0;
	int ret;

	do {
		if (!pool_pick_block(jobs->config.pool, jobs->block, jobs->tried, &run, &held,
				     &jobs->picked))
			return 0;
		pool_quiesce(jobs->config.pool);
		ret = isolate_for(jobs, &run, held);
		pool_resume(jobs->config.pool);
		if (ret < 0)
			jobs_stop_moving(jobs);
		/* Once each: what moves out of one may well move into another. */
		jobs->tried[jobs->picked] = 1;
	} while (ret == -EAGAIN);
	if (ret < 0)
		return ret;
	return jobs_vacate(jobs, &run, 1, UINT64_C(1) << run.node, NOTICE_MOVE_COMPACT,
			   on_block_vacated);
}

int jobs_begin_compact(void *opaque)
{
	struct jobs *jobs = opaque;
	struct pool *pool = jobs->config.pool;

	jobs->state = JOB_RUNNING;
	jobs->block = pool_block_frames(pool, jobs->order);
	jobs->blocks_before = jobs->blocks_after = pool_free_blocks(pool, jobs->block);
	jobs->tried = kcalloc(pool_blocks_max(pool, jobs->block) + 1, 1, GFP_OBJECTS);
	if (!jobs->tried)
		return -ENOMEM;
	return compact_next(jobs);
}

void jobs_end_compact(void *opaque, int result)
{
	struct jobs *jobs = opaque;

	jobs_stop_moving(jobs);
	kfree(jobs->tried);
	jobs->tried = NULL;
	jobs->blocks_after = pool_free_blocks(jobs->config.pool, jobs->block);
	jobs_conclude(jobs, result);
}

int jobs_compact(struct jobs *jobs, unsigned int order, struct error *err)
{
	int ret = order > MAX_ORDER ? error_set(err, EINVAL, "the order is from 0 to %d", MAX_ORDER)
				    : jobs_take_on(jobs, JOB_COMPACT, err);

	if (ret < 0)
		return ret;
	jobs->order = order;
	return jobs_submit(jobs, err);
}

/* --- offline-frame --- */

static bool quarantined(const struct jobs *jobs)
{
	const struct page *page = mm_page(mm_of(jobs), (unsigned int)jobs->node, jobs->index);

	return page_test(page, PAGE_FLAG(hwpoison)) &&
	       pool_owner(jobs->config.pool, (unsigned int)jobs->node, jobs->index) == 0;
}

static void on_frame_vacated(void *opaque, int result, struct error *err)
{
	struct jobs *jobs = opaque;

	jobs->vacate = NULL;
	if (result < 0)
		result =
			error_set(&jobs->err, EBUSY,
				  "%s; it is not given out again once it comes back", err->message);
	work_begun(jobs->config.work, result);
}

static int refuse_offline(struct jobs *jobs, int ret)
{
	const char *why = "is part of a larger block that cannot be moved";

	if (ret == -EALREADY)
		why = "is in quarantine, or marked for it, already";
	else if (ret == -EINVAL)
		why = "is not in the pool";
	return error_set(&jobs->err, -ret, "frame %d:%" PRIu64 " %s", jobs->node, jobs->index, why);
}

int jobs_begin_offline(void *opaque)
{
	struct jobs *jobs = opaque;
	struct frame_run run = { .first = jobs->index, .nr = 1, .node = (uint16_t)jobs->node };
	int ret;

	jobs->state = JOB_RUNNING;
	pool_quiesce(jobs->config.pool);
	ret = mm_soft_offline_page(mm_of(jobs),
				   mm_page(mm_of(jobs), (unsigned int)jobs->node, jobs->index));
	pool_resume(jobs->config.pool);
	if (ret == 0 || ret == -EINPROGRESS)
		pool_note_bad(jobs->config.pool, (unsigned int)jobs->node, jobs->index, true);
	if (ret == -EINPROGRESS)
		return jobs_vacate(jobs, &run, 1, 0, NOTICE_MOVE_POISON, on_frame_vacated);
	return ret < 0 ? refuse_offline(jobs, ret) : 0;
}

void jobs_end_offline(void *opaque, int result)
{
	struct jobs *jobs = opaque;

	jobs_stop_moving(jobs);
	jobs->nr[jobs->node] = result == 0 && quarantined(jobs);
	jobs_conclude(jobs, result);
}

int jobs_offline(struct jobs *jobs, unsigned int node, uint64_t index, struct error *err)
{
	int ret;

	if (node >= pool_nr_nodes(jobs->config.pool) ||
	    index >= pool_spanned(jobs->config.pool, node))
		return error_set(err, EINVAL, "the pool has no frame %u:%" PRIu64, node, index);
	ret = jobs_take_on(jobs, JOB_OFFLINE, err);
	if (ret < 0)
		return ret;
	jobs->node = (int)node;
	jobs->index = index;
	jobs->frames = 1;
	return jobs_submit(jobs, err);
}

/* --- room on a node, for a shrink --- */

static void on_room(void *opaque, int result, struct error *err)
{
	struct jobs *jobs = opaque;
	int ret;

	jobs->vacate = NULL;
	/* What has moved may be enough, even if not all did. */
	ret = jobs_shrink_now(jobs);
	if (ret < 0 && result < 0) {
		error_clear(&jobs->err);
		error_set(&jobs->err, -result, "%s", err->message);
	}
	work_begun(jobs->config.work, ret);
}

static uint64_t free_elsewhere(const struct jobs *jobs, unsigned int node)
{
	uint64_t sum = 0;

	for (unsigned int nid = 0; nid < pool_nr_nodes(jobs->config.pool); nid++) {
		struct mm_counts counts;

		mm_counts(mm_of(jobs), (int)nid, &counts);
		sum += nid == node ? 0 : counts.free + counts.cached;
	}
	return sum;
}

int jobs_make_room(struct jobs *jobs, unsigned int node, uint64_t frames)
{
	struct pool *pool = jobs->config.pool;
	uint64_t others = ((UINT64_C(2) << (pool_nr_nodes(pool) - 1)) - 1) & ~(UINT64_C(1) << node);
	uint64_t room = free_elsewhere(jobs, node);
	struct frame_run *runs;
	unsigned int nr_runs;
	int64_t move = pool_pick_to_vacate(pool, node, frames, is_bound, jobs, &runs, &nr_runs);
	int ret;

	if (move < 0)
		return error_set(&jobs->err, EBUSY,
				 "node %u has not so many frames that are free or may move to "
				 "another node",
				 node);
	if ((uint64_t)move > room) {
		kfree(runs);
		return error_set(&jobs->err, EBUSY,
				 "%" PRId64 " frames of node %u would have to move, but the other "
				 "nodes have only %" PRIu64 " free",
				 move, node, room);
	}
	jobs->isolated = kcalloc(nr_runs, sizeof(*jobs->isolated), GFP_OBJECTS);
	if (!jobs->isolated) {
		kfree(runs);
		return -ENOMEM;
	}
	pool_quiesce(pool);
	for (unsigned int i = 0; i < nr_runs; i++)
		jobs_isolate(jobs, &runs[i]);
	pool_resume(pool);
	ret = jobs_vacate(jobs, runs, nr_runs, others, NOTICE_MOVE_OFFLINE, on_room);
	kfree(runs);
	return ret;
}
