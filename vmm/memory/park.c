/* SPDX-License-Identifier: MIT */
/*
 * Parking: a frame stays the guest's, with its content, but the next touch of it is noticed.
 *
 * Where a mapping of the pool raises MINOR events, dropping the frame from the page tables
 * (MADV_DONTNEED) is all it takes: the page stays in the pool's file, KVM drops its own mapping in
 * the same call, and the fault thread lets the next touch in again. Elsewhere (ordinary memory) a
 * hole is moved into the frame's place, and a touch maps the frame again.
 *
 * A frame is marked PARKED before it is dropped. An event that is answered in between makes it
 * BOUND again, which says "touched" of a frame that may not be: never the other way round.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "framevisor/log.h"
#include "vmm/memory/internal.h"

uint32_t park_clock(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	return (uint32_t)((uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000);
}

bool park_must_detach(const struct vm_memory *mem, const struct guest_frame *frame)
{
	return !mem->minor || (frame->flags & GUEST_FRAME_SILENT);
}

#define IDLE_LEARN_MAX_MS 600000

void park_learn(struct guest_frame *frame)
{
	uint32_t idle = park_clock() - frame->parked_at;

	/* Longer makes no difference, and a VM that was paused for a day has not left them alone;
	 * 0 says that nothing is known. */
	if (idle > IDLE_LEARN_MAX_MS)
		idle = IDLE_LEARN_MAX_MS;
	if (idle == 0)
		idle = 1;
	/* A quarter of what is new: the last ten or so touches count. */
	if (frame->idle_ms)
		idle = (uint32_t)((3 * (uint64_t)frame->idle_ms + idle) / 4);
	frame->idle_ms = idle;
}

uint32_t park_idle(const struct guest_frame *frame)
{
	uint32_t now = park_clock() - frame->parked_at;

	return now > frame->idle_ms ? now : frame->idle_ms;
}

/* On the way out of BOUND. Lock held. */
static void enter_parked(struct vm_memory *mem, uint32_t number, uint16_t flags)
{
	struct guest_frame *frame = &mem->frames[number];

	frame->state = FRAME_PARKED;
	frame->flags |= flags;
	frame->parked_at = park_clock();
	frame_lru_add(mem, number, LIST_INACTIVE);
	mem->stats.parked++;
}

/* Out of PARKED and off its list. Lock held. */
static void leave_parked(struct vm_memory *mem, uint32_t number)
{
	frame_lru_del(mem, number);
	mem->frames[number].flags &= (uint16_t)~PARKED_FLAGS;
	mem->stats.parked--;
}

void park_take(struct vm_memory *mem, uint32_t number)
{
	struct guest_frame *frame = &mem->frames[number];

	if (frame->state == FRAME_PARKED)
		leave_parked(mem, number);
	else
		frame_lru_del(mem, number);
	frame->state = FRAME_TAKING;
}

void park_undo(struct vm_memory *mem, uint32_t number)
{
	struct guest_frame *frame = &mem->frames[number];

	if (frame->flags & GUEST_FRAME_DETACHED) {
		enter_parked(mem, number, 0);
		return;
	}
	/* If no page table has it any more, a touch is answered all the same. */
	frame->state = FRAME_BOUND;
	frame_lru_add(mem, number, LIST_ACTIVE);
}

int park_touched(struct vm_memory *mem, uint32_t number)
{
	struct guest_frame *frame = &mem->frames[number];
	struct frame_run run = frame_run_of(frame);
	int ret;

	leave_parked(mem, number);
	if (frame->flags & GUEST_FRAME_DETACHED) {
		ret = window_bind(mem, number, &run);
		if (ret) {
			enter_parked(mem, number, 0);
			return ret;
		}
		window_count_bound(mem, number, -1); /* it was counted all the time */
	} else {
		frame->state = FRAME_BOUND;
		frame_lru_add(mem, number, LIST_ACTIVE);
	}
	park_learn(frame);
	mem->stats.unparked++;
	return window_continue(mem, number, 1);
}

/* Drops frames from the page tables; as a plain function of the address, so that no tool takes it
 * for an access. */
static int drop(void *hva, uint64_t len)
{
	return madvise(hva, len, MADV_DONTNEED) == 0 ? 0 : -errno;
}

int park_zap(struct vm_memory *mem, uint32_t first, uint32_t nr, bool detach)
{
	if (detach)
		return takeaway_replace(mem, first, nr);
	return drop(window_frame_hva(mem, first), frames_to_bytes(nr));
}

/*
 * Marks the first run of bound frames in [*first, end) that are parked the same way: PARKED, or
 * TAKING if a hole is to take their place (touches wait until it has). Frames that are parked
 * already get flags. Returns the run's length and moves *first to its start.
 */
static uint32_t mark_run(struct vm_memory *mem, uint32_t *first, uint32_t end, uint16_t flags,
			 bool *detach)
{
	uint32_t number = *first;

	pthread_mutex_lock(&mem->lock);
	for (; number < end && mem->frames[number].state != FRAME_BOUND; number++)
		if (mem->frames[number].state == FRAME_PARKED ||
		    mem->frames[number].state == FRAME_SWAPPED)
			mem->frames[number].flags |= flags;
	*first = number;
	*detach = number < end && park_must_detach(mem, &mem->frames[number]);
	for (; number < end && mem->frames[number].state == FRAME_BOUND &&
	       park_must_detach(mem, &mem->frames[number]) == *detach;
	     number++) {
		park_take(mem, number);
		if (!*detach)
			enter_parked(mem, number, flags);
	}
	pthread_mutex_unlock(&mem->lock);
	return number - *first;
}

/* Ends what mark_run() began. */
static void end_run(struct vm_memory *mem, uint32_t first, uint32_t nr, uint16_t flags, bool detach,
		    bool failed)
{
	pthread_mutex_lock(&mem->lock);
	for (uint32_t number = first; number < first + nr; number++) {
		struct guest_frame *frame = &mem->frames[number];

		if (detach && !failed)
			enter_parked(mem, number, flags | GUEST_FRAME_DETACHED);
		else if (detach)
			park_undo(mem, number);
		else if (failed && frame->state == FRAME_PARKED) {
			park_take(mem, number);
			park_undo(mem, number);
		}
	}
	pthread_mutex_unlock(&mem->lock);
	if (detach)
		fault_kick(mem);
}

int64_t park_frames(struct vm_memory *mem, uint32_t first, uint32_t nr, uint16_t flags)
{
	uint32_t end = first + nr;
	int64_t parked = 0;

	while (first < end) {
		bool detach;
		uint32_t run = mark_run(mem, &first, end, flags, &detach);
		int ret;

		if (run == 0)
			break;
		ret = park_zap(mem, first, run, detach);
		end_run(mem, first, run, flags, detach, ret != 0);
		if (ret) {
			log_error("cannot watch %u frames of the guest: %s", run, strerror(-ret));
			return ret;
		}
		parked += run;
		first += run;
	}
	return parked;
}
