/* SPDX-License-Identifier: MIT */
/*
 * A guest that does what it is told, for tests of who tells it: follows the targets of its balloon
 * and of its first virtio-mem device, switches itself off when its power button is pressed, and
 * obeys letters on its serial port: o (off), r (reset), t (triple fault), e (answers). It runs
 * until then, and says "guest: up" when it is ready.
 */
#include "balloon.h"
#include "virtio_mem.h"

#include <linux/virtio_ids.h>

const char guest_name[] = "obey";

#define FIRST (LAYOUT_KERNEL + 4 * FRAME_SIZE) /* from here on frames go into the balloon */

#define PM1_EN     (LAYOUT_PORT_PM + 2)
#define PM1_PWRBTN 0x0100u

#define UART_LSR    5
#define UART_LSR_DR 0x01

static struct balloon balloon;
static struct virtio_mem mem;
static bool has_mem;

static void triple_fault(void)
{
	const struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) none = { 0, 0 };

	__asm__ volatile("lidt %0; int3" : : "m"(none));
}

static void follow_keyboard(void)
{
	if (!(inb(LAYOUT_PORT_SERIAL + UART_LSR) & UART_LSR_DR))
		return;
	switch (inb(LAYOUT_PORT_SERIAL)) {
	case 'o':
		guest_power_off();
	case 'r':
		guest_reset();
	case 't':
		triple_fault();
		break;
	case 'e':
		print("guest: echo\n");
		break;
	default:
		break;
	}
}

static void follow_button(void)
{
	if (inl(LAYOUT_PORT_PM) & PM1_PWRBTN) {
		print("guest: power button\n");
		guest_power_off();
	}
}

static void follow_mem(void)
{
	uint64_t want = mem_requested(&mem), have = mem_plugged(&mem);

	if (have < want)
		mem_request(&mem, VIRTIO_MEM_REQ_PLUG, mem_block(&mem, have / mem.block_size), 1,
			    NULL);
	else if (have > want)
		mem_unplug(&mem, have / mem.block_size - 1, 1);
}

void guest_main(void)
{
	outw(PM1_EN, PM1_PWRBTN);
	balloon_start(&balloon);
	has_mem = virtio_probe(&mem.dev, VIRTIO_ID_MEM);
	if (has_mem)
		mem_start(&mem);
	print("guest: up\n");
	for (;;) {
		follow_keyboard();
		follow_button();
		balloon_follow(&balloon, FIRST, ram_ranges[nr_ram_ranges - 1].end);
		if (has_mem)
			follow_mem();
	}
}
