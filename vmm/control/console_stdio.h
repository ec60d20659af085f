/* SPDX-License-Identifier: MIT */
/*
 * The console of "framevisor run" on standard input and output (or output alone into a file).
 *
 * Two threads do the blocking: one reads, at the pace at which the guest takes input; one writes.
 * So neither a full pipe nor a stopped terminal ever stops the VM. What a reader is more than
 * CONSOLE_BACKLOG bytes behind is dropped, and the gap is marked in the output.
 */
#ifndef VMM_CONTROL_CONSOLE_STDIO_H
#define VMM_CONTROL_CONSOLE_STDIO_H

#include <stdbool.h>

#include "framevisor/error.h"
#include "framevisor/event_loop.h"
#include "vmm/control/console.h"
#include "vmm/control/terminal.h"

#define CONSOLE_BACKLOG (4u << 20)

struct console_stdio_config {
	struct console *console;
	struct event_loop *loop;
	int in_fd; /* -1: no input. Both fds stay the caller's. */
	int out_fd;
	bool escape; /* in_fd is a terminal: look for the escape key */
	/* The escape key and its letter were typed. Loop's thread. */
	void (*action)(void *opaque, enum terminal_action action);
	void *opaque;
};

struct console_stdio;

/* Taps the console and starts the threads. Before the VM starts. */
struct console_stdio *console_stdio_create(const struct console_stdio_config *config,
					   struct error *err);

/*
 * After the VM is gone: waits until everything is written, but not longer than two seconds for a
 * reader that has stopped. Frees the object. The reading thread may still sit in read(): it
 * touches nothing of the caller's afterwards, and ends with the process.
 */
void console_stdio_finish(struct console_stdio *stdio);

#endif
