/* SPDX-License-Identifier: MIT */
/*
 * What the files of vmm/memory share: one record per guest frame, the window, the stock.
 *
 * A frame's way: HOLE --bind--> BOUND --release--> TAKING --> HOLE. In the window a HOLE is the
 * empty hole file registered with userfaultfd (MISSING), BOUND is a mapping of a pool file.
 *
 * Locks, in order:
 *   take_lock    one release or back at a time; never taken by the fault thread.
 *   refill_lock  one request for frames at a time. Over nothing else, so the fault thread may wait.
 *   lock         records, stock, waiting list, counters. Held over the mmap that binds a frame;
 *                never over mremap (it waits for the fault thread to read an event), a request to
 *                the pool owner, or an access to the window.
 */
#ifndef FRAMEVISOR_MEMORY_INTERNAL_H
#define FRAMEVISOR_MEMORY_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "framevisor/vm_memory.h"

enum frame_state {
	FRAME_HOLE,
	FRAME_BOUND,
	FRAME_TAKING, /* being replaced by a hole; faults wait until that is done */
};

#define GUEST_FRAME_RELEASED 0x1 /* the guest gave it up and has not touched it since */
#define GUEST_FRAME_WAITING  0x2 /* on the waiting list: somebody is blocked on it */
#define GUEST_FRAME_STARVED  0x4 /* waiting, and counted as a wait for the pool */

#define NO_FRAME UINT32_MAX /* end of the waiting list; not a frame number */

/* One guest frame; its number counts the frames of all ranges in order. */
struct guest_frame {
	uint32_t pool_frame; /* node relative; valid unless HOLE */
	uint16_t node;
	uint8_t state;
	uint8_t flags;
	uint32_t next_waiting;
};

struct window_range {
	uint64_t gpa;
	uint64_t nr_frames;
	uint8_t *hva;
	uint32_t first; /* number of its first frame */
};

/* Frames granted to us and not bound yet. */
#define STOCK_BATCH_MAX 64
#define STOCK_RUNS_MAX  (2 * STOCK_BATCH_MAX)

struct stock {
	struct frame_run runs[STOCK_RUNS_MAX]; /* used as a stack */
	unsigned int nr_runs;
	uint32_t nr_frames;
	uint32_t batch;    /* frames to ask for at once */
	uint32_t low;      /* below it the loop refills ahead of need */
	bool refill_asked; /* the loop was told and has not come yet */
	int refill_fd;     /* eventfd to the loop, or -1 */
	struct event_source *source;
};

struct vm_memory {
	struct guest_memory guest;
	struct owner_client *client;
	bool hugetlb;

	/* The window. Constant after creation, except frames[] (lock). */
	uint8_t *reserved;
	uint64_t reserved_size;
	unsigned int nr_ranges;
	struct window_range ranges[GUEST_REGIONS_MAX];
	uint32_t nr_frames;
	struct guest_frame *frames;
	int hole_fd;
	unsigned int first_slot;

	int uffd;
	bool minor; /* bound frames are registered too, for MINOR events */
	bool remap; /* EVENT_REMAP works: frames can be taken away */

	pthread_mutex_t take_lock;
	pthread_mutex_t refill_lock;
	pthread_mutex_t lock;
	struct stock stock;
	uint32_t waiting_head;
	uint32_t waiting_tail;
	struct vm_memory_stats stats;

	pthread_t fault_thread;
	bool fault_thread_runs;
	int kick_fd; /* eventfd: look at the waiting list, or stop */
	atomic_bool stop;
	atomic_bool said_empty; /* pool empty was logged and has not ended yet */
};

/* window.c: addresses, holes and bindings */
int window_create(struct vm_memory *mem, const struct vm_memory_config *config, struct error *err);
void window_destroy(struct vm_memory *mem);
/* The frame at a window address, or NO_FRAME. */
uint32_t window_frame_at(const struct vm_memory *mem, uint64_t hva);
uint8_t *window_frame_hva(const struct vm_memory *mem, uint32_t frame);
/* The frames of [gpa, +nr_frames) up to the end of gpa's range: *first and how many, or -EINVAL. */
int window_frames(const struct vm_memory *mem, uint64_t gpa, uint64_t nr_frames, uint32_t *first,
		  uint32_t *nr);
/* A fresh hole for the frames, not in the window, registered; MAP_FAILED with errno set. */
void *window_spare_hole(const struct vm_memory *mem, uint32_t first, uint32_t nr);
/*
 * Maps pool frames run (run->nr of them) at guest frames first.. and marks them BOUND; all were
 * HOLE. Lock held. Nobody is woken: window_continue() does that. Returns 0 or a negative errno.
 */
int window_bind(struct vm_memory *mem, uint32_t first, const struct frame_run *run);
/*
 * Enters bound frames into the page tables and wakes who waits for them. Lock held. Returns 0, or
 * -EAGAIN while an mremap is under way: the rest must be continued again.
 */
int window_continue(const struct vm_memory *mem, uint32_t first, uint32_t nr);

/* uffd.c */
/* Opens a userfaultfd with the best features there are and sets uffd, minor, remap. Returns 0, or
 * -ENOTSUP when none can be had. */
int uffd_open(struct vm_memory *mem);
int uffd_register(int uffd, const void *addr, uint64_t len, uint64_t mode);
void uffd_wake(int uffd, const void *addr, uint64_t len);

/* stock.c */
int stock_create(struct vm_memory *mem, struct event_loop *loop, struct error *err);
void stock_destroy(struct vm_memory *mem); /* gives its frames back */
/* Takes a run of at most max frames. Lock held. Returns its length, 0 if the stock is empty. */
uint32_t stock_take(struct vm_memory *mem, uint32_t max, struct frame_run *run);
/* Puts back an unused run. Lock held. */
void stock_put(struct vm_memory *mem, const struct frame_run *run);
/* Asks the owner for at least one frame, nr if it has them (0: a batch). Lock not held. Returns 0,
 * or a negative errno if nothing came. */
int stock_refill(struct vm_memory *mem, uint32_t nr);

/* fault.c */
int fault_start(struct vm_memory *mem, struct error *err);
void fault_stop(struct vm_memory *mem);
/* Makes the fault thread look at the waiting list, if there is one. Lock not held. */
void fault_kick(struct vm_memory *mem);

/* takeaway.c */
extern const struct guest_frame_ops takeaway_frame_ops;
/* Binds every hole of [first, +nr). take_lock held or no other thread yet. 0 or -ENOMEM, -EPIPE. */
int takeaway_back(struct vm_memory *mem, uint32_t first, uint32_t nr);
/* Gives every bound frame back, after the window was unmapped. */
void takeaway_return_all(struct vm_memory *mem);

#endif
