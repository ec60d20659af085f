/* SPDX-License-Identifier: MIT */
/* kswapd for VMs: see balance.h. What is to be done is decided in balance_policy.c. */
#include "vmm/owner/balance_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "framevisor/clock.h"
#include "framevisor/log.h"

#define ROUND_MS     100  /* while it works */
#define SLOW_MS      500  /* while memory is promised twice */
#define REST_MS      5000 /* else: for the reports */
#define PACE_ACTIVE  200
#define PACE_SLOW    500
#define PACE_REST    5000
#define SWAP_WAIT_MS 2000
/* Longer than a VM that was given something back is left alone (balance_policy.c). */
#define OOM_DELAY_MS 5000
/* A VM that took a sixteenth of all it may have within that time is growing; so is it while it
 * waits for more. */
#define GROWTH_MS    16000
#define GROWTH_SHARE 16
#define STALL_MS     5000
/* What was free all that time, LEAST_SAMPLES times, is spare. */
#define LEAST_MS 5000
/* Two reports of a guest that are nearer than that are one. */
#define SAMPLE_MS 300
/* Idle frames are looked for from three times high on, and until there is four times as much:
 * it takes a guest's sampling some seconds to know them, and costs the guest a few percent. */
#define WATCH_FROM  3
#define WATCH_UNTIL 4

static uint64_t since(uint64_t then, uint64_t now)
{
	return then ? now - then : UINT64_MAX;
}

/*
 * Counting the pool's frames and adding up its marks takes a walk over all zones of all nodes: too
 * much for every grant. So it is done once in a round, and again when the pool has changed; what
 * was granted and given back since is known (balance_traffic()).
 */
static void look_at_pool(struct balance *balance)
{
	struct pool_view *view = &balance->view;
	struct mm_counts counts;

	view->changes = pool_changes(balance->config.pool);
	mm_counts(pool_mm(balance->config.pool), -1, &counts);
	view->unused = counts.free - counts.isolated + counts.cached;
	view->present = counts.present - counts.quarantined; /* those nobody gets */
	pool_marks(balance->config.pool, &view->marks);
}

/* What VMs above their minimums could still be granted, of what was seen last. */
static uint64_t free_of_view(const struct balance *balance)
{
	struct pool_info info;

	pool_info(balance->config.pool, &info);
	return less(balance->view.unused, info.unclaimed);
}

/*
 * More is promised than there is. What the pool may still grow by does not count: it has grown for
 * a VM when that was admitted, as far as it could, and does not when one touches what it was
 * promised. Otherwise nobody who stays within its promise waits for another one.
 */
static bool overcommitted(const struct balance *balance)
{
	struct pool_info info;

	pool_info(balance->config.pool, &info);
	return info.committed + info.reserve > balance->view.present;
}

/* --- the table of VMs --- */

struct object_cache balance_entry_cache = OBJECT_CACHE(balance_entry, CLIENTS_PROMISED);

static struct balance_entry *find_entry(struct balance *balance, uint32_t id)
{
	struct balance_entry *entry = balance->entries;

	while (entry && entry->id != id)
		entry = entry->next;
	return entry;
}

/* A VM that is new here. NULL: no memory; it is left alone until there is some. */
static struct balance_entry *add_entry(struct balance *balance, uint32_t id)
{
	struct balance_entry *entry = object_zalloc(&balance_entry_cache);

	if (!entry)
		return NULL;
	entry->id = id;
	entry->next = balance->entries;
	balance->entries = entry;
	return entry;
}

/* Room for one VM more in this round's tables: each is doubled, and a failure changes nothing that
 * the next call does not do again. */
static bool ensure_room(struct balance *balance)
{
	unsigned int room = balance->room ? 2 * balance->room : 8;
	void *at;

	if (balance->nr_vms < balance->room)
		return true;
	at = krealloc(balance->vms, room * sizeof(*balance->vms), GFP_OBJECTS);
	if (!at)
		return false;
	balance->vms = at;
	at = krealloc(balance->of_vm, room * sizeof(struct balance_entry *), GFP_OBJECTS);
	if (!at)
		return false;
	balance->of_vm = at;
	at = krealloc(balance->steps, (size_t)room * STEPS_PER_VM * sizeof(*balance->steps),
		      GFP_OBJECTS);
	if (!at)
		return false;
	balance->steps = at;
	balance->room = room;
	return true;
}

