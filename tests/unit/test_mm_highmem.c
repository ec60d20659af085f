/* SPDX-License-Identifier: MIT */
/* Frames outside the permanent mapping (mm/highmem.c) and NUMA policies (mm/mempolicy.c). */
#include <errno.h>
#include <pthread.h>
#include <unistd.h>

#include "framevisor/highmem.h"
#include "framevisor/mempolicy.h"
#include "framevisor/vmscan.h"
#include "tests/unit/mm_pool.h"

#define LOW     16
#define HIGH    96
#define HIGHMEM (GFP_HIGHUSER | __GFP_NOWARN)

struct high_pool {
	struct pool pool;
	void *base;
	int fd;
};

/* Ordinary memory in a file; the first frames are mapped, the others are HIGHMEM. */
static void high_create(struct high_pool *high)
{
	struct mm_config config = {
		.nr_nodes = 1,
		.nr_cpus = 1,
		.node[0] = { .spanned = LOW + HIGH, .highmem = HIGH, .phys_base = PHYS_NORMAL },
	};

	high->fd = memfd_create("frames", MFD_CLOEXEC);
	assert_true(high->fd >= 0);
	assert_int_equal(ftruncate(high->fd, (off_t)((LOW + HIGH) * FRAME_SIZE)), 0);
	high->base = mmap(NULL, LOW * FRAME_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, high->fd, 0);
	assert_true(high->base != MAP_FAILED);
	config.node[0].base = high->base;
	pool_create(&high->pool, &config);
	assert_int_equal(mm_set_highmem_backing(high->pool.mm, 0, high->fd), 0);
	assert_int_equal(mm_online_pages(high->pool.mm, 0, 0, LOW + HIGH, false), 0);
}

static void high_destroy(struct high_pool *high)
{
	pool_destroy(&high->pool);
	munmap(high->base, LOW * FRAME_SIZE);
	close(high->fd);
}

static struct page *high_page(struct high_pool *high, gfp_t gfp)
{
	struct page *page = mm_alloc_pages(high->pool.mm, HIGHMEM | gfp, 0);

	assert_non_null(page);
	assert_int_equal(page_zonenum(page), ZONE_HIGHMEM);
	return page;
}

static uint64_t in_file(struct high_pool *high, const struct page *page)
{
	uint64_t value = 0;
	off_t at = (off_t)(mm_page_idx(high->pool.mm, page) * FRAME_SIZE + 4096);

	assert_int_equal(pread(high->fd, &value, sizeof(value), at), sizeof(value));
	return value;
}

/* What is written through the window is in the frame's place of the file, for every frame, also
 * when the window is smaller than the zone. */
static void test_kmap(void **state)
{
	static struct page *pages[HIGH];
	struct high_pool high;

	(void)state;
	high_create(&high);
	for (unsigned int i = 0; i < HIGH - 4; i++) {
		char *addr;

		pages[i] = high_page(&high, 0);
		assert_null(mm_page_address(high.pool.mm, pages[i]));
		addr = mm_kmap(high.pool.mm, pages[i]);
		assert_non_null(addr);
		assert_ptr_equal(mm_kmap(high.pool.mm, pages[i]), addr);
		*(uint64_t *)(void *)(addr + 4096) = i + 1000;
		mm_kunmap(high.pool.mm, pages[i]);
		mm_kunmap(high.pool.mm, pages[i]);
	}
	for (unsigned int i = 0; i < HIGH - 4; i++) {
		char *addr = mm_kmap_local(high.pool.mm, pages[i]);

		assert_int_equal(*(uint64_t *)(void *)(addr + 4096), i + 1000);
		mm_kunmap_local(high.pool.mm, addr);
		assert_int_equal(in_file(&high, pages[i]), i + 1000);
	}
	for (unsigned int i = 0; i < HIGH - 4; i++)
		mm_free_pages(high.pool.mm, pages[i], 0);
	assert_int_equal(high.pool.messages, 0);
	mm_kunmap_local(high.pool.mm, high.base);
	mm_kunmap(high.pool.mm, pages[HIGH - 5]);
	assert_int_equal(high.pool.messages, 1);
	high_destroy(&high);
}

