/* SPDX-License-Identifier: MIT */
/* What goes wrong with objects is found, reported with its history, and not handed out again. */
#include "slab_fixture.h"
#include "tests/unit/skip.h"

struct fixture {
	struct pool *pool;
	struct kmem_cache *cache;
};

static void set_up(struct fixture *fixture, slab_flags_t flags)
{
	fixture->pool = pool_create(1, 16, 2, 0);
	fixture->cache = kmem_cache_create(fixture->pool->mm, "victim", 60, 0, flags, NULL);
	assert_non_null(fixture->cache);
}

/* Counters hold, the object is never seen again, the cache can be destroyed and all frames come
 * back. */
static void tear_down(struct fixture *fixture, const void *quarantined, uint64_t errors)
{
	void *objects[2000];

	assert_int_equal(mm_slab_errors(fixture->pool->mm), errors);
	pool_validate(fixture->pool);
	assert_int_equal(kmem_cache_alloc_bulk(fixture->cache, GFP_KERNEL, 2000, objects), 2000);
	for (int i = 0; i < 2000; i++)
		assert_ptr_not_equal(objects[i], quarantined);
	kmem_cache_free_bulk(fixture->cache, 2000, objects);
	pool_validate(fixture->pool);
	assert_int_equal(kmem_cache_destroy(fixture->cache), 0);
	pool_destroy(fixture->pool);
}

static void test_clean(void **state)
{
	static const slab_flags_t flags[] = { SLAB_RED_ZONE, SLAB_POISON, SLAB_STORE_USER,
					      SLAB_DEBUG_FLAGS };

	(void)state;
	for (int f = 0; f < 4; f++) {
		struct fixture fixture;
		void *objects[500];

		set_up(&fixture, flags[f]);
		for (int round = 0; round < 3; round++) {
			for (int i = 0; i < 500; i++) {
				objects[i] = kmem_cache_alloc(fixture.cache, GFP_KERNEL);
				assert_non_null(objects[i]);
				if (flags[f] & SLAB_POISON)
					assert_int_equal(*(unsigned char *)objects[i],
							 POISON_INUSE);
				memset(objects[i], i, 60);
			}
			for (int i = 0; i < 500; i++) {
				assert_int_equal(((unsigned char *)objects[i])[59], i & 0xff);
				kmem_cache_free(fixture.cache, objects[i]);
			}
		}
		tear_down(&fixture, NULL, 0);
	}
}

static void test_double_free(void **state)
{
	struct fixture fixture;
	void *object;

	(void)state;
	set_up(&fixture, SLAB_DEBUG_FLAGS);
	object = kmem_cache_alloc(fixture.cache, GFP_KERNEL);
	kmem_cache_free(fixture.cache, object);
	kmem_cache_free(fixture.cache, object);
	assert_non_null(strstr(fixture.pool->messages, "allocated by"));
	assert_non_null(strstr(fixture.pool->messages, "freed by"));
	pool_expect(fixture.pool, "cache victim: double free: object 0x");
	/* And once more: known. */
	kmem_cache_free(fixture.cache, object);
	pool_expect(fixture.pool, "free of a quarantined object");
	tear_down(&fixture, object, 2);
}

/* Also while the slab is in use otherwise. */
static void test_double_free_in_bulk(void **state)
{
	struct fixture fixture;
	void *objects[100];

	(void)state;
	set_up(&fixture, SLAB_STORE_USER);
	assert_int_equal(kmem_cache_alloc_bulk(fixture.cache, GFP_KERNEL, 100, objects), 100);
	kmem_cache_free(fixture.cache, objects[42]);
	kmem_cache_free_bulk(fixture.cache, 100, objects);
	pool_expect(fixture.pool, "double free");
	tear_down(&fixture, objects[42], 1);
}

/* Without debug flags it is found when the object comes out of the sheaf a second time. */
static void test_double_free_without_debug(void **state)
{
	struct fixture fixture;
	void *objects[400];

	(void)state;
#ifdef __SANITIZE_ADDRESS__
	skip_because("AddressSanitizer is faster: test_slab_asan.c");
#endif
	set_up(&fixture, 0);
	assert_int_equal(kmem_cache_alloc_bulk(fixture.cache, GFP_KERNEL, 400, objects), 400);
	for (int i = 0; i < 400; i++)
		kmem_cache_free(fixture.cache, objects[i]);
	kmem_cache_shrink(fixture.cache);
	objects[1] = kmem_cache_alloc(fixture.cache, GFP_KERNEL);
	objects[0] = kmem_cache_alloc(fixture.cache, GFP_KERNEL);
	kmem_cache_free(fixture.cache, objects[0]);
	kmem_cache_shrink(fixture.cache);
	kmem_cache_free(fixture.cache, objects[0]);
	kmem_cache_shrink(fixture.cache);
	pool_expect(fixture.pool, "double free");
	kmem_cache_free(fixture.cache, objects[1]);
	tear_down(&fixture, objects[0], 1);
}

