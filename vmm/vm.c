/* SPDX-License-Identifier: MIT */
/* The life cycle of a VM: see framevisor/vm.h. What it is made of is in machine.c. */
#include "framevisor/vm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "framevisor/log.h"
#include "vmm/vm_internal.h"
#include "vmm/vm_rejoin.h"

/* Between two tries to reset a machine one of whose vCPUs waits for memory. */
#define RESET_AGAIN_MS 200

static void send_event(struct vm *vm, enum vm_event event)
{
	if (vm->event_fn)
		vm->event_fn(vm->event_opaque, event);
}

void vm_request(struct vm *vm, unsigned int request)
{
	uint64_t one = 1;

	__atomic_fetch_or(&vm->requests, request, __ATOMIC_SEQ_CST);
	/* EAGAIN: the counter is full, so a wake-up is pending. */
	if (write(vm->request_fd, &one, sizeof(one)) < 0)
		return;
}

void vm_console_output(void *opaque, const uint8_t *data, size_t len)
{
	struct vm *vm = opaque;

	if (vm->console.output)
		vm->console.output(vm->console.opaque, data, len);
}

void vm_console_room(void *opaque)
{
	struct vm *vm = opaque;

	if (vm->console.room)
		vm->console.room(vm->console.opaque);
}

void vm_balloon_changed(void *opaque)
{
	struct vm *vm = opaque;

	target_changed(vm->target);
	vm_owner_balloon_changed(vm);
	send_event(vm, VM_EVENT_BALLOON);
}

void vm_mem_changed(void *opaque)
{
	struct vm *vm = opaque;

	target_changed(vm->target);
	send_event(vm, VM_EVENT_MEM);
	send_event(vm, VM_EVENT_BALLOON);
}

/* A frame that is swapped out does not come back for now: the VM goes on when its user says so. */
static void on_swap_unreadable(struct vm *vm, uint64_t gpa)
{
	log_error("%s: paused: the guest's memory at 0x%llx cannot be read from the swap file; "
		  "when its device is back, 'framevisor resume %s' tries again (QMP 'cont')",
		  vm->config.name, (unsigned long long)gpa, vm->config.name);
	send_event(vm, VM_EVENT_SWAP_UNREADABLE);
	if (vm->state != VM_STATE_RUNNING)
		return;
	/* Not waited for: the vCPU that touched it parks when it has it. */
	vcpus_pause_begin(vm->vcpus);
	machine_pause_devices(vm);
	vm->state = VM_STATE_PAUSED;
	vm_owner_state_changed(vm);
	send_event(vm, VM_EVENT_STOP);
}

/* The others are parked; the vCPU that waits parks as soon as it gets its frame, if not before. */
static void pause_for_memory(struct vm *vm, uint64_t gpa)
{
	bool running = vm->state == VM_STATE_RUNNING;

	log_warn("%s: the guest uses memory that it has given up (at 0x%llx) beyond what it may "
		 "have%s",
		 vm->config.name, (unsigned long long)gpa,
		 running ? ": paused until a frame is there, or QMP 'cont'" : "");
	send_event(vm, VM_EVENT_OVER_LIMIT);
	if (running && vm_pause(vm, NULL) == 0)
		vm->waits_for_memory = true;
}

void vm_memory_event(void *opaque, enum vm_memory_event event, uint64_t gpa)
{
	struct vm *vm = opaque;
	struct error err = { 0 };

	switch (event) {
	case VM_MEMORY_EVENT_POOL_EMPTY:
		send_event(vm, VM_EVENT_POOL_EMPTY);
		break;
	case VM_MEMORY_EVENT_OVER_LIMIT:
		pause_for_memory(vm, gpa);
		break;
	case VM_MEMORY_EVENT_WITHIN_LIMIT:
		if (vm_waits_for_memory(vm) && vm_resume(vm, &err) < 0)
			log_warn("%s: %s", vm->config.name, err.message);
		break;
	case VM_MEMORY_EVENT_SWAP_FULL:
		send_event(vm, VM_EVENT_SWAP_FULL);
		break;
	case VM_MEMORY_EVENT_SWAP_UNREADABLE:
		on_swap_unreadable(vm, gpa);
		break;
	default:
		break;
	}
}

