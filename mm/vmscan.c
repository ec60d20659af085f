/* SPDX-License-Identifier: MIT */
/* Scanning the LRU lists and the shrinkers of a node, and direct reclaim. */
#include <errno.h>
#include <time.h>

#include "mm/vmscan_internal.h"

/* Frames isolated from a list at once. */
#define ISOLATE_MAX 32

/* This thread reclaims: its own allocations dig into the reserves instead of reclaiming again
 * (kernel: PF_MEMALLOC). */
static _Thread_local bool in_reclaim;

bool reclaim_in_progress(void)
{
	return in_reclaim;
}

/* Returns what reclaim_leave() is to be given. */
bool reclaim_enter(void)
{
	bool outer = in_reclaim;

	in_reclaim = true;
	return outer;
}

void reclaim_leave(bool outer)
{
	in_reclaim = outer;
}

void mm_set_reclaim_ops(struct mm *mm, const struct mm_reclaim_ops *ops, void *opaque)
{
	mm->reclaim_opaque = opaque;
	__atomic_store_n(&mm->reclaim_ops, ops, __ATOMIC_RELEASE);
}

/* From the tail of a list. The caller has them for itself until it links them again or frees them.
 */
static unsigned int isolate_pages(struct mm *mm, pg_data_t *pgdat, enum lru_list lru,
				  struct page **pages, uint64_t nr)
{
	unsigned int done = 0;

	spin_lock(&pgdat->lru_lock);
	while (done < nr && done < ISOLATE_MAX && !list_empty(&pgdat->lru[lru])) {
		struct page *page = list_last_entry(&pgdat->lru[lru], struct page, lru);

		lru_unlink(mm, page);
		page_test_and_set(page, PAGE_FLAG(isolated));
		pages[done++] = page;
	}
	spin_unlock(&pgdat->lru_lock);
	return done;
}

static bool page_referenced(struct mm *mm, const struct mm_reclaim_ops *ops, struct page *page)
{
	bool marked = page_test_and_clear(page, PAGE_FLAG(referenced)) & PAGE_FLAG(referenced);
	bool used = ops->referenced && ops->referenced(mm->reclaim_opaque, page);

	return marked || used;
}

/* One isolated inactive block: reclaimed, or where it goes. */
static void reclaim_one(struct mm *mm, const struct mm_reclaim_ops *ops, struct page *page,
			struct scan_control *sc)
{
	unsigned int order = page_order(page);

	bool busy = page_test(page, PAGE_FLAG(pinned) | PAGE_FLAG(locked));

	if (!busy && page_referenced(mm, ops, page)) {
		lru_putback(mm, page, LRU_ACTIVE); /* the second chance */
	} else if (busy || ops->reclaim(mm->reclaim_opaque, page, sc->gfp) != 0) {
		lru_putback(mm, page, LRU_INACTIVE);
	} else {
		page_test_and_clear(page, PAGE_FLAG(isolated) | PAGE_FLAG(active));
		mm_free_pages(mm, page, order);
		sc->nr_reclaimed += order_frames(order);
	}
}

static void shrink_inactive(struct mm *mm, pg_data_t *pgdat, uint64_t nr, struct scan_control *sc)
{
	const struct mm_reclaim_ops *ops = __atomic_load_n(&mm->reclaim_ops, __ATOMIC_ACQUIRE);
	struct page *pages[ISOLATE_MAX];

	while (nr > 0 && sc->nr_reclaimed < sc->nr_to_reclaim) {
		/* Not more than is wanted: a frame is 2 MiB or more of somebody's memory. */
		uint64_t want = sc->nr_to_reclaim - sc->nr_reclaimed;
		unsigned int got =
			isolate_pages(mm, pgdat, LRU_INACTIVE, pages, want < nr ? want : nr);

		if (got == 0)
			break;
		for (unsigned int i = 0; i < got; i++)
			reclaim_one(mm, ops, pages[i], sc);
		sc->nr_scanned += got;
		nr -= got;
	}
}

