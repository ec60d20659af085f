/* SPDX-License-Identifier: MIT */
/*
 * virtio (version 1.2) as a device model sees it: split virtqueues and the device's common state.
 *
 * A device is one constant struct virtio_device_type and a struct virtio_device inside its own. The
 * core (devices/virtio.c) keeps status, features and queues in order; a transport (virtio_pci.c)
 * turns register accesses into calls of the core. A device model deals with neither: it gets
 * queue_notify() and answers with
 *
 *	while (virtqueue_get_chain(vq, &chain) > 0) {
 *		... virtq_chain_read(), virtq_chain_write() ...
 *		virtqueue_push_used(vq, chain.head, written);
 *	}
 *	virtio_finish_queue(vdev, queue);
 *
 * Everything the driver wrote is taken as hostile: see each function for what is checked. A driver
 * that breaks the rules gets DEVICE_NEEDS_RESET (virtio 1.2, 2.1.2) and no service until it resets
 * the device.
 *
 * Threads and locks: one mutex per device, held by the core around every call of the type's
 * functions and by the transport around register accesses. queue_notify() runs in the loop's
 * thread unless the driver waits for it, everything else in vCPU threads as well.
 *
 * Left out on purpose: indirect descriptors and EVENT_IDX are not offered. A chain is bounded by
 * the queue's size already, and no device here is bound by its number of notifications.
 */
#ifndef FRAMEVISOR_VIRTIO_H
#define FRAMEVISOR_VIRTIO_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "framevisor/device.h"
#include "framevisor/error.h"

#define VIRTIO_QUEUES_MAX 8
#define VIRTQ_SIZE_MAX    256

/* ---- Split virtqueues (virtio 1.2, 2.7) ---- */

struct virtqueue {
	const struct guest_memory *mem;
	uint16_t size_max;
	uint16_t size; /* as the driver chose it; a power of two, at most size_max */
	bool enabled;
	uint64_t desc; /* guest addresses of the three parts */
	uint64_t avail;
	uint64_t used;
	uint16_t last_avail; /* next entry of the available ring to look at */
	uint16_t used_idx;   /* next entry of the used ring to fill */
	bool notify;         /* something was pushed since the last virtqueue_take_notify() */
	const char *error;   /* why the queue is broken; NULL while it is not */
};

struct virtq_buffer {
	uint64_t addr;
	uint32_t len;
};

/* A snapshot of one descriptor chain: nothing in it changes when the driver rewrites its table.
 * Buffers that the device may only read come first. */
struct virtq_chain {
	uint16_t head;
	uint16_t nr_readable;
	uint16_t nr_writable;
	uint64_t readable_len;
	uint64_t writable_len;
	struct virtq_buffer buffers[VIRTQ_SIZE_MAX];
};

/* Back to the state after reset. */
void virtqueue_init(struct virtqueue *vq, const struct guest_memory *mem, uint16_t size_max);

/* Checks size, alignment and that the three parts are RAM, then enables. Returns 0 or -EINVAL with
 * vq->error set. */
int virtqueue_enable(struct virtqueue *vq);

/* Whether get_chain would return a chain, or find the queue broken. */
bool virtqueue_has_chains(struct virtqueue *vq);

/* How many chains there are to take now; 0 as well for a broken queue. */
uint16_t virtqueue_nr_chains(struct virtqueue *vq);

/*
 * Takes the next available chain. Each descriptor is read once. Returns 1, 0 when there is none, or
 * -EINVAL with vq->error set: available index ahead by more than the queue's size, head or next out
 * of range, more descriptors than the queue has (a cycle), indirect descriptor, readable after
 * writable, empty buffer, buffer not wholly inside one region of RAM, 4 GiB or more in total. Only
 * chains that passed are handed out.
 */
int virtqueue_get_chain(struct virtqueue *vq, struct virtq_chain *chain);

/* Gives a chain back with the number of bytes written to it. The entry is visible to the driver
 * before the index that covers it (release). */
void virtqueue_push_used(struct virtqueue *vq, uint16_t head, uint32_t written);

/* Whether the driver wants an interrupt for what was pushed since the last call. */
bool virtqueue_take_notify(struct virtqueue *vq);

/*
 * Copy from the readable, or to the writable part of a chain, from byte offset on. Return the
 * number of bytes copied: less than len only at the end of that part, or when memory went away.
 */
size_t virtq_chain_read(const struct guest_memory *mem, const struct virtq_chain *chain,
			uint64_t offset, void *dst, size_t len);
size_t virtq_chain_write(const struct guest_memory *mem, const struct virtq_chain *chain,
			 uint64_t offset, const void *src, size_t len);

/* ---- Devices ---- */

struct pci_bus;
struct virtio_device;

