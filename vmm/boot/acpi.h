/* SPDX-License-Identifier: MIT */
/* The machine's ACPI tables (ACPI 6.3): RSDP, XSDT, FADT, FACS, MADT, MCFG and the DSDT. */
#ifndef VMM_BOOT_ACPI_H
#define VMM_BOOT_ACPI_H

#include <stddef.h>
#include <stdint.h>

/*
 * Builds all tables into buf (room bytes), linked for guest-physical address gpa, with the RSDP
 * first. Local APIC ids are 0 .. cpus - 1, as in CPUID. Returns the number of bytes used, or
 * -ENOSPC.
 */
int acpi_build(uint8_t *buf, size_t room, uint64_t gpa, unsigned int cpus);

#endif
