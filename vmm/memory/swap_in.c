/* SPDX-License-Identifier: MIT */
/*
 * Swap-in: what was touched is read, several frames at a time, put into frames of the pool past the
 * window, compared with its sum, and bound. Touches that follow each other have their neighbours
 * read along, twice as many each time.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <zstd.h>

#include "framevisor/clock.h"
#include "framevisor/log.h"
#include "vmm/memory/swap.h"

/* Frames read along at most. */
#define AHEAD_MAX 4
/* Frames asked of the owner at once when the stock is empty. */
#define IN_FRAMES 4

/* A frame on its way in. */
struct arrival {
	struct swap_io io; /* first: what the queue gives back is this */
	uint32_t number;
	struct frame_run run;
	struct swap_slot slot;
	bool ahead;
	bool busy;
};

struct reader {
	struct vm_memory *mem;
	struct swap_queue queue;
	struct arrival arrivals[SWAP_QUEUE_DEPTH];
	uint8_t *buffers; /* a frame for each of them */
	ZSTD_DCtx *zstd;
	uint32_t last; /* touched */
	uint32_t ahead;
	bool starved; /* a touch was found that begins to wait for the pool */
};

static struct arrival *idle_arrival(struct reader *r)
{
	for (unsigned int i = 0; i < SWAP_QUEUE_DEPTH; i++)
		if (!r->arrivals[i].busy)
			return &r->arrivals[i];
	return NULL;
}

/* A frame for one that comes in, from the stock alone. Lock held. */
static bool take_frame(struct vm_memory *mem, uint32_t number, bool ahead, struct frame_run *run)
{
	struct stock *stock = stock_of(mem, number);
	bool reserve = !ahead && (mem->frames[number].flags & GUEST_FRAME_DEVICE);

	/* Who reads ahead leaves something for touches. */
	if (stock_available(stock, reserve) <= (ahead ? 1 : 0))
		return false;
	return stock_take(mem, number, 1, run) > 0;
}

/* Marks one and makes it an arrival. Lock held. */
static struct arrival *admit(struct reader *r, uint32_t number, bool ahead,
			     const struct frame_run *run)
{
	struct arrival *a = idle_arrival(r);
	struct vm_memory *mem = r->mem;

	if (!a) /* as many are begun as there is room for */
		return NULL;
	mem->frames[number].state = FRAME_SWAPPING_IN;
	a->number = number;
	a->run = *run;
	a->slot = mem->swap->slots[number];
	a->ahead = ahead;
	a->busy = true;
	return a;
}

static void submit(struct reader *r, struct arrival *a)
{
	size_t index = (size_t)(a - r->arrivals);

	a->io = (struct swap_io){
		.buf = r->buffers + index * FRAME_SIZE,
		.bytes = (a->slot.length + SWAP_ALIGN - 1) / SWAP_ALIGN * SWAP_ALIGN,
		.cluster = a->slot.cluster,
	};
	swap_queue_submit(&r->queue, &a->io);
}

/* Fills the frame of the pool with what was read. 0 or a negative errno. */
static int unpack(struct reader *r, const struct arrival *a)
{
	void *view = window_view(r->mem, &a->run, PROT_READ | PROT_WRITE);
	size_t got = FRAME_SIZE;
	int ret = 0;

	if (!view)
		return -errno;
	if (a->slot.length == FRAME_SIZE)
		frame_data_copy(view, a->io.buf);
	else
		got = ZSTD_decompressDCtx(r->zstd, view, FRAME_SIZE, a->io.buf, a->slot.length);
	if (ZSTD_isError(got) || got != FRAME_SIZE || swap_sum(view) != a->slot.sum)
		ret = -EBADMSG;
	window_view_end(r->mem, view, &a->run);
	return ret;
}