/* A new report of the guest: whether it is growing, as far as that is not our doing. */
static void note_available(struct balance_entry *entry, const struct notice_status *status,
			   uint64_t age_ms, uint64_t now)
{
	uint64_t at = now > age_ms ? now - age_ms : 1;

	if (at < entry->stats_at + SAMPLE_MS)
		return;
	entry->available_change = 0;
	if (entry->stats_at && entry->taxed_at < entry->stats_at &&
	    entry->relieved_at < entry->stats_at)
		entry->available_change = (int64_t)status->available - (int64_t)entry->available;
	entry->available = status->available;
	entry->stats_at = at;
}

static void note_growth(struct balance_entry *entry, const struct notice_status *status,
			uint64_t now)
{
	uint64_t least = status->bound;
	bool stalled;

	if (status->stall_some_us + status->waits != entry->stalled_us)
		entry->stalled_at = now;
	entry->stalled_us = status->stall_some_us + status->waits;
	stalled = (status->flags & NOTICE_STATUS_WAITS) || now - entry->stalled_at < STALL_MS;
	if (since(entry->bound_at, now) >= GROWTH_MS / BOUND_SAMPLES) {
		memmove(entry->bound + 1, entry->bound, sizeof(entry->bound) - sizeof(uint64_t));
		entry->bound[0] = status->bound;
		entry->bound_at = now;
	}
	for (unsigned int i = 0; i < BOUND_SAMPLES; i++) {
		if (entry->bound[i] < least)
			least = entry->bound[i];
	}
	entry->growing =
		status->bound - least > status->max / GROWTH_SHARE || (entry->growing && stalled);
}

static void fill_vm(struct balance_vm *vm, struct balance_entry *entry,
		    const struct server_client_info *info, uint64_t now)
{
	const struct session *session = info->session;
	const struct notice_status *status = info->status;
	uint64_t age = status->stats_age_ms + info->status_age_ms;

	*vm = (struct balance_vm){
		.id = session->id,
		.shares = session->shares,
		.oom_score_adj = session->oom_score_adj,
		.min = session->guaranteed,
		.held = session->held,
		.bound = status->bound,
		.stock = status->stock,
		.target = status->target,
		.tax = entry->tax,
		.running = (status->flags & NOTICE_STATUS_RUNNING) && !entry->paused,
		.reached = (status->flags & NOTICE_STATUS_REACHED) && status->tax == entry->tax,
		.compacting = (status->flags & NOTICE_STATUS_COMPACTS) != 0,
		.reports = (status->flags & NOTICE_STATUS_AVAILABLE) != 0,
		.available = status->available,
		.total = status->guest_total,
		.stats_age_ms = age,
		.knows_idle = (status->flags & NOTICE_STATUS_IDLE) != 0,
		.idle_permille = status->idle_permille,
		.taxed_ms = since(entry->taxed_at, now),
		.still_ms = since(entry->moved_at, now),
		.relieved_ms = since(entry->relieved_at, now),
		.hinted_ms = since(entry->hinted_at, now),
		.stock_asked = entry->stock_asked,
		.can_hint = !entry->no_hint,
		.can_swap = !entry->no_swap,
		.swapping = since(entry->swapped_at, now) < SWAP_WAIT_MS ? entry->swap_asked : 0,
	};
	/* It cannot have more than it holds, whatever it says. */
	if (vm->bound > vm->held)
		vm->bound = vm->held;
	if (vm->stock > vm->held - vm->bound)
		vm->stock = vm->held - vm->bound;
	vm->pieces = entry->pieces = balance_pieces(vm, entry->pieces);
	note_growth(entry, status, now);
	if (status->bound < entry->floor)
		entry->floor = status->bound;
	vm->growing = entry->growing;
	if (vm->reports) {
		note_available(entry, status, age, now);
		vm->available_change = entry->available_change;
	}
}

