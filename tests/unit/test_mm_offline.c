/* SPDX-License-Identifier: MIT */
/* Frames in use that leave the pool, because their holders move them (mm/offline.c, hotplug.c). */
#include <errno.h>
#include <pthread.h>

#include "framevisor/compaction.h"
#include "framevisor/vmscan.h"
#include "framevisor/vmstat.h"
#include "tests/unit/mm_pool.h"

#define NORMAL  256
#define MOVABLE 256
#define MAX     512

struct holder {
	struct pool pool;
	struct page *held[MAX];
	unsigned int orders[MAX];
	unsigned int nr;
	bool refuse;
};

static int move(void *opaque, struct page *from, struct page *to, enum migrate_mode mode)
{
	struct holder *holder = opaque;

	(void)mode;
	if (holder->refuse)
		return -EBUSY;
	assert_ptr_equal(holder->held[from->index], from);
	mm_migrate_page_state(from, to);
	holder->held[to->index] = to;
	return 0;
}

static const struct mm_migrate_ops ops = { .migrate = move };

static void create(struct holder *holder)
{
	struct mm_config config = {
		.nr_nodes = 1,
		.nr_cpus = 1,
		.pageblock_order = 4,
		.node[0] = { .spanned = NORMAL + MOVABLE,
			     .movable = MOVABLE,
			     .phys_base = PHYS_NORMAL },
	};

	memset(holder, 0, sizeof(*holder));
	pool_create(&holder->pool, &config);
	mm_online_pages(holder->pool.mm, 0, 0, NORMAL + MOVABLE, false);
	mm_set_migrate_ops(holder->pool.mm, &ops, holder);
}

static void hold(struct holder *holder, unsigned int nr, unsigned int order)
{
	while (nr-- > 0) {
		struct page *page = mm_alloc_pages(
			holder->pool.mm, GFP_NOWAIT | __GFP_HIGHMEM | __GFP_MOVABLE, order);

		assert_non_null(page);
		page_set_owner(page, 1, holder->nr);
		page_map(page);
		mm_lru_add(holder->pool.mm, page);
		holder->orders[holder->nr] = order;
		holder->held[holder->nr++] = page;
	}
}

static void destroy(struct holder *holder)
{
	for (unsigned int i = 0; i < holder->nr; i++) {
		assert_int_equal(holder->held[i]->index, i);
		assert_int_equal(page_order(holder->held[i]), holder->orders[i]);
		assert_true(mm_lru_del(holder->pool.mm, holder->held[i]));
		page_unmap(holder->held[i]);
		mm_free_pages(holder->pool.mm, holder->held[i], holder->orders[i]);
	}
	assert_int_equal(holder->pool.messages, 0);
	pool_destroy(&holder->pool);
}

static uint64_t in_range(struct holder *holder, uint64_t first, uint64_t nr)
{
	uint64_t found = 0;

	for (unsigned int i = 0; i < holder->nr; i++) {
		uint64_t idx = mm_page_idx(holder->pool.mm, holder->held[i]);

		found += idx + (1u << holder->orders[i]) > first && idx < first + nr;
	}
	return found;
}

static uint64_t isolated(struct holder *holder)
{
	uint64_t frames = 0;

	for (unsigned int type = 0; type < MAX_NR_ZONES; type++)
		frames += zone_page_state(&mm_node_data(holder->pool.mm, 0)->node_zones[type],
					  NR_FREE_ISOLATE);
	return frames;
}

/* The whole movable zone, with single frames and larger blocks in use. */
static void test_movable_zone(void **state)
{
	struct mm_counts counts;
	struct holder holder;

	(void)state;
	create(&holder);
	hold(&holder, 100, 0);
	hold(&holder, 10, 2);
	assert_true(in_range(&holder, NORMAL, MOVABLE) >= 100);
	assert_int_equal(mm_offline_pages(holder.pool.mm, 0, NORMAL, MOVABLE), 0);
	assert_int_equal(in_range(&holder, NORMAL, MOVABLE), 0);
	assert_true(mm_vm_event(holder.pool.mm, PGMIGRATE_SUCCESS) >= 100);
	mm_counts(holder.pool.mm, 0, &counts);
	assert_int_equal(counts.present, NORMAL);
	assert_int_equal(isolated(&holder), 0);
	pool_validate(&holder.pool);
	/* And back: nothing of it remembers that it was away. */
	assert_int_equal(mm_online_pages(holder.pool.mm, 0, NORMAL, MOVABLE, false), 0);
	hold(&holder, 50, 0);
	assert_true(in_range(&holder, NORMAL, MOVABLE) > 0);
	destroy(&holder);
}

