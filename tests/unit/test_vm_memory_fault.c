/* SPDX-License-Identifier: MIT */
/*
 * How first touches are served: neighbours bound along with them, frames kept for the loop's
 * thread, all frames up front, and an owner that is gone.
 */
#include "vm_memory_fixture.h"

#include <sys/socket.h>
#include "tests/unit/skip.h"

#define HOTPLUG_GPA UINT64_C(0x108000000)
#define HOT_FRAMES  64

static void open_large(struct fixture *f)
{
	const struct vm_memory_range hotplug[] = {
		{ .gpa = HOTPLUG_GPA, .size = VM_MEMORY_SLOT_SIZE },
	};

	assert_true(try_open_config(
		f, client, (struct vm_memory_config){ .hotplug = hotplug, .nr_hotplug = 1 }));
	assert_int_equal(vm_memory_reserve_now(f->mem, HOT_FRAMES, NULL), 0);
	assert_int_equal(f->gm->frame_ops->plug(f->gm->frame_opaque, HOTPLUG_GPA, HOT_FRAMES), 0);
}

static volatile uint64_t *hot_words(struct fixture *f, unsigned int frame)
{
	return guest_ptr(f->gm, HOTPLUG_GPA + frame * FRAME_SIZE, FRAME_SIZE);
}

/* Touches that follow each other get their neighbours, others do not. */
static void test_fault_around(void **state)
{
	struct vm_memory_stats stats;
	struct fixture f;

	(void)state;
	open_large(&f);
	settle();
	for (unsigned int i = 0; i < 20; i++)
		hot_words(&f, i * 37 % HOT_FRAMES)[0] = i;
	stats = stats_of(&f);
	assert_int_equal(stats.faults, 20);
	assert_int_equal(stats.faults_around, 0);
	assert_int_equal(stats.bound, 20);
	close_memory(&f);

	open_large(&f);
	settle();
	for (unsigned int i = 0; i < HOT_FRAMES; i++) {
		assert_int_equal(hot_words(&f, i)[1], 0);
		hot_words(&f, i)[1] = i;
		/* Slower than the stock is refilled: what is measured is the policy. */
		sleep_ms(1);
		stats = stats_of(&f);
		/* Never more than was touched is bound ahead. */
		assert_true(stats.bound <= 2 * (i + 1));
	}
	assert_true(stats.faults < HOT_FRAMES);
	assert_int_equal(stats.faults + stats.faults_around, stats.bound);
	assert_int_equal(stats.bound, HOT_FRAMES);
	print_message("%llu faults for %u frames in a row\n", (unsigned long long)stats.faults,
		      HOT_FRAMES);
	for (unsigned int i = 0; i < HOT_FRAMES; i++)
		assert_int_equal(hot_words(&f, i)[1], i);
	assert_conserved(&f, NULL);

	/* What the guest has given up is not bound ahead. */
	assert_int_equal(f.gm->frame_ops->release(f.gm->frame_opaque, HOTPLUG_GPA, HOT_FRAMES),
			 HOT_FRAMES);
	for (unsigned int i = 0; i < 10; i++)
		hot_words(&f, i)[1] = i;
	assert_int_equal(stats_of(&f).bound, 10);
	assert_int_equal(stats_of(&f).touched_released, 10);
	close_memory(&f);
	assert_int_equal(held_frames("vm"), 0);
}

/* Runs touch_one() in the loop's thread. */
static void touch_in_loop(void *opaque)
{
	touch_one(opaque);
}

/* With the pool empty the guest waits, and the loop goes on. */
static void test_reserve_for_loop(void **state)
{
	struct hoard hoard = { .nr_runs = 0 };
	struct toucher loop = { .frame = LOW_FRAMES + 2 }, vcpu = { .frame = 0 };
	struct vm_memory_stats stats;
	pthread_t thread;
	struct fixture f;

	(void)state;
	log_set_level(LOG_LEVEL_ERROR);
	open_memory(&f);
	settle();
	hoard_take_all(&hoard);
	loop.f = &f;
	vcpu.f = &f;
	/* Uses up what is in the stock. */
	for (bool done = true; done; vcpu.frame += 2) {
		assert_true(vcpu.frame < LOW_FRAMES);
		atomic_store(&vcpu.done, false);
		assert_int_equal(pthread_create(&thread, NULL, touch_one, &vcpu), 0);
		for (unsigned int ms = 0; ms < 200 && !atomic_load(&vcpu.done); ms += 10)
			sleep_ms(10);
		done = atomic_load(&vcpu.done);
		if (!done)
			break;
		pthread_join(thread, NULL);
	}
	stats = stats_of(&f);
	assert_int_equal(stats.waits, 1);
	assert_true(stats.stock > 0);
	for (unsigned int i = 0; i < 2; i++) {
		atomic_store(&loop.done, false);
		assert_int_equal(event_loop_post(f.loop, touch_in_loop, &loop), 0);
		for (unsigned int ms = 0; ms < 2000 && !atomic_load(&loop.done); ms += 10)
			sleep_ms(10);
		assert_true(atomic_load(&loop.done));
		loop.frame += 2;
	}
	assert_false(atomic_load(&vcpu.done));
	assert_int_equal(stats_of(&f).stock, 0);

	hoard_return(&hoard);
	pthread_join(thread, NULL);
	assert_true(atomic_load(&vcpu.done));
	assert_conserved(&f, NULL);
	close_memory(&f);
	log_set_level(LOG_LEVEL_WARN);
	assert_int_equal(held_frames("vm"), 0);
}

