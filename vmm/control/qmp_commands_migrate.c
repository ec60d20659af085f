/* SPDX-License-Identifier: MIT */
/* QMP: moving a VM's frames to a node of the host, while it runs. */
#include <errno.h>

#include "framevisor/owner_client.h"
#include "vmm/control/vm_control_internal.h"

/* The pool's node that is node host of the kernel's, or -1. */
static int pool_node(const struct owner_client *client, uint64_t host)
{
	for (unsigned int nid = 0; nid < owner_client_nr_nodes(client); nid++) {
		int number = owner_client_host_node(client, nid);

		if (number >= 0 && (uint64_t)number == host)
			return (int)nid;
	}
	return -1;
}

/* Without an argument all of the guest's memory. */
static int guest_node(struct vm_memory *mem, json_t *args, struct vm_memory_move *move,
		      struct qmp_error *err)
{
	struct vm_memory_node nodes[OWNER_NODES_MAX];
	unsigned int nr = vm_memory_nodes(mem, nodes, OWNER_NODES_MAX);
	uint64_t node;

	if (!json_object_get(args, "guest-node"))
		return 0;
	if (qmp_arg_u64(args, "guest-node", &node, err) < 0)
		return -EINVAL;
	for (unsigned int i = 0; i < nr; i++)
		if (nodes[i].node == node) {
			move->of_node = true;
			move->node = (uint16_t)node;
			return 0;
		}
	return qmp_error_set(err, QMP_GENERIC_ERROR, "the guest has no node %llu",
			     (unsigned long long)node);
}

int vm_cmd_migrate(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct vm_control *control = opaque;
	struct vm_memory *mem = vm_get_memory(control->vm);
	struct vm_memory_move move = { .nr_frames = UINT64_MAX };
	struct error error = { 0 };
	uint64_t host;
	int nid;

	(void)reply;
	if (qmp_arg_u64(args, "host-node", &host, err) < 0 || guest_node(mem, args, &move, err) < 0)
		return -EINVAL;
	nid = pool_node(vm_memory_client(mem), host);
	if (nid < 0)
		return qmp_error_set(err, QMP_GENERIC_ERROR,
				     "the pool has no memory of the host's node %llu",
				     (unsigned long long)host);
	move.nodemask = UINT64_C(1) << nid;
	if (vm_memory_move_start(mem, &move, &error) < 0)
		return qmp_error_from(err, &error);
	return 0;
}

int vm_cmd_migrate_cancel(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct vm_control *control = opaque;

	(void)args;
	(void)reply;
	(void)err;
	vm_memory_move_cancel(vm_get_memory(control->vm));
	return 0;
}

/* Frames. longest-us: that one was out of the guest's reach, of all that this VM ever moved. */
int vm_cmd_query_migrate(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct vm_control *control = opaque;
	struct vm_memory *mem = vm_get_memory(control->vm);
	struct vm_memory_move_status status;
	struct vm_memory_stats stats;

	(void)args;
	(void)err;
	vm_memory_move_status(mem, &status);
	vm_memory_stats(mem, &stats);
	*reply = json_pack("{s:b,s:I,s:I,s:I,s:i,s:s,s:I}", "running", status.running, "done",
			   (json_int_t)status.done, "total", (json_int_t)status.total, "moved",
			   (json_int_t)status.moved, "error", -status.error, "message",
			   status.message, "longest-us", (json_int_t)(stats.migrate_max_ns / 1000));
	return 0;
}