bool vm_waits_for_memory(const struct vm *vm)
{
	return vm->waits_for_memory && vm->state == VM_STATE_PAUSED;
}

bool vm_running(void *opaque)
{
	const struct vm *vm = opaque;

	return vm->state == VM_STATE_RUNNING;
}

/* A reset can revive what only stopped: see no_shutdown. */
static bool ended(const struct vm *vm)
{
	return vm->state == VM_STATE_SHUTDOWN &&
	       (!vm->config.no_shutdown || vm->shutdown_reason != VM_SHUTDOWN_GUEST);
}

static void on_failed(struct vm *vm)
{
	vcpus_pause(vm->vcpus);
	if (vm->state == VM_STATE_RUNNING)
		machine_pause_devices(vm);
	vm->state = VM_STATE_INTERNAL_ERROR;
	send_event(vm, VM_EVENT_ERROR);
}

/* The guest reboots. While one of its vCPUs waits for a frame that cannot be done; those that wait
 * for the reset do no harm meanwhile. */
static void on_guest_reset(struct vm *vm)
{
	struct error err = { 0 };
	int ret;

	if (vm->config.no_reboot) {
		vm_shutdown(vm, VM_SHUTDOWN_GUEST_RESET);
		return;
	}
	ret = vm_reset(vm, &err);
	if (ret == -EBUSY) {
		event_timer_arm(vm->reset_timer, RESET_AGAIN_MS, 0);
	} else if (ret < 0) {
		log_error("%s: reset failed: %s", vm->config.name, err.message);
		vm_shutdown(vm, VM_SHUTDOWN_ERROR);
	}
}

static void on_reset_again(void *opaque)
{
	struct vm *vm = opaque;

	if (vm->state == VM_STATE_RUNNING || vm->state == VM_STATE_PAUSED)
		on_guest_reset(vm);
}

/* Requests of vCPU threads. Off wins over the others: the guest wanted to end. */
static void on_request(void *opaque, uint32_t events)
{
	struct vm *vm = opaque;
	unsigned int requests;
	uint64_t count;

	(void)events;
	if (read(vm->request_fd, &count, sizeof(count)) < 0)
		return;
	requests = __atomic_exchange_n(&vm->requests, 0, __ATOMIC_SEQ_CST);
	if (vm->state == VM_STATE_SHUTDOWN)
		return;
	if (requests & VM_REQUEST_POWER_OFF)
		vm_shutdown(vm, VM_SHUTDOWN_GUEST);
	else if (requests & VM_REQUEST_FAILED)
		on_failed(vm);
	else if (requests & VM_REQUEST_RESET)
		on_guest_reset(vm);
}

static int copy_string(const char **string, struct error *err)
{
	if (!*string)
		return 0;
	*string = strdup(*string);
	return *string ? 0 : error_set(err, ENOMEM, "out of memory");
}

/* On failure the remaining strings are NULL, so that vm_destroy() frees only copies. */
static int copy_config(struct vm *vm, const struct vm_config *config, struct error *err)
{
	const char *kernel = config->kernel, *initrd = config->initrd, *append = config->append;
	int ret = copy_string(&kernel, err);

	vm->config = *config;
	vm->config.kernel = kernel;
	vm->config.initrd = NULL;
	vm->config.append = NULL;
	if (ret == 0)
		ret = copy_string(&initrd, err);
	if (ret < 0)
		return ret;
	vm->config.initrd = initrd;
	ret = copy_string(&append, err);
	if (ret == 0)
		vm->config.append = append;
	return ret;
}

