/* SPDX-License-Identifier: MIT */
/* Moving frames in a thread of its own, for somebody who looks on from the loop's thread. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "vmm/memory/internal.h"
#include "vmm/memory/move.h"

struct move_job {
	struct vm_memory *mem;
	struct vm_memory_move move;
	pthread_t thread;
	bool joinable;
	atomic_bool cancel;
	pthread_mutex_t lock;
	struct vm_memory_move_status status;
};

static bool on_progress(void *opaque, uint64_t done, uint64_t total)
{
	struct move_job *job = opaque;

	pthread_mutex_lock(&job->lock);
	job->status.done = done;
	job->status.total = total;
	pthread_mutex_unlock(&job->lock);
	return !atomic_load(&job->cancel);
}

static void *job_thread(void *opaque)
{
	struct move_job *job = opaque;
	struct mover m = { .mem = job->mem, .move = &job->move };
	struct error err = { 0 };
	int ret;

	pthread_setname_np(pthread_self(), "move");
	ret = mover_run(&m);
	if (ret)
		mover_error(&m, ret, &err);
	pthread_mutex_lock(&job->lock);
	job->status.running = false;
	job->status.done = m.done;
	job->status.total = m.total;
	job->status.moved = m.moved;
	job->status.error = ret;
	snprintf(job->status.message, sizeof(job->status.message), "%.*s",
		 (int)sizeof(job->status.message) - 1, err.message);
	pthread_mutex_unlock(&job->lock);
	return NULL;
}

static struct move_job *job_of(struct vm_memory *mem)
{
	struct move_job *job = mem->move_job;

	if (!job) {
		job = calloc(1, sizeof(*job));
		if (!job)
			return NULL;
		job->mem = mem;
		pthread_mutex_init(&job->lock, NULL);
		mem->move_job = job;
	}
	return job;
}

int vm_memory_move_start(struct vm_memory *mem, const struct vm_memory_move *move,
			 struct error *err)
{
	struct move_job *job = job_of(mem);
	struct vm_memory_move_status status;
	int ret;

	if (!job)
		return error_set(err, ENOMEM, "no memory to move frames");
	vm_memory_move_status(mem, &status);
	if (status.running)
		return error_set(err, EBUSY, "frames of this VM are being moved already");
	if (job->joinable)
		pthread_join(job->thread, NULL);
	job->joinable = false;
	job->move = (struct vm_memory_move){ .gpa = move->gpa,
					     .nr_frames = move->nr_frames,
					     .of_node = move->of_node,
					     .node = move->node,
					     .nodemask = move->nodemask,
					     .progress = on_progress,
					     .opaque = job };
	atomic_store(&job->cancel, false);
	job->status = (struct vm_memory_move_status){ .running = true };
	ret = background_thread(&job->thread, job_thread, job);
	if (ret) {
		job->status.running = false;
		return error_set_errno(err, ret, "cannot create the thread that moves frames");
	}
	job->joinable = true;
	return 0;
}

void vm_memory_move_cancel(struct vm_memory *mem)
{
	if (mem->move_job)
		atomic_store(&mem->move_job->cancel, true);
}

void vm_memory_move_status(struct vm_memory *mem, struct vm_memory_move_status *status)
{
	struct move_job *job = mem->move_job;

	*status = (struct vm_memory_move_status){ .running = false };
	if (!job)
		return;
	pthread_mutex_lock(&job->lock);
	*status = job->status;
	pthread_mutex_unlock(&job->lock);
}

void move_job_destroy(struct vm_memory *mem)
{
	struct move_job *job = mem->move_job;

	if (!job)
		return;
	atomic_store(&job->cancel, true);
	if (job->joinable)
		pthread_join(job->thread, NULL);
	pthread_mutex_destroy(&job->lock);
	free(job);
	mem->move_job = NULL;
}
