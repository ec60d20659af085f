/* SPDX-License-Identifier: MIT */
/*
 * PCI bus 0: configuration space by ports 0xCF8/0xCFC (PCI 3.0, 3.2.2.3.2) and ECAM (PCI Express
 * 4.0, 7.2.2), type 0 headers, and BARs that follow what the guest writes onto the MMIO bus.
 */
#include "devices/pci_internal.h"

#include <endian.h>
#include <errno.h>
#include <linux/pci_regs.h>
#include <stdlib.h>
#include <string.h>

#define PCI_SLOTS         32
#define ADDR_ENABLE       0x80000000u
#define CAP_START         0x40
#define ECAM_FUNCTION     4096 /* bytes of configuration space per function */
#define HOST_BRIDGE_CLASS 0x060000

struct pci_bus {
	struct device dev;
	struct bus_region addr_region, data_region, ecam_region;
	pthread_mutex_t lock; /* the configuration lock, see framevisor/pci.h */
	uint32_t address;     /* last dword written to 0xCF8 */
	struct pci_function *slots[PCI_SLOTS];
	struct pci_function *bridge;
	uint64_t mmio_next, mmio_end; /* where the next BAR may be placed */
};

static uint16_t get16(const uint8_t *config)
{
	uint16_t value;

	memcpy(&value, config, sizeof(value));
	return le16toh(value);
}

static uint32_t get32(const uint8_t *config)
{
	uint32_t value;

	memcpy(&value, config, sizeof(value));
	return le32toh(value);
}

static void put16(uint8_t *config, uint16_t value)
{
	value = htole16(value);
	memcpy(config, &value, sizeof(value));
}

static void put32(uint8_t *config, uint32_t value)
{
	value = htole32(value);
	memcpy(config, &value, sizeof(value));
}

/* ---- BARs ---- */

static unsigned int bar_register(unsigned int bar)
{
	return PCI_BASE_ADDRESS_0 + 4 * bar;
}

static void bar_put(struct pci_function *fn, unsigned int bar, uint64_t addr)
{
	uint8_t *config = fn->config + bar_register(bar);

	put32(config, (uint32_t)addr | (fn->bars[bar].is_64bit ? PCI_BASE_ADDRESS_MEM_TYPE_64 : 0));
	if (fn->bars[bar].is_64bit)
		put32(config + 4, (uint32_t)(addr >> 32));
}

/* Where the registers say that the BAR is, or PCI_BAR_UNMAPPED. */
static uint64_t bar_wanted(const struct pci_function *fn, unsigned int bar)
{
	const uint8_t *config = fn->config + bar_register(bar);
	uint64_t addr, last;

	if (!fn->added || !(get16(fn->config + PCI_COMMAND) & PCI_COMMAND_MEMORY))
		return PCI_BAR_UNMAPPED;
	addr = get32(config) & (uint32_t)PCI_BASE_ADDRESS_MEM_MASK;
	if (fn->bars[bar].is_64bit)
		addr |= (uint64_t)get32(config + 4) << 32;
	/* All ones is a guest asking for the size, zero is not a place either. */
	if (!addr || __builtin_add_overflow(addr, fn->bars[bar].size, &last))
		return PCI_BAR_UNMAPPED;
	return addr;
}

static void bar_unmap(struct pci_function *fn, unsigned int index)
{
	struct pci_bar *bar = &fn->bars[index];
	uint64_t from = bar->mapped;

	bar->mapped = PCI_BAR_UNMAPPED;
	if (fn->ops && fn->ops->bar_moved)
		fn->ops->bar_moved(fn->opaque, index, from, PCI_BAR_UNMAPPED);
	bus_remove(fn->bus->dev.host->mmio, &bar->region);
}

static void bar_map(struct pci_function *fn, unsigned int index, uint64_t addr)
{
	struct pci_bar *bar = &fn->bars[index];

	bar->region.base = addr;
	if (bus_add(fn->bus->dev.host->mmio, &bar->region) < 0)
		return; /* something else is there; tried again after the next change */
	bar->mapped = addr;
	if (fn->ops && fn->ops->bar_moved)
		fn->ops->bar_moved(fn->opaque, index, PCI_BAR_UNMAPPED, addr);
}

