/* SPDX-License-Identifier: MIT */
/*
 * A real framevisord on a run directory of its own, and processes that act as VMMs. Included by the
 * tests of the pool owner only.
 */
#ifndef TESTS_UNIT_OWNER_FIXTURE_H
#define TESTS_UNIT_OWNER_FIXTURE_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "framevisor/clock.h"
#include "framevisor/frame.h"
#include "framevisor/owner_client.h"
#include "framevisor/owner_notice.h"
#include "framevisor/owner_protocol.h"
#include "framevisor/qmp_client.h"
#include "framevisor/rundir.h"
#include "framevisor/size.h"

static char fixture_dir[64];
static char fixture_program[PATH_MAX];
static pid_t fixture_owner;
static int fixture_stderr; /* what that owner says besides, or -1 */

/* build/tests/unit/test_x -> build/framevisord; owners started on demand are found in PATH. */
static inline int fixture_setup_group(void **state)
{
	char dir[PATH_MAX - 32], path[2 * PATH_MAX];
	ssize_t len = readlink("/proc/self/exe", dir, sizeof(dir) - 1);

	(void)state;
	assert_true(len > 0);
	dir[len] = '\0';
	for (int up = 0; up < 3; up++)
		*strrchr(dir, '/') = '\0';
	snprintf(fixture_program, sizeof(fixture_program), "%s/framevisord", dir);
	if (access(fixture_program, X_OK) < 0) {
		print_error("%s is not built\n", fixture_program);
		return -1;
	}
	snprintf(path, sizeof(path), "%s:%s", dir, getenv("PATH"));
	return setenv("PATH", path, 1);
}

static inline int fixture_setup(void **state)
{
	(void)state;
	snprintf(fixture_dir, sizeof(fixture_dir), "/tmp/fv-owner-XXXXXX");
	assert_non_null(mkdtemp(fixture_dir));
	fixture_owner = 0;
	fixture_stderr = -1;
	return setenv("FRAMEVISOR_RUNDIR", fixture_dir, 1);
}

/* Passes on what the owner said. None may have lost objects of its own (vmm/owner/objects.h). */
static inline void fixture_check_stderr(void)
{
	static char text[65536];
	ssize_t len;

	if (fixture_stderr < 0)
		return;
	len = pread(fixture_stderr, text, sizeof(text) - 1, 0);
	close(fixture_stderr);
	fixture_stderr = -1;
	assert_true(len >= 0);
	text[len] = '\0';
	(void)fputs(text, stderr);
	if (strstr(text, "never freed") || strstr(text, "objects of the pool owner:"))
		fail_msg("the owner's own objects leaked or broke: see above");
}

/* Starts framevisord with the arguments (the last is NULL) and waits until it says it is ready. */
static inline void fixture_start(const char *const *args)
{
	char *argv[12] = { fixture_program };
	char line[512] = "";
	int fds[2];
	FILE *out;

	for (int i = 0; args[i]; i++)
		argv[i + 1] = (char *)(uintptr_t)args[i];
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	fixture_check_stderr(); /* of the one before */
	fixture_stderr = memfd_create("stderr", MFD_CLOEXEC);
	assert_true(fixture_stderr >= 0);
	fixture_owner = fork();
	if (fixture_owner == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(fds[1], STDOUT_FILENO);
		dup2(fixture_stderr, STDERR_FILENO);
		execv(fixture_program, argv);
		_exit(127);
	}
	close(fds[1]);
	out = fdopen(fds[0], "r");
	assert_non_null(fgets(line, sizeof(line), out));
	assert_non_null(strstr(line, "ready at"));
	(void)fclose(out);
}

/* The exit status of the owner, -1 if it does not end within 5 s, or -2 for a signal. */
static inline int fixture_wait_owner(void)
{
	uint64_t deadline = now_ms() + 5000;
	int status;

	while (waitpid(fixture_owner, &status, WNOHANG) == 0) {
		if (now_ms() > deadline)
			return -1;
		usleep(2000);
	}
	fixture_owner = 0;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -2;
}

static inline int fixture_teardown(void **state)
{
	char command[128];

	(void)state;
	if (fixture_owner) {
		kill(fixture_owner, SIGTERM);
		assert_int_equal(fixture_wait_owner(), 0);
		fixture_check_stderr();
		/* An owner that ended well leaves nothing behind. */
		assert_int_equal(rmdir(fixture_dir), 0);
		return 0;
	}
	fixture_check_stderr();
	snprintf(command, sizeof(command), "rm -rf '%s'", fixture_dir);
	return system(command) == 0 ? 0 : -1;
}

