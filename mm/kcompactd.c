/* SPDX-License-Identifier: MIT */
/*
 * Compaction in the background, in kswapd's thread of a node (the kernel has a thread of its own):
 * after an order > 0 was asked for, and ahead of need when free memory is more fragmented than the
 * setting compaction_proactiveness allows.
 */
#include "mm/compaction_internal.h"

static void run(struct compact_control *cc)
{
	compact_zone(cc);
	count_vm_events(cc->mm, KCOMPACTD_MIGRATE_SCANNED, cc->migrate_scanned);
	count_vm_events(cc->mm, KCOMPACTD_FREE_SCANNED, cc->free_scanned);
}

/* Kernel: kcompactd_do_work(). */
void kcompactd_do_work(pg_data_t *pgdat, unsigned int order, enum zone_type highest_zoneidx)
{
	struct mm *mm = pgdat->mm;

	if (order == 0 || !migration_possible(mm))
		return;
	count_vm_events(mm, KCOMPACTD_WAKE, 1);
	for (unsigned int type = 0; type <= highest_zoneidx; type++) {
		struct zone *zone = &pgdat->node_zones[type];
		struct compact_control cc = {
			.mm = mm,
			.zone = zone,
			.order = (int)order,
			.area_order = order,
			.migratetype = MIGRATE_MOVABLE,
			.mode = MIGRATE_SYNC_LIGHT,
			.stop = &pgdat->kswapd_stop,
		};

		if (!managed_zone(zone) ||
		    zone_watermark_ok(zone, order, wmark_pages(zone, WMARK_HIGH), highest_zoneidx,
				      0) ||
		    !compaction_suitable(zone, order, zone_read(zone, _watermark[WMARK_MIN]),
					 highest_zoneidx))
			continue;
		run(&cc);
	}
}

/* Percent of the zone's free frames in blocks smaller than a pageblock. Kernel: the same, weighted
 * by the zone's share of its node. */
unsigned int fragmentation_score_zone(const struct zone *zone)
{
	return mm_extfrag_for_order(zone, zone->mm->pageblock_order);
}

static unsigned int fragmentation_score_node(const pg_data_t *pgdat)
{
	uint64_t score = 0, present = 0;

	for (unsigned int type = 0; type < MAX_NR_ZONES; type++) {
		const struct zone *zone = &pgdat->node_zones[type];
		uint64_t frames = zone_read(zone, present_pages);

		present += frames;
		score += frames * fragmentation_score_zone(zone);
	}
	return present ? (unsigned int)(score / present) : 0;
}

/* Work begins above the high mark and ends at the low one. */
unsigned int fragmentation_score_wmark(const struct mm *mm, bool low)
{
	uint64_t proactiveness =
		__atomic_load_n(&mm->settings.compaction_proactiveness, __ATOMIC_RELAXED);
	unsigned int mark = 100 - (unsigned int)proactiveness;

	if (mark < 5)
		mark = 5;
	if (!low)
		mark = mark + 10 < 100 ? mark + 10 : 100;
	return mark;
}

/* Every tick. A run that did not help is not repeated for 64 ticks. */
void kcompactd_proactive(pg_data_t *pgdat)
{
	struct mm *mm = pgdat->mm;
	unsigned int before = fragmentation_score_node(pgdat);

	if (pgdat->proactive_defer > 0) {
		pgdat->proactive_defer--;
		return;
	}
	if (__atomic_load_n(&mm->settings.compaction_proactiveness, __ATOMIC_RELAXED) == 0 ||
	    !migration_possible(mm) || before <= fragmentation_score_wmark(mm, false))
		return;
	for (unsigned int type = 0; type < MAX_NR_ZONES; type++) {
		struct compact_control cc = {
			.mm = mm,
			.zone = &pgdat->node_zones[type],
			.order = -1,
			.area_order = mm->pageblock_order,
			.migratetype = MIGRATE_MOVABLE,
			.mode = MIGRATE_SYNC_LIGHT,
			.whole_zone = true,
			.proactive = true,
			.stop = &pgdat->kswapd_stop,
		};

		run(&cc);
	}
	if (fragmentation_score_node(pgdat) >= before)
		pgdat->proactive_defer = 1u << COMPACT_MAX_DEFER_SHIFT;
}
