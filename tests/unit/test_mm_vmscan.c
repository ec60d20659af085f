/* SPDX-License-Identifier: MIT */
/* Reclaim (mm/vmscan.c, lru.c, kswapd.c), with a reclaimer that stands for the VMM side, and the
 * settings (mm/settings.c). */
#include <errno.h>
#include <pthread.h>

#include "framevisor/vmscan.h"
#include "framevisor/vmstat.h"
#include "tests/unit/mm_pool.h"
#include "tests/unit/sleep.h"

#define MOVABLE GFP_HIGHUSER_MOVABLE

struct guest {
	struct pool pool;
	unsigned int taken;   /* frames reclaimed */
	unsigned int refused; /* calls */
	unsigned int refuse;  /* the next calls fail */
	uint64_t last_index;  /* of the frame taken last */
	uint64_t below_40;    /* frames taken with an index below 40 */
	gfp_t last_gfp;
	struct zone *boost; /* the first frame's reclaim boosts the marks of this zone by 2 */
};

static int take_away(void *opaque, struct page *page, gfp_t gfp)
{
	struct guest *guest = opaque;

	if (__atomic_load_n(&guest->refuse, __ATOMIC_RELAXED)) {
		__atomic_sub_fetch(&guest->refuse, 1, __ATOMIC_RELAXED);
		__atomic_add_fetch(&guest->refused, 1, __ATOMIC_RELAXED);
		return -EBUSY;
	}
	if (guest->boost) {
		__atomic_add_fetch(&guest->boost->watermark_boost, 2, __ATOMIC_RELAXED);
		guest->boost = NULL;
	}
	page_unmap(page);
	guest->last_index = page->index;
	guest->below_40 += page->index < 40;
	guest->last_gfp = gfp;
	__atomic_add_fetch(&guest->taken, 1, __ATOMIC_RELAXED);
	return 0;
}

static const struct mm_reclaim_ops guest_ops = { .reclaim = take_away };

static struct page *guest_touch(struct guest *guest, uint64_t index, gfp_t gfp)
{
	struct page *page = mm_alloc_pages(guest->pool.mm, gfp, 0);

	if (page) {
		page_set_owner(page, 1, index);
		page_map(page);
		mm_lru_add(guest->pool.mm, page);
	}
	return page;
}

/* A pool of 256 frames, all but the reserve in the guest's hands. */
static void guest_fill(struct guest *guest)
{
	uint64_t index = 0;

	memset(guest, 0, sizeof(*guest));
	pool_create_simple(&guest->pool, 256, 1);
	while (guest_touch(guest, index, GFP_NOWAIT | __GFP_MOVABLE))
		index++;
	assert_in_range(index, 253, 255);
	mm_set_reclaim_ops(guest->pool.mm, &guest_ops, guest);
}

static void guest_end(struct guest *guest)
{
	pool_validate(&guest->pool);
	assert_int_equal(guest->pool.messages, 0);
	mm_destroy(guest->pool.mm);
	free(guest->pool.metadata);
}

/* An allocation that can wait takes the oldest frame; one that cannot fails. */
static void test_direct_reclaim(void **state)
{
	struct guest guest;

	(void)state;
	guest_fill(&guest);
	assert_null(mm_alloc_pages(guest.pool.mm, GFP_NOWAIT, 0));
	assert_int_equal(guest.taken, 0);
	assert_non_null(mm_alloc_pages(guest.pool.mm, GFP_KERNEL, 0));
	assert_in_range(guest.taken, 1, 8);
	assert_int_equal(guest.last_index, guest.taken - 1); /* oldest first */
	guest_end(&guest);
}

/* The flags of the allocation reach the callback. */
static void test_flags_reach_reclaim(void **state)
{
	struct guest guest;

	(void)state;
	guest_fill(&guest);
	assert_non_null(mm_alloc_pages(guest.pool.mm, GFP_NOIO, 0));
	assert_int_equal(guest.last_gfp & (__GFP_IO | __GFP_FS), 0);
	guest_end(&guest);
}

