/* SPDX-License-Identifier: MIT */
/* The event loop: sources that remove themselves and each other, timers, posts of other threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "framevisor/clock.h"
#include "framevisor/event_loop.h"

/* --- sources --- */

struct peer {
	struct event_loop *loop;
	struct event_source *self, *other;
	unsigned int calls;
};

/* Removes both sources, whichever is called first: the other must not be called. */
static void remove_both(void *opaque, uint32_t events)
{
	struct peer *peer = opaque;

	assert_true(events & EPOLLIN);
	peer->calls++;
	event_source_remove(peer->self);
	event_source_remove(peer->other);
	event_loop_quit(peer->loop);
}

static void removed_source_is_not_called(void **state)
{
	struct event_loop *loop = event_loop_create();
	struct peer peer = { .loop = loop };
	int a[2], b[2];

	(void)state;
	assert_int_equal(pipe(a), 0);
	assert_int_equal(pipe(b), 0);
	assert_int_equal(write(a[1], "x", 1), 1);
	assert_int_equal(write(b[1], "x", 1), 1);
	peer.self = event_loop_add(loop, a[0], EPOLLIN, remove_both, &peer);
	peer.other = event_loop_add(loop, b[0], EPOLLIN, remove_both, &peer);
	assert_int_equal(event_loop_run(loop), 0);
	assert_int_equal(peer.calls, 1);
	event_loop_destroy(loop);
	for (int i = 0; i < 2; i++) {
		close(a[i]);
		close(b[i]);
	}
}

static void remove_of_null_is_ignored(void **state)
{
	(void)state;
	event_source_remove(NULL);
	event_timer_destroy(NULL);
	event_loop_destroy(NULL);
}

static void on_hang_up(void *opaque, uint32_t events)
{
	struct peer *peer = opaque;

	assert_true(events & EPOLLHUP);
	peer->calls++;
	event_loop_quit(peer->loop);
}

/* Watched for nothing, a hang-up still arrives. */
static void hang_up_is_always_told(void **state)
{
	struct event_loop *loop = event_loop_create();
	struct peer peer = { .loop = loop };
	int fds[2];

	(void)state;
	assert_int_equal(pipe(fds), 0);
	peer.self = event_loop_add(loop, fds[0], EPOLLIN, on_hang_up, &peer);
	assert_int_equal(event_source_modify(peer.self, 0), 0);
	close(fds[1]);
	assert_int_equal(event_loop_run(loop), 0);
	assert_int_equal(peer.calls, 1);
	event_loop_destroy(loop);
	close(fds[0]);
}

/* --- timers --- */

struct ticker {
	struct event_loop *loop;
	struct event_timer *timer;
	unsigned int ticks, until;
};

static void tick(void *opaque)
{
	struct ticker *ticker = opaque;

	if (++ticker->ticks == ticker->until)
		event_loop_quit(ticker->loop);
}

static void timer_fires_periodically(void **state)
{
	struct ticker ticker = { .loop = event_loop_create(), .until = 3 };
	uint64_t begin = now_ms();

	(void)state;
	ticker.timer = event_timer_create(ticker.loop, tick, &ticker);
	event_timer_arm(ticker.timer, 20, 10);
	assert_int_equal(event_loop_run(ticker.loop), 0);
	assert_int_equal(ticker.ticks, 3);
	assert_true(now_ms() - begin >= 39);
	event_timer_destroy(ticker.timer);
	event_loop_destroy(ticker.loop);
}

static void timer_of_zero_fires(void **state)
{
	struct ticker ticker = { .loop = event_loop_create(), .until = 1 };

	(void)state;
	ticker.timer = event_timer_create(ticker.loop, tick, &ticker);
	event_timer_arm(ticker.timer, 0, 0);
	assert_int_equal(event_loop_run(ticker.loop), 0);
	assert_int_equal(ticker.ticks, 1);
	event_timer_destroy(ticker.timer);
	event_loop_destroy(ticker.loop);
}

static void quit_loop(void *opaque)
{
	event_loop_quit(opaque);
}

