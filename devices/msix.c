/* SPDX-License-Identifier: MIT */
/*
 * MSI-X (PCI 3.0, 6.8.2): the vector table and the pending bits in a BAR, the capability in
 * configuration space. One page: the table from 0, the pending bit array from PBA_OFFSET.
 *
 * The machine hears of a message only when the vector can be sent, that is unmasked: a guest that
 * moves an interrupt to another CPU masks, writes three words and unmasks, which is one change.
 */
#include "devices/pci_internal.h"

#include <endian.h>
#include <errno.h>
#include <linux/pci_regs.h>
#include <string.h>

#include "framevisor/log.h"

#define MSIX_BAR_SIZE 4096
#define PBA_OFFSET    0x800

_Static_assert(PCI_MSIX_MAX *PCI_MSIX_ENTRY_SIZE <= PBA_OFFSET, "table and PBA do not overlap");
_Static_assert(PCI_MSIX_MAX <= 64, "the pending bits fit one register");

#define ENTRY_ADDR_LOW  (PCI_MSIX_ENTRY_LOWER_ADDR / 4)
#define ENTRY_ADDR_HIGH (PCI_MSIX_ENTRY_UPPER_ADDR / 4)
#define ENTRY_DATA      (PCI_MSIX_ENTRY_DATA / 4)
#define ENTRY_CTRL      (PCI_MSIX_ENTRY_VECTOR_CTRL / 4)

static bool can_send(const struct msix *msix, const struct msix_vector *vector)
{
	return msix->enabled && !msix->masked &&
	       !(vector->entry[ENTRY_CTRL] & PCI_MSIX_ENTRY_CTRL_MASKBIT);
}

/* After any change: the message goes to the machine, and what was held back is sent. */
static void vector_update(struct msix *msix, struct msix_vector *vector)
{
	struct device_host *host = msix->host;
	uint64_t addr;
	int ret;

	if (!can_send(msix, vector))
		return;
	if (vector->stale) {
		addr = (uint64_t)vector->entry[ENTRY_ADDR_HIGH] << 32 |
		       vector->entry[ENTRY_ADDR_LOW];
		ret = host->ops->msi_set(host->machine, vector->msi, addr,
					 vector->entry[ENTRY_DATA]);
		if (ret < 0) {
			log_warn("%s: MSI-X vector %u cannot be routed: %s", msix->name,
				 (unsigned int)(vector - msix->vectors), strerror(-ret));
			return;
		}
		vector->stale = false;
	}
	if (vector->pending) {
		vector->pending = false;
		host->ops->msi_raise(host->machine, vector->msi);
	}
}

static void update_all(struct msix *msix)
{
	for (unsigned int i = 0; i < msix->nr; i++)
		vector_update(msix, &msix->vectors[i]);
}

void pci_msix_raise(struct pci_function *fn, unsigned int index)
{
	struct msix *msix = &fn->msix;
	struct msix_vector *vector;

	if (index >= msix->nr)
		return;
	vector = &msix->vectors[index];
	pthread_mutex_lock(&msix->lock);
	if (msix->enabled) {
		vector->pending = true;
		vector_update(msix, vector);
	}
	pthread_mutex_unlock(&msix->lock);
}

/* The four bytes at offset, which is a multiple of 4. */
static uint32_t read_dword(const struct msix *msix, unsigned int offset)
{
	unsigned int index = offset / PCI_MSIX_ENTRY_SIZE;
	uint32_t bits = 0;

	if (index < msix->nr)
		return msix->vectors[index].entry[offset % PCI_MSIX_ENTRY_SIZE / 4];
	if (offset != PBA_OFFSET && offset != PBA_OFFSET + 4)
		return 0;
	for (unsigned int bit = 0; bit < 32; bit++) {
		index = (offset - PBA_OFFSET) * 8 + bit;
		if (index < msix->nr && msix->vectors[index].pending)
			bits |= UINT32_C(1) << bit;
	}
	return bits;
}

static void write_dword(struct msix *msix, unsigned int offset, uint32_t value)
{
	unsigned int index = offset / PCI_MSIX_ENTRY_SIZE;
	unsigned int word = offset % PCI_MSIX_ENTRY_SIZE / 4;
	struct msix_vector *vector;

	if (index >= msix->nr) /* the pending bits are read only */
		return;
	vector = &msix->vectors[index];
	if (word == ENTRY_CTRL)
		value &= PCI_MSIX_ENTRY_CTRL_MASKBIT;
	else if (vector->entry[word] != value)
		vector->stale = true;
	vector->entry[word] = value;
	vector_update(msix, vector);
}

