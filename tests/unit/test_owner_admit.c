/* SPDX-License-Identifier: MIT */
/*
 * Admission over a pool of pure metadata (two nodes of 256 frames): minimums, overcommit_memory and
 * overcommit_ratio, and that a minimum can be had when everything else is taken.
 */
#include "session_pool.h"
#include "tests/unit/skip.h"

#include <sys/resource.h>

#include "vmm/owner/pool_private.h"

#include <cmocka.h>

static void set(const char *name, uint64_t value)
{
	struct error err = { 0 };

	assert_int_equal(pool_setting_set(pool, name, 0, value, &err), 0);
}

static int come(struct session *session, uint32_t id, uint64_t ram, uint64_t min, uint64_t max)
{
	union owner_packet packet = { .hello = { .header = { .type = OWNER_HELLO,
							     .length = sizeof(packet.hello) },
						 .version = OWNER_PROTOCOL_VERSION,
						 .ram_frames = ram,
						 .min_frames = min,
						 .max_frames = max,
						 .name = "vm" } };

	session_init(session, pool, id);
	handle(session, &packet);
	return reply.packet.header.status;
}

static uint64_t reserve(void)
{
	struct pool_info info;

	pool_info(pool, &info);
	return info.reserve;
}

static const char *sentence(void)
{
	return reply.packet.welcome.message;
}

/* Nothing is promised that is not there, to the frame. */
static void test_default(void **state)
{
	uint64_t room = 2 * NODE_FRAMES - reserve();
	struct session a, b;

	(void)state;
	assert_int_equal(come(&a, 1, room - 100, 0, 0), 0);
	assert_int_equal(a.guaranteed, room - 100);
	assert_int_equal(come(&b, 2, 101, 0, 0), -ENOMEM);
	assert_non_null(strstr(sentence(), "2 MiB are missing"));
	assert_non_null(strstr(sentence(), "overcommit_memory=0"));
	/* A small minimum alone does not make room: the operator has to allow it. */
	assert_int_equal(come(&b, 2, 101, 10, 0), -ENOMEM);
	assert_int_equal(come(&b, 2, 100, 10, 0), 0);
	assert_int_equal(b.guaranteed, 10);
	session_release(&a);
	session_release(&b);
}

/* The least that a VM is left by default is 128 MiB, whatever a frame has. */
static void test_default_minimum(void **state)
{
	(void)state;
	set("overcommit_memory", 0);
	assert_int_equal(pool_default_min(pool, 512), 128);
	assert_int_equal(pool_default_min(pool, 100), 64);
	assert_int_equal(pool_default_min(pool, 10), 10);
	assert_int_equal(frame_use_shift(FRAME_SHIFT_1G), 0);
	assert_int_equal(pool_default_min(pool, 16), 4);
	assert_int_equal(pool_default_min(pool, 2), 1);
	assert_int_equal(frame_use_shift(FRAME_SHIFT_2M), 0);
}

static void test_overcommit(void **state)
{
	struct session a, b, c;

	(void)state;
	set("overcommit_memory", 0);
	assert_int_equal(come(&a, 1, 512, 0, 0), 0);
	assert_int_equal(a.guaranteed, 128); /* a quarter */
	assert_int_equal(come(&b, 2, 512, 200, 0), 0);
	/* Minimums are real in every mode. */
	assert_int_equal(come(&c, 3, 300, 200, 0), -ENOMEM);
	assert_non_null(strstr(sentence(), "cannot be guaranteed 400 MiB"));
	assert_non_null(strstr(sentence(), "are missing"));
	/* A single promise of more than there is. */
	assert_int_equal(come(&c, 3, 513, 10, 0), -ENOMEM);
	set("overcommit_memory", 1);
	assert_int_equal(come(&c, 3, 513, 10, 0), 0);
	session_release(&a);
	session_release(&b);
	session_release(&c);
}

