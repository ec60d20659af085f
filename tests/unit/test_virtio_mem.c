/* SPDX-License-Identifier: MIT */
/* The memory device, driven as a guest drives it, and as a hostile one does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <linux/virtio_mem.h>

#include "tests/unit/sleep.h"
#include "tests/unit/virtio_driver.h"

#define F_VERSION_1    (1ull << VIRTIO_F_VERSION_1)
#define F_PXM          1ull
#define F_INACCESSIBLE 2ull
#define F_ALL          (F_VERSION_1 | F_PXM | F_INACCESSIBLE)
#define SLOT           2
#define REGION         (HOST_PLUG_FRAMES * FRAME_SIZE_2M)
#define BLOCK(n)       (HOST_PLUG + (n)*FRAME_SIZE_2M)
#define ANSWER         (DRIVER_BUFFERS + 0x100)
#define NO_STATE       0xffff

static struct virtio_mem_stats stats(struct driver *drv)
{
	struct virtio_mem_stats s;

	virtio_mem_stats(drv->th->set.mem[0], &s);
	return s;
}

struct requested {
	struct virtio_mem *mem;
	uint64_t bytes;
	int ret;
};

static void call_set_requested(void *opaque)
{
	struct requested *r = opaque;

	r->ret = virtio_mem_set_requested(r->mem, r->bytes, NULL);
}

static int set_requested(struct driver *drv, uint64_t bytes)
{
	struct requested r = { .mem = drv->th->set.mem[0], .bytes = bytes };

	host_call(drv->th, call_set_requested, &r);
	return r.ret;
}

static void start(struct driver *drv, uint64_t requested)
{
	assert_true(driver_probe(drv, host_create(true), SLOT));
	assert_int_equal(set_requested(drv, requested), 0);
	assert_int_equal(driver_start(drv, F_ALL, 8), S_ALL);
	host_sync(drv->th);
}

/* Posts a request with room for an answer, as two descriptors. */
static void post(struct driver *drv, uint32_t request_len, uint32_t answer_len)
{
	driver_set_desc(drv, 0, 0,
			(struct vring_desc){ DRIVER_BUFFERS, request_len, VRING_DESC_F_NEXT, 1 });
	driver_set_desc(drv, 0, 1,
			(struct vring_desc){ ANSWER, answer_len, VRING_DESC_F_WRITE, 0 });
	driver_publish(drv, 0, 0);
	driver_kick(drv, 0);
	host_sync(drv->th);
}

static void fill(struct driver *drv, uint16_t type, uint64_t addr, uint16_t nr)
{
	struct virtio_mem_req *req = guest_ptr(&drv->th->mem, DRIVER_BUFFERS, sizeof(*req));

	memset(req, 0xee, sizeof(*req)); /* padding must not matter */
	req->type = type;
	req->u.plug.addr = addr;
	req->u.plug.nb_blocks = nr;
	memset(guest_ptr(&drv->th->mem, ANSWER, 64), 0x77, 64);
}

/* The answer's type; *state if asked for. */
static uint16_t ask(struct driver *drv, uint16_t type, uint64_t addr, uint16_t nr, uint16_t *state)
{
	const struct virtio_mem_resp *answer = guest_ptr(&drv->th->mem, ANSWER, 64);
	uint16_t before = driver_used_idx(drv, 0);

	fill(drv, type, addr, nr);
	post(drv, 24, 10);
	assert_int_equal(driver_used_idx(drv, 0), (uint16_t)(before + 1));
	assert_int_equal(((const uint8_t *)answer)[10], 0x77); /* not a byte more */
	if (state)
		*state = answer->u.state.state;
	return answer->type;
}

static uint16_t plug(struct driver *drv, unsigned int block, uint16_t nr)
{
	return ask(drv, VIRTIO_MEM_REQ_PLUG, BLOCK(block), nr, NULL);
}

static uint16_t unplug(struct driver *drv, unsigned int block, uint16_t nr)
{
	return ask(drv, VIRTIO_MEM_REQ_UNPLUG, BLOCK(block), nr, NULL);
}

static uint16_t unplug_all(struct driver *drv)
{
	return ask(drv, VIRTIO_MEM_REQ_UNPLUG_ALL, 0x1234567, 0, NULL);
}

static uint16_t block_state(struct driver *drv, unsigned int block, uint16_t nr)
{
	uint16_t state = NO_STATE;

	assert_int_equal(ask(drv, VIRTIO_MEM_REQ_STATE, BLOCK(block), nr, &state),
			 VIRTIO_MEM_RESP_ACK);
	return state;
}

