/* SPDX-License-Identifier: MIT */
/*
 * A driver that keeps the rules of virtio-mem: plugs what is requested, gives parts of it up and
 * takes them back. A block that was plugged reads zero, whatever was in it before; blocks beside
 * one that goes stay as they are; a driver that starts anew finds its blocks, a system that starts
 * anew finds none.
 */
#include "virtio_mem.h"

const char guest_name[] = "virtio-mem";

/* RAM keeps its content over a reset: the second boot knows itself by this. */
#define MARK_ADDR (LAYOUT_KERNEL + 4 * FRAME_SIZE)
#define MARK      0x706c756767656421ull

#define SRAT_ENTRIES       48
#define SRAT_MEMORY        1
#define SRAT_HOT_PLUGGABLE 0x3 /* enabled and hot-pluggable */

/* A page in 16 is enough, and two words of it: the first and the last. */
#define PAGE_STEP 16
#define LAST      511

static struct virtio_mem mem;
static uint64_t nr_blocks; /* what is requested */

static volatile uint64_t *page_words(uint64_t block, uint64_t page)
{
	return (volatile uint64_t *)(uintptr_t)(mem_block(&mem, block) + page * PAGE_SIZE);
}

static uint64_t pattern(volatile uint64_t *word, unsigned int round)
{
	return ((uint64_t)(uintptr_t)word + round) * 0x9e3779b97f4a7c15ull + 1;
}

static void fill(uint64_t block, unsigned int round)
{
	for (uint64_t page = 0; page < mem.block_size / PAGE_SIZE; page += PAGE_STEP) {
		volatile uint64_t *word = page_words(block, page);

		word[0] = pattern(word, round);
		word[LAST] = ~pattern(word, round);
	}
}

static void check(const char *when, uint64_t block, unsigned int round)
{
	for (uint64_t page = 0; page < mem.block_size / PAGE_SIZE; page += PAGE_STEP) {
		volatile uint64_t *word = page_words(block, page);

		if (word[0] != pattern(word, round) || word[LAST] != ~pattern(word, round))
			guest_fail("%s: block %lu page %lu reads 0x%lx, not 0x%lx", when, block,
				   page, word[0], pattern(word, round));
	}
}

static void check_zero(const char *when, uint64_t block)
{
	for (uint64_t page = 0; page < mem.block_size / PAGE_SIZE; page += PAGE_STEP) {
		volatile uint64_t *word = page_words(block, page);

		if (word[0] || word[LAST])
			guest_fail("%s: block %lu page %lu reads 0x%lx 0x%lx, not zero", when,
				   block, page, word[0], word[LAST]);
	}
}

static void expect_plugged(const char *when, uint64_t blocks)
{
	uint64_t plugged = mem_plugged(&mem);

	if (plugged != blocks * mem.block_size)
		guest_fail("%s: the device counts 0x%lx bytes plugged, not %lu blocks", when,
			   plugged, blocks);
}

static void expect_state(const char *when, uint64_t block, uint64_t nr, unsigned int expected)
{
	unsigned int state = mem_state(&mem, block, (uint16_t)nr);

	if (state != expected)
		guest_fail("%s: the state of blocks %lu+%lu is %u, not %u", when, block, nr, state,
			   expected);
}

/* The SRAT must tell the range, or a system that sorts memory into nodes at boot knows nothing of
 * it. */
static void check_srat(void)
{
	const uint8_t *srat = acpi_find("SRAT");
	uint32_t length, node, flags;
	uint64_t base, size;

	if (!srat)
		guest_fail("no SRAT");
	memcpy(&length, srat + 4, sizeof(length));
	for (uint32_t at = SRAT_ENTRIES; at + 2 <= length && srat[at + 1] >= 2;
	     at += srat[at + 1]) {
		if (srat[at] != SRAT_MEMORY)
			continue;
		memcpy(&node, srat + at + 2, sizeof(node));
		memcpy(&base, srat + at + 8, sizeof(base));
		memcpy(&size, srat + at + 16, sizeof(size));
		memcpy(&flags, srat + at + 28, sizeof(flags));
		if (base <= mem.addr && mem.addr + mem.region_size <= base + size &&
		    node == mem.node && (flags & SRAT_HOT_PLUGGABLE) == SRAT_HOT_PLUGGABLE)
			return;
	}
	guest_fail("the SRAT has no hot-pluggable range 0x%lx+0x%lx of node %u", mem.addr,
		   mem.region_size, mem.node);
}

static void check_config(void)
{
	uint64_t block = mem.block_size, end = mem.addr + mem.region_size;
	uint64_t requested = mem_requested(&mem), usable = mem_usable(&mem);

	if (block < FRAME_SIZE || block & (block - 1) || mem.addr % block ||
	    mem.region_size % block || requested % block || end <= mem.addr)
		guest_fail("region 0x%lx+0x%lx, requested 0x%lx: not blocks of 0x%lx", mem.addr,
			   mem.region_size, requested, block);
	if (requested > usable || usable > mem.region_size)
		guest_fail("requested 0x%lx, usable 0x%lx of 0x%lx", requested, usable,
			   mem.region_size);
	for (unsigned int i = 0; i < nr_ram_ranges; i++)
		if (mem.addr < ram_ranges[i].end && ram_ranges[i].start < end)
			guest_fail("the region 0x%lx+0x%lx lies over RAM in e820", mem.addr,
				   mem.region_size);
	nr_blocks = requested / block;
	if (nr_blocks < 8 || nr_blocks > UINT16_MAX)
		guest_fail("%lu blocks are requested; this test needs 8 to 65535", nr_blocks);
}

