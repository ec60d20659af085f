/* SPDX-License-Identifier: MIT */
/* Answering libvirt's capability probe: see probe.h. */
#include "vmm/libvirt/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/owner/daemon.h"

/* A probe whose libvirtd was killed would wait for ever. */
#define IDLE_CHECK_MS 30000

/* ---- What the host can do ---- */

/* Returns the number of CPUs that a VM may have, 0 without KVM. */
static unsigned int kvm_cpus(void)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int max;

	if (fd < 0)
		return 0;
	max = ioctl(fd, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS);
	close(fd);
	if (max < 1)
		return 0;
	return max < VM_CPUS_MAX ? (unsigned int)max : VM_CPUS_MAX;
}

/* ---- Commands ---- */

static int cmd_query_target(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	(void)opaque;
	(void)args;
	(void)err;
	*reply = json_pack("{s:s}", "arch", "x86_64");
	return 0;
}

static int cmd_query_schema(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	(void)opaque;
	(void)args;
	*reply = json_loads(libvirt_schema_json, 0, NULL);
	return *reply ? 0 : qmp_error_set(err, QMP_GENERIC_ERROR, "out of memory");
}

static int cmd_query_kvm(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	const struct libvirt_request *request = opaque;

	(void)args;
	(void)err;
	*reply = json_pack("{s:b,s:b}", "enabled", request->kvm && kvm_cpus() > 0, "present",
			   access("/dev/kvm", F_OK) == 0);
	return 0;
}

static int cmd_list_types(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	(void)opaque;
	(void)args;
	(void)err;
	*reply = json_array();
	for (size_t i = 0; i < libvirt_nr_types; i++)
		if (libvirt_types[i].listed)
			json_array_append_new(*reply,
					      json_pack("{s:s}", "name", libvirt_types[i].name));
	return 0;
}

/* Returns a list, empty for a type that is not there; *found says which of them. */
static json_t *list_properties(const char *type, bool *found)
{
	json_t *list = json_array();

	*found = false;
	for (size_t i = 0; i < libvirt_nr_types; i++) {
		const char *const *property = libvirt_types[i].properties;

		if (strcmp(libvirt_types[i].name, type) != 0)
			continue;
		*found = true;
		for (; property && *property; property++)
			json_array_append_new(
				list, json_pack("{s:s,s:s}", "name", *property, "type", "value"));
	}
	return list;
}

static int cmd_device_properties(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	const char *type;
	bool found;

	(void)opaque;
	if (qmp_arg_string(args, "typename", &type, err) < 0)
		return -EINVAL;
	*reply = list_properties(type, &found);
	return found ? 0
		     : qmp_error_set(err, QMP_DEVICE_NOT_FOUND, "Device '%.100s' not found", type);
}

/* Also for types that are not there: an error here crashes libvirtd. */
static int cmd_object_properties(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	const char *type;
	bool found;

	(void)opaque;
	if (qmp_arg_string(args, "typename", &type, err) < 0)
		return -EINVAL;
	*reply = list_properties(type, &found);
	return 0;
}

/* default-ram-id makes libvirt name the memory on the command line; no default CPU type, so that a
 * domain without <cpu> gets none written. */
static int cmd_query_machines(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	unsigned int cpus = kvm_cpus();

	(void)opaque;
	(void)args;
	(void)err;
	*reply = json_pack("[{s:s,s:i,s:b,s:b,s:b,s:s,s:b}]", "name", LIBVIRT_MACHINE, "cpu-max",
			   cpus ? (int)cpus : 1, "hotpluggable-cpus", 0, "numa-mem-supported", 0,
			   "is-default", 1, "default-ram-id", LIBVIRT_RAM_ID, "deprecated", 0);
	return 0;
}

int libvirt_cmd_nothing(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	(void)opaque;
	(void)args;
	(void)err;
	*reply = json_array();
	return 0;
}

/* Without any model, libvirtd crashes over <cpu mode='host-model'/>. */
static int cmd_cpu_definitions(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	(void)opaque;
	(void)args;
	(void)err;
	*reply = json_pack("[{s:s,s:s,s:[],s:b,s:b,s:b}]", "name", "host", "typename",
			   "host-x86_64-cpu", "unavailable-features", "migration-safe", 0, "static",
			   0, "deprecated", 0);
	return 0;
}

