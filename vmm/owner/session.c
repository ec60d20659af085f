/* SPDX-License-Identifier: MIT */
/* One client's conversation: see session.h. */
#include "vmm/owner/session.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "framevisor/frame.h"
#include "framevisor/overcommit.h"
#include "framevisor/size.h"

void session_init(struct session *session, struct pool *pool, uint32_t id)
{
	memset(session, 0, sizeof(*session));
	session->pool = pool;
	session->id = id;
	session->maps.maps_fd = MAP_CHECK_CLOSED;
	session->limits.nr_nodes = pool_nr_nodes(pool);
	for (unsigned int nid = 0; nid < session->limits.nr_nodes; nid++)
		session->limits.spanned[nid] = pool_spanned(pool, nid);
}

void session_begin_reply(struct session_reply *reply, enum owner_message_type type, size_t len)
{
	memset(&reply->packet, 0, len);
	reply->packet.header.type = type;
	reply->packet.header.length = (uint32_t)len;
	reply->len = len;
	reply->nr_fds = 0;
}

void session_begin_welcome(struct session *session, struct session_reply *reply)
{
	struct owner_welcome *msg = &reply->packet.welcome;

	session_begin_reply(reply, OWNER_WELCOME, sizeof(*msg));
	msg->client_id = session->id;
	msg->flags = pool_hugetlb(session->pool) ? OWNER_WELCOME_HUGETLB : 0;
	msg->nr_nodes = session->limits.nr_nodes;
	for (unsigned int nid = 0; nid < msg->nr_nodes; nid++) {
		msg->spanned[nid] = session->limits.spanned[nid];
		msg->host_node[nid] = (uint16_t)pool_host_node(session->pool, nid);
	}
}

static void welcome(struct session *session, struct session_reply *reply)
{
	session_begin_welcome(session, reply);
	for (unsigned int nid = 0; nid < session->limits.nr_nodes; nid++)
		reply->fds[reply->nr_fds++] = pool_fd(session->pool, nid);
}

static enum session_result resized(struct session *session, const struct error *err,
				   struct session_reply *reply)
{
	struct owner_resized *msg = &reply->packet.resized;

	session->state = SESSION_READY;
	session_begin_reply(reply, OWNER_RESIZED, sizeof(*msg));
	msg->header.status = err ? -err->code : 0;
	msg->ram_frames = session->ram_frames;
	if (err)
		snprintf(msg->message, sizeof(msg->message), "%.*s", (int)sizeof(msg->message) - 1,
			 err->message);
	return SESSION_REPLY;
}

static enum session_result bound(struct session *session, const struct error *err,
				 struct session_reply *reply)
{
	struct owner_bound *msg = &reply->packet.bound;

	session->state = SESSION_READY;
	session->binding = false;
	session_begin_reply(reply, OWNER_BOUND, sizeof(*msg));
	msg->header.status = err ? -err->code : 0;
	msg->frames = session->bound[session->wanted_node];
	if (err)
		snprintf(msg->message, sizeof(msg->message), "%.*s", (int)sizeof(msg->message) - 1,
			 err->message);
	return SESSION_REPLY;
}

enum session_result session_refuse(struct session *session, const struct error *err,
				   struct session_reply *reply)
{
	struct owner_welcome *msg = &reply->packet.welcome;

	if (session->binding)
		return bound(session, err, reply);
	if (session->committed)
		return resized(session, err, reply);
	session->state = SESSION_ENDED;
	session_begin_reply(reply, OWNER_WELCOME, sizeof(*msg));
	msg->header.status = -err->code;
	snprintf(msg->message, sizeof(msg->message), "%.*s", (int)sizeof(msg->message) - 1,
		 err->message);
	return SESSION_REPLY_AND_CUT;
}

/* What it was guaranteed and does not hold yet. */
uint64_t session_unclaimed(const struct session *session)
{
	return session->committed && session->guaranteed > session->held
		       ? session->guaranteed - session->held
		       : 0;
}

