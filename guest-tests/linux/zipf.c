/* SPDX-License-Identifier: MIT */
/*
 * Uses memory the way Zipf's law has it: of N pieces of 2 MiB the one of rank r is used in
 * proportion to 1 / r^EXPONENT. Ranks are shuffled, so neighbours are not hot together. An access
 * takes a page of the piece, compares all of it with what must be in it, and fills it anew.
 *
 * zipf MIB EXPONENT CONTENT
 *
 * CONTENT: zero, text (English words), random, or mixed (of four pages two are text, one is random,
 * one is zero).
 *
 * SIGUSR1 prints what has been since the last one, and how much of the memory the kernel holds in
 * huge pages, so that a piece is a frame of the host:
 *
 *     guest: report ok 5120 accesses, 0 wrong, 60012 ms, longest 81234 us, 400 MiB huge
 *
 * SIGTERM ends it.
 */
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define PAGE        4096
#define PIECE       (2 << 20)
#define PIECE_PAGES (PIECE / PAGE)

enum content { ZERO, TEXT, RANDOM, MIXED, NR_CONTENTS };
static const char *const content_names[NR_CONTENTS] = { "zero", "text", "random", "mixed" };

static char *memory;
static uint32_t *versions; /* of each page: what was written to it last */
static uint32_t nr_pieces;
static double *cdf;      /* by rank */
static uint32_t *ranked; /* pieces by rank */
static enum content content;

static _Atomic uint64_t accesses, wrong, longest_ns;
static uint64_t reported_ns;

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static int make_zipf(double exponent)
{
	uint64_t state = 88172645463325252;
	double sum = 0;

	cdf = calloc(nr_pieces, sizeof(*cdf));
	ranked = calloc(nr_pieces, sizeof(*ranked));
	if (!cdf || !ranked)
		return -1;
	for (uint32_t i = 0; i < nr_pieces; i++) {
		sum += pow(i + 1, -exponent);
		cdf[i] = sum;
		ranked[i] = i;
	}
	for (uint32_t i = nr_pieces - 1; i > 0; i--) {
		uint32_t other = (uint32_t)(next_random(&state) % (i + 1)), was = ranked[i];

		ranked[i] = ranked[other];
		ranked[other] = was;
	}
	for (uint32_t i = 0; i < nr_pieces; i++)
		cdf[i] /= sum;
	return 0;
}

static uint32_t pick_piece(uint64_t *state)
{
	double at = (double)(next_random(state) >> 11) / (double)(UINT64_C(1) << 53);
	uint32_t low = 0, high = nr_pieces - 1;

	while (low < high) {
		uint32_t middle = (low + high) / 2;

		if (cdf[middle] < at)
			low = middle + 1;
		else
			high = middle;
	}
	return ranked[low];
}

static void fill_text(char *buf, uint64_t state)
{
	static const char *const words[] = {
		"the ",    "memory ", "of ",     "a ",     "guest ",  "is ",    "what ",  "it ",
		"was ",    "given ",  "and ",    "does ",  "not ",    "give ",  "back ",  "by ",
		"itself ", "frame ",  "window ", "pool ",  "because", " while", " where", " which",
		"\n",      ", ",      "swap ",   "device", "page ",   "host ",  "kernel", "time ",
	};
	size_t at = 0;

	while (at < PAGE) {
		uint64_t bits = next_random(&state);

		for (unsigned int i = 0; i < 12 && at < PAGE; i++, bits >>= 5) {
			const char *word = words[bits & 31];
			size_t length = strlen(word);

			if (length > PAGE - at)
				length = PAGE - at;
			memcpy(buf + at, word, length);
			at += length;
		}
	}
}

/* What a page must have in it after it was written for the version-th time, from 1 on. */
static void fill(char *buf, uint64_t page, uint32_t version)
{
	static const enum content mix[] = { TEXT, RANDOM, TEXT, ZERO };
	enum content kind = content == MIXED ? mix[page % 4] : content;
	uint64_t state = (page + 1) * UINT64_C(0x9e3779b97f4a7c15) + version;
	uint64_t *words = (uint64_t *)buf;

	if (kind == ZERO)
		memset(buf, 0, PAGE);
	else if (kind == TEXT)
		fill_text(buf, state);
	else
		for (unsigned int w = 0; w < PAGE / sizeof(*words); w++)
			words[w] = next_random(&state);
}

static void use_page(uint64_t page)
{
	static _Alignas(8) char expected[PAGE];
	char *at = memory + page * PAGE;

	fill(expected, page, versions[page]);
	if (memcmp(at, expected, PAGE) != 0)
		wrong++;
	fill(at, page, ++versions[page]);
}

static void *use(void *opaque)
{
	uint64_t state = 2463534242;

	(void)opaque;
	for (;;) {
		uint64_t start = now_ns(), ns;

		use_page((uint64_t)pick_piece(&state) * PIECE_PAGES +
			 next_random(&state) % PIECE_PAGES);
		ns = now_ns() - start;
		if (ns > longest_ns)
			longest_ns = ns;
		accesses++;
	}
	return NULL;
}

/* MiB of the memory in huge pages. */
static unsigned long huge_mib(void)
{
	FILE *file = fopen("/proc/self/smaps_rollup", "r");
	unsigned long kb = 0;
	char line[128];

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "AnonHugePages: %lu", &kb) == 1)
			break;
	if (file)
		fclose(file);
	return kb / 1024;
}

static void report(void)
{
	uint64_t now = now_ns();

	printf("guest: report ok %lu accesses, %lu wrong, %lu ms, longest %lu us, %lu MiB huge\n",
	       atomic_exchange(&accesses, 0), atomic_load(&wrong), (now - reported_ns) / 1000000,
	       atomic_exchange(&longest_ns, 0) / 1000, huge_mib());
	fflush(stdout);
	reported_ns = now;
}

static int start(const char *mib, const char *exponent, const char *kind)
{
	pthread_t thread;
	char *reserved;
	size_t size;

	nr_pieces = (uint32_t)(strtoul(mib, NULL, 10) / (PIECE >> 20));
	size = (size_t)nr_pieces * PIECE;
	while (content < NR_CONTENTS && strcmp(kind, content_names[content]) != 0)
		content++;
	if (nr_pieces == 0 || content == NR_CONTENTS)
		return -1;
	reserved = mmap(NULL, size + PIECE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			0);
	versions = calloc((size_t)nr_pieces * PIECE_PAGES, sizeof(*versions));
	if (reserved == MAP_FAILED || !versions || make_zipf(strtod(exponent, NULL)) < 0)
		return -1;
	memory = (char *)(((uintptr_t)reserved + PIECE - 1) / PIECE * PIECE);
	madvise(memory, size, MADV_HUGEPAGE);
	for (uint64_t page = 0; page < (uint64_t)nr_pieces * PIECE_PAGES; page++)
		fill(memory + page * PAGE, page, ++versions[page]);
	reported_ns = now_ns();
	return pthread_create(&thread, NULL, use, NULL) == 0 ? 0 : -1;
}

int main(int argc, char **argv)
{
	sigset_t signals;
	int number;

	if (argc != 4) {
		fprintf(stderr, "usage: zipf MIB EXPONENT zero|text|random|mixed\n");
		return 2;
	}
	sigemptyset(&signals);
	sigaddset(&signals, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
	if (start(argv[1], argv[2], argv[3]) < 0) {
		printf("guest: start failed: no memory, or no such content\n");
		return 1;
	}
	printf("guest: start ok\n");
	fflush(stdout);
	while (sigwait(&signals, &number) == 0)
		report();
	return 1;
}
