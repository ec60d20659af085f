/* SPDX-License-Identifier: MIT */
/* Caches of objects: alignment, constructors, sheaves, shrinking, nodes, leaks. */
#include "slab_fixture.h"

#include <errno.h>
#include <pthread.h>

#define OBJECTS 3000

static bool aligned(const void *object, size_t align)
{
	return ((uintptr_t)object & (align - 1)) == 0;
}

/* Objects do not overlap and keep their content, for all kinds of sizes and alignments. */
static void test_sizes(void **state)
{
	static const size_t sizes[] = {
		1,    8,    24,   64,    100,   192,    512,
		1000, 4096, 5000, 30000, 70000, 300000, KMEM_CACHE_MAX_SIZE
	};
	static const size_t aligns[] = { 0, 8, 64, 256, 4096, 65536 };
	struct pool *pool = pool_create(1, 96, 2, 0);

	(void)state;
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		for (size_t a = 0; a < sizeof(aligns) / sizeof(aligns[0]); a++) {
			size_t align = aligns[a] ? aligns[a] : 8;
			unsigned char *objects[64];
			struct kmem_cache *cache;
			int nr = sizes[i] > 100000 || align > 4096 ? 8 : 64;

			if (sizes[i] + align > KMEM_CACHE_MAX_SIZE && align > 4096)
				continue;
			cache = kmem_cache_create(pool->mm, "sizes", sizes[i], aligns[a], 0, NULL);
			assert_non_null(cache);
			assert_int_equal(kmem_cache_size(cache), sizes[i]);
			for (int n = 0; n < nr; n++) {
				objects[n] = kmem_cache_alloc(cache, GFP_KERNEL);
				assert_non_null(objects[n]);
				assert_true(aligned(objects[n], align));
				memset(objects[n], n, sizes[i]);
			}
			for (int n = 0; n < nr; n++) {
				assert_int_equal(objects[n][0], n);
				assert_int_equal(objects[n][sizes[i] / 2], n);
				assert_int_equal(objects[n][sizes[i] - 1], n);
				kmem_cache_free(cache, objects[n]);
			}
			pool_validate(pool);
			assert_int_equal(kmem_cache_destroy(cache), 0);
		}
	}
	pool_destroy(pool);
}

static void test_bad_arguments(void **state)
{
	struct pool *pool = pool_create(1, 16, 1, 0);

	(void)state;
	assert_null(kmem_cache_create(pool->mm, "zero", 0, 0, 0, NULL));
	assert_int_equal(errno, EINVAL);
	assert_null(kmem_cache_create(pool->mm, "odd", 64, 24, 0, NULL));
	assert_null(kmem_cache_create(pool->mm, "big", KMEM_CACHE_MAX_SIZE + 1, 0, 0, NULL));
	assert_null(
		kmem_cache_create(pool->mm, "big", KMEM_CACHE_MAX_SIZE, 0, SLAB_RED_ZONE, NULL));
	assert_null(kmem_cache_create(pool->mm, "flags", 64, 0, 0x1, NULL));
	assert_null(kmem_cache_create(pool->mm, NULL, 64, 0, 0, NULL));
	assert_int_equal(errno, EINVAL);
	assert_int_equal(kmem_cache_destroy(NULL), 0);
	pool_destroy(pool);
}

static void test_metadata_only(void **state)
{
	struct mm_config config = {
		.nr_nodes = 1,
		.nr_cpus = 1,
		.node[0] = { .spanned = 64, .phys_base = 1 << 20 },
	};
	size_t size = mm_metadata_size(&config);
	void *metadata = aligned_alloc(64, (size + 63) & ~(size_t)63);
	struct mm_counts counts;
	struct mm *mm;

	(void)state;
	memset(metadata, 0, size);
	mm = mm_init(&config, metadata, size);
	assert_non_null(mm);
	assert_int_equal(mm_online_pages(mm, 0, 0, 64, false), 0);
	assert_null(kmem_cache_create(mm, "none", 64, 0, 0, NULL));
	assert_int_equal(errno, ENODEV);
	assert_int_equal(kmem_cache_init(mm), -ENODEV);
	assert_null(mm_kmalloc(mm, 64, GFP_KERNEL));
	assert_null(mm_kmalloc(mm, 8 * FRAME_SIZE, GFP_KERNEL));
	assert_int_equal(kmem_cache_shrink_all(mm), 0);
	mm_counts(mm, -1, &counts);
	assert_int_equal(counts.allocated, 0);
	mm_destroy(mm);
	free(metadata);
}

