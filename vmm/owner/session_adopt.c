/* SPDX-License-Identifier: MIT */
/*
 * A client of an owner that died comes back: it says HELLO with OWNER_HELLO_ADOPT on a connection
 * that the new owner made to it, and then declares every frame that it holds.
 *
 * The ledger decides who holds what; the declaration is checked against it and settles the one
 * request that was under way when the owner died: frames whose GRANT it never got, or whose RETURN
 * was answered, are not declared and are free. A frame that is declared and not its own, or twice,
 * ends the connection, and soon the process.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/owner/session.h"

void session_note(struct session *session, pid_t pid)
{
	struct ledger *ledger = pool_ledger(session->pool);
	struct ledger_client *entry = session->entry;

	if (!ledger || !session->committed)
		return;
	if (!entry)
		entry = ledger_client_new(ledger);
	if (!entry)
		return; /* more than the owner takes connections */
	entry->ram_frames = session->ram_frames;
	entry->min_frames = session->min_frames;
	entry->max_frames = session->max_frames;
	entry->ceiling = session->ceiling;
	entry->guaranteed = session->guaranteed;
	entry->hello_nodes = session->hello_nodes;
	entry->shares = session->shares;
	entry->oom_score_adj = session->oom_score_adj;
	memcpy(entry->bound, session->bound, sizeof(entry->bound));
	/* It could not be said at first: another process with this number is not to pass for it. */
	if (session->entry && entry->start_time == UINT64_MAX)
		entry->start_time = ledger_start_time(entry->pid);
	if (session->entry)
		return;
	entry->pid = pid;
	entry->start_time = ledger_start_time(pid);
	memcpy(entry->name, session->name, sizeof(entry->name));
	__atomic_store_n(&entry->id, session->id, __ATOMIC_RELEASE);
	session->entry = entry;
}

void session_in_flight(struct session *session, enum ledger_in_flight what,
		       const struct owner_runs *runs)
{
	struct ledger_client *entry = session->entry;

	if (!entry)
		return;
	__atomic_store_n(&entry->in_flight, LEDGER_NONE, __ATOMIC_RELEASE);
	entry->nr_runs = runs ? runs->nr_runs : 0;
	if (runs)
		memcpy(entry->runs, runs->runs, runs->nr_runs * sizeof(runs->runs[0]));
	__atomic_store_n(&entry->in_flight, what, __ATOMIC_RELEASE);
}

void session_adopt(struct session *session, struct pool *pool, struct ledger_client *entry)
{
	struct pool_promise promise;

	session_init(session, pool, entry->id);
	session->entry = entry;
	session->adopted = true;
	session->committed = true;
	memcpy(session->name, entry->name, sizeof(session->name));
	session->name[sizeof(session->name) - 1] = '\0';
	session->ram_frames = entry->ram_frames;
	session->min_frames = entry->min_frames;
	session->max_frames = entry->max_frames;
	session->ceiling = entry->ceiling;
	session->guaranteed = entry->guaranteed;
	session->hello_nodes = entry->hello_nodes;
	session->shares = entry->shares;
	session->oom_score_adj = entry->oom_score_adj;
	memcpy(session->bound, entry->bound, sizeof(session->bound));
	session->held = pool_held_by_node(pool, session->id, session->node_held);
	session->nr_granted = session->held;
	for (unsigned int nid = 0; nid < session->limits.nr_nodes; nid++)
		pool_owe(pool, nid, 0, session_owed(session, nid));
	promise = (struct pool_promise){ .ram = session->ram_frames, .min = session->guaranteed };
	pool_promise_again(pool, &promise);
	pool_claim(pool, 0, session_unclaimed(session));
}

int session_give(struct session *session, const struct frame_run *runs, unsigned int nr_runs)
{
	session->maps.ledger = pool_ledger(session->pool);
	session->maps.client = session->entry;
	return pool_give(session->pool, session->id, runs, nr_runs, &session->maps);
}

static void end_declaration(struct session *session)
{
	for (unsigned int nid = 0; nid < OWNER_NODES_MAX; nid++) {
		free(session->declared[nid]);
		session->declared[nid] = NULL;
	}
	session->declaring = false;
}

enum session_result session_welcome_back(struct session *session, struct session_reply *reply,
					 const char **why)
{
	if (!session->adopted || session->declaring || session->declared_all) {
		*why = "HELLO of a client that is not known from before";
		session->state = SESSION_ENDED;
		return SESSION_CUT;
	}
	for (unsigned int nid = 0; nid < session->limits.nr_nodes; nid++) {
		session->declared[nid] = calloc(session->limits.spanned[nid], 1);
		if (!session->declared[nid]) {
			*why = "no memory to hear what it holds";
			end_declaration(session);
			session->state = SESSION_ENDED;
			return SESSION_CUT;
		}
	}
	session->declaring = true;
	session->state = SESSION_READY;
	session_begin_welcome(session, reply);
	reply->packet.welcome.flags |= OWNER_WELCOME_ADOPTED;
	return SESSION_REPLY;
}

/* Marks the frames of a run. False if one is not its own, or was named before. */
static bool declare_run(struct session *session, const struct frame_run *run)
{
	uint8_t *declared = session->declared[run->node];

	if (!pool_holds(session->pool, session->id, run))
		return false;
	for (uint64_t i = run->first; i < run->first + run->nr; i++) {
		if (declared[i])
			return false;
		declared[i] = 1;
	}
	return true;
}

/* Gives back what is not declared, as far as the request under way can be the reason. */
static bool give_undeclared(void *opaque, const struct frame_run *run)
{
	struct session *session = opaque;
	const struct ledger_client *entry = session->entry;
	struct frame_run one = { .nr = 1, .node = run->node };

	for (uint64_t i = run->first; i < run->first + run->nr; i++) {
		bool give = entry->in_flight == LEDGER_GRANT;

		for (unsigned int r = 0;
		     !give && entry->in_flight == LEDGER_RETURN && r < entry->nr_runs; r++)
			give = entry->runs[r].node == run->node && i >= entry->runs[r].first &&
			       i - entry->runs[r].first < entry->runs[r].nr;
		one.first = i;
		if (give && session_give(session, &one, 1) == 0)
			session_count_returned(session, &one, 1);
	}
	return true;
}

enum session_result session_declare(struct session *session, const struct owner_runs *runs,
				    struct session_reply *reply, const char **why)
{
	struct owner_returned *msg = &reply->packet.returned;

	session_begin_reply(reply, OWNER_DECLARED, sizeof(*msg));
	for (unsigned int i = 0; i < runs->nr_runs; i++) {
		if (session->declaring && declare_run(session, &runs->runs[i]))
			continue;
		msg->header.status = -EPERM;
		*why = "declares a frame that it does not hold";
		end_declaration(session);
		session->state = SESSION_ENDED;
		return SESSION_REPLY_AND_CUT;
	}
	msg->nr_frames = runs->nr_frames;
	if (runs->nr_runs == 0 && session->declaring) {
		pool_each_held(session->pool, session->id, session->declared, give_undeclared,
			       session);
		session_in_flight(session, LEDGER_NONE, NULL);
		session->declared_all = true;
		end_declaration(session);
		msg->nr_frames = session->held;
	}
	return SESSION_REPLY;
}

void session_forget(struct session *session, bool ended)
{
	end_declaration(session);
	map_check_close(&session->maps);
	if (session->entry && ended)
		__atomic_store_n(&session->entry->id, 0, __ATOMIC_RELEASE);
	session->entry = NULL;
}