/* What was used stays longer than what was not. */
static void test_second_chance(void **state)
{
	struct guest guest;
	struct page *page;

	(void)state;
	memset(&guest, 0, sizeof(guest));
	pool_create_simple(&guest.pool, 256, 1);
	for (uint64_t index = 0; index < 100; index++) {
		page = guest_touch(&guest, index, MOVABLE);
		assert_non_null(page);
		if (index < 40)
			mm_mark_page_accessed(guest.pool.mm, page);
		if (index < 10)
			mm_mark_page_accessed(guest.pool.mm, page);
	}
	/* 10 active, 30 inactive and referenced, 60 inactive. */
	assert_int_equal(mm_node_data(guest.pool.mm, 0)->nr_lru[LRU_ACTIVE], 10);
	mm_set_reclaim_ops(guest.pool.mm, &guest_ops, &guest);
	assert_int_equal(mm_reclaim_pages(guest.pool.mm, 0, 10, GFP_KERNEL), 10);
	/* Who was used is active now that its turn came; and no active one has to go yet. */
	assert_int_equal(mm_node_data(guest.pool.mm, 0)->nr_lru[LRU_ACTIVE], 40);
	assert_int_equal(mm_vm_event(guest.pool.mm, PGDEACTIVATE), 0);
	assert_int_equal(mm_reclaim_pages(guest.pool.mm, 0, 50, GFP_KERNEL), 50);
	assert_int_equal(guest.last_index, 99);
	assert_int_equal(guest.below_40, 0);
	assert_true(mm_vm_event(guest.pool.mm, PGDEACTIVATE) > 0);
	/* Everything can be had in the end. */
	assert_int_equal(mm_reclaim_pages(guest.pool.mm, -1, 100, GFP_KERNEL), 40);
	assert_int_equal(pool_free_frames(&guest.pool), 256);
	guest_end(&guest);
}

/* A callback that refuses for a while, or for ever: no loop without end, nothing lost. */
static void test_refusing_callback(void **state)
{
	struct guest guest;

	(void)state;
	guest_fill(&guest);
	guest.refuse = 100;
	assert_non_null(mm_alloc_pages(guest.pool.mm, GFP_KERNEL, 0));
	assert_int_equal(guest.refused, 100);
	guest.refuse = UINT32_MAX;
	while (mm_alloc_pages(guest.pool.mm, GFP_NOWAIT, 0))
		;
	assert_null(mm_alloc_pages(guest.pool.mm, GFP_KERNEL | __GFP_NOWARN, 0));
	guest_end(&guest);
}

static void test_pinned_stays(void **state)
{
	struct guest guest;
	struct page *page;

	(void)state;
	memset(&guest, 0, sizeof(guest));
	pool_create_simple(&guest.pool, 256, 1);
	page = guest_touch(&guest, 0, MOVABLE);
	page_test_and_set(page, PAGE_FLAG(pinned));
	mm_set_reclaim_ops(guest.pool.mm, &guest_ops, &guest);
	assert_int_equal(mm_reclaim_pages(guest.pool.mm, 0, 1, GFP_KERNEL), 0);
	page_test_and_clear(page, PAGE_FLAG(pinned));
	assert_true(mm_lru_del(guest.pool.mm, page));
	assert_false(mm_lru_del(guest.pool.mm, page));
	page_unmap(page);
	mm_free_pages(guest.pool.mm, page, 0);
	guest_end(&guest);
}

struct cache {
	struct shrinker shrinker;
	struct page *pages[64];
	unsigned int nr;
	unsigned int calls;
};

static uint64_t cache_count(struct shrinker *shrinker, struct shrink_control *sc)
{
	(void)sc;
	return ((struct cache *)shrinker->opaque)->nr;
}

static uint64_t cache_scan(struct shrinker *shrinker, struct shrink_control *sc)
{
	struct cache *cache = shrinker->opaque;
	uint64_t freed = 0;

	cache->calls++;
	while (freed < sc->nr_to_scan && cache->nr) {
		mm_free_pages(sc->mm, cache->pages[--cache->nr], 0);
		freed++;
	}
	return freed;
}

/* A shrinker is asked, but not for what the allocation must not do. */
static void test_shrinker(void **state)
{
	struct cache cache = { 0 };
	struct pool pool;
	struct shrinker bad = { 0 };

	(void)state;
	pool_create_simple(&pool, 256, 1);
	cache.shrinker = (struct shrinker){ .count_objects = cache_count,
					    .scan_objects = cache_scan,
					    .flags = SHRINKER_FS,
					    .opaque = &cache };
	assert_int_equal(mm_register_shrinker(pool.mm, &bad), -EINVAL);
	mm_use(pool.mm);
	assert_int_equal(register_shrinker(&cache.shrinker), 0);
	while (cache.nr < 64)
		cache.pages[cache.nr++] = mm_alloc_pages(pool.mm, GFP_KERNEL, 0);
	while (mm_alloc_pages(pool.mm, GFP_NOWAIT, 0))
		;
	assert_null(mm_alloc_pages(pool.mm, GFP_NOFS | __GFP_NOWARN, 0));
	assert_int_equal(cache.calls, 0);
	assert_non_null(mm_alloc_pages(pool.mm, GFP_KERNEL, 0));
	assert_true(cache.calls > 0 && cache.nr < 64);
	unregister_shrinker(&cache.shrinker);
	while (mm_alloc_pages(pool.mm, GFP_NOWAIT, 0))
		;
	cache.calls = 0;
	assert_null(mm_alloc_pages(pool.mm, GFP_KERNEL | __GFP_NOWARN, 0));
	assert_int_equal(cache.calls, 0);
	pool_validate(&pool);
	mm_destroy(pool.mm);
	free(pool.metadata);
}

