/* SPDX-License-Identifier: MIT */
/*
 * The stocks: zeroed frames that the pool owner granted ahead of need, so that a first touch does
 * not wait for another process. The loop's thread refills them when they run low; the fault thread
 * asks by itself, for little, only when one is empty. There is one for each set of nodes that
 * ranges of the guest's memory want their frames from: see stock_nodes.c.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "framevisor/clock.h"
#include "framevisor/log.h"
#include "vmm/memory/internal.h"

/* A 32nd of what the guest may have: a 512 MiB guest is never more than 16 MiB ahead, a large one
 * asks rarely. */
#define STOCK_RAM_SHARE 32
#define STOCK_BATCH_MIN 4
/* While touches come fast, up to an 8th: the neighbours of a sequential touch come out of it. */
#define STOCK_BUSY_SHARE 8
/* Refills that follow each other so closely mean that touches come fast. */
#define STOCK_BUSY_MS 20
/* Without a touch for so long the stock goes back to its ordinary size. */
#define STOCK_IDLE_MS 1000
/* Frames per request of the loop: a touch that meets an empty stock waits for the request under
 * way, and a frame that the owner still has to zero takes 84 us. */
#define STOCK_STEP 16

static uint32_t clamp_batch(uint32_t batch, uint32_t min)
{
	if (batch < min)
		return min;
	return batch < STOCK_BATCH_MAX ? batch : STOCK_BATCH_MAX;
}

static void set_size(struct stock *stock)
{
	if (FRAME_SHIFT != FRAME_SHIFT_2M) {
		stock->batch = stock->batch_idle = stock->batch_busy = 0;
		return;
	}
	stock->batch_idle = clamp_batch(stock->usable / STOCK_RAM_SHARE, STOCK_BATCH_MIN);
	stock->batch_busy = clamp_batch(stock->usable / STOCK_BUSY_SHARE, stock->batch_idle);
	if (stock->batch < stock->batch_idle || stock->batch > stock->batch_busy)
		stock->batch = stock->batch_idle;
}

void stock_set_size(struct vm_memory *mem)
{
	for (unsigned int i = 0; i < mem->stocks.nr; i++)
		set_size(&mem->stocks.stock[i]);
}

uint32_t stock_frames(const struct vm_memory *mem)
{
	uint32_t nr = 0;

	for (unsigned int i = 0; i < mem->stocks.nr; i++)
		nr += mem->stocks.stock[i].nr_frames;
	return nr;
}

uint32_t stock_spare(const struct vm_memory *mem)
{
	uint32_t nr = 0;

	for (unsigned int i = 0; i < mem->stocks.nr; i++)
		if (mem->stocks.stock[i].nr_frames > STOCK_RESERVE)
			nr += mem->stocks.stock[i].nr_frames - STOCK_RESERVE;
	return nr;
}

/* Below it the loop refills. Lock held. */
static uint32_t low_mark(const struct stock *stock)
{
	return STOCK_RESERVE + stock->batch / 2;
}

/* Lets the batch follow the pace of the touches. Returns what the stock should hold. */
static uint32_t adapt_batch(struct vm_memory *mem, struct stock *stock)
{
	uint64_t now = now_ms();
	uint32_t target;

	pthread_mutex_lock(&mem->lock);
	if (stock->refill_due) {
		if (stock->refilled_ms && now - stock->refilled_ms < STOCK_BUSY_MS) {
			stock->batch *= 2;
			if (stock->batch > stock->batch_busy)
				stock->batch = stock->batch_busy;
		}
		stock->refilled_ms = now;
	}
	target = STOCK_RESERVE + stock->batch;
	pthread_mutex_unlock(&mem->lock);
	return target;
}

static void stock_return(struct vm_memory *mem, struct stock *stock, uint32_t keep);

/* What it holds at rest: no more than the guest can still use. What a dead owner did not take back
 * may be more. */
static uint32_t stock_want(struct vm_memory *mem, const struct stock *stock)
{
	uint32_t want, missing;

	pthread_mutex_lock(&mem->lock);
	want = STOCK_RESERVE + stock->batch;
	missing = stock->usable > stock->bound ? stock->usable - stock->bound : 0;
	pthread_mutex_unlock(&mem->lock);
	return want < missing ? want : missing;
}

