/* SPDX-License-Identifier: MIT */
/* The kernel's formulas (mm/watermark.c, kcompactd.c), with its numbers where they carry over. */
#include "framevisor/oom.h"
#include "mm/compaction_internal.h"
#include "tests/unit/mm_pool.h"

#define QUIET __GFP_NOWARN

static void drop(struct pool *pool)
{
	pool_validate(pool);
	mm_destroy(pool->mm);
	free(pool->metadata);
}

static struct zone *zone_of(struct pool *pool, enum zone_type type)
{
	return &mm_node_data(pool->mm, 0)->node_zones[type];
}

static uint64_t take_all(struct pool *pool, gfp_t gfp)
{
	uint64_t nr = 0;

	while (mm_alloc_pages(pool->mm, gfp | QUIET, 0))
		nr++;
	return nr;
}

static uint64_t min_free_kbytes(uint64_t frames)
{
	uint64_t value = 0;
	struct pool pool;

	pool_create_simple(&pool, frames, 1);
	assert_int_equal(mm_setting_get(pool.mm, "min_free_kbytes", 0, &value), 0);
	drop(&pool);
	return value;
}

/* sqrt(16 * kbytes), at most 256 MiB. */
static void test_min_free_kbytes(void **state)
{
	(void)state;
	assert_int_equal(min_free_kbytes(1), 181);
	assert_int_equal(min_free_kbytes(512), 4096);   /* 1 GiB */
	assert_int_equal(min_free_kbytes(8192), 16384); /* 16 GiB */
	assert_int_equal(frame_use_shift(FRAME_SHIFT_1G), 0);
	assert_int_equal(min_free_kbytes(4096), 262144); /* 4 TiB: just so */
	assert_int_equal(min_free_kbytes(8192), 262144);
	assert_int_equal(frame_use_shift(FRAME_SHIFT_2M), 0);
}

/* The gap is a quarter of min or a part of the zone, whichever is more. */
static void test_gaps(void **state)
{
	struct zone *zone;
	struct pool pool;

	(void)state;
	pool_create_simple(&pool, 100000, 1);
	zone = zone_of(&pool, ZONE_NORMAL);
	/* 56 568 KiB are 28 frames; 10 / 10000 of the zone are 100. */
	assert_int_equal(zone->_watermark[WMARK_MIN], 28);
	assert_int_equal(zone->_watermark[WMARK_LOW], 128);
	assert_int_equal(zone->_watermark[WMARK_HIGH], 228);
	assert_int_equal(zone->_watermark[WMARK_PROMO], 328);
	assert_int_equal(mm_setting_set(pool.mm, "min_free_kbytes", 0, 2000 * 2048), 0);
	assert_int_equal(zone->_watermark[WMARK_MIN], 2000);
	assert_int_equal(zone->_watermark[WMARK_LOW], 2500);
	assert_int_equal(zone->_watermark[WMARK_PROMO], 3500);
	assert_int_equal(mm_setting_set(pool.mm, "watermark_scale_factor", 0, 1000), 0);
	assert_int_equal(zone->_watermark[WMARK_LOW], 12000);
	drop(&pool);
}

/* Zones that nobody depends on keep one frame; small ones do not count for more than they have. */
static void test_other_zones(void **state)
{
	struct mm_config config = {
		.nr_nodes = 1,
		.nr_cpus = 1,
		.node[0] = { .spanned = 8192, .movable = 1024, .highmem = 1024 },
	};
	uint64_t total = 0;
	struct pool pool;

	(void)state;
	pool_create(&pool, &config);
	assert_int_equal(mm_online_pages(pool.mm, 0, 0, 8192, false), 0);
	assert_int_equal(zone_of(&pool, ZONE_HIGHMEM)->_watermark[WMARK_MIN], 1);
	assert_int_equal(zone_of(&pool, ZONE_MOVABLE)->_watermark[WMARK_MIN], 1);
	assert_int_equal(mm_setting_set(pool.mm, "min_free_kbytes", 0, 500 * 2048), 0);
	assert_int_equal(zone_of(&pool, ZONE_HIGHMEM)->_watermark[WMARK_MIN], 1);
	assert_int_equal(zone_of(&pool, ZONE_MOVABLE)->_watermark[WMARK_MIN], 1);
	assert_int_equal(mm_setting_set(pool.mm, "min_free_kbytes", 0, 16384), 0);
	/* 8 frames of DMA, of which 24 would be kept from others. */
	assert_int_equal(zone_of(&pool, ZONE_DMA)->managed_pages, 8);
	assert_int_equal(zone_of(&pool, ZONE_DMA)->lowmem_reserve[ZONE_MOVABLE], 8184 / 256);
	for (unsigned int type = 0; type < MAX_NR_ZONES; type++) {
		const struct zone *zone = zone_of(&pool, (enum zone_type)type);
		uint64_t kept = zone->lowmem_reserve[ZONE_MOVABLE] + zone->_watermark[WMARK_HIGH];

		total += kept < zone->managed_pages ? kept : zone->managed_pages;
	}
	assert_int_equal(mm_totalreserve_pages(pool.mm), total);
	drop(&pool);
}

