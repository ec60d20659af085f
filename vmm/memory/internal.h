/* SPDX-License-Identifier: MIT */
/*
 * What the files of vmm/memory share: one record per guest frame, the window, the stock.
 *
 * A frame's way: HOLE --bind--> BOUND --release--> TAKING --> HOLE. In the window a HOLE is the
 * empty hole file registered with userfaultfd (MISSING), BOUND is a mapping of a pool file.
 *
 * Locks, in order:
 *   take_lock    one change of what the guest has at a time (release, back, plug, unplug); never
 *                taken by the fault thread.
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
	FRAME_TAKING,      /* being replaced by a hole; faults wait until that is done */
	FRAME_TAKING_HOLE, /* a hole between two of these, replaced along with them */
};

#define GUEST_FRAME_RELEASED  0x01 /* the guest gave it up and has not touched it since */
#define GUEST_FRAME_WAITING   0x02 /* on the waiting list: somebody is blocked on it */
#define GUEST_FRAME_STARVED   0x04 /* waiting, and counted as a wait for the pool */
#define GUEST_FRAME_UNPLUGGED 0x08 /* of a pluggable range, and not plugged */
#define GUEST_FRAME_LOOP      0x10 /* waiting, and the loop's thread is the one */

#define NO_FRAME UINT32_MAX /* end of the waiting list; not a frame number */

/* One guest frame; its number counts the frames of all ranges in order. */
struct guest_frame {
	uint32_t pool_frame; /* node relative; valid in BOUND and TAKING */
	uint16_t node;
	uint8_t state;
	uint8_t flags;
	uint32_t next_waiting;
};

struct window_range {
	uint64_t gpa;
	uint64_t nr_frames;
	uint8_t *hva;
	uint32_t first;    /* number of its first frame */
	uint64_t *plugged; /* pluggable: the bitmap of its guest_region; else NULL */
};

#define SLOT_FRAMES ((uint32_t)(VM_MEMORY_SLOT_SIZE / FRAME_SIZE))

/* A piece of a pluggable range that is or is not a memory slot of KVM. take_lock. */
struct hotplug_slot {
	uint16_t plugged; /* frames */
	bool present;     /* KVM has it */
};

/* Frames granted to us and not bound yet. */
#define STOCK_BATCH_MAX 64
/* Kept for touches by the loop's thread when the pool is empty: a queue that a driver has just set
 * up and a buffer in another frame. */
#define STOCK_RESERVE 2
/* Refilled only with room for a whole reply; beyond that, room for what a dead owner did not take
 * back: one message's worth, as nothing is taken from the guest after that. */
#define STOCK_REFILL_RUNS (2 * STOCK_BATCH_MAX)
#define STOCK_RUNS_MAX    (STOCK_REFILL_RUNS + STOCK_BATCH_MAX + OWNER_RUNS_MAX)

struct stock {
	struct frame_run runs[STOCK_RUNS_MAX];
	unsigned int nr_runs;
	uint32_t nr_frames;
	uint32_t batch;      /* frames to have beside the reserve */
	uint32_t batch_idle; /* the same when touches are rare */
	uint32_t batch_busy; /* and when they come fast */
	bool plenty;         /* the pool gave all that it was asked for last */
	bool owner_gone;     /* it did not take frames back; those are in the stock */
	bool refill_due;     /* below the low mark */
	bool loop_asked;     /* the loop was told and has not come yet */
	uint64_t refilled_ms;
	uint64_t idle_faults; /* as of the idle timer's last look */
	int loop_fd;          /* eventfd to the loop, or -1 */
	struct event_source *source;
	struct event_timer *idle;
};

/* Ascending touches that follow each other. Fault thread only. */
struct fault_stream {
	uint32_t next;   /* frame whose touch would go on with it */
	uint32_t window; /* frames wanted for the last touch; 0: none yet */
	uint64_t used;   /* the higher, the later */
};
#define FAULT_STREAMS 8

struct vm_memory {
	struct guest_memory guest;
	struct owner_client *client;

	/* The window. Constant after creation, except frames[] (lock). */
	uint8_t *reserved;
	uint64_t reserved_size;
	struct window_range ranges[GUEST_REGIONS_MAX];
	unsigned int nr_ranges;      /* pluggable ones behind the others */
	unsigned int nr_boot_ranges; /* not pluggable */
	struct guest_frame *frames;
	uint32_t nr_frames;
	uint32_t nr_boot_frames;
	int hole_fd;

	/* slots.c, hotplug.c */
	int vm_fd; /* -1 before vm_memory_set_slots() */
	unsigned int first_slot;
	uint32_t nr_slots;
	struct hotplug_slot *slots;
	uint64_t first_limit; /* frames promised by the owner at the start */

	int uffd;
	bool said_refused;
	bool hugetlb;
	bool minor; /* bound frames are registered too, for MINOR events */
	bool remap; /* EVENT_REMAP works: frames can be taken away */
	bool tids;  /* events say which thread touched */

	pthread_mutex_t take_lock;
	pthread_mutex_t refill_lock;
	pthread_mutex_t lock;
	struct stock stock;
	uint32_t usable; /* frames that the guest may have: RAM and what is plugged */
	uint32_t waiting_head;
	uint32_t waiting_tail;
	struct vm_memory_stats stats;
	uint64_t event_gpa[2]; /* by enum vm_memory_event */
	bool event_due[2];     /* to be reported by the loop */
	void (*event)(void *opaque, enum vm_memory_event event, uint64_t gpa);
	void *event_opaque;

