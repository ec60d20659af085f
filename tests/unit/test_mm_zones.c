/* SPDX-License-Identifier: MIT */
/* Nodes, zones, zonelists, watermarks and what GFP flags change (mm/zone.c, zonelist.c,
 * watermark.c, page_alloc.c, slowpath.c, hotplug.c, report.c). */
#include <errno.h>

#include "framevisor/fault_inject.h"
#include "tests/unit/mm_pool.h"

static void test_gfp_zone(void **state)
{
	(void)state;
	assert_int_equal(gfp_zone(GFP_KERNEL), ZONE_NORMAL);
	assert_int_equal(gfp_zone(GFP_DMA), ZONE_DMA);
	assert_int_equal(gfp_zone(GFP_DMA32), ZONE_DMA32);
	assert_int_equal(gfp_zone(GFP_HIGHUSER), ZONE_HIGHMEM);
	assert_int_equal(gfp_zone(GFP_HIGHUSER_MOVABLE), ZONE_MOVABLE);
	assert_int_equal(gfp_zone(__GFP_MOVABLE), ZONE_NORMAL);
	assert_int_equal(gfp_zone(__GFP_MOVABLE | __GFP_DMA), ZONE_DMA);
	assert_int_equal(gfp_zone(__GFP_MOVABLE | __GFP_DMA32), ZONE_DMA32);
	assert_int_equal(gfpflags_to_migratetype(GFP_KERNEL), MIGRATE_UNMOVABLE);
	assert_int_equal(gfpflags_to_migratetype(GFP_KERNEL | __GFP_RECLAIMABLE),
			 MIGRATE_RECLAIMABLE);
	assert_int_equal(gfpflags_to_migratetype(GFP_HIGHUSER_MOVABLE), MIGRATE_MOVABLE);
}

/* All five zones in one node, by address and by place. */
static void test_zones_of_a_node(void **state)
{
	static const uint64_t sizes[MAX_NR_ZONES] = { 8, 2040, 1000, 100, 300 };
	struct mm_config config = {
		.nr_nodes = 1,
		.nr_cpus = 1,
		.node[0] = { .spanned = 3448, .movable = 300, .highmem = 100 },
	};
	struct pool pool;

	(void)state;
	pool_create(&pool, &config);
	assert_int_equal(mm_online_pages(pool.mm, 0, 0, 3448, false), 0);
	for (unsigned int zone = 0; zone < MAX_NR_ZONES; zone++)
		assert_int_equal(mm_node_data(pool.mm, 0)->node_zones[zone].present_pages,
				 sizes[zone]);
	/* lowmem_reserve: frames above / ratio, the kernel's 256, 256, 32. */
	assert_int_equal(mm_node_data(pool.mm, 0)->node_zones[ZONE_DMA].lowmem_reserve[ZONE_NORMAL],
			 3040 / 256);
	assert_int_equal(
		mm_node_data(pool.mm, 0)->node_zones[ZONE_NORMAL].lowmem_reserve[ZONE_MOVABLE],
		400 / 32);
	pool_destroy(&pool);
}

/* Takes single frames until none is left; returns how many came from each zone. */
static void exhaust(struct pool *pool, gfp_t gfp, uint64_t *per_zone)
{
	struct page *page;

	while ((page = mm_alloc_pages(pool->mm, gfp | __GFP_NOWARN, 0)) != NULL)
		per_zone[page_zonenum(page)]++;
}

static void test_zone_fallback(void **state)
{
	struct mm_config config = {
		.nr_nodes = 1,
		.nr_cpus = 1,
		.node[0] = { .spanned = 3448, .movable = 300, .highmem = 100 },
	};
	uint64_t got[MAX_NR_ZONES] = { 0 };
	struct pool pool;

	(void)state;
	pool_create(&pool, &config);
	mm_online_pages(pool.mm, 0, 0, 3448, false);
	exhaust(&pool, GFP_DMA, got);
	assert_true(got[ZONE_DMA] >= 6 && !got[ZONE_DMA32] && !got[ZONE_NORMAL]);
	exhaust(&pool, GFP_NOWAIT, got);
	assert_true(got[ZONE_NORMAL] > 980 && got[ZONE_DMA32] > 2000);
	assert_true(!got[ZONE_HIGHMEM] && !got[ZONE_MOVABLE]);
	exhaust(&pool, GFP_NOWAIT | __GFP_HIGHMEM | __GFP_MOVABLE, got);
	assert_true(got[ZONE_HIGHMEM] >= 98 && got[ZONE_MOVABLE] >= 298);
	pool_validate(&pool);
	mm_destroy(pool.mm);
	free(pool.metadata);
}