static void test_ratio(void **state)
{
	uint64_t room = 2 * NODE_FRAMES;
	struct session a, b;

	(void)state;
	set("overcommit_ratio", 150);
	assert_int_equal(come(&a, 1, room, 64, 0), 0);
	assert_int_equal(come(&b, 2, room / 2 - reserve() + 1, 64, 0), -ENOMEM);
	assert_non_null(strstr(sentence(), "2 MiB are missing"));
	assert_int_equal(come(&b, 2, room / 2 - reserve(), 64, 0), 0);
	session_release(&b);
	/* Half of it: what is promised already stays, nothing more is. */
	set("overcommit_ratio", 50);
	assert_int_equal(come(&b, 2, 64, 64, 0), -ENOMEM);
	assert_int_equal(resize(&a, room + 1), -ENOMEM);
	assert_int_equal(resize(&a, room - 1), 0);
	assert_int_equal(resize(&a, 200), 0);
	assert_int_equal(come(&b, 2, 56 - reserve(), 10, 0), 0);
	session_release(&a);
	session_release(&b);
}

/* Hot-add is admission, too, and the maximum bounds it. */
static void test_resize(void **state)
{
	struct session a;

	(void)state;
	assert_int_equal(come(&a, 1, 100, 0, 200), 0);
	assert_int_equal(resize(&a, 200), 0);
	assert_int_equal(a.guaranteed, 200);
	assert_int_equal(resize(&a, 201), -ENOMEM);
	assert_non_null(strstr(reply.packet.resized.message, "maximum, 400 MiB"));
	assert_int_equal(resize(&a, 50), 0);
	assert_int_equal(a.guaranteed, 50);
	session_release(&a);
}

static void test_set_limits(void **state)
{
	struct session_limits limits;
	struct session a, b;
	struct error err = { 0 };

	(void)state;
	set("overcommit_memory", 0);
	assert_int_equal(come(&a, 1, 500, 100, 600), 0);
	assert_int_equal(come(&b, 2, 500, 100, 500), 0);
	session_get_limits(&a, &limits);
	limits.min_frames = 300;
	limits.shares = 7;
	assert_int_equal(session_set_limits(&a, &limits, &err), 0);
	assert_int_equal(a.guaranteed, 300);
	assert_int_equal(a.shares, 7);
	limits.min_frames = 450;
	assert_int_equal(session_set_limits(&a, &limits, &err), -ENOMEM);
	assert_non_null(strstr(err.message, "are missing"));
	assert_int_equal(a.guaranteed, 300);
	limits.min_frames = 300;
	limits.max_frames = 499;
	assert_int_equal(session_set_limits(&a, &limits, &err), -EBUSY);
	limits.max_frames = 601;
	assert_int_equal(session_set_limits(&a, &limits, &err), -EINVAL);
	limits.max_frames = 550;
	limits.shares = 0;
	assert_int_equal(session_set_limits(&a, &limits, &err), -EINVAL);
	limits.shares = 1;
	limits.oom_score_adj = -1001;
	assert_int_equal(session_set_limits(&a, &limits, &err), -EINVAL);
	limits.oom_score_adj = -1000;
	assert_int_equal(session_set_limits(&a, &limits, &err), 0);
	assert_int_equal(resize(&a, 551), -ENOMEM);
	session_release(&a);
	session_release(&b);
}

/* One takes all it can: what the other was guaranteed is still to be had, and not a frame more. */
static void test_guarantee_holds(void **state)
{
	uint64_t got = 0, more;
	struct session greedy, quiet;
	uint64_t promised;

	(void)state;
	set("overcommit_memory", 0);
	set("watermark_scale_factor", 1);
	assert_int_equal(come(&greedy, 1, 500, 64, 0), 0);
	assert_int_equal(come(&quiet, 2, 300, 200, 0), 0);
	while ((more = grant(&greedy, 50, 0)))
		got += more;
	assert_true(got >= 64 && got <= 2 * NODE_FRAMES - 200);
	/* Nor does the pool shrink by what it has not fetched yet. */
	assert_true(pool_spare(pool, &promised) < 100);
	for (more = 0; more < 200;) {
		uint64_t step = grant(&quiet, 50, 0);

		assert_true(step > 0);
		more += step;
	}
	assert_int_equal(quiet.held, 200);
	session_release(&greedy);
	session_release(&quiet);
}

static void test_settings(void **state)
{
	struct error err = { 0 };
	uint64_t value = 0;

	(void)state;
	assert_int_equal(pool_setting_get(pool, "overcommit_memory", 0, &value), 0);
	assert_int_equal(value, 2);
	assert_int_equal(pool_setting_set(pool, "overcommit_memory", 0, 3, &err), -EINVAL);
	assert_int_equal(pool_setting_set(pool, "no_such_thing", 0, 3, &err), -ENOENT);
	/* Overcommit needs time to act: marks further up, unless the user says where. */
	set("overcommit_memory", 0);
	pool_setting_get(pool, "watermark_scale_factor", 0, &value);
	assert_int_equal(value, 300);
	set("watermark_scale_factor", 20);
	set("overcommit_memory", 2);
	pool_setting_get(pool, "watermark_scale_factor", 0, &value);
	assert_int_equal(value, 20);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, session_setup, session_teardown)

