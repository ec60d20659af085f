/* SPDX-License-Identifier: MIT */
/*
 * The unit of everything: a frame is one host hugepage, order 0 of the allocator. It has 2 MiB, or
 * 1 GiB in a process whose pool is made of such pages: a hugepage can only be mapped as a whole, so
 * whatever is smaller than one cannot be handed out.
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

#define FRAME_SHIFT_2M 21
#define FRAME_SHIFT_1G 30
#define FRAME_SIZE_2M  (UINT64_C(1) << FRAME_SHIFT_2M) /* where a constant is needed */

/* Constant from before the first use on; frame_use_shift() sets it. 2 MiB unless that was called.
 */
extern unsigned int frame_shift;

#define FRAME_SHIFT frame_shift
#define FRAME_SIZE  (UINT64_C(1) << FRAME_SHIFT)
#define FRAME_MASK  (~(FRAME_SIZE - 1))

/*
 * Decides the frame size of this process: FRAME_SHIFT_2M or FRAME_SHIFT_1G. To be called before
 * anything that has to do with frames exists, and from one thread. Returns 0 or -EINVAL.
 */
int frame_use_shift(unsigned int shift);

/* "2 MiB" or "1 GiB": the size of a frame, for messages. */
static inline const char *frame_size_name(void)
{
	return frame_shift == FRAME_SHIFT_1G ? "1 GiB" : "2 MiB";
}

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
