/* SPDX-License-Identifier: MIT */
/* What allocations of frames cost by order and way, on a metadata-only pool of 16 GiB. */
#include "tests/bench/bench_mm.h"

/* On the locked lists behind the stacks, as a thread with a chosen CPU and every sanitizer build.
 */
static unsigned int locked(void *arg)
{
	unsigned int pairs;

	mm_set_cpu(0);
	pairs = bench_request(arg);
	mm_set_cpu(-1);
	return pairs;
}

int main(void)
{
	size_t size;
	struct mm *mm = bench_pool(1, 16 * GIB_FRAMES, 2, &size);
	struct bench_request request[5] = {
		{ mm, GFP_HIGHUSER_MOVABLE, 0, NUMA_NO_NODE },
		{ mm, GFP_HIGHUSER_MOVABLE, 1, NUMA_NO_NODE },
		{ mm, GFP_HIGHUSER_MOVABLE, 3, NUMA_NO_NODE },
		{ mm, GFP_HIGHUSER_MOVABLE, 5, NUMA_NO_NODE },
		{ mm, GFP_HIGHUSER_MOVABLE, 9, NUMA_NO_NODE },
	};
	struct bench benches[] = {
		{ "order0_pair", bench_order0, mm, 0 },
		{ "order0_pair_runtime_flags", bench_request, &request[0], 0 },
		{ "order0_pair_locked", locked, &request[0], 0 },
		{ "order1_pair", bench_request, &request[1], 0 },
		{ "order3_pair", bench_request, &request[2], 0 },
		{ "order5_pair", bench_request, &request[3], 0 },
		{ "order9_pair", bench_request, &request[4], 0 },
		{ "bulk512_singles_pair", bench_singles, mm, 0 },
		{ "bulk512_calls_pair", bench_bulk, mm, 0 },
	};
	const unsigned int nr = sizeof(benches) / sizeof(benches[0]);
	double two;

	bench_run(benches, nr);
	for (unsigned int i = 0; i < nr; i++)
		bench_print(benches[i].name, benches[i].ns, "ns");
	two = bench_two_threads(&benches[0]);
	bench_print("order0_pair_2threads", two, "ns");
	bench_print("ratio_order0_pair_2threads", two / benches[0].ns, "x");
	bench_pool_end(mm, mm, size);
	return 0;
}
