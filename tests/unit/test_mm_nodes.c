/* SPDX-License-Identifier: MIT */
/*
 * 64 nodes, simulated: the walk over the zonelist, policies, kswapd and compaction behave as they
 * do with one. The distances are those of a ring, as of a large machine.
 */
#include "framevisor/compaction.h"
#include "framevisor/mempolicy.h"
#include "framevisor/vmscan.h"
#include "tests/unit/mm_pool.h"
#include "tests/unit/sleep.h"

#define NODES    MAX_NUMNODES
#define PER_NODE 128
#define ALL      (GFP_NOWAIT | __GFP_MOVABLE | __GFP_MEMALLOC)

static unsigned int hops(unsigned int a, unsigned int b)
{
	unsigned int apart = a > b ? a - b : b - a;

	return apart < NODES - apart ? apart : NODES - apart;
}

static void create(struct pool *pool)
{
	static struct mm_config config;

	memset(&config, 0, sizeof(config));
	config.nr_nodes = NODES;
	config.nr_cpus = 2;
	config.pageblock_order = 3;
	for (unsigned int nid = 0; nid < NODES; nid++) {
		config.node[nid].spanned = PER_NODE;
		config.node[nid].phys_base = PHYS_NORMAL + nid * PER_NODE;
		for (unsigned int other = 0; other < NODES; other++)
			config.distance[nid][other] = (uint8_t)(10 + 5 * hops(nid, other));
	}
	pool_create(pool, &config);
	for (unsigned int nid = 0; nid < NODES; nid++)
		assert_int_equal(mm_online_pages(pool->mm, nid, 0, PER_NODE, false), 0);
}

static void drop(struct pool *pool)
{
	pool_validate(pool);
	mm_destroy(pool->mm);
	free(pool->metadata);
}

/* All memory is had, from one node's point of view in the order of distance. */
static void test_zonelist_walk(void **state)
{
	unsigned int last = 0, frames = 0;
	nodemask_t nodes = 0;
	struct pool pool;
	struct page *page;

	(void)state;
	create(&pool);
	while ((page = mm_alloc_pages_node(pool.mm, 17, ALL, 0)) != NULL) {
		unsigned int nid = page_to_nid(page);

		frames++;
		if (nodes >> nid & 1)
			continue;
		/* The next one that was not touched yet. */
		assert_true(hops(17, nid) >= last);
		last = hops(17, nid);
		nodes |= UINT64_C(1) << nid;
	}
	assert_int_equal(last, NODES / 2);
	assert_int_equal(nodes, UINT64_MAX);
	assert_int_equal(frames, NODES * PER_NODE);
	drop(&pool);
}

/* A large block is found on the only node that has one, wherever it is. */
static void test_last_large_block(void **state)
{
	static struct page *held[NODES];
	struct pool pool;

	(void)state;
	create(&pool);
	for (unsigned int i = 0; i < NODES; i++)
		held[i] = mm_alloc_pages_node(pool.mm, (int)i, ALL | __GFP_THISNODE, 7);
	assert_null(mm_alloc_pages_node(pool.mm, 0, ALL, 7));
	mm_free_pages(pool.mm, held[32], 7);
	assert_int_equal(page_to_nid(held[32] = mm_alloc_pages_node(pool.mm, 0, ALL, 7)), 32);
	mm_free_pages(pool.mm, held[5], 7);
	assert_null(mm_alloc_pages_node(pool.mm, 6, ALL | __GFP_THISNODE, 4));
	assert_int_equal(page_to_nid(mm_alloc_pages_node(pool.mm, 60, ALL, 4)), 5);
	drop(&pool);
}

static void test_policies(void **state)
{
	struct mempolicy interleave = { .mode = POLICY_INTERLEAVE, .nodes = UINT64_MAX };
	struct mempolicy bind = { .mode = POLICY_BIND, .nodes = UINT64_C(1) << 63 };
	struct page *pages[2 * NODES];
	unsigned int nr = 0;
	struct pool pool;

	(void)state;
	create(&pool);
	for (unsigned int i = 0; i < 2 * NODES; i++) {
		pages[i] = mm_alloc_pages_policy(pool.mm, &interleave, GFP_NOWAIT, 0);
		assert_int_equal(page_to_nid(pages[i]), i % NODES);
	}
	mm_free_pages_bulk(pool.mm, pages, 2 * NODES, false);
	while (mm_alloc_pages_policy(pool.mm, &bind, ALL, 0))
		nr++;
	assert_int_equal(nr, PER_NODE);
	drop(&pool);
}

