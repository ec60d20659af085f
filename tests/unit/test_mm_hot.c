/* SPDX-License-Identifier: MIT */
/*
 * The stacks in front of the per-CPU caches (framevisor/page_hot.h): order, checks, counts, and
 * sequences that are restarted in the middle. Where there are none (ThreadSanitizer, no rseq) the
 * same must hold of the lists.
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/time.h>
#include <unistd.h>

#include "framevisor/vmstat.h"
#include "tests/unit/mm_pool.h"

#define FRAMES 16384
#define BURST  600

static void create(struct pool *pool)
{
	long cpus = sysconf(_SC_NPROCESSORS_CONF);

	pool_create_simple(pool, FRAMES, cpus > 0 ? (unsigned int)cpus : 1);
}

/* To the CPU it runs on: what one call leaves there the next one finds. */
static void stay_here(cpu_set_t *before)
{
	cpu_set_t here;

	assert_int_equal(sched_getaffinity(0, sizeof(*before), before), 0);
	CPU_ZERO(&here);
	CPU_SET((size_t)sched_getcpu(), &here);
	assert_int_equal(sched_setaffinity(0, sizeof(here), &here), 0);
}

static void test_order(void **state)
{
	static struct page *pages[BURST];
	struct page *page[4], *got;
	cpu_set_t before;
	struct pool pool;

	(void)state;
	create(&pool);
	stay_here(&before);
	for (unsigned int i = 0; i < 4; i++)
		page[i] = mm_alloc_page(pool.mm, GFP_KERNEL);
	for (unsigned int i = 0; i < 4; i++)
		mm_free_page(pool.mm, page[i]);
	/* What was freed comes first, in whatever order. */
	for (unsigned int i = 0; i < 4; i++) {
		unsigned int was = 0;

		got = mm_alloc_page(pool.mm, GFP_KERNEL);
		while (was < 4 && page[was] != got)
			was++;
		assert_true(was >= i && was < 4);
		page[was] = page[i];
		page[i] = got;
	}
	/* A free and an allocation after it are about the same frame. */
	for (unsigned int i = 0; i < 4; i++) {
		mm_free_page(pool.mm, page[i]);
		assert_ptr_equal(mm_alloc_page(pool.mm, GFP_KERNEL), page[i]);
	}
	for (unsigned int i = 0; i < 4; i++)
		mm_free_page(pool.mm, page[i]);
	/* More than any stack holds at first: none is lost, none comes twice. */
	for (unsigned int round = 0; round < 8; round++) {
		for (unsigned int i = 0; i < BURST; i++) {
			pages[i] = mm_alloc_page(pool.mm, GFP_HIGHUSER_MOVABLE);
			assert_non_null(pages[i]);
			assert_int_equal(pages[i]->private, 0);
			pages[i]->private = i + 1;
		}
		for (unsigned int i = 0; i < BURST; i++)
			assert_int_equal(pages[i]->private, i + 1);
		for (unsigned int i = 0; i < BURST; i++)
			mm_free_page(pool.mm, pages[i]);
		pool_validate(&pool);
	}
	assert_int_equal(pool_free_frames(&pool), FRAMES);
	sched_setaffinity(0, sizeof(before), &before);
	pool_destroy(&pool);
}

static uint64_t vmstat(struct pool *pool, const char *name)
{
	static char text[16384];
	const char *line;
	char key[64];

	assert_true(mm_report_vmstat(pool->mm, text, sizeof(text)) > 0);
	snprintf(key, sizeof(key), "\n%s ", name);
	line = strstr(text, key);
	assert_non_null(line);
	return strtoull(line + strlen(key), NULL, 10);
}

/* Popped frames are not counted one by one, but the sum is right, also after the stacks were
 * emptied. A preempted sequence may count twice, which is rare. */
static void test_counts(void **state)
{
	const unsigned int pairs = 20000;
	struct page *held[40];
	uint64_t allocated, freed;
	struct pool pool;

	(void)state;
	create(&pool);
	for (unsigned int i = 0; i < pairs; i++) {
		held[i % 40] = mm_alloc_page(pool.mm, GFP_KERNEL);
		if (i % 40 == 39)
			for (unsigned int j = 0; j < 40; j++)
				mm_free_page(pool.mm, held[j]);
		if (i % 5000 == 0)
			mm_drain_all_pages(pool.mm);
	}
	allocated = vmstat(&pool, "pgalloc_normal");
	freed = vmstat(&pool, "pgfree");
	assert_in_range(allocated, pairs, pairs + pairs / 10);
	assert_in_range(freed, pairs, pairs + pairs / 10);
	pool_destroy(&pool);
}

static void expect_message(struct pool *pool, const char *part)
{
	if (pool->messages != 1 || !strstr(pool->last_message, part))
		fail_msg("%u messages, the last: %s", pool->messages, pool->last_message);
	pool->messages = 0;
	pool_validate(pool);
}

