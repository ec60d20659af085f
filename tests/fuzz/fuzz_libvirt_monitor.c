/* SPDX-License-Identifier: MIT */
/*
 * Three clients at the monitor that libvirt uses of a VM that runs: bytes of the input, or commands
 * with arguments that are chosen by it, cut and mixed as it says. The first client reads, the
 * second one reads now and then, the third one never does. Handlers, splitter and server are the
 * real ones, and so are the VM, its guest and its pool. Every line that the first client gets has
 * to be one JSON object and to end as libvirt wants it, and the VM has to be in one of its states.
 *
 * Without /dev/kvm there is no VM and nothing is tried.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "framevisor/log.h"
#include "vmm/control/vm_control.h"
#include "vmm/libvirt/args.h"
#include "vmm/libvirt/monitor_internal.h"

#define CLIENTS   3
#define STEPS_MAX 200
#define TURNS     3 /* of the loop after each step: accept, read, answer */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct {
	bool tried, usable;
	char dir[64], kernel[PATH_MAX];
	struct event_loop *loop;
	struct libvirt_request *request;
	struct vm *vm;
	struct vm_control *control;
	struct libvirt_monitor *monitor;
	int client[CLIENTS];
	char line[1 << 16]; /* what the first client has of its next line */
	size_t line_len;
} f;

struct input {
	const uint8_t *data;
	size_t left;
};

static void bug(const char *what)
{
	fprintf(stderr, "fuzz_libvirt_monitor: %s\n", what);
	abort();
}

static unsigned int take(struct input *in)
{
	if (!in->left)
		return 0;
	in->left--;
	return *in->data++;
}

/* ---- The VM ---- */

static void discard(void *opaque, const uint8_t *data, size_t len)
{
	(void)opaque;
	(void)data;
	(void)len;
}

static void nothing(void *opaque)
{
	(void)opaque;
}

static void parse_domain(void)
{
	static const char *const words[] = {
		"framevisor",
		"-name",
		"fuzz",
		"-S",
		"-no-shutdown",
		"-machine",
		"framevisor,usb=off",
		"-accel",
		"kvm",
		"-m",
		"size=32768k,slots=4,maxmem=131072k",
		"-smp",
		"2",
		"-object",
		"memory-backend-ram,id=ram-node0,size=16777216",
		"-numa",
		"node,nodeid=0,cpus=0,memdev=ram-node0",
		"-object",
		"memory-backend-ram,id=ram-node1,size=16777216",
		"-numa",
		"node,nodeid=1,cpus=1,memdev=ram-node1",
		"-object",
		"memory-backend-ram,id=memv,size=33554432",
		"-device",
		"virtio-mem-pci,node=1,memdev=memv,id=virtiomem0,requested-size=16777216",
		"-device",
		"virtio-balloon-pci,id=balloon0,free-page-reporting=on",
		"-device",
		"isa-serial,chardev=charserial0,id=serial0",
		"-chardev",
		"null,id=charserial0",
		"-kernel",
		f.kernel
	};
	char *argv[sizeof(words) / sizeof(words[0])];
	struct error err = { 0 };
	int argc = sizeof(words) / sizeof(words[0]);

	for (int i = 0; i < argc; i++)
		argv[i] = (char *)(uintptr_t)words[i];
	f.request = calloc(1, sizeof(*f.request));
	if (!f.request || libvirt_args_parse(argc, argv, f.request, &err) < 0)
		bug(err.message);
}

static int qmp_socket(void)
{
	char path[RUNDIR_PATH_MAX];
	struct error err = { 0 };
	int fd;

	snprintf(path, sizeof(path), "%s/qmp.sock", f.dir);
	unlink(path);
	fd = rundir_listen(path, SOCK_STREAM, &err);
	if (fd < 0)
		bug(err.message);
	return fd;
}

static void create_vm(void)
{
	struct vm_console console = { .output = discard, .room = nothing };
	struct libvirt_monitor_config config = { .loop = f.loop,
						 .request = f.request,
						 .serial = "null" };
	struct error err = { 0 };

	f.vm = vm_create(&f.request->config, f.loop, &console, &err);
	if (!f.vm)
		bug(err.message);
	f.control = vm_control_create(f.loop, f.vm, qmp_socket(), nothing, NULL, &err);
	if (!f.control)
		bug(err.message);
	config.vm = f.vm;
	config.control = f.control;
	f.monitor = libvirt_monitor_create(&config, &err);
	if (!f.monitor || vm_start(f.vm, &err) < 0)
		bug(err.message);
}

static void destroy_vm(void)
{
	libvirt_monitor_destroy(f.monitor);
	vm_control_destroy(f.control);
	vm_destroy(f.vm);
}

static void clean_up(void)
{
	char command[256];

	if (f.vm)
		destroy_vm();
	snprintf(command, sizeof(command), "rm -rf '%s'", f.dir);
	if (system(command) != 0) /* NOLINT: a directory of our own */
		fprintf(stderr, "fuzz_libvirt_monitor: %s is left behind\n", f.dir);
}

