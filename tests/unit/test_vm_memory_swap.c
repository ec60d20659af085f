/* SPDX-License-Identifier: MIT */
/*
 * Frames of a running guest go to a swap file and come back: every byte is compared, also on a
 * device that is full or fails. Under load: test_vm_memory_swap_load.c.
 */
#include "swap_fixture.h"

#include <dirent.h>
#include <sched.h>
#include <sys/mount.h>

#include "tests/unit/skip.h"

static void test_out_and_in(void **state)
{
	struct vm_memory_stats stats;
	struct fixture f;

	(void)state;
	open_swap(&f, 0);
	fill(&f);
	swap_all(&f);
	settle();
	stats = stats_of(&f);
	assert_int_equal(stats.bound, 0);
	assert_int_equal(stats.parked, 0);
	assert_int_equal(stats.swapped_zero, RAM_FRAMES / 4);
	assert_int_equal(stats.swap_out, RAM_FRAMES);
	assert_int_equal(stats.swap_size, RAM_FRAMES * FRAME_SIZE);
	assert_true(stats.swap_used >= RAM_FRAMES / 2 * FRAME_SIZE);
	assert_true(stats.swap_out_bytes < RAM_FRAMES * FRAME_SIZE * 6 / 10);
	assert_conserved(&f, NULL);
	for (unsigned int i = 0; i < RAM_FRAMES; i++)
		check_frame(&f, i * 7 % RAM_FRAMES);
	stats = stats_of(&f);
	assert_int_equal(stats.swap_in, RAM_FRAMES);
	assert_int_equal(stats.swapped, 0);
	assert_int_equal(stats.swapped_zero, 0);
	assert_int_equal(stats.swap_used, 0);
	assert_int_equal(stats.bound, RAM_FRAMES);

	/* In a row: neighbours are read along. */
	swap_all(&f);
	for (unsigned int i = 0; i < RAM_FRAMES; i++)
		check_frame(&f, i);
	assert_true(stats_of(&f).swap_ahead > 0);
	assert_conserved(&f, NULL);
	/* It ends with frames in the file. */
	swap_all(&f);
	close_memory(&f);
	assert_int_equal(held_frames("vm"), 0);
}

/* What the guest gives up is gone from the file, too. */
static void test_given_up(void **state)
{
	struct vm_memory_stats stats;
	const struct guest_frame_ops *ops;
	struct fixture f;

	(void)state;
	open_swap(&f, 0);
	ops = f.gm->frame_ops;
	fill(&f);
	swap_all(&f);
	assert_int_equal(ops->release(f.gm->frame_opaque, frame_gpa(4), 4), 0);
	stats = stats_of(&f);
	assert_int_equal(stats.swapped, RAM_FRAMES - 4);
	assert_int_equal(stats.swap_dropped, 4);
	assert_int_equal(stats.released, 4);
	for (unsigned int i = 4; i < 8; i++)
		assert_int_equal(frame_words(&f, i)[5], 0);
	/* Hints count for what is swapped out as for what is there. */
	assert_int_equal(ops->watch(f.gm->frame_opaque, 0, LOW_FRAMES), 0);
	check_frame(&f, 9);
	assert_int_equal(ops->release_clean(f.gm->frame_opaque, frame_gpa(8), 3), 0);
	check_frame(&f, 9);
	assert_int_equal(frame_words(&f, 8)[5], 0);
	assert_int_equal(frame_words(&f, 10)[5], 0);
	/* A frame that is swapped has nothing to move. */
	assert_true(vm_memory_move_frames(
			    f.mem, &(struct vm_memory_move){ .gpa = frame_gpa(12), .nr_frames = 2 },
			    NULL) == 0);
	for (unsigned int i = 11; i < RAM_FRAMES; i++)
		check_frame(&f, i);
	assert_conserved(&f, NULL);
	close_memory(&f);
	assert_int_equal(held_frames("vm"), 0);
}

/* The ones that are in use stay. */
struct heater {
	struct fixture *f;
	atomic_bool stop;
	atomic_uint rounds;
};
#define HOT_FRAMES 4

