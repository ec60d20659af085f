/* SPDX-License-Identifier: MIT */
/*
 * The virtqueue library alone: the input is where the rings are, then pieces of guest memory, each
 * followed by a round of the device. Chains that are handed out must hold what the header promises.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "framevisor/virtio.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define WINDOW 0x4000 /* rings and buffers lie here, so that they meet */

struct input {
	const uint8_t *data;
	size_t left;
};

static uint64_t take(struct input *in, unsigned int bytes)
{
	uint64_t value = 0;

	for (unsigned int i = 0; i < bytes && in->left; i++, in->left--)
		value |= (uint64_t)*in->data++ << (8 * i);
	return value;
}

/* Two regions with a hole between them; kept over all inputs. */
static struct guest_memory *memory(void)
{
	static struct guest_memory mem;
	uint8_t *map, *base;

	if (mem.nr_regions)
		return &mem;
	map = mmap(NULL, 3 * FRAME_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		   0);
	if (map == MAP_FAILED)
		abort();
	base = (uint8_t *)(((uintptr_t)map + FRAME_SIZE - 1) & FRAME_MASK);
	guest_memory_add_region(&mem, 0, FRAME_SIZE, base);
	guest_memory_add_region(&mem, 2 * FRAME_SIZE, FRAME_SIZE, base + FRAME_SIZE);
	return &mem;
}

static void check_chain(const struct guest_memory *mem, const struct virtqueue *vq,
			const struct virtq_chain *chain)
{
	unsigned int nr = chain->nr_readable + chain->nr_writable;
	uint64_t readable = 0, writable = 0;

	if (chain->head >= vq->size || !nr || nr > vq->size)
		abort();
	for (unsigned int i = 0; i < nr; i++) {
		if (!guest_ptr(mem, chain->buffers[i].addr, chain->buffers[i].len))
			abort();
		*(i < chain->nr_readable ? &readable : &writable) += chain->buffers[i].len;
	}
	if (readable != chain->readable_len || writable != chain->writable_len)
		abort();
}

static void device_round(struct virtqueue *vq, uint8_t how)
{
	static struct virtq_chain chain;
	static uint8_t bytes[8192];
	int ret;

	for (unsigned int n = 0; n < 300; n++) {
		bool more = virtqueue_has_chains(vq);
		bool was_broken = vq->error;
		size_t copied;

		ret = virtqueue_get_chain(vq, &chain);
		if (!was_broken && (ret == 0) == more)
			abort();
		if (ret <= 0)
			break;
		check_chain(vq->mem, vq, &chain);
		copied = virtq_chain_read(vq->mem, &chain, how, bytes, sizeof(bytes));
		if (copied > chain.readable_len)
			abort();
		copied = virtq_chain_write(vq->mem, &chain, how, bytes, how);
		virtqueue_push_used(vq, chain.head, (uint32_t)copied);
	}
	if (ret < 0 && !vq->error)
		abort();
	virtqueue_take_notify(vq);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct guest_memory *mem = memory();
	struct input in = { .data = data, .left = size };
	uint8_t shape = (uint8_t)take(&in, 1);
	struct virtqueue vq;

	memset(guest_ptr(mem, 0, WINDOW), 0, WINDOW);
	virtqueue_init(&vq, mem, VIRTQ_SIZE_MAX);
	vq.size = (uint16_t)(1u << (shape & 15));
	vq.desc = shape & 0x80 ? take(&in, 8) : 0x1000;
	vq.avail = shape & 0x40 ? take(&in, 2) : 0x2000;
	vq.used = shape & 0x20 ? take(&in, 2) : 0x3000;
	if (virtqueue_enable(&vq) < 0) {
		if (!vq.error || vq.enabled)
			abort();
		return 0;
	}
	while (in.left) {
		uint64_t where = take(&in, 2) % (WINDOW - 32);
		unsigned int len = (unsigned int)take(&in, 1) & 31;
		uint8_t bytes[32];

		for (unsigned int i = 0; i < len; i++)
			bytes[i] = (uint8_t)take(&in, 1);
		guest_write(mem, where, bytes, len);
		device_round(&vq, (uint8_t)take(&in, 1));
	}
	return 0;
}
