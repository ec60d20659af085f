/* SPDX-License-Identifier: MIT */
/* The process beside a sandboxed VM: see keeper.h. */
#include "vmm/sandbox/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "framevisor/rundir.h"
#include "vmm/owner/owner_start.h"

#define WISH_START   's' /* start a pool owner by the configuration that follows; answered */
#define WISH_RUNNING 'r' /* no more of those */
#define WISH_OWNER   'o' /* start one by the last configuration */
#define WISH_CLEAN   'c' /* remove the directory; answered by the end of the connection */

struct kept {
	int fd;
	const char *vm_name;
	bool running;
	bool started; /* config is valid */
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
	case WISH_CLEAN:
		rundir_vm_remove(kept->vm_name);
		return false;
	default:
		return true;
	}
}

static void keep(struct kept *kept)
{
	bool clean = false;
	char what;

	while (receive_all(kept->fd, &what, 1) == 0) {
		clean = what == WISH_CLEAN;
		if (!grant_wish(kept, what))
			break;
	}
	if (!clean)
		remove_left_over(kept->vm_name);
}

static void become_keeper(int fd, const char *vm_name)
{
	struct kept kept = { .fd = STDERR_FILENO + 1, .vm_name = vm_name };
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
