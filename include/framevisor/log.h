/* SPDX-License-Identifier: MIT */
/* Messages to stderr, one line each, "PROGRAM: message". Thread safe; a line is written at once. */
#ifndef FRAMEVISOR_LOG_H
#define FRAMEVISOR_LOG_H

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* The name before the colon, and the level up to which lines are printed (default: WARN). */
void log_set_program(const char *name);
void log_set_level(enum log_level level);

void log_line(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...)  log_line(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...)  log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
