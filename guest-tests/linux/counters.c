/* SPDX-License-Identifier: MIT */
/*
 * Writes to memory all the time and knows what must be in it: a counter in each page, each looked
 * at and raised in turn by the thread that it belongs to. A write that was lost, or a page that is
 * not the one it was, shows at the next turn.
 *
 * counters MIB THREADS
 *
 * SIGUSR1 prints what has been since the last one: the turns over all pages by the slowest thread,
 * counters that were wrong, the longest single access, and the accesses that took more than a
 * millisecond:
 *
 *     guest: report ok 12 turns, 786432 writes, 0 wrong, longest 1234 us, 3 slow
 *
 * SIGTERM ends it.
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE        4096
#define SLOW_NS     1000000
#define MAX_THREADS 64

/* Only its thread writes to it, so nothing is lost between two of them. */
struct counter {
	char *memory;
	uint64_t nr_pages;
	_Atomic uint64_t turns, writes, wrong, slow, longest_ns;
};

static struct counter counters[MAX_THREADS];

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* Two words of the page: the counter, and which page it is. */
static void turn(struct counter *c, uint64_t done)
{
	uint64_t start = now_ns();

	for (uint64_t page = 0; page < c->nr_pages; page++) {
		volatile uint64_t *words = (volatile uint64_t *)(c->memory + page * PAGE);
		uint64_t end;

		if (words[0] != done || (done && words[1] != page))
			c->wrong++;
		words[0] = done + 1;
		words[1] = page;
		end = now_ns();
		if (end - start > c->longest_ns)
			c->longest_ns = end - start;
		c->slow += end - start > SLOW_NS;
		c->writes++;
		start = end;
	}
	c->turns++;
}

static void *count(void *opaque)
{
	struct counter *c = opaque;

	for (uint64_t done = 0;; done++)
		turn(c, done);
	return NULL;
}

static void report(unsigned int nr_threads)
{
	uint64_t turns = UINT64_MAX, writes = 0, wrong = 0, slow = 0, longest = 0;

	for (unsigned int i = 0; i < nr_threads; i++) {
		struct counter *c = &counters[i];
		uint64_t one = atomic_exchange(&c->turns, 0),
			 ns = atomic_exchange(&c->longest_ns, 0);

		turns = one < turns ? one : turns;
		longest = ns > longest ? ns : longest;
		writes += atomic_exchange(&c->writes, 0);
		wrong += atomic_load(&c->wrong); /* one that was lost stays lost */
		slow += atomic_exchange(&c->slow, 0);
	}
	printf("guest: report ok %lu turns, %lu writes, %lu wrong, longest %lu us, %lu slow\n",
	       turns, writes, wrong, longest / 1000, slow);
	fflush(stdout);
}

static int start(unsigned int nr_threads, uint64_t bytes)
{
	for (unsigned int i = 0; i < nr_threads; i++) {
		struct counter *c = &counters[i];
		pthread_t thread;

		c->nr_pages = bytes / nr_threads / PAGE;
		c->memory = mmap(NULL, c->nr_pages * PAGE, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
		if (c->memory == MAP_FAILED || pthread_create(&thread, NULL, count, c) != 0)
			return -1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	unsigned int nr_threads = argc == 3 ? (unsigned int)strtoul(argv[2], NULL, 10) : 0;
	sigset_t signals;
	int number;

	if (nr_threads < 1 || nr_threads > MAX_THREADS) {
		fprintf(stderr, "usage: counters MIB THREADS\n");
		return 2;
	}
	sigemptyset(&signals);
	sigaddset(&signals, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
	if (start(nr_threads, strtoul(argv[1], NULL, 10) << 20) < 0) {
		printf("guest: start failed: no memory or no threads\n");
		return 1;
	}
	printf("guest: start ok\n");
	fflush(stdout);
	while (sigwait(&signals, &number) == 0)
		report(nr_threads);
	return 1;
}
