/* SPDX-License-Identifier: MIT */
/* Where a guest's memory lies: see memory_map.h. */
#include "vmm/memory_map.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "framevisor/layout.h"
#include "framevisor/size.h"

/* A guest of this size adds memory in units of 2 GiB (Linux), which must lie in one node. */
#define LARGE_GUEST (UINT64_C(64) << 30)

static uint64_t round_up(uint64_t value, uint64_t unit)
{
	return (value + unit - 1) / unit * unit;
}

static uint64_t hotplug_size(const struct vm_numa_node *node, uint64_t unit)
{
	return round_up(node->max - node->mem, unit);
}

static void add_range(struct memory_map *map, uint64_t base, uint64_t size, unsigned int node,
		      bool hotplug)
{
	map->range[map->nr++] = (struct acpi_memory){
		.base = base, .size = size, .node = node, .hotplug = hotplug
	};
	map->end = base + size;
}

/* The boot memory of a node from *gpa on, which is moved behind it. */
static void add_boot(struct memory_map *map, uint64_t size, unsigned int node, uint64_t *gpa)
{
	if (*gpa < LAYOUT_LOW_RAM_END && size > LAYOUT_LOW_RAM_END - *gpa) {
		uint64_t low = LAYOUT_LOW_RAM_END - *gpa;

		add_range(map, *gpa, low, node, false);
		*gpa = LAYOUT_HIGH_RAM;
		size -= low;
	} else if (*gpa == LAYOUT_LOW_RAM_END) {
		*gpa = LAYOUT_HIGH_RAM;
	}
	if (size)
		add_range(map, *gpa, size, node, false);
	*gpa += size;
}

void memory_map_create(struct memory_map *map, const struct vm_numa_node *nodes,
		       unsigned int nr_nodes)
{
	uint64_t gpa = 0, boot = 0, max = 0, unit = LAYOUT_HOTPLUG_UNIT;

	*map = (struct memory_map){ .nr = 0 };
	for (unsigned int i = 0; i < nr_nodes; i++) {
		add_boot(map, nodes[i].mem, i, &gpa);
		boot += nodes[i].mem;
		max += nodes[i].max;
	}
	map->nr_boot = map->nr;
	if (nr_nodes > 1 && max >= LARGE_GUEST)
		unit = LAYOUT_HOTPLUG_ALIGN_HIGH;
	for (unsigned int i = 0; i < nr_nodes; i++)
		map->hotplug_bytes += hotplug_size(&nodes[i], unit);
	gpa = layout_hotplug(boot, map->hotplug_bytes);
	for (unsigned int i = 0; i < nr_nodes; i++) {
		uint64_t size = hotplug_size(&nodes[i], unit);

		if (size)
			add_range(map, gpa, size, i, true);
		gpa += size;
	}
}

void memory_map_add_devices(struct memory_map *map, uint64_t boot,
			    const struct vm_mem_device *devices, const uint64_t *sizes,
			    unsigned int nr)
{
	uint64_t gpa;

	for (unsigned int i = 0; i < nr; i++)
		map->hotplug_bytes += sizes[i];
	gpa = layout_hotplug(boot, map->hotplug_bytes);
	for (unsigned int i = 0; i < nr; i++) {
		add_range(map, gpa, sizes[i], devices[i].node, true);
		gpa += sizes[i];
	}
}

unsigned int memory_map_cache_cpus(const struct vm_numa *numa, unsigned int cpus)
{
	unsigned int sharing = 1;

	if (!numa->nr)
		return 0;
	for (unsigned int wider = 2; wider <= cpus; wider *= 2) {
		uint64_t group = (UINT64_C(1) << (wider % 64)) - 1;

		if (wider >= 64)
			break;
		for (unsigned int cpu = 0; cpu < cpus; cpu += wider) {
			uint64_t all = cpus < 64 ? (UINT64_C(1) << cpus) - 1 : UINT64_MAX;
			uint64_t mask = (group << cpu) & all;
			bool together = false;

			for (unsigned int i = 0; i < numa->nr; i++)
				together = together || (numa->node[i].cpus & mask) == mask;
			if (!together)
				return sharing;
		}
		sharing = wider;
	}
	return sharing;
}

/* ---- Is it a machine? ---- */

