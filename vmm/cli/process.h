/* SPDX-License-Identifier: MIT */
/* A VM's process, held by a pidfd: the number may be given to another process, the fd may not. */
#ifndef VMM_CLI_PROCESS_H
#define VMM_CLI_PROCESS_H

#include <sys/types.h>

#include "framevisor/error.h"

/* The process of a running VM. Returns a pidfd or a negative errno with err set. */
int process_open_vm(const char *name, struct error *err);
/* The process with that number: a pidfd or a negative errno. */
int process_open(pid_t pid);
/* Returns 1 when it has ended, 0 after timeout_ms. */
int process_wait(int pidfd, int timeout_ms);
int process_signal(int pidfd, int signum);
void process_close(int pidfd);

#endif
