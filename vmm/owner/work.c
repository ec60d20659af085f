/* SPDX-License-Identifier: MIT */
/* One piece of long work after the other: see work.h. */
#include "vmm/owner/work.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#define POST_RETRY_US 10000

struct piece {
	struct work work;
	struct piece *next;
	int result;
};

/* The next ones are asked for while one ends. */
struct object_cache piece_cache = OBJECT_CACHE(piece, 4);

struct work_queue {
	struct event_loop *loop;
	struct piece *first; /* the one that runs, if running */
	bool running;        /* its thread */
	bool beginning;      /* it has said WORK_LATER */
	bool turn_posted;
	pthread_t thread;
};

struct work_queue *work_queue_create(struct event_loop *loop)
{
	struct work_queue *queue = calloc(1, sizeof(*queue));

	if (queue)
		queue->loop = loop;
	return queue;
}

static void on_turn(void *opaque);

static int post_turn(struct work_queue *queue)
{
	if (queue->turn_posted)
		return 0;
	if (event_loop_post(queue->loop, on_turn, queue) < 0)
		return -ENOMEM;
	queue->turn_posted = true;
	return 0;
}

/* Takes the first piece off and ends it; end() may submit the next. */
static void end_first(struct work_queue *queue, int result)
{
	struct piece *piece = queue->first;
	struct work work = piece->work;

	queue->first = piece->next;
	object_free(&piece_cache, piece);
	work.end(work.opaque, result);
}

static void on_done(void *opaque)
{
	struct work_queue *queue = opaque;

	pthread_join(queue->thread, NULL);
	queue->running = false;
	end_first(queue, queue->first->result);
	on_turn(queue);
}

static void *work_thread(void *opaque)
{
	struct work_queue *queue = opaque;
	struct piece *piece = queue->first;

	piece->result = piece->work.run(piece->work.opaque);
	while (event_loop_post(queue->loop, on_done, queue) < 0)
		usleep(POST_RETRY_US);
	return NULL;
}

/* The first piece has begun, with that result. */
static void go_on(struct work_queue *queue, int result)
{
	if (result == 0 && queue->first->work.run) {
		queue->running = !pthread_create(&queue->thread, NULL, work_thread, queue);
		if (queue->running)
			return;
		result = -ENOMEM;
	}
	end_first(queue, result);
}

/* Starts the first piece that can be. */
static void on_turn(void *opaque)
{
	struct work_queue *queue = opaque;

	queue->turn_posted = false;
	while (queue->first && !queue->running && !queue->beginning) {
		const struct work *work = &queue->first->work;
		int ret = work->begin ? work->begin(work->opaque) : 0;

		queue->beginning = ret == WORK_LATER;
		if (!queue->beginning)
			go_on(queue, ret);
	}
}

void work_begun(struct work_queue *queue, int result)
{
	queue->beginning = false;
	go_on(queue, result);
	on_turn(queue);
}

int work_submit(struct work_queue *queue, const struct work *work)
{
	struct piece *piece = object_zalloc(&piece_cache);
	struct piece **tail = &queue->first;

	if (!piece || post_turn(queue) < 0) {
		object_free(&piece_cache, piece);
		return -ENOMEM;
	}
	piece->work = *work;
	while (*tail)
		tail = &(*tail)->next;
	*tail = piece;
	return 0;
}

bool work_waiting(const struct work_queue *queue)
{
	return queue->first && queue->first->next;
}

void work_queue_destroy(struct work_queue *queue)
{
	if (!queue)
		return;
	if (queue->running) {
		pthread_join(queue->thread, NULL);
		end_first(queue, queue->first->result);
	}
	queue->beginning = false;
	while (queue->first)
		end_first(queue, -ECANCELED);
	free(queue);
}
