/* SPDX-License-Identifier: MIT */
/* How a target is split between virtio-mem and the balloon, and what is said when it is not met. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "vmm/target.h"

#define MIB(n) ((uint64_t)(n) << 20)
#define BOOT   MIB(512)

/* A guest of 512 MiB with room for more, both drivers at rest. In MiB. */
static struct target_parts guest(unsigned int size, unsigned int plugged, unsigned int ballooned)
{
	struct target_parts parts = {
		.running = true,
		.boot = BOOT,
		.size = MIB(size),
		.balloon = { .driver_ready = true,
			     .target = MIB(ballooned),
			     .actual = MIB(ballooned) },
		.balloon_idle_ms = 10 * TARGET_STALL_MS,
		.balloon_limit = UINT64_MAX,
		.has_mem = true,
		.promised = UINT64_MAX,
		.mem = { .driver_ready = true,
			 .requested = MIB(plugged),
			 .plugged = MIB(plugged),
			 .idle_ms = 10 * TARGET_STALL_MS },
		.mem_stall_ms = TARGET_STALL_MS,
	};

	return parts;
}

static void expect(const struct target_parts *parts, unsigned int balloon, unsigned int requested)
{
	struct target_plan plan;

	target_decide(parts, &plan);
	assert_int_equal(plan.balloon >> 20, balloon);
	assert_int_equal(plan.requested >> 20, requested);
}

static void test_at_rest(void **state)
{
	struct target_parts parts = guest(512, 0, 0);

	(void)state;
	expect(&parts, 0, 0);
	assert_int_equal(target_judge(&parts), TARGET_REACHED);
	parts = guest(1024, 512, 0);
	expect(&parts, 0, 512);
	assert_int_equal(target_judge(&parts), TARGET_REACHED);
	parts = guest(256, 0, 256);
	expect(&parts, 256, 0);
	assert_int_equal(target_judge(&parts), TARGET_REACHED);
}

/* Blocks first; the balloon only when they have gone. */
static void test_shrink(void **state)
{
	struct target_parts parts = guest(256, 512, 0);

	(void)state;
	parts.mem.idle_ms = 0;
	expect(&parts, 0, 0);
	assert_int_equal(target_judge(&parts), TARGET_MOVING);
	parts.mem.plugged = MIB(100);
	expect(&parts, 0, 0);
	parts.mem.plugged = 0;
	expect(&parts, 256, 0);
}

/* Blocks that do not go: the balloon stands in, and is not in their way when they go later. While
 * the pool is short, it gives back only what they make superfluous. */
static void test_shrink_stalls(void **state)
{
	struct target_parts parts = guest(512, 512, 0);

	(void)state;
	parts.mem.requested = 0;
	parts.mem.plugged = MIB(128);
	expect(&parts, 128, 0);
	parts.balloon.target = parts.balloon.actual = MIB(128);
	assert_int_equal(target_judge(&parts), TARGET_REACHED);
	parts.mem.plugged = MIB(64);
	parts.mem.idle_ms = 0;
	expect(&parts, 0, 0);
	parts.size -= parts.tax = MIB(2);
	expect(&parts, 64 + 2, 0);
	parts.mem.plugged = 0;
	expect(&parts, 2, 0);
	/* Beside what it is to hold anyway. */
	parts = guest(400, 64, 112 + 64);
	parts.mem.requested = 0;
	expect(&parts, 112 + 64, 0);
	parts.give_way = true;
	expect(&parts, 112, 0);
}

/* The same at once when nothing can be expected of virtio-mem. */
static void test_shrink_without_mem_driver(void **state)
{
	struct target_parts parts = guest(512, 256, 0);

	(void)state;
	parts.mem.idle_ms = 0;
	parts.mem.driver_ready = false;
	expect(&parts, 256, 0);
	parts.mem.driver_ready = true;
	parts.mem.broken = true;
	expect(&parts, 256, 0);
}

