/* SPDX-License-Identifier: MIT */
/*
 * A driver that breaks the rules. What cannot be understood must end in DEVICE_NEEDS_RESET, what is
 * merely nonsense may be ignored; in either case the machine goes on, no memory of the guest
 * changes, and after a reset the device works.
 */
#include "balloon.h"

const char guest_name[] = "hostile-balloon";

#define KEPT  (LAYOUT_KERNEL + 4 * FRAME_SIZE)
#define GIVEN (LAYOUT_KERNEL + 5 * FRAME_SIZE)
#define MARK  0x686f7374696c6521ull

/* How long a queue that is not ready is watched: 50 ms and more. */
#define WATCHED 200000000ull

static struct balloon balloon;
static uint32_t pfns[8];
static uint32_t many[PAGES_PER_FRAME];

enum expectation { NEEDS_RESET, ANY };

static void check_kept(const char *what)
{
	for (uint64_t page = 0; page < PAGES_PER_FRAME; page++) {
		volatile uint64_t *word = (volatile uint64_t *)(uintptr_t)(KEPT + page * PAGE_SIZE);

		if (*word != MARK + page)
			guest_fail("%s: page %lu of a frame that was kept changed", what, page);
	}
}

/* After the offence: the verdict, then a reset, then a frame out and in again. */
static void expect(const char *what, enum expectation expectation)
{
	bool used = vq_wait(&balloon.dev, &balloon.inflate);
	bool broken = virtio_status(&balloon.dev) & VIRTIO_CONFIG_S_NEEDS_RESET;
	volatile uint64_t *word = (volatile uint64_t *)(uintptr_t)GIVEN;

	if (expectation == NEEDS_RESET && !broken)
		guest_fail("%s: no DEVICE_NEEDS_RESET", what);
	if (expectation == ANY && !broken && !used)
		guest_fail("%s: neither used nor DEVICE_NEEDS_RESET", what);
	print("hostile-balloon: %s: %s\n", what, broken ? "needs reset" : "ignored");

	balloon_start(&balloon);
	if (virtio_status(&balloon.dev) & VIRTIO_CONFIG_S_NEEDS_RESET)
		guest_fail("%s: still needs a reset after one", what);
	word[0] = MARK;
	balloon_frame(&balloon.inflate, GIVEN);
	balloon_frame(&balloon.deflate, GIVEN);
	if (word[0])
		guest_fail("%s: the balloon gives nothing back after a reset", what);
	check_kept(what);
}

static void offer(struct vring_desc first, struct vring_desc second)
{
	balloon.inflate.desc[0] = first;
	balloon.inflate.desc[1] = second;
	vq_offer(&balloon.inflate, 0);
}

static struct vring_desc desc(uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
	return (struct vring_desc){ .addr = addr, .len = len, .flags = flags, .next = next };
}

static void bad_pages(void)
{
	static const uint32_t outside[] = { 0xffffffff, 0xc0000,    0xfee00,
					    0xfffff,    0x7fffffff, 0x80000000 };
	uint64_t end = ram_ranges[nr_ram_ranges - 1].end;

	for (unsigned int i = 0; i < 6; i++)
		pfns[i] = outside[i];
	pfns[6] = (uint32_t)(end / PAGE_SIZE);
	pfns[7] = (uint32_t)(end / PAGE_SIZE) + 511;
	offer(desc((uint64_t)(uintptr_t)pfns, sizeof(pfns), 0, 0), desc(0, 0, 0, 0));
	expect("pages outside RAM", ANY);

	offer(desc((uint64_t)(uintptr_t)pfns, 7, 0, 0), desc(0, 0, 0, 0));
	expect("a list of 7 bytes", ANY);
}

