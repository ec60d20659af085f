/* SPDX-License-Identifier: MIT */
/* The model (mm_model.h) on larger pools. */
#define MODEL_OPS_PLAIN 3500000
#include "tests/model/mm_model.h"

/* All zones, with room for blocks and for caches. */
static void test_model_zones_larger(void **state)
{
	static uint64_t phys[300];
	struct mm_config config = {
		.nr_nodes = 2,
		.nr_cpus = 2,
		.pageblock_order = 3,
		.node[0] = { .spanned = 300, .phys_pfn = phys, .movable = 70, .highmem = 30 },
		.node[1] = { .spanned = 177, .phys_base = PHYS_NORMAL, .movable = 64 },
	};

	(void)state;
	for (unsigned int i = 0; i < 300; i++)
		phys[i] = i < 20 ? i % 8 : i < 100 ? 100 + i : PHYS_NORMAL + i;
	model_run(&config, 40, 1);
}

/* Four nodes of 16 GiB each, and the kernel's pageblocks. */
static void test_model_many_frames(void **state)
{
	struct mm_config config = { .nr_nodes = 4, .nr_cpus = 4 };

	(void)state;
	for (unsigned int nid = 0; nid < 4; nid++) {
		config.node[nid].spanned = 8192;
		config.node[nid].phys_base = PHYS_NORMAL;
		config.node[nid].movable = nid * 1000;
	}
	model_run(&config, 60, 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_model_zones_larger),
		cmocka_unit_test(test_model_many_frames),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
