/* SPDX-License-Identifier: MIT */
/*
 * Events in the log: one line of JSON each between the messages, for programs that read it later.
 *
 *   {"time": 1764510000.25, "event": "OOM_PAUSE", "data": {...}}
 *
 * Time is in seconds since 1970; data is what QMP's event of that name has (absent: it has none).
 */
#ifndef FRAMEVISOR_EVENT_LOG_H
#define FRAMEVISOR_EVENT_LOG_H

#include <jansson.h>

/* From now on stderr is a log that wants them. Both functions: the loop's thread only. */
void event_log_enable(void);

/* Writes the line, if they are wanted, at once, so that it does not mix with others'; not to a file
 * of more than 16 MiB. Borrows data; NULL: none. */
void event_log(const char *name, json_t *data);

#endif
