/* SPDX-License-Identifier: MIT */
/* The command line's end of QMP: see framevisor/qmp_client.h. */
#include "framevisor/qmp_client.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "framevisor/clock.h"
#include "framevisor/rundir.h"

#define READ_SIZE 16384u

struct qmp_client {
	int fd;
	int timeout_ms;
	uint64_t frame_size;
	bool broken; /* a reply was missed: what follows cannot be matched any more */
	char *buf;   /* bytes of lines not looked at yet */
	size_t len, capacity;
	size_t scanned; /* of len: no line ends there */
	json_t *events; /* array, oldest first */
};

/* Waits for input until the deadline, then reads once. Returns 0 or a negative errno. */
static int fill(struct qmp_client *client, uint64_t deadline)
{
	struct pollfd pollfd = { .fd = client->fd, .events = POLLIN };
	int64_t left = (int64_t)(deadline - now_ms());
	ssize_t n;
	int ready = poll(&pollfd, 1, left > 0 ? (int)left : 0);

	if (ready < 0)
		return errno == EINTR ? 0 : -errno;
	if (ready == 0)
		return -ETIMEDOUT;
	if (client->len > QMP_CLIENT_LINE_MAX)
		return -EPROTO;
	if (client->capacity - client->len < READ_SIZE) {
		size_t capacity = 2 * client->capacity + READ_SIZE;
		char *buf = realloc(client->buf, capacity);

		if (!buf)
			return -ENOMEM;
		client->buf = buf;
		client->capacity = capacity;
	}
	n = recv(client->fd, client->buf + client->len, READ_SIZE, 0);
	if (n < 0)
		return errno == EINTR ? 0 : errno == ECONNRESET ? -EPIPE : -errno;
	if (n == 0)
		return -EPIPE;
	client->len += (size_t)n;
	return 0;
}

static char *find_line_end(struct qmp_client *client)
{
	size_t fresh = client->len - client->scanned;
	char *end = fresh ? memchr(client->buf + client->scanned, '\n', fresh) : NULL;

	if (!end)
		client->scanned = client->len;
	return end;
}

/* The next line as a JSON object. A deadline in the past still takes what has arrived. */
static int next_message(struct qmp_client *client, uint64_t deadline, json_t **message)
{
	for (;;) {
		char *end = find_line_end(client);
		int ret;

		if (end) {
			size_t line = (size_t)(end - client->buf) + 1;

			*message = json_loadb(client->buf, line, 0, NULL);
			client->len -= line;
			client->scanned = 0;
			memmove(client->buf, end + 1, client->len);
			if (json_is_object(*message))
				return 0;
			json_decref(*message);
			*message = NULL;
			return -EPROTO;
		}
		ret = fill(client, deadline);
		if (ret < 0)
			return ret;
	}
}

static void keep_event(struct qmp_client *client, json_t *event)
{
	if (json_array_size(client->events) == QMP_CLIENT_EVENTS_MAX)
		json_array_remove(client->events, 0);
	json_array_append(client->events, event);
}

