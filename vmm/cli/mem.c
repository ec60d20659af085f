/* SPDX-License-Identifier: MIT */
/* framevisor mem: where the memory of a VM is, or of all of them. */
#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_balloon.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "framevisor/clock.h"
#include "framevisor/frame.h"
#include "framevisor/rundir.h"
#include "vmm/cli/cli.h"

#define MEM_TIMEOUT_MS 2000

#define POLL_MS 50
/* How long a guest may take to answer with its statistics, and how long a session of hints. */
#define STATS_WAIT_MS 1000
#define HINT_WAIT_MS  60000

static struct mem_options {
	bool hint;
	bool json;
} options;

static const struct cli_option table[] = {
	{ "hint", 0, CLI_FLAG, NULL,
	  "have the guest say what is free now, and take what is not in use",
	  offsetof(struct mem_options, hint), 0, 0 },
	{ "json", 0, CLI_FLAG, NULL, "print JSON", offsetof(struct mem_options, json), 0, 0 },
};

static void *defaults(void)
{
	options = (struct mem_options){ .json = false };
	return &options;
}

/* --- one VM --- */

static void print_size(const char *what, uint64_t bytes, const char *remark)
{
	char text[SIZE_TEXT_MAX];

	printf("  %-24s %12s  %s\n", what, size_format(bytes, text, sizeof(text)), remark);
}

static void print_frames(const json_t *memory, const char *what, const char *path,
			 const char *remark)
{
	uint64_t frames = cli_json_u64(memory, path);
	char text[SIZE_TEXT_MAX];

	printf("  %-24s %5" PRIu64 "  %12s  %s\n", what, frames,
	       size_format(frames_to_bytes(frames), text, sizeof(text)), remark);
}

static void print_count(const json_t *memory, const char *what, const char *path,
			const char *remark)
{
	printf("  %-24s %5" PRIu64 "  %12s  %s\n", what, cli_json_u64(memory, path), "", remark);
}

static void print_balloon(const json_t *memory)
{
	puts("balloon");
	if (cli_json_bool(memory, "balloon.broken"))
		puts("  out of order: the guest broke the protocol");
	else if (!cli_json_bool(memory, "balloon.driver-ready"))
		puts("  the guest has no driver for it loaded");
	print_size("size asked", cli_json_u64(memory, "balloon.target"),
		   "what the guest shall keep");
	print_size("size now", cli_json_u64(memory, "balloon.actual"), "what it says it keeps");
	print_size("in the balloon", cli_json_u64(memory, "balloon.inflated"),
		   "guest pages that were handed over");
	print_frames(memory, "whole frames", "balloon.frames-released",
		     "given up completely: back in the pool");
	print_frames(memory, "partial frames", "balloon.frames-partial",
		     "some of their pages are still the guest's");
	print_frames(memory, "reported free", "balloon.frames-reported",
		     "by the guest itself, since it started");
	if (cli_json_u64(memory, "balloon.frames-hinted"))
		print_frames(memory, "hinted free", "balloon.frames-hinted", "on 'mem --hint'");
	if (cli_json_u64(memory, "balloon.release-errors"))
		print_count(memory, "errors", "balloon.release-errors",
			    "frames that could not be taken");
}

static void print_virtio_mem(const json_t *memory)
{
	if (!json_is_object(json_object_get(memory, "virtio-mem")))
		return;
	puts("virtio-mem");
	if (cli_json_bool(memory, "virtio-mem.broken"))
		puts("  out of order: the guest broke the protocol");
	else if (!cli_json_bool(memory, "virtio-mem.driver-ready"))
		puts("  the guest has no driver for it loaded");
	print_size("asked to be plugged", cli_json_u64(memory, "virtio-mem.requested"),
		   "beyond what it booted with");
	print_size("plugged", cli_json_u64(memory, "virtio-mem.plugged"), "what it took");
	if (cli_json_u64(memory, "target.stuck"))
		print_size("stuck", cli_json_u64(memory, "target.stuck"),
			   "of it: asked back again, and the guest cannot move what is in it");
	print_size("region", cli_json_u64(memory, "virtio-mem.region-size"),
		   "where it can be plugged");
	if (cli_json_u64(memory, "virtio-mem.busy"))
		print_count(memory, "put off", "virtio-mem.busy",
			    "requests of the guest that could not be served then");
	if (cli_json_u64(memory, "virtio-mem.refused"))
		print_count(memory, "refused", "virtio-mem.refused", "requests of the guest");
}

