/* SPDX-License-Identifier: MIT */
/*
 * A guest's frames against a real pool owner: first touches, taking away under load, backing, an
 * empty pool, a killed process; and after each that every frame is where the numbers say.
 *
 * Runs twice: on hugepages (where the owner can have them) and on ordinary memory.
 */
#include "vm_memory_fixture.h"

static void test_touch(void **state)
{
	struct fixture f;
	struct vm_memory_stats stats;

	(void)state;
	open_memory(&f);
	for (unsigned int i = 0; i < RAM_FRAMES; i += 2) {
		uint64_t *words = frame_words(&f, i);

		for (unsigned int w = 0; w < FRAME_SIZE / sizeof(*words); w += 64)
			assert_int_equal(words[w], 0);
		words[5] = 1000 + i;
	}
	settle();
	vm_memory_stats(f.mem, &stats);
	assert_int_equal(stats.bound, RAM_FRAMES / 2);
	assert_int_equal(stats.faults, RAM_FRAMES / 2);
	assert_int_equal(stats.touched_released, 0);
	assert_true(stats.stock <= 4 * 2);
	assert_conserved(&f, NULL);

	vm_memory_drain_stock(f.mem);
	vm_memory_stats(f.mem, &stats);
	assert_int_equal(stats.stock, 0);
	assert_conserved(&f, NULL);
	for (unsigned int i = 0; i < RAM_FRAMES; i += 2)
		assert_int_equal(frame_words(&f, i)[5], 1000 + i);
	close_memory(&f);
	assert_int_equal(held_frames("vm"), 0);
}

static void test_release_and_back(void **state)
{
	struct fixture f;
	const struct guest_frame_ops *ops;
	struct vm_memory_stats stats;

	(void)state;
	open_memory(&f);
	ops = f.gm->frame_ops;
	/* By name, so that none is bound beside them. */
	assert_int_equal(ops->back(f.gm->frame_opaque, 0, 10), 0);
	for (unsigned int i = 0; i < 10; i++)
		frame_words(&f, i)[7] = i + 1;
	assert_int_equal(ops->release(f.gm->frame_opaque, 4096, 1), -EINVAL);
	assert_int_equal(ops->release(f.gm->frame_opaque, frame_gpa(LOW_FRAMES - 1), 2), -EINVAL);
	assert_int_equal(ops->back(f.gm->frame_opaque, HIGH_GPA - FRAME_SIZE, 1), -EINVAL);

	/* 3..12, of which 3..9 are there; then again: nothing is there. */
	assert_int_equal(ops->release(f.gm->frame_opaque, frame_gpa(3), 10), 7);
	assert_int_equal(ops->release(f.gm->frame_opaque, frame_gpa(3), 10), 0);
	settle();
	vm_memory_stats(f.mem, &stats);
	assert_int_equal(stats.bound, 3);
	assert_int_equal(stats.released, 10 + 1); /* and frame LOW_FRAMES - 1 above */
	assert_conserved(&f, NULL);

	assert_int_equal(ops->back(f.gm->frame_opaque, frame_gpa(3), 2), 0);
	vm_memory_stats(f.mem, &stats);
	assert_int_equal(stats.bound, 5);
	assert_int_equal(stats.released, 9);
	assert_int_equal(stats.touched_released, 0);
	for (unsigned int i = 0; i < 10; i++)
		assert_int_equal(frame_words(&f, i)[7], i < 3 ? i + 1 : 0);
	vm_memory_stats(f.mem, &stats);
	assert_int_equal(stats.bound, 10);
	assert_int_equal(stats.touched_released, 5);
	assert_int_equal(stats.released, 4);

	/* Promised: nothing is bound for it, and the touch is one like any other. */
	assert_int_equal(ops->release(f.gm->frame_opaque, frame_gpa(5), 1), 1);
	assert_int_equal(ops->promise(f.gm->frame_opaque, frame_gpa(5), 1), 0);
	vm_memory_stats(f.mem, &stats);
	assert_int_equal(stats.bound, 9);
	assert_int_equal(stats.released, 4);
	assert_int_equal(frame_words(&f, 5)[7], 0);
	vm_memory_stats(f.mem, &stats);
	assert_int_equal(stats.touched_released, 5);
	assert_int_equal(ops->promise(f.gm->frame_opaque, HIGH_GPA - FRAME_SIZE, 1), -EINVAL);

	assert_int_equal(ops->back(f.gm->frame_opaque, 0, LOW_FRAMES), 0);
	assert_int_equal(ops->back(f.gm->frame_opaque, HIGH_GPA, HIGH_FRAMES), 0);
	vm_memory_stats(f.mem, &stats);
	assert_int_equal(stats.bound, RAM_FRAMES);
	assert_int_equal(stats.released, 0);
	assert_int_equal(stats.stock, 0);
	assert_conserved(&f, NULL);
	close_memory(&f);
	assert_int_equal(held_frames("vm"), 0);
}

#define HAMMERS 2
/* Frames 0..HAMMER_KEPT-1 stay, the ones up to HAMMER_FRAMES are taken again and again. */
#define HAMMER_KEPT   8
#define HAMMER_FRAMES LOW_FRAMES