static void test_overrun(void **state)
{
	struct fixture fixture;
	unsigned char *object;

	(void)state;
	set_up(&fixture, SLAB_RED_ZONE | SLAB_STORE_USER);
	object = kmem_cache_alloc(fixture.cache, GFP_KERNEL);
	memset(object, 0, 61);
	kmem_cache_free(fixture.cache, object);
	pool_expect(fixture.pool, "write beyond the object (byte +60 is 0x00)");
	tear_down(&fixture, object, 1);
}

static void test_long_overrun(void **state)
{
	struct fixture fixture;
	unsigned char *object;

	(void)state;
	set_up(&fixture, SLAB_RED_ZONE);
	object = kmem_cache_alloc(fixture.cache, GFP_KERNEL);
	memset(object + 60, 0xcc, 12); /* the guard's own pattern, and on */
	memset(object + 72, 0xff, 8);
	kmem_cache_free(fixture.cache, object);
	pool_expect(fixture.pool, "write beyond the object");
	tear_down(&fixture, object, 1);
}

static void test_underrun(void **state)
{
	struct fixture fixture;
	unsigned char *object;

	(void)state;
	set_up(&fixture, SLAB_RED_ZONE);
	object = kmem_cache_alloc(fixture.cache, GFP_KERNEL);
	object[-1] = 1;
	kmem_cache_free(fixture.cache, object);
	pool_expect(fixture.pool, "write before the object (byte -1 is 0x01)");
	tear_down(&fixture, object, 1);
}

static void test_write_after_free(void **state)
{
	for (int byte = 0; byte < 60; byte += 59) {
		struct fixture fixture;
		unsigned char *object;
		char text[64];

		(void)state;
		set_up(&fixture, SLAB_POISON | SLAB_STORE_USER);
		object = kmem_cache_alloc(fixture.cache, GFP_KERNEL);
		kmem_cache_free(fixture.cache, object);
		object[byte] = 0x42;
		assert_ptr_not_equal(kmem_cache_alloc(fixture.cache, GFP_KERNEL), object);
		snprintf(text, sizeof(text), "write after free (byte +%d is 0x42)", byte);
		pool_expect(fixture.pool, text);
		assert_int_equal(kmem_cache_destroy(fixture.cache), -16);
		pool_expect(fixture.pool, "1 objects still allocated");
		assert_int_equal(mm_slab_errors(fixture.pool->mm), 1);
		pool_destroy_leaks(fixture.pool, 1);
	}
}

static void test_wrong_cache(void **state)
{
	static const slab_flags_t flags[] = { SLAB_STORE_USER, 0 };

	(void)state;
	for (int f = 0; f < 2; f++) {
		struct fixture fixture;
		struct kmem_cache *other;
		void *object;

		set_up(&fixture, flags[f]);
		other = kmem_cache_create(fixture.pool->mm, "other", 60, 0, flags[f], NULL);
		object = kmem_cache_alloc(fixture.cache, GFP_KERNEL);
		kmem_cache_free(other, object);
		kmem_cache_shrink(other); /* without debug flags: when the sheaf is emptied */
		pool_expect(fixture.pool, "cache other: freed object is of another cache");
		assert_int_equal(kmem_cache_destroy(other), 0);
		tear_down(&fixture, object, 1);
	}
}

/* Objects of two caches, half of them given to the wrong one, by two threads in opposite order. */
struct swapping {
	struct kmem_cache *own, *other;
};

#define SWAPS 3000

static void *free_swapped(void *arg)
{
	const struct swapping *swapping = arg;
	void *objects[8];

	for (unsigned int i = 0; i < SWAPS; i++) {
		for (unsigned int j = 0; j < 8; j++)
			objects[j] = kmem_cache_alloc(j % 4 == 2 ? swapping->other : swapping->own,
						      GFP_KERNEL);
		kmem_cache_free_bulk(swapping->own, 8, objects);
	}
	return NULL;
}

