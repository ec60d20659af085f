/* SPDX-License-Identifier: MIT */
/* The balloon, driven as a guest drives it: page numbers in rings, frames that leave and return. */
#include "tests/unit/balloon_driver.h"

#include "framevisor/clock.h"

#define DEFLATE     1
#define PER_MESSAGE 256 /* what a stock driver sends */
#define PFN(frame)  ((uint32_t)(frame) * (1u << (FRAME_SHIFT_2M - GUEST_PAGE_SHIFT)))
#define HIGH_PFN    (uint32_t)(HOST_HIGH_RAM >> GUEST_PAGE_SHIFT)

/* Each queue has a buffer of its own: one may wait while the other goes on. */
static uint64_t buffer(unsigned int queue)
{
	return DRIVER_BUFFERS + queue * 0x10000;
}

/* One message of page numbers first, first + step, ...; does not wait. */
static void post(struct driver *drv, unsigned int queue, uint32_t first, uint32_t nr, uint32_t step)
{
	uint32_t *pfns = guest_ptr(&drv->th->mem, buffer(queue), nr * sizeof(uint32_t));

	for (uint32_t i = 0; i < nr; i++)
		pfns[i] = first + i * step;
	driver_send(drv, queue, buffer(queue), nr * sizeof(uint32_t));
}

/* Whole frames as a stock driver sends them, and its wait for each message. */
static void send_pages(struct driver *drv, unsigned int queue, uint32_t first, uint32_t nr)
{
	for (uint32_t done = 0; done < nr; done += PER_MESSAGE) {
		uint32_t n = nr - done < PER_MESSAGE ? nr - done : PER_MESSAGE;
		uint16_t before = driver_used_idx(drv, queue);

		post(drv, queue, first + done, n, 1);
		host_sync(drv->th);
		assert_int_equal(driver_used_idx(drv, queue), (uint16_t)(before + 1));
	}
}

static void inflate_and_deflate(void **state)
{
	struct driver drv;

	(void)state;
	start(&drv, F_VERSION_1 | F_TELL);
	send_pages(&drv, INFLATE, PFN(4), PER_MESSAGE);
	assert_int_equal(stats(&drv).frames_partial, 1);
	assert_int_equal(stats(&drv).inflated, PER_MESSAGE * GUEST_PAGE_SIZE);
	assert_int_equal(host_present(drv.th), HOST_FRAMES);
	send_pages(&drv, INFLATE, PFN(4) + PER_MESSAGE, PER_MESSAGE);
	assert_int_equal(stats(&drv).frames_partial, 0);
	assert_int_equal(stats(&drv).frames_released, 1);
	assert_false(drv.th->present[4]);
	assert_int_equal(host_present(drv.th), HOST_FRAMES - 1);
	/* The first page back brings the frame back, before the chain is used. */
	send_pages(&drv, DEFLATE, PFN(4) + 77, 1);
	assert_true(drv.th->present[4]);
	assert_int_equal(drv.th->nr_back, 1);
	assert_int_equal(stats(&drv).frames_released, 0);
	assert_int_equal(stats(&drv).frames_partial, 1);
	send_pages(&drv, DEFLATE, PFN(4), GUEST_PAGES_PER_FRAME);
	assert_int_equal(drv.th->nr_back, 1); /* it was there already */
	assert_int_equal(stats(&drv).inflated, 0);
	assert_int_equal(stats(&drv).frames_partial, 0);
	/* And again. */
	send_pages(&drv, INFLATE, PFN(4), GUEST_PAGES_PER_FRAME);
	assert_false(drv.th->present[4]);
	assert_int_equal(driver_interrupts(1), 4);
	assert_int_equal(driver_interrupts(2), 3);
	host_destroy(drv.th);
}

/* The driver may take pages in any order, from many frames at once. */
static void scattered_pages(void **state)
{
	struct driver drv;

	(void)state;
	start(&drv, F_VERSION_1 | F_TELL);
	for (uint32_t page = 0; page < GUEST_PAGES_PER_FRAME; page++) {
		assert_int_equal(drv.th->nr_release, 0);
		post(&drv, INFLATE, PFN(2) + (page * 37) % GUEST_PAGES_PER_FRAME, 6,
		     GUEST_PAGES_PER_FRAME);
		host_sync(drv.th);
	}
	/* Six frames full in one round: one run per region. */
	assert_int_equal(drv.th->nr_release, 1);
	assert_int_equal(drv.th->last_release_nr, 6);
	assert_int_equal(stats(&drv).frames_released, 6);
	assert_int_equal(host_present(drv.th), HOST_FRAMES - 6);
	host_destroy(drv.th);
}

