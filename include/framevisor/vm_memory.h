/* SPDX-License-Identifier: MIT */
/*
 * A guest's frames: the address window, the slots KVM sees, demand faults, the local stock, taking
 * frames away while vCPUs run, and memory that is plugged and unplugged. (vmm/memory/)
 *
 * A touch of a frame that is not there waits until the fault thread has bound one. When the pool
 * has none that lasts until somebody gives frames back, and it stops whoever touched: a vCPU, which
 * is what is wanted, but also a thread that serves a device's queue: the loop's, and with it every
 * device and QMP. So a few frames are kept back for those alone (as a kernel keeps reserves for
 * those who free memory). A device that works on more untouched memory than that at a time asks
 * frame_ops->back() first, which says -ENOMEM instead of waiting, and tries again later.
 */
#ifndef FRAMEVISOR_VM_MEMORY_H
#define FRAMEVISOR_VM_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#include "framevisor/error.h"
#include "framevisor/event_loop.h"
#include "framevisor/guest_memory.h"
#include "framevisor/owner_client.h"

struct vm_memory;

/* From which nodes of the pool a range gets its frames. */
enum vm_memory_policy {
	VM_MEMORY_ANY,
	VM_MEMORY_BIND,       /* only of the mask; the owner keeps them for this VM */
	VM_MEMORY_PREFERRED,  /* of the mask while it has any */
	VM_MEMORY_INTERLEAVE, /* of the nodes of the mask in turn, frame by frame, while they have
				 any */
};

/* A piece of guest-physical RAM, backed by the next size bytes of the window. */
struct vm_memory_range {
	uint64_t gpa;
	uint64_t size; /* multiple of FRAME_SIZE */
	uint16_t node; /* of the guest: for vm_memory_nodes() */
	enum vm_memory_policy policy;
	uint64_t nodemask; /* bit n: node n of the pool; not 0 unless VM_MEMORY_ANY */
};

/*
 * Pluggable ranges begin and end on this boundary. KVM sees a piece of this size from the first
 * block plugged in it until the last one is unplugged: a slot costs 0.1 to 0.2 ms to make, 0.2 to 1
 * ms to remove, and removing one drops every mapping of the guest, so it is not done per block.
 */
#define VM_MEMORY_SLOT_SIZE (FRAME_SIZE > UINT64_C(128) << 20 ? FRAME_SIZE : UINT64_C(128) << 20)

enum vm_memory_event {
	/*
	 * The guest touched a frame (at gpa) that it may not have: it has as many as its RAM and
	 * what is plugged allow, because it also uses frames that are unplugged. The vCPU is
	 * blocked until frames come free; the VM is best paused and its user told.
	 */
	VM_MEMORY_EVENT_OVER_LIMIT,
	/* The pool has no frame for a touch at gpa; the vCPU is blocked until it has. Once per
	 * shortage. */
	VM_MEMORY_EVENT_POOL_EMPTY,
	/*
	 * A frame (at gpa) cannot be read back from the swap file. Whoever touched it is blocked;
	 * nothing is lost as long as the device comes back: the VM is best paused, and reading is
	 * tried again by vm_memory_swap_retry().
	 */
	VM_MEMORY_EVENT_SWAP_UNREADABLE,
	/* The swap file is full or cannot be written: what was to be swapped out stays where it is
	 * (gpa: 0). Once per failure; tried again after a while. */
	VM_MEMORY_EVENT_SWAP_FULL,
	/* After OVER_LIMIT: nobody waits any more for a frame that the guest may not have (gpa: 0).
	 */
	VM_MEMORY_EVENT_WITHIN_LIMIT,
};
#define VM_MEMORY_NR_EVENTS 5

struct vm_memory_config {
	const struct vm_memory_range *ranges;
	unsigned int nr_ranges;
	struct owner_client *client; /* stays the caller's */
	struct event_loop *loop;     /* for back-ground work of the stock */

	/*
	 * Ranges of which nothing is plugged at first; gpa and size are multiples of
	 * VM_MEMORY_SLOT_SIZE. guest_frame_ops plug() and unplug() work on them. The client's
	 * ram_frames need not cover them: plug() asks the owner for more then, and what an unplug
	 * leaves over is given up again, down to what the client was connected with, what
	 * vm_memory_reserve() keeps and whole slots.
	 */
	const struct vm_memory_range *hotplug;
	unsigned int nr_hotplug;

