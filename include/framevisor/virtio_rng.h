/* SPDX-License-Identifier: MIT */
/*
 * virtio-rng (virtio 1.2, section 5.4), device ID 4: the guest offers writable buffers, the device
 * fills them from the host kernel's random number generator (getrandom(2), the same source as
 * /dev/urandom once it is seeded, which is waited for when the device is created).
 *
 * What the device promises and checks:
 *  - Each buffer gets at least one byte and at most VIRTIO_RNG_BYTES_MAX, so that a guest that
 *    offers gigabytes does not keep the loop from others; the specification lets it be less.
 *  - After a queue's worth of buffers others have their turn.
 *  - A buffer with a part to read, or without one to write, breaks the device.
 *
 * Threads: the loop's.
 */
#ifndef FRAMEVISOR_VIRTIO_RNG_H
#define FRAMEVISOR_VIRTIO_RNG_H

#include "framevisor/device.h"
#include "framevisor/error.h"

#define VIRTIO_RNG_BYTES_MAX 4096

struct pci_bus;

/* Returns NULL with err set. */
struct device *virtio_rng_create(struct device_host *host, struct pci_bus *bus, struct error *err);

#endif
