/* SPDX-License-Identifier: MIT */
/* framevisor balloon: sets a VM's size, watches the guest get there, and says what came back. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "framevisor/clock.h"
#include "framevisor/frame.h"
#include "vmm/cli/cli.h"

#define POLL_MS 50
/* Parts of frames that are worth a line: so much, and this part of what is in the balloon. */
#define PARTIAL_MIN     (UINT64_C(8) << 20)
#define PARTIAL_SHARE   10
#define SETTLE_MS       300 /* at the target and nothing moved for so long: done */
#define PLAIN_LINE_MS   1000
#define TIMEOUT_DEFAULT 10
/* The VM answers at once; what it asks the pool owner for may wait for another VM's turn. */
#define ANSWER_MS 120000

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
	uint64_t held;      /* frames of the pool that the VM has */
	uint64_t ballooned; /* frames that the balloon holds completely */
	uint64_t partial;   /* frames that it holds in part */
	uint64_t plugged;   /* frames of virtio-mem */
	uint64_t rounds;    /* in which the guest moved its memory together */
	uint64_t stuck;     /* bytes in blocks that the guest keeps although asked again */
	char state[32];     /* of the target */
	char text[256];     /* the same for people */
};

struct job {
	const char *name;
	struct qmp_client *client;
	uint64_t size; /* as asked */
	uint64_t boot; /* what the guest booted with */
	struct reading before, now;
	bool tty;
	uint64_t last_line;
};

static void take_reading(const json_t *memory, struct reading *reading)
{
	*reading = (struct reading){
		.target = cli_json_u64(memory, "target.size"),
		.actual = cli_json_u64(memory, "target.actual"),
		.inflated = cli_json_u64(memory, "balloon.inflated"),
		.held = cli_json_u64(memory, "frames.bound") + cli_json_u64(memory, "frames.stock"),
		.ballooned = cli_json_u64(memory, "balloon.frames-released"),
		.partial = cli_json_u64(memory, "balloon.frames-partial"),
		.plugged = cli_json_u64(memory, "frames.plugged"),
		.rounds = cli_json_u64(memory, "target.compact-rounds"),
		.stuck = cli_json_u64(memory, "target.stuck"),
	};
	snprintf(reading->state, sizeof(reading->state), "%s",
		 cli_json_string(memory, "target.state"));
	snprintf(reading->text, sizeof(reading->text), "%s",
		 cli_json_string(memory, "target.text"));
}

/* Whether the device that has to do it can. Nothing has been asked of it yet. */
static int check_device(const struct job *job, const json_t *memory, const char *device,
			struct error *err)
{
	bool balloon = strcmp(device, "balloon") == 0;
	char path[64];

	snprintf(path, sizeof(path), "%s.broken", device);
	if (cli_json_bool(memory, path))
		return error_set(err, EIO,
				 "the %s of '%s' is out of order: its guest broke the protocol",
				 device, job->name);
	snprintf(path, sizeof(path), "%s.driver-ready", device);
	if (cli_json_bool(memory, path))
		return 0;
	return error_set(err, ENODEV,
			 "the guest of '%s' has no %s driver loaded (Linux: module %s), so %s",
			 job->name, device, balloon ? "virtio_balloon" : "virtio_mem",
			 balloon ? "its memory cannot be taken back"
				 : "it cannot be given more memory than it boots with");
}

