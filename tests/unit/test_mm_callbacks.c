/* SPDX-License-Identifier: MIT */
/*
 * Callbacks that misbehave, at random: they refuse, say they freed what they did not, come back
 * into the allocator, free other frames, or leave a frame in a state it must not have. The
 * allocator stays consistent, ends each call, and what was left broken is reported and quarantined.
 * FRAMEVISOR_SEED repeats a run.
 */
#include <errno.h>
#include <time.h>

#include "framevisor/compaction.h"
#include "framevisor/oom.h"
#include "framevisor/vmscan.h"
#include "tests/unit/mm_pool.h"

#define FRAMES 512
#define ROUNDS 3000
#define STEADY GFP_HIGHUSER_MOVABLE

struct world {
	struct pool pool;
	struct page *held[FRAMES]; /* by page->index */
	bool lru[FRAMES];
	bool isolated[FRAMES];  /* between isolate() and migrate() or putback() */
	struct page *spare[16]; /* what a callback may free */
	unsigned int nr_spare;
	uint64_t seed;
	uint64_t lies;   /* broken states left behind */
	uint64_t busy;   /* callbacks at the moment, one within another */
	uint64_t called; /* in all */
};

static uint64_t below(struct world *world, uint64_t n)
{
	uint64_t x = world->seed += 0x9e3779b97f4a7c15u;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return (x ^ x >> 31) % n;
}

static void let_go(struct world *world, uint64_t index)
{
	struct page *page = world->held[index];

	if (!page)
		return;
	if (world->lru[index] && !mm_lru_del(world->pool.mm, page))
		return; /* somebody looks at it: theirs to decide */
	/* A word broken: freed although isolate() said yes. */
	world->lies += world->isolated[index];
	world->isolated[index] = false;
	world->held[index] = NULL;
	world->lru[index] = false;
	page_unmap(page);
	mm_free_pages(world->pool.mm, page, 0);
}

/* What any callback may do beside its work. */
static void come_back(struct world *world)
{
	struct mm *mm = world->pool.mm;
	struct page *page;

	world->called++;
	if (world->busy++ == 0) {
		switch (below(world, 8)) {
		case 0: /* from the reserves, without waiting for itself */
			page = mm_alloc_pages(mm, GFP_KERNEL | __GFP_NOWARN, 0);
			if (page)
				mm_free_pages(mm, page, 0);
			break;
		case 1:
			mm_drain_all_pages(mm);
			break;
		case 2:
			mm_compact_node(mm, -1);
			break;
		case 3:
			mm_reclaim_pages(mm, -1, 3, GFP_KERNEL);
			break;
		case 4:
			if (world->nr_spare)
				mm_free_pages(mm, world->spare[--world->nr_spare], 0);
			break;
		case 5:
			let_go(world, below(world, FRAMES) / 2 * 2); /* often another frame */
			break;
		default:
			break;
		}
	}
	world->busy--;
}

static int reclaim(void *opaque, struct page *page, gfp_t gfp)
{
	struct world *world = opaque;
	uint64_t index = page->index;

	(void)gfp;
	come_back(world);
	switch (below(world, 5)) {
	case 0:
		return -EBUSY;
	case 1: /* says yes and stays mapped: the frame is in use, and must not come back */
		world->held[index] = NULL;
		world->lies++;
		return 0;
	default:
		world->held[index] = NULL;
		world->lru[index] = false;
		page_unmap(page);
		return 0;
	}
}

static bool isolate(void *opaque, struct page *page)
{
	struct world *world = opaque;
	uint64_t index = page->index;

	come_back(world);
	if (index >= FRAMES || world->lru[index])
		return false;
	world->isolated[index] = world->held[index] == page;
	/* Sometimes also for a frame that is not its own or not in use any more. */
	return world->isolated[index] || below(world, 4) == 0;
}

static void putback(void *opaque, struct page *page)
{
	struct world *world = opaque;

	if (page->index < FRAMES && world->held[page->index] == page)
		world->isolated[page->index] = false;
	come_back(world);
}

static int migrate(void *opaque, struct page *from, struct page *to, enum migrate_mode mode)
{
	struct world *world = opaque;

	(void)mode;
	come_back(world);
	if (from->index >= FRAMES || world->held[from->index] != from)
		return 17; /* no error number at all */
	if (below(world, 4) == 0)
		return -EAGAIN;
	mm_migrate_page_state(from, to);
	world->held[to->index] = to;
	world->isolated[to->index] = false;
	return 0;
}

static uint64_t count_objects(struct shrinker *shrinker, struct shrink_control *sc)
{
	static const uint64_t counts[] = { 0,           1,
					   1000,        UINT64_MAX - 1,
					   SHRINK_STOP, UINT64_C(1) << 62 };

	(void)sc;
	come_back(shrinker->opaque);
	return counts[below(shrinker->opaque, sizeof(counts) / sizeof(counts[0]))];
}

static uint64_t scan_objects(struct shrinker *shrinker, struct shrink_control *sc)
{
	come_back(shrinker->opaque);
	return below(shrinker->opaque, 3) ? SHRINK_STOP : sc->nr_to_scan * 1000;
}

static uint64_t held_pages(struct mm_oom_holder *holder)
{
	static const uint64_t counts[] = { 0, 5, UINT64_MAX, UINT64_C(1) << 63 };

	come_back(holder->opaque);
	return counts[below(holder->opaque, 4)];
}

/* Says that it gives up everything, and gives up nothing; or refuses. */
static int kill_holder(struct mm_oom_holder *holder)
{
	come_back(holder->opaque);
	return below(holder->opaque, 2) ? 0 : -EPERM;
}

