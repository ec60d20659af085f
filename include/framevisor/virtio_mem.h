/* SPDX-License-Identifier: MIT */
/*
 * virtio-mem (virtio 1.2, section 5.15), device ID 24: a region of guest memory whose blocks the
 * guest plugs and unplugs until their sum is the requested size. A block is a whole number of
 * frames, so each block that the guest gives up is in the pool at once.
 *
 * What the device promises and checks:
 *  - The region is one of host->mem's pluggable regions or a part of it. Blocks come and go through
 *    plug() and unplug() of struct guest_frame_ops; when the pool does not admit a block the guest
 *    is told BUSY, and tries again by itself (Linux: after 5 s, then less often).
 *  - Each request is checked against the block map: inside the usable region, aligned, at least one
 *    block, all of them in the state that the request leaves behind; else ERROR. Plugging beyond
 * the requested size: NACK. A malformed message breaks the device.
 *  - UNPLUGGED_INACCESSIBLE is required: a driver that does not accept it is refused, for a read of
 *    an unplugged block would take a frame. (Linux has it since 5.16.)
 *  - The usable region reaches beyond the requested size by the largest unit in which Linux adds
 *    memory, and shrinks only by UNPLUG ALL and system resets.
 *
 * Resets: when the driver resets the device, blocks stay as they are and the memory stays usable
 * (5.15.5.2); a driver that starts and finds plugged blocks asks for UNPLUG ALL or STATE. A system
 * reset (struct device_ops) unplugs all blocks: after it a guest finds nothing but its boot memory,
 * and plugs up to the requested size anew, which is the host's wish and stays.
 *
 * Threads: the loop's, unless a function says otherwise.
 */
#ifndef FRAMEVISOR_VIRTIO_MEM_H
#define FRAMEVISOR_VIRTIO_MEM_H

#include <stdbool.h>
#include <stdint.h>

#include "framevisor/device.h"
#include "framevisor/error.h"

struct pci_bus;
struct virtio_mem;

/* Called in the loop's thread after blocks were plugged or unplugged, or refused. */
typedef void (*virtio_mem_changed_fn)(void *opaque);

struct virtio_mem_options {
	/* Multiples of block_size. Linux uses only what covers whole memory blocks of its own: 128
	 * MiB, up to 2 GiB in guests of 64 GiB and more. */
	uint64_t addr;
	uint64_t region_size;
	uint64_t block_size; /* a power of two, at least FRAME_SIZE; 0: FRAME_SIZE */
	bool has_node; /* offer ACPI_PXM: the region belongs to this proximity domain (SRAT) */
	uint16_t node;
	virtio_mem_changed_fn changed;
	void *opaque;
};

/* Returns NULL with err set: bad geometry, not a pluggable region, or a machine that cannot plug.
 */
struct virtio_mem *virtio_mem_create(struct device_host *host, struct pci_bus *bus,
				     const struct virtio_mem_options *options, struct error *err);
struct device *virtio_mem_device(struct virtio_mem *mem);

/* Asks the guest to have bytes plugged: a multiple of the block size, at most the region's size. */
int virtio_mem_set_requested(struct virtio_mem *mem, uint64_t bytes, struct error *err);
/* Tells a guest that is not there yet once more: Linux waits 50 s and more after blocks that it
 * could not plug or unplug, but tries again when the configuration changes. */
void virtio_mem_ask_again(struct virtio_mem *mem);

struct virtio_mem_stats {
	bool driver_ready; /* DRIVER_OK was seen, and not FAILED */
	bool broken;       /* DEVICE_NEEDS_RESET */
	uint16_t node;     /* proximity domain; 0 if it has none */
	/* Why the last plug or unplug could not be done: negative errno, -ENOMEM for the pool's
	 * refusal; 0 after one that succeeded, and when a size is requested. */
	int last_error;
	uint64_t addr;
	uint64_t region_size;
	uint64_t block_size;
	uint64_t usable;    /* bytes of the region that the guest may choose from */
	uint64_t requested; /* bytes */
	uint64_t plugged;   /* bytes */
	/* Answers since creation. */
	uint64_t acks, nacks, busy, errors;
	/* Since the last block was plugged or unplugged, a new size was requested, or the device
	 * was resumed: how long the guest has not moved. */
	uint64_t idle_ms;
	/* For how long the driver has not read what it was told last (a requested size, or once
	 * more the same), or since the device was resumed; 0: it has. A driver that works on the
	 * one before reads it later. */
	uint64_t unread_ms;
};
/* Any thread. */
void virtio_mem_stats(struct virtio_mem *mem, struct virtio_mem_stats *stats);

#endif
