/* SPDX-License-Identifier: MIT */
/* A callback in the loop's thread, soon: see changed.h. */
#include "devices/changed.h"

#include <errno.h>
#include <stddef.h>

/* A driver that inflates or deflates says so twice per frame, and who looks takes the device's lock
 * that the driver waits for. */
#define GATHER_MS 5

static void on_timer(void *opaque)
{
	struct changed *changed = opaque;

	/* Before the callback: what changes while it looks is another change. */
	atomic_store(&changed->due, false);
	if (changed->fn)
		changed->fn(changed->opaque);
}

int changed_init(struct changed *changed, struct event_loop *loop, event_post_fn fn, void *opaque)
{
	changed->fn = fn;
	changed->opaque = opaque;
	atomic_init(&changed->due, false);
	changed->timer = event_timer_create(loop, on_timer, changed);
	return changed->timer ? 0 : -errno;
}

void changed_fini(struct changed *changed)
{
	event_timer_destroy(changed->timer);
	changed->timer = NULL;
}

void changed_signal(struct changed *changed)
{
	if (!atomic_exchange(&changed->due, true))
		event_timer_arm(changed->timer, GATHER_MS, 0);
}
