/* SPDX-License-Identifier: MIT */
/*
 * virtio over PCI (virtio 1.2, 4.1), modern devices only: no I/O BAR, no transitional IDs.
 *
 *	BAR 0 (64 bit)  0x0000 common configuration, 0x1000 ISR status, 0x2000 device configuration,
 *	                0x3000 notifications, 4 bytes per queue
 *	BAR 2 (32 bit)  MSI-X table and pending bits
 *
 * Each structure has a page of its own. Notifications do not come here as a rule: the machine turns
 * writes of 2 bytes (what drivers do) into counts of the queue's eventfd. Any other write to a
 * notification address comes here and rings the same eventfd. Those of a device whose driver waits
 * for it all come here, see virtio_notify().
 */
#include "framevisor/virtio.h"

#include <endian.h>
#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <stdlib.h>
#include <string.h>

#include "devices/virtio_transport.h"
#include "framevisor/log.h"
#include "framevisor/pci.h"

#define VIRTIO_PCI_VENDOR      0x1af4
#define VIRTIO_PCI_DEVICE_BASE 0x1040
#define VIRTIO_PCI_SUBSYSTEM   0x1100 /* at least 0x40: not a transitional device */
#define VIRTIO_PCI_REVISION    1
#define VIRTIO_PCI_BAR         0
#define VIRTIO_PCI_MSIX_BAR    2
#define VIRTIO_PCI_BAR_SIZE    0x4000
#define SECTION_SIZE           0x1000
#define SECTION_COMMON         0
#define SECTION_ISR            1
#define SECTION_DEVICE         2
#define SECTION_NOTIFY         3
#define NOTIFY_MULTIPLIER      4
#define ISR_QUEUE              0x1
#define PCI_CFG_DATA           sizeof(struct virtio_pci_cap) /* in virtio_pci_cfg_cap */

struct virtio_pci {
	struct virtio_device *vdev;
	struct pci_function *fn;
	unsigned int pci_cfg_cap; /* offset of the PCI configuration access capability */

	/* The rest under the device's lock. */
	uint32_t feature_select, accepted_select;
	uint16_t queue_select;
	uint16_t config_vector;
	uint16_t queue_vector[VIRTIO_QUEUES_MAX];
	uint8_t isr;
};

static unsigned int nr_vectors(const struct virtio_device *vdev)
{
	return vdev->type->nr_queues + 1u;
}

/* ---- Common configuration (virtio 1.2, 4.1.4.3) ---- */

/* The width of the field at offset; 0 where none starts. */
static unsigned int common_width(uint64_t offset)
{
	switch (offset) {
	case VIRTIO_PCI_COMMON_STATUS:
	case VIRTIO_PCI_COMMON_CFGGENERATION:
		return 1;
	case VIRTIO_PCI_COMMON_MSIX:
	case VIRTIO_PCI_COMMON_NUMQ:
	case VIRTIO_PCI_COMMON_Q_SELECT:
	case VIRTIO_PCI_COMMON_Q_SIZE:
	case VIRTIO_PCI_COMMON_Q_MSIX:
	case VIRTIO_PCI_COMMON_Q_ENABLE:
	case VIRTIO_PCI_COMMON_Q_NOFF:
		return 2;
	default:
		return offset < sizeof(struct virtio_pci_common_cfg) && offset % 4 == 0 ? 4 : 0;
	}
}

