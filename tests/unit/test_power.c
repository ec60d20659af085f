/* SPDX-License-Identifier: MIT */
/* ACPI fixed hardware, reset register, keyboard controller's reset. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <time.h>

#include "framevisor/clock.h"
#include "tests/unit/device_host.h"

#define STS LAYOUT_PORT_PM
#define EN  (LAYOUT_PORT_PM + 2)
#define CNT (LAYOUT_PORT_PM + 4)
#define TMR (LAYOUT_PORT_PM + 8)

#define PWRBTN 0x100
#define SLP_EN 0x2000

static void switches_off(void **state)
{
	struct test_host *th = host_create(false);

	(void)state;
	assert_int_equal(host_in(th, CNT, 2), 1); /* SCI_EN: always in ACPI mode */
	host_out(th, CNT, POWER_S5_SLP_TYP << 10, 2);
	assert_int_equal(th->power_off, 0);
	host_out(th, CNT, POWER_S5_SLP_TYP << 10 | SLP_EN, 2);
	assert_int_equal(th->power_off, 1);
	assert_int_equal(host_in(th, CNT, 2) & SLP_EN, 0);
	host_out(th, CNT, 1 << 10 | SLP_EN, 2); /* S1 was never offered */
	assert_int_equal(th->power_off, 1);
	assert_int_equal(host_in(th, STS, 2), 0x8000); /* awake again */
	/* Byte accesses, as ACPI allows. */
	host_out(th, CNT + 1, (POWER_S5_SLP_TYP << 10 | SLP_EN) >> 8, 1);
	assert_int_equal(th->power_off, 2);
	host_destroy(th);
}

static void button(void **state)
{
	struct test_host *th = host_create(false);
	struct device *dev = power_device(th->set.power);

	(void)state;
	assert_false(power_button(th->set.power));
	host_out(th, EN, 0xffff, 2);
	assert_int_equal(host_in(th, EN, 2), 0x0721);
	assert_int_equal(host_in(th, STS, 2), 0); /* the press was not remembered */
	assert_false(th->lines[LAYOUT_GSI_SCI]);
	assert_true(power_button(th->set.power));
	assert_true(th->lines[LAYOUT_GSI_SCI]);
	assert_int_equal(host_in(th, STS, 4), 0x07210000 | PWRBTN);
	host_out(th, STS, 1, 2); /* another bit */
	assert_true(th->lines[LAYOUT_GSI_SCI]);
	host_out(th, STS, PWRBTN, 2);
	assert_false(th->lines[LAYOUT_GSI_SCI]);
	assert_int_equal(host_in(th, STS, 2), 0);
	power_button(th->set.power);
	host_out(th, EN, 0, 2);
	assert_false(th->lines[LAYOUT_GSI_SCI]);
	host_out(th, EN, PWRBTN, 2);
	assert_true(th->lines[LAYOUT_GSI_SCI]);
	dev->ops->reset(dev);
	assert_false(th->lines[LAYOUT_GSI_SCI]);
	assert_int_equal(host_in(th, STS, 4), 0);
	host_destroy(th);
}

static void timer_runs(void **state)
{
	struct test_host *th = host_create(false);
	struct timespec pause = { .tv_nsec = 20000000 };
	uint32_t before, ticks;
	uint64_t begin;
	double seconds;

	(void)state;
	begin = now_ns();
	before = (uint32_t)host_in(th, TMR, 4);
	nanosleep(&pause, NULL);
	ticks = (uint32_t)host_in(th, TMR, 4) - before;
	seconds = (double)(now_ns() - begin) / 1e9;
	assert_true(ticks >= 0.020 * 3579545 - 1);
	assert_true(ticks <= seconds * 3579545 + 2);
	host_out(th, TMR, 0, 4); /* read only */
	assert_true((uint32_t)host_in(th, TMR, 4) - before >= ticks);
	/* The parts of one wide read are those of the narrow ones. */
	assert_int_equal((uint32_t)host_in(th, LAYOUT_PORT_PM, 8), host_in(th, STS, 4));
	host_destroy(th);
}

static void resets(void **state)
{
	struct test_host *th = host_create(false);

	(void)state;
	host_out(th, LAYOUT_PORT_RESET, 0x02, 1);
	assert_int_equal(th->power_reset, 0);
	host_out(th, LAYOUT_PORT_RESET, POWER_RESET_VALUE, 1);
	assert_int_equal(th->power_reset, 1);
	host_out(th, LAYOUT_PORT_I8042, 0xd1, 1);
	assert_int_equal(th->power_reset, 1);
	assert_int_equal(host_in(th, LAYOUT_PORT_I8042, 1) & 2, 0); /* room for a command */
	host_out(th, LAYOUT_PORT_I8042, 0xfe, 1);
	assert_int_equal(th->power_reset, 2);
	assert_int_equal(th->power_off, 0);
	host_destroy(th);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(switches_off),
		cmocka_unit_test(button),
		cmocka_unit_test(timer_runs),
		cmocka_unit_test(resets),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
