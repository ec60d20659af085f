/* SPDX-License-Identifier: MIT */
/* What each GFP flag changes: one test per row of the table in docs/mm.md. */
#include <unistd.h>

#include "framevisor/fault_inject.h"
#include "framevisor/slab.h"
#include "framevisor/vmscan.h"
#include "framevisor/vmstat.h"
#include "tests/unit/mm_pool.h"

#define QUIET __GFP_NOWARN

/* All five zones on node 0, one on node 1; marks of 8, 16 and 24 in all. */
static void create_zones(struct pool *pool)
{
	struct mm_config config = {
		.nr_nodes = 2,
		.nr_cpus = 1,
		.node = { { .spanned = 8192, .movable = 1024, .highmem = 1024 },
			  { .spanned = 1024, .phys_base = PHYS_NORMAL } },
	};

	pool_create(pool, &config);
	mm_online_pages(pool->mm, 0, 0, 8192, false);
	mm_online_pages(pool->mm, 1, 0, 1024, false);
}

/* Frames taken by a test are not given back one by one. */
static void drop(struct pool *pool)
{
	pool_validate(pool);
	mm_destroy(pool->mm);
	free(pool->metadata);
}

static uint64_t take_all(struct pool *pool, gfp_t gfp)
{
	uint64_t nr = 0;

	while (mm_alloc_pages(pool->mm, gfp | QUIET, 0))
		nr++;
	return nr;
}

/* What is left of 8192 frames (marks 8, 16, 24) by a request, after others that may do less. */
static uint64_t left_by(struct pool *pool, gfp_t gfp)
{
	take_all(pool, gfp);
	return pool_free_frames(pool);
}

static unsigned int zone_of(struct pool *pool, gfp_t gfp)
{
	struct page *page = mm_alloc_pages(pool->mm, gfp, 0);
	unsigned int zone;

	assert_non_null(page);
	zone = page_zonenum(page);
	mm_free_pages(pool->mm, page, 0);
	return zone;
}

/* __GFP_DMA, DMA32, HIGHMEM, and MOVABLE together with HIGHMEM: the highest zone. */
static void test_zone_flags(void **state)
{
	struct pool pool;

	(void)state;
	create_zones(&pool);
	assert_int_equal(zone_of(&pool, GFP_NOWAIT | __GFP_DMA), ZONE_DMA);
	assert_int_equal(zone_of(&pool, GFP_NOWAIT | __GFP_DMA32), ZONE_DMA32);
	assert_int_equal(zone_of(&pool, GFP_NOWAIT), ZONE_NORMAL);
	assert_int_equal(zone_of(&pool, GFP_NOWAIT | __GFP_MOVABLE), ZONE_NORMAL);
	assert_int_equal(zone_of(&pool, GFP_NOWAIT | __GFP_HIGHMEM), ZONE_HIGHMEM);
	assert_int_equal(zone_of(&pool, GFP_NOWAIT | __GFP_HIGHMEM | __GFP_MOVABLE), ZONE_MOVABLE);
	assert_int_equal(zone_of(&pool, GFP_DMA), ZONE_DMA);
	assert_int_equal(zone_of(&pool, GFP_DMA32), ZONE_DMA32);
	assert_int_equal(zone_of(&pool, GFP_KERNEL), ZONE_NORMAL);
	assert_int_equal(zone_of(&pool, GFP_USER), ZONE_NORMAL);
	assert_int_equal(zone_of(&pool, GFP_HIGHUSER), ZONE_HIGHMEM);
	assert_int_equal(zone_of(&pool, GFP_HIGHUSER_MOVABLE), ZONE_MOVABLE);
	pool_destroy(&pool);
}

