/* SPDX-License-Identifier: MIT */
/*
 * Watermarks and reserves: how many frames a zone keeps from whom.
 *
 * The kernel's formulas with frames of 2 MiB. min_free_kbytes is the same number of bytes as in a
 * kernel with that much memory, rounded up to frames; the gap between the marks is at least one
 * frame, so that a pool of a few hundred frames has the marks 2, 3 and 4 and hands out all but two.
 * Zones outside the permanent mapping and movable zones keep one frame (the kernel keeps 128 to
 * 512 KiB of them).
 */
#include "mm/internal.h"

static uint64_t int_sqrt(uint64_t x)
{
	uint64_t root = 0;

	for (uint64_t bit = UINT64_C(1) << 31; bit; bit >>= 1)
		if ((root | bit) * (root | bit) <= x)
			root |= bit;
	return root;
}

static bool lowmem_zone(const struct zone *zone)
{
	return zone->idx < ZONE_HIGHMEM;
}

/* Frames that may come to a node, or to every node an equal part: those that are not for
 * ZONE_MOVABLE to this zone. */
#define EVERY_NODE UINT32_MAX
struct growth {
	uint64_t nr, movable;
	unsigned int nid;
	enum zone_type idx;
};

static uint64_t managed_with(struct mm *mm, const struct zone *zone, const struct growth *growth)
{
	uint64_t nr = zone->idx == growth->idx ? growth->nr : 0;

	if (zone->idx == ZONE_MOVABLE)
		nr = growth->movable;
	if (growth->nid == EVERY_NODE)
		nr = (nr + mm->nr_nodes - 1) / mm->nr_nodes;
	else if (zone->zone_pgdat->node_id != growth->nid)
		nr = 0;
	return zone->managed_pages + nr;
}

static uint64_t lowmem_pages(struct mm *mm, const struct growth *growth)
{
	uint64_t pages = 0;
	unsigned int nid, idx;
	struct zone *zone;

	for_each_zone (mm, nid, idx, zone)
		if (lowmem_zone(zone))
			pages += managed_with(mm, zone, growth);
	return pages;
}

/* Kernel: calculate_min_free_kbytes(): sqrt(lowmem_kbytes * 16), 128 KiB to 256 MiB. A number
 * set by the user stays when it is larger. */
static uint64_t min_free_kbytes(struct mm *mm, uint64_t lowmem)
{
	uint64_t kbytes = int_sqrt((lowmem << (FRAME_SHIFT - 10)) * 16);

	if (kbytes < 128)
		kbytes = 128;
	if (kbytes > 262144)
		kbytes = 262144;
	return mm->settings.user_min_free_kbytes ? mm->settings.user_min_free_kbytes : kbytes;
}

/* A whole frame of 1 GiB would be far more than was meant to be kept. */
static uint64_t kbytes_to_frames(uint64_t kbytes)
{
	return FRAME_SHIFT == FRAME_SHIFT_2M ? bytes_to_frames_up(kbytes << 10)
					     : bytes_to_frames(kbytes << 10);
}

void calculate_min_free_kbytes(struct mm *mm)
{
	const struct growth none = { 0 };

	__atomic_store_n(&mm->settings.min_free_kbytes,
			 min_free_kbytes(mm, lowmem_pages(mm, &none)), __ATOMIC_RELAXED);
}

/* A zone of managed frames, and its share of what all lowmem zones keep. */
static uint64_t zone_min(const struct zone *zone, uint64_t managed, uint64_t share)
{
	return lowmem_zone(zone) ? share : managed != 0;
}

static uint64_t zone_gap(struct mm *mm, uint64_t managed, uint64_t share)
{
	uint64_t gap = share / 4;

	if (managed * mm->settings.watermark_scale_factor / 10000 > gap)
		gap = managed * mm->settings.watermark_scale_factor / 10000;
	if (gap == 0 && managed && FRAME_SHIFT == FRAME_SHIFT_2M)
		gap = 1;
	return gap;
}

static void set_mark(struct zone *zone, enum zone_watermarks mark, uint64_t pages)
{
	__atomic_store_n(&zone->_watermark[mark], pages, __ATOMIC_RELAXED);
}

