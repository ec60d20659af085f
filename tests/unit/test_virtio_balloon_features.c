/* SPDX-License-Identifier: MIT */
/* The balloon's optional features, driven as a guest drives them: statistics, reports, hints. */
#include "tests/unit/balloon_driver.h"

#define F_STATS    (1ull << VIRTIO_BALLOON_F_STATS_VQ)
#define F_HINT     (1ull << VIRTIO_BALLOON_F_FREE_PAGE_HINT)
#define F_POISON   (1ull << VIRTIO_BALLOON_F_PAGE_POISON)
#define F_REPORT   (1ull << VIRTIO_BALLOON_F_REPORTING)
#define F_ALL      (F_VERSION_1 | VIRTIO_BALLOON_FEATURES_ALL)
#define STATS      2
#define HINTS      3
#define REPORTS    4
#define FRAME(n)   ((uint64_t)(n)*FRAME_SIZE)
#define CONFIG_CMD 8
#define POISON_VAL 12

static struct virtio_balloon_guest_stats guest_stats(struct driver *drv)
{
	struct virtio_balloon_guest_stats s;

	virtio_balloon_guest_stats(drv->th->set.balloon, &s);
	return s;
}

/* ---- Queue roles ---- */

/* Whether a report on this queue is served as one. */
static bool reports_here(struct driver *drv, unsigned int queue)
{
	drv->th->present[4] = true;
	driver_set_desc(drv, queue, 0,
			(struct vring_desc){ FRAME(4), FRAME_SIZE, VRING_DESC_F_WRITE, 0 });
	driver_publish(drv, queue, 0);
	driver_kick(drv, queue);
	host_sync(drv->th);
	return !drv->th->present[4];
}

static void start_queues(struct driver *drv, uint64_t features, unsigned int first,
			 unsigned int last)
{
	driver_enable_memory(drv);
	assert_int_equal(driver_negotiate(drv, features), S_UP_TO_FEATURES);
	for (unsigned int i = 0; i <= last; i++) {
		if (i < 2 || i >= first)
			driver_setup_queue(drv, i, 64);
	}
	driver_set_status(drv, S_ALL);
}

static void queue_roles(void **state)
{
	static const struct {
		uint64_t features;
		unsigned int by_number, without_gaps;
	} cases[] = {
		{ F_REPORT, 4, 2 },
		{ F_REPORT | F_STATS, 4, 3 },
		{ F_REPORT | F_HINT, 4, 3 },
		{ F_REPORT | F_STATS | F_HINT, 4, 4 },
	};
	struct driver drv;

	(void)state;
	assert_true(driver_probe(&drv, host_create(true), 1));
	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint64_t features = F_VERSION_1 | F_TELL | cases[i].features;

		start_queues(&drv, features, 4, cases[i].by_number);
		assert_true(reports_here(&drv, cases[i].by_number));
		start_queues(&drv, features, 2, cases[i].without_gaps);
		assert_true(reports_here(&drv, cases[i].without_gaps));
		assert_false(stats(&drv).broken);
	}
	/* A queue whose feature was not accepted has no role. */
	start_queues(&drv, F_VERSION_1 | F_TELL | F_STATS, 2, 4);
	assert_false(reports_here(&drv, 3));
	assert_false(reports_here(&drv, 4));
	assert_int_equal(driver_used_idx(&drv, 4), 0);
	host_destroy(drv.th);
}

static void features_can_be_left_out(void **state)
{
	struct virtio_balloon_options options = { .features = F_TELL | F_STATS };
	struct test_host *th = host_create(false);
	struct virtio_balloon *balloon;
	struct driver drv;

	(void)state;
	balloon = virtio_balloon_create(&th->host, th->set.pci, &options, NULL);
	assert_non_null(balloon);
	virtio_balloon_device(balloon)->next = th->set.last;
	th->set.last = virtio_balloon_device(balloon);
	assert_true(driver_probe(&drv, th, 3));
	driver_enable_memory(&drv);
	assert_int_equal(driver_offered(&drv), F_VERSION_1 | F_TELL | F_STATS);
	assert_int_equal(driver_negotiate(&drv, F_ALL), S_UP_TO_DRIVER);
	host_destroy(th);
}