/* __GFP_MOVABLE and __GFP_RECLAIMABLE: the kind of pageblock. */
static void test_mobility_flags(void **state)
{
	struct page *movable, *reclaimable, *unmovable;
	const uint64_t block = 64; /* frames of a pageblock */
	struct pool pool;

	(void)state;
	pool_create_simple(&pool, 8192, 1);
	movable = mm_alloc_pages(pool.mm, GFP_NOWAIT | __GFP_MOVABLE, 0);
	reclaimable = mm_alloc_pages(pool.mm, GFP_NOWAIT | __GFP_RECLAIMABLE, 0);
	unmovable = mm_alloc_pages(pool.mm, GFP_NOWAIT, 0);
	assert_int_not_equal(mm_page_idx(pool.mm, movable) / block,
			     mm_page_idx(pool.mm, unmovable) / block);
	assert_int_not_equal(mm_page_idx(pool.mm, movable) / block,
			     mm_page_idx(pool.mm, reclaimable) / block);
	assert_int_not_equal(mm_page_idx(pool.mm, reclaimable) / block,
			     mm_page_idx(pool.mm, unmovable) / block);
	mm_free_pages(pool.mm, movable, 0);
	mm_free_pages(pool.mm, reclaimable, 0);
	mm_free_pages(pool.mm, unmovable, 0);
	pool_destroy(&pool);
}

/* __GFP_HIGH, __GFP_ATOMIC, __GFP_NOMEMALLOC, __GFP_MEMALLOC: how deep. */
static void test_reserve_flags(void **state)
{
	struct pool pool;

	(void)state;
	pool_create_simple(&pool, 8192, 1);
	assert_int_equal(left_by(&pool, GFP_NOWAIT), 8);
	assert_int_equal(left_by(&pool, __GFP_HIGH | __GFP_DIRECT_RECLAIM), 4);
	assert_int_equal(left_by(&pool, GFP_ATOMIC | __GFP_NOMEMALLOC), 4);
	assert_int_equal(left_by(&pool, GFP_ATOMIC), 3);
	assert_int_equal(left_by(&pool, GFP_NOWAIT | __GFP_MEMALLOC | __GFP_NOMEMALLOC), 3);
	assert_int_equal(left_by(&pool, GFP_NOWAIT | __GFP_MEMALLOC), 0);
	drop(&pool);
}

struct calls {
	struct shrinker shrinker;
	unsigned int nr, ooms;
	gfp_t gfp;
	struct page *give[4];
	unsigned int left;
};

static uint64_t calls_count(struct shrinker *shrinker, struct shrink_control *sc)
{
	struct calls *calls = shrinker->opaque;

	calls->nr++;
	calls->gfp = sc->gfp;
	return 1;
}

static uint64_t calls_scan(struct shrinker *shrinker, struct shrink_control *sc)
{
	struct calls *calls = shrinker->opaque;

	if (calls->left == 0)
		return SHRINK_STOP;
	mm_free_pages(sc->mm, calls->give[--calls->left], 0);
	return 1;
}

static bool calls_oom(void *opaque, struct mm *mm, gfp_t gfp, unsigned int order)
{
	(void)mm;
	(void)gfp;
	(void)order;
	((struct calls *)opaque)->ooms++;
	return false;
}

/* A pool with nothing left, a shrinker that has some frames, and an OOM handler that has none. */
static void create_empty(struct pool *pool, struct calls *calls, unsigned int left,
			 unsigned int flags)
{
	memset(calls, 0, sizeof(*calls));
	pool_create_simple(pool, 256, 1);
	calls->shrinker = (struct shrinker){ .count_objects = calls_count,
					     .scan_objects = calls_scan,
					     .flags = flags,
					     .opaque = calls };
	while (calls->left < left)
		calls->give[calls->left++] = mm_alloc_pages(pool->mm, GFP_NOWAIT, 0);
	take_all(pool, GFP_NOWAIT);
	mm_register_shrinker(pool->mm, &calls->shrinker);
	mm_set_oom_handler(pool->mm, calls_oom, calls);
}

