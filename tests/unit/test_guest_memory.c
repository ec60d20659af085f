/* SPDX-License-Identifier: MIT */
/* The accessors to guest memory: bounds, overflow, regions side by side. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "framevisor/guest_memory.h"

#define NR_FRAMES 4

static uint8_t *ram; /* NR_FRAMES frames, frame aligned */

static int setup(void **state)
{
	(void)state;
	ram = aligned_alloc(FRAME_SIZE, NR_FRAMES * FRAME_SIZE);
	if (!ram)
		return -1;
	memset(ram, 0, NR_FRAMES * FRAME_SIZE);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	free(ram);
	return 0;
}

static void test_add_region_checks(void **state)
{
	struct guest_memory gm = { 0 };

	(void)state;
	assert_int_equal(guest_memory_add_region(&gm, 0, 0, ram), -EINVAL);
	assert_int_equal(guest_memory_add_region(&gm, 4096, FRAME_SIZE, ram), -EINVAL);
	assert_int_equal(guest_memory_add_region(&gm, 0, FRAME_SIZE + 1, ram), -EINVAL);
	assert_int_equal(guest_memory_add_region(&gm, 0, FRAME_SIZE, ram + 4096), -EINVAL);
	assert_int_equal(guest_memory_add_region(&gm, 0, FRAME_SIZE, NULL), -EINVAL);
	assert_int_equal(guest_memory_add_region(&gm, FRAME_MASK, 2 * FRAME_SIZE, ram), -EINVAL);
	assert_int_equal(gm.nr_regions, 0);

	assert_int_equal(guest_memory_add_region(&gm, 2 * FRAME_SIZE, 2 * FRAME_SIZE, ram), 0);
	assert_int_equal(guest_memory_add_region(&gm, 3 * FRAME_SIZE, FRAME_SIZE, ram), -EEXIST);
	assert_int_equal(guest_memory_add_region(&gm, FRAME_SIZE, 2 * FRAME_SIZE, ram), -EEXIST);
	assert_int_equal(guest_memory_add_region(&gm, 0, 8 * FRAME_SIZE, ram), -EEXIST);
	assert_int_equal(guest_memory_size(&gm), 2 * FRAME_SIZE);
}

static void test_regions_sorted_and_limited(void **state)
{
	struct guest_memory gm = { 0 };

	(void)state;
	/* From the top down, every second frame. */
	for (unsigned int i = GUEST_REGIONS_MAX; i-- > 0;)
		assert_int_equal(guest_memory_add_region(&gm, 2 * i * FRAME_SIZE, FRAME_SIZE, ram),
				 0);
	for (unsigned int i = 0; i < GUEST_REGIONS_MAX; i++)
		assert_int_equal(gm.regions[i].gpa, 2 * i * FRAME_SIZE);
	assert_int_equal(
		guest_memory_add_region(&gm, 2 * GUEST_REGIONS_MAX * FRAME_SIZE, FRAME_SIZE, ram),
		-ENOSPC);
	assert_int_equal(guest_memory_size(&gm), GUEST_REGIONS_MAX * FRAME_SIZE);
}

/* Two regions that touch (frames 1 and 2, swapped in host memory) and one at the very top. */
#define TOP (0 - 2 * FRAME_SIZE)
static void add_three(struct guest_memory *gm)
{
	assert_int_equal(guest_memory_add_region(gm, TOP, FRAME_SIZE, ram + 2 * FRAME_SIZE), 0);
	assert_int_equal(guest_memory_add_region(gm, 2 * FRAME_SIZE, FRAME_SIZE, ram), 0);
	assert_int_equal(guest_memory_add_region(gm, FRAME_SIZE, FRAME_SIZE, ram + FRAME_SIZE), 0);
}

