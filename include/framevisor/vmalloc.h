/* SPDX-License-Identifier: MIT */
/*
 * Large memory from single frames: scattered in the pool, contiguous in address. The frames of an
 * area are mapped one after the other, from their nodes' files, into a reserved window of the
 * address space; between two areas one frame of address space stays inaccessible, so that running
 * off an area's end faults. Sizes are rounded up to frames: for small memory use kmalloc().
 *
 * All calls are thread safe except set-up and end. Making and freeing an area takes about 5 us, and
 * 0.8 us more for each run of consecutive frames beyond the first; each run counts as one mapping
 * against vm.max_map_count.
 */
#ifndef FRAMEVISOR_VMALLOC_H
#define FRAMEVISOR_VMALLOC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "framevisor/gfp.h"
#include "framevisor/page_alloc.h"

struct vmalloc_config {
	/* Per node: the file that holds its frames, frame idx at offset idx * FRAME_SIZE
	 * (backing_fd()); -1: frames of this node are not used. Stays the caller's, open until
	 * mm_vmalloc_exit(). */
	int fd[MAX_NUMNODES];
	uint64_t window_frames; /* address space; 0: twice the pool and 1024 frames */
};

/*
 * Gives an instance its window. Returns 0, -EBUSY (has one), -ENODEV (metadata-only pool, or no
 * node with a file), -ENOMEM (address space, or memory for the state, which is kmalloc'ed).
 */
int mm_vmalloc_init(struct mm *mm, const struct vmalloc_config *config);
/* Frees all areas, reporting those still there, and the window. Returns how many areas there were.
 * Before kmem_cache_exit(). No other call may be in progress. */
uint64_t mm_vmalloc_exit(struct mm *mm);

/*
 * size bytes of frames from any zone, GFP_KERNEL. NULL: size 0, no frames, no room in the window,
 * or no window (metadata-only pools never have one). Nothing is left behind on failure.
 */
void *mm_vmalloc(struct mm *mm, size_t size);
void *mm_vzalloc(struct mm *mm, size_t size);
/* With other flags, for example without __GFP_DIRECT_RECLAIM; __GFP_THISNODE with a node. */
void *mm_vmalloc_node(struct mm *mm, size_t size, gfp_t gfp, int nid);
/* addr is what mm_vmalloc() returned, else it is reported and nothing is done. NULL is ignored. */
void mm_vfree(struct mm *mm, const void *addr);

/* Whether addr lies in the window at all. */
bool mm_is_vmalloc_addr(struct mm *mm, const void *addr);
/* The frame at addr, or NULL when there is none (gap, freed, outside). */
struct page *mm_vmalloc_to_page(struct mm *mm, const void *addr);
/*
 * Copies count bytes from the window at addr, whatever lies there: addresses between areas read as
 * zero. Returns count, or 0 when nothing of the range is in an area. Kernel: vread().
 */
size_t mm_vread(struct mm *mm, void *buf, const void *addr, size_t count);

/* /proc/vmallocinfo: one line per area. Like snprintf: returns the length needed. */
int mm_report_vmallocinfo(struct mm *mm, char *buf, size_t len);

static inline void *vmalloc(size_t size)
{
	return mm_vmalloc(mm_current, size);
}

static inline void *vzalloc(size_t size)
{
	return mm_vzalloc(mm_current, size);
}

static inline void vfree(const void *addr)
{
	mm_vfree(mm_current, addr);
}

static inline bool is_vmalloc_addr(const void *addr)
{
	return mm_is_vmalloc_addr(mm_current, addr);
}

static inline struct page *vmalloc_to_page(const void *addr)
{
	return mm_vmalloc_to_page(mm_current, addr);
}

#endif
