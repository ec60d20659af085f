/* SPDX-License-Identifier: MIT */
/* Allocations that fail on purpose, so that the paths after a failure are tested. */
#include "framevisor/fault_inject.h"
#include "mm/internal.h"

bool fault_hits(struct mm *mm, gfp_t gfp, unsigned int order)
{
	struct mm_fault_state *fault = &mm->fault;
	bool fail = false;

	if (gfp & __GFP_NOFAIL)
		return false;
	spin_lock(&fault->lock);
	if ((fault->orders >> order & 1) && (gfp & fault->gfp) == fault->gfp && fault->times) {
		fault->seen++;
		fail = fault->seen == fault->nth;
		if (fail) {
			fault->nth += fault->interval;
			fault->times--;
			fault->injected++;
		}
	}
	spin_unlock(&fault->lock);
	return fail;
}

/* While faults are on, every allocation takes the way that looks for them. */
void mm_set_fault(struct mm *mm, const struct mm_fault *fault)
{
	struct mm_fault_state *state = &mm->fault;

	spin_lock(&state->lock);
	state->seen = 0;
	state->injected = 0;
	if (fault) {
		state->nth = fault->nth ? fault->nth : 1;
		state->interval = fault->interval;
		state->times = fault->interval ? fault->times : 1;
		state->orders = fault->orders ? fault->orders : UINT32_MAX;
		state->gfp = fault->gfp;
	}
	__atomic_store_n(&state->active, fault != NULL, __ATOMIC_RELEASE);
	spin_unlock(&state->lock);
	hot_enable(mm, fault == NULL);
}

uint64_t mm_faults_injected(struct mm *mm)
{
	uint64_t injected;

	spin_lock(&mm->fault.lock);
	injected = mm->fault.injected;
	spin_unlock(&mm->fault.lock);
	return injected;
}
