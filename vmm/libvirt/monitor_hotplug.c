/* SPDX-License-Identifier: MIT */
/* Memory devices that come and go: see monitor.h. */
#include <errno.h>
#include <string.h>

#include "vmm/libvirt/args_internal.h"
#include "vmm/libvirt/keyval.h"
#include "vmm/libvirt/monitor_internal.h"

#define SIZE_EVENT_MS 1000 /* at most one of a kind, as QEMU */

/* ---- Objects ---- */

static int find_backend(const struct libvirt_monitor *monitor, const char *id)
{
	for (unsigned int i = 0; i < monitor->nr_backends; i++)
		if (strcmp(monitor->backends[i].id, id) == 0)
			return (int)i;
	return -1;
}

static int add_backend(struct libvirt_monitor *monitor, json_t *object, struct error *err)
{
	struct libvirt_backend backend = { .size = 0 };
	char type[LIBVIRT_ID_MAX] = "";
	int ret = keyval_take_string(object, "qom-type", type, sizeof(type), "object-add", err);

	if (ret < 0)
		return ret;
	if (strncmp(type, "memory-backend-", 15) != 0)
		return error_set(err, ENOTSUP, "an object of type '%s' has no meaning here", type);
	if (monitor->nr_backends == LIBVIRT_BACKENDS_MAX)
		return error_set(err, E2BIG, "more than %d objects", LIBVIRT_BACKENDS_MAX);
	ret = libvirt_parse_backend(object, type, &backend, err);
	if (ret < 0)
		return ret;
	if (find_backend(monitor, backend.id) >= 0)
		return error_set(err, EEXIST, "there is an object '%s' already", backend.id);
	monitor->backends[monitor->nr_backends++] = backend;
	return 0;
}

int monitor_cmd_object_add(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct error error = { 0 };
	json_t *copy = json_copy(args);
	int ret = copy ? add_backend(opaque, copy, &error)
		       : error_set(&error, ENOMEM, "out of memory");

	(void)reply;
	json_decref(copy);
	return ret < 0 ? qmp_error_from(err, &error) : 0;
}

/* Also of an object from the command line: nothing is kept of those. */
int monitor_cmd_object_del(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct libvirt_monitor *monitor = opaque;
	const char *id;
	int i;

	(void)reply;
	if (qmp_arg_string(args, "id", &id, err) < 0)
		return -EINVAL;
	i = find_backend(monitor, id);
	if (i >= 0)
		monitor->backends[i] = monitor->backends[--monitor->nr_backends];
	return 0;
}

/* ---- Devices ---- */

static int attach(struct libvirt_monitor *monitor, const struct libvirt_device *name,
		  json_t *object, struct error *err)
{
	struct libvirt_mem_device parsed = { .requested = 0 };
	struct vm_mem_device device = { .size = 0 };
	int backend, ret = libvirt_parse_mem_device(object, &parsed, err);

	if (ret < 0)
		return ret;
	backend = find_backend(monitor, parsed.backend);
	if (backend < 0)
		return error_set(err, EINVAL, "there is no memory '%s'", parsed.backend);
	device.size = monitor->backends[backend].size;
	device.requested = parsed.requested;
	device.block_size = parsed.block_size;
	if (parsed.node >= VM_NODES_MAX)
		return error_set(err, EINVAL, "there is no node %llu",
				 (unsigned long long)parsed.node);
	device.node = (uint16_t)parsed.node;
	device.host_nodes = monitor->backends[backend].host_nodes;
	ret = libvirt_backend_policy(&monitor->backends[backend], &device.policy, err);
	if (ret < 0)
		return ret;
	memcpy(device.id, name->id, sizeof(device.id));
	ret = vm_mem_device_attach(monitor->config.vm, &device, err);
	if (ret < 0)
		return ret;
	monitor->told[ret] = 0;
	monitor->leaving[ret] = false;
	monitor->devices[monitor->nr_devices++] = *name;
	return 0;
}

