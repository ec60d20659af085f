/* SPDX-License-Identifier: MIT */
/*
 * The QMP server over real sockets: what a client meets, hostile input, clients that do not read,
 * events. The server has a thread of its own, as its callers have; the test is the client.
 */
#include "framevisor/clock.h"
#include "tests/unit/qmp_fixture.h"

/* --- what a client meets --- */

static void greeting_comes_first(void **state)
{
	struct client client;
	json_t *greeting, *qmp, *version;

	client_attach(&client, *state);
	greeting = client_line(&client);
	qmp = json_object_get(greeting, "QMP");
	version = json_object_get(json_object_get(qmp, "version"), "qemu");
	assert_true(json_is_array(json_object_get(qmp, "capabilities")));
	assert_true(json_is_integer(json_object_get(version, "major")));
	assert_true(json_is_integer(json_object_get(version, "minor")));
	assert_true(json_is_integer(json_object_get(version, "micro")));
	json_decref(greeting);
	client_detach(&client);
}

static void negotiation_is_needed_once(void **state)
{
	struct fixture *f = *state;
	struct client client;

	client_attach(&client, f);
	json_decref(client_line(&client));
	say(&client, "{\"execute\":\"empty\"}");
	expect_error(&client, "CommandNotFound", "qmp_capabilities");
	say(&client, "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[\"oob\"]}}");
	expect_error(&client, "GenericError", NULL);
	say(&client, "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":7}}");
	expect_error(&client, "GenericError", "enable");
	say(&client, "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[]},\"id\":1}");
	expect_line(&client, "{\"return\":{},\"id\":1}");
	say(&client, "{\"execute\":\"qmp_capabilities\"}");
	expect_error(&client, "CommandNotFound", NULL);
	expect_alive(&client);
	assert_int_equal(f->calls, 1);
	client_detach(&client);
}

static void id_is_echoed_whatever_it_is(void **state)
{
	static const char *const ids[] = { "1",           "\"a\"",      "null", "[1,{\"x\":[]}]",
					   "{\"a\":1.5}", "\"\\u20ac\"" };
	struct client client;
	char text[128];

	client_negotiate(&client, *state);
	for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
		snprintf(text, sizeof(text), "{\"id\":%s,\"execute\":\"empty\"}", ids[i]);
		say(&client, text);
		snprintf(text, sizeof(text), "{\"return\":{},\"id\":%s}", ids[i]);
		expect_line(&client, text);
		snprintf(text, sizeof(text), "{\"id\":%s,\"execute\":\"fail\"}", ids[i]);
		say(&client, text);
		json_decref(client_line(&client));
	}
	client_detach(&client);
}

static void arguments_are_checked(void **state)
{
	static const struct {
		const char *args, *word;
	} wrong[] = {
		{ "{}", "value" },
		{ "{\"value\":-1,\"unit\":\"B\"}", "value" },
		{ "{\"value\":1.5,\"unit\":\"B\"}", "value" },
		{ "{\"value\":\"1\",\"unit\":\"B\"}", "value" },
		{ "{\"value\":null,\"unit\":\"B\"}", "value" },
		{ "{\"value\":1}", "unit" },
		{ "{\"value\":1,\"unit\":1}", "unit" },
		{ "{\"value\":1,\"unit\":\"B\",\"twice\":1}", "twice" },
		{ "{\"value\":9223372036854775808,\"unit\":\"B\"}", NULL },
		{ "[]", "arguments" },
		{ "7", "arguments" },
	};
	struct client client;
	char text[256];

	client_negotiate(&client, *state);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		snprintf(text, sizeof(text), "{\"execute\":\"add\",\"arguments\":%s}",
			 wrong[i].args);
		say(&client, text);
		expect_error(&client, "GenericError", wrong[i].word);
	}
	say(&client, "{\"execute\":\"add\",\"arguments\":{\"value\":9223372036854775807,"
		     "\"unit\":\"B\",\"unknown\":{}}}");
	expect_line(&client, "{\"return\":\"9223372036854775807 B\"}");
	say(&client, "{\"execute\":\"add\",\"arguments\":{\"value\":2,\"unit\":\"B\","
		     "\"twice\":true},\"more\":1}");
	expect_line(&client, "{\"return\":\"4 B\"}");
	client_detach(&client);
}

