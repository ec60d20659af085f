/* SPDX-License-Identifier: MIT */
/* A VM's target and the devices that bring it about: see target.h; the policy is in
 * target_policy.c. */
#include "vmm/target.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_balloon.h>
#include <stdlib.h>
#include <string.h>

#include "framevisor/clock.h"
#include "framevisor/frame.h"
#include "framevisor/log.h"
#include "framevisor/vm_memory.h"
#include "vmm/target_compact.h"

#define LOOK_SOON_MS     20
#define LOOK_MOVES_MS    200
#define LOOK_AGAIN_MS    1000
#define LOOK_COMPACTS_MS 100
/* Without an answer for so long the guest does not say what it has available. */
#define STATS_WAIT_MS 1500
/* By now a guest has loaded its drivers. */
#define DRIVER_WAIT_MS 60000
/* How long one request for new statistics may take. */
#define REFRESH_MS 3000
/* Statistics that are older do not say what the guest has available. */
#define FRESH_MS 5000

struct target {
	struct target_config config; /* mem and mem_max point to the two below */
	struct virtio_mem *mem[TARGET_MEM_MAX];
	uint64_t mem_max[TARGET_MEM_MAX];
	uint64_t size; /* as the user set it */
	uint64_t tax;  /* what it does without of that */
	struct event_timer *timer;

	uint64_t no_driver_ms; /* since when it runs without a virtio-mem driver; 0: it does not */
	bool told_no_driver;
	bool started; /* the loop runs, or is about to: nothing may wait */

	/* The balloon as it was seen last, and since when. */
	uint64_t seen_actual, seen_inflated;
	uint64_t balloon_moved_ms;

	/* Statistics: who wants them, and what they allow. */
	unsigned int poll_seconds;  /* by target_poll_stats() */
	unsigned int owner_seconds; /* by target_poll_for_owner() */
	bool inflating;
	bool stopped;   /* short of the target: they say why */
	bool asked_why; /* by target_ask_why() */
	uint64_t inflating_since_ms;
	uint64_t refresh_until_ms;
	uint64_t limit; /* from the newest statistics while the balloon grows */
	bool limit_known;
	uint64_t limit_came_ms; /* when they came */
	uint64_t last_actual;   /* in the balloon, at the last look */

	/* When the pool owner was asked for a promise, how long it is left alone then (unless it
	 * speaks), and what it said: 0, -EINPROGRESS (it grows for it), or why it cannot. */
	uint64_t asked_ms, ask_pause_ms, refused_pause_ms;
	int promise;
	char refused[sizeof(((struct error *)0)->message)];

	struct target_compact compact;
	struct target_pace pace; /* of virtio-mem */
	struct target_ask ask;   /* it, again */
};

void target_hear_guest(struct virtio_balloon *balloon, struct target_guest *guest)
{
	struct virtio_balloon_guest_stats stats;

	virtio_balloon_guest_stats(balloon, &stats);
	*guest = (struct target_guest){
		.tells = (stats.valid >> BALLOON_STAT_AVAILABLE & 1) && stats.age_ms < FRESH_MS,
		.available = stats.values[BALLOON_STAT_AVAILABLE],
		.unanswered_ms = stats.unanswered_ms,
	};
}

/* All memory devices as one. */
static void gather_mem(const struct target_config *config, struct virtio_mem_stats *sum)
{
	struct virtio_mem_stats stats[TARGET_MEM_MAX];

	for (unsigned int i = 0; i < config->nr_mem; i++)
		virtio_mem_stats(config->mem[i], &stats[i]);
	target_sum_mem(stats, config->nr_mem, sum);
}

