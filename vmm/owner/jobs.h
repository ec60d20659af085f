/* SPDX-License-Identifier: MIT */
/*
 * What an operator has the pool owner do with its memory, and may take a while: grow, shrink,
 * compact, take a frame out of use. One job at a time; who asked is told at once that it was taken
 * on, and looks or listens how it goes on. Loop's thread only.
 */
#ifndef VMM_OWNER_JOBS_H
#define VMM_OWNER_JOBS_H

#include <stdint.h>

#include <jansson.h>

#include "framevisor/error.h"
#include "vmm/owner/pool.h"
#include "vmm/owner/server.h"
#include "vmm/owner/work.h"

struct jobs;

struct jobs_config {
	struct event_loop *loop;
	struct pool *pool;
	struct server *server;
	struct work_queue *work;
	/* Called when one is over; report is jobs_report() of it, stolen. */
	void (*concluded)(void *opaque, json_t *report);
	void *opaque;
};

/* Returns NULL when there is no memory. Destroyed after the work queue. */
struct jobs *jobs_create(const struct jobs_config *config);
void jobs_destroy(struct jobs *jobs);

/*
 * Take on a job: 0, or -EBUSY while another one is under way, -EINVAL, -ENOMEM with err set.
 * Numbers in frames; movable as in pool_grow_begin(); node of the pool, -1: any. A refusal for want
 * of memory comes later, as the job's end.
 */
int jobs_grow(struct jobs *jobs, uint64_t frames, uint64_t movable, int node, struct error *err);
int jobs_shrink(struct jobs *jobs, uint64_t frames, int node, struct error *err);

/* Makes free blocks of an order by having VMs move out of those in which they hold least. Stops
 * when a VM waits for the pool to grow. */
int jobs_compact(struct jobs *jobs, unsigned int order, struct error *err);
/* Quarantines a frame of a node: at once, or when its holder has moved out of it. When that cannot
 * be had now the job fails and the frame stays marked: it is not given out again. */
int jobs_offline(struct jobs *jobs, unsigned int node, uint64_t index, struct error *err);
/*
 * Empties ZONE_MOVABLE of a node (-1: of each) and gives its memory to the host. VMs move what they
 * hold there to the node's other zones while they run, and to other nodes where there is no room
 * and they are not bound. What cannot move, or was promised, stays: then the job fails, says why,
 * and "done" is what went all the same.
 */
int jobs_offline_movable(struct jobs *jobs, int node, struct error *err);

/*
 * The job that is under way, or the last one: {"id", "operation", "state": "waiting", "running",
 * "concluded" or "failed", "frames", "done", "message" if failed, "nodes": what came or went per
 * node, "hugepages": how many more (or fewer) are reserved on the host}. {"state": "none"} when
 * there was none. A new reference.
 */
json_t *jobs_report(const struct jobs *jobs);

#endif
