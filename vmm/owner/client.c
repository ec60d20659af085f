/* SPDX-License-Identifier: MIT */
/*
 * One client of the pool owner: its socket, its process.
 *
 * A frame may be given on only when nobody can write to it any more. The socket's end does not say
 * that, the process's does: the kernel has dropped its address space, and with it KVM's mapping,
 * before its pidfd becomes readable. So after the hang-up of a client that holds frames we wait for
 * that, and kill a process that lives on.
 */
#include "vmm/owner/server_private.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "framevisor/clock.h"
#include "framevisor/log.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

struct object_cache client_cache = OBJECT_CACHE(client, CLIENTS_PROMISED);

/* How long frames to move to may be held beyond the limit: many times what the most of them take,
 * so that one more is refused; and then so many times that, before the VM is cut off: one that its
 * user has stopped in between is not meant. */
#define BEYOND_MS  (FRAME_SHIFT == FRAME_SHIFT_1G ? 60000u : 10000u)
#define BEYOND_END 60

/* How long a process may live on without its connection: time to unmap and leave. */
#define GRACE_MS 1000

/*
 * The process that connected. SO_PEERPIDFD (Linux 6.5) names it without doubt; before, its pid may
 * have been reused since it connected, by a process that then has to be one of the same user.
 */
static int peer_pidfd(int fd, const struct ucred *peer)
{
	socklen_t len = sizeof(int);
	int pidfd;

	if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &len) == 0)
		return pidfd;
	return (int)syscall(SYS_pidfd_open, peer->pid, 0);
}

static void on_process_end(void *opaque, uint32_t events)
{
	struct client *client = opaque;

	(void)events;
	client_destroy(client);
}

static void on_grace(void *opaque)
{
	struct client *client = opaque;

	log_warn("VM '%s' left its pool but not its frames: killing process %d",
		 client->session.name, client->pid);
	syscall(SYS_pidfd_send_signal, client->pidfd, SIGKILL, NULL, 0);
}

static void hang_up(struct client *client)
{
	struct event_loop *loop = client->server->config.loop;
	struct notice *notice = client->notice;

	client->notice = NULL;
	notice_destroy(notice);
	event_timer_destroy(client->beyond);
	client->beyond = NULL;
	event_source_remove(client->source);
	client->source = NULL;
	close(client->fd);
	client->fd = -1;
	client->session.state = SESSION_ENDED;
	if (client->session.held == 0) {
		client_destroy(client);
		return;
	}
	if (!client->pid_source)
		client->pid_source =
			event_loop_add(loop, client->pidfd, EPOLLIN, on_process_end, client);
	client->grace = event_timer_create(loop, on_grace, client);
	if (!client->pid_source || !client->grace) {
		/* Without a way to wait its frames are lost to the others, but safe. */
		log_error("cannot watch process %d: %s", client->pid, strerror(errno));
		syscall(SYS_pidfd_send_signal, client->pidfd, SIGKILL, NULL, 0);
		return;
	}
	event_timer_arm(client->grace, GRACE_MS, 0);
}

static int send_reply(int fd, struct session_reply *reply)
{
	struct iovec iov = { .iov_base = &reply->packet, .iov_len = reply->len };
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(reply->fds))];
	} control;
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (reply->nr_fds) {
		size_t size = reply->nr_fds * sizeof(reply->fds[0]);
		struct cmsghdr *cmsg;

		memset(&control, 0, sizeof(control));
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(size);
		cmsg = CMSG_FIRSTHDR(&msg);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(size);
		memcpy(CMSG_DATA(cmsg), reply->fds, size);
	}
	/* A client has one request under way, so its buffer has room for the reply. One that
	 * sends without reading is not worth waiting for: EAGAIN ends it. */
	return sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -errno : 0;
}

/*
 * A userfaultfd belongs to the address space of whoever creates it, so one of ours would be of no
 * use to the client: it gets the device, whose owner may create its own.
 */
static int add_uffd_device(struct session_reply *reply)
{
	int fd = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

	if (fd >= 0) {
		reply->fds[reply->nr_fds++] = fd;
		reply->packet.welcome.flags |= OWNER_WELCOME_UFFD;
	}
	return fd;
}

static void on_status(void *opaque, const struct notice_status *status)
{
	struct client *client = opaque;

	client->status = *status;
	client->status_ms = now_ms();
}

/* Without its notice channel a VM cannot be told to give anything back: it has to leave. */
static void on_broken(void *opaque, const char *why)
{
	struct client *client = opaque;

	if (why)
		log_warn("VM '%s' (process %d): %s; connection ended", client->session.name,
			 client->pid, why);
	hang_up(client);
}

