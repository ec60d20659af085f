/* SPDX-License-Identifier: MIT */
/* A VMM's connection to the pool owner: see framevisor/owner_client.h. */
#include "framevisor/owner_client.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "framevisor/frame.h"
#include "framevisor/rundir.h"
#include "vmm/owner/fill_progress.h"
#include "vmm/owner/owner_start.h"
#include "vmm/owner/packet.h"

/* An owner that is ending takes connections for a moment that it will not answer. */
#define CONNECT_TRIES       100
#define CONNECT_INTERVAL_US 20000
#define STARTS_MAX          3

#define FDS_MAX (OWNER_NODES_MAX + 2)

struct owner_client {
	pthread_mutex_t lock; /* over the conversation on fd */
	int fd;
	uint64_t limit; /* frames that this VM may hold */
	bool broken;    /* the owner ended, or said something that makes no sense */
	bool hugetlb;
	bool moved; /* node_fd[] are where the sandbox wants them, and stay until the end */
	int uffd;
	int notice_fd;
	struct packet_limits limits;
	int node_fd[OWNER_NODES_MAX];
	uint16_t host_node[OWNER_NODES_MAX];
};

static int send_packet(int fd, const void *packet, size_t len)
{
	ssize_t sent;

	do {
		sent = send(fd, packet, len, MSG_NOSIGNAL);
	} while (sent < 0 && errno == EINTR);
	if (sent < 0)
		return errno == ECONNRESET ? -EPIPE : -errno;
	return 0;
}

/* Receives a packet and the fds with it. Returns its length, or -EPIPE when the owner is gone. */
static ssize_t receive_packet(int fd, union owner_packet *packet, int *fds, unsigned int *nr_fds)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(FDS_MAX * sizeof(int))];
	} control;
	struct iovec iov = { .iov_base = packet, .iov_len = sizeof(*packet) };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = fds ? &control : NULL,
			      .msg_controllen = fds ? sizeof(control) : 0 };
	ssize_t len;

	do {
		len = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
	} while (len < 0 && errno == EINTR);
	if (len == 0 || (len < 0 && errno == ECONNRESET))
		return -EPIPE;
	if (len < 0)
		return -errno;
	if (!fds)
		return len;
	*nr_fds = 0;
	for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg); cmsg; cmsg = CMSG_NXTHDR(&msg, cmsg)) {
		if (cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS)
			continue;
		*nr_fds = (unsigned int)((cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(fds, CMSG_DATA(cmsg), *nr_fds * sizeof(int));
	}
	return len;
}

static void fill_header(struct owner_header *header, enum owner_message_type type, size_t len)
{
	*header = (struct owner_header){ .type = type, .length = (uint32_t)len };
}

static int fill_runs(struct owner_runs *msg, enum owner_message_type type,
		     const struct frame_run *runs, unsigned int nr_runs)
{
	size_t len = packet_runs_length(nr_runs);
	uint64_t sum = 0;

	memset(msg, 0, offsetof(struct owner_runs, runs));
	fill_header(&msg->header, type, len);
	if (nr_runs)
		memcpy(msg->runs, runs, nr_runs * sizeof(*runs));
	for (unsigned int i = 0; i < nr_runs; i++)
		sum += runs[i].nr;
	if (sum > UINT32_MAX)
		return -EINVAL;
	msg->nr_runs = nr_runs;
	msg->nr_frames = (uint32_t)sum;
	return 0;
}

/* One request and its reply. Returns the reply's status, -EPIPE or -EPROTO. */
static int transact(struct owner_client *client, const void *request, size_t len,
		    union owner_packet *reply, enum owner_message_type type)
{
	const char *why;
	ssize_t got = -EPIPE;
	int ret = -EPIPE;

	pthread_mutex_lock(&client->lock);
	if (!client->broken) {
		ret = send_packet(client->fd, request, len);
		got = ret < 0 ? ret : receive_packet(client->fd, reply, NULL, NULL);
		ret = got < 0 ? (int)got
			      : packet_check_reply(reply, (size_t)got, type, &client->limits, &why);
		client->broken = ret < 0;
	}
	pthread_mutex_unlock(&client->lock);
	return ret < 0 ? ret : reply->header.status;
}

/* Kernel faults are needed: KVM touches guest memory for the guest. */
static int create_uffd(void)
{
	int device, fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd >= 0)
		return fd;
	device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (device < 0)
		return -1;
	fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	close(device);
	return fd;
}

