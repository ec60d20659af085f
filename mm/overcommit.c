/* SPDX-License-Identifier: MIT */
/* Promises of memory, counted and bounded. */
#include <errno.h>

#include "framevisor/overcommit.h"
#include "mm/internal.h"

static uint64_t setting(const uint64_t *field)
{
	return __atomic_load_n(field, __ATOMIC_RELAXED);
}

static uint64_t kbytes_to_frames(uint64_t kbytes)
{
	return kbytes >> (FRAME_SHIFT - 10);
}

/* Frames the allocator has. Kernel: totalram_pages(). */
uint64_t mm_totalram_pages(const struct mm *mm)
{
	unsigned int nid, idx;
	struct zone *zone;
	uint64_t pages = 0;

	for_each_zone (mm, nid, idx, zone)
		pages += zone_read(zone, managed_pages);
	return pages;
}

void mm_set_total_swap_pages(struct mm *mm, uint64_t pages)
{
	__atomic_store_n(&mm->total_swap_pages, pages, __ATOMIC_RELAXED);
}

uint64_t mm_vm_committed(struct mm *mm)
{
	int64_t committed = __atomic_load_n(&mm->committed, __ATOMIC_RELAXED);

	return committed > 0 ? (uint64_t)committed : 0;
}

void mm_vm_unacct_memory(struct mm *mm, int64_t pages)
{
	__atomic_sub_fetch(&mm->committed, pages, __ATOMIC_RELAXED);
}

/* Kernel: vm_commit_limit(). */
uint64_t mm_vm_commit_limit(struct mm *mm)
{
	uint64_t kbytes = setting(&mm->settings.overcommit_kbytes);
	uint64_t allowed = kbytes_to_frames(kbytes);

	if (!kbytes)
		allowed = mm_totalram_pages(mm) * setting(&mm->settings.overcommit_ratio) / 100;
	return allowed + setting(&mm->total_swap_pages);
}

/* committed has the promise in it. */
static bool within_limit(struct mm *mm, uint64_t committed, bool cap_admin)
{
	uint64_t reserve = kbytes_to_frames(setting(&mm->settings.admin_reserve_kbytes));
	uint64_t allowed = mm_vm_commit_limit(mm);

	if (!cap_admin)
		allowed -= reserve < allowed ? reserve : allowed;
	return committed <= allowed;
}

int mm_vm_enough_memory(struct mm *mm, uint64_t pages, bool cap_admin)
{
	uint64_t mode = setting(&mm->settings.overcommit_memory);
	int64_t committed;
	bool enough = true;

	if (pages > INT64_MAX / 2)
		return -ENOMEM;
	/* Counted before it is judged: of two at a time not both see the same room. */
	committed = __atomic_add_fetch(&mm->committed, (int64_t)pages, __ATOMIC_RELAXED);
	if (mode == OVERCOMMIT_GUESS)
		enough = pages <= mm_totalram_pages(mm) + setting(&mm->total_swap_pages);
	else if (mode == OVERCOMMIT_NEVER)
		enough = within_limit(mm, committed > 0 ? (uint64_t)committed : 0, cap_admin);
	if (enough)
		return 0;
	mm_vm_unacct_memory(mm, (int64_t)pages);
	return -ENOMEM;
}
