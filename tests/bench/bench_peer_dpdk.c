/* SPDX-License-Identifier: MIT */
/*
 * Frames beside DPDK's rte_mempool with its per-core cache (objects of 64 bytes, on ordinary
 * memory): in one process, on one CPU, in short slices taken in turn, so that what else the machine
 * does meets both alike. A program of its own because DPDK's environment takes over the process.
 * Prints "name value unit" lines; where libdpdk was not there when it was built, only that.
 */
#include <stdio.h>

#if __has_include(<rte_mempool.h>)

#include <sched.h>

#include <rte_eal.h>
#include <rte_mempool.h>

#include "tests/bench/bench_mm.h"

static unsigned int rte_pair(void *arg)
{
	struct rte_mempool *pool = arg;
	void *object;

	for (unsigned int i = 0; i < BENCH_PAIRS; i++) {
		if (rte_mempool_get(pool, &object))
			abort();
		rte_mempool_put(pool, object);
	}
	return BENCH_PAIRS;
}

static unsigned int rte_singles(void *arg)
{
	struct rte_mempool *pool = arg;
	void *objects[BENCH_BULK];

	for (unsigned int round = 0; round < 20; round++) {
		for (unsigned int i = 0; i < BENCH_BULK; i++)
			if (rte_mempool_get(pool, &objects[i]))
				abort();
		for (unsigned int i = 0; i < BENCH_BULK; i++)
			rte_mempool_put(pool, objects[i]);
	}
	return 20 * BENCH_BULK;
}

static unsigned int rte_calls(void *arg)
{
	struct rte_mempool *pool = arg;
	void *objects[BENCH_BULK];

	for (unsigned int round = 0; round < 20; round++) {
		if (rte_mempool_get_bulk(pool, objects, BENCH_BULK))
			abort();
		rte_mempool_put_bulk(pool, objects, BENCH_BULK);
	}
	return 20 * BENCH_BULK;
}

static struct rte_mempool *start_dpdk(void)
{
	char core[16], name[] = "bench", no_huge[] = "--no-huge", no_pci[] = "--no-pci";
	char no_shconf[] = "--no-shconf", no_telemetry[] = "--no-telemetry", m[] = "-m",
	     mib[] = "64";
	char l[] = "-l", level[] = "--log-level=error";
	char *argv[] = { name, no_huge, no_pci, no_shconf, no_telemetry, level, m, mib, l, core };

	snprintf(core, sizeof(core), "%d", sched_getcpu());
	if (rte_eal_init(sizeof(argv) / sizeof(argv[0]), argv) < 0)
		return NULL;
	return rte_mempool_create("bench", 8191, 64, RTE_MEMPOOL_CACHE_MAX_SIZE, 0, NULL, NULL,
				  NULL, NULL, 0, 0);
}

int main(void)
{
	struct rte_mempool *pool = start_dpdk();
	size_t size;
	struct mm *mm = bench_pool(1, 16 * GIB_FRAMES, 2, &size);
	struct bench b[] = {
		{ "rte_mempool_pair", rte_pair, pool, 0 },
		{ "beside_rte_order0_pair", bench_order0, mm, 0 },
		{ "rte_mempool_bulk512_singles_pair", rte_singles, pool, 0 },
		{ "beside_rte_bulk512_singles_pair", bench_singles, mm, 0 },
		{ "rte_mempool_bulk512_calls_pair", rte_calls, pool, 0 },
		{ "beside_rte_bulk512_calls_pair", bench_bulk, mm, 0 },
	};

	if (!pool)
		return 1;
	bench_run(b, sizeof(b) / sizeof(b[0]));
	for (unsigned int i = 0; i < sizeof(b) / sizeof(b[0]); i++)
		bench_print(b[i].name, b[i].ns, "ns");
	bench_print("ratio_order0_pair_to_rte_mempool", b[1].ns / b[0].ns, "x");
	bench_print("ratio_bulk512_singles_to_rte_mempool", b[3].ns / b[2].ns, "x");
	bench_print("ratio_bulk512_calls_to_rte_mempool", b[5].ns / b[4].ns, "x");
	bench_pool_end(mm, mm, size);
	rte_mempool_free(pool);
	rte_eal_cleanup();
	return 0;
}

#else

int main(void)
{
	printf("# rte_mempool: built without libdpdk\n");
	return 0;
}

#endif