/* kswapd frees up to the high mark before anybody has to wait, and rests then. */
static void test_kswapd(void **state)
{
	const struct zone *zone;
	struct guest guest;
	unsigned int taken;

	(void)state;
	guest_fill(&guest);
	zone = &mm_node_data(guest.pool.mm, 0)->node_zones[ZONE_NORMAL];
	assert_int_equal(mm_start_kswapd(guest.pool.mm), 0);
	assert_int_equal(mm_start_kswapd(guest.pool.mm), 0);
	mm_alloc_pages(guest.pool.mm, GFP_NOWAIT, 0);
	for (unsigned int i = 0; i < 30000; i++) {
		if (zone_page_state(zone, NR_FREE_PAGES) > wmark_pages(zone, WMARK_HIGH))
			break;
		sleep_ms(2);
	}
	assert_true(zone_page_state(zone, NR_FREE_PAGES) > wmark_pages(zone, WMARK_HIGH));
	mm_stop_kswapd(guest.pool.mm);
	taken = guest.taken;
	assert_in_range(taken, 1, 64);
	assert_int_equal(mm_start_kswapd(guest.pool.mm), 0);
	sleep_ms(20);
	mm_stop_kswapd(guest.pool.mm);
	assert_int_equal(guest.taken, taken);
	guest_end(&guest);
}

/* A boost of the marks is worked off once: one that was added during the work stays for the next
 * time. */
static void test_kswapd_boost(void **state)
{
	struct guest guest;
	struct zone *zone;

	(void)state;
	guest_fill(&guest);
	zone = &mm_node_data(guest.pool.mm, 0)->node_zones[ZONE_NORMAL];
	guest.boost = zone;
	zone->watermark_boost = 3;
	__atomic_fetch_or(&zone->flags, ZONE_FLAG_BOOSTED, __ATOMIC_RELAXED);
	assert_int_equal(mm_start_kswapd(guest.pool.mm), 0);
	mm_alloc_pages(guest.pool.mm, GFP_NOWAIT, 0);
	for (unsigned int i = 0; i < 15000 && zone_read(zone, watermark_boost) != 2 &&
				 (i == 0 || zone_read(zone, watermark_boost) != 0);
	     i++)
		sleep_ms(2);
	mm_stop_kswapd(guest.pool.mm);
	assert_int_equal(zone->watermark_boost, 2);
	assert_true(zone->flags & ZONE_FLAG_BOOSTED);
	assert_int_equal(mm_start_kswapd(guest.pool.mm), 0);
	while (zone_read(zone, watermark_boost)) {
		while (mm_alloc_pages(guest.pool.mm, GFP_NOWAIT, 0))
			;
		sleep_ms(2);
	}
	mm_stop_kswapd(guest.pool.mm);
	assert_false(zone->flags & ZONE_FLAG_BOOSTED);
	guest_end(&guest);
}

/* Nothing can be reclaimed: kswapd gives up instead of burning a CPU. */
static void test_kswapd_hopeless(void **state)
{
	struct guest guest;
	const int *failures;

	(void)state;
	guest_fill(&guest);
	guest.refuse = UINT32_MAX;
	mm_start_kswapd(guest.pool.mm);
	failures = &mm_node_data(guest.pool.mm, 0)->kswapd_failures;
	for (unsigned int i = 0; i < 60000 && __atomic_load_n(failures, __ATOMIC_RELAXED) < 16;
	     i++) {
		mm_alloc_pages(guest.pool.mm, GFP_NOWAIT, 0);
		sleep_ms(1);
	}
	for (unsigned int i = 0; i < 20; i++)
		mm_alloc_pages(guest.pool.mm, GFP_NOWAIT, 0);
	assert_int_equal(__atomic_load_n(failures, __ATOMIC_RELAXED), 16);
	guest_end(&guest); /* mm_destroy() ends the thread */
}

static bool nofail_done;

