/* SPDX-License-Identifier: MIT */
/* The clients of the pool owner, and growing the pool for them: see server.h. */
#include "vmm/owner/server_private.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "framevisor/clock.h"
#include "framevisor/log.h"

#define FILLING_MS 1000

#define ACCEPT_PAUSE_MS 200

/* Connections at once; each costs two fds, and the limit on them is raised to fit. */
#define CLIENTS_MAX 1000

static void on_linger(void *opaque)
{
	struct server *server = opaque;

	if (!server->clients)
		event_loop_quit(server->config.loop);
}

static void on_filling(void *opaque)
{
	struct server *server = opaque;
	uint64_t done, total;

	if (!server->grow_begun)
		return; /* it waits for other work, whose progress this is */
	pool_work_progress(server->config.pool, &done, &total);
	for (struct client *client = server->clients; client && total; client = client->next)
		client_tell_filling(client, done < total ? done : total, total);
}

/* No file descriptor is left, here or on the host, or no memory: whoever connects waits. The socket
 * would be reported again at once, and again. */
static void pause_accepting(struct server *server, int why)
{
	if (event_source_modify(server->listen_source, 0) < 0)
		return;
	event_timer_arm(server->accept_again, ACCEPT_PAUSE_MS, 0);
	if (!server->cannot_accept)
		log_warn("cannot accept connections for now: %s", strerror(why));
	server->cannot_accept = true;
}

static void on_accept_again(void *opaque)
{
	struct server *server = opaque;

	if (event_source_modify(server->listen_source, EPOLLIN) < 0)
		event_timer_arm(server->accept_again, ACCEPT_PAUSE_MS, 0);
}

