/* SPDX-License-Identifier: MIT */
/* Failing allocations on purpose, for tests (kernel: fail_page_alloc). */
#ifndef FRAMEVISOR_FAULT_INJECT_H
#define FRAMEVISOR_FAULT_INJECT_H

#include <stdint.h>

#include "framevisor/gfp.h"

struct mm;

/* Which allocations count, and which of these fail. */
struct mm_fault {
	uint32_t orders;   /* bit n: order n counts; 0: all */
	gfp_t gfp;         /* only requests that have all of these flags */
	uint64_t nth;      /* the first to fail: 1 (or 0) is the next one */
	uint64_t interval; /* then every interval-th; 0: only the nth */
	uint64_t times;    /* with an interval: how many in all */
};

/* Sets or (NULL) ends it. Requests with __GFP_NOFAIL do not fail. Any thread. */
void mm_set_fault(struct mm *mm, const struct mm_fault *fault);
/* Failures since mm_set_fault(). */
uint64_t mm_faults_injected(struct mm *mm);

#endif