/*
 * Brings the MMIO bus in line with all BAR registers. First everything that leaves its place, then
 * everything that comes: so BARs may swap places, and one that found its place taken gets it when
 * the other one goes. Configuration lock held.
 */
static void update_mappings(struct pci_bus *bus)
{
	for (int map = 0; map <= 1; map++) {
		for (unsigned int i = 0; i < PCI_SLOTS * PCI_BARS; i++) {
			struct pci_function *fn = bus->slots[i / PCI_BARS];
			unsigned int bar = i % PCI_BARS;
			uint64_t wanted;

			if (!fn || !fn->bars[bar].size)
				continue;
			wanted = bar_wanted(fn, bar);
			if (wanted == fn->bars[bar].mapped)
				continue;
			if (!map && fn->bars[bar].mapped != PCI_BAR_UNMAPPED)
				bar_unmap(fn, bar);
			else if (map && wanted != PCI_BAR_UNMAPPED)
				bar_map(fn, bar, wanted);
		}
	}
}

/* ---- Configuration space ---- */

static uint32_t all_ones(unsigned int size)
{
	return UINT32_MAX >> (32 - 8 * size);
}

static bool overlaps(unsigned int offset, unsigned int size, unsigned int start, unsigned int len)
{
	return offset < start + len && start < offset + size;
}

/* size is 1, 2 or 4. The space beyond 256 bytes holds no extended capability: it reads 0. */
static uint32_t config_read(struct pci_function *fn, unsigned int offset, unsigned int size)
{
	uint32_t value = 0;

	if (offset + size > PCI_CONFIG_SIZE)
		return 0;
	if (fn->ops && fn->ops->config_reading)
		fn->ops->config_reading(fn->opaque, offset, size);
	for (unsigned int i = 0; i < size; i++)
		value |= (uint32_t)fn->config[offset + i] << (8 * i);
	return value;
}

static void config_write(struct pci_function *fn, unsigned int offset, uint32_t value,
			 unsigned int size)
{
	struct msix *msix = &fn->msix;

	if (offset + size > PCI_CONFIG_SIZE)
		return;
	for (unsigned int i = 0; i < size; i++) {
		uint8_t mask = fn->mask[offset + i];

		fn->config[offset + i] =
			(uint8_t)((fn->config[offset + i] & ~mask) | ((value >> (8 * i)) & mask));
	}
	if (overlaps(offset, size, PCI_COMMAND, 2) ||
	    overlaps(offset, size, PCI_BASE_ADDRESS_0, 4 * PCI_BARS))
		update_mappings(fn->bus);
	if (msix->nr && overlaps(offset, size, msix->cap + PCI_MSIX_FLAGS, 2))
		msix_config_written(fn);
	if (fn->ops && fn->ops->config_written)
		fn->ops->config_written(fn->opaque, offset, size);
}

/* NULL where no function is: the bus has single-function devices only. */
static struct pci_function *find_function(struct pci_bus *bus, unsigned int bus_nr,
					  unsigned int devfn)
{
	if (bus_nr || devfn & 7 || devfn >> 3 >= PCI_SLOTS)
		return NULL;
	return bus->slots[devfn >> 3];
}

static uint32_t bus_config_read(struct pci_bus *bus, unsigned int bdf, unsigned int offset,
				unsigned int size)
{
	struct pci_function *fn;
	uint32_t value = all_ones(size);

	pthread_mutex_lock(&bus->lock);
	fn = find_function(bus, bdf >> 8, bdf & 0xff);
	if (fn)
		value = config_read(fn, offset, size);
	pthread_mutex_unlock(&bus->lock);
	return value;
}

static void bus_config_write(struct pci_bus *bus, unsigned int bdf, unsigned int offset,
			     uint32_t value, unsigned int size)
{
	struct pci_function *fn;

	pthread_mutex_lock(&bus->lock);
	fn = find_function(bus, bdf >> 8, bdf & 0xff);
	if (fn)
		config_write(fn, offset, value, size);
	pthread_mutex_unlock(&bus->lock);
}

/* ---- Ports ---- */

static uint64_t addr_read(void *opaque, uint64_t offset, unsigned int size)
{
	struct pci_bus *bus = opaque;
	uint32_t address;

	pthread_mutex_lock(&bus->lock);
	address = bus->address;
	pthread_mutex_unlock(&bus->lock);
	return (address >> (8 * offset)) & all_ones(size);
}

