/* SPDX-License-Identifier: MIT */
/* In place of a VM's memory: a pool that promises all that is asked of it, for tests of who asks.
 * One such test includes it once. */
#ifndef PROMISING_POOL_H
#define PROMISING_POOL_H

#include "framevisor/vm_memory.h"

static uint64_t promised;

int vm_memory_reserve(struct vm_memory *mem, uint64_t nr_plugged, struct error *err)
{
	(void)mem;
	(void)err;
	promised = nr_plugged;
	return 0;
}

int vm_memory_reserve_now(struct vm_memory *mem, uint64_t nr_plugged, struct error *err)
{
	return vm_memory_reserve(mem, nr_plugged, err);
}

void vm_memory_unreserve(struct vm_memory *mem, uint64_t nr_plugged)
{
	(void)mem;
	promised = nr_plugged;
}

uint64_t vm_memory_promised(struct vm_memory *mem)
{
	(void)mem;
	return promised;
}

bool vm_memory_starves(struct vm_memory *mem)
{
	(void)mem;
	return false;
}

#endif
