/* SPDX-License-Identifier: MIT */
/*
 * Frames of 1 GiB: a pool of such hugepages, and a VM that gets its memory in units of them. Needs
 * a host that can still make three of them.
 */
#include "vm_memory_fixture.h"

#include "skip.h"

#define NR_RAM      1
#define HOTPLUG_GPA UINT64_C(0x100000000)
#define MIB         (UINT64_C(1) << 20)

static int setup_gigantic(void **state)
{
	struct owner_client_config config = {
		.vm_name = "vm", .ram_frames = NR_RAM, .hugepages = mode, .pool_bytes = pool_bytes
	};
	char path[RUNDIR_PATH_MAX];
	struct error err = { 0 };

	(void)state;
	client = owner_client_connect(&config, &err);
	if (!client) {
		print_message("%s\n", err.message);
		return 0; /* each test skips */
	}
	if (rundir_path(path, false, &err) || rundir_join(path, "pool-qmp.sock", &err))
		return -1;
	qmp = qmp_client_connect(path, 5000, &err);
	return qmp ? 0 : -1;
}

static void open_gigantic(struct fixture *f)
{
	const struct vm_memory_range ram = { .gpa = 0, .size = FRAME_SIZE };
	const struct vm_memory_range hotplug = { .gpa = HOTPLUG_GPA, .size = FRAME_SIZE };

	if (!client)
		skip_because("this host has no three hugepages of 1 GiB left");
	assert_true(try_open_config(
		f, client,
		(struct vm_memory_config){
			.ranges = &ram, .nr_ranges = 1, .hotplug = &hotplug, .nr_hotplug = 1 }));
	assert_non_null(f->gm->frame_ops);
}

static uint64_t bound(struct fixture *f)
{
	return stats_of(f).bound;
}

/* The size of the page that backs an address of ours, in KiB, as the kernel tells it. */
static unsigned long page_kib(const void *address)
{
	unsigned long start, end, kib = 0;
	FILE *file = fopen("/proc/self/smaps", "re");
	char line[512];
	bool here = false;

	assert_non_null(file);
	while (kib == 0 && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			here = start <= (uintptr_t)address && (uintptr_t)address < end;
		else if (here)
			(void)sscanf(line, "KernelPageSize: %lu kB", &kib);
	}
	(void)fclose(file);
	return kib;
}

/* One page behind all of it; nothing is held ahead of need. */
static void test_touch(void **state)
{
	struct fixture f;
	uint8_t *ram;

	(void)state;
	open_gigantic(&f);
	assert_int_equal(FRAME_SIZE, UINT64_C(1) << 30);
	assert_int_equal(bound(&f), 0);
	assert_int_equal(held_frames("vm"), 0);
	ram = guest_ptr(f.gm, 0, FRAME_SIZE);
	assert_int_equal(ram[513 * MIB], 0);
	assert_int_equal(bound(&f), 1);
	assert_int_equal(held_frames("vm"), 1);
	assert_int_equal(page_kib(ram + 513 * MIB), 1 << 20);
	for (uint64_t at = 0; at < FRAME_SIZE; at += 2 * MIB) {
		assert_int_equal(ram[at], 0);
		ram[at] = (uint8_t)(at / MIB) | 1;
	}
	for (uint64_t at = 0; at < FRAME_SIZE; at += 2 * MIB)
		assert_int_equal(ram[at], (uint8_t)(at / MIB) | 1);
	assert_int_equal(bound(&f), 1);
	close_memory(&f);
	assert_int_equal(held_frames("vm"), 0);
}

/* A block is a frame: what the guest unplugs is free in the pool, and comes again as zeroes. */
static void test_plug(void **state)
{
	const struct guest_frame_ops *ops;
	struct fixture f;
	uint8_t *words;

	(void)state;
	open_gigantic(&f);
	ops = f.gm->frame_ops;
	for (int round = 0; round < 2; round++) {
		assert_int_equal(vm_memory_reserve_now(f.mem, 1, NULL), 0);
		assert_int_equal(ops->plug(f.gm->frame_opaque, HOTPLUG_GPA, 1), 0);
		words = guest_ptr(f.gm, HOTPLUG_GPA, FRAME_SIZE);
		assert_non_null(words);
		assert_int_equal(words[0], 0);
		assert_int_equal(words[FRAME_SIZE - 1], 0);
		memset(words, 0xaa, 4096);
		words[FRAME_SIZE - 1] = 0xaa;
		assert_int_equal(held_frames("vm"), 1);
		assert_int_equal(ops->unplug(f.gm->frame_opaque, HOTPLUG_GPA, 1), 0);
		assert_int_equal(held_frames("vm"), 0);
		assert_null(guest_ptr(f.gm, HOTPLUG_GPA, FRAME_SIZE));
	}
	close_memory(&f);
}

/* Given up and taken back while it runs. */
static void test_release(void **state)
{
	const struct guest_frame_ops *ops;
	struct fixture f;
	uint8_t *ram;

	(void)state;
	open_gigantic(&f);
	ops = f.gm->frame_ops;
	ram = guest_ptr(f.gm, 0, FRAME_SIZE);
	ram[700 * MIB] = 7;
	assert_int_equal(ops->release(f.gm->frame_opaque, 0, 1), 1);
	assert_int_equal(held_frames("vm"), 0);
	assert_int_equal(ram[700 * MIB], 0);
	assert_int_equal(held_frames("vm"), 1);
	close_memory(&f);
}

/* Who counts in frames of 2 MiB is told, and gets none. */
static void test_other_size(void **state)
{
	struct owner_client_config config = { .vm_name = "small",
					      .ram_frames = 1,
					      .hugepages = HUGEPAGES_AUTO };
	struct error err = { 0 };
	struct owner_client *small;

	(void)state;
	if (!client)
		skip_because("this host has no three hugepages of 1 GiB left");
	assert_int_equal(frame_use_shift(FRAME_SHIFT_2M), 0);
	small = owner_client_connect(&config, &err);
	assert_int_equal(frame_use_shift(FRAME_SHIFT_1G), 0);
	assert_null(small);
	assert_non_null(strstr(err.message, "1 GiB"));
	assert_int_equal(frame_use_shift(12), -EINVAL);
}

static int run_group(const char *name)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_touch),
		cmocka_unit_test(test_plug),
		cmocka_unit_test(test_release),
		cmocka_unit_test(test_other_size),
	};

	return cmocka_run_group_tests_name(name, tests, setup_gigantic, NULL);
}

int main(void)
{
	set_path();
	log_set_program("test");
	pool_bytes = UINT64_C(2) << 30;
	if (frame_use_shift(FRAME_SHIFT_1G))
		return 1;
	return fork_group(run_group, "hugepages of 1 GiB", HUGEPAGES_GIGANTIC);
}
