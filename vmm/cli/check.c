/* SPDX-License-Identifier: MIT */
/*
 * framevisor check: what this host can do, found out by trying, one line each with the remedy. FAIL
 * means that no stock guest can run; WARN that it can, but not as it could.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "framevisor/frame.h"
#include "framevisor/kvm_probe.h"
#include "framevisor/rundir.h"
#include "vmm/cli/cli.h"
#include "vmm/kvm.h"
#include "vmm/owner/host.h"

#define NOFILE_WANTED    1024
#define MAP_COUNT_WANTED 65530 /* the kernel's default */

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

enum verdict { OK, WARN, FAIL };

struct checklist {
	json_t *lines;
	enum verdict worst;
};

static void say(struct checklist *list, enum verdict verdict, const char *what, const char *fmt,
		...) __attribute__((format(printf, 4, 5)));

static void say(struct checklist *list, enum verdict verdict, const char *what, const char *fmt,
		...)
{
	static const char *const words[] = { "OK", "WARN", "FAIL" };
	char text[768];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	if (verdict > list->worst)
		list->worst = verdict;
	json_array_append_new(list->lines, json_pack("{s:s,s:s,s:s}", "status", words[verdict],
						     "check", what, "detail", text));
	if (!options.json)
		printf("%-4s  %-13s %s\n", words[verdict], what, text);
	fflush(stdout);
}

static void check_kvm(struct checklist *list)
{
	struct error err = { 0 };
	struct kvm kvm;

	if (kvm_open(&kvm, &err) < 0) {
		say(list, FAIL, "kvm", "%s", err.message);
		return;
	}
	say(list, OK, "kvm", "/dev/kvm works, up to %u vCPUs per VM", kvm.max_vcpus);
	kvm_close(&kvm);
	if (kvm_probe_linux(&err) < 0)
		say(list, FAIL, "stock kernel",
		    "%s; small guests may run, Linux does not: use a host with hardware "
		    "virtualization",
		    err.message);
	else
		say(list, OK, "stock kernel", "this KVM runs what stock kernels need");
}

static uint64_t node_hugepages(unsigned int nid, const char *leaf)
{
	char path[128];
	uint64_t value = 0;

	snprintf(path, sizeof(path),
		 "/sys/devices/system/node/node%u/hugepages/hugepages-2048kB/%s", nid, leaf);
	return host_read_u64(path, &value) < 0 ? 0 : value;
}

static void check_hugepages(struct checklist *list, const struct host *host)
{
	bool may_raise = access("/proc/sys/vm/nr_hugepages", W_OK) == 0;
	uint64_t unused = 0;

	if (access("/sys/kernel/mm/hugepages/hugepages-2048kB", F_OK) < 0) {
		say(list, WARN, "hugepages",
		    "this kernel has none of 2 MiB: VMs run on ordinary memory; use a kernel with "
		    "CONFIG_HUGETLBFS");
		return;
	}
	for (unsigned int i = 0; i < host->nr_nodes; i++) {
		unsigned int nid = host->node[i].nid;
		uint64_t nr = node_hugepages(nid, "free_hugepages");

		unused += nr;
		say(list, OK, "hugepages", "node %u: %" PRIu64 " of 2 MiB, %" PRIu64 " free", nid,
		    node_hugepages(nid, "nr_hugepages"), nr);
	}
	if (may_raise)
		say(list, OK, "hugepages",
		    "this user may reserve more: the pool does it by itself");
	else if (unused)
		say(list, OK, "hugepages",
		    "this user may not reserve more; root can: sysctl vm.nr_hugepages=N");
	else
		say(list, WARN, "hugepages",
		    "none free, and this user may not reserve any: VMs run on ordinary memory; as "
		    "root: sysctl vm.nr_hugepages=N");
}

static void check_memory(struct checklist *list, const struct host *host)
{
	char total[SIZE_TEXT_MAX], available[SIZE_TEXT_MAX];

	say(list, host->available < (UINT64_C(256) << 20) ? WARN : OK, "memory", "%s, %s available",
	    size_format(host->total, total, sizeof(total)),
	    size_format(host->available, available, sizeof(available)));
	say(list, OK, "numa", "%u %s with memory", host->nr_nodes,
	    host->nr_nodes == 1 ? "node" : "nodes");
}

static int open_userfaultfd(void)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	int device;

	if (fd >= 0)
		return fd;
	device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (device < 0)
		return -1;
	fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	close(device);
	return fd;
}