/* The first report of a VM: what the owner before this one asked of it is this one's to end. */
static void take_over(struct balance_entry *entry, const struct session *session,
		      const struct notice_status *status)
{
	if (!session->adopted)
		return;
	entry->tax = status->tax;
	entry->floor = status->bound;
	/* What it had before is not known: it has not grown. */
	for (unsigned int i = 0; i < BOUND_SAMPLES; i++)
		entry->bound[i] = status->bound;
	entry->paused = (status->flags & NOTICE_STATUS_PAUSED) != 0;
	entry->paused_at = entry->paused ? now_ms() : 0;
}

/* Its user let it go on meanwhile: it counts again, and may be the next one that stops. */
static void note_resumed(struct balance_entry *entry, const struct server_client_info *info)
{
	const uint32_t flags = info->status->flags;

	if (entry->paused && entry->paused_at &&
	    now_ms() - info->status_age_ms > entry->paused_at && (flags & NOTICE_STATUS_RUNNING) &&
	    !(flags & NOTICE_STATUS_PAUSED))
		entry->paused = false;
}

/* Whether its guest gave something up since the status before. */
static bool moved(const struct balance_entry *entry, const struct notice_status *status)
{
	if (status->bound < entry->last.bound || status->balloon_in > entry->last.balloon_in)
		return true;
	/* A guest may be slow, and what its balloon takes first brings no frame. One that is there
	 * has less available because it works. */
	return status->available < entry->last.available && status->bound == entry->last.bound &&
	       !(status->flags & NOTICE_STATUS_REACHED);
}

/* Others ask ahead of need; and while its user has stopped it, it asks in vain for nobody. */
static void note_short(struct balance_entry *entry, const struct server_client_info *info)
{
	const uint32_t needs = NOTICE_STATUS_RUNNING | NOTICE_STATUS_WAITS;
	uint64_t now = now_ms();

	if ((info->status->flags & needs) != needs)
		entry->free_at = now;
	entry->short_for_ms = info->short_for_ms;
	if (entry->free_at && entry->short_for_ms > now - entry->free_at)
		entry->short_for_ms = now - entry->free_at;
}

static void see(void *opaque, const struct server_client_info *info)
{
	struct balance *balance = opaque;
	struct balance_entry *entry;

	if (!info->connected || !info->session->committed || balance->nr_vms == BALANCE_VMS_MAX)
		return;
	entry = find_entry(balance, info->session->id);
	if (!entry)
		entry = add_entry(balance, info->session->id);
	if (!entry)
		return;
	entry->seen = true;
	memcpy(entry->name, info->session->name, sizeof(entry->name));
	if (!info->status || !ensure_room(balance))
		return;
	if (!entry->has_last)
		take_over(entry, info->session, info->status);
	if (entry->has_last) {
		/* A VMM says what it likes: never less than nothing, nor more than the clock. */
		if (info->status->stall_some_us > entry->last.stall_some_us)
			entry->some_us += info->status->stall_some_us - entry->last.stall_some_us;
		if (info->status->stall_full_us > entry->last.stall_full_us)
			entry->full_us += info->status->stall_full_us - entry->last.stall_full_us;
	}
	note_resumed(entry, info);
	note_short(entry, info);
	if (entry->has_last && entry->tax && moved(entry, info->status))
		balance->last_progress = entry->moved_at = now_ms();
	entry->last = *info->status;
	entry->has_last = true;
	if (info->status->wait_max_us > balance->wait_max_us)
		balance->wait_max_us = info->status->wait_max_us;
	balance->of_vm[balance->nr_vms] = entry;
	fill_vm(&balance->vms[balance->nr_vms++], entry, info, now_ms());
}

