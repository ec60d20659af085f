/* SPDX-License-Identifier: MIT */
/*
 * One client's conversation, without its socket: a packet goes in, a reply comes out. Nothing here
 * blocks, so that the same code serves the owner, its tests and its fuzzer.
 */
#ifndef VMM_OWNER_SESSION_H
#define VMM_OWNER_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/owner/packet.h"
#include "vmm/owner/pool.h"

enum session_state {
	SESSION_NEW,     /* no HELLO yet */
	SESSION_WAITING, /* said HELLO or RESIZE; the pool has to grow first */
	SESSION_READY,   /* has its WELCOME */
	SESSION_ENDED,   /* no more packets; may still hold frames */
};

struct session {
	struct pool *pool;
	struct packet_limits limits;
	uint32_t id; /* not 0; unique among all that may hold frames */
	enum session_state state;
	char name[OWNER_NAME_MAX];
	bool want_uffd;
	uint64_t ram_frames;
	uint64_t wanted_frames; /* RESIZE: the limit asked for */
	bool committed; /* ram_frames are promised to it: from WELCOME to session_release() */
	uint64_t held;
	uint64_t nr_granted, nr_returned; /* frames, since the start */
};

struct session_reply {
	union owner_packet packet;
	size_t len;
	int fds[OWNER_NODES_MAX + 1]; /* the pool's, to be sent along; room for one more */
	unsigned int nr_fds;
};

enum session_result {
	SESSION_REPLY,         /* send the reply */
	SESSION_WAIT,          /* no reply yet: grow by *missing, then session_admit() again */
	SESSION_REPLY_AND_CUT, /* send the reply and end the connection */
	SESSION_CUT,           /* end the connection; *why says why */
};

void session_init(struct session *session, struct pool *pool, uint32_t id);

/* Handles one packet. *missing is set with SESSION_WAIT, *why with the two that cut. */
enum session_result session_handle(struct session *session, const union owner_packet *packet,
				   size_t len, struct session_reply *reply, uint64_t *missing,
				   const char **why);

/* Decides over a waiting session: WELCOME or RESIZED, a refusal, or SESSION_WAIT with *missing
 * again. */
enum session_result session_admit(struct session *session, struct session_reply *reply,
				  uint64_t *missing);
/* Refuses a waiting session: a WELCOME that ends it, or a RESIZED that leaves it as it was. */
enum session_result session_refuse(struct session *session, const struct error *err,
				   struct session_reply *reply);

/* Takes back all frames and the commitment. The client can no longer touch a frame. */
uint64_t session_release(struct session *session);

#endif
