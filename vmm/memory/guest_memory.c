/* SPDX-License-Identifier: MIT */
/*
 * The accessors to a guest's physical memory. Every guest address and length in the program is
 * checked here and nowhere else; lengths come from guests, so no sum of two of them is formed
 * before it is known not to wrap.
 */
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "framevisor/guest_memory.h"

static int add_region(struct guest_memory *gm, uint64_t gpa, uint64_t size, void *hva,
		      uint64_t *plugged)
{
	unsigned int pos = 0;
	uint64_t end;

	if (size == 0 || !frame_aligned(gpa) || !frame_aligned(size) ||
	    !frame_aligned((uint64_t)(uintptr_t)hva) || !hva)
		return -EINVAL;
	if (__builtin_add_overflow(gpa, size, &end) || (uintptr_t)hva + size < (uintptr_t)hva)
		return -EINVAL;

	for (unsigned int i = 0; i < gm->nr_regions; i++) {
		const struct guest_region *r = &gm->regions[i];

		if (gpa < r->gpa + r->size && r->gpa < end)
			return -EEXIST;
		if (r->gpa < gpa)
			pos = i + 1;
	}
	if (gm->nr_regions == GUEST_REGIONS_MAX)
		return -ENOSPC;

	memmove(&gm->regions[pos + 1], &gm->regions[pos],
		(gm->nr_regions - pos) * sizeof(gm->regions[0]));
	gm->regions[pos] =
		(struct guest_region){ .gpa = gpa, .size = size, .hva = hva, .plugged = plugged };
	gm->nr_regions++;
	return 0;
}

int guest_memory_add_region(struct guest_memory *gm, uint64_t gpa, uint64_t size, void *hva)
{
	return add_region(gm, gpa, size, hva, NULL);
}

int guest_memory_add_pluggable(struct guest_memory *gm, uint64_t gpa, uint64_t size, void *hva,
			       uint64_t *plugged)
{
	return plugged ? add_region(gm, gpa, size, hva, plugged) : -EINVAL;
}

/* The word of a pluggable region's bitmap that holds a frame, as the moment finds it. Acquire: who
 * sees a frame plugged also sees what was done to plug it. */
static uint64_t plugged_word(const struct guest_region *r, uint64_t frame)
{
	return __atomic_load_n(&r->plugged[frame / 64], __ATOMIC_ACQUIRE);
}

static bool frame_plugged(const struct guest_region *r, uint64_t frame)
{
	return plugged_word(r, frame) >> (frame % 64) & 1;
}

uint64_t guest_memory_size(const struct guest_memory *gm)
{
	uint64_t size = 0;

	for (unsigned int i = 0; i < gm->nr_regions; i++) {
		const struct guest_region *r = &gm->regions[i];

		if (!r->plugged) {
			size += r->size;
			continue;
		}
		for (uint64_t frame = 0; frame < bytes_to_frames(r->size); frame += 64)
			size += frames_to_bytes(
				(uint64_t)__builtin_popcountll(plugged_word(r, frame)));
	}
	return size;
}

/* The region that holds gpa. There are few regions (two without hot-add): a loop is the fastest. */
static const struct guest_region *find_region(const struct guest_memory *gm, uint64_t gpa)
{
	for (unsigned int i = 0; i < gm->nr_regions; i++) {
		const struct guest_region *r = &gm->regions[i];

		if (gpa >= r->gpa && gpa - r->gpa < r->size)
			return r;
	}
	return NULL;
}

int guest_memory_set_plugged(struct guest_memory *gm, uint64_t gpa, uint64_t nr_frames,
			     bool plugged)
{
	const struct guest_region *r = find_region(gm, gpa);
	uint64_t first;

	if (!r || !r->plugged || !frame_aligned(gpa))
		return -EINVAL;
	first = bytes_to_frames(gpa - r->gpa);
	if (nr_frames > bytes_to_frames(r->size) - first)
		return -EINVAL;
	for (uint64_t frame = first; frame < first + nr_frames; frame++) {
		uint64_t bit = UINT64_C(1) << (frame % 64);

		if (plugged)
			__atomic_fetch_or(&r->plugged[frame / 64], bit, __ATOMIC_RELEASE);
		else
			__atomic_fetch_and(&r->plugged[frame / 64], ~bit, __ATOMIC_RELEASE);
	}
	return 0;
}

/* How many bytes of RAM follow offset without a gap in a region, counted up to len or a little
 * beyond; 0 if there is none at offset. */
static uint64_t room_at(const struct guest_region *r, uint64_t offset, uint64_t len)
{
	uint64_t end, frame = bytes_to_frames(offset);
	uint64_t room = r->size - offset;

	if (!r->plugged)
		return room;
	end = len < room ? bytes_to_frames_up(offset + len) : bytes_to_frames(r->size);
	while (frame < end && frame_plugged(r, frame))
		frame++;
	return frames_to_bytes(frame) > offset ? frames_to_bytes(frame) - offset : 0;
}

void *guest_ptr(const struct guest_memory *gm, uint64_t gpa, uint64_t len)
{
	const struct guest_region *r = find_region(gm, gpa);

	if (!r || len == 0 || len > room_at(r, gpa - r->gpa, len))
		return NULL;
	return r->hva + (gpa - r->gpa);
}

/* The piece of [gpa, gpa + len) that lies in gpa's region, or NULL if gpa is not RAM. */
static uint8_t *piece_at(const struct guest_memory *gm, uint64_t gpa, uint64_t len, uint64_t *piece)
{
	const struct guest_region *r = find_region(gm, gpa);
	uint64_t room = r ? room_at(r, gpa - r->gpa, len) : 0;

	if (!room)
		return NULL;
	*piece = len < room ? len : room;
	return r->hva + (gpa - r->gpa);
}

/* Whether all of [gpa, gpa + len) is RAM, over adjacent regions. */
static bool range_valid(const struct guest_memory *gm, uint64_t gpa, uint64_t len)
{
	uint64_t piece;

	for (; len > 0; len -= piece, gpa += piece)
		if (!piece_at(gm, gpa, len, &piece))
			return false;
	return true;
}

int guest_read(const struct guest_memory *gm, uint64_t gpa, void *dst, uint64_t len)
{
	uint8_t *to = dst;
	uint64_t piece;

	for (; len > 0; len -= piece, gpa += piece, to += piece) {
		const uint8_t *from = piece_at(gm, gpa, len, &piece);

		if (!from)
			return -EFAULT;
		memcpy(to, from, piece);
	}
	return 0;
}

int guest_write(const struct guest_memory *gm, uint64_t gpa, const void *src, uint64_t len)
{
	const uint8_t *from = src;
	uint64_t piece;

	/* All or nothing: looked at to the end before the first byte is written. */
	if (!range_valid(gm, gpa, len))
		return -EFAULT;
	for (; len > 0; len -= piece, gpa += piece, from += piece) {
		uint8_t *to = piece_at(gm, gpa, len, &piece);

		if (!to)
			return -EFAULT;
		memcpy(to, from, piece);
	}
	return 0;
}

bool guest_frame_valid(const struct guest_memory *gm, uint64_t gpa)
{
	const struct guest_region *r = find_region(gm, gpa);

	/* Regions start and end on frames, so an aligned frame lies wholly inside or outside. */
	if (!r || !frame_aligned(gpa))
		return false;
	return !r->plugged || frame_plugged(r, bytes_to_frames(gpa - r->gpa));
}
