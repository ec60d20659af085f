/* SPDX-License-Identifier: MIT */
/*
 * The sandbox of a VM's process. It is entered when everything is open and before the guest's first
 * instruction; after it the process has no files, no privileges and few system calls. What it is
 * for, and what it does not keep out, is in docs/security.md.
 */
#ifndef VMM_SANDBOX_SANDBOX_H
#define VMM_SANDBOX_SANDBOX_H

#include <stdbool.h>

#include "framevisor/error.h"
#include "framevisor/owner_client.h"
#include "framevisor/vm_memory.h"
#include "vmm/sandbox/keeper.h"

enum sandbox_mode {
	SANDBOX_ON,
	SANDBOX_OFF,
};

/* Off in a build with sanitizers: their run-time libraries need more than a VM does. */
enum sandbox_mode sandbox_default(void);

/* First thing in the process of a VM, while it has one thread. Returns what sandbox_enter() needs
 * to know: whether it may have an empty root directory. */
bool sandbox_prepare(enum sandbox_mode mode);

struct sandbox_config {
	enum sandbox_mode mode;
	bool own_mounts; /* as sandbox_prepare() said */
	struct owner_client *client;
	struct vm_memory *memory; /* may be NULL: no window */
	/* Decides what is mapped of the pool, and only here. NULL, or one that cannot: any frame of
	 * the pool may be mapped. */
	const struct keeper *keeper;
	struct vm_memory_span span;
};

/* Shuts the process in. On failure it must end: it may be half way. */
int sandbox_enter(const struct sandbox_config *config, struct error *err);

#endif
