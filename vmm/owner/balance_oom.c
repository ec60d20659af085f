/* SPDX-License-Identifier: MIT */
/*
 * Out of memory: somebody waits for frames, and for a while none came back, whatever was asked; or
 * for a long while none of what came back was for the one who waits. One VM has to stop (it takes
 * nothing more, and goes on by itself when there is memory again) or to end, by choice. One at a
 * time, and never the last one that runs.
 */
#include "vmm/owner/balance_private.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "framevisor/clock.h"
#include "framevisor/log.h"

/* Frames that move between others for ever, or a guest that seems to follow, help nobody who waits:
 * they put it off so many times oom_delay at most, and longer than a guest is waited for
 * (FOLLOW_MS in balance_policy.c). */
#define STARVED_TIMES 12

static uint64_t total_frames(const struct balance *balance)
{
	return balance->view.present;
}

static unsigned int nr_running(const struct balance *balance)
{
	unsigned int nr = 0;

	for (unsigned int i = 0; i < balance->nr_vms; i++)
		nr += balance->vms[i].running;
	return nr;
}

static void tell(struct balance *balance, const char *name, const struct balance_entry *entry,
		 const struct balance_vm *vm, uint64_t free)
{
	int64_t badness = balance_badness(vm, total_frames(balance));

	log_warn("%s: VM '%s' holds %" PRIu64 " frames (guaranteed %" PRIu64
		 "), shares %u, adjustment %d, badness %" PRId64 "; %" PRIu64 " frames are free",
		 name, entry->name, vm->held, vm->min, vm->shares, vm->oom_score_adj, badness,
		 free);
	balance->config.event(balance->config.opaque, name,
			      json_pack("{s:s, s:I, s:I, s:i, s:i, s:I, s:I}", "name", entry->name,
					"held", (json_int_t)vm->held, "min", (json_int_t)vm->min,
					"shares", (int)vm->shares, "oom-score-adj",
					vm->oom_score_adj, "badness", (json_int_t)badness, "free",
					(json_int_t)free));
}

static void on_paused(void *opaque, int status, uint64_t frames)
{
	struct answer *answer = opaque;
	struct balance *balance = answer->balance;

	(void)frames;
	for (unsigned int i = 0; i < balance->nr_vms; i++) {
		struct balance_entry *entry = balance->of_vm[i];

		if (entry->id != answer->id)
			continue;
		if (status == 0) {
			entry->paused_at = now_ms();
			tell(balance, "OOM_PAUSE", entry, &balance->vms[i], answer->free);
			balance->oom_pauses++;
		} else if (status != -EPIPE) { /* it runs on: nobody has to let it */
			log_warn("VM '%s' cannot be paused: %s", entry->name, strerror(-status));
			entry->paused = false;
		}
	}
	object_free(&answer_cache, answer);
}

static int send_pause(struct balance *balance, const struct balance_vm *vm, uint64_t free,
		      uint64_t wanted)
{
	union notice_packet packet = {
		.pause = { .held = vm->held,
			   .free = free,
			   .wanted = wanted,
			   .badness = balance_badness(vm, total_frames(balance)),
			   .oom_score_adj = vm->oom_score_adj },
	};
	struct answer *answer = object_zalloc(&answer_cache);
	int ret;

	if (!answer)
		return -ENOMEM;
	*answer = (struct answer){ .balance = balance, .id = vm->id, .free = free };
	ret = server_notice(balance->config.server, vm->id, &packet, NOTICE_PAUSE,
			    sizeof(packet.pause), on_paused, answer);
	if (ret < 0)
		object_free(&answer_cache, answer);
	return ret;
}

/* Whose guest can still give memory has to run for that: it is paused only when all could. */
static int who_stops(struct balance *balance)
{
	struct balance_vm *vms = balance->vms;
	bool payer[BALANCE_VMS_MAX];
	int victim;

	if (balance->oom_policy == OOM_POLICY_KILL)
		return balance_oom_victim(vms, balance->nr_vms, total_frames(balance));
	for (unsigned int i = 0; i < balance->nr_vms; i++) {
		payer[i] = vms[i].running && balance_can_pay(&vms[i]) > 0;
		vms[i].running &= !payer[i];
	}
	victim = balance_oom_victim(vms, balance->nr_vms, total_frames(balance));
	for (unsigned int i = 0; i < balance->nr_vms; i++)
		vms[i].running |= payer[i];
	if (victim < 0)
		victim = balance_oom_victim(vms, balance->nr_vms, total_frames(balance));
	return victim;
}

