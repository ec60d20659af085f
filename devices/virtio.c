/* SPDX-License-Identifier: MIT */
/*
 * What all virtio devices share: status, features, queues and their doorbells, pause and reset.
 * See framevisor/virtio.h (device models) and virtio_transport.h (transports).
 */
#include "framevisor/virtio.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "devices/virtio_transport.h"
#include "framevisor/log.h"

#define VERSION_1 (UINT64_C(1) << VIRTIO_F_VERSION_1)

#define S_ACK      VIRTIO_CONFIG_S_ACKNOWLEDGE
#define S_DRIVER   VIRTIO_CONFIG_S_DRIVER
#define S_FEATURES VIRTIO_CONFIG_S_FEATURES_OK
#define S_OK       VIRTIO_CONFIG_S_DRIVER_OK
#define S_RESET    VIRTIO_CONFIG_S_NEEDS_RESET
#define S_FAILED   VIRTIO_CONFIG_S_FAILED

/* ---- State ---- */

bool virtio_has_feature(const struct virtio_device *vdev, unsigned int bit)
{
	return (vdev->status & S_FEATURES) && (vdev->accepted >> bit & 1);
}

bool virtio_driver_ready(const struct virtio_device *vdev)
{
	return (vdev->status & (S_OK | S_FAILED)) == S_OK;
}

bool virtio_running(const struct virtio_device *vdev)
{
	return virtio_driver_ready(vdev) && !(vdev->status & S_RESET) && !vdev->paused;
}

struct virtqueue *virtio_queue(struct virtio_device *vdev, unsigned int queue)
{
	struct virtqueue *vq;

	if (queue >= vdev->type->nr_queues)
		return NULL;
	vq = &vdev->queues[queue].vq;
	return vq->enabled ? vq : NULL;
}

void virtio_broken(struct virtio_device *vdev, const char *reason)
{
	if (!vdev->complained)
		log_warn("%s: the guest's driver broke the protocol: %s", vdev->type->name, reason);
	vdev->complained = true;
	if (vdev->status & S_RESET)
		return;
	vdev->status |= S_RESET;
	/* virtio 1.2, 2.1.2: the driver is told if it was running. */
	if (vdev->status & S_OK)
		vdev->transport_ops->config_interrupt(vdev->transport);
}

void virtio_config_changed(struct virtio_device *vdev)
{
	vdev->config_generation++;
	if (vdev->status & S_OK)
		vdev->transport_ops->config_interrupt(vdev->transport);
}

static void reset_locked(struct virtio_device *vdev)
{
	vdev->type->reset(vdev);
	for (unsigned int i = 0; i < vdev->type->nr_queues; i++)
		virtqueue_init(&vdev->queues[i].vq, vdev->host->mem, vdev->type->queue_size);
	vdev->status = 0;
	vdev->accepted = 0;
	if (vdev->transport_ops)
		vdev->transport_ops->reset(vdev->transport);
}

/* ---- Features and status ---- */

uint32_t virtio_get_features(const struct virtio_device *vdev, uint32_t select)
{
	return select < 2 ? (uint32_t)(vdev->offered >> (32 * select)) : 0;
}

uint32_t virtio_get_accepted(const struct virtio_device *vdev, uint32_t select)
{
	return select < 2 ? (uint32_t)(vdev->accepted >> (32 * select)) : 0;
}

void virtio_set_accepted(struct virtio_device *vdev, uint32_t select, uint32_t value)
{
	if (select >= 2 || (vdev->status & (S_DRIVER | S_FEATURES)) != S_DRIVER)
		return;
	vdev->accepted &= ~((uint64_t)UINT32_MAX << (32 * select));
	vdev->accepted |= (uint64_t)value << (32 * select);
}

static bool choice_valid(const struct virtio_device *vdev)
{
	uint64_t required = (vdev->type->required | VERSION_1) & vdev->offered;

	return !(vdev->accepted & ~vdev->offered) && !(required & ~vdev->accepted);
}