/* Nearest node first; THISNODE stays; a nodemask is kept. */
static void test_numa(void **state)
{
	struct mm_config config = {
		.nr_nodes = 3,
		.nr_cpus = 3,
		.node = { { .spanned = 64, .phys_base = PHYS_NORMAL },
			  { .spanned = 64, .phys_base = PHYS_NORMAL },
			  { .spanned = 64, .phys_base = PHYS_NORMAL } },
		.distance = { { 10, 40, 20 }, { 40, 10, 30 }, { 20, 30, 10 } },
	};
	nodemask_t only_1 = 2;
	gfp_t gfp = GFP_NOWAIT;
	struct page *page;
	struct pool pool;

	(void)state;
	pool_create(&pool, &config);
	for (unsigned int nid = 0; nid < 3; nid++) {
		mm_online_pages(pool.mm, nid, 0, 64, false);
		mm_set_cpu_node(pool.mm, nid, nid);
	}
	mm_set_cpu(1);
	assert_int_equal(page_to_nid(mm_alloc_pages(pool.mm, gfp, 0)), 1);
	mm_set_cpu(-1);
	page = mm_alloc_pages_nodemask(pool.mm, gfp, 0, 0, &only_1);
	assert_int_equal(page_to_nid(page), 1);
	while ((page = mm_alloc_pages_node(pool.mm, 0, gfp | __GFP_THISNODE, 0)) != NULL)
		assert_int_equal(page_to_nid(page), 0);
	assert_int_equal(page_to_nid(mm_alloc_pages_node(pool.mm, 0, gfp, 0)), 2);
	while ((page = mm_alloc_pages_node(pool.mm, 2, gfp | __GFP_THISNODE, 0)) != NULL)
		;
	assert_int_equal(page_to_nid(mm_alloc_pages_node(pool.mm, 0, gfp, 0)), 1);
	mm_destroy(pool.mm);
	free(pool.metadata);
}

/* 16 GiB: min_free_kbytes is the kernel's 16384, 8 frames; the gap is max(min / 4, 0.1 %). */
static void test_watermarks(void **state)
{
	const struct zone *zone;
	struct pool pool;

	(void)state;
	pool_create_simple(&pool, 8192, 1);
	zone = &mm_node_data(pool.mm, 0)->node_zones[ZONE_NORMAL];
	assert_int_equal(zone->_watermark[WMARK_MIN], 8);
	assert_int_equal(zone->_watermark[WMARK_LOW], 16);
	assert_int_equal(zone->_watermark[WMARK_HIGH], 24);
	assert_int_equal(mm_totalreserve_pages(pool.mm), 24);
	pool_destroy(&pool);
}

/* What a pool will keep is known before it grows, so that one growth is enough. */
static void test_reserve_after_growth(void **state)
{
	static const uint64_t steps[] = { 1, 7, 24, 100, 258, 600, 3000 };
	struct mm_config config = { .nr_nodes = 2,
				    .nr_cpus = 1,
				    .node = { { .spanned = 8192 }, { .spanned = 8192 } },
				    .distance = { { 10, 20 }, { 20, 10 } } };
	uint64_t at[2] = { 0 }, expected;
	struct pool pool;

	(void)state;
	pool_create(&pool, &config);
	assert_int_equal(mm_totalreserve_pages_after(pool.mm, 0, 0), 0);
	for (unsigned int i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
		unsigned int nid = i % 3 == 2;

		expected = mm_totalreserve_pages_after(pool.mm, steps[i], 0);
		mm_online_pages(pool.mm, nid, at[nid], steps[i], false);
		at[nid] += steps[i];
		assert_true(expected >= mm_totalreserve_pages(pool.mm));
		/* No more than rounding makes of it, and the low zone that might have been. */
		assert_true(expected <= mm_totalreserve_pages(pool.mm) + 8 + steps[i] / 256);
		assert_int_equal(mm_totalreserve_pages_after(pool.mm, 0, 0),
				 mm_totalreserve_pages(pool.mm));
	}
	pool_destroy(&pool);
}

static uint64_t left_after(struct pool *pool, gfp_t gfp)
{
	uint64_t per_zone[MAX_NR_ZONES] = { 0 };

	exhaust(pool, gfp, per_zone);
	return pool_free_frames(pool);
}

