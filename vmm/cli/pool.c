/* SPDX-License-Identifier: MIT */
/* framevisor pool: the pool's state, starting and stopping it, its size, and checking it. */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "framevisor/frame.h"
#include "framevisor/mmzone.h"
#include "framevisor/owner_client.h"
#include "framevisor/rundir.h"
#include "vmm/cli/cli.h"
#include "vmm/cli/pool_job.h"
#include "vmm/cli/process.h"
#include "vmm/owner/options.h"

#define STOP_TIMEOUT_MS 30000
#define OWNER_PROGRAM   "framevisord"
#define SIZE_UNSET      UINT64_MAX
#define NODE_UNSET      UINT64_MAX

static struct pool_options {
	bool json;
	bool force;
	uint64_t size;
	uint64_t max;
	const char *movable;
	uint64_t node;
	uint64_t order;
	int hugepages;
	const char *set;
} options;

static const struct cli_option table[] = {
	{ "json", 0, CLI_FLAG, NULL, "print JSON", offsetof(struct pool_options, json), 0, 0 },
	{ "size", 's', CLI_SIZE, "SIZE", "start: how large (default: what the VMs need, growing)",
	  offsetof(struct pool_options, size), 0, 0 },
	{ "max", 0, CLI_SIZE, "SIZE",
	  "start: how far it may ever grow (default: what the machine has)",
	  offsetof(struct pool_options, max), 0, 0 },
	{ "movable", 0, CLI_STRING, "SIZE|N%",
	  "start: so much of it becomes ZONE_MOVABLE; grow: so much of what is added",
	  offsetof(struct pool_options, movable), 0, 0 },
	{ "node", 0, CLI_UINT, "NODE", "grow, shrink, offline-movable: at this node only",
	  offsetof(struct pool_options, node), 0, OWNER_NODES_MAX - 1 },
	{ "order", 0, CLI_UINT, "ORDER",
	  "compact: for blocks of 2^ORDER frames (default: 9: 1 GiB in frames of 2 MiB)",
	  offsetof(struct pool_options, order), 0, MAX_ORDER },
	{ "hugepages", 0, CLI_CHOICE, "auto|require|never|1G",
	  "start: what it is made of (default: auto)", offsetof(struct pool_options, hugepages), 0,
	  0 },
	{ "set", 0, CLI_STRING, "NAME=VALUE", "change a setting; 'pool settings' shows them",
	  offsetof(struct pool_options, set), 0, 0 },
	{ "force", 0, CLI_FLAG, NULL,
	  "stop: although VMs run; they keep their frames, and have the next owner started",
	  offsetof(struct pool_options, force), 0, 0 },
};