/* Only aligned 4 and 8 byte accesses are defined; 8 is two times 4. */
static bool access_ok(uint64_t offset, unsigned int size)
{
	return (size == 4 || size == 8) && offset % 4 == 0;
}

static uint64_t msix_read(void *opaque, uint64_t offset, unsigned int size)
{
	struct msix *msix = opaque;
	uint64_t value;

	if (!access_ok(offset, size))
		return 0;
	pthread_mutex_lock(&msix->lock);
	value = read_dword(msix, (unsigned int)offset);
	if (size == 8)
		value |= (uint64_t)read_dword(msix, (unsigned int)offset + 4) << 32;
	pthread_mutex_unlock(&msix->lock);
	return value;
}

static void msix_write(void *opaque, uint64_t offset, uint64_t value, unsigned int size)
{
	struct msix *msix = opaque;

	if (!access_ok(offset, size))
		return;
	pthread_mutex_lock(&msix->lock);
	write_dword(msix, (unsigned int)offset, (uint32_t)value);
	if (size == 8)
		write_dword(msix, (unsigned int)offset + 4, (uint32_t)(value >> 32));
	pthread_mutex_unlock(&msix->lock);
}

static const struct bus_ops msix_bus_ops = { .read = msix_read, .write = msix_write };

void msix_config_written(struct pci_function *fn)
{
	struct msix *msix = &fn->msix;
	uint16_t flags;

	if (!msix->nr)
		return;
	memcpy(&flags, fn->config + msix->cap + PCI_MSIX_FLAGS, sizeof(flags));
	flags = le16toh(flags);
	pthread_mutex_lock(&msix->lock);
	msix->enabled = flags & PCI_MSIX_FLAGS_ENABLE;
	msix->masked = flags & PCI_MSIX_FLAGS_MASKALL;
	update_all(msix);
	pthread_mutex_unlock(&msix->lock);
}

void msix_reset(struct pci_function *fn)
{
	struct msix *msix = &fn->msix;

	if (!msix->nr)
		return;
	pthread_mutex_lock(&msix->lock);
	msix->enabled = false;
	msix->masked = false;
	for (unsigned int i = 0; i < msix->nr; i++) {
		struct msix_vector *vector = &msix->vectors[i];

		memset(vector->entry, 0, sizeof(vector->entry));
		vector->entry[ENTRY_CTRL] = PCI_MSIX_ENTRY_CTRL_MASKBIT;
		vector->pending = false;
		vector->stale = true;
	}
	pthread_mutex_unlock(&msix->lock);
}

void msix_destroy(struct pci_function *fn)
{
	struct msix *msix = &fn->msix;

	if (!msix->nr)
		return;
	for (unsigned int i = 0; i < msix->nr; i++)
		msix->host->ops->msi_destroy(msix->host->machine, msix->vectors[i].msi);
	msix->nr = 0;
	pthread_mutex_destroy(&msix->lock);
}

static int create_vectors(struct msix *msix, unsigned int nr)
{
	struct device_host *host = msix->host;

	for (unsigned int i = 0; i < nr; i++) {
		msix->vectors[i].msi = host->ops->msi_create(host->machine);
		if (!msix->vectors[i].msi) {
			int ret = errno ? -errno : -ENOMEM;

			while (i-- > 0)
				host->ops->msi_destroy(host->machine, msix->vectors[i].msi);
			return ret;
		}
	}
	return 0;
}

int pci_function_add_msix(struct pci_function *fn, unsigned int bar, unsigned int nr)
{
	/* ID, next, message control, table and PBA: offset | BAR */
	uint32_t cap[3] = { htole32(PCI_CAP_ID_MSIX | (nr - 1) << 16), htole32(bar),
			    htole32(PBA_OFFSET | bar) };
	const uint32_t mask[3] = { htole32(
		(uint32_t)(PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL) << 16) };
	struct msix *msix = &fn->msix;
	int ret;

	if (!nr || nr > PCI_MSIX_MAX || msix->nr)
		return -EINVAL;
	ret = pci_function_add_bar(fn, bar, MSIX_BAR_SIZE, false, &msix_bus_ops, msix);
	if (ret)
		return ret;
	ret = pci_function_add_cap(fn, cap, mask, sizeof(cap));
	if (ret < 0)
		return ret;
	msix->cap = (unsigned int)ret;
	ret = create_vectors(msix, nr);
	if (ret)
		return ret;
	pthread_mutex_init(&msix->lock, NULL);
	msix->nr = nr;
	msix_reset(fn);
	return 0;
}
