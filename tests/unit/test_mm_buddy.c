/* SPDX-License-Identifier: MIT */
/* Buddy lists, zeroed frames and mobility (mm/buddy.c, pageblock.c, zero.c, bulk.c). */
#include <pthread.h>

#include "tests/unit/mm_pool.h"

#define MOVABLE (GFP_HIGHUSER_MOVABLE | __GFP_NOWARN)
#define ALL     (GFP_KERNEL | __GFP_MEMALLOC | __GFP_NOWARN)

static uint32_t blocks(struct pool *pool, unsigned int order)
{
	const struct zone *zone = &mm_node_data(pool->mm, 0)->node_zones[ZONE_NORMAL];
	uint32_t nr = 0;

	for (unsigned int mt = 0; mt < MIGRATE_TYPES; mt++)
		nr += zone->free_area[order].nr[mt];
	return nr;
}

static void test_split_and_merge(void **state)
{
	struct pool pool;
	struct page *page;

	(void)state;
	pool_create_simple(&pool, 1024, 1);
	assert_int_equal(blocks(&pool, 9), 2);
	page = mm_alloc_pages(pool.mm, MOVABLE, 4);
	assert_non_null(page);
	assert_int_equal(mm_page_to_pfn(pool.mm, page) % 16, 0);
	assert_int_equal(blocks(&pool, 9), 1);
	for (unsigned int order = 4; order < 9; order++)
		assert_int_equal(blocks(&pool, order), 1);
	pool_validate(&pool);
	mm_free_pages(pool.mm, page, 4);
	assert_int_equal(blocks(&pool, 9), 2);
	for (unsigned int order = 0; order < 9; order++)
		assert_int_equal(blocks(&pool, order), 0);
	pool_destroy(&pool);
}

/* Each order is aligned, distinct, and everything comes back. */
static void test_all_orders(void **state)
{
	struct page *pages[NR_PAGE_ORDERS];
	struct pool pool;

	(void)state;
	pool_create_simple(&pool, 2048, 1);
	for (unsigned int order = 0; order < NR_PAGE_ORDERS; order++) {
		pages[order] = mm_alloc_pages(pool.mm, MOVABLE, order);
		assert_non_null(pages[order]);
		assert_int_equal(page_order(pages[order]), order);
		assert_int_equal(mm_page_to_pfn(pool.mm, pages[order]) & ((1u << order) - 1), 0);
	}
	assert_null(mm_alloc_pages(pool.mm, MOVABLE, NR_PAGE_ORDERS));
	pool_validate(&pool);
	for (unsigned int order = 0; order < NR_PAGE_ORDERS; order++)
		mm_free_pages(pool.mm, pages[order], order);
	mm_drain_all_pages(pool.mm);
	assert_int_equal(blocks(&pool, 9), 4);
	pool_destroy(&pool);
}

/* The last frame can be had by those who may; a pool without holes makes few runs. */
static void test_bulk_takes_everything_in_runs(void **state)
{
	static struct page *pages[300];
	unsigned int runs = 1;
	struct pool pool;

	(void)state;
	pool_create_simple(&pool, 256, 2);
	assert_int_equal(mm_alloc_pages_bulk(pool.mm, ALL, 0, 300, pages), 256);
	for (unsigned int i = 1; i < 256; i++)
		runs += pages[i] != pages[i - 1] + 1;
	assert_in_range(runs, 1, 3);
	assert_int_equal(pool_free_frames(&pool), 0);
	assert_int_equal(mm_alloc_pages_bulk(pool.mm, ALL, 0, 1, pages + 256), 0);
	pool_validate(&pool);
	mm_free_pages_bulk(pool.mm, pages, 256, false);
	mm_drain_all_pages(pool.mm);
	assert_int_equal(blocks(&pool, 8), 1);
	pool_destroy(&pool);
}

/* A small pool hands out nearly all of its frames to guests. */
static void test_bulk_small_pool(void **state)
{
	static struct page *pages[256];
	struct pool pool;
	uint64_t got;

	(void)state;
	pool_create_simple(&pool, 256, 2);
	got = mm_alloc_pages_bulk(pool.mm, MOVABLE | __GFP_HIGH, 0, 256, pages);
	assert_in_range(got, 254, 256);
	mm_free_pages_bulk(pool.mm, pages, got, false);
	pool_destroy(&pool);
}