/* Whether each bit comes after the ones that it needs (virtio 1.2, 3.1.1). */
static bool status_in_order(uint8_t status)
{
	if ((status & S_DRIVER) && !(status & S_ACK))
		return false;
	if ((status & S_FEATURES) && !(status & S_DRIVER))
		return false;
	return !(status & S_OK) || (status & S_FEATURES);
}

void virtio_set_status(struct virtio_device *vdev, uint8_t status)
{
	uint8_t added;

	if (!status) {
		reset_locked(vdev);
		return;
	}
	status &= S_ACK | S_DRIVER | S_FEATURES | S_OK | S_FAILED;
	status |= vdev->status & S_RESET; /* this bit is the device's */
	added = status & (uint8_t)~vdev->status;
	if ((vdev->status & (uint8_t)~status) || !status_in_order(status))
		return; /* only a reset takes bits away */
	if (added & S_FEATURES) {
		/* A choice that cannot be served is refused by not taking the bit over. DRIVER_OK
		 * in the same write is then out of order too. */
		if (!choice_valid(vdev)) {
			status &= (uint8_t) ~(S_FEATURES | S_OK);
			added = 0;
		}
	}
	vdev->status = status;
	if ((added & S_FEATURES) && vdev->type->features_ok)
		vdev->type->features_ok(vdev);
	if (added & S_OK) {
		for (unsigned int i = 0; i < vdev->type->nr_queues; i++)
			virtio_kick_queue(vdev, i); /* for chains that were there before */
	}
}

/* ---- Queues ---- */

struct virtqueue *virtio_queue_setup(struct virtio_device *vdev, unsigned int queue)
{
	struct virtqueue *vq;

	if (queue >= vdev->type->nr_queues)
		return NULL;
	if ((vdev->status & (S_FEATURES | S_OK | S_RESET)) != S_FEATURES)
		return NULL;
	vq = &vdev->queues[queue].vq;
	return vq->enabled ? NULL : vq;
}

void virtio_enable_queue(struct virtio_device *vdev, unsigned int queue)
{
	struct virtqueue *vq = virtio_queue_setup(vdev, queue);

	if (vq && virtqueue_enable(vq) < 0)
		virtio_broken(vdev, vq->error);
}

void virtio_kick_queue(struct virtio_device *vdev, unsigned int queue)
{
	uint64_t one = 1;

	if (queue >= vdev->type->nr_queues)
		return;
	if (write(vdev->queues[queue].fd, &one, sizeof(one)) < 0)
		return; /* EAGAIN: it rings already */
}

void virtio_finish_queue(struct virtio_device *vdev, unsigned int queue)
{
	struct virtqueue *vq = virtio_queue(vdev, queue);

	if (!vq)
		return;
	if (virtqueue_take_notify(vq))
		vdev->transport_ops->queue_interrupt(vdev->transport, queue);
	if (vq->error)
		virtio_broken(vdev, vq->error);
}

static void on_doorbell(void *opaque, uint32_t events)
{
	struct virtio_queue *queue = opaque;
	struct virtio_device *vdev = queue->vdev;
	uint64_t count;

	(void)events;
	if (read(queue->fd, &count, sizeof(count)) < 0)
		return;
	pthread_mutex_lock(&vdev->lock);
	/* A doorbell that rings too early or while paused is forgotten: DRIVER_OK and resume ring
	 * all of them. */
	if (virtio_running(vdev) && queue->vq.enabled)
		vdev->type->queue_notify(vdev, (unsigned int)(queue - vdev->queues));
	pthread_mutex_unlock(&vdev->lock);
}

bool virtio_notified_here(const struct virtio_device *vdev)
{
	return vdev->type->driver_waits && vdev->host->ops->queue_work_begin;
}