struct hammer {
	struct fixture *f;
	unsigned int index;
	atomic_bool *stop;
	uint64_t rounds;
	uint64_t resets; /* times a counter was found back at zero */
	uint64_t wrong;  /* values that are neither the last one nor zero */
	uint64_t count[HAMMER_FRAMES];
};

/* Counters on two pages of each frame, of this thread alone. */
static void *hammer_thread(void *opaque)
{
	struct hammer *h = opaque;

	while (!atomic_load(h->stop)) {
		for (unsigned int i = 0; i < HAMMER_FRAMES; i++) {
			volatile uint64_t *words = frame_words(h->f, i);
			uint64_t value = words[h->index];

			if (value == 0 && h->count[i] != 0 && i >= HAMMER_KEPT) {
				h->resets++;
				h->count[i] = 0;
			} else if (value != h->count[i]) {
				h->wrong++;
			}
			h->count[i]++;
			words[h->index] = h->count[i];
		}
		h->rounds++;
	}
	return NULL;
}

/* What was released just now may be on its way back to the stock still: that is no end of memory.
 */
static void back_soon(struct fixture *f, unsigned int first, unsigned int nr)
{
	uint64_t end = now_ms() + 10000;
	int ret;

	do
		ret = f->gm->frame_ops->back(f->gm->frame_opaque, frame_gpa(first), nr);
	while (ret == -ENOMEM && now_ms() < end);
	assert_int_equal(ret, 0);
}

static void test_release_under_load(void **state)
{
	struct fixture f;
	struct hammer hammers[HAMMERS] = { 0 };
	pthread_t threads[HAMMERS];
	atomic_bool stop = false;
	uint64_t until = now_ms() + 700;
	unsigned int n = 0;
	uint64_t resets = 0;
	struct vm_memory_stats stats;

	(void)state;
	open_memory(&f);
	for (unsigned int t = 0; t < HAMMERS; t++) {
		hammers[t] = (struct hammer){ .f = &f, .index = 8 * t, .stop = &stop };
		assert_int_equal(pthread_create(&threads[t], NULL, hammer_thread, &hammers[t]), 0);
	}
	while (now_ms() < until) {
		unsigned int first = HAMMER_KEPT + n % 8;

		/* Single frames, runs, and some backed before they are touched. */
		assert_true(f.gm->frame_ops->release(f.gm->frame_opaque, frame_gpa(first),
						     n % 3 ? 1 : 5) >= 0);
		if (n % 4 == 0)
			back_soon(&f, first, 2);
		n++;
	}
	atomic_store(&stop, true);
	for (unsigned int t = 0; t < HAMMERS; t++) {
		pthread_join(threads[t], NULL);
		resets += hammers[t].resets;
		assert_int_equal(hammers[t].wrong, 0);
		assert_true(hammers[t].rounds > 0);
		for (unsigned int i = 0; i < HAMMER_KEPT; i++)
			assert_int_equal(hammers[t].count[i], frame_words(&f, i)[8 * t]);
	}
	assert_true(resets > 0);
	settle();
	vm_memory_stats(f.mem, &stats);
	assert_true(stats.touched_released > 0);
	assert_conserved(&f, NULL);
	print_message("%u releases, %llu counters seen reset, %llu + %llu rounds\n", n,
		      (unsigned long long)resets, (unsigned long long)hammers[0].rounds,
		      (unsigned long long)hammers[1].rounds);

	for (unsigned int i = HAMMER_KEPT; i < HAMMER_FRAMES; i++)
		f.gm->frame_ops->release(f.gm->frame_opaque, frame_gpa(i), 1);
	for (unsigned int i = HAMMER_KEPT; i < HAMMER_FRAMES; i++)
		for (unsigned int t = 0; t < HAMMERS; t++)
			assert_int_equal(frame_words(&f, i)[8 * t], 0);
	close_memory(&f);
	assert_int_equal(held_frames("vm"), 0);
}

/* All frames of the pool but those that the guest has touched; what the VMM takes ahead may be on
 * its way. */
static void hoard_rest(struct fixture *f, struct hoard *hoard, uint64_t frames)
{
	uint64_t end = now_ms() + 10000;

	do {
		settle();
		vm_memory_drain_stock(f->mem);
		hoard_take_all(hoard);
	} while (hoard->nr_frames < frames && now_ms() < end);
	assert_int_equal(hoard->nr_frames, frames);
}

/* Until a thread waits for a frame. */
static void wait_waits(struct fixture *f, struct vm_memory_stats *stats, uint64_t waits)
{
	uint64_t end = now_ms() + 10000;

	do {
		sleep_ms(5);
		vm_memory_stats(f->mem, stats);
	} while (stats->waits < waits && now_ms() < end);
	assert_int_equal(stats->waits, waits);
}

