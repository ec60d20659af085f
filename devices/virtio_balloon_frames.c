/* SPDX-License-Identifier: MIT */
/*
 * The balloon's maps. A guest speaks in pages of 4 KiB, at most 256 of them per message, in any
 * order; a frame can only leave as a whole. So each frame has a map of its pages that lives as long
 * as the device: inflating sets bits, deflating clears them, and what becomes full during one round
 * on the inflate queue is released in runs before the round is acknowledged.
 *
 * A guest may touch a page that it gave up. The demand fault path then binds a frame while the map
 * still says "released". That is harmless: back() finds the frame there, and a page that is
 * inflated again releases it again.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "devices/virtio_balloon_internal.h"
#include "framevisor/log.h"

/* Frames that a deflate has backed ahead of itself at most. */
#define BACK_MAX 16

int balloon_frames_create(struct virtio_balloon *balloon)
{
	const struct guest_memory *mem = balloon->dev.host->mem;

	for (unsigned int i = 0; i < mem->nr_regions; i++) {
		const struct guest_region *region = &mem->regions[i];

		balloon->regions[balloon->nr_regions++] = (struct balloon_region){
			.gpa = region->gpa, .size = region->size, .first_frame = balloon->nr_frames
		};
		balloon->nr_frames += (uint32_t)bytes_to_frames(region->size);
	}
	if (!balloon->nr_frames)
		return -EINVAL;
	balloon->frames = calloc(balloon->nr_frames, sizeof(*balloon->frames));
	balloon->full = calloc(balloon->nr_frames, sizeof(*balloon->full));
	balloon->maps = calloc(balloon->nr_frames, BALLOON_MAP_BYTES);
	balloon->gathered = calloc(1, BALLOON_MAP_BYTES);
	if (!balloon->frames || !balloon->full || !balloon->maps || !balloon->gathered)
		return -ENOMEM;
	for (uint32_t i = 0; i < balloon->nr_frames; i++)
		balloon->frames[i].map = balloon->maps + (size_t)i * BALLOON_MAP_WORDS;
	return 0;
}

void balloon_frames_destroy(struct virtio_balloon *balloon)
{
	free(balloon->gathered);
	free(balloon->maps);
	free(balloon->full);
	free(balloon->frames);
}

struct balloon_frame *balloon_frame_at(struct virtio_balloon *balloon, uint64_t gpa)
{
	for (unsigned int i = 0; i < balloon->nr_regions; i++) {
		const struct balloon_region *region = &balloon->regions[i];

		if (gpa < region->gpa || gpa - region->gpa >= region->size)
			continue;
		if (!guest_frame_valid(balloon->dev.host->mem, gpa & FRAME_MASK))
			return NULL;
		return &balloon->frames[region->first_frame + bytes_to_frames(gpa - region->gpa)];
	}
	return NULL;
}

/* The guest address of a frame, and how many frames follow it in its region, itself included. */
static uint64_t frame_gpa(const struct virtio_balloon *balloon, uint32_t index, uint64_t *left)
{
	const struct balloon_region *region = &balloon->regions[balloon->nr_regions - 1];
	uint64_t offset;

	while (region->first_frame > index)
		region--;
	offset = frames_to_bytes(index - region->first_frame);
	*left = bytes_to_frames(region->size - offset);
	return region->gpa + offset;
}

static bool frame_partial(const struct balloon_frame *frame)
{
	return frame->nr_set && frame->nr_set < GUEST_PAGES_PER_FRAME;
}

/* Sets or clears the bit of the guest page at gpa; a bit that is so already stays so. */
static void mark_page(struct virtio_balloon *balloon, struct balloon_frame *frame, uint64_t gpa,
		      bool set)
{
	unsigned int page = (unsigned int)(gpa >> GUEST_PAGE_SHIFT) % GUEST_PAGES_PER_FRAME;
	uint64_t *word = &frame->map[page / 64];
	uint64_t bit = UINT64_C(1) << (page % 64);
	bool was_partial = frame_partial(frame);

	if (!(*word & bit) == !set)
		return;
	*word ^= bit;
	frame->nr_set += set ? 1 : -1;
	balloon->nr_set += set ? 1 : -1;
	balloon->nr_partial += frame_partial(frame);
	balloon->nr_partial -= was_partial;
}

void balloon_frames_clear(struct virtio_balloon *balloon)
{
	for (uint32_t i = 0; i < balloon->nr_frames; i++) {
		struct balloon_frame *frame = &balloon->frames[i];

		if (frame->nr_set)
			memset(frame->map, 0, BALLOON_MAP_BYTES);
		*frame = (struct balloon_frame){ .map = frame->map };
	}
	balloon->nr_full = 0;
	balloon->nr_set = 0;
	balloon->nr_partial = 0;
	balloon->nr_released = 0;
	balloon->gathering = false;
	balloon->release_failed = false;
	balloon->backed_first = 0;
	balloon->backed_end = 0;
	balloon->backed_window = 0;
}

static void queue_full(struct virtio_balloon *balloon, struct balloon_frame *frame)
{
	if (frame->nr_set < GUEST_PAGES_PER_FRAME || frame->queued)
		return;
	frame->queued = true;
	balloon->full[balloon->nr_full++] = (uint32_t)(frame - balloon->frames);
}

/* How many frames to back together, from *first on, for a deflate that names a page of index. A
 * driver that goes on where it went on before gets those that come next as well, twice as many each
 * time, but no more than it is to take back. */