static void on_connection(void *opaque, uint32_t events)
{
	struct server *server = opaque;
	int fd = accept4(server->config.listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	(void)events;
	if (fd < 0) {
		if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
			pause_accepting(server, errno);
		return;
	}
	server->cannot_accept = false;
	if (server->nr_clients >= CLIENTS_MAX) {
		log_warn("more than %d connections: one is refused", CLIENTS_MAX);
		close(fd);
		return;
	}
	event_timer_disarm(server->linger);
	client_create(server, fd);
	/* Refused before it was a client: as if it had not come. */
	if (!server->clients && server->config.linger_ms)
		event_timer_arm(server->linger, server->config.linger_ms, 0);
}

struct server *server_create(const struct server_config *config, struct error *err)
{
	struct server *server = calloc(1, sizeof(*server));

	if (!server) {
		error_set(err, ENOMEM, "no memory for the server");
		return NULL;
	}
	server->config = *config;
	server->linger = event_timer_create(config->loop, on_linger, server);
	server->filling = event_timer_create(config->loop, on_filling, server);
	server->accept_again = event_timer_create(config->loop, on_accept_again, server);
	if (server->linger && server->filling && server->accept_again)
		server->listen_source = event_loop_add(config->loop, config->listen_fd, EPOLLIN,
						       on_connection, server);
	if (!server->listen_source) {
		error_set_errno(err, errno, "cannot serve the pool's socket");
		event_timer_destroy(server->linger);
		event_timer_destroy(server->filling);
		event_timer_destroy(server->accept_again);
		free(server);
		return NULL;
	}
	if (config->first_ms)
		event_timer_arm(server->linger, config->first_ms, 0);
	return server;
}

void server_destroy(struct server *server)
{
	if (!server)
		return;
	/* Their frames do not become free: nothing may zero what live processes still map. */
	while (server->clients)
		client_forget(server->clients);
	event_source_remove(server->listen_source);
	event_timer_destroy(server->linger);
	event_timer_destroy(server->filling);
	event_timer_destroy(server->accept_again);
	free(server);
}

void server_add(struct server *server, struct client *client)
{
	struct client **tail = &server->clients;

	while (*tail)
		tail = &(*tail)->next;
	*tail = client;
	server->nr_clients++;
	event_timer_disarm(server->linger);
}

void server_remove(struct server *server, struct client *client)
{
	struct client **link = &server->clients;

	while (*link != client)
		link = &(*link)->next;
	*link = client->next;
	server->nr_clients--;
	if (!server->clients && server->config.linger_ms)
		event_timer_arm(server->linger, server->config.linger_ms, 0);
}

/* Who is told later, once there is more: gets what there is, and the pool grows on. */
static void go_on(struct server *server, struct client *client, const struct error *err)
{
	uint64_t missing = 0;

	if (session_go_on(&client->session, err, &missing))
		client_grown(client);
	if (missing)
		server_grow(server, client, missing);
}

static bool goes_on(const struct client *client)
{
	return client->session.state == SESSION_READY && client->session.later_frames;
}

/*
 * Decides over everybody who waits, in order of arrival. Who has to wait again stops the rest: it
 * came first. Those who go on meanwhile and are told later come after those who cannot.
 */
static void admit_waiting(struct server *server)
{
	struct client *client, *next;

	for (client = server->clients; client && !server->growing; client = next) {
		struct session_reply reply;
		enum session_result result;
		uint64_t missing;

		next = client->next;
		if (client->session.state != SESSION_WAITING)
			continue;
		result = session_admit(&client->session, &reply, &missing);
		if (result == SESSION_WAIT) {
			server_grow(server, client, missing);
			continue;
		}
		event_source_modify(client->source, EPOLLIN);
		client_reply(client, result, &reply, NULL);
	}
	for (client = server->clients; client && !server->growing; client = client->next) {
		if (goes_on(client))
			go_on(server, client, NULL);
	}
}

/* The growth failed: the client that it was for is told why, or does without. The others may need
 * less. */
static void refuse_grown(struct server *server)
{
	struct client *client = server->clients;
	enum session_result result;
	struct session_reply reply;

	while (client && client->session.id != server->grow_id)
		client = client->next;
	if (client && goes_on(client))
		go_on(server, client, &server->grow_error);
	if (!client || client->session.state != SESSION_WAITING)
		return;
	result = session_admit_ungrown(&client->session, &server->grow_error, &reply);
	event_source_modify(client->source, EPOLLIN);
	client_reply(client, result, &reply, NULL);
}

static int begin_growth(void *opaque)
{
	struct server *server = opaque;
	int ret = pool_grow_begin(server->config.pool, server->grow_frames, POOL_MOVABLE_AS_SET,
				  &server->growth, &server->grow_error);

	server->grow_begun = ret == 0;
	return ret;
}

static int fill_growth(void *opaque)
{
	struct server *server = opaque;

	return pool_grow_fill(server->config.pool, &server->growth, &server->grow_error);
}

static void on_grown(void *opaque, int result)
{
	struct server *server = opaque;
	int ret = result;

	server->growing = false;
	event_timer_disarm(server->filling);
	if (server->grow_begun)
		ret = pool_grow_finish(server->config.pool, &server->growth, result);
	if (ret == -ECANCELED)
		return; /* the owner ends */
	if (ret < 0 && ret != -EAGAIN) {
		error_set_errno(&server->grow_error, -ret, "cannot add memory to the pool");
		log_warn("%s", server->grow_error.message);
		refuse_grown(server);
	}
	admit_waiting(server);
}

void server_grow(struct server *server, struct client *client, uint64_t missing)
{
	const struct work growth = {
		.begin = begin_growth, .run = fill_growth, .end = on_grown, .opaque = server
	};
	int ret;

	if (server->growing)
		return;
	server->grow_frames = missing;
	server->grow_id = client->session.id;
	server->growth = (struct pool_growth){ .nodemask = client->session.grow_nodes,
					       .strict = client->session.binding };
	server->grow_begun = false;
	error_clear(&server->grow_error);
	ret = work_submit(server->config.work, &growth);
	if (ret < 0) {
		error_set_errno(&server->grow_error, -ret, "cannot add memory to the pool");
		refuse_grown(server);
		return;
	}
	server->growing = true;
	event_timer_arm(server->filling, FILLING_MS, FILLING_MS);
}

void server_each(struct server *server,
		 void (*fn)(void *opaque, const struct server_client_info *info), void *opaque)
{
	for (struct client *client = server->clients; client; client = client->next) {
		struct server_client_info info = { .session = &client->session,
						   .pid = client->pid,
						   .connected = client->fd >= 0 };

		if (client->status_ms) {
			info.status = &client->status;
			info.status_age_ms = now_ms() - client->status_ms;
		}
		if (now_ms() - client->short_ms <= CLIENT_SHORT_MS)
			info.short_for_ms = now_ms() - client->short_since_ms;

		fn(opaque, &info);
	}
}

void server_set_traffic(struct server *server, server_traffic_fn fn, void *opaque)
{
	server->traffic = fn;
	server->traffic_opaque = opaque;
}

void server_traffic(struct server *server, uint64_t asked, uint64_t got, uint64_t returned)
{
	if (server->traffic)
		server->traffic(server->traffic_opaque, asked, got, returned);
}

int server_notice(struct server *server, uint32_t id, union notice_packet *packet,
		  enum notice_type type, size_t len, notice_done_fn done, void *opaque)
{
	struct client *client = server->clients;

	while (client && client->session.id != id)
		client = client->next;
	if (!client || !client->notice)
		return -ENOENT;
	return notice_send(client->notice, packet, type, len, done, opaque);
}

unsigned int server_nr_vms(const struct server *server)
{
	unsigned int nr = 0;

	for (const struct client *client = server->clients; client; client = client->next)
		nr += client->session.committed;
	return nr;
}

int server_validate(struct server *server, char *buf, size_t len)
{
	struct pool *pool = server->config.pool;
	uint64_t sum = 0, all = pool_held(pool, 0);
	struct pool_info info;
	uint64_t committed = 0;

	for (struct client *client = server->clients; client; client = client->next) {
		const struct session *session = &client->session;
		uint64_t held = pool_held(pool, session->id);

		if (held != session->held) {
			snprintf(buf, len,
				 "VM '%s' counts %" PRIu64 " frames, the pool %" PRIu64 " as its",
				 session->name, session->held, held);
			return -EUCLEAN;
		}
		sum += held;
		committed += session->committed ? session->ram_frames : 0;
	}
	if (sum != all) {
		snprintf(buf, len, "%" PRIu64 " frames are held, %" PRIu64 " of them by no VM", all,
			 all - sum);
		return -EUCLEAN;
	}
	pool_info(pool, &info);
	if (committed != info.committed) {
		snprintf(buf, len, "VMs were promised %" PRIu64 " frames, the pool counts %" PRIu64,
			 committed, info.committed);
		return -EUCLEAN;
	}
	return 0;
}