/* One QMP command to the owner; NULL if it was refused. */
static inline json_t *fixture_qmp(const char *command, json_t *args)
{
	char path[RUNDIR_PATH_MAX];
	struct qmp_client *qmp;
	json_t *reply = NULL;

	assert_int_equal(rundir_join(path, "pool-qmp.sock", NULL), 0);
	qmp = qmp_client_connect(path, 5000, NULL);
	assert_non_null(qmp);
	qmp_client_call(qmp, command, args, &reply, NULL);
	qmp_client_close(qmp);
	return reply;
}

static inline int64_t fixture_pool(const char *key)
{
	json_t *pool = fixture_qmp("query-pool", NULL);
	int64_t value;

	assert_true(json_is_integer(json_object_get(pool, key)));
	assert_true(json_is_true(json_object_get(json_object_get(pool, "conservation"), "ok")));
	value = json_integer_value(json_object_get(pool, key));
	json_decref(pool);
	return value;
}

static inline void fixture_validate(void)
{
	json_t *reply = fixture_qmp("x-validate", NULL);

	assert_non_null(reply);
	if (!json_is_true(json_object_get(reply, "ok")))
		fail_msg("%s", json_string_value(json_object_get(reply, "message")));
	json_decref(reply);
}

/* Waits until that many frames are held; returns the ms it took, -1 after 5 s. */
static inline int64_t fixture_wait_held(int64_t held)
{
	uint64_t start = now_ms();

	while (fixture_pool("held") != held) {
		if (now_ms() > start + 5000)
			return -1;
		usleep(5000);
	}
	return (int64_t)(now_ms() - start);
}

/*
 * A process that is a VMM as far as the owner can see. It is told what to do one order at a time
 * and answers with a number.
 */
enum peer_order {
	PEER_GRANT,   /* number: frames; answers what it got or the errno */
	PEER_RETURN,  /* all it holds */
	PEER_GIVE,    /* a run that it need not hold */
	PEER_DIRTY,   /* writes into every frame; answers how many were all zero before */
	PEER_SEND,    /* number of bytes of rubbish; answers 0 when the owner hangs up */
	PEER_FLOOD,   /* asks without reading an answer; answers how often until it was cut off */
	PEER_CLOSE,   /* leaves the pool and lives on */
	PEER_HUGETLB, /* whether the pool is of hugepages */
	PEER_UFFD,    /* whether it has a userfaultfd */
	PEER_RUN,     /* its first run: answers first | node << 48 */
	PEER_NOTICE_SEND,  /* number of bytes of rubbish on the notice channel */
	PEER_NOTICE_CLOSE, /* closes its end of it */
	/* Waits for NOTICE_MOVE, does what it asks, until none comes for number ms; answers
	 * the frames moved.
	 */
	PEER_MOVE,
	/* Answers that many MOVE by -EAGAIN, then goes on as PEER_MOVE for 500 ms. */
	PEER_REFUSE,
	/* Moves one frame of each MOVE and takes that many ms for it, until none has come for 2 s.
	 */
	PEER_MOVE_SLOWLY,
	PEER_MEMORY, /* number: node; answers how many frames of the host its file holds */
	PEER_EXIT,
};

struct peer_command {
	enum peer_order order;
	uint64_t number;
	struct frame_run run;
};

struct peer {
	pid_t pid;
	int fd;
	struct error err;
};

struct peer_state {
	struct owner_client *client;
	struct frame_run runs[4096];
	unsigned int nr_runs;
};

static inline int64_t peer_grant(struct peer_state *peer, uint64_t nr)
{
	uint64_t got = 0;

	while (got < nr) {
		unsigned int nr_runs = 4096 - peer->nr_runs;
		int64_t ret = owner_client_grant(peer->client, nr - got, 0,
						 peer->runs + peer->nr_runs, &nr_runs);

		if (ret < 0)
			return got ? (int64_t)got : ret;
		got += (uint64_t)ret;
		peer->nr_runs += nr_runs;
	}
	return (int64_t)got;
}

static inline int64_t peer_dirty(struct peer_state *peer)
{
	int64_t zero = 0;

	for (unsigned int r = 0; r < peer->nr_runs; r++) {
		const struct frame_run *run = &peer->runs[r];
		size_t len = frames_to_bytes(run->nr);
		uint64_t *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED,
				   owner_client_node_fd(peer->client, run->node),
				   (off_t)frames_to_bytes(run->first));

		if (p == MAP_FAILED)
			return -errno;
		for (uint32_t i = 0; i < run->nr; i++) {
			uint64_t *frame = p + i * (FRAME_SIZE / sizeof(*p)), sum = 0;

			for (size_t j = 0; j < FRAME_SIZE / sizeof(*p); j++)
				sum |= frame[j];
			zero += sum == 0;
			memset(frame, 0xa5, FRAME_SIZE);
		}
		munmap(p, len);
	}
	return zero;
}

