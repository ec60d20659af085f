/* SPDX-License-Identifier: MIT */
/* Benchmarks that have a pool owner of their own: it is started with the first connection. */
#ifndef TESTS_BENCH_BENCH_OWNER_H
#define TESTS_BENCH_BENCH_OWNER_H

#include <stdio.h>
#include <stdlib.h>

#include "tests/unit/owner_path.h"

#define BENCH_RUNDIR "/tmp/framevisor-bench-XXXXXX"

/* dir: an array with BENCH_RUNDIR in it; it becomes the name of the run directory. */
static inline void bench_own_rundir(char *dir)
{
	set_path();
	if (!mkdtemp(dir) || setenv("FRAMEVISOR_RUNDIR", dir, 1) < 0) {
		perror("mkdtemp");
		exit(1);
	}
}

#endif