static void setup_zone_wmarks(struct mm *mm, struct zone *zone, uint64_t pages_min, uint64_t lowmem)
{
	uint64_t managed = zone->managed_pages;
	uint64_t share = lowmem ? pages_min * managed / lowmem : 0;
	uint64_t gap = zone_gap(mm, managed, share);

	set_mark(zone, WMARK_MIN, zone_min(zone, managed, share));
	set_mark(zone, WMARK_LOW, zone->_watermark[WMARK_MIN] + gap);
	set_mark(zone, WMARK_HIGH, zone->_watermark[WMARK_LOW] + gap);
	set_mark(zone, WMARK_PROMO, zone->_watermark[WMARK_HIGH] + gap);
}

/* Kernel: setup_per_zone_lowmem_reserve(). */
static void setup_lowmem_reserve(struct mm *mm, pg_data_t *pgdat)
{
	for (unsigned int i = 0; i < MAX_NR_ZONES; i++) {
		struct zone *zone = &pgdat->node_zones[i];
		uint64_t ratio = mm->settings.lowmem_reserve_ratio[i];
		uint64_t above = 0;

		for (unsigned int j = 0; j < MAX_NR_ZONES; j++) {
			uint64_t reserve = 0;

			if (j > i) {
				above += pgdat->node_zones[j].managed_pages;
				reserve = ratio && zone->managed_pages ? above / ratio : 0;
			}
			__atomic_store_n(&zone->lowmem_reserve[j], reserve, __ATOMIC_RELAXED);
		}
	}
}

/* Of each zone the high mark and the largest of its lowmem reserves, with what is to come. Kernel:
 * calculate_totalreserve_pages(), which has the marks that are set. */
static uint64_t calculate_totalreserve_pages(struct mm *mm, const struct growth *growth)
{
	uint64_t lowmem = lowmem_pages(mm, growth), total = 0;
	uint64_t pages_min = kbytes_to_frames(min_free_kbytes(mm, lowmem));
	unsigned int nid, idx;
	struct zone *zone;

	for_each_zone (mm, nid, idx, zone) {
		uint64_t managed = managed_with(mm, zone, growth), above = 0, reserve, share;
		uint64_t ratio = mm->settings.lowmem_reserve_ratio[idx];

		for (unsigned int j = idx + 1; j < MAX_NR_ZONES; j++)
			above += managed_with(mm, &zone->zone_pgdat->node_zones[j], growth);
		share = lowmem ? pages_min * managed / lowmem : 0;
		reserve = ratio && managed ? above / ratio : 0;
		reserve += zone_min(zone, managed, share) + 2 * zone_gap(mm, managed, share);
		total += reserve < managed ? reserve : managed;
	}
	return total;
}

/* After a change of sizes or settings. The caller holds the hotplug lock (or is alone). */
void setup_per_zone_wmarks(struct mm *mm)
{
	const struct growth none = { 0 };
	uint64_t lowmem = lowmem_pages(mm, &none);
	uint64_t pages_min;
	unsigned int nid, idx;
	struct zone *zone;

	calculate_min_free_kbytes(mm);
	pages_min = kbytes_to_frames(mm->settings.min_free_kbytes);
	for_each_zone (mm, nid, idx, zone)
		setup_zone_wmarks(mm, zone, pages_min, lowmem);
	for_each_node (mm, nid)
		setup_lowmem_reserve(mm, mm->node[nid]);
	__atomic_store_n(&mm->totalreserve_pages, calculate_totalreserve_pages(mm, &none),
			 __ATOMIC_RELAXED);
	for_each_zone (mm, nid, idx, zone)
		pcp_update_limits(mm, zone);
}

uint64_t mm_totalreserve_pages(struct mm *mm)
{
	return __atomic_load_n(&mm->totalreserve_pages, __ATOMIC_RELAXED);
}

