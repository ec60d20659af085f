/* SPDX-License-Identifier: MIT */
/* Who gives memory back: see balance_policy.h. */
#include "vmm/owner/balance_policy.h"

#include <stddef.h>

#include "framevisor/frame.h"

/* Left to a guest beyond what it uses: a tenth, at least 16 MiB. */
#define MARGIN_SHARE     10
#define MARGIN_MIN_BYTES (UINT64_C(16) << 20)
/* Less is not worth a message and a guest's work. */
#define DEAD_BAND 2
#define STEP_MIN  4
/* A guest whose available memory fell by more than this part of all it has is growing. */
#define FALLING_SHARE 50
/* Between a step one way and a step the other way. */
#define RELIEF_AFTER_TAX_MS 5000
#define TAX_AFTER_RELIEF_MS 2000
/* Of a balloon that holds more than this part in pieces of frames, at least so many frames' worth,
 * little comes. */
#define PIECES_SHARE 2
#define PIECES_MIN   16
/* It is worth the effort when not more than this part of what a VM has comes first, for nothing. */
#define AIR_SHARE 16
/* A guest that did not move for so long, or did not follow by then, is not on its way. */
#define STILL_MS       3000
#define FOLLOW_MS      30000
#define HINT_PERIOD_MS 10000
/* An idle guest has its tax back when so many times high was free for a while. */
#define SPARE_TIMES 4
/* Of a guest at work less than this part is idle. */
#define IDLE_MIN_PERMILLE 500

