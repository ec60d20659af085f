/* SPDX-License-Identifier: MIT */
/*
 * The server of pool owners at its limits, in this process: a client that keeps more than it may,
 * and a host that has no file descriptor left.
 */
#include "tests/unit/owner_fixture.h"

#include <sys/resource.h>

#include "framevisor/event_loop.h"
#include "vmm/owner/objects.h"
#include "vmm/owner/server.h"
#include "vmm/owner/work.h"

#define POOL_FRAMES 256
#define RAM         16
#define MOVE_MS     200

static struct event_loop *loop;
static struct event_timer *enough;
static struct work_queue *work;
static struct pool *pool;
static struct server *server;
static int listen_fd;

static void on_enough(void *opaque)
{
	event_loop_quit(opaque);
}

static void serve(uint64_t ms)
{
	event_timer_arm(enough, ms, 0);
	assert_int_equal(event_loop_run(loop), 0);
}

static int setup(void **state)
{
	struct pool_config config = { .hugepages = HUGEPAGES_NEVER,
				      .size = (uint64_t)POOL_FRAMES << FRAME_SHIFT };
	struct server_config server_config = { .move_ms = MOVE_MS };
	char path[RUNDIR_PATH_MAX], record[RUNDIR_PATH_MAX];
	struct error err = { 0 };

	assert_int_equal(fixture_setup(state), 0);
	assert_int_equal(rundir_join(path, "pool.sock", NULL), 0);
	assert_int_equal(rundir_join(record, "pool.hugepages", NULL), 0);
	config.record = record;
	assert_int_equal(objects_init(&err), 0);
	loop = event_loop_create();
	enough = event_timer_create(loop, on_enough, loop);
	work = work_queue_create(loop);
	pool = pool_create(&config, &err);
	if (!pool)
		fail_msg("%s", err.message);
	listen_fd = rundir_listen(path, SOCK_SEQPACKET, &err);
	server_config.loop = loop;
	server_config.pool = pool;
	server_config.work = work;
	server_config.listen_fd = listen_fd;
	server = server_create(&server_config, &err);
	assert_non_null(server);
	return 0;
}

static int teardown(void **state)
{
	work_queue_destroy(work);
	server_destroy(server);
	event_timer_destroy(enough);
	event_loop_destroy(loop);
	close(listen_fd);
	pool_destroy(pool);
	assert_int_equal(objects_exit(), 0);
	return fixture_teardown(state);
}

/* --- frames to move to --- */

struct held {
	struct frame_run runs[OWNER_RUNS_MAX];
	unsigned int nr;
};

static int64_t get(struct owner_client *client, struct held *held, uint64_t nr, bool to_move)
{
	unsigned int room = OWNER_RUNS_MAX - held->nr;
	struct frame_run *runs = held->runs + held->nr;
	int64_t got = to_move ? owner_client_grant_to_move(client, nr, 0, runs, &room)
			      : owner_client_grant(client, nr, 0, runs, &room);

	if (got > 0)
		held->nr += room;
	return got;
}

static void give_back(struct owner_client *client, struct held *held)
{
	if (owner_client_return(client, held->runs, held->nr) < 0)
		_exit(3);
	held->nr = 0;
}

/* Moves for longer than one may keep anything beyond its limit, and then keeps some. */
static void child_main(void)
{
	struct owner_client_config config = { .vm_name = "moves", .ram_frames = RAM };
	struct owner_client *client = owner_client_connect(&config, NULL);
	struct held held = { .nr = 0 };

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (int i = 0; client && i < 20; i++) {
		if (get(client, &held, RAM, false) != RAM || get(client, &held, 4, true) != 4)
			_exit(2);
		usleep(MOVE_MS / 2 * 1000);
		give_back(client, &held);
	}
	if (!client || get(client, &held, RAM, false) != RAM || get(client, &held, 4, true) != 4)
		_exit(4);
	usleep(2 * MOVE_MS * 1000);
	if (get(client, &held, 4, true) != -ENOMEM)
		_exit(5);
	/* As soon as it has given back what was beyond, it goes on. */
	give_back(client, &held);
	if (get(client, &held, RAM, false) != RAM || get(client, &held, 4, true) != 4)
		_exit(6);
	for (;;)
		pause();
}

/* Who gives back what it moved out of may go on for as long as it likes; who does not gets no more,
 * and has to leave in the end. */
static void test_keeps_frames_to_move_to(void **state)
{
	uint64_t end = now_ms() + 60000;
	pid_t pid = fork();
	int status = 0;

	(void)state;
	if (pid == 0)
		child_main();
	while (waitpid(pid, &status, WNOHANG) == 0) {
		if (now_ms() > end) {
			kill(pid, SIGKILL);
			fail_msg("it still has %d frames", (int)pool_held(pool, 0));
		}
		serve(50);
	}
	if (WIFEXITED(status))
		fail_msg("exit status %d", WEXITSTATUS(status));
	serve(50);
	assert_int_equal(pool_held(pool, 0), 0);
}

/* --- no file descriptor left --- */

static void count_client(void *opaque, const struct server_client_info *info)
{
	(void)info;
	++*(unsigned int *)opaque;
}

static unsigned int nr_clients(void)
{
	unsigned int nr = 0;

	server_each(server, count_client, &nr);
	return nr;
}

static uint64_t cpu_ms(void)
{
	struct rusage used;

	assert_int_equal(getrusage(RUSAGE_SELF, &used), 0);
	return (uint64_t)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000 +
	       (uint64_t)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1000;
}

/* Who connects waits until there are some again, and the owner does not spin until then. */
static void test_no_fds(void **state)
{
	struct rlimit limit, low;
	char path[RUNDIR_PATH_MAX];
	uint64_t used;
	int fd, next;

	(void)state;
	assert_int_equal(rundir_join(path, "pool.sock", NULL), 0);
	fd = rundir_connect(path, SOCK_SEQPACKET, NULL);
	next = dup(fd); /* all below are in use */
	close(next);
	assert_true(fd >= 0 && next >= 0);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	low = limit;
	low.rlim_cur = (rlim_t)next;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
	used = cpu_ms();
	serve(1000);
	used = cpu_ms() - used;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	print_message("%d ms of CPU time in a second without file descriptors\n", (int)used);
	assert_true(used < 300);
	assert_int_equal(nr_clients(), 0);
	serve(1000);
	assert_int_equal(nr_clients(), 1);
	close(fd);
	serve(50);
	assert_int_equal(nr_clients(), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_keeps_frames_to_move_to, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_fds, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
