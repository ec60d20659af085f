/* SPDX-License-Identifier: MIT */
/*
 * The guest's side of virtio-pci for tests: finds the function through ECAM, its structures through
 * the capabilities, and drives rings in guest memory. Each step is a function of its own, so that a
 * test can leave one out or do it wrongly.
 */
#ifndef TESTS_UNIT_VIRTIO_DRIVER_H
#define TESTS_UNIT_VIRTIO_DRIVER_H

#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>

#include "tests/unit/device_host.h"

#define DRIVER_QUEUES  5
#define DRIVER_DATA    0x8 /* MSI data of vector 0; vector n sends DRIVER_DATA + n */
#define DRIVER_RINGS   0x10000
#define DRIVER_BUFFERS 0x80000

struct driver_queue {
	uint16_t size, next_desc, seen_used;
	uint64_t desc, avail, used;
};

struct driver {
	struct test_host *th;
	uint64_t config;                            /* address in ECAM */
	uint64_t common, notify, isr, device, msix; /* addresses in MMIO */
	unsigned int msix_cap, pci_cfg_cap;
	struct driver_queue queues[DRIVER_QUEUES];
};

static inline uint32_t cfg_read(struct driver *drv, unsigned int reg, unsigned int size)
{
	return (uint32_t)host_read(drv->th, drv->config + reg, size);
}

static inline void cfg_write(struct driver *drv, unsigned int reg, uint32_t value,
			     unsigned int size)
{
	host_write(drv->th, drv->config + reg, value, size);
}

static inline uint64_t driver_bar(struct driver *drv, unsigned int bar)
{
	uint64_t low = cfg_read(drv, PCI_BASE_ADDRESS_0 + 4 * bar, 4);
	uint64_t high = 0;

	if (low & PCI_BASE_ADDRESS_MEM_TYPE_64)
		high = cfg_read(drv, PCI_BASE_ADDRESS_0 + 4 * bar + 4, 4);
	return (low & ~UINT64_C(0xf)) | high << 32;
}

static inline void driver_parse_cap(struct driver *drv, unsigned int cap)
{
	uint8_t type = (uint8_t)cfg_read(drv, cap + VIRTIO_PCI_CAP_CFG_TYPE, 1);
	uint8_t bar = (uint8_t)cfg_read(drv, cap + VIRTIO_PCI_CAP_BAR, 1);
	uint64_t at = driver_bar(drv, bar) + cfg_read(drv, cap + VIRTIO_PCI_CAP_OFFSET, 4);

	if (type == VIRTIO_PCI_CAP_COMMON_CFG)
		drv->common = at;
	else if (type == VIRTIO_PCI_CAP_NOTIFY_CFG)
		drv->notify = at;
	else if (type == VIRTIO_PCI_CAP_ISR_CFG)
		drv->isr = at;
	else if (type == VIRTIO_PCI_CAP_DEVICE_CFG)
		drv->device = at;
	else if (type == VIRTIO_PCI_CAP_PCI_CFG)
		drv->pci_cfg_cap = cap;
}

/* Looks the function in slot up; false when there is none. */
static inline bool driver_probe(struct driver *drv, struct test_host *th, unsigned int slot)
{
	unsigned int cap;

	memset(drv, 0, sizeof(*drv));
	drv->th = th;
	drv->config = LAYOUT_ECAM + ((uint64_t)slot << 15);
	if (cfg_read(drv, PCI_VENDOR_ID, 2) != 0x1af4)
		return false;
	for (cap = cfg_read(drv, PCI_CAPABILITY_LIST, 1); cap;
	     cap = cfg_read(drv, cap + PCI_CAP_LIST_NEXT, 1)) {
		uint8_t id = (uint8_t)cfg_read(drv, cap, 1);

		if (id == PCI_CAP_ID_VNDR)
			driver_parse_cap(drv, cap);
		if (id == PCI_CAP_ID_MSIX) {
			drv->msix_cap = cap;
			drv->msix = driver_bar(drv, cfg_read(drv, cap + PCI_MSIX_TABLE, 4) & 7);
		}
	}
	return true;
}

