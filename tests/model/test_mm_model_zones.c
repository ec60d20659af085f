/* SPDX-License-Identifier: MIT */
/* The model (mm_model.h) on pools of few frames: all zones, validated after each operation. */
#define MODEL_OPS_PLAIN 3000000
#include "tests/model/mm_model.h"

/* Every operation on every zone of two nodes; odd sizes, zones that interleave in a block. */
static void test_model_zones(void **state)
{
	static uint64_t phys[90];
	struct mm_config config = {
		.nr_nodes = 2,
		.nr_cpus = 3,
		.node[0] = { .spanned = 90, .phys_pfn = phys, .movable = 20, .highmem = 15 },
		.node[1] = { .spanned = 37, .phys_base = PHYS_NORMAL },
	};

	(void)state;
	for (unsigned int i = 0; i < 90; i++)
		phys[i] = i % 17 == 3 ? i % 8 : i % 5 == 0 ? 100 + i : PHYS_NORMAL + i;
	model_run(&config, 70, 1);
}

/* A pool of a handful of frames. */
static void test_model_tiny(void **state)
{
	struct mm_config config = {
		.nr_nodes = 1,
		.nr_cpus = 1,
		.node[0] = { .spanned = 9, .phys_base = PHYS_NORMAL },
	};

	(void)state;
	model_run(&config, 30, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_model_zones),
		cmocka_unit_test(test_model_tiny),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
