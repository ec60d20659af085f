/* SPDX-License-Identifier: MIT */
/*
 * The order of a guest's frames by their last known use: an active and an inactive list, linked by
 * frame numbers inside the records.
 *
 * A frame that is bound comes to the head of the active list. It moves to the head of the inactive
 * one when it is parked, and back when it is touched then. So the inactive list is in exact order
 * of the last use (as good as the parking is), and its tail is idle the longest. Who goes out is
 * chosen among those near it (swap_out.c).
 */
#include "vmm/memory/internal.h"

void frame_lru_init(struct vm_memory *mem)
{
	for (unsigned int i = 0; i < NR_LISTS; i++)
		mem->lru[i] = (struct frame_lru){ .head = NO_FRAME, .tail = NO_FRAME };
}

void frame_lru_add(struct vm_memory *mem, uint32_t number, enum frame_list list)
{
	struct guest_frame *frame = &mem->frames[number];
	struct frame_lru *lru = &mem->lru[list];

	frame->lru_prev = NO_FRAME;
	frame->lru_next = lru->head;
	if (lru->head == NO_FRAME)
		lru->tail = number;
	else
		mem->frames[lru->head].lru_prev = number;
	lru->head = number;
	lru->nr++;
}

void frame_lru_del(struct vm_memory *mem, uint32_t number)
{
	struct guest_frame *frame = &mem->frames[number];
	struct frame_lru *lru =
		&mem->lru[frame->state == FRAME_PARKED ? LIST_INACTIVE : LIST_ACTIVE];

	if (frame->lru_prev == NO_FRAME)
		lru->head = frame->lru_next;
	else
		mem->frames[frame->lru_prev].lru_next = frame->lru_next;
	if (frame->lru_next == NO_FRAME)
		lru->tail = frame->lru_prev;
	else
		mem->frames[frame->lru_next].lru_prev = frame->lru_prev;
	lru->nr--;
}
