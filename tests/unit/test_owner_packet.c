/* SPDX-License-Identifier: MIT */
/* Which packets are requests and replies, field by field; see vmm/owner/packet.h. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "vmm/owner/packet.h"

static const struct packet_limits limits = { .nr_nodes = 2, .spanned = { 100, 50 } };

static union owner_packet packet;
static const char *why;

static int check(void)
{
	why = NULL;
	return packet_check_request(&packet, packet.header.length, &limits, &why);
}

#define assert_bad(text)                            \
	do {                                        \
		assert_int_equal(check(), -EPROTO); \
		assert_non_null(strstr(why, text)); \
	} while (0)

static void make_hello(void)
{
	memset(&packet, 0, sizeof(packet));
	packet.hello.header.type = OWNER_HELLO;
	packet.hello.header.length = sizeof(packet.hello);
	packet.hello.version = OWNER_PROTOCOL_VERSION;
	packet.hello.ram_frames = 10;
	snprintf(packet.hello.name, sizeof(packet.hello.name), "web");
}

static void make_grant(void)
{
	memset(&packet, 0, sizeof(packet));
	packet.grant.header.type = OWNER_GRANT;
	packet.grant.header.length = sizeof(packet.grant);
	packet.grant.nr_frames = 4;
}

static void make_return(void)
{
	memset(&packet, 0, sizeof(packet));
	packet.runs.header.type = OWNER_RETURN;
	packet.runs.header.length = packet_runs_length(2);
	packet.runs.nr_runs = 2;
	packet.runs.nr_frames = 7;
	packet.runs.runs[0] = (struct frame_run){ .first = 96, .nr = 4, .node = 0 };
	packet.runs.runs[1] = (struct frame_run){ .first = 0, .nr = 3, .node = 1 };
}

static void test_headers(void **state)
{
	(void)state;
	for (size_t len = 0; len < sizeof(struct owner_header); len++) {
		make_grant();
		packet.header.length = (uint32_t)len;
		assert_int_equal(packet_check_request(&packet, len, &limits, &why), -EPROTO);
	}
	make_grant();
	packet.header.length++;
	assert_int_equal(packet_check_request(&packet, sizeof(packet.grant), &limits, &why),
			 -EPROTO);
	make_grant();
	packet.header.status = -1;
	assert_bad("status");
	make_grant();
	packet.header.reserved = 1;
	assert_bad("reserved");
	for (uint32_t type = 0; type < 10; type++) {
		make_grant();
		packet.header.type = type;
		/* RESIZE looks the same. */
		if (type != OWNER_GRANT && type != OWNER_RESIZE)
			assert_int_equal(check(), -EPROTO);
	}
}

static void test_hello(void **state)
{
	(void)state;
	make_hello();
	assert_int_equal(check(), 0);
	packet.hello.flags = OWNER_HELLO_WANT_UFFD;
	assert_int_equal(check(), 0);
	packet.hello.flags = 16;
	assert_bad("flags");
	make_hello();
	packet.hello.version++;
	assert_bad("version");
	make_hello();
	packet.hello.ram_frames = 0;
	assert_bad("size");
	packet.hello.ram_frames = UINT64_MAX;
	assert_bad("size");
	make_hello();
	packet.hello.header.length--;
	assert_bad("length");
}

static void test_hello_names(void **state)
{
	(void)state;
	make_hello();
	memset(packet.hello.name, 'a', sizeof(packet.hello.name)); /* no end */
	assert_bad("name");
	make_hello();
	packet.hello.name[0] = '\0';
	assert_bad("name");
	snprintf(packet.hello.name, sizeof(packet.hello.name), "../../etc");
	assert_bad("name");
	snprintf(packet.hello.name, sizeof(packet.hello.name), "a\nb");
	assert_bad("name");
}

static void test_grant(void **state)
{
	(void)state;
	make_grant();
	assert_int_equal(check(), 0);
	packet.grant.nodemask = 3;
	assert_int_equal(check(), 0);
	packet.grant.nodemask = 4;
	assert_bad("node");
	packet.grant.nodemask = UINT64_C(1) << 63;
	assert_bad("node");
	make_grant();
	packet.grant.nr_frames = 0;
	assert_bad("number");
	packet.grant.nr_frames = OWNER_GRANT_MAX;
	assert_int_equal(check(), 0);
	packet.grant.nr_frames++;
	assert_bad("number");
	make_grant();
	packet.grant.flags = OWNER_GRANT_TO_MOVE;
	assert_int_equal(check(), 0);
	packet.grant.flags = 2;
	assert_bad("flags");
}

