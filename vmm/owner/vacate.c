/* SPDX-License-Identifier: MIT */
/*
 * Asking VMs to move out of frames: see vacate.h. The owner's table is the truth: it is looked
 * through again after each answer, and what a VM says it did is only a reason to look.
 */
#include "vmm/owner/vacate.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "framevisor/clock.h"
#include "framevisor/log.h"

/* Frames in one request: as many as a VM may hold beyond its limit for a move. */
#define ASK_FRAMES (FRAME_SHIFT == FRAME_SHIFT_1G ? OWNER_MOVE_FRAMES_1G : OWNER_MOVE_FRAMES)
/* A VM that was asked and did nothing is asked again so often, after a pause. */
#define TRIES_MAX 5
#define RETRY_MS  50
/* Many times what a VM needs to move a frame. Without such a limit one that moves a frame now and
 * then keeps all other jobs of the pool waiting. */
#define FRAME_MS (FRAME_SHIFT == FRAME_SHIFT_1G ? 10000u : 100u)

/* One VM that has been asked. */
struct asked {
	struct vacate *vacate; /* NULL: given up; the answer is of no interest */
	struct asked *next;
	uint32_t id;
	bool waiting; /* for its DONE */
	bool looked;  /* asked in this look: not for each of its frames */
	unsigned int tries;
	int status; /* of its last answer */
};

struct vacate {
	struct vacate_config config;
	struct frame_run *runs;
	struct asked *asked;
	struct event_timer *look;     /* soon */
	struct event_timer *deadline; /* no progress for too long */
	uint64_t left;                /* frames held at the last look */
	uint64_t until_ms;            /* whatever progress there is */
	bool late;
};

struct object_cache asked_cache = OBJECT_CACHE(asked, 8);
struct object_cache vacate_cache = OBJECT_CACHE(vacate, 1);

static struct asked *asked_of(struct vacate *vacate, uint32_t id)
{
	struct asked *asked = vacate->asked;

	while (asked && asked->id != id)
		asked = asked->next;
	if (asked)
		return asked;
	asked = object_zalloc(&asked_cache);
	if (!asked)
		return NULL;
	asked->vacate = vacate;
	asked->id = id;
	asked->next = vacate->asked;
	vacate->asked = asked;
	return asked;
}

/* Adds a frame to the request. Returns false when it is full. */
static bool add_frame(struct notice_move *move, unsigned int nid, uint64_t idx)
{
	struct frame_run *last = move->nr_runs ? &move->runs[move->nr_runs - 1] : NULL;

	if (move->nr_frames == ASK_FRAMES)
		return false;
	move->nr_frames++;
	if (last && last->node == nid && last->first + last->nr == idx)
		last->nr++;
	else
		move->runs[move->nr_runs++] =
			(struct frame_run){ .first = idx, .nr = 1, .node = (uint16_t)nid };
	return true;
}

_Static_assert(OWNER_MOVE_FRAMES <= OWNER_RUNS_MAX, "each frame may be a run of its own");

/* Who has to move out of a frame: its holder's id, or 0. */
static uint32_t mover_of(const struct vacate *vacate, const struct frame_run *run, uint64_t idx)
{
	const struct vacate_config *config = &vacate->config;
	uint32_t id = pool_owner(config->pool, run->node, idx);

	return id && config->stays && config->stays(config->opaque, id) ? 0 : id;
}

/* What client id holds of the range, as far as it fits into one request. */
static void collect(const struct vacate *vacate, uint32_t id, struct notice_move *move)
{
	move->nr_runs = move->nr_frames = 0;
	for (unsigned int r = 0; r < vacate->config.nr_runs; r++) {
		const struct frame_run *run = &vacate->runs[r];

		for (uint64_t i = run->first; i < run->first + run->nr; i++)
			if (pool_owner(vacate->config.pool, run->node, i) == id &&
			    !add_frame(move, run->node, i))
				return;
	}
}

static void on_done(void *opaque, int status, uint64_t frames)
{
	struct asked *asked = opaque;

	(void)frames;
	if (!asked->vacate) {
		object_free(&asked_cache, asked);
		return;
	}
	asked->waiting = false;
	asked->status = status;
	/* What it did shows when we look; until then it counts as nothing. */
	asked->tries++;
	event_timer_arm(asked->vacate->look, status < 0 ? RETRY_MS : 1, 0);
}

static void ask(struct vacate *vacate, struct asked *asked)
{
	union notice_packet packet = { 0 };
	struct notice_move *move = &packet.move;
	int ret;

	asked->looked = true;
	collect(vacate, asked->id, move);
	move->nodemask = vacate->config.nodemask;
	move->reason = vacate->config.reason;
	ret = server_notice(vacate->config.server, asked->id, &packet, NOTICE_MOVE,
			    notice_move_length(move->nr_runs), on_done, asked);
	asked->waiting = ret == 0;
	if (ret == 0)
		return;
	/* Its frames come back by themselves when it has gone; the others may be busy. */
	asked->status = ret;
	asked->tries += ret != -ENOENT && ret != -EPIPE;
	event_timer_arm(vacate->look, RETRY_MS, 0);
}

/* Who holds frames, for a message: the first that can be named. */
struct holder {
	uint32_t id;
	const char *name;
};

static void name_holder(void *opaque, const struct server_client_info *info)
{
	struct holder *holder = opaque;

	if (info->session->id == holder->id)
		holder->name = info->session->name;
}