/* ---- Statistics ---- */

struct entry {
	uint16_t tag;
	uint64_t value;
} __attribute__((packed));

static void send_stats(struct driver *drv, const void *data, uint32_t len)
{
	memcpy(guest_ptr(&drv->th->mem, DRIVER_BUFFERS, len), data, len);
	driver_send(drv, STATS, DRIVER_BUFFERS, len);
	host_sync(drv->th);
}

static void call_interval(void *opaque)
{
	unsigned int *args = ((void **)opaque)[1];

	virtio_balloon_set_stats_interval(((void **)opaque)[0], *args);
}

static void set_interval(struct driver *drv, unsigned int seconds)
{
	void *args[] = { drv->th->set.balloon, &seconds };

	host_call(drv->th, call_interval, args);
}

static bool wait_used(struct driver *drv, unsigned int queue, uint16_t idx, unsigned int ms)
{
	while (driver_used_idx(drv, queue) != idx && ms--)
		usleep(1000);
	return driver_used_idx(drv, queue) == idx;
}

/* A buffer is in the used ring before its interrupt is sent, by another thread than the one that
 * looks. */
static unsigned int wait_interrupts(unsigned int vector, unsigned int nr, unsigned int ms)
{
	while (driver_interrupts(vector) < nr && ms--)
		usleep(1000);
	return driver_interrupts(vector);
}

static void statistics(void **state)
{
	const struct entry first[] = {
		{ 4, 0x1122334455667788 }, { 15, 42 }, { 16, 7 }, { 0xffff, 8 }, { 0, 1 }, { 0, 2 },
	};
	const struct entry second[] = { { 6, 99 } };
	struct virtio_balloon_guest_stats s;
	struct driver drv;

	(void)state;
	start(&drv, F_ALL);
	assert_int_equal(guest_stats(&drv).valid, 0);
	assert_false(guest_stats(&drv).stale);      /* nobody asked */
	send_stats(&drv, first, sizeof(first) - 3); /* half an entry at the end */
	s = guest_stats(&drv);
	assert_int_equal(s.valid, 1u << 4 | 1u << 15 | 1u << 0);
	assert_int_equal(s.values[BALLOON_STAT_FREE], 0x1122334455667788);
	assert_int_equal(s.values[BALLOON_STAT_DIRECT_RECLAIM], 42);
	assert_int_equal(s.values[BALLOON_STAT_SWAP_IN], 1);
	assert_true(s.age_ms < 10000);
	assert_true(s.last_update > 1600000000);
	/* The buffer is kept until the numbers are wanted. */
	usleep(20000);
	assert_int_equal(driver_used_idx(&drv, STATS), 0);
	set_interval(&drv, 1);
	assert_true(wait_used(&drv, STATS, 1, 60000));
	assert_int_equal(wait_interrupts(STATS + 1, 1, 60000), 1);
	send_stats(&drv, second, sizeof(second));
	s = guest_stats(&drv);
	assert_int_equal(s.valid, 1u << 6);
	assert_int_equal(s.values[BALLOON_STAT_AVAILABLE], 99);
	assert_true(wait_used(&drv, STATS, 2, 60000));
	/* No answer any more: stale, and not asked again. */
	usleep(1300000);
	assert_true(guest_stats(&drv).stale);
	assert_true(guest_stats(&drv).age_ms >= 1000);
	assert_in_range(guest_stats(&drv).unanswered_ms, 1200, 60000);
	assert_int_equal(guest_stats(&drv).valid, 1u << 6);
	assert_int_equal(driver_used_idx(&drv, STATS), 2);
	send_stats(&drv, second, sizeof(second));
	assert_false(guest_stats(&drv).stale);
	assert_int_equal(guest_stats(&drv).unanswered_ms, 0);
	set_interval(&drv, 0);
	usleep(1100000);
	assert_true(driver_used_idx(&drv, STATS) <= 3);
	/* The next driver's numbers are others. */
	driver_set_status(&drv, 0);
	assert_int_equal(guest_stats(&drv).valid, 0);
	assert_int_equal(guest_stats(&drv).last_update, 0);
	host_destroy(drv.th);
}

