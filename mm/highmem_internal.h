/* SPDX-License-Identifier: MIT */
/* Between highmem.c, node.c, zero.c and hotplug.c. */
#ifndef MM_HIGHMEM_INTERNAL_H
#define MM_HIGHMEM_INTERNAL_H

#include "framevisor/highmem.h"
#include "mm/internal.h"

/* For zeroing: exclusive, always to be had. NULL: no memory behind it; MAP_FAILED: cannot. */
void *kmap_clear(struct mm *mm, struct page *page);
void kunmap_clear(struct mm *mm);
/* Mappings of frames that are leaving. */
void kmap_flush(struct mm *mm, uint64_t pfn, uint64_t nr);
void kmap_destroy(struct mm *mm);

#endif
