/* SPDX-License-Identifier: MIT */
/*
 * A machine that a fuzzer's input drives: a step of the input is a callback of the event loop that
 * posts itself again, so that doorbells and timers run in between, all in one thread.
 */
#ifndef TESTS_FUZZ_DEVICE_FUZZ_H
#define TESTS_FUZZ_DEVICE_FUZZ_H

#include "tests/unit/virtio_driver.h"

#define FUZZ_STEPS_MAX 400

struct fuzz {
	const uint8_t *data;
	size_t left;
	unsigned int steps;
	struct driver drv;
	void (*step)(struct fuzz *fuzz);
};

static inline uint64_t fuzz_take(struct fuzz *fuzz, unsigned int bytes)
{
	uint64_t value = 0;

	for (unsigned int i = 0; i < bytes && fuzz->left; i++, fuzz->left--)
		value |= (uint64_t)*fuzz->data++ << (8 * i);
	return value;
}

/* 1, 2, 4 or 8 */
static inline unsigned int fuzz_size(struct fuzz *fuzz)
{
	return 1u << (fuzz_take(fuzz, 1) & 3);
}

static inline void fuzz_next(void *opaque)
{
	struct fuzz *fuzz = opaque;
	struct event_loop *loop = fuzz->drv.th->host.loop;

	if (!fuzz->left || fuzz->steps++ == FUZZ_STEPS_MAX) {
		event_loop_quit(loop);
		return;
	}
	fuzz->step(fuzz);
	event_loop_post(loop, fuzz_next, fuzz);
}

/* The device's sum is what is RAM, and not beyond its region. */
static inline void fuzz_check_mem(struct fuzz *fuzz)
{
	struct virtio_mem_stats stats;

	virtio_mem_stats(fuzz->drv.th->set.mem[0], &stats);
	if (stats.plugged != guest_memory_size(&fuzz->drv.th->mem) - HOST_FRAMES * FRAME_SIZE)
		host_bug("blocks and guest memory do not agree");
	if (stats.usable < stats.requested || stats.usable > stats.region_size)
		host_bug("usable region out of bounds");
}

/* What must hold after anything a guest did. Ends the machine. */
static inline void fuzz_finish(struct fuzz *fuzz)
{
	struct virtio_balloon *balloon = fuzz->drv.th->set.balloon;
	struct virtio_balloon_stats stats;
	struct device *dev;

	virtio_balloon_stats(balloon, &stats);
	if (stats.inflated > HOST_ALL_FRAMES * FRAME_SIZE)
		host_bug("more in the balloon than there is memory");
	if (stats.frames_released + stats.frames_partial > HOST_ALL_FRAMES)
		host_bug("more frames than there are");
	fuzz_check_mem(fuzz);
	fuzz->drv.th->release_broken = false; /* so that a reset can unplug */
	for (dev = fuzz->drv.th->set.last; dev; dev = dev->next)
		dev->ops->reset(dev);
	virtio_balloon_stats(balloon, &stats);
	if (stats.inflated || stats.frames_released || stats.broken || stats.driver_ready)
		host_bug("a reset left something behind");
	if (guest_memory_size(&fuzz->drv.th->mem) != HOST_FRAMES * FRAME_SIZE)
		host_bug("a reset left blocks plugged");
	host_destroy(fuzz->drv.th);
}

/* The device under test is the one in slot. */
static inline void fuzz_run(const uint8_t *data, size_t size, unsigned int slot,
			    void (*setup)(struct fuzz *fuzz), void (*step)(struct fuzz *fuzz))
{
	struct fuzz fuzz = { .data = data, .left = size, .step = step };
	struct test_host *th = host_create(false);

	if (!driver_probe(&fuzz.drv, th, slot))
		host_bug("no device in the slot");
	if (setup)
		setup(&fuzz);
	event_loop_post(th->host.loop, fuzz_next, &fuzz);
	event_loop_run(th->host.loop);
	fuzz_finish(&fuzz);
}

#endif
