/* SPDX-License-Identifier: MIT */
/* virtio-rng: see framevisor/virtio_rng.h. */
#include "framevisor/virtio_rng.h"

#include <errno.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <sys/random.h>

#include "framevisor/virtio.h"

#define RNG_QUEUE_SIZE 8
#define RNG_PCI_CLASS  0x00ff00 /* none of the defined ones, as in QEMU */

struct virtio_rng {
	struct device dev; /* first: see from_device() */
	struct virtio_device vdev;
	struct virtq_chain chain;
	uint8_t bytes[VIRTIO_RNG_BYTES_MAX];
};

static struct virtio_rng *from_vdev(struct virtio_device *vdev)
{
	return (struct virtio_rng *)((char *)vdev - offsetof(struct virtio_rng, vdev));
}

static struct virtio_rng *from_device(struct device *dev)
{
	return (struct virtio_rng *)dev;
}

/* Returns how many bytes of rng->bytes are random: fewer than wanted when a signal came between. */
static size_t draw(struct virtio_rng *rng, uint64_t wanted)
{
	size_t len = wanted < sizeof(rng->bytes) ? (size_t)wanted : sizeof(rng->bytes);
	ssize_t n;

	do
		n = getrandom(rng->bytes, len, 0);
	while (n < 0 && errno == EINTR);
	return n < 0 ? 0 : (size_t)n;
}

static int fill_chain(struct virtio_rng *rng, struct virtqueue *vq)
{
	const struct virtq_chain *chain = &rng->chain;
	size_t len, written;

	if (chain->nr_readable || !chain->writable_len) {
		virtio_broken(&rng->vdev, "a buffer for random numbers that is not to be written");
		return -EINVAL;
	}
	len = draw(rng, chain->writable_len);
	written = virtq_chain_write(rng->dev.host->mem, chain, 0, rng->bytes, len);
	virtqueue_push_used(vq, chain->head, (uint32_t)written);
	return 0;
}

static void rng_notify(struct virtio_device *vdev, unsigned int queue)
{
	struct virtio_rng *rng = from_vdev(vdev);
	struct virtqueue *vq = virtio_queue(vdev, queue);
	unsigned int left = RNG_QUEUE_SIZE;

	if (!vq)
		return;
	while (left && virtqueue_get_chain(vq, &rng->chain) > 0) {
		if (fill_chain(rng, vq) < 0)
			return;
		left--;
	}
	virtio_finish_queue(vdev, queue);
	/* A guest that offers buffers as fast as they are filled is not alone here. */
	if (!left)
		virtio_kick_queue(vdev, queue);
}

/* Nothing is kept from one buffer to the next. */
static void rng_reset(struct virtio_device *vdev)
{
	(void)vdev;
}

static const struct virtio_device_type rng_type = {
	.name = "virtio-rng",
	.id = VIRTIO_ID_RNG,
	.pci_class = RNG_PCI_CLASS,
	.nr_queues = 1,
	.queue_size = RNG_QUEUE_SIZE,
	.queue_notify = rng_notify,
	.reset = rng_reset,
};

static void device_reset(struct device *dev)
{
	virtio_device_reset(&from_device(dev)->vdev);
}

static void device_pause(struct device *dev)
{
	virtio_device_pause(&from_device(dev)->vdev);
}

static void device_resume(struct device *dev)
{
	virtio_device_resume(&from_device(dev)->vdev);
}

static void device_destroy(struct device *dev)
{
	virtio_device_fini(&from_device(dev)->vdev);
	free(from_device(dev));
}

static const struct device_ops rng_ops = { .reset = device_reset,
					   .pause = device_pause,
					   .resume = device_resume,
					   .destroy = device_destroy };

struct device *virtio_rng_create(struct device_host *host, struct pci_bus *bus, struct error *err)
{
	struct virtio_rng *rng = calloc(1, sizeof(*rng));

	if (!rng) {
		error_set(err, ENOMEM, "virtio-rng: out of memory");
		return NULL;
	}
	rng->dev = (struct device){ .name = rng_type.name, .ops = &rng_ops, .host = host };
	/* Waits for the seed here, where nobody else waits. */
	if (draw(rng, 1) != 1) {
		error_set_errno(err, errno, "virtio-rng: the host gives no random numbers");
		free(rng);
		return NULL;
	}
	if (virtio_device_init(&rng->vdev, &rng_type, host, err) < 0) {
		free(rng);
		return NULL;
	}
	if (virtio_pci_attach(&rng->vdev, bus, err) < 0) {
		device_destroy(&rng->dev);
		return NULL;
	}
	return &rng->dev;
}
