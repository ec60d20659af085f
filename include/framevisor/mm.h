/* SPDX-License-Identifier: MIT */
/*
 * An instance of the frame allocator: set-up, frames coming and going, settings, numbers,
 * validation. Allocation itself is in page_alloc.h, the structures in mmzone.h and page.h.
 *
 * The allocator has no globals and calls no malloc: the caller asks for the metadata size and
 * provides the memory, so that the same code serves the pool owner, unit tests and simulations of
 * 64 nodes and 16 TiB. Frames are numbered per instance (pfn): node n owns [node_start_pfn, +
 * spanned). A pool may be metadata-only (no memory behind its frames): then page_address() is NULL
 * and nothing is zeroed.
 */
#ifndef FRAMEVISOR_MM_H
#define FRAMEVISOR_MM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "framevisor/frame.h"

struct mm;
struct page;

#define MAX_NUMNODES 64

/* One node as the caller describes it. */
struct mm_node_config {
	uint64_t spanned; /* frames the node may ever have (present later: mm_online_pages) */
	uint64_t movable; /* frames at its end that form ZONE_MOVABLE; 0 for none */
	void *base;       /* permanent mapping of the node's frames, or NULL (metadata-only) */
	/* Host physical frame numbers (address / FRAME_SIZE), for choosing zones. A pool that does
	 * not know and wants no DMA zones says a phys_base beyond the limits. */
	uint64_t phys_base;       /* of the node's first frame; ignored when ... */
	const uint64_t *phys_pfn; /* ... this has one per frame (0: unknown, so NORMAL) or is NULL;
				   * read by mm_online_pages(), for the frames that come */
	uint64_t highmem; /* frames just before the movable ones that base does not map: HIGHMEM */
};

struct mm_config {
	unsigned int nr_nodes;
	unsigned int nr_cpus; /* CPUs with page caches of their own; at least 1 */
	struct mm_node_config node[MAX_NUMNODES];
	uint8_t distance[MAX_NUMNODES][MAX_NUMNODES]; /* as SLIT: 10 local; all 0: 10 and 20 */
	/* Bit n: node n has no CPUs. Of nodes equally far away these come first when another one
	 * overflows: nobody is at home there. */
	uint64_t cpuless;
	/* Zone limits in host physical bytes; 0 takes the kernel's (16 MiB, 4 GiB). */
	uint64_t dma_limit;
	uint64_t dma32_limit;
	uint64_t min_free_kbytes; /* 0: the kernel's square-root rule */
	unsigned int flags;       /* MM_* */
	/* Frames are grouped by mobility in blocks of 2^order; 0: the largest that leaves at least
	 * 128 blocks in the pool, up to 1 GiB. */
	unsigned int pageblock_order;
};

#define MM_DEBUG_POISON 0x1 /* fill on free, check on allocation */
#define MM_PAGE_OWNER   0x2 /* keep each frame's last owners for error reports */
/* Objects (slab.h) also where a frame has 1 GiB: in its first 2 MiB, the rest lies fallow. Only for
 * memory that costs nothing until it is touched. */
#define MM_SLAB_SPARSE 0x4

/* Bytes of metadata that mm_init() will need for this configuration; 0 if the configuration is bad.
 */
size_t mm_metadata_size(const struct mm_config *config);

/*
 * Builds an instance in metadata (zero-filled, 64-byte aligned, mm_metadata_size() bytes, owned by
 * the caller until after mm_destroy()). No frame is present yet. Returns NULL with errno EINVAL.
 * Most of what a large pool's set-up costs is the first touch of this memory: MADV_HUGEPAGE helps.
 */
struct mm *mm_init(const struct mm_config *config, void *metadata, size_t size);
/* Ends the instance's threads. The memory is the caller's again. */
void mm_destroy(struct mm *mm);

/*
 * Brings frames [first, first + nr) of a node (node relative) into the pool: they become free.
 * zeroed says that their content is known to be zero. Watermarks and reserves are set up anew.
 * Returns 0, -EINVAL (outside the span) or -EBUSY (already present). Kernel: online_pages().
 */
int mm_online_pages(struct mm *mm, unsigned int nid, uint64_t first, uint64_t nr, bool zeroed);
/* The same for frames that somebody holds from before this instance: they come as if each had been
 * allocated by itself (movable, one reference), and are freed by their holder. */
int mm_online_used_pages(struct mm *mm, unsigned int nid, uint64_t first, uint64_t nr);

/*
 * Takes frames [first, first + nr) out of the pool again. Those in use are moved elsewhere by their
 * holders first (compaction.h), if they can be; no caller's lock that the migrate callbacks take
 * may be held then. All or nothing: returns 0, -EINVAL (outside the span), or -EBUSY if one of them
 * stays in use or is not present; then all frames are in the pool as before (those that were moved
 * stay where they are now). Frames quarantined by mm_soft_offline_page() go with the others; if
 * their numbers come again, they are new frames. Waits a few milliseconds for holders that refuse.
 * Kernel: offline_pages().
 */
