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
	for (unsigned int i = 0; i < FAULT_STREAMS; i++)
		if (mem->streams[i].window > 0 && mem->streams[i].next == number)
			return &mem->streams[i];
	return NULL;
}

/* Takes the place of the one that has not been seen for the longest time. */
static struct fault_stream *new_stream(struct vm_memory *mem)
{
	struct fault_stream *oldest = &mem->streams[0];

	for (unsigned int i = 1; i < FAULT_STREAMS; i++)
		if (mem->streams[i].used < oldest->used)
			oldest = &mem->streams[i];
	oldest->window = 0;
	return oldest;
}

/* What the next touch of a stream asks for, given enough frames. */
static uint32_t next_window(const struct fault_stream *stream)
{
	uint32_t window = stream ? 2 * stream->window : 1;

	if (window < 1 || FRAME_SHIFT != FRAME_SHIFT_2M)
		return 1;
	return window < AROUND_MAX ? window : AROUND_MAX;
}

uint32_t around_wanted(struct vm_memory *mem, uint32_t number)
{
	return next_window(find_stream(mem, number));
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
	const struct stock *stock = stock_of(mem, number);
	/* The rest of the stock is for touches elsewhere, until it is refilled. */
	uint32_t room = stock_available(stock, false) * 3 / 4;
	uint32_t window;

	if (!stream)
		stream = new_stream(mem);
	window = next_window(stream);
	/* A frame that was given up or is not plugged says nothing about those behind it. */
	if (mem->frames[number].flags & (GUEST_FRAME_RELEASED | GUEST_FRAME_UNPLUGGED))
		window = 1;
	if (!stock->plenty || window > room)
		window = stock->plenty && room > 1 ? room : 1;
	/* What the stock did not give does not count: the window doubles what was bound. */
	stream->used = ++mem->stream_clock;
	stream->window = window;
	mem->last_stream = stream;
	return count_untouched(mem, number, window);
}

void around_bound(struct vm_memory *mem, uint32_t number, uint32_t nr)
{
	mem->last_stream->next = number + nr;
}
