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
#include "framevisor/log.h"

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
	if (ret == 0 || !hp->one_node)
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
	if (ret == 0 || !hp->one_node)
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

/* How much of an interrupted raise took place: what the node has more than before it. An
 * interrupted lowering reads the same way: what is still to be lowered. */
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

/* Returns what to close afterwards, or -1. */
static int take_lock(const struct hugepages *hp, enum hugepages_file file)
{
	char path[PATH_LEN];
	int fd;

	global_path(hp, file, path);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	for (int waited = 0; fd >= 0 && waited < LOCK_WAIT_MS; waited += LOCK_STEP_MS) {
		if (flock(fd, LOCK_EX | LOCK_NB) == 0)
			return fd;
		usleep(LOCK_STEP_MS * 1000);
	}
	if (fd >= 0)
		log_warn("somebody has held the lock of the host's hugepages for more than %d s; "
			 "going on without it",
			 LOCK_WAIT_MS / 1000);
	return fd;
}

/*
 * A number that is read, changed and written: two owners at the same time would lose each other's
 * change. Of its own, and held for that only, since the other lock is held for as long as somebody
 * fills a pool, longer than anybody waits.
 */
static int lock_number(const struct hugepages *hp)
{
	return take_lock(hp, FREE_HUGEPAGES);
}

static void unlock_number(int fd)
{
	if (fd >= 0)
		close(fd);
}

/* What a killed owner left on each node, by what its record says. Its frames may have been of
 * another size. False: it has nothing to say. */
static bool read_record(const struct hugepages *hp, struct hugepages *dead)
{
	FILE *file = fopen(hp->record, "re");
	char line[160];

	*dead = *hp;
	dead->nr_nodes = 0;
	if (!file)
		return false;
	if (record_counts(hp, file, &dead->page_kb)) {
		while (dead->nr_nodes < OWNER_NODES_MAX && fgets(line, sizeof(line), file)) {
			struct hugepages_node *node = &dead->node[dead->nr_nodes];

			if (sscanf(line,
				   "node %u raised %" SCNu64 " pending %" SCNu64 " before %" SCNu64,
				   &node->nid, &node->raised, &node->pending, &node->before) == 4)
				dead->nr_nodes++;
		}
	}
	(void)fclose(file);
	return true;
}

/* How many pages are raised now is what the record is to say; none is said by its absence. */
static void update_record(const struct hugepages *hp)
{
	if (hugepages_raised(hp))
		write_record(hp);
	else
		unlink(hp->record);
}

/*
 * What the record says was raised is lowered again, or (adopt) is ours from now on. The record
 * follows each step: this owner may be killed on the way, too. What cannot be lowered becomes ours,
 * so that it is tried again; only pages of another size have no place in our record.
 */
static uint64_t recover(struct hugepages *hp, bool adopt)
{
	struct hugepages dead;
	uint64_t total = 0;

	if (!read_record(hp, &dead))
		return 0;
	for (unsigned int i = 0; i < dead.nr_nodes; i++) {
		dead.node[i].raised += settle_pending(&dead, &dead.node[i]);
		dead.node[i].pending = 0;
	}
	for (unsigned int i = 0; i < dead.nr_nodes; i++) {
		struct hugepages_node *node = &dead.node[i], *ours = find_node(hp, node->nid);
		uint64_t nr = node->raised;

		if (!adopt || !ours)
			hugepages_lower(&dead, i, nr);
		total += adopt && ours ? nr : nr - node->raised;
		if (ours && (adopt || dead.page_kb == hp->page_kb))
			ours->raised += node->raised;
	}
	/* As long as there is nothing else to write down it may say what nobody could lower. */
	if (hugepages_raised(hp) || adopt || !hugepages_raised(&dead))
		update_record(hp);
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
	hp->one_node = host->nr_nodes == 1;
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
	if (!hp->one_node)
		return false;
	global_path(hp, NR_HUGEPAGES, path);
	if (access(path, W_OK) == 0)
		return true;
	return sysctl_path(hp, path) && access(path, W_OK) == 0;
}

void hugepages_lock(struct hugepages *hp)
{
	hp->lock_fd = take_lock(hp, NR_HUGEPAGES);
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

static uint64_t raise_locked(struct hugepages *hp, unsigned int i, uint64_t nr)
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
	update_record(hp);
	if (total_after <= total_before)
		return 0;
	return total_after - total_before < nr ? total_after - total_before : nr;
}

uint64_t hugepages_raise(struct hugepages *hp, unsigned int i, uint64_t nr)
{
	int lock = lock_number(hp);
	uint64_t came = raise_locked(hp, i, nr);

	unlock_number(lock);
	return came;
}

/* The record says first what is going on, as with a raise: whoever comes after a kill in between
 * sees by the node's count whether these pages are gone already. */
static int lower_recorded(struct hugepages *hp, struct hugepages_node *node, uint64_t nr)
{
	uint64_t now, total;
	int ret = read_persistent(hp, node->nid, &now, &total);

	if (ret < 0)
		return ret;
	node->raised -= nr;
	node->pending = nr;
	node->before = now > nr ? now - nr : 0;
	ret = write_record(hp);
	/* Without an old record there is none that could have them lowered again. */
	if (ret == 0 || access(hp->record, F_OK) < 0)
		ret = write_nr(hp, node->nid, node->before);
	node->pending = 0;
	if (ret < 0)
		node->raised += nr;
	update_record(hp);
	return ret;
}

int hugepages_lower(struct hugepages *hp, unsigned int i, uint64_t nr)
{
	struct hugepages_node *node = &hp->node[i];
	int lock, ret;

	if (nr > node->raised)
		nr = node->raised;
	if (nr == 0)
		return 0;
	lock = lock_number(hp);
	ret = lower_recorded(hp, node, nr);
	unlock_number(lock);
	if (ret < 0)
		log_warn("cannot give %" PRIu64 " hugepages of node %u back now: %s", nr, node->nid,
			 strerror(-ret));
	return ret;
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
