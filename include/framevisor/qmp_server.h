/* SPDX-License-Identifier: MIT */
/*
 * A QMP server: JSON commands over a UNIX stream socket, several clients, events for all of them.
 *
 * What a client meets is what QEMU's monitor does: a greeting first; only qmp_capabilities until
 * that succeeded; then one reply per command, in order, with the command's "id" echoed; events in
 * between; every line ends in CR LF (libvirt never sees a line without CR). A message is one JSON
 * object, however it is cut into lines or packets. Unknown members are ignored. Input that is not
 * JSON, not UTF-8 or longer than QMP_INPUT_MAX gets an error reply and the rest of its line is
 * skipped. A client that sends without reading is not read from; one whose unread output passes
 * QMP_OUTPUT_MAX is cut off.
 *
 * qmp_capabilities, query-commands and query-version are the server's own; everything else comes
 * from the caller's table. All calls are made from the loop's thread.
 */
#ifndef FRAMEVISOR_QMP_SERVER_H
#define FRAMEVISOR_QMP_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "framevisor/error.h"
#include "framevisor/event_loop.h"

#define QMP_INPUT_MAX   (1u << 20) /* bytes of one message */
#define QMP_OUTPUT_MAX  (4u << 20) /* bytes a client may leave unread */
#define QMP_CLIENTS_MAX 64
#define QMP_DEPTH_MAX   64 /* nesting of a message */

/* The class is part of the interface: libvirt acts differently on each. */
enum qmp_error_class {
	QMP_GENERIC_ERROR,
	QMP_COMMAND_NOT_FOUND,
	QMP_DEVICE_NOT_FOUND,
	QMP_DEVICE_NOT_ACTIVE,
};

struct qmp_error {
	enum qmp_error_class class;
	char desc[512];
};

/* Sets class and text. Returns -EINVAL, so that a handler can return it. */
int qmp_error_set(struct qmp_error *err, enum qmp_error_class class, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* A GenericError with the text of what another part of the program reported. Returns -EINVAL. */
int qmp_error_from(struct qmp_error *err, const struct error *from);

/*
 * One command. args is never NULL (an empty object when the client sent none) and the server's.
 * Returns 0 with *reply set to a new reference (left NULL: "{}"), or a negative number with err
 * set. The handler runs to its end before the client's next message is looked at; it may send
 * events, which arrive before the reply; it must not destroy the server.
 */
typedef int (*qmp_handler_fn)(void *opaque, json_t *args, json_t **reply, struct qmp_error *err);

#define QMP_COMMAND_UNLISTED 0x1 /* works, but query-commands does not name it */

struct qmp_command {
	const char *name;
	qmp_handler_fn handler;
	unsigned int flags;
};

struct qmp_server_config {
	const struct qmp_command *commands; /* constant, outlives the server */
	size_t nr_commands;
	void *opaque; /* for the handlers */
	/* What is not among these is looked for in a second table, with an opaque of its own. May
	 * be empty. */
	const struct qmp_command *base;
	size_t nr_base;
	void *base_opaque;
};

struct qmp_server;

struct qmp_server *qmp_server_create(struct event_loop *loop,
				     const struct qmp_server_config *config, struct error *err);
/* Sends what still fits into the clients' sockets and closes them and the listening sockets. The
 * path of a listening socket is the caller's to remove. */
void qmp_server_destroy(struct qmp_server *server);

/* Accepts clients on a listening stream socket (rundir_listen()). On success the fd is the
 * server's. May be called more than once. Returns 0 or a negative errno. */
int qmp_server_listen(struct qmp_server *server, int fd);

/* Serves an already connected stream socket. On success the fd is the server's. Returns 0 or a
 * negative errno. */
int qmp_server_add_client(struct qmp_server *server, int fd);

/* Sends an event to every client that has negotiated. Steals data; NULL: an event without data. */
void qmp_server_event(struct qmp_server *server, const char *name, json_t *data);

/*
 * The same for events that come in bursts: at most one per second, name and source (which of
 * several devices that tell the same), and the last one is never lost: it follows when the second
 * is over, or when the server is destroyed. name must stay valid. Steals data.
 */
void qmp_server_event_limited(struct qmp_server *server, const char *name, unsigned int source,
			      json_t *data);

unsigned int qmp_server_nr_clients(const struct qmp_server *server);

/*
 * Arguments of a command. A missing or wrong one sets err ("parameter 'x' ...") and returns
 * -EINVAL. The optional forms leave *value alone when the argument is absent. Strings are valid as
 * long as args.
 */
int qmp_arg_u64(json_t *args, const char *name, uint64_t *value, struct qmp_error *err);
int qmp_arg_string(json_t *args, const char *name, const char **value, struct qmp_error *err);
int qmp_arg_bool_optional(json_t *args, const char *name, bool *value, struct qmp_error *err);

#endif
