/* SPDX-License-Identifier: MIT */
/* One run through the frames to be moved, as move.c makes it and move_job.c watches it. */
#ifndef FRAMEVISOR_MEMORY_MOVE_H
#define FRAMEVISOR_MEMORY_MOVE_H

#include "framevisor/vm_memory.h"

struct mover {
	struct vm_memory *mem;
	const struct vm_memory_move *move;
	uint32_t *numbers; /* guest frames */
	uint64_t total, done, moved;
	struct frame_run *targets; /* granted and not used yet; the last one is used first */
	unsigned int nr_targets;
	struct frame_run *old; /* to go back to the owner */
	unsigned int nr_old;
};

/* mem and move are set. Returns 0 or a negative errno; the counts say how far it came. */
int mover_run(struct mover *m);
/* Sets err to what mover_run() returned, in words. Returns it. */
int mover_error(const struct mover *m, int ret, struct error *err);

#endif
