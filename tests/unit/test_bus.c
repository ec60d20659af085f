/* SPDX-License-Identifier: MIT */
/* The bus: lookup, overlap, odd sizes, handlers that change the bus, removal against dispatch. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "framevisor/bus.h"

struct device {
	struct bus *bus;
	struct bus_region region;
	uint64_t last_offset, last_value;
	unsigned int last_size, calls;
	struct bus_region *remove_inside; /* the handler removes it */
	struct bus_region *add_inside;    /* the handler adds it */
	int add_result;
};

static void touch(struct device *device, uint64_t offset, unsigned int size)
{
	device->last_offset = offset;
	device->last_size = size;
	device->calls++;
	if (device->remove_inside)
		bus_remove(device->bus, device->remove_inside);
	if (device->add_inside)
		device->add_result = bus_add(device->bus, device->add_inside);
}

static uint64_t device_read(void *opaque, uint64_t offset, unsigned int size)
{
	touch(opaque, offset, size);
	return 0x8877665544332211ull;
}

static void device_write(void *opaque, uint64_t offset, uint64_t value, unsigned int size)
{
	struct device *device = opaque;

	device->last_value = value;
	touch(device, offset, size);
}

static const struct bus_ops device_ops = { .read = device_read, .write = device_write };

static void init_device(struct device *device, struct bus *bus, uint64_t base, uint64_t size)
{
	memset(device, 0, sizeof(*device));
	device->bus = bus;
	device->region = (struct bus_region){
		.base = base, .size = size, .name = "test", .ops = &device_ops, .opaque = device
	};
}

static void test_lookup(void **state)
{
	struct bus *bus = bus_create();
	struct device low, high;
	uint8_t data[8] = { 0 };

	(void)state;
	init_device(&low, bus, 0x100, 0x10);
	init_device(&high, bus, 0x200, 8);
	assert_int_equal(bus_add(bus, &high.region), 0);
	assert_int_equal(bus_add(bus, &low.region), 0);

	assert_true(bus_dispatch(bus, 0x10c, data, 4, false));
	assert_int_equal(low.last_offset, 0xc);
	assert_int_equal(low.last_size, 4);
	assert_memory_equal(data, "\x11\x22\x33\x44", 4);
	assert_int_equal(data[4], 0);

	memcpy(data, "\xaa\xbb\xcc\xdd\xee\xff\x01\x02", 8);
	assert_true(bus_dispatch(bus, 0x200, data, 8, true));
	assert_true(high.last_value == 0x0201ffeeddccbbaaull);
	bus_destroy(bus);
}

static void test_unclaimed(void **state)
{
	struct bus *bus = bus_create();
	struct device device;
	uint8_t data[8];

	(void)state;
	init_device(&device, bus, 0x100, 0x10);
	assert_int_equal(bus_add(bus, &device.region), 0);

	memset(data, 0, sizeof(data));
	assert_false(bus_dispatch(bus, 0xff, data, 1, false));
	assert_int_equal(data[0], 0xff);
	assert_false(bus_dispatch(bus, 0x110, data, 1, false));
	/* Across the start and across the end: not wholly inside. */
	assert_false(bus_dispatch(bus, 0xff, data, 2, true));
	memset(data, 0, sizeof(data));
	assert_false(bus_dispatch(bus, 0x10e, data, 4, false));
	assert_memory_equal(data, "\xff\xff\xff\xff\x00", 5);
	assert_int_equal(device.calls, 0);
	bus_destroy(bus);
}

static void test_overlap(void **state)
{
	struct bus *bus = bus_create();
	struct device a, b;

	(void)state;
	init_device(&a, bus, 0x100, 0x10);
	assert_int_equal(bus_add(bus, &a.region), 0);
	init_device(&b, bus, 0xf8, 9);
	assert_int_equal(bus_add(bus, &b.region), -EEXIST);
	init_device(&b, bus, 0x10f, 1);
	assert_int_equal(bus_add(bus, &b.region), -EEXIST);
	init_device(&b, bus, 0, UINT64_MAX);
	assert_int_equal(bus_add(bus, &b.region), -EEXIST);
	init_device(&b, bus, 0x110, 0);
	assert_int_equal(bus_add(bus, &b.region), -EINVAL);
	init_device(&b, bus, UINT64_MAX, 2);
	assert_int_equal(bus_add(bus, &b.region), -EINVAL);
	init_device(&b, bus, UINT64_MAX, 1);
	assert_int_equal(bus_add(bus, &b.region), 0);
	init_device(&b, bus, 0x110, 1);
	assert_int_equal(bus_add(bus, &b.region), 0);
	bus_remove(bus, &a.region);
	bus_remove(bus, &a.region); /* not there: nothing happens */
	init_device(&b, bus, 0x104, 1);
	assert_int_equal(bus_add(bus, &b.region), 0);
	bus_destroy(bus);
}

/* KVM splits accesses at page ends, so that every size from 1 to 8 occurs. */
static void test_odd_sizes(void **state)
{
	struct bus *bus = bus_create();
	struct device device;
	uint8_t data[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };

	(void)state;
	init_device(&device, bus, 0, 0x10);
	assert_int_equal(bus_add(bus, &device.region), 0);
	assert_true(bus_dispatch(bus, 0, data, 7, true));
	assert_int_equal(device.calls, 3); /* 4 + 2 + 1 */
	assert_int_equal(device.last_offset, 6);
	assert_int_equal(device.last_size, 1);
	assert_int_equal(device.last_value, 7);
	bus_destroy(bus);
}

