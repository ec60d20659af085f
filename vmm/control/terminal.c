/* SPDX-License-Identifier: MIT */
/* The user's terminal: see terminal.h. */
#include "vmm/control/terminal.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

/* Written before raw_fd, and only once: the signal handlers read both. */
static struct termios saved_mode;
static volatile sig_atomic_t raw_fd = -1;

bool terminal_usable(int fd)
{
	return isatty(fd) && tcgetpgrp(fd) == getpgrp();
}

void terminal_restore(void)
{
	int fd = raw_fd;

	if (fd < 0)
		return;
	raw_fd = -1;
	tcsetattr(fd, TCSANOW, &saved_mode);
}

/* A crash: the terminal back, then what the signal does by default. */
static void on_fatal_signal(int signum)
{
	terminal_restore();
	signal(signum, SIG_DFL);
	raise(signum);
}

static void catch_fatal_signals(void)
{
	static const int signals[] = { SIGSEGV, SIGBUS,  SIGILL, SIGFPE,  SIGABRT, SIGQUIT,
				       SIGXCPU, SIGXFSZ, SIGINT, SIGTERM, SIGHUP };
	struct sigaction action = { .sa_handler = on_fatal_signal, .sa_flags = (int)SA_RESETHAND };

	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
		struct sigaction present;

		/* Somebody else's handler (a sanitizer's) knows more about the crash. */
		if (sigaction(signals[i], NULL, &present) == 0 && present.sa_handler == SIG_DFL)
			sigaction(signals[i], &action, NULL);
	}
}

int terminal_raw(int fd)
{
	struct termios mode;

	if (tcgetattr(fd, &saved_mode) < 0)
		return -errno;
	mode = saved_mode;
	cfmakeraw(&mode);
	mode.c_oflag |= OPOST | ONLCR;
	raw_fd = fd;
	atexit(terminal_restore);
	catch_fatal_signals();
	if (tcsetattr(fd, TCSADRAIN, &mode) < 0)
		return -errno;
	return 0;
}

static enum terminal_action action_of(uint8_t key)
{
	switch (key) {
	case 'q':
	case 'Q':
		return TERMINAL_ACTION_QUIT;
	case 'p':
	case 'P':
		return TERMINAL_ACTION_POWERDOWN;
	default:
		return TERMINAL_ACTION_HELP;
	}
}

enum terminal_action terminal_escape_filter(struct terminal_escape *escape, uint8_t *data,
					    size_t len, size_t *kept, size_t *used)
{
	*kept = 0;
	for (*used = 0; *used < len;) {
		uint8_t key = data[(*used)++];

		if (escape->pending) {
			escape->pending = false;
			if (key != TERMINAL_ESCAPE_KEY)
				return action_of(key);
			data[(*kept)++] = key;
		} else if (key == TERMINAL_ESCAPE_KEY) {
			escape->pending = true;
		} else {
			data[(*kept)++] = key;
		}
	}
	return TERMINAL_ACTION_NONE;
}
