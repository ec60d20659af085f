/* SPDX-License-Identifier: MIT */
/* The monitor for libvirt, its plain commands and its events: see monitor.h. */
#include "vmm/libvirt/monitor.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "framevisor/log.h"
#include "vmm/control/vm_control.h"
#include "vmm/libvirt/monitor_internal.h"
#include "vmm/libvirt/probe.h"
#include "vmm/target.h"

static uint64_t boot_size(struct vm *vm)
{
	struct target_info info;

	target_info(vm_get_target(vm), &info);
	return info.actual;
}

/* ---- Commands ---- */

static int need_balloon(const struct libvirt_monitor *monitor, struct qmp_error *err)
{
	return monitor->config.request->balloon
		       ? 0
		       : qmp_error_set(err, QMP_DEVICE_NOT_ACTIVE, "the VM has no balloon");
}

static int cmd_balloon(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct libvirt_monitor *monitor = opaque;
	struct error error = { 0 };
	uint64_t value;

	(void)reply;
	if (need_balloon(monitor, err) < 0 || qmp_arg_u64(args, "value", &value, err) < 0)
		return -EINVAL;
	if (value == 0)
		return qmp_error_set(err, QMP_GENERIC_ERROR,
				     "parameter 'value' must be greater "
				     "than 0");
	if (target_set(vm_get_target(monitor->config.vm), value, &error) < 0)
		return qmp_error_from(err, &error);
	return 0;
}

static int cmd_query_balloon(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct libvirt_monitor *monitor = opaque;

	(void)args;
	if (need_balloon(monitor, err) < 0)
		return -EINVAL;
	*reply = json_pack("{s:I}", "actual", (json_int_t)boot_size(monitor->config.vm));
	return 0;
}

/*
 * libvirt adds the sizes of memory devices to its number for the whole by the difference that an
 * event makes to what it knew before; what it learns here, for example while it attaches one that
 * the guest has plugged by then, makes no difference any more. With a balloon's event it adds
 * everything up anew: so one follows, when it has looked at this answer.
 */
static int cmd_query_memory_devices(void *opaque, json_t *args, json_t **reply,
				    struct qmp_error *err)
{
	struct libvirt_monitor *monitor = opaque;
	struct vm *vm = monitor->config.vm;
	const struct vm_mem_device *device;

	(void)args;
	(void)err;
	monitor->sum_due = true;
	monitor_arm_timer(monitor);
	*reply = json_array();
	for (unsigned int i = 0; (device = vm_mem_device(vm, i)); i++) {
		struct virtio_mem_stats stats;

		if (!device->id[0])
			continue;
		vm_mem_device_stats(vm, i, &stats);
		json_array_append_new(
			*reply,
			json_pack("{s:s,s:{s:s,s:I,s:I,s:I,s:I,s:I,s:i,s:o}}", "type", "virtio-mem",
				  "data", "id", device->id, "memaddr", (json_int_t)stats.addr,
				  "requested-size", (json_int_t)device->requested, "size",
				  (json_int_t)stats.plugged, "max-size", (json_int_t)device->size,
				  "block-size", (json_int_t)stats.block_size, "node", device->node,
				  "memdev", json_sprintf("/objects/mem%s", device->id)));
	}
	return 0;
}

/* A guest that does not listen to its power button is no error: libvirt's caller waits and sees,
 * as with a real machine. */
static int cmd_system_powerdown(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct libvirt_monitor *monitor = opaque;
	struct error error = { 0 };
	int ret = vm_powerdown(monitor->config.vm, &error);

	(void)args;
	(void)reply;
	if (ret == -EAGAIN)
		log_warn("%s", error.message);
	return ret < 0 && ret != -EAGAIN ? qmp_error_from(err, &error) : 0;
}

static int cmd_query_chardev(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct libvirt_monitor *monitor = opaque;
	const struct libvirt_request *request = monitor->config.request;

	(void)args;
	(void)err;
	*reply = json_array();
	for (unsigned int i = 0; i < request->nr_chardevs; i++) {
		const char *id = request->chardevs[i].id;
		const char *file =
			strcmp(id, request->serial) == 0 ? monitor->config.serial : "unix";

		json_array_append_new(*reply, json_pack("{s:s,s:s,s:b}", "label", id, "filename",
							file, "frontend-open", 1));
	}
	return 0;
}

static int cmd_query_uuid(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct libvirt_monitor *monitor = opaque;
	const char *uuid = monitor->config.request->uuid;

	(void)args;
	(void)err;
	*reply = json_pack("{s:s}", "UUID", uuid ? uuid : "00000000-0000-0000-0000-000000000000");
	return 0;
}

/* libvirt asks for events about migrations at each start; there are none. */
static int cmd_migrate_set_capabilities(void *opaque, json_t *args, json_t **reply,
					struct qmp_error *err)
{
	json_t *list = json_object_get(args, "capabilities"), *item;
	size_t i;

