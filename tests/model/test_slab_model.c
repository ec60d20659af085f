/* SPDX-License-Identifier: MIT */
/*
 * Random calls on many caches, kmalloc and vmalloc against a simple reference: a table of what is
 * allocated, each with a pattern of its own. Caches come and go, sheaves are drained, memory runs
 * out. FRAMEVISOR_SEED repeats a run; FRAMEVISOR_MODEL_OPS says how many calls, over all tests
 * here.
 */
#include "tests/unit/slab_fixture.h"

#include <pthread.h>
#include <time.h>

#include "framevisor/vmalloc.h"

#define NR_CACHES 12
#define NR_LIVE   4000

struct live {
	unsigned char *ptr;
	size_t size;
	int cache; /* -1: kmalloc, -2: vmalloc */
	unsigned char pattern;
};

struct model {
	struct pool *pool;
	uint64_t random;
	struct kmem_cache *cache[NR_CACHES];
	size_t object_size[NR_CACHES];
	unsigned int objects[NR_CACHES];
	bool constructed[NR_CACHES];
	struct live live[NR_LIVE];
	unsigned int nr;
	uint64_t done;   /* allocations */
	uint64_t failed; /* for want of memory */
};

static uint64_t next(struct model *model)
{
	/* xorshift64* */
	model->random ^= model->random >> 12;
	model->random ^= model->random << 25;
	model->random ^= model->random >> 27;
	return model->random * UINT64_C(2685821657736338717);
}

static unsigned int below(struct model *model, unsigned int limit)
{
	return (unsigned int)(next(model) >> 33) % limit;
}

/* Small ones often, large ones now and then. */
static size_t random_size(struct model *model, unsigned int max_shift)
{
	unsigned int shift = below(model, max_shift);
	size_t size = (size_t)1 << shift;

	return size + below(model, (unsigned int)size);
}

/* The ends and a few places between. */
static void fill(const struct live *live)
{
	size_t step = live->size / 7 + 1;

	for (size_t i = 0; i < live->size; i += step)
		live->ptr[i] = live->pattern;
	live->ptr[live->size - 1] = live->pattern;
}

static void check(const struct live *live)
{
	size_t step = live->size / 7 + 1;

	for (size_t i = 0; i < live->size; i += step)
		assert_int_equal(live->ptr[i], live->pattern);
	assert_int_equal(live->ptr[live->size - 1], live->pattern);
}

static void construct(void *object)
{
	*(unsigned char *)object = 0xc7;
}

static void add(struct model *model, void *ptr, size_t size, int cache)
{
	struct live *live = &model->live[model->nr];

	if (!ptr) {
		model->failed++;
		return;
	}
	model->done++;
	*live = (struct live){ ptr, size, cache, (unsigned char)next(model) };
	if (cache >= 0) {
		model->objects[cache]++;
		if (model->constructed[cache]) {
			assert_int_equal(live->ptr[0], 0xc7);
			live->pattern = 0xc7;
		}
	}
	fill(live);
	model->nr++;
}

static void drop(struct model *model, unsigned int i)
{
	struct live live = model->live[i];

	check(&live);
	model->live[i] = model->live[--model->nr];
	if (live.cache >= 0) {
		model->objects[live.cache]--;
		kmem_cache_free(model->cache[live.cache], live.ptr);
	} else if (live.cache == -1) {
		mm_kfree(model->pool->mm, live.ptr);
	} else {
		mm_vfree(model->pool->mm, live.ptr);
	}
}

static void create_cache(struct model *model, unsigned int i)
{
	static const slab_flags_t flags[] = { 0,
					      0,
					      0,
					      SLAB_HWCACHE_ALIGN,
					      SLAB_RECLAIM_ACCOUNT,
					      SLAB_LOCKED_SHEAVES,
					      SLAB_DEBUG_FLAGS,
					      SLAB_RED_ZONE,
					      SLAB_POISON | SLAB_STORE_USER };
	char name[KMEM_CACHE_NAME_MAX];

	snprintf(name, sizeof(name), "model-%u", i);
	model->object_size[i] = random_size(model, 16);
	model->constructed[i] = below(model, 4) == 0;
	model->cache[i] = kmem_cache_create(model->pool->mm, name, model->object_size[i],
					    below(model, 3) ? 0 : (size_t)8 << below(model, 8),
					    flags[below(model, sizeof(flags) / sizeof(flags[0]))],
					    model->constructed[i] ? construct : NULL);
	if (!model->cache[i])
		model->failed++;
}

