/* SPDX-License-Identifier: MIT */
/* See balloon.h. */
#include "balloon.h"

#include <linux/virtio_ids.h>

static uint32_t pfns[PAGES_PER_MESSAGE];

void balloon_start(struct balloon *balloon)
{
	if (!balloon->dev.common)
		virtio_find(&balloon->dev, VIRTIO_ID_BALLOON);
	virtio_reset(&balloon->dev);
	virtio_negotiate(&balloon->dev,
			 1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_BALLOON_F_MUST_TELL_HOST);
	vq_setup(&balloon->dev, &balloon->inflate, 0);
	vq_setup(&balloon->dev, &balloon->deflate, 1);
	virtio_driver_ok(&balloon->dev);
}

void balloon_pages(struct vq *vq, uint64_t gpa, unsigned int first, unsigned int nr)
{
	while (nr > 0) {
		unsigned int n = nr < PAGES_PER_MESSAGE ? nr : PAGES_PER_MESSAGE;

		for (unsigned int i = 0; i < n; i++)
			pfns[i] = (uint32_t)(gpa >> VIRTIO_BALLOON_PFN_SHIFT) + first + i;
		vq_send(vq, pfns, n * (uint32_t)sizeof(pfns[0]));
		first += n;
		nr -= n;
	}
}

void balloon_frame(struct vq *vq, uint64_t gpa)
{
	balloon_pages(vq, gpa, 0, PAGES_PER_FRAME);
}

void balloon_follow(struct balloon *balloon, uint64_t first, uint64_t end)
{
	volatile struct virtio_balloon_config *config =
		(volatile struct virtio_balloon_config *)balloon->dev.device;
	uint32_t want = config->num_pages, have = config->actual;
	uint64_t most = (end - first) / PAGE_SIZE;

	if (want > most)
		want = (uint32_t)most & ~(PAGES_PER_FRAME - 1);
	if (have + PAGES_PER_FRAME <= want) {
		balloon_frame(&balloon->inflate, first + have * PAGE_SIZE);
		config->actual = have + PAGES_PER_FRAME;
	} else if (have > want && have >= PAGES_PER_FRAME) {
		balloon_frame(&balloon->deflate, first + (have - PAGES_PER_FRAME) * PAGE_SIZE);
		config->actual = have - PAGES_PER_FRAME;
	}
}
