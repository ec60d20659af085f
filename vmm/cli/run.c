/* SPDX-License-Identifier: MIT */
/* framevisor run: options to a request. What happens then is in run_vm.c. */
#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_balloon.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "framevisor/frame.h"
#include "framevisor/log.h"
#include "framevisor/rundir.h"
#include "framevisor/size.h"
#include "vmm/cli/cli.h"
#include "vmm/cli/mem_option.h"
#include "vmm/cli/numa_option.h"
#include "vmm/cli/run.h"

static const char mem_default[] = "512M";

struct run_options {
	const char *name;
	uint64_t cpus;
	const char *mem;
	struct cli_strings numa;
	struct cli_strings numa_dist;
	const char *kernel;
	const char *initrd;
	const char *append;
	int hugepages; /* enum hugepages_mode */
	uint64_t pool;
	const char *console;
	const char *log;
	int free_page_reporting; /* 0: on, 1: off */
	int deflate_on_oom;
	int sandbox; /* enum sandbox_mode */
	uint64_t shares;
	const char *oom_score_adj;
	const char *swap;
	bool prealloc;
	bool detach;
	bool no_reboot;
	bool rng;
	bool paused;
	bool verbose;
};

static struct run_options options;

static const struct cli_option table[] = {
	{ "name", 'n', CLI_STRING, "NAME", "name of the VM (default: vm-PID)",
	  offsetof(struct run_options, name), 0, 0 },
	{ "cpus", 'c', CLI_UINT, "N", "virtual CPUs (default: 1)",
	  offsetof(struct run_options, cpus), 1, VM_CPUS_MAX },
	{ "mem", 'm', CLI_STRING, "SIZE[,OPTION...]",
	  "memory (default: 512M, or a frame); max=SIZE, min=SIZE, boot=SIZE, elastic=on",
	  offsetof(struct run_options, mem), 0, 0 },
	{ "shares", 0, CLI_UINT, "N", "its weight when memory is short (default: 1000)",
	  offsetof(struct run_options, shares), 1, OWNER_SHARES_MAX },
	{ "oom-score-adj", 0, CLI_STRING, "N",
	  "-1000 (never chosen when memory has run out) to 1000 (chosen first)",
	  offsetof(struct run_options, oom_score_adj), 0, 0 },
	{ "swap", 0, CLI_STRING, "DIR|FILE[,OPTION...]",
	  "where cold memory may go when the pool is short; size=SIZE, victims=random (to compare)",
	  offsetof(struct run_options, swap), 0, 0 },
	{ "numa", 0, CLI_STRINGS, "node=N[,OPTION...]",
	  "a guest node; cpus=A-B, mem=SIZE, max=SIZE, host-node=N, policy=WORD",
	  offsetof(struct run_options, numa), 0, 0 },
	{ "numa-dist", 0, CLI_STRINGS, "A:B=DISTANCE",
	  "how far two guest nodes are apart, 11 to 254 (default: 20)",
	  offsetof(struct run_options, numa_dist), 0, 0 },
	{ "prealloc", 0, CLI_FLAG, NULL,
	  "take all frames of the boot memory before it starts, and say how far that is",
	  offsetof(struct run_options, prealloc), 0, 0 },
	{ "free-page-reporting", 0, CLI_CHOICE, "on|off",
	  "what the guest frees comes back by itself (default: on)",
	  offsetof(struct run_options, free_page_reporting), 0, 0 },
	{ "deflate-on-oom", 0, CLI_CHOICE, "on|off",
	  "a guest out of memory may take from the balloon (default: on)",
	  offsetof(struct run_options, deflate_on_oom), 0, 0 },
	{ "rng", 0, CLI_FLAG, NULL, "a device that gives the guest random numbers (virtio-rng)",
	  offsetof(struct run_options, rng), 0, 0 },
	{ "kernel", 'k', CLI_STRING, "FILE", "Linux kernel (bzImage); needed",
	  offsetof(struct run_options, kernel), 0, 0 },
	{ "initrd", 'i', CLI_STRING, "FILE", "initial RAM disk",
	  offsetof(struct run_options, initrd), 0, 0 },
	{ "append", 'a', CLI_STRING, "STRING", "kernel command line",
	  offsetof(struct run_options, append), 0, 0 },
	{ "hugepages", 0, CLI_CHOICE, "auto|require|never|1G",
	  "what the pool is made of (default: auto; 1G: gigantic pages)",
	  offsetof(struct run_options, hugepages), 0, 0 },
	{ "pool", 0, CLI_SIZE, "SIZE", "size of the pool, if none runs (default: what VMs need)",
	  offsetof(struct run_options, pool), 0, 0 },
	{ "console", 0, CLI_STRING, "stdio|none|FILE",
	  "where the serial console goes (default: stdio)", offsetof(struct run_options, console),
	  0, 0 },
	{ "detach", 'd', CLI_FLAG, NULL, "run in the background; return when the VM runs",
	  offsetof(struct run_options, detach), 0, 0 },
	{ "log", 0, CLI_STRING, "FILE",
	  "messages and events of a detached VM (default: in its run directory, gone with it)",
	  offsetof(struct run_options, log), 0, 0 },
	{ "no-reboot", 0, CLI_FLAG, NULL, "a reset by the guest ends the VM",
	  offsetof(struct run_options, no_reboot), 0, 0 },
	{ "paused", 0, CLI_FLAG, NULL, "do not let it run before 'framevisor resume'",
	  offsetof(struct run_options, paused), 0, 0 },
	{ "sandbox", 0, CLI_CHOICE, "on|off",
	  "what the VM's process may do; see docs/security.md (default: on)",
	  offsetof(struct run_options, sandbox), 0, 0 },
	{ "verbose", 'v', CLI_FLAG, NULL, "say more on stderr",
	  offsetof(struct run_options, verbose), 0, 0 },
};

