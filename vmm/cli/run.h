/* SPDX-License-Identifier: MIT */
/* What the parts of "framevisor run" share: the request, the process of the VM, its signals, and
 * the way into the background. */
#ifndef VMM_CLI_RUN_H
#define VMM_CLI_RUN_H

#include <stdbool.h>

#include "framevisor/error.h"
#include "framevisor/vm.h"
#include "vmm/sandbox/sandbox.h"

struct console;
struct vm_control;

/* What run_vm() has made when it connects a front. */
struct run_parts {
	struct event_loop *loop;
	struct vm *vm;
	struct vm_control *control;
	struct console *console;
};

/* Another front than a terminal, as libvirt's. */
struct run_front {
	/* Before the VM starts. */
	int (*connect)(void *opaque, const struct run_parts *parts, struct error *err);
	/* Before the VM goes, also when connect() failed or never came. */
	void (*disconnect)(void *opaque);
	/* When it is gone: nothing more comes from its console. */
	void (*finish)(void *opaque);
	void *opaque;
};

struct run_request {
	struct vm_config config;
	const struct run_front *front; /* NULL: standard input and output, by console */
	const char *console;           /* "stdio", "none" or a file's path */
	const char *log; /* where a detached VM's messages go; NULL: RUNDIR/vm/NAME/log */
	bool detach;
	enum sandbox_mode sandbox;
};

/* What a VM in the background does about its terminal. Both may be NULL. */
struct run_hooks {
	/* Called when all that can fail has been done, but the VM's process may still open files.
	 */
	int (*ready)(void *opaque, struct error *err);
	/* Called when the VM runs. */
	int (*up)(void *opaque, struct error *err);
	void *opaque;
};

/*
 * Is the VM until it ends. Returns the exit status; err is set if the VM could not be started or
 * broke. An error from one of the hooks ends the VM.
 */
int run_vm(const struct run_request *request, const struct run_hooks *hooks, struct error *err);

/* run_vm() in a new process of its own session. Returns as soon as that VM runs or has failed. */
int run_detached(const struct run_request *request, struct error *err);

/*
 * Signals that end a VM process: SIGINT, SIGTERM, SIGHUP. They are blocked in every thread and
 * taken by one thread that waits for them, because nothing in the start of a VM can be interrupted
 * half way: before the VM runs, a signal removes what the process has made in the run directory and
 * ends it; while it runs, on_signal is called in the loop's thread; afterwards it is ignored.
 */
struct run_signals;
struct run_signals *run_signals_create(void (*on_signal)(void *opaque, int signum), void *opaque,
				       struct error *err);
/* What a signal during the start has to remove. */
void run_signals_claimed(struct run_signals *signals, const char *vm_name, int claim_fd);
/* The VM runs from here on. */
void run_signals_running(struct run_signals *signals, struct event_loop *loop);
/* The VM has ended, or will not start; what comes after this is cleaning up. */
void run_signals_ending(struct run_signals *signals);

/* The status of a process that a signal ended: 128 + its number, as a shell shows it; 0 for
 * SIGTERM, the orderly request to stop. */
int run_signals_status(int signum);

#endif
