/* SPDX-License-Identifier: MIT */
/*
 * What a VM's process may do beside its system calls: no privileges, no files, and, started by
 * root, a user of its own. See docs/security.md.
 */
#ifndef VMM_SANDBOX_PRIVILEGES_H
#define VMM_SANDBOX_PRIVILEGES_H

#include <stdbool.h>

#include "framevisor/error.h"

/*
 * Early, while the process has one thread: a mount namespace of its own, which all later threads
 * share. Returns whether it was given (it takes CAP_SYS_ADMIN).
 */
bool privileges_own_mounts(void);

/*
 * When all that is needed is open: an empty root directory (if own_mounts), a user and group that
 * nobody else has (if root: 0x70000000 + the process number, which no distribution gives out), no
 * capabilities, and no way to gain any by running a program. All threads. Returns 0, or a negative
 * errno with err set and the process in a state in which it must not go on.
 */
int privileges_drop(bool own_mounts, struct error *err);

#endif