static int send_all(struct qmp_client *client, const char *data, size_t len)
{
	while (len) {
		ssize_t n = send(client->fd, data, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? -ETIMEDOUT : -errno;
		data += n;
		len -= (size_t)n;
	}
	return 0;
}

/* In one piece, line end included: a server that ends at this command may be gone before a second.
 */
static int send_command(struct qmp_client *client, const char *command, json_t *args)
{
	json_t *message = json_pack("{s:s}", "execute", command);
	char *text = NULL, *line = NULL;
	int len, ret = -ENOMEM;

	if (message && (!args || json_object_set(message, "arguments", args) == 0))
		text = json_dumps(message, 0);
	len = text ? asprintf(&line, "%s\r\n", text) : -1;
	if (len >= 0) {
		ret = send_all(client, line, (size_t)len);
		free(line);
	}
	free(text);
	json_decref(message);
	return ret;
}

/* Waits for the message that is no event. */
static int wait_reply(struct qmp_client *client, json_t **message)
{
	uint64_t deadline = now_ms() + client->timeout_ms;

	for (;;) {
		int ret = next_message(client, deadline, message);

		if (ret < 0)
			return ret;
		if (!json_object_get(*message, "event"))
			return 0;
		keep_event(client, *message);
		json_decref(*message);
	}
}

static int transport_error(struct qmp_client *client, int ret, const char *command,
			   struct error *err)
{
	client->broken = true;
	switch (ret) {
	case -ETIMEDOUT:
		return error_set(err, ETIMEDOUT, "no answer to '%s' within %d s", command,
				 (client->timeout_ms + 999) / 1000);
	case -EPIPE:
		return error_set(err, EPIPE, "the other side went away during '%s'", command);
	case -EPROTO:
		return error_set(err, EPROTO, "the answer to '%s' is not QMP", command);
	default:
		return error_set_errno(err, -ret, "cannot send '%s'", command);
	}
}

static int error_from_reply(json_t *error, const char *command, struct error *err)
{
	const char *class = json_string_value(json_object_get(error, "class"));
	const char *desc = json_string_value(json_object_get(error, "desc"));
	bool unknown = class && strcmp(class, "CommandNotFound") == 0;

	if (!desc)
		return error_set(err, EPROTO, "the answer to '%s' is not QMP", command);
	return error_set(err, unknown ? ENOTSUP : EINVAL, "%s", desc);
}

int qmp_client_call(struct qmp_client *client, const char *command, json_t *args, json_t **reply,
		    struct error *err)
{
	json_t *message = NULL, *value;
	int ret = client->broken ? -EPIPE : send_command(client, command, args);

	json_decref(args);
	if (ret == 0)
		ret = wait_reply(client, &message);
	if (ret < 0)
		return transport_error(client, ret, command, err);
	value = json_object_get(message, "return");
	if (!value)
		ret = error_from_reply(json_object_get(message, "error"), command, err);
	else if (reply)
		*reply = json_incref(value);
	json_decref(message);
	return ret;
}

int qmp_client_event(struct qmp_client *client, int timeout_ms, json_t **event)
{
	int ret;

	if (json_array_size(client->events)) {
		*event = json_incref(json_array_get(client->events, 0));
		json_array_remove(client->events, 0);
		return 1;
	}
	ret = next_message(client, now_ms() + timeout_ms, event);
	if (ret == -ETIMEDOUT)
		return 0;
	if (ret < 0)
		return ret;
	if (json_object_get(*event, "event"))
		return 1;
	/* A reply that nobody asked for. */
	json_decref(*event);
	*event = NULL;
	return -EPROTO;
}

static int negotiate(struct qmp_client *client, struct error *err)
{
	json_t *greeting = NULL;
	int ret = next_message(client, now_ms() + client->timeout_ms, &greeting);
	bool ok;

	if (ret < 0)
		return transport_error(client, ret, "connect", err);
	ok = json_is_object(json_object_get(greeting, "QMP"));
	client->frame_size = (uint64_t)json_integer_value(
		json_object_get(json_object_get(greeting, "QMP"), "frame-size"));
	json_decref(greeting);
	if (!ok)
		return transport_error(client, -EPROTO, "connect", err);
	return qmp_client_call(client, "qmp_capabilities", NULL, NULL, err);
}

uint64_t qmp_client_frame_size(const struct qmp_client *client)
{
	return client->frame_size;
}

struct qmp_client *qmp_client_from_fd(int fd, int timeout_ms, struct error *err)
{
	struct timeval timeout = { .tv_sec = timeout_ms / 1000,
				   .tv_usec = timeout_ms % 1000 * 1000 };
	struct qmp_client *client = calloc(1, sizeof(*client));

	if (!client) {
		close(fd);
		error_set_errno(err, ENOMEM, "cannot connect");
		return NULL;
	}
	client->fd = fd;
	client->timeout_ms = timeout_ms;
	client->events = json_array();
	/* A server that does not read must not hang the command line in send(). */
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
	if (!client->events || negotiate(client, err) < 0) {
		qmp_client_close(client);
		return NULL;
	}
	return client;
}

struct qmp_client *qmp_client_connect(const char *path, int timeout_ms, struct error *err)
{
	int fd = rundir_connect(path, SOCK_STREAM, err);

	if (fd < 0)
		return NULL;
	return qmp_client_from_fd(fd, timeout_ms, err);
}

void qmp_client_close(struct qmp_client *client)
{
	if (!client)
		return;
	close(client->fd);
	json_decref(client->events);
	free(client->buf);
	free(client);
}
