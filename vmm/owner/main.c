/* SPDX-License-Identifier: MIT */
/*
 * framevisord, the pool owner: the only process that decides which frame belongs to whom. It maps
 * the whole pool, zeroes frames in the background, and never runs guest code or parses guest data.
 *
 * The order of the start: lock (one owner per run directory), listen (who comes early waits instead
 * of starting another owner), create the pool, then serve. The end is the same backwards.
 */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "framevisor/clock.h"
#include "framevisor/event_log.h"
#include "framevisor/event_loop.h"
#include "framevisor/frame.h"
#include "framevisor/log.h"
#include "framevisor/rundir.h"
#include "framevisor/size.h"
#include "framevisor/version.h"
#include "vmm/owner/daemon.h"
#include "vmm/owner/objects.h"
#include "vmm/owner/options.h"
#include "vmm/owner/owner_qmp.h"
#include "vmm/owner/owner_qmp_policy.h"
#include "vmm/owner/pool.h"
#include "vmm/owner/server.h"

/* How long to wait for the lock of an owner that is just ending: it gives back hugepages. */
#define LOCK_WAIT_MS 10000
#define LOCK_STEP_MS 20

#define LINGER_MS 1000 /* after the last VM */
#define FIRST_MS  5000 /* for the VM that this owner was started for */

#define PROGRESS_AFTER_MS 300
#define PROGRESS_STEP_MS  200

struct owner {
	struct owner_options options;
	char lock_path[RUNDIR_PATH_MAX];
	char sock_path[RUNDIR_PATH_MAX];
	char qmp_path[RUNDIR_PATH_MAX];
	char log_path[RUNDIR_PATH_MAX];
	char record_path[RUNDIR_PATH_MAX];
	char ledger_path[RUNDIR_PATH_MAX];
	char settings_path[RUNDIR_PATH_MAX];
	int lock_fd;
	int listen_fd;
	int signal_fd;
	int ready_fd;
	struct event_loop *loop;
	struct event_source *signal_source;
	struct pool *pool;
	struct server *server;
	struct work_queue *work;
	struct owner_qmp qmp;

	bool progress_over; /* growth after the start is nobody's to watch */
	uint64_t progress_next_ms;
	unsigned int progress_percent; /* said last: a second filling, of what the first one needs
					  itself, does not fall */
};

