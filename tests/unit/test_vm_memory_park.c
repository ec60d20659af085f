/* SPDX-License-Identifier: MIT */
/*
 * Frames that are watched for touches, and taken only if there was none: nothing that the guest
 * wrote is ever lost, whoever is faster.
 */
#include "kvm_counter.h"
#include "tests/unit/skip.h"

#define ALL_FRAMES LOW_FRAMES

static int watch(struct fixture *f, unsigned int frame, uint64_t nr)
{
	return f->gm->frame_ops->watch(f->gm->frame_opaque, frame_gpa(frame), nr);
}

static int64_t release_clean(struct fixture *f, unsigned int frame, uint64_t nr)
{
	return f->gm->frame_ops->release_clean(f->gm->frame_opaque, frame_gpa(frame), nr);
}

/* Downwards, so that none is bound ahead of its touch. */
static void fill(struct fixture *f, unsigned int nr, uint64_t base)
{
	for (unsigned int i = nr; i-- > 0;)
		frame_words(f, i)[7] = base + i;
}

static void test_watch(void **state)
{
	struct fixture f;

	(void)state;
	open_memory(&f);
	fill(&f, 10, 100);
	assert_int_equal(watch(&f, 0, 0), 0);
	assert_int_equal(f.gm->frame_ops->watch(f.gm->frame_opaque, 4096, 1), -EINVAL);
	assert_int_equal(release_clean(&f, LOW_FRAMES - 1, 2), -EINVAL);
	/* Without a watch nothing is known to be untouched. */
	assert_int_equal(release_clean(&f, 0, LOW_FRAMES), 0);

	assert_int_equal(watch(&f, 0, LOW_FRAMES), 0);
	assert_int_equal(stats_of(&f).parked, 10);
	assert_int_equal(stats_of(&f).bound, 10);
	assert_int_equal(frame_words(&f, 2)[7], 102); /* read */
	frame_words(&f, 3)[8] = 1;                    /* written */
	frame_words(&f, 12)[7] = 112;                 /* new */
	assert_int_equal(stats_of(&f).unparked, 2);
	assert_int_equal(stats_of(&f).parked, 8);
	assert_int_equal(release_clean(&f, 0, LOW_FRAMES), 8);
	assert_int_equal(release_clean(&f, 0, LOW_FRAMES), 0);
	assert_int_equal(stats_of(&f).released_clean, 8);
	assert_int_equal(stats_of(&f).parked, 0);
	assert_int_equal(stats_of(&f).bound, 3);
	assert_int_equal(stats_of(&f).released, 8);
	assert_conserved(&f, NULL);
	for (unsigned int i = 0; i < 13; i++)
		assert_int_equal(frame_words(&f, i)[7], i == 2 || i == 3 || i == 12 ? 100 + i : 0);
	close_memory(&f);
	assert_int_equal(held_frames("vm"), 0);
}

/* A new watch begins anew; what is parked can be released, backed and taken like the rest. */
static void test_watch_again(void **state)
{
	struct fixture f;

	(void)state;
	open_memory(&f);
	fill(&f, 8, 100);
	assert_int_equal(watch(&f, 0, 8), 0);
	frame_words(&f, 1)[7]++;
	frame_words(&f, 2)[7]++;
	assert_int_equal(watch(&f, 0, 8), 0);
	frame_words(&f, 2)[7]++;
	assert_int_equal(f.gm->frame_ops->back(f.gm->frame_opaque, 0, 8), 0);
	assert_int_equal(f.gm->frame_ops->release(f.gm->frame_opaque, frame_gpa(4), 1), 1);
	assert_int_equal(release_clean(&f, 0, 4), 3); /* but for frame 2 */
	assert_int_equal(frame_words(&f, 2)[7], 104);
	for (unsigned int i = 5; i < 8; i++)
		assert_int_equal(frame_words(&f, i)[7], 100 + i);
	assert_int_equal(stats_of(&f).parked, 0);
	/* Parked at the end. */
	assert_int_equal(watch(&f, 0, LOW_FRAMES), 0);
	assert_conserved(&f, NULL);
	close_memory(&f);
	assert_int_equal(held_frames("vm"), 0);
}

/* A frame of zeroes may go whether it was touched or not: the guest finds zeroes again. */
static void test_zero_frames(void **state)
{
	struct fixture f;

	(void)state;
	open_memory(&f);
	fill(&f, 8, 100);
	for (unsigned int i = 2; i < 5; i++)
		frame_words(&f, i)[7] = 0;
	frame_words(&f, 4)[FRAME_SIZE / 8 - 1] = 1;
	assert_int_equal(release_clean(&f, 0, LOW_FRAMES), 2);
	assert_int_equal(stats_of(&f).bound, 6);
	for (unsigned int i = 0; i < 8; i++)
		assert_int_equal(frame_words(&f, i)[7], i >= 2 && i < 5 ? 0 : 100 + i);
	assert_int_equal(frame_words(&f, 4)[FRAME_SIZE / 8 - 1], 1);
	assert_conserved(&f, NULL);
	close_memory(&f);
	assert_int_equal(held_frames("vm"), 0);
}

