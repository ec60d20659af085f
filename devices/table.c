/* SPDX-License-Identifier: MIT */
/* The list of devices: see framevisor/device_table.h. */
#include "framevisor/device_table.h"

#include <errno.h>

#include "framevisor/layout.h"
#include "framevisor/virtio_rng.h"

static struct device *create_serial(struct device_set *set, struct error *err)
{
	set->serial = serial_create(set->host, LAYOUT_PORT_SERIAL, LAYOUT_GSI_SERIAL,
				    set->serial_output, set->serial_room, set->opaque);
	if (set->serial)
		return serial_device(set->serial);
	error_set_errno(err, errno, "cannot create the serial port");
	return NULL;
}

static struct device *create_rtc(struct device_set *set, struct error *err)
{
	struct device *rtc = rtc_create(set->host, LAYOUT_PORT_RTC);

	if (!rtc)
		error_set_errno(err, errno, "cannot create the real time clock");
	return rtc;
}

static struct device *create_power(struct device_set *set, struct error *err)
{
	set->power = power_create(set->host, LAYOUT_PORT_PM, LAYOUT_GSI_SCI, LAYOUT_PORT_RESET,
				  LAYOUT_PORT_I8042);
	if (set->power)
		return power_device(set->power);
	error_set_errno(err, errno, "cannot create the power management registers");
	return NULL;
}

static struct device *create_pci(struct device_set *set, struct error *err)
{
	set->pci =
		pci_bus_create(set->host, LAYOUT_PORT_PCI_ADDR, LAYOUT_PORT_PCI_DATA, LAYOUT_ECAM,
			       LAYOUT_ECAM_SIZE, LAYOUT_PCI_MMIO, LAYOUT_PCI_MMIO_SIZE);
	if (set->pci)
		return pci_bus_device(set->pci);
	error_set_errno(err, errno, "cannot create the PCI bus");
	return NULL;
}

static struct device *create_balloon(struct device_set *set, struct error *err)
{
	struct virtio_balloon_options options = { .features = VIRTIO_BALLOON_FEATURES_ALL &
							      ~set->balloon_without,
						  .changed = set->balloon_changed,
						  .opaque = set->opaque };

	set->balloon = virtio_balloon_create(set->host, set->pci, &options, err);
	return set->balloon ? virtio_balloon_device(set->balloon) : NULL;
}

static unsigned int count_mem(const struct device_set *set)
{
	return set->nr_mem_options;
}

static struct device *create_mem(struct device_set *set, struct error *err)
{
	struct virtio_mem *mem;

	if (set->nr_mem == DEVICE_SET_MEM_MAX) {
		error_set(err, EINVAL, "more than %u memory devices", DEVICE_SET_MEM_MAX);
		return NULL;
	}
	mem = virtio_mem_create(set->host, set->pci, &set->mem_options[set->nr_mem], err);
	if (!mem)
		return NULL;
	set->mem[set->nr_mem++] = mem;
	return virtio_mem_device(mem);
}

static unsigned int count_rng(const struct device_set *set)
{
	return set->rng ? 1 : 0;
}

static struct device *create_rng(struct device_set *set, struct error *err)
{
	return virtio_rng_create(set->host, set->pci, err);
}

const struct device_entry device_table[] = {
	{ "serial", "16550A serial port, the guest's console", create_serial, NULL },
	{ "rtc", "MC146818 real time clock, UTC of the host", create_rtc, NULL },
	{ "power", "ACPI power button, power off, reset", create_power, NULL },
	{ "pci", "PCI bus 0 with its host bridge", create_pci, NULL },
	{ "virtio-balloon", "takes memory from the guest in whole frames", create_balloon, NULL },
	{ "virtio-mem", "memory that comes and goes in blocks", create_mem, count_mem },
	{ "virtio-rng", "random numbers of the host", create_rng, count_rng },
};
const unsigned int device_table_size = sizeof(device_table) / sizeof(device_table[0]);

static int create_entry(struct device_set *set, const struct device_entry *entry, struct error *err)
{
	struct error cause = { 0 };
	struct device *dev = entry->create(set, &cause);

	if (!dev)
		return error_set(err, cause.code ? cause.code : EINVAL, "%s", cause.message);
	dev->next = set->last;
	set->last = dev;
	return 0;
}

int device_set_create(struct device_set *set, struct error *err)
{
	for (unsigned int i = 0; i < device_table_size; i++) {
		const struct device_entry *entry = &device_table[i];
		unsigned int count = entry->count ? entry->count(set) : 1;
		int ret = 0;

		while (count-- && ret == 0)
			ret = create_entry(set, entry, err);
		if (ret < 0) {
			device_set_destroy(set);
			return ret;
		}
	}
	return 0;
}

void device_set_destroy(struct device_set *set)
{
	while (set->last) {
		struct device *dev = set->last;

		set->last = dev->next;
		dev->ops->destroy(dev);
	}
}