/* The short way checks what the long way checks, right after a good free of the same kind. */
static void test_checks(void **state)
{
	struct page *page, *other, copy;
	struct pool pool, foreign;

	(void)state;
	create(&pool);
	create(&foreign);
	other = mm_alloc_page(foreign.mm, GFP_KERNEL);
	page = mm_alloc_page(pool.mm, GFP_KERNEL);
	mm_free_page(pool.mm, page);
	mm_free_page(pool.mm, NULL);
	assert_int_equal(pool.messages, 0);
	mm_free_page(pool.mm, other);
	expect_message(&pool, "no frame of this pool");
	page = mm_alloc_page(pool.mm, GFP_KERNEL);
	copy = *page;
	mm_free_page(pool.mm, &copy);
	expect_message(&pool, "no frame of this pool");
	mm_free_page(pool.mm, (struct page *)(void *)((char *)page + 8));
	expect_message(&pool, "no frame of this pool");
	mm_free_page(pool.mm, page);
	assert_int_equal(pool.messages, 0);
	mm_free_page(pool.mm, page);
	expect_message(&pool, "freed, but not allocated");
	page = mm_alloc_page(pool.mm, GFP_KERNEL);
	page_map(page);
	mm_free_page(pool.mm, page);
	expect_message(&pool, "still mapped");
	page = mm_alloc_page(pool.mm, GFP_KERNEL);
	page->mapping = &pool;
	mm_free_page(pool.mm, page);
	expect_message(&pool, "still belongs to an object");
	page->mapping = NULL;
	page = mm_alloc_page(pool.mm, GFP_KERNEL);
	mm_free_page(pool.mm, page);
	page_map(page); /* in the stack: found when it comes out */
	assert_ptr_not_equal(mm_alloc_page(pool.mm, GFP_KERNEL), page);
	assert_int_equal(pool.messages, 1);
	page_unmap(page);
	mm_free_page(foreign.mm, other);
	assert_int_equal(foreign.messages, 0);
	pool_destroy(&foreign);
	pool_destroy(&pool);
}

struct worker {
	struct mm *mm;
	bool *stop;
	uint64_t pairs;
};

static void *allocate(void *arg)
{
	struct worker *worker = arg;
	struct page *held[64] = { NULL };

	for (unsigned int i = 0; !__atomic_load_n(worker->stop, __ATOMIC_RELAXED); i++) {
		struct page *page = mm_alloc_page(worker->mm, GFP_KERNEL);

		if (!page)
			continue;
		/* Mostly pairs, and some that go and come out of order. */
		if (i % 3) {
			mm_free_page(worker->mm, page);
		} else {
			if (held[i % 64])
				mm_free_page(worker->mm, held[i % 64]);
			held[i % 64] = page;
		}
		worker->pairs++;
	}
	for (unsigned int i = 0; i < 64; i++)
		if (held[i])
			mm_free_page(worker->mm, held[i]);
	return NULL;
}

/* By whichever threads get them. */
static int signals;

static void count_signal(int signo)
{
	(void)signo;
	__atomic_add_fetch(&signals, 1, __ATOMIC_RELAXED);
}

/*
 * Signals, preemption by more threads than CPUs, and membarrier() of a thread that empties the
 * stacks all the time: sequences end in the middle, and no frame may be lost, doubled, or look as
 * if it had been freed twice.
 */
static void test_restarts(void **state)
{
	const struct itimerval often = { { 0, 100 }, { 0, 100 } }, never = { { 0, 0 }, { 0, 0 } };
	const struct sigaction action = { .sa_handler = count_signal, .sa_flags = SA_RESTART };
	struct worker workers[4];
	pthread_t threads[4];
	bool stop = false;
	struct pool pool;

	(void)state;
	create(&pool);
	__atomic_store_n(&signals, 0, __ATOMIC_RELAXED);
	assert_int_equal(sigaction(SIGALRM, &action, NULL), 0);
	for (unsigned int i = 0; i < 4; i++) {
		workers[i] = (struct worker){ pool.mm, &stop, 0 };
		assert_int_equal(pthread_create(&threads[i], NULL, allocate, &workers[i]), 0);
	}
	assert_int_equal(setitimer(ITIMER_REAL, &often, NULL), 0);
	for (unsigned int i = 0; i < 3000; i++) {
		struct page *page = mm_alloc_page(pool.mm, GFP_KERNEL);

		mm_free_page(pool.mm, page);
		mm_drain_all_pages(pool.mm);
		if (i % 16 == 0)
			usleep(200);
	}
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	for (unsigned int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(setitimer(ITIMER_REAL, &never, NULL), 0);
	printf("%d signals, %llu pairs\n", __atomic_load_n(&signals, __ATOMIC_RELAXED),
	       (unsigned long long)(workers[0].pairs + workers[1].pairs + workers[2].pairs +
				    workers[3].pairs));
	assert_true(__atomic_load_n(&signals, __ATOMIC_RELAXED) > 0);
	if (pool.messages)
		fail_msg("%s", pool.last_message);
	assert_int_equal(pool_free_frames(&pool), FRAMES);
	pool_destroy(&pool);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_order),
		cmocka_unit_test(test_counts),
		cmocka_unit_test(test_checks),
		cmocka_unit_test(test_restarts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
