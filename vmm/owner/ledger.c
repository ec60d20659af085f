/* SPDX-License-Identifier: MIT */
/* The tables that outlive an owner: see ledger.h. */
#include "vmm/owner/ledger.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC   UINT64_C(0x72656764656c5646) /* "FVledger" */
#define VERSION 2

/* Frames of a node: far beyond any machine, and sums of them far from overflow. */
#define SPAN_MAX (UINT64_C(1) << 36)

struct ledger_file {
	uint64_t magic; /* written last */
	uint32_t version;
	uint32_t reserved;
	char boot_id[48];
	struct ledger_pool pool;
	struct ledger_client client[LEDGER_CLIENTS_MAX];
	/* Then for each node: its owners and places (uint32_t per frame each), its present map (a
	 * byte). */
};

struct ledger {
	struct ledger_file *file;
	uint64_t size;
	char path[256];
	uint32_t *owners[OWNER_NODES_MAX];
	uint32_t *places[OWNER_NODES_MAX];
	uint8_t *present[OWNER_NODES_MAX];
};

#define FRAME_BYTES (2 * sizeof(uint32_t) + 1)

static uint64_t round_up(uint64_t size)
{
	return (size + 4095) & ~UINT64_C(4095);
}

static uint64_t file_size(const struct ledger_pool *pool)
{
	uint64_t size = round_up(sizeof(struct ledger_file));

	for (unsigned int i = 0; i < pool->nr_nodes; i++)
		size += round_up(pool->node[i].spanned * FRAME_BYTES);
	return size;
}

/* Returns 0 or a negative errno. */
static int read_boot_id(char *id, size_t len)
{
	FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");
	int ret = file ? 0 : -errno;

	memset(id, 0, len);
	if (file && !fgets(id, (int)len, file))
		id[0] = '\0';
	if (file)
		(void)fclose(file);
	return ret;
}

static int map(struct ledger *ledger, int fd, uint64_t size)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (at == MAP_FAILED)
		return -errno;
	ledger->file = at;
	ledger->size = size;
	return 0;
}

static void place_nodes(struct ledger *ledger)
{
	char *at = (char *)ledger->file + round_up(sizeof(*ledger->file));

	for (unsigned int i = 0; i < ledger->file->pool.nr_nodes; i++) {
		uint64_t spanned = ledger->file->pool.node[i].spanned;

		ledger->owners[i] = (uint32_t *)(void *)at;
		ledger->places[i] = ledger->owners[i] + spanned;
		ledger->present[i] = (uint8_t *)(ledger->places[i] + spanned);
		at += round_up(spanned * FRAME_BYTES);
	}
}

/* Whether it is a ledger of this boot and of this layout. Who may write it may do all that we may.
 */
static bool usable(const struct ledger *ledger, const char *boot_id)
{
	const struct ledger_file *file = ledger->file;

	if (ledger->size < sizeof(*file) || file->magic != MAGIC || file->version != VERSION ||
	    memcmp(file->boot_id, boot_id, sizeof(file->boot_id)) != 0 ||
	    file->pool.nr_nodes == 0 || file->pool.nr_nodes > OWNER_NODES_MAX)
		return false;
	for (unsigned int i = 0; i < file->pool.nr_nodes; i++) {
		if (file->pool.node[i].spanned > SPAN_MAX)
			return false;
	}
	return file_size(&file->pool) == ledger->size;
}

static bool somebody_lives(struct ledger *ledger)
{
	for (unsigned int i = 0; i < LEDGER_CLIENTS_MAX; i++) {
		if (ledger_client_lives(ledger_client(ledger, i)))
			return true;
	}
	return false;
}

/* Maps the file. Returns 0, 1 if it is no ledger that is of use here, or a negative errno. */
static int join(struct ledger *ledger, const char *path)
{
	char boot_id[sizeof(ledger->file->boot_id)];
	int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW), ret = 0;
	struct stat st;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0)
		ret = -errno;
	else if (st.st_size < (off_t)sizeof(*ledger->file))
		ret = 1;
	else
		ret = map(ledger, fd, (uint64_t)st.st_size);
	close(fd);
	if (ret == 0)
		ret = read_boot_id(boot_id, sizeof(boot_id));
	if (ret == 0)
		ret = !usable(ledger, boot_id);
	if (ret)
		return ret;
	snprintf(ledger->path, sizeof(ledger->path), "%s", path);
	place_nodes(ledger);
	return 0;
}