static int create_requests(struct vm *vm, struct error *err)
{
	vm->request_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (vm->request_fd < 0)
		return error_set_errno(err, errno, "cannot create an eventfd");
	vm->request_source = event_loop_add(vm->loop, vm->request_fd, EPOLLIN, on_request, vm);
	if (!vm->request_source)
		return error_set_errno(err, errno, "cannot watch an eventfd");
	vm->reset_timer = event_timer_create(vm->loop, on_reset_again, vm);
	if (!vm->reset_timer)
		return error_set_errno(err, errno, "cannot create a timer");
	return 0;
}

struct vm *vm_create(const struct vm_config *config, struct event_loop *loop,
		     const struct vm_console *console, struct error *err)
{
	struct vm *vm = calloc(1, sizeof(*vm));
	int ret;

	if (!vm) {
		error_set(err, ENOMEM, "out of memory for a VM");
		return NULL;
	}
	vm->loop = loop;
	vm->kvm.fd = -1;
	vm->kvm.vm_fd = -1;
	vm->request_fd = -1;
	vm->state = VM_STATE_PRELAUNCH;
	if (console)
		vm->console = *console;
	ret = copy_config(vm, config, err);
	if (ret == 0)
		ret = create_requests(vm, err);
	if (ret == 0)
		ret = machine_create(vm, err);
	if (ret < 0) {
		vm_destroy(vm);
		return NULL;
	}
	return vm;
}

void vm_destroy(struct vm *vm)
{
	if (!vm)
		return;
	vm_rejoin_destroy(vm);
	machine_destroy(vm);
	event_source_remove(vm->request_source);
	event_timer_destroy(vm->reset_timer);
	if (vm->request_fd >= 0)
		close(vm->request_fd);
	free((void *)vm->config.kernel);
	free((void *)vm->config.initrd);
	free((void *)vm->config.append);
	free(vm);
}

int vm_start(struct vm *vm, struct error *err)
{
	int ret = vcpus_start(vm->vcpus, err);

	if (ret < 0)
		return ret;
	return vm->config.start_paused ? 0 : vm_resume(vm, err);
}

static void paused(struct vm *vm)
{
	machine_pause_devices(vm);
	vm->state = VM_STATE_PAUSED;
	vm_owner_state_changed(vm);
	send_event(vm, VM_EVENT_STOP);
}

int vm_pause(struct vm *vm, struct error *err)
{
	(void)err;
	vm->waits_for_memory = false; /* whoever asked wants it to stay so */
	if (vm->state != VM_STATE_RUNNING) {
		/* Nothing runs in any other state; and the owner, if it was that, is not to end it.
		 */
		vm_owner_state_changed(vm);
		return 0;
	}
	vcpus_pause(vm->vcpus);
	paused(vm);
	return 0;
}

int vm_pause_within(struct vm *vm, unsigned int ms)
{
	int ret;

	if (vm->state != VM_STATE_RUNNING)
		return 0;
	ret = vcpus_pause_within(vm->vcpus, ms);
	if (ret == 0)
		paused(vm);
	return ret;
}

int vm_resume(struct vm *vm, struct error *err)
{
	switch (vm->state) {
	case VM_STATE_RUNNING:
		return 0;
	case VM_STATE_PRELAUNCH:
		break; /* the devices were never paused */
	case VM_STATE_PAUSED:
		machine_resume_devices(vm);
		break;
	case VM_STATE_SHUTDOWN:
		return error_set(err, EINVAL, "VM %s has ended", vm->config.name);
	case VM_STATE_INTERNAL_ERROR:
		return error_set(err, EINVAL,
				 "VM %s stopped at an internal error: reset it before it can run",
				 vm->config.name);
	}
	vm->state = VM_STATE_RUNNING;
	vm->waits_for_memory = false;
	vm_memory_swap_retry(vm->memory);
	vcpus_resume(vm->vcpus);
	target_changed(vm->target);
	vm_owner_state_changed(vm);
	send_event(vm, VM_EVENT_RESUME);
	return 0;
}

