/* SPDX-License-Identifier: MIT */
/*
 * Frames of a running guest move to other frames of the pool, and no write is lost: threads and a
 * vCPU that count all the time, thousands of moves; exact places, a pool that has no room, a VM
 * that has all it may have.
 */
#include "kvm_counter.h"
#include "tests/unit/skip.h"
#include "vmm/memory/internal.h"

#define POOL_FRAMES 48

static struct frame_run place_of(struct fixture *f, unsigned int frame)
{
	struct frame_run run;

	pthread_mutex_lock(&f->mem->lock);
	run = frame_run_of(&f->mem->frames[frame]);
	pthread_mutex_unlock(&f->mem->lock);
	return run;
}

static bool same_place(const struct frame_run *a, const struct frame_run *b)
{
	return a->first == b->first && a->node == b->node;
}

/* Every frame of the guest, anywhere. */
static const struct vm_memory_move everything = {
	.gpa = 0,
	.nr_frames = UINT64_C(1) << 30,
};

static void fill(struct fixture *f)
{
	for (unsigned int i = 0; i < RAM_FRAMES; i++) {
		uint64_t *words = frame_words(f, i);

		for (unsigned int w = 0; w < FRAME_SIZE / 8; w += 8)
			words[w] = i * FRAME_SIZE + w;
	}
}

static void check_filled(struct fixture *f)
{
	for (unsigned int i = 0; i < RAM_FRAMES; i++) {
		uint64_t *words = frame_words(f, i);

		for (unsigned int w = 0; w < FRAME_SIZE / 8; w += 8)
			if (words[w] != i * FRAME_SIZE + w)
				fail_msg("frame %u, word %u: %llu", i, w,
					 (unsigned long long)words[w]);
	}
}

/* The VM holds all that it may, and frames move all the same; what they leave is zeroed. */
static void test_move(void **state)
{
	struct frame_run before[RAM_FRAMES];
	struct error err = { 0 };
	struct fixture f;

	(void)state;
	open_memory(&f);
	assert_int_equal(vm_memory_move_frames(f.mem, &everything, &err), 0);
	fill(&f);
	for (unsigned int i = 0; i < RAM_FRAMES; i++)
		before[i] = place_of(&f, i);
	/* Parked ones, too. */
	assert_int_equal(f.gm->frame_ops->watch(f.gm->frame_opaque, frame_gpa(3), 4), 0);
	assert_int_equal(vm_memory_move_frames(f.mem, &everything, &err), RAM_FRAMES);
	for (unsigned int i = 0; i < RAM_FRAMES; i++) {
		struct frame_run now = place_of(&f, i);

		assert_false(same_place(&now, &before[i]));
	}
	check_filled(&f);
	assert_int_equal(stats_of(&f).migrated, RAM_FRAMES);
	assert_true(stats_of(&f).migrate_max_ns > 0);
	assert_int_equal(stats_of(&f).bound, RAM_FRAMES);
	assert_int_equal(stats_of(&f).parked, 0);
	assert_conserved(&f, NULL);

	/* A part of it. */
	assert_int_equal(
		vm_memory_move_frames(
			f.mem, &(struct vm_memory_move){ .gpa = HIGH_GPA, .nr_frames = 2 }, &err),
		2);
	/* Of a node that the guest has not. */
	assert_int_equal(vm_memory_move_frames(f.mem,
					       &(struct vm_memory_move){ .nr_frames = UINT64_MAX,
									 .of_node = true,
									 .node = 7 },
					       &err),
			 0);
	/* Where they are already. */
	assert_int_equal(vm_memory_move_frames(
				 f.mem,
				 &(struct vm_memory_move){ .nr_frames = 4, .nodemask = UINT64_MAX },
				 &err),
			 0);
	check_filled(&f);
	assert_int_equal(f.gm->frame_ops->release(f.gm->frame_opaque, 0, LOW_FRAMES), LOW_FRAMES);
	for (unsigned int i = 0; i < LOW_FRAMES; i++)
		for (unsigned int w = 0; w < FRAME_SIZE / 8; w += 64)
			assert_int_equal(frame_words(&f, i)[w], 0);
	assert_conserved(&f, NULL);
	close_memory(&f);
	assert_int_equal(held_frames("vm"), 0);
}

