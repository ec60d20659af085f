/* SPDX-License-Identifier: MIT */
/*
 * The guest-physical address map and the interrupt map. Every address of the machine is here and
 * nowhere else; acpi tables and the .asl source are checked against it.
 *
 *   0            RAM .......... up to 3 GiB (first MiB: boot structures and ACPI tables)
 *   3 GiB        hole: PCI MMIO window, ECAM, IOAPIC, LAPIC, KVM's TSS pages
 *   4 GiB        RAM beyond the first 3 GiB
 *   hot-plug     memory that is plugged at run time (virtio-mem), if there is any: see
 *                layout_hotplug(). It is in the SRAT, as hot-pluggable, and not in e820: the guest
 *                finds nothing there at boot.
 *
 * The hole starts and ends on 1 GiB, so that a 1 GiB page never straddles it.
 */
#ifndef FRAMEVISOR_LAYOUT_H
#define FRAMEVISOR_LAYOUT_H

#include <stdint.h>

#define LAYOUT_LOW_RAM_END 0xc0000000ull  /* 3 GiB */
#define LAYOUT_HIGH_RAM    0x100000000ull /* 4 GiB */

/* Memory for plugging comes in units of what Linux adds at a time: 128 MiB, and in guests of 64 GiB
 * and more up to 2 GiB, to which the region above 4 GiB is aligned. */
#define LAYOUT_HOTPLUG_UNIT       0x8000000ull
#define LAYOUT_HOTPLUG_ALIGN_LOW  0x40000000ull
#define LAYOUT_HOTPLUG_ALIGN_HIGH 0x80000000ull

/* Below 1 MiB (all inside the first frame). */
#define LAYOUT_GDT         0x500
#define LAYOUT_BOOT_PARAMS 0x7000 /* struct boot_params, one page */
#define LAYOUT_PML4        0x9000 /* boot page tables: PML4, PDPT, four page directories (4 GiB) */
#define LAYOUT_BOOT_STACK  0x8ff0
#define LAYOUT_CMDLINE     0x20000
#define LAYOUT_CMDLINE_MAX 0x10000
#define LAYOUT_EBDA        0x9fc00 /* end of conventional RAM in e820 */
#define LAYOUT_RSDP        0xe0000
#define LAYOUT_ACPI_END    0x100000
#define LAYOUT_KERNEL      0x1000000 /* 16 MiB, the stock kernels' preferred address */

/* The hole. */
#define LAYOUT_PCI_MMIO      0xc0000000ull /* BARs are placed from here up */
#define LAYOUT_PCI_MMIO_SIZE 0x20000000ull /* 512 MiB */
#define LAYOUT_ECAM          0xe0000000ull /* configuration space of bus 0 .. LAYOUT_PCI_BUS_MAX */
#define LAYOUT_PCI_BUS_MAX   0
#define LAYOUT_ECAM_SIZE     ((LAYOUT_PCI_BUS_MAX + 1) * 0x100000ull)
#define LAYOUT_IOAPIC        0xfec00000ull
#define LAYOUT_LAPIC         0xfee00000ull
#define LAYOUT_IDENTITY_MAP  0xfffbc000ull /* KVM_SET_IDENTITY_MAP_ADDR, one page */
#define LAYOUT_TSS           0xfffbd000ull /* KVM_SET_TSS_ADDR, three pages */

/* Ports. */
#define LAYOUT_PORT_SERIAL   0x3f8 /* COM1, 8 ports */
#define LAYOUT_PORT_RTC      0x70  /* 2 ports */
#define LAYOUT_PORT_I8042    0x64  /* only the reset command 0xfe */
#define LAYOUT_PORT_PCI_ADDR 0xcf8
#define LAYOUT_PORT_PCI_DATA 0xcfc
#define LAYOUT_PORT_PM       0x600 /* PM1 events (4), PM1 control at +4 (2), timer at +8 (4) */
#define LAYOUT_PORT_PM_SIZE  0xc
#define LAYOUT_PORT_RESET    0x60c /* FADT reset register; 0xcf9 lies inside the PCI address port */

/* Interrupt lines (GSIs). */
#define LAYOUT_GSI_SERIAL   4
#define LAYOUT_GSI_SCI      9
#define LAYOUT_GSI_MSI_BASE 24 /* first GSI number for MSI routes: the IOAPIC has 24 pins */

/*
 * Where memory for plugging begins in a guest that boots with mem_bytes: above its RAM. Below the
 * hole if hotplug_bytes fit there, because a guest that may ever have memory beyond 4 GiB sets 64
 * MiB aside for bounce buffers (Linux, swiotlb), and touches them.
 */
static inline uint64_t layout_hotplug(uint64_t mem_bytes, uint64_t hotplug_bytes)
{
	uint64_t low = (mem_bytes + LAYOUT_HOTPLUG_ALIGN_LOW - 1) & ~(LAYOUT_HOTPLUG_ALIGN_LOW - 1);

	if (low <= LAYOUT_LOW_RAM_END && hotplug_bytes <= LAYOUT_LOW_RAM_END - low)
		return low;
	if (mem_bytes <= LAYOUT_LOW_RAM_END)
		return LAYOUT_HIGH_RAM;
	return (LAYOUT_HIGH_RAM + mem_bytes - LAYOUT_LOW_RAM_END + LAYOUT_HOTPLUG_ALIGN_HIGH - 1) &
	       ~(LAYOUT_HOTPLUG_ALIGN_HIGH - 1);
}

#endif