static void *nofail_thread(void *arg)
{
	struct page *page = mm_alloc_pages(arg, GFP_KERNEL | __GFP_NOFAIL, 2);

	__atomic_store_n(&nofail_done, page != NULL, __ATOMIC_RELEASE);
	return page;
}

/* __GFP_NOFAIL waits until somebody frees. */
static void test_nofail(void **state)
{
	static struct page *blocks[64];
	struct pool pool;
	pthread_t thread;
	void *got;

	(void)state;
	nofail_done = false;
	pool_create_simple(&pool, 256, 1);
	for (unsigned int i = 0; i < 64; i++)
		blocks[i] = mm_alloc_pages(pool.mm, GFP_KERNEL | __GFP_MEMALLOC, 2);
	assert_int_equal(pthread_create(&thread, NULL, nofail_thread, pool.mm), 0);
	sleep_ms(30);
	assert_false(__atomic_load_n(&nofail_done, __ATOMIC_ACQUIRE));
	for (unsigned int i = 0; i < 32; i++)
		mm_free_pages(pool.mm, blocks[i], 2);
	pthread_join(thread, &got);
	assert_non_null(got);
	mm_free_pages(pool.mm, got, 2);
	for (unsigned int i = 32; i < 64; i++)
		mm_free_pages(pool.mm, blocks[i], 2);
	assert_int_equal(pool.messages, 0);
	pool_destroy(&pool);
}

static void test_settings(void **state)
{
	const struct zone *zone;
	struct pool pool;
	uint64_t value;

	(void)state;
	pool_create_simple(&pool, 8192, 1);
	zone = &mm_node_data(pool.mm, 0)->node_zones[ZONE_NORMAL];
	assert_int_equal(mm_setting_get(pool.mm, "min_free_kbytes", 0, &value), 0);
	assert_int_equal(value, 16384);
	assert_int_equal(mm_setting_set(pool.mm, "min_free_kbytes", 0, 204800), 0);
	assert_int_equal(zone->_watermark[WMARK_MIN], 100);
	assert_int_equal(zone->_watermark[WMARK_LOW], 125);
	assert_int_equal(mm_setting_set(pool.mm, "watermark_scale_factor", 0, 1000), 0);
	assert_int_equal(zone->_watermark[WMARK_LOW], 919);
	assert_int_equal(mm_setting_set(pool.mm, "min_free_kbytes", 0, 0), 0);
	assert_int_equal(zone->_watermark[WMARK_MIN], 8);
	assert_int_equal(mm_setting_set(pool.mm, "watermark_scale_factor", 0, 3001), -EINVAL);
	assert_int_equal(mm_setting_set(pool.mm, "swappiness", 0, 1), -ENOENT);
	assert_int_equal(mm_setting_set(pool.mm, "lowmem_reserve_ratio", MAX_NR_ZONES, 1), -ENOENT);
	assert_int_equal(mm_setting_get(pool.mm, "lowmem_reserve_ratio", ZONE_NORMAL, &value), 0);
	assert_int_equal(value, 32);
	pool_destroy(&pool);
}

struct slow_shrinker {
	struct shrinker shrinker;
	struct pool *pool;
	uint32_t inside, leave;
	uint32_t unregistered;
};

static uint64_t slow_count(struct shrinker *shrinker, struct shrink_control *sc)
{
	(void)shrinker;
	(void)sc;
	return 1;
}

static uint64_t slow_scan(struct shrinker *shrinker, struct shrink_control *sc)
{
	struct slow_shrinker *slow = shrinker->opaque;

	(void)sc;
	__atomic_store_n(&slow->inside, 1, __ATOMIC_RELEASE);
	while (!__atomic_load_n(&slow->leave, __ATOMIC_ACQUIRE))
		sleep_ms(1);
	return SHRINK_STOP;
}

static void *reclaim_thread(void *opaque)
{
	struct slow_shrinker *slow = opaque;

	mm_reclaim_pages(slow->pool->mm, -1, 1, GFP_KERNEL);
	return NULL;
}

static void *unregister_thread(void *opaque)
{
	struct slow_shrinker *slow = opaque;

	mm_unregister_shrinker(slow->pool->mm, &slow->shrinker);
	__atomic_store_n(&slow->unregistered, 1, __ATOMIC_RELEASE);
	return NULL;
}