static uint64_t guarantee(struct session *session, uint64_t min_frames, uint64_t ram_frames)
{
	uint64_t min = min_frames ? min_frames : pool_default_min(session->pool, ram_frames);

	return min < ram_frames ? min : ram_frames;
}

static struct pool_promise promised(const struct session *session)
{
	return (struct pool_promise){ .ram = session->committed ? session->ram_frames : 0,
				      .min = session->committed ? session->guaranteed : 0 };
}

/* What is kept for it of a node beyond what it holds there. */
uint64_t session_owed(const struct session *session, unsigned int nid)
{
	return session->bound[nid] > session->node_held[nid]
		       ? session->bound[nid] - session->node_held[nid]
		       : 0;
}

/* What may be kept for it of a node: with overcommit frames beyond its guarantee are others' as
 * much as its own. */
static uint64_t may_bind(const struct session *session, unsigned int nid, uint64_t wanted)
{
	uint64_t mode = OVERCOMMIT_NEVER, left;

	(void)pool_setting_get(session->pool, "overcommit_memory", 0, &mode);
	left = mode == OVERCOMMIT_NEVER ? session->ram_frames : session->guaranteed;
	for (unsigned int i = 0; i < OWNER_NODES_MAX; i++)
		if (i != nid)
			left -= session->bound[i] < left ? session->bound[i] : left;
	return wanted < left ? wanted : left;
}

/* What it is guaranteed has changed. More is kept of a node as far as there is more. */
static void bind_again(struct session *session)
{
	for (unsigned int nid = 0; nid < session->limits.nr_nodes; nid++) {
		uint64_t before = session_owed(session, nid), old = session->bound[nid], missing;
		struct error ignored = { 0 };

		session->bound[nid] = may_bind(session, nid, session->wants_bound[nid]);
		if (pool_keep(session->pool, nid, before, session_owed(session, nid), &missing,
			      &ignored) < 0)
			session->bound[nid] = old;
	}
}

/* Promises it ram_frames from now on. Returns what pool_admit() does. */
static int promise(struct session *session, uint64_t ram_frames, bool may_grow, uint64_t *missing,
		   struct error *err)
{
	struct pool_request request = {
		.name = session->name,
		.old = promised(session),
		.want = { .ram = ram_frames,
			  .min = guarantee(session, session->min_frames, ram_frames) },
		.may_grow = may_grow,
	};
	uint64_t before = session_unclaimed(session);
	int ret = pool_admit(session->pool, &request, missing, err);

	if (ret < 0)
		return ret;
	session->ram_frames = ram_frames;
	session->guaranteed = request.want.min;
	session->committed = true;
	pool_claim(session->pool, before, session_unclaimed(session));
	bind_again(session);
	return 0;
}

static enum session_result admit_bind(struct session *session, struct session_reply *reply,
				      uint64_t *missing)
{
	unsigned int nid = session->wanted_node;
	uint64_t before = session_owed(session, nid), old = session->bound[nid];
	struct error err = { 0 };
	int ret;

	session->bound[nid] = may_bind(session, nid, session->wanted_frames);
	ret = pool_keep(session->pool, nid, before, session_owed(session, nid), missing, &err);
	if (ret < 0) {
		session->bound[nid] = old;
	} else {
		session->wants_bound[nid] = session->wanted_frames;
		bind_again(session);
	}
	if (ret == -EAGAIN) {
		session->state = SESSION_WAITING;
		session->grow_nodes = UINT64_C(1) << nid;
		return SESSION_WAIT;
	}
	return bound(session, ret < 0 ? &err : NULL, reply);
}

static int check_resize(const struct session *session, uint64_t frames, struct error *err)
{
	char size[SIZE_TEXT_MAX], lack[SIZE_TEXT_MAX];

	if (frames > session->max_frames)
		return error_set(
			err, ENOMEM, "VM '%s' may not have more than its maximum, %s: %s too much",
			session->name,
			size_format(frames_to_bytes(session->max_frames), size, sizeof(size)),
			size_format(frames_to_bytes(frames - session->max_frames), lack,
				    sizeof(lack)));
	if (frames < session->held)
		return error_set(err, EBUSY, "VM '%s' holds more frames than it would be left with",
				 session->name);
	return 0;
}