/* Returns the VMM's end, to be closed when it has been sent, or -1. */
static int add_notice(struct client *client, struct session_reply *reply)
{
	static const struct notice_ops ops = { .status = on_status, .broken = on_broken };
	struct error err = { 0 };
	int fd = -1;

	client->notice = notice_create(client->server->config.loop, &ops, client, &fd, &err);
	if (!client->notice) {
		log_warn("VM '%s': %s; it will not be asked to give memory back",
			 client->session.name, err.message);
		return -1;
	}
	client->session.noticed = true;
	reply->fds[reply->nr_fds++] = fd;
	reply->packet.welcome.flags |= OWNER_WELCOME_NOTICE;
	return fd;
}

void client_reply(struct client *client, enum session_result result, struct session_reply *reply,
		  const char *why)
{
	uint32_t type = reply->packet.header.type;
	bool welcome = type == OWNER_WELCOME && result == SESSION_REPLY;
	int uffd = -1, notice = -1;
	bool failed;

	/* Others change nothing but who holds frames, which the ledger has from the pool. */
	if (welcome || type == OWNER_RESIZED || type == OWNER_BOUND)
		session_note(&client->session, client->pid);
	if (welcome)
		notice = add_notice(client, reply);
	if (welcome && client->session.want_uffd)
		uffd = add_uffd_device(reply);
	failed = send_reply(client->fd, reply) < 0;
	/* It has got it, whatever becomes of us: what it gave back may be another's from now on. */
	if (!failed && reply->packet.header.type == OWNER_RETURNED)
		session_in_flight(&client->session, LEDGER_NONE, NULL);
	if (notice >= 0)
		close(notice);
	if (uffd >= 0)
		close(uffd);
	if (why)
		log_warn("VM '%s' (process %d): %s; connection ended", client->session.name,
			 client->pid, why);
	if (failed || result == SESSION_REPLY_AND_CUT)
		hang_up(client);
}

void client_tell_filling(struct client *client, uint64_t done, uint64_t total)
{
	struct session_reply told = { .len = sizeof(told.packet.filling) };

	if (client->session.state != SESSION_WAITING || client->session.committed ||
	    !client->session.tell_filling)
		return;
	told.packet.filling = (struct owner_filling){
		.header = { .type = OWNER_FILLING, .length = sizeof(told.packet.filling) },
		.done = done,
		.total = total,
	};
	/* One that does not read them does without: what is to come has room, or ends it. */
	send_reply(client->fd, &told);
}

void client_grown(struct client *client)
{
	union notice_packet packet;

	session_note(&client->session, client->pid);
	/* One that does not listen now asks again by itself after a while. */
	if (client->notice)
		notice_send(client->notice, &packet, NOTICE_GROWN, sizeof(packet.grown), NULL,
			    NULL);
}

static uint64_t beyond_ms(const struct client *client)
{
	unsigned int ms = client->server->config.move_ms;

	return ms ? ms : BEYOND_MS;
}

static bool is_beyond(const struct session *session)
{
	return session->held > session->ram_frames;
}

static void end_beyond(struct client *client)
{
	event_timer_destroy(client->beyond);
	client->beyond = NULL;
	client->session.stays_beyond = false;
}

/* A VM that moves has to be within its limit again before it gets more to move to: so each time is
 * one of few frames. One that keeps them is no VM that moves. */
static void on_beyond(void *opaque)
{
	struct client *client = opaque;
	struct session *session = &client->session;

	/* Its limit may have been raised since. */
	if (!is_beyond(session)) {
		end_beyond(client);
		return;
	}
	if (!session->stays_beyond) {
		session->stays_beyond = true;
		event_timer_arm(client->beyond, beyond_ms(client) * BEYOND_END, 0);
		return;
	}
	log_warn("VM '%s' (process %d) keeps %" PRIu64 " frames beyond its limit, to move others: "
		 "connection ended",
		 session->name, client->pid, session->held - session->ram_frames);
	hang_up(client);
}

static void watch_beyond(struct client *client, const union owner_packet *packet)
{
	struct session *session = &client->session;

	if (!is_beyond(session)) {
		end_beyond(client);
		return;
	}
	if (client->beyond || packet->header.type != OWNER_GRANT)
		return;
	client->beyond = event_timer_create(client->server->config.loop, on_beyond, client);
	if (client->beyond)
		event_timer_arm(client->beyond, beyond_ms(client), 0);
	else
		session->stays_beyond = true; /* no more of them until these have come back */
}

