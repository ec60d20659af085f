/* SPDX-License-Identifier: MIT */
/*
 * What is taken when the nearest has nothing: nodes (mm/zonelist.c), pageblocks of another mobility
 * (mm/pageblock.c), the highatomic reserve (mm/highatomic.c).
 */
#include "framevisor/mempolicy.h"
#include "mm/internal.h"
#include "tests/unit/mm_pool.h"

#define QUIET __GFP_NOWARN
/* Whatever is there. */
#define ANY (GFP_NOWAIT | __GFP_MEMALLOC | QUIET)

static void drop(struct pool *pool)
{
	pool_validate(pool);
	mm_destroy(pool->mm);
	free(pool->metadata);
}

/* --- nodes --- */

#define NODES    4
#define PER_NODE 64

static void create_nodes(struct pool *pool, const uint8_t distance[NODES][NODES], uint64_t cpuless)
{
	static struct mm_config config;

	memset(&config, 0, sizeof(config));
	config.nr_nodes = NODES;
	config.nr_cpus = NODES;
	config.cpuless = cpuless;
	for (unsigned int nid = 0; nid < NODES; nid++) {
		config.node[nid].spanned = PER_NODE;
		config.node[nid].phys_base = PHYS_NORMAL + nid * PER_NODE;
		memcpy(config.distance[nid], distance[nid], NODES);
	}
	pool_create(pool, &config);
	for (unsigned int nid = 0; nid < NODES; nid++)
		assert_int_equal(mm_online_pages(pool->mm, nid, 0, PER_NODE, false), 0);
}

static void check_order(struct pool *pool, unsigned int nid, const unsigned int order[NODES])
{
	const struct zonelist *list =
		&mm_node_data(pool->mm, nid)->node_zonelists[ZONELIST_FALLBACK];
	const struct zonelist *own =
		&mm_node_data(pool->mm, nid)->node_zonelists[ZONELIST_NOFALLBACK];
	unsigned int at = 0;

	for (unsigned int i = 0; i < list->nr; i++) {
		if (i > 0 && list->refs[i].nid == list->refs[i - 1].nid)
			continue;
		assert_true(at < NODES);
		if (list->refs[i].nid != order[at])
			fail_msg("node %u, place %u: node %u, not %u", nid, at, list->refs[i].nid,
				 order[at]);
		at++;
	}
	assert_int_equal(at, NODES);
	for (unsigned int i = 0; i < own->nr; i++)
		assert_int_equal(own->refs[i].nid, nid);
}

static const uint8_t flat[NODES][NODES] = {
	{ 10, 20, 20, 20 }, { 20, 10, 20, 20 }, { 20, 20, 10, 20 }, { 20, 20, 20, 10 }
};

/* Of equal distance: the next number first, around the ring. */
static void test_ring(void **state)
{
	struct pool pool;

	(void)state;
	create_nodes(&pool, flat, 0);
	check_order(&pool, 0, (const unsigned int[]){ 0, 1, 2, 3 });
	check_order(&pool, 1, (const unsigned int[]){ 1, 2, 3, 0 });
	check_order(&pool, 2, (const unsigned int[]){ 2, 3, 0, 1 });
	drop(&pool);
}

/* Two nodes with the same two neighbours overflow into different ones. */
static void test_load(void **state)
{
	static const uint8_t distance[NODES][NODES] = {
		{ 10, 40, 20, 20 }, { 40, 10, 20, 20 }, { 20, 20, 10, 40 }, { 20, 20, 40, 10 }
	};
	struct pool pool;

	(void)state;
	create_nodes(&pool, distance, 0);
	check_order(&pool, 0, (const unsigned int[]){ 0, 2, 3, 1 });
	check_order(&pool, 1, (const unsigned int[]){ 1, 3, 2, 0 });
	drop(&pool);
}