/* build/tests/fuzz/x -> build: the guest's program and the pool owner's are there. */
static void set_up(void)
{
	char build[PATH_MAX - 64], path[2 * PATH_MAX];
	ssize_t len = readlink("/proc/self/exe", build, sizeof(build) - 1);

	f.tried = true;
	if (access("/dev/kvm", R_OK | W_OK) < 0) {
		fprintf(stderr, "fuzz_libvirt_monitor: no /dev/kvm, nothing is tried\n");
		return;
	}
	if (len <= 0)
		bug("where is this program?");
	build[len] = '\0';
	for (int up = 0; up < 3; up++)
		*strrchr(build, '/') = '\0';
	snprintf(f.kernel, sizeof(f.kernel), "%s/guest-tests/obey.elf", build);
	snprintf(path, sizeof(path), "%s:%s", build, getenv("PATH"));
	strcpy(f.dir, "/tmp/fv-monitor-XXXXXX");
	if (!mkdtemp(f.dir) || setenv("PATH", path, 1) < 0 ||
	    setenv("FRAMEVISOR_RUNDIR", f.dir, 1) < 0)
		bug("no run directory");
	log_set_level(LOG_LEVEL_ERROR);
	f.loop = event_loop_create();
	parse_domain();
	create_vm();
	atexit(clean_up);
	f.usable = true;
}

/* ---- Clients ---- */

static void connect_client(unsigned int i)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		bug("no sockets");
	if (qmp_server_add_client(f.monitor->server, pair[1]) < 0)
		bug("a client is not taken");
	f.client[i] = pair[0];
	if (i == 0)
		f.line_len = 0;
}

/* The server may have cut it off. */
static void give(unsigned int i, const char *text, size_t len)
{
	if (send(f.client[i], text, len, MSG_NOSIGNAL) < 0 && errno != EAGAIN) {
		close(f.client[i]);
		connect_client(i);
	}
}

static void check_line(void)
{
	json_t *object;

	if (f.line_len < 2 || f.line[f.line_len - 2] != '\r')
		bug("a line does not end in CR LF");
	object = json_loadb(f.line, f.line_len, 0, NULL);
	if (!json_is_object(object))
		bug("a line is no JSON object");
	json_decref(object);
}

static void read_lines(void)
{
	char bytes[4096];
	ssize_t n;

	while ((n = recv(f.client[0], bytes, sizeof(bytes), 0)) > 0) {
		for (ssize_t i = 0; i < n; i++) {
			if (f.line_len == sizeof(f.line))
				bug("a line does not end");
			f.line[f.line_len++] = bytes[i];
			if (bytes[i] != '\n')
				continue;
			check_line();
			f.line_len = 0;
		}
	}
}

static void read_away(unsigned int i)
{
	char bytes[4096];

	while (recv(f.client[i], bytes, sizeof(bytes), 0) > 0)
		;
}

/* ---- What they say ---- */

static const char *const names[] = {
	"qmp_capabilities",
	"balloon",
	"device_add",
	"device_del",
	"migrate-set-capabilities",
	"object-add",
	"object-del",
	"qom-get",
	"qom-list",
	"qom-set",
	"query-balloon",
	"query-block",
	"query-chardev",
	"query-memory-devices",
	"query-uuid",
	"system_powerdown",
	"cont",
	"stop",
	"system_reset",
	"quit",
	"query-cpus-fast",
	"query-status",
	"framevisor-free-page-hint",
	"framevisor-swap-out",
	"query-framevisor-memory",
	"query-framevisor-vm",
	"query-memory-size-summary",
	"framevisor-migrate-cancel",
	"query-framevisor-migrate",
	"framevisor-migrate",
	"query-commands",
	"nonsense",
};

static const char *const keys[] = {
	"value",      "id",           "path",       "property",       "driver", "qom-type",
	"memdev",     "node",         "block-size", "requested-size", "size",   "policy",
	"host-nodes", "capabilities", "typename",   "prealloc",
};

static const char *const strings[] = {
	"virtiomem0",
	"virtiomem1",
	"balloon0",
	"serial0",
	"memv",
	"memw",
	"virtio-mem-pci",
	"memory-backend-ram",
	"memory-backend-file",
	"/machine/peripheral",
	"/machine/peripheral/virtiomem0",
	"/machine/peripheral/virtiomem1",
	"/machine/peripheral/balloon0",
	"/machine/unattached/device[0]",
	"guest-stats",
	"guest-stats-polling-interval",
	"requested-size",
	"migratable",
	"bind",
	"",
};

static const uint64_t numbers[] = {
	0,        1,        2,        4096,      2097152,    4194304,    16777216,
	20971520, 33554432, 67108864, 134217728, 2147483647, 4294967296, INT64_MAX,
};

#define PICK(table, in) table[take(in) % (sizeof(table) / sizeof(table[0]))]

static json_t *make_value(struct input *in)
{
	switch (take(in) % 8) {
	case 0:
	case 1:
	case 2:
		return json_string(PICK(strings, in));
	case 3:
	case 4:
		return json_integer((json_int_t)PICK(numbers, in));
	case 5:
		return json_boolean(take(in) & 1);
	case 6:
		return json_pack("[{s:s,s:b}]", "capability", PICK(strings, in), "state", 1);
	default:
		return take(in) & 1 ? json_null() : json_integer(-(json_int_t)take(in));
	}
}