/* One alone, a few, then the rest: a plug of one block must not need its neighbours. */
static void plug_requested(void)
{
	expect_state("at first", 0, nr_blocks, VIRTIO_MEM_STATE_UNPLUGGED);
	mem_plug(&mem, nr_blocks - 1, 1);
	expect_plugged("one block", 1);
	expect_state("one block", 0, nr_blocks, VIRTIO_MEM_STATE_MIXED);
	expect_state("one block", nr_blocks - 1, 1, VIRTIO_MEM_STATE_PLUGGED);
	check_zero("one block", nr_blocks - 1);
	mem_plug(&mem, 0, 3);
	expect_plugged("four blocks", 4);
	mem_plug(&mem, 3, (uint16_t)(nr_blocks - 4));
	expect_plugged("all blocks", nr_blocks);
	expect_state("all blocks", 0, nr_blocks, VIRTIO_MEM_STATE_PLUGGED);
	for (uint64_t i = 0; i < nr_blocks; i++) {
		check_zero("new", i);
		fill(i, 1);
	}
	for (uint64_t i = 0; i < nr_blocks; i++)
		check("filled", i, 1);
}

/* Each second block, one by one, and back. */
static void every_second_block(void)
{
	for (uint64_t i = 1; i < nr_blocks; i += 2)
		mem_unplug(&mem, i, 1);
	expect_plugged("half", nr_blocks - nr_blocks / 2);
	expect_state("half", 0, nr_blocks, VIRTIO_MEM_STATE_MIXED);
	expect_state("half", 2, 1, VIRTIO_MEM_STATE_PLUGGED);
	expect_state("half", 3, 1, VIRTIO_MEM_STATE_UNPLUGGED);
	for (uint64_t i = 0; i < nr_blocks; i += 2)
		check("beside unplugged ones", i, 1);
	for (uint64_t i = 1; i < nr_blocks; i += 2)
		mem_plug(&mem, i, 1);
	expect_plugged("half again", nr_blocks);
	expect_state("half again", 0, nr_blocks, VIRTIO_MEM_STATE_PLUGGED);
	for (uint64_t i = 0; i < nr_blocks; i++) {
		if (i % 2)
			check_zero("plugged again", i);
		else
			check("beside plugged ones", i, 1);
		fill(i, 2);
	}
}

/* The upper half in one request: whole slots of the host's go and come. */
static void upper_half(void)
{
	uint64_t half = nr_blocks / 2;

	mem_unplug(&mem, half, (uint16_t)(nr_blocks - half));
	expect_plugged("lower half", half);
	expect_state("lower half", 0, half, VIRTIO_MEM_STATE_PLUGGED);
	expect_state("lower half", half, nr_blocks - half, VIRTIO_MEM_STATE_UNPLUGGED);
	for (uint64_t i = 0; i < half; i++)
		check("lower half", i, 2);
	mem_plug(&mem, half, (uint16_t)(nr_blocks - half));
	expect_plugged("upper half again", nr_blocks);
	for (uint64_t i = 0; i < nr_blocks; i++) {
		if (i < half)
			check("upper half again", i, 2);
		else
			check_zero("upper half again", i);
		fill(i, 3);
	}
}

static void unplug_all(void)
{
	mem_unplug_all(&mem);
	expect_plugged("unplug all", 0);
	expect_state("unplug all", 0, nr_blocks, VIRTIO_MEM_STATE_UNPLUGGED);
	mem_unplug_all(&mem); /* of nothing */
	mem_plug(&mem, 0, (uint16_t)nr_blocks);
	expect_plugged("all after unplug all", nr_blocks);
	for (uint64_t i = 0; i < nr_blocks; i++) {
		check_zero("all after unplug all", i);
		fill(i, 4);
	}
}

/* A device reset leaves plugged memory alone (virtio 1.2, 5.15.5.2). */
static void driver_restart(void)
{
	mem_start(&mem);
	expect_plugged("driver started anew", nr_blocks);
	expect_state("driver started anew", 0, nr_blocks, VIRTIO_MEM_STATE_PLUGGED);
	for (uint64_t i = 0; i < nr_blocks; i++)
		check("driver started anew", i, 4);
}

void guest_main(void)
{
	volatile uint64_t *mark = (volatile uint64_t *)(uintptr_t)MARK_ADDR;
	bool second = mark[0] == MARK && mark[1] == ~MARK;

	mem_start(&mem);
	check_config();
	check_srat();
	print("virtio-mem: region 0x%lx+0x%lx, %lu blocks of 0x%lx requested, boot %u\n", mem.addr,
	      mem.region_size, nr_blocks, mem.block_size, second ? 2u : 1u);
	expect_plugged("boot", 0);
	plug_requested();
	every_second_block();
	upper_half();
	unplug_all();
	driver_restart();
	if (virtio_status(&mem.dev) & VIRTIO_CONFIG_S_NEEDS_RESET)
		guest_fail("the device wants a reset after correct use");
	if (!second) {
		mark[0] = MARK;
		mark[1] = ~MARK;
		guest_reset(); /* with everything plugged */
	}
}
