/* SPDX-License-Identifier: MIT */
/*
 * Jobs for which VMs have to move out of frames, under a real pool owner: compaction, and a frame
 * that goes out of use; with VMs that do it, that refuse, that do not answer, and that die.
 */
#include "owner_fixture.h"
#include "owner_jobs.h"

#define NEVER "--hugepages=never"

static char message[512];

static json_t *compact_args(void)
{
	return json_pack("{s:i}", "order", 1);
}

static json_t *frame_of(struct peer *peer)
{
	int64_t run = peer_do(peer, PEER_RUN, 0);

	return json_pack("{s:I, s:I}", "node", (json_int_t)(run >> 48), "index",
			 (json_int_t)(run & 0xffffffffffff));
}

static void begin(const char *command, json_t *args)
{
	json_t *job = fixture_qmp(command, args);

	assert_non_null(job);
	json_decref(job);
}

static json_t *end(const char *state)
{
	json_t *job = wait_for_job();
	const char *text = json_string_value(json_object_get(job, "message"));

	snprintf(message, sizeof(message), "%s", text ? text : "");
	if (strcmp(json_string_value(json_object_get(job, "state")), state) != 0)
		fail_msg("%s: %s", json_string_value(json_object_get(job, "state")), message);
	fixture_validate();
	return job;
}

static int64_t number(const json_t *job, const char *key)
{
	return json_integer_value(json_object_get(job, key));
}

/* Two VMs take frames in turn, and one gives its back: every second frame is free. */
static void fragment(struct peer *stays, struct peer *goes)
{
	assert_true(peer_start(stays, "stays", 24));
	assert_true(peer_start(goes, "goes", 24));
	for (int i = 0; i < 20; i++) {
		assert_int_equal(peer_do(stays, PEER_GRANT, 1), 1);
		assert_int_equal(peer_do(goes, PEER_GRANT, 1), 1);
	}
	assert_int_equal(peer_do(goes, PEER_RETURN, 0), 0);
}

static void test_compact(void **state)
{
	struct peer stays, goes;
	json_t *job;

	(void)state;
	fixture_start((const char *const[]){ "--pool=128M", "--max=128M", NEVER, NULL });
	fragment(&stays, &goes);
	begin("pool-compact", compact_args());
	assert_true(peer_do(&stays, PEER_MOVE, 1000) > 0);
	job = end("concluded");
	/* 20 frames need ten blocks of two. */
	assert_int_equal(number(job, "block-frames"), 2);
	assert_true(number(job, "blocks-after") > number(job, "blocks-before"));
	assert_true(number(job, "moved") > 0);
	json_decref(job);
	assert_int_equal(fixture_pool("held"), 20);
	peer_end(&goes);
	peer_end(&stays);
	assert_true(fixture_wait_held(0) >= 0);
	fixture_validate();
}

/* Nobody moves: compaction ends all the same, and nothing has changed. */
static void test_compact_dies(void **state)
{
	struct peer stays, goes;
	json_t *job;

	(void)state;
	fixture_start((const char *const[]){ "--pool=128M", "--max=128M", NEVER, NULL });
	fragment(&stays, &goes);
	begin("pool-compact", compact_args());
	usleep(20000);
	kill(stays.pid, SIGKILL);
	assert_int_equal(peer_wait(&stays, 5000), SIGKILL);
	job = end("concluded");
	json_decref(job);
	assert_true(fixture_wait_held(0) >= 0);
	fixture_validate();
	peer_end(&goes);
}

static void test_offline(void **state)
{
	struct peer a;
	json_t *frame;

	(void)state;
	fixture_start((const char *const[]){ "--pool=64M", NEVER, NULL });
	assert_true(peer_start(&a, "a", 8));
	assert_int_equal(peer_do(&a, PEER_GRANT, 8), 8); /* all that it may hold */
	frame = frame_of(&a);
	begin("pool-offline-frame", json_incref(frame));
	assert_int_equal(peer_do(&a, PEER_MOVE, 1000), 1);
	json_decref(end("concluded"));
	assert_int_equal(fixture_pool("quarantined"), 1);
	assert_int_equal(fixture_pool("held"), 8);
	/* Not twice, and not for ever. */
	assert_int_equal(do_job("pool-offline-frame", json_incref(frame), message, sizeof(message)),
			 -1);
	assert_non_null(strstr(message, "already"));
	json_decref(fixture_qmp("pool-online-frame", json_incref(frame)));
	assert_int_equal(fixture_pool("quarantined"), 0);
	assert_null(fixture_qmp("pool-online-frame", frame));
	fixture_validate();
	/* A free one goes at once. */
	peer_end(&a);
	assert_true(fixture_wait_held(0) >= 0);
	assert_int_equal(do_job("pool-offline-frame",
				json_pack("{s:i, s:i}", "node", 0, "index", 3), message,
				sizeof(message)),
			 1);
	assert_int_equal(fixture_pool("quarantined"), 1);
}

