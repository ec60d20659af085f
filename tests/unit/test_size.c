/* SPDX-License-Identifier: MIT */
/* Sizes as people write them: what is accepted, what is refused, and how sizes are shown. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "framevisor/size.h"

#define KIB UINT64_C(1024)
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)
#define TIB (1024 * GIB)

static void accepts(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} cases[] = {
		{ "0", 0 },
		{ "1", MIB },
		{ "512", 512 * MIB },
		{ "512M", 512 * MIB },
		{ "512m", 512 * MIB },
		{ "512MiB", 512 * MIB },
		{ "512MB", 512 * MIB },
		{ "2G", 2 * GIB },
		{ "3T", 3 * TIB },
		{ "64K", 64 * KIB },
		{ "4096B", 4096 },
		{ "1.5G", GIB + GIB / 2 },
		{ "0.5M", MIB / 2 },
		{ "0.25", MIB / 4 },
		{ "1.999999999999999999999999999999K", 2047 },
		{ "0000000000000000000000001G", GIB },
		{ "16777215.5T", (UINT64_C(16777215) << 40) + TIB / 2 },
		{ "18446744073709551615B", UINT64_MAX },
		{ "17592186044415M", UINT64_C(17592186044415) << 20 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct error err = { 0 };
		uint64_t bytes = 77;

		assert_int_equal(size_parse(cases[i].text, &bytes, &err), 0);
		assert_int_equal(bytes, cases[i].bytes);
		assert_int_equal(err.code, 0);
	}
}

static void refuses(void **state)
{
	static const char *const invalid[] = {
		"",     "M",     "-1",     "-1G", "+1G",  " 1G",   "1G ",  "1 G",
		"1X",   "1GG",   "1Gi",    "1iB", "1.G",  ".5G",   "1,5G", "0x10M",
		"1e3M", "1..5G", "1.5.5G", "nan", "infG", "1GiBB", "1MBi", "१G",
	};
	static const char *const large[] = {
		"18446744073709551616B",
		"16777216T",
		"17592186044416M",
		"17592186044416",
		"99999999999999999999999999",
		"99999999999999999999999999G",
		"16777216.0T",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(invalid) / sizeof(invalid[0]); i++) {
		struct error err = { 0 };
		uint64_t bytes = 77;

		assert_int_equal(size_parse(invalid[i], &bytes, &err), -EINVAL);
		assert_non_null(strstr(err.message, invalid[i]));
	}
	for (size_t i = 0; i < sizeof(large) / sizeof(large[0]); i++) {
		struct error err = { 0 };
		uint64_t bytes = 77;

		assert_int_equal(size_parse(large[i], &bytes, &err), -ERANGE);
		assert_non_null(strstr(err.message, large[i]));
	}
}

static void shows(void **state)
{
	static const struct {
		uint64_t bytes;
		const char *text;
	} cases[] = {
		{ 0, "0 B" },
		{ 1, "1 B" },
		{ 1023, "1023 B" },
		{ KIB, "1 KiB" },
		{ 512 * MIB, "512 MiB" },
		{ GIB + GIB / 2, "1.5 GiB" },
		{ 2 * TIB, "2 TiB" },
		{ 5000 * TIB, "5000 TiB" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char text[SIZE_TEXT_MAX];

		assert_ptr_equal(size_format(cases[i].bytes, text, sizeof(text)), text);
		assert_string_equal(text, cases[i].text);
	}
}

/* A buffer that is too small cuts the text and nothing else. */
static void shows_in_small_buffer(void **state)
{
	char text[5] = "####";

	(void)state;
	size_format(512 * MIB, text, 4);
	assert_string_equal(text, "512");
	assert_int_equal(text[4], 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(accepts),
		cmocka_unit_test(refuses),
		cmocka_unit_test(shows),
		cmocka_unit_test(shows_in_small_buffer),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