static void disarmed_timer_is_silent(void **state)
{
	struct ticker ticker = { .loop = event_loop_create(), .until = 99 };
	struct event_timer *end = event_timer_create(ticker.loop, quit_loop, ticker.loop);

	(void)state;
	ticker.timer = event_timer_create(ticker.loop, tick, &ticker);
	event_timer_arm(ticker.timer, 1, 1);
	event_timer_disarm(ticker.timer);
	event_timer_arm(end, 30, 0);
	assert_int_equal(event_loop_run(ticker.loop), 0);
	assert_int_equal(ticker.ticks, 0);
	event_timer_destroy(ticker.timer);
	event_timer_destroy(end);
	event_loop_destroy(ticker.loop);
}

static void destroy_own_timer(void *opaque)
{
	struct ticker *ticker = opaque;

	ticker->ticks++;
	event_timer_destroy(ticker->timer);
	ticker->timer = NULL;
	event_loop_quit(ticker->loop);
}

static void timer_may_destroy_itself(void **state)
{
	struct ticker ticker = { .loop = event_loop_create() };

	(void)state;
	ticker.timer = event_timer_create(ticker.loop, destroy_own_timer, &ticker);
	event_timer_arm(ticker.timer, 1, 1);
	assert_int_equal(event_loop_run(ticker.loop), 0);
	assert_int_equal(ticker.ticks, 1);
	event_loop_destroy(ticker.loop);
}

/* --- posts --- */

#define POSTS   1000
#define POSTERS 4

struct posting {
	struct event_loop *loop;
	unsigned int next[POSTERS]; /* loop's thread only */
	unsigned int total;
};

struct one_post {
	struct posting *posting;
	unsigned int poster, number;
};

static void on_post(void *opaque)
{
	struct one_post *post = opaque;
	struct posting *posting = post->posting;

	assert_int_equal(post->number, posting->next[post->poster]++);
	if (++posting->total == POSTS * POSTERS)
		event_loop_quit(posting->loop);
	free(post);
}

struct poster {
	struct posting *posting;
	unsigned int number;
};

static void *post_many(void *opaque)
{
	struct poster *poster = opaque;

	for (unsigned int i = 0; i < POSTS; i++) {
		struct one_post *post = malloc(sizeof(*post));

		*post = (struct one_post){ poster->posting, poster->number, i };
		if (event_loop_post(poster->posting->loop, on_post, post) < 0)
			abort();
	}
	return NULL;
}

/* Nothing is lost, and each thread's posts arrive in its order. */
static void posts_of_threads_arrive_in_order(void **state)
{
	struct posting posting = { .loop = event_loop_create() };
	struct poster posters[POSTERS];
	pthread_t threads[POSTERS];

	(void)state;
	for (unsigned int i = 0; i < POSTERS; i++) {
		posters[i] = (struct poster){ &posting, i };
		assert_int_equal(pthread_create(&threads[i], NULL, post_many, &posters[i]), 0);
	}
	assert_int_equal(event_loop_run(posting.loop), 0);
	for (unsigned int i = 0; i < POSTERS; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(posting.total, POSTS * POSTERS);
	event_loop_destroy(posting.loop);
}

static void never(void *opaque)
{
	(void)opaque;
	fail_msg("called after the loop was told to quit");
}

/* What was posted and never ran is freed with the loop. */
static void unrun_posts_are_freed(void **state)
{
	struct event_loop *loop = event_loop_create();

	(void)state;
	assert_int_equal(event_loop_post(loop, never, NULL), 0);
	event_loop_quit(loop);
	assert_int_equal(event_loop_run(loop), 0);
	event_loop_destroy(loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(removed_source_is_not_called),
		cmocka_unit_test(remove_of_null_is_ignored),
		cmocka_unit_test(hang_up_is_always_told),
		cmocka_unit_test(timer_fires_periodically),
		cmocka_unit_test(timer_of_zero_fires),
		cmocka_unit_test(disarmed_timer_is_silent),
		cmocka_unit_test(timer_may_destroy_itself),
		cmocka_unit_test(posts_of_threads_arrive_in_order),
		cmocka_unit_test(unrun_posts_are_freed),
	};

	alarm(60); /* a loop that never quits is a failure, not a hang */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