static uint64_t config64(struct driver *drv, size_t offset)
{
	return host_read(drv->th, drv->device + offset, 4) |
	       host_read(drv->th, drv->device + offset + 4, 4) << 32;
}

#define CONFIG(drv, field) config64(drv, offsetof(struct virtio_mem_config, field))

static void configuration(void **state)
{
	struct driver drv;

	(void)state;
	assert_true(driver_probe(&drv, host_create(true), SLOT));
	assert_int_equal(cfg_read(&drv, PCI_DEVICE_ID, 2), 0x1058);
	driver_enable_memory(&drv);
	assert_int_equal(driver_offered(&drv), F_ALL);
	assert_int_equal(CONFIG(&drv, block_size), FRAME_SIZE);
	assert_int_equal(host_read(drv.th, drv.device + 8, 2), 1);
	assert_int_equal(CONFIG(&drv, addr), HOST_PLUG);
	assert_int_equal(CONFIG(&drv, region_size), REGION);
	assert_int_equal(CONFIG(&drv, usable_region_size), REGION);
	assert_int_equal(CONFIG(&drv, plugged_size), 0);
	assert_int_equal(CONFIG(&drv, requested_size), 0);
	assert_int_equal(host_read(drv.th, drv.device + 56, 4), 0);
	host_write(drv.th, drv.device + 48, 0x200000, 4); /* read-only */
	assert_int_equal(CONFIG(&drv, requested_size), 0);
	/* A driver that would read unplugged memory is refused. */
	assert_int_equal(driver_negotiate(&drv, F_VERSION_1 | F_PXM), S_UP_TO_DRIVER);
	assert_int_equal(driver_negotiate(&drv, F_VERSION_1 | F_INACCESSIBLE), S_UP_TO_FEATURES);
	host_destroy(drv.th);
}

static void requested_size(void **state)
{
	struct driver drv;

	(void)state;
	start(&drv, 4 * FRAME_SIZE);
	assert_int_equal(CONFIG(&drv, requested_size), 4 * FRAME_SIZE);
	assert_int_equal(driver_interrupts(0), 0);
	assert_int_equal(set_requested(&drv, REGION), 0);
	assert_int_equal(driver_interrupts(0), 1);
	assert_int_equal(CONFIG(&drv, requested_size), REGION);
	assert_int_equal(set_requested(&drv, REGION + FRAME_SIZE), -EINVAL);
	assert_int_equal(set_requested(&drv, FRAME_SIZE + 4096), -EINVAL);
	assert_int_equal(set_requested(&drv, UINT64_MAX), -EINVAL);
	assert_int_equal(stats(&drv).requested, REGION);
	assert_true(stats(&drv).driver_ready);
	host_destroy(drv.th);
}

static void plug_and_unplug(void **state)
{
	struct driver drv;
	struct virtio_mem_stats s;

	(void)state;
	start(&drv, 70 * FRAME_SIZE);
	assert_null(guest_ptr(&drv.th->mem, BLOCK(3), 1));
	assert_int_equal(block_state(&drv, 0, HOST_PLUG_FRAMES), VIRTIO_MEM_STATE_UNPLUGGED);
	assert_int_equal(plug(&drv, 2, 66), VIRTIO_MEM_RESP_ACK); /* over a word's end */
	assert_int_equal(drv.th->nr_plug, 1);                     /* in one go */
	assert_non_null(guest_ptr(&drv.th->mem, BLOCK(2), 66 * FRAME_SIZE));
	assert_null(guest_ptr(&drv.th->mem, BLOCK(1), 1));
	assert_null(guest_ptr(&drv.th->mem, BLOCK(68), 1));
	assert_int_equal(CONFIG(&drv, plugged_size), 66 * FRAME_SIZE);
	assert_int_equal(block_state(&drv, 2, 66), VIRTIO_MEM_STATE_PLUGGED);
	assert_int_equal(block_state(&drv, 1, 2), VIRTIO_MEM_STATE_MIXED);
	assert_int_equal(block_state(&drv, 67, 2), VIRTIO_MEM_STATE_MIXED);
	assert_int_equal(block_state(&drv, 68, 12), VIRTIO_MEM_STATE_UNPLUGGED);
	memset(guest_ptr(&drv.th->mem, BLOCK(5), 64), 0x55, 64);
	drv.th->present[HOST_FRAMES + 5] = true;
	assert_int_equal(unplug(&drv, 5, 1), VIRTIO_MEM_RESP_ACK);
	assert_false(drv.th->present[HOST_FRAMES + 5]);
	assert_null(guest_ptr(&drv.th->mem, BLOCK(5), 1));
	assert_int_equal(block_state(&drv, 4, 3), VIRTIO_MEM_STATE_MIXED);
	assert_int_equal(plug(&drv, 5, 1), VIRTIO_MEM_RESP_ACK);
	assert_int_equal(unplug(&drv, 2, 66), VIRTIO_MEM_RESP_ACK);
	assert_int_equal(guest_memory_size(&drv.th->mem), HOST_FRAMES * FRAME_SIZE);
	s = stats(&drv);
	assert_int_equal(s.plugged, 0);
	assert_int_equal(s.acks, 10);
	assert_int_equal(s.nacks + s.busy + s.errors, 0);
	assert_true(s.idle_ms < 10000);
	host_wait_told(drv.th, &drv.th->mem_changes, 1);
	assert_true(drv.th->mem_changes > 0);
	host_destroy(drv.th);
}

