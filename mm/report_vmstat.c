/* SPDX-License-Identifier: MIT */
/*
 * More reports in the kernel's formats: /proc/pagetypeinfo, /proc/vmstat, /proc/meminfo, and
 * extfrag_index and unusable_index of debugfs. What the allocator does not have (files, anonymous
 * memory, swap in use) is left out, or 0 where common readers insist on it.
 */
#include "framevisor/overcommit.h"
#include "framevisor/slab.h"
#include "mm/internal.h"
#include "mm/text.h"

typedef unsigned long long ull;

static const char *const type_names[MIGRATE_TYPES] = { "Unmovable", "Movable", "Reclaimable",
						       "HighAtomic", "Isolate" };

static struct text text_begin(char *buf, size_t len)
{
	if (len)
		buf[0] = 0;
	return (struct text){ .buf = buf, .len = len };
}

static void free_counts(struct text *text, const struct zone *zone)
{
	for (unsigned int mt = 0; mt < MIGRATE_TYPES; mt++) {
		text_add(text, "Node %4u, zone %8s, type %12s ", zone->nid, zone->name,
			 type_names[mt]);
		for (unsigned int order = 0; order < NR_PAGE_ORDERS; order++)
			text_add(text, "%6u ",
				 __atomic_load_n(&zone->free_area[order].nr[mt], __ATOMIC_RELAXED));
		text_add(text, "\n");
	}
}

/* Whether a pageblock has a frame of the zone: pageblocks may be shared. */
static bool block_in_zone(const struct mm *mm, const struct zone *zone, const struct page *block)
{
	for (unsigned int i = 0; i < order_frames(mm->pageblock_order); i++)
		if (page_test(block + i, PAGE_FLAG(present)) &&
		    page_zonenum(block + i) == zone->idx)
			return true;
	return false;
}

static void block_counts(struct text *text, const struct mm *mm, const struct zone *zone)
{
	const pg_data_t *pgdat = zone->zone_pgdat;
	uint64_t count[MIGRATE_TYPES] = { 0 };
	uint64_t block = order_frames(mm->pageblock_order);
	uint64_t nr = (pgdat->node_spanned_pages + block - 1) / block;

	for (uint64_t i = 0; i < nr; i++) {
		uint8_t mt =
			__atomic_load_n(zone_pageblock(mm, zone, pgdat->node_start_pfn + i * block),
					__ATOMIC_RELAXED);

		if (mt < MIGRATE_TYPES &&
		    block_in_zone(mm, zone, &mm->hot.mem_map[pgdat->node_start_pfn + i * block]))
			count[mt]++;
	}
	text_add(text, "Node %u, zone %8s ", zone->nid, zone->name);
	for (unsigned int mt = 0; mt < MIGRATE_TYPES; mt++)
		text_add(text, "%12llu ", (ull)count[mt]);
	text_add(text, "\n");
}

int mm_report_pagetypeinfo(struct mm *mm, char *buf, size_t len)
{
	struct text text = text_begin(buf, len);
	unsigned int nid, idx;
	struct zone *zone;

	text_add(&text, "Page block order: %u\nPages per block:  %u\n\n%-43s ", mm->pageblock_order,
		 order_frames(mm->pageblock_order), "Free pages count per migrate type at order");
	for (unsigned int order = 0; order < NR_PAGE_ORDERS; order++)
		text_add(&text, "%6u ", order);
	text_add(&text, "\n");
	for_each_zone (mm, nid, idx, zone)
		if (populated_zone(zone))
			free_counts(&text, zone);
	text_add(&text, "\n%-23s", "Number of blocks type ");
	for (unsigned int mt = 0; mt < MIGRATE_TYPES; mt++)
		text_add(&text, "%12s ", type_names[mt]);
	text_add(&text, "\n");
	for_each_zone (mm, nid, idx, zone)
		if (populated_zone(zone))
			block_counts(&text, mm, zone);
	return (int)text.used;
}