static enum session_result admit(struct session *session, bool may_grow,
				 struct session_reply *reply, uint64_t *missing)
{
	bool running = session->committed;
	struct error err = { 0 };
	/* Its maximum may have been lowered while it waited. */
	int ret = running ? check_resize(session, session->wanted_frames, &err) : 0;

	if (ret == 0)
		ret = promise(session, running ? session->wanted_frames : session->ram_frames,
			      may_grow, missing, &err);
	if (ret == -EAGAIN) {
		session->state = SESSION_WAITING;
		session->grow_nodes = session->hello_nodes;
		return SESSION_WAIT;
	}
	if (ret < 0)
		return session_refuse(session, &err, reply);
	if (running)
		return resized(session, NULL, reply);
	session->state = SESSION_READY;
	welcome(session, reply);
	return SESSION_REPLY;
}

enum session_result session_admit(struct session *session, struct session_reply *reply,
				  uint64_t *missing)
{
	if (session->binding)
		return admit_bind(session, reply, missing);
	return admit(session, true, reply, missing);
}

enum session_result session_admit_ungrown(struct session *session, const struct error *err,
					  struct session_reply *reply)
{
	uint64_t ram = session->committed ? session->wanted_frames : session->ram_frames, missing;
	struct error ignored = { 0 };
	bool running = session->committed;

	if (session->binding || (running && check_resize(session, ram, &ignored) < 0) ||
	    promise(session, ram, false, &missing, &ignored) < 0)
		return session_refuse(session, err, reply);
	if (running)
		return resized(session, NULL, reply);
	session->state = SESSION_READY;
	welcome(session, reply);
	return SESSION_REPLY;
}

void session_get_limits(const struct session *session, struct session_limits *limits)
{
	*limits = (struct session_limits){ .min_frames = session->min_frames,
					   .max_frames = session->max_frames,
					   .shares = session->shares,
					   .oom_score_adj = session->oom_score_adj };
}

static int check_limits(const struct session *session, const struct session_limits *limits,
			struct error *err)
{
	char a[SIZE_TEXT_MAX], b[SIZE_TEXT_MAX], lack[SIZE_TEXT_MAX];

	size_format(frames_to_bytes(limits->max_frames), a, sizeof(a));
	if (limits->max_frames > session->ceiling)
		return error_set(err, EINVAL,
				 "VM '%s' cannot have a maximum of %s: it was started with room "
				 "for %s (--mem max=), %s less",
				 session->name, a,
				 size_format(frames_to_bytes(session->ceiling), b, sizeof(b)),
				 size_format(frames_to_bytes(limits->max_frames - session->ceiling),
					     lack, sizeof(lack)));
	if (limits->max_frames < session->ram_frames)
		return error_set(
			err, EBUSY,
			"VM '%s' has been given %s, which is %s more than %s; shrink it "
			"first (framevisor balloon)",
			session->name,
			size_format(frames_to_bytes(session->ram_frames), b, sizeof(b)),
			size_format(frames_to_bytes(session->ram_frames - limits->max_frames), lack,
				    sizeof(lack)),
			a);
	if (limits->min_frames > limits->max_frames)
		return error_set(
			err, EINVAL, "VM '%s' cannot be guaranteed %s: its maximum is %s, %s less",
			session->name,
			size_format(frames_to_bytes(limits->min_frames), b, sizeof(b)), a,
			size_format(frames_to_bytes(limits->min_frames - limits->max_frames), lack,
				    sizeof(lack)));
	if (limits->shares == 0 || limits->shares > OWNER_SHARES_MAX)
		return error_set(err, EINVAL, "shares are 1 to %d", OWNER_SHARES_MAX);
	if (limits->oom_score_adj < -1000 || limits->oom_score_adj > 1000)
		return error_set(err, EINVAL, "the OOM score adjustment is -1000 to 1000");
	return 0;
}

