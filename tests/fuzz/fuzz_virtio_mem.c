/* SPDX-License-Identifier: MIT */
/* A driver of the memory device that starts correctly and then asks for anything, in any shape. */
#include <linux/virtio_mem.h>

#include "tests/fuzz/device_fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define F_VERSION_1    (1ull << VIRTIO_F_VERSION_1)
#define F_INACCESSIBLE (1ull << VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE)
#define ANSWER         (DRIVER_BUFFERS + 0x100)

static void start(struct fuzz *fuzz)
{
	uint8_t choice = (uint8_t)fuzz_take(fuzz, 1);

	virtio_mem_set_requested(fuzz->drv.th->set.mem[0],
				 (choice % (HOST_PLUG_FRAMES + 1)) * FRAME_SIZE, NULL);
	driver_start(&fuzz->drv, F_VERSION_1 | F_INACCESSIBLE | (choice & 1),
		     (uint16_t)(2u << (choice >> 6)));
}

static void post(struct fuzz *fuzz, uint64_t answer)
{
	driver_set_desc(&fuzz->drv, 0, 0,
			(struct vring_desc){ DRIVER_BUFFERS, 24, VRING_DESC_F_NEXT, 1 });
	driver_set_desc(&fuzz->drv, 0, 1, (struct vring_desc){ answer, 10, VRING_DESC_F_WRITE, 0 });
	driver_publish(&fuzz->drv, 0, 0);
	driver_kick(&fuzz->drv, 0);
}

/* Mostly blocks of the region, near its ends too. */
static void request(struct fuzz *fuzz, uint8_t op)
{
	struct virtio_mem_req *req = guest_ptr(&fuzz->drv.th->mem, DRIVER_BUFFERS, 24);
	uint64_t block = fuzz_take(fuzz, 1);

	memset(req, 0, sizeof(*req));
	req->type = op >> 4 & 3;
	req->u.plug.addr = HOST_PLUG + (block - 2) * FRAME_SIZE;
	req->u.plug.nb_blocks = (uint16_t)fuzz_take(fuzz, 1);
	if (op & 0x80)
		req->u.plug.nb_blocks &= 7;
	post(fuzz, ANSWER);
}

/* Every bit of it the fuzzer's, the answer's place too. */
static void wild_request(struct fuzz *fuzz)
{
	uint64_t *words = guest_ptr(&fuzz->drv.th->mem, DRIVER_BUFFERS, 24);

	for (unsigned int i = 0; i < 3; i++)
		words[i] = fuzz_take(fuzz, 8);
	post(fuzz, HOST_PLUG + (fuzz_take(fuzz, 2) << 9));
}

static void set_desc(struct fuzz *fuzz)
{
	struct vring_desc desc = { .addr = fuzz_take(fuzz, 3),
				   .len = (uint32_t)fuzz_take(fuzz, 2),
				   .flags = (uint16_t)(fuzz_take(fuzz, 1) & 7),
				   .next = (uint16_t)fuzz_take(fuzz, 1) };
	uint16_t n = (uint16_t)fuzz_take(fuzz, 1);

	driver_set_desc(&fuzz->drv, 0, n & (fuzz->drv.queues[0].size - 1), desc);
}

static void step(struct fuzz *fuzz)
{
	uint8_t op = (uint8_t)fuzz_take(fuzz, 1);
	struct test_host *th = fuzz->drv.th;

	fuzz_check_mem(fuzz);
	switch (op & 15) {
	case 0:
	case 1:
	case 2:
	case 3:
	case 4:
		request(fuzz, op);
		break;
	case 5:
		wild_request(fuzz);
		break;
	case 6:
		set_desc(fuzz);
		break;
	case 7:
		driver_publish(&fuzz->drv, 0, (uint16_t)fuzz_take(fuzz, 1));
		driver_kick(&fuzz->drv, 0);
		break;
	case 8:
		common_write(&fuzz->drv, (uint32_t)fuzz_take(fuzz, 1) & 63,
			     (uint32_t)fuzz_take(fuzz, 4), 1u << (op >> 4 & 3));
		break;
	case 9:
		host_write(th, fuzz->drv.device + (fuzz_take(fuzz, 1) & 63), fuzz_take(fuzz, 4), 4);
		break;
	case 10:
		host_read(th, fuzz->drv.device + (fuzz_take(fuzz, 1) & 63), 1u << (op >> 4 & 3));
		break;
	case 11:
		th->no_memory = op & 0x80;
		th->release_broken = op & 0x40;
		break;
	case 12:
		virtio_mem_set_requested(th->set.mem[0], fuzz_take(fuzz, 1) * FRAME_SIZE, NULL);
		break;
	case 13:
		start(fuzz);
		break;
	case 14:
		if (op & 0x80)
			virtio_mem_device(th->set.mem[0])
				->ops->reset(virtio_mem_device(th->set.mem[0]));
		break;
	default:
		driver_avail(&fuzz->drv, 0)->flags = op >> 6;
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	fuzz_run(data, size, 2, start, step);
	return 0;
}
