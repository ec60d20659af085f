/* SPDX-License-Identifier: MIT */
/* framevisor migrate: moves a running VM's memory to a node of the host. */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <unistd.h>

#include "framevisor/frame.h"
#include "vmm/cli/cli.h"

#define POLL_MS       50
#define PLAIN_LINE_MS 1000
#define NO_NODE       UINT64_MAX

static struct migrate_options {
	uint64_t guest_node, host_node;
	bool json;
} options;

static const struct cli_option table[] = {
	{ "host-node", 0, CLI_UINT, "NODE", "NUMA node of the host to move to (needed)",
	  offsetof(struct migrate_options, host_node), 0, 1023 },
	{ "guest-node", 0, CLI_UINT, "NODE", "only this NUMA node of the guest (default: all)",
	  offsetof(struct migrate_options, guest_node), 0, 1023 },
	{ "json", 0, CLI_FLAG, NULL, "print JSON", offsetof(struct migrate_options, json), 0, 0 },
};

static void *defaults(void)
{
	options = (struct migrate_options){ .guest_node = NO_NODE, .host_node = NO_NODE };
	return &options;
}

static volatile sig_atomic_t interrupted;

static void on_signal(int sig)
{
	(void)sig;
	interrupted = 1;
}

static void show_progress(const char *name, const json_t *now, bool tty)
{
	fprintf(stderr, "%s%s: %" PRIu64 " of %" PRIu64 " frames moved%s", tty ? "\r" : "", name,
		cli_json_u64(now, "done"), cli_json_u64(now, "total"), tty ? "\033[K" : "\n");
}

static json_t *query(struct qmp_client *client, struct error *err)
{
	json_t *now = NULL;

	qmp_client_call(client, "query-framevisor-migrate", NULL, &now, err);
	return now;
}

/* Until it has ended; an interrupt ends it. Returns what it came to, or NULL with err set. */
static json_t *wait_for_end(struct qmp_client *client, const char *name, struct error *err)
{
	bool tty = isatty(STDERR_FILENO);
	unsigned int waited_ms = 0;
	bool cancelled = false;
	json_t *now = query(client, err);

	while (now && cli_json_bool(now, "running")) {
		if (interrupted && !cancelled) {
			qmp_client_call(client, "framevisor-migrate-cancel", NULL, NULL, NULL);
			cancelled = true;
		}
		usleep(POLL_MS * 1000);
		waited_ms += POLL_MS;
		json_decref(now);
		now = query(client, err);
		if (now && (tty || waited_ms % PLAIN_LINE_MS == 0))
			show_progress(name, now, tty);
	}
	if (tty && waited_ms)
		fputs("\r\033[K", stderr);
	return now;
}

static void report(const char *name, const json_t *end)
{
	char size[SIZE_TEXT_MAX];
	uint64_t moved = cli_json_u64(end, "moved");

	if (cli_json_u64(end, "total") == 0) {
		printf("%s: nothing to move: its memory is on node %" PRIu64 " of the host\n", name,
		       options.host_node);
		return;
	}
	printf("%s: %" PRIu64 " frames (%s) moved to node %" PRIu64
	       " of the host; the longest was out of the guest's reach for %" PRIu64 " us\n",
	       name, moved, size_format(frames_to_bytes(moved), size, sizeof(size)),
	       options.host_node, cli_json_u64(end, "longest-us"));
}

static json_t *arguments(void)
{
	json_t *args = json_pack("{s:I}", "host-node", (json_int_t)options.host_node);

	if (options.guest_node != NO_NODE)
		json_object_set_new(args, "guest-node",
				    json_integer((json_int_t)options.guest_node));
	return args;
}

static int migrate(struct qmp_client *client, const char *name, struct error *err)
{
	json_t *end;
	int code;

	if (qmp_client_call(client, "framevisor-migrate", arguments(), NULL, err) < 0)
		return CLI_ERROR;
	end = wait_for_end(client, name, err);
	if (!end)
		return CLI_ERROR;
	code = (int)cli_json_u64(end, "error");
	if (code)
		error_set(err, code, "'%s': %s", name, cli_json_string(end, "message"));
	if (options.json) {
		json_object_set_new(end, "name", json_string(name));
		cli_print_json(end, err);
	} else {
		if (!code)
			report(name, end);
		json_decref(end);
	}
	return code ? CLI_ERROR : CLI_OK;
}

static int run(const struct cli_args *args, struct error *err)
{
	struct sigaction action = { .sa_handler = on_signal };
	struct qmp_client *client;
	int status;

	if (options.host_node == NO_NODE) {
		error_set(err, EINVAL, "where to? --host-node NODE says it");
		return CLI_ERROR;
	}
	client = cli_vm_connect(args->operands[0], CLI_ANSWER_TIMEOUT_MS, err);
	if (!client)
		return CLI_ERROR;
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	status = migrate(client, args->operands[0], err);
	qmp_client_close(client);
	return status;
}

const struct cli_verb cli_migrate = {
	.name = "migrate",
	.operands = "NAME",
	.min_operands = 1,
	.max_operands = 1,
	.summary = "move a VM's memory to a NUMA node of the host, while it runs",
	.examples = "  framevisor migrate web --host-node 1\n"
		    "  framevisor migrate web --guest-node 0 --host-node 1 --json",
	.options = table,
	.nr_options = sizeof(table) / sizeof(table[0]),
	.defaults = defaults,
	.run = run,
};
