/* SPDX-License-Identifier: MIT */
/*
 * Swap-out: the coldest frames are copied while they are parked, compressed, and written; only then
 * is each taken from the guest, if nobody has touched it since it was copied. A touch in between
 * wins: what was written is thrown away.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <zstd.h>

#include "framevisor/log.h"
#include "vmm/memory/swap.h"

/* Frames under way at a time: while one is compressed the others are written. */
#define OUT_DEPTH 4
/* Fast: more would cost the guest's touches more time than it saves of the disk. */
#define ZSTD_LEVEL 1
/* How long a step works. */
#define STEP_MS 10
/* How long a file that could not be written is left alone. */
#define STUCK_MS 1000
/* So many that were touched meanwhile or could not be had, one after the other: there is nothing
 * cold. */
#define MISSES_MAX 64
/* Parked frames there are to choose from at least, and looked at at most. */
#define CHOICE     64
#define CHOICE_MAX 256

struct departure {
	struct swap_io io; /* first: what the queue gives back is this */
	uint32_t number;
	struct swap_slot slot;
	bool busy;
	bool outdated; /* the frame was copied again since */
};

struct swap_writer {
	struct swap_queue queue;
	struct departure departures[OUT_DEPTH];
	uint8_t *buffers; /* a frame for each of them, and one for the copy */
	uint8_t *copy;
	ZSTD_CCtx *zstd;
	unsigned int misses;
};

int swap_out_create(struct vm_memory *mem, struct error *err)
{
	struct swap_writer *w = calloc(1, sizeof(*w));

	if (!w)
		return error_set(err, ENOMEM, "no memory to swap out");
	mem->swap->writer = w;
	w->zstd = ZSTD_createCCtx();
	w->buffers = mmap(NULL, (OUT_DEPTH + 1) * FRAME_SIZE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!w->zstd || w->buffers == MAP_FAILED)
		return error_set(err, ENOMEM, "no memory to swap out");
	w->copy = w->buffers + OUT_DEPTH * FRAME_SIZE;
	swap_queue_init(&w->queue, mem->swap->file);
	return 0;
}

void swap_out_destroy(struct vm_memory *mem)
{
	struct swap_writer *w = mem->swap->writer;

	if (!w)
		return;
	swap_queue_exit(&w->queue);
	ZSTD_freeCCtx(w->zstd);
	if (w->buffers && w->buffers != MAP_FAILED)
		munmap(w->buffers, (OUT_DEPTH + 1) * FRAME_SIZE);
	free(w);
	mem->swap->writer = NULL;
}

/*
 * Of the frames that are parked the longest, the one that is expected to be left alone the longest
 * and is not on its way out; one in use if none is parked. The last use alone would let everything
 * that is read once push out what is used now and then. Lock held.
 */
static uint32_t coldest(const struct vm_memory *mem)
{
	uint32_t number = mem->lru[LIST_INACTIVE].tail, best = NO_FRAME, longest = 0;

	for (unsigned int i = 0; i < CHOICE_MAX && number != NO_FRAME; i++) {
		const struct guest_frame *frame = &mem->frames[number];
		uint32_t idle = park_idle(frame);

		if (!(frame->flags & GUEST_FRAME_LEAVING) && (best == NO_FRAME || idle > longest)) {
			best = number;
			longest = idle;
		}
		number = frame->lru_prev;
	}
	return best == NO_FRAME ? mem->lru[LIST_ACTIVE].tail : best;
}

/* victims=random: any frame that is bound. Lock held. */
static uint32_t anyone(struct vm_memory *mem)
{
	for (unsigned int tries = 0; tries < 1000; tries++) {
		uint32_t number;

		mem->swap->random = mem->swap->random * 6364136223846793005 + 1442695040888963407;
		number = (uint32_t)((mem->swap->random >> 33) % mem->nr_frames);
		if (frame_bound(&mem->frames[number]) &&
		    !(mem->frames[number].flags & GUEST_FRAME_LEAVING))
			return number;
	}
	return NO_FRAME;
}

