/* SPDX-License-Identifier: MIT */
/*
 * The QMP client against servers that behave well and badly. A server is a list of texts: each is
 * sent when the client's next line has arrived, the first at once.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "framevisor/qmp_client.h"

#define GREETING "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n"
#define DONE     "{\"return\": {}}\r\n"
#define EVENT(n) "{\"event\": \"E\", \"data\": " n ", \"timestamp\": {}}\r\n"

#define TEXTS_MAX   8
#define TIMEOUT_MS  60000
#define SILENT_MS   2000 /* with a server that does not answer */
#define FLOOD_BYTES (QMP_CLIENT_LINE_MAX + (1u << 20))

struct server {
	int fd;
	const char *texts[TEXTS_MAX]; /* NULL ends: then the socket is held open or closed */
	bool hold;
	bool flood; /* after the texts: one line without end */
	bool silent;
	pthread_t thread;
};

/* Returns false at the end of the input. */
static bool read_line(int fd)
{
	char c = 0;

	while (c != '\n')
		if (read(fd, &c, 1) != 1)
			return false;
	return true;
}

static bool send_text(int fd, const char *text)
{
	size_t len = strlen(text);

	return send(fd, text, len, MSG_NOSIGNAL) == (ssize_t)len;
}

static void send_flood(int fd)
{
	static char chunk[65536];

	memset(chunk, ' ', sizeof(chunk));
	for (size_t sent = 0; sent < FLOOD_BYTES; sent += sizeof(chunk))
		if (send(fd, chunk, sizeof(chunk), MSG_NOSIGNAL) < 0)
			return;
}

static void *serve(void *opaque)
{
	struct server *server = opaque;

	for (int i = 0; server->texts[i]; i++)
		if ((i > 0 && !read_line(server->fd)) || !send_text(server->fd, server->texts[i]))
			break;
	if (server->flood)
		send_flood(server->fd);
	while (server->hold && read_line(server->fd))
		;
	close(server->fd);
	return NULL;
}

static struct qmp_client *connect_to(struct server *server, struct error *err)
{
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	server->fd = fds[0];
	assert_int_equal(pthread_create(&server->thread, NULL, serve, server), 0);
	return qmp_client_from_fd(fds[1], server->silent ? SILENT_MS : TIMEOUT_MS, err);
}

static void end(struct server *server, struct qmp_client *client)
{
	qmp_client_close(client);
	pthread_join(server->thread, NULL);
}

static void well_behaved_server(void **state)
{
	struct server server = {
		.texts = { GREETING, DONE, "{\"return\": {\"actual\": 7}, \"more\": 1}\r\n", DONE },
		.hold = true,
	};
	struct error err = { 0 };
	struct qmp_client *client = connect_to(&server, &err);
	json_t *reply = NULL;

	(void)state;
	assert_non_null(client);
	assert_int_equal(qmp_client_call(client, "query-balloon", NULL, &reply, &err), 0);
	assert_int_equal(json_integer_value(json_object_get(reply, "actual")), 7);
	json_decref(reply);
	assert_int_equal(
		qmp_client_call(client, "balloon", json_pack("{s:i}", "value", 7), NULL, &err), 0);
	assert_int_equal(err.code, 0);
	end(&server, client);
}

static void events_are_kept(void **state)
{
	struct server server = {
		.texts = { GREETING, DONE, EVENT("1") EVENT("2") DONE EVENT("3") },
		.hold = true,
	};
	struct qmp_client *client = connect_to(&server, NULL);
	json_t *event = NULL;

	(void)state;
	assert_int_equal(qmp_client_call(client, "stop", NULL, NULL, NULL), 0);
	for (int i = 1; i <= 3; i++) {
		assert_int_equal(qmp_client_event(client, 5000, &event), 1);
		assert_int_equal(json_integer_value(json_object_get(event, "data")), i);
		json_decref(event);
	}
	assert_int_equal(qmp_client_event(client, 20, &event), 0);
	end(&server, client);
}

