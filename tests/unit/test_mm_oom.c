/* SPDX-License-Identifier: MIT */
/* Out of memory (mm/oom.c) and allocations that never fail (mm/slowpath.c). */
#include <errno.h>
#include <pthread.h>

#include "framevisor/oom.h"
#include "framevisor/vmscan.h"
#include "framevisor/vmstat.h"
#include "tests/unit/mm_pool.h"
#include "tests/unit/sleep.h"

#define MAX_HELD 256

struct guest {
	struct mm_oom_holder holder;
	struct pool *pool;
	struct page *held[MAX_HELD];
	unsigned int nr;
	unsigned int kills;
	int answer;        /* of kill() */
	bool slow;         /* the frames come later, by give_up() */
	int kill_ms;       /* kill() itself takes so long */
	bool allocates;    /* kill() needs a frame that it must get */
	struct page *mine; /* and it is this one */
};

static uint64_t guest_held(struct mm_oom_holder *holder)
{
	return __atomic_load_n(&((struct guest *)holder->opaque)->nr, __ATOMIC_ACQUIRE);
}

static void give_up(struct guest *guest)
{
	unsigned int nr = guest->nr;

	for (unsigned int i = 0; i < nr; i++)
		mm_free_pages(guest->pool->mm, guest->held[i], 0);
	__atomic_store_n(&guest->nr, 0, __ATOMIC_RELEASE);
}

static int guest_kill(struct mm_oom_holder *holder)
{
	struct guest *guest = holder->opaque;

	__atomic_add_fetch(&guest->kills, 1, __ATOMIC_RELEASE);
	if (guest->answer)
		return guest->answer;
	if (guest->allocates) {
		guest->mine = mm_alloc_pages(guest->pool->mm, GFP_KERNEL | __GFP_NOFAIL, 0);
		assert_non_null(guest->mine);
	}
	if (guest->kill_ms)
		sleep_ms((unsigned int)guest->kill_ms);
	if (!guest->slow)
		give_up(guest);
	return 0;
}

static void guest_start(struct guest *guest, struct pool *pool, uint32_t id, unsigned int frames)
{
	memset(guest, 0, sizeof(*guest));
	guest->pool = pool;
	guest->holder = (struct mm_oom_holder){
		.held_pages = guest_held, .kill = guest_kill, .id = id, .opaque = guest
	};
	assert_int_equal(mm_register_oom_holder(pool->mm, &guest->holder), 0);
	while (guest->nr < frames) {
		guest->held[guest->nr] = mm_alloc_pages(pool->mm, GFP_NOWAIT, 0);
		assert_non_null(guest->held[guest->nr]);
		guest->nr++;
	}
}

static void guest_stop(struct guest *guest)
{
	mm_unregister_oom_holder(guest->pool->mm, &guest->holder);
	give_up(guest);
	if (guest->mine)
		mm_free_pages(guest->pool->mm, guest->mine, 0);
}

/* A list of everything that is left, so that it can be given back. */
static unsigned int exhaust(struct pool *pool, struct page **pages, gfp_t gfp)
{
	unsigned int nr = 0;

	while (nr < 512 && (pages[nr] = mm_alloc_pages(pool->mm, gfp | __GFP_NOWARN, 0)) != NULL)
		nr++;
	return nr;
}

static void release(struct pool *pool, struct page **pages, unsigned int nr)
{
	while (nr > 0)
		mm_free_pages(pool->mm, pages[--nr], 0);
}

static void test_badness(void **state)
{
	struct mm_oom_candidate worst[3];
	struct guest a, b, c, d;
	struct pool pool;

	(void)state;
	pool_create_simple(&pool, 500, 1);
	guest_start(&a, &pool, 1, 100);
	guest_start(&b, &pool, 2, 150);
	guest_start(&c, &pool, 3, 20);
	guest_start(&d, &pool, 4, 200);
	assert_int_equal(mm_oom_set_adj(pool.mm, &c.holder, 1001), -EINVAL);
	assert_int_equal(mm_oom_set_adj(pool.mm, &c.holder, 300), 0);
	assert_int_equal(mm_oom_set_adj(pool.mm, &d.holder, OOM_SCORE_ADJ_MIN), 0);
	assert_int_equal(mm_oom_candidates(pool.mm, worst, 3), 3);
	assert_ptr_equal(worst[0].holder, &c.holder);
	assert_int_equal(worst[0].badness, 20 + 150);
	assert_int_equal(worst[0].held, 20);
	assert_ptr_equal(worst[1].holder, &b.holder);
	assert_ptr_equal(worst[2].holder, &a.holder);
	guest_stop(&a);
	guest_stop(&b);
	guest_stop(&c);
	guest_stop(&d);
	pool_destroy(&pool);
}