/* One frame that it holds, for another one. */
static inline bool peer_move_frame(struct peer_state *peer, uint16_t node, uint64_t idx,
				   uint64_t nodemask)
{
	struct frame_run old = { .first = idx, .nr = 1, .node = node }, new;
	unsigned int one = 1;

	for (unsigned int i = 0; i < peer->nr_runs; i++) {
		if (peer->runs[i].node != node || peer->runs[i].first != idx)
			continue;
		if (owner_client_grant_to_move(peer->client, 1, nodemask, &new, &one) != 1)
			return false;
		peer->runs[i] = new;
		return owner_client_return(peer->client, &old, 1) == 0;
	}
	return false;
}

/* All runs become runs of one frame. */
static inline void peer_split_runs(struct peer_state *peer)
{
	struct frame_run runs[4096];
	unsigned int nr = 0;

	for (unsigned int r = 0; r < peer->nr_runs; r++)
		for (uint32_t i = 0; i < peer->runs[r].nr; i++)
			runs[nr++] = (struct frame_run){ .first = peer->runs[r].first + i,
							 .nr = 1,
							 .node = peer->runs[r].node };
	memcpy(peer->runs, runs, nr * sizeof(runs[0]));
	peer->nr_runs = nr;
}

struct peer_moves {
	int until_ms; /* without a MOVE */
	uint64_t refuse;
	unsigned int at_most; /* frames of each MOVE; 0: all */
	unsigned int pause_ms;
};

static inline int64_t peer_serve_move(struct peer_state *peer, const struct notice_move *move,
				      const struct peer_moves *how)
{
	int64_t moved = 0;

	usleep(how->pause_ms * 1000);
	for (unsigned int r = 0; r < move->nr_runs; r++)
		for (uint64_t i = 0; i < move->runs[r].nr; i++)
			if (!how->at_most || moved < how->at_most)
				moved += peer_move_frame(peer, move->runs[r].node,
							 move->runs[r].first + i, move->nodemask);
	return moved;
}

static inline int64_t peer_serve_moves(struct peer_state *peer, struct peer_moves how)
{
	int fd = owner_client_notice_fd(peer->client);
	struct pollfd ready = { .fd = fd, .events = POLLIN };
	int64_t total = 0;

	peer_split_runs(peer);
	for (int wait = 30000; poll(&ready, 1, wait) > 0; wait = how.until_ms) {
		struct notice_done done = { .header = { .type = NOTICE_DONE,
							.length = sizeof(done) } };
		static struct notice_move move;

		if (recv(fd, &move, sizeof(move), 0) <= 0)
			return -errno;
		if (move.header.type != NOTICE_MOVE)
			continue;
		if (how.refuse == 0)
			done.nr_frames = (uint64_t)peer_serve_move(peer, &move, &how);
		total += (int64_t)done.nr_frames;
		done.id = move.id;
		done.header.status = how.refuse ? -EAGAIN : 0;
		how.refuse -= how.refuse != 0;
		if (send(fd, &done, sizeof(done), MSG_NOSIGNAL) < 0)
			return -errno;
	}
	return total;
}

static inline int64_t peer_flood(struct peer_state *peer)
{
	struct owner_grant grant = { .header = { .type = OWNER_GRANT, .length = sizeof(grant) },
				     .nr_frames = 1 };
	int64_t sent = 0;

	while (send(owner_client_fd(peer->client), &grant, sizeof(grant), MSG_NOSIGNAL) > 0)
		sent++;
	return errno == EPIPE || errno == ECONNRESET ? sent : -errno;
}

