/* SPDX-License-Identifier: MIT */
/* A machine whose driver has found the balloon and started it. */
#ifndef TESTS_UNIT_BALLOON_DRIVER_H
#define TESTS_UNIT_BALLOON_DRIVER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <linux/virtio_balloon.h>

#include "tests/unit/virtio_driver.h"

#define F_VERSION_1 (1ull << VIRTIO_F_VERSION_1)
#define F_TELL      (1ull << VIRTIO_BALLOON_F_MUST_TELL_HOST)
#define INFLATE     0

static inline void start(struct driver *drv, uint64_t features)
{
	assert_true(driver_probe(drv, host_create(true), 1));
	assert_int_equal(driver_start(drv, features, 128), S_ALL);
	host_sync(drv->th);
}

static inline struct virtio_balloon_stats stats(struct driver *drv)
{
	struct virtio_balloon_stats s;

	virtio_balloon_stats(drv->th->set.balloon, &s);
	return s;
}

#endif
