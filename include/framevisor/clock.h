/* SPDX-License-Identifier: MIT */
/*
 * The one clock of everything that waits, measures or ages: CLOCK_MONOTONIC, which nobody sets. Its
 * values compare between the processes of one machine. All functions: any thread; they do not fail.
 */
#ifndef FRAMEVISOR_CLOCK_H
#define FRAMEVISOR_CLOCK_H

#include <stdint.h>
#include <time.h>

#define NS_PER_MS  UINT64_C(1000000)
#define NS_PER_SEC UINT64_C(1000000000)

static inline uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * NS_PER_SEC + (uint64_t)now.tv_nsec;
}

static inline uint64_t now_ms(void)
{
	return now_ns() / NS_PER_MS;
}

/* That long from now, for what waits until a point of time. */
static inline struct timespec deadline_after(uint64_t ns)
{
	uint64_t at = now_ns() + ns;

	return (struct timespec){ .tv_sec = (time_t)(at / NS_PER_SEC),
				  .tv_nsec = (long)(at % NS_PER_SEC) };
}

#endif
