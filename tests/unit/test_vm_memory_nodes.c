/* SPDX-License-Identifier: MIT */
/*
 * Guest memory by node: each range gets its frames by its policy, whoever touches them, and they
 * are counted by the guest's node and the pool's. On a machine with one node all policies lead
 * there; in the integration tests there are two.
 */
#include "vm_memory_fixture.h"

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

static int run_group(const char *name)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_policies),
		cmocka_unit_test(test_no_such_node),
	};

	return cmocka_run_group_tests_name(name, tests, setup, teardown);
}

int main(void)
{
	return fork_groups(run_group);
}
