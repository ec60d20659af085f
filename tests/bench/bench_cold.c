/* SPDX-License-Identifier: MIT */
/*
 * A guest twice as large as its frames, with accesses that follow Zipf's law: how many it makes per
 * second when the coldest frames are swapped out, and when any are (the same code but for the
 * choice). And moving memory that is written all the time: time per frame, the longest access, lost
 * writes (which there must not be). Threads stand for vCPUs; a real pool owner serves them.
 *
 * bench_cold [FRAMES [DIR]]: size of the guest (default: 256), and where it swaps (/var/tmp).
 * Prints "name value unit" lines.
 */
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "framevisor/clock.h"
#include "framevisor/event_loop.h"
#include "framevisor/log.h"
#include "framevisor/vm_memory.h"
#include "tests/bench/bench_owner.h"

#define WARM_S    4
#define MEASURE_S 8
#define MOVE_S    3
#define PAGE      4096

struct bench {
	struct event_loop *loop;
	pthread_t loop_thread;
	struct owner_client *client;
	struct vm_memory *mem;
	uint8_t *base;
	uint64_t nr_frames;
	uint64_t *sums;   /* of each page's words */
	double *cdf;      /* of ranks */
	uint32_t *ranked; /* frames by rank, shuffled */
	struct frame_run *hoard;
	unsigned int nr_hoard;
};

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static double now_s(void)
{
	return (double)now_ns() / 1e9;
}

static uint64_t next_random(uint64_t *state)
{
	*state = *state * 6364136223846793005 + 1442695040888963407;
	return *state >> 11;
}

static void *run_loop(void *loop)
{
	event_loop_run(loop);
	return NULL;
}

static void open_memory(struct bench *b, const char *swap, bool at_random)
{
	struct owner_client_config owner = { .vm_name = "bench",
					     .ram_frames = b->nr_frames,
					     .pool_bytes = frames_to_bytes(b->nr_frames + 128) };
	struct vm_memory_range range = { .gpa = 0, .size = frames_to_bytes(b->nr_frames) };
	struct vm_memory_config config = {
		.ranges = &range,
		.nr_ranges = 1,
		.swap_path = swap,
		.swap_random = at_random,
	};
	struct error err = { 0 };

	if (!b->client)
		b->client = owner_client_connect(&owner, &err);
	b->loop = event_loop_create();
	config.client = b->client;
	config.loop = b->loop;
	b->mem = b->client && b->loop ? vm_memory_create(&config, &err) : NULL;
	if (!b->mem) {
		fprintf(stderr, "%s\n", err.message);
		exit(1);
	}
	b->base = vm_memory_guest(b->mem)->regions[0].hva;
	if (pthread_create(&b->loop_thread, NULL, run_loop, b->loop) != 0)
		die("thread");
}

static void close_memory(struct bench *b)
{
	event_loop_quit(b->loop);
	pthread_join(b->loop_thread, NULL);
	vm_memory_destroy(b->mem);
	event_loop_destroy(b->loop);
}

/* Leaves the VM half of the frames that it may have. */
static void hoard(struct bench *b)
{
	uint64_t left = b->nr_frames / 2;

	b->hoard = calloc(left, sizeof(*b->hoard));
	if (!b->hoard)
		die("memory");
	while (left > 0) {
		unsigned int room = OWNER_RUNS_MAX;
		int64_t got = owner_client_grant(b->client, left, 0, &b->hoard[b->nr_hoard], &room);

		if (got < 0) {
			fprintf(stderr, "the pool has too few frames\n");
			exit(1);
		}
		b->nr_hoard += room;
		left -= (uint64_t)got;
	}
}

static void give_hoard_back(struct bench *b)
{
	owner_client_return(b->client, b->hoard, b->nr_hoard);
	free(b->hoard);
	b->nr_hoard = 0;
}

