/* SPDX-License-Identifier: MIT */
/*
 * From the entry to guest_main(): exception table, RAM map, page tables for all RAM; and the ways
 * out: verdict, power off.
 */
#include <asm/bootparam.h>
#include <stdarg.h>

#include "guest.h"

#define E820_RAM       1
#define CMDLINE_MAX    256
#define PM1_CONTROL    (LAYOUT_PORT_PM + 4)
#define PM1_SLP_EN     (1u << 13)
#define PM1_SLP_TYP_S5 (5u << 10)
#define PTE_PRESENT    0x1
#define PTE_WRITE      0x2
#define PTE_LARGE      0x80
#define MAPPED_GIB     32 /* how much the page tables can hold, anywhere below REACH_GIB */
#define ENTRIES        512
#define REACH_GIB      ENTRIES
#define EXCEPTION_SIZE 16 /* bytes of code per entry in entry.S */

unsigned int nr_ram_ranges;
struct ram_range ram_ranges[RAM_RANGES_MAX];
static char cmdline[CMDLINE_MAX];

static uint64_t pml4[ENTRIES] __attribute__((aligned(4096)));
static uint64_t pdpt[ENTRIES] __attribute__((aligned(4096)));
static uint64_t pd[MAPPED_GIB][ENTRIES] __attribute__((aligned(4096)));

struct idt_gate {
	uint16_t offset_low;
	uint16_t selector;
	uint16_t flags;
	uint16_t offset_mid;
	uint32_t offset_high;
	uint32_t reserved;
} __attribute__((packed));
static struct idt_gate idt[32];

struct exception_frame {
	uint64_t vector;
	uint64_t error;
	uint64_t rip;
};

extern char exception_entries[];
void guest_exception(const struct exception_frame *frame);
void guest_start(const struct boot_params *params);

void guest_power_off(void)
{
	outw(PM1_CONTROL, PM1_SLP_TYP_S5 | PM1_SLP_EN);
	for (;;)
		__asm__ volatile("cli; hlt");
}

void guest_pass(void)
{
	print("PASS %s\n", guest_name);
	guest_power_off();
}

void guest_fail(const char *reason, ...)
{
	va_list args;

	print("FAIL %s ", guest_name);
	va_start(args, reason);
	vprint(reason, args);
	va_end(args);
	print("\n");
	guest_power_off();
}

void guest_exception(const struct exception_frame *frame)
{
	uint64_t cr2;

	__asm__ volatile("mov %%cr2, %0" : "=r"(cr2));
	guest_fail("exception %lu error 0x%lx rip 0x%lx cr2 0x%lx", frame->vector, frame->error,
		   frame->rip, cr2);
}

static void load_idt(void)
{
	struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) pointer = { sizeof(idt) - 1, (uint64_t)(uintptr_t)idt };

	for (unsigned int i = 0; i < 32; i++) {
		uint64_t entry = (uint64_t)(uintptr_t)exception_entries + i * EXCEPTION_SIZE;

		idt[i] = (struct idt_gate){
			.offset_low = (uint16_t)entry,
			.selector = 0x10,
			.flags = 0x8e00, /* present, interrupt gate */
			.offset_mid = (uint16_t)(entry >> 16),
			.offset_high = (uint32_t)(entry >> 32),
		};
	}
	__asm__ volatile("lidt %0" : : "m"(pointer));
}

static void read_boot_params(const struct boot_params *params)
{
	uint64_t text = params->hdr.cmd_line_ptr | (uint64_t)params->ext_cmd_line_ptr << 32;

	for (unsigned int i = 0; i < params->e820_entries; i++) {
		const struct boot_e820_entry *entry = &params->e820_table[i];

		if (entry->type == E820_RAM && nr_ram_ranges < RAM_RANGES_MAX)
			ram_ranges[nr_ram_ranges++] =
				(struct ram_range){ entry->addr, entry->addr + entry->size };
	}
	if (text) {
		const char *from = (const char *)(uintptr_t)text;

		for (unsigned int i = 0; i < CMDLINE_MAX - 1 && from[i]; i++)
			cmdline[i] = from[i];
	}
}

static void map_gib(uint64_t gib)
{
	static unsigned int nr_mapped;
	uint64_t *table;

	if (gib >= REACH_GIB)
		guest_fail("memory beyond %u GiB", REACH_GIB);
	if (pdpt[gib])
		return;
	if (nr_mapped == MAPPED_GIB)
		guest_fail("more memory than %u GiB", MAPPED_GIB);
	table = pd[nr_mapped++];
	for (unsigned int i = 0; i < ENTRIES; i++)
		table[i] = (gib << 30 | (uint64_t)i << 21) | PTE_PRESENT | PTE_WRITE | PTE_LARGE;
	pdpt[gib] = (uint64_t)(uintptr_t)table | PTE_PRESENT | PTE_WRITE;
}

/* Adds to the page tables only, so nothing stale is in the TLB. */
void guest_map(uint64_t start, uint64_t end)
{
	for (uint64_t gib = start >> 30; gib <= (end - 1) >> 30; gib++)
		map_gib(gib);
}

/* The first 4 GiB (devices are there) and every GiB that has RAM. */
static void map_memory(void)
{
	guest_map(0, 4ull << 30);
	for (unsigned int i = 0; i < nr_ram_ranges; i++)
		guest_map(ram_ranges[i].start, ram_ranges[i].end);
	pml4[0] = (uint64_t)(uintptr_t)pdpt | PTE_PRESENT | PTE_WRITE;
	__asm__ volatile("mov %0, %%cr3" : : "r"(guest_cr3()) : "memory");
}

uint64_t guest_cr3(void)
{
	return (uint64_t)(uintptr_t)pml4;
}

uint64_t ram_size(void)
{
	uint64_t size = 0;

	for (unsigned int i = 0; i < nr_ram_ranges; i++)
		size += ram_ranges[i].end - ram_ranges[i].start;
	return size;
}

uint64_t cmdline_number(const char *name, uint64_t otherwise)
{
	size_t len = strlen(name);

	for (const char *p = cmdline; *p; p++) {
		uint64_t value = 0;

		if ((p != cmdline && p[-1] != ' ') || strlen(p) <= len || memcmp(p, name, len) ||
		    p[len] != '=')
			continue;
		for (p += len + 1; *p >= '0' && *p <= '9'; p++)
			value = value * 10 + (uint64_t)(*p - '0');
		return value;
	}
	return otherwise;
}

void guest_start(const struct boot_params *params)
{
	load_idt();
	read_boot_params(params);
	map_memory();
	if (nr_ram_ranges == 0)
		guest_fail("no RAM in the e820 map");
	guest_main();
	guest_pass();
}
