/* SPDX-License-Identifier: MIT */
/*
 * Fault-around: a touch that goes on where the last ones ended also gets the next frames, as
 * read-ahead does for files. A vCPU that finds its frame mapped saves the way to the fault thread
 * and back, which is most of a first touch.
 *
 * Up and down: Linux fills its memory from the top, one block of its buddy allocator after the
 * other, and each block upwards.
 *
 * A guest must not hold much more than it touches. So a touch that follows no other gets its frame
 * alone, each one that does doubles the window, and frames are bound ahead only from a well filled
 * stock of a pool that gave all it was asked for.
 */
#include "vmm/memory/internal.h"

/* 32 MiB: the share of a touch's fixed cost (25 to 80 us) falls under that of zeroing a frame long
 * before, and a stream that ends leaves less than that behind. */
#define AROUND_MAX 16
/* 8 MiB of what the guest calls free: it reports a free page once, so what is bound ahead there
 * and not used stays until it is, or is hinted. Nearly all free memory of a guest is reported. */
#define AROUND_FREE_MAX 4
/* The largest block of Linux's buddy allocator: 4 MiB (MAX_PAGE_ORDER 10). */
#define BUDDY_FRAMES 2

static bool goes_up(const struct fault_stream *stream, uint32_t number)
{
	return stream->window > 0 && number == stream->next;
}

static bool goes_down(const struct fault_stream *stream, uint32_t number)
{
	return stream->window > 0 && number < stream->first &&
	       stream->first - number <= BUDDY_FRAMES;
}

static struct fault_stream *find_stream(struct vm_memory *mem, uint32_t number)
{
	struct fault_stream *found = NULL;

	for (unsigned int i = 0; i < FAULT_STREAMS; i++) {
		struct fault_stream *stream = &mem->streams[i];

		if (goes_up(stream, number))
			return stream;
		if (goes_down(stream, number))
			found = stream;
	}
	return found;
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

/* Nobody has an opinion about it: untouched, plugged and not given up; or free, as the one beside
 * it was that is touched. */
static bool untouched(const struct guest_frame *frame, const struct guest_frame *beside)
{
	if (frame->state != FRAME_HOLE)
		return false;
	return !frame->flags ||
	       (frame->flags == RELEASED_FLAGS && beside->flags & GUEST_FRAME_FREE);
}

/* number, and the untouched frames that follow it below end. */
static uint32_t count_up(const struct vm_memory *mem, uint32_t number, uint32_t end)
{
	const struct window_range *range = window_range_of(mem, number);
	uint32_t nr = 1;

	if (end > range->first + range->nr_frames)
		end = range->first + (uint32_t)range->nr_frames;
	while (number + nr < end && untouched(&mem->frames[number + nr], &mem->frames[number]))
		nr++;
	return nr;
}

/* The untouched frames just before number, at most max. */
static uint32_t count_down(const struct vm_memory *mem, uint32_t number, uint32_t max)
{
	uint32_t low = window_range_of(mem, number)->first, nr = 0;

	while (nr < max && number - nr > low &&
	       untouched(&mem->frames[number - nr - 1], &mem->frames[number]))
		nr++;
	return nr;
}

/* How many frames a touch gets, of what there are. */
static uint32_t window_for(struct vm_memory *mem, uint32_t number,
			   const struct fault_stream *stream)
{
	const struct stock *stock = stock_of(mem, number);
	/* The rest of the stock is for touches elsewhere, until it is refilled. */
	uint32_t room = stock_available(stock, false) * 3 / 4;
	uint32_t window = next_window(stream);
	uint16_t flags = mem->frames[number].flags;

	if (!stock->plenty || room < 1)
		return 1;
	/* What was given up or is not plugged says nothing about what is beside it. */
	if (flags & GUEST_FRAME_UNPLUGGED || (flags & RELEASED_FLAGS) == GUEST_FRAME_RELEASED)
		return 1;
	if (flags & GUEST_FRAME_FREE && window > AROUND_FREE_MAX)
		window = AROUND_FREE_MAX;
	return window < room ? window : room;
}

uint32_t around_window(struct vm_memory *mem, uint32_t number, uint32_t *first)
{
	struct fault_stream *stream = find_stream(mem, number);
	bool down = stream && !goes_up(stream, number);
	uint32_t above = 0, window;

	if (!stream)
		stream = new_stream(mem);
	window = window_for(mem, number, stream);
	if (down)
		above = stream->first - number;
	/* What the stock cannot give does not count. */
	stream->used = ++mem->stream_clock;
	stream->window = window;
	mem->last_stream = stream;
	*first = number;
	if (!down)
		return count_up(mem, number, number + window);
	if (above > window)
		above = window;
	*first -= count_down(mem, number, window - above);
	return number - *first + count_up(mem, number, number + above);
}

void around_bound(struct vm_memory *mem, uint32_t first, uint32_t nr)
{
	struct fault_stream *stream = mem->last_stream;

	/* What goes on within a block leaves the way down from it. */
	if (first != stream->next || first - stream->first >= BUDDY_FRAMES)
		stream->first = first;
	stream->next = first + nr;
}