static void gather(struct target *target, struct target_parts *parts)
{
	const struct target_config *config = &target->config;
	uint64_t now = now_ms();

	*parts = (struct target_parts){
		.running = config->running(config->opaque),
		.boot = config->boot,
		.size = target->size > target->tax ? target->size - target->tax : 0,
		.balloon_limit = UINT64_MAX,
		.tax = target->tax < target->size ? target->tax : target->size,
		.has_mem = config->nr_mem != 0,
		.starves = config->memory && vm_memory_starves(config->memory),
		.give_way = target->ask.gives_way,
		.in_vain = target->ask.in_vain,
	};
	target_hear_guest(config->balloon, &parts->guest);
	virtio_balloon_stats(config->balloon, &parts->balloon);
	if (config->nr_mem) {
		gather_mem(config, &parts->mem);
		parts->promised = frames_to_bytes(vm_memory_promised(config->memory));
		parts->pool_grows = target->promise == -EINPROGRESS;
	}
	parts->mem_stall_ms = target_pace(&target->pace, parts);
	/* A guest that does not run cannot move. */
	if (!parts->running || parts->balloon.actual != target->seen_actual ||
	    parts->balloon.inflated != target->seen_inflated) {
		target->seen_actual = parts->balloon.actual;
		target->seen_inflated = parts->balloon.inflated;
		target->balloon_moved_ms = now;
	}
	parts->balloon_idle_ms = now - target->balloon_moved_ms;
	parts->compacting =
		compact_runs(&target->compact) || compact_due(&target->compact, parts, now);
}

/* ---- Statistics ---- */

/* One interval for all who want it. Asking anew asks the guest at once. */
static void set_interval(struct target *target, bool at_once)
{
	bool fast = target->inflating || target->stopped || target->asked_why ||
		    now_ms() < target->refresh_until_ms;
	unsigned int seconds = fast ? 1 : target->poll_seconds;
	struct virtio_balloon_guest_stats stats;

	if (target->owner_seconds && (!seconds || target->owner_seconds < seconds))
		seconds = target->owner_seconds;
	virtio_balloon_guest_stats(target->config.balloon, &stats);
	if (at_once || stats.interval != seconds)
		virtio_balloon_set_stats_interval(target->config.balloon, seconds);
}

/*
 * What the balloon may grow to, by what the guest says it has available. Numbers from before it
 * began to grow do not count, and those that do are true for the balloon as it was when they came:
 * so the limit is computed once for each answer.
 */
static uint64_t find_limit(struct target *target, const struct target_parts *parts)
{
	uint64_t now = now_ms(), margin = target_margin(parts), available;
	struct virtio_balloon_guest_stats stats;
	uint64_t came;

	if (!(parts->balloon.accepted >> VIRTIO_BALLOON_F_STATS_VQ & 1))
		return UINT64_MAX;
	virtio_balloon_guest_stats(target->config.balloon, &stats);
	came = now - stats.age_ms;
	if (!(stats.valid >> BALLOON_STAT_AVAILABLE & 1) ||
	    stats.age_ms > now - target->inflating_since_ms) {
		if (now - target->inflating_since_ms > STATS_WAIT_MS)
			return UINT64_MAX;
		return target->limit_known ? target->limit : parts->balloon.actual;
	}
	/* A number that is new: the timer may look more often than the guest answers. Both clocks
	 * are read to the millisecond. */
	if (!target->limit_known || came > target->limit_came_ms + LOOK_SOON_MS / 2) {
		available = stats.values[BALLOON_STAT_AVAILABLE];
		available = available > margin ? (available - margin) & ~(TARGET_STEP_MIN - 1) : 0;
		/* The number came after the last look; the balloon may have grown since. */
		target->limit = available + (parts->balloon.actual < target->last_actual
						     ? parts->balloon.actual
						     : target->last_actual);
		target->limit_known = true;
		target->limit_came_ms = came;
	}
	return target->limit;
}

/* Whether the balloon has to grow, and what it may grow to then. */
static void limit_balloon(struct target *target, struct target_parts *parts)
{
	struct target_plan plan;
	bool inflating;

	/* Nobody could say when it is too much. */
	if (!parts->running) {
		parts->balloon_limit = parts->balloon.actual;
		target->inflating = false;
		return;
	}
	target_decide(parts, &plan);
	inflating = parts->balloon.driver_ready && plan.balloon > parts->balloon.actual;
	if (inflating && !target->inflating) {
		target->inflating_since_ms = now_ms();
		target->limit_known = false;
	}
	if (inflating != target->inflating) {
		target->inflating = inflating;
		set_interval(target, inflating);
	}
	if (inflating)
		parts->balloon_limit = find_limit(target, parts);
}

/* ---- The pool's promise ---- */

#define ASK_POOL_MIN_MS 5000 /* refused: the next time, and then twice as late, ... */
#define ASK_POOL_MAX_MS 60000