/* What is in the balloon comes first, blocks afterwards; not for ever. */
static void test_grow(void **state)
{
	struct target_parts parts = guest(1024, 0, 256);

	(void)state;
	parts.balloon_idle_ms = 0;
	expect(&parts, 0, 0);
	assert_int_equal(target_judge(&parts), TARGET_MOVING);
	parts.balloon.actual = 0;
	parts.balloon.target = 0;
	expect(&parts, 0, 512);
	parts = guest(1024, 0, 256);
	expect(&parts, 0, 512);
	assert_int_equal(target_judge(&parts), TARGET_BUSY);
	parts.balloon.driver_ready = false;
	expect(&parts, 0, 512);
	assert_int_equal(target_judge(&parts), TARGET_NO_BALLOON);
}

/* The balloon keeps what it has when the guest is short, and takes no more. */
static void test_limit(void **state)
{
	struct target_parts parts = guest(64, 0, 300);

	(void)state;
	parts.balloon_limit = MIB(350);
	expect(&parts, 350, 0);
	parts.balloon_limit = MIB(200);
	expect(&parts, 300, 0);
	assert_int_equal(target_judge(&parts), TARGET_AVAILABLE);
	parts.balloon_limit = MIB(4096);
	expect(&parts, 448, 0);
}

/* Asked for more than it took, and stalled; answers that it has so much available. */
static struct target_parts short_guest(unsigned int available)
{
	struct target_parts parts = guest(64, 0, 300);

	parts.balloon.target = MIB(448);
	parts.guest = (struct target_guest){ .tells = true, .available = MIB(available) };
	return parts;
}

/* The balloon does not get what it was told. */
static void test_why_the_balloon_stalls(void **state)
{
	struct target_parts parts = short_guest(100);

	(void)state;
	assert_int_equal(target_judge(&parts), TARGET_BUSY);
	parts.balloon.quiet_ms = 10 * TARGET_SILENT_MAX_MS; /* it answers all the same */
	assert_int_equal(target_judge(&parts), TARGET_BUSY);
	/* Exactly what the balloon would leave to it, and less than a step beyond. */
	parts.guest.available = target_margin(&parts) + TARGET_STEP_MIN;
	assert_int_equal(target_judge(&parts), TARGET_BUSY);
	parts.guest.available--;
	assert_int_equal(target_judge(&parts), TARGET_AVAILABLE);
	/* No answer any more: what it said before is worth nothing. */
	parts.guest.unanswered_ms = TARGET_SILENT_MS - 1;
	assert_int_equal(target_judge(&parts), TARGET_AVAILABLE);
	parts.guest.unanswered_ms = TARGET_SILENT_MS;
	assert_int_equal(target_judge(&parts), TARGET_SILENT);
	parts.balloon.target = parts.balloon.actual;
	assert_int_equal(target_judge(&parts), TARGET_SILENT);
	parts.balloon_idle_ms = TARGET_STALL_MS - 1; /* but it moves */
	assert_int_equal(target_judge(&parts), TARGET_MOVING);
	/* Growing: what it has available does not matter, whether it answers does. */
	parts = short_guest(0);
	parts.size = MIB(512);
	parts.balloon.target = 0;
	assert_int_equal(target_judge(&parts), TARGET_BUSY);
	parts.guest.unanswered_ms = TARGET_SILENT_MS;
	assert_int_equal(target_judge(&parts), TARGET_SILENT);
}

/* The same of a guest without statistics: one whose driver goes on trying finds no page. */
static void test_why_without_statistics(void **state)
{
	struct target_parts parts = short_guest(0);

	(void)state;
	parts.guest.tells = false;
	parts.balloon.quiet_ms = 200;
	assert_int_equal(target_judge(&parts), TARGET_AVAILABLE);
	parts.balloon.quiet_ms = TARGET_STALL_MS;
	assert_int_equal(target_judge(&parts), TARGET_BUSY);
	parts.balloon.quiet_ms = TARGET_SILENT_MAX_MS;
	assert_int_equal(target_judge(&parts), TARGET_SILENT);
}

