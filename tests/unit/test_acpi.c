/* SPDX-License-Identifier: MIT */
/* The ACPI tables: links, checksums, and that every number of the AML is one of layout.h. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "framevisor/layout.h"
#include "framevisor/platform.h"
#include "vmm/boot/acpi.h"

#define ROOM (LAYOUT_ACPI_END - LAYOUT_RSDP)

static uint8_t tables[ROOM];

static uint8_t sum(const uint8_t *data, size_t len)
{
	uint8_t total = 0;

	while (len-- > 0)
		total = (uint8_t)(total + *data++);
	return total;
}

static uint64_t get(const uint8_t *data, unsigned int size)
{
	uint64_t value = 0;

	memcpy(&value, data, size);
	return value;
}

static uint8_t *at(uint64_t gpa)
{
	assert_true(gpa >= LAYOUT_RSDP && gpa < LAYOUT_ACPI_END);
	return tables + (gpa - LAYOUT_RSDP);
}

/* The table with this signature, through RSDP and XSDT, or NULL; its checksum is checked. */
static uint8_t *look_for_table(const char *signature)
{
	uint8_t *xsdt = at(get(tables + 24, 8));
	uint64_t len = get(xsdt + 4, 4);
	uint64_t i;

	assert_memory_equal(xsdt, "XSDT", 4);
	assert_int_equal(sum(xsdt, len), 0);
	for (i = 36; i < len; i += 8) {
		uint8_t *table = at(get(xsdt + i, 8));

		if (memcmp(table, signature, 4) == 0) {
			assert_int_equal(sum(table, get(table + 4, 4)), 0);
			return table;
		}
	}
	return NULL;
}

static uint8_t *find_table(const char *signature)
{
	uint8_t *table = look_for_table(signature);

	if (!table)
		fail_msg("no table %s", signature);
	return table;
}

static int build(unsigned int cpus)
{
	struct acpi_config config = { .cpus = cpus };

	memset(tables, 0, sizeof(tables));
	return acpi_build(tables, sizeof(tables), LAYOUT_RSDP, &config);
}

static void test_rsdp(void **state)
{
	(void)state;
	assert_true(build(1) > 0);
	assert_memory_equal(tables, "RSD PTR ", 8);
	assert_int_equal(tables[15], 2);
	assert_int_equal(sum(tables, 20), 0);
	assert_int_equal(get(tables + 20, 4), 36);
	assert_int_equal(sum(tables, 36), 0);
}

static void test_fadt(void **state)
{
	uint8_t *fadt, *facs;

	(void)state;
	assert_true(build(1) > 0);
	fadt = find_table("FACP");
	assert_int_equal(get(fadt + 4, 4), 276);
	assert_int_equal(get(fadt + 46, 2), LAYOUT_GSI_SCI);
	assert_int_equal(get(fadt + 56, 4), LAYOUT_PORT_PM);
	assert_int_equal(get(fadt + 64, 4), LAYOUT_PORT_PM + 4);
	assert_int_equal(get(fadt + 76, 4), LAYOUT_PORT_PM + 8);
	assert_int_equal(get(fadt + 112, 4) & 1u << 20, 0);        /* not hardware reduced */
	assert_int_equal(get(fadt + 112, 4) & 1u << 4, 0);         /* fixed power button */
	assert_int_equal(get(fadt + 112, 4) & 1u << 10, 1u << 10); /* reset register */
	assert_int_equal(fadt[116], 1);                            /* in port space */
	assert_int_equal(get(fadt + 120, 8), LAYOUT_PORT_RESET);
	assert_int_equal(fadt[128], POWER_RESET_VALUE);
	assert_true(get(fadt + 140, 8) == get(fadt + 40, 4));
	assert_int_equal(get(fadt + 152, 8), LAYOUT_PORT_PM);
	assert_int_equal(get(fadt + 176, 8), LAYOUT_PORT_PM + 4);
	assert_int_equal(get(fadt + 212, 8), LAYOUT_PORT_PM + 8);
	facs = at(get(fadt + 36, 4));
	assert_memory_equal(facs, "FACS", 4);
	assert_int_equal((LAYOUT_RSDP + (uint64_t)(facs - tables)) % 64, 0);
}

