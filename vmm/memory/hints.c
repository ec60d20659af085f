/* SPDX-License-Identifier: MIT */
/*
 * Free page hints: what the guest says is free at some moment, without a promise to leave it alone.
 *
 * All frames are parked first. Whatever the guest touches from then on is marked by the touch
 * itself, so a frame that is still parked when it is to be taken has not been used since, and what
 * the guest said of it then still holds.
 */
#include <errno.h>
#include <sys/mman.h>

#include "framevisor/log.h"
#include "vmm/memory/internal.h"

static int64_t watch_range(struct vm_memory *mem, uint32_t first, uint32_t nr)
{
	int64_t parked = park_frames(mem, first, nr, GUEST_FRAME_WATCHED);

	return parked < 0 ? parked : 0;
}

int hints_watch(void *opaque, uint64_t gpa, uint64_t nr_frames)
{
	return (int)takeaway_each(opaque, gpa, nr_frames, watch_range);
}

/* Whether a bound frame holds only zeroes now; not, if it cannot be looked at. take_lock held: its
 * place in the pool does not change. */
static bool holds_zeroes(struct vm_memory *mem, uint32_t number)
{
	struct frame_run run;
	void *view;
	bool zero;

	pthread_mutex_lock(&mem->lock);
	run = frame_run_of(&mem->frames[number]);
	pthread_mutex_unlock(&mem->lock);
	view = window_view(mem, &run, PROT_READ);
	if (!view)
		return false;
	zero = frame_data_zero(view);
	window_view_end(mem, view, &run);
	return zero;
}

/* Of a frame that was touched: if it is all zero, it may go as well. A look from outside says soon
 * that most are not; the one that counts is made when nobody can write any more. */
static void judge_content(struct vm_memory *mem, uint32_t number)
{
	if (!holds_zeroes(mem, number) || park_frames(mem, number, 1, 0) < 0 ||
	    !holds_zeroes(mem, number))
		return;
	pthread_mutex_lock(&mem->lock);
	/* Parked by us (take_lock) and still: so it was all the time that we looked. */
	if (mem->frames[number].state == FRAME_PARKED)
		mem->frames[number].flags |= GUEST_FRAME_WATCHED;
	pthread_mutex_unlock(&mem->lock);
}

static int64_t release_range(struct vm_memory *mem, uint32_t first, uint32_t nr)
{
	int64_t taken;

	for (uint32_t number = first; number < first + nr; number++) {
		const struct guest_frame *frame = &mem->frames[number];
		bool touched;

		pthread_mutex_lock(&mem->lock);
		touched = frame_bound(frame) && !(frame->flags & GUEST_FRAME_WATCHED);
		pthread_mutex_unlock(&mem->lock);
		if (touched)
			judge_content(mem, number);
	}
	taken = takeaway_take_clean(mem, first, nr);
	if (taken > 0) {
		pthread_mutex_lock(&mem->lock);
		mem->stats.released_clean += (uint64_t)taken;
		pthread_mutex_unlock(&mem->lock);
	}
	return taken;
}

int64_t hints_release_clean(void *opaque, uint64_t gpa, uint64_t nr_frames)
{
	return takeaway_each(opaque, gpa, nr_frames, release_range);
}
