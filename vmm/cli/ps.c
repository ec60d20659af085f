/* SPDX-License-Identifier: MIT */
/* framevisor ps: the running VMs. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "framevisor/frame.h"
#include "framevisor/rundir.h"
#include "vmm/cli/cli.h"

/* A VM that does not answer must not hold up the list. */
#define PS_TIMEOUT_MS 2000

static struct {
	bool json;
} options;

static const struct cli_option table[] = {
	{ "json", 0, CLI_FLAG, NULL, "print JSON", 0, 0, 0 },
};

static void *defaults(void)
{
	options.json = false;
	return &options;
}

/* Adds what one VM says of itself to the array; one that says nothing has only name and pid. */
static void collect(void *opaque, const char *name, pid_t pid)
{
	json_t *list = opaque, *vm, *memory;
	struct qmp_client *client = cli_vm_connect(name, PS_TIMEOUT_MS, NULL);

	vm = json_pack("{s:s,s:i,s:s}", "name", name, "pid", (int)pid, "status", "no-answer");
	if (client) {
		json_t *answer = NULL;

		if (qmp_client_call(client, "query-framevisor-vm", NULL, &answer, NULL) == 0)
			json_object_update(vm, answer);
		json_decref(answer);
		memory = NULL;
		if (qmp_client_call(client, "query-framevisor-memory", NULL, &memory, NULL) == 0)
			json_object_update(vm, memory);
		json_decref(memory);
		qmp_client_close(client);
	}
	json_array_append_new(list, vm);
}

static void add_size(struct cli_table *rows, uint64_t bytes)
{
	char text[SIZE_TEXT_MAX];

	cli_table_add(rows, "%s", size_format(bytes, text, sizeof(text)));
}

/* What the guest shall have and what it has, over balloon and virtio-mem. */
static void add_target(struct cli_table *rows, const json_t *vm)
{
	char target[SIZE_TEXT_MAX], actual[SIZE_TEXT_MAX];

	if (!cli_json_bool(vm, "balloon.driver-ready")) {
		cli_table_add(rows, "no driver");
		return;
	}
	cli_table_add(rows, "%s/%s",
		      size_format(cli_json_u64(vm, "target.size"), target, sizeof(target)),
		      size_format(cli_json_u64(vm, "target.actual"), actual, sizeof(actual)));
}

static void add_uptime(struct cli_table *rows, uint64_t ms)
{
	uint64_t s = ms / 1000;

	if (s < 3600)
		cli_table_add(rows, "%" PRIu64 "m%02" PRIu64 "s", s / 60, s % 60);
	else
		cli_table_add(rows, "%" PRIu64 "h%02" PRIu64 "m", s / 3600, s % 3600 / 60);
}

static void add_row(struct cli_table *rows, const json_t *vm)
{
	uint64_t held = cli_json_u64(vm, "frames.bound") + cli_json_u64(vm, "frames.stock");

	cli_table_add(rows, "%s", cli_json_string(vm, "name"));
	cli_table_add(rows, "%" PRIu64, cli_json_u64(vm, "pid"));
	cli_table_add(rows, "%s%s", cli_json_string(vm, "status"),
		      cli_json_bool(vm, "waits-for-memory") ? " (memory)" : "");
	if (!json_object_get(vm, "frames")) {
		for (int i = 0; i < 5; i++)
			cli_table_add(rows, "-");
		return;
	}
	cli_table_add(rows, "%" PRIu64, cli_json_u64(vm, "cpus"));
	add_size(rows, cli_json_u64(vm, "target.max"));
	add_size(rows, held * cli_json_u64(vm, "frame-size"));
	add_target(rows, vm);
	add_uptime(rows, cli_json_u64(vm, "uptime-ms"));
}

static int run(const struct cli_args *args, struct error *err)
{
	static const char *const heads[] = { "NAME", ">PID",  "STATE",       ">CPUS",
					     ">MEM", ">HELD", ">TARGET/NOW", ">UPTIME" };
	struct cli_table rows = { .columns = 8, .heads = heads };
	json_t *list = json_array(), *vm;
	size_t i;
	int ret;

	(void)args;
	ret = rundir_vm_each(collect, list);
	if (ret < 0) {
		json_decref(list);
		error_set_errno(err, -ret, "cannot list the running VMs");
		return CLI_ERROR;
	}
	if (options.json)
		return cli_print_json(list, err);
	json_array_foreach(list, i, vm)
	{
		add_row(&rows, vm);
	}
	cli_table_print(&rows);
	json_decref(list);
	return CLI_OK;
}

const struct cli_verb cli_ps = {
	.name = "ps",
	.summary = "list the running VMs",
	.details =
		"MEM is what the VM may have at most, HELD what it has of the pool now. TARGET/NOW "
		"shows\n"
		"the size that the guest is asked to have and the size it has. STATE 'paused "
		"(memory)': the\n"
		"guest uses more memory than it may have; it goes on when there is some for it, or "
		"on\n"
		"'framevisor resume'.",
	.examples = "  framevisor ps\n  framevisor ps --json",
	.options = table,
	.nr_options = 1,
	.defaults = defaults,
	.run = run,
};
