/* SPDX-License-Identifier: MIT */
/*
 * All frames up front: while one thread binds, another waits for the pool owner, who may have to
 * zero what it grants.
 */
#include <errno.h>
#include <sched.h>
#include <time.h>

#include "framevisor/clock.h"
#include "vmm/memory/internal.h"

/* Fewer leave the owner or the kernel idle; more only wait for the locks of this process. */
#define PREALLOC_THREADS 2
/* Frames that a thread asks for and binds at a time: a tenth of a second when all are to be zeroed.
 */
#define PREALLOC_CHUNK 64
#define PROGRESS_MS    50

struct prealloc {
	struct vm_memory *mem;
	atomic_uint next;   /* frame at which the next chunk begins */
	atomic_int error;   /* the first negative errno */
	atomic_uint active; /* threads at work */
	pthread_mutex_t lock;
	pthread_cond_t ended;
};

static void *prealloc_thread(void *opaque)
{
	struct prealloc *p = opaque;
	uint32_t first;
	int ret = 0;

	while (ret == 0 && atomic_load(&p->error) == 0) {
		uint32_t nr = PREALLOC_CHUNK;

		first = atomic_fetch_add(&p->next, nr);
		if (first >= p->mem->nr_frames)
			break;
		if (nr > p->mem->nr_frames - first)
			nr = p->mem->nr_frames - first;
		ret = takeaway_back(p->mem, first, nr);
	}
	if (ret) {
		int none = 0;

		atomic_compare_exchange_strong(&p->error, &none, ret);
	}
	pthread_mutex_lock(&p->lock);
	atomic_fetch_sub(&p->active, 1);
	pthread_cond_signal(&p->ended);
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

static void count(struct vm_memory *mem, uint64_t *done, uint64_t *total)
{
	pthread_mutex_lock(&mem->lock);
	*done = mem->stats.bound;
	*total = mem->usable;
	pthread_mutex_unlock(&mem->lock);
}

/* Waits until all threads have ended, telling how far they are. */
static void watch(struct prealloc *p, vm_memory_progress_fn progress, void *opaque)
{
	uint64_t done, total;

	pthread_mutex_lock(&p->lock);
	while (atomic_load(&p->active) > 0) {
		const struct timespec until = deadline_after(PROGRESS_MS * NS_PER_MS);
		int none = 0;

		pthread_cond_clockwait(&p->ended, &p->lock, CLOCK_MONOTONIC, &until);
		pthread_mutex_unlock(&p->lock);
		count(p->mem, &done, &total);
		if (progress && !progress(opaque, done, total))
			atomic_compare_exchange_strong(&p->error, &none, -ECANCELED);
		pthread_mutex_lock(&p->lock);
	}
	pthread_mutex_unlock(&p->lock);
}

static int run(struct prealloc *p, vm_memory_progress_fn progress, void *opaque)
{
	pthread_t threads[PREALLOC_THREADS];
	unsigned int nr = 0;
	int ret = 0;

	while (nr < PREALLOC_THREADS && ret == 0) {
		atomic_fetch_add(&p->active, 1);
		ret = background_thread(&threads[nr], prealloc_thread, p);
		if (ret)
			atomic_fetch_sub(&p->active, 1);
		else
			nr++;
	}
	if (nr == 0)
		return -ret;
	watch(p, progress, opaque);
	while (nr > 0)
		pthread_join(threads[--nr], NULL);
	return atomic_load(&p->error);
}

int vm_memory_prealloc(struct vm_memory *mem, vm_memory_progress_fn progress, void *opaque,
		       struct error *err)
{
	struct prealloc p = {
		.mem = mem,
		.lock = PTHREAD_MUTEX_INITIALIZER,
		.ended = PTHREAD_COND_INITIALIZER,
	};
	uint64_t done, total;
	int ret;

	/* Told once before and once after: in between the threads may be quicker than the clock. */
	count(mem, &done, &total);
	take_lock(mem);
	if (progress && !progress(opaque, done, total))
		ret = -ECANCELED;
	else
		ret = run(&p, progress, opaque);
	take_unlock(mem);
	count(mem, &done, &total);
	if (ret == 0 && progress)
		progress(opaque, done, total);
	if (ret == -ECANCELED)
		return error_set(err, ECANCELED, "filling the guest's memory was interrupted");
	if (ret == -ENOMEM)
		return error_set(err, ENOMEM,
				 "the pool has only %llu of the guest's %llu frames (%s) now; "
				 "make it larger or stop another VM",
				 (unsigned long long)done, (unsigned long long)total,
				 frame_size_name());
	if (ret)
		return error_set_errno(err, -ret, "cannot fill the guest's memory");
	return 0;
}