static void on_idle(void *opaque)
{
	struct vm_memory *mem = opaque;
	struct stocks *stocks = &mem->stocks;
	bool idle;

	pthread_mutex_lock(&mem->lock);
	idle = stocks->idle_faults == mem->stats.faults;
	stocks->idle_faults = mem->stats.faults;
	for (unsigned int i = 0; idle && i < stocks->nr; i++)
		stocks->stock[i].batch = stocks->stock[i].batch_idle;
	pthread_mutex_unlock(&mem->lock);
	for (unsigned int i = 0; idle && i < stocks->nr; i++)
		stock_return(mem, &stocks->stock[i], stock_want(mem, &stocks->stock[i]));
	if (!idle)
		event_timer_arm(stocks->idle, STOCK_IDLE_MS, 0);
}

/* Fills the stock to its mark. Nothing to report if that fails: a touch that finds it empty asks
 * again and says so, and the next frame that is taken wakes the loop again. */
static void refill(struct vm_memory *mem, struct stock *stock)
{
	uint32_t target = adapt_batch(mem, stock);
	bool low, came = false;

	do {
		pthread_mutex_lock(&mem->lock);
		low = stock->refill_due && stock->nr_frames < target;
		stock->refill_due = low;
		pthread_mutex_unlock(&mem->lock);
		low = low && stock_fill(mem, stock, target, STOCK_STEP) > 0;
		came = came || low;
	} while (low);
	pthread_mutex_lock(&mem->lock);
	stock->refill_due = false;
	pthread_mutex_unlock(&mem->lock);
	if (came)
		fault_kick(mem); /* somebody may wait for them */
}