/* It cannot be read: whoever waits for it waits on. Lock held. */
static void fail(struct vm_memory *mem, const struct arrival *a, int ret)
{
	struct guest_frame *frame = &mem->frames[a->number];
	bool said = frame->flags & GUEST_FRAME_RETRIED;

	frame->state = FRAME_SWAPPED;
	mem->stats.swap_errors++;
	if (!(frame->flags & GUEST_FRAME_WANTED))
		return;
	if (!said)
		fault_served(mem, a->number); /* by the pool ... */
	/* ... and has to wait all the same */
	mem->starved += !(frame->flags & GUEST_FRAME_STARVED);
	frame->flags |= GUEST_FRAME_UNREADABLE | GUEST_FRAME_STARVED;
	if ((frame->flags & GUEST_FRAME_DEVICE) && !mem->swap->device_retry_ms)
		mem->swap->device_retry_ms = now_ms() + SWAP_DEVICE_RETRY_MS;
	if (said)
		return;
	fault_note_event(mem, VM_MEMORY_EVENT_SWAP_UNREADABLE, window_frame_gpa(mem, a->number));
	log_error("a frame of the guest (at 0x%llx) cannot be read from the swap file: %s; it is "
		  "kept there",
		  (unsigned long long)window_frame_gpa(mem, a->number), strerror(-ret));
}

/* Binds it. Lock held. Returns 0 or a negative errno: it is SWAPPED as before. */
static int arrive(struct vm_memory *mem, const struct arrival *a)
{
	struct guest_frame *frame = &mem->frames[a->number];
	int ret = window_bind(mem, a->number, &a->run);

	if (ret)
		return ret;
	if (frame->flags & (GUEST_FRAME_WANTED | GUEST_FRAME_STARVED))
		fault_served(mem, a->number);
	frame->flags &= (uint16_t) ~(GUEST_FRAME_WANTED | GUEST_FRAME_DEVICE | GUEST_FRAME_WATCHED |
				     GUEST_FRAME_RETRIED);
	swap_free_slot(mem, a->number);
	mem->stats.swap_in++;
	mem->stats.swap_ahead += a->ahead;
	if (window_continue(mem, a->number, 1) == -EAGAIN)
		fault_wait_for(mem, a->number);
	return 0;
}

/* The guest has given it up meanwhile. Lock held. */
static void abandon(struct vm_memory *mem, const struct arrival *a)
{
	struct guest_frame *frame = &mem->frames[a->number];

	swap_free_slot(mem, a->number);
	frame->state = FRAME_HOLE;
	if (frame->flags & GUEST_FRAME_WANTED)
		fault_wait_for(mem, a->number);
	frame->flags &= (uint16_t) ~(GUEST_FRAME_WANTED | GUEST_FRAME_ABANDONED |
				     GUEST_FRAME_WATCHED | GUEST_FRAME_RETRIED);
}

/* The frame for one that could not be read, which it may hold a part of. One for a device is kept:
 * it came from what is there for devices, and it is tried again. */
static void put_frame(struct vm_memory *mem, const struct arrival *a, bool keep)
{
	bool kept = false;

	if (keep && window_zero(mem, &a->run) == 0) {
		pthread_mutex_lock(&mem->lock);
		kept = stock_add(stock_of(mem, a->number), &a->run);
		pthread_mutex_unlock(&mem->lock);
	}
	if (!kept)
		takeaway_return(mem, &a->run, 1);
}

static void end_arrival(struct reader *r, struct arrival *a, int ret)
{
	struct vm_memory *mem = r->mem;
	bool bound = false, device;

	if (ret == 0 && a->slot.length)
		ret = unpack(r, a);
	pthread_mutex_lock(&mem->lock);
	device = mem->frames[a->number].flags & GUEST_FRAME_DEVICE;
	if (mem->frames[a->number].flags & GUEST_FRAME_ABANDONED) {
		abandon(mem, a);
	} else {
		if (ret == 0)
			ret = arrive(mem, a);
		bound = ret == 0;
		if (ret)
			fail(mem, a, ret);
	}
	pthread_mutex_unlock(&mem->lock);
	a->busy = false;
	if (!bound)
		put_frame(mem, a, device);
	fault_kick(mem);
	stock_wake_loop(mem);
}

