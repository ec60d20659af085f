/* SPDX-License-Identifier: MIT */
/*
 * Admission: what may be promised to a VM, before it touches any of it. Two promises: what it may
 * hold (its RAM), and what is never taken from it again (its minimum).
 *
 * Minimums are real: in every mode all of them together fit into the pool beside the allocator's
 * reserves. How far the RAM may go beyond that is overcommit_memory's to say
 * (framevisor/overcommit.h). The pool's default is 2 with a ratio of 100: nothing is promised that
 * is not there.
 */
#include "vmm/owner/pool_private.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "framevisor/mmzone.h"
#include "framevisor/overcommit.h"
#include "framevisor/size.h"

/* With overcommit, a VM that does not say what it needs at least is left that much. */
#define MIN_SHARE 4
#define MIN_BYTES (UINT64_C(128) << 20) /* a stock kernel still runs */

static uint64_t setting(struct pool *pool, const char *name)
{
	uint64_t value = 0;

	mm_setting_get(pool->mm, name, 0, &value);
	return value;
}

static uint64_t usable_frames(struct pool *pool)
{
	struct mm_counts counts;

	mm_counts(pool->mm, -1, &counts);
	return counts.present - counts.quarantined;
}

static uint64_t above(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

/* How far the pool can come. */
static uint64_t growable(struct pool *pool)
{
	struct mm_counts counts;

	mm_counts(pool->mm, -1, &counts);
	return above(pool_limit(pool), counts.present);
}

bool pool_reserve_grows(struct pool *pool, uint64_t missing, uint64_t *reserve)
{
	uint64_t then =
		mm_totalreserve_pages_after(pool->mm, missing, pool_movable_share(pool, missing));
	bool more = then > *reserve;

	if (more)
		*reserve = then;
	return more;
}

uint64_t pool_default_min(struct pool *pool, uint64_t ram_frames)
{
	uint64_t min = ram_frames / MIN_SHARE, least = bytes_to_frames_up(MIN_BYTES);

	/* Nothing is promised twice: what it may hold it can be sure of. */
	if (setting(pool, "overcommit_memory") == OVERCOMMIT_NEVER &&
	    mm_vm_commit_limit(pool->mm) <= usable_frames(pool))
		return ram_frames;
	if (min < least)
		min = least;
	return min < ram_frames ? min : ram_frames;
}

/* Frames by which all minimums and the reserve do not fit. */
static uint64_t lack_guaranteed(struct pool *pool, uint64_t guaranteed, uint64_t reserve)
{
	return above(guaranteed + reserve, usable_frames(pool));
}

/* Whether only so much of what is promised has to be there as the pool can grow to. */
static bool promises_are_soft(struct pool *pool)
{
	return setting(pool, "overcommit_memory") != OVERCOMMIT_NEVER;
}

/* Frames by which what is promised goes beyond what the mode allows (mode 2: by its ratio). */
static uint64_t lack_committed(struct pool *pool, uint64_t committed, uint64_t reserve)
{
	uint64_t ratio = setting(pool, "overcommit_ratio");
	uint64_t lack;

	if (promises_are_soft(pool))
		return above(committed + reserve, usable_frames(pool));
	lack = above(committed + reserve, mm_vm_commit_limit(pool->mm));
	/* More frames count by the ratio; with a limit in kbytes they do not help. */
	return ratio ? (lack * 100 + ratio - 1) / ratio : lack;
}

/* One promise alone is too large for any pool of this size (modes 0 and 1 differ in that). */
static uint64_t lack_single(struct pool *pool, uint64_t ram)
{
	if (setting(pool, "overcommit_memory") != OVERCOMMIT_GUESS)
		return 0;
	return above(ram, usable_frames(pool) + growable(pool));
}

uint64_t pool_missing(struct pool *pool, uint64_t ram_frames)
{
	uint64_t reserve = mm_totalreserve_pages(pool->mm), missing;

	do {
		missing = above(pool->committed + ram_frames + reserve, usable_frames(pool));
	} while (pool_reserve_grows(pool, missing, &reserve));
	return missing;
}

uint64_t pool_spare(struct pool *pool, uint64_t *promised)
{
	uint64_t reserve = mm_totalreserve_pages(pool->mm), ratio, keep, spare;
	struct mm_counts counts;

	*promised = pool->guaranteed;
	keep = pool->guaranteed + reserve;
	ratio = setting(pool, "overcommit_ratio");
	if (setting(pool, "overcommit_memory") == OVERCOMMIT_NEVER && ratio &&
	    !setting(pool, "overcommit_kbytes")) {
		*promised = pool->committed;
		if (keep < ((pool->committed + reserve) * 100 + ratio - 1) / ratio)
			keep = ((pool->committed + reserve) * 100 + ratio - 1) / ratio;
	}
	spare = above(usable_frames(pool), keep);
	/* With overcommit more may be held than is promised: what is free is then for those who do
	 * not hold yet what they were guaranteed. */
	mm_counts(pool->mm, -1, &counts);
	keep = above(counts.free + counts.cached, reserve + pool->unclaimed);
	return spare < keep ? spare : keep;
}

struct numbers {
	char want[SIZE_TEXT_MAX], pool[SIZE_TEXT_MAX], used[SIZE_TEXT_MAX], reserve[SIZE_TEXT_MAX],
		lack[SIZE_TEXT_MAX];
};

static void format_numbers(struct pool *pool, struct numbers *numbers, uint64_t want, uint64_t used,
			   uint64_t lack)
{
	size_format(frames_to_bytes(want), numbers->want, sizeof(numbers->want));
	size_format(frames_to_bytes(pool_limit(pool)), numbers->pool, sizeof(numbers->pool));
	size_format(frames_to_bytes(used), numbers->used, sizeof(numbers->used));
	size_format(frames_to_bytes(mm_totalreserve_pages(pool->mm)), numbers->reserve,
		    sizeof(numbers->reserve));
	size_format(frames_to_bytes(lack), numbers->lack, sizeof(numbers->lack));
}

static int refuse_guarantee(struct pool *pool, const struct pool_request *request, uint64_t lack,
			    struct error *err)
{
	struct numbers n;

	format_numbers(pool, &n, request->want.min, pool->guaranteed - request->old.min, lack);
	return error_set(err, ENOMEM,
			 "VM '%s' cannot be guaranteed %s: the pool of at most %s has guaranteed "
			 "%s to other VMs and keeps %s in reserve, %s are missing; give it a "
			 "smaller min=, or stop a VM",
			 request->name, n.want, n.pool, n.used, n.reserve, n.lack);
}

static int refuse_promise(struct pool *pool, const struct pool_request *request, uint64_t lack,
			  struct error *err)
{
	struct numbers n;

	format_numbers(pool, &n, request->want.ram, pool->committed - request->old.ram, lack);
	if (request->old.ram) {
		char now[SIZE_TEXT_MAX];

		size_format(frames_to_bytes(request->old.ram), now, sizeof(now));
		return error_set(err, ENOMEM,
				 "VM '%s' cannot grow from %s to %s: the pool of at most %s has %s "
				 "promised to other VMs and %s in reserve, %s are missing; stop or "
				 "shrink a VM first",
				 request->name, now, n.want, n.pool, n.used, n.reserve, n.lack);
	}
	return error_set(err, ENOMEM,
			 "VM '%s' of %s does not fit: the pool of at most %s has %s promised to "
			 "other VMs and %s in reserve, %s are missing; stop a VM, %s, or allow "
			 "overcommit (framevisor pool --set overcommit_memory=0)",
			 request->name, n.want, n.pool, n.used, n.reserve, n.lack,
			 pool->config.size ? "make the pool larger ("
					     "'framevisor pool grow')"
					   : "take less memory");
}

/* Frames by which a request does not fit into the pool as it is. */
struct lack {
	uint64_t ram, min;
};

static void find_lack(struct pool *pool, const struct pool_request *request, uint64_t room,
		      struct lack *lack)
{
	const struct pool_promise *old = &request->old, *want = &request->want;
	uint64_t reserve = mm_totalreserve_pages(pool->mm), most;

	do {
		*lack = (struct lack){ 0 };
		/* Less of something always fits, even when the settings have changed since. */
		if (want->ram > old->ram)
			lack->ram = lack_committed(pool, pool->committed - old->ram + want->ram,
						   reserve);
		if (lack->ram > room && promises_are_soft(pool))
			lack->ram = room;
		if (want->min > old->min)
			lack->min = lack_guaranteed(pool, pool->guaranteed - old->min + want->min,
						    reserve);
		most = lack->ram > lack->min ? lack->ram : lack->min;
		/* Beyond the room nothing grows: what is missing now is what is told. */
	} while (most <= room && pool_reserve_grows(pool, most, &reserve));
}

int pool_admit(struct pool *pool, const struct pool_request *request, uint64_t *missing,
	       struct error *err)
{
	const struct pool_promise *old = &request->old, *want = &request->want;
	uint64_t room = request->may_grow ? growable(pool) : 0;
	uint64_t single = want->ram > old->ram ? lack_single(pool, want->ram) : 0;
	struct lack lack;

	find_lack(pool, request, room, &lack);
	if (lack.ram > room || single)
		return refuse_promise(pool, request, lack.ram > room ? lack.ram - room : single,
				      err);
	if (lack.min > room)
		return refuse_guarantee(pool, request, lack.min - room, err);
	*missing = lack.min > lack.ram ? lack.min : lack.ram;
	if (*missing)
		return -EAGAIN;
	/* The allocator keeps the same account, for its reports and as a second opinion. */
	if (want->ram > old->ram && mm_vm_enough_memory(pool->mm, want->ram - old->ram, true) < 0)
		return refuse_promise(pool, request, want->ram - old->ram, err);
	if (want->ram < old->ram)
		mm_vm_unacct_memory(pool->mm, (int64_t)(old->ram - want->ram));
	pool->committed += want->ram - old->ram;
	pool->guaranteed += want->min - old->min;
	return 0;
}

void pool_release(struct pool *pool, const struct pool_promise *promise)
{
	pool->committed -= promise->ram;
	pool->guaranteed -= promise->min;
	mm_vm_unacct_memory(pool->mm, (int64_t)promise->ram);
}

void pool_claim(struct pool *pool, uint64_t before, uint64_t after)
{
	pool->unclaimed += after - before;
}

uint64_t pool_grantable(struct pool *pool, uint64_t own, uint64_t withheld)
{
	uint64_t others = pool->unclaimed - own;
	struct mm_counts counts;
	struct pool_marks marks;
	uint64_t unused;

	if (others == 0 && withheld == 0)
		return UINT64_MAX;
	mm_counts(pool->mm, -1, &counts);
	pool_marks(pool, &marks);
	/* What lies below the minimum mark nobody is given, nor what is isolated for a job. */
	unused = above(counts.free - counts.isolated + counts.cached, marks.min + withheld);
	return unused > others + own ? unused - others : own;
}

void pool_marks(struct pool *pool, struct pool_marks *marks)
{
	memset(marks, 0, sizeof(*marks));
	for (unsigned int nid = 0; nid < pool->nr_nodes; nid++) {
		const pg_data_t *pgdat = mm_node_data(pool->mm, nid);

		for (unsigned int type = 0; type < MAX_NR_ZONES; type++) {
			const struct zone *zone = &pgdat->node_zones[type];

			marks->min += wmark_pages(zone, WMARK_MIN);
			marks->low += wmark_pages(zone, WMARK_LOW);
			marks->high += wmark_pages(zone, WMARK_HIGH);
		}
	}
}
