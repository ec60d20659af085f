/* SPDX-License-Identifier: MIT */
/*
 * A guest that uses memory beyond what it may have: all of its RAM and its one plugged block, and
 * then blocks beside it that it does not have, until a touch is not answered. The machine is paused
 * there. When it is let go on, and somebody types something, the guest gives up a frame of its RAM,
 * and the touch is answered with it. Two CPUs: one that waits and one that acts.
 */
#include "balloon.h"
#include "virtio_mem.h"

const char guest_name[] = "over-limit";

#define MARK   0x746f6f6d756368ull
#define KEPT   0
#define BEYOND 1
/* A frame of RAM that nothing else is in. */
#define GIVEN (LAYOUT_KERNEL + 8 * FRAME_SIZE)

static struct virtio_mem mem;
static struct balloon balloon;
static volatile uint64_t touched, found;
static volatile uint32_t touching;

static volatile uint64_t *block_word(uint64_t block)
{
	return (volatile uint64_t *)(uintptr_t)mem_block(&mem, block);
}

void ap_start(unsigned int index)
{
	(void)index;
	touching = 1;
	found = *block_word(BEYOND);
	*block_word(BEYOND) = MARK;
	touched = 1;
}

/* Every frame that the guest may have. */
static void use_all(void)
{
	for (unsigned int i = 0; i < nr_ram_ranges; i++)
		for (uint64_t gpa = ram_ranges[i].start & ~(FRAME_SIZE - 1);
		     gpa < ram_ranges[i].end; gpa += FRAME_SIZE)
			(void)*(volatile uint64_t *)(uintptr_t)(gpa + FRAME_SIZE - 8);
	*block_word(KEPT) = MARK;
}

void guest_main(void)
{
	uint8_t ids[AP_MAX];
	unsigned int cpus = acpi_cpus(ids, AP_MAX);
	uint64_t start;

	if (cpus != 2)
		guest_fail("needs 2 CPUs, not %u", cpus);
	mem_start(&mem);
	mem_plug(&mem, KEPT, 1);
	use_all();
	balloon_start(&balloon);
	guest_start_cpus(ids, cpus);
	while (!touching)
		cpu_relax();
	for (start = rdtsc(); rdtsc() - start < PATIENCE / 100;)
		cpu_relax();
	if (touched)
		guest_fail("a frame beyond the limit is there");
	print("over-limit: waiting\n");
	while (!serial_typed())
		cpu_relax();
	if (touched)
		guest_fail("a frame beyond the limit came from nowhere");
	balloon_frame(&balloon.inflate, GIVEN);
	for (start = rdtsc(); !touched && rdtsc() - start < PATIENCE;)
		cpu_relax();
	if (!touched)
		guest_fail("a frame was given up, and the touch is not answered");
	if (found != 0 || *block_word(BEYOND) != MARK || *block_word(KEPT) != MARK)
		guest_fail("the frame that came held 0x%lx", found);
}