static void *heater_thread(void *opaque)
{
	struct heater *h = opaque;

	while (!atomic_load(&h->stop)) {
		for (unsigned int i = 0; i < HOT_FRAMES; i++)
			((volatile uint64_t *)frame_words(h->f, i * 5))[0]++;
		atomic_fetch_add(&h->rounds, 1);
	}
	return NULL;
}

static void test_coldest_first(void **state)
{
	struct heater h = { .stop = false };
	struct vm_memory_idle idle;
	uint64_t since = now_ms();
	unsigned int hot_out = 0;
	pthread_t thread;
	struct fixture f;

	(void)state;
	open_swap(&f, 0);
	h.f = &f;
	fill(&f);
	vm_memory_idle(f.mem, &idle);
	assert_false(idle.sampling);
	assert_int_equal(idle.complete_ms, 0);
	assert_int_equal(pthread_create(&thread, NULL, heater_thread, &h), 0);
	vm_memory_set_sampling(f.mem, true);
	/* All that are idle have been found, and have been for a second. */
	do {
		assert_true(now_ms() - since < WAIT_MS);
		sleep_ms(20);
		vm_memory_idle(f.mem, &idle);
		/* By the time that each has been sampled once, each that is idle counts as such. */
		if (idle.complete_ms)
			assert_true(idle.inactive >= RAM_FRAMES - HOT_FRAMES);
	} while (idle.idle[0] < RAM_FRAMES - HOT_FRAMES || !idle.complete_ms);
	assert_true(idle.sampling);
	assert_int_equal(idle.active + idle.inactive, RAM_FRAMES);
	assert_true(stats_of(&f).sampled >= RAM_FRAMES);
	assert_int_equal(vm_memory_swap_out(f.mem, RAM_FRAMES - HOT_FRAMES - 4), 0);
	wait_swapped(&f, RAM_FRAMES - HOT_FRAMES - 4);
	pthread_mutex_lock(&f.mem->lock);
	for (unsigned int i = 0; i < HOT_FRAMES; i++)
		hot_out += f.mem->frames[i * 5].state == FRAME_SWAPPED;
	pthread_mutex_unlock(&f.mem->lock);
	assert_int_equal(hot_out, 0);
	vm_memory_set_sampling(f.mem, false);
	atomic_store(&h.stop, true);
	pthread_join(thread, NULL);
	close_memory(&f);
	assert_int_equal(held_frames("vm"), 0);
}

static void wait_all_parked(struct fixture *f)
{
	uint64_t since = now_ms();
	struct vm_memory_idle idle;

	do {
		assert_true(now_ms() - since < WAIT_MS);
		sleep_ms(5);
		vm_memory_idle(f->mem, &idle);
	} while (idle.inactive < RAM_FRAMES);
}

/* Frames that are used now and then stay, although all the others, which are not used for minutes
 * at a time, were read once since. */
static void test_read_once_goes_first(void **state)
{
	unsigned int regular_out = 0;
	struct fixture f;

	(void)state;
	open_swap(&f, 0);
	fill(&f);
	vm_memory_set_sampling(f.mem, true);
	wait_all_parked(&f);
	for (unsigned int i = 0; i < HOT_FRAMES; i++)
		check_frame(&f, i * 5);
	wait_all_parked(&f);
	pthread_mutex_lock(&f.mem->lock);
	for (unsigned int i = 0; i < RAM_FRAMES; i++)
		if (i % 5 || i / 5 >= HOT_FRAMES)
			f.mem->frames[i].parked_at -= 300000;
	pthread_mutex_unlock(&f.mem->lock);
	for (unsigned int i = 0; i < RAM_FRAMES; i++)
		if (i % 5 || i / 5 >= HOT_FRAMES)
			check_frame(&f, i);
	wait_all_parked(&f);
	assert_int_equal(vm_memory_swap_out(f.mem, RAM_FRAMES - HOT_FRAMES), 0);
	wait_swapped(&f, RAM_FRAMES - HOT_FRAMES);
	pthread_mutex_lock(&f.mem->lock);
	for (unsigned int i = 0; i < HOT_FRAMES; i++)
		regular_out += f.mem->frames[i * 5].state == FRAME_SWAPPED;
	pthread_mutex_unlock(&f.mem->lock);
	assert_int_equal(regular_out, 0);
	close_memory(&f);
	assert_int_equal(held_frames("vm"), 0);
}