/*
 * One that runs waits, and all this time it was others who got whatever came back, or seemed to be
 * on their way. Counted anew since the last time that somebody was stopped, or went on.
 */
static bool somebody_starves(const struct balance *balance)
{
	uint64_t limit = STARVED_TIMES * balance->oom_delay;

	if (now_ms() - balance->last_oom < limit)
		return false;
	for (unsigned int i = 0; i < balance->nr_vms; i++)
		if (balance->vms[i].running && balance->of_vm[i]->short_for_ms >= limit)
			return true;
	return false;
}

/* Frames come back, or a guest whose frames are to come is on its way: it cannot go on when it is
 * paused. */
static bool gets_ahead(const struct balance *balance)
{
	uint64_t now = now_ms();

	return now - balance->last_return < balance->oom_delay ||
	       now - balance->last_progress < balance->oom_delay;
}

void balance_oom(struct balance *balance, uint64_t free, const struct pool_marks *marks)
{
	uint64_t now = now_ms();
	struct balance_entry *entry;
	struct balance_vm *vm;
	int victim;

	if (!balance->active || free >= marks->low || !balance->last_short ||
	    now - balance->last_short > balance->oom_delay / 2)
		return;
	if (now - balance->active_since < balance->oom_delay ||
	    now - balance->last_oom < balance->oom_delay ||
	    (gets_ahead(balance) && !somebody_starves(balance)))
		return;
	victim = who_stops(balance);
	if (victim < 0 || (balance->oom_policy == OOM_POLICY_PAUSE && nr_running(balance) < 2))
		return;
	vm = &balance->vms[victim];
	entry = balance->of_vm[victim];
	balance->last_oom = now;
	if (balance->oom_policy == OOM_POLICY_KILL) {
		tell(balance, "OOM_KILL", entry, vm, free);
		balance->oom_kills++;
		server_kill(balance->config.server, vm->id);
	} else if (send_pause(balance, vm, free, marks->high) == 0) {
		entry->paused = true; /* and the event comes when it says so */
		entry->paused_at = 0;
	}
}

/* While it is paused nothing comes back from a guest: one that has memory to give has to run for
 * that, when nobody gets ahead otherwise. */
static int who_could_pay(const struct balance *balance)
{
	uint64_t most = 0;
	int chosen = -1;

	if (now_ms() - balance->last_oom < 2 * balance->oom_delay)
		return -1;
	for (unsigned int i = 0; i < balance->nr_vms; i++) {
		uint64_t pay = balance_can_pay(&balance->vms[i]);

		if (!balance->of_vm[i]->paused || pay <= most)
			continue;
		chosen = (int)i;
		most = pay;
	}
	return chosen;
}

/* The one that had the least to do with it. */
static int who_goes_on(struct balance *balance)
{
	int64_t least = INT64_MAX;
	int chosen = -1;

	for (unsigned int i = 0; i < balance->nr_vms; i++) {
		int64_t badness = balance_badness(&balance->vms[i], total_frames(balance));

		if (!balance->of_vm[i]->paused)
			continue;
		if (chosen < 0 || badness < least) {
			chosen = (int)i;
			least = badness;
		}
	}
	return chosen;
}

void balance_resume(struct balance *balance, uint64_t free, bool enough)
{
	union notice_packet packet = { .resume = { .free = free } };
	int chosen = enough ? who_goes_on(balance) : who_could_pay(balance);

	if (chosen < 0 || server_notice(balance->config.server, balance->vms[chosen].id, &packet,
					NOTICE_RESUME, sizeof(packet.resume), NULL, NULL) < 0)
		return;
	balance->of_vm[chosen]->paused = false;
	balance->last_oom = now_ms(); /* the next one is not stopped at once */
	balance->vms[chosen].running = true;
	balance->oom_resumes++;
	tell(balance, "OOM_RESUME", balance->of_vm[chosen], &balance->vms[chosen], free);
}
