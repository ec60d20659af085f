/* SPDX-License-Identifier: MIT */
/*
 * The QMP commands of a VM, with QEMU's names, arguments and meanings; those that QEMU does not
 * have are called framevisor-* and query-framevisor-*. See vm_control.h and docs/qmp.md.
 */
#include "vmm/control/vm_control.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "framevisor/clock.h"
#include "framevisor/frame.h"
#include "framevisor/qmp_server.h"
#include "vmm/control/vm_control_internal.h"

const char *vm_control_state_name(enum vm_state state)
{
	switch (state) {
	case VM_STATE_PRELAUNCH:
		return "prelaunch";
	case VM_STATE_RUNNING:
		return "running";
	case VM_STATE_PAUSED:
		return "paused";
	case VM_STATE_SHUTDOWN:
		return "shutdown";
	case VM_STATE_INTERNAL_ERROR:
		break;
	}
	return "internal-error";
}

/* ShutdownCause of QEMU's run-state.json. */
static const char *shutdown_reason_name(enum vm_shutdown_reason reason)
{
	switch (reason) {
	case VM_SHUTDOWN_GUEST:
		return "guest-shutdown";
	case VM_SHUTDOWN_GUEST_RESET:
		return "guest-reset";
	case VM_SHUTDOWN_HOST_QUIT:
		return "host-qmp-quit";
	case VM_SHUTDOWN_HOST_SIGNAL:
		return "host-signal";
	case VM_SHUTDOWN_ERROR:
		return "host-error";
	case VM_SHUTDOWN_NONE:
		break;
	}
	return "none";
}

/* --- state --- */

static int cmd_query_status(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct vm_control *control = opaque;
	enum vm_state state = vm_get_state(control->vm);

	(void)args;
	(void)err;
	*reply = json_pack("{s:s,s:b,s:b}", "status", vm_control_state_name(state), "running",
			   state == VM_STATE_RUNNING, "framevisor-waits-for-memory",
			   vm_waits_for_memory(control->vm));
	return 0;
}

static int cmd_query_name(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct vm_control *control = opaque;

	(void)args;
	(void)err;
	*reply = json_pack("{s:s}", "name", vm_get_config(control->vm)->name);
	return 0;
}

static int cmd_query_kvm(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	(void)opaque;
	(void)args;
	(void)err;
	*reply = json_pack("{s:b,s:b}", "enabled", 1, "present", 1);
	return 0;
}

static int cmd_query_cpus_fast(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct vm_control *control = opaque;
	unsigned int cpus = vm_get_config(control->vm)->cpus;

	(void)args;
	(void)err;
	*reply = json_array();
	for (unsigned int i = 0; i < cpus; i++) {
		json_t *path = json_sprintf("/machine/unattached/device[%u]", i);

		json_array_append_new(*reply, json_pack("{s:i,s:i,s:o,s:s}", "cpu-index", i,
							"thread-id", vm_get_cpu_tid(control->vm, i),
							"qom-path", path, "target", "x86_64"));
	}
	return 0;
}

static const char *hugepages_name(enum hugepages_mode mode)
{
	switch (mode) {
	case HUGEPAGES_REQUIRE:
		return "require";
	case HUGEPAGES_NEVER:
		return "never";
	case HUGEPAGES_GIGANTIC:
		return "1G";
	case HUGEPAGES_AUTO:
		break;
	}
	return "auto";
}

static int cmd_query_vm(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct vm_control *control = opaque;
	const struct vm_config *config = vm_get_config(control->vm);

	(void)args;
	(void)err;
	*reply =
		json_pack("{s:s,s:i,s:s,s:b,s:i,s:I,s:s,s:s,s:I}", "name", config->name, "pid",
			  (int)getpid(), "status", vm_control_state_name(vm_get_state(control->vm)),
			  "waits-for-memory", vm_waits_for_memory(control->vm), "cpus",
			  (int)config->cpus, "memory", (json_int_t)config->mem_bytes, "kernel",
			  config->kernel, "hugepages", hugepages_name(config->hugepages),
			  "uptime-ms", (json_int_t)(now_ms() - control->started_ms));
	return 0;
}

/* --- life cycle --- */

static int cmd_stop(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct vm_control *control = opaque;
	struct error error = { 0 };

	(void)args;
	(void)reply;
	return vm_pause(control->vm, &error) < 0 ? qmp_error_from(err, &error) : 0;
}

static int cmd_cont(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct vm_control *control = opaque;
	struct error error = { 0 };

	(void)args;
	(void)reply;
	return vm_resume(control->vm, &error) < 0 ? qmp_error_from(err, &error) : 0;
}

static int cmd_system_powerdown(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct vm_control *control = opaque;
	struct error error = { 0 };

	(void)args;
	(void)reply;
	return vm_powerdown(control->vm, &error) < 0 ? qmp_error_from(err, &error) : 0;
}

static int cmd_system_reset(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct vm_control *control = opaque;
	struct error error = { 0 };
	int ret;

	(void)args;
	(void)reply;
	control->host_reset = true;
	ret = vm_reset(control->vm, &error);
	control->host_reset = false;
	return ret < 0 ? qmp_error_from(err, &error) : 0;
}

static int cmd_quit(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct vm_control *control = opaque;

	(void)args;
	(void)reply;
	(void)err;
	vm_shutdown(control->vm, VM_SHUTDOWN_HOST_QUIT);
	return 0;
}

