/* SPDX-License-Identifier: MIT */
/*
 * The file that frames are swapped to: space in it, and reads and writes.
 *
 * It holds guests' memory, so nobody else can open it: it has no name (O_TMPFILE, or unlinked as
 * soon as it is made) and mode 0600, and the kernel forgets it when the process ends, however that
 * happens.
 */
#ifndef FRAMEVISOR_MEMORY_SWAP_FILE_H
#define FRAMEVISOR_MEMORY_SWAP_FILE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <liburing.h>

#include "framevisor/error.h"

/* Space is given out in pieces of this size; buffers and lengths of reads and writes are multiples
 * of it or of SWAP_ALIGN, as direct I/O wants it. */
#define SWAP_CLUSTER 16384
#define SWAP_ALIGN   4096

struct swap_file;

/*
 * path: a directory, or the name of a file that does not exist. bytes: how large it may become.
 * Returns NULL with err set.
 */
struct swap_file *swap_file_open(const char *path, uint64_t bytes, struct error *err);
void swap_file_close(struct swap_file *file);

/* Any thread. alloc returns the first of the clusters that hold bytes, or -ENOSPC. */
int64_t swap_file_alloc(struct swap_file *file, uint32_t bytes);
void swap_file_free(struct swap_file *file, uint32_t cluster, uint32_t bytes);
uint64_t swap_file_used(struct swap_file *file);
uint64_t swap_file_size(const struct swap_file *file);

/* For tests: so many of the next reads or writes fail with EIO; negative: all of them. */
void swap_file_fail(struct swap_file *file, int reads, int writes);

/* A read or write under way; its maker's until it is submitted and after it was waited for. */
struct swap_io {
	bool write;
	void *buf;      /* on SWAP_ALIGN */
	uint32_t bytes; /* multiple of SWAP_ALIGN */
	uint32_t cluster;
	int result; /* 0 or a negative errno */
	struct swap_io *next;
};

/* Those of one thread: by io_uring, or one after the other where there is none. */
struct swap_queue {
	struct swap_file *file;
	struct io_uring ring;
	bool has_ring;
	unsigned int in_flight;
	struct swap_io *done; /* not waited for yet */
};
#define SWAP_QUEUE_DEPTH 8

void swap_queue_init(struct swap_queue *queue, struct swap_file *file);
void swap_queue_exit(struct swap_queue *queue);
/* Begins one; at most SWAP_QUEUE_DEPTH at a time. */
void swap_queue_submit(struct swap_queue *queue, struct swap_io *io);
/* Waits for one to end and returns it; NULL when none is under way. */
struct swap_io *swap_queue_wait(struct swap_queue *queue);

#endif