/* A mapped frame has its own address; one of a metadata-only pool has none. */
static void test_kmap_lowmem(void **state)
{
	struct high_pool high;
	struct page *page;
	struct pool pool;

	(void)state;
	high_create(&high);
	page = mm_alloc_pages(high.pool.mm, GFP_KERNEL, 0);
	assert_ptr_equal(mm_kmap(high.pool.mm, page), mm_page_address(high.pool.mm, page));
	mm_kunmap(high.pool.mm, page);
	mm_free_pages(high.pool.mm, page, 0);
	assert_int_equal(mm_set_highmem_backing(high.pool.mm, 1, high.fd), -EINVAL);
	assert_int_equal(mm_set_highmem_backing(high.pool.mm, 0, -1), -EINVAL);
	high_destroy(&high);
	pool_create_simple(&pool, 64, 1);
	page = mm_alloc_pages(pool.mm, GFP_KERNEL, 0);
	assert_null(mm_kmap(pool.mm, page));
	assert_null(mm_kmap_local(pool.mm, page));
	mm_kunmap(pool.mm, page);
	mm_free_pages(pool.mm, page, 0);
	pool_destroy(&pool);
}

static void *kmap_thread(void *arg)
{
	struct page *page = *(struct page **)arg;

	return mm_kmap(mm_current, page);
}

/* kmap() waits for a slot, kmap_local() has some kept for it and says when they are gone. */
static void test_window_full(void **state)
{
	static struct page *pages[70];
	const void *local[17];
	struct high_pool high;
	pthread_t thread;
	void *addr;

	(void)state;
	high_create(&high);
	mm_use(high.pool.mm);
	for (unsigned int i = 0; i < 70; i++)
		pages[i] = high_page(&high, 0);
	for (unsigned int i = 0; i < 48; i++)
		assert_non_null(kmap(pages[i]));
	for (unsigned int i = 0; i < 16; i++)
		assert_non_null(local[i] = kmap_local_page(pages[48 + i]));
	assert_null(kmap_local_page(pages[64]));
	pthread_create(&thread, NULL, kmap_thread, &pages[65]);
	usleep(20000);
	kunmap(pages[7]);
	pthread_join(thread, &addr);
	assert_non_null(addr);
	kunmap(pages[65]);
	for (unsigned int i = 0; i < 48; i++)
		if (i != 7)
			kunmap(pages[i]);
	for (unsigned int i = 0; i < 16; i++)
		kunmap_local(local[i]);
	for (unsigned int i = 0; i < 70; i++)
		mm_free_pages(high.pool.mm, pages[i], 0);
	assert_int_equal(high.pool.messages, 0);
	high_destroy(&high);
}

/* __GFP_ZERO holds for frames that have no address, of any order. */
static void test_zeroed(void **state)
{
	static const char zero[4096];
	struct high_pool high;
	struct page *page;
	char *addr;

	(void)state;
	high_create(&high);
	for (unsigned int order = 0; order < 3; order++) {
		page = mm_alloc_pages(high.pool.mm, HIGHMEM, order);
		for (unsigned int i = 0; i < 1u << order; i++) {
			addr = mm_kmap(high.pool.mm, page + i);
			memset(addr, 0x5a, FRAME_SIZE);
			mm_kunmap(high.pool.mm, page + i);
		}
		mm_free_pages(high.pool.mm, page, order);
		page = mm_alloc_pages(high.pool.mm, HIGHMEM | __GFP_ZERO, order);
		for (unsigned int i = 0; i < 1u << order; i++) {
			addr = mm_kmap_local(high.pool.mm, page + i);
			for (uint64_t at = 0; at < FRAME_SIZE; at += sizeof(zero))
				assert_memory_equal(addr + at, zero, sizeof(zero));
			mm_kunmap_local(high.pool.mm, addr);
		}
		mm_free_pages(high.pool.mm, page, order);
	}
	high_destroy(&high);
}

