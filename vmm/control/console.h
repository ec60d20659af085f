/* SPDX-License-Identifier: MIT */
/*
 * The serial console between the guest's UART and whoever looks at it: the clients of
 * RUNDIR/vm/NAME/console.sock (several at a time; each first gets the last CONSOLE_RING bytes) and
 * one tap, the terminal of "framevisor run".
 *
 * Output never waits: a client that reads too slowly loses the oldest bytes. Input waits: what the
 * guest does not take stays in a small queue, and no source is read while that is full.
 */
#ifndef VMM_CONTROL_CONSOLE_H
#define VMM_CONTROL_CONSOLE_H

#include <stddef.h>
#include <stdint.h>

#include "framevisor/error.h"
#include "framevisor/event_loop.h"

#define CONSOLE_RING        (64u << 10)
#define CONSOLE_INPUT_QUEUE 4096u
#define CONSOLE_CLIENTS_MAX 16

struct console;

struct console *console_create(struct event_loop *loop, struct error *err);
/* After the loop ended and the VM is gone. */
void console_destroy(struct console *console);

/* Bytes from the guest; opaque is the console. Any thread, never blocks. */
void console_output(void *opaque, const uint8_t *data, size_t len);

/* A second receiver of all output, called in console_output()'s thread. Before the VM starts. */
void console_set_tap(struct console *console,
		     void (*tap)(void *opaque, const uint8_t *data, size_t len), void *opaque);

/* Accepts clients on a listening socket, which becomes the console's. */
int console_listen(struct console *console, int fd, struct error *err);

/* A client that is there already: a socket or a terminal, non-blocking. On success the fd is the
 * console's. */
int console_attach(struct console *console, int fd, struct error *err);

/* Where input goes: take() returns how many bytes the guest's port took. Loop's thread. */
void console_set_guest(struct console *console,
		       size_t (*take)(void *opaque, const uint8_t *data, size_t len), void *opaque);
/* The port has room again after a short count; opaque is the console. Loop's thread. */
void console_room(void *opaque);

/* Queues input and returns how many bytes found room; fewer than len: on_room (if set) will be
 * called when the queue has been emptied. Loop's thread. */
size_t console_input(struct console *console, const uint8_t *data, size_t len);
void console_set_room_handler(struct console *console, void (*on_room)(void *opaque), void *opaque);

#endif
