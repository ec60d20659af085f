/* SPDX-License-Identifier: MIT */
#include "vmm/memory/swap_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "framevisor/log.h"

struct swap_file {
	int fd;
	uint64_t nr_clusters;
	pthread_mutex_t lock;
	uint64_t *used; /* a bit per cluster */
	uint64_t nr_used;
	uint64_t next; /* where the last search ended */
	atomic_int fail_reads, fail_writes;
};

/* --- opening --- */

/* Some file systems (overlayfs, NFS) know no O_TMPFILE. */
static int open_in_directory(const char *dir)
{
	char path[PATH_MAX];
	int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT))
		return fd;
	if ((size_t)snprintf(path, sizeof(path), "%s/framevisor-swap-XXXXXX", dir) >=
	    sizeof(path)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	fd = mkostemp(path, O_CLOEXEC);
	if (fd >= 0)
		unlink(path);
	return fd;
}

static int open_new(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	if (fd >= 0)
		unlink(path);
	return fd;
}

/* What leaves the guest's memory must not come back into the host's as its cache. Not by a flag of
 * open(): where that is refused the file has been made all the same. */
static void set_direct(int fd, const char *path)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_DIRECT) < 0)
		log_warn("swap: '%s' is on a file system without direct I/O: what is swapped out "
			 "goes through the host's page cache",
			 path);
}

static int open_unnamed(const char *path, struct error *err)
{
	struct stat st;
	bool exists = stat(path, &st) == 0;
	int fd;

	if (exists && !S_ISDIR(st.st_mode))
		return error_set(err, EEXIST,
				 "swap: '%s' exists; name a directory, or a file that does not",
				 path);
	fd = exists ? open_in_directory(path) : open_new(path);
	if (fd < 0)
		return error_set_errno(err, errno, "swap: cannot make a file in '%s'", path);
	set_direct(fd, path);
	return fd;
}

struct swap_file *swap_file_open(const char *path, uint64_t bytes, struct error *err)
{
	struct swap_file *file = calloc(1, sizeof(*file));

	if (!file) {
		error_set(err, ENOMEM, "no memory for the swap file");
		return NULL;
	}
	pthread_mutex_init(&file->lock, NULL);
	file->nr_clusters = bytes / SWAP_CLUSTER;
	if (file->nr_clusters > UINT32_MAX)
		file->nr_clusters = UINT32_MAX;
	file->used = calloc(file->nr_clusters / 64 + 1, sizeof(*file->used));
	file->fd = file->used ? open_unnamed(path, err) : -1;
	if (!file->used)
		error_set(err, ENOMEM, "no memory for the swap file");
	if (file->fd < 0) {
		swap_file_close(file);
		return NULL;
	}
	return file;
}

void swap_file_close(struct swap_file *file)
{
	if (!file)
		return;
	if (file->fd >= 0)
		close(file->fd);
	free(file->used);
	pthread_mutex_destroy(&file->lock);
	free(file);
}

/* --- space --- */

static uint64_t clusters_of(uint32_t bytes)
{
	return ((uint64_t)bytes + SWAP_CLUSTER - 1) / SWAP_CLUSTER;
}

static bool is_used(const struct swap_file *file, uint64_t cluster)
{
	return file->used[cluster / 64] >> (cluster % 64) & 1;
}

static void mark(struct swap_file *file, uint64_t cluster, uint64_t nr, bool used)
{
	for (; nr > 0; nr--, cluster++) {
		uint64_t bit = UINT64_C(1) << (cluster % 64);

		if (used)
			file->used[cluster / 64] |= bit;
		else
			file->used[cluster / 64] &= ~bit;
	}
}

/* The first gap of nr clusters that begins in [from, to), or -1. */
static int64_t find_gap(const struct swap_file *file, uint64_t from, uint64_t to, uint64_t nr)
{
	uint64_t run = 0;

	for (uint64_t c = from; c < file->nr_clusters && c < to + nr; c++) {
		run = is_used(file, c) ? 0 : run + 1;
		if (run == nr)
			return (int64_t)(c + 1 - nr);
	}
	return -1;
}

int64_t swap_file_alloc(struct swap_file *file, uint32_t bytes)
{
	uint64_t nr = clusters_of(bytes);
	int64_t cluster;

	pthread_mutex_lock(&file->lock);
	cluster = find_gap(file, file->next, file->nr_clusters, nr);
	if (cluster < 0)
		cluster = find_gap(file, 0, file->next, nr);
	if (cluster >= 0) {
		mark(file, (uint64_t)cluster, nr, true);
		file->nr_used += nr;
		file->next = (uint64_t)cluster + nr;
	}
	pthread_mutex_unlock(&file->lock);
	return cluster < 0 ? -ENOSPC : cluster;
}

void swap_file_free(struct swap_file *file, uint32_t cluster, uint32_t bytes)
{
	uint64_t nr = clusters_of(bytes);

	pthread_mutex_lock(&file->lock);
	mark(file, cluster, nr, false);
	file->nr_used -= nr;
	pthread_mutex_unlock(&file->lock);
}

