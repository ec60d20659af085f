/* SPDX-License-Identifier: MIT */
/*
 * The unit of everything: a frame is one host hugepage of 2 MiB, order 0 of the allocator.
 *
 * Three units are in use and never mixed: bytes (uint64_t, "size", "len", "gpa", "offset"), frames
 * (uint64_t, "nr_frames", "pfn" for a frame's number in its pool) and the 4 KiB guest pages in
 * which virtio-balloon speaks ("guest page", never "pfn" without saying so). The converters stand
 * here.
 */
#ifndef FRAMEVISOR_FRAME_H
#define FRAMEVISOR_FRAME_H

#include <stdbool.h>
#include <stdint.h>

#define FRAME_SHIFT 21
#define FRAME_SIZE  (UINT64_C(1) << FRAME_SHIFT)
#define FRAME_MASK  (~(FRAME_SIZE - 1))

/* The page of x86 guests and of virtio-balloon (virtio 1.2, 5.5.6: "always 4096 bytes"). */
#define GUEST_PAGE_SHIFT      12
#define GUEST_PAGE_SIZE       (UINT64_C(1) << GUEST_PAGE_SHIFT)
#define GUEST_PAGES_PER_FRAME (1u << (FRAME_SHIFT - GUEST_PAGE_SHIFT))

/* Bytes to frames; the first rounds down, the second up. Cannot overflow. */
static inline uint64_t bytes_to_frames(uint64_t bytes)
{
	return bytes >> FRAME_SHIFT;
}

static inline uint64_t bytes_to_frames_up(uint64_t bytes)
{
	return (bytes >> FRAME_SHIFT) + ((bytes & (FRAME_SIZE - 1)) != 0);
}

/* Frames to bytes. The caller has checked that nr_frames < 2^43. */
static inline uint64_t frames_to_bytes(uint64_t nr_frames)
{
	return nr_frames << FRAME_SHIFT;
}

static inline bool frame_aligned(uint64_t bytes)
{
	return (bytes & (FRAME_SIZE - 1)) == 0;
}

#endif
