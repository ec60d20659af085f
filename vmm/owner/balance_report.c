/* SPDX-License-Identifier: MIT */
/* Settings, counters and stall times of the balancer: see balance.h. */
#include "vmm/owner/balance_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "framevisor/clock.h"
#include "framevisor/vmstat.h"

#define PRESSURE_MS 2000 /* the kernel's PSI_FREQ */

/* --- settings --- */

struct number {
	const char *name;
	uint64_t min, max;
};

static const struct number numbers[] = {
	{ "idle_tax", 0, 99 },
	{ "reclaim_step", 1, 50 },
	{ "stats_age_max_ms", 1000, 600000 },
	{ "oom_delay_ms", 2500, 600000 },
};

static uint64_t get_number(const struct balance *balance, unsigned int n)
{
	const uint64_t values[] = { balance->idle_tax, balance->step, balance->stats_age_max,
				    balance->oom_delay };

	return values[n];
}

static void set_number(struct balance *balance, unsigned int n, uint64_t value)
{
	switch (n) {
	case 0:
		balance->idle_tax = (unsigned int)value;
		break;
	case 1:
		balance->step = (unsigned int)value;
		break;
	case 2:
		balance->stats_age_max = value;
		break;
	default:
		balance->oom_delay = value;
		break;
	}
}

int balance_setting_set(struct balance *balance, const char *name, const char *value,
			struct error *err)
{
	if (strcmp(name, "oom_policy") == 0) {
		if (strcmp(value, "pause") != 0 && strcmp(value, "kill") != 0)
			return error_set(err, EINVAL, "oom_policy is pause or kill, not '%s'",
					 value);
		balance->oom_policy =
			strcmp(value, "kill") == 0 ? OOM_POLICY_KILL : OOM_POLICY_PAUSE;
		return 0;
	}
	for (unsigned int n = 0; n < sizeof(numbers) / sizeof(numbers[0]); n++) {
		char *end = NULL;
		uint64_t number;

		if (strcmp(numbers[n].name, name) != 0)
			continue;
		errno = 0;
		number = strtoull(value, &end, 10);
		if (value[0] < '0' || value[0] > '9' || *end || errno || number < numbers[n].min ||
		    number > numbers[n].max)
			return error_set(err, EINVAL, "%s is a number from %llu to %llu, not '%s'",
					 name, (unsigned long long)numbers[n].min,
					 (unsigned long long)numbers[n].max, value);
		set_number(balance, n, number);
		return 0;
	}
	return -ENOENT;
}

void balance_settings(struct balance *balance, json_t *object)
{
	json_object_set_new(object, "oom_policy",
			    json_string(balance->oom_policy == OOM_POLICY_KILL ? "kill" : "pause"));
	for (unsigned int n = 0; n < sizeof(numbers) / sizeof(numbers[0]); n++)
		json_object_set_new(object, numbers[n].name,
				    json_integer((json_int_t)get_number(balance, n)));
}

/* --- counters --- */

static void set(json_t *object, const char *name, uint64_t value)
{
	json_object_set_new(object, name, json_integer((json_int_t)value));
}

/* "name value" lines. */
static void add_lines(json_t *object, char *text)
{
	char *rest = text, *line;

	while ((line = strsep(&rest, "\n"))) {
		char *space = strchr(line, ' ');

		if (!space)
			continue;
		*space = '\0';
		set(object, line, strtoull(space + 1, NULL, 10));
	}
}

static void add_allocator(json_t *object, struct mm *mm)
{
	size_t size = (size_t)mm_report_vmstat(mm, NULL, 0) + 4096;
	char *text = kmalloc(size, GFP_OBJECTS);

	if (!text)
		return;
	mm_report_vmstat(mm, text, size);
	add_lines(object, text);
	kfree(text);
}

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static void add_episodes(json_t *object, const struct balance *balance)
{
	unsigned int nr = balance->nr_episodes < EPISODES_MAX ? balance->nr_episodes : EPISODES_MAX;
	uint32_t sorted[EPISODES_MAX];

	memcpy(sorted, balance->episode_ms, nr * sizeof(sorted[0]));
	qsort(sorted, nr, sizeof(sorted[0]), compare);
	set(object, "reclaim_episodes", balance->nr_episodes);
	set(object, "reclaim_median_ms", nr ? sorted[nr / 2] : 0);
	set(object, "reclaim_p99_ms", nr ? sorted[(nr * 99 + 99) / 100 - 1] : 0);
	set(object, "reclaim_max_ms", nr ? sorted[nr - 1] : 0);
}

