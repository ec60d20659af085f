/* SPDX-License-Identifier: MIT */
/*
 * Swap: a cold frame's content goes to a file, compressed, and its frame to the pool. In the window
 * a swapped frame is a hole.
 *
 * The fault thread never waits for the device: it puts a touched frame on a list and goes on. One
 * thread reads what is on the list (swap_in.c), another one writes (swap_out.c), so a touch does
 * not wait for frames on their way out either.
 */
#include "vmm/memory/swap.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "framevisor/clock.h"
#include "framevisor/log.h"

/* Swapped out when a touch finds the pool empty and nobody has asked for more. */
#define SWAP_PRESSURE_FRAMES 8

uint64_t swap_sum(const void *frame)
{
	const uint64_t *words = frame;
	uint64_t a = 0x9e3779b97f4a7c15, b = 0xc2b2ae3d27d4eb4f;

	/* Two chains, so that the multiplications of one hide those of the other. */
	for (size_t i = 0; i < FRAME_SIZE / sizeof(*words); i += 2) {
		a = (a ^ words[i]) * 0x100000001b3;
		a ^= a >> 29;
		b = (b ^ words[i + 1]) * 0xff51afd7ed558ccd;
		b ^= b >> 31;
	}
	return a ^ (b << 1 | b >> 63);
}

int swap_create(struct vm_memory *mem, const struct vm_memory_config *config, struct error *err)
{
	uint64_t bytes = config->swap_bytes;
	struct swap *swap;
	int ret;

	if (!config->swap_path)
		return 0;
	if (!mem->guest.frame_ops)
		return error_set(err, ENOTSUP,
				 "swap needs a userfaultfd that serves KVM and follows mremap");
	swap = calloc(1, sizeof(*swap));
	mem->swap = swap;
	if (!swap)
		return error_set(err, ENOMEM, "no memory for swap");
	swap->at_random = config->swap_random;
	swap->wanted_head = NO_FRAME;
	swap->wanted_tail = NO_FRAME;
	pthread_cond_init(&swap->wanted, NULL);
	swap->slots = calloc(mem->nr_frames, sizeof(*swap->slots));
	if (!swap->slots)
		return error_set(err, ENOMEM, "no memory for the records of swapped frames");
	if (bytes == 0)
		bytes = frames_to_bytes(mem->nr_frames);
	swap->file = swap_file_open(config->swap_path, bytes, err);
	if (!swap->file)
		return -EINVAL;
	ret = swap_out_create(mem, err);
	if (ret == 0)
		ret = swap_in_start(mem, err);
	if (ret == 0)
		ret = background_start(mem, err);
	return ret;
}

void swap_destroy(struct vm_memory *mem)
{
	struct swap *swap = mem->swap;

	if (!swap)
		return;
	swap_out_destroy(mem);
	swap_file_close(swap->file);
	pthread_cond_destroy(&swap->wanted);
	free(swap->slots);
	free(swap);
	mem->swap = NULL;
}

void swap_touched(struct vm_memory *mem, uint32_t number)
{
	struct guest_frame *frame = &mem->frames[number];
	struct swap *swap = mem->swap;

	/* Not when it comes back from waiting for the pool or the device: it is one touch. */
	if (!(frame->flags & (GUEST_FRAME_WANTED | GUEST_FRAME_STARVED)))
		park_learn(frame);
	/* Being read already: whoever reads it wakes who waits. */
	if (frame->state == FRAME_SWAPPED &&
	    !(frame->flags & (GUEST_FRAME_WANTED | GUEST_FRAME_UNREADABLE))) {
		frame->lru_next = NO_FRAME;
		if (swap->wanted_head == NO_FRAME)
			swap->wanted_head = number;
		else
			mem->frames[swap->wanted_tail].lru_next = number;
		swap->wanted_tail = number;
		pthread_cond_signal(&swap->wanted);
	}
	if ((frame->flags & GUEST_FRAME_UNREADABLE) && (frame->flags & GUEST_FRAME_DEVICE) &&
	    !swap->device_retry_ms) {
		swap->device_retry_ms = now_ms() + SWAP_DEVICE_RETRY_MS;
		pthread_cond_signal(&swap->wanted);
	}
	frame->flags |= GUEST_FRAME_WANTED;
}