static int constructed;
static void construct(void *object)
{
	constructed++;
	memset(object, 0x77, 48);
}

/* Once per object, and what users leave in order stays in order. */
static void test_constructor(void **state)
{
	struct pool *pool = pool_create(1, 16, 1, 0);
	struct kmem_cache *cache = kmem_cache_create(pool->mm, "ctor", 48, 0, 0, construct);
	unsigned char *objects[200];
	int after_first_round = 0;

	(void)state;
	constructed = 0;
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 200; i++) {
			objects[i] = kmem_cache_alloc(cache, GFP_KERNEL);
			for (int b = 0; b < 48; b++)
				assert_int_equal(objects[i][b], 0x77);
		}
		for (int i = 0; i < 200; i++)
			kmem_cache_free(cache, objects[i]);
		if (round == 0)
			after_first_round = constructed;
	}
	assert_true(constructed >= 200);
	assert_int_equal(constructed, after_first_round);
	assert_int_equal(kmem_cache_destroy(cache), 0);
	pool_destroy(pool);
}

static void test_zero_and_bulk(void **state)
{
	struct pool *pool = pool_create(1, 16, 2, 0);
	struct kmem_cache *cache = kmem_cache_create(pool->mm, "bulk", 128, 0, 0, NULL);
	static void *objects[OBJECTS];

	(void)state;
	for (int round = 0; round < 3; round++) {
		assert_int_equal(
			kmem_cache_alloc_bulk(cache, GFP_KERNEL | __GFP_ZERO, OBJECTS, objects),
			OBJECTS);
		for (int i = 0; i < OBJECTS; i++) {
			const unsigned char *bytes = objects[i];

			for (int b = 0; b < 128; b++)
				assert_int_equal(bytes[b], 0);
			memset(objects[i], 0xff, 128);
		}
		pool_validate(pool);
		kmem_cache_free_bulk(cache, OBJECTS, objects);
		pool_validate(pool);
	}
	objects[0] = kmem_cache_zalloc(cache, GFP_KERNEL);
	assert_int_equal(*(unsigned char *)objects[0], 0);
	kmem_cache_free(cache, objects[0]);
	kmem_cache_free(cache, NULL);
	assert_int_equal(kmem_cache_destroy(cache), 0);
	pool_destroy(pool);
}

static void test_hwcache_align(void **state)
{
	struct pool *pool = pool_create(1, 16, 1, 0);
	struct kmem_cache *line =
		kmem_cache_create(pool->mm, "line", 40, 0, SLAB_HWCACHE_ALIGN, NULL);
	struct kmem_cache *half =
		kmem_cache_create(pool->mm, "half", 20, 0, SLAB_HWCACHE_ALIGN, NULL);

	(void)state;
	for (int i = 0; i < 100; i++) {
		void *a = kmem_cache_alloc(line, GFP_KERNEL);
		void *b = kmem_cache_alloc(half, GFP_KERNEL);

		assert_true(aligned(a, 64));
		assert_true(aligned(b, 32));
		kmem_cache_free(line, a);
		kmem_cache_free(half, b);
	}
	assert_int_equal(kmem_cache_destroy(line), 0);
	assert_int_equal(kmem_cache_destroy(half), 0);
	pool_destroy(pool);
}

/* The same object of different slabs lies in different cache lines, where there is room. */
static void test_colouring(void **state)
{
	struct pool *pool = pool_create(1, 16, 1, 0);
	struct kmem_cache *cache = kmem_cache_create(pool->mm, "colour", 5000, 0, 0, NULL);
	uint64_t seen = 0;
	void *objects[60];

	(void)state;
	for (int i = 0; i < 60; i++) {
		objects[i] = kmem_cache_alloc(cache, GFP_KERNEL);
		if ((uintptr_t)objects[i] % 32768 < 2768)
			seen |= UINT64_C(1) << ((uintptr_t)objects[i] % 32768 / 64);
	}
	assert_true(__builtin_popcountll(seen) >= 3);
	for (int i = 0; i < 60; i++)
		kmem_cache_free(cache, objects[i]);
	assert_int_equal(kmem_cache_destroy(cache), 0);
	pool_destroy(pool);
}

