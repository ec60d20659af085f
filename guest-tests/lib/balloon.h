/* SPDX-License-Identifier: MIT */
/* A balloon driver over virtio.h: whole frames in and out, 256 guest pages per message. */
#ifndef GUEST_BALLOON_H
#define GUEST_BALLOON_H

#include "virtio.h"

#define PAGES_PER_FRAME   512u
#define PAGES_PER_MESSAGE 256u

struct balloon {
	struct virtio_pci dev;
	struct vq inflate;
	struct vq deflate;
};

/* Finds the device (the first time), resets it and brings it up with MUST_TELL_HOST. */
void balloon_start(struct balloon *balloon);
/* Sends pages [first, first + nr) of the frame at gpa. */
void balloon_pages(struct vq *vq, uint64_t gpa, unsigned int first, unsigned int nr);
void balloon_frame(struct vq *vq, uint64_t gpa);

/* One step towards the device's target: the frames from guest physical address "first" on go in,
 * and the last one comes out first. What is asked beyond "end" is not there. */
void balloon_follow(struct balloon *balloon, uint64_t first, uint64_t end);

#endif
