/* SPDX-License-Identifier: MIT */
/* The virtio-pci transport and the status machine behind it, with the balloon as the device. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/virtio_driver.h"

#define F_VERSION_1 (1ull << VIRTIO_F_VERSION_1)
#define F_TELL      1ull
#define SLOT        1

static void probe(struct driver *drv, bool threaded)
{
	assert_true(driver_probe(drv, host_create(threaded), SLOT));
}

static void structures(void **state)
{
	struct driver drv;

	(void)state;
	probe(&drv, false);
	assert_int_equal(cfg_read(&drv, PCI_DEVICE_ID, 2), 0x1045);
	assert_int_equal(cfg_read(&drv, PCI_REVISION_ID, 1), 1);
	assert_int_equal(cfg_read(&drv, PCI_INTERRUPT_PIN, 1), 0);
	assert_true(drv.common && drv.notify && drv.isr && drv.device && drv.msix_cap &&
		    drv.pci_cfg_cap);
	assert_int_equal(cfg_read(&drv, drv.msix_cap + PCI_MSIX_FLAGS, 2), 5);
	driver_enable_memory(&drv);
	assert_int_equal(common_read(&drv, VIRTIO_PCI_COMMON_NUMQ, 2), 5);
	assert_int_equal(driver_offered(&drv), F_VERSION_1 | VIRTIO_BALLOON_FEATURES_ALL);
	common_write(&drv, VIRTIO_PCI_COMMON_DFSELECT, 2, 4);
	assert_int_equal(common_read(&drv, VIRTIO_PCI_COMMON_DF, 4), 0);
	common_write(&drv, VIRTIO_PCI_COMMON_Q_SELECT, 1, 2);
	assert_int_equal(common_read(&drv, VIRTIO_PCI_COMMON_Q_SIZE, 2), 128);
	assert_int_equal(common_read(&drv, VIRTIO_PCI_COMMON_Q_NOFF, 2), 1);
	common_write(&drv, VIRTIO_PCI_COMMON_Q_SELECT, 5, 2);
	assert_int_equal(common_read(&drv, VIRTIO_PCI_COMMON_Q_SIZE, 2), 0);
	/* Fields have one width. */
	assert_int_equal(common_read(&drv, VIRTIO_PCI_COMMON_NUMQ, 1), 0);
	assert_int_equal(common_read(&drv, VIRTIO_PCI_COMMON_NUMQ, 4), 0);
	assert_int_equal(common_read(&drv, VIRTIO_PCI_COMMON_Q_USEDHI + 4, 4), 0);
	host_destroy(drv.th);
}