static void ignore_message(void *opaque, const char *line)
{
	(void)opaque, (void)line;
}

static void test_wrong_cache_both_ways(void **state)
{
	struct swapping swapping[2];
	struct fixture fixture;
	pthread_t threads[2];

	(void)state;
	set_up(&fixture, SLAB_STORE_USER);
	mm_set_message_handler(fixture.pool->mm, ignore_message, NULL);
	swapping[0].own = swapping[1].other = fixture.cache;
	swapping[0].other = swapping[1].own =
		kmem_cache_create(fixture.pool->mm, "other", 60, 0, SLAB_STORE_USER, NULL);
	alarm(60); /* a deadlock spins */
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, free_swapped, &swapping[i]), 0);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	alarm(0);
	assert_int_equal(mm_slab_errors(fixture.pool->mm), 2 * 2 * SWAPS);
	pool_validate(fixture.pool);
	assert_int_equal(kmem_cache_destroy(swapping[0].other), 0);
	assert_int_equal(kmem_cache_destroy(fixture.cache), 0);
	pool_destroy(fixture.pool);
}

static void test_not_an_object(void **state)
{
	struct fixture fixture;
	unsigned char *object;
	struct page *page;
	int on_stack;

	(void)state;
	set_up(&fixture, SLAB_RED_ZONE);
	object = kmem_cache_alloc(fixture.cache, GFP_KERNEL);
	kmem_cache_free(fixture.cache, object + 8);
	pool_expect(fixture.pool, "not the start of an object");
	kmem_cache_free(fixture.cache, &on_stack);
	pool_expect(fixture.pool, "not in a slab");
	page = mm_alloc_pages(fixture.pool->mm, GFP_KERNEL, 0);
	kmem_cache_free(fixture.cache, (char *)mm_page_address(fixture.pool->mm, page) + 40000);
	pool_expect(fixture.pool, "not in a slab");
	mm_free_pages(fixture.pool->mm, page, 0);
	/* The object itself is as good as before. */
	kmem_cache_free(fixture.cache, object);
	tear_down(&fixture, NULL, 3);
}

static void construct(void *object)
{
	memset(object, 0x11, 60);
}

/* A constructed object keeps its state under all flags. */
static void test_constructor(void **state)
{
	struct pool *pool = pool_create(1, 16, 1, 0);
	struct kmem_cache *cache =
		kmem_cache_create(pool->mm, "ctor", 60, 0, SLAB_DEBUG_FLAGS, construct);

	(void)state;
	for (int round = 0; round < 3; round++) {
		unsigned char *object = kmem_cache_alloc(cache, GFP_KERNEL);

		for (int i = 0; i < 60; i++)
			assert_int_equal(object[i], 0x11);
		kmem_cache_free(cache, object);
	}
	assert_int_equal(kmem_cache_destroy(cache), 0);
	pool_destroy(pool);
}

static void test_alignment(void **state)
{
	struct pool *pool = pool_create(1, 16, 1, 0);
	struct kmem_cache *cache =
		kmem_cache_create(pool->mm, "aligned", 100, 512, SLAB_DEBUG_FLAGS, NULL);
	void *objects[100];

	(void)state;
	for (int i = 0; i < 100; i++) {
		objects[i] = kmem_cache_alloc(cache, GFP_KERNEL);
		assert_int_equal((uintptr_t)objects[i] % 512, 0);
		memset(objects[i], 0, 100);
	}
	for (int i = 0; i < 100; i++)
		kmem_cache_free(cache, objects[i]);
	assert_int_equal(kmem_cache_destroy(cache), 0);
	pool_destroy(pool);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_clean),
		cmocka_unit_test(test_double_free),
		cmocka_unit_test(test_double_free_in_bulk),
		cmocka_unit_test(test_double_free_without_debug),
		cmocka_unit_test(test_overrun),
		cmocka_unit_test(test_long_overrun),
		cmocka_unit_test(test_underrun),
		cmocka_unit_test(test_write_after_free),
		cmocka_unit_test(test_wrong_cache),
		cmocka_unit_test(test_wrong_cache_both_ways),
		cmocka_unit_test(test_not_an_object),
		cmocka_unit_test(test_constructor),
		cmocka_unit_test(test_alignment),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
