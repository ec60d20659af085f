/* SPDX-License-Identifier: MIT */
/*
 * virtio-balloon (virtio 1.2, section 5.5), device ID 5, on frames: with a persistent map of 512
 * bits per frame, in which an inflated guest page sets its bit and a deflated one clears it. A
 * frame whose map is full goes back to the pool.
 *
 * The six features, and when a frame may leave:
 *
 * MUST_TELL_HOST. A frame is backed again, or promised for its next touch while there is plenty
 * (guest_frame_ops.promise()), before the deflate that touches it is acknowledged.
 * Between messages the maps are true only for a driver that accepted this: one that did not may
 * take pages back before it tells.
 *
 * DEFLATE_ON_OOM. The guest may take pages back beyond the target when it runs out of memory; it
 * tells as always. (Linux then also keeps ballooned pages in its MemTotal.)
 *
 * STATS_VQ. The driver leaves a buffer with its numbers here, and the device returns it to ask for
 * new ones: virtio_balloon_set_stats_interval(), virtio_balloon_guest_stats().
 *
 * PAGE_REPORTING. The driver isolates free pages, reports them, and does not use them before the
 * report is acknowledged; afterwards it may use them at any time without telling. So a frame can
 * leave only while the report that covers it is open: ranges of one report are put together and
 * cut to whole frames, and a frame of which they cover only a part leaves if all its other pages
 * are in the balloon (with MUST_TELL_HOST: they cannot be in use). What is left over is not kept
 * for a later report: a page of it may be in use by then, and nobody would have told; a frame that
 * looked complete over several reports could hold live data. (Linux reports blocks of 2 MiB and
 * more, so nothing is left over there.)
 *
 * PAGE_POISON. A driver that fills free pages with poison_val expects it in reported pages (virtio
 * 1.2, 5.5.6.7: they must not change to another value). A frame that returns is zeroed. So reports
 * are served if poison_val is 0 or the feature was not accepted, and otherwise acknowledged with
 * nothing taken. Inflated and hinted pages are initialised by the driver itself.
 *
 * FREE_PAGE_HINT. virtio_balloon_start_hint() asks for all that is free now. A hint promises
 * nothing: the driver may use the page again at once without telling (Linux does, when its shrinker
 * takes blocks off the list of hinted pages), even before the device has seen the hint. What the
 * device may do (5.5.6.5) is to drop pages that were not modified since it issued the command id.
 * So: watch() over the whole guest, then the command id, then release_clean() for each whole frame
 * in the hints of that id, which takes a frame only if it was not touched since watch(), or if it
 * is all zero and so looks the same when it comes back (struct guest_frame_ops). The second case
 * matters: kernels with init_on_alloc, as Debian's, zero each block while they allocate it for the
 * hint. A page that the guest took back and wrote to meanwhile was touched and is not zero: it
 * stays. At the end the id becomes DONE, and the driver frees what it held.
 *
 * The roles of the queues follow the accepted features. The specification numbers queues 0 to 4
 * whatever was accepted, Linux leaves no gaps; both are understood, see queue_role().
 *
 * Threads: the loop's, unless a function says otherwise.
 */
#ifndef FRAMEVISOR_VIRTIO_BALLOON_H
#define FRAMEVISOR_VIRTIO_BALLOON_H

#include <stdbool.h>
#include <stdint.h>

#include "framevisor/device.h"
#include "framevisor/error.h"

struct pci_bus;
struct virtio_balloon;

/* Called in the loop's thread after the guest wrote a new "actual", or a hint session ended. */
typedef void (*virtio_balloon_changed_fn)(void *opaque);

/* Bits 0 (MUST_TELL_HOST) to 5 (PAGE_REPORTING), VIRTIO_BALLOON_F_* of <linux/virtio_balloon.h>. */
#define VIRTIO_BALLOON_FEATURES_ALL 0x3f

struct virtio_balloon_options {
	uint64_t features; /* to offer; a subset of VIRTIO_BALLOON_FEATURES_ALL */
	virtio_balloon_changed_fn changed;
	void *opaque;
};

/* Creates it on bus. The regions of host->mem, pluggable ones included, must be there already.
 * Returns NULL with err set. */
struct virtio_balloon *virtio_balloon_create(struct device_host *host, struct pci_bus *bus,
					     const struct virtio_balloon_options *options,
					     struct error *err);
struct device *virtio_balloon_device(struct virtio_balloon *balloon);

/* Asks the guest to hold bytes (rounded down to guest pages) in the balloon. */
int virtio_balloon_set_target(struct virtio_balloon *balloon, uint64_t bytes, struct error *err);