static bool lists(json_t *line, const char *name)
{
	json_t *entry;
	size_t i;

	json_array_foreach(json_object_get(line, "return"), i, entry)
	{
		if (strcmp(json_string_value(json_object_get(entry, "name")), name) == 0)
			return true;
	}
	return false;
}

static void commands_are_listed(void **state)
{
	struct client client;
	json_t *line;

	client_negotiate(&client, *state);
	say(&client, "{\"execute\":\"query-commands\"}");
	line = client_line(&client);
	assert_true(lists(line, "query-commands"));
	assert_true(lists(line, "qmp_capabilities"));
	assert_true(lists(line, "echo"));
	assert_false(lists(line, "x-secret"));
	json_decref(line);
	say(&client, "{\"execute\":\"x-secret\"}");
	expect_line(&client, "{\"return\":{}}");
	say(&client, "{\"execute\":\"query-version\"}");
	line = client_line(&client);
	assert_true(json_is_object(json_object_get(json_object_get(line, "return"), "qemu")));
	json_decref(line);
	say(&client, "{\"execute\":\"no-such\"}");
	expect_error(&client, "CommandNotFound", "no-such");
	client_detach(&client);
}

/* A handler's error keeps its class, and a text that is not UTF-8 does not break the reply. */
static void handlers_errors_arrive(void **state)
{
	struct client client;

	client_negotiate(&client, *state);
	say(&client, "{\"execute\":\"fail\"}");
	expect_error(&client, "DeviceNotActive", NULL);
	expect_alive(&client);
	client_detach(&client);
}

/* --- framing --- */

/* One byte per packet, several objects in one packet, no line end at all: all the same. */
static void packets_do_not_matter(void **state)
{
	const char *text = "{\"execute\":\"echo\",\"arguments\":{\"}\":\"\\\"{[\\\\\"}}";
	struct client client;

	client_negotiate(&client, *state);
	for (size_t i = 0; i < strlen(text); i++)
		assert_true(client_send(&client, text + i, 1));
	expect_line(&client, "{\"return\":{\"}\":\"\\\"{[\\\\\"}}");
	say(&client, "{\"execute\":\"empty\",\"id\":1}{\"execute\":\"empty\",\"id\":2}\n\r\n\t "
		     "{\"execute\":\n\"empty\",\r\n\"id\":3}");
	expect_line(&client, "{\"return\":{},\"id\":1}");
	expect_line(&client, "{\"return\":{},\"id\":2}");
	expect_line(&client, "{\"return\":{},\"id\":3}");
	client_detach(&client);
}

