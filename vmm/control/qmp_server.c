/* SPDX-License-Identifier: MIT */
/*
 * Sockets, clients and events of a QMP server: see framevisor/qmp_server.h.
 *
 * Each connection has one chunk of input that is being worked on and one queue of output. Commands
 * are executed only while little output is queued, so a client that does not read stops itself;
 * events are queued regardless, up to QMP_OUTPUT_MAX.
 */
#include "framevisor/qmp_server.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "framevisor/event_log.h"
#include "framevisor/log.h"
#include "vmm/control/qmp_dispatch.h"
#include "vmm/control/qmp_split.h"

#define CHUNK_SIZE         4096
#define OUTPUT_PAUSE       (64u << 10) /* no further command while this much is unread */
#define EVENT_INTERVAL_MS  1000
#define ACCEPT_RETRY_MS    1000
#define FIRST_OUT_CAPACITY 4096u

struct connection {
	struct qmp_server *server;
	struct connection *next;
	struct event_source *source;
	int fd;
	bool negotiated;
	bool eof;  /* the client has sent everything it will */
	bool busy; /* one of its callbacks is running: free it there */
	bool dead;
	struct qmp_splitter splitter;
	char chunk[CHUNK_SIZE];
	const char *in; /* what is left of the chunk */
	size_t in_len;
	char *out;
	size_t out_start, out_len, out_capacity;
};

struct listener {
	struct qmp_server *server;
	struct listener *next;
	struct event_source *source;
	int fd;
};

/* An event name that was sent less than EVENT_INTERVAL_MS ago. */
struct limited_event {
	struct qmp_server *server;
	struct limited_event *next;
	unsigned int source;
	const char *name;
	struct event_timer *timer;
	bool waiting;    /* the timer runs */
	json_t *pending; /* to be sent when it fires */
};

struct qmp_server {
	struct event_loop *loop;
	struct qmp_server_config config;
	struct listener *listeners;
	struct connection *connections;
	unsigned int nr_clients;
	struct limited_event *limited;
	struct event_timer *accept_timer;
};

/* --- one connection --- */

static void connection_free(struct connection *conn)
{
	qmp_splitter_free(&conn->splitter);
	free(conn->out);
	free(conn);
}

/* It is off the server's list. Its memory stays until its own callback, if one is running, has
 * ended. */
static void connection_close(struct connection *conn)
{
	conn->dead = true;
	event_source_remove(conn->source);
	close(conn->fd);
	if (!conn->busy)
		connection_free(conn);
}

static void connection_cut(struct connection *conn)
{
	struct connection **link = &conn->server->connections;

	if (conn->dead)
		return;
	while (*link != conn)
		link = &(*link)->next;
	*link = conn->next;
	conn->server->nr_clients--;
	connection_close(conn);
}

/* Appends to the output queue. Returns -1 when the client is to be cut off. */
static int queue_output(struct connection *conn, const char *data, size_t len)
{
	size_t need;

	if (conn->out_start) {
		memmove(conn->out, conn->out + conn->out_start, conn->out_len);
		conn->out_start = 0;
	}
	need = conn->out_len + len;
	if (need > QMP_OUTPUT_MAX) {
		log_warn("a QMP client does not read what it is sent; cut off");
		return -1;
	}
	if (need > conn->out_capacity) {
		size_t capacity = conn->out_capacity ? conn->out_capacity : FIRST_OUT_CAPACITY;
		char *out;

		while (capacity < need)
			capacity *= 2;
		out = realloc(conn->out, capacity);
		if (!out)
			return -1;
		conn->out = out;
		conn->out_capacity = capacity;
	}
	memcpy(conn->out + conn->out_len, data, len);
	conn->out_len += len;
	return 0;
}

