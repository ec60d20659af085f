/* SPDX-License-Identifier: MIT */
/* Errors that a person will read: see framevisor/error.h. */
#include "framevisor/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void set_message(struct error *err, int errnum, const char *fmt, va_list args)
{
	err->code = errnum;
	vsnprintf(err->message, sizeof(err->message), fmt, args);
}

int error_set(struct error *err, int errnum, const char *fmt, ...)
{
	if (err && !err->code) {
		va_list args;

		va_start(args, fmt);
		set_message(err, errnum, fmt, args);
		va_end(args);
	}
	return -errnum;
}

int error_set_errno(struct error *err, int errnum, const char *fmt, ...)
{
	if (err && !err->code) {
		va_list args;
		size_t len;

		va_start(args, fmt);
		set_message(err, errnum, fmt, args);
		va_end(args);
		len = strlen(err->message);
		snprintf(err->message + len, sizeof(err->message) - len, ": %s", strerror(errnum));
	}
	return -errnum;
}

void error_clear(struct error *err)
{
	err->code = 0;
	err->message[0] = '\0';
}
