/* SPDX-License-Identifier: MIT */
/*
 * What a freestanding guest has to work with. A guest defines guest_name and guest_main(); it ends
 * with guest_pass() or guest_fail(), which print the verdict on COM1 and switch the machine off.
 * Everything runs in ring 0 with interrupts off and all RAM mapped at its physical address.
 */
#ifndef GUEST_H
#define GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "framevisor/layout.h"

#define PAGE_SIZE  4096ull
#define FRAME_SIZE (2ull << 20)

extern const char guest_name[];
extern char __image_end[];
#define GUEST_IMAGE     LAYOUT_KERNEL
#define GUEST_IMAGE_END ((uint64_t)(uintptr_t)__image_end)

void guest_main(void);
_Noreturn void guest_pass(void);
/* The reason may hold %s, %u (unsigned int), %lu (uint64_t), %x and %lx. */
_Noreturn void guest_fail(const char *reason, ...) __attribute__((format(printf, 1, 2)));
_Noreturn void guest_power_off(void);

/* serial.c */
void serial_putc(char c);
/* Whether somebody has typed something; it is taken. */
bool serial_typed(void);
void print(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void vprint(const char *fmt, __builtin_va_list args);

/* boot.c: RAM as e820 tells it, the command line. */
#define RAM_RANGES_MAX 16
struct ram_range {
	uint64_t start;
	uint64_t end;
};
extern unsigned int nr_ram_ranges;
extern struct ram_range ram_ranges[RAM_RANGES_MAX];
uint64_t ram_size(void);
/* The number after "NAME=" on the command line, or otherwise. */
uint64_t cmdline_number(const char *name, uint64_t otherwise);
/* Maps [start, end) at its own address: for what e820 does not list. Whole GiBs are mapped. */
void guest_map(uint64_t start, uint64_t end);
/* Address for a second CPU's CR3. */
uint64_t guest_cr3(void);

/* acpi.c */
const uint8_t *acpi_find(const char *signature); /* the table's header, or NULL */
/* APIC IDs of enabled CPUs (MADT); returns how many there are. */
unsigned int acpi_cpus(uint8_t *apic_ids, unsigned int max);
/* Reboots through the FADT's reset register. RAM keeps its content. */
_Noreturn void guest_reset(void);

/* smp.c, ap_entry.S. The guest defines ap_start(), which each other CPU calls. */
uint8_t guest_cpu_id(void); /* the APIC ID of this CPU */
/* Starts those of the CPUs that are not this one; does not wait for them. */
void guest_start_cpus(const uint8_t *apic_ids, unsigned int cpus);
#define AP_TRAMPOLINE 0x8000ull
#define AP_MAX        64
extern char ap_trampoline[], ap_trampoline_end[];
extern uint64_t ap_cr3;
extern volatile uint32_t ap_count;
void ap_start(unsigned int index);

/* string.c: the compiler calls these, too. */
void *memset(void *dst, int c, size_t n);
void *memcpy(void *dst, const void *src, size_t n);
int memcmp(const void *a, const void *b, size_t n);
size_t strlen(const char *s);

static inline void outb(uint16_t port, uint8_t value)
{
	__asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline void outw(uint16_t port, uint16_t value)
{
	__asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port));
}

static inline void outl(uint16_t port, uint32_t value)
{
	__asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}

static inline uint8_t inb(uint16_t port)
{
	uint8_t value;

	__asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline uint32_t inl(uint16_t port)
{
	uint32_t value;

	__asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline void cpu_relax(void)
{
	__asm__ volatile("pause" : : : "memory");
}

static inline uint64_t rdtsc(void)
{
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return (uint64_t)high << 32 | low;
}

/* Long enough for any host, short enough for a person: some 5 s on a machine of 3 GHz. */
#define PATIENCE 15000000000ull

#endif
