/* SPDX-License-Identifier: MIT */
/*
 * Telling the machine that something about a device changed: it happens under the device's lock, in
 * any thread, and the callback must run in the loop's thread without the lock.
 */
#ifndef DEVICES_CHANGED_H
#define DEVICES_CHANGED_H

#include "framevisor/event_loop.h"

struct changed {
	int fd; /* eventfd, or -1 before changed_init() */
	struct event_source *source;
	event_post_fn fn;
	void *opaque;
};

/* fn may be NULL. Returns 0 or a negative errno; changed_fini() may follow in any case, if fd was
 * set to -1 before. */
int changed_init(struct changed *changed, struct event_loop *loop, event_post_fn fn, void *opaque);
void changed_fini(struct changed *changed);

/* fn(opaque) will run; several signals may become one call. Any thread. */
void changed_signal(struct changed *changed);

#endif
