/* SPDX-License-Identifier: MIT */
/* Cuts a stream of bytes into JSON objects: see qmp_split.h. */
#include "vmm/control/qmp_split.h"

#include <stdlib.h>

#include "framevisor/qmp_server.h"

#define FIRST_CAPACITY 512u

void qmp_splitter_free(struct qmp_splitter *splitter)
{
	free(splitter->text);
	*splitter = (struct qmp_splitter){ 0 };
}

static bool is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* Drops the text; a buffer that one large message needed is not kept for the small ones. */
static void start_over(struct qmp_splitter *splitter)
{
	if (splitter->capacity > 16 * FIRST_CAPACITY) {
		free(splitter->text);
		splitter->text = NULL;
		splitter->capacity = 0;
	}
	splitter->len = 0;
	splitter->depth = 0;
	splitter->complete = false;
	splitter->in_string = false;
	splitter->escaped = false;
}

static enum qmp_split_result append(struct qmp_splitter *splitter, char c)
{
	if (splitter->len == QMP_INPUT_MAX)
		return QMP_SPLIT_TOO_LONG;
	if (splitter->len == splitter->capacity) {
		size_t capacity = splitter->capacity ? 2 * splitter->capacity : FIRST_CAPACITY;
		char *text = realloc(splitter->text, capacity);

		if (!text)
			return QMP_SPLIT_NO_MEMORY;
		splitter->text = text;
		splitter->capacity = capacity;
	}
	splitter->text[splitter->len++] = c;
	return QMP_SPLIT_MORE;
}

/* One byte inside quotes. A line cannot end in a string, so a forgotten quote costs the client that
 * line and not the connection. */
static enum qmp_split_result in_string(struct qmp_splitter *splitter, char c)
{
	if (c == '\n')
		return QMP_SPLIT_GARBAGE;
	if (splitter->escaped)
		splitter->escaped = false;
	else if (c == '\\')
		splitter->escaped = true;
	else if (c == '"')
		splitter->in_string = false;
	return QMP_SPLIT_MORE;
}

static enum qmp_split_result outside_string(struct qmp_splitter *splitter, char c)
{
	switch (c) {
	case '"':
		splitter->in_string = true;
		break;
	case '{':
	case '[':
		if (++splitter->depth > QMP_DEPTH_MAX)
			return QMP_SPLIT_TOO_DEEP;
		break;
	case '}':
	case ']':
		if (--splitter->depth == 0)
			return QMP_SPLIT_MESSAGE;
		break;
	default:
		break;
	}
	return QMP_SPLIT_MORE;
}

static enum qmp_split_result one_byte(struct qmp_splitter *splitter, char c)
{
	enum qmp_split_result result;

	if (splitter->skipping) {
		splitter->skipping = c != '\n';
		return QMP_SPLIT_MORE;
	}
	if (splitter->depth == 0) {
		if (is_space(c))
			return QMP_SPLIT_MORE;
		if (c != '{' && c != '[')
			return QMP_SPLIT_GARBAGE;
	}
	result = append(splitter, c);
	if (result != QMP_SPLIT_MORE)
		return result;
	return splitter->in_string ? in_string(splitter, c) : outside_string(splitter, c);
}

enum qmp_split_result qmp_split(struct qmp_splitter *splitter, const char **data, size_t *size)
{
	if (splitter->complete)
		start_over(splitter);
	while (*size) {
		char c = *(*data)++;
		enum qmp_split_result result = one_byte(splitter, c);

		(*size)--;
		if (result == QMP_SPLIT_MORE)
			continue;
		if (result == QMP_SPLIT_MESSAGE) {
			splitter->complete = true;
		} else {
			start_over(splitter);
			splitter->skipping = c != '\n';
		}
		return result;
	}
	return QMP_SPLIT_MORE;
}
