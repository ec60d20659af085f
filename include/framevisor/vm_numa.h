/* SPDX-License-Identifier: MIT */
/* A guest's NUMA nodes: which vCPUs and how much memory each has, how far apart they are, and which
 * nodes of the host their memory comes from. */
#ifndef FRAMEVISOR_VM_NUMA_H
#define FRAMEVISOR_VM_NUMA_H

#include <stdint.h>

#include "framevisor/vm_memory.h"

#define VM_NODES_MAX 8

/* Distances as in the ACPI SLIT: the unit is a tenth of that to the own memory. */
#define VM_DISTANCE_LOCAL  10
#define VM_DISTANCE_REMOTE 20
#define VM_DISTANCE_MAX    254 /* 255: cannot be reached */

struct vm_numa_node {
	uint64_t cpus; /* bit n: vCPU n */
	uint64_t mem;  /* bytes at boot; not 0 in node 0 */
	uint64_t max;  /* with what can be plugged; at least mem, and not 0 */
	/* Where its frames come from. host_nodes: bit n = node n of the host; 0 if VM_MEMORY_ANY.
	 */
	enum vm_memory_policy policy;
	uint64_t host_nodes;
};

struct vm_numa {
	unsigned int nr; /* 0: the guest is told of no nodes, and its memory comes from anywhere */
	struct vm_numa_node node[VM_NODES_MAX];
	/* distance[from][to]; VM_DISTANCE_LOCAL and nothing else from a node to itself. */
	uint8_t distance[VM_NODES_MAX][VM_NODES_MAX];
};

#endif