/* Who has the lowest adjustment is never chosen, not even when there is nobody else. */
static void test_never_chosen(void **state)
{
	static struct page *rest[512];
	struct guest guest;
	struct pool pool;
	unsigned int nr;

	(void)state;
	pool_create_simple(&pool, 500, 1);
	guest_start(&guest, &pool, 1, 100);
	assert_int_equal(mm_oom_set_adj(pool.mm, &guest.holder, OOM_SCORE_ADJ_MIN), 0);
	nr = exhaust(&pool, rest, GFP_NOWAIT);
	assert_null(mm_alloc_pages(pool.mm, GFP_KERNEL | __GFP_NOWARN, 0));
	assert_int_equal(guest.kills, 0);
	assert_int_equal(mm_oom_set_adj(pool.mm, &guest.holder, OOM_SCORE_ADJ_MIN + 1), 0);
	rest[nr] = mm_alloc_pages(pool.mm, GFP_KERNEL, 0);
	assert_non_null(rest[nr++]);
	assert_int_equal(guest.kills, 1);
	guest_stop(&guest);
	release(&pool, rest, nr);
	pool_destroy(&pool);
}

/* The worst is killed, once, and says so; one that cannot be is skipped. */
static void test_kill(void **state)
{
	static struct page *rest[512];
	struct guest small, large, refusing;
	struct page *page;
	struct pool pool;
	unsigned int nr;

	(void)state;
	pool_create_simple(&pool, 256, 1);
	guest_start(&small, &pool, 1, 20);
	guest_start(&large, &pool, 2, 60);
	guest_start(&refusing, &pool, 3, 100);
	refusing.answer = -EPERM;
	nr = exhaust(&pool, rest, GFP_NOWAIT);
	assert_null(mm_alloc_pages(pool.mm, GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN, 0));
	assert_null(mm_alloc_pages(pool.mm, GFP_KERNEL | __GFP_RETRY_MAYFAIL | __GFP_NOWARN, 0));
	assert_null(mm_alloc_pages(pool.mm, GFP_KERNEL | __GFP_THISNODE | __GFP_NOWARN, 0));
	assert_null(mm_alloc_pages(pool.mm, GFP_NOFS | __GFP_NOWARN, 0));
	assert_null(mm_alloc_pages(pool.mm, GFP_KERNEL | __GFP_NOWARN, 4));
	assert_int_equal(small.kills + large.kills + refusing.kills, 0);
	page = mm_alloc_pages(pool.mm, GFP_KERNEL, 0);
	assert_non_null(page);
	assert_int_equal(refusing.kills, 1);
	assert_int_equal(large.kills, 1);
	assert_int_equal(small.kills, 0);
	assert_int_equal(mm_vm_event(pool.mm, OOM_KILL), 1);
	assert_non_null(strstr(pool.last_message, "killing holder 2, badness 60"));
	mm_free_pages(pool.mm, page, 0);
	release(&pool, rest, nr);
	guest_stop(&small);
	guest_stop(&large);
	guest_stop(&refusing);
	pool_destroy(&pool);
}

static void *give_up_later(void *arg)
{
	struct guest *guest = arg;

	while (!__atomic_load_n(&guest->kills, __ATOMIC_ACQUIRE))
		sleep_ms(1);
	sleep_ms(50);
	give_up(guest);
	return NULL;
}

static void *alloc_one(void *arg)
{
	return mm_alloc_pages(arg, GFP_KERNEL, 0);
}

/* While a victim is still giving up, nobody else is killed, and all wait for it. */
static void test_slow_victim(void **state)
{
	static struct page *rest[512];
	struct guest victim, other;
	pthread_t threads[3];
	struct pool pool;
	unsigned int nr;
	void *pages[2];

	(void)state;
	pool_create_simple(&pool, 256, 1);
	guest_start(&victim, &pool, 1, 60);
	guest_start(&other, &pool, 2, 40);
	victim.slow = true;
	nr = exhaust(&pool, rest, GFP_NOWAIT);
	pthread_create(&threads[2], NULL, give_up_later, &victim);
	for (unsigned int i = 0; i < 2; i++)
		pthread_create(&threads[i], NULL, alloc_one, pool.mm);
	for (unsigned int i = 0; i < 2; i++) {
		pthread_join(threads[i], &pages[i]);
		assert_non_null(pages[i]);
		mm_free_pages(pool.mm, pages[i], 0);
	}
	pthread_join(threads[2], NULL);
	assert_int_equal(victim.kills, 1);
	assert_int_equal(other.kills, 0);
	release(&pool, rest, nr);
	guest_stop(&victim);
	guest_stop(&other);
	pool_destroy(&pool);
}