/* Adjacent regions, and the one above the hole, in one round of several messages. */
static void runs_stop_at_regions(void **state)
{
	static const uint32_t frames[] = { 9, 7, 8, 6 };
	struct driver drv;
	uint32_t *pfns;

	(void)state;
	start(&drv, F_VERSION_1 | F_TELL);
	pfns = guest_ptr(&drv.th->mem, DRIVER_BUFFERS, 5 * 2048);
	for (unsigned int i = 0; i < 5; i++) {
		uint32_t first = i < 4 ? PFN(frames[i]) : HIGH_PFN + PFN(3);

		for (unsigned int page = 0; page < 512; page++)
			pfns[i * 512 + page] = first + page;
		driver_set_desc(
			&drv, INFLATE, (uint16_t)i,
			(struct vring_desc){ .addr = DRIVER_BUFFERS + i * 2048, .len = 2048 });
		driver_publish(&drv, INFLATE, (uint16_t)i);
	}
	driver_kick(&drv, INFLATE);
	host_sync(drv.th);
	assert_int_equal(driver_used_idx(&drv, INFLATE), 5);
	assert_int_equal(drv.th->nr_release, 3); /* 6-7, 8-9, the last */
	assert_int_equal(drv.th->nr_taken, 5);
	assert_false(drv.th->present[13]);
	assert_int_equal(driver_interrupts(1), 1);
	host_destroy(drv.th);
}

static void repeated_pages_change_nothing(void **state)
{
	struct driver drv;

	(void)state;
	start(&drv, F_VERSION_1 | F_TELL);
	post(&drv, INFLATE, PFN(5), PER_MESSAGE, 0);
	host_sync(drv.th);
	assert_int_equal(stats(&drv).inflated, GUEST_PAGE_SIZE);
	send_pages(&drv, INFLATE, PFN(5), GUEST_PAGES_PER_FRAME);
	send_pages(&drv, INFLATE, PFN(5), GUEST_PAGES_PER_FRAME);
	assert_int_equal(stats(&drv).inflated, FRAME_SIZE);
	assert_int_equal(stats(&drv).frames_released, 1);
	assert_int_equal(drv.th->nr_taken, 1);
	post(&drv, DEFLATE, PFN(6), PER_MESSAGE, 1); /* never inflated */
	host_sync(drv.th);
	assert_int_equal(stats(&drv).inflated, FRAME_SIZE);
	assert_int_equal(stats(&drv).driver_ready, true);
	assert_false(stats(&drv).broken);
	host_destroy(drv.th);
}

/* A guest without MUST_TELL_HOST may touch first: the frame is there when it tells. */
static void touched_before_told(void **state)
{
	struct driver drv;

	(void)state;
	start(&drv, F_VERSION_1);
	send_pages(&drv, INFLATE, PFN(3), GUEST_PAGES_PER_FRAME);
	assert_false(drv.th->present[3]);
	drv.th->present[3] = true; /* the fault path bound one */
	send_pages(&drv, DEFLATE, PFN(3), 8);
	assert_true(drv.th->present[3]);
	send_pages(&drv, INFLATE, PFN(3), 8);
	assert_false(drv.th->present[3]);
	/* Touched, never told, and given again. */
	drv.th->present[3] = true;
	send_pages(&drv, INFLATE, PFN(3) + 100, 1);
	assert_false(drv.th->present[3]);
	assert_int_equal(stats(&drv).frames_released, 1);
	host_destroy(drv.th);
}

static bool wait_used(struct driver *drv, unsigned int queue, uint16_t idx, unsigned int ms)
{
	while (driver_used_idx(drv, queue) != idx && ms--)
		usleep(1000);
	return driver_used_idx(drv, queue) == idx;
}

