/* SPDX-License-Identifier: MIT */
/* The PCI bus with functions of the test's own: configuration space, BARs, MSI-X. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <linux/pci_regs.h>

#include "framevisor/pci.h"
#include "tests/unit/device_host.h"

/* A function with three BARs that remembers who moved and answers with its BAR's number. */
struct toy {
	struct test_host *th;
	struct pci_function *fn;
	unsigned int slot;
	uint64_t moved_to[PCI_BARS];
	unsigned int moves;
	uint64_t written;
};

static uint64_t toy_read(void *opaque, uint64_t offset, unsigned int size)
{
	(void)opaque;
	(void)size;
	return 0xab00 + offset;
}

static void toy_write(void *opaque, uint64_t offset, uint64_t value, unsigned int size)
{
	struct toy *toy = opaque;

	(void)size;
	toy->written = value + offset;
}

static void toy_moved(void *opaque, unsigned int bar, uint64_t from, uint64_t to)
{
	struct toy *toy = opaque;

	assert_int_not_equal(from, to);
	toy->moved_to[bar] = to;
	toy->moves++;
}

static const struct bus_ops toy_bus_ops = { .read = toy_read, .write = toy_write };
static const struct pci_function_ops toy_ops = { .bar_moved = toy_moved };
static const struct pci_id toy_id = { .vendor = 0x1234,
				      .device = 0x5678,
				      .subsystem_vendor = 0x9abc,
				      .subsystem = 0xdef0,
				      .class_code = 0xff0102,
				      .revision = 7 };

static void toy_create(struct toy *toy, struct test_host *th)
{
	struct error err = { 0 };

	memset(toy, 0, sizeof(*toy));
	toy->th = th;
	toy->fn = pci_function_create(th->set.pci, "toy", &toy_id, &toy_ops, toy);
	assert_non_null(toy->fn);
	assert_int_equal(pci_function_add_bar(toy->fn, 0, 0x4000, true, &toy_bus_ops, toy), 0);
	assert_int_equal(pci_function_add_bar(toy->fn, 2, 0x10000, false, &toy_bus_ops, toy), 0);
	assert_int_equal(pci_function_add_msix(toy->fn, 3, 5), 0);
	assert_int_equal(pci_function_add(toy->fn, &err), 0);
	toy->slot = pci_function_slot(toy->fn);
}

static void toy_destroy(struct toy *toy)
{
	pci_function_destroy(toy->fn);
	host_destroy(toy->th);
}

static uint64_t ecam(const struct toy *toy, unsigned int reg)
{
	return LAYOUT_ECAM + (uint64_t)toy->slot * 0x8000 + reg;
}

static uint32_t cfg(const struct toy *toy, unsigned int reg, unsigned int size)
{
	return (uint32_t)host_read(toy->th, ecam(toy, reg), size);
}

static void set_cfg(const struct toy *toy, unsigned int reg, uint32_t value, unsigned int size)
{
	host_write(toy->th, ecam(toy, reg), value, size);
}

static uint64_t bar(const struct toy *toy, unsigned int index)
{
	return cfg(toy, PCI_BASE_ADDRESS_0 + 4 * index, 4) & ~0xfu;
}

