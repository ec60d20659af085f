/* SPDX-License-Identifier: MIT */
/*
 * What the tests of a guest's memory share: a pool owner of their own, a connection to it, a VM's
 * memory with its loop. Each group of tests runs in a process of its own, because the owner takes
 * the end of a connection for the end of the VM's process.
 */
#ifndef VM_MEMORY_FIXTURE_H
#define VM_MEMORY_FIXTURE_H

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "framevisor/clock.h"
#include "framevisor/event_loop.h"
#include "framevisor/log.h"
#include "framevisor/owner_client.h"
#include "framevisor/qmp_client.h"
#include "framevisor/rundir.h"
#include "framevisor/vm_memory.h"
#include "tests/unit/owner_path.h"
#include "tests/unit/sleep.h"

#define LOW_FRAMES  20
#define HIGH_FRAMES 12
#define RAM_FRAMES  (LOW_FRAMES + HIGH_FRAMES)
#define HIGH_GPA    UINT64_C(0x100000000)

static enum hugepages_mode mode;
static uint64_t pool_bytes; /* of a pool of fixed size */

/* This process is one VM for the owner: one connection for all tests of a group. */
static struct owner_client *client;
static struct qmp_client *qmp;

/* One VM's memory and its loop, as a VMM process has them. */
struct fixture {
	struct event_loop *loop;
	pthread_t loop_thread;
	struct vm_memory *mem;
	struct guest_memory *gm;
};

static inline struct owner_client *connect_owner(const char *name)
{
	struct owner_client_config config = {
		.vm_name = name,
		.ram_frames = RAM_FRAMES,
		.hugepages = mode,
		.pool_bytes = pool_bytes,
	};
	struct error err = { 0 };
	struct owner_client *new = owner_client_connect(&config, &err);

	if (!new)
		print_error("connect: %s\n", err.message);
	return new;
}

static inline void *run_loop(void *loop)
{
	event_loop_run(loop);
	return NULL;
}

/* Also used in forked processes, so without assertions. Client and loop are set here, and the
 * ranges if there are none. */
static inline bool try_open_config(struct fixture *f, struct owner_client *owner,
				   struct vm_memory_config config)
{
	const struct vm_memory_range ranges[] = {
		{ .gpa = 0, .size = LOW_FRAMES * FRAME_SIZE },
		{ .gpa = HIGH_GPA, .size = HIGH_FRAMES * FRAME_SIZE },
	};
	struct error err = { 0 };

	f->loop = event_loop_create();
	if (!config.ranges) {
		config.ranges = ranges;
		config.nr_ranges = 2;
	}
	config.client = owner;
	config.loop = f->loop;
	f->mem = f->loop ? vm_memory_create(&config, &err) : NULL;
	if (!f->mem) {
		print_error("vm_memory_create: %s\n", err.message);
		return false;
	}
	f->gm = vm_memory_guest(f->mem);
	return pthread_create(&f->loop_thread, NULL, run_loop, f->loop) == 0;
}

static inline bool try_open(struct fixture *f, struct owner_client *owner)
{
	return try_open_config(f, owner, (struct vm_memory_config){ 0 });
}

static inline void open_memory(struct fixture *f)
{
	assert_true(try_open(f, client));
	assert_non_null(f->gm->frame_ops);
}

/* Bytes in the file under the window, which must stay empty: what a touch put there would be memory
 * that nobody accounts for, and would be there again after it was taken away. */
static inline int64_t hole_bytes(void)
{
	char path[64], target[PATH_MAX];
	int64_t bytes = -1;

	for (int fd = 3; fd < 256; fd++) {
		struct stat st;
		ssize_t len;

		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		len = readlink(path, target, sizeof(target) - 1);
		if (len <= 0)
			continue;
		target[len] = '\0';
		if (strstr(target, "framevisor-hole") && fstat(fd, &st) == 0)
			bytes = (bytes < 0 ? 0 : bytes) + (int64_t)st.st_blocks * 512;
	}
	return bytes;
}

static inline void close_memory(struct fixture *f)
{
	assert_int_equal(hole_bytes(), 0);
	event_loop_quit(f->loop);
	pthread_join(f->loop_thread, NULL);
	vm_memory_destroy(f->mem);
	event_loop_destroy(f->loop);
}

static inline uint64_t frame_gpa(unsigned int frame)
{
	return frame < LOW_FRAMES ? frame * FRAME_SIZE
				  : HIGH_GPA + (frame - LOW_FRAMES) * FRAME_SIZE;
}

static inline uint64_t *frame_words(struct fixture *f, unsigned int frame)
{
	return guest_ptr(f->gm, frame_gpa(frame), FRAME_SIZE);
}

/* Whether the owner finds its own counts right, and how many frames it says that a VM holds;
 * -1: it does not know such a VM. */
static inline int64_t held_frames(const char *name)
{
	struct error err = { 0 };
	json_t *reply = NULL;
	json_t *vm;
	size_t i;
	int64_t held = -1;

	assert_int_equal(qmp_client_call(qmp, "x-validate", NULL, &reply, &err), 0);
	if (!json_is_true(json_object_get(reply, "ok")))
		print_error("%s\n", json_string_value(json_object_get(reply, "message")));
	assert_true(json_is_true(json_object_get(reply, "ok")));
	json_decref(reply);
	assert_int_equal(qmp_client_call(qmp, "query-vms", NULL, &reply, &err), 0);
	json_array_foreach(reply, i, vm)
	{
		if (strcmp(json_string_value(json_object_get(vm, "name")), name) == 0)
			held = json_integer_value(json_object_get(vm, "held"));
	}
	json_decref(reply);
	return held;
}

