/* SPDX-License-Identifier: MIT */
/* Messages to stderr: see framevisor/log.h. */
#include "framevisor/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

static const char *log_program = "framevisor";
static enum log_level log_max = LOG_LEVEL_WARN;

void log_set_program(const char *name)
{
	log_program = name;
}

void log_set_level(enum log_level level)
{
	log_max = level;
}

void log_line(enum log_level level, const char *fmt, ...)
{
	char line[1024];
	va_list args;
	int len;

	if (level > log_max)
		return;
	len = snprintf(line, sizeof(line), "%s: ", log_program);
	va_start(args, fmt);
	len += vsnprintf(line + len, sizeof(line) - (size_t)len, fmt, args);
	va_end(args);
	if (len > (int)sizeof(line) - 2)
		len = (int)sizeof(line) - 2;
	line[len++] = '\n';
	/* One write per line, so that lines of several threads and processes do not mix. A full
	 * disk or closed stderr is no reason to stop a VM. */
	if (write(STDERR_FILENO, line, (size_t)len) < 0)
		return;
}