static uint32_t read_queue_field(struct virtio_pci *vp, uint64_t offset)
{
	const struct virtqueue *vq;

	/* A queue that does not exist has size 0. */
	if (vp->queue_select >= vp->vdev->type->nr_queues)
		return 0;
	vq = &vp->vdev->queues[vp->queue_select].vq;
	switch (offset) {
	case VIRTIO_PCI_COMMON_Q_SIZE:
		return vq->size;
	case VIRTIO_PCI_COMMON_Q_MSIX:
		return vp->queue_vector[vp->queue_select];
	case VIRTIO_PCI_COMMON_Q_ENABLE:
		return vq->enabled;
	case VIRTIO_PCI_COMMON_Q_NOFF:
		return vp->queue_select;
	case VIRTIO_PCI_COMMON_Q_DESCLO:
		return (uint32_t)vq->desc;
	case VIRTIO_PCI_COMMON_Q_DESCHI:
		return (uint32_t)(vq->desc >> 32);
	case VIRTIO_PCI_COMMON_Q_AVAILLO:
		return (uint32_t)vq->avail;
	case VIRTIO_PCI_COMMON_Q_AVAILHI:
		return (uint32_t)(vq->avail >> 32);
	case VIRTIO_PCI_COMMON_Q_USEDLO:
		return (uint32_t)vq->used;
	case VIRTIO_PCI_COMMON_Q_USEDHI:
		return (uint32_t)(vq->used >> 32);
	default:
		return 0;
	}
}

static uint32_t read_common(struct virtio_pci *vp, uint64_t offset)
{
	struct virtio_device *vdev = vp->vdev;

	switch (offset) {
	case VIRTIO_PCI_COMMON_DFSELECT:
		return vp->feature_select;
	case VIRTIO_PCI_COMMON_DF:
		return virtio_get_features(vdev, vp->feature_select);
	case VIRTIO_PCI_COMMON_GFSELECT:
		return vp->accepted_select;
	case VIRTIO_PCI_COMMON_GF:
		return virtio_get_accepted(vdev, vp->accepted_select);
	case VIRTIO_PCI_COMMON_MSIX:
		return vp->config_vector;
	case VIRTIO_PCI_COMMON_NUMQ:
		return vdev->type->nr_queues;
	case VIRTIO_PCI_COMMON_STATUS:
		return vdev->status;
	case VIRTIO_PCI_COMMON_CFGGENERATION:
		return vdev->config_generation;
	case VIRTIO_PCI_COMMON_Q_SELECT:
		return vp->queue_select;
	default:
		return read_queue_field(vp, offset);
	}
}

static void set_low(uint64_t *addr, uint32_t value)
{
	*addr = (*addr & ~(uint64_t)UINT32_MAX) | value;
}

static void set_high(uint64_t *addr, uint32_t value)
{
	*addr = (*addr & UINT32_MAX) | (uint64_t)value << 32;
}

static void write_queue_field(struct virtio_pci *vp, uint64_t offset, uint32_t value)
{
	struct virtqueue *vq = virtio_queue_setup(vp->vdev, vp->queue_select);

	if (!vq)
		return;
	switch (offset) {
	case VIRTIO_PCI_COMMON_Q_SIZE:
		vq->size = (uint16_t)value; /* checked when it is enabled */
		break;
	case VIRTIO_PCI_COMMON_Q_ENABLE:
		if (value == 1)
			virtio_enable_queue(vp->vdev, vp->queue_select);
		break;
	case VIRTIO_PCI_COMMON_Q_DESCLO:
		set_low(&vq->desc, value);
		break;
	case VIRTIO_PCI_COMMON_Q_DESCHI:
		set_high(&vq->desc, value);
		break;
	case VIRTIO_PCI_COMMON_Q_AVAILLO:
		set_low(&vq->avail, value);
		break;
	case VIRTIO_PCI_COMMON_Q_AVAILHI:
		set_high(&vq->avail, value);
		break;
	case VIRTIO_PCI_COMMON_Q_USEDLO:
		set_low(&vq->used, value);
		break;
	case VIRTIO_PCI_COMMON_Q_USEDHI:
		set_high(&vq->used, value);
		break;
	default:
		break;
	}
}

/* A vector that does not exist reads back as "none": the driver sees that it did not get it. */
static uint16_t valid_vector(const struct virtio_pci *vp, uint32_t vector)
{
	return vector < nr_vectors(vp->vdev) ? (uint16_t)vector : VIRTIO_MSI_NO_VECTOR;
}