static const struct qmp_command vm_commands[] = {
	{ .name = "balloon", .handler = vm_cmd_balloon },
	{ .name = "cont", .handler = cmd_cont },
	{ .name = "query-balloon", .handler = vm_cmd_query_balloon },
	{ .name = "query-cpus-fast", .handler = cmd_query_cpus_fast },
	{ .name = "framevisor-free-page-hint", .handler = vm_cmd_free_page_hint },
	{ .name = "framevisor-migrate", .handler = vm_cmd_migrate },
	{ .name = "framevisor-migrate-cancel", .handler = vm_cmd_migrate_cancel },
	{ .name = "framevisor-swap-out", .handler = vm_cmd_swap_out },
	{ .name = "query-framevisor-migrate", .handler = vm_cmd_query_migrate },
	{ .name = "query-framevisor-memory", .handler = vm_cmd_query_memory },
	{ .name = "query-framevisor-vm", .handler = cmd_query_vm },
	{ .name = "query-kvm", .handler = cmd_query_kvm },
	{ .name = "query-memory-devices", .handler = vm_cmd_query_memory_devices },
	{ .name = "query-memory-size-summary", .handler = vm_cmd_query_memory_size_summary },
	{ .name = "query-name", .handler = cmd_query_name },
	{ .name = "query-status", .handler = cmd_query_status },
	{ .name = "quit", .handler = cmd_quit },
	{ .name = "stop", .handler = cmd_stop },
	{ .name = "system_powerdown", .handler = cmd_system_powerdown },
	{ .name = "system_reset", .handler = cmd_system_reset },
};

/* --- events --- */

static json_t *caused(bool guest, const char *reason)
{
	return json_pack("{s:b,s:s}", "guest", guest, "reason", reason);
}

static json_t *reset_cause(const struct vm_control *control)
{
	return caused(!control->host_reset,
		      control->host_reset ? "host-qmp-system-reset" : "guest-reset");
}

static json_t *shutdown_cause(const struct vm_control *control)
{
	enum vm_shutdown_reason reason = vm_get_shutdown_reason(control->vm);
	bool guest = reason == VM_SHUTDOWN_GUEST || reason == VM_SHUTDOWN_GUEST_RESET;

	return caused(guest, shutdown_reason_name(reason));
}

void vm_control_send_event(const struct vm_control *control, struct qmp_server *server,
			   enum vm_event event)
{
	switch (event) {
	case VM_EVENT_RESUME:
		qmp_server_event(server, "RESUME", NULL);
		break;
	case VM_EVENT_STOP:
	case VM_EVENT_ERROR:
		qmp_server_event(server, "STOP", NULL);
		break;
	case VM_EVENT_RESET:
		qmp_server_event(server, "RESET", reset_cause(control));
		break;
	case VM_EVENT_SHUTDOWN:
		qmp_server_event(server, "SHUTDOWN", shutdown_cause(control));
		break;
	case VM_EVENT_POWERDOWN:
		qmp_server_event(server, "POWERDOWN", NULL);
		break;
	case VM_EVENT_OVER_LIMIT:
		qmp_server_event_limited(server, "FRAMEVISOR_OVER_LIMIT", 0, NULL);
		break;
	case VM_EVENT_POOL_EMPTY:
		qmp_server_event_limited(server, "FRAMEVISOR_POOL_EMPTY", 0, NULL);
		break;
	case VM_EVENT_SWAP_UNREADABLE:
		qmp_server_event_limited(server, "FRAMEVISOR_SWAP_UNREADABLE", 0, NULL);
		break;
	case VM_EVENT_SWAP_FULL:
		qmp_server_event_limited(server, "FRAMEVISOR_SWAP_FULL", 0, NULL);
		break;
	case VM_EVENT_BALLOON:
	case VM_EVENT_MEM:
		break; /* sizes: not every server means the same by them */
	}
}

static void on_vm_event(void *opaque, enum vm_event event)
{
	struct vm_control *control = opaque;

	vm_control_send_event(control, control->server, event);
	if (event == VM_EVENT_BALLOON)
		vm_control_size_event(control);
	else if (event == VM_EVENT_MEM)
		vm_control_mem_event(control);
	else if (event == VM_EVENT_ERROR)
		control->on_error(control->opaque);
	if (control->listener)
		control->listener(control->listener_opaque, event);
}

void vm_control_set_listener(struct vm_control *control, vm_event_fn fn, void *opaque)
{
	control->listener = fn;
	control->listener_opaque = opaque;
}

const struct qmp_command *vm_control_commands(size_t *nr)
{
	*nr = sizeof(vm_commands) / sizeof(vm_commands[0]);
	return vm_commands;
}

struct vm_control *vm_control_create(struct event_loop *loop, struct vm *vm, int listen_fd,
				     void (*on_error)(void *opaque), void *opaque,
				     struct error *err)
{
	struct vm_control *control = calloc(1, sizeof(*control));
	const struct qmp_server_config config = {
		.commands = vm_commands,
		.nr_commands = sizeof(vm_commands) / sizeof(vm_commands[0]),
		.opaque = control,
	};
	int ret;

	if (!control) {
		error_set_errno(err, ENOMEM, "cannot serve QMP");
		return NULL;
	}
	control->vm = vm;
	control->on_error = on_error;
	control->opaque = opaque;
	control->started_ms = now_ms();
	control->server = qmp_server_create(loop, &config, err);
	if (!control->server)
		goto fail;
	ret = qmp_server_listen(control->server, listen_fd);
	if (ret < 0) {
		error_set_errno(err, -ret, "cannot serve QMP");
		goto fail;
	}
	vm_set_event_handler(vm, on_vm_event, control);
	return control;
fail:
	qmp_server_destroy(control->server);
	free(control);
	return NULL;
}

void vm_control_destroy(struct vm_control *control)
{
	if (!control)
		return;
	vm_set_event_handler(control->vm, NULL, NULL);
	qmp_server_destroy(control->server);
	free(control);
}
