/* SPDX-License-Identifier: MIT */
/*
 * BIND: frames of one node are kept for a VM, whatever others take. Conversations over a pool of
 * pure metadata with two nodes.
 */
#include "session_pool.h"

static struct session bound, other;

/* All that it can have, however many requests that takes. Returns how many frames. */
static uint32_t grant_all(struct session *session, uint64_t nodemask)
{
	uint32_t sum = 0, got;

	while ((got = grant(session, OWNER_GRANT_MAX, nodemask)) > 0)
		sum += got;
	return sum;
}

static int bind_frames(struct session *session, uint32_t node, uint64_t frames)
{
	union owner_packet packet = { .bind = { .header = { .type = OWNER_BIND,
							    .length = sizeof(packet.bind) },
						.node = node,
						.frames = frames } };

	assert_int_equal(handle(session, &packet), SESSION_REPLY);
	assert_int_equal(reply.packet.header.type, OWNER_BOUND);
	assert_int_equal(reply.packet.header.length, sizeof(reply.packet.bound));
	assert_int_equal(reply.packet.bound.frames, session->bound[node]);
	return reply.packet.header.status;
}

static int setup(void **state)
{
	(void)state;
	if (create_session_pool() < 0)
		return -1;
	hello(&bound, 1, 100);
	hello(&other, 2, 300);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	session_release(&bound);
	session_release(&other);
	pool_destroy(pool);
	return 0;
}

/* Somebody who may have any frame does not get those that are kept. */
static void test_kept(void **state)
{
	uint32_t got;

	(void)state;
	assert_int_equal(bind_frames(&bound, 1, 100), 0);
	got = grant_all(&other, 0);
	assert_true(got > NODE_FRAMES); /* of both nodes */
	assert_int_equal(grant(&other, 1, 2), 0);
	assert_int_equal(grant_all(&bound, 2), 100);
	for (unsigned int i = 0; i < reply.packet.runs.nr_runs; i++)
		assert_int_equal(reply.packet.runs.runs[i].node, 1);
	assert_int_equal(bound.node_held[1], 100);
}

/* What it holds counts; what it gives back is kept again; what it does not want any more is not. */
static void test_held_counts(void **state)
{
	union owner_packet packet = { 0 };

	(void)state;
	assert_int_equal(grant(&bound, 60, 2), 60);
	packet.runs = reply.packet.runs;
	assert_int_equal(bind_frames(&bound, 1, 60), 0);
	grant_all(&other, 2);
	packet.header.type = OWNER_RETURN;
	packet.header.length = packet_runs_length(packet.runs.nr_runs);
	assert_int_equal(handle(&bound, &packet), SESSION_REPLY);
	assert_int_equal(bound.node_held[1], 0);
	assert_int_equal(grant(&other, 1, 2), 0);
	assert_int_equal(bind_frames(&bound, 1, 0), 0);
	assert_true(grant(&other, 10, 2) > 0);
}

static void test_refused(void **state)
{
	(void)state;
	/* More than the node has beside its reserve, and more than is left of it. */
	assert_int_equal(bind_frames(&other, 0, 300), -ENOMEM);
	assert_non_null(strstr(reply.packet.bound.message, "cannot give"));
	assert_int_equal(other.bound[0], 0);
	assert_int_equal(bind_frames(&bound, 0, 100), 0);
	assert_int_equal(bind_frames(&other, 0, NODE_FRAMES - 100), -ENOMEM);
	assert_int_equal(bind_frames(&other, 0, 100), 0);
	/* The VM ends, and with it what was kept for it. */
	session_release(&bound);
	assert_int_equal(bind_frames(&other, 0, 200), 0);
	hello(&bound, 1, 100);
}

/* Frames that a job has isolated are nobody's: neither are they promised, nor do they count for
 * those who may have what others have not claimed. */
