/* SPDX-License-Identifier: MIT */
/*
 * The ACPI tables: see acpi.h. Section numbers are those of the ACPI specification 6.3. The structs
 * are the tables as they lie in memory (little endian, packed).
 */
#include "vmm/boot/acpi.h"

#include <errno.h>
#include <string.h>

#include "framevisor/layout.h"
#include "framevisor/platform.h"
#include "vmm/boot/acpi_internal.h"

/* unsigned char dsdt_aml_code[], made by iasl from dsdt.asl */
#include "dsdt.hex"

#define OEM_ID          "FRAMEV"
#define OEM_TABLE_ID    "FRAMEVSR"
#define CREATOR_ID      "FRVS"
#define TABLE_ALIGN     64 /* FACS demands 64, the others nothing */
#define ACPI_SPACE_IO   1
#define NO_FIELD_ACCESS 0

struct packed acpi_gas { /* 5.2.3.2, generic address */
	uint8_t space_id;
	uint8_t bit_width;
	uint8_t bit_offset;
	uint8_t access_size;
	uint64_t address;
};

struct packed acpi_rsdp { /* 5.2.5.3 */
	char signature[8];
	uint8_t checksum; /* of the first 20 bytes */
	char oem_id[6];
	uint8_t revision;
	uint32_t rsdt_address;
	uint32_t length;
	uint64_t xsdt_address;
	uint8_t extended_checksum;
	uint8_t reserved[3];
};

struct packed acpi_fadt { /* 5.2.9 */
	struct acpi_header header;
	uint32_t firmware_ctrl;
	uint32_t dsdt;
	uint8_t reserved0;
	uint8_t preferred_pm_profile;
	uint16_t sci_int;
	uint32_t smi_cmd;
	uint8_t acpi_enable, acpi_disable, s4bios_req, pstate_cnt;
	uint32_t pm1a_evt_blk, pm1b_evt_blk, pm1a_cnt_blk, pm1b_cnt_blk;
	uint32_t pm2_cnt_blk, pm_tmr_blk, gpe0_blk, gpe1_blk;
	uint8_t pm1_evt_len, pm1_cnt_len, pm2_cnt_len, pm_tmr_len;
	uint8_t gpe0_blk_len, gpe1_blk_len, gpe1_base, cst_cnt;
	uint16_t p_lvl2_lat, p_lvl3_lat, flush_size, flush_stride;
	uint8_t duty_offset, duty_width, day_alrm, mon_alrm, century;
	uint16_t iapc_boot_arch;
	uint8_t reserved1;
	uint32_t flags;
	struct acpi_gas reset_reg;
	uint8_t reset_value;
	uint16_t arm_boot_arch;
	uint8_t minor_revision;
	uint64_t x_firmware_ctrl, x_dsdt;
	struct acpi_gas x_pm1a_evt_blk, x_pm1b_evt_blk, x_pm1a_cnt_blk, x_pm1b_cnt_blk;
	struct acpi_gas x_pm2_cnt_blk, x_pm_tmr_blk, x_gpe0_blk, x_gpe1_blk;
	struct acpi_gas sleep_control_reg, sleep_status_reg;
	uint64_t hypervisor_vendor;
};
_Static_assert(sizeof(struct acpi_fadt) == 276, "FADT of revision 6");

/* FADT flags (table 5-34) and IAPC_BOOT_ARCH (5.2.9.3). */
#define FADT_WBINVD        (1u << 0)
#define FADT_PROC_C1       (1u << 2)
#define FADT_SLP_BUTTON    (1u << 5) /* set: there is no fixed sleep button */
#define FADT_FIX_RTC       (1u << 6) /* set: no RTC wake-up bit in the fixed registers */
#define FADT_TMR_VAL_EXT   (1u << 8) /* the timer has 32 bits */
#define FADT_RESET_REG_SUP (1u << 10)
#define BOOT_LEGACY        (1u << 0) /* ISA devices: the serial port; no 8042 (bit 1 clear) */
#define BOOT_NO_VGA        (1u << 2)

struct packed acpi_facs { /* 5.2.10 */
	char signature[4];
	uint32_t length;
	uint32_t hardware_signature;
	uint32_t firmware_waking_vector;
	uint32_t global_lock;
	uint32_t flags;
	uint64_t x_firmware_waking_vector;
	uint8_t version;
	uint8_t reserved[31];
};
_Static_assert(sizeof(struct acpi_facs) == 64, "FACS");

struct packed acpi_madt { /* 5.2.12 */
	struct acpi_header header;
	uint32_t lapic_address;
	uint32_t flags;
};
#define MADT_PCAT_COMPAT 1u

struct packed madt_lapic { /* type 0 */
	uint8_t type, length, acpi_id, apic_id;
	uint32_t flags;
};
#define MADT_LAPIC_ENABLED 1u

struct packed madt_ioapic { /* type 1 */
	uint8_t type, length, ioapic_id, reserved;
	uint32_t address, gsi_base;
};

