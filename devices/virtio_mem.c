/* SPDX-License-Identifier: MIT */
/* virtio-mem: see framevisor/virtio_mem.h for what it does and why. */
#include "framevisor/virtio_mem.h"

#include <endian.h>
#include <errno.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_mem.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "devices/changed.h"
#include "framevisor/clock.h"
#include "framevisor/log.h"
#include "framevisor/virtio.h"

#define MEM_QUEUE_SIZE   128
#define MEM_PCI_CLASS    0x00ff00
#define MEM_REQUEST_SIZE sizeof(struct virtio_mem_req)
#define MEM_ANSWER_SIZE  sizeof(struct virtio_mem_resp)
/* Linux adds memory in units of up to 2 GiB, which must lie inside the usable region. */
#define USABLE_BEYOND (UINT64_C(2) << 30)
/* A round on the queue, which holds the device's lock and the loop, ends when so much was plugged
 * and unplugged: what Linux asks for at once, before it waits for the answer. */
#define ROUND_BYTES (UINT64_C(128) << 20)

_Static_assert(MEM_REQUEST_SIZE == 24 && MEM_ANSWER_SIZE == 10, "sizes of virtio 1.2, 5.15.6");

struct virtio_mem {
	struct device dev;
	struct virtio_device vdev; /* its lock covers all of the below */
	struct changed changed;

	/* Constant after creation. */
	uint64_t addr;
	uint64_t region_size;
	uint64_t block_size;
	uint16_t node;

	uint64_t usable;
	uint64_t requested;
	uint64_t nr_plugged; /* blocks */
	uint64_t *plugged;   /* one bit per block */
	struct virtq_chain chain;

	uint64_t answers[VIRTIO_MEM_RESP_ERROR + 1];
	int last_error;
	uint64_t moved_ms;
	bool unread; /* the driver was told at told_ms, and has not looked yet */
	uint64_t told_ms;
};

static struct virtio_mem *to_mem(struct virtio_device *vdev)
{
	return (struct virtio_mem *)((char *)vdev - offsetof(struct virtio_mem, vdev));
}

/* ---- Blocks ---- */

struct blocks {
	uint64_t first;
	uint64_t nr;
};

static bool block_plugged(const struct virtio_mem *mem, uint64_t block)
{
	return mem->plugged[block / 64] >> (block % 64) & 1;
}

static uint64_t count_plugged(const struct virtio_mem *mem, struct blocks blocks)
{
	uint64_t nr = 0;

	for (uint64_t i = 0; i < blocks.nr; i++)
		nr += block_plugged(mem, blocks.first + i);
	return nr;
}

/* The driver changed it itself by what it asked for, so nobody tells it; but another thread of it
 * may be reading (virtio 1.2, 4.1.4.3.1). */
static void config_moved(struct virtio_mem *mem)
{
	mem->vdev.config_generation++;
}

/* All of them were in the other state. */
static void mark_plugged(struct virtio_mem *mem, struct blocks blocks, bool plugged)
{
	for (uint64_t i = blocks.first; i < blocks.first + blocks.nr; i++)
		mem->plugged[i / 64] ^= UINT64_C(1) << (i % 64);
	mem->nr_plugged += plugged ? blocks.nr : -blocks.nr;
	mem->moved_ms = now_ms();
	config_moved(mem);
}

/* Plugs or unplugs blocks that are in the other state. Returns what the operation said. */
static int move_blocks(struct virtio_mem *mem, struct blocks blocks, bool plug)
{
	const struct guest_memory *guest = mem->dev.host->mem;
	uint64_t gpa = mem->addr + blocks.first * mem->block_size;
	uint64_t nr_frames = bytes_to_frames(blocks.nr * mem->block_size);
	int ret;

	if (plug)
		ret = guest->frame_ops->plug(guest->frame_opaque, gpa, nr_frames);
	else
		ret = guest->frame_ops->unplug(guest->frame_opaque, gpa, nr_frames);
	mem->last_error = ret;
	changed_signal(&mem->changed);
	if (ret == 0)
		mark_plugged(mem, blocks, plug);
	else if (!plug)
		log_warn("virtio-mem: blocks cannot be unplugged: %s", strerror(-ret));
	return ret;
}

