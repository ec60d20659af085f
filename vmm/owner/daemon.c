/* SPDX-License-Identifier: MIT */
/* Going into the background: see daemon.h. */
#include "vmm/owner/daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static void wait_until_ready(int fd, pid_t child)
{
	char byte;
	ssize_t got;
	int status;

	do {
		got = read(fd, &byte, 1);
	} while (got < 0 && errno == EINTR);
	if (got == 1)
		_exit(EXIT_SUCCESS);
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	_exit(WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_FAILURE);
}

int daemon_begin(struct error *err)
{
	int fds[2];
	pid_t child;

	/* What the caller had open besides is none of a service's business. */
	close_range(STDERR_FILENO + 1, ~0u, 0);
	if (pipe2(fds, O_CLOEXEC) < 0)
		return error_set_errno(err, errno, "cannot go into the background");
	child = fork();
	if (child < 0) {
		int errnum = errno;

		close(fds[0]);
		close(fds[1]);
		return error_set_errno(err, errnum, "cannot go into the background");
	}
	if (child > 0) {
		close(fds[1]);
		wait_until_ready(fds[0], child);
	}
	close(fds[0]);
	setsid();
	return fds[1];
}

int daemon_ready(int fd, const char *log_path, struct error *err)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int log = open(log_path ? log_path : "/dev/null",
		       O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	int ret = 0;

	if (null < 0 || log < 0 || chdir("/") < 0)
		ret = error_set_errno(err, errno, "cannot write the log '%s'",
				      log_path ? log_path : "/dev/null");
	if (ret == 0 && (dup2(null, STDIN_FILENO) < 0 || dup2(null, STDOUT_FILENO) < 0 ||
			 dup2(log, STDERR_FILENO) < 0 || write(fd, "", 1) != 1))
		ret = error_set_errno(err, errno, "cannot go into the background");
	if (null >= 0)
		close(null);
	if (log >= 0)
		close(log);
	close(fd);
	return ret;
}
