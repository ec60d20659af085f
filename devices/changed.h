/* SPDX-License-Identifier: MIT */
/*
 * Telling the machine that something about a device changed: it happens under the device's lock, in
 * any thread, and the callback must run in the loop's thread without the lock.
 */
#ifndef DEVICES_CHANGED_H
#define DEVICES_CHANGED_H

#include <stdatomic.h>
#include <stdbool.h>

#include "framevisor/event_loop.h"

struct changed {
	struct event_timer *timer; /* NULL before changed_init() */
	atomic_bool due;
	event_post_fn fn;
	void *opaque;
};

/* fn may be NULL. Returns 0 or a negative errno; changed_fini() may follow in any case, if all was
 * zero before. */
int changed_init(struct changed *changed, struct event_loop *loop, event_post_fn fn, void *opaque);
void changed_fini(struct changed *changed);

/* fn(opaque) will run within some ms; all signals until then are one call. Any thread. */
void changed_signal(struct changed *changed);

#endif