/* Memory that is nobody's own comes before that of a node with CPUs, at the same distance. */
static void test_cpuless(void **state)
{
	struct pool pool;

	(void)state;
	create_nodes(&pool, flat, UINT64_C(1) << 3);
	check_order(&pool, 0, (const unsigned int[]){ 0, 3, 1, 2 });
	check_order(&pool, 1, (const unsigned int[]){ 1, 3, 2, 0 });
	drop(&pool);
	create_nodes(&pool, flat, UINT64_C(1) << 0);
	/* It has the smaller number, too: one outweighs the other, and the load decides. */
	check_order(&pool, 1, (const unsigned int[]){ 1, 0, 2, 3 });
	drop(&pool);
}

/* A policy's nearest node: the one with the smaller number of two. */
static void test_nearest(void **state)
{
	struct mempolicy bind = { .mode = POLICY_BIND, .nodes = 0xc };
	struct mempolicy preferred = { .mode = POLICY_PREFERRED, .nodes = 0xc };
	struct pool pool;

	(void)state;
	create_nodes(&pool, flat, 0);
	assert_int_equal(page_to_nid(mm_alloc_pages_policy(pool.mm, &bind, GFP_NOWAIT, 0)), 2);
	assert_int_equal(page_to_nid(mm_alloc_pages_policy(pool.mm, &preferred, GFP_NOWAIT, 0)), 2);
	drop(&pool);
}

/* --- mobility --- */

#define BLOCK  3u /* order of a pageblock: 8 frames */
#define BLOCKS 16u

#define UNMOVABLE   ANY
#define MOVABLE     (ANY | __GFP_MOVABLE)
#define RECLAIMABLE (ANY | __GFP_RECLAIMABLE)

/* A pool in which nothing is free, and a block of each mobility whose frames are freed one by one.
 */
struct blocks {
	struct pool pool;
	struct page *unmovable, *movable, *reclaimable;
};

static struct page *take_block(struct pool *pool, gfp_t gfp)
{
	struct page *page = mm_alloc_pages(pool->mm, gfp, BLOCK);

	assert_non_null(page);
	mm_split_page(pool->mm, page, BLOCK);
	return page;
}

static void create_blocks(struct blocks *blocks)
{
	struct mm_config config = {
		.nr_nodes = 1,
		.nr_cpus = 1,
		.pageblock_order = BLOCK,
		.node[0] = { .spanned = BLOCKS << BLOCK, .phys_base = PHYS_NORMAL },
	};

	pool_create(&blocks->pool, &config);
	assert_int_equal(mm_online_pages(blocks->pool.mm, 0, 0, BLOCKS << BLOCK, false), 0);
	blocks->unmovable = take_block(&blocks->pool, UNMOVABLE);
	blocks->reclaimable = take_block(&blocks->pool, RECLAIMABLE);
	blocks->movable = take_block(&blocks->pool, MOVABLE);
	while (mm_alloc_pages(blocks->pool.mm, MOVABLE, BLOCK))
		;
	assert_int_equal(pool_free_frames(&blocks->pool), 0);
}

static void give(struct blocks *blocks, struct page *block, unsigned int first, unsigned int nr)
{
	for (unsigned int i = first; i < first + nr; i++)
		mm_free_pages(blocks->pool.mm, block + i, 0);
	mm_drain_all_pages(blocks->pool.mm);
}

static bool in_block(const struct page *page, const struct page *block)
{
	return page && page >= block && page < block + (1u << BLOCK);
}

static enum migratetype type_of(struct blocks *blocks, const struct page *block)
{
	return get_pageblock_migratetype(blocks->pool.mm, block);
}