struct seen {
	unsigned int calls;
	uint64_t last;
	bool go_on;
};

static bool progress(void *opaque, uint64_t done, uint64_t total)
{
	struct seen *seen = opaque;

	assert_int_equal(total, RAM_FRAMES + HOT_FRAMES);
	assert_true(done >= seen->last && done <= total);
	seen->last = done;
	seen->calls++;
	return seen->go_on;
}

static void test_prealloc(void **state)
{
	struct seen seen = { .go_on = true };
	struct hoard hoard = { .nr_runs = 0 };
	struct error err = { 0 };
	struct fixture f;

	(void)state;
	open_large(&f);
	frame_words(&f, 5)[0] = 5;
	assert_int_equal(vm_memory_prealloc(f.mem, progress, &seen, &err), 0);
	assert_true(seen.calls > 0);
	assert_int_equal(seen.last, RAM_FRAMES + HOT_FRAMES);
	assert_int_equal(stats_of(&f).bound, RAM_FRAMES + HOT_FRAMES);
	assert_int_equal(stats_of(&f).faults, 1);
	assert_int_equal(frame_words(&f, 5)[0], 5);
	for (unsigned int i = 0; i < HOT_FRAMES; i++)
		assert_int_equal(hot_words(&f, i)[0], 0);
	assert_int_equal(stats_of(&f).faults, 1);
	/* Once more: nothing to do. */
	assert_int_equal(vm_memory_prealloc(f.mem, NULL, NULL, &err), 0);
	assert_conserved(&f, NULL);
	close_memory(&f);

	/* Too little. */
	open_memory(&f);
	settle();
	vm_memory_drain_stock(f.mem);
	hoard_take_all(&hoard);
	assert_int_equal(vm_memory_prealloc(f.mem, NULL, NULL, &err), -ENOMEM);
	assert_non_null(strstr(err.message, "of the guest's 32 frames"));
	error_clear(&err);
	hoard_return(&hoard);
	assert_int_equal(vm_memory_prealloc(f.mem, NULL, NULL, &err), 0);
	assert_conserved(&f, NULL);
	close_memory(&f);
	assert_int_equal(held_frames("vm"), 0);
}

/* Frames that no owner takes back are not lost: the guest finds them again, zeroed. */
static void test_owner_gone(void **state)
{
	static const char *const left[] = { "pool.sock", "pool-qmp.sock", "pool.ledger" };
	struct ucred owner;
	socklen_t len = sizeof(owner);
	struct vm_memory_stats stats;
	struct fixture f;
	char path[PATH_MAX];

	(void)state;
	if (owner_client_hugetlb(client)) {
		skip_because("on ordinary memory only: a killed owner keeps the host's hugepages");
	}
	log_set_level(LOG_LEVEL_ERROR + 1);
	open_memory(&f);
	for (unsigned int i = 10; i-- > 0;)
		frame_words(&f, i)[7] = i + 1;
	settle();
	assert_int_equal(getsockopt(owner_client_fd(client), SOL_SOCKET, SO_PEERCRED, &owner, &len),
			 0);
	kill(owner.pid, SIGKILL);
	for (unsigned int ms = 0; ms < 2000 && kill(owner.pid, 0) == 0; ms += 10)
		sleep_ms(10);
	stats = stats_of(&f);
	assert_int_equal(f.gm->frame_ops->release(f.gm->frame_opaque, frame_gpa(2), 4), -EPIPE);
	assert_int_equal(stats_of(&f).bound, stats.bound - 4);
	assert_int_equal(stats_of(&f).stock, stats.stock + 4);
	/* From now on they stay with the guest. */
	assert_int_equal(f.gm->frame_ops->release(f.gm->frame_opaque, frame_gpa(0), 1), -EPIPE);
	assert_int_equal(frame_words(&f, 0)[7], 1);
	for (unsigned int i = 2; i < 6; i++)
		assert_int_equal(frame_words(&f, i)[7], 0);
	assert_int_equal(stats_of(&f).bound + stats_of(&f).stock, stats.bound + stats.stock);
	close_memory(&f);
	log_set_level(LOG_LEVEL_WARN);
	/* What it could not take along. */
	for (unsigned int i = 0; i < sizeof(left) / sizeof(left[0]); i++) {
		snprintf(path, sizeof(path), "%s/%s", getenv("FRAMEVISOR_RUNDIR"), left[i]);
		unlink(path);
	}
}

static int run_group(const char *name)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fault_around),
		cmocka_unit_test(test_reserve_for_loop),
		cmocka_unit_test(test_prealloc),
		cmocka_unit_test(test_owner_gone),
	};

	return cmocka_run_group_tests_name(name, tests, setup, teardown);
}

int main(void)
{
	return fork_groups(run_group);
}
