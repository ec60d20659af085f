/* SPDX-License-Identifier: MIT */
/* Reports in the kernel's formats (mm/report_vmstat.c) and overcommit (mm/overcommit.c). */
#include <errno.h>
#include <pthread.h>

#include "framevisor/overcommit.h"
#include "framevisor/vmscan.h"
#include "framevisor/vmstat.h"
#include "tests/unit/mm_pool.h"

static char text[16384];

/* The value behind a name at the start of a line. */
static uint64_t value_of(const char *name)
{
	const char *at = text;

	while (at && strncmp(at, name, strlen(name)) != 0) {
		at = strchr(at, '\n');
		at = at ? at + 1 : NULL;
	}
	if (!at)
		fail_msg("no line %s", name);
	return strtoull(at + strlen(name), NULL, 10);
}

static void check_length(struct mm *mm, int (*report)(struct mm *, char *, size_t))
{
	int len = report(mm, text, sizeof(text));
	char cut[32];

	assert_int_equal(len, (int)strlen(text));
	assert_int_equal(report(mm, NULL, 0), len);
	assert_int_equal(report(mm, cut, sizeof(cut)), len);
	assert_int_equal(strlen(cut), sizeof(cut) - 1);
	assert_memory_equal(cut, text, sizeof(cut) - 1);
}

static void test_pagetypeinfo(void **state)
{
	struct pool pool;
	struct page *page;

	(void)state;
	pool_create_simple(&pool, 8192, 1);
	check_length(pool.mm, mm_report_pagetypeinfo);
	assert_non_null(strstr(text, "Page block order: 6\nPages per block:  64\n\n"
				     "Free pages count per migrate type at order       0      1 "));
	assert_non_null(strstr(text,
			       "Node    0, zone   Normal, type      Movable      0      0      0"
			       "      0      0      0      0      0      0     16 \n"));
	assert_non_null(strstr(text,
			       "\n\nNumber of blocks type     Unmovable      Movable  Reclaimable"
			       "   HighAtomic      Isolate \n"
			       "Node 0, zone   Normal            0          128            0"
			       "            0            0 \n"));
	page = mm_alloc_pages(pool.mm, GFP_KERNEL, 5);
	check_length(pool.mm, mm_report_pagetypeinfo);
	assert_non_null(strstr(text, "Node 0, zone   Normal            8          120 "));
	mm_free_pages(pool.mm, page, 5);
	pool_destroy(&pool);
}

/* Every way in and out is counted, and each frame once. */
static void test_vmstat(void **state)
{
	static struct page *pages[600];
	struct pool pool;
	uint64_t got;

	(void)state;
	pool_create_simple(&pool, 8192, 1);
	for (unsigned int round = 0; round < 3; round++) {
		for (unsigned int i = 0; i < 300; i++)
			pages[i] = mm_alloc_pages(pool.mm, GFP_KERNEL, 0);
		for (unsigned int i = 0; i < 300; i++)
			mm_free_pages(pool.mm, pages[i], 0);
	}
	for (unsigned int order = 1; order <= MAX_ORDER; order++)
		mm_free_pages(pool.mm, mm_alloc_pages(pool.mm, GFP_KERNEL, order), order);
	got = mm_alloc_pages_bulk(pool.mm, GFP_KERNEL, 0, 600, pages);
	mm_free_pages_bulk(pool.mm, pages, got, false);
	check_length(pool.mm, mm_report_vmstat);
	assert_int_equal(value_of("pgalloc_normal "), 900 + 1022 + 600);
	assert_int_equal(value_of("pgfree "), 900 + 1022 + 600);
	assert_int_equal(value_of("nr_free_pages ") + value_of("nr_free_pcp "), 8192);
	assert_int_equal(value_of("pgalloc_dma "), 0);
	assert_int_equal(value_of("allocstall_normal "), 0);
	while (mm_alloc_pages(pool.mm, GFP_NOWAIT, 0))
		;
	assert_null(mm_alloc_pages(pool.mm, GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN, 0));
	check_length(pool.mm, mm_report_vmstat);
	assert_int_equal(value_of("allocstall_normal "), 1);
	assert_int_equal(value_of("compact_stall "), 0);
	pool_validate(&pool);
	mm_destroy(pool.mm);
	free(pool.metadata);
}

