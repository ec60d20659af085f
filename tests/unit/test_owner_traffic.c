/* SPDX-License-Identifier: MIT */
/*
 * What the balancer does with each grant and return: it notices at once that the pool has fallen
 * below its mark, whatever changed, and it costs next to nothing however many nodes there are.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "framevisor/clock.h"
#include "framevisor/mm.h"
#include "tests/unit/skip.h"
#include "vmm/owner/balance.h"
#include "vmm/owner/objects.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED true
#else
#define SANITIZED false
#endif

#define NODE_FRAMES 512
#define VM_ID       1
#define LOOK_MS     20

static struct event_loop *loop;
static struct pool *pool;
static struct server *server;
static struct balance *balance;
static struct event_timer *enough;
static unsigned int begins, ends;
static int listen_fd;

static void on_event(void *opaque, const char *name, json_t *data)
{
	(void)opaque;
	begins += strcmp(name, "RECLAIM_BEGIN") == 0;
	ends += strcmp(name, "RECLAIM_END") == 0;
	json_decref(data);
}

static void on_enough(void *opaque)
{
	event_loop_quit(opaque);
}

static void create(unsigned int nodes)
{
	struct pool_config config = { .sim_nodes = nodes, .sim_frames = NODE_FRAMES };
	struct server_config server_config = { 0 };
	struct balance_config balance_config = { .event = on_event };
	struct error err = { 0 };

	begins = ends = 0;
	assert_int_equal(objects_init(&err), 0);
	loop = event_loop_create();
	enough = event_timer_create(loop, on_enough, loop);
	pool = pool_create(&config, &err);
	assert_non_null(pool);
	listen_fd = eventfd(0, EFD_CLOEXEC); /* nobody comes */
	server_config.loop = balance_config.loop = loop;
	server_config.pool = balance_config.pool = pool;
	server_config.listen_fd = listen_fd;
	server = server_create(&server_config, &err);
	assert_non_null(server);
	balance_config.server = server;
	balance = balance_create(&balance_config, &err);
	assert_non_null(balance);
}

static int setup(void **state)
{
	(void)state;
	create(2);
	return 0;
}

static int setup_large(void **state)
{
	(void)state;
	create(OWNER_NODES_MAX);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	server_destroy(server);
	balance_destroy(balance);
	event_timer_destroy(enough);
	event_loop_destroy(loop);
	close(listen_fd);
	pool_take_back(pool, VM_ID);
	pool_destroy(pool);
	assert_int_equal(objects_exit(), 0);
	return 0;
}

static void look_for(uint64_t ms)
{
	event_timer_arm(enough, ms, 0);
	assert_int_equal(event_loop_run(loop), 0);
}

static void look(void)
{
	look_for(LOOK_MS);
}

static uint64_t unused(void)
{
	struct mm_counts counts;

	mm_counts(pool_mm(pool), -1, &counts);
	return counts.free + counts.cached;
}

/* Memory is promised twice, so that there is something to balance. */
static void promise_twice(void)
{
	struct pool_request request = { .name = "vm", .want = { .ram = 3 * NODE_FRAMES / 2 } };
	uint64_t missing = 0;

	assert_int_equal(pool_setting_set(pool, "overcommit_memory", 0, 1, NULL), 0);
	for (int i = 0; i < 2; i++)
		assert_int_equal(pool_admit(pool, &request, &missing, NULL), 0);
}

static void take(uint64_t nr)
{
	struct pool_want want = { .id = VM_ID, .nr = nr };
	struct frame_run runs[64];
	unsigned int nr_runs = 64;
	uint64_t got = pool_take(pool, &want, runs, &nr_runs);

	assert_int_equal(got, nr);
	balance_traffic(balance, nr, got, 0);
}

/* Not a frame too early, and as soon as it is so. */
static void test_begins_below_low(void **state)
{
	struct pool_marks marks;

	(void)state;
	promise_twice();
	pool_marks(pool, &marks);
	assert_true(marks.low > 8 && marks.low < NODE_FRAMES);
	while (unused() > marks.low + 8)
		take(unused() - marks.low > 72 ? 64 : 1);
	look();
	assert_int_equal(begins, 0);
	while (unused() > marks.low)
		take(1);
	look();
	assert_int_equal(begins, 0);
	take(1);
	look();
	assert_int_equal(begins, 1);
}

/* Frames that come back are counted, too. */
static void test_knows_what_came_back(void **state)
{
	struct pool_marks marks;

	(void)state;
	promise_twice();
	pool_marks(pool, &marks);
	for (int round = 0; round < 20; round++) {
		uint64_t back;

		while (unused() > marks.low + 64)
			take(64);
		back = pool_take_back(pool, VM_ID);
		balance_traffic(balance, 0, 0, back);
	}
	look();
	assert_int_equal(begins, 0);
}