/* Sends what the socket takes. Returns -1 when the client is gone. */
static int flush_output(struct connection *conn)
{
	while (conn->out_len) {
		ssize_t n = send(conn->fd, conn->out + conn->out_start, conn->out_len,
				 MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -1;
		conn->out_start += (size_t)n;
		conn->out_len -= (size_t)n;
	}
	conn->out_start = 0;
	if (conn->out_capacity > OUTPUT_PAUSE) {
		free(conn->out);
		conn->out = NULL;
		conn->out_capacity = 0;
	}
	return 0;
}

/* Watches for what the connection needs next, or ends it when there is nothing left to do. */
static void connection_rearm(struct connection *conn)
{
	uint32_t events = 0;

	if (conn->eof && !conn->out_len && !conn->in_len) {
		connection_cut(conn);
		return;
	}
	if (!conn->eof && conn->out_len <= OUTPUT_PAUSE)
		events |= EPOLLIN;
	/* in_len: an event's flush may have made room for commands that were held back. */
	if (conn->out_len || conn->in_len)
		events |= EPOLLOUT;
	if (event_source_modify(conn->source, events) < 0)
		connection_cut(conn);
}

static char *to_line(const json_t *message, size_t *len)
{
	char *text = json_dumps(message, 0);
	char *line;

	if (!text)
		return NULL;
	*len = strlen(text) + 2;
	line = realloc(text, *len);
	if (!line) {
		free(text);
		return NULL;
	}
	line[*len - 2] = '\r';
	line[*len - 1] = '\n';
	return line;
}

static void send_line(struct connection *conn, const char *line, size_t len)
{
	if (conn->dead)
		return;
	if (queue_output(conn, line, len) < 0 || flush_output(conn) < 0)
		connection_cut(conn);
}

/* Steals message; NULL (no memory for it) ends the connection: a reply must not be left out. */
static void send_message(struct connection *conn, json_t *message)
{
	size_t len = 0;
	char *line = message ? to_line(message, &len) : NULL;

	if (line)
		send_line(conn, line, len);
	else if (!conn->dead)
		connection_cut(conn);
	free(line);
	json_decref(message);
}

static void send_fault(struct connection *conn, enum qmp_split_result fault)
{
	struct qmp_error err;

	switch (fault) {
	case QMP_SPLIT_TOO_LONG:
		qmp_error_set(&err, QMP_GENERIC_ERROR, "the message is longer than %u bytes",
			      QMP_INPUT_MAX);
		break;
	case QMP_SPLIT_TOO_DEEP:
		qmp_error_set(&err, QMP_GENERIC_ERROR, "the message is nested deeper than %u",
			      QMP_DEPTH_MAX);
		break;
	default:
		qmp_error_set(&err, QMP_GENERIC_ERROR, "not JSON: a message is one object");
		break;
	}
	send_message(conn, qmp_error_reply(&err, NULL));
}

/* Executes what is in the chunk, until the chunk is used up or the client has to read first. */
static void connection_work(struct connection *conn)
{
	while (!conn->dead && conn->in_len && conn->out_len <= OUTPUT_PAUSE) {
		struct qmp_splitter *splitter = &conn->splitter;
		enum qmp_split_result result = qmp_split(splitter, &conn->in, &conn->in_len);

		if (result == QMP_SPLIT_MESSAGE)
			send_message(conn, qmp_dispatch(&conn->server->config, &conn->negotiated,
							splitter->text, splitter->len));
		else if (result == QMP_SPLIT_NO_MEMORY)
			connection_cut(conn);
		else if (result != QMP_SPLIT_MORE)
			send_fault(conn, result);
	}
}

static void connection_read(struct connection *conn)
{
	ssize_t n = recv(conn->fd, conn->chunk, sizeof(conn->chunk), MSG_DONTWAIT);

	if (n > 0) {
		conn->in = conn->chunk;
		conn->in_len = (size_t)n;
	} else if (n == 0) {
		conn->eof = true;
	} else if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
		connection_cut(conn);
	}
}

/* A connection that is cut between enter and leave is freed by the outermost leave. */
static bool connection_enter(struct connection *conn)
{
	bool nested = conn->busy;

	conn->busy = true;
	return nested;
}

static void connection_leave(struct connection *conn, bool nested)
{
	if (nested)
		return;
	if (!conn->dead)
		connection_rearm(conn);
	conn->busy = false;
	if (conn->dead)
		connection_free(conn);
}

static void on_connection(void *opaque, uint32_t events)
{
	struct connection *conn = opaque;
	bool nested = connection_enter(conn);

	if ((events & EPOLLOUT) && flush_output(conn) < 0)
		connection_cut(conn);
	if (!conn->dead && (events & EPOLLIN) && !conn->in_len)
		connection_read(conn);
	else if (!conn->dead && !(events & EPOLLIN) && (events & (EPOLLHUP | EPOLLERR)))
		connection_cut(conn);
	connection_work(conn);
	connection_leave(conn, nested);
}

int qmp_server_add_client(struct qmp_server *server, int fd)
{
	struct connection *conn;
	bool nested;
	int flags;

	if (server->nr_clients >= QMP_CLIENTS_MAX)
		return -EBUSY;
	flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return -errno;
	conn = calloc(1, sizeof(*conn));
	if (!conn)
		return -ENOMEM;
	conn->server = server;
	conn->fd = fd;
	conn->source = event_loop_add(server->loop, fd, EPOLLIN, on_connection, conn);
	if (!conn->source) {
		free(conn);
		return -errno;
	}
	conn->next = server->connections;
	server->connections = conn;
	server->nr_clients++;
	nested = connection_enter(conn);
	send_message(conn, qmp_greeting());
	connection_leave(conn, nested);
	return 0;
}

unsigned int qmp_server_nr_clients(const struct qmp_server *server)
{
	return server->nr_clients;
}

/* --- listening --- */

static void watch_listeners(struct qmp_server *server, uint32_t events)
{
	for (struct listener *listener = server->listeners; listener; listener = listener->next)
		event_source_modify(listener->source, events);
}

static void on_accept_timer(void *opaque)
{
	watch_listeners(opaque, EPOLLIN);
}

static void on_listener(void *opaque, uint32_t events)
{
	struct listener *listener = opaque;
	struct qmp_server *server = listener->server;
	int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	(void)events;
	if (fd < 0) {
		/* Out of fds or memory: the connection stays in the queue and the socket readable,
		 * so look away for a while instead of spinning. */
		if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
			watch_listeners(server, 0);
			event_timer_arm(server->accept_timer, ACCEPT_RETRY_MS, 0);
		}
		return;
	}
	if (qmp_server_add_client(server, fd) < 0) {
		log_warn("too many QMP clients: a new one was turned away");
		close(fd);
	}
}