static void add_gone(struct notice_status *gone, const struct notice_status *last)
{
	gone->faults += last->faults;
	gone->waits += last->waits;
	gone->swap_in += last->swap_in;
	gone->swap_out += last->swap_out;
	gone->balloon_in += last->balloon_in;
	gone->balloon_out += last->balloon_out;
}

void balance_refresh(struct balance *balance)
{
	struct balance_entry **link = &balance->entries, *entry;

	balance->nr_vms = 0;
	for (entry = balance->entries; entry; entry = entry->next)
		entry->seen = false;
	server_each(balance->config.server, see, balance);
	while ((entry = *link)) {
		if (entry->seen) {
			link = &entry->next;
			continue;
		}
		*link = entry->next;
		add_gone(&balance->gone, &entry->last);
		object_free(&balance_entry_cache, entry);
	}
}

static void set_watching(struct balance *balance, uint64_t free, const struct pool_marks *marks,
			 bool twice)
{
	uint64_t below = marks->high * (balance->watching ? WATCH_UNTIL : WATCH_FROM);

	/* Without a tax on them nobody's idle frames matter. */
	balance->watching = twice && balance->idle_tax && (balance->active || free < below);
}

static void set_pace(struct balance *balance, uint32_t pace)
{
	uint32_t flags = balance->watching ? NOTICE_ASK_IDLE : 0;

	for (struct balance_entry *entry = balance->entries; entry; entry = entry->next) {
		union notice_packet packet = {
			.ask = { .interval_ms = pace, .flags = flags },
		};

		if (entry->asked_ms == pace && entry->asked_flags == flags)
			continue;
		if (server_notice(balance->config.server, entry->id, &packet, NOTICE_ASK,
				  sizeof(packet.ask), NULL, NULL) < 0)
			continue;
		entry->asked_ms = pace;
		entry->asked_flags = flags;
	}
}

/* --- steps --- */

/* So many requests can be under way however short memory is: they are what brings some back. */
struct object_cache answer_cache = OBJECT_CACHE(answer, 16);

static void on_done(void *opaque, int status, uint64_t frames)
{
	struct answer *answer = opaque;
	struct balance_entry *entry = find_entry(answer->balance, answer->id);

	(void)frames;
	if (entry && answer->kind == BALANCE_STOCK)
		entry->stock_asked = false;
	if (entry && status == -EOPNOTSUPP) {
		entry->no_hint |= answer->kind == BALANCE_HINT;
		entry->no_swap |= answer->kind == BALANCE_SWAP;
	}
	object_free(&answer_cache, answer);
}

static int send_step(struct balance *balance, const struct balance_step *step)
{
	bool tax = step->kind == BALANCE_TAX || step->kind == BALANCE_RELIEF;
	union notice_packet packet = { .header = { 0 } };
	struct answer *answer = object_zalloc(&answer_cache);
	int ret;

	if (!answer)
		return -ENOMEM;
	*answer = (struct answer){ .balance = balance, .id = step->id, .kind = step->kind };
	if (tax) {
		packet.target.tax_frames = step->frames;
		ret = server_notice(balance->config.server, step->id, &packet, NOTICE_TARGET,
				    sizeof(packet.target), on_done, answer);
	} else {
		packet.reclaim.kind = step->kind == BALANCE_STOCK  ? NOTICE_RECLAIM_STOCK
				      : step->kind == BALANCE_HINT ? NOTICE_RECLAIM_HINT
								   : NOTICE_RECLAIM_SWAP_OUT;
		packet.reclaim.nr_frames = step->kind == BALANCE_STOCK ? 0 : step->frames;
		ret = server_notice(balance->config.server, step->id, &packet, NOTICE_RECLAIM,
				    sizeof(packet.reclaim), on_done, answer);
	}
	if (ret < 0)
		object_free(&answer_cache, answer);
	return ret;
}

/* While somebody waits it is direct reclaim. */
static void note_asked(struct balance *balance, uint64_t frames, uint64_t now)
{
	if (now - balance->last_short < 2 * ROUND_MS)
		balance->asked_direct += frames;
	else
		balance->asked_kswapd += frames;
}

