/* SPDX-License-Identifier: MIT */
/*
 * Nodes, zones, free areas, per-CPU caches, zonelists and watermarks: the allocator's structures.
 * For code of mm/ and for tests and reports that look inside; users need page_alloc.h only.
 *
 * Locks, outermost first: pgdat->lru_lock; per_cpu_pages.lock; zone->lock (of several zones: by
 * node, then zone number). What is read without a lock is read with zone_read() (relaxed atomics).
 */
#ifndef FRAMEVISOR_MMZONE_H
#define FRAMEVISOR_MMZONE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "framevisor/list.h"
#include "framevisor/page.h"
#include "framevisor/page_hot.h"

struct mm;

#define MAX_NUMNODES 64

/* Orders 0 (a frame) to MAX_ORDER (1 GiB in frames of 2 MiB), inclusive. */
#define MAX_ORDER          9
#define NR_PAGE_ORDERS     (MAX_ORDER + 1)
#define MAX_ORDER_NR_PAGES (1u << MAX_ORDER)

typedef uint64_t nodemask_t; /* bit n: node n */

enum zone_type {
	ZONE_DMA,     /* host physical below 16 MiB */
	ZONE_DMA32,   /* below 4 GiB */
	ZONE_NORMAL,  /* the rest of the permanent mapping */
	ZONE_HIGHMEM, /* outside the permanent mapping */
	ZONE_MOVABLE, /* only frames that can be moved away, so that it can be given back */
	MAX_NR_ZONES,
};

enum migratetype {
	MIGRATE_UNMOVABLE,
	MIGRATE_MOVABLE,
	MIGRATE_RECLAIMABLE,
	MIGRATE_PCPTYPES, /* the types that per-CPU caches hold */
	MIGRATE_HIGHATOMIC = MIGRATE_PCPTYPES,
	MIGRATE_ISOLATE, /* never allocated from: being offlined */
	MIGRATE_TYPES,
};

/*
 * Free blocks of one order. Each type has two lists: blocks without a single zeroed frame, and
 * blocks with some (mixed ones at the head, all-zero ones at the tail), so that the right kind is
 * found without a search.
 */
enum { FREE_DIRTY, FREE_ZEROED, NR_FREE_KINDS };
struct free_area {
	struct list_head free_list[MIGRATE_TYPES][NR_FREE_KINDS];
	uint32_t nr[MIGRATE_TYPES]; /* blocks on both lists */
};

enum zone_watermarks { WMARK_MIN, WMARK_LOW, WMARK_HIGH, WMARK_PROMO, NR_WMARK };

/* Numbers per zone, in frames. Written under the zone lock, except as noted. */
enum zone_stat_item {
	NR_FREE_PAGES,
	NR_FREE_ZEROED,     /* of these: known to be zero */
	NR_FREE_HIGHATOMIC, /* of these: on highatomic lists */
	NR_QUARANTINED,
	NR_FREE_ISOLATE,  /* on isolate lists, and so not in NR_FREE_PAGES */
	NR_ZEROING,       /* free, off the lists for a moment: being zeroed, or compaction's */
	NR_ZONE_INACTIVE, /* on LRU lists (under lru_lock) */
	NR_ZONE_ACTIVE,
	NR_VM_ZONE_STAT_ITEMS,
};

/*
 * Per-CPU cache of a zone. In front, stacks of dirty frames of order 0 by type, pushed and popped
 * without a lock by restartable sequences (page_hot.h).
 *
 * Behind them, lists under a lock. Lists of order 0 hold only dirty or only zeroed frames; orders 1
 * to 3 both kinds. Head is the hot end, tail the cold one. Counts are frames.
 */
#define PCP_MAX_ORDER 3
#define PCP_ZEROED    (PCP_MAX_ORDER + 1)
#define NR_PCP_LISTS  (MIGRATE_PCPTYPES * (PCP_ZEROED + 1))

struct per_cpu_pages {
	struct hot_stack hot[MIGRATE_PCPTYPES];
	uint32_t lock __attribute__((aligned(64)));
	int32_t count; /* of the lists */
	int32_t high;  /* drain above; tuned between high_min and high_max */
	int32_t high_min;
	int32_t high_max;
	int32_t batch;
	int32_t grown;            /* sum of what the stacks' limits are above two batches */
	int32_t nr_zeroed;        /* frames of the zeroed lists */
	int16_t free_count;       /* frames freed since the last allocation: scales the drain */
	uint8_t alloc_factor;     /* log2 of how many batches the next refill takes */
	uint8_t expire;           /* ticks of idleness until the cache is emptied */
	uint64_t pgalloc, pgfree; /* frames */
	uint64_t refills, drains;
	uint64_t activity; /* frames allocated and freed, at the last tick */
	struct list_head lists[NR_PCP_LISTS];
} __attribute__((aligned(64)));

