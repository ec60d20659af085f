/* SPDX-License-Identifier: MIT */
/* Between compaction.c, compaction_scan.c, migrate.c, kcompactd.c, hotplug.c and slowpath.c. */
#ifndef MM_COMPACTION_INTERNAL_H
#define MM_COMPACTION_INTERNAL_H

#include "framevisor/compaction.h"
#include "framevisor/vmstat.h"
#include "mm/internal.h"

/* Blocks isolated before they are moved (kernel: the same). */
#define COMPACT_CLUSTER_MAX 32
/* After failures up to 2^6 requests are skipped (kernel: the same). */
#define COMPACT_MAX_DEFER_SHIFT 6
/* Rounds of reclaim and compaction for one allocation (kernel: the same). */
#define MAX_COMPACT_RETRIES 16

/* Ordered: what is worth reporting of several zones is the largest. */
enum compact_result {
	COMPACT_SKIPPED,  /* not possible: no callback, not enough free frames */
	COMPACT_DEFERRED, /* failed lately */
	COMPACT_CONTINUE,
	COMPACT_COMPLETE,        /* the whole zone was scanned */
	COMPACT_PARTIAL_SKIPPED, /* the rest of the zone was */
	COMPACT_SUCCESS,
};

enum compact_priority { COMPACT_PRIO_SYNC_FULL, COMPACT_PRIO_SYNC_LIGHT, COMPACT_PRIO_ASYNC };

struct migrate_batch {
	struct page *pages[COMPACT_CLUSTER_MAX];
	uint32_t from_lru; /* bit n: pages[n] came from an LRU list */
	unsigned int nr;
	uint64_t frames;
};

/* Areas looked at together: 1 TiB in areas of the largest order. */
#define COMPACT_WINDOW 1024

/* A part of the zone that may become one free block. */
struct compact_area {
	uint64_t pfn;
	uint16_t used; /* frames that can be moved; see compaction_survey.c */
	uint16_t free; /* frames */
};

/* One run over one zone. Kernel: struct compact_control. */
struct compact_control {
	struct mm *mm;
	struct zone *zone;
	struct migrate_batch batch;
	struct list_head freepages[NR_PAGE_ORDERS]; /* isolated targets */
	uint64_t migrate_scanned, free_scanned;     /* frames looked at */
	uint64_t migrated;                          /* frames */
	int order;                                  /* wanted; -1: as much as possible */
	enum migratetype migratetype;               /* of the request */
	enum migrate_mode mode;
	bool whole_zone;            /* scan all of it, and do not skip after failures */
	bool ignore_block_suitable; /* also to pageblocks of another mobility */
	bool proactive;             /* until the fragmentation score is low enough */
	const bool *stop;           /* give up when true; NULL: never */

	/* The window, sorted; areas before source are done with, those from target[order] on have
	 * no free block of that order. */
	unsigned int area_order; /* what is to become free: blocks of this order */
	unsigned int nr_areas, source;
	unsigned int target[NR_PAGE_ORDERS];
	uint64_t room; /* free frames in areas that are not to be emptied */
	struct compact_area areas[COMPACT_WINDOW];
};

static inline uint64_t compact_gap(unsigned int order)
{
	return UINT64_C(2) << order;
}

/* migrate.c */
bool migration_possible(const struct mm *mm);
bool page_may_move(const struct mm *mm, const struct page *page);
bool isolate_movable_page(struct mm *mm, struct page *page, struct migrate_batch *batch);
void putback_batch(struct mm *mm, struct migrate_batch *batch, unsigned int first);
int migrate_page(struct mm *mm, struct page *from, bool from_lru, struct page *to,
		 enum migrate_mode mode);

/* compaction_survey.c */
uint64_t compact_survey(struct compact_control *cc, uint64_t pfn, uint64_t end);
const struct compact_area *compact_next_source(struct compact_control *cc);

/* compaction_scan.c */
bool compact_in_zone(const struct compact_control *cc, const struct page *page);
void compact_empty_area(struct compact_control *cc, uint64_t pfn);

/* compaction.c */
bool compaction_suitable(const struct zone *zone, unsigned int order, uint64_t watermark,
			 enum zone_type highest_zoneidx);
enum compact_result compact_zone(struct compact_control *cc);
void compaction_defer_reset(struct zone *zone, unsigned int order, bool alloc_success);
struct page *direct_compact(struct mm *mm, gfp_t gfp, unsigned int order, unsigned int alloc_flags,
			    const struct alloc_context *ac, enum compact_priority prio);

/* kcompactd.c: in kswapd's thread. */
void kcompactd_do_work(pg_data_t *pgdat, unsigned int order, enum zone_type highest_zoneidx);
void kcompactd_proactive(pg_data_t *pgdat);
unsigned int fragmentation_score_zone(const struct zone *zone);
unsigned int fragmentation_score_wmark(const struct mm *mm, bool low);

#endif
