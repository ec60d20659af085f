/* SPDX-License-Identifier: MIT */
/*
 * Events counted since the start (the kernel's names in /proc/vmstat), and how fragmented free
 * memory is. Events are counted on slow paths only: the fast paths have per-CPU counters that a
 * report adds up.
 */
#ifndef FRAMEVISOR_VMSTAT_H
#define FRAMEVISOR_VMSTAT_H

#include <stddef.h>
#include <stdint.h>

#include "framevisor/mmzone.h"

enum vm_event_item {
	ALLOCSTALL, /* allocations that had to reclaim themselves, one per highest zone */
	PGSCAN_KSWAPD = ALLOCSTALL + MAX_NR_ZONES,
	PGSCAN_DIRECT,
	PGSTEAL_KSWAPD,
	PGSTEAL_DIRECT,
	PAGEOUTRUN, /* rounds of kswapd */
	PGACTIVATE,
	PGDEACTIVATE,
	SLABS_SCANNED,
	OOM_KILL,
	PGMIGRATE_SUCCESS, /* frames */
	PGMIGRATE_FAIL,
	COMPACTMIGRATE_SCANNED,
	COMPACTFREE_SCANNED,
	COMPACTISOLATED,
	COMPACTSTALL, /* allocations that compacted */
	COMPACTFAIL,
	COMPACTSUCCESS,
	KCOMPACTD_WAKE,
	KCOMPACTD_MIGRATE_SCANNED,
	KCOMPACTD_FREE_SCANNED,
	PCP_IDLE_DRAIN, /* caches of idle CPUs emptied */
	/* Counted by those who have the frames, with mm_count_vm_events(): the allocator does not
	 * know of swap or balloons. Frames. */
	PSWPIN,
	PSWPOUT,
	BALLOON_INFLATE,
	BALLOON_DEFLATE,
	BALLOON_MIGRATE,
	NR_VM_EVENT_ITEMS,
};

/* Any thread. */
uint64_t mm_vm_event(struct mm *mm, enum vm_event_item item);
/* Adds to a counter: for holders and their PSWPIN to BALLOON_MIGRATE, and what they migrate for
 * others. */
void mm_count_vm_events(struct mm *mm, enum vm_event_item item, uint64_t nr);
/* As in /proc/vmstat; NULL: no such item. For reports that go beyond mm_report_vmstat(). */
const char *mm_vm_event_name(enum vm_event_item item);

/*
 * Why an allocation of this order would fail now, in 1/1000: towards 0 for want of memory, towards
 * 1000 because of fragmentation; -1000: it would not fail. Kernel: __fragmentation_index().
 */
int mm_fragmentation_index(const struct zone *zone, unsigned int order);
/* 1/1000 of the free frames that are in blocks too small for this order. */
unsigned int mm_unusable_free_index(const struct zone *zone, unsigned int order);
/* Percent of the free frames that are in blocks too small for this order. Kernel:
 * extfrag_for_order(). */
unsigned int mm_extfrag_for_order(const struct zone *zone, unsigned int order);

/*
 * Reports in the kernel's text formats (a page is a frame). Like snprintf: the length needed. Any
 * thread; the numbers are those of a moment and not of the same.
 */
int mm_report_pagetypeinfo(struct mm *mm, char *buf, size_t len);
int mm_report_vmstat(struct mm *mm, char *buf, size_t len);
int mm_report_meminfo(struct mm *mm, char *buf, size_t len);
int mm_report_extfrag_index(struct mm *mm, char *buf, size_t len);
int mm_report_unusable_index(struct mm *mm, char *buf, size_t len);

#endif
