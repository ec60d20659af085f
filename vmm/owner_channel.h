/* SPDX-License-Identifier: MIT */
/*
 * The VMM's end of the notice channel (framevisor/owner_notice.h), in the event loop: what the pool
 * owner asks becomes a call of one of the operations, what they return a DONE. Loop's thread only.
 */
#ifndef VMM_OWNER_CHANNEL_H
#define VMM_OWNER_CHANNEL_H

#include <stdint.h>

#include "framevisor/error.h"
#include "framevisor/event_loop.h"
#include "framevisor/owner_notice.h"

struct owner_channel;

/*
 * Each returns 0 or a negative errno, and *frames, what it did (0 on entry); or -EINPROGRESS, and
 * calls owner_channel_done() with the id later. What the packet says has been checked.
 */
struct owner_channel_ops {
	int (*reclaim)(void *opaque, const struct notice_reclaim *reclaim, uint64_t *frames);
	int (*target)(void *opaque, const struct notice_target *target, uint64_t *frames);
	int (*move)(void *opaque, const struct notice_move *move, uint64_t *frames);
	int (*pause)(void *opaque, const struct notice_pause *pause, uint64_t *frames);
	int (*resume)(void *opaque, const struct notice_resume *resume, uint64_t *frames);
	int (*limit)(void *opaque, const struct notice_limit *limit, uint64_t *frames);
	int (*grown)(void *opaque); /* may be NULL */
	/* STATUS is wanted every so often (0: not any more), and what it is to tell. */
	void (*pace)(void *opaque, const struct notice_ask *ask);
	/* Fills in everything but the header and the id. */
	void (*status)(void *opaque, struct notice_status *status);
};

/* What its numbers may be, ops and opaque outlive it. Returns NULL with err set. */
struct packet_limits;
struct owner_channel *owner_channel_create(struct event_loop *loop,
					   const struct packet_limits *limits,
					   const struct owner_channel_ops *ops, void *opaque,
					   struct error *err);
void owner_channel_destroy(struct owner_channel *channel); /* NULL is ignored */

/* Speaks on fd (owner_client_notice_fd(); it stays the caller's) from now on, and no more on the
 * one before; -1: on none. Returns 0 or a negative errno. */
int owner_channel_attach(struct owner_channel *channel, int fd);

/* The answer to an operation that returned -EINPROGRESS. One that belongs to an earlier connection
 * is dropped. */
void owner_channel_done(struct owner_channel *channel, uint64_t id, int status, uint64_t frames);

/* Something changed that the owner wants to know soon: a STATUS now. */
void owner_channel_report(struct owner_channel *channel);

#endif
