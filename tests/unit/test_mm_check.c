/* SPDX-License-Identifier: MIT */
/* Bad frees are caught, reported and quarantined (mm/page_check.c, page_free.c, page_owner.c). */
#include <errno.h>

#include "framevisor/vmscan.h"
#include "tests/unit/mm_pool.h"

static uint64_t quarantined(struct pool *pool)
{
	struct mm_counts counts;

	mm_counts(pool->mm, -1, &counts);
	return counts.quarantined;
}

static void expect_message(struct pool *pool, const char *part)
{
	if (pool->messages != 1 || !strstr(pool->last_message, part))
		fail_msg("%u messages, the last: %s", pool->messages, pool->last_message);
	pool->messages = 0;
	pool_validate(pool);
}

/* Nothing that was quarantined is handed out again. */
static void expect_never_again(struct pool *pool, const struct page *bad)
{
	struct page *page;

	while ((page = mm_alloc_pages(pool->mm, GFP_NOWAIT | __GFP_MEMALLOC, 0)) != NULL)
		assert_ptr_not_equal(page, bad);
	mm_destroy(pool->mm);
	free(pool->metadata);
	if (pool->memory)
		munmap(pool->memory, pool->memory_size);
}

static void double_free(unsigned int order)
{
	struct page *page;
	struct pool pool;

	pool_create_simple(&pool, 256, 1);
	page = mm_alloc_pages(pool.mm, GFP_KERNEL, order);
	mm_free_pages(pool.mm, page, order);
	mm_free_pages(pool.mm, page, order);
	expect_message(&pool, "freed, but not allocated");
	assert_int_equal(quarantined(&pool), 1);
	assert_int_equal(pool_free_frames(&pool), 255);
	expect_never_again(&pool, page);
}

static void test_double_free(void **state)
{
	(void)state;
	double_free(0);
	double_free(2);
	double_free(7);
}

/* The frame is on no list yet when it comes the second time. */
static void test_twice_in_one_call(void **state)
{
	struct page *pages[10], *bad;
	struct pool pool;

	(void)state;
	pool_create_simple(&pool, 256, 1);
	assert_int_equal(mm_alloc_pages_bulk(pool.mm, GFP_KERNEL, 0, 8, pages), 8);
	bad = pages[5];
	pages[8] = bad;
	pages[9] = mm_alloc_pages(pool.mm, GFP_KERNEL, 0);
	mm_free_pages_bulk(pool.mm, pages, 10, false);
	expect_message(&pool, "freed, but not allocated");
	assert_int_equal(quarantined(&pool), 1);
	assert_int_equal(pool_free_frames(&pool), 255);
	expect_never_again(&pool, bad);
}

static void test_wrong_order(void **state)
{
	struct page *page;
	struct pool pool;

	(void)state;
	pool_create_simple(&pool, 256, 1);
	page = mm_alloc_pages(pool.mm, GFP_KERNEL, 3);
	mm_free_pages(pool.mm, page, 2);
	expect_message(&pool, "another order");
	assert_int_equal(quarantined(&pool), 8);
	expect_never_again(&pool, page);
}

static void test_tail_of_a_block(void **state)
{
	struct page *page;
	struct pool pool;

	(void)state;
	pool_create_simple(&pool, 256, 1);
	page = mm_alloc_pages(pool.mm, GFP_KERNEL, 3);
	mm_free_pages(pool.mm, page + 3, 0);
	expect_message(&pool, "freed, but not allocated");
	assert_int_equal(quarantined(&pool), 0);
	mm_free_pages(pool.mm, page, 3);
	pool_destroy(&pool);
}

static void test_still_mapped(void **state)
{
	struct page *page;
	struct pool pool;

	(void)state;
	pool_create_simple(&pool, 256, 1);
	page = mm_alloc_pages(pool.mm, GFP_KERNEL, 0);
	page_map(page);
	mm_free_pages(pool.mm, page, 0);
	expect_message(&pool, "still mapped");
	assert_int_equal(quarantined(&pool), 1);
	expect_never_again(&pool, page);
}