static void test_zeroed_preferred(void **state)
{
	struct mm_config config = {
		.nr_nodes = 1,
		.nr_cpus = 1,
		.node[0] = { .spanned = 64, .phys_base = PHYS_NORMAL },
	};
	struct page *page[8];
	struct pool pool;
	struct mm_counts counts;

	(void)state;
	pool_create(&pool, &config);
	/* 32 dirty frames, then 32 zeroed ones: they merge into one mixed block. */
	assert_int_equal(mm_online_pages(pool.mm, 0, 0, 32, false), 0);
	assert_int_equal(mm_online_pages(pool.mm, 0, 32, 32, true), 0);
	mm_counts(pool.mm, -1, &counts);
	assert_int_equal(counts.zeroed, 32);
	assert_int_equal(blocks(&pool, 6), 1);
	for (unsigned int i = 0; i < 4; i++) {
		page[i] = mm_alloc_pages(pool.mm, MOVABLE | __GFP_ZERO, 0);
		page[4 + i] = mm_alloc_pages(pool.mm, MOVABLE, 0);
		assert_true(page_zeroed(page[i]));
		assert_in_range(mm_page_idx(pool.mm, page[i]), 32, 63);
		assert_false(page_zeroed(page[4 + i]));
		assert_in_range(mm_page_idx(pool.mm, page[4 + i]), 0, 31);
		pool_validate(&pool);
	}
	for (unsigned int i = 0; i < 8; i++)
		mm_free_pages_zeroed(pool.mm, page[i], 0);
	mm_drain_all_pages(pool.mm);
	mm_counts(pool.mm, -1, &counts);
	assert_int_equal(counts.zeroed, 36);
	pool_destroy(&pool);
}

static bool all_zero(const void *addr, size_t len)
{
	const uint64_t *word = addr;

	return word[0] == 0 && memcmp(word, word + 1, len - 8) == 0;
}

/* __GFP_ZERO gives zero whatever was there; only what is dirty is written. */
static void test_gfp_zero_content(void **state)
{
	struct page *page, *other;
	struct pool pool;

	(void)state;
	pool_create_backed(&pool, 16, 0);
	memset(mm_node_data(pool.mm, 0)->base, 0x5a, 8 * FRAME_SIZE);
	assert_int_equal(mm_online_pages(pool.mm, 0, 0, 8, false), 0);
	assert_int_equal(mm_online_pages(pool.mm, 0, 8, 8, true), 0);
	page = mm_alloc_pages(pool.mm, ALL | __GFP_ZERO, 4);
	assert_non_null(page);
	assert_true(all_zero(mm_page_address(pool.mm, page), 16 * FRAME_SIZE));
	memset(mm_page_address(pool.mm, page), 1, 16 * FRAME_SIZE);
	mm_free_pages(pool.mm, page, 4);
	page = mm_alloc_pages(pool.mm, ALL | __GFP_ZERO, 0);
	assert_true(all_zero(mm_page_address(pool.mm, page), FRAME_SIZE));
	other = mm_alloc_pages(pool.mm, ALL, 0);
	assert_false(all_zero(mm_page_address(pool.mm, other), FRAME_SIZE));
	mm_free_pages(pool.mm, page, 0);
	mm_free_pages(pool.mm, other, 0);
	pool_destroy(&pool);
}

static void test_background_zeroing(void **state)
{
	struct mm_counts counts;
	struct page *page;
	struct pool pool;

	(void)state;
	pool_create_backed(&pool, 16, 0);
	memset(mm_node_data(pool.mm, 0)->base, 0x5a, 16 * FRAME_SIZE);
	assert_int_equal(mm_online_pages(pool.mm, 0, 0, 16, false), 0);
	assert_int_equal(mm_zero_free_pages(pool.mm, 5), 5);
	mm_counts(pool.mm, -1, &counts);
	assert_int_equal(counts.zeroed, 5);
	pool_validate(&pool);
	assert_int_equal(mm_zero_free_pages(pool.mm, 100), 11);
	assert_int_equal(mm_zero_free_pages(pool.mm, 100), 0);
	assert_true(all_zero(mm_node_data(pool.mm, 0)->base, 16 * FRAME_SIZE));
	/* With nothing dirty left the zeroed frames stay in one block. */
	assert_int_equal(blocks(&pool, 4), 1);
	page = mm_alloc_pages(pool.mm, ALL | __GFP_ZERO, 0);
	assert_true(page_zeroed(page));
	mm_free_pages(pool.mm, page, 0);
	pool_destroy(&pool);
}

