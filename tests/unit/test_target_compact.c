/* SPDX-License-Identifier: MIT */
/* When a guest is made to move its memory together, and how that goes on and ends. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <linux/virtio_balloon.h>

#include "framevisor/frame.h"
#include "vmm/target_compact.h"

#define MIB(n) ((uint64_t)(n) << 20)

/* 256 MiB in the balloon, at rest, of which so many MiB are complete frames. */
static struct target_parts guest(unsigned int complete)
{
	struct target_parts parts = {
		.running = true,
		.boot = MIB(512),
		.size = MIB(256),
		.balloon = { .driver_ready = true,
			     .accepted = VIRTIO_BALLOON_FEATURES_ALL,
			     .target = MIB(256),
			     .actual = MIB(256),
			     .inflated = MIB(256),
			     .frames_released = bytes_to_frames(MIB(complete)) },
		.balloon_limit = UINT64_MAX,
	};

	return parts;
}

static void test_when_it_is_useful(void **state)
{
	struct target_parts parts = guest(66);

	(void)state;
	assert_true(compact_useful(&parts));
	parts.balloon.actual = MIB(255); /* on its way */
	assert_false(compact_useful(&parts));
	parts = guest(66);
	parts.balloon.inflated -= 4096; /* the last message has not been looked at */
	assert_false(compact_useful(&parts));
	parts = guest(240);
	assert_false(compact_useful(&parts));
	parts = guest(66);
	parts.tax = MIB(64); /* what it gave up is needed elsewhere */
	assert_false(compact_useful(&parts));
	parts = guest(30);
	parts.tax = MIB(64); /* it gave up next to nothing */
	assert_true(compact_useful(&parts));
	parts = guest(66);
	parts.balloon.accepted &= ~(UINT64_C(1) << VIRTIO_BALLOON_F_FREE_PAGE_HINT);
	assert_false(compact_useful(&parts));
	parts = guest(66);
	parts.balloon.hinting = true;
	assert_false(compact_useful(&parts));
	parts = guest(66);
	parts.running = false;
	assert_false(compact_useful(&parts));
	parts = guest(0);
	parts.balloon.actual = parts.balloon.target = parts.balloon.inflated = MIB(20);
	assert_false(compact_useful(&parts));
	parts = guest(66);
	parts.has_mem = true;
	parts.mem.requested = MIB(0);
	parts.mem.plugged = MIB(128); /* the balloon stands in for these */
	assert_false(compact_useful(&parts));
}

static struct target_compact begun(const struct target_parts *parts, uint64_t now)
{
	struct target_compact compact = { .phase = COMPACT_NOT_YET };

	compact_consider(&compact, parts, now);
	assert_true(compact_runs(&compact));
	assert_int_equal(compact.before, parts->balloon.frames_released);
	return compact;
}

static void expect(struct target_compact *compact, const struct target_parts *parts, uint64_t now,
		   enum compact_act act, enum compact_phase phase)
{
	struct target_plan plan = { .balloon = MIB(256) };

	assert_int_equal(compact_step(compact, parts, now, &plan), act);
	assert_int_equal(compact->phase, phase);
	assert_int_equal(plan.balloon, 0);
}

static void test_a_round(void **state)
{
	struct target_parts parts = guest(66);
	struct target_compact compact = begun(&parts, 1000);

	(void)state;
	expect(&compact, &parts, 1000, COMPACT_LEAVE, COMPACT_EMPTY);
	parts.balloon.actual = MIB(10);
	expect(&compact, &parts, 9000, COMPACT_LEAVE, COMPACT_EMPTY);
	parts.balloon.actual = 0;
	expect(&compact, &parts, 9100, COMPACT_ASK, COMPACT_HOLD);
	parts.balloon.hinting = parts.balloon.holding = true;
	parts.balloon.held = MIB(100);
	expect(&compact, &parts, 9150, COMPACT_LEAVE, COMPACT_HOLD);
	expect(&compact, &parts, 9200, COMPACT_ASK, COMPACT_HOLD);
	/* As long as there are more and more of them. */
	for (uint64_t now = 9300; now < 14000; now += 100) {
		parts.balloon.held += MIB(4);
		expect(&compact, &parts, now, COMPACT_ASK, COMPACT_HOLD);
	}
	expect(&compact, &parts, 18900, COMPACT_ASK, COMPACT_HOLD);
	expect(&compact, &parts, 19000, COMPACT_LET_GO, COMPACT_SETTLE);
	assert_int_equal(compact.after, bytes_to_frames(parts.balloon.held));
	expect(&compact, &parts, 19100, COMPACT_LEAVE, COMPACT_SETTLE);
	expect(&compact, &parts, 19200, COMPACT_LEAVE, COMPACT_OVER);
	assert_false(compact_runs(&compact));
	assert_int_equal(compact.rounds, 1);
	/* Once for a target, however little it brought. */
	parts = guest(66);
	compact_consider(&compact, &parts, 19300);
	assert_false(compact_runs(&compact));
	assert_int_equal(compact_restart(&compact), COMPACT_LEAVE);
	compact_consider(&compact, &parts, 20000);
	assert_true(compact_runs(&compact));
}

