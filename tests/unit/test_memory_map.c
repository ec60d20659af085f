/* SPDX-License-Identifier: MIT */
/* Where a guest's memory lies by node, what run's --numa means, and one sentence for each nonsense.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "framevisor/layout.h"
#include "vmm/cli/numa_option.h"
#include "vmm/memory_map.h"

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

static void expect_range(const struct memory_map *map, unsigned int i, uint64_t base, uint64_t size,
			 unsigned int node)
{
	assert_int_equal(map->range[i].base, base);
	assert_int_equal(map->range[i].size, size);
	assert_int_equal(map->range[i].node, node);
	assert_int_equal(map->range[i].hotplug, i >= map->nr_boot);
}

/* One node is what a machine without nodes has. */
static void test_one_node(void **state)
{
	struct vm_numa_node node = { .mem = 512 * MIB, .max = 512 * MIB };
	struct memory_map map;

	(void)state;
	memory_map_create(&map, &node, 1);
	assert_int_equal(map.nr, 1);
	expect_range(&map, 0, 0, 512 * MIB, 0);
	assert_int_equal(map.end, 512 * MIB);
	node.mem = 4 * GIB;
	node.max = 5 * GIB + 2 * MIB;
	memory_map_create(&map, &node, 1);
	assert_int_equal(map.nr, 3);
	assert_int_equal(map.nr_boot, 2);
	expect_range(&map, 0, 0, 3 * GIB, 0);
	expect_range(&map, 1, 4 * GIB, GIB, 0);
	expect_range(&map, 2, 6 * GIB, GIB + 128 * MIB, 0);
	assert_int_equal(map.hotplug_bytes, GIB + 128 * MIB);
	assert_int_equal(map.end, 7 * GIB + 128 * MIB);
}

/* The hole may lie in a node, between two, or beyond; each node has its own region for plugging. */
static void test_nodes(void **state)
{
	struct vm_numa_node nodes[] = { { .mem = 2 * GIB, .max = 3 * GIB },
					{ .mem = 2 * GIB, .max = 2 * GIB },
					{ .mem = 0, .max = 100 * MIB } };
	struct memory_map map;

	(void)state;
	memory_map_create(&map, nodes, 3);
	assert_int_equal(map.nr_boot, 3);
	assert_int_equal(map.nr, 5);
	expect_range(&map, 0, 0, 2 * GIB, 0);
	expect_range(&map, 1, 2 * GIB, GIB, 1);
	expect_range(&map, 2, 4 * GIB, GIB, 1);
	expect_range(&map, 3, 6 * GIB, GIB, 0);
	expect_range(&map, 4, 7 * GIB, 128 * MIB, 2);
	nodes[0].mem = 3 * GIB;
	memory_map_create(&map, nodes, 2);
	assert_int_equal(map.nr, 2);
	expect_range(&map, 0, 0, 3 * GIB, 0);
	expect_range(&map, 1, 4 * GIB, 2 * GIB, 1);
	/* Large guests add memory in units of 2 GiB. */
	nodes[1].max = 80 * GIB + 2 * MIB;
	memory_map_create(&map, nodes, 2);
	assert_int_equal(map.range[2].size, 80 * GIB);
	assert_int_equal(map.range[2].base % (2 * GIB), 0);
}

static void test_caches(void **state)
{
	struct vm_numa numa = { .nr = 2, .node = { { .cpus = 0x0f }, { .cpus = 0xf0 } } };

	(void)state;
	assert_int_equal(memory_map_cache_cpus(&numa, 8), 4);
	numa.node[0].cpus = 0x55;
	numa.node[1].cpus = 0xaa;
	assert_int_equal(memory_map_cache_cpus(&numa, 8), 1);
	numa.node[0].cpus = 0x7;
	numa.node[1].cpus = 0x38;
	assert_int_equal(memory_map_cache_cpus(&numa, 6), 1);
	numa.nr = 0;
	assert_int_equal(memory_map_cache_cpus(&numa, 6), 0);
}

/* ---- run's options ---- */

static int parse(struct vm_config *config, const char *mem, const struct cli_strings *nodes,
		 const struct cli_strings *dists, struct error *err)
{
	struct mem_option option = { 0 };
	int ret;

	error_clear(err);
	assert_int_equal(mem_option_parse(mem, &option, err), 0);
	config->mem_bytes = option.boot;
	config->mem_max = option.max;
	ret = numa_option_parse(nodes, dists, config->cpus, &option, &config->numa, err);
	return ret ? ret : memory_map_check(config, err);
}

