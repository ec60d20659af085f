/* SPDX-License-Identifier: MIT */
/*
 * Pages that the guest has free: reports (virtio 1.2, 5.5.6.8), which hold while they are open, and
 * hints (5.5.6.5), which hold only for pages that were not modified. The reasons are in
 * framevisor/virtio_balloon.h.
 */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "devices/virtio_balloon_internal.h"
#include "framevisor/log.h"

/* A session without a word from the driver ends. A guest hands out some GiB per second. */
#define HINT_TIMEOUT_MS 10000
/* Chains in one round: each frame in them may have to be looked through for zeroes. */
#define HINT_ROUND 16

/* One of release_free() and release_clean(). */
typedef int64_t (*release_fn)(void *opaque, uint64_t gpa, uint64_t nr_frames);

/* ---- From buffers to whole frames ---- */

static int compare_ranges(const void *a, const void *b)
{
	const struct balloon_range *left = a, *right = b;

	return (left->start > right->start) - (left->start < right->start);
}

/* The whole guest pages in the writable buffers of the chain, sorted, adjacent ones as one. */
static unsigned int collect_ranges(struct virtio_balloon *balloon)
{
	const struct virtq_chain *chain = &balloon->chain;
	struct balloon_range *ranges = balloon->ranges;
	unsigned int nr = 0, merged = 0;

	for (unsigned int i = 0; i < chain->nr_writable; i++) {
		const struct virtq_buffer *buffer = &chain->buffers[chain->nr_readable + i];
		/* The buffer is RAM, so that no sum here can wrap. */
		uint64_t start = (buffer->addr + GUEST_PAGE_SIZE - 1) & ~(GUEST_PAGE_SIZE - 1);
		uint64_t end = (buffer->addr + buffer->len) & ~(GUEST_PAGE_SIZE - 1);

		if (start < end)
			ranges[nr++] = (struct balloon_range){ .start = start, .end = end };
	}
	qsort(ranges, nr, sizeof(*ranges), compare_ranges);
	for (unsigned int i = 1; i < nr; i++) {
		if (ranges[i].start > ranges[merged].end)
			ranges[++merged] = ranges[i];
		else if (ranges[i].end > ranges[merged].end)
			ranges[merged].end = ranges[i].end;
	}
	return nr ? merged + 1 : 0;
}

/* Whole frames leave, region by region. Returns how many went to the pool. */
static uint64_t release_frames(struct virtio_balloon *balloon, uint64_t start, uint64_t end,
			       release_fn release)
{
	const struct guest_memory *mem = balloon->dev.host->mem;
	uint64_t released = 0;

	while (start < end) {
		uint64_t run = FRAME_SIZE;
		int64_t ret;

		/* As far as one region goes: the two bytes at the seam lie in it. */
		while (run < end - start && guest_ptr(mem, start + run - 1, 2))
			run += FRAME_SIZE;
		ret = release(mem->frame_opaque, start, bytes_to_frames(run));
		if (ret > 0)
			released += (uint64_t)ret;
		if (ret < 0 && !balloon->release_errors++)
			log_warn("virtio-balloon: free frames cannot be released: %s",
				 strerror((int)-ret));
		start += run;
	}
	return released;
}

/* A frame of which the ranges hold only some pages: complete if the others are in the balloon,
 * whose pages the guest may not use before it told. */
struct partial {
	bool valid;    /* there is one */
	uint64_t gpa;  /* of the frame */
	uint64_t *map; /* balloon->gathered */
};

static uint64_t partial_finish(struct virtio_balloon *balloon, struct partial *partial,
			       release_fn release)
{
	bool valid = partial->valid;

	partial->valid = false;
	for (unsigned int i = 0; valid && i < BALLOON_MAP_WORDS; i++)
		valid = partial->map[i] == UINT64_MAX;
	if (!valid)
		return 0;
	return release_frames(balloon, partial->gpa, partial->gpa + FRAME_SIZE, release);
}

/* Adds [start, end), which lies in one frame. What was gathered for another frame is finished. */
static uint64_t partial_add(struct virtio_balloon *balloon, struct partial *partial, uint64_t start,
			    uint64_t end, release_fn release)
{
	uint64_t gpa = start & FRAME_MASK;
	uint64_t released = 0;

	if (partial->valid && partial->gpa != gpa)
		released = partial_finish(balloon, partial, release);
	if (!partial->valid) {
		const struct balloon_frame *frame = balloon_frame_at(balloon, gpa);

		partial->valid = true;
		partial->gpa = gpa;
		memset(partial->map, 0, BALLOON_MAP_BYTES);
		if (frame && virtio_has_feature(&balloon->vdev, VIRTIO_BALLOON_F_MUST_TELL_HOST))
			memcpy(partial->map, frame->map, BALLOON_MAP_BYTES);
	}
	for (; start < end; start += GUEST_PAGE_SIZE) {
		unsigned int page = (unsigned int)((start - gpa) >> GUEST_PAGE_SHIFT);

		partial->map[page / 64] |= UINT64_C(1) << (page % 64);
	}
	return released;
}

