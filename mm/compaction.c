/* SPDX-License-Identifier: MIT */
/*
 * Whether and how long a zone is compacted, for allocations and in the background. The scanners are
 * in compaction_scan.c.
 */
#include "mm/compaction_internal.h"
#include "mm/vmscan_internal.h"

/* Where a scan starts: the part of the zone's span that has frames is at most this. */
static void zone_bounds(struct zone *zone, uint64_t *start, uint64_t *end)
{
	spin_lock(&zone->lock);
	*start = zone->zone_start_pfn;
	*end = zone->zone_start_pfn + zone->spanned_pages;
	spin_unlock(&zone->lock);
}

/*
 * Enough free frames to move into, beyond the watermark; and, for large orders, fragmentation and
 * not want of memory is what is missing. Kernel: compaction_suitable().
 */
bool compaction_suitable(const struct zone *zone, unsigned int order, uint64_t watermark,
			 enum zone_type highest_zoneidx)
{
	uint64_t threshold =
		__atomic_load_n(&zone->mm->settings.extfrag_threshold, __ATOMIC_RELAXED);
	int index;

	if (!zone_watermark_ok(zone, 0, watermark + compact_gap(order), highest_zoneidx, 0))
		return false;
	if (order <= PCP_MAX_ORDER)
		return true;
	index = mm_fragmentation_index(zone, order);
	return index < 0 || (uint64_t)index > threshold;
}

/* Kernel: defer_compaction(): the more failures, the more requests are skipped. */
static void defer_compaction(struct zone *zone, unsigned int order)
{
	uint32_t shift = zone_read(zone, compact_defer_shift);

	__atomic_store_n(&zone->compact_considered, 0, __ATOMIC_RELAXED);
	if (shift < COMPACT_MAX_DEFER_SHIFT)
		__atomic_store_n(&zone->compact_defer_shift, shift + 1, __ATOMIC_RELAXED);
	if ((int32_t)order < zone_read(zone, compact_order_failed))
		__atomic_store_n(&zone->compact_order_failed, (int32_t)order, __ATOMIC_RELAXED);
}

static bool compaction_deferred(struct zone *zone, unsigned int order)
{
	uint32_t limit = 1u << zone_read(zone, compact_defer_shift);

	if ((int32_t)order < zone_read(zone, compact_order_failed))
		return false;
	if (__atomic_add_fetch(&zone->compact_considered, 1, __ATOMIC_RELAXED) >= limit) {
		__atomic_store_n(&zone->compact_considered, limit, __ATOMIC_RELAXED);
		return false;
	}
	return true;
}

void compaction_defer_reset(struct zone *zone, unsigned int order, bool alloc_success)
{
	if (alloc_success) {
		__atomic_store_n(&zone->compact_considered, 0, __ATOMIC_RELAXED);
		__atomic_store_n(&zone->compact_defer_shift, 0, __ATOMIC_RELAXED);
	}
	if ((int32_t)order >= zone_read(zone, compact_order_failed))
		__atomic_store_n(&zone->compact_order_failed, (int32_t)order + 1, __ATOMIC_RELAXED);
}

/* A block that the request could have: of its own type, or of one whose pageblock it may claim. */
static bool block_available(const struct compact_control *cc)
{
	bool claims = cc->migratetype != MIGRATE_MOVABLE;

	for (unsigned int order = (unsigned int)cc->order; order < NR_PAGE_ORDERS; order++) {
		const struct free_area *area = &cc->zone->free_area[order];

		for (unsigned int mt = 0; mt < MIGRATE_PCPTYPES; mt++) {
			if (!__atomic_load_n(&area->nr[mt], __ATOMIC_RELAXED))
				continue;
			if (mt == cc->migratetype || claims || order >= cc->mm->pageblock_order / 2)
				return true;
		}
	}
	return false;
}

/* Kernel: __compact_finished(). */
static enum compact_result compact_finished(struct compact_control *cc)
{
	if (cc->stop && __atomic_load_n(cc->stop, __ATOMIC_RELAXED))
		return COMPACT_PARTIAL_SKIPPED;
	if (cc->proactive)
		return fragmentation_score_zone(cc->zone) <= fragmentation_score_wmark(cc->mm, true)
			       ? COMPACT_SUCCESS
			       : COMPACT_CONTINUE;
	return cc->order >= 0 && block_available(cc) ? COMPACT_SUCCESS : COMPACT_CONTINUE;
}

/* One area after the other, the cheapest first. */
static enum compact_result compact_window(struct compact_control *cc)
{
	const struct compact_area *area;
	enum compact_result result;

	while ((result = compact_finished(cc)) == COMPACT_CONTINUE &&
	       (area = compact_next_source(cc)) != NULL)
		compact_empty_area(cc, area->pfn);
	return result;
}

/* One run over one zone. No lock is held. */
enum compact_result compact_zone(struct compact_control *cc)
{
	enum compact_result result = COMPACT_CONTINUE;
	struct zone *zone = cc->zone;
	uint64_t start, end, pfn, next;