static void odd_statistics(void **state)
{
	struct entry many[600];
	struct driver drv;

	(void)state;
	for (unsigned int i = 0; i < 600; i++)
		many[i] = (struct entry){ .tag = (uint16_t)(i / 60), .value = i };
	start(&drv, F_ALL);
	send_stats(&drv, many, sizeof(many)); /* only the beginning is looked at */
	assert_int_equal(guest_stats(&drv).valid, 3);
	assert_int_equal(guest_stats(&drv).values[0], 59);
	assert_false(stats(&drv).broken);
	send_stats(&drv, many, 10); /* a second one at once: not allowed */
	assert_true(stats(&drv).broken);
	set_interval(&drv, 5);
	assert_true(guest_stats(&drv).stale);
	/* A driver without the feature cannot answer. */
	driver_start(&drv, F_VERSION_1 | F_TELL, 8);
	send_stats(&drv, many, 10);
	assert_int_equal(guest_stats(&drv).valid, 0);
	assert_true(guest_stats(&drv).stale);
	assert_int_equal(driver_used_idx(&drv, STATS), 0);
	/* One byte, and a write-only buffer. */
	driver_start(&drv, F_ALL, 8);
	send_stats(&drv, many, 1);
	assert_int_equal(guest_stats(&drv).valid, 0);
	assert_false(stats(&drv).broken);
	host_destroy(drv.th);
}

/* ---- Reports ---- */

/* One report of several buffers {addr, len}. */
static void post_pages(struct driver *drv, unsigned int queue, const uint64_t (*buffers)[2],
		       unsigned int nr)
{
	for (unsigned int i = 0; i < nr; i++) {
		uint16_t flags = VRING_DESC_F_WRITE | (i + 1 < nr ? VRING_DESC_F_NEXT : 0);

		driver_set_desc(drv, queue, (uint16_t)i,
				(struct vring_desc){ buffers[i][0], (uint32_t)buffers[i][1], flags,
						     (uint16_t)(i + 1) });
	}
	driver_publish(drv, queue, 0);
	driver_kick(drv, queue);
	host_sync(drv->th);
}

static void report(struct driver *drv, const uint64_t (*buffers)[2], unsigned int nr)
{
	uint16_t before = driver_used_idx(drv, REPORTS);

	post_pages(drv, REPORTS, buffers, nr);
	assert_int_equal(driver_used_idx(drv, REPORTS), (uint16_t)(before + 1));
}

static void reports(void **state)
{
	/* Frames 2 and 3, out of order and overlapping; most of 5; all of 9 and of 13, which is
	 * in another region; a few bytes that hold no page. */
	const uint64_t buffers[][2] = {
		{ FRAME(3), FRAME_SIZE },
		{ FRAME(9), FRAME_SIZE },
		{ FRAME(2) - 100, FRAME_SIZE + 4196 },
		{ FRAME(5) + 4096, FRAME_SIZE - 4096 },
		{ FRAME(7) + 1, 4095 },
		{ HOST_HIGH_RAM + FRAME(3), FRAME_SIZE },
	};
	const uint64_t rest[][2] = { { FRAME(5), 4096 } };
	struct driver drv;

	(void)state;
	start(&drv, F_ALL);
	report(&drv, buffers, 6);
	assert_false(drv.th->present[2] || drv.th->present[3] || drv.th->present[9] ||
		     drv.th->present[13]);
	assert_int_equal(host_present(drv.th), HOST_FRAMES - 4);
	assert_int_equal(drv.th->nr_release, 3);
	assert_int_equal(stats(&drv).frames_reported, 4);
	assert_int_equal(stats(&drv).reported, 5 * FRAME_SIZE - 4096);
	/* What was left of frame 5 may be in use by now: it must not be added to that. */
	report(&drv, rest, 1);
	assert_true(drv.th->present[5]);
	/* It leaves nothing in the balloon. */
	assert_int_equal(stats(&drv).inflated, 0);
	assert_int_equal(stats(&drv).frames_partial, 0);
	assert_int_equal(stats(&drv).frames_released, 0);
	host_destroy(drv.th);
}

