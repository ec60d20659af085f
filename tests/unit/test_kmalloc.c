/* SPDX-License-Identifier: MIT */
/* General memory: all sizes, alignment, kinds of memory, resizing, wrong pointers. */
#include "slab_fixture.h"

#include <pthread.h>

#define THREADS 4

static void test_sizes(void **state)
{
	struct pool *pool = pool_create(1, 64, 2, 0);
	size_t size = 1;

	(void)state;
	while (size <= 9 * FRAME_SIZE) {
		unsigned char *ptr = kmalloc(size, GFP_KERNEL);
		size_t usable = ksize(ptr);

		assert_non_null(ptr);
		assert_true(usable >= size);
		/* Little waste in the classes: at most half, or a block of frames. */
		if (size > 8 && size <= KMALLOC_MAX_CACHE_SIZE)
			assert_true(usable < 2 * size);
		if ((size & (size - 1)) == 0 && size >= 8)
			assert_int_equal((uintptr_t)ptr % (size < FRAME_SIZE ? size : FRAME_SIZE),
					 0);
		assert_int_equal((uintptr_t)ptr % 8, 0);
		memset(ptr, 0x3c, usable);
		kfree(ptr);
		size = size < 300 ? size + 1 : size + size / 7;
	}
	for (size = 8; size <= 4 * FRAME_SIZE; size *= 2) {
		void *ptr = kmalloc(size, GFP_KERNEL);

		assert_int_equal(ksize(ptr), size);
		kfree(ptr);
	}
	pool_destroy(pool);
}

static void test_zero(void **state)
{
	static const size_t sizes[] = { 7, 100, 4096, 70000, FRAME_SIZE_2M, 3 * FRAME_SIZE_2M };
	struct pool *pool = pool_create(1, 64, 2, 0);

	(void)state;
	for (int i = 0; i < 6; i++) {
		for (int round = 0; round < 3; round++) {
			unsigned char *ptr = kzalloc(sizes[i], GFP_KERNEL);

			assert_non_null(ptr);
			for (size_t b = 0; b < sizes[i]; b++) {
				if (ptr[b])
					fail_msg("byte %zu of %zu is not zero", b, sizes[i]);
			}
			memset(ptr, 0xee, sizes[i]);
			kfree(ptr);
		}
	}
	pool_destroy(pool);
}

static void test_limits(void **state)
{
	struct pool *pool = pool_create(1, 64, 2, 0);
	void *ptr = kmalloc(0, GFP_KERNEL);

	(void)state;
	assert_ptr_equal(ptr, ZERO_SIZE_PTR);
	assert_int_equal(ksize(ptr), 0);
	assert_int_equal(ksize(NULL), 0);
	kfree(ptr);
	kfree(NULL);
	assert_null(kmalloc(KMALLOC_MAX_SIZE + 1, GFP_KERNEL));
	assert_null(kmalloc(SIZE_MAX, GFP_KERNEL));
	assert_null(kmalloc(KMALLOC_MAX_SIZE, GFP_NOWAIT)); /* more than the pool */
	assert_null(kcalloc(SIZE_MAX / 8, 9, GFP_KERNEL));
	/* The product of these is 16, as far as a word can say. */
	assert_null(kcalloc(SIZE_MAX / 16 + 2, 16, GFP_KERNEL));
	ptr = kcalloc(100, 30, GFP_KERNEL);
	assert_true(ksize(ptr) >= 3000);
	kfree(ptr);
	pool_destroy(pool);
}

