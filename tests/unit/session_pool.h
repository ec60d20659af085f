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

static inline int create_session_pool(void)
{
	struct pool_config config = { .sim_nodes = 2, .sim_frames = NODE_FRAMES };

	pool = pool_create(&config, NULL);
	return pool ? 0 : -1;
}

static inline void check_session_pool(void)
{
	char message[256] = "";

	if (pool_validate(pool, message, sizeof(message)) != 0)
		fail_msg("%s", message);
}

static inline int session_setup(void **state)
{
	(void)state;
	return create_session_pool();
}

static inline int session_teardown(void **state)
{
	(void)state;
	check_session_pool();
	pool_destroy(pool);
	return 0;
}

static inline enum session_result handle(struct session *session, const union owner_packet *packet)
{
	uint64_t missing = 0;
	enum session_result result;

	why = NULL;
	result = session_handle(session, packet, packet->header.length, &reply, &missing, &why);
	check_session_pool();
	return result;
}

/* These say what came of it; those below expect that it went well. */

static inline enum session_result try_hello(struct session *session, uint32_t id, uint64_t ram)
{
	union owner_packet packet = { .hello = { .header = { .type = OWNER_HELLO,
							     .length = sizeof(packet.hello) },
						 .version = OWNER_PROTOCOL_VERSION,
						 .ram_frames = ram,
						 .name = "vm" } };

	session_init(session, pool, id);
	return handle(session, &packet);
}

static inline enum session_result try_grant(struct session *session, uint32_t nr, uint64_t nodemask,
					    uint32_t flags)
{
	union owner_packet packet = { .grant = { .header = { .type = OWNER_GRANT,
							     .length = sizeof(packet.grant) },
						 .nr_frames = nr,
						 .flags = flags,
						 .nodemask = nodemask } };

	return handle(session, &packet);
}

static inline void hello(struct session *session, uint32_t id, uint64_t ram)
{
	assert_int_equal(try_hello(session, id, ram), SESSION_REPLY);
	assert_int_equal(reply.packet.header.status, 0);
}

/* Returns how many frames it got. */
static inline uint32_t grant(struct session *session, uint32_t nr, uint64_t nodemask)
{
	assert_int_equal(try_grant(session, nr, nodemask, 0), SESSION_REPLY);
	return reply.packet.runs.nr_frames;
}

/* Returns the status of the reply. */
static inline int resize(struct session *session, uint64_t ram)
{
	union owner_packet packet = { .resize = { .header = { .type = OWNER_RESIZE,
							      .length = sizeof(packet.resize) },
						  .ram_frames = ram } };

	assert_int_equal(handle(session, &packet), SESSION_REPLY);
	assert_int_equal(reply.packet.header.type, OWNER_RESIZED);
	assert_int_equal(reply.packet.header.length, sizeof(reply.packet.resized));
	assert_int_equal(reply.packet.resized.ram_frames, session->ram_frames);
	return reply.packet.header.status;
}

#endif
