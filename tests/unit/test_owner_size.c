/* SPDX-License-Identifier: MIT */
/*
 * A pool that grows and shrinks on command, under a real pool owner: what the host holds for it,
 * ZONE_MOVABLE first, no promise broken, all or nothing.
 */
#include "owner_fixture.h"
#include "owner_jobs.h"

#include "framevisor/backing.h"
#include "skip.h"

#define NEVER "--hugepages=never"

static char message[512];

static int64_t grow(unsigned int mib)
{
	return do_job("pool-grow", json_pack("{s:I}", "size", (json_int_t)mib << 20), message,
		      sizeof(message));
}

static int64_t shrink(unsigned int mib)
{
	return do_job("pool-shrink", json_pack("{s:I}", "size", (json_int_t)mib << 20), message,
		      sizeof(message));
}

static int64_t setting(const char *key)
{
	json_t *pool = fixture_qmp("query-pool", NULL);
	int64_t value = json_integer_value(json_object_get(json_object_get(pool, "settings"), key));

	json_decref(pool);
	return value;
}

/* What the host holds for the pool, over all nodes, through a client's own descriptors. */
static int64_t host_frames(struct peer *peer)
{
	json_t *pool = fixture_qmp("query-pool", NULL);
	size_t nr = json_array_size(json_object_get(pool, "nodes"));
	int64_t sum = 0;

	json_decref(pool);
	for (size_t i = 0; i < nr; i++)
		sum += peer_do(peer, PEER_MEMORY, i);
	return sum;
}

static void check_round_trip(const char *hugepages)
{
	struct peer a;

	fixture_start((const char *const[]){ "--pool=64M", "--max=256M", hugepages, NULL });
	assert_true(peer_start(&a, "a", 8));
	assert_int_equal(host_frames(&a), 32);
	assert_int_equal(peer_do(&a, PEER_GRANT, 8), 8);
	assert_int_equal(peer_do(&a, PEER_DIRTY, 0), 8);

	assert_int_equal(grow(64), 32);
	assert_int_equal(fixture_pool("total"), 64);
	assert_int_equal(host_frames(&a), 64);
	assert_int_equal(shrink(80), 40);
	assert_int_equal(fixture_pool("total"), 24);
	assert_int_equal(host_frames(&a), 24);
	/* Holes are filled again, and what comes is zero. */
	assert_int_equal(grow(192), 96);
	assert_int_equal(host_frames(&a), 120);
	assert_int_equal(peer_do(&a, PEER_RETURN, 0), 0);
	assert_int_equal(peer_do(&a, PEER_GRANT, 8), 8);
	assert_int_equal(peer_do(&a, PEER_DIRTY, 0), 8);
	assert_int_equal(fixture_pool("held"), 8);
	fixture_validate();
	peer_end(&a);
	assert_true(fixture_wait_held(0) >= 0);
	fixture_validate();
}

static void test_round_trip(void **state)
{
	(void)state;
	check_round_trip(NEVER);
}

static void test_round_trip_hugepages(void **state)
{
	(void)state;
	if (geteuid() != 0 || access("/sys/kernel/mm/hugepages/hugepages-2048kB", F_OK) < 0)
		skip_because("only root may reserve hugepages");
	check_round_trip("--hugepages=require");
	/* It had to reserve what was missing, and keeps no more than it has. */
	assert_true(setting("hugepages-reserved") <= fixture_pool("total"));
	assert_int_equal(shrink(220), 110);
	assert_true(setting("hugepages-reserved") <= 10);
}

