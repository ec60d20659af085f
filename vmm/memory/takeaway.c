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
#include <unistd.h>

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
int takeaway_return(struct vm_memory *mem, const struct frame_run *runs, unsigned int nr_runs)
{
	int ret;

	if (nr_runs == 0)
		return 0;
	ret = owner_client_return(mem->client, runs, nr_runs);
	if (ret) {
		log_error("the pool owner does not take frames back (%s): they are kept for this "
			  "guest",
			  strerror(-ret));
		stock_keep(mem, runs, nr_runs);
	}
	return ret;
}

static int outgoing_flush(struct vm_memory *mem, struct outgoing *out)
{
	int ret = takeaway_return(mem, out->runs, out->nr_runs);

	out->nr_runs = 0;
	return ret;
}

/* Holes between bound frames are replaced along with them as long as they are no longer than this:
 * each mremap interrupts all CPUs of the guest, while an empty frame in it costs next to nothing.
 */
#define TAKE_GAP_MAX 32

/* How long a thread in the background leaves take_lock to the loop's. */
#define TAKE_YIELD_US 50

/* Which frames of a range are taken. */
enum take { TAKE_ALL, TAKE_FREE, TAKE_CLEAN };

static bool takes(const struct guest_frame *frame, enum take what)
{
	if (what != TAKE_CLEAN)
		return frame_bound(frame);
	return frame->state == FRAME_PARKED && (frame->flags & GUEST_FRAME_WATCHED);
}

/* What the guest said, also of a frame that is not there. Lock held. */
static void give_up(struct vm_memory *mem, struct guest_frame *frame, enum take what)
{
	if (frame->flags & GUEST_FRAME_UNPLUGGED)
		return;
	if (what == TAKE_ALL)
		frame->flags &= (uint16_t)~GUEST_FRAME_FREE;
	else
		frame->flags |= GUEST_FRAME_FREE;
	if (frame->flags & GUEST_FRAME_RELEASED)
		return;
	frame->flags |= GUEST_FRAME_RELEASED;
	mem->stats.released++;
	mem->stats.given_up++;
}

/* A frame that is not taken. Returns whether it may be a gap in a run. Lock held. */
static bool pass_by(struct vm_memory *mem, uint32_t number, enum take what)
{
	struct guest_frame *frame = &mem->frames[number];

	if (what != TAKE_CLEAN) {
		give_up(mem, frame, what);
		return swap_give_up(mem, number);
	}
	/* A hint holds for a swapped frame, too. */
	if (frame->state == FRAME_SWAPPED && (frame->flags & GUEST_FRAME_WATCHED)) {
		give_up(mem, frame, what);
		return swap_give_up(mem, number);
	}
	return frame->state == FRAME_HOLE;
}

/*
 * Finds the first run of frames to take in [first, end), at most max long, small gaps included, and
 * marks it TAKING and given up; unless it is TAKE_CLEAN, all up to its end are given up. Returns
 * the run's length and moves *first to its start; 0 if there is none.
 */
static uint32_t mark_taking(struct vm_memory *mem, uint32_t *first, uint32_t end, uint32_t max,
			    enum take what)
{
	uint32_t number = *first;
	uint32_t nr = 0;

	pthread_mutex_lock(&mem->lock);
	while (number < end && !takes(&mem->frames[number], what))
		pass_by(mem, number++, what);
	*first = number;
	for (; number < end && number - *first < max && number - *first <= nr + TAKE_GAP_MAX;
	     number++) {
		if (takes(&mem->frames[number], what))
			nr = number - *first + 1;
		else if (!pass_by(mem, number, what))
			break;
	}
	for (number = *first; number < *first + nr; number++) {
		if (mem->frames[number].state == FRAME_HOLE) {
			mem->frames[number].state = FRAME_TAKING_HOLE;
			continue;
		}
		park_take(mem, number);
		give_up(mem, &mem->frames[number], what);
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
			frame->flags &= (uint16_t) ~(GUEST_FRAME_DETACHED | GUEST_FRAME_SILENT);
			window_count_bound(mem, number, -1);
			taken++;
		} else {
			park_undo(mem, number);
			if (frame->flags & GUEST_FRAME_RELEASED)
				mem->stats.released--;
			frame->flags &= (uint16_t)~RELEASED_FLAGS;
		}
	}
	pthread_mutex_unlock(&mem->lock);
	fault_kick(mem);
	return taken;
}

