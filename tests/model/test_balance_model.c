/* SPDX-License-Identifier: MIT */
/*
 * The balancing policy: single decisions, and a model of a pool whose VMs grow, shrink and keep
 * what they once touched, over thousands of rounds. What must hold: no VM below its minimum, no
 * step larger than allowed, memory goes to who works, and then everything comes to rest.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "framevisor/frame.h"
#include "vmm/owner/balance_policy.h"

#define NR_VMS    4
#define STEPS_MAX (NR_VMS * 4)
#define NEVER     (UINT64_MAX / 2)

static struct balance_vm vms[NR_VMS];
static struct balance_input input;
static struct balance_step steps[STEPS_MAX];

/* A guest of 400 frames that has touched 300 and needs 100. */
static void make_vm(unsigned int i)
{
	vms[i] = (struct balance_vm){ .id = i + 1,
				      .shares = 1000,
				      .min = 64,
				      .held = 300,
				      .bound = 300,
				      .target = 400,
				      .running = true,
				      .reached = true,
				      .reports = true,
				      .total = 400,
				      .available = 300,
				      .taxed_ms = NEVER,
				      .relieved_ms = NEVER,
				      .hinted_ms = NEVER };
}

static void make_input(unsigned int nr)
{
	for (unsigned int i = 0; i < nr; i++)
		make_vm(i);
	input = (struct balance_input){ .free = 10,
					.min = 5,
					.low = 20,
					.high = 40,
					.twice = true,
					.active = true,
					.least_free = NEVER,
					.idle_tax = 75,
					.step = 5,
					.stats_age_max = 10000,
					.vms = vms,
					.nr_vms = nr };
}

static unsigned int decide(void)
{
	return balance_decide(&input, steps, STEPS_MAX);
}

static const struct balance_step *find(uint32_t id, enum balance_kind kind, unsigned int nr)
{
	for (unsigned int i = 0; i < nr; i++) {
		if (steps[i].id == id && steps[i].kind == kind)
			return &steps[i];
	}
	return NULL;
}

/* Stocks are enough: nobody is taxed. */
static void test_cheapest_first(void **state)
{
	unsigned int nr;

	(void)state;
	make_input(2);
	vms[0].stock = 20;
	vms[1].stock = 20;
	nr = decide();
	assert_int_equal(nr, 2);
	assert_int_equal(steps[0].kind, BALANCE_STOCK);
	assert_int_equal(steps[1].kind, BALANCE_STOCK);
	vms[0].stock_asked = true;
	vms[1].stock = 0;
	nr = decide();
	assert_null(find(1, BALANCE_STOCK, nr));
	assert_non_null(find(1, BALANCE_TAX, nr));
}

/* What it could still touch is taxed too, or the balloon would take only that. */
static void test_tax(void **state)
{
	(void)state;
	make_input(1);
	assert_int_equal(decide(), 1);
	assert_int_equal(steps[0].kind, BALANCE_TAX);
	assert_int_equal(steps[0].frames, 100 + 15); /* 5 % of 300 */
}

/* A guest of 10 GiB can give what it has to spare, also in frames of that size. */
static void test_gigantic_frames(void **state)
{
	(void)state;
	make_input(1);
	vms[0].min = 1;
	vms[0].held = vms[0].bound = vms[0].target = vms[0].total = 10;
	vms[0].available = 6;
	assert_int_equal(frame_use_shift(FRAME_SHIFT_1G), 0);
	assert_int_equal(decide(), 1);
	assert_int_equal(steps[0].kind, BALANCE_TAX);
	assert_int_equal(steps[0].frames, 4);
	assert_int_equal(frame_use_shift(FRAME_SHIFT_2M), 0);
}

static void expect_nothing(void)
{
	assert_int_equal(decide(), 0);
}

