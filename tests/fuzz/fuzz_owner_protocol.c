/* SPDX-License-Identifier: MIT */
/*
 * Hostile clients of the pool owner: up to four at once send what the input says, to the very code
 * that serves them, over a pool of pure metadata. Whatever they send, the pool's books must balance
 * after it, and each must hold exactly what it was granted and has not returned.
 *
 * The same for the notice channel, in both directions: what is taken for a notice must be one.
 *
 * The input is a list of steps: one byte that chooses client, kind and type, one byte of length
 * (in units of 4 bytes), and that many bytes of packet. Three of the four kinds repair the packet
 * (its length; its type and sums; all of it), so that the fuzzer gets past the first checks.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/owner/notice_packet.h"
#include "vmm/owner/pool.h"
#include "vmm/owner/session.h"

#define NR_CLIENTS  4
#define NODE_FRAMES 96
#define STEPS_MAX   64

enum step_kind { STEP_RAW, STEP_LENGTH, STEP_VALID, STEP_RETURN_GRANTED };

struct fuzz_client {
	struct session session;
	struct owner_runs granted; /* its last grant */
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct pool *pool;
static uint32_t last_id;

static void die(const char *what)
{
	(void)fprintf(stderr, "%s\n", what);
	abort();
}

static void check_pool(void)
{
	char message[256] = "";

	if (pool_validate(pool, message, sizeof(message)) < 0)
		die(message);
}

static void check_clients(const struct fuzz_client *clients)
{
	for (int i = 0; i < NR_CLIENTS; i++) {
		const struct session *session = &clients[i].session;

		if (pool_held(pool, session->id) != session->held)
			die("a client's count is not the pool's");
		if (session->held > session->ram_frames)
			die("a client holds more than its RAM");
	}
}

static void renew(struct fuzz_client *client)
{
	session_init(&client->session, pool, ++last_id);
	memset(&client->granted, 0, sizeof(client->granted));
}

/* Runs whose sum is right, and which lie within the pool unless wild. Returns the packet's length.
 */
static size_t repair_runs(struct owner_runs *runs, const struct packet_limits *limits, bool wild)
{
	runs->nr_runs = runs->nr_runs % 8 + 1;
	runs->nr_frames = 0;
	for (unsigned int i = 0; i < runs->nr_runs; i++) {
		struct frame_run *run = &runs->runs[i];

		run->reserved = 0;
		if (!wild) {
			run->node %= limits->nr_nodes;
			run->first %= limits->spanned[run->node];
			run->nr = run->nr % (uint32_t)(limits->spanned[run->node] - run->first) + 1;
		}
		runs->nr_frames += run->nr;
	}
	return packet_runs_length(runs->nr_runs);
}

/* What a well-behaved client would have put there. Returns the packet's length. */
static size_t repair(union owner_packet *packet, unsigned int type,
		     const struct packet_limits *limits)
{
	packet->header.status = 0;
	packet->header.reserved = 0;
	switch (type % 3) {
	case 0:
		packet->header.type = OWNER_HELLO;
		packet->hello.version = OWNER_PROTOCOL_VERSION;
		packet->hello.flags &= 1;
		packet->hello.ram_frames = 40 - packet->hello.ram_frames % 40;
		memcpy(packet->hello.name, "vm", 3);
		return sizeof(packet->hello);
	case 1:
		packet->header.type = OWNER_GRANT;
		packet->grant.flags = 0;
		packet->grant.nr_frames = packet->grant.nr_frames % 64 + 1;
		packet->grant.nodemask &= 3;
		return sizeof(packet->grant);
	default:
		packet->header.type = OWNER_RETURN;
		return repair_runs(&packet->runs, limits, type == 14);
	}
}

/* Whoever handles what was let through relies on this. */
static void check_notice(const union notice_packet *packet, const struct packet_limits *limits)
{
	const struct notice_move *move = &packet->move;

	if (packet->header.type != NOTICE_MOVE)
		return;
	for (uint32_t i = 0; i < move->nr_runs; i++) {
		const struct frame_run *run = &move->runs[i];

		if (i >= OWNER_RUNS_MAX || run->node >= limits->nr_nodes ||
		    run->first + run->nr > limits->spanned[run->node])
			die("a MOVE of frames that do not exist");
	}
}

static void notice_step(const uint8_t *data, size_t len, const struct packet_limits *limits)
{
	union notice_packet packet;
	const char *why = NULL;

	memset(&packet, 0, sizeof(packet));
	memcpy(packet.bytes, data, len);
	packet.header.length = (uint32_t)len;
	if (packet.header.type & 0x100) /* get past the first checks */
		packet.header = (struct owner_header){ .type = packet.header.type & 0x7f,
						       .length = (uint32_t)len };
	if (notice_check_request(&packet, len, limits, &why) == 0)
		check_notice(&packet, limits);
	else if (!why)
		die("no reason");
	why = NULL;
	if (notice_check_report(&packet, len, &why) < 0 && !why)
		die("no reason");
}

static void step(struct fuzz_client *clients, uint8_t choice, const uint8_t *data, size_t len)
{
	struct fuzz_client *client = &clients[choice % NR_CLIENTS];
	union owner_packet packet;
	struct session_reply reply;
	enum session_result result;
	const char *why = NULL;
	uint64_t missing;

	if (choice / NR_CLIENTS % 4 == STEP_RAW && choice / 16 == 15) {
		notice_step(data, len, &client->session.limits);
		return;
	}
	memset(&packet, 0, sizeof(packet));
	memcpy(packet.bytes, data, len); /* 1020 at most */
	switch (choice / NR_CLIENTS % 4) {
	case STEP_LENGTH:
		packet.header.length = (uint32_t)len;
		break;
	case STEP_VALID:
		len = repair(&packet, choice / 16, &client->session.limits);
		packet.header.length = (uint32_t)len;
		break;
	case STEP_RETURN_GRANTED: /* its own or another's */
		packet.runs = clients[choice / 16 % NR_CLIENTS].granted;
		packet.header.type = OWNER_RETURN;
		len = packet.header.length;
		break;
	default:
		break;
	}
	result = session_handle(&client->session, &packet, len, &reply, &missing, &why);
	if (result == SESSION_REPLY && reply.packet.header.type == OWNER_GRANTED)
		client->granted = reply.packet.runs;
	check_clients(clients);
	if (result == SESSION_REPLY)
		return;
	session_release(&client->session);
	renew(client);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct fuzz_client clients[NR_CLIENTS];
	struct pool_config config = { .sim_nodes = 2, .sim_frames = NODE_FRAMES };

	if (!pool)
		pool = pool_create(&config, NULL);
	if (!pool)
		die("no pool");
	for (int i = 0; i < NR_CLIENTS; i++)
		renew(&clients[i]);
	for (int i = 0; i < STEPS_MAX && size >= 2; i++) {
		size_t len = (size_t)data[1] * 4;
		uint8_t choice = data[0];

		data += 2;
		size -= 2;
		if (len > size)
			len = size;
		step(clients, choice, data, len);
		data += len;
		size -= len;
	}
	check_pool();
	for (int i = 0; i < NR_CLIENTS; i++)
		session_release(&clients[i].session);
	check_pool();
	if (pool_held(pool, 0) != 0)
		die("frames were lost");
	return 0;
}