/* Active frames that were not used lately become inactive. */
static void shrink_active(struct mm *mm, pg_data_t *pgdat, uint64_t nr)
{
	const struct mm_reclaim_ops *ops = __atomic_load_n(&mm->reclaim_ops, __ATOMIC_ACQUIRE);
	struct page *pages[ISOLATE_MAX];

	while (nr > 0) {
		unsigned int got = isolate_pages(mm, pgdat, LRU_ACTIVE, pages, nr);

		if (got == 0)
			break;
		for (unsigned int i = 0; i < got; i++) {
			bool used = page_referenced(mm, ops, pages[i]);

			lru_putback(mm, pages[i], used ? LRU_ACTIVE : LRU_INACTIVE);
			if (!used)
				count_vm_events(mm, PGDEACTIVATE,
						order_frames(page_order(pages[i])));
		}
		nr -= got;
	}
}

/*
 * The inactive list is to be large enough that frames have a chance to be used again on it: its
 * share falls with the size of the lists (kernel: inactive_is_low(), sqrt(10 * GiB)).
 */
static bool inactive_is_low(const pg_data_t *pgdat)
{
	uint64_t inactive = __atomic_load_n(&pgdat->nr_lru[LRU_INACTIVE], __ATOMIC_RELAXED);
	uint64_t active = __atomic_load_n(&pgdat->nr_lru[LRU_ACTIVE], __ATOMIC_RELAXED);
	uint64_t gib = (inactive + active) >> (30 - FRAME_SHIFT);
	uint64_t ratio = 1;

	while ((ratio + 1) * (ratio + 1) <= 10 * gib)
		ratio++;
	return inactive * ratio < active;
}

static void shrink_lists(struct mm *mm, pg_data_t *pgdat, struct scan_control *sc)
{
	uint64_t inactive = __atomic_load_n(&pgdat->nr_lru[LRU_INACTIVE], __ATOMIC_RELAXED);
	uint64_t active = __atomic_load_n(&pgdat->nr_lru[LRU_ACTIVE], __ATOMIC_RELAXED);
	uint64_t scan = inactive >> sc->priority;

	if (!__atomic_load_n(&mm->reclaim_ops, __ATOMIC_ACQUIRE))
		return;
	/* Small lists are looked at from the first round on: a frame is much. */
	if (scan < RECLAIM_BATCH)
		scan = RECLAIM_BATCH;
	if (inactive_is_low(pgdat))
		shrink_active(mm, pgdat, (active >> sc->priority) + RECLAIM_BATCH);
	shrink_inactive(mm, pgdat, scan, sc);
}

/* Some of a shrinker's objects, by the same share as the lists (kernel: do_shrink_slab()). */
static void shrink_one(struct shrinker *shrinker, struct shrink_control *control,
		       struct scan_control *sc)
{
	uint64_t freeable = shrinker->count_objects(shrinker, control);
	uint64_t seeks = shrinker->seeks ? shrinker->seeks : 2;
	uint64_t freed;

	if (freeable == 0 || freeable == SHRINK_STOP)
		return;
	control->nr_to_scan = (freeable >> sc->priority) * 4 / seeks;
	if (control->nr_to_scan < RECLAIM_BATCH)
		control->nr_to_scan = RECLAIM_BATCH;
	if (control->nr_to_scan > freeable)
		control->nr_to_scan = freeable;
	sc->nr_scanned += control->nr_to_scan;
	count_vm_events(control->mm, SLABS_SCANNED, control->nr_to_scan);
	freed = shrinker->scan_objects(shrinker, control);
	/* More than was asked for it cannot say: that would end reclaim for all the others. */
	if (freed != SHRINK_STOP)
		sc->nr_reclaimed += freed < sc->nr_to_reclaim ? freed : sc->nr_to_reclaim;
}

static bool shrinker_allowed(const struct shrinker *shrinker, gfp_t gfp)
{
	return (!(shrinker->flags & SHRINKER_IO) || (gfp & __GFP_IO)) &&
	       (!(shrinker->flags & SHRINKER_FS) || (gfp & __GFP_FS));
}

/* Callbacks run without the lock; running keeps the entry on the list meanwhile. */
static void shrink_slab(struct mm *mm, pg_data_t *pgdat, struct scan_control *sc)
{
	struct shrink_control control = { .mm = mm, .gfp = sc->gfp, .nid = (int)pgdat->node_id };
	struct list_head *pos;

	spin_lock(&mm->shrinker_lock);
	for (pos = mm->shrinkers.next; pos != &mm->shrinkers; pos = pos->next) {
		struct shrinker *shrinker = list_entry(pos, struct shrinker, list);

		if (!shrinker_allowed(shrinker, sc->gfp))
			continue;
		shrinker->running++;
		spin_unlock(&mm->shrinker_lock);
		shrink_one(shrinker, &control, sc);
		spin_lock(&mm->shrinker_lock);
		shrinker->running--;
		if (sc->nr_reclaimed >= sc->nr_to_reclaim)
			break;
	}
	spin_unlock(&mm->shrinker_lock);
}

