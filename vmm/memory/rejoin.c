/* SPDX-License-Identifier: MIT */
/*
 * A new pool owner took over: it is told of every frame that this VM has, bound or in stock.
 *
 * While that lasts nothing may be on its way between the two: releases and plugs are kept out by
 * take_lock, requests for frames by refill_lock, threads that move or swap by hand_lock, and what
 * the loop's thread does itself by this being the loop's thread.
 */
#include <errno.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "framevisor/clock.h"
#include "framevisor/log.h"
#include "vmm/memory/internal.h"

/* How long others are waited for at a time. */
#define LOCKS_MS 200

struct runs {
	struct frame_run *run;
	unsigned int nr, room;
};

static int add(struct runs *runs, const struct frame_run *run)
{
	struct frame_run *last = runs->nr ? &runs->run[runs->nr - 1] : NULL;

	if (last && last->node == run->node && last->first + last->nr == run->first) {
		last->nr += run->nr;
		return 0;
	}
	if (runs->nr == runs->room) {
		unsigned int room = runs->room ? 2 * runs->room : 256;
		struct frame_run *more = realloc(runs->run, room * sizeof(*more));

		if (!more)
			return -ENOMEM;
		runs->run = more;
		runs->room = room;
	}
	runs->run[runs->nr++] = *run;
	return 0;
}

/* Lock held. */
static int collect(struct vm_memory *mem, struct runs *runs)
{
	int ret = 0;

	for (uint32_t i = 0; ret == 0 && i < mem->nr_frames; i++) {
		struct frame_run run = frame_run_of(&mem->frames[i]);

		if (frame_bound(&mem->frames[i]) || mem->frames[i].state == FRAME_TAKING)
			ret = add(runs, &run);
	}
	for (unsigned int s = 0; s < mem->stocks.nr; s++) {
		const struct stock *stock = &mem->stocks.stock[s];

		for (unsigned int i = 0; ret == 0 && i < stock->nr_runs; i++)
			ret = add(runs, &stock->runs[i]);
	}
	return ret;
}

/*
 * Whoever has frames in hand or changes what the guest has may wait for a device, or for a vCPU
 * that waits for a frame that is on its way in: not for the loop, then. The waits are by the clock
 * that these functions know, and short; it may be set meanwhile.
 */
static bool keep_others_out(struct vm_memory *mem)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_nsec += LOCKS_MS * (long)NS_PER_MS;
	until.tv_sec += until.tv_nsec / (long)NS_PER_SEC;
	until.tv_nsec %= (long)NS_PER_SEC;
	if (pthread_rwlock_timedwrlock(&mem->hand_lock, &until))
		return false;
	if (pthread_mutex_timedlock(&mem->take_lock, &until) == 0)
		return true;
	pthread_rwlock_unlock(&mem->hand_lock);
	return false;
}

int vm_memory_rejoin(struct vm_memory *mem, int fd, struct error *err)
{
	struct runs runs = { .nr = 0 };
	int ret;

	if (!keep_others_out(mem))
		return -EAGAIN;
	pthread_mutex_lock(&mem->refill_lock);
	pthread_mutex_lock(&mem->lock);
	ret = collect(mem, &runs);
	pthread_mutex_unlock(&mem->lock);
	if (ret == 0) {
		ret = owner_client_rejoin(mem->client, fd, runs.run, runs.nr, err);
	} else {
		close(fd);
		error_set_errno(err, -ret, "cannot tell the pool owner what this VM holds");
	}
	if (ret == 0) {
		pthread_mutex_lock(&mem->lock);
		mem->stocks.owner_gone = false;
		pthread_mutex_unlock(&mem->lock);
	}
	pthread_mutex_unlock(&mem->refill_lock);
	pthread_mutex_unlock(&mem->take_lock);
	pthread_rwlock_unlock(&mem->hand_lock);
	free(runs.run);
	fault_kick(mem);
	stock_wake_loop(mem);
	stock_settle(mem);
	return ret;
}