static void ports_and_ecam_agree(void **state)
{
	struct test_host *th = host_create(false);
	struct toy toy;

	(void)state;
	toy_create(&toy, th);
	/* How a kernel finds out whether these ports are a PCI bus. */
	host_out(th, 0xcfb, 1, 1);
	host_out(th, 0xcf8, 0x80000000, 4);
	assert_int_equal(host_in(th, 0xcf8, 4), 0x80000000);
	assert_int_equal(host_in(th, 0xcfc, 4), 0x0d578086);
	host_out(th, 0xcf8, 0x80000008, 4);
	assert_int_equal(host_in(th, 0xcfc, 4) >> 16, 0x0600); /* host bridge */
	for (unsigned int reg = 0; reg < 256; reg += 4) {
		host_out(th, 0xcf8, 0x80000000 | toy.slot << 11 | reg, 4);
		assert_int_equal(host_in(th, 0xcfc, 4), cfg(&toy, reg, 4));
		assert_int_equal(host_in(th, 0xcfe, 2), cfg(&toy, reg + 2, 2));
		assert_int_equal(host_in(th, 0xcfd, 1), cfg(&toy, reg + 1, 1));
	}
	assert_int_equal(host_read(th, ecam(&toy, 0), 8), 0x0010000056781234);
	assert_int_equal(cfg(&toy, PCI_CLASS_REVISION, 4), 0xff010207);
	assert_int_equal(cfg(&toy, PCI_SUBSYSTEM_VENDOR_ID, 4), 0xdef09abc);
	/* Not enabled, no such slot, other function, other bus: nobody answers. */
	host_out(th, 0xcf8, toy.slot << 11, 4);
	assert_int_equal(host_in(th, 0xcfc, 4), 0xffffffff);
	host_out(th, 0xcf8, 0x80000000 | 31 << 11, 4);
	assert_int_equal(host_in(th, 0xcfc, 2), 0xffff);
	host_out(th, 0xcf8, 0x80000000 | toy.slot << 11 | 1 << 8, 4);
	assert_int_equal(host_in(th, 0xcfc, 4), 0xffffffff);
	host_out(th, 0xcf8, 0x80010000 | toy.slot << 11, 4);
	assert_int_equal(host_in(th, 0xcfc, 4), 0xffffffff);
	/* No extended capabilities, and no crossing into the next function. */
	assert_int_equal(cfg(&toy, 0x100, 4), 0);
	assert_int_equal(host_read(th, ecam(&toy, 0xffe), 4), 0xffffffff);
	toy_destroy(&toy);
}

static void write_masks(void **state)
{
	struct toy toy;

	(void)state;
	toy_create(&toy, host_create(false));
	for (unsigned int reg = 0; reg < 256; reg += 4) {
		if (reg >= PCI_COMMAND && reg < PCI_CAPABILITY_LIST && reg != PCI_CLASS_REVISION)
			continue;
		if (reg >= 0x40 || reg == PCI_INTERRUPT_LINE)
			continue;
		uint32_t before = cfg(&toy, reg, 4);

		set_cfg(&toy, reg, ~before, 4);
		assert_int_equal(cfg(&toy, reg, 4), before);
	}
	set_cfg(&toy, PCI_COMMAND, 0xffffffff, 4);
	assert_int_equal(cfg(&toy, PCI_COMMAND, 2),
			 PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE);
	assert_int_equal(cfg(&toy, PCI_STATUS, 2), PCI_STATUS_CAP_LIST);
	set_cfg(&toy, PCI_INTERRUPT_LINE, 0xffff, 2);
	assert_int_equal(cfg(&toy, PCI_INTERRUPT_LINE, 2), 0x00ff); /* pin 0: no INTx */
	toy_destroy(&toy);
}

static void bar_sizes(void **state)
{
	struct toy toy;
	uint32_t before;

	(void)state;
	toy_create(&toy, host_create(false));
	before = cfg(&toy, PCI_BASE_ADDRESS_0, 4);
	assert_int_equal(before & 0xf, PCI_BASE_ADDRESS_MEM_TYPE_64);
	assert_in_range(bar(&toy, 0), LAYOUT_PCI_MMIO, LAYOUT_PCI_MMIO + LAYOUT_PCI_MMIO_SIZE);
	assert_int_equal(bar(&toy, 0) % 0x4000, 0);
	assert_int_equal(bar(&toy, 2) % 0x10000, 0);
	set_cfg(&toy, PCI_BASE_ADDRESS_0, 0xffffffff, 4);
	set_cfg(&toy, PCI_BASE_ADDRESS_1, 0xffffffff, 4);
	assert_int_equal(cfg(&toy, PCI_BASE_ADDRESS_0, 4), 0xffffc004);
	assert_int_equal(cfg(&toy, PCI_BASE_ADDRESS_1, 4), 0xffffffff);
	set_cfg(&toy, PCI_BASE_ADDRESS_2, 0xffffffff, 4);
	assert_int_equal(cfg(&toy, PCI_BASE_ADDRESS_2, 4), 0xffff0000);
	set_cfg(&toy, PCI_BASE_ADDRESS_4, 0xffffffff, 4);
	assert_int_equal(cfg(&toy, PCI_BASE_ADDRESS_4, 4), 0);
	set_cfg(&toy, PCI_BASE_ADDRESS_0, before, 4);
	assert_int_equal(cfg(&toy, PCI_BASE_ADDRESS_0, 4), before);
	assert_int_equal(toy.moves, 0); /* decode was never on */
	toy_destroy(&toy);
}

