/* SPDX-License-Identifier: MIT */
/*
 * The registers every virtio transport has in some shape, as calls of the core, with the device's
 * lock held unless they say otherwise. What a driver may not do at that moment is ignored, as the
 * specification leaves it undefined.
 */
#ifndef DEVICES_VIRTIO_TRANSPORT_H
#define DEVICES_VIRTIO_TRANSPORT_H

#include "framevisor/virtio.h"

/* Offered features, 32 bits at a time (select 0 or 1; others read 0). */
uint32_t virtio_get_features(const struct virtio_device *vdev, uint32_t select);
/* What the driver accepted so far, and its choice for 32 bits: only between DRIVER and FEATURES_OK.
 */
uint32_t virtio_get_accepted(const struct virtio_device *vdev, uint32_t select);
void virtio_set_accepted(struct virtio_device *vdev, uint32_t select, uint32_t value);

/* Device status: 0 resets, anything else may only add bits, in the order of virtio 1.2, 3.1.1. */
void virtio_set_status(struct virtio_device *vdev, uint8_t status);

/* Queue registers may be written between FEATURES_OK and DRIVER_OK, while the queue is disabled.
 * Returns the queue then, else NULL. */
struct virtqueue *virtio_queue_setup(struct virtio_device *vdev, unsigned int queue);
/* Enables it; a queue that is set up wrongly breaks the device. */
void virtio_enable_queue(struct virtio_device *vdev, unsigned int queue);

/* Whether notifications are to reach virtio_notify() instead of ringing a doorbell. Constant. Lock
 * not needed. */
bool virtio_notified_here(const struct virtio_device *vdev);
/* The driver notified, in the calling vCPU thread: serves the queue, or makes the loop do it. Lock
 * not held. */
void virtio_notify(struct virtio_device *vdev, unsigned int queue);

/* Configuration space, checked against config_size: bytes beyond read 0 and are not written. */
void virtio_read_config(struct virtio_device *vdev, uint64_t offset, void *dst, unsigned int len);
void virtio_write_config(struct virtio_device *vdev, uint64_t offset, const void *src,
			 unsigned int len);

#endif
