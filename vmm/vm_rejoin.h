/* SPDX-License-Identifier: MIT */
/*
 * When the pool owner ends while the VM runs, and when the next one comes. The VM goes on with the
 * frames that it has; the new owner connects to the socket that is served here. Loop's thread.
 */
#ifndef VMM_VM_REJOIN_H
#define VMM_VM_REJOIN_H

#include "framevisor/vm.h"

void vm_rejoin_destroy(struct vm *vm);

#endif
