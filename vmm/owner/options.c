/* SPDX-License-Identifier: MIT */
/* framevisord's command line: see options.h. */
#include "vmm/owner/options.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "framevisor/size.h"

enum {
	OPT_HELP = 256,
	OPT_VERSION,
	OPT_POOL,
	OPT_HUGEPAGES,
	OPT_MAX,
	OPT_INITIAL,
	OPT_MOVABLE,
	OPT_RUNDIR,
	OPT_GROUP,
	OPT_FOREGROUND,
	OPT_DAEMONIZE,
	OPT_ON_DEMAND,
	OPT_KEEP,
	OPT_JSON,
};

static const struct option long_options[] = {
	{ "help", no_argument, NULL, OPT_HELP },
	{ "version", no_argument, NULL, OPT_VERSION },
	{ "pool", required_argument, NULL, OPT_POOL },
	{ "hugepages", required_argument, NULL, OPT_HUGEPAGES },
	{ "max", required_argument, NULL, OPT_MAX },
	{ "initial", required_argument, NULL, OPT_INITIAL },
	{ "movable", required_argument, NULL, OPT_MOVABLE },
	{ "rundir", required_argument, NULL, OPT_RUNDIR },
	{ "group", required_argument, NULL, OPT_GROUP },
	{ "foreground", no_argument, NULL, OPT_FOREGROUND },
	{ "daemonize", no_argument, NULL, OPT_DAEMONIZE },
	{ "on-demand", no_argument, NULL, OPT_ON_DEMAND },
	{ "keep", no_argument, NULL, OPT_KEEP },
	{ "json", no_argument, NULL, OPT_JSON },
	{ NULL, 0, NULL, 0 },
};

void owner_options_help(void)
{
	(void)fputs(
		"Usage: framevisord [OPTION]...\n"
		"Owns the pool of memory frames that the VMs of this machine run on.\n"
		"\n"
		"  --pool SIZE        a pool of this size, which changes only on command "
		"(default:\n"
		"                     it grows with the VMs)\n"
		"  --max SIZE         how far it may ever grow (default: what the machine has,\n"
		"                     less a sixteenth for the system)\n"
		"  --movable SIZE|N%  so much of it is a zone of frames that can be moved, and\n"
		"                     therefore be given back to the host (default: nothing)\n"
		"  --initial SIZE     begin a growing pool with room for VMs of this size\n"
		"  --hugepages=MODE   auto     reserve hugepages of 2 MiB as needed, or else use\n"
		"                              ordinary memory and say so (default)\n"
		"                     require  fail when there are not enough hugepages\n"
		"                     never    ordinary memory\n"
		"                     1G       frames are hugepages of 1 GiB; memory comes and\n"
		"                              goes in units of these\n"
		"  --rundir DIR       sockets and state (default: $FRAMEVISOR_RUNDIR,\n"
		"                     /run/framevisor for root, $XDG_RUNTIME_DIR/framevisor)\n"
		"  --group NAME       members of this group may run VMs on the pool, too; for\n"
		"                     libvirt's VMs: kvm (default: root and the pool's own user)\n"
		"  --foreground       stay in the terminal (default)\n"
		"  --daemonize        return when the pool is ready and go on in the background\n"
		"  --keep             stay when the last VM has ended (default with --pool)\n"
		"  --on-demand        as 'framevisor run' starts it: --daemonize, and end a "
		"second\n"
		"                     after the last VM; nothing to do when an owner runs already\n"
		"  --json             say that the pool is ready in JSON\n"
		"  --help, --version\n"
		"\n"
		"SIZE is a number with K, M, G or T; without a unit it counts MiB.\n",
		stdout);
}

static int parse_hugepages(const char *text, enum hugepages_mode *mode, struct error *err)
{
	if (strcmp(text, "auto") == 0)
		*mode = HUGEPAGES_AUTO;
	else if (strcmp(text, "require") == 0)
		*mode = HUGEPAGES_REQUIRE;
	else if (strcmp(text, "never") == 0)
		*mode = HUGEPAGES_NEVER;
	else if (strcmp(text, "1G") == 0)
		*mode = HUGEPAGES_GIGANTIC;
	else
		return error_set(err, EINVAL, "--hugepages is auto, require, never or 1G, not '%s'",
				 text);
	return 0;
}

static int parse_size(const char *option, const char *text, uint64_t *bytes, struct error *err)
{
	int ret = size_parse(text, bytes, err);

	if (ret == 0 && *bytes == 0)
		return error_set(err, EINVAL, "--%s must be more than 0", option);
	return ret;
}

int owner_options_movable(const char *text, struct pool_movable *movable, struct error *err)
{
	char *end;
	unsigned long percent;

	*movable = (struct pool_movable){ 0 };
	if (!strchr(text, '%'))
		return parse_size("movable", text, &movable->bytes, err);
	errno = 0;
	percent = strtoul(text, &end, 10);
	if (errno || end == text || strcmp(end, "%") != 0 || text[0] == '-' || percent < 1 ||
	    percent > 100)
		return error_set(err, EINVAL,
				 "--movable is a size or a part from 1%% to 100%%, not '%s'", text);
	movable->percent = (unsigned int)percent;
	return 0;
}

static int parse_one(int opt, struct owner_options *options, struct error *err)
{
	switch (opt) {
	case OPT_HELP:
		options->action = OWNER_ACTION_HELP;
		return 0;
	case OPT_VERSION:
		options->action = OWNER_ACTION_VERSION;
		return 0;
	case OPT_POOL:
		return parse_size("pool", optarg, &options->pool, err);
	case OPT_HUGEPAGES:
		return parse_hugepages(optarg, &options->hugepages, err);
	case OPT_MAX:
		return parse_size("max", optarg, &options->max, err);
	case OPT_INITIAL:
		return parse_size("initial", optarg, &options->initial, err);
	case OPT_MOVABLE:
		return owner_options_movable(optarg, &options->movable, err);
	case OPT_RUNDIR:
		options->rundir = optarg;
		return 0;
	case OPT_GROUP:
		options->group = optarg;
		return 0;
	case OPT_FOREGROUND:
		options->daemonize = false;
		return 0;
	case OPT_DAEMONIZE:
		options->daemonize = true;
		return 0;
	case OPT_ON_DEMAND:
		options->on_demand = true;
		options->daemonize = true;
		return 0;
	case OPT_KEEP:
		options->keep = true;
		return 0;
	default:
		options->json = true;
		return 0;
	}
}

int owner_options_parse(int argc, char **argv, struct owner_options *options, struct error *err)
{
	int opt, ret;

	*options = (struct owner_options){ .hugepages = HUGEPAGES_AUTO };
	optind = 1;
	opterr = 0; /* the sentence goes into err */
	while ((opt = getopt_long(argc, argv, ":", long_options, NULL)) != -1) {
		if (opt == ':')
			return error_set(err, EINVAL, "option '%s' needs a value",
					 argv[optind - 1]);
		if (opt == '?')
			return error_set(err, EINVAL, "option '%s' is unknown; see --help",
					 argv[optind - 1]);
		ret = parse_one(opt, options, err);
		if (ret < 0)
			return ret;
	}
	if (optind < argc)
		return error_set(err, EINVAL, "argument '%s' is not understood; see --help",
				 argv[optind]);
	if (options->pool && options->initial)
		return error_set(err, EINVAL,
				 "--pool is for a pool of fixed size, --initial is for a growing "
				 "one; use one or the other");
	if (options->pool && !options->on_demand)
		options->keep = true;
	return 0;
}