static void test_ptr_bounds(void **state)
{
	struct guest_memory gm = { 0 };

	(void)state;
	add_three(&gm);
	assert_null(guest_ptr(&gm, FRAME_SIZE - 1, 1));
	assert_null(guest_ptr(&gm, FRAME_SIZE, 0));
	assert_ptr_equal(guest_ptr(&gm, FRAME_SIZE, 1), ram + FRAME_SIZE);
	assert_ptr_equal(guest_ptr(&gm, FRAME_SIZE, FRAME_SIZE), ram + FRAME_SIZE);
	/* Adjacent regions are not contiguous in the host. */
	assert_null(guest_ptr(&gm, FRAME_SIZE, FRAME_SIZE + 1));
	assert_ptr_equal(guest_ptr(&gm, 3 * FRAME_SIZE - 1, 1), ram + FRAME_SIZE - 1);
	assert_null(guest_ptr(&gm, 3 * FRAME_SIZE - 1, 2));
	assert_null(guest_ptr(&gm, 3 * FRAME_SIZE, 1));
	/* Lengths that wrap. */
	assert_null(guest_ptr(&gm, 2 * FRAME_SIZE, UINT64_MAX));
	assert_null(guest_ptr(&gm, 2 * FRAME_SIZE + 8, UINT64_MAX - 7));
	assert_null(guest_ptr(&gm, TOP + 8, UINT64_MAX));
	assert_null(guest_ptr(&gm, UINT64_MAX, 1));
	assert_ptr_equal(guest_ptr(&gm, TOP + FRAME_SIZE - 1, 1), ram + 3 * FRAME_SIZE - 1);
}

static void test_copies_span_regions(void **state)
{
	struct guest_memory gm = { 0 };
	uint8_t out[64], in[64];

	(void)state;
	add_three(&gm);
	for (unsigned int i = 0; i < sizeof(out); i++)
		out[i] = (uint8_t)(i + 1);
	assert_int_equal(guest_write(&gm, 2 * FRAME_SIZE - 20, out, sizeof(out)), 0);
	assert_memory_equal(ram + 2 * FRAME_SIZE - 20, out, 20);
	assert_memory_equal(ram, out + 20, 44);
	assert_int_equal(guest_read(&gm, 2 * FRAME_SIZE - 20, in, sizeof(in)), 0);
	assert_memory_equal(in, out, sizeof(in));
	assert_int_equal(guest_read(&gm, 0, in, 0), 0);
}

static void test_copies_refuse(void **state)
{
	struct guest_memory gm = { 0 };
	uint8_t buf[64] = { 0xff };

	(void)state;
	add_three(&gm);
	memset(ram, 0, NR_FRAMES * FRAME_SIZE);
	/* The end lies outside: not even the part inside is written. */
	assert_int_equal(guest_write(&gm, 3 * FRAME_SIZE - 8, buf, sizeof(buf)), -EFAULT);
	assert_int_equal(ram[FRAME_SIZE - 8], 0);
	assert_int_equal(guest_read(&gm, 3 * FRAME_SIZE - 8, buf, sizeof(buf)), -EFAULT);
	assert_int_equal(guest_read(&gm, FRAME_SIZE - 1, buf, 2), -EFAULT);
	assert_int_equal(guest_write(&gm, 0, buf, 1), -EFAULT);
	assert_int_equal(guest_write(&gm, FRAME_SIZE, buf, UINT64_MAX), -EFAULT);
	assert_int_equal(guest_write(&gm, TOP + FRAME_SIZE - 8, buf, 16), -EFAULT);
	assert_int_equal(guest_read(&gm, UINT64_MAX, buf, 2), -EFAULT);
}

static void test_frame_valid(void **state)
{
	struct guest_memory gm = { 0 };

	(void)state;
	add_three(&gm);
	assert_false(guest_frame_valid(&gm, 0));
	assert_true(guest_frame_valid(&gm, FRAME_SIZE));
	assert_true(guest_frame_valid(&gm, 2 * FRAME_SIZE));
	assert_false(guest_frame_valid(&gm, FRAME_SIZE + GUEST_PAGE_SIZE));
	assert_false(guest_frame_valid(&gm, 3 * FRAME_SIZE));
	assert_true(guest_frame_valid(&gm, TOP));
	assert_false(guest_frame_valid(&gm, TOP + FRAME_SIZE));
}

