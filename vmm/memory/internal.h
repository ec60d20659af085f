/* SPDX-License-Identifier: MIT */
/*
 * What the files of vmm/memory share: one record per guest frame, the window, the stock.
 *
 * A frame's way: HOLE --bind--> BOUND --release--> TAKING --> HOLE. In the window a HOLE is the
 * empty hole file registered with userfaultfd (MISSING), BOUND is a mapping of a pool file. PARKED
 * is BOUND out of everybody's reach until the next touch, which is an event (park.c).
 *
 * Locks, in order:
 *   hand_lock    held for reading by threads of the background (move, swap) while they have frames
 *                that neither a record nor a stock tells of; for writing by who tells a new owner
 *                of all frames.
 *   take_lock    one change of what the guest has at a time (release, back, plug, unplug, park,
 *                move); never taken by the fault thread. By take_lock() in the loop's thread,
 *                which goes before others (take_lock_background()).
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
	FRAME_PARKED,      /* bound, and no page table has it: the next touch raises an event */
	FRAME_TAKING,      /* being replaced or moved; faults wait until that is done */
	FRAME_TAKING_HOLE, /* a hole between two of these, replaced along with them */
	FRAME_SWAPPED,     /* a hole; the content is in the swap file */
	FRAME_SWAPPING_IN, /* the same, being read; faults wait until that is done */
};

#define GUEST_FRAME_RELEASED  0x01 /* the guest gave it up and has not touched it since */
#define GUEST_FRAME_WAITING   0x02 /* on the waiting list: somebody is blocked on it */
#define GUEST_FRAME_STARVED   0x04 /* somebody waits, and it cannot be had now */
#define GUEST_FRAME_UNPLUGGED 0x08 /* of a pluggable range, and not plugged */
#define GUEST_FRAME_DEVICE    0x10 /* waiting, and a thread that serves a device is the one */
#define GUEST_FRAME_DETACHED  0x20 /* parked with a hole in its place in the window */
#define GUEST_FRAME_WATCHED   0x40 /* parked, and not touched since the last watch() */
#define GUEST_FRAME_SILENT    0x80 /* bound without MINOR events: parked by a hole only */

#define GUEST_FRAME_LEAVING   0x100 /* parked, and being written to the swap file */
#define GUEST_FRAME_WANTED    0x200 /* swapped, and somebody is blocked on it */
#define GUEST_FRAME_ABANDONED 0x400 /* being read, and the guest has given it up meanwhile */
/* Swapped and wanted, and the device does not give it back. */
#define GUEST_FRAME_UNREADABLE 0x800
#define GUEST_FRAME_OVER       0x1000 /* starved, because the guest has all that it may have */
#define GUEST_FRAME_RETRIED    0x2000 /* was unreadable, which has been said */
/* Released, and not in the balloon: the guest may touch it without a word. */
#define GUEST_FRAME_FREE 0x4000

/* What ends when a released frame is bound again. */
#define RELEASED_FLAGS (GUEST_FRAME_RELEASED | GUEST_FRAME_FREE)

/* What is forgotten with the first touch of a parked frame. */
#define PARKED_FLAGS (GUEST_FRAME_WATCHED | GUEST_FRAME_LEAVING)

#define NO_FRAME UINT32_MAX /* end of the waiting list; not a frame number */

/* One guest frame; its number counts the frames of all ranges in order. */
struct guest_frame {
	uint32_t pool_frame; /* node relative; valid in BOUND, PARKED and TAKING */
	uint32_t next_waiting;
	uint32_t lru_prev, lru_next; /* while bound or parked */
	uint32_t parked_at;          /* PARKED, SWAPPED: ms of the coarse clock, modulo 2^32 */
	uint32_t idle_ms;            /* how long it is left alone as a rule; see park_learn() */
	uint16_t node;
	uint16_t flags;
	uint8_t state;
};

/* Whether it has a frame of the pool that nobody is taking away. */
static inline bool frame_bound(const struct guest_frame *frame)
{
	return frame->state == FRAME_BOUND || frame->state == FRAME_PARKED;
}

static inline struct frame_run frame_run_of(const struct guest_frame *frame)
{
	return (struct frame_run){ .first = frame->pool_frame, .nr = 1, .node = frame->node };
}

/* Bound frames from the one that came last (or was touched last when it was parked) to the first,
 * and parked ones by the time they were parked. */
enum frame_list { LIST_ACTIVE, LIST_INACTIVE, NR_LISTS };

