/* SPDX-License-Identifier: MIT */
/* framevisor balloon: sets a VM's size, watches the guest get there, and says what came back. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "framevisor/frame.h"
#include "vmm/cli/cli.h"

#define POLL_MS         100
#define SETTLE_MS       300 /* at the target and nothing moved for so long: done */
#define PLAIN_LINE_MS   1000
#define TIMEOUT_DEFAULT 10

static struct balloon_options {
	uint64_t timeout;
	bool no_wait;
	bool json;
} options;

static const struct cli_option table[] = {
	{ "no-wait", 0, CLI_FLAG, NULL, "set the size and return at once",
	  offsetof(struct balloon_options, no_wait), 0, 0 },
	{ "timeout", 't', CLI_UINT, "SECONDS",
	  "give up when the guest has made no progress for so long (default: 10)",
	  offsetof(struct balloon_options, timeout), 1, 86400 },
	{ "json", 0, CLI_FLAG, NULL, "print JSON", offsetof(struct balloon_options, json), 0, 0 },
};

static void *defaults(void)
{
	options = (struct balloon_options){ .timeout = TIMEOUT_DEFAULT };
	return &options;
}

/* What query-framevisor-memory says, as far as it matters here. Sizes of the guest in bytes. */
struct reading {
	uint64_t target, actual;
	uint64_t inflated;
	uint64_t held;     /* frames of the pool that the VM has */
	uint64_t given_up; /* frames that the balloon holds completely */
	uint64_t partial;  /* frames that it holds in part */
};

struct job {
	const char *name;
	struct qmp_client *client;
	uint64_t size; /* as asked */
	struct reading before, now;
	bool tty;
	int64_t last_line;
};

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void take_reading(const json_t *memory, struct reading *reading)
{
	*reading = (struct reading){
		.target = cli_json_u64(memory, "balloon.target"),
		.actual = cli_json_u64(memory, "balloon.actual"),
		.inflated = cli_json_u64(memory, "balloon.inflated"),
		.held = cli_json_u64(memory, "frames.bound") + cli_json_u64(memory, "frames.stock"),
		.given_up = cli_json_u64(memory, "balloon.frames-released"),
		.partial = cli_json_u64(memory, "balloon.frames-partial"),
	};
}

static int check_first(struct job *job, const json_t *memory, struct error *err)
{
	uint64_t ram = cli_json_u64(memory, "memory");
	char size[SIZE_TEXT_MAX], has[SIZE_TEXT_MAX];

	if (job->size > ram)
		return error_set(err, EINVAL, "%s is more than the %s that '%s' was started with",
				 size_format(job->size, size, sizeof(size)),
				 size_format(ram, has, sizeof(has)), job->name);
	if (cli_json_bool(memory, "balloon.broken"))
		return error_set(
			err, EIO,
			"the balloon of '%s' is out of order: its guest broke the protocol",
			job->name);
	if (!cli_json_bool(memory, "balloon.driver-ready"))
		return error_set(err, ENODEV,
				 "the guest of '%s' has no balloon driver loaded (Linux: module "
				 "virtio_balloon), so its memory cannot be taken back",
				 job->name);
	return 0;
}

static int read_memory(struct job *job, struct reading *reading, struct error *err)
{
	json_t *memory = NULL;
	int ret = qmp_client_call(job->client, "query-framevisor-memory", NULL, &memory, err);

	if (ret == 0)
		take_reading(memory, reading);
	json_decref(memory);
	return ret;
}

static int set_size(struct job *job, struct error *err)
{
	json_t *memory = NULL;
	int ret = qmp_client_call(job->client, "query-framevisor-memory", NULL, &memory, err);

	if (ret == 0)
		ret = check_first(job, memory, err);
	if (ret == 0) {
		take_reading(memory, &job->before);
		ret = qmp_client_call(job->client, "balloon",
				      json_pack("{s:I}", "value", (json_int_t)job->size), NULL,
				      err);
	}
	json_decref(memory);
	return ret < 0 ? ret : read_memory(job, &job->now, err);
}

static void show_progress(struct job *job)
{
	char from[SIZE_TEXT_MAX], to[SIZE_TEXT_MAX], at[SIZE_TEXT_MAX];
	int64_t now = now_ms();

	if (!job->tty && now - job->last_line < PLAIN_LINE_MS)
		return;
	job->last_line = now;
	fprintf(stderr, "%s%s: %s -> %s: now %s, %" PRIu64 " frames given up%s",
		job->tty ? "\r" : "", job->name,
		size_format(job->before.actual, from, sizeof(from)),
		size_format(job->now.target, to, sizeof(to)),
		size_format(job->now.actual, at, sizeof(at)), job->now.given_up,
		job->tty ? "\033[K" : "\n");
}

static void end_progress(const struct job *job)
{
	if (job->tty)
		fputs("\r\033[K", stderr);
}

/*
 * Until the guest is at the target and nothing has moved for a while: its last pages are reported
 * before they have all been counted. Returns 0, or -ETIMEDOUT when nothing has moved for the
 * timeout.
 */
