/* SPDX-License-Identifier: MIT */
/* Areas of scattered frames: content, gaps, look-up, exhaustion, reports. */
#include "slab_fixture.h"

#include <errno.h>
#include <pthread.h>

#include "framevisor/backing.h"
#include "framevisor/vmalloc.h"

static struct pool *start(unsigned int nr_nodes, uint64_t frames, uint64_t window)
{
	struct pool *pool = pool_create(nr_nodes, frames, 2, 0);
	struct vmalloc_config config = { .window_frames = window };

	for (unsigned int nid = 0; nid < MAX_NUMNODES; nid++)
		config.fd[nid] = nid < nr_nodes ? pool->fd[nid] : -1;
	assert_int_equal(mm_vmalloc_init(pool->mm, &config), 0);
	assert_int_equal(mm_vmalloc_init(pool->mm, &config), -EBUSY);
	return pool;
}

static void finish(struct pool *pool)
{
	assert_int_equal(mm_vmalloc_exit(pool->mm), 0);
	pool_destroy(pool);
}

/* Whether a load from addr faults: asked of the kernel. */
static bool accessible(const void *addr)
{
	int fds[2];
	bool ok;

	assert_int_equal(pipe(fds), 0);
	ok = write(fds[1], addr, 1) == 1;
	close(fds[0]);
	close(fds[1]);
	return ok;
}

/* Frames in reverse order of address, so that no two can be mapped as one. */
static void scatter(struct pool *pool, struct page **held, int nr)
{
	for (int i = 0; i < nr; i++) {
		held[i] = mm_alloc_pages(pool->mm, GFP_KERNEL, 0);
		assert_non_null(held[i]);
	}
	for (int i = 0; i < nr; i += 2) {
		mm_free_pages(pool->mm, held[i], 0);
		held[i] = NULL;
	}
	mm_drain_all_pages(pool->mm);
}

static void test_scattered(void **state)
{
	struct pool *pool = start(1, 64, 0);
	struct page *held[50];
	uint64_t *area;
	bool apart = false;

	(void)state;
	scatter(pool, held, 50);
	area = vmalloc(20 * FRAME_SIZE - 100);
	assert_non_null(area);
	for (size_t i = 0; i < 20 * FRAME_SIZE / 8; i += 512)
		area[i] = i * 3 + 1;
	for (size_t i = 0; i < 20 * FRAME_SIZE / 8; i += 512)
		assert_int_equal(area[i], i * 3 + 1);
	/* It is the frames that the pool says it is, seen through its own mapping. */
	for (size_t f = 0; f < 20; f++) {
		char *addr = (char *)area + f * FRAME_SIZE;
		struct page *page = vmalloc_to_page(addr + 12345);
		const uint64_t *frame;

		assert_non_null(page);
		frame = mm_page_address(pool->mm, page);
		assert_int_equal(frame[512], (f * FRAME_SIZE / 8 + 512) * 3 + 1);
		assert_true(page_test(page, PAGE_FLAG(vmalloc)));
		if (f && page != vmalloc_to_page(addr - 1) + 1)
			apart = true;
	}
	assert_true(apart);
	vfree(area);
	for (int i = 1; i < 50; i += 2)
		mm_free_pages(pool->mm, held[i], 0);
	finish(pool);
}

static void test_zeroed(void **state)
{
	struct pool *pool = start(1, 32, 0);

	(void)state;
	/* More than the pool has: frames that were written to come again. */
	for (int round = 0; round < 6; round++) {
		uint64_t *area = vzalloc(10 * FRAME_SIZE);

		assert_non_null(area);
		for (size_t i = 0; i < 10 * FRAME_SIZE / 8; i++) {
			if (area[i])
				fail_msg("word %zu is not zero", i);
		}
		memset(area, 0xab, 10 * FRAME_SIZE);
		vfree(area);
	}
	finish(pool);
}

static void test_gaps(void **state)
{
	struct pool *pool = start(1, 64, 0);
	char *areas[5];

	(void)state;
	for (int i = 0; i < 5; i++) {
		areas[i] = vmalloc((size_t)(i + 1) * FRAME_SIZE);
		assert_non_null(areas[i]);
		memset(areas[i], i, (size_t)(i + 1) * FRAME_SIZE);
	}
	for (int i = 0; i < 5; i++) {
		char *end = areas[i] + (size_t)(i + 1) * FRAME_SIZE;

		assert_true(is_vmalloc_addr(areas[i]));
		assert_true(accessible(end - 1));
		assert_false(accessible(end));
		assert_false(accessible(end + FRAME_SIZE - 1));
		assert_null(vmalloc_to_page(end));
		assert_non_null(vmalloc_to_page(end - 1));
	}
	for (int i = 0; i < 5; i++) {
		vfree(areas[i]);
		assert_false(accessible(areas[i]));
		assert_null(vmalloc_to_page(areas[i]));
		assert_true(is_vmalloc_addr(areas[i]));
	}
	assert_false(is_vmalloc_addr(pool));
	assert_null(vmalloc_to_page(pool));
	finish(pool);
}