static void take_step(struct balance *balance, const struct balance_step *step, uint64_t now)
{
	struct balance_entry *entry = find_entry(balance, step->id);

	/* A VM that does not read is asked again in the next round. */
	if (!entry || send_step(balance, step) < 0)
		return;
	switch (step->kind) {
	case BALANCE_STOCK:
		entry->stock_asked = true;
		balance->stock_asks++;
		note_asked(balance, step->frames, now);
		break;
	case BALANCE_HINT:
		entry->hinted_at = now;
		balance->hints++;
		break;
	case BALANCE_TAX:
		balance->taxes++;
		note_asked(balance, step->frames - entry->tax, now);
		/* What it took of what it was given back is its own. */
		if (!entry->tax || entry->relieved_at > entry->taxed_at)
			entry->floor = entry->last.bound;
		entry->tax = step->frames;
		entry->taxed_at = now;
		break;
	case BALANCE_RELIEF:
		balance->reliefs++;
		entry->tax = step->frames;
		entry->relieved_at = now;
		break;
	case BALANCE_SWAP:
		balance->swap_asks++;
		note_asked(balance, step->frames, now);
		entry->swap_asked = step->frames;
		entry->swapped_at = now;
		break;
	}
}

/* --- rounds --- */

static void arm(struct balance *balance, uint64_t delay_ms)
{
	uint64_t at = now_ms() + delay_ms;

	if (balance->due_at && balance->due_at <= at)
		return;
	balance->due_at = at;
	event_timer_arm(balance->timer, delay_ms, 0);
}

static void tell_episode(struct balance *balance, const char *name, uint64_t free,
			 const struct pool_marks *marks, uint64_t ms)
{
	json_t *data = json_pack("{s:I, s:I, s:I}", "free", (json_int_t)free, "low",
				 (json_int_t)marks->low, "high", (json_int_t)marks->high);

	if (ms)
		json_object_set_new(data, "duration-ms", json_integer((json_int_t)ms));
	balance->config.event(balance->config.opaque, name, data);
}

/* Between low and high it goes on with what it did, as long as anybody has to do without. */
static void set_active(struct balance *balance, uint64_t free, const struct pool_marks *marks,
		       bool twice)
{
	uint64_t now = now_ms();

	if (twice && !balance->active && free < marks->low) {
		balance->active = true;
		balance->active_since = now;
		balance->last_return = now;
		balance->wakes++;
		tell_episode(balance, "RECLAIM_BEGIN", free, marks, 0);
	} else if (balance->active && (!twice || free >= marks->high)) {
		uint64_t ms = now - balance->active_since;

		balance->active = false;
		balance->episode_ms[balance->nr_episodes++ % EPISODES_MAX] = (uint32_t)ms;
		tell_episode(balance, "RECLAIM_END", free, marks, ms ? ms : 1);
	}
}

static void note_free(struct balance *balance, uint64_t free)
{
	uint64_t now = now_ms();

	if (since(balance->least_at, now) >= LEAST_MS) {
		memmove(balance->least + 1, balance->least,
			sizeof(balance->least) - sizeof(uint64_t));
		balance->least[0] = free;
		balance->least_at = now;
	}
	if (free < balance->least[0])
		balance->least[0] = free;
}

static uint64_t least_free(const struct balance *balance)
{
	uint64_t least = balance->least[0];

	for (unsigned int i = 1; i < LEAST_SAMPLES; i++)
		if (balance->least[i] < least)
			least = balance->least[i];
	return least;
}

static struct balance_input input_of(const struct balance *balance, uint64_t free,
				     const struct pool_marks *marks, bool twice)
{
	return (struct balance_input){
		.twice = twice,
		.free = free,
		.min = marks->min,
		.low = marks->low,
		.high = marks->high,
		.active = balance->active,
		.least_free = least_free(balance),
		.idle_tax = balance->idle_tax,
		.step = balance->step,
		.stats_age_max = balance->stats_age_max,
		.vms = balance->vms,
		.nr_vms = balance->nr_vms,
	};
}