/* Releases what the chain covers. Returns the number of frames that went to the pool; *bytes grows
 * by what the driver named. */
static uint64_t release_chain(struct virtio_balloon *balloon, release_fn release, uint64_t *bytes)
{
	unsigned int nr = collect_ranges(balloon);
	struct partial partial = { .map = balloon->gathered };
	uint64_t released = 0;

	for (unsigned int i = 0; i < nr; i++) {
		uint64_t start = balloon->ranges[i].start, end = balloon->ranges[i].end;
		uint64_t first = (start + FRAME_SIZE - 1) & FRAME_MASK; /* whole frames */
		uint64_t last = end & FRAME_MASK;

		*bytes += end - start;
		if (first > last) { /* inside one frame */
			released += partial_add(balloon, &partial, start, end, release);
			continue;
		}
		if (start < first)
			released += partial_add(balloon, &partial, start, first, release);
		released += release_frames(balloon, first, last, release);
		if (last < end)
			released += partial_add(balloon, &partial, last, end, release);
	}
	return released + partial_finish(balloon, &partial, release);
}

/* ---- Reports ---- */

void balloon_reports_notify(struct virtio_balloon *balloon, unsigned int queue)
{
	const struct guest_frame_ops *ops = balloon->dev.host->mem->frame_ops;
	struct virtqueue *vq = virtio_queue(&balloon->vdev, queue);

	if (!vq)
		return;
	for (unsigned int nr = 0; nr < vq->size; nr++) {
		if (virtqueue_get_chain(vq, &balloon->chain) <= 0)
			break;
		/* A frame comes back zeroed. Without the feature the value is 0. */
		if (ops && !balloon->config.poison_val)
			balloon->frames_reported +=
				release_chain(balloon, ops->release_free, &balloon->reported);
		/* From here on the guest uses the pages again. */
		virtqueue_push_used(vq, balloon->chain.head, 0);
	}
	balloon_finish_round(balloon, queue);
}

/* ---- Hints ---- */

static void set_command(struct virtio_balloon *balloon, uint32_t id)
{
	balloon->config.free_page_hint_cmd_id = htole32(id);
	virtio_config_changed(&balloon->vdev);
}

/* The driver may free what it holds. */
static void end_session(struct virtio_balloon *balloon)
{
	if (!balloon->hints.open)
		return;
	balloon->hints.open = false;
	balloon->hints.started = false;
	balloon->hints.hold = false;
	set_command(balloon, VIRTIO_BALLOON_CMD_ID_DONE);
	changed_signal(&balloon->changed);
}

/*
 * Linux sends the id in one buffer, which it does not wait for: by the time that the device reads
 * what was sent for the session before, the buffer may hold the id of this one. The pages that
 * follow it would pass for untouched since they were watched, although they were hinted, freed and
 * written before that.
 */
static bool take_stale(struct virtio_balloon *balloon)
{
	if (!balloon->hints.nr_stale)
		return false;
	balloon->hints.nr_stale--;
	return true;
}

/* A command id: that of the session begins it, STOP after that ends it. Any other one belongs to a
 * session that is over, and so does what follows it. */
static int read_command(struct virtio_balloon *balloon)
{
	struct balloon_hints *hints = &balloon->hints;
	uint32_t id;

	if (balloon->chain.readable_len != sizeof(id) ||
	    virtq_chain_read(balloon->dev.host->mem, &balloon->chain, 0, &id, sizeof(id)) !=
		    sizeof(id))
		return -EINVAL;
	id = le32toh(id);
	if (id == VIRTIO_BALLOON_CMD_ID_STOP && hints->hold)
		hints->started = false; /* the driver keeps what it has named until it is over */
	else if (id == VIRTIO_BALLOON_CMD_ID_STOP && hints->started)
		end_session(balloon);
	else
		hints->started = hints->open && id == hints->last_id;
	return 0;
}

void balloon_hints_notify(struct virtio_balloon *balloon, unsigned int queue)
{
	const struct guest_memory *guest = balloon->dev.host->mem;
	struct virtqueue *vq = virtio_queue(&balloon->vdev, queue);

	if (!vq)
		return;
	for (unsigned int nr = 0; nr < HINT_ROUND; nr++) {
		if (virtqueue_get_chain(vq, &balloon->chain) <= 0)
			break;
		if (take_stale(balloon)) {
			virtqueue_push_used(vq, balloon->chain.head, 0);
			continue;
		}
		if (balloon->chain.nr_readable && read_command(balloon) < 0) {
			virtio_broken(&balloon->vdev, "command id of a wrong length");
			return;
		}
		/* A session opens only where release_clean() exists. */
		if (balloon->hints.started && balloon->hints.hold)
			balloon->hints.held += balloon->chain.writable_len;
		else if (balloon->hints.started)
			balloon->frames_hinted += release_chain(
				balloon, guest->frame_ops->release_clean, &balloon->hinted);
		virtqueue_push_used(vq, balloon->chain.head, 0);
	}
	/* A page may come twice when it was taken back and freed; that is enough. */
	if (balloon->hinted - balloon->hints.hinted_before > 2 * guest_memory_size(guest) ||
	    balloon->hints.held > 2 * guest_memory_size(guest))
		end_session(balloon);
	if (balloon->hints.open)
		event_timer_arm(balloon->hints.timeout, HINT_TIMEOUT_MS, 0);
	balloon_finish_round(balloon, queue);
}

