/* SPDX-License-Identifier: MIT */
/* From the text of one QMP message to the reply to it. Knows the command table, but no sockets. */
#ifndef VMM_CONTROL_QMP_DISPATCH_H
#define VMM_CONTROL_QMP_DISPATCH_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include "framevisor/qmp_server.h"

/*
 * Executes the message and returns the reply, a new reference (NULL: out of memory).
 * *negotiated is the connection's: commands other than qmp_capabilities need it, and
 * qmp_capabilities sets it.
 */
json_t *qmp_dispatch(const struct qmp_server_config *config, bool *negotiated, const char *text,
		     size_t len);

/* {"error": {"class": ..., "desc": ...}} with id unless that is NULL. */
json_t *qmp_error_reply(const struct qmp_error *err, json_t *id);

/* {"QMP": {"version": ..., "capabilities": []}}, what a client is met with. */
/* As QEMU's, with frame-size beside it: what the server counts in, in bytes. */
json_t *qmp_greeting(void);

#endif