/* Unplugs everything, run by run. On failure what is not unplugged yet stays. */
static int unplug_all(struct virtio_mem *mem)
{
	struct blocks run = { .first = 0, .nr = 0 };
	uint64_t nr_blocks = mem->region_size / mem->block_size;
	int ret = 0;

	while (mem->nr_plugged && ret == 0) {
		while (run.first < nr_blocks && !block_plugged(mem, run.first))
			run.first++;
		run.nr = 0;
		while (run.first + run.nr < nr_blocks && block_plugged(mem, run.first + run.nr))
			run.nr++;
		ret = move_blocks(mem, run, false);
		run.first += run.nr;
	}
	return ret;
}

/* The usable region that goes with a requested size. */
static uint64_t usable_for(const struct virtio_mem *mem, uint64_t requested)
{
	uint64_t left = mem->region_size - requested;

	/* block_size may be larger than USABLE_BEYOND, and both are powers of two. */
	if (left <= USABLE_BEYOND || mem->block_size > USABLE_BEYOND)
		return mem->region_size;
	return requested + USABLE_BEYOND;
}

static void reset_usable(struct virtio_mem *mem)
{
	mem->usable = usable_for(mem, mem->requested);
	config_moved(mem);
}

/* ---- Requests (virtio 1.2, 5.15.6) ---- */

/* The blocks that a request names. Returns false if they are not all in the usable region. */
static bool find_blocks(const struct virtio_mem *mem, uint64_t addr, uint16_t nr,
			struct blocks *blocks)
{
	uint64_t offset = addr - mem->addr;

	if (addr < mem->addr || offset >= mem->usable || offset % mem->block_size)
		return false;
	blocks->first = offset / mem->block_size;
	blocks->nr = nr;
	return nr > 0 && nr <= (mem->usable - offset) / mem->block_size;
}

static uint16_t serve_plug(struct virtio_mem *mem, struct blocks blocks)
{
	uint64_t plugged = mem->nr_plugged * mem->block_size;

	if (count_plugged(mem, blocks))
		return VIRTIO_MEM_RESP_ERROR;
	/* A requested size below what is plugged asks for unplugging. */
	if (plugged >= mem->requested || blocks.nr > (mem->requested - plugged) / mem->block_size)
		return VIRTIO_MEM_RESP_NACK;
	return move_blocks(mem, blocks, true) ? VIRTIO_MEM_RESP_BUSY : VIRTIO_MEM_RESP_ACK;
}

static uint16_t serve_unplug(struct virtio_mem *mem, struct blocks blocks)
{
	if (count_plugged(mem, blocks) != blocks.nr)
		return VIRTIO_MEM_RESP_ERROR;
	return move_blocks(mem, blocks, false) ? VIRTIO_MEM_RESP_BUSY : VIRTIO_MEM_RESP_ACK;
}

static uint16_t serve_unplug_all(struct virtio_mem *mem)
{
	if (unplug_all(mem) < 0)
		return VIRTIO_MEM_RESP_BUSY;
	reset_usable(mem);
	return VIRTIO_MEM_RESP_ACK;
}

static uint16_t block_state(const struct virtio_mem *mem, struct blocks blocks)
{
	uint64_t nr = count_plugged(mem, blocks);

	if (nr == blocks.nr)
		return VIRTIO_MEM_STATE_PLUGGED;
	return nr ? VIRTIO_MEM_STATE_MIXED : VIRTIO_MEM_STATE_UNPLUGGED;
}

static void serve(struct virtio_mem *mem, const struct virtio_mem_req *request,
		  struct virtio_mem_resp *answer)
{
	uint16_t type = le16toh(request->type);
	uint16_t result = VIRTIO_MEM_RESP_ERROR;
	struct blocks blocks;

