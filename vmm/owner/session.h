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

#include "vmm/owner/ledger.h"
#include "vmm/owner/map_check.h"
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
	bool tell_filling; /* while it waits for WELCOME */
	bool noticed;      /* it has a notice channel: who has none is answered when all is there */
	struct error later_error;
	uint64_t ram_frames;
	uint64_t min_frames; /* asked for; 0: the pool's default */
	uint64_t max_frames; /* what ram_frames may become */
	uint64_t ceiling;    /* what max_frames may become: as HELLO said */
	uint64_t guaranteed; /* of ram_frames, never taken away */
	uint32_t shares;
	int32_t oom_score_adj;
	uint64_t wanted_frames; /* RESIZE: the limit asked for */
	/* RESIZE_LATER: the limit that it is on its way to, 0: none; the pool grows for it by so
	 * many frames at a time. */
	uint64_t later_frames, later_step;
	uint64_t later_failed; /* where it did not get to, and later_error: why; told once */
	uint64_t grow_nodes;   /* where the pool grows for what it waits for; 0: anywhere */
	bool binding;          /* it waits for BIND: of wanted_node, wanted_frames in all */
	unsigned int wanted_node;
	uint64_t hello_nodes; /* grow_nodes of HELLO and RESIZE */
	uint64_t bound[OWNER_NODES_MAX];
	uint64_t wants_bound[OWNER_NODES_MAX]; /* what its BIND said; bound: as far as guaranteed */
	uint64_t node_held[OWNER_NODES_MAX];
	/* Of an owner that died. See session_adopt.c. */
	bool adopted;
	bool declaring, declared_all;
	uint8_t *declared[OWNER_NODES_MAX]; /* per frame, while declaring */
	struct ledger_client *entry;        /* in the pool's ledger; NULL: none */
	struct map_check maps;              /* whether it unmaps what it returns */
	bool committed; /* ram_frames are promised to it: from WELCOME to session_release() */
	/* The last so many of the pool are not for it once it holds so many (server_withhold()). */
	uint64_t withheld, withheld_from;
	bool stays_beyond; /* its limit, with frames to move to: it gets no more of them */
	uint64_t held;
	uint64_t nr_granted, nr_returned; /* frames, since the start */
};

struct session_reply {
	union owner_packet packet;
	size_t len;
	int fds[OWNER_NODES_MAX + 2]; /* the pool's, to be sent along; room for two more */
	unsigned int nr_fds;
};

enum session_result {
	SESSION_REPLY,         /* send the reply; grow by *missing, if any: session_go_on() */
	SESSION_WAIT,          /* no reply yet: grow by *missing, then session_admit() again */
	SESSION_REPLY_AND_CUT, /* send the reply and end the connection */
	SESSION_CUT,           /* end the connection; *why says why */
};

void session_init(struct session *session, struct pool *pool, uint32_t id);

/* --- The ledger, and clients of an owner that died --- */
/* A client that the ledger has: with its frames and promises, waiting for its HELLO. */
void session_adopt(struct session *session, struct pool *pool, struct ledger_client *entry);
/* Brings what the client is promised up to date in its entry in the ledger; makes one when it has
 * been admitted. */
void session_note(struct session *session, pid_t pid);
/* What the client's request is about to move (runs: of a RETURN, else NULL). */
void session_in_flight(struct session *session, enum ledger_in_flight what,
		       const struct owner_runs *runs);
/* The requests of one that comes back. */
enum session_result session_welcome_back(struct session *session, struct session_reply *reply,
					 const char **why);
enum session_result session_declare(struct session *session, const struct owner_runs *runs,
				    struct session_reply *reply, const char **why);
/* Frees what is left of that; ended: the ledger is to forget the client, too. */
void session_forget(struct session *session, bool ended);

/* What session_adopt.c takes from session.c. */
void session_begin_reply(struct session_reply *reply, enum owner_message_type type, size_t len);
void session_begin_welcome(struct session *session, struct session_reply *reply); /* no fds */
uint64_t session_unclaimed(const struct session *session); /* guaranteed, and not held yet */
uint64_t session_owed(const struct session *session, unsigned int nid);
/* pool_give(). */
int session_give(struct session *session, const struct frame_run *runs, unsigned int nr_runs);
void session_count_returned(struct session *session, const struct frame_run *runs,
			    unsigned int nr_runs);

/* Handles one packet. *missing is set with SESSION_WAIT and SESSION_REPLY, *why with the two that
 * cut. */
enum session_result session_handle(struct session *session, const union owner_packet *packet,
				   size_t len, struct session_reply *reply, uint64_t *missing,
				   const char **why);

/* Decides over a waiting session: WELCOME or RESIZED, a refusal, or SESSION_WAIT with *missing
 * again. */
enum session_result session_admit(struct session *session, struct session_reply *reply,
				  uint64_t *missing);
/*
 * The pool has grown, for a session with later_frames: promises it what is there. *missing: what
 * the pool is to grow by now. With err: it cannot grow, for that reason. Returns whether the VM is
 * to be told that something has changed.
 */
bool session_go_on(struct session *session, const struct error *err, uint64_t *missing);

/* Refuses a waiting session: a WELCOME that ends it, or a RESIZED that leaves it as it was. */
enum session_result session_refuse(struct session *session, const struct error *err,
				   struct session_reply *reply);

/*
 * Changes what it is promised and how it is weighed; limits has what it shall be from now on.
 * Returns 0, or a negative errno with a sentence: nothing has changed.
 */
struct session_limits {
	uint64_t min_frames, max_frames;
	uint32_t shares;
	int32_t oom_score_adj;
};
void session_get_limits(const struct session *session, struct session_limits *limits);
int session_set_limits(struct session *session, const struct session_limits *limits,
		       struct error *err);

/* Decides over a waiting session once more; the pool could not grow, for the reason in err. */
enum session_result session_admit_ungrown(struct session *session, const struct error *err,
					  struct session_reply *reply);

/* Takes back all frames and the commitment. The client can no longer touch a frame. */
uint64_t session_release(struct session *session);

#endif
