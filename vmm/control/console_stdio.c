/* SPDX-License-Identifier: MIT */
/* The console on standard input and output: see console_stdio.h. */
#include "vmm/control/console_stdio.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "framevisor/clock.h"

#define INPUT_CHUNK    1024u
#define FIRST_BACKLOG  4096u
#define FINISH_SECONDS 2

/* Freed by the last of its users: the owner and the two threads, which may outlive it in a read()
 * or write() that does not return. */
struct console_stdio {
	struct console_stdio_config config;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned int users;

	/* Output, under the lock. */
	uint8_t *backlog;
	size_t len, capacity;
	uint64_t dropped; /* bytes since the last that was kept */
	bool writing;     /* the thread has bytes in hand */
	bool out_broken;  /* nobody reads any more */
	bool finished;

	/* Input: handed over between the reading thread (in_full false) and the loop (true). */
	bool in_full;
	uint8_t chunk[INPUT_CHUNK];
	size_t chunk_len, chunk_done;
	struct terminal_escape escape;
};

static void drop(struct console_stdio *stdio)
{
	bool last;

	pthread_mutex_lock(&stdio->lock);
	last = --stdio->users == 0;
	pthread_mutex_unlock(&stdio->lock);
	if (!last)
		return;
	pthread_cond_destroy(&stdio->changed);
	pthread_mutex_destroy(&stdio->lock);
	free(stdio->backlog);
	free(stdio);
}

/* --- output --- */

/* Makes room for len more bytes. Returns false when there is none to be had. */
static bool backlog_reserve(struct console_stdio *stdio, size_t len)
{
	size_t capacity = stdio->capacity ? stdio->capacity : FIRST_BACKLOG;
	uint8_t *backlog;

	if (len > CONSOLE_BACKLOG - stdio->len)
		return false;
	while (capacity < stdio->len + len)
		capacity *= 2;
	if (capacity == stdio->capacity)
		return true;
	backlog = realloc(stdio->backlog, capacity);
	if (!backlog)
		return false;
	stdio->backlog = backlog;
	stdio->capacity = capacity;
	return true;
}

static void backlog_append(struct console_stdio *stdio, const void *data, size_t len)
{
	memcpy(stdio->backlog + stdio->len, data, len);
	stdio->len += len;
}

/* The console's tap. vCPU threads. */
static void tap(void *opaque, const uint8_t *data, size_t len)
{
	struct console_stdio *stdio = opaque;
	char gap[80];
	int gap_len = 0;

	pthread_mutex_lock(&stdio->lock);
	if (stdio->dropped)
		gap_len = snprintf(gap, sizeof(gap), "\r\n[%" PRIu64 " bytes were not read]\r\n",
				   stdio->dropped);
	if (stdio->out_broken || stdio->finished) {
		/* nobody will read it */
	} else if (!backlog_reserve(stdio, len + (size_t)gap_len)) {
		stdio->dropped += len;
	} else {
		backlog_append(stdio, gap, (size_t)gap_len);
		backlog_append(stdio, data, len);
		stdio->dropped = 0;
		pthread_cond_broadcast(&stdio->changed);
	}
	pthread_mutex_unlock(&stdio->lock);
}

static int write_all(int fd, const uint8_t *data, size_t len)
{
	while (len) {
		ssize_t n = write(fd, data, len);

		if (n >= 0) {
			data += n;
			len -= (size_t)n;
		} else if (errno == EAGAIN) {
			/* Whoever gave us this descriptor made it non-blocking. */
			struct pollfd pollfd = { .fd = fd, .events = POLLOUT };

			poll(&pollfd, 1, -1);
		} else if (errno != EINTR) {
			return -errno;
		}
	}
	return 0;
}

/* Writes out the backlog once, without the lock, which is held on entry and return. */
static void write_backlog(struct console_stdio *stdio)
{
	uint8_t *data = stdio->backlog;
	size_t len = stdio->len;
	int ret;

	stdio->backlog = NULL;
	stdio->len = 0;
	stdio->capacity = 0;
	stdio->writing = true;
	pthread_mutex_unlock(&stdio->lock);
	ret = write_all(stdio->config.out_fd, data, len);
	free(data);
	pthread_mutex_lock(&stdio->lock);
	stdio->writing = false;
	if (ret < 0)
		stdio->out_broken = true;
	pthread_cond_broadcast(&stdio->changed);
}

static void *writer(void *opaque)
{
	struct console_stdio *stdio = opaque;

	pthread_mutex_lock(&stdio->lock);
	while (!stdio->out_broken) {
		if (stdio->len)
			write_backlog(stdio);
		else if (stdio->finished)
			break;
		else
			pthread_cond_wait(&stdio->changed, &stdio->lock);
	}
	pthread_mutex_unlock(&stdio->lock);
	drop(stdio);
	return NULL;
}

/* --- input --- */

/* Passes on what is left of the chunk, escape sequences taken out. Returns false when the console
 * has no room for the rest. */
static bool deliver_chunk(struct console_stdio *stdio)
{
	while (stdio->chunk_done < stdio->chunk_len) {
		uint8_t *data = stdio->chunk + stdio->chunk_done;
		size_t len = stdio->chunk_len - stdio->chunk_done;
		size_t n = console_input(stdio->config.console, data, len);

		stdio->chunk_done += n;
		if (n < len)
			return false;
	}
	return true;
}

