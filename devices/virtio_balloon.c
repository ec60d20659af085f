/* SPDX-License-Identifier: MIT */
/*
 * virtio-balloon on frames: the device, its inflate and deflate queues, and what the machine asks
 * of it. See framevisor/virtio_balloon.h for what it does, virtio_balloon_frames.c for the maps.
 *
 * Frames are released and backed under the device's lock: a guest that resets the device owns its
 * memory again, so the reset (a vCPU's write) must wait until no frame is on its way out.
 */
#include "framevisor/virtio_balloon.h"

#include <endian.h>
#include <errno.h>
#include <linux/virtio_ids.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "devices/virtio_balloon_internal.h"
#include "framevisor/clock.h"

#define BALLOON_PCI_CLASS 0x00ff00 /* "does not fit any class", as on other machines */
#define PFNS_PER_READ     512
#define CHAIN_BYTES_MAX   (4u << 20) /* 1 M pages in one message; stock drivers send 256 */
/* One round of a queue holds the device's lock and the loop's or a vCPU's thread: a driver could
 * fill the queue with messages of a million numbers. A frame that comes or goes is as much work as
 * so many pages. What stock drivers can have in a queue fits in. */
#define ROUND_PAGES      (64u << 10)
#define PAGES_PER_MOVE   256
#define RETRY_BACK_MS    50
#define RETRY_RELEASE_MS 1000
/* Frames that leave together cost little more than one: the CPUs of the guest are interrupted once
 * for a run, and the pool owner is told once. So they wait for each other, up to so many and so
 * long, while the guest is on its way to a larger balloon. */
#define GATHER_FRAMES 16
#define GATHER_MS     50

static struct virtio_balloon *to_balloon(struct virtio_device *vdev)
{
	return (struct virtio_balloon *)((char *)vdev - offsetof(struct virtio_balloon, vdev));
}

uint64_t balloon_wanted_pages(const struct virtio_balloon *balloon)
{
	return le32toh(balloon->config.num_pages);
}

/* What is left over is tried again: a deflate soon, for a guest waits for it. */
static void arm_retry(struct virtio_balloon *balloon)
{
	event_timer_arm(balloon->retry, balloon->deflate.held ? RETRY_BACK_MS : RETRY_RELEASE_MS,
			0);
}

/* ---- Queues ---- */

/* The same for both queues: little-endian page numbers in the readable part. */
static int check_chain(const struct virtq_chain *chain, const char **why)
{
	if (chain->readable_len % sizeof(uint32_t))
		*why = "length is not a multiple of a page number";
	else if (chain->readable_len > CHAIN_BYTES_MAX)
		*why = "more than a million page numbers in one message";
	else
		return 0;
	return -EINVAL;
}

/* One page number, and what it costs of the round. Returns what balloon_page() says. */
static int serve_page(struct virtio_balloon *balloon, uint32_t pfn, bool inflate, uint32_t *left)
{
	uint32_t released = balloon->nr_released, full = balloon->nr_full, cost = 1;
	int ret = balloon_page(balloon, pfn, inflate);

	if (balloon->nr_released < released)
		cost += (released - balloon->nr_released) * PAGES_PER_MOVE;
	if (balloon->nr_full > full)
		cost += (balloon->nr_full - full) * PAGES_PER_MOVE;
	*left -= cost < *left ? cost : *left;
	return ret;
}

/*
 * The page numbers of a message from where it was left on. Returns 0 at the end, -EAGAIN when
 * memory is short, -EBUSY when nothing is left of the round, or -EINVAL with why.
 */
static int balloon_pages(struct virtio_balloon *balloon, struct balloon_message *message,
			 bool inflate, uint32_t *left, const char **why)
{
	const struct guest_memory *mem = balloon->dev.host->mem;
	const struct virtq_chain *chain = &message->chain;
	uint32_t pfns[PFNS_PER_READ];

	if (check_chain(chain, why) < 0)
		return -EINVAL;
	while (message->done < chain->readable_len) {
		size_t n = virtq_chain_read(mem, chain, message->done, pfns, sizeof(pfns));

		n /= sizeof(pfns[0]);
		if (!n) {
			*why = "page numbers are not in RAM any more";
			return -EINVAL;
		}
		for (size_t i = 0; i < n; i++) {
			int ret;

			if (!*left)
				return -EBUSY;
			ret = serve_page(balloon, le32toh(pfns[i]), inflate, left);
			if (ret == -EFAULT) {
				*why = "page number outside RAM";
				return -EINVAL;
			}
			if (ret < 0)
				return -EAGAIN;
			message->done += sizeof(pfns[0]);
		}
	}
	return 0;
}

