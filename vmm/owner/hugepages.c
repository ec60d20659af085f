/* SPDX-License-Identifier: MIT */
/* The host's hugepages: see hugepages.h and Documentation/admin-guide/mm/hugetlbpage.rst of Linux.
 */
#include "vmm/owner/hugepages.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "framevisor/frame.h"

#define LOCK_WAIT_MS 2000
#define LOCK_STEP_MS 10

#define PATH_LEN (HUGEPAGES_PATH_MAX + 96)

enum hugepages_file { NR_HUGEPAGES, FREE_HUGEPAGES, RESV_HUGEPAGES, SURPLUS_HUGEPAGES };

static const char *const file_names[] = {
	[NR_HUGEPAGES] = "nr_hugepages",
	[FREE_HUGEPAGES] = "free_hugepages",
	[RESV_HUGEPAGES] = "resv_hugepages",
	[SURPLUS_HUGEPAGES] = "surplus_hugepages",
};

static void node_path(const struct hugepages *hp, unsigned int nid, enum hugepages_file file,
		      char *path)
{
	snprintf(path, PATH_LEN, "%s/sys/devices/system/node/node%u/hugepages/hugepages-%ukB/%s",
		 hp->root, nid, hp->page_kb, file_names[file]);
}

static void global_path(const struct hugepages *hp, enum hugepages_file file, char *path)
{
	snprintf(path, PATH_LEN, "%s/sys/kernel/mm/hugepages/hugepages-%ukB/%s", hp->root,
		 hp->page_kb, file_names[file]);
}

/* vm.nr_hugepages counts pages of the default size, which need not be ours. */
static bool sysctl_path(const struct hugepages *hp, char *path)
{
	char meminfo[PATH_LEN];
	uint64_t size;

	snprintf(path, PATH_LEN, "%s/proc/sys/vm/nr_hugepages", hp->root);
	snprintf(meminfo, PATH_LEN, "%s/proc/meminfo", hp->root);
	return host_meminfo(meminfo, "Hugepagesize", &size) == 0 && size == (uint64_t)hp->page_kb
										    << 10;
}

/* A node's count; on a machine with one node the global files will do (kernels without NUMA). */
static int read_count(const struct hugepages *hp, unsigned int nid, enum hugepages_file file,
		      uint64_t *value)
{
	char path[PATH_LEN];
	int ret;

	node_path(hp, nid, file, path);
	ret = host_read_u64(path, value);
	if (ret == 0 || hp->nr_nodes > 1)
		return ret;
	global_path(hp, file, path);
	return host_read_u64(path, value);
}

/*
 * What is written to nr_hugepages is a number of persistent pages; what is read from it includes
 * the surplus, for example pages of a dead owner that its last VM still uses. A raise turns those
 * into persistent ones first, so only the persistent number says what has to be lowered again.
 */
static int read_persistent(const struct hugepages *hp, unsigned int nid, uint64_t *persistent,
			   uint64_t *total)
{
	uint64_t surplus;
	int ret = read_count(hp, nid, NR_HUGEPAGES, total);

	if (ret < 0)
		return ret;
	if (read_count(hp, nid, SURPLUS_HUGEPAGES, &surplus) < 0 || surplus > *total)
		surplus = 0;
	*persistent = *total - surplus;
	return 0;
}

static int write_nr(const struct hugepages *hp, unsigned int nid, uint64_t value)
{
	char path[PATH_LEN];
	int ret;

	node_path(hp, nid, NR_HUGEPAGES, path);
	ret = host_write_u64(path, value);
	if (ret == 0 || hp->nr_nodes > 1)
		return ret;
	global_path(hp, NR_HUGEPAGES, path);
	ret = host_write_u64(path, value);
	/* In a container /sys may be read-only where the sysctl is not. */
	if (ret < 0 && sysctl_path(hp, path))
		ret = host_write_u64(path, value);
	return ret;
}

static void read_boot_id(const struct hugepages *hp, char *id, size_t len)
{
	char path[PATH_LEN];
	FILE *file;

	snprintf(path, sizeof(path), "%s/proc/sys/kernel/random/boot_id", hp->root);
	file = fopen(path, "re");
	if (!file || !fgets(id, (int)len, file))
		snprintf(id, len, "unknown");
	id[strcspn(id, "\n")] = '\0';
	if (file)
		(void)fclose(file);
}

/*
 * The record: the boot it belongs to (hugepages do not outlive one), then a line per node. It is
 * replaced as a whole, so that a reader sees the old or the new one.
 */