/* A real pool: what it grows by includes what it then keeps in reserve, so one growth is enough. */
static void test_one_growth(void **state)
{
	static const uint64_t sizes[] = { 16, 40, 100 };
	struct pool_config config = { .hugepages = HUGEPAGES_NEVER, .max = UINT64_C(1) << 30 };
	struct pool_request request = { .name = "vm", .may_grow = true };
	struct pool_growth growth = { 0 };
	struct error err = { 0 };
	uint64_t missing = 0;

	(void)state;
	config.record = "/nonexistent";
	pool = pool_create(&config, &err);
	assert_non_null(pool);
	for (unsigned int i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		request.want = (struct pool_promise){ .ram = sizes[i], .min = sizes[i] };
		assert_int_equal(pool_admit(pool, &request, &missing, &err), -EAGAIN);
		assert_int_equal(pool_grow_begin(pool, missing, POOL_MOVABLE_AS_SET, &growth, &err),
				 0);
		assert_int_equal(pool_grow_fill(pool, &growth, &err), 0);
		assert_int_equal(pool_grow_finish(pool, &growth, 0), 0);
		assert_int_equal(pool_admit(pool, &request, &missing, &err), 0);
		request.old = request.want;
	}
	pool_release(pool, &request.old);
	check_session_pool();
	pool_destroy(pool);
}

static int fall_back(const struct pool_growth *growth)
{
	pool->changing = true;
	error_set(&pool->fill_error, ENOMEM, "no hugepages, says the test");
	return pool_grow_finish(pool, growth, -ENOMEM);
}

/* Hugepages are not to be had, nor is there room for other files: the owner goes on with what it
 * has, and can try again. */
static void test_fall_back(void **state)
{
	char ledger[] = "/tmp/fv-ledger-XXXXXX";
	struct pool_config config = { .hugepages = HUGEPAGES_AUTO,
				      .record = "/nonexistent",
				      .ledger = ledger,
				      .max = UINT64_C(1) << 30 };
	const struct pool_growth growth = { .frames = 16 };
	struct rlimit limit, none;
	struct error err = { 0 };

	(void)state;
#ifdef __SANITIZE_ADDRESS__
	skip_because("AddressSanitizer does not live with a limit of address space");
#endif
	assert_int_equal(close(mkstemp(ledger)), 0);
	pool = pool_create(&config, &err);
	assert_non_null(pool);
	if (!pool_hugetlb(pool)) {
		pool_destroy(pool);
		skip_because("this kernel has no hugepages of 2 MiB");
	}
	assert_int_equal(getrlimit(RLIMIT_AS, &limit), 0);
	none = limit;
	none.rlim_cur = 1 << 20; /* less than is in use */
	assert_int_equal(setrlimit(RLIMIT_AS, &none), 0);
	assert_int_equal(fall_back(&growth), -ENOMEM);
	assert_int_equal(setrlimit(RLIMIT_AS, &limit), 0);
	assert_non_null(pool_mm(pool));
	assert_true(pool_hugetlb(pool) && pool_fd(pool, 0) >= 0);
	assert_true(ledger_pool(pool_ledger(pool))->hugetlb);
	check_session_pool();
	assert_int_equal(fall_back(&growth), -EAGAIN);
	assert_non_null(pool_mm(pool));
	assert_true(!pool_hugetlb(pool) && pool_fd(pool, 0) >= 0);
	/* The next owner must not take these files for hugepages. */
	assert_true(!ledger_pool(pool_ledger(pool))->hugetlb);
	check_session_pool();
	pool_destroy(pool);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_default),
		TEST(test_overcommit),
		TEST(test_ratio),
		TEST(test_resize),
		TEST(test_set_limits),
		TEST(test_guarantee_holds),
		TEST(test_settings),
		TEST(test_default_minimum),
		cmocka_unit_test(test_one_growth),
		cmocka_unit_test(test_fall_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
