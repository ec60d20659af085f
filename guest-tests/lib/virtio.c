/* SPDX-License-Identifier: MIT */
/* See virtio.h. */
#include "virtio.h"

#include <linux/pci_regs.h>

#define PCI_DEVICES   32
#define VIRTIO_VENDOR 0x1af4
#define VIRTIO_DEVICE 0x1040

static uint32_t pci_read32(unsigned int slot, unsigned int reg)
{
	outl(LAYOUT_PORT_PCI_ADDR, 0x80000000u | slot << 11 | (reg & ~3u));
	return inl(LAYOUT_PORT_PCI_DATA);
}

static void pci_write16(unsigned int slot, unsigned int reg, uint16_t value)
{
	outl(LAYOUT_PORT_PCI_ADDR, 0x80000000u | slot << 11 | (reg & ~3u));
	outw((uint16_t)(LAYOUT_PORT_PCI_DATA + (reg & 2)), value);
}

static uint8_t pci_read8(unsigned int slot, unsigned int reg)
{
	return (uint8_t)(pci_read32(slot, reg) >> (8 * (reg & 3)));
}

static uint64_t bar_address(unsigned int slot, unsigned int bar)
{
	uint32_t low = pci_read32(slot, PCI_BASE_ADDRESS_0 + 4 * bar);
	uint64_t address = low & PCI_BASE_ADDRESS_MEM_MASK;

	if ((low & PCI_BASE_ADDRESS_MEM_TYPE_MASK) == PCI_BASE_ADDRESS_MEM_TYPE_64)
		address |= (uint64_t)pci_read32(slot, PCI_BASE_ADDRESS_0 + 4 * bar + 4) << 32;
	if (address == 0 || address >> 32)
		guest_fail("BAR %u at 0x%lx is out of the mapped range", bar, address);
	return address;
}

static void read_capability(struct virtio_pci *dev, unsigned int slot, unsigned int cap)
{
	unsigned int type = pci_read8(slot, cap + offsetof(struct virtio_pci_cap, cfg_type));
	unsigned int bar = pci_read8(slot, cap + offsetof(struct virtio_pci_cap, bar));
	uint32_t offset = pci_read32(slot, cap + offsetof(struct virtio_pci_cap, offset));
	volatile uint8_t *at;

	if (type != VIRTIO_PCI_CAP_COMMON_CFG && type != VIRTIO_PCI_CAP_NOTIFY_CFG &&
	    type != VIRTIO_PCI_CAP_DEVICE_CFG)
		return;
	at = (volatile uint8_t *)(uintptr_t)(bar_address(slot, bar) + offset);
	if (type == VIRTIO_PCI_CAP_COMMON_CFG && !dev->common) {
		dev->common = (volatile struct virtio_pci_common_cfg *)at;
	} else if (type == VIRTIO_PCI_CAP_NOTIFY_CFG && !dev->notify) {
		dev->notify = at;
		dev->notify_multiplier = pci_read32(
			slot, cap + offsetof(struct virtio_pci_notify_cap, notify_off_multiplier));
	} else if (type == VIRTIO_PCI_CAP_DEVICE_CFG && !dev->device) {
		dev->device = at;
	}
}

