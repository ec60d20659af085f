/* SPDX-License-Identifier: MIT */
/*
 * DPDK's rte_mempool with its per-core cache, for bench_peers.c: objects of 64 bytes, on ordinary
 * memory. Its environment takes over the process, so it is a program of its own. Prints "name value
 * unit" lines; where libdpdk was not there when it was built, only that.
 */
#include <stdio.h>

#if __has_include(<rte_mempool.h>)

#include <sched.h>
#include <stdlib.h>
#include <time.h>

#include <rte_eal.h>
#include <rte_mempool.h>

#define ROUNDS 41
#define PAIRS  10000
#define BULK   512

static double now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static unsigned int pair(struct rte_mempool *pool)
{
	void *object;

	for (unsigned int i = 0; i < PAIRS; i++) {
		if (rte_mempool_get(pool, &object))
			abort();
		rte_mempool_put(pool, object);
	}
	return PAIRS;
}

static unsigned int singles(struct rte_mempool *pool)
{
	void *objects[BULK];

	for (unsigned int round = 0; round < 20; round++) {
		for (unsigned int i = 0; i < BULK; i++)
			if (rte_mempool_get(pool, &objects[i]))
				abort();
		for (unsigned int i = 0; i < BULK; i++)
			rte_mempool_put(pool, objects[i]);
	}
	return 20 * BULK;
}

static unsigned int calls(struct rte_mempool *pool)
{
	void *objects[BULK];

	for (unsigned int round = 0; round < 20; round++) {
		if (rte_mempool_get_bulk(pool, objects, BULK))
			abort();
		rte_mempool_put_bulk(pool, objects, BULK);
	}
	return 20 * BULK;
}

static void measure(const char *name, unsigned int (*run)(struct rte_mempool *pool),
		    struct rte_mempool *pool)
{
	double values[ROUNDS];

	run(pool);
	for (unsigned int round = 0; round < ROUNDS; round++) {
		double start = now_ns();
		unsigned int pairs = run(pool);

		values[round] = (now_ns() - start) / pairs;
	}
	qsort(values, ROUNDS, sizeof(values[0]), compare);
	printf("%s %.2f ns\n", name, values[ROUNDS / 2]);
}

int main(void)
{
	char core[16], name[] = "bench", no_huge[] = "--no-huge", no_pci[] = "--no-pci";
	char no_shconf[] = "--no-shconf", no_telemetry[] = "--no-telemetry", m[] = "-m",
	     mib[] = "64";
	char l[] = "-l", level[] = "--log-level=error";
	char *argv[] = { name, no_huge, no_pci, no_shconf, no_telemetry, level, m, mib, l, core };
	struct rte_mempool *pool;

	snprintf(core, sizeof(core), "%d", sched_getcpu());
	if (rte_eal_init(sizeof(argv) / sizeof(argv[0]), argv) < 0)
		return 1;
	pool = rte_mempool_create("bench", 8191, 64, RTE_MEMPOOL_CACHE_MAX_SIZE, 0, NULL, NULL,
				  NULL, NULL, 0, 0);
	if (!pool)
		return 1;
	measure("rte_mempool_pair", pair, pool);
	measure("rte_mempool_bulk512_singles_pair", singles, pool);
	measure("rte_mempool_bulk512_calls_pair", calls, pool);
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
