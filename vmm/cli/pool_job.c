/* SPDX-License-Identifier: MIT */
/* Watching a job of the pool owner: see pool_job.h. */
#include "vmm/cli/pool_job.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "framevisor/clock.h"
#include "framevisor/frame.h"
#include "vmm/cli/cli.h"

#define FIRST_POLL_MS 5
#define POLL_MS       100
#define PLAIN_LINE_MS 1000

static bool in_state(const json_t *job, const char *state)
{
	return strcmp(cli_json_string(job, "state"), state) == 0;
}

static void show_progress(const json_t *job, bool tty, uint64_t *last_line)
{
	uint64_t done = cli_json_u64(job, "done"), frames = cli_json_u64(job, "frames");
	uint64_t moved = cli_json_u64(job, "moved");

	if (now_ms() - *last_line < (tty ? POLL_MS : PLAIN_LINE_MS))
		return;
	*last_line = now_ms();
	fprintf(stderr, "%spool %s: %s", tty ? "\r" : "", cli_json_string(job, "operation"),
		cli_json_string(job, "state"));
	if (frames)
		fprintf(stderr, ", %" PRIu64 " of %" PRIu64 " frames (%" PRIu64 " %%)", done,
			frames, done * 100 / frames);
	if (moved)
		fprintf(stderr, ", %" PRIu64 " moved", moved);
	fputs(tty ? "\033[K" : "\n", stderr);
}

/* Until the job with that id is over. Returns its last report or NULL with err set. */
static json_t *watch(struct qmp_client *client, uint64_t id, struct error *err)
{
	bool tty = isatty(STDERR_FILENO), shown = false;
	uint64_t last_line = now_ms();
	unsigned int pause = FIRST_POLL_MS;
	json_t *job = NULL;

	while (qmp_client_call(client, "query-pool-job", NULL, &job, err) == 0) {
		if (cli_json_u64(job, "id") != id) {
			error_set(err, EIO, "job %" PRIu64 " is over, and the next one under way",
				  id);
			break;
		}
		if (!in_state(job, "waiting") && !in_state(job, "running"))
			goto out;
		if (pause == POLL_MS) {
			show_progress(job, tty, &last_line);
			shown = true;
		}
		json_decref(job);
		job = NULL;
		usleep(pause * 1000);
		pause = 2 * pause < POLL_MS ? 2 * pause : POLL_MS;
	}
	json_decref(job);
	job = NULL;
out:
	if (shown && tty)
		fputs("\r\033[K", stderr);
	return job;
}

/* " (N frames: A of node 0, B of node 1)" */
static void print_nodes(const json_t *nodes)
{
	const char *before = ": ";
	json_t *node;
	size_t i;

	json_array_foreach(nodes, i, node)
	{
		if (!cli_json_u64(node, "frames"))
			continue;
		printf("%s%" PRIu64 " of node %" PRIu64, before, cli_json_u64(node, "frames"),
		       cli_json_u64(node, "node"));
		before = ", ";
	}
}

static void print_resized(const json_t *job, bool grow)
{
	uint64_t frames = cli_json_u64(job, "done"), hugepages = cli_json_u64(job, "hugepages");
	char size[SIZE_TEXT_MAX];

	printf("the pool is %s %s (%" PRIu64 " frame%s", grow ? "larger by" : "smaller by",
	       size_format(frames_to_bytes(frames), size, sizeof(size)), frames,
	       frames == 1 ? "" : "s");
	print_nodes(json_object_get(job, "nodes"));
	putchar(')');
	if (hugepages)
		printf(", the host has %" PRIu64 " hugepage%s %s reserved", hugepages,
		       hugepages == 1 ? "" : "s", grow ? "more" : "fewer");
}

static void print_report(const json_t *job)
{
	const char *operation = cli_json_string(job, "operation");
	uint64_t moved = cli_json_u64(job, "moved");
	char size[SIZE_TEXT_MAX];

	if (strcmp(operation, "compact") == 0)
		printf("free blocks of %s: %" PRIu64 ", before %" PRIu64,
		       size_format(frames_to_bytes(cli_json_u64(job, "block-frames")), size,
				   sizeof(size)),
		       cli_json_u64(job, "blocks-after"), cli_json_u64(job, "blocks-before"));
	else if (strcmp(operation, "offline-frame") == 0)
		printf("the frame is in quarantine");
	else
		print_resized(job, strcmp(operation, "grow") == 0);
	if (moved)
		printf("; %" PRIu64 " frame%s of VMs moved", moved, moved == 1 ? "" : "s");
	putchar('\n');
}

static int run(struct qmp_client *client, const char *command, json_t *args, bool json,
	       struct error *err)
{
	json_t *job = NULL;
	uint64_t id;

	if (qmp_client_call(client, command, args, &job, err) < 0)
		return CLI_ERROR;
	id = cli_json_u64(job, "id");
	json_decref(job);
	job = watch(client, id, err);
	if (!job)
		return CLI_ERROR;
	if (in_state(job, "failed"))
		error_set(err, EIO, "%s", cli_json_string(job, "message"));
	if (json)
		cli_print_json(json_incref(job), err);
	else if (!err->code)
		print_report(job);
	json_decref(job);
	return err->code ? CLI_ERROR : CLI_OK;
}

int pool_job_run(const char *command, json_t *args, bool json, struct error *err)
{
	struct qmp_client *client = cli_pool_connect(err);
	int ret;

	if (!client) {
		json_decref(args);
		return CLI_ERROR;
	}
	ret = run(client, command, args, json, err);
	qmp_client_close(client);
	return ret;
}
