/* SPDX-License-Identifier: MIT */
/*
 * In a build with AddressSanitizer: uses of free objects and of what lies between objects end the
 * program, and whatever is allowed does not. Each wrong use is made by a process of its own.
 */
#include "slab_fixture.h"

#include <sys/wait.h>

#include "framevisor/mempool.h"
#include "tests/unit/skip.h"

#ifdef __SANITIZE_ADDRESS__
#define ASAN true
#else
#define ASAN false
#endif

#define SIZE     40
#define SURVIVED 77

static struct pool *pool;
static struct kmem_cache *cache;

static int setup(void **state)
{
	(void)state;
	pool = pool_create(1, 16, 1, 0);
	cache = kmem_cache_create(pool->mm, "things", SIZE, 64, 0, NULL);
	return cache ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	assert_int_equal(kmem_cache_destroy(cache), 0);
	pool_destroy(pool);
	return 0;
}

static char read_at(const void *object, size_t offset)
{
	return ((const volatile char *)object)[offset];
}

/* --- wrong uses --- */

static void read_after_free(void)
{
	void *object = kmem_cache_alloc(cache, GFP_KERNEL);

	kmem_cache_free(cache, object);
	read_at(object, 0);
}

static void write_after_free(void)
{
	volatile char *object = kmem_cache_zalloc(cache, GFP_KERNEL);

	kmem_cache_free(cache, (void *)(uintptr_t)object);
	object[SIZE - 1] = 1;
}

static void free_twice(void)
{
	void *object = kmem_cache_alloc(cache, GFP_KERNEL);

	kmem_cache_free(cache, object);
	kmem_cache_free(cache, object);
}

static void read_beyond(void)
{
	read_at(kmem_cache_alloc(cache, GFP_KERNEL), SIZE);
}

static void read_never_allocated(void)
{
	read_at(kmem_cache_alloc(cache, GFP_KERNEL), 64);
}

static void read_kfreed(void)
{
	void *object = kmalloc(100, GFP_KERNEL);

	kfree(object);
	read_at(object, 99);
}

static void read_after_bulk(void)
{
	void *objects[8];

	kmem_cache_alloc_bulk(cache, GFP_KERNEL, 8, objects);
	kmem_cache_free_bulk(cache, 8, objects);
	read_at(objects[7], 0);
}

static void read_after_move(void)
{
	void *object = kmalloc(64, GFP_KERNEL);

	krealloc(object, 128, GFP_KERNEL);
	read_at(object, 0);
}

static int ending_of(void (*wrong)(void))
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		close(STDERR_FILENO); /* the report is as expected */
		if (setup(NULL))      /* a pool of its own: the memory of one would be shared */
			_exit(SURVIVED);
		wrong();
		_exit(SURVIVED);
	}
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void test_wrong_uses(void **state)
{
	static void (*const wrong[])(void) = {
		read_after_free,      write_after_free, free_twice,      read_beyond,
		read_never_allocated, read_kfreed,      read_after_bulk, read_after_move,
	};

	(void)state;
	if (!ASAN)
		skip_because("not built with AddressSanitizer");
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		if (ending_of(wrong[i]) == SURVIVED)
			fail_msg("wrong use %zu was not found", i);
}

/* --- right ones, in any build --- */

static void construct(void *object)
{
	memset(object, 0x77, SIZE);
}

static void test_constructed(void **state)
{
	struct kmem_cache *built = kmem_cache_create(pool->mm, "built", SIZE, 0, 0, construct);
	void *objects[200];

	(void)state;
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 200; i++) {
			objects[i] = kmem_cache_alloc(built, GFP_KERNEL);
			for (int j = 0; j < SIZE; j++)
				assert_int_equal(read_at(objects[i], (size_t)j), 0x77);
		}
		for (int i = 0; i < 200; i++)
			kmem_cache_free(built, objects[i]);
		kmem_cache_shrink(built);
	}
	assert_int_equal(kmem_cache_destroy(built), 0);
}

static void fill(void *object, size_t size)
{
	assert_non_null(object);
	memset(object, 0x33, size);
}

/* Blocks and frames that were of one cache are another's, or no cache's, afterwards. */
static void test_memory_goes_on(void **state)
{
	static void *objects[5000];
	struct page *page;

	(void)state;
	for (int round = 0; round < 3; round++) {
		struct kmem_cache *other = kmem_cache_create(pool->mm, "other", 3000, 0, 0, NULL);

		for (int i = 0; i < 5000; i++)
			fill(objects[i] = kmem_cache_alloc(cache, GFP_KERNEL), SIZE);
		for (int i = 0; i < 5000; i++)
			kmem_cache_free(cache, objects[i]);
		kmem_cache_shrink_all(pool->mm);
		for (int i = 0; i < 2000; i++)
			fill(objects[i] = kmem_cache_alloc(other, GFP_KERNEL), 3000);
		kmem_cache_free_bulk(other, 2000, objects);
		assert_int_equal(kmem_cache_destroy(other), 0);
		kmem_cache_shrink_all(pool->mm);
		page = alloc_pages(GFP_KERNEL, 3);
		assert_non_null(page);
		fill(page_address(page), FRAME_SIZE << 3);
		__free_pages(page, 3);
	}
}

/* All of what kmalloc() rounded up to may be used, as ksize() says. */
static void test_all_of_ksize(void **state)
{
	char *object = kmalloc(33, GFP_KERNEL);

	(void)state;
	fill(object, ksize(object));
	object = krealloc(object, 1000, GFP_KERNEL);
	fill(object, ksize(object));
	object = krealloc(object, 20, GFP_KERNEL);
	fill(object, ksize(object));
	kfree(object);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_wrong_uses),
		cmocka_unit_test_setup_teardown(test_constructed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_memory_goes_on, setup, teardown),
		cmocka_unit_test_setup_teardown(test_all_of_ksize, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