int vm_reset(struct vm *vm, struct error *err)
{
	bool was_running = vm->state == VM_STATE_RUNNING;
	int ret;

	if (ended(vm))
		return error_set(err, EINVAL, "VM %s has ended", vm->config.name);
	if (!vcpus_pause(vm->vcpus)) {
		if (was_running)
			vcpus_resume(vm->vcpus);
		return error_set(err, EBUSY, "VM %s cannot be reset now: a vCPU waits for memory",
				 vm->config.name);
	}
	event_timer_disarm(vm->reset_timer);
	vcpus_tell_triple_fault(vm->vcpus);
	/* What the vCPUs asked for before they stopped was the old guest's wish. */
	__atomic_store_n(&vm->requests, 0, __ATOMIC_SEQ_CST);
	ret = machine_reset(vm, err);
	if (ret < 0) { /* half a machine must not run */
		vm->state = VM_STATE_INTERNAL_ERROR;
		send_event(vm, VM_EVENT_ERROR);
		return ret;
	}
	send_event(vm, VM_EVENT_RESET);
	if (was_running)
		vcpus_resume(vm->vcpus);
	else if (vm->state == VM_STATE_INTERNAL_ERROR || vm->state == VM_STATE_SHUTDOWN)
		vm->state = VM_STATE_PAUSED;
	return 0;
}

int vm_powerdown(struct vm *vm, struct error *err)
{
	if (vm->state == VM_STATE_SHUTDOWN)
		return error_set(err, EINVAL, "VM %s has ended", vm->config.name);
	if (!power_button(vm->devices.power))
		return error_set(
			err, EAGAIN,
			"the guest of VM %s does not listen to its power button: it has no "
			"ACPI button driver loaded",
			vm->config.name);
	send_event(vm, VM_EVENT_POWERDOWN);
	return 0;
}

void vm_shutdown(struct vm *vm, enum vm_shutdown_reason reason)
{
	if (ended(vm) || (vm->state == VM_STATE_SHUTDOWN && reason == VM_SHUTDOWN_GUEST))
		return;
	vcpus_pause(vm->vcpus);
	if (vm->state == VM_STATE_RUNNING)
		machine_pause_devices(vm);
	vm->state = VM_STATE_SHUTDOWN;
	vm->shutdown_reason = reason;
	send_event(vm, VM_EVENT_SHUTDOWN);
	if (ended(vm))
		event_loop_quit(vm->loop);
	else
		send_event(vm, VM_EVENT_STOP);
}

void vm_set_event_handler(struct vm *vm, vm_event_fn fn, void *opaque)
{
	vm->event_fn = fn;
	vm->event_opaque = opaque;
}

const struct vm_config *vm_get_config(const struct vm *vm)
{
	return &vm->config;
}

enum vm_state vm_get_state(const struct vm *vm)
{
	return vm->state;
}

enum vm_shutdown_reason vm_get_shutdown_reason(const struct vm *vm)
{
	return vm->shutdown_reason;
}

struct vm_memory *vm_get_memory(struct vm *vm)
{
	return vm->memory;
}

struct owner_client *vm_get_client(struct vm *vm)
{
	return vm->client;
}

struct virtio_mem *vm_get_mem_at(struct vm *vm, unsigned int i)
{
	return i < vm->devices.nr_mem && !vm->nr_mem ? vm->devices.mem[i] : NULL;
}

int vm_get_host_node(const struct vm *vm, unsigned int nid)
{
	return owner_client_host_node(vm->client, nid);
}

struct target *vm_get_target(struct vm *vm)
{
	return vm->target;
}

struct virtio_balloon *vm_get_balloon(struct vm *vm)
{
	return vm->devices.balloon;
}

int vm_get_cpu_tid(const struct vm *vm, unsigned int cpu)
{
	return vcpus_tid(vm->vcpus, cpu);
}

size_t vm_console_input(struct vm *vm, const uint8_t *data, size_t len)
{
	return serial_input(vm->devices.serial, data, len);
}
