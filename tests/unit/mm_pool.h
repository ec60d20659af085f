/* SPDX-License-Identifier: MIT */
/* Pools for tests of mm/: set-up, validation after each step, and what was reported. */
#ifndef TESTS_MM_POOL_H
#define TESTS_MM_POOL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "framevisor/mm.h"
#include "framevisor/mmzone.h"
#include "framevisor/page_alloc.h"

/* Beyond 4 GiB: everything is ZONE_NORMAL. */
#define PHYS_NORMAL 4096

struct pool {
	struct mm *mm;
	void *metadata;
	size_t size;
	void *memory; /* behind the frames, or NULL */
	size_t memory_size;
	unsigned int messages;
	char last_message[1024];
};

static inline void pool_message(void *opaque, const char *line)
{
	struct pool *pool = opaque;

	__atomic_add_fetch(&pool->messages, 1, __ATOMIC_RELAXED);
	snprintf(pool->last_message, sizeof(pool->last_message), "%s", line);
}

static inline void pool_create(struct pool *pool, const struct mm_config *config)
{
	memset(pool, 0, sizeof(*pool));
	pool->size = mm_metadata_size(config);
	assert_true(pool->size > 0);
	pool->metadata = aligned_alloc(64, pool->size);
	assert_non_null(pool->metadata);
	memset(pool->metadata, 0, pool->size);
	pool->mm = mm_init(config, pool->metadata, pool->size);
	assert_non_null(pool->mm);
	mm_set_message_handler(pool->mm, pool_message, pool);
}

/* One node of ZONE_NORMAL without memory behind it, all online. */
static inline void pool_create_simple(struct pool *pool, uint64_t frames, unsigned int cpus)
{
	struct mm_config config = {
		.nr_nodes = 1,
		.nr_cpus = cpus,
		.node[0] = { .spanned = frames, .phys_base = PHYS_NORMAL },
	};

	pool_create(pool, &config);
	assert_int_equal(mm_online_pages(pool->mm, 0, 0, frames, false), 0);
}

/* The same with memory (frames are touched only when they are used). */
static inline void pool_create_backed(struct pool *pool, uint64_t frames, unsigned int flags)
{
	struct mm_config config = {
		.nr_nodes = 1,
		.nr_cpus = 1,
		.flags = flags,
		.node[0] = { .spanned = frames, .phys_base = PHYS_NORMAL },
	};
	size_t size = frames << FRAME_SHIFT;
	char *memory = mmap(NULL, size + FRAME_SIZE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	assert_true(memory != MAP_FAILED);
	config.node[0].base = memory + (FRAME_SIZE - (uintptr_t)memory % FRAME_SIZE);
	pool_create(pool, &config);
	pool->memory = memory;
	pool->memory_size = size + FRAME_SIZE;
}

static inline void pool_validate(struct pool *pool)
{
	char why[256];

	if (mm_validate(pool->mm, why, sizeof(why)))
		fail_msg("mm_validate: %s", why);
}

static inline void pool_destroy(struct pool *pool)
{
	pool_validate(pool);
	mm_destroy(pool->mm);
	free(pool->metadata);
	if (pool->memory)
		munmap(pool->memory, pool->memory_size);
}

static inline uint64_t pool_free_frames(struct pool *pool)
{
	struct mm_counts counts;

	mm_counts(pool->mm, -1, &counts);
	return counts.free + counts.cached;
}

#endif