/* How deep each kind of request may dig; each one goes on where the other stopped. */
static void test_reserves(void **state)
{
	struct pool pool;

	(void)state;
	pool_create_simple(&pool, 8192, 1);
	assert_int_equal(left_after(&pool, GFP_NOWAIT), 8);
	assert_int_equal(left_after(&pool, GFP_NOWAIT | __GFP_MOVABLE), 8);
	assert_int_equal(left_after(&pool, __GFP_HIGH | __GFP_DIRECT_RECLAIM), 4);
	assert_int_equal(left_after(&pool, GFP_ATOMIC), 3);
	assert_int_equal(left_after(&pool, GFP_NOWAIT | __GFP_MEMALLOC | __GFP_NOMEMALLOC), 3);
	assert_int_equal(left_after(&pool, GFP_NOWAIT | __GFP_MEMALLOC), 0);
	mm_destroy(pool.mm);
	free(pool.metadata);
}

static bool free_one(void *opaque, struct mm *mm, gfp_t gfp, unsigned int order)
{
	struct page **page = opaque;

	(void)gfp;
	(void)order;
	if (!*page)
		return false;
	mm_free_pages(mm, *page, 3);
	*page = NULL;
	return true;
}

/* The callback makes room; NORETRY does not ask; a message says what failed. */
static void test_oom_handler(void **state)
{
	struct page *hostage;
	struct pool pool;

	(void)state;
	pool_create_simple(&pool, 256, 1);
	hostage = mm_alloc_pages(pool.mm, GFP_KERNEL, 3);
	mm_set_oom_handler(pool.mm, free_one, &hostage);
	left_after(&pool, GFP_NOWAIT | __GFP_MEMALLOC);
	assert_null(mm_alloc_pages(pool.mm, GFP_KERNEL | __GFP_NORETRY, 0));
	assert_non_null(hostage);
	assert_int_equal(pool.messages, 1);
	assert_non_null(strstr(pool.last_message, "order:0"));
	assert_non_null(mm_alloc_pages(pool.mm, GFP_KERNEL, 0));
	assert_null(hostage);
	mm_destroy(pool.mm);
	free(pool.metadata);
}

static uint64_t reserved(struct pool *pool)
{
	return mm_node_data(pool->mm, 0)->node_zones[ZONE_NORMAL].nr_reserved_highatomic;
}

/* A request of order 2 that cannot wait reserves a pageblock; order 0 of others cannot have it,
 * until nothing else is left. */
static void test_highatomic(void **state)
{
	static struct page *pages[8192];
	struct pool pool;
	struct page *page;
	unsigned int nr = 0;

	(void)state;
	pool_create_simple(&pool, 8192, 1);
	page = mm_alloc_pages(pool.mm, GFP_ATOMIC, 2);
	assert_int_equal(reserved(&pool), 0); /* served at the low mark: no need */
	mm_free_pages(pool.mm, page, 2);
	while ((pages[nr] = mm_alloc_pages(pool.mm, GFP_NOWAIT, 0)) != NULL)
		nr++;
	for (unsigned int i = 0; i < 8; i++) /* room, but still below low */
		mm_free_pages(pool.mm, pages[--nr], 0);
	mm_drain_all_pages(pool.mm);
	page = mm_alloc_pages(pool.mm, GFP_ATOMIC, 2);
	assert_non_null(page);
	assert_int_equal(reserved(&pool), 64);
	pool_validate(&pool);
	mm_free_pages(pool.mm, page, 2);
	for (unsigned int i = 0; i < 200; i++)
		mm_free_pages(pool.mm, pages[--nr], 0);
	pool_validate(&pool);
	/* Kept while others can be served, given up for an allocation that can wait. */
	while ((pages[nr] = mm_alloc_pages(pool.mm, GFP_NOWAIT, 0)) != NULL)
		nr++;
	assert_int_equal(reserved(&pool), 64);
	mm_alloc_pages(pool.mm, GFP_KERNEL | __GFP_NOWARN, 0);
	assert_int_equal(reserved(&pool), 0);
	pool_validate(&pool);
	mm_destroy(pool.mm);
	free(pool.metadata);
}

