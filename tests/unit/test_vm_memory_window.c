/* SPDX-License-Identifier: MIT */
/* The window of a guest's memory: which ranges it takes, where they lie, what the dump says. */
#include "vm_memory_fixture.h"
#include "vmm/memory/internal.h"

static void test_bad_ranges(void **state)
{
	const struct vm_memory_range bad[] = {
		{ .gpa = 0, .size = 0 },
		{ .gpa = 4096, .size = FRAME_SIZE },
		{ .gpa = 0, .size = FRAME_SIZE + 4096 },
		{ .gpa = 0, .size = FRAME_MASK },
	};

	(void)state;
	for (unsigned int i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct vm_memory_config config = { .ranges = &bad[i],
						   .nr_ranges = 1,
						   .client = client };
		struct error err = { 0 };

		assert_null(vm_memory_create(&config, &err));
		assert_int_equal(err.code, EINVAL);
	}
	assert_int_equal(held_frames("vm"), 0);
}

/* Large ranges lie congruent to their guest addresses modulo 1 GiB, whatever came before them. */
static void test_window_placement(void **state)
{
	static const uint64_t gib = UINT64_C(1) << 30;
	const struct vm_memory_range ranges[] = {
		{ .gpa = 0, .size = 4 * FRAME_SIZE },
		{ .gpa = gib + 6 * FRAME_SIZE, .size = gib + FRAME_SIZE },
		{ .gpa = 5 * gib, .size = 2 * gib },
	};
	struct vm_memory_config config = { .ranges = ranges, .nr_ranges = 3, .client = client };
	struct error err = { 0 };
	struct vm_memory *mem = vm_memory_create(&config, &err);
	struct guest_memory *gm;

	(void)state;
	assert_non_null(mem);
	gm = vm_memory_guest(mem);
	assert_int_equal(gm->nr_regions, 3);
	assert_int_equal(guest_memory_size(gm), 3 * gib + 5 * FRAME_SIZE);
	for (unsigned int i = 1; i < 3; i++) {
		assert_int_equal(gm->regions[i].gpa, ranges[i].gpa);
		assert_int_equal(((uintptr_t)gm->regions[i].hva - gm->regions[i].gpa) % gib, 0);
	}
	/* The last words of each: no two ranges share a frame. */
	for (unsigned int i = 0; i < 3; i++) {
		uint64_t *last = guest_ptr(gm, ranges[i].gpa + ranges[i].size - 8, 8);

		assert_int_equal(*last, 0);
		*last = i + 1;
	}
	for (unsigned int i = 0; i < 3; i++) {
		uint64_t value = 0;

		assert_int_equal(guest_read(gm, ranges[i].gpa + ranges[i].size - 8, &value, 8), 0);
		assert_int_equal(value, i + 1);
	}
	vm_memory_destroy(mem);
	assert_int_equal(held_frames("vm"), 0);
}

static void test_dump(void **state)
{
	struct fixture f;
	char text[512] = "";
	int fd = memfd_create("dump", MFD_CLOEXEC);

	(void)state;
	open_memory(&f);
	frame_words(&f, LOW_FRAMES)[0] = 1;
	vm_memory_dump(f.mem, fd);
	assert_true(pread(fd, text, sizeof(text) - 1, 0) > 0);
	assert_non_null(strstr(text, "slot 0: gpa 0x0 size 0x2800000"));
	assert_non_null(strstr(text, "slot 1: gpa 0x100000000 size 0x1800000"));
	assert_non_null(strstr(text, "1 of 12 bound"));
	close(fd);
	close_memory(&f);
}

/* The first word of each frame of a run; then it becomes value. */
static void swap_first_words(struct fixture *f, const struct frame_run *run, uint64_t expected,
			     uint64_t value)
{
	for (uint32_t i = 0; i < run->nr; i++) {
		struct frame_run one = { .first = run->first + i, .nr = 1, .node = run->node };
		uint64_t *view = window_view(f->mem, &one, PROT_READ | PROT_WRITE);

		assert_non_null(view);
		assert_int_equal(view[0], expected);
		view[0] = value;
		window_view_end(f->mem, view, &one);
	}
}

/* Somebody else's views leave room for less than is to be zeroed at once. */
static void test_zero_beside_views(void **state)
{
	struct hoard hoard = { .nr_runs = 0 };
	struct frame_run *longest = &hoard.runs[0];
	struct fixture f;

	(void)state;
	open_memory(&f);
	vm_memory_drain_stock(f.mem);
	hoard_take_all(&hoard);
	for (unsigned int i = 1; i < hoard.nr_runs; i++)
		if (hoard.runs[i].nr > longest->nr)
			longest = &hoard.runs[i];
	assert_true(longest->nr > 4);
	swap_first_words(&f, longest, 0, 1);
	pthread_mutex_lock(&f.mem->view_lock);
	memset(f.mem->views_used, 0xff, sizeof(f.mem->views_used));
	f.mem->views_used[3] = ~UINT64_C(0x78); /* four in a row are left */
	pthread_mutex_unlock(&f.mem->view_lock);
	assert_int_equal(window_zero(f.mem, longest), 0);
	/* None at all. */
	pthread_mutex_lock(&f.mem->view_lock);
	assert_true(f.mem->views_used[3] == ~UINT64_C(0x78));
	f.mem->views_used[3] = ~UINT64_C(0);
	pthread_mutex_unlock(&f.mem->view_lock);
	assert_int_equal(window_zero(f.mem, longest), -ENOMEM);
	pthread_mutex_lock(&f.mem->view_lock);
	memset(f.mem->views_used, 0, sizeof(f.mem->views_used));
	pthread_mutex_unlock(&f.mem->view_lock);
	swap_first_words(&f, longest, 0, 0);
	hoard_return(&hoard);
	close_memory(&f);
	assert_int_equal(held_frames("vm"), 0);
}

static int run_group(const char *name)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bad_ranges),
		cmocka_unit_test(test_window_placement),
		cmocka_unit_test(test_dump),
		cmocka_unit_test(test_zero_beside_views),
	};

	return cmocka_run_group_tests_name(name, tests, setup, teardown);
}

int main(void)
{
	return fork_groups(run_group);
}
