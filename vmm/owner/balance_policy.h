/* SPDX-License-Identifier: MIT */
/*
 * Who gives memory back when the pool is short of it, and who gets it again: pure functions from a
 * table of VMs to a list of steps. No clock, no socket, no state. Memory is counted in frames.
 *
 * Cheapest first: stocks, which no guest uses; hints; then a tax on targets, from the VM whose
 * frames have the fewest shares behind them, idle ones counting several times (the idle tax of
 * Waldspurger, OSDI 2002: rho = S / (P (f + k (1 - f))), k = 1 / (1 - t)); then cold frames to
 * swap. Steps are bounded, small differences are left alone, and a VM that was just given something
 * back is not taxed at once, so that memory does not swing between two VMs. All this only while
 * memory is promised twice: otherwise each VM may have what it was promised, and has its tax back.
 */
#ifndef VMM_OWNER_BALANCE_POLICY_H
#define VMM_OWNER_BALANCE_POLICY_H

#include <stdbool.h>
#include <stdint.h>

/* a - b, and 0 where that would be less. */
static inline uint64_t less(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

struct balance_vm {
	uint32_t id;
	uint32_t shares;
	int oom_score_adj; /* -1000: never chosen */

	uint64_t min;    /* never taken away */
	uint64_t held;   /* granted to it: bound and stock */
	uint64_t bound;  /* what its guest has */
	uint64_t stock;  /* what it holds ahead of need and gives back */
	uint64_t target; /* as its user set it */
	uint64_t tax;    /* what it does without of that */

	bool running;
	bool reached;    /* its guest is at target less tax */
	uint64_t pieces; /* balance_pieces(), as of now */
	bool compacting; /* its guest moves its memory together, so that frames come of the tax */
	bool reports;    /* it says how much it has available; the next three are that */
	uint64_t available, total;
	uint64_t stats_age_ms;
	bool growing;             /* it took a good deal lately, or waits for more */
	int64_t available_change; /* since the report before, without what the tax changed */
	bool knows_idle;
	uint32_t idle_permille; /* of bound */

	uint64_t taxed_ms;    /* since it was taxed; UINT64_MAX: never */
	uint64_t still_ms;    /* since its guest was seen giving something up */
	uint64_t relieved_ms; /* since tax was given back */
	uint64_t hinted_ms;   /* since it was asked for hints */
	bool stock_asked;     /* under way */
	bool can_hint, can_swap;
	uint64_t swapping; /* frames asked for and not swapped out yet */
};

struct balance_input {
	uint64_t free, min, low, high;
	bool twice;          /* more is promised than there is */
	bool active;         /* free fell below low and has not been above high since */
	uint64_t least_free; /* lately */

	unsigned int idle_tax;  /* percent, 0 to 99 */
	unsigned int step;      /* percent of what a VM has that one step may take */
	uint64_t stats_age_max; /* ms: older numbers do not count */

	const struct balance_vm *vms;
	unsigned int nr_vms;
};

enum balance_kind {
	BALANCE_STOCK,  /* give the stock back */
	BALANCE_HINT,   /* ask the guest for what it has free */
	BALANCE_TAX,    /* the tax is frames from now on: more than before */
	BALANCE_RELIEF, /* the same: less than before */
	BALANCE_SWAP,   /* swap frames out */
};

struct balance_step {
	uint32_t id;
	enum balance_kind kind;
	uint64_t frames;
};

/* What is to be done now. Writes at most max steps (two per VM are enough for all), returns how
 * many. */
unsigned int balance_decide(const struct balance_input *input, struct balance_step *steps,
			    unsigned int max);

/*
 * Frames that a VM holds although its guest has given them up: its balloon has pieces of them. It
 * is known whenever the guest has reached its target; before is what was known until now.
 */
uint64_t balance_pieces(const struct balance_vm *vm, uint64_t before);

/* Whether the VM could use what it was taxed just now: time matters. */
bool balance_in_need(const struct balance_vm *vm, const struct balance_input *input);

/* The price of a VM's frames: who has the lowest is taxed first. */
double balance_rho(const struct balance_vm *vm, const struct balance_input *input);

/* Frames that its guest says it can do without, beyond what is left to it and above its minimum. */
uint64_t balance_can_pay(const struct balance_vm *vm);
/*
 * Out of memory: how much a VM has to do with it, its size and adjustment as the kernel weighs them
 * (adj thousandths of all frames), size against shares; INT64_MIN: it is never chosen. total:
 * frames of the pool.
 */
int64_t balance_badness(const struct balance_vm *vm, uint64_t total);
/* Of those that run the one with the highest badness; -1: none may be chosen. */
int balance_oom_victim(const struct balance_vm *vms, unsigned int nr, uint64_t total);

#endif
