/* SPDX-License-Identifier: MIT */
/* The promised minimum under exhaustion, waiters, resizing, all kinds of elements. */
#include "slab_fixture.h"

#include <errno.h>
#include <pthread.h>

#include "framevisor/clock.h"
#include "framevisor/mempool.h"

/* Callbacks that count, and fail on demand. */
struct source {
	int made;
	int live;
	bool dry;
	int fail_after; /* of this many more; -1: never */
	gfp_t last_gfp;
};

static void *source_alloc(gfp_t gfp, void *pool_data)
{
	struct source *source = pool_data;

	__atomic_store_n(&source->last_gfp, gfp, __ATOMIC_RELAXED);
	if (__atomic_load_n(&source->dry, __ATOMIC_RELAXED) || source->fail_after == 0)
		return NULL;
	if (source->fail_after > 0)
		source->fail_after--;
	source->made++;
	__atomic_fetch_add(&source->live, 1, __ATOMIC_RELAXED);
	return malloc(16);
}

static void source_free(void *element, void *pool_data)
{
	struct source *source = pool_data;

	__atomic_fetch_sub(&source->live, 1, __ATOMIC_RELAXED);
	free(element);
}

static void test_minimum(void **state)
{
	struct pool *pool = pool_create(1, 16, 1, 0);
	struct source source = { .fail_after = -1 };
	mempool_t *mempool = mempool_create(pool->mm, 4, source_alloc, source_free, &source);
	void *elements[4];

	(void)state;
	assert_non_null(mempool);
	assert_int_equal(source.live, 4);
	assert_int_equal(mempool_reserved(mempool), 4);
	/* While there is memory the reserve is not touched. */
	elements[0] = mempool_alloc(mempool, GFP_KERNEL);
	assert_int_equal(mempool_reserved(mempool), 4);
	assert_true(source.last_gfp & __GFP_NORETRY);
	assert_false(source.last_gfp & __GFP_DIRECT_RECLAIM);
	mempool_free(elements[0], mempool);
	assert_int_equal(source.live, 4);
	/* Without, exactly the minimum. */
	source.dry = true;
	for (int i = 0; i < 4; i++) {
		elements[i] = mempool_alloc(mempool, GFP_ATOMIC);
		assert_non_null(elements[i]);
	}
	assert_null(mempool_alloc(mempool, GFP_ATOMIC));
	assert_null(mempool_alloc(mempool, GFP_NOWAIT));
	mempool_free(elements[2], mempool);
	assert_int_equal(mempool_reserved(mempool), 1);
	elements[2] = mempool_alloc(mempool, GFP_KERNEL);
	assert_non_null(elements[2]);
	mempool_free(NULL, mempool);
	for (int i = 0; i < 4; i++)
		mempool_free(elements[i], mempool);
	assert_int_equal(mempool_reserved(mempool), 4);
	mempool_destroy(mempool);
	assert_int_equal(source.live, 0);
	pool_destroy(pool);
}

static void test_set_up_fails(void **state)
{
	struct pool *pool = pool_create(1, 16, 1, 0);
	struct source source = { .fail_after = 3 };

	(void)state;
	assert_null(mempool_create(pool->mm, 4, source_alloc, source_free, &source));
	assert_int_equal(errno, ENOMEM);
	assert_int_equal(source.made, 3);
	assert_int_equal(source.live, 0);
	assert_null(mempool_create(pool->mm, 0, source_alloc, source_free, &source));
	assert_int_equal(errno, EINVAL);
	assert_null(mempool_create(pool->mm, 1, NULL, source_free, &source));
	assert_null(mempool_create_page_pool(pool->mm, 1, MAX_ORDER + 1));
	assert_null(mempool_create_page_pool(pool->mm, 17, 0));
	mempool_destroy(NULL);
	pool_destroy(pool);
}

