/* SPDX-License-Identifier: MIT */
/* The pool owner's own objects: see objects.h. */
#include "vmm/owner/objects.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "framevisor/log.h"
#include "framevisor/mm.h"
#include "vmm/owner/balance_private.h"
#include "vmm/owner/notice.h"
#include "vmm/owner/server_private.h"
#include "vmm/owner/vacate.h"
#include "vmm/owner/work.h"

/* Room for all objects: a thousand VMs need about ten frames of 2 MiB. Where so much address space
 * cannot be had (a limit, or a host that counts it as used), less. */
#define FRAMES     64u
#define FRAMES_MIN 4u
/* In host physical frames: above all DMA zones. These frames are addresses only. */
#define PHYS_BASE (UINT64_C(1) << 30)

static struct object_cache *const caches[] = {
	&client_cache, &notice_cache, &balance_entry_cache, &answer_cache,
	&piece_cache,  &vacate_cache, &asked_cache,
};
#define NR_CACHES (sizeof(caches) / sizeof(caches[0]))

static struct {
	struct mm *mm;
	void *metadata;
	size_t metadata_size;
	void *map; /* of the frames, one more than there are: they are aligned in it */
	size_t map_size;
} objects;

static void *map_lazily(size_t size)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (at == MAP_FAILED)
		return NULL;
	/* A transparent hugepage would make 2 MiB out of some KiB. Kernels without them refuse. */
	(void)madvise(at, size, MADV_NOHUGEPAGE);
	return at;
}

static void on_message(void *opaque, const char *line)
{
	(void)opaque;
	log_warn("objects of the pool owner: %s", line);
}

/* Returns how many frames there is room for, or 0. */
static unsigned int map_frames(void)
{
	for (unsigned int nr = FRAMES; nr >= FRAMES_MIN; nr /= 2) {
		objects.map_size = (size_t)(nr + 1) * FRAME_SIZE;
		objects.map = map_lazily(objects.map_size);
		if (objects.map)
			return nr;
	}
	return 0;
}

static int create_mm(void)
{
	unsigned int nr = map_frames();
	uintptr_t base = ((uintptr_t)objects.map + FRAME_SIZE - 1) & (uintptr_t)FRAME_MASK;
	/* One set of per-CPU caches: there is little to do, and each costs memory. */
	struct mm_config config = { .nr_nodes = 1, .nr_cpus = 1, .flags = MM_SLAB_SPARSE };

	if (!nr)
		return -ENOMEM;
	config.node[0] = (struct mm_node_config){ .spanned = nr,
						  .base = (void *)base,
						  .phys_base = PHYS_BASE };
	objects.metadata_size = mm_metadata_size(&config);
	objects.metadata = map_lazily(objects.metadata_size);
	if (!objects.metadata)
		return -ENOMEM;
	objects.mm = mm_init(&config, objects.metadata, objects.metadata_size);
	if (!objects.mm)
		return -ENOMEM;
	mm_set_message_handler(objects.mm, on_message, NULL);
	mm_use(objects.mm);
	return mm_online_pages(objects.mm, 0, 0, nr, true);
}

/* Zeroed, so that the pages of what lies in reserve exist. */
static void *alloc_element(gfp_t gfp, void *opaque)
{
	return kmem_cache_zalloc(opaque, gfp);
}

static void free_element(void *element, void *opaque)
{
	kmem_cache_free(opaque, element);
}

static int create_caches(void)
{
	for (unsigned int i = 0; i < NR_CACHES; i++) {
		struct object_cache *cache = caches[i];

		cache->cache = kmem_cache_create(objects.mm, cache->name, cache->size, 0, 0, NULL);
		if (!cache->cache)
			return -ENOMEM;
		cache->promised = mempool_create(objects.mm, cache->reserve, alloc_element,
						 free_element, cache->cache);
		if (!cache->promised)
			return -ENOMEM;
	}
	return 0;
}

int objects_init(struct error *err)
{
	int ret = create_mm();

	if (ret == 0)
		ret = create_caches();
	if (ret < 0) {
		objects_exit();
		return error_set(err, -ret, "no memory for the pool owner's own tables");
	}
	return 0;
}

uint64_t objects_exit(void)
{
	uint64_t leaked = 0;

	for (unsigned int i = 0; i < NR_CACHES; i++) {
		mempool_destroy(caches[i]->promised);
		caches[i]->promised = NULL;
		caches[i]->cache = NULL; /* ended with the others */
	}
	if (objects.mm) {
		leaked = kmem_cache_exit(objects.mm);
		mm_use(NULL);
		mm_destroy(objects.mm);
	}
	if (objects.metadata)
		munmap(objects.metadata, objects.metadata_size);
	if (objects.map)
		munmap(objects.map, objects.map_size);
	memset(&objects, 0, sizeof(objects));
	if (leaked)
		log_warn("%llu objects of the pool owner were never freed",
			 (unsigned long long)leaked);
	return leaked;
}

void *object_zalloc(struct object_cache *cache)
{
	/* Never GFP_OBJECTS: a mempool then waits for an element, which this thread would free. */
	void *object = mempool_alloc(cache->promised, GFP_NOWAIT);

	return object ? memset(object, 0, cache->size) : NULL;
}

void object_free(struct object_cache *cache, void *object)
{
	mempool_free(object, cache->promised);
}

struct mm *objects_mm(void)
{
	return objects.mm;
}
