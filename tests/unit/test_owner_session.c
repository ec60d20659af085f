/* SPDX-License-Identifier: MIT */
/*
 * Conversations with the pool owner over a pool of pure metadata (two nodes of 256 frames): what is
 * granted, promised, refused, taken back. The pool checks itself after each step.
 */
#include "session_pool.h"

static uint64_t free_frames(void)
{
	struct mm_counts counts;

	pool_counts(pool, -1, &counts, NULL);
	return counts.free + counts.cached;
}

static enum session_result give(struct session *session, const struct frame_run *runs,
				unsigned int nr_runs)
{
	union owner_packet packet = { .runs = { .header = { .type = OWNER_RETURN } } };

	packet.header.length = packet_runs_length(nr_runs);
	packet.runs.nr_runs = nr_runs;
	for (unsigned int i = 0; i < nr_runs; i++) {
		packet.runs.runs[i] = runs[i];
		packet.runs.nr_frames += runs[i].nr;
	}
	return handle(session, &packet);
}

static void test_welcome(void **state)
{
	struct session session;

	(void)state;
	hello(&session, 7, 100);
	assert_int_equal(reply.packet.header.status, 0);
	assert_int_equal(reply.packet.welcome.client_id, 7);
	assert_int_equal(reply.packet.welcome.nr_nodes, 2);
	assert_int_equal(reply.packet.welcome.spanned[1], NODE_FRAMES);
	assert_int_equal(reply.nr_fds, 2);
	assert_int_equal(session_release(&session), 0);
}

static void test_grant_and_return(void **state)
{
	uint64_t before = free_frames();
	struct frame_run runs[OWNER_RUNS_MAX];
	struct session session;
	unsigned int nr_runs;

	(void)state;
	hello(&session, 1, 100);
	grant(&session, 64, 0);
	assert_int_equal(reply.packet.header.status, 0);
	assert_int_equal(reply.packet.runs.nr_frames, 64);
	/* An empty pool is one block per node: what comes out of it is one run. */
	nr_runs = reply.packet.runs.nr_runs;
	assert_int_equal(nr_runs, 1);
	memcpy(runs, reply.packet.runs.runs, nr_runs * sizeof(runs[0]));
	assert_int_equal(session.held, 64);
	assert_int_equal(pool_held(pool, 1), 64);
	assert_int_equal(free_frames(), before - 64);
	assert_int_equal(give(&session, runs, nr_runs), SESSION_REPLY);
	assert_int_equal(reply.packet.header.status, 0);
	assert_int_equal(reply.packet.returned.nr_frames, 64);
	assert_int_equal(session.held, 0);
	assert_int_equal(free_frames(), before);
	session_release(&session);
}

/* Frames to move to may go beyond that, so far, and nothing else may then. */
static void test_frames_to_move_to(void **state)
{
	struct session session;
	uint32_t more;

	(void)state;
	hello(&session, 1, 20);
	grant(&session, 20, 0);
	assert_int_equal(reply.packet.runs.nr_frames, 20);
	try_grant(&session, 10, 0, OWNER_GRANT_TO_MOVE);
	assert_int_equal(reply.packet.runs.nr_frames, 10);
	grant(&session, 5, 0);
	assert_int_equal(reply.packet.header.status, -ENOMEM);
	more = OWNER_MOVE_FRAMES + 5;
	try_grant(&session, more, 0, OWNER_GRANT_TO_MOVE);
	assert_int_equal(reply.packet.runs.nr_frames, OWNER_MOVE_FRAMES - 10);
	try_grant(&session, 1, 0, OWNER_GRANT_TO_MOVE);
	assert_int_equal(reply.packet.header.status, -ENOMEM);
	assert_int_equal(session_release(&session), 20 + OWNER_MOVE_FRAMES);
}

static void test_no_more_than_its_ram(void **state)
{
	struct session session;

	(void)state;
	hello(&session, 1, 20);
	grant(&session, 15, 0);
	assert_int_equal(reply.packet.runs.nr_frames, 15);
	grant(&session, 15, 0);
	assert_int_equal(reply.packet.runs.nr_frames, 5);
	grant(&session, 1, 0);
	assert_int_equal(reply.packet.header.status, -ENOMEM);
	assert_int_equal(reply.packet.runs.nr_runs, 0);
	assert_int_equal(session_release(&session), 20);
	assert_int_equal(pool_held(pool, 0), 0);
}

static void test_nodemask(void **state)
{
	struct session session;

	(void)state;
	hello(&session, 1, 400);
	grant(&session, 40, 2);
	for (unsigned int i = 0; i < reply.packet.runs.nr_runs; i++)
		assert_int_equal(reply.packet.runs.runs[i].node, 1);
	assert_int_equal(reply.packet.runs.nr_frames, 40);
	/* The node runs out before the VM's share of the pool does. */
	while (reply.packet.header.status == 0)
		grant(&session, 64, 1);
	assert_int_equal(reply.packet.header.status, -ENOMEM);
	assert_true(session.held > NODE_FRAMES && session.held < 40 + NODE_FRAMES);
	grant(&session, 64, 0);
	assert_true(reply.packet.runs.nr_frames > 0);
	session_release(&session);
}

