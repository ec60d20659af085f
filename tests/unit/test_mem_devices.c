/* SPDX-License-Identifier: MIT */
/* Memory devices that a VM lists: a guest that stands still is told again what is requested of it.
 * The device and its driver are real; the pool is one of this test's own that promises all. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <linux/virtio_mem.h>

#include "framevisor/clock.h"
#include "tests/unit/promising_pool.h"
#include "tests/unit/sleep.h"
#include "tests/unit/virtio_driver.h"
#include "vmm/mem_devices.h"
#include "vmm/vm_internal.h"

#define F_ALL  (1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE)
#define SLOT   2
#define ANSWER (DRIVER_BUFFERS + 0x100)

/* ---- The pool, and the rest of the VM ---- */

static unsigned int nr_changed;

void vm_mem_changed(void *opaque)
{
	(void)opaque;
	nr_changed++;
}

bool vm_running(void *opaque)
{
	(void)opaque;
	return true;
}

/* ---- A VM with one device ---- */

struct machine {
	struct vm vm;
	struct driver drv;
	struct virtio_mem_options options;
	uint64_t request;
	bool looks;
	struct target_info info;
};

static struct machine machine;

static void call_start(void *opaque)
{
	struct machine *m = opaque;
	const struct target_config config = { .loop = m->vm.loop,
					      .boot = HOST_FRAMES * FRAME_SIZE,
					      .max = HOST_FRAMES * FRAME_SIZE,
					      .size = HOST_FRAMES * FRAME_SIZE,
					      .balloon = m->vm.devices.balloon,
					      .running = vm_running };

	m->vm.target = target_create(&config, NULL);
	mem_devices_options(&m->vm, HOST_PLUG, &m->options);
	if (mem_devices_start(&m->vm, NULL) < 0)
		host_bug("the memory devices do not start");
}

static void call_stop(void *opaque)
{
	struct machine *m = opaque;

	mem_devices_stop(&m->vm);
	target_destroy(m->vm.target);
}

static void call_request(void *opaque)
{
	struct machine *m = opaque;

	if (vm_mem_device_request(&m->vm, 0, m->request, NULL) < 0)
		host_bug("a request is refused");
}

static void call_changed(void *opaque)
{
	struct machine *m = opaque;

	m->options.changed(m->options.opaque);
}

static void call_info(void *opaque)
{
	struct machine *m = opaque;

	vm_size_info(&m->vm, &m->info);
}

static void call_looks(void *opaque)
{
	struct machine *m = opaque;

	m->looks = m->vm.mem_looks;
}

/* Whether the device is still looked at. */
static bool looks(struct machine *m)
{
	host_call(m->drv.th, call_looks, m);
	return m->looks;
}

static void start(struct machine *m, uint64_t requested)
{
	struct test_host *th = host_create(true);

	memset(m, 0, sizeof(*m));
	nr_changed = 0;
	m->vm.loop = th->host.loop;
	m->vm.state = VM_STATE_RUNNING;
	m->vm.devices = th->set;
	m->vm.nr_nodes = 2;
	m->vm.nr_mem = 1;
	m->vm.mem[0] = (struct vm_mem_device){ .id = "mem0",
					       .size = HOST_PLUG_FRAMES * FRAME_SIZE,
					       .requested = requested,
					       .node = 1 };
	m->vm.mem_capacity[0] = m->vm.mem[0].size;
	host_call(th, call_start, m);
	assert_true(driver_probe(&m->drv, th, SLOT));
	assert_int_equal(driver_start(&m->drv, F_ALL, 8), S_ALL);
	host_sync(th);
}

static void stop(struct machine *m)
{
	host_call(m->drv.th, call_stop, m);
	host_destroy(m->drv.th);
}

static void request(struct machine *m, uint64_t bytes)
{
	m->request = bytes;
	host_call(m->drv.th, call_request, m);
}

static enum target_state state_of(struct machine *m)
{
	host_call(m->drv.th, call_info, m);
	return m->info.state;
}

/* Plugs or unplugs the first blocks. */
static void move(struct machine *m, uint16_t type, uint16_t nr)
{
	struct driver *drv = &m->drv;
	struct virtio_mem_req *req = guest_ptr(&drv->th->mem, DRIVER_BUFFERS, sizeof(*req));
	const struct virtio_mem_resp *answer = guest_ptr(&drv->th->mem, ANSWER, 64);

	memset(req, 0, sizeof(*req));
	req->type = type;
	req->u.plug.addr = HOST_PLUG;
	req->u.plug.nb_blocks = nr;
	driver_set_desc(drv, 0, 0, (struct vring_desc){ DRIVER_BUFFERS, 24, VRING_DESC_F_NEXT, 1 });
	driver_set_desc(drv, 0, 1, (struct vring_desc){ ANSWER, 10, VRING_DESC_F_WRITE, 0 });
	driver_publish(drv, 0, 0);
	driver_kick(drv, 0);
	host_sync(drv->th);
	assert_int_equal(answer->type, VIRTIO_MEM_RESP_ACK);
}

/* What a driver does that is told something. */
static void read_requested(struct machine *m)
{
	host_read(m->drv.th, m->drv.device + offsetof(struct virtio_mem_config, requested_size), 4);
}

static bool told_within(unsigned int before, unsigned int ms)
{
	uint64_t begin = now_ms();

	while (driver_interrupts(0) == before && now_ms() - begin < ms)
		sleep_ms(20);
	return driver_interrupts(0) != before;
}

/* Blocks that do not go: told again after a while, and only one that does not move after that is
 * said to keep them. */
static void told_again(void **state)
{
	struct machine *m = &machine;
	unsigned int told;

	(void)state;
	start(m, 4 * FRAME_SIZE);
	move(m, VIRTIO_MEM_REQ_PLUG, 4);
	assert_int_equal(state_of(m), TARGET_REACHED);
	request(m, 0);
	told = driver_interrupts(0);
	read_requested(m);
	assert_int_equal(state_of(m), TARGET_MOVING);
	assert_false(told_within(told, TARGET_STALL_MS - 500));
	assert_true(told_within(told, 3000));
	assert_int_equal(state_of(m), TARGET_BUSY);
	read_requested(m);
	/* The next time is 5 s later; by then it has had its time. */
	told = driver_interrupts(0);
	assert_false(told_within(told, TARGET_ASK_MIN_MS - 500));
	assert_int_equal(state_of(m), TARGET_UNMOVABLE);
	assert_true(told_within(told, 3000));
	read_requested(m);
	move(m, VIRTIO_MEM_REQ_UNPLUG, 4);
	assert_int_equal(state_of(m), TARGET_REACHED);
	/* It is there: nobody says anything any more. */
	told = driver_interrupts(0);
	assert_false(told_within(told, 1500));
	stop(m);
}

/* Blocks that come or go without a request, as at a reset, are looked after as well. */
static void told_after_a_change(void **state)
{
	struct machine *m = &machine;
	unsigned int told;

	(void)state;
	start(m, FRAME_SIZE);
	move(m, VIRTIO_MEM_REQ_PLUG, 1);
	sleep_ms(1500);
	assert_false(looks(m));
	move(m, VIRTIO_MEM_REQ_UNPLUG, 1);
	host_call(m->drv.th, call_changed, m);
	assert_int_equal(nr_changed, 1);
	told = driver_interrupts(0);
	assert_true(told_within(told, TARGET_STALL_MS + 3000));
	stop(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(told_again),
		cmocka_unit_test(told_after_a_change),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
