/* SPDX-License-Identifier: MIT */
/* What the parts of "framevisor run" share: the request, the process of the VM, its signals, and
 * the way into the background. */
#ifndef VMM_CLI_RUN_H
#define VMM_CLI_RUN_H

#include <stdbool.h>

#include "framevisor/error.h"
#include "framevisor/vm.h"

struct run_request {
	struct vm_config config;
	const char *console; /* "stdio", "none" or a file's path */
	const char *log;     /* where a detached VM's messages go; NULL: RUNDIR/vm/NAME/log */
	bool detach;
};

/*
 * Is the VM until it ends. Returns the exit status; err is set if the VM could not be started or
 * broke. up (may be NULL) is called once, when it runs: in the background, that is when the
 * starting process is told; an error from it ends the VM.
 */
int run_vm(const struct run_request *request, int (*up)(void *opaque, struct error *err),
	   void *opaque, struct error *err);

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