static void *defaults(void)
{
	options = (struct run_options){
		.cpus = 1,
		.mem = mem_default,
		.hugepages = HUGEPAGES_AUTO,
		.sandbox = sandbox_default(),
	};
	return &options;
}

/* A line each second, or one that is rewritten where a person looks. */
static bool show_prealloc(void *opaque, uint64_t done, uint64_t total)
{
	static time_t last;
	bool tty = isatty(STDERR_FILENO);
	time_t now = time(NULL);

	(void)opaque;
	if (tty || (now != last && done < total))
		fprintf(stderr, "%sframevisor: preparing memory: %" PRIu64 " of %" PRIu64 " MiB%s",
			tty ? "\r" : "", done * (FRAME_SIZE >> 20), total * (FRAME_SIZE >> 20),
			!tty || done == total ? "\n" : "");
	last = now;
	return true;
}

/* A pool that runs has its frames; without one they are what this VM asks for. */
static int use_frames(struct error *err)
{
	if (options.hugepages != HUGEPAGES_GIGANTIC)
		return 0;
	if (options.swap)
		return error_set(err, EINVAL, "--swap goes with frames of 2 MiB, not of 1 GiB");
	if (options.mem == mem_default)
		options.mem = "1G";
	return frame_use_shift(FRAME_SHIFT_1G);
}

static int fill_memory(struct vm_config *config, struct error *err)
{
	struct mem_option mem = { 0 };
	int ret = use_frames(err);

	if (ret == 0)
		ret = mem_option_parse(options.mem, &mem, err);
	if (ret < 0)
		return ret;
	config->mem_bytes = mem.boot;
	config->mem_target = mem.size;
	config->mem_max = mem.max;
	config->mem_min = mem.min;
	config->shares = (uint32_t)options.shares;
	if (options.oom_score_adj &&
	    cli_parse_oom_score_adj(options.oom_score_adj, &config->oom_score_adj, err) < 0)
		return -EINVAL;
	ret = numa_option_parse(&options.numa, &options.numa_dist, (unsigned int)options.cpus, &mem,
				&config->numa, err);
	if (ret < 0)
		return ret;
	config->prealloc = options.prealloc;
	config->prealloc_progress = show_prealloc;
	if (options.free_page_reporting)
		config->balloon_without |= UINT64_C(1) << VIRTIO_BALLOON_F_REPORTING;
	if (options.deflate_on_oom)
		config->balloon_without |= UINT64_C(1) << VIRTIO_BALLOON_F_DEFLATE_ON_OOM;
	return 0;
}

static int fill_swap_size(struct vm_config *config, const char *text, struct error *err)
{
	struct error cause = { 0 };
	int ret = size_parse(text, &config->swap_bytes, &cause);

	if (ret < 0)
		return error_set(err, -ret, "--swap: size: %s", cause.message);
	if (config->swap_bytes < FRAME_SIZE)
		return error_set(err, EINVAL, "--swap: a size of less than 2M holds no frame");
	return 0;
}

static int fill_swap_victims(struct vm_config *config, const char *word, struct error *err)
{
	config->swap_random = strcmp(word, "random") == 0;
	if (config->swap_random || strcmp(word, "coldest") == 0)
		return 0;
	return error_set(err, EINVAL, "--swap: victims: 'coldest' or 'random', not '%s'", word);
}