static void test_left_alone(void **state)
{
	(void)state;
	make_input(1);
	vms[0].stats_age_ms = 10001; /* old numbers */
	expect_nothing();
	make_input(1);
	vms[0].reports = false;
	expect_nothing();
	make_input(1);
	vms[0].available_change = -20; /* it is growing */
	expect_nothing();
	make_input(1);
	vms[0].available = 139; /* the air and a tenth are left to it */
	expect_nothing();
	make_input(1);
	vms[0].min = 300;
	expect_nothing();
	make_input(1);
	vms[0].relieved_ms = 1000; /* it was given something back just now */
	expect_nothing();
	make_input(1);
	vms[0].running = false;
	expect_nothing();
	make_input(1);
	input.active = false;
	expect_nothing();
}

/* Who is idle pays first, and who has more shares later. */
static void test_order(void **state)
{
	(void)state;
	make_input(2);
	input.free = input.high - 5; /* one step is enough */
	vms[0].available = 200;
	assert_int_equal(decide(), 1);
	assert_int_equal(steps[0].id, 2);
	make_input(2);
	input.free = input.high - 5;
	vms[1].shares = 4000;
	assert_int_equal(decide(), 1);
	assert_int_equal(steps[0].id, 1);
	/* Measured idleness counts more than what the guest says. */
	make_input(2);
	input.free = input.high - 5;
	vms[0].knows_idle = vms[1].knows_idle = true;
	vms[0].idle_permille = 100;
	vms[1].idle_permille = 900;
	vms[1].available = 200;
	assert_int_equal(decide(), 1);
	assert_int_equal(steps[0].id, 2);
	/* One that grows comes last, whatever else. */
	vms[1].growing = true;
	assert_int_equal(decide(), 1);
	assert_int_equal(steps[0].id, 1);
	vms[0].relieved_ms = 0;
	assert_int_equal(decide(), 1);
	assert_int_equal(steps[0].id, 2);
	/* Without an idle tax only size and shares count. */
	assert_true(balance_rho(&vms[1], &input) < balance_rho(&vms[0], &input));
	input.idle_tax = 0;
	assert_true(balance_rho(&vms[1], &input) == balance_rho(&vms[0], &input));
}

static void test_relief(void **state)
{
	unsigned int nr;

	(void)state;
	make_input(1);
	input.active = false;
	input.free = 4 * 40 + 100;
	vms[0].tax = 150;
	assert_int_equal(decide(), 1);
	assert_int_equal(steps[0].kind, BALANCE_RELIEF);
	assert_int_equal(steps[0].frames, 150 - 50); /* half of what is beyond four times high */
	input.least_free = 4 * 40 + 10; /* the rest was needed lately, and may be again */
	assert_int_equal(decide(), 1);
	assert_int_equal(steps[0].frames, 150 - 5);
	input.least_free = 4 * 40;
	assert_int_equal(decide(), 0);
	input.least_free = NEVER;
	vms[0].taxed_ms = 4999;
	assert_int_equal(decide(), 0);
	/* One that is short gets it back at once, and the other one pays. */
	make_input(2);
	input.active = false;
	input.free = input.high;
	vms[0].tax = 150;
	vms[0].bound = 250;
	vms[0].available = 10;
	vms[0].taxed_ms = 0;
	nr = decide();
	assert_non_null(find(1, BALANCE_RELIEF, nr));
	assert_non_null(find(2, BALANCE_TAX, nr));
}

/* One that is short gets something back. As long as enough is free, nobody has to pay for that. */
static void test_relief_from_free(void **state)
{
	(void)state;
	make_input(2);
	input.active = false;
	input.least_free = 0;
	vms[0].tax = 150;
	vms[0].bound = 250;
	vms[0].available = 10;
	input.free = input.high + 40;
	assert_int_equal(decide(), 1);
	assert_int_equal(steps[0].id, 1);
	assert_int_equal(steps[0].frames, 150 - 40);
	input.free = input.high + 35;
	assert_int_equal(decide(), 2);
	assert_int_equal(steps[1].kind, BALANCE_TAX);
	assert_int_equal(steps[1].frames, 100 + 5);
}

