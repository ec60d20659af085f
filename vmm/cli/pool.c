/* SPDX-License-Identifier: MIT */
/* framevisor pool: the pool's state, starting and stopping it, and checking it. */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "framevisor/frame.h"
#include "framevisor/owner_client.h"
#include "framevisor/rundir.h"
#include "vmm/cli/cli.h"
#include "vmm/cli/process.h"

#define STOP_TIMEOUT_MS 30000
#define OWNER_PROGRAM   "framevisord"
#define SIZE_UNSET      UINT64_MAX

static struct pool_options {
	bool json;
	bool force;
	uint64_t size;
	int hugepages;
} options;

static const struct cli_option table[] = {
	{ "json", 0, CLI_FLAG, NULL, "print JSON", offsetof(struct pool_options, json), 0, 0 },
	{ "size", 's', CLI_SIZE, "SIZE", "start: how large (default: what the VMs need, growing)",
	  offsetof(struct pool_options, size), 0, 0 },
	{ "hugepages", 0, CLI_CHOICE, "auto|require|never",
	  "start: what it is made of (default: auto)", offsetof(struct pool_options, hugepages), 0,
	  0 },
	{ "force", 0, CLI_FLAG, NULL,
	  "stop: although VMs run; they keep their frames but get no more",
	  offsetof(struct pool_options, force), 0, 0 },
};

static void *defaults(void)
{
	options = (struct pool_options){ .hugepages = HUGEPAGES_AUTO, .size = SIZE_UNSET };
	return &options;
}

/* --- state --- */

static void print_frames(const json_t *pool, const char *what, const char *path)
{
	uint64_t frames = cli_json_u64(pool, path);
	char text[SIZE_TEXT_MAX];

	printf("  %-12s %8" PRIu64 "  %12s\n", what, frames,
	       size_format(frames_to_bytes(frames), text, sizeof(text)));
}

static void add_count(struct cli_table *rows, const json_t *object, const char *path)
{
	cli_table_add(rows, "%" PRIu64, cli_json_u64(object, path));
}

static void print_nodes(const json_t *nodes)
{
	static const char *const heads[] = { ">NODE",   ">HOST NODE", ">TOTAL", ">FREE",
					     ">CACHED", ">HELD",      ">ZEROED" };
	static const char *const columns[] = { "node",   "host-node", "total", "free",
					       "cached", "held",      "zeroed" };
	struct cli_table rows = { .columns = 7, .heads = heads };
	json_t *node;
	size_t i;

	json_array_foreach(nodes, i, node)
	{
		for (size_t column = 0; column < 7; column++)
			add_count(&rows, node, columns[column]);
	}
	cli_table_print(&rows);
}

static void print_vms(const json_t *vms)
{
	static const char *const heads[] = { "VM",    ">PID",     "STATE",    ">RAM",
					     ">HELD", ">GRANTED", ">RETURNED" };
	static const char *const columns[] = { "ram", "held", "granted", "returned" };
	struct cli_table rows = { .columns = 7, .heads = heads };
	json_t *vm;
	size_t i;

	if (!json_array_size(vms))
		return;
	json_array_foreach(vms, i, vm)
	{
		cli_table_add(&rows, "%s", cli_json_string(vm, "name"));
		add_count(&rows, vm, "pid");
		cli_table_add(&rows, "%s", cli_json_string(vm, "state"));
		for (size_t column = 0; column < 4; column++)
			add_count(&rows, vm, columns[column]);
	}
	putchar('\n');
	cli_table_print(&rows);
}

static void print_pool(const json_t *pool)
{
	char text[SIZE_TEXT_MAX];

	printf("pool of %s, frames of %s%s\n", cli_json_string(pool, "memory"),
	       size_format(cli_json_u64(pool, "frame-size"), text, sizeof(text)),
	       cli_json_bool(pool, "settings.fixed") ? ", fixed size" : ", grows with its VMs");
	print_frames(pool, "total", "total");
	print_frames(pool, "free", "free");
	print_frames(pool, "cached", "cached");
	print_frames(pool, "held by VMs", "held");
	print_frames(pool, "quarantined", "quarantined");
	print_frames(pool, "zeroed", "zeroed");
	print_frames(pool, "promised", "settings.committed");
	print_frames(pool, "reserve", "settings.reserve");
	print_frames(pool, "limit", "settings.max");
	putchar('\n');
	print_nodes(json_object_get(pool, "nodes"));
	print_vms(json_object_get(pool, "vms"));
	if (!cli_json_bool(pool, "conservation.ok"))
		printf("\nthe counts do not add up: %s\n",
		       cli_json_string(pool, "conservation.message"));
}

