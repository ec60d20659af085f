/* SPDX-License-Identifier: MIT */
/*
 * Where a guest's memory lies: its nodes' boot memory one after the other, around the hole, and
 * above it a region per node for what is plugged later. Pure functions of the configuration.
 */
#ifndef VMM_MEMORY_MAP_H
#define VMM_MEMORY_MAP_H

#include "framevisor/vm.h"
#include "vmm/boot/acpi.h"

/* One node is cut by the hole; a region for plugging per node, or per device that is listed. */
#define MEMORY_MAP_MAX (VM_NODES_MAX + 1 + VM_MEM_DEVICES_MAX)

struct memory_map {
	unsigned int nr;      /* all ranges */
	unsigned int nr_boot; /* of these, what is there at boot; the others are for plugging */
	struct acpi_memory range[MEMORY_MAP_MAX]; /* in the order of their addresses */
	uint64_t hotplug_bytes;                   /* of all regions for plugging together */
	uint64_t end;                             /* the first address behind everything */
};

/*
 * Checks a configuration's nodes against its CPUs and sizes, which are complete. Returns 0, or
 * -EINVAL with a sentence that names the node.
 */
int memory_map_check(const struct vm_config *config, struct error *err);

/* nodes[] has nr_nodes (at least 1) entries, which memory_map_check() found right. */
void memory_map_create(struct memory_map *map, const struct vm_numa_node *nodes,
		       unsigned int nr_nodes);

/* Adds a region for each of nr devices with a size of their own, where memory for plugging begins
 * in a guest that boots with boot bytes. No node has a region yet. */
void memory_map_add_devices(struct memory_map *map, uint64_t boot,
			    const struct vm_mem_device *devices, const uint64_t *sizes,
			    unsigned int nr);

/* How many vCPUs may share a cache without one of another node among them, for struct cpuid_config:
 * a power of two; 0: all, there are no nodes. */
unsigned int memory_map_cache_cpus(const struct vm_numa *numa, unsigned int cpus);

#endif
