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

static void on_end(void *opaque, uint32_t events)
{
	(void)events;
	client_destroy(opaque);
}

/* The process of the entry and no other that has its number by now. */
static int open_process(const struct ledger_client *entry)
{
	int pidfd = (int)syscall(SYS_pidfd_open, entry->pid, 0);

	if (pidfd >= 0 && !ledger_client_lives(entry)) {
		close(pidfd);
		errno = ESRCH;
		return -1;
	}
	return pidfd;
}

static int connect_to(const struct client *client)
{
	char path[RUNDIR_PATH_MAX];
	socklen_t len = sizeof(struct ucred);
	struct ucred peer;
	int fd;

	if (rundir_vm_join(path, client->session.name, "owner.sock", NULL) < 0)
		return -1;
	fd = rundir_connect(path, SOCK_SEQPACKET, NULL);
	if (fd >= 0 && getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 &&
	    peer.pid == client->pid)
		return fd;
	if (fd >= 0)
		close(fd);
	return -1;
}

static void reach(struct client *client)
{
	client->fd = connect_to(client);
	if (client->fd >= 0 && client_listen(client) == 0)
		return;
	log_warn("VM '%s' (process %d) cannot be reached: it keeps its %llu frames until it ends",
		 client->session.name, client->pid, (unsigned long long)client->session.held);
	if (client->fd >= 0)
		close(client->fd);
	client->fd = -1;
}

static int adopt(struct server *server, struct ledger_client *entry, struct error *err)
{
	struct client *client = object_zalloc(&client_cache);

	if (!client)
		return error_set(err, ENOMEM, "no memory for the VMs of the owner that died");
	client->server = server;
	client->fd = -1;
	client->pid = entry->pid;
	client->pidfd = open_process(entry);
	session_adopt(&client->session, server->config.pool, entry);
	server_add(server, client);
	if (server->last_id < entry->id)
		server->last_id = entry->id;
	if (client->pidfd < 0) { /* it ended since the pool was taken over */
		client_destroy(client);
		return 0;
	}
	client->pid_source =
		event_loop_add(server->config.loop, client->pidfd, EPOLLIN, on_end, client);
	if (!client->pid_source)
		return error_set_errno(err, errno, "cannot watch process %d", client->pid);
	reach(client);
	return 0;
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
