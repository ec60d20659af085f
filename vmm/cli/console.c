/* SPDX-License-Identifier: MIT */
/* framevisor console: this terminal on a running VM's serial console. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "framevisor/rundir.h"
#include "vmm/cli/cli.h"
#include "vmm/control/terminal.h"

struct session {
	const char *name;
	int socket;
	int in_fd; /* -1: nothing more to send */
	bool tty;
	bool done;
	struct terminal_escape escape;
};

static int write_all(int fd, const uint8_t *data, size_t len)
{
	while (len) {
		ssize_t n = write(fd, data, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		data += n;
		len -= (size_t)n;
	}
	return 0;
}

static void act(struct session *session, enum terminal_action action)
{
	switch (action) {
	case TERMINAL_ACTION_QUIT:
		session->done = true;
		break;
	case TERMINAL_ACTION_POWERDOWN:
	case TERMINAL_ACTION_HELP:
		fputs("framevisor: " TERMINAL_ESCAPE_NAME
		      " q leaves the console, " TERMINAL_ESCAPE_NAME
		      " twice sends one to the guest\n",
		      stderr);
		break;
	case TERMINAL_ACTION_NONE:
		break;
	}
}

static int send_input(struct session *session, uint8_t *data, size_t len)
{
	while (len && !session->done) {
		size_t kept = len, used = len;
		enum terminal_action action = TERMINAL_ACTION_NONE;

		if (session->tty)
			action = terminal_escape_filter(&session->escape, data, len, &kept, &used);
		if (write_all(session->socket, data, kept) < 0)
			return -EPIPE;
		act(session, action);
		data += used;
		len -= used;
	}
	return 0;
}

/* The end of the input is no reason to leave: the guest may still have something to say. */
static void from_user(struct session *session)
{
	uint8_t data[1024];
	ssize_t n = read(session->in_fd, data, sizeof(data));

	if (n < 0 && errno == EINTR)
		return;
	if (n <= 0) {
		session->in_fd = -1;
		shutdown(session->socket, SHUT_WR);
	} else if (send_input(session, data, (size_t)n) < 0) {
		session->in_fd = -1;
	}
}

static void from_guest(struct session *session)
{
	uint8_t data[4096];
	ssize_t n = recv(session->socket, data, sizeof(data), 0);

	if (n < 0 && errno == EINTR)
		return;
	if (n <= 0 || write_all(STDOUT_FILENO, data, (size_t)n) < 0)
		session->done = true;
}

static void talk(struct session *session)
{
	while (!session->done) {
		struct pollfd fds[2] = {
			{ .fd = session->socket, .events = POLLIN },
			{ .fd = session->in_fd, .events = POLLIN },
		};

		if (poll(fds, 2, -1) < 0)
			continue;
		if (fds[0].revents)
			from_guest(session);
		if (fds[1].revents && !session->done)
			from_user(session);
	}
}

static int connect_console(const char *name, struct error *err)
{
	char path[RUNDIR_PATH_MAX];

	if (rundir_vm_join(path, name, "console.sock", err) < 0)
		return -EINVAL;
	if (!rundir_vm_pid(name))
		return error_set(err, ENOENT,
				 "no VM named '%s' is running; 'framevisor ps' lists them", name);
	return rundir_connect(path, SOCK_STREAM, err);
}

static int run(const struct cli_args *args, struct error *err)
{
	struct session session = { .name = args->operands[0], .in_fd = STDIN_FILENO };
	int ret = 0;

	session.socket = connect_console(session.name, err);
	if (session.socket < 0)
		return CLI_ERROR;
	session.tty = terminal_usable(STDIN_FILENO);
	if (session.tty) {
		fprintf(stderr,
			"framevisor: console of '%s': " TERMINAL_ESCAPE_NAME " q leaves it\n",
			session.name);
		ret = terminal_raw(STDIN_FILENO);
	}
	if (ret < 0)
		error_set_errno(err, -ret, "cannot set up the terminal");
	else
		talk(&session);
	terminal_restore();
	close(session.socket);
	return err->code ? CLI_ERROR : CLI_OK;
}

const struct cli_verb cli_console = {
	.name = "console",
	.operands = "NAME",
	.min_operands = 1,
	.max_operands = 1,
	.summary = "attach this terminal to a VM's serial console",
	.details =
		"Shows the last 64 KiB of output first. Several may watch at once. Ctrl-] is the\n"
		"escape key: Ctrl-] q leaves, Ctrl-] Ctrl-] sends one to the guest. From a pipe,\n"
		"input is sent to the guest and output shown until the VM ends.",
	.examples = "  framevisor console web\n  echo reboot | framevisor console web",
	.run = run,
};
