/* SPDX-License-Identifier: MIT */
/*
 * Fault-around: a touch that goes on where the last ones ended also gets the next frames, as
 * read-ahead does for files. A vCPU that finds its frame mapped saves the way to the fault thread
 * and back, which is most of a first touch.
 *
 * A guest must not hold much more than it touches. So a touch that follows no other gets its frame
 * alone, each one that does doubles the window, and frames are bound ahead only from a well filled
 * stock of a pool that gave all it was asked for.
 */
#include "vmm/memory/internal.h"

/* 32 MiB: the share of a touch's fixed cost (25 to 80 us) falls under that of zeroing a frame long
 * before, and a stream that ends leaves less than that behind. */
#define AROUND_MAX 16

static struct fault_stream *find_stream(struct vm_memory *mem, uint32_t number)
{
	struct fault_stream *oldest = &mem->streams[0];

	for (unsigned int i = 0; i < FAULT_STREAMS; i++) {
		struct fault_stream *stream = &mem->streams[i];

		/* window 0: never used */
		if (stream->window > 0 && stream->next == number)
			return stream;
		if (stream->used < oldest->used)
			oldest = stream;
	}
	*oldest = (struct fault_stream){ .next = number };
	return oldest;
}

/* The frames from number on that nobody has an opinion about: untouched, plugged, not given up. */
static uint32_t count_untouched(const struct vm_memory *mem, uint32_t number, uint32_t max)
{
	const struct window_range *range = window_range_of(mem, number);
	uint32_t end = range->first + (uint32_t)range->nr_frames;
	uint32_t nr = 1;

	if (end - number < max)
		max = end - number;
	while (nr < max && mem->frames[number + nr].state == FRAME_HOLE &&
	       !mem->frames[number + nr].flags)
		nr++;
	return nr;
}

uint32_t around_window(struct vm_memory *mem, uint32_t number)
{
	struct fault_stream *stream = find_stream(mem, number);
	uint32_t room = stock_available(mem, false) / 2;
	uint32_t window = 2 * stream->window;

	if (window > AROUND_MAX)
		window = AROUND_MAX;
	if (mem->frames[number].flags & (GUEST_FRAME_RELEASED | GUEST_FRAME_UNPLUGGED) ||
	    !mem->stock.plenty || room == 0)
		window = 1;
	else if (window > room)
		window = room;
	stream->used = ++mem->stream_clock;
	stream->window = window > 1 ? count_untouched(mem, number, window) : 1;
	mem->last_stream = stream;
	return stream->window;
}

void around_bound(struct vm_memory *mem, uint32_t number, uint32_t nr)
{
	mem->last_stream->next = number + nr;
}