/* Blocks that are to go and do not, without a balloon that could stand in. */
static void test_why_blocks_stall(void **state)
{
	struct target_parts parts = guest(512, 512, 0);

	(void)state;
	parts.mem.requested = 0;
	parts.balloon.driver_ready = false;
	assert_int_equal(target_judge(&parts), TARGET_BUSY);
	assert_int_equal(target_stuck(&parts), 0);
	parts.in_vain = true;
	assert_int_equal(target_judge(&parts), TARGET_UNMOVABLE);
	assert_int_equal(target_stuck(&parts), MIB(512));
	/* It is still at what it was told before; for how long is that true? */
	parts.mem.unread_ms = TARGET_SILENT_MAX_MS - 1;
	assert_int_equal(target_judge(&parts), TARGET_BUSY);
	parts.mem.unread_ms = TARGET_SILENT_MAX_MS;
	assert_int_equal(target_judge(&parts), TARGET_SILENT);
	parts.guest.tells = true;
	parts.guest.available = MIB(300);
	assert_int_equal(target_judge(&parts), TARGET_BUSY);
	/* It has nowhere to move it. */
	parts.mem.unread_ms = 0;
	assert_int_equal(target_judge(&parts), TARGET_UNMOVABLE);
	parts.guest.available = MIB(10);
	assert_int_equal(target_judge(&parts), TARGET_AVAILABLE);
	parts.guest.unanswered_ms = TARGET_SILENT_MS;
	assert_int_equal(target_judge(&parts), TARGET_SILENT);
	parts.mem.driver_ready = false;
	assert_int_equal(target_judge(&parts), TARGET_NO_MEM);
	/* Below the boot memory only a balloon helps. */
	parts.size = MIB(400);
	assert_int_equal(target_judge(&parts), TARGET_NO_BALLOON);

	/* With a balloon that got stuck as well; and one that stands in: it is there, with a flaw.
	 */
	parts = guest(512, 512, 0);
	parts.mem.requested = 0;
	parts.in_vain = true;
	parts.guest = (struct target_guest){ .tells = true, .available = MIB(300) };
	parts.balloon.target = MIB(512);
	assert_int_equal(target_judge(&parts), TARGET_UNMOVABLE);
	parts.balloon.actual = MIB(512);
	assert_int_equal(target_judge(&parts), TARGET_REACHED);
	assert_int_equal(target_stuck(&parts), MIB(512));
}

/* Blocks that are to come and do not: nothing is unmovable about that. */
static void test_why_growing_stalls(void **state)
{
	struct target_parts parts = guest(1024, 256, 0);

	(void)state;
	parts.mem.requested = MIB(512);
	parts.in_vain = true;
	assert_int_equal(target_judge(&parts), TARGET_BUSY);
	assert_int_equal(target_stuck(&parts), 0);
	parts.guest = (struct target_guest){ .tells = true, .available = MIB(1) };
	assert_int_equal(target_judge(&parts), TARGET_AVAILABLE);
	parts.guest.unanswered_ms = TARGET_SILENT_MS;
	assert_int_equal(target_judge(&parts), TARGET_SILENT);
}

/* A guest that waits for a frame of the pool cannot answer, and moves nothing: that is not its
 * doing. */
static void test_why_it_starves(void **state)
{
	struct target_parts parts = short_guest(100);

	(void)state;
	parts.starves = true;
	parts.guest.unanswered_ms = TARGET_SILENT_MAX_MS;
	assert_int_equal(target_judge(&parts), TARGET_POOL);
	parts.balloon_idle_ms = TARGET_STALL_MS - 1; /* but it moves */
	assert_int_equal(target_judge(&parts), TARGET_MOVING);
	parts.starves = false;
	parts.balloon_idle_ms = TARGET_STALL_MS;
	assert_int_equal(target_judge(&parts), TARGET_SILENT);

	parts = guest(512, 0, 100);
	parts.balloon.target = 0;
	parts.starves = true;
	assert_int_equal(target_judge(&parts), TARGET_POOL);
	parts = guest(512, 512, 0);
	parts.mem.requested = 0;
	parts.balloon.driver_ready = false;
	parts.in_vain = true;
	parts.starves = true;
	assert_int_equal(target_judge(&parts), TARGET_POOL);
	parts = guest(1024, 256, 0);
	parts.mem.requested = MIB(512);
	parts.starves = true;
	assert_int_equal(target_judge(&parts), TARGET_POOL);
}

