/* SPDX-License-Identifier: MIT */
/*
 * Cuts a stream of bytes into JSON objects. QMP frames nothing: an object ends with its closing
 * brace, and clients exist that send no line end at all. Only brackets and string quotes are
 * looked at here; whether what lies between them is JSON is the parser's business.
 */
#ifndef VMM_CONTROL_QMP_SPLIT_H
#define VMM_CONTROL_QMP_SPLIT_H

#include <stdbool.h>
#include <stddef.h>

enum qmp_split_result {
	QMP_SPLIT_MORE,     /* all input eaten, no message complete */
	QMP_SPLIT_MESSAGE,  /* text[0..len) is one; valid until the next call */
	QMP_SPLIT_GARBAGE,  /* something that cannot begin or continue an object */
	QMP_SPLIT_TOO_LONG, /* longer than QMP_INPUT_MAX */
	QMP_SPLIT_TOO_DEEP, /* nested deeper than QMP_DEPTH_MAX */
	QMP_SPLIT_NO_MEMORY,
};

/* Zero is the initial state. */
struct qmp_splitter {
	char *text;
	size_t len;
	size_t capacity;
	unsigned int depth;
	bool complete; /* text was handed out by the last call */
	bool in_string;
	bool escaped;  /* the last byte was a backslash in a string */
	bool skipping; /* until the end of the line, after bad input */
};

void qmp_splitter_free(struct qmp_splitter *splitter);

/* Eats from *data (moves *data and *size on) up to the end of a message or the first fault. After a
 * fault the rest of the line will be skipped by the following calls. */
enum qmp_split_result qmp_split(struct qmp_splitter *splitter, const char **data, size_t *size);

#endif
