/* SPDX-License-Identifier: MIT */
/*
 * PCI functions on bus 0: a type 0 configuration space, memory BARs, capabilities and MSI-X.
 * The bus itself (pci_bus_create) is declared in platform.h.
 *
 * A function is built in this order, by one thread, before the guest can see it: create, BARs,
 * capabilities, MSI-X, pci_function_add(). The bus gives it the next free slot and places its BARs;
 * memory decode is off until the guest switches it on in the command register.
 *
 * Locks, outermost first: the bus's configuration lock (held during configuration accesses, mapping
 * of BARs and all of pci_function_ops), then a device's own lock, then the function's MSI-X lock
 * (inside this code). So a BAR handler may raise MSI-X with its device's lock held, and must not
 * call anything here that takes the configuration lock: create, add, destroy.
 */
#ifndef FRAMEVISOR_PCI_H
#define FRAMEVISOR_PCI_H

#include <stdbool.h>
#include <stdint.h>

#include "framevisor/bus.h"
#include "framevisor/error.h"
#include "framevisor/platform.h"

#define PCI_BARS         6
#define PCI_BAR_UNMAPPED UINT64_MAX
#define PCI_MSIX_MAX     64 /* vectors of one function; the table and PBA fit one page */

struct pci_function;

struct pci_id {
	uint16_t vendor;
	uint16_t device;
	uint16_t subsystem_vendor;
	uint16_t subsystem;
	uint32_t class_code; /* base class, subclass, interface: 24 bits */
	uint8_t revision;
};

/* Hooks, each optional; called with the configuration lock held, in a vCPU thread or, on reset and
 * destroy, the loop's thread. */
struct pci_function_ops {
	/* Before a read or after a write of these bytes. What they hold is seen and changed through
	 * pci_function_config(). */
	void (*config_reading)(void *opaque, unsigned int offset, unsigned int size);
	void (*config_written)(void *opaque, unsigned int offset, unsigned int size);
	/* BAR was at from and now answers at to; either may be PCI_BAR_UNMAPPED. */
	void (*bar_moved)(void *opaque, unsigned int bar, uint64_t from, uint64_t to);
};

/* Returns NULL with errno set. ops may be NULL. */
struct pci_function *pci_function_create(struct pci_bus *bus, const char *name,
					 const struct pci_id *id,
					 const struct pci_function_ops *ops, void *opaque);

/*
 * A memory BAR, not prefetchable. size is a power of two of at least 4096. is_64bit also takes the
 * next BAR's register. Accesses go to ops in vCPU threads; the opaque stays valid until
 * pci_function_destroy(). Returns 0 or -EINVAL.
 */
int pci_function_add_bar(struct pci_function *fn, unsigned int bar, uint64_t size, bool is_64bit,
			 const struct bus_ops *ops, void *opaque);

/*
 * Appends a capability. cap is its content with ID first (the next pointer is filled in here), mask
 * says which bits the guest may write (NULL: none). Returns its offset in configuration space, or
 * -ENOSPC.
 */
int pci_function_add_cap(struct pci_function *fn, const void *cap, const void *mask,
			 unsigned int size);

/*
 * MSI-X with nr vectors, table and pending bits in a 32-bit BAR of its own. Creates the host's
 * vectors. Returns 0 or a negative errno.
 */
int pci_function_add_msix(struct pci_function *fn, unsigned int bar, unsigned int nr);

/* Puts the function on the bus. Returns 0, -ENOSPC (no slot, or no room for a BAR) with err set. */
int pci_function_add(struct pci_function *fn, struct error *err);

/* Takes it off the bus and frees it; afterwards no handler of it runs. NULL is ignored. */
void pci_function_destroy(struct pci_function *fn);

/* The 256 bytes of configuration space. Configuration lock held, or before pci_function_add(). */
uint8_t *pci_function_config(struct pci_function *fn);

unsigned int pci_function_slot(const struct pci_function *fn);

/*
 * Sends the MSI-X vector with this index once, or sets its pending bit while it is masked. Nothing
 * happens when the guest has not enabled MSI-X, or for a vector out of range. Any thread.
 */
void pci_msix_raise(struct pci_function *fn, unsigned int index);

#endif
