/* SPDX-License-Identifier: MIT */
/*
 * The allocator beside its peers, in one run on one machine: medians of rounds taken in turn. What
 * is not installed is left out with a line that says so.
 * (rte_mempool: bench_peer_dpdk.c.)
 */
#include <dlfcn.h>

#include "framevisor/slab.h"
#include "tests/bench/bench_mm.h"

#define HUGE_SIZE ((size_t)2 << 20)
#define NR_HUGE   "/proc/sys/vm/nr_hugepages"

/* An allocator of bytes; the memory is written to, as users do. */
struct heap {
	void *(*alloc)(size_t size);
	void (*release)(void *ptr);
	struct kmem_cache *cache;
	size_t size;
};

static unsigned int heap_pairs(void *arg)
{
	const struct heap *heap = arg;

	for (unsigned int i = 0; i < BENCH_PAIRS; i++) {
		volatile char *object = heap->alloc(heap->size);

		if (!object)
			abort();
		*object = 1;
		heap->release((void *)object);
	}
	return BENCH_PAIRS;
}

static unsigned int cache_pairs(void *arg)
{
	struct kmem_cache *cache = arg;

	for (unsigned int i = 0; i < BENCH_PAIRS; i++) {
		volatile char *object = kmem_cache_alloc(cache, GFP_KERNEL);

		if (!object)
			abort();
		*object = 1;
		kmem_cache_free(cache, (void *)object);
	}
	return BENCH_PAIRS;
}

/* What it costs to take a frame from the host and to give it back, as without a pool. */
static unsigned int hugetlb_pairs(void *arg)
{
	const unsigned int nr = 20;

	(void)arg;
	for (unsigned int i = 0; i < nr; i++) {
		volatile char *map = mmap(NULL, HUGE_SIZE, PROT_READ | PROT_WRITE,
					  MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);

		if (map == MAP_FAILED) { /* somebody else took the last one */
			perror("hugetlb");
			exit(1);
		}
		*map = 1;
		munmap((void *)map, HUGE_SIZE);
	}
	return nr;
}

/* Changes the host's number of hugepages by delta. */
static void add_hugepages(long delta)
{
	FILE *file = fopen(NR_HUGE, "r+");
	long present = 0;

	if (!file)
		return;
	if (fscanf(file, "%ld", &present) == 1 && present + delta >= 0) {
		rewind(file);
		fprintf(file, "%ld", present + delta);
	}
	fclose(file);
}

/* However the program ends. */
static void remove_hugepages(void)
{
	add_hugepages(-2);
}

static bool hugetlb_works(void)
{
	void *map = mmap(NULL, HUGE_SIZE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);

	if (map == MAP_FAILED)
		return false;
	munmap(map, HUGE_SIZE);
	return true;
}

/* A pool with memory behind it, for objects. */
static struct mm *backed_pool(void)
{
	static struct mm_config config = { .nr_nodes = 1, .nr_cpus = 256 };
	const uint64_t frames = 64;
	uintptr_t base = (uintptr_t)bench_map((frames + 1) * FRAME_SIZE);
	size_t size;
	struct mm *mm;

	config.node[0].base = (void *)((base + FRAME_SIZE - 1) & (uintptr_t)FRAME_MASK);
	config.node[0].spanned = frames;
	config.node[0].phys_base = 4096;
	size = mm_metadata_size(&config);
	mm = mm_init(&config, bench_map(size), size);
	if (!mm || mm_online_pages(mm, 0, 0, frames, true))
		exit(1);
	return mm;
}

static void ratio(const char *name, double ours, double peers)
{
	char text[96];

	snprintf(text, sizeof(text), "ratio_%s", name);
	bench_print(text, ours / peers, "x");
}

enum {
	ORDER0,
	SINGLES,
	CALLS,
	ORDER9,
	CACHE_64,
	GLIBC_64,
	GLIBC_2M,
	MIMALLOC_64,
	MIMALLOC_2M,
	HUGETLB,
	NR_BENCHES,
};

