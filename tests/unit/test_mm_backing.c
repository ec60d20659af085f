/* SPDX-License-Identifier: MIT */
/* Host memory behind the frames (mm/backing.c). The hugetlb parts are skipped where the host has no
 * free hugepages; shortage is tested everywhere. */
#include <errno.h>
#include <sys/stat.h>

#include "framevisor/backing.h"
#include "tests/unit/mm_pool.h"
#include "tests/unit/skip.h"

static bool count_progress(void *opaque, uint64_t done, uint64_t nr)
{
	uint64_t *last = opaque;

	assert_true(done >= *last && done <= nr);
	*last = done;
	return true;
}

static bool give_up(void *opaque, uint64_t done, uint64_t nr)
{
	(void)opaque;
	(void)done;
	(void)nr;
	return false;
}

static uint64_t file_bytes(const struct backing *backing)
{
	struct stat st;

	assert_int_equal(fstat(backing_fd(backing), &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static void use_backing(bool hugetlb)
{
	struct error err = { 0 };
	struct backing *backing;
	uint64_t pfns[8];
	uint64_t last = 0;
	char *base;

	assert_int_equal(backing_create(-1, 64, hugetlb, &backing, &err), 0);
	base = backing_base(backing);
	assert_int_equal((uintptr_t)base % FRAME_SIZE, 0);
	assert_int_equal(backing_populate(backing, 8, 8, count_progress, &last, &err), 0);
	assert_int_equal(last, 8);
	assert_int_equal(backing_populate(backing, 15, 2, NULL, NULL, NULL), -EINVAL);
	assert_int_equal(backing_populate(backing, 60, 5, NULL, NULL, NULL), -EINVAL);
	assert_int_equal(backing_populated(backing), 8);
	assert_int_equal(file_bytes(backing), 8 * FRAME_SIZE);
	for (uint64_t i = 8 * FRAME_SIZE; i < 16 * FRAME_SIZE; i += 4096)
		assert_int_equal(base[i], 0);
	base[8 * FRAME_SIZE] = 1;
	if (backing_phys_pfns(backing, 8, 8, pfns) == 0 && hugetlb)
		for (unsigned int i = 0; i < 8; i++)
			assert_true(pfns[i] != 0);
	/* The memory must really go, whatever the call returns. */
	assert_int_equal(backing_depopulate(backing, 8, 4), 0);
	assert_int_equal(backing_depopulate(backing, 8, 4), -EINVAL);
	assert_int_equal(file_bytes(backing), 4 * FRAME_SIZE);
	assert_int_equal(backing_populate(backing, 0, 12, NULL, NULL, &err), 0);
	assert_int_equal(base[8 * FRAME_SIZE], 0);
	backing_destroy(backing);
}

static void test_plain(void **state)
{
	(void)state;
	use_backing(false);
}

/* Adds to the host's number, as others may do at the same time. Returns false where it may not. */
static bool change_hugepages(int delta)
{
	FILE *file = fopen("/proc/sys/vm/nr_hugepages", "r+e");
	long nr = 0;
	bool done;

	if (!file)
		return false;
	done = fscanf(file, "%ld", &nr) == 1 && nr + delta >= 0;
	rewind(file);
	done = done && fprintf(file, "%ld\n", nr + delta) > 0;
	return fclose(file) == 0 && done;
}

static void test_hugetlb(void **state)
{
	bool raised = false;

	(void)state;
	if (backing_host_free_hugepages(-1) < 16)
		raised = change_hugepages(16);
	if (backing_host_free_hugepages(-1) < 16)
		skip_because("no hugepages to be had: reserve 16 of them");
	use_backing(true);
	if (raised)
		change_hugepages(-16);
}

static void test_create_errors(void **state)
{
	struct error err = { 0 };
	struct backing *backing;

	(void)state;
	assert_int_equal(backing_create(-1, 0, false, &backing, &err), -EINVAL);
	assert_int_equal(err.code, EINVAL);
	assert_null(backing);
	assert_int_equal(backing_create(-1, UINT64_MAX / 2, false, &backing, NULL), -EINVAL);
	backing_destroy(NULL);
}

/* More hugepages than the host has: an error, nothing left behind, no signal. */
static void test_short_host(void **state)
{
	uint64_t before = backing_host_free_hugepages(-1);
	struct error err = { 0 };
	struct backing *backing;

	(void)state;
	if (backing_create(-1, 1u << 20, true, &backing, &err) < 0)
		skip_because("this build cannot map 2 TiB of hugepages");
	assert_int_equal(backing_populate(backing, 0, before + 4096, NULL, NULL, &err), -ENOMEM);
	assert_non_null(strstr(err.message, "hugepages"));
	assert_int_equal(backing_populated(backing), 0);
	assert_int_equal(backing_host_free_hugepages(-1), before);
	backing_destroy(backing);
}

static void test_bad_node_and_cancel(void **state)
{
	struct error err = { 0 };
	struct backing *backing;

	(void)state;
	assert_int_equal(backing_create(900, 64, false, &backing, &err), 0);
	assert_true(backing_populate(backing, 0, 4, NULL, NULL, &err) < 0);
	assert_true(err.message[0] != 0);
	backing_destroy(backing);
	assert_int_equal(backing_create(-1, 256, false, &backing, NULL), 0);
	assert_int_equal(backing_populate(backing, 0, 256, give_up, NULL, NULL), -ECANCELED);
	assert_int_equal(file_bytes(backing), 0);
	backing_destroy(backing);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_plain),
		cmocka_unit_test(test_hugetlb),
		cmocka_unit_test(test_create_errors),
		cmocka_unit_test(test_short_host),
		cmocka_unit_test(test_bad_node_and_cancel),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