static int take_away(void *opaque, struct page *page, gfp_t gfp)
{
	(void)gfp;
	page_unmap(page);
	__atomic_add_fetch((unsigned int *)opaque + page_to_nid(page), 1, __ATOMIC_RELAXED);
	return 0;
}

/* One thread per node; those whose node is short work, the others sleep. */
static void test_kswapd(void **state)
{
	static const struct mm_reclaim_ops ops = { .reclaim = take_away };
	unsigned int taken[NODES] = { 0 };
	const struct zone *zone;
	struct pool pool;
	struct page *page;

	(void)state;
	create(&pool);
	while ((page = mm_alloc_pages_node(pool.mm, 40, ALL | __GFP_THISNODE, 0)) != NULL) {
		page_map(page);
		mm_lru_add(pool.mm, page);
	}
	mm_set_reclaim_ops(pool.mm, &ops, taken);
	assert_int_equal(mm_start_kswapd(pool.mm), 0);
	zone = &mm_node_data(pool.mm, 40)->node_zones[ZONE_NORMAL];
	/* Wakes it, if it has not seen by itself; the thread may be faster than this one. */
	mm_alloc_pages_node(pool.mm, 40, GFP_NOWAIT | __GFP_THISNODE, 0);
	for (unsigned int i = 0; i < 30000; i++) {
		if (zone_page_state(zone, NR_FREE_PAGES) > wmark_pages(zone, WMARK_HIGH))
			break;
		sleep_ms(2);
	}
	assert_true(zone_page_state(zone, NR_FREE_PAGES) > wmark_pages(zone, WMARK_HIGH));
	mm_stop_kswapd(pool.mm);
	for (unsigned int nid = 0; nid < NODES; nid++)
		assert_int_equal(taken[nid] > 0, nid == 40);
	drop(&pool);
}

static struct page *held[NODES][PER_NODE];

static int move(void *opaque, struct page *from, struct page *to, enum migrate_mode mode)
{
	(void)opaque, (void)mode;
	assert_int_equal(page_to_nid(from), page_to_nid(to));
	mm_migrate_page_state(from, to);
	held[page_to_nid(to)][to->index] = to;
	return 0;
}

/* Each node by itself, all of them in one call. */
static void test_compaction(void **state)
{
	static const struct mm_migrate_ops ops = { .migrate = move };
	struct pool pool;

	(void)state;
	create(&pool);
	mm_set_migrate_ops(pool.mm, &ops, NULL);
	for (unsigned int nid = 0; nid < NODES; nid++) {
		for (unsigned int i = 0; i < PER_NODE; i++)
			held[nid][i] =
				mm_alloc_pages_node(pool.mm, (int)nid, ALL | __GFP_THISNODE, 0);
		for (unsigned int i = 0; i < PER_NODE; i++) {
			if (mm_page_idx(pool.mm, held[nid][i]) % 8) {
				mm_free_pages(pool.mm, held[nid][i], 0);
				continue;
			}
			page_set_owner(held[nid][i], nid, i);
			mm_lru_add(pool.mm, held[nid][i]);
		}
	}
	assert_int_equal(mm_compact_node(pool.mm, NODES), 0);
	assert_true(mm_compact_node(pool.mm, 3) >= 14);
	assert_true(mm_compact_node(pool.mm, -1) >= 14 * (NODES - 1));
	for (unsigned int nid = 0; nid < NODES; nid++) {
		const struct zone *zone = &mm_node_data(pool.mm, nid)->node_zones[ZONE_NORMAL];
		uint64_t whole = 0;

		/* 16 frames in use need two or three of the 16 pageblocks. */
		for (unsigned int order = 3; order < NR_PAGE_ORDERS; order++)
			for (unsigned int mt = 0; mt < MIGRATE_TYPES; mt++)
				whole += (uint64_t)zone->free_area[order].nr[mt] << (order - 3);
		assert_true(whole >= 13);
	}
	drop(&pool);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_zonelist_walk), cmocka_unit_test(test_last_large_block),
		cmocka_unit_test(test_policies),      cmocka_unit_test(test_kswapd),
		cmocka_unit_test(test_compaction),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
