/* SPDX-License-Identifier: MIT */
/* A balloon driver that starts correctly and then does anything: rings, messages, registers. */
#include "tests/fuzz/device_fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define F_VERSION_1 (1ull << VIRTIO_F_VERSION_1)

static void start(struct fuzz *fuzz)
{
	uint8_t choice = (uint8_t)fuzz_take(fuzz, 1);

	driver_start(&fuzz->drv, F_VERSION_1 | (choice & 1), (uint16_t)(1u << (choice >> 1 & 7)));
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

static void poke(struct fuzz *fuzz)
{
	uint32_t offset = (uint32_t)fuzz_take(fuzz, 2);
	uint64_t value = fuzz_take(fuzz, 8);

	memcpy(guest_ptr(&fuzz->drv.th->mem, DRIVER_RINGS + offset, 8), &value, 8);
}

static void step(struct fuzz *fuzz)
{
	uint8_t op = (uint8_t)fuzz_take(fuzz, 1);
	unsigned int queue = op >> 7;
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
	default:
		driver_avail(&fuzz->drv, queue)->flags = op >> 6;
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	fuzz_run(data, size, host_create(false), start, step);
	return 0;
}