static void test_offline_bad_frames(void **state)
{
	(void)state;
	fixture_start((const char *const[]){ "--pool=64M", "--max=128M", NEVER, NULL });
	assert_null(
		fixture_qmp("pool-offline-frame", json_pack("{s:i, s:i}", "node", 64, "index", 0)));
	assert_null(fixture_qmp("pool-offline-frame",
				json_pack("{s:i, s:i}", "node", 0, "index", 1 << 30)));
	assert_null(fixture_qmp("pool-online-frame",
				json_pack("{s:i, s:i}", "node", 0, "index", 1 << 30)));
	assert_int_equal(do_job("pool-offline-frame",
				json_pack("{s:i, s:i}", "node", 0, "index", 60), message,
				sizeof(message)),
			 -1);
	assert_non_null(strstr(message, "not in the pool"));
}

/* A holder that is busy is asked again; one that stays so keeps the frame, which is marked and goes
 * out of use when it comes back. */
static void test_offline_refused(void **state)
{
	struct peer a;

	(void)state;
	fixture_start((const char *const[]){ "--pool=64M", NEVER, NULL });
	assert_true(peer_start(&a, "a", 8));
	assert_int_equal(peer_do(&a, PEER_GRANT, 2), 2);
	begin("pool-offline-frame", frame_of(&a));
	assert_int_equal(peer_do(&a, PEER_REFUSE, 2), 1);
	json_decref(end("concluded"));

	begin("pool-offline-frame", frame_of(&a));
	assert_int_equal(peer_do(&a, PEER_REFUSE, 1000), 0);
	json_decref(end("failed"));
	assert_non_null(strstr(message, "VM 'a'"));
	assert_non_null(strstr(message, "not given out again"));
	assert_int_equal(fixture_pool("quarantined"), 1);
	peer_end(&a);
	assert_true(fixture_wait_held(0) >= 0);
	assert_int_equal(fixture_pool("quarantined"), 2);
	fixture_validate();
}

/* It dies instead of an answer: the frame comes back in the ordinary way. */
static void test_offline_dies(void **state)
{
	struct peer a;

	(void)state;
	fixture_start((const char *const[]){ "--pool=64M", NEVER, NULL });
	assert_true(peer_start(&a, "a", 8));
	assert_int_equal(peer_do(&a, PEER_GRANT, 8), 8);
	begin("pool-offline-frame", frame_of(&a));
	kill(a.pid, SIGKILL);
	assert_int_equal(peer_wait(&a, 5000), SIGKILL);
	json_decref(end("concluded"));
	assert_int_equal(fixture_pool("quarantined"), 1);
	assert_int_equal(fixture_pool("held"), 0);
}

static int64_t spanned(void)
{
	json_t *pool = fixture_qmp("query-pool", NULL);
	int64_t value = number(json_array_get(json_object_get(pool, "nodes"), 0), "spanned");

	json_decref(pool);
	return value;
}

static int64_t in_movable(void)
{
	json_t *pool = fixture_qmp("query-pool", NULL);
	int64_t value = number(json_object_get(pool, "settings"), "movable");

	json_decref(pool);
	return value;
}

/* A pool of one node, a third of it ZONE_MOVABLE, where a VM's frames lie as long as there are
 * some. What it may grow to is no multiple of its pageblocks (4 frames). */
static void start_movable(struct peer *a, uint64_t frames)
{
	fixture_start(
		(const char *const[]){ "--pool=192M", "--max=610M", "--movable=64M", NEVER, NULL });
	assert_true(peer_start(a, "a", frames));
	assert_int_equal(peer_do(a, PEER_GRANT, frames), frames);
	assert_int_equal(in_movable(), 32);
	/* Half of the span: what the zone begins with can be isolated. */
	assert_int_equal(spanned() / 2 % 4, 0);
}

/* ZONE_MOVABLE becomes empty although a VM had all of its frames there: it moves within the node.
 */
static void test_offline_movable(void **state)
{
	int64_t moved;
	struct peer a;
	json_t *job;

	(void)state;
	start_movable(&a, 32);
	begin("pool-offline-movable", NULL);
	moved = peer_do(&a, PEER_MOVE, 1000);
	job = end("concluded");
	/* Nearly all of them lay there, and none has moved twice. */
	assert_true(moved >= 28 && moved <= 32);
	assert_int_equal(number(job, "moved"), moved);
	assert_int_equal(number(job, "done"), 32);
	json_decref(job);
	assert_int_equal(in_movable(), 0);
	assert_int_equal(fixture_pool("total"), 64);
	assert_int_equal(fixture_pool("held"), 32);
	assert_int_equal(peer_do(&a, PEER_MEMORY, 0), 64);
	assert_int_equal(do_job("pool-offline-movable", NULL, message, sizeof(message)), -1);
	assert_non_null(strstr(message, "no memory is in ZONE_MOVABLE"));
	peer_end(&a);
	assert_true(fixture_wait_held(0) >= 0);
	fixture_validate();
}

