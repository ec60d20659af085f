/* SPDX-License-Identifier: MIT */
/* framevisor run: options to a request. What happens then is in run_vm.c. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "framevisor/frame.h"
#include "framevisor/log.h"
#include "framevisor/rundir.h"
#include "vmm/cli/cli.h"
#include "vmm/cli/run.h"

#define MEM_MIN     (2 * FRAME_SIZE)
#define MEM_DEFAULT (UINT64_C(512) << 20)

struct run_options {
	const char *name;
	uint64_t cpus;
	uint64_t mem;
	const char *kernel;
	const char *initrd;
	const char *append;
	int hugepages; /* enum hugepages_mode */
	uint64_t pool;
	const char *console;
	const char *log;
	bool detach;
	bool no_reboot;
	bool paused;
	bool verbose;
};

static struct run_options options;

static const struct cli_option table[] = {
	{ "name", 'n', CLI_STRING, "NAME", "name of the VM (default: vm-PID)",
	  offsetof(struct run_options, name), 0, 0 },
	{ "cpus", 'c', CLI_UINT, "N", "virtual CPUs (default: 1)",
	  offsetof(struct run_options, cpus), 1, VM_CPUS_MAX },
	{ "mem", 'm', CLI_SIZE, "SIZE", "memory, in steps of 2 MiB (default: 512M)",
	  offsetof(struct run_options, mem), 0, 0 },
	{ "kernel", 'k', CLI_STRING, "FILE", "Linux kernel (bzImage); needed",
	  offsetof(struct run_options, kernel), 0, 0 },
	{ "initrd", 'i', CLI_STRING, "FILE", "initial RAM disk",
	  offsetof(struct run_options, initrd), 0, 0 },
	{ "append", 'a', CLI_STRING, "STRING", "kernel command line",
	  offsetof(struct run_options, append), 0, 0 },
	{ "hugepages", 0, CLI_CHOICE, "auto|require|never",
	  "what the pool is made of (default: auto)", offsetof(struct run_options, hugepages), 0,
	  0 },
	{ "pool", 0, CLI_SIZE, "SIZE", "size of the pool, if none runs (default: what VMs need)",
	  offsetof(struct run_options, pool), 0, 0 },
	{ "console", 0, CLI_STRING, "stdio|none|FILE",
	  "where the serial console goes (default: stdio)", offsetof(struct run_options, console),
	  0, 0 },
	{ "detach", 'd', CLI_FLAG, NULL, "run in the background; return when the VM runs",
	  offsetof(struct run_options, detach), 0, 0 },
	{ "log", 0, CLI_STRING, "FILE", "messages of a detached VM (default: in its run directory)",
	  offsetof(struct run_options, log), 0, 0 },
	{ "no-reboot", 0, CLI_FLAG, NULL, "a reset by the guest ends the VM",
	  offsetof(struct run_options, no_reboot), 0, 0 },
	{ "paused", 0, CLI_FLAG, NULL, "do not let it run before QMP 'cont'",
	  offsetof(struct run_options, paused), 0, 0 },
	{ "verbose", 'v', CLI_FLAG, NULL, "say more on stderr",
	  offsetof(struct run_options, verbose), 0, 0 },
};

static void *defaults(void)
{
	options = (struct run_options){
		.cpus = 1,
		.mem = MEM_DEFAULT,
		.hugepages = HUGEPAGES_AUTO,
	};
	return &options;
}

static int check_memory(uint64_t mem, struct error *err)
{
	char text[SIZE_TEXT_MAX];

	if (mem < MEM_MIN)
		return error_set(err, EINVAL, "--mem %s is too small; a VM has at least 4M",
				 size_format(mem, text, sizeof(text)));
	if (!frame_aligned(mem))
		return error_set(err, EINVAL,
				 "--mem %s is not a multiple of 2 MiB, the size of a frame",
				 size_format(mem, text, sizeof(text)));
	return 0;
}

static int choose_name(const char *name, char *buf, struct error *err)
{
	if (name) {
		if (rundir_check_name(name, err) < 0)
			return -EINVAL;
		snprintf(buf, VM_NAME_MAX + 1, "%s", name);
	} else {
		snprintf(buf, VM_NAME_MAX + 1, "vm-%d", getpid());
	}
	return 0;
}

static int fill_request(struct run_request *request, struct error *err)
{
	struct vm_config *config = &request->config;

	if (!options.kernel)
		return error_set(err, EINVAL, "--kernel is needed; see 'framevisor run --help'");
	if (check_memory(options.mem, err) < 0 || choose_name(options.name, config->name, err) < 0)
		return -EINVAL;
	if (options.log && !options.detach)
		return error_set(err, EINVAL, "--log goes with --detach; use 2>FILE without it");
	if (options.detach && options.console && strcmp(options.console, "stdio") == 0)
		return error_set(err, EINVAL,
				 "--detach has no stdio; use --console FILE, or 'framevisor "
				 "console NAME' later");
	config->cpus = (unsigned int)options.cpus;
	config->mem_bytes = options.mem;
	config->kernel = options.kernel;
	config->initrd = options.initrd;
	config->append = options.append;
	config->hugepages = (enum hugepages_mode)options.hugepages;
	config->pool_bytes = options.pool;
	config->start_paused = options.paused;
	config->no_reboot = options.no_reboot;
	request->detach = options.detach;
	request->log = options.log;
	request->console = options.console ? options.console : options.detach ? "none" : "stdio";
	return 0;
}

static int run(const struct cli_args *args, struct error *err)
{
	struct run_request request = { .detach = false };

	(void)args;
	if (fill_request(&request, err) < 0)
		return CLI_ERROR;
	if (options.verbose)
		log_set_level(LOG_LEVEL_DEBUG);
	return request.detach ? run_detached(&request, err) : run_vm(&request, NULL, NULL, err);
}

_Static_assert(HUGEPAGES_AUTO == 0 && HUGEPAGES_REQUIRE == 1 && HUGEPAGES_NEVER == 2,
	       "order of the words of --hugepages");

const struct cli_verb cli_run = {
	.name = "run",
	.summary = "start a VM",
	.details =
		"The VM's memory comes from the pool, frame by frame, as the guest touches it; if "
		"no\n"
		"pool runs, one is started, and it ends with its last VM.\n\n"
		"In the foreground the serial console is on this terminal. Ctrl-] is the escape "
		"key:\n"
		"Ctrl-] q ends the VM, Ctrl-] p presses its power button, Ctrl-] Ctrl-] sends one "
		"to\n"
		"the guest. Input from a pipe or file is fed at the guest's pace; its end just "
		"ends\n"
		"the input. Up to 4 MiB of output wait for a slow reader; what is beyond is "
		"dropped\n"
		"and marked.\n\n"
		"Exit status: 0 when the guest switched itself off, was stopped or got SIGTERM; "
		"130\n"
		"after SIGINT (Ctrl-C, where the terminal is not the guest's), 129 after SIGHUP; 1 "
		"if\n"
		"the VM did not start or broke. A signal during the start undoes it and gives 128\n"
		"plus its number.",
	.examples = "  framevisor run --kernel vmlinuz --initrd initrd.img --append console=ttyS0\n"
		    "  framevisor run --name web --cpus 2 --mem 1G --kernel vmlinuz --detach",
	.options = table,
	.nr_options = sizeof(table) / sizeof(table[0]),
	.defaults = defaults,
	.run = run,
};