static void on_loop_event(void *opaque, uint32_t events)
{
	struct vm_memory *mem = opaque;
	struct stocks *stocks = &mem->stocks;
	uint64_t count;

	(void)events;
	if (read(stocks->loop_fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
		log_error("stock event: errno %d", errno);
	atomic_store(&mem->loop_tid, gettid());
	pthread_mutex_lock(&mem->lock);
	stocks->loop_asked = false;
	pthread_mutex_unlock(&mem->lock);
	fault_report(mem);
	slots_prune_late(mem);

	for (unsigned int i = 0; i < stocks->nr; i++)
		refill(mem, &stocks->stock[i]);
	event_timer_arm(stocks->idle, STOCK_IDLE_MS, 0);
}

int stock_start(struct vm_memory *mem, struct event_loop *loop, struct error *err)
{
	struct stocks *stocks = &mem->stocks;
	int ret = stock_bind(mem, NULL, 0, err);

	if (ret)
		return ret;
	stock_set_size(mem);
	if (!loop)
		return 0;

	stocks->loop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (stocks->loop_fd < 0)
		return error_set_errno(err, errno, "cannot create an eventfd for the frame stock");
	stocks->idle = event_timer_create(loop, on_idle, mem);
	if (stocks->idle)
		stocks->source = event_loop_add(loop, stocks->loop_fd, EPOLLIN, on_loop_event, mem);
	if (!stocks->source)
		return error_set_errno(err, errno, "cannot watch the frame stock");
	return 0;
}

bool stock_add(struct stock *stock, const struct frame_run *run)
{
	if (stock->nr_runs == STOCK_RUNS_MAX)
		return false;
	stock->runs[stock->nr_runs++] = *run;
	stock->nr_frames += run->nr;
	return true;
}

/* Moves runs from the stock to runs[], so that keep frames are left at least. Returns how many. */
static unsigned int stock_pop(struct vm_memory *mem, struct stock *stock, uint32_t keep,
			      struct frame_run *runs)
{
	unsigned int nr_runs = 0;

	pthread_mutex_lock(&mem->lock);
	while (stock->nr_runs > 0 && stock->nr_frames > keep) {
		struct frame_run *last = &stock->runs[stock->nr_runs - 1];
		uint32_t nr = stock->nr_frames - keep;

		if (nr > last->nr)
			nr = last->nr;
		runs[nr_runs] = *last;
		runs[nr_runs].nr = nr;
		runs[nr_runs++].first += last->nr - nr;
		last->nr -= nr;
		stock->nr_frames -= nr;
		if (last->nr == 0)
			stock->nr_runs--;
	}
	pthread_mutex_unlock(&mem->lock);
	return nr_runs;
}

/* Gives frames back until only that many are left. Lock not held. */
static void stock_return(struct vm_memory *mem, struct stock *stock, uint32_t keep)
{
	struct frame_run runs[STOCK_RUNS_MAX];
	unsigned int nr_runs = stock_pop(mem, stock, keep, runs);
	unsigned int done = 0;

	while (done < nr_runs) {
		unsigned int nr = nr_runs - done < OWNER_RUNS_MAX ? nr_runs - done : OWNER_RUNS_MAX;
		int ret = owner_client_return(mem->client, runs + done, nr);

		if (ret == 0) {
			done += nr;
			continue;
		}
		/* The next owner will ask what became of them. They are as they came: zeroed. */
		pthread_mutex_lock(&mem->lock);
		while (done < nr_runs && stock_add(stock, &runs[done]))
			done++;
		pthread_mutex_unlock(&mem->lock);
		if (ret != -EPIPE)
			log_error("cannot give unused frames back to the pool: errno %d", -ret);
		return;
	}
}

void stock_return_all(struct vm_memory *mem)
{
	for (unsigned int i = 0; i < mem->stocks.nr; i++)
		stock_return(mem, &mem->stocks.stock[i], 0);
}

void stock_destroy(struct vm_memory *mem)
{
	struct stocks *stocks = &mem->stocks;

	event_source_remove(stocks->source);
	event_timer_destroy(stocks->idle);
	if (stocks->loop_fd >= 0)
		close(stocks->loop_fd);
	stock_return_all(mem);
	free(stocks->stock);
	*stocks = (struct stocks){ .loop_fd = -1 };
}

void stock_settle(struct vm_memory *mem)
{
	if (mem->stocks.idle)
		event_timer_arm(mem->stocks.idle, STOCK_IDLE_MS, 0);
}

void vm_memory_drain_stock(struct vm_memory *mem)
{
	stock_return_all(mem);
}

void vm_memory_reclaim_stock(struct vm_memory *mem)
{
	for (unsigned int i = 0; i < mem->stocks.nr; i++)
		stock_return(mem, &mem->stocks.stock[i], STOCK_RESERVE);
}

uint32_t stock_available(const struct stock *stock, bool reserve)
{
	uint32_t wanted = stock->usable > stock->bound ? stock->usable - stock->bound : 0;

	/* What is left in the stock is all that the guest lacks: nothing to keep back. */
	if (reserve || wanted <= stock->nr_frames)
		return stock->nr_frames;
	return stock->nr_frames > STOCK_RESERVE ? stock->nr_frames - STOCK_RESERVE : 0;
}

/* The run that fits max best: the shortest that is long enough, or else the longest. */
static struct frame_run *best_run(struct stock *stock, uint32_t max)
{
	struct frame_run *best = &stock->runs[stock->nr_runs - 1];

	for (unsigned int i = 0; i < stock->nr_runs && best->nr != max; i++) {
		struct frame_run *run = &stock->runs[i];

		if (best->nr < max ? run->nr > best->nr : run->nr >= max && run->nr < best->nr)
			best = run;
	}
	return best;
}

/* A run of the node whose turn it is at a guest frame, or any. */
static struct frame_run *turn_run(struct stock *stock, uint32_t number)
{
	unsigned int node = stock_turn(stock, number);

	for (unsigned int i = 0; i < stock->nr_runs; i++)
		if (stock->runs[i].node == node)
			return &stock->runs[i];
	return &stock->runs[0];
}

uint32_t stock_take(struct vm_memory *mem, uint32_t number, uint32_t max, struct frame_run *run)
{
	struct stock *stock = stock_of(mem, number);
	struct frame_run *best;

	if (stock->nr_runs == 0 || max == 0)
		return 0;
	if (stock->policy == VM_MEMORY_INTERLEAVE) {
		best = turn_run(stock, number);
		max = 1;
	} else {
		best = best_run(stock, max);
	}
	*run = *best;
	if (run->nr > max)
		run->nr = max;
	best->first += run->nr;
	best->nr -= run->nr;
	if (best->nr == 0)
		*best = stock->runs[--stock->nr_runs];
	stock->nr_frames -= run->nr;
	if (stock->nr_frames < low_mark(stock))
		stock->refill_due = true;
	return run->nr;
}

void stock_put(struct stock *stock, const struct frame_run *run)
{
	stock->nr_frames += run->nr;
	for (unsigned int i = 0; i < stock->nr_runs; i++) {
		struct frame_run *old = &stock->runs[i];

		if (old->node == run->node && run->first + run->nr == old->first) {
			old->first = run->first;
			old->nr += run->nr;
			return;
		}
	}
	stock->runs[stock->nr_runs++] = *run;
}

void stock_wake_loop(struct vm_memory *mem)
{
	struct stocks *stocks = &mem->stocks;
	uint64_t one = 1;
	bool wake;

	/* An eventfd and not event_loop_post(): that allocates, and the fault thread must not. And
	 * after the touch was answered: waking a thread costs more than binding a frame. */
	pthread_mutex_lock(&mem->lock);
	wake = mem->events_due != 0 || (mem->prune_due && mem->starved == 0);
	for (unsigned int i = 0; i < stocks->nr; i++)
		wake = wake || stocks->stock[i].refill_due;
	wake = wake && stocks->loop_fd >= 0 && !stocks->loop_asked;
	if (wake)
		stocks->loop_asked = true;
	pthread_mutex_unlock(&mem->lock);
	if (wake && write(stocks->loop_fd, &one, sizeof(one)) < 0 && errno != EAGAIN)
		log_error("cannot wake the loop: errno %d", errno);
}

bool stock_run_valid(const struct vm_memory *mem, const struct frame_run *run)
{
	return run->nr > 0 && run->node < owner_client_nr_nodes(mem->client) &&
	       run->first <= UINT32_MAX && run->nr <= UINT32_MAX - run->first;
}

/* How many frames to ask for: never more than the guest can still use. -EDQUOT: it has them all,
 * and nothing is in the stock. */
static int64_t fill_size(struct vm_memory *mem, const struct stock *stock, uint32_t nr)
{
	int64_t size = 0;
	int64_t missing;
	bool empty;

	pthread_mutex_lock(&mem->lock);
	empty = stock->nr_frames == 0;
	missing = (int64_t)stock->usable - (int64_t)stock->bound - stock->nr_frames;
	/* Somebody else may have refilled it just now. */
	if (stock->nr_frames < nr && stock->nr_runs <= STOCK_REFILL_RUNS)
		size = nr - stock->nr_frames;
	pthread_mutex_unlock(&mem->lock);
	if (size == 0)
		return 0;
	if (missing <= 0)
		return empty ? -EDQUOT : 0;
	return size < missing ? size : missing;
}

static int64_t fill_locked(struct vm_memory *mem, struct stock *stock, uint32_t nr)
{
	struct frame_run runs[STOCK_BATCH_MAX];
	unsigned int nr_runs = STOCK_BATCH_MAX;
	uint32_t valid = 0;
	int64_t got = stock_grant(mem, stock, &nr, runs, &nr_runs);

	pthread_mutex_lock(&mem->lock);
	stock->plenty = got >= nr;
	for (unsigned int i = 0; got > 0 && i < nr_runs; i++) {
		if (!stock_run_valid(mem, &runs[i]))
			log_error("the pool owner granted frames that cannot be (node %u, first "
				  "%llu)",
				  runs[i].node, (unsigned long long)runs[i].first);
		else if (!stock_add(stock, &runs[i]))
			log_error("%u frames are out of use until this VM ends", runs[i].nr);
		else
			valid += runs[i].nr;
	}
	if (valid)
		mem->stocks.owner_gone = false;
	pthread_mutex_unlock(&mem->lock);
	if (got < 0)
		return got;
	return valid > 0 ? (int64_t)valid : -ENOMEM;
}

int64_t stock_fill(struct vm_memory *mem, struct stock *stock, uint32_t nr, uint32_t step)
{
	int64_t ret;

	/* One at a time: two could together ask for more than is missing. */
	pthread_mutex_lock(&mem->refill_lock);
	ret = fill_size(mem, stock, nr);
	if (ret > step)
		ret = step;
	if (ret > 0)
		ret = fill_locked(mem, stock,
				  ret < OWNER_GRANT_MAX ? (uint32_t)ret : OWNER_GRANT_MAX);
	pthread_mutex_unlock(&mem->refill_lock);
	return ret;
}

void stock_keep(struct vm_memory *mem, const struct frame_run *runs, unsigned int nr_runs)
{
	for (unsigned int i = 0; i < nr_runs; i++) {
		struct stock *stock = stock_for_node(mem, runs[i].node);
		bool kept = false;

		/* What comes out of the stock is zeroed; these hold what the guest left in them. */
		if (stock && window_zero(mem, &runs[i]) == 0) {
			pthread_mutex_lock(&mem->lock);
			kept = stock_add(stock, &runs[i]);
			pthread_mutex_unlock(&mem->lock);
		}
		if (!kept)
			log_error("%u frames are out of use until this VM ends", runs[i].nr);
	}
	pthread_mutex_lock(&mem->lock);
	mem->stocks.owner_gone = true;
	pthread_mutex_unlock(&mem->lock);
}