/* Each mobility has an order in which it takes from the others. */
static void test_fallback_order(void **state)
{
	struct blocks blocks;

	(void)state;
	create_blocks(&blocks);
	assert_int_equal(type_of(&blocks, blocks.reclaimable), MIGRATE_RECLAIMABLE);
	give(&blocks, blocks.reclaimable, 0, 1);
	give(&blocks, blocks.movable, 0, 1);
	assert_true(in_block(mm_alloc_pages(blocks.pool.mm, UNMOVABLE, 0), blocks.reclaimable));
	drop(&blocks.pool);
	create_blocks(&blocks);
	give(&blocks, blocks.reclaimable, 0, 1);
	give(&blocks, blocks.unmovable, 0, 1);
	assert_true(in_block(mm_alloc_pages(blocks.pool.mm, MOVABLE, 0), blocks.reclaimable));
	drop(&blocks.pool);
	create_blocks(&blocks);
	give(&blocks, blocks.unmovable, 0, 1);
	give(&blocks, blocks.movable, 0, 1);
	assert_true(in_block(mm_alloc_pages(blocks.pool.mm, RECLAIMABLE, 0), blocks.unmovable));
	drop(&blocks.pool);
}

/* A movable frame is taken out of the smallest block; an unmovable one out of the largest, because
 * it spoils what it is taken from. */
static void test_smallest_or_largest(void **state)
{
	struct blocks blocks;

	(void)state;
	create_blocks(&blocks);
	give(&blocks, blocks.unmovable, 0, 1);
	give(&blocks, blocks.reclaimable, 0, 2); /* would be first, of the same size */
	assert_true(in_block(mm_alloc_pages(blocks.pool.mm, MOVABLE, 0), blocks.unmovable));
	assert_int_equal(type_of(&blocks, blocks.unmovable), MIGRATE_UNMOVABLE);
	drop(&blocks.pool);
	create_blocks(&blocks);
	give(&blocks, blocks.movable, 0, 1);
	give(&blocks, blocks.reclaimable, 0, 4);
	assert_true(in_block(mm_alloc_pages(blocks.pool.mm, UNMOVABLE, 0), blocks.reclaimable));
	assert_int_equal(type_of(&blocks, blocks.reclaimable), MIGRATE_UNMOVABLE);
	drop(&blocks.pool);
}

/* Half of the pageblock is free: it changes sides, also for movable frames if half of it is to be
 * had at once. Less: only the frames do. */
static void test_claim(void **state)
{
	struct blocks blocks;

	(void)state;
	create_blocks(&blocks);
	give(&blocks, blocks.unmovable, 0, 4);
	assert_true(in_block(mm_alloc_pages(blocks.pool.mm, MOVABLE, 0), blocks.unmovable));
	assert_int_equal(type_of(&blocks, blocks.unmovable), MIGRATE_MOVABLE);
	drop(&blocks.pool);
	create_blocks(&blocks);
	give(&blocks, blocks.unmovable, 0, 2);
	assert_true(in_block(mm_alloc_pages(blocks.pool.mm, MOVABLE, 0), blocks.unmovable));
	assert_int_equal(type_of(&blocks, blocks.unmovable), MIGRATE_UNMOVABLE);
	drop(&blocks.pool);
}

/* Frames of the wanted kind that lie there count like free ones. */
static void test_claim_counts_alike(void **state)
{
	struct blocks blocks;

	(void)state;
	create_blocks(&blocks);
	for (unsigned int i = 0; i < 4; i += 2) { /* single frames are never claimed for */
		give(&blocks, blocks.unmovable, i, 1);
		assert_ptr_equal(mm_alloc_pages(blocks.pool.mm, MOVABLE, 0), blocks.unmovable + i);
	}
	assert_int_equal(type_of(&blocks, blocks.unmovable), MIGRATE_UNMOVABLE);
	give(&blocks, blocks.unmovable, 6, 2);
	assert_ptr_equal(mm_alloc_pages(blocks.pool.mm, MOVABLE, 1), blocks.unmovable + 6);
	assert_int_equal(type_of(&blocks, blocks.unmovable), MIGRATE_MOVABLE);
	drop(&blocks.pool);
	/* For others, what cannot be moved in a movable block is taken for their kind. */
	create_blocks(&blocks);
	give(&blocks, blocks.movable, 0, 1);
	assert_ptr_equal(mm_alloc_pages(blocks.pool.mm, UNMOVABLE, 0), blocks.movable);
	give(&blocks, blocks.movable, 2, 1);
	assert_ptr_equal(mm_alloc_pages(blocks.pool.mm, UNMOVABLE, 0), blocks.movable + 2);
	assert_int_equal(type_of(&blocks, blocks.movable), MIGRATE_MOVABLE);
	give(&blocks, blocks.movable, 6, 2);
	assert_ptr_equal(mm_alloc_pages(blocks.pool.mm, UNMOVABLE, 0), blocks.movable + 6);
	assert_int_equal(type_of(&blocks, blocks.movable), MIGRATE_UNMOVABLE);
	drop(&blocks.pool);
}

