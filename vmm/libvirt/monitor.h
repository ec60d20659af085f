/* SPDX-License-Identifier: MIT */
/*
 * The QMP that libvirt speaks with a VM. All commands of the VM's own QMP are there, and beside
 * them what libvirt needs of QEMU's object model (qom-*, device_add, object-add, query-chardev).
 *
 * Sizes differ: here, as in QEMU, "balloon" and "query-balloon" are about the boot memory alone,
 * and each memory device is asked for by its own requested-size; libvirt adds them up. The VM's own
 * QMP has one number for all.
 *
 * Threads: the loop's.
 */
#ifndef VMM_LIBVIRT_MONITOR_H
#define VMM_LIBVIRT_MONITOR_H

#include "framevisor/error.h"
#include "framevisor/event_loop.h"
#include "vmm/libvirt/args.h"

struct vm_control;
struct libvirt_monitor;

struct libvirt_monitor_config {
	struct event_loop *loop;
	struct vm *vm;
	struct vm_control *control;
	const struct libvirt_request *request; /* stays the caller's, outlives the monitor */
	const char *serial; /* what query-chardev says of the serial port: "pty:/dev/pts/3" */
};

/* Takes the events of the VM through its control. */
struct libvirt_monitor *libvirt_monitor_create(const struct libvirt_monitor_config *config,
					       struct error *err);
/* A listening socket, which becomes the monitor's. */
int libvirt_monitor_listen(struct libvirt_monitor *monitor, int fd, struct error *err);
void libvirt_monitor_destroy(struct libvirt_monitor *monitor);

#endif