json_t *balance_vmstat(struct balance *balance)
{
	json_t *object = json_object();
	struct notice_status sum;
	uint64_t tax = 0;

	balance_refresh(balance);
	sum = balance->gone;
	for (unsigned int i = 0; i < balance->nr_vms; i++) {
		const struct notice_status *last = &balance->of_vm[i]->last;

		sum.faults += last->faults;
		sum.waits += last->waits;
		sum.swap_in += last->swap_in;
		sum.swap_out += last->swap_out;
		sum.balloon_in += last->balloon_in;
		sum.balloon_out += last->balloon_out;
		tax += balance->of_vm[i]->tax;
	}
	add_allocator(object, pool_mm(balance->config.pool));
	set(object, "pgfault", sum.faults);
	set(object, "pgfault_waited", sum.waits);
	set(object, "pgfault_wait_max_us", balance->wait_max_us);
	set(object, "pswpin", sum.swap_in);
	set(object, "pswpout", sum.swap_out);
	set(object, "balloon_inflate", sum.balloon_in);
	set(object, "balloon_deflate", sum.balloon_out);
	/* Frames asked of VMs are this kswapd's scan, frames they gave its steal. */
	set(object, "pgscan_kswapd", balance->asked_kswapd);
	set(object, "pgscan_direct", balance->asked_direct);
	set(object, "pgsteal_kswapd", balance->stolen_kswapd);
	set(object, "pgsteal_direct", balance->stolen_direct);
	set(object, "allocstall", balance->stalls);
	set(object, "pageoutrun", balance->wakes);
	set(object, "kswapd_rounds", balance->rounds);
	set(object, "tax_frames", tax);
	set(object, "tax_steps", balance->taxes);
	set(object, "tax_reliefs", balance->reliefs);
	set(object, "stock_requests", balance->stock_asks);
	set(object, "hint_requests", balance->hints);
	set(object, "swap_requests", balance->swap_asks);
	set(object, "oom_pause", balance->oom_pauses);
	set(object, "oom_resume", balance->oom_resumes);
	set(object, "oom_kill", balance->oom_kills);
	add_episodes(object, balance);
	return object;
}

/* --- pressure --- */

/* A first order filter: what the kernel's exponential decay comes to. */
static void average(double *avg, double percent, double dt_ms, double window_ms)
{
	*avg += (percent - *avg) * dt_ms / (window_ms + dt_ms);
}

static void add_stall(struct pressure *pressure, uint64_t us, uint64_t dt_ms)
{
	uint64_t most = dt_ms * 1000;
	double percent;

	if (us > most)
		us = most;
	pressure->total_us += us;
	percent = (double)us / (double)most * 100;
	average(&pressure->avg10, percent, (double)dt_ms, 10000);
	average(&pressure->avg60, percent, (double)dt_ms, 60000);
	average(&pressure->avg300, percent, (double)dt_ms, 300000);
}

/*
 * Some: the VM that stalled longest stands for "at least one of them". Full: the one that stalled
 * least for "all of them at once". Both are bounds; who stalled with whom is not known.
 */
void balance_update_pressure(struct balance *balance)
{
	uint64_t now = now_ms(), dt = now - balance->pressure_at;
	uint64_t some = 0, full = UINT64_MAX;

	if (balance->pressure_at && dt < PRESSURE_MS)
		return;
	balance->pressure_at = now;
	if (dt == now) /* the first look */
		return;
	for (unsigned int i = 0; i < balance->nr_vms; i++) {
		struct balance_entry *entry = balance->of_vm[i];

		if (entry->some_us > some)
			some = entry->some_us;
		if (entry->full_us < full)
			full = entry->full_us;
		entry->some_us = entry->full_us = 0;
	}
	add_stall(&balance->some, some, dt);
	add_stall(&balance->full, balance->nr_vms ? full : 0, dt);
}

static json_t *pressure_json(const struct pressure *pressure)
{
	return json_pack("{s:f, s:f, s:f, s:I}", "avg10", pressure->avg10, "avg60", pressure->avg60,
			 "avg300", pressure->avg300, "total-us", (json_int_t)pressure->total_us);
}

json_t *balance_pressure(struct balance *balance)
{
	balance_refresh(balance);
	balance_update_pressure(balance);
	return json_pack("{s:o, s:o}", "some", pressure_json(&balance->some), "full",
			 pressure_json(&balance->full));
}