struct packed madt_override { /* type 2 */
	uint8_t type, length, bus, source;
	uint32_t gsi;
	uint16_t flags;
};
#define MADT_ACTIVE_HIGH 0x1 /* polarity, bits 0-1 */
#define MADT_LEVEL       0xc /* trigger mode, bits 2-3 */

struct packed madt_lapic_nmi { /* type 4 */
	uint8_t type, length, acpi_id;
	uint16_t flags;
	uint8_t lint;
};
#define MADT_ALL_CPUS 0xff

struct packed acpi_mcfg { /* PCI firmware specification 3.0, 4.1.2 */
	struct acpi_header header;
	uint64_t reserved;
	uint64_t base;
	uint16_t segment;
	uint8_t bus_start, bus_end;
	uint32_t reserved1;
};

uint64_t acpi_append(struct acpi_builder *b, const void *data, size_t len)
{
	uint64_t gpa = b->gpa + b->used;

	if (b->used <= b->room && len <= b->room - b->used)
		memcpy(b->buf + b->used, data, len);
	b->used += len;
	return gpa;
}

void acpi_align(struct acpi_builder *b)
{
	b->used = (b->used + TABLE_ALIGN - 1) & ~(size_t)(TABLE_ALIGN - 1);
}

static uint8_t checksum(const void *data, size_t len)
{
	const uint8_t *bytes = data;
	uint8_t sum = 0;

	while (len-- > 0)
		sum = (uint8_t)(sum + *bytes++);
	return (uint8_t)-sum;
}

struct acpi_header acpi_make_header(const char *signature, size_t length, uint8_t revision)
{
	struct acpi_header header = {
		.length = (uint32_t)length,
		.revision = revision,
		.oem_revision = 1,
		.creator_revision = 1,
	};

	memcpy(header.signature, signature, sizeof(header.signature));
	memcpy(header.oem_id, OEM_ID, sizeof(header.oem_id));
	memcpy(header.oem_table_id, OEM_TABLE_ID, sizeof(header.oem_table_id));
	memcpy(header.creator_id, CREATOR_ID, sizeof(header.creator_id));
	return header;
}

void acpi_finish_table(struct acpi_builder *b, size_t start)
{
	struct acpi_header header;

	if (b->used > b->room)
		return;
	memcpy(&header, b->buf + start, sizeof(header));
	header.length = (uint32_t)(b->used - start);
	header.checksum = 0;
	memcpy(b->buf + start, &header, sizeof(header));
	header.checksum = checksum(b->buf + start, header.length);
	memcpy(b->buf + start, &header, sizeof(header));
}

static struct acpi_gas io_gas(uint16_t port, uint8_t bits)
{
	return (struct acpi_gas){
		.space_id = ACPI_SPACE_IO,
		.bit_width = bits,
		.access_size = bits == 8 ? 1 : NO_FIELD_ACCESS,
		.address = port,
	};
}

static uint64_t add_facs(struct acpi_builder *b)
{
	struct acpi_facs facs = { .length = sizeof(facs), .version = 2 };

	memcpy(facs.signature, "FACS", sizeof(facs.signature));
	acpi_align(b);
	return acpi_append(b, &facs, sizeof(facs));
}

static uint64_t add_dsdt(struct acpi_builder *b)
{
	acpi_align(b);
	return acpi_append(b, dsdt_aml_code, sizeof(dsdt_aml_code));
}

static uint64_t add_fadt(struct acpi_builder *b, uint64_t facs, uint64_t dsdt)
{
	/* Without an SMI port (smi_cmd 0) the machine is always in ACPI mode. The 32-bit fields and
	 * their X_ twins say the same. */
	struct acpi_fadt fadt = {
		.header = acpi_make_header("FACP", sizeof(fadt), 6),
		.minor_revision = 3,
		.firmware_ctrl = (uint32_t)facs,
		.dsdt = (uint32_t)dsdt,
		.x_dsdt = dsdt,
		.sci_int = LAYOUT_GSI_SCI,
		.pm1a_evt_blk = LAYOUT_PORT_PM,
		.pm1_evt_len = 4,
		.x_pm1a_evt_blk = io_gas(LAYOUT_PORT_PM, 32),
		.pm1a_cnt_blk = LAYOUT_PORT_PM + 4,
		.pm1_cnt_len = 2,
		.x_pm1a_cnt_blk = io_gas(LAYOUT_PORT_PM + 4, 16),
		.pm_tmr_blk = LAYOUT_PORT_PM + 8,
		.pm_tmr_len = 4,
		.x_pm_tmr_blk = io_gas(LAYOUT_PORT_PM + 8, 32),
		.p_lvl2_lat = 0xffff, /* no C2, no C3 */
		.p_lvl3_lat = 0xffff,
		.century = 0x32, /* where PC firmware keeps it in CMOS */
		.iapc_boot_arch = BOOT_LEGACY | BOOT_NO_VGA,
		.flags = FADT_WBINVD | FADT_PROC_C1 | FADT_SLP_BUTTON | FADT_FIX_RTC |
			 FADT_TMR_VAL_EXT | FADT_RESET_REG_SUP,
		.reset_reg = io_gas(LAYOUT_PORT_RESET, 8),
		.reset_value = POWER_RESET_VALUE,
	};

	fadt.header.checksum = checksum(&fadt, sizeof(fadt));
	acpi_align(b);
	return acpi_append(b, &fadt, sizeof(fadt));
}

