/* SPDX-License-Identifier: MIT */
/* Compaction (mm/compaction.c, compaction_scan.c, migrate.c, kcompactd.c) with a holder of frames
 * that moves them, and the drain of idle caches (mm/pcp.c). */
#include <errno.h>

#include "framevisor/compaction.h"
#include "framevisor/vmscan.h"
#include "framevisor/vmstat.h"
#include "tests/unit/mm_pool.h"
#include "tests/unit/sleep.h"

#define FRAMES  1024
#define MOVABLE (GFP_HIGHUSER_MOVABLE | __GFP_NOWARN)

/* A holder: which frame backs which of its indices, as a VM has it. */
struct holder {
	struct pool pool;
	struct page *held[FRAMES];
	unsigned int moved;
	unsigned int refuse;   /* the next calls fail */
	unsigned int isolated; /* between isolate() and migrate() or putback() */
	uint32_t lock;
	bool lru;
};

static void holder_lock(struct holder *holder)
{
	while (__atomic_exchange_n(&holder->lock, 1, __ATOMIC_ACQUIRE))
		;
}

static void holder_unlock(struct holder *holder)
{
	__atomic_store_n(&holder->lock, 0, __ATOMIC_RELEASE);
}

static int holder_migrate(void *opaque, struct page *from, struct page *to, enum migrate_mode mode)
{
	struct holder *holder = opaque;
	char *memory = mm_page_address(holder->pool.mm, from);
	int ret = 0;

	(void)mode;
	holder_lock(holder);
	assert_ptr_equal(holder->held[from->index], from);
	assert_int_equal(page_order(from), page_order(to));
	assert_int_equal(page_count(to), 1);
	if (holder->refuse) {
		holder->refuse--;
		ret = -EAGAIN;
	} else {
		if (memory)
			memcpy(mm_page_address(holder->pool.mm, to), memory,
			       FRAME_SIZE << page_order(from));
		mm_migrate_page_state(from, to);
		holder->held[to->index] = to;
		holder->moved++;
		holder->isolated -= !holder->lru;
	}
	holder_unlock(holder);
	return ret;
}

static bool holder_isolate(void *opaque, struct page *page)
{
	struct holder *holder = opaque;
	bool mine;

	holder_lock(holder);
	mine = page->index < FRAMES && holder->held[page->index] == page;
	holder->isolated += mine;
	holder_unlock(holder);
	return mine;
}

static void holder_putback(void *opaque, struct page *page)
{
	struct holder *holder = opaque;

	(void)page;
	holder_lock(holder);
	holder->isolated--;
	holder_unlock(holder);
}

static const struct mm_migrate_ops lru_only = { .migrate = holder_migrate };
static const struct mm_migrate_ops holder_ops = { .migrate = holder_migrate,
						  .isolate = holder_isolate,
						  .putback = holder_putback };

static bool touch(struct holder *holder, uint64_t index)
{
	struct page *page = mm_alloc_pages(holder->pool.mm, MOVABLE & ~__GFP_DIRECT_RECLAIM, 0);

	if (!page)
		return false;
	page_set_owner(page, 7, index);
	page_map(page);
	holder->held[index] = page;
	if (holder->lru)
		mm_lru_add(holder->pool.mm, page);
	return true;
}

static void let_go(struct holder *holder, uint64_t index)
{
	struct page *page = holder->held[index];

	holder->held[index] = NULL;
	if (holder->lru)
		assert_true(mm_lru_del(holder->pool.mm, page));
	page_unmap(page);
	mm_free_pages(holder->pool.mm, page, 0);
}

/* Nearly all frames held, then all but every eighth given back: no block of order 3 is free. */
static void fragment(struct holder *holder, bool lru)
{
	memset(holder, 0, sizeof(*holder));
	holder->lru = lru;
	pool_create_simple(&holder->pool, FRAMES, 1);
	mm_set_migrate_ops(holder->pool.mm, lru ? &lru_only : &holder_ops, holder);
	for (uint64_t i = 0; i < FRAMES && touch(holder, i); i++)
		;
	for (uint64_t i = 0; i < FRAMES; i++)
		if (holder->held[i] && mm_page_idx(holder->pool.mm, holder->held[i]) % 8)
			let_go(holder, i);
	mm_drain_all_pages(holder->pool.mm);
	pool_validate(&holder->pool);
}