/* Which allocations fail on purpose. */
static void test_fault_injection(void **state)
{
	const struct mm_fault third = { .nth = 3 };
	const struct mm_fault every = { .nth = 1, .interval = 2, .times = 2, .orders = 1u << 1 };
	struct page *pages[8];
	struct pool pool;

	(void)state;
	pool_create_simple(&pool, 256, 1);
	mm_free_pages(pool.mm, mm_alloc_pages(pool.mm, GFP_KERNEL, 0), 0);
	mm_set_fault(pool.mm, &third);
	for (unsigned int i = 0; i < 8; i++) {
		pages[i] = mm_alloc_pages(pool.mm, GFP_KERNEL, 0);
		assert_int_equal(pages[i] == NULL, i == 2);
	}
	for (unsigned int i = 0; i < 8; i++)
		mm_free_pages(pool.mm, pages[i], 0);
	mm_set_fault(pool.mm, &every);
	for (unsigned int i = 0; i < 8; i++) {
		pages[i] = mm_alloc_pages(pool.mm, GFP_KERNEL, i % 2);
		assert_int_equal(pages[i] == NULL, i == 1 || i == 5);
	}
	assert_int_equal(mm_faults_injected(pool.mm), 2);
	for (unsigned int i = 0; i < 8; i++)
		mm_free_pages(pool.mm, pages[i], i % 2);
	mm_set_fault(pool.mm, NULL);
	assert_int_equal(pool_free_frames(&pool), 256);
	pool_destroy(&pool);
}

static void test_hotplug(void **state)
{
	struct mm_config config = {
		.nr_nodes = 1,
		.nr_cpus = 1,
		.node[0] = { .spanned = 100, .phys_base = PHYS_NORMAL },
	};
	struct mm_counts counts;
	struct page *page;
	struct pool pool;

	(void)state;
	pool_create(&pool, &config);
	assert_null(mm_alloc_pages(pool.mm, GFP_NOWAIT, 0));
	assert_int_equal(mm_online_pages(pool.mm, 0, 90, 11, false), -EINVAL);
	assert_int_equal(mm_online_pages(pool.mm, 1, 0, 1, false), -EINVAL);
	assert_int_equal(mm_online_pages(pool.mm, 0, 3, 50, false), 0);
	assert_int_equal(mm_online_pages(pool.mm, 0, 52, 2, false), -EBUSY);
	assert_int_equal(mm_online_pages(pool.mm, 0, 53, 47, true), 0);
	pool_validate(&pool);
	page = mm_alloc_pages(pool.mm, GFP_NOWAIT, 0);
	assert_int_equal(mm_offline_pages(pool.mm, 0, mm_page_idx(pool.mm, page), 1), -EBUSY);
	assert_int_equal(mm_offline_pages(pool.mm, 0, 0, 4), -EBUSY);
	mm_free_pages(pool.mm, page, 0);
	assert_int_equal(mm_offline_pages(pool.mm, 0, 3, 97), 0);
	mm_counts(pool.mm, 0, &counts);
	assert_int_equal(counts.present + counts.free + counts.cached + counts.zeroed, 0);
	pool_destroy(&pool);
}

static void test_reports(void **state)
{
	static char text[8192];
	struct pool pool;
	int len;

	(void)state;
	pool_create_simple(&pool, 513, 1);
	len = mm_report_buddyinfo(pool.mm, text, sizeof(text));
	assert_string_equal(text, "Node 0, zone   Normal      1      0      0      0      0      0"
				  "      0      0      0      1 \n");
	assert_int_equal(len, (int)strlen(text));
	assert_int_equal(mm_report_buddyinfo(pool.mm, NULL, 0), len);
	len = mm_report_zoneinfo(pool.mm, text, sizeof(text));
	assert_int_equal(len, (int)strlen(text));
	assert_non_null(strstr(text, "Node 0, zone   Normal\n  per-node stats\n"));
	assert_non_null(strstr(text, "\n  pages free     513\n        boost    0\n"));
	assert_non_null(strstr(text, "\n        protection: (0, 0, 0, 0, 0)\n"));
	assert_non_null(strstr(text, "\n  pagesets\n    cpu: 0\n              count:    0\n"));
	pool_destroy(&pool);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_gfp_zone),
		cmocka_unit_test(test_zones_of_a_node),
		cmocka_unit_test(test_zone_fallback),
		cmocka_unit_test(test_numa),
		cmocka_unit_test(test_reserve_after_growth),
		cmocka_unit_test(test_watermarks),
		cmocka_unit_test(test_reserves),
		cmocka_unit_test(test_oom_handler),
		cmocka_unit_test(test_hotplug),
		cmocka_unit_test(test_reports),
		cmocka_unit_test(test_highatomic),
		cmocka_unit_test(test_fault_injection),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
