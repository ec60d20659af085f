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

/* Between two tries to tell a new owner what there is. */
#define AGAIN_MS 100

struct vm_rejoin {
	struct vm *vm;
	int listen_fd;
	struct event_source *listen_source;
	struct event_source *client_source; /* NULL: the owner is gone */
	int next_fd;                        /* a new owner, not heard yet; -1: none */
	struct event_timer *again;          /* runs while there is one */
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

/* fd is taken over, at once or a little later. */
static void join(struct vm_rejoin *rejoin, int fd)
{
	struct vm *vm = rejoin->vm;
	struct error err = { 0 };
	int ret;

	event_source_remove(rejoin->client_source);
	rejoin->client_source = NULL;
	vm_owner_attach(vm, -1);
	ret = vm_memory_rejoin(vm->memory, fd, &err);
	if (ret == -EAGAIN) {
		rejoin->next_fd = fd;
		event_timer_arm(rejoin->again, AGAIN_MS, 0);
		return;
	}
	if (ret == 0)
		ret = watch_client(rejoin);
	if (ret == 0)
		ret = vm_owner_attach(vm, owner_client_notice_fd(vm->client));
	if (ret < 0) {
		error_set_errno(&err, -ret, "cannot watch the connection");
		log_error("cannot go on with the new pool owner: %s", err.message);
		/* It has ended as well: another one is wanted. */
		if (ret == -EPIPE && rejoin->lost)
			rejoin->lost(rejoin->opaque);
		return;
	}
	log_info("a new pool owner took over");
	/* It does not know what the pool was to grow for. */
	vm_owner_grown(vm);
}

static void on_again(void *opaque)
{
	struct vm_rejoin *rejoin = opaque;
	int fd = rejoin->next_fd;

	rejoin->next_fd = -1;
	if (fd >= 0)
		join(rejoin, fd);
}

/* One that came before and was not heard yet has ended, or it would be the only one. */
static void forget_next(struct vm_rejoin *rejoin)
{
	event_timer_disarm(rejoin->again);
	if (rejoin->next_fd >= 0)
		close(rejoin->next_fd);
	rejoin->next_fd = -1;
}

static void on_connection(void *opaque, uint32_t events)
{
	struct vm_rejoin *rejoin = opaque;
	int fd = accept4(rejoin->listen_fd, NULL, NULL, SOCK_CLOEXEC);

	(void)events;
	if (fd < 0)
		return;
	if (peer_allowed(rejoin, fd)) {
		forget_next(rejoin);
		join(rejoin, fd);
	} else {
		close(fd);
	}
}

int vm_serve_owner(struct vm *vm, int listen_fd, void (*lost)(void *opaque), void *opaque,
		   struct error *err)
{
	struct vm_rejoin *rejoin = calloc(1, sizeof(*rejoin));

	if (!rejoin)
		return error_set(err, ENOMEM, "out of memory");
	*rejoin = (struct vm_rejoin){ .vm = vm,
				      .listen_fd = -1,
				      .next_fd = -1,
				      .uid = geteuid(),
				      .lost = lost,
				      .opaque = opaque };
	vm->rejoin = rejoin;
	rejoin->again = event_timer_create(vm->loop, on_again, rejoin);
	if (!rejoin->again)
		return error_set_errno(err, errno, "cannot create a timer");
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
	event_timer_destroy(rejoin->again);
	if (rejoin->next_fd >= 0)
		close(rejoin->next_fd);
	if (rejoin->listen_fd >= 0)
		close(rejoin->listen_fd);
	free(rejoin);
	vm->rejoin = NULL;
}