static void test_limits(void **state)
{
	struct peer a;

	(void)state;
	fixture_start((const char *const[]){ "--pool=64M", "--max=96M", NEVER, NULL });
	assert_true(peer_start(&a, "a", 16));
	assert_int_equal(grow(34), -1);
	assert_non_null(strstr(message, "it can grow by 32 MiB, not by 34 MiB"));
	assert_int_equal(fixture_pool("total"), 32);
	/* 32 frames: 16 are promised, some are the reserve. */
	assert_int_equal(shrink(34), -1);
	assert_non_null(strstr(message, "32 MiB promised to VMs"));
	assert_non_null(strstr(message, "too much"));
	assert_int_equal(fixture_pool("total"), 32);
	assert_int_equal(grow(32), 16);
	assert_int_equal(setting("max"), 48);
	/* A VM that does not fit is told what the pool has now, and how it can get more. */
	assert_int_equal(shrink(32), 16);
	{
		struct peer b;

		assert_false(peer_start(&b, "b", 20));
		assert_non_null(strstr(b.err.message, "pool of at most 64 MiB"));
		assert_non_null(strstr(b.err.message, "pool grow"));
		assert_int_equal(grow(32), 16);
		assert_true(peer_start(&b, "b", 20));
		peer_end(&b);
	}
	peer_end(&a);
	assert_null(fixture_qmp("pool-grow", json_pack("{s:i}", "size", 0)));
	assert_null(fixture_qmp("pool-grow", NULL));
	assert_null(fixture_qmp("pool-shrink", json_pack("{s:i, s:i}", "size", 4096, "node", 64)));
	assert_null(
		fixture_qmp("pool-grow", json_pack("{s:i, s:s}", "size", 4096, "movable", "x")));
}

/* ZONE_MOVABLE goes first, frames that VMs hold in it stay, and the rest comes from elsewhere. */
static void test_movable_first(void **state)
{
	struct peer a;

	(void)state;
	fixture_start((const char *const[]){ "--pool=128M", "--movable=25%", NEVER, NULL });
	assert_int_equal(setting("movable"), 16);
	assert_int_equal(shrink(16), 8);
	assert_int_equal(setting("movable"), 8);
	assert_int_equal(fixture_pool("total"), 56);
	/* Guests take movable frames first, down to the zone's reserve. */
	assert_true(peer_start(&a, "a", 40));
	assert_int_equal(peer_do(&a, PEER_GRANT, 4), 4);
	assert_int_equal(peer_do(&a, PEER_DIRTY, 0), 4);
	assert_int_equal(shrink(12), 6);
	assert_int_equal(setting("movable"), 4);
	assert_int_equal(fixture_pool("total"), 50);
	assert_int_equal(peer_do(&a, PEER_DIRTY, 0), 0); /* what it wrote is still there */
	/* 25 % of what there will be: what went is made up for. */
	assert_int_equal(grow(28), 14);
	assert_int_equal(setting("movable"), 16);
	peer_end(&a);
}

static void test_grow_movable(void **state)
{
	json_t *job;

	(void)state;
	fixture_start((const char *const[]){ "--pool=64M", "--movable=16M", NEVER, NULL });
	assert_int_equal(setting("movable"), 8);
	assert_int_equal(grow(32), 16);
	assert_int_equal(setting("movable"), 8);
	job = fixture_qmp("pool-grow",
			  json_pack("{s:i, s:i}", "size", 32 << 20, "movable", 24 << 20));
	assert_non_null(job);
	json_decref(job);
	json_decref(wait_for_job());
	assert_int_equal(setting("movable"), 20);
	assert_int_equal(fixture_pool("total"), 64);
	fixture_validate();
}

static void test_no_movable_zone(void **state)
{
	(void)state;
	fixture_start((const char *const[]){ "--pool=32M", NEVER, NULL });
	assert_int_equal(do_job("pool-grow",
				json_pack("{s:i, s:i}", "size", 2 << 20, "movable", 2 << 20),
				message, sizeof(message)),
			 -1);
	assert_non_null(strstr(message, "no MOVABLE zone"));
	assert_int_equal(fixture_pool("total"), 16);
}

