/* SPDX-License-Identifier: MIT */
/* The machine's ACPI tables (ACPI 6.3): RSDP, XSDT, FADT, FACS, MADT, MCFG, SRAT, SLIT and
 * the DSDT. */
#ifndef VMM_BOOT_ACPI_H
#define VMM_BOOT_ACPI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "framevisor/vm_numa.h"

/* A range of guest-physical memory for the SRAT. */
struct acpi_memory {
	uint64_t base;
	uint64_t size;
	uint32_t node; /* proximity domain */
	bool hotplug;  /* nothing is there at boot; memory may be plugged later */
};

struct acpi_config {
	unsigned int cpus; /* local APIC ids are 0 .. cpus - 1, as in CPUID */
	/* All of the guest's memory, for the SRAT; none: a machine without one. */
	const struct acpi_memory *memory;
	unsigned int nr_memory;
	const uint8_t *cpu_node; /* proximity domain of each CPU; NULL: all 0 */
	/* Distances between the nodes 0 .. nr_nodes - 1, for the SLIT; with one node there is none.
	 */
	const uint8_t (*distance)[VM_NODES_MAX]; /* [from][to] */
	unsigned int nr_nodes;
};

/*
 * Builds all tables into buf (room bytes), linked for guest-physical address gpa, with the RSDP
 * first. Returns the number of bytes used, or -ENOSPC.
 */
int acpi_build(uint8_t *buf, size_t room, uint64_t gpa, const struct acpi_config *config);

#endif
