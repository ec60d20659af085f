/* SPDX-License-Identifier: MIT */
/* A VM's QMP: the commands that act on a struct vm, and its events. Loop's thread only. */
#ifndef VMM_CONTROL_VM_CONTROL_H
#define VMM_CONTROL_VM_CONTROL_H

#include "framevisor/error.h"
#include "framevisor/event_loop.h"
#include "framevisor/vm.h"

struct vm_control;
struct qmp_command;
struct qmp_server;

/* Starts to serve QMP on listen_fd (which becomes the server's) and takes the VM's events. on_error
 * is called after the VM stopped with an internal error. The VM must outlive the control. */
struct vm_control *vm_control_create(struct event_loop *loop, struct vm *vm, int listen_fd,
				     void (*on_error)(void *opaque), void *opaque,
				     struct error *err);
void vm_control_destroy(struct vm_control *control);

/* A second receiver of the VM's events, called after the first; fn NULL: none. */
void vm_control_set_listener(struct vm_control *control, vm_event_fn fn, void *opaque);

/* The commands of a VM, for a server of another kind; their opaque is the control. */
const struct qmp_command *vm_control_commands(size_t *nr);

/* Sends the event as QEMU's clients know it; those about sizes are the server's own. */
void vm_control_send_event(const struct vm_control *control, struct qmp_server *server,
			   enum vm_event event);

/* The name QMP has for a state: "running", "paused", "prelaunch", "shutdown", "internal-error". */
const char *vm_control_state_name(enum vm_state state);

#endif