static void holder_end(struct holder *holder)
{
	for (uint64_t i = 0; i < FRAMES; i++) {
		if (!holder->held[i])
			continue;
		assert_int_equal(holder->held[i]->index, i);
		assert_int_equal(holder->held[i]->owner, 7);
		assert_int_equal(page_mapcount(holder->held[i]), 1);
		let_go(holder, i);
	}
	assert_int_equal(holder->isolated, 0);
	assert_int_equal(pool_free_frames(&holder->pool), FRAMES);
	assert_int_equal(holder->pool.messages, 0);
	pool_destroy(&holder->pool);
}

static struct zone *normal(struct holder *holder)
{
	return &mm_node_data(holder->pool.mm, 0)->node_zones[ZONE_NORMAL];
}

static uint64_t event(struct holder *holder, enum vm_event_item item)
{
	return mm_vm_event(holder->pool.mm, item);
}

/* The kernel's formula, on a zone of known fragmentation. */
static void test_fragmentation_index(void **state)
{
	struct holder holder;
	uint64_t blocks = 0, free = 0;

	(void)state;
	fragment(&holder, true);
	for (unsigned int order = 0; order < NR_PAGE_ORDERS; order++)
		for (unsigned int mt = 0; mt < MIGRATE_TYPES; mt++) {
			blocks += normal(&holder)->free_area[order].nr[mt];
			free += (uint64_t)normal(&holder)->free_area[order].nr[mt] << order;
		}
	assert_int_equal(mm_fragmentation_index(normal(&holder), 2), -1000);
	assert_int_equal(mm_fragmentation_index(normal(&holder), 5),
			 1000 - (1000 + free * 1000 / 32) / blocks);
	assert_int_equal(mm_extfrag_for_order(normal(&holder), 0), 0);
	assert_int_equal(mm_extfrag_for_order(normal(&holder), 9), 100);
	holder_end(&holder);
}

/* Everything held comes together at the end of the zone; what is below is one block. */
static void compact_whole_node(bool lru)
{
	struct holder holder;

	fragment(&holder, lru);
	assert_int_equal(mm_extfrag_for_order(normal(&holder), 8), 100);
	assert_true(mm_compact_node(holder.pool.mm, -1) > 50);
	assert_true(holder.moved > 50);
	assert_true(mm_extfrag_for_order(normal(&holder), 8) < 50);
	assert_int_equal(event(&holder, PGMIGRATE_SUCCESS), holder.moved);
	assert_int_equal(event(&holder, PGMIGRATE_FAIL), 0);
	assert_true(event(&holder, COMPACTISOLATED) >= holder.moved);
	pool_validate(&holder.pool);
	holder_end(&holder);
}

static void test_compact_lru(void **state)
{
	(void)state;
	compact_whole_node(true);
}

static void test_compact_isolate_callback(void **state)
{
	(void)state;
	compact_whole_node(false);
}

/* What holds the first frame of the zone: nobody would leave it there. */
static struct page *first_frame(struct holder *holder)
{
	for (uint64_t i = 0; i < FRAMES; i++)
		if (holder->held[i] && mm_page_idx(holder->pool.mm, holder->held[i]) == 0)
			return holder->held[i];
	fail_msg("the first frame is free");
	return NULL;
}

/* Nothing is lost or moved when the holder refuses, and what is pinned stays. */
static void test_refusal(void **state)
{
	struct holder holder;
	struct page *pinned;

	(void)state;
	fragment(&holder, false);
	holder.refuse = UINT32_MAX;
	assert_int_equal(mm_compact_node(holder.pool.mm, 0), 0);
	assert_int_equal(holder.moved, 0);
	assert_true(event(&holder, PGMIGRATE_FAIL) > 50);
	assert_int_equal(holder.isolated, 0);
	pool_validate(&holder.pool);
	holder.refuse = 20;
	pinned = first_frame(&holder);
	page_test_and_set(pinned, PAGE_FLAG(pinned));
	mm_compact_node(holder.pool.mm, 0);
	assert_true(holder.moved > 30);
	assert_ptr_equal(first_frame(&holder), pinned);
	page_test_and_clear(pinned, PAGE_FLAG(pinned));
	pool_validate(&holder.pool);
	holder_end(&holder);
}

