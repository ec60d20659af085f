/* SPDX-License-Identifier: MIT */
/*
 * virtio-balloon on frames: see framevisor/virtio_balloon.h.
 *
 * A guest speaks in pages of 4 KiB, at most 256 of them per message, in any order; a frame can only
 * leave as a whole. So each frame has a map of 512 bits that lives as long as the device: inflating
 * sets bits, deflating clears them, and what becomes full during one round on the inflate queue is
 * released in runs before the round is acknowledged.
 *
 * All of that happens under the device's lock, release and back included: a guest that resets the
 * device owns its memory again, so the reset (a vCPU's write) must wait until no frame is on its
 * way out.
 *
 * A guest may touch a page that it gave up (without MUST_TELL_HOST it may even do so before it
 * tells). The demand fault path then binds a frame while the map still says "released". That is
 * harmless: back() finds the frame there, and a page that is inflated again releases it again.
 */
#include "framevisor/virtio_balloon.h"

#include <endian.h>
#include <errno.h>
#include <linux/virtio_balloon.h>
#include <linux/virtio_ids.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "framevisor/log.h"
#include "framevisor/virtio.h"

#define BALLOON_QUEUES     2
#define BALLOON_QUEUE_SIZE 128
#define BALLOON_PCI_CLASS  0x00ff00 /* "does not fit any class", as on other machines */
/* num_pages and actual; the rest of the structure belongs to features that are not offered. */
#define BALLOON_CONFIG_SIZE offsetof(struct virtio_balloon_config, free_page_hint_cmd_id)

#define MAP_WORDS        (GUEST_PAGES_PER_FRAME / 64)
#define PFNS_PER_READ    512
#define CHAIN_BYTES_MAX  (4u << 20) /* 1 M pages in one message; stock drivers send 256 */
#define RETRY_BACK_MS    50
#define RETRY_RELEASE_MS 1000

struct balloon_frame {
	uint64_t map[MAP_WORDS]; /* bit set: this guest page is in the balloon */
	uint16_t nr_set;
	bool queued;   /* in balloon->full */
	bool released; /* given back, and not backed by us since */
};

/* RAM as it was at creation: frames are numbered through all regions. */
struct balloon_region {
	uint64_t gpa;
	uint64_t size;
	uint32_t first_frame;
};

struct virtio_balloon {
	struct device dev;
	struct virtio_device vdev; /* its lock covers all of the below */
	virtio_balloon_changed_fn changed;
	void *opaque;
	int changed_fd;
	struct event_source *changed_source;
	struct event_timer *retry;

	struct virtio_balloon_config config; /* little endian, as the guest reads it */
	/* What each queue is for follows from the features that the driver accepted: drivers number
	 * only the queues that exist for them. */
	void (*handlers[BALLOON_QUEUES])(struct virtio_balloon *balloon, unsigned int queue);

	unsigned int nr_regions;
	struct balloon_region regions[GUEST_REGIONS_MAX];
	uint32_t nr_frames;
	struct balloon_frame *frames;
	uint32_t *full; /* frames to release, each at most once */
	uint32_t nr_full;

	struct virtq_chain inflate;
	struct virtq_chain deflate;
	bool deflate_held; /* deflate waits for memory, not acknowledged; done up to ... */
	uint64_t deflate_done;

	uint64_t nr_set; /* over all frames */
	uint32_t nr_partial;
	uint32_t nr_released;
	uint64_t release_errors;
};

static struct virtio_balloon *to_balloon(struct virtio_device *vdev)
{
	return (struct virtio_balloon *)((char *)vdev - offsetof(struct virtio_balloon, vdev));
}

/* ---- Frames and their maps ---- */

/* The frame that holds a guest page, or NULL: not RAM. */
static struct balloon_frame *find_frame(struct virtio_balloon *balloon, uint64_t gpa)
{
	for (unsigned int i = 0; i < balloon->nr_regions; i++) {
		const struct balloon_region *region = &balloon->regions[i];

		if (gpa >= region->gpa && gpa - region->gpa < region->size)
			return &balloon->frames[region->first_frame +
						bytes_to_frames(gpa - region->gpa)];
	}
	return NULL;
}

