/* SPDX-License-Identifier: MIT */
/* Where a VM's frames are, for query-framevisor-memory: by guest node and host node, and in this
 * process. */
#include <stdlib.h>

#include "vmm/control/vm_control_internal.h"

static json_t *host_json(struct vm *vm, const struct vm_memory_node *node)
{
	json_t *list = json_array();

	for (unsigned int nid = 0; nid < OWNER_NODES_MAX; nid++)
		if (node->bound[nid])
			json_array_append_new(list, json_pack("{s:i,s:I}", "node",
							      vm_get_host_node(vm, nid), "frames",
							      (json_int_t)node->bound[nid]));
	return list;
}

json_t *vm_control_nodes_json(struct vm *vm)
{
	struct vm_memory_node *nodes = calloc(VM_NODES_MAX, sizeof(*nodes));
	json_t *list = json_array();
	unsigned int nr = nodes ? vm_memory_nodes(vm_get_memory(vm), nodes, VM_NODES_MAX) : 0;

	for (unsigned int i = 0; i < nr; i++) {
		uint64_t bound = 0;

		for (unsigned int nid = 0; nid < OWNER_NODES_MAX; nid++)
			bound += nodes[i].bound[nid];
		json_array_append_new(
			list,
			json_pack("{s:i,s:I,s:I,s:I,s:o}", "node", nodes[i].node, "ram",
				  (json_int_t)nodes[i].ram, "plugged", (json_int_t)nodes[i].plugged,
				  "bound", (json_int_t)bound, "host", host_json(vm, &nodes[i])));
	}
	free(nodes);
	return list;
}

json_t *vm_control_ranges_json(struct vm *vm)
{
	json_t *list = json_array();
	const void *address;
	uint64_t gpa, size;

	for (unsigned int i = 0;
	     (address = vm_memory_range_address(vm_get_memory(vm), i, &gpa, &size)); i++)
		json_array_append_new(list, json_pack("{s:I,s:I,s:I}", "guest", (json_int_t)gpa,
						      "size", (json_int_t)size, "address",
						      (json_int_t)(uintptr_t)address));
	return list;
}
