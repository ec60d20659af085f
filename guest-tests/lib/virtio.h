/* SPDX-License-Identifier: MIT */
/*
 * The smallest virtio driver that can tell a good device from a bad one: modern PCI transport
 * through ports 0xCF8/0xCFC, split queues, polled (virtio 1.2, 2.7 and 4.1).
 */
#ifndef GUEST_VIRTIO_H
#define GUEST_VIRTIO_H

#include <linux/virtio_balloon.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>

#include "guest.h"

#define VQ_SIZE 16 /* descriptors that the driver uses, at most what the device offers */

struct vq {
	unsigned int index;
	uint16_t size;
	uint16_t next_desc;
	uint16_t last_used;
	volatile uint16_t *notify;
	struct vring_desc desc[VQ_SIZE] __attribute__((aligned(16)));
	struct {
		uint16_t flags;
		volatile uint16_t idx;
		uint16_t ring[VQ_SIZE];
		uint16_t used_event;
	} avail __attribute__((aligned(4)));
	struct {
		uint16_t flags;
		volatile uint16_t idx;
		struct vring_used_elem ring[VQ_SIZE];
		uint16_t avail_event;
	} used __attribute__((aligned(4)));
};

struct virtio_pci {
	volatile struct virtio_pci_common_cfg *common;
	volatile uint8_t *device;
	volatile uint8_t *notify;
	uint32_t notify_multiplier;
};

/* Finds the function with this virtio device ID and maps its structures, or fails the test. */
void virtio_find(struct virtio_pci *dev, unsigned int virtio_id);
/* The same, but false where there is no such device. */
bool virtio_probe(struct virtio_pci *dev, unsigned int virtio_id);
/* Resets and waits until the device says 0. */
void virtio_reset(struct virtio_pci *dev);
/* Acknowledge, negotiate exactly these features (all must be offered), FEATURES_OK. */
void virtio_negotiate(struct virtio_pci *dev, uint64_t features);
/* The same, but whether the device keeps FEATURES_OK. */
bool virtio_accept(struct virtio_pci *dev, uint64_t features);
void virtio_driver_ok(struct virtio_pci *dev);
uint8_t virtio_status(struct virtio_pci *dev);
/* A field of 64 bits of the device's configuration: two reads of one generation (2.5.1). */
uint64_t virtio_config64(struct virtio_pci *dev, unsigned int offset);

/* Empties the queue's memory and enables it at its address. */
void vq_setup(struct virtio_pci *dev, struct vq *vq, unsigned int index);
/* Offers a chain that begins at descriptor head, and tells the device. */
void vq_offer(struct vq *vq, uint16_t head);
void vq_notify(struct vq *vq);
/* One readable buffer in a chain of its own; waits until the device used it or fails the test. */
void vq_send(struct vq *vq, const void *buf, uint32_t len);
/* Whether the device used one more chain; waits at most PATIENCE or until it wants a reset. */
bool vq_wait(struct virtio_pci *dev, struct vq *vq);

#endif