static void bars_follow_the_guest(void **state)
{
	struct test_host *th = host_create(false);
	uint64_t bar0, bar2, high = 0x1234500000ull;
	struct toy toy;

	(void)state;
	toy_create(&toy, th);
	bar0 = bar(&toy, 0);
	bar2 = bar(&toy, 2);
	assert_int_equal(host_read(th, bar0, 4), 0xffffffff);
	set_cfg(&toy, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
	assert_int_equal(toy.moved_to[0], bar0);
	assert_int_equal(host_read(th, bar0 + 8, 4), 0xab08);
	assert_int_equal(host_read(th, bar2 + 0xfff0, 8), 0xab00 + 0xfff0);
	host_write(th, bar2 + 4, 1, 1);
	assert_int_equal(toy.written, 5);
	/* Moved above 4 GiB while it is enabled, one half at a time. */
	set_cfg(&toy, PCI_BASE_ADDRESS_0, (uint32_t)high, 4);
	set_cfg(&toy, PCI_BASE_ADDRESS_1, (uint32_t)(high >> 32), 4);
	assert_int_equal(toy.moved_to[0], high);
	assert_int_equal(host_read(th, high + 8, 4), 0xab08);
	assert_int_equal(host_read(th, bar0 + 8, 4), 0xffffffff);
	/* Onto another BAR: not mapped until that one goes. */
	set_cfg(&toy, PCI_BASE_ADDRESS_1, 0, 4);
	set_cfg(&toy, PCI_BASE_ADDRESS_0, (uint32_t)bar2, 4);
	assert_int_equal(toy.moved_to[0], PCI_BAR_UNMAPPED);
	assert_int_equal(host_read(th, bar2 + 4, 4), 0xab04);
	set_cfg(&toy, PCI_BASE_ADDRESS_2, (uint32_t)bar2 + 0x100000, 4);
	assert_int_equal(toy.moved_to[0], bar2);
	assert_int_equal(toy.moved_to[2], bar2 + 0x100000);
	/* Over the end of the address space, and to zero: unmapped. */
	set_cfg(&toy, PCI_BASE_ADDRESS_1, 0xffffffff, 4);
	set_cfg(&toy, PCI_BASE_ADDRESS_0, 0xffffffff, 4);
	assert_int_equal(toy.moved_to[0], PCI_BAR_UNMAPPED);
	set_cfg(&toy, PCI_BASE_ADDRESS_2, 0, 4);
	assert_int_equal(toy.moved_to[2], PCI_BAR_UNMAPPED);
	pci_bus_device(th->set.pci)->ops->reset(pci_bus_device(th->set.pci));
	assert_int_equal(bar(&toy, 0), bar0);
	assert_int_equal(cfg(&toy, PCI_COMMAND, 2), 0);
	assert_int_equal(host_read(th, bar0, 4), 0xffffffff);
	toy_destroy(&toy);
}

static void removed_function(void **state)
{
	struct test_host *th = host_create(false);
	struct toy toy;
	uint64_t bar0;

	(void)state;
	toy_create(&toy, th);
	bar0 = bar(&toy, 0);
	set_cfg(&toy, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
	pci_function_destroy(toy.fn);
	assert_int_equal(toy.moved_to[0], PCI_BAR_UNMAPPED);
	assert_int_equal(host_read(th, bar0, 4), 0xffffffff);
	assert_int_equal(cfg(&toy, 0, 4), 0xffffffff);
	host_destroy(th);
}

static void wrong_building(void **state)
{
	struct test_host *th = host_create(false);
	struct pci_function *fn = pci_function_create(th->set.pci, "toy", &toy_id, NULL, NULL);
	uint8_t cap[64] = { PCI_CAP_ID_VNDR };
	struct error err = { 0 };

	(void)state;
	assert_int_equal(pci_function_add_bar(fn, 0, 0x800, false, &toy_bus_ops, fn), -EINVAL);
	assert_int_equal(pci_function_add_bar(fn, 0, 0x3000, false, &toy_bus_ops, fn), -EINVAL);
	assert_int_equal(pci_function_add_bar(fn, 5, 0x1000, true, &toy_bus_ops, fn), -EINVAL);
	assert_int_equal(pci_function_add_bar(fn, 0, 0x1000, true, &toy_bus_ops, fn), 0);
	assert_int_equal(pci_function_add_bar(fn, 1, 0x1000, false, &toy_bus_ops, fn), -EINVAL);
	assert_int_equal(pci_function_add_msix(fn, 2, 0), -EINVAL);
	assert_int_equal(pci_function_add_msix(fn, 2, PCI_MSIX_MAX + 1), -EINVAL);
	assert_int_equal(pci_function_add_bar(fn, 4, 1ull << 31, false, &toy_bus_ops, fn), 0);
	assert_int_equal(pci_function_add_cap(fn, cap, NULL, 64), 0x40);
	assert_int_equal(pci_function_add_cap(fn, cap, NULL, 64), 0x80);
	assert_int_equal(pci_function_add_cap(fn, cap, NULL, 63), 0xc0);
	assert_int_equal(pci_function_add_cap(fn, cap, NULL, 8), -ENOSPC);
	assert_int_equal(pci_function_add(fn, &err), -ENOSPC); /* no room for 2 GiB */
	assert_non_null(strstr(err.message, "MMIO window"));
	pci_function_destroy(fn);
	host_destroy(th);
}

static uint64_t entry(const struct toy *toy, unsigned int vector, unsigned int reg)
{
	return bar(toy, 3) + vector * PCI_MSIX_ENTRY_SIZE + reg;
}

static void set_entry(const struct toy *toy, unsigned int vector, uint32_t data)
{
	host_write(toy->th, entry(toy, vector, PCI_MSIX_ENTRY_LOWER_ADDR), 0xfee00000, 4);
	host_write(toy->th, entry(toy, vector, PCI_MSIX_ENTRY_UPPER_ADDR), 0, 4);
	host_write(toy->th, entry(toy, vector, PCI_MSIX_ENTRY_DATA), data, 4);
}

static void mask_entry(const struct toy *toy, unsigned int vector, bool mask)
{
	host_write(toy->th, entry(toy, vector, PCI_MSIX_ENTRY_VECTOR_CTRL), mask, 4);
}

static unsigned int find_cap(const struct toy *toy, uint8_t id)
{
	unsigned int cap = cfg(toy, PCI_CAPABILITY_LIST, 1);

	while (cap && cfg(toy, cap, 1) != id)
		cap = cfg(toy, cap + 1, 1);
	assert_int_not_equal(cap, 0);
	return cap;
}

static void msix(void **state)
{
	struct test_host *th = host_create(false);
	unsigned int cap;
	struct toy toy;

	(void)state;
	toy_create(&toy, th);
	cap = find_cap(&toy, PCI_CAP_ID_MSIX);
	assert_int_equal(cfg(&toy, cap + PCI_MSIX_FLAGS, 2), 4);
	assert_int_equal(cfg(&toy, cap + PCI_MSIX_TABLE, 4), 3);
	assert_int_equal(cfg(&toy, cap + PCI_MSIX_PBA, 4), 0x803);
	set_cfg(&toy, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
	assert_int_equal(host_read(th, entry(&toy, 0, PCI_MSIX_ENTRY_VECTOR_CTRL), 4), 1);
	set_entry(&toy, 0, 0x40);
	set_entry(&toy, 4, 0x44);
	mask_entry(&toy, 0, false);
	pci_msix_raise(toy.fn, 0); /* not enabled: lost */
	set_cfg(&toy, cap + PCI_MSIX_FLAGS, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL, 2);
	assert_int_equal(th_msi_count[0x40], 0);
	pci_msix_raise(toy.fn, 0);
	pci_msix_raise(toy.fn, 4);
	pci_msix_raise(toy.fn, 5); /* there is none */
	assert_int_equal(host_read(th, bar(&toy, 3) + 0x800, 8), 0x11);
	set_cfg(&toy, cap + PCI_MSIX_FLAGS, PCI_MSIX_FLAGS_ENABLE, 2);
	assert_int_equal(th_msi_count[0x40], 1);
	assert_int_equal(th_msi_count[0x44], 0); /* its own mask still holds */
	assert_int_equal(host_read(th, bar(&toy, 3) + 0x800, 4), 0x10);
	pci_msix_raise(toy.fn, 4);
	mask_entry(&toy, 4, false);
	assert_int_equal(th_msi_count[0x44], 1); /* held back twice, sent once */
	assert_int_equal(host_read(th, bar(&toy, 3) + 0x800, 4), 0);
	/* A new message while unmasked, then while masked. */
	host_write(th, entry(&toy, 4, PCI_MSIX_ENTRY_DATA), 0x45, 4);
	pci_msix_raise(toy.fn, 4);
	assert_int_equal(th_msi_count[0x45], 1);
	mask_entry(&toy, 4, true);
	set_entry(&toy, 4, 0x46);
	pci_msix_raise(toy.fn, 4);
	assert_int_equal(th_msi_count[0x46], 0);
	mask_entry(&toy, 4, false);
	assert_int_equal(th_msi_count[0x46], 1);
	/* 8 byte accesses are two; odd ones and read-only bits are nothing. */
	host_write(th, entry(&toy, 4, PCI_MSIX_ENTRY_DATA), 0x100000047, 8);
	assert_int_equal(host_read(th, entry(&toy, 4, PCI_MSIX_ENTRY_DATA), 8), 0x100000047);
	host_write(th, entry(&toy, 1, 0), 0xff, 1);
	host_write(th, entry(&toy, 1, 2), 0xff, 4);
	assert_int_equal(host_read(th, entry(&toy, 1, 0), 4), 0);
	host_write(th, bar(&toy, 3) + 0x800, 0xff, 4);
	assert_int_equal(host_read(th, bar(&toy, 3) + 0x800, 4), 0);
	host_write(th, entry(&toy, 5, 0), 0xff, 4);
	host_write(th, bar(&toy, 3) + 0xffc, 0xff, 4);
	pci_bus_device(th->set.pci)->ops->reset(pci_bus_device(th->set.pci));
	pci_msix_raise(toy.fn, 0);
	assert_int_equal(th_msi_count[0x40], 1);
	toy_destroy(&toy);
}

/* One vCPU moves BARs, another uses them, a device raises: for the thread sanitizer. */
static void *mover(void *opaque)
{
	struct toy *toy = opaque;
	uint64_t base = LAYOUT_PCI_MMIO + 0x1000000;

	for (unsigned int i = 0; i < 2000; i++) {
		set_cfg(toy, PCI_BASE_ADDRESS_2, (uint32_t)(base + (i & 1) * 0x10000), 4);
		set_cfg(toy, PCI_COMMAND, i & 2 ? PCI_COMMAND_MEMORY : 0, 2);
	}
	set_cfg(toy, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
	return NULL;
}

static void *user(void *opaque)
{
	struct toy *toy = opaque;
	uint64_t base = LAYOUT_PCI_MMIO + 0x1000000, msix_bar = bar(toy, 3);

	for (unsigned int i = 0; i < 4000; i++) {
		uint64_t value = host_read(toy->th, base + (i & 1) * 0x10000, 2);

		assert_true(value == 0xffff || value == 0xab00);
		host_write(toy->th, msix_bar + PCI_MSIX_ENTRY_VECTOR_CTRL, i & 1, 4);
	}
	return NULL;
}

static void threads(void **state)
{
	struct test_host *th = host_create(false);
	pthread_t a, b;
	struct toy toy;

	(void)state;
	toy_create(&toy, th);
	set_cfg(&toy, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
	set_entry(&toy, 0, 0x40);
	set_cfg(&toy, find_cap(&toy, PCI_CAP_ID_MSIX) + PCI_MSIX_FLAGS, PCI_MSIX_FLAGS_ENABLE, 2);
	pthread_create(&a, NULL, mover, &toy);
	pthread_create(&b, NULL, user, &toy);
	for (unsigned int i = 0; i < 4000; i++)
		pci_msix_raise(toy.fn, 0);
	pthread_join(a, NULL);
	pthread_join(b, NULL);
	mask_entry(&toy, 0, false);
	assert_int_not_equal(th_msi_count[0x40], 0);
	assert_int_equal(host_read(th, LAYOUT_PCI_MMIO + 0x1010000, 2), 0xab00);
	toy_destroy(&toy);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ports_and_ecam_agree),
		cmocka_unit_test(write_masks),
		cmocka_unit_test(bar_sizes),
		cmocka_unit_test(bars_follow_the_guest),
		cmocka_unit_test(removed_function),
		cmocka_unit_test(wrong_building),
		cmocka_unit_test(msix),
		cmocka_unit_test(threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
