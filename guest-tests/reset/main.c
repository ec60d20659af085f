/* SPDX-License-Identifier: MIT */
/*
 * Reboots once through the FADT's reset register. RAM keeps its content over a reset, so a mark
 * tells the second boot from the first; a byte of CMOS memory counts as well, so that a machine
 * that loses RAM is found out instead of rebooting for ever.
 */
#include "guest.h"

const char guest_name[] = "reset";

#define MARK_ADDR  (LAYOUT_KERNEL + 4 * FRAME_SIZE)
#define MARK       0x6672616d65766973ull
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

void guest_main(void)
{
	volatile uint64_t *mark = (volatile uint64_t *)(uintptr_t)MARK_ADDR;

	if (mark[0] == MARK && mark[1] == ~MARK) {
		print("reset: second boot\n");
		guest_pass();
	}
	if (cmos_read(CMOS_INDEX) == CMOS_MAGIC)
		guest_fail("second boot, but the mark in RAM is gone");
	print("reset: first boot\n");
	mark[0] = MARK;
	mark[1] = ~MARK;
	cmos_write(CMOS_INDEX, CMOS_MAGIC);
	guest_reset();
}
