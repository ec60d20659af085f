/* SPDX-License-Identifier: MIT */
/* Between oom.c and slowpath.c. */
#ifndef MM_OOM_INTERNAL_H
#define MM_OOM_INTERNAL_H

#include "framevisor/oom.h"
#include "mm/internal.h"

enum oom_result {
	OOM_NOTHING, /* nobody can be killed */
	OOM_HANDLED, /* the instance's handler says so: try again, a few times */
	OOM_BUSY,    /* another thread is at it: try again, this ends */
	OOM_VICTIM,  /* a holder is giving up its frames: try again, this ends */
};

/* How long a victim may take (kernel: the reaper's 2 s and ten attempts 100 ms apart). */
#define OOM_VICTIM_NS UINT64_C(3000000000)

/* Whether the calling thread is to give up frames: mm_set_oom_victim(). */
bool is_oom_victim(void);

/* No lock is held. */
enum oom_result out_of_memory(struct mm *mm, gfp_t gfp, unsigned int order,
			      const struct alloc_context *ac, struct page **page);

#endif