	struct fault_stream streams[FAULT_STREAMS];
	struct fault_stream *last_stream;
	uint64_t stream_clock;
	pthread_t fault_thread;
	int kick_fd; /* eventfd: look at the waiting list, or stop */
	bool fault_thread_runs;
	bool may_spin;
	atomic_bool stop;
	atomic_bool said_empty; /* pool empty was logged and has not ended yet */
	atomic_int loop_tid;    /* 0: not known yet */
};

/* window.c: addresses, holes and bindings */
int window_create(struct vm_memory *mem, const struct vm_memory_config *config, struct error *err);
void window_destroy(struct vm_memory *mem);
/* The frame at a window address, or NO_FRAME. */
uint32_t window_frame_at(const struct vm_memory *mem, uint64_t hva);
const struct window_range *window_range_of(const struct vm_memory *mem, uint32_t frame);
uint8_t *window_frame_hva(const struct vm_memory *mem, uint32_t frame);
uint64_t window_frame_gpa(const struct vm_memory *mem, uint32_t frame);
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
/* Fills pool frames, which are in nobody's window, with zeroes. */
int window_zero(const struct vm_memory *mem, const struct frame_run *run);

/* slots.c */
int slots_create(struct vm_memory *mem, struct error *err);
/* Makes the slots that the frames [first, +nr) of one range lie in. take_lock held. All or nothing.
 */
int slots_make(struct vm_memory *mem, uint32_t first, uint32_t nr);
/* Removes those of them in which nothing is plugged, and frames that got bound there all the same.
 * take_lock held. */
void slots_prune(struct vm_memory *mem, uint32_t first, uint32_t nr);

/* hotplug.c */
int hotplug_plug(void *opaque, uint64_t gpa, uint64_t nr_frames);
int hotplug_unplug(void *opaque, uint64_t gpa, uint64_t nr_frames);

/* uffd.c */
/* Opens a userfaultfd with the best features there are and sets uffd, minor, remap. Returns 0, or
 * -ENOTSUP when none can be had. */
int uffd_open(struct vm_memory *mem);
int uffd_register(int uffd, const void *addr, uint64_t len, uint64_t mode);
void uffd_wake(int uffd, const void *addr, uint64_t len);

/* stock.c */
int stock_create(struct vm_memory *mem, struct event_loop *loop, struct error *err);
void stock_destroy(struct vm_memory *mem); /* gives its frames back */
/* Fits the stock to the number of frames that the guest may have. Lock held. */
void stock_set_size(struct vm_memory *mem);
/* Frames that may be taken, by the loop's thread or by others. Lock held. */
uint32_t stock_available(const struct vm_memory *mem, bool reserve);
/*
 * Takes a run of at most max frames, of the length closest to it: long ones are kept for those who
 * want many. Lock held. Returns its length, 0 if the stock is empty.
 */
uint32_t stock_take(struct vm_memory *mem, uint32_t max, struct frame_run *run);
/* Puts back a run that was taken under the same hold of the lock. */
void stock_put(struct vm_memory *mem, const struct frame_run *run);
/*
 * Asks the owner once for what is missing until the stock holds nr frames, at most step of them.
 * Lock not held. Returns how many came; 0 if there was nothing to ask for, as the stock holds that
 * many, or all that the guest may still have; -EDQUOT when that is none; or another negative errno
 * if nothing came.
 */
int64_t stock_fill(struct vm_memory *mem, uint32_t nr, uint32_t step);
/* Gives frames back until only that many are left. Lock not held. */
void stock_return(struct vm_memory *mem, uint32_t keep);
/* Takes over frames that the owner did not take back; they are zeroed first. Lock not held. */
void stock_keep(struct vm_memory *mem, const struct frame_run *runs, unsigned int nr_runs);
/* Wakes the loop if the stock is low or an event is to be reported. Lock not held. */
void stock_wake_loop(struct vm_memory *mem);

/* fault.c */
int fault_start(struct vm_memory *mem, struct error *err);
void fault_stop(struct vm_memory *mem);
/* Makes the fault thread look at the waiting list, if there is one. Lock not held. */
void fault_kick(struct vm_memory *mem);
/* Calls the user's function for what the fault thread has noted. Loop's thread, lock not held. */
void fault_report(struct vm_memory *mem);

/* fault_around.c: what to bind beside the frame that was touched. Fault thread only. */
/* Frames that a touch of number would have bound, if the stock had them. Lock held. */
uint32_t around_wanted(struct vm_memory *mem, uint32_t number);
/* Frames to bind from number (a hole) on, at least 1. Lock held. */
uint32_t around_window(struct vm_memory *mem, uint32_t number);
/* That many of them were bound after around_window(). */
void around_bound(struct vm_memory *mem, uint32_t number, uint32_t nr);

/* takeaway.c */
extern const struct guest_frame_ops takeaway_frame_ops;
/* Takes [first, first + nr) of one range away. take_lock held. Returns frames given back, or a
 * negative errno. */
int64_t takeaway_take(struct vm_memory *mem, uint32_t first, uint32_t nr);
/* Binds every hole of [first, +nr) that is plugged. take_lock held, by somebody who waits for this,
 * or no other thread yet. 0 or -ENOMEM, -EPIPE. */
int takeaway_back(struct vm_memory *mem, uint32_t first, uint32_t nr);
/* Gives every bound frame back, after the window was unmapped. */
void takeaway_return_all(struct vm_memory *mem);

#endif