static int add_device(struct libvirt_monitor *monitor, json_t *object, struct error *err)
{
	struct libvirt_device device = { .id = "" };
	int ret = keyval_take_string(object, "driver", device.driver, sizeof(device.driver),
				     "device_add", err);

	if (ret >= 0)
		ret = keyval_take_string(object, "id", device.id, sizeof(device.id), "device_add",
					 err);
	if (ret < 0)
		return ret;
	if (strcmp(device.driver, "virtio-mem-pci") != 0)
		return libvirt_refuse_device(device.driver, device.id, err);
	if (!device.id[0] || monitor->nr_devices == LIBVIRT_DEVICES_MAX)
		return error_set(err, EINVAL, "a device needs a name, and there may be %d of them",
				 LIBVIRT_DEVICES_MAX);
	return attach(monitor, &device, object, err);
}

int monitor_cmd_device_add(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct error error = { 0 };
	json_t *copy = json_copy(args);
	int ret = copy ? add_device(opaque, copy, &error)
		       : error_set(&error, ENOMEM, "out of memory");

	(void)reply;
	json_decref(copy);
	return ret < 0 ? qmp_error_from(err, &error) : 0;
}

static void forget_device(struct libvirt_monitor *monitor, const char *id)
{
	for (unsigned int i = 0; i < monitor->nr_devices; i++) {
		if (strcmp(monitor->devices[i].id, id) == 0) {
			monitor->devices[i] = monitor->devices[--monitor->nr_devices];
			return;
		}
	}
}

/* Once the guest has unplugged all of it, it is gone. */
static void try_detach(struct libvirt_monitor *monitor, unsigned int index)
{
	char id[VM_MEM_ID_MAX];

	memcpy(id, vm_mem_device(monitor->config.vm, index)->id, sizeof(id));
	if (vm_mem_device_detach(monitor->config.vm, index, NULL) < 0)
		return;
	monitor->leaving[index] = false;
	forget_device(monitor, id);
	qmp_server_event(monitor->server, "DEVICE_DELETED",
			 json_pack("{s:s,s:o}", "device", id, "path",
				   json_sprintf("/machine/peripheral/%s", id)));
}

int monitor_cmd_device_del(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct libvirt_monitor *monitor = opaque;
	struct error error = { 0 };
	const char *id;
	int mem;

	(void)reply;
	if (qmp_arg_string(args, "id", &id, err) < 0)
		return -EINVAL;
	mem = vm_mem_device_find(monitor->config.vm, id);
	if (mem < 0) {
		for (unsigned int i = 0; i < monitor->nr_devices; i++)
			if (strcmp(monitor->devices[i].id, id) == 0)
				return qmp_error_set(err, QMP_GENERIC_ERROR,
						     "device '%.64s' cannot be removed from a "
						     "running VM",
						     id);
		return qmp_error_set(err, QMP_DEVICE_NOT_FOUND, "Device '%.64s' not found", id);
	}
	if (vm_mem_device_request(monitor->config.vm, (unsigned int)mem, 0, &error) < 0)
		return qmp_error_from(err, &error);
	monitor->leaving[mem] = true;
	try_detach(monitor, (unsigned int)mem);
	return 0;
}

/* ---- Events ---- */

static bool tell_size(struct libvirt_monitor *monitor, unsigned int index)
{
	const char *id = vm_mem_device(monitor->config.vm, index)->id;
	struct virtio_mem_stats stats;

	vm_mem_device_stats(monitor->config.vm, index, &stats);
	if (!id[0] || stats.plugged == monitor->told[index])
		return false;
	monitor->told[index] = stats.plugged;
	qmp_server_event(monitor->server, "MEMORY_DEVICE_SIZE_CHANGE",
			 json_pack("{s:s,s:I,s:o}", "id", id, "size", (json_int_t)stats.plugged,
				   "qom-path", json_sprintf("/machine/peripheral/%s", id)));
	return true;
}

void monitor_arm_timer(struct libvirt_monitor *monitor)
{
	if (!monitor->mem_wait)
		event_timer_arm(monitor->mem_timer, SIZE_EVENT_MS, 0);
	monitor->mem_wait = true;
}

void monitor_mem_changed(struct libvirt_monitor *monitor)
{
	bool told = false;

	if (monitor->mem_wait)
		return; /* the timer tells what it is then */
	for (unsigned int i = 0; vm_mem_device(monitor->config.vm, i); i++) {
		told |= tell_size(monitor, i);
		if (monitor->leaving[i])
			try_detach(monitor, i);
	}
	if (told)
		monitor_arm_timer(monitor);
}
