/* SPDX-License-Identifier: MIT */
/* Jobs of the pool owner, from the command line: asked for, watched to their end, told. */
#ifndef VMM_CLI_POOL_JOB_H
#define VMM_CLI_POOL_JOB_H

#include <stdbool.h>

#include <jansson.h>

#include "framevisor/error.h"

/*
 * Has the pool owner do command with args (stolen), shows its progress on stderr, and prints what
 * came of it, as JSON or in words. Returns the exit status; err is set on failure.
 */
int pool_job_run(const char *command, json_t *args, bool json, struct error *err);

#endif
