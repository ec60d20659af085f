/* SPDX-License-Identifier: MIT */
/* The serial console and its clients: see console.h. */
#include "vmm/control/console.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define SEND_SIZE       4096u
#define INPUT_RETRY_MS  10
#define ACCEPT_RETRY_MS 1000

struct console_client {
	struct console *console;
	struct console_client *next;
	struct event_source *source;
	int fd;
	bool socket;
	uint64_t position; /* in the stream of all output: the next byte to send */
	bool eof;
};

struct console {
	struct event_loop *loop;

	pthread_mutex_t lock; /* over the five below: vCPU threads write, the loop's thread reads */
	uint8_t ring[CONSOLE_RING];
	uint64_t written; /* bytes ever; ring[written % CONSOLE_RING] is the next to be written */
	unsigned int nr_clients;
	bool wake_posted;

	void (*tap)(void *opaque, const uint8_t *data, size_t len);
	void *tap_opaque;

	/* The rest belongs to the loop's thread. */
	struct console_client *clients;
	int listen_fd;
	struct event_source *listener;
	struct event_timer *accept_timer;

	uint8_t queue[CONSOLE_INPUT_QUEUE]; /* input that the guest has not taken yet */
	size_t queue_len;
	bool refused; /* some source was told to wait */
	struct event_timer *retry_timer;
	size_t (*take)(void *opaque, const uint8_t *data, size_t len);
	void *take_opaque;
	void (*on_room)(void *opaque);
	void *room_opaque;
};

/* --- output --- */

/* It is off the list. */
static void client_free(struct console_client *client)
{
	struct console *console = client->console;

	pthread_mutex_lock(&console->lock);
	console->nr_clients--;
	pthread_mutex_unlock(&console->lock);
	event_source_remove(client->source);
	close(client->fd);
	free(client);
}

/* Copies what the client has not seen yet, up to size bytes, without what the ring has lost. */
static size_t copy_unseen(struct console_client *client, uint8_t *buf, size_t size)
{
	struct console *console = client->console;
	size_t len = 0;

	pthread_mutex_lock(&console->lock);
	if (console->written - client->position > CONSOLE_RING)
		client->position = console->written - CONSOLE_RING;
	while (len < size && client->position + len < console->written) {
		buf[len] = console->ring[(client->position + len) % CONSOLE_RING];
		len++;
	}
	pthread_mutex_unlock(&console->lock);
	return len;
}

static void client_rearm(struct console_client *client, bool unsent)
{
	uint32_t events = unsent ? EPOLLOUT : 0;

	if (!client->eof && client->console->queue_len < CONSOLE_INPUT_QUEUE)
		events |= EPOLLIN;
	event_source_modify(client->source, events);
}

/* Sends what the socket takes. Returns false when the client is gone. */
static bool client_send(struct console_client *client)
{
	uint8_t buf[SEND_SIZE];
	size_t len;
	ssize_t n;

	while ((len = copy_unseen(client, buf, sizeof(buf)))) {
		n = client->socket ? send(client->fd, buf, len, MSG_NOSIGNAL | MSG_DONTWAIT)
				   : write(client->fd, buf, len);
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return false;
		if (n > 0)
			client->position += (uint64_t)n;
		if (n < (ssize_t)len)
			break;
	}
	client_rearm(client, len != 0);
	return true;
}

static void send_to_all(void *opaque)
{
	struct console *console = opaque;
	struct console_client **link = &console->clients, *client;

	pthread_mutex_lock(&console->lock);
	console->wake_posted = false;
	pthread_mutex_unlock(&console->lock);
	while ((client = *link)) {
		if (client_send(client)) {
			link = &client->next;
		} else {
			*link = client->next;
			client_free(client);
		}
	}
}

static void ring_write(struct console *console, const uint8_t *data, size_t len)
{
	for (size_t i = 0; i < len; i++)
		console->ring[console->written++ % CONSOLE_RING] = data[i];
}

void console_output(void *opaque, const uint8_t *data, size_t len)
{
	struct console *console = opaque;
	bool post;

	pthread_mutex_lock(&console->lock);
	ring_write(console, data, len);
	post = console->nr_clients && !console->wake_posted;
	console->wake_posted |= post;
	pthread_mutex_unlock(&console->lock);
	if (post && event_loop_post(console->loop, send_to_all, console) < 0) {
		pthread_mutex_lock(&console->lock);
		console->wake_posted = false;
		pthread_mutex_unlock(&console->lock);
	}
	if (console->tap)
		console->tap(console->tap_opaque, data, len);
}

void console_set_tap(struct console *console,
		     void (*tap)(void *opaque, const uint8_t *data, size_t len), void *opaque)
{
	console->tap = tap;
	console->tap_opaque = opaque;
}

/* --- input --- */

/* Tells everybody who was refused that there is room again. */
static void announce_room(struct console *console)
{
	console->refused = false;
	for (struct console_client *client = console->clients; client; client = client->next)
		client_rearm(client, true); /* EPOLLOUT once more: it sorts itself out */
	if (console->on_room)
		console->on_room(console->room_opaque);
}

static void feed_guest(struct console *console)
{
	size_t taken = 0;

	if (!console->queue_len)
		return;
	if (console->take)
		taken = console->take(console->take_opaque, console->queue, console->queue_len);
	console->queue_len -= taken;
	memmove(console->queue, console->queue + taken, console->queue_len);
	/* A guest that reads by polling makes room without telling anybody. */
	if (console->queue_len)
		event_timer_arm(console->retry_timer, INPUT_RETRY_MS, 0);
	else if (console->refused)
		announce_room(console);
}

