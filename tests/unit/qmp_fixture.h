/* SPDX-License-Identifier: MIT */
/* A QMP server on a loop in a thread of its own, and a client that speaks to it over a socket. */
#ifndef TESTS_UNIT_QMP_FIXTURE_H
#define TESTS_UNIT_QMP_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "framevisor/qmp_server.h"

#define LONG_REPLY 20000

struct fixture {
	struct event_loop *loop;
	struct qmp_server *server;
	pthread_t thread;
	unsigned int calls; /* of commands; loop's thread, read when it is at rest */
};

/* Runs fn(opaque) in the loop's thread and waits for its end. */
struct errand {
	void (*fn)(void *opaque);
	void *opaque;
	sem_t done;
};

static void run_errand(void *opaque)
{
	struct errand *errand = opaque;

	errand->fn(errand->opaque);
	sem_post(&errand->done);
}

static void in_loop(struct fixture *f, void (*fn)(void *opaque), void *opaque)
{
	struct errand errand = { .fn = fn, .opaque = opaque };

	sem_init(&errand.done, 0, 0);
	assert_int_equal(event_loop_post(f->loop, run_errand, &errand), 0);
	while (sem_wait(&errand.done) < 0)
		;
	sem_destroy(&errand.done);
}

static int cmd_echo(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct fixture *f = opaque;

	(void)err;
	f->calls++;
	*reply = json_incref(args);
	return 0;
}

static int cmd_add(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	uint64_t value = 0;
	const char *unit = "";
	bool twice = false;

	(void)opaque;
	if (qmp_arg_u64(args, "value", &value, err) < 0 ||
	    qmp_arg_string(args, "unit", &unit, err) < 0 ||
	    qmp_arg_bool_optional(args, "twice", &twice, err) < 0)
		return -EINVAL;
	*reply = json_sprintf("%llu %s", (unsigned long long)value * (twice ? 2 : 1), unit);
	return 0;
}

static int cmd_empty(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct fixture *f = opaque;

	(void)args;
	(void)reply;
	(void)err;
	f->calls++;
	return 0;
}

static int cmd_fail(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	(void)opaque;
	(void)args;
	(void)reply;
	return qmp_error_set(err, QMP_DEVICE_NOT_ACTIVE, "no \"such\" thing\n%s", "\xff");
}

static int cmd_long(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct fixture *f = opaque;
	static char text[LONG_REPLY + 1];

	(void)args;
	(void)err;
	__atomic_fetch_add(&f->calls, 1, __ATOMIC_RELAXED);
	memset(text, 'x', LONG_REPLY);
	*reply = json_string(text);
	return 0;
}

static int cmd_event(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct fixture *f = opaque;

	(void)args;
	(void)reply;
	(void)err;
	qmp_server_event(f->server, "HAPPENED", json_pack("{s:i}", "number", 1));
	return 0;
}

static const struct qmp_command commands[] = {
	{ .name = "echo", .handler = cmd_echo },
	{ .name = "add", .handler = cmd_add },
	{ .name = "empty", .handler = cmd_empty },
	{ .name = "fail", .handler = cmd_fail },
	{ .name = "long", .handler = cmd_long },
	{ .name = "event", .handler = cmd_event },
	{ .name = "x-secret", .handler = cmd_empty, .flags = QMP_COMMAND_UNLISTED },
};

static void *run_loop(void *opaque)
{
	struct fixture *f = opaque;

	event_loop_run(f->loop);
	return NULL;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct qmp_server_config config = {
		.commands = commands,
		.nr_commands = sizeof(commands) / sizeof(commands[0]),
		.opaque = f,
	};

	f->loop = event_loop_create();
	f->server = qmp_server_create(f->loop, &config, NULL);
	*state = f;
	if (!f->loop || !f->server)
		return -1;
	return pthread_create(&f->thread, NULL, run_loop, f);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	event_loop_quit(f->loop);
	pthread_join(f->thread, NULL);
	qmp_server_destroy(f->server);
	event_loop_destroy(f->loop);
	free(f);
	return 0;
}

/* --- a client --- */

struct client {
	struct fixture *f;
	int fd, peer;
	int result;
	char buf[2 * LONG_REPLY];
	size_t len;
};

