/* SPDX-License-Identifier: MIT */
/* See map_guard.h and seccomp_unotify(2). */
#include "vmm/sandbox/map_guard.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "framevisor/frame.h"
#include "framevisor/rundir.h"
#include "vmm/owner/procmap.h"

#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS /* Linux 6.6 */
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS      SECCOMP_IOW(4, __u64)
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (1UL << 0)
#endif

struct map_guard_question {
	uint64_t id;
	pid_t tid;
	struct seccomp_data data;
};

/* A mapping that is asked for. */
struct wish {
	uint64_t address;
	struct frame_run run;
};

static int find_client(struct map_guard *guard)
{
	for (unsigned int i = 0; i < LEDGER_CLIENTS_MAX; i++) {
		struct ledger_client *client = ledger_client(guard->ledger, i);

		if (client->id == 0 || client->pid != guard->config.pid)
			continue;
		guard->client = client;
		guard->id = client->id;
		return 0;
	}
	return -ENOENT;
}

int map_guard_open(struct map_guard *guard, const struct map_guard_config *config,
		   struct error *err)
{
	char path[RUNDIR_PATH_MAX];

	guard->config = *config;
	if (rundir_join(path, LEDGER_FILE, err) < 0)
		return -EINVAL;
	guard->ledger = ledger_join(path);
	if (!guard->ledger || find_client(guard) < 0 || config->nr_pool < 0 ||
	    (unsigned int)config->nr_pool > ledger_pool(guard->ledger)->nr_nodes) {
		map_guard_close(guard);
		return error_set(err, EACCES, "the pool's ledger cannot be used");
	}
	guard->queue = calloc(MAP_GUARD_QUEUE, sizeof(*guard->queue));
	guard->maps_fd = guard->queue ? procmap_open(config->pid) : -ENOMEM;
	if (guard->maps_fd < 0) {
		int ret = guard->maps_fd;

		map_guard_close(guard);
		return error_set_errno(err, -ret, "the kernel does not say what is mapped");
	}
	return 0;
}

void map_guard_close(struct map_guard *guard)
{
	if (guard->listener >= 0)
		close(guard->listener);
	if (guard->maps_fd >= 0)
		close(guard->maps_fd);
	ledger_close(guard->ledger, false);
	free(guard->queue);
	*guard = (struct map_guard)MAP_GUARD_NONE;
}

/* --- what is mapped --- */

static bool has_frame(const struct map_guard *guard, uint64_t address, unsigned int node,
		      uint64_t frame)
{
	const struct ledger_node *about = &ledger_pool(guard->ledger)->node[node];
	struct procmap map;

	return procmap_query(guard->maps_fd, address, false, &map) == 0 && map.ino == about->ino &&
	       map.dev == about->dev &&
	       map.offset + (address - map.start) == frames_to_bytes(frame);
}

static bool is_there(const struct map_guard *guard, const struct wish *wish)
{
	return has_frame(guard, wish->address, wish->run.node, wish->run.first);
}

static uint64_t place_address(const struct map_guard *guard, uint32_t place)
{
	return guard->config.window + frames_to_bytes(place - UINT64_C(1));
}

static void set_places(struct map_guard *guard, const struct wish *wish)
{
	uint32_t *places = ledger_places(guard->ledger, wish->run.node);
	uint32_t place = (uint32_t)bytes_to_frames(wish->address - guard->config.window) + 1;

	if (wish->address >= guard->config.views)
		return;
	for (uint32_t i = 0; i < wish->run.nr; i++)
		__atomic_store_n(&places[wish->run.first + i], place + i, __ATOMIC_SEQ_CST);
}

/* What was mapped before anybody asked. */
static void note_mapped(struct map_guard *guard, const struct procmap *map)
{
	const struct ledger_pool *pool = ledger_pool(guard->ledger);
	struct wish wish = { .address = map->start };

	for (unsigned int i = 0; i < pool->nr_nodes; i++) {
		if (pool->node[i].ino != map->ino || pool->node[i].dev != map->dev)
			continue;
		wish.run = (struct frame_run){
			.first = bytes_to_frames(map->offset),
			.nr = (uint32_t)bytes_to_frames(map->end - map->start),
			.node = (uint16_t)i,
		};
		set_places(guard, &wish);
	}
}

void map_guard_begin(struct map_guard *guard, int listener)
{
	const struct map_guard_config *config = &guard->config;
	struct ledger_maps *maps = &guard->client->maps;
	uint64_t address = config->window;
	struct procmap map;

	guard->listener = listener;
	fcntl(listener, F_SETFD, FD_CLOEXEC);
	/* Who asks sleeps until it is answered: both may be on one CPU. */
	ioctl(listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP);
	while (address < config->views && procmap_query(guard->maps_fd, address, true, &map) == 0 &&
	       map.start < config->views) {
		note_mapped(guard, &map);
		address = map.end;
	}
	maps->window = config->window;
	maps->views = config->views;
	maps->end = config->end;
	__atomic_store_n(&maps->checked, 1, __ATOMIC_SEQ_CST);
}

/* --- what may be mapped --- */

static int understand(const struct map_guard *guard, const struct seccomp_data *data,
		      struct wish *wish)
{
	const struct map_guard_config *config = &guard->config;
	uint64_t address = data->args[0], len = data->args[1], prot = data->args[2];
	uint64_t flags = data->args[3], offset = data->args[5];
	int node = (int)(uint32_t)data->args[4] - config->guarded;