static void send_pfns(struct driver *drv, uint64_t gpa, unsigned int nr)
{
	uint32_t *pfns = guest_ptr(&drv->th->mem, DRIVER_BUFFERS, nr * sizeof(uint32_t));

	for (unsigned int i = 0; i < nr; i++)
		pfns[i] = (uint32_t)(gpa >> GUEST_PAGE_SHIFT) + i;
	driver_send(drv, INFLATE, DRIVER_BUFFERS, nr * (uint32_t)sizeof(uint32_t));
	host_sync(drv->th);
}

/* One report and the balloon together cover a frame: with MUST_TELL_HOST none of it is in use. */
static void reports_complete_the_balloon(void **state)
{
	const uint64_t buffers[][2] = { { FRAME(4) + 8192, FRAME_SIZE - 8192 - 4096 },
					{ FRAME(5) - 4096, 4096 },
					{ FRAME(6) + 8192, FRAME_SIZE - 8192 } };
	struct driver drv;

	(void)state;
	start(&drv, F_ALL);
	send_pfns(&drv, FRAME(4), 2);
	send_pfns(&drv, FRAME(6), 1);
	report(&drv, buffers, 3);
	assert_false(drv.th->present[4]);
	assert_true(drv.th->present[6]); /* one page is in neither */
	assert_int_equal(stats(&drv).inflated, 3 * GUEST_PAGE_SIZE);
	drv.th->present[4] = true;
	/* Without it the balloon's pages may be in use. */
	driver_start(&drv, F_ALL & ~F_TELL, 128);
	send_pfns(&drv, FRAME(4), 2);
	report(&drv, buffers, 3);
	assert_true(drv.th->present[4]);
	host_destroy(drv.th);
}

static void poisoned_pages_stay(void **state)
{
	const uint64_t buffers[][2] = { { FRAME(2), FRAME_SIZE } };
	struct driver drv;

	(void)state;
	start(&drv, F_ALL);
	host_write(drv.th, drv.device + POISON_VAL, 0xaaaaaaaa, 4);
	report(&drv, buffers, 1);
	assert_true(drv.th->present[2]);
	/* Inflating is another matter: the driver fills the page when it comes back. */
	send_pfns(&drv, FRAME(3), GUEST_PAGES_PER_FRAME);
	assert_false(drv.th->present[3]);
	/* Zero is what frames return with. */
	host_write(drv.th, drv.device + POISON_VAL, 0, 4);
	report(&drv, buffers, 1);
	assert_false(drv.th->present[2]);
	drv.th->present[2] = true;
	/* The field does not exist without the feature, and not beyond a reset. */
	host_write(drv.th, drv.device + POISON_VAL, 0xaa, 1);
	driver_start(&drv, F_ALL & ~F_POISON, 128);
	assert_int_equal(host_read(drv.th, drv.device + POISON_VAL, 4), 0);
	host_write(drv.th, drv.device + POISON_VAL, 0xaa, 1);
	report(&drv, buffers, 1);
	assert_false(drv.th->present[2]);
	host_destroy(drv.th);
}

static void reports_without_release(void **state)
{
	const uint64_t buffers[][2] = { { FRAME(2), FRAME_SIZE } };
	struct driver drv;

	(void)state;
	start(&drv, F_ALL);
	drv.th->release_broken = true;
	report(&drv, buffers, 1);
	assert_int_equal(stats(&drv).release_errors, 1);
	assert_true(drv.th->present[2]);
	host_destroy(drv.th);
}

/* ---- Hints ---- */

struct hint_call {
	struct virtio_balloon *balloon;
	int ret;
};

static void call_start_hint(void *opaque)
{
	struct hint_call *call = opaque;

	call->ret = virtio_balloon_start_hint(call->balloon, NULL);
}