int session_set_limits(struct session *session, const struct session_limits *limits,
		       struct error *err)
{
	uint64_t old = session->min_frames, missing = 0;
	int ret = check_limits(session, limits, err);

	if (ret < 0)
		return ret;
	session->min_frames = limits->min_frames;
	ret = promise(session, session->ram_frames, false, &missing, err);
	if (ret < 0) {
		session->min_frames = old;
		return ret;
	}
	session->max_frames = limits->max_frames;
	session->shares = limits->shares;
	session->oom_score_adj = limits->oom_score_adj;
	if (session->later_frames > session->max_frames) {
		session->later_failed = session->later_frames;
		session->later_frames = 0;
		(void)check_resize(session, session->later_failed, &session->later_error);
	}
	return 0;
}

static enum session_result handle_hello(struct session *session, const struct owner_hello *hello,
					struct session_reply *reply, uint64_t *missing)
{
	struct error err = { 0 };
	bool all;

	memcpy(session->name, hello->name, sizeof(session->name));
	session->ram_frames = hello->ram_frames;
	session->min_frames = hello->min_frames;
	session->ceiling = hello->max_frames ? hello->max_frames : PACKET_FRAMES_MAX;
	session->max_frames = session->ceiling;
	session->shares = hello->shares ? hello->shares : OWNER_SHARES_DEFAULT;
	session->oom_score_adj = hello->oom_score_adj;
	session->want_uffd = (hello->flags & OWNER_HELLO_WANT_UFFD) != 0;
	session->tell_filling = (hello->flags & OWNER_HELLO_TELL_FILLING) != 0;
	if (!!(hello->flags & OWNER_HELLO_FRAMES_1G) != (FRAME_SHIFT == FRAME_SHIFT_1G)) {
		error_set(&err, EINVAL,
			  "the pool's frames are of %s; start the VM with --hugepages=%s, or stop "
			  "the pool",
			  frame_size_name(), FRAME_SHIFT == FRAME_SHIFT_1G ? "1G" : "auto");
		return session_refuse(session, &err, reply);
	}
	session->hello_nodes = pool_nodes_of_host(session->pool, hello->host_nodes, &all);
	if (!all) {
		error_set(&err, EINVAL,
			  "VM '%s' wants memory of a node that this host's pool does not have",
			  session->name);
		return session_refuse(session, &err, reply);
	}
	return session_admit(session, reply, missing);
}

/* The runs came to it, or went. */
static void count_runs(struct session *session, const struct frame_run *runs, unsigned int nr_runs,
		       bool came)
{
	for (unsigned int i = 0; i < nr_runs; i++) {
		unsigned int nid = runs[i].node;
		uint64_t before = session_owed(session, nid);

		session->node_held[nid] += came ? runs[i].nr : -(uint64_t)runs[i].nr;
		pool_owe(session->pool, nid, before, session_owed(session, nid));
	}
}

void session_count_returned(struct session *session, const struct frame_run *runs,
			    unsigned int nr_runs)
{
	uint64_t own = session_unclaimed(session);

	count_runs(session, runs, nr_runs, false);
	for (unsigned int i = 0; i < nr_runs; i++) {
		session->held -= runs[i].nr;
		session->nr_returned += runs[i].nr;
	}
	pool_claim(session->pool, own, session_unclaimed(session));
}

static uint64_t take(struct session *session, const struct pool_want *want, struct frame_run *runs,
		     unsigned int *nr_runs)
{
	uint64_t mine[OWNER_NODES_MAX], got;

	for (unsigned int nid = 0; nid < session->limits.nr_nodes; nid++)
		mine[nid] = session_owed(session, nid);
	got = pool_take_owed(session->pool, want, mine, runs, nr_runs);
	count_runs(session, runs, *nr_runs, true);
	return got;
}

/* What was promised to others is not for this one: its RAM is all it may hold, but for frames that
 * it moves to. */