	memset(answer, 0, sizeof(*answer));
	/* PLUG, UNPLUG and STATE name their blocks in the same way. */
	if (type == VIRTIO_MEM_REQ_UNPLUG_ALL) {
		result = serve_unplug_all(mem);
	} else if (find_blocks(mem, le64toh(request->u.plug.addr),
			       le16toh(request->u.plug.nb_blocks), &blocks)) {
		if (type == VIRTIO_MEM_REQ_PLUG) {
			result = serve_plug(mem, blocks);
		} else if (type == VIRTIO_MEM_REQ_UNPLUG) {
			result = serve_unplug(mem, blocks);
		} else if (type == VIRTIO_MEM_REQ_STATE) {
			result = VIRTIO_MEM_RESP_ACK;
			answer->u.state.state = htole16(block_state(mem, blocks));
		}
	}
	mem->answers[result]++;
	answer->type = htole16(result);
}

/* Serves one request and returns how many bytes it has plugged or unplugged. */
static uint64_t serve_counted(struct virtio_mem *mem, const struct virtio_mem_req *request,
			      struct virtio_mem_resp *answer)
{
	uint64_t before = mem->nr_plugged;

	serve(mem, request, answer);
	return mem->block_size *
	       (mem->nr_plugged > before ? mem->nr_plugged - before : before - mem->nr_plugged);
}

static void mem_notify(struct virtio_device *vdev, unsigned int queue)
{
	struct virtio_mem *mem = to_mem(vdev);
	const struct guest_memory *guest = mem->dev.host->mem;
	struct virtqueue *vq = virtio_queue(vdev, queue);
	struct virtio_mem_resp answer;
	struct virtio_mem_req request;
	uint64_t moved = 0;
	size_t written;

	for (unsigned int nr = 0; vq && nr < vq->size && moved < ROUND_BYTES; nr++) {
		if (virtqueue_get_chain(vq, &mem->chain) <= 0)
			break;
		if (mem->chain.readable_len < sizeof(request) ||
		    mem->chain.writable_len < sizeof(answer) ||
		    virtq_chain_read(guest, &mem->chain, 0, &request, sizeof(request)) !=
			    sizeof(request)) {
			virtio_broken(vdev, "request or room for the answer is too short");
			return;
		}
		moved += serve_counted(mem, &request, &answer);
		/* The guest may have unplugged the buffer itself: then nobody can read it. */
		written = virtq_chain_write(guest, &mem->chain, 0, &answer, sizeof(answer));
		virtqueue_push_used(vq, mem->chain.head, (uint32_t)written);
	}
	virtio_finish_queue(vdev, queue);
	if (vq && virtio_running(vdev) && virtqueue_has_chains(vq))
		virtio_kick_queue(vdev, queue);
}

/* ---- The virtio device ---- */

static void mem_read_config(struct virtio_device *vdev, unsigned int offset, void *dst,
			    unsigned int len)
{
	const unsigned int requested = offsetof(struct virtio_mem_config, requested_size);
	struct virtio_mem *mem = to_mem(vdev);
	struct virtio_mem_config config = {
		.block_size = htole64(mem->block_size),
		.node_id = htole16(mem->node),
		.addr = htole64(mem->addr),
		.region_size = htole64(mem->region_size),
		.usable_region_size = htole64(mem->usable),
		.plugged_size = htole64(mem->nr_plugged * mem->block_size),
		.requested_size = htole64(mem->requested),
	};

	memcpy(dst, (const uint8_t *)&config + offset, len);
	if (offset < requested + sizeof(config.requested_size) && offset + len > requested)
		mem->unread = false;
}

/* All fields are read-only for the driver. */
static void mem_write_config(struct virtio_device *vdev, unsigned int offset, const void *src,
			     unsigned int len)
{
	(void)vdev;
	(void)offset;
	(void)src;
	(void)len;
}

/* A device reset leaves the blocks alone (virtio 1.2, 5.15.5.2). */
static void mem_reset(struct virtio_device *vdev)
{
	changed_signal(&to_mem(vdev)->changed);
}