static void test_reasons(void **state)
{
	struct target_parts parts = guest(256, 0, 0);

	(void)state;
	parts.balloon.driver_ready = false;
	assert_int_equal(target_judge(&parts), TARGET_NO_BALLOON);
	parts.balloon.broken = true;
	assert_int_equal(target_judge(&parts), TARGET_BALLOON_BROKEN);
	parts.running = false;
	assert_int_equal(target_judge(&parts), TARGET_PAUSED);

	parts = guest(1024, 256, 0);
	assert_int_equal(target_judge(&parts), TARGET_BUSY);
	parts.mem.idle_ms = 0;
	assert_int_equal(target_judge(&parts), TARGET_MOVING);
	parts.mem.last_error = -ENOMEM;
	assert_int_equal(target_judge(&parts), TARGET_POOL);
	parts.mem.driver_ready = false;
	assert_int_equal(target_judge(&parts), TARGET_NO_MEM);
	parts.mem.broken = true;
	assert_int_equal(target_judge(&parts), TARGET_MEM_BROKEN);
	for (int i = 0; i < TARGET_STATES; i++)
		assert_true(target_state_names[i] && target_state_texts[i]);
}

/* A guest may claim anything in the balloon; sizes do not wrap. */
static void test_lies(void **state)
{
	struct target_parts parts = guest(512, 0, 4096);

	(void)state;
	assert_true(target_actual(&parts) == 0);
	expect(&parts, 0, 0);
	parts = guest(512, 0, 0);
	parts.balloon.actual = UINT64_MAX;
	expect(&parts, 0, 0);
	assert_int_equal(target_judge(&parts), TARGET_BUSY);
}

/* Without a memory device the balloon is all there is. */
static void test_balloon_only(void **state)
{
	struct target_parts parts = guest(256, 0, 0);

	(void)state;
	parts.has_mem = false;
	memset(&parts.mem, 0, sizeof(parts.mem));
	expect(&parts, 256, 0);
	parts.balloon_idle_ms = 0;
	assert_int_equal(target_judge(&parts), TARGET_MOVING);
}

static void expect_shares(uint64_t bytes, const uint64_t *max, uint64_t a, uint64_t b, uint64_t c)
{
	uint64_t share[3];

	target_share(bytes, 3, max, share);
	assert_int_equal(share[0], a);
	assert_int_equal(share[1], b);
	assert_int_equal(share[2], c);
}

/* A guest that stands still is asked again, less and less often, and from the start once it moved.
 */
static void test_asked_again(void **state)
{
	struct target_ask ask = { 0 };
	struct target_parts parts = guest(512 + 256, 512, 0);
	uint64_t asked[4], nr = 0, now = 1000000, since = now;

	(void)state;
	parts.mem.requested = MIB(256);
	for (; nr < 4; now += 1000) {
		parts.mem.idle_ms = now - since;
		if (target_ask_again(&ask, &parts, now))
			asked[nr++] = now - since;
	}
	assert_int_equal(asked[0], TARGET_STALL_MS);
	assert_int_equal(asked[1] - asked[0], TARGET_ASK_MIN_MS);
	assert_int_equal(asked[2] - asked[1], 2 * TARGET_ASK_MIN_MS);
	assert_int_equal(asked[3] - asked[2], 4 * TARGET_ASK_MIN_MS);
	assert_true(ask.in_vain);
	/* It moved: then it has the time that it had at first. */
	parts.mem.idle_ms = 0;
	assert_false(target_ask_again(&ask, &parts, now));
	assert_false(ask.in_vain);
	parts.mem.idle_ms = TARGET_STALL_MS;
	assert_true(target_ask_again(&ask, &parts, now + TARGET_STALL_MS));
	/* In vain when it had as long as it is given, not before. */
	parts.mem.idle_ms = 2 * TARGET_STALL_MS - 1;
	target_ask_again(&ask, &parts, now + 2 * TARGET_STALL_MS - 1);
	assert_false(ask.in_vain);
	parts.mem.idle_ms = 2 * TARGET_STALL_MS;
	target_ask_again(&ask, &parts, now + 2 * TARGET_STALL_MS);
	assert_true(ask.in_vain);
	/* Nobody to ask, or nothing to ask for. */
	ask = (struct target_ask){ 0 };
	parts.mem.driver_ready = false;
	assert_false(target_ask_again(&ask, &parts, now));
	parts.mem.driver_ready = true;
	parts.mem.plugged = parts.mem.requested;
	assert_false(target_ask_again(&ask, &parts, now));
}

