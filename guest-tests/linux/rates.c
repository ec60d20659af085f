/* SPDX-License-Identifier: MIT */
/*
 * What a guest's own work loses while its memory changes: two loops in turn, in slices of some
 * milliseconds. One copies an array (memory bandwidth, as STREAM does), one computes (nothing of
 * it leaves the CPU's registers). Each slice ends with a whole unit of work, so one in which the
 * CPU was away, or a page was, has a low rate.
 *
 * rates MIB SLICE_MS     MIB: both arrays together
 *
 * SIGUSR1 prints the slices since the last one, as
 *
 *     guest: rates copy 812 799 ...          MiB per second
 *     guest: rates work 3121 3078 ...        units per second
 *     guest: report ok 400 slices
 *
 * SIGTERM ends it.
 */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MIB        (1UL << 20)
#define MAX_SLICES 20000
#define PER_LINE   16
#define UNIT_LOOPS 20000

enum { COPY, WORK, NR_LOOPS };

static const char *const names[NR_LOOPS] = { "copy", "work" };
static unsigned int rates[NR_LOOPS][MAX_SLICES], nr_slices[NR_LOOPS];
static char *from, *to;
static size_t size, at;
static volatile uint64_t result; /* keeps the compiler from leaving the work out */
static volatile sig_atomic_t asked;

static void on_signal(int number)
{
	(void)number;
	asked = 1;
}

static double now_s(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void copy_unit(void)
{
	memcpy(to + at, from + at, MIB);
	at = (at + MIB) % size;
}

static void work_unit(void)
{
	uint64_t x = result;

	for (unsigned int i = 0; i < UNIT_LOOPS; i++)
		x = x * 6364136223846793005 + 1442695040888963407;
	result = x;
}

static void slice(unsigned int loop, double seconds)
{
	double start = now_s(), end;
	unsigned int units = 0;

	do {
		if (loop == COPY)
			copy_unit();
		else
			work_unit();
		units++;
		end = now_s();
	} while (end - start < seconds);
	if (nr_slices[loop] < MAX_SLICES)
		rates[loop][nr_slices[loop]++] = (unsigned int)(units / (end - start) + 0.5);
}

static void report(void)
{
	for (unsigned int loop = 0; loop < NR_LOOPS; loop++) {
		for (unsigned int i = 0; i < nr_slices[loop]; i++) {
			if (i % PER_LINE == 0)
				printf("%sguest: rates %s", i ? "\n" : "", names[loop]);
			printf(" %u", rates[loop][i]);
		}
		putchar('\n');
	}
	printf("guest: report ok %u slices\n", nr_slices[COPY]);
	fflush(stdout);
	nr_slices[COPY] = nr_slices[WORK] = 0;
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = on_signal };
	double seconds;

	if (argc != 3 || strtoul(argv[1], NULL, 10) < 2 || strtoul(argv[2], NULL, 10) < 1) {
		fprintf(stderr, "usage: rates MIB SLICE_MS\n");
		return 2;
	}
	size = strtoul(argv[1], NULL, 10) / 2 * MIB;
	seconds = (double)strtoul(argv[2], NULL, 10) / 1000;
	from = malloc(size);
	to = malloc(size);
	if (!from || !to || sigaction(SIGUSR1, &action, NULL) != 0) {
		printf("guest: start failed: no memory for the arrays\n");
		return 1;
	}
	memset(from, 1, size);
	memset(to, 2, size);
	printf("guest: start ok\n");
	fflush(stdout);
	for (;;) {
		slice(COPY, seconds);
		slice(WORK, seconds);
		if (asked) {
			asked = 0;
			report();
		}
	}
}