/* Takes a frame off the list of those to be read. Lock held. */
static void unlist(struct vm_memory *mem, uint32_t number)
{
	struct swap *swap = mem->swap;
	uint32_t prev = NO_FRAME;

	for (uint32_t n = swap->wanted_head; n != NO_FRAME; prev = n, n = mem->frames[n].lru_next) {
		if (n != number)
			continue;
		if (prev == NO_FRAME)
			swap->wanted_head = mem->frames[n].lru_next;
		else
			mem->frames[prev].lru_next = mem->frames[n].lru_next;
		if (swap->wanted_tail == n)
			swap->wanted_tail = prev;
		return;
	}
}

void swap_free_slot(struct vm_memory *mem, uint32_t number)
{
	struct swap *swap = mem->swap;
	struct swap_slot *slot = &swap->slots[number];

	if (slot->length)
		swap_file_free(swap->file, slot->cluster, slot->length);
	else
		mem->stats.swapped_zero--;
	mem->stats.swapped--;
}

bool swap_give_up(struct vm_memory *mem, uint32_t number)
{
	struct guest_frame *frame = &mem->frames[number];

	if (frame->state == FRAME_SWAPPING_IN) {
		if (!(frame->flags & GUEST_FRAME_ABANDONED))
			mem->stats.swap_dropped++;
		frame->flags |= GUEST_FRAME_ABANDONED;
		return false;
	}
	if (frame->state != FRAME_SWAPPED)
		return frame->state == FRAME_HOLE;
	if (frame->flags & GUEST_FRAME_WANTED) {
		unlist(mem, number);
		fault_wait_for(mem, number); /* it is a hole like any other now */
	}
	swap_free_slot(mem, number);
	mem->stats.swap_dropped++;
	frame->state = FRAME_HOLE;
	frame->flags &= (uint16_t) ~(GUEST_FRAME_WANTED | GUEST_FRAME_UNREADABLE |
				     GUEST_FRAME_WATCHED | GUEST_FRAME_RETRIED);
	return true;
}

/* Whether the file could not be written a moment ago. */
static bool is_stuck(struct swap *swap)
{
	if (!atomic_load(&swap->stuck))
		return false;
	if ((int)(park_clock() - atomic_load(&swap->retry_at)) < 0)
		return true;
	atomic_store(&swap->stuck, false);
	return false;
}

void swap_pressure(struct vm_memory *mem)
{
	struct swap *swap = mem->swap;
	unsigned int none = 0;

	if (!swap || is_stuck(swap))
		return;
	if (atomic_compare_exchange_strong(&swap->to_do, &none, SWAP_PRESSURE_FRAMES))
		background_kick(mem);
}

int vm_memory_swap_out(struct vm_memory *mem, uint64_t nr_frames)
{
	struct swap *swap = mem->swap;

	if (!swap)
		return -ENOTSUP;
	atomic_store(&swap->to_do,
		     nr_frames < mem->nr_frames ? (unsigned int)nr_frames : mem->nr_frames);
	background_kick(mem);
	return 0;
}

void swap_read_again(struct vm_memory *mem, bool for_devices)
{
	for (uint32_t number = 0; number < mem->nr_frames; number++) {
		struct guest_frame *frame = &mem->frames[number];

		if (!(frame->flags & GUEST_FRAME_UNREADABLE) ||
		    (for_devices && !(frame->flags & GUEST_FRAME_DEVICE)))
			continue;
		frame->flags &= (uint16_t) ~(GUEST_FRAME_UNREADABLE | GUEST_FRAME_WANTED |
					     GUEST_FRAME_RETRIED);
		if (for_devices)
			frame->flags |= GUEST_FRAME_RETRIED;
		swap_touched(mem, number);
	}
}

void vm_memory_swap_retry(struct vm_memory *mem)
{
	struct swap *swap = mem->swap;

	if (!swap)
		return;
	atomic_store(&swap->stuck, false);
	pthread_mutex_lock(&mem->lock);
	swap_read_again(mem, false);
	pthread_mutex_unlock(&mem->lock);
	background_kick(mem);
}

void swap_stats(struct vm_memory *mem, struct vm_memory_stats *stats)
{
	if (!mem->swap)
		return;
	stats->swap_used = swap_file_used(mem->swap->file);
	stats->swap_size = swap_file_size(mem->swap->file);
}
