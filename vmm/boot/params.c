/* SPDX-License-Identifier: MIT */
/* boot_params with its e820 map, and the tables the boot CPU starts on: GDT and page tables. */
#include "vmm/boot/boot.h"

#include <errno.h>
#include <string.h>

#include "framevisor/layout.h"

#define E820_RAM      1
#define E820_RESERVED 2

#define PTE_PRESENT  0x1ull
#define PTE_WRITE    0x2ull
#define PTE_PAGESIZE 0x80ull
#define PTES         512
#define PTE_BYTES    (PTES * sizeof(uint64_t))
#define IDENTITY_GIB 4 /* page directories: one per GiB */

/* A segment descriptor from its fields (Intel SDM volume 3, 3.4.5); base 0. */
#define GDT_ENTRY(flags, limit)                                                     \
	((((uint64_t)(flags)&0xf0ff) << 40) | (((uint64_t)(limit)&0xf0000) << 32) | \
	 ((uint64_t)(limit)&0xffff))

_Static_assert(sizeof(struct boot_params) == 4096, "the zero page is one page");
_Static_assert(LAYOUT_BOOT_PARAMS + 4096 <= LAYOUT_BOOT_STACK, "stack above boot_params");
_Static_assert(LAYOUT_PML4 + (2 + IDENTITY_GIB) * PTE_BYTES <= LAYOUT_CMDLINE, "page tables");

static void add_e820(struct boot_params *params, uint64_t addr, uint64_t end, uint32_t type)
{
	if (addr >= end)
		return;
	params->e820_table[params->e820_entries++] = (struct boot_e820_entry){
		.addr = addr,
		.size = end - addr,
		.type = type,
	};
}

void boot_fill_params(struct boot_params *params, const struct setup_header *hdr,
		      uint64_t mem_bytes)
{
	uint64_t low_end = mem_bytes < LAYOUT_LOW_RAM_END ? mem_bytes : LAYOUT_LOW_RAM_END;

	/* All zero but what is set: the sentinel byte must be 0. */
	memset(params, 0, sizeof(*params));
	params->hdr = *hdr;
	params->acpi_rsdp_addr = LAYOUT_RSDP;

	add_e820(params, 0, LAYOUT_EBDA, E820_RAM);
	add_e820(params, LAYOUT_EBDA, LAYOUT_ACPI_END, E820_RESERVED);
	add_e820(params, LAYOUT_ACPI_END, low_end, E820_RAM);
	/* Linux uses ECAM before it runs AML only if e820 reserves it. */
	add_e820(params, LAYOUT_ECAM, LAYOUT_ECAM + LAYOUT_ECAM_SIZE, E820_RESERVED);
	if (mem_bytes > LAYOUT_LOW_RAM_END)
		add_e820(params, LAYOUT_HIGH_RAM, LAYOUT_HIGH_RAM + mem_bytes - LAYOUT_LOW_RAM_END,
			 E820_RAM);
}

/* PML4 -> PDPT -> one directory of 2 MiB pages per GiB, all in a row from LAYOUT_PML4. */
static int write_page_tables(const struct guest_memory *gm)
{
	uint64_t pdpt = LAYOUT_PML4 + PTE_BYTES;
	uint64_t pd = pdpt + PTE_BYTES;
	uint64_t table[PTES] = { pdpt | PTE_PRESENT | PTE_WRITE };
	unsigned int gib, i;

	if (guest_write(gm, LAYOUT_PML4, table, sizeof(table)) < 0)
		return -1;
	memset(table, 0, sizeof(table));
	for (gib = 0; gib < IDENTITY_GIB; gib++)
		table[gib] = (pd + gib * PTE_BYTES) | PTE_PRESENT | PTE_WRITE;
	if (guest_write(gm, pdpt, table, sizeof(table)) < 0)
		return -1;
	for (gib = 0; gib < IDENTITY_GIB; gib++) {
		for (i = 0; i < PTES; i++)
			table[i] = ((uint64_t)gib << 30 | (uint64_t)i << 21) | PTE_PRESENT |
				   PTE_WRITE | PTE_PAGESIZE;
		if (guest_write(gm, pd + gib * PTE_BYTES, table, sizeof(table)) < 0)
			return -1;
	}
	return 0;
}

int boot_write_cpu_tables(const struct guest_memory *gm)
{
	/* Flat: 64-bit code, data, and a busy TSS (16 bytes in long mode), at BOOT_CS, _DS, _TSS.
	 */
	static const uint64_t gdt[] = {
		0,
		0,
		GDT_ENTRY(0xa09b, 0xfffff),
		GDT_ENTRY(0xc093, 0xfffff),
		GDT_ENTRY(0x808b, 0xfffff),
		0,
	};

	_Static_assert(sizeof(gdt) == BOOT_GDT_LIMIT + 1, "GDT limit");
	if (guest_write(gm, LAYOUT_GDT, gdt, sizeof(gdt)) < 0 || write_page_tables(gm) < 0)
		return -EFAULT;
	return 0;
}