static void deflate_waits_for_memory(void **state)
{
	struct driver drv;
	uint64_t begin;

	(void)state;
	start(&drv, F_VERSION_1 | F_TELL);
	send_pages(&drv, INFLATE, PFN(4), 2 * GUEST_PAGES_PER_FRAME);
	drv.th->no_memory = true;
	post(&drv, DEFLATE, PFN(4) + 500, 20, 1); /* over both frames */
	begin = now_ms();
	assert_false(wait_used(&drv, DEFLATE, 1, 120));
	while (drv.th->nr_back < 3 && now_ms() - begin < 5000)
		usleep(1000);
	assert_true(drv.th->nr_back >= 3);
	assert_true(drv.th->nr_back <= 2 + (now_ms() - begin) / 50); /* every 50 ms, not more */
	/* Inflating goes on meanwhile. */
	send_pages(&drv, INFLATE, PFN(7), GUEST_PAGES_PER_FRAME);
	assert_int_equal(driver_used_idx(&drv, DEFLATE), 0);
	assert_false(stats(&drv).broken);
	drv.th->no_memory = false;
	assert_true(wait_used(&drv, DEFLATE, 1, 2000));
	host_sync(drv.th);
	assert_true(drv.th->present[4] && drv.th->present[5]);
	assert_int_equal(stats(&drv).inflated, (3 * GUEST_PAGES_PER_FRAME - 20) * GUEST_PAGE_SIZE);
	host_destroy(drv.th);
}

static void reset_drops_a_held_chain(void **state)
{
	struct driver drv;

	(void)state;
	start(&drv, F_VERSION_1 | F_TELL);
	host_write(drv.th, drv.device + 4, GUEST_PAGES_PER_FRAME, 4);
	send_pages(&drv, INFLATE, PFN(4), GUEST_PAGES_PER_FRAME);
	assert_int_equal(stats(&drv).actual, FRAME_SIZE);
	drv.th->no_memory = true;
	post(&drv, DEFLATE, PFN(4), 1, 1);
	host_sync(drv.th);
	driver_set_status(&drv, 0);
	assert_int_equal(stats(&drv).inflated, 0);
	assert_int_equal(stats(&drv).frames_released, 0);
	assert_int_equal(stats(&drv).actual, 0);
	assert_false(stats(&drv).driver_ready);
	drv.th->no_memory = false;
	usleep(80000);
	assert_int_equal(driver_used_idx(&drv, DEFLATE), 0);
	/* The next driver begins with nothing. */
	driver_start(&drv, F_VERSION_1 | F_TELL, 16);
	send_pages(&drv, INFLATE, PFN(4), 511);
	assert_int_equal(stats(&drv).frames_released, 0);
	send_pages(&drv, INFLATE, PFN(4) + 511, 1);
	assert_int_equal(stats(&drv).frames_released, 1);
	host_destroy(drv.th);
}

static void failed_release_is_tried_again(void **state)
{
	struct driver drv;

	(void)state;
	start(&drv, F_VERSION_1 | F_TELL);
	drv.th->release_broken = true;
	send_pages(&drv, INFLATE, PFN(4), GUEST_PAGES_PER_FRAME);
	assert_int_equal(stats(&drv).frames_released, 0);
	assert_int_equal(stats(&drv).release_errors, 1);
	send_pages(&drv, INFLATE, PFN(6), GUEST_PAGES_PER_FRAME);
	/* A page of the one that waits comes back: it must not go. */
	send_pages(&drv, DEFLATE, PFN(4), 1);
	drv.th->release_broken = false;
	send_pages(&drv, INFLATE, PFN(7), 1); /* any round */
	assert_true(drv.th->present[4]);
	assert_false(drv.th->present[6]);
	assert_int_equal(stats(&drv).frames_released, 1);
	host_destroy(drv.th);
}

static void without_frame_ops(void **state)
{
	struct driver drv;

	(void)state;
	assert_true(driver_probe(&drv, host_create(true), 1));
	drv.th->mem.frame_ops = NULL;
	driver_start(&drv, F_VERSION_1 | F_TELL, 128);
	send_pages(&drv, INFLATE, PFN(4), GUEST_PAGES_PER_FRAME);
	assert_int_equal(stats(&drv).inflated, FRAME_SIZE);
	assert_int_equal(stats(&drv).frames_released, 0);
	send_pages(&drv, DEFLATE, PFN(4), GUEST_PAGES_PER_FRAME);
	assert_int_equal(stats(&drv).inflated, 0);
	host_destroy(drv.th);
}