static int check_first(struct job *job, const json_t *memory, struct error *err)
{
	uint64_t boot = cli_json_u64(memory, "memory");
	uint64_t max = cli_json_u64(memory, "target.max");
	char size[SIZE_TEXT_MAX], has[SIZE_TEXT_MAX];
	int ret = 0;

	job->boot = boot;
	if (job->size > max)
		return error_set(err, EINVAL, "%s is more than the %s that '%s' may have",
				 size_format(job->size, size, sizeof(size)),
				 size_format(max, has, sizeof(has)), job->name);
	if (job->size > boot)
		ret = check_device(job, memory, "virtio-mem", err);
	if (ret == 0 && (job->size < boot || cli_json_u64(memory, "balloon.actual") < boot))
		ret = check_device(job, memory, "balloon", err);
	return ret;
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

static void format_frames(uint64_t frames, char *buf, size_t size)
{
	char text[SIZE_TEXT_MAX];

	snprintf(buf, size, "%" PRIu64 " %s (%s)", frames, frames == 1 ? "frame" : "frames",
		 size_format(frames_to_bytes(frames), text, sizeof(text)));
}

/*
 * Frames that the guest has given up since the beginning, over both devices; below 0 it has got
 * some. A frame that is unplugged, or in the balloon completely, is in the pool. How many the VM
 * holds besides depends on what it has touched: a guest that has just booted never held most of
 * what it gives up.
 */
static int64_t frames_back(const struct job *job)
{
	return (int64_t)(job->now.ballooned + job->before.plugged) -
	       (int64_t)(job->before.ballooned + job->now.plugged);
}

/* The guest moves its memory together: what it gives up meanwhile, it gets back for a moment. */
static bool compacting(const struct reading *reading)
{
	return strcmp(reading->state, "compacting") == 0;
}

/* Which ends by itself, too: the guest gets what there is meanwhile. */
static bool pool_grows(const struct reading *reading)
{
	return strcmp(reading->state, "pool-grows") == 0;
}

/* Why it takes longer, for the line of progress. */
static const char *reason(const struct reading *reading)
{
	if (compacting(reading))
		return " (its memory is fragmented: it moves it together)";
	return pool_grows(reading) ? " (the pool grows for it)" : "";
}

static void show_progress(struct job *job)
{
	char from[SIZE_TEXT_MAX], to[SIZE_TEXT_MAX], at[SIZE_TEXT_MAX], frames[64];
	int64_t back = frames_back(job);
	uint64_t now = now_ms();

	if (!job->tty && now - job->last_line < PLAIN_LINE_MS)
		return;
	job->last_line = now;
	format_frames(back > 0 ? (uint64_t)back : (uint64_t)-back, frames, sizeof(frames));
	fprintf(stderr, "%s%s: %s -> %s: now %s, %s %s%s%s", job->tty ? "\r" : "", job->name,
		size_format(job->before.actual, from, sizeof(from)),
		size_format(job->now.target, to, sizeof(to)),
		size_format(job->now.actual, at, sizeof(at)), frames,
		back >= 0 ? "back" : "the guest's again", reason(&job->now),
		job->tty ? "\033[K" : "\n");
}

static void end_progress(const struct job *job)
{
	if (job->tty)
		fputs("\r\033[K", stderr);
}

/* Nothing will move unless the guest or its user does something first. */
static bool hopeless(const struct reading *reading)
{
	static const char *const states[] = {
		"paused",         "no-balloon-driver", "no-virtio-mem-driver",
		"balloon-broken", "virtio-mem-broken", "taxed"
	};

	for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++)
		if (strcmp(reading->state, states[i]) == 0)
			return true;
	return false;
}

/* Every page that the guest says is in the balloon was counted, and what it completed has left. */
static bool settled(const struct job *job)
{
	uint64_t has = job->boot + frames_to_bytes(job->now.plugged);

	return job->now.inflated + job->now.actual == has;
}

/*
 * Until the guest is at the target and nothing has moved for a while: its last pages are reported
 * before they have all been counted. Returns 0, or -ETIMEDOUT when nothing has moved for the
 * timeout.
 */
static int wait_until_there(struct job *job, struct error *err)
{
	uint64_t moved = now_ms();

	for (;;) {
		struct reading last = job->now;
		uint64_t still;
		int ret;

		usleep(POLL_MS * 1000);
		ret = read_memory(job, &job->now, err);
		if (ret < 0)
			return ret;
		if (job->now.actual != last.actual || job->now.inflated != last.inflated ||
		    job->now.ballooned != last.ballooned || job->now.plugged != last.plugged ||
		    compacting(&job->now) /* which ends by itself */ || pool_grows(&job->now))
			moved = now_ms();
		still = now_ms() - moved;
		if (job->now.actual == job->now.target && !compacting(&job->now) &&
		    (settled(job) || still >= SETTLE_MS))
			return 0;
		if (hopeless(&job->now) || still >= (uint64_t)options.timeout * 1000)
			return -ETIMEDOUT;
		show_progress(job);
	}
}

/* Pages in the balloon whose frames did not come back: how many, why, and what helps. */
static void report_partial(const struct job *job)
{
	uint64_t complete = frames_to_bytes(job->now.ballooned);
	char lost[SIZE_TEXT_MAX];

	if (job->now.inflated < complete + PARTIAL_MIN ||
	    job->now.inflated - complete < job->now.inflated / PARTIAL_SHARE)
		return;
	printf("%s: %s of it did not come back: the guest's memory is fragmented, and other pages "
	       "of it are in those frames%s; memory behind --mem ...,elastic=on comes back whole\n",
	       job->name,
	       size_format((job->now.inflated - complete) & FRAME_MASK, lost, sizeof(lost)),
	       job->now.rounds > job->before.rounds ? ", also after it moved its memory together"
						    : "");
}

