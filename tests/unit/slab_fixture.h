/* SPDX-License-Identifier: MIT */
/*
 * A pool with memory behind it for the tests of what lives above the frames: nodes of ordinary
 * memory from one memfd each (touched frames only cost), and the check that everything came back.
 */
#ifndef SLAB_FIXTURE_H
#define SLAB_FIXTURE_H

#include <stdarg.h>
#include <stdbool.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "framevisor/mm.h"
#include "framevisor/page_alloc.h"
#include "framevisor/slab.h"

struct pool {
	struct mm *mm;
	void *metadata;
	unsigned int nr_nodes;
	uint64_t frames; /* per node */
	int fd[4];
	void *base[4];
	void *map[4];
	char messages[16384]; /* what the allocator reported, line by line */
	size_t used;
};

static inline void pool_message(void *opaque, const char *line)
{
	struct pool *pool = opaque;
	size_t len = strlen(line);

	if (pool->used + len + 2 > sizeof(pool->messages))
		return;
	memcpy(pool->messages + pool->used, line, len);
	pool->used += len;
	pool->messages[pool->used++] = '\n';
	pool->messages[pool->used] = '\0';
}

/* Memory of a node: mapped from a memfd at an address that is a multiple of a frame. */
static inline void pool_map_node(struct pool *pool, unsigned int nid)
{
	size_t size = pool->frames * FRAME_SIZE;
	void *base;

	pool->fd[nid] = memfd_create("pool", MFD_CLOEXEC);
	assert_true(pool->fd[nid] >= 0);
	assert_int_equal(ftruncate(pool->fd[nid], (off_t)size), 0);
	pool->map[nid] = mmap(NULL, size + FRAME_SIZE, PROT_NONE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	assert_ptr_not_equal(pool->map[nid], MAP_FAILED);
	base = (void *)(((uintptr_t)pool->map[nid] + FRAME_SIZE - 1) & (uintptr_t)FRAME_MASK);
	pool->base[nid] =
		mmap(base, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, pool->fd[nid], 0);
	assert_ptr_equal(pool->base[nid], base);
}

/* phys: host physical frame number of each node's first frame, which decides the zones. */
static inline struct pool *pool_create_at(unsigned int nr_nodes, uint64_t frames,
					  unsigned int nr_cpus, unsigned int flags, uint64_t phys)
{
	struct pool *pool = calloc(1, sizeof(*pool));
	struct mm_config config = { .nr_nodes = nr_nodes, .nr_cpus = nr_cpus, .flags = flags };
	size_t size;
	unsigned int nid;

	assert_non_null(pool);
	pool->nr_nodes = nr_nodes;
	pool->frames = frames;
	config.min_free_kbytes = 1;
	for (nid = 0; nid < nr_nodes; nid++) {
		pool_map_node(pool, nid);
		config.node[nid].spanned = frames;
		config.node[nid].base = pool->base[nid];
		config.node[nid].phys_base = phys + nid * frames;
	}
	size = mm_metadata_size(&config);
	assert_true(size > 0);
	pool->metadata = aligned_alloc(64, (size + 63) & ~(size_t)63);
	assert_non_null(pool->metadata);
	memset(pool->metadata, 0, size);
	pool->mm = mm_init(&config, pool->metadata, size);
	assert_non_null(pool->mm);
	mm_set_message_handler(pool->mm, pool_message, pool);
	for (nid = 0; nid < nr_nodes; nid++)
		assert_int_equal(mm_online_pages(pool->mm, nid, 0, frames, true), 0);
	mm_use(pool->mm);
	return pool;
}

/* Everything ZONE_NORMAL. */
static inline struct pool *pool_create(unsigned int nr_nodes, uint64_t frames, unsigned int nr_cpus,
				       unsigned int flags)
{
	return pool_create_at(nr_nodes, frames, nr_cpus, flags, UINT64_C(1) << 20);
}

static inline void pool_validate(struct pool *pool)
{
	char text[256] = "";

	if (mm_slab_validate(pool->mm, text, sizeof(text)) != 0)
		fail_msg("mm_slab_validate: %s", text);
	if (mm_validate(pool->mm, text, sizeof(text)) != 0)
		fail_msg("mm_validate: %s", text);
}

static inline uint64_t pool_allocated(struct pool *pool)
{
	struct mm_counts counts;

	mm_counts(pool->mm, -1, &counts);
	return counts.allocated;
}

/* Everything must be back; expected_leaks is what the test left on purpose. */
static inline void pool_destroy_leaks(struct pool *pool, uint64_t expected_leaks)
{
	struct mm_counts counts;
	unsigned int nid;

	pool_validate(pool);
	assert_int_equal(kmem_cache_exit(pool->mm), expected_leaks);
	pool_validate(pool);
	mm_counts(pool->mm, -1, &counts);
	assert_int_equal(counts.allocated, 0);
	assert_int_equal(counts.quarantined, 0);
	assert_int_equal(counts.free + counts.cached, counts.present);
	mm_destroy(pool->mm);
	for (nid = 0; nid < pool->nr_nodes; nid++) {
		munmap(pool->map[nid], (pool->frames + 1) * FRAME_SIZE);
		close(pool->fd[nid]);
	}
	free(pool->metadata);
	free(pool);
}

static inline void pool_destroy(struct pool *pool)
{
	if (pool->used)
		fail_msg("unexpected messages:\n%s", pool->messages);
	pool_destroy_leaks(pool, 0);
}

/* The test expects this report; forgets all. */
static inline void pool_expect(struct pool *pool, const char *text)
{
	if (!strstr(pool->messages, text))
		fail_msg("no message with \"%s\" in:\n%s", text, pool->messages);
	pool->used = 0;
	pool->messages[0] = '\0';
}

#endif
