/* SPDX-License-Identifier: MIT */
/*
 * Out of memory: choosing a holder of frames and having it give them up (kernel: oom_kill.c). One
 * thread at a time; the others wait without a lock and look again.
 */
#include <errno.h>
#include <time.h>

#include "framevisor/overcommit.h"
#include "mm/oom_internal.h"
#include "mm/vmscan_internal.h"

/* How long one that could not be killed, or did not give up, is left alone. */
#define OOM_SKIP_NS UINT64_C(10000000000)

static _Thread_local bool oom_victim;

bool mm_set_oom_victim(bool victim)
{
	bool before = oom_victim;

	oom_victim = victim;
	return before;
}

bool is_oom_victim(void)
{
	return oom_victim;
}

static bool adj_valid(int adj)
{
	return adj >= OOM_SCORE_ADJ_MIN && adj <= OOM_SCORE_ADJ_MAX;
}

int mm_register_oom_holder(struct mm *mm, struct mm_oom_holder *holder)
{
	if (!holder->held_pages || !holder->kill || !adj_valid(holder->adj))
		return -EINVAL;
	holder->running = 0;
	holder->killed_ns = 0;
	holder->skip_ns = 0;
	spin_lock(&mm->oom_list_lock);
	list_add_tail(&holder->list, &mm->oom_holders);
	spin_unlock(&mm->oom_list_lock);
	return 0;
}

void mm_unregister_oom_holder(struct mm *mm, struct mm_oom_holder *holder)
{
	const struct timespec pause = { .tv_nsec = 100000 };

	spin_lock(&mm->oom_list_lock);
	while (holder->running) {
		spin_unlock(&mm->oom_list_lock);
		nanosleep(&pause, NULL);
		spin_lock(&mm->oom_list_lock);
	}
	list_del(&holder->list);
	spin_unlock(&mm->oom_list_lock);
}

int mm_oom_set_adj(struct mm *mm, struct mm_oom_holder *holder, int adj)
{
	(void)mm;
	if (!adj_valid(adj))
		return -EINVAL;
	__atomic_store_n(&holder->adj, adj, __ATOMIC_RELAXED);
	return 0;
}

/* Kernel: oom_badness(). */
static int64_t oom_badness(struct mm *mm, const struct mm_oom_holder *holder, uint64_t held)
{
	int adj = __atomic_load_n(&holder->adj, __ATOMIC_RELAXED);
	uint64_t total =
		mm_totalram_pages(mm) + __atomic_load_n(&mm->total_swap_pages, __ATOMIC_RELAXED);

	if (adj == OOM_SCORE_ADJ_MIN || held == 0)
		return INT64_MIN;
	return (int64_t)held + adj * (int64_t)total / 1000;
}

/* Called for each holder; true ends the walk, with the holder still pinned. */
typedef bool (*holder_fn)(struct mm *mm, struct mm_oom_holder *holder, uint64_t held, void *arg);

static void unpin(struct mm *mm, struct mm_oom_holder *holder)
{
	spin_lock(&mm->oom_list_lock);
	holder->running--;
	spin_unlock(&mm->oom_list_lock);
}

/* Callbacks run without the lock; running keeps the entry on the list meanwhile. */
static void for_each_holder(struct mm *mm, holder_fn fn, void *arg)
{
	struct list_head *pos;
	bool done = false;

	spin_lock(&mm->oom_list_lock);
	for (pos = mm->oom_holders.next; pos != &mm->oom_holders && !done; pos = pos->next) {
		struct mm_oom_holder *holder = list_entry(pos, struct mm_oom_holder, list);

		holder->running++;
		spin_unlock(&mm->oom_list_lock);
		done = fn(mm, holder, holder->held_pages(holder), arg);
		spin_lock(&mm->oom_list_lock);
		holder->running--;
	}
	spin_unlock(&mm->oom_list_lock);
}

struct candidates {
	struct mm_oom_candidate *list;
	unsigned int nr, max;
};

/* Into the sorted list; the last one falls out when it is full. */
static bool insert_candidate(struct mm *mm, struct mm_oom_holder *holder, uint64_t held, void *arg)
{
	struct candidates *all = arg;
	struct mm_oom_candidate candidate = {
		.holder = holder,
		.held = held,
		.adj = __atomic_load_n(&holder->adj, __ATOMIC_RELAXED),
		.badness = oom_badness(mm, holder, held),
	};
	unsigned int at = all->nr;

	if (at == all->max) {
		if (at == 0 || all->list[at - 1].badness >= candidate.badness)
			return false;
		at--;
	} else {
		all->nr++;
	}
	for (; at > 0 && all->list[at - 1].badness < candidate.badness; at--)
		all->list[at] = all->list[at - 1];
	all->list[at] = candidate;
	return false;
}