static int write_record(const struct hugepages *hp)
{
	char temp[HUGEPAGES_PATH_MAX + 8], boot_id[64];
	FILE *file;
	bool failed;

	snprintf(temp, sizeof(temp), "%s.new", hp->record);
	file = fopen(temp, "we");
	if (!file)
		return -errno;
	read_boot_id(hp, boot_id, sizeof(boot_id));
	failed = fprintf(file, "boot %s pages %u\n", boot_id, hp->page_kb) < 0;
	for (unsigned int i = 0; i < hp->nr_nodes; i++) {
		const struct hugepages_node *node = &hp->node[i];

		if (node->raised || node->pending)
			failed |= fprintf(file,
					  "node %u raised %" PRIu64 " pending %" PRIu64
					  " before %" PRIu64 "\n",
					  node->nid, node->raised, node->pending, node->before) < 0;
	}
	failed |= fclose(file) != 0;
	if (failed || rename(temp, hp->record) < 0) {
		unlink(temp);
		return -EIO;
	}
	return 0;
}

static void lower_node(const struct hugepages *hp, unsigned int nid, uint64_t nr)
{
	uint64_t now, total;

	if (nr == 0 || read_persistent(hp, nid, &now, &total) < 0)
		return;
	write_nr(hp, nid, now > nr ? now - nr : 0);
}

/* How much of an interrupted raise took place: what the node has more than before it. */
static uint64_t settle_pending(const struct hugepages *hp, const struct hugepages_node *node)
{
	uint64_t now, total;

	if (!node->pending || read_persistent(hp, node->nid, &now, &total) < 0 ||
	    now <= node->before)
		return 0;
	return now - node->before < node->pending ? now - node->before : node->pending;
}

static struct hugepages_node *find_node(struct hugepages *hp, unsigned int nid)
{
	for (unsigned int i = 0; i < hp->nr_nodes; i++) {
		if (hp->node[i].nid == nid)
			return &hp->node[i];
	}
	return NULL;
}

/* The record's first line: whether it is of this boot; *page_kb is the size of its pages, which
 * records of older owners do not tell. */
static bool record_counts(const struct hugepages *hp, FILE *file, unsigned int *page_kb)
{
	char line[160], boot_id[64], then[64];

	read_boot_id(hp, boot_id, sizeof(boot_id));
	*page_kb = FRAME_SIZE_2M >> 10;
	return fgets(line, sizeof(line), file) &&
	       sscanf(line, "boot %63s pages %u", then, page_kb) >= 1 && strcmp(boot_id, then) == 0;
}

/* What the record says was raised is lowered again, or (adopt) is ours from now on. A killed owner
 * may have had frames of another size. */
static uint64_t recover(struct hugepages *hp, bool adopt)
{
	unsigned int own_kb = hp->page_kb;
	FILE *file = fopen(hp->record, "re");
	uint64_t total = 0;
	char line[160];

	if (!file)
		return 0;
	if (record_counts(hp, file, &hp->page_kb)) {
		while (fgets(line, sizeof(line), file)) {
			struct hugepages_node node, *ours;
			uint64_t nr;

			if (sscanf(line,
				   "node %u raised %" SCNu64 " pending %" SCNu64 " before %" SCNu64,
				   &node.nid, &node.raised, &node.pending, &node.before) != 4)
				continue;
			nr = node.raised + settle_pending(hp, &node);
			ours = adopt ? find_node(hp, node.nid) : NULL;
			if (ours)
				ours->raised += nr;
			else
				lower_node(hp, node.nid, nr);
			total += nr;
		}
	}
	(void)fclose(file);
	hp->page_kb = own_kb;
	if (adopt && hugepages_raised(hp))
		write_record(hp);
	else
		unlink(hp->record);
	return total;
}

static int prepare(struct hugepages *hp, const struct host *host, const char *root,
		   const char *record, struct error *err)
{
	memset(hp, 0, sizeof(*hp));
	hp->lock_fd = -1;
	hp->page_kb = (unsigned int)(FRAME_SIZE >> 10);
	if (snprintf(hp->record, sizeof(hp->record), "%s", record) >= (int)sizeof(hp->record) ||
	    snprintf(hp->root, sizeof(hp->root), "%s", root) >= (int)sizeof(hp->root))
		return error_set(err, ENAMETOOLONG, "path '%s' is too long", record);
	hp->nr_nodes = host->nr_nodes;
	for (unsigned int i = 0; i < hp->nr_nodes; i++)
		hp->node[i].nid = host->node[i].nid;
	return 0;
}