	/*
	 * Where cold frames are swapped to: a directory (an unlinked file of mode 0600 in it), or
	 * the name of a file that does not exist yet (it is unlinked at once). NULL: no swap.
	 * swap_bytes is how large the file may become; 0: as large as the guest.
	 */
	const char *swap_path;
	uint64_t swap_bytes;
	bool swap_random; /* any frame goes out, not the coldest: what measurements compare with */

	/* Called in the loop's thread; may be NULL. */
	void (*event)(void *opaque, enum vm_memory_event event, uint64_t gpa);
	void *event_opaque;
};

struct vm_memory *vm_memory_create(const struct vm_memory_config *config, struct error *err);
void vm_memory_destroy(struct vm_memory *mem);

/* The accessors' view; valid until destroy. Its frame_ops are set. */
struct guest_memory *vm_memory_guest(struct vm_memory *mem);
/* The connection that it was created with. */
struct owner_client *vm_memory_client(struct vm_memory *mem);

/*
 * Registers the ranges as KVM memory slots of vm_fd, from slot number first_slot on, and remembers
 * both for the slots that plug() makes: one number per range, then one per VM_MEMORY_SLOT_SIZE of
 * the pluggable ranges. Call it once.
 */
int vm_memory_set_slots(struct vm_memory *mem, int vm_fd, unsigned int first_slot,
			struct error *err);

/*
 * Asks the owner now for the promise of nr_plugged frames beside the RAM, for somebody who is told
 * why it cannot be had. plug() up to there cannot be refused then, until vm_memory_unreserve().
 * Returns 0, -EINPROGRESS (no err) when the pool has to grow for it first, or another negative
 * errno with err set: then what was reserved before still is. Loop's thread; it does not wait for
 * the pool: NOTICE_GROWN (framevisor/owner_notice.h) says when to call it again.
 */
int vm_memory_reserve(struct vm_memory *mem, uint64_t nr_plugged, struct error *err);
/* The same before the loop runs: waits until the pool has grown. */
int vm_memory_reserve_now(struct vm_memory *mem, uint64_t nr_plugged, struct error *err);
/* No more than nr_plugged frames are to be kept for this VM beside its RAM: gives the promise of
 * the rest back, but for what is plugged and whole slots, and calls a growth of the pool for it
 * off. Loop's thread.
 */
void vm_memory_unreserve(struct vm_memory *mem, uint64_t nr_plugged);
/* What the owner promises beside the RAM as of now, in frames; may be more than can be plugged. Any
 * thread. */
uint64_t vm_memory_promised(struct vm_memory *mem);

/* done and total in frames. Returning false gives up. */
typedef bool (*vm_memory_progress_fn)(void *opaque, uint64_t done, uint64_t total);

/*
 * Binds every frame of the RAM and of what is plugged, in several threads; progress (may be NULL)
 * is called in this one, at least at the start and at the end. Returns 0, -ECANCELED, or another
 * negative errno with err set: what was bound by then stays. Loop's thread, or before the loop
 * runs.
 */
int vm_memory_prealloc(struct vm_memory *mem, vm_memory_progress_fn progress, void *opaque,
		       struct error *err);

/* Numbers in frames; counters since creation. Any thread. */
struct vm_memory_stats {
	uint64_t ram;              /* size of the guest's RAM, without what can be plugged */
	uint64_t bound;            /* mapped into the window now */
	uint64_t stock;            /* granted to us and not used yet */
	uint64_t stock_spare;      /* of these: what vm_memory_reclaim_stock() gives back */
	uint64_t released;         /* given back by the guest and not taken again */
	uint64_t faults;           /* first touches served */
	uint64_t given_up;         /* times that the guest gave a frame up; never less */
	uint64_t touched_released; /* first touches of frames that the guest had given up */
	uint64_t waits;            /* faults that found the pool empty */
	uint64_t stall_ns;         /* how long at least one of them waited, in all ... */
	uint64_t stall_max_ns;     /* ... and at most at a time; up to now if one still waits */

	uint64_t hotplug;           /* size of the pluggable ranges */
	uint64_t plugged;           /* of these, plugged now */
	uint64_t slots;             /* KVM slots that they have now */
	uint64_t faults_around;     /* neighbours bound along with a first touch */
	uint64_t touched_unplugged; /* first touches of frames that are not plugged */
	uint64_t over_limit;        /* faults that would have gone beyond the VM's limit */
	uint64_t spins;             /* faults that found the fault thread awake */