/* A VM at work gets what is free now, even if it was needed lately; one at rest does not. */
static void test_relief_at_work(void **state)
{
	(void)state;
	make_input(2);
	input.active = false;
	input.least_free = 0;
	input.free = 40 + 10 + 60;     /* high, the band and what is unused */
	vms[0].tax = vms[1].tax = 100; /* nothing is left that they could touch without more */
	expect_nothing();
	vms[1].growing = true;
	assert_int_equal(decide(), 1);
	assert_int_equal(steps[0].id, 2);
	assert_int_equal(steps[0].frames, 100 - 60);
	vms[0].growing = true; /* there is only so much */
	assert_int_equal(decide(), 1);
	assert_int_equal(steps[0].id, 1);
	vms[0].taxed_ms = 4999;
	assert_int_equal(decide(), 1);
	assert_int_equal(steps[0].id, 2);
	/* One that is short does not wait either, and not for a step at a time. */
	vms[0].available = 1;
	assert_int_equal(decide(), 1);
	assert_int_equal(steps[0].id, 1);
	assert_int_equal(steps[0].frames, 100 - 60);
	/* What it was given and has not taken yet is still among what is free. */
	vms[0].running = false;
	vms[1].tax = 40;
	vms[1].bound = 360;
	vms[1].reached = false;
	vms[1].relieved_ms = 1999;
	expect_nothing();
	vms[1].relieved_ms = 2000;
	assert_int_equal(decide(), 1);
	/* A page cache that is read all the time is available, and needed. */
	vms[1].reached = true;
	vms[1].growing = false;
	expect_nothing();
	vms[1].knows_idle = true;
	vms[1].idle_permille = 499;
	assert_true(balance_in_need(&vms[1], &input));
	assert_int_equal(decide(), 1);
	assert_int_equal(steps[0].frames, 0);
	vms[1].idle_permille = 500;
	assert_false(balance_in_need(&vms[1], &input));
	expect_nothing();
	/* What one at work may touch as it is is promised to it: the rest alone is given on top. */
	vms[1].idle_permille = 100;
	vms[1].bound = 310;
	vms[1].tax = 65; /* 25 to touch, of the 60 */
	assert_int_equal(decide(), 1);
	assert_int_equal(steps[0].frames, 65 - 35);
	vms[0].running = vms[0].growing = true;
	vms[0].available = 300;
	vms[0].bound = 265; /* the other one 35 more */
	vms[0].tax = 100;
	expect_nothing();
	vms[0].growing = false;
	assert_int_equal(decide(), 1);
	vms[0].running = false;
	/* Its user lowers the target, and the minimum stays. */
	vms[1].idle_permille = 500;
	vms[1].tax = 40;
	vms[1].target = 100; /* of which 64 are the minimum */
	assert_int_equal(decide(), 1);
	assert_int_equal(steps[0].kind, BALANCE_RELIEF);
	assert_int_equal(steps[0].frames, 36);
}

/* One that is short gets no more while its balloon has not let go of what it was given last; and
 * more at once when it has used that. */
static void test_relief_under_way(void **state)
{
	(void)state;
	make_input(1);
	input.active = false;
	input.free = input.high;
	vms[0].tax = 60;
	vms[0].available = 10; /* of 340, which it cannot touch yet */
	vms[0].reached = false;
	vms[0].relieved_ms = 3000;
	expect_nothing();
	assert_false(balance_in_need(&vms[0], &input));
	vms[0].relieved_ms = 30001; /* it never will */
	assert_int_equal(decide(), 1);
	assert_int_equal(steps[0].frames, 60 - 40);
	vms[0].relieved_ms = 3000;
	vms[0].bound = 301; /* less than a step is left */
	assert_int_equal(decide(), 1);
	assert_int_equal(steps[0].kind, BALANCE_RELIEF);
	vms[0].bound = 300;
	vms[0].reached = true;
	assert_int_equal(decide(), 1);
}

/* An idle guest has its tax back when much was free for a while: otherwise it would have to be
 * taken again. */
static void test_relief_at_rest(void **state)
{
	(void)state;
	make_input(1);
	input.active = false;
	vms[0].tax = 100;
	input.free = 4 * 40 + 1;
	expect_nothing();
	input.free = 4 * 40 + 20;
	assert_int_equal(decide(), 1);
	assert_int_equal(steps[0].kind, BALANCE_RELIEF);
	assert_int_equal(steps[0].frames, 100 - 10);
}

