/* SPDX-License-Identifier: MIT */
/* What the files of swap share: where each frame is, and the two threads. */
#ifndef FRAMEVISOR_MEMORY_SWAP_H
#define FRAMEVISOR_MEMORY_SWAP_H

#include "vmm/memory/internal.h"
#include "vmm/memory/swap_file.h"

/* Where a swapped frame's content is. */
struct swap_slot {
	uint32_t cluster;
	uint32_t length; /* compressed; FRAME_SIZE: as it is; 0: all zero, and nowhere */
	uint64_t sum;    /* of the content */
};

struct swap {
	struct swap_file *file;
	struct swap_slot *slots; /* by guest frame, valid while SWAPPED or SWAPPING_IN; lock */

	/* Frames that are touched and swapped out, first come first; linked by lru_next. lock */
	uint32_t wanted_head, wanted_tail;
	pthread_cond_t wanted;
	pthread_t in_thread;
	struct reader *reader;
	bool in_runs;
	bool in_stops; /* lock */

	/* swap_out.c; the background thread's but for the atomics */
	atomic_uint to_do;         /* frames still to be swapped out */
	atomic_bool stuck;         /* the file is full or cannot be written: not before retry_at */
	atomic_uint retry_at;      /* by park_clock() */
	atomic_uint last_activity; /* by park_clock() */
	bool said_stuck;
	bool at_random; /* for comparison: any frame goes, not the coldest */
	uint64_t random;
	struct swap_writer *writer;
};

/* A cheap sum over a frame that tells any two contents apart but for one in 2^64. */
uint64_t swap_sum(const void *frame);

/* swap_in.c */
int swap_in_start(struct vm_memory *mem, struct error *err);
void swap_in_stop(struct vm_memory *mem);

/* swap_out.c */
int swap_out_create(struct vm_memory *mem, struct error *err);
void swap_out_destroy(struct vm_memory *mem);
/* Works on what is to be swapped out, for about 10 ms. Returns whether there is more to do now.
 * Background thread. */
bool swap_out_step(struct vm_memory *mem);

#endif
