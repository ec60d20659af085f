/* SPDX-License-Identifier: MIT */
/* Event counters, and how fragmented the free memory of a zone is. */
#include "framevisor/vmstat.h"
#include "mm/compaction_internal.h"

static const char *const event_names[NR_VM_EVENT_ITEMS] = {
	[ALLOCSTALL + ZONE_DMA] = "allocstall_dma",
	[ALLOCSTALL + ZONE_DMA32] = "allocstall_dma32",
	[ALLOCSTALL + ZONE_NORMAL] = "allocstall_normal",
	[ALLOCSTALL + ZONE_HIGHMEM] = "allocstall_high",
	[ALLOCSTALL + ZONE_MOVABLE] = "allocstall_movable",
	[PGSCAN_KSWAPD] = "pgscan_kswapd",
	[PGSCAN_DIRECT] = "pgscan_direct",
	[PGSTEAL_KSWAPD] = "pgsteal_kswapd",
	[PGSTEAL_DIRECT] = "pgsteal_direct",
	[PAGEOUTRUN] = "pageoutrun",
	[PGACTIVATE] = "pgactivate",
	[PGDEACTIVATE] = "pgdeactivate",
	[SLABS_SCANNED] = "slabs_scanned",
	[OOM_KILL] = "oom_kill",
	[PGMIGRATE_SUCCESS] = "pgmigrate_success",
	[PGMIGRATE_FAIL] = "pgmigrate_fail",
	[COMPACTMIGRATE_SCANNED] = "compact_migrate_scanned",
	[COMPACTFREE_SCANNED] = "compact_free_scanned",
	[COMPACTISOLATED] = "compact_isolated",
	[COMPACTSTALL] = "compact_stall",
	[COMPACTFAIL] = "compact_fail",
	[COMPACTSUCCESS] = "compact_success",
	[KCOMPACTD_WAKE] = "compact_daemon_wake",
	[KCOMPACTD_MIGRATE_SCANNED] = "compact_daemon_migrate_scanned",
	[KCOMPACTD_FREE_SCANNED] = "compact_daemon_free_scanned",
	[PCP_IDLE_DRAIN] = "pcp_idle_drain",
	[PSWPIN] = "pswpin",
	[PSWPOUT] = "pswpout",
	[BALLOON_INFLATE] = "balloon_inflate",
	[BALLOON_DEFLATE] = "balloon_deflate",
	[BALLOON_MIGRATE] = "balloon_migrate",
};

const char *mm_vm_event_name(enum vm_event_item item)
{
	return (unsigned int)item < NR_VM_EVENT_ITEMS ? event_names[item] : NULL;
}

void mm_count_vm_events(struct mm *mm, enum vm_event_item item, uint64_t nr)
{
	if ((unsigned int)item < NR_VM_EVENT_ITEMS)
		count_vm_events(mm, item, nr);
}

void count_vm_events(struct mm *mm, enum vm_event_item item, uint64_t nr)
{
	__atomic_add_fetch(&mm->vm_events[item], nr, __ATOMIC_RELAXED);
}

uint64_t mm_vm_event(struct mm *mm, enum vm_event_item item)
{
	return item < NR_VM_EVENT_ITEMS ? __atomic_load_n(&mm->vm_events[item], __ATOMIC_RELAXED)
					: 0;
}

/* Free blocks that an allocation might get, in all and large enough for an order. */
struct contig_page_info {
	uint64_t free_pages;
	uint64_t free_blocks_total;
	uint64_t free_blocks_suitable; /* as blocks of the order asked for */
};

/* Without the lock: a report of a moment. */
static void fill_contig_page_info(const struct zone *zone, unsigned int suitable_order,
				  struct contig_page_info *info)
{
	*info = (struct contig_page_info){ 0 };
	for (unsigned int order = 0; order < NR_PAGE_ORDERS; order++) {
		uint64_t blocks = 0;

		for (unsigned int mt = 0; mt < MIGRATE_ISOLATE; mt++)
			blocks += __atomic_load_n(&zone->free_area[order].nr[mt], __ATOMIC_RELAXED);
		info->free_blocks_total += blocks;
		info->free_pages += blocks << order;
		if (order >= suitable_order)
			info->free_blocks_suitable += blocks << (order - suitable_order);
	}
}

int mm_fragmentation_index(const struct zone *zone, unsigned int order)
{
	struct contig_page_info info;

	if (order > MAX_ORDER)
		return 0;
	fill_contig_page_info(zone, order, &info);
	if (info.free_blocks_total == 0)
		return 0;
	if (info.free_blocks_suitable)
		return -1000;
	return 1000 - (int)((1000 + info.free_pages * 1000 / order_frames(order)) /
			    info.free_blocks_total);
}

unsigned int mm_unusable_free_index(const struct zone *zone, unsigned int order)
{
	struct contig_page_info info;

	fill_contig_page_info(zone, order, &info);
	if (info.free_pages == 0)
		return 1000;
	return (unsigned int)((info.free_pages - (info.free_blocks_suitable << order)) * 1000 /
			      info.free_pages);
}

unsigned int mm_extfrag_for_order(const struct zone *zone, unsigned int order)
{
	struct contig_page_info info;

	if (order > MAX_ORDER)
		return 100;
	fill_contig_page_info(zone, order, &info);
	if (info.free_pages == 0)
		return 0;
	return (unsigned int)((info.free_pages - (info.free_blocks_suitable << order)) * 100 /
			      info.free_pages);
}