/* Sums over all zones. */
struct totals {
	uint64_t stat[NR_VM_ZONE_STAT_ITEMS];
	uint64_t pgalloc[MAX_NR_ZONES];
	uint64_t pgfree;
	uint64_t cached; /* in per-CPU caches */
	uint64_t high, high_free;
	uint64_t wmark_low;
};

static void add_caches(struct totals *totals, const struct mm *mm, const struct zone *zone)
{
	for (unsigned int cpu = 0; cpu < mm->nr_cpus; cpu++) {
		struct per_cpu_pages *pcp = &zone->pageset[cpu];

		spin_lock(&pcp->lock);
		totals->cached += (uint64_t)pcp->count + pcp_hot_frames(pcp);
		totals->pgalloc[zone->idx] += pcp->pgalloc;
		totals->pgfree += pcp->pgfree;
		spin_unlock(&pcp->lock);
		for (unsigned int mt = 0; mt < MIGRATE_PCPTYPES; mt++) {
			/* What was pushed and is not there any more was popped. */
			uint64_t frames = hot_stack_frames(&pcp->hot[mt]);
			uint64_t pushed = __atomic_load_n(&pcp->hot[mt].pushed, __ATOMIC_RELAXED);

			totals->pgalloc[zone->idx] += pushed - frames;
			totals->pgfree += pushed;
		}
	}
}

static void sum_up(const struct mm *mm, struct totals *totals)
{
	unsigned int nid, idx;
	struct zone *zone;

	*totals = (struct totals){ 0 };
	for_each_zone (mm, nid, idx, zone) {
		for (unsigned int i = 0; i < NR_VM_ZONE_STAT_ITEMS; i++)
			totals->stat[i] += zone_page_state(zone, i);
		totals->pgalloc[idx] += zone_read(zone, pgalloc);
		totals->pgfree += zone_read(zone, pgfree);
		totals->wmark_low += zone_read(zone, _watermark[WMARK_LOW]);
		if (idx == ZONE_HIGHMEM) {
			totals->high += zone_read(zone, managed_pages);
			totals->high_free += zone_page_state(zone, NR_FREE_PAGES);
		}
		add_caches(totals, mm, zone);
	}
}

static void vmstat_line(struct text *text, const char *name, uint64_t value)
{
	text_add(text, "%s %llu\n", name, (ull)value);
}

static void vmstat_zones(struct text *text, const struct totals *totals)
{
	static const char *const names[MAX_NR_ZONES] = { "pgalloc_dma", "pgalloc_dma32",
							 "pgalloc_normal", "pgalloc_high",
							 "pgalloc_movable" };

	vmstat_line(text, "nr_free_pages", totals->stat[NR_FREE_PAGES]);
	vmstat_line(text, "nr_free_zeroed", totals->stat[NR_FREE_ZEROED]);
	vmstat_line(text, "nr_free_highatomic", totals->stat[NR_FREE_HIGHATOMIC]);
	vmstat_line(text, "nr_free_pcp", totals->cached);
	vmstat_line(text, "nr_zone_inactive_anon", totals->stat[NR_ZONE_INACTIVE]);
	vmstat_line(text, "nr_zone_active_anon", totals->stat[NR_ZONE_ACTIVE]);
	vmstat_line(text, "nr_inactive_anon", totals->stat[NR_ZONE_INACTIVE]);
	vmstat_line(text, "nr_active_anon", totals->stat[NR_ZONE_ACTIVE]);
	vmstat_line(text, "nr_quarantined", totals->stat[NR_QUARANTINED]);
	for (unsigned int type = 0; type < MAX_NR_ZONES; type++)
		vmstat_line(text, names[type], totals->pgalloc[type]);
	vmstat_line(text, "pgfree", totals->pgfree);
}

int mm_report_vmstat(struct mm *mm, char *buf, size_t len)
{
	struct text text = text_begin(buf, len);
	struct totals totals;

	sum_up(mm, &totals);
	vmstat_zones(&text, &totals);
	for (unsigned int i = 0; i < NR_VM_EVENT_ITEMS; i++)
		vmstat_line(&text, mm_vm_event_name(i), mm_vm_event(mm, i));
	return (int)text.used;
}