/* Mixing boosts the marks by a pageblock, up to one and a half of high, so that kswapd makes room.
 */
static void test_boost(void **state)
{
	struct blocks blocks;
	pg_data_t *pgdat;
	struct zone *zone;

	(void)state;
	create_blocks(&blocks);
	pgdat = mm_node_data(blocks.pool.mm, 0);
	zone = &pgdat->node_zones[ZONE_NORMAL];
	/* As if kswapd ran; nobody wakes it for requests that take whatever is there. */
	pgdat->kswapd_running = true;
	pgdat->kswapd_failures = 1000;
	zone->_watermark[WMARK_HIGH] = 8;
	give(&blocks, blocks.movable, 0, 1);
	assert_non_null(mm_alloc_pages(blocks.pool.mm, UNMOVABLE, 0));
	assert_int_equal(zone->watermark_boost, 8);
	assert_true(zone->flags & ZONE_FLAG_BOOSTED);
	zone->flags &= ~ZONE_FLAG_BOOSTED;
	give(&blocks, blocks.movable, 1, 1);
	assert_non_null(mm_alloc_pages(blocks.pool.mm, UNMOVABLE, 0));
	assert_int_equal(zone->watermark_boost, 12);
	/* At least a pageblock, however low the mark. */
	zone->flags &= ~ZONE_FLAG_BOOSTED;
	zone->watermark_boost = 0;
	zone->_watermark[WMARK_HIGH] = 1;
	give(&blocks, blocks.movable, 2, 1);
	assert_non_null(mm_alloc_pages(blocks.pool.mm, UNMOVABLE, 0));
	assert_int_equal(zone->watermark_boost, 8);
	/* Not when it is switched off, nor in a zone of less than four pageblocks. */
	zone->flags &= ~ZONE_FLAG_BOOSTED;
	zone->watermark_boost = 0;
	mm_setting_set(blocks.pool.mm, "watermark_boost_factor", 0, 0);
	give(&blocks, blocks.reclaimable, 0, 1);
	assert_non_null(mm_alloc_pages(blocks.pool.mm, UNMOVABLE, 0));
	assert_int_equal(zone->watermark_boost, 0);
	mm_setting_set(blocks.pool.mm, "watermark_boost_factor", 0, 15000);
	zone->managed_pages -= 100;
	give(&blocks, blocks.reclaimable, 1, 1);
	assert_non_null(mm_alloc_pages(blocks.pool.mm, UNMOVABLE, 0));
	zone->managed_pages += 100;
	assert_int_equal(zone->watermark_boost, 0);
	/* And that it would have been boosted. */
	give(&blocks, blocks.reclaimable, 2, 1);
	assert_non_null(mm_alloc_pages(blocks.pool.mm, UNMOVABLE, 0));
	assert_int_equal(zone->watermark_boost, 8);
	pgdat->kswapd_running = false;
	drop(&blocks.pool);
}