static const struct virtio_device_type mem_type = {
	.name = "virtio-mem",
	.id = VIRTIO_ID_MEM,
	.pci_class = MEM_PCI_CLASS,
	.nr_queues = 1,
	.queue_size = MEM_QUEUE_SIZE,
	.config_size = sizeof(struct virtio_mem_config),
	.features = UINT64_C(1) << VIRTIO_MEM_F_ACPI_PXM |
		    UINT64_C(1) << VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE,
	.required = UINT64_C(1) << VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE,
	.read_config = mem_read_config,
	.write_config = mem_write_config,
	.queue_notify = mem_notify,
	.reset = mem_reset,
};

/* ---- What the machine asks ---- */

static void tell_driver(struct virtio_mem *mem)
{
	if (!mem->unread)
		mem->told_ms = now_ms();
	mem->unread = true;
	virtio_config_changed(&mem->vdev);
}

int virtio_mem_set_requested(struct virtio_mem *mem, uint64_t bytes, struct error *err)
{
	uint64_t usable;

	if (bytes > mem->region_size)
		return error_set(err, EINVAL,
				 "virtio-mem: %llu bytes are more than the device's region (%llu)",
				 (unsigned long long)bytes, (unsigned long long)mem->region_size);
	if (bytes % mem->block_size)
		return error_set(err, EINVAL, "virtio-mem: %llu bytes are not whole blocks of %llu",
				 (unsigned long long)bytes, (unsigned long long)mem->block_size);
	pthread_mutex_lock(&mem->vdev.lock);
	usable = usable_for(mem, bytes);
	if (usable > mem->usable)
		mem->usable = usable;
	mem->requested = bytes;
	mem->last_error = 0; /* that was about another size */
	mem->moved_ms = now_ms();
	tell_driver(mem);
	pthread_mutex_unlock(&mem->vdev.lock);
	return 0;
}

void virtio_mem_ask_again(struct virtio_mem *mem)
{
	pthread_mutex_lock(&mem->vdev.lock);
	if (mem->nr_plugged * mem->block_size != mem->requested)
		tell_driver(mem);
	pthread_mutex_unlock(&mem->vdev.lock);
}

void virtio_mem_stats(struct virtio_mem *mem, struct virtio_mem_stats *stats)
{
	struct virtio_device *vdev = &mem->vdev;

	pthread_mutex_lock(&vdev->lock);
	*stats = (struct virtio_mem_stats){
		.driver_ready = virtio_driver_ready(vdev),
		.broken = vdev->status & VIRTIO_CONFIG_S_NEEDS_RESET,
		.addr = mem->addr,
		.region_size = mem->region_size,
		.block_size = mem->block_size,
		.node = mem->node,
		.usable = mem->usable,
		.requested = mem->requested,
		.plugged = mem->nr_plugged * mem->block_size,
		.acks = mem->answers[VIRTIO_MEM_RESP_ACK],
		.nacks = mem->answers[VIRTIO_MEM_RESP_NACK],
		.busy = mem->answers[VIRTIO_MEM_RESP_BUSY],
		.errors = mem->answers[VIRTIO_MEM_RESP_ERROR],
		.last_error = mem->last_error,
		.idle_ms = now_ms() - mem->moved_ms,
		.unread_ms = mem->unread ? now_ms() - mem->told_ms : 0,
	};
	pthread_mutex_unlock(&vdev->lock);
}

static struct virtio_mem *from_device(struct device *dev)
{
	return (struct virtio_mem *)dev;
}

/* System reset: back to the boot memory. If a block cannot be taken away, the next driver finds it
 * plugged and asks for UNPLUG ALL. */
static void device_reset(struct device *dev)
{
	struct virtio_mem *mem = from_device(dev);

	pthread_mutex_lock(&mem->vdev.lock);
	if (unplug_all(mem) == 0)
		reset_usable(mem);
	pthread_mutex_unlock(&mem->vdev.lock);
	virtio_device_reset(&mem->vdev);
}

static void device_pause(struct device *dev)
{
	virtio_device_pause(&from_device(dev)->vdev);
}

