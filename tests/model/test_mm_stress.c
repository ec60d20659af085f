/* SPDX-License-Identifier: MIT */
/*
 * Threads that allocate, free, hand frames to each other, drain, zero and move memory in and out at
 * the same time; each frame carries a mark of who has it. Afterwards nothing is lost. Run it under
 * ThreadSanitizer too. FRAMEVISOR_SEED and FRAMEVISOR_MODEL_OPS (of all threads and tests together)
 * as in test_mm_model.c.
 */
#include <pthread.h>
#include <time.h>

#include "tests/unit/mm_pool.h"

#define THREADS 4
#define TESTS   2
#define HELD    64
#define MAILBOX 16

struct stress {
	struct pool pool;
	uint64_t ops;
	uint64_t hotplug_first;        /* frames from here on come and go */
	struct page *mailbox[MAILBOX]; /* order 0, exchanged atomically */
	unsigned int failures;
	bool stop;
};

struct worker {
	struct stress *stress;
	pthread_t thread;
	uint64_t seed;
	uint32_t id;
	struct page *held[HELD];
	unsigned int orders[HELD];
	unsigned int nr;
};

static uint64_t random_next(uint64_t *seed)
{
	uint64_t x = *seed += 0x9e3779b97f4a7c15u;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

/* A frame that is handed out twice has two owners, one of which will notice. */
static void take(struct worker *worker, struct page *page, unsigned int order)
{
	for (unsigned int i = 0; i < 1u << order; i++)
		page_set_owner(page + i, worker->id, worker->nr);
	worker->orders[worker->nr] = order;
	worker->held[worker->nr++] = page;
}

static void give_back(struct worker *worker)
{
	unsigned int i = worker->nr - 1;
	struct page *page = worker->held[i];
	unsigned int order = worker->orders[i];

	worker->nr--;
	for (unsigned int f = 0; f < 1u << order; f++)
		if (page[f].owner != worker->id || page[f].index != i)
			__atomic_add_fetch(&worker->stress->failures, 1, __ATOMIC_RELAXED);
	if (order == 0 && (random_next(&worker->seed) & 3) == 0)
		mm_free_pages_zeroed(worker->stress->pool.mm, page, 0);
	else if (order == 0 && (random_next(&worker->seed) & 1) == 0)
		mm_free_page(worker->stress->pool.mm, page);
	else
		mm_free_pages(worker->stress->pool.mm, page, order);
}

static void exchange(struct worker *worker)
{
	struct page **slot = &worker->stress->mailbox[random_next(&worker->seed) % MAILBOX];
	struct page *mine = NULL;
	struct page *other;

	if (worker->nr && worker->orders[worker->nr - 1] == 0)
		mine = worker->held[--worker->nr];
	other = __atomic_exchange_n(slot, mine, __ATOMIC_ACQ_REL);
	if (other && worker->nr < HELD)
		take(worker, other, 0);
	else if (other)
		mm_free_pages(worker->stress->pool.mm, other, 0);
}

static void bulk(struct worker *worker)
{
	struct page *pages[24];
	uint64_t got = mm_alloc_pages_bulk(worker->stress->pool.mm, GFP_NOWAIT | __GFP_MOVABLE, 0,
					   24, pages);

	for (uint64_t i = 0; i < got; i++)
		if (page_count(pages[i]) != 1)
			__atomic_add_fetch(&worker->stress->failures, 1, __ATOMIC_RELAXED);
	mm_free_pages_bulk(worker->stress->pool.mm, pages, got, false);
}

static void *work(void *arg)
{
	struct worker *worker = arg;
	struct mm *mm = worker->stress->pool.mm;

	for (uint64_t op = 0; op < worker->stress->ops; op++) {
		uint64_t dice = random_next(&worker->seed) % 100;
		gfp_t gfp = GFP_NOWAIT | (dice & 1 ? __GFP_MOVABLE : 0);
		unsigned int order = dice < 30 ? 0 : (unsigned int)(dice % 4);
		struct page *page;

		if (dice < 50 && worker->nr < HELD) {
			page = dice < 15 ? mm_alloc_page(mm, GFP_NOWAIT | __GFP_MOVABLE)
					 : mm_alloc_pages(mm, gfp, order);
			if (page)
				take(worker, page, order);
		} else if (dice < 90 && worker->nr) {
			give_back(worker);
		} else if (dice < 96) {
			exchange(worker);
		} else if (dice < 99) {
			bulk(worker);
		} else {
			mm_drain_all_pages(mm);
		}
	}
	while (worker->nr)
		give_back(worker);
	return NULL;
}

/* Frames come and go, free ones are zeroed, numbers are read: all while the workers run. */
static void *disturb(void *arg)
{
	struct stress *stress = arg;
	struct mm *mm = stress->pool.mm;
	static char text[1 << 16];
	bool online = true;

	while (!__atomic_load_n(&stress->stop, __ATOMIC_RELAXED)) {
		struct mm_counts counts;

		if (online)
			online = mm_offline_pages(mm, 0, stress->hotplug_first, 16) != 0;
		else
			online = mm_online_pages(mm, 0, stress->hotplug_first, 16, true) == 0;
		mm_zero_free_pages(mm, 4);
		mm_counts(mm, -1, &counts);
		mm_report_buddyinfo(mm, text, sizeof(text));
		mm_report_zoneinfo(mm, text, sizeof(text));
	}
	if (!online)
		mm_online_pages(mm, 0, stress->hotplug_first, 16, true);
	return NULL;
}

static void run(struct stress *stress)
{
	const char *seed_text = getenv("FRAMEVISOR_SEED");
	const char *ops_text = getenv("FRAMEVISOR_MODEL_OPS");
	uint64_t seed = seed_text ? strtoull(seed_text, NULL, 0) : (uint64_t)time(NULL);
	static struct worker workers[THREADS];
	pthread_t disturber;

	print_message("seed %llu\n", (unsigned long long)seed);
	stress->ops = (ops_text ? strtoull(ops_text, NULL, 0) : 1600000) / (THREADS * TESTS);
	for (unsigned int i = 0; i < THREADS; i++) {
		workers[i] = (struct worker){ .stress = stress, .seed = seed + i, .id = i + 1 };
		assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
	}
	assert_int_equal(pthread_create(&disturber, NULL, disturb, stress), 0);
	for (unsigned int i = 0; i < THREADS; i++)
		pthread_join(workers[i].thread, NULL);
	__atomic_store_n(&stress->stop, true, __ATOMIC_RELAXED);
	pthread_join(disturber, NULL);
	for (unsigned int i = 0; i < MAILBOX; i++)
		if (stress->mailbox[i])
			mm_free_pages(stress->pool.mm, stress->mailbox[i], 0);
	assert_int_equal(stress->failures, 0);
	assert_int_equal(stress->pool.messages, 0);
}

static void test_stress_metadata_only(void **state)
{
	static struct stress stress;

	(void)state;
	pool_create_simple(&stress.pool, 700, 2);
	stress.hotplug_first = 650;
	run(&stress);
	assert_int_equal(pool_free_frames(&stress.pool), 700);
	pool_destroy(&stress.pool);
}

/* With memory: the background zeroer really has frames in its hands. */
static void test_stress_zeroing(void **state)
{
	static struct stress stress;

	(void)state;
	pool_create_backed(&stress.pool, 48, 0);
	assert_int_equal(mm_online_pages(stress.pool.mm, 0, 0, 48, false), 0);
	stress.hotplug_first = 32;
	run(&stress);
	assert_int_equal(pool_free_frames(&stress.pool), 48);
	pool_destroy(&stress.pool);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_stress_metadata_only),
		cmocka_unit_test(test_stress_zeroing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
