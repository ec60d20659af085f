/* SPDX-License-Identifier: MIT */
/* The pool's life: its nodes, its allocator, its zeroing thread, admission. See pool.h. */
#include "vmm/owner/pool_private.h"

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "framevisor/log.h"
#include "framevisor/size.h"

#define ZERO_BATCH    8 /* frames between two looks at zero_pause: well under a millisecond */
#define ZERO_PAUSE_US 100

static void *zero_thread(void *opaque)
{
	struct pool *pool = opaque;
	uint64_t zeroed;

	while (!atomic_load(&pool->zero_stop)) {
		while (sem_wait(&pool->zero_wanted) < 0)
			;
		do {
			while (atomic_load(&pool->zero_pause))
				usleep(ZERO_PAUSE_US);
			pthread_mutex_lock(&pool->zero_lock);
			zeroed = mm_zero_free_pages(pool->mm, ZERO_BATCH);
			pthread_mutex_unlock(&pool->zero_lock);
		} while (zeroed && !atomic_load(&pool->zero_stop));
	}
	return NULL;
}

static int start_zeroing(struct pool *pool, struct error *err)
{
	int ret = pthread_create(&pool->zero_thread, NULL, zero_thread, pool);

	if (ret)
		return error_set_errno(err, ret, "cannot start the zeroing thread");
	pthread_setname_np(pool->zero_thread, "zero");
	pool->zero_started = true;
	return 0;
}

static void stop_zeroing(struct pool *pool)
{
	if (!pool->zero_started)
		return;
	atomic_store(&pool->zero_stop, true);
	pool_zero_kick(pool);
	pthread_join(pool->zero_thread, NULL);
	pool->zero_started = false;
}

void pool_zero_kick(struct pool *pool)
{
	sem_post(&pool->zero_wanted);
}

void pool_quiesce(struct pool *pool)
{
	atomic_fetch_add(&pool->zero_pause, 1);
	pthread_mutex_lock(&pool->zero_lock);
}

void pool_resume(struct pool *pool)
{
	pthread_mutex_unlock(&pool->zero_lock);
	atomic_fetch_sub(&pool->zero_pause, 1);
}