int takeaway_replace(struct vm_memory *mem, uint32_t first, uint32_t nr)
{
	uint64_t len = frames_to_bytes(nr);
	void *hva = window_frame_hva(mem, first);
	void *hole;
	int ret = 0;

	/* Nobody would read of it, and it would wait for that. */
	if (mem->ended)
		return -ESHUTDOWN;
	hole = window_spare_hole(mem, first, nr);
	if (hole == MAP_FAILED)
		return -errno;
	if (mremap(hole, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, hva) == MAP_FAILED) {
		ret = -errno;
		munmap(hole, len);
	}
	return ret;
}

static int64_t take_frames(struct vm_memory *mem, uint32_t first, uint32_t nr, enum take what,
			   struct outgoing *out)
{
	uint32_t end = first + nr;
	int64_t taken = 0;
	uint32_t run;
	int ret;

	while (first < end) {
		/* Scattered frames need a run each. */
		run = mark_taking(mem, &first, end, OWNER_RUNS_MAX - out->nr_runs, what);
		if (run == 0)
			break;
		ret = takeaway_replace(mem, first, run);
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

static int64_t take(struct vm_memory *mem, uint32_t first, uint32_t nr, enum take what)
{
	struct outgoing out = { .nr_runs = 0 };
	int64_t taken;
	bool gone;
	int ret;

	pthread_mutex_lock(&mem->lock);
	gone = mem->stocks.owner_gone;
	pthread_mutex_unlock(&mem->lock);
	if (gone) /* nobody is there to take them: better with the guest than here */
		return -EPIPE;
	taken = take_frames(mem, first, nr, what, &out);
	/* What was taken goes back whatever happened after it. */
	ret = outgoing_flush(mem, &out);
	fault_kick(mem); /* who waits for the pool may find these frames there */
	return taken >= 0 && ret ? ret : taken;
}

int64_t takeaway_take(struct vm_memory *mem, uint32_t first, uint32_t nr)
{
	return take(mem, first, nr, TAKE_ALL);
}

static int64_t take_free(struct vm_memory *mem, uint32_t first, uint32_t nr)
{
	return take(mem, first, nr, TAKE_FREE);
}

int64_t takeaway_take_clean(struct vm_memory *mem, uint32_t first, uint32_t nr)
{
	return take(mem, first, nr, TAKE_CLEAN);
}

void take_lock(struct vm_memory *mem)
{
	atomic_fetch_add(&mem->takers, 1);
	pthread_mutex_lock(&mem->take_lock);
	atomic_fetch_sub(&mem->takers, 1);
}

void take_lock_background(struct vm_memory *mem)
{
	/* A mutex is not fair: who gives it up and wants it again at once would get it again. */
	for (;;) {
		pthread_mutex_lock(&mem->take_lock);
		if (atomic_load(&mem->takers) == 0)
			return;
		pthread_mutex_unlock(&mem->take_lock);
		usleep(TAKE_YIELD_US);
	}
}

void take_unlock(struct vm_memory *mem)
{
	pthread_mutex_unlock(&mem->take_lock);
}

int64_t takeaway_each(struct vm_memory *mem, uint64_t gpa, uint64_t nr_frames, takeaway_fn fn)
{
	int64_t sum = 0;
	int64_t got = 0;

	take_lock(mem);
	while (nr_frames > 0) {
		uint32_t first, nr;

		got = window_frames(mem, gpa, nr_frames, &first, &nr);
		if (got == 0)
			got = fn(mem, first, nr);
		if (got < 0)
			break;
		sum += got;
		nr_frames -= nr;
		gpa += frames_to_bytes(nr);
	}
	take_unlock(mem);
	return got < 0 ? got : sum;
}

static int64_t release(void *opaque, uint64_t gpa, uint64_t nr_frames)
{
	return takeaway_each(opaque, gpa, nr_frames, takeaway_take);
}

static int64_t release_free(void *opaque, uint64_t gpa, uint64_t nr_frames)
{
	return takeaway_each(opaque, gpa, nr_frames, take_free);
}

/* Binds holes from *number on with one run of the stock. Returns how many frames it went on, or
 * -ENODATA if the stock is empty. Lock held. */
static int64_t back_run(struct vm_memory *mem, uint32_t number, uint32_t end)
{
	const struct window_range *range = window_range_of(mem, number);
	struct stock *stock = stock_of(mem, number);
	uint32_t available = stock_available(stock, false);
	struct frame_run run;
	uint32_t nr = 0;
	int ret;

	/* What follows may be another node's. */
	if (end > range->first + range->nr_frames)
		end = range->first + (uint32_t)range->nr_frames;
	while (number + nr < end && mem->frames[number + nr].state == FRAME_HOLE &&
	       !(mem->frames[number + nr].flags & GUEST_FRAME_UNPLUGGED))
		nr++;
	if (nr == 0)
		return 1;
	if (stock_take(mem, number, nr < available ? nr : available, &run) == 0)
		return -ENODATA;
	ret = window_bind(mem, number, &run);
	if (ret) {
		stock_put(stock, &run);
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
		got = stock_fill(mem, stock_of(mem, first), end - first + STOCK_RESERVE,
				 OWNER_GRANT_MAX);
		if (got < 0)
			return got == -EDQUOT ? -ENOMEM : (int)got;
		pthread_mutex_lock(&mem->lock);
	}
	pthread_mutex_unlock(&mem->lock);
	stock_wake_loop(mem);
	return 0;
}

static int64_t back_range(struct vm_memory *mem, uint32_t first, uint32_t nr)
{
	return takeaway_back(mem, first, nr);
}

static int back(void *opaque, uint64_t gpa, uint64_t nr_frames)
{
	return (int)takeaway_each(opaque, gpa, nr_frames, back_range);
}

/*
 * Frames that are at hand serve as well when they are touched, and many that a guest takes back it
 * does not touch for a while, or frees. Where the pool has given all that it was asked for, that is
 * as sure as for memory that the guest has never touched.
 */
static int64_t promise_range(struct vm_memory *mem, uint32_t first, uint32_t nr)
{
	struct stock *stock = stock_of(mem, first);
	bool plenty;

	stock_fill(mem, stock, STOCK_RESERVE + nr, OWNER_GRANT_MAX);
	pthread_mutex_lock(&mem->lock);
	plenty = stock->plenty && stock_available(stock, false) >= nr;
	for (uint32_t n = first; plenty && n < first + nr; n++) {
		struct guest_frame *frame = &mem->frames[n];

		if (frame->flags & GUEST_FRAME_RELEASED)
			mem->stats.released--;
		frame->flags &= (uint16_t)~RELEASED_FLAGS;
	}
	pthread_mutex_unlock(&mem->lock);
	return plenty ? 0 : -ENOMEM;
}

static int promise(void *opaque, uint64_t gpa, uint64_t nr_frames)
{
	return (int)takeaway_each(opaque, gpa, nr_frames, promise_range);
}

const struct guest_frame_ops takeaway_frame_ops = {
	.release = release,
	.release_free = release_free,
	.back = back,
	.promise = promise,
	.plug = hotplug_plug,
	.unplug = hotplug_unplug,
	.watch = hints_watch,
	.release_clean = hints_release_clean,
};

/* Nothing is kept: where it would be looked at is not there any more. */
static int return_for_good(struct vm_memory *mem, struct outgoing *out)
{
	int ret = out->nr_runs ? owner_client_return(mem->client, out->runs, out->nr_runs) : 0;

	out->nr_runs = 0;
	return ret;
}

void takeaway_return_all(struct vm_memory *mem)
{
	struct outgoing out = { .nr_runs = 0 };
	int ret = 0;

	for (uint32_t number = 0; number < mem->nr_frames; number++) {
		struct guest_frame *frame = &mem->frames[number];

		if (frame->state == FRAME_HOLE || frame->state == FRAME_SWAPPED)
			continue;
		frame->state = FRAME_HOLE;
		outgoing_add(&out, frame->node, frame->pool_frame);
		if (out.nr_runs == OWNER_RUNS_MAX && ret == 0)
			ret = return_for_good(mem, &out);
		else if (out.nr_runs == OWNER_RUNS_MAX)
			out.nr_runs = 0;
	}
	if (ret == 0)
		ret = return_for_good(mem, &out);
	/* A dead owner finds the frames free when this process has ended. */
	if (ret && ret != -EPIPE)
		log_error("cannot give the guest's frames back: %s", strerror(-ret));
}
