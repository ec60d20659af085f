/* SPDX-License-Identifier: MIT */
/* Jobs of a real pool owner; after owner_fixture.h. */
#ifndef TESTS_UNIT_OWNER_JOBS_H
#define TESTS_UNIT_OWNER_JOBS_H

#include "owner_fixture.h"

/* The last job's report when it is over. */
static inline json_t *wait_for_job(void)
{
	uint64_t deadline = now_ms() + 60000;

	for (;;) {
		json_t *job = fixture_qmp("query-pool-job", NULL);
		const char *state = json_string_value(json_object_get(job, "state"));

		assert_non_null(state);
		if (strcmp(state, "waiting") != 0 && strcmp(state, "running") != 0)
			return job;
		json_decref(job);
		assert_true(now_ms() < deadline);
		usleep(2000);
	}
}

/* Runs a job. Returns the frames that came or went; -1 with its message in text when it failed. */
static inline int64_t do_job(const char *command, json_t *args, char *text, size_t size)
{
	json_t *job = fixture_qmp(command, args);
	const char *message;
	int64_t done;

	assert_non_null(job);
	json_decref(job);
	job = wait_for_job();
	done = json_integer_value(json_object_get(job, "done"));
	message = json_string_value(json_object_get(job, "message"));
	if (message) {
		assert_string_equal(json_string_value(json_object_get(job, "state")), "failed");
		snprintf(text, size, "%s", message);
		done = -1;
	}
	json_decref(job);
	fixture_validate();
	return done;
}

#endif