static inline void driver_enable_memory(struct driver *drv)
{
	cfg_write(drv, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
}

static inline uint32_t common_read(struct driver *drv, unsigned int reg, unsigned int size)
{
	return (uint32_t)host_read(drv->th, drv->common + reg, size);
}

static inline void common_write(struct driver *drv, unsigned int reg, uint32_t value,
				unsigned int size)
{
	host_write(drv->th, drv->common + reg, value, size);
}

static inline unsigned int driver_nr_queues(struct driver *drv)
{
	return common_read(drv, VIRTIO_PCI_COMMON_NUMQ, 2);
}

static inline uint8_t driver_status(struct driver *drv)
{
	return (uint8_t)common_read(drv, VIRTIO_PCI_COMMON_STATUS, 1);
}

static inline void driver_set_status(struct driver *drv, uint8_t status)
{
	common_write(drv, VIRTIO_PCI_COMMON_STATUS, status, 1);
}

static inline uint64_t driver_offered(struct driver *drv)
{
	uint64_t low;

	common_write(drv, VIRTIO_PCI_COMMON_DFSELECT, 0, 4);
	low = common_read(drv, VIRTIO_PCI_COMMON_DF, 4);
	common_write(drv, VIRTIO_PCI_COMMON_DFSELECT, 1, 4);
	return low | (uint64_t)common_read(drv, VIRTIO_PCI_COMMON_DF, 4) << 32;
}

static inline void driver_accept(struct driver *drv, uint64_t features)
{
	for (unsigned int i = 0; i < 2; i++) {
		common_write(drv, VIRTIO_PCI_COMMON_GFSELECT, i, 4);
		common_write(drv, VIRTIO_PCI_COMMON_GF, (uint32_t)(features >> (32 * i)), 4);
	}
}

#define S_UP_TO_DRIVER   (VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER)
#define S_UP_TO_FEATURES (S_UP_TO_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK)
#define S_ALL            (S_UP_TO_FEATURES | VIRTIO_CONFIG_S_DRIVER_OK)

/* Reset up to FEATURES_OK. Returns the status the device took over. */
static inline uint8_t driver_negotiate(struct driver *drv, uint64_t features)
{
	driver_set_status(drv, 0);
	driver_set_status(drv, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	driver_set_status(drv, S_UP_TO_DRIVER);
	driver_accept(drv, features);
	driver_set_status(drv, S_UP_TO_FEATURES);
	return driver_status(drv);
}

static inline void driver_program_queue(struct driver *drv, unsigned int index,
					const struct driver_queue *q)
{
	common_write(drv, VIRTIO_PCI_COMMON_Q_SELECT, index, 2);
	common_write(drv, VIRTIO_PCI_COMMON_Q_SIZE, q->size, 2);
	common_write(drv, VIRTIO_PCI_COMMON_Q_MSIX, index + 1, 2);
	common_write(drv, VIRTIO_PCI_COMMON_Q_DESCLO, (uint32_t)q->desc, 4);
	common_write(drv, VIRTIO_PCI_COMMON_Q_DESCHI, (uint32_t)(q->desc >> 32), 4);
	common_write(drv, VIRTIO_PCI_COMMON_Q_AVAILLO, (uint32_t)q->avail, 4);
	common_write(drv, VIRTIO_PCI_COMMON_Q_AVAILHI, (uint32_t)(q->avail >> 32), 4);
	common_write(drv, VIRTIO_PCI_COMMON_Q_USEDLO, (uint32_t)q->used, 4);
	common_write(drv, VIRTIO_PCI_COMMON_Q_USEDHI, (uint32_t)(q->used >> 32), 4);
	common_write(drv, VIRTIO_PCI_COMMON_Q_ENABLE, 1, 2);
}

/* Ring parts in the first frame, empty. */
static inline void driver_init_queue(struct driver *drv, unsigned int index, uint16_t size)
{
	struct driver_queue *q = &drv->queues[index];
	uint64_t base = DRIVER_RINGS + index * 0x8000;

	*q = (struct driver_queue){
		.size = size, .desc = base, .avail = base + 0x4000, .used = base + 0x6000
	};
	memset(guest_ptr(&drv->th->mem, base, 0x8000), 0, 0x8000);
}

static inline void driver_setup_queue(struct driver *drv, unsigned int index, uint16_t size)
{
	driver_init_queue(drv, index, size);
	driver_program_queue(drv, index, &drv->queues[index]);
}

/* Unmasked messages for configuration (vector 0) and each queue (vector queue + 1). */
static inline void driver_setup_msix(struct driver *drv)
{
	common_write(drv, VIRTIO_PCI_COMMON_MSIX, 0, 2);
	for (unsigned int i = 0; i <= driver_nr_queues(drv); i++) {
		uint64_t entry = drv->msix + i * PCI_MSIX_ENTRY_SIZE;

		host_write(drv->th, entry + PCI_MSIX_ENTRY_LOWER_ADDR, LAYOUT_LAPIC, 4);
		host_write(drv->th, entry + PCI_MSIX_ENTRY_UPPER_ADDR, 0, 4);
		host_write(drv->th, entry + PCI_MSIX_ENTRY_DATA, DRIVER_DATA + i, 4);
		host_write(drv->th, entry + PCI_MSIX_ENTRY_VECTOR_CTRL, 0, 4);
	}
	cfg_write(drv, drv->msix_cap + PCI_MSIX_FLAGS, PCI_MSIX_FLAGS_ENABLE, 2);
}

static inline unsigned int driver_interrupts(unsigned int vector)
{
	return th_msi_count[DRIVER_DATA + vector];
}

/* Everything up to DRIVER_OK. */
static inline uint8_t driver_start(struct driver *drv, uint64_t features, uint16_t size)
{
	driver_enable_memory(drv);
	driver_negotiate(drv, features);
	driver_setup_msix(drv);
	for (unsigned int i = 0; i < driver_nr_queues(drv); i++)
		driver_setup_queue(drv, i, size);
	driver_set_status(drv, S_ALL);
	return driver_status(drv);
}

/* ---- Rings ---- */

static inline struct vring_desc *driver_desc(struct driver *drv, unsigned int index, uint16_t n)
{
	struct driver_queue *q = &drv->queues[index];
	struct vring_desc *desc = guest_ptr(&drv->th->mem, q->desc, 16u * q->size);

	return &desc[n];
}

static inline void driver_set_desc(struct driver *drv, unsigned int index, uint16_t n,
				   struct vring_desc value)
{
	*driver_desc(drv, index, n) = value;
}

static inline struct vring_avail *driver_avail(struct driver *drv, unsigned int index)
{
	struct driver_queue *q = &drv->queues[index];

	return guest_ptr(&drv->th->mem, q->avail, 4 + 2u * q->size);
}

static inline void driver_publish(struct driver *drv, unsigned int index, uint16_t head)
{
	struct vring_avail *avail = driver_avail(drv, index);
	uint16_t idx = avail->idx;

	avail->ring[idx & (drv->queues[index].size - 1)] = head;
	__atomic_store_n(&avail->idx, (uint16_t)(idx + 1), __ATOMIC_RELEASE);
}

static inline void driver_kick(struct driver *drv, unsigned int index)
{
	host_write(drv->th, drv->notify + 4 * index, index, 2);
}

static inline uint16_t driver_used_idx(struct driver *drv, unsigned int index)
{
	struct driver_queue *q = &drv->queues[index];
	struct vring_used *used = guest_ptr(&drv->th->mem, q->used, 6 + 8u * q->size);

	return __atomic_load_n(&used->idx, __ATOMIC_ACQUIRE);
}

/* Offers one readable buffer as the chain of descriptor 0, and kicks. */
static inline void driver_send(struct driver *drv, unsigned int index, uint64_t addr, uint32_t len)
{
	driver_set_desc(drv, index, 0, (struct vring_desc){ .addr = addr, .len = len });
	driver_publish(drv, index, 0);
	driver_kick(drv, index);
}

#endif
