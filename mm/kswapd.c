/* SPDX-License-Identifier: MIT */
/*
 * kswapd: a thread per node that reclaims before memory runs out. An allocation that finds a zone
 * below its low mark wakes it; it works until one zone that the allocation could use is above its
 * high mark, and rests when nothing can be reclaimed. Twice a second it looks after fragmentation
 * and after the caches of CPUs that went idle.
 */
#include <errno.h>
#include <time.h>

#include "framevisor/clock.h"
#include "mm/compaction_internal.h"
#include "mm/vmscan_internal.h"

/* Kernel: HPAGE_FRAG_CHECK_INTERVAL_MSEC. */
#define TICK_NS 500000000

/* Kernel: pgdat_balanced(): any eligible zone at its high mark is enough. */
bool pgdat_balanced(const pg_data_t *pgdat, unsigned int order, enum zone_type highest_zoneidx)
{
	bool managed = false;

	for (unsigned int type = 0; type <= highest_zoneidx; type++) {
		const struct zone *zone = &pgdat->node_zones[type];

		if (!managed_zone(zone))
			continue;
		managed = true;
		if (zone_watermark_ok(zone, order, wmark_pages(zone, WMARK_HIGH), highest_zoneidx,
				      0))
			return true;
	}
	return !managed;
}

static void set_reclaiming(pg_data_t *pgdat, bool on)
{
	for (unsigned int type = 0; type < MAX_NR_ZONES; type++) {
		uint32_t *flags = &pgdat->node_zones[type].flags;

		if (on)
			__atomic_fetch_or(flags, ZONE_FLAG_RECLAIMING, __ATOMIC_RELAXED);
		else
			__atomic_fetch_and(flags, ~ZONE_FLAG_RECLAIMING, __ATOMIC_RELAXED);
	}
}

static void read_boost(const pg_data_t *pgdat, uint64_t *boost)
{
	for (unsigned int type = 0; type < MAX_NR_ZONES; type++)
		boost[type] = zone_read(&pgdat->node_zones[type], watermark_boost);
}

/*
 * The boost that was there at the start asked for this round's work and has had it, whatever came
 * of it. What was added meanwhile asks for another one, and who added it has not necessarily woken
 * this thread yet: the flag stays for that.
 */
static void clear_boost(pg_data_t *pgdat, const uint64_t *seen)
{
	for (unsigned int type = 0; type < MAX_NR_ZONES; type++) {
		struct zone *zone = &pgdat->node_zones[type];
		uint64_t boost;

		spin_lock(&zone->lock);
		boost = zone->watermark_boost > seen[type] ? zone->watermark_boost - seen[type] : 0;
		__atomic_store_n(&zone->watermark_boost, boost, __ATOMIC_RELAXED);
		if (boost == 0)
			__atomic_fetch_and(&zone->flags, ~ZONE_FLAG_BOOSTED, __ATOMIC_RELAXED);
		spin_unlock(&zone->lock);
	}
}

/* Kernel: balance_pgdat(). */
static void balance_pgdat(struct mm *mm, pg_data_t *pgdat, unsigned int order,
			  enum zone_type highest_zoneidx)
{
	struct scan_control sc = { .gfp = GFP_KERNEL, .priority = DEF_PRIORITY, .kswapd = true };
	uint64_t boost[MAX_NR_ZONES], reclaimed = 0;
	unsigned int asked = order;

	count_vm_events(mm, PAGEOUTRUN, 1);
	read_boost(pgdat, boost);
	set_reclaiming(pgdat, true);
	/* What lies idle in caches costs nobody anything. */
	mm_drain_all_pages(mm);
	while (sc.priority >= 1 && !pgdat_balanced(pgdat, order, highest_zoneidx) &&
	       !__atomic_load_n(&pgdat->kswapd_stop, __ATOMIC_RELAXED)) {
		sc.nr_reclaimed = 0;
		sc.nr_to_reclaim = RECLAIM_BATCH * 4;
		shrink_node(mm, pgdat, &sc);
		reclaimed += sc.nr_reclaimed;
		mm_drain_all_pages(mm);
		if (sc.nr_reclaimed < sc.nr_to_reclaim)
			sc.priority--;
		/* Enough to make a block of: now they have to be moved together. */
		if (order > 0 && reclaimed >= compact_gap(order))
			order = 0;
	}
	set_reclaiming(pgdat, false);
	clear_boost(pgdat, boost);
	for (unsigned int type = 0; type < MAX_NR_ZONES; type++)
		note_above_high(&pgdat->node_zones[type]);
	if (reclaimed == 0 && !pgdat_balanced(pgdat, order, highest_zoneidx))
		__atomic_add_fetch(&pgdat->kswapd_failures, 1, __ATOMIC_RELAXED);
	kcompactd_do_work(pgdat, asked, highest_zoneidx);
}