/* Returns false if that is not possible, or of no use, now. */
static bool serve_here(struct virtio_device *vdev, unsigned int queue)
{
	const struct device_host *host = vdev->host;
	bool served = false;

	/* Who holds the lock may be at it for long: the vCPU has better things to do. */
	if (pthread_mutex_trylock(&vdev->lock))
		return false;
	if (virtio_running(vdev) && virtio_queue(vdev, queue) &&
	    vdev->type->driver_waits(vdev, queue) && host->ops->queue_work_begin(host->machine)) {
		vdev->type->queue_notify(vdev, queue);
		host->ops->queue_work_end(host->machine);
		served = true;
	}
	pthread_mutex_unlock(&vdev->lock);
	return served;
}

void virtio_notify(struct virtio_device *vdev, unsigned int queue)
{
	if (!virtio_notified_here(vdev) || !serve_here(vdev, queue))
		virtio_kick_queue(vdev, queue);
}

/* ---- Configuration space ---- */

static unsigned int config_len(const struct virtio_device *vdev, uint64_t offset, unsigned int len)
{
	if (offset >= vdev->type->config_size)
		return 0;
	if (len > vdev->type->config_size - offset)
		len = vdev->type->config_size - (unsigned int)offset;
	return len;
}

void virtio_read_config(struct virtio_device *vdev, uint64_t offset, void *dst, unsigned int len)
{
	unsigned int valid = config_len(vdev, offset, len);

	memset(dst, 0, len);
	if (valid)
		vdev->type->read_config(vdev, (unsigned int)offset, dst, valid);
}

void virtio_write_config(struct virtio_device *vdev, uint64_t offset, const void *src,
			 unsigned int len)
{
	unsigned int valid = config_len(vdev, offset, len);

	if (valid)
		vdev->type->write_config(vdev, (unsigned int)offset, src, valid);
}

/* ---- Life ---- */

int virtio_device_init(struct virtio_device *vdev, const struct virtio_device_type *type,
		       struct device_host *host, struct error *err)
{
	int ret;

	memset(vdev, 0, sizeof(*vdev));
	vdev->type = type;
	vdev->host = host;
	vdev->offered = type->features | VERSION_1;
	pthread_mutex_init(&vdev->lock, NULL);
	for (unsigned int i = 0; i < VIRTIO_QUEUES_MAX; i++)
		vdev->queues[i].fd = -1;
	for (unsigned int i = 0; i < type->nr_queues; i++) {
		struct virtio_queue *queue = &vdev->queues[i];

		queue->vdev = vdev;
		virtqueue_init(&queue->vq, host->mem, type->queue_size);
		queue->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (queue->fd >= 0)
			queue->source =
				event_loop_add(host->loop, queue->fd, EPOLLIN, on_doorbell, queue);
		if (!queue->source) {
			ret = error_set_errno(err, errno,
					      "%s: cannot create an eventfd for queue %u",
					      type->name, i);
			virtio_device_fini(vdev);
			return ret;
		}
	}
	return 0;
}

void virtio_device_fini(struct virtio_device *vdev)
{
	/* First the transport: it takes the doorbells away from the machine. */
	if (vdev->transport_ops)
		vdev->transport_ops->destroy(vdev->transport);
	vdev->transport_ops = NULL;
	for (unsigned int i = 0; i < vdev->type->nr_queues; i++) {
		event_source_remove(vdev->queues[i].source);
		if (vdev->queues[i].fd >= 0)
			close(vdev->queues[i].fd);
	}
	pthread_mutex_destroy(&vdev->lock);
}

void virtio_device_reset(struct virtio_device *vdev)
{
	pthread_mutex_lock(&vdev->lock);
	vdev->complained = false;
	reset_locked(vdev);
	pthread_mutex_unlock(&vdev->lock);
}

void virtio_device_pause(struct virtio_device *vdev)
{
	pthread_mutex_lock(&vdev->lock);
	vdev->paused = true;
	pthread_mutex_unlock(&vdev->lock);
}

void virtio_device_resume(struct virtio_device *vdev)
{
	pthread_mutex_lock(&vdev->lock);
	vdev->paused = false;
	pthread_mutex_unlock(&vdev->lock);
	for (unsigned int i = 0; i < vdev->type->nr_queues; i++)
		virtio_kick_queue(vdev, i);
}