static void test_wrong_frees(void **state)
{
	struct pool *pool = start(1, 32, 0);
	char *area = vmalloc(3 * FRAME_SIZE);

	(void)state;
	vfree(NULL);
	vfree(area + FRAME_SIZE);
	pool_expect(pool, "not the start of an area");
	vfree(area + 1);
	pool_expect(pool, "not the start of an area");
	vfree(pool);
	pool_expect(pool, "not the start of an area");
	area[3 * FRAME_SIZE - 1] = 1;
	vfree(area);
	vfree(area);
	pool_expect(pool, "not the start of an area");
	finish(pool);
}

/* No frames, no room: NULL, nothing lost. */
static void test_exhaustion(void **state)
{
	struct pool *pool = start(1, 32, 12);
	uint64_t before = pool_allocated(pool);
	struct page *held[32];
	void *areas[12];
	int nr = 0;

	(void)state;
	assert_null(vmalloc(0));
	assert_null(vmalloc(SIZE_MAX));
	assert_null(vmalloc(12 * FRAME_SIZE)); /* no room for its gap */
	while ((areas[nr] = vmalloc(FRAME_SIZE)) != NULL)
		nr++;
	assert_int_equal(nr, 6);
	/* A hole of one area is found again, one of two fits what is larger. */
	vfree(areas[1]);
	vfree(areas[2]);
	areas[1] = vmalloc(3 * FRAME_SIZE);
	assert_non_null(areas[1]);
	areas[2] = NULL;
	for (int i = 0; i < nr; i++)
		vfree(areas[i]);
	areas[0] = vmalloc(11 * FRAME_SIZE);
	assert_non_null(areas[0]);
	vfree(areas[0]);
	pool_validate(pool);

	for (nr = 0; nr < 32; nr++) {
		held[nr] = mm_alloc_pages(pool->mm, GFP_NOWAIT, 0);
		if (!held[nr])
			break;
	}
	mm_free_pages(pool->mm, held[--nr], 0);
	mm_free_pages(pool->mm, held[--nr], 0);
	assert_null(mm_vmalloc_node(pool->mm, 5 * FRAME_SIZE, GFP_NOWAIT, NUMA_NO_NODE));
	while (nr)
		mm_free_pages(pool->mm, held[--nr], 0);
	assert_int_equal(pool_allocated(pool), before);
	pool_validate(pool);
	finish(pool);
}

static void test_nodes(void **state)
{
	struct pool *pool = start(2, 32, 0);
	char *area = mm_vmalloc_node(pool->mm, 8 * FRAME_SIZE, GFP_KERNEL | __GFP_THISNODE, 1);
	char text[1024];

	(void)state;
	assert_non_null(area);
	for (size_t f = 0; f < 8; f++)
		assert_int_equal(page_to_nid(vmalloc_to_page(area + f * FRAME_SIZE)), 1);
	mm_report_vmallocinfo(pool->mm, text, sizeof(text));
	assert_non_null(strstr(text, " N1=8\n"));
	assert_null(mm_vmalloc_node(pool->mm, FRAME_SIZE, GFP_KERNEL, 2));
	vfree(area);
	/* More than one node has: both. */
	area = mm_vmalloc_node(pool->mm, 40 * FRAME_SIZE, GFP_KERNEL, 1);
	assert_non_null(area);
	memset(area, 1, 40 * FRAME_SIZE);
	mm_report_vmallocinfo(pool->mm, text, sizeof(text));
	assert_non_null(strstr(text, " N0="));
	assert_non_null(strstr(text, " N1="));
	vfree(area);
	finish(pool);
}

static void test_vread(void **state)
{
	struct pool *pool = start(1, 32, 0);
	char *one = vmalloc(FRAME_SIZE);
	char *two = vmalloc(FRAME_SIZE);
	char *buf = malloc(5 * FRAME_SIZE);

	(void)state;
	memset(one, 1, FRAME_SIZE);
	memset(two, 2, FRAME_SIZE);
	assert_ptr_equal(two, one + 2 * FRAME_SIZE);
	memset(buf, 9, 5 * FRAME_SIZE);
	assert_int_equal(mm_vread(pool->mm, buf, one + 100, 4 * FRAME_SIZE), 4 * FRAME_SIZE);
	assert_int_equal(buf[0], 1);
	assert_int_equal(buf[FRAME_SIZE - 101], 1);
	assert_int_equal(buf[FRAME_SIZE - 100], 0); /* the gap */
	assert_int_equal(buf[2 * FRAME_SIZE - 100], 2);
	assert_int_equal(buf[3 * FRAME_SIZE - 101], 2);
	assert_int_equal(buf[3 * FRAME_SIZE - 100], 0);
	assert_int_equal(buf[4 * FRAME_SIZE], 9);
	assert_int_equal(mm_vread(pool->mm, buf, one + FRAME_SIZE, FRAME_SIZE), 0);
	assert_int_equal(mm_vread(pool->mm, buf, buf, 100), 0);
	assert_int_equal(mm_vread(pool->mm, buf, one, SIZE_MAX), 0);
	free(buf);
	vfree(one);
	vfree(two);
	finish(pool);
}