/* The machine ends while frames are on their way out: each of them still has to be taken away. */
static void test_end_while_swapping_out(void **state)
{
	struct fixture f;

	(void)state;
	open_swap(&f, 0);
	fill(&f);
	assert_int_equal(vm_memory_swap_out(f.mem, RAM_FRAMES), 0);
	alarm(WAIT_MS / 1000); /* what used to be waited for never came */
	vm_memory_end_waits(f.mem);
	close_memory(&f);
	alarm(0);
	assert_int_equal(held_frames("vm"), 0);
}

static void test_full(void **state)
{
	struct fixture f;

	(void)state;
	log_set_level(LOG_LEVEL_ERROR);
	open_swap(&f, 4 * FRAME_SIZE);
	fill(&f);
	assert_int_equal(vm_memory_swap_out(f.mem, RAM_FRAMES), 0);
	wait_event(VM_MEMORY_EVENT_SWAP_FULL);
	assert_true(stats_of(&f).swapped < RAM_FRAMES);
	assert_true(stats_of(&f).swap_used <= 4 * FRAME_SIZE);
	for (unsigned int i = 0; i < RAM_FRAMES; i++)
		check_frame(&f, i);
	assert_conserved(&f, NULL);
	close_memory(&f);
	log_set_level(LOG_LEVEL_WARN);
	assert_int_equal(held_frames("vm"), 0);
}

/* A device that fails: who needs the frame waits until it is back, and nothing is lost. */
static void test_failing_device(void **state)
{
	struct toucher t = { .frame = 5 };
	pthread_t thread;
	struct fixture f;

	(void)state;
	log_set_level(LOG_LEVEL_ERROR + 1);
	open_swap(&f, 0);
	fill(&f);
	swap_file_fail(f.mem->swap->file, 0, -1);
	assert_int_equal(vm_memory_swap_out(f.mem, RAM_FRAMES), 0);
	wait_event(VM_MEMORY_EVENT_SWAP_FULL);
	assert_true(stats_of(&f).swapped <= RAM_FRAMES / 4); /* zero ones need no device */
	for (unsigned int i = 0; i < RAM_FRAMES; i++)
		check_frame(&f, i);
	swap_file_fail(f.mem->swap->file, 0, 0);
	vm_memory_swap_retry(f.mem);
	swap_all(&f);

	swap_file_fail(f.mem->swap->file, -1, 0);
	t.f = &f;
	assert_int_equal(pthread_create(&thread, NULL, touch_one, &t), 0);
	wait_event(VM_MEMORY_EVENT_SWAP_UNREADABLE);
	assert_false(atomic_load(&t.done));
	assert_true(vm_memory_starves(f.mem)); /* who ends the VM need not wait for it */
	assert_true(stats_of(&f).swap_errors > 0);
	/* Others are served: a zero frame needs no device, one that was given up neither. */
	check_frame(&f, 3);
	assert_int_equal(f.gm->frame_ops->release(f.gm->frame_opaque, frame_gpa(9), 1), 0);
	assert_int_equal(frame_words(&f, 9)[5], 0);
	/* Once more without success. */
	atomic_store(&events[VM_MEMORY_EVENT_SWAP_UNREADABLE], 0);
	vm_memory_swap_retry(f.mem);
	wait_event(VM_MEMORY_EVENT_SWAP_UNREADABLE);
	assert_false(atomic_load(&t.done));
	swap_file_fail(f.mem->swap->file, 0, 0);
	vm_memory_swap_retry(f.mem);
	pthread_join(thread, NULL);
	assert_false(vm_memory_starves(f.mem));
	assert_int_equal(frame_words(&f, 5)[3], 77);
	frame_words(&f, 5)[3] = content(5, 3);
	for (unsigned int i = 0; i < RAM_FRAMES; i++)
		if (i != 9)
			check_frame(&f, i);

	/* Given up while somebody waits for it in vain: that one gets a new frame. */
	swap_all(&f);
	swap_file_fail(f.mem->swap->file, -1, 0);
	atomic_store(&t.done, false);
	atomic_store(&events[VM_MEMORY_EVENT_SWAP_UNREADABLE], 0);
	assert_int_equal(pthread_create(&thread, NULL, touch_one, &t), 0);
	wait_event(VM_MEMORY_EVENT_SWAP_UNREADABLE);
	assert_int_equal(f.gm->frame_ops->release(f.gm->frame_opaque, frame_gpa(5), 1), 0);
	pthread_join(thread, NULL);
	assert_int_equal(frame_words(&f, 5)[3], 77);
	assert_int_equal(frame_words(&f, 5)[4], 0);
	assert_false(vm_memory_starves(f.mem));
	assert_conserved(&f, NULL);
	close_memory(&f);
	log_set_level(LOG_LEVEL_WARN);
	assert_int_equal(held_frames("vm"), 0);
}