static uint64_t room_for(const struct session *session, const struct owner_grant *grant)
{
	uint64_t limit = session->ram_frames, withheld = session->withheld, most;

	if ((grant->flags & OWNER_GRANT_TO_MOVE) && !session->stays_beyond) {
		limit += FRAME_SHIFT == FRAME_SHIFT_1G ? OWNER_MOVE_FRAMES_1G : OWNER_MOVE_FRAMES;
		withheld = 0; /* as many come back at once */
	}
	if (limit <= session->held)
		return 0;
	most = pool_grantable(session->pool, session_unclaimed(session), withheld);
	if (withheld && session->held < session->withheld_from) {
		uint64_t all = pool_grantable(session->pool, session_unclaimed(session), 0);
		uint64_t allowed = session->withheld_from - session->held;

		allowed = allowed < all ? allowed : all;
		most = most > allowed ? most : allowed;
	}
	return most < limit - session->held ? most : limit - session->held;
}

static enum session_result handle_grant(struct session *session, const struct owner_grant *grant,
					struct session_reply *reply)
{
	struct owner_runs *msg = &reply->packet.runs;
	unsigned int nr_runs = OWNER_RUNS_MAX;
	struct pool_want want = { .id = session->id,
				  .small = (grant->flags & OWNER_GRANT_TO_MOVE) != 0,
				  .nr = grant->nr_frames,
				  .nodemask = grant->nodemask };
	uint64_t got = 0, own = session_unclaimed(session), most = room_for(session, grant);

	session_begin_reply(reply, OWNER_GRANTED, sizeof(*msg));
	if (want.nr > most)
		want.nr = most;
	session_in_flight(session, LEDGER_GRANT, NULL);
	if (want.nr)
		got = take(session, &want, msg->runs, &nr_runs);
	if (got == 0) {
		nr_runs = 0;
		msg->header.status = -ENOMEM;
	}
	session->held += got;
	pool_claim(session->pool, own, session_unclaimed(session));
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

	session_begin_reply(reply, OWNER_RETURNED, sizeof(*msg));
	session_in_flight(session, LEDGER_RETURN, runs);
	if (runs->nr_frames <= session->held)
		ret = session_give(session, runs->runs, runs->nr_runs);
	if (ret < 0) {
		msg->header.status = ret;
		*why = "RETURN of a frame that it does not hold, or still maps";
		session->state = SESSION_ENDED;
		return SESSION_REPLY_AND_CUT;
	}
	msg->nr_frames = runs->nr_frames;
	session_count_returned(session, runs->runs, runs->nr_runs);
	return SESSION_REPLY;
}

/* The pool grows for a VM that does not wait for it by so much first, then by twice as much, and so
 * on: it goes on with the first step while the pool takes the next, and large ones are few. */
#define LATER_STEP_BYTES (UINT64_C(128) << 20)

/*
 * Promises as much of later_frames as there is. Returns 0 (all of it), -EAGAIN with *missing (of
 * the next step), or another negative errno with err set: there will be no more.
 */
static int promise_later(struct session *session, uint64_t *missing, struct error *err)
{
	uint64_t wanted = session->later_frames, lack = 0, part;
	struct error ignored = { 0 };
	int ret = promise(session, wanted, true, &lack, err);

	if (ret != -EAGAIN)
		return ret;
	part = wanted > lack ? wanted - lack : 0;
	if (part > session->ram_frames)
		promise(session, part, false, missing, &ignored);
	*missing = lack < session->later_step ? lack : session->later_step;
	session->grow_nodes = session->hello_nodes;
	return -EAGAIN;
}

bool session_go_on(struct session *session, const struct error *err, uint64_t *missing)
{
	uint64_t before = session->ram_frames, wanted = session->later_frames;
	struct error why = { 0 };
	int ret;

	session->later_step *= 2;
	/* What there is may suffice, in a mode that does not need all of it. */
	ret = err ? promise(session, wanted, false, missing, &why)
		  : promise_later(session, missing, &why);
	if (ret == -EAGAIN && !err)
		return session->ram_frames != before;
	*missing = 0;
	session->later_frames = 0;
	if (ret < 0) {
		session->later_error = err ? *err : why;
		session->later_failed = wanted;
	}
	return true;
}