/* Nor does one fail while the callback of another thread's OOM is at work. */
static void test_slow_kill(void **state)
{
	static struct page *rest[512];
	struct guest victim;
	pthread_t threads[3];
	struct pool pool;
	unsigned int nr;
	void *pages[3];

	(void)state;
	pool_create_simple(&pool, 256, 1);
	guest_start(&victim, &pool, 1, 60);
	victim.kill_ms = 300;
	nr = exhaust(&pool, rest, GFP_NOWAIT);
	for (unsigned int i = 0; i < 3; i++)
		pthread_create(&threads[i], NULL, alloc_one, pool.mm);
	for (unsigned int i = 0; i < 3; i++) {
		pthread_join(threads[i], &pages[i]);
		assert_non_null(pages[i]);
		mm_free_pages(pool.mm, pages[i], 0);
	}
	assert_int_equal(victim.kills, 1);
	release(&pool, rest, nr);
	guest_stop(&victim);
	pool_destroy(&pool);
}

static void *alloc_nofail(void *arg)
{
	return mm_alloc_pages(arg, GFP_KERNEL | __GFP_NOFAIL, 1);
}

/*
 * Not a frame is left, not even in the reserves. Several allocations that never fail wait; the
 * victim's kill() itself needs a frame that must not fail, from inside the OOM. Nobody holds what
 * another waits for: the first frame freed by anybody sets everything going.
 */
static void test_nofail_no_deadlock(void **state)
{
	static struct page *rest[512];
	pthread_t threads[4];
	struct guest victim;
	struct pool pool;
	unsigned int nr;
	void *page;

	(void)state;
	pool_create_simple(&pool, 256, 2);
	guest_start(&victim, &pool, 1, 100);
	victim.allocates = true;
	nr = exhaust(&pool, rest, GFP_NOWAIT | __GFP_MEMALLOC);
	assert_int_equal(mm_start_kswapd(pool.mm), 0);
	for (unsigned int i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, alloc_nofail, pool.mm);
	while (!__atomic_load_n(&victim.kills, __ATOMIC_ACQUIRE))
		sleep_ms(1);
	sleep_ms(30);
	assert_int_equal(__atomic_load_n(&victim.nr, __ATOMIC_ACQUIRE), 100);
	for (unsigned int i = 0; i < 9; i++)
		mm_free_pages(pool.mm, rest[--nr], 0);
	for (unsigned int i = 0; i < 4; i++) {
		pthread_join(threads[i], &page);
		assert_non_null(page);
		mm_free_pages(pool.mm, page, 1);
	}
	assert_int_equal(victim.nr, 0);
	release(&pool, rest, nr);
	guest_stop(&victim);
	pool_destroy(&pool);
}

static struct page *reserve[8];

/* A reclaimer that itself needs a frame that must not fail. */
static uint64_t count_one(struct shrinker *shrinker, struct shrink_control *sc)
{
	(void)shrinker;
	(void)sc;
	return 8;
}

static uint64_t scan_nofail(struct shrinker *shrinker, struct shrink_control *sc)
{
	struct page *page = mm_alloc_pages(sc->mm, GFP_KERNEL | __GFP_NOFAIL, 0);
	unsigned int *left = shrinker->opaque;

	assert_non_null(page);
	mm_free_pages(sc->mm, page, 0);
	if (*left == 0)
		return SHRINK_STOP;
	mm_free_pages(sc->mm, reserve[--*left], 0);
	return 1;
}

static void test_nofail_inside_reclaim(void **state)
{
	static struct page *rest[512];
	unsigned int left = 8, nr;
	struct shrinker shrinker = { .count_objects = count_one,
				     .scan_objects = scan_nofail,
				     .opaque = &left };
	struct page *page;
	struct pool pool;

	(void)state;
	pool_create_simple(&pool, 256, 1);
	for (unsigned int i = 0; i < 8; i++)
		reserve[i] = mm_alloc_pages(pool.mm, GFP_KERNEL, 0);
	mm_register_shrinker(pool.mm, &shrinker);
	nr = exhaust(&pool, rest, GFP_NOWAIT);
	page = mm_alloc_pages(pool.mm, GFP_KERNEL | __GFP_NOFAIL, 0);
	assert_non_null(page);
	assert_true(left < 8);
	mm_unregister_shrinker(pool.mm, &shrinker);
	mm_free_pages(pool.mm, page, 0);
	release(&pool, rest, nr);
	release(&pool, reserve, left);
	pool_destroy(&pool);
}

/* __GFP_NOFAIL without the right to wait is a contradiction: it may fail. */
static void test_nofail_needs_wait(void **state)
{
	static struct page *rest[512];
	struct pool pool;
	unsigned int nr;

	(void)state;
	pool_create_simple(&pool, 256, 1);
	nr = exhaust(&pool, rest, GFP_NOWAIT);
	assert_null(mm_alloc_pages(pool.mm, GFP_NOWAIT | __GFP_NOFAIL, 0));
	release(&pool, rest, nr);
	pool_destroy(&pool);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_badness),
		cmocka_unit_test(test_never_chosen),
		cmocka_unit_test(test_kill),
		cmocka_unit_test(test_slow_victim),
		cmocka_unit_test(test_slow_kill),
		cmocka_unit_test(test_nofail_no_deadlock),
		cmocka_unit_test(test_nofail_inside_reclaim),
		cmocka_unit_test(test_nofail_needs_wait),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