static uint64_t smaller(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t larger(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static uint64_t margin_of(const struct balance_vm *vm)
{
	return larger(vm->total / MARGIN_SHARE, bytes_to_frames_up(MARGIN_MIN_BYTES));
}

static bool fresh(const struct balance_vm *vm, const struct balance_input *input)
{
	return vm->reports && vm->total && vm->stats_age_ms <= input->stats_age_max;
}

/* Frames that the VM may still touch and does not have: a tax on these alone brings nothing. */
static uint64_t air_of(const struct balance_vm *vm)
{
	return less(less(vm->target, vm->tax), vm->bound);
}

double balance_rho(const struct balance_vm *vm, const struct balance_input *input)
{
	double k = 100.0 / (100 - (input->idle_tax < 100 ? input->idle_tax : 99));
	double active = 1.0, frames = (double)larger(vm->bound, 1);

	if (vm->knows_idle)
		active = 1.0 - vm->idle_permille / 1000.0;
	else if (fresh(vm, input))
		active = 1.0 - (double)smaller(vm->available, vm->total) / (double)vm->total;
	return vm->shares / (frames * (active + k * (1.0 - active)));
}

/* Its guest uses what it has. One that lives on its page cache has all of that available, takes no
 * more than it may, and is not short by its own account: only who touches its frames tells. */
static bool at_work(const struct balance_vm *vm)
{
	return vm->growing || (vm->knows_idle && vm->idle_permille < IDLE_MIN_PERMILLE);
}

/* Its guest follows its last tax. */
static bool pays(const struct balance_vm *vm)
{
	return vm->tax && vm->running && !vm->reached && vm->taxed_ms <= FOLLOW_MS &&
	       smaller(vm->taxed_ms, vm->still_ms) <= STILL_MS;
}

uint64_t balance_pieces(const struct balance_vm *vm, uint64_t before)
{
	return vm->reached ? less(vm->bound, less(vm->target, vm->tax)) : before;
}

/* On its way already: what its last tax has not brought yet. Of pieces nothing more comes. */
static uint64_t coming(const struct balance_vm *vm)
{
	return pays(vm) ? less(vm->bound, less(vm->target, vm->tax) + vm->pieces) : 0;
}

/* Its guest paid, and frames did not come of it: its balloon holds pieces of them. */
static bool in_pieces(const struct balance_vm *vm)
{
	uint64_t pieces = less(vm->bound, less(vm->target, vm->tax));

	return vm->tax && vm->reached && pieces >= PIECES_MIN && pieces > vm->tax / PIECES_SHARE;
}

/* Frames that a tax could bring in all. */
static uint64_t taxable(const struct balance_vm *vm, const struct balance_input *input)
{
	uint64_t gain;

	if (!vm->running || !fresh(vm, input) || vm->relieved_ms < TAX_AFTER_RELIEF_MS)
		return 0;
	/* Another tax would begin that anew. */
	if (vm->compacting)
		return 0;
	if (vm->available_change < -(int64_t)(vm->total / FALLING_SHARE))
		return 0;
	gain = less(vm->available, margin_of(vm) + air_of(vm));
	gain = smaller(gain, less(vm->bound, vm->min));
	gain = smaller(gain, less(less(vm->target, vm->min), vm->tax + air_of(vm)));
	gain = less(gain, coming(vm));
	return gain < DEAD_BAND ? 0 : gain;
}

/* What a VM that is short is given at once, whether it is free or not. */
static uint64_t relief_step(const struct balance_vm *vm)
{
	return larger(vm->total / MARGIN_SHARE, 2 * STEP_MIN);
}

static bool squeezed(const struct balance_vm *vm, const struct balance_input *input)
{
	/* While it compacts, the driver holds what is free. And what it said before it got
	 * something back says nothing. */
	if (!vm->tax || !vm->running || vm->compacting || !fresh(vm, input) ||
	    vm->stats_age_ms >= vm->relieved_ms)
		return false;
	/* Its balloon has not let go yet of what it was given. */
	if (!vm->reached && vm->relieved_ms < FOLLOW_MS && air_of(vm) >= relief_step(vm))
		return false;
	return vm->available < margin_of(vm);
}

bool balance_in_need(const struct balance_vm *vm, const struct balance_input *input)
{
	return squeezed(vm, input) || (vm->tax && at_work(vm));
}

struct plan {
	const struct balance_input *input;
	struct balance_step *steps;
	unsigned int nr, max;
	uint64_t need;   /* frames that are still to be found */
	uint64_t wanted; /* by taxes, of that: as it was before the first */
};

static void add_step(struct plan *plan, uint32_t id, enum balance_kind kind, uint64_t frames)
{
	if (plan->nr < plan->max)
		plan->steps[plan->nr++] =
			(struct balance_step){ .id = id, .kind = kind, .frames = frames };
}

static void plan_stocks(struct plan *plan)
{
	for (unsigned int i = 0; i < plan->input->nr_vms && plan->need; i++) {
		const struct balance_vm *vm = &plan->input->vms[i];

		if (vm->stock < DEAD_BAND || vm->stock_asked)
			continue;
		add_step(plan, vm->id, BALANCE_STOCK, vm->stock);
		plan->need = less(plan->need, vm->stock);
	}
}

/* What they bring is not known before: it does not count. */
static void plan_hints(struct plan *plan)
{
	for (unsigned int i = 0; i < plan->input->nr_vms && plan->need; i++) {
		const struct balance_vm *vm = &plan->input->vms[i];

		if (vm->can_hint && vm->running && vm->hinted_ms >= HINT_PERIOD_MS &&
		    vm->available > margin_of(vm) + air_of(vm))
			add_step(plan, vm->id, BALANCE_HINT, 0);
	}
}

/* Its tax changes in this round already. */
static bool chosen(const struct plan *plan, const struct balance_vm *vm)
{
	for (unsigned int i = 0; i < plan->nr; i++) {
		const struct balance_step *step = &plan->steps[i];

		if (step->id == vm->id &&
		    (step->kind == BALANCE_TAX || step->kind == BALANCE_RELIEF))
			return true;
	}
	return false;
}

/*
 * What it takes to get frames of a VM, beside their price. One that may still touch what has no
 * frames under it gives that first: its guest clears it, for nothing. One whose balloon holds
 * pieces of frames loses much for little. And one that grows needs what it takes, although it may
 * be page cache.
 */
enum effort { EFFORT_NONE, EFFORT_AIR, EFFORT_PIECES, EFFORT_GROWING, EFFORTS };

static enum effort effort_of(const struct balance_vm *vm)
{
	if (vm->growing)
		return EFFORT_GROWING;
	/* Nor does anything come of one that does not follow. */
	if (in_pieces(vm) || (vm->tax && !vm->reached && !pays(vm)))
		return EFFORT_PIECES;
	return air_of(vm) > vm->bound / AIR_SHARE ? EFFORT_AIR : EFFORT_NONE;
}

/* The cheapest one of these that can still give and has not been asked in this round. */
static const struct balance_vm *cheapest_of(const struct plan *plan, enum effort effort)
{
	const struct balance_vm *best = NULL;
	double best_rho = 0;

	for (unsigned int i = 0; i < plan->input->nr_vms; i++) {
		const struct balance_vm *vm = &plan->input->vms[i];
		double rho;

		if (effort_of(vm) != effort || !taxable(vm, plan->input) || chosen(plan, vm))
			continue;
		rho = balance_rho(vm, plan->input);
		if (!best || rho < best_rho) {
			best = vm;
			best_rho = rho;
		}
	}
	return best;
}

/* Whether those that take no more effort can give all that is needed, if not in this round. */
static bool suffice(const struct plan *plan, enum effort effort)
{
	uint64_t all = 0;

	for (unsigned int i = 0; i < plan->input->nr_vms; i++) {
		const struct balance_vm *vm = &plan->input->vms[i];

		if (effort_of(vm) <= effort)
			all += taxable(vm, plan->input) + coming(vm);
	}
	return all >= plan->wanted;
}

static const struct balance_vm *cheapest(const struct plan *plan)
{
	const struct balance_vm *vm = NULL;

	for (enum effort effort = EFFORT_NONE; effort < EFFORTS; effort++) {
		vm = cheapest_of(plan, effort);
		if (vm || suffice(plan, effort))
			break;
	}
	return vm;
}

static void plan_taxes(struct plan *plan)
{
	const struct balance_vm *vm;

	plan->wanted = plan->need;
	for (unsigned int i = 0; i < plan->input->nr_vms; i++)
		plan->need = less(plan->need, coming(&plan->input->vms[i]));
	while (plan->need && (vm = cheapest(plan))) {
		uint64_t step = larger(vm->bound * plan->input->step / 100, STEP_MIN);

		step = smaller(step, larger(plan->need, DEAD_BAND));
		step = smaller(step, taxable(vm, plan->input));
		add_step(plan, vm->id, BALANCE_TAX, vm->tax + air_of(vm) + step);
		/* What takes effort is asked of as few as possible: of this one more in the next
		 * rounds, when it has become easy. */
		if (effort_of(vm) == EFFORT_AIR)
			step = taxable(vm, plan->input);
		plan->need = less(plan->need, step);
	}
}

static void plan_swap(struct plan *plan)
{
	for (unsigned int i = 0; i < plan->input->nr_vms && plan->need; i++) {
		const struct balance_vm *vm = &plan->input->vms[i];
		uint64_t step = larger(vm->bound * plan->input->step / 100, STEP_MIN);

		plan->need = less(plan->need, vm->swapping);
		step = smaller(smaller(step, plan->need), less(vm->bound, vm->min));
		if (!vm->can_swap || vm->swapping || step == 0)
			continue;
		add_step(plan, vm->id, BALANCE_SWAP, step);
		plan->need = less(plan->need, step);
	}
}

/* Frames that the VM, and others that grow, may still touch without being given anything. */
static uint64_t promised(const struct balance_vm *vm, const struct balance_input *input)
{
	uint64_t frames = air_of(vm);

	for (unsigned int i = 0; i < input->nr_vms; i++)
		if (&input->vms[i] != vm && input->vms[i].running && input->vms[i].growing)
			frames += air_of(&input->vms[i]);
	return frames;
}

/* How much less tax a VM is to have, 0 if none. surplus: frames that nobody needs; unused: that
 * nobody needs now. */
static uint64_t relief_of(const struct balance_vm *vm, const struct balance_input *input,
			  uint64_t surplus, uint64_t unused)
{
	uint64_t most = less(vm->target, vm->min);

	if (!vm->tax)
		return 0;
	/* Each may have all that it was promised: nobody has to do without, however little is free
	 * just now. But another VM may be on its way, and then it would have to be taken again. */
	if (!input->twice && (squeezed(vm, input) || vm->taxed_ms >= RELIEF_AFTER_TAX_MS))
		return vm->tax;
	/* Its user has lowered the target since: the minimum is left to it all the same. */
	if (vm->tax > most)
		return vm->tax - most;
	/* A guest that is short gets it back at once: what is free, and if that is little others
	 * have to pay for it. */
	if (squeezed(vm, input))
		return smaller(vm->tax, larger(relief_step(vm), unused));
	if (!input->twice || input->active || vm->taxed_ms < RELIEF_AFTER_TAX_MS)
		return 0;
	/* It has not taken what it was given last: that is still among what is free. */
	if (!vm->reached && vm->relieved_ms < TAX_AFTER_RELIEF_MS)
		return 0;
	/* One at work would drop its page cache, which it needs, before it is short; and it needs
	 * this now, whoever may want it later. But what it may still touch, and others that grow,
	 * is promised already: somebody else would have to pay for more. */
	if (at_work(vm))
		surplus = larger(surplus, less(unused, promised(vm, input)));
	return smaller(vm->tax, surplus);
}

static void plan_relief(struct plan *plan)
{
	const struct balance_input *input = plan->input;
	uint64_t band = larger(input->high / 4, STEP_MIN);
	/* Only what nobody needed for a while: most loads come in bursts, and what is given back
	 * between two of them has to be taken again, page by page, while somebody waits. And half
	 * of it: what is given back is touched, and must not start the next round. */
	uint64_t spare = smaller(input->free, input->least_free);
	uint64_t surplus = less(spare, SPARE_TIMES * input->high) / 2, given = 0;

	for (unsigned int i = 0; i < input->nr_vms; i++) {
		const struct balance_vm *vm = &input->vms[i];
		uint64_t unused = less(input->free, input->high + band + given);
		uint64_t relief = relief_of(vm, input, surplus, unused);

		if (!relief || (relief < DEAD_BAND && relief < vm->tax))
			continue;
		add_step(plan, vm->id, BALANCE_RELIEF, vm->tax - relief);
		given += relief;
		surplus = less(surplus, relief);
	}
	/* What is free beyond high is nobody's tax. */
	plan->need = less(given, less(input->free, input->high));
}

unsigned int balance_decide(const struct balance_input *input, struct balance_step *steps,
			    unsigned int max)
{
	struct plan plan = { .input = input, .steps = steps, .max = max };

	plan_relief(&plan);
	/* What is given back is there, or comes back by itself: it was promised to nobody else. */
	if (!input->twice)
		return plan.nr;
	if (input->active)
		plan.need += less(input->high, input->free);
	plan_stocks(&plan);
	plan_hints(&plan);
	plan_taxes(&plan);
	if (input->active)
		plan_swap(&plan);
	return plan.nr;
}

uint64_t balance_can_pay(const struct balance_vm *vm)
{
	if (!vm->reports || !vm->total)
		return 0;
	return smaller(less(vm->available, margin_of(vm)), less(vm->bound, vm->min));
}

int64_t balance_badness(const struct balance_vm *vm, uint64_t total)
{
	uint64_t above = less(vm->held, vm->min);

	if (vm->oom_score_adj <= -1000 || vm->held == 0)
		return INT64_MIN;
	/* What it has beyond its minimum, against the shares behind it. */
	return (int64_t)(above * 1000 / larger(vm->shares, 1)) +
	       vm->oom_score_adj * (int64_t)total / 1000;
}

int balance_oom_victim(const struct balance_vm *vms, unsigned int nr, uint64_t total)
{
	int64_t worst = INT64_MIN;
	int victim = -1;

	for (unsigned int i = 0; i < nr; i++) {
		int64_t badness = balance_badness(&vms[i], total);

		if (vms[i].running && badness > worst) {
			worst = badness;
			victim = (int)i;
		}
	}
	return victim;
}