/* Parks a frame that is to go, and copies it. Returns its number, or NO_FRAME. */
static uint32_t pick(struct vm_memory *mem, struct swap_writer *w)
{
	struct guest_frame *frame;
	struct frame_run run;
	uint32_t number;
	void *view = NULL;

	take_lock_background(mem);
	pthread_mutex_lock(&mem->lock);
	number = mem->swap->at_random ? anyone(mem) : coldest(mem);
	frame = number == NO_FRAME ? NULL : &mem->frames[number];
	if (frame && frame->state == FRAME_BOUND) {
		pthread_mutex_unlock(&mem->lock);
		if (park_frames(mem, number, 1, 0) < 0)
			frame = NULL;
		pthread_mutex_lock(&mem->lock);
	}
	if (frame && frame->state == FRAME_PARKED) {
		frame->flags |= GUEST_FRAME_LEAVING;
		run = frame_run_of(frame);
	} else {
		frame = NULL;
	}
	pthread_mutex_unlock(&mem->lock);
	if (frame)
		view = window_view(mem, &run, PROT_READ);
	if (view) {
		memcpy(w->copy, view, FRAME_SIZE);
		window_view_end(mem, view, &run);
	} else if (frame) {
		pthread_mutex_lock(&mem->lock);
		frame->flags &= (uint16_t)~GUEST_FRAME_LEAVING;
		pthread_mutex_unlock(&mem->lock);
	}
	take_unlock(mem);
	return view ? number : NO_FRAME;
}

/* Puts what was copied into the departure's buffer, as small as it gets. */
static void pack(struct swap_writer *w, struct departure *d)
{
	uint8_t *buf = w->buffers + (size_t)(d - w->departures) * FRAME_SIZE;
	size_t length;

	d->slot = (struct swap_slot){ .length = 0 };
	if (frame_data_zero(w->copy))
		return;
	d->slot.sum = swap_sum(w->copy);
	length = ZSTD_compressCCtx(w->zstd, buf, FRAME_SIZE - SWAP_CLUSTER, w->copy, FRAME_SIZE,
				   ZSTD_LEVEL);
	/* What does not become smaller is kept as it is. */
	if (ZSTD_isError(length)) {
		memcpy(buf, w->copy, FRAME_SIZE);
		length = FRAME_SIZE;
	}
	d->slot.length = (uint32_t)length;
	d->io = (struct swap_io){
		.write = true,
		.buf = buf,
		.bytes = (d->slot.length + SWAP_ALIGN - 1) / SWAP_ALIGN * SWAP_ALIGN,
	};
}

/* Nothing goes out for a while. */
static void stick(struct vm_memory *mem, int ret)
{
	struct swap *swap = mem->swap;

	atomic_store(&swap->retry_at, park_clock() + STUCK_MS);
	atomic_store(&swap->stuck, true);
	atomic_store(&swap->to_do, 0);
	if (swap->said_stuck)
		return;
	swap->said_stuck = true;
	log_warn("the swap file cannot take more of the guest's memory: %s", strerror(-ret));
	pthread_mutex_lock(&mem->lock);
	fault_note_event(mem, VM_MEMORY_EVENT_SWAP_FULL, 0);
	pthread_mutex_unlock(&mem->lock);
	stock_wake_loop(mem);
}

/* Takes the frame from the guest if it is as it was copied. take_lock held. */
static bool detach(struct vm_memory *mem, const struct departure *d, struct frame_run *run)
{
	struct guest_frame *frame = &mem->frames[d->number];
	bool hole;
	int ret = 0;

	pthread_mutex_lock(&mem->lock);
	if (frame->state != FRAME_PARKED || !(frame->flags & GUEST_FRAME_LEAVING)) {
		pthread_mutex_unlock(&mem->lock);
		return false;
	}
	*run = frame_run_of(frame);
	hole = frame->flags & GUEST_FRAME_DETACHED;
	park_take(mem, d->number);
	pthread_mutex_unlock(&mem->lock);
	if (!hole)
		ret = takeaway_replace(mem, d->number, 1);
	pthread_mutex_lock(&mem->lock);
	if (ret) {
		park_undo(mem, d->number);
	} else {
		frame->state = FRAME_SWAPPED;
		frame->flags &= (uint16_t) ~(GUEST_FRAME_DETACHED | GUEST_FRAME_SILENT);
		window_count_bound(mem, d->number, -1);
		mem->swap->slots[d->number] = d->slot;
		mem->stats.swapped++;
		mem->stats.swapped_zero += d->slot.length == 0;
		mem->stats.swap_out++;
		mem->stats.swap_out_bytes += d->slot.length;
	}
	pthread_mutex_unlock(&mem->lock);
	return ret == 0;
}

static void count_done(struct swap *swap)
{
	unsigned int left = atomic_load(&swap->to_do);

	while (left > 0 && !atomic_compare_exchange_weak(&swap->to_do, &left, left - 1))
		;
}