static void describe(const struct vacate *vacate, uint32_t id, struct error *err)
{
	const struct asked *asked = vacate->asked;
	struct holder holder = { .id = id, .name = "?" };
	const char *why = "it does not answer";

	while (asked && asked->id != id)
		asked = asked->next;
	server_each(vacate->config.server, name_holder, &holder);
	if (asked && !asked->waiting && asked->status == -EOPNOTSUPP)
		why = "it cannot move frames";
	else if (asked && !asked->waiting && asked->status == -ENOMEM)
		why = "there is no room to move to";
	else if (asked && !asked->waiting)
		why = asked->status ? strerror(-asked->status) : "they are busy";
	error_set(err, EBUSY, "%" PRIu64 " frame%s held by VMs did not move; VM '%s': %s",
		  vacate->left, vacate->left == 1 ? "" : "s", holder.name, why);
}

static void destroy(struct vacate *vacate)
{
	struct asked *asked, *next;

	event_timer_destroy(vacate->look);
	event_timer_destroy(vacate->deadline);
	for (asked = vacate->asked; asked; asked = next) {
		next = asked->next;
		asked->vacate = NULL;
		if (!asked->waiting)
			object_free(&asked_cache, asked);
	}
	kfree(vacate->runs);
	object_free(&vacate_cache, vacate);
}

static void conclude(struct vacate *vacate, int result, struct error *err)
{
	struct vacate_config config = vacate->config;

	destroy(vacate);
	config.done(config.opaque, result, err);
}

/* Looks at every frame. *holder: one that has some and will not be asked again, or 0. Returns
 * whether anybody is being waited for. */
static bool look_through(struct vacate *vacate, uint64_t *left, uint32_t *holder)
{
	bool wait = false;

	*left = 0;
	*holder = 0;
	for (struct asked *asked = vacate->asked; asked; asked = asked->next)
		asked->looked = false;
	for (unsigned int r = 0; r < vacate->config.nr_runs; r++) {
		const struct frame_run *run = &vacate->runs[r];

		for (uint64_t i = run->first; i < run->first + run->nr; i++) {
			uint32_t id = mover_of(vacate, run, i);
			struct asked *asked = id ? asked_of(vacate, id) : NULL;

			*left += id != 0;
			if (!asked)
				continue;
			if (!asked->waiting && !asked->looked && asked->status != -EOPNOTSUPP &&
			    asked->tries < TRIES_MAX && !vacate->late)
				ask(vacate, asked);
			wait = wait || asked->waiting ||
			       (asked->tries < TRIES_MAX && asked->status != -EOPNOTSUPP);
			if (!*holder || !asked->waiting)
				*holder = id;
		}
	}
	return wait && !vacate->late;
}

/* For as long as there is progress, but not beyond the end. */
static void arm_deadline(struct vacate *vacate)
{
	uint64_t now = now_ms(), rest = vacate->until_ms > now ? vacate->until_ms - now : 0;

	vacate->late = rest == 0;
	if (rest > vacate->config.timeout_ms)
		rest = vacate->config.timeout_ms;
	event_timer_arm(vacate->deadline, rest ? rest : 1, 0);
}

static void on_look(void *opaque)
{
	struct vacate *vacate = opaque;
	struct error err = { 0 };
	uint64_t left;
	uint32_t holder;
	bool wait = look_through(vacate, &left, &holder);

	if (left < vacate->left) {
		for (struct asked *asked = vacate->asked; asked; asked = asked->next)
			asked->tries = 0;
		arm_deadline(vacate);
		if (vacate->config.progress)
			vacate->config.progress(vacate->config.opaque, vacate->left - left);
		wait = !vacate->late;
		event_timer_arm(vacate->look, RETRY_MS, 0);
	}
	vacate->left = left;
	if (left == 0) {
		conclude(vacate, 0, &err);
		return;
	}
	if (wait)
		return;
	describe(vacate, holder, &err);
	conclude(vacate, -EBUSY, &err);
}

static void on_deadline(void *opaque)
{
	struct vacate *vacate = opaque;

	vacate->late = true;
	on_look(vacate);
}

struct vacate *vacate_start(const struct vacate_config *config)
{
	struct vacate *vacate = object_zalloc(&vacate_cache);

	if (!vacate)
		return NULL;
	vacate->config = *config;
	vacate->runs =
		kcalloc(config->nr_runs ? config->nr_runs : 1, sizeof(*vacate->runs), GFP_OBJECTS);
	vacate->look = event_timer_create(config->loop, on_look, vacate);
	vacate->deadline = event_timer_create(config->loop, on_deadline, vacate);
	if (!vacate->runs || !vacate->look || !vacate->deadline) {
		destroy(vacate);
		return NULL;
	}
	memcpy(vacate->runs, config->runs, config->nr_runs * sizeof(*vacate->runs));
	for (unsigned int r = 0; r < config->nr_runs; r++)
		for (uint64_t i = 0; i < vacate->runs[r].nr; i++)
			vacate->left +=
				mover_of(vacate, &vacate->runs[r], vacate->runs[r].first + i) != 0;
	vacate->until_ms = now_ms() + config->timeout_ms + vacate->left * FRAME_MS;
	event_timer_arm(vacate->look, 1, 0);
	arm_deadline(vacate);
	return vacate;
}

void vacate_cancel(struct vacate *vacate)
{
	if (vacate)
		destroy(vacate);
}