/* Commands that are right in most of their parts, or they would end at the first check. */
static json_t *make_likely(struct input *in)
{
	const char *mem = take(in) & 1 ? "virtiomem0" : "virtiomem1";
	const char *backend = take(in) & 1 ? "memw" : "memv";

	switch (take(in) % 6) {
	case 0:
		return json_pack("{s:s,s:{s:s,s:s,s:I}}", "execute", "object-add", "arguments",
				 "qom-type", "memory-backend-ram", "id", backend, "size",
				 (json_int_t)PICK(numbers, in));
	case 1:
		return json_pack("{s:s,s:{s:s,s:s,s:s,s:i,s:I}}", "execute", "device_add",
				 "arguments", "driver", "virtio-mem-pci", "id", mem, "memdev",
				 backend, "node", (int)(take(in) % 3), "requested-size",
				 (json_int_t)PICK(numbers, in));
	case 2:
		return json_pack("{s:s,s:{s:s}}", "execute", "device_del", "arguments", "id", mem);
	case 3:
		return json_pack("{s:s,s:{s:o,s:s,s:I}}", "execute", "qom-set", "arguments", "path",
				 json_sprintf("/machine/peripheral/%s", mem), "property",
				 "requested-size", "value", (json_int_t)PICK(numbers, in));
	case 4:
		return json_pack("{s:s,s:{s:I}}", "execute", "balloon", "arguments", "value",
				 (json_int_t)PICK(numbers, in));
	default:
		return json_pack("{s:s,s:{s:s}}", "execute", "object-del", "arguments", "id",
				 backend);
	}
}

static json_t *make_command(struct input *in)
{
	json_t *args = json_object();
	json_t *command = json_pack("{s:s,s:i,s:o}", "execute", PICK(names, in), "id",
				    (int)take(in), "arguments", args);

	for (unsigned int n = take(in) % 5; n; n--)
		json_object_set_new(args, PICK(keys, in), make_value(in));
	return command;
}

/* Whole, without its end, or its end first. */
static void say(struct input *in, unsigned int client, json_t *command)
{
	char *text = json_dumps(command, JSON_COMPACT);
	size_t len = strlen(text), cut = take(in) % (len + 1);

	json_decref(command);
	switch (take(in) % 8) {
	case 0:
		give(client, text, cut);
		break;
	case 1:
		give(client, text + cut, len - cut);
		give(client, "\r\n", 2);
		break;
	default:
		give(client, text, len);
		give(client, "\n", 1);
		break;
	}
	free(text);
}

static void say_bytes(struct input *in, unsigned int client)
{
	size_t len = take(in);

	len = len < in->left ? len : in->left;
	give(client, (const char *)in->data, len);
	in->data += len;
	in->left -= len;
}

/* Longer than any message may be. */
static void say_much(unsigned int client)
{
	static char much[64 << 10];

	memset(much, '[', sizeof(much));
	give(client, much, sizeof(much));
}

/* ---- Life ---- */

static void on_turn(void *opaque)
{
	unsigned int *left = opaque;

	if (--*left)
		event_loop_post(f.loop, on_turn, left);
	else
		event_loop_quit(f.loop);
}

static void turn(void)
{
	unsigned int left = TURNS;

	event_loop_post(f.loop, on_turn, &left);
	/* A VM that ends makes the loop return before the last turn. */
	do
		event_loop_run(f.loop);
	while (left);
}

static void step(struct input *in)
{
	unsigned int client = take(in) % CLIENTS;

	switch (take(in) % 16) {
	case 0:
		say_bytes(in, client);
		break;
	case 1:
		say_much(client);
		break;
	case 2:
		close(f.client[client]);
		connect_client(client);
		break;
	case 3:
		read_away(1);
		break;
	case 4:
	case 5:
	case 6:
	case 7:
		say(in, client, make_likely(in));
		break;
	default:
		say(in, client, make_command(in));
		break;
	}
	turn();
	read_lines();
	if (!vm_control_state_name(vm_get_state(f.vm)))
		bug("the VM is in no state");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char hello[] = "{\"execute\":\"qmp_capabilities\"}\n";
	struct input in = { .data = data, .left = size };

	if (!f.tried)
		set_up();
	if (!f.usable)
		return 0;
	for (unsigned int i = 0; i < CLIENTS; i++) {
		connect_client(i);
		give(i, hello, sizeof(hello) - 1);
	}
	turn();
	for (unsigned int steps = 0; in.left && steps < STEPS_MAX; steps++) {
		step(&in);
		if (vm_get_state(f.vm) != VM_STATE_SHUTDOWN || !vm_get_shutdown_reason(f.vm))
			continue;
		/* "quit". What is said after it is another VM's. */
		break;
	}
	for (unsigned int i = 0; i < CLIENTS; i++)
		close(f.client[i]);
	turn();
	if (vm_get_shutdown_reason(f.vm) != VM_SHUTDOWN_NONE) {
		destroy_vm();
		create_vm();
	}
	return 0;
}
