/* SPDX-License-Identifier: MIT */
/* Between lru.c, vmscan.c, kswapd.c and slowpath.c. */
#ifndef MM_VMSCAN_INTERNAL_H
#define MM_VMSCAN_INTERNAL_H

#include "framevisor/vmscan.h"
#include "mm/internal.h"

/* Frames a round of reclaim aims at (kernel: SWAP_CLUSTER_MAX, which is 128 KiB there). */
#define RECLAIM_BATCH 8
/* Rounds without progress until reclaim counts as hopeless (kernel: the same). */
#define MAX_RECLAIM_RETRIES 16
/* The first round looks at 1/2^DEF_PRIORITY of the lists, each further one at twice as much. */
#define DEF_PRIORITY 12

struct scan_control {
	gfp_t gfp;
	uint64_t nr_to_reclaim;
	uint64_t nr_scanned;
	uint64_t nr_reclaimed;
	int priority;
	bool kswapd;
};

void lru_link(struct mm *mm, struct page *page, enum lru_list lru);
void lru_unlink(struct mm *mm, struct page *page);
void lru_putback(struct mm *mm, struct page *page, enum lru_list lru);

void shrink_node(struct mm *mm, pg_data_t *pgdat, struct scan_control *sc);
uint64_t try_to_free_pages(struct mm *mm, gfp_t gfp, const struct alloc_context *ac);
/* This thread frees memory for others: until the matching leave it does not reclaim itself. */
bool reclaim_in_progress(void);
bool reclaim_enter(void);
void reclaim_leave(bool outer);

void wakeup_kswapd(struct zone *zone, unsigned int order, enum zone_type highest_zoneidx);
void wake_all_kswapds(gfp_t gfp, unsigned int order, const struct alloc_context *ac);
bool pgdat_balanced(const pg_data_t *pgdat, unsigned int order, enum zone_type highest_zoneidx);

#endif
