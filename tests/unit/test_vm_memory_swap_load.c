/* SPDX-License-Identifier: MIT */
/*
 * Frames go to a swap file and come back while threads and a vCPU count in them, also in a pool
 * that has fewer frames than the guest has memory: no count is lost.
 */
#include "kvm_counter.h"
#include "swap_fixture.h"
#include "tests/unit/skip.h"

#define WRITERS 2

/* Touches between two rests, and how long these are at least. Without rests each frame is touched
 * again before it is written: what is under way is then swapped only when the writers happen not to
 * run. All of them have to rest for as long as a frame takes, which is ten times longer under the
 * thread sanitizer. And what has to happen under load before a test is over: some dozens, or what a
 * slow build gets. */
#define BURST 20000
#ifdef __SANITIZE_THREAD__
#define REST_MS 200
#define ENOUGH  8
#else
#define REST_MS 20
#define ENOUGH  40
#endif

struct writer {
	struct fixture *f;
	unsigned int index;
	atomic_bool *stop;
	unsigned int nr_frames;
	uint64_t random;
	uint64_t count[RAM_FRAMES];
	uint64_t touches, wrong;
};

/* Mostly the first half of the frames. */
static void *writer_thread(void *opaque)
{
	struct writer *w = opaque;

	while (!atomic_load(w->stop)) {
		volatile uint64_t *words;
		unsigned int i;

		w->random = w->random * 6364136223846793005 + 1442695040888963407;
		i = (unsigned int)(w->random >> 40) % w->nr_frames;
		if (w->random >> 33 & 7)
			i /= 2;
		words = frame_words(w->f, i);
		w->wrong += words[8 + w->index * 8] != w->count[i];
		words[8 + w->index * 8] = ++w->count[i];
		if (++w->touches % BURST == 0)
			sleep_ms(REST_MS + (unsigned int)(w->random >> 59));
	}
	return NULL;
}

/* Without enough frames for all of the guest's memory, with moves and hints in between. */
static void under_load(struct fixture *f, struct hoard *hoard, uint64_t frames)
{
	const struct vm_memory_move move = { .nr_frames = 6 };
	struct writer writers[WRITERS] = { 0 };
	pthread_t threads[WRITERS];
	atomic_bool stop = false;
	uint64_t since = now_ms();

	if (frames < RAM_FRAMES) {
		hoard_take_all(hoard);
		while (hoard->nr_frames > RAM_FRAMES - frames) {
			struct frame_run *last = &hoard->runs[hoard->nr_runs - 1];
			struct frame_run one = { .first = last->first + last->nr - 1,
						 .nr = 1,
						 .node = last->node };

			assert_int_equal(owner_client_return(client, &one, 1), 0);
			hoard->nr_frames--;
			if (--last->nr == 0)
				hoard->nr_runs--;
		}
	}
	for (unsigned int t = 0; t < WRITERS; t++) {
		writers[t] = (struct writer){
			.f = f, .index = t, .stop = &stop, .nr_frames = RAM_FRAMES, .random = t
		};
		assert_int_equal(pthread_create(&threads[t], NULL, writer_thread, &writers[t]), 0);
	}
	while (now_ms() - since < 1500 ||
	       (stats_of(f).swap_in < ENOUGH && now_ms() - since < WAIT_MS)) {
		struct error err = { 0 };

		if (frames == RAM_FRAMES)
			assert_int_equal(vm_memory_swap_out(f->mem, 4), 0);
		vm_memory_move_frames(f->mem, &move, &err);
		error_clear(&err);
		assert_int_equal(f->gm->frame_ops->watch(f->gm->frame_opaque, 0, 8), 0);
		sleep_ms(10);
	}
	atomic_store(&stop, true);
	for (unsigned int t = 0; t < WRITERS; t++) {
		pthread_join(threads[t], NULL);
		assert_int_equal(writers[t].wrong, 0);
		for (unsigned int i = 0; i < RAM_FRAMES; i++)
			assert_int_equal(frame_words(f, i)[8 + t * 8], writers[t].count[i]);
	}
	print_message(
		"%llu + %llu touches, %llu swapped in, %llu out, %llu moved\n",
		(unsigned long long)writers[0].touches, (unsigned long long)writers[1].touches,
		(unsigned long long)stats_of(f).swap_in, (unsigned long long)stats_of(f).swap_out,
		(unsigned long long)stats_of(f).migrated);
	assert_true(stats_of(f).swap_in > 0);
}

static void test_under_load(void **state)
{
	struct hoard hoard = { .nr_runs = 0 };
	struct fixture f;

	(void)state;
	open_swap(&f, 0);
	under_load(&f, &hoard, RAM_FRAMES);
	settle();
	assert_conserved(&f, NULL);
	close_memory(&f);
	assert_int_equal(held_frames("vm"), 0);
}

