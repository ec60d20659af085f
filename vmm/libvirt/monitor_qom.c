/* SPDX-License-Identifier: MIT */
/* The part of QEMU's object model that libvirt looks at: see monitor.h. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "vmm/libvirt/monitor_internal.h"
#include "vmm/target.h"

#define PERIPHERAL "/machine/peripheral"
#define CPU_PATH   "/machine/unattached/device["

static const struct libvirt_device *find_device(const struct libvirt_monitor *monitor,
						const char *path)
{
	size_t len = sizeof(PERIPHERAL "/") - 1;

	if (strncmp(path, PERIPHERAL "/", len) != 0)
		return NULL;
	for (unsigned int i = 0; i < monitor->nr_devices; i++)
		if (strcmp(monitor->devices[i].id, path + len) == 0)
			return &monitor->devices[i];
	return NULL;
}

static bool is_cpu(const struct libvirt_monitor *monitor, const char *path)
{
	char text[64];

	for (unsigned int i = 0; i < vm_get_config(monitor->config.vm)->cpus; i++) {
		snprintf(text, sizeof(text), CPU_PATH "%u]", i);
		if (strcmp(text, path) == 0)
			return true;
	}
	return false;
}

static bool is_driver(const struct libvirt_device *device, const char *driver)
{
	return device && strcmp(device->driver, driver) == 0;
}

/* The index of the memory device at path, or -1. */
static int mem_index(const struct libvirt_monitor *monitor, const char *path)
{
	const struct libvirt_device *device = find_device(monitor, path);

	return is_driver(device, "virtio-mem-pci")
		       ? vm_mem_device_find(monitor->config.vm, device->id)
		       : -1;
}

/* ---- qom-list ---- */

static void append(json_t *list, const char *name, json_t *type)
{
	json_array_append_new(list, json_pack("{s:s,s:o}", "name", name, "type", type));
}

int monitor_cmd_qom_list(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct libvirt_monitor *monitor = opaque;
	const struct libvirt_device *device;
	const char *path;

	if (qmp_arg_string(args, "path", &path, err) < 0)
		return -EINVAL;
	*reply = json_array();
	device = find_device(monitor, path);
	if (strcmp(path, PERIPHERAL) == 0) {
		for (unsigned int i = 0; i < monitor->nr_devices; i++)
			append(*reply, monitor->devices[i].id,
			       json_sprintf("child<%s>", monitor->devices[i].driver));
	} else if (is_driver(device, "virtio-balloon-pci")) {
		append(*reply, "guest-stats", json_string("guest statistics"));
		append(*reply, "guest-stats-polling-interval", json_string("int"));
	} else if (is_driver(device, "virtio-mem-pci")) {
		append(*reply, "size", json_string("size"));
		append(*reply, "requested-size", json_string("size"));
	} else if (!device && !is_cpu(monitor, path)) {
		return qmp_error_set(err, QMP_DEVICE_NOT_FOUND, "there is no object '%.200s'",
				     path);
	}
	return 0;
}

/* ---- qom-get ---- */

static json_t *guest_stats(struct vm *vm)
{
	struct virtio_balloon_guest_stats stats;
	json_t *values = json_object();

	virtio_balloon_guest_stats(vm_get_balloon(vm), &stats);
	for (unsigned int i = 0; i < BALLOON_STATS; i++)
		if (stats.valid >> i & 1)
			json_object_set_new(values, virtio_balloon_stat_names[i],
					    json_integer((json_int_t)stats.values[i]));
	return json_pack("{s:I,s:o}", "last-update", (json_int_t)stats.last_update, "stats",
			 values);
}

static json_t *balloon_property(struct vm *vm, const char *property)
{
	struct virtio_balloon_guest_stats stats;

	if (strcmp(property, "guest-stats") == 0)
		return guest_stats(vm);
	if (strcmp(property, "guest-stats-polling-interval") != 0)
		return NULL;
	virtio_balloon_guest_stats(vm_get_balloon(vm), &stats);
	return json_integer(stats.interval);
}

static json_t *mem_property(struct vm *vm, unsigned int index, const char *property)
{
	struct virtio_mem_stats stats;

	vm_mem_device_stats(vm, index, &stats);
	if (strcmp(property, "size") == 0)
		return json_integer((json_int_t)stats.plugged);
	if (strcmp(property, "requested-size") == 0)
		return json_integer((json_int_t)vm_mem_device(vm, index)->requested);
	if (strcmp(property, "block-size") == 0)
		return json_integer((json_int_t)stats.block_size);
	return NULL;
}

/* "migratable" of a CPU: it must be answered, or a libvirtd that starts anew ends the VM. */
static json_t *get_property(struct libvirt_monitor *monitor, const char *path, const char *property)
{
	int mem = mem_index(monitor, path);

	if (mem >= 0)
		return mem_property(monitor->config.vm, (unsigned int)mem, property);
	if (is_driver(find_device(monitor, path), "virtio-balloon-pci"))
		return balloon_property(monitor->config.vm, property);
	if (is_cpu(monitor, path) && strcmp(property, "migratable") == 0)
		return json_false();
	return NULL;
}

int monitor_cmd_qom_get(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	const char *path, *property;

	if (qmp_arg_string(args, "path", &path, err) < 0 ||
	    qmp_arg_string(args, "property", &property, err) < 0)
		return -EINVAL;
	*reply = get_property(opaque, path, property);
	return *reply ? 0
		      : qmp_error_set(err, QMP_GENERIC_ERROR,
				      "there is no property '%.100s' at '%.200s'", property, path);
}

/* ---- qom-set ---- */

static int set_interval(struct libvirt_monitor *monitor, json_t *args, struct qmp_error *err)
{
	uint64_t seconds;

	if (qmp_arg_u64(args, "value", &seconds, err) < 0)
		return -EINVAL;
	if (seconds > INT32_MAX)
		return qmp_error_set(err, QMP_GENERIC_ERROR, "parameter 'value' is too large");
	target_poll_stats(vm_get_target(monitor->config.vm), (unsigned int)seconds);
	return 0;
}

/* A device on its way out that is to have memory again stays: its guest may keep a block for ever,
 * and there is no other way to call the detaching off. */
static int set_requested(struct libvirt_monitor *monitor, unsigned int index, json_t *args,
			 struct qmp_error *err)
{
	struct error error = { 0 };
	uint64_t bytes;

	if (qmp_arg_u64(args, "value", &bytes, err) < 0)
		return -EINVAL;
	if (vm_mem_device_request(monitor->config.vm, index, bytes, &error) < 0)
		return qmp_error_from(err, &error);
	if (bytes)
		monitor->leaving[index] = false;
	return 0;
}

int monitor_cmd_qom_set(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct libvirt_monitor *monitor = opaque;
	const char *path, *property;
	int mem;

	(void)reply;
	if (qmp_arg_string(args, "path", &path, err) < 0 ||
	    qmp_arg_string(args, "property", &property, err) < 0)
		return -EINVAL;
	mem = mem_index(monitor, path);
	if (mem >= 0 && strcmp(property, "requested-size") == 0)
		return set_requested(monitor, (unsigned int)mem, args, err);
	if (is_driver(find_device(monitor, path), "virtio-balloon-pci") &&
	    strcmp(property, "guest-stats-polling-interval") == 0)
		return set_interval(monitor, args, err);
	return qmp_error_set(err, QMP_GENERIC_ERROR,
			     "there is no property '%.100s' to be set at '%.200s'", property, path);
}
