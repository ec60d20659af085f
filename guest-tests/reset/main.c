/* SPDX-License-Identifier: MIT */
/*
 * Reboots by each way there is: the FADT's reset register, the keyboard controller's command, a
 * triple fault. RAM keeps its content over a reset, so a mark tells the boots from each other; a
 * byte of CMOS memory counts as well, so that a machine that loses RAM is found out instead of
 * rebooting for ever.
 */
#include "guest.h"

const char guest_name[] = "reset";

#define MARK_ADDR   (LAYOUT_KERNEL + 4 * FRAME_SIZE)
#define MARK        0x6672616d65766973ull
#define I8042_RESET 0xfe
/* Far more than a reset takes. What is found by it is a machine that has been up for longer. */
#define TSC_STEP_MAX 30000000000ull

#define CMOS_INDEX 0x50 /* not used by the clock */
#define CMOS_MAGIC 0xa5

static uint8_t cmos_read(uint8_t index)
{
	outb(LAYOUT_PORT_RTC, index);
	return inb(LAYOUT_PORT_RTC + 1);
}

static void cmos_write(uint8_t index, uint8_t value)
{
	outb(LAYOUT_PORT_RTC, index);
	outb(LAYOUT_PORT_RTC + 1, value);
}

/* In RAM, over all boots. */
struct mark {
	uint64_t magic, not_magic;
	uint64_t boots;
	uint64_t went_on; /* after an instruction that is the last */
	uint64_t tsc;
};

static _Noreturn void reset_by_keyboard_controller(volatile struct mark *mark)
{
	outb(LAYOUT_PORT_I8042, I8042_RESET);
	mark->went_on = 1;
	for (;;)
		__asm__ volatile("hlt");
}

static _Noreturn void reset_by_triple_fault(volatile struct mark *mark)
{
	static const struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) nothing = { 0, 0 };

	mark->tsc = rdtsc();
	__asm__ volatile("lidt %0; ud2" : : "m"(nothing));
	__builtin_unreachable();
}

/* KVM on AMD forgets the offset of the time stamp counter at a triple fault, which then jumps. */
static void check_tsc(const volatile struct mark *mark)
{
	uint64_t step = rdtsc() - mark->tsc;

	if (step > TSC_STEP_MAX)
		guest_fail("the time stamp counter went on by %lu over a reset", step);
}

void guest_main(void)
{
	volatile struct mark *mark = (volatile struct mark *)(uintptr_t)MARK_ADDR;

	if (mark->magic != MARK || mark->not_magic != ~MARK) {
		if (cmos_read(CMOS_INDEX) == CMOS_MAGIC)
			guest_fail("second boot, but the mark in RAM is gone");
		mark->magic = MARK;
		mark->not_magic = ~MARK;
		mark->boots = 0;
		mark->went_on = 0;
		cmos_write(CMOS_INDEX, CMOS_MAGIC);
	}
	print("reset: boot %lu\n", ++mark->boots);
	if (mark->went_on)
		guest_fail("the CPU went on after it had asked for a reset");
	if (mark->boots == 1)
		guest_reset();
	if (mark->boots == 2)
		reset_by_keyboard_controller(mark);
	if (mark->boots == 3)
		reset_by_triple_fault(mark);
	check_tsc(mark);
	guest_pass();
}
