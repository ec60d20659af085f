/* SPDX-License-Identifier: MIT */
/*
 * The pool owner's end of one VM's notice channel (framevisor/owner_notice.h). Sending never
 * blocks; what the VMM owes an answer to is bounded. Main thread only.
 */
#ifndef VMM_OWNER_NOTICE_H
#define VMM_OWNER_NOTICE_H

#include <stdint.h>

#include "framevisor/error.h"
#include "framevisor/event_loop.h"
#include "vmm/owner/notice_packet.h"
#include "vmm/owner/objects.h"

/* Requests of one VM that are not DONE yet. */
#define NOTICE_PENDING_MAX 64

struct notice;

extern struct object_cache notice_cache;

/*
 * A request is done. status is 0, what the VMM answered, or -EPIPE: the VM has gone. frames is what
 * the VMM says it did; only the pool's counts are to be believed.
 */
typedef void (*notice_done_fn)(void *opaque, int status, uint64_t frames);

struct notice_ops {
	void (*status)(void *opaque, const struct notice_status *status);
	/* The VMM closed it, or sent what makes no sense (why). The notice is to be destroyed. */
	void (*broken)(void *opaque, const char *why);
};

/* *peer_fd is the VMM's end, to be sent and closed by the caller. Returns NULL with err set. */
struct notice *notice_create(struct event_loop *loop, const struct notice_ops *ops, void *opaque,
			     int *peer_fd, struct error *err);
/* Whoever waits for a DONE is told -EPIPE. NULL is ignored. From any callback. */
void notice_destroy(struct notice *notice);

/*
 * Sends packet of the given type and length (the header and the id are filled in here). done (may
 * be NULL) is called once, later. Returns 0, -EAGAIN when the VMM does not read (try again later),
 * -EBUSY when it owes NOTICE_PENDING_MAX answers, or -EPIPE.
 */
int notice_send(struct notice *notice, union notice_packet *packet, enum notice_type type,
		size_t len, notice_done_fn done, void *opaque);

/* Answers that are due. */
unsigned int notice_pending(const struct notice *notice);

#endif
