/* SPDX-License-Identifier: MIT */
/* The VMM's end of the notice channel: see owner_channel.h. */
#include "vmm/owner_channel.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "framevisor/log.h"
#include "vmm/owner/notice_packet.h"

/* Operations that answer later; more at once are refused. */
#define LATE_MAX 64

struct owner_channel {
	struct event_loop *loop;
	const struct packet_limits *limits;
	const struct owner_channel_ops *ops;
	void *opaque;
	int fd; /* the client's, or -1 */
	struct event_source *source;
	struct event_timer *timer; /* STATUS by the clock */
	uint64_t late[LATE_MAX];   /* ids of operations under way, 0: not used */
};

static uint64_t *find_late(struct owner_channel *channel, uint64_t id)
{
	for (unsigned int i = 0; i < LATE_MAX; i++) {
		if (channel->late[i] == id)
			return &channel->late[i];
	}
	return NULL;
}

static void detach(struct owner_channel *channel)
{
	event_timer_disarm(channel->timer);
	event_source_remove(channel->source);
	channel->source = NULL;
	channel->fd = -1;
	memset(channel->late, 0, sizeof(channel->late));
}

/* An owner that does not read gets no more until it does; DONE is what it waits for, so it reads.
 */
static void send_report(struct owner_channel *channel, const void *packet, size_t len)
{
	if (channel->fd < 0)
		return;
	if (send(channel->fd, packet, len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 && errno != EAGAIN &&
	    errno != EINTR)
		detach(channel);
}

static void send_status(struct owner_channel *channel, uint64_t id)
{
	struct notice_status status = { 0 };

	channel->ops->status(channel->opaque, &status);
	status.header = (struct owner_header){ .type = NOTICE_STATUS, .length = sizeof(status) };
	status.id = id;
	send_report(channel, &status, sizeof(status));
}

static void send_done(struct owner_channel *channel, uint64_t id, int status, uint64_t frames)
{
	struct notice_done done = {
		.header = { .type = NOTICE_DONE, .length = sizeof(done), .status = status },
		.id = id,
		.nr_frames = frames,
	};

	send_report(channel, &done, sizeof(done));
}

void owner_channel_done(struct owner_channel *channel, uint64_t id, int status, uint64_t frames)
{
	uint64_t *late = find_late(channel, id);

	if (!late || id == 0)
		return;
	*late = 0;
	send_done(channel, id, status, frames);
}

void owner_channel_report(struct owner_channel *channel)
{
	if (channel)
		send_status(channel, 0);
}

static void on_timer(void *opaque)
{
	send_status(opaque, 0);
}

static void handle_ask(struct owner_channel *channel, const struct notice_ask *ask)
{
	if (ask->interval_ms)
		event_timer_arm(channel->timer, ask->interval_ms, ask->interval_ms);
	else
		event_timer_disarm(channel->timer);
	if (channel->ops->pace)
		channel->ops->pace(channel->opaque, ask);
	send_status(channel, ask->id);
}

static int call(struct owner_channel *channel, const union notice_packet *packet, uint64_t *frames)
{
	const struct owner_channel_ops *ops = channel->ops;

	switch (packet->header.type) {
	case NOTICE_RECLAIM:
		return ops->reclaim(channel->opaque, &packet->reclaim, frames);
	case NOTICE_TARGET:
		return ops->target(channel->opaque, &packet->target, frames);
	case NOTICE_MOVE:
		return ops->move(channel->opaque, &packet->move, frames);
	case NOTICE_PAUSE:
		return ops->pause(channel->opaque, &packet->pause, frames);
	case NOTICE_GROWN:
		return ops->grown ? ops->grown(channel->opaque) : 0;
	case NOTICE_RESUME:
		return ops->resume(channel->opaque, &packet->resume, frames);
	default:
		return ops->limit(channel->opaque, &packet->limit, frames);
	}
}

static void handle(struct owner_channel *channel, const union notice_packet *packet)
{
	uint64_t frames = 0, *late = find_late(channel, 0);
	int ret = -EBUSY;

	if (packet->header.type == NOTICE_ASK) {
		handle_ask(channel, &packet->ask);
		return;
	}
	if (late) {
		*late = packet->resume.id;
		ret = call(channel, packet, &frames);
	}
	if (ret == -EINPROGRESS)
		return;
	if (late)
		*late = 0;
	send_done(channel, packet->resume.id, ret, frames);
}

static void on_event(void *opaque, uint32_t events)
{
	struct owner_channel *channel = opaque;
	union notice_packet packet;
	const char *why;
	ssize_t len;

	(void)events;
	len = recv(channel->fd, &packet, sizeof(packet), MSG_DONTWAIT);
	if (len < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (len <= 0) { /* the owner ended */
		detach(channel);
		return;
	}
	if (notice_check_request(&packet, (size_t)len, channel->limits, &why) < 0) {
		log_error("the pool owner sent what makes no sense: %s", why);
		detach(channel);
		return;
	}
	handle(channel, &packet);
}

int owner_channel_attach(struct owner_channel *channel, int fd)
{
	detach(channel);
	if (fd < 0)
		return 0;
	channel->source = event_loop_add(channel->loop, fd, EPOLLIN, on_event, channel);
	if (!channel->source)
		return -errno;
	channel->fd = fd;
	return 0;
}

struct owner_channel *owner_channel_create(struct event_loop *loop,
					   const struct packet_limits *limits,
					   const struct owner_channel_ops *ops, void *opaque,
					   struct error *err)
{
	struct owner_channel *channel = calloc(1, sizeof(*channel));

	if (!channel) {
		error_set(err, ENOMEM, "out of memory");
		return NULL;
	}
	*channel = (struct owner_channel){
		.loop = loop, .limits = limits, .ops = ops, .opaque = opaque, .fd = -1
	};
	channel->timer = event_timer_create(loop, on_timer, channel);
	if (!channel->timer) {
		error_set_errno(err, errno, "cannot create a timer");
		owner_channel_destroy(channel);
		return NULL;
	}
	return channel;
}

void owner_channel_destroy(struct owner_channel *channel)
{
	if (!channel)
		return;
	event_source_remove(channel->source);
	event_timer_destroy(channel->timer);
	free(channel);
}