static void add_client(void *opaque)
{
	struct client *client = opaque;

	client->result = qmp_server_add_client(client->f->server, client->peer);
}

static void client_attach(struct client *client, struct fixture *f)
{
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	*client = (struct client){ .f = f, .fd = fds[0], .peer = fds[1] };
	in_loop(f, add_client, client);
	assert_int_equal(client->result, 0);
}

/* Returns false when the server hung up or takes nothing for 5 s. */
static bool client_send(struct client *client, const char *data, size_t len)
{
	struct pollfd pollfd = { .fd = client->fd, .events = POLLOUT };

	while (len) {
		ssize_t n;

		if (poll(&pollfd, 1, 5000) <= 0)
			return false;
		n = send(client->fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno != EAGAIN)
			return false;
		data += n > 0 ? n : 0;
		len -= n > 0 ? (size_t)n : 0;
	}
	return true;
}

static void say(struct client *client, const char *text)
{
	assert_true(client_send(client, text, strlen(text)));
}

/* The next line, checked for CR LF and JSON; NULL when the server hung up. */
static json_t *client_line_within(struct client *client, int timeout_ms)
{
	struct pollfd pollfd = { .fd = client->fd, .events = POLLIN };

	for (;;) {
		char *end = memchr(client->buf, '\n', client->len);
		ssize_t n;

		if (end) {
			size_t line = (size_t)(end - client->buf) + 1;
			json_t *json = json_loadb(client->buf, line, 0, NULL);

			assert_true(line >= 2 && end[-1] == '\r');
			assert_non_null(json);
			client->len -= line;
			memmove(client->buf, end + 1, client->len);
			return json;
		}
		if (poll(&pollfd, 1, timeout_ms) <= 0)
			fail_msg("no line from the server");
		n = recv(client->fd, client->buf + client->len, sizeof(client->buf) - client->len,
			 0);
		if (n == 0 || (n < 0 && errno == ECONNRESET))
			return NULL;
		assert_true(n > 0);
		client->len += (size_t)n;
	}
}

static json_t *client_line(struct client *client)
{
	return client_line_within(client, 10000);
}

static void expect_line(struct client *client, const char *text)
{
	json_t *line = client_line(client);
	json_t *expected = json_loads(text, 0, NULL);

	assert_non_null(line);
	assert_non_null(expected);
	if (!json_equal(line, expected))
		fail_msg("got %s, not %s", json_dumps(line, 0), text);
	json_decref(line);
	json_decref(expected);
}

/* An error of that class, with a text; the text has word in it unless that is NULL. */
static void expect_error(struct client *client, const char *class, const char *word)
{
	json_t *line = client_line(client);
	json_t *error = json_object_get(line, "error");
	const char *desc = json_string_value(json_object_get(error, "desc"));

	assert_non_null(line);
	if (!error || !desc || !*desc || (word && !strstr(desc, word)))
		fail_msg("got %s, not an error that says '%s'", json_dumps(line, 0),
			 word ? word : "");
	assert_string_equal(json_string_value(json_object_get(error, "class")), class);
	json_decref(line);
}

static void expect_alive(struct client *client)
{
	say(client, "{\"execute\":\"empty\",\"id\":\"alive\"}");
	expect_line(client, "{\"return\":{},\"id\":\"alive\"}");
}

static void client_negotiate(struct client *client, struct fixture *f)
{
	json_t *greeting;

	client_attach(client, f);
	greeting = client_line(client);
	assert_non_null(json_object_get(greeting, "QMP"));
	json_decref(greeting);
	say(client, "{\"execute\":\"qmp_capabilities\"}\r\n");
	expect_line(client, "{\"return\":{}}");
}

static void client_detach(struct client *client)
{
	close(client->fd);
}

static void count_clients(void *opaque)
{
	struct client *client = opaque;

	client->result = (int)qmp_server_nr_clients(client->f->server);
}

static void expect_clients(struct fixture *f, int nr)
{
	struct client probe = { .f = f };

	for (int i = 0; i < 1000; i++) {
		in_loop(f, count_clients, &probe);
		if (probe.result == nr)
			return;
		usleep(5000);
	}
	fail_msg("%d clients, not %d", probe.result, nr);
}

#endif