/* What was promised fits into the pool (again): nobody is taxed, and who was has all of it back,
 * however little is free. */
static void test_promised_once(void **state)
{
	(void)state;
	make_input(2);
	input.twice = false;
	expect_nothing();
	vms[0].stock = 20;
	vms[0].can_swap = vms[0].can_hint = true;
	expect_nothing();
	vms[0].tax = 150;
	input.free = input.least_free = 1;
	assert_int_equal(decide(), 1);
	assert_int_equal(steps[0].id, 1);
	assert_int_equal(steps[0].kind, BALANCE_RELIEF);
	assert_int_equal(steps[0].frames, 0);
	/* The next VM may be on its way: not back and forth. One that is short does not wait. */
	vms[0].taxed_ms = 4999;
	expect_nothing();
	vms[0].available = 10;
	assert_int_equal(decide(), 1);
	assert_int_equal(steps[0].frames, 0);
	/* Nor is more than the target less the minimum a tax. */
	vms[0].available = 300;
	vms[0].target = 200;
	assert_int_equal(decide(), 1);
	assert_int_equal(steps[0].frames, 200 - 64);
}

/* A balloon full of pieces of frames: the others pay, and when nobody else can, it goes on. */
static void test_pieces(void **state)
{
	(void)state;
	make_input(2);
	input.free = input.high - 5; /* one step is enough */
	vms[0].tax = 160;            /* of which 60 frames came */
	assert_int_equal(decide(), 1);
	assert_int_equal(steps[0].id, 1); /* 60 of 160: the balloon's ordinary loss */
	vms[0].bound = 340;
	assert_int_equal(decide(), 1);
	assert_int_equal(steps[0].id, 2);
	vms[1].running = false;
	assert_int_equal(decide(), 1);
	assert_int_equal(steps[0].id, 1);
	/* While it moves its memory together it is left alone, and what the driver holds for that
	 * is no reason to give anything back. */
	vms[0].compacting = true;
	vms[0].available = 0;
	assert_int_equal(decide(), 0);
}

/* Pieces that a balloon holds already are not on their way: others are asked for what is missing.
 */
static void test_pieces_do_not_come(void **state)
{
	(void)state;
	make_input(2);
	input.free = input.high - 30;
	vms[0].tax = 160; /* of which 100 frames came */
	vms[0].pieces = balance_pieces(&vms[0], 0);
	assert_int_equal(vms[0].pieces, 60);
	vms[0].tax += 10;
	vms[0].reached = false;
	vms[0].taxed_ms = vms[0].still_ms = 100;
	vms[0].pieces = balance_pieces(&vms[0], vms[0].pieces);
	assert_int_equal(vms[0].pieces, 60);
	/* 10 of the 30 come; one step of each VM is 15. */
	vms[0].available = vms[0].total / 10;
	assert_int_equal(decide(), 1);
	assert_int_equal(steps[0].id, 2);
	/* A VM has them without a tax, too, when its user made it small; they go when it has all.
	 */
	vms[0].tax = 0;
	vms[0].reached = true;
	vms[0].target = 240;
	assert_int_equal(balance_pieces(&vms[0], 0), 60);
	vms[0].target = 400;
	assert_int_equal(balance_pieces(&vms[0], 60), 0);
}

/* Who has nothing to touch that brings nothing pays first, and who is on its way is waited for. */
static void test_air(void **state)
{
	(void)state;
	make_input(2);
	input.free = input.high - 5; /* one step is enough */
	vms[1].tax = 100;
	vms[1].taxed_ms = NEVER;
	vms[1].shares = 5000; /* dearer, but what it has comes at once */
	assert_int_equal(decide(), 1);
	assert_int_equal(steps[0].id, 2);
	vms[1].available = 40; /* nothing more to give */
	assert_int_equal(decide(), 1);
	assert_int_equal(steps[0].id, 1);
	assert_int_equal(steps[0].frames, 100 + 5);
	/* It follows: what it still has to touch takes its time. */
	vms[0].tax = 105;
	vms[0].taxed_ms = 6000;
	vms[0].reached = false;
	vms[0].available = 250;
	vms[0].still_ms = 500;
	expect_nothing();
	/* It does not: somebody else is asked, although that takes longer. */
	make_vm(2);
	input.nr_vms = 3;
	vms[2].shares = 5000;
	expect_nothing();
	vms[0].still_ms = 3001;
	assert_int_equal(decide(), 1);
	assert_int_equal(steps[0].id, 3);
	vms[0].still_ms = 500;
	vms[0].taxed_ms = 30001;
	assert_int_equal(decide(), 1);
	assert_int_equal(steps[0].id, 3);
	vms[2].running = false; /* and when there is nobody else, it is */
	assert_int_equal(decide(), 1);
	assert_int_equal(steps[0].id, 1);
}

