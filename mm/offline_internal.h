/* SPDX-License-Identifier: MIT */
/* Between offline.c and hotplug.c. Ranges are pfns of one node. */
#ifndef MM_OFFLINE_INTERNAL_H
#define MM_OFFLINE_INTERNAL_H

#include "mm/internal.h"

void isolate_page_range(struct mm *mm, pg_data_t *pgdat, uint64_t pfn, uint64_t nr);
void undo_isolate_page_range(struct mm *mm, pg_data_t *pgdat, uint64_t pfn, uint64_t nr);
bool page_range_isolated(struct mm *mm, pg_data_t *pgdat, uint64_t pfn, uint64_t nr);
void migrate_range(struct mm *mm, uint64_t pfn, uint64_t nr);

#endif