/* An extra reference, as of somebody who looks at the frame, keeps it in place. */
static void test_referenced_stays(void **state)
{
	struct holder holder;
	struct page *page;

	(void)state;
	fragment(&holder, true);
	page = first_frame(&holder);
	mm_get_page(holder.pool.mm, page);
	mm_compact_node(holder.pool.mm, 0);
	assert_ptr_equal(first_frame(&holder), page);
	mm_put_page(holder.pool.mm, page);
	assert_int_equal(page_count(page), 1);
	holder_end(&holder);
}

/* The largest part of the zone that could be free areas if everything movable were elsewhere. */
static uint64_t best_areas(struct holder *holder, unsigned int order)
{
	uint64_t fixed[FRAMES] = { 0 }, areas = 0, room = 0, movable = 0;

	for (uint64_t i = 0; i < FRAMES; i++)
		if (holder->held[i] && i % 16 == 0)
			fixed[mm_page_idx(holder->pool.mm, holder->held[i]) >> order]++;
		else
			movable += holder->held[i] != NULL;
	for (uint64_t i = 0; i < (uint64_t)FRAMES >> order; i++)
		if (fixed[i])
			room += (1u << order) - fixed[i];
		else
			areas++;
	if (movable > room)
		areas -= (movable - room + (1u << order) - 1) >> order;
	return areas;
}

/* With frames that stay here and there one call gains nearly all that can be gained. */
static void test_gathers_by_area(void **state)
{
	struct holder holder;
	uint64_t got = 0, best;

	(void)state;
	fragment(&holder, false);
	for (uint64_t i = 0; i < FRAMES; i++)
		if (!holder.held[i] && i % 3 == 0)
			touch(&holder, i);
	for (uint64_t i = 0; i < FRAMES; i += 16)
		if (holder.held[i])
			page_test_and_set(holder.held[i], PAGE_FLAG(pinned));
	best = best_areas(&holder, 3);
	mm_compact_node(holder.pool.mm, 0);
	for (unsigned int order = 3; order < NR_PAGE_ORDERS; order++)
		for (unsigned int mt = 0; mt < MIGRATE_TYPES; mt++)
			got += (uint64_t)normal(&holder)->free_area[order].nr[mt] << (order - 3);
	assert_true(best > 20);
	assert_true(got * 100 >= best * 90);
	for (uint64_t i = 0; i < FRAMES; i += 16)
		if (holder.held[i])
			page_test_and_clear(holder.held[i], PAGE_FLAG(pinned));
	pool_validate(&holder.pool);
	holder_end(&holder);
}

/* The content moves along. */
static void test_content(void **state)
{
	struct holder holder = { .lru = true };
	struct pool *pool = &holder.pool;

	(void)state;
	pool_create_backed(pool, 64, MM_DEBUG_POISON);
	mm_online_pages(pool->mm, 0, 0, 64, true);
	mm_set_migrate_ops(pool->mm, &lru_only, &holder);
	for (uint64_t i = 0; i < 40; i++) {
		assert_true(touch(&holder, i));
		*(uint64_t *)mm_page_address(pool->mm, holder.held[i]) = i * 77;
	}
	for (uint64_t i = 0; i < 40; i += 2)
		let_go(&holder, i);
	assert_true(mm_compact_node(pool->mm, 0) > 0);
	for (uint64_t i = 1; i < 40; i += 2) {
		assert_int_equal(*(uint64_t *)mm_page_address(pool->mm, holder.held[i]), i * 77);
		let_go(&holder, i);
	}
	assert_int_equal(pool->messages, 0);
	pool_destroy(pool);
}