/* Objects of many caches share a frame; reclaimable ones have frames of their own. */
static void test_shared_frames(void **state)
{
	struct pool *pool = pool_create(1, 64, 1, 0);
	struct kmem_cache *caches[20];
	void *objects[20];

	(void)state;
	for (int i = 0; i < 20; i++) {
		caches[i] = kmem_cache_create(pool->mm, "shared", 32 + 8 * (size_t)i, 0,
					      i == 19 ? SLAB_RECLAIM_ACCOUNT : 0, NULL);
		objects[i] = kmem_cache_alloc(caches[i], GFP_KERNEL);
		assert_non_null(objects[i]);
	}
	assert_int_equal(pool_allocated(pool), 2);
	assert_int_equal(kmem_cache_frames(pool->mm), 2);
	assert_int_equal((uintptr_t)objects[0] >> FRAME_SHIFT,
			 (uintptr_t)objects[18] >> FRAME_SHIFT);
	assert_int_not_equal((uintptr_t)objects[0] >> FRAME_SHIFT,
			     (uintptr_t)objects[19] >> FRAME_SHIFT);
	pool_validate(pool);
	for (int i = 0; i < 20; i++) {
		kmem_cache_free(caches[i], objects[i]);
		assert_int_equal(kmem_cache_destroy(caches[i]), 0);
	}
	assert_int_equal(pool_allocated(pool), 1); /* the slab state's own */
	pool_destroy(pool);
}

static void test_shrink(void **state)
{
	struct pool *pool = pool_create(1, 64, 2, 0);
	struct kmem_cache *cache = kmem_cache_create(pool->mm, "shrink", 1024, 0, 0, NULL);
	static void *objects[20000];
	uint64_t before;

	(void)state;
	assert_int_equal(kmem_cache_alloc_bulk(cache, GFP_KERNEL, 20000, objects), 20000);
	before = pool_allocated(pool);
	assert_true(before >= 10);
	/* Every 64th stays: no slab but the last few can go. */
	for (int i = 0; i < 20000; i++) {
		if (i % 16)
			kmem_cache_free(cache, objects[i]);
	}
	kmem_cache_shrink(cache);
	pool_validate(pool);
	assert_true(pool_allocated(pool) + 1 >= before);
	for (int i = 0; i < 20000; i += 16)
		kmem_cache_free(cache, objects[i]);
	before = pool_allocated(pool);
	assert_true(before <=
		    2); /* empty slabs went back by themselves, but for two and the sheaf */
	assert_true(kmem_cache_shrink(cache) > 0);
	assert_int_equal(pool_allocated(pool), 1);
	pool_validate(pool);

	assert_int_equal(kmem_cache_alloc_bulk(cache, GFP_KERNEL, 20000, objects), 20000);
	kmem_cache_free_bulk(cache, 20000, objects);
	before = pool_allocated(pool);
	assert_int_equal(kmem_cache_shrink_all(pool->mm), before - 1);
	assert_int_equal(pool_allocated(pool), 1);
	assert_int_equal(kmem_cache_destroy(cache), 0);
	pool_destroy(pool);
}

/* destroy with leaks: says how many and where, and leaves everything usable. */
static void test_leaks(void **state)
{
	struct pool *pool = pool_create(1, 16, 2, 0);
	struct kmem_cache *cache = kmem_cache_create(pool->mm, "leaky", 64, 0, 0, NULL);
	void *objects[10];
	char address[32];

	(void)state;
	for (int i = 0; i < 10; i++)
		objects[i] = kmem_cache_alloc(cache, GFP_KERNEL);
	for (int i = 2; i < 10; i++)
		kmem_cache_free(cache, objects[i]);
	assert_int_equal(kmem_cache_destroy(cache), -EBUSY);
	snprintf(address, sizeof(address), "%p", objects[1]);
	assert_non_null(strstr(pool->messages, address));
	pool_expect(pool, "cache leaky: 2 objects still allocated");
	pool_validate(pool);
	memset(objects[0], 1, 64);
	kmem_cache_free(cache, objects[0]);
	kmem_cache_free(cache, objects[1]);
	assert_int_equal(kmem_cache_destroy(cache), 0);

	/* The end of everything reports what is left and takes its frames. */
	cache = kmem_cache_create(pool->mm, "leaky2", 64, 0, SLAB_STORE_USER, NULL);
	assert_non_null(kmem_cache_alloc(cache, GFP_KERNEL));
	assert_non_null(mm_kmalloc(pool->mm, 100, GFP_KERNEL));
	assert_int_equal(kmem_cache_exit(pool->mm), 2);
	assert_non_null(strstr(pool->messages, "allocated by"));
	pool_expect(pool, "cache leaky2: 1 objects still allocated");
	assert_int_equal(pool_allocated(pool), 0);
	pool_destroy(pool);
}