/* A guest whose blocks do not go, with a balloon that does at once what it is told. Counts how
 * often the guest was asked, and how often while the balloon stood in for blocks. */
struct stalled {
	struct target_ask ask;
	struct target_parts parts;
	uint64_t now, moved;
	unsigned int asked, in_the_way, gave_way;
};

static void stalled_for(struct stalled *guest, uint64_t ms)
{
	struct target_parts *parts = &guest->parts;

	for (uint64_t end = guest->now + ms; guest->now < end; guest->now += 200) {
		bool gave_way = parts->give_way;
		struct target_plan plan;

		parts->mem.idle_ms = guest->now - guest->moved;
		target_decide(parts, &plan);
		if (target_ask_again(&guest->ask, parts, guest->now)) {
			guest->asked++;
			guest->in_the_way += parts->balloon.actual > 0;
		}
		parts->balloon_idle_ms =
			plan.balloon == parts->balloon.target ? parts->balloon_idle_ms + 200 : 0;
		parts->balloon.target = parts->balloon.actual = plan.balloon;
		parts->give_way = guest->ask.gives_way;
		guest->gave_way += parts->give_way && !gave_way;
	}
}

/* The balloon lets go of what it stands in for before the guest is asked again; once, until blocks
 * have gone; and in the end it stands in. */
static void test_gives_way(void **state)
{
	struct stalled stalled = { .parts = guest(512, 512, 0), .now = 1000000, .moved = 1000000 };
	unsigned int asked;

	(void)state;
	stalled.parts.mem.requested = 0;
	stalled.parts.mem.plugged = MIB(128);
	stalled_for(&stalled, TARGET_STALL_MS + 400);
	assert_int_equal(stalled.parts.balloon.target, MIB(128));
	stalled_for(&stalled, 300000);
	assert_int_equal(stalled.gave_way, 1);
	assert_true(stalled.asked > 5 && stalled.asked < 12);
	/* Not in the way when it was asked first, nor when it had given way. */
	assert_int_equal(stalled.in_the_way, stalled.asked - 2);
	assert_int_equal(stalled.parts.balloon.target, MIB(128));

	/* Blocks went: it is worth another try. */
	stalled.parts.mem.plugged = MIB(64);
	stalled.moved = stalled.now;
	asked = stalled.asked;
	stalled_for(&stalled, 200);
	assert_int_equal(stalled.parts.balloon.target, 0);
	stalled_for(&stalled, 60000);
	assert_true(stalled.asked > asked);
	assert_int_equal(stalled.gave_way, 2);
	assert_int_equal(stalled.parts.balloon.target, MIB(64));

	/* Not while the pool is short. */
	stalled.parts.size -= stalled.parts.tax = MIB(2);
	stalled.moved = stalled.now;
	stalled_for(&stalled, 60000);
	assert_int_equal(stalled.gave_way, 2);
	assert_int_equal(stalled.parts.balloon.target, MIB(64 + 2));
}

/* One of 768 MiB that does without so much of it. */
static struct target_parts taxed_guest(unsigned int tax)
{
	struct target_parts parts = guest(768 - tax, 256, 0);

	parts.tax = MIB(tax);
	return parts;
}

