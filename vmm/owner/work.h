/* SPDX-License-Identifier: MIT */
/*
 * Long work of the pool owner, one piece at a time: filling memory, giving it back to the host. It
 * runs in a thread of its own while the event loop goes on serving, between two steps in the loop's
 * thread, where the pool's tables may be changed. What is submitted waits for its turn, so that two
 * pieces never work on the same memory.
 */
#ifndef VMM_OWNER_WORK_H
#define VMM_OWNER_WORK_H

#include <stdbool.h>

#include "framevisor/event_loop.h"
#include "vmm/owner/objects.h"

struct work {
	/* Its turn has come. Loop's thread; NULL: nothing to do first. A negative errno goes to
	 * end() without run(). WORK_LATER: work_begun() will be called; others wait so long. */
	int (*begin)(void *opaque);
	int (*run)(void *opaque); /* own thread; NULL: nothing to do there */
	/* Loop's thread, always called. result: of run(), of begin(), -ECANCELED when the queue was
	 * destroyed first, or -ENOMEM when no thread could be started. */
	void (*end)(void *opaque, int result);
	void *opaque;
};

#define WORK_LATER 1

struct work_queue;

extern struct object_cache piece_cache; /* a piece that was submitted */

/* Returns NULL when there is no memory. */
struct work_queue *work_queue_create(struct event_loop *loop);
/* Waits for the piece that runs (its submitter makes it end soon) and ends the others. The loop
 * runs no more. NULL is ignored. */
void work_queue_destroy(struct work_queue *queue);

/* Loop's thread, from callbacks too. Nothing of the work is called before this returns. Returns 0
 * or -ENOMEM. */
int work_submit(struct work_queue *queue, const struct work *work);
/* What begin() comes to, after it returned WORK_LATER: 0 or a negative errno. */
void work_begun(struct work_queue *queue, int result);
/* Whether anything waits behind what is under way. */
bool work_waiting(const struct work_queue *queue);

#endif