struct target {
	struct driver *drv;
	uint64_t bytes;
	int ret;
	struct error err;
};

static void call_set_target(void *opaque)
{
	struct target *t = opaque;

	t->ret = virtio_balloon_set_target(t->drv->th->set.balloon, t->bytes, &t->err);
}

static int set_target(struct driver *drv, uint64_t bytes)
{
	struct target t = { .drv = drv, .bytes = bytes };

	host_call(drv->th, call_set_target, &t);
	return t.ret;
}

static void target(void **state)
{
	struct driver drv;
	uint32_t generation;

	(void)state;
	assert_true(driver_probe(&drv, host_create(true), 1));
	assert_int_equal(set_target(&drv, 3 * FRAME_SIZE + 5), 0); /* before there is a driver */
	driver_start(&drv, F_VERSION_1 | F_TELL, 128);
	assert_int_equal(host_read(drv.th, drv.device, 4), 3 * GUEST_PAGES_PER_FRAME);
	assert_int_equal(driver_interrupts(0), 0);
	generation = common_read(&drv, VIRTIO_PCI_COMMON_CFGGENERATION, 1);
	assert_int_equal(set_target(&drv, FRAME_SIZE), 0);
	assert_int_equal(driver_interrupts(0), 1);
	assert_int_not_equal(common_read(&drv, VIRTIO_PCI_COMMON_CFGGENERATION, 1), generation);
	assert_int_equal(host_read(drv.th, drv.device, 4), GUEST_PAGES_PER_FRAME);
	assert_int_equal(stats(&drv).target, FRAME_SIZE);
	assert_int_equal(set_target(&drv, HOST_FRAMES * FRAME_SIZE + 4096), -EINVAL);
	assert_int_equal(set_target(&drv, UINT64_MAX), -EINVAL);
	assert_int_equal(stats(&drv).target, FRAME_SIZE);
	/* What changes together is told once, soon. */
	for (unsigned int pages = 100; pages <= 300; pages += 100)
		host_write(drv.th, drv.device + 4, pages, 4);
	assert_int_equal(stats(&drv).actual, 300 * GUEST_PAGE_SIZE);
	host_wait_told(drv.th, &drv.th->balloon_changes, 1);
	assert_in_range(drv.th->balloon_changes, 1, 2);
	/* A driver that looks at its target, or tells its size, is not quiet. */
	usleep(300000);
	assert_in_range(stats(&drv).quiet_ms, 300, 60000);
	host_read(drv.th, drv.device, 4);
	assert_in_range(stats(&drv).quiet_ms, 0, 250);
	usleep(300000);
	host_write(drv.th, drv.device + 4, 300, 4);
	assert_in_range(stats(&drv).quiet_ms, 0, 250);
	host_destroy(drv.th);
}

/* A message of a million page numbers, of which the last one alone is of another frame. */
static void post_million(struct driver *drv, unsigned int queue)
{
	const uint32_t nr = 1u << 20;
	uint32_t *pfns = guest_ptr(&drv->th->mem, FRAME_SIZE, nr * sizeof(uint32_t));

	for (uint32_t i = 0; i < nr - 1; i++)
		pfns[i] = PFN(5) + i % GUEST_PAGES_PER_FRAME;
	pfns[nr - 1] = PFN(6) + 9;
	driver_send(drv, queue, FRAME_SIZE, nr * (uint32_t)sizeof(uint32_t));
}

/* It is served in many rounds, so that others have their turn, and then it is there as a whole. */
static void long_messages(void **state)
{
	struct driver drv;

	(void)state;
	start(&drv, F_VERSION_1 | F_TELL);
	for (unsigned int queue = INFLATE; queue <= DEFLATE; queue++) {
		post_million(&drv, queue);
		host_call(drv.th, NULL, NULL);
		assert_int_equal(driver_used_idx(&drv, queue), 0);
		assert_true(wait_used(&drv, queue, 1, 10000));
		host_sync(drv.th);
		assert_int_equal(driver_interrupts(queue + 1), 1);
		assert_int_equal(stats(&drv).inflated,
				 queue == INFLATE ? FRAME_SIZE + GUEST_PAGE_SIZE : 0);
	}
	/* Dropped half way by a reset. */
	post_million(&drv, INFLATE);
	host_call(drv.th, NULL, NULL);
	driver_set_status(&drv, 0);
	assert_int_equal(stats(&drv).inflated, 0);
	assert_int_equal(driver_start(&drv, F_VERSION_1 | F_TELL, 128), S_ALL);
	host_sync(drv.th);
	assert_int_equal(driver_used_idx(&drv, INFLATE), 0);
	assert_int_equal(stats(&drv).inflated, 0);
	send_pages(&drv, INFLATE, PFN(5), GUEST_PAGES_PER_FRAME);
	assert_int_equal(stats(&drv).inflated, FRAME_SIZE);
	host_destroy(drv.th);
}

