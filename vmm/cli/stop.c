/* SPDX-License-Identifier: MIT */
/* framevisor stop: the power button, and waiting for what the guest makes of it. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "framevisor/rundir.h"
#include "vmm/cli/cli.h"
#include "vmm/cli/process.h"

#define TIMEOUT_DEFAULT 60

static struct stop_options {
	uint64_t timeout;
} options;

static const struct cli_option table[] = {
	{ "timeout", 't', CLI_UINT, "SECONDS", "how long to wait (default: 60)",
	  offsetof(struct stop_options, timeout), 1, 86400 },
};

static void *defaults(void)
{
	options.timeout = TIMEOUT_DEFAULT;
	return &options;
}

/* A stopped guest cannot react. Whoever wants it to end wants it to run. */
static int wake(struct qmp_client *client, struct error *err)
{
	json_t *status = NULL;
	int ret = qmp_client_call(client, "query-status", NULL, &status, err);

	if (ret == 0 && !cli_json_bool(status, "running"))
		ret = qmp_client_call(client, "cont", NULL, NULL, err);
	json_decref(status);
	return ret;
}

static int press(const char *name, struct error *err)
{
	struct qmp_client *client = cli_vm_connect(name, CLI_ANSWER_TIMEOUT_MS, err);
	struct error cause = { 0 };
	int ret;

	if (!client)
		return -ENOENT;
	ret = wake(client, &cause);
	if (ret == 0)
		ret = qmp_client_call(client, "system_powerdown", NULL, NULL, &cause);
	qmp_client_close(client);
	if (ret < 0)
		return error_set(err, cause.code, "%s; 'framevisor kill %s' ends the VM without it",
				 cause.message, name);
	return 0;
}

static int run(const struct cli_args *args, struct error *err)
{
	const char *name = args->operands[0];
	struct error cause = { 0 };
	int pidfd = process_open_vm(name, err);

	if (pidfd < 0)
		return CLI_ERROR;
	if (press(name, &cause) < 0) {
		/* A VM that ended meanwhile is what was asked for. */
		if (!process_wait(pidfd, 0))
			*err = cause;
	} else if (!process_wait(pidfd, (int)options.timeout * 1000)) {
		error_set(err, ETIMEDOUT,
			  "'%s' still runs %" PRIu64 " s after its power button was pressed; "
			  "'framevisor kill %s' ends it",
			  name, options.timeout, name);
	}
	process_close(pidfd);
	return err->code ? CLI_ERROR : CLI_OK;
}

const struct cli_verb cli_stop = {
	.name = "stop",
	.operands = "NAME",
	.min_operands = 1,
	.max_operands = 1,
	.summary = "press a VM's power button and wait until it has ended",
	.details =
		"The guest needs an ACPI button driver, and something that reacts to it; if it\n"
		"does not end in time, the VM goes on running and the exit status is 1. A paused\n"
		"VM is resumed first.",
	.examples =
		"  framevisor stop web\n  framevisor stop web --timeout 10 || framevisor kill web",
	.options = table,
	.nr_options = 1,
	.defaults = defaults,
	.run = run,
};
