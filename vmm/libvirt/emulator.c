/* SPDX-License-Identifier: MIT */
/*
 * The program as libvirt's emulator: see emulator.h. A VM is the same as that of "framevisor run",
 * also in the run directory, so that framevisor ps, mem, balloon and console know it; only its
 * front differs: libvirt's monitor, and a serial port that is a terminal or a file of libvirt's.
 */
#include "vmm/libvirt/emulator.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include "framevisor/log.h"
#include "vmm/cli/cli.h"
#include "vmm/cli/run.h"
#include "vmm/control/console.h"
#include "vmm/control/console_stdio.h"
#include "vmm/libvirt/args.h"
#include "vmm/libvirt/monitor.h"
#include "vmm/libvirt/probe.h"

#define AWAIT_MS      5000
#define AWAIT_STEP_MS 20

struct emulator {
	struct libvirt_request request;
	struct libvirt_monitor *monitor;
	bool connected; /* the monitor has, or had, the socket */
	struct console_stdio *file;
	int file_fd;
	int slave_fd;    /* of the terminal, so that it stays while nobody looks at it */
	char serial[64]; /* for query-chardev */
};

/* ---- The serial port ---- */

/* A terminal that does nothing to what passes through it. */
static int open_pty(struct emulator *emulator, struct error *err)
{
	struct termios termios;
	char name[32];
	int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);

	if (master < 0)
		return error_set_errno(err, errno, "cannot make a terminal for the console");
	if (grantpt(master) == 0 && unlockpt(master) == 0 &&
	    ptsname_r(master, name, sizeof(name)) == 0)
		emulator->slave_fd = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (emulator->slave_fd < 0 || tcgetattr(emulator->slave_fd, &termios) < 0) {
		error_set_errno(err, errno, "cannot use the console's terminal");
		close(master);
		return -EINVAL;
	}
	cfmakeraw(&termios);
	tcsetattr(emulator->slave_fd, TCSANOW, &termios);
	snprintf(emulator->serial, sizeof(emulator->serial), "pty:%s", name);
	return master;
}

static int connect_pty(struct emulator *emulator, const struct run_parts *parts, struct error *err)
{
	int master = open_pty(emulator, err);
	int ret;

	if (master < 0)
		return master;
	ret = console_attach(parts->console, master, err);
	if (ret < 0)
		close(master);
	return ret;
}

static int connect_file(struct emulator *emulator, const struct libvirt_chardev *chardev,
			const struct run_parts *parts, struct error *err)
{
	struct console_stdio_config config = {
		.console = parts->console,
		.loop = parts->loop,
		.in_fd = -1,
	};
	int flags =
		O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY | (chardev->append ? O_APPEND : O_TRUNC);

	emulator->file_fd = chardev->fd >= 0 ? chardev->fd : open(chardev->path, flags, 0600);
	if (emulator->file_fd < 0)
		return error_set_errno(err, errno, "cannot open the console's file '%s'",
				       chardev->path);
	config.out_fd = emulator->file_fd;
	emulator->file = console_stdio_create(&config, err);
	return emulator->file ? 0 : -EINVAL;
}

static int connect_serial(struct emulator *emulator, const struct run_parts *parts,
			  struct error *err)
{
	const struct libvirt_chardev *chardev =
		libvirt_find_chardev(&emulator->request, emulator->request.serial);

	snprintf(emulator->serial, sizeof(emulator->serial), "null");
	if (!chardev)
		return 0;
	switch (chardev->kind) {
	case LIBVIRT_CHARDEV_PTY:
		return connect_pty(emulator, parts, err);
	case LIBVIRT_CHARDEV_FILE:
		snprintf(emulator->serial, sizeof(emulator->serial), "file");
		return connect_file(emulator, chardev, parts, err);
	case LIBVIRT_CHARDEV_NULL:
		return 0;
	case LIBVIRT_CHARDEV_SOCKET:
		break;
	}
	return error_set(err, ENOTSUP,
			 "a serial port on a socket is not supported; use <serial type='pty'/> or "
			 "<serial type='file'>");
}

/* ---- The front ---- */

static int connect_monitor(struct emulator *emulator, const struct run_parts *parts,
			   struct error *err)
{
	const struct libvirt_request *request = &emulator->request;
	const struct libvirt_chardev *chardev = libvirt_find_chardev(request, request->monitor);
	const struct libvirt_monitor_config config = {
		.loop = parts->loop,
		.vm = parts->vm,
		.control = parts->control,
		.request = request,
		.serial = emulator->serial,
	};
	int fd = -1, ret = 0;

