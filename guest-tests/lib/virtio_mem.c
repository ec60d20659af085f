/* SPDX-License-Identifier: MIT */
/* See virtio_mem.h. */
#include "virtio_mem.h"

#include <linux/virtio_ids.h>

_Static_assert(sizeof(struct virtio_mem_req) == 24 && sizeof(struct virtio_mem_resp) == 10,
	       "sizes of virtio 1.2, 5.15.6");

static struct virtio_mem_req request;
static struct virtio_mem_resp answer;

static uint64_t config(struct virtio_mem *mem, size_t offset)
{
	return virtio_config64(&mem->dev, (unsigned int)offset);
}

void mem_start(struct virtio_mem *mem)
{
	if (!mem->dev.common && !virtio_probe(&mem->dev, VIRTIO_ID_MEM))
		guest_fail("no device");
	virtio_reset(&mem->dev);
	virtio_negotiate(&mem->dev, MEM_FEATURES);
	mem->block_size = config(mem, offsetof(struct virtio_mem_config, block_size));
	mem->addr = config(mem, offsetof(struct virtio_mem_config, addr));
	mem->region_size = config(mem, offsetof(struct virtio_mem_config, region_size));
	mem->node = *(volatile uint16_t *)(mem->dev.device +
					   offsetof(struct virtio_mem_config, node_id));
	vq_setup(&mem->dev, &mem->vq, 0);
	virtio_driver_ok(&mem->dev);
	guest_map(mem->addr, mem->addr + mem_usable(mem));
}

uint64_t mem_plugged(struct virtio_mem *mem)
{
	return config(mem, offsetof(struct virtio_mem_config, plugged_size));
}

uint64_t mem_requested(struct virtio_mem *mem)
{
	return config(mem, offsetof(struct virtio_mem_config, requested_size));
}

uint64_t mem_usable(struct virtio_mem *mem)
{
	return config(mem, offsetof(struct virtio_mem_config, usable_region_size));
}

uint64_t mem_block(const struct virtio_mem *mem, uint64_t block)
{
	return mem->addr + block * mem->block_size;
}

uint16_t mem_request(struct virtio_mem *mem, uint16_t type, uint64_t addr, uint16_t nr_blocks,
		     uint16_t *state)
{
	struct vq *vq = &mem->vq;
	const struct vring_used_elem *used = &vq->used.ring[vq->last_used % vq->size];

	request = (struct virtio_mem_req){ .type = type };
	request.u.plug.addr = addr;
	request.u.plug.nb_blocks = nr_blocks;
	memset(&answer, 0xa5, sizeof(answer)); /* no answer looks like this */
	vq->desc[0] = (struct vring_desc){ .addr = (uint64_t)(uintptr_t)&request,
					   .len = sizeof(request),
					   .flags = VRING_DESC_F_NEXT,
					   .next = 1 };
	vq->desc[1] = (struct vring_desc){ .addr = (uint64_t)(uintptr_t)&answer,
					   .len = sizeof(answer),
					   .flags = VRING_DESC_F_WRITE };
	vq_offer(vq, 0);
	if (!vq_wait(&mem->dev, vq))
		guest_fail("request %u for %u blocks at 0x%lx: no answer, status 0x%x",
			   (unsigned int)type, (unsigned int)nr_blocks, addr,
			   (unsigned int)virtio_status(&mem->dev));
	if (used->id != 0 || used->len != sizeof(answer) || answer.type > VIRTIO_MEM_RESP_ERROR)
		guest_fail("request %u: descriptor %u used with %u bytes, answer %u",
			   (unsigned int)type, used->id, used->len, (unsigned int)answer.type);
	if (state)
		*state = answer.u.state.state;
	return answer.type;
}

static void must(struct virtio_mem *mem, uint16_t type, uint64_t block, uint16_t nr,
		 uint16_t *state)
{
	static const char *const names[] = { "PLUG", "UNPLUG", "UNPLUG ALL", "STATE" };
	uint16_t result = mem_request(mem, type, mem_block(mem, block), nr, state);

	if (result != VIRTIO_MEM_RESP_ACK)
		guest_fail("%s of blocks %lu+%u is answered with %u", names[type], block,
			   (unsigned int)nr, (unsigned int)result);
}

void mem_plug(struct virtio_mem *mem, uint64_t block, uint16_t nr)
{
	must(mem, VIRTIO_MEM_REQ_PLUG, block, nr, NULL);
}

void mem_unplug(struct virtio_mem *mem, uint64_t block, uint16_t nr)
{
	must(mem, VIRTIO_MEM_REQ_UNPLUG, block, nr, NULL);
}

void mem_unplug_all(struct virtio_mem *mem)
{
	must(mem, VIRTIO_MEM_REQ_UNPLUG_ALL, 0, 0, NULL);
}

uint16_t mem_state(struct virtio_mem *mem, uint64_t block, uint16_t nr)
{
	uint16_t state;

	must(mem, VIRTIO_MEM_REQ_STATE, block, nr, &state);
	return state;
}