static void test_oom(void **state)
{
	(void)state;
	make_input(3);
	vms[1].held = 350;
	assert_int_equal(balance_oom_victim(vms, 3, 1000), 1);
	vms[1].shares = 2000;
	assert_int_not_equal(balance_oom_victim(vms, 3, 1000), 1);
	vms[2].oom_score_adj = 500;
	assert_int_equal(balance_oom_victim(vms, 3, 1000), 2);
	vms[2].running = false;
	vms[0].oom_score_adj = -1000;
	assert_int_equal(balance_oom_victim(vms, 3, 1000), 1);
	vms[1].oom_score_adj = -1000;
	assert_int_equal(balance_oom_victim(vms, 3, 1000), -1);
}

/* Whatever the numbers, what comes out can be done. */
static void test_any_input(void **state)
{
	(void)state;
	srand(1);
	for (int round = 0; round < 200000; round++) {
		unsigned int nr, changes[NR_VMS] = { 0 };

		make_input(NR_VMS);
		input.free = (uint64_t)rand() % 200;
		input.active = rand() % 2;
		input.twice = rand() % 2;
		for (unsigned int i = 0; i < NR_VMS; i++) {
			vms[i].target = (uint64_t)rand() % 500;
			vms[i].bound = (uint64_t)rand() % 500;
			vms[i].min = (uint64_t)rand() % 300;
			vms[i].tax = (uint64_t)rand() % 200;
			vms[i].available = (uint64_t)rand() % 500;
			vms[i].total = (uint64_t)rand() % 500;
			vms[i].stock = (uint64_t)rand() % 20;
			vms[i].reached = rand() % 2;
			vms[i].pieces = (uint64_t)rand() % 200;
			vms[i].taxed_ms = (uint64_t)rand() % 60000;
			vms[i].relieved_ms = (uint64_t)rand() % 60000;
			vms[i].still_ms = (uint64_t)rand() % 4000;
			vms[i].compacting = rand() % 4 == 0;
			vms[i].growing = rand() % 4 == 0;
			vms[i].knows_idle = rand() % 2;
			vms[i].idle_permille = (uint32_t)rand() % 1001;
			vms[i].can_swap = rand() % 2;
		}
		nr = decide();
		for (unsigned int s = 0; s < nr; s++) {
			const struct balance_vm *vm = &vms[steps[s].id - 1];

			assert_true(input.twice || steps[s].kind == BALANCE_RELIEF);
			if (steps[s].kind == BALANCE_TAX) {
				assert_true(steps[s].frames > vm->tax);
				assert_true(steps[s].frames + vm->min <= vm->target);
				changes[steps[s].id - 1]++;
			} else if (steps[s].kind == BALANCE_RELIEF) {
				assert_true(steps[s].frames < vm->tax);
				changes[steps[s].id - 1]++;
			} else if (steps[s].kind == BALANCE_SWAP) {
				assert_true(steps[s].frames + vm->min <= vm->bound);
			}
		}
		for (unsigned int i = 0; i < NR_VMS; i++)
			assert_true(changes[i] <= 1);
	}
}

/* --- the model --- */

#define ROUND_MS     200
#define POOL_FRAMES  1024
#define LEAST_ROUNDS (30000 / ROUND_MS)
#define GROWTH       8 /* frames that a guest touches in a round */
#define FOLLOW       6 /* frames that its balloon moves in a round */

