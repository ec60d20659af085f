/* SPDX-License-Identifier: MIT */
/* What the files that write ACPI tables share: the common header and the buffer that fills up. */
#ifndef VMM_BOOT_ACPI_INTERNAL_H
#define VMM_BOOT_ACPI_INTERNAL_H

#include <stddef.h>
#include <stdint.h>

#include "vmm/boot/acpi.h"

#define packed __attribute__((packed))

struct packed acpi_header { /* 5.2.6 */
	char signature[4];
	uint32_t length;
	uint8_t revision;
	uint8_t checksum;
	char oem_id[6];
	char oem_table_id[8];
	uint32_t oem_revision;
	char creator_id[4];
	uint32_t creator_revision;
};

/* used grows past room without writing, so that one check at the end does. */
struct acpi_builder {
	uint8_t *buf;
	size_t room;
	size_t used;
	uint64_t gpa;
};

/* Returns the address at which the guest finds it. */
uint64_t acpi_append(struct acpi_builder *b, const void *data, size_t len);
/* Tables begin at such an offset. */
void acpi_align(struct acpi_builder *b);
/* Without a checksum yet. */
struct acpi_header acpi_make_header(const char *signature, size_t length, uint8_t revision);
/* Sets length and checksum of the table that began at offset start and ends here. */
void acpi_finish_table(struct acpi_builder *b, size_t start);

/* srat.c: which memory and which CPUs are near each other. Returns its address. */
uint64_t acpi_add_srat(struct acpi_builder *b, const struct acpi_config *config);
/* How far nodes are apart. Returns its address. */
uint64_t acpi_add_slit(struct acpi_builder *b, const struct acpi_config *config);

#endif