struct frame_lru {
	uint32_t head, tail; /* NO_FRAME: empty */
	uint32_t nr;
};

struct window_range {
	uint64_t gpa;
	uint64_t nr_frames;
	uint8_t *hva;
	uint32_t first;    /* number of its first frame */
	uint64_t *plugged; /* pluggable: the bitmap of its guest_region; else NULL */
	uint16_t node;     /* the guest's */
	struct stock *stock;
	uint32_t usable;                 /* frames of it that the guest may have; lock */
	uint32_t bound[OWNER_NODES_MAX]; /* frames bound in it, by the pool's nodes; lock */
};

#define SLOT_FRAMES ((uint32_t)(VM_MEMORY_SLOT_SIZE / FRAME_SIZE))

/* A piece of a pluggable range that is or is not a memory slot of KVM. take_lock. */
struct hotplug_slot {
	uint16_t plugged; /* frames */
	bool present;     /* KVM has it */
};

/* Frames granted to us and not bound yet. */
#define STOCK_BATCH_MAX 64
/* Kept for touches by devices when the pool is empty: a queue that a driver has just set up and a
 * buffer in another frame. Of frames of 1 GiB nothing is held ahead of need. */
#define STOCK_RESERVE (FRAME_SHIFT == FRAME_SHIFT_2M ? 2u : 0u)
/* Refilled only with room for a whole reply; beyond that, room for what a dead owner did not take
 * back: one message's worth, as nothing is taken from the guest after that. */
#define STOCK_REFILL_RUNS (2 * STOCK_BATCH_MAX)
#define STOCK_RUNS_MAX    (STOCK_REFILL_RUNS + STOCK_BATCH_MAX + OWNER_RUNS_MAX)

/* One for all ranges whose frames come from the same nodes in the same way. */
struct stock {
	enum vm_memory_policy policy;
	uint64_t nodemask;
	uint32_t usable; /* frames of its ranges that the guest may have */
	uint32_t bound;  /* frames bound in its ranges */

	struct frame_run runs[STOCK_RUNS_MAX];
	unsigned int nr_runs;
	uint32_t nr_frames;
	uint32_t batch;      /* frames to have beside the reserve */
	uint32_t batch_idle; /* the same when touches are rare */
	uint32_t batch_busy; /* and when they come fast */
	bool plenty;         /* the pool gave all that it was asked for last */
	bool refill_due;     /* below the low mark */
	uint64_t refilled_ms;
};

/* All of them, and the loop that refills them. */
struct stocks {
	unsigned int nr;
	struct stock *stock;
	bool owner_gone;      /* it did not take frames back; those are in the stocks */
	bool loop_asked;      /* the loop was told and has not come yet */
	uint64_t idle_faults; /* as of the idle timer's last look */
	int loop_fd;          /* eventfd to the loop, or -1 */
	struct event_source *source;
	struct event_timer *idle;
	uint64_t kept[OWNER_NODES_MAX]; /* by the owner, for ranges bound to nodes; take_lock */
};

/* Touches that follow each other. Fault thread only. */
struct fault_stream {
	uint32_t first;  /* a touch just below goes on with it downwards */
	uint32_t next;   /* frame whose touch goes on with it upwards */
	uint32_t window; /* frames wanted for the last touch; 0: none yet */
	uint64_t used;   /* the higher, the later */
};
#define FAULT_STREAMS 8

/* The thread that samples and swaps out. */
struct background {
	pthread_t thread;
	atomic_bool runs;
	atomic_bool stop;
	int kick_fd; /* -1: it never ran. Who kicks may come late. */
};

/* Sampling; the background thread's but for on. */
struct cold {
	atomic_bool on;
	atomic_uint period; /* ms */
	uint32_t next;      /* by park_clock() */
	uint64_t sampled;   /* as of the last look at how many came back */
	uint64_t unparked;

	/* The first time round after sampling was switched on: frames to go; and when it was over
	 * (lock). */
	uint32_t to_go;
	bool complete;
	uint32_t complete_at;
};

/* Room for views of frames, behind the window: all that is mapped of the pool is in one part of the
 * address space. */
#define VIEW_FRAMES 512

struct vm_memory {
	struct guest_memory guest;
	struct owner_client *client;

