/* SPDX-License-Identifier: MIT */
/* A callback in the loop's thread, by eventfd: see changed.h. */
#include "devices/changed.h"

#include <errno.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

static void on_signal(void *opaque, uint32_t events)
{
	struct changed *changed = opaque;
	uint64_t count;

	(void)events;
	if (read(changed->fd, &count, sizeof(count)) < 0)
		return;
	if (changed->fn)
		changed->fn(changed->opaque);
}

int changed_init(struct changed *changed, struct event_loop *loop, event_post_fn fn, void *opaque)
{
	changed->fn = fn;
	changed->opaque = opaque;
	changed->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (changed->fd < 0)
		return -errno;
	changed->source = event_loop_add(loop, changed->fd, EPOLLIN, on_signal, changed);
	return changed->source ? 0 : -errno;
}

void changed_fini(struct changed *changed)
{
	event_source_remove(changed->source);
	changed->source = NULL;
	if (changed->fd >= 0)
		close(changed->fd);
	changed->fd = -1;
}

void changed_signal(struct changed *changed)
{
	uint64_t one = 1;

	if (write(changed->fd, &one, sizeof(one)) < 0)
		return; /* EAGAIN: the callback will run anyway */
}