static int start_hint(struct driver *drv)
{
	struct hint_call call = { .balloon = drv->th->set.balloon };

	host_call(drv->th, call_start_hint, &call);
	return call.ret;
}

static void call_stop_hint(void *opaque)
{
	virtio_balloon_stop_hint(opaque);
}

static uint32_t command(struct driver *drv)
{
	return (uint32_t)host_read(drv->th, drv->device + CONFIG_CMD, 4);
}

static void send_command(struct driver *drv, uint32_t id)
{
	memcpy(guest_ptr(&drv->th->mem, DRIVER_BUFFERS, 4), &id, 4);
	driver_send(drv, HINTS, DRIVER_BUFFERS, 4);
	host_sync(drv->th);
}

static void hint(struct driver *drv, uint64_t gpa, uint64_t len)
{
	const uint64_t buffer[][2] = { { gpa, len } };
	uint16_t before = driver_used_idx(drv, HINTS);

	post_pages(drv, HINTS, buffer, 1);
	assert_int_equal(driver_used_idx(drv, HINTS), (uint16_t)(before + 1));
}

/* A guest's write: the first byte of the frame, and the frame counts as touched. */
static void touch(struct driver *drv, unsigned int frame, uint8_t value)
{
	pthread_mutex_lock(&drv->th->lock);
	drv->th->untouched[frame] = false;
	*(uint8_t *)guest_ptr(&drv->th->mem, FRAME(frame), 1) = value;
	pthread_mutex_unlock(&drv->th->lock);
}

static void hints(void **state)
{
	unsigned int changes;
	struct driver drv;
	uint32_t id;

	(void)state;
	start(&drv, F_ALL);
	assert_int_equal(command(&drv), VIRTIO_BALLOON_CMD_ID_STOP);
	for (unsigned int frame = 2; frame < 8; frame++)
		touch(&drv, frame, 0x11);
	assert_int_equal(start_hint(&drv), 0);
	assert_int_equal(drv.th->nr_watch, 4); /* each region */
	assert_int_equal(start_hint(&drv), -EBUSY);
	assert_true(stats(&drv).hinting);
	assert_int_equal(driver_interrupts(0), 1);
	id = command(&drv);
	assert_true(id >= 2);
	hint(&drv, FRAME(2), FRAME_SIZE); /* before the id: not part of the session */
	assert_true(drv.th->present[2]);
	send_command(&drv, id);
	touch(&drv, 3, 0x22); /* in use again, or never free */
	touch(&drv, 4, 0);    /* zeroed while it was allocated for the hint */
	hint(&drv, FRAME(2), 2 * FRAME_SIZE);
	hint(&drv, FRAME(4), 2 * FRAME_SIZE);
	hint(&drv, FRAME(6) + 4096, FRAME_SIZE - 4096); /* not all of it */
	assert_false(drv.th->present[2]);
	assert_true(drv.th->present[3]);
	assert_false(drv.th->present[4]);
	assert_false(drv.th->present[5]);
	assert_true(drv.th->present[6]);
	assert_int_equal(*(uint8_t *)guest_ptr(&drv.th->mem, FRAME(3), 1), 0x22);
	host_wait_told(drv.th, &drv.th->balloon_changes, 0);
	changes = drv.th->balloon_changes;
	send_command(&drv, VIRTIO_BALLOON_CMD_ID_STOP);
	assert_int_equal(command(&drv), VIRTIO_BALLOON_CMD_ID_DONE);
	assert_int_equal(driver_interrupts(0), 2);
	host_wait_told(drv.th, &drv.th->balloon_changes, changes + 1);
	assert_int_equal(drv.th->balloon_changes, changes + 1);
	assert_int_equal(stats(&drv).frames_hinted, 3);
	assert_int_equal(stats(&drv).hinted, 5 * FRAME_SIZE - 4096);
	assert_false(stats(&drv).hinting);
	/* What comes late is answered and not used. */
	hint(&drv, FRAME(7), FRAME_SIZE);
	send_command(&drv, id);
	hint(&drv, FRAME(7), FRAME_SIZE);
	assert_true(drv.th->present[7]);
	/* The next session has another id. */
	assert_int_equal(start_hint(&drv), 0);
	assert_int_equal(command(&drv), id + 1);
	send_command(&drv, id);
	hint(&drv, FRAME(7), FRAME_SIZE);
	assert_true(drv.th->present[7]);
	send_command(&drv, id + 1);
	hint(&drv, FRAME(7), FRAME_SIZE);
	assert_false(drv.th->present[7]);
	host_call(drv.th, call_stop_hint, drv.th->set.balloon);
	assert_int_equal(command(&drv), VIRTIO_BALLOON_CMD_ID_DONE);
	hint(&drv, FRAME(8), FRAME_SIZE);
	assert_true(drv.th->present[8]);
	host_destroy(drv.th);
}

