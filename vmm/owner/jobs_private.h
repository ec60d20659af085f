/* SPDX-License-Identifier: MIT */
/* What the files of the pool's jobs share; see jobs.h. */
#ifndef VMM_OWNER_JOBS_PRIVATE_H
#define VMM_OWNER_JOBS_PRIVATE_H

#include <stdbool.h>

#include "vmm/owner/jobs.h"
#include "vmm/owner/vacate.h"

enum job_state { JOB_NONE, JOB_WAITING, JOB_RUNNING, JOB_CONCLUDED, JOB_FAILED };
enum job_operation { JOB_GROW, JOB_SHRINK, JOB_COMPACT, JOB_OFFLINE, JOB_OFFLINE_MOVABLE };

struct jobs {
	struct jobs_config config;
	uint64_t id;
	enum job_operation operation;
	enum job_state state;
	bool begun; /* so there is something to finish */
	uint64_t frames;
	uint64_t movable; /* grow */
	int node;
	struct pool_growth growth;
	struct pool_shrink shrink;

	/* While VMs are asked to move out. */
	struct vacate *vacate;
	struct frame_run *isolated;
	unsigned int nr_isolated;
	uint64_t moved;

	/* compact */
	unsigned int order;
	uint64_t block; /* frames */
	uint64_t blocks_before, blocks_after;
	uint8_t *tried;
	uint64_t picked; /* its index in tried */

	uint64_t index; /* offline: of the frame in the node */

	/* offline-movable; node is the one that is being emptied */
	int only;                    /* of this node; -1: of each */
	unsigned int first_isolated; /* of the node */
	struct error why;            /* the first thing that was in the way */

	/* Of a job that is over. */
	uint64_t done;
	uint64_t nr[OWNER_NODES_MAX];
	uint64_t hugepages;
	struct error err;
};

/* Takes on a job; the caller sets what it is about and submits it. */
int jobs_take_on(struct jobs *jobs, enum job_operation operation, struct error *err);
int jobs_submit(struct jobs *jobs, struct error *err);
/* The end of every job. */
void jobs_conclude(struct jobs *jobs, int result);

/* jobs_move.c */
int jobs_begin_compact(void *opaque);
void jobs_end_compact(void *opaque, int result);
int jobs_begin_offline(void *opaque);
void jobs_end_offline(void *opaque, int result);
/* Asks VMs to move out of the runs, to nodes of the mask (0: any); done as in vacate.h. Returns
 * WORK_LATER or -ENOMEM. */
int jobs_vacate(struct jobs *jobs, const struct frame_run *runs, unsigned int nr_runs,
		uint64_t nodemask, enum notice_move_reason reason,
		void (*done)(void *opaque, int result, struct error *err));
/* Nothing is given out of the run until jobs_stop_moving(); there is room for it in isolated. 0 or
 * -EINVAL. */
int jobs_isolate(struct jobs *jobs, const struct frame_run *run);
/* Has frames of node moved to other nodes so that so many are free there, then goes on with
 * jobs_shrink_now() and work_begun(). Returns WORK_LATER, or a negative errno with err set. */
int jobs_make_room(struct jobs *jobs, unsigned int node, uint64_t frames);
/* Nothing is isolated, and nobody asked any more. */
void jobs_stop_moving(struct jobs *jobs);

/* jobs_movable.c */
int jobs_begin_movable(void *opaque);
void jobs_end_movable(void *opaque, int result);

/* jobs.c: the rest of a shrink when there is room. */
int jobs_shrink_now(struct jobs *jobs);
/* What shrinks in whatever way: the host gets the memory, then the books are brought up to date. */
int jobs_run_shrink(void *opaque);
void jobs_finish_shrink(struct jobs *jobs);

#endif