static void test_return(void **state)
{
	(void)state;
	make_return();
	assert_int_equal(check(), 0);
	packet.runs.nr_frames++;
	assert_bad("sum");
	make_return();
	packet.runs.nr_runs = 1;
	assert_bad("runs and length");
	make_return();
	packet.runs.nr_runs = 0;
	packet.runs.nr_frames = 0;
	packet.runs.header.length = packet_runs_length(0);
	assert_bad("nothing");
	make_return();
	packet.runs.nr_runs = UINT32_MAX;
	assert_bad("runs and length");
	make_return();
	packet.runs.nr_runs = OWNER_RUNS_MAX + 1;
	packet.runs.header.length = packet_runs_length(OWNER_RUNS_MAX + 1);
	assert_bad("runs and length");
}

static void check_run(uint64_t first, uint32_t nr, uint16_t node, uint16_t reserved)
{
	make_return();
	packet.runs.runs[0] =
		(struct frame_run){ .first = first, .nr = nr, .node = node, .reserved = reserved };
	packet.runs.nr_frames = nr + 3;
	assert_bad("outside");
}

static void test_return_runs(void **state)
{
	(void)state;
	check_run(97, 4, 0, 0);
	check_run(100, 1, 0, 0);
	check_run(0, 0, 0, 0);
	check_run(0, 1, 2, 0);
	check_run(0, 1, UINT16_MAX, 0);
	check_run(0, 1, 0, 1);
	check_run(UINT64_MAX, 1, 0, 0);
	check_run(UINT64_MAX - 2, 4, 0, 0);
	check_run(1, UINT32_MAX - 3, 0, 0);
	/* The sum of 32-bit counts must not wrap to what the header says. */
	make_return();
	packet.runs.runs[0].nr = UINT32_MAX;
	packet.runs.runs[1].nr = 8;
	packet.runs.nr_frames = 7;
	assert_int_equal(check(), -EPROTO);
}

static void test_replies(void **state)
{
	struct packet_limits none = { 0 };
	size_t len = sizeof(packet.welcome);

	(void)state;
	memset(&packet, 0, sizeof(packet));
	packet.header.type = OWNER_WELCOME;
	packet.header.length = (uint32_t)len;
	packet.welcome.nr_nodes = 1;
	assert_int_equal(packet_check_reply(&packet, len, OWNER_WELCOME, &none, &why), 0);
	packet.welcome.nr_nodes = OWNER_NODES_MAX + 1;
	assert_int_equal(packet_check_reply(&packet, len, OWNER_WELCOME, &none, &why), -EPROTO);
	packet.welcome.nr_nodes = 0;
	assert_int_equal(packet_check_reply(&packet, len, OWNER_WELCOME, &none, &why), -EPROTO);
	packet.header.status = -ENOMEM;
	assert_int_equal(packet_check_reply(&packet, len, OWNER_WELCOME, &none, &why), 0);
	memset(packet.welcome.message, 'x', sizeof(packet.welcome.message));
	assert_int_equal(packet_check_reply(&packet, len, OWNER_WELCOME, &none, &why), -EPROTO);
	assert_int_equal(packet_check_reply(&packet, len, OWNER_GRANTED, &limits, &why), -EPROTO);
	memset(&packet, 0, sizeof(packet));
	len = sizeof(packet.filling);
	packet.header.type = OWNER_FILLING;
	packet.header.length = (uint32_t)len;
	packet.filling.total = 10;
	packet.filling.done = 10;
	assert_int_equal(packet_check_reply(&packet, len, OWNER_FILLING, &none, &why), 0);
	packet.filling.done = 11;
	assert_int_equal(packet_check_reply(&packet, len, OWNER_FILLING, &none, &why), -EPROTO);
	packet.filling.total = packet.filling.done = 0; /* it is divided by */
	assert_int_equal(packet_check_reply(&packet, len, OWNER_FILLING, &none, &why), -EPROTO);
	packet.filling.total = UINT64_MAX;
	assert_int_equal(packet_check_reply(&packet, len, OWNER_FILLING, &none, &why), -EPROTO);
	packet.filling.total = 10;
	packet.header.length = (uint32_t)--len;
	assert_int_equal(packet_check_reply(&packet, len, OWNER_FILLING, &none, &why), -EPROTO);
	make_return();
	packet.header.type = OWNER_GRANTED;
	len = packet.header.length;
	assert_int_equal(packet_check_reply(&packet, len, OWNER_GRANTED, &limits, &why), 0);
	packet.header.status = 1;
	assert_int_equal(packet_check_reply(&packet, len, OWNER_GRANTED, &limits, &why), -EPROTO);
	packet.header.status = 0;
	packet.runs.runs[1].first = 49;
	assert_int_equal(packet_check_reply(&packet, len, OWNER_GRANTED, &limits, &why), -EPROTO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_headers),     cmocka_unit_test(test_hello),
		cmocka_unit_test(test_hello_names), cmocka_unit_test(test_grant),
		cmocka_unit_test(test_return),      cmocka_unit_test(test_return_runs),
		cmocka_unit_test(test_replies),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