/* Nobody frees a shrinker that is at work. */
static void test_unregister_waits(void **state)
{
	struct slow_shrinker slow = { .leave = 0 };
	pthread_t reclaimer, leaver;
	struct pool pool;

	(void)state;
	pool_create_simple(&pool, 256, 1);
	slow.pool = &pool;
	slow.shrinker = (struct shrinker){ .count_objects = slow_count,
					   .scan_objects = slow_scan,
					   .opaque = &slow };
	assert_int_equal(mm_register_shrinker(pool.mm, &slow.shrinker), 0);
	assert_int_equal(pthread_create(&reclaimer, NULL, reclaim_thread, &slow), 0);
	while (!__atomic_load_n(&slow.inside, __ATOMIC_ACQUIRE))
		sleep_ms(1);
	assert_int_equal(pthread_create(&leaver, NULL, unregister_thread, &slow), 0);
	sleep_ms(50);
	assert_int_equal(__atomic_load_n(&slow.unregistered, __ATOMIC_ACQUIRE), 0);
	__atomic_store_n(&slow.leave, 1, __ATOMIC_RELEASE);
	pthread_join(leaver, NULL);
	pthread_join(reclaimer, NULL);
	pool_destroy(&pool);
}

static int take_from_node(void *opaque, struct page *page, gfp_t gfp)
{
	unsigned int *taken = opaque;

	(void)gfp;
	page_unmap(page);
	taken[page_to_nid(page)]++;
	return 0;
}

/* Frames are taken where the request may have some, and nowhere else. */
static void test_nodes_of_the_request(void **state)
{
	static const struct mm_reclaim_ops ops = { .reclaim = take_from_node };
	struct mm_config config = { .nr_nodes = 2,
				    .nr_cpus = 1,
				    .node = { { .spanned = 256, .phys_base = PHYS_NORMAL },
					      { .spanned = 256, .phys_base = PHYS_NORMAL } } };
	const nodemask_t second = 2;
	unsigned int taken[2] = { 0 };
	struct pool pool;
	struct page *page;

	(void)state;
	pool_create(&pool, &config);
	for (unsigned int nid = 0; nid < 2; nid++)
		assert_int_equal(mm_online_pages(pool.mm, nid, 0, 256, false), 0);
	while ((page = mm_alloc_pages(pool.mm, GFP_NOWAIT | __GFP_MOVABLE, 0)) != NULL) {
		page_map(page);
		mm_lru_add(pool.mm, page);
	}
	mm_set_reclaim_ops(pool.mm, &ops, taken);
	page = mm_alloc_pages_nodemask(pool.mm, GFP_KERNEL, 0, 1, &second);
	assert_non_null(page);
	assert_int_equal(page_to_nid(page), 1);
	assert_int_equal(taken[0], 0);
	assert_true(taken[1] > 0);
	pool_validate(&pool);
	mm_destroy(pool.mm);
	free(pool.metadata);
}

static uint64_t claims_much(struct shrinker *shrinker, struct shrink_control *sc)
{
	(void)shrinker;
	return sc->nr_to_scan ? sc->nr_to_scan : 1000;
}

/* __GFP_NORETRY: one round, even when that one says that it got somewhere. */
static void test_noretry_with_progress(void **state)
{
	struct shrinker shrinker = { .count_objects = claims_much, .scan_objects = claims_much };
	struct pool pool;

	(void)state;
	pool_create_simple(&pool, 256, 1);
	while (mm_alloc_pages(pool.mm, GFP_NOWAIT, 0))
		;
	assert_int_equal(mm_register_shrinker(pool.mm, &shrinker), 0);
	assert_null(mm_alloc_pages(pool.mm, GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN, 0));
	assert_int_equal(mm_vm_event(pool.mm, ALLOCSTALL + ZONE_NORMAL), 1);
	assert_null(mm_alloc_pages(pool.mm, GFP_KERNEL | __GFP_NOWARN, 0));
	assert_true(mm_vm_event(pool.mm, ALLOCSTALL + ZONE_NORMAL) > 10);
	mm_unregister_shrinker(pool.mm, &shrinker);
	pool_validate(&pool);
	mm_destroy(pool.mm);
	free(pool.metadata);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_direct_reclaim),
		cmocka_unit_test(test_flags_reach_reclaim),
		cmocka_unit_test(test_second_chance),
		cmocka_unit_test(test_refusing_callback),
		cmocka_unit_test(test_pinned_stays),
		cmocka_unit_test(test_shrinker),
		cmocka_unit_test(test_kswapd),
		cmocka_unit_test(test_kswapd_boost),
		cmocka_unit_test(test_kswapd_hopeless),
		cmocka_unit_test(test_nofail),
		cmocka_unit_test(test_settings),
		cmocka_unit_test(test_unregister_waits),
		cmocka_unit_test(test_nodes_of_the_request),
		cmocka_unit_test(test_noretry_with_progress),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