/* It is taken off its list, so that nobody reclaims what is in quarantine. */
static void test_on_lru_list(void **state)
{
	struct page *page;
	struct pool pool;

	(void)state;
	pool_create_simple(&pool, 256, 1);
	page = mm_alloc_pages(pool.mm, GFP_KERNEL, 2);
	mm_lru_add(pool.mm, page);
	mm_free_pages(pool.mm, page, 2);
	expect_message(&pool, "on an LRU list");
	assert_int_equal(quarantined(&pool), 4);
	expect_never_again(&pool, page);
}

static void test_foreign_frame(void **state)
{
	struct page stranger = { 0 };
	struct pool pool;

	(void)state;
	pool_create_simple(&pool, 256, 1);
	mm_free_pages(pool.mm, &stranger, 0);
	expect_message(&pool, "no frame of this pool");
	mm_free_pages(pool.mm, (struct page *)((char *)mm_page(pool.mm, 0, 5) + 8), 0);
	expect_message(&pool, "no frame of this pool");
	pool_destroy(&pool);
}

/* A frame that changed while it was free is not handed out. */
static void test_bad_at_allocation(void **state)
{
	struct page *page, *other;
	struct pool pool;

	(void)state;
	pool_create_simple(&pool, 256, 1);
	page = mm_alloc_pages(pool.mm, GFP_KERNEL, 0);
	mm_free_pages(pool.mm, page, 0);
	page_map(page);
	other = mm_alloc_pages(pool.mm, GFP_KERNEL, 0);
	assert_non_null(other);
	assert_ptr_not_equal(other, page);
	page_unmap(page);
	expect_message(&pool, "still mapped");
	assert_int_equal(quarantined(&pool), 1);
	expect_never_again(&pool, page);
}

static void test_owner_history(void **state)
{
	struct mm_config config = {
		.nr_nodes = 1,
		.nr_cpus = 1,
		.flags = MM_PAGE_OWNER,
		.node[0] = { .spanned = 64, .phys_base = PHYS_NORMAL },
	};
	struct page *page;
	struct pool pool;

	(void)state;
	pool_create(&pool, &config);
	mm_online_pages(pool.mm, 0, 0, 64, false);
	page = mm_alloc_pages(pool.mm, GFP_KERNEL, 0);
	page_set_owner(page, 42, 7);
	mm_free_pages(pool.mm, page, 0);
	mm_free_pages(pool.mm, page, 0);
	expect_message(&pool, "freed order:0 owner:42");
	expect_never_again(&pool, page);
}

/* Written to after it was freed. */
static void test_poison(void **state)
{
	struct page *page;
	struct pool pool;

	(void)state;
	pool_create_backed(&pool, 8, MM_DEBUG_POISON);
	assert_int_equal(mm_online_pages(pool.mm, 0, 0, 8, false), 0);
	page = mm_alloc_pages(pool.mm, GFP_KERNEL, 0);
	mm_free_pages(pool.mm, page, 0);
	((char *)mm_page_address(pool.mm, page))[FRAME_SIZE - 1] = 1;
	expect_never_again(&pool, page);
	assert_int_equal(pool.messages, 1);
	assert_non_null(strstr(pool.last_message, "written to while it was free"));
}

static void test_references(void **state)
{
	struct page *page;
	struct pool pool;

	(void)state;
	pool_create_simple(&pool, 64, 1);
	page = mm_alloc_pages(pool.mm, GFP_KERNEL | __GFP_COMP, 3);
	assert_ptr_equal(mm_compound_head(pool.mm, page + 5), page);
	mm_get_page(pool.mm, page + 2);
	mm_free_pages(pool.mm, page, 3);
	assert_int_equal(pool_free_frames(&pool), 56);
	mm_put_page(pool.mm, page + 7);
	assert_int_equal(pool_free_frames(&pool), 64);
	pool_destroy(&pool);
}