/* An offlined frame is not kept mapped. */
static void test_offline(void **state)
{
	struct high_pool high;
	struct page *page;
	char *addr;
	unsigned char vec;

	(void)state;
	high_create(&high);
	page = high_page(&high, 0);
	addr = mm_kmap(high.pool.mm, page);
	*addr = 1;
	mm_kunmap(high.pool.mm, page);
	mm_free_pages(high.pool.mm, page, 0);
	assert_int_equal(mincore(addr, 4096, &vec), 0);
	assert_int_equal(vec & 1, 1);
	assert_int_equal(mm_offline_pages(high.pool.mm, 0, LOW, HIGH), 0);
	assert_int_equal(mincore(addr, 4096, &vec), 0);
	assert_int_equal(vec & 1, 0);
	high_destroy(&high);
}

static void create_nodes(struct pool *pool)
{
	struct mm_config config = {
		.nr_nodes = 3,
		.nr_cpus = 3,
		.node = { { .spanned = 64, .phys_base = PHYS_NORMAL },
			  { .spanned = 64, .phys_base = PHYS_NORMAL },
			  { .spanned = 64, .phys_base = PHYS_NORMAL } },
		.distance = { { 10, 40, 20 }, { 40, 10, 30 }, { 20, 30, 10 } },
	};

	pool_create(pool, &config);
	for (unsigned int nid = 0; nid < 3; nid++) {
		mm_online_pages(pool->mm, nid, 0, 64, false);
		mm_set_cpu_node(pool->mm, nid, nid);
	}
	mm_set_cpu(0);
}

/* The node that the next frame comes from; it stays allocated. -1: none. */
static int next_nid(struct pool *pool, struct mempolicy *policy)
{
	struct page *page = mm_alloc_pages_policy(pool->mm, policy, GFP_NOWAIT, 0);

	return page ? (int)page_to_nid(page) : -1;
}

static void end_nodes(struct pool *pool)
{
	mm_set_cpu(-1);
	pool_validate(pool);
	mm_destroy(pool->mm);
	free(pool->metadata);
}

static void test_policies(void **state)
{
	struct mempolicy bind = { .mode = POLICY_BIND, .nodes = 6 };
	struct mempolicy preferred = { .mode = POLICY_PREFERRED, .nodes = 2 };
	struct mempolicy local = { .mode = POLICY_LOCAL };
	struct mempolicy nowhere = { .mode = POLICY_BIND, .nodes = 8 };
	struct pool pool;
	unsigned int from_1 = 0;
	int nid;

	(void)state;
	create_nodes(&pool);
	assert_int_equal(next_nid(&pool, &local), 0);
	assert_int_equal(next_nid(&pool, NULL), 0);
	assert_int_equal(next_nid(&pool, &nowhere), -1);
	assert_int_equal(next_nid(&pool, &preferred), 1);
	/* Node 2 is nearer to node 0 than node 1: its frames come first, then both to the end. */
	for (unsigned int i = 0; i < 50; i++)
		assert_int_equal(next_nid(&pool, &bind), 2);
	while ((nid = next_nid(&pool, &bind)) >= 0) {
		assert_in_range(nid, 1, 2);
		from_1 += nid == 1;
	}
	assert_true(from_1 > 50);
	/* What is preferred is full: elsewhere. */
	assert_int_equal(next_nid(&pool, &preferred), 0);
	end_nodes(&pool);
}

static void test_interleave(void **state)
{
	struct mempolicy policy = { .mode = POLICY_INTERLEAVE, .nodes = 5 };
	struct mempolicy all = { .mode = POLICY_INTERLEAVE, .nodes = ~UINT64_C(0) };
	struct pool pool;

	(void)state;
	create_nodes(&pool);
	for (unsigned int i = 0; i < 5; i++) {
		assert_int_equal(next_nid(&pool, &policy), 0);
		assert_int_equal(next_nid(&pool, &policy), 2);
	}
	for (unsigned int i = 0; i < 6; i++)
		assert_int_equal(next_nid(&pool, &all), i % 3);
	end_nodes(&pool);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_kmap),        cmocka_unit_test(test_kmap_lowmem),
		cmocka_unit_test(test_window_full), cmocka_unit_test(test_zeroed),
		cmocka_unit_test(test_offline),     cmocka_unit_test(test_policies),
		cmocka_unit_test(test_interleave),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