/* The next message, or the one that is held, is served as far as the round goes. Returns 1 if it
 * was all of it, 0 if there is none, or what balloon_pages() says. */
static int serve_message(struct virtio_balloon *balloon, struct virtqueue *vq, bool inflate,
			 uint32_t *left, const char **why)
{
	struct balloon_message *message = inflate ? &balloon->inflate : &balloon->deflate;
	int ret;

	if (!message->held) {
		if (virtqueue_get_chain(vq, &message->chain) <= 0)
			return 0;
		message->done = 0;
	}
	ret = balloon_pages(balloon, message, inflate, left, why);
	message->held = ret == -EAGAIN || ret == -EBUSY;
	return ret == 0 ? 1 : ret;
}

void balloon_finish_round(struct virtio_balloon *balloon, unsigned int queue)
{
	struct virtqueue *vq = &balloon->vdev.queues[queue].vq;

	virtio_finish_queue(&balloon->vdev, queue);
	if (virtio_running(&balloon->vdev) && virtqueue_has_chains(vq))
		virtio_kick_queue(&balloon->vdev, queue);
}

/*
 * Whether full frames may wait for more. The guest counts their pages as given once it sees them
 * used; if it must tell before it uses them again, it makes no difference when they leave.
 */
static bool may_gather(const struct virtio_balloon *balloon)
{
	return virtio_has_feature(&balloon->vdev, VIRTIO_BALLOON_F_MUST_TELL_HOST) &&
	       balloon->nr_full < GATHER_FRAMES && balloon->nr_set < balloon_wanted_pages(balloon);
}

static void release_gathered(struct virtio_balloon *balloon)
{
	balloon->gathering = false;
	balloon->release_failed = !balloon_release_full(balloon);
	if (balloon->release_failed)
		arm_retry(balloon);
}

static void gather(struct virtio_balloon *balloon)
{
	/* What could not be released has a time of its own. */
	if (!balloon->nr_full || balloon->gathering || balloon->release_failed)
		return;
	balloon->gathering = true;
	balloon->nr_set_seen = balloon->nr_set;
	event_timer_arm(balloon->retry, GATHER_MS, 0);
}

/* As balloon_finish_round(), and goes on with a message that was too long for it. */
static void finish_messages(struct virtio_balloon *balloon, unsigned int queue, bool held)
{
	balloon_finish_round(balloon, queue);
	if (held)
		virtio_kick_queue(&balloon->vdev, queue);
}

static void drain_inflate(struct virtio_balloon *balloon, unsigned int queue)
{
	struct virtqueue *vq = virtio_queue(&balloon->vdev, queue);
	uint16_t heads[BALLOON_QUEUE_SIZE];
	uint32_t left = ROUND_PAGES;
	const char *why = NULL;
	unsigned int nr = 0;

	if (!vq)
		return;
	while (nr < vq->size && left && serve_message(balloon, vq, true, &left, &why) > 0)
		heads[nr++] = balloon->inflate.chain.head;
	if (may_gather(balloon))
		gather(balloon);
	else
		release_gathered(balloon);
	for (unsigned int i = 0; i < nr; i++)
		virtqueue_push_used(vq, heads[i], 0);
	if (why)
		virtio_broken(&balloon->vdev, why);
	finish_messages(balloon, queue, balloon->inflate.held);
}

static void drain_deflate(struct virtio_balloon *balloon, unsigned int queue)
{
	struct virtqueue *vq = virtio_queue(&balloon->vdev, queue);
	uint32_t left = ROUND_PAGES;
	const char *why = NULL;
	int ret = 1;

	if (!vq)
		return;
	for (unsigned int nr = 0; nr < vq->size && left && ret > 0; nr++) {
		ret = serve_message(balloon, vq, false, &left, &why);
		if (ret > 0)
			virtqueue_push_used(vq, balloon->deflate.chain.head, 0);
	}
	if (why)
		virtio_broken(&balloon->vdev, why);
	if (ret != -EAGAIN) {
		gather(balloon); /* what was backed ahead and stays in the balloon after all */
		finish_messages(balloon, queue, balloon->deflate.held);
		return;
	}
	/* The pool is empty now. The guest uses the pages only when this chain comes back. */
	virtio_finish_queue(&balloon->vdev, queue);
	arm_retry(balloon);
}