static void test_exact_and_names(void **state)
{
	struct page *page;
	unsigned long addr;
	struct pool pool;
	char *exact;

	(void)state;
	pool_create_backed(&pool, 64, 0);
	mm_online_pages(pool.mm, 0, 0, 64, false);
	mm_use(pool.mm);
	exact = alloc_pages_exact(5 * FRAME_SIZE - 1, GFP_KERNEL);
	assert_non_null(exact);
	assert_int_equal(pool_free_frames(&pool), 59);
	free_pages_exact(exact, 5 * FRAME_SIZE - 1);
	addr = __get_free_pages(GFP_KERNEL, 1);
	assert_ptr_equal(page_address(virt_to_page((void *)addr)), (void *)addr);
	assert_int_equal(pool_free_frames(&pool), 62);
	free_pages(addr, 1);
	addr = get_zeroed_page(GFP_KERNEL);
	assert_true(addr != 0);
	assert_int_equal(*(char *)addr, 0);
	free_page(addr);
	page = alloc_pages(GFP_KERNEL, 1);
	split_page(page, 1);
	__free_page(page);
	__free_page(page + 1);
	assert_int_equal(pool_free_frames(&pool), 64);
	pool_destroy(&pool);
}

/* Each of the kernel's names does what the call with the instance does. */
static void test_kernel_names(void **state)
{
	const nodemask_t nodes = 1;
	struct mm_counts counts;
	struct page *page;
	unsigned long addr;
	struct pool pool;

	(void)state;
	pool_create_backed(&pool, 64, 0);
	mm_online_pages(pool.mm, 0, 0, 64, false);
	mm_use(pool.mm);
	page = alloc_page(GFP_KERNEL);
	assert_ptr_equal(pfn_to_page(page_to_pfn(page)), page);
	get_page(page);
	put_page(page);
	assert_int_equal(page_count(page), 1);
	put_page(page);
	page = alloc_pages_node(0, GFP_KERNEL, 2);
	__free_pages(page, 2);
	page = __alloc_pages_nodemask(GFP_KERNEL, 1, NUMA_NO_NODE, &nodes);
	__free_pages(page, 1);
	assert_null(alloc_pages_node(0, GFP_NOWAIT, MAX_ORDER + 1));
	addr = __get_free_page(GFP_HIGHUSER);
	assert_true(addr != 0 && addr % FRAME_SIZE == 0);
	free_page(addr);
	assert_int_equal(__get_dma_pages(GFP_NOWAIT, 0), 0); /* no such zone here */
	free_pages(0, 3);
	drain_all_pages();
	mm_counts(pool.mm, -1, &counts);
	assert_int_equal(counts.cached, 0);
	assert_int_equal(counts.free, 64);
	pool_destroy(&pool);
}

static void expect_zone_15(struct pool *pool, struct page *page)
{
	uint64_t flags = page_flags(page);
	char why[256];

	page_set_flags(page, flags | PAGE_FLAG(present) | PAGE_ZONE_MASK);
	assert_int_equal(mm_validate(pool->mm, why, sizeof(why)), -EUCLEAN);
	if (!strstr(why, "zone 15"))
		fail_msg("mm_validate: %s", why);
	page_set_flags(page, flags);
	pool_validate(pool);
}

/* Validation does not follow a number that it has not looked at: of a free frame, of an absent one
 * and of one in a cache. */
static void test_zone_that_is_none(void **state)
{
	struct mm_config config = {
		.nr_nodes = 1,
		.nr_cpus = 1,
		.node[0] = { .spanned = 256, .phys_base = PHYS_NORMAL },
	};
	struct page *page;
	struct pool pool;

	(void)state;
	pool_create(&pool, &config);
	assert_int_equal(mm_online_pages(pool.mm, 0, 0, 128, false), 0);
	expect_zone_15(&pool, mm_page(pool.mm, 0, 0));
	expect_zone_15(&pool, mm_page(pool.mm, 0, 200));
	page = mm_alloc_pages(pool.mm, GFP_KERNEL, 1);
	mm_free_pages(pool.mm, page, 1);
	expect_zone_15(&pool, page);
	pool_destroy(&pool);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_double_free),   cmocka_unit_test(test_twice_in_one_call),
		cmocka_unit_test(test_wrong_order),   cmocka_unit_test(test_tail_of_a_block),
		cmocka_unit_test(test_still_mapped),  cmocka_unit_test(test_on_lru_list),
		cmocka_unit_test(test_foreign_frame), cmocka_unit_test(test_bad_at_allocation),
		cmocka_unit_test(test_owner_history), cmocka_unit_test(test_poison),
		cmocka_unit_test(test_references),    cmocka_unit_test(test_exact_and_names),
		cmocka_unit_test(test_kernel_names),  cmocka_unit_test(test_zone_that_is_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
