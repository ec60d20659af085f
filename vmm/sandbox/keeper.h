/* SPDX-License-Identifier: MIT */
/*
 * The keeper: a small process beside a VM that is shut in a sandbox. It does what the VM's process
 * may not do, or should not do in its own mount namespace: start a pool owner, at the beginning and
 * when the last one died, say what the process may map of the pool (map_guard.h), and remove the
 * VM's directory at the end, also when the VM was killed. It runs no guest code; from a VM that
 * runs it takes single bytes, each of which is a wish.
 */
#ifndef VMM_SANDBOX_KEEPER_H
#define VMM_SANDBOX_KEEPER_H

#include "framevisor/error.h"
#include "framevisor/owner_client.h"
#include "vmm/sandbox/map_guard.h"

struct keeper {
	int fd; /* to the keeper, or -1 */
};

/* Starts the keeper of the VM of that name, while the process has one thread and no namespace of
 * its own. It keeps no descriptor but standard error. */
int keeper_start(struct keeper *keeper, const char *vm_name, struct error *err);
/* Has it start a pool owner and waits for that; opaque is the keeper. For owner_client_config. */
int keeper_start_owner(void *opaque, const struct owner_client_config *config, struct error *err);
/*
 * Asks it to decide what the VM's process maps of the pool: it answers whether it can. Then it
 * takes the listener of a filter that is installed by now (-1: there is none), and the call returns
 * when it listens. Once, and before the guest runs. Both return 0, or a negative errno with err
 * set.
 */
int keeper_can_guard(const struct keeper *keeper, const struct map_guard_config *config,
		     struct error *err);
int keeper_guard(const struct keeper *keeper, int listener, struct error *err);
/* From here on the VM is not to be trusted, and has no terminal to write to. */
void keeper_running(const struct keeper *keeper);
/* Asks for a pool owner like the last one. Any thread; returns at once. */
void keeper_want_owner(const struct keeper *keeper);
/* The VM has ended: waits until its directory is gone. Does nothing without a keeper. */
void keeper_finish(struct keeper *keeper);

#endif
