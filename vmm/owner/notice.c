/* SPDX-License-Identifier: MIT */
/* The pool owner's end of one VM's notice channel: see notice.h. */
#include "vmm/owner/notice.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

/* A VMM that does not read costs the kernel that much at most (it doubles the number). */
#define NOTICE_BUFFER (64 * 1024)

struct pending {
	uint64_t id; /* 0: not used */
	notice_done_fn done;
	void *opaque;
};

struct notice {
	struct notice_ops ops;
	void *opaque;
	int fd;
	struct event_source *source;
	uint64_t last_id;
	struct pending pending[NOTICE_PENDING_MAX];
};

/* As many as of clients. */
struct object_cache notice_cache = OBJECT_CACHE(notice, CLIENTS_PROMISED);

static struct pending *find_pending(struct notice *notice, uint64_t id)
{
	for (unsigned int i = 0; i < NOTICE_PENDING_MAX; i++) {
		if (notice->pending[i].id == id)
			return &notice->pending[i];
	}
	return NULL;
}

/* May destroy the notice. */
static void handle_done(struct notice *notice, const struct notice_done *done)
{
	struct pending *pending = find_pending(notice, done->id);
	struct pending copy;

	if (!pending) {
		notice->ops.broken(notice->opaque, "DONE with something that was not asked");
		return;
	}
	copy = *pending;
	pending->id = 0;
	if (copy.done)
		copy.done(copy.opaque, done->header.status, done->nr_frames);
}

static void on_event(void *opaque, uint32_t events)
{
	struct notice *notice = opaque;
	union notice_packet packet;
	const char *why = "it closed its notice channel";
	ssize_t len;

	(void)events;
	/* No room for ancillary data: fds that a client sends are dropped by the kernel. */
	len = recv(notice->fd, &packet, sizeof(packet), MSG_DONTWAIT);
	if (len < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (len <= 0 || notice_check_report(&packet, (size_t)len, &why) < 0)
		notice->ops.broken(notice->opaque, len <= 0 ? NULL : why);
	else if (packet.header.type == NOTICE_DONE)
		handle_done(notice, &packet.done);
	else
		notice->ops.status(notice->opaque, &packet.status);
}

struct notice *notice_create(struct event_loop *loop, const struct notice_ops *ops, void *opaque,
			     int *peer_fd, struct error *err)
{
	struct notice *notice = object_zalloc(&notice_cache);
	const int size = NOTICE_BUFFER;
	int fds[2];

	if (!notice) {
		error_set(err, ENOMEM, "no memory for a notice channel");
		return NULL;
	}
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0) {
		error_set_errno(err, errno, "cannot create a notice channel");
		object_free(&notice_cache, notice);
		return NULL;
	}
	setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	setsockopt(fds[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	notice->ops = *ops;
	notice->opaque = opaque;
	notice->fd = fds[0];
	notice->source = event_loop_add(loop, fds[0], EPOLLIN, on_event, notice);
	if (!notice->source) {
		error_set_errno(err, errno, "cannot watch a notice channel");
		close(fds[0]);
		close(fds[1]);
		object_free(&notice_cache, notice);
		return NULL;
	}
	*peer_fd = fds[1];
	return notice;
}

void notice_destroy(struct notice *notice)
{
	if (!notice)
		return;
	event_source_remove(notice->source);
	close(notice->fd);
	for (unsigned int i = 0; i < NOTICE_PENDING_MAX; i++) {
		struct pending *pending = &notice->pending[i];

		if (pending->id && pending->done)
			pending->done(pending->opaque, -EPIPE, 0);
	}
	object_free(&notice_cache, notice);
}

int notice_send(struct notice *notice, union notice_packet *packet, enum notice_type type,
		size_t len, notice_done_fn done, void *opaque)
{
	bool answered = type != NOTICE_ASK;
	struct pending *pending = answered ? find_pending(notice, 0) : NULL;

	if (answered && !pending)
		return -EBUSY;
	packet->header = (struct owner_header){ .type = type, .length = (uint32_t)len };
	packet->resume.id = ++notice->last_id;
	if (send(notice->fd, packet, len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		return errno == EAGAIN || errno == ENOBUFS || errno == EINTR ? -EAGAIN : -EPIPE;
	if (answered)
		*pending =
			(struct pending){ .id = packet->resume.id, .done = done, .opaque = opaque };
	return 0;
}

unsigned int notice_pending(const struct notice *notice)
{
	unsigned int nr = 0;

	for (unsigned int i = 0; i < NOTICE_PENDING_MAX; i++)
		nr += notice->pending[i].id != 0;
	return nr;
}
