/* SPDX-License-Identifier: MIT */
/* Changing what a running VM is promised: see server.h. */
#include "vmm/owner/server_private.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct client *find_vm(struct server *server, const char *name)
{
	struct client *client = server->clients;

	while (client && (!client->session.committed || client->fd < 0 ||
			  strcmp(client->session.name, name) != 0))
		client = client->next;
	return client;
}

void server_withhold(struct server *server, uint32_t id, uint64_t frames, uint64_t from)
{
	for (struct client *client = server->clients; client; client = client->next) {
		if (client->session.id != id)
			continue;
		client->session.withheld = frames;
		client->session.withheld_from = from;
	}
}

int server_kill(struct server *server, uint32_t id)
{
	for (struct client *client = server->clients; client; client = client->next) {
		if (client->session.id != id)
			continue;
		return syscall(SYS_pidfd_send_signal, client->pidfd, SIGKILL, NULL, 0) < 0 ? -errno
											   : 0;
	}
	return -ENOENT;
}

int server_get_limits(struct server *server, const char *name, struct session_limits *limits,
		      struct error *err)
{
	const struct client *client = find_vm(server, name);

	if (!client)
		return error_set(err, ENOENT, "the pool has no VM '%s'", name);
	session_get_limits(&client->session, limits);
	return 0;
}

/* Not heard is no harm: the promise is this side's to keep. */
static void tell(struct client *client)
{
	const struct session *session = &client->session;
	union notice_packet packet = { .limit = { .min = session->guaranteed,
						  .limit = session->ram_frames,
						  .max = session->max_frames,
						  .shares = session->shares,
						  .oom_score_adj = session->oom_score_adj } };

	if (client->notice)
		notice_send(client->notice, &packet, NOTICE_LIMIT, sizeof(packet.limit), NULL,
			    NULL);
}

int server_set_limits(struct server *server, const char *name, const struct session_limits *limits,
		      struct error *err)
{
	struct client *client = find_vm(server, name);
	int ret;

	if (!client)
		return error_set(err, ENOENT, "the pool has no VM '%s'", name);
	ret = session_set_limits(&client->session, limits, err);
	if (ret < 0)
		return ret;
	session_note(&client->session, client->pid);
	tell(client);
	return 0;
}