/* Kernel: enum pageblock_bits and friends; here one byte per (block, zone). */
struct zone {
	uint64_t _watermark[NR_WMARK];
	uint64_t watermark_boost;
	uint64_t nr_reserved_highatomic;
	/* Frames kept from allocations that could also use a higher zone, by that zone. */
	uint64_t lowmem_reserve[MAX_NR_ZONES];

	struct mm *mm;
	struct pglist_data *zone_pgdat;
	struct per_cpu_pages *pageset; /* one per CPU; NULL: the zone cannot have frames */
	const char *name;
	uint16_t nid;
	uint16_t idx; /* enum zone_type */

	/* The span, in pfns of the instance: frames of other zones of the node may lie in it. */
	uint64_t zone_start_pfn;
	uint64_t spanned_pages;
	uint64_t present_pages;
	uint64_t managed_pages; /* present, less reserved and quarantined */

	uint32_t lock __attribute__((aligned(64)));
	uint32_t flags; /* ZONE_FLAG_* (atomic) */
	/* Frames that went past the per-CPU caches, which count their own. */
	uint64_t pgalloc, pgfree;
	uint64_t vm_stat[NR_VM_ZONE_STAT_ITEMS];
	struct free_area free_area[NR_PAGE_ORDERS];
	uint16_t free_orders[MIGRATE_TYPES][NR_FREE_KINDS]; /* bit n: list of order n not empty */

	/* Compaction: where the next run goes on, and back-off after failures. */
	uint64_t compact_migrate_pfn;
	uint32_t compact_considered;
	uint32_t compact_defer_shift;
	int32_t compact_order_failed;
} __attribute__((aligned(64)));

#define ZONE_FLAG_BOOSTED    0x1u /* kswapd is to reclaim the boost */
#define ZONE_FLAG_RECLAIMING 0x2u /* caches stay small */
#define ZONE_FLAG_BELOW_HIGH 0x4u /* caches do not grow */

struct zoneref {
	struct zone *zone;
	uint32_t zone_idx;
	uint32_t nid;
};

enum { ZONELIST_FALLBACK, ZONELIST_NOFALLBACK, MAX_ZONELISTS };

/* Zones in the order in which an allocation tries them; ends with zone == NULL. */
struct zonelist {
	struct zoneref *refs;
	uint32_t nr;
	/* Where to start for each highest zone: the first populated one (read without a lock). */
	uint32_t first[MAX_NR_ZONES];
};

enum lru_list { LRU_INACTIVE, LRU_ACTIVE, NR_LRU_LISTS };

struct pglist_data {
	struct zone node_zones[MAX_NR_ZONES];
	struct zonelist node_zonelists[MAX_ZONELISTS];
	struct mm *mm;
	int64_t node_id;
	uint64_t node_start_pfn; /* multiple of MAX_ORDER_NR_PAGES */
	uint64_t node_spanned_pages;
	uint64_t node_present_pages;
	uint64_t movable; /* frames at the end: ZONE_MOVABLE */
	uint64_t highmem; /* frames before them: not mapped */
	void *base;       /* of the permanent mapping */
	uint64_t phys_base;
	const uint64_t *phys_pfn;
	/* [zone][block]: zones may interleave within a block */
	uint8_t *pageblock_mt;
	uint64_t nr_pageblocks;

	/* LRU lists of the node's movable frames, under lru_lock (vmscan.h). */
	struct list_head lru[NR_LRU_LISTS];
	uint64_t nr_lru[NR_LRU_LISTS];
	uint64_t nr_scanned, nr_reclaimed; /* frames, since the start */

	/* kswapd, under kswapd_lock; kswapd_running is read without it. */
	pthread_t kswapd;
	pthread_mutex_t kswapd_lock;
	pthread_cond_t kswapd_wait;
	uint32_t lru_lock;
	int kswapd_order; /* -1: nothing asked */
	int kswapd_highest_zoneidx;
	int kswapd_failures;          /* rounds without progress (atomic) */
	unsigned int proactive_defer; /* ticks without proactive compaction; kswapd's own */
	bool kswapd_running;
	bool kswapd_stop;
};
typedef struct pglist_data pg_data_t;

#define zone_read(zone, field) __atomic_load_n(&(zone)->field, __ATOMIC_RELAXED)

static inline uint64_t zone_page_state(const struct zone *zone, enum zone_stat_item item)
{
	return __atomic_load_n(&zone->vm_stat[item], __ATOMIC_RELAXED);
}

static inline uint64_t wmark_pages(const struct zone *zone, enum zone_watermarks mark)
{
	return zone_read(zone, _watermark[mark]) + zone_read(zone, watermark_boost);
}

static inline bool populated_zone(const struct zone *zone)
{
	return zone_read(zone, present_pages) != 0;
}

static inline bool managed_zone(const struct zone *zone)
{
	return zone_read(zone, managed_pages) != 0;
}

/* Node nid of an instance, or NULL. Kernel: NODE_DATA(). */
pg_data_t *mm_node_data(struct mm *mm, unsigned int nid);

#endif
