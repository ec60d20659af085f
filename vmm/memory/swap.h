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

/* From one try to the next to read what a device waits for. */
#define SWAP_DEVICE_RETRY_MS 1000

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
	/* When a frame that could not be read is tried again, as a device waits for it (now_ms());
	 * 0: none does. lock */
	uint64_t device_retry_ms;

	/* swap_out.c; the background thread's but for the atomics */
	atomic_uint to_do;         /* frames still to be swapped out */
	atomic_bool stuck;         /* the file is full or cannot be written: not before retry_at */
	atomic_uint retry_at;      /* by park_clock() */
	atomic_uint last_activity; /* by park_clock() */
	bool said_stuck;
	uint64_t random; /* victims=random: the state of its generator */
	bool at_random;  /* constant */
	struct swap_writer *writer;
};

/* A cheap sum over a frame that tells any two contents apart but for one in 2^64. */
uint64_t swap_sum(const void *frame);

/* swap.c: reads what could not be read once more, or that part of it that devices wait for, which
 * has been said. Lock held. */
void swap_read_again(struct vm_memory *mem, bool for_devices);

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