/* __GFP_DIRECT_RECLAIM: reclaims itself. __GFP_IO and __GFP_FS: what reclaim may do for it. */
static void test_reclaim_flags(void **state)
{
	struct calls calls;
	struct pool pool;

	(void)state;
	create_empty(&pool, &calls, 4, 0);
	assert_null(mm_alloc_pages(pool.mm, GFP_NOWAIT, 0));
	assert_int_equal(calls.nr, 0);
	assert_non_null(mm_alloc_pages(pool.mm, GFP_NOIO, 0));
	assert_int_equal(calls.gfp & (__GFP_IO | __GFP_FS), 0);
	drop(&pool);
	create_empty(&pool, &calls, 4, SHRINKER_IO);
	assert_null(mm_alloc_pages(pool.mm, GFP_NOIO | QUIET, 0));
	assert_non_null(mm_alloc_pages(pool.mm, GFP_NOFS, 0));
	assert_int_equal(calls.gfp & (__GFP_IO | __GFP_FS), __GFP_IO);
	drop(&pool);
	create_empty(&pool, &calls, 4, SHRINKER_FS);
	assert_null(mm_alloc_pages(pool.mm, GFP_NOFS | QUIET, 0));
	assert_non_null(mm_alloc_pages(pool.mm, GFP_KERNEL, 0));
	drop(&pool);
}

/* __GFP_KSWAPD_RECLAIM: somebody else is asked to reclaim. */
static void test_kswapd_flag(void **state)
{
	struct calls calls;
	struct pool pool;

	(void)state;
	create_empty(&pool, &calls, 0, 0);
	assert_int_equal(mm_start_kswapd(pool.mm), 0);
	assert_null(mm_alloc_pages(pool.mm, QUIET, 0));
	usleep(20000);
	assert_int_equal(mm_vm_event(pool.mm, PAGEOUTRUN), 0);
	assert_null(mm_alloc_pages(pool.mm, QUIET | __GFP_KSWAPD_RECLAIM, 0));
	for (unsigned int i = 0; i < 12000 && !mm_vm_event(pool.mm, PAGEOUTRUN); i++)
		usleep(5000);
	assert_true(mm_vm_event(pool.mm, PAGEOUTRUN) > 0);
	mm_stop_kswapd(pool.mm);
	drop(&pool);
}

/* __GFP_NORETRY: one round, no OOM. __GFP_REPEAT: many, no OOM. Neither: OOM. */
static void test_retry_flags(void **state)
{
	struct calls calls;
	struct pool pool;
	unsigned int once;

	(void)state;
	create_empty(&pool, &calls, 0, 0);
	assert_null(mm_alloc_pages(pool.mm, GFP_KERNEL | __GFP_NORETRY | QUIET, 0));
	once = calls.nr;
	assert_int_equal(mm_vm_event(pool.mm, ALLOCSTALL + ZONE_NORMAL), 1);
	assert_null(mm_alloc_pages(pool.mm, GFP_KERNEL | __GFP_RETRY_MAYFAIL | QUIET, 0));
	assert_int_equal(calls.ooms, 0);
	assert_null(mm_alloc_pages(pool.mm, GFP_KERNEL | QUIET, 0));
	assert_int_equal(calls.ooms, 1);
	assert_true(calls.nr > once);
	drop(&pool);
	/* Costly orders give up after one round, except for who insists. */
	create_empty(&pool, &calls, 4, 0);
	assert_null(mm_alloc_pages(pool.mm, GFP_KERNEL | QUIET, 4));
	once = (unsigned int)mm_vm_event(pool.mm, ALLOCSTALL + ZONE_NORMAL);
	assert_int_equal(once, 1);
	drop(&pool);
	create_empty(&pool, &calls, 4, 0);
	assert_null(mm_alloc_pages(pool.mm, GFP_KERNEL | __GFP_REPEAT | QUIET, 4));
	assert_true(mm_vm_event(pool.mm, ALLOCSTALL + ZONE_NORMAL) > 1);
	assert_int_equal(calls.ooms, 0);
	drop(&pool);
}

/* __GFP_NOFAIL: does not come back without a frame, not even when a fault is injected. */
static void test_nofail_flag(void **state)
{
	const struct mm_fault fault = { .interval = 1, .times = 1000 };
	struct calls calls;
	struct pool pool;

	(void)state;
	create_empty(&pool, &calls, 0, 0);
	mm_set_fault(pool.mm, &fault);
	assert_null(mm_alloc_pages(pool.mm, GFP_KERNEL | QUIET, 0));
	assert_int_equal(mm_faults_injected(pool.mm), 1);
	assert_non_null(mm_alloc_pages(pool.mm, GFP_KERNEL | __GFP_NOFAIL, 0));
	drop(&pool);
}