static void never_beyond_the_request(void **state)
{
	struct driver drv;

	(void)state;
	start(&drv, 4 * FRAME_SIZE);
	assert_int_equal(plug(&drv, 0, 5), VIRTIO_MEM_RESP_NACK);
	assert_int_equal(plug(&drv, 0, 3), VIRTIO_MEM_RESP_ACK);
	assert_int_equal(plug(&drv, 3, 2), VIRTIO_MEM_RESP_NACK);
	assert_int_equal(plug(&drv, 7, 1), VIRTIO_MEM_RESP_ACK);
	assert_int_equal(plug(&drv, 9, 1), VIRTIO_MEM_RESP_NACK);
	/* Less is asked for: the guest unplugs as it can, and plugs nothing meanwhile. */
	assert_int_equal(set_requested(&drv, FRAME_SIZE), 0);
	assert_int_equal(plug(&drv, 9, 1), VIRTIO_MEM_RESP_NACK);
	assert_int_equal(unplug(&drv, 0, 3), VIRTIO_MEM_RESP_ACK);
	assert_int_equal(plug(&drv, 9, 1), VIRTIO_MEM_RESP_NACK);
	assert_int_equal(unplug(&drv, 7, 1), VIRTIO_MEM_RESP_ACK);
	assert_int_equal(plug(&drv, 9, 1), VIRTIO_MEM_RESP_ACK);
	assert_int_equal(stats(&drv).nacks, 5);
	assert_int_equal(stats(&drv).plugged, FRAME_SIZE);
	host_destroy(drv.th);
}

static void call_ask_again(void *opaque)
{
	virtio_mem_ask_again(opaque);
}

/* Who has not plugged what was asked for hears of it again; who has does not. */
static void asked_again(void **state)
{
	struct driver drv;
	uint32_t generation;

	(void)state;
	start(&drv, FRAME_SIZE);
	generation = common_read(&drv, VIRTIO_PCI_COMMON_CFGGENERATION, 1);
	host_call(drv.th, call_ask_again, drv.th->set.mem[0]);
	assert_int_not_equal(common_read(&drv, VIRTIO_PCI_COMMON_CFGGENERATION, 1), generation);
	assert_int_equal(plug(&drv, 0, 1), VIRTIO_MEM_RESP_ACK);
	generation = common_read(&drv, VIRTIO_PCI_COMMON_CFGGENERATION, 1);
	host_call(drv.th, call_ask_again, drv.th->set.mem[0]);
	assert_int_equal(common_read(&drv, VIRTIO_PCI_COMMON_CFGGENERATION, 1), generation);
	host_destroy(drv.th);
}

static uint32_t generation(struct driver *drv)
{
	return common_read(drv, VIRTIO_PCI_COMMON_CFGGENERATION, 1);
}

/* What the driver itself changes in the configuration by its requests: a reader notices. */
static void generations(void **state)
{
	struct driver drv;
	uint32_t before;

	(void)state;
	start(&drv, 4 * FRAME_SIZE);
	before = generation(&drv);
	assert_int_equal(plug(&drv, 0, 4), VIRTIO_MEM_RESP_ACK);
	assert_int_not_equal(generation(&drv), before);
	before = generation(&drv);
	assert_int_equal(unplug(&drv, 0, 1), VIRTIO_MEM_RESP_ACK);
	assert_int_not_equal(generation(&drv), before);
	before = generation(&drv);
	assert_int_equal(block_state(&drv, 0, 1), VIRTIO_MEM_STATE_UNPLUGGED);
	assert_int_equal(unplug(&drv, 0, 1), VIRTIO_MEM_RESP_ERROR);
	assert_int_equal(generation(&drv), before);
	assert_int_equal(unplug_all(&drv), VIRTIO_MEM_RESP_ACK);
	assert_int_not_equal(generation(&drv), before);
	/* Of nothing: the usable region may be another one after it. */
	before = generation(&drv);
	assert_int_equal(unplug_all(&drv), VIRTIO_MEM_RESP_ACK);
	assert_int_not_equal(generation(&drv), before);
	assert_int_equal(driver_interrupts(0), 0); /* it knows */
	host_destroy(drv.th);
}

