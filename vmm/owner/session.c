/* SPDX-License-Identifier: MIT */
/* One client's conversation: see session.h. */
#include "vmm/owner/session.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "framevisor/frame.h"
#include "framevisor/size.h"

void session_init(struct session *session, struct pool *pool, uint32_t id)
{
	memset(session, 0, sizeof(*session));
	session->pool = pool;
	session->id = id;
	session->limits.nr_nodes = pool_nr_nodes(pool);
	for (unsigned int nid = 0; nid < session->limits.nr_nodes; nid++)
		session->limits.spanned[nid] = pool_spanned(pool, nid);
}

static void begin_reply(struct session_reply *reply, enum owner_message_type type, size_t len)
{
	memset(&reply->packet, 0, len);
	reply->packet.header.type = type;
	reply->packet.header.length = (uint32_t)len;
	reply->len = len;
	reply->nr_fds = 0;
}

static void welcome(struct session *session, struct session_reply *reply)
{
	struct owner_welcome *msg = &reply->packet.welcome;

	begin_reply(reply, OWNER_WELCOME, sizeof(*msg));
	msg->client_id = session->id;
	msg->flags = pool_hugetlb(session->pool) ? OWNER_WELCOME_HUGETLB : 0;
	msg->nr_nodes = session->limits.nr_nodes;
	for (unsigned int nid = 0; nid < msg->nr_nodes; nid++) {
		msg->spanned[nid] = session->limits.spanned[nid];
		reply->fds[reply->nr_fds++] = pool_fd(session->pool, nid);
	}
}

static enum session_result resized(struct session *session, const struct error *err,
				   struct session_reply *reply)
{
	struct owner_resized *msg = &reply->packet.resized;

	session->state = SESSION_READY;
	begin_reply(reply, OWNER_RESIZED, sizeof(*msg));
	msg->header.status = err ? -err->code : 0;
	msg->ram_frames = session->ram_frames;
	if (err)
		snprintf(msg->message, sizeof(msg->message), "%.*s", (int)sizeof(msg->message) - 1,
			 err->message);
	return SESSION_REPLY;
}

enum session_result session_refuse(struct session *session, const struct error *err,
				   struct session_reply *reply)
{
	struct owner_welcome *msg = &reply->packet.welcome;

	if (session->committed)
		return resized(session, err, reply);
	session->state = SESSION_ENDED;
	begin_reply(reply, OWNER_WELCOME, sizeof(*msg));
	msg->header.status = -err->code;
	snprintf(msg->message, sizeof(msg->message), "%.*s", (int)sizeof(msg->message) - 1,
		 err->message);
	return SESSION_REPLY_AND_CUT;
}

/* A VM that runs already is told its own numbers, not only those of what it asks more. */
static enum session_result refuse_growth(struct session *session, struct session_reply *reply)
{
	char now[SIZE_TEXT_MAX], wanted[SIZE_TEXT_MAX], size[SIZE_TEXT_MAX], used[SIZE_TEXT_MAX];
	struct error err = { 0 };
	struct pool_info info;

	pool_info(session->pool, &info);
	size_format(frames_to_bytes(session->ram_frames), now, sizeof(now));
	size_format(frames_to_bytes(session->wanted_frames), wanted, sizeof(wanted));
	size_format(frames_to_bytes(info.max_frames), size, sizeof(size));
	size_format(frames_to_bytes(info.committed + info.reserve), used, sizeof(used));
	error_set(&err, ENOMEM,
		  "VM '%s' cannot grow from %s to %s: the pool of at most %s has %s promised or in "
		  "reserve; stop or shrink a VM first",
		  session->name, now, wanted, size, used);
	return session_refuse(session, &err, reply);
}

enum session_result session_admit(struct session *session, struct session_reply *reply,
				  uint64_t *missing)
{
	uint64_t more = session->committed ? session->wanted_frames - session->ram_frames
					   : session->ram_frames;
	struct error err = { 0 };
	int ret = pool_admit(session->pool, session->name, more, missing, &err);

	if (ret == -EAGAIN) {
		session->state = SESSION_WAITING;
		return SESSION_WAIT;
	}
	if (ret < 0)
		return session->committed ? refuse_growth(session, reply)
					  : session_refuse(session, &err, reply);
	if (session->committed) {
		session->ram_frames = session->wanted_frames;
		return resized(session, NULL, reply);
	}
	session->state = SESSION_READY;
	session->committed = true;
	welcome(session, reply);
	return SESSION_REPLY;
}