/* With DMA32 below it, a NORMAL zone is not mixed as long as that one has frames. */
static void test_no_fragment(void **state)
{
	struct mm_config config = {
		.nr_nodes = 1,
		.nr_cpus = 1,
		.pageblock_order = BLOCK,
		.dma_limit = 1,
		.node[0] = { .spanned = 512, .phys_base = 2048 - 256 },
	};
	struct page *page, *block, *low[4];
	unsigned int nr = 0;
	struct pool pool;

	(void)state;
	pool_create(&pool, &config);
	assert_int_equal(mm_online_pages(pool.mm, 0, 0, 512, false), 0);
	for (unsigned int i = 0; i < MAX_NR_ZONES; i++)
		mm_setting_set(pool.mm, "lowmem_reserve_ratio", i, 0);
	mm_setting_set(pool.mm, "min_free_kbytes", 0, 1);
	block = take_block(&pool, MOVABLE);
	assert_int_equal(page_zonenum(block), ZONE_NORMAL);
	while ((page = mm_alloc_pages(pool.mm, MOVABLE, BLOCK)) != NULL)
		if (page_zonenum(page) == ZONE_DMA32 && nr < 4)
			low[nr++] = page;
	while (nr > 0)
		mm_free_pages(pool.mm, low[--nr], BLOCK);
	for (unsigned int i = 0; i < 6; i++)
		mm_free_pages(pool.mm, block + i, 0);
	mm_drain_all_pages(pool.mm);
	assert_int_equal(page_zonenum(mm_alloc_pages(pool.mm, GFP_NOWAIT, 0)), ZONE_DMA32);
	assert_int_equal(get_pageblock_migratetype(pool.mm, block), MIGRATE_MOVABLE);
	drop(&pool);
}

/* --- the highatomic reserve --- */

/* Two nodes of 8192 frames in pageblocks of 8, of which nr of node 0 are reserved. */
static void create_reserved(struct pool *pool, unsigned int nr)
{
	struct mm_config config = {
		.nr_nodes = 2,
		.nr_cpus = 1,
		.pageblock_order = BLOCK,
		.node = { { .spanned = 8192, .phys_base = PHYS_NORMAL },
			  { .spanned = 8192, .phys_base = PHYS_NORMAL + 8192 } },
	};
	struct zone *zone;

	pool_create(pool, &config);
	assert_int_equal(mm_online_pages(pool->mm, 0, 0, 8192, false), 0);
	assert_int_equal(mm_online_pages(pool->mm, 1, 0, 8192, false), 0);
	zone = &mm_node_data(pool->mm, 0)->node_zones[ZONE_NORMAL];
	for (unsigned int i = 0; i < nr; i++) {
		struct page *page = mm_alloc_pages_node(pool->mm, 0, GFP_NOWAIT, BLOCK - 1);

		assert_int_equal(page_to_nid(page), 0);
		reserve_highatomic(pool->mm, zone, page);
		mm_free_pages(pool->mm, page, BLOCK - 1);
		/* Out of the way, so that the next one is of another pageblock. */
		mm_drain_all_pages(pool->mm);
	}
	assert_int_equal(zone->nr_reserved_highatomic, nr << BLOCK);
}

static uint64_t take_all(struct pool *pool, int nid, gfp_t gfp)
{
	nodemask_t mask = UINT64_C(1) << nid;
	uint64_t nr = 0;

	while (mm_alloc_pages_nodemask(pool->mm, gfp | QUIET, 0, nid, &mask))
		nr++;
	return nr;
}

/* Before an ordinary request fails, all of it but one pageblock is given up, to the request's own
 * mobility; what is kept is not counted as free for it. */
static void test_reserve_given_up(void **state)
{
	struct zone *zone;
	struct pool pool;

	(void)state;
	create_reserved(&pool, 5);
	zone = &mm_node_data(pool.mm, 0)->node_zones[ZONE_NORMAL];
	take_all(&pool, 0, GFP_NOWAIT);
	assert_int_equal(zone->nr_reserved_highatomic, 1u << BLOCK);
	assert_int_equal(zone_page_state(zone, NR_FREE_PAGES),
			 zone->_watermark[WMARK_MIN] + (1u << BLOCK));
	/* Down to nothing but the reserve, and into it for who cannot wait. */
	take_all(&pool, 0, GFP_NOWAIT | __GFP_MEMALLOC);
	assert_int_equal(zone_page_state(zone, NR_FREE_PAGES), 1u << BLOCK);
	take_all(&pool, 0, GFP_ATOMIC | __GFP_MEMALLOC);
	assert_int_equal(zone_page_state(zone, NR_FREE_PAGES), 0);
	drop(&pool);
}