/* The guest address of a frame, and how many frames follow it in its region, itself included. */
static uint64_t frame_gpa(const struct virtio_balloon *balloon, uint32_t index, uint64_t *left)
{
	const struct balloon_region *region = &balloon->regions[balloon->nr_regions - 1];
	uint64_t offset;

	while (region->first_frame > index)
		region--;
	offset = frames_to_bytes(index - region->first_frame);
	*left = bytes_to_frames(region->size - offset);
	return region->gpa + offset;
}

static bool frame_partial(const struct balloon_frame *frame)
{
	return frame->nr_set && frame->nr_set < GUEST_PAGES_PER_FRAME;
}

/* Sets or clears the bit of the guest page at gpa; a bit that is so already stays so. */
static void mark_page(struct virtio_balloon *balloon, struct balloon_frame *frame, uint64_t gpa,
		      bool set)
{
	unsigned int page = (unsigned int)(gpa >> GUEST_PAGE_SHIFT) % GUEST_PAGES_PER_FRAME;
	uint64_t *word = &frame->map[page / 64];
	uint64_t bit = UINT64_C(1) << (page % 64);
	bool was_partial = frame_partial(frame);

	if (!(*word & bit) == !set)
		return;
	*word ^= bit;
	frame->nr_set += set ? 1 : -1;
	balloon->nr_set += set ? 1 : -1;
	balloon->nr_partial += frame_partial(frame);
	balloon->nr_partial -= was_partial;
}

static void clear_maps(struct virtio_balloon *balloon)
{
	memset(balloon->frames, 0, balloon->nr_frames * sizeof(*balloon->frames));
	balloon->nr_full = 0;
	balloon->nr_set = 0;
	balloon->nr_partial = 0;
	balloon->nr_released = 0;
}

/* ---- Giving frames back ---- */

static void queue_full(struct virtio_balloon *balloon, struct balloon_frame *frame)
{
	if (frame->nr_set < GUEST_PAGES_PER_FRAME || frame->queued)
		return;
	frame->queued = true;
	balloon->full[balloon->nr_full++] = (uint32_t)(frame - balloon->frames);
}

static int compare_frames(const void *a, const void *b)
{
	uint32_t left = *(const uint32_t *)a;
	uint32_t right = *(const uint32_t *)b;

	return (left > right) - (left < right);
}

/* Releases one run. Returns false when it has to be tried again. */
static bool release_run(struct virtio_balloon *balloon, uint32_t first, uint32_t nr)
{
	const struct guest_memory *mem = balloon->dev.host->mem;
	uint64_t left;
	int64_t ret;

	if (mem->frame_ops) {
		ret = mem->frame_ops->release(mem->frame_opaque, frame_gpa(balloon, first, &left),
					      nr);
		if (ret < 0) {
			if (!balloon->release_errors++)
				log_warn("virtio-balloon: frames cannot be released: %s",
					 strerror((int)-ret));
			return false;
		}
	}
	for (uint32_t i = first; i < first + nr; i++) {
		struct balloon_frame *frame = &balloon->frames[i];

		frame->queued = false;
		/* Without frame_ops nothing leaves, and the map alone remembers. */
		if (mem->frame_ops && !frame->released) {
			frame->released = true;
			balloon->nr_released++;
		}
	}
	return true;
}

/* Drops what a deflate has made incomplete since it was queued, and sorts the rest. */
static void prepare_full(struct virtio_balloon *balloon)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < balloon->nr_full; i++) {
		struct balloon_frame *frame = &balloon->frames[balloon->full[i]];

		frame->queued = frame->nr_set == GUEST_PAGES_PER_FRAME;
		if (frame->queued)
			balloon->full[kept++] = balloon->full[i];
	}
	balloon->nr_full = kept;
	qsort(balloon->full, kept, sizeof(*balloon->full), compare_frames);
}

