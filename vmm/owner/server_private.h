/* SPDX-License-Identifier: MIT */
/* What the files of the server share; see server.h. */
#ifndef VMM_OWNER_SERVER_PRIVATE_H
#define VMM_OWNER_SERVER_PRIVATE_H

#include <pthread.h>

#include "vmm/owner/server.h"

struct client {
	struct server *server;
	struct client *next;
	struct session session;
	int fd; /* -1 after the hang-up */
	struct event_source *source;
	pid_t pid;
	int pidfd;
	struct event_source *pid_source; /* from the hang-up on */
	struct event_timer *grace;
};

struct server {
	struct server_config config;
	struct event_source *listen_source;
	struct client *clients; /* in order of arrival */
	unsigned int nr_clients;
	uint32_t last_id;
	struct event_timer *linger;

	/* One growth at a time, in a thread of its own. */
	bool growing;
	pthread_t grow_thread;
	uint32_t grow_id; /* the client it is for */
	uint64_t grow_frames;
	struct pool_growth growth;
	int grow_result;
	struct error grow_error;
};

/* A client that connected on fd (taken over, closed on failure too). */
void client_create(struct server *server, int fd);
/* Sends the reply; cuts the connection if that fails or the result says so. */
void client_reply(struct client *client, enum session_result result, struct session_reply *reply,
		  const char *why);
/* Its process can touch no frame any more: they go back to the pool. */
void client_destroy(struct client *client);
/* Forgets it at the end of the owner; the frames of its process are not touched. */
void client_forget(struct client *client);

/* Called by a client that leaves, and by one that waits until the pool has missing frames more. */
void server_remove(struct server *server, struct client *client);
void server_grow(struct server *server, struct client *client, uint64_t missing);

#endif
