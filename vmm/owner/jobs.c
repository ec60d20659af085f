/* SPDX-License-Identifier: MIT */
/* Jobs one after the other, growing and shrinking: see jobs.h. */
#include "vmm/owner/jobs_private.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "framevisor/log.h"

static const char *const operation_names[] = { [JOB_GROW] = "grow",
					       [JOB_SHRINK] = "shrink",
					       [JOB_COMPACT] = "compact",
					       [JOB_OFFLINE] = "offline-frame",
					       [JOB_OFFLINE_MOVABLE] = "offline-movable" };

struct jobs *jobs_create(const struct jobs_config *config)
{
	struct jobs *jobs = calloc(1, sizeof(*jobs));

	if (jobs)
		jobs->config = *config;
	return jobs;
}

void jobs_destroy(struct jobs *jobs)
{
	free(jobs);
}

void jobs_conclude(struct jobs *jobs, int result)
{
	const char *what = operation_names[jobs->operation];

	for (unsigned int i = 0; i < pool_nr_nodes(jobs->config.pool); i++)
		jobs->done += jobs->nr[i];
	if (result < 0)
		error_set_errno(&jobs->err, -result, "cannot %s the pool", what);
	jobs->state = result < 0 ? JOB_FAILED : JOB_CONCLUDED;
	if (result < 0)
		log_info("pool %s: %s", what, jobs->err.message);
	else
		log_info("pool %s: %" PRIu64 " frames", what, jobs->done);
	if (result != -ECANCELED) /* the owner ends */
		jobs->config.concluded(jobs->config.opaque, jobs_report(jobs));
}

static uint64_t raised(const struct jobs *jobs)
{
	struct pool_info info;

	pool_info(jobs->config.pool, &info);
	return info.raised;
}

/* --- grow --- */

static int begin_grow(void *opaque)
{
	struct jobs *jobs = opaque;
	int ret = pool_grow_begin(jobs->config.pool, jobs->frames, jobs->movable, &jobs->growth,
				  &jobs->err);

	jobs->state = JOB_RUNNING;
	jobs->begun = ret == 0;
	jobs->hugepages = raised(jobs);
	return ret;
}

static int run_grow(void *opaque)
{
	struct jobs *jobs = opaque;

	return pool_grow_fill(jobs->config.pool, &jobs->growth, &jobs->err);
}

static void end_grow(void *opaque, int result)
{
	struct jobs *jobs = opaque;

	if (jobs->begun)
		result = pool_grow_finish(jobs->config.pool, &jobs->growth, result);
	if (result == -EAGAIN) {
		/* An empty pool became one of ordinary memory. */
		error_clear(&jobs->err);
		result = jobs_submit(jobs, &jobs->err);
		if (result == 0)
			return;
	}
	if (result == 0)
		for (unsigned int i = 0; i < pool_nr_nodes(jobs->config.pool); i++)
			jobs->nr[i] =
				jobs->growth.nr[i][PART_NORMAL] + jobs->growth.nr[i][PART_MOVABLE];
	jobs->hugepages = raised(jobs) - jobs->hugepages;
	jobs_conclude(jobs, result);
}

/* --- shrink --- */

int jobs_shrink_now(struct jobs *jobs)
{
	int ret = pool_shrink_begin(jobs->config.pool, jobs->frames, jobs->node, &jobs->shrink,
				    &jobs->err);

	jobs->begun = ret == 0;
	return ret;
}

static int begin_shrink(void *opaque)
{
	struct jobs *jobs = opaque;
	int ret;

	jobs->state = JOB_RUNNING;
	ret = jobs_shrink_now(jobs);
	/* There is enough that is free, but elsewhere. */
	if (ret == -EBUSY && jobs->shrink.elsewhere && jobs->node >= 0) {
		error_clear(&jobs->err);
		ret = jobs_make_room(jobs, (unsigned int)jobs->node, jobs->frames);
	}
	return ret;
}

int jobs_run_shrink(void *opaque)
{
	struct jobs *jobs = opaque;

	return pool_shrink_release(jobs->config.pool, &jobs->shrink, &jobs->err);
}

void jobs_finish_shrink(struct jobs *jobs)
{
	jobs_stop_moving(jobs);
	if (jobs->begun)
		pool_shrink_finish(jobs->config.pool, &jobs->shrink);
	for (unsigned int i = 0; i < pool_nr_nodes(jobs->config.pool); i++)
		jobs->nr[i] = jobs->shrink.nr[i];
	jobs->hugepages = jobs->shrink.hugepages;
}

static void end_shrink(void *opaque, int result)
{
	struct jobs *jobs = opaque;

	jobs_finish_shrink(jobs);
	jobs_conclude(jobs, result);
}

/* --- both --- */