static void *defaults(void)
{
	options = (struct pool_options){ .hugepages = HUGEPAGES_AUTO,
					 .size = SIZE_UNSET,
					 .max = SIZE_UNSET,
					 .node = NODE_UNSET,
					 .order = MAX_ORDER };
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
	static const char *const heads[] = { ">NODE", ">HOST NODE", ">TOTAL", ">MOVABLE",
					     ">FREE", ">CACHED",    ">HELD",  ">ZEROED" };
	static const char *const columns[] = { "node", "host-node", "total", "movable",
					       "free", "cached",    "held",  "zeroed" };
	struct cli_table rows = { .columns = 8, .heads = heads };
	json_t *node;
	size_t i;

	json_array_foreach(nodes, i, node)
	{
		for (size_t column = 0; column < 8; column++)
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
	print_frames(pool, "guaranteed", "settings.guaranteed");
	print_frames(pool, "reserve", "settings.reserve");
	if (cli_json_u64(pool, "settings.movable"))
		print_frames(pool, "movable", "settings.movable");
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
					     "--hugepages=never", "--hugepages=1G" };
	char path[PATH_MAX], size[64], max[64], movable[64];
	const char *argv[10] = { OWNER_PROGRAM, "--daemonize", "--keep", modes[options.hugepages] };
	int argc = 4;

	if (options.size == 0 || options.max == 0) {
		error_set(err, EINVAL, "--size and --max must be more than 0");
		return CLI_ERROR;
	}
	if (options.size != SIZE_UNSET) {
		snprintf(size, sizeof(size), "--pool=%" PRIu64 "B", options.size);
		argv[argc++] = size;
	}
	if (options.max != SIZE_UNSET) {
		snprintf(max, sizeof(max), "--max=%" PRIu64 "B", options.max);
		argv[argc++] = max;
	}
	if (options.movable) {
		snprintf(movable, sizeof(movable), "--movable=%s", options.movable);
		argv[argc++] = movable;
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

static int set(struct error *err)
{
	const char *equals = strchr(options.set, '=');
	struct qmp_client *client;
	int ret;

	if (!equals || equals == options.set || !equals[1]) {
		error_set(err, EINVAL, "--set wants NAME=VALUE, not '%s'", options.set);
		return CLI_ERROR;
	}
	client = cli_pool_connect(err);
	if (!client)
		return CLI_ERROR;
	ret = qmp_client_call(client, "pool-set",
			      json_pack("{s:s%, s:s}", "name", options.set,
					(size_t)(equals - options.set), "value", equals + 1),
			      NULL, err);
	qmp_client_close(client);
	return ret < 0 ? CLI_ERROR : CLI_OK;
}

static int show_settings(struct error *err)
{
	json_t *settings = cli_pool_query("query-settings", err), *value;
	const char *name;

	if (!settings)
		return CLI_ERROR;
	if (options.json)
		return cli_print_json(settings, err);
	json_object_foreach(settings, name, value)
	{
		char *text = json_is_string(value) ? strdup(json_string_value(value))
						   : json_dumps(value, JSON_ENCODE_ANY);

		printf("%-26s %s\n", name, text ? text : "");
		free(text);
	}
	json_decref(settings);
	return CLI_OK;
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

/* --- grow, shrink --- */

static int parse_size(const struct cli_args *args, uint64_t *size, struct error *err)
{
	if (args->nr_operands < 2)
		return error_set(err, EINVAL, "usage: framevisor pool %s SIZE; see --help",
				 args->operands[0]);
	if (size_parse(args->operands[1], size, err) < 0)
		return -EINVAL;
	if (*size == 0 || *size > INT64_MAX)
		return error_set(err, EINVAL, "the pool cannot %s by %s", args->operands[0],
				 args->operands[1]);
	return 0;
}

static void add_node(json_t *request)
{
	if (options.node != NODE_UNSET)
		json_object_set_new(request, "node", json_integer((json_int_t)options.node));
}

static json_t *resize_request(const struct cli_args *args, struct error *err)
{
	json_t *request;
	uint64_t size = 0;

	if (parse_size(args, &size, err) < 0)
		return NULL;
	request = json_pack("{s:I}", "size", (json_int_t)size);
	add_node(request);
	return request;
}

static int grow(const struct cli_args *args, struct error *err)
{
	struct pool_movable movable = { 0 };
	json_t *request;
	uint64_t part;

	if (options.movable && owner_options_movable(options.movable, &movable, err) < 0)
		return CLI_ERROR;
	request = resize_request(args, err);
	if (!request)
		return CLI_ERROR;
	part = movable.percent ? cli_json_u64(request, "size") / 100 * movable.percent
			       : movable.bytes;
	if (options.movable)
		json_object_set_new(request, "movable", json_integer((json_int_t)part));
	return pool_job_run("pool-grow", request, options.json, err);
}

static int shrink(const struct cli_args *args, struct error *err)
{
	json_t *request = resize_request(args, err);

	return request ? pool_job_run("pool-shrink", request, options.json, err) : CLI_ERROR;
}

/* --- compact, offline-movable, offline-frame, online-frame --- */

static int compact(struct error *err)
{
	json_t *request = json_pack("{s:I}", "order", (json_int_t)options.order);

	return pool_job_run("pool-compact", request, options.json, err);
}

static int offline_movable(struct error *err)
{
	json_t *request = json_object();

	add_node(request);
	return pool_job_run("pool-offline-movable", request, options.json, err);
}

/* NODE:INDEX. NULL with err set. */
static json_t *frame_request(const struct cli_args *args, struct error *err)
{
	unsigned long long index = 0;
	unsigned int node = 0;
	int used = 0;
	const char *text = args->nr_operands > 1 ? args->operands[1] : "";

	/* Digits only: what sscanf() takes besides is not meant. */
	if (text[strspn(text, "0123456789:")] || strlen(text) > 24 ||
	    sscanf(text, "%u:%llu%n", &node, &index, &used) != 2 || text[used] ||
	    index > INT64_MAX) {
		error_set(err, EINVAL,
			  "'pool %s' takes a frame as NODE:INDEX, for example 0:17, not '%s'",
			  args->operands[0], text);
		return NULL;
	}
	return json_pack("{s:I, s:I}", "node", (json_int_t)node, "index", (json_int_t)index);
}

static int offline_frame(const struct cli_args *args, struct error *err)
{
	json_t *request = frame_request(args, err);

	return request ? pool_job_run("pool-offline-frame", request, options.json, err) : CLI_ERROR;
}

static int online_frame(const struct cli_args *args, struct error *err)
{
	json_t *request = frame_request(args, err);
	struct qmp_client *client = request ? cli_pool_connect(err) : NULL;
	int ret = -ENOENT;

	if (client)
		ret = qmp_client_call(client, "pool-online-frame", request, NULL, err);
	else
		json_decref(request);
	qmp_client_close(client);
	return ret < 0 ? CLI_ERROR : CLI_OK;
}

static bool takes_operand(const char *what)
{
	static const char *const with[] = { "grow", "shrink", "offline-frame", "online-frame" };

	for (size_t i = 0; i < sizeof(with) / sizeof(with[0]); i++)
		if (strcmp(what, with[i]) == 0)
			return true;
	return false;
}

static int run(const struct cli_args *args, struct error *err)
{
	const char *what = args->nr_operands ? args->operands[0] : "show";

	if (options.set && args->nr_operands > 0) {
		error_set(err, EINVAL, "'pool --set' takes no argument '%s'; see --help", what);
		return CLI_ERROR;
	}
	if (options.set)
		return set(err);
	if (args->nr_operands > 1 && !takes_operand(what)) {
		error_set(err, EINVAL, "'pool %s' takes no argument '%s'", what, args->operands[1]);
		return CLI_ERROR;
	}
	if (strcmp(what, "show") == 0)
		return show(err);
	if (strcmp(what, "settings") == 0)
		return show_settings(err);
	if (strcmp(what, "slabinfo") == 0)
		return cli_pool_report("query-slabinfo", options.json, err);
	if (strcmp(what, "start") == 0)
		return start(err);
	if (strcmp(what, "stop") == 0)
		return stop(err);
	if (strcmp(what, "check") == 0)
		return check(err);
	if (strcmp(what, "grow") == 0)
		return grow(args, err);
	if (strcmp(what, "shrink") == 0)
		return shrink(args, err);
	if (strcmp(what, "compact") == 0)
		return compact(err);
	if (strcmp(what, "offline-movable") == 0)
		return offline_movable(err);
	if (strcmp(what, "offline-frame") == 0)
		return offline_frame(args, err);
	if (strcmp(what, "online-frame") == 0)
		return online_frame(args, err);
	error_set(
		err, EINVAL,
		"unknown pool command '%s'; it is one of show, start, stop, grow, shrink, compact, "
		"offline-movable, offline-frame, online-frame, check, settings, slabinfo",
		what);
	return CLI_ERROR;
}

const struct cli_verb cli_pool = {
	.name = "pool",
	.operands = "[show|start|stop|grow|shrink|compact|offline-movable|offline-frame|online-"
		    "frame|check|"
		    "settings|slabinfo] [SIZE|FRAME]",
	.max_operands = 2,
	.summary = "show the pool of frames, start or stop it, change its size, check it",
	.details =
		"show   frames in all and per node, and who holds them (the default)\n"
		"start  start the pool owner; it stays until 'pool stop'\n"
		"stop   end the pool owner and give its memory back to the host\n"
		"grow   add SIZE of memory while VMs run, to all nodes alike\n"
		"shrink give SIZE of free memory back to the host, out of ZONE_MOVABLE first; "
		"what\n"
		"       VMs were promised and the reserve stay. With --node, what VMs hold "
		"there moves\n"
		"       to other nodes if need be\n"
		"compact  have VMs move their frames together, for large free blocks\n"
		"offline-movable  empty ZONE_MOVABLE (with --node, of one node) and give its "
		"memory to\n"
		"       the host; what VMs hold there moves to other zones. What cannot move "
		"stays,\n"
		"       and the command says why\n"
		"offline-frame NODE:INDEX  take a frame out of use, for example because its "
		"memory\n"
		"       fails; who holds it moves out. online-frame puts it back\n"
		"check  verify that no frame is lost or counted twice\n"
		"settings  show what --set can change\n"
		"slabinfo  show what the pool owner keeps about VMs and requests, and the memory "
		"of\n"
		"       its own that this takes, in the format of /proc/slabinfo\n\n"
		"By default the pool promises no more than it has (overcommit_memory=2 with\n"
		"overcommit_ratio=100). With overcommit_memory=0 VMs may together have more\n"
		"memory than the pool (1: also a single one), and only their minimums are\n"
		"guaranteed; what idle VMs have goes to busy ones.",
	.examples = "  framevisor pool\n"
		    "  framevisor pool start --size 4G --movable 50% --hugepages require\n"
		    "  framevisor pool grow 1G\n  framevisor pool shrink 512M --node 1\n"
		    "  framevisor pool offline-movable --node 0\n"
		    "  framevisor pool check\n  framevisor pool --set overcommit_memory=0",
	.options = table,
	.nr_options = sizeof(table) / sizeof(table[0]),
	.defaults = defaults,
	.run = run,
};