static const struct qmp_command commands[] = {
	{ "query-target", cmd_query_target, QMP_COMMAND_UNLISTED },
	{ "query-qmp-schema", cmd_query_schema, QMP_COMMAND_UNLISTED },
	{ "query-kvm", cmd_query_kvm, QMP_COMMAND_UNLISTED },
	{ "qom-list-types", cmd_list_types, QMP_COMMAND_UNLISTED },
	{ "device-list-properties", cmd_device_properties, QMP_COMMAND_UNLISTED },
	{ "qom-list-properties", cmd_object_properties, QMP_COMMAND_UNLISTED },
	{ "query-machines", cmd_query_machines, QMP_COMMAND_UNLISTED },
	{ "query-command-line-options", libvirt_cmd_nothing, QMP_COMMAND_UNLISTED },
	{ "query-migrate-capabilities", libvirt_cmd_nothing, QMP_COMMAND_UNLISTED },
	{ "query-cpu-definitions", cmd_cpu_definitions, 0 },
	{ "query-tpm-models", libvirt_cmd_nothing, QMP_COMMAND_UNLISTED },
	{ "query-tpm-types", libvirt_cmd_nothing, QMP_COMMAND_UNLISTED },
};

const struct qmp_command *libvirt_probe_commands(size_t *nr)
{
	*nr = sizeof(commands) / sizeof(commands[0]);
	return commands;
}

/* ---- The process ---- */

struct probe {
	struct event_loop *loop;
	struct qmp_server *server;
	struct event_timer *timer;
	bool idle; /* nobody was connected at the last look either */
};

static void on_timer(void *opaque)
{
	struct probe *probe = opaque;
	bool idle = qmp_server_nr_clients(probe->server) == 0;

	if (idle && probe->idle)
		event_loop_quit(probe->loop);
	probe->idle = idle;
}

static int write_pidfile(const char *path, struct error *err)
{
	FILE *file = fopen(path, "we");
	int ret = 0;

	if (!file)
		return error_set_errno(err, errno, "cannot write '%s'", path);
	if (fprintf(file, "%d\n", getpid()) < 0)
		ret = -EIO;
	if (fclose(file) != 0 || ret < 0)
		return error_set_errno(err, errno ? errno : EIO, "cannot write '%s'", path);
	return 0;
}

static int serve(struct probe *probe, const struct libvirt_request *request, struct error *err)
{
	struct qmp_server_config config = { .opaque = (void *)request };
	int fd, ret;

	config.commands = libvirt_probe_commands(&config.nr_commands);
	probe->loop = event_loop_create();
	if (!probe->loop)
		return error_set_errno(err, errno, "cannot create an event loop");
	probe->server = qmp_server_create(probe->loop, &config, err);
	if (!probe->server)
		return -ENOMEM;
	probe->timer = event_timer_create(probe->loop, on_timer, probe);
	if (!probe->timer)
		return error_set_errno(err, errno, "cannot create a timer");
	event_timer_arm(probe->timer, IDLE_CHECK_MS, IDLE_CHECK_MS);
	fd = rundir_listen(request->monitor_path, SOCK_STREAM, err);
	if (fd < 0)
		return fd;
	ret = qmp_server_listen(probe->server, fd);
	if (ret < 0) {
		close(fd);
		return error_set_errno(err, -ret, "cannot serve QMP");
	}
	return request->pidfile ? write_pidfile(request->pidfile, err) : 0;
}

int libvirt_probe(const struct libvirt_request *request, struct error *err)
{
	struct probe probe = { .idle = false };
	int ready = -1, ret = 0;

	if (request->daemonize) {
		ready = daemon_begin(err);
		ret = ready;
	}
	if (ret >= 0)
		ret = serve(&probe, request, err);
	/* libvirt reads our stderr to its end: it must not stay open. */
	if (ret == 0 && ready >= 0)
		ret = daemon_ready(ready, NULL, err);
	if (ret == 0)
		ret = event_loop_run(probe.loop);
	qmp_server_destroy(probe.server);
	event_timer_destroy(probe.timer);
	event_loop_destroy(probe.loop);
	return ret < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
