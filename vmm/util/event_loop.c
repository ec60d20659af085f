/* SPDX-License-Identifier: MIT */
/* An epoll loop: see framevisor/event_loop.h. */
#include "framevisor/event_loop.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define EVENTS_PER_WAIT 32

/* Sources removed inside a callback are freed only after the batch of events that may still name
 * them. */
struct event_source {
	struct event_loop *loop;
	int fd;
	event_fn fn;
	void *opaque;
	bool removed;
	struct event_source *prev, *next; /* loop->sources, or next alone in loop->dead */
};

struct event_timer {
	struct event_source *source;
	int fd;
	event_post_fn fn;
	void *opaque;
};

struct event_post {
	event_post_fn fn;
	void *opaque;
	struct event_post *next;
};

struct event_loop {
	int epoll_fd;
	int wake_fd;
	struct event_source *sources;
	struct event_source *dead;
	pthread_mutex_t lock; /* over the three below */
	struct event_post *posts;
	struct event_post **posts_tail;
	bool quit;
};

static void wake(struct event_loop *loop)
{
	uint64_t one = 1;

	/* Only EAGAIN is possible, and then the loop has a wake-up waiting anyway. */
	if (write(loop->wake_fd, &one, sizeof(one)) < 0)
		return;
}

static void run_posts(struct event_loop *loop)
{
	struct event_post *post, *next;

	pthread_mutex_lock(&loop->lock);
	post = loop->posts;
	loop->posts = NULL;
	loop->posts_tail = &loop->posts;
	pthread_mutex_unlock(&loop->lock);
	for (; post; post = next) {
		next = post->next;
		post->fn(post->opaque);
		free(post);
	}
}

static void on_wake(void *opaque, uint32_t events)
{
	struct event_loop *loop = opaque;
	uint64_t count;

	(void)events;
	if (read(loop->wake_fd, &count, sizeof(count)) < 0)
		return;
	run_posts(loop);
}

struct event_loop *event_loop_create(void)
{
	struct event_loop *loop = calloc(1, sizeof(*loop));

	if (!loop)
		return NULL;
	pthread_mutex_init(&loop->lock, NULL);
	loop->posts_tail = &loop->posts;
	loop->wake_fd = -1;
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (loop->epoll_fd < 0)
		goto fail;
	loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (loop->wake_fd < 0)
		goto fail;
	if (!event_loop_add(loop, loop->wake_fd, EPOLLIN, on_wake, loop))
		goto fail;
	return loop;
fail:
	event_loop_destroy(loop);
	return NULL;
}

static void free_dead(struct event_loop *loop)
{
	struct event_source *source;

	while ((source = loop->dead)) {
		loop->dead = source->next;
		free(source);
	}
}

void event_loop_destroy(struct event_loop *loop)
{
	int saved = errno;

	if (!loop)
		return;
	while (loop->sources)
		event_source_remove(loop->sources);
	free_dead(loop);
	while (loop->posts) {
		struct event_post *post = loop->posts;

		loop->posts = post->next;
		free(post);
	}
	if (loop->wake_fd >= 0)
		close(loop->wake_fd);
	if (loop->epoll_fd >= 0)
		close(loop->epoll_fd);
	pthread_mutex_destroy(&loop->lock);
	free(loop);
	errno = saved;
}

struct event_source *event_loop_add(struct event_loop *loop, int fd, uint32_t events, event_fn fn,
				    void *opaque)
{
	struct event_source *source = calloc(1, sizeof(*source));
	struct epoll_event event = { .events = events };

	if (!source)
		return NULL;
	source->loop = loop;
	source->fd = fd;
	source->fn = fn;
	source->opaque = opaque;
	event.data.ptr = source;
	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
		free(source);
		return NULL;
	}
	source->next = loop->sources;
	if (source->next)
		source->next->prev = source;
	loop->sources = source;
	return source;
}