/* A range that begins and ends within pageblocks. */
static void test_unaligned(void **state)
{
	struct holder holder;

	(void)state;
	create(&holder);
	hold(&holder, 30, 0);
	hold(&holder, 20, 1);
	assert_int_equal(mm_offline_pages(holder.pool.mm, 0, NORMAL + 5, 100), 0);
	assert_int_equal(in_range(&holder, NORMAL + 5, 100), 0);
	assert_int_equal(isolated(&holder), 0);
	pool_validate(&holder.pool);
	destroy(&holder);
}

/* What cannot be moved stays, and then everything does; free frames can be had again. */
static void test_refused(void **state)
{
	struct mm_counts before, after;
	struct holder holder;

	(void)state;
	create(&holder);
	hold(&holder, 60, 0);
	mm_drain_all_pages(holder.pool.mm);
	mm_counts(holder.pool.mm, 0, &before);
	holder.refuse = true;
	assert_int_equal(mm_offline_pages(holder.pool.mm, 0, NORMAL, MOVABLE), -EBUSY);
	mm_counts(holder.pool.mm, 0, &after);
	assert_int_equal(after.present, before.present);
	assert_int_equal(after.free + after.cached, before.free + before.cached);
	assert_int_equal(isolated(&holder), 0);
	pool_validate(&holder.pool);
	holder.refuse = false;
	page_test_and_set(holder.held[3], PAGE_FLAG(pinned));
	assert_int_equal(mm_offline_pages(holder.pool.mm, 0, NORMAL, MOVABLE), -EBUSY);
	page_test_and_clear(holder.held[3], PAGE_FLAG(pinned));
	assert_int_equal(mm_offline_pages(holder.pool.mm, 0, NORMAL, MOVABLE), 0);
	destroy(&holder);
}

/* There must be room elsewhere. */
static void test_no_room(void **state)
{
	struct holder holder;

	(void)state;
	create(&holder);
	hold(&holder, 400, 0);
	assert_int_equal(mm_offline_pages(holder.pool.mm, 0, NORMAL, MOVABLE), -EBUSY);
	assert_int_equal(isolated(&holder), 0);
	pool_validate(&holder.pool);
	destroy(&holder);
}

static bool churn_stop;

static void *churn(void *arg)
{
	while (!__atomic_load_n(&churn_stop, __ATOMIC_RELAXED)) {
		struct page *page = mm_alloc_pages(arg, GFP_HIGHUSER_MOVABLE, 0);

		assert_non_null(page);
		page_set_owner(page, 2, 0);
		mm_free_pages(arg, page, 0);
	}
	return NULL;
}

/* While another thread allocates and frees in the same zone. */
static void test_concurrent(void **state)
{
	struct holder holder;
	unsigned int done = 0;
	pthread_t thread;

	(void)state;
	create(&holder);
	hold(&holder, 60, 0);
	churn_stop = false;
	pthread_create(&thread, NULL, churn, holder.pool.mm);
	for (unsigned int i = 0; i < 50; i++) {
		int ret = mm_offline_pages(holder.pool.mm, 0, NORMAL, MOVABLE);

		assert_true(ret == 0 || ret == -EBUSY);
		if (ret == 0) {
			done++;
			mm_online_pages(holder.pool.mm, 0, NORMAL, MOVABLE, false);
		}
	}
	__atomic_store_n(&churn_stop, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	assert_true(done > 0);
	destroy(&holder);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_movable_zone), cmocka_unit_test(test_unaligned),
		cmocka_unit_test(test_refused),      cmocka_unit_test(test_no_room),
		cmocka_unit_test(test_concurrent),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
