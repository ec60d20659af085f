/* SPDX-License-Identifier: MIT */
/* framevisor vmstat, framevisor pressure: what the pool's reclaim has done, and who waited. */
#include <inttypes.h>
#include <stdio.h>

#include "vmm/cli/cli.h"

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

static int run_vmstat(const struct cli_args *args, struct error *err)
{
	json_t *reply = cli_pool_query("query-vmstat", err), *value;
	const char *name;

	(void)args;
	if (!reply)
		return CLI_ERROR;
	if (options.json)
		return cli_print_json(reply, err);
	json_object_foreach(reply, name, value)
	{
		printf("%s %" JSON_INTEGER_FORMAT "\n", name, json_integer_value(value));
	}
	json_decref(reply);
	return CLI_OK;
}

static void print_line(const json_t *reply, const char *what)
{
	const json_t *line = json_object_get(reply, what);

	printf("%s avg10=%.2f avg60=%.2f avg300=%.2f total=%" PRIu64 "\n", what,
	       json_real_value(json_object_get(line, "avg10")),
	       json_real_value(json_object_get(line, "avg60")),
	       json_real_value(json_object_get(line, "avg300")), cli_json_u64(line, "total-us"));
}

static int run_pressure(const struct cli_args *args, struct error *err)
{
	json_t *reply = cli_pool_query("query-pressure", err);

	(void)args;
	if (!reply)
		return CLI_ERROR;
	if (options.json)
		return cli_print_json(reply, err);
	print_line(reply, "some");
	print_line(reply, "full");
	json_decref(reply);
	return CLI_OK;
}

const struct cli_verb cli_vmstat = {
	.name = "vmstat",
	.summary = "show the counters of the pool and its reclaim",
	.details =
		"Lines of name and number, as in /proc/vmstat; frames where it counts memory.\n"
		"pgscan is what was asked of VMs, pgsteal what they gave while memory was short.",
	.examples = "  framevisor vmstat | grep pgsteal",
	.options = table,
	.nr_options = 1,
	.defaults = defaults,
	.run = run_vmstat,
};

const struct cli_verb cli_pressure = {
	.name = "pressure",
	.summary = "show how long VMs waited for memory",
	.details = "As /proc/pressure/memory: the share of time in which at least one VM (some) or "
		   "all\n"
		   "of them (full) waited for a frame, in percent over 10, 60 and 300 s, and the "
		   "total\n"
		   "in microseconds.",
	.examples = "  framevisor pressure --json",
	.options = table,
	.nr_options = 1,
	.defaults = defaults,
	.run = run_pressure,
};