static void test_admission(void **state)
{
	struct session a, b, c;
	struct pool_info info;
	uint64_t room;

	(void)state;
	pool_info(pool, &info);
	room = 2 * NODE_FRAMES - info.reserve;
	assert_int_equal(try_hello(&a, 1, room + 1), SESSION_REPLY_AND_CUT);
	assert_int_equal(reply.packet.header.status, -ENOMEM);
	assert_int_equal(reply.nr_fds, 0);
	assert_non_null(strstr(reply.packet.welcome.message, "2 MiB are missing"));
	hello(&a, 1, room - 10);
	assert_int_equal(try_hello(&b, 2, 11), SESSION_REPLY_AND_CUT);
	hello(&c, 3, 10);
	/* Everything that was promised can be had, in any order. */
	while (c.held < 10 && try_grant(&c, 10, 0, 0) == SESSION_REPLY)
		assert_int_equal(reply.packet.header.status, 0);
	while (a.held < room - 10 && try_grant(&a, 100, 0, 0) == SESSION_REPLY)
		assert_int_equal(reply.packet.header.status, 0);
	session_release(&c);
	hello(&b, 4, 10);
	session_release(&a);
	session_release(&b);
	pool_info(pool, &info);
	assert_int_equal(info.committed, 0);
}

static void test_foreign_frame(void **state)
{
	struct session a, b;
	struct frame_run run;

	(void)state;
	hello(&a, 1, 10);
	hello(&b, 2, 10);
	grant(&a, 4, 0);
	run = reply.packet.runs.runs[0];
	grant(&b, 4, 0);
	assert_int_equal(give(&b, &run, 1), SESSION_REPLY_AND_CUT);
	assert_int_equal(reply.packet.header.status, -EPERM);
	assert_non_null(why);
	assert_int_equal(pool_held(pool, 1), 4);
	assert_int_equal(pool_held(pool, 2), 4);
	assert_int_equal(b.state, SESSION_ENDED);
	session_release(&a);
	session_release(&b);
}

static void test_double_return(void **state)
{
	struct session session;
	struct frame_run run, twice[2];

	(void)state;
	hello(&session, 1, 10);
	grant(&session, 4, 0);
	run = reply.packet.runs.runs[0];
	assert_int_equal(run.nr, 4);
	/* Twice in one message: nothing of it is done. */
	twice[0] = run;
	twice[0].nr = 2;
	twice[1] = run;
	twice[1].first++;
	twice[1].nr = 2;
	assert_int_equal(give(&session, twice, 2), SESSION_REPLY_AND_CUT);
	assert_int_equal(reply.packet.header.status, -EPERM);
	assert_int_equal(pool_held(pool, 1), 4);
	session_release(&session);

	hello(&session, 2, 10);
	grant(&session, 8, 0);
	run = reply.packet.runs.runs[0];
	run.nr = 1;
	assert_int_equal(give(&session, &run, 1), SESSION_REPLY);
	assert_int_equal(give(&session, &run, 1), SESSION_REPLY_AND_CUT);
	assert_int_equal(reply.packet.header.status, -EPERM);
	assert_int_equal(session_release(&session), 7);
}

static void test_absent_frame(void **state)
{
	struct frame_run run = { .first = NODE_FRAMES - 1, .nr = 1, .node = 1 };
	struct session session;

	(void)state;
	hello(&session, 1, 10);
	grant(&session, 1, 1);
	assert_int_equal(give(&session, &run, 1), SESSION_REPLY_AND_CUT);
	session_release(&session);
}

static void test_out_of_order(void **state)
{
	struct frame_run run = { .nr = 1 };
	struct session session;

	(void)state;
	session_init(&session, pool, 1);
	assert_int_equal(try_grant(&session, 1, 0, 0), SESSION_CUT);
	session_init(&session, pool, 1);
	assert_int_equal(give(&session, &run, 1), SESSION_CUT);
	hello(&session, 1, 10);
	session.id = 1;
	{
		struct session again = session;

		/* A second HELLO, on the session that has had one. */
		union owner_packet packet = { .hello = {
						      .header = { .type = OWNER_HELLO,
								  .length = sizeof(packet.hello) },
						      .version = OWNER_PROTOCOL_VERSION,
						      .ram_frames = 1,
						      .name = "vm" } };
		assert_int_equal(handle(&again, &packet), SESSION_CUT);
		assert_non_null(strstr(why, "order"));
		session = again;
	}
	/* After the end nothing is answered. */
	assert_int_equal(try_grant(&session, 1, 0, 0), SESSION_CUT);
	session_release(&session);
}

/* Frames scattered one by one: more runs than a message holds. */
static void test_scattered(void **state)
{
	struct session a, b;
	uint64_t got = 0;

	(void)state;
	hello(&a, 1, 256);
	hello(&b, 2, 200);
	for (int i = 0; i < 200; i++) {
		grant(&a, 1, 0);
		grant(&b, 1, 0);
	}
	session_release(&a); /* leaves a comb */
	hello(&a, 3, 256);
	while (got < 256) {
		grant(&a, 256 - (uint32_t)got, 0);
		assert_int_equal(reply.packet.header.status, 0);
		assert_true(reply.packet.runs.nr_runs <= OWNER_RUNS_MAX);
		got += reply.packet.runs.nr_frames;
	}
	assert_int_equal(session_release(&a), 256);
	assert_int_equal(session_release(&b), 200);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, session_setup, session_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_welcome),
		TEST(test_grant_and_return),
		TEST(test_no_more_than_its_ram),
		TEST(test_frames_to_move_to),
		TEST(test_nodemask),
		TEST(test_admission),
		TEST(test_foreign_frame),
		TEST(test_double_return),
		TEST(test_absent_frame),
		TEST(test_out_of_order),
		TEST(test_scattered),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