/* Those that have certain frames of the pool. */
static void test_from_places(void **state)
{
	struct frame_run from[2], now;
	struct vm_memory_move move = { .from = from, .nr_from = 2 };
	struct error err = { 0 };
	struct fixture f;

	(void)state;
	open_memory(&f);
	fill(&f);
	from[0] = place_of(&f, 5);
	from[1] = place_of(&f, LOW_FRAMES + 1);
	assert_int_equal(vm_memory_move_frames(f.mem, &move, &err), 2);
	for (unsigned int i = 0; i < RAM_FRAMES; i++) {
		now = place_of(&f, i);
		assert_false(same_place(&now, &from[0]) || same_place(&now, &from[1]));
	}
	check_filled(&f);
	assert_int_equal(stats_of(&f).migrated, 2);
	assert_conserved(&f, NULL);
	/* They are nobody's now. */
	assert_int_equal(vm_memory_move_frames(f.mem, &move, &err), 0);
	close_memory(&f);
	assert_int_equal(held_frames("vm"), 0);
}

static void test_no_room(void **state)
{
	struct frame_run runs[POOL_FRAMES];
	unsigned int nr = 0;
	struct error err = { 0 };
	struct fixture f;

	(void)state;
	open_memory(&f);
	fill(&f);
	for (;;) {
		unsigned int room = POOL_FRAMES - nr;

		if (room == 0 ||
		    owner_client_grant_to_move(client, room, 0, &runs[nr], &room) == -ENOMEM)
			break;
		nr += room;
	}
	assert_int_equal(vm_memory_move_frames(f.mem, &everything, &err), -ENOMEM);
	assert_non_null(strstr(err.message, "no more free frames"));
	error_clear(&err);
	assert_int_equal(owner_client_return(client, &runs[nr - 1], 1), 0);
	assert_true(vm_memory_move_frames(f.mem, &everything, &err) > 0);
	if (nr > 1)
		assert_int_equal(owner_client_return(client, runs, nr - 1), 0);
	check_filled(&f);
	assert_conserved(&f, NULL);
	close_memory(&f);
	assert_int_equal(held_frames("vm"), 0);
}

#define WRITERS 2

struct writer {
	struct fixture *f;
	unsigned int index;
	atomic_bool *stop;
	uint64_t count[RAM_FRAMES];
	uint64_t rounds, wrong;
};

static void *writer_thread(void *opaque)
{
	struct writer *w = opaque;

	while (!atomic_load(w->stop)) {
		for (unsigned int i = 0; i < RAM_FRAMES; i++) {
			volatile uint64_t *words = frame_words(w->f, i);

			w->wrong += words[w->index * 8] != w->count[i];
			words[w->index * 8] = ++w->count[i];
		}
		w->rounds++;
	}
	return NULL;
}

/* Moves, with releases of nothing and parking in between, until there were enough. */
static uint64_t move_for_a_while(struct fixture *f)
{
	struct error err = { 0 };
	uint64_t since = now_ms(), moved = 0;

	while (now_ms() - since < 1000 || (moved < 200 && now_ms() - since < 60000)) {
		int64_t got = vm_memory_move_frames(f->mem, &everything, &err);

		assert_true(got > 0);
		moved += (uint64_t)got;
		assert_int_equal(f->gm->frame_ops->watch(f->gm->frame_opaque, 0, 4), 0);
	}
	return moved;
}