/* Linux's buffer for the id: what was sent in the last session is read when it holds the next one's
 * id. The page that came with it is older than the watch. */
static void hints_of_the_last_session(void **state)
{
	struct driver drv;
	uint32_t id;

	(void)state;
	start(&drv, F_ALL);
	assert_int_equal(start_hint(&drv), 0);
	host_call(drv.th, call_stop_hint, drv.th->set.balloon);
	driver_set_desc(&drv, HINTS, 0, (struct vring_desc){ .addr = DRIVER_BUFFERS, .len = 4 });
	driver_set_desc(&drv, HINTS, 1,
			(struct vring_desc){ FRAME(7), FRAME_SIZE, VRING_DESC_F_WRITE, 0 });
	driver_publish(&drv, HINTS, 0);
	driver_publish(&drv, HINTS, 1);
	assert_int_equal(start_hint(&drv), 0);
	id = command(&drv);
	memcpy(guest_ptr(&drv.th->mem, DRIVER_BUFFERS, 4), &id, 4);
	driver_kick(&drv, HINTS);
	host_sync(drv.th);
	assert_int_equal(driver_used_idx(&drv, HINTS), 2);
	assert_true(drv.th->present[7]);
	assert_true(stats(&drv).hinting);
	/* And then what belongs to this one. */
	send_command(&drv, id);
	hint(&drv, FRAME(7), FRAME_SIZE);
	assert_false(drv.th->present[7]);
	host_destroy(drv.th);
}

static void call_hold(void *opaque)
{
	struct hint_call *call = opaque;

	call->ret = virtio_balloon_hold(call->balloon, NULL);
}

static int hold(struct driver *drv)
{
	struct hint_call call = { .balloon = drv->th->set.balloon };

	host_call(drv->th, call_hold, &call);
	return call.ret;
}

static void call_let_go(void *opaque)
{
	virtio_balloon_let_go(opaque);
}

/* Pages that are held stay where they are, over several requests, until they are let go. */
static void holding(void **state)
{
	struct driver drv;
	uint32_t id;

	(void)state;
	start(&drv, F_ALL);
	assert_int_equal(hold(&drv), 0);
	assert_int_equal(drv.th->nr_watch, 0);
	assert_int_equal(start_hint(&drv), -EBUSY);
	id = command(&drv);
	hint(&drv, FRAME(2), FRAME_SIZE); /* before the id */
	assert_int_equal(stats(&drv).held, 0);
	send_command(&drv, id);
	hint(&drv, FRAME(2), 2 * FRAME_SIZE);
	assert_true(drv.th->present[2] && drv.th->present[3]);
	assert_int_equal(stats(&drv).held, 2 * FRAME_SIZE);
	/* The driver has no more; it is not told to free what it has. */
	send_command(&drv, VIRTIO_BALLOON_CMD_ID_STOP);
	assert_int_equal(command(&drv), id);
	assert_true(stats(&drv).holding);
	assert_int_equal(hold(&drv), 0);
	assert_int_equal(command(&drv), id + 1);
	send_command(&drv, id + 1);
	hint(&drv, FRAME(6), FRAME_SIZE);
	assert_int_equal(stats(&drv).held, 3 * FRAME_SIZE);
	host_call(drv.th, call_let_go, drv.th->set.balloon);
	assert_int_equal(command(&drv), VIRTIO_BALLOON_CMD_ID_DONE);
	assert_false(stats(&drv).holding);
	assert_int_equal(stats(&drv).held, 0);
	assert_true(drv.th->present[6]);
	assert_int_equal(stats(&drv).frames_hinted, 0);
	/* Ordinary hints are another thing, and are not let go. */
	assert_int_equal(start_hint(&drv), 0);
	assert_int_equal(hold(&drv), -EBUSY);
	host_call(drv.th, call_let_go, drv.th->set.balloon);
	assert_true(stats(&drv).hinting);
	driver_set_status(&drv, 0);
	assert_int_equal(hold(&drv), -EAGAIN);
	host_destroy(drv.th);
}

