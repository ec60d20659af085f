/* SPDX-License-Identifier: MIT */
/* Starting the pool owner on demand, from a VMM process. */
#ifndef VMM_OWNER_OWNER_START_H
#define VMM_OWNER_OWNER_START_H

#include "framevisor/owner_client.h"

/*
 * Runs framevisord (beside this program, then in PATH) as a daemon and waits until it is ready, or
 * has found that another one is already there. What it prints on the way is passed on; why it
 * failed becomes err.
 */
int owner_start(const struct owner_client_config *config, struct error *err);

#endif
