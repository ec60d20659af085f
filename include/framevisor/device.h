/* SPDX-License-Identifier: MIT */
/*
 * What a device model may ask of the machine it sits in, and what the machine asks of it.
 *
 * Devices know neither KVM nor the pool: interrupts, doorbells and power requests go through
 * struct device_host, which vmm/ implements over KVM and unit tests over plain memory and eventfds.
 *
 * Threads: bus handlers run in vCPU threads, timers in the loop's thread, and queue work too,
 * except where a driver waits for it (struct virtio_device_type, driver_waits). Each device has one
 * mutex of its own over its state; no device calls another one with it held.
 */
#ifndef FRAMEVISOR_DEVICE_H
#define FRAMEVISOR_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "framevisor/bus.h"
#include "framevisor/event_loop.h"
#include "framevisor/guest_memory.h"

/* One message-signalled interrupt: the machine binds an eventfd to a KVM route (irqfd). */
struct msi_vector;

/* A guest write that becomes an eventfd count without leaving the kernel (KVM_IOEVENTFD). */
struct doorbell {
	uint64_t addr;    /* guest physical address, MMIO */
	unsigned int len; /* 0 (any length), 1, 2, 4 or 8 */
	bool match;       /* only when the value written equals datamatch */
	uint64_t datamatch;
	int fd; /* eventfd, stays the device's */
};

enum power_request {
	POWER_REQUEST_OFF,   /* the guest asked to be switched off (ACPI S5) */
	POWER_REQUEST_RESET, /* the guest asked for a reset (reset register, 0xFE to port 0x64) */
};

struct device_host_ops {
	/* Sets the level of an ISA interrupt line / IOAPIC pin. Any thread. */
	void (*irq_line)(void *machine, unsigned int gsi, bool level);

	/* Creates an MSI vector without a message yet. Returns NULL with errno set. */
	struct msi_vector *(*msi_create)(void *machine);
	/* Sets address and data as the guest wrote them. Returns 0 or a negative errno. */
	int (*msi_set)(void *machine, struct msi_vector *vector, uint64_t addr, uint32_t data);
	/* Delivers it once. Any thread. A vector without a message does nothing. */
	void (*msi_raise)(void *machine, struct msi_vector *vector);
	void (*msi_destroy)(void *machine, struct msi_vector *vector);

	/* Adds or removes a doorbell. Returns 0 or a negative errno. Not from the loop only: a vCPU
	 * thread calls it when the guest moves a BAR. */
	int (*doorbell)(void *machine, const struct doorbell *bell, bool assign);

	/* Asks for power off or reset; returns at once, the machine acts in the loop's thread. */
	void (*power)(void *machine, enum power_request request);

	/*
	 * Around queue work in the thread of a vCPU: in between the thread's touches of guest
	 * memory count like those of the loop's thread. Begin returns false when that cannot be
	 * now, because another vCPU is at it. Neither blocks. NULL: only the loop does queue work.
	 */
	bool (*queue_work_begin)(void *machine);
	void (*queue_work_end)(void *machine);
};

/* Filled by the machine before devices are created; constant afterwards. */
struct device_host {
	struct guest_memory *mem;
	struct event_loop *loop;
	struct bus *pio;
	struct bus *mmio;
	const struct device_host_ops *ops;
	void *machine;
};

struct device;

struct device_ops {
	/* Back to the state after power on. All vCPUs are stopped. Loop's thread. */
	void (*reset)(struct device *dev);
	/* Stop and go of the VM: no queue is touched and no guest memory written in between.
	 * Optional. */
	void (*pause)(struct device *dev);
	void (*resume)(struct device *dev);
	void (*destroy)(struct device *dev);
};

/* Embedded in each device's own struct. */
struct device {
	const char *name;
	const struct device_ops *ops;
	struct device_host *host;
	struct device *next; /* the machine's list, in order of creation */
};

#endif
