/* SPDX-License-Identifier: MIT */
/*
 * Frames come into the pool and leave it. An absent frame has no state at all (its struct page is
 * zero), so a pool may reserve numbers for more frames than it will ever have.
 */
#include <errno.h>
#include <time.h>

#include "mm/compaction_internal.h"
#include "mm/highmem_internal.h"
#include "mm/offline_internal.h"

/* Rounds of moving what is in the way: a holder may be busy with a frame for a moment. */
#define OFFLINE_TRIES 5

static bool range_valid(const struct mm *mm, unsigned int nid, uint64_t first, uint64_t nr)
{
	return nid < mm->nr_nodes && nr > 0 && first < mm->node[nid]->node_spanned_pages &&
	       nr <= mm->node[nid]->node_spanned_pages - first;
}

/* Sizes changed: everything computed from them. The hotplug lock is held. */
static void resize_done(struct mm *mm)
{
	uint64_t managed = 0;
	unsigned int nid, idx;
	struct zone *zone;

	for_each_zone (mm, nid, idx, zone)
		managed += zone->managed_pages;
	__atomic_store_n(&mm->group_by_mobility,
			 managed >= (uint64_t)order_frames(mm->pageblock_order) * MIGRATE_TYPES,
			 __ATOMIC_RELAXED);
	setup_per_zone_wmarks(mm);
	update_zonelist_starts(mm);
}

/* The zone's sizes after nr frames from pfn on came (or, negative, went). Zone lock held. */
static void zone_resized(struct zone *zone, uint64_t pfn, int64_t nr)
{
	uint64_t end = zone->zone_start_pfn + zone->spanned_pages;

	if (nr > 0) {
		if (zone->spanned_pages == 0 || pfn < zone->zone_start_pfn)
			zone->zone_start_pfn = pfn;
		if (zone->spanned_pages == 0 || pfn + (uint64_t)nr > end)
			end = pfn + (uint64_t)nr;
		zone->spanned_pages = end - zone->zone_start_pfn;
	}
	__atomic_store_n(&zone->present_pages, zone->present_pages + (uint64_t)nr,
			 __ATOMIC_RELAXED);
	__atomic_store_n(&zone->managed_pages, zone->managed_pages + (uint64_t)nr,
			 __ATOMIC_RELAXED);
	zone->zone_pgdat->node_present_pages += (uint64_t)nr;
}

enum online_as { ONLINE_ZEROED, ONLINE_DIRTY, ONLINE_USED };

/* Frames that somebody has already: as if they had been allocated one by one. */
static void online_used(struct mm *mm, struct zone *zone, uint64_t pfn, uint64_t nr)
{
	uint64_t flags = (uint64_t)zone->nid << PAGE_NODE_SHIFT |
			 (uint64_t)zone->idx << PAGE_ZONE_SHIFT | PAGE_FLAG(present) |
			 PAGE_MT(MIGRATE_MOVABLE);

	for (uint64_t i = 0; i < nr; i++) {
		page_set_flags(&mm->hot.mem_map[pfn + i], flags);
		set_page_counts(&mm->hot.mem_map[pfn + i], 1);
	}
	spin_lock(&zone->lock);
	zone_resized(zone, pfn, (int64_t)nr);
	spin_unlock(&zone->lock);
}

/* Consecutive frames of one zone, freed in the largest blocks that fit. */
static void online_run(struct mm *mm, struct zone *zone, uint64_t pfn, uint64_t nr, bool zeroed)
{
	uint64_t identity = (uint64_t)zone->nid << PAGE_NODE_SHIFT |
			    (uint64_t)zone->idx << PAGE_ZONE_SHIFT | PAGE_FLAG(present);

	for (uint64_t i = 0; i < nr; i++) {
		page_set_flags(&mm->hot.mem_map[pfn + i], identity);
		if ((mm->flags & MM_DEBUG_POISON) && !zeroed)
			poison_pages(mm, &mm->hot.mem_map[pfn + i], 0);
	}
	spin_lock(&zone->lock);
	zone_resized(zone, pfn, (int64_t)nr);
	free_run(mm, zone, pfn, nr, zeroed);
	spin_unlock(&zone->lock);
}

/* Whether some of the frames are there already. A node without frames is not looked at: to read an
 * array that was never written costs a page fault for every 64 frames, and another when it is. */
static bool any_present(const struct mm *mm, const pg_data_t *pgdat, uint64_t first, uint64_t nr)
{
	const struct page *page = &mm->hot.mem_map[pgdat->node_start_pfn + first];

	for (uint64_t i = 0; pgdat->node_present_pages > 0 && i < nr; i++)
		if (page_test(page + i, PAGE_FLAG(present)))
			return true;
	return false;
}