bool virtio_probe(struct virtio_pci *dev, unsigned int virtio_id)
{
	uint32_t id = VIRTIO_VENDOR | (VIRTIO_DEVICE + virtio_id) << 16;
	unsigned int slot = 0;
	unsigned int guard = 48; /* as many capabilities as fit */

	while (slot < PCI_DEVICES && pci_read32(slot, PCI_VENDOR_ID) != id)
		slot++;
	if (slot == PCI_DEVICES)
		return false;
	pci_write16(slot, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	for (unsigned int cap = pci_read8(slot, PCI_CAPABILITY_LIST); cap && guard; guard--) {
		if (pci_read8(slot, cap) == PCI_CAP_ID_VNDR)
			read_capability(dev, slot, cap);
		cap = pci_read8(slot, cap + PCI_CAP_LIST_NEXT);
	}
	if (!dev->common || !dev->notify || !dev->device)
		guest_fail("virtio device %u lacks a structure", virtio_id);
	return true;
}

void virtio_find(struct virtio_pci *dev, unsigned int virtio_id)
{
	if (!virtio_probe(dev, virtio_id))
		guest_fail("no virtio device %u on the PCI bus", virtio_id);
}

uint64_t virtio_config64(struct virtio_pci *dev, unsigned int offset)
{
	volatile uint32_t *halves = (volatile uint32_t *)(dev->device + offset);
	uint8_t generation;
	uint64_t value;

	do {
		generation = dev->common->config_generation;
		value = halves[0];
		value |= (uint64_t)halves[1] << 32;
	} while (generation != dev->common->config_generation);
	return value;
}

uint8_t virtio_status(struct virtio_pci *dev)
{
	return dev->common->device_status;
}

void virtio_reset(struct virtio_pci *dev)
{
	uint64_t start = rdtsc();

	dev->common->device_status = 0;
	while (dev->common->device_status != 0)
		if (rdtsc() - start > PATIENCE)
			guest_fail("the device does not finish its reset");
}

bool virtio_accept(struct virtio_pci *dev, uint64_t features)
{
	volatile struct virtio_pci_common_cfg *common = dev->common;
	uint64_t offered;

	common->device_status = VIRTIO_CONFIG_S_ACKNOWLEDGE;
	common->device_status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
	common->device_feature_select = 0;
	offered = common->device_feature;
	common->device_feature_select = 1;
	offered |= (uint64_t)common->device_feature << 32;
	if ((offered & features) != features)
		guest_fail("features 0x%lx offered, 0x%lx needed", offered, features);
	common->guest_feature_select = 0;
	common->guest_feature = (uint32_t)features;
	common->guest_feature_select = 1;
	common->guest_feature = (uint32_t)(features >> 32);
	common->device_status =
		VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK;
	return common->device_status & VIRTIO_CONFIG_S_FEATURES_OK;
}

void virtio_negotiate(struct virtio_pci *dev, uint64_t features)
{
	if (!virtio_accept(dev, features))
		guest_fail("the device refuses features 0x%lx", features);
}

void virtio_driver_ok(struct virtio_pci *dev)
{
	dev->common->device_status = dev->common->device_status | VIRTIO_CONFIG_S_DRIVER_OK;
}

void vq_setup(struct virtio_pci *dev, struct vq *vq, unsigned int index)
{
	volatile struct virtio_pci_common_cfg *common = dev->common;

	memset(vq, 0, sizeof(*vq));
	vq->index = index;
	common->queue_select = (uint16_t)index;
	vq->size = common->queue_size;
	if (vq->size == 0)
		guest_fail("queue %u does not exist", index);
	if (vq->size > VQ_SIZE)
		vq->size = VQ_SIZE;
	common->queue_size = vq->size;
	common->queue_desc_lo = (uint32_t)(uintptr_t)vq->desc;
	common->queue_desc_hi = (uint32_t)((uint64_t)(uintptr_t)vq->desc >> 32);
	common->queue_avail_lo = (uint32_t)(uintptr_t)&vq->avail;
	common->queue_avail_hi = (uint32_t)((uint64_t)(uintptr_t)&vq->avail >> 32);
	common->queue_used_lo = (uint32_t)(uintptr_t)&vq->used;
	common->queue_used_hi = (uint32_t)((uint64_t)(uintptr_t)&vq->used >> 32);
	vq->notify = (volatile uint16_t *)(dev->notify +
					   common->queue_notify_off * dev->notify_multiplier);
	common->queue_enable = 1;
}

void vq_notify(struct vq *vq)
{
	*vq->notify = (uint16_t)vq->index;
}

void vq_offer(struct vq *vq, uint16_t head)
{
	vq->avail.ring[vq->avail.idx % vq->size] = head;
	/* x86 keeps the order of stores; the compiler has to as well. */
	__asm__ volatile("" : : : "memory");
	vq->avail.idx++;
	vq_notify(vq);
}

bool vq_wait(struct virtio_pci *dev, struct vq *vq)
{
	uint64_t start = rdtsc();

	for (unsigned int n = 1; vq->used.idx == vq->last_used; n++) {
		if (rdtsc() - start > PATIENCE)
			return false;
		/* Reading the status is an exit to the host: not every time. */
		if (n % 256 == 0 && virtio_status(dev) & VIRTIO_CONFIG_S_NEEDS_RESET)
			return false;
		cpu_relax();
	}
	vq->last_used++;
	return true;
}

void vq_send(struct vq *vq, const void *buf, uint32_t len)
{
	uint16_t head = vq->next_desc++ % vq->size;
	uint64_t start = rdtsc();

	vq->desc[head] = (struct vring_desc){ .addr = (uint64_t)(uintptr_t)buf, .len = len };
	vq_offer(vq, head);
	while (vq->used.idx == vq->last_used) {
		if (rdtsc() - start > PATIENCE)
			guest_fail("queue %u: the device does not use a buffer", vq->index);
		cpu_relax();
	}
	if (vq->used.ring[vq->last_used % vq->size].id != head)
		guest_fail("queue %u: descriptor %u came back, not %u", vq->index,
			   vq->used.ring[vq->last_used % vq->size].id, (unsigned int)head);
	vq->last_used++;
}