static void expect_broken(struct driver *drv)
{
	host_sync(drv->th);
	assert_true(stats(drv).broken);
	assert_int_equal(driver_status(drv), S_ALL | VIRTIO_CONFIG_S_NEEDS_RESET);
	assert_int_equal(driver_used_idx(drv, INFLATE), 0);
	assert_int_equal(driver_used_idx(drv, DEFLATE), 0);
	driver_start(drv, F_VERSION_1 | F_TELL, 128);
	host_sync(drv->th);
	assert_false(stats(drv).broken);
	assert_int_equal(stats(drv).inflated, 0);
}

static void hostile_pages(void **state)
{
	static const uint32_t bad[] = { PFN(10), HIGH_PFN - 1, HIGH_PFN + PFN(4), UINT32_MAX,
					LAYOUT_PCI_MMIO >> GUEST_PAGE_SHIFT };
	struct driver drv;

	(void)state;
	start(&drv, F_VERSION_1 | F_TELL);
	for (unsigned int i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		for (unsigned int queue = INFLATE; queue <= DEFLATE; queue++) {
			post(&drv, queue, bad[i], 1, 0);
			expect_broken(&drv);
		}
	}
	driver_send(&drv, INFLATE, DRIVER_BUFFERS, 7); /* not whole page numbers */
	expect_broken(&drv);
	driver_send(&drv, INFLATE, DRIVER_BUFFERS, 4 * FRAME_SIZE); /* two million of them */
	expect_broken(&drv);
	host_destroy(drv.th);
}

/* A driver that gives the balloon up is none. */
static void driver_gives_up(void **state)
{
	struct driver drv;

	(void)state;
	start(&drv, F_VERSION_1 | F_TELL);
	assert_true(stats(&drv).driver_ready);
	driver_set_status(&drv, S_ALL | VIRTIO_CONFIG_S_FAILED);
	assert_false(stats(&drv).driver_ready);
	assert_int_equal(stats(&drv).accepted, 0);
	post(&drv, INFLATE, PFN(5), 1, 1);
	host_sync(drv.th);
	assert_int_equal(driver_used_idx(&drv, INFLATE), 0);
	assert_int_equal(driver_start(&drv, F_VERSION_1 | F_TELL, 128), S_ALL);
	send_pages(&drv, INFLATE, PFN(5), GUEST_PAGES_PER_FRAME);
	assert_int_equal(stats(&drv).frames_released, 1);
	host_destroy(drv.th);
}

/* Page numbers in the very frame they give away, and rings too. */
static void gives_its_own_rings_away(void **state)
{
	struct driver drv;

	(void)state;
	start(&drv, F_VERSION_1 | F_TELL);
	send_pages(&drv, INFLATE, PFN(0), GUEST_PAGES_PER_FRAME);
	assert_false(drv.th->present[0]);
	assert_false(stats(&drv).broken);
	host_destroy(drv.th);
}

