/* SPDX-License-Identifier: MIT */
/* Text appended to a caller's buffer, with the length it would need in full (as snprintf()). */
#ifndef MM_TEXT_H
#define MM_TEXT_H

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

struct text {
	char *buf;
	size_t len;
	size_t used;
};

__attribute__((format(printf, 2, 3))) static inline void text_add(struct text *text,
								  const char *fmt, ...)
{
	size_t left = text->used < text->len ? text->len - text->used : 0;
	va_list args;
	int n;

	va_start(args, fmt);
	n = vsnprintf(left ? text->buf + text->used : NULL, left, fmt, args);
	va_end(args);
	if (n > 0)
		text->used += (size_t)n;
}

#endif