/* The guest's own numbers; the names are QEMU's, a person is told what they mean. */
static void print_guest(const json_t *memory)
{
	static const struct {
		const char *name, *what;
		bool count;
	} lines[] = {
		{ "stat-total-memory", "total", false },
		{ "stat-free-memory", "free", false },
		{ "stat-available-memory", "available", false },
		{ "stat-disk-caches", "caches", false },
		{ "stat-swap-in", "swapped in", false },
		{ "stat-swap-out", "swapped out", false },
		{ "stat-major-faults", "major faults", true },
		{ "stat-oom-kills", "killed for memory", true },
	};
	const json_t *guest = json_object_get(memory, "guest");
	const json_t *stats = json_object_get(guest, "stats");

	if (!stats) {
		puts("guest\n  it does not tell about its memory");
		return;
	}
	printf("guest, %.1f s ago%s\n", (double)cli_json_u64(guest, "age-ms") / 1000,
	       cli_json_bool(guest, "stale") ? "; it does not answer" : "");
	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		if (!json_object_get(stats, lines[i].name))
			continue;
		if (lines[i].count)
			print_count(stats, lines[i].what, lines[i].name, "");
		else
			print_size(lines[i].what, cli_json_u64(stats, lines[i].name), "");
	}
}

static void print_swap(const json_t *memory)
{
	uint64_t out = cli_json_u64(memory, "swap.out"),
		 bytes = cli_json_u64(memory, "swap.out-bytes");
	char remark[64] = "since it started";

	if (!json_is_object(json_object_get(memory, "swap")))
		return;
	puts("swap");
	print_size("size", cli_json_u64(memory, "swap.size-bytes"), "that the file may have");
	print_size("used", cli_json_u64(memory, "swap.used-bytes"), "of it");
	print_frames(memory, "swapped", "swap.swapped", "out of the guest's memory now");
	print_frames(memory, "all zero", "swap.zero", "of these, which take no space");
	if (bytes)
		snprintf(remark, sizeof(remark), "since it started, compressed %.1f to 1",
			 (double)frames_to_bytes(out) / (double)bytes);
	print_frames(memory, "swapped out", "swap.out", remark);
	print_frames(memory, "swapped in", "swap.in", "");
	print_frames(memory, "read ahead", "swap.ahead", "of these");
	if (cli_json_u64(memory, "swap.errors"))
		print_count(memory, "errors", "swap.errors", "reads and writes that failed");
}

/* Where the frames are that the guest's nodes have; of interest when there is more than one of
 * either.
 */
static void print_nodes(const json_t *memory)
{
	const json_t *nodes = json_object_get(memory, "nodes"), *node, *host;
	size_t i, j;

	json_array_foreach(nodes, i, node)
	{
		const json_t *hosts = json_object_get(node, "host");

		if (json_array_size(nodes) == 1 && json_array_size(hosts) <= 1)
			return;
		if (i == 0)
			puts("nodes");
		printf("  guest node %-13" PRIu64 " %5" PRIu64 "  %12s  of %" PRIu64 ":",
		       cli_json_u64(node, "node"), cli_json_u64(node, "bound"), "",
		       cli_json_u64(node, "ram") + cli_json_u64(node, "plugged"));
		if (json_array_size(hosts) == 0)
			fputs(" none bound yet", stdout);
		json_array_foreach(hosts, j, host)
		{
			printf("%s %" PRIu64 " in host node %" PRIu64, j ? "," : "",
			       cli_json_u64(host, "frames"), cli_json_u64(host, "node"));
		}
		putchar('\n');
	}
}

