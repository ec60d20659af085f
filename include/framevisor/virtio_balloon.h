/* SPDX-License-Identifier: MIT */
/*
 * virtio-balloon (virtio 1.2, section 5.5), device ID 5, with a persistent map of 512 bits per
 * frame: a guest page that is inflated sets its bit, a deflated one clears it, and a frame whose
 * map is full goes back to the pool. MUST_TELL_HOST is offered, and a frame is backed again before
 * the deflate that touches it is acknowledged.
 */
#ifndef FRAMEVISOR_VIRTIO_BALLOON_H
#define FRAMEVISOR_VIRTIO_BALLOON_H

#include <stdbool.h>
#include <stdint.h>

#include "framevisor/device.h"
#include "framevisor/error.h"

struct pci_bus;
struct virtio_balloon;

/* Called in the loop's thread after the guest wrote a new "actual". */
typedef void (*virtio_balloon_changed_fn)(void *opaque);

struct virtio_balloon *virtio_balloon_create(struct device_host *host, struct pci_bus *bus,
					     virtio_balloon_changed_fn changed, void *opaque,
					     struct error *err);
struct device *virtio_balloon_device(struct virtio_balloon *balloon);

/* Asks the guest to hold bytes (rounded down to guest pages) in the balloon. Loop's thread. */
int virtio_balloon_set_target(struct virtio_balloon *balloon, uint64_t bytes, struct error *err);

struct virtio_balloon_stats {
	bool driver_ready;        /* DRIVER_OK was seen */
	bool broken;              /* DEVICE_NEEDS_RESET */
	uint64_t target;          /* bytes asked to be in the balloon */
	uint64_t actual;          /* bytes the guest says are in it (config field "actual") */
	uint64_t inflated;        /* bytes whose bit is set in the maps */
	uint64_t frames_released; /* frames given back now (map full, not backed again) */
	uint64_t frames_partial;  /* frames with some bits set, but not all */
	uint64_t release_errors;
};
void virtio_balloon_stats(struct virtio_balloon *balloon, struct virtio_balloon_stats *stats);

#endif