struct guest {
	uint64_t wants;     /* its working set */
	uint64_t uses;      /* of that, what it has */
	uint64_t effective; /* where its balloon is */
	uint64_t waited;    /* rounds in which it could not grow */
};

static struct guest guests[NR_VMS];
static uint64_t model_steps, model_waits;
static uint64_t model_lately[LEAST_ROUNDS];
static unsigned int model_rounds;

static uint64_t model_free(void)
{
	uint64_t held = 0;

	for (unsigned int i = 0; i < NR_VMS; i++)
		held += vms[i].bound;
	assert_true(held <= POOL_FRAMES);
	return POOL_FRAMES - held;
}

static void model_guest(struct guest *guest, struct balance_vm *vm)
{
	uint64_t goal = vm->target - vm->tax, before = vm->available, bound = vm->bound;

	/* The balloon takes only what is not in use, and gives back at once. */
	if (guest->effective > goal) {
		uint64_t by = guest->effective - goal < FOLLOW ? guest->effective - goal : FOLLOW;

		guest->effective -= by;
		if (guest->effective < guest->uses)
			guest->effective = guest->uses;
	} else {
		/* Frames are there before the guest has them back, needed or not. */
		uint64_t spare = less(model_free(), input.min);
		uint64_t back = goal - guest->effective;

		vm->bound += back < spare ? back : spare;
		guest->effective = goal;
	}
	if (guest->uses > guest->wants)
		guest->uses = guest->wants;
	for (int i = 0; i < GROWTH && guest->uses < guest->wants; i++) {
		if (guest->uses >= guest->effective ||
		    (guest->uses >= vm->bound && model_free() <= input.min)) {
			guest->waited++;
			model_waits++;
			break;
		}
		guest->uses++;
		if (guest->uses > vm->bound)
			vm->bound = guest->uses;
	}
	/* What it once touched stays its own (page cache) until the balloon has it. */
	if (vm->bound > guest->effective)
		vm->bound = guest->effective;
	vm->held = vm->bound;
	vm->reached = guest->effective == goal;
	vm->total = guest->effective;
	vm->available = guest->effective - guest->uses;
	vm->available_change = (int64_t)vm->available - (int64_t)before;
	vm->taxed_ms += ROUND_MS;
	vm->relieved_ms += ROUND_MS;
	vm->still_ms += ROUND_MS;
	if (vm->bound < bound || (vm->bound == bound && vm->available < before))
		vm->still_ms = 0;
	assert_true(guest->effective >= vm->min);
}

/* Of the last 30 seconds. */
static uint64_t model_least(void)
{
	uint64_t least = input.free;

	model_lately[model_rounds++ % LEAST_ROUNDS] = input.free;
	for (unsigned int i = 0; i < LEAST_ROUNDS; i++)
		if (model_lately[i] < least)
			least = model_lately[i];
	return least;
}

static void model_round(void)
{
	unsigned int nr;

	for (unsigned int i = 0; i < NR_VMS; i++)
		model_guest(&guests[i], &vms[i]);
	input.free = model_free();
	if (input.free < input.low)
		input.active = true;
	else if (input.free >= input.high)
		input.active = false;
	input.least_free = model_least();
	nr = decide();
	for (unsigned int s = 0; s < nr; s++) {
		struct balance_vm *vm = &vms[steps[s].id - 1];

		/* The change of available that is the policy's own doing does not count. */
		if (steps[s].kind == BALANCE_TAX)
			vm->taxed_ms = 0;
		else if (steps[s].kind == BALANCE_RELIEF)
			vm->relieved_ms = 0;
		else
			continue;
		vm->tax = steps[s].frames;
		model_steps++;
	}
}

/* Four guests of 384 frames that have touched nothing, in 1024. */
static void make_model(uint64_t wants)
{
	make_input(NR_VMS);
	input.min = 10;
	input.low = 40;
	input.high = 70;
	input.twice = true;
	for (unsigned int i = 0; i < LEAST_ROUNDS; i++)
		model_lately[i] = 0;
	memset(guests, 0, sizeof(guests));
	for (unsigned int i = 0; i < NR_VMS; i++) {
		vms[i].target = vms[i].total = guests[i].effective = 384;
		vms[i].bound = 0;
		vms[i].available = 384;
		guests[i].wants = wants;
	}
}