static int wait_until_there(struct job *job, struct error *err)
{
	int64_t moved = now_ms();

	for (;;) {
		struct reading last = job->now;
		int64_t still;
		int ret;

		usleep(POLL_MS * 1000);
		ret = read_memory(job, &job->now, err);
		if (ret < 0)
			return ret;
		if (job->now.actual != last.actual || job->now.inflated != last.inflated ||
		    job->now.given_up != last.given_up)
			moved = now_ms();
		still = now_ms() - moved;
		if (job->now.actual == job->now.target && still >= SETTLE_MS)
			return 0;
		if (still >= (int64_t)options.timeout * 1000)
			return -ETIMEDOUT;
		show_progress(job);
	}
}

static void format_frames(uint64_t frames, char *buf, size_t size)
{
	char text[SIZE_TEXT_MAX];

	snprintf(buf, size, "%" PRIu64 " %s (%s)", frames, frames == 1 ? "frame" : "frames",
		 size_format(frames_to_bytes(frames), text, sizeof(text)));
}

/*
 * A frame that the balloon holds completely is in the pool. How many the VM holds besides depends
 * on what it has touched: a guest that has just booted never held most of what it gives up.
 */
static void report(const struct job *job)
{
	const struct reading *before = &job->before, *now = &job->now;
	char from[SIZE_TEXT_MAX], to[SIZE_TEXT_MAX], frames[64];
	char held[SIZE_TEXT_MAX], held_before[SIZE_TEXT_MAX];
	bool shrunk = now->given_up >= before->given_up;
	uint64_t moved =
		shrunk ? now->given_up - before->given_up : before->given_up - now->given_up;

	format_frames(moved, frames, sizeof(frames));
	printf("%s: %s -> %s: %s %s, %" PRIu64 " %s partly ballooned; holds %s, before %s\n",
	       job->name, size_format(before->actual, from, sizeof(from)),
	       size_format(now->actual, to, sizeof(to)), frames,
	       shrunk ? "back in the pool" : "the guest's again", now->partial,
	       now->partial == 1 ? "frame" : "frames",
	       size_format(frames_to_bytes(now->held), held, sizeof(held)),
	       size_format(frames_to_bytes(before->held), held_before, sizeof(held_before)));
}

static json_t *report_json(const struct job *job)
{
	return json_pack("{s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "name", job->name, "before",
			 (json_int_t)job->before.actual, "target", (json_int_t)job->now.target,
			 "actual", (json_int_t)job->now.actual, "frames-held-before",
			 (json_int_t)job->before.held, "frames-held", (json_int_t)job->now.held,
			 "frames-given-up-before", (json_int_t)job->before.given_up,
			 "frames-given-up", (json_int_t)job->now.given_up, "frames-partial",
			 (json_int_t)job->now.partial);
}

static int fell_short(const struct job *job, struct error *err)
{
	char to[SIZE_TEXT_MAX], at[SIZE_TEXT_MAX];

	return error_set(err, ETIMEDOUT,
			 "'%s' stopped at %s on the way to %s (no progress for %" PRIu64
			 " s); the target stays set",
			 job->name, size_format(job->now.actual, at, sizeof(at)),
			 size_format(job->now.target, to, sizeof(to)), options.timeout);
}

static int do_job(struct job *job, struct error *err)
{
	int ret = set_size(job, err);

	if (ret < 0)
		return ret;
	if (!options.no_wait) {
		ret = wait_until_there(job, err);
		end_progress(job);
		if (ret == -ETIMEDOUT && !err->code)
			fell_short(job, err);
		else if (ret < 0)
			return ret;
	}
	if (options.json)
		cli_print_json(report_json(job), err);
	else if (ret == 0 && !options.no_wait)
		report(job);
	return ret;
}

static int run(const struct cli_args *args, struct error *err)
{
	struct job job = { .name = args->operands[0], .tty = isatty(STDERR_FILENO) };
	int ret;

	if (size_parse(args->operands[1], &job.size, err) < 0)
		return CLI_ERROR;
	if (job.size == 0 || job.size > INT64_MAX) {
		error_set(err, EINVAL, "%s is no size to give a guest; SIZE is what it keeps",
			  args->operands[1]);
		return CLI_ERROR;
	}
	job.client = cli_vm_connect(job.name, CLI_ANSWER_TIMEOUT_MS, err);
	if (!job.client)
		return CLI_ERROR;
	job.last_line = now_ms();
	ret = do_job(&job, err);
	qmp_client_close(job.client);
	return ret < 0 ? CLI_ERROR : CLI_OK;
}

const struct cli_verb cli_balloon = {
	.name = "balloon",
	.operands = "NAME SIZE",
	.min_operands = 2,
	.max_operands = 2,
	.summary = "change how much memory a VM has",
	.details =
		"SIZE is what the guest keeps, at most what it was started with; the rest is "
		"taken\n"
		"into the balloon, and each frame that is in it completely goes back to the pool.\n"
		"Waits until the guest is there and reports what came back.",
	.examples = "  framevisor balloon web 256M\n  framevisor balloon web 1G --no-wait",
	.options = table,
	.nr_options = sizeof(table) / sizeof(table[0]),
	.defaults = defaults,
	.run = run,
};
