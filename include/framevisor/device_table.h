/* SPDX-License-Identifier: MIT */
/*
 * The one list of devices: what there is, what it is for, and how a machine creates it at the
 * addresses of layout.h. A new device is one more entry in devices/table.c.
 */
#ifndef FRAMEVISOR_DEVICE_TABLE_H
#define FRAMEVISOR_DEVICE_TABLE_H

#include "framevisor/error.h"
#include "framevisor/platform.h"
#include "framevisor/virtio_balloon.h"
#include "framevisor/virtio_mem.h"

#define DEVICE_SET_MEM_MAX 16 /* memory devices: one per guest node */

/* The devices of one machine. The caller fills the upper part; the rest starts zeroed. */
struct device_set {
	struct device_host *host;
	serial_output_fn serial_output; /* called with opaque, as the two below */
	serial_room_fn serial_room;
	virtio_balloon_changed_fn balloon_changed;
	void *opaque;
	uint64_t balloon_without; /* features of the balloon that are not offered, as bits */
	const struct virtio_mem_options *mem_options; /* nr_mem_options of them */
	unsigned int nr_mem_options;
	bool rng; /* there is to be a virtio-rng */

	struct serial *serial;
	struct power *power;
	struct pci_bus *pci;
	struct virtio_balloon *balloon;
	unsigned int nr_mem;
	struct virtio_mem *mem[DEVICE_SET_MEM_MAX];
	struct device *last; /* linked backwards by device->next, so that destroying is safe */
};

struct device_entry {
	const char *name;
	const char *help; /* one line */
	/* Creates it into the set. Entries before it exist already. Returns NULL with err set. */
	struct device *(*create)(struct device_set *set, struct error *err);
	/* How many of it there are to be. NULL: one. */
	unsigned int (*count)(const struct device_set *set);
};

extern const struct device_entry device_table[];
extern const unsigned int device_table_size;

/* Creates all devices of the table, in its order. On failure nothing is left. */
int device_set_create(struct device_set *set, struct error *err);
/* Destroys them, the last one first. vCPUs and loop do not run any more. */
void device_set_destroy(struct device_set *set);

#endif
