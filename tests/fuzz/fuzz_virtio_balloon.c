/* SPDX-License-Identifier: MIT */
/* A balloon driver that starts correctly and then does anything: rings, messages, registers. */
#include "tests/fuzz/device_fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define F_VERSION_1 (1ull << VIRTIO_F_VERSION_1)

static void start(struct fuzz *fuzz)
{
	uint8_t choice = (uint8_t)fuzz_take(fuzz, 1);

	driver_start(&fuzz->drv, F_VERSION_1 | (choice & 0x3f),
		     (uint16_t)(8u << (fuzz_take(fuzz, 1) & 3)));
}

/* A message of pages in a row, which is what reaches the maps. */
static void send_pages(struct fuzz *fuzz, unsigned int queue)
{
	uint32_t first = (uint32_t)fuzz_take(fuzz, 2) * 64;
	uint32_t nr = (uint32_t)(fuzz_take(fuzz, 1) + 1) * 8;
	uint32_t *pfns = guest_ptr(&fuzz->drv.th->mem, DRIVER_BUFFERS, 8192);

	if (first >= 0x8000)
		first = first - 0x8000 + (uint32_t)(HOST_HIGH_RAM >> GUEST_PAGE_SHIFT);
	for (uint32_t i = 0; i < nr; i++)
		pfns[i] = first + i;
	driver_send(&fuzz->drv, queue, DRIVER_BUFFERS, nr * 4);
}

static void set_desc(struct fuzz *fuzz, unsigned int queue)
{
	struct vring_desc desc = { .addr = fuzz_take(fuzz, 3),
				   .len = (uint32_t)fuzz_take(fuzz, 2),
				   .flags = (uint16_t)(fuzz_take(fuzz, 1) & 7),
				   .next = (uint16_t)fuzz_take(fuzz, 1) };
	uint16_t n = (uint16_t)fuzz_take(fuzz, 1);

	driver_set_desc(&fuzz->drv, queue, n & (fuzz->drv.queues[queue].size - 1), desc);
}

/* A report or hint of one to three buffers, in RAM or beside it. */
static void send_free_pages(struct fuzz *fuzz, unsigned int queue)
{
	unsigned int nr = 1 + (unsigned int)fuzz_take(fuzz, 1) % 3;

	for (unsigned int i = 0; i < nr; i++) {
		struct vring_desc desc = { .addr = fuzz_take(fuzz, 2) << 9,
					   .len = (uint32_t)fuzz_take(fuzz, 2) << 9,
					   .flags = VRING_DESC_F_WRITE,
					   .next = (uint16_t)(i + 1) };

		if (i + 1 < nr)
			desc.flags |= VRING_DESC_F_NEXT;
		driver_set_desc(&fuzz->drv, queue, (uint16_t)i, desc);
	}
	driver_publish(&fuzz->drv, queue, 0);
	driver_kick(&fuzz->drv, queue);
}

/* A command id as the configuration says, or statistics. */
static void send_word(struct fuzz *fuzz, unsigned int queue)
{
	uint32_t id = (uint32_t)host_read(fuzz->drv.th, fuzz->drv.device + 8, 4);
	uint32_t len = (uint32_t)fuzz_take(fuzz, 1);

	if (len & 0x80)
		id = 0;
	memcpy(guest_ptr(&fuzz->drv.th->mem, DRIVER_BUFFERS, 4), &id, 4);
	driver_send(&fuzz->drv, queue, DRIVER_BUFFERS, len & 0x40 ? len & 0x3f : 4);
}

/* What the host may ask for. */
static void host_asks(struct fuzz *fuzz)
{
	struct virtio_balloon *balloon = fuzz->drv.th->set.balloon;
	struct virtio_balloon_guest_stats stats;
	uint8_t what = (uint8_t)fuzz_take(fuzz, 1);

	if (what & 1)
		virtio_balloon_start_hint(balloon, NULL);
	if (what & 2)
		virtio_balloon_stop_hint(balloon);
	if (what & 4)
		virtio_balloon_set_stats_interval(balloon, what >> 4);
	virtio_balloon_guest_stats(balloon, &stats);
	if (stats.valid >> BALLOON_STATS)
		host_bug("a statistic that does not exist");
	for (unsigned int i = 0; i < HOST_FRAMES; i++)
		fuzz->drv.th->untouched[i] = what >> (i % 8) & 1;
}

static void poke(struct fuzz *fuzz)
{
	uint32_t offset = (uint32_t)fuzz_take(fuzz, 2);
	uint64_t value = fuzz_take(fuzz, 8);

	memcpy(guest_ptr(&fuzz->drv.th->mem, DRIVER_RINGS + offset, 8), &value, 8);
}

static void step(struct fuzz *fuzz)
{
	uint8_t op = (uint8_t)fuzz_take(fuzz, 1);
	unsigned int queue = (op >> 4) % DRIVER_QUEUES;
	struct test_host *th = fuzz->drv.th;

	switch (op & 15) {
	case 0:
	case 1:
	case 2:
		send_pages(fuzz, queue);
		break;
	case 3:
		set_desc(fuzz, queue);
		break;
	case 4:
		driver_publish(&fuzz->drv, queue, (uint16_t)fuzz_take(fuzz, 1));
		break;
	case 5:
		driver_kick(&fuzz->drv, queue);
		break;
	case 6:
		poke(fuzz);
		break;
	case 7:
		common_write(&fuzz->drv, (uint32_t)fuzz_take(fuzz, 1) & 63,
			     (uint32_t)fuzz_take(fuzz, 4), 1u << (op >> 4 & 3));
		break;
	case 8:
		host_write(th, fuzz->drv.device + (fuzz_take(fuzz, 1) & 15), fuzz_take(fuzz, 4), 4);
		break;
	case 9:
		host_read(th, fuzz->drv.device + (fuzz_take(fuzz, 1) & 15), 1u << (op >> 4 & 3));
		break;
	case 10:
		th->no_memory = op & 0x80;
		th->release_broken = op & 0x40;
		break;
	case 11:
		virtio_balloon_set_target(th->set.balloon, fuzz_take(fuzz, 4), NULL);
		break;
	case 12:
		start(fuzz);
		break;
	case 13:
		cfg_write(&fuzz->drv, PCI_COMMAND, op >> 4, 2);
		break;
	case 14:
		if (op & 0x80)
			send_word(fuzz, 2 + (op >> 4 & 1));
		else
			send_free_pages(fuzz, 3 + (op >> 4 & 1));
		break;
	default:
		if (op & 0x80)
			host_asks(fuzz);
		driver_avail(&fuzz->drv, queue)->flags = op >> 6;
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	fuzz_run(data, size, 1, start, step);
	return 0;
}