/* Half as many frames as the guest has memory. */
static void too_few_frames(bool random)
{
	struct hoard hoard = { .nr_runs = 0 };
	struct fixture f;

	log_set_level(LOG_LEVEL_ERROR);
	open_swap_victims(&f, 0, random);
	vm_memory_drain_stock(f.mem);
	under_load(&f, &hoard, RAM_FRAMES / 2);
	assert_false(vm_memory_starves(f.mem)); /* all touches were served */
	settle();
	print_message("bound %d stock %d swapped %d hoard %d held %d\n", (int)stats_of(&f).bound,
		      (int)stats_of(&f).stock, (int)stats_of(&f).swapped, (int)hoard.nr_frames,
		      (int)held_frames("vm"));
	assert_conserved(&f, &hoard);
	hoard_return(&hoard);
	close_memory(&f);
	log_set_level(LOG_LEVEL_WARN);
	assert_int_equal(held_frames("vm"), 0);
}

static void test_too_few_frames(void **state)
{
	(void)state;
	too_few_frames(false);
}

/* Nothing is sampled then: what did not work at once is tried again all the same. */
static void test_too_few_frames_any_goes(void **state)
{
	(void)state;
	too_few_frames(true);
}

/* Few frames that are in use all the time are on their way out again and again, each more often
 * than it gets there. */
static void test_touched_on_the_way(void **state)
{
	struct writer w = { .nr_frames = 3 };
	atomic_bool stop = false;
	uint64_t since = now_ms();
	pthread_t thread;
	struct fixture f;

	(void)state;
	open_swap(&f, 0);
	w.f = &f;
	w.stop = &stop;
	assert_int_equal(pthread_create(&thread, NULL, writer_thread, &w), 0);
	while (now_ms() - since < 1500 ||
	       (stats_of(&f).unparked < 2 * ENOUGH && now_ms() - since < WAIT_MS)) {
		assert_int_equal(vm_memory_swap_out(f.mem, 3), 0);
		sleep_ms(5);
	}
	atomic_store(&stop, true);
	pthread_join(thread, NULL);
	assert_int_equal(w.wrong, 0);
	for (unsigned int i = 0; i < 3; i++)
		assert_int_equal(frame_words(&f, i)[8], w.count[i]);
	print_message("%llu touches, %llu swapped in, %llu noticed while parked\n",
		      (unsigned long long)w.touches, (unsigned long long)stats_of(&f).swap_in,
		      (unsigned long long)stats_of(&f).unparked);
	settle();
	assert_conserved(&f, NULL);
	close_memory(&f);
	assert_int_equal(held_frames("vm"), 0);
}

/* A vCPU, whose program and page tables are swapped as well. */
static void test_guest(void **state)
{
	uint64_t since = now_ms(), passes, wrong;
	/* 5 to 10 ms: without it no frame is written before it is touched again, and so none
	 * leaves. */
	struct counter c = { .rest = 15000000 };
	struct fixture f;

	(void)state;
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
	skip_because("takes minutes in a build with sanitizers");
#endif
	open_swap(&f, 0);
	if (!counter_start(&c, &f, LOW_FRAMES - 1)) {
		close_memory(&f);
		skip_because("this machine has no /dev/kvm");
	}
	counter_wait(&c, 1);
	while (now_ms() - since < 1000 ||
	       (stats_of(&f).swap_in < 40 && now_ms() - since < WAIT_MS)) {
		assert_int_equal(vm_memory_swap_out(f.mem, 8), 0);
		sleep_ms(20);
	}
	vm_memory_swap_out(f.mem, 0);
	wrong = counter_stop(&c, &passes);
	print_message("%llu passes, %llu swapped in, %llu noticed while parked\n",
		      (unsigned long long)passes, (unsigned long long)stats_of(&f).swap_in,
		      (unsigned long long)stats_of(&f).unparked);
	assert_int_equal(wrong, 0);
	assert_true(stats_of(&f).swap_in >= 40);
	settle();
	assert_conserved(&f, NULL);
	close_memory(&f);
	assert_int_equal(held_frames("vm"), 0);
}

static int run_group(const char *name)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_under_load),
		cmocka_unit_test(test_touched_on_the_way),
		cmocka_unit_test(test_too_few_frames),
		cmocka_unit_test(test_too_few_frames_any_goes),
		cmocka_unit_test(test_guest),
	};

	return cmocka_run_group_tests_name(name, tests, setup, teardown);
}

int main(void)
{
	pool_bytes = 2 * RAM_FRAMES * FRAME_SIZE;
	return fork_groups(run_group);
}