static void bad_chains(void)
{
	uint64_t buf = (uint64_t)(uintptr_t)pfns;
	uint64_t end = ram_ranges[nr_ram_ranges - 1].end;
	struct vring_desc none = desc(0, 0, 0, 0);

	pfns[0] = (uint32_t)(GIVEN / PAGE_SIZE);
	offer(desc(buf, 4, VRING_DESC_F_NEXT, 1), desc(buf, 4, VRING_DESC_F_NEXT, 0));
	expect("a chain that is a circle", NEEDS_RESET);
	offer(desc(buf, 4, VRING_DESC_F_NEXT, 0), none);
	expect("a descriptor that follows itself", NEEDS_RESET);
	offer(desc(buf, 4, VRING_DESC_F_NEXT, 0xffff), none);
	expect("a next index out of range", NEEDS_RESET);
	offer(desc(end, 4, 0, 0), none);
	expect("a buffer behind RAM", NEEDS_RESET);
	offer(desc(end - 4, 8, 0, 0), none);
	expect("a buffer over the end of RAM", NEEDS_RESET);
	offer(desc(~0ull - 3, 8, 0, 0), none);
	expect("a buffer that wraps", NEEDS_RESET);
	offer(desc(buf, 0xffffffff, 0, 0), none);
	expect("a buffer of 4 GiB", NEEDS_RESET);
	offer(desc(LAYOUT_LAPIC, 4, 0, 0), none);
	expect("a buffer in the local APIC", NEEDS_RESET);
	offer(desc(buf, 4, VRING_DESC_F_INDIRECT, 0), none);
	expect("an indirect table that was not negotiated", NEEDS_RESET);
	offer(desc(buf, 32, VRING_DESC_F_WRITE, 0), none);
	expect("a list to write to", ANY);
}

/* The same page or frame more than once: it is in the balloon once, and its neighbours are not. */
static void duplicates(void)
{
	uint64_t list = (uint64_t)(uintptr_t)many;
	volatile uint64_t *word = (volatile uint64_t *)(uintptr_t)GIVEN;
	struct vring_desc none = desc(0, 0, 0, 0);

	/* All but one page of the frame are in use: check_kept() looks. */
	for (unsigned int i = 0; i < PAGES_PER_FRAME; i++)
		many[i] = (uint32_t)(KEPT / PAGE_SIZE) + 7;
	((volatile uint64_t *)(uintptr_t)KEPT)[7 * PAGE_SIZE / 8] = MARK + 7;
	offer(desc(list, sizeof(many), 0, 0), none);
	expect("one page 512 times", ANY);

	/* Twice in one message, and then once more. */
	for (unsigned int i = 0; i < PAGES_PER_FRAME; i++)
		many[i] = (uint32_t)(GIVEN / PAGE_SIZE) + i;
	word[1] = MARK;
	offer(desc(list, sizeof(many), VRING_DESC_F_NEXT, 1), desc(list, sizeof(many), 0, 0));
	expect("a frame twice in a chain", ANY);
	balloon_frame(&balloon.inflate, GIVEN);
	balloon_frame(&balloon.inflate, GIVEN);
	balloon_frame(&balloon.deflate, GIVEN);
	balloon_frame(&balloon.deflate, GIVEN);
	word[1] = MARK;
	if (word[0] || word[1] != MARK || word[2])
		guest_fail("a frame that was given and taken twice: 0x%lx 0x%lx 0x%lx", word[0],
			   word[1], word[2]);
}

/* Lists of 512 thousand pages: one page of a frame in use a million times over, and then as many
 * lists in a row as the queue has descriptors. */
static void huge_chain(void)
{
	volatile uint32_t *list = (volatile uint32_t *)(uintptr_t)GIVEN;

	for (uint64_t i = 0; i < FRAME_SIZE / sizeof(*list); i++)
		list[i] = (uint32_t)(KEPT / PAGE_SIZE) + 7;
	offer(desc(GIVEN, FRAME_SIZE, VRING_DESC_F_NEXT, 1), desc(GIVEN, FRAME_SIZE, 0, 0));
	expect("a million times the same page", ANY);
	for (uint16_t i = 0; i < balloon.inflate.size; i++) {
		bool last = i + 1 == balloon.inflate.size;

		balloon.inflate.desc[i] = desc(GIVEN, FRAME_SIZE, last ? 0 : VRING_DESC_F_NEXT,
					       last ? 0 : (uint16_t)(i + 1));
	}
	vq_offer(&balloon.inflate, 0);
	expect("a chain of millions of pages", NEEDS_RESET);
}

/* A page of the balloon is used without a word: a new frame, zeroed, which stays. */
static void touch_given(void)
{
	volatile uint64_t *word = (volatile uint64_t *)(uintptr_t)GIVEN;
	uint64_t words = FRAME_SIZE / sizeof(*word);

	word[0] = word[words - 1] = MARK;
	balloon_frame(&balloon.inflate, GIVEN);
	if (word[0] || word[words - 1])
		guest_fail("a frame in the balloon has its old content");
	word[9] = MARK;
	balloon_frame(&balloon.deflate, GIVEN);
	if (word[0] || word[9] != MARK)
		guest_fail("a frame that was touched in the balloon: 0x%lx 0x%lx", word[0],
			   word[9]);
	check_kept("a touch of the balloon");
	print("hostile-balloon: a touch of the balloon: a zeroed frame\n");
}