static void write_common(struct virtio_pci *vp, uint64_t offset, uint32_t value)
{
	struct virtio_device *vdev = vp->vdev;

	switch (offset) {
	case VIRTIO_PCI_COMMON_DFSELECT:
		vp->feature_select = value;
		break;
	case VIRTIO_PCI_COMMON_GFSELECT:
		vp->accepted_select = value;
		break;
	case VIRTIO_PCI_COMMON_GF:
		virtio_set_accepted(vdev, vp->accepted_select, value);
		break;
	case VIRTIO_PCI_COMMON_MSIX:
		vp->config_vector = valid_vector(vp, value);
		break;
	case VIRTIO_PCI_COMMON_STATUS:
		virtio_set_status(vdev, (uint8_t)value);
		break;
	case VIRTIO_PCI_COMMON_Q_SELECT:
		vp->queue_select = (uint16_t)value;
		break;
	case VIRTIO_PCI_COMMON_Q_MSIX:
		if (vp->queue_select < vdev->type->nr_queues)
			vp->queue_vector[vp->queue_select] = valid_vector(vp, value);
		break;
	default:
		write_queue_field(vp, offset, value);
		break;
	}
}

/* ---- BAR 0 ---- */

static uint8_t read_isr(struct virtio_pci *vp)
{
	uint8_t isr = vp->isr;

	vp->isr = 0;
	return isr;
}

static uint64_t bar_read(void *opaque, uint64_t offset, unsigned int size)
{
	struct virtio_pci *vp = opaque;
	uint64_t where = offset % SECTION_SIZE;
	uint64_t value = 0;

	pthread_mutex_lock(&vp->vdev->lock);
	switch (offset / SECTION_SIZE) {
	case SECTION_COMMON:
		if (size == common_width(where))
			value = read_common(vp, where);
		break;
	case SECTION_ISR:
		if (!where)
			value = read_isr(vp);
		break;
	case SECTION_DEVICE:
		virtio_read_config(vp->vdev, where, &value, size);
		value = le64toh(value);
		break;
	default:
		break;
	}
	pthread_mutex_unlock(&vp->vdev->lock);
	return value;
}

static void bar_write(void *opaque, uint64_t offset, uint64_t value, unsigned int size)
{
	struct virtio_pci *vp = opaque;
	uint64_t where = offset % SECTION_SIZE;
	uint64_t bytes = htole64(value);

	if (offset / SECTION_SIZE == SECTION_NOTIFY) {
		if (where % NOTIFY_MULTIPLIER == 0)
			virtio_notify(vp->vdev, (unsigned int)(where / NOTIFY_MULTIPLIER));
		return;
	}
	pthread_mutex_lock(&vp->vdev->lock);
	switch (offset / SECTION_SIZE) {
	case SECTION_COMMON:
		if (size == common_width(where))
			write_common(vp, where, (uint32_t)value);
		break;
	case SECTION_DEVICE:
		virtio_write_config(vp->vdev, where, &bytes, size);
		break;
	default:
		break;
	}
	pthread_mutex_unlock(&vp->vdev->lock);
}

static const struct bus_ops bar_ops = { .read = bar_read, .write = bar_write };

/* ---- Access to BAR 0 through configuration space (virtio 1.2, 4.1.4.9) ---- */

/* What the capability's fields select; false unless it is an access that the BAR would take. */
static bool pci_cfg_target(struct virtio_pci *vp, unsigned int offset, uint32_t *where,
			   uint32_t *len)
{
	const uint8_t *cap = pci_function_config(vp->fn) + vp->pci_cfg_cap;

	if (offset != vp->pci_cfg_cap + PCI_CFG_DATA)
		return false;
	memcpy(where, cap + offsetof(struct virtio_pci_cap, offset), sizeof(*where));
	memcpy(len, cap + offsetof(struct virtio_pci_cap, length), sizeof(*len));
	*where = le32toh(*where);
	*len = le32toh(*len);
	if (cap[offsetof(struct virtio_pci_cap, bar)] != VIRTIO_PCI_BAR)
		return false;
	if (*len != 1 && *len != 2 && *len != 4)
		return false;
	return *where % *len == 0 && *where < VIRTIO_PCI_BAR_SIZE;
}

