/* SPDX-License-Identifier: MIT */
/*
 * The balloon's statistics queue (virtio 1.2, 5.5.6.4). It runs backwards: the driver leaves one
 * buffer with its numbers, the device keeps it and gives it back when it wants new ones.
 */
#include <endian.h>
#include <errno.h>
#include <string.h>
#include <time.h>

#include "devices/virtio_balloon_internal.h"
#include "framevisor/clock.h"

/* What is looked at of one buffer; Linux sends 16 at most. The rest is ignored, as unknown tags
 * are. */
#define ENTRIES_MAX 64

struct stat_entry {
	uint16_t tag;
	uint64_t value;
} __attribute__((packed));

_Static_assert(sizeof(struct stat_entry) == 10, "entries have 10 bytes");

const char *const virtio_balloon_stat_names[BALLOON_STATS] = {
	[BALLOON_STAT_SWAP_IN] = "stat-swap-in",
	[BALLOON_STAT_SWAP_OUT] = "stat-swap-out",
	[BALLOON_STAT_MAJOR_FAULTS] = "stat-major-faults",
	[BALLOON_STAT_MINOR_FAULTS] = "stat-minor-faults",
	[BALLOON_STAT_FREE] = "stat-free-memory",
	[BALLOON_STAT_TOTAL] = "stat-total-memory",
	[BALLOON_STAT_AVAILABLE] = "stat-available-memory",
	[BALLOON_STAT_CACHES] = "stat-disk-caches",
	[BALLOON_STAT_HUGETLB_ALLOC] = "stat-htlb-pgalloc",
	[BALLOON_STAT_HUGETLB_FAIL] = "stat-htlb-pgfail",
	[BALLOON_STAT_OOM_KILL] = "stat-oom-kills",
	[BALLOON_STAT_ALLOC_STALL] = "stat-alloc-stalls",
	[BALLOON_STAT_ASYNC_SCAN] = "stat-async-scans",
	[BALLOON_STAT_DIRECT_SCAN] = "stat-direct-scans",
	[BALLOON_STAT_ASYNC_RECLAIM] = "stat-async-reclaims",
	[BALLOON_STAT_DIRECT_RECLAIM] = "stat-direct-reclaims",
};

/* Takes the numbers of balloon->chain over. The driver supplies the same set each time, but what it
 * left out must not look fresh. */
static void read_entries(struct virtio_balloon *balloon)
{
	struct balloon_statistics *statistics = &balloon->statistics;
	struct stat_entry entries[ENTRIES_MAX];
	struct timespec now;
	size_t n;

	n = virtq_chain_read(balloon->dev.host->mem, &balloon->chain, 0, entries, sizeof(entries));
	statistics->valid = 0;
	for (size_t i = 0; i < n / sizeof(entries[0]); i++) {
		uint16_t tag = le16toh(entries[i].tag);

		if (tag >= BALLOON_STATS)
			continue;
		statistics->values[tag] = le64toh(entries[i].value);
		statistics->valid |= 1u << tag;
	}
	clock_gettime(CLOCK_REALTIME, &now);
	statistics->arrived = now.tv_sec;
	statistics->arrived_ms = now_ms();
	statistics->asked = false;
}

void balloon_statistics_notify(struct virtio_balloon *balloon, unsigned int queue)
{
	struct balloon_statistics *statistics = &balloon->statistics;
	struct virtqueue *vq = virtio_queue(&balloon->vdev, queue);

	if (!vq)
		return;
	while (virtqueue_get_chain(vq, &balloon->chain) > 0) {
		if (statistics->held) {
			virtio_broken(&balloon->vdev, "more than one statistics buffer");
			return;
		}
		statistics->held = true;
		statistics->head = balloon->chain.head;
		read_entries(balloon);
	}
	virtio_finish_queue(&balloon->vdev, queue);
}

/* The next poll is due. A guest that has not answered the last one is not asked again. */
static void on_interval(void *opaque)
{
	struct virtio_balloon *balloon = opaque;
	struct balloon_statistics *statistics = &balloon->statistics;
	struct virtqueue *vq;
	unsigned int queue;

	pthread_mutex_lock(&balloon->vdev.lock);
	vq = balloon_queue(balloon, BALLOON_STATISTICS, &queue);
	if (vq && statistics->held) {
		statistics->held = false;
		statistics->asked = true;
		statistics->asked_ms = now_ms();
		virtqueue_push_used(vq, statistics->head, 0);
		virtio_finish_queue(&balloon->vdev, queue);
	}
	pthread_mutex_unlock(&balloon->vdev.lock);
}

void virtio_balloon_set_stats_interval(struct virtio_balloon *balloon, unsigned int seconds)
{
	struct balloon_statistics *statistics = &balloon->statistics;

	pthread_mutex_lock(&balloon->vdev.lock);
	statistics->interval = seconds;
	if (seconds)
		event_timer_arm(statistics->timer, 1, (uint64_t)seconds * 1000);
	else
		event_timer_disarm(statistics->timer);
	pthread_mutex_unlock(&balloon->vdev.lock);
}

void virtio_balloon_guest_stats(struct virtio_balloon *balloon,
				struct virtio_balloon_guest_stats *stats)
{
	struct balloon_statistics *statistics = &balloon->statistics;
	uint64_t now = now_ms();

	pthread_mutex_lock(&balloon->vdev.lock);
	memset(stats, 0, sizeof(*stats));
	stats->valid = statistics->valid;
	memcpy(stats->values, statistics->values, sizeof(stats->values));
	/* The clock was read before the lock was taken. */
	if (stats->valid && now > statistics->arrived_ms)
		stats->age_ms = now - statistics->arrived_ms;
	if (statistics->asked && now > statistics->asked_ms)
		stats->unanswered_ms = now - statistics->asked_ms;
	stats->last_update = statistics->arrived;
	stats->interval = statistics->interval;
	if (stats->interval) {
		uint64_t limit = (uint64_t)stats->interval * 1000;

		stats->stale = !virtio_has_feature(&balloon->vdev, VIRTIO_BALLOON_F_STATS_VQ) ||
			       !virtio_driver_ready(&balloon->vdev) ||
			       (balloon->vdev.status & VIRTIO_CONFIG_S_NEEDS_RESET) ||
			       !(statistics->held || statistics->asked) ||
			       (statistics->asked && now > statistics->asked_ms + limit);
	}
	pthread_mutex_unlock(&balloon->vdev.lock);
}

int balloon_statistics_create(struct virtio_balloon *balloon)
{
	balloon->statistics.timer =
		event_timer_create(balloon->dev.host->loop, on_interval, balloon);
	return balloon->statistics.timer ? 0 : -errno;
}

void balloon_statistics_destroy(struct virtio_balloon *balloon)
{
	event_timer_destroy(balloon->statistics.timer);
}

/* The numbers were those of a driver that is gone; the wish to be told goes on. */
void balloon_statistics_reset(struct virtio_balloon *balloon)
{
	struct balloon_statistics *statistics = &balloon->statistics;

	statistics->held = false;
	statistics->asked = false;
	statistics->valid = 0;
	memset(statistics->values, 0, sizeof(statistics->values));
	statistics->arrived = 0;
	statistics->arrived_ms = 0;
}
