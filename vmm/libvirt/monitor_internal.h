/* SPDX-License-Identifier: MIT */
/* What the files of the monitor for libvirt share. */
#ifndef VMM_LIBVIRT_MONITOR_INTERNAL_H
#define VMM_LIBVIRT_MONITOR_INTERNAL_H

#include "framevisor/qmp_server.h"
#include "vmm/libvirt/monitor.h"

struct libvirt_monitor {
	struct libvirt_monitor_config config;
	struct qmp_server *server;

	/* What there is now under /machine/peripheral, and memory objects without a device. */
	struct libvirt_device devices[LIBVIRT_DEVICES_MAX];
	unsigned int nr_devices;
	struct libvirt_backend backends[LIBVIRT_BACKENDS_MAX];
	unsigned int nr_backends;

	/* Memory devices by index: what was told last, and which are on their way out. */
	uint64_t told[VM_MEM_DEVICES_MAX];
	bool leaving[VM_MEM_DEVICES_MAX];
	struct event_timer *mem_timer;
	bool mem_wait; /* the timer runs: a change is told when it fires */
	bool sum_due;  /* then an event of the balloon, too */
};

/* monitor_qom.c */
int monitor_cmd_qom_list(void *opaque, json_t *args, json_t **reply, struct qmp_error *err);
int monitor_cmd_qom_get(void *opaque, json_t *args, json_t **reply, struct qmp_error *err);
int monitor_cmd_qom_set(void *opaque, json_t *args, json_t **reply, struct qmp_error *err);

/* monitor_hotplug.c */
int monitor_cmd_object_add(void *opaque, json_t *args, json_t **reply, struct qmp_error *err);
int monitor_cmd_object_del(void *opaque, json_t *args, json_t **reply, struct qmp_error *err);
int monitor_cmd_device_add(void *opaque, json_t *args, json_t **reply, struct qmp_error *err);
int monitor_cmd_device_del(void *opaque, json_t *args, json_t **reply, struct qmp_error *err);
/* Tells the sizes that have changed, and lets go what has become empty. */
void monitor_mem_changed(struct libvirt_monitor *monitor);
/* Does the same some time later. */
void monitor_arm_timer(struct libvirt_monitor *monitor);

#endif