static void test_resize(void **state)
{
	struct pool *pool = pool_create(1, 16, 1, 0);
	struct source source = { .fail_after = -1 };
	mempool_t *mempool = mempool_create(pool->mm, 4, source_alloc, source_free, &source);
	void *elements[10];

	(void)state;
	assert_int_equal(mempool_resize(mempool, 0), -EINVAL);
	assert_int_equal(mempool_resize(mempool, 10), 0);
	assert_int_equal(mempool_reserved(mempool), 10);
	assert_int_equal(source.live, 10);
	assert_int_equal(mempool_resize(mempool, 2), 0);
	assert_int_equal(source.live, 2);
	/* All or nothing. */
	source.fail_after = 3;
	assert_int_equal(mempool_resize(mempool, 8), -ENOMEM);
	assert_int_equal(source.live, 2);
	assert_int_equal(mempool_reserved(mempool), 2);
	/* While elements of the reserve are in use. */
	source.dry = true;
	elements[0] = mempool_alloc(mempool, GFP_ATOMIC);
	elements[1] = mempool_alloc(mempool, GFP_ATOMIC);
	assert_null(mempool_alloc(mempool, GFP_ATOMIC));
	source.dry = false;
	source.fail_after = -1;
	assert_int_equal(mempool_resize(mempool, 5), 0);
	assert_int_equal(mempool_reserved(mempool), 3);
	assert_int_equal(mempool_resize(mempool, 4), 0);
	assert_int_equal(mempool_reserved(mempool), 3);
	mempool_free(elements[0], mempool);
	assert_int_equal(mempool_reserved(mempool), 4);
	mempool_free(elements[1], mempool);
	assert_int_equal(mempool_reserved(mempool), 4);
	mempool_destroy(mempool);
	assert_int_equal(source.live, 0);
	pool_destroy(pool);
}

struct waiter {
	mempool_t *mempool;
	void *element;
	bool done;
};

static void *wait_for_element(void *arg)
{
	struct waiter *waiter = arg;

	waiter->element = mempool_alloc(waiter->mempool, GFP_KERNEL);
	__atomic_store_n(&waiter->done, true, __ATOMIC_RELEASE);
	return NULL;
}

/* Those who may sleep wait, and each element that comes back wakes one. */
static void test_waiters(void **state)
{
	struct pool *pool = pool_create(1, 16, 1, 0);
	struct source source = { .fail_after = -1 };
	mempool_t *mempool = mempool_create(pool->mm, 2, source_alloc, source_free, &source);
	struct waiter waiters[2] = { { .mempool = mempool }, { .mempool = mempool } };
	pthread_t threads[2];
	void *elements[2];

	(void)state;
	source.dry = true;
	elements[0] = mempool_alloc(mempool, GFP_KERNEL);
	elements[1] = mempool_alloc(mempool, GFP_KERNEL);
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, wait_for_element, &waiters[i]),
				 0);
	usleep(30000);
	assert_false(__atomic_load_n(&waiters[0].done, __ATOMIC_ACQUIRE));
	assert_false(__atomic_load_n(&waiters[1].done, __ATOMIC_ACQUIRE));
	mempool_free(elements[0], mempool);
	mempool_free(elements[1], mempool);
	pthread_join(threads[0], NULL);
	pthread_join(threads[1], NULL);
	assert_non_null(waiters[0].element);
	assert_non_null(waiters[1].element);
	assert_ptr_not_equal(waiters[0].element, waiters[1].element);

	/* Memory that comes back by other ways is found too. */
	waiters[0].done = false;
	elements[1] = waiters[1].element;
	elements[0] = waiters[0].element;
	assert_int_equal(pthread_create(&threads[0], NULL, wait_for_element, &waiters[0]), 0);
	usleep(20000);
	assert_false(__atomic_load_n(&waiters[0].done, __ATOMIC_ACQUIRE));
	__atomic_store_n(&source.dry, false, __ATOMIC_RELAXED);
	pthread_join(threads[0], NULL);
	mempool_free(waiters[0].element, mempool);
	mempool_free(elements[0], mempool);
	mempool_free(elements[1], mempool);
	assert_int_equal(mempool_reserved(mempool), 2);
	mempool_destroy(mempool);
	assert_int_equal(source.live, 0);
	pool_destroy(pool);
}

