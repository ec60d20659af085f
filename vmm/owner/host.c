/* SPDX-License-Identifier: MIT */
/* The machine under the pool: see host.h. */
#include "vmm/owner/host.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "framevisor/frame.h"

#define LOCAL_DISTANCE  10 /* ACPI SLIT */
#define REMOTE_DISTANCE 20

int host_read_u64(const char *path, uint64_t *value)
{
	char text[32], *end;
	ssize_t len;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	len = read(fd, text, sizeof(text) - 1);
	if (len < 0)
		len = -errno;
	close(fd);
	if (len <= 0)
		return len ? (int)len : -EIO;
	text[len] = '\0';
	errno = 0;
	*value = strtoull(text, &end, 10);
	return errno || end == text ? -EIO : 0;
}

int host_write_u64(const char *path, uint64_t value)
{
	char text[32];
	int len = snprintf(text, sizeof(text), "%" PRIu64, value);
	int fd = open(path, O_WRONLY | O_CLOEXEC | O_TRUNC), ret = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, text, (size_t)len) < 0)
		ret = -errno;
	close(fd);
	return ret;
}

int host_meminfo(const char *path, const char *key, uint64_t *bytes)
{
	FILE *file = fopen(path, "re");
	char line[256];
	size_t len = strlen(key);
	int ret = -ENOENT;

	if (!file)
		return -errno;
	while (ret && fgets(line, sizeof(line), file)) {
		char *name = line;
		unsigned int nid;
		int used = 0;

		/* A node's file puts "Node N " before each name. */
		if (sscanf(line, "Node %u %n", &nid, &used) == 1)
			name = line + used;
		if (strncmp(name, key, len) == 0 && name[len] == ':') {
			*bytes = strtoull(name + len + 1, NULL, 10) << 10;
			ret = 0;
		}
	}
	(void)fclose(file);
	return ret;
}

uint64_t host_own_share(uint64_t total)
{
	uint64_t share = total / 16;

	if (share < UINT64_C(256) << 20)
		share = UINT64_C(256) << 20;
	if (share > UINT64_C(4) << 30)
		share = UINT64_C(4) << 30;
	return share;
}

/* What reclaim would find: free memory, the page cache's files, and half of the slabs that can be
 * shrunk (the kernel's own estimate, MemAvailable, exists only for the whole machine). */
static uint64_t node_available(const char *path)
{
	static const char *const keys[] = { "MemFree", "Active(file)", "Inactive(file)" };
	uint64_t sum = 0, value = 0;

	for (unsigned int i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
		if (host_meminfo(path, keys[i], &value) == 0)
			sum += value;
	}
	if (host_meminfo(path, "SReclaimable", &value) == 0)
		sum += value / 2;
	return sum;
}

static void read_distances(struct host *host, const char *root)
{
	for (unsigned int i = 0; i < host->nr_nodes; i++) {
		char path[PATH_MAX];
		unsigned int all[OWNER_NODES_MAX];
		unsigned int nr = 0;
		FILE *file;

		snprintf(path, sizeof(path), "%s/sys/devices/system/node/node%u/distance", root,
			 host->node[i].nid);
		file = fopen(path, "re");
		/* The file has one number per online node, in the order of their numbers. */
		while (file && nr < OWNER_NODES_MAX && fscanf(file, "%u", &all[nr]) == 1)
			nr++;
		if (file)
			(void)fclose(file);
		for (unsigned int j = 0; j < host->nr_nodes; j++) {
			unsigned int rank = host->node[j].rank;
			unsigned int distance = i == j ? LOCAL_DISTANCE : REMOTE_DISTANCE;

			if (rank < nr && all[rank] >= LOCAL_DISTANCE && all[rank] <= UINT8_MAX)
				distance = all[rank];
			host->distance[i][j] = (uint8_t)distance;
		}
	}
}

/* A node whose list of CPUs is there and empty. */
static bool without_cpus(const char *root, unsigned int nid)
{
	char path[PATH_MAX], line[16] = "";
	bool empty;
	FILE *file;

	snprintf(path, sizeof(path), "%s/sys/devices/system/node/node%u/cpulist", root, nid);
	file = fopen(path, "re");
	if (!file)
		return false;
	empty = !fgets(line, sizeof(line), file) || line[0] == '\n';
	(void)fclose(file);
	return empty;
}

static void read_nodes(struct host *host, const char *root)
{
	unsigned int rank = 0;

	for (unsigned int nid = 0; nid < OWNER_NODES_MAX; nid++) {
		struct host_node *node = &host->node[host->nr_nodes];
		char path[PATH_MAX];

		snprintf(path, sizeof(path), "%s/sys/devices/system/node/node%u/meminfo", root,
			 nid);
		if (host_meminfo(path, "MemTotal", &node->total) < 0)
			continue;
		node->rank = rank++;
		if (node->total == 0) /* CPUs only */
			continue;
		node->nid = nid;
		node->available = node_available(path);
		node->cpuless = without_cpus(root, nid);
		host->nr_nodes++;
	}
}

int host_read(struct host *host, const char *root, struct error *err)
{
	char path[PATH_MAX];
	int ret;

	memset(host, 0, sizeof(*host));
	snprintf(path, sizeof(path), "%s/proc/meminfo", root);
	ret = host_meminfo(path, "MemTotal", &host->total);
	if (ret < 0)
		return error_set_errno(err, -ret, "cannot read the memory size from '%s'", path);
	if (host_meminfo(path, "MemAvailable", &host->available) < 0)
		return error_set(err, ENODATA, "'%s' has no line MemAvailable", path);
	read_nodes(host, root);
	if (host->nr_nodes == 0) { /* a kernel without NUMA */
		host->nr_nodes = 1;
		host->node[0].total = host->total;
		host->node[0].available = host->available;
	}
	read_distances(host, root);
	return 0;
}

uint64_t host_spread(uint64_t want, unsigned int nr, const uint64_t *room, uint64_t *part)
{
	uint64_t left = want;
	bool progress = true;

	memset(part, 0, nr * sizeof(*part));
	while (left && progress) {
		unsigned int open_parts = 0;
		uint64_t share;

		for (unsigned int i = 0; i < nr; i++)
			open_parts += part[i] < room[i];
		progress = open_parts > 0;
		share = progress ? left / open_parts : 0;
		if (share == 0)
			share = 1;
		for (unsigned int i = 0; i < nr && left; i++) {
			uint64_t take = room[i] - part[i];

			if (take > share)
				take = share;
			if (take > left)
				take = left;
			part[i] += take;
			left -= take;
		}
	}
	return want - left;
}
