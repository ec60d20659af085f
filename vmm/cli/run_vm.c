/* SPDX-License-Identifier: MIT */
/* The process of a VM, from its name in the run directory to its end: see run.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "framevisor/log.h"
#include "framevisor/rundir.h"
#include "vmm/cli/cli.h"
#include "vmm/cli/run.h"
#include "vmm/control/console.h"
#include "vmm/control/console_stdio.h"
#include "vmm/control/terminal.h"
#include "vmm/control/vm_control.h"

struct runner {
	const struct run_request *request;
	struct run_signals *signals;
	struct event_loop *loop;
	struct vm *vm;
	struct vm_control *control;
	struct console *console;
	struct console_stdio *stdio;
	int claim_fd;
	int console_fd; /* a file that was opened for the console, or -1 */
	bool terminal;
	int signum; /* that ended the VM */
};

static void on_signal(void *opaque, int signum)
{
	struct runner *runner = opaque;

	runner->signum = signum;
	vm_shutdown(runner->vm, VM_SHUTDOWN_HOST_SIGNAL);
}

static void on_internal_error(void *opaque)
{
	struct runner *runner = opaque;

	vm_shutdown(runner->vm, VM_SHUTDOWN_ERROR);
}

static void on_action(void *opaque, enum terminal_action action)
{
	struct runner *runner = opaque;
	struct error err = { 0 };

	switch (action) {
	case TERMINAL_ACTION_QUIT:
		vm_shutdown(runner->vm, VM_SHUTDOWN_HOST_QUIT);
		break;
	case TERMINAL_ACTION_POWERDOWN:
		if (vm_powerdown(runner->vm, &err) < 0)
			log_error("%s", err.message);
		break;
	case TERMINAL_ACTION_HELP:
		fputs("framevisor: " TERMINAL_ESCAPE_NAME " q ends the VM, " TERMINAL_ESCAPE_NAME
		      " p presses its power button, " TERMINAL_ESCAPE_NAME
		      " twice sends one to the guest\n",
		      stderr);
		break;
	case TERMINAL_ACTION_NONE:
		break;
	}
}

static size_t guest_take(void *opaque, const uint8_t *data, size_t len)
{
	struct runner *runner = opaque;

	return vm_console_input(runner->vm, data, len);
}

/* Listens on RUNDIR/vm/NAME/leaf. Returns the fd or a negative errno with err set. */
static int listen_on(const struct runner *runner, const char *leaf, struct error *err)
{
	char path[RUNDIR_PATH_MAX];
	int ret = rundir_vm_join(path, runner->request->config.name, leaf, err);

	return ret < 0 ? ret : rundir_listen(path, SOCK_STREAM, err);
}

static int serve_console(struct runner *runner, struct error *err)
{
	int fd = listen_on(runner, "console.sock", err);
	int ret;

	if (fd < 0)
		return fd;
	ret = console_listen(runner->console, fd, err);
	if (ret < 0)
		close(fd);
	return ret;
}

static int serve_qmp(struct runner *runner, struct error *err)
{
	int fd = listen_on(runner, "qmp.sock", err);

	if (fd < 0)
		return fd;
	runner->control =
		vm_control_create(runner->loop, runner->vm, fd, on_internal_error, runner, err);
	if (!runner->control) {
		close(fd);
		return -EINVAL;
	}
	return 0;
}

/* The console on standard input and output, in a file, or only on its socket. */
static int connect_stdio(struct runner *runner, struct error *err)
{
	const char *where = runner->request->console;
	struct console_stdio_config config = {
		.console = runner->console,
		.loop = runner->loop,
		.in_fd = -1,
		.out_fd = STDOUT_FILENO,
		.action = on_action,
		.opaque = runner,
	};

	if (strcmp(where, "none") == 0)
		return 0;
	if (strcmp(where, "stdio") == 0) {
		runner->terminal = terminal_usable(STDIN_FILENO);
		config.escape = runner->terminal;
		/* A terminal that is not ours now (started with "&") is not read from. */
		if (runner->terminal || !isatty(STDIN_FILENO))
			config.in_fd = STDIN_FILENO;
	} else {
		runner->console_fd =
			open(where, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0600);
		if (runner->console_fd < 0)
			return error_set_errno(err, errno, "cannot open console file '%s'", where);
		config.out_fd = runner->console_fd;
	}
	runner->stdio = console_stdio_create(&config, err);
	return runner->stdio ? 0 : -EINVAL;
}