static void test_report_and_leaks(void **state)
{
	struct pool *pool = start(1, 32, 0);
	char *area = vmalloc(3 * FRAME_SIZE);
	unsigned long from, to, size, pages;
	char text[1024];
	void *caller;
	int len = mm_report_vmallocinfo(pool->mm, text, sizeof(text));

	(void)state;
	assert_int_equal(len, strlen(text));
	assert_int_equal(sscanf(text, "0x%lx-0x%lx %lu %p pages=%lu vmalloc N0=3", &from, &to,
				&size, &caller, &pages),
			 5);
	assert_int_equal(from, (uintptr_t)area);
	assert_int_equal(to - from, size);
	assert_int_equal(size, 4 * FRAME_SIZE); /* with the gap, as in the kernel */
	assert_int_equal(pages, 3);
	assert_int_equal(mm_vmalloc_exit(pool->mm), 1);
	pool_expect(pool, "of 3 frames");
	assert_null(vmalloc(FRAME_SIZE));
	assert_false(is_vmalloc_addr(area));
	pool_destroy(pool);
}

static void test_no_memory_behind(void **state)
{
	struct pool *pool = pool_create(1, 16, 1, 0);
	struct vmalloc_config config;

	(void)state;
	for (int i = 0; i < MAX_NUMNODES; i++)
		config.fd[i] = -1;
	config.window_frames = 0;
	assert_null(vmalloc(FRAME_SIZE));
	assert_int_equal(mm_vmalloc_init(pool->mm, &config), -ENODEV);
	vfree(pool);
	pool_expect(pool, "not the start of an area");
	pool_destroy(pool);
}

/* The frames of a real node of the pool owner: backing.c says where a frame is in the file. */
static void test_backing(void **state)
{
	struct vmalloc_config vconfig = { .window_frames = 0 };
	struct mm_config config = { .nr_nodes = 1, .nr_cpus = 1, .min_free_kbytes = 1 };
	struct backing *backing;
	void *metadata;
	char *area;
	struct mm *mm;
	size_t size;

	(void)state;
	assert_int_equal(backing_create(-1, 16, false, &backing, NULL), 0);
	assert_int_equal(backing_populate(backing, 0, 16, NULL, NULL, NULL), 0);
	config.node[0].spanned = 16;
	config.node[0].base = backing_base(backing);
	config.node[0].phys_base = 1 << 20;
	size = (mm_metadata_size(&config) + 63) & ~(size_t)63;
	metadata = aligned_alloc(64, size);
	memset(metadata, 0, size);
	mm = mm_init(&config, metadata, size);
	assert_int_equal(mm_online_pages(mm, 0, 0, 16, true), 0);
	for (int i = 0; i < MAX_NUMNODES; i++)
		vconfig.fd[i] = i ? -1 : backing_fd(backing);
	assert_int_equal(mm_vmalloc_init(mm, &vconfig), 0);
	area = mm_vzalloc(mm, 5 * FRAME_SIZE);
	assert_non_null(area);
	memset(area, 0x5d, 5 * FRAME_SIZE);
	for (size_t f = 0; f < 5; f++) {
		const char *frame =
			mm_page_address(mm, mm_vmalloc_to_page(mm, area + f * FRAME_SIZE));

		assert_int_equal(frame[0], 0x5d);
		assert_int_equal(frame[FRAME_SIZE - 1], 0x5d);
	}
	mm_vfree(mm, area);
	assert_int_equal(mm_vmalloc_exit(mm), 0);
	assert_int_equal(kmem_cache_exit(mm), 0);
	mm_destroy(mm);
	free(metadata);
	backing_destroy(backing);
}

static void *worker(void *arg)
{
	struct pool *pool = arg;
	unsigned int seed = (unsigned int)(uintptr_t)&seed;

	for (int i = 0; i < 100; i++) {
		size_t size = (size_t)(rand_r(&seed) % 4 + 1) * FRAME_SIZE;
		unsigned char *area = mm_vmalloc(pool->mm, size);
		unsigned char byte;

		if (!area)
			continue;
		area[size - 1] = (unsigned char)i;
		assert_int_equal(mm_vread(pool->mm, &byte, area + size - 1, 1), 1);
		assert_int_equal(byte, i & 0xff);
		mm_vfree(pool->mm, area);
	}
	return NULL;
}

static void test_threads(void **state)
{
	struct pool *pool = start(1, 64, 0);
	pthread_t threads[4];

	(void)state;
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, worker, pool), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	finish(pool);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_scattered),
		cmocka_unit_test(test_zeroed),
		cmocka_unit_test(test_gaps),
		cmocka_unit_test(test_wrong_frees),
		cmocka_unit_test(test_exhaustion),
		cmocka_unit_test(test_nodes),
		cmocka_unit_test(test_vread),
		cmocka_unit_test(test_report_and_leaks),
		cmocka_unit_test(test_no_memory_behind),
		cmocka_unit_test(test_backing),
		cmocka_unit_test(test_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
