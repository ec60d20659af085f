/* SPDX-License-Identifier: MIT */
/* Starting the other CPUs: INIT and STARTUP through the local APIC. */
#include "guest.h"

#define LAPIC_ID     0x20
#define LAPIC_SVR    0xf0
#define LAPIC_ICR    0x300
#define LAPIC_ICR_HI 0x310
#define ICR_INIT     0x4500
#define ICR_STARTUP  0x4600
#define ICR_PENDING  0x1000
#define SVR_ENABLE   0x1ff
#define TSC_10_MS    30000000ull
#define TSC_200_US   600000ull

static uint32_t lapic_read(uint32_t reg)
{
	return *(volatile uint32_t *)(uintptr_t)(LAYOUT_LAPIC + reg);
}

static void lapic_write(uint32_t reg, uint32_t value)
{
	*(volatile uint32_t *)(uintptr_t)(LAYOUT_LAPIC + reg) = value;
}

static void delay(uint64_t cycles)
{
	for (uint64_t start = rdtsc(); rdtsc() - start < cycles;)
		cpu_relax();
}

static void send_ipi(uint8_t apic_id, uint32_t command)
{
	lapic_write(LAPIC_ICR_HI, (uint32_t)apic_id << 24);
	lapic_write(LAPIC_ICR, command);
	while (lapic_read(LAPIC_ICR) & ICR_PENDING)
		cpu_relax();
}

uint8_t guest_cpu_id(void)
{
	return (uint8_t)(lapic_read(LAPIC_ID) >> 24);
}

void guest_start_cpus(const uint8_t *ids, unsigned int cpus)
{
	uint8_t self = guest_cpu_id();

	lapic_write(LAPIC_SVR, SVR_ENABLE);
	ap_cr3 = guest_cr3();
	memcpy((void *)(uintptr_t)AP_TRAMPOLINE, ap_trampoline,
	       (size_t)(ap_trampoline_end - ap_trampoline));
	for (unsigned int i = 0; i < cpus; i++) {
		if (ids[i] == self)
			continue;
		send_ipi(ids[i], ICR_INIT);
		delay(TSC_10_MS);
		/* Twice, as the MP specification asks; a CPU that runs ignores the second. */
		for (unsigned int n = 0; n < 2; n++) {
			send_ipi(ids[i], ICR_STARTUP | (AP_TRAMPOLINE >> 12));
			delay(TSC_200_US);
		}
	}
}