/* Frames of a low zone are kept from those who could use a higher one. */
static void test_lowmem_reserve(void **state)
{
	struct mm_config config = {
		.nr_nodes = 1,
		.nr_cpus = 1,
		.node[0] = { .spanned = 8192 },
	};
	struct zone *dma32;
	struct pool pool;
	uint64_t kept;

	(void)state;
	pool_create(&pool, &config);
	assert_int_equal(mm_online_pages(pool.mm, 0, 0, 8192, false), 0);
	dma32 = zone_of(&pool, ZONE_DMA32);
	kept = dma32->lowmem_reserve[ZONE_NORMAL];
	assert_int_equal(kept, (8192 - 2048) / 256);
	take_all(&pool, GFP_NOWAIT);
	mm_drain_all_pages(pool.mm);
	assert_int_equal(zone_page_state(dma32, NR_FREE_PAGES),
			 dma32->_watermark[WMARK_MIN] + kept);
	/* Not from those who cannot. */
	take_all(&pool, GFP_NOWAIT | __GFP_DMA32);
	assert_int_equal(zone_page_state(dma32, NR_FREE_PAGES), dma32->_watermark[WMARK_MIN]);
	drop(&pool);
}

/* A boost is there to make kswapd work, not to fail who cannot wait. */
static void test_boost_is_no_obstacle(void **state)
{
	struct zone *zone;
	struct pool pool;

	(void)state;
	pool_create_simple(&pool, 8192, 1);
	zone = zone_of(&pool, ZONE_NORMAL);
	zone->watermark_boost = 1000;
	take_all(&pool, GFP_NOWAIT);
	assert_int_equal(pool_free_frames(&pool), 1008);
	take_all(&pool, GFP_ATOMIC);
	assert_int_equal(pool_free_frames(&pool), 3);
	zone->watermark_boost = 0;
	drop(&pool);
}

/* Who is to give up frames, and needs some for that, gets half of min, and is never made to wait
 * for the next victim. */
static void test_victim(void **state)
{
	struct pool pool;

	(void)state;
	pool_create_simple(&pool, 8192, 1);
	take_all(&pool, GFP_NOWAIT);
	assert_int_equal(pool_free_frames(&pool), 8);
	assert_false(mm_set_oom_victim(true));
	take_all(&pool, GFP_KERNEL | __GFP_NOMEMALLOC);
	assert_int_equal(pool_free_frames(&pool), 8);
	take_all(&pool, GFP_KERNEL);
	assert_int_equal(pool_free_frames(&pool), 4);
	/* What no mark keeps is for others all the same. */
	take_all(&pool, GFP_NOWAIT | __GFP_MEMALLOC);
	assert_int_equal(pool_free_frames(&pool), 0);
	assert_true(mm_set_oom_victim(false));
	drop(&pool);
}

/* Frames begin their life without what their last user noted in them. */
static void test_private_is_cleared(void **state)
{
	struct pool pool;

	(void)state;
	pool_create_simple(&pool, 256, 1);
	for (unsigned int order = 0; order <= 5; order += 5) {
		struct page *page = mm_alloc_pages(pool.mm, GFP_NOWAIT, order);

		page->private = 0x5a;
		mm_free_pages(pool.mm, page, order);
		mm_drain_all_pages(pool.mm);
		for (unsigned int i = 0; i < 3; i++) {
			struct page *again = mm_alloc_pages(
				pool.mm, GFP_NOWAIT | (i == 1 ? __GFP_COMP : 0), order);

			assert_int_equal(again->private, 0);
			again->private = 0x5a;
			mm_free_pages(pool.mm, again, order);
		}
	}
	pool_destroy(&pool);
}

/* 100 - proactiveness, at least 5, and ten more to begin. */
static void test_proactive_marks(void **state)
{
	static const unsigned int expected[][3] = {
		{ 20, 80, 90 }, { 100, 5, 15 }, { 96, 5, 15 }, { 90, 10, 20 }, { 3, 97, 100 },
	};
	struct pool pool;

	(void)state;
	pool_create_simple(&pool, 256, 1);
	for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++) {
		assert_int_equal(
			mm_setting_set(pool.mm, "compaction_proactiveness", 0, expected[i][0]), 0);
		assert_int_equal(fragmentation_score_wmark(pool.mm, true), expected[i][1]);
		assert_int_equal(fragmentation_score_wmark(pool.mm, false), expected[i][2]);
	}
	pool_destroy(&pool);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_min_free_kbytes),      cmocka_unit_test(test_gaps),
		cmocka_unit_test(test_other_zones),          cmocka_unit_test(test_lowmem_reserve),
		cmocka_unit_test(test_boost_is_no_obstacle), cmocka_unit_test(test_victim),
		cmocka_unit_test(test_private_is_cleared),   cmocka_unit_test(test_proactive_marks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