int qmp_server_listen(struct qmp_server *server, int fd)
{
	struct listener *listener = calloc(1, sizeof(*listener));
	int flags = fcntl(fd, F_GETFL);

	if (!listener)
		return -ENOMEM;
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		goto fail;
	listener->server = server;
	listener->fd = fd;
	listener->source = event_loop_add(server->loop, fd, EPOLLIN, on_listener, listener);
	if (!listener->source)
		goto fail;
	listener->next = server->listeners;
	server->listeners = listener;
	return 0;
fail:
	free(listener);
	return -errno;
}

/* --- events --- */

/* Steals data. */
static json_t *make_event(const char *name, json_t *data)
{
	struct timeval now;
	json_t *event;

	gettimeofday(&now, NULL);
	event = json_pack("{s:{s:I,s:I},s:s}", "timestamp", "seconds", (json_int_t)now.tv_sec,
			  "microseconds", (json_int_t)now.tv_usec, "event", name);
	if (data && json_object_set_new(event, "data", data) < 0) {
		json_decref(event);
		return NULL;
	}
	return event;
}

static void broadcast(struct qmp_server *server, json_t *event)
{
	struct connection *conn, *next;
	bool nested;
	size_t len = 0;
	char *line = event ? to_line(event, &len) : NULL;

	if (!line) {
		log_warn("out of memory: a QMP event was lost");
		return;
	}
	event_log(json_string_value(json_object_get(event, "event")),
		  json_object_get(event, "data"));
	for (conn = server->connections; conn; conn = next) {
		next = conn->next;
		if (!conn->negotiated)
			continue;
		nested = connection_enter(conn);
		send_line(conn, line, len);
		connection_leave(conn, nested);
	}
	free(line);
}

void qmp_server_event(struct qmp_server *server, const char *name, json_t *data)
{
	json_t *event = make_event(name, data);

	broadcast(server, event);
	json_decref(event);
}

static void on_limit_timer(void *opaque)
{
	struct limited_event *limited = opaque;
	json_t *event = limited->pending;

	limited->pending = NULL;
	limited->waiting = event != NULL;
	if (!event)
		return;
	event_timer_arm(limited->timer, EVENT_INTERVAL_MS, 0);
	broadcast(limited->server, event);
	json_decref(event);
}

static struct limited_event *limited_event_get(struct qmp_server *server, const char *name,
					       unsigned int source)
{
	struct limited_event *limited;

	for (limited = server->limited; limited; limited = limited->next)
		if (strcmp(limited->name, name) == 0 && limited->source == source)
			return limited;
	limited = calloc(1, sizeof(*limited));
	if (!limited)
		return NULL;
	limited->server = server;
	limited->name = name;
	limited->source = source;
	limited->timer = event_timer_create(server->loop, on_limit_timer, limited);
	if (!limited->timer) {
		free(limited);
		return NULL;
	}
	limited->next = server->limited;
	server->limited = limited;
	return limited;
}

void qmp_server_event_limited(struct qmp_server *server, const char *name, unsigned int source,
			      json_t *data)
{
	struct limited_event *limited = limited_event_get(server, name, source);

	if (limited && limited->waiting) {
		json_decref(limited->pending);
		limited->pending = make_event(name, data);
		return;
	}
	if (limited) {
		limited->waiting = true;
		event_timer_arm(limited->timer, EVENT_INTERVAL_MS, 0);
	}
	qmp_server_event(server, name, data);
}

/* --- life --- */

struct qmp_server *qmp_server_create(struct event_loop *loop,
				     const struct qmp_server_config *config, struct error *err)
{
	struct qmp_server *server = calloc(1, sizeof(*server));

	if (!server) {
		error_set_errno(err, ENOMEM, "cannot create a QMP server");
		return NULL;
	}
	server->loop = loop;
	server->config = *config;
	server->accept_timer = event_timer_create(loop, on_accept_timer, server);
	if (!server->accept_timer) {
		error_set_errno(err, errno, "cannot create a QMP server");
		free(server);
		return NULL;
	}
	return server;
}

static void limited_events_destroy(struct qmp_server *server)
{
	struct limited_event *limited;

	while ((limited = server->limited)) {
		server->limited = limited->next;
		if (limited->pending)
			broadcast(server, limited->pending);
		json_decref(limited->pending);
		event_timer_destroy(limited->timer);
		free(limited);
	}
}

void qmp_server_destroy(struct qmp_server *server)
{
	if (!server)
		return;
	limited_events_destroy(server);
	while (server->listeners) {
		struct listener *listener = server->listeners;

		server->listeners = listener->next;
		event_source_remove(listener->source);
		close(listener->fd);
		free(listener);
	}
	while (server->connections) {
		struct connection *conn = server->connections;

		server->connections = conn->next;
		connection_close(conn);
	}
	event_timer_destroy(server->accept_timer);
	free(server);
}