static enum session_result handle_hello(struct session *session, const struct owner_hello *hello,
					struct session_reply *reply, uint64_t *missing)
{
	memcpy(session->name, hello->name, sizeof(session->name));
	session->ram_frames = hello->ram_frames;
	session->want_uffd = (hello->flags & OWNER_HELLO_WANT_UFFD) != 0;
	return session_admit(session, reply, missing);
}

static enum session_result handle_grant(struct session *session, const struct owner_grant *grant,
					struct session_reply *reply)
{
	struct owner_runs *msg = &reply->packet.runs;
	unsigned int nr_runs = OWNER_RUNS_MAX;
	uint64_t want = grant->nr_frames, got = 0;

	begin_reply(reply, OWNER_GRANTED, sizeof(*msg));
	/* What was promised to others is not for this one: its RAM is all it may hold. */
	if (want > session->ram_frames - session->held)
		want = session->ram_frames - session->held;
	if (want)
		got = pool_take(session->pool, session->id, want, grant->nodemask, msg->runs,
				&nr_runs);
	if (got == 0) {
		nr_runs = 0;
		msg->header.status = -ENOMEM;
	}
	session->held += got;
	session->nr_granted += got;
	msg->nr_runs = nr_runs;
	msg->nr_frames = (uint32_t)got;
	reply->len = packet_runs_length(nr_runs);
	msg->header.length = (uint32_t)reply->len;
	return SESSION_REPLY;
}

static enum session_result handle_return(struct session *session, const struct owner_runs *runs,
					 struct session_reply *reply, const char **why)
{
	struct owner_returned *msg = &reply->packet.returned;
	int ret = -EPERM;

	begin_reply(reply, OWNER_RETURNED, sizeof(*msg));
	if (runs->nr_frames <= session->held)
		ret = pool_give(session->pool, session->id, runs->runs, runs->nr_runs);
	if (ret < 0) {
		msg->header.status = ret;
		*why = "RETURN of a frame that it does not hold";
		session->state = SESSION_ENDED;
		return SESSION_REPLY_AND_CUT;
	}
	msg->nr_frames = runs->nr_frames;
	session->held -= runs->nr_frames;
	session->nr_returned += runs->nr_frames;
	return SESSION_REPLY;
}

static enum session_result handle_resize(struct session *session, const struct owner_resize *resize,
					 struct session_reply *reply, uint64_t *missing)
{
	struct error err = { 0 };

	session->wanted_frames = resize->ram_frames;
	if (session->wanted_frames > session->ram_frames)
		return session_admit(session, reply, missing);
	if (session->wanted_frames < session->held) {
		error_set(&err, EBUSY, "VM '%s' holds more frames than it would be left with",
			  session->name);
		return resized(session, &err, reply);
	}
	pool_release(session->pool, session->ram_frames - session->wanted_frames);
	session->ram_frames = session->wanted_frames;
	return resized(session, NULL, reply);
}

static enum session_result cut(struct session *session)
{
	session->state = SESSION_ENDED;
	return SESSION_CUT;
}

enum session_result session_handle(struct session *session, const union owner_packet *packet,
				   size_t len, struct session_reply *reply, uint64_t *missing,
				   const char **why)
{
	if (packet_check_request(packet, len, &session->limits, why) < 0)
		return cut(session);
	if (packet->header.type == OWNER_HELLO && session->state == SESSION_NEW) {
		*why = NULL; /* a refusal is told to the client */
		return handle_hello(session, &packet->hello, reply, missing);
	}
	if (session->state != SESSION_READY || packet->header.type == OWNER_HELLO) {
		*why = "request out of order";
		return cut(session);
	}
	if (packet->header.type == OWNER_GRANT)
		return handle_grant(session, &packet->grant, reply);
	if (packet->header.type == OWNER_RESIZE) {
		*why = NULL;
		return handle_resize(session, &packet->resize, reply, missing);
	}
	return handle_return(session, &packet->runs, reply, why);
}

uint64_t session_release(struct session *session)
{
	uint64_t nr;

	/* Only who was welcomed is promised anything, and only it can hold frames. */
	if (!session->committed)
		return 0;
	nr = pool_take_back(session->pool, session->id);
	pool_release(session->pool, session->ram_frames);
	session->committed = false;
	session->held = 0;
	return nr;
}
