/* SPDX-License-Identifier: MIT */
/*
 * kswapd for VMs. It wakes when free frames fall below low and works until they are above high: it
 * asks VMs over their notice channels for what balance_policy.h decides, and gives back what it
 * took when the pressure is over. What VMs were guaranteed and do not hold yet does not count as
 * free. When nothing more can be had and somebody waits, the OOM policy stops or kills one VM.
 * Event driven; main thread only.
 */
#ifndef VMM_OWNER_BALANCE_H
#define VMM_OWNER_BALANCE_H

#include <jansson.h>

#include "framevisor/error.h"
#include "framevisor/event_loop.h"
#include "vmm/owner/pool.h"
#include "vmm/owner/server.h"

struct balance;

struct balance_config {
	struct event_loop *loop;
	struct pool *pool;
	struct server *server;
	/* OOM_PAUSE, OOM_RESUME, OOM_KILL, RECLAIM_BEGIN, RECLAIM_END; steals data. */
	void (*event)(void *opaque, const char *name, json_t *data);
	void *opaque;
};

struct balance *balance_create(const struct balance_config *config, struct error *err);
void balance_destroy(struct balance *balance); /* NULL is ignored; the server is gone already */

/* A VM asked for frames and got some, or gave some back: server_config.traffic. */
void balance_traffic(void *opaque, uint64_t asked, uint64_t got, uint64_t returned);

/*
 * Its settings: oom_policy (pause, kill), idle_tax and reclaim_step (percent), stats_age_max_ms,
 * oom_delay_ms. Return 0, -ENOENT, or -EINVAL with a sentence.
 */
int balance_setting_set(struct balance *balance, const char *name, const char *value,
			struct error *err);
/* All of them into an object. */
void balance_settings(struct balance *balance, json_t *object);

/* Counters, by the kernel's names where it has such. A new reference. */
json_t *balance_vmstat(struct balance *balance);
/* Stall times as /proc/pressure/memory says them. A new reference. */
json_t *balance_pressure(struct balance *balance);

#endif