/* A tax is the balloon's, and leaves the blocks alone. */
static void test_tax(void **state)
{
	struct target_parts parts = taxed_guest(128);

	(void)state;
	expect(&parts, 128, 256);
	/* Blocks that are to go all the same go; none comes that a smaller tax would let go. */
	parts.size -= MIB(64);
	parts.mem.idle_ms = 0;
	expect(&parts, 128, 192);
	parts.mem.plugged = MIB(32);
	expect(&parts, 0, 64);
	parts = taxed_guest(512);
	expect(&parts, 512, 256);
	/* It stands still, for long: what it does not get the blocks give. */
	parts.balloon.target = MIB(512);
	parts.balloon.actual = MIB(312);
	parts.balloon_idle_ms = TARGET_STALL_MAX_MS - 1;
	expect(&parts, 512, 256);
	parts.balloon_idle_ms = TARGET_STALL_MAX_MS;
	parts.mem.idle_ms = 0;
	expect(&parts, 512, 56);
	parts.mem.plugged = MIB(56);
	expect(&parts, 312, 56);
	/* Without a balloon they are all there is. */
	parts = taxed_guest(512);
	parts.balloon.driver_ready = false;
	expect(&parts, 512, 0);
}

/* A guest that pauses and goes on is waited for longer the next time. */
static void test_pace(void **state)
{
	struct target_parts parts = guest(512, 512, 0);
	struct target_pace pace = { 0 };

	(void)state;
	/* Nothing to do is not a pause. */
	assert_int_equal(target_pace(&pace, &parts), TARGET_STALL_MS);
	parts.mem.requested = 0;
	parts.mem.idle_ms = 0;
	assert_int_equal(target_pace(&pace, &parts), TARGET_STALL_MS);
	parts.mem.idle_ms = 4000;
	assert_int_equal(target_pace(&pace, &parts), TARGET_STALL_MS);
	parts.mem.idle_ms = 100;
	assert_int_equal(target_pace(&pace, &parts), 4000 * TARGET_PACE_FACTOR);
	parts.mem.idle_ms = 100000;
	target_pace(&pace, &parts);
	parts.mem.idle_ms = 0;
	assert_int_equal(target_pace(&pace, &parts), TARGET_STALL_MAX_MS);
}

/* A VM that is stopped, or a driver that goes, ends the waiting; it is no pause of the guest. */
static void test_pace_of_a_stopped_guest(void **state)
{
	struct target_parts parts = guest(512, 512, 0);
	struct target_pace pace = { 0 };

	(void)state;
	parts.mem.requested = 0;
	parts.mem.idle_ms = 4000;
	target_pace(&pace, &parts);
	parts.running = false;
	assert_int_equal(target_pace(&pace, &parts), TARGET_STALL_MS);
	parts.running = true;
	parts.mem.idle_ms = 100;
	assert_int_equal(target_pace(&pace, &parts), TARGET_STALL_MS);
	parts.mem.idle_ms = 4000;
	target_pace(&pace, &parts);
	parts.mem.driver_ready = false;
	assert_int_equal(target_pace(&pace, &parts), TARGET_STALL_MS);
	parts.mem.driver_ready = true;
	parts.mem.idle_ms = 100;
	assert_int_equal(target_pace(&pace, &parts), TARGET_STALL_MS);
}

/* Memory devices of several nodes: in proportion, in whole frames, nothing lost, none too much. */
static void test_shares(void **state)
{
	const uint64_t max[] = { MIB(512), MIB(256), 0 };
	const uint64_t odd[] = { MIB(6), MIB(6), MIB(6) };

	(void)state;
	expect_shares(0, max, 0, 0, 0);
	expect_shares(MIB(768), max, MIB(512), MIB(256), 0);
	expect_shares(MIB(384), max, MIB(256), MIB(128), 0);
	expect_shares(MIB(2), odd, 0, 0, MIB(2));
	expect_shares(MIB(8), odd, MIB(2), MIB(2), MIB(4));
	expect_shares(MIB(18), odd, MIB(6), MIB(6), MIB(6));
	for (unsigned int frames = 0; frames <= 384; frames++) {
		uint64_t share[3];

		target_share(MIB(2 * frames), 3, max, share);
		assert_int_equal(share[0] + share[1] + share[2], MIB(2 * frames));
		assert_true(share[0] <= max[0] && share[1] <= max[1]);
	}
}