/* For how long it has asked in vain. One that did not ask for a while did without. */
static void note_short(struct client *client, bool got)
{
	uint64_t now = now_ms();

	if (got || now - client->short_ms > CLIENT_SHORT_MS)
		client->short_since_ms = now;
	client->short_ms = got ? 0 : now;
}

/* Before the reply is sent: that may end the client. */
static void count_traffic(struct client *client, const union owner_packet *packet,
			  const struct session_reply *reply, enum session_result result)
{
	const struct session *session = &client->session;

	if (result != SESSION_REPLY)
		return;
	/* One that has all it may have is not short of memory. */
	if (packet->header.type == OWNER_GRANT &&
	    (reply->packet.runs.nr_frames || session->held < session->ram_frames)) {
		note_short(client, reply->packet.runs.nr_frames > 0);
		server_traffic(client->server, packet->grant.nr_frames,
			       reply->packet.runs.nr_frames, 0);
	} else if (packet->header.type == OWNER_RETURN) {
		server_traffic(client->server, 0, 0, reply->packet.returned.nr_frames);
	}
}

static void handle_packet(struct client *client, const union owner_packet *packet, size_t len)
{
	struct session_reply reply;
	enum session_result result;
	const char *why = NULL;
	uint64_t missing = 0;

	result = session_handle(&client->session, packet, len, &reply, &missing, &why);
	switch (result) {
	case SESSION_REPLY:
	case SESSION_REPLY_AND_CUT:
		watch_beyond(client, packet);
		count_traffic(client, packet, &reply, result);
		if (missing)
			server_grow(client->server, client, missing);
		client_reply(client, result, &reply, why);
		break;
	case SESSION_WAIT:
		/* It has nothing to say until it is answered; only its end is of interest. */
		event_source_modify(client->source, 0);
		server_grow(client->server, client, missing);
		break;
	case SESSION_CUT:
		log_warn("process %d: %s; connection ended", client->pid, why);
		hang_up(client);
		break;
	}
}

static void on_event(void *opaque, uint32_t events)
{
	struct client *client = opaque;
	union owner_packet packet;
	ssize_t len;

	if (!(events & EPOLLIN)) {
		hang_up(client);
		return;
	}
	/* No room for ancillary data: fds that a client sends are dropped by the kernel. */
	len = recv(client->fd, &packet, sizeof(packet), MSG_DONTWAIT);
	if (len < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (len <= 0)
		hang_up(client);
	else
		handle_packet(client, &packet, (size_t)len);
}

int client_listen(struct client *client)
{
	client->source =
		event_loop_add(client->server->config.loop, client->fd, EPOLLIN, on_event, client);
	return client->source ? 0 : -1;
}

/* The socket's group and mode have said no before, where it is shared. */
static bool peer_allowed(const struct server *server, const struct ucred *peer)
{
	return server->config.shared || peer->uid == geteuid() || peer->uid == 0;
}

void client_create(struct server *server, int fd)
{
	struct client *client = object_zalloc(&client_cache);
	socklen_t len = sizeof(struct ucred);
	struct ucred peer;

	if (!client || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0 ||
	    !peer_allowed(server, &peer))
		goto fail;
	client->pid = peer.pid;
	client->pidfd = peer_pidfd(fd, &peer);
	if (client->pidfd < 0) { /* already gone, or of another pid namespace */
		log_warn("cannot watch process %d: %s; refused", peer.pid, strerror(errno));
		goto fail;
	}
	client->server = server;
	client->fd = fd;
	if (client_listen(client) < 0) {
		close(client->pidfd);
		goto fail;
	}
	if (++server->last_id == 0)
		server->last_id = 1;
	session_init(&client->session, server->config.pool, server->last_id);
	server_add(server, client);
	return;
fail:
	object_free(&client_cache, client);
	close(fd);
}

void client_forget(struct client *client)
{
	struct notice *notice = client->notice;

	client->notice = NULL;
	notice_destroy(notice);
	event_source_remove(client->source);
	event_source_remove(client->pid_source);
	event_timer_destroy(client->grace);
	event_timer_destroy(client->again);
	event_timer_destroy(client->beyond);
	if (client->fd >= 0)
		close(client->fd);
	if (client->pidfd >= 0)
		close(client->pidfd);
	session_forget(&client->session, false);
	server_remove(client->server, client);
	object_free(&client_cache, client);
}

void client_destroy(struct client *client)
{
	uint64_t nr = session_release(&client->session);

	if (nr)
		server_traffic(client->server, 0, 0, nr);
	if (nr)
		log_info("VM '%s' (process %d) ended: %" PRIu64 " frames are free again",
			 client->session.name, client->pid, nr);
	client_forget(client);
}