static void test_madt(void **state)
{
	uint8_t *madt, *entry, *end;
	unsigned int cpus = 0, ioapics = 0, overrides = 0;

	(void)state;
	assert_true(build(64) > 0);
	madt = find_table("APIC");
	assert_int_equal(get(madt + 36, 4), LAYOUT_LAPIC);
	end = madt + get(madt + 4, 4);
	for (entry = madt + 44; entry < end; entry += entry[1]) {
		assert_true(entry[1] >= 2);
		switch (entry[0]) {
		case 0:
			assert_int_equal(entry[3], cpus);
			assert_int_equal(get(entry + 4, 4), 1);
			cpus++;
			break;
		case 1:
			assert_int_equal(get(entry + 4, 4), LAYOUT_IOAPIC);
			ioapics++;
			break;
		case 2:
			overrides++;
			assert_int_equal(get(entry + 4, 4), entry[3] == 0 ? 2 : LAYOUT_GSI_SCI);
			assert_int_equal(get(entry + 8, 2), entry[3] == 0 ? 0 : 0xd);
			break;
		default:
			break;
		}
	}
	assert_ptr_equal(entry, end);
	assert_int_equal(cpus, 64);
	assert_int_equal(ioapics, 1);
	assert_int_equal(overrides, 2);
}

static void test_mcfg(void **state)
{
	uint8_t *mcfg;

	(void)state;
	assert_true(build(1) > 0);
	mcfg = find_table("MCFG");
	assert_int_equal(get(mcfg + 4, 4), 60);
	assert_true(get(mcfg + 44, 8) == LAYOUT_ECAM);
	assert_int_equal(mcfg[54], 0);
	assert_int_equal(mcfg[55], LAYOUT_PCI_BUS_MAX);
}

/* Every CPU, then every range of memory; a machine that was not told its memory has no table. */
static void test_srat(void **state)
{
	const struct acpi_memory memory[] = {
		{ .base = 0, .size = LAYOUT_LOW_RAM_END },
		{ .base = LAYOUT_HIGH_RAM, .size = 0x40000000, .node = 1 },
		{ .base = 0x180000000, .size = 0x1000000000, .node = 0x12345, .hotplug = true },
	};
	const struct acpi_config config = { .cpus = 64, .memory = memory, .nr_memory = 3 };
	uint8_t *srat, *entry;
	unsigned int i;

	(void)state;
	assert_true(build(64) > 0);
	assert_null(look_for_table("SRAT"));

	memset(tables, 0, sizeof(tables));
	assert_true(acpi_build(tables, sizeof(tables), LAYOUT_RSDP, &config) > 0);
	srat = find_table("SRAT");
	assert_int_equal(get(srat + 4, 4), 48 + 64 * 16 + 3 * 40);
	assert_int_equal(srat[8], 3);
	assert_int_equal(get(srat + 36, 4), 1);
	for (i = 0, entry = srat + 48; i < 64; i++, entry += 16) {
		assert_int_equal(get(entry, 2), 16 << 8 | 0);
		assert_int_equal(entry[2], 0);
		assert_int_equal(entry[3], i);
		assert_int_equal(get(entry + 4, 4), 1);
	}
	for (i = 0; i < 3; i++, entry += 40) {
		assert_int_equal(get(entry, 2), 40 << 8 | 1);
		assert_int_equal(get(entry + 2, 4), memory[i].node);
		assert_true(get(entry + 8, 8) == memory[i].base);
		assert_true(get(entry + 16, 8) == memory[i].size);
		assert_int_equal(get(entry + 28, 4), memory[i].hotplug ? 3 : 1);
	}
	find_table("FACP");
	find_table("MCFG");
}