/* Frames that could be had without OOM: above the reserves, and half of what can be reclaimed.
 * Kernel: si_mem_available(). */
static uint64_t mem_available(struct mm *mm, const struct totals *totals)
{
	uint64_t lru = totals->stat[NR_ZONE_INACTIVE] + totals->stat[NR_ZONE_ACTIVE];
	uint64_t free = totals->stat[NR_FREE_PAGES] + totals->cached;
	uint64_t keep = lru / 2 < totals->wmark_low ? lru / 2 : totals->wmark_low;
	uint64_t reserve = mm_totalreserve_pages(mm);

	if (__atomic_load_n(&mm->reclaim_ops, __ATOMIC_RELAXED))
		free += lru - keep;
	return free > reserve ? free - reserve : 0;
}

int mm_report_meminfo(struct mm *mm, char *buf, size_t len)
{
	struct text text = text_begin(buf, len);
	struct totals totals;

	sum_up(mm, &totals);
	uint64_t total = mm_totalram_pages(mm);
	uint64_t free = totals.stat[NR_FREE_PAGES] + totals.cached;
	const struct {
		const char *label;
		uint64_t frames;
	} rows[] = {
		{ "MemTotal:       ", total },
		{ "MemFree:        ", free },
		{ "MemAvailable:   ", mem_available(mm, &totals) },
		{ "Buffers:        ", 0 },
		{ "Cached:         ", 0 },
		{ "SwapCached:     ", 0 },
		{ "Active:         ", totals.stat[NR_ZONE_ACTIVE] },
		{ "Inactive:       ", totals.stat[NR_ZONE_INACTIVE] },
		{ "HighTotal:      ", totals.high },
		{ "HighFree:       ", totals.high_free },
		{ "LowTotal:       ", total - totals.high },
		{ "LowFree:        ", free - totals.high_free },
		{ "SwapTotal:      ", __atomic_load_n(&mm->total_swap_pages, __ATOMIC_RELAXED) },
		{ "SwapFree:       ", __atomic_load_n(&mm->total_swap_pages, __ATOMIC_RELAXED) },
		{ "Slab:           ", kmem_cache_frames(mm) },
		{ "CommitLimit:    ", mm_vm_commit_limit(mm) },
		{ "Committed_AS:   ", mm_vm_committed(mm) },
		{ "HardwareCorrupted: ", totals.stat[NR_QUARANTINED] },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		text_add(&text, "%s%8llu kB\n", rows[i].label,
			 (ull)rows[i].frames << (FRAME_SHIFT - 10));
	return (int)text.used;
}

/* One line per zone, one number per order, in 1/1000. */
static int index_report(struct mm *mm, char *buf, size_t len,
			int (*index_of)(const struct zone *zone, unsigned int order))
{
	struct text text = text_begin(buf, len);
	unsigned int nid, idx;
	struct zone *zone;

	for_each_zone (mm, nid, idx, zone) {
		if (!populated_zone(zone))
			continue;
		text_add(&text, "Node %u, zone %8s ", nid, zone->name);
		for (unsigned int order = 0; order < NR_PAGE_ORDERS; order++) {
			int index = index_of(zone, order);
			int abs = index < 0 ? -index : index;

			text_add(&text, "%s%d.%03d ", index < 0 ? "-" : "", abs / 1000, abs % 1000);
		}
		text_add(&text, "\n");
	}
	return (int)text.used;
}

int mm_report_extfrag_index(struct mm *mm, char *buf, size_t len)
{
	return index_report(mm, buf, len, mm_fragmentation_index);
}

static int unusable_index(const struct zone *zone, unsigned int order)
{
	return (int)mm_unusable_free_index(zone, order);
}

int mm_report_unusable_index(struct mm *mm, char *buf, size_t len)
{
	return index_report(mm, buf, len, unusable_index);
}
