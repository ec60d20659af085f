/* SPDX-License-Identifier: MIT */
/* When a guest is said to have no driver for its hot-plug memory. The devices are real; the pool is
 * one of this test's own that promises all, and so is the clock, which can be put forward. */
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "tests/unit/balloon_driver.h"

#include "framevisor/log.h"
#include "tests/unit/promising_pool.h"
#include "vmm/target.h"

#define BOOT    (HOST_FRAMES * FRAME_SIZE)
#define HOTPLUG (HOST_PLUG_FRAMES * FRAME_SIZE)
#define F_MEM   (F_VERSION_1 | 2)

static atomic_ulong ahead_s;
static atomic_uint warnings;

int clock_gettime(clockid_t clock, struct timespec *ts)
{
	int ret = (int)syscall(SYS_clock_gettime, clock, ts);

	ts->tv_sec += (time_t)ahead_s;
	return ret;
}

void log_set_program(const char *name)
{
	(void)name;
}

void log_set_level(enum log_level level)
{
	(void)level;
}

void log_line(enum log_level level, const char *fmt, ...)
{
	(void)level;
	if (strstr(fmt, "it booted with"))
		warnings++;
}

struct order {
	struct test_host *th;
	struct target *target;
	bool running;
};

static bool running(void *opaque)
{
	return ((struct order *)opaque)->running;
}

static void create(void *opaque)
{
	struct order *order = opaque;
	const uint64_t max = HOTPLUG;
	const struct target_config config = { .loop = order->th->host.loop,
					      .boot = BOOT,
					      .max = BOOT + HOTPLUG,
					      .size = BOOT + HOTPLUG,
					      .balloon = order->th->set.balloon,
					      .mem = order->th->set.mem,
					      .mem_max = &max,
					      .nr_mem = 1,
					      .running = running,
					      .opaque = order };

	order->target = target_create(&config, NULL);
}

static void look(void *opaque)
{
	struct order *order = opaque;

	target_pool_moved(order->target);
}

static void destroy(void *opaque)
{
	struct order *order = opaque;

	target_destroy(order->target);
}

/* What has been said by then. */
static unsigned int said(struct order *order)
{
	host_call(order->th, look, order);
	return warnings;
}

static void start_order(struct order *order)
{
	warnings = 0;
	*order = (struct order){ .th = host_create(true), .running = true };
	host_call(order->th, create, order);
	assert_non_null(order->target);
}

static void stop_order(struct order *order)
{
	host_call(order->th, destroy, order);
	host_destroy(order->th);
}

/* Each guest that boots has its time, however long the one before had run. */
static void test_reboots(void **state)
{
	struct order order;
	struct driver drv;

	(void)state;
	start_order(&order);
	assert_int_equal(said(&order), 0);
	assert_true(driver_probe(&drv, order.th, 2));
	assert_int_equal(driver_start(&drv, F_MEM, 8), S_ALL);
	assert_int_equal(said(&order), 0);
	ahead_s += 3600;
	driver_set_status(&drv, 0);
	assert_int_equal(said(&order), 0);
	ahead_s += 50;
	assert_int_equal(said(&order), 0);
	ahead_s += 11;
	assert_int_equal(said(&order), 1);
	ahead_s += 3600;
	assert_int_equal(said(&order), 1); /* once for each */
	assert_int_equal(driver_start(&drv, F_MEM, 8), S_ALL);
	assert_int_equal(said(&order), 1);
	driver_set_status(&drv, 0);
	assert_int_equal(said(&order), 1);
	ahead_s += 61;
	assert_int_equal(said(&order), 2);
	stop_order(&order);
}

/* A VM that does not run loads no driver. */
static void test_paused(void **state)
{
	struct order order;

	(void)state;
	start_order(&order);
	assert_int_equal(said(&order), 0);
	order.running = false;
	assert_int_equal(said(&order), 0);
	ahead_s += 3600;
	order.running = true;
	assert_int_equal(said(&order), 0);
	ahead_s += 61;
	assert_int_equal(said(&order), 1);
	stop_order(&order);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_reboots),
		cmocka_unit_test(test_paused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
