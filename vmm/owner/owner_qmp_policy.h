/* SPDX-License-Identifier: MIT */
/* The pool owner's QMP commands that set and report its policy; the list is in owner_qmp.c. */
#ifndef VMM_OWNER_OWNER_QMP_POLICY_H
#define VMM_OWNER_OWNER_QMP_POLICY_H

#include "framevisor/qmp_server.h"

struct owner_qmp;

/* What was set under the owner before holds again. What cannot be is said in the log. */
void owner_qmp_restore_settings(struct owner_qmp *owner);

/* opaque is a struct owner_qmp; see qmp_handler_fn. */
int owner_qmp_query_settings(void *opaque, json_t *args, json_t **reply, struct qmp_error *err);
int owner_qmp_pool_set(void *opaque, json_t *args, json_t **reply, struct qmp_error *err);
int owner_qmp_query_vmstat(void *opaque, json_t *args, json_t **reply, struct qmp_error *err);
int owner_qmp_query_pressure(void *opaque, json_t *args, json_t **reply, struct qmp_error *err);
int owner_qmp_vm_set(void *opaque, json_t *args, json_t **reply, struct qmp_error *err);

#endif
