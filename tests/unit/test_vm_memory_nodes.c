/* SPDX-License-Identifier: MIT */
/*
 * Guest memory by node: each range gets its frames by its policy, whoever touches them, and they
 * are counted by the guest's node and the pool's. On a machine with one node all policies lead
 * there; in the integration tests there are two.
 */
#include "swap_fixture.h"
#include "vmm/memory/internal.h"

static uint64_t all_nodes(void)
{
	return (UINT64_C(1) << owner_client_nr_nodes(client)) - 1;
}

static void open_nodes(struct fixture *f, enum vm_memory_policy first, enum vm_memory_policy second)
{
	struct vm_memory_range ranges[] = {
		{ .gpa = 0,
		  .size = LOW_FRAMES * FRAME_SIZE,
		  .node = 0,
		  .policy = first,
		  .nodemask = 1 },
		{ .gpa = HIGH_GPA,
		  .size = HIGH_FRAMES * FRAME_SIZE,
		  .node = 3,
		  .policy = second,
		  .nodemask = all_nodes() },
	};
	struct vm_memory_config config = { .ranges = ranges, .nr_ranges = 2 };

	assert_true(try_open_config(f, client, config));
}

static uint64_t sum_bound(const struct vm_memory_node *node)
{
	uint64_t sum = 0;

	for (unsigned int nid = 0; nid < OWNER_NODES_MAX; nid++)
		sum += node->bound[nid];
	return sum;
}

static void touch_all(struct fixture *f, uint64_t value)
{
	for (unsigned int i = 0; i < RAM_FRAMES; i++) {
		assert_int_equal(frame_words(f, i)[100], 0);
		frame_words(f, i)[100] = value + i;
	}
	for (unsigned int i = 0; i < RAM_FRAMES; i++)
		assert_int_equal(frame_words(f, i)[100], value + i);
}

static void check_nodes(struct fixture *f)
{
	struct vm_memory_node nodes[4];

	assert_int_equal(vm_memory_nodes(f->mem, nodes, 4), 2);
	assert_int_equal(nodes[0].node, 0);
	assert_int_equal(nodes[0].ram, LOW_FRAMES);
	assert_int_equal(nodes[0].bound[0], LOW_FRAMES);
	assert_int_equal(sum_bound(&nodes[0]), LOW_FRAMES);
	assert_int_equal(nodes[1].node, 3);
	assert_int_equal(nodes[1].ram, HIGH_FRAMES);
	assert_int_equal(sum_bound(&nodes[1]), HIGH_FRAMES);
	/* No room for the second. */
	assert_int_equal(vm_memory_nodes(f->mem, nodes, 1), 1);
}

static void test_policies(void **state)
{
	static const enum vm_memory_policy seconds[] = { VM_MEMORY_BIND, VM_MEMORY_PREFERRED,
							 VM_MEMORY_INTERLEAVE, VM_MEMORY_ANY };

	(void)state;
	for (unsigned int i = 0; i < sizeof(seconds) / sizeof(seconds[0]); i++) {
		const struct guest_frame_ops *ops;
		struct fixture f;

		open_nodes(&f, VM_MEMORY_BIND, seconds[i]);
		ops = f.gm->frame_ops;
		touch_all(&f, 1000);
		check_nodes(&f);
		assert_int_equal(ops->release(f.gm->frame_opaque, 0, LOW_FRAMES), LOW_FRAMES);
		assert_int_equal(ops->release(f.gm->frame_opaque, HIGH_GPA, HIGH_FRAMES),
				 HIGH_FRAMES);
		assert_conserved(&f, NULL);
		assert_int_equal(ops->back(f.gm->frame_opaque, 0, LOW_FRAMES), 0);
		assert_int_equal(ops->back(f.gm->frame_opaque, HIGH_GPA, HIGH_FRAMES), 0);
		touch_all(&f, 2000);
		check_nodes(&f);
		assert_conserved(&f, NULL);
		close_memory(&f);
		assert_int_equal(held_frames("vm"), 0);
	}
}

static void test_no_such_node(void **state)
{
	struct vm_memory_range range = { .gpa = 0,
					 .size = LOW_FRAMES * FRAME_SIZE,
					 .policy = VM_MEMORY_BIND };
	const struct vm_memory_config config = { .ranges = &range,
						 .nr_ranges = 1,
						 .client = client };
	struct error err = { 0 };

	(void)state;
	assert_null(vm_memory_create(&config, &err));
	assert_non_null(strstr(err.message, "node"));
	error_clear(&err);
	range.nodemask = UINT64_C(1) << 63;
	assert_null(vm_memory_create(&config, &err));
	assert_non_null(strstr(err.message, "node"));
}

#define HOTPLUG_GPA UINT64_C(0x108000000)

/* The same as vm_memory_nodes(), frame by frame. */
static void count_frames(struct vm_memory *mem, struct vm_memory_node *nodes)
{
	pthread_mutex_lock(&mem->lock);
	for (uint32_t n = 0; n < mem->nr_frames; n++) {
		const struct guest_frame *frame = &mem->frames[n];
		struct vm_memory_node *node = &nodes[window_range_of(mem, n)->node];

		if (frame_bound(frame) || frame->state == FRAME_TAKING)
			node->bound[frame->node]++;
		if (n < mem->nr_boot_frames)
			node->ram++;
		else if (!(frame->flags & GUEST_FRAME_UNPLUGGED))
			node->plugged++;
	}
	pthread_mutex_unlock(&mem->lock);
}