static void print_vm(const char *name, const json_t *memory)
{
	printf("%s: frames of %s\n", name, frame_size_name());
	print_size("target", cli_json_u64(memory, "target.size"),
		   cli_json_string(memory, "target.text"));
	print_size("size now", cli_json_u64(memory, "target.actual"), "what the guest has");
	print_frames(memory, "ram", "frames.ram", "that the guest booted with");
	print_frames(memory, "plugged", "frames.plugged", "beside it");
	print_frames(memory, "bound", "frames.bound", "under the guest now");
	print_frames(memory, "stock", "frames.stock", "kept for its next touches");
	print_frames(memory, "given up", "frames.released", "and not touched again since");
	print_count(memory, "faults", "frames.faults", "first touches");
	print_count(memory, "faulted around", "frames.faults-around", "neighbours bound along");
	print_count(memory, "touched after giving up", "frames.touched-released", "");
	print_count(memory, "waits", "frames.waits", "touches that found the pool empty");
	if (cli_json_u64(memory, "frames.over-limit"))
		print_count(memory, "beyond the limit", "frames.over-limit",
			    "touches of memory that it has given up");
	print_swap(memory);
	print_nodes(memory);
	print_virtio_mem(memory);
	print_balloon(memory);
	print_guest(memory);
}

static json_t *query(struct qmp_client *client, bool refresh, struct error *err)
{
	json_t *memory = NULL;

	qmp_client_call(client, "query-framevisor-memory", json_pack("{s:b}", "refresh", refresh),
			&memory, err);
	return memory;
}

/* With the guest's numbers of now, if it answers. */
static json_t *query_fresh(struct qmp_client *client, struct error *err)
{
	uint64_t start = now_ms();
	json_t *memory = query(client, true, err);

	while (memory &&
	       cli_json_u64(memory, "balloon.accepted-features") >> VIRTIO_BALLOON_F_STATS_VQ & 1 &&
	       strcmp(cli_json_string(memory, "target.state"), "paused") != 0 &&
	       now_ms() - start < STATS_WAIT_MS) {
		const json_t *guest = json_object_get(memory, "guest");

		if (json_is_object(guest) && cli_json_u64(guest, "age-ms") <= now_ms() - start)
			break;
		json_decref(memory);
		usleep(POLL_MS * 1000);
		memory = query(client, false, err);
	}
	return memory;
}

/* Waits for the end of the session that was begun. */
static int wait_for_hints(struct qmp_client *client, struct error *err)
{
	uint64_t start = now_ms();
	bool hinting = true;

	while (hinting) {
		json_t *memory;

		usleep(POLL_MS * 1000);
		memory = query(client, false, err);
		if (!memory)
			return -EIO;
		hinting = cli_json_bool(memory, "balloon.hinting");
		json_decref(memory);
		if (hinting && now_ms() - start > HINT_WAIT_MS)
			return error_set(err, ETIMEDOUT,
					 "the guest has not finished within %d s; what it hints "
					 "later is taken all the same",
					 HINT_WAIT_MS / 1000);
	}
	return 0;
}

/* Has the guest hint and says what came of it. */
static int hint(struct qmp_client *client, const char *name, struct error *err)
{
	json_t *before = query(client, false, err), *after = NULL;
	char hinted[SIZE_TEXT_MAX], back[SIZE_TEXT_MAX];
	uint64_t bytes, frames;
	int ret = -EIO;

	if (before)
		ret = qmp_client_call(client, "framevisor-free-page-hint", NULL, NULL, err);
	if (ret == 0)
		ret = wait_for_hints(client, err);
	if (ret == 0)
		after = query(client, false, err);
	if (after) {
		bytes = cli_json_u64(after, "balloon.hinted") -
			cli_json_u64(before, "balloon.hinted");
		frames = cli_json_u64(after, "balloon.frames-hinted") -
			 cli_json_u64(before, "balloon.frames-hinted");
		if (options.json)
			cli_print_json(json_pack("{s:s,s:I,s:I}", "name", name, "hinted",
						 (json_int_t)bytes, "frames-back",
						 (json_int_t)frames),
				       err);
		else
			printf("%s: %s hinted free: %" PRIu64 " frames (%s) back in the pool\n",
			       name, size_format(bytes, hinted, sizeof(hinted)), frames,
			       size_format(frames_to_bytes(frames), back, sizeof(back)));
	}
	json_decref(before);
	json_decref(after);
	return after ? CLI_OK : CLI_ERROR;
}

static int one_vm(const char *name, struct error *err)
{
	struct qmp_client *client = cli_vm_connect(name, CLI_ANSWER_TIMEOUT_MS, err);
	int status = CLI_ERROR;
	json_t *memory;

	if (!client)
		return CLI_ERROR;
	if (options.hint) {
		status = hint(client, name, err);
	} else {
		memory = query_fresh(client, err);
		if (memory && options.json) {
			status = cli_print_json(json_incref(memory), err);
		} else if (memory) {
			print_vm(name, memory);
			status = CLI_OK;
		}
		json_decref(memory);
	}
	qmp_client_close(client);
	return status;
}

