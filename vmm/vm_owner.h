/* SPDX-License-Identifier: MIT */
/* What a VM does when the pool owner asks: the operations of vmm/owner_channel.h. Loop's thread. */
#ifndef VMM_VM_OWNER_H
#define VMM_VM_OWNER_H

#include "framevisor/error.h"

struct vm;

/* The VM's client, memory, balloon and target are there. Returns 0 or a negative errno. */
int vm_owner_create(struct vm *vm, struct error *err);
void vm_owner_destroy(struct vm *vm);
/* Another notice channel, or (-1) none. Returns 0 or a negative errno. */
int vm_owner_attach(struct vm *vm, int fd);

/* The balloon moved, or a hint session ended. */
void vm_owner_balloon_changed(struct vm *vm);
/* Somebody paused the VM or let it go on: what the owner did about it before does not count. */
void vm_owner_state_changed(struct vm *vm);

/* The pool has grown for this VM, or will not: what it was to get later is asked for again, and the
 * guest told what there is. */
void vm_owner_grown(struct vm *vm);

#endif