static void on_timeout(void *opaque)
{
	struct virtio_balloon *balloon = opaque;

	pthread_mutex_lock(&balloon->vdev.lock);
	end_session(balloon);
	pthread_mutex_unlock(&balloon->vdev.lock);
}

/* Every touch from here on is noticed. */
static int watch_all(struct virtio_balloon *balloon)
{
	const struct guest_memory *mem = balloon->dev.host->mem;
	int ret = 0;

	for (unsigned int i = 0; i < balloon->nr_regions && ret == 0; i++)
		ret = mem->frame_ops->watch(mem->frame_opaque, balloon->regions[i].gpa,
					    bytes_to_frames(balloon->regions[i].size));
	return ret;
}

/* Whether a session can be opened. */
static int check_driver(const struct virtio_balloon *balloon, struct error *err)
{
	if (!virtio_running(&balloon->vdev))
		return error_set(err, EAGAIN,
				 "free page hints: the guest has no balloon driver that runs");
	if (!virtio_has_feature(&balloon->vdev, VIRTIO_BALLOON_F_FREE_PAGE_HINT))
		return error_set(err, ENOTSUP,
				 "free page hints: the guest's driver does not offer them");
	return 0;
}

static void start_session(struct virtio_balloon *balloon, bool hold)
{
	struct balloon_hints *hints = &balloon->hints;

	/* Never one of before, so that what is late can be told apart; 0 and 1 are taken. */
	if (++hints->last_id <= VIRTIO_BALLOON_CMD_ID_DONE)
		hints->last_id = VIRTIO_BALLOON_CMD_ID_DONE + 1;
	if (!hold || !hints->open)
		hints->held = 0;
	hints->open = true;
	hints->started = false;
	hints->hold = hold;
	hints->hinted_before = balloon->hinted;
	set_command(balloon, hints->last_id);
	event_timer_arm(hints->timeout, HINT_TIMEOUT_MS, 0);
}

static int open_session(struct virtio_balloon *balloon, struct error *err)
{
	const struct guest_frame_ops *ops = balloon->dev.host->mem->frame_ops;
	struct virtqueue *vq;
	unsigned int queue;
	int ret;

	if (!ops || !ops->watch || !ops->release_clean)
		return error_set(err, ENOTSUP, "free page hints: this machine cannot use them");
	ret = check_driver(balloon, err);
	if (ret < 0)
		return ret;
	if (balloon->hints.open)
		return error_set(err, EBUSY, "free page hints: they are being collected already");
	ret = watch_all(balloon);
	if (ret < 0)
		return error_set_errno(err, -ret, "free page hints: cannot watch the memory");
	vq = balloon_queue(balloon, BALLOON_HINTS, &queue);
	balloon->hints.nr_stale = vq ? virtqueue_nr_chains(vq) : 0;
	start_session(balloon, false);
	return 0;
}

int virtio_balloon_start_hint(struct virtio_balloon *balloon, struct error *err)
{
	int ret;

	pthread_mutex_lock(&balloon->vdev.lock);
	ret = open_session(balloon, err);
	pthread_mutex_unlock(&balloon->vdev.lock);
	return ret;
}

int virtio_balloon_hold(struct virtio_balloon *balloon, struct error *err)
{
	struct balloon_hints *hints = &balloon->hints;
	int ret;

	pthread_mutex_lock(&balloon->vdev.lock);
	ret = check_driver(balloon, err);
	if (ret == 0 && hints->open && !hints->hold)
		ret = error_set(err, EBUSY, "free page hints: they are being collected");
	if (ret == 0)
		start_session(balloon, true);
	pthread_mutex_unlock(&balloon->vdev.lock);
	return ret;
}

void virtio_balloon_let_go(struct virtio_balloon *balloon)
{
	pthread_mutex_lock(&balloon->vdev.lock);
	if (balloon->hints.hold)
		end_session(balloon);
	pthread_mutex_unlock(&balloon->vdev.lock);
}

void virtio_balloon_stop_hint(struct virtio_balloon *balloon)
{
	on_timeout(balloon);
}

int balloon_hints_create(struct virtio_balloon *balloon)
{
	balloon->hints.timeout = event_timer_create(balloon->dev.host->loop, on_timeout, balloon);
	return balloon->hints.timeout ? 0 : -errno;
}

void balloon_hints_destroy(struct virtio_balloon *balloon)
{
	event_timer_destroy(balloon->hints.timeout);
}

/* The ids go on: the next driver must not take an old one for its own. */
void balloon_hints_reset(struct virtio_balloon *balloon)
{
	if (balloon->hints.open)
		changed_signal(&balloon->changed);
	balloon->hints.open = false;
	balloon->hints.started = false;
	balloon->hints.hold = false;
	balloon->hints.nr_stale = 0;
	balloon->config.free_page_hint_cmd_id = htole32(VIRTIO_BALLOON_CMD_ID_STOP);
}