/* CPUs by node, and the distances as they were given; one node has no distances. */
static void test_slit(void **state)
{
	static const uint8_t distance[VM_NODES_MAX][VM_NODES_MAX] = { { 10, 21, 33 },
								      { 22, 10, 44 },
								      { 35, 46, 10 } };
	static const uint8_t cpu_node[] = { 0, 0, 1, 2 };
	const struct acpi_memory memory[] = { { .base = 0, .size = 0x40000000 } };
	struct acpi_config config = { .cpus = 4,
				      .memory = memory,
				      .nr_memory = 1,
				      .cpu_node = cpu_node,
				      .distance = distance,
				      .nr_nodes = 3 };
	uint8_t *slit, *srat;

	(void)state;
	memset(tables, 0, sizeof(tables));
	assert_true(acpi_build(tables, sizeof(tables), LAYOUT_RSDP, &config) > 0);
	srat = find_table("SRAT");
	for (unsigned int i = 0; i < 4; i++)
		assert_int_equal(srat[48 + 16 * i + 2], cpu_node[i]);
	slit = find_table("SLIT");
	assert_int_equal(get(slit + 4, 4), 44 + 9);
	assert_int_equal(get(slit + 36, 8), 3);
	for (unsigned int i = 0; i < 9; i++)
		assert_int_equal(slit[44 + i], distance[i / 3][i % 3]);
	config.nr_nodes = 1;
	memset(tables, 0, sizeof(tables));
	assert_true(acpi_build(tables, sizeof(tables), LAYOUT_RSDP, &config) > 0);
	assert_null(look_for_table("SLIT"));
}

/* Above all RAM, aligned, never in the hole, and below 4 GiB where it fits. */
static void test_hotplug_place(void **state)
{
	const uint64_t mib = 1 << 20, gib = 1 << 30;

	(void)state;
	assert_true(layout_hotplug(512 * mib, gib) == gib);
	assert_true(layout_hotplug(512 * mib, 2 * gib) == gib);
	assert_true(layout_hotplug(512 * mib, 2 * gib + 128 * mib) == 4 * gib);
	assert_true(layout_hotplug(2 * gib, gib) == 2 * gib);
	assert_true(layout_hotplug(2 * gib + 2 * mib, 128 * mib) == 4 * gib);
	assert_true(layout_hotplug(3 * gib, gib) == 4 * gib);
	assert_true(layout_hotplug(3 * gib + 2 * mib, gib) == 6 * gib);
	assert_true(layout_hotplug(5 * gib, gib) == 6 * gib);
	assert_true(layout_hotplug(5 * gib + 2 * mib, gib) == 8 * gib);
}

/* How often a resource descriptor is in the AML. */
static unsigned int count(const uint8_t *aml, size_t len, const void *bytes, size_t nr)
{
	unsigned int found = 0;
	size_t i;

	for (i = 0; i + nr <= len; i++)
		found += memcmp(aml + i, bytes, nr) == 0;
	return found;
}

struct io_port { /* I/O port descriptor, ACPI 6.4.2.5 */
	uint8_t tag, decode;
	uint16_t min, max;
	uint8_t align, len;
} __attribute__((packed));

static struct io_port io_port(uint16_t port, uint8_t len)
{
	return (struct io_port){
		.tag = 0x47, .decode = 1, .min = port, .max = port, .align = 1, .len = len
	};
}

static void expect_port(const uint8_t *aml, size_t len, uint16_t port, uint8_t ports)
{
	struct io_port descriptor = io_port(port, ports);

	assert_int_equal(count(aml, len, &descriptor, sizeof(descriptor)), 1);
}