	(void)opaque;
	(void)reply;
	json_array_foreach(list, i, item)
	{
		const char *name = json_string_value(json_object_get(item, "capability"));

		if (name && strcmp(name, "events") != 0)
			return qmp_error_set(err, QMP_GENERIC_ERROR,
					     "migration is not supported: no capability '%.64s'",
					     name);
	}
	return 0;
}

static const struct qmp_command commands[] = {
	{ "balloon", cmd_balloon, 0 },
	{ "device_add", monitor_cmd_device_add, 0 },
	{ "device_del", monitor_cmd_device_del, 0 },
	{ "migrate-set-capabilities", cmd_migrate_set_capabilities, 0 },
	{ "object-add", monitor_cmd_object_add, 0 },
	{ "object-del", monitor_cmd_object_del, 0 },
	{ "qom-get", monitor_cmd_qom_get, 0 },
	{ "qom-list", monitor_cmd_qom_list, 0 },
	{ "qom-set", monitor_cmd_qom_set, 0 },
	{ "query-balloon", cmd_query_balloon, 0 },
	{ "query-block", libvirt_cmd_nothing, 0 },
	{ "query-blockstats", libvirt_cmd_nothing, 0 },
	{ "query-chardev", cmd_query_chardev, 0 },
	{ "query-iothreads", libvirt_cmd_nothing, 0 },
	{ "query-jobs", libvirt_cmd_nothing, 0 },
	{ "query-memory-devices", cmd_query_memory_devices, 0 },
	{ "query-migrate-capabilities", libvirt_cmd_nothing, 0 },
	{ "query-named-block-nodes", libvirt_cmd_nothing, 0 },
	{ "query-uuid", cmd_query_uuid, 0 },
	{ "system_powerdown", cmd_system_powerdown, 0 },
};

/* ---- Events ---- */

static void send_balloon(struct libvirt_monitor *monitor)
{
	struct vm *vm = monitor->config.vm;

	if (monitor->config.request->balloon && vm_get_target(vm))
		qmp_server_event_limited(monitor->server, "BALLOON_CHANGE", 0,
					 json_pack("{s:I}", "actual", (json_int_t)boot_size(vm)));
}

static void on_vm_event(void *opaque, enum vm_event event)
{
	struct libvirt_monitor *monitor = opaque;

	/* What <on_crash> says is done about it. */
	if (event == VM_EVENT_ERROR)
		qmp_server_event(monitor->server, "GUEST_PANICKED",
				 json_pack("{s:s}", "action", "pause"));
	vm_control_send_event(monitor->config.control, monitor->server, event);
	/* A reset empties the balloon and unplugs all blocks, and libvirt looks at that at once:
	 * what is plugged again is to be told even when it is as much as before. */
	for (unsigned int i = 0; event == VM_EVENT_RESET && i < VM_MEM_DEVICES_MAX; i++)
		monitor->told[i] = UINT64_MAX;
	if (event == VM_EVENT_BALLOON || event == VM_EVENT_RESET)
		send_balloon(monitor);
	if (event == VM_EVENT_MEM || event == VM_EVENT_RESET)
		monitor_mem_changed(monitor);
}

/* ---- Life ---- */

static void on_mem_timer(void *opaque)
{
	struct libvirt_monitor *monitor = opaque;

	monitor->mem_wait = false;
	monitor_mem_changed(monitor);
	if (monitor->sum_due)
		send_balloon(monitor);
	monitor->sum_due = false;
}

struct libvirt_monitor *libvirt_monitor_create(const struct libvirt_monitor_config *config,
					       struct error *err)
{
	struct libvirt_monitor *monitor = calloc(1, sizeof(*monitor));
	struct qmp_server_config server = {
		.commands = commands,
		.nr_commands = sizeof(commands) / sizeof(commands[0]),
		.opaque = monitor,
		.base_opaque = config->control,
	};

	if (!monitor) {
		error_set(err, ENOMEM, "out of memory for the monitor");
		return NULL;
	}
	server.base = vm_control_commands(&server.nr_base);
	monitor->config = *config;
	monitor->nr_devices = config->request->nr_devices;
	memcpy(monitor->devices, config->request->devices, sizeof(monitor->devices));
	monitor->mem_timer = event_timer_create(config->loop, on_mem_timer, monitor);
	if (monitor->mem_timer)
		monitor->server = qmp_server_create(config->loop, &server, err);
	else
		error_set_errno(err, errno, "cannot create a timer");
	if (!monitor->server) {
		event_timer_destroy(monitor->mem_timer);
		free(monitor);
		return NULL;
	}
	vm_control_set_listener(config->control, on_vm_event, monitor);
	return monitor;
}

int libvirt_monitor_listen(struct libvirt_monitor *monitor, int fd, struct error *err)
{
	int ret = qmp_server_listen(monitor->server, fd);

	return ret < 0 ? error_set_errno(err, -ret, "cannot serve the monitor") : 0;
}

void libvirt_monitor_destroy(struct libvirt_monitor *monitor)
{
	if (!monitor)
		return;
	vm_control_set_listener(monitor->config.control, NULL, NULL);
	event_timer_destroy(monitor->mem_timer);
	qmp_server_destroy(monitor->server);
	free(monitor);
}
