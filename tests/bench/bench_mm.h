/* SPDX-License-Identifier: MIT */
/*
 * What the allocator benchmarks share: metadata-only pools, time, medians, and the form of the
 * output, one "name value unit" line per figure.
 */
#ifndef TESTS_BENCH_BENCH_MM_H
#define TESTS_BENCH_BENCH_MM_H

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "framevisor/clock.h"
#include "framevisor/mm.h"
#include "framevisor/page_alloc.h"

#define GIB_FRAMES   512
#define BENCH_ROUNDS 101 /* of which the median is taken; short, for the machine may be shared */
#define BENCH_BULK   512

static inline void *bench_map(size_t size)
{
	void *map = mmap(NULL, size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (map == MAP_FAILED) {
		perror("mmap");
		exit(1);
	}
	/* As for any large array. Where hugepages are not to be had, page faults are most of a
	 * set-up. */
	madvise(map, size, MADV_HUGEPAGE);
	return map;
}

/* size: of the metadata, which begins at the instance. */
static inline struct mm *bench_pool(unsigned int nodes, uint64_t frames_per_node, unsigned int cpus,
				    size_t *size)
{
	static struct mm_config config;
	struct mm *mm;

	memset(&config, 0, sizeof(config));
	config.nr_nodes = nodes;
	config.nr_cpus = cpus;
	for (unsigned int nid = 0; nid < nodes; nid++) {
		config.node[nid].spanned = frames_per_node;
		config.node[nid].phys_base = 4096 + nid * frames_per_node;
	}
	*size = mm_metadata_size(&config);
	mm = mm_init(&config, bench_map(*size), *size);
	if (!mm) {
		perror("pool");
		exit(1);
	}
	for (unsigned int nid = 0; nid < nodes; nid++)
		mm_online_pages(mm, nid, 0, frames_per_node, false);
	return mm;
}

static inline void bench_pool_end(struct mm *mm, void *metadata, size_t size)
{
	mm_destroy(mm);
	munmap(metadata, size);
}

static inline int bench_compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static inline double bench_median(double *values, unsigned int nr)
{
	qsort(values, nr, sizeof(*values), bench_compare);
	return values[nr / 2];
}

static inline void bench_print(const char *name, double value, const char *unit)
{
	printf("%s %.*f %s\n", name, value < 0.1 ? 5 : value < 1000 ? 2 : 0, value, unit);
	fflush(stdout);
}

/* One thing to be measured: does its pairs and returns how many. */
struct bench {
	const char *name;
	unsigned int (*run)(void *arg);
	void *arg;
	double ns; /* per pair: the result */
};

/* Rounds of all of them in turn: what changes over time meets all alike. */
static inline void bench_run(struct bench *benches, unsigned int nr)
{
	double *values = calloc((size_t)nr * BENCH_ROUNDS, sizeof(*values));

	for (unsigned int i = 0; i < nr; i++)
		benches[i].run(benches[i].arg); /* warm */
	for (unsigned int round = 0; round < BENCH_ROUNDS; round++) {
		for (unsigned int i = 0; i < nr; i++) {
			double start = now_ns();
			unsigned int pairs = benches[i].run(benches[i].arg);

			values[i * BENCH_ROUNDS + round] = (now_ns() - start) / pairs;
		}
	}
	for (unsigned int i = 0; i < nr; i++)
		benches[i].ns = bench_median(&values[(size_t)i * BENCH_ROUNDS], BENCH_ROUNDS);
	free(values);
}

struct bench_thread {
	struct bench bench;
	pthread_t id;
	pthread_barrier_t *barrier;
};

static inline void *bench_thread_main(void *arg)
{
	struct bench_thread *thread = arg;

	pthread_barrier_wait(thread->barrier);
	bench_run(&thread->bench, 1);
	return NULL;
}

/* The same in two threads at once, the slower one's figure. */
static inline double bench_two_threads(struct bench *bench)
{
	struct bench_thread threads[2];
	pthread_barrier_t barrier;

	pthread_barrier_init(&barrier, NULL, 2);
	for (unsigned int i = 0; i < 2; i++) {
		threads[i].bench = *bench;
		threads[i].barrier = &barrier;
		if (pthread_create(&threads[i].id, NULL, bench_thread_main, &threads[i]))
			exit(1);
	}
	for (unsigned int i = 0; i < 2; i++)
		pthread_join(threads[i].id, NULL);
	pthread_barrier_destroy(&barrier);
	return threads[0].bench.ns > threads[1].bench.ns ? threads[0].bench.ns
							 : threads[1].bench.ns;
}

/* What is measured of a frame allocator; arg is the instance. */
#define BENCH_PAIRS 10000

static inline unsigned int bench_order0(void *arg)
{
	for (unsigned int i = 0; i < BENCH_PAIRS; i++) {
		struct page *page = mm_alloc_page(arg, GFP_HIGHUSER_MOVABLE);

		if (!page)
			abort();
		mm_free_page(arg, page);
	}
	return BENCH_PAIRS;
}

/* What the compiler does not know of the request. */
struct bench_request {
	struct mm *mm;
	gfp_t gfp;
	unsigned int order;
	int nid;
};

static inline unsigned int bench_request(void *arg)
{
	const struct bench_request *request = arg;

	for (unsigned int i = 0; i < BENCH_PAIRS / 4; i++) {
		struct page *page =
			request->nid == NUMA_NO_NODE
				? mm_alloc_pages(request->mm, request->gfp, request->order)
				: mm_alloc_pages_node(request->mm, request->nid, request->gfp,
						      request->order);

		if (!page)
			abort();
		mm_free_pages(request->mm, page, request->order);
	}
	return BENCH_PAIRS / 4;
}

/* 512 frames one by one, then all back. */
static inline unsigned int bench_singles(void *arg)
{
	struct page *pages[BENCH_BULK];

	for (unsigned int round = 0; round < 20; round++) {
		for (unsigned int i = 0; i < BENCH_BULK; i++) {
			pages[i] = mm_alloc_page(arg, GFP_HIGHUSER_MOVABLE);
			if (!pages[i])
				abort();
		}
		for (unsigned int i = 0; i < BENCH_BULK; i++)
			mm_free_page(arg, pages[i]);
	}
	return 20 * BENCH_BULK;
}

/* The same with the calls for many. */
static inline unsigned int bench_bulk(void *arg)
{
	struct page *pages[BENCH_BULK];

	for (unsigned int round = 0; round < 20; round++) {
		if (mm_alloc_pages_bulk(arg, GFP_HIGHUSER_MOVABLE, 0, BENCH_BULK, pages) !=
		    BENCH_BULK)
			abort();
		mm_free_pages_bulk(arg, pages, BENCH_BULK, false);
	}
	return 20 * BENCH_BULK;
}

#endif
