/* SPDX-License-Identifier: MIT */
/* A test that cannot run here says why: the runner prints the line before the skip. */
#ifndef TESTS_UNIT_SKIP_H
#define TESTS_UNIT_SKIP_H

#include <stdio.h>

/* After cmocka.h. Does not return. */
#define skip_because(reason)          \
	do {                          \
		puts(reason);         \
		(void)fflush(stdout); \
		skip();               \
	} while (0)

#endif
