/* SPDX-License-Identifier: MIT */
/* ACPI tables by signature, the CPUs of the MADT, the FADT's reset (ACPI 6.4, 5.2.5 to 5.2.12). */
#include "guest.h"

#define HEADER_SIZE      36
#define MADT_ENTRIES     44
#define MADT_LOCAL_APIC  0
#define MADT_CPU_ENABLED 0x1

#define FADT_FLAGS           112
#define FADT_RESET_REG_SUP   (1u << 10)
#define FADT_RESET_SPACE     116
#define FADT_RESET_ADDRESS   120
#define FADT_RESET_VALUE     128
#define FADT_SPACE_SYSTEM_IO 1

static uint32_t read32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static uint64_t read64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static bool checksum_ok(const uint8_t *p, uint32_t len)
{
	uint8_t sum = 0;

	for (uint32_t i = 0; i < len; i++)
		sum = (uint8_t)(sum + p[i]);
	return sum == 0;
}

const uint8_t *acpi_find(const char *signature)
{
	const uint8_t *rsdp = NULL;
	const uint8_t *xsdt;

	/* On 16-byte boundaries of the BIOS area. */
	for (uint64_t a = 0xe0000; a < 0x100000 && !rsdp; a += 16)
		if (!memcmp((const void *)(uintptr_t)a, "RSD PTR ", 8))
			rsdp = (const uint8_t *)(uintptr_t)a;
	if (!rsdp || !checksum_ok(rsdp, 20) || !checksum_ok(rsdp, 36))
		return NULL;
	xsdt = (const uint8_t *)(uintptr_t)read64(rsdp + 24);
	if (memcmp(xsdt, "XSDT", 4) || !checksum_ok(xsdt, read32(xsdt + 4)))
		return NULL;
	for (uint32_t at = HEADER_SIZE; at + 8 <= read32(xsdt + 4); at += 8) {
		const uint8_t *table = (const uint8_t *)(uintptr_t)read64(xsdt + at);

		if (!memcmp(table, signature, 4) && checksum_ok(table, read32(table + 4)))
			return table;
	}
	return NULL;
}

unsigned int acpi_cpus(uint8_t *apic_ids, unsigned int max)
{
	const uint8_t *madt = acpi_find("APIC");
	unsigned int nr = 0;

	if (!madt)
		return 0;
	for (uint32_t at = MADT_ENTRIES; at + 2 <= read32(madt + 4) && madt[at + 1] >= 2;
	     at += madt[at + 1]) {
		if (madt[at] != MADT_LOCAL_APIC || !(read32(madt + at + 4) & MADT_CPU_ENABLED))
			continue;
		if (nr < max)
			apic_ids[nr] = madt[at + 3];
		nr++;
	}
	return nr;
}

_Noreturn void guest_reset(void)
{
	const uint8_t *fadt = acpi_find("FACP");
	uint32_t flags;
	uint64_t address;

	if (!fadt)
		guest_fail("no FADT");
	memcpy(&flags, fadt + FADT_FLAGS, sizeof(flags));
	memcpy(&address, fadt + FADT_RESET_ADDRESS, sizeof(address));
	if (!(flags & FADT_RESET_REG_SUP) || fadt[FADT_RESET_SPACE] != FADT_SPACE_SYSTEM_IO)
		guest_fail("the FADT has no reset register in port space");
	outb((uint16_t)address, fadt[FADT_RESET_VALUE]);
	for (uint64_t start = rdtsc(); rdtsc() - start < PATIENCE;)
		cpu_relax();
	guest_fail("still alive after the reset register was written");
}
