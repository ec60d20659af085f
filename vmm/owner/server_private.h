/* SPDX-License-Identifier: MIT */
/* What the files of the server share; see server.h. */
#ifndef VMM_OWNER_SERVER_PRIVATE_H
#define VMM_OWNER_SERVER_PRIVATE_H

#include "vmm/owner/notice.h"
#include "vmm/owner/server.h"

/* A VM that waits for a frame asks again within 100 ms, on a slow machine within a second. */
#define CLIENT_SHORT_MS 3000

extern struct object_cache client_cache;

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
	struct event_timer *again;   /* runs until one of an owner that died is reached */
	struct event_timer *beyond;  /* runs while it holds more than its limit, to move */
	struct notice *notice;       /* from WELCOME to the hang-up; NULL: it has none */
	struct notice_status status; /* the last one it sent, */
	uint64_t status_ms;          /* and when that came (now_ms()); 0: none did */
	/* It asked in vain: the last time, and the first time since it got anything (now_ms()). */
	uint64_t short_ms, short_since_ms;
};

/* Tells who wants to know; see server_set_traffic(). */
void server_traffic(struct server *server, uint64_t asked, uint64_t got, uint64_t returned);

struct server {
	struct server_config config;
	struct event_source *listen_source;
	struct event_timer *accept_again; /* runs while nobody is accepted */
	bool cannot_accept;               /* as of the last time; it has been said */
	struct client *clients;           /* in order of arrival */
	unsigned int nr_clients;
	uint32_t last_id;
	struct event_timer *linger;
	server_traffic_fn traffic;
	void *traffic_opaque;

	/* One growth at a time. */
	bool growing;
	bool grow_begun;  /* so there is something to finish */
	uint32_t grow_id; /* the client it is for */
	uint64_t grow_frames;
	struct pool_growth growth;
	struct error grow_error;
	struct event_timer *filling; /* runs while it grows, for those who are to be told */
};

/* A client that connected on fd (taken over, closed on failure too). */
void client_create(struct server *server, int fd);
/* Hears what comes on the client's fd. Returns 0 or -1 with errno. */
int client_listen(struct client *client);
/* Sends the reply; cuts the connection if that fails or the result says so. */
void client_reply(struct client *client, enum session_result result, struct session_reply *reply,
		  const char *why);
/* If it waits for WELCOME and wants to know: how far the pool has grown. */
void client_tell_filling(struct client *client, uint64_t done, uint64_t total);
/* What it waits for later has changed: notes what it is promised, and tells it. */
void client_grown(struct client *client);
/* Its process can touch no frame any more: they go back to the pool. */
void client_destroy(struct client *client);
/* Forgets it at the end of the owner; the frames of its process are not touched. */
void client_forget(struct client *client);

void server_add(struct server *server, struct client *client);
/* Called by a client that leaves, and by one that waits until the pool has missing frames more. */
void server_remove(struct server *server, struct client *client);
void server_grow(struct server *server, struct client *client, uint64_t missing);

#endif