/* Several devices as one: sums, and the one that moved last tells how long nothing moved. */
static void test_sum(void **state)
{
	struct virtio_mem_stats stats[] = {
		{ .driver_ready = true,
		  .plugged = MIB(2),
		  .requested = MIB(4),
		  .idle_ms = 5000,
		  .unread_ms = 40 },
		{ .driver_ready = true,
		  .plugged = MIB(6),
		  .requested = MIB(8),
		  .idle_ms = 20,
		  .unread_ms = 700,
		  .last_error = -ENOMEM },
	};
	struct virtio_mem_stats sum;

	(void)state;
	target_sum_mem(stats, 2, &sum);
	assert_int_equal(sum.plugged, MIB(8));
	assert_int_equal(sum.requested, MIB(12));
	assert_int_equal(sum.idle_ms, 20);
	assert_int_equal(sum.unread_ms, 700); /* it waits for the slowest */
	assert_int_equal(sum.last_error, -ENOMEM);
	assert_true(sum.driver_ready);
	assert_false(sum.broken);
	/* What has been overcome is no trouble, nor does it hide what another one has. */
	stats[0].last_error = -EIO;
	stats[0].plugged = stats[0].requested;
	target_sum_mem(stats, 2, &sum);
	assert_int_equal(sum.last_error, -ENOMEM);
	stats[1].plugged = stats[1].requested;
	target_sum_mem(stats, 2, &sum);
	assert_int_equal(sum.last_error, 0);
}

/* The pool grows for it: the guest gets what is promised, and the rest as it comes. */
static void test_growing(void **state)
{
	struct target_parts parts = guest(1024, 0, 0);

	(void)state;
	parts.promised = MIB(128);
	parts.pool_grows = true;
	expect(&parts, 0, 128);
	parts.mem.requested = MIB(128);
	parts.mem.idle_ms = 0;
	assert_int_equal(target_judge(&parts), TARGET_MOVING);
	parts.mem.plugged = MIB(128);
	parts.mem.idle_ms = 10 * TARGET_STALL_MS;
	assert_int_equal(target_judge(&parts), TARGET_GROWING);
	parts.pool_grows = false;
	assert_int_equal(target_judge(&parts), TARGET_POOL);
	/* What it has is not asked back because the promise is less by now. */
	parts.promised = MIB(64);
	expect(&parts, 0, 128);
	parts.promised = MIB(512);
	expect(&parts, 0, 512);
	/* Asked too early by a driver that was quick. */
	parts = guest(1024, 0, 0);
	parts.mem.requested = MIB(512);
	parts.mem.last_error = -EINPROGRESS;
	parts.promised = MIB(256);
	parts.pool_grows = true;
	assert_int_equal(target_judge(&parts), TARGET_GROWING);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_at_rest),
		cmocka_unit_test(test_shrink),
		cmocka_unit_test(test_shrink_stalls),
		cmocka_unit_test(test_shrink_without_mem_driver),
		cmocka_unit_test(test_grow),
		cmocka_unit_test(test_limit),
		cmocka_unit_test(test_why_it_starves),
		cmocka_unit_test(test_reasons),
		cmocka_unit_test(test_why_the_balloon_stalls),
		cmocka_unit_test(test_why_without_statistics),
		cmocka_unit_test(test_why_blocks_stall),
		cmocka_unit_test(test_why_growing_stalls),
		cmocka_unit_test(test_lies),
		cmocka_unit_test(test_balloon_only),
		cmocka_unit_test(test_asked_again),
		cmocka_unit_test(test_gives_way),
		cmocka_unit_test(test_tax),
		cmocka_unit_test(test_pace),
		cmocka_unit_test(test_pace_of_a_stopped_guest),
		cmocka_unit_test(test_shares),
		cmocka_unit_test(test_sum),
		cmocka_unit_test(test_growing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