/* Frames 0-3 of which some are plugged; one plain region right behind. */
static void test_pluggable(void **state)
{
	struct guest_memory gm = { 0 };
	uint64_t plugged[1] = { 0 };
	uint8_t buf[32] = { 0 };

	(void)state;
	assert_int_equal(guest_memory_add_pluggable(&gm, 0, 3 * FRAME_SIZE, ram, NULL), -EINVAL);
	assert_int_equal(guest_memory_add_pluggable(&gm, 0, 3 * FRAME_SIZE, ram, plugged), 0);
	assert_int_equal(
		guest_memory_add_region(&gm, 3 * FRAME_SIZE, FRAME_SIZE, ram + 3 * FRAME_SIZE), 0);
	assert_int_equal(guest_memory_size(&gm), FRAME_SIZE);
	assert_null(guest_ptr(&gm, 0, 1));
	assert_false(guest_frame_valid(&gm, FRAME_SIZE));
	assert_int_equal(guest_read(&gm, 3 * FRAME_SIZE - 8, buf, 16), -EFAULT);

	assert_int_equal(guest_memory_set_plugged(&gm, FRAME_SIZE, 2, true), 0);
	assert_int_equal(guest_memory_size(&gm), 3 * FRAME_SIZE);
	assert_ptr_equal(guest_ptr(&gm, FRAME_SIZE, 2 * FRAME_SIZE), ram + FRAME_SIZE);
	assert_ptr_equal(guest_ptr(&gm, 2 * FRAME_SIZE - 1, 2), ram + 2 * FRAME_SIZE - 1);
	assert_null(guest_ptr(&gm, FRAME_SIZE - 1, 2));
	assert_null(guest_ptr(&gm, FRAME_SIZE, 2 * FRAME_SIZE + 1));
	assert_null(guest_ptr(&gm, FRAME_SIZE, UINT64_MAX));
	assert_int_equal(guest_read(&gm, 3 * FRAME_SIZE - 8, buf, 16), 0);
	assert_int_equal(guest_write(&gm, FRAME_SIZE - 8, buf, 16), -EFAULT);

	assert_int_equal(guest_memory_set_plugged(&gm, 2 * FRAME_SIZE, 1, false), 0);
	assert_ptr_equal(guest_ptr(&gm, FRAME_SIZE, FRAME_SIZE), ram + FRAME_SIZE);
	assert_null(guest_ptr(&gm, 2 * FRAME_SIZE - 1, 2));
	assert_true(guest_frame_valid(&gm, FRAME_SIZE));
	assert_false(guest_frame_valid(&gm, 2 * FRAME_SIZE));
	assert_int_equal(guest_read(&gm, 2 * FRAME_SIZE - 8, buf, 16), -EFAULT);

	/* Not in it, not all in it, not aligned. */
	assert_int_equal(guest_memory_set_plugged(&gm, 3 * FRAME_SIZE, 1, true), -EINVAL);
	assert_int_equal(guest_memory_set_plugged(&gm, 2 * FRAME_SIZE, 2, true), -EINVAL);
	assert_int_equal(guest_memory_set_plugged(&gm, 4096, 1, true), -EINVAL);
	assert_int_equal(guest_memory_set_plugged(&gm, FRAME_SIZE, UINT64_MAX, true), -EINVAL);
	assert_int_equal(guest_memory_size(&gm), 2 * FRAME_SIZE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_add_region_checks),
		cmocka_unit_test(test_regions_sorted_and_limited),
		cmocka_unit_test(test_ptr_bounds),
		cmocka_unit_test(test_copies_span_regions),
		cmocka_unit_test(test_copies_refuse),
		cmocka_unit_test(test_frame_valid),
		cmocka_unit_test(test_pluggable),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
