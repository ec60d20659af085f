/* SPDX-License-Identifier: MIT */
/* Which frames are worth emptying: for large free blocks, and for memory that shall go. */
#ifndef VMM_OWNER_POOL_PICK_H
#define VMM_OWNER_POOL_PICK_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/owner/pool.h"

/* Frames of the blocks that compaction makes: 2^order, but no less than a pageblock, as nothing
 * smaller can be kept from being given out meanwhile. */
uint64_t pool_block_frames(struct pool *pool, unsigned int order);

/* Blocks of that many frames (aligned, of one zone) that are completely free. */
uint64_t pool_free_blocks(const struct pool *pool, uint64_t block);

/*
 * The block that costs least: the fewest frames held, and as many frames free in blocks of its node
 * that are in use anyway. tried (a byte per block of all nodes, in order; blocks_max() of them)
 * leaves out what was tried before. Returns false when there is none. *held: frames to move.
 */
uint64_t pool_blocks_max(const struct pool *pool, uint64_t block);
bool pool_pick_block(const struct pool *pool, uint64_t block, const uint8_t *tried,
		     struct frame_run *run, uint64_t *held, uint64_t *index);

/*
 * Of node nid, pageblocks from the end of ZONE_MOVABLE down, then of the rest, until frames are
 * free in them or may move: all whose holder is not bound to the node (bound() says who is). *runs
 * (to be freed: kfree()) are the pageblocks. Returns how many frames of them would have to move, or
 * -EBUSY when the node does not have that many.
 */
int64_t pool_pick_to_vacate(struct pool *pool, unsigned int nid, uint64_t frames,
			    bool (*bound)(void *opaque, uint32_t id), void *opaque,
			    struct frame_run **runs, unsigned int *nr_runs);

/*
 * Of node nid's ZONE_MOVABLE, pageblocks from its end down, until they have so many frames, and
 * only as many as VMs hold no more than room frames in. *runs (to be freed: kfree()) are the
 * pageblocks. Returns how many frames of them would have to move, or -ENOMEM.
 */
int64_t pool_pick_movable(struct pool *pool, unsigned int nid, uint64_t frames, uint64_t room,
			  struct frame_run **runs, unsigned int *nr_runs);

#endif