static void on_retry(void *opaque)
{
	feed_guest(opaque);
}

void console_room(void *opaque)
{
	feed_guest(opaque);
}

size_t console_input(struct console *console, const uint8_t *data, size_t len)
{
	size_t room = CONSOLE_INPUT_QUEUE - console->queue_len;
	size_t n = len < room ? len : room;

	memcpy(console->queue + console->queue_len, data, n);
	console->queue_len += n;
	console->refused |= n < len || console->queue_len == CONSOLE_INPUT_QUEUE;
	feed_guest(console);
	return n;
}

void console_set_guest(struct console *console,
		       size_t (*take)(void *opaque, const uint8_t *data, size_t len), void *opaque)
{
	console->take = take;
	console->take_opaque = opaque;
}

void console_set_room_handler(struct console *console, void (*on_room)(void *opaque), void *opaque)
{
	console->on_room = on_room;
	console->room_opaque = opaque;
}

/* --- clients --- */

static void client_remove(struct console_client *client)
{
	struct console_client **link = &client->console->clients;

	while (*link != client)
		link = &(*link)->next;
	*link = client->next;
	client_free(client);
}

/* Reads no more than the queue has room for. Returns false when the client is gone. */
static bool client_receive(struct console_client *client)
{
	struct console *console = client->console;
	uint8_t buf[CONSOLE_INPUT_QUEUE];
	size_t room = CONSOLE_INPUT_QUEUE - console->queue_len;
	ssize_t n;

	if (!room)
		return true;
	n = client->socket ? recv(client->fd, buf, room, MSG_DONTWAIT)
			   : read(client->fd, buf, room);
	if (n > 0) {
		console_input(console, buf, (size_t)n);
	} else if (n == 0) {
		client->eof = true; /* it may still want to read: gone is who hangs up */
	} else if (errno != EAGAIN && errno != EINTR) {
		return false;
	}
	return true;
}

static void on_client(void *opaque, uint32_t events)
{
	struct console_client *client = opaque;

	bool gone = !(events & EPOLLIN) && (events & (EPOLLHUP | EPOLLERR));

	if (events & EPOLLIN)
		gone = !client_receive(client);
	if (gone || !client_send(client))
		client_remove(client);
}

static int add_client(struct console *console, int fd, bool socket)
{
	struct console_client *client;

	if (console->nr_clients >= CONSOLE_CLIENTS_MAX)
		return -EBUSY;
	client = calloc(1, sizeof(*client));
	if (!client)
		return -ENOMEM;
	client->console = console;
	client->fd = fd;
	client->socket = socket;
	client->source = event_loop_add(console->loop, fd, EPOLLIN, on_client, client);
	if (!client->source) {
		free(client);
		return -errno;
	}
	client->next = console->clients;
	console->clients = client;
	pthread_mutex_lock(&console->lock);
	console->nr_clients++;
	if (console->written > CONSOLE_RING)
		client->position = console->written - CONSOLE_RING;
	pthread_mutex_unlock(&console->lock);
	if (!client_send(client))
		client_remove(client);
	return 0;
}

static void on_accept_timer(void *opaque)
{
	struct console *console = opaque;

	event_source_modify(console->listener, EPOLLIN);
}

static void on_listener(void *opaque, uint32_t events)
{
	struct console *console = opaque;
	int fd = accept4(console->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	(void)events;
	if (fd >= 0) {
		if (add_client(console, fd, true) < 0)
			close(fd);
	} else if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
		/* Out of fds: the socket stays readable, so look away for a while. */
		event_source_modify(console->listener, 0);
		event_timer_arm(console->accept_timer, ACCEPT_RETRY_MS, 0);
	}
}

int console_attach(struct console *console, int fd, struct error *err)
{
	struct stat st;
	int ret = fstat(fd, &st) < 0 ? -errno : 0;

	if (ret == 0)
		ret = add_client(console, fd, S_ISSOCK(st.st_mode));
	return ret < 0 ? error_set_errno(err, -ret, "cannot serve the console") : 0;
}

int console_listen(struct console *console, int fd, struct error *err)
{
	console->listener = event_loop_add(console->loop, fd, EPOLLIN, on_listener, console);
	if (!console->listener)
		return error_set_errno(err, errno, "cannot serve the console");
	console->listen_fd = fd;
	return 0;
}

/* --- life --- */

struct console *console_create(struct event_loop *loop, struct error *err)
{
	struct console *console = calloc(1, sizeof(*console));

	if (!console)
		goto fail;
	console->loop = loop;
	console->listen_fd = -1;
	pthread_mutex_init(&console->lock, NULL);
	console->retry_timer = event_timer_create(loop, on_retry, console);
	console->accept_timer = event_timer_create(loop, on_accept_timer, console);
	if (!console->retry_timer || !console->accept_timer)
		goto fail;
	return console;
fail:
	error_set_errno(err, errno, "cannot create the console");
	console_destroy(console);
	return NULL;
}

void console_destroy(struct console *console)
{
	if (!console)
		return;
	send_to_all(console); /* the guest's last words */
	while (console->clients) {
		struct console_client *client = console->clients;

		console->clients = client->next;
		client_free(client);
	}
	event_source_remove(console->listener);
	if (console->listen_fd >= 0)
		close(console->listen_fd);
	event_timer_destroy(console->retry_timer);
	event_timer_destroy(console->accept_timer);
	pthread_mutex_destroy(&console->lock);
	free(console);
}