static void garbage_costs_one_error(void **state)
{
	static const struct {
		const char *text;
		size_t len; /* 0: strlen */
	} garbage[] = {
		{ "hello\n", 0 },
		{ "GET / HTTP/1.1\n", 0 },
		{ "{\"execute\":}\n", 0 },
		{ "{\"execute\":\"empty\"\"x\"}\n", 0 },
		{ "{]\n", 0 },
		{ "[}\n", 0 },
		{ "}\n", 0 },
		{ "{\"execute\":\"emp\n", 0 }, /* a quote forgotten */
		{ "{\"execute\":\"a\\u12\"}\n", 0 },
		{ "{\"execute\":\"a\\ud800\"}\n", 0 },
		{ "{\"execute\":\"\\u0000\"}\n", 0 },
		{ "{\"a\":1,\"a\":2}\n", 0 },
		{ "{\"execute\":1}\n", 0 },
		{ "{\"execute\":null}\n", 0 },
		{ "{}\n", 0 },
		{ "[]\n", 0 },
		{ "[{\"execute\":\"empty\"}]\n", 0 },
		{ "{\"id\":99999999999999999999999}\n", 0 },
		{ "{\"id\":1e999}\n", 0 },
		{ "\xff\xfe\n", 0 },
		{ "{\"execute\":\"\xff\"}\n", 0 },
		{ "{\"execute\":\"\xc3\x28\"}\n", 0 },
		{ "{\"execute\":\"\xed\xa0\x80\"}\n", 0 },
		{ "\0\0\0\n", 4 },
		{ "{\0}\n", 4 },
		{ "{\"execute\":\"empty\0\"}\n", 21 },
	};
	struct client client;

	client_negotiate(&client, *state);
	for (size_t i = 0; i < sizeof(garbage) / sizeof(garbage[0]); i++) {
		size_t len = garbage[i].len ? garbage[i].len : strlen(garbage[i].text);

		assert_true(client_send(&client, garbage[i].text, len));
		expect_error(&client, "GenericError", NULL);
		expect_alive(&client);
	}
	client_detach(&client);
}

static void deep_nesting_is_refused(void **state)
{
	struct client client;
	char text[2 * QMP_DEPTH_MAX + 64];
	size_t len = 0;

	client_negotiate(&client, *state);
	len += (size_t)sprintf(text, "{\"execute\":\"echo\",\"arguments\":{\"a\":");
	for (int i = 0; i < QMP_DEPTH_MAX - 1; i++)
		text[len++] = '[';
	text[len] = '\0';
	say(&client, text);
	expect_error(&client, "GenericError", "deep");
	say(&client, "]]]]}}\n");
	expect_alive(&client);
	client_detach(&client);
}

static void long_messages_are_refused(void **state)
{
	struct client client;
	char *chunk = malloc(QMP_INPUT_MAX + 1000);

	client_negotiate(&client, *state);
	memset(chunk, 'x', QMP_INPUT_MAX + 1000);
	say(&client, "{\"execute\":\"");
	assert_true(client_send(&client, chunk, QMP_INPUT_MAX + 1000));
	expect_error(&client, "GenericError", "long");
	say(&client, "\"}\n");
	expect_alive(&client);
	/* The longest that is allowed. */
	say(&client, "{\"execute\":\"");
	assert_true(client_send(&client, chunk, QMP_INPUT_MAX - strlen("{\"execute\":\"\"}")));
	say(&client, "\"}");
	expect_error(&client, "CommandNotFound", NULL);
	expect_alive(&client);
	free(chunk);
	client_detach(&client);
}

/* --- clients that come and go --- */

/* Commands sent before the client closed its side are executed and answered. */
static void half_closed_client_is_answered(void **state)
{
	struct client client;

	client_negotiate(&client, *state);
	say(&client, "{\"execute\":\"empty\",\"id\":1}{\"execute\":\"empty\",\"id\":2}");
	shutdown(client.fd, SHUT_WR);
	expect_line(&client, "{\"return\":{},\"id\":1}");
	expect_line(&client, "{\"return\":{},\"id\":2}");
	assert_null(client_line(&client));
	expect_clients(*state, 0);
	client_detach(&client);
}

static void vanishing_clients_leave_nothing(void **state)
{
	struct client client;

	for (int i = 0; i < 50; i++) {
		client_attach(&client, *state);
		if (i % 3)
			say(&client, "{\"execute\":\"qmp_capabilities\"}{\"execute\":\"long\"}");
		if (i % 2)
			say(&client, "{\"execute\":\"long\"}{\"exec");
		client_detach(&client);
	}
	expect_clients(*state, 0);
}

