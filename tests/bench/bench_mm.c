/* SPDX-License-Identifier: MIT */
/*
 * What allocations cost, on metadata-only pools: nanoseconds per alloc+free pair, the best of many
 * short rounds (the machine may be shared).
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "framevisor/mm.h"
#include "framevisor/page_alloc.h"

#define RUNS       3
#define ROUND      5000 /* pairs timed at once */
#define BULK       512
#define GIB_FRAMES 512

static struct mm *pool_create(unsigned int nodes, uint64_t frames_per_node, unsigned int cpus,
			      size_t *size)
{
	static struct mm_config config;
	void *metadata;
	struct mm *mm;

	memset(&config, 0, sizeof(config));
	config.nr_nodes = nodes;
	config.nr_cpus = cpus;
	for (unsigned int nid = 0; nid < nodes; nid++) {
		config.node[nid].spanned = frames_per_node;
		config.node[nid].phys_base = 4096 + nid * frames_per_node;
	}
	*size = mm_metadata_size(&config);
	metadata = mmap(NULL, *size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (metadata == MAP_FAILED || !(mm = mm_init(&config, metadata, *size))) {
		perror("pool");
		exit(1);
	}
	for (unsigned int nid = 0; nid < nodes; nid++)
		mm_online_pages(mm, nid, 0, frames_per_node, false);
	return mm;
}

static double now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

struct job {
	struct mm *mm;
	unsigned int order;
	int cpu; /* of the caches; -1: as usual, without a lock */
	long pairs;
	double ns; /* per pair */
};

static void *pair_thread(void *arg)
{
	struct job *job = arg;
	double best = 1e9;

	mm_set_cpu(job->cpu);
	for (long round = 0; round < job->pairs / ROUND; round++) {
		double start = now_ns();

		for (long i = 0; i < ROUND; i++) {
			struct page *page =
				mm_alloc_pages(job->mm, GFP_HIGHUSER_MOVABLE, job->order);

			if (!page)
				abort();
			mm_free_pages(job->mm, page, job->order);
		}
		start = (now_ns() - start) / ROUND;
		best = start < best ? start : best;
	}
	job->ns = best;
	return NULL;
}

static double pairs(struct mm *mm, unsigned int order, unsigned int threads, long nr, bool lock)
{
	double best = 1e9;

	for (unsigned int run = 0; run < RUNS; run++) {
		struct job jobs[16];
		pthread_t ids[16];
		double worst = 0;

		for (unsigned int i = 0; i < threads; i++) {
			jobs[i] = (struct job){
				.mm = mm, .order = order, .pairs = nr, .cpu = lock ? (int)i : -1
			};
			pthread_create(&ids[i], NULL, pair_thread, &jobs[i]);
		}
		for (unsigned int i = 0; i < threads; i++) {
			pthread_join(ids[i], NULL);
			worst = jobs[i].ns > worst ? jobs[i].ns : worst;
		}
		best = worst < best ? worst : best;
	}
	return best;
}

static double bulk_singles(struct mm *mm)
{
	static struct page *pages[BULK];
	double best = 1e9;

	for (unsigned int run = 0; run < RUNS * 20; run++) {
		double start = now_ns();

		for (unsigned int round = 0; round < 20; round++) {
			for (unsigned int i = 0; i < BULK; i++)
				pages[i] = mm_alloc_pages(mm, GFP_HIGHUSER_MOVABLE, 0);
			for (unsigned int i = 0; i < BULK; i++)
				mm_free_pages(mm, pages[i], 0);
		}
		start = (now_ns() - start) / (20 * BULK);
		best = start < best ? start : best;
	}
	return best;
}

static double bulk_calls(struct mm *mm)
{
	static struct page *pages[BULK];
	double best = 1e9;

	for (unsigned int run = 0; run < RUNS * 20; run++) {
		double start = now_ns();

		for (unsigned int round = 0; round < 20; round++) {
			uint64_t got =
				mm_alloc_pages_bulk(mm, GFP_HIGHUSER_MOVABLE, 0, BULK, pages);

			mm_free_pages_bulk(mm, pages, got, false);
		}
		start = (now_ns() - start) / (20 * BULK);
		best = start < best ? start : best;
	}
	return best;
}

static void scale(unsigned int nodes, uint64_t gib_per_node, unsigned int cpus)
{
	double start = now_ns();
	size_t size;
	uint64_t frames = gib_per_node * GIB_FRAMES;
	struct mm *mm = pool_create(nodes, frames, cpus, &size);
	double setup = now_ns() - start;

	printf("%2u nodes %6llu GiB: set-up %.3f s, metadata %.2f B per frame, order-0 pair %.2f "
	       "ns, "
	       "order-9 pair %.1f ns\n",
	       nodes, (unsigned long long)(nodes * gib_per_node), setup / 1e9,
	       (double)size / (double)(frames * nodes), pairs(mm, 0, 1, 2000000, false),
	       pairs(mm, 9, 1, 500000, false));
	mm_destroy(mm);
	munmap(mm, size);
}

int main(void)
{
	size_t size;
	struct mm *mm = pool_create(1, 16 * GIB_FRAMES, 2, &size);

	printf("order-0 pair, 1 thread:   %6.2f ns\n", pairs(mm, 0, 1, 5000000, false));
	printf("order-0 pair, 2 threads:  %6.2f ns\n", pairs(mm, 0, 2, 5000000, false));
	printf("  the same with a lock:   %6.2f ns\n", pairs(mm, 0, 1, 5000000, true));
	printf("order-3 pair, 1 thread:   %6.2f ns\n", pairs(mm, 3, 1, 2000000, false));
	printf("order-5 pair, 1 thread:   %6.2f ns\n", pairs(mm, 5, 1, 1000000, false));
	printf("order-9 pair, 1 thread:   %6.2f ns\n", pairs(mm, 9, 1, 1000000, false));
	printf("512 allocs, then frees:   %6.2f ns a pair\n", bulk_singles(mm));
	printf("bulk calls of 512:        %6.2f ns a pair\n", bulk_calls(mm));
	mm_destroy(mm);
	munmap(mm, size);
	scale(1, 16, 2);
	scale(8, 128, 16);
	scale(64, 256, 64);
	return 0;
}