static void on_signal(void *opaque, uint32_t events)
{
	struct owner *owner = opaque;
	struct signalfd_siginfo info;

	(void)events;
	if (read(owner->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
		event_loop_quit(owner->loop);
}

/* A percentage for a person at a terminal, or for the VMM that started us. */
static bool on_progress(void *opaque, uint64_t done, uint64_t total)
{
	struct owner *owner = opaque;
	unsigned int percent = (unsigned int)(done * 100 / total);
	struct timespec none = { 0 };
	sigset_t signals;
	siginfo_t info;

	if (owner->progress_over)
		return true;
	/* Nobody reads the signals before the loop runs: Ctrl-C would not be heard. */
	sigemptyset(&signals);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	if (sigtimedwait(&signals, &info, &none) > 0)
		return false;
	if (now_ms() < owner->progress_next_ms)
		return true;
	owner->progress_next_ms = now_ms() + PROGRESS_STEP_MS;
	if (percent < owner->progress_percent)
		percent = owner->progress_percent;
	owner->progress_percent = percent;
	if (owner->options.on_demand)
		dprintf(STDERR_FILENO, "progress %u\n", percent);
	else if (isatty(STDERR_FILENO))
		dprintf(STDERR_FILENO, "\rframevisord: filling the pool: %u %%%s", percent,
			done == total ? "\n" : "");
	return true;
}

/* Paths become absolute: a daemon changes its directory. */
static int prepare_paths(struct owner *owner, struct error *err)
{
	char dir[RUNDIR_PATH_MAX], full[PATH_MAX];
	int ret;

	if (owner->options.rundir && setenv("FRAMEVISOR_RUNDIR", owner->options.rundir, 1) < 0)
		return error_set_errno(err, errno, "cannot set the run directory");
	ret = rundir_path(dir, true, err);
	if (ret < 0)
		return ret;
	if (!realpath(dir, full) || setenv("FRAMEVISOR_RUNDIR", full, 1) < 0)
		return error_set_errno(err, errno, "cannot use run directory '%s'", dir);
	ret = rundir_join(owner->lock_path, "pool.lock", err);
	if (ret == 0)
		ret = rundir_join(owner->sock_path, "pool.sock", err);
	if (ret == 0)
		ret = rundir_join(owner->qmp_path, "pool-qmp.sock", err);
	if (ret == 0)
		ret = rundir_join(owner->log_path, "pool.log", err);
	if (ret == 0)
		ret = rundir_join(owner->record_path, "pool.hugepages", err);
	if (ret == 0)
		ret = rundir_join(owner->ledger_path, LEDGER_FILE, err);
	if (ret == 0)
		ret = rundir_join(owner->settings_path, KEPT_SETTINGS_FILE, err);
	return ret;
}

/* Returns 0 with the lock, or -EALREADY when another owner runs (no error if that will do). */
static int take_lock(struct owner *owner, struct error *err)
{
	uint64_t deadline = now_ms() + LOCK_WAIT_MS;

	for (;;) {
		int fd;

		owner->lock_fd = rundir_lock(owner->lock_path);
		if (owner->lock_fd >= 0)
			return 0;
		if (owner->lock_fd != -EWOULDBLOCK)
			return error_set_errno(err, -owner->lock_fd, "cannot lock '%s'",
					       owner->lock_path);
		fd = rundir_connect(owner->sock_path, SOCK_SEQPACKET, NULL);
		if (fd >= 0) {
			close(fd);
			if (owner->options.on_demand)
				return -EALREADY;
			return error_set(err, EALREADY,
					 "a pool owner (process %d) is already running for '%s'",
					 rundir_lock_pid(owner->lock_path), owner->sock_path);
		}
		if (now_ms() > deadline)
			return error_set(err, EBUSY,
					 "a pool owner (process %d) holds '%s' but does not answer",
					 rundir_lock_pid(owner->lock_path), owner->lock_path);
		usleep(LOCK_STEP_MS * 1000);
	}
}

/* Before any thread starts, so that all of them inherit the mask. */
static int take_signals(struct owner *owner, struct error *err)
{
	sigset_t signals;

	sigemptyset(&signals);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGHUP);
	if (sigprocmask(SIG_BLOCK, &signals, NULL) < 0 || signal(SIGPIPE, SIG_IGN) == SIG_ERR)
		return error_set_errno(err, errno, "cannot set up signals");
	owner->signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
	if (owner->signal_fd < 0)
		return error_set_errno(err, errno, "cannot set up signals");
	return 0;
}

static void raise_fd_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

static int create_pool(struct owner *owner, struct error *err)
{
	struct pool_config config = { .hugepages = owner->options.hugepages,
				      .size = owner->options.pool,
				      .max = owner->options.max,
				      .initial = owner->options.initial,
				      .movable = owner->options.movable,
				      .record = owner->record_path,
				      .ledger = owner->ledger_path,
				      .keep = owner->options.keep,
				      .progress = on_progress,
				      .progress_opaque = owner };

	if (config.hugepages == HUGEPAGES_GIGANTIC)
		(void)frame_use_shift(FRAME_SHIFT_1G);
	owner->progress_next_ms = now_ms() + PROGRESS_AFTER_MS;
	owner->pool = pool_create(&config, err);
	owner->progress_over = true;
	return owner->pool ? 0 : -err->code;
}

/* To the log, whatever is logged otherwise, and to whoever listens. */
static void on_policy_event(void *opaque, const char *name, json_t *data)
{
	struct owner *owner = opaque;

	if (owner->qmp.qmp) {
		qmp_server_event(owner->qmp.qmp, name, data);
		return;
	}
	event_log(name, data);
	json_decref(data);
}

/* Those of the owner before, for the pool that was its. */
static int create_settings(struct owner *owner, struct error *err)
{
	owner->qmp.kept = kept_settings_create(owner->settings_path);
	if (!owner->qmp.kept)
		return error_set(err, ENOMEM, "no memory for the pool's settings");
	if (!pool_adopted(owner->pool))
		kept_settings_forget(owner->settings_path);
	return 0;
}

static int create_policy(struct owner *owner, struct error *err)
{
	struct balance_config config = { .loop = owner->loop,
					 .pool = owner->pool,
					 .server = owner->server,
					 .event = on_policy_event,
					 .opaque = owner };

	owner->qmp.balance = balance_create(&config, err);
	if (!owner->qmp.balance)
		return -err->code;
	server_set_traffic(owner->server, balance_traffic, owner->qmp.balance);
	return 0;
}

static int create_servers(struct owner *owner, struct error *err)
{
	struct server_config config = { .loop = owner->loop,
					.pool = owner->pool,
					.work = owner->work,
					.listen_fd = owner->listen_fd,
					.shared = owner->options.group != NULL,
					.linger_ms = LINGER_MS,
					.first_ms = owner->options.on_demand ? FIRST_MS : 0 };
	struct pool_info info;
	int fd, ret;

	pool_info(owner->pool, &info);
	if (info.keep) /* which an owner that died may have been asked for, not this one */
		config.linger_ms = 0;
	owner->server = server_create(&config, err);
	if (!owner->server)
		return -err->code;
	ret = server_adopt(owner->server, err);
	if (ret < 0)
		return ret;
	owner->qmp = (struct owner_qmp){ .loop = owner->loop,
					 .pool = owner->pool,
					 .server = owner->server,
					 .work = owner->work };
	ret = create_policy(owner, err);
	if (ret == 0)
		ret = create_settings(owner, err);
	if (ret == 0)
		ret = owner_qmp_create(&owner->qmp, err);
	if (ret < 0)
		return ret;
	fd = rundir_listen(owner->qmp_path, SOCK_STREAM, err);
	if (fd < 0)
		return fd;
	ret = qmp_server_listen(owner->qmp.qmp, fd);
	if (ret < 0) {
		close(fd);
		return error_set_errno(err, -ret, "cannot serve '%s'", owner->qmp_path);
	}
	owner->signal_source =
		event_loop_add(owner->loop, owner->signal_fd, EPOLLIN, on_signal, owner);
	if (!owner->signal_source)
		return error_set_errno(err, errno, "cannot set up signals");
	return 0;
}

static void say_ready(const struct owner *owner)
{
	char size[SIZE_TEXT_MAX], max[SIZE_TEXT_MAX], movable[SIZE_TEXT_MAX];
	struct mm_counts counts;
	struct pool_info info;
	const char *memory;

	pool_info(owner->pool, &info);
	pool_counts(owner->pool, -1, &counts, NULL);
	memory = info.hugetlb ? "hugepages" : "ordinary memory";
	if (owner->options.json) {
		json_t *json =
			json_pack("{s:s, s:i, s:I, s:I, s:b, s:i}", "socket", owner->sock_path,
				  "pid", (int)getpid(), "frames", (json_int_t)counts.present, "max",
				  (json_int_t)info.max_frames, "hugepages", info.hugetlb, "nodes",
				  (int)pool_nr_nodes(owner->pool));

		json_dumpf(json, stdout, JSON_COMPACT);
		printf("\n");
		json_decref(json);
	} else {
		size_format(frames_to_bytes(counts.present), size, sizeof(size));
		size_format(frames_to_bytes(info.max_frames), max, sizeof(max));
		printf("pool of %s (%" PRIu64 " frames, %s, %u node%s", size, counts.present,
		       memory, pool_nr_nodes(owner->pool),
		       pool_nr_nodes(owner->pool) == 1 ? "" : "s");
		if (info.movable)
			printf(", %s of it movable", size_format(frames_to_bytes(info.movable),
								 movable, sizeof(movable)));
		if (!info.fixed)
			printf(", grows to at most %s", max);
		printf(") ready at %s\n", owner->sock_path);
	}
	(void)fflush(stdout);
}

static int start(struct owner *owner, struct error *err)
{
	int ret = take_lock(owner, err);

	if (ret == 0)
		ret = take_signals(owner, err);
	if (ret < 0)
		return ret;
	raise_fd_limit();
	owner->loop = event_loop_create();
	if (!owner->loop)
		return error_set_errno(err, errno, "cannot create the event loop");
	owner->work = work_queue_create(owner->loop);
	if (!owner->work)
		return error_set(err, ENOMEM, "no memory for the event loop");
	owner->listen_fd = rundir_listen(owner->sock_path, SOCK_SEQPACKET, err);
	if (owner->listen_fd < 0)
		return owner->listen_fd;
	ret = owner->options.group ? rundir_share(owner->options.group, err) : 0;
	if (ret == 0)
		ret = create_pool(owner, err);
	if (ret == 0) /* after the pool has decided how large a frame is */
		ret = objects_init(err);
	if (ret == 0)
		ret = create_servers(owner, err);
	if (ret < 0)
		return ret;
	say_ready(owner);
	ret = owner->ready_fd < 0 ? 0 : daemon_ready(owner->ready_fd, owner->log_path, err);
	/* Now that there is a log for what does not hold, and before anybody is served. */
	if (ret == 0 && pool_adopted(owner->pool))
		owner_qmp_restore_settings(&owner->qmp);
	return ret;
}

static void stop(struct owner *owner)
{
	struct stat st;

	if (owner->lock_fd < 0)
		return; /* another owner's sockets are not ours to remove */
	/* Closed first: who comes now is not answered, tries again, and starts the next owner,
	 * which waits for the lock. */
	if (owner->listen_fd >= 0) {
		unlink(owner->sock_path);
		close(owner->listen_fd);
	}
	if (owner->pool)
		pool_work_cancel(owner->pool);
	work_queue_destroy(owner->work);
	if (owner->qmp.qmp)
		unlink(owner->qmp_path);
	owner_qmp_destroy(&owner->qmp);
	if (owner->server) {
		server_set_traffic(owner->server, NULL, NULL);
		pool_leave(owner->pool); /* VMs that go on are the next owner's */
	}
	server_destroy(owner->server);
	balance_destroy(owner->qmp.balance);
	event_source_remove(owner->signal_source);
	event_loop_destroy(owner->loop);
	objects_exit();
	pool_destroy(owner->pool);
	/* Who adopts the pool finds its ledger. */
	if (access(owner->ledger_path, F_OK) < 0)
		kept_settings_forget(owner->settings_path);
	kept_settings_destroy(owner->qmp.kept);
	if (owner->signal_fd >= 0)
		close(owner->signal_fd);
	if (stat(owner->log_path, &st) == 0 && st.st_size == 0)
		unlink(owner->log_path);
	rundir_unlock(owner->lock_path, owner->lock_fd);
}

static int run(struct owner *owner)
{
	struct error err = { 0 };
	int ret = prepare_paths(owner, &err);

	if (ret == 0 && owner->options.daemonize) {
		ret = daemon_begin(&err);
		owner->ready_fd = ret;
	}
	if (ret >= 0)
		ret = start(owner, &err);
	if (ret == 0)
		ret = event_loop_run(owner->loop);
	stop(owner);
	if (ret == -EALREADY && !err.code)
		return EXIT_SUCCESS;
	if (ret < 0) {
		error_set_errno(&err, -ret, "the event loop failed");
		log_error("%s", err.message);
	}
	return ret < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
	static struct owner owner = {
		.lock_fd = -1, .listen_fd = -1, .signal_fd = -1, .ready_fd = -1
	};
	struct error err = { 0 };

	log_set_program("framevisord");
	if (owner_options_parse(argc, argv, &owner.options, &err) < 0) {
		log_error("%s", err.message);
		return EXIT_FAILURE;
	}
	switch (owner.options.action) {
	case OWNER_ACTION_HELP:
		owner_options_help();
		return EXIT_SUCCESS;
	case OWNER_ACTION_VERSION:
		printf("framevisord %s\n", FRAMEVISOR_VERSION);
		return EXIT_SUCCESS;
	default:
		event_log_enable();
		return run(&owner);
	}
}
