/* SPDX-License-Identifier: MIT */
/*
 * The pool owner's side of RUNDIR/pool.sock: clients come, talk, and go, and when one has gone its
 * frames come back. Main thread only.
 */
#ifndef VMM_OWNER_SERVER_H
#define VMM_OWNER_SERVER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "framevisor/error.h"
#include "framevisor/event_loop.h"
#include "vmm/owner/notice.h"
#include "vmm/owner/pool.h"
#include "vmm/owner/session.h"
#include "vmm/owner/work.h"

struct server;

struct server_config {
	struct event_loop *loop;
	struct pool *pool;
	struct work_queue *work; /* ended before the server; stays the caller's */
	int listen_fd;           /* SOCK_SEQPACKET; stays the caller's */
	bool shared; /* whoever may connect is welcome, not only root and our own user */
	/* Ask the loop to quit so many ms after the last VM; 0: never. */
	unsigned int linger_ms;
	/* The same when no VM ever came; 0: never. */
	unsigned int first_ms;
	/* Tests: how long a VM may hold frames to move to beyond its limit; 0: as long as it takes.
	 */
	unsigned int move_ms;
};

struct server *server_create(const struct server_config *config, struct error *err);
/* Ends all connections. Frames that live processes still map stay theirs: the files live on. */
void server_destroy(struct server *server);

/* Called after a client asked for frames (asked, and got so many) or gave some back. */
typedef void (*server_traffic_fn)(void *opaque, uint64_t asked, uint64_t got, uint64_t returned);
void server_set_traffic(struct server *server, server_traffic_fn fn, void *opaque);

/* Kills the process of the VM with that id. Returns 0 or a negative errno. */
int server_kill(struct server *server, uint32_t id);

/* Takes over the clients of the pool's ledger. Returns 0 or a negative errno with err set. */
int server_adopt(struct server *server, struct error *err);

struct server_client_info {
	const struct session *session;
	pid_t pid;
	bool connected; /* false: gone, waiting for its process to end */
	/* What it last said about itself and how long ago; NULL: nothing yet. */
	const struct notice_status *status;
	uint64_t status_age_ms;
	uint64_t
		short_for_ms; /* it asks for frames, and has got none for so long; 0: it does not */
};
void server_each(struct server *server,
		 void (*fn)(void *opaque, const struct server_client_info *info), void *opaque);
/* VMs that are welcomed, or still hold frames. */
unsigned int server_nr_vms(const struct server *server);

/* What a running VM is promised: see session_set_limits(). -ENOENT: no such VM. The VM is told. */
int server_get_limits(struct server *server, const char *name, struct session_limits *limits,
		      struct error *err);
int server_set_limits(struct server *server, const char *name, const struct session_limits *limits,
		      struct error *err);

/* Leaves that many frames of the pool, above the minimum mark, to others than the VM with that id,
 * once that one holds from frames. */
void server_withhold(struct server *server, uint32_t id, uint64_t frames, uint64_t from);

/*
 * Sends a notice to the VM with that id; see notice_send(), whose rules and results are these. Also
 * -ENOENT: there is no such VM, or it has gone.
 */
int server_notice(struct server *server, uint32_t id, union notice_packet *packet,
		  enum notice_type type, size_t len, notice_done_fn done, void *opaque);

/* Each client's count of its frames against the pool's. Returns 0, or -EUCLEAN with the
 * contradiction in buf. */
int server_validate(struct server *server, char *buf, size_t len);

#endif
