/* SPDX-License-Identifier: MIT */
/* The process beside a sandboxed VM: see keeper.h. */
#include "vmm/sandbox/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "framevisor/rundir.h"
#include "vmm/owner/owner_start.h"

#define WISH_START   's' /* start a pool owner by the configuration that follows; answered */
#define WISH_RUNNING 'r' /* no more of those */
#define WISH_OWNER   'o' /* start one by the last configuration */
#define WISH_GUARD   'g' /* watch what the VM maps; configuration, listener and answers follow */
#define WISH_CLEAN   'c' /* remove the directory; answered by the end of the connection */

struct kept {
	int fd;
	const char *vm_name;
	bool running;
	bool started; /* config is valid */
	bool asked_to_guard;
	struct map_guard guard;
	struct owner_client_config config;
};

/* The VM was killed: what it left is removed, unless another one has taken its name. */
static void remove_left_over(const char *name)
{
	char dir[RUNDIR_PATH_MAX];

	if (rundir_vm_join(dir, name, NULL, NULL) == 0 && access(dir, F_OK) == 0)
		rundir_vm_unclaim(name, rundir_vm_claim(name, NULL));
}

static int receive_all(int fd, void *data, size_t len)
{
	char *at = data;

	while (len) {
		ssize_t done = recv(fd, at, len, 0);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return -EPIPE;
		at += done;
		len -= (size_t)done;
	}
	return 0;
}

/* Messages are far smaller than a socket's buffer: they go as a whole. */
static int send_all(int fd, const void *data, size_t len)
{
	return send(fd, data, len, MSG_NOSIGNAL) == (ssize_t)len ? 0 : -EPIPE;
}

/* The VM's process is still what its user started. */
static int start_first(struct kept *kept)
{
	struct error err = { 0 };
	int ret = receive_all(kept->fd, &kept->config, sizeof(kept->config));

	if (ret < 0)
		return ret;
	kept->config.vm_name = kept->vm_name;
	kept->started = true;
	owner_start(&kept->config, &err);
	return send_all(kept->fd, &err, sizeof(err));
}

/* The one byte that comes along says nothing. Returns -1 when no descriptor came. */
static int receive_fd(int from)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	char byte;
	struct iovec iov = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = &control,
			      .msg_controllen = sizeof(control) };
	const struct cmsghdr *cmsg;
	ssize_t len;
	int fd = -1;

	do
		len = recvmsg(from, &msg, MSG_CMSG_CLOEXEC);
	while (len < 0 && errno == EINTR);
	cmsg = len == 1 ? CMSG_FIRSTHDR(&msg) : NULL;
	if (cmsg && cmsg->cmsg_level == SOL_SOCKET && cmsg->cmsg_type == SCM_RIGHTS)
		memcpy(&fd, CMSG_DATA(cmsg), sizeof(fd));
	return fd;
}

/* The VM's process is still what its user started: only then is it asked for. */
static int start_guard(struct kept *kept)
{
	struct map_guard_config config;
	struct error err = { 0 };
	int ret = receive_all(kept->fd, &config, sizeof(config)), listener;

	if (ret < 0)
		return ret;
	kept->asked_to_guard = true;
	ret = map_guard_open(&kept->guard, &config, &err);
	if (send_all(kept->fd, &err, sizeof(err)) < 0)
		return -EPIPE;
	if (ret < 0)
		return 0;
	listener = receive_fd(kept->fd);
	if (listener >= 0)
		map_guard_begin(&kept->guard, listener);
	else
		map_guard_close(&kept->guard);
	return send_all(kept->fd, &err, sizeof(err));
}

static void detach_output(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null < 0 || dup2(null, STDERR_FILENO) < 0)
		_exit(EXIT_FAILURE);
	close(null);
}

/* Returns whether there may be more wishes. */
static bool grant_wish(struct kept *kept, char what)
{
	switch (what) {
	case WISH_START:
		return !kept->running && start_first(kept) == 0;
	case WISH_RUNNING:
		kept->running = true;
		detach_output();
		return true;
	case WISH_OWNER:
		if (!kept->started) /* it found one running; the ledger has the rest */
			kept->config = (struct owner_client_config){ .vm_name = kept->vm_name,
								     .ram_frames = 1 };
		owner_start(&kept->config, NULL);
		return true;
	case WISH_GUARD:
		return !kept->asked_to_guard && start_guard(kept) == 0;
	case WISH_CLEAN:
		rundir_vm_remove(kept->vm_name);
		return false;
	default:
		return true;
	}
}