/* An allocation compacts before it reclaims, if it may wait and do I/O. */
static void test_direct_compaction(void **state)
{
	struct holder holder;
	struct page *page;

	(void)state;
	fragment(&holder, true);
	assert_null(mm_alloc_pages(holder.pool.mm, GFP_NOWAIT, 5));
	assert_null(mm_alloc_pages(holder.pool.mm, GFP_NOIO | __GFP_NOWARN, 5));
	assert_int_equal(event(&holder, COMPACTSTALL), 0);
	page = mm_alloc_pages(holder.pool.mm, GFP_KERNEL, 5);
	assert_non_null(page);
	assert_int_equal(event(&holder, COMPACTSTALL), 1);
	assert_int_equal(event(&holder, COMPACTSUCCESS), 1);
	assert_int_equal(event(&holder, PGSTEAL_DIRECT), 0);
	/* No further than necessary. */
	assert_true(holder.moved < 30);
	mm_free_pages(holder.pool.mm, page, 5);
	holder_end(&holder);
}

/* Failures make the next requests skip it, more and more of them, until one succeeds. */
static void test_defer(void **state)
{
	struct holder holder;
	struct page *page = NULL;
	unsigned int tries = 0;
	uint64_t stalls;

	(void)state;
	fragment(&holder, true);
	holder.refuse = UINT32_MAX;
	for (unsigned int i = 0; i < 40; i++)
		assert_null(mm_alloc_pages(holder.pool.mm, GFP_KERNEL | __GFP_NOWARN, 8));
	assert_int_equal(normal(&holder)->compact_defer_shift, 6);
	stalls = event(&holder, COMPACTSTALL);
	for (unsigned int i = 0; i < 10; i++)
		assert_null(mm_alloc_pages(holder.pool.mm, GFP_KERNEL | __GFP_NOWARN, 8));
	assert_true(event(&holder, COMPACTSTALL) - stalls < 10);
	assert_int_equal(event(&holder, COMPACTFAIL), event(&holder, COMPACTSTALL));
	holder.refuse = 0;
	while (!page && tries++ < 64)
		page = mm_alloc_pages(holder.pool.mm, GFP_KERNEL | __GFP_NOWARN, 5);
	assert_non_null(page);
	assert_true(tries > 1);
	assert_int_equal(normal(&holder)->compact_order_failed, 6);
	assert_int_equal(normal(&holder)->compact_defer_shift, 0);
	mm_free_pages(holder.pool.mm, page, 5);
	holder_end(&holder);
}

/* Without enough free frames there is nothing to make blocks of. */
static void test_unsuitable(void **state)
{
	struct holder holder;

	(void)state;
	memset(&holder, 0, sizeof(holder));
	holder.lru = true;
	pool_create_simple(&holder.pool, FRAMES, 1);
	mm_set_migrate_ops(holder.pool.mm, &lru_only, &holder);
	for (uint64_t i = 0; i < FRAMES && touch(&holder, i); i++)
		;
	let_go(&holder, 10);
	let_go(&holder, 12);
	assert_null(mm_alloc_pages(holder.pool.mm, GFP_KERNEL | __GFP_NOWARN, 2));
	assert_int_equal(event(&holder, COMPACTSTALL), 0);
	assert_int_equal(event(&holder, COMPACTMIGRATE_SCANNED), 0);
	holder_end(&holder);
}

/* The background thread works ahead when it is told to be eager, and not when it is told not to. */
static void test_proactive(void **state)
{
	struct holder holder;

	(void)state;
	fragment(&holder, true);
	assert_int_equal(mm_setting_set(holder.pool.mm, "compaction_proactiveness", 0, 101),
			 -EINVAL);
	mm_setting_set(holder.pool.mm, "compaction_proactiveness", 0, 0);
	assert_int_equal(mm_start_kswapd(holder.pool.mm), 0);
	sleep_ms(700);
	assert_int_equal(event(&holder, KCOMPACTD_MIGRATE_SCANNED), 0);
	mm_setting_set(holder.pool.mm, "compaction_proactiveness", 0, 60);
	for (unsigned int i = 0; i < 6000 && event(&holder, KCOMPACTD_MIGRATE_SCANNED) == 0; i++)
		sleep_ms(10);
	mm_stop_kswapd(holder.pool.mm);
	assert_true(holder.moved > 0);
	assert_true(mm_extfrag_for_order(normal(&holder), 3) < 50);
	holder_end(&holder);
}