static void touch_in_loop(void *opaque)
{
	touch_one(opaque);
}

/* The loop's thread waits for a frame that cannot be read: nobody could ask it to try again. It
 * goes on by itself when the device is back. */
static void test_device_waits_for_failing_device(void **state)
{
	struct toucher t = { .frame = 5 };
	struct fixture f;

	(void)state;
	log_set_level(LOG_LEVEL_ERROR + 1);
	open_swap(&f, 0);
	fill(&f);
	swap_all(&f);
	t.f = &f;
	swap_file_fail(f.mem->swap->file, -1, 0);
	/* The loop's thread is known from its first event on. */
	assert_int_equal(event_loop_post(f.loop, touch_in_loop, &t), 0);
	for (uint64_t since = now_ms(); stats_of(&f).swap_errors < 3; sleep_ms(5))
		assert_true(now_ms() - since < WAIT_MS);
	assert_false(atomic_load(&t.done));
	swap_file_fail(f.mem->swap->file, 0, 0);
	for (uint64_t since = now_ms(); !atomic_load(&t.done); sleep_ms(5))
		assert_true(now_ms() - since < WAIT_MS);
	assert_int_equal(frame_words(&f, 5)[3], 77);
	assert_int_equal(frame_words(&f, 5)[4], content(5, 4));
	assert_conserved(&f, NULL);
	close_memory(&f);
	log_set_level(LOG_LEVEL_WARN);
}

#define HOTPLUG_GPA UINT64_C(0x108000000)

/* The guest uses an unplugged frame in place of one that is swapped: who touches that one is beyond
 * the limit until another one goes, and not a moment less. */
