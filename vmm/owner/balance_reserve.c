/* SPDX-License-Identifier: MIT */
/*
 * The pool's last frames. What a balloon takes first is free memory that has no frames under it,
 * and a guest that clears it touches it: paying takes some frames itself, and only then brings
 * some. So the last ones are for who pays, as a kernel keeps its reserves for who reclaims. Each
 * gets its part and no more: a guest that was taxed while it was idle and goes to work now is no
 * payer.
 */
#include "vmm/owner/balance_private.h"

#include "framevisor/clock.h"

/* Frames that a guest needs to pay, at a time: where its free pages are cannot be chosen. */
#define PAYING_FRAMES 4
/* In a pool of many small VMs not more than this part is kept for them. */
#define RESERVE_SHARE 16
/* Never less than this each. */
#define PART_MIN 2

static uint64_t smaller(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

void balance_marks(const struct balance *balance, struct pool_marks *marks)
{
	uint64_t paying = (uint64_t)balance->nr_vms * PAYING_FRAMES;

	*marks = balance->view.marks;
	paying = smaller(paying, balance->view.present / RESERVE_SHARE);
	marks->low += paying;
	marks->high += paying;
}

/* Nobody gets ahead: the one that can bring most may have all. */
static const struct balance_entry *best_payer(const struct balance *balance)
{
	const struct balance_entry *best = NULL;
	uint64_t now = now_ms(), most = 0;

	if (!balance->active || now - balance->last_return < balance->oom_delay / 2 ||
	    now - balance->last_progress < balance->oom_delay / 2)
		return NULL;
	for (unsigned int i = 0; i < balance->nr_vms; i++) {
		const struct balance_entry *entry = balance->of_vm[i];
		uint64_t pay = balance_can_pay(&balance->vms[i]);

		if (!entry->tax || entry->paused || pay <= most)
			continue;
		best = entry;
		most = pay;
	}
	return best;
}

void balance_keep_for_payers(struct balance *balance, bool twice, const struct pool_marks *marks)
{
	uint64_t reserve = twice && marks->low > marks->min ? (marks->low - marks->min) * 3 / 4 : 0;
	const struct balance_entry *best = best_payer(balance);
	uint64_t part, nr = 0;

	for (unsigned int i = 0; i < balance->nr_vms; i++)
		nr += balance->of_vm[i]->tax != 0;
	part = nr ? reserve / nr : 0;
	if (part < PART_MIN)
		part = PART_MIN;
	for (unsigned int i = 0; i < balance->nr_vms; i++) {
		const struct balance_entry *entry = balance->of_vm[i];
		uint64_t from = entry->tax ? entry->floor + part : 0;

		if (entry == best)
			from = UINT64_MAX;
		server_withhold(balance->config.server, entry->id, reserve, from);
	}
}
