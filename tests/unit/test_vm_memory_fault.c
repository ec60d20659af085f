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

	close_memory(&f);
	assert_int_equal(held_frames("vm"), 0);
}

/* Downwards in blocks of two frames, each of them upwards: as Linux fills its memory. */
static unsigned int downwards(unsigned int i)
{
	return (HOT_FRAMES - 2 - i / 2 * 2) + i % 2;
}

static void test_fault_around_downwards(void **state)
{
	struct vm_memory_stats stats;
	struct fixture f;

	(void)state;
	open_large(&f);
	settle();
	for (unsigned int i = 0; i < HOT_FRAMES; i++) {
		unsigned int frame = downwards(i);

		assert_int_equal(hot_words(&f, frame)[1], 0);
		hot_words(&f, frame)[1] = frame;
		sleep_ms(1);
		/* Not more than was touched is bound ahead, but for the rest of a block. */
		assert_true(stats_of(&f).bound <= 2 * (i + 1) + 1);
	}
	stats = stats_of(&f);
	assert_true(stats.faults <= HOT_FRAMES / 2);
	assert_int_equal(stats.faults + stats.faults_around, stats.bound);
	assert_int_equal(stats.bound, HOT_FRAMES);
	print_message("%llu faults for %u frames downwards\n", (unsigned long long)stats.faults,
		      HOT_FRAMES);
	for (unsigned int i = 0; i < HOT_FRAMES; i++)
		assert_int_equal(hot_words(&f, i)[1], i);
	assert_conserved(&f, NULL);
	close_memory(&f);
}

/* Touches the first ten frames. */
static struct vm_memory_stats touch_ten(struct fixture *f, unsigned int ahead)
{
	for (unsigned int i = 0; i < 10; i++) {
		assert_int_equal(hot_words(f, i)[1], 0);
		hot_words(f, i)[1] = i;
		sleep_ms(1);
		assert_in_range(stats_of(f).bound, i + 1, i + 1 + ahead);
	}
	return stats_of(f);
}

/* Of what the guest calls free little is bound ahead; of what it gave up, nothing. */
static void test_fault_around_released(void **state)
{
	const unsigned int kept = 40;
	const struct guest_frame_ops *ops;
	struct vm_memory_stats stats;
	struct fixture f;

	(void)state;
	open_large(&f);
	settle();
	ops = f.gm->frame_ops;
	assert_int_equal(ops->release(f.gm->frame_opaque, HOTPLUG_GPA, kept), 0);
	stats = touch_ten(&f, 0);
	assert_int_equal(stats.touched_released, 10);
	assert_int_equal(ops->release_free(f.gm->frame_opaque, HOTPLUG_GPA, kept), 10);
	stats = touch_ten(&f, 3);
	assert_in_range(stats.touched_released, 11, 19);
	assert_int_equal(stats.released, kept - stats.bound);
	/* A frame that the guest has never had says nothing about those. */
	for (unsigned int i = HOT_FRAMES - 1; i >= kept; i--)
		hot_words(&f, i)[1] = i;
	assert_int_equal(stats_of(&f).released, kept - stats.bound);
	assert_int_equal(stats_of(&f).bound, stats.bound + HOT_FRAMES - kept);
	/* In the balloon after all: free no more. */
	assert_int_equal(ops->release(f.gm->frame_opaque, HOTPLUG_GPA, kept), stats.bound);
	touch_ten(&f, HOT_FRAMES - kept);
	assert_int_equal(stats_of(&f).bound, HOT_FRAMES - kept + 10);
	assert_int_equal(ops->release_free(f.gm->frame_opaque, HOTPLUG_GPA, HOT_FRAMES),
			 HOT_FRAMES - kept + 10);
	assert_int_equal(stats_of(&f).released, HOT_FRAMES);
	assert_true(stats_of(&f).given_up >= stats.given_up + 10);
	assert_conserved(&f, NULL);
	close_memory(&f);
	assert_int_equal(held_frames("vm"), 0);
}

/* Whether a touch ends within some ms; if not, thread is still at it. */
static bool touches_within(struct toucher *vcpu, pthread_t *thread, unsigned int limit_ms)
{
	assert_true(vcpu->frame < LOW_FRAMES);
	atomic_store(&vcpu->done, false);
	assert_int_equal(pthread_create(thread, NULL, touch_one, vcpu), 0);
	for (unsigned int ms = 0; ms < limit_ms && !atomic_load(&vcpu->done); ms += 10)
		sleep_ms(10);
	if (!atomic_load(&vcpu->done))
		return false;
	pthread_join(*thread, NULL);
	return true;
}

