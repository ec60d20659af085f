/* SPDX-License-Identifier: MIT */
/*
 * A guest that stops short of its target, each time for the reason that it is told on its serial
 * port, for tests of how that is seen from outside:
 *
 *   m  starts its virtio-mem driver, which plugs what is requested and unplugs nothing
 *   u  which unplugs, too
 *   b  starts its balloon driver, which looks at its target and gives nothing up
 *   g  which does give up and take back
 *   p  says in its statistics that it has plenty of memory available, as it does at first
 *   o  says that it has none
 *   s  answers nothing and looks at nothing but the port, until
 *   w
 *   q  ends
 */
#include "balloon.h"
#include "virtio_mem.h"

#include <linux/virtio_ids.h>

const char guest_name[] = "stubborn";

#define FIRST  (LAYOUT_KERNEL + 4 * FRAME_SIZE) /* from here on frames go into the balloon */
#define PLENTY (1ull << 30)
#define LOOK   30000000ull /* cycles from one look to the next: some 10 ms */

#define UART_LSR    5
#define UART_LSR_DR 0x01

static struct balloon balloon;
static struct vq statistics;
static struct virtio_mem mem;

static bool has_balloon, has_mem;
static bool gives, unplugs, silent;

/* What the statistics buffer holds (virtio 1.2, 5.5.6.4). */
static struct {
	uint16_t tag;
	uint64_t value;
} __attribute__((packed)) available = { VIRTIO_BALLOON_S_AVAIL, PLENTY };

static void offer_statistics(void)
{
	statistics.desc[0] = (struct vring_desc){ .addr = (uint64_t)(uintptr_t)&available,
						  .len = sizeof(available) };
	vq_offer(&statistics, 0);
}

static void start_balloon(void)
{
	virtio_find(&balloon.dev, VIRTIO_ID_BALLOON);
	virtio_reset(&balloon.dev);
	virtio_negotiate(&balloon.dev, 1ull << VIRTIO_F_VERSION_1 |
					       1ull << VIRTIO_BALLOON_F_MUST_TELL_HOST |
					       1ull << VIRTIO_BALLOON_F_STATS_VQ);
	vq_setup(&balloon.dev, &balloon.inflate, 0);
	vq_setup(&balloon.dev, &balloon.deflate, 1);
	vq_setup(&balloon.dev, &statistics, 2);
	virtio_driver_ok(&balloon.dev);
	offer_statistics();
	has_balloon = true;
}

/* A returned buffer is a question. */
static void follow_statistics(void)
{
	if (statistics.used.idx == statistics.last_used)
		return;
	statistics.last_used++;
	offer_statistics();
}

/* A block per look. */
static void follow_mem(void)
{
	uint64_t want = mem_requested(&mem), have = mem_plugged(&mem);

	if (have < want)
		mem_plug(&mem, have / mem.block_size, 1);
	else if (have > want && unplugs)
		mem_unplug(&mem, have / mem.block_size - 1, 1);
}

static void obey(char letter)
{
	switch (letter) {
	case 'm':
		mem_start(&mem);
		has_mem = true;
		break;
	case 'u':
		unplugs = true;
		break;
	case 'b':
		start_balloon();
		break;
	case 'g':
		gives = true;
		break;
	case 'p':
		available.value = PLENTY;
		break;
	case 'o':
		available.value = 0;
		break;
	case 's':
		silent = true;
		break;
	case 'w':
		silent = false;
		break;
	default:
		return;
	}
	print("stubborn: %s\n", (const char[]){ letter, '\0' });
}

void guest_main(void)
{
	char letter = '\0';

	print("stubborn: up\n");
	while (letter != 'q') {
		uint64_t start = rdtsc();

		letter = '\0';
		if (inb(LAYOUT_PORT_SERIAL + UART_LSR) & UART_LSR_DR) {
			letter = (char)inb(LAYOUT_PORT_SERIAL);
			obey(letter);
		}
		if (has_balloon && !silent) {
			follow_statistics();
			if (gives)
				balloon_follow(&balloon, FIRST, ram_ranges[nr_ram_ranges - 1].end);
		}
		if (has_mem && !silent)
			follow_mem();
		while (rdtsc() - start < LOOK)
			cpu_relax();
	}
}