static void test_meminfo(void **state)
{
	struct mm_config config = {
		.nr_nodes = 1,
		.nr_cpus = 1,
		.node[0] = { .spanned = 8192, .highmem = 1024, .phys_base = PHYS_NORMAL },
	};
	struct pool pool;
	struct page *page;

	(void)state;
	pool_create(&pool, &config);
	mm_online_pages(pool.mm, 0, 0, 8192, false);
	page = mm_alloc_pages(pool.mm, GFP_KERNEL, 0);
	mm_lru_add(pool.mm, page);
	mm_vm_enough_memory(pool.mm, 100, false);
	check_length(pool.mm, mm_report_meminfo);
	assert_memory_equal(text, "MemTotal:       16777216 kB\n", 28);
	assert_int_equal(value_of("MemFree:"), 8191 * 2048);
	assert_int_equal(value_of("MemAvailable:"), (8191 - mm_totalreserve_pages(pool.mm)) * 2048);
	assert_int_equal(value_of("Inactive:"), 2048);
	assert_int_equal(value_of("HighTotal:"), 1024 * 2048);
	assert_int_equal(value_of("LowTotal:"), 7168 * 2048);
	assert_int_equal(value_of("CommitLimit:"), 4096 * 2048);
	assert_int_equal(value_of("Committed_AS:"), 100 * 2048);
	assert_true(mm_lru_del(pool.mm, page));
	mm_free_pages(pool.mm, page, 0);
	pool_destroy(&pool);
}

/* Holders count what the allocator does not know of. */
static void test_vmstat_of_holders(void **state)
{
	struct pool pool;

	(void)state;
	pool_create_simple(&pool, 100, 1);
	mm_count_vm_events(pool.mm, PSWPOUT, 3);
	mm_count_vm_events(pool.mm, PSWPOUT, 2);
	mm_count_vm_events(pool.mm, BALLOON_INFLATE, 7);
	mm_count_vm_events(pool.mm, NR_VM_EVENT_ITEMS, 7);
	check_length(pool.mm, mm_report_vmstat);
	assert_int_equal(value_of("pswpout"), 5);
	assert_int_equal(value_of("pswpin"), 0);
	assert_int_equal(value_of("balloon_inflate"), 7);
	assert_int_equal(value_of("balloon_deflate"), 0);
	for (unsigned int item = 0; item < NR_VM_EVENT_ITEMS; item++)
		assert_int_equal(value_of(mm_vm_event_name(item)), mm_vm_event(pool.mm, item));
	assert_null(mm_vm_event_name(NR_VM_EVENT_ITEMS));
	pool_destroy(&pool);
}

static void test_extfrag(void **state)
{
	struct pool pool;

	(void)state;
	pool_create_simple(&pool, 513, 1);
	check_length(pool.mm, mm_report_extfrag_index);
	assert_string_equal(text, "Node 0, zone   Normal -1.000 -1.000 -1.000 -1.000 -1.000 -1.000"
				  " -1.000 -1.000 -1.000 -1.000 \n");
	check_length(pool.mm, mm_report_unusable_index);
	assert_string_equal(text, "Node 0, zone   Normal 0.000 0.001 0.001 0.001 0.001 0.001 0.001"
				  " 0.001 0.001 0.001 \n");
	pool_destroy(&pool);
}