/* What the driver was told is unread until it reads just that, from the first time it was told. */
static void unread_requests(void **state)
{
	struct driver drv;

	(void)state;
	start(&drv, FRAME_SIZE);
	sleep_ms(60);
	assert_in_range(stats(&drv).unread_ms, 50, 60000);
	CONFIG(&drv, plugged_size);
	host_call(drv.th, call_ask_again, drv.th->set.mem[0]);
	assert_in_range(stats(&drv).unread_ms, 50, 60000);
	CONFIG(&drv, requested_size);
	sleep_ms(5);
	assert_int_equal(stats(&drv).unread_ms, 0);
	host_call(drv.th, call_ask_again, drv.th->set.mem[0]);
	sleep_ms(5);
	assert_in_range(stats(&drv).unread_ms, 1, 60000);
	CONFIG(&drv, requested_size);
	assert_int_equal(stats(&drv).unread_ms, 0);
	host_destroy(drv.th);
}

static void call_pause(void *opaque)
{
	struct device *dev = virtio_mem_device(opaque);

	dev->ops->pause(dev);
}

static void call_resume(void *opaque)
{
	struct device *dev = virtio_mem_device(opaque);

	dev->ops->resume(dev);
}

/* A guest that is paused can neither move nor look: its times begin anew. */
static void pauses(void **state)
{
	struct driver drv;

	(void)state;
	start(&drv, FRAME_SIZE);
	host_call(drv.th, call_pause, drv.th->set.mem[0]);
	sleep_ms(300);
	host_call(drv.th, call_resume, drv.th->set.mem[0]);
	assert_in_range(stats(&drv).idle_ms, 0, 250);
	assert_in_range(stats(&drv).unread_ms, 0, 250);
	CONFIG(&drv, requested_size);
	host_call(drv.th, call_pause, drv.th->set.mem[0]);
	sleep_ms(5);
	host_call(drv.th, call_resume, drv.th->set.mem[0]);
	sleep_ms(5);
	assert_int_equal(stats(&drv).unread_ms, 0); /* read is read */
	host_destroy(drv.th);
}

static void memory_is_short(void **state)
{
	struct driver drv;

	(void)state;
	start(&drv, 8 * FRAME_SIZE);
	drv.th->no_memory = true;
	assert_int_equal(plug(&drv, 0, 2), VIRTIO_MEM_RESP_BUSY);
	assert_int_equal(stats(&drv).last_error, -ENOMEM);
	assert_int_equal(block_state(&drv, 0, 2), VIRTIO_MEM_STATE_UNPLUGGED);
	/* Nothing is known yet of what is requested next. */
	assert_int_equal(set_requested(&drv, 6 * FRAME_SIZE), 0);
	assert_int_equal(stats(&drv).last_error, 0);
	drv.th->no_memory = false;
	assert_int_equal(plug(&drv, 0, 2), VIRTIO_MEM_RESP_ACK);
	assert_int_equal(stats(&drv).last_error, 0);
	drv.th->release_broken = true;
	assert_int_equal(unplug(&drv, 0, 1), VIRTIO_MEM_RESP_BUSY);
	assert_int_equal(unplug_all(&drv), VIRTIO_MEM_RESP_BUSY);
	assert_int_equal(block_state(&drv, 0, 2), VIRTIO_MEM_STATE_PLUGGED);
	drv.th->release_broken = false;
	assert_int_equal(unplug_all(&drv), VIRTIO_MEM_RESP_ACK);
	assert_int_equal(stats(&drv).busy, 3);
	assert_int_equal(stats(&drv).plugged, 0);
	host_destroy(drv.th);
}

static void unplug_everything(void **state)
{
	struct driver drv;

	(void)state;
	start(&drv, REGION);
	assert_int_equal(unplug_all(&drv), VIRTIO_MEM_RESP_ACK); /* of nothing */
	assert_int_equal(plug(&drv, 0, 1), VIRTIO_MEM_RESP_ACK);
	assert_int_equal(plug(&drv, 60, 10), VIRTIO_MEM_RESP_ACK);
	assert_int_equal(plug(&drv, 79, 1), VIRTIO_MEM_RESP_ACK);
	assert_int_equal(unplug_all(&drv), VIRTIO_MEM_RESP_ACK);
	assert_int_equal(drv.th->nr_unplug, 3); /* by runs */
	assert_int_equal(CONFIG(&drv, plugged_size), 0);
	assert_int_equal(guest_memory_size(&drv.th->mem), HOST_FRAMES * FRAME_SIZE);
	host_destroy(drv.th);
}

