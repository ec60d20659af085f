/* SPDX-License-Identifier: MIT */
/*
 * A guest's frames: the address window, the slots KVM sees, demand faults, the local stock, and
 * taking frames away while vCPUs run. (vmm/memory/)
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

struct vm_memory_config {
	const struct vm_memory_range *ranges;
	unsigned int nr_ranges;
	struct owner_client *client; /* stays the caller's */
	struct event_loop *loop;     /* for back-ground work of the stock */
};

struct vm_memory *vm_memory_create(const struct vm_memory_config *config, struct error *err);
void vm_memory_destroy(struct vm_memory *mem);

/* The accessors' view; valid until destroy. Its frame_ops are set. */
struct guest_memory *vm_memory_guest(struct vm_memory *mem);

/* Registers the ranges as KVM memory slots of vm_fd, from slot number first_slot on. */
int vm_memory_set_slots(struct vm_memory *mem, int vm_fd, unsigned int first_slot,
			struct error *err);

/* Numbers in frames; counters since creation. Any thread. */
struct vm_memory_stats {
	uint64_t ram;              /* size of the guest's RAM */
	uint64_t bound;            /* mapped into the window now */
	uint64_t stock;            /* granted to us and not used yet */
	uint64_t released;         /* given back by the guest and not taken again */
	uint64_t faults;           /* first touches served */
	uint64_t touched_released; /* first touches of frames that the guest had given up */
	uint64_t waits;            /* faults that found the pool empty */
};
void vm_memory_stats(struct vm_memory *mem, struct vm_memory_stats *stats);

/* Gives the unused stock back to the pool. Loop's thread. */
void vm_memory_drain_stock(struct vm_memory *mem);

/* One line per slot (slot, gpa, size, hva, frames bound) for the dump of an unhandled exit. */
void vm_memory_dump(struct vm_memory *mem, int fd);

#endif