static void test_krealloc(void **state)
{
	struct pool *pool = pool_create(1, 64, 2, 0);
	unsigned char *ptr = krealloc(NULL, 10, GFP_KERNEL);
	size_t size = 10;

	(void)state;
	for (size_t i = 0; i < size; i++)
		ptr[i] = (unsigned char)i;
	while (size < 5 * FRAME_SIZE) {
		size_t larger = size * 3 / 2;

		ptr = krealloc(ptr, larger, GFP_KERNEL);
		assert_non_null(ptr);
		for (size_t i = 0; i < size; i += 1 + size / 1000)
			assert_int_equal(ptr[i], i & 0xff);
		for (size_t i = size; i < larger; i++)
			ptr[i] = (unsigned char)i;
		size = larger;
	}
	/* Smaller again: large blocks give frames back. */
	ptr = krealloc(ptr, 1000, GFP_KERNEL);
	assert_true(ksize(ptr) < FRAME_SIZE);
	for (size_t i = 0; i < 1000; i++)
		assert_int_equal(ptr[i], i & 0xff);
	assert_ptr_equal(krealloc(ptr, 600, GFP_KERNEL), ptr);
	/* What cannot be had leaves everything as it was. */
	assert_null(krealloc(ptr, KMALLOC_MAX_SIZE, GFP_NOWAIT | __GFP_NOWARN));
	assert_int_equal(ptr[599], 599 & 0xff);
	assert_ptr_equal(krealloc(ptr, 0, GFP_KERNEL), ZERO_SIZE_PTR);
	pool_destroy(pool);
}

/* Zone of the frame under a pointer. */
static unsigned int zone_of(struct pool *pool, const void *ptr)
{
	return page_zonenum(mm_virt_to_page(pool->mm, ptr));
}

static void test_kinds(void **state)
{
	/* Frames 2044..: a pool on both sides of 4 GiB; one at the bottom. */
	struct pool *pool = pool_create_at(1, 64, 2, 0, 2048 - 16);
	void *normal = kmalloc(100, GFP_KERNEL);
	void *low = kmalloc(100, GFP_KERNEL | __GFP_DMA32);
	void *reclaimable = kmalloc(100, GFP_KERNEL | __GFP_RECLAIMABLE);
	void *large = kmalloc(2 * FRAME_SIZE, GFP_KERNEL | __GFP_DMA32);

	(void)state;
	assert_non_null(normal);
	assert_non_null(low);
	assert_non_null(reclaimable);
	assert_int_equal(zone_of(pool, normal), ZONE_NORMAL);
	assert_int_equal(zone_of(pool, low), ZONE_DMA32);
	assert_int_equal(zone_of(pool, large), ZONE_DMA32);
	assert_int_not_equal((uintptr_t)normal >> FRAME_SHIFT,
			     (uintptr_t)reclaimable >> FRAME_SHIFT);
	assert_null(kmalloc(100, GFP_KERNEL | __GFP_DMA | __GFP_NOWARN));
	kfree(normal);
	kfree(low);
	kfree(reclaimable);
	kfree(large);
	pool_destroy(pool);

	pool = pool_create_at(1, 64, 2, 0, 0);
	low = kmalloc(100, GFP_KERNEL | __GFP_DMA);
	assert_non_null(low);
	assert_int_equal(zone_of(pool, low), ZONE_DMA);
	kfree(low);
	pool_destroy(pool);
}

static void test_objects_of_caches(void **state)
{
	struct pool *pool = pool_create(1, 16, 2, 0);
	struct kmem_cache *cache = kmem_cache_create(pool->mm, "own", 72, 0, 0, NULL);
	void *object = kmem_cache_alloc(cache, GFP_KERNEL);

	(void)state;
	assert_int_equal(ksize(object), 72);
	kfree(object);
	assert_int_equal(kmem_cache_destroy(cache), 0);
	pool_destroy(pool);
}

static void test_wrong_pointers(void **state)
{
	struct pool *pool = pool_create(1, 32, 2, 0);
	int on_stack = 0;
	struct page *page = mm_alloc_pages(pool->mm, GFP_KERNEL, 0);
	void *large = kmalloc(2 * FRAME_SIZE, GFP_KERNEL);

	(void)state;
	kfree(kmalloc(8, GFP_KERNEL));
	kfree(&on_stack);
	pool_expect(pool, "is not from kmalloc");
	/* A frame of somebody else. */
	kfree(mm_page_address(pool->mm, page));
	pool_expect(pool, "is not from kmalloc");
	kfree((char *)mm_page_address(pool->mm, page) + 64);
	pool_expect(pool, "is not from kmalloc");
	assert_int_equal(ksize(mm_page_address(pool->mm, page)), 0);
	assert_null(krealloc(mm_page_address(pool->mm, page), 10, GFP_KERNEL));
	mm_free_pages(pool->mm, page, 0);
	/* The middle of a block, and a block twice. */
	kfree((char *)large + FRAME_SIZE);
	pool_expect(pool, "is not from kmalloc");
	kfree(large);
	kfree(large);
	pool_expect(pool, "is not from kmalloc");
	assert_int_equal(mm_slab_errors(pool->mm), 5);
	pool_destroy(pool);
}