static enum session_result handle_resize_later(struct session *session, bool again,
					       struct session_reply *reply, uint64_t *missing)
{
	enum session_result result;
	struct error err = { 0 };
	int ret;

	session->later_frames = session->wanted_frames;
	if (!again)
		session->later_step = bytes_to_frames_up(LATER_STEP_BYTES);
	ret = promise_later(session, missing, &err);
	if (ret == -EAGAIN) {
		error_set(&err, EINPROGRESS, "the pool grows for VM '%s'", session->name);
		return resized(session, &err, reply);
	}
	session->later_frames = 0;
	result = resized(session, ret < 0 ? &err : NULL, reply);
	*missing = 0;
	return result;
}

static enum session_result handle_resize(struct session *session, const struct owner_resize *resize,
					 struct session_reply *reply, uint64_t *missing)
{
	bool later = (resize->flags & OWNER_RESIZE_LATER) && session->noticed;
	bool again = later && session->later_frames == resize->ram_frames;
	struct error err = session->later_error;

	/* Whatever it asks, what it asked before is called off. */
	session->later_frames = 0;
	error_clear(&session->later_error);
	if (err.code && later && resize->ram_frames == session->later_failed)
		return resized(session, &err, reply);
	error_clear(&err);
	session->wanted_frames = resize->ram_frames;
	if (check_resize(session, resize->ram_frames, &err) < 0)
		return resized(session, &err, reply);
	if (later)
		return handle_resize_later(session, again, reply, missing);
	return session_admit(session, reply, missing);
}

static enum session_result handle_bind(struct session *session, const struct owner_bind *bind,
				       struct session_reply *reply, uint64_t *missing)
{
	session->binding = true;
	session->wanted_node = bind->node;
	session->wanted_frames = bind->frames;
	return admit_bind(session, reply, missing);
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
	if (packet->header.type == OWNER_HELLO && session->state == SESSION_NEW &&
	    (session->adopted || packet->hello.flags & OWNER_HELLO_ADOPT))
		return session_welcome_back(session, reply, why);
	if (packet->header.type == OWNER_HELLO && session->state == SESSION_NEW) {
		*why = NULL; /* a refusal is told to the client */
		return handle_hello(session, &packet->hello, reply, missing);
	}
	if (session->state != SESSION_READY || packet->header.type == OWNER_HELLO) {
		*why = "request out of order";
		return cut(session);
	}
	if (packet->header.type == OWNER_DECLARE)
		return session_declare(session, &packet->runs, reply, why);
	if (session->declaring) {
		*why = "request before everything was declared";
		return cut(session);
	}
	if (packet->header.type == OWNER_GRANT)
		return handle_grant(session, &packet->grant, reply);
	if (packet->header.type != OWNER_RETURN)
		session_in_flight(session, LEDGER_NONE, NULL);
	if (packet->header.type == OWNER_RESIZE) {
		*why = NULL;
		return handle_resize(session, &packet->resize, reply, missing);
	}
	if (packet->header.type == OWNER_BIND) {
		*why = NULL;
		return handle_bind(session, &packet->bind, reply, missing);
	}
	return handle_return(session, &packet->runs, reply, why);
}

uint64_t session_release(struct session *session)
{
	struct pool_promise before;
	uint64_t nr;

	/* Only who was welcomed is promised anything, and only it can hold frames. */
	if (!session->committed) {
		session_forget(session, true);
		return 0;
	}
	nr = pool_take_back(session->pool, session->id);
	for (unsigned int nid = 0; nid < session->limits.nr_nodes; nid++) {
		pool_owe(session->pool, nid, session_owed(session, nid), 0);
		session->bound[nid] = session->wants_bound[nid] = 0;
		session->node_held[nid] = 0;
	}
	before = promised(session);
	pool_release(session->pool, &before);
	pool_claim(session->pool, session_unclaimed(session), 0);
	session->committed = false;
	session->held = 0;
	session_forget(session, true);
	return nr;
}