static struct heap glibc[2] = { { malloc, free, NULL, 64 }, { malloc, free, NULL, HUGE_SIZE } };
static struct heap mimalloc[2] = { { .size = 64 }, { .size = HUGE_SIZE } };

static bool load_mimalloc(void)
{
	void *lib = dlopen("libmimalloc.so.2", RTLD_NOW);

	if (!lib)
		return false;
	for (unsigned int i = 0; i < 2; i++) {
		*(void **)&mimalloc[i].alloc = dlsym(lib, "mi_malloc");
		*(void **)&mimalloc[i].release = dlsym(lib, "mi_free");
	}
	return mimalloc[0].alloc && mimalloc[0].release;
}

/* What cannot be measured here takes no rounds. */
static unsigned int nothing(void *arg)
{
	(void)arg;
	return 1;
}

static void print_ratios(const struct bench *b, bool have_mimalloc, bool have_hugetlb)
{
	if (have_mimalloc) {
		ratio("kmem_cache_64_to_mimalloc", b[CACHE_64].ns, b[MIMALLOC_64].ns);
		ratio("order0_pair_to_mimalloc_2M", b[ORDER0].ns, b[MIMALLOC_2M].ns);
	}
	ratio("kmem_cache_64_to_glibc", b[CACHE_64].ns, b[GLIBC_64].ns);
	if (have_hugetlb)
		ratio("order0_pair_to_hugetlb", b[ORDER0].ns, b[HUGETLB].ns);
}

int main(void)
{
	bool have_mimalloc = load_mimalloc(), have_hugetlb;
	size_t size;
	struct mm *mm = bench_pool(1, 16 * GIB_FRAMES, 2, &size), *objects = backed_pool();
	struct kmem_cache *cache = kmem_cache_create(objects, "bench", 64, 0, 0, NULL);
	struct bench_request order9 = { mm, GFP_HIGHUSER_MOVABLE, 9, NUMA_NO_NODE };
	bool added = !hugetlb_works();
	double two;

	if (added) {
		add_hugepages(2);
		atexit(remove_hugepages);
	}
	have_hugetlb = hugetlb_works();
	struct bench b[NR_BENCHES] = {
		[ORDER0] = { "framevisor_order0_pair", bench_order0, mm, 0 },
		[SINGLES] = { "framevisor_bulk512_singles_pair", bench_singles, mm, 0 },
		[CALLS] = { "framevisor_bulk512_calls_pair", bench_bulk, mm, 0 },
		[ORDER9] = { "framevisor_order9_pair", bench_request, &order9, 0 },
		[CACHE_64] = { "kmem_cache_64_pair", cache_pairs, cache, 0 },
		[GLIBC_64] = { "glibc_64_pair", heap_pairs, &glibc[0], 0 },
		[GLIBC_2M] = { "glibc_2M_pair", heap_pairs, &glibc[1], 0 },
		[MIMALLOC_64] = { "mimalloc_64_pair", have_mimalloc ? heap_pairs : nothing,
				  &mimalloc[0], 0 },
		[MIMALLOC_2M] = { "mimalloc_2M_pair", have_mimalloc ? heap_pairs : nothing,
				  &mimalloc[1], 0 },
		[HUGETLB] = { "hugetlb_2M_pair", have_hugetlb ? hugetlb_pairs : nothing, NULL, 0 },
	};
	bench_run(b, NR_BENCHES);
	two = bench_two_threads(&b[ORDER0]);
	for (unsigned int i = 0; i < NR_BENCHES; i++)
		if (b[i].run != nothing)
			bench_print(b[i].name, b[i].ns, "ns");
		else
			printf("# %s: not available on this machine\n", b[i].name);
	bench_print("framevisor_order0_pair_2threads", two, "ns");
	ratio("order0_pair_2threads", two, b[ORDER0].ns);
	print_ratios(b, have_mimalloc, have_hugetlb);
	kmem_cache_exit(objects);
	mm_destroy(objects);
	bench_pool_end(mm, mm, size);
	return 0;
}