uint64_t swap_file_used(struct swap_file *file)
{
	uint64_t nr;

	pthread_mutex_lock(&file->lock);
	nr = file->nr_used;
	pthread_mutex_unlock(&file->lock);
	return nr * SWAP_CLUSTER;
}

uint64_t swap_file_size(const struct swap_file *file)
{
	return file->nr_clusters * SWAP_CLUSTER;
}

/* --- reads and writes --- */

void swap_file_fail(struct swap_file *file, int reads, int writes)
{
	atomic_store(&file->fail_reads, reads);
	atomic_store(&file->fail_writes, writes);
}

static bool shall_fail(struct swap_file *file, bool write)
{
	atomic_int *left = write ? &file->fail_writes : &file->fail_reads;
	int value = atomic_load(left);

	if (value > 0)
		atomic_fetch_sub(left, 1);
	return value != 0;
}

/* liburing 2.3 declares functions for these two and does not export them. */
static int ring_register(const struct io_uring *ring, unsigned int opcode, const void *arg,
			 unsigned int nr)
{
	return (int)syscall(SYS_io_uring_register, ring->ring_fd, opcode, arg, nr);
}

/*
 * The ring reads and writes this one file and does nothing else: system calls that a sandbox keeps
 * from a process must not be had through a ring.
 */
static bool restrict_ring(struct io_uring *ring, int fd)
{
	struct io_uring_restriction rules[] = {
		{ .opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_READ },
		{ .opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_WRITE },
		{ .opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED, .sqe_flags = IOSQE_FIXED_FILE },
	};

	if (io_uring_register_files(ring, &fd, 1) != 0 ||
	    ring_register(ring, IORING_REGISTER_RESTRICTIONS, rules,
			  sizeof(rules) / sizeof(rules[0])) != 0)
		return false;
	ring->flags &= ~IORING_SETUP_R_DISABLED;
	return ring_register(ring, IORING_REGISTER_ENABLE_RINGS, NULL, 0) == 0;
}

void swap_queue_init(struct swap_queue *queue, struct swap_file *file)
{
	*queue = (struct swap_queue){ .file = file };
	if (io_uring_queue_init(SWAP_QUEUE_DEPTH, &queue->ring, IORING_SETUP_R_DISABLED) != 0)
		return;
	queue->has_ring = restrict_ring(&queue->ring, file->fd);
	if (!queue->has_ring)
		io_uring_queue_exit(&queue->ring);
}

void swap_queue_exit(struct swap_queue *queue)
{
	if (queue->has_ring)
		io_uring_queue_exit(&queue->ring);
	queue->has_ring = false;
}

static void done(struct swap_queue *queue, struct swap_io *io, int64_t result)
{
	/* The end of the device cut a write short: it is full. */
	if (result >= 0)
		result = result == (int64_t)io->bytes ? 0 : io->write ? -ENOSPC : -EIO;
	io->result = (int)result;
	io->next = queue->done;
	queue->done = io;
}

static int64_t transfer(const struct swap_file *file, const struct swap_io *io)
{
	off_t offset = (off_t)io->cluster * SWAP_CLUSTER;
	ssize_t n = io->write ? pwrite(file->fd, io->buf, io->bytes, offset)
			      : pread(file->fd, io->buf, io->bytes, offset);

	return n < 0 ? -errno : n;
}

void swap_queue_submit(struct swap_queue *queue, struct swap_io *io)
{
	const struct swap_file *file = queue->file;
	uint64_t offset = (uint64_t)io->cluster * SWAP_CLUSTER;
	struct io_uring_sqe *sqe;

	queue->in_flight++;
	if (shall_fail(queue->file, io->write)) {
		done(queue, io, -EIO);
		return;
	}
	sqe = queue->has_ring ? io_uring_get_sqe(&queue->ring) : NULL;
	if (!sqe) {
		done(queue, io, transfer(file, io));
		return;
	}
	if (io->write)
		io_uring_prep_write(sqe, 0, io->buf, io->bytes, offset);
	else
		io_uring_prep_read(sqe, 0, io->buf, io->bytes, offset);
	io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE); /* number 0 */
	io_uring_sqe_set_data(sqe, io);
	/* What is not submitted now is submitted by the wait. */
	io_uring_submit(&queue->ring);
}

struct swap_io *swap_queue_wait(struct swap_queue *queue)
{
	struct io_uring_cqe *cqe;
	struct swap_io *io;
	int ret;

	if (queue->in_flight == 0)
		return NULL;
	while (!queue->done) {
		ret = io_uring_submit_and_wait(&queue->ring, 1);
		if (ret < 0 && ret != -EINTR)
			log_error("swap: waiting for the device: %s", strerror(-ret));
		while (io_uring_peek_cqe(&queue->ring, &cqe) == 0) {
			done(queue, io_uring_cqe_get_data(cqe), cqe->res);
			io_uring_cqe_seen(&queue->ring, cqe);
		}
	}
	io = queue->done;
	queue->done = io->next;
	queue->in_flight--;
	return io;
}