/* Begins to bring a frame in, or to no avail: then its touch waits for the pool. Lock held. */
static struct arrival *begin(struct reader *r, uint32_t number, bool ahead)
{
	struct vm_memory *mem = r->mem;
	struct frame_run run;
	int64_t got = 0;

	if (!take_frame(mem, number, ahead, &run)) {
		if (ahead)
			return NULL;
		pthread_mutex_unlock(&mem->lock);
		got = stock_fill(mem, stock_of(mem, number), STOCK_RESERVE + IN_FRAMES, IN_FRAMES);
		pthread_mutex_lock(&mem->lock);
		if (mem->frames[number].state != FRAME_SWAPPED)
			return NULL; /* given up */
		if (got < 0 || stock_take(mem, number, 1, &run) == 0) {
			mem->frames[number].flags &= (uint16_t)~GUEST_FRAME_WANTED;
			r->starved |= !(mem->frames[number].flags & GUEST_FRAME_STARVED);
			fault_starve(mem, number, got < 0 ? (int)got : -ENOMEM);
			return NULL;
		}
	}
	return admit(r, number, ahead, &run);
}

/* How many of those behind a touched frame are read along. */
static uint32_t count_ahead(struct reader *r, uint32_t number)
{
	bool follows = number > r->last && number - r->last <= r->ahead + 1;

	r->ahead = !follows ? 0 : r->ahead == 0 ? 1 : 2 * r->ahead;
	if (r->ahead > AHEAD_MAX)
		r->ahead = AHEAD_MAX;
	r->last = number;
	return r->ahead;
}

/* Begins with what is on the list, as far as there is room. Lock held. */
static unsigned int begin_wanted(struct reader *r, struct arrival **begun)
{
	struct vm_memory *mem = r->mem;
	struct swap *swap = mem->swap;
	unsigned int nr = 0;

	while (nr < SWAP_QUEUE_DEPTH - AHEAD_MAX && swap->wanted_head != NO_FRAME) {
		uint32_t number = swap->wanted_head, ahead;
		const struct window_range *range = window_range_of(mem, number);

		swap->wanted_head = mem->frames[number].lru_next;
		begun[nr] = begin(r, number, false);
		if (!begun[nr])
			continue;
		nr++;
		ahead = count_ahead(r, number);
		for (uint32_t n = number + 1; n <= number + ahead && nr < SWAP_QUEUE_DEPTH; n++) {
			if (n - range->first >= range->nr_frames ||
			    mem->frames[n].state != FRAME_SWAPPED ||
			    (mem->frames[n].flags & (GUEST_FRAME_WANTED | GUEST_FRAME_UNREADABLE)))
				break;
			begun[nr] = begin(r, n, true);
			if (!begun[nr])
				break;
			r->last = n;
			nr++;
		}
	}
	return nr;
}

/* Has the fault thread try again after a while, and the loop say so. Once for each touch: the
 * thread goes on by its clock, and would come back here at once after a kick. */
static void tell_starved(struct reader *r)
{
	if (!r->starved)
		return;
	r->starved = false;
	fault_kick(r->mem);
	stock_wake_loop(r->mem);
}

static void bring_in(struct reader *r, struct arrival **begun, unsigned int nr)
{
	struct swap_io *io;

	/* Those that have to be read are under way while the others are done with. */
	for (unsigned int i = 0; i < nr; i++)
		if (begun[i]->slot.length)
			submit(r, begun[i]);
	for (unsigned int i = 0; i < nr; i++)
		if (begun[i]->slot.length == 0)
			end_arrival(r, begun[i], 0);
	while ((io = swap_queue_wait(&r->queue)))
		end_arrival(r, (struct arrival *)io, io->result);
}