/* Unmovable frames stay together, although they are freed and taken in between movable ones. */
static void test_mobility_grouping(void **state)
{
	static struct page *movable[4096], *unmovable[256];
	unsigned int spoiled = 0;
	struct pool pool;
	uint64_t n = 0;

	(void)state;
	pool_create_simple(&pool, 8192, 1);
	for (unsigned int i = 0; i < 4096; i++) {
		movable[i] = mm_alloc_pages(pool.mm, MOVABLE, 0);
		if (i % 16 == 0)
			unmovable[n++] = mm_alloc_pages(pool.mm, GFP_KERNEL, 0);
	}
	for (unsigned int i = 0; i < 4096; i++)
		mm_free_pages(pool.mm, movable[i], 0);
	mm_drain_all_pages(pool.mm);
	pool_validate(&pool);
	/* 256 unmovable frames need 4 of the 128 pageblocks of 64 frames; one more is allowed. */
	for (unsigned int block = 0; block < 128; block++) {
		bool any = false;

		for (uint64_t i = 0; i < n; i++)
			any = any || mm_page_idx(pool.mm, unmovable[i]) / 64 == block;
		spoiled += any;
	}
	assert_in_range(spoiled, 4, 5);
	for (uint64_t i = 0; i < n; i++)
		mm_free_pages(pool.mm, unmovable[i], 0);
	pool_destroy(&pool);
}

/*
 * A freed block whose next larger buddy is free goes to the tail of its list: it will be merged
 * soon, so others are handed out before it.
 */
static void test_tail_placement(void **state)
{
	struct page *page[16], *got;
	struct pool pool;

	(void)state;
	pool_create_simple(&pool, 64, 1);
	for (unsigned int i = 0; i < 16; i++)
		page[i] = mm_alloc_pages(pool.mm, ALL, 0);
	for (unsigned int i = 1; i < 16; i++)
		assert_ptr_equal(page[i], page[0] + i);
	/* Frames 2 and 3 become a free block of order 1. Frame 0 then has a free neighbour one
	 * order up, frame 5 has not. */
	mm_drain_all_pages(pool.mm);
	mm_free_pages_bulk(pool.mm, &page[2], 2, false);
	mm_free_pages_bulk(pool.mm, &page[5], 1, false);
	mm_free_pages_bulk(pool.mm, &page[0], 1, false);
	got = mm_alloc_pages(pool.mm, ALL, 0);
	assert_ptr_equal(got, page[5]);
	mm_free_pages_bulk(pool.mm, &got, 1, false);
	for (unsigned int i = 0; i < 16; i++)
		if (i != 0 && i != 2 && i != 3 && i != 5)
			mm_free_pages(pool.mm, page[i], 0);
	pool_destroy(&pool);
}

struct splitter {
	struct pool *pool;
	unsigned int order;
	bool stop;
	unsigned int rounds;
};

static void *split_and_merge_again(void *opaque)
{
	struct splitter *splitter = opaque;

	while (!__atomic_load_n(&splitter->stop, __ATOMIC_ACQUIRE)) {
		mm_free_pages(splitter->pool->mm,
			      mm_alloc_pages(splitter->pool->mm, MOVABLE, splitter->order),
			      splitter->order);
		__atomic_add_fetch(&splitter->rounds, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

/* The only block of a zone is split and merged over and over; who reads the free count without the
 * lock, as every look at a watermark does, never sees less than what nobody holds. */
static void test_count_while_split(void **state)
{
	enum { FRAMES = 512, ORDER = PCP_MAX_ORDER + 1, ROUNDS = 20000, READS = 200000 };
	uint64_t least = FRAMES, most = 0, now;
	struct splitter splitter = { .order = ORDER };
	const struct zone *zone;
	pthread_t thread;
	struct pool pool;

	(void)state;
	pool_create_simple(&pool, FRAMES, 1);
	splitter.pool = &pool;
	zone = &mm_node_data(pool.mm, 0)->node_zones[ZONE_NORMAL];
	assert_int_equal(blocks(&pool, 9), 1);
	assert_int_equal(pthread_create(&thread, NULL, split_and_merge_again, &splitter), 0);
	for (unsigned int reads = 0;
	     reads < READS || __atomic_load_n(&splitter.rounds, __ATOMIC_RELAXED) < ROUNDS;
	     reads++) {
		now = zone_page_state(zone, NR_FREE_PAGES);
		least = now < least ? now : least;
		most = now > most ? now : most;
	}
	__atomic_store_n(&splitter.stop, true, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	assert_in_range(least, FRAMES - (1 << ORDER), FRAMES);
	assert_in_range(most, FRAMES - (1 << ORDER), FRAMES);
	assert_int_equal(blocks(&pool, 9), 1);
	pool_destroy(&pool);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_split_and_merge),
		cmocka_unit_test(test_all_orders),
		cmocka_unit_test(test_bulk_takes_everything_in_runs),
		cmocka_unit_test(test_bulk_small_pool),
		cmocka_unit_test(test_zeroed_preferred),
		cmocka_unit_test(test_gfp_zero_content),
		cmocka_unit_test(test_background_zeroing),
		cmocka_unit_test(test_mobility_grouping),
		cmocka_unit_test(test_tail_placement),
		cmocka_unit_test(test_count_while_split),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
