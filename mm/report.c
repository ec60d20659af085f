/* SPDX-License-Identifier: MIT */
/*
 * Reports in the text formats of /proc, so that what reads those reads these. A page is a frame
 * everywhere.
 */
#include "mm/internal.h"
#include "mm/text.h"

/* /proc/buddyinfo: free blocks by order. */
int mm_report_buddyinfo(struct mm *mm, char *buf, size_t len)
{
	struct text text = { .buf = buf, .len = len };
	unsigned int nid, idx;
	struct zone *zone;

	if (len)
		buf[0] = 0;
	for_each_zone (mm, nid, idx, zone) {
		if (!populated_zone(zone))
			continue;
		text_add(&text, "Node %u, zone %8s ", nid, zone->name);
		for (unsigned int order = 0; order < NR_PAGE_ORDERS; order++) {
			uint64_t blocks = 0;

			for (unsigned int mt = 0; mt < MIGRATE_TYPES; mt++)
				blocks += __atomic_load_n(&zone->free_area[order].nr[mt],
							  __ATOMIC_RELAXED);
			text_add(&text, "%6llu ", (unsigned long long)blocks);
		}
		text_add(&text, "\n");
	}
	return (int)text.used;
}

static void zone_marks(struct text *text, const struct zone *zone)
{
	const struct {
		const char *label;
		uint64_t value;
	} rows[] = {
		{ "\n  pages free     ", zone_page_state(zone, NR_FREE_PAGES) },
		{ "\n        boost    ", zone_read(zone, watermark_boost) },
		{ "\n        min      ", wmark_pages(zone, WMARK_MIN) },
		{ "\n        low      ", wmark_pages(zone, WMARK_LOW) },
		{ "\n        high     ", wmark_pages(zone, WMARK_HIGH) },
		{ "\n        promo    ", wmark_pages(zone, WMARK_PROMO) },
		{ "\n        spanned  ", zone_read(zone, spanned_pages) },
		{ "\n        present  ", zone_read(zone, present_pages) },
		{ "\n        managed  ", zone_read(zone, managed_pages) },
		{ "\n        cma      ", 0 },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		text_add(text, "%s%llu", rows[i].label, (unsigned long long)rows[i].value);
	text_add(text, "\n        protection: (%llu",
		 (unsigned long long)zone_read(zone, lowmem_reserve[0]));
	for (unsigned int j = 1; j < MAX_NR_ZONES; j++)
		text_add(text, ", %llu", (unsigned long long)zone_read(zone, lowmem_reserve[j]));
	text_add(text, ")");
}

static void zone_stats(struct text *text, const struct zone *zone)
{
	static const char *const names[NR_VM_ZONE_STAT_ITEMS] = {
		[NR_FREE_PAGES] = "nr_free_pages",           [NR_FREE_ZEROED] = "nr_free_zeroed",
		[NR_FREE_HIGHATOMIC] = "nr_free_highatomic", [NR_QUARANTINED] = "nr_quarantined",
		[NR_FREE_ISOLATE] = "nr_free_isolate",       [NR_ZEROING] = "nr_zeroing",
		[NR_ZONE_INACTIVE] = "nr_zone_inactive",     [NR_ZONE_ACTIVE] = "nr_zone_active",
	};

	for (unsigned int i = 0; i < NR_VM_ZONE_STAT_ITEMS; i++)
		text_add(text, "\n      %-12s %llu", names[i],
			 (unsigned long long)zone_page_state(zone, i));
}

static void zone_pagesets(struct text *text, const struct mm *mm, struct zone *zone)
{
	text_add(text, "\n  pagesets");
	for (unsigned int cpu = 0; cpu < mm->nr_cpus; cpu++) {
		struct per_cpu_pages *pcp = &zone->pageset[cpu];

		spin_lock(&pcp->lock);
		text_add(text,
			 "\n    cpu: %u\n              count:    %d\n              high:     %d"
			 "\n              batch:    %d\n              high_min: %d"
			 "\n              high_max: %d\n  vm stats threshold: 0",
			 cpu, pcp->count + (int)pcp_hot_frames(pcp), pcp->high, pcp->batch,
			 pcp->high_min, pcp->high_max);
		spin_unlock(&pcp->lock);
	}
}

/* /proc/zoneinfo: marks, reserves, counters and caches of every populated zone. */
int mm_report_zoneinfo(struct mm *mm, char *buf, size_t len)
{
	struct text text = { .buf = buf, .len = len };
	int last_nid = -1;
	unsigned int nid, idx;
	struct zone *zone;

	if (len)
		buf[0] = 0;
	for_each_zone (mm, nid, idx, zone) {
		const pg_data_t *pgdat = mm->node[nid];

		text_add(&text, "Node %u, zone %8s", nid, zone->name);
		if (populated_zone(zone) && last_nid != (int)nid) {
			last_nid = (int)nid;
			text_add(&text,
				 "\n  per-node stats\n      nr_inactive_anon %llu"
				 "\n      nr_active_anon %llu",
				 (unsigned long long)__atomic_load_n(&pgdat->nr_lru[LRU_INACTIVE],
								     __ATOMIC_RELAXED),
				 (unsigned long long)__atomic_load_n(&pgdat->nr_lru[LRU_ACTIVE],
								     __ATOMIC_RELAXED));
		}
		zone_marks(&text, zone);
		if (populated_zone(zone)) {
			zone_stats(&text, zone);
			zone_pagesets(&text, mm, zone);
			text_add(&text, "\n  node_unreclaimable:  0\n  start_pfn:           %llu",
				 (unsigned long long)zone->zone_start_pfn);
		}
		text_add(&text, "\n");
	}
	return (int)text.used;
}
