/* SPDX-License-Identifier: MIT */
/*
 * Frames of a running guest go to a swap file and come back: every byte is compared, also while
 * threads and a vCPU count in them, on a device that is full or fails, and in a pool that has fewer
 * frames than the guest has memory.
 */
#include <dirent.h>
#include <sched.h>
#include <sys/mount.h>

#include "kvm_counter.h"
#include "tests/unit/skip.h"
#include "vmm/memory/swap.h"

#define WAIT_MS 60000

static atomic_uint events[VM_MEMORY_NR_EVENTS];

static void on_event(void *opaque, enum vm_memory_event event, uint64_t gpa)
{
	(void)opaque;
	(void)gpa;
	atomic_fetch_add(&events[event], 1);
}

static void open_swap(struct fixture *f, uint64_t bytes)
{
	for (unsigned int i = 0; i < VM_MEMORY_NR_EVENTS; i++)
		atomic_store(&events[i], 0);
	assert_true(try_open_config(f, client,
				    (struct vm_memory_config){ .swap_path = "/tmp",
							       .swap_bytes = bytes,
							       .event = on_event }));
}

/* Some compress well, some not at all, some are zero. */
static uint64_t content(unsigned int frame, unsigned int word)
{
	uint64_t x = (frame + 1) * UINT64_C(0x9e3779b97f4a7c15) + word;

	if (frame % 4 == 3)
		return 0;
	if (frame % 4 == 2)
		return word % 64 ? frame : x;
	x = (x ^ x >> 31) * UINT64_C(0xbf58476d1ce4e5b9);
	return x ^ x >> 29;
}

static void fill(struct fixture *f)
{
	for (unsigned int i = 0; i < RAM_FRAMES; i++) {
		uint64_t *words = frame_words(f, i);

		for (unsigned int w = 0; w < FRAME_SIZE / 8; w++)
			words[w] = content(i, w);
	}
}

static void check_frame(struct fixture *f, unsigned int frame)
{
	uint64_t *words = frame_words(f, frame);

	for (unsigned int w = 0; w < FRAME_SIZE / 8; w++)
		if (words[w] != content(frame, w))
			fail_msg("frame %u, word %u: %llx", frame, w, (unsigned long long)words[w]);
}

static void wait_swapped(struct fixture *f, uint64_t nr)
{
	uint64_t since = now_ms();

	while (stats_of(f).swapped < nr) {
		assert_true(now_ms() - since < WAIT_MS);
		sleep_ms(1);
	}
}

static void wait_event(enum vm_memory_event event)
{
	uint64_t since = now_ms();

	while (atomic_load(&events[event]) == 0) {
		assert_true(now_ms() - since < WAIT_MS);
		sleep_ms(1);
	}
}

static void swap_all(struct fixture *f)
{
	assert_int_equal(vm_memory_swap_out(f->mem, RAM_FRAMES), 0);
	wait_swapped(f, RAM_FRAMES);
}

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
static void test_too_few_frames(void **state)
{
	struct hoard hoard = { .nr_runs = 0 };
	struct fixture f;

	(void)state;
	log_set_level(LOG_LEVEL_ERROR);
	open_swap(&f, 0);
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
		cmocka_unit_test(test_full),
		cmocka_unit_test(test_failing_device),
		cmocka_unit_test(test_under_load),
		cmocka_unit_test(test_touched_on_the_way),
		cmocka_unit_test(test_too_few_frames),
		cmocka_unit_test(test_touched_without_frames),
		cmocka_unit_test(test_guest),
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
