/* SPDX-License-Identifier: MIT */
/* run's --mem: what its forms mean, and one clear sentence for each nonsense. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "vmm/cli/mem_option.h"

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

static void expect(const char *text, uint64_t boot, uint64_t size, uint64_t max)
{
	struct mem_option mem = { 0 };
	struct error err = { 0 };

	if (mem_option_parse(text, &mem, &err) != 0)
		fail_msg("'%s' was refused: %s", text, err.message);
	if (mem.boot != boot || mem.size != size || mem.max != max)
		fail_msg("'%s' gave boot %llu, size %llu, max %llu MiB", text,
			 (unsigned long long)(mem.boot / MIB), (unsigned long long)(mem.size / MIB),
			 (unsigned long long)(mem.max / MIB));
}

/* The message names what is wrong, and is one line. */
static void refuse(const char *text, const char *word)
{
	struct mem_option mem = { 0 };
	struct error err = { 0 };

	assert_true(mem_option_parse(text, &mem, &err) < 0);
	assert_true(strncmp(err.message, "--mem", 5) == 0);
	assert_null(strchr(err.message, '\n'));
	if (!strstr(err.message, word))
		fail_msg("'%s': '%s' does not say '%s'", text, err.message, word);
}

static void test_forms(void **state)
{
	(void)state;
	expect("512M", 512 * MIB, 512 * MIB, 512 * MIB);
	expect("512", 512 * MIB, 512 * MIB, 512 * MIB);
	expect("4M", 4 * MIB, 4 * MIB, 4 * MIB);
	expect("512M,max=4G", 512 * MIB, 512 * MIB, 4 * GIB);
	expect("512M,max=512M", 512 * MIB, 512 * MIB, 512 * MIB);
	expect("2G,boot=512M", 512 * MIB, 2 * GIB, 2 * GIB);
	expect("2G,boot=2G", 2 * GIB, 2 * GIB, 2 * GIB);
	expect("2G,boot=512M,max=8G", 512 * MIB, 2 * GIB, 8 * GIB);
	expect("2G,max=8G,boot=512M", 512 * MIB, 2 * GIB, 8 * GIB);
}

static void test_minimum(void **state)
{
	struct mem_option mem = { 0 };
	struct error err = { 0 };

	(void)state;
	assert_int_equal(mem_option_parse("512M,min=256M,max=1G", &mem, &err), 0);
	assert_int_equal(mem.min, 256 * MIB);
	assert_int_equal(mem_option_parse("512M,min=1G,max=1G", &mem, &err), 0);
	assert_int_equal(mem_option_parse("512M", &mem, &err), 0);
	assert_int_equal(mem.min, 0);
	refuse("512M,min=514M", "min=514 MiB");
	refuse("512M,min=256M,min=256M", "twice");
	refuse("512M,min=5M", "multiple");
}

/* A quarter, at least 256 MiB, whole frames. */
static void test_elastic(void **state)
{
	(void)state;
	expect("2G,elastic=on", 512 * MIB, 2 * GIB, 2 * GIB);
	expect("512M,elastic=on", 256 * MIB, 512 * MIB, 512 * MIB);
	expect("258M,elastic=on", 256 * MIB, 258 * MIB, 258 * MIB);
	expect("1030M,elastic=on", 258 * MIB, 1030 * MIB, 1030 * MIB);
	expect("1G,elastic=on,max=4G", 256 * MIB, GIB, 4 * GIB);
	expect("1G,elastic=off", GIB, GIB, GIB);
	expect("1G,boot=512M,elastic=off", 512 * MIB, GIB, GIB);
	refuse("256M,elastic=on", "too little");
	refuse("4M,elastic=on", "too little");
	refuse("2G,elastic=on,boot=512M", "boot=");
	refuse("2G,elastic=yes", "'yes'");
	refuse("2G,elastic=", "''");
	refuse("2G,elastic", "'elastic'");
	refuse("2G,elastic=on,elastic=off", "twice");
}

static void test_sizes(void **state)
{
	(void)state;
	refuse("", "size");
	refuse("0", "too small");
	refuse("3", "--mem 3 is");
	refuse("lots", "lots");
	refuse("-512M", "-512M");
	refuse("513M", "--mem 513M is not a multiple of 2 MiB");
	refuse("99999999999999999999G", "99999999999999999999G");
	refuse("512M,max=lots", "lots");
	refuse("512M,max=", "max");
	refuse("512M,max=0", "too small for max");
	refuse("512M,max=513M", "multiple");
	refuse("512M,boot=3M", "too small for boot");
	refuse("512M,boot=5M", "multiple");
}

static void test_combinations(void **state)
{
	(void)state;
	refuse("1G,max=512M", "less than the size");
	refuse("512M,boot=1G", "more than the size");
	refuse("512M,max=1G,max=2G", "twice");
	refuse("512M,boot=64M,boot=64M", "twice");
	refuse("512M,", "''");
	refuse("512M,,max=1G", "''");
	refuse("512M,size=1G", "'size=1G'");
	refuse("512M,max", "'max'");
	refuse("512M max=1G", "512M max=1G");
	refuse("max=1G", "max=1G");
	refuse(",max=1G", "size");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_forms),        cmocka_unit_test(test_minimum),
		cmocka_unit_test(test_elastic),      cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_combinations),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