int jobs_take_on(struct jobs *jobs, enum job_operation operation, struct error *err)
{
	if (jobs->state == JOB_WAITING || jobs->state == JOB_RUNNING)
		return error_set(err, EBUSY,
				 "a pool %s is under way (job %" PRIu64 "); wait for it",
				 operation_names[jobs->operation], jobs->id);
	*jobs = (struct jobs){
		.config = jobs->config, .id = jobs->id + 1, .operation = operation, .node = -1
	};
	return 0;
}

int jobs_submit(struct jobs *jobs, struct error *err)
{
	static const struct work works[] = {
		[JOB_GROW] = { .begin = begin_grow, .run = run_grow, .end = end_grow },
		[JOB_SHRINK] = { .begin = begin_shrink, .run = jobs_run_shrink, .end = end_shrink },
		[JOB_COMPACT] = { .begin = jobs_begin_compact, .end = jobs_end_compact },
		[JOB_OFFLINE] = { .begin = jobs_begin_offline, .end = jobs_end_offline },
		[JOB_OFFLINE_MOVABLE] = { .begin = jobs_begin_movable,
					  .run = jobs_run_shrink,
					  .end = jobs_end_movable },
	};
	struct work work = works[jobs->operation];

	work.opaque = jobs;
	if (work_submit(jobs->config.work, &work) < 0)
		return error_set(err, ENOMEM, "no memory for a job");
	jobs->state = JOB_WAITING;
	jobs->begun = false;
	return 0;
}

static int check_frames(uint64_t frames, struct error *err)
{
	return frames ? 0 : error_set(err, EINVAL, "the size must be more than 0");
}

int jobs_grow(struct jobs *jobs, uint64_t frames, uint64_t movable, int node, struct error *err)
{
	int ret = check_frames(frames, err);

	if (ret == 0)
		ret = jobs_take_on(jobs, JOB_GROW, err);
	if (ret < 0)
		return ret;
	jobs->frames = frames;
	jobs->movable = movable;
	jobs->growth = (struct pool_growth){ .nodemask = node < 0 ? 0 : UINT64_C(1) << node,
					     .strict = true };
	return jobs_submit(jobs, err);
}

int jobs_shrink(struct jobs *jobs, uint64_t frames, int node, struct error *err)
{
	int ret = check_frames(frames, err);

	if (ret == 0)
		ret = jobs_take_on(jobs, JOB_SHRINK, err);
	if (ret < 0)
		return ret;
	jobs->frames = frames;
	jobs->node = node;
	return jobs_submit(jobs, err);
}

static json_t *report_nodes(const struct jobs *jobs)
{
	json_t *array = json_array();

	for (unsigned int i = 0; i < pool_nr_nodes(jobs->config.pool); i++)
		json_array_append_new(array, json_pack("{s:i, s:I}", "node", (int)i, "frames",
						       (json_int_t)jobs->nr[i]));
	return array;
}

static json_t *report_blocks(const struct jobs *jobs)
{
	return json_pack("{s:i, s:I, s:I, s:I}", "order", (int)jobs->order, "block-frames",
			 (json_int_t)jobs->block, "blocks-before", (json_int_t)jobs->blocks_before,
			 "blocks-after", (json_int_t)jobs->blocks_after);
}

json_t *jobs_report(const struct jobs *jobs)
{
	static const char *const states[] = { [JOB_NONE] = "none",
					      [JOB_WAITING] = "waiting",
					      [JOB_RUNNING] = "running",
					      [JOB_CONCLUDED] = "concluded",
					      [JOB_FAILED] = "failed" };
	uint64_t done = jobs->done, total;
	json_t *report;

	if (jobs->state == JOB_NONE)
		return json_pack("{s:s}", "state", states[jobs->state]);
	if (jobs->state == JOB_RUNNING && jobs->begun)
		pool_work_progress(jobs->config.pool, &done, &total);
	report = json_pack("{s:I, s:s, s:s, s:I, s:I}", "id", (json_int_t)jobs->id, "operation",
			   operation_names[jobs->operation], "state", states[jobs->state], "frames",
			   (json_int_t)jobs->frames, "done", (json_int_t)done);
	if (jobs->state == JOB_RUNNING || jobs->moved)
		json_object_set_new(report, "moved", json_integer((json_int_t)jobs->moved));
	if (jobs->operation == JOB_COMPACT)
		json_object_update_new(report, report_blocks(jobs));
	if (jobs->state == JOB_CONCLUDED || jobs->state == JOB_FAILED) {
		json_object_set_new(report, "nodes", report_nodes(jobs));
		json_object_set_new(report, "hugepages", json_integer((json_int_t)jobs->hugepages));
	}
	if (jobs->state == JOB_FAILED)
		json_object_set_new(report, "message", json_string(jobs->err.message));
	return report;
}