/* "DIR", with ",size=SIZE" or ",victims=WORD" behind it; other commas belong to the name. */
static int fill_swap(struct vm_config *config, struct error *err)
{
	static const char size[] = ",size=", victims[] = ",victims=";
	static char path[4096];
	char *comma;
	int ret = 0;

	if (!options.swap)
		return 0;
	if (!*options.swap || strlen(options.swap) >= sizeof(path))
		return error_set(err, EINVAL, "--swap wants a directory or the name of a new file");
	snprintf(path, sizeof(path), "%s", options.swap);
	config->swap_path = path;
	while (ret == 0 && (comma = strrchr(path, ','))) {
		if (strncmp(comma, size, strlen(size)) == 0)
			ret = fill_swap_size(config, comma + strlen(size), err);
		else if (strncmp(comma, victims, strlen(victims)) == 0)
			ret = fill_swap_victims(config, comma + strlen(victims), err);
		else
			break;
		*comma = '\0';
	}
	return ret;
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
	if (fill_memory(config, err) < 0 || fill_swap(config, err) < 0 ||
	    choose_name(options.name, config->name, err) < 0)
		return -EINVAL;
	if (options.log && !options.detach)
		return error_set(err, EINVAL, "--log goes with --detach; use 2>FILE without it");
	if (options.detach && options.console && strcmp(options.console, "stdio") == 0)
		return error_set(err, EINVAL,
				 "--detach has no stdio; use --console FILE, or 'framevisor "
				 "console NAME' later");
	config->cpus = (unsigned int)options.cpus;
	config->kernel = options.kernel;
	config->initrd = options.initrd;
	config->append = options.append;
	config->hugepages = (enum hugepages_mode)options.hugepages;
	config->pool_bytes = options.pool;
	config->start_paused = options.paused;
	config->rng = options.rng;
	config->no_reboot = options.no_reboot;
	request->detach = options.detach;
	request->log = options.log;
	request->sandbox = (enum sandbox_mode)options.sandbox;
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
	return request.detach ? run_detached(&request, err) : run_vm(&request, NULL, err);
}

_Static_assert(SANDBOX_ON == 0 && SANDBOX_OFF == 1, "order of the words of --sandbox");
_Static_assert(HUGEPAGES_AUTO == 0 && HUGEPAGES_REQUIRE == 1 && HUGEPAGES_NEVER == 2 &&
		       HUGEPAGES_GIGANTIC == 3,
	       "order of the words of --hugepages");

const struct cli_verb cli_run = {
	.name = "run",
	.summary = "start a VM",
	.details =
		"The VM's memory comes from the pool, frame by frame, as the guest touches it; if "
		"no\n"
		"pool runs, one is started, and it ends with its last VM.\n\n"
		"--mem 512M is memory from boot to end; 'framevisor balloon' shrinks it.\n"
		"--mem 512M,max=4G can grow to 4G: what is beyond 512M is plugged frame by "
		"frame.\n"
		"--mem 2G,min=512M is guaranteed 512M: the rest may be asked back for a while when "
		"other\n"
		"VMs need it and the pool overcommits. Without min= all of it is guaranteed, "
		"unless\n"
		"the pool overcommits ('framevisor pool --help').\n"
		"--mem 2G,boot=512M boots with 512M and plugs the rest at once, because what was\n"
		"plugged is taken back best; --mem 2G,elastic=on chooses the boot part. The guest "
		"needs\n"
		"the driver virtio_mem for it. Linux is told to keep plugged memory movable\n"
		"(memhp_default_state=online_movable), unless --append says otherwise.\n\n"
		"--numa gives the guest nodes, one each time. Without cpus=, mem= and max= in any "
		"of "
		"them\n"
		"the VM's are shared out evenly; otherwise they must add up to --cpus and --mem. "
		"mem= is\n"
		"what a node boots with, max= what it may ever have. host-node= says where its "
		"memory "
		"comes\n"
		"from: policy=bind (only there, kept for it; the default), preferred (there while "
		"the "
		"pool\n"
		"has any), interleave (of several, e.g. host-node=0-1, frame by frame).\n\n"
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
		    "  framevisor run --kernel vmlinuz --mem 2G,elastic=on\n"
		    "  framevisor run --kernel vmlinuz --cpus 2 --mem 1G,max=2G --numa "
		    "node=0,host-node=0 --numa node=1,host-node=1\n"
		    "  framevisor run --name web --cpus 2 --mem 1G --kernel vmlinuz --detach",
	.options = table,
	.nr_options = sizeof(table) / sizeof(table[0]),
	.defaults = defaults,
	.run = run,
};