/* Writable buffers make no sense here and are left alone; split numbers work. */
static void odd_chains(void **state)
{
	struct driver drv;
	uint8_t *mem;
	uint32_t pfn = PFN(5) + 3;

	(void)state;
	start(&drv, F_VERSION_1 | F_TELL);
	mem = guest_ptr(&drv.th->mem, DRIVER_BUFFERS, 64);
	memcpy(mem + 1, &pfn, 3);
	memcpy(mem + 9, (uint8_t *)&pfn + 3, 1);
	mem[16] = 0x77;
	driver_set_desc(&drv, INFLATE, 0,
			(struct vring_desc){ DRIVER_BUFFERS + 1, 3, VRING_DESC_F_NEXT, 1 });
	driver_set_desc(&drv, INFLATE, 1,
			(struct vring_desc){ DRIVER_BUFFERS + 9, 1, VRING_DESC_F_NEXT, 2 });
	driver_set_desc(&drv, INFLATE, 2,
			(struct vring_desc){ DRIVER_BUFFERS + 16, 1, VRING_DESC_F_WRITE, 0 });
	driver_publish(&drv, INFLATE, 0);
	driver_kick(&drv, INFLATE);
	host_sync(drv.th);
	assert_int_equal(driver_used_idx(&drv, INFLATE), 1);
	assert_int_equal(stats(&drv).inflated, GUEST_PAGE_SIZE);
	assert_int_equal(mem[16], 0x77);
	host_destroy(drv.th);
}

/* A guest that resets, reads and moves its device while pages flow: for the thread sanitizer. */
static void *meddler(void *opaque)
{
	struct driver *drv = opaque;

	for (unsigned int i = 0; i < 500; i++) {
		host_read(drv->th, drv->device, 8);
		host_write(drv->th, drv->device + 4, i, 4);
		host_read(drv->th, drv->isr, 1);
		if (i % 100 == 50) {
			driver_negotiate(drv, F_VERSION_1 | F_TELL);
			for (unsigned int q = 0; q < DRIVER_QUEUES; q++)
				driver_program_queue(drv, q, &drv->queues[q]);
			driver_set_status(drv, S_ALL);
		}
		cfg_write(drv, PCI_COMMAND, i & 1 ? PCI_COMMAND_MEMORY : 0, 2);
	}
	driver_enable_memory(drv);
	return NULL;
}

static void threads(void **state)
{
	struct driver drv;
	pthread_t thread;

	(void)state;
	start(&drv, F_VERSION_1 | F_TELL);
	pthread_create(&thread, NULL, meddler, &drv);
	for (unsigned int i = 0; i < 300; i++) {
		driver_publish(&drv, i % 3 == 2, 0);
		driver_kick(&drv, i % 3 == 2);
		set_target(&drv, i % HOST_FRAMES * FRAME_SIZE);
		stats(&drv);
	}
	pthread_join(thread, NULL);
	/* After all of this it still works. */
	driver_start(&drv, F_VERSION_1 | F_TELL, 128);
	host_sync(drv.th);
	drv.th->present[6] = true;
	set_target(&drv, 0);
	send_pages(&drv, INFLATE, PFN(6), GUEST_PAGES_PER_FRAME);
	assert_false(drv.th->present[6]);
	host_destroy(drv.th);
}

static void wait_for_released(struct driver *drv, uint64_t frames)
{
	for (unsigned int i = 0; i < 1000 && stats(drv).frames_released < frames; i++)
		usleep(10000);
	assert_int_equal(stats(drv).frames_released, frames);
}

/* On the way to a larger balloon frames leave together, but none of them late. Who asks meanwhile,
 * as the machine does after every message, does not part them; at the end all are gone. */
static void frames_leave_together(void **state)
{
	struct driver drv;
	uint64_t since;
	bool quick;

	(void)state;
	start(&drv, F_VERSION_1 | F_TELL);
	set_target(&drv, 6 * FRAME_SIZE);
	since = now_ms();
	for (unsigned int frame = 2; frame < 5; frame++) {
		send_pages(&drv, INFLATE, PFN(frame), GUEST_PAGES_PER_FRAME);
		assert_int_equal(stats(&drv).inflated, (frame - 1) * FRAME_SIZE);
	}
	/* On a machine that has no time for us the moment is over. */
	quick = drv.th->nr_release == 0;
	assert_true(quick || now_ms() >= since + 40);
	/* Nothing follows: after a moment all the same. */
	wait_for_released(&drv, 3);
	if (quick)
		assert_int_equal(drv.th->last_release_nr, 3);
	/* The last page that was asked for. */
	send_pages(&drv, INFLATE, PFN(5), GUEST_PAGES_PER_FRAME);
	send_pages(&drv, INFLATE, PFN(6), 2 * GUEST_PAGES_PER_FRAME);
	assert_int_equal(stats(&drv).frames_released, 6);
	assert_false(drv.th->present[5]);
	assert_false(drv.th->present[6] || drv.th->present[7]);
	/* A page that came back meanwhile keeps its frame. */
	set_target(&drv, 10 * FRAME_SIZE);
	send_pages(&drv, INFLATE, PFN(8), 2 * GUEST_PAGES_PER_FRAME);
	send_pages(&drv, DEFLATE, PFN(8) + 3, 1);
	wait_for_released(&drv, 7);
	assert_true(drv.th->present[8]);
	assert_false(drv.th->present[9]);
	/* A driver that does not tell before it uses a page again has no time to do so. */
	driver_set_status(&drv, 0);
	assert_int_equal(driver_start(&drv, F_VERSION_1, 128), S_ALL);
	host_sync(drv.th);
	drv.th->present[4] = true;
	send_pages(&drv, INFLATE, PFN(4), GUEST_PAGES_PER_FRAME);
	assert_false(drv.th->present[4]);
	host_destroy(drv.th);
}