	emulator->monitor = libvirt_monitor_create(&config, err);
	if (!emulator->monitor)
		return -EINVAL;
	if (chardev && chardev->fd >= 0)
		fd = chardev->fd;
	else if (chardev)
		fd = rundir_listen(chardev->path, SOCK_STREAM, err);
	else if (request->monitor_path[0])
		fd = rundir_listen(request->monitor_path, SOCK_STREAM, err);
	else
		return 0;
	if (fd >= 0 && fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
		ret = error_set_errno(err, errno, "cannot use the monitor's socket");
	if (fd < 0 || ret < 0)
		return -EINVAL;
	emulator->connected = true;
	return libvirt_monitor_listen(emulator->monitor, fd, err);
}

static int front_connect(void *opaque, const struct run_parts *parts, struct error *err)
{
	int ret = connect_serial(opaque, parts, err);

	return ret < 0 ? ret : connect_monitor(opaque, parts, err);
}

static void front_disconnect(void *opaque)
{
	struct emulator *emulator = opaque;

	libvirt_monitor_destroy(emulator->monitor);
	emulator->monitor = NULL;
}

static void front_finish(void *opaque)
{
	struct emulator *emulator = opaque;

	console_stdio_finish(emulator->file);
	if (emulator->file_fd >= 0)
		close(emulator->file_fd);
	if (emulator->slave_fd >= 0)
		close(emulator->slave_fd);
}

/* A pool owner that is started from here would be in the domain's cgroup and end with it. */
static int refuse_owner_start(void *opaque, const struct owner_client_config *config,
			      struct error *err)
{
	(void)opaque;
	(void)config;
	return error_set(err, ENOENT,
			 "no pool owner is running; start one as root: framevisord --daemonize "
			 "--pool SIZE --group kvm");
}

static int run_emulator(struct emulator *emulator, struct error *err)
{
	const struct run_front front = {
		.connect = front_connect,
		.disconnect = front_disconnect,
		.finish = front_finish,
		.opaque = emulator,
	};
	struct run_request request = {
		.config = emulator->request.config,
		.front = &front,
		.console = "none",
		.sandbox = sandbox_default(),
	};

	/* In a session of a user's own, which has no cgroups, it is started as usual. */
	if (!rundir_is_users())
		request.config.owner_start = refuse_owner_start;
	return run_vm(&request, NULL, err);
}

/* libvirt looks for it in a file that virtlogd writes, from the pipe that our stderr is. */
static void await_reader(void)
{
	struct stat st;
	int unread = 0;

	if (fstat(STDERR_FILENO, &st) < 0 || !S_ISFIFO(st.st_mode))
		return;
	for (int waited = 0; waited < AWAIT_MS; waited += AWAIT_STEP_MS) {
		bool read = ioctl(STDERR_FILENO, FIONREAD, &unread) < 0 || !unread;

		/* Once more when it is empty: what was read is then written, too. */
		poll(NULL, 0, AWAIT_STEP_MS);
		if (read)
			return;
	}
}

/* libvirt's first command says that it is ready to look at our messages. */
static void see_off(int fd)
{
	static const char greeting[] = "{\"QMP\":{\"version\":{},\"capabilities\":[]}}\r\n";
	struct pollfd poller = { .fd = fd, .events = POLLIN };

	if (fd < 0)
		return;
	if (send(fd, greeting, sizeof(greeting) - 1, MSG_NOSIGNAL) > 0)
		poll(&poller, 1, AWAIT_MS);
	await_reader();
	close(fd);
}

/*
 * libvirt shows what an emulator said on its stderr for certain only when the monitor's connection
 * ends; one that it cannot make may hide it. So who cannot start waits for that connection first.
 */
static void await_libvirt(int argc, char **argv)
{
	static const char monitor[] = "socket,id=charmonitor,fd=";
	struct pollfd poller = { .events = POLLIN };

	for (int i = 1; i < argc; i++) {
		if (strncmp(argv[i], monitor, sizeof(monitor) - 1) != 0)
			continue;
		poller.fd = (int)strtol(argv[i] + sizeof(monitor) - 1, NULL, 10);
		if (poller.fd > STDERR_FILENO && poll(&poller, 1, AWAIT_MS) > 0)
			see_off(accept4(poller.fd, NULL, NULL, SOCK_CLOEXEC));
		return;
	}
}

int libvirt_emulator_main(int argc, char **argv)
{
	struct emulator *emulator = calloc(1, sizeof(*emulator));
	struct error err = { 0 };
	int status = CLI_ERROR;

	if (!emulator) {
		log_error("out of memory");
		return CLI_ERROR;
	}
	emulator->file_fd = -1;
	emulator->slave_fd = -1;
	if (libvirt_args_parse(argc, argv, &emulator->request, &err) == 0) {
		switch (emulator->request.action) {
		case LIBVIRT_VERSION:
			puts("framevisor " FRAMEVISOR_VERSION ", as an emulator for libvirt");
			status = fflush(stdout) == 0 ? CLI_OK : CLI_ERROR;
			break;
		case LIBVIRT_PROBE:
			status = libvirt_probe(&emulator->request, &err);
			break;
		case LIBVIRT_VM:
			status = run_emulator(emulator, &err);
			break;
		}
	}
	if (err.code && status != CLI_OK)
		log_error("%s", err.message);
	if (err.code && emulator->request.action == LIBVIRT_VM && !emulator->connected)
		await_libvirt(argc, argv);
	free(emulator);
	return status;
}