/* The mark moved, no frame did. */
static void test_knows_settings(void **state)
{
	struct pool_marks marks;

	(void)state;
	promise_twice();
	take(64);
	look();
	assert_int_equal(begins, 0);
	assert_int_equal(pool_setting_set(pool, "min_free_kbytes", 0, 262144, NULL), 0);
	assert_int_equal(pool_setting_set(pool, "watermark_scale_factor", 0, 3000, NULL), 0);
	pool_marks(pool, &marks);
	assert_true(marks.low > NODE_FRAMES / 2);
	while (unused() >= marks.low)
		take(16);
	look();
	assert_int_equal(begins, 1);
}

/* Frames that left the pool otherwise. */
static void test_knows_size(void **state)
{
	struct pool_marks marks;

	(void)state;
	promise_twice();
	assert_int_equal(pool_setting_set(pool, "overcommit_memory", 0, 1, NULL), 0);
	pool_marks(pool, &marks);
	take(64);
	/* Promises would forbid it: the allocator is asked directly, at rest as always. */
	pool_quiesce(pool);
	for (uint64_t i = 0; i < NODE_FRAMES; i++)
		(void)mm_soft_offline_page(pool_mm(pool), mm_page(pool_mm(pool), 1, i));
	for (uint64_t i = 0; unused() > marks.low + 1; i++)
		(void)mm_soft_offline_page(pool_mm(pool), mm_page(pool_mm(pool), 0, i));
	pool_resume(pool);
	look();
	assert_int_equal(begins, 0);
	take(1);
	take(1);
	look();
	assert_int_equal(begins, 1);
}

/* As soon as what is promised fits nobody has to give anything any more, however little is free. */
static void test_ends_when_it_fits(void **state)
{
	const struct pool_promise half = { .ram = 3 * NODE_FRAMES / 2 };
	struct pool_marks marks;

	(void)state;
	promise_twice();
	pool_marks(pool, &marks);
	while (unused() >= marks.low)
		take(1);
	look();
	assert_int_equal(begins, 1);
	look_for(300);
	assert_int_equal(ends, 0);
	pool_release(pool, &half);
	look_for(300);
	assert_int_equal(ends, 1);
	assert_true(unused() < marks.low);
	look_for(300);
	assert_int_equal(begins, 1);
}

/* Promised are as many frames as there are. Then one goes into quarantine: it is nobody's. */
static void test_quarantine_is_no_memory(void **state)
{
	struct pool_request request = { .name = "vm" };
	struct pool_marks marks;
	struct pool_info info;
	uint64_t missing = 0;

	(void)state;
	assert_int_equal(pool_setting_set(pool, "overcommit_memory", 0, 1, NULL), 0);
	pool_info(pool, &info);
	request.want.ram = 2 * NODE_FRAMES - info.reserve;
	assert_int_equal(pool_admit(pool, &request, &missing, NULL), 0);
	pool_marks(pool, &marks);
	while (unused() >= marks.low)
		take(1);
	look();
	assert_int_equal(begins, 0);
	pool_quiesce(pool);
	for (uint64_t i = NODE_FRAMES; i && unused() + 1 >= marks.low; i--)
		(void)mm_soft_offline_page(pool_mm(pool), mm_page(pool_mm(pool), 0, i - 1));
	pool_resume(pool);
	take(1);
	look();
	assert_int_equal(begins, 1);
}

static void test_cost(void **state)
{
	const uint64_t nr = 100000;
	uint64_t start, counting, traffic, sum = 0;

	(void)state;
	if (SANITIZED)
		skip_because("a sanitizer's own work is in the times");
	promise_twice();
	start = now_ns();
	for (uint64_t i = 0; i < nr / 10; i++)
		sum += unused();
	counting = (now_ns() - start) * 10;
	assert_true(sum > 0);
	start = now_ns();
	for (uint64_t i = 0; i < nr; i++)
		balance_traffic(balance, 1, 1, 0);
	traffic = now_ns() - start;
	print_message("%d nodes: %llu ns for a grant, %llu to count their frames\n",
		      OWNER_NODES_MAX, (unsigned long long)(traffic / nr),
		      (unsigned long long)(counting / nr));
	assert_true(traffic < counting / 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_begins_below_low, setup, teardown),
		cmocka_unit_test_setup_teardown(test_knows_what_came_back, setup, teardown),
		cmocka_unit_test_setup_teardown(test_knows_settings, setup, teardown),
		cmocka_unit_test_setup_teardown(test_knows_size, setup, teardown),
		cmocka_unit_test_setup_teardown(test_ends_when_it_fits, setup, teardown),
		cmocka_unit_test_setup_teardown(test_quarantine_is_no_memory, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cost, setup_large, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
