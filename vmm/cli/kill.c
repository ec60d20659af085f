/* SPDX-License-Identifier: MIT */
/* framevisor kill: the end of a VM, whatever its guest or its own process says. */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>

#include "framevisor/rundir.h"
#include "vmm/cli/cli.h"
#include "vmm/cli/process.h"

#define GRACE_DEFAULT    5
#define KILL_WAIT_MS     10000
#define CONNECT_GRACE_MS 2000

static struct kill_options {
	uint64_t grace;
} options;

static const struct cli_option table[] = {
	{ "grace", 'g', CLI_UINT, "SECONDS", "time for an orderly end before SIGKILL (default: 5)",
	  offsetof(struct kill_options, grace), 0, 86400 },
};

static void *defaults(void)
{
	options.grace = GRACE_DEFAULT;
	return &options;
}

/* One that does not answer, because it is still starting or hangs, gets SIGTERM; if that does not
 * help either, SIGKILL follows. So no error is told here. */
static void ask_to_quit(const char *name, int pidfd)
{
	struct qmp_client *client = cli_vm_connect(name, CONNECT_GRACE_MS, NULL);

	if (!client || qmp_client_call(client, "quit", NULL, NULL, NULL) < 0)
		process_signal(pidfd, SIGTERM);
	qmp_client_close(client);
}

/* SIGKILL leaves the directory behind: claimed and unclaimed, it is gone. */
static void remove_leftovers(const char *name)
{
	rundir_vm_unclaim(name, rundir_vm_claim(name, NULL));
}

static int run(const struct cli_args *args, struct error *err)
{
	const char *name = args->operands[0];
	int pidfd = process_open_vm(name, err);
	int ret = 0;

	if (pidfd < 0)
		return CLI_ERROR;
	if (options.grace)
		ask_to_quit(name, pidfd);
	if (!process_wait(pidfd, (int)options.grace * 1000)) {
		ret = process_signal(pidfd, SIGKILL);
		if (ret < 0 && ret != -ESRCH)
			error_set_errno(err, -ret, "cannot kill the process of '%s'", name);
		else if (!process_wait(pidfd, KILL_WAIT_MS))
			error_set(err, ETIMEDOUT,
				  "the process of '%s' hangs in the kernel: it got SIGKILL but has "
				  "not ended",
				  name);
		else
			remove_leftovers(name);
	}
	process_close(pidfd);
	return err->code ? CLI_ERROR : CLI_OK;
}

const struct cli_verb cli_kill = {
	.name = "kill",
	.operands = "NAME",
	.min_operands = 1,
	.max_operands = 1,
	.summary = "end a VM without asking its guest",
	.details = "As pulling the plug: QMP 'quit', or SIGTERM if that is not answered; then, "
		   "after the\n"
		   "grace period, SIGKILL. Its frames are in the pool again either way.",
	.examples = "  framevisor kill web\n  framevisor kill web --grace 0",
	.options = table,
	.nr_options = 1,
	.defaults = defaults,
	.run = run,
};
