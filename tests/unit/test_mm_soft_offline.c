/* SPDX-License-Identifier: MIT */
/*
 * Frames taken out of circulation on purpose (mm/soft_offline.c), ranges kept from allocation while
 * their holders give them up (mm_isolate_pages()), and drains of one node.
 */
#include <errno.h>
#include <pthread.h>

#include "framevisor/compaction.h"
#include "framevisor/vmscan.h"
#include "tests/unit/mm_pool.h"

#define FRAMES 256

static struct page *held;

static int move(void *opaque, struct page *from, struct page *to, enum migrate_mode mode)
{
	(void)opaque, (void)mode;
	assert_ptr_equal(from, held);
	mm_migrate_page_state(from, to);
	held = to;
	return 0;
}

static bool isolate(void *opaque, struct page *page)
{
	(void)opaque;
	return page == held;
}

static void putback(void *opaque, struct page *page)
{
	(void)opaque, (void)page;
}

static const struct mm_migrate_ops ops = { move, isolate, putback };

static void create(struct pool *pool)
{
	struct mm_config config = {
		.nr_nodes = 2,
		.nr_cpus = 2,
		.pageblock_order = 3,
		.node[0] = { .spanned = FRAMES, .movable = FRAMES / 2, .phys_base = PHYS_NORMAL },
		.node[1] = { .spanned = FRAMES, .phys_base = 2 * PHYS_NORMAL },
	};

	pool_create(pool, &config);
	for (unsigned int nid = 0; nid < 2; nid++)
		assert_int_equal(mm_online_pages(pool->mm, nid, 0, FRAMES, false), 0);
}

static uint64_t quarantined(struct pool *pool)
{
	struct mm_counts counts;

	pool_validate(pool);
	mm_counts(pool->mm, -1, &counts);
	assert_int_equal(counts.present,
			 counts.free + counts.cached + counts.allocated + counts.quarantined);
	return counts.quarantined;
}

/* Whether any allocation still gets it. */
static bool can_be_had(struct pool *pool, const struct page *wanted)
{
	static struct page *pages[2 * FRAMES + 1];
	unsigned int nr = 0;
	bool found = false;

	while ((pages[nr] = mm_alloc_pages(
			pool->mm,
			GFP_HIGHUSER_MOVABLE | __GFP_NOWARN | __GFP_MEMALLOC | __GFP_NORETRY, 0)) !=
	       NULL)
		found |= pages[nr++] == wanted;
	while (nr > 0)
		mm_free_pages(pool->mm, pages[--nr], 0);
	return found;
}

static void test_free_frame(void **state)
{
	struct pool pool;
	struct page *page;

	(void)state;
	create(&pool);
	page = mm_page(pool.mm, 0, 77);
	assert_int_equal(mm_soft_offline_page(pool.mm, page), 0);
	assert_int_equal(quarantined(&pool), 1);
	assert_int_equal(mm_soft_offline_page(pool.mm, page), -EALREADY);
	assert_false(can_be_had(&pool, page));
	/* One in a per-CPU cache. */
	held = mm_alloc_pages(pool.mm, GFP_KERNEL, 0);
	mm_free_pages(pool.mm, held, 0);
	assert_int_equal(mm_soft_offline_page(pool.mm, held), 0);
	assert_int_equal(quarantined(&pool), 2);
	assert_int_equal(mm_unpoison_page(pool.mm, page), 0);
	assert_int_equal(mm_unpoison_page(pool.mm, page), -EINVAL);
	assert_int_equal(mm_unpoison_page(pool.mm, held), 0);
	assert_int_equal(quarantined(&pool), 0);
	assert_true(can_be_had(&pool, page));
	assert_int_equal(pool.messages, 0);
	pool_destroy(&pool);
}