static void test_beyond_the_limit(void **state)
{
	const struct vm_memory_range hotplug[] = { { .gpa = HOTPLUG_GPA,
						     .size = VM_MEMORY_SLOT_SIZE } };
	struct toucher t = { .frame = 5 };
	volatile uint64_t *stray;
	pthread_t thread;
	struct fixture f;

	(void)state;
	log_set_level(LOG_LEVEL_ERROR);
	for (unsigned int i = 0; i < VM_MEMORY_NR_EVENTS; i++)
		atomic_store(&events[i], 0);
	assert_true(try_open_config(&f, client,
				    (struct vm_memory_config){ .swap_path = "/tmp",
							       .hotplug = hotplug,
							       .nr_hotplug = 1,
							       .event = on_event }));
	stray = (volatile uint64_t *)f.gm->regions[f.gm->nr_regions - 1].hva;
	fill(&f);
	swap_all(&f);
	*stray = 1;
	/* Downwards, so that nothing is read along. */
	for (unsigned int i = RAM_FRAMES; i-- > 0;)
		if (i != t.frame)
			check_frame(&f, i);
	assert_int_equal(atomic_load(&events[VM_MEMORY_EVENT_OVER_LIMIT]), 0);
	assert_int_equal(stats_of(&f).bound, RAM_FRAMES);
	assert_int_equal(stats_of(&f).swapped, 1);

	/* Nothing can go out in its place: not even frames of zeroes, as there are none. */
	for (unsigned int i = 3; i < RAM_FRAMES; i += 4)
		frame_words(&f, i)[0] = 1;
	swap_file_fail(f.mem->swap->file, 0, -1);
	t.f = &f;
	assert_int_equal(pthread_create(&thread, NULL, touch_one, &t), 0);
	wait_event(VM_MEMORY_EVENT_OVER_LIMIT);
	sleep_ms(300);
	assert_false(atomic_load(&t.done));
	assert_int_equal(atomic_load(&events[VM_MEMORY_EVENT_WITHIN_LIMIT]), 0);
	assert_int_equal(atomic_load(&events[VM_MEMORY_EVENT_OVER_LIMIT]), 1);
	/* And when it can, it does. */
	swap_file_fail(f.mem->swap->file, 0, 0);
	vm_memory_swap_retry(f.mem);
	wait_event(VM_MEMORY_EVENT_WITHIN_LIMIT);
	pthread_join(thread, NULL);
	assert_int_equal(frame_words(&f, 5)[3], 77);
	assert_int_equal(frame_words(&f, 5)[4], content(5, 4));
	assert_true(stats_of(&f).bound <= RAM_FRAMES);
	close_memory(&f);
	log_set_level(LOG_LEVEL_WARN);
	assert_int_equal(held_frames("vm"), 0);
}

/* A swapped frame is touched while the pool has none: it comes when there are some again, without
 * anything else happening in this VM. */
static void test_touched_without_frames(void **state)
{
	struct hoard hoard = { .nr_runs = 0 };
	struct toucher t = { .frame = 5 };
	uint64_t since = now_ms();
	pthread_t thread;
	struct fixture f;

	(void)state;
	log_set_level(LOG_LEVEL_ERROR);
	open_swap(&f, 0);
	fill(&f);
	swap_all(&f);
	while (hoard.nr_frames < RAM_FRAMES) {
		assert_true(now_ms() - since < WAIT_MS);
		vm_memory_drain_stock(f.mem);
		hoard_take_all(&hoard);
	}
	t.f = &f;
	assert_int_equal(pthread_create(&thread, NULL, touch_one, &t), 0);
	wait_event(VM_MEMORY_EVENT_POOL_EMPTY);
	assert_true(vm_memory_starves(f.mem));
	sleep_ms(300);
	assert_false(atomic_load(&t.done));
	assert_int_equal(stats_of(&f).waits, 1);
	hoard_return(&hoard);
	for (since = now_ms(); !atomic_load(&t.done); sleep_ms(5))
		assert_true(now_ms() - since < WAIT_MS);
	pthread_join(thread, NULL);
	assert_false(vm_memory_starves(f.mem));
	assert_true(stats_of(&f).stall_ns >= UINT64_C(300000000));
	assert_int_equal(frame_words(&f, 5)[3], 77);
	frame_words(&f, 5)[3] = content(5, 3);
	for (unsigned int i = 0; i < RAM_FRAMES; i++)
		check_frame(&f, i);
	settle();
	assert_conserved(&f, NULL);
	close_memory(&f);
	log_set_level(LOG_LEVEL_WARN);
	assert_int_equal(held_frames("vm"), 0);
}

#define NO_RAMFS 77

/* Reads back what it wrote. */
static bool swap_file_works(const char *path)
{
	struct error err = { 0 };
	struct swap_file *file = swap_file_open(path, 4 * FRAME_SIZE, &err);
	uint64_t *buf = aligned_alloc(SWAP_ALIGN, SWAP_CLUSTER);
	struct swap_io io = { .write = true, .buf = buf, .bytes = SWAP_CLUSTER, .cluster = 3 };
	struct swap_queue queue;
	bool good;

	if (!file)
		print_error("%s\n", err.message);
	if (!file || !buf)
		return false;
	swap_queue_init(&queue, file);
	buf[5] = 77;
	swap_queue_submit(&queue, &io);
	good = swap_queue_wait(&queue) == &io && io.result == 0;
	buf[5] = 0;
	io.write = false;
	swap_queue_submit(&queue, &io);
	good = good && swap_queue_wait(&queue) == &io && io.result == 0 && buf[5] == 77;
	swap_queue_exit(&queue);
	swap_file_close(file);
	free(buf);
	return good;
}

