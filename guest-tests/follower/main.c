/* SPDX-License-Identifier: MIT */
/*
 * A guest that does what its host asks until it is told to end: it gives frames up through the
 * balloon and takes them back, plugs and unplugs (plug=1 on the command line: it has a virtio-mem
 * device), and meanwhile counts in every frame it has. A count that is not what was written last is
 * a lost write. Typing q at its console ends it. For tests of the pool under a guest that lives on.
 */
#include "balloon.h"
#include "virtio_mem.h"

const char guest_name[] = "follower";

#define FIRST      (LAYOUT_KERNEL + 4 * FRAME_SIZE)
#define FRAMES_MAX 4096u
#define PAGE_STEP  16u
/* Frames between two looks at what the host wants. */
#define LOOK_STEP 8u

#define UART_LSR    5
#define UART_LSR_DR 0x01

/* The last count written to a frame or block; 0: it was never written, or given up since, so that
 * it reads zero. */
static uint64_t ram_count[FRAMES_MAX], block_count[FRAMES_MAX];
static uint64_t nr_ram, nr_blocks; /* that we have: the first ones */
static uint64_t all_ram;
static uint64_t passes;

static struct balloon balloon;
static struct virtio_mem mem;
static bool plug;

static volatile struct virtio_balloon_config *balloon_config(void)
{
	return (volatile struct virtio_balloon_config *)balloon.dev.device;
}

static void count_in(uint64_t address, uint64_t size, uint64_t *count)
{
	for (uint64_t offset = 0; offset < size; offset += PAGE_STEP * PAGE_SIZE) {
		volatile uint64_t *word = (volatile uint64_t *)(uintptr_t)(address + offset);
		uint64_t expected = *count ? *count ^ (address + offset) : 0;

		if (word[0] != expected || word[511] != expected)
			guest_fail("0x%lx reads 0x%lx and 0x%lx, not 0x%lx, in pass %lu",
				   address + offset, word[0], word[511], expected, passes);
		word[0] = (*count + 1) ^ (address + offset);
		word[511] = (*count + 1) ^ (address + offset);
	}
	(*count)++;
}

static void tell(void)
{
	print("follower: %lu frames, %lu blocks\n", nr_ram, nr_blocks);
}

/* The balloon's frames are the last ones. */
static void follow_balloon(void)
{
	uint64_t wanted = balloon_config()->num_pages / PAGES_PER_FRAME;
	uint64_t target = wanted < all_ram ? all_ram - wanted : 0;

	if (nr_ram == target)
		return;
	while (nr_ram > target) {
		nr_ram--;
		balloon_frame(&balloon.inflate, FIRST + nr_ram * FRAME_SIZE);
		ram_count[nr_ram] = 0;
	}
	while (nr_ram < target) {
		balloon_frame(&balloon.deflate, FIRST + nr_ram * FRAME_SIZE);
		nr_ram++;
	}
	balloon_config()->actual = (uint32_t)((all_ram - nr_ram) * PAGES_PER_FRAME);
	tell();
}

static void follow_mem(void)
{
	uint64_t target = mem_requested(&mem) / mem.block_size;

	if (nr_blocks == target || target > FRAMES_MAX)
		return;
	while (nr_blocks > target) {
		nr_blocks--;
		mem_unplug(&mem, nr_blocks, 1);
		block_count[nr_blocks] = 0;
	}
	while (nr_blocks < target) {
		mem_plug(&mem, nr_blocks, 1);
		nr_blocks++;
	}
	tell();
}

static bool told_to_end(void)
{
	return (inb(LAYOUT_PORT_SERIAL + UART_LSR) & UART_LSR_DR) && inb(LAYOUT_PORT_SERIAL) == 'q';
}

static bool look(void)
{
	follow_balloon();
	if (plug)
		follow_mem();
	return !told_to_end();
}

static bool pass(void)
{
	for (uint64_t i = 0; i < nr_ram; i++) {
		count_in(FIRST + i * FRAME_SIZE, FRAME_SIZE, &ram_count[i]);
		if (i % LOOK_STEP == 0 && !look())
			return false;
	}
	for (uint64_t i = 0; i < nr_blocks; i++) {
		count_in(mem_block(&mem, i), mem.block_size, &block_count[i]);
		if (i % LOOK_STEP == 0 && !look())
			return false;
	}
	passes++;
	return look();
}

void guest_main(void)
{
	for (unsigned int i = 0; i < nr_ram_ranges; i++)
		if (ram_ranges[i].start <= FIRST && ram_ranges[i].end > FIRST)
			all_ram = (ram_ranges[i].end - FIRST) / FRAME_SIZE;
	if (all_ram == 0 || all_ram > FRAMES_MAX)
		guest_fail("RAM of %lu frames is not what it can use", all_ram);
	nr_ram = all_ram;
	balloon_start(&balloon);
	plug = cmdline_number("plug", 0) != 0;
	if (plug)
		mem_start(&mem);
	tell();
	while (pass())
		;
	if (virtio_status(&balloon.dev) & VIRTIO_CONFIG_S_NEEDS_RESET)
		guest_fail("the balloon wants a reset after correct use");
	print("follower: %lu passes\n", passes);
}