/* What is left over is tried again: a deflate soon, for a guest waits for it. */
static void arm_retry(struct virtio_balloon *balloon)
{
	event_timer_arm(balloon->retry, balloon->deflate_held ? RETRY_BACK_MS : RETRY_RELEASE_MS,
			0);
}

/* Releases all frames in balloon->full, adjacent ones in one call. What fails stays there. */
static void release_full(struct virtio_balloon *balloon)
{
	uint32_t nr, run, kept = 0;
	uint64_t left;

	if (!balloon->nr_full)
		return;
	prepare_full(balloon);
	nr = balloon->nr_full;
	for (uint32_t i = 0; i < nr; i += run) {
		uint32_t first = balloon->full[i];

		frame_gpa(balloon, first, &left);
		for (run = 1; i + run < nr && run < left; run++) {
			if (balloon->full[i + run] != first + run)
				break;
		}
		if (release_run(balloon, first, run))
			continue;
		memmove(&balloon->full[kept], &balloon->full[i], run * sizeof(*balloon->full));
		kept += run;
	}
	balloon->nr_full = kept;
	if (kept)
		arm_retry(balloon);
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

/* One page number. Returns 0, -EFAULT (not RAM), or what back() said. */
static int balloon_page(struct virtio_balloon *balloon, uint32_t pfn, bool inflate)
{
	const struct guest_memory *mem = balloon->dev.host->mem;
	uint64_t gpa = (uint64_t)pfn << VIRTIO_BALLOON_PFN_SHIFT;
	struct balloon_frame *frame = find_frame(balloon, gpa);
	int ret;

	if (!frame)
		return -EFAULT;
	if (!inflate && frame->released) {
		ret = mem->frame_ops->back(mem->frame_opaque, gpa & FRAME_MASK, 1);
		if (ret < 0)
			return ret == -EFAULT ? -EIO : ret;
		frame->released = false;
		balloon->nr_released--;
	}
	mark_page(balloon, frame, gpa, inflate);
	if (inflate)
		queue_full(balloon, frame);
	return 0;
}

/*
 * The page numbers of a chain from byte *done on, which is moved behind those that were served.
 * Returns 0 at the end, -EAGAIN when memory is short, or -EINVAL with why.
 */
static int balloon_pages(struct virtio_balloon *balloon, const struct virtq_chain *chain,
			 bool inflate, uint64_t *done, const char **why)
{
	const struct guest_memory *mem = balloon->dev.host->mem;
	uint32_t pfns[PFNS_PER_READ];

	if (check_chain(chain, why) < 0)
		return -EINVAL;
	while (*done < chain->readable_len) {
		size_t n = virtq_chain_read(mem, chain, *done, pfns, sizeof(pfns));

		n /= sizeof(pfns[0]);
		if (!n) {
			*why = "page numbers are not in RAM any more";
			return -EINVAL;
		}
		for (size_t i = 0; i < n; i++) {
			int ret = balloon_page(balloon, le32toh(pfns[i]), inflate);

			if (ret == -EFAULT) {
				*why = "page number outside RAM";
				return -EINVAL;
			}
			if (ret < 0)
				return -EAGAIN;
			*done += sizeof(pfns[0]);
		}
	}
	return 0;
}

/* At most a queue's length per round, so that a driver that never stops adding cannot keep the loop
 * here; then again. */
static void finish_round(struct virtio_balloon *balloon, unsigned int queue)
{
	struct virtqueue *vq = &balloon->vdev.queues[queue].vq;

	virtio_finish_queue(&balloon->vdev, queue);
	if (virtio_running(&balloon->vdev) && virtqueue_has_chains(vq))
		virtio_kick_queue(&balloon->vdev, queue);
}

static void drain_inflate(struct virtio_balloon *balloon, unsigned int queue)
{
	struct virtqueue *vq = virtio_queue(&balloon->vdev, queue);
	uint16_t heads[BALLOON_QUEUE_SIZE];
	const char *why = NULL;
	unsigned int nr = 0;

	if (!vq)
		return;
	while (nr < vq->size && virtqueue_get_chain(vq, &balloon->inflate) > 0) {
		uint64_t done = 0;

		if (balloon_pages(balloon, &balloon->inflate, true, &done, &why) < 0)
			break;
		heads[nr++] = balloon->inflate.head;
	}
	/* The guest counts these pages as given once it sees them used, so first they go. */
	release_full(balloon);
	for (unsigned int i = 0; i < nr; i++)
		virtqueue_push_used(vq, heads[i], 0);
	if (why)
		virtio_broken(&balloon->vdev, why);
	finish_round(balloon, queue);
}

static void drain_deflate(struct virtio_balloon *balloon, unsigned int queue)
{
	struct virtqueue *vq = virtio_queue(&balloon->vdev, queue);
	const char *why = NULL;
	int ret = 0;

	if (!vq)
		return;
	for (unsigned int nr = 0; nr < vq->size; nr++) {
		if (!balloon->deflate_held) {
			if (virtqueue_get_chain(vq, &balloon->deflate) <= 0)
				break;
			balloon->deflate_done = 0;
		}
		ret = balloon_pages(balloon, &balloon->deflate, false, &balloon->deflate_done,
				    &why);
		balloon->deflate_held = ret == -EAGAIN;
		if (ret < 0)
			break;
		virtqueue_push_used(vq, balloon->deflate.head, 0);
	}
	if (why)
		virtio_broken(&balloon->vdev, why);
	if (!balloon->deflate_held) {
		finish_round(balloon, queue);
		return;
	}
	/* The pool is empty now. The guest uses the pages only when this chain comes back. */
	virtio_finish_queue(&balloon->vdev, queue);
	arm_retry(balloon);
}

static void on_retry(void *opaque)
{
	struct virtio_balloon *balloon = opaque;

	pthread_mutex_lock(&balloon->vdev.lock);
	if (virtio_running(&balloon->vdev)) {
		for (unsigned int i = 0; i < BALLOON_QUEUES; i++) {
			if (balloon->handlers[i])
				balloon->handlers[i](balloon, i);
		}
	}
	pthread_mutex_unlock(&balloon->vdev.lock);
}

/* ---- The virtio device ---- */

static void balloon_notify(struct virtio_device *vdev, unsigned int queue)
{
	struct virtio_balloon *balloon = to_balloon(vdev);

	if (balloon->handlers[queue])
		balloon->handlers[queue](balloon, queue);
}

static void balloon_features_ok(struct virtio_device *vdev)
{
	struct virtio_balloon *balloon = to_balloon(vdev);
	unsigned int queue = 0;

	/* In the order of virtio 1.2, 5.5.2; queues of features that were not accepted do not
	 * count. */
	balloon->handlers[queue++] = drain_inflate;
	balloon->handlers[queue++] = drain_deflate;
}

static void balloon_read_config(struct virtio_device *vdev, unsigned int offset, void *dst,
				unsigned int len)
{
	memcpy(dst, (const uint8_t *)&to_balloon(vdev)->config + offset, len);
}

static void report_change(struct virtio_balloon *balloon)
{
	uint64_t one = 1;

	if (write(balloon->changed_fd, &one, sizeof(one)) < 0)
		return; /* EAGAIN: the callback will run anyway */
}

static void balloon_write_config(struct virtio_device *vdev, unsigned int offset, const void *src,
				 unsigned int len)
{
	struct virtio_balloon *balloon = to_balloon(vdev);
	uint8_t *config = (uint8_t *)&balloon->config;
	const uint8_t *bytes = src;
	unsigned int first = offsetof(struct virtio_balloon_config, actual);

	for (unsigned int i = 0; i < len; i++) {
		if (offset + i >= first && offset + i < first + sizeof(balloon->config.actual))
			config[offset + i] = bytes[i];
	}
	if (offset + len > first)
		report_change(balloon);
}

/* The guest owns all its memory again. Frames that left come back when it touches them. */
static void balloon_reset(struct virtio_device *vdev)
{
	struct virtio_balloon *balloon = to_balloon(vdev);

	clear_maps(balloon);
	balloon->deflate_held = false;
	memset(balloon->handlers, 0, sizeof(balloon->handlers));
	if (balloon->config.actual)
		report_change(balloon);
	balloon->config.actual = 0;
	/* The target stays: it is the host's wish, and the next driver reads it. */
}

static const struct virtio_device_type balloon_type = {
	.name = "virtio-balloon",
	.id = VIRTIO_ID_BALLOON,
	.pci_class = BALLOON_PCI_CLASS,
	.nr_queues = BALLOON_QUEUES,
	.queue_size = BALLOON_QUEUE_SIZE,
	.config_size = BALLOON_CONFIG_SIZE,
	.features = UINT64_C(1) << VIRTIO_BALLOON_F_MUST_TELL_HOST,
	.read_config = balloon_read_config,
	.write_config = balloon_write_config,
	.features_ok = balloon_features_ok,
	.queue_notify = balloon_notify,
	.reset = balloon_reset,
};

/* ---- What the machine asks ---- */

static void on_changed(void *opaque, uint32_t events)
{
	struct virtio_balloon *balloon = opaque;
	uint64_t count;

	(void)events;
	if (read(balloon->changed_fd, &count, sizeof(count)) < 0)
		return;
	if (balloon->changed)
		balloon->changed(balloon->opaque);
}

int virtio_balloon_set_target(struct virtio_balloon *balloon, uint64_t bytes, struct error *err)
{
	uint64_t ram = frames_to_bytes(balloon->nr_frames);
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
	*stats = (struct virtio_balloon_stats){
		.driver_ready = vdev->status & VIRTIO_CONFIG_S_DRIVER_OK,
		.broken = vdev->status & VIRTIO_CONFIG_S_NEEDS_RESET,
		.target = (uint64_t)le32toh(balloon->config.num_pages) << GUEST_PAGE_SHIFT,
		.actual = (uint64_t)le32toh(balloon->config.actual) << GUEST_PAGE_SHIFT,
		.inflated = balloon->nr_set << GUEST_PAGE_SHIFT,
		.frames_released = balloon->nr_released,
		.frames_partial = balloon->nr_partial,
		.release_errors = balloon->release_errors,
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
	event_timer_destroy(balloon->retry);
	event_source_remove(balloon->changed_source);
	if (balloon->changed_fd >= 0)
		close(balloon->changed_fd);
	free(balloon->full);
	free(balloon->frames);
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

static int create_parts(struct virtio_balloon *balloon)
{
	struct device_host *host = balloon->dev.host;

	for (unsigned int i = 0; i < host->mem->nr_regions; i++) {
		const struct guest_region *region = &host->mem->regions[i];

		balloon->regions[balloon->nr_regions++] = (struct balloon_region){
			.gpa = region->gpa, .size = region->size, .first_frame = balloon->nr_frames
		};
		balloon->nr_frames += (uint32_t)bytes_to_frames(region->size);
	}
	if (!balloon->nr_frames)
		return -EINVAL;
	balloon->frames = calloc(balloon->nr_frames, sizeof(*balloon->frames));
	balloon->full = calloc(balloon->nr_frames, sizeof(*balloon->full));
	if (!balloon->frames || !balloon->full)
		return -ENOMEM;
	balloon->changed_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (balloon->changed_fd < 0)
		return -errno;
	balloon->changed_source =
		event_loop_add(host->loop, balloon->changed_fd, EPOLLIN, on_changed, balloon);
	if (!balloon->changed_source)
		return -errno;
	balloon->retry = event_timer_create(host->loop, on_retry, balloon);
	return balloon->retry ? 0 : -errno;
}

struct virtio_balloon *virtio_balloon_create(struct device_host *host, struct pci_bus *bus,
					     virtio_balloon_changed_fn changed, void *opaque,
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
	balloon->changed = changed;
	balloon->opaque = opaque;
	balloon->changed_fd = -1;
	ret = create_parts(balloon);
	if (ret < 0) {
		error_set_errno(err, -ret, "virtio-balloon: cannot be created");
		free_parts(balloon);
		return NULL;
	}
	if (virtio_device_init(&balloon->vdev, &balloon_type, host, err) < 0) {
		free_parts(balloon);
		return NULL;
	}
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