/* With MM_DEBUG_POISON the bytes beyond the size asked for are guarded, not only the class. */
static void test_debug(void **state)
{
	struct pool *pool = pool_create(1, 64, 2, MM_DEBUG_POISON);
	unsigned char *ptr = kmalloc(100, GFP_KERNEL);

	(void)state;
	assert_int_equal(ksize(ptr), 100);
	memset(ptr, 1, 100);
	kfree(ptr);
	pool_validate(pool);
	assert_int_equal(pool->used, 0);

	ptr = kmalloc(100, GFP_KERNEL);
	ptr[100] = 1;
	kfree(ptr);
	assert_non_null(strstr(pool->messages, "kmalloc-128"));
	pool_expect(pool, "write beyond the object (byte +100 is 0x01)");

	ptr = kmalloc(100, GFP_KERNEL);
	assert_ptr_equal(krealloc(ptr, 120, GFP_KERNEL), ptr);
	ptr[119] = 1;
	kfree(ptr);
	assert_int_equal(pool->used, 0);
	kfree(ptr);
	pool_expect(pool, "double free");
	for (size_t size = 1; size <= KMALLOC_MAX_CACHE_SIZE; size = size * 2 + 1) {
		ptr = kzalloc(size, GFP_KERNEL);
		for (size_t i = 0; i < size; i++)
			assert_int_equal(ptr[i], 0);
		memset(ptr, 1, size);
		kfree(ptr);
	}
	pool_destroy(pool);
}

struct starter {
	pthread_t thread;
	pthread_barrier_t *barrier;
	void *last; /* for another thread to free */
};

static void *first_use(void *arg)
{
	struct starter *starter = arg;

	pthread_barrier_wait(starter->barrier);
	for (size_t size = 8; size <= 70000; size *= 3) {
		void *ptr = kmalloc(size, GFP_KERNEL);

		assert_non_null(ptr);
		memset(ptr, 1, size);
		kfree(ptr);
	}
	starter->last = kmalloc(3 * FRAME_SIZE, GFP_KERNEL);
	pthread_barrier_wait(starter->barrier);
	kfree(starter[1].last);
	return NULL;
}

/* The slab part, its caches and sheaves are made by whoever comes first, while others free already.
 */
static void test_first_use_by_threads(void **state)
{
	(void)state;
	for (unsigned int round = 0; round < 30; round++) {
		struct pool *pool = pool_create(1, 64, 2, 0);
		struct starter starters[THREADS + 1] = { 0 };
		pthread_barrier_t barrier;

		pthread_barrier_init(&barrier, NULL, THREADS);
		for (unsigned int i = 0; i < THREADS; i++) {
			starters[i].barrier = &barrier;
			assert_int_equal(
				pthread_create(&starters[i].thread, NULL, first_use, &starters[i]),
				0);
		}
		for (unsigned int i = 0; i < THREADS; i++)
			pthread_join(starters[i].thread, NULL);
		kfree(starters[0].last);
		assert_int_equal(pool->used, 0);
		pthread_barrier_destroy(&barrier);
		pool_destroy(pool);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_zero),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_krealloc),
		cmocka_unit_test(test_kinds),
		cmocka_unit_test(test_objects_of_caches),
		cmocka_unit_test(test_wrong_pointers),
		cmocka_unit_test(test_debug),
		cmocka_unit_test(test_first_use_by_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