/* Frames in the hands of the test itself: what this VM may still have. */
struct hoard {
	struct frame_run runs[RAM_FRAMES];
	unsigned int nr_runs;
	uint64_t nr_frames;
};

static inline void hoard_take_all(struct hoard *hoard)
{
	for (;;) {
		unsigned int nr_runs = RAM_FRAMES - hoard->nr_runs;
		int64_t got = owner_client_grant(client, RAM_FRAMES, 0,
						 &hoard->runs[hoard->nr_runs], &nr_runs);

		if (got == -ENOMEM || hoard->nr_runs == RAM_FRAMES)
			return;
		assert_true(got > 0);
		hoard->nr_runs += nr_runs;
		hoard->nr_frames += (uint64_t)got;
		if (hoard->nr_runs == RAM_FRAMES)
			return;
	}
}

static inline void hoard_return(struct hoard *hoard)
{
	if (hoard->nr_runs)
		assert_int_equal(owner_client_return(client, hoard->runs, hoard->nr_runs), 0);
	hoard->nr_runs = 0;
	hoard->nr_frames = 0;
}

static inline struct vm_memory_stats stats_of(struct fixture *f)
{
	struct vm_memory_stats stats;

	vm_memory_stats(f->mem, &stats);
	return stats;
}

/* What the owner says we have is what we say: bound and stock, and what a test holds; and that is
 * not more than the guest may have. A refill may be under way, so both get some time to agree. */
static inline void assert_conserved(struct fixture *f, const struct hoard *hoard)
{
	uint64_t since = now_ms();
	struct vm_memory_stats stats;
	uint64_t ours;
	int64_t held;

	do {
		stats = stats_of(f);
		assert_int_equal(stats.ram, RAM_FRAMES);
		assert_true(stats.bound + stats.stock <= stats.ram + stats.plugged);
		ours = stats.bound + stats.stock + (hoard ? hoard->nr_frames : 0);
		held = held_frames("vm");
		if (held == (int64_t)ours)
			return;
		sleep_ms(10);
	} while (now_ms() - since < 3000);
	fail_msg("the owner counts %lld frames as ours, we %llu", (long long)held,
		 (unsigned long long)ours);
}

/* Waits for the loop to finish a refill: the numbers stand still. */
static inline void settle(void)
{
	sleep_ms(50);
}

/* Until somebody waits for a frame. */
static inline void wait_starves(struct fixture *f)
{
	for (uint64_t since = now_ms(); !vm_memory_starves(f->mem); sleep_ms(1))
		assert_true(now_ms() - since < 20000);
}

/* The guest has all of its RAM. */
static inline void back_ram(struct fixture *f)
{
	assert_int_equal(f->gm->frame_ops->back(f->gm->frame_opaque, 0, LOW_FRAMES), 0);
	assert_int_equal(f->gm->frame_ops->back(f->gm->frame_opaque, HIGH_GPA, HIGH_FRAMES), 0);
}

struct toucher {
	struct fixture *f;
	unsigned int frame;
	atomic_bool done;
};

static inline void *touch_one(void *opaque)
{
	struct toucher *t = opaque;

	frame_words(t->f, t->frame)[3] = 77;
	atomic_store(&t->done, true);
	return NULL;
}

static inline int setup(void **state)
{
	char path[RUNDIR_PATH_MAX];
	struct error err = { 0 };

	(void)state;
	client = connect_owner("vm");
	if (!client || rundir_path(path, false, &err) || rundir_join(path, "pool-qmp.sock", &err))
		return -1;
	qmp = qmp_client_connect(path, 5000, &err);
	if (!qmp) {
		print_error("%s\n", err.message);
		return -1;
	}
	print_message("%s\n", owner_client_hugetlb(client) ? "hugepages" : "ordinary memory");
	return 0;
}

static inline int teardown(void **state)
{
	(void)state;
	qmp_client_close(qmp);
	/* The client stays: the owner takes its end for the end of this process. */
	return 0;
}

/* The owner ends a moment after its last VM and takes its sockets along; what is left then is a
 * lock file and a log. */
static inline int remove_rundir(const char *dir)
{
	static const char *const files[] = { "pool.lock", "pool.log", "vm" };
	uint64_t since = now_ms();
	char path[PATH_MAX];

	do {
		sleep_ms(50);
		snprintf(path, sizeof(path), "%s/pool.sock", dir);
		if (access(path, F_OK) == 0)
			continue;
		for (unsigned int i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
			snprintf(path, sizeof(path), "%s/%s", dir, files[i]);
			remove(path);
		}
		if (rmdir(dir) == 0)
			return 0;
	} while (now_ms() - since < 10000);
	print_error("the pool owner did not end, or left something in %s\n", dir);
	return 1;
}

/* A process per group: it is a VM, and its end is the VM's end. */
static inline int fork_group(int (*run_group)(const char *name), const char *name,
			     enum hugepages_mode hugepages)
{
	char dir[] = "/tmp/framevisor-test-XXXXXX";
	int status = 1;
	pid_t pid;

	mode = hugepages;
	if (!mkdtemp(dir))
		return 1;
	setenv("FRAMEVISOR_RUNDIR", dir, 1);
	fflush(NULL);
	pid = fork();
	if (pid == 0)
		exit(run_group(name));
	if (pid > 0)
		waitpid(pid, &status, 0);
	return (status != 0) + remove_rundir(dir);
}

static inline int fork_groups(int (*run_group)(const char *name))
{
	int failed;

	set_path();
	log_set_program("test");
	failed = fork_group(run_group, "hugepages", HUGEPAGES_AUTO);
	return failed + fork_group(run_group, "ordinary memory", HUGEPAGES_NEVER);
}

#endif