static void check_userfaultfd(struct checklist *list)
{
	const uint64_t needed = UFFD_FEATURE_MISSING_HUGETLBFS | UFFD_FEATURE_MINOR_HUGETLBFS |
				UFFD_FEATURE_EVENT_REMAP;
	struct uffdio_api api = { .api = UFFD_API, .features = needed };
	int fd = open_userfaultfd();

	if (fd < 0)
		say(list, WARN, "userfaultfd",
		    "not for this user: a VM takes all its memory at the start and keeps it; run "
		    "as root, or give access to /dev/userfaultfd");
	else if (ioctl(fd, UFFDIO_API, &api) < 0)
		say(list, WARN, "userfaultfd",
		    "lacks features for hugepages (Linux 5.13 or newer has them): frames may not "
		    "come back from a running VM");
	else
		say(list, OK, "userfaultfd", "complete: guests get frames when they touch them");
	if (fd >= 0)
		close(fd);
}

static void check_limits(struct checklist *list)
{
	struct rlimit limit;
	uint64_t maps = 0;
	char text[SIZE_TEXT_MAX];

	if (host_read_u64("/proc/sys/vm/max_map_count", &maps) == 0)
		say(list, maps < MAP_COUNT_WANTED ? WARN : OK, "mappings",
		    "vm.max_map_count is %" PRIu64 ": up to %s per VM if every frame lies apart%s",
		    maps, size_format(frames_to_bytes(maps), text, sizeof(text)),
		    maps < MAP_COUNT_WANTED ? "; as root: sysctl vm.max_map_count=65530" : "");
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
		say(list, limit.rlim_cur < NOFILE_WANTED ? WARN : OK, "open files",
		    "limit is %" PRIu64 "%s", (uint64_t)limit.rlim_cur,
		    limit.rlim_cur < NOFILE_WANTED ? "; raise it: ulimit -n 1024" : "");
	if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
		say(list, WARN, "address space",
		    "limited to %s, less than a VM may need: ulimit -v unlimited",
		    size_format(limit.rlim_cur, text, sizeof(text)));
}

/* Looks only: the directory is not created here. */
static void check_rundir(struct checklist *list)
{
	char path[RUNDIR_PATH_MAX], parent[RUNDIR_PATH_MAX];
	struct error err = { 0 };
	char *slash;

	if (rundir_path(path, false, &err) < 0) {
		say(list, FAIL, "run directory", "%s", err.message);
		return;
	}
	if (access(path, F_OK) == 0) {
		if (rundir_path(path, true, &err) < 0)
			say(list, FAIL, "run directory", "%s", err.message);
		else
			say(list, OK, "run directory", "%s", path);
		return;
	}
	memcpy(parent, path, sizeof(parent));
	slash = strrchr(parent, '/');
	if (slash)
		*slash = '\0';
	if (slash && access(parent[0] ? parent : "/", W_OK | X_OK) == 0)
		say(list, OK, "run directory", "%s (not there yet)", path);
	else
		say(list, FAIL, "run directory",
		    "%s cannot be created: %s; set FRAMEVISOR_RUNDIR to a private directory", path,
		    strerror(errno));
}

static int run(const struct cli_args *args, struct error *err)
{
	struct checklist list = { .lines = json_array(), .worst = OK };
	struct error cause = { 0 };
	struct host host;
	bool runs;

	(void)args;
	check_kvm(&list);
	if (host_read(&host, "", &cause) < 0) {
		say(&list, FAIL, "memory", "%s", cause.message);
	} else {
		check_hugepages(&list, &host);
		check_memory(&list, &host);
	}
	check_userfaultfd(&list);
	check_limits(&list);
	check_rundir(&list);
	runs = list.worst < FAIL;
	if (options.json)
		cli_print_json(json_pack("{s:b,s:o}", "guests-run", runs, "checks", list.lines),
			       err);
	else
		json_decref(list.lines);
	return runs ? CLI_OK : CLI_ERROR;
}

const struct cli_verb cli_check = {
	.name = "check",
	.summary = "find out what this host can do, and what to do about the rest",
	.details = "Exit status 0 if stock guests can run. WARN lines name what would be better.",
	.examples = "  framevisor check\n  framevisor check --json",
	.options = table,
	.nr_options = 1,
	.defaults = defaults,
	.run = run,
};