/* A thread that takes frames and gives them up, as a guest's allocator does. */
struct user {
	struct fixture *f;
	unsigned int index;
	atomic_bool *stop;
	atomic_bool used[ALL_FRAMES];
	uint64_t count[ALL_FRAMES];
	uint64_t rounds, wrong;
};

static void use_frame(struct user *u, unsigned int i)
{
	volatile uint64_t *words = frame_words(u->f, i);

	if (!atomic_load(&u->used[i])) {
		atomic_store(&u->used[i], true);
		words[8 * (u->index + 1)] = ++u->count[i];
		return;
	}
	u->wrong += words[8 * (u->index + 1)] != u->count[i];
	words[8 * (u->index + 1)] = ++u->count[i];
}

static void *user_thread(void *opaque)
{
	struct user *u = opaque;

	while (!atomic_load(u->stop)) {
		for (unsigned int i = 0; i < ALL_FRAMES; i++) {
			if ((u->rounds / 16 + i) % 2)
				use_frame(u, i);
			else
				atomic_store(&u->used[i], false);
		}
		u->rounds++;
	}
	return NULL;
}

#define USERS 2

static bool is_used(struct user *users, unsigned int frame)
{
	for (unsigned int t = 0; t < USERS; t++)
		if (atomic_load(&users[t].used[frame]))
			return true;
	return false;
}

static void test_taken_back_meanwhile(void **state)
{
	struct user users[USERS] = { 0 };
	pthread_t threads[USERS];
	atomic_bool stop = false;
	uint64_t taken = 0, since = now_ms();
	struct fixture f;

	(void)state;
	open_memory(&f);
	for (unsigned int t = 0; t < USERS; t++) {
		users[t] = (struct user){ .f = &f, .index = t, .stop = &stop };
		assert_int_equal(pthread_create(&threads[t], NULL, user_thread, &users[t]), 0);
	}
	while (now_ms() - since < 700 || (taken < 20 && now_ms() - since < 60000)) {
		assert_int_equal(watch(&f, 0, ALL_FRAMES), 0);
		for (unsigned int i = 0; i < ALL_FRAMES; i++) {
			if (!is_used(users, i)) {
				int64_t got = release_clean(&f, i, 1);

				assert_true(got == 0 || got == 1);
				taken += (uint64_t)got;
			}
		}
	}
	atomic_store(&stop, true);
	for (unsigned int t = 0; t < USERS; t++) {
		pthread_join(threads[t], NULL);
		assert_int_equal(users[t].wrong, 0);
		assert_true(users[t].rounds > 0);
	}
	assert_true(taken > 0);
	assert_int_equal(stats_of(&f).released_clean, taken);
	print_message("%llu frames taken, %llu touches noticed, %llu + %llu rounds\n",
		      (unsigned long long)taken, (unsigned long long)stats_of(&f).unparked,
		      (unsigned long long)users[0].rounds, (unsigned long long)users[1].rounds);
	settle();
	assert_conserved(&f, NULL);
	close_memory(&f);
	assert_int_equal(held_frames("vm"), 0);
}

#define GUEST_FRAMES (LOW_FRAMES - 1)

/* The same with a vCPU. */
static void test_guest(void **state)
{
	uint64_t taken = 0, since = now_ms(), passes, wrong;
	struct counter c = { .takes_turns = true };
	struct fixture f;

	(void)state;
	open_memory(&f);
	if (!counter_start(&c, &f, GUEST_FRAMES)) {
		close_memory(&f);
		skip_because("this machine has no /dev/kvm");
	}
	counter_wait(&c, 1);
	while (now_ms() - since < 700 || (taken < 20 && now_ms() - since < 60000)) {
		assert_int_equal(watch(&f, 1, GUEST_FRAMES), 0);
		for (unsigned int i = 0; i < GUEST_FRAMES; i++) {
			if (!counter_entry(&c, i)->used) {
				int64_t got = release_clean(&f, i + 1, 1);

				assert_true(got == 0 || got == 1);
				taken += (uint64_t)got;
			}
		}
	}
	wrong = counter_stop(&c, &passes);
	print_message("%llu frames taken, %llu touches noticed, %llu passes\n",
		      (unsigned long long)taken, (unsigned long long)stats_of(&f).unparked,
		      (unsigned long long)passes);
	assert_int_equal(wrong, 0);
	assert_true(taken > 0);
	settle();
	assert_conserved(&f, NULL);
	close_memory(&f);
	assert_int_equal(held_frames("vm"), 0);
}

static int run_group(const char *name)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_watch),       cmocka_unit_test(test_watch_again),
		cmocka_unit_test(test_zero_frames), cmocka_unit_test(test_taken_back_meanwhile),
		cmocka_unit_test(test_guest),
	};

	return cmocka_run_group_tests_name(name, tests, setup, teardown);
}

int main(void)
{
	return fork_groups(run_group);
}