/* A tax changes all the time: not for each of them a round. */
static void test_taxed(void **state)
{
	struct target_parts parts = guest(30);
	struct target_compact compact = { .phase = COMPACT_NOT_YET };

	(void)state;
	parts.tax = MIB(64);
	assert_true(compact_due(&compact, &parts, 1000));
	compact = begun(&parts, 1000);
	parts.balloon.actual = 0;
	expect(&compact, &parts, 1100, COMPACT_ASK, COMPACT_HOLD);
	expect(&compact, &parts, 1200, COMPACT_LET_GO, COMPACT_SETTLE);
	expect(&compact, &parts, 1400, COMPACT_LEAVE, COMPACT_OVER);
	parts = guest(30);
	parts.tax = MIB(64);
	compact_restart(&compact);
	assert_false(compact_due(&compact, &parts, 1400));
	assert_false(compact_due(&compact, &parts, 61399));
	assert_true(compact_due(&compact, &parts, 61400));
	parts.tax = 0; /* the user's target is another matter */
	assert_true(compact_due(&compact, &parts, 1400));
}

/* Nothing that a guest does or leaves undone keeps a round going. */
static void test_it_ends(void **state)
{
	struct target_parts parts = guest(66);
	struct target_compact compact = begun(&parts, 1000);

	(void)state;
	/* The pool has nothing to back a deflate with. */
	parts.balloon_idle_ms = 5000;
	expect(&compact, &parts, 2900, COMPACT_LEAVE, COMPACT_EMPTY);
	expect(&compact, &parts, 3000, COMPACT_ASK, COMPACT_HOLD);
	/* The driver does not hold anything. */
	expect(&compact, &parts, 3100, COMPACT_LET_GO, COMPACT_SETTLE);

	compact = begun(&parts, 1000);
	parts.balloon.actual = 0;
	expect(&compact, &parts, 1100, COMPACT_ASK, COMPACT_HOLD);
	/* One that names more for ever. */
	parts.balloon.holding = true;
	for (uint64_t now = 1200; now <= 31100; now += 100) {
		parts.balloon.held += MIB(4);
		expect(&compact, &parts, now, COMPACT_ASK, COMPACT_HOLD);
	}
	parts.balloon.held += MIB(4);
	expect(&compact, &parts, 31200, COMPACT_LET_GO, COMPACT_SETTLE);

	/* Another target while blocks are held. */
	parts = guest(66);
	compact = begun(&parts, 1000);
	parts.balloon.actual = 0;
	expect(&compact, &parts, 1100, COMPACT_ASK, COMPACT_HOLD);
	assert_int_equal(compact_restart(&compact), COMPACT_LET_GO);
	assert_false(compact_runs(&compact));
}

/* It is not "there" for who waits, neither before the round nor in it. */
static void test_what_is_said(void **state)
{
	struct target_parts parts = guest(66);

	(void)state;
	assert_int_equal(target_judge(&parts), TARGET_REACHED);
	parts.compacting = true;
	assert_int_equal(target_judge(&parts), TARGET_COMPACTING);
	parts.balloon.actual = 0;
	assert_int_equal(target_judge(&parts), TARGET_COMPACTING);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_when_it_is_useful),
		cmocka_unit_test(test_a_round),
		cmocka_unit_test(test_taxed),
		cmocka_unit_test(test_it_ends),
		cmocka_unit_test(test_what_is_said),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
