/* SPDX-License-Identifier: MIT */
/* The real time clock: number formats, setting, CMOS memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <time.h>

#include "tests/unit/device_host.h"

static uint8_t cmos(struct test_host *th, uint8_t reg)
{
	host_out(th, LAYOUT_PORT_RTC, reg, 1);
	return (uint8_t)host_in(th, LAYOUT_PORT_RTC + 1, 1);
}

static void set_cmos(struct test_host *th, uint8_t reg, uint8_t value)
{
	host_out(th, LAYOUT_PORT_RTC, reg, 1);
	host_out(th, LAYOUT_PORT_RTC + 1, value, 1);
}

static int bcd(uint8_t value)
{
	assert_true((value & 0xf) < 10 && value >> 4 < 10);
	return (value >> 4) * 10 + (value & 0xf);
}

static int plain(uint8_t value)
{
	return value;
}

static time_t guest_time(struct test_host *th, int (*number)(uint8_t))
{
	struct tm tm = { .tm_sec = number(cmos(th, 0)),
			 .tm_min = number(cmos(th, 2)),
			 .tm_hour = number(cmos(th, 4)),
			 .tm_mday = number(cmos(th, 7)),
			 .tm_mon = number(cmos(th, 8)) - 1,
			 .tm_year = number(cmos(th, 0x32)) * 100 + number(cmos(th, 9)) - 1900 };
	time_t t = timegm(&tm);

	assert_int_equal(number(cmos(th, 6)), tm.tm_wday + 1);
	return t;
}

static void tells_utc(void **state)
{
	struct test_host *th = host_create(false);

	(void)state;
	assert_int_equal(cmos(th, 0x0b), 0x02);
	assert_int_equal(cmos(th, 0x0d), 0x80);
	assert_int_equal(cmos(th, 0x0a) & 0x7f, 0x26);
	assert_in_range(guest_time(th, bcd) - time(NULL) + 2, 0, 4);
	set_cmos(th, 0x0b, 0x06);
	assert_in_range(guest_time(th, plain) - time(NULL) + 2, 0, 4);
	host_destroy(th);
}

static void twelve_hours(void **state)
{
	struct test_host *th = host_create(false);

	(void)state;
	set_cmos(th, 0x0b, 0x80 | 0x02);
	set_cmos(th, 4, 0x00);
	set_cmos(th, 0x0b, 0x80);
	assert_int_equal(cmos(th, 4), 0x12);
	set_cmos(th, 4, 0x80 | 0x11);
	set_cmos(th, 0x0b, 0x80 | 0x02);
	assert_int_equal(cmos(th, 4), 0x23);
	set_cmos(th, 4, 0x12);
	set_cmos(th, 0x0b, 0x80 | 0x04);
	assert_int_equal(cmos(th, 4), 0x80 | 12);
	host_destroy(th);
}

/* As a stock kernel sets the clock: stop, write all, go. */
static void can_be_set(void **state)
{
	struct test_host *th = host_create(false);
	static const uint8_t value[][2] = { { 0, 0x50 }, { 2, 0x59 }, { 4, 0x23 },   { 7, 0x28 },
					    { 8, 0x02 }, { 9, 0x24 }, { 0x32, 0x20 } };
	time_t t;

	(void)state;
	set_cmos(th, 0x0b, 0x82);
	for (unsigned int i = 0; i < sizeof(value) / sizeof(value[0]); i++)
		set_cmos(th, value[i][0], value[i][1]);
	assert_int_equal(cmos(th, 0), 0x50); /* stopped */
	assert_int_equal(cmos(th, 0x0a) & 0x80, 0);
	set_cmos(th, 0x0b, 0x02);
	t = guest_time(th, bcd);
	assert_in_range(t, 1709164790, 1709164793); /* 2024-02-28 23:59:50 */
	set_cmos(th, 8, 0x03);                      /* one field, running */
	assert_in_range(guest_time(th, bcd) - t, 29 * 86400, 29 * 86400 + 2);
	host_destroy(th);
}

static void nonsense_is_survived(void **state)
{
	struct test_host *th = host_create(false);

	(void)state;
	for (unsigned int mode = 0; mode < 256; mode += 2) {
		set_cmos(th, 0x0b, (uint8_t)mode);
		for (unsigned int reg = 0; reg < 10; reg++)
			set_cmos(th, (uint8_t)reg, (uint8_t)(mode * 7 + reg * 31));
		set_cmos(th, 0x32, mode & 8 ? 0 : 0xff);
		for (unsigned int reg = 0; reg < 128; reg++)
			cmos(th, (uint8_t)reg);
	}
	host_destroy(th);
}

static void memory_lasts(void **state)
{
	struct test_host *th = host_create(false);
	struct device *dev;

	(void)state;
	set_cmos(th, 0x0f, 0x0a);
	set_cmos(th, 0x7f, 0x55);
	assert_int_equal(cmos(th, 0x80 | 0x7f), 0x55); /* bit 7 of the index masks NMI */
	assert_int_equal(cmos(th, 0x0c), 0);
	for (dev = th->set.last; dev; dev = dev->next)
		dev->ops->reset(dev);
	assert_int_equal(cmos(th, 0x0f), 0x0a);
	assert_int_equal(cmos(th, 0x0b), 0x02);
	host_destroy(th);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tells_utc),    cmocka_unit_test(twelve_hours),
		cmocka_unit_test(can_be_set),   cmocka_unit_test(nonsense_is_survived),
		cmocka_unit_test(memory_lasts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