/* Work is under way that waits for the next round. */
static bool in_a_hurry(const struct balance *balance, const struct balance_input *input)
{
	bool hurry = balance->active;

	for (unsigned int i = 0; i < balance->nr_vms && !hurry; i++)
		hurry = balance_in_need(&balance->vms[i], input);
	return hurry;
}

static void work(struct balance *balance, const struct balance_input *input)
{
	unsigned int nr = balance_decide(input, balance->steps, balance->room * STEPS_PER_VM);
	uint64_t now = now_ms();

	for (unsigned int i = 0; i < nr; i++)
		take_step(balance, &balance->steps[i], now);
}

static void on_round(void *opaque)
{
	struct balance *balance = opaque;
	struct balance_input input;
	struct pool_marks marks;
	uint64_t free;
	bool twice, hurry;

	balance->due_at = 0;
	balance->rounds++;
	look_at_pool(balance);
	free = free_of_view(balance);
	twice = overcommitted(balance);
	balance_refresh(balance);
	balance_marks(balance, &marks);
	balance_update_pressure(balance);
	note_free(balance, free);
	set_active(balance, free, &marks, twice);
	set_watching(balance, free, &marks, twice);
	input = input_of(balance, free, &marks, twice);
	hurry = in_a_hurry(balance, &input);
	set_pace(balance, hurry ? PACE_ACTIVE : twice ? PACE_SLOW : PACE_REST);
	work(balance, &input);
	balance_keep_for_payers(balance, twice, &marks);
	balance_oom(balance, free, &marks);
	balance_resume(balance, free, !twice || free >= marks.high);
	arm(balance, hurry ? ROUND_MS : twice ? SLOW_MS : REST_MS);
}

/* Whether reclaim has to begin, by what was seen last. */
static bool short_of_frames(const struct balance *balance)
{
	struct pool_marks marks;

	balance_marks(balance, &marks);
	return free_of_view(balance) < marks.low && overcommitted(balance);
}

void balance_traffic(void *opaque, uint64_t asked, uint64_t got, uint64_t returned)
{
	struct balance *balance = opaque;
	struct pool_view *view = &balance->view;
	uint64_t now = now_ms();

	view->unused = less(view->unused + returned, got);
	if (returned) {
		balance->last_return = now;
		/* Stolen for somebody who waits already: that is direct reclaim. */
		if (balance->active && now - balance->last_short < ROUND_MS)
			balance->stolen_direct += returned;
		else if (balance->active)
			balance->stolen_kswapd += returned;
		return;
	}
	if (asked && got == 0) {
		balance->last_short = now;
		balance->stalls++;
		arm(balance, 1);
		return;
	}
	if (balance->active)
		return;
	if (view->changes != pool_changes(balance->config.pool))
		look_at_pool(balance);
	if (!short_of_frames(balance))
		return;
	look_at_pool(balance);
	if (short_of_frames(balance))
		arm(balance, 1);
}

struct balance *balance_create(const struct balance_config *config, struct error *err)
{
	struct balance *balance = calloc(1, sizeof(*balance));

	if (!balance)
		goto fail;
	balance->config = *config;
	balance->idle_tax = 75;
	balance->step = 5;
	balance->stats_age_max = 10000;
	balance->oom_delay = OOM_DELAY_MS;
	balance->timer = event_timer_create(config->loop, on_round, balance);
	if (!balance->timer)
		goto fail;
	look_at_pool(balance);
	arm(balance, SLOW_MS);
	return balance;
fail:
	balance_destroy(balance);
	error_set(err, ENOMEM, "no memory for the pool's policy");
	return NULL;
}

void balance_destroy(struct balance *balance)
{
	if (!balance)
		return;
	event_timer_destroy(balance->timer);
	while (balance->entries) {
		struct balance_entry *entry = balance->entries;

		balance->entries = entry->next;
		object_free(&balance_entry_cache, entry);
	}
	kfree(balance->vms);
	kfree(balance->of_vm);
	kfree(balance->steps);
	free(balance);
}