uint64_t target_refused_pause(uint64_t *pause_ms)
{
	*pause_ms *= 2;
	if (*pause_ms < ASK_POOL_MIN_MS)
		*pause_ms = ASK_POOL_MIN_MS;
	if (*pause_ms > ASK_POOL_MAX_MS)
		*pause_ms = ASK_POOL_MAX_MS;
	return *pause_ms;
}

/* Asks for the promise of so much beside the boot memory. 0, -EINPROGRESS, or err says why not. */
static int ask_pool(struct target *target, uint64_t bytes, struct error *err)
{
	uint64_t frames = bytes_to_frames(bytes);
	/* A guest that starts finds all of its memory there, whatever its driver thinks of news. */
	int ret = target->started ? vm_memory_reserve(target->config.memory, frames, err)
				  : vm_memory_reserve_now(target->config.memory, frames, err);

	target->promise = ret;
	target->asked_ms = now_ms();
	if (ret == 0)
		target->refused_pause_ms = 0;
	target->ask_pause_ms = ret == 0 || ret == -EINPROGRESS
				       ? TARGET_ASK_POOL_MS
				       : target_refused_pause(&target->refused_pause_ms);
	return ret;
}

/* It grows for the target, or a reset of the VM has given up what it had: is there more by now? */
static void look_at_promise(struct target *target, struct target_parts *parts)
{
	uint64_t want = parts->size > parts->boot ? parts->size - parts->boot : 0;
	struct error err = { 0 };
	int ret;

	if (!parts->has_mem || want <= parts->promised) {
		target->promise = 0;
		return;
	}
	if (target->promise && now_ms() - target->asked_ms < target->ask_pause_ms)
		return;
	ret = ask_pool(target, want, &err);
	if (ret < 0 && ret != -EINPROGRESS) {
		if (strcmp(target->refused, err.message) != 0)
			log_warn("%s", err.message);
		memcpy(target->refused, err.message, sizeof(target->refused));
	}
	parts->promised = frames_to_bytes(vm_memory_promised(target->config.memory));
	parts->pool_grows = ret == -EINPROGRESS;
}

/* ---- Towards the target ---- */

/* Sums that are right may be wrong in their parts: each device is asked for its own share. */
static void tell_mem(const struct target_config *config, uint64_t requested)
{
	uint64_t share[TARGET_MEM_MAX];

	target_share(requested, config->nr_mem, config->mem_max, share);
	for (unsigned int i = 0; i < config->nr_mem; i++) {
		struct virtio_mem_stats stats;
		struct error err = { 0 };

		virtio_mem_stats(config->mem[i], &stats);
		if (stats.requested != share[i] &&
		    virtio_mem_set_requested(config->mem[i], share[i], &err) < 0)
			log_error("%s", err.message);
	}
}

/* The balloon stands in for blocks that a guest cannot unplug, so this goes on at the target, too.
 */
static void ask_again(struct target *target, const struct target_parts *parts)
{
	if (!target_ask_again(&target->ask, parts, now_ms()))
		return;
	for (unsigned int i = 0; i < target->config.nr_mem; i++)
		virtio_mem_ask_again(target->config.mem[i]);
}

/* A balloon that is told to go further the same way stands still for as long as it did before. */
static bool goes_on(const struct virtio_balloon_stats *balloon, uint64_t to)
{
	return balloon->target > balloon->actual
		       ? to > balloon->actual
		       : balloon->target < balloon->actual && to < balloon->actual;
}

static void tell_devices(struct target *target, const struct target_parts *parts,
			 const struct target_plan *plan)
{
	struct error err = { 0 };

	if (parts->has_mem)
		tell_mem(&target->config, plan->requested);
	if (plan->balloon != parts->balloon.target) {
		if (virtio_balloon_set_target(target->config.balloon, plan->balloon, &err) < 0)
			log_error("%s", err.message);
		if (!goes_on(&parts->balloon, plan->balloon))
			target->balloon_moved_ms = now_ms();
	}
}

/* Memory that was promised at the start and cannot arrive is worth a line; for each guest that
 * boots without a driver, and not before it has had the time to load one. */