	uint64_t parked;         /* of the bound ones, those whose next touch will be noticed */
	uint64_t unparked;       /* touches of parked frames */
	uint64_t released_clean; /* frames given back because they were untouched or zero */
	uint64_t migrated;       /* frames moved to another frame of the pool */
	uint64_t migrate_max_ns; /* the longest time that such a frame was out of reach */

	uint64_t sampled; /* frames parked by the sampling for cold ones */

	uint64_t swapped;        /* frames that are in the swap file now, or all zero */
	uint64_t swapped_zero;   /* of these, all zero: they take no space */
	uint64_t swap_out;       /* frames swapped out, with the zero ones */
	uint64_t swap_in;        /* frames swapped in */
	uint64_t swap_ahead;     /* of these, read ahead of their touch */
	uint64_t swap_dropped;   /* given up by the guest while they were swapped out */
	uint64_t swap_out_bytes; /* what was written for swap_out */
	uint64_t swap_used;      /* bytes in use in the swap file */
	uint64_t swap_size;      /* that it may have; 0: no swap */
	uint64_t swap_errors;    /* reads and writes that failed */
};
void vm_memory_stats(struct vm_memory *mem, struct vm_memory_stats *stats);

/* Frames of one guest node, by the pool's nodes that they are in. */
struct vm_memory_node {
	uint16_t node;
	uint64_t ram, plugged; /* frames that it has, and hot-plugged ones */
	uint64_t bound[OWNER_NODES_MAX];
};

/* Fills nodes[] (room for max) in ascending order of their numbers. Returns how many there are. Any
 * thread. */
unsigned int vm_memory_nodes(struct vm_memory *mem, struct vm_memory_node *nodes, unsigned int max);

/* Where range i begins in this process's address space: for tools that look at its pages. NULL:
 * there is none. Ranges for plugging follow the others. */
const void *vm_memory_range_address(struct vm_memory *mem, unsigned int i, uint64_t *gpa,
				    uint64_t *size);

/* Goes on with the pool owner that connected on fd (taken over) in place of one that died: declares
 * what the VM holds. Loop's thread. Returns 0 or a negative errno with err set; or -EAGAIN, and fd
 * is as it was: frames are on their way, which may take as long as a device does that is swapped
 * to. */
int vm_memory_rejoin(struct vm_memory *mem, int fd, struct error *err);

/* Gives the empty file under the window the descriptor to, and no other. Before the guest runs. */
int vm_memory_move_hole(struct vm_memory *mem, int to);

/*
 * Where this process maps frames of the pool: in the window (window to views), and for a short time
 * each in views (views to end), with MAP_FIXED. Below it, from guard on, nothing is ever mapped,
 * and no mapping is moved out of it. guard and end are multiples of VM_MEMORY_SPAN.
 */
#define VM_MEMORY_SPAN (UINT64_C(1) << 32)
struct vm_memory_span {
	uint64_t guard, window, views, end;
};
void vm_memory_span(const struct vm_memory *mem, struct vm_memory_span *span);
/* Whether a touch waits for a frame that cannot be had now: a vCPU that is blocked by it may not be
 * stoppable before it gets one (KVM before Linux 6.2). Any thread. */
bool vm_memory_starves(struct vm_memory *mem);

/*
 * A vCPU's thread begins and ends work on a device's queue: in between, what it touches is served
 * like what the loop's thread touches. One thread at a time: begin returns false, and does not
 * block, when another one is at it.
 */
bool vm_memory_queue_work_begin(struct vm_memory *mem);
void vm_memory_queue_work_end(struct vm_memory *mem);

/*
 * The machine ends: no touch is answered any more, and those that wait are let go, without a frame
 * of the pool: what was not there is ordinary memory full of zeroes. Whoever waited must not run
 * guest code afterwards; one that serves a device may go on with that. Only vm_memory_destroy() may
 * follow. Loop's thread.
 */
void vm_memory_end_waits(struct vm_memory *mem);

/* The machine is reset, and no vCPU runs: nobody waits any more for what the guest touched before,
 * but who waits all the same is heard again. Loop's thread. */
void vm_memory_forget_waits(struct vm_memory *mem);

/* Gives the unused stock back to the pool. Loop's thread. */
void vm_memory_drain_stock(struct vm_memory *mem);

/* The same, but for the few frames that are kept for devices: a pool that is short has none for
 * them, and a loop that waits does not hear what the owner asks for. Loop's thread. */
void vm_memory_reclaim_stock(struct vm_memory *mem);