/* An order that nobody could wait for is there a moment later. */
static void test_background_order(void **state)
{
	struct holder holder;
	struct page *page = NULL;

	(void)state;
	fragment(&holder, true);
	mm_setting_set(holder.pool.mm, "compaction_proactiveness", 0, 0);
	mm_start_kswapd(holder.pool.mm);
	for (unsigned int i = 0; i < 12000 && !page; i++) {
		page = mm_alloc_pages(holder.pool.mm, GFP_NOWAIT, 5);
		sleep_ms(5);
	}
	assert_non_null(page);
	assert_true(event(&holder, KCOMPACTD_WAKE) > 0);
	mm_stop_kswapd(holder.pool.mm);
	mm_free_pages(holder.pool.mm, page, 5);
	holder_end(&holder);
}

static bool churn_stop;

static void *churn(void *arg)
{
	struct mm *mm = arg;

	while (!__atomic_load_n(&churn_stop, __ATOMIC_RELAXED)) {
		struct page *page = mm_alloc_pages(mm, GFP_NOWAIT | __GFP_MOVABLE, 0);

		page_set_owner(page, 9, FRAMES);
		mm_free_pages(mm, page, 0);
		page = mm_alloc_pages(mm, GFP_NOWAIT, 1);
		if (page)
			mm_free_pages(mm, page, 1);
	}
	return NULL;
}

/* While others allocate and free, and two compact at once. */
static void *compact_thread(void *arg)
{
	for (unsigned int i = 0; i < 30; i++)
		mm_compact_node(arg, 0);
	return NULL;
}

static void test_concurrent(void **state)
{
	struct holder holder;
	pthread_t threads[2];

	(void)state;
	fragment(&holder, true);
	churn_stop = false;
	pthread_create(&threads[0], NULL, churn, holder.pool.mm);
	pthread_create(&threads[1], NULL, compact_thread, holder.pool.mm);
	for (unsigned int i = 0; i < 30; i++)
		mm_compact_node(holder.pool.mm, 0);
	pthread_join(threads[1], NULL);
	__atomic_store_n(&churn_stop, true, __ATOMIC_RELAXED);
	pthread_join(threads[0], NULL);
	pool_validate(&holder.pool);
	holder_end(&holder);
}

static void test_ops_checked(void **state)
{
	const struct mm_migrate_ops none = { 0 };
	const struct mm_migrate_ops half = { .migrate = holder_migrate, .isolate = holder_isolate };
	struct pool pool;

	(void)state;
	pool_create_simple(&pool, 64, 1);
	assert_int_equal(mm_set_migrate_ops(pool.mm, &none, NULL), -EINVAL);
	assert_int_equal(mm_set_migrate_ops(pool.mm, &half, NULL), -EINVAL);
	assert_int_equal(mm_set_migrate_ops(pool.mm, NULL, NULL), 0);
	assert_int_equal(mm_compact_node(pool.mm, -1), 0);
	pool_destroy(&pool);
}

/* Frames in the caches of a CPU that does nothing any more come back by themselves. */
static void test_idle_caches(void **state)
{
	struct mm_counts counts;
	struct pool pool;

	(void)state;
	pool_create_simple(&pool, 8192, 1);
	mm_free_pages(pool.mm, mm_alloc_pages(pool.mm, GFP_KERNEL, 0), 0);
	mm_counts(pool.mm, -1, &counts);
	assert_true(counts.cached > 0);
	mm_start_kswapd(pool.mm);
	for (unsigned int i = 0; i < 6000 && counts.cached; i++) {
		sleep_ms(10);
		mm_counts(pool.mm, -1, &counts);
	}
	assert_int_equal(counts.cached, 0);
	assert_true(mm_vm_event(pool.mm, PCP_IDLE_DRAIN) > 0);
	pool_destroy(&pool);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fragmentation_index),
		cmocka_unit_test(test_compact_lru),
		cmocka_unit_test(test_compact_isolate_callback),
		cmocka_unit_test(test_refusal),
		cmocka_unit_test(test_referenced_stays),
		cmocka_unit_test(test_gathers_by_area),
		cmocka_unit_test(test_content),
		cmocka_unit_test(test_direct_compaction),
		cmocka_unit_test(test_defer),
		cmocka_unit_test(test_unsuitable),
		cmocka_unit_test(test_proactive),
		cmocka_unit_test(test_background_order),
		cmocka_unit_test(test_concurrent),
		cmocka_unit_test(test_ops_checked),
		cmocka_unit_test(test_idle_caches),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