static void hostile_requests(void **state)
{
	static const struct {
		uint64_t addr;
		uint16_t nr;
	} bad[] = {
		{ BLOCK(0), 0 },
		{ BLOCK(0), HOST_PLUG_FRAMES + 1 },
		{ BLOCK(0), UINT16_MAX },
		{ BLOCK(0) + 4096, 1 },
		{ BLOCK(1) - 1, 1 },
		{ BLOCK(0) - FRAME_SIZE_2M, 1 },
		{ BLOCK(0) - FRAME_SIZE_2M, 2 },
		{ 0, 1 },
		{ BLOCK(HOST_PLUG_FRAMES - 1), 2 },
		{ BLOCK(HOST_PLUG_FRAMES), 1 },
		{ UINT64_MAX - FRAME_SIZE_2M + 1, 1 },
		{ UINT64_MAX - FRAME_SIZE_2M + 1, UINT16_MAX },
		{ UINT64_MAX, 1 },
	};
	struct driver drv;

	(void)state;
	start(&drv, REGION);
	assert_int_equal(plug(&drv, 10, 4), VIRTIO_MEM_RESP_ACK);
	for (unsigned int i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		for (uint16_t type = 0; type <= VIRTIO_MEM_REQ_STATE; type++) {
			if (type == VIRTIO_MEM_REQ_UNPLUG_ALL)
				continue;
			assert_int_equal(ask(&drv, type, bad[i].addr, bad[i].nr, NULL),
					 VIRTIO_MEM_RESP_ERROR);
		}
	}
	/* Half of it in the wrong state. */
	assert_int_equal(plug(&drv, 9, 2), VIRTIO_MEM_RESP_ERROR);
	assert_int_equal(plug(&drv, 13, 2), VIRTIO_MEM_RESP_ERROR);
	assert_int_equal(plug(&drv, 10, 4), VIRTIO_MEM_RESP_ERROR);
	assert_int_equal(unplug(&drv, 9, 2), VIRTIO_MEM_RESP_ERROR);
	assert_int_equal(unplug(&drv, 13, 2), VIRTIO_MEM_RESP_ERROR);
	assert_int_equal(unplug(&drv, 20, 1), VIRTIO_MEM_RESP_ERROR);
	assert_int_equal(ask(&drv, 4, BLOCK(0), 1, NULL), VIRTIO_MEM_RESP_ERROR);
	assert_int_equal(ask(&drv, UINT16_MAX, BLOCK(0), 1, NULL), VIRTIO_MEM_RESP_ERROR);
	assert_int_equal(stats(&drv).plugged, 4 * FRAME_SIZE);
	assert_int_equal(drv.th->nr_plug, 1);
	assert_int_equal(drv.th->nr_unplug, 0);
	assert_false(stats(&drv).broken);
	host_destroy(drv.th);
}

static void malformed_messages(void **state)
{
	struct driver drv;

	(void)state;
	start(&drv, REGION);
	fill(&drv, VIRTIO_MEM_REQ_PLUG, BLOCK(0), 1);
	post(&drv, 23, 10);
	assert_true(stats(&drv).broken);
	driver_start(&drv, F_ALL, 8);
	post(&drv, 24, 9);
	assert_true(stats(&drv).broken);
	driver_start(&drv, F_ALL, 8);
	driver_send(&drv, 0, DRIVER_BUFFERS, 24); /* no room for an answer at all */
	host_sync(drv.th);
	assert_true(stats(&drv).broken);
	assert_int_equal(drv.th->nr_plug, 0);
	/* The other devices do not care, and after a reset neither does this one. */
	driver_start(&drv, F_ALL, 8);
	assert_int_equal(plug(&drv, 0, 1), VIRTIO_MEM_RESP_ACK);
	host_destroy(drv.th);
}

