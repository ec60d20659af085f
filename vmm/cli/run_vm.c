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
#include "vmm/sandbox/keeper.h"

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
	bool own_mounts;
	bool sandboxed; /* or half way into it */
	struct keeper keeper;
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

	if (!runner->request->config.no_shutdown)
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
static int listen_on(const struct runner *runner, const char *leaf, int type, struct error *err)
{
	char path[RUNDIR_PATH_MAX];
	int ret = rundir_vm_join(path, runner->request->config.name, leaf, err);

	return ret < 0 ? ret : rundir_listen(path, type, err);
}

static int serve_console(struct runner *runner, struct error *err)
{
	int fd = listen_on(runner, "console.sock", SOCK_STREAM, err);
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
	int fd = listen_on(runner, "qmp.sock", SOCK_STREAM, err);

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

/* The next owner is started by the keeper; without a sandbox, by the next command. */
static void on_owner_lost(void *opaque)
{
	struct runner *runner = opaque;

	keeper_want_owner(&runner->keeper);
}

static int serve_owner(struct runner *runner, struct error *err)
{
	int fd = listen_on(runner, "owner.sock", SOCK_SEQPACKET, err);
	int ret;

	if (fd < 0)
		return fd;
	ret = vm_serve_owner(runner->vm, fd, on_owner_lost, runner, err);
	if (ret < 0)
		close(fd);
	return ret;
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

static int connect_front(struct runner *runner, struct error *err)
{
	const struct run_front *front = runner->request->front;
	const struct run_parts parts = {
		.loop = runner->loop,
		.vm = runner->vm,
		.control = runner->control,
		.console = runner->console,
	};

	return front ? front->connect(front->opaque, &parts, err) : connect_stdio(runner, err);
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

/* Before the first thread; the keeper before the namespace that is not for it. */
static int prepare_sandbox(struct runner *runner, struct error *err)
{
	int ret;

	if (runner->request->sandbox == SANDBOX_OFF)
		return 0;
	ret = keeper_start(&runner->keeper, runner->request->config.name, err);
	runner->own_mounts = ret == 0 && sandbox_prepare(runner->request->sandbox);
	return ret;
}

static int prepare(struct runner *runner, struct error *err)
{
	const char *name = runner->request->config.name;
	struct vm_console console;
	struct vm_config config;

	if (prepare_sandbox(runner, err) < 0)
		return -EAGAIN;
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
	config = runner->request->config;
	if (runner->keeper.fd >= 0 && !config.owner_start) {
		config.owner_start = keeper_start_owner;
		config.owner_opaque = &runner->keeper;
	}
	runner->vm = vm_create(&config, runner->loop, &console, err);
	if (!runner->vm)
		return -EINVAL;
	console_set_guest(runner->console, guest_take, runner);
	return 0;
}

static int enter_sandbox(struct runner *runner, struct error *err)
{
	struct sandbox_config config = { .mode = runner->request->sandbox,
					 .own_mounts = runner->own_mounts,
					 .client = vm_get_client(runner->vm),
					 .memory = vm_get_memory(runner->vm),
					 .keeper = &runner->keeper };

	vm_memory_span(config.memory, &config.span);
	runner->sandboxed = config.mode != SANDBOX_OFF;
	keeper_running(&runner->keeper);
	return sandbox_enter(&config, err);
}

static int start(struct runner *runner, const struct run_hooks *hooks, struct error *err)
{
	int ret = serve_console(runner, err);

	if (ret == 0)
		ret = serve_qmp(runner, err);
	if (ret == 0)
		ret = serve_owner(runner, err);
	if (ret == 0)
		ret = connect_front(runner, err);
	if (ret == 0)
		ret = take_terminal(runner, err);
	if (ret == 0)
		run_signals_running(runner->signals, runner->loop);
	if (ret == 0 && hooks && hooks->ready)
		ret = hooks->ready(hooks->opaque, err);
	if (ret == 0)
		ret = enter_sandbox(runner, err);
	if (ret == 0)
		ret = vm_start(runner->vm, err);
	if (ret == 0 && hooks && hooks->up)
		ret = hooks->up(hooks->opaque, err);
	return ret;
}

/* In the order that lets the guest's last output and the last events still reach their readers. */
static void tear_down(struct runner *runner)
{
	const struct run_front *front = runner->request->front;

	if (front)
		front->disconnect(front->opaque);
	vm_control_destroy(runner->control);
	if (runner->vm)
		vm_destroy(runner->vm);
	if (front)
		front->finish(front->opaque);
	console_stdio_finish(runner->stdio);
	console_destroy(runner->console);
	event_loop_destroy(runner->loop);
	if (runner->console_fd >= 0)
		close(runner->console_fd);
	terminal_restore();
	if (runner->sandboxed)
		keeper_finish(&runner->keeper);
	else
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

int run_vm(const struct run_request *request, const struct run_hooks *hooks, struct error *err)
{
	struct runner runner = {
		.request = request, .claim_fd = -1, .console_fd = -1, .keeper = { .fd = -1 }
	};
	int status = CLI_ERROR;
	int ret = prepare(&runner, err);

	if (ret == 0)
		ret = start(&runner, hooks, err);
	if (ret == 0)
		ret = event_loop_run(runner.loop);
	if (ret == 0)
		status = exit_status(&runner, vm_get_shutdown_reason(runner.vm));
	if (runner.signals)
		run_signals_ending(runner.signals);
	tear_down(&runner);
	return status;
}
