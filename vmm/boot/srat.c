/* SPDX-License-Identifier: MIT */
/*
 * SLIT, the system locality information table (ACPI 6.3, 5.2.17): distances between nodes. And
 * SRAT, the system resource affinity table (5.2.16). Linux takes three things from that: the node
 * of each CPU and of each range of memory; which ranges may get memory later, without which
 * virtio-mem would add memory to a node it has to guess; and the end of all memory that there can
 * ever be, by which it decides about bounce buffers and the room for its linear mapping.
 */
#include "vmm/boot/acpi_internal.h"

struct packed acpi_srat {
	struct acpi_header header;
	uint32_t reserved1; /* 1, for backward compatibility */
	uint64_t reserved2;
};

struct packed srat_lapic { /* type 0, 5.2.16.1 */
	uint8_t type, length;
	uint8_t node_low; /* bits 7:0 of the proximity domain */
	uint8_t apic_id;
	uint32_t flags;
	uint8_t sapic_eid;
	uint8_t node_high[3];
	uint32_t clock_domain;
};
_Static_assert(sizeof(struct srat_lapic) == 16, "SRAT, local APIC affinity");

struct packed srat_memory { /* type 1, 5.2.16.2 */
	uint8_t type, length;
	uint32_t node;
	uint16_t reserved1;
	uint64_t base, size;
	uint32_t reserved2;
	uint32_t flags;
	uint64_t reserved3;
};
_Static_assert(sizeof(struct srat_memory) == 40, "SRAT, memory affinity");

#define SRAT_ENABLED       1u
#define SRAT_HOT_PLUGGABLE 2u

uint64_t acpi_add_srat(struct acpi_builder *b, const struct acpi_config *config)
{
	const struct acpi_srat srat = {
		.header = acpi_make_header("SRAT", sizeof(srat), 3),
		.reserved1 = 1,
	};
	unsigned int i;
	uint64_t gpa;
	size_t start;

	acpi_align(b);
	start = b->used;
	gpa = acpi_append(b, &srat, sizeof(srat));
	for (i = 0; i < config->cpus; i++) {
		const struct srat_lapic lapic = {
			.type = 0,
			.length = sizeof(lapic),
			.node_low = config->cpu_node ? config->cpu_node[i] : 0,
			.apic_id = (uint8_t)i,
			.flags = SRAT_ENABLED,
		};

		acpi_append(b, &lapic, sizeof(lapic));
	}
	for (i = 0; i < config->nr_memory; i++) {
		const struct acpi_memory *range = &config->memory[i];
		const struct srat_memory memory = {
			.type = 1,
			.length = sizeof(memory),
			.node = range->node,
			.base = range->base,
			.size = range->size,
			.flags = SRAT_ENABLED | (range->hotplug ? SRAT_HOT_PLUGGABLE : 0),
		};

		acpi_append(b, &memory, sizeof(memory));
	}
	acpi_finish_table(b, start);
	return gpa;
}

struct packed acpi_slit {
	struct acpi_header header;
	uint64_t nr;
	/* nr * nr bytes follow, row by row */
};

uint64_t acpi_add_slit(struct acpi_builder *b, const struct acpi_config *config)
{
	const struct acpi_slit slit = {
		.header = acpi_make_header("SLIT", sizeof(slit), 1),
		.nr = config->nr_nodes,
	};
	uint64_t gpa;
	size_t start;

	acpi_align(b);
	start = b->used;
	gpa = acpi_append(b, &slit, sizeof(slit));
	for (unsigned int from = 0; from < config->nr_nodes; from++)
		acpi_append(b, config->distance[from], config->nr_nodes);
	acpi_finish_table(b, start);
	return gpa;
}