/* Frames that only hold empty slabs and objects in sheaves come back under pressure. */
static void test_shrinker(void **state)
{
	struct pool *pool = pool_create(1, 32, 2, 0);
	struct kmem_cache *caches[8];
	void *objects[8][6];
	struct page *hog[32];
	int nr = 0;
	int more = 0;

	(void)state;
	for (int i = 0; i < 8; i++)
		caches[i] = kmem_cache_create(pool->mm, "press", 200000, 0, 0, NULL);
	for (int n = 0; n < 6; n++) {
		for (int i = 0; i < 8; i++)
			objects[i][n] = kmem_cache_alloc(caches[i], GFP_KERNEL);
	}
	for (int n = 0; n < 6; n++) {
		for (int i = 0; i < 8; i++)
			kmem_cache_free(caches[i], objects[i][n]);
	}
	assert_true(kmem_cache_frames(pool->mm) > 1);
	while ((hog[nr] = mm_alloc_pages(pool->mm, GFP_ATOMIC | __GFP_NOWARN, 0)))
		nr++;
	assert_true(kmem_cache_frames(pool->mm) > 1);
	while ((hog[nr + more] = mm_alloc_pages(
			pool->mm, GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN | __GFP_HIGH, 0)))
		more++;
	assert_true(more > 0);
	assert_int_equal(kmem_cache_frames(pool->mm), 1);
	for (nr += more; nr;)
		mm_free_pages(pool->mm, hog[--nr], 0);
	for (int i = 0; i < 8; i++)
		assert_int_equal(kmem_cache_destroy(caches[i]), 0);
	pool_destroy(pool);
}

static void test_exhaustion(void **state)
{
	struct pool *pool = pool_create(1, 16, 2, 0);
	struct kmem_cache *cache = kmem_cache_create(pool->mm, "all", 4096, 0, 0, NULL);
	static void *objects[16 * 512];
	int nr = 0;

	(void)state;
	assert_null(kmem_cache_alloc(cache, GFP_KERNEL | __GFP_NO_GROW));
	while ((objects[nr] = kmem_cache_alloc(cache, GFP_NOWAIT)) != NULL)
		nr++;
	assert_true(nr > 8 * 504);
	/* All or nothing. */
	kmem_cache_free(cache, objects[--nr]);
	assert_int_equal(kmem_cache_alloc_bulk(cache, GFP_NOWAIT, 100, objects + nr), 0);
	pool_validate(pool);
	objects[nr] = kmem_cache_alloc(cache, GFP_NOWAIT | __GFP_NO_GROW);
	assert_non_null(objects[nr++]);
	while (nr)
		kmem_cache_free(cache, objects[--nr]);
	assert_int_equal(kmem_cache_destroy(cache), 0);
	pool_destroy(pool);
}

/* Which node an object is on, by its address. */
static int node_of(const struct pool *pool, const void *object)
{
	for (unsigned int nid = 0; nid < pool->nr_nodes; nid++) {
		uintptr_t offset = (uintptr_t)object - (uintptr_t)pool->base[nid];

		if (offset < pool->frames * FRAME_SIZE)
			return (int)nid;
	}
	return -1;
}