static void test_moved(void **state)
{
	struct pool pool;
	struct page *before;

	(void)state;
	create(&pool);
	mm_set_migrate_ops(pool.mm, &ops, NULL);
	before = held = mm_alloc_pages(pool.mm, GFP_HIGHUSER_MOVABLE, 0);
	page_set_owner(held, 7, 42);
	assert_int_equal(mm_soft_offline_page(pool.mm, before), 0);
	assert_ptr_not_equal(held, before);
	assert_int_equal(held->owner, 7);
	assert_int_equal(held->index, 42);
	assert_int_equal(quarantined(&pool), 1);
	mm_free_pages(pool.mm, held, 0);
	assert_false(can_be_had(&pool, before));
	/* A frame within a larger block: all of it moves, one frame stays out. */
	held = mm_alloc_pages(pool.mm, GFP_HIGHUSER_MOVABLE, 2);
	before = held + 3;
	assert_int_equal(mm_soft_offline_page(pool.mm, before), 0);
	assert_int_equal(quarantined(&pool), 2);
	mm_free_pages(pool.mm, held, 2);
	assert_false(can_be_had(&pool, before));
	assert_int_equal(pool.messages, 0);
	pool_destroy(&pool);
}

/* What cannot be moved is quarantined by its holder's free, silently, on every way to free. */
static void test_when_freed(void **state)
{
	struct page *pages[4], *block;
	struct pool pool;

	(void)state;
	create(&pool);
	for (unsigned int i = 0; i < 4; i++) {
		pages[i] = mm_alloc_page(pool.mm, GFP_KERNEL);
		assert_int_equal(mm_soft_offline_page(pool.mm, pages[i]), -EINPROGRESS);
		assert_int_equal(mm_soft_offline_page(pool.mm, pages[i]), -EALREADY);
	}
	block = mm_alloc_pages(pool.mm, GFP_KERNEL, 2);
	assert_int_equal(mm_soft_offline_page(pool.mm, block + 1), -EBUSY);
	assert_int_equal(quarantined(&pool), 0);
	mm_free_page(pool.mm, pages[0]);
	mm_free_pages_bulk(pool.mm, &pages[1], 1, false);
	mm_get_page(pool.mm, pages[2]);
	mm_put_page(pool.mm, pages[2]);
	assert_int_equal(quarantined(&pool), 2);
	mm_put_page(pool.mm, pages[2]);
	assert_int_equal(mm_unpoison_page(pool.mm, pages[3]), 0);
	mm_free_pages_zeroed(pool.mm, pages[3], 0);
	assert_int_equal(quarantined(&pool), 3);
	assert_false(can_be_had(&pool, pages[0]));
	assert_true(can_be_had(&pool, pages[3]));
	mm_free_pages(pool.mm, block, 2);
	assert_int_equal(pool.messages, 0);
	/* Freed once more: that is reported. */
	mm_free_pages(pool.mm, pages[0], 0);
	assert_int_equal(pool.messages, 1);
	assert_int_equal(quarantined(&pool), 3);
	pool_destroy(&pool);
}

/* A marked frame that its holder frees in a bad state: reported, and in quarantine all the same.
 * Not on purpose any more, since somebody may use it. */
static void test_when_freed_in_use(void **state)
{
	static const char *const reports[] = { "still mapped", "on an LRU list", "another order" };
	struct page *pages[3];
	struct pool pool;

	(void)state;
	create(&pool);
	for (unsigned int i = 0; i < 3; i++) {
		pages[i] = mm_alloc_page(pool.mm, GFP_KERNEL);
		assert_int_equal(mm_soft_offline_page(pool.mm, pages[i]), -EINPROGRESS);
	}
	page_map(pages[0]);
	mm_lru_add(pool.mm, pages[1]);
	for (unsigned int i = 0; i < 3; i++) {
		mm_free_pages(pool.mm, pages[i], i == 2);
		assert_int_equal(quarantined(&pool), i + 1);
		assert_int_equal(pool.messages, i + 1);
		if (!strstr(pool.last_message, reports[i]))
			fail_msg("not \"%s\": %s", reports[i], pool.last_message);
		assert_false(can_be_had(&pool, pages[i]));
		assert_int_equal(mm_soft_offline_page(pool.mm, pages[i]), -EALREADY);
	}
	assert_int_equal(pool_free_frames(&pool), 2 * FRAMES - 3);
	for (unsigned int i = 0; i < 3; i++)
		assert_int_equal(mm_unpoison_page(pool.mm, pages[i]), 0);
	assert_int_equal(quarantined(&pool), 0);
	assert_int_equal(pool_free_frames(&pool), 2 * FRAMES);
	pool_destroy(&pool);
}