/* In a process of its own, on a file system without direct I/O. */
static int swap_on_ramfs(const char *dir)
{
	char name[64];

	log_set_level(LOG_LEVEL_ERROR);
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("none", dir, "ramfs", 0, NULL) < 0)
		return NO_RAMFS;
	snprintf(name, sizeof(name), "%s/swap", dir);
	if (!swap_file_works(name) || !swap_file_works(dir))
		return 1;
	return access(name, F_OK) == 0 ? 2 : 0;
}

static void test_no_direct_io(void **state)
{
	char dir[] = "/tmp/framevisor-ramfs-XXXXXX";
	int status;
	pid_t pid;

	(void)state;
	assert_non_null(mkdtemp(dir));
	pid = fork();
	if (pid == 0)
		_exit(swap_on_ramfs(dir));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(rmdir(dir), 0);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == NO_RAMFS)
		skip_because("a ramfs cannot be mounted here");
	assert_int_equal(WEXITSTATUS(status), 0);
}

/* What a thread's status says: its name, and which signals it blocks. */
static bool read_status(const char *tid, char *name, uint64_t *blocked)
{
	char path[300], line[256];
	bool found = false;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/task/%s/status", tid);
	file = fopen(path, "r");
	if (!file)
		return false;
	while (fgets(line, sizeof(line), file)) {
		sscanf(line, "Name: %31s", name);
		found = found || sscanf(line, "SigBlk: %lx", blocked) == 1;
	}
	(void)fclose(file);
	return found;
}

/* Threads of the background by their names; all of them block all signals but SIGSYS. */
static unsigned int count_threads(void)
{
	static const char *const names[] = { "fault", "memory", "swap-in" };
	DIR *dir = opendir("/proc/self/task");
	unsigned int nr = 0;
	struct dirent *task;

	assert_non_null(dir);
	while ((task = readdir(dir))) {
		char name[32] = "";
		uint64_t blocked;

		if (task->d_name[0] == '.' || !read_status(task->d_name, name, &blocked))
			continue;
		for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
			if (strcmp(name, names[i]) != 0)
				continue;
			nr++;
			assert_true(blocked >> (SIGTERM - 1) & 1);
			/* By it the sandbox says what was refused. */
			assert_false(blocked >> (SIGSYS - 1) & 1);
		}
	}
	closedir(dir);
	return nr;
}

static void test_signals(void **state)
{
	uint64_t since = now_ms();
	struct fixture f;

	(void)state;
	open_swap(&f, 0);
	while (count_threads() < 3) { /* they name themselves */
		assert_true(now_ms() - since < WAIT_MS);
		sleep_ms(1);
	}
	close_memory(&f);
	assert_int_equal(held_frames("vm"), 0);
}

static int run_group(const char *name)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_out_and_in),
		cmocka_unit_test(test_given_up),
		cmocka_unit_test(test_coldest_first),
		cmocka_unit_test(test_read_once_goes_first),
		cmocka_unit_test(test_end_while_swapping_out),
		cmocka_unit_test(test_full),
		cmocka_unit_test(test_failing_device),
		cmocka_unit_test(test_device_waits_for_failing_device),
		cmocka_unit_test(test_beyond_the_limit),
		cmocka_unit_test(test_touched_without_frames),
		cmocka_unit_test(test_signals),
		cmocka_unit_test(test_no_direct_io),
	};

	return cmocka_run_group_tests_name(name, tests, setup, teardown);
}

int main(void)
{
	pool_bytes = 2 * RAM_FRAMES * FRAME_SIZE;
	return fork_groups(run_group);
}