/* __GFP_NOWARN: silence. */
static void test_nowarn_flag(void **state)
{
	struct pool pool;

	(void)state;
	pool_create_simple(&pool, 256, 1);
	take_all(&pool, GFP_NOWAIT);
	assert_null(mm_alloc_pages(pool.mm, GFP_KERNEL | __GFP_NOWARN, 0));
	assert_int_equal(pool.messages, 0);
	assert_null(mm_alloc_pages(pool.mm, GFP_KERNEL, 0));
	assert_int_equal(pool.messages, 1);
	assert_non_null(strstr(pool.last_message, "page allocation failure: order:0"));
	drop(&pool);
}

/* __GFP_COLD: not the frame freed last, which may still be in this CPU's caches. */
static void test_cold_flag(void **state)
{
	struct page *page, *other;
	struct pool pool;

	(void)state;
	pool_create_simple(&pool, 8192, 1);
	page = mm_alloc_pages(pool.mm, GFP_NOWAIT, 0);
	mm_free_pages(pool.mm, page, 0);
	assert_ptr_equal(mm_alloc_pages(pool.mm, GFP_NOWAIT, 0), page);
	mm_free_pages(pool.mm, page, 0);
	other = mm_alloc_pages(pool.mm, GFP_NOWAIT | __GFP_COLD, 0);
	assert_non_null(other);
	assert_ptr_not_equal(other, page);
	mm_free_pages(pool.mm, other, 0);
	pool_destroy(&pool);
}

/* __GFP_COMP: freed as a whole through any of its frames. */
static void test_comp_flag(void **state)
{
	struct pool pool;
	struct page *page;

	(void)state;
	pool_create_simple(&pool, 256, 1);
	page = mm_alloc_pages(pool.mm, GFP_NOWAIT | __GFP_COMP, 3);
	assert_true(page_test(page, PAGE_FLAG(head)));
	mm_get_page(pool.mm, page + 5);
	mm_put_page(pool.mm, page + 2);
	assert_int_equal(pool_free_frames(&pool), 248);
	mm_put_page(pool.mm, page + 7);
	assert_int_equal(pool_free_frames(&pool), 256);
	page = mm_alloc_pages(pool.mm, GFP_NOWAIT, 3);
	assert_false(page_test(page, PAGE_FLAG(head)));
	mm_free_pages(pool.mm, page, 3);
	pool_destroy(&pool);
}

/* __GFP_ZERO: zero. __GFP_SKIP_ZERO: the flag of the frame says whether it is. */
static void test_zero_flags(void **state)
{
	struct pool pool;
	struct page *page;
	uint64_t *memory;

	(void)state;
	pool_create_backed(&pool, 8, 0);
	mm_online_pages(pool.mm, 0, 0, 8, false);
	page = mm_alloc_pages(pool.mm, GFP_KERNEL | __GFP_ZERO | __GFP_SKIP_ZERO, 0);
	assert_false(page_zeroed(page));
	memory = mm_page_address(pool.mm, page);
	memory[99] = 1;
	mm_free_pages(pool.mm, page, 0);
	for (unsigned int i = 0; i < 6; i++) {
		page = mm_alloc_pages(pool.mm, GFP_KERNEL | __GFP_ZERO, 0);
		memory = mm_page_address(pool.mm, page);
		assert_true(page_zeroed(page));
		assert_true(memory[0] == 0 && memory[99] == 0);
	}
	drop(&pool);
	munmap(pool.memory, pool.memory_size);
}

/* __GFP_THISNODE: that node or none. */
static void test_thisnode_flag(void **state)
{
	struct pool pool;

	(void)state;
	create_zones(&pool);
	while (mm_alloc_pages_node(pool.mm, 1, GFP_NOWAIT | __GFP_THISNODE, 0))
		;
	assert_null(mm_alloc_pages_node(pool.mm, 1, GFP_KERNEL | __GFP_THISNODE | QUIET, 0));
	assert_int_equal(page_to_nid(mm_alloc_pages_node(pool.mm, 1, GFP_NOWAIT, 0)), 0);
	drop(&pool);
}

