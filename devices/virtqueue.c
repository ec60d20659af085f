/* SPDX-License-Identifier: MIT */
/*
 * Split virtqueues, device side (virtio 1.2, 2.7): see framevisor/virtio.h for the contract.
 *
 * The ring parts are looked up through guest_ptr() at every use: it costs a few compares, and no
 * pointer outlives a region.
 */
#include "framevisor/virtio.h"

#include <endian.h>
#include <errno.h>
#include <linux/virtio_ring.h>
#include <stdatomic.h>
#include <string.h>

static int broken(struct virtqueue *vq, const char *why)
{
	vq->error = why;
	return -EINVAL;
}

void virtqueue_init(struct virtqueue *vq, const struct guest_memory *mem, uint16_t size_max)
{
	memset(vq, 0, sizeof(*vq));
	vq->mem = mem;
	vq->size_max = size_max;
	vq->size = size_max;
}

static uint64_t avail_bytes(const struct virtqueue *vq)
{
	return sizeof(struct vring_avail) + (uint64_t)vq->size * sizeof(uint16_t);
}

static uint64_t used_bytes(const struct virtqueue *vq)
{
	return sizeof(struct vring_used) + (uint64_t)vq->size * sizeof(struct vring_used_elem);
}

int virtqueue_enable(struct virtqueue *vq)
{
	if (!vq->size || vq->size > vq->size_max || (vq->size & (vq->size - 1)))
		return broken(vq, "queue size is not a power of two in range");
	if (vq->desc % VRING_DESC_ALIGN_SIZE || vq->avail % VRING_AVAIL_ALIGN_SIZE ||
	    vq->used % VRING_USED_ALIGN_SIZE)
		return broken(vq, "queue address is not aligned");
	if (!guest_ptr(vq->mem, vq->desc, (uint64_t)vq->size * sizeof(struct vring_desc)) ||
	    !guest_ptr(vq->mem, vq->avail, avail_bytes(vq)) ||
	    !guest_ptr(vq->mem, vq->used, used_bytes(vq)))
		return broken(vq, "queue address is not in RAM");
	vq->enabled = true;
	return 0;
}

static struct vring_avail *avail_ring(struct virtqueue *vq)
{
	struct vring_avail *avail = guest_ptr(vq->mem, vq->avail, avail_bytes(vq));

	if (!avail)
		vq->error = "available ring is not in RAM any more";
	return avail;
}

/* Number of chains the driver made available, or -EINVAL. */
static int pending_chains(struct virtqueue *vq, struct vring_avail *avail)
{
	uint16_t idx, pending;

	/* Acquire: pairs with the driver's barrier between filling entries (descriptors and ring)
	 * and writing idx, so all of them are read after it. */
	idx = le16toh(__atomic_load_n(&avail->idx, __ATOMIC_ACQUIRE));
	pending = (uint16_t)(idx - vq->last_avail);
	if (pending > vq->size)
		return broken(vq, "available index is ahead by more than the queue's size");
	return pending;
}

bool virtqueue_has_chains(struct virtqueue *vq)
{
	struct vring_avail *avail;

	if (!vq->enabled || vq->error)
		return false;
	avail = avail_ring(vq);
	return !avail || pending_chains(vq, avail) != 0;
}

uint16_t virtqueue_nr_chains(struct virtqueue *vq)
{
	struct vring_avail *avail = vq->enabled && !vq->error ? avail_ring(vq) : NULL;
	int pending = avail ? pending_chains(vq, avail) : 0;

	return pending > 0 ? (uint16_t)pending : 0;
}

/* One descriptor, copied once. */
static int read_desc(struct virtqueue *vq, uint16_t index, struct vring_desc *desc)
{
	struct vring_desc raw;

	if (guest_read(vq->mem, vq->desc + (uint64_t)index * sizeof(raw), &raw, sizeof(raw)) < 0)
		return broken(vq, "descriptor table is not in RAM any more");
	desc->addr = le64toh(raw.addr);
	desc->len = le32toh(raw.len);
	desc->flags = le16toh(raw.flags);
	desc->next = le16toh(raw.next);
	return 0;
}

static int add_buffer(struct virtqueue *vq, struct virtq_chain *chain,
		      const struct vring_desc *desc)
{
	bool writable = desc->flags & VRING_DESC_F_WRITE;
	uint64_t *total = writable ? &chain->writable_len : &chain->readable_len;

	if (desc->flags & VRING_DESC_F_INDIRECT)
		return broken(vq, "indirect descriptor, which was not offered");
	if (!writable && chain->nr_writable)
		return broken(vq, "readable buffer after a writable one");
	if (!desc->len)
		return broken(vq, "empty buffer");
	if (!guest_ptr(vq->mem, desc->addr, desc->len))
		return broken(vq, "buffer is not in RAM");
	*total += desc->len;
	if (chain->readable_len + chain->writable_len > UINT32_MAX)
		return broken(vq, "chain of 4 GiB or more");
	chain->buffers[chain->nr_readable + chain->nr_writable] =
		(struct virtq_buffer){ .addr = desc->addr, .len = desc->len };
	if (writable)
		chain->nr_writable++;
	else
		chain->nr_readable++;
	return 0;
}