/* A driver that hints the same pages for ever is not listened to for ever. */
static void endless_hints(void **state)
{
	unsigned int rounds = 0;
	struct driver drv;

	(void)state;
	start(&drv, F_ALL);
	assert_int_equal(start_hint(&drv), 0);
	send_command(&drv, command(&drv));
	while (stats(&drv).hinting && rounds++ < 100)
		hint(&drv, FRAME(2), 6 * FRAME_SIZE);
	assert_int_equal(rounds, 2 * HOST_FRAMES / 6 + 1);
	assert_int_equal(command(&drv), VIRTIO_BALLOON_CMD_ID_DONE);
	host_destroy(drv.th);
}

static void hints_that_cannot_be(void **state)
{
	struct guest_frame_ops without;
	struct driver drv;

	(void)state;
	assert_true(driver_probe(&drv, host_create(true), 1));
	assert_int_equal(start_hint(&drv), -EAGAIN); /* no driver */
	driver_start(&drv, F_ALL & ~F_HINT, 128);
	assert_int_equal(start_hint(&drv), -ENOTSUP);
	driver_start(&drv, F_ALL, 128);
	drv.th->release_broken = true;
	assert_int_equal(start_hint(&drv), -EIO);
	assert_int_equal(command(&drv), VIRTIO_BALLOON_CMD_ID_STOP);
	drv.th->release_broken = false;
	without = *drv.th->mem.frame_ops;
	without.release_clean = NULL;
	drv.th->mem.frame_ops = &without;
	assert_int_equal(start_hint(&drv), -ENOTSUP);
	without = th_frame_ops;
	/* A reset in the middle ends the session. */
	assert_int_equal(start_hint(&drv), 0);
	send_command(&drv, command(&drv));
	driver_start(&drv, F_ALL, 128);
	assert_int_equal(command(&drv), VIRTIO_BALLOON_CMD_ID_STOP);
	assert_false(stats(&drv).hinting);
	hint(&drv, FRAME(7), FRAME_SIZE);
	assert_true(drv.th->present[7]);
	/* A command that is none. */
	driver_send(&drv, HINTS, DRIVER_BUFFERS, 3);
	host_sync(drv.th);
	assert_true(stats(&drv).broken);
	assert_int_equal(start_hint(&drv), -EAGAIN);
	host_destroy(drv.th);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(queue_roles),
		cmocka_unit_test(features_can_be_left_out),
		cmocka_unit_test(statistics),
		cmocka_unit_test(odd_statistics),
		cmocka_unit_test(reports),
		cmocka_unit_test(reports_complete_the_balloon),
		cmocka_unit_test(poisoned_pages_stay),
		cmocka_unit_test(reports_without_release),
		cmocka_unit_test(hints),
		cmocka_unit_test(hints_of_the_last_session),
		cmocka_unit_test(holding),
		cmocka_unit_test(endless_hints),
		cmocka_unit_test(hints_that_cannot_be),
	};

	int failed = cmocka_run_group_tests_name("served by the loop", tests, NULL, NULL);

	host_serves_here = true;
	return failed +
	       cmocka_run_group_tests_name("served where the vCPU notifies", tests, NULL, NULL);
}
