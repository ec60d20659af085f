/* SPDX-License-Identifier: MIT */
/* The random number device, driven as a guest drives it, and as a hostile one does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <linux/virtio_ids.h>

#include "framevisor/virtio_rng.h"
#include "tests/unit/virtio_driver.h"

#define F_VERSION_1 (1ull << VIRTIO_F_VERSION_1)
#define SLOT        3
#define QUEUE       8

struct setup {
	struct test_host *th;
	struct device *rng;
};

static void call_create(void *opaque)
{
	struct setup *s = opaque;
	struct error err = { 0 };

	s->rng = virtio_rng_create(&s->th->host, s->th->set.pci, &err);
	if (!s->rng)
		host_bug(err.message);
	s->rng->next = s->th->set.last;
	s->th->set.last = s->rng;
}

static void call_pause(void *opaque)
{
	((struct setup *)opaque)->rng->ops->pause(((struct setup *)opaque)->rng);
}

static void call_resume(void *opaque)
{
	((struct setup *)opaque)->rng->ops->resume(((struct setup *)opaque)->rng);
}

static struct setup create(struct driver *drv)
{
	struct setup s = { .th = host_create(true) };

	host_call(s.th, call_create, &s);
	assert_true(driver_probe(drv, s.th, SLOT));
	return s;
}

static struct setup start(struct driver *drv)
{
	struct setup s = create(drv);

	assert_int_equal(driver_start(drv, F_VERSION_1, QUEUE), S_ALL);
	host_sync(drv->th);
	return s;
}

/* Offers n buffers of len bytes each, one per descriptor. */
static void offer(struct driver *drv, unsigned int n, uint32_t len, uint16_t flags)
{
	for (uint16_t i = 0; i < n; i++) {
		struct vring_desc desc = { .addr = DRIVER_BUFFERS + (uint64_t)i * 0x2000,
					   .len = len,
					   .flags = flags };

		driver_set_desc(drv, 0, i, desc);
		driver_publish(drv, 0, i);
	}
	driver_kick(drv, 0);
	host_sync(drv->th);
}

static uint32_t used_len(struct driver *drv, uint16_t n)
{
	struct vring_used *used = guest_ptr(&drv->th->mem, drv->queues[0].used, 6 + 8u * QUEUE);

	return used->ring[n].len;
}

static void test_identity(void **state)
{
	struct driver drv;
	struct setup s = create(&drv);

	(void)state;
	assert_int_equal(cfg_read(&drv, PCI_DEVICE_ID, 2), 0x1040 + VIRTIO_ID_RNG);
	driver_enable_memory(&drv);
	assert_int_equal(driver_nr_queues(&drv), 1);
	assert_int_equal(driver_offered(&drv), F_VERSION_1);
	assert_int_equal(drv.device, 0); /* no configuration space */
	host_destroy(s.th);
}

static void test_buffers_are_filled(void **state)
{
	struct driver drv;
	struct setup s = start(&drv);
	uint8_t *first = guest_ptr(&s.th->mem, DRIVER_BUFFERS, 0x4000), *second = first + 0x2000;
	unsigned int zeros = 0;

	(void)state;
	memset(first, 0, 0x4000);
	offer(&drv, 2, 64, VRING_DESC_F_WRITE);
	assert_int_equal(driver_used_idx(&drv, 0), 2);
	assert_int_equal(used_len(&drv, 0), 64);
	assert_int_equal(used_len(&drv, 1), 64);
	assert_true(driver_interrupts(1) >= 1);
	/* 32 zeros among 64 random bytes: never. */
	for (unsigned int i = 0; i < 64; i++)
		zeros += first[i] == 0;
	assert_true(zeros < 32);
	assert_memory_not_equal(first, second, 64);
	/* Not a byte behind the buffer. */
	for (unsigned int i = 64; i < 0x2000; i++)
		assert_int_equal(first[i], 0);
	host_destroy(s.th);
}

