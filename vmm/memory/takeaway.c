/* SPDX-License-Identifier: MIT */
/*
 * Frames leave a running guest (release) and are put under it ahead of its touch (back).
 *
 * Taking away has to be atomic: between "the old frame is gone" and "a touch raises a fault" there
 * must be no moment, or a write made in it is lost. mmap of a hole followed by its registration has
 * such a moment; mremap of a hole that is registered already has none. KVM drops its own mapping in
 * the same call (MMU notifier), so when mremap returns no vCPU reaches the old frames any more.
 *
 * mremap does not return before the fault thread has read UFFD_EVENT_REMAP. So no lock is held over
 * it that the fault thread takes; the state TAKING keeps others off the frames instead.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "framevisor/log.h"
#include "vmm/memory/internal.h"

/* Frames on their way to the owner, gathered into runs; one message's worth. */
struct outgoing {
	unsigned int nr_runs;
	struct frame_run runs[OWNER_RUNS_MAX];
};

static void outgoing_add(struct outgoing *out, uint16_t node, uint64_t pool_frame)
{
	struct frame_run *last = out->nr_runs ? &out->runs[out->nr_runs - 1] : NULL;

	if (last && last->node == node && last->first + last->nr == pool_frame) {
		last->nr++;
		return;
	}
	out->runs[out->nr_runs++] =
		(struct frame_run){ .first = pool_frame, .nr = 1, .node = node };
}

/* Frames that the owner does not take stay here: nobody may lose sight of them. */
static int outgoing_flush(struct vm_memory *mem, struct outgoing *out)
{
	int ret;

	if (out->nr_runs == 0)
		return 0;
	ret = owner_client_return(mem->client, out->runs, out->nr_runs);
	if (ret) {
		log_error("the pool owner does not take frames back (%s): they are kept for this "
			  "guest",
			  strerror(-ret));
		stock_keep(mem, out->runs, out->nr_runs);
	}
	out->nr_runs = 0;
	return ret;
}

/* Holes between bound frames are replaced along with them as long as they are no longer than this:
 * each mremap interrupts all CPUs of the guest, while an empty frame in it costs next to nothing.
 */
#define TAKE_GAP_MAX 32

/* What the guest said, also of a frame that is not there. Lock held. */
static void give_up(struct vm_memory *mem, struct guest_frame *frame)
{
	if (frame->flags & (GUEST_FRAME_RELEASED | GUEST_FRAME_UNPLUGGED))
		return;
	frame->flags |= GUEST_FRAME_RELEASED;
	mem->stats.released++;
}

/*
 * Finds the first run of bound frames in [first, end), at most max long, small gaps included, and
 * marks it TAKING. Every frame up to its end is marked as given up. Returns the run's length and
 * moves *first to its start; 0 if there is none.
 */
static uint32_t mark_taking(struct vm_memory *mem, uint32_t *first, uint32_t end, uint32_t max)
{
	uint32_t number = *first;
	uint32_t nr = 0;

	pthread_mutex_lock(&mem->lock);
	while (number < end && mem->frames[number].state != FRAME_BOUND)
		give_up(mem, &mem->frames[number++]);
	*first = number;
	for (; number < end && number - *first < max && number - *first <= nr + TAKE_GAP_MAX;
	     number++) {
		give_up(mem, &mem->frames[number]);
		if (mem->frames[number].state == FRAME_BOUND)
			nr = number - *first + 1;
	}
	for (number = *first; number < *first + nr; number++) {
		struct guest_frame *frame = &mem->frames[number];

		frame->state = frame->state == FRAME_BOUND ? FRAME_TAKING : FRAME_TAKING_HOLE;
	}
	pthread_mutex_unlock(&mem->lock);
	return nr;
}

/* Ends TAKING: with the frames gone (to out), or as before if they could not be taken. Returns how
 * many are gone. */
static uint32_t unmark_taking(struct vm_memory *mem, uint32_t first, uint32_t nr,
			      struct outgoing *out)
{
	uint32_t taken = 0;

	pthread_mutex_lock(&mem->lock);
	for (uint32_t number = first; number < first + nr; number++) {
		struct guest_frame *frame = &mem->frames[number];

		if (frame->state == FRAME_TAKING_HOLE) {
			frame->state = FRAME_HOLE;
		} else if (out) {
			outgoing_add(out, frame->node, frame->pool_frame);
			frame->state = FRAME_HOLE;
			mem->stats.bound--;
			taken++;
		} else {
			frame->state = FRAME_BOUND;
			if (frame->flags & GUEST_FRAME_RELEASED)
				mem->stats.released--;
			frame->flags &= (uint8_t)~GUEST_FRAME_RELEASED;
		}
	}
	pthread_mutex_unlock(&mem->lock);
	fault_kick(mem);
	return taken;
}

/* Replaces a run of TAKING frames by a hole. */
static int take_run(struct vm_memory *mem, uint32_t first, uint32_t nr)
{
	uint64_t len = frames_to_bytes(nr);
	void *hva = window_frame_hva(mem, first);
	void *hole = window_spare_hole(mem, first, nr);
	int ret = 0;

	if (hole == MAP_FAILED)
		return -errno;
	if (mremap(hole, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, hva) == MAP_FAILED) {
		ret = -errno;
		munmap(hole, len);
	}
	return ret;
}