static bool oom(void *opaque, struct mm *mm, gfp_t gfp, unsigned int order)
{
	(void)mm, (void)gfp, (void)order;
	come_back(opaque);
	return below(opaque, 3) == 0;
}

static const struct mm_reclaim_ops reclaim_ops = { .reclaim = reclaim };
static const struct mm_migrate_ops migrate_ops = { migrate, isolate, putback };

static void touch(struct world *world, uint64_t index)
{
	struct page *page =
		mm_alloc_pages(world->pool.mm, STEADY | __GFP_NOWARN | __GFP_NORETRY, 0);

	if (!page)
		return;
	if (world->held[index]) { /* a callback was faster */
		mm_free_pages(world->pool.mm, page, 0);
		return;
	}
	page_set_owner(page, 1, index);
	page_map(page);
	world->held[index] = page;
	world->lru[index] = index & 1;
	if (world->lru[index])
		mm_lru_add(world->pool.mm, page);
}

static void step(struct world *world)
{
	struct mm *mm = world->pool.mm;
	uint64_t index = below(world, FRAMES);
	struct page *page;

	if (world->held[index] && below(world, 2))
		let_go(world, index);
	else if (!world->held[index])
		touch(world, index);
	switch (below(world, 24)) {
	case 0:
		mm_compact_node(mm, 0);
		break;
	case 1:
		mm_reclaim_pages(mm, 0, below(world, 10), GFP_KERNEL);
		break;
	case 2:
		page = mm_alloc_pages(mm, GFP_KERNEL | __GFP_NOWARN | __GFP_NORETRY, 3);
		if (page)
			mm_free_pages(mm, page, 3);
		break;
	case 3:
		if (mm_offline_pages(mm, 0, 64, 64) == 0)
			assert_int_equal(mm_online_pages(mm, 0, 64, 64, false), 0);
		break;
	case 4:
		page = mm_alloc_pages(mm, GFP_NOWAIT, 0);
		if (page && world->nr_spare < 16)
			world->spare[world->nr_spare++] = page;
		else if (page)
			mm_free_pages(mm, page, 0);
		break;
	default:
		break;
	}
}

static void create(struct world *world, uint64_t seed)
{
	memset(world, 0, sizeof(*world));
	world->seed = seed;
	pool_create_simple(&world->pool, FRAMES, 1);
	mm_set_reclaim_ops(world->pool.mm, &reclaim_ops, world);
	mm_set_migrate_ops(world->pool.mm, &migrate_ops, world);
	mm_set_oom_handler(world->pool.mm, oom, world);
}

static void test_random_misbehaviour(void **state)
{
	const char *text = getenv("FRAMEVISOR_SEED");
	uint64_t seed = text ? strtoull(text, NULL, 0) : (uint64_t)time(NULL);
	static struct world world;
	struct shrinker shrinker = { .count_objects = count_objects,
				     .scan_objects = scan_objects,
				     .opaque = &world };
	struct mm_oom_holder holder = { .held_pages = held_pages,
					.kill = kill_holder,
					.opaque = &world };
	struct mm_counts counts;

	(void)state;
	print_message("seed %llu\n", (unsigned long long)seed);
	create(&world, seed);
	assert_int_equal(mm_register_shrinker(world.pool.mm, &shrinker), 0);
	assert_int_equal(mm_register_oom_holder(world.pool.mm, &holder), 0);
	for (unsigned int round = 0; round < ROUNDS; round++) {
		step(&world);
		pool_validate(&world.pool);
	}
	assert_true(world.called > 100);
	mm_unregister_oom_holder(world.pool.mm, &holder);
	mm_unregister_shrinker(world.pool.mm, &shrinker);
	/* Each lie cost one frame, and nothing else did. */
	mm_counts(world.pool.mm, -1, &counts);
	assert_int_equal(counts.quarantined, world.lies);
	for (uint64_t i = 0; i < FRAMES; i++)
		if (world.held[i])
			let_go(&world, i);
	while (world.nr_spare)
		mm_free_pages(world.pool.mm, world.spare[--world.nr_spare], 0);
	mm_counts(world.pool.mm, -1, &counts);
	assert_int_equal(counts.allocated, 0);
	pool_destroy(&world.pool);
}

static uint64_t one_object(struct shrinker *shrinker, struct shrink_control *sc)
{
	(void)shrinker, (void)sc;
	return 1;
}

static uint64_t always_says_one(struct shrinker *shrinker, struct shrink_control *sc)
{
	(void)sc;
	++*(unsigned int *)shrinker->opaque;
	return 1;
}

/* A shrinker that says it frees and never does: the allocation ends all the same. */
static void test_endless_progress(void **state)
{
	unsigned int calls = 0;
	struct shrinker shrinker = { .count_objects = one_object,
				     .scan_objects = always_says_one,
				     .opaque = &calls };
	struct pool pool;

	(void)state;
	pool_create_simple(&pool, 64, 1);
	while (mm_alloc_pages(pool.mm, GFP_NOWAIT, 0))
		;
	mm_register_shrinker(pool.mm, &shrinker);
	assert_null(mm_alloc_pages(pool.mm, GFP_KERNEL | __GFP_NOWARN, 0));
	assert_true(calls > 100);
	mm_unregister_shrinker(pool.mm, &shrinker);
	pool_validate(&pool);
	mm_destroy(pool.mm);
	free(pool.metadata);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random_misbehaviour),
		cmocka_unit_test(test_endless_progress),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
