/* SPDX-License-Identifier: MIT */
/* The commands of the pool owner's QMP server, RUNDIR/pool-qmp.sock. */
#ifndef VMM_OWNER_OWNER_QMP_H
#define VMM_OWNER_OWNER_QMP_H

#include "framevisor/qmp_server.h"
#include "vmm/owner/pool.h"
#include "vmm/owner/server.h"

/* What the commands work on; outlives the QMP server. */
struct owner_qmp {
	struct event_loop *loop;
	struct pool *pool;
	struct server *server;
};

struct qmp_server *owner_qmp_create(struct owner_qmp *owner, struct error *err);

#endif
