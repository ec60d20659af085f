/* SPDX-License-Identifier: MIT */
/*
 * Gives whole frames up through the balloon and takes them back: they must read zero then and be
 * writable; frames beside them, and the half of a frame that was kept, must be as they were.
 */
#include "balloon.h"

const char guest_name[] = "balloon";

#define FIRST     (LAYOUT_KERNEL + 4 * FRAME_SIZE)
#define NR_FRAMES 9
#define ROUNDS    3

/* What happens to each frame. Runs and single frames, and one of which only a half goes. */
static const char plan[NR_FRAMES + 1] = "KGGGKGKHK";

static struct balloon balloon;

static uint64_t frame_address(unsigned int frame)
{
	return FIRST + frame * FRAME_SIZE;
}

static volatile uint64_t *page_words(unsigned int frame, unsigned int page)
{
	return (volatile uint64_t *)(uintptr_t)(frame_address(frame) + page * PAGE_SIZE);
}

static uint64_t pattern(unsigned int frame, unsigned int page, unsigned int round)
{
	return 0xba11000000000000ull | (uint64_t)round << 32 | frame << 16 | page;
}

static void fill(unsigned int frame, unsigned int first, unsigned int round)
{
	for (unsigned int page = first; page < PAGES_PER_FRAME; page++) {
		page_words(frame, page)[0] = pattern(frame, page, round);
		page_words(frame, page)[511] = ~pattern(frame, page, round);
	}
}

static void check(unsigned int frame, unsigned int first, unsigned int round)
{
	for (unsigned int page = first; page < PAGES_PER_FRAME; page++)
		if (page_words(frame, page)[0] != pattern(frame, page, round) ||
		    page_words(frame, page)[511] != ~pattern(frame, page, round))
			guest_fail("round %u: frame %u page %u reads 0x%lx, not 0x%lx", round,
				   frame, page, page_words(frame, page)[0],
				   pattern(frame, page, round));
}

static void check_zero(unsigned int frame, unsigned int round)
{
	for (unsigned int page = 0; page < PAGES_PER_FRAME; page++)
		if (page_words(frame, page)[0] || page_words(frame, page)[511])
			guest_fail("round %u: frame %u page %u reads 0x%lx after it was given up",
				   round, frame, page, page_words(frame, page)[0]);
}

static volatile struct virtio_balloon_config *config(void)
{
	return (volatile struct virtio_balloon_config *)balloon.dev.device;
}

static void one_round(unsigned int round)
{
	uint32_t pages = 0;

	for (unsigned int i = 0; i < NR_FRAMES; i++)
		fill(i, 0, round);
	for (unsigned int i = 0; i < NR_FRAMES; i++) {
		unsigned int nr = plan[i] == 'G'   ? PAGES_PER_FRAME
				  : plan[i] == 'H' ? PAGES_PER_FRAME / 2
						   : 0;

		balloon_pages(&balloon.inflate, frame_address(i), 0, nr);
		pages += nr;
	}
	config()->actual = pages;
	if (config()->actual != pages)
		guest_fail("actual reads %u after %u was written", config()->actual, pages);
	for (unsigned int i = 0; i < NR_FRAMES; i++)
		if (plan[i] != 'G')
			check(i, plan[i] == 'H' ? PAGES_PER_FRAME / 2 : 0, round);

	for (unsigned int i = 0; i < NR_FRAMES; i++)
		balloon_pages(&balloon.deflate, frame_address(i), 0,
			      plan[i] == 'G'   ? PAGES_PER_FRAME
			      : plan[i] == 'H' ? PAGES_PER_FRAME / 2
					       : 0);
	config()->actual = 0;
	for (unsigned int i = 0; i < NR_FRAMES; i++) {
		if (plan[i] == 'G')
			check_zero(i, round);
		else
			check(i, plan[i] == 'H' ? PAGES_PER_FRAME / 2 : 0, round);
	}
	for (unsigned int i = 0; i < NR_FRAMES; i++) {
		fill(i, 0, round + 100);
		check(i, 0, round + 100);
	}
}

void guest_main(void)
{
	if (ram_ranges[nr_ram_ranges - 1].end < frame_address(NR_FRAMES))
		guest_fail("needs %lu MiB of RAM", frame_address(NR_FRAMES) >> 20);
	balloon_start(&balloon);
	for (unsigned int round = 0; round < ROUNDS; round++)
		one_round(round);
	if (virtio_status(&balloon.dev) & VIRTIO_CONFIG_S_NEEDS_RESET)
		guest_fail("the device wants a reset after correct use");
	print("balloon: %u rounds\n", ROUNDS);
}
