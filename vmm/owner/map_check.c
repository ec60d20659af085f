/* SPDX-License-Identifier: MIT */
/* See map_check.h. */
#include "vmm/owner/map_check.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include "framevisor/frame.h"
#include "framevisor/log.h"
#include "vmm/owner/procmap.h"

/* One that maps is done within microseconds, unless its keeper does not get to run on a busy
 * machine: 5 s. The VM whose mapping does not get done by then ends, so that it cannot hold up
 * others twice. */
#define BUSY_WAIT_US 100
#define BUSY_WAITS   50000
#define CANNOT_ASK   (-2)

static bool overlap(const struct frame_run *a, const struct frame_run *b)
{
	return a->node == b->node && a->first < b->first + b->nr && b->first < a->first + a->nr;
}

static bool overlap_any(const struct frame_run *run, const struct frame_run *runs,
			unsigned int nr_runs)
{
	for (unsigned int r = 0; r < nr_runs; r++) {
		if (overlap(run, &runs[r]))
			return true;
	}
	return false;
}

/* A mapping of one of them that is under way. One that begins now is refused. */
static int wait_for_keeper(const struct ledger_maps *maps, const struct frame_run *runs,
			   unsigned int nr_runs)
{
	for (unsigned int i = 0; i < BUSY_WAITS; i++) {
		struct frame_run run;

		if (!__atomic_load_n(&maps->busy, __ATOMIC_SEQ_CST))
			return 0;
		/* If it changes meanwhile, the one that was under way is done. */
		memcpy(&run, &maps->run, sizeof(run));
		if (!overlap_any(&run, runs, nr_runs))
			return 0;
		usleep(BUSY_WAIT_US);
	}
	return -EBUSY;
}

/* Which frames of the pool a mapping has; false: none. */
static bool frames_of(const struct map_check *check, const struct procmap *map,
		      struct frame_run *run)
{
	const struct ledger_pool *pool = ledger_pool(check->ledger);

	for (unsigned int i = 0; i < pool->nr_nodes; i++) {
		if (pool->node[i].ino != map->ino || pool->node[i].dev != map->dev)
			continue;
		run->node = (uint16_t)i;
		run->first = bytes_to_frames(map->offset);
		run->nr = (uint32_t)bytes_to_frames(map->end - map->start);
		return true;
	}
	return false;
}

static bool in_window(const struct map_check *check, unsigned int node, uint64_t frame)
{
	const struct ledger_maps *maps = &check->client->maps;
	uint32_t *place = &ledger_places(check->ledger, node)[frame];
	const struct frame_run one = { .first = frame, .nr = 1, .node = (uint16_t)node };
	struct frame_run run;
	struct procmap map;
	uint64_t address;

	if (*place == 0)
		return false;
	address = maps->window + frames_to_bytes(*place - UINT64_C(1));
	*place = 0;
	return address < maps->views && procmap_query(check->maps_fd, address, false, &map) == 0 &&
	       frames_of(check, &map, &run) && overlap(&run, &one);
}

static bool in_views(const struct map_check *check, const struct frame_run *runs,
		     unsigned int nr_runs)
{
	const struct ledger_maps *maps = &check->client->maps;
	uint64_t address = maps->views;
	struct procmap map;
	struct frame_run run;

	while (address < maps->end && procmap_query(check->maps_fd, address, true, &map) == 0 &&
	       map.start < maps->end) {
		if (frames_of(check, &map, &run) && overlap_any(&run, runs, nr_runs))
			return true;
		address = map.end;
	}
	return false;
}

static bool can_ask(struct map_check *check)
{
	if (check->maps_fd == MAP_CHECK_CLOSED) {
		int fd = procmap_open(check->client->pid);

		if (fd == -ENOENT || fd == -ESRCH)
			return false; /* it has ended, and maps nothing */
		if (fd < 0)
			log_warn("VM '%s': cannot see whether it unmaps what it returns: %s",
				 check->client->name, strerror(-fd));
		check->maps_fd = fd < 0 ? CANNOT_ASK : fd;
	}
	return check->maps_fd >= 0;
}

int map_check_returned(struct map_check *check, const struct frame_run *runs, unsigned int nr_runs)
{
	int ret;

	if (!check->client || !check->client->maps.checked || !can_ask(check))
		return 0;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	ret = wait_for_keeper(&check->client->maps, runs, nr_runs);
	if (ret < 0)
		return ret;
	if (in_views(check, runs, nr_runs))
		return -EPERM;
	for (unsigned int r = 0; r < nr_runs; r++) {
		for (uint64_t i = runs[r].first; i < runs[r].first + runs[r].nr; i++) {
			if (in_window(check, runs[r].node, i))
				return -EPERM;
		}
	}
	return 0;
}

void map_check_close(struct map_check *check)
{
	if (check->maps_fd >= 0)
		close(check->maps_fd);
	check->maps_fd = MAP_CHECK_CLOSED;
}