static void make_zipf(struct bench *b)
{
	uint64_t state = 1;
	double sum = 0;

	b->cdf = calloc(b->nr_frames, sizeof(*b->cdf));
	b->ranked = calloc(b->nr_frames, sizeof(*b->ranked));
	if (!b->cdf || !b->ranked)
		die("memory");
	for (uint32_t i = 0; i < b->nr_frames; i++) {
		sum += 1.0 / (i + 1);
		b->cdf[i] = sum;
		b->ranked[i] = i;
	}
	for (uint32_t i = 0; i < b->nr_frames; i++) {
		uint32_t other = (uint32_t)(next_random(&state) % b->nr_frames), was = b->ranked[i];

		b->ranked[i] = b->ranked[other];
		b->ranked[other] = was;
		b->cdf[i] /= sum;
	}
}

static uint32_t pick_frame(const struct bench *b, uint64_t *state)
{
	double at = (double)next_random(state) / (double)(UINT64_C(1) << 53);
	uint32_t low = 0, high = (uint32_t)b->nr_frames - 1;

	while (low < high) {
		uint32_t middle = (low + high) / 2;

		if (b->cdf[middle] < at)
			low = middle + 1;
		else
			high = middle;
	}
	return b->ranked[low];
}

/* Where a word is counts as well. */
static uint64_t sum_page(const uint64_t *words)
{
	uint64_t sum = 0;

	for (unsigned int w = 0; w < PAGE / 8; w++)
		sum = (sum ^ words[w]) * 0x100000001b3;
	return sum;
}

/* Half of each page is text-like, a quarter is random, the rest zero: what guests hold compresses
 * two to four times. */
static void fill(struct bench *b)
{
	uint64_t state = 7;

	for (uint64_t page = 0; page < b->nr_frames * (FRAME_SIZE / PAGE); page++) {
		uint64_t *words = (uint64_t *)(b->base + page * PAGE);

		for (unsigned int w = 0; w < PAGE / 8; w++)
			words[w] = w < 256   ? UINT64_C(0x2065687420666f20) + w % 16
				   : w < 384 ? next_random(&state)
					     : 0;
		b->sums[page] = sum_page(words);
	}
}

/* One access: a page of a frame is read and compared with its sum, and a word of it written.
 * Returns whether it was what it must be. */
static bool access_page(const struct bench *b, uint32_t frame, uint64_t *state)
{
	uint64_t page = frame * (FRAME_SIZE / PAGE) + next_random(state) % (FRAME_SIZE / PAGE);
	uint64_t *words = (uint64_t *)(b->base + page * PAGE);
	bool right = sum_page(words) == b->sums[page];

	words[500] = next_random(state);
	b->sums[page] = sum_page(words);
	return right;
}

static double run_zipf(struct bench *b, double seconds, uint64_t *swap_ins, uint64_t *wrong)
{
	struct vm_memory_stats before, after;
	uint64_t state = 3, accesses = 0;
	double start = now_s(), end;

	vm_memory_stats(b->mem, &before);
	do {
		*wrong += !access_page(b, pick_frame(b, &state), &state);
		accesses++;
		end = now_s();
	} while (end - start < seconds);
	vm_memory_stats(b->mem, &after);
	*swap_ins = after.swap_in - before.swap_in;
	return (double)accesses / (end - start);
}

static double measure_swap(struct bench *b, const char *dir, bool at_random)
{
	const char *name = at_random ? "random" : "coldest";
	struct vm_memory_stats stats;
	uint64_t swap_ins, wrong = 0;
	double rate;

	open_memory(b, dir, at_random);
	hoard(b);
	fill(b);
	run_zipf(b, WARM_S, &swap_ins, &wrong);
	rate = run_zipf(b, MEASURE_S, &swap_ins, &wrong);
	vm_memory_stats(b->mem, &stats);
	printf("zipf_%s_accesses %.0f per_second\n", name, rate);
	printf("zipf_%s_swap_ins %.1f per_1000_accesses\n", name,
	       1000.0 * (double)swap_ins / (rate * MEASURE_S));
	printf("zipf_%s_wrong %llu pages\n", name, (unsigned long long)wrong);
	if (!at_random)
		printf("swap_compression %.2f to_1\n",
		       (double)frames_to_bytes(stats.swap_out) / (double)stats.swap_out_bytes);
	give_hoard_back(b);
	close_memory(b);
	return rate;
}