/* A driver that takes frames back one after the other gets the next ones with the same call; those
 * that it leaves in the balloon leave again. */
static void frames_come_back_together(void **state)
{
	struct driver drv;

	(void)state;
	start(&drv, F_VERSION_1 | F_TELL);
	send_pages(&drv, INFLATE, PFN(2), 6 * GUEST_PAGES_PER_FRAME);
	assert_int_equal(stats(&drv).frames_released, 6);
	set_target(&drv, FRAME_SIZE);
	for (unsigned int frame = 7; frame > 4; frame--)
		send_pages(&drv, DEFLATE, PFN(frame), GUEST_PAGES_PER_FRAME);
	assert_true(drv.th->present[7] && drv.th->present[6] && drv.th->present[5]);
	assert_int_equal(drv.th->nr_back, 2); /* one, then two */
	/* No more than it is to take back. */
	send_pages(&drv, DEFLATE, PFN(4), GUEST_PAGES_PER_FRAME);
	assert_int_equal(drv.th->nr_back, 3);
	assert_true(drv.th->present[4] && drv.th->present[3]);
	assert_false(drv.th->present[2]);
	set_target(&drv, 2 * FRAME_SIZE); /* the last one stays in the balloon after all */
	assert_int_equal(stats(&drv).frames_released, 2);
	assert_false(drv.th->present[3]);
	host_destroy(drv.th);
}

/* When the pool has one frame and not two, the one is enough. */
static void one_frame_when_there_are_no_two(void **state)
{
	struct driver drv;

	(void)state;
	start(&drv, F_VERSION_1 | F_TELL);
	send_pages(&drv, INFLATE, PFN(2), 4 * GUEST_PAGES_PER_FRAME);
	send_pages(&drv, DEFLATE, PFN(5), GUEST_PAGES_PER_FRAME);
	drv.th->back_limit = 1;
	send_pages(&drv, DEFLATE, PFN(4), GUEST_PAGES_PER_FRAME);
	assert_true(drv.th->present[4]);
	assert_false(drv.th->present[3]);
	host_destroy(drv.th);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(inflate_and_deflate),
		cmocka_unit_test(scattered_pages),
		cmocka_unit_test(runs_stop_at_regions),
		cmocka_unit_test(repeated_pages_change_nothing),
		cmocka_unit_test(touched_before_told),
		cmocka_unit_test(deflate_waits_for_memory),
		cmocka_unit_test(reset_drops_a_held_chain),
		cmocka_unit_test(failed_release_is_tried_again),
		cmocka_unit_test(frames_leave_together),
		cmocka_unit_test(frames_come_back_together),
		cmocka_unit_test(one_frame_when_there_are_no_two),
		cmocka_unit_test(without_frame_ops),
		cmocka_unit_test(target),
		cmocka_unit_test(long_messages),
		cmocka_unit_test(hostile_pages),
		cmocka_unit_test(driver_gives_up),
		cmocka_unit_test(gives_its_own_rings_away),
		cmocka_unit_test(odd_chains),
		cmocka_unit_test(threads),
	};

	int failed = cmocka_run_group_tests_name("served by the loop", tests, NULL, NULL);

	host_serves_here = true;
	return failed +
	       cmocka_run_group_tests_name("served where the vCPU notifies", tests, NULL, NULL);
}
