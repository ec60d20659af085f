/* SPDX-License-Identifier: MIT */
/*
 * What objects cost beside glibc's malloc and, where installed, mimalloc, in one run: nanoseconds
 * per alloc+free pair, the best of many short rounds (the machine may be shared), rounds of all
 * contestants in turn. Lines are "name value unit".
 */
#include <dlfcn.h>

#include "framevisor/slab.h"
#include "tests/bench/bench_mm.h"

#define ROUND   5000
#define ROUNDS  400
#define BATCH   512
#define FRAMES  128
#define THREADS 2

static struct mm *pool_create(unsigned int nodes)
{
	struct mm_config *config = calloc(1, sizeof(*config));
	size_t bytes = (FRAMES + 1) * FRAME_SIZE;
	void *metadata;
	struct mm *mm;
	size_t size;

	config->nr_nodes = nodes;
	config->nr_cpus = 256;
	for (unsigned int nid = 0; nid < nodes; nid++) {
		char *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

		if (map == MAP_FAILED)
			exit(1);
		config->node[nid].base =
			(void *)(((uintptr_t)map + FRAME_SIZE - 1) & (uintptr_t)FRAME_MASK);
		config->node[nid].spanned = FRAMES;
		config->node[nid].phys_base = 4096 + nid * FRAMES;
	}
	size = (mm_metadata_size(config) + 63) & ~(size_t)63;
	metadata = aligned_alloc(64, size);
	memset(metadata, 0, size);
	mm = mm_init(config, metadata, size);
	if (!mm)
		exit(1);
	for (unsigned int nid = 0; nid < nodes; nid++)
		mm_online_pages(mm, nid, 0, FRAMES, true);
	free(config);
	return mm;
}

/* One allocator as the rounds use it. */
struct contestant {
	const char *name;
	struct kmem_cache *cache; /* for kmem_cache_* */
	void *(*alloc)(size_t size);
	void (*release)(void *ptr);
	size_t size;
	double best;
	double best_batch;
};

/* The objects are written to, as users do. */
static double pairs(const struct contestant *c)
{
	double start = now_ns();

	if (c->cache) {
		for (int i = 0; i < ROUND; i++) {
			volatile char *object = kmem_cache_alloc(c->cache, GFP_KERNEL);

			*object = 1;
			kmem_cache_free(c->cache, (void *)object);
		}
	} else {
		for (int i = 0; i < ROUND; i++) {
			volatile char *object = c->alloc(c->size);

			*object = 1;
			c->release((void *)object);
		}
	}
	return (now_ns() - start) / ROUND;
}

/* Many at once, then all back. */
static double batch(const struct contestant *c)
{
	void *objects[BATCH];
	double start = now_ns();

	for (int round = 0; round < 10; round++) {
		if (c->cache) {
			if (!kmem_cache_alloc_bulk(c->cache, GFP_KERNEL, BATCH, objects))
				abort();
			kmem_cache_free_bulk(c->cache, BATCH, objects);
			continue;
		}
		for (int i = 0; i < BATCH; i++)
			objects[i] = c->alloc(c->size);
		for (int i = 0; i < BATCH; i++)
			c->release(objects[i]);
	}
	return (now_ns() - start) / (10 * BATCH);
}

static struct mm *kmalloc_mm;

static void *kmalloc_alloc(size_t size)
{
	return mm_kmalloc(kmalloc_mm, size, GFP_KERNEL);
}

static void kmalloc_release(void *ptr)
{
	mm_kfree(kmalloc_mm, ptr);
}

static void run(struct contestant *contestants, int nr)
{
	for (int i = 0; i < nr; i++)
		contestants[i].best = contestants[i].best_batch = 1e9;
	for (int round = 0; round < ROUNDS; round++) {
		for (int i = 0; i < nr; i++) {
			double ns = pairs(&contestants[i]);
			double batch_ns = round % 8 ? 1e9 : batch(&contestants[i]);

			if (ns < contestants[i].best)
				contestants[i].best = ns;
			if (batch_ns < contestants[i].best_batch)
				contestants[i].best_batch = batch_ns;
		}
	}
}

struct thread {
	pthread_t id;
	struct contestant contestant;
	pthread_barrier_t *barrier;
};

static void *thread_main(void *arg)
{
	struct thread *thread = arg;

	pthread_barrier_wait(thread->barrier);
	run(&thread->contestant, 1);
	return NULL;
}

/* Worst of the threads' best rounds. */
static double run_threads(const struct contestant *contestant)
{
	struct thread threads[THREADS];
	pthread_barrier_t barrier;
	double worst = 0;

	pthread_barrier_init(&barrier, NULL, THREADS);
	for (int i = 0; i < THREADS; i++) {
		threads[i].contestant = *contestant;
		threads[i].barrier = &barrier;
		if (pthread_create(&threads[i].id, NULL, thread_main, &threads[i]))
			exit(1);
	}
	for (int i = 0; i < THREADS; i++) {
		pthread_join(threads[i].id, NULL);
		if (threads[i].contestant.best > worst)
			worst = threads[i].contestant.best;
	}
	pthread_barrier_destroy(&barrier);
	return worst;
}

static void bench_size(struct mm *mm, struct mm *two_nodes, size_t size)
{
	struct contestant contestants[6] = {
		{ .name = "kmem_cache", .cache = kmem_cache_create(mm, "b", size, 0, 0, NULL) },
		{ .name = "kmem_cache_locked",
		  .cache = kmem_cache_create(mm, "l", size, 0, SLAB_LOCKED_SHEAVES, NULL) },
		{ .name = "kmem_cache_2nodes",
		  .cache = kmem_cache_create(two_nodes, "n", size, 0, 0, NULL) },
		{ .name = "kmalloc", .alloc = kmalloc_alloc, .release = kmalloc_release },
		{ .name = "glibc", .alloc = malloc, .release = free },
		{ .name = "mimalloc" },
	};
	void *lib = dlopen("libmimalloc.so.2", RTLD_NOW);
	int nr = 5;

	if (lib) {
		*(void **)&contestants[5].alloc = dlsym(lib, "mi_malloc");
		*(void **)&contestants[5].release = dlsym(lib, "mi_free");
		nr += contestants[5].alloc && contestants[5].release;
	}
	for (int i = 0; i < nr; i++)
		contestants[i].size = size;
	run(contestants, nr);
	for (int i = 0; i < nr; i++)
		printf("%s_%zu_pair %.2f ns\n", contestants[i].name, size, contestants[i].best);
	for (int i = 0; i < nr; i++)
		printf("%s_%zu_batch%d %.2f ns\n", contestants[i].name, size, BATCH,
		       contestants[i].best_batch);
	for (int i = 0; i < nr; i++)
		printf("%s_%zu_pair_%dthreads %.2f ns\n", contestants[i].name, size, THREADS,
		       run_threads(&contestants[i]));
	if (nr == 6)
		printf("ratio_kmem_cache_mimalloc_%zu_pair %.2f x\n", size,
		       contestants[0].best / contestants[5].best);
	for (int i = 0; i < 3; i++)
		kmem_cache_destroy(contestants[i].cache);
}

int main(void)
{
	struct mm *mm = pool_create(1);
	struct mm *two_nodes = pool_create(2);

	kmalloc_mm = mm;
	bench_size(mm, two_nodes, 64);
	bench_size(mm, two_nodes, 256);
	bench_size(mm, two_nodes, 4096);
	kmem_cache_exit(mm);
	kmem_cache_exit(two_nodes);
	mm_destroy(mm);
	mm_destroy(two_nodes);
	return 0;
}