static void compare_counts(struct fixture *f, uint64_t bound, uint64_t plugged)
{
	struct vm_memory_node counted[2] = { { .node = 0 }, { .node = 1 } }, nodes[2];

	assert_int_equal(vm_memory_nodes(f->mem, nodes, 2), 2);
	count_frames(f->mem, counted);
	for (unsigned int i = 0; i < 2; i++) {
		assert_int_equal(nodes[i].node, i);
		assert_int_equal(nodes[i].ram, counted[i].ram);
		assert_int_equal(nodes[i].plugged, counted[i].plugged);
		assert_memory_equal(nodes[i].bound, counted[i].bound, sizeof(nodes[i].bound));
	}
	assert_int_equal(sum_bound(&nodes[0]) + sum_bound(&nodes[1]), bound);
	assert_int_equal(nodes[1].plugged, plugged);
}

/* The counts are those of the frames, whatever becomes of these. */
static void test_counts(void **state)
{
	const struct vm_memory_range ranges[] = {
		{ .gpa = 0, .size = LOW_FRAMES * FRAME_SIZE },
		{ .gpa = HIGH_GPA, .size = HIGH_FRAMES * FRAME_SIZE, .node = 1 },
	};
	const struct vm_memory_range hotplug = { .gpa = HOTPLUG_GPA,
						 .size = VM_MEMORY_SLOT_SIZE,
						 .node = 1 };
	const struct vm_memory_config config = { .ranges = ranges,
						 .nr_ranges = 2,
						 .hotplug = &hotplug,
						 .nr_hotplug = 1,
						 .swap_path = "/tmp" };
	const struct vm_memory_move all = { .nr_frames = UINT64_MAX };
	const struct guest_frame_ops *ops;
	struct fixture f;

	(void)state;
	assert_true(try_open_config(&f, client, config));
	ops = f.gm->frame_ops;
	compare_counts(&f, 0, 0);
	touch_all(&f, 1000);
	compare_counts(&f, RAM_FRAMES, 0);
	assert_int_equal(vm_memory_reserve_now(f.mem, 6, NULL), 0);
	assert_int_equal(ops->plug(f.gm->frame_opaque, HOTPLUG_GPA, 6), 0);
	assert_int_equal(ops->back(f.gm->frame_opaque, HOTPLUG_GPA, 6), 0);
	compare_counts(&f, RAM_FRAMES + 6, 6);
	assert_int_equal(ops->unplug(f.gm->frame_opaque, HOTPLUG_GPA + FRAME_SIZE, 2), 0);
	compare_counts(&f, RAM_FRAMES + 4, 4);
	assert_int_equal(ops->release(f.gm->frame_opaque, 2 * FRAME_SIZE, 5), 5);
	compare_counts(&f, RAM_FRAMES - 1, 4);
	/* Parked ones count, and so do those that are touched then. */
	assert_int_equal(ops->watch(f.gm->frame_opaque, 0, LOW_FRAMES), 0);
	compare_counts(&f, RAM_FRAMES - 1, 4);
	assert_int_equal(frame_words(&f, 0)[100], 1000);
	compare_counts(&f, RAM_FRAMES - 1, 4);
	assert_int_equal(vm_memory_move_frames(f.mem, &all, NULL), RAM_FRAMES - 1);
	compare_counts(&f, RAM_FRAMES - 1, 4);
	assert_int_equal(vm_memory_swap_out(f.mem, RAM_FRAMES - 1), 0);
	wait_swapped(&f, RAM_FRAMES - 1);
	compare_counts(&f, 0, 4);
	for (unsigned int i = 7; i < RAM_FRAMES; i++)
		assert_int_equal(frame_words(&f, i)[100], 1000 + i);
	compare_counts(&f, RAM_FRAMES - 7, 4);
	close_memory(&f);
	assert_int_equal(held_frames("vm"), 0);
}

/* Ranges end within what a thread prepares at a time: each gets its own frames. */
static void test_prealloc(void **state)
{
	const struct vm_memory_range ranges[] = {
		{ .gpa = 0, .size = LOW_FRAMES * FRAME_SIZE },
		{ .gpa = HIGH_GPA, .size = HIGH_FRAMES * FRAME_SIZE, .node = 1 },
	};
	const struct vm_memory_config config = { .ranges = ranges, .nr_ranges = 2 };
	struct error err = { 0 };
	struct fixture f;

	(void)state;
	assert_true(try_open_config(&f, client, config));
	assert_int_equal(vm_memory_prealloc(f.mem, NULL, NULL, &err), 0);
	compare_counts(&f, RAM_FRAMES, 0);
	assert_int_equal(f.gm->frame_ops->release(f.gm->frame_opaque, HIGH_GPA, HIGH_FRAMES),
			 HIGH_FRAMES);
	compare_counts(&f, LOW_FRAMES, 0);
	assert_conserved(&f, NULL);
	close_memory(&f);
	assert_int_equal(held_frames("vm"), 0);
}

static int run_group(const char *name)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_policies),
		cmocka_unit_test(test_no_such_node),
		cmocka_unit_test(test_counts),
		cmocka_unit_test(test_prealloc),
	};

	return cmocka_run_group_tests_name(name, tests, setup, teardown);
}

int main(void)
{
	return fork_groups(run_group);
}