/* A cache is destroyed exactly when nothing of it is allocated. */
static void destroy_cache(struct model *model, unsigned int i)
{
	if (model->objects[i]) {
		char text[64];

		assert_int_equal(kmem_cache_destroy(model->cache[i]), -16);
		snprintf(text, sizeof(text), ": %u objects still allocated", model->objects[i]);
		pool_expect(model->pool, text);
		return;
	}
	assert_int_equal(kmem_cache_destroy(model->cache[i]), 0);
	model->cache[i] = NULL;
}

static void resize(struct model *model)
{
	struct live *live = &model->live[below(model, model->nr)];
	size_t old_step = live->size / 7 + 1;
	size_t size = random_size(model, 17);
	void *ptr;

	if (live->cache != -1)
		return;
	check(live);
	ptr = mm_krealloc(model->pool->mm, live->ptr, size, GFP_NOWAIT);
	if (!ptr) {
		model->failed++;
		check(live);
		return;
	}
	live->ptr = ptr;
	for (size_t i = 0; i < live->size && i < size; i += old_step)
		assert_int_equal(live->ptr[i], live->pattern);
	live->size = size;
	fill(live);
}

static void step_cache(struct model *model)
{
	unsigned int i = below(model, NR_CACHES);
	void *objects[40];
	size_t nr;

	if (!model->cache[i]) {
		create_cache(model, i);
		return;
	}
	if (below(model, 8)) {
		add(model, kmem_cache_alloc(model->cache[i], GFP_NOWAIT), model->object_size[i],
		    (int)i);
		return;
	}
	nr = below(model, 40) + 1;
	if (model->nr + nr > NR_LIVE)
		return;
	nr = kmem_cache_alloc_bulk(model->cache[i], GFP_NOWAIT, nr, objects);
	for (size_t n = 0; n < nr; n++)
		add(model, objects[n], model->object_size[i], (int)i);
}

static void step(struct model *model)
{
	struct mm *mm = model->pool->mm;
	unsigned int what = below(model, 1000);
	size_t size;

	if (what < 420 && model->nr < NR_LIVE) {
		step_cache(model);
	} else if (what < 560 && model->nr < NR_LIVE) {
		size = random_size(model, 17);
		add(model, mm_kmalloc(mm, size, GFP_NOWAIT), size, -1);
	} else if (what < 562 && model->nr < NR_LIVE) {
		size = random_size(model, 3) * FRAME_SIZE / 2;
		add(model, mm_kmalloc(mm, size, GFP_NOWAIT), size, -1);
	} else if (what < 566 && model->nr < NR_LIVE) {
		size = random_size(model, 3) * FRAME_SIZE - 100;
		add(model, mm_vmalloc_node(mm, size, GFP_NOWAIT, NUMA_NO_NODE), size, -2);
	} else if (what < 600 && model->nr) {
		resize(model);
	} else if (what < 990) {
		if (model->nr)
			drop(model, below(model, model->nr));
	} else if (what < 993) {
		for (unsigned int n = model->nr / 2; n; n--)
			drop(model, below(model, model->nr));
	} else {
		unsigned int i = below(model, NR_CACHES);

		if (!model->cache[i])
			return;
		if (what < 996)
			kmem_cache_shrink(model->cache[i]);
		else if (what < 999)
			destroy_cache(model, i);
		else
			kmem_cache_shrink_all(mm);
	}
}

static uint64_t env(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text && *text ? strtoull(text, NULL, 0) : otherwise;
}

static void run(unsigned int nr_nodes, uint64_t frames, unsigned int flags, uint64_t seed)
{
	uint64_t ops = env("FRAMEVISOR_MODEL_OPS", 360000) / 6;
	struct model *model = calloc(1, sizeof(*model));
	struct vmalloc_config config;

	print_message("seed %llu\n", (unsigned long long)seed);
	model->random = seed | 1;
	model->pool = pool_create(nr_nodes, frames, 2, flags);
	for (unsigned int nid = 0; nid < MAX_NUMNODES; nid++)
		config.fd[nid] = nid < nr_nodes ? model->pool->fd[nid] : -1;
	config.window_frames = 0;
	assert_int_equal(mm_vmalloc_init(model->pool->mm, &config), 0);
	for (uint64_t i = 0; i < ops; i++) {
		step(model);
		if (i % 512 == 0)
			pool_validate(model->pool);
	}
	print_message("%llu allocations, %llu refused, %u live at the end\n",
		      (unsigned long long)model->done, (unsigned long long)model->failed,
		      model->nr);
	while (model->nr)
		drop(model, model->nr - 1);
	for (unsigned int i = 0; i < NR_CACHES; i++) {
		if (model->cache[i])
			destroy_cache(model, i);
	}
	pool_validate(model->pool);
	assert_int_equal(mm_vmalloc_exit(model->pool->mm), 0);
	assert_int_equal(mm_slab_errors(model->pool->mm), 0);
	pool_destroy(model->pool);
	free(model);
}