static void *map_zeroed(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static void destroy_memory(struct pool *pool)
{
	if (pool->mm)
		mm_destroy(pool->mm);
	pool->mm = NULL;
	if (pool->metadata)
		munmap(pool->metadata, pool->metadata_size);
	pool->metadata = NULL;
	for (unsigned int i = 0; i < pool->nr_nodes; i++) {
		struct pool_node *node = &pool->node[i];

		backing_destroy(node->backing);
		node->backing = NULL;
		node->filled = 0;
		if (node->owner)
			munmap(node->owner, node->spanned * sizeof(*node->owner));
		node->owner = NULL;
		if (node->phys_pfn)
			munmap(node->phys_pfn, node->spanned * sizeof(*node->phys_pfn));
		node->phys_pfn = NULL;
	}
}

static int create_backings(struct pool *pool, bool hugetlb, struct error *err)
{
	pool->hugetlb = hugetlb;
	for (unsigned int i = 0; i < pool->nr_nodes; i++) {
		struct pool_node *node = &pool->node[i];
		/* With one node there is nothing to bind, and mbind() may be forbidden. */
		int nid = pool->nr_nodes > 1 ? node->host_nid : -1;
		int ret;

		node->owner = map_zeroed(node->spanned * sizeof(*node->owner));
		node->phys_pfn = map_zeroed(node->spanned * sizeof(*node->phys_pfn));
		if (!node->owner || !node->phys_pfn)
			return error_set(err, ENOMEM, "no memory for the pool's tables");
		if (pool->config.sim_nodes)
			continue;
		ret = backing_create(nid, node->spanned, hugetlb, &node->backing, err);
		if (ret < 0)
			return ret;
	}
	return 0;
}

static int create_mm(struct pool *pool, struct error *err)
{
	struct mm_config *config = calloc(1, sizeof(*config));

	if (!config)
		return error_set(err, ENOMEM, "no memory for the pool's tables");
	config->nr_nodes = pool->nr_nodes;
	/* One thread allocates and frees: one set of caches, so that none is out of its reach. */
	config->nr_cpus = 1;
	memcpy(config->distance, pool->distance, sizeof(config->distance));
	for (unsigned int i = 0; i < pool->nr_nodes; i++) {
		struct mm_node_config *node = &config->node[i];

		node->spanned = pool->node[i].spanned;
		node->base = pool->node[i].backing ? backing_base(pool->node[i].backing) : NULL;
		node->phys_pfn = pool->node[i].phys_pfn;
	}
	pool->metadata_size = mm_metadata_size(config);
	if (pool->metadata_size)
		pool->metadata = map_zeroed(pool->metadata_size);
	if (pool->metadata)
		pool->mm = mm_init(config, pool->metadata, pool->metadata_size);
	free(config);
	if (!pool->mm)
		return error_set(err, ENOMEM, "cannot set up the allocator for %u nodes",
				 pool->nr_nodes);
	return 0;
}

/* Backings and allocator, without a frame present yet. */
static int create_memory(struct pool *pool, bool hugetlb, struct error *err)
{
	int ret = create_backings(pool, hugetlb, err);

	return ret < 0 ? ret : create_mm(pool, err);
}

/*
 * Hugepages were to be used if possible and are not. As long as the pool is empty nobody has seen
 * its files: they may become other ones. Returns -EAGAIN if that was done.
 */
static int fall_back(struct pool *pool, int result)
{
	struct error ignored = { 0 };
	int ret;

	if (!pool->hugetlb || pool->config.hugepages != HUGEPAGES_AUTO || result == -ECANCELED ||
	    pool->memory_short)
		return result;
	for (unsigned int i = 0; i < pool->nr_nodes; i++) {
		if (pool->node[i].filled)
			return result;
	}
	log_warn("%s; the pool uses ordinary memory", pool->fill_error.message);
	destroy_memory(pool);
	ret = create_memory(pool, false, &ignored);
	return ret < 0 ? ret : -EAGAIN;
}

static int online(struct pool *pool, const struct pool_growth *growth)
{
	int ret = 0;

	for (unsigned int i = 0; ret == 0 && i < pool->nr_nodes; i++) {
		struct pool_node *node = &pool->node[i];
		uint64_t first = node->filled;

		if (growth->nr[i] == 0)
			continue;
		node->filled += growth->nr[i];
		/* Decides the frames' zones. Where the host does not tell, they are NORMAL. */
		if (node->backing)
			backing_phys_pfns(node->backing, first, growth->nr[i],
					  node->phys_pfn + first);
		ret = mm_online_pages(pool->mm, i, first, growth->nr[i], true);
	}
	return ret;
}

int pool_grow_finish(struct pool *pool, const struct pool_growth *growth, int result)
{
	int ret;

	pool_quiesce(pool);
	ret = result < 0 ? fall_back(pool, result) : online(pool, growth);
	pool->raised = hugepages_raised(&pool->hugepages);
	pool_resume(pool);
	return ret;
}

/* Grows until ram_frames more would be admitted (present frames alone, if exact). */
static int grow_now(struct pool *pool, uint64_t ram_frames, bool exact, struct error *err)
{
	struct pool_growth growth;
	uint64_t missing;

	while ((missing = exact ? ram_frames : pool_missing(pool, ram_frames))) {
		int ret = pool_grow_fill(pool, missing, &growth, err);

		ret = pool_grow_finish(pool, &growth, ret);
		if (ret == -EAGAIN) {
			error_clear(err);
			continue;
		}
		if (ret < 0)
			return error_set_errno(err, -ret, "cannot add memory to the pool");
		if (exact)
			break;
	}
	return 0;
}

static int set_limits(struct pool *pool, const struct host *host, struct error *err)
{
	const struct pool_config *config = &pool->config;
	uint64_t asked = config->size ? config->size : config->max;
	uint64_t limit = asked;
	char a[SIZE_TEXT_MAX], b[SIZE_TEXT_MAX], c[SIZE_TEXT_MAX];

	size_format(host->total, b, sizeof(b));
	if (asked > host->total)
		return error_set(err, ENOMEM,
				 "a pool of %s is larger than this machine's memory (%s)",
				 size_format(asked, a, sizeof(a)), b);
	if (!limit)
		limit = host->total > host_own_share(host->total)
				? host->total - host_own_share(host->total)
				: host->total / 2;
	if (config->initial > limit)
		return error_set(err, ENOMEM,
				 "%s of guest memory is more than the %s that the pool may have "
				 "(this machine has %s)",
				 size_format(config->initial, a, sizeof(a)),
				 size_format(limit, c, sizeof(c)), b);
	pool->max_frames = config->size ? bytes_to_frames_up(limit) : bytes_to_frames(limit);
	pool->nr_nodes = host->nr_nodes;
	for (unsigned int i = 0; i < host->nr_nodes; i++) {
		uint64_t total = bytes_to_frames_up(host->node[i].total);
		struct pool_node *node = &pool->node[i];

		node->host_nid = (int)host->node[i].nid;
		node->spanned = total < pool->max_frames ? total : pool->max_frames;
		memcpy(pool->distance[i], host->distance[i], sizeof(pool->distance[i]));
	}
	return 0;
}

/* Whether to begin with hugepages: a growing pool learns only later whether there are enough. */
static int choose_hugepages(struct pool *pool, bool *hugetlb, struct error *err)
{
	bool possible = hugepages_supported(&pool->hugepages);

	*hugetlb = pool->config.hugepages != HUGEPAGES_NEVER && possible;
	if (pool->config.hugepages == HUGEPAGES_REQUIRE && !possible)
		return error_set(err, ENOTSUP,
				 "hugepages are demanded (--hugepages=require), but this kernel "
				 "has no hugepages of 2 MiB");
	if (pool->config.hugepages == HUGEPAGES_AUTO && !possible)
		log_warn("this kernel has no hugepages of 2 MiB; the pool uses ordinary memory");
	return 0;
}

static int create_real(struct pool *pool, struct error *err)
{
	struct host host;
	uint64_t recovered = 0;
	bool hugetlb = false;
	int ret;

	ret = host_read(&host, "", err);
	if (ret < 0)
		return ret;
	ret = hugepages_init(&pool->hugepages, &host, "", pool->config.record, &recovered, err);
	if (ret < 0)
		return ret;
	pool->hugepages_ready = true;
	if (recovered)
		log_info("gave back %" PRIu64 " hugepages that an earlier owner had reserved",
			 recovered);
	ret = set_limits(pool, &host, err);
	if (ret == 0)
		ret = choose_hugepages(pool, &hugetlb, err);
	if (ret < 0)
		return ret;
	ret = create_memory(pool, hugetlb, &pool->fill_error);
	if (ret < 0) /* no hugetlb files, for example: forbidden here */
		ret = fall_back(pool, ret) == -EAGAIN ? 0 : ret;
	if (ret < 0)
		return error_set(err, -ret, "%s", pool->fill_error.message);
	if (pool->config.size)
		ret = grow_now(pool, pool->max_frames, true, err);
	else if (pool->config.initial)
		ret = grow_now(pool, bytes_to_frames_up(pool->config.initial), false, err);
	return ret;
}

static int create_simulated(struct pool *pool, struct error *err)
{
	struct pool_growth all = { 0 };
	int ret;

	pool->nr_nodes = pool->config.sim_nodes;
	for (unsigned int i = 0; i < pool->nr_nodes; i++) {
		pool->node[i].host_nid = -1;
		pool->node[i].spanned = pool->config.sim_frames;
		pool->max_frames += pool->config.sim_frames;
		all.nr[i] = pool->config.sim_frames;
	}
	ret = create_memory(pool, false, err);
	return ret < 0 ? ret : online(pool, &all);
}

struct pool *pool_create(const struct pool_config *config, struct error *err)
{
	struct pool *pool = calloc(1, sizeof(*pool));
	int ret;

	if (!pool) {
		error_set(err, ENOMEM, "no memory for the pool");
		return NULL;
	}
	pool->config = *config;
	pthread_mutex_init(&pool->zero_lock, NULL);
	sem_init(&pool->zero_wanted, 0, 0);
	ret = config->sim_nodes ? create_simulated(pool, err) : create_real(pool, err);
	if (ret == 0 && !config->sim_nodes)
		ret = start_zeroing(pool, err);
	if (ret < 0) {
		error_set_errno(err, -ret, "cannot create the pool");
		pool_destroy(pool);
		return NULL;
	}
	return pool;
}

void pool_destroy(struct pool *pool)
{
	if (!pool)
		return;
	stop_zeroing(pool);
	destroy_memory(pool);
	if (pool->hugepages_ready)
		hugepages_give_back(&pool->hugepages);
	sem_destroy(&pool->zero_wanted);
	pthread_mutex_destroy(&pool->zero_lock);
	free(pool);
}

uint64_t pool_missing(struct pool *pool, uint64_t ram_frames)
{
	uint64_t need = pool->committed + ram_frames + mm_totalreserve_pages(pool->mm);
	struct mm_counts counts;

	mm_counts(pool->mm, -1, &counts);
	counts.present -= counts.quarantined;
	return need > counts.present ? need - counts.present : 0;
}

int pool_admit(struct pool *pool, const char *name, uint64_t ram_frames, uint64_t *missing,
	       struct error *err)
{
	char ram[SIZE_TEXT_MAX], size[SIZE_TEXT_MAX], used[SIZE_TEXT_MAX], reserve[SIZE_TEXT_MAX],
		lack[SIZE_TEXT_MAX];
	struct mm_counts counts;

	*missing = pool_missing(pool, ram_frames);
	if (*missing == 0) {
		pool->committed += ram_frames;
		return 0;
	}
	mm_counts(pool->mm, -1, &counts);
	if (counts.present + *missing <= pool->max_frames)
		return -EAGAIN;
	*missing = counts.present + *missing - pool->max_frames;
	size_format(frames_to_bytes(ram_frames), ram, sizeof(ram));
	size_format(frames_to_bytes(pool->max_frames), size, sizeof(size));
	size_format(frames_to_bytes(pool->committed), used, sizeof(used));
	size_format(frames_to_bytes(mm_totalreserve_pages(pool->mm)), reserve, sizeof(reserve));
	size_format(frames_to_bytes(*missing), lack, sizeof(lack));
	return error_set(err, ENOMEM,
			 "VM '%s' of %s does not fit: the pool of at most %s has %s promised to "
			 "other VMs and %s in reserve, %s are missing; stop a VM or %s",
			 name, ram, size, used, reserve, lack,
			 pool->config.size ? "make the pool larger (--pool)" : "take less memory");
}

void pool_release(struct pool *pool, uint64_t ram_frames)
{
	pool->committed -= ram_frames;
}

unsigned int pool_nr_nodes(const struct pool *pool)
{
	return pool->nr_nodes;
}

uint64_t pool_spanned(const struct pool *pool, unsigned int nid)
{
	return pool->node[nid].spanned;
}

int pool_host_node(const struct pool *pool, unsigned int nid)
{
	return pool->node[nid].host_nid;
}

int pool_fd(const struct pool *pool, unsigned int nid)
{
	return pool->node[nid].backing ? backing_fd(pool->node[nid].backing) : -1;
}

bool pool_hugetlb(const struct pool *pool)
{
	return pool->hugetlb;
}

struct mm *pool_mm(struct pool *pool)
{
	return pool->mm;
}

void pool_info(const struct pool *pool, struct pool_info *info)
{
	*info = (struct pool_info){
		.hugepages = pool->config.hugepages,
		.hugetlb = pool->hugetlb,
		.fixed = pool->config.size != 0,
		.max_frames = pool->max_frames,
		.committed = pool->committed,
		.reserve = mm_totalreserve_pages(pool->mm),
		.raised = pool->raised,
	};
}
