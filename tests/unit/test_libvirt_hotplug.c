/* SPDX-License-Identifier: MIT */
/* A memory device that libvirt takes away while its guest keeps a block. The VM is one of this
 * test's own: two memory devices, without a guest. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include <errno.h>

#include "vmm/libvirt/monitor_internal.h"

#define BLOCK     (UINT64_C(2) << 20)
#define PATH      "/machine/peripheral/mem0"
#define REQUESTED "requested-size"

struct vm {
	struct vm_config config;
	struct vm_mem_device mem[2];
	uint64_t plugged[2];
	bool full; /* the pool has no more */
};

/* ---- What the monitor asks of a VM ---- */

const struct vm_config *vm_get_config(const struct vm *vm)
{
	return &vm->config;
}

struct virtio_balloon *vm_get_balloon(struct vm *vm)
{
	(void)vm;
	return NULL;
}

struct target *vm_get_target(struct vm *vm)
{
	(void)vm;
	return NULL;
}

const struct vm_mem_device *vm_mem_device(const struct vm *vm, unsigned int index)
{
	return index < 2 ? &vm->mem[index] : NULL;
}

void vm_mem_device_stats(struct vm *vm, unsigned int index, struct virtio_mem_stats *stats)
{
	*stats = (struct virtio_mem_stats){ .plugged = vm->plugged[index], .block_size = BLOCK };
}

int vm_mem_device_find(const struct vm *vm, const char *id)
{
	for (int i = 0; i < 2; i++)
		if (strcmp(vm->mem[i].id, id) == 0)
			return i;
	return -1;
}

int vm_mem_device_request(struct vm *vm, unsigned int index, uint64_t bytes, struct error *err)
{
	if (bytes > vm->mem[index].requested && vm->full)
		return error_set(err, ENOMEM, "the pool is full");
	vm->mem[index].requested = bytes;
	return 0;
}

int vm_mem_device_attach(struct vm *vm, const struct vm_mem_device *device, struct error *err)
{
	(void)vm;
	(void)device;
	return error_set(err, ENOSPC, "none is spare");
}

int vm_mem_device_detach(struct vm *vm, unsigned int index, struct error *err)
{
	if (vm->plugged[index] || vm->mem[index].requested)
		return error_set(err, EBUSY, "blocks are plugged");
	vm->mem[index].id[0] = '\0';
	return 0;
}

/* ---- The test ---- */

struct fixture {
	struct vm vm;
	struct event_loop *loop;
	struct libvirt_monitor monitor;
};

static void nothing(void *opaque)
{
	(void)opaque;
}

static int setup(void **state)
{
	static const struct qmp_command none[1];
	static struct fixture f;
	const struct qmp_server_config config = { .commands = none };

	memset(&f, 0, sizeof(f));
	strcpy(f.vm.mem[0].id, "mem0");
	strcpy(f.vm.mem[1].id, "mem1");
	f.vm.mem[0].requested = f.vm.plugged[0] = 4 * BLOCK;
	f.loop = event_loop_create();
	f.monitor.config.vm = &f.vm;
	f.monitor.server = qmp_server_create(f.loop, &config, NULL);
	f.monitor.mem_timer = event_timer_create(f.loop, nothing, NULL);
	for (unsigned int i = 0; i < 2; i++) {
		strcpy(f.monitor.devices[i].id, f.vm.mem[i].id);
		strcpy(f.monitor.devices[i].driver, "virtio-mem-pci");
	}
	f.monitor.nr_devices = 2;
	*state = &f;
	return f.monitor.server ? 0 : -1;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	qmp_server_destroy(f->monitor.server);
	event_timer_destroy(f->monitor.mem_timer);
	event_loop_destroy(f->loop);
	return 0;
}

typedef int (*command_fn)(void *opaque, json_t *args, json_t **reply, struct qmp_error *err);

static int run(struct fixture *f, command_fn command, json_t *args)
{
	struct qmp_error err = { 0 };
	json_t *reply = NULL;
	int ret = command(&f->monitor, args, &reply, &err);

	json_decref(args);
	json_decref(reply);
	return ret;
}

static int request(struct fixture *f, uint64_t bytes)
{
	return run(f, monitor_cmd_qom_set,
		   json_pack("{s:s,s:s,s:I}", "path", PATH, "property", REQUESTED, "value",
			     (json_int_t)bytes));
}

/* What the guest keeps stops the detaching; asked for memory again the device stays. */
static void called_off(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(run(f, monitor_cmd_device_del, json_pack("{s:s}", "id", "mem0")), 0);
	assert_int_equal(f->vm.mem[0].requested, 0);
	f->vm.plugged[0] = BLOCK;
	f->monitor.mem_wait = false;
	monitor_mem_changed(&f->monitor);
	assert_true(f->monitor.leaving[0]);
	/* Once more nothing: it still leaves. */
	assert_int_equal(request(f, 0), 0);
	assert_true(f->monitor.leaving[0]);
	/* So does one that the pool has nothing for. */
	f->vm.full = true;
	assert_true(request(f, 2 * BLOCK) < 0);
	assert_true(f->monitor.leaving[0]);
	f->vm.full = false;
	assert_int_equal(request(f, 2 * BLOCK), 0);
	assert_int_equal(f->vm.mem[0].requested, 2 * BLOCK);
	assert_false(f->monitor.leaving[0]);
	/* Emptied later it is a device that has nothing. */
	assert_int_equal(request(f, 0), 0);
	f->vm.plugged[0] = 0;
	f->monitor.mem_wait = false;
	monitor_mem_changed(&f->monitor);
	assert_int_equal(f->monitor.nr_devices, 2);
}

static void completed(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(run(f, monitor_cmd_device_del, json_pack("{s:s}", "id", "mem0")), 0);
	assert_int_equal(f->monitor.nr_devices, 2);
	f->vm.plugged[0] = 0;
	f->monitor.mem_wait = false;
	monitor_mem_changed(&f->monitor);
	assert_int_equal(f->monitor.nr_devices, 1);
	assert_string_equal(f->monitor.devices[0].id, "mem1");
	assert_true(request(f, BLOCK) < 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(called_off, setup, teardown),
		cmocka_unit_test_setup_teardown(completed, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