static void add_madt_irqs(struct acpi_builder *b)
{
	const struct madt_ioapic ioapic = {
		.type = 1,
		.length = sizeof(ioapic),
		.address = LAYOUT_IOAPIC,
	};
	/* The PIT is on pin 2, as on every PC with an IOAPIC. */
	const struct madt_override pit = {
		.type = 2, .length = sizeof(pit), .source = 0, .gsi = 2
	};
	const struct madt_override sci = {
		.type = 2,
		.length = sizeof(sci),
		.source = LAYOUT_GSI_SCI,
		.gsi = LAYOUT_GSI_SCI,
		.flags = MADT_ACTIVE_HIGH | MADT_LEVEL,
	};
	const struct madt_lapic_nmi nmi = {
		.type = 4,
		.length = sizeof(nmi),
		.acpi_id = MADT_ALL_CPUS,
		.lint = 1,
	};

	acpi_append(b, &ioapic, sizeof(ioapic));
	acpi_append(b, &pit, sizeof(pit));
	acpi_append(b, &sci, sizeof(sci));
	acpi_append(b, &nmi, sizeof(nmi));
}

static uint64_t add_madt(struct acpi_builder *b, unsigned int cpus)
{
	struct acpi_madt madt = {
		.header = acpi_make_header("APIC", sizeof(madt), 4),
		.lapic_address = LAYOUT_LAPIC,
		.flags = MADT_PCAT_COMPAT,
	};
	unsigned int cpu;
	uint64_t gpa;
	size_t start;

	acpi_align(b);
	start = b->used;
	gpa = acpi_append(b, &madt, sizeof(madt));
	for (cpu = 0; cpu < cpus; cpu++) {
		const struct madt_lapic lapic = {
			.type = 0,
			.length = sizeof(lapic),
			.acpi_id = (uint8_t)cpu,
			.apic_id = (uint8_t)cpu,
			.flags = MADT_LAPIC_ENABLED,
		};

		acpi_append(b, &lapic, sizeof(lapic));
	}
	add_madt_irqs(b);

	acpi_finish_table(b, start);
	return gpa;
}

static uint64_t add_mcfg(struct acpi_builder *b)
{
	struct acpi_mcfg mcfg = {
		.header = acpi_make_header("MCFG", sizeof(mcfg), 1),
		.base = LAYOUT_ECAM,
		.bus_start = 0,
		.bus_end = LAYOUT_PCI_BUS_MAX,
	};

	mcfg.header.checksum = checksum(&mcfg, sizeof(mcfg));
	acpi_align(b);
	return acpi_append(b, &mcfg, sizeof(mcfg));
}

static uint64_t add_xsdt(struct acpi_builder *b, const uint64_t *tables, unsigned int nr)
{
	struct acpi_header header = acpi_make_header("XSDT", sizeof(header), 1);
	uint64_t gpa;
	size_t start;

	acpi_align(b);
	start = b->used;
	gpa = acpi_append(b, &header, sizeof(header));
	acpi_append(b, tables, nr * sizeof(*tables));
	acpi_finish_table(b, start);
	return gpa;
}

int acpi_build(uint8_t *buf, size_t room, uint64_t gpa, const struct acpi_config *config)
{
	struct acpi_rsdp rsdp = { .revision = 2, .length = sizeof(rsdp) };
	struct acpi_builder b = { .buf = buf, .room = room, .gpa = gpa };
	uint64_t tables[5], facs, dsdt;
	unsigned int nr = 0;

	acpi_append(&b, &rsdp, sizeof(rsdp)); /* its place; filled in below */
	facs = add_facs(&b);
	dsdt = add_dsdt(&b);
	tables[nr++] = add_fadt(&b, facs, dsdt);
	tables[nr++] = add_madt(&b, config->cpus);
	tables[nr++] = add_mcfg(&b);
	if (config->nr_memory)
		tables[nr++] = acpi_add_srat(&b, config);
	if (config->nr_nodes > 1)
		tables[nr++] = acpi_add_slit(&b, config);

	memcpy(rsdp.signature, "RSD PTR ", sizeof(rsdp.signature));
	memcpy(rsdp.oem_id, OEM_ID, sizeof(rsdp.oem_id));
	rsdp.xsdt_address = add_xsdt(&b, tables, nr);
	rsdp.checksum = checksum(&rsdp, 20);
	rsdp.extended_checksum = checksum(&rsdp, sizeof(rsdp));

	if (b.used > room)
		return -ENOSPC;
	memcpy(buf, &rsdp, sizeof(rsdp));
	return (int)b.used;
}