static void test_one_node(void **state)
{
	(void)state;
	run(1, 128, 0, env("FRAMEVISOR_SEED", (uint64_t)time(NULL)));
}

static void test_two_nodes(void **state)
{
	(void)state;
	run(2, 96, 0, env("FRAMEVISOR_SEED", (uint64_t)time(NULL) * 3));
}

static void test_short_of_memory(void **state)
{
	(void)state;
	run(1, 14, 0, env("FRAMEVISOR_SEED", (uint64_t)time(NULL) * 5));
}

static void test_debug(void **state)
{
	(void)state;
	run(1, 128, MM_DEBUG_POISON, env("FRAMEVISOR_SEED", (uint64_t)time(NULL) * 7));
}

struct share {
	struct pool *pool;
	struct kmem_cache *cache[4];
	struct live *slots[256]; /* what a thread allocated, another frees */
	uint64_t seed;
	int number;
	bool stop;
};

static void release(struct share *share, struct live *live)
{
	if (!live)
		return;
	check(live);
	if (live->cache >= 0)
		kmem_cache_free(share->cache[live->cache], live->ptr);
	else
		mm_kfree(share->pool->mm, live->ptr);
	mm_kfree(share->pool->mm, live);
}

static struct live *obtain(struct share *share, struct model *random)
{
	struct live *live = mm_kmalloc(share->pool->mm, sizeof(*live), GFP_NOWAIT);

	if (!live)
		return NULL;
	live->cache = (int)below(random, 6) - 2;
	live->pattern = (unsigned char)next(random);
	if (live->cache >= 0) {
		live->size = kmem_cache_size(share->cache[live->cache]);
		live->ptr = kmem_cache_alloc(share->cache[live->cache], GFP_NOWAIT);
	} else {
		live->size = random_size(random, 14);
		live->ptr = mm_kmalloc(share->pool->mm, live->size, GFP_NOWAIT);
	}
	if (!live->ptr) {
		mm_kfree(share->pool->mm, live);
		return NULL;
	}
	fill(live);
	return live;
}

static void *worker(void *arg)
{
	struct share *share = arg;
	struct model random = { 0 };
	uint64_t ops = env("FRAMEVISOR_MODEL_OPS", 360000) / 12;

	random.random = (share->seed + 1000003u * (uint64_t)__atomic_fetch_add(&share->number, 1,
									       __ATOMIC_RELAXED)) |
			1;
	for (uint64_t i = 0; i < ops; i++) {
		struct live **slot = &share->slots[below(&random, 256)];
		struct live *live = below(&random, 3) ? obtain(share, &random) : NULL;

		release(share, __atomic_exchange_n(slot, live, __ATOMIC_ACQ_REL));
	}
	return NULL;
}

static void *shrinker(void *arg)
{
	struct share *share = arg;

	while (!__atomic_load_n(&share->stop, __ATOMIC_RELAXED)) {
		kmem_cache_shrink_all(share->pool->mm);
		usleep(1000);
	}
	return NULL;
}

/* Four threads exchange objects, one shrinks everything all the time. */
static void test_threads(void **state)
{
	static struct share share;
	pthread_t threads[5];

	(void)state;
	share.seed = env("FRAMEVISOR_SEED", (uint64_t)time(NULL));
	print_message("seed %llu\n", (unsigned long long)share.seed);
	share.pool = pool_create(1, 64, 2, 0);
	for (int i = 0; i < 4; i++) {
		share.cache[i] = kmem_cache_create(share.pool->mm, "threads", (size_t)40 << (2 * i),
						   0, i == 3 ? SLAB_DEBUG_FLAGS : 0, NULL);
		assert_non_null(share.cache[i]);
	}
	assert_int_equal(pthread_create(&threads[4], NULL, shrinker, &share), 0);
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, worker, &share), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	__atomic_store_n(&share.stop, true, __ATOMIC_RELAXED);
	pthread_join(threads[4], NULL);
	pool_validate(share.pool);
	for (int i = 0; i < 256; i++)
		release(&share, share.slots[i]);
	for (int i = 0; i < 4; i++)
		assert_int_equal(kmem_cache_destroy(share.cache[i]), 0);
	assert_int_equal(mm_slab_errors(share.pool->mm), 0);
	pool_destroy(share.pool);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_one_node),        cmocka_unit_test(test_two_nodes),
		cmocka_unit_test(test_short_of_memory), cmocka_unit_test(test_debug),
		cmocka_unit_test(test_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
