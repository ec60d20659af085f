/* SPDX-License-Identifier: MIT */
/* A virtio-mem driver over virtio.h: requests, one at a time, and what the device says of itself
 * (virtio 1.2, 5.15). */
#ifndef GUEST_VIRTIO_MEM_H
#define GUEST_VIRTIO_MEM_H

#include <linux/virtio_mem.h>

#include "virtio.h"

#define MEM_FEATURES                                                  \
	(1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_MEM_F_ACPI_PXM | \
	 1ull << VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE)

struct virtio_mem {
	struct virtio_pci dev;
	struct vq vq;
	/* What does not change (in bytes). */
	uint64_t block_size;
	uint64_t addr;
	uint64_t region_size;
	unsigned int node;
};

/* Finds the device (the first time), resets it and brings it up. The usable region is mapped.
 * Fails the test with "no device" where there is none. */
void mem_start(struct virtio_mem *mem);

uint64_t mem_plugged(struct virtio_mem *mem);                     /* bytes */
uint64_t mem_requested(struct virtio_mem *mem);                   /* bytes */
uint64_t mem_usable(struct virtio_mem *mem);                      /* bytes */
uint64_t mem_block(const struct virtio_mem *mem, uint64_t block); /* its address */

/* One request. Returns the device's VIRTIO_MEM_RESP_...; *state (may be NULL) is what a STATE
 * request was told. An answer that is malformed or does not come fails the test. */
uint16_t mem_request(struct virtio_mem *mem, uint16_t type, uint64_t addr, uint16_t nr_blocks,
		     uint16_t *state);

/* For blocks by their number; anything but ACK fails the test. */
void mem_plug(struct virtio_mem *mem, uint64_t block, uint16_t nr);
void mem_unplug(struct virtio_mem *mem, uint64_t block, uint16_t nr);
void mem_unplug_all(struct virtio_mem *mem);
uint16_t mem_state(struct virtio_mem *mem, uint64_t block, uint16_t nr);

#endif