static unsigned int nr_of_type(struct pool *pool, enum migratetype mt)
{
	unsigned int nr = 0;

	for (uint64_t i = 0; i < 8192; i += 1u << BLOCK)
		nr += get_pageblock_migratetype(pool->mm, mm_page(pool->mm, 0, i)) == mt;
	return nr;
}

/* One pageblock at a time, to the mobility that needs it; the last one only when it has to be. */
static void test_reserve_by_pageblock(void **state)
{
	struct alloc_context ac = { .nodemask = 1,
				    .highest_zoneidx = ZONE_NORMAL,
				    .migratetype = MIGRATE_RECLAIMABLE };
	struct pool pool;

	(void)state;
	create_reserved(&pool, 5);
	ac.zonelist = &mm_node_data(pool.mm, 0)->node_zonelists[ZONELIST_FALLBACK];
	for (unsigned int given = 1; given <= 4; given++) {
		assert_true(unreserve_highatomic(pool.mm, &ac, false));
		assert_int_equal(nr_of_type(&pool, MIGRATE_HIGHATOMIC), 5 - given);
		/* Free neighbours that it merged with became the same. */
		assert_true(nr_of_type(&pool, MIGRATE_RECLAIMABLE) >= given);
		pool_validate(&pool);
	}
	assert_false(unreserve_highatomic(pool.mm, &ac, false));
	assert_true(unreserve_highatomic(pool.mm, &ac, true));
	assert_false(unreserve_highatomic(pool.mm, &ac, true));
	assert_int_equal(nr_of_type(&pool, MIGRATE_HIGHATOMIC), 0);
	assert_true(nr_of_type(&pool, MIGRATE_RECLAIMABLE) >= 5);
	drop(&pool);
}

/* A request that may only have another node's frames does not take this one's reserve. */
static void test_reserve_of_others(void **state)
{
	struct zone *zone;
	struct pool pool;

	(void)state;
	create_reserved(&pool, 5);
	zone = &mm_node_data(pool.mm, 0)->node_zones[ZONE_NORMAL];
	take_all(&pool, 1, GFP_NOWAIT);
	take_all(&pool, 1, GFP_KERNEL);
	assert_int_equal(zone->nr_reserved_highatomic, 5u << BLOCK);
	drop(&pool);
}

/* At most 1 % of the zone, in whole pageblocks. */
static void test_reserve_limit(void **state)
{
	struct zone *zone;
	struct pool pool;

	(void)state;
	create_reserved(&pool, 11); /* 81 frames: 11 pageblocks */
	zone = &mm_node_data(pool.mm, 0)->node_zones[ZONE_NORMAL];
	reserve_highatomic(pool.mm, zone, mm_alloc_pages_node(pool.mm, 0, GFP_NOWAIT, BLOCK - 1));
	assert_int_equal(zone->nr_reserved_highatomic, 11u << BLOCK);
	drop(&pool);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ring),
		cmocka_unit_test(test_load),
		cmocka_unit_test(test_cpuless),
		cmocka_unit_test(test_nearest),
		cmocka_unit_test(test_fallback_order),
		cmocka_unit_test(test_smallest_or_largest),
		cmocka_unit_test(test_claim),
		cmocka_unit_test(test_claim_counts_alike),
		cmocka_unit_test(test_boost),
		cmocka_unit_test(test_no_fragment),
		cmocka_unit_test(test_reserve_given_up),
		cmocka_unit_test(test_reserve_by_pageblock),
		cmocka_unit_test(test_reserve_of_others),
		cmocka_unit_test(test_reserve_limit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