int mm_register_shrinker(struct mm *mm, struct shrinker *shrinker)
{
	if (!shrinker->count_objects || !shrinker->scan_objects)
		return -EINVAL;
	shrinker->running = 0;
	spin_lock(&mm->shrinker_lock);
	list_add_tail(&shrinker->list, &mm->shrinkers);
	spin_unlock(&mm->shrinker_lock);
	return 0;
}

void mm_unregister_shrinker(struct mm *mm, struct shrinker *shrinker)
{
	const struct timespec pause = { .tv_nsec = 100000 };

	spin_lock(&mm->shrinker_lock);
	while (shrinker->running) {
		spin_unlock(&mm->shrinker_lock);
		nanosleep(&pause, NULL);
		spin_lock(&mm->shrinker_lock);
	}
	list_del(&shrinker->list);
	spin_unlock(&mm->shrinker_lock);
}

/* One round over a node: shrinkers first, their objects are cheaper than a guest's frames. */
void shrink_node(struct mm *mm, pg_data_t *pgdat, struct scan_control *sc)
{
	bool outer = reclaim_enter();
	uint64_t scanned = sc->nr_scanned, reclaimed = sc->nr_reclaimed;

	shrink_slab(mm, pgdat, sc);
	if (sc->nr_reclaimed < sc->nr_to_reclaim)
		shrink_lists(mm, pgdat, sc);
	reclaim_leave(outer);
	count_vm_events(mm, sc->kswapd ? PGSCAN_KSWAPD : PGSCAN_DIRECT, sc->nr_scanned - scanned);
	count_vm_events(mm, sc->kswapd ? PGSTEAL_KSWAPD : PGSTEAL_DIRECT,
			sc->nr_reclaimed - reclaimed);
	__atomic_add_fetch(&pgdat->nr_scanned, sc->nr_scanned - scanned, __ATOMIC_RELAXED);
	if (sc->nr_reclaimed > reclaimed) {
		__atomic_add_fetch(&pgdat->nr_reclaimed, sc->nr_reclaimed - reclaimed,
				   __ATOMIC_RELAXED);
		__atomic_store_n(&pgdat->kswapd_failures, 0, __ATOMIC_RELAXED);
	}
}

static uint64_t reclaim_nodes(struct mm *mm, nodemask_t nodes, struct scan_control *sc)
{
	for (sc->priority = DEF_PRIORITY; sc->priority >= 0; sc->priority--) {
		for (unsigned int nid = 0; nid < mm->nr_nodes; nid++)
			if ((nodes >> nid & 1) && sc->nr_reclaimed < sc->nr_to_reclaim)
				shrink_node(mm, mm->node[nid], sc);
		if (sc->nr_reclaimed >= sc->nr_to_reclaim)
			break;
	}
	return sc->nr_reclaimed;
}

/* For an allocation: from the nodes that it may use. Returns the frames that came back. */
uint64_t try_to_free_pages(struct mm *mm, gfp_t gfp, const struct alloc_context *ac)
{
	struct scan_control sc = { .gfp = gfp, .nr_to_reclaim = RECLAIM_BATCH };
	nodemask_t nodes = 0;

	count_vm_events(mm, (enum vm_event_item)(ALLOCSTALL + ac->highest_zoneidx), 1);
	for (uint32_t i = 0; i < ac->zonelist->nr; i++)
		nodes |= UINT64_C(1) << ac->zonelist->refs[i].nid;
	return reclaim_nodes(mm, nodes & ac->nodemask, &sc);
}

uint64_t mm_reclaim_pages(struct mm *mm, int nid, uint64_t nr, gfp_t gfp)
{
	struct scan_control sc = { .gfp = gfp, .nr_to_reclaim = nr };

	if (nid >= (int)mm->nr_nodes || reclaim_in_progress())
		return 0;
	return reclaim_nodes(mm, nid < 0 ? ~(nodemask_t)0 : UINT64_C(1) << nid, &sc);
}
