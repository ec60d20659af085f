/* SPDX-License-Identifier: MIT */
/* Which zone a frame belongs to: by its place in the node, then by its host physical address. */
#include "mm/internal.h"

static enum zone_type phys_zone(const struct mm *mm, uint64_t phys_pfn)
{
	if (phys_pfn < mm->dma_limit)
		return ZONE_DMA;
	return phys_pfn < mm->dma32_limit ? ZONE_DMA32 : ZONE_NORMAL;
}

enum zone_type frame_zone(const struct mm *mm, const pg_data_t *pgdat, uint64_t idx)
{
	uint64_t lowmem = pgdat->node_spanned_pages - pgdat->movable - pgdat->highmem;

	if (idx >= lowmem + pgdat->highmem)
		return ZONE_MOVABLE;
	if (idx >= lowmem)
		return ZONE_HIGHMEM;
	if (!pgdat->phys_pfn)
		return phys_zone(mm, pgdat->phys_base + idx);
	return pgdat->phys_pfn[idx] ? phys_zone(mm, pgdat->phys_pfn[idx]) : ZONE_NORMAL;
}

/* Whether a node can ever have frames in a zone. Physical numbers may come later, so with
 * phys_pfn all three zones are possible. */
bool zone_possible(const struct mm_node_config *node, const struct mm *limits, enum zone_type type)
{
	uint64_t lowmem = node->spanned - node->movable - node->highmem;
	uint64_t end = node->phys_base + lowmem;

	switch (type) {
	case ZONE_MOVABLE:
		return node->movable > 0;
	case ZONE_HIGHMEM:
		return node->highmem > 0;
	case ZONE_DMA:
		return lowmem > 0 && (node->phys_pfn || node->phys_base < limits->dma_limit);
	case ZONE_DMA32:
		return lowmem > 0 && (node->phys_pfn || (node->phys_base < limits->dma32_limit &&
							 end > limits->dma_limit));
	default:
		return lowmem > 0 && (node->phys_pfn || end > limits->dma32_limit);
	}
}
