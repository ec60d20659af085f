/* SPDX-License-Identifier: MIT */
/* framevisor set: what a running VM is promised, and how it is weighed when memory is short. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "framevisor/frame.h"
#include "framevisor/owner_protocol.h"
#include "vmm/cli/cli.h"

#define SIZE_UNSET UINT64_MAX

static struct set_options {
	uint64_t min, max;
	uint64_t shares;
	const char *oom_score_adj;
	bool json;
} options;

static const struct cli_option table[] = {
	{ "min", 0, CLI_SIZE, "SIZE", "never take it below that", offsetof(struct set_options, min),
	  0, 0 },
	{ "max", 0, CLI_SIZE, "SIZE", "never give it more", offsetof(struct set_options, max), 0,
	  0 },
	{ "shares", 0, CLI_UINT, "N", "its weight when memory is short (a VM starts with 1000)",
	  offsetof(struct set_options, shares), 1, OWNER_SHARES_MAX },
	{ "oom-score-adj", 0, CLI_STRING, "N",
	  "-1000 (never chosen when memory has run out) to 1000 (chosen first)",
	  offsetof(struct set_options, oom_score_adj), 0, 0 },
	{ "json", 0, CLI_FLAG, NULL, "print what holds now as JSON",
	  offsetof(struct set_options, json), 0, 0 },
};

static void *defaults(void)
{
	options = (struct set_options){ .min = SIZE_UNSET, .max = SIZE_UNSET };
	return &options;
}

static int add_frames(json_t *args, const char *what, uint64_t bytes, struct error *err)
{
	if (bytes == SIZE_UNSET)
		return 0;
	if (bytes == 0 || !frame_aligned(bytes))
		return error_set(err, EINVAL, "--%s must be a multiple of %s, the size of a frame",
				 what, frame_size_name());
	json_object_set_new(args, what, json_integer((json_int_t)bytes_to_frames(bytes)));
	return 0;
}

/* Sizes become frames here, so the pool's must be known (cli_pool_connect()). */
static json_t *make_args(const char *name, struct error *err)
{
	json_t *args = json_pack("{s:s}", "name", name);
	int adj = 0;

	if (add_frames(args, "min", options.min, err) < 0 ||
	    add_frames(args, "max", options.max, err) < 0)
		goto fail;
	if (options.shares)
		json_object_set_new(args, "shares", json_integer((json_int_t)options.shares));
	if (options.oom_score_adj) {
		if (cli_parse_oom_score_adj(options.oom_score_adj, &adj, err) < 0)
			goto fail;
		json_object_set_new(args, "oom-score-adj", json_integer(adj));
	}
	return args;
fail:
	json_decref(args);
	return NULL;
}

static bool nothing_to_set(void)
{
	return options.min == SIZE_UNSET && options.max == SIZE_UNSET && !options.shares &&
	       !options.oom_score_adj;
}

static int print_vm(const char *name, struct error *err)
{
	json_t *vms = cli_pool_query("query-vms", err), *vm;
	size_t i;

	if (!vms)
		return CLI_ERROR;
	json_array_foreach(vms, i, vm)
	{
		if (strcmp(cli_json_string(vm, "name"), name) == 0) {
			json_incref(vm);
			json_decref(vms);
			return cli_print_json(vm, err);
		}
	}
	json_decref(vms);
	error_set(err, ENOENT, "the pool has no VM '%s'", name);
	return CLI_ERROR;
}

static int run(const struct cli_args *args, struct error *err)
{
	struct qmp_client *client;
	json_t *request;
	int ret = -EINVAL;

	if (nothing_to_set()) {
		error_set(err, EINVAL, "nothing to set; see 'framevisor set --help'");
		return CLI_ERROR;
	}
	client = cli_pool_connect(err);
	if (!client)
		return CLI_ERROR;
	request = make_args(args->operands[0], err);
	if (request)
		ret = qmp_client_call(client, "vm-set", request, NULL, err);
	qmp_client_close(client);
	if (ret < 0)
		return CLI_ERROR;
	return options.json ? print_vm(args->operands[0], err) : CLI_OK;
}

int cli_parse_oom_score_adj(const char *text, int *adj, struct error *err)
{
	char *end = NULL;
	long value = strtol(text, &end, 10);

	if (end == text || *end || text[0] == ' ' || value < -1000 || value > 1000)
		return error_set(err, EINVAL,
				 "--oom-score-adj must be a number from -1000 to 1000, not '%s'",
				 text);
	*adj = (int)value;
	return 0;
}

const struct cli_verb cli_set = {
	.name = "set",
	.operands = "NAME",
	.min_operands = 1,
	.max_operands = 1,
	.summary = "change what a VM is guaranteed, and its weight",
	.details = "The guaranteed minimum is never taken away, whatever other VMs want; raising "
		   "it\n"
		   "is refused when the pool cannot keep it beside what others were promised. Who\n"
		   "has more shares gives less back when memory is short.",
	.examples = "  framevisor set web --min 256M --shares 2000\n"
		    "  framevisor set batch --oom-score-adj 500",
	.options = table,
	.nr_options = sizeof(table) / sizeof(table[0]),
	.defaults = defaults,
	.run = run,
};
