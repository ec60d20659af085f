/* SPDX-License-Identifier: MIT */
/* framevisor pause, resume: a VM stands still, and goes on, whatever it was paused for. */
#include "vmm/cli/cli.h"

static int tell(const struct cli_args *args, const char *command, struct error *err)
{
	struct qmp_client *client = cli_vm_connect(args->operands[0], CLI_ANSWER_TIMEOUT_MS, err);
	int ret;

	if (!client)
		return CLI_ERROR;
	ret = qmp_client_call(client, command, NULL, NULL, err);
	qmp_client_close(client);
	return ret < 0 ? CLI_ERROR : CLI_OK;
}

static int run_pause(const struct cli_args *args, struct error *err)
{
	return tell(args, "stop", err);
}

static int run_resume(const struct cli_args *args, struct error *err)
{
	return tell(args, "cont", err);
}

const struct cli_verb cli_pause = {
	.name = "pause",
	.operands = "NAME",
	.min_operands = 1,
	.max_operands = 1,
	.summary = "let a VM stand still",
	.details = "As QMP 'stop': its CPUs execute nothing until 'framevisor resume'. It keeps\n"
		   "the memory it has. Nothing happens to one that is paused already.",
	.examples = "  framevisor pause web",
	.run = run_pause,
};

const struct cli_verb cli_resume = {
	.name = "resume",
	.operands = "NAME",
	.min_operands = 1,
	.max_operands = 1,
	.summary = "let a paused VM go on",
	.details = "As QMP 'cont'. A VM is paused by 'framevisor pause', by 'run --paused', when\n"
		   "memory has run out, and when a frame cannot be read from its swap file. What\n"
		   "it was paused for is tried again; if it is still so, the VM is paused again.\n"
		   "Nothing happens to one that runs.",
	.examples = "  framevisor resume web",
	.run = run_resume,
};