/* Waiters are woken; they do not just look again now and then (every 100 ms). Not each time in a
 * moment: the machine may be busy. */
static void test_wake_up(void **state)
{
	struct pool *pool = pool_create(1, 16, 1, 0);
	struct source source = { .fail_after = -1 };
	mempool_t *mempool = mempool_create(pool->mm, 1, source_alloc, source_free, &source);
	struct waiter waiter = { .mempool = mempool };
	unsigned int prompt = 0;
	pthread_t thread;

	(void)state;
	source.dry = true;
	waiter.element = mempool_alloc(mempool, GFP_KERNEL);
	for (int round = 0; round < 20; round++) {
		void *element = waiter.element;
		uint64_t freed;

		assert_int_equal(pthread_create(&thread, NULL, wait_for_element, &waiter), 0);
		usleep(5000);
		freed = now_ms();
		mempool_free(element, mempool);
		pthread_join(thread, NULL);
		prompt += now_ms() - freed < 50;
	}
	assert_true(prompt >= 5);
	mempool_free(waiter.element, mempool);
	mempool_destroy(mempool);
	pool_destroy(pool);
}

/* A pool of frames keeps its promise when somebody else took all others. */
static void test_pages(void **state)
{
	struct pool *pool = pool_create(1, 64, 1, 0);
	mempool_t *mempool = mempool_create_page_pool(pool->mm, 3, 1);
	struct page *hog[64];
	struct page *elements[64];
	int nr_hog = 0;
	int nr = 0;

	(void)state;
	assert_non_null(mempool);
	while ((hog[nr_hog] = mm_alloc_pages(pool->mm, GFP_ATOMIC | __GFP_NOWARN, 0)) != NULL)
		nr_hog++;
	while ((elements[nr] = mempool_alloc(mempool, GFP_ATOMIC)) != NULL)
		nr++;
	assert_int_equal(nr, 3);
	for (int i = 0; i < nr; i++) {
		assert_int_equal(page_order(elements[i]), 1);
		mempool_free(elements[i], mempool);
	}
	while (nr_hog)
		mm_free_pages(pool->mm, hog[--nr_hog], 0);
	mempool_destroy(mempool);
	pool_destroy(pool);
}

static void test_slab_and_kmalloc(void **state)
{
	struct pool *pool = pool_create(1, 16, 2, 0);
	struct kmem_cache *cache = kmem_cache_create(pool->mm, "elements", 200, 0, 0, NULL);
	mempool_t *objects = mempool_create_slab_pool(pool->mm, 20, cache);
	mempool_t *buffers = mempool_create_kmalloc_pool(pool->mm, 5, 3000);
	struct page *hog[16];
	void *taken[4000];
	int nr_hog = 0;
	int nr = 0;

	(void)state;
	while ((hog[nr_hog] = mm_alloc_pages(pool->mm, GFP_ATOMIC | __GFP_NOWARN, 0)) != NULL)
		nr_hog++;
	while (nr < 3000 && (taken[nr] = kmem_cache_alloc(cache, GFP_ATOMIC | __GFP_NO_GROW)))
		nr++;
	for (int i = 0; i < 20; i++) {
		taken[nr + i] = mempool_alloc(objects, GFP_ATOMIC | __GFP_NO_GROW);
		assert_non_null(taken[nr + i]);
	}
	assert_null(mempool_alloc(objects, GFP_ATOMIC | __GFP_NO_GROW));
	for (int i = 0; i < 20; i++)
		mempool_free(taken[nr + i], objects);
	while (nr)
		kmem_cache_free(cache, taken[--nr]);
	for (int i = 0; i < 5; i++) {
		taken[i] = mempool_alloc(buffers, GFP_KERNEL);
		assert_true(ksize(taken[i]) >= 3000);
	}
	for (int i = 0; i < 5; i++)
		mempool_free(taken[i], buffers);
	while (nr_hog)
		mm_free_pages(pool->mm, hog[--nr_hog], 0);
	mempool_destroy(objects);
	mempool_destroy(buffers);
	assert_int_equal(kmem_cache_destroy(cache), 0);
	pool_destroy(pool);
}

