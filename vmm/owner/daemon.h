/* SPDX-License-Identifier: MIT */
/* Going into the background, with the start-up still in the caller's sight. */
#ifndef VMM_OWNER_DAEMON_H
#define VMM_OWNER_DAEMON_H

#include "framevisor/error.h"

/*
 * Goes on in a child in a session of its own. The process that was started waits and exits with 0
 * when the child calls daemon_ready(), or with the child's status when it ends before. No other
 * thread may exist yet. Returns only in the child: an fd for daemon_ready(), or an error.
 */
int daemon_begin(struct error *err);

/* stdin and stdout go to /dev/null, stderr to the log file (NULL: there as well); whoever waits is
 * told. */
int daemon_ready(int fd, const char *log_path, struct error *err);

#endif