/* It is written, or could not be. */
static void depart(struct vm_memory *mem, struct swap_writer *w, struct departure *d, int result)
{
	struct swap *swap = mem->swap;
	struct frame_run run;
	bool gone = false;

	d->busy = false;
	pthread_rwlock_rdlock(&mem->hand_lock);
	if (result == 0 && !d->outdated) {
		take_lock_background(mem);
		gone = detach(mem, d, &run);
		take_unlock(mem);
	}
	if (!gone && d->slot.length)
		swap_file_free(swap->file, d->slot.cluster, d->slot.length);
	if (result) {
		pthread_mutex_lock(&mem->lock);
		if (!d->outdated)
			mem->frames[d->number].flags &= (uint16_t)~GUEST_FRAME_LEAVING;
		mem->stats.swap_errors++;
		pthread_mutex_unlock(&mem->lock);
		stick(mem, result);
	}
	w->misses = gone ? 0 : w->misses + 1;
	if (gone) {
		swap->said_stuck = false;
		count_done(swap);
		/* Without an owner the frame stays with this VM, and more would be of no use. */
		if (takeaway_return(mem, &run, 1) < 0)
			atomic_store(&swap->to_do, 0);
	}
	pthread_rwlock_unlock(&mem->hand_lock);
	fault_kick(mem);
}

static struct departure *idle_departure(struct swap_writer *w)
{
	for (unsigned int i = 0; i < OUT_DEPTH; i++)
		if (!w->departures[i].busy)
			return &w->departures[i];
	return NULL;
}

/*
 * A frame that was touched and is picked again while its first copy is still being written: only
 * the last copy counts.
 */
static void outdate_others(struct swap_writer *w, const struct departure *last)
{
	for (unsigned int i = 0; i < OUT_DEPTH; i++) {
		struct departure *d = &w->departures[i];

		if (d != last && d->busy && d->number == last->number)
			d->outdated = true;
	}
}

/* Waits for one that is being written. False: there was none. */
static bool wait_for_one(struct vm_memory *mem, struct swap_writer *w)
{
	struct swap_io *io = swap_queue_wait(&w->queue);

	if (io)
		depart(mem, w, (struct departure *)io, io->result);
	return io != NULL;
}

/* Sends one frame on its way. False: there is none to send. */
static bool send_one(struct vm_memory *mem, struct swap_writer *w)
{
	struct departure *d = idle_departure(w);
	int64_t cluster = 0;

	while (!d) {
		wait_for_one(mem, w);
		d = idle_departure(w);
	}
	d->number = pick(mem, w);
	if (d->number == NO_FRAME) {
		w->misses++;
		return false;
	}
	d->busy = true;
	d->outdated = false;
	outdate_others(w, d);
	pack(w, d);
	if (d->slot.length)
		cluster = swap_file_alloc(mem->swap->file, d->slot.length);
	if (cluster < 0) {
		d->slot.length = 0; /* it has no space to give back */
		depart(mem, w, d, (int)cluster);
		return false;
	}
	d->slot.cluster = (uint32_t)cluster;
	if (d->slot.length == 0) {
		depart(mem, w, d, 0);
		return true;
	}
	d->io.cluster = d->slot.cluster;
	swap_queue_submit(&w->queue, &d->io);
	return true;
}

/* As many as are under way need not be sent again. */
static bool enough(const struct vm_memory *mem, const struct swap_writer *w)
{
	return atomic_load(&mem->swap->to_do) <= w->queue.in_flight;
}

/* A second chance for those in use: they come back before they are written. Each once: the same
 * few, again and again, would take up a step's time and leave none for those that are cold. */
static void complete_choice(struct vm_memory *mem)
{
	uint32_t parked, active, nr;

	pthread_mutex_lock(&mem->lock);
	parked = mem->lru[LIST_INACTIVE].nr;
	active = mem->lru[LIST_ACTIVE].nr;
	pthread_mutex_unlock(&mem->lock);
	nr = parked < CHOICE ? CHOICE - parked : 0;
	active = (active + 1) / 2;
	cold_sample(mem, nr < active ? nr : active);
}

bool swap_out_step(struct vm_memory *mem)
{
	struct swap *swap = mem->swap;
	struct swap_writer *w = swap->writer;
	bool found = true;
	uint32_t start;

	if (atomic_load(&swap->to_do) == 0)
		return false;
	if (!swap->at_random)
		complete_choice(mem);
	start = park_clock();
	atomic_store(&swap->last_activity, start);
	while (!enough(mem, w) && park_clock() - start < STEP_MS && found &&
	       !atomic_load(&mem->background.stop))
		found = send_one(mem, w);
	while (wait_for_one(mem, w))
		;
	if (w->misses > MISSES_MAX) {
		w->misses = 0;
		atomic_store(&swap->to_do, 0);
	}
	/* Where there is none to send now, there may be one after the next samples. */
	return found && atomic_load(&swap->to_do) > 0;
}