static int online(struct mm *mm, unsigned int nid, uint64_t first, uint64_t nr, enum online_as as)
{
	pg_data_t *pgdat;
	uint64_t end = first + nr;

	if (!range_valid(mm, nid, first, nr))
		return -EINVAL;
	pgdat = mm->node[nid];
	spin_lock(&mm->hotplug_lock);
	if (any_present(mm, pgdat, first, nr)) {
		spin_unlock(&mm->hotplug_lock);
		return -EBUSY;
	}
	while (first < end) {
		enum zone_type type = frame_zone(mm, pgdat, first);
		uint64_t stop = first + 1;

		while (stop < end && frame_zone(mm, pgdat, stop) == type)
			stop++;
		if (as == ONLINE_USED)
			online_used(mm, &pgdat->node_zones[type], pgdat->node_start_pfn + first,
				    stop - first);
		else
			online_run(mm, &pgdat->node_zones[type], pgdat->node_start_pfn + first,
				   stop - first, as == ONLINE_ZEROED);
		first = stop;
	}
	resize_done(mm);
	spin_unlock(&mm->hotplug_lock);
	return 0;
}

int mm_online_pages(struct mm *mm, unsigned int nid, uint64_t first, uint64_t nr, bool zeroed)
{
	return online(mm, nid, first, nr, zeroed ? ONLINE_ZEROED : ONLINE_DIRTY);
}

int mm_online_used_pages(struct mm *mm, unsigned int nid, uint64_t first, uint64_t nr)
{
	return online(mm, nid, first, nr, ONLINE_USED);
}

static void lock_zones(pg_data_t *pgdat)
{
	for (unsigned int type = 0; type < MAX_NR_ZONES; type++)
		spin_lock(&pgdat->node_zones[type].lock);
}

static void unlock_zones(pg_data_t *pgdat)
{
	for (unsigned int type = MAX_NR_ZONES; type-- > 0;)
		spin_unlock(&pgdat->node_zones[type].lock);
}

/* Quarantined on purpose: nobody has it. */
static bool soft_offlined(const struct page *page)
{
	return page_test(page, PAGE_FLAG(offline)) && page_count(page) == 0;
}

/* The first pfn of [pfn, end) that is not on a free list, or end. All zone locks are held. */
static uint64_t free_until(struct mm *mm, uint64_t pfn, uint64_t end)
{
	while (pfn < end) {
		struct page *head = find_free_head(mm, &mm->hot.mem_map[pfn]);

		if (!head && soft_offlined(&mm->hot.mem_map[pfn])) {
			pfn++;
			continue;
		}
		if (!head)
			return pfn;
		pfn = pfn_of(mm, head) + order_frames(page_order(head));
	}
	return end;
}

static void offline_range(struct mm *mm, pg_data_t *pgdat, uint64_t pfn, uint64_t end)
{
	while (pfn < end) {
		struct page *page = &mm->hot.mem_map[pfn];
		struct zone *zone = &pgdat->node_zones[page_zonenum(page)];
		struct page *head = find_free_head(mm, page);
		uint64_t stop = pfn + 1;

		if (head) {
			stop = pfn_of(mm, head) + order_frames(page_order(head));
			if (stop > end)
				stop = end;
			take_free_range(mm, zone, head, pfn, stop);
		} else {
			/* Soft-offlined: present, but not managed. */
			zone_stat_add(zone, NR_QUARANTINED, -1);
			__atomic_store_n(&zone->managed_pages, zone->managed_pages + 1,
					 __ATOMIC_RELAXED);
		}
		zone_resized(zone, pfn, -(int64_t)(stop - pfn));
		for (; pfn < stop; pfn++)
			mm->hot.mem_map[pfn] = (struct page){ 0 };
	}
}

/* One attempt. The hotplug lock is held. */
static bool try_offline(struct mm *mm, pg_data_t *pgdat, uint64_t pfn, uint64_t nr)
{
	bool done;

	mm_drain_all_pages(mm);
	lock_zones(pgdat);
	done = free_until(mm, pfn, pfn + nr) == pfn + nr;
	if (done)
		offline_range(mm, pgdat, pfn, pfn + nr);
	unlock_zones(pgdat);
	if (done)
		kmap_flush(mm, pfn, nr);
	return done;
}