/* What a guest does that moves the BAR it writes through. */
static void test_change_inside_handler(void **state)
{
	struct bus *bus = bus_create();
	struct device device, other;
	uint8_t data[8] = { 0 };

	(void)state;
	init_device(&device, bus, 0x100, 0x10);
	init_device(&other, bus, 0x100, 0x20);
	device.remove_inside = &device.region;
	device.add_inside = &other.region;
	assert_int_equal(bus_add(bus, &device.region), 0);
	assert_true(bus_dispatch(bus, 0x104, data, 4, true));
	assert_int_equal(device.add_result, 0);
	assert_true(bus_dispatch(bus, 0x104, data, 4, true));
	assert_int_equal(device.calls, 1);
	assert_int_equal(other.calls, 1);
	bus_destroy(bus);
}

struct slow {
	struct bus *bus;
	int entered[2], go_on[2];
	int inside; /* 1 while the handler runs */
};

static uint64_t slow_read(void *opaque, uint64_t offset, unsigned int size)
{
	struct slow *slow = opaque;
	char byte = 0;

	(void)offset;
	(void)size;
	__atomic_store_n(&slow->inside, 1, __ATOMIC_SEQ_CST);
	assert_int_equal(write(slow->entered[1], &byte, 1), 1);
	assert_int_equal(read(slow->go_on[0], &byte, 1), 1);
	usleep(20000);
	__atomic_store_n(&slow->inside, 0, __ATOMIC_SEQ_CST);
	return 0;
}

static void *dispatch_thread(void *opaque)
{
	struct slow *slow = opaque;
	uint8_t data;

	bus_dispatch(slow->bus, 0, &data, 1, false);
	return NULL;
}

static void test_remove_waits(void **state)
{
	static const struct bus_ops ops = { .read = slow_read, .write = device_write };
	struct slow slow = { .bus = bus_create() };
	struct bus_region region = { .size = 1, .name = "slow", .ops = &ops, .opaque = &slow };
	pthread_t thread;
	char byte = 0;

	(void)state;
	assert_int_equal(pipe(slow.entered), 0);
	assert_int_equal(pipe(slow.go_on), 0);
	assert_int_equal(bus_add(slow.bus, &region), 0);
	assert_int_equal(pthread_create(&thread, NULL, dispatch_thread, &slow), 0);
	assert_int_equal(read(slow.entered[0], &byte, 1), 1);
	assert_int_equal(write(slow.go_on[1], &byte, 1), 1);
	bus_remove(slow.bus, &region);
	assert_int_equal(__atomic_load_n(&slow.inside, __ATOMIC_SEQ_CST), 0);
	pthread_join(thread, NULL);
	bus_destroy(slow.bus);
	close(slow.entered[0]);
	close(slow.entered[1]);
	close(slow.go_on[0]);
	close(slow.go_on[1]);
}

/* Two vCPUs move the region in which the other one stands: neither may wait for the other. */
struct mover {
	struct bus *bus;
	struct bus_region mine, *other;
	pthread_barrier_t *both_inside;
};

static uint64_t mover_read(void *opaque, uint64_t offset, unsigned int size)
{
	struct mover *mover = opaque;

	(void)offset;
	(void)size;
	pthread_barrier_wait(mover->both_inside);
	bus_remove(mover->bus, mover->other);
	return 0;
}

static void *mover_thread(void *opaque)
{
	struct mover *mover = opaque;
	uint8_t data;

	bus_dispatch(mover->bus, mover->mine.base, &data, 1, false);
	return NULL;
}

static void test_remove_each_other(void **state)
{
	static const struct bus_ops ops = { .read = mover_read, .write = device_write };
	struct bus *bus = bus_create();
	struct mover movers[2];
	pthread_t threads[2];
	pthread_barrier_t barrier;
	uint8_t data = 0;
	int i;

	(void)state;
	pthread_barrier_init(&barrier, NULL, 2);
	for (i = 0; i < 2; i++) {
		movers[i] = (struct mover){ .bus = bus,
					    .other = &movers[1 - i].mine,
					    .both_inside = &barrier };
		movers[i].mine = (struct bus_region){ .base = (uint64_t)i,
						      .size = 1,
						      .name = "mover",
						      .ops = &ops,
						      .opaque = &movers[i] };
		assert_int_equal(bus_add(bus, &movers[i].mine), 0);
	}
	for (i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, mover_thread, &movers[i]), 0);
	for (i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	assert_false(bus_dispatch(bus, 0, &data, 1, false));
	assert_false(bus_dispatch(bus, 1, &data, 1, false));
	pthread_barrier_destroy(&barrier);
	bus_destroy(bus);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lookup),
		cmocka_unit_test(test_unclaimed),
		cmocka_unit_test(test_overlap),
		cmocka_unit_test(test_odd_sizes),
		cmocka_unit_test(test_change_inside_handler),
		cmocka_unit_test(test_remove_waits),
		cmocka_unit_test(test_remove_each_other),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