static void check_driver(struct target *target, const struct target_parts *parts)
{
	uint64_t now = now_ms();

	if (!parts->has_mem)
		return;
	if (!parts->running || parts->mem.driver_ready) {
		target->no_driver_ms = 0;
		if (parts->mem.driver_ready)
			target->told_no_driver = false;
		return;
	}
	if (!target->no_driver_ms)
		target->no_driver_ms = now;
	if (parts->size <= parts->boot || target->told_no_driver ||
	    now - target->no_driver_ms < DRIVER_WAIT_MS)
		return;
	target->told_no_driver = true;
	log_warn("the guest has only the %" PRIu64 " MiB it booted with: %s", parts->boot >> 20,
		 target_state_texts[TARGET_NO_MEM]);
}

/* A driver that cannot hold anything ends the round a moment later by not doing it. */
static void tell_holder(struct target *target, enum compact_act act)
{
	struct error err = { 0 };

	if (act == COMPACT_LET_GO)
		virtio_balloon_let_go(target->config.balloon);
	else if (act == COMPACT_ASK && virtio_balloon_hold(target->config.balloon, &err) < 0)
		log_info("%s", err.message);
}

/* What to tell the devices now. */
static void decide(struct target *target, struct target_parts *parts, struct target_plan *plan)
{
	bool runs = compact_runs(&target->compact);

	/* While it stands still its times mean nothing. */
	if (runs && !parts->running) {
		tell_holder(target, compact_restart(&target->compact));
		runs = false;
	}
	if (!runs)
		limit_balloon(target, parts);
	target_decide(parts, plan);
	if (!runs && plan->balloon == parts->balloon.target)
		compact_consider(&target->compact, parts, now_ms());
	if (!compact_runs(&target->compact))
		return;
	target->inflating = false; /* after it with fresh numbers */
	tell_holder(target, compact_step(&target->compact, parts, now_ms(), plan));
	if (!compact_runs(&target->compact))
		target->balloon_moved_ms = now_ms(); /* it begins anew */
}

static void look(void *opaque)
{
	struct target *target = opaque;
	struct target_parts parts;
	struct target_plan plan;
	enum target_state state;

	gather(target, &parts);
	look_at_promise(target, &parts);
	decide(target, &parts, &plan);
	tell_devices(target, &parts, &plan);
	ask_again(target, &parts);
	check_driver(target, &parts);
	target->last_actual = parts.balloon.actual;

	gather(target, &parts);
	state = target_judge(&parts);
	target->stopped = target_is_stopped(state);
	set_interval(target, false);
	if (target->inflating && !target->limit_known) /* the guest's answer is a matter of ms */
		event_timer_arm(target->timer, LOOK_SOON_MS, 0);
	else if (state == TARGET_COMPACTING)
		event_timer_arm(target->timer, LOOK_COMPACTS_MS, 0);
	else if (state == TARGET_MOVING || state == TARGET_GROWING ||
		 (target->inflating && !target->stopped))
		event_timer_arm(target->timer, LOOK_MOVES_MS, 0);
	else if (state != TARGET_REACHED || target_mem_wanting(&parts) ||
		 now_ms() < target->refresh_until_ms)
		event_timer_arm(target->timer, LOOK_AGAIN_MS, 0);
}

void target_changed(struct target *target)
{
	if (target)
		event_timer_arm(target->timer, LOOK_SOON_MS, 0);
}

/* What is to be brought about is something else now: from the beginning, with fresh numbers. */
static void begin_anew(struct target *target)
{
	target->balloon_moved_ms = now_ms();
	target->inflating = false;
	target->pace.idle_ms = 0;
	target->ask = (struct target_ask){ 0 };
	tell_holder(target, compact_restart(&target->compact));
}

void target_pool_moved(struct target *target)
{
	if (!target)
		return;
	target->ask_pause_ms = 0;
	look(target);
}

