/* SPDX-License-Identifier: MIT */
/*
 * Getting frames back that VMs hold, by asking them: each moves what it has there to other frames
 * and returns these (NOTICE_MOVE). Nothing blocks: who is slow, refuses or dies is dealt with as
 * the answers come, and after a time (without progress, and in all, by the number of frames) the
 * rest is given up. What was moved by then stays moved.
 *
 * The caller sees to it that what comes free in the range is not given out again
 * (mm_isolate_pages(), mm_soft_offline_page()). Loop's thread only.
 */
#ifndef VMM_OWNER_VACATE_H
#define VMM_OWNER_VACATE_H

#include <stdbool.h>
#include <stdint.h>

#include "framevisor/error.h"
#include "framevisor/event_loop.h"
#include "framevisor/owner_notice.h"
#include "vmm/owner/objects.h"
#include "vmm/owner/server.h"

struct vacate;

extern struct object_cache vacate_cache, asked_cache;

struct vacate_config {
	struct event_loop *loop;
	struct pool *pool;
	struct server *server;
	const struct frame_run *runs; /* copied */
	unsigned int nr_runs;
	uint64_t nodemask; /* where to: nodes of the pool; 0: any */
	enum notice_move_reason reason;
	unsigned int timeout_ms; /* without progress */
	/* Whether the frames of client id are to stay where they are; NULL: nobody's. */
	bool (*stays)(void *opaque, uint32_t id);
	/* Called once, not before vacate_start() has returned: 0 when no VM holds a frame of
	 * them that is to move, or
	 * -EBUSY with err saying who does. The object is gone then. */
	void (*done)(void *opaque, int result, struct error *err);
	/* Called when frames came back; may be NULL. */
	void (*progress)(void *opaque, uint64_t frames);
	void *opaque;
};

/* Returns NULL when there is no memory. */
struct vacate *vacate_start(const struct vacate_config *config);
/* Gives up without a word. NULL is ignored. */
void vacate_cancel(struct vacate *vacate);

#endif