/*
 * --- Moving frames ---
 *
 * A frame of the running guest moves to another frame of the pool: its content is copied while
 * nobody can reach it, no write is lost, and the old frame goes back to the owner. Whoever touches
 * it meanwhile waits, for less than a millisecond on ordinary machines. Frames that are not bound
 * (holes, swapped out, being swapped in) are left as they are: later touches are served from the
 * pool as always. Any thread but the fault thread; each frame is a step of its own, and other
 * changes of the guest's memory go on between two steps.
 */

/* Which frames to move, and to which nodes. */
struct vm_memory_move {
	/* Guest frames [gpa, gpa + frames_to_bytes(nr_frames)), over several ranges of RAM if need
	 * be; what is not RAM is skipped. Or, if nr_from is not 0, those that have these frames of
	 * the pool; frames of the stock among them are given back. */
	uint64_t gpa;
	uint64_t nr_frames;
	bool of_node; /* of these only the ones of guest node node */
	uint16_t node;
	const struct frame_run *from;
	unsigned int nr_from;
	/* Nodes to move to; frames that are there already stay. 0: any, and every frame moves. */
	uint64_t nodemask;

	/* Called in this thread after each step; may be NULL. Returning false gives up. */
	vm_memory_progress_fn progress;
	void *opaque;
};

/*
 * Moves them. Returns the number of frames moved; -ENOMEM when nothing can be moved because the
 * nodes have no frame, -ECANCELED, -ENOTSUP (frames of this VM cannot be taken away), -EPIPE (no
 * owner) or another negative errno with err set. What was moved by then stays moved.
 */
int64_t vm_memory_move_frames(struct vm_memory *mem, const struct vm_memory_move *move,
			      struct error *err);

/*
 * The same in a thread of its own, one at a time (-EBUSY), for guest frames and nodes: from and
 * progress are not used. Loop's thread, like the two below.
 */
int vm_memory_move_start(struct vm_memory *mem, const struct vm_memory_move *move,
			 struct error *err);
void vm_memory_move_cancel(struct vm_memory *mem);

struct vm_memory_move_status {
	bool running;
	uint64_t done;  /* frames looked at */
	uint64_t total; /* of so many */
	uint64_t moved;
	int error; /* how the last one ended: 0 or a negative errno */
	char message[256];
};
void vm_memory_move_status(struct vm_memory *mem, struct vm_memory_move_status *status);

/*
 * --- Cold frames ---
 *
 * While sampling is on, a few frames every 20 ms, those longest in use first, are parked: the next
 * touch is noticed, at the price of a fault. Who comes back counts as active again, who does not is
 * idle since it was parked. A guest that uses all of its frames all the time runs at 0.94 to 0.98
 * of its speed; when most of the sampled frames come back at once, fewer are sampled.
 */
void vm_memory_set_sampling(struct vm_memory *mem, bool on);

/* Ages that idle frames are counted by, in ms. */
#define VM_MEMORY_IDLE_AGES 5
extern const uint32_t vm_memory_idle_ages[VM_MEMORY_IDLE_AGES]; /* 1, 5, 30, 120, 600 s */

struct vm_memory_idle {
	bool sampling;
	uint64_t active;   /* bound frames in use, or not sampled since */
	uint64_t inactive; /* bound frames that were parked and not touched since */
	uint64_t idle[VM_MEMORY_IDLE_AGES]; /* of these, at least so old */
	/* How long the sampling of all active frames takes at today's pace: an idle frame is known
	 * as such after so long at the latest. 0: no sampling. */
	uint64_t cycle_ms;
	/* Since all frames that were active when sampling was switched on had been sampled; 0: they
	 * have not. What is older than that is idle for certain, what is not in idle[] is not. */
	uint64_t complete_ms;
};
/* Any thread. */
void vm_memory_idle(struct vm_memory *mem, struct vm_memory_idle *idle);

/* --- Swap --- */

/*
 * Asks for nr_frames to be swapped out, the coldest first; frames used lately are taken only when
 * nothing older is left. Returns at once; a thread of its own does it, and stats and the pool show
 * how far it is. A request replaces what is left of the last one; 0 stops it. Returns 0, or
 * -ENOTSUP without swap.
 */
int vm_memory_swap_out(struct vm_memory *mem, uint64_t nr_frames);

/* Tries again what could not be read or written. Any thread. Call it when the VM is to go on. */
void vm_memory_swap_retry(struct vm_memory *mem);

/* One line per slot (slot, gpa, size, hva, frames bound) for the dump of an unhandled exit. */
void vm_memory_dump(struct vm_memory *mem, int fd);

#endif