/* Loop's thread: a chunk has arrived, or the console has room for more of it. */
static void on_chunk(void *opaque)
{
	struct console_stdio *stdio = opaque;
	bool full;

	pthread_mutex_lock(&stdio->lock);
	full = stdio->in_full;
	pthread_mutex_unlock(&stdio->lock);
	if (!full || !deliver_chunk(stdio))
		return;
	pthread_mutex_lock(&stdio->lock);
	stdio->in_full = false;
	pthread_cond_broadcast(&stdio->changed);
	pthread_mutex_unlock(&stdio->lock);
}

/* An action on its way to the loop's thread. */
struct posted_action {
	struct console_stdio *stdio;
	enum terminal_action action;
};

static void on_action(void *opaque)
{
	struct posted_action *posted = opaque;
	struct console_stdio *stdio = posted->stdio;
	enum terminal_action action = posted->action;

	free(posted);
	stdio->config.action(stdio->config.opaque, action);
}

static void post_action(struct console_stdio *stdio, enum terminal_action action)
{
	struct posted_action *posted = malloc(sizeof(*posted));

	if (!posted)
		return;
	*posted = (struct posted_action){ .stdio = stdio, .action = action };
	pthread_mutex_lock(&stdio->lock);
	/* After the end there is no loop any more. */
	if (stdio->finished || event_loop_post(stdio->config.loop, on_action, posted) < 0)
		free(posted);
	pthread_mutex_unlock(&stdio->lock);
}

/* Gives len bytes to the loop and waits until the guest's queue has taken them. Returns false when
 * the VM is gone. */
static bool hand_over(struct console_stdio *stdio, const uint8_t *data, size_t len)
{
	bool ok;

	if (!len)
		return true;
	pthread_mutex_lock(&stdio->lock);
	if (!stdio->finished) {
		memcpy(stdio->chunk, data, len);
		stdio->chunk_len = len;
		stdio->chunk_done = 0;
		stdio->in_full = true;
		if (event_loop_post(stdio->config.loop, on_chunk, stdio) < 0)
			stdio->in_full = false;
	}
	while (stdio->in_full && !stdio->finished)
		pthread_cond_wait(&stdio->changed, &stdio->lock);
	ok = !stdio->finished;
	pthread_mutex_unlock(&stdio->lock);
	return ok;
}

static bool pass_on(struct console_stdio *stdio, uint8_t *data, size_t len)
{
	while (len) {
		size_t kept = len, used = len;
		enum terminal_action action = TERMINAL_ACTION_NONE;

		if (stdio->config.escape)
			action = terminal_escape_filter(&stdio->escape, data, len, &kept, &used);
		if (!hand_over(stdio, data, kept))
			return false;
		if (action != TERMINAL_ACTION_NONE)
			post_action(stdio, action);
		data += used;
		len -= used;
	}
	return true;
}

/* Until the end of the input; what then happens to the VM is none of its business. */
static void read_input(struct console_stdio *stdio)
{
	uint8_t data[INPUT_CHUNK];

	for (;;) {
		ssize_t n = read(stdio->config.in_fd, data, sizeof(data));

		if (n < 0 && errno == EAGAIN) {
			struct pollfd pollfd = { .fd = stdio->config.in_fd, .events = POLLIN };

			poll(&pollfd, 1, -1);
			continue;
		}
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0 || !pass_on(stdio, data, (size_t)n))
			return;
	}
}

static void *reader(void *opaque)
{
	struct console_stdio *stdio = opaque;

	read_input(stdio);
	drop(stdio);
	return NULL;
}

/* --- life --- */

static int start_thread(void *(*fn)(void *), struct console_stdio *stdio)
{
	pthread_t thread;
	int ret;

	/* Under the lock: it may end at once, and must find itself counted. */
	pthread_mutex_lock(&stdio->lock);
	ret = pthread_create(&thread, NULL, fn, stdio);
	if (ret == 0)
		stdio->users++;
	pthread_mutex_unlock(&stdio->lock);
	if (ret)
		return -ret;
	pthread_detach(thread);
	return 0;
}

struct console_stdio *console_stdio_create(const struct console_stdio_config *config,
					   struct error *err)
{
	struct console_stdio *stdio = calloc(1, sizeof(*stdio));
	pthread_condattr_t attr;
	int ret;

	if (!stdio) {
		error_set_errno(err, ENOMEM, "cannot connect the console");
		return NULL;
	}
	stdio->config = *config;
	stdio->users = 1;
	pthread_mutex_init(&stdio->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&stdio->changed, &attr);
	pthread_condattr_destroy(&attr);
	console_set_tap(config->console, tap, stdio);
	console_set_room_handler(config->console, on_chunk, stdio);
	ret = start_thread(writer, stdio);
	if (ret == 0 && config->in_fd >= 0)
		ret = start_thread(reader, stdio);
	if (ret < 0) {
		error_set_errno(err, -ret, "cannot start the console's threads");
		console_set_tap(config->console, NULL, NULL);
		console_set_room_handler(config->console, NULL, NULL);
		console_stdio_finish(stdio);
		return NULL;
	}
	return stdio;
}

void console_stdio_finish(struct console_stdio *stdio)
{
	struct timespec deadline;

	if (!stdio)
		return;
	deadline = deadline_after(FINISH_SECONDS * NS_PER_SEC);
	pthread_mutex_lock(&stdio->lock);
	stdio->finished = true;
	pthread_cond_broadcast(&stdio->changed);
	while ((stdio->len || stdio->writing) && !stdio->out_broken)
		if (pthread_cond_timedwait(&stdio->changed, &stdio->lock, &deadline) == ETIMEDOUT)
			break;
	pthread_mutex_unlock(&stdio->lock);
	drop(stdio);
}