/* Requests that change much have a round each: others have their turn between them. */
static void many_requests(void **state)
{
	struct driver drv;

	(void)state;
	start(&drv, REGION);
	for (uint16_t i = 0; i < 4; i++) {
		uint64_t addr = DRIVER_BUFFERS + i * 64u;
		struct virtio_mem_req *req = guest_ptr(&drv.th->mem, addr, sizeof(*req));
		struct vring_desc answer = { ANSWER + i * 64u, 10, VRING_DESC_F_WRITE, 0 };

		req->type = i % 2 ? VIRTIO_MEM_REQ_UNPLUG : VIRTIO_MEM_REQ_PLUG;
		req->u.plug.addr = BLOCK(0);
		req->u.plug.nb_blocks = 64;
		driver_set_desc(&drv, 0, 2 * i,
				(struct vring_desc){ addr, 24, VRING_DESC_F_NEXT, 2 * i + 1 });
		driver_set_desc(&drv, 0, 2 * i + 1, answer);
		driver_publish(&drv, 0, 2 * i);
	}
	driver_kick(&drv, 0);
	for (unsigned int i = 0; i < 4; i++)
		host_sync(drv.th);
	assert_int_equal(driver_used_idx(&drv, 0), 4);
	assert_int_equal(stats(&drv).acks, 4);
	assert_int_equal(driver_interrupts(1), 4);
	host_destroy(drv.th);
}

/* A driver that gives the device up is none: nothing is served until it begins anew. */
static void driver_gives_up(void **state)
{
	struct driver drv;

	(void)state;
	start(&drv, REGION);
	driver_set_status(&drv, S_ALL | VIRTIO_CONFIG_S_FAILED);
	assert_int_equal(driver_status(&drv), S_ALL | VIRTIO_CONFIG_S_FAILED);
	assert_false(stats(&drv).driver_ready);
	fill(&drv, VIRTIO_MEM_REQ_PLUG, BLOCK(0), 1);
	post(&drv, 24, 10);
	assert_int_equal(driver_used_idx(&drv, 0), 0);
	assert_int_equal(stats(&drv).plugged, 0);
	assert_int_equal(driver_start(&drv, F_ALL, 8), S_ALL);
	assert_true(stats(&drv).driver_ready);
	assert_int_equal(plug(&drv, 0, 1), VIRTIO_MEM_RESP_ACK);
	host_destroy(drv.th);
}

/* The answer's buffer, or the rings, in a block that the request takes away. */
static void unplugs_its_own_buffers(void **state)
{
	struct virtio_mem_req *req;
	struct driver drv;

	(void)state;
	start(&drv, REGION);
	assert_int_equal(plug(&drv, 0, 2), VIRTIO_MEM_RESP_ACK);
	fill(&drv, VIRTIO_MEM_REQ_UNPLUG, BLOCK(0), 2);
	req = guest_ptr(&drv.th->mem, BLOCK(0), sizeof(*req));
	memcpy(req, guest_ptr(&drv.th->mem, DRIVER_BUFFERS, 24), 24);
	driver_set_desc(&drv, 0, 0, (struct vring_desc){ BLOCK(0), 24, VRING_DESC_F_NEXT, 1 });
	driver_set_desc(&drv, 0, 1, (struct vring_desc){ BLOCK(1), 10, VRING_DESC_F_WRITE, 0 });
	driver_publish(&drv, 0, 0);
	driver_kick(&drv, 0);
	host_sync(drv.th);
	assert_int_equal(stats(&drv).plugged, 0);
	assert_false(stats(&drv).broken);
	/* And buffers in blocks that are not plugged. */
	driver_publish(&drv, 0, 0);
	driver_kick(&drv, 0);
	host_sync(drv.th);
	assert_true(stats(&drv).broken);
	host_destroy(drv.th);
}

static void call_reset(void *opaque)
{
	struct test_host *th = opaque;

	for (struct device *dev = th->set.last; dev; dev = dev->next)
		dev->ops->reset(dev);
}

static void resets(void **state)
{
	struct driver drv;

	(void)state;
	start(&drv, 8 * FRAME_SIZE);
	assert_int_equal(plug(&drv, 4, 6), VIRTIO_MEM_RESP_ACK);
	/* The driver goes and another one comes: the blocks stay. */
	driver_start(&drv, F_ALL, 8);
	assert_int_equal(CONFIG(&drv, plugged_size), 6 * FRAME_SIZE);
	assert_int_equal(block_state(&drv, 4, 6), VIRTIO_MEM_STATE_PLUGGED);
	assert_non_null(guest_ptr(&drv.th->mem, BLOCK(4), 6 * FRAME_SIZE));
	/* The guest reboots. */
	host_call(drv.th, call_reset, drv.th);
	assert_false(stats(&drv).driver_ready);
	assert_int_equal(stats(&drv).plugged, 0);
	assert_int_equal(stats(&drv).requested, 8 * FRAME_SIZE);
	assert_null(guest_ptr(&drv.th->mem, BLOCK(4), 1));
	driver_start(&drv, F_ALL, 8);
	assert_int_equal(plug(&drv, 0, 8), VIRTIO_MEM_RESP_ACK);
	/* Blocks that cannot be taken away stay plugged, and the driver is told. */
	drv.th->release_broken = true;
	host_call(drv.th, call_reset, drv.th);
	drv.th->release_broken = false;
	driver_start(&drv, F_ALL, 8);
	assert_int_equal(CONFIG(&drv, plugged_size), 8 * FRAME_SIZE);
	assert_int_equal(unplug_all(&drv), VIRTIO_MEM_RESP_ACK);
	host_destroy(drv.th);
}

