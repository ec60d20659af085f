/* SPDX-License-Identifier: MIT */
/* What pci.c and msix.c share: the inside of a PCI function. */
#ifndef DEVICES_PCI_INTERNAL_H
#define DEVICES_PCI_INTERNAL_H

#include <pthread.h>

#include "framevisor/pci.h"

#define PCI_CONFIG_SIZE 256

struct pci_bar {
	uint64_t size; /* 0: there is no such BAR */
	bool is_64bit;
	uint64_t placed; /* where the bus put it, and where a reset puts it back */
	uint64_t mapped; /* where it is on the MMIO bus now, or PCI_BAR_UNMAPPED */
	struct bus_region region;
};

struct msix_vector {
	struct msi_vector *msi;
	uint32_t entry[4]; /* address low, high, data, vector control: as in the table */
	bool pending;
	bool stale; /* the message changed since the machine was told */
};

struct msix {
	struct device_host *host;
	const char *name;
	unsigned int nr;      /* 0: the function has no MSI-X */
	unsigned int cap;     /* offset of the capability in configuration space */
	pthread_mutex_t lock; /* over everything below; taken inside all other locks */
	bool enabled;
	bool masked; /* all vectors at once */
	struct msix_vector vectors[PCI_MSIX_MAX];
};

struct pci_function {
	struct pci_bus *bus;
	const char *name;
	const struct pci_function_ops *ops;
	void *opaque;
	unsigned int slot;
	bool added;
	unsigned int cap_end;  /* first free byte behind the capabilities */
	unsigned int cap_last; /* offset of the byte that links the next one */
	uint8_t config[PCI_CONFIG_SIZE];
	uint8_t mask[PCI_CONFIG_SIZE];  /* bits the guest may write */
	uint8_t reset[PCI_CONFIG_SIZE]; /* config when the function was added */
	struct pci_bar bars[PCI_BARS];
	struct msix msix;
};

/* The guest wrote the capability: takes over enable and function mask. */
void msix_config_written(struct pci_function *fn);
/* Disabled, all vectors masked, nothing pending. */
void msix_reset(struct pci_function *fn);
void msix_destroy(struct pci_function *fn);

#endif
