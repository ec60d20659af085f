/* SPDX-License-Identifier: MIT */
/* A target with a real balloon: what is told to it, and when a guest that does not move is said to
 * stand still. */
#include "tests/unit/balloon_driver.h"

#include "framevisor/clock.h"
#include "tests/unit/sleep.h"
#include "vmm/target.h"

#define BOOT (HOST_FRAMES * FRAME_SIZE)

/* What the loop's thread is to do, and what it found. */
struct order {
	struct target **target;
	struct driver *drv;
	uint64_t tax;
	struct target_info info;
};

static bool always(void *opaque)
{
	(void)opaque;
	return true;
}

static void create(void *opaque)
{
	struct order *order = opaque;
	const struct target_config config = { .loop = order->drv->th->host.loop,
					      .boot = BOOT,
					      .max = BOOT,
					      .size = BOOT,
					      .balloon = order->drv->th->set.balloon,
					      .running = always };

	*order->target = target_create(&config, NULL);
}

static void set_tax(void *opaque)
{
	struct order *order = opaque;

	target_set_tax(*order->target, order->tax);
}

static void look(void *opaque)
{
	struct order *order = opaque;

	target_info(*order->target, &order->info);
}

static void destroy(void *opaque)
{
	struct order *order = opaque;

	target_destroy(*order->target);
}

static void in_loop(struct order *order, void (*fn)(void *opaque))
{
	assert_int_equal(event_loop_post(order->drv->th->host.loop, fn, order), 0);
	host_sync(order->drv->th);
}

static enum target_state state_of(struct order *order)
{
	in_loop(order, look);
	return order->info.state;
}

/* Taxed by a frame more every 200 ms the guest stands still as it does when it is taxed once; and
 * what is asked of it the other way round gets its time. */
static void test_small_steps_of_tax(void **state)
{
	struct target *target = NULL;
	struct driver drv;
	struct order order = { .target = &target, .drv = &drv };
	uint64_t begin;

	(void)state;
	start(&drv, F_VERSION_1 | F_TELL);
	in_loop(&order, create);
	assert_non_null(target);
	assert_int_equal(state_of(&order), TARGET_REACHED);
	order.tax = frames_to_bytes(2);
	in_loop(&order, set_tax);
	begin = now_ms();
	while (now_ms() - begin < TARGET_STALL_MS + 500) {
		sleep_ms(200);
		order.tax += GUEST_PAGE_SIZE;
		in_loop(&order, set_tax);
	}
	sleep_ms(100);
	assert_int_equal(stats(&drv).target, order.tax);
	assert_int_equal(state_of(&order), TARGET_BUSY);

	order.tax = 0;
	in_loop(&order, set_tax);
	sleep_ms(100);
	assert_int_equal(state_of(&order), TARGET_REACHED);
	order.tax = frames_to_bytes(1);
	in_loop(&order, set_tax);
	sleep_ms(100);
	assert_int_equal(state_of(&order), TARGET_MOVING);
	in_loop(&order, destroy);
	host_destroy(drv.th);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_small_steps_of_tax),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
