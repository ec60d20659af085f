/* SPDX-License-Identifier: MIT */
/*
 * The user's terminal: raw mode that is undone however the process ends, and the escape key that
 * gets one out of a guest's console.
 */
#ifndef VMM_CONTROL_TERMINAL_H
#define VMM_CONTROL_TERMINAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Whether fd is a terminal that this process may read: not when it runs in the background. */
bool terminal_usable(int fd);

/*
 * Puts the terminal into raw mode (output processing stays on, so that messages on stderr still
 * start at the left). Undone by terminal_restore(), by exit() and by signals that end the process.
 * Once per process. Returns 0 or a negative errno.
 */
int terminal_raw(int fd);
/* Async-signal-safe; does nothing if nothing was changed. */
void terminal_restore(void);

#define TERMINAL_ESCAPE_KEY  0x1d /* Ctrl-] */
#define TERMINAL_ESCAPE_NAME "Ctrl-]"

enum terminal_action {
	TERMINAL_ACTION_NONE,
	TERMINAL_ACTION_QUIT,      /* Ctrl-] q */
	TERMINAL_ACTION_POWERDOWN, /* Ctrl-] p */
	TERMINAL_ACTION_HELP,      /* Ctrl-] and any other key */
};

/* Zero is the initial state. */
struct terminal_escape {
	bool pending;
};

/*
 * Removes escape sequences from data in place (Ctrl-] twice sends one) up to and including the
 * first action. Sets *kept to the bytes left at the start of data, *used to the bytes looked at
 * (call again with the rest), and returns the action.
 */
enum terminal_action terminal_escape_filter(struct terminal_escape *escape, uint8_t *data,
					    size_t len, size_t *kept, size_t *used);

#endif
