/* SPDX-License-Identifier: MIT */
/* What the tests of swapping share: memory with a swap file, contents that differ in how well they
 * compress, and waiting for what is under way. */
#ifndef SWAP_FIXTURE_H
#define SWAP_FIXTURE_H

#include "vm_memory_fixture.h"
#include "vmm/memory/swap.h"

#define WAIT_MS 60000

static atomic_uint events[VM_MEMORY_NR_EVENTS];

static inline void on_event(void *opaque, enum vm_memory_event event, uint64_t gpa)
{
	(void)opaque;
	(void)gpa;
	atomic_fetch_add(&events[event], 1);
}

static inline void open_swap_victims(struct fixture *f, uint64_t bytes, bool random)
{
	for (unsigned int i = 0; i < VM_MEMORY_NR_EVENTS; i++)
		atomic_store(&events[i], 0);
	assert_true(try_open_config(f, client,
				    (struct vm_memory_config){ .swap_path = "/tmp",
							       .swap_bytes = bytes,
							       .swap_random = random,
							       .event = on_event }));
}

static inline void open_swap(struct fixture *f, uint64_t bytes)
{
	open_swap_victims(f, bytes, false);
}

/* Some compress well, some not at all, some are zero. */
static inline uint64_t content(unsigned int frame, unsigned int word)
{
	uint64_t x = (frame + 1) * UINT64_C(0x9e3779b97f4a7c15) + word;

	if (frame % 4 == 3)
		return 0;
	if (frame % 4 == 2)
		return word % 64 ? frame : x;
	x = (x ^ x >> 31) * UINT64_C(0xbf58476d1ce4e5b9);
	return x ^ x >> 29;
}

static inline void fill(struct fixture *f)
{
	for (unsigned int i = 0; i < RAM_FRAMES; i++) {
		uint64_t *words = frame_words(f, i);

		for (unsigned int w = 0; w < FRAME_SIZE / 8; w++)
			words[w] = content(i, w);
	}
}

static inline void check_frame(struct fixture *f, unsigned int frame)
{
	uint64_t *words = frame_words(f, frame);

	for (unsigned int w = 0; w < FRAME_SIZE / 8; w++)
		if (words[w] != content(frame, w))
			fail_msg("frame %u, word %u: %llx", frame, w, (unsigned long long)words[w]);
}

static inline void wait_swapped(struct fixture *f, uint64_t nr)
{
	uint64_t since = now_ms();

	while (stats_of(f).swapped < nr) {
		assert_true(now_ms() - since < WAIT_MS);
		sleep_ms(1);
	}
}

static inline void wait_event(enum vm_memory_event event)
{
	uint64_t since = now_ms();

	while (atomic_load(&events[event]) == 0) {
		assert_true(now_ms() - since < WAIT_MS);
		sleep_ms(1);
	}
}

static inline void swap_all(struct fixture *f)
{
	assert_int_equal(vm_memory_swap_out(f->mem, RAM_FRAMES), 0);
	wait_swapped(f, RAM_FRAMES);
}

#endif
