/* SPDX-License-Identifier: MIT */
/* The virtqueue library by itself, with a driver that knows every way to be wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "framevisor/virtio.h"

#define SIZE  8
#define DESC  0x1000ull
#define AVAIL 0x2000ull
#define USED  0x3000ull
#define RAM   FRAME_SIZE_2M
#define TOP   0x10000000ull /* a second region, one frame */

struct fixture {
	struct guest_memory mem;
	struct virtqueue vq;
	struct virtq_chain chain;
	uint8_t *map;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	uint8_t *base;

	f->map = mmap(NULL, 3 * RAM, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	base = (uint8_t *)(((uintptr_t)f->map + RAM - 1) & ~(RAM - 1));
	guest_memory_add_region(&f->mem, 0, RAM, base);
	guest_memory_add_region(&f->mem, TOP, RAM, base + RAM);
	virtqueue_init(&f->vq, &f->mem, 64);
	f->vq.size = SIZE;
	f->vq.desc = DESC;
	f->vq.avail = AVAIL;
	f->vq.used = USED;
	*state = f;
	return virtqueue_enable(&f->vq);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	munmap(f->map, 3 * RAM);
	free(f);
	return 0;
}

static struct vring_desc *desc(struct fixture *f)
{
	return guest_ptr(&f->mem, DESC, sizeof(struct vring_desc) * SIZE);
}

static struct vring_avail *avail(struct fixture *f)
{
	return guest_ptr(&f->mem, AVAIL, 4 + 2 * SIZE);
}

static struct vring_used *used(struct fixture *f)
{
	return guest_ptr(&f->mem, USED, 4 + 8 * SIZE);
}

static void offer(struct fixture *f, uint16_t head)
{
	avail(f)->ring[avail(f)->idx % SIZE] = head;
	avail(f)->idx++;
}

static void set(struct fixture *f, unsigned int n, struct vring_desc value)
{
	desc(f)[n] = value;
}

/* The chain that starts at descriptor 0 must break the queue. */
static void expect_broken(struct fixture *f, const char *why)
{
	offer(f, 0);
	assert_true(virtqueue_has_chains(&f->vq));
	assert_int_equal(virtqueue_get_chain(&f->vq, &f->chain), -EINVAL);
	assert_non_null(f->vq.error);
	assert_non_null(strstr(f->vq.error, why));
	assert_int_equal(virtqueue_get_chain(&f->vq, &f->chain), -EINVAL);
	assert_false(virtqueue_has_chains(&f->vq));
	assert_int_equal(used(f)->idx, 0);
}

static void round_trip(void **state)
{
	struct fixture *f = *state;
	char text[16] = { 0 };

	assert_int_equal(virtqueue_get_chain(&f->vq, &f->chain), 0);
	/* More rounds than the ring is long, and over the wrap of the 16-bit index. */
	f->vq.last_avail = f->vq.used_idx = 65530;
	avail(f)->idx = used(f)->idx = 65530;
	for (unsigned int i = 0; i < 3 * SIZE; i++) {
		uint16_t at = avail(f)->idx % SIZE;

		memcpy(guest_ptr(&f->mem, 0x8000, 4), "abcd", 4);
		memcpy(guest_ptr(&f->mem, TOP, 4), "efgh", 4);
		set(f, 5, (struct vring_desc){ 0x8000, 4, VRING_DESC_F_NEXT, 2 });
		set(f, 2, (struct vring_desc){ TOP, 4, VRING_DESC_F_NEXT, 7 });
		set(f, 7,
		    (struct vring_desc){ 0x9000, 3, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 0 });
		set(f, 0, (struct vring_desc){ RAM - 2, 2, VRING_DESC_F_WRITE, 0 });
		offer(f, 5);
		assert_int_equal(virtqueue_get_chain(&f->vq, &f->chain), 1);
		/* A driver that changes its mind is too late. */
		set(f, 5, (struct vring_desc){ ~0ull, ~0u, 0xffff, 0xffff });
		assert_int_equal(f->chain.nr_readable, 2);
		assert_int_equal(f->chain.nr_writable, 2);
		assert_int_equal(f->chain.readable_len, 8);
		assert_int_equal(f->chain.writable_len, 5);
		assert_int_equal(virtq_chain_read(&f->mem, &f->chain, 0, text, 16), 8);
		assert_string_equal(text, "abcdefgh");
		assert_int_equal(virtq_chain_read(&f->mem, &f->chain, 3, text, 2), 2);
		assert_memory_equal(text, "de", 2);
		assert_int_equal(virtq_chain_read(&f->mem, &f->chain, 8, text, 2), 0);
		assert_int_equal(virtq_chain_write(&f->mem, &f->chain, 2, "XYZW", 4), 3);
		assert_memory_equal(guest_ptr(&f->mem, RAM - 2, 2), "YZ", 2);
		virtqueue_push_used(&f->vq, f->chain.head, 5);
		assert_int_equal(used(f)->idx, avail(f)->idx);
		assert_int_equal(used(f)->ring[at].id, 5);
		assert_int_equal(used(f)->ring[at].len, 5);
		assert_int_equal(virtqueue_get_chain(&f->vq, &f->chain), 0);
	}
}

static void suppression(void **state)
{
	struct fixture *f = *state;

	assert_false(virtqueue_take_notify(&f->vq));
	virtqueue_push_used(&f->vq, 0, 0);
	assert_true(virtqueue_take_notify(&f->vq));
	assert_false(virtqueue_take_notify(&f->vq));
	avail(f)->flags = VRING_AVAIL_F_NO_INTERRUPT;
	virtqueue_push_used(&f->vq, 0, 0);
	assert_false(virtqueue_take_notify(&f->vq));
}

static void cycles(void **state)
{
	struct fixture *f = *state;

	set(f, 0, (struct vring_desc){ 0x8000, 4, VRING_DESC_F_NEXT, 1 });
	set(f, 1, (struct vring_desc){ 0x8000, 4, VRING_DESC_F_NEXT, 0 });
	expect_broken(f, "longer than the queue");
}

static void self_cycle(void **state)
{
	struct fixture *f = *state;

	set(f, 0, (struct vring_desc){ 0x8000, 4, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 0 });
	expect_broken(f, "longer than the queue");
}

static void longest_chain_is_fine(void **state)
{
	struct fixture *f = *state;

	for (uint16_t i = 0; i < SIZE; i++)
		set(f, i,
		    (struct vring_desc){ 0x8000, 4, i < SIZE - 1 ? VRING_DESC_F_NEXT : 0,
					 (uint16_t)(i + 1) });
	offer(f, 0);
	assert_int_equal(virtqueue_get_chain(&f->vq, &f->chain), 1);
	assert_int_equal(f->chain.nr_readable, SIZE);
}

static void next_out_of_range(void **state)
{
	struct fixture *f = *state;

	set(f, 0, (struct vring_desc){ 0x8000, 4, VRING_DESC_F_NEXT, SIZE });
	expect_broken(f, "out of range");
}

static void head_out_of_range(void **state)
{
	struct fixture *f = *state;

	offer(f, SIZE);
	assert_int_equal(virtqueue_get_chain(&f->vq, &f->chain), -EINVAL);
	assert_non_null(strstr(f->vq.error, "out of range"));
}

static void too_far_ahead(void **state)
{
	struct fixture *f = *state;

	set(f, 0, (struct vring_desc){ 0x8000, 4, 0, 0 });
	avail(f)->idx = SIZE;
	assert_int_equal(virtqueue_get_chain(&f->vq, &f->chain), 1);
	avail(f)->idx = SIZE + 2;
	assert_int_equal(virtqueue_get_chain(&f->vq, &f->chain), -EINVAL);
	assert_non_null(strstr(f->vq.error, "ahead"));
}

static void backwards(void **state)
{
	struct fixture *f = *state;

	avail(f)->idx = 0xffff;
	assert_int_equal(virtqueue_get_chain(&f->vq, &f->chain), -EINVAL);
}

static void indirect(void **state)
{
	struct fixture *f = *state;

	set(f, 0, (struct vring_desc){ 0x8000, 16, VRING_DESC_F_INDIRECT, 0 });
	expect_broken(f, "indirect");
}

static void wrong_order(void **state)
{
	struct fixture *f = *state;

	set(f, 0, (struct vring_desc){ 0x8000, 4, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 1 });
	set(f, 1, (struct vring_desc){ 0x8000, 4, 0, 0 });
	expect_broken(f, "after a writable");
}

static void empty_buffer(void **state)
{
	struct fixture *f = *state;

	set(f, 0, (struct vring_desc){ 0x8000, 0, 0, 0 });
	expect_broken(f, "empty");
}

static void bad_addresses(void **state)
{
	static const struct vring_desc bad[] = {
		{ RAM, 1, 0, 0 },            /* behind the region */
		{ RAM - 4, 5, 0, 0 },        /* over its end */
		{ 0, 0xffffffff, 0, 0 },     /* far over its end */
		{ ~0ull, 1, 0, 0 },          /* last byte of the address space */
		{ ~0ull - 1, 4, 0, 0 },      /* wraps */
		{ 0ull - 4096, 8192, 0, 0 }, /* wraps into RAM */
		{ TOP - 1, 2, VRING_DESC_F_WRITE, 0 },
	};

	for (unsigned int i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct fixture *f;

		teardown(state);
		assert_int_equal(setup(state), 0);
		f = *state;
		set(f, 0, bad[i]);
		expect_broken(f, "not in RAM");
	}
}

static void wrong_setup(void **state)
{
	static const struct {
		uint16_t size;
		uint64_t desc, avail, used;
	} bad[] = {
		{ 0, DESC, AVAIL, USED },      { 3, DESC, AVAIL, USED },
		{ 128, DESC, AVAIL, USED },    { 65535, DESC, AVAIL, USED },
		{ 8, DESC + 8, AVAIL, USED },  { 8, DESC, AVAIL + 1, USED },
		{ 8, DESC, AVAIL, USED + 2 },  { 8, RAM - 112, AVAIL, USED },
		{ 8, DESC, RAM - 2, USED },    { 8, DESC, AVAIL, RAM - 4 },
		{ 8, 0ull - 16, AVAIL, USED }, { 8, DESC, 0ull - 2, USED },
		{ 8, DESC, AVAIL, 0ull - 4 },  { 8, TOP + RAM, AVAIL, USED },
	};
	struct fixture *f = *state;

	for (unsigned int i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		virtqueue_init(&f->vq, &f->mem, 64);
		f->vq.size = bad[i].size;
		f->vq.desc = bad[i].desc;
		f->vq.avail = bad[i].avail;
		f->vq.used = bad[i].used;
		assert_int_equal(virtqueue_enable(&f->vq), -EINVAL);
		assert_false(f->vq.enabled);
		assert_int_equal(virtqueue_get_chain(&f->vq, &f->chain), 0);
		assert_false(virtqueue_has_chains(&f->vq));
	}
}

static void memory_goes_away(void **state)
{
	struct fixture *f = *state;

	set(f, 0, (struct vring_desc){ 0x8000, 4, 0, 0 });
	offer(f, 0);
	assert_int_equal(virtqueue_get_chain(&f->vq, &f->chain), 1);
	f->mem.nr_regions = 0;
	virtqueue_push_used(&f->vq, 0, 0);
	assert_non_null(f->vq.error);
	assert_false(virtqueue_take_notify(&f->vq));
	assert_int_equal(virtqueue_get_chain(&f->vq, &f->chain), -EINVAL);
}

#define with_queue(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		with_queue(round_trip),
		with_queue(suppression),
		with_queue(cycles),
		with_queue(self_cycle),
		with_queue(next_out_of_range),
		with_queue(head_out_of_range),
		with_queue(too_far_ahead),
		with_queue(backwards),
		with_queue(indirect),
		with_queue(wrong_order),
		with_queue(empty_buffer),
		with_queue(bad_addresses),
		with_queue(wrong_setup),
		with_queue(memory_goes_away),
		with_queue(longest_chain_is_fine),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
