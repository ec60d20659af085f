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
#include "vmm/owner/pool.h"
#include "vmm/owner/session.h"

struct server;

struct server_config {
	struct event_loop *loop;
	struct pool *pool;
	int listen_fd; /* SOCK_SEQPACKET; stays the caller's */
	/* Ask the loop to quit so many ms after the last VM; 0: never. */
	unsigned int linger_ms;
	/* The same when no VM ever came; 0: never. */
	unsigned int first_ms;
};

struct server *server_create(const struct server_config *config, struct error *err);
/* Ends all connections. Frames that live processes still map stay theirs: the files live on. */
void server_destroy(struct server *server);

struct server_client_info {
	const struct session *session;
	pid_t pid;
	bool connected; /* false: gone, waiting for its process to end */
};
void server_each(struct server *server,
		 void (*fn)(void *opaque, const struct server_client_info *info), void *opaque);
/* VMs that are welcomed, or still hold frames. */
unsigned int server_nr_vms(const struct server *server);

/* Each client's count of its frames against the pool's. Returns 0, or -EUCLEAN with the
 * contradiction in buf. */
int server_validate(struct server *server, char *buf, size_t len);

#endif
