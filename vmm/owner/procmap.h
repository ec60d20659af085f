/* SPDX-License-Identifier: MIT */
/*
 * Asking the kernel what is mapped at an address of another process (PROCMAP_QUERY on an open
 * /proc/PID/maps, Linux 6.11). A descriptor stays with the address space that the process had when
 * it was opened.
 */
#ifndef VMM_OWNER_PROCMAP_H
#define VMM_OWNER_PROCMAP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct procmap {
	uint64_t start, end;
	uint64_t offset; /* of start in the file */
	uint64_t dev;    /* as st_dev; 0 with ino 0: no file */
	uint64_t ino;
};

/* Returns a descriptor, or -EOPNOTSUPP where the kernel cannot be asked, or another negative errno
 * (-EACCES: not this user's). */
int procmap_open(pid_t pid);

/* The mapping that has address, or, with next, the first one that ends above it. Returns 0, -ENOENT
 * (none) or another negative errno. */
int procmap_query(int fd, uint64_t address, bool next, struct procmap *map);

#endif