struct writer {
	struct bench *b;
	atomic_bool stop;
	uint64_t *count;
	uint64_t wrong, accesses;
	double longest;
};

static void *writer_thread(void *opaque)
{
	struct writer *w = opaque;

	while (!atomic_load(&w->stop))
		for (uint64_t i = 0; i < w->b->nr_frames; i++) {
			volatile uint64_t *word =
				(uint64_t *)(w->b->base + frames_to_bytes(i) + 64);
			double start = now_s(), took;

			w->wrong += *word != w->count[i];
			*word = ++w->count[i];
			took = now_s() - start;
			if (took > w->longest)
				w->longest = took;
			w->accesses++;
		}
	return NULL;
}

static void measure_moves(struct bench *b)
{
	unsigned int nr_nodes = owner_client_nr_nodes(b->client);
	struct writer w = { .b = b, .count = calloc(b->nr_frames, 8) };
	struct vm_memory_move move = { .nr_frames = b->nr_frames };
	struct vm_memory_stats stats;
	struct error err = { 0 };
	uint64_t moved = 0;
	pthread_t thread;
	double start;

	open_memory(b, NULL, false);
	memset(b->base, 0, frames_to_bytes(b->nr_frames));
	if (!w.count || pthread_create(&thread, NULL, writer_thread, &w) != 0)
		die("thread");
	start = now_s();
	for (unsigned int node = 1; now_s() - start < MOVE_S; node++) {
		int64_t got;

		move.nodemask = nr_nodes > 1 ? UINT64_C(1) << node % nr_nodes : 0;
		got = vm_memory_move_frames(b->mem, &move, &err);
		if (got < 0) {
			fprintf(stderr, "%s\n", err.message);
			exit(1);
		}
		moved += (uint64_t)got;
	}
	printf("move_nodes %u nodes\n", nr_nodes);
	printf("move_frame %.0f us\n", (now_s() - start) * 1e6 / (double)moved);
	atomic_store(&w.stop, true);
	pthread_join(thread, NULL);
	for (uint64_t i = 0; i < b->nr_frames; i++)
		w.wrong += *(uint64_t *)(b->base + frames_to_bytes(i) + 64) != w.count[i];
	vm_memory_stats(b->mem, &stats);
	printf("move_frames %llu frames\n", (unsigned long long)moved);
	printf("move_lost_writes %llu writes\n", (unsigned long long)w.wrong);
	printf("move_longest_access %.0f us\n", w.longest * 1e6);
	printf("move_longest_out_of_reach %.0f us\n", (double)stats.migrate_max_ns / 1e3);
	free(w.count);
	close_memory(b);
}

int main(int argc, char **argv)
{
	static struct bench b;
	char dir[] = BENCH_RUNDIR;
	const char *swap = argc > 2 ? argv[2] : "/var/tmp";
	double coldest, random;

	b.nr_frames = argc > 1 ? strtoul(argv[1], NULL, 10) : 256;
	if (b.nr_frames < 16) {
		fprintf(stderr, "usage: bench_cold [FRAMES [DIR]], at least 16 frames\n");
		return 2;
	}
	b.sums = calloc(b.nr_frames * (FRAME_SIZE / PAGE), sizeof(*b.sums));
	if (!b.sums)
		die("memory");
	bench_own_rundir(dir);
	log_set_level(LOG_LEVEL_ERROR);
	make_zipf(&b);
	coldest = measure_swap(&b, swap, false);
	random = measure_swap(&b, swap, true);
	printf("zipf_coldest_to_random %.2f times\n", coldest / random);
	measure_moves(&b);
	owner_client_close(b.client);
	return 0;
}