static void close_fds(const int *fds, unsigned int nr)
{
	for (unsigned int i = 0; i < nr; i++)
		close(fds[i]);
}

/* Takes what came with a WELCOME; the fds are the client's, or closed. */
static int accept_welcome(struct owner_client *client, const struct owner_welcome *welcome,
			  const int *fds, unsigned int nr_fds)
{
	bool device = (welcome->flags & OWNER_WELCOME_UFFD) != 0;
	bool notice = (welcome->flags & OWNER_WELCOME_NOTICE) != 0;

	if (nr_fds != welcome->nr_nodes + device + notice) {
		close_fds(fds, nr_fds);
		return -EPROTO;
	}
	client->hugetlb = (welcome->flags & OWNER_WELCOME_HUGETLB) != 0;
	client->limits.nr_nodes = welcome->nr_nodes;
	memcpy(client->limits.spanned, welcome->spanned, sizeof(client->limits.spanned));
	memcpy(client->host_node, welcome->host_node, sizeof(client->host_node));
	memcpy(client->node_fd, fds, welcome->nr_nodes * sizeof(int));
	if (notice)
		client->notice_fd = fds[welcome->nr_nodes];
	if (device) {
		client->uffd = ioctl(fds[nr_fds - 1], USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
		close(fds[nr_fds - 1]);
	}
	return 0;
}

/* Before WELCOME the owner may say how far the pool has grown for it. Returns as
 * receive_packet(). */
static ssize_t receive_welcome(struct owner_client *client, struct fill_progress *progress,
			       union owner_packet *reply, int *fds, unsigned int *nr_fds)
{
	const char *why;
	bool told;
	ssize_t len;

	do {
		len = receive_packet(client->fd, reply, fds, nr_fds);
		told = len >= (ssize_t)sizeof(reply->header) && *nr_fds == 0 &&
		       packet_check_reply(reply, (size_t)len, OWNER_FILLING, &client->limits,
					  &why) == 0;
		if (told)
			fill_progress_show(progress, (unsigned int)(reply->filling.done * 100 /
								    reply->filling.total));
	} while (told);
	fill_progress_end(progress);
	return len;
}

/* Returns 0, -EPIPE (quietly) when the owner went away, or an error. tell: it may be asked to say
 * how far it is, which one of an older version does not know: it goes away. */
static int say_hello(struct owner_client *client, const struct owner_client_config *config,
		     bool tell, struct error *err)
{
	struct owner_hello hello = { .version = OWNER_PROTOCOL_VERSION,
				     .ram_frames = config->ram_frames,
				     .host_nodes = config->host_nodes,
				     .min_frames = config->min_frames,
				     .max_frames = config->max_frames,
				     .shares = config->shares,
				     .oom_score_adj = config->oom_score_adj };
	union owner_packet reply;
	unsigned int nr_fds = 0;
	int fds[FDS_MAX], ret;
	const char *why = "fds do not fit";
	struct fill_progress progress;
	ssize_t len;

	fill_header(&hello.header, OWNER_HELLO, sizeof(hello));
	memcpy(hello.name, config->vm_name, strlen(config->vm_name));
	fill_progress_begin(&progress, "growing the pool", config->tell_filling);
	if (tell && fill_progress_wanted(&progress))
		hello.flags |= OWNER_HELLO_TELL_FILLING;
	if (client->uffd < 0)
		hello.flags |= OWNER_HELLO_WANT_UFFD;
	if (FRAME_SHIFT == FRAME_SHIFT_1G)
		hello.flags |= OWNER_HELLO_FRAMES_1G;
	ret = send_packet(client->fd, &hello, sizeof(hello));
	len = ret < 0 ? ret : receive_welcome(client, &progress, &reply, fds, &nr_fds);
	if (len == -EPIPE)
		return -EPIPE;
	if (len < 0)
		return error_set_errno(err, (int)-len, "cannot talk to the pool owner");
	ret = packet_check_reply(&reply, (size_t)len, OWNER_WELCOME, &client->limits, &why);
	if (ret < 0 || reply.header.status < 0)
		close_fds(fds, nr_fds);
	else
		ret = accept_welcome(client, &reply.welcome, fds, nr_fds);
	if (ret < 0)
		return error_set(err, EPROTO,
				 "the pool owner's answer makes no sense (%s); is it of another "
				 "version?",
				 why);
	if (reply.header.status < 0)
		return error_set(err, -reply.header.status, "%s", reply.welcome.message);
	return 0;
}

static int connect_or_start(struct owner_client *client, const struct owner_client_config *config,
			    struct error *err)
{
	char path[RUNDIR_PATH_MAX];
	unsigned int starts = 0;
	bool tell = true;
	int ret = rundir_path(path, true, err);

	if (ret == 0)
		ret = rundir_join(path, "pool.sock", err);
	for (int i = 0; ret == 0 && i < CONNECT_TRIES; i++) {
		struct error why = { 0 };

		client->fd = rundir_connect(path, SOCK_SEQPACKET, &why);
		if (client->fd >= 0) {
			ret = say_hello(client, config, tell, err);
			if (ret != -EPIPE)
				return ret;
			tell = false;
			close(client->fd);
			client->fd = -1;
			ret = 0;
			usleep(CONNECT_INTERVAL_US);
		} else if (why.code != ENOENT && why.code != ECONNREFUSED) {
			return error_set(err, why.code, "%s", why.message);
		} else if (starts++ < STARTS_MAX) {
			ret = config->start ? config->start(config->start_opaque, config, err)
					    : owner_start(config, err);
		} else {
			break;
		}
	}
	if (ret < 0)
		return ret;
	return error_set(err, EPIPE,
			 "the pool owner does not stay: see RUNDIR/pool.log beside '%s'", path);
}

struct owner_client *owner_client_connect(const struct owner_client_config *config,
					  struct error *err)
{
	struct owner_client *client;
	int ret = rundir_check_name(config->vm_name, err);

	if (ret < 0)
		return NULL;
	client = calloc(1, sizeof(*client));
	if (!client) {
		error_set(err, ENOMEM, "no memory for the connection to the pool owner");
		return NULL;
	}
	pthread_mutex_init(&client->lock, NULL);
	client->fd = -1;
	client->notice_fd = -1;
	client->limit = config->ram_frames;
	client->uffd = create_uffd();
	ret = connect_or_start(client, config, err);
	if (ret == 0 && config->hugepages == HUGEPAGES_REQUIRE && !client->hugetlb)
		ret = error_set(err, ENOTSUP,
				"hugepages are demanded (--hugepages=require), but the running "
				"pool is of ordinary memory; stop its VMs and its owner first");
	if (ret < 0) {
		owner_client_close(client);
		return NULL;
	}
	return client;
}

void owner_client_close(struct owner_client *client)
{
	if (!client)
		return;
	if (!client->moved)
		close_fds(client->node_fd, client->limits.nr_nodes);
	if (client->uffd >= 0)
		close(client->uffd);
	if (client->notice_fd >= 0)
		close(client->notice_fd);
	if (client->fd >= 0)
		close(client->fd);
	pthread_mutex_destroy(&client->lock);
	free(client);
}

unsigned int owner_client_nr_nodes(const struct owner_client *client)
{
	return client->limits.nr_nodes;
}

int owner_client_host_node(const struct owner_client *client, unsigned int nid)
{
	return nid < client->limits.nr_nodes ? client->host_node[nid] : -1;
}

int owner_client_node_fd(const struct owner_client *client, unsigned int nid)
{
	return nid < client->limits.nr_nodes ? client->node_fd[nid] : -1;
}

int owner_client_move_files(struct owner_client *client, int first)
{
	for (unsigned int nid = 0; nid < client->limits.nr_nodes; nid++) {
		int fd = first + (int)nid;

		if (dup3(client->node_fd[nid], fd, O_CLOEXEC) < 0)
			return -errno;
		close(client->node_fd[nid]);
		client->node_fd[nid] = fd;
	}
	client->moved = true;
	return 0;
}

bool owner_client_hugetlb(const struct owner_client *client)
{
	return client->hugetlb;
}

/* The owner answers at once; a peer that does not is none. */
#define REJOIN_TIMEOUT_MS 5000

/* One request of a conversation that is not the client's yet. */
static int ask(struct owner_client *client, int fd, const void *request, size_t len,
	       union owner_packet *reply, enum owner_message_type type, int *notice)
{
	struct pollfd pollfd = { .fd = fd, .events = POLLIN };
	unsigned int nr_fds = 0;
	int fds[FDS_MAX], ret = send_packet(fd, request, len);
	const char *why;
	ssize_t got;

	if (ret == 0 && poll(&pollfd, 1, REJOIN_TIMEOUT_MS) <= 0)
		ret = -ETIMEDOUT;
	if (ret < 0)
		return ret;
	got = receive_packet(fd, reply, fds, &nr_fds);
	if (got < 0)
		return (int)got;
	ret = packet_check_reply(reply, (size_t)got, type, &client->limits, &why);
	if (ret == 0)
		ret = reply->header.status;
	if (ret == 0 && notice && nr_fds == 1) {
		*notice = fds[0];
		return 0;
	}
	close_fds(fds, nr_fds);
	return ret == 0 && nr_fds ? -EPROTO : ret;
}

static int declare(struct owner_client *client, int fd, const struct frame_run *runs,
		   unsigned int nr_runs)
{
	union owner_packet request, reply;
	bool last = false;
	int ret = 0;

	while (ret == 0 && !last) {
		unsigned int nr = nr_runs < OWNER_RUNS_MAX ? nr_runs : OWNER_RUNS_MAX;

		last = nr == 0;
		ret = fill_runs(&request.runs, OWNER_DECLARE, runs, nr);
		if (ret == 0)
			ret = ask(client, fd, &request, request.header.length, &reply,
				  OWNER_DECLARED, NULL);
		runs += nr;
		nr_runs -= nr;
	}
	return ret;
}

static int rejoin(struct owner_client *client, int fd, const struct frame_run *runs,
		  unsigned int nr_runs, int *notice)
{
	struct owner_hello hello = { .version = OWNER_PROTOCOL_VERSION,
				     .flags = OWNER_HELLO_ADOPT,
				     .ram_frames = 1,
				     .name = "adopt" };
	union owner_packet reply;
	int ret;

	fill_header(&hello.header, OWNER_HELLO, sizeof(hello));
	ret = ask(client, fd, &hello, sizeof(hello), &reply, OWNER_WELCOME, notice);
	if (ret == 0 && !(reply.welcome.flags & OWNER_WELCOME_ADOPTED))
		ret = -EPROTO;
	return ret < 0 ? ret : declare(client, fd, runs, nr_runs);
}

int owner_client_rejoin(struct owner_client *client, int fd, const struct frame_run *runs,
			unsigned int nr_runs, struct error *err)
{
	int ret, notice = -1;

	pthread_mutex_lock(&client->lock);
	ret = rejoin(client, fd, runs, nr_runs, &notice);
	if (ret == 0) {
		close(client->fd);
		if (client->notice_fd >= 0)
			close(client->notice_fd);
		client->fd = fd;
		client->notice_fd = notice;
		client->broken = false;
	}
	pthread_mutex_unlock(&client->lock);
	if (ret == 0)
		return 0;
	close(fd);
	if (notice >= 0)
		close(notice);
	return error_set_errno(err, -ret, "the new pool owner does not take this VM over");
}

int owner_client_take_uffd(struct owner_client *client)
{
	int fd = client->uffd;

	client->uffd = -1;
	return fd;
}

int owner_client_notice_fd(const struct owner_client *client)
{
	return client->notice_fd;
}

const struct packet_limits *owner_client_limits(const struct owner_client *client)
{
	return &client->limits;
}

int owner_client_fd(const struct owner_client *client)
{
	return client->fd;
}

static int return_packet(struct owner_client *client, const struct frame_run *runs,
			 unsigned int nr_runs)
{
	union owner_packet request, reply;
	int ret = fill_runs(&request.runs, OWNER_RETURN, runs, nr_runs);

	if (ret < 0)
		return ret;
	return transact(client, &request, request.header.length, &reply, OWNER_RETURNED);
}

int owner_client_return(struct owner_client *client, const struct frame_run *runs,
			unsigned int nr_runs)
{
	while (nr_runs) {
		unsigned int nr = nr_runs < OWNER_RUNS_MAX ? nr_runs : OWNER_RUNS_MAX;
		int ret = return_packet(client, runs, nr);

		if (ret < 0)
			return ret;
		runs += nr;
		nr_runs -= nr;
	}
	return 0;
}

static int64_t grant(struct owner_client *client, struct owner_grant request, uint64_t nr,
		     struct frame_run *runs, unsigned int *nr_runs)
{
	unsigned int room = *nr_runs;
	union owner_packet reply;
	const struct owner_runs *granted = &reply.runs;
	int64_t frames = 0;
	int ret;

	if (nr == 0 || room == 0)
		return -EINVAL;
	fill_header(&request.header, OWNER_GRANT, sizeof(request));
	request.nr_frames = nr < OWNER_GRANT_MAX ? (uint32_t)nr : OWNER_GRANT_MAX;
	*nr_runs = 0;
	ret = transact(client, &request, sizeof(request), &reply, OWNER_GRANTED);
	if (ret < 0)
		return ret;
	if (granted->nr_frames == 0 || granted->nr_frames > request.nr_frames)
		return -EPROTO;
	if (granted->nr_runs < room)
		room = granted->nr_runs;
	for (unsigned int i = 0; i < room; i++) {
		runs[i] = granted->runs[i];
		frames += runs[i].nr;
	}
	*nr_runs = room;
	/* What the caller has no room for goes back at once. */
	if (room < granted->nr_runs)
		owner_client_return(client, granted->runs + room, granted->nr_runs - room);
	return frames;
}

int64_t owner_client_grant(struct owner_client *client, uint64_t nr, uint64_t nodemask,
			   struct frame_run *runs, unsigned int *nr_runs)
{
	return grant(client, (struct owner_grant){ .nodemask = nodemask }, nr, runs, nr_runs);
}

int64_t owner_client_grant_to_move(struct owner_client *client, uint64_t nr, uint64_t nodemask,
				   struct frame_run *runs, unsigned int *nr_runs)
{
	return grant(client,
		     (struct owner_grant){ .nodemask = nodemask, .flags = OWNER_GRANT_TO_MOVE }, nr,
		     runs, nr_runs);
}

static int resize(struct owner_client *client, struct owner_resize request, struct error *err)
{
	union owner_packet reply;
	int ret;

	reply.header.type = 0;
	reply.resized.message[0] = '\0';
	fill_header(&request.header, OWNER_RESIZE, sizeof(request));
	ret = transact(client, &request, sizeof(request), &reply, OWNER_RESIZED);
	if (ret == -EPIPE || ret == -EPROTO)
		return error_set_errno(err, -ret, "the pool owner does not answer");
	/* Also who is refused may have been promised a part of it before. */
	if (reply.header.type == OWNER_RESIZED) {
		pthread_mutex_lock(&client->lock);
		client->limit = reply.resized.ram_frames;
		pthread_mutex_unlock(&client->lock);
	}
	if (ret < 0 && ret != -EINPROGRESS)
		return reply.resized.message[0]
			       ? error_set(err, -ret, "%s", reply.resized.message)
			       : error_set_errno(err, -ret, "cannot ask the pool owner for more");
	return ret;
}

int owner_client_resize(struct owner_client *client, uint64_t ram_frames, struct error *err)
{
	return resize(client, (struct owner_resize){ .ram_frames = ram_frames }, err);
}

int owner_client_resize_later(struct owner_client *client, uint64_t ram_frames, struct error *err)
{
	return resize(
		client,
		(struct owner_resize){ .ram_frames = ram_frames, .flags = OWNER_RESIZE_LATER },
		err);
}

int owner_client_bind(struct owner_client *client, unsigned int nid, uint64_t frames,
		      struct error *err)
{
	struct owner_bind request = { .node = nid, .frames = frames };
	union owner_packet reply;
	int ret;

	if (nid >= client->limits.nr_nodes)
		return error_set(err, EINVAL, "the pool has no node %u", nid);
	reply.bound.message[0] = '\0';
	fill_header(&request.header, OWNER_BIND, sizeof(request));
	ret = transact(client, &request, sizeof(request), &reply, OWNER_BOUND);
	if (ret == 0)
		return 0;
	if (ret == -EPIPE || ret == -EPROTO)
		return error_set_errno(err, -ret, "the pool owner does not answer");
	return error_set(err, -ret, "%s", reply.bound.message);
}

uint64_t owner_client_limit(struct owner_client *client)
{
	uint64_t limit;

	pthread_mutex_lock(&client->lock);
	limit = client->limit;
	pthread_mutex_unlock(&client->lock);
	return limit;
}