/* ---- The roles of the queues ---- */

static void (*const handlers[BALLOON_ROLES])(struct virtio_balloon *, unsigned int) = {
	[BALLOON_INFLATE] = drain_inflate,
	[BALLOON_DEFLATE] = drain_deflate,
	[BALLOON_STATISTICS] = balloon_statistics_notify,
	[BALLOON_HINTS] = balloon_hints_notify,
	[BALLOON_REPORTS] = balloon_reports_notify,
};

static bool role_exists(const struct virtio_balloon *balloon, enum balloon_role role)
{
	switch (role) {
	case BALLOON_INFLATE:
	case BALLOON_DEFLATE:
		return true;
	case BALLOON_STATISTICS:
		return virtio_has_feature(&balloon->vdev, VIRTIO_BALLOON_F_STATS_VQ);
	case BALLOON_HINTS:
		return virtio_has_feature(&balloon->vdev, VIRTIO_BALLOON_F_FREE_PAGE_HINT);
	case BALLOON_REPORTS:
		return virtio_has_feature(&balloon->vdev, VIRTIO_BALLOON_F_REPORTING);
	default:
		return false;
	}
}

/*
 * The number of a role's queue. virtio 1.2, 5.5.2, numbers the queues once and for all; drivers
 * (Linux before 6.11, and others after it) number those that exist without gaps, as the devices
 * they met did. The two differ only if a feature is missing below the last one accepted, and then
 * the specification's number of the last queue lies beyond all of the other way's: so whether that
 * one is enabled tells which way the driver counts.
 */
static unsigned int role_queue(const struct virtio_balloon *balloon, enum balloon_role role)
{
	unsigned int last = BALLOON_DEFLATE, queue = 0;

	for (unsigned int i = 0; i < BALLOON_ROLES; i++) {
		if (role_exists(balloon, i))
			last = i;
	}
	if (balloon->vdev.queues[last].vq.enabled)
		return role;
	for (unsigned int i = 0; i < role; i++)
		queue += role_exists(balloon, i);
	return queue;
}

/* The role of a queue, or BALLOON_ROLES: none. */
static enum balloon_role queue_role(const struct virtio_balloon *balloon, unsigned int queue)
{
	enum balloon_role role;

	for (role = 0; role < BALLOON_ROLES; role++) {
		if (role_exists(balloon, role) && role_queue(balloon, role) == queue)
			break;
	}
	return role;
}

struct virtqueue *balloon_queue(struct virtio_balloon *balloon, enum balloon_role role,
				unsigned int *queue)
{
	if (!virtio_running(&balloon->vdev) || !role_exists(balloon, role))
		return NULL;
	*queue = role_queue(balloon, role);
	return virtio_queue(&balloon->vdev, *queue);
}

static void balloon_notify(struct virtio_device *vdev, unsigned int queue)
{
	struct virtio_balloon *balloon = to_balloon(vdev);
	enum balloon_role role = queue_role(balloon, queue);

	if (role < BALLOON_ROLES)
		handlers[role](balloon, queue);
}

/* Linux sends what it gives up, takes back or reports, and waits. It does not wait for each hint,
 * so that several are looked at together. */
static bool balloon_driver_waits(struct virtio_device *vdev, unsigned int queue)
{
	enum balloon_role role = queue_role(to_balloon(vdev), queue);

	return role == BALLOON_INFLATE || role == BALLOON_DEFLATE || role == BALLOON_REPORTS;
}

/* The guest takes memory back, and has done so since the last look. */
static bool deflates(struct virtio_balloon *balloon)
{
	uint64_t before = balloon->nr_set_seen;

	balloon->nr_set_seen = balloon->nr_set;
	return balloon->gathering && balloon->nr_set > balloon_wanted_pages(balloon) &&
	       balloon->nr_set != before;
}