static void test_pool_empty(void **state)
{
	struct fixture f;
	struct hoard hoard = { .nr_runs = 0 };
	struct toucher t = { .f = &f, .frame = 9 };
	struct vm_memory_stats stats;
	pthread_t thread;
	uint64_t since;

	(void)state;
	/* The warning that the pool is empty is what this is about. */
	log_set_level(LOG_LEVEL_ERROR);
	open_memory(&f);
	frame_words(&f, 0)[0] = 1;
	hoard_rest(&f, &hoard, RAM_FRAMES - 1);
	assert_conserved(&f, &hoard);

	assert_int_equal(f.gm->frame_ops->promise(f.gm->frame_opaque, frame_gpa(4), 1), -ENOMEM);
	assert_int_equal(f.gm->frame_ops->back(f.gm->frame_opaque, frame_gpa(4), 1), -ENOMEM);
	assert_int_equal(pthread_create(&thread, NULL, touch_one, &t), 0);
	wait_waits(&f, &stats, 1);
	sleep_ms(150);
	assert_false(atomic_load(&t.done));
	vm_memory_stats(f.mem, &stats);
	assert_int_equal(stats.waits, 1);
	assert_int_equal(stats.bound, 1);
	frame_words(&f, 0)[0] = 2; /* what is there works on */

	since = now_ms();
	hoard_return(&hoard);
	pthread_join(thread, NULL);
	assert_true(now_ms() - since < 1000);
	assert_int_equal(frame_words(&f, 9)[3], 77);

	/* A frame that this VM itself gives up serves who waits. */
	hoard_rest(&f, &hoard, RAM_FRAMES - 2);
	t = (struct toucher){ .f = &f, .frame = RAM_FRAMES - 1 };
	assert_int_equal(pthread_create(&thread, NULL, touch_one, &t), 0);
	wait_waits(&f, &stats, 2);
	assert_false(atomic_load(&t.done));
	assert_int_equal(f.gm->frame_ops->release(f.gm->frame_opaque, 0, 1), 1);
	pthread_join(thread, NULL);
	vm_memory_stats(f.mem, &stats);
	assert_int_equal(stats.waits, 2);
	hoard_return(&hoard);
	settle();
	assert_conserved(&f, NULL);
	close_memory(&f);
	log_set_level(LOG_LEVEL_WARN);
	assert_int_equal(held_frames("vm"), 0);
}

/* Forks a VM process of its own that runs fn and then waits to be killed; returns once fn did. */
static pid_t fork_vm(void (*fn)(void))
{
	int ready[2];
	char byte;
	pid_t pid;

	assert_int_equal(pipe(ready), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		close(ready[0]);
		fn();
		if (write(ready[1], "", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	close(ready[1]);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	return pid;
}

static void touch_all(void)
{
	struct owner_client *own = connect_owner("other");
	struct fixture f;

	if (!own || !try_open(&f, own))
		_exit(1);
	for (unsigned int i = 0; i < RAM_FRAMES; i++)
		frame_words(&f, i)[0] = UINT64_MAX;
}

static void kill_and_reap(pid_t pid)
{
	uint64_t since;

	kill(pid, SIGKILL);
	since = now_ms();
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	while (held_frames("other") != -1 && now_ms() - since < 1000)
		sleep_ms(10);
	assert_int_equal(held_frames("other"), -1);
}

static void test_killed(void **state)
{
	struct fixture f;
	pid_t pid = fork_vm(touch_all);

	(void)state;
	assert_int_equal(held_frames("other"), RAM_FRAMES);
	kill_and_reap(pid);

	/* Whoever gets the frames next finds nothing in them. */
	open_memory(&f);
	for (unsigned int i = 0; i < RAM_FRAMES; i++)
		assert_int_equal(frame_words(&f, i)[0], 0);
	close_memory(&f);
	assert_int_equal(held_frames("vm"), 0);
}

/* A process that cannot have a userfaultfd gets all its memory at once, for good. */
static void without_uffd(void)
{
	struct owner_client *own = connect_owner("other");
	struct vm_memory_stats stats;
	struct fixture f;
	int uffd = own ? owner_client_take_uffd(own) : -1;

	if (!own)
		_exit(1);
	if (uffd >= 0)
		close(uffd);
	if (getuid() == 0 && setresuid(65534, 65534, 65534) != 0)
		_exit(1);
	log_set_level(LOG_LEVEL_ERROR);
	if (!try_open(&f, own))
		_exit(1);
	vm_memory_stats(f.mem, &stats);
	if (f.gm->frame_ops || stats.bound != RAM_FRAMES || stats.faults != 0)
		_exit(1);
	for (unsigned int i = 0; i < RAM_FRAMES; i++)
		if (frame_words(&f, i)[9]++ != 0)
			_exit(1);
}

static void test_without_uffd(void **state)
{
	pid_t pid = fork_vm(without_uffd);

	(void)state;
	assert_int_equal(held_frames("other"), RAM_FRAMES);
	kill_and_reap(pid);
}

static int run_group(const char *name)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_touch),
		cmocka_unit_test(test_release_and_back),
		cmocka_unit_test(test_release_under_load),
		cmocka_unit_test(test_pool_empty),
		cmocka_unit_test(test_killed),
		cmocka_unit_test(test_without_uffd),
	};

	return cmocka_run_group_tests_name(name, tests, setup, teardown);
}

int main(void)
{
	return fork_groups(run_group);
}