/* In the caller's memory, on a pool that has none: only frames' numbers. */
static void test_metadata_only(void **state)
{
	struct mm_config config = { .nr_nodes = 1,
				    .nr_cpus = 1,
				    .node[0] = { .spanned = 64, .phys_base = 1 << 20 } };
	size_t size = (mm_metadata_size(&config) + 63) & ~(size_t)63;
	void *metadata = aligned_alloc(64, size);
	struct mm_counts counts;
	void *elements[4];
	mempool_t mempool;
	struct page *page;
	struct mm *mm;

	(void)state;
	memset(metadata, 0, size);
	mm = mm_init(&config, metadata, size);
	assert_int_equal(mm_online_pages(mm, 0, 0, 64, false), 0);
	assert_int_equal(mempool_init_page_pool(&mempool, mm, 4, NULL, 0), -ENOMEM);
	assert_int_equal(mempool_init_page_pool(&mempool, mm, 4, elements, 0), 0);
	assert_int_equal(mempool_resize(&mempool, 5), -EINVAL);
	page = mempool_alloc(&mempool, GFP_KERNEL);
	assert_non_null(page);
	assert_int_equal(mempool_resize(&mempool, 2), 0);
	mempool_free(page, &mempool);
	mempool_exit(&mempool);
	mm_counts(mm, -1, &counts);
	assert_int_equal(counts.allocated, 0);
	mm_destroy(mm);
	free(metadata);
}

static void test_exit_with_elements_out(void **state)
{
	struct pool *pool = pool_create(1, 16, 1, 0);
	struct source source = { .fail_after = -1 };
	mempool_t *mempool = mempool_create(pool->mm, 2, source_alloc, source_free, &source);
	void *element;

	(void)state;
	source.dry = true;
	element = mempool_alloc(mempool, GFP_KERNEL);
	mempool_destroy(mempool);
	pool_expect(pool, "1 elements of the reserve are still in use");
	assert_int_equal(source.live, 1);
	source_free(element, &source);
	pool_destroy(pool);
}

static void *stress_worker(void *arg)
{
	mempool_t *mempool = arg;
	unsigned int seed = (unsigned int)(uintptr_t)&seed;

	for (int i = 0; i < 3000; i++) {
		unsigned char *buffer = mempool_alloc(mempool, GFP_KERNEL);

		assert_non_null(buffer);
		buffer[0] = 1;
		if (rand_r(&seed) % 64 == 0)
			sched_yield();
		mempool_free(buffer, mempool);
	}
	return NULL;
}

/* Six threads, two elements, nothing else: everybody gets there. */
static void test_stress(void **state)
{
	struct pool *pool = pool_create(1, 16, 2, 0);
	struct source source = { .fail_after = -1 };
	mempool_t *mempool = mempool_create(pool->mm, 2, source_alloc, source_free, &source);
	pthread_t threads[6];

	(void)state;
	source.dry = true;
	for (int i = 0; i < 6; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, stress_worker, mempool), 0);
	for (int i = 0; i < 6; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(mempool_reserved(mempool), 2);
	mempool_destroy(mempool);
	assert_int_equal(source.live, 0);
	pool_destroy(pool);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_minimum),
		cmocka_unit_test(test_set_up_fails),
		cmocka_unit_test(test_resize),
		cmocka_unit_test(test_waiters),
		cmocka_unit_test(test_wake_up),
		cmocka_unit_test(test_pages),
		cmocka_unit_test(test_slab_and_kmalloc),
		cmocka_unit_test(test_metadata_only),
		cmocka_unit_test(test_exit_with_elements_out),
		cmocka_unit_test(test_stress),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