int virtqueue_get_chain(struct virtqueue *vq, struct virtq_chain *chain)
{
	struct vring_avail *avail;
	struct vring_desc desc;
	uint16_t index;
	int ret;

	if (!vq->enabled)
		return 0;
	if (vq->error)
		return -EINVAL;
	avail = avail_ring(vq);
	if (!avail)
		return -EINVAL;
	ret = pending_chains(vq, avail);
	if (ret <= 0)
		return ret;
	index = le16toh(
		__atomic_load_n(&avail->ring[vq->last_avail & (vq->size - 1)], __ATOMIC_RELAXED));
	chain->head = index;
	chain->nr_readable = 0;
	chain->nr_writable = 0;
	chain->readable_len = 0;
	chain->writable_len = 0;
	for (unsigned int n = 0;; n++) {
		if (index >= vq->size)
			return broken(vq, "descriptor index out of range");
		if (n == vq->size)
			return broken(vq, "descriptor chain is longer than the queue");
		ret = read_desc(vq, index, &desc);
		if (!ret)
			ret = add_buffer(vq, chain, &desc);
		if (ret)
			return ret;
		if (!(desc.flags & VRING_DESC_F_NEXT))
			break;
		index = desc.next;
	}
	vq->last_avail++;
	return 1;
}

void virtqueue_push_used(struct virtqueue *vq, uint16_t head, uint32_t written)
{
	struct vring_used *used = guest_ptr(vq->mem, vq->used, used_bytes(vq));
	struct vring_used_elem *elem;

	if (!used) {
		vq->error = "used ring is not in RAM any more";
		return;
	}
	elem = &used->ring[vq->used_idx & (vq->size - 1)];
	elem->id = htole32(head);
	elem->len = htole32(written);
	vq->used_idx++;
	/* Release: pairs with the driver's barrier after reading idx; it sees the entry, and what
	 * the device wrote into the buffers, before the index. */
	__atomic_store_n(&used->idx, htole16(vq->used_idx), __ATOMIC_RELEASE);
	vq->notify = true;
}

bool virtqueue_take_notify(struct virtqueue *vq)
{
	struct vring_avail *avail;

	if (!vq->notify || vq->error)
		return false;
	vq->notify = false;
	avail = avail_ring(vq);
	if (!avail)
		return false;
	/* The index must be visible before the flag is read. The driver does it the other way
	 * round: it clears the flag, then looks at the index again. */
	atomic_thread_fence(memory_order_seq_cst);
	return !(le16toh(__atomic_load_n(&avail->flags, __ATOMIC_RELAXED)) &
		 VRING_AVAIL_F_NO_INTERRUPT);
}

/* Where a copy goes: exactly one of the two is set. */
struct copy {
	uint8_t *dst;
	const uint8_t *src;
};

static size_t copy_buffers(const struct guest_memory *mem, const struct virtq_buffer *buffers,
			   unsigned int nr, uint64_t offset, struct copy copy, size_t len)
{
	size_t done = 0;

	for (unsigned int i = 0; i < nr && done < len; i++) {
		uint64_t n;
		int ret;

		if (offset >= buffers[i].len) {
			offset -= buffers[i].len;
			continue;
		}
		n = buffers[i].len - offset;
		if (n > len - done)
			n = len - done;
		if (copy.dst)
			ret = guest_read(mem, buffers[i].addr + offset, copy.dst + done, n);
		else
			ret = guest_write(mem, buffers[i].addr + offset, copy.src + done, n);
		if (ret < 0)
			break;
		done += n;
		offset = 0;
	}
	return done;
}

size_t virtq_chain_read(const struct guest_memory *mem, const struct virtq_chain *chain,
			uint64_t offset, void *dst, size_t len)
{
	return copy_buffers(mem, chain->buffers, chain->nr_readable, offset,
			    (struct copy){ .dst = dst }, len);
}

size_t virtq_chain_write(const struct guest_memory *mem, const struct virtq_chain *chain,
			 uint64_t offset, const void *src, size_t len)
{
	return copy_buffers(mem, chain->buffers + chain->nr_readable, chain->nr_writable, offset,
			    (struct copy){ .src = src }, len);
}