	if (!migration_possible(cc->mm) || !managed_zone(zone))
		return COMPACT_SKIPPED;
	for (unsigned int order = 0; order < NR_PAGE_ORDERS; order++)
		list_init(&cc->freepages[order]);
	zone_bounds(zone, &start, &end);
	pfn = zone_read(zone, compact_migrate_pfn);
	if (cc->whole_zone || pfn < start || pfn >= end)
		pfn = start;
	/* Nothing was skipped: failure says something about the whole zone. */
	if (pfn == start)
		cc->whole_zone = true;
	while (pfn < end) {
		next = compact_survey(cc, pfn, end);
		result = compact_window(cc);
		if (result != COMPACT_CONTINUE)
			break;
		pfn = next;
	}
	/* The next run goes on here, or starts again. */
	__atomic_store_n(&zone->compact_migrate_pfn, pfn < end ? pfn : 0, __ATOMIC_RELAXED);
	count_vm_events(cc->mm, COMPACTMIGRATE_SCANNED, cc->migrate_scanned);
	count_vm_events(cc->mm, COMPACTFREE_SCANNED, cc->free_scanned);
	if (result == COMPACT_CONTINUE)
		result = cc->whole_zone ? COMPACT_COMPLETE : COMPACT_PARTIAL_SKIPPED;
	return result;
}

static enum compact_result compact_zone_order(struct mm *mm, struct zone *zone, unsigned int order,
					      const struct alloc_context *ac,
					      enum compact_priority prio)
{
	struct compact_control cc = {
		.mm = mm,
		.zone = zone,
		.order = (int)order,
		.area_order = order,
		.migratetype = ac->migratetype,
		.mode = prio == COMPACT_PRIO_ASYNC ? MIGRATE_ASYNC : MIGRATE_SYNC_LIGHT,
		.whole_zone = prio == COMPACT_PRIO_SYNC_FULL,
		.ignore_block_suitable = prio == COMPACT_PRIO_SYNC_FULL,
	};
	uint64_t mark = zone_read(zone, _watermark[order > PCP_MAX_ORDER ? WMARK_LOW : WMARK_MIN]);

	if (!compaction_suitable(zone, order, mark, ac->highest_zoneidx))
		return COMPACT_SKIPPED;
	return compact_zone(&cc);
}

/* Kernel: try_to_compact_pages(): zone after zone until one has a block. */
static enum compact_result try_to_compact_pages(struct mm *mm, unsigned int order,
						const struct alloc_context *ac,
						enum compact_priority prio)
{
	enum compact_result best = COMPACT_SKIPPED;

	for (uint32_t at = 0; at < ac->zonelist->nr; at++) {
		struct zone *zone = ac->zonelist->refs[at].zone;
		enum compact_result result;

		if (zone->idx > ac->highest_zoneidx || !(ac->nodemask >> zone->nid & 1) ||
		    !managed_zone(zone))
			continue;
		if (prio > COMPACT_PRIO_SYNC_FULL && compaction_deferred(zone, order)) {
			best = best > COMPACT_DEFERRED ? best : COMPACT_DEFERRED;
			continue;
		}
		result = compact_zone_order(mm, zone, order, ac, prio);
		best = result > best ? result : best;
		if (result == COMPACT_SUCCESS) {
			/* Not a full reset: the allocation has not succeeded yet. */
			compaction_defer_reset(zone, order, false);
			break;
		}
		if (prio != COMPACT_PRIO_ASYNC &&
		    (result == COMPACT_COMPLETE || result == COMPACT_PARTIAL_SKIPPED))
			defer_compaction(zone, order);
	}
	return best;
}

/*
 * Compacts for an allocation and tries again. Kernel: __alloc_pages_direct_compact(). Without
 * __GFP_IO not at all: moving frames may need I/O of their holders.
 */
struct page *direct_compact(struct mm *mm, gfp_t gfp, unsigned int order, unsigned int alloc_flags,
			    const struct alloc_context *ac, enum compact_priority prio)
{
	enum compact_result result;
	struct page *page;

	if (order == 0 || !(gfp & __GFP_IO) || !migration_possible(mm))
		return NULL;
	result = try_to_compact_pages(mm, order, ac, prio);
	if (result <= COMPACT_DEFERRED)
		return NULL;
	count_vm_events(mm, COMPACTSTALL, 1);
	page = get_page_from_freelist(mm, gfp, order, alloc_flags, ac);
	if (page)
		compaction_defer_reset(page_zone(mm, page), order, true);
	count_vm_events(mm, page ? COMPACTSUCCESS : COMPACTFAIL, 1);
	return page;
}

/* Everything that can be had in one zone, as blocks of one order. Returns the frames moved. */
static uint64_t compact_all(struct mm *mm, struct zone *zone, unsigned int area_order)
{
	struct compact_control cc = {
		.mm = mm,
		.zone = zone,
		.order = -1,
		.area_order = area_order,
		.migratetype = MIGRATE_MOVABLE,
		.mode = MIGRATE_SYNC,
		.whole_zone = true,
		.ignore_block_suitable = true,
	};

	compact_zone(&cc);
	return cc.migrated;
}

uint64_t mm_compact_node(struct mm *mm, int nid)
{
	uint64_t moved = 0;

	if (reclaim_in_progress())
		return 0;
	mm_drain_all_pages(mm);
	for (unsigned int n = 0; n < mm->nr_nodes; n++) {
		for (unsigned int type = 0; type < MAX_NR_ZONES; type++) {
			struct zone *zone = &mm->node[n]->node_zones[type];

			if (nid >= 0 && n != (unsigned int)nid)
				continue;
			/* The largest blocks first; what is left of the room in pageblocks. */
			moved += compact_all(mm, zone, MAX_ORDER);
			if (mm->pageblock_order < MAX_ORDER)
				moved += compact_all(mm, zone, mm->pageblock_order);
		}
	}
	return moved;
}
