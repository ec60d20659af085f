/* SPDX-License-Identifier: MIT */
/* Events in the log: see framevisor/event_log.h. */
#include "framevisor/event_log.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* What a guest can make happen again and again is not to fill the file system. */
#define LOG_BYTES_MAX (16 << 20)

static bool enabled;

void event_log_enable(void)
{
	enabled = true;
}

static bool log_is_full(void)
{
	struct stat st;

	return fstat(STDERR_FILENO, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > LOG_BYTES_MAX;
}

void event_log(const char *name, json_t *data)
{
	struct timespec now;
	char *text = NULL, *line;
	json_t *event;
	ssize_t written;
	int len = -1;

	if (!enabled || log_is_full())
		return;
	clock_gettime(CLOCK_REALTIME, &now);
	event = json_pack("{s:f, s:s, s:O*}", "time",
			  (double)now.tv_sec + (double)now.tv_nsec / 1e9, "event", name, "data",
			  data);
	if (event)
		text = json_dumps(event, JSON_COMPACT | JSON_REAL_PRECISION(14));
	if (text)
		len = asprintf(&line, "%s\n", text);
	free(text);
	json_decref(event);
	if (len < 0)
		return;
	/* One write, as for other lines; a log that cannot be written stops nobody. */
	written = write(STDERR_FILENO, line, (size_t)len);
	(void)written;
	free(line);
}