int event_source_modify(struct event_source *source, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = source };

	if (epoll_ctl(source->loop->epoll_fd, EPOLL_CTL_MOD, source->fd, &event) < 0)
		return -errno;
	return 0;
}

void event_source_remove(struct event_source *source)
{
	struct event_loop *loop;

	if (!source || source->removed)
		return;
	loop = source->loop;
	epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, source->fd, NULL);
	source->removed = true;
	if (source->prev)
		source->prev->next = source->next;
	else
		loop->sources = source->next;
	if (source->next)
		source->next->prev = source->prev;
	source->prev = NULL;
	source->next = loop->dead;
	loop->dead = source;
}

static void on_timer(void *opaque, uint32_t events)
{
	struct event_timer *timer = opaque;
	uint64_t expirations;

	(void)events;
	/* Disarmed or armed anew since epoll reported it: nothing to read, nothing to do. */
	if (read(timer->fd, &expirations, sizeof(expirations)) < 0)
		return;
	timer->fn(timer->opaque);
}

struct event_timer *event_timer_create(struct event_loop *loop, event_post_fn fn, void *opaque)
{
	struct event_timer *timer = calloc(1, sizeof(*timer));

	if (!timer)
		return NULL;
	timer->fn = fn;
	timer->opaque = opaque;
	timer->fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (timer->fd < 0)
		goto fail;
	timer->source = event_loop_add(loop, timer->fd, EPOLLIN, on_timer, timer);
	if (!timer->source)
		goto fail;
	return timer;
fail:
	if (timer->fd >= 0)
		close(timer->fd);
	free(timer);
	return NULL;
}

static struct timespec ms_to_timespec(uint64_t ms)
{
	return (struct timespec){ .tv_sec = (time_t)(ms / 1000),
				  .tv_nsec = (long)(ms % 1000) * 1000000 };
}

void event_timer_arm(struct event_timer *timer, uint64_t delay_ms, uint64_t period_ms)
{
	struct itimerspec spec = { .it_value = ms_to_timespec(delay_ms ? delay_ms : 1),
				   .it_interval = ms_to_timespec(period_ms) };

	timerfd_settime(timer->fd, 0, &spec, NULL);
}

void event_timer_disarm(struct event_timer *timer)
{
	struct itimerspec spec = { 0 };

	timerfd_settime(timer->fd, 0, &spec, NULL);
}

void event_timer_destroy(struct event_timer *timer)
{
	if (!timer)
		return;
	event_source_remove(timer->source);
	close(timer->fd);
	free(timer);
}

int event_loop_post(struct event_loop *loop, event_post_fn fn, void *opaque)
{
	struct event_post *post = malloc(sizeof(*post));

	if (!post)
		return -ENOMEM;
	*post = (struct event_post){ .fn = fn, .opaque = opaque };
	pthread_mutex_lock(&loop->lock);
	*loop->posts_tail = post;
	loop->posts_tail = &post->next;
	pthread_mutex_unlock(&loop->lock);
	wake(loop);
	return 0;
}

static bool take_quit(struct event_loop *loop)
{
	bool quit;

	pthread_mutex_lock(&loop->lock);
	quit = loop->quit;
	loop->quit = false; /* it may be run again */
	pthread_mutex_unlock(&loop->lock);
	return quit;
}

int event_loop_run(struct event_loop *loop)
{
	struct epoll_event events[EVENTS_PER_WAIT];

	while (!take_quit(loop)) {
		int n = epoll_wait(loop->epoll_fd, events, EVENTS_PER_WAIT, -1);

		if (n < 0 && errno != EINTR)
			return -errno;
		for (int i = 0; i < n; i++) {
			struct event_source *source = events[i].data.ptr;

			if (!source->removed)
				source->fn(source->opaque, events[i].events);
		}
		free_dead(loop);
	}
	return 0;
}

void event_loop_quit(struct event_loop *loop)
{
	pthread_mutex_lock(&loop->lock);
	loop->quit = true;
	pthread_mutex_unlock(&loop->lock);
	wake(loop);
}
