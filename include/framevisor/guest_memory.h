/* SPDX-License-Identifier: MIT */
/*
 * A guest's physical memory as devices and boot code see it: a few regions, and the one family of
 * accessors. Nothing else in the program does arithmetic on guest addresses.
 *
 * The memory behind a pointer is written by vCPUs at the same time, so control structures are
 * copied once with guest_read() and only the copy is looked at. A first touch through a pointer may
 * block until the fault thread has bound a frame: hold no lock that the fault thread takes (it
 * takes none but those of vmm/memory).
 */
#ifndef FRAMEVISOR_GUEST_MEMORY_H
#define FRAMEVISOR_GUEST_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#include "framevisor/frame.h"

#define GUEST_REGIONS_MAX 64

/* RAM [gpa, gpa + size) at hva. gpa, size and hva are multiples of FRAME_SIZE. */
struct guest_region {
	uint64_t gpa;
	uint64_t size;
	uint8_t *hva;
};

/* How whole frames leave a guest and come back. Called from the loop's thread only. */
struct guest_frame_ops {
	/*
	 * Takes nr_frames frames from gpa on (frame aligned, inside RAM) away from the running
	 * guest and returns them to the pool; their content is lost. After the call no vCPU can
	 * reach the old frames. Frames that were not there anyway are skipped. Returns the number
	 * of frames that went back to the pool, or a negative errno.
	 */
	int64_t (*release)(void *opaque, uint64_t gpa, uint64_t nr_frames);
	/*
	 * Makes sure that each of these frames is backed (zeroed where it is new). Returns 0,
	 * or -ENOMEM when the pool has none now: try again later.
	 */
	int (*back)(void *opaque, uint64_t gpa, uint64_t nr_frames);
};

struct guest_memory {
	unsigned int nr_regions;
	struct guest_region regions[GUEST_REGIONS_MAX]; /* sorted by gpa, not overlapping */
	const struct guest_frame_ops *frame_ops;        /* NULL: frames cannot leave */
	void *frame_opaque;
};

/* Adds a region. Returns 0, -EINVAL (alignment, wrap), -EEXIST (overlap) or -ENOSPC. */
int guest_memory_add_region(struct guest_memory *gm, uint64_t gpa, uint64_t size, void *hva);

/* Sum of all regions, in bytes. */
uint64_t guest_memory_size(const struct guest_memory *gm);

/*
 * The address of [gpa, gpa + len) if the whole range lies in one region, else NULL. len 0 gives
 * NULL. The pointer is valid as long as the region exists.
 */
void *guest_ptr(const struct guest_memory *gm, uint64_t gpa, uint64_t len);

/* Copies of exactly len bytes; a range may span adjacent regions. Returns 0, or -EFAULT and nothing
 * is written at all (guest_write) or dst is unspecified (guest_read). */
int guest_read(const struct guest_memory *gm, uint64_t gpa, void *dst, uint64_t len);
int guest_write(const struct guest_memory *gm, uint64_t gpa, const void *src, uint64_t len);

/* Whether gpa is frame aligned and the whole frame at it is RAM. */
bool guest_frame_valid(const struct guest_memory *gm, uint64_t gpa);

#endif