/* --- all of them, and the pool --- */

static void collect(void *opaque, const char *name, pid_t pid)
{
	json_t *list = opaque;
	json_t *memory = cli_vm_query(name, "query-framevisor-memory", MEM_TIMEOUT_MS, NULL);

	(void)pid;
	/* A VM that does not answer has no frames to tell of here; the pool's row still has them.
	 */
	if (!memory)
		return;
	json_object_set_new(memory, "name", json_string(name));
	json_array_append_new(list, memory);
}

static void add_frames(struct cli_table *rows, uint64_t frames)
{
	char text[SIZE_TEXT_MAX];

	cli_table_add(rows, "%s", size_format(frames_to_bytes(frames), text, sizeof(text)));
}

static void add_vm(struct cli_table *rows, const json_t *memory)
{
	cli_table_add(rows, "%s", cli_json_string(memory, "name"));
	add_frames(rows, cli_json_u64(memory, "frames.ram"));
	add_frames(rows, cli_json_u64(memory, "frames.plugged"));
	add_frames(rows, cli_json_u64(memory, "frames.bound"));
	add_frames(rows, cli_json_u64(memory, "frames.stock"));
	add_frames(rows, cli_json_u64(memory, "frames.released"));
	add_frames(rows, bytes_to_frames(cli_json_u64(memory, "balloon.inflated")));
	cli_table_add(rows, "%" PRIu64, cli_json_u64(memory, "balloon.frames-partial"));
	cli_table_add(rows, "%" PRIu64, cli_json_u64(memory, "frames.faults"));
}

static void print_all(const json_t *vms, const json_t *pool)
{
	static const char *const heads[] = { "NAME",     ">RAM",     ">PLUGGED",
					     ">BOUND",   ">STOCK",   ">GIVEN UP",
					     ">BALLOON", ">PARTIAL", ">FAULTS" };
	struct cli_table rows = { .columns = 9, .heads = heads };
	char total[SIZE_TEXT_MAX], unused[SIZE_TEXT_MAX], held[SIZE_TEXT_MAX];
	json_t *vm;
	size_t i;

	json_array_foreach(vms, i, vm)
	{
		add_vm(&rows, vm);
	}
	cli_table_print(&rows);
	if (!pool) {
		puts("no pool is running");
		return;
	}
	printf("pool: %s, %s free, %s with VMs\n",
	       size_format(frames_to_bytes(cli_json_u64(pool, "total")), total, sizeof(total)),
	       size_format(
		       frames_to_bytes(cli_json_u64(pool, "free") + cli_json_u64(pool, "cached")),
		       unused, sizeof(unused)),
	       size_format(frames_to_bytes(cli_json_u64(pool, "held")), held, sizeof(held)));
}

static int all_vms(struct error *err)
{
	json_t *vms = json_array(), *pool;
	int ret = rundir_vm_each(collect, vms);

	if (ret < 0) {
		json_decref(vms);
		error_set_errno(err, -ret, "cannot list the running VMs");
		return CLI_ERROR;
	}
	pool = cli_pool_query("query-pool", NULL);
	if (options.json)
		return cli_print_json(
			json_pack("{s:o,s:o}", "vms", vms, "pool", pool ? pool : json_null()), err);
	print_all(vms, pool);
	json_decref(vms);
	json_decref(pool);
	return CLI_OK;
}

static int run(const struct cli_args *args, struct error *err)
{
	if (args->nr_operands)
		return one_vm(args->operands[0], err);
	if (options.hint) {
		error_set(err, EINVAL, "--hint needs the name of a VM");
		return CLI_ERROR;
	}
	return all_vms(err);
}

const struct cli_verb cli_mem = {
	.name = "mem",
	.operands = "[NAME]",
	.max_operands = 1,
	.summary = "show where the memory of a VM is, or of all VMs",
	.examples = "  framevisor mem\n  framevisor mem web --json\n  framevisor mem web --hint",
	.options = table,
	.nr_options = sizeof(table) / sizeof(table[0]),
	.defaults = defaults,
	.run = run,
};