	/* The window. Constant after creation, except frames[] (lock). */
	uint8_t *reserved;
	uint64_t reserved_size; /* with the part for views at its end */
	uint8_t *views;
	uint64_t views_used[VIEW_FRAMES / 64]; /* bits; view_lock */
	pthread_mutex_t view_lock;
	struct window_range ranges[GUEST_REGIONS_MAX];
	unsigned int nr_ranges;      /* pluggable ones behind the others */
	unsigned int nr_boot_ranges; /* not pluggable */
	struct guest_frame *frames;
	uint32_t nr_frames;
	uint32_t nr_boot_frames;
	int hole_fd;
	bool hole_moved; /* to where the sandbox wants it; stays open until the process ends */

	/* slots.c, hotplug.c */
	int vm_fd; /* -1 before vm_memory_set_slots() */
	unsigned int first_slot;
	uint32_t nr_slots;
	atomic_uint takers; /* of the loop's thread, waiting for take_lock */
	struct hotplug_slot *slots;
	uint64_t first_limit; /* frames promised by the owner at the start */

	int uffd;
	bool said_refused;
	/* Under take_lock: whether the pool grows for the limit that was asked for last, which one
	 * that was, and what vm_memory_reserve() wants to be kept beside the RAM. */
	bool growing;
	uint64_t asked, kept_plugged;
	bool hugetlb;
	bool minor; /* bound frames are registered too, for MINOR events */
	bool remap; /* EVENT_REMAP works: frames can be taken away */
	bool tids;  /* events say which thread touched */

	pthread_rwlock_t hand_lock;
	pthread_mutex_t take_lock;
	pthread_mutex_t refill_lock;
	pthread_mutex_t lock;
	struct stocks stocks;
	uint32_t usable; /* frames that the guest may have: RAM and what is plugged */
	uint32_t waiting_head;
	uint32_t waiting_tail;
	uint32_t starved; /* frames with GUEST_FRAME_STARVED */
	bool prune_due;   /* empty slots are there because it starved; lock */
	struct vm_memory_stats stats;
	struct frame_lru lru[NR_LISTS];
	struct move_job *move_job; /* loop's thread */
	bool ended;                /* take_lock; nothing is taken away any more */
	struct background background;
	struct cold cold;
	struct swap *swap;                       /* NULL: none */
	uint64_t event_gpa[VM_MEMORY_NR_EVENTS]; /* by enum vm_memory_event */
	void (*event)(void *opaque, enum vm_memory_event event, uint64_t gpa);
	void *event_opaque;

	struct fault_stream streams[FAULT_STREAMS];
	struct fault_stream *last_stream;
	uint64_t stream_clock;
	pthread_t fault_thread;
	int kick_fd; /* eventfd: look at the waiting list, or stop */
	bool fault_thread_runs;
	uint32_t nr_over; /* frames with GUEST_FRAME_OVER; lock */
	bool may_spin;
	atomic_bool stop;
	uint64_t stalled_since_ns; /* while said_empty; lock */
	atomic_bool said_empty;    /* pool empty was logged and has not ended yet */
	atomic_int loop_tid;       /* 0: not known yet */
	atomic_int worker_tid;     /* a vCPU's thread that serves a queue; 0: none */
	unsigned int events_due;   /* events to be reported by the loop, as bits; lock */
};

/* window.c: addresses, holes and bindings */
int window_create(struct vm_memory *mem, const struct vm_memory_config *config, struct error *err);
void window_destroy(struct vm_memory *mem);
/* Puts ordinary memory, zeroes, in the place of all holes: nobody answers a touch any more, and one
 * of an empty hugetlb file would end the process. take_lock held, after ended was set. */
void window_fill_holes(struct vm_memory *mem);
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
/* nr frames of the range that holds number were bound (or, below 0, are not any more), all of the
 * pool's node that its record says. All that changes how many are goes through here. Lock held. */
void window_count_bound(struct vm_memory *mem, uint32_t number, int nr);
/*
 * Enters bound frames into the page tables and wakes who waits for them. Lock held. Returns 0, or
 * -EAGAIN while an mremap is under way: the rest must be continued again.
 */
int window_continue(struct vm_memory *mem, uint32_t first, uint32_t nr);
/* Fills pool frames, which are in nobody's window, with zeroes. */
int window_zero(struct vm_memory *mem, const struct frame_run *run);
/*
 * A mapping of pool frames of ours beside the window, or NULL with errno set. It sees what they
 * hold whatever the window shows in their place. window_view_end() undoes it.
 */
