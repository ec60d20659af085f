/* SPDX-License-Identifier: MIT */
/* framevisor buddyinfo, framevisor zoneinfo: the pool in the kernel's own text formats. */
#include "vmm/cli/cli.h"

static struct {
	bool json;
} options;

static const struct cli_option table[] = {
	{ "json", 0, CLI_FLAG, NULL, "print JSON (the text as one string)", 0, 0, 0 },
};

static void *defaults(void)
{
	options.json = false;
	return &options;
}

static int run_buddyinfo(const struct cli_args *args, struct error *err)
{
	(void)args;
	return cli_pool_report("query-buddyinfo", options.json, err);
}

static int run_zoneinfo(const struct cli_args *args, struct error *err)
{
	(void)args;
	return cli_pool_report("query-zoneinfo", options.json, err);
}

const struct cli_verb cli_buddyinfo = {
	.name = "buddyinfo",
	.summary = "show the pool's free blocks per node, zone and order",
	.details = "The format of /proc/buddyinfo; order 0 is one frame, of the size that\n"
		   "'framevisor pool' shows.",
	.examples = "  framevisor buddyinfo",
	.options = table,
	.nr_options = 1,
	.defaults = defaults,
	.run = run_buddyinfo,
};

const struct cli_verb cli_zoneinfo = {
	.name = "zoneinfo",
	.summary = "show the pool's zones, watermarks and per-CPU caches",
	.details = "The format of /proc/zoneinfo, in frames.",
	.examples = "  framevisor zoneinfo",
	.options = table,
	.nr_options = 1,
	.defaults = defaults,
	.run = run_zoneinfo,
};