/*
 * What a device waits for is tried again without being asked to: the thread that serves the device
 * is as a rule the loop's, and nobody could ask for it. When it is time, however much else there is
 * to read. Lock held.
 */
static void retry_for_devices(struct vm_memory *mem)
{
	struct swap *swap = mem->swap;

	if (!swap->device_retry_ms || now_ms() < swap->device_retry_ms)
		return;
	swap->device_retry_ms = 0;
	swap_read_again(mem, true);
}

/* Waits for something to read. Lock held, but opened in between. */
static void wait_for_work(struct vm_memory *mem)
{
	struct swap *swap = mem->swap;
	uint64_t at = swap->device_retry_ms;
	struct timespec until = { .tv_sec = (time_t)(at / 1000),
				  .tv_nsec = (long)(at % 1000 * NS_PER_MS) };

	if (at)
		pthread_cond_clockwait(&swap->wanted, &mem->lock, CLOCK_MONOTONIC, &until);
	else
		pthread_cond_wait(&swap->wanted, &mem->lock);
}

static void *in_thread(void *opaque)
{
	struct reader *r = opaque;
	struct vm_memory *mem = r->mem;
	struct swap *swap = mem->swap;
	struct arrival *begun[SWAP_QUEUE_DEPTH];
	unsigned int nr;

	pthread_setname_np(pthread_self(), "swap-in");
	pthread_mutex_lock(&mem->lock);
	while (!swap->in_stops) {
		retry_for_devices(mem);
		if (swap->wanted_head == NO_FRAME) {
			wait_for_work(mem);
			continue;
		}
		pthread_mutex_unlock(&mem->lock);
		pthread_rwlock_rdlock(&mem->hand_lock);
		pthread_mutex_lock(&mem->lock);
		nr = begin_wanted(r, begun);
		pthread_mutex_unlock(&mem->lock);
		tell_starved(r);
		bring_in(r, begun, nr);
		pthread_rwlock_unlock(&mem->hand_lock);
		pthread_mutex_lock(&mem->lock);
	}
	pthread_mutex_unlock(&mem->lock);
	return NULL;
}

/* All that the thread uses is made before: a sandboxed process makes no rings. */
int swap_in_start(struct vm_memory *mem, struct error *err)
{
	struct swap *swap = mem->swap;
	struct reader *r = calloc(1, sizeof(*r));
	int ret;

	if (!r)
		return error_set(err, ENOMEM, "no memory to swap in");
	swap->reader = r;
	r->mem = mem;
	r->last = NO_FRAME;
	r->zstd = ZSTD_createDCtx();
	r->buffers = mmap(NULL, SWAP_QUEUE_DEPTH * FRAME_SIZE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!r->zstd || r->buffers == MAP_FAILED)
		return error_set(err, ENOMEM, "no memory to swap in");
	swap_queue_init(&r->queue, swap->file);
	ret = background_thread(&swap->in_thread, in_thread, r);
	if (ret)
		return error_set_errno(err, ret, "cannot create the thread that swaps in");
	swap->in_runs = true;
	return 0;
}

static void stop_thread(struct vm_memory *mem)
{
	struct swap *swap = mem->swap;

	pthread_mutex_lock(&mem->lock);
	swap->in_stops = true;
	pthread_cond_signal(&swap->wanted);
	pthread_mutex_unlock(&mem->lock);
	pthread_join(swap->in_thread, NULL);
	swap->in_runs = false;
}

void swap_in_stop(struct vm_memory *mem)
{
	struct reader *r = mem->swap ? mem->swap->reader : NULL;

	if (mem->swap && mem->swap->in_runs)
		stop_thread(mem);
	if (!r)
		return;
	swap_queue_exit(&r->queue);
	ZSTD_freeDCtx(r->zstd);
	if (r->buffers && r->buffers != MAP_FAILED)
		munmap(r->buffers, SWAP_QUEUE_DEPTH * FRAME_SIZE);
	free(r);
	mem->swap->reader = NULL;
}
