/* SPDX-License-Identifier: MIT */
/* The model (mm_model.h) on pools with blocks of all orders, and where most memory comes and goes.
 */
#define MODEL_OPS_PLAIN 3500000
#include "tests/model/mm_model.h"

/* Orders up to 9, validated after each operation. */
static void test_model_blocks(void **state)
{
	struct mm_config config = {
		.nr_nodes = 1,
		.nr_cpus = 2,
		.node[0] = { .spanned = 1024, .phys_base = PHYS_NORMAL },
		.pageblock_order = 5,
	};

	(void)state;
	model_run(&config, 25, 1);
}

/* Two nodes, one of which comes and goes nearly as a whole. */
static void test_model_movable(void **state)
{
	struct mm_config config = {
		.nr_nodes = 2,
		.nr_cpus = 1,
		.node[0] = { .spanned = 40, .phys_base = PHYS_NORMAL },
		.node[1] = { .spanned = 64, .phys_base = PHYS_NORMAL, .movable = 60 },
		.pageblock_order = 2,
	};

	(void)state;
	model_run(&config, 75, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_model_blocks),
		cmocka_unit_test(test_model_movable),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