/* One is busy, three are idle and keep what they have, then the next: 4 x 384 in 1024 frames. */
static void test_load_moves(void **state)
{
	(void)state;
	make_model(80);
	for (unsigned int phase = 0; phase < 12; phase++) {
		unsigned int busy = phase % NR_VMS, rounds = 0;

		for (unsigned int i = 0; i < NR_VMS; i++)
			guests[i].wants = i == busy ? 340 : 80;
		while (guests[busy].uses < 340 && rounds < 1000) {
			model_round();
			rounds++;
		}
		print_message("phase %u: busy VM has its memory after %u rounds\n", phase, rounds);
		assert_int_equal(guests[busy].uses, 340);
		assert_true(rounds < 300); /* a minute of the model's time */
		for (unsigned int i = 0; i < 200; i++)
			model_round();
		/* And then it comes to rest: no memory swings between VMs. */
		model_steps = 0;
		for (unsigned int i = 0; i < 200; i++)
			model_round();
		assert_true(model_steps <= 4);
		assert_true(model_free() >= input.low);
	}
}

/* One works in bursts and frees what it used between them; the others are idle and keep what they
 * once touched. They pay for the first burst, and not again for each. */
static void test_bursts(void **state)
{
	uint64_t waits = 0;

	(void)state;
	make_model(80);
	for (unsigned int i = 1; i < NR_VMS; i++)
		vms[i].bound = vms[i].held = 300;
	for (unsigned int burst = 0; burst < 8; burst++) {
		model_steps = model_waits = 0;
		guests[0].wants = 340;
		for (unsigned int i = 0; i < 40; i++)
			model_round();
		waits = model_waits;
		guests[0].wants = 80;
		model_round();
		vms[0].bound = guests[0].uses;
		for (unsigned int i = 0; i < 30; i++)
			model_round();
		print_message("burst %u: %llu steps, %llu rounds waited\n", burst,
			      (unsigned long long)model_steps, (unsigned long long)waits);
		if (burst > 3) {
			assert_int_equal(waits, 0);
			assert_true(model_steps <= 4);
		}
	}
}

/* All want more than there is: nobody falls below its minimum, and nothing swings. */
static void test_too_much(void **state)
{
	(void)state;
	make_model(370);
	for (unsigned int i = 0; i < 2000; i++)
		model_round();
	model_steps = 0;
	for (unsigned int i = 0; i < 500; i++)
		model_round();
	assert_true(model_steps <= 50);
	for (unsigned int i = 0; i < NR_VMS; i++)
		assert_true(vms[i].bound >= vms[i].min);
}

/* When the pressure is over, everything that was taxed goes back. */
static void test_all_back(void **state)
{
	(void)state;
	test_load_moves(NULL);
	for (unsigned int i = 0; i < NR_VMS; i++) {
		guests[i].wants = 40;
		vms[i].bound = 40; /* they have given back what they had free */
	}
	for (unsigned int i = 0; i < 1000; i++)
		model_round();
	for (unsigned int i = 0; i < NR_VMS; i++)
		assert_int_equal(vms[i].tax, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cheapest_first),
		cmocka_unit_test(test_tax),
		cmocka_unit_test(test_left_alone),
		cmocka_unit_test(test_order),
		cmocka_unit_test(test_relief),
		cmocka_unit_test(test_oom),
		cmocka_unit_test(test_any_input),
		cmocka_unit_test(test_load_moves),
		cmocka_unit_test(test_too_much),
		cmocka_unit_test(test_all_back),
		cmocka_unit_test(test_gigantic_frames),
		cmocka_unit_test(test_bursts),
		cmocka_unit_test(test_pieces),
		cmocka_unit_test(test_pieces_do_not_come),
		cmocka_unit_test(test_relief_from_free),
		cmocka_unit_test(test_relief_at_work),
		cmocka_unit_test(test_air),
		cmocka_unit_test(test_relief_at_rest),
		cmocka_unit_test(test_relief_under_way),
		cmocka_unit_test(test_promised_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