static void on_retry(void *opaque)
{
	struct virtio_balloon *balloon = opaque;
	unsigned int queue;

	pthread_mutex_lock(&balloon->vdev.lock);
	if (deflates(balloon))
		event_timer_arm(balloon->retry, GATHER_MS, 0);
	else
		release_gathered(balloon);
	for (unsigned int role = BALLOON_INFLATE; role <= BALLOON_DEFLATE; role++) {
		if (balloon_queue(balloon, role, &queue))
			handlers[role](balloon, queue);
	}
	pthread_mutex_unlock(&balloon->vdev.lock);
}

/* ---- The virtio device ---- */

static void balloon_read_config(struct virtio_device *vdev, unsigned int offset, void *dst,
				unsigned int len)
{
	struct virtio_balloon *balloon = to_balloon(vdev);

	memcpy(dst, (const uint8_t *)&balloon->config + offset, len);
	balloon->seen_ms = now_ms();
}

/* The driver may write two of the fields, byte by byte if it likes. */
static bool writable(const struct virtio_balloon *balloon, unsigned int offset)
{
	unsigned int actual = offsetof(struct virtio_balloon_config, actual);
	unsigned int poison = offsetof(struct virtio_balloon_config, poison_val);

	if (offset >= actual && offset < actual + sizeof(balloon->config.actual))
		return true;
	return offset >= poison && offset < poison + sizeof(balloon->config.poison_val) &&
	       virtio_has_feature(&balloon->vdev, VIRTIO_BALLOON_F_PAGE_POISON);
}

static void balloon_write_config(struct virtio_device *vdev, unsigned int offset, const void *src,
				 unsigned int len)
{
	struct virtio_balloon *balloon = to_balloon(vdev);
	uint8_t *config = (uint8_t *)&balloon->config;
	const uint8_t *bytes = src;
	uint32_t actual = balloon->config.actual;

	for (unsigned int i = 0; i < len; i++) {
		if (writable(balloon, offset + i))
			config[offset + i] = bytes[i];
	}
	balloon->seen_ms = now_ms();
	if (balloon->config.actual != actual)
		changed_signal(&balloon->changed);
}

/* The guest owns all its memory again. Frames that left come back when it touches them. */
static void balloon_reset(struct virtio_device *vdev)
{
	struct virtio_balloon *balloon = to_balloon(vdev);

	balloon_frames_clear(balloon);
	balloon_statistics_reset(balloon);
	balloon_hints_reset(balloon);
	balloon->inflate.held = balloon->deflate.held = false;
	if (balloon->config.actual)
		changed_signal(&balloon->changed);
	balloon->config.actual = 0;
	balloon->config.poison_val = 0;
	balloon->seen_ms = now_ms(); /* a driver is there and begins */
	/* The target stays: it is the host's wish, and the next driver reads it. */
}

static const struct virtio_device_type balloon_type = {
	.name = "virtio-balloon",
	.id = VIRTIO_ID_BALLOON,
	.pci_class = BALLOON_PCI_CLASS,
	.nr_queues = BALLOON_ROLES,
	.queue_size = BALLOON_QUEUE_SIZE,
	.config_size = sizeof(struct virtio_balloon_config),
	.features = VIRTIO_BALLOON_FEATURES_ALL,
	.read_config = balloon_read_config,
	.write_config = balloon_write_config,
	.queue_notify = balloon_notify,
	.driver_waits = balloon_driver_waits,
	.reset = balloon_reset,
};

/* ---- What the machine asks ---- */

int virtio_balloon_set_target(struct virtio_balloon *balloon, uint64_t bytes, struct error *err)
{
	uint64_t ram = guest_memory_size(balloon->dev.host->mem);
	uint64_t pages = bytes >> GUEST_PAGE_SHIFT;

	if (bytes > ram || pages > UINT32_MAX)
		return error_set(err, EINVAL,
				 "balloon: %llu bytes are more than the guest's memory (%llu)",
				 (unsigned long long)bytes, (unsigned long long)ram);
	pthread_mutex_lock(&balloon->vdev.lock);
	balloon->config.num_pages = htole32((uint32_t)pages);
	virtio_config_changed(&balloon->vdev);
	pthread_mutex_unlock(&balloon->vdev.lock);
	return 0;
}