static void clients_are_limited(void **state)
{
	static struct client clients[QMP_CLIENTS_MAX];
	struct fixture *f = *state;
	struct client extra = { .f = f };
	int fds[2];

	for (int i = 0; i < QMP_CLIENTS_MAX; i++)
		client_attach(&clients[i], f);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	extra.peer = fds[1];
	in_loop(f, add_client, &extra);
	assert_int_equal(extra.result, -EBUSY);
	client_detach(&clients[7]);
	expect_clients(f, QMP_CLIENTS_MAX - 1);
	in_loop(f, add_client, &extra);
	assert_int_equal(extra.result, 0);
	close(fds[0]);
	for (int i = 0; i < QMP_CLIENTS_MAX; i++)
		if (i != 7)
			client_detach(&clients[i]);
	expect_clients(f, 0);
}

struct listening {
	struct fixture *f;
	int fd;
};

static void start_listening(void *opaque)
{
	struct listening *listening = opaque;

	if (qmp_server_listen(listening->f->server, listening->fd) < 0)
		abort();
}

static void listening_socket_accepts(void **state)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct listening listening = { .f = *state };
	struct client client = { .f = *state };

	snprintf(addr.sun_path + 1, sizeof(addr.sun_path) - 1, "framevisor-test-%d", getpid());
	listening.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(listening.fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(listening.fd, 4), 0);
	in_loop(*state, start_listening, &listening);
	for (int i = 0; i < 3; i++) {
		client.len = 0;
		client.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		assert_int_equal(connect(client.fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
		json_decref(client_line(&client));
		say(&client, "{\"execute\":\"qmp_capabilities\"}");
		expect_line(&client, "{\"return\":{}}");
		client_detach(&client);
	}
	expect_clients(*state, 0);
}

/* --- clients that do not read --- */

/* Commands are not executed while their client does not read, and all of them once it does. */
static void pipelined_commands_wait_for_the_reader(void **state)
{
	const char *command = "{\"execute\":\"long\"}";
	struct fixture *f = *state;
	struct client client;
	unsigned int sent = 2000;
	char *text = malloc(sent * strlen(command) + 1);
	size_t len = 0;

	for (unsigned int i = 0; i < sent; i++)
		len += (size_t)sprintf(text + len, "%s", command);
	client_negotiate(&client, f);
	assert_true(client_send(&client, text, len));
	usleep(50000);
	expect_clients(f, 1); /* 40 MB of replies are due, and it was not cut off */
	assert_true(__atomic_load_n(&f->calls, __ATOMIC_RELAXED) < 100);
	for (unsigned int i = 0; i < sent; i++) {
		json_t *line = client_line(&client);

		assert_int_equal(json_string_length(json_object_get(line, "return")), LONG_REPLY);
		json_decref(line);
	}
	expect_alive(&client);
	free(text);
	client_detach(&client);
}

struct sending {
	struct fixture *f;
	unsigned int number;
	bool limited;
};

static void send_event(void *opaque)
{
	struct sending *sending = opaque;
	json_t *data = json_pack("{s:i}", "number", sending->number);

	if (sending->limited)
		qmp_server_event_limited(sending->f->server, "CHANGED", 0, data);
	else
		qmp_server_event(sending->f->server, "HAPPENED", data);
}

static void send_large_event(void *opaque)
{
	struct fixture *f = opaque;
	static char text[LONG_REPLY + 1];

	memset(text, 'y', LONG_REPLY);
	qmp_server_event(f->server, "LARGE", json_pack("{s:s}", "text", text));
}

/* Events that nobody reads end the connection; the others go on. */
static void deaf_client_is_cut_off(void **state)
{
	struct fixture *f = *state;
	struct client deaf, other;

	client_negotiate(&deaf, f);
	client_negotiate(&other, f);
	for (unsigned int i = 0; i < 2 * QMP_OUTPUT_MAX / LONG_REPLY; i++) {
		in_loop(f, send_large_event, f);
		json_decref(client_line(&other));
	}
	expect_clients(f, 1);
	expect_alive(&other);
	client_detach(&other);
	client_detach(&deaf);
}

/* --- events --- */

static void expect_event(struct client *client, const char *name, int number)
{
	json_t *line = client_line(client);
	json_t *timestamp = json_object_get(line, "timestamp");
	json_int_t now = time(NULL);

	assert_non_null(line);
	assert_string_equal(json_string_value(json_object_get(line, "event")), name);
	assert_int_equal(
		json_integer_value(json_object_get(json_object_get(line, "data"), "number")),
		number);
	assert_true(llabs(json_integer_value(json_object_get(timestamp, "seconds")) - now) < 30);
	assert_true(json_integer_value(json_object_get(timestamp, "microseconds")) < 1000000);
	json_decref(line);
}

static void events_reach_negotiated_clients(void **state)
{
	struct fixture *f = *state;
	struct sending sending = { .f = f, .number = 5 };
	struct client a, b, fresh;

	client_negotiate(&a, f);
	client_negotiate(&b, f);
	client_attach(&fresh, f);
	in_loop(f, send_event, &sending);
	expect_event(&a, "HAPPENED", 5);
	expect_event(&b, "HAPPENED", 5);
	/* One that a command causes comes before the reply to it. */
	say(&a, "{\"execute\":\"event\"}");
	expect_event(&a, "HAPPENED", 1);
	expect_line(&a, "{\"return\":{}}");
	expect_event(&b, "HAPPENED", 1);
	json_decref(client_line(&fresh)); /* the greeting */
	say(&fresh, "{\"execute\":\"qmp_capabilities\"}");
	expect_line(&fresh, "{\"return\":{}}");
	client_detach(&a);
	client_detach(&b);
	client_detach(&fresh);
}

static void frequent_events_are_thinned(void **state)
{
	struct fixture *f = *state;
	struct sending sending = { .f = f, .limited = true };
	struct client client;
	uint64_t begin;

	client_negotiate(&client, f);
	begin = now_ms();
	for (sending.number = 1; sending.number <= 100; sending.number++)
		in_loop(f, send_event, &sending);
	expect_event(&client, "CHANGED", 1);
	expect_event(&client, "CHANGED", 100);
	assert_true(now_ms() - begin >= 990);
	/* Still in the second after the last: held back, then sent. */
	sending.number = 101;
	in_loop(f, send_event, &sending);
	expect_alive(&client);
	expect_event(&client, "CHANGED", 101);
	client_detach(&client);
}

static void held_back_event_is_sent_at_the_end(void **state)
{
	struct fixture *f = *state;
	struct sending sending = { .f = f, .limited = true, .number = 1 };
	struct client client;

	client_negotiate(&client, f);
	in_loop(f, send_event, &sending);
	sending.number = 2;
	in_loop(f, send_event, &sending);
	event_loop_quit(f->loop);
	pthread_join(f->thread, NULL);
	qmp_server_destroy(f->server);
	f->server = NULL;
	assert_int_equal(pthread_create(&f->thread, NULL, run_loop, f), 0); /* for teardown */
	expect_event(&client, "CHANGED", 1);
	expect_event(&client, "CHANGED", 2);
	assert_null(client_line(&client));
	client_detach(&client);
}

/* --- */

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(greeting_comes_first),
		TEST(negotiation_is_needed_once),
		TEST(id_is_echoed_whatever_it_is),
		TEST(arguments_are_checked),
		TEST(commands_are_listed),
		TEST(handlers_errors_arrive),
		TEST(packets_do_not_matter),
		TEST(garbage_costs_one_error),
		TEST(deep_nesting_is_refused),
		TEST(long_messages_are_refused),
		TEST(half_closed_client_is_answered),
		TEST(vanishing_clients_leave_nothing),
		TEST(clients_are_limited),
		TEST(listening_socket_accepts),
		TEST(pipelined_commands_wait_for_the_reader),
		TEST(deaf_client_is_cut_off),
		TEST(events_reach_negotiated_clients),
		TEST(frequent_events_are_thinned),
		TEST(held_back_event_is_sent_at_the_end),
	};

	alarm(120); /* a hang is a failure */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