static void server_says_no(void **state)
{
	struct server server = {
		.texts = { GREETING, DONE,
			   "{\"error\": {\"class\": \"GenericError\", \"desc\": \"too hot\"}}\n",
			   "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"what?\"}}\n",
			   "{\"error\": {\"class\": 7}}\n", "{}\n" },
	};
	struct qmp_client *client = connect_to(&server, NULL);
	struct error err = { 0 };

	(void)state;
	assert_int_equal(qmp_client_call(client, "a", NULL, NULL, &err), -EINVAL);
	assert_string_equal(err.message, "too hot");
	error_clear(&err);
	assert_int_equal(qmp_client_call(client, "b", NULL, NULL, &err), -ENOTSUP);
	error_clear(&err);
	assert_int_equal(qmp_client_call(client, "c", NULL, NULL, &err), -EPROTO);
	error_clear(&err);
	assert_int_equal(qmp_client_call(client, "d", NULL, NULL, &err), -EPROTO);
	error_clear(&err);
	assert_int_equal(qmp_client_call(client, "e", NULL, NULL, &err), -EPIPE);
	end(&server, client);
}

/* After a reply that did not come in time, a later one could be taken for it: the connection is of
 * no use any more. */
static void silent_server(void **state)
{
	struct server server = { .texts = { GREETING, DONE }, .hold = true, .silent = true };
	struct qmp_client *client = connect_to(&server, NULL);
	struct error err = { 0 };

	(void)state;
	assert_int_equal(qmp_client_call(client, "query-status", NULL, NULL, &err), -ETIMEDOUT);
	assert_non_null(strstr(err.message, "query-status"));
	error_clear(&err);
	assert_int_equal(qmp_client_call(client, "query-status", NULL, NULL, &err), -EPIPE);
	end(&server, client);
}

static void no_client_comes_of(struct server *server, int code)
{
	struct error err = { 0 };

	assert_null(connect_to(server, &err));
	assert_int_equal(err.code, code);
	assert_true(strlen(err.message) > 0);
	pthread_join(server->thread, NULL);
}

static void bad_greetings(void **state)
{
	struct server nothing = { .hold = true, .silent = true };
	struct server closed = { .texts = { NULL } };
	struct server text = { .texts = { "220 smtp ready\r\n" }, .hold = true };
	struct server other = { .texts = { "{\"return\": {}}\r\n" }, .hold = true };
	struct server array = { .texts = { "[{\"QMP\": {}}]\r\n" }, .hold = true };
	struct server bad_utf8 = { .texts = { "{\"QMP\": {\"\xff\": 1}}\r\n" }, .hold = true };
	struct server refuses = {
		.texts = { GREETING,
			   "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}\n" },
		.hold = true,
	};

	(void)state;
	no_client_comes_of(&nothing, ETIMEDOUT);
	no_client_comes_of(&closed, EPIPE);
	no_client_comes_of(&text, EPROTO);
	no_client_comes_of(&other, EPROTO);
	no_client_comes_of(&array, EPROTO);
	no_client_comes_of(&bad_utf8, EPROTO);
	no_client_comes_of(&refuses, EINVAL);
}

/* A line without end is given up at the limit, not when memory is full. */
static void endless_line(void **state)
{
	struct server server = { .texts = { GREETING, DONE, "{" }, .flood = true };
	struct qmp_client *client = connect_to(&server, NULL);
	struct error err = { 0 };

	(void)state;
	assert_int_equal(qmp_client_call(client, "query-status", NULL, NULL, &err), -EPROTO);
	end(&server, client);
}

/* Events beyond the limit push out the oldest. */
static void flood_of_events(void **state)
{
	const unsigned int nr = QMP_CLIENT_EVENTS_MAX + 50;
	char *text = test_malloc(nr * 64 + sizeof(DONE)), *p = text;
	struct server server = { .texts = { GREETING, DONE, text }, .hold = true };
	struct qmp_client *client;
	json_t *event = NULL;

	(void)state;
	for (unsigned int i = 0; i < nr; i++)
		p += sprintf(p, "{\"event\": \"E\", \"data\": %u}\r\n", i);
	strcpy(p, DONE);
	client = connect_to(&server, NULL);
	assert_int_equal(qmp_client_call(client, "stop", NULL, NULL, NULL), 0);
	assert_int_equal(qmp_client_event(client, 0, &event), 1);
	assert_int_equal(json_integer_value(json_object_get(event, "data")), 50);
	json_decref(event);
	end(&server, client);
	test_free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(well_behaved_server), cmocka_unit_test(events_are_kept),
		cmocka_unit_test(server_says_no),      cmocka_unit_test(silent_server),
		cmocka_unit_test(bad_greetings),       cmocka_unit_test(endless_line),
		cmocka_unit_test(flood_of_events),
	};

	signal(SIGPIPE, SIG_IGN);
	alarm(60); /* a hang is a failure */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
