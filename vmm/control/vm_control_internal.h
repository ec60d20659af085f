/* SPDX-License-Identifier: MIT */
/* What the files with a VM's QMP commands share. */
#ifndef VMM_CONTROL_VM_CONTROL_INTERNAL_H
#define VMM_CONTROL_VM_CONTROL_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>

#include "framevisor/qmp_server.h"
#include "vmm/control/vm_control.h"

struct vm_control {
	struct vm *vm;
	struct qmp_server *server;
	uint64_t started_ms;
	bool host_reset; /* system_reset is being executed: the RESET event is not the guest's */
	void (*on_error)(void *opaque);
	void *opaque;
	vm_event_fn listener;
	void *listener_opaque;
};

/* qmp_commands_memory.c: handlers (opaque is the struct vm_control) ... */
int vm_cmd_balloon(void *opaque, json_t *args, json_t **reply, struct qmp_error *err);
int vm_cmd_free_page_hint(void *opaque, json_t *args, json_t **reply, struct qmp_error *err);
int vm_cmd_query_balloon(void *opaque, json_t *args, json_t **reply, struct qmp_error *err);
int vm_cmd_query_memory(void *opaque, json_t *args, json_t **reply, struct qmp_error *err);
int vm_cmd_query_memory_devices(void *opaque, json_t *args, json_t **reply, struct qmp_error *err);
int vm_cmd_query_memory_size_summary(void *opaque, json_t *args, json_t **reply,
				     struct qmp_error *err);
int vm_cmd_swap_out(void *opaque, json_t *args, json_t **reply, struct qmp_error *err);
/* qmp_commands_migrate.c */
int vm_cmd_migrate(void *opaque, json_t *args, json_t **reply, struct qmp_error *err);
int vm_cmd_migrate_cancel(void *opaque, json_t *args, json_t **reply, struct qmp_error *err);
int vm_cmd_query_migrate(void *opaque, json_t *args, json_t **reply, struct qmp_error *err);
/* ... and events: BALLOON_CHANGE, MEMORY_DEVICE_SIZE_CHANGE. */
void vm_control_size_event(struct vm_control *control);
void vm_control_mem_event(struct vm_control *control);

/* qmp_memory_nodes.c: parts of query-framevisor-memory. Frames by guest node and host node ... */
json_t *vm_control_nodes_json(struct vm *vm);
/* ... and where each range of guest memory is in this process. */
json_t *vm_control_ranges_json(struct vm *vm);

#endif