void *window_view(struct vm_memory *mem, const struct frame_run *run, int prot);
void window_view_end(struct vm_memory *mem, void *view, const struct frame_run *run);

/* frame_data.c: what is in a frame */
bool frame_data_zero(const void *frame);
/* Past the caches: nobody looks at either soon. */
void frame_data_copy(void *dst, const void *src);

/* frame_lru.c; lock held */
void frame_lru_init(struct vm_memory *mem);
/* Puts a frame that is on no list at the head of one. */
void frame_lru_add(struct vm_memory *mem, uint32_t number, enum frame_list list);
/* The list is told by its state. */
void frame_lru_del(struct vm_memory *mem, uint32_t number);

/* park.c */
/* The clock of parked_at, which wraps after 49 days: good for differences only. */
uint32_t park_clock(void);
/*
 * Parks those of [first, +nr) of one range that are bound; those and the parked ones get flags.
 * take_lock held. Returns how many are parked now that were not, or a negative errno.
 */
int64_t park_frames(struct vm_memory *mem, uint32_t first, uint32_t nr, uint16_t flags);
/* A parked frame was touched: it is BOUND again and who waits for it is woken. Lock held. 0,
 * -EAGAIN (to be continued later) or an error: still parked. */
int park_touched(struct vm_memory *mem, uint32_t number);
/*
 * A touch has ended the time that a frame was out of reach: into its average. Parking is no doing
 * of the guest's, so that time is as long as the one between two touches. Lock held.
 */
void park_learn(struct guest_frame *frame);
/* How long a parked frame is expected to be left alone, in ms: as long as it is as a rule, or as it
 * has been now if that is longer. Lock held. */
uint32_t park_idle(const struct guest_frame *frame);
/*
 * Marks a bound or parked frame TAKING, off the lists. park_undo() makes it what it was, as far as
 * that matters: after a failure, it may be parked by now. Lock held.
 */
void park_take(struct vm_memory *mem, uint32_t number);
void park_undo(struct vm_memory *mem, uint32_t number);
/* Makes frames that are TAKING unreachable; their content stays. detach: by a hole in their place.
 * take_lock held. */
int park_zap(struct vm_memory *mem, uint32_t first, uint32_t nr, bool detach);

/* Whether only a hole in its place can park it. Lock held. */
bool park_must_detach(const struct vm_memory *mem, const struct guest_frame *frame);

/* background.c */
/* Creates a thread that gets no signals but SIGSYS; it gives itself its name. Returns 0 or an
 * errno. */
int background_thread(pthread_t *thread, void *(*fn)(void *opaque), void *opaque);
/* Starts the thread if it does not run. 0 or a negative errno with err set. Loop's thread. */
int background_start(struct vm_memory *mem, struct error *err);
void background_kick(struct vm_memory *mem);
void background_stop(struct vm_memory *mem);
/* The same for good, when nobody can kick any more. */
void background_destroy(struct vm_memory *mem);

/* cold.c; background thread */
/* Parks nr of the frames that were active the longest. */
void cold_sample(struct vm_memory *mem, uint32_t nr);
/* Samples if it is time for it. Returns the ms until it is again. */
int cold_step(struct vm_memory *mem);

/* swap.c */
/* As the configuration has it, maybe none. */
int swap_create(struct vm_memory *mem, const struct vm_memory_config *config, struct error *err);
/* After the threads that use it have ended. */
void swap_destroy(struct vm_memory *mem);
/* A touch of a frame that is SWAPPED or SWAPPING_IN: it will be woken. Lock held. */
void swap_touched(struct vm_memory *mem, uint32_t number);
/* The guest gives a frame up. If it is swapped it is a hole from now on. Returns whether it is one
 * now: one that is being read is not, until that is done. Lock held. */
bool swap_give_up(struct vm_memory *mem, uint32_t number);
/* Gives the space of a swapped frame back. Lock held. */
void swap_free_slot(struct vm_memory *mem, uint32_t number);
/* The pool is empty: some of this VM's own frames go. Any thread; allocates and waits for nothing.
 */
void swap_pressure(struct vm_memory *mem);
void swap_stats(struct vm_memory *mem, struct vm_memory_stats *stats);

/* move_job.c: before the fault thread ends */
void move_job_destroy(struct vm_memory *mem);

/* hints.c */
int hints_watch(void *opaque, uint64_t gpa, uint64_t nr_frames);
int64_t hints_release_clean(void *opaque, uint64_t gpa, uint64_t nr_frames);