static void test_nodes(void **state)
{
	struct pool *pool = pool_create(2, 32, 2, 0);
	struct kmem_cache *cache;
	void *objects[2000];
	void *remote[200];

	(void)state;
	mm_set_cpu_node(pool->mm, 0, 0);
	mm_set_cpu_node(pool->mm, 1, 0);
	cache = kmem_cache_create(pool->mm, "nodes", 256, 0, 0, NULL);
	for (int i = 0; i < 200; i++) {
		remote[i] = kmem_cache_alloc_node(cache, GFP_KERNEL, 1);
		assert_int_equal(node_of(pool, remote[i]), 1);
	}
	for (int i = 0; i < 200; i++)
		kmem_cache_free(cache, remote[i]);
	/* Freed on a CPU of node 0, they are not what that CPU gets next. */
	for (int i = 0; i < 2000; i++) {
		objects[i] = kmem_cache_alloc(cache, GFP_KERNEL);
		assert_int_equal(node_of(pool, objects[i]), 0);
	}
	pool_validate(pool);
	assert_null(kmem_cache_alloc_node(cache, GFP_KERNEL, 2));
	for (int i = 0; i < 2000; i++)
		kmem_cache_free(cache, objects[i]);
	assert_int_equal(kmem_cache_destroy(cache), 0);
	pool_destroy(pool);
}

/* What another node helps out with is one object, not a sheaf full. */
static void test_helping_node(void **state)
{
	struct pool *pool = pool_create(2, 16, 2, 0);
	struct kmem_cache *cache = kmem_cache_create(pool->mm, "help", 256, 0, 0, NULL);
	struct kmem_cache *filler = kmem_cache_create(pool->mm, "fill", 8192, 0, 0, NULL);
	static void *fill[16 * 256];
	void *objects[2];
	int nr = 0;

	(void)state;
	mm_set_cpu_node(pool->mm, 0, 0);
	mm_set_cpu_node(pool->mm, 1, 0);
	objects[0] = kmem_cache_alloc_node(cache, GFP_KERNEL, 1);
	while ((fill[nr] = kmem_cache_alloc_node(filler, GFP_NOWAIT | __GFP_THISNODE, 0)))
		nr++;
	/* Small slabs also fit where a frame's header is. */
	kmem_cache_free(cache, objects[0]);
	do {
		objects[0] = kmem_cache_alloc_node(cache, GFP_NOWAIT, 0);
		assert_non_null(objects[0]);
	} while (node_of(pool, objects[0]) == 0);
	objects[0] = kmem_cache_alloc(cache, GFP_NOWAIT);
	assert_int_equal(node_of(pool, objects[0]), 1);
	while (nr)
		kmem_cache_free(filler, fill[--nr]);
	assert_int_equal(kmem_cache_destroy(filler), 0);
	objects[1] = kmem_cache_alloc(cache, GFP_NOWAIT);
	assert_int_equal(node_of(pool, objects[1]), 0);
	pool_validate(pool);
	assert_true(kmem_cache_destroy(cache) != 0);
	pool->used = 0;
	assert_true(kmem_cache_exit(pool->mm) > 0);
	pool->used = 0;
	pool_destroy(pool);
}

static void test_slabinfo(void **state)
{
	struct pool *pool = pool_create(1, 16, 2, 0);
	struct kmem_cache *cache = kmem_cache_create(pool->mm, "counted", 256, 0, 0, NULL);
	void *objects[300];
	char *text = malloc(65536);
	unsigned int active, num, size, per_slab, pages, limit, batch, shared, active_slabs, slabs;
	const char *line;
	int len;

	(void)state;
	for (int i = 0; i < 300; i++)
		objects[i] = kmem_cache_alloc(cache, GFP_KERNEL);
	len = mm_report_slabinfo(pool->mm, text, 65536);
	assert_int_equal(len, strlen(text));
	assert_int_equal(mm_report_slabinfo(pool->mm, NULL, 0), len);
	assert_int_equal(strncmp(text, "slabinfo - version: 2.1\n# name ", 31), 0);
	line = strstr(text, "\ncounted ");
	assert_non_null(line);
	assert_int_equal(sscanf(line,
				" counted %u %u %u %u %u : tunables %u %u %u : slabdata %u %u",
				&active, &num, &size, &per_slab, &pages, &limit, &batch, &shared,
				&active_slabs, &slabs),
			 10);
	assert_int_equal(active, 300);
	assert_true(num >= 300 && num <= 3 * 127);
	assert_int_equal(size, 256);
	assert_int_equal(per_slab, 127); /* of 128, one makes room for the bitmaps */
	assert_int_equal(pages, 8);
	assert_int_equal(slabs, 3);
	for (int i = 0; i < 300; i++)
		kmem_cache_free(cache, objects[i]);
	free(text);
	assert_int_equal(kmem_cache_destroy(cache), 0);
	pool_destroy(pool);
}