struct virtio_balloon_stats {
	bool driver_ready;        /* DRIVER_OK was seen, and not FAILED */
	bool broken;              /* DEVICE_NEEDS_RESET */
	uint64_t accepted;        /* features that the driver accepted, once it is ready */
	uint64_t target;          /* bytes asked to be in the balloon */
	uint64_t actual;          /* bytes the guest says are in it (config field "actual") */
	uint64_t inflated;        /* bytes whose bit is set in the maps */
	uint64_t frames_released; /* frames given back now (map full, not backed again) */
	uint64_t frames_partial;  /* frames with some bits set, but not all */
	uint64_t release_errors;
	/* Since creation: bytes that came in reports and hints, frames that left for them. */
	uint64_t reported;
	uint64_t frames_reported;
	uint64_t hinted;
	uint64_t frames_hinted;
	/* Since the driver last looked at its target, told its size or reset the device: one that
	 * tries without success goes on doing so. */
	uint64_t quiet_ms;
	bool hinting;  /* a session is open */
	bool holding;  /* it is one of virtio_balloon_hold(); what the driver holds for it: */
	uint64_t held; /* bytes */
};
/* Any thread. */
void virtio_balloon_stats(struct virtio_balloon *balloon, struct virtio_balloon_stats *stats);

/* ---- Memory statistics (virtio 1.2, 5.5.6.4; tags from 10 on are Linux' of 6.12) ---- */

enum balloon_stat {
	BALLOON_STAT_SWAP_IN,  /* bytes */
	BALLOON_STAT_SWAP_OUT, /* bytes */
	BALLOON_STAT_MAJOR_FAULTS,
	BALLOON_STAT_MINOR_FAULTS,
	BALLOON_STAT_FREE,      /* bytes */
	BALLOON_STAT_TOTAL,     /* bytes */
	BALLOON_STAT_AVAILABLE, /* bytes */
	BALLOON_STAT_CACHES,    /* bytes */
	BALLOON_STAT_HUGETLB_ALLOC,
	BALLOON_STAT_HUGETLB_FAIL,
	BALLOON_STAT_OOM_KILL,
	BALLOON_STAT_ALLOC_STALL,
	BALLOON_STAT_ASYNC_SCAN,     /* bytes */
	BALLOON_STAT_DIRECT_SCAN,    /* bytes */
	BALLOON_STAT_ASYNC_RECLAIM,  /* bytes */
	BALLOON_STAT_DIRECT_RECLAIM, /* bytes */
	BALLOON_STATS,
};

/* Their names in QMP ("stat-swap-in", ...). */
extern const char *const virtio_balloon_stat_names[BALLOON_STATS];

struct virtio_balloon_guest_stats {
	uint32_t valid; /* bit n: the guest supplied values[n]; 0 before its first */
	uint64_t values[BALLOON_STATS];
	uint64_t age_ms;        /* since they arrived; meaningful if valid */
	uint64_t unanswered_ms; /* since the guest was asked for new ones; 0: they have come */
	int64_t last_update;    /* the same moment, seconds since 1970; 0 before */
	unsigned int interval;  /* seconds between two requests; 0: none are made */
	/* The guest does not answer: requests are made, and the last one is older than a whole
	 * interval, or there is no driver that could answer. */
	bool stale;
};
/* Any thread. */
void virtio_balloon_guest_stats(struct virtio_balloon *balloon,
				struct virtio_balloon_guest_stats *stats);

/* Asks the guest for new numbers every so many seconds, for the first time at once; 0 stops it. */
void virtio_balloon_set_stats_interval(struct virtio_balloon *balloon, unsigned int seconds);

/* ---- Free page hints ---- */

/*
 * Begins to collect what the guest has free now. It goes on by itself; when it has ended (the guest
 * has no more, or is silent for some seconds) the changed callback runs and stats.hinting is false.
 * Returns -ENOTSUP (this machine or the driver cannot), -EAGAIN (no driver, or paused), -EBUSY (a
 * session is open) or what watch() said, with err set.
 */
int virtio_balloon_start_hint(struct virtio_balloon *balloon, struct error *err);
/* Ends an open session early. */
void virtio_balloon_stop_hint(struct virtio_balloon *balloon);

/*
 * Has the driver allocate all large free blocks of the guest (Linux: of 4 MiB) and hold them until
 * virtio_balloon_let_go(); stats.held says how much that is. Nothing leaves the guest. Called again
 * while it holds, the driver looks for more. When it is not called again for some seconds, or the
 * driver is reset, it is over by itself. A guest that runs short of memory takes the blocks back.
 * Returns 0, or -ENOTSUP, -EAGAIN, -EBUSY as above, with err set.
 */
int virtio_balloon_hold(struct virtio_balloon *balloon, struct error *err);
void virtio_balloon_let_go(struct virtio_balloon *balloon);

#endif