/* slots.c */
int slots_create(struct vm_memory *mem, struct error *err);
/* Makes the slots that the frames [first, +nr) of one range lie in. take_lock held. All or nothing.
 * -EBUSY while the guest starves. */
int slots_make(struct vm_memory *mem, uint32_t first, uint32_t nr);
/* Removes those of them in which nothing is plugged, and frames that got bound there all the same.
 * take_lock held. */
void slots_prune(struct vm_memory *mem, uint32_t first, uint32_t nr);
/* Removes what slots_prune() had to leave because the guest starved, if it does not any more.
 * Loop's thread, no lock held. */
void slots_prune_late(struct vm_memory *mem);

/* hotplug.c */
int hotplug_plug(void *opaque, uint64_t gpa, uint64_t nr_frames);
int hotplug_unplug(void *opaque, uint64_t gpa, uint64_t nr_frames);

/* uffd.c */
/* Opens a userfaultfd with the best features there are and sets uffd, minor, remap. Returns 0, or
 * -ENOTSUP when none can be had. */
int uffd_open(struct vm_memory *mem);
int uffd_register(int uffd, const void *addr, uint64_t len, uint64_t mode);
/* Ends the service of a range; who waits for it goes on without. */
void uffd_unregister(int uffd, const void *addr, uint64_t len);
void uffd_wake(int uffd, const void *addr, uint64_t len);

/* stock_nodes.c: which nodes frames come from */
/* The stock for frames of a node that nobody else takes; NULL: there is none. */
struct stock *stock_for_node(struct vm_memory *mem, unsigned int node);
/* INTERLEAVE: the node whose turn it is at a guest frame. */
unsigned int stock_turn(const struct stock *stock, uint32_t number);
/* owner_client_grant() of about *nr frames for a stock; *nr becomes what was asked for.
 * refill_lock held. */
int64_t stock_grant(struct vm_memory *mem, const struct stock *stock, uint32_t *nr,
		    struct frame_run *runs, unsigned int *nr_runs);
/* Nothing is kept any more. */
void stock_unbind(struct vm_memory *mem);

/* stock.c */
/* One per policy and nodes of the configured ranges; the window's ranges point to theirs then. Has
 * the owner keep what they are bound to. */
int stock_create(struct vm_memory *mem, const struct vm_memory_config *config, struct error *err);
/* From here on the loop refills them. */
int stock_start(struct vm_memory *mem, struct event_loop *loop, struct error *err);
void stock_destroy(struct vm_memory *mem); /* gives its frames back */
/* The one for a guest frame. */
struct stock *stock_of(const struct vm_memory *mem, uint32_t number);
/* nr frames more (or less) in the range of number may be the guest's. Lock held. */
void stock_count_usable(struct vm_memory *mem, uint32_t number, int nr);
/* Fits the stocks to the number of frames that the guest may have. Lock held. */
void stock_set_size(struct vm_memory *mem);
/* Frames in all stocks; and those of them that are not kept for devices. Lock held. */
uint32_t stock_frames(const struct vm_memory *mem);
uint32_t stock_spare(const struct vm_memory *mem);
/* Frames that may be taken, by the loop's thread or by others. Lock held. */
uint32_t stock_available(const struct stock *stock, bool reserve);
/*
 * Takes a run of at most max frames for guest frame number and those behind it (of one range), of
 * the length closest to it: long ones are kept for those who want many. Lock held. Returns its
 * length, 0 if the stock is empty.
 */
uint32_t stock_take(struct vm_memory *mem, uint32_t number, uint32_t max, struct frame_run *run);
/* Enters a run of zeroed frames. False: there is no room, as what a dead owner did not take back
 * came. Lock held. */
bool stock_add(struct stock *stock, const struct frame_run *run);
/* Puts back a run that was taken under the same hold of the lock. */
void stock_put(struct stock *stock, const struct frame_run *run);
/*
 * Has the owner keep frames for the ranges that are bound to nodes: for what the guest may have and
 * more frames for stock (NULL: none). take_lock held, or nobody else yet. Returns 0 or a negative
 * errno with err set.
 */
int stock_bind(struct vm_memory *mem, const struct stock *stock, uint32_t more, struct error *err);
/*
 * Asks the owner once for what is missing until the stock holds nr frames, at most step of them.
 * Lock not held. Returns how many came; 0 if there was nothing to ask for, as the stock holds that
 * many, or all that the guest may still have; -EDQUOT when that is none; or another negative errno
 * if nothing came.
 */
