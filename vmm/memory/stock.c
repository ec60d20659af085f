/* SPDX-License-Identifier: MIT */
/*
 * The stock: zeroed frames that the pool owner granted ahead of need, so that a first touch does
 * not wait for another process. It is refilled in batches by the loop's thread when it runs low,
 * and by the fault thread itself when it is empty.
 */
#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "framevisor/log.h"
#include "vmm/memory/internal.h"

/* A 32nd of the RAM: a 512 MiB guest is never more than 16 MiB ahead, a large one asks rarely. */
#define STOCK_RAM_SHARE 32
#define STOCK_BATCH_MIN 4

static void refill_event(void *opaque, uint32_t events)
{
	struct vm_memory *mem = opaque;
	uint64_t count;

	(void)events;
	if (read(mem->stock.refill_fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
		log_error("stock refill event: errno %d", errno);
	/* Nothing to report: a fault that finds the stock empty asks again and says so. */
	stock_refill(mem, 0);
	pthread_mutex_lock(&mem->lock);
	mem->stock.refill_asked = false;
	pthread_mutex_unlock(&mem->lock);
}

int stock_create(struct vm_memory *mem, struct event_loop *loop, struct error *err)
{
	struct stock *stock = &mem->stock;

	stock->batch = mem->nr_frames / STOCK_RAM_SHARE;
	if (stock->batch < STOCK_BATCH_MIN)
		stock->batch = STOCK_BATCH_MIN;
	if (stock->batch > STOCK_BATCH_MAX)
		stock->batch = STOCK_BATCH_MAX;
	stock->low = stock->batch / 2;
	if (!loop)
		return 0;

	stock->refill_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (stock->refill_fd < 0)
		return error_set_errno(err, errno, "cannot create an eventfd for the frame stock");
	stock->source = event_loop_add(loop, stock->refill_fd, EPOLLIN, refill_event, mem);
	if (!stock->source)
		return error_set_errno(err, errno, "cannot watch the frame stock");
	return 0;
}

/* Empties the stock into the caller's hands and gives it back to the owner. */
static void stock_return(struct vm_memory *mem)
{
	struct frame_run runs[STOCK_RUNS_MAX];
	unsigned int nr_runs;
	int ret;

	pthread_mutex_lock(&mem->lock);
	nr_runs = mem->stock.nr_runs;
	for (unsigned int i = 0; i < nr_runs; i++)
		runs[i] = mem->stock.runs[i];
	mem->stock.nr_runs = 0;
	mem->stock.nr_frames = 0;
	pthread_mutex_unlock(&mem->lock);

	if (nr_runs == 0)
		return;
	ret = owner_client_return(mem->client, runs, nr_runs);
	if (ret && ret != -EPIPE)
		log_error("cannot give unused frames back to the pool: errno %d", -ret);
}

void stock_destroy(struct vm_memory *mem)
{
	event_source_remove(mem->stock.source);
	mem->stock.source = NULL;
	if (mem->stock.refill_fd >= 0)
		close(mem->stock.refill_fd);
	mem->stock.refill_fd = -1;
	stock_return(mem);
}

void vm_memory_drain_stock(struct vm_memory *mem)
{
	stock_return(mem);
}

uint32_t stock_take(struct vm_memory *mem, uint32_t max, struct frame_run *run)
{
	struct stock *stock = &mem->stock;
	struct frame_run *top;

	if (stock->nr_runs == 0)
		return 0;
	top = &stock->runs[stock->nr_runs - 1];
	*run = *top;
	if (run->nr > max)
		run->nr = max;
	top->first += run->nr;
	top->nr -= run->nr;
	if (top->nr == 0)
		stock->nr_runs--;
	stock->nr_frames -= run->nr;

	/* An eventfd and not event_loop_post(): that allocates, and the fault thread must not. */
	if (stock->nr_frames < stock->low && stock->refill_fd >= 0 && !stock->refill_asked) {
		uint64_t one = 1;

		stock->refill_asked = write(stock->refill_fd, &one, sizeof(one)) == sizeof(one);
	}
	return run->nr;
}

void stock_put(struct vm_memory *mem, const struct frame_run *run)
{
	struct stock *stock = &mem->stock;
	struct frame_run *top = stock->nr_runs ? &stock->runs[stock->nr_runs - 1] : NULL;

	stock->nr_frames += run->nr;
	if (top && top->node == run->node && run->first + run->nr == top->first) {
		top->first -= run->nr;
		top->nr += run->nr;
		return;
	}
	/* There is room: the run was taken off under the same hold of the lock. */
	stock->runs[stock->nr_runs++] = *run;
}

/* Checks what the owner sent before it becomes a file offset. */
static bool run_valid(const struct vm_memory *mem, const struct frame_run *run)
{
	return run->nr > 0 && run->node < owner_client_nr_nodes(mem->client) &&
	       run->first <= UINT32_MAX && run->nr <= UINT32_MAX - run->first;
}

/* How many frames to ask for: nr (0: a batch), but never more than the guest can still use. */
static uint32_t refill_size(struct vm_memory *mem, uint32_t nr)
{
	const struct stock *stock = &mem->stock;
	uint64_t missing;

	pthread_mutex_lock(&mem->lock);
	missing = mem->nr_frames - mem->stats.bound;
	missing -= missing < stock->nr_frames ? missing : stock->nr_frames;
	if (nr == 0) /* somebody else may have refilled it just now */
		nr = stock->nr_frames < stock->low ? stock->batch : 0;
	if (stock->nr_runs > STOCK_RUNS_MAX - STOCK_BATCH_MAX)
		nr = 0;
	pthread_mutex_unlock(&mem->lock);
	if (nr > missing)
		nr = (uint32_t)missing;
	return nr < OWNER_GRANT_MAX ? nr : OWNER_GRANT_MAX;
}

static int refill_locked(struct vm_memory *mem, uint32_t nr)
{
	struct stock *stock = &mem->stock;
	struct frame_run runs[STOCK_BATCH_MAX];
	unsigned int nr_runs = STOCK_BATCH_MAX;
	unsigned int valid = 0;
	int64_t got;

	got = owner_client_grant(mem->client, nr, 0, runs, &nr_runs);
	if (got < 0)
		return (int)got;

	pthread_mutex_lock(&mem->lock);
	for (unsigned int i = 0; i < nr_runs; i++) {
		if (run_valid(mem, &runs[i])) {
			stock->runs[stock->nr_runs++] = runs[i];
			stock->nr_frames += runs[i].nr;
			valid++;
		} else {
			log_error("the pool owner granted frames that cannot be (node %u, first "
				  "%llu)",
				  runs[i].node, (unsigned long long)runs[i].first);
		}
	}
	pthread_mutex_unlock(&mem->lock);
	return valid > 0 ? 0 : -ENOMEM;
}

int stock_refill(struct vm_memory *mem, uint32_t nr)
{
	int ret = 0;

	/* One at a time: two could together ask for more than is missing. */
	pthread_mutex_lock(&mem->refill_lock);
	nr = refill_size(mem, nr);
	if (nr > 0)
		ret = refill_locked(mem, nr);
	pthread_mutex_unlock(&mem->refill_lock);
	return ret;
}
