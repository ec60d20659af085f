/* SPDX-License-Identifier: MIT */
/*
 * "framevisor run --detach": the VM in a process of its own session, while the process that was
 * started waits for word over a pipe. One byte 0: it runs. Anything else is the error's text. The
 * end of the pipe without a word: it died.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "framevisor/event_log.h"
#include "framevisor/log.h"
#include "framevisor/rundir.h"
#include "vmm/cli/cli.h"
#include "vmm/cli/run.h"

struct detached {
	const struct run_request *request;
	int pipe_fd;
	int log_fd, null_fd;
};

static int open_log(const struct run_request *request, struct error *err)
{
	char path[RUNDIR_PATH_MAX];
	const char *log = request->log;
	int fd;

	if (!log) {
		if (rundir_vm_join(path, request->config.name, "log", err) < 0)
			return -EINVAL;
		log = path;
	}
	fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0600);
	if (fd < 0)
		return error_set_errno(err, errno, "cannot open log file '%s'", log);
	return fd;
}

static int ready(void *opaque, struct error *err)
{
	struct detached *detached = opaque;

	detached->log_fd = open_log(detached->request, err);
	if (detached->log_fd < 0)
		return detached->log_fd;
	detached->null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (detached->null_fd < 0) {
		close(detached->log_fd);
		return error_set_errno(err, errno, "cannot open /dev/null");
	}
	return 0;
}

/* The VM runs: lets go of the terminal, then tells the starting process. */
static int up(void *opaque, struct error *err)
{
	struct detached *detached = opaque;

	dup2(detached->null_fd, STDIN_FILENO);
	dup2(detached->null_fd, STDOUT_FILENO);
	dup2(detached->log_fd, STDERR_FILENO);
	close(detached->null_fd);
	close(detached->log_fd);
	event_log_enable();
	/* Nobody there to hear it: the start was called off, so the VM must not stay. */
	if (write(detached->pipe_fd, "", 1) != 1)
		return error_set(err, EPIPE, "the process that started the VM is gone");
	close(detached->pipe_fd);
	detached->pipe_fd = -1;
	return 0;
}

static int child(const struct run_request *request, int pipe_fd)
{
	struct detached detached = { .request = request, .pipe_fd = pipe_fd };
	struct run_hooks hooks = { .ready = ready, .up = up, .opaque = &detached };
	struct error err = { 0 };
	int status;

	setsid();
	status = run_vm(request, &hooks, &err);
	if (!err.code)
		return status;
	if (detached.pipe_fd >= 0) {
		if (write(detached.pipe_fd, err.message, strlen(err.message)) < 0)
			return CLI_ERROR;
	} else {
		log_error("%s", err.message); /* into the log file */
	}
	return CLI_ERROR;
}

/* Reads until the pipe ends or text is full. Returns the length. */
static size_t read_word(int fd, char *text, size_t size)
{
	size_t len = 0;

	while (len < size) {
		ssize_t n = read(fd, text + len, size - len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		len += (size_t)n;
	}
	return len;
}

static int wait_for_child(const struct run_request *request, pid_t pid, int pipe_fd,
			  struct error *err)
{
	char text[sizeof(err->message)];
	size_t len = read_word(pipe_fd, text, sizeof(text) - 1);
	int status = 0;

	if (len == 1 && text[0] == '\0') {
		printf("%s\n", request->config.name);
		return CLI_OK;
	}
	waitpid(pid, &status, 0);
	text[len] = '\0';
	if (len)
		error_set(err, EINVAL, "%s", text);
	else if (WIFSIGNALED(status))
		error_set(err, ECHILD, "the VM's process was killed during the start (signal %d)",
			  WTERMSIG(status));
	else
		error_set(err, ECHILD, "the VM's process ended during the start (status %d)",
			  WEXITSTATUS(status));
	return CLI_ERROR;
}

int run_detached(const struct run_request *request, struct error *err)
{
	int fds[2], status;
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC) < 0) {
		error_set_errno(err, errno, "cannot create a pipe");
		return CLI_ERROR;
	}
	fflush(NULL);
	pid = fork();
	if (pid < 0) {
		error_set_errno(err, errno, "cannot create a process");
		close(fds[0]);
		close(fds[1]);
		return CLI_ERROR;
	}
	if (pid == 0) {
		close(fds[0]);
		_exit(child(request, fds[1]));
	}
	close(fds[1]);
	status = wait_for_child(request, pid, fds[0], err);
	close(fds[0]);
	return status;
}
