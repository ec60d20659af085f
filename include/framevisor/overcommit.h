/* SPDX-License-Identifier: MIT */
/*
 * Overcommit: how much memory may be promised, before any of it is touched. Who promises memory (a
 * guest's RAM when it is admitted or grown) asks here first; what was promised is counted until it
 * is taken back. Frames in use are another matter: guests touch less than they were promised.
 *
 * The modes are the kernel's, setting overcommit_memory:
 *   0  a single promise must not be larger than all frames and swap together
 *   1  everything is promised
 *   2  all promises together stay below overcommit_ratio percent of all frames (or below
 *      overcommit_kbytes) plus swap, less admin_reserve_kbytes for those without the right
 */
#ifndef FRAMEVISOR_OVERCOMMIT_H
#define FRAMEVISOR_OVERCOMMIT_H

#include <stdbool.h>
#include <stdint.h>

#include "framevisor/mm.h"

enum { OVERCOMMIT_GUESS, OVERCOMMIT_ALWAYS, OVERCOMMIT_NEVER };

/*
 * Promises pages frames. cap_admin: the caller may use the admin reserve. Returns 0, and the
 * promise is counted, or -ENOMEM, and nothing has changed. Any thread. Kernel:
 * __vm_enough_memory().
 */
int mm_vm_enough_memory(struct mm *mm, uint64_t pages, bool cap_admin);
/* Takes a promise, or part of it, back. Also counts one (negative) that was made elsewhere. */
void mm_vm_unacct_memory(struct mm *mm, int64_t pages);

uint64_t mm_vm_committed(struct mm *mm);    /* frames promised; /proc/meminfo: Committed_AS */
uint64_t mm_vm_commit_limit(struct mm *mm); /* of mode 2, with the admin reserve */

/* Frames whose content could be kept elsewhere (swap). 0 at the start. */
void mm_set_total_swap_pages(struct mm *mm, uint64_t pages);

#endif