static uint32_t plan_back(struct virtio_balloon *balloon, uint32_t index, uint32_t *first)
{
	const struct balloon_frame *frames = balloon->frames;
	uint64_t wanted = balloon_wanted_pages(balloon), left, max;
	bool down = index + 1 == balloon->backed_first;
	uint32_t nr = 1;

	max = balloon->nr_set > wanted ? (balloon->nr_set - wanted + GUEST_PAGES_PER_FRAME - 1) /
						 GUEST_PAGES_PER_FRAME
				       : 1;
	balloon->backed_window =
		down || index == balloon->backed_end ? 2 * balloon->backed_window : 1;
	if (balloon->backed_window > BACK_MAX)
		balloon->backed_window = BACK_MAX;
	if (max > balloon->backed_window)
		max = balloon->backed_window;
	frame_gpa(balloon, index, &left);
	*first = index;
	while (nr < max && down && *first > 0 && frames[*first - 1].released) {
		uint64_t before;

		frame_gpa(balloon, *first - 1, &before);
		if (before == 1) /* the last one of another region */
			break;
		--*first;
		nr++;
	}
	while (nr < max && !down && nr < left && frames[index + nr].released)
		nr++;
	balloon->backed_first = *first;
	balloon->backed_end = *first + nr;
	return nr;
}

static int back_run(struct virtio_balloon *balloon, uint32_t first, uint32_t nr)
{
	const struct guest_memory *mem = balloon->dev.host->mem;
	const struct guest_frame_ops *ops = mem->frame_ops;
	uint64_t left, gpa = frame_gpa(balloon, first, &left);

	if (ops->promise && ops->promise(mem->frame_opaque, gpa, nr) == 0)
		return 0;
	return ops->back(mem->frame_opaque, gpa, nr);
}

/* Has the frame backed again. Returns 0 or what back() said. */
static int back_frames(struct virtio_balloon *balloon, uint32_t index)
{
	uint32_t first, nr = plan_back(balloon, index, &first);
	int ret = back_run(balloon, first, nr);

	if (ret < 0 && nr > 1) {
		first = index;
		nr = 1;
		balloon->backed_window = 0;
		ret = back_run(balloon, first, 1);
	}
	if (ret < 0)
		return ret;
	for (uint32_t i = first; i < first + nr; i++) {
		balloon->frames[i].released = false;
		/* Those that the driver leaves in the balloon go again. */
		queue_full(balloon, &balloon->frames[i]);
	}
	balloon->nr_released -= nr;
	return 0;
}

int balloon_page(struct virtio_balloon *balloon, uint32_t pfn, bool inflate)
{
	uint64_t gpa = (uint64_t)pfn << VIRTIO_BALLOON_PFN_SHIFT;
	struct balloon_frame *frame = balloon_frame_at(balloon, gpa);
	int ret;

	if (!frame)
		return -EFAULT;
	if (!inflate && frame->released) {
		ret = back_frames(balloon, (uint32_t)(frame - balloon->frames));
		if (ret < 0)
			return ret == -EFAULT ? -EIO : ret;
	}
	mark_page(balloon, frame, gpa, inflate);
	if (inflate)
		queue_full(balloon, frame);
	return 0;
}

static int compare_frames(const void *a, const void *b)
{
	uint32_t left = *(const uint32_t *)a;
	uint32_t right = *(const uint32_t *)b;

	return (left > right) - (left < right);
}

/* Releases one run. Returns false when it has to be tried again. */
static bool release_run(struct virtio_balloon *balloon, uint32_t first, uint32_t nr)
{
	const struct guest_memory *mem = balloon->dev.host->mem;
	uint64_t left;
	int64_t ret;

	if (mem->frame_ops) {
		ret = mem->frame_ops->release(mem->frame_opaque, frame_gpa(balloon, first, &left),
					      nr);
		if (ret < 0) {
			if (!balloon->release_errors++)
				log_warn("virtio-balloon: frames cannot be released: %s",
					 strerror((int)-ret));
			return false;
		}
	}
	for (uint32_t i = first; i < first + nr; i++) {
		struct balloon_frame *frame = &balloon->frames[i];

		frame->queued = false;
		/* Without frame_ops nothing leaves, and the map alone remembers. */
		if (mem->frame_ops && !frame->released) {
			frame->released = true;
			balloon->nr_released++;
		}
	}
	return true;
}

/* Drops what a deflate has made incomplete, or an unplug has taken, since it was queued, and sorts
 * the rest. */
static void prepare_full(struct virtio_balloon *balloon)
{
	const struct guest_memory *mem = balloon->dev.host->mem;
	uint32_t kept = 0;
	uint64_t left;

	for (uint32_t i = 0; i < balloon->nr_full; i++) {
		uint32_t index = balloon->full[i];
		struct balloon_frame *frame = &balloon->frames[index];

		frame->queued = frame->nr_set == GUEST_PAGES_PER_FRAME &&
				guest_frame_valid(mem, frame_gpa(balloon, index, &left));
		if (frame->queued)
			balloon->full[kept++] = index;
	}
	balloon->nr_full = kept;
	qsort(balloon->full, kept, sizeof(*balloon->full), compare_frames);
}

bool balloon_release_full(struct virtio_balloon *balloon)
{
	uint32_t nr, run, kept = 0;
	uint64_t left;

	if (!balloon->nr_full)
		return true;
	prepare_full(balloon);
	nr = balloon->nr_full;
	for (uint32_t i = 0; i < nr; i += run) {
		uint32_t first = balloon->full[i];

		frame_gpa(balloon, first, &left);
		for (run = 1; i + run < nr && run < left; run++) {
			if (balloon->full[i + run] != first + run)
				break;
		}
		if (release_run(balloon, first, run))
			continue;
		memmove(&balloon->full[kept], &balloon->full[i], run * sizeof(*balloon->full));
		kept += run;
	}
	balloon->nr_full = kept;
	return !kept;
}
