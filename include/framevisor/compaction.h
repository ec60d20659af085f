/* SPDX-License-Identifier: MIT */
/*
 * Compaction: free memory that lies in single frames becomes large blocks, because frames in use
 * are moved together. Areas of the wanted size in which everything can be moved are emptied, those
 * with the least in them first, and the holes of the fullest ones are filled with it.
 *
 * Who has a frame moves it: the allocator knows neither mappings nor page tables. Two kinds of
 * frames can be moved: those on the LRU lists (mm_lru_add()), and those allocated with
 * __GFP_MOVABLE for which the holder's isolate callback says yes. Not moved are frames with more
 * than one reference, PG_pinned or PG_locked.
 *
 * It runs in allocations of order > 0 with __GFP_DIRECT_RECLAIM and __GFP_IO before they reclaim,
 * in kswapd's thread after an order > 0 was asked for, in the same thread ahead of need (setting
 * compaction_proactiveness), and for mm_compact_node().
 */
#ifndef FRAMEVISOR_COMPACTION_H
#define FRAMEVISOR_COMPACTION_H

#include <stdbool.h>
#include <stdint.h>

#include "framevisor/page_alloc.h"

/* How long the callback may take its time. Kernel: enum migrate_mode. */
enum migrate_mode {
	MIGRATE_ASYNC,      /* refuses (-EAGAIN) rather than wait */
	MIGRATE_SYNC_LIGHT, /* may wait briefly */
	MIGRATE_SYNC,       /* may wait */
};

/*
 * Called without locks, from any thread that allocates and from kswapd's. They may allocate (from
 * the reserves, without reclaim) and free other frames than those given.
 */
struct mm_migrate_ops {
	/*
	 * Moves what is in the block from, and its holder's reference, to the block to, which has
	 * the same order and one reference. 0: the holder has to now, and its state was moved with
	 * mm_migrate_page_state() or in an own way (from is neither mapped nor has a mapping); the
	 * reference to from is the allocator's, who frees it. Negative: nothing has changed
	 * (-EAGAIN: in use just now, -EBUSY: not to be moved).
	 *
	 * Of blocks from an LRU list: until they are on it again, mm_lru_del() is false for from,
	 * and for to after this returned 0.
	 */
	int (*migrate)(void *opaque, struct page *from, struct page *to, enum migrate_mode mode);
	/*
	 * For movable blocks not on an LRU list; NULL: those stay. page was the head of one a
	 * moment ago and may be free by now, or somebody else's: the holder looks it up in its own
	 * tables. True: it is the holder's, who will neither free nor change it until migrate()
	 * or putback().
	 */
	bool (*isolate)(void *opaque, struct page *page);
	/* It was not moved. Not called after a migrate() that returned 0. */
	void (*putback)(void *opaque, struct page *page);
};
/* ops stay the caller's. NULL: nothing is moved. isolate and putback come together: else -EINVAL.
 */
int mm_set_migrate_ops(struct mm *mm, const struct mm_migrate_ops *ops, void *opaque);

/* Owner, index, private, mapping and mapcount go from one frame to the other. By migrate(). */
void mm_migrate_page_state(struct page *from, struct page *to);

/*
 * Compacts all of node nid (-1: all nodes), whatever the settings. Returns the frames moved; 0
 * within a callback of reclaim, migration or OOM.
 * Kernel: writing to /proc/sys/vm/compact_memory.
 */
uint64_t mm_compact_node(struct mm *mm, int nid);

#endif
