/* SPDX-License-Identifier: MIT */
/*
 * Bytes of a QMP client through splitter, parser and dispatcher, cut into packets by the input
 * itself: the first byte of each packet says how long it is. Every reply must be an object that can
 * be sent, and a splitter that saw the bytes one at a time must find the same messages.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "framevisor/qmp_server.h"
#include "vmm/control/qmp_dispatch.h"
#include "vmm/control/qmp_split.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int cmd_echo(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	(void)opaque;
	(void)err;
	*reply = json_incref(args);
	return 0;
}

static int cmd_balloon(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	const char *text = NULL;
	uint64_t value = 0;
	bool flag = false;

	(void)opaque;
	(void)reply;
	if (qmp_arg_u64(args, "value", &value, err) < 0 ||
	    qmp_arg_bool_optional(args, "flag", &flag, err) < 0 ||
	    qmp_arg_string(args, "text", &text, err) < 0)
		return -1;
	/* Quotes what the client sent. */
	return qmp_error_set(err, QMP_DEVICE_NOT_FOUND, "%s", text);
}

static const struct qmp_command commands[] = {
	{ .name = "echo", .handler = cmd_echo },
	{ .name = "balloon", .handler = cmd_balloon },
};

static const struct qmp_server_config config = {
	.commands = commands,
	.nr_commands = sizeof(commands) / sizeof(commands[0]),
};

static void check_reply(json_t *reply)
{
	char *text;

	if (!json_is_object(reply) ||
	    !json_object_get(reply, "return") == !json_object_get(reply, "error"))
		abort();
	text = json_dumps(reply, 0);
	if (!text || strpbrk(text, "\r\n"))
		abort();
	free(text);
	json_decref(reply);
}

struct counts {
	unsigned int messages, faults;
	size_t bytes; /* of all messages */
};

static void feed(struct qmp_splitter *splitter, const char *data, size_t size, bool *negotiated,
		 struct counts *counts)
{
	while (size) {
		enum qmp_split_result result = qmp_split(splitter, &data, &size);

		if (result == QMP_SPLIT_MESSAGE) {
			counts->messages++;
			counts->bytes += splitter->len;
			if (negotiated)
				check_reply(qmp_dispatch(&config, negotiated, splitter->text,
							 splitter->len));
		} else if (result != QMP_SPLIT_MORE) {
			counts->faults++;
		}
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct qmp_splitter packets = { 0 }, single = { 0 };
	struct counts of_packets = { 0 }, of_single = { 0 };
	bool negotiated = size & 1;

	while (size) {
		size_t len = *data++;

		size--;
		len = len < size ? len : size;
		feed(&packets, (const char *)data, len, &negotiated, &of_packets);
		for (size_t i = 0; i < len; i++)
			feed(&single, (const char *)data + i, 1, NULL, &of_single);
		data += len;
		size -= len;
	}
	if (memcmp(&of_packets, &of_single, sizeof(of_packets)) != 0)
		abort();
	qmp_splitter_free(&packets);
	qmp_splitter_free(&single);
	return 0;
}