/* What a VM does not move out of stays with it, and all the rest goes. */
static void test_offline_movable_refused(void **state)
{
	struct peer a;
	json_t *job;

	(void)state;
	start_movable(&a, 20);
	begin("pool-offline-movable", json_pack("{s:i}", "node", 0));
	assert_int_equal(peer_do(&a, PEER_REFUSE, 1000), 0);
	job = end("failed");
	assert_int_equal(number(job, "done"), 12);
	json_decref(job);
	assert_non_null(strstr(message, "20 of 32 frames of ZONE_MOVABLE stay, 12 have gone"));
	assert_non_null(strstr(message, "VM 'a'"));
	assert_int_equal(in_movable(), 20);
	assert_int_equal(fixture_pool("held"), 20);
	/* They are in use as before: what it gives back is given out again, and then they go. */
	assert_int_equal(peer_do(&a, PEER_RETURN, 0), 0);
	assert_int_equal(peer_do(&a, PEER_GRANT, 20), 20);
	peer_end(&a);
	assert_true(fixture_wait_held(0) >= 0);
	assert_int_equal(do_job("pool-offline-movable", NULL, message, sizeof(message)), 20);
	assert_int_equal(in_movable(), 0);
}

/* One that moves a frame now and then does not keep the pool's jobs waiting as long as it likes. */
static void test_offline_movable_slowly(void **state)
{
	uint64_t since = now_ms();
	struct peer a;
	int64_t moved;
	json_t *job;

	(void)state;
	start_movable(&a, 32);
	begin("pool-offline-movable", NULL);
	moved = peer_do(&a, PEER_MOVE_SLOWLY, 900);
	job = end("failed");
	assert_true(moved >= 5 && moved < 25);
	assert_true(number(job, "done") >= moved);
	json_decref(job);
	assert_non_null(strstr(message, "VM 'a'"));
	assert_true(now_ms() - since < 22000);
	assert_int_equal(fixture_pool("held"), 32);
	peer_end(&a);
	assert_true(fixture_wait_held(0) >= 0);
	fixture_validate();
}

/* Nobody loses what he was promised: there is no room for it beside the zone. */
static void test_offline_movable_promised(void **state)
{
	struct peer a;
	int64_t done;
	json_t *job;

	(void)state;
	start_movable(&a, 76);
	begin("pool-offline-movable", NULL);
	assert_true(peer_do(&a, PEER_MOVE, 1000) > 0);
	job = end("failed");
	done = number(job, "done");
	json_decref(job);
	assert_true(done > 0 && done < 20);
	assert_non_null(strstr(message, "152 MiB promised to VMs"));
	assert_int_equal(in_movable(), 32 - done);
	assert_int_equal(fixture_pool("held"), 76);
	assert_int_equal(peer_do(&a, PEER_RETURN, 0), 0);
	assert_int_equal(peer_do(&a, PEER_GRANT, 76), 76);
	peer_end(&a);
	assert_true(fixture_wait_held(0) >= 0);
	fixture_validate();
}

static void test_offline_movable_dies(void **state)
{
	struct peer a;

	(void)state;
	start_movable(&a, 20);
	begin("pool-offline-movable", NULL);
	usleep(20000);
	kill(a.pid, SIGKILL);
	assert_int_equal(peer_wait(&a, 5000), SIGKILL);
	json_decref(end("concluded"));
	assert_int_equal(in_movable(), 0);
	assert_true(fixture_wait_held(0) >= 0);
}

/* The owner ends while it waits for one that does not answer. */
static void test_end_while_moving(void **state)
{
	struct peer a;

	(void)state;
	fixture_start((const char *const[]){ "--pool=64M", NEVER, NULL });
	assert_true(peer_start(&a, "a", 8));
	assert_int_equal(peer_do(&a, PEER_GRANT, 8), 8);
	begin("pool-offline-frame", frame_of(&a));
	usleep(20000);
	kill(fixture_owner, SIGTERM);
	assert_int_equal(fixture_wait_owner(), 0);
	peer_end(&a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		OWNER_TEST(test_compact),
		OWNER_TEST(test_compact_dies),
		OWNER_TEST(test_offline_movable),
		OWNER_TEST(test_offline_movable_refused),
		OWNER_TEST(test_offline_movable_slowly),
		OWNER_TEST(test_offline_movable_promised),
		OWNER_TEST(test_offline_movable_dies),
		OWNER_TEST(test_offline),
		OWNER_TEST(test_offline_bad_frames),
		OWNER_TEST(test_offline_refused),
		OWNER_TEST(test_offline_dies),
		OWNER_TEST(test_end_while_moving),
	};

	return cmocka_run_group_tests(tests, fixture_setup_group, NULL);
}