static int64_t take_frames(struct vm_memory *mem, uint32_t first, uint32_t nr, struct outgoing *out)
{
	uint32_t end = first + nr;
	int64_t taken = 0;
	uint32_t run;
	int ret;

	while (first < end) {
		/* Scattered frames need a run each. */
		run = mark_taking(mem, &first, end, OWNER_RUNS_MAX - out->nr_runs);
		if (run == 0)
			break;
		ret = take_run(mem, first, run);
		taken += unmark_taking(mem, first, run, ret ? NULL : out);
		if (ret) {
			log_error("cannot take %u frames from the guest: %s", run, strerror(-ret));
			return ret;
		}
		first += run;
		if (out->nr_runs == OWNER_RUNS_MAX) {
			ret = outgoing_flush(mem, out);
			if (ret)
				return ret;
		}
	}
	return taken;
}

int64_t takeaway_take(struct vm_memory *mem, uint32_t first, uint32_t nr)
{
	struct outgoing out = { .nr_runs = 0 };
	int64_t taken;
	bool gone;
	int ret;

	pthread_mutex_lock(&mem->lock);
	gone = mem->stock.owner_gone;
	pthread_mutex_unlock(&mem->lock);
	if (gone) /* nobody is there to take them: better with the guest than here */
		return -EPIPE;
	taken = take_frames(mem, first, nr, &out);
	/* What was taken goes back whatever happened after it. */
	ret = outgoing_flush(mem, &out);
	fault_kick(mem); /* who waits for the pool may find these frames there */
	return taken >= 0 && ret ? ret : taken;
}

static int64_t release(void *opaque, uint64_t gpa, uint64_t nr_frames)
{
	struct vm_memory *mem = opaque;
	int64_t taken = 0;
	int64_t got = 0;

	pthread_mutex_lock(&mem->take_lock);
	while (nr_frames > 0) {
		uint32_t first, nr;

		got = window_frames(mem, gpa, nr_frames, &first, &nr);
		if (got == 0)
			got = takeaway_take(mem, first, nr);
		if (got < 0)
			break;
		taken += got;
		nr_frames -= nr;
		gpa += frames_to_bytes(nr);
	}
	pthread_mutex_unlock(&mem->take_lock);
	return got < 0 ? got : taken;
}

/* Binds holes from *number on with one run of the stock. Returns how many frames it went on, or
 * -ENODATA if the stock is empty. Lock held. */
static int64_t back_run(struct vm_memory *mem, uint32_t number, uint32_t end)
{
	struct frame_run run;
	uint32_t available = stock_available(mem, false);
	uint32_t nr = 0;
	int ret;

	while (number + nr < end && mem->frames[number + nr].state == FRAME_HOLE &&
	       !(mem->frames[number + nr].flags & GUEST_FRAME_UNPLUGGED))
		nr++;
	if (nr == 0)
		return 1;
	if (stock_take(mem, nr < available ? nr : available, &run) == 0)
		return -ENODATA;
	ret = window_bind(mem, number, &run);
	if (ret) {
		stock_put(mem, &run);
		return ret;
	}
	/* No mremap can be under way: releases are kept out by take_lock. */
	window_continue(mem, number, run.nr);
	return run.nr;
}

int takeaway_back(struct vm_memory *mem, uint32_t first, uint32_t nr)
{
	uint32_t end = first + nr;
	int64_t got;

	pthread_mutex_lock(&mem->lock);
	while (first < end) {
		got = back_run(mem, first, end);
		if (got > 0) {
			first += (uint32_t)got;
			continue;
		}
		if (got != -ENODATA) {
			pthread_mutex_unlock(&mem->lock);
			return (int)got;
		}
		pthread_mutex_unlock(&mem->lock);
		got = stock_fill(mem, end - first + STOCK_RESERVE, OWNER_GRANT_MAX);
		if (got < 0)
			return got == -EDQUOT ? -ENOMEM : (int)got;
		pthread_mutex_lock(&mem->lock);
	}
	pthread_mutex_unlock(&mem->lock);
	stock_wake_loop(mem);
	return 0;
}

static int back(void *opaque, uint64_t gpa, uint64_t nr_frames)
{
	struct vm_memory *mem = opaque;
	int ret = 0;

	pthread_mutex_lock(&mem->take_lock);
	while (nr_frames > 0 && ret == 0) {
		uint32_t first, nr;

		ret = window_frames(mem, gpa, nr_frames, &first, &nr);
		if (ret)
			break;
		ret = takeaway_back(mem, first, nr);
		nr_frames -= nr;
		gpa += frames_to_bytes(nr);
	}
	pthread_mutex_unlock(&mem->take_lock);
	return ret;
}

const struct guest_frame_ops takeaway_frame_ops = {
	.release = release,
	.back = back,
	.plug = hotplug_plug,
	.unplug = hotplug_unplug,
};

void takeaway_return_all(struct vm_memory *mem)
{
	struct outgoing out = { .nr_runs = 0 };
	int ret = 0;

	for (uint32_t number = 0; number < mem->nr_frames; number++) {
		struct guest_frame *frame = &mem->frames[number];

		if (frame->state == FRAME_HOLE)
			continue;
		frame->state = FRAME_HOLE;
		outgoing_add(&out, frame->node, frame->pool_frame);
		if (out.nr_runs == OWNER_RUNS_MAX && ret == 0)
			ret = outgoing_flush(mem, &out);
		else if (out.nr_runs == OWNER_RUNS_MAX)
			out.nr_runs = 0;
	}
	if (ret == 0)
		ret = outgoing_flush(mem, &out);
	/* A dead owner finds the frames free when this process has ended. */
	if (ret && ret != -EPIPE)
		log_error("cannot give the guest's frames back: %s", strerror(-ret));
}