/* __GFP_NO_GROW: a cache serves what it has and takes no frame. */
static void test_no_grow_flag(void **state)
{
	struct kmem_cache *cache;
	struct pool pool;
	void *object;

	(void)state;
	pool_create_backed(&pool, 64, 0);
	mm_online_pages(pool.mm, 0, 0, 64, true);
	cache = kmem_cache_create(pool.mm, "objects", 4096, 0, 0, NULL);
	assert_non_null(cache);
	assert_null(kmem_cache_alloc(cache, GFP_KERNEL | __GFP_NO_GROW | QUIET));
	object = kmem_cache_alloc(cache, GFP_KERNEL);
	assert_non_null(object);
	kmem_cache_free(cache, object);
	object = kmem_cache_alloc(cache, GFP_KERNEL | __GFP_NO_GROW);
	assert_non_null(object);
	kmem_cache_free(cache, object);
	assert_int_equal(kmem_cache_destroy(cache), 0);
	assert_int_equal(kmem_cache_exit(pool.mm), 0);
	mm_destroy(pool.mm);
	free(pool.metadata);
	munmap(pool.memory, pool.memory_size);
}

/* The compounds are what the table says, and gfp_zone() and gfpflags_to_migratetype() read them. */
static void test_compounds(void **state)
{
	const gfp_t wait = __GFP_DIRECT_RECLAIM | __GFP_KSWAPD_RECLAIM;

	(void)state;
	assert_int_equal(__GFP_WAIT, wait);
	assert_int_equal(GFP_ATOMIC, __GFP_HIGH | __GFP_ATOMIC | __GFP_KSWAPD_RECLAIM);
	assert_int_equal(GFP_NOWAIT, __GFP_KSWAPD_RECLAIM | __GFP_NOWARN);
	assert_int_equal(GFP_NOIO, wait);
	assert_int_equal(GFP_NOFS, wait | __GFP_IO);
	assert_int_equal(GFP_KERNEL, wait | __GFP_IO | __GFP_FS);
	assert_int_equal(GFP_USER, GFP_KERNEL);
	assert_int_equal(GFP_HIGHUSER, GFP_USER | __GFP_HIGHMEM);
	assert_int_equal(GFP_HIGHUSER_MOVABLE, GFP_HIGHUSER | __GFP_MOVABLE);
	assert_int_equal(gfpflags_to_migratetype(GFP_HIGHUSER_MOVABLE), MIGRATE_MOVABLE);
	assert_int_equal(gfpflags_to_migratetype(GFP_KERNEL), MIGRATE_UNMOVABLE);
	assert_int_equal(gfpflags_to_migratetype(GFP_KERNEL | __GFP_RECLAIMABLE),
			 MIGRATE_RECLAIMABLE);
	assert_false(gfpflags_allow_blocking(GFP_ATOMIC) || gfpflags_allow_blocking(GFP_NOWAIT) ||
		     gfpflags_allow_blocking(GFP_DMA) || gfpflags_allow_blocking(GFP_DMA32));
	assert_true(gfpflags_allow_blocking(GFP_NOIO));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_zone_flags),    cmocka_unit_test(test_mobility_flags),
		cmocka_unit_test(test_reserve_flags), cmocka_unit_test(test_reclaim_flags),
		cmocka_unit_test(test_kswapd_flag),   cmocka_unit_test(test_retry_flags),
		cmocka_unit_test(test_nofail_flag),   cmocka_unit_test(test_nowarn_flag),
		cmocka_unit_test(test_cold_flag),     cmocka_unit_test(test_comp_flag),
		cmocka_unit_test(test_zero_flags),    cmocka_unit_test(test_thisnode_flag),
		cmocka_unit_test(test_no_grow_flag),  cmocka_unit_test(test_compounds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
