/* SPDX-License-Identifier: MIT */
/*
 * gfp_t: how an allocation may be served. The names and their meaning are the kernel's; what each
 * flag changes here is said beside it, and docs/mm.md has the table.
 */
#ifndef FRAMEVISOR_GFP_H
#define FRAMEVISOR_GFP_H

#include <stdbool.h>
#include <stdint.h>

#include "framevisor/mmzone.h"

typedef uint32_t gfp_t;

/* Zone modifiers: the highest zone that may be used (gfp_zone()). */
#define __GFP_DMA     ((gfp_t)0x1u)
#define __GFP_HIGHMEM ((gfp_t)0x2u)
#define __GFP_DMA32   ((gfp_t)0x4u)
/* Also the mobility: the frame can be migrated or reclaimed. */
#define __GFP_MOVABLE ((gfp_t)0x8u)
#define GFP_ZONEMASK  (__GFP_DMA | __GFP_HIGHMEM | __GFP_DMA32 | __GFP_MOVABLE)

/* Mobility: the frame is given back by a shrinker under pressure. */
#define __GFP_RECLAIMABLE ((gfp_t)0x10u)
/* May use half of the min reserve. */
#define __GFP_HIGH ((gfp_t)0x20u)
/* Reclaim may start I/O (swap). Without it, reclaimers are told not to. */
#define __GFP_IO ((gfp_t)0x40u)
/* Reclaim may call into the file layer: shrinkers marked SHRINKER_FS run only with it. */
#define __GFP_FS ((gfp_t)0x80u)
/* From the cold end of the per-CPU cache: the caller will not touch the frame soon. */
#define __GFP_COLD ((gfp_t)0x100u)
/* No message when the allocation fails. */
#define __GFP_NOWARN ((gfp_t)0x200u)
/* Tries harder before it fails (reclaim is repeated while it makes progress), but no OOM. */
#define __GFP_REPEAT        ((gfp_t)0x400u)
#define __GFP_RETRY_MAYFAIL __GFP_REPEAT
/* Never fails: waits for frames. Only with __GFP_DIRECT_RECLAIM. */
#define __GFP_NOFAIL ((gfp_t)0x800u)
/* One round of reclaim and compaction, no OOM, then fails. */
#define __GFP_NORETRY ((gfp_t)0x1000u)
/* For caches of objects: serve from what the cache has, take no new frames. */
#define __GFP_NO_GROW ((gfp_t)0x2000u)
/* A compound frame: freed as a whole by put_page() of any of its frames. */
#define __GFP_COMP ((gfp_t)0x4000u)
/* Content is zero. */
#define __GFP_ZERO ((gfp_t)0x8000u)
/* Only from the node asked for (NOFALLBACK zonelist). */
#define __GFP_THISNODE ((gfp_t)0x10000u)
/* Cannot sleep and is important: with __GFP_HIGH also a quarter of the rest of the reserve, and
 * the highatomic reserve. */
#define __GFP_ATOMIC ((gfp_t)0x20000u)
/* The caller may itself wait for reclaim; kswapd is woken. __GFP_WAIT is both, as it once was. */
#define __GFP_DIRECT_RECLAIM ((gfp_t)0x40000u)
#define __GFP_KSWAPD_RECLAIM ((gfp_t)0x80000u)
#define __GFP_WAIT           (__GFP_DIRECT_RECLAIM | __GFP_KSWAPD_RECLAIM)
#define __GFP_RECLAIM        __GFP_WAIT
/* No watermark at all: for those who free memory by allocating some (reclaim itself). */
#define __GFP_MEMALLOC   ((gfp_t)0x100000u)
#define __GFP_NOMEMALLOC ((gfp_t)0x200000u)
/* Zeroing is the caller's business although __GFP_ZERO is set: the frame's zeroed flag tells. */
#define __GFP_SKIP_ZERO  ((gfp_t)0x400000u)
#define __GFP_BITS_SHIFT 23

#define GFP_ATOMIC   (__GFP_HIGH | __GFP_ATOMIC | __GFP_KSWAPD_RECLAIM)
#define GFP_NOWAIT   (__GFP_KSWAPD_RECLAIM | __GFP_NOWARN)
#define GFP_NOIO     (__GFP_RECLAIM)
#define GFP_NOFS     (__GFP_RECLAIM | __GFP_IO)
#define GFP_KERNEL   (__GFP_RECLAIM | __GFP_IO | __GFP_FS)
#define GFP_USER     GFP_KERNEL
#define GFP_HIGHUSER (GFP_USER | __GFP_HIGHMEM)
/* Guest frames: any zone, can be moved. */
#define GFP_HIGHUSER_MOVABLE (GFP_HIGHUSER | __GFP_MOVABLE)
#define GFP_DMA              __GFP_DMA
#define GFP_DMA32            __GFP_DMA32

/*
 * The highest zone an allocation may use; lower ones serve as fallback. As in the kernel,
 * __GFP_MOVABLE alone says nothing about zones, and with __GFP_HIGHMEM it allows ZONE_MOVABLE.
 * Contradictory combinations, which the kernel forbids, get the lowest zone named.
 */
static inline enum zone_type gfp_zone(gfp_t gfp)
{
	/* Four bits per combination of the four zone bits, so that it is one shift. */
	const uint64_t table = (uint64_t)ZONE_NORMAL << 0 | (uint64_t)ZONE_DMA << 4 |
			       (uint64_t)ZONE_HIGHMEM << 8 | (uint64_t)ZONE_DMA << 12 |
			       (uint64_t)ZONE_DMA32 << 16 | (uint64_t)ZONE_DMA << 20 |
			       (uint64_t)ZONE_DMA32 << 24 | (uint64_t)ZONE_DMA << 28 |
			       (uint64_t)ZONE_NORMAL << 32 | (uint64_t)ZONE_DMA << 36 |
			       (uint64_t)ZONE_MOVABLE << 40 | (uint64_t)ZONE_DMA << 44 |
			       (uint64_t)ZONE_DMA32 << 48 | (uint64_t)ZONE_DMA << 52 |
			       (uint64_t)ZONE_DMA32 << 56 | (uint64_t)ZONE_DMA << 60;

	return (enum zone_type)(table >> ((gfp & GFP_ZONEMASK) * 4) & 0xf);
}

static inline enum migratetype gfpflags_to_migratetype(gfp_t gfp)
{
	if (gfp & __GFP_MOVABLE)
		return MIGRATE_MOVABLE;
	return gfp & __GFP_RECLAIMABLE ? MIGRATE_RECLAIMABLE : MIGRATE_UNMOVABLE;
}

static inline bool gfpflags_allow_blocking(gfp_t gfp)
{
	return (gfp & __GFP_DIRECT_RECLAIM) != 0;
}

#endif