uint64_t mm_totalreserve_pages_after(struct mm *mm, uint64_t nr, uint64_t movable)
{
	static const enum zone_type zones[] = { ZONE_DMA32, ZONE_NORMAL };
	struct growth growth = { .nr = nr - movable, .movable = movable };
	uint64_t most = mm_totalreserve_pages(mm), total;

	for (unsigned int i = 0; nr && i < sizeof(zones) / sizeof(zones[0]); i++) {
		growth.idx = zones[i];
		growth.nid = EVERY_NODE;
		total = calculate_totalreserve_pages(mm, &growth);
		most = total > most ? total : most;
		for (growth.nid = 0; growth.nid < mm->nr_nodes; growth.nid++) {
			total = calculate_totalreserve_pages(mm, &growth);
			most = total > most ? total : most;
		}
	}
	return most;
}

/* Free frames that this request may not have: the rest of its own block, and the reserve. */
static uint64_t unusable_free(const struct zone *zone, unsigned int order, unsigned int alloc_flags)
{
	uint64_t unusable = order_frames(order) - 1;

	if (!(alloc_flags & (ALLOC_HIGHATOMIC | ALLOC_OOM)))
		unusable += zone_page_state(zone, NR_FREE_HIGHATOMIC);
	return unusable;
}

static bool usable_block(const struct zone *zone, unsigned int order, unsigned int alloc_flags)
{
	for (unsigned int o = order; o < NR_PAGE_ORDERS; o++) {
		const struct free_area *area = &zone->free_area[o];

		for (unsigned int mt = 0; mt < MIGRATE_PCPTYPES; mt++)
			if (__atomic_load_n(&area->nr[mt], __ATOMIC_RELAXED))
				return true;
		if ((alloc_flags & (ALLOC_HIGHATOMIC | ALLOC_OOM)) &&
		    __atomic_load_n(&area->nr[MIGRATE_HIGHATOMIC], __ATOMIC_RELAXED))
			return true;
	}
	return false;
}

/*
 * How many frames of order 0 the zone may give to this request; for larger orders, more than 0 if
 * the count allows one block.
 */
int64_t zone_allowance(const struct zone *zone, unsigned int order, uint64_t mark,
		       enum zone_type highest_zoneidx, unsigned int alloc_flags)
{
	int64_t free = (int64_t)zone_page_state(zone, NR_FREE_PAGES);
	int64_t min = (int64_t)mark;

	if (alloc_flags & ALLOC_MIN_RESERVE) {
		min -= min / 2;
		/* Cannot wait and is important: dig deeper than one that can. */
		if (alloc_flags & ALLOC_NON_BLOCK)
			min -= min / 4;
	}
	if (alloc_flags & ALLOC_OOM)
		min -= min / 2;
	free -= (int64_t)unusable_free(zone, order, alloc_flags);
	return free - min - (int64_t)zone_read(zone, lowmem_reserve[highest_zoneidx]);
}

/* Kernel: __zone_watermark_ok(). */
bool zone_watermark_ok(const struct zone *zone, unsigned int order, uint64_t mark,
		       enum zone_type highest_zoneidx, unsigned int alloc_flags)
{
	if (zone_allowance(zone, order, mark, highest_zoneidx, alloc_flags) <= 0)
		return false;
	return order == 0 || usable_block(zone, order, alloc_flags);
}

/* Kernel: zone_watermark_fast(). Order 0 needs no look at the lists. */
bool zone_watermark_fast(const struct zone *zone, unsigned int order, uint64_t mark,
			 enum zone_type highest_zoneidx, unsigned int alloc_flags, gfp_t gfp)
{
	uint64_t free = zone_page_state(zone, NR_FREE_PAGES);

	if (order == 0) {
		uint64_t reserved = zone_page_state(zone, NR_FREE_HIGHATOMIC);
		uint64_t usable = free > reserved ? free - reserved : 0;

		if (usable > mark + zone_read(zone, lowmem_reserve[highest_zoneidx]))
			return true;
	}
	if (zone_watermark_ok(zone, order, mark, highest_zoneidx, alloc_flags))
		return true;
	/* A boost exists to provoke reclaim, not to fail important allocations of single frames. */
	if (order == 0 && (alloc_flags & ALLOC_MIN_RESERVE) && (gfp & __GFP_HIGH) &&
	    zone_read(zone, watermark_boost) && (alloc_flags & ALLOC_WMARK_MASK) == WMARK_MIN)
		return zone_watermark_ok(zone, order, zone_read(zone, _watermark[WMARK_MIN]),
					 highest_zoneidx, alloc_flags);
	return false;
}