/* Whether a free frame of the node is being zeroed: it is free again a moment later. */
static bool node_zeroing(const pg_data_t *pgdat)
{
	for (unsigned int type = 0; type < MAX_NR_ZONES; type++)
		if (zone_page_state(&pgdat->node_zones[type], NR_ZEROING))
			return true;
	return false;
}

/* With waiting for frames that come back by themselves in a moment. */
static bool offline_free(struct mm *mm, pg_data_t *pgdat, uint64_t pfn, uint64_t nr)
{
	const struct timespec pause = { .tv_nsec = 200000 };
	bool done;

	spin_lock(&mm->hotplug_lock);
	done = try_offline(mm, pgdat, pfn, nr);
	for (unsigned int tries = 0; !done && tries < 5 && node_zeroing(pgdat); tries++) {
		nanosleep(&pause, NULL);
		done = try_offline(mm, pgdat, pfn, nr);
	}
	if (done)
		resize_done(mm);
	spin_unlock(&mm->hotplug_lock);
	return done;
}

int mm_isolate_pages(struct mm *mm, unsigned int nid, uint64_t first, uint64_t nr)
{
	pg_data_t *pgdat;

	if (!range_valid(mm, nid, first, nr))
		return -EINVAL;
	pgdat = mm->node[nid];
	hot_pause(mm, true);
	isolate_page_range(mm, pgdat, pgdat->node_start_pfn + first, nr);
	/* Frames of the range in caches come to lie where they are not allocated from. */
	mm_drain_node_pages(mm, nid);
	return 0;
}

void mm_unisolate_pages(struct mm *mm, unsigned int nid, uint64_t first, uint64_t nr)
{
	pg_data_t *pgdat;

	if (!range_valid(mm, nid, first, nr))
		return;
	pgdat = mm->node[nid];
	undo_isolate_page_range(mm, pgdat, pgdat->node_start_pfn + first, nr);
	hot_pause(mm, false);
}

int mm_offline_pages(struct mm *mm, unsigned int nid, uint64_t first, uint64_t nr)
{
	const struct timespec pause = { .tv_nsec = 1000000 };
	pg_data_t *pgdat;
	uint64_t pfn;
	bool done;

	if (!range_valid(mm, nid, first, nr))
		return -EINVAL;
	pgdat = mm->node[nid];
	pfn = pgdat->node_start_pfn + first;
	done = offline_free(mm, pgdat, pfn, nr);
	if (!done && migration_possible(mm)) {
		bool isolated = page_range_isolated(mm, pgdat, pfn, nr);

		hot_pause(mm, true);
		isolate_page_range(mm, pgdat, pfn, nr);
		for (unsigned int tries = 0; !done && tries < OFFLINE_TRIES; tries++) {
			if (tries > 0)
				nanosleep(&pause, NULL);
			migrate_range(mm, pfn, nr);
			done = offline_free(mm, pgdat, pfn, nr);
		}
		if (!isolated)
			undo_isolate_page_range(mm, pgdat, pfn, nr);
		hot_pause(mm, false);
	}
	return done ? 0 : -EBUSY;
}

void mm_counts(struct mm *mm, int nid, struct mm_counts *counts)
{
	*counts = (struct mm_counts){ 0 };
	for (unsigned int n = 0; n < mm->nr_nodes; n++) {
		if (nid >= 0 && n != (unsigned int)nid)
			continue;
		for (unsigned int type = 0; type < MAX_NR_ZONES; type++) {
			const struct zone *zone = &mm->node[n]->node_zones[type];
			uint64_t isolated = zone_page_state(zone, NR_FREE_ISOLATE);

			counts->present += zone_read(zone, present_pages);
			counts->free += zone_page_state(zone, NR_FREE_PAGES) + isolated +
					zone_page_state(zone, NR_ZEROING);
			counts->isolated += isolated;
			counts->zeroed += zone_page_state(zone, NR_FREE_ZEROED);
			counts->quarantined += zone_page_state(zone, NR_QUARANTINED);
			for (unsigned int cpu = 0; zone->pageset && cpu < mm->nr_cpus; cpu++) {
				struct per_cpu_pages *pcp = &zone->pageset[cpu];

				spin_lock(&pcp->lock);
				counts->cached += (uint64_t)pcp->count + pcp_hot_frames(pcp);
				counts->zeroed += (uint64_t)pcp->nr_zeroed;
				spin_unlock(&pcp->lock);
			}
		}
	}
	/* While others work the sum may be off for a moment, but never below nothing. */
	counts->allocated = counts->free + counts->cached + counts->quarantined;
	counts->allocated =
		counts->present > counts->allocated ? counts->present - counts->allocated : 0;
}
