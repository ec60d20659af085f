/* SPDX-License-Identifier: MIT */
/*
 * Who answers a port or MMIO access. One bus for ports (16-bit addresses), one for MMIO.
 *
 * bus_dispatch() is called by vCPU threads, concurrently. Regions may be added, moved and removed
 * while they run (a guest moves PCI BARs); after bus_remove() returns no handler of that region is
 * running, except when called from inside a handler. Handlers are called without the bus's lock
 * held for writing and may access other devices. An access that nobody claims reads all ones and is
 * dropped on write, as on real hardware.
 */
#ifndef FRAMEVISOR_BUS_H
#define FRAMEVISOR_BUS_H

#include <stdbool.h>
#include <stdint.h>

struct bus;

/* offset is relative to the region; size is 1, 2, 4 or 8 and the access lies wholly in the region.
 */
struct bus_ops {
	uint64_t (*read)(void *opaque, uint64_t offset, unsigned int size);
	void (*write)(void *opaque, uint64_t offset, uint64_t value, unsigned int size);
};

/* Owned by the caller and must outlive its time on the bus. */
struct bus_region {
	uint64_t base;
	uint64_t size;
	const char *name;
	const struct bus_ops *ops;
	void *opaque;
};

struct bus *bus_create(void);
void bus_destroy(struct bus *bus);

/* Returns 0, -EINVAL (empty or wrapping), -EEXIST (overlaps another region) or -ENOMEM. */
int bus_add(struct bus *bus, struct bus_region *region);
void bus_remove(struct bus *bus, struct bus_region *region);

/* One access. data holds size bytes, little endian. Returns false if nobody claimed the address
 * (data is then all ones for a read). */
bool bus_dispatch(struct bus *bus, uint64_t addr, void *data, unsigned int size, bool is_write);

#endif