/* While it was paused the guest could neither move nor look: it is not one that stands still. */
static void device_resume(struct device *dev)
{
	struct virtio_mem *mem = from_device(dev);

	pthread_mutex_lock(&mem->vdev.lock);
	mem->moved_ms = now_ms();
	if (mem->unread)
		mem->told_ms = mem->moved_ms;
	pthread_mutex_unlock(&mem->vdev.lock);
	virtio_device_resume(&mem->vdev);
}

static void free_parts(struct virtio_mem *mem)
{
	changed_fini(&mem->changed);
	free(mem->plugged);
	free(mem);
}

static void device_destroy(struct device *dev)
{
	virtio_device_fini(&from_device(dev)->vdev);
	free_parts(from_device(dev));
}

static const struct device_ops mem_ops = { .reset = device_reset,
					   .pause = device_pause,
					   .resume = device_resume,
					   .destroy = device_destroy };

static int check_options(const struct device_host *host, const struct virtio_mem_options *options,
			 struct error *err)
{
	const struct guest_frame_ops *ops = host->mem->frame_ops;
	uint64_t block = options->block_size ? options->block_size : FRAME_SIZE;

	if (!ops || !ops->plug || !ops->unplug)
		return error_set(err, ENOTSUP, "virtio-mem: this machine cannot plug memory");
	if (block < FRAME_SIZE || (block & (block - 1)) || options->addr % block ||
	    options->region_size % block || !options->region_size)
		return error_set(err, EINVAL,
				 "virtio-mem: region 0x%llx+0x%llx is not made of blocks of 0x%llx",
				 (unsigned long long)options->addr,
				 (unsigned long long)options->region_size,
				 (unsigned long long)block);
	/* Nothing of it is plugged, so this only looks. */
	if (guest_memory_set_plugged(host->mem, options->addr,
				     bytes_to_frames(options->region_size), false) < 0)
		return error_set(err, EINVAL, "virtio-mem: region 0x%llx+0x%llx is not pluggable",
				 (unsigned long long)options->addr,
				 (unsigned long long)options->region_size);
	return 0;
}

static int create_parts(struct virtio_mem *mem, const struct virtio_mem_options *options)
{
	mem->addr = options->addr;
	mem->region_size = options->region_size;
	mem->block_size = options->block_size ? options->block_size : FRAME_SIZE;
	mem->node = options->has_node ? options->node : 0;
	mem->usable = usable_for(mem, 0);
	mem->moved_ms = now_ms();
	mem->plugged = calloc(mem->region_size / mem->block_size / 64 + 1, sizeof(*mem->plugged));
	if (!mem->plugged)
		return -ENOMEM;
	return changed_init(&mem->changed, mem->dev.host->loop, options->changed, options->opaque);
}

struct virtio_mem *virtio_mem_create(struct device_host *host, struct pci_bus *bus,
				     const struct virtio_mem_options *options, struct error *err)
{
	struct virtio_mem *mem;
	int ret;

	if (check_options(host, options, err) < 0)
		return NULL;
	mem = calloc(1, sizeof(*mem));
	if (!mem) {
		error_set(err, ENOMEM, "virtio-mem: out of memory");
		return NULL;
	}
	mem->dev = (struct device){
		.name = mem_type.name, .ops = &mem_ops, .host = host, .next = NULL
	};
	ret = create_parts(mem, options);
	if (ret < 0) {
		error_set_errno(err, -ret, "virtio-mem: cannot be created");
		free_parts(mem);
		return NULL;
	}
	if (virtio_device_init(&mem->vdev, &mem_type, host, err) < 0) {
		free_parts(mem);
		return NULL;
	}
	if (!options->has_node)
		mem->vdev.offered &= ~(UINT64_C(1) << VIRTIO_MEM_F_ACPI_PXM);
	if (virtio_pci_attach(&mem->vdev, bus, err) < 0) {
		device_destroy(&mem->dev);
		return NULL;
	}
	return mem;
}

struct device *virtio_mem_device(struct virtio_mem *mem)
{
	return &mem->dev;
}