static void expect_unused(const char *when)
{
	volatile uint64_t *word = (volatile uint64_t *)(uintptr_t)GIVEN;
	uint64_t start = rdtsc();

	while (rdtsc() - start < WATCHED)
		if (balloon.inflate.used.idx != 0 || word[0] != MARK)
			guest_fail("a queue is used %s", when);
}

/* Queues are not looked at before DRIVER_OK, nor after a reset (2.1, 3.1.1). */
static void not_ready(void)
{
	volatile struct virtio_pci_common_cfg *common = balloon.dev.common;
	volatile uint64_t *word = (volatile uint64_t *)(uintptr_t)GIVEN;
	uint64_t list = (uint64_t)(uintptr_t)many;

	for (unsigned int i = 0; i < PAGES_PER_FRAME; i++)
		many[i] = (uint32_t)(GIVEN / PAGE_SIZE) + i;
	word[0] = MARK;
	virtio_reset(&balloon.dev);
	virtio_negotiate(&balloon.dev, 1ull << VIRTIO_F_VERSION_1);
	vq_setup(&balloon.dev, &balloon.inflate, 0);
	if (common->queue_enable != 1)
		guest_fail("the queue cannot be enabled before DRIVER_OK");
	offer(desc(list, sizeof(many), 0, 0), desc(0, 0, 0, 0));
	expect_unused("before DRIVER_OK");
	print("hostile-balloon: a queue before DRIVER_OK: status 0x%x\n",
	      (unsigned int)virtio_status(&balloon.dev));
	virtio_reset(&balloon.dev);
	if (common->queue_enable)
		guest_fail("a queue is enabled after a reset");
	vq_notify(&balloon.inflate);
	expect_unused("after a reset");
	balloon_start(&balloon);
	pfns[0] = (uint32_t)(GIVEN / PAGE_SIZE);
	offer(desc((uint64_t)(uintptr_t)pfns, 4, 0, 0), desc(0, 0, 0, 0));
	expect("one page after a queue that was not ready", ANY);
}

static void bad_indices(void)
{
	vq_offer(&balloon.inflate, VQ_SIZE);
	expect("a head that is the queue's size", NEEDS_RESET);
	vq_offer(&balloon.inflate, 0xffff);
	expect("a head out of range", NEEDS_RESET);
	balloon.inflate.avail.idx = (uint16_t)(balloon.inflate.avail.idx + VQ_SIZE + 1);
	vq_notify(&balloon.inflate);
	expect("an index too far ahead", NEEDS_RESET);
	balloon.inflate.avail.idx--;
	vq_notify(&balloon.inflate);
	expect("an index that goes back", NEEDS_RESET);
}

/* The queue itself where there is no RAM. */
static void bad_queue(void)
{
	volatile struct virtio_pci_common_cfg *common = balloon.dev.common;

	virtio_reset(&balloon.dev);
	virtio_negotiate(&balloon.dev, 1ull << VIRTIO_F_VERSION_1);
	vq_setup(&balloon.dev, &balloon.deflate, 1);
	common->queue_select = 0;
	common->queue_desc_lo = 0xfffffff0;
	common->queue_desc_hi = 0xffffffff;
	common->queue_avail_lo = 0xfffffffe;
	common->queue_avail_hi = 0xffffffff;
	common->queue_used_lo = 0xfee00000;
	common->queue_used_hi = 0;
	common->queue_enable = 1;
	virtio_driver_ok(&balloon.dev);
	*balloon.inflate.notify = 0;
	print("hostile-balloon: rings outside RAM: status 0x%x\n",
	      (unsigned int)virtio_status(&balloon.dev));
	balloon_start(&balloon);
	pfns[0] = (uint32_t)(GIVEN / PAGE_SIZE);
	offer(desc((uint64_t)(uintptr_t)pfns, 4, 0, 0), desc(0, 0, 0, 0));
	expect("one page after rings outside RAM", ANY);
}

void guest_main(void)
{
	if (ram_ranges[nr_ram_ranges - 1].end < GIVEN + FRAME_SIZE)
		guest_fail("needs %lu MiB of RAM", (uint64_t)(GIVEN + FRAME_SIZE) >> 20);
	for (uint64_t page = 0; page < PAGES_PER_FRAME; page++)
		*(volatile uint64_t *)(uintptr_t)(KEPT + page * PAGE_SIZE) = MARK + page;
	balloon_start(&balloon);
	bad_pages();
	bad_chains();
	duplicates();
	huge_chain();
	touch_given();
	bad_indices();
	bad_queue();
	not_ready();
}