int mm_offline_pages(struct mm *mm, unsigned int nid, uint64_t first, uint64_t nr);

/*
 * For callers whose holders cannot move frames within a callback (other processes, asked by
 * message): from mm_isolate_pages() on nothing is allocated from the pageblocks that lie wholly in
 * the range, and what is freed there stays. The caller then has the frames in use given back in its
 * own time, and calls mm_offline_pages() when they are. Each call that returned 0 is ended by one
 * mm_unisolate_pages() of the same range, also after it was offlined. Meanwhile allocations take
 * the slower way past the lock-free stacks, and free frames in the range count as free in
 * mm_counts() but not in the zone's NR_FREE_PAGES. Returns 0 or -EINVAL (outside the span).
 * Kernel: start_isolate_page_range(), undo_isolate_page_range().
 */
int mm_isolate_pages(struct mm *mm, unsigned int nid, uint64_t first, uint64_t nr);
void mm_unisolate_pages(struct mm *mm, unsigned int nid, uint64_t first, uint64_t nr);
/* Frames of a pageblock: the grain of isolation. A power of two. */
uint64_t mm_pageblock_frames(const struct mm *mm);

/*
 * Takes one frame out of circulation on purpose, for example because the host reports errors on it.
 * A free one is quarantined at once; one in use is moved by its holder first, if it can be (as for
 * mm_offline_pages()). Kernel: soft_offline_page(). Returns
 *   0             quarantined: counted so, never handed out again
 *   -EINPROGRESS  in use and not to be moved now: it is quarantined when its holder frees it. The
 *                 caller makes sure that nobody frees it during the call
 *   -EBUSY        part of a larger block that cannot be moved
 *   -EALREADY     is quarantined, or marked
 *   -EINVAL       not present
 */
int mm_soft_offline_page(struct mm *mm, struct page *page);
/* Takes that back: the frame is free again (dirty), or the mark is gone. Also for frames that were
 * quarantined because of a bad state. Returns 0 or -EINVAL (neither). Kernel: unpoison_memory(). */
int mm_unpoison_page(struct mm *mm, struct page *page);

/* Frame numbers. nid and idx (node relative) identify a frame outside the allocator. */
struct page *mm_page(struct mm *mm, unsigned int nid, uint64_t idx); /* NULL if out of range */
unsigned int mm_page_nid(struct mm *mm, const struct page *page);
uint64_t mm_page_idx(struct mm *mm, const struct page *page);

/* Frames, summed over the instance (nid < 0) or over one node. Exact when no call is in progress.
 */
struct mm_counts {
	uint64_t present;     /* brought in and not taken out */
	uint64_t free;        /* on buddy lists */
	uint64_t cached;      /* in per-CPU caches */
	uint64_t allocated;   /* handed out */
	uint64_t quarantined; /* found in a bad state, never handed out again */
	uint64_t zeroed;      /* of free + cached: content known to be zero */
	uint64_t isolated;    /* of free: not handed out now, see mm_isolate_pages() */
};
void mm_counts(struct mm *mm, int nid, struct mm_counts *counts);

/*
 * Zeroes up to max free frames that are not zero yet, with non-temporal stores. Returns how many.
 * For a background thread; yields the locks between frames.
 */
uint64_t mm_zero_free_pages(struct mm *mm, uint64_t max);

/* Frames that allocations without special rights leave alone, summed (kernel: totalreserve_pages).
 */
uint64_t mm_totalreserve_pages(struct mm *mm);
/* What that will be with nr frames more, movable of them for ZONE_MOVABLE, in whatever other zones
 * they turn out to lie: the most of it. */
uint64_t mm_totalreserve_pages_after(struct mm *mm, uint64_t nr, uint64_t movable);

/*
 * Settings, by their names in /proc/sys/vm: min_free_kbytes, watermark_scale_factor,
 * watermark_boost_factor, extfrag_threshold, compaction_proactiveness, overcommit_memory,
 * overcommit_ratio, overcommit_kbytes, admin_reserve_kbytes, and lowmem_reserve_ratio (index: the
 * zone; 0 for the others). Any time, any thread; a change takes effect at once. Return 0, -ENOENT
 * (no such setting or index) or -EINVAL (out of the kernel's range).
 */
int mm_setting_get(struct mm *mm, const char *name, unsigned int index, uint64_t *value);
int mm_setting_set(struct mm *mm, const char *name, unsigned int index, uint64_t value);

/*
 * Walks everything and checks every counter and every invariant against every other. Writes the
 * first contradiction to buf. Returns 0 or -EUCLEAN. Safe to call at any time, but only a quiet
 * instance gives a meaningful answer about per-CPU caches.
 */
int mm_validate(struct mm *mm, char *buf, size_t len);

/* Reports in the kernel's text formats. Like snprintf: returns the length needed. */
int mm_report_buddyinfo(struct mm *mm, char *buf, size_t len);
int mm_report_zoneinfo(struct mm *mm, char *buf, size_t len);

#endif
