/* SPDX-License-Identifier: MIT */
/* Events in the log: see framevisor/event_log.h. */
#include "framevisor/event_log.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static bool enabled;

void event_log_enable(void)
{
	enabled = true;
}

void event_log(const char *name, json_t *data)
{
	struct timespec now;
	char *text = NULL;
	json_t *event;

	if (!enabled)
		return;
	clock_gettime(CLOCK_REALTIME, &now);
	event = json_pack("{s:f, s:s, s:O*}", "time",
			  (double)now.tv_sec + (double)now.tv_nsec / 1e9, "event", name, "data",
			  data);
	if (event)
		text = json_dumps(event, JSON_COMPACT | JSON_REAL_PRECISION(14));
	if (text)
		dprintf(STDERR_FILENO, "%s\n", text);
	free(text);
	json_decref(event);
}