/* The pool has nothing left, the guest uses up what is in its stock, and waits. */
static void starve(struct fixture *f, struct hoard *hoard, struct toucher *vcpu, pthread_t *thread)
{
	hoard_take_all(hoard);
	vcpu->f = f;
	while (touches_within(vcpu, thread, 200))
		vcpu->frame += 2;
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
	/* Nor does the owner take these frames, however short it is. */
	vm_memory_reclaim_stock(f.mem);
	assert_true(stats_of(&f).stock > 0);
	assert_int_equal(stats_of(&f).stock_spare, 0);
	loop.f = &f;
	starve(&f, &hoard, &vcpu, &thread);
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

struct busy {
	struct fixture *f;
	unsigned int frame;
	atomic_bool stop;
};

/* A frame that is there, parked and touched again and again: an event each time. */
static void *touch_parked(void *opaque)
{
	struct busy *busy = opaque;

	while (!atomic_load(&busy->stop)) {
		busy->f->gm->frame_ops->watch(busy->f->gm->frame_opaque, frame_gpa(busy->frame), 1);
		frame_words(busy->f, busy->frame)[0]++;
		sleep_ms(5);
	}
	return NULL;
}

/* Who waits for the pool is not forgotten over touches that need nothing of it. */
static void test_waits_beside_events(void **state)
{
	struct hoard hoard = { .nr_runs = 0 };
	struct toucher vcpu = { .frame = 2 };
	uint64_t since;
	struct busy busy = { .frame = 0 };
	pthread_t thread, other;
	struct fixture f;

	(void)state;
	log_set_level(LOG_LEVEL_ERROR);
	open_memory(&f);
	settle();
	frame_words(&f, 0)[0] = 1;
	busy.f = &f;
	starve(&f, &hoard, &vcpu, &thread);
	assert_int_equal(pthread_create(&other, NULL, touch_parked, &busy), 0);
	sleep_ms(500);
	hoard_return(&hoard);
	for (since = now_ms(); !atomic_load(&vcpu.done); sleep_ms(5))
		assert_true(now_ms() - since < 20000);
	pthread_join(thread, NULL);
	atomic_store(&busy.stop, true);
	pthread_join(other, NULL);
	assert_conserved(&f, NULL);
	close_memory(&f);
	log_set_level(LOG_LEVEL_WARN);
}

static _Thread_local sigjmp_buf out_of_touch;

static void leave_touch(int signum)
{
	(void)signum;
	siglongjmp(out_of_touch, 1);
}

/* A vCPU that a signal brings out of its touch. */
static void *touch_until_signal(void *opaque)
{
	struct toucher *t = opaque;

	if (sigsetjmp(out_of_touch, 1) == 0)
		frame_words(t->f, t->frame)[3] = 77;
	else
		atomic_store(&t->done, true);
	return NULL;
}

/* At a reset nobody waits any more for what was touched before; who does all the same is heard
 * again. */
static void test_forget_waits(void **state)
{
	struct hoard hoard = { .nr_runs = 0 };
	struct toucher vcpu = { .frame = 0 };
	pthread_t thread;
	struct fixture f;

	(void)state;
	log_set_level(LOG_LEVEL_ERROR);
	open_memory(&f);
	settle();
	starve(&f, &hoard, &vcpu, &thread);
	vm_memory_forget_waits(f.mem);
	wait_starves(&f);
	hoard_return(&hoard);
	pthread_join(thread, NULL);
	assert_true(atomic_load(&vcpu.done));
	assert_conserved(&f, NULL);
	close_memory(&f);
	log_set_level(LOG_LEVEL_WARN);
}

/* The same for one that is not there any more. */
static void test_forget_who_left(void **state)
{
	struct sigaction action = { .sa_handler = leave_touch };
	struct hoard hoard = { .nr_runs = 0 };
	struct toucher gone = { .frame = 1 };
	pthread_t left;
	struct fixture f;

	(void)state;
#ifdef __SANITIZE_THREAD__
	skip_because("ThreadSanitizer brings no signal to a thread that waits for memory");
#endif
	log_set_level(LOG_LEVEL_ERROR);
	assert_int_equal(sigaction(SIGUSR1, &action, NULL), 0);
	open_memory(&f);
	settle();
	gone.f = &f;
	vm_memory_drain_stock(f.mem);
	hoard_take_all(&hoard);
	vm_memory_drain_stock(f.mem);
	hoard_take_all(&hoard);
	assert_int_equal(pthread_create(&left, NULL, touch_until_signal, &gone), 0);
	wait_starves(&f);
	while (!atomic_load(&gone.done)) {
		pthread_kill(left, SIGUSR1);
		sleep_ms(10);
	}
	pthread_join(left, NULL);
	assert_true(vm_memory_starves(f.mem));
	for (uint64_t since = now_ms(); vm_memory_starves(f.mem); sleep_ms(10)) {
		assert_true(now_ms() - since < 20000);
		vm_memory_forget_waits(f.mem);
	}
	hoard_return(&hoard);
	assert_conserved(&f, NULL);
	close_memory(&f);
	log_set_level(LOG_LEVEL_WARN);
}

/* A vCPU's thread may be serving a device when the machine ends, and wait for a frame: what it
 * waits for and what else it touches is memory, where it would be killed otherwise, and its process
 * with it. */
static void test_end_while_device_waits(void **state)
{
	struct hoard hoard = { .nr_runs = 0 };
	struct toucher vcpu = { .frame = 0 };
	pthread_t thread;
	struct fixture f;

	(void)state;
	log_set_level(LOG_LEVEL_ERROR);
	open_memory(&f);
	settle();
	starve(&f, &hoard, &vcpu, &thread);
	vm_memory_end_waits(f.mem);
	pthread_join(thread, NULL);
	assert_true(atomic_load(&vcpu.done));
	for (unsigned int i = 0; i < RAM_FRAMES; i++)
		frame_words(&f, i)[1] = i;
	hoard_return(&hoard);
	close_memory(&f);
	log_set_level(LOG_LEVEL_WARN);
	assert_int_equal(held_frames("vm"), 0);
}

/* A stall counts while it lasts, not only when it is over. */
static void test_stall_under_way(void **state)
{
	struct hoard hoard = { .nr_runs = 0 };
	struct toucher vcpu = { .frame = 0 };
	struct vm_memory_stats first, then, end;
	pthread_t thread;
	struct fixture f;

	(void)state;
	log_set_level(LOG_LEVEL_ERROR);
	open_memory(&f);
	settle();
	starve(&f, &hoard, &vcpu, &thread);
	first = stats_of(&f);
	sleep_ms(300);
	then = stats_of(&f);
	hoard_return(&hoard);
	pthread_join(thread, NULL);
	end = stats_of(&f);
	assert_int_equal(first.waits, 1);
	assert_true(then.stall_ns >= first.stall_ns + 300 * NS_PER_MS);
	assert_true(then.stall_max_ns >= first.stall_max_ns + 300 * NS_PER_MS);
	assert_true(end.stall_ns >= then.stall_ns);
	sleep_ms(50);
	assert_int_equal(stats_of(&f).stall_ns, end.stall_ns);
	close_memory(&f);
	log_set_level(LOG_LEVEL_WARN);
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

/* The owner answers nothing for a while: whoever waits hears all the time how far it is. */
static void *wake_owner(void *pid)
{
	sleep_ms(600);
	kill(*(pid_t *)pid, SIGCONT);
	return NULL;
}

static void test_prealloc_progress_while_it_waits(void **state)
{
	struct seen seen = { .go_on = true };
	struct error err = { 0 };
	struct ucred owner;
	socklen_t len = sizeof(owner);
	pthread_t waker;
	struct fixture f;

	(void)state;
	assert_int_equal(getsockopt(owner_client_fd(client), SOL_SOCKET, SO_PEERCRED, &owner, &len),
			 0);
	open_large(&f);
	settle();
	kill(owner.pid, SIGSTOP);
	assert_int_equal(pthread_create(&waker, NULL, wake_owner, &owner.pid), 0);
	assert_int_equal(vm_memory_prealloc(f.mem, progress, &seen, &err), 0);
	pthread_join(waker, NULL);
	assert_int_equal(seen.last, RAM_FRAMES + HOT_FRAMES);
	/* Every 50 ms; the first and the last call are none of these. */
	assert_true(seen.calls >= 6);
	assert_conserved(&f, NULL);
	close_memory(&f);
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
		cmocka_unit_test(test_fault_around_downwards),
		cmocka_unit_test(test_fault_around_released),
		cmocka_unit_test(test_reserve_for_loop),
		cmocka_unit_test(test_waits_beside_events),
		cmocka_unit_test(test_forget_waits),
		cmocka_unit_test(test_forget_who_left),
		cmocka_unit_test(test_end_while_device_waits),
		cmocka_unit_test(test_stall_under_way),
		cmocka_unit_test(test_prealloc),
		cmocka_unit_test(test_prealloc_progress_while_it_waits),
		cmocka_unit_test(test_owner_gone),
	};

	return cmocka_run_group_tests_name(name, tests, setup, teardown);
}

int main(void)
{
	return fork_groups(run_group);
}