/* Answers what is asked meanwhile about mappings. */
static bool wait_for_wish(struct kept *kept)
{
	for (;;) {
		struct pollfd fds[] = {
			{ .fd = kept->guard.listener, .events = POLLIN },
			{ .fd = kept->fd, .events = POLLIN },
		};

		if (poll(fds, 2, -1) < 0) {
			if (errno == EINTR)
				continue;
			return false;
		}
		if (fds[0].revents & POLLIN)
			map_guard_serve(&kept->guard);
		else if (fds[0].revents) /* nobody is left who could ask */
			map_guard_close(&kept->guard);
		if (fds[1].revents)
			return true;
	}
}

static void keep(struct kept *kept)
{
	bool clean = false;
	char what;

	while (wait_for_wish(kept) && receive_all(kept->fd, &what, 1) == 0) {
		clean = what == WISH_CLEAN;
		if (!grant_wish(kept, what))
			break;
	}
	if (!clean)
		remove_left_over(kept->vm_name);
}

static void become_keeper(int fd, const char *vm_name)
{
	struct kept kept = { .fd = STDERR_FILENO + 1, .vm_name = vm_name, .guard = MAP_GUARD_NONE };
	int null = open("/dev/null", O_RDWR);
	sigset_t none;

	if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(null, STDOUT_FILENO) < 0 ||
	    dup2(fd, kept.fd) < 0)
		_exit(EXIT_FAILURE);
	close_range((unsigned int)kept.fd + 1, ~0u, 0);
	fcntl(kept.fd, F_SETFD, FD_CLOEXEC);
	prctl(PR_SET_NAME, "vm-keeper");
	setsid();
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	keep(&kept);
	_exit(EXIT_SUCCESS);
}

int keeper_start(struct keeper *keeper, const char *vm_name, struct error *err)
{
	int fds[2];
	pid_t pid;

	keeper->fd = -1;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		return error_set_errno(err, errno, "cannot create a socket");
	pid = fork();
	if (pid == 0) {
		/* A grandchild: the VM has no child that it would have to wait for. */
		pid = fork();
		if (pid == 0)
			become_keeper(fds[1], vm_name);
		_exit(pid < 0 ? EXIT_FAILURE : EXIT_SUCCESS);
	}
	close(fds[1]);
	if (pid < 0) {
		close(fds[0]);
		return error_set_errno(err, errno, "cannot create a process");
	}
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	keeper->fd = fds[0];
	return 0;
}

static bool wish(const struct keeper *keeper, char what)
{
	return keeper->fd >= 0 && send(keeper->fd, &what, 1, MSG_NOSIGNAL | MSG_DONTWAIT) == 1;
}

int keeper_start_owner(void *opaque, const struct owner_client_config *config, struct error *err)
{
	const struct keeper *keeper = opaque;
	struct error answer = { 0 };

	if (!wish(keeper, WISH_START) || send_all(keeper->fd, config, sizeof(*config)) < 0 ||
	    receive_all(keeper->fd, &answer, sizeof(answer)) < 0)
		return error_set(err, EPIPE, "the process that starts the pool owner ended");
	return answer.code ? error_set(err, answer.code, "%s", answer.message) : 0;
}

static int hear(const struct keeper *keeper, struct error *err)
{
	struct error answer = { 0 };

	if (receive_all(keeper->fd, &answer, sizeof(answer)) < 0)
		return error_set(err, EPIPE, "the process beside the VM ended");
	return answer.code ? error_set(err, answer.code, "%s", answer.message) : 0;
}

int keeper_can_guard(const struct keeper *keeper, const struct map_guard_config *config,
		     struct error *err)
{
	if (!wish(keeper, WISH_GUARD) || send_all(keeper->fd, config, sizeof(*config)) < 0)
		return error_set(err, EPIPE, "there is no process beside the VM");
	return hear(keeper, err);
}

int keeper_guard(const struct keeper *keeper, int listener, struct error *err)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { .bytes = { 0 } };
	char byte = 0;
	struct iovec iov = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (listener >= 0) {
		struct cmsghdr *cmsg;

		msg.msg_control = &control;
		msg.msg_controllen = sizeof(control);
		cmsg = CMSG_FIRSTHDR(&msg);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(cmsg), &listener, sizeof(int));
	}
	if (sendmsg(keeper->fd, &msg, MSG_NOSIGNAL) != 1)
		return error_set_errno(err, errno, "cannot pass on who asks for mappings");
	return hear(keeper, err);
}

void keeper_running(const struct keeper *keeper)
{
	wish(keeper, WISH_RUNNING);
}

void keeper_want_owner(const struct keeper *keeper)
{
	wish(keeper, WISH_OWNER);
}

void keeper_finish(struct keeper *keeper)
{
	char none;

	if (wish(keeper, WISH_CLEAN)) {
		while (recv(keeper->fd, &none, 1, 0) < 0 && errno == EINTR)
			;
	}
	if (keeper->fd >= 0)
		close(keeper->fd);
	keeper->fd = -1;
}