int64_t stock_fill(struct vm_memory *mem, struct stock *stock, uint32_t nr, uint32_t step);
/* Checks what the owner sent before it becomes a file offset. */
bool stock_run_valid(const struct vm_memory *mem, const struct frame_run *run);
/* Gives the frames of all stocks back. Lock not held. */
void stock_return_all(struct vm_memory *mem);
/* Soon gives back what it holds beyond what the guest can use. Loop's thread. */
void stock_settle(struct vm_memory *mem);
/* Takes over frames that the owner did not take back; they are zeroed first. Lock not held. */
void stock_keep(struct vm_memory *mem, const struct frame_run *runs, unsigned int nr_runs);
/* Wakes the loop if the stock is low, an event is to be reported or slots can go now. Lock not
 * held.
 */
void stock_wake_loop(struct vm_memory *mem);

/* fault.c */
int fault_start(struct vm_memory *mem, struct error *err);
void fault_stop(struct vm_memory *mem);
/* Makes the fault thread look at the waiting list, if there is one. Lock not held. */
void fault_kick(struct vm_memory *mem);
/* Puts a frame on the waiting list. Lock held. */
void fault_wait_for(struct vm_memory *mem, uint32_t number);
/* Notes an event for the user; stock_wake_loop() has it told. Lock held. */
void fault_note_event(struct vm_memory *mem, enum vm_memory_event event, uint64_t gpa);
/* No frame can be had now for a touch of this one; reason as stock_fill() gives it. Lock held. */
void fault_starve(struct vm_memory *mem, uint32_t number, int reason);
/* There was a frame for a touch of this one: it does not starve any more. Lock held. */
void fault_served(struct vm_memory *mem, uint32_t number);
/* Adds a stall that is under way, as if it ended now. Lock held. */
void fault_count_stall(const struct vm_memory *mem, struct vm_memory_stats *stats);
/* Calls the user's function for what the fault thread has noted. Loop's thread, lock not held. */
void fault_report(struct vm_memory *mem);

/* fault_around.c: what to bind beside the frame that was touched. Fault thread only. */
/* Frames that a touch of number would have bound, if the stock had them. Lock held. */
uint32_t around_wanted(struct vm_memory *mem, uint32_t number);
/* Frames to bind from *first on, number (a hole) among them: at least 1. Lock held. */
uint32_t around_window(struct vm_memory *mem, uint32_t number, uint32_t *first);
/* Those of them that were bound after around_window(). */
void around_bound(struct vm_memory *mem, uint32_t first, uint32_t nr);

/* takeaway.c */
extern const struct guest_frame_ops takeaway_frame_ops;
/* Takes [first, first + nr) of one range away. take_lock held. Returns frames given back, or a
 * negative errno. */
int64_t takeaway_take(struct vm_memory *mem, uint32_t first, uint32_t nr);
/* The same for those that are parked and WATCHED alone: others stay as they are. */
int64_t takeaway_take_clean(struct vm_memory *mem, uint32_t first, uint32_t nr);
/* Replaces TAKING frames, and holes between them, by holes. take_lock held. */
int takeaway_replace(struct vm_memory *mem, uint32_t first, uint32_t nr);
/* Gives frames back to the owner. What it does not take stays here, zeroed, in the stock. Returns 0
 * or a negative errno. Lock not held. */
int takeaway_return(struct vm_memory *mem, const struct frame_run *runs, unsigned int nr_runs);
/* Calls fn for each range's part of [gpa, +nr_frames) under take_lock, until it fails. Returns the
 * sum of what it returned, or its error. */
typedef int64_t (*takeaway_fn)(struct vm_memory *mem, uint32_t first, uint32_t nr);
int64_t takeaway_each(struct vm_memory *mem, uint64_t gpa, uint64_t nr_frames, takeaway_fn fn);
/* For the loop's thread, and for threads that let it go first. */
void take_lock(struct vm_memory *mem);
void take_lock_background(struct vm_memory *mem);
void take_unlock(struct vm_memory *mem);
/* Binds every hole of [first, +nr) that is plugged. take_lock held, by somebody who waits for this,
 * or no other thread yet. 0 or -ENOMEM, -EPIPE. */
int takeaway_back(struct vm_memory *mem, uint32_t first, uint32_t nr);
/* Gives every bound frame back, after the window was unmapped. */
void takeaway_return_all(struct vm_memory *mem);

#endif