/* Pages of plugged blocks can be in the balloon, those of unplugged ones cannot. */
static void balloon_in_plugged_memory(void **state)
{
	uint32_t first = (uint32_t)(BLOCK(3) >> GUEST_PAGE_SHIFT);
	struct virtio_balloon_stats b;
	struct driver drv, balloon;
	uint32_t *pfns;

	(void)state;
	start(&drv, REGION);
	assert_int_equal(plug(&drv, 3, 1), VIRTIO_MEM_RESP_ACK);
	drv.th->present[HOST_FRAMES + 3] = true;
	driver_set_status(&drv, 0); /* the rings are at the same place */
	assert_true(driver_probe(&balloon, drv.th, 1));
	driver_start(&balloon, F_VERSION_1 | 1, 128);
	pfns = guest_ptr(&drv.th->mem, DRIVER_BUFFERS, 2048);
	for (unsigned int i = 0; i < 512; i++)
		pfns[i] = first + i;
	driver_send(&balloon, 0, DRIVER_BUFFERS, 2048);
	host_sync(drv.th);
	assert_false(drv.th->present[HOST_FRAMES + 3]);
	virtio_balloon_stats(drv.th->set.balloon, &b);
	assert_int_equal(b.frames_released, 1);
	pfns[0] = first + 512;
	driver_send(&balloon, 0, DRIVER_BUFFERS, 4);
	host_sync(drv.th);
	virtio_balloon_stats(drv.th->set.balloon, &b);
	assert_true(b.broken);
	host_destroy(drv.th);
}

/* A queued frame whose block goes away before it could be released. */
static void unplugged_while_it_waits(void **state)
{
	uint32_t first = (uint32_t)(BLOCK(3) >> GUEST_PAGE_SHIFT);
	struct driver drv;
	uint32_t *pfns;

	(void)state;
	start(&drv, REGION);
	assert_int_equal(plug(&drv, 3, 1), VIRTIO_MEM_RESP_ACK);
	assert_true(driver_probe(&drv, drv.th, 1));
	driver_start(&drv, F_VERSION_1 | 1, 128);
	pfns = guest_ptr(&drv.th->mem, DRIVER_BUFFERS, 2048);
	for (unsigned int i = 0; i < 512; i++)
		pfns[i] = first + i;
	drv.th->release_broken = true;
	driver_send(&drv, 0, DRIVER_BUFFERS, 2048);
	host_sync(drv.th);
	drv.th->release_broken = false;
	/* The test host stops at a release outside RAM. */
	th_unplug(drv.th, BLOCK(3), 1);
	pfns[0] = 1;
	driver_send(&drv, 0, DRIVER_BUFFERS, 4);
	host_sync(drv.th);
	assert_int_equal(driver_used_idx(&drv, 0), 2);
	host_destroy(drv.th);
}

static bool creates(struct test_host *th, struct virtio_mem_options options, int code)
{
	struct error err = { 0 };

	return virtio_mem_create(&th->host, th->set.pci, &options, &err) || err.code != code;
}

static void options(void **state)
{
	struct test_host *th = host_create(false);
	struct virtio_mem_options good = th->mem_options, bad;
	const struct guest_frame_ops *ops = th->mem.frame_ops;
	struct guest_frame_ops without = *ops;

	(void)state;
	bad = good;
	bad.region_size = 0;
	assert_false(creates(th, bad, EINVAL));
	bad.region_size = FRAME_SIZE + 1;
	assert_false(creates(th, bad, EINVAL));
	bad.region_size = REGION + FRAME_SIZE;
	assert_false(creates(th, bad, EINVAL));
	bad = good;
	bad.addr = FRAME_SIZE; /* boot memory */
	bad.region_size = FRAME_SIZE;
	assert_false(creates(th, bad, EINVAL));
	bad.addr = HOST_PLUG + 4096;
	assert_false(creates(th, bad, EINVAL));
	bad = good;
	bad.block_size = 4096;
	assert_false(creates(th, bad, EINVAL));
	bad.block_size = 3 * FRAME_SIZE;
	assert_false(creates(th, bad, EINVAL));
	without.plug = NULL;
	th->mem.frame_ops = &without;
	assert_false(creates(th, good, ENOTSUP));
	th->mem.frame_ops = NULL;
	assert_false(creates(th, good, ENOTSUP));
	th->mem.frame_ops = ops;
	host_destroy(th);
}

