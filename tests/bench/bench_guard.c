/* SPDX-License-Identifier: MIT */
/*
 * What it costs that a VM's process may map only frames of its own: mapping one and a run of them,
 * and giving frames back and getting others, in the same process before it enters its sandbox and
 * after. A real pool owner and a real keeper are at the other ends; the memory is ordinary.
 *
 * Prints "name value unit" lines, times in microseconds.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "framevisor/clock.h"
#include "framevisor/log.h"
#include "tests/bench/bench_owner.h"
#include "vmm/sandbox/sandbox.h"

#define FRAMES  64
#define SAMPLES 2000

struct bench {
	struct owner_client *client;
	struct vm_memory_span span;
	uint8_t *window;
	struct frame_run run;
	double sample[SAMPLES];
};

static void die(const char *what)
{
	fprintf(stderr, "%s\n", what);
	exit(1);
}

static double now_us(void)
{
	return (double)now_ns() / 1e3;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static void print(struct bench *b, const char *what, const char *how)
{
	qsort(b->sample, SAMPLES, sizeof(b->sample[0]), compare);
	printf("%s_%s_median %.1f us\n", what, how, b->sample[SAMPLES / 2]);
	printf("%s_%s_p99 %.1f us\n", what, how, b->sample[SAMPLES * 99 / 100]);
}

static void map(struct bench *b, uint32_t first, uint32_t nr)
{
	if (mmap(b->window, frames_to_bytes(nr), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		 owner_client_node_fd(b->client, b->run.node),
		 (off_t)frames_to_bytes(b->run.first + first)) == MAP_FAILED)
		die("mmap of a frame");
}

static void unmap(struct bench *b, uint32_t nr)
{
	if (mmap(b->window, frames_to_bytes(nr), PROT_NONE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
		die("mmap of nothing");
}

static void measure_map(struct bench *b, uint32_t nr, const char *what, const char *how)
{
	for (unsigned int i = 0; i < SAMPLES; i++) {
		double start = now_us();

		map(b, i % (FRAMES - nr + 1), nr);
		b->sample[i] = now_us() - start;
		unmap(b, nr);
	}
	print(b, what, how);
}

/* One frame that was mapped goes, and another one comes. */
static void measure_return(struct bench *b, const char *how)
{
	for (unsigned int i = 0; i < SAMPLES; i++) {
		struct frame_run one;
		unsigned int nr_runs = 1;
		double start;

		if (owner_client_grant(b->client, 1, 0, &one, &nr_runs) != 1)
			die("no frame to be had");
		if (mmap(b->window, FRAME_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
			 owner_client_node_fd(b->client, one.node),
			 (off_t)frames_to_bytes(one.first)) == MAP_FAILED)
			die("mmap of a new frame");
		unmap(b, 1);
		start = now_us();
		if (owner_client_return(b->client, &one, 1) != 0)
			die("the frame cannot be given back");
		b->sample[i] = now_us() - start;
	}
	print(b, "return", how);
}

static void measure(struct bench *b, const char *how)
{
	measure_map(b, 1, "map_1", how);
	measure_map(b, 32, "map_32", how);
	measure_return(b, how);
}

static void reserve_span(struct bench *b)
{
	uint8_t *at = mmap(NULL, 3 * VM_MEMORY_SPAN, PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint64_t head = -(uint64_t)(uintptr_t)at & (VM_MEMORY_SPAN - 1);

	if (at == MAP_FAILED)
		die("no address space");
	b->window = at + head + VM_MEMORY_SPAN;
	b->span.window = (uint64_t)(uintptr_t)b->window;
	b->span.guard = b->span.window - VM_MEMORY_SPAN;
	b->span.views = b->span.window + VM_MEMORY_SPAN / 2;
	b->span.end = b->span.window + VM_MEMORY_SPAN;
}

int main(void)
{
	static struct bench b;
	char dir[] = BENCH_RUNDIR;
	struct owner_client_config config = { .vm_name = "bench",
					      .ram_frames = FRAMES + 2,
					      .hugepages = HUGEPAGES_NEVER };
	struct sandbox_config sandbox = { .mode = SANDBOX_ON };
	struct error err = { 0 };
	unsigned int nr_runs = 1;
	struct keeper keeper;

	bench_own_rundir(dir);
	log_set_level(LOG_LEVEL_ERROR);
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (keeper_start(&keeper, "bench", &err) < 0)
		die(err.message);
	sandbox.own_mounts = sandbox_prepare(SANDBOX_ON);
	b.client = owner_client_connect(&config, &err);
	if (!b.client)
		die(err.message);
	if (owner_client_grant(b.client, FRAMES, 0, &b.run, &nr_runs) != FRAMES || nr_runs != 1)
		die("no run of frames to be had");
	reserve_span(&b);
	measure(&b, "unchecked");
	unmap(&b, FRAMES);
	sandbox.client = b.client;
	sandbox.keeper = &keeper;
	sandbox.span = b.span;
	if (sandbox_enter(&sandbox, &err) < 0)
		die(err.message);
	measure(&b, "checked");
	owner_client_close(b.client);
	return 0;
}