static int show(struct error *err)
{
	json_t *pool = cli_pool_query("query-pool", err);

	if (!pool)
		return CLI_ERROR;
	if (options.json)
		return cli_print_json(pool, err);
	print_pool(pool);
	json_decref(pool);
	return CLI_OK;
}

/* --- start, stop, check --- */

/* framevisord stands beside this program, or else in PATH. */
static void find_owner(char *path, size_t size)
{
	ssize_t len = readlink("/proc/self/exe", path, size - sizeof(OWNER_PROGRAM));
	char *slash;

	if (len > 0) {
		path[len] = '\0';
		slash = strrchr(path, '/');
		if (slash) {
			memcpy(slash + 1, OWNER_PROGRAM, sizeof(OWNER_PROGRAM));
			if (access(path, X_OK) == 0)
				return;
		}
	}
	memcpy(path, OWNER_PROGRAM, sizeof(OWNER_PROGRAM));
}

/* This process becomes framevisord, which returns when the pool is ready in the background. */
static int start(struct error *err)
{
	static const char *const modes[] = { "--hugepages=auto", "--hugepages=require",
					     "--hugepages=never" };
	char path[PATH_MAX], size[64];
	const char *argv[8] = { OWNER_PROGRAM, "--daemonize", "--keep", modes[options.hugepages] };
	int argc = 4;

	if (options.size == 0) {
		error_set(err, EINVAL, "--size must be more than 0");
		return CLI_ERROR;
	}
	if (options.size != SIZE_UNSET) {
		snprintf(size, sizeof(size), "--pool=%" PRIu64 "B", options.size);
		argv[argc++] = size;
	}
	if (options.json)
		argv[argc++] = "--json";
	find_owner(path, sizeof(path));
	execvp(path, (char *const *)argv);
	error_set_errno(err, errno, "cannot start %s", path);
	return CLI_ERROR;
}

static int stop(struct error *err)
{
	char lock[RUNDIR_PATH_MAX];
	struct qmp_client *client;
	int pidfd, ret;

	if (rundir_join(lock, "pool.lock", err) < 0)
		return CLI_ERROR;
	pidfd = process_open(rundir_lock_pid(lock));
	client = cli_pool_connect(err);
	ret = client ? qmp_client_call(client, "quit", json_pack("{s:b}", "force", options.force),
				       NULL, err)
		     : -ENOENT;
	qmp_client_close(client);
	if (ret == 0 && pidfd >= 0 && !process_wait(pidfd, STOP_TIMEOUT_MS))
		ret = error_set(err, ETIMEDOUT, "the pool owner was told to end but still runs");
	process_close(pidfd);
	return ret < 0 ? CLI_ERROR : CLI_OK;
}

static int check(struct error *err)
{
	json_t *verdict = cli_pool_query("x-validate", err);
	bool ok = cli_json_bool(verdict, "ok");

	if (!verdict)
		return CLI_ERROR;
	if (options.json)
		cli_print_json(json_incref(verdict), err);
	else if (ok)
		puts("ok: free + cached + held = total in every node, and every list agrees");
	if (!ok)
		error_set(err, EUCLEAN, "the pool is inconsistent: %s",
			  cli_json_string(verdict, "message"));
	json_decref(verdict);
	return err->code ? CLI_ERROR : CLI_OK;
}

static int run(const struct cli_args *args, struct error *err)
{
	const char *what = args->nr_operands ? args->operands[0] : "show";

	if (strcmp(what, "show") == 0)
		return show(err);
	if (strcmp(what, "start") == 0)
		return start(err);
	if (strcmp(what, "stop") == 0)
		return stop(err);
	if (strcmp(what, "check") == 0)
		return check(err);
	error_set(err, EINVAL, "unknown pool command '%s'; it is one of show, start, stop, check",
		  what);
	return CLI_ERROR;
}

const struct cli_verb cli_pool = {
	.name = "pool",
	.operands = "[show|start|stop|check]",
	.max_operands = 1,
	.summary = "show the pool of frames, start or stop it, check it",
	.details = "show   frames in all and per node, and who holds them (the default)\n"
		   "start  start the pool owner; it stays until 'pool stop'\n"
		   "stop   end the pool owner and give its memory back to the host\n"
		   "check  verify that no frame is lost or counted twice",
	.examples = "  framevisor pool\n  framevisor pool start --size 4G --hugepages require\n"
		    "  framevisor pool check",
	.options = table,
	.nr_options = sizeof(table) / sizeof(table[0]),
	.defaults = defaults,
	.run = run,
};
