/* SPDX-License-Identifier: MIT */
/* framevisor mem: where the memory of a VM is, or of all of them. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "framevisor/frame.h"
#include "framevisor/rundir.h"
#include "vmm/cli/cli.h"

#define MEM_TIMEOUT_MS 2000

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
	if (cli_json_u64(memory, "balloon.release-errors"))
		print_count(memory, "errors", "balloon.release-errors",
			    "frames that could not be taken");
}

static int one_vm(const char *name, struct error *err)
{
	json_t *memory = cli_vm_query(name, "query-framevisor-memory", CLI_ANSWER_TIMEOUT_MS, err);

	if (!memory)
		return CLI_ERROR;
	if (options.json)
		return cli_print_json(memory, err);
	printf("%s: frames of 2 MiB\n", name);
	print_frames(memory, "ram", "frames.ram", "the guest's memory");
	print_frames(memory, "bound", "frames.bound", "under the guest now");
	print_frames(memory, "stock", "frames.stock", "kept for its next touches");
	print_frames(memory, "given up", "frames.released", "and not touched again since");
	print_count(memory, "faults", "frames.faults", "first touches");
	print_count(memory, "touched after giving up", "frames.touched-released", "");
	print_count(memory, "waits", "frames.waits", "touches that found the pool empty");
	print_balloon(memory);
	json_decref(memory);
	return CLI_OK;
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
	add_frames(rows, cli_json_u64(memory, "frames.bound"));
	add_frames(rows, cli_json_u64(memory, "frames.stock"));
	add_frames(rows, cli_json_u64(memory, "frames.released"));
	add_frames(rows, bytes_to_frames(cli_json_u64(memory, "balloon.inflated")));
	cli_table_add(rows, "%" PRIu64, cli_json_u64(memory, "balloon.frames-partial"));
	cli_table_add(rows, "%" PRIu64, cli_json_u64(memory, "frames.faults"));
}

static void print_all(const json_t *vms, const json_t *pool)
{
	static const char *const heads[] = { "NAME",      ">RAM",     ">BOUND",   ">STOCK",
					     ">GIVEN UP", ">BALLOON", ">PARTIAL", ">FAULTS" };
	struct cli_table rows = { .columns = 8, .heads = heads };
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
	return args->nr_operands ? one_vm(args->operands[0], err) : all_vms(err);
}

const struct cli_verb cli_mem = {
	.name = "mem",
	.operands = "[NAME]",
	.max_operands = 1,
	.summary = "show where the memory of a VM is, or of all VMs",
	.examples = "  framevisor mem\n  framevisor mem web --json",
	.options = table,
	.nr_options = 1,
	.defaults = defaults,
	.run = run,
};