unsigned int mm_oom_candidates(struct mm *mm, struct mm_oom_candidate *candidates, unsigned int max)
{
	struct candidates all = { .list = candidates, .max = max };

	for_each_holder(mm, insert_candidate, &all);
	return all.nr;
}

struct selection {
	struct mm_oom_holder *chosen; /* pinned */
	int64_t badness;
	uint64_t now;
	bool dying; /* somebody is at it already */
};

static bool evaluate(struct mm *mm, struct mm_oom_holder *holder, uint64_t held, void *arg)
{
	struct selection *selection = arg;
	int64_t badness;

	if (holder->killed_ns && held == 0)
		holder->killed_ns = 0;
	if (holder->killed_ns) {
		if (selection->now - holder->killed_ns < OOM_VICTIM_NS) {
			selection->dying = true;
			return true;
		}
		holder->killed_ns = 0;
		holder->skip_ns = selection->now + OOM_SKIP_NS;
	}
	badness = oom_badness(mm, holder, held);
	if (badness == INT64_MIN || holder->skip_ns > selection->now ||
	    (selection->chosen && badness <= selection->badness))
		return false;
	spin_lock(&mm->oom_list_lock);
	holder->running++;
	spin_unlock(&mm->oom_list_lock);
	if (selection->chosen)
		unpin(mm, selection->chosen);
	selection->chosen = holder;
	selection->badness = badness;
	return false;
}

/* The oom lock is held: killed_ns and skip_ns are this thread's. */
static enum oom_result select_and_kill(struct mm *mm)
{
	struct selection selection = { .now = now_ns() };
	struct mm_oom_holder *victim;
	int ret = 0;

	for (;;) {
		for_each_holder(mm, evaluate, &selection);
		victim = selection.chosen;
		selection.chosen = NULL;
		if (victim && !selection.dying) {
			mm_message(mm, "out of memory: killing holder %u, badness %lld, adj %d",
				   victim->id, (long long)selection.badness,
				   __atomic_load_n(&victim->adj, __ATOMIC_RELAXED));
			ret = victim->kill(victim);
			victim->killed_ns = ret ? 0 : selection.now;
			victim->skip_ns = ret ? selection.now + OOM_SKIP_NS : 0;
		}
		if (victim)
			unpin(mm, victim);
		if (selection.dying)
			return OOM_VICTIM;
		if (!victim)
			return OOM_NOTHING;
		if (ret == 0) {
			count_vm_events(mm, OOM_KILL, 1);
			return OOM_VICTIM;
		}
	}
}

/*
 * Kernel: __alloc_pages_may_oom(). Not for those who fail rather than see others killed, not for
 * large blocks (killing does not make frames neighbours), and not without __GFP_FS: reclaim was not
 * allowed to do all it can. *page: something was free after all.
 */
enum oom_result out_of_memory(struct mm *mm, gfp_t gfp, unsigned int order,
			      const struct alloc_context *ac, struct page **page)
{
	enum oom_result result = OOM_NOTHING;
	bool outer;

	*page = NULL;
	if (order > PCP_MAX_ORDER || (gfp & (__GFP_RETRY_MAYFAIL | __GFP_THISNODE)) ||
	    ((gfp & __GFP_NORETRY) && !(gfp & __GFP_NOFAIL)))
		return OOM_NOTHING;
	if (!spin_trylock(&mm->oom_lock))
		return OOM_BUSY;
	/* Somebody may have been killed while this thread was on its way here. */
	*page = get_page_from_freelist(mm, gfp, order, ALLOC_WMARK_HIGH | ALLOC_EXACT, ac);
	outer = reclaim_enter();
	if (!*page && mm->oom_fn && mm->oom_fn(mm->oom_opaque, mm, gfp, order))
		result = OOM_HANDLED;
	else if (!*page && (gfp & __GFP_FS))
		result = select_and_kill(mm);
	reclaim_leave(outer);
	spin_unlock(&mm->oom_lock);
	return result;
}
