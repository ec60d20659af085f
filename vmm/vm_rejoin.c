/* SPDX-License-Identifier: MIT */
/* The VM outlives its pool owner: see vm_rejoin.h. */
#include "vmm/vm_rejoin.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "framevisor/log.h"
#include "vmm/owner_channel.h"
#include "vmm/vm_internal.h"
#include "vmm/vm_owner.h"

struct vm_rejoin {
	struct vm *vm;
	int listen_fd;
	struct event_source *listen_source;
	struct event_source *client_source; /* NULL: the owner is gone */
	uid_t uid;                          /* whose the VM was when it started */
	void (*lost)(void *opaque);
	void *opaque;
};

static void on_hang_up(void *opaque, uint32_t events)
{
	struct vm_rejoin *rejoin = opaque;

	/* Replies are read by who asked; of interest is the end. */
	if (!(events & (EPOLLHUP | EPOLLERR)))
		return;
	event_source_remove(rejoin->client_source);
	rejoin->client_source = NULL;
	log_warn("the pool owner ended; this VM goes on with the memory that it has");
	if (rejoin->lost)
		rejoin->lost(rejoin->opaque);
}

static int watch_client(struct vm_rejoin *rejoin)
{
	rejoin->client_source = event_loop_add(
		rejoin->vm->loop, owner_client_fd(rejoin->vm->client), 0, on_hang_up, rejoin);
	return rejoin->client_source ? 0 : -errno;
}

static bool peer_allowed(const struct vm_rejoin *rejoin, int fd)
{
	socklen_t len = sizeof(struct ucred);
	struct ucred peer;

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 &&
	       (peer.uid == 0 || peer.uid == rejoin->uid);
}

/* fd is taken over. */
static void join(struct vm_rejoin *rejoin, int fd)
{
	struct vm *vm = rejoin->vm;
	struct error err = { 0 };
	int ret;

	event_source_remove(rejoin->client_source);
	rejoin->client_source = NULL;
	vm_owner_attach(vm, -1);
	ret = vm_memory_rejoin(vm->memory, fd, &err);
	if (ret == 0)
		ret = watch_client(rejoin);
	if (ret == 0)
		ret = vm_owner_attach(vm, owner_client_notice_fd(vm->client));
	if (ret < 0) {
		error_set_errno(&err, -ret, "cannot watch the connection");
		log_error("cannot go on with the new pool owner: %s", err.message);
		return;
	}
	log_info("a new pool owner took over");
	/* It does not know what the pool was to grow for. */
	vm_owner_grown(vm);
}

static void on_connection(void *opaque, uint32_t events)
{
	struct vm_rejoin *rejoin = opaque;
	int fd = accept4(rejoin->listen_fd, NULL, NULL, SOCK_CLOEXEC);

	(void)events;
	if (fd < 0)
		return;
	if (peer_allowed(rejoin, fd))
		join(rejoin, fd);
	else
		close(fd);
}

int vm_serve_owner(struct vm *vm, int listen_fd, void (*lost)(void *opaque), void *opaque,
		   struct error *err)
{
	struct vm_rejoin *rejoin = calloc(1, sizeof(*rejoin));

	if (!rejoin)
		return error_set(err, ENOMEM, "out of memory");
	*rejoin = (struct vm_rejoin){
		.vm = vm, .listen_fd = -1, .uid = geteuid(), .lost = lost, .opaque = opaque
	};
	vm->rejoin = rejoin;
	rejoin->listen_source = event_loop_add(vm->loop, listen_fd, EPOLLIN, on_connection, rejoin);
	if (!rejoin->listen_source || watch_client(rejoin) < 0)
		return error_set_errno(err, errno, "cannot watch the pool owner");
	rejoin->listen_fd = listen_fd;
	return 0;
}

void vm_rejoin_destroy(struct vm *vm)
{
	struct vm_rejoin *rejoin = vm->rejoin;

	if (!rejoin)
		return;
	event_source_remove(rejoin->listen_source);
	event_source_remove(rejoin->client_source);
	if (rejoin->listen_fd >= 0)
		close(rejoin->listen_fd);
	free(rejoin);
	vm->rejoin = NULL;
}