/* A reference that nobody could have taken does not bring a frame back, nor count it twice. */
static void test_reference_to_quarantined(void **state)
{
	struct page *page;
	struct pool pool;

	(void)state;
	create(&pool);
	page = mm_page(pool.mm, 0, 77);
	assert_int_equal(mm_soft_offline_page(pool.mm, page), 0);
	mm_get_page(pool.mm, page);
	assert_int_equal(pool.messages, 1);
	assert_non_null(strstr(pool.last_message, "reference taken, but not allocated"));
	mm_put_page(pool.mm, page);
	assert_int_equal(pool.messages, 2);
	assert_int_equal(quarantined(&pool), 1);
	assert_int_equal(pool_free_frames(&pool), 2 * FRAMES - 1);
	assert_int_equal(mm_unpoison_page(pool.mm, page), 0);
	assert_int_equal(quarantined(&pool), 0);
	pool_destroy(&pool);
}

/* The range goes with its quarantined frames, and comes back without. */
static void test_offline_range(void **state)
{
	struct mm_counts counts;
	struct pool pool;

	(void)state;
	create(&pool);
	assert_int_equal(mm_soft_offline_page(pool.mm, mm_page(pool.mm, 0, 130)), 0);
	assert_int_equal(mm_soft_offline_page(pool.mm, mm_page(pool.mm, 0, 10)), 0);
	assert_int_equal(mm_offline_pages(pool.mm, 0, FRAMES / 2, FRAMES / 2), 0);
	assert_int_equal(quarantined(&pool), 1);
	mm_counts(pool.mm, 0, &counts);
	assert_int_equal(counts.present, FRAMES / 2);
	assert_int_equal(mm_soft_offline_page(pool.mm, mm_page(pool.mm, 0, 130)), -EINVAL);
	assert_int_equal(mm_unpoison_page(pool.mm, mm_page(pool.mm, 0, 130)), -EINVAL);
	assert_int_equal(mm_online_pages(pool.mm, 0, FRAMES / 2, FRAMES / 2, true), 0);
	assert_int_equal(quarantined(&pool), 1);
	assert_true(can_be_had(&pool, mm_page(pool.mm, 0, 130)));
	pool_destroy(&pool);
}

/* Holders that need their time: the range is kept from allocation until they have given up all. */
static void test_isolate_and_wait(void **state)
{
	const uint64_t first = FRAMES / 2, nr = FRAMES / 2;
	struct mm_counts counts;
	struct page *pages[100];
	unsigned int left = 0;
	struct pool pool;

	(void)state;
	create(&pool);
	assert_int_equal(mm_isolate_pages(pool.mm, 0, first + nr, 1), -EINVAL);
	for (unsigned int i = 0; i < 100; i++)
		pages[i] = mm_alloc_pages_node(pool.mm, 0, GFP_HIGHUSER_MOVABLE, 0);
	assert_int_equal(mm_isolate_pages(pool.mm, 0, first, nr), 0);
	pool_validate(&pool);
	mm_counts(pool.mm, 0, &counts);
	assert_in_range(counts.isolated, 1, nr);
	assert_int_equal(counts.free + counts.cached, FRAMES - 100);
	for (unsigned int i = 0; i < 100; i++)
		left += mm_page_idx(pool.mm, pages[i]) >= first;
	assert_true(left > 0);
	/* What comes from now on lies elsewhere; a try too early changes nothing. */
	held = mm_alloc_pages_node(pool.mm, 0, GFP_HIGHUSER_MOVABLE, 0);
	assert_true(mm_page_idx(pool.mm, held) < first);
	mm_set_migrate_ops(pool.mm, &ops, NULL);
	assert_int_equal(mm_offline_pages(pool.mm, 0, first, nr), -EBUSY);
	for (unsigned int i = 0; i < 100; i++)
		mm_free_pages(pool.mm, pages[i], 0);
	pages[0] = mm_alloc_pages_node(pool.mm, 0, GFP_HIGHUSER_MOVABLE, 0);
	assert_true(mm_page_nid(pool.mm, pages[0]) == 0 && mm_page_idx(pool.mm, pages[0]) < first);
	assert_int_equal(mm_offline_pages(pool.mm, 0, first, nr), 0);
	mm_unisolate_pages(pool.mm, 0, first, nr);
	mm_counts(pool.mm, 0, &counts);
	assert_int_equal(counts.isolated, 0);
	pool_validate(&pool);
	assert_int_equal(mm_online_pages(pool.mm, 0, first, nr, false), 0);
	assert_true(can_be_had(&pool, mm_page(pool.mm, 0, first)));
	mm_free_pages(pool.mm, pages[0], 0);
	mm_free_pages(pool.mm, held, 0);
	assert_int_equal(pool_free_frames(&pool), 2 * FRAMES);
	pool_destroy(&pool);
}