static void expect_irq(const uint8_t *aml, size_t len, unsigned int irq)
{
	const uint8_t descriptor[] = { 0x23, (uint8_t)(1u << irq), (uint8_t)(1u << irq >> 8),
				       0x01 };

	assert_int_equal(count(aml, len, descriptor, sizeof(descriptor)), 1);
}

static void test_dsdt(void **state)
{
	struct { /* DWord address space descriptor, ACPI 6.4.3.5.2, from the granularity on */
		uint32_t granularity, min, max, offset, len;
	} window = { .min = LAYOUT_PCI_MMIO,
		     .max = LAYOUT_PCI_MMIO + LAYOUT_PCI_MMIO_SIZE - 1,
		     .len = LAYOUT_PCI_MMIO_SIZE };
	struct { /* 32-bit fixed memory descriptor, 6.4.3.4, from the base on */
		uint32_t base, len;
	} ecam = { .base = LAYOUT_ECAM, .len = LAYOUT_ECAM_SIZE };
	struct { /* word bus number range, 6.4.3.5.3 */
		uint16_t granularity, min, max, offset, len;
	} buses = { .max = LAYOUT_PCI_BUS_MAX, .len = LAYOUT_PCI_BUS_MAX + 1 };
	/* Name (_S5, Package () {n, n, 0, 0}): NameOp, name, PackageOp, length, count, BytePrefix
	 */
	const uint8_t s5[] = { 0x08, '_',
			       'S',  '5',
			       '_',  0x12,
			       0x08, 0x04,
			       0x0a, POWER_S5_SLP_TYP,
			       0x0a, POWER_S5_SLP_TYP,
			       0,    0 };
	const uint8_t *dsdt;
	size_t len;

	(void)state;
	assert_true(build(1) > 0);
	dsdt = at(get(find_table("FACP") + 140, 8));
	len = get(dsdt + 4, 4);
	assert_memory_equal(dsdt, "DSDT", 4);
	assert_int_equal(sum(dsdt, len), 0);

	assert_int_equal(count(dsdt, len, &window, sizeof(window)), 1);
	assert_int_equal(count(dsdt, len, &ecam, sizeof(ecam)), 1);
	assert_true(count(dsdt, len, &buses, sizeof(buses)) >= 1);
	assert_int_equal(count(dsdt, len, s5, sizeof(s5)), 1);
	expect_port(dsdt, len, LAYOUT_PORT_PCI_ADDR, 8);
	expect_port(dsdt, len, LAYOUT_PORT_PM, LAYOUT_PORT_RESET + 1 - LAYOUT_PORT_PM);
	expect_port(dsdt, len, LAYOUT_PORT_SERIAL, 8);
	expect_port(dsdt, len, LAYOUT_PORT_RTC, 2);
	expect_irq(dsdt, len, LAYOUT_GSI_SERIAL);
	assert_int_equal(LAYOUT_PORT_PCI_DATA, LAYOUT_PORT_PCI_ADDR + 4);
}

static void test_no_room(void **state)
{
	struct acpi_config config = { .cpus = 64 };
	int used;

	(void)state;
	used = build(64);
	assert_true(used > 0);
	memset(tables, 0xee, sizeof(tables));
	assert_int_equal(acpi_build(tables, (size_t)used - 1, LAYOUT_RSDP, &config), -ENOSPC);
	assert_int_equal(tables[used - 1], 0xee);
	assert_int_equal(acpi_build(tables, (size_t)used, LAYOUT_RSDP, &config), used);
	assert_int_equal(acpi_build(tables, 0, LAYOUT_RSDP, &config), -ENOSPC);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rsdp),          cmocka_unit_test(test_fadt),
		cmocka_unit_test(test_madt),          cmocka_unit_test(test_mcfg),
		cmocka_unit_test(test_srat),          cmocka_unit_test(test_slit),
		cmocka_unit_test(test_hotplug_place), cmocka_unit_test(test_dsdt),
		cmocka_unit_test(test_no_room),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