/* Waits until something is asked, or for a tick. Returns whether it was the tick. */
static bool wait_for_work(pg_data_t *pgdat)
{
	const struct timespec until = deadline_after(TICK_NS);

	return pthread_cond_timedwait(&pgdat->kswapd_wait, &pgdat->kswapd_lock, &until) ==
	       ETIMEDOUT;
}

static void tick(pg_data_t *pgdat)
{
	drain_idle_pages(pgdat);
	kcompactd_proactive(pgdat);
}

static void *kswapd(void *arg)
{
	pg_data_t *pgdat = arg;

	pthread_mutex_lock(&pgdat->kswapd_lock);
	while (!pgdat->kswapd_stop) {
		int order = pgdat->kswapd_order;
		int highest = pgdat->kswapd_highest_zoneidx;

		if (order < 0) {
			if (wait_for_work(pgdat)) {
				pthread_mutex_unlock(&pgdat->kswapd_lock);
				tick(pgdat);
				pthread_mutex_lock(&pgdat->kswapd_lock);
			}
			continue;
		}
		pgdat->kswapd_order = -1;
		pgdat->kswapd_highest_zoneidx = 0;
		pthread_mutex_unlock(&pgdat->kswapd_lock);
		balance_pgdat(pgdat->mm, pgdat, (unsigned int)order, (enum zone_type)highest);
		pthread_mutex_lock(&pgdat->kswapd_lock);
	}
	pthread_mutex_unlock(&pgdat->kswapd_lock);
	return NULL;
}

/* Kernel: wakeup_kswapd(). Cheap when there is nothing to do: most calls are such. */
void wakeup_kswapd(struct zone *zone, unsigned int order, enum zone_type highest_zoneidx)
{
	pg_data_t *pgdat = zone->zone_pgdat;
	bool boosted = zone_read(zone, flags) & ZONE_FLAG_BOOSTED;

	if (!__atomic_load_n(&pgdat->kswapd_running, __ATOMIC_ACQUIRE) || !managed_zone(zone))
		return;
	if (!boosted &&
	    (pgdat_balanced(pgdat, order, highest_zoneidx) ||
	     __atomic_load_n(&pgdat->kswapd_failures, __ATOMIC_RELAXED) >= MAX_RECLAIM_RETRIES))
		return;
	pthread_mutex_lock(&pgdat->kswapd_lock);
	if ((int)order > pgdat->kswapd_order)
		pgdat->kswapd_order = (int)order;
	if ((int)highest_zoneidx > pgdat->kswapd_highest_zoneidx)
		pgdat->kswapd_highest_zoneidx = (int)highest_zoneidx;
	pthread_cond_signal(&pgdat->kswapd_wait);
	pthread_mutex_unlock(&pgdat->kswapd_lock);
}

static int start_one(pg_data_t *pgdat)
{
	pthread_condattr_t attr;
	int ret;

	if (pgdat->kswapd_running)
		return 0;
	pthread_mutex_init(&pgdat->kswapd_lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&pgdat->kswapd_wait, &attr);
	pthread_condattr_destroy(&attr);
	pgdat->kswapd_order = -1;
	pgdat->kswapd_stop = false;
	ret = pthread_create(&pgdat->kswapd, NULL, kswapd, pgdat);
	if (ret == 0)
		__atomic_store_n(&pgdat->kswapd_running, true, __ATOMIC_RELEASE);
	return -ret;
}

int mm_start_kswapd(struct mm *mm)
{
	int ret = 0;

	for (unsigned int nid = 0; nid < mm->nr_nodes && ret == 0; nid++)
		ret = start_one(mm->node[nid]);
	if (ret)
		mm_stop_kswapd(mm);
	return ret;
}

/* Nobody allocates meanwhile who could wake a thread that ends. */
void mm_stop_kswapd(struct mm *mm)
{
	for (unsigned int nid = 0; nid < mm->nr_nodes; nid++) {
		pg_data_t *pgdat = mm->node[nid];

		if (!pgdat->kswapd_running)
			continue;
		pthread_mutex_lock(&pgdat->kswapd_lock);
		__atomic_store_n(&pgdat->kswapd_running, false, __ATOMIC_RELEASE);
		__atomic_store_n(&pgdat->kswapd_stop, true, __ATOMIC_RELAXED);
		pthread_cond_signal(&pgdat->kswapd_wait);
		pthread_mutex_unlock(&pgdat->kswapd_lock);
		pthread_join(pgdat->kswapd, NULL);
		pthread_cond_destroy(&pgdat->kswapd_wait);
		pthread_mutex_destroy(&pgdat->kswapd_lock);
	}
}
