/* SPDX-License-Identifier: MIT */
/* Per-CPU caches (mm/pcp.c): batches, the tuning of their size, and the orders they hold. */
#include "framevisor/vmscan.h"
#include "tests/unit/mm_pool.h"
#include "tests/unit/sleep.h"

#define FRAMES 16384
#define MANY   3000

/* A thread with a CPU of its own choice: the locked lists, without the stacks in front. */
static struct per_cpu_pages *create(struct pool *pool)
{
	pool_create_simple(pool, FRAMES, 1);
	mm_set_cpu(0);
	return &mm_node_data(pool->mm, 0)->node_zones[ZONE_NORMAL].pageset[0];
}

static void end(struct pool *pool)
{
	mm_set_cpu(-1);
	assert_int_equal(pool_free_frames(pool), FRAMES);
	pool_destroy(pool);
}

/* A burst makes refills larger and gives the cache room; rest takes the room away again. */
static void test_auto_tuning(void **state)
{
	static struct page *pages[MANY];
	struct per_cpu_pages *pcp;
	struct pool pool;
	int32_t grown;

	(void)state;
	pcp = create(&pool);
	assert_true(pcp->high_min < pcp->high_max);
	assert_int_equal(pcp->high_max, FRAMES / 8);
	assert_in_range(pcp->batch, 1, 31);
	for (unsigned int i = 0; i < MANY; i++)
		pages[i] = mm_alloc_pages(pool.mm, GFP_NOWAIT, 0);
	/* Fewer than one refill per batch: they doubled. */
	assert_true(pcp->refills > 0 && pcp->refills < (uint64_t)(MANY / pcp->batch / 2));
	assert_true(pcp->high > pcp->high_min);
	for (unsigned int i = 0; i < MANY; i++) {
		mm_free_pages(pool.mm, pages[i], 0);
		assert_true(pcp->count <= pcp->high_max);
	}
	grown = pcp->high;
	assert_in_range(grown, pcp->high_min + 1, pcp->high_max);
	pool_validate(&pool);
	mm_start_kswapd(pool.mm);
	for (unsigned int i = 0; i < 3000; i++) {
		if (__atomic_load_n(&pcp->count, __ATOMIC_RELAXED) == 0)
			break;
		sleep_ms(20);
	}
	mm_stop_kswapd(pool.mm);
	assert_int_equal(pcp->count, 0);
	assert_true(pcp->high < grown);
	end(&pool);
}

/* While the zone is short of memory caches hold little: others need it. */
static void test_short_of_memory(void **state)
{
	static struct page *pages[MANY];
	struct per_cpu_pages *pcp;
	struct zone *zone;
	struct pool pool;

	(void)state;
	pcp = create(&pool);
	zone = &mm_node_data(pool.mm, 0)->node_zones[ZONE_NORMAL];
	for (unsigned int i = 0; i < MANY; i++)
		pages[i] = mm_alloc_pages(pool.mm, GFP_NOWAIT, 0);
	__atomic_fetch_or(&zone->flags, ZONE_FLAG_RECLAIMING, __ATOMIC_RELAXED);
	for (unsigned int i = 0; i < MANY; i++)
		mm_free_pages(pool.mm, pages[i], 0);
	assert_true(pcp->count <= 4 * pcp->batch);
	__atomic_fetch_and(&zone->flags, ~ZONE_FLAG_RECLAIMING, __ATOMIC_RELAXED);
	end(&pool);
}

/* Below the high mark caches do not grow, and hold less and less; above it they grow again. */
static void test_below_high(void **state)
{
	static struct page *pages[FRAMES];
	struct per_cpu_pages *pcp;
	unsigned int nr = 0, kept;
	struct zone *zone;
	struct pool pool;
	int32_t high;

	(void)state;
	pcp = create(&pool);
	zone = &mm_node_data(pool.mm, 0)->node_zones[ZONE_NORMAL];
	while (zone_page_state(zone, NR_FREE_PAGES) > wmark_pages(zone, WMARK_HIGH) + 1000)
		pages[nr++] = mm_alloc_pages(pool.mm, GFP_NOWAIT, 0);
	assert_false(zone->flags & ZONE_FLAG_BELOW_HIGH);
	kept = nr;
	while ((pages[nr] = mm_alloc_pages(pool.mm, GFP_NOWAIT, 0)) != NULL)
		nr++;
	assert_true(zone->flags & ZONE_FLAG_BELOW_HIGH);
	high = pcp->high;
	assert_true(high > pcp->high_min);
	for (unsigned int i = 0; i < 8; i++)
		mm_free_pages(pool.mm, pages[--nr], 0);
	assert_true(pcp->high < high);
	while (nr > kept)
		mm_free_pages(pool.mm, pages[--nr], 0);
	assert_false(zone->flags & ZONE_FLAG_BELOW_HIGH);
	while (nr > 0)
		mm_free_pages(pool.mm, pages[--nr], 0);
	end(&pool);
}

/* Orders 0 to 3 come back from the cache, last in first out; larger ones go to the free lists. */
static void test_orders_and_ends(void **state)
{
	struct per_cpu_pages *pcp;
	struct page *first, *second, *last;
	struct pool pool;

	(void)state;
	pcp = create(&pool);
	for (unsigned int order = 0; order <= PCP_MAX_ORDER + 1; order++) {
		int32_t before;

		first = mm_alloc_pages(pool.mm, GFP_NOWAIT, order);
		second = mm_alloc_pages(pool.mm, GFP_NOWAIT, order);
		before = pcp->count;
		mm_free_pages(pool.mm, first, order);
		mm_free_pages(pool.mm, second, order);
		if (order > PCP_MAX_ORDER) {
			assert_int_equal(pcp->count, before);
			continue;
		}
		assert_int_equal(pcp->count, before + (2 << order));
		/* Hot: what was freed last. */
		assert_ptr_equal(mm_alloc_pages(pool.mm, GFP_NOWAIT, order), second);
		/* Cold: what was freed longest ago. */
		last = second;
		mm_free_pages(pool.mm, last, order);
		second = mm_alloc_pages(pool.mm, GFP_NOWAIT | __GFP_COLD, order);
		assert_ptr_not_equal(second, last);
		mm_free_pages(pool.mm, second, order);
	}
	end(&pool);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_auto_tuning),
		cmocka_unit_test(test_short_of_memory),
		cmocka_unit_test(test_below_high),
		cmocka_unit_test(test_orders_and_ends),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