static void test_overcommit_guess(void **state)
{
	struct pool pool;

	(void)state;
	pool_create_simple(&pool, 1000, 1);
	assert_int_equal(mm_vm_enough_memory(pool.mm, 1001, true), -ENOMEM);
	assert_int_equal(mm_vm_committed(pool.mm), 0);
	for (unsigned int i = 0; i < 5; i++)
		assert_int_equal(mm_vm_enough_memory(pool.mm, 1000, false), 0);
	assert_int_equal(mm_vm_committed(pool.mm), 5000);
	mm_set_total_swap_pages(pool.mm, 500);
	assert_int_equal(mm_vm_enough_memory(pool.mm, 1500, false), 0);
	assert_int_equal(mm_vm_enough_memory(pool.mm, UINT64_MAX, true), -ENOMEM);
	mm_setting_set(pool.mm, "overcommit_memory", 0, OVERCOMMIT_ALWAYS);
	assert_int_equal(mm_vm_enough_memory(pool.mm, 1000000, false), 0);
	mm_vm_unacct_memory(pool.mm, 1006500);
	assert_int_equal(mm_vm_committed(pool.mm), 0);
	pool_destroy(&pool);
}

static void test_overcommit_never(void **state)
{
	struct pool pool;
	uint64_t value;

	(void)state;
	pool_create_simple(&pool, 1000, 1);
	assert_int_equal(mm_setting_set(pool.mm, "overcommit_memory", 0, 3), -EINVAL);
	mm_setting_set(pool.mm, "overcommit_memory", 0, OVERCOMMIT_NEVER);
	assert_int_equal(mm_vm_commit_limit(pool.mm), 500);
	/* Four frames (8 MiB) are the administrator's. */
	assert_int_equal(mm_vm_enough_memory(pool.mm, 497, false), -ENOMEM);
	assert_int_equal(mm_vm_enough_memory(pool.mm, 496, false), 0);
	assert_int_equal(mm_vm_enough_memory(pool.mm, 1, false), -ENOMEM);
	assert_int_equal(mm_vm_enough_memory(pool.mm, 4, true), 0);
	assert_int_equal(mm_vm_enough_memory(pool.mm, 1, true), -ENOMEM);
	mm_setting_set(pool.mm, "admin_reserve_kbytes", 0, 0);
	mm_setting_set(pool.mm, "overcommit_kbytes", 0, 600 * 2048);
	mm_setting_get(pool.mm, "overcommit_ratio", 0, &value);
	assert_int_equal(value, 0);
	assert_int_equal(mm_vm_enough_memory(pool.mm, 100, false), 0);
	assert_int_equal(mm_vm_enough_memory(pool.mm, 1, false), -ENOMEM);
	mm_setting_set(pool.mm, "overcommit_ratio", 0, 150);
	mm_set_total_swap_pages(pool.mm, 10);
	assert_int_equal(mm_vm_commit_limit(pool.mm), 1510);
	pool_destroy(&pool);
}

static void *promise(void *arg)
{
	uintptr_t got = 0;

	for (unsigned int i = 0; i < 10000; i++)
		got += mm_vm_enough_memory(arg, 1, true) == 0;
	return (void *)got;
}

/* Two at a time never promise more than there is. */
static void test_overcommit_threads(void **state)
{
	pthread_t thread;
	struct pool pool;
	uintptr_t mine;
	void *other;

	(void)state;
	pool_create_simple(&pool, 24000, 1);
	mm_setting_set(pool.mm, "overcommit_memory", 0, OVERCOMMIT_NEVER);
	pthread_create(&thread, NULL, promise, pool.mm);
	mine = (uintptr_t)promise(pool.mm);
	pthread_join(thread, &other);
	assert_true(mine + (uintptr_t)other <= 12000);
	assert_int_equal(mine + (uintptr_t)other, mm_vm_committed(pool.mm));
	assert_true(mine + (uintptr_t)other > 11000);
	pool_destroy(&pool);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pagetypeinfo),      cmocka_unit_test(test_vmstat),
		cmocka_unit_test(test_vmstat_of_holders), cmocka_unit_test(test_meminfo),
		cmocka_unit_test(test_extfrag),           cmocka_unit_test(test_overcommit_guess),
		cmocka_unit_test(test_overcommit_never),  cmocka_unit_test(test_overcommit_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