void virtio_balloon_stats(struct virtio_balloon *balloon, struct virtio_balloon_stats *stats)
{
	struct virtio_device *vdev = &balloon->vdev;

	pthread_mutex_lock(&vdev->lock);
	if (balloon->gathering && balloon->nr_set == balloon_wanted_pages(balloon))
		release_gathered(balloon); /* who asks is told what is, not what soon will be */
	*stats = (struct virtio_balloon_stats){
		.driver_ready = virtio_driver_ready(vdev),
		.broken = vdev->status & VIRTIO_CONFIG_S_NEEDS_RESET,
		.accepted = virtio_driver_ready(vdev) ? vdev->accepted & VIRTIO_BALLOON_FEATURES_ALL
						      : 0,
		.target = (uint64_t)le32toh(balloon->config.num_pages) << GUEST_PAGE_SHIFT,
		.actual = (uint64_t)le32toh(balloon->config.actual) << GUEST_PAGE_SHIFT,
		.inflated = balloon->nr_set << GUEST_PAGE_SHIFT,
		.frames_released = balloon->nr_released,
		.frames_partial = balloon->nr_partial,
		.release_errors = balloon->release_errors,
		.quiet_ms = now_ms() - balloon->seen_ms,
		.reported = balloon->reported,
		.frames_reported = balloon->frames_reported,
		.hinted = balloon->hinted,
		.frames_hinted = balloon->frames_hinted,
		.hinting = balloon->hints.open,
		.holding = balloon->hints.hold,
		.held = balloon->hints.hold ? balloon->hints.held : 0,
	};
	pthread_mutex_unlock(&vdev->lock);
}

static struct virtio_balloon *from_device(struct device *dev)
{
	return (struct virtio_balloon *)dev;
}

static void device_reset(struct device *dev)
{
	virtio_device_reset(&from_device(dev)->vdev);
}

static void device_pause(struct device *dev)
{
	virtio_device_pause(&from_device(dev)->vdev);
}

static void device_resume(struct device *dev)
{
	virtio_device_resume(&from_device(dev)->vdev);
}

static void free_parts(struct virtio_balloon *balloon)
{
	balloon_hints_destroy(balloon);
	balloon_statistics_destroy(balloon);
	event_timer_destroy(balloon->retry);
	changed_fini(&balloon->changed);
	balloon_frames_destroy(balloon);
	free(balloon);
}

static void device_destroy(struct device *dev)
{
	virtio_device_fini(&from_device(dev)->vdev);
	free_parts(from_device(dev));
}

static const struct device_ops balloon_ops = { .reset = device_reset,
					       .pause = device_pause,
					       .resume = device_resume,
					       .destroy = device_destroy };

static int create_parts(struct virtio_balloon *balloon,
			const struct virtio_balloon_options *options)
{
	struct event_loop *loop = balloon->dev.host->loop;
	int ret;

	ret = balloon_frames_create(balloon);
	if (ret == 0)
		ret = changed_init(&balloon->changed, loop, options->changed, options->opaque);
	if (ret == 0)
		ret = balloon_statistics_create(balloon);
	if (ret == 0)
		ret = balloon_hints_create(balloon);
	if (ret < 0)
		return ret;
	balloon->hints.last_id = VIRTIO_BALLOON_CMD_ID_DONE;
	balloon->retry = event_timer_create(loop, on_retry, balloon);
	return balloon->retry ? 0 : -errno;
}

struct virtio_balloon *virtio_balloon_create(struct device_host *host, struct pci_bus *bus,
					     const struct virtio_balloon_options *options,
					     struct error *err)
{
	struct virtio_balloon *balloon = calloc(1, sizeof(*balloon));
	int ret;

	if (!balloon) {
		error_set(err, ENOMEM, "virtio-balloon: out of memory");
		return NULL;
	}
	balloon->dev = (struct device){
		.name = balloon_type.name, .ops = &balloon_ops, .host = host, .next = NULL
	};
	ret = create_parts(balloon, options);
	if (ret < 0) {
		error_set_errno(err, -ret, "virtio-balloon: cannot be created");
		free_parts(balloon);
		return NULL;
	}
	if (virtio_device_init(&balloon->vdev, &balloon_type, host, err) < 0) {
		free_parts(balloon);
		return NULL;
	}
	balloon->vdev.offered &= ~((uint64_t)VIRTIO_BALLOON_FEATURES_ALL & ~options->features);
	if (virtio_pci_attach(&balloon->vdev, bus, err) < 0) {
		device_destroy(&balloon->dev);
		return NULL;
	}
	return balloon;
}

struct device *virtio_balloon_device(struct virtio_balloon *balloon)
{
	return &balloon->dev;
}