struct ledger *ledger_join(const char *path)
{
	struct ledger *ledger = calloc(1, sizeof(*ledger));
	int ret = ledger ? join(ledger, path) : -ENOMEM;

	if (ret == 0)
		return ledger;
	ledger_close(ledger, false);
	errno = ret < 0 ? -ret : 0;
	return NULL;
}

int ledger_open(const char *path, struct ledger **ledger, struct error *err)
{
	*ledger = ledger_join(path);
	if (*ledger && somebody_lives(*ledger))
		return 0;
	/* VMs may live that it knows: without it they would lose their pool for good. */
	if (!*ledger && errno != 0 && errno != ENOENT && errno != ELOOP)
		return error_set_errno(err, errno, "cannot open the ledger '%s'", path);
	ledger_close(*ledger, false);
	*ledger = NULL;
	unlink(path);
	return 0;
}

struct ledger *ledger_create(const char *path, const struct ledger_pool *pool, struct error *err)
{
	struct ledger *ledger = calloc(1, sizeof(*ledger));
	uint64_t size = file_size(pool);
	int fd, ret = 0;

	if (!ledger) {
		error_set(err, ENOMEM, "no memory for the ledger");
		return NULL;
	}
	unlink(path);
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	/* With its memory: a full file system must be an error here, not a SIGBUS later. */
	if (fd < 0)
		ret = errno;
	else
		ret = posix_fallocate(fd, 0, (off_t)size);
	if (ret == 0)
		ret = -map(ledger, fd, size);
	if (fd >= 0)
		close(fd);
	if (ret) {
		unlink(path);
		free(ledger);
		error_set_errno(err, ret, "cannot create the ledger '%s'", path);
		return NULL;
	}
	snprintf(ledger->path, sizeof(ledger->path), "%s", path);
	(void)read_boot_id(ledger->file->boot_id, sizeof(ledger->file->boot_id));
	ledger->file->version = VERSION;
	ledger->file->pool = *pool;
	__atomic_store_n(&ledger->file->magic, MAGIC, __ATOMIC_RELEASE);
	place_nodes(ledger);
	return ledger;
}

void ledger_close(struct ledger *ledger, bool remove)
{
	if (!ledger)
		return;
	if (remove)
		unlink(ledger->path);
	if (ledger->file)
		munmap(ledger->file, ledger->size);
	free(ledger);
}

struct ledger_pool *ledger_pool(struct ledger *ledger)
{
	return &ledger->file->pool;
}

uint32_t *ledger_owners(struct ledger *ledger, unsigned int nid)
{
	return ledger->owners[nid];
}

uint32_t *ledger_places(struct ledger *ledger, unsigned int nid)
{
	return ledger->places[nid];
}

uint8_t *ledger_present(struct ledger *ledger, unsigned int nid)
{
	return ledger->present[nid];
}

struct ledger_client *ledger_client(struct ledger *ledger, unsigned int i)
{
	return &ledger->file->client[i];
}

struct ledger_client *ledger_client_new(struct ledger *ledger)
{
	for (unsigned int i = 0; i < LEDGER_CLIENTS_MAX; i++) {
		struct ledger_client *client = ledger_client(ledger, i);

		if (client->id)
			continue;
		memset(client, 0, sizeof(*client));
		return client;
	}
	return NULL;
}

/* The 22nd field of /proc/PID/stat; the second, in parentheses, may hold anything. */
uint64_t ledger_start_time(pid_t pid)
{
	char path[64], text[1024], *at;
	uint64_t start = 0;
	size_t len;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	file = fopen(path, "re");
	if (!file)
		return errno == ENOENT || errno == ESRCH ? 0 : UINT64_MAX;
	errno = 0;
	len = fread(text, 1, sizeof(text) - 1, file);
	if (len == 0 && errno != 0 && errno != ESRCH)
		start = UINT64_MAX;
	(void)fclose(file);
	if (len == 0)
		return start;
	text[len] = '\0';
	at = strrchr(text, ')');
	if (!at || sscanf(at + 1,
			  " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d "
			  "%*d %*d %" SCNu64,
			  &start) != 1)
		return 0;
	/* A process that has ended holds nothing, whether its parent has asked for it or not. */
	return at[2] == 'Z' || at[2] == 'X' ? 0 : start;
}

bool ledger_client_lives(const struct ledger_client *client)
{
	uint64_t start = client->id ? ledger_start_time(client->pid) : 0;

	return start != 0 && (start == client->start_time || start == UINT64_MAX ||
			      client->start_time == UINT64_MAX);
}