/* Only a whole dword is a write of the address register; others mean other things on PCs. */
static void addr_write(void *opaque, uint64_t offset, uint64_t value, unsigned int size)
{
	struct pci_bus *bus = opaque;

	if (offset || size != 4)
		return;
	pthread_mutex_lock(&bus->lock);
	bus->address = (uint32_t)value & (ADDR_ENABLE | 0x00fffffcu);
	pthread_mutex_unlock(&bus->lock);
}

/* Where an access to the data port goes; false while the address register is not enabled. */
static bool data_target(struct pci_bus *bus, uint64_t port, unsigned int *bdf, unsigned int *offset)
{
	uint32_t address;

	pthread_mutex_lock(&bus->lock);
	address = bus->address;
	pthread_mutex_unlock(&bus->lock);
	*bdf = (address >> 8) & 0xffff;
	*offset = (address & 0xfc) + (unsigned int)port;
	return address & ADDR_ENABLE;
}

static uint64_t data_read(void *opaque, uint64_t port, unsigned int size)
{
	unsigned int bdf, offset;

	if (!data_target(opaque, port, &bdf, &offset))
		return all_ones(size);
	return bus_config_read(opaque, bdf, offset, size);
}

static void data_write(void *opaque, uint64_t port, uint64_t value, unsigned int size)
{
	unsigned int bdf, offset;

	if (data_target(opaque, port, &bdf, &offset))
		bus_config_write(opaque, bdf, offset, (uint32_t)value, size);
}

/* ---- ECAM: bits 12 up are bus, device, function ---- */

static uint64_t ecam_read(void *opaque, uint64_t offset, unsigned int size)
{
	unsigned int bdf = (unsigned int)(offset / ECAM_FUNCTION);
	unsigned int reg = (unsigned int)(offset % ECAM_FUNCTION);
	uint64_t value;

	if (reg + size > ECAM_FUNCTION)
		return UINT64_MAX;
	value = bus_config_read(opaque, bdf, reg, size < 4 ? size : 4);
	if (size == 8)
		value |= (uint64_t)bus_config_read(opaque, bdf, reg + 4, 4) << 32;
	return value;
}

static void ecam_write(void *opaque, uint64_t offset, uint64_t value, unsigned int size)
{
	unsigned int bdf = (unsigned int)(offset / ECAM_FUNCTION);
	unsigned int reg = (unsigned int)(offset % ECAM_FUNCTION);

	if (reg + size > ECAM_FUNCTION)
		return;
	bus_config_write(opaque, bdf, reg, (uint32_t)value, size < 4 ? size : 4);
	if (size == 8)
		bus_config_write(opaque, bdf, reg + 4, (uint32_t)(value >> 32), 4);
}

static const struct bus_ops addr_ops = { .read = addr_read, .write = addr_write };
static const struct bus_ops data_ops = { .read = data_read, .write = data_write };
static const struct bus_ops ecam_ops = { .read = ecam_read, .write = ecam_write };

/* ---- Functions ---- */

struct pci_function *pci_function_create(struct pci_bus *bus, const char *name,
					 const struct pci_id *id,
					 const struct pci_function_ops *ops, void *opaque)
{
	struct pci_function *fn = calloc(1, sizeof(*fn));

	if (!fn)
		return NULL;
	fn->bus = bus;
	fn->name = name;
	fn->ops = ops;
	fn->opaque = opaque;
	fn->cap_end = CAP_START;
	fn->cap_last = PCI_CAPABILITY_LIST;
	fn->msix.host = bus->dev.host;
	fn->msix.name = name;
	for (unsigned int i = 0; i < PCI_BARS; i++)
		fn->bars[i].mapped = PCI_BAR_UNMAPPED;
	put16(fn->config + PCI_VENDOR_ID, id->vendor);
	put16(fn->config + PCI_DEVICE_ID, id->device);
	put32(fn->config + PCI_CLASS_REVISION, id->class_code << 8 | id->revision);
	put16(fn->config + PCI_SUBSYSTEM_VENDOR_ID, id->subsystem_vendor);
	put16(fn->config + PCI_SUBSYSTEM_ID, id->subsystem);
	put16(fn->mask + PCI_COMMAND,
	      PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE);
	fn->mask[PCI_CACHE_LINE_SIZE] = 0xff;
	fn->mask[PCI_INTERRUPT_LINE] = 0xff;
	return fn;
}