static int take_terminal(const struct runner *runner, struct error *err)
{
	int ret;

	if (!runner->terminal)
		return 0;
	fprintf(stderr,
		"framevisor: console of '%s': " TERMINAL_ESCAPE_NAME
		" q ends the VM, " TERMINAL_ESCAPE_NAME " p presses its power button\n",
		runner->request->config.name);
	ret = terminal_raw(STDIN_FILENO);
	return ret < 0 ? error_set_errno(err, -ret, "cannot set up the terminal") : 0;
}

static int prepare(struct runner *runner, struct error *err)
{
	const char *name = runner->request->config.name;
	struct vm_console console;

	runner->signals = run_signals_create(on_signal, runner, err);
	if (!runner->signals)
		return -ENOMEM;
	runner->claim_fd = rundir_vm_claim(name, err);
	if (runner->claim_fd < 0)
		return runner->claim_fd;
	run_signals_claimed(runner->signals, name, runner->claim_fd);
	runner->loop = event_loop_create();
	if (!runner->loop)
		return error_set_errno(err, errno, "cannot create an event loop");
	runner->console = console_create(runner->loop, err);
	if (!runner->console)
		return -ENOMEM;
	console = (struct vm_console){
		.output = console_output,
		.room = console_room,
		.opaque = runner->console,
	};
	runner->vm = vm_create(&runner->request->config, runner->loop, &console, err);
	if (!runner->vm)
		return -EINVAL;
	console_set_guest(runner->console, guest_take, runner);
	return 0;
}

static int start(struct runner *runner, int (*up)(void *opaque, struct error *err), void *opaque,
		 struct error *err)
{
	int ret = serve_console(runner, err);

	if (ret == 0)
		ret = serve_qmp(runner, err);
	if (ret == 0)
		ret = connect_stdio(runner, err);
	if (ret == 0)
		ret = take_terminal(runner, err);
	if (ret == 0)
		run_signals_running(runner->signals, runner->loop);
	if (ret == 0)
		ret = vm_start(runner->vm, err);
	if (ret == 0 && up)
		ret = up(opaque, err);
	return ret;
}

/* In the order that lets the guest's last output and the last events still reach their readers. */
static void tear_down(struct runner *runner)
{
	vm_control_destroy(runner->control);
	if (runner->vm)
		vm_destroy(runner->vm);
	console_stdio_finish(runner->stdio);
	console_destroy(runner->console);
	event_loop_destroy(runner->loop);
	if (runner->console_fd >= 0)
		close(runner->console_fd);
	terminal_restore();
	rundir_vm_unclaim(runner->request->config.name, runner->claim_fd);
}

static int exit_status(const struct runner *runner, enum vm_shutdown_reason reason)
{
	switch (reason) {
	case VM_SHUTDOWN_GUEST:
	case VM_SHUTDOWN_GUEST_RESET:
	case VM_SHUTDOWN_HOST_QUIT:
		return CLI_OK;
	case VM_SHUTDOWN_HOST_SIGNAL:
		return run_signals_status(runner->signum);
	case VM_SHUTDOWN_NONE:
	case VM_SHUTDOWN_ERROR:
		break;
	}
	return CLI_ERROR;
}

int run_vm(const struct run_request *request, int (*up)(void *opaque, struct error *err),
	   void *opaque, struct error *err)
{
	struct runner runner = { .request = request, .claim_fd = -1, .console_fd = -1 };
	int status = CLI_ERROR;
	int ret = prepare(&runner, err);

	if (ret == 0)
		ret = start(&runner, up, opaque, err);
	if (ret == 0)
		ret = event_loop_run(runner.loop);
	if (ret == 0)
		status = exit_status(&runner, vm_get_shutdown_reason(runner.vm));
	if (runner.signals)
		run_signals_ending(runner.signals);
	tear_down(&runner);
	return status;
}
