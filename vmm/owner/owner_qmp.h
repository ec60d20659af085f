/* SPDX-License-Identifier: MIT */
/* The commands of the pool owner's QMP server, RUNDIR/pool-qmp.sock. */
#ifndef VMM_OWNER_OWNER_QMP_H
#define VMM_OWNER_OWNER_QMP_H

#include "framevisor/qmp_server.h"
#include "vmm/owner/balance.h"
#include "vmm/owner/jobs.h"
#include "vmm/owner/kept_settings.h"
#include "vmm/owner/pool.h"
#include "vmm/owner/server.h"
#include "vmm/owner/work.h"

/* What the commands work on; outlives the QMP server. */
struct owner_qmp {
	struct event_loop *loop;
	struct pool *pool;
	struct server *server;
	struct balance *balance;
	struct work_queue *work;
	struct kept_settings *kept;
	struct jobs *jobs; /* made by owner_qmp_create() */
	struct qmp_server *qmp;
};

/* Sets qmp. Returns 0 or a negative errno with err set. */
int owner_qmp_create(struct owner_qmp *owner, struct error *err);
/* The work queue has been destroyed. */
void owner_qmp_destroy(struct owner_qmp *owner);

#endif