/* A pool without a size of its own shrinks too, and grows again for the next VM. */
static void test_growing_pool(void **state)
{
	struct peer a, b;
	int64_t total;

	(void)state;
	fixture_start((const char *const[]){ "--keep", "--max=256M", NEVER, NULL });
	assert_true(peer_start(&a, "a", 40));
	peer_end(&a);
	assert_true(fixture_wait_held(0) >= 0);
	total = fixture_pool("total");
	assert_true(total >= 40);
	assert_int_equal(shrink(64), 32);
	assert_int_equal(fixture_pool("total"), total - 32);
	assert_true(peer_start(&b, "b", 40));
	assert_true(fixture_pool("total") >= 40);
	fixture_validate();
	peer_end(&b);
}

/* One job at a time; VMs that need the pool to grow wait for theirs, and everybody gets what there
 * is room for. */
static void test_at_once(void **state)
{
	struct peer vms[4];
	unsigned int refused = 0;

	(void)state;
	fixture_start(
		(const char *const[]){ "--keep", "--max=512M", "--initial=128M", NEVER, NULL });
	for (unsigned int i = 0; i < 4; i++) {
		struct owner_client_config config = { .vm_name = (char[]){ 'a' + (char)i, 0 },
						      .ram_frames = 40 };
		json_t *job = fixture_qmp(i % 2 ? "pool-shrink" : "pool-grow",
					  json_pack("{s:i}", "size", 64 << 20));

		refused += !job;
		json_decref(job);
		peer_begin(&vms[i], &config);
	}
	for (unsigned int i = 0; i < 4; i++)
		assert_true(peer_ready(&vms[i]));
	json_decref(wait_for_job());
	assert_true(refused < 4);
	assert_true(fixture_pool("total") >= 160);
	fixture_validate();
	for (unsigned int i = 0; i < 4; i++)
		peer_end(&vms[i]);
	assert_true(fixture_wait_held(0) >= 0);
	fixture_validate();
}

/* The end of a job is also an event. */
static void test_event(void **state)
{
	char path[RUNDIR_PATH_MAX];
	struct qmp_client *qmp;
	json_t *event = NULL;

	(void)state;
	fixture_start((const char *const[]){ "--pool=32M", NEVER, NULL });
	assert_int_equal(rundir_join(path, "pool-qmp.sock", NULL), 0);
	qmp = qmp_client_connect(path, 5000, NULL);
	assert_non_null(qmp);
	assert_int_equal(
		qmp_client_call(qmp, "pool-grow", json_pack("{s:i}", "size", 4 << 20), NULL, NULL),
		0);
	assert_int_equal(qmp_client_event(qmp, 60000, &event), 1);
	assert_string_equal(json_string_value(json_object_get(event, "event")),
			    "POOL_JOB_CONCLUDED");
	assert_int_equal(
		json_integer_value(json_object_get(json_object_get(event, "data"), "done")), 2);
	json_decref(event);
	qmp_client_close(qmp);
}

/* An owner that is told to end while memory comes ends soon, and gives all of it back. */
static void test_end_while_growing(void **state)
{
	uint64_t start;

	(void)state;
	fixture_start((const char *const[]){ "--pool=32M", "--max=1G", NEVER, NULL });
	json_decref(fixture_qmp("pool-grow", json_pack("{s:i}", "size", 768 << 20)));
	start = now_ms();
	kill(fixture_owner, SIGTERM);
	assert_int_equal(fixture_wait_owner(), 0);
	assert_true(now_ms() - start < 5000);
	assert_int_equal(rmdir(fixture_dir), 0);
	assert_int_equal(mkdir(fixture_dir, 0700), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		OWNER_TEST(test_round_trip),   OWNER_TEST(test_round_trip_hugepages),
		OWNER_TEST(test_limits),       OWNER_TEST(test_movable_first),
		OWNER_TEST(test_grow_movable), OWNER_TEST(test_no_movable_zone),
		OWNER_TEST(test_growing_pool), OWNER_TEST(test_at_once),
		OWNER_TEST(test_event),        OWNER_TEST(test_end_while_growing),
	};

	return cmocka_run_group_tests(tests, fixture_setup_group, NULL);
}