int pci_function_add_bar(struct pci_function *fn, unsigned int bar, uint64_t size, bool is_64bit,
			 const struct bus_ops *ops, void *opaque)
{
	uint64_t mask = ~(size - 1);

	if (bar + is_64bit >= PCI_BARS || fn->bars[bar].size || fn->added)
		return -EINVAL;
	if (bar && fn->bars[bar - 1].is_64bit)
		return -EINVAL;
	if (size < 4096 || (size & (size - 1)) || (!is_64bit && size > UINT32_MAX))
		return -EINVAL;
	if (is_64bit && fn->bars[bar + 1].size)
		return -EINVAL;
	fn->bars[bar].size = size;
	fn->bars[bar].is_64bit = is_64bit;
	fn->bars[bar].region =
		(struct bus_region){ .size = size, .name = fn->name, .ops = ops, .opaque = opaque };
	/* Writing all ones and reading back gives the size, because only address bits can be
	 * written. */
	put32(fn->mask + bar_register(bar), (uint32_t)mask);
	if (is_64bit)
		put32(fn->mask + bar_register(bar + 1), (uint32_t)(mask >> 32));
	return 0;
}

int pci_function_add_cap(struct pci_function *fn, const void *cap, const void *mask,
			 unsigned int size)
{
	unsigned int offset = fn->cap_end;

	if (size < 2 || size > PCI_CONFIG_SIZE - offset || fn->added)
		return -ENOSPC;
	memcpy(fn->config + offset, cap, size);
	if (mask)
		memcpy(fn->mask + offset, mask, size);
	fn->config[offset + PCI_CAP_LIST_NEXT] = 0;
	fn->config[fn->cap_last] = (uint8_t)offset;
	fn->cap_last = offset + PCI_CAP_LIST_NEXT;
	fn->cap_end = (offset + size + 3) & ~3u;
	fn->config[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
	return (int)offset;
}

/* Places all BARs of a function, naturally aligned, or none. */
static int place_bars(struct pci_bus *bus, struct pci_function *fn)
{
	uint64_t next = bus->mmio_next;

	for (unsigned int i = 0; i < PCI_BARS; i++) {
		struct pci_bar *bar = &fn->bars[i];

		if (!bar->size)
			continue;
		next = (next + bar->size - 1) & ~(bar->size - 1);
		if (next > bus->mmio_end || bar->size > bus->mmio_end - next)
			return -ENOSPC;
		bar->placed = next;
		next += bar->size;
	}
	bus->mmio_next = next;
	for (unsigned int i = 0; i < PCI_BARS; i++) {
		if (fn->bars[i].size)
			bar_put(fn, i, fn->bars[i].placed);
	}
	return 0;
}

int pci_function_add(struct pci_function *fn, struct error *err)
{
	struct pci_bus *bus = fn->bus;
	unsigned int slot;
	int ret = 0;

	pthread_mutex_lock(&bus->lock);
	for (slot = 0; slot < PCI_SLOTS && bus->slots[slot]; slot++)
		;
	if (slot == PCI_SLOTS)
		ret = error_set(err, ENOSPC, "%s: all %d slots of the PCI bus are taken", fn->name,
				PCI_SLOTS);
	else if (place_bars(bus, fn) < 0)
		ret = error_set(err, ENOSPC, "%s: no room for its BARs in the PCI MMIO window",
				fn->name);
	if (!ret) {
		fn->slot = slot;
		fn->added = true;
		memcpy(fn->reset, fn->config, sizeof(fn->reset));
		bus->slots[slot] = fn;
	}
	pthread_mutex_unlock(&bus->lock);
	return ret;
}

/* Takes a function off its bus. Configuration lock held. */
static void detach(struct pci_bus *bus, struct pci_function *fn)
{
	fn->added = false;
	update_mappings(bus);
	bus->slots[fn->slot] = NULL;
}

void pci_function_destroy(struct pci_function *fn)
{
	if (!fn)
		return;
	if (fn->bus && fn->added) {
		pthread_mutex_lock(&fn->bus->lock);
		detach(fn->bus, fn);
		pthread_mutex_unlock(&fn->bus->lock);
	}
	msix_destroy(fn);
	free(fn);
}

uint8_t *pci_function_config(struct pci_function *fn)
{
	return fn->config;
}

unsigned int pci_function_slot(const struct pci_function *fn)
{
	return fn->slot;
}

/* ---- The bus ---- */

static void pci_reset(struct device *dev)
{
	struct pci_bus *bus = (struct pci_bus *)dev;

	pthread_mutex_lock(&bus->lock);
	bus->address = 0;
	for (unsigned int i = 0; i < PCI_SLOTS; i++) {
		struct pci_function *fn = bus->slots[i];

		if (!fn)
			continue;
		memcpy(fn->config, fn->reset, sizeof(fn->config));
		msix_reset(fn);
	}
	update_mappings(bus);
	pthread_mutex_unlock(&bus->lock);
}

static void pci_destroy(struct device *dev)
{
	struct pci_bus *bus = (struct pci_bus *)dev;
	struct device_host *host = dev->host;

	/* Not under the lock: a handler that waits for it must be able to finish. */
	bus_remove(host->mmio, &bus->ecam_region);
	bus_remove(host->pio, &bus->data_region);
	bus_remove(host->pio, &bus->addr_region);
	pci_function_destroy(bus->bridge);
	/* Functions belong to their devices, which may be destroyed later. */
	pthread_mutex_lock(&bus->lock);
	for (unsigned int i = 0; i < PCI_SLOTS; i++) {
		struct pci_function *fn = bus->slots[i];

		if (!fn)
			continue;
		detach(bus, fn);
		fn->bus = NULL;
	}
	pthread_mutex_unlock(&bus->lock);
	pthread_mutex_destroy(&bus->lock);
	free(bus);
}

static const struct device_ops pci_device_ops = { .reset = pci_reset, .destroy = pci_destroy };

static int add_region(struct bus *where, struct bus_region *region, const char *name, uint64_t base,
		      uint64_t size)
{
	region->name = name;
	region->base = base;
	region->size = size;
	return bus_add(where, region);
}

static int create_bridge(struct pci_bus *bus)
{
	/* The numbers that other PCI machines without real chipset use: no quirk knows them. */
	static const struct pci_id id = { .vendor = 0x8086,
					  .device = 0x0d57,
					  .class_code = HOST_BRIDGE_CLASS };

	bus->bridge = pci_function_create(bus, "pci-host-bridge", &id, NULL, NULL);
	if (!bus->bridge)
		return -ENOMEM;
	return pci_function_add(bus->bridge, NULL);
}

struct pci_bus *pci_bus_create(struct device_host *host, uint16_t addr_port, uint16_t data_port,
			       uint64_t ecam, uint64_t ecam_size, uint64_t mmio_base,
			       uint64_t mmio_size)
{
	struct pci_bus *bus = calloc(1, sizeof(*bus));
	int ret;

	if (!bus)
		return NULL;
	bus->dev = (struct device){
		.name = "pci", .ops = &pci_device_ops, .host = host, .next = NULL
	};
	bus->mmio_next = mmio_base;
	bus->mmio_end = mmio_base + mmio_size;
	bus->addr_region = (struct bus_region){ .ops = &addr_ops, .opaque = bus };
	bus->data_region = (struct bus_region){ .ops = &data_ops, .opaque = bus };
	bus->ecam_region = (struct bus_region){ .ops = &ecam_ops, .opaque = bus };
	pthread_mutex_init(&bus->lock, NULL);
	ret = create_bridge(bus);
	if (!ret)
		ret = add_region(host->pio, &bus->addr_region, "pci-address", addr_port, 4);
	if (!ret)
		ret = add_region(host->pio, &bus->data_region, "pci-data", data_port, 4);
	if (!ret)
		ret = add_region(host->mmio, &bus->ecam_region, "pci-ecam", ecam, ecam_size);
	if (!ret)
		return bus;
	pci_destroy(&bus->dev);
	errno = -ret;
	return NULL;
}

struct device *pci_bus_device(struct pci_bus *bus)
{
	return &bus->dev;
}
