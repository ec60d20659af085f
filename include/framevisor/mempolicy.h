/* SPDX-License-Identifier: MIT */
/*
 * From which nodes frames come. The modes are those of set_mempolicy(2); __GFP_THISNODE in the
 * request goes beyond any of them.
 */
#ifndef FRAMEVISOR_MEMPOLICY_H
#define FRAMEVISOR_MEMPOLICY_H

#include <stdint.h>

#include "framevisor/page_alloc.h"

enum mempolicy_mode {
	POLICY_LOCAL,      /* the calling CPU's node first, then by distance */
	POLICY_PREFERRED,  /* the nearest of nodes first, then any other */
	POLICY_BIND,       /* only nodes, the nearest first */
	POLICY_INTERLEAVE, /* nodes in turn, one allocation each; any other when it is full */
};

/* The caller's; several threads may use one at a time. */
struct mempolicy {
	enum mempolicy_mode mode;
	nodemask_t nodes; /* of those the instance has not, nothing is taken */
	uint32_t il_prev; /* the instance's: the node of the last interleaved allocation, plus 1 */
};

/*
 * 2^order frames as mm_alloc_pages(), by policy (NULL: POLICY_LOCAL). NULL also when nodes names no
 * node of the instance, except with POLICY_LOCAL. Kernel: alloc_pages_mpol().
 */
struct page *mm_alloc_pages_policy(struct mm *mm, struct mempolicy *policy, gfp_t gfp,
				   unsigned int order);

#endif