/* The promise for a new target. Returns 0, or a negative errno with err set. */
static int promise_size(struct target *target, uint64_t bytes, struct error *err)
{
	const struct target_config *config = &target->config;
	struct target_parts parts;
	uint64_t want = bytes > config->boot ? bytes - config->boot : 0;
	int ret;

	gather(target, &parts);
	target->refused[0] = '\0';
	target->ask_pause_ms = target->refused_pause_ms = 0;
	if (config->nr_mem && (bytes < target->size || want <= parts.mem.plugged))
		vm_memory_unreserve(config->memory, bytes_to_frames(want));
	if (want <= parts.mem.plugged) {
		target->promise = 0;
		return 0;
	}
	ret = ask_pool(target, want, err);
	if (ret == 0 || ret == -EINPROGRESS)
		return 0;
	/* That was called off for the old one, too: it asks again. */
	target->promise = 0;
	target_changed(target);
	return ret;
}

int target_set(struct target *target, uint64_t bytes, struct error *err)
{
	const struct target_config *config = &target->config;
	uint64_t unit = bytes > config->boot ? FRAME_SIZE : GUEST_PAGE_SIZE;
	int ret;

	if (bytes > config->max)
		bytes = config->max;
	bytes = (bytes + unit - 1) & ~(unit - 1);
	ret = promise_size(target, bytes, err);
	if (ret < 0)
		return ret;
	target->size = bytes;
	begin_anew(target);
	look(target);
	return 0;
}

void target_set_tax(struct target *target, uint64_t bytes)
{
	struct virtio_balloon_stats balloon;
	bool further;

	if (bytes == target->tax)
		return;
	virtio_balloon_stats(target->config.balloon, &balloon);
	further = bytes > target->tax ? balloon.target > balloon.actual
				      : balloon.target < balloon.actual;
	target->tax = bytes;
	/* Small steps must not hide that the guest stands still. */
	if (!further || compact_runs(&target->compact))
		begin_anew(target);
	else
		(void)compact_restart(&target->compact); /* none runs: the next one is due */
	target_changed(target);
}

void target_info(struct target *target, struct target_info *info)
{
	struct target_parts parts;

	gather(target, &parts);
	*info = (struct target_info){
		.size = target->size,
		.actual = target_actual(&parts),
		.max = target->config.max,
		.tax = target->size - parts.size,
		.promised = parts.promised,
		.stuck = target_stuck(&parts),
		.state = target_judge(&parts),
		.compact_rounds = target->compact.rounds,
		.compact_before = target->compact.before,
		.compact_after = target->compact.after,
	};
	if (info->state == TARGET_REACHED && info->tax)
		info->state = TARGET_TAXED;
	info->text = target_state_texts[info->state];
	if (info->state == TARGET_POOL && target->refused[0] && !parts.starves)
		info->text = target->refused;
	if (info->state == TARGET_AVAILABLE && info->actual < parts.size)
		info->text = "the guest has too little memory available to take more in";
}

void target_poll_stats(struct target *target, unsigned int seconds)
{
	target->poll_seconds = seconds;
	set_interval(target, true);
}

void target_poll_for_owner(struct target *target, unsigned int seconds)
{
	if (seconds == target->owner_seconds)
		return;
	target->owner_seconds = seconds;
	set_interval(target, seconds != 0);
}

void target_ask_why(struct target *target, bool stopped)
{
	if (stopped == target->asked_why)
		return;
	target->asked_why = stopped;
	set_interval(target, stopped);
}

void target_refresh_stats(struct target *target)
{
	target->refresh_until_ms = now_ms() + REFRESH_MS;
	set_interval(target, true);
	target_changed(target);
}

struct target *target_create(const struct target_config *config, struct error *err)
{
	struct target *target = calloc(1, sizeof(*target));

	if (!target) {
		error_set(err, ENOMEM, "out of memory");
		return NULL;
	}
	target->config = *config;
	for (unsigned int i = 0; i < config->nr_mem; i++) {
		target->mem[i] = config->mem[i];
		target->mem_max[i] = config->mem_max[i];
	}
	target->config.mem = target->mem;
	target->config.mem_max = target->mem_max;
	target->timer = event_timer_create(config->loop, look, target);
	if (!target->timer) {
		error_set_errno(err, errno, "cannot create a timer");
		free(target);
		return NULL;
	}
	if (target_set(target, config->size, err) < 0) {
		target_destroy(target);
		return NULL;
	}
	target->started = true;
	return target;
}

void target_destroy(struct target *target)
{
	if (!target)
		return;
	event_timer_destroy(target->timer);
	free(target);
}