static int check_host_nodes(const struct vm_numa_node *node, unsigned int i, struct error *err)
{
	if (node->policy == VM_MEMORY_ANY) {
		if (node->host_nodes)
			return error_set(err, EINVAL, "node %u: nodes of the host but no policy",
					 i);
		return 0;
	}
	if (!node->host_nodes)
		return error_set(err, EINVAL, "node %u: a policy but no node of the host", i);
	for (unsigned int host = 0; host < 64; host++) {
		char path[64];

		if (!(node->host_nodes >> host & 1))
			continue;
		snprintf(path, sizeof(path), "/sys/devices/system/node/node%u", host);
		if (access(path, F_OK) != 0 &&
		    (host > 0 || access("/sys/devices/system/node", F_OK) == 0))
			return error_set(err, EINVAL, "node %u: this host has no node %u", i, host);
	}
	return 0;
}

static int check_node(const struct vm_numa_node *node, unsigned int i, struct error *err)
{
	char mem[SIZE_TEXT_MAX], max[SIZE_TEXT_MAX];

	size_format(node->mem, mem, sizeof(mem));
	size_format(node->max, max, sizeof(max));
	if (!frame_aligned(node->mem) || !frame_aligned(node->max))
		return error_set(err, EINVAL,
				 "node %u: memory of %s, at most %s, is not in steps of %s", i, mem,
				 max, frame_size_name());
	if (node->max < node->mem)
		return error_set(err, EINVAL, "node %u: at most %s is less than its memory, %s", i,
				 max, mem);
	if (!node->max)
		return error_set(err, EINVAL, "node %u has no memory", i);
	if (i == 0 && node->mem < (UINT64_C(4) << 20))
		return error_set(err, EINVAL,
				 "node 0 needs at least 4 MiB at boot: the kernel starts "
				 "there");
	return check_host_nodes(node, i, err);
}

static int check_cpus(const struct vm_config *config, struct error *err)
{
	const struct vm_numa *numa = &config->numa;
	uint64_t seen = 0;

	for (unsigned int i = 0; i < numa->nr; i++) {
		uint64_t cpus = numa->node[i].cpus;

		if (config->cpus < 64 && cpus >> config->cpus)
			return error_set(err, EINVAL,
					 "node %u: there is no CPU %d; the VM has %u (--cpus)", i,
					 63 - __builtin_clzll(cpus), config->cpus);
		if (cpus & seen)
			return error_set(err, EINVAL,
					 "CPU %d is in node %u and in another one before",
					 __builtin_ctzll(cpus & seen), i);
		seen |= cpus;
	}
	for (unsigned int cpu = 0; cpu < config->cpus; cpu++)
		if (!(seen >> cpu & 1))
			return error_set(err, EINVAL, "CPU %u of %u is in no node", cpu,
					 config->cpus);
	return 0;
}

static int check_sums(const struct vm_config *config, struct error *err)
{
	const struct vm_numa *numa = &config->numa;
	char sum[SIZE_TEXT_MAX], want[SIZE_TEXT_MAX];
	uint64_t mem = 0, max = 0;

	for (unsigned int i = 0; i < numa->nr; i++) {
		mem += numa->node[i].mem;
		max += numa->node[i].max;
	}
	if (mem != config->mem_bytes)
		return error_set(err, EINVAL,
				 "the nodes have %s of memory together, the VM boots with %s",
				 size_format(mem, sum, sizeof(sum)),
				 size_format(config->mem_bytes, want, sizeof(want)));
	if (max != config->mem_max)
		return error_set(
			err, EINVAL,
			"the nodes may have %s together, the VM has at most %s (--mem max=)",
			size_format(max, sum, sizeof(sum)),
			size_format(config->mem_max, want, sizeof(want)));
	return 0;
}

static int check_distances(const struct vm_numa *numa, struct error *err)
{
	for (unsigned int i = 0; i < numa->nr; i++) {
		for (unsigned int j = 0; j < numa->nr; j++) {
			unsigned int distance = numa->distance[i][j];

			if (i == j ? distance == VM_DISTANCE_LOCAL
				   : distance > VM_DISTANCE_LOCAL && distance <= VM_DISTANCE_MAX)
				continue;
			return error_set(err, EINVAL,
					 "the distance from node %u to node %u must be %s, not %u",
					 i, j, i == j ? "10" : "11 to 254", distance);
		}
	}
	return 0;
}

int memory_map_check(const struct vm_config *config, struct error *err)
{
	const struct vm_numa *numa = &config->numa;
	int ret = 0;

	if (!numa->nr)
		return 0;
	if (numa->nr > VM_NODES_MAX)
		return error_set(err, EINVAL, "%u nodes are too many: the limit is %d", numa->nr,
				 VM_NODES_MAX);
	for (unsigned int i = 0; i < numa->nr && ret == 0; i++)
		ret = check_node(&numa->node[i], i, err);
	if (ret == 0)
		ret = check_cpus(config, err);
	if (ret == 0)
		ret = check_sums(config, err);
	return ret ? ret : check_distances(numa, err);
}
