/* SPDX-License-Identifier: MIT */
/*
 * Taking over the pool of an owner that died. Its ledger says what there is: nodes, frames, who
 * holds which. The memory itself lives on in the VMs that have its files open; they are found
 * through /proc and recognised by their inodes, which the ledger has from their creator.
 *
 * A frame whose holder has ended is free. Nobody knows whether a free frame is zero, so it counts
 * as dirty. What is in the files but not in the ledger's maps, because the owner died while the
 * pool grew or shrank, goes back to the host.
 */
#include "vmm/owner/pool_private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "framevisor/log.h"
#include "framevisor/overcommit.h"

static void *map_table(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static void use_ledger(struct pool *pool)
{
	for (unsigned int i = 0; i < pool->nr_nodes; i++) {
		pool->node[i].owner = ledger_owners(pool->ledger, i);
		pool->node[i].present_map = ledger_present(pool->ledger, i);
	}
}

static void create_ledger(struct pool *pool)
{
	const struct pool_config *config = &pool->config;
	struct ledger_pool about = {
		.hugepages = config->hugepages,
		.hugetlb = pool->hugetlb,
		.keep = config->keep,
		.frame_shift = FRAME_SHIFT,
		.nr_nodes = pool->nr_nodes,
		.size = config->size,
		.max = config->max,
		.max_frames = pool->max_frames,
		.movable_bytes = config->movable.bytes,
		.movable_percent = config->movable.percent,
	};
	struct error err = { 0 };

	for (unsigned int i = 0; i < pool->nr_nodes; i++) {
		about.node[i] = (struct ledger_node){ .host_nid = pool->node[i].host_nid,
						      .capacity = pool->node[i].capacity,
						      .spanned = pool->node[i].spanned,
						      .movable = pool->node[i].movable };
	}
	pool->ledger = ledger_create(config->ledger, &about, &err);
	if (!pool->ledger)
		log_warn("%s: if this owner is killed, no other can go on for its VMs",
			 err.message);
}

int pool_create_tables(struct pool *pool, struct error *err)
{
	if (pool->config.ledger)
		create_ledger(pool);
	if (pool->ledger) {
		use_ledger(pool);
		return 0;
	}
	for (unsigned int i = 0; i < pool->nr_nodes; i++) {
		struct pool_node *node = &pool->node[i];

		node->owner = map_table(node->spanned * sizeof(*node->owner));
		node->present_map = map_table(node->spanned);
		if (!node->owner || !node->present_map)
			return error_set(err, ENOMEM, "no memory for the pool's tables");
	}
	return 0;
}

void pool_destroy_tables(struct pool *pool)
{
	for (unsigned int i = 0; i < pool->nr_nodes; i++) {
		struct pool_node *node = &pool->node[i];

		if (!pool->ledger && node->owner)
			munmap(node->owner, node->spanned * sizeof(*node->owner));
		if (!pool->ledger && node->present_map)
			munmap(node->present_map, node->spanned);
		node->owner = NULL;
		node->present_map = NULL;
	}
	ledger_close(pool->ledger, !pool->leave);
	pool->ledger = NULL;
}

/* The file among a process's descriptors, opened anew, or -1. */
static int find_file(pid_t pid, const struct ledger_node *node)
{
	char path[64];
	struct dirent *entry;
	int fd = -1;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	dir = opendir(path);
	while (dir && fd < 0 && (entry = readdir(dir))) {
		struct stat st;

		if (fstatat(dirfd(dir), entry->d_name, &st, 0) < 0 || st.st_dev != node->dev ||
		    st.st_ino != node->ino)
			continue;
		fd = openat(dirfd(dir), entry->d_name, O_RDWR | O_CLOEXEC);
		/* The name may be another file's since we looked. */
		if (fd >= 0 &&
		    (fstat(fd, &st) < 0 || st.st_dev != node->dev || st.st_ino != node->ino)) {
			close(fd);
			fd = -1;
		}
	}
	if (dir)
		closedir(dir);
	return fd;
}

int pool_adopt_backing(struct pool *pool, unsigned int i, int host_nid, struct error *err)
{
	const struct ledger_node *node = &ledger_pool(pool->ledger)->node[i];
	int fd = -1;

	for (unsigned int c = 0; fd < 0 && c < LEDGER_CLIENTS_MAX; c++) {
		const struct ledger_client *client = ledger_client(pool->ledger, c);

		if (ledger_client_lives(client))
			fd = find_file(client->pid, node);
	}
	if (fd < 0)
		return error_set(err, ESRCH,
				 "no VM of the pool owner that died lets its file of node %u be "
				 "opened; stop those VMs, or run this as their user or root",
				 i);
	return backing_adopt(host_nid, node->spanned, pool->hugetlb, fd, pool->node[i].present_map,
			     &pool->node[i].backing, err);
}

static int restore_config(struct pool *pool, const struct host *host, struct error *err)
{
	const struct ledger_pool *about = ledger_pool(pool->ledger);
	struct pool_config *config = &pool->config;

	if (about->nr_nodes != host->nr_nodes)
		return error_set(err, EINVAL, "the host's memory nodes are not what they were");
	if (frame_use_shift(about->frame_shift) < 0)
		return error_set(err, EINVAL, "the ledger's frames have an impossible size");
	config->hugepages = (enum hugepages_mode)about->hugepages;
	config->size = about->size;
	config->max = about->max;
	config->movable.bytes = about->movable_bytes;
	config->movable.percent = about->movable_percent;
	config->keep = about->keep;
	pool->max_frames = about->max_frames;
	pool->nr_nodes = about->nr_nodes;
	for (unsigned int i = 0; i < about->nr_nodes; i++) {
		struct pool_node *node = &pool->node[i];

		node->host_nid = about->node[i].host_nid;
		node->capacity = about->node[i].capacity;
		node->spanned = about->node[i].spanned;
		node->movable = about->node[i].movable;
		node->cpuless = host->node[i].cpuless;
		memcpy(pool->distance[i], host->distance[i], sizeof(pool->distance[i]));
	}
	return 0;
}

/* A RETURN under way when the owner died: what it has taken back already may be the client's again
 * until it says. What was given to somebody else since is not. */
static void undo_return(struct pool *pool, const struct ledger_client *client)
{
	if (client->in_flight != LEDGER_RETURN || client->nr_runs > OWNER_RUNS_MAX)
		return;
	for (unsigned int r = 0; r < client->nr_runs; r++) {
		const struct frame_run *run = &client->runs[r];
		struct pool_node *node = &pool->node[run->node];

		if (run->node >= pool->nr_nodes)
			continue;
		for (uint64_t i = run->first; i < run->first + run->nr; i++) {
			if (i < node->spanned && node->present_map[i] && node->owner[i] == 0)
				node->owner[i] = client->id;
		}
	}
}

static bool find_id(struct pool *pool, uint32_t id)
{
	for (unsigned int c = 0; c < LEDGER_CLIENTS_MAX; c++) {
		if (ledger_client(pool->ledger, c)->id == id)
			return true;
	}
	return false;
}

/* Entries of processes that have ended go, and with them what they held. */
static void settle_clients(struct pool *pool)
{
	for (unsigned int c = 0; c < LEDGER_CLIENTS_MAX; c++) {
		struct ledger_client *client = ledger_client(pool->ledger, c);

		if (client->id && !ledger_client_lives(client))
			client->id = 0;
		else if (client->id)
			undo_return(pool, client);
	}
	for (unsigned int i = 0; i < pool->nr_nodes; i++) {
		struct pool_node *node = &pool->node[i];
		uint32_t good = 0;

		for (uint64_t f = 0; f < node->spanned; f++) {
			uint32_t id = node->owner[f];

			if (id == 0 || (id == good && node->present_map[f]))
				continue;
			if (node->present_map[f] && find_id(pool, id))
				good = id;
			else
				node->owner[f] = 0;
		}
	}
}

/* Frames become known to the allocator: held ones as such, the others as free and dirty. */
static int online_node(struct pool *pool, unsigned int nid)
{
	struct pool_node *node = &pool->node[nid];
	uint64_t first = 0, end;
	int ret = 0;

	for (; ret == 0 && first < node->spanned; first = end) {
		bool held = node->owner[first] != 0;

		end = first + 1;
		if (!node->present_map[first])
			continue;
		while (end < node->spanned && node->present_map[end] &&
		       (node->owner[end] != 0) == held)
			end++;
		backing_phys_pfns(node->backing, first, end - first, node->phys_pfn + first);
		ret = held ? mm_online_used_pages(pool->mm, nid, first, end - first)
			   : mm_online_pages(pool->mm, nid, first, end - first, false);
		for (uint64_t i = first; ret == 0 && i < end; i++) {
			node->present[pool_frame_part(node, i)]++;
			if (held)
				page_set_owner(mm_page(pool->mm, nid, i), node->owner[i], 0);
		}
	}
	return ret;
}

/* What the owner before was told not to use any more. */
static void quarantine_again(struct pool *pool, unsigned int nid)
{
	for (uint64_t i = 0; i < pool->node[nid].spanned; i++)
		if (pool->node[nid].present_map[i] == PRESENT_BAD)
			mm_soft_offline_page(pool->mm, mm_page(pool->mm, nid, i));
}

int pool_adopt(struct pool *pool, const struct host *host, struct error *err)
{
	int ret;

	pool->adopted = true;
	pool->leave = true; /* if this fails, it is there for the next try */
	ret = restore_config(pool, host, err);
	if (ret == 0)
		ret = hugepages_adopt(&pool->hugepages, host, pool->config.record, err);
	if (ret < 0)
		return ret;
	pool->hugepages_ready = true;
	pool->raised = hugepages_raised(&pool->hugepages);
	use_ledger(pool);
	settle_clients(pool);
	ret = pool_create_memory(pool, ledger_pool(pool->ledger)->hugetlb, err);
	for (unsigned int i = 0; ret == 0 && i < pool->nr_nodes; i++)
		ret = online_node(pool, i);
	if (ret < 0)
		return error_set_errno(err, -ret, "cannot take over the pool");
	for (unsigned int i = 0; i < pool->nr_nodes; i++)
		quarantine_again(pool, i);
	pool->leave = false;
	return 0;
}

struct ledger *pool_ledger(struct pool *pool)
{
	return pool->ledger;
}

bool pool_adopted(const struct pool *pool)
{
	return pool->adopted;
}

void pool_note_bad(struct pool *pool, unsigned int nid, uint64_t idx, bool bad)
{
	uint8_t *present = &pool->node[nid].present_map[idx];

	if (*present)
		*present = bad ? PRESENT_BAD : PRESENT;
}

void pool_leave(struct pool *pool)
{
	for (unsigned int c = 0; pool->ledger && c < LEDGER_CLIENTS_MAX; c++)
		pool->leave |= ledger_client_lives(ledger_client(pool->ledger, c));
}

void pool_promise_again(struct pool *pool, const struct pool_promise *promise)
{
	pool->committed += promise->ram;
	pool->guaranteed += promise->min;
	mm_vm_unacct_memory(pool->mm, -(int64_t)promise->ram);
}

uint64_t pool_held_by_node(const struct pool *pool, uint32_t id, uint64_t *held)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < pool->nr_nodes; i++) {
		held[i] = 0;
		for (uint64_t f = 0; f < pool->node[i].spanned; f++)
			held[i] += pool->node[i].owner[f] == id;
		sum += held[i];
	}
	return sum;
}

bool pool_holds(const struct pool *pool, uint32_t id, const struct frame_run *run)
{
	for (uint64_t i = run->first; i < run->first + run->nr; i++) {
		if (pool->node[run->node].owner[i] != id)
			return false;
	}
	return true;
}

void pool_each_held(struct pool *pool, uint32_t id, uint8_t *const *declared,
		    bool (*fn)(void *opaque, const struct frame_run *run), void *opaque)
{
	for (unsigned int nid = 0; nid < pool->nr_nodes; nid++) {
		struct frame_run run = { .node = (uint16_t)nid };
		const struct pool_node *node = &pool->node[nid];

		for (uint64_t i = 0; i <= node->spanned; i++) {
			bool ours = i < node->spanned && node->owner[i] == id &&
				    !(declared && declared[nid][i]);

			if (ours && run.nr == 0)
				run.first = i;
			run.nr += ours;
			if (ours || run.nr == 0)
				continue;
			if (!fn(opaque, &run))
				return;
			run.nr = 0;
		}
	}
}