struct virtio_device_type {
	const char *name;
	uint16_t id; /* VIRTIO_ID_* */
	uint32_t pci_class;
	uint16_t nr_queues;
	uint16_t queue_size;  /* the largest offered; a power of two, at most VIRTQ_SIZE_MAX */
	uint16_t config_size; /* bytes of the device configuration space */
	uint64_t features;    /* the device's own; the core adds VIRTIO_F_VERSION_1 */
	/* Features without which it does not work: FEATURES_OK is refused if one is offered and not
	 * accepted. */
	uint64_t required;

	/* Configuration space; offset + len is at most config_size. */
	void (*read_config)(struct virtio_device *vdev, unsigned int offset, void *dst,
			    unsigned int len);
	void (*write_config)(struct virtio_device *vdev, unsigned int offset, const void *src,
			     unsigned int len);
	/* The driver set FEATURES_OK and its choice is valid. Optional. */
	void (*features_ok)(struct virtio_device *vdev);
	/* The driver has put chains into an enabled queue: DRIVER_OK, not paused, not broken.
	 * May be called without any new chain. Loop's thread, or that of a vCPU: */
	void (*queue_notify)(struct virtio_device *vdev, unsigned int queue);
	/*
	 * Whether the driver does nothing else until it has back what it put into this queue. Then
	 * the queue is served in the thread of the vCPU that notifies: before the guest goes on, so
	 * that it finds the answer there and need not go to sleep and be woken by an interrupt.
	 * Such a device has no doorbells. Optional.
	 */
	bool (*driver_waits)(struct virtio_device *vdev, unsigned int queue);
	/* Status 0 was written, or the machine is reset. Queues are initialised afterwards. */
	void (*reset)(struct virtio_device *vdev);
};

/* What the core asks of a transport; the device's lock is held. */
struct virtio_transport_ops {
	void (*queue_interrupt)(void *transport, unsigned int queue);
	void (*config_interrupt)(void *transport);
	void (*reset)(void *transport); /* forget selectors and vectors */
	void (*destroy)(void *transport);
};

/* One queue's doorbell: the transport tells the machine about fd, the loop watches it. */
struct virtio_queue {
	struct virtqueue vq;
	struct virtio_device *vdev;
	int fd;
	struct event_source *source;
};

struct virtio_device {
	const struct virtio_device_type *type;
	struct device_host *host;
	const struct virtio_transport_ops *transport_ops;
	void *transport;
	pthread_mutex_t lock; /* over everything below and the type's own state */
	uint8_t status;
	uint8_t config_generation;
	uint64_t offered;  /* the type's; a model may take some away before it is attached */
	uint64_t accepted; /* as the driver wrote them; valid with FEATURES_OK */
	bool paused;
	bool complained; /* one log line per device about a bad driver */
	struct virtio_queue queues[VIRTIO_QUEUES_MAX];
};

/* Prepares the core's part, without a transport yet. Returns 0 or a negative errno with err set and
 * nothing left. virtio_device_fini() also destroys the transport. Loop's thread. */
int virtio_device_init(struct virtio_device *vdev, const struct virtio_device_type *type,
		       struct device_host *host, struct error *err);
void virtio_device_fini(struct virtio_device *vdev);

/* Puts the device on a PCI bus (virtio 1.2, 4.1; modern only). */
int virtio_pci_attach(struct virtio_device *vdev, struct pci_bus *bus, struct error *err);

/* For struct device_ops: lock not held, loop's thread. */
void virtio_device_reset(struct virtio_device *vdev);
void virtio_device_pause(struct virtio_device *vdev);
void virtio_device_resume(struct virtio_device *vdev);

/* All of the following with the lock held. */

bool virtio_has_feature(const struct virtio_device *vdev, unsigned int bit);
/* DRIVER_OK is set, and the driver has not given the device up since (FAILED). */
bool virtio_driver_ready(const struct virtio_device *vdev);
/* The driver is ready and the device is neither broken nor paused: queues may be touched. */
bool virtio_running(const struct virtio_device *vdev);
/* NULL when the queue is not enabled. */
struct virtqueue *virtio_queue(struct virtio_device *vdev, unsigned int queue);
/* Makes queue_notify() run (again) in the loop's thread. Lock not needed. */
void virtio_kick_queue(struct virtio_device *vdev, unsigned int queue);
/* After a round on a queue: reports a broken queue, or interrupts if the driver wants it. */
void virtio_finish_queue(struct virtio_device *vdev, unsigned int queue);
/* The driver broke the rules: DEVICE_NEEDS_RESET, and a configuration interrupt if it runs. */
void virtio_broken(struct virtio_device *vdev, const char *reason);
/* The device changed its configuration space: generation and interrupt. */
void virtio_config_changed(struct virtio_device *vdev);

#endif
