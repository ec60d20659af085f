/* SPDX-License-Identifier: MIT */
#ifndef TESTS_UNIT_SLEEP_H
#define TESTS_UNIT_SLEEP_H

#include <time.h>

static inline void sleep_ms(unsigned int ms)
{
	struct timespec ts = { .tv_sec = ms / 1000, .tv_nsec = (ms % 1000) * 1000000L };

	nanosleep(&ts, NULL);
}

#endif
