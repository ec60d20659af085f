/* SPDX-License-Identifier: MIT */
/*
 * A guest's frames: the address window, the slots KVM sees, demand faults, the local stock, taking
 * frames away while vCPUs run, and memory that is plugged and unplugged. (vmm/memory/)
 *
 * A touch of a frame that is not there waits until the fault thread has bound one. When the pool
 * has none that lasts until somebody gives frames back, and it stops whoever touched: a vCPU, which
 * is what is wanted, but also the loop's thread, and with it every device and QMP. So a few frames
 * are kept back for the loop's thread alone (as a kernel keeps reserves for those who free memory).
 * A device that works on more untouched memory than that at a time asks frame_ops->back() first,
 * which says -ENOMEM instead of waiting, and tries again later.
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

/* A piece of guest-physical RAM, backed by the next size bytes of the window. */
struct vm_memory_range {
	uint64_t gpa;
	uint64_t size; /* multiple of FRAME_SIZE */
};

/*
 * Pluggable ranges begin and end on this boundary. KVM sees a piece of this size from the first
 * block plugged in it until the last one is unplugged: a slot costs 0.1 to 0.2 ms to make, 0.2 to 1
 * ms to remove, and removing one drops every mapping of the guest, so it is not done per block.
 */
#define VM_MEMORY_SLOT_SIZE (UINT64_C(128) << 20)

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
};

struct vm_memory_config {
	const struct vm_memory_range *ranges;
	unsigned int nr_ranges;
	struct owner_client *client; /* stays the caller's */
	struct event_loop *loop;     /* for back-ground work of the stock */

	/*
	 * Ranges of which nothing is plugged at first; gpa and size are multiples of
	 * VM_MEMORY_SLOT_SIZE. guest_frame_ops plug() and unplug() work on them. The client's
	 * ram_frames need not cover them: plug() asks the owner for more then, and what an unplug
	 * leaves over is given up again, down to what the client was connected with.
	 */
	const struct vm_memory_range *hotplug;
	unsigned int nr_hotplug;

	/* Called in the loop's thread; may be NULL. */
	void (*event)(void *opaque, enum vm_memory_event event, uint64_t gpa);
	void *event_opaque;
};

struct vm_memory *vm_memory_create(const struct vm_memory_config *config, struct error *err);
void vm_memory_destroy(struct vm_memory *mem);

/* The accessors' view; valid until destroy. Its frame_ops are set. */
struct guest_memory *vm_memory_guest(struct vm_memory *mem);

/*
 * Registers the ranges as KVM memory slots of vm_fd, from slot number first_slot on, and remembers
 * both for the slots that plug() makes: one number per range, then one per VM_MEMORY_SLOT_SIZE of
 * the pluggable ranges. Call it once.
 */
int vm_memory_set_slots(struct vm_memory *mem, int vm_fd, unsigned int first_slot,
			struct error *err);

/*
 * Asks the owner now for the promise of nr_plugged frames beside the RAM, for somebody who is told
 * why it cannot be had. plug() up to there cannot be refused then, until the next unplug. Returns 0
 * or a negative errno with err set. Loop's thread.
 */
int vm_memory_reserve(struct vm_memory *mem, uint64_t nr_plugged, struct error *err);

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
	uint64_t released;         /* given back by the guest and not taken again */
	uint64_t faults;           /* first touches served */
	uint64_t touched_released; /* first touches of frames that the guest had given up */
	uint64_t waits;            /* faults that found the pool empty */

	uint64_t hotplug;           /* size of the pluggable ranges */
	uint64_t plugged;           /* of these, plugged now */
	uint64_t slots;             /* KVM slots that they have now */
	uint64_t faults_around;     /* neighbours bound along with a first touch */
	uint64_t touched_unplugged; /* first touches of frames that are not plugged */
	uint64_t over_limit;        /* faults that would have gone beyond the VM's limit */
	uint64_t spins;             /* faults that found the fault thread awake */
};
void vm_memory_stats(struct vm_memory *mem, struct vm_memory_stats *stats);

/* Gives the unused stock back to the pool. Loop's thread. */
void vm_memory_drain_stock(struct vm_memory *mem);

/* One line per slot (slot, gpa, size, hva, frames bound) for the dump of an unhandled exit. */
void vm_memory_dump(struct vm_memory *mem, int fd);

#endif
