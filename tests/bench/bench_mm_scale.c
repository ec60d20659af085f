/* SPDX-License-Identifier: MIT */
/*
 * What the size of the pool costs: metadata-only pools from 1 GiB to 16 TiB, the largest with 64
 * nodes. Figures carry the size in their names.
 *
 *   setup            mm_init() and mm_online_pages() for all frames
 *   first_touch      of as much memory as the metadata takes, and nothing else: the floor
 *   metadata         bytes per frame
 *   order0_pair      on the CPU's stack
 *   spread4096_pair  4096 frames one by one, then all back in random order
 *   spread65536_pair the same with more metadata than a core's own caches hold
 *   order9_pair      on the free lists
 *   far_order9_pair  when only the farthest node has memory: the whole zonelist is walked
 */
#include "tests/bench/bench_mm.h"

#define SPREAD_MAX 65536
#define RUNS       5
#define SETUPS     3

struct scale {
	unsigned int gib;
	unsigned int nodes;
	const char *label;
};

static const struct scale scales[] = {
	{ 1, 1, "1GiB" },     { 4, 1, "4GiB" },    { 16, 1, "16GiB" },   { 64, 1, "64GiB" },
	{ 256, 1, "256GiB" }, { 1024, 4, "1TiB" }, { 4096, 16, "4TiB" }, { 16384, 64, "16TiB" },
};

static void print(const struct scale *scale, const char *what, double value, const char *unit)
{
	char name[64];

	snprintf(name, sizeof(name), "scale_%s_%s", scale->label, what);
	bench_print(name, value, unit);
}

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * UINT64_C(2685821657736338717);
}

static double spread_pair(struct mm *mm, uint64_t nr)
{
	static struct page *pages[SPREAD_MAX];
	uint64_t seed = 1;
	double values[RUNS];

	for (unsigned int run = 0; run < RUNS; run++) {
		double start = now_ns(), ns;

		for (uint64_t i = 0; i < nr; i++) {
			pages[i] = mm_alloc_page(mm, GFP_HIGHUSER_MOVABLE);
			if (!pages[i])
				abort();
		}
		ns = now_ns() - start;
		for (uint64_t i = nr - 1; i > 0; i--) {
			uint64_t other = next_random(&seed) % (i + 1);
			struct page *page = pages[i];

			pages[i] = pages[other];
			pages[other] = page;
		}
		start = now_ns();
		for (uint64_t i = 0; i < nr; i++)
			mm_free_page(mm, pages[i]);
		values[run] = (ns + now_ns() - start) / (double)nr;
	}
	return bench_median(values, RUNS);
}

/* Fills all nodes but the last in blocks of order 9; what is left of them is below the marks. */
static double far_pair(struct mm *mm, const struct scale *scale)
{
	uint64_t blocks = (uint64_t)scale->gib * GIB_FRAMES / MAX_ORDER_NR_PAGES, nr = 0;
	nodemask_t near = ((nodemask_t)1 << (scale->nodes - 1)) - 1;
	struct page **held = calloc(blocks, sizeof(struct page *));
	struct bench_request request = { mm, GFP_NOWAIT, MAX_ORDER, NUMA_NO_NODE };
	struct bench bench = { "far", bench_request, &request, 0 };

	while (nr < blocks && (held[nr] = mm_alloc_pages_nodemask(mm, GFP_NOWAIT | __GFP_MEMALLOC,
								  MAX_ORDER, 0, &near)))
		nr++;
	bench_run(&bench, 1);
	while (nr > 0)
		mm_free_pages(mm, held[--nr], MAX_ORDER);
	free(held);
	return bench.ns;
}

static double first_touch(size_t size)
{
	double start = now_ns();
	volatile char *map = bench_map(size);

	for (size_t offset = 0; offset < size; offset += 4096)
		map[offset] = 1;
	start = now_ns() - start;
	munmap((void *)map, size);
	return start;
}

/* In turns, because what the host does for memory that it has not given out yet is neither's. */
static void set_up(const struct scale *scale, uint64_t per_node)
{
	double setup[SETUPS], touch[SETUPS];

	for (unsigned int run = 0; run < SETUPS; run++) {
		double start = now_ns();
		size_t size;
		struct mm *mm = bench_pool(scale->nodes, per_node,
					   scale->nodes < 2 ? 2 : scale->nodes, &size);

		setup[run] = now_ns() - start;
		bench_pool_end(mm, mm, size);
		touch[run] = first_touch(size);
	}
	print(scale, "setup", bench_median(setup, SETUPS) / 1e6, "ms");
	print(scale, "first_touch", bench_median(touch, SETUPS) / 1e6, "ms");
}

static void measure(const struct scale *scale, double pairs[2])
{
	uint64_t per_node = (uint64_t)scale->gib * GIB_FRAMES / scale->nodes;
	uint64_t frames = per_node * scale->nodes;
	size_t size;
	struct mm *mm =
		bench_pool(scale->nodes, per_node, scale->nodes < 2 ? 2 : scale->nodes, &size);
	struct bench_request order9 = { mm, GFP_HIGHUSER_MOVABLE, MAX_ORDER, NUMA_NO_NODE };
	struct bench benches[] = {
		{ "order0_pair", bench_order0, mm, 0 },
		{ "order9_pair", bench_request, &order9, 0 },
	};

	print(scale, "metadata", (double)size / (double)frames, "B/frame");
	/* A pool of one or two largest blocks keeps them for its reserves. */
	bench_run(benches, scale->gib < 4 ? 1 : 2);
	for (unsigned int i = 0; i < (scale->gib < 4 ? 1 : 2); i++) {
		print(scale, benches[i].name, benches[i].ns, "ns");
		pairs[i] = benches[i].ns;
	}
	for (uint64_t spread = 4096; spread <= SPREAD_MAX && spread <= frames / 2; spread *= 16) {
		char what[32];

		snprintf(what, sizeof(what), "spread%llu_pair", (unsigned long long)spread);
		print(scale, what, spread_pair(mm, spread), "ns");
	}
	if (scale->nodes > 1)
		print(scale, "far_order9_pair", far_pair(mm, scale), "ns");
	bench_pool_end(mm, mm, size);
}

int main(void)
{
	const unsigned int nr = sizeof(scales) / sizeof(scales[0]);
	double pairs[sizeof(scales) / sizeof(scales[0])][2];

	for (unsigned int i = 0; i < nr; i++) {
		set_up(&scales[i], (uint64_t)scales[i].gib * GIB_FRAMES / scales[i].nodes);
		measure(&scales[i], pairs[i]);
	}
	bench_print("ratio_scale_order0_pair_16TiB_to_16GiB", pairs[nr - 1][0] / pairs[2][0], "x");
	bench_print("ratio_scale_order9_pair_16TiB_to_16GiB", pairs[nr - 1][1] / pairs[2][1], "x");
	return 0;
}
