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

/*
 * RAM [gpa, gpa + size) at hva. gpa, size and hva are multiples of FRAME_SIZE.
 *
 * A region that a memory device plugs and unplugs (virtio-mem) is here as a whole from the start,
 * so that regions never come or go while the guest runs. plugged has one bit per frame of it: only
 * frames whose bit is set are RAM, for every function below. NULL: all of it is, always.
 */
struct guest_region {
	uint64_t gpa;
	uint64_t size;
	uint8_t *hva;
	uint64_t *plugged; /* guest_memory_set_plugged() writes it, any thread reads it */
};

/* Words of a region's bitmap. */
#define GUEST_PLUGGED_WORDS(size) (((size) / FRAME_SIZE + 63) / 64)

/*
 * How whole frames leave a guest and come back. Called from the loop's thread; release(),
 * release_free(), back() and promise() from vCPU threads as well, which then are between
 * queue_work_begin() and queue_work_end() (framevisor/device.h).
 */
struct guest_frame_ops {
	/*
	 * Takes nr_frames frames from gpa on (frame aligned, inside RAM) away from the running
	 * guest and returns them to the pool; their content is lost. After the call no vCPU can
	 * reach the old frames. Frames that were not there anyway are skipped. Returns the number
	 * of frames that went back to the pool, or a negative errno.
	 */
	int64_t (*release)(void *opaque, uint64_t gpa, uint64_t nr_frames);
	/*
	 * The same for frames that the guest does not use now and may touch at any time without a
	 * word (free page reporting): where it goes on from one to the next, a touch may bring some
	 * of those beside it back as well. Not so after release().
	 */
	int64_t (*release_free)(void *opaque, uint64_t gpa, uint64_t nr_frames);
	/*
	 * Makes sure that each of these frames is backed (zeroed where it is new). Returns 0,
	 * or -ENOMEM when the pool has none now: try again later.
	 */
	int (*back)(void *opaque, uint64_t gpa, uint64_t nr_frames);

	/* A member below may be NULL: this machine cannot do it. */

	/*
	 * The same for later: each of these frames will be backed when it is touched, because there
	 * is plenty of memory now. Returns 0, or -ENOMEM: there is not, so back() has to be called.
	 */
	int (*promise)(void *opaque, uint64_t gpa, uint64_t nr_frames);

	/*
	 * For a memory device. plug() makes nr_frames unplugged frames from gpa on (frame aligned,
	 * inside one pluggable region) accessible: the pool admits them to the VM (they count
	 * against its limit, even if they are bound only at first touch), KVM sees them, and
	 * guest_memory_set_plugged() is called last. The guest finds zeroes there. Returns 0,
	 * -ENOMEM when the pool does not admit them now (try again later), -EINPROGRESS when it
	 * grows for them, which it does not wait for (vm_memory_reserve() says when), -EBUSY when
	 * a vCPU waits for a frame, which KVM would wait for in turn, or another negative errno; on
	 * failure nothing has changed.
	 *
	 * unplug() takes plugged frames away: guest_memory_set_plugged() is called first, then
	 * what is bound goes back to the pool, and the admission with it, but for what
	 * vm_memory_reserve() keeps and a slot's worth at hand. After the call neither
	 * vCPUs nor devices reach the old frames; a touch of the range afterwards is the guest's
	 * fault and must not bind a frame beyond its limit. Returns 0, or a negative errno when
	 * frames could not be taken: then all of the range counts as plugged as before (what is
	 * gone of it comes back zeroed at the next touch: the guest has given it up).
	 */
	int (*plug)(void *opaque, uint64_t gpa, uint64_t nr_frames);
	int (*unplug)(void *opaque, uint64_t gpa, uint64_t nr_frames);

	/*
	 * For free page hints, which come without a promise that the guest leaves the pages alone.
	 *
	 * watch() begins to notice touches: until a frame is touched (read or written by a vCPU or
	 * through the window) it counts as untouched. A new watch() begins anew. Frames that are
	 * not there or not plugged are skipped. Nothing is lost; each frame's first touch
	 * afterwards costs a fault. Returns 0 or a negative errno.
	 *
	 * release_clean() is release_free() for those of the frames that are untouched since the
	 * last watch() of them, or whose content is all zero, which is what the guest will find
	 * when it touches them again. Each frame is made unreachable first and then judged, so that
	 * no write can come in between; what does not pass stays as it was. Returns the number of
	 * frames that went back to the pool, or a negative errno.
	 */
	int (*watch)(void *opaque, uint64_t gpa, uint64_t nr_frames);
	int64_t (*release_clean)(void *opaque, uint64_t gpa, uint64_t nr_frames);
};

struct guest_memory {
	unsigned int nr_regions;
	struct guest_region regions[GUEST_REGIONS_MAX]; /* sorted by gpa, not overlapping */
	const struct guest_frame_ops *frame_ops;        /* NULL: frames cannot leave */
	void *frame_opaque;
};

/* Adds a region. Returns 0, -EINVAL (alignment, wrap), -EEXIST (overlap) or -ENOSPC. */
int guest_memory_add_region(struct guest_memory *gm, uint64_t gpa, uint64_t size, void *hva);

/*
 * The same for a region of which nothing is plugged yet. plugged has GUEST_PLUGGED_WORDS(size)
 * zeroed words and stays the caller's, as long as the region exists.
 */
int guest_memory_add_pluggable(struct guest_memory *gm, uint64_t gpa, uint64_t size, void *hva,
			       uint64_t *plugged);

/*
 * Marks frames as RAM or not. Returns 0, or -EINVAL if they are not all in one pluggable region.
 * A reader that was told before that a frame is RAM may still be using it. Most devices touch
 * memory in the loop's thread only, and it is this thread that unplugs. A queue that is served in a
 * vCPU's thread may lie in memory that another vCPU has unplugged meanwhile: such a touch is the
 * guest's fault like any other touch of unplugged memory.
 */
int guest_memory_set_plugged(struct guest_memory *gm, uint64_t gpa, uint64_t nr_frames,
			     bool plugged);

/* RAM in all regions now, in bytes. */
uint64_t guest_memory_size(const struct guest_memory *gm);

/*
 * The address of [gpa, gpa + len) if the whole range lies in one region and is RAM, else NULL. len
 * 0 gives NULL. The pointer is valid as long as the region exists and the frames are plugged.
 */
void *guest_ptr(const struct guest_memory *gm, uint64_t gpa, uint64_t len);

/* Copies of exactly len bytes; a range may span adjacent regions. Returns 0, or -EFAULT and nothing
 * is written at all (guest_write) or dst is unspecified (guest_read). */
int guest_read(const struct guest_memory *gm, uint64_t gpa, void *dst, uint64_t len);
int guest_write(const struct guest_memory *gm, uint64_t gpa, const void *src, uint64_t len);

/* Whether gpa is frame aligned and the whole frame at it is RAM. */
bool guest_frame_valid(const struct guest_memory *gm, uint64_t gpa);

#endif
