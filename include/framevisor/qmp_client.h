/* SPDX-License-Identifier: MIT */
/*
 * The other end of QMP, for the command line: connects, negotiates, sends one command at a time and
 * waits for its reply. Events that arrive meanwhile are kept (the last QMP_CLIENT_EVENTS_MAX) until
 * asked for. Blocking, one thread. The server's lines are checked like any other input.
 */
#ifndef FRAMEVISOR_QMP_CLIENT_H
#define FRAMEVISOR_QMP_CLIENT_H

#include <jansson.h>
#include <stdint.h>

#include "framevisor/error.h"

#define QMP_CLIENT_EVENTS_MAX 256
#define QMP_CLIENT_LINE_MAX   (10u << 20) /* as libvirt's limit */

struct qmp_client;

/* Connects to the socket and negotiates; waits at most timeout_ms for each answer of the server,
 * now and in every call. Returns NULL with err set (code: ENOENT, ECONNREFUSED, ETIMEDOUT,
 * EPROTO, ...). */
struct qmp_client *qmp_client_connect(const char *path, int timeout_ms, struct error *err);
/* What the server said that its frames are of, in bytes; 0: it did not say. */
uint64_t qmp_client_frame_size(const struct qmp_client *client);
/* Over a connected socket, which becomes the client's (closed on failure too). */
struct qmp_client *qmp_client_from_fd(int fd, int timeout_ms, struct error *err);
void qmp_client_close(struct qmp_client *client);

/*
 * Sends a command and waits for its reply. Steals args (NULL: none). On success *reply (may be
 * NULL) is a new reference to the "return" value. Errors: the server's text with EINVAL, or
 * ENOTSUP when it does not know the command; EPIPE when the server went away; ETIMEDOUT.
 */
int qmp_client_call(struct qmp_client *client, const char *command, json_t *args, json_t **reply,
		    struct error *err);

/* The next event: 1 with *event a new reference, 0 after timeout_ms without one, -EPIPE when the
 * server went away, or another negative errno. */
int qmp_client_event(struct qmp_client *client, int timeout_ms, json_t **event);

#endif
