/* SPDX-License-Identifier: MIT */
/*
 * What the balloon's files share. All of the state is under the device's lock (vdev.lock), which
 * the callers of these functions hold.
 */
#ifndef DEVICES_VIRTIO_BALLOON_INTERNAL_H
#define DEVICES_VIRTIO_BALLOON_INTERNAL_H

#include <linux/virtio_balloon.h>

#include "devices/changed.h"
#include "framevisor/virtio.h"
#include "framevisor/virtio_balloon.h"

#define BALLOON_QUEUE_SIZE 128 /* Linux wants at least 32 for reports, 2 for hints */
#define BALLOON_MAP_WORDS  (GUEST_PAGES_PER_FRAME / 64)
#define BALLOON_MAP_BYTES  (BALLOON_MAP_WORDS * sizeof(uint64_t))

/* In the order of the specification's queue numbers. */
enum balloon_role {
	BALLOON_INFLATE,
	BALLOON_DEFLATE,
	BALLOON_STATISTICS,
	BALLOON_HINTS,
	BALLOON_REPORTS,
	BALLOON_ROLES,
};

struct balloon_frame {
	uint64_t *map;   /* bit set: this guest page is in the balloon; in balloon->maps */
	uint32_t nr_set; /* of them */
	bool queued;     /* in balloon->full */
	bool released;   /* given back, and not backed by us since */
};

/* RAM as it was at creation: frames are numbered through all regions. A pluggable region is in it
 * as a whole; which of its frames are RAM now, guest_frame_valid() knows. */
struct balloon_region {
	uint64_t gpa;
	uint64_t size;
	uint32_t first_frame;
};

struct balloon_statistics {
	unsigned int interval; /* seconds */
	struct event_timer *timer;
	bool held; /* the driver's buffer is here, as chain head */
	uint16_t head;
	bool asked; /* it was returned and no new one came yet, since ... */
	uint64_t asked_ms;
	uint32_t valid;
	uint64_t values[BALLOON_STATS];
	uint64_t arrived_ms;
	int64_t arrived; /* seconds since 1970 */
};

struct balloon_hints {
	struct event_timer *timeout;
	uint32_t last_id;       /* the last command id that was issued */
	uint16_t nr_stale;      /* chains still to come that are older than the session */
	bool open;              /* it is the current one */
	bool started;           /* the driver has sent it: pages that follow belong to it */
	bool hold;              /* the pages are to be held, not released */
	uint64_t held;          /* bytes of them since the holding began */
	uint64_t hinted_before; /* balloon->hinted when the session began */
};

/* Page numbers that the driver has sent and that are not all served yet. */
struct balloon_message {
	struct virtq_chain chain;
	bool held;     /* it is not acknowledged: there is more to do */
	uint64_t done; /* bytes of it */
};

/* [start, end) of guest memory */
struct balloon_range {
	uint64_t start;
	uint64_t end;
};

struct virtio_balloon {
	struct device dev;
	struct virtio_device vdev; /* its lock covers all of the below */
	struct changed changed;
	struct event_timer *retry;

	struct virtio_balloon_config config; /* little endian, as the guest reads it */
	uint64_t seen_ms;                    /* the driver read its target or wrote to it last */

	unsigned int nr_regions;
	struct balloon_region regions[GUEST_REGIONS_MAX];
	uint32_t nr_frames;
	struct balloon_frame *frames;
	uint64_t *maps;     /* BALLOON_MAP_WORDS for each frame, ... */
	uint64_t *gathered; /* ... and for the frame that free pages are gathered of */
	uint32_t *full;     /* frames to release, each at most once */
	uint32_t nr_full;
	bool gathering;       /* some wait in it for others, and a timer runs */
	bool release_failed;  /* some could not leave, and a timer runs */
	uint64_t nr_set_seen; /* when it was set, or ran out last */

	/* Frames that a deflate had backed last, and how many at once: balloon_back_frames(). */
	uint32_t backed_first, backed_end, backed_window;

	struct virtq_chain chain; /* the one that is looked at */
	/* Held: its round was long enough, or, of a deflate, it waits for memory. */
	struct balloon_message inflate, deflate;

	uint64_t nr_set; /* over all frames */
	uint32_t nr_partial;
	uint32_t nr_released;
	uint64_t release_errors;

	struct balloon_statistics statistics;
	struct balloon_hints hints;
	struct balloon_range ranges[VIRTQ_SIZE_MAX]; /* of the chain that is looked at */
	uint64_t reported, frames_reported;
	uint64_t hinted, frames_hinted;
};

/* Pages that the host wants to be in the balloon. */
uint64_t balloon_wanted_pages(const struct virtio_balloon *balloon);

/* At most a queue's length per round, so that a driver that never stops adding cannot keep the loop
 * here; if there is more, then again. */
void balloon_finish_round(struct virtio_balloon *balloon, unsigned int queue);

/* The queue that serves a role now, or NULL with the number unset. */
struct virtqueue *balloon_queue(struct virtio_balloon *balloon, enum balloon_role role,
				unsigned int *queue);

/* ---- virtio_balloon_frames.c: the maps, and frames that leave because theirs is full ---- */

int balloon_frames_create(struct virtio_balloon *balloon);
void balloon_frames_destroy(struct virtio_balloon *balloon);
void balloon_frames_clear(struct virtio_balloon *balloon);

/* The frame that holds a guest page, or NULL: not RAM. */
struct balloon_frame *balloon_frame_at(struct virtio_balloon *balloon, uint64_t gpa);

/* One page number of an inflate or deflate message. Returns 0, -EFAULT (not RAM), or what back()
 * said. */
int balloon_page(struct virtio_balloon *balloon, uint32_t pfn, bool inflate);

/* Releases all frames whose map became full, adjacent ones in one call. Returns whether all of them
 * went: what did not stays and is tried again by the next call. */
bool balloon_release_full(struct virtio_balloon *balloon);

/* ---- virtio_balloon_stats.c ---- */

int balloon_statistics_create(struct virtio_balloon *balloon);
void balloon_statistics_destroy(struct virtio_balloon *balloon);
void balloon_statistics_reset(struct virtio_balloon *balloon);
void balloon_statistics_notify(struct virtio_balloon *balloon, unsigned int queue);
/* ---- virtio_balloon_free_pages.c: reports and hints ---- */

int balloon_hints_create(struct virtio_balloon *balloon);
void balloon_hints_destroy(struct virtio_balloon *balloon);
void balloon_hints_reset(struct virtio_balloon *balloon);
void balloon_hints_notify(struct virtio_balloon *balloon, unsigned int queue);
void balloon_reports_notify(struct virtio_balloon *balloon, unsigned int queue);

#endif