static void test_under_load(void **state)
{
	struct writer writers[WRITERS] = { 0 };
	pthread_t threads[WRITERS];
	atomic_bool stop = false;
	struct fixture f;
	uint64_t moved;

	(void)state;
	open_memory(&f);
	for (unsigned int t = 0; t < WRITERS; t++) {
		writers[t] = (struct writer){ .f = &f, .index = t, .stop = &stop };
		assert_int_equal(pthread_create(&threads[t], NULL, writer_thread, &writers[t]), 0);
	}
	while (stats_of(&f).bound < RAM_FRAMES)
		sleep_ms(1);
	moved = move_for_a_while(&f);
	atomic_store(&stop, true);
	for (unsigned int t = 0; t < WRITERS; t++) {
		pthread_join(threads[t], NULL);
		assert_int_equal(writers[t].wrong, 0);
		for (unsigned int i = 0; i < RAM_FRAMES; i++)
			assert_int_equal(writers[t].count[i], frame_words(&f, i)[t * 8]);
	}
	print_message("%llu moves, %llu + %llu rounds, longest %llu us\n",
		      (unsigned long long)moved, (unsigned long long)writers[0].rounds,
		      (unsigned long long)writers[1].rounds,
		      (unsigned long long)stats_of(&f).migrate_max_ns / 1000);
	assert_conserved(&f, NULL);
	close_memory(&f);
	assert_int_equal(held_frames("vm"), 0);
}

/* A vCPU; its page tables and its program move as well. */
static void test_guest(void **state)
{
	uint64_t moved, passes, wrong;
	struct counter c = { .takes_turns = false };
	struct fixture f;

	(void)state;
	open_memory(&f);
	if (!counter_start(&c, &f, LOW_FRAMES - 1)) {
		close_memory(&f);
		skip_because("this machine has no /dev/kvm");
	}
	counter_wait(&c, 1);
	moved = move_for_a_while(&f);
	wrong = counter_stop(&c, &passes);
	print_message("%llu moves, %llu passes\n", (unsigned long long)moved,
		      (unsigned long long)passes);
	assert_int_equal(wrong, 0);
	assert_conserved(&f, NULL);
	close_memory(&f);
	assert_int_equal(held_frames("vm"), 0);
}

static struct vm_memory_move_status wait_for_job(struct fixture *f)
{
	struct vm_memory_move_status status;
	uint64_t since = now_ms();

	do {
		assert_true(now_ms() - since < 60000);
		sleep_ms(1);
		vm_memory_move_status(f->mem, &status);
	} while (status.running);
	return status;
}

static void test_job(void **state)
{
	struct vm_memory_move_status status;
	struct error err = { 0 };
	struct fixture f;
	int ret;

	(void)state;
	open_memory(&f);
	fill(&f);
	vm_memory_move_cancel(f.mem);
	vm_memory_move_status(f.mem, &status);
	assert_false(status.running);
	assert_int_equal(vm_memory_move_start(f.mem, &everything, &err), 0);
	ret = vm_memory_move_start(f.mem, &everything, &err);
	assert_true(ret == -EBUSY || ret == 0); /* the first one may have ended */
	error_clear(&err);
	status = wait_for_job(&f);
	if (ret) {
		assert_int_equal(status.error, 0);
		assert_int_equal(status.moved, RAM_FRAMES);
		assert_int_equal(status.done, RAM_FRAMES);
	}
	for (unsigned int i = 0; i < 10; i++) {
		assert_int_equal(vm_memory_move_start(f.mem, &everything, &err), 0);
		vm_memory_move_cancel(f.mem);
		status = wait_for_job(&f);
		assert_true(status.error == -ECANCELED || status.moved == RAM_FRAMES);
	}
	check_filled(&f);
	assert_conserved(&f, NULL);
	/* The end of the VM ends it. */
	assert_int_equal(vm_memory_move_start(f.mem, &everything, &err), 0);
	close_memory(&f);
	assert_int_equal(held_frames("vm"), 0);
}

static int run_group(const char *name)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_move),    cmocka_unit_test(test_from_places),
		cmocka_unit_test(test_no_room), cmocka_unit_test(test_under_load),
		cmocka_unit_test(test_guest),   cmocka_unit_test(test_job),
	};

	return cmocka_run_group_tests_name(name, tests, setup, teardown);
}

int main(void)
{
	pool_bytes = POOL_FRAMES * FRAME_SIZE;
	return fork_groups(run_group);
}