static void test_isolated(void **state)
{
	uint64_t before = pool_grantable(pool, 0, 1);

	(void)state;
	assert_true(before > NODE_FRAMES / 4);
	assert_int_equal(mm_isolate_pages(pool_mm(pool), 1, 0, NODE_FRAMES / 4), 0);
	assert_int_equal(pool_grantable(pool, 0, 1), before - NODE_FRAMES / 4);
	assert_int_equal(mm_isolate_pages(pool_mm(pool), 1, 0, NODE_FRAMES / 2), 0);
	assert_int_equal(bind_frames(&other, 1, NODE_FRAMES / 2), -ENOMEM);
	mm_unisolate_pages(pool_mm(pool), 1, 0, NODE_FRAMES / 2);
	assert_int_equal(bind_frames(&other, 1, NODE_FRAMES / 2), 0);
}

/* Not more than it was guaranteed, on all nodes together; and as much again when it is. */
static void test_no_more_than_guaranteed(void **state)
{
	(void)state;
	assert_int_equal(bind_frames(&bound, 1, 200), 0);
	assert_int_equal(bound.bound[1], 100);
	assert_int_equal(bind_frames(&bound, 0, 50), 0);
	assert_int_equal(bound.bound[0], 0);
	assert_int_equal(bind_frames(&bound, 1, 60), 0);
	assert_int_equal(resize(&bound, 90), 0);
	assert_int_equal(bound.bound[0] + bound.bound[1], 90);
	assert_int_equal(resize(&bound, 120), 0);
	assert_int_equal(bound.bound[0] + bound.bound[1], 110);
	assert_int_equal(bound.bound[1], 60);
}

/* With overcommit: what one is bound to does not keep another from what that was guaranteed. */
static void test_others_guarantee(void **state)
{
	union owner_packet packet = { .hello = { .header = { .type = OWNER_HELLO,
							     .length = sizeof(packet.hello) },
						 .version = OWNER_PROTOCOL_VERSION,
						 .ram_frames = 400,
						 .min_frames = 64,
						 .name = "vm" } };
	struct error err = { 0 };

	(void)state;
	session_release(&bound);
	session_release(&other);
	assert_int_equal(pool_setting_set(pool, "overcommit_memory", 0, 0, &err), 0);
	assert_int_equal(pool_setting_set(pool, "watermark_scale_factor", 0, 1, &err), 0);
	session_init(&bound, pool, 1);
	assert_int_equal(handle(&bound, &packet), SESSION_REPLY);
	assert_int_equal(reply.packet.header.status, 0);
	packet.hello.ram_frames = packet.hello.min_frames = 200;
	session_init(&other, pool, 2);
	assert_int_equal(handle(&other, &packet), SESSION_REPLY);
	assert_int_equal(reply.packet.header.status, 0);
	assert_int_equal(bind_frames(&bound, 0, 200), 0);
	assert_int_equal(bind_frames(&bound, 1, 200), 0);
	assert_true(grant_all(&bound, 0) >= 64);
	assert_int_equal(grant_all(&other, 0), 200);
}

static void test_bad_packets(void **state)
{
	union owner_packet packet = { .bind = { .header = { .type = OWNER_BIND,
							    .length = sizeof(packet.bind) },
						.node = 2,
						.frames = 1 } };
	union owner_packet greeting = { .hello = { .header = { .type = OWNER_HELLO,
							       .length = sizeof(greeting.hello) },
						   .version = OWNER_PROTOCOL_VERSION,
						   .ram_frames = 1,
						   .host_nodes = 1u << 7,
						   .name = "vm" } };
	struct session session;

	(void)state;
	hello(&session, 3, 1);
	assert_int_equal(handle(&session, &packet), SESSION_CUT);
	assert_non_null(strstr(why, "node"));
	session_release(&session);
	hello(&session, 3, 1);
	packet.bind.node = 0;
	packet.bind.frames = UINT64_MAX;
	assert_int_equal(handle(&session, &packet), SESSION_CUT);
	session_release(&session);
	/* A node that the host does not have. */
	session_init(&session, pool, 4);
	assert_int_equal(handle(&session, &greeting), SESSION_REPLY_AND_CUT);
	assert_non_null(strstr(reply.packet.welcome.message, "node"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_kept, setup, teardown),
		cmocka_unit_test_setup_teardown(test_held_counts, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_isolated, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_more_than_guaranteed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_others_guarantee, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bad_packets, setup, teardown),
	};

	return cmocka_run_group_tests_name("owner_bind", tests, NULL, NULL);
}