/* Blocks that the guest cannot unplug, although it is where it shall be. */
static void report_stuck(const struct job *job)
{
	char kept[SIZE_TEXT_MAX];

	if (!job->now.stuck || job->now.actual > job->now.target)
		return;
	printf("%s: %s of hot-plug memory stay plugged: the guest cannot move what is in them; the "
	       "balloon stands in for them, and the guest is asked again\n",
	       job->name, size_format(job->now.stuck, kept, sizeof(kept)));
}

static void report(const struct job *job)
{
	const struct reading *before = &job->before, *now = &job->now;
	char from[SIZE_TEXT_MAX], to[SIZE_TEXT_MAX], frames[64];
	char held[SIZE_TEXT_MAX], held_before[SIZE_TEXT_MAX];
	int64_t back = frames_back(job);

	format_frames(back > 0 ? (uint64_t)back : (uint64_t)-back, frames, sizeof(frames));
	printf("%s: %s -> %s: %s %s, %" PRIu64 " %s partly ballooned; holds %s, before %s\n",
	       job->name, size_format(before->actual, from, sizeof(from)),
	       size_format(now->actual, to, sizeof(to)), frames,
	       back >= 0 ? "back in the pool" : "the guest's again", now->partial,
	       now->partial == 1 ? "frame" : "frames",
	       size_format(frames_to_bytes(now->held), held, sizeof(held)),
	       size_format(frames_to_bytes(before->held), held_before, sizeof(held_before)));
	report_partial(job);
	report_stuck(job);
}

static json_t *report_json(const struct job *job)
{
	return json_pack(
		"{s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:s,s:s}", "name",
		job->name, "before", (json_int_t)job->before.actual, "target",
		(json_int_t)job->now.target, "actual", (json_int_t)job->now.actual,
		"frames-held-before", (json_int_t)job->before.held, "frames-held",
		(json_int_t)job->now.held, "frames-back", (json_int_t)frames_back(job),
		"frames-ballooned-before", (json_int_t)job->before.ballooned, "frames-ballooned",
		(json_int_t)job->now.ballooned, "frames-partial", (json_int_t)job->now.partial,
		"frames-plugged-before", (json_int_t)job->before.plugged, "frames-plugged",
		(json_int_t)job->now.plugged, "compact-rounds",
		(json_int_t)(job->now.rounds - job->before.rounds), "stuck",
		(json_int_t)job->now.stuck, "state", job->now.state, "text", job->now.text);
}

static int fell_short(const struct job *job, struct error *err)
{
	char to[SIZE_TEXT_MAX], at[SIZE_TEXT_MAX];

	return error_set(err, ETIMEDOUT,
			 "'%s' stopped at %s on the way to %s: %s; the target stays set, and the "
			 "guest is asked again",
			 job->name, size_format(job->now.actual, at, sizeof(at)),
			 size_format(job->now.target, to, sizeof(to)), job->now.text);
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
	else if (!options.no_wait) /* what came back so far, too */
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
	job.client = cli_vm_connect(job.name, ANSWER_MS, err);
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
		"SIZE is what the guest shall have, up to what run's --mem allows. Memory beyond "
		"what\n"
		"it booted with is unplugged first (virtio-mem), then the balloon takes the rest; "
		"when\n"
		"the VM grows, the balloon gives back first. Each frame that is unplugged, or in "
		"the\n"
		"balloon completely, goes back to the pool at once. Waits until the guest is there "
		"and\n"
		"reports what came back; when the guest stops short, it says how far it came and "
		"why\n"
		"(with --json as its state): guest-needs-memory (out of memory in the guest),\n"
		"guest-unmovable (it cannot empty its hot-plug memory), guest-busy, guest-silent "
		"(it\n"
		"does not respond), no-balloon-driver, no-virtio-mem-driver, balloon-broken,\n"
		"virtio-mem-broken, pool-full, taxed (the pool is short), paused. While the pool "
		"grows\n"
		"for it (pool-grows) or the guest moves its memory together (compacting) the time "
		"of\n"
		"--timeout does not run.\n"
		"The target stays set and the guest is asked again: it may follow later.",
	.examples = "  framevisor balloon web 256M\n  framevisor balloon web 1G --no-wait",
	.options = table,
	.nr_options = sizeof(table) / sizeof(table[0]),
	.defaults = defaults,
	.run = run,
};