	if (data->nr != SYS_mmap || node < 0 || node >= config->nr_pool ||
	    prot & ~(uint64_t)(PROT_READ | PROT_WRITE) ||
	    (flags & ~(uint64_t)MAP_POPULATE) != (MAP_SHARED | MAP_FIXED))
		return -EPERM;
	if (len == 0 || (address | len | offset) & (FRAME_SIZE - 1) || address < config->window ||
	    address >= config->end || len > config->end - address ||
	    (address < config->views && len > config->views - address))
		return -EPERM;
	*wish = (struct wish){
		.address = address,
		.run = { .first = bytes_to_frames(offset),
			 .nr = (uint32_t)bytes_to_frames(len),
			 .node = (uint16_t)node },
	};
	if (wish->run.first >= ledger_pool(guard->ledger)->node[node].spanned ||
	    wish->run.nr > ledger_pool(guard->ledger)->node[node].spanned - wish->run.first)
		return -EPERM;
	return 0;
}

static int may_map(const struct map_guard *guard, const struct wish *wish)
{
	const uint32_t *owners = ledger_owners(guard->ledger, wish->run.node);
	const uint32_t *places = ledger_places(guard->ledger, wish->run.node);
	uint64_t first = wish->run.first;

	for (uint64_t i = first; i < first + wish->run.nr; i++) {
		if (__atomic_load_n(&owners[i], __ATOMIC_SEQ_CST) != guard->id)
			return -EPERM;
		/* In one place of the window only, so that the owner knows where to look. */
		if (wish->address < guard->config.views && places[i] &&
		    place_address(guard, places[i]) != wish->address + frames_to_bytes(i - first) &&
		    has_frame(guard, place_address(guard, places[i]), wish->run.node, i))
			return -EPERM;
	}
	return 0;
}

/* Whether the thread is certainly not in the call any more, although nothing is mapped. */
static bool left_call(pid_t tid)
{
	char path[40], text[32] = "";
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/syscall", tid);
	file = fopen(path, "re");
	if (!file)
		return errno == ENOENT; /* the thread has ended */
	if (!fgets(text, sizeof(text), file))
		text[0] = '\0';
	(void)fclose(file);
	/* "running", or the number of the call that it waits in. */
	return text[0] == '-' || (text[0] >= '0' && text[0] <= '9' && atoi(text) != SYS_mmap);
}

/* Returns 0 with one more in the queue, -EAGAIN when nobody asks, or -ESRCH when nobody is left. */
static int receive(struct map_guard *guard)
{
	struct pollfd fd = { .fd = guard->listener, .events = POLLIN };
	/* Larger than the kernel's structure, whatever that grows to. */
	union {
		struct seccomp_notif notif;
		char room[512];
	} got = { .room = { 0 } };

	if (guard->nr_queued == MAP_GUARD_QUEUE || poll(&fd, 1, 0) <= 0)
		return -EAGAIN;
	if (!(fd.revents & POLLIN))
		return -ESRCH;
	if (ioctl(guard->listener, SECCOMP_IOCTL_NOTIF_RECV, &got) < 0)
		return -EAGAIN; /* interrupted before we looked */
	guard->queue[guard->nr_queued++] = (struct map_guard_question){
		.id = got.notif.id,
		.tid = (pid_t)got.notif.pid,
		.data = got.notif.data,
	};
	return 0;
}

static bool asks_again(struct map_guard *guard, pid_t tid)
{
	while (receive(guard) == 0)
		;
	for (unsigned int i = 0; i < guard->nr_queued; i++) {
		if (guard->queue[i].tid == tid)
			return true;
	}
	return false;
}

/*
 * Until the call that was allowed is over. No other one is allowed before: so what is there has
 * been mapped by it, unless it was there before. Else the thread must have been seen elsewhere.
 */
static void wait_until_mapped(struct map_guard *guard, const struct wish *wish, bool before,
			      pid_t tid)
{
	unsigned int delay = 1;

	for (unsigned int i = 0;; i++) {
		if (!before && is_there(guard, wish))
			return;
		if (!before && i < 8)
			continue;
		if (asks_again(guard, tid) || left_call(tid))
			return;
		usleep(delay);
		if (delay < 1000)
			delay *= 2;
	}
}

static int answer(const struct map_guard *guard, uint64_t id, int error)
{
	union {
		struct seccomp_notif_resp resp;
		char room[512];
	} reply = { .room = { 0 } };

	reply.resp.id = id;
	reply.resp.error = error;
	if (!error)
		reply.resp.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
	return ioctl(guard->listener, SECCOMP_IOCTL_NOTIF_SEND, &reply) < 0 ? -errno : 0;
}

static void serve_one(struct map_guard *guard, const struct map_guard_question *question)
{
	struct ledger_maps *maps = &guard->client->maps;
	struct wish wish;
	int ret = understand(guard, &question->data, &wish);
	bool before;

	if (ret < 0) {
		answer(guard, question->id, ret);
		return;
	}
	/* First say which, then look: the owner does it the other way round (map_check.h). */
	maps->run = wish.run;
	__atomic_store_n(&maps->busy, 1, __ATOMIC_SEQ_CST);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	ret = may_map(guard, &wish);
	before = ret == 0 && is_there(guard, &wish);
	if (ret == 0)
		set_places(guard, &wish);
	/* One that was interrupted before the answer is asked anew, or not made at all. */
	if (answer(guard, question->id, ret) == 0 && ret == 0)
		wait_until_mapped(guard, &wish, before, question->tid);
	__atomic_store_n(&maps->busy, 0, __ATOMIC_SEQ_CST);
}

int map_guard_serve(struct map_guard *guard)
{
	int ret = receive(guard);

	while (guard->nr_queued) {
		struct map_guard_question question = guard->queue[0];

		memmove(guard->queue, guard->queue + 1, --guard->nr_queued * sizeof(*guard->queue));
		serve_one(guard, &question);
	}
	return ret == -ESRCH ? ret : 0;
}