static void test_options(void **state)
{
	const struct cli_strings none = { 0 };
	const struct cli_strings plain = { .nr = 2, .value = { "node=1", "node=0" } };
	const struct cli_strings full = {
		.nr = 2,
		.value = { "node=0,cpus=0,cpus=2-3,mem=256M,max=1G,host-node=0,policy=interleave",
			   "node=1,cpus=1,mem=128M,host-node=0" }
	};
	const struct cli_strings dists = { .nr = 1, .value = { "1:0=31" } };
	const struct cli_strings both = { .nr = 2, .value = { "1:0=31", "0:1=32" } };
	struct vm_config config = { .cpus = 5 };
	struct error err = { 0 };

	(void)state;
	assert_int_equal(parse(&config, "512M,max=1G", &plain, &none, &err), 0);
	assert_int_equal(config.numa.node[0].cpus, 0x07);
	assert_int_equal(config.numa.node[1].cpus, 0x18);
	assert_int_equal(config.numa.node[0].mem, 256 * MIB);
	assert_int_equal(config.numa.node[1].max, 512 * MIB);
	assert_int_equal(config.numa.node[0].policy, VM_MEMORY_ANY);
	assert_int_equal(config.numa.distance[0][1], 20);
	assert_int_equal(config.numa.distance[1][1], 10);

	config.cpus = 4;
	assert_int_equal(parse(&config, "384M,max=1152M", &full, &dists, &err), 0);
	assert_int_equal(config.numa.node[0].cpus, 0x0d);
	assert_int_equal(config.numa.node[0].policy, VM_MEMORY_INTERLEAVE);
	assert_int_equal(config.numa.node[1].policy, VM_MEMORY_BIND);
	assert_int_equal(config.numa.node[1].host_nodes, 1);
	assert_int_equal(config.numa.node[1].max, 128 * MIB);
	assert_int_equal(config.numa.distance[0][1], 31);
	assert_int_equal(config.numa.distance[1][0], 31);
	assert_int_equal(parse(&config, "384M,max=1152M", &full, &both, &err), 0);
	assert_int_equal(config.numa.distance[0][1], 32);
	assert_int_equal(config.numa.distance[1][0], 31);
	assert_int_equal(parse(&config, "512M", &none, &none, &err), 0);
	assert_int_equal(config.numa.nr, 0);
}

static void test_nonsense(void **state)
{
	static const struct {
		const char *first, *second, *dist, *word;
	} cases[] = {
		{ "cpus=0", NULL, NULL, "node=N" },
		{ "node=0,node=0", NULL, NULL, "twice" },
		{ "node=0", "node=0", NULL, "twice" },
		{ "node=1", NULL, NULL, "without gaps" },
		{ "node=9", NULL, NULL, "node=9" },
		{ "node=0,what=1", NULL, NULL, "'what'" },
		{ "node=0,mem", NULL, NULL, "'mem'" },
		{ "node=0,mem=x", NULL, NULL, "mem" },
		{ "node=0,mem=1M", NULL, NULL, "2 MiB" },
		{ "node=0,mem=256M,mem=256M", NULL, NULL, "twice" },
		{ "node=0,policy=bind", NULL, NULL, "host-node" },
		{ "node=0,host-node=0,policy=near", NULL, NULL, "'near'" },
		{ "node=0,host-node=63", NULL, NULL, "no node 63" },
		{ "node=0,host-node=64", NULL, NULL, "host-node=64" },
		{ "node=0,cpus=1-0", "node=1", NULL, "cpus=1-0" },
		{ "node=0,cpus=0,cpus=0", "node=1", NULL, "twice" },
		{ "node=0,cpus=0-1", "node=1,cpus=1", NULL, "CPU 1" },
		{ "node=0,cpus=0-2", "node=1", NULL, "no CPU 2" },
		{ "node=0,cpus=0", "node=1", NULL, "CPU 1 of 2 is in no node" },
		{ "node=0,mem=256M", "node=1,mem=128M", NULL, "384 MiB" },
		{ "node=0,mem=256M,max=1G", "node=1,mem=256M", NULL, "1.2 GiB" },
		{ "node=0,mem=0", "node=1,mem=512M", NULL, "node 0" },
		{ "node=0,mem=512M", "node=1,mem=0", NULL, "node 1 has no memory" },
		{ "node=0,mem=512M,max=256M", "node=1,mem=0,max=256M", NULL, "less" },
		{ "node=0", "node=1", "0:1=10", "0:1=10" },
		{ "node=0", "node=1", "0:0=20", "0:0=20" },
		{ "node=0", "node=1", "0:2=20", "0:2=20" },
		{ "node=0", "node=1", "0:1=255", "0:1=255" },
		{ "node=0", "node=1", "0:1", "0:1" },
		{ NULL, NULL, "0:1=20", "--numa" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct cli_strings nodes = { .value = { cases[i].first, cases[i].second } };
		struct cli_strings dists = { .value = { cases[i].dist } };
		struct vm_config config = { .cpus = 2 };
		struct error err = { 0 };

		nodes.nr = !!cases[i].first + !!cases[i].second;
		dists.nr = !!cases[i].dist;
		if (parse(&config, "512M", &nodes, &dists, &err) >= 0)
			fail_msg("%s %s was taken", cases[i].first, cases[i].second);
		assert_null(strchr(err.message, '\n'));
		if (!strstr(err.message, cases[i].word))
			fail_msg("'%s' does not say '%s'", err.message, cases[i].word);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_one_node), cmocka_unit_test(test_nodes),
		cmocka_unit_test(test_caches),   cmocka_unit_test(test_options),
		cmocka_unit_test(test_nonsense),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