static void config_reading(void *opaque, unsigned int offset, unsigned int size)
{
	struct virtio_pci *vp = opaque;
	uint32_t where, len, value;

	(void)size;
	if (!pci_cfg_target(vp, offset, &where, &len))
		return;
	value = htole32((uint32_t)bar_read(vp, where, len));
	memcpy(pci_function_config(vp->fn) + offset, &value, sizeof(value));
}

static void config_written(void *opaque, unsigned int offset, unsigned int size)
{
	struct virtio_pci *vp = opaque;
	uint32_t where, len, value;

	(void)size;
	if (!pci_cfg_target(vp, offset, &where, &len))
		return;
	memcpy(&value, pci_function_config(vp->fn) + offset, sizeof(value));
	value = le32toh(value);
	bar_write(vp, where, len < 4 ? value & ((1u << (8 * len)) - 1) : value, len);
}

/* ---- Doorbells ---- */

static void set_doorbells(struct virtio_pci *vp, uint64_t bar, bool assign)
{
	struct virtio_device *vdev = vp->vdev;
	struct device_host *host = vdev->host;

	if (virtio_notified_here(vdev))
		return;
	for (unsigned int i = 0; i < vdev->type->nr_queues; i++) {
		struct doorbell bell = { .addr = bar + SECTION_NOTIFY * SECTION_SIZE +
						 i * NOTIFY_MULTIPLIER,
					 .len = 2,
					 .fd = vdev->queues[i].fd };
		int ret = host->ops->doorbell(host->machine, &bell, assign);

		/* Without it each notification is an MMIO exit: slower, and correct. */
		if (ret < 0 && assign)
			log_debug("%s: queue %u has no doorbell: %s", vdev->type->name, i,
				  strerror(-ret));
	}
}

static void bar_moved(void *opaque, unsigned int bar, uint64_t from, uint64_t to)
{
	if (bar != VIRTIO_PCI_BAR)
		return;
	if (from != PCI_BAR_UNMAPPED)
		set_doorbells(opaque, from, false);
	if (to != PCI_BAR_UNMAPPED)
		set_doorbells(opaque, to, true);
}

static const struct pci_function_ops function_ops = { .config_reading = config_reading,
						      .config_written = config_written,
						      .bar_moved = bar_moved };

/* ---- What the core asks ---- */

static void queue_interrupt(void *transport, unsigned int queue)
{
	struct virtio_pci *vp = transport;

	vp->isr |= ISR_QUEUE;
	pci_msix_raise(vp->fn, vp->queue_vector[queue]);
}

static void config_interrupt(void *transport)
{
	struct virtio_pci *vp = transport;

	vp->isr |= VIRTIO_PCI_ISR_CONFIG;
	pci_msix_raise(vp->fn, vp->config_vector);
}

static void transport_reset(void *transport)
{
	struct virtio_pci *vp = transport;

	vp->feature_select = 0;
	vp->accepted_select = 0;
	vp->queue_select = 0;
	vp->isr = 0;
	vp->config_vector = VIRTIO_MSI_NO_VECTOR;
	for (unsigned int i = 0; i < VIRTIO_QUEUES_MAX; i++)
		vp->queue_vector[i] = VIRTIO_MSI_NO_VECTOR;
}

static void transport_destroy(void *transport)
{
	struct virtio_pci *vp = transport;

	pci_function_destroy(vp->fn);
	free(vp);
}

static const struct virtio_transport_ops transport_ops = { .queue_interrupt = queue_interrupt,
							   .config_interrupt = config_interrupt,
							   .reset = transport_reset,
							   .destroy = transport_destroy };

/* ---- Creation ---- */

