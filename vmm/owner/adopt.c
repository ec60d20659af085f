/* SPDX-License-Identifier: MIT */
/*
 * The clients of an owner that died: each keeps its frames until its process ends, whether it comes
 * back or not. The new owner connects to them, on the socket that every VM listens on for that (a
 * VM in its sandbox can accept a connection, but not make one).
 */
#include "vmm/owner/server_private.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "framevisor/log.h"
#include "framevisor/rundir.h"

/* Between two tries to reach a VM that does not accept connections, or without a file descriptor.
 */
#define AGAIN_MS 200

static void on_end(void *opaque, uint32_t events)
{
	(void)events;
	client_destroy(opaque);
}

/* The process of the entry and no other that has its number by now; -1 with errno, ESRCH only if it
 * has ended for certain. */
static int open_process(const struct ledger_client *entry)
{
	int pidfd = (int)syscall(SYS_pidfd_open, entry->pid, 0);
	int why = pidfd < 0 ? errno : 0;

	if (!ledger_client_lives(entry))
		why = ESRCH;
	else if (!why && ledger_start_time(entry->pid) == UINT64_MAX)
		why = EAGAIN; /* which one it is cannot be said */
	if (why && pidfd >= 0)
		close(pidfd);
	errno = why;
	return why ? -1 : pidfd;
}

/* Knows when the process ends. Returns 0, -ESRCH if it has ended, or another negative errno: it may
 * live, and nothing of it is anybody else's yet. */
static int watch_process(struct client *client)
{
	if (client->pid_source)
		return 0;
	if (client->pidfd < 0)
		client->pidfd = open_process(client->session.entry);
	if (client->pidfd < 0)
		return -errno;
	client->pid_source =
		event_loop_add(client->server->config.loop, client->pidfd, EPOLLIN, on_end, client);
	return client->pid_source ? 0 : -errno;
}

/* Does not wait for a VM that does not accept: -EAGAIN. */
static int connect_to(const struct client *client)
{
	char path[RUNDIR_PATH_MAX];
	socklen_t len = sizeof(struct ucred);
	struct ucred peer;
	int fd, ret = 0;

	if (rundir_vm_join(path, client->session.name, "owner.sock", NULL) < 0)
		return -ENAMETOOLONG;
	fd = rundir_connect(path, SOCK_SEQPACKET | SOCK_NONBLOCK, NULL);
	if (fd < 0)
		return fd;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
		ret = -errno;
	else if (peer.pid != client->pid)
		ret = -EPERM;
	if (ret == 0)
		return fd;
	close(fd);
	return ret;
}

static int reach(struct client *client)
{
	int fd = connect_to(client), ret;

	if (fd < 0)
		return fd;
	client->fd = fd;
	if (client_listen(client) == 0)
		return 0;
	ret = -errno;
	close(fd);
	client->fd = -1;
	return ret;
}

static bool may_work_later(int ret)
{
	return ret == -EAGAIN || ret == -EMFILE || ret == -ENFILE || ret == -ENOMEM ||
	       ret == -ENOBUFS || ret == -ENOSPC;
}

/* Its process is watched, and knows of this owner. Returns 0 when there is no more to be done, or a
 * negative errno: later. May destroy the client. */
static int take_up(struct client *client)
{
	int ret = watch_process(client);

	if (ret == -ESRCH) { /* it ended since the pool was taken over */
		client_destroy(client);
		return 0;
	}
	if (ret == 0) {
		ret = reach(client);
		if (ret < 0 && !may_work_later(ret)) {
			log_warn("VM '%s' (process %d) cannot be reached (%s): it keeps its %llu "
				 "frames until it ends",
				 client->session.name, client->pid, strerror(-ret),
				 (unsigned long long)client->session.held);
			ret = 0;
		}
	}
	if (ret == 0) {
		event_timer_destroy(client->again);
		client->again = NULL;
	}
	return ret;
}

static void on_again(void *opaque)
{
	take_up(opaque);
}

/* It keeps its frames meanwhile. */
static int try_again(struct client *client, int ret, struct error *err)
{
	log_warn("VM '%s' (process %d) cannot be reached for now (%s)", client->session.name,
		 client->pid, strerror(-ret));
	client->again = event_timer_create(client->server->config.loop, on_again, client);
	if (!client->again)
		return error_set_errno(err, errno, "cannot watch process %d", client->pid);
	event_timer_arm(client->again, AGAIN_MS, AGAIN_MS);
	return 0;
}

static int adopt(struct server *server, struct ledger_client *entry, struct error *err)
{
	struct client *client = object_zalloc(&client_cache);
	int ret;

	if (!client)
		return error_set(err, ENOMEM, "no memory for the VMs of the owner that died");
	client->server = server;
	client->fd = client->pidfd = -1;
	client->pid = entry->pid;
	session_adopt(&client->session, server->config.pool, entry);
	server_add(server, client);
	if (server->last_id < entry->id)
		server->last_id = entry->id;
	ret = take_up(client);
	return ret < 0 ? try_again(client, ret, err) : 0;
}

int server_adopt(struct server *server, struct error *err)
{
	struct ledger *ledger = pool_ledger(server->config.pool);
	unsigned int nr = 0;
	int ret = 0;

	if (!ledger || !pool_adopted(server->config.pool))
		return 0;
	for (unsigned int i = 0; ret == 0 && i < LEDGER_CLIENTS_MAX; i++) {
		struct ledger_client *entry = ledger_client(ledger, i);

		if (entry->id == 0)
			continue;
		ret = adopt(server, entry, err);
		nr++;
	}
	log_info("took over the pool of an owner that ended, with %u VMs", nr);
	return ret;
}