/* Blocks of several frames. */
static void larger_blocks(void **state)
{
	struct test_host *th = host_create(true);
	struct virtio_mem_options options = th->mem_options;
	struct driver drv;

	(void)state;
	options.block_size = 8 * FRAME_SIZE;
	options.has_node = false;
	th->set.mem[0] = virtio_mem_create(&th->host, th->set.pci, &options, NULL);
	assert_non_null(th->set.mem[0]);
	virtio_mem_device(th->set.mem[0])->next = th->set.last;
	th->set.last = virtio_mem_device(th->set.mem[0]);
	assert_true(driver_probe(&drv, th, SLOT + 1));
	assert_int_equal(set_requested(&drv, 4 * FRAME_SIZE), -EINVAL);
	assert_int_equal(set_requested(&drv, 16 * FRAME_SIZE), 0);
	driver_enable_memory(&drv);
	assert_int_equal(driver_offered(&drv), F_VERSION_1 | F_INACCESSIBLE);
	driver_start(&drv, F_VERSION_1 | F_INACCESSIBLE, 8);
	assert_int_equal(plug(&drv, 4, 1), VIRTIO_MEM_RESP_ERROR); /* not aligned */
	assert_int_equal(plug(&drv, 8, 2), VIRTIO_MEM_RESP_ACK);
	assert_int_equal(plug(&drv, 32, 1), VIRTIO_MEM_RESP_NACK);
	assert_non_null(guest_ptr(&th->mem, BLOCK(8), 16 * FRAME_SIZE));
	assert_int_equal(unplug(&drv, 16, 1), VIRTIO_MEM_RESP_ACK);
	assert_int_equal(stats(&drv).plugged, 8 * FRAME_SIZE);
	host_destroy(th);
}

static void *meddler(void *opaque)
{
	struct driver *drv = opaque;

	for (unsigned int i = 0; i < 300; i++) {
		CONFIG(drv, plugged_size);
		stats(drv);
		if (i % 100 == 50) {
			driver_negotiate(drv, F_ALL);
			driver_program_queue(drv, 0, &drv->queues[0]);
			driver_set_status(drv, S_ALL);
		}
	}
	return NULL;
}

static void threads(void **state)
{
	struct driver drv;
	pthread_t thread;

	(void)state;
	start(&drv, REGION);
	fill(&drv, VIRTIO_MEM_REQ_PLUG, BLOCK(0), 3);
	post(&drv, 24, 10);
	pthread_create(&thread, NULL, meddler, &drv);
	for (unsigned int i = 0; i < 200; i++) {
		set_requested(&drv, (i % HOST_PLUG_FRAMES) * FRAME_SIZE);
		driver_publish(&drv, 0, 0);
		driver_kick(&drv, 0);
	}
	pthread_join(thread, NULL);
	set_requested(&drv, REGION);
	driver_start(&drv, F_ALL, 8);
	host_sync(drv.th);
	assert_int_equal(unplug_all(&drv), VIRTIO_MEM_RESP_ACK);
	assert_int_equal(plug(&drv, 0, HOST_PLUG_FRAMES), VIRTIO_MEM_RESP_ACK);
	host_destroy(drv.th);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(configuration),
		cmocka_unit_test(requested_size),
		cmocka_unit_test(plug_and_unplug),
		cmocka_unit_test(never_beyond_the_request),
		cmocka_unit_test(asked_again),
		cmocka_unit_test(generations),
		cmocka_unit_test(unread_requests),
		cmocka_unit_test(pauses),
		cmocka_unit_test(memory_is_short),
		cmocka_unit_test(unplug_everything),
		cmocka_unit_test(hostile_requests),
		cmocka_unit_test(malformed_messages),
		cmocka_unit_test(many_requests),
		cmocka_unit_test(driver_gives_up),
		cmocka_unit_test(unplugs_its_own_buffers),
		cmocka_unit_test(resets),
		cmocka_unit_test(balloon_in_plugged_memory),
		cmocka_unit_test(unplugged_while_it_waits),
		cmocka_unit_test(options),
		cmocka_unit_test(larger_blocks),
		cmocka_unit_test(threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