struct work {
	struct kmem_cache *cache;
	uint64_t *shared[64]; /* objects change hands through these */
	int id;
	bool stop;
};

static void *worker(void *arg)
{
	struct work *work = arg;
	unsigned int seed =
		12345u + (unsigned int)__atomic_fetch_add(&work->id, 1, __ATOMIC_RELAXED);
	uint64_t tag = (uint64_t)seed << 32;

	for (int i = 0; i < 100000; i++) {
		uint64_t *object = kmem_cache_alloc(work->cache, GFP_KERNEL);
		uint64_t **slot = &work->shared[rand_r(&seed) % 64];

		if (!object)
			continue;
		object[0] = ++tag;
		object[7] = tag;
		object = __atomic_exchange_n(slot, object, __ATOMIC_ACQ_REL);
		if (object) {
			/* Nobody else has it: both ends agree. */
			assert_int_equal(object[0], object[7]);
			object[0] = 0;
			kmem_cache_free(work->cache, object);
		}
	}
	return NULL;
}

static void *shrinker(void *arg)
{
	struct work *work = arg;

	while (!__atomic_load_n(&work->stop, __ATOMIC_RELAXED)) {
		kmem_cache_shrink(work->cache);
	}
	return NULL;
}

/* Threads hand objects to each other while a fifth one keeps emptying everybody's sheaves. */
static void stress(slab_flags_t flags)
{
	struct pool *pool = pool_create(1, 32, 2, 0);
	struct work work = { 0 };
	pthread_t threads[5];

	work.cache = kmem_cache_create(pool->mm, "stress", 64, 0, flags, NULL);
	assert_int_equal(pthread_create(&threads[4], NULL, shrinker, &work), 0);
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, worker, &work), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	__atomic_store_n(&work.stop, true, __ATOMIC_RELAXED);
	pthread_join(threads[4], NULL);
	pool_validate(pool);
	for (int i = 0; i < 64; i++)
		kmem_cache_free(work.cache, work.shared[i]);
	assert_int_equal(kmem_cache_destroy(work.cache), 0);
	pool_destroy(pool);
}

static void test_stress(void **state)
{
	(void)state;
	stress(0);
}

static void test_stress_locked(void **state)
{
	(void)state;
	stress(SLAB_LOCKED_SHEAVES);
}

static void *initialise(void *arg)
{
	struct pool *pool = arg;
	struct kmem_cache *cache = kmem_cache_create(pool->mm, "race", 64, 0, 0, NULL);

	assert_non_null(cache);
	mm_kfree(pool->mm, mm_kmalloc(pool->mm, 77, GFP_KERNEL));
	assert_int_equal(kmem_cache_destroy(cache), 0);
	return NULL;
}

/* The first users of an instance at the same time. */
static void test_first_use(void **state)
{
	(void)state;
	for (int round = 0; round < 20; round++) {
		struct pool *pool = pool_create(1, 16, 2, 0);
		pthread_t threads[3];

		for (int i = 0; i < 3; i++)
			assert_int_equal(pthread_create(&threads[i], NULL, initialise, pool), 0);
		for (int i = 0; i < 3; i++)
			pthread_join(threads[i], NULL);
		pool_destroy(pool);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sizes),         cmocka_unit_test(test_bad_arguments),
		cmocka_unit_test(test_metadata_only), cmocka_unit_test(test_constructor),
		cmocka_unit_test(test_zero_and_bulk), cmocka_unit_test(test_hwcache_align),
		cmocka_unit_test(test_colouring),     cmocka_unit_test(test_shared_frames),
		cmocka_unit_test(test_shrink),        cmocka_unit_test(test_leaks),
		cmocka_unit_test(test_shrinker),      cmocka_unit_test(test_exhaustion),
		cmocka_unit_test(test_nodes),         cmocka_unit_test(test_helping_node),
		cmocka_unit_test(test_slabinfo),      cmocka_unit_test(test_stress),
		cmocka_unit_test(test_stress_locked), cmocka_unit_test(test_first_use),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
