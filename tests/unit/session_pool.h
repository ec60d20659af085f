/* SPDX-License-Identifier: MIT */
/* Conversations with the pool owner without its process: sessions over a pool of pure metadata. */
#ifndef TESTS_UNIT_SESSION_POOL_H
#define TESTS_UNIT_SESSION_POOL_H

#include "owner_fixture.h"

#include "vmm/owner/pool.h"
#include "vmm/owner/session.h"

#define NODE_FRAMES 256u

static struct pool *pool;
static struct session_reply reply;
static const char *why;

static int create_session_pool(void)
{
	struct pool_config config = { .sim_nodes = 2, .sim_frames = NODE_FRAMES };

	pool = pool_create(&config, NULL);
	return pool ? 0 : -1;
}

static enum session_result handle(struct session *session, const union owner_packet *packet)
{
	char message[256] = "";
	uint64_t missing = 0;
	enum session_result result;

	why = NULL;
	result = session_handle(session, packet, packet->header.length, &reply, &missing, &why);
	if (pool_validate(pool, message, sizeof(message)) != 0)
		fail_msg("%s", message);
	return result;
}

static inline void hello(struct session *session, uint32_t id, uint64_t ram)
{
	union owner_packet packet = { .hello = { .header = { .type = OWNER_HELLO,
							     .length = sizeof(packet.hello) },
						 .version = OWNER_PROTOCOL_VERSION,
						 .ram_frames = ram,
						 .name = "vm" } };

	session_init(session, pool, id);
	assert_int_equal(handle(session, &packet), SESSION_REPLY);
	assert_int_equal(reply.packet.header.status, 0);
}

#endif