static int add_structure(struct virtio_pci *vp, uint8_t type, unsigned int section, uint32_t len)
{
	struct virtio_pci_notify_cap cap = {
		.cap = { .cap_vndr = PCI_CAP_ID_VNDR,
			 .cap_len = sizeof(struct virtio_pci_cap),
			 .cfg_type = type,
			 .bar = VIRTIO_PCI_BAR,
			 .offset = htole32(section * SECTION_SIZE),
			 .length = htole32(len) },
		.notify_off_multiplier = htole32(NOTIFY_MULTIPLIER),
	};

	if (type == VIRTIO_PCI_CAP_NOTIFY_CFG)
		cap.cap.cap_len = sizeof(cap);
	return pci_function_add_cap(vp->fn, &cap, NULL, cap.cap.cap_len);
}

static int add_pci_cfg(struct virtio_pci *vp)
{
	static const struct virtio_pci_cfg_cap cap = {
		.cap = { .cap_vndr = PCI_CAP_ID_VNDR,
			 .cap_len = sizeof(cap),
			 .cfg_type = VIRTIO_PCI_CAP_PCI_CFG },
	};
	static const struct virtio_pci_cfg_cap mask = {
		.cap = { .bar = 0xff, .offset = UINT32_MAX, .length = UINT32_MAX },
		.pci_cfg_data = { 0xff, 0xff, 0xff, 0xff },
	};
	int ret = pci_function_add_cap(vp->fn, &cap, &mask, sizeof(cap));

	if (ret >= 0)
		vp->pci_cfg_cap = (unsigned int)ret;
	return ret;
}

static int add_parts(struct virtio_pci *vp)
{
	const struct virtio_device_type *type = vp->vdev->type;
	int ret = pci_function_add_bar(vp->fn, VIRTIO_PCI_BAR, VIRTIO_PCI_BAR_SIZE, true, &bar_ops,
				       vp);

	if (ret >= 0)
		ret = add_structure(vp, VIRTIO_PCI_CAP_COMMON_CFG, SECTION_COMMON,
				    sizeof(struct virtio_pci_common_cfg));
	if (ret >= 0)
		ret = add_structure(vp, VIRTIO_PCI_CAP_NOTIFY_CFG, SECTION_NOTIFY,
				    type->nr_queues * NOTIFY_MULTIPLIER);
	if (ret >= 0)
		ret = add_structure(vp, VIRTIO_PCI_CAP_ISR_CFG, SECTION_ISR, 1);
	if (ret >= 0 && type->config_size)
		ret = add_structure(vp, VIRTIO_PCI_CAP_DEVICE_CFG, SECTION_DEVICE,
				    type->config_size);
	if (ret >= 0)
		ret = add_pci_cfg(vp);
	if (ret >= 0)
		ret = pci_function_add_msix(vp->fn, VIRTIO_PCI_MSIX_BAR, nr_vectors(vp->vdev));
	return ret;
}

int virtio_pci_attach(struct virtio_device *vdev, struct pci_bus *bus, struct error *err)
{
	const struct virtio_device_type *type = vdev->type;
	const struct pci_id id = { .vendor = VIRTIO_PCI_VENDOR,
				   .device = VIRTIO_PCI_DEVICE_BASE + type->id,
				   .subsystem_vendor = VIRTIO_PCI_VENDOR,
				   .subsystem = VIRTIO_PCI_SUBSYSTEM,
				   .class_code = type->pci_class,
				   .revision = VIRTIO_PCI_REVISION };
	struct virtio_pci *vp = calloc(1, sizeof(*vp));
	int ret = -ENOMEM;

	if (!vp)
		return error_set(err, ENOMEM, "%s: out of memory", type->name);
	vp->vdev = vdev;
	transport_reset(vp);
	vp->fn = pci_function_create(bus, type->name, &id, &function_ops, vp);
	if (vp->fn)
		ret = add_parts(vp);
	vdev->transport = vp;
	vdev->transport_ops = &transport_ops;
	if (ret < 0)
		error_set_errno(err, -ret, "%s: cannot create its PCI function", type->name);
	else
		ret = pci_function_add(vp->fn, err);
	if (ret < 0) {
		vdev->transport_ops = NULL;
		transport_destroy(vp);
	}
	return ret < 0 ? ret : 0;
}
