/* SPDX-License-Identifier: MIT */
/*
 * Frames outside the permanent mapping (ZONE_HIGHMEM) are mapped on demand, through the file behind
 * the node, into a small window of address space that all threads share. Frames inside it have
 * their address anyway, so these calls work for any frame.
 */
#ifndef FRAMEVISOR_HIGHMEM_H
#define FRAMEVISOR_HIGHMEM_H

#include "framevisor/page_alloc.h"

/*
 * The file behind the frames of node nid: frame idx is at idx * FRAME_SIZE (backing_fd()). It stays
 * the caller's and open until mm_destroy(). Before the first HIGHMEM frame of the node comes.
 * Returns 0, -EINVAL (no such node) or -ENOMEM (no address space).
 */
int mm_set_highmem_backing(struct mm *mm, unsigned int nid, int fd);

/*
 * The frame's address until mm_kunmap(); a second call for the same frame gives the same one. Waits
 * while the window is full of frames in use. NULL: no memory behind it (a metadata-only pool, or no
 * file set), or the host refused to map it. One frame: for blocks, map each.
 */
void *mm_kmap(struct mm *mm, struct page *page);
void mm_kunmap(struct mm *mm, struct page *page);

/* The same for a short time: does not wait, has slots of its own. NULL also when all are taken. */
void *mm_kmap_local(struct mm *mm, struct page *page);
void mm_kunmap_local(struct mm *mm, const void *addr);

static inline void *kmap(struct page *page)
{
	return mm_kmap(mm_current, page);
}

static inline void kunmap(struct page *page)
{
	mm_kunmap(mm_current, page);
}

static inline void *kmap_local_page(struct page *page)
{
	return mm_kmap_local(mm_current, page);
}

static inline void kunmap_local(const void *addr)
{
	mm_kunmap_local(mm_current, addr);
}

#endif
