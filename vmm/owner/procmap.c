/* SPDX-License-Identifier: MIT */
/* See procmap.h; the layout is the kernel's (include/uapi/linux/fs.h), younger than many headers.
 */
#include "vmm/owner/procmap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define COVERING_OR_NEXT 0x10

struct query {
	uint64_t size, query_flags, query_addr;
	uint64_t vma_start, vma_end, vma_flags, vma_page_size, vma_offset, inode;
	uint32_t dev_major, dev_minor;
	uint32_t vma_name_size, build_id_size;
	uint64_t vma_name_addr, build_id_addr;
};
_Static_assert(sizeof(struct query) == 104, "the kernel's layout");

#define QUERY _IOWR('f', 17, struct query)

int procmap_query(int fd, uint64_t address, bool next, struct procmap *map)
{
	struct query query = { .size = sizeof(query),
			       .query_flags = next ? COVERING_OR_NEXT : 0,
			       .query_addr = address };

	if (ioctl(fd, QUERY, &query) < 0)
		return -errno;
	*map = (struct procmap){
		.start = query.vma_start,
		.end = query.vma_end,
		.offset = query.vma_offset,
		.dev = makedev(query.dev_major, query.dev_minor),
		.ino = query.inode,
	};
	return 0;
}

int procmap_open(pid_t pid)
{
	struct procmap map;
	char path[32];
	int fd, ret;

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ret = procmap_query(fd, 0, true, &map);
	if (ret == 0)
		return fd;
	close(fd);
	return ret == -ENOTTY ? -EOPNOTSUPP : ret;
}
