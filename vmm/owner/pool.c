/* SPDX-License-Identifier: MIT */
/* The pool's life: its nodes, its allocator, its zeroing thread, admission. See pool.h. */
#include "vmm/owner/pool_private.h"

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "framevisor/log.h"
#include "framevisor/size.h"

/* Frames between two looks at zero_pause: some milliseconds, or with frames of 1 GiB, of which
 * there is no less than one, a tenth of a second. */
#define ZERO_BATCH    (FRAME_SHIFT == FRAME_SHIFT_1G ? 1 : 8)
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
	pool->changes++; /* what else would it have been brought to rest for */
	pthread_mutex_unlock(&pool->zero_lock);
	atomic_fetch_sub(&pool->zero_pause, 1);
}

static void *map_zeroed(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

/* The allocator and the nodes' files. */
struct memory_set {
	struct mm *mm;
	void *metadata;
	size_t metadata_size;
	struct backing *backing[OWNER_NODES_MAX];
	bool hugetlb;
};

/* The pool is left without. */
static void take_set(struct pool *pool, struct memory_set *set)
{
	*set = (struct memory_set){ .mm = pool->mm,
				    .metadata = pool->metadata,
				    .metadata_size = pool->metadata_size,
				    .hugetlb = pool->hugetlb };
	pool->mm = NULL;
	pool->metadata = NULL;
	for (unsigned int i = 0; i < pool->nr_nodes; i++) {
		set->backing[i] = pool->node[i].backing;
		pool->node[i].backing = NULL;
	}
}

static void put_set(struct pool *pool, const struct memory_set *set)
{
	pool->mm = set->mm;
	pool->metadata = set->metadata;
	pool->metadata_size = set->metadata_size;
	pool->hugetlb = set->hugetlb;
	for (unsigned int i = 0; i < pool->nr_nodes; i++)
		pool->node[i].backing = set->backing[i];
}

static void destroy_set(const struct memory_set *set)
{
	if (set->mm)
		mm_destroy(set->mm);
	if (set->metadata)
		munmap(set->metadata, set->metadata_size);
	for (unsigned int i = 0; i < OWNER_NODES_MAX; i++)
		backing_destroy(set->backing[i]);
}

static void destroy_memory(struct pool *pool)
{
	struct memory_set set;

	take_set(pool, &set);
	destroy_set(&set);
	for (unsigned int i = 0; i < pool->nr_nodes; i++) {
		struct pool_node *node = &pool->node[i];

		memset(node->present, 0, sizeof(node->present));
		if (node->phys_pfn)
			munmap(node->phys_pfn, node->spanned * sizeof(*node->phys_pfn));
		node->phys_pfn = NULL;
	}
	pool_destroy_tables(pool);
}

/* By this whoever takes the pool over finds the file, and knows of what kind it is. */
static void note_backing(struct pool *pool, unsigned int i)
{
	struct stat st;

	if (pool->ledger)
		ledger_pool(pool->ledger)->hugetlb = pool->hugetlb;
	if (pool->ledger && fstat(backing_fd(pool->node[i].backing), &st) == 0) {
		ledger_pool(pool->ledger)->node[i].dev = st.st_dev;
		ledger_pool(pool->ledger)->node[i].ino = st.st_ino;
	}
}

static int create_backing(struct pool *pool, unsigned int i, struct error *err)
{
	struct pool_node *node = &pool->node[i];
	/* With one node there is nothing to bind, and mbind() may be forbidden. */
	int nid = pool->nr_nodes > 1 ? node->host_nid : -1;
	int ret;

	if (pool->adopted)
		return pool_adopt_backing(pool, i, nid, err);
	ret = backing_create(nid, node->spanned, pool->hugetlb, &node->backing, err);
	if (ret == 0)
		note_backing(pool, i);
	return ret;
}

static int create_backings(struct pool *pool, bool hugetlb, struct error *err)
{
	int ret;

	pool->hugetlb = hugetlb;
	ret = pool->adopted ? 0 : pool_create_tables(pool, err);
	if (ret < 0)
		return ret;
	for (unsigned int i = 0; i < pool->nr_nodes; i++) {
		struct pool_node *node = &pool->node[i];

		node->phys_pfn = map_zeroed(node->spanned * sizeof(*node->phys_pfn));
		if (!node->phys_pfn)
			return error_set(err, ENOMEM, "no memory for the pool's tables");
		if (pool->config.sim_nodes)
			continue;
		ret = create_backing(pool, i, err);
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
		node->movable = pool->node[i].movable;
		node->base = pool->node[i].backing ? backing_base(pool->node[i].backing) : NULL;
		node->phys_pfn = pool->node[i].phys_pfn;
		if (pool->node[i].cpuless)
			config->cpuless |= UINT64_C(1) << i;
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
	pool_settings_apply(pool);
	return 0;
}

/* Backings and allocator, without a frame present yet. */
int pool_create_memory(struct pool *pool, bool hugetlb, struct error *err)
{
	int ret = create_backings(pool, hugetlb, err);

	return ret < 0 ? ret : create_mm(pool, err);
}

/* Files of ordinary memory and an allocator for them, for a pool that is empty; the old ones only
 * go when the new ones are there, since the owner goes on with them otherwise. */
static int replace_memory(struct pool *pool, struct error *err)
{
	struct memory_set old, failed;
	int ret = 0;

	take_set(pool, &old);
	pool->hugetlb = false;
	for (unsigned int i = 0; i < pool->nr_nodes && ret == 0; i++)
		ret = create_backing(pool, i, err);
	if (ret == 0)
		ret = create_mm(pool, err);
	if (ret == 0) {
		destroy_set(&old);
		return 0;
	}
	take_set(pool, &failed);
	destroy_set(&failed);
	put_set(pool, &old);
	for (unsigned int i = 0; i < pool->nr_nodes; i++)
		note_backing(pool, i);
	return ret;
}

/* At the start: what there is of the first attempt goes. */
static int create_ordinary(struct pool *pool, struct error *err)
{
	destroy_memory(pool);
	return pool_create_memory(pool, false, err);
}

/*
 * Hugepages were to be used if possible and are not. As long as the pool is empty nobody has seen
 * its files: they may become other ones. Returns -EAGAIN if that was done.
 */
static int fall_back(struct pool *pool, int result)
{
	struct error err = { 0 };
	int ret;

	if (!pool->hugetlb || pool->adopted || pool->config.hugepages != HUGEPAGES_AUTO ||
	    result == -ECANCELED || pool->memory_short || !pool->fill_error.code)
		return result;
	for (unsigned int i = 0; i < pool->nr_nodes; i++) {
		if (pool_node_present(&pool->node[i]))
			return result;
	}
	ret = pool->mm ? replace_memory(pool, &err) : create_ordinary(pool, &err);
	if (ret < 0) {
		log_warn("%s; and no ordinary memory either: %s", pool->fill_error.message,
			 err.message);
		return result;
	}
	log_warn("%s; the pool uses ordinary memory", pool->fill_error.message);
	return -EAGAIN;
}

static int online_run(void *opaque, const struct frame_run *run)
{
	return pool_online_run(opaque, run, true);
}

int pool_grow_finish(struct pool *pool, const struct pool_growth *growth, int result)
{
	int ret;

	pool_quiesce(pool);
	ret = result < 0 ? fall_back(pool, result)
			 : pool_each_absent(pool, growth, online_run, pool);
	pool->raised = hugepages_raised(&pool->hugepages);
	pool->changing = false;
	pool_resume(pool);
	return ret;
}

/* Grows until ram_frames more would be admitted (present frames alone, if exact). */
static int grow_now(struct pool *pool, uint64_t ram_frames, bool exact, struct error *err)
{
	struct pool_growth growth = { .nodemask = 0 };
	uint64_t missing;

	while ((missing = exact ? ram_frames : pool_missing(pool, ram_frames))) {
		int ret = pool_grow_begin(pool, missing, POOL_MOVABLE_AS_SET, &growth, err);

		if (ret == 0) {
			ret = pool_grow_fill(pool, &growth, err);
			ret = pool_grow_finish(pool, &growth, ret);
		}
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

/* What the configuration says about sizes, against itself and against the machine. */
static int check_sizes(const struct pool_config *config, uint64_t total, uint64_t limit,
		       struct error *err)
{
	uint64_t asked = config->max > config->size ? config->max : config->size;
	char a[SIZE_TEXT_MAX], b[SIZE_TEXT_MAX], c[SIZE_TEXT_MAX];

	size_format(total, b, sizeof(b));
	if (asked > total)
		return error_set(err, ENOMEM,
				 "a pool of %s is larger than this machine's memory (%s)",
				 size_format(asked, a, sizeof(a)), b);
	if (config->max && config->size > config->max)
		return error_set(err, EINVAL, "a pool of %s is more than its limit of %s (--max)",
				 size_format(config->size, a, sizeof(a)),
				 size_format(config->max, c, sizeof(c)));
	if (config->movable.bytes > (config->size ? config->size : limit))
		return error_set(err, EINVAL, "a MOVABLE zone of %s is more than the pool of %s",
				 size_format(config->movable.bytes, a, sizeof(a)),
				 size_format(config->size ? config->size : limit, c, sizeof(c)));
	if (config->initial > limit)
		return error_set(err, ENOMEM,
				 "%s of guest memory is more than the %s that the pool may have "
				 "(this machine has %s)",
				 size_format(config->initial, a, sizeof(a)),
				 size_format(limit, c, sizeof(c)), b);
	return 0;
}

/*
 * Each part of a node's span begins and ends where a block of the highest order does, or in a small
 * node one of the largest order that it has: no such block lies in two zones, and pageblocks, which
 * are isolated as a whole, belong to one.
 */
static uint64_t span_of(uint64_t capacity)
{
	uint64_t block = MAX_ORDER_NR_PAGES;

	while (block > capacity)
		block /= 2;
	return block ? (capacity + block - 1) & ~(block - 1) : 0;
}

static int set_limits(struct pool *pool, const struct host *host, struct error *err)
{
	const struct pool_config *config = &pool->config;
	uint64_t limit = config->max;
	int ret;

	if (!limit)
		limit = host->total > host_own_share(host->total)
				? host->total - host_own_share(host->total)
				: host->total / 2;
	ret = check_sizes(config, host->total, limit, err);
	if (ret < 0)
		return ret;
	pool->max_frames = bytes_to_frames(limit);
	/* What is to be there from the start may be more than what would be left to the system. */
	if (pool->max_frames < bytes_to_frames_up(config->size))
		pool->max_frames = bytes_to_frames_up(config->size);
	pool->nr_nodes = host->nr_nodes;
	for (unsigned int i = 0; i < host->nr_nodes; i++) {
		uint64_t total = bytes_to_frames_up(host->node[i].total);
		struct pool_node *node = &pool->node[i];

		node->host_nid = (int)host->node[i].nid;
		node->capacity = total < pool->max_frames ? total : pool->max_frames;
		node->movable = pool_has_movable(pool) ? span_of(node->capacity) : 0;
		node->spanned = span_of(node->capacity) + node->movable;
		node->cpuless = host->node[i].cpuless;
		memcpy(pool->distance[i], host->distance[i], sizeof(pool->distance[i]));
	}
	return 0;
}

/* Whether to begin with hugepages: a growing pool learns only later whether there are enough. */
static int choose_hugepages(struct pool *pool, bool *hugetlb, struct error *err)
{
	bool possible = hugepages_supported(&pool->hugepages);

	*hugetlb = pool->config.hugepages != HUGEPAGES_NEVER && possible;
	if ((pool->config.hugepages == HUGEPAGES_REQUIRE ||
	     pool->config.hugepages == HUGEPAGES_GIGANTIC) &&
	    !possible)
		return error_set(err, ENOTSUP,
				 "hugepages are demanded (--hugepages=%s), but this kernel "
				 "has no hugepages of %s",
				 pool->config.hugepages == HUGEPAGES_REQUIRE ? "require" : "1G",
				 frame_size_name());
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
	if (pool->config.ledger)
		ret = ledger_open(pool->config.ledger, &pool->ledger, err);
	if (ret < 0)
		return ret;
	if (pool->ledger)
		return pool_adopt(pool, &host, err);
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
	ret = pool_create_memory(pool, hugetlb, &pool->fill_error);
	if (ret < 0) /* no hugetlb files, for example: forbidden here */
		ret = fall_back(pool, ret) == -EAGAIN ? 0 : ret;
	if (ret < 0)
		return error_set(err, -ret, "%s", pool->fill_error.message);
	if (pool->config.size)
		ret = grow_now(pool, bytes_to_frames_up(pool->config.size), true, err);
	else if (pool->config.initial)
		ret = grow_now(pool, bytes_to_frames_up(pool->config.initial), false, err);
	return ret;
}

static int create_simulated(struct pool *pool, struct error *err)
{
	struct pool_growth all = { .frames = 0 };
	int ret;

	pool->nr_nodes = pool->config.sim_nodes;
	for (unsigned int i = 0; i < pool->nr_nodes; i++) {
		pool->node[i].host_nid = -1;
		pool->node[i].capacity = pool->config.sim_frames;
		pool->node[i].spanned = pool->config.sim_frames;
		pool->max_frames += pool->config.sim_frames;
		all.nr[i][PART_NORMAL] = pool->config.sim_frames;
	}
	ret = pool_create_memory(pool, false, err);
	return ret < 0 ? ret : pool_each_absent(pool, &all, online_run, pool);
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
	if (ret == 0 && pool->adopted)
		pool_zero_kick(pool);
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
	/* Whatever it ends for, be it that the owner could not start. */
	if (pool->adopted)
		pool_leave(pool);
	destroy_memory(pool);
	/* What is to be taken over stays: the files live in the VMs, the rest in the ledger. */
	if (pool->hugepages_ready && !pool->leave) {
		hugepages_lock(&pool->hugepages);
		hugepages_give_back(&pool->hugepages);
		hugepages_unlock(&pool->hugepages);
	}
	sem_destroy(&pool->zero_wanted);
	pthread_mutex_destroy(&pool->zero_lock);
	free(pool);
}

/* What VMs can be promised: only a pool without a size of its own grows for them. */
uint64_t pool_limit(const struct pool *pool)
{
	return pool->config.size
		       ? pool_present(pool, PART_NORMAL) + pool_present(pool, PART_MOVABLE)
		       : pool->max_frames;
}

unsigned int pool_nr_nodes(const struct pool *pool)
{
	return pool->nr_nodes;
}

uint64_t pool_spanned(const struct pool *pool, unsigned int nid)
{
	return pool->node[nid].spanned;
}

uint64_t pool_movable(const struct pool *pool, unsigned int nid)
{
	return pool->node[nid].present[PART_MOVABLE];
}

int pool_host_node(const struct pool *pool, unsigned int nid)
{
	return pool->node[nid].host_nid;
}

int pool_fd(const struct pool *pool, unsigned int nid)
{
	return pool->node[nid].backing ? backing_fd(pool->node[nid].backing) : -1;
}

uint64_t pool_changes(const struct pool *pool)
{
	return pool->changes;
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
		.movable = pool_present(pool, PART_MOVABLE),
		.committed = pool->committed,
		.guaranteed = pool->guaranteed,
		.unclaimed = pool->unclaimed,
		.reserve = mm_totalreserve_pages(pool->mm),
		.raised = pool->raised,
		.keep = pool->config.keep,
	};
}