/* Of a large buffer a part is filled, and the length says how much. */
static void test_large_buffer(void **state)
{
	struct driver drv;
	struct setup s = start(&drv);
	uint8_t *buffer = guest_ptr(&s.th->mem, DRIVER_BUFFERS, 0x4000);

	(void)state;
	memset(buffer, 0, 0x4000);
	offer(&drv, 1, 0x4000, VRING_DESC_F_WRITE);
	assert_int_equal(driver_used_idx(&drv, 0), 1);
	assert_int_equal(used_len(&drv, 0), VIRTIO_RNG_BYTES_MAX);
	for (unsigned int i = VIRTIO_RNG_BYTES_MAX; i < 0x4000; i++)
		assert_int_equal(buffer[i], 0);
	host_destroy(s.th);
}

static void test_buffers_in_parts(void **state)
{
	struct driver drv;
	struct setup s = start(&drv);
	uint8_t *buffer = guest_ptr(&s.th->mem, DRIVER_BUFFERS, 0x4000);

	(void)state;
	memset(buffer, 0, 0x4000);
	driver_set_desc(&drv, 0, 0,
			(struct vring_desc){ DRIVER_BUFFERS, 100,
					     VRING_DESC_F_WRITE | VRING_DESC_F_NEXT, 1 });
	driver_set_desc(&drv, 0, 1,
			(struct vring_desc){ DRIVER_BUFFERS + 0x2000, 100, VRING_DESC_F_WRITE, 0 });
	driver_publish(&drv, 0, 0);
	driver_kick(&drv, 0);
	host_sync(s.th);
	assert_int_equal(used_len(&drv, 0), 200);
	assert_int_equal(buffer[100], 0);
	assert_memory_not_equal(buffer, buffer + 0x3000, 100);
	assert_memory_not_equal(buffer + 0x2000, buffer + 0x3000, 100);
	host_destroy(s.th);
}

static void test_buffer_to_read(void **state)
{
	struct driver drv;
	struct setup s = start(&drv);

	(void)state;
	offer(&drv, 1, 64, 0);
	assert_true(driver_status(&drv) & VIRTIO_CONFIG_S_NEEDS_RESET);
	assert_int_equal(driver_used_idx(&drv, 0), 0);
	/* A reset makes it usable again. */
	assert_int_equal(driver_start(&drv, F_VERSION_1, QUEUE), S_ALL);
	offer(&drv, 1, 64, VRING_DESC_F_WRITE);
	assert_int_equal(driver_used_idx(&drv, 0), 1);
	host_destroy(s.th);
}

static void test_buffer_outside_memory(void **state)
{
	struct driver drv;
	struct setup s = start(&drv);

	(void)state;
	driver_set_desc(&drv, 0, 0,
			(struct vring_desc){ UINT64_C(1) << 50, 64, VRING_DESC_F_WRITE, 0 });
	driver_publish(&drv, 0, 0);
	driver_kick(&drv, 0);
	host_sync(s.th);
	assert_true(driver_status(&drv) & VIRTIO_CONFIG_S_NEEDS_RESET);
	host_destroy(s.th);
}

/* More at once than a round takes: all of it is done in the end. */
static void test_many_rounds(void **state)
{
	struct driver drv;
	struct setup s = start(&drv);

	(void)state;
	for (unsigned int round = 0; round < 100; round++) {
		offer(&drv, QUEUE, 16, VRING_DESC_F_WRITE);
		for (unsigned int i = 0; driver_used_idx(&drv, 0) != (round + 1) * QUEUE; i++) {
			assert_true(i < 1000);
			host_sync(s.th);
		}
	}
	host_destroy(s.th);
}

static void test_paused(void **state)
{
	struct driver drv;
	struct setup s = start(&drv);

	(void)state;
	host_call(s.th, call_pause, &s);
	offer(&drv, 1, 64, VRING_DESC_F_WRITE);
	assert_int_equal(driver_used_idx(&drv, 0), 0);
	host_call(s.th, call_resume, &s);
	for (unsigned int i = 0; driver_used_idx(&drv, 0) != 1; i++) {
		assert_true(i < 1000);
		host_sync(s.th);
	}
	host_destroy(s.th);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_identity),       cmocka_unit_test(test_buffers_are_filled),
		cmocka_unit_test(test_large_buffer),   cmocka_unit_test(test_buffers_in_parts),
		cmocka_unit_test(test_buffer_to_read), cmocka_unit_test(test_buffer_outside_memory),
		cmocka_unit_test(test_many_rounds),    cmocka_unit_test(test_paused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