int hugepages_init(struct hugepages *hp, const struct host *host, const char *root,
		   const char *record, uint64_t *returned, struct error *err)
{
	int ret = prepare(hp, host, root, record, err);
	uint64_t recovered;

	if (ret < 0)
		return ret;
	hugepages_lock(hp);
	recovered = recover(hp, false);
	hugepages_unlock(hp);
	if (returned)
		*returned = recovered;
	return 0;
}

int hugepages_adopt(struct hugepages *hp, const struct host *host, const char *record,
		    struct error *err)
{
	int ret = prepare(hp, host, "", record, err);

	if (ret < 0)
		return ret;
	hugepages_lock(hp);
	recover(hp, true);
	hugepages_unlock(hp);
	return 0;
}

bool hugepages_supported(const struct hugepages *hp)
{
	uint64_t nr;

	return read_count(hp, hp->node[0].nid, NR_HUGEPAGES, &nr) == 0;
}

bool hugepages_may_raise(const struct hugepages *hp)
{
	char path[PATH_LEN];

	node_path(hp, hp->node[0].nid, NR_HUGEPAGES, path);
	if (access(path, W_OK) == 0)
		return true;
	if (hp->nr_nodes > 1)
		return false;
	global_path(hp, NR_HUGEPAGES, path);
	if (access(path, W_OK) == 0)
		return true;
	return sysctl_path(hp, path) && access(path, W_OK) == 0;
}

void hugepages_lock(struct hugepages *hp)
{
	char path[PATH_LEN];

	global_path(hp, NR_HUGEPAGES, path);
	hp->lock_fd = open(path, O_RDONLY | O_CLOEXEC);
	for (int waited = 0; hp->lock_fd >= 0 && waited < LOCK_WAIT_MS; waited += LOCK_STEP_MS) {
		if (flock(hp->lock_fd, LOCK_EX | LOCK_NB) == 0)
			return;
		usleep(LOCK_STEP_MS * 1000);
	}
}

void hugepages_unlock(struct hugepages *hp)
{
	if (hp->lock_fd >= 0)
		close(hp->lock_fd);
	hp->lock_fd = -1;
}

uint64_t hugepages_usable(const struct hugepages *hp, unsigned int i)
{
	char path[PATH_LEN];
	uint64_t nr, reserved = 0;

	if (read_count(hp, hp->node[i].nid, FREE_HUGEPAGES, &nr) < 0)
		return 0;
	/* Reservations are counted for the machine only: any node may have to serve them. */
	global_path(hp, RESV_HUGEPAGES, path);
	if (host_read_u64(path, &reserved) < 0)
		reserved = 0;
	return nr > reserved ? nr - reserved : 0;
}

uint64_t hugepages_raise(struct hugepages *hp, unsigned int i, uint64_t nr)
{
	struct hugepages_node *node = &hp->node[i];
	uint64_t before, after, total_before, total_after;

	if (nr == 0 || read_persistent(hp, node->nid, &before, &total_before) < 0)
		return 0;
	node->pending = total_before + nr - before;
	node->before = before;
	/* Without a record nobody could give them back after us. */
	if (write_record(hp) < 0) {
		node->pending = 0;
		return 0;
	}
	write_nr(hp, node->nid, total_before + nr);
	if (read_persistent(hp, node->nid, &after, &total_after) < 0) {
		after = before;
		total_after = total_before;
	}
	if (after > before)
		node->raised += after - before < node->pending ? after - before : node->pending;
	node->pending = 0;
	if (hugepages_raised(hp))
		write_record(hp);
	else
		unlink(hp->record);
	if (total_after <= total_before)
		return 0;
	return total_after - total_before < nr ? total_after - total_before : nr;
}

void hugepages_lower(struct hugepages *hp, unsigned int i, uint64_t nr)
{
	struct hugepages_node *node = &hp->node[i];

	if (nr > node->raised)
		nr = node->raised;
	if (nr == 0)
		return;
	lower_node(hp, node->nid, nr);
	node->raised -= nr;
	if (hugepages_raised(hp))
		write_record(hp);
	else
		unlink(hp->record);
}

void hugepages_give_back(struct hugepages *hp)
{
	for (unsigned int i = 0; i < hp->nr_nodes; i++)
		hugepages_lower(hp, i, hp->node[i].raised);
}

uint64_t hugepages_raised(const struct hugepages *hp)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < hp->nr_nodes; i++)
		sum += hp->node[i].raised;
	return sum;
}
