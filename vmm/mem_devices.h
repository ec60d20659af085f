/* SPDX-License-Identifier: MIT */
/*
 * Memory devices that a VM's configuration lists one by one (struct vm_mem_device), each with a
 * size and a request of its own, as libvirt wants them. The target (target.h) then has the boot
 * memory alone. Beside those in use there may be spare ones: the guest has found them when it
 * booted, with nothing to plug; one of them becomes the device when memory is attached later, for
 * this machine has no PCI hot-plug.
 *
 * A guest that stands still on its way to what is requested is told again, as for a target: struct
 * target_ask.
 *
 * Threads: the loop's.
 */
#ifndef VMM_MEM_DEVICES_H
#define VMM_MEM_DEVICES_H

#include "framevisor/vm.h"
#include "vmm/target.h"

/* How the guest of one of them gets on, and when it was told again. */
struct mem_watch {
	struct target_pace pace;
	struct target_ask ask;
};

/* Checks the list and lays its regions out, one behind the other in the region for plugging, whose
 * size it sets. Before anything is created. */
int mem_devices_plan(struct vm *vm, struct error *err);
/* How much memory they may hold in all: the spare ones share one size. */
uint64_t mem_devices_room(const struct vm *vm);
/* What to create: as many as vm->nr_mem. options has room for VM_MEM_DEVICES_MAX. */
void mem_devices_options(struct vm *vm, uint64_t base, struct virtio_mem_options *options);
/* Asks the pool for what is requested at first, and the guest to plug it. 0 if there are none. */
int mem_devices_start(struct vm *vm, struct error *err);
/* Nothing is asked of the pool any more. */
void mem_devices_stop(struct vm *vm);
/* The pool has more for them than it had, or does not get it. */
void mem_devices_pool_moved(struct vm *vm);

#endif