static inline int64_t peer_obey(struct peer_state *peer, const struct peer_command *command)
{
	char rubbish[8192];
	struct stat st;
	int64_t ret;

	switch (command->order) {
	case PEER_GRANT:
		return peer_grant(peer, command->number);
	case PEER_RETURN:
		ret = owner_client_return(peer->client, peer->runs, peer->nr_runs);
		peer->nr_runs = 0;
		return ret;
	case PEER_GIVE:
		return owner_client_return(peer->client, &command->run, 1);
	case PEER_DIRTY:
		return peer_dirty(peer);
	case PEER_SEND:
		memset(rubbish, 0x5a, sizeof(rubbish));
		if (send(owner_client_fd(peer->client), rubbish, command->number, MSG_NOSIGNAL) < 0)
			return -errno;
		return recv(owner_client_fd(peer->client), rubbish, sizeof(rubbish), 0);
	case PEER_FLOOD:
		return peer_flood(peer);
	case PEER_CLOSE:
		owner_client_close(peer->client);
		return 0;
	case PEER_HUGETLB:
		return owner_client_hugetlb(peer->client);
	case PEER_UFFD:
		return owner_client_take_uffd(peer->client) >= 0;
	case PEER_RUN:
		return (int64_t)(peer->runs[0].first | (uint64_t)peer->runs[0].node << 48);
	case PEER_NOTICE_SEND:
		memset(rubbish, 0x5a, sizeof(rubbish));
		ret = send(owner_client_notice_fd(peer->client), rubbish, command->number,
			   MSG_NOSIGNAL);
		return ret < 0 ? -errno : 0;
	case PEER_NOTICE_CLOSE:
		return shutdown(owner_client_notice_fd(peer->client), SHUT_RDWR) < 0 ? -errno : 0;
	case PEER_MOVE:
		return peer_serve_moves(peer,
					(struct peer_moves){ .until_ms = (int)command->number });
	case PEER_REFUSE:
		return peer_serve_moves(
			peer, (struct peer_moves){ .until_ms = 500, .refuse = command->number });
	case PEER_MOVE_SLOWLY:
		return peer_serve_moves(peer, (struct peer_moves){ .until_ms = 2000,
								   .at_most = 1,
								   .pause_ms = command->number });
	case PEER_MEMORY:
		if (fstat(owner_client_node_fd(peer->client, (unsigned int)command->number), &st))
			return -errno;
		return (int64_t)st.st_blocks * 512 / (int64_t)FRAME_SIZE;
	default:
		_exit(0);
	}
}

static inline void peer_main(const struct owner_client_config *config, int fd)
{
	static struct peer_state peer;
	struct peer_command command;
	struct error err = { 0 };

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	peer.client = owner_client_connect(config, &err);
	if (write(fd, &err, sizeof(err)) != (ssize_t)sizeof(err) || !peer.client)
		_exit(1);
	while (read(fd, &command, sizeof(command)) == (ssize_t)sizeof(command)) {
		int64_t answer = peer_obey(&peer, &command);

		if (write(fd, &answer, sizeof(answer)) < 0)
			break;
	}
	_exit(0);
}

/* Starts it; peer_ready() waits for it, so that several can start at once. */
static inline void peer_begin(struct peer *peer, const struct owner_client_config *config)
{
	int fds[2];

	memset(peer, 0, sizeof(*peer));
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
	peer->pid = fork();
	if (peer->pid == 0) {
		close(fds[0]);
		peer_main(config, fds[1]);
	}
	close(fds[1]);
	peer->fd = fds[0];
}

/* Whether it was welcomed; otherwise err says why not, and it has ended. */
static inline bool peer_ready(struct peer *peer)
{
	assert_int_equal(read(peer->fd, &peer->err, sizeof(peer->err)), sizeof(peer->err));
	if (!peer->err.code)
		return true;
	close(peer->fd);
	waitpid(peer->pid, NULL, 0);
	return false;
}

static inline bool peer_start(struct peer *peer, const char *name, uint64_t ram_frames)
{
	struct owner_client_config config = { .vm_name = name, .ram_frames = ram_frames };

	peer_begin(peer, &config);
	return peer_ready(peer);
}

static inline int64_t peer_do_run(struct peer *peer, enum peer_order order, uint64_t number,
				  struct frame_run run)
{
	struct peer_command command = { .order = order, .number = number, .run = run };
	int64_t answer = 0;

	assert_int_equal(write(peer->fd, &command, sizeof(command)), sizeof(command));
	if (order != PEER_EXIT)
		assert_int_equal(read(peer->fd, &answer, sizeof(answer)), sizeof(answer));
	return answer;
}

static inline int64_t peer_do(struct peer *peer, enum peer_order order, uint64_t number)
{
	return peer_do_run(peer, order, number, (struct frame_run){ 0 });
}

/* The signal that ended it, 0 for a normal end, -1 if it still lives after that many ms. */
static inline int peer_wait(struct peer *peer, int64_t ms)
{
	uint64_t deadline = now_ms() + ms;
	int status;

	while (waitpid(peer->pid, &status, WNOHANG) == 0) {
		if (now_ms() > deadline)
			return -1;
		usleep(2000);
	}
	close(peer->fd);
	return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static inline void peer_end(struct peer *peer)
{
	peer_do(peer, PEER_EXIT, 0);
	assert_int_equal(peer_wait(peer, 5000), 0);
}

#define OWNER_TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

#endif