/* Only the caches of that node are emptied. */
static void test_drain_node(void **state)
{
	struct mm_counts counts;
	struct page *pages[2];
	struct pool pool;

	(void)state;
	create(&pool);
	for (int nid = 0; nid < 2; nid++)
		pages[nid] = mm_alloc_pages_node(pool.mm, nid, GFP_KERNEL, 0);
	for (int nid = 0; nid < 2; nid++)
		mm_free_pages(pool.mm, pages[nid], 0);
	mm_drain_node_pages(pool.mm, 1);
	mm_counts(pool.mm, 0, &counts);
	assert_true(counts.cached > 0);
	mm_counts(pool.mm, 1, &counts);
	assert_int_equal(counts.cached, 0);
	pool_destroy(&pool);
}

static bool churn_stop;

static void *churn(void *arg)
{
	while (!__atomic_load_n(&churn_stop, __ATOMIC_RELAXED)) {
		struct page *pages[8];
		uint64_t nr = mm_alloc_pages_bulk(arg, GFP_KERNEL, 0, 8, pages);
		struct page *block = mm_alloc_pages(arg, GFP_KERNEL, 4);

		mm_free_pages(arg, block, 4);
		mm_free_pages_bulk(arg, pages, nr, false);
	}
	return NULL;
}

/* Free frames go and come back, ranges are isolated, while another thread uses the same node. */
static void test_concurrent(void **state)
{
	struct pool pool;
	pthread_t thread;

	(void)state;
	create(&pool);
	churn_stop = false;
	assert_int_equal(pthread_create(&thread, NULL, churn, pool.mm), 0);
	for (unsigned int i = 0; i < 300; i++) {
		struct page *page = mm_page(pool.mm, 0, FRAMES / 2 + i % 100);

		assert_int_equal(mm_soft_offline_page(pool.mm, page), 0);
		assert_int_equal(mm_isolate_pages(pool.mm, 0, FRAMES / 2, FRAMES / 2), 0);
		assert_int_equal(mm_unpoison_page(pool.mm, page), 0);
		if (i % 50 == 0) {
			assert_int_equal(mm_offline_pages(pool.mm, 0, FRAMES / 2, FRAMES / 2), 0);
			assert_int_equal(mm_online_pages(pool.mm, 0, FRAMES / 2, FRAMES / 2, true),
					 0);
		}
		mm_unisolate_pages(pool.mm, 0, FRAMES / 2, FRAMES / 2);
	}
	__atomic_store_n(&churn_stop, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	assert_int_equal(quarantined(&pool), 0);
	assert_int_equal(pool_free_frames(&pool), 2 * FRAMES);
	assert_int_equal(pool.messages, 0);
	pool_destroy(&pool);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_free_frame),
		cmocka_unit_test(test_moved),
		cmocka_unit_test(test_when_freed),
		cmocka_unit_test(test_when_freed_in_use),
		cmocka_unit_test(test_reference_to_quarantined),
		cmocka_unit_test(test_offline_range),
		cmocka_unit_test(test_isolate_and_wait),
		cmocka_unit_test(test_drain_node),
		cmocka_unit_test(test_concurrent),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