static void status_order(void **state)
{
	struct driver drv;

	(void)state;
	probe(&drv, false);
	driver_enable_memory(&drv);
	driver_set_status(&drv, VIRTIO_CONFIG_S_DRIVER); /* before ACKNOWLEDGE */
	assert_int_equal(driver_status(&drv), 0);
	driver_set_status(&drv, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	driver_accept(&drv, F_VERSION_1); /* before DRIVER: not taken */
	driver_set_status(&drv, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_FEATURES_OK);
	assert_int_equal(driver_status(&drv), VIRTIO_CONFIG_S_ACKNOWLEDGE);
	driver_set_status(&drv, S_UP_TO_DRIVER);
	driver_set_status(&drv, S_UP_TO_DRIVER | VIRTIO_CONFIG_S_DRIVER_OK);
	assert_int_equal(driver_status(&drv), S_UP_TO_DRIVER);
	driver_set_status(&drv, S_UP_TO_FEATURES); /* without VERSION_1 */
	assert_int_equal(driver_status(&drv), S_UP_TO_DRIVER);
	driver_accept(&drv, F_VERSION_1 | 1ull << 35); /* not offered */
	driver_set_status(&drv, S_UP_TO_FEATURES);
	assert_int_equal(driver_status(&drv), S_UP_TO_DRIVER);
	driver_set_status(&drv, S_ALL);
	assert_int_equal(driver_status(&drv), S_UP_TO_DRIVER);
	driver_accept(&drv, F_VERSION_1);
	driver_set_status(&drv, S_UP_TO_FEATURES);
	assert_int_equal(driver_status(&drv), S_UP_TO_FEATURES);
	driver_accept(&drv, F_VERSION_1 | F_TELL); /* too late */
	common_write(&drv, VIRTIO_PCI_COMMON_GFSELECT, 0, 4);
	assert_int_equal(common_read(&drv, VIRTIO_PCI_COMMON_GF, 4), 0);
	driver_set_status(&drv, S_UP_TO_DRIVER); /* bits do not go */
	assert_int_equal(driver_status(&drv), S_UP_TO_FEATURES);
	driver_set_status(&drv, S_ALL);
	assert_int_equal(driver_status(&drv), S_ALL);
	driver_set_status(&drv, S_ALL | VIRTIO_CONFIG_S_NEEDS_RESET); /* the device's own bit */
	assert_int_equal(driver_status(&drv), S_ALL);
	driver_set_status(&drv, S_ALL | VIRTIO_CONFIG_S_FAILED);
	assert_int_equal(driver_status(&drv), S_ALL | VIRTIO_CONFIG_S_FAILED);
	driver_set_status(&drv, 0);
	assert_int_equal(driver_status(&drv), 0);
	host_destroy(drv.th);
}

static void queue_rules(void **state)
{
	struct driver_queue q = { .size = 8, .desc = 0x10000, .avail = 0x11000, .used = 0x12000 };
	struct driver drv;

	(void)state;
	probe(&drv, false);
	driver_enable_memory(&drv);
	driver_program_queue(&drv, 0, &q); /* before FEATURES_OK */
	assert_int_equal(common_read(&drv, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
	assert_int_equal(common_read(&drv, VIRTIO_PCI_COMMON_Q_SIZE, 2), 128);
	driver_negotiate(&drv, F_VERSION_1);
	driver_program_queue(&drv, 5, &q); /* there is none */
	common_write(&drv, VIRTIO_PCI_COMMON_Q_SELECT, 0xffff, 2);
	common_write(&drv, VIRTIO_PCI_COMMON_Q_ENABLE, 1, 2);
	q.desc = 0x1234567890ull & ~0xfull;
	driver_program_queue(&drv, 0, &q); /* not RAM */
	assert_int_equal(common_read(&drv, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
	assert_int_equal(common_read(&drv, VIRTIO_PCI_COMMON_Q_DESCLO, 4), 0x34567890 & ~0xf);
	assert_int_equal(common_read(&drv, VIRTIO_PCI_COMMON_Q_DESCHI, 4), 0x12);
	assert_int_equal(driver_status(&drv), S_UP_TO_FEATURES | VIRTIO_CONFIG_S_NEEDS_RESET);
	/* Broken stays broken until the reset. */
	q.desc = 0x10000;
	driver_program_queue(&drv, 0, &q);
	assert_int_equal(common_read(&drv, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
	driver_negotiate(&drv, F_VERSION_1);
	driver_program_queue(&drv, 0, &q);
	assert_int_equal(common_read(&drv, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 1);
	assert_int_equal(common_read(&drv, VIRTIO_PCI_COMMON_Q_MSIX, 2), 1);
	q.used = 0x20000; /* enabled: cannot be changed */
	driver_program_queue(&drv, 0, &q);
	assert_int_equal(common_read(&drv, VIRTIO_PCI_COMMON_Q_USEDLO, 4), 0x12000);
	driver_set_status(&drv, S_ALL);
	driver_program_queue(&drv, 1, &q); /* after DRIVER_OK */
	assert_int_equal(common_read(&drv, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
	/* A vector that does not exist. */
	common_write(&drv, VIRTIO_PCI_COMMON_Q_MSIX, 6, 2);
	assert_int_equal(common_read(&drv, VIRTIO_PCI_COMMON_Q_MSIX, 2), VIRTIO_MSI_NO_VECTOR);
	common_write(&drv, VIRTIO_PCI_COMMON_MSIX, 0x1000, 2);
	assert_int_equal(common_read(&drv, VIRTIO_PCI_COMMON_MSIX, 2), VIRTIO_MSI_NO_VECTOR);
	driver_set_status(&drv, 0);
	common_write(&drv, VIRTIO_PCI_COMMON_Q_SELECT, 0, 2);
	assert_int_equal(common_read(&drv, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
	assert_int_equal(common_read(&drv, VIRTIO_PCI_COMMON_Q_DESCLO, 4), 0);
	assert_int_equal(common_read(&drv, VIRTIO_PCI_COMMON_Q_MSIX, 2), VIRTIO_MSI_NO_VECTOR);
	host_destroy(drv.th);
}

/* One page number, so that something comes back. */
static void send_one(struct driver *drv)
{
	uint32_t *pfn = guest_ptr(&drv->th->mem, DRIVER_BUFFERS, 4);

	*pfn = 0x300;
	driver_set_desc(drv, 0, 0, (struct vring_desc){ .addr = DRIVER_BUFFERS, .len = 4 });
	driver_publish(drv, 0, 0);
}

static void notifications(void **state)
{
	struct driver drv;

	(void)state;
	probe(&drv, true);
	assert_int_equal(driver_start(&drv, F_VERSION_1, 8), S_ALL);
	assert_int_equal(drv.th->nr_bells, 5);
	host_sync(drv.th); /* DRIVER_OK rings once by itself */
	send_one(&drv);
	host_sync(drv.th);
	assert_int_equal(driver_used_idx(&drv, 0), 0); /* nobody rang */
	driver_kick(&drv, 0);
	host_sync(drv.th);
	assert_int_equal(driver_used_idx(&drv, 0), 1);
	assert_int_equal(driver_interrupts(1), 1);
	assert_int_equal(host_read(drv.th, drv.isr, 1), 1);
	assert_int_equal(host_read(drv.th, drv.isr, 1), 0); /* reading clears */
	/* Without the doorbell: any width, any value. */
	drv.th->nr_bells = 0;
	send_one(&drv);
	host_write(drv.th, drv.notify, 0xffffffff, 4);
	host_sync(drv.th);
	assert_int_equal(driver_used_idx(&drv, 0), 2);
	host_write(drv.th, drv.notify + 8, 0, 2); /* no such queue */
	host_write(drv.th, drv.notify + 1, 0, 1);
	host_sync(drv.th);
	/* The driver wants no interrupts. */
	driver_avail(&drv, 0)->flags = VRING_AVAIL_F_NO_INTERRUPT;
	send_one(&drv);
	host_write(drv.th, drv.notify, 0, 2);
	host_sync(drv.th);
	assert_int_equal(driver_used_idx(&drv, 0), 3);
	assert_int_equal(driver_interrupts(1), 2);
	drv.th->no_doorbells = true;
	cfg_write(&drv, PCI_COMMAND, 0, 2);
	driver_enable_memory(&drv);
	driver_avail(&drv, 0)->flags = 0;
	send_one(&drv);
	driver_kick(&drv, 0);
	host_sync(drv.th);
	assert_int_equal(driver_used_idx(&drv, 0), 4);
	cfg_write(&drv, PCI_COMMAND, 0, 2);
	host_destroy(drv.th);
}

static void early_kick_is_served_later(void **state)
{
	struct driver drv;

	(void)state;
	probe(&drv, true);
	driver_enable_memory(&drv);
	driver_kick(&drv, 0);
	driver_negotiate(&drv, F_VERSION_1);
	driver_setup_queue(&drv, 0, 8);
	send_one(&drv);
	driver_kick(&drv, 0);
	host_sync(drv.th);
	assert_int_equal(driver_used_idx(&drv, 0), 0);
	driver_set_status(&drv, S_ALL);
	host_sync(drv.th);
	assert_int_equal(driver_used_idx(&drv, 0), 1);
	driver_kick(&drv, 1); /* was never set up */
	host_sync(drv.th);
	assert_int_equal(driver_status(&drv), S_ALL);
	host_destroy(drv.th);
}

static void doorbells_follow_the_bar(void **state)
{
	uint64_t before, moved = 0x800000000ull;
	struct driver drv;

	(void)state;
	probe(&drv, true);
	driver_start(&drv, F_VERSION_1, 8);
	before = drv.notify;
	cfg_write(&drv, PCI_BASE_ADDRESS_0, (uint32_t)moved, 4);
	cfg_write(&drv, PCI_BASE_ADDRESS_1, (uint32_t)(moved >> 32), 4);
	assert_int_equal(drv.th->nr_bells, 5);
	drv.notify += moved - drv.common;
	drv.common = moved;
	assert_int_equal(driver_status(&drv), S_ALL); /* the device did not notice */
	send_one(&drv);
	assert_false(th_ring_bell(drv.th, before, 2));
	driver_kick(&drv, 0);
	host_sync(drv.th);
	assert_int_equal(driver_used_idx(&drv, 0), 1);
	cfg_write(&drv, PCI_COMMAND, 0, 2);
	assert_int_equal(drv.th->nr_bells, 0);
	assert_int_equal(host_read(drv.th, drv.common, 4), 0xffffffff);
	host_destroy(drv.th);
}

/* virtio 1.2, 4.1.4.9: a driver without MMIO reaches everything through configuration space. */
static void access_through_config_space(void **state)
{
	unsigned int cap, data;
	struct driver drv;

	(void)state;
	probe(&drv, false);
	cap = drv.pci_cfg_cap;
	data = cap + 16;
	cfg_write(&drv, cap + VIRTIO_PCI_CAP_BAR, 0, 1);
	cfg_write(&drv, cap + VIRTIO_PCI_CAP_OFFSET, VIRTIO_PCI_COMMON_NUMQ, 4);
	cfg_write(&drv, cap + VIRTIO_PCI_CAP_LENGTH, 2, 4);
	assert_int_equal(cfg_read(&drv, data, 4), 5);
	cfg_write(&drv, cap + VIRTIO_PCI_CAP_OFFSET, VIRTIO_PCI_COMMON_STATUS, 4);
	cfg_write(&drv, cap + VIRTIO_PCI_CAP_LENGTH, 1, 4);
	cfg_write(&drv, data, 0xff01, 4);
	assert_int_equal(cfg_read(&drv, data, 1), 1);
	driver_enable_memory(&drv);
	assert_int_equal(driver_status(&drv), 1);
	/* Selections that no BAR access could make. */
	cfg_write(&drv, cap + VIRTIO_PCI_CAP_BAR, 2, 1);
	cfg_write(&drv, data, 0, 4);
	assert_int_equal(driver_status(&drv), 1);
	cfg_write(&drv, cap + VIRTIO_PCI_CAP_BAR, 0, 1);
	cfg_write(&drv, cap + VIRTIO_PCI_CAP_LENGTH, 3, 4);
	cfg_write(&drv, data, 0, 4);
	assert_int_equal(driver_status(&drv), 1);
	cfg_write(&drv, cap + VIRTIO_PCI_CAP_LENGTH, 4, 4);
	cfg_write(&drv, cap + VIRTIO_PCI_CAP_OFFSET, 0x4000, 4);
	cfg_write(&drv, data, 0, 4);
	cfg_write(&drv, cap + VIRTIO_PCI_CAP_OFFSET, 0xfffffffc, 4);
	cfg_write(&drv, data, 0, 4);
	cfg_read(&drv, data, 4);
	cfg_write(&drv, cap + VIRTIO_PCI_CAP_OFFSET, 0x15, 4);
	cfg_write(&drv, data, 0, 4);
	assert_int_equal(driver_status(&drv), 1);
	host_destroy(drv.th);
}

static void config_space(void **state)
{
	struct driver drv;

	(void)state;
	probe(&drv, true);
	driver_start(&drv, F_VERSION_1, 8);
	host_write(drv.th, drv.device, 0x11223344, 4); /* num_pages is the device's */
	host_write(drv.th, drv.device + 4, 0x55, 4);
	assert_int_equal(host_read(drv.th, drv.device, 8), 0x5500000000);
	assert_int_equal(host_read(drv.th, drv.device + 6, 4), 0);
	host_write(drv.th, drv.device + 6, 0xffffffff, 4); /* half of it lies outside */
	assert_int_equal(host_read(drv.th, drv.device + 4, 8), 0xffff0055);
	host_write(drv.th, drv.device + 0xff8, 0, 8);
	assert_int_equal(host_read(drv.th, drv.device + 8, 4), 0);
	host_wait_told(drv.th, &drv.th->balloon_changes, 1);
	assert_in_range(drv.th->balloon_changes, 1, 2);
	host_destroy(drv.th);
}

static void broken_driver_is_told(void **state)
{
	struct driver drv;

	(void)state;
	probe(&drv, true);
	driver_start(&drv, F_VERSION_1, 8);
	driver_set_desc(
		&drv, 0, 0,
		(struct vring_desc){
			.addr = DRIVER_BUFFERS, .len = 4, .flags = VRING_DESC_F_NEXT, .next = 0 });
	driver_publish(&drv, 0, 0);
	driver_kick(&drv, 0);
	host_sync(drv.th);
	assert_int_equal(driver_status(&drv), S_ALL | VIRTIO_CONFIG_S_NEEDS_RESET);
	assert_int_equal(driver_interrupts(0), 1);
	assert_int_equal(host_read(drv.th, drv.isr, 1), VIRTIO_PCI_ISR_CONFIG);
	assert_int_equal(driver_used_idx(&drv, 0), 0);
	driver_kick(&drv, 0); /* no service, no second message */
	host_sync(drv.th);
	assert_int_equal(driver_interrupts(0), 1);
	driver_start(&drv, F_VERSION_1, 8);
	send_one(&drv);
	driver_kick(&drv, 0);
	host_sync(drv.th);
	assert_int_equal(driver_used_idx(&drv, 0), 1);
	host_destroy(drv.th);
}

static void resume_devices(void *opaque)
{
	struct device *dev = opaque;

	dev->ops->resume(dev);
}

static void pause_devices(void *opaque)
{
	struct device *dev = opaque;

	dev->ops->pause(dev);
}

static void pause_and_resume(void **state)
{
	struct driver drv;
	struct device *dev;

	(void)state;
	probe(&drv, true);
	dev = virtio_balloon_device(drv.th->set.balloon);
	driver_start(&drv, F_VERSION_1, 8);
	host_call(drv.th, pause_devices, dev);
	send_one(&drv);
	driver_kick(&drv, 0);
	host_sync(drv.th);
	assert_int_equal(driver_used_idx(&drv, 0), 0);
	host_call(drv.th, resume_devices, dev);
	host_sync(drv.th);
	assert_int_equal(driver_used_idx(&drv, 0), 1);
	host_destroy(drv.th);
}

/* The balloon's driver waits for what it sends: by the time that its write to the notification
 * address has ended the answer is there, without the loop. */
static void served_where_the_vcpu_notifies(void **state)
{
	struct device *balloon;
	struct driver drv;

	(void)state;
	host_serves_here = true;
	probe(&drv, true);
	host_serves_here = false;
	balloon = virtio_balloon_device(drv.th->set.balloon);
	assert_int_equal(driver_start(&drv, F_VERSION_1, 8), S_ALL);
	assert_int_equal(drv.th->nr_bells, 0);
	host_sync(drv.th); /* DRIVER_OK rings once by itself */
	send_one(&drv);
	driver_kick(&drv, 0);
	assert_int_equal(driver_used_idx(&drv, 0), 1);
	assert_int_equal(driver_interrupts(1), 1);
	assert_int_equal(drv.th->nr_worked, 1);
	/* Another vCPU is at it: the loop's turn. */
	atomic_store(&drv.th->working, true);
	send_one(&drv);
	driver_kick(&drv, 0);
	atomic_store(&drv.th->working, false);
	host_sync(drv.th);
	assert_int_equal(driver_used_idx(&drv, 0), 2);
	assert_int_equal(drv.th->nr_worked, 1);
	/* Not while the machine is paused; and not for a queue that is not there. */
	host_call(drv.th, pause_devices, balloon);
	send_one(&drv);
	driver_kick(&drv, 0);
	driver_kick(&drv, 7);
	host_sync(drv.th);
	assert_int_equal(driver_used_idx(&drv, 0), 2);
	host_call(drv.th, resume_devices, balloon);
	host_sync(drv.th);
	assert_int_equal(driver_used_idx(&drv, 0), 3);
	host_destroy(drv.th);
}

/* Whoever destroys the bus before its devices finds nothing hanging. */
static void destroyed_in_any_order(void **state)
{
	struct device *dev, *next, *reversed = NULL;
	struct driver drv;

	(void)state;
	probe(&drv, true);
	driver_start(&drv, F_VERSION_1, 8);
	for (dev = drv.th->set.last; dev; dev = next) {
		next = dev->next;
		dev->next = reversed;
		reversed = dev;
	}
	drv.th->set.last = reversed;
	host_destroy(drv.th);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(structures),
		cmocka_unit_test(status_order),
		cmocka_unit_test(queue_rules),
		cmocka_unit_test(notifications),
		cmocka_unit_test(early_kick_is_served_later),
		cmocka_unit_test(doorbells_follow_the_bar),
		cmocka_unit_test(access_through_config_space),
		cmocka_unit_test(config_space),
		cmocka_unit_test(broken_driver_is_told),
		cmocka_unit_test(pause_and_resume),
		cmocka_unit_test(served_where_the_vcpu_notifies),
		cmocka_unit_test(destroyed_in_any_order),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
