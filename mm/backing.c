/* SPDX-License-Identifier: MIT */
/*
 * Host memory for the frames of one node. See backing.h for the promises; how they are kept:
 *
 * The span is reserved with PROT_NONE, so that addresses never move. A part is mapped over it with
 * MAP_FIXED, bound with mbind() (the policy belongs to this mapping), and then populated with
 * MADV_POPULATE_WRITE through it, which fails with an errno where a touch would raise SIGBUS: hosts
 * reserve hugepages globally, so that one node may be short although mmap() succeeded.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/mempolicy.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "framevisor/backing.h"

#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21u << 26)
#endif
#ifndef MFD_HUGE_1GB
#define MFD_HUGE_1GB (30u << 26)
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define MAX_SPAN    (UINT64_C(1) << 25) /* frames: 64 TiB, half of the address space */
#define MAX_THREADS 16
/* Bytes per step of a thread, or one frame: progress and cancellation come between steps. */
#define STEP_BYTES (UINT64_C(64) << 20)
/* What st_blocks counts, whatever the file's block size. */
#define STAT_BLOCK 512

struct backing {
	int fd;
	int host_node;
	bool hugetlb;
	uint64_t spanned;
	uint64_t populated;
	char *base;
	uint8_t *map; /* one bit per frame: populated */
};

static bool map_test(const struct backing *backing, uint64_t frame)
{
	return backing->map[frame / 8] >> frame % 8 & 1;
}

static void map_set(struct backing *backing, uint64_t first, uint64_t nr, bool present)
{
	for (uint64_t frame = first; frame < first + nr; frame++) {
		uint8_t bit = (uint8_t)(1u << frame % 8);

		if (present)
			backing->map[frame / 8] |= bit;
		else
			backing->map[frame / 8] &= (uint8_t)~bit;
	}
}

/* Whether all frames of the range are (or all are not) populated. */
static bool map_all(const struct backing *backing, uint64_t first, uint64_t nr, bool present)
{
	if (nr == 0 || first >= backing->spanned || nr > backing->spanned - first)
		return false;
	for (uint64_t frame = first; frame < first + nr; frame++)
		if (map_test(backing, frame) != present)
			return false;
	return true;
}

/*
 * The library must not depend on what is above it, so it fills struct error itself.
 */
__attribute__((format(printf, 3, 4))) static int fail(struct error *err, int errnum,
						      const char *fmt, ...)
{
	va_list args;

	if (err && !err->code) {
		err->code = errnum;
		va_start(args, fmt);
		vsnprintf(err->message, sizeof(err->message), fmt, args);
		va_end(args);
	}
	return -errnum;
}

static int open_file(struct backing *backing, struct error *err)
{
	unsigned int flags = MFD_CLOEXEC;

	if (backing->hugetlb)
		flags |=
			MFD_HUGETLB | (FRAME_SHIFT == FRAME_SHIFT_1G ? MFD_HUGE_1GB : MFD_HUGE_2MB);
	backing->fd = memfd_create("framevisor-pool", flags);
	if (backing->fd < 0)
		return fail(err, errno, "cannot create a memory file of %s pages: %s",
			    backing->hugetlb ? frame_size_name() : "ordinary", strerror(errno));
	return 0;
}

/* The base is aligned to a frame, and to 1 GiB where the span is that large. */
static int reserve(struct backing *backing, struct error *err)
{
	uint64_t size = backing->spanned << FRAME_SHIFT;
	uint64_t align = size >= (UINT64_C(1) << 30) ? UINT64_C(1) << 30 : FRAME_SIZE;
	char *area = mmap(NULL, size + align, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint64_t head;

	if (area == MAP_FAILED)
		return fail(err, ENOMEM, "no address space for %llu frames of a pool",
			    (unsigned long long)backing->spanned);
	head = (align - (uintptr_t)area % align) % align;
	if (head)
		munmap(area, head);
	if (align - head)
		munmap(area + head + size, align - head);
	backing->base = area + head;
	return 0;
}

/* An object without its file. NULL: *ret says why. */
static struct backing *prepare(int host_node, uint64_t spanned_frames, bool hugetlb, int *ret,
			       struct error *err)
{
	struct backing *backing;

	if (spanned_frames == 0 || spanned_frames > MAX_SPAN) {
		*ret = fail(err, EINVAL, "a pool of %llu frames is not possible",
			    (unsigned long long)spanned_frames);
		return NULL;
	}
	backing = calloc(1, sizeof(*backing));
	if (!backing) {
		*ret = fail(err, ENOMEM, "out of memory");
		return NULL;
	}
	backing->fd = -1;
	backing->host_node = host_node;
	backing->hugetlb = hugetlb;
	backing->spanned = spanned_frames;
	backing->map = calloc((spanned_frames + 7) / 8, 1);
	if (!backing->map) {
		backing_destroy(backing);
		*ret = fail(err, ENOMEM, "out of memory");
		return NULL;
	}
	*ret = 0;
	return backing;
}

int backing_create(int host_node, uint64_t spanned_frames, bool hugetlb, struct backing **result,
		   struct error *err)
{
	int ret;
	struct backing *backing = prepare(host_node, spanned_frames, hugetlb, &ret, err);

	*result = NULL;
	if (!backing)
		return ret;
	ret = open_file(backing, err);
	if (ret == 0)
		ret = reserve(backing, err);
	if (ret < 0)
		backing_destroy(backing);
	else
		*result = backing;
	return ret;
}

void backing_destroy(struct backing *backing)
{
	if (!backing)
		return;
	if (backing->base)
		munmap(backing->base, backing->spanned << FRAME_SHIFT);
	if (backing->fd >= 0)
		close(backing->fd);
	free(backing->map);
	free(backing);
}

/* Frames of one populate call; threads take steps from it. */
struct populate {
	char *addr;
	uint64_t nr;
	uint64_t next; /* atomic: first frame not taken yet */
	uint64_t done; /* atomic */
	int error;     /* atomic: first errno of any thread */
};

static uint64_t step_frames(void)
{
	return bytes_to_frames(STEP_BYTES) ? bytes_to_frames(STEP_BYTES) : 1;
}

/* Populates one step. Returns false when there is nothing left to do. */
static bool populate_step(struct populate *job)
{
	uint64_t nr = step_frames();
	uint64_t first = __atomic_fetch_add(&job->next, nr, __ATOMIC_RELAXED);
	int none = 0;

	if (first >= job->nr || __atomic_load_n(&job->error, __ATOMIC_RELAXED))
		return false;
	if (nr > job->nr - first)
		nr = job->nr - first;
	if (madvise(job->addr + (first << FRAME_SHIFT), nr << FRAME_SHIFT, MADV_POPULATE_WRITE)) {
		__atomic_compare_exchange_n(&job->error, &none, errno, false, __ATOMIC_RELAXED,
					    __ATOMIC_RELAXED);
		return false;
	}
	__atomic_add_fetch(&job->done, nr, __ATOMIC_RELAXED);
	return true;
}

static void *populate_thread(void *arg)
{
	while (populate_step(arg))
		;
	return NULL;
}

/* The calling thread works too, and reports progress between its steps. Returns an errno. */
static int populate_parallel(struct populate *job, backing_progress_fn progress, void *opaque)
{
	pthread_t threads[MAX_THREADS];
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	unsigned int nr_threads = 0;
	bool go_on = true;

	while (nr_threads + 1 < (cpus > 0 ? cpus : 1) && nr_threads < MAX_THREADS &&
	       nr_threads + UINT64_C(1) < job->nr / step_frames()) {
		if (pthread_create(&threads[nr_threads], NULL, populate_thread, job))
			break;
		nr_threads++;
	}
	while (go_on && populate_step(job))
		if (progress)
			go_on = progress(opaque, __atomic_load_n(&job->done, __ATOMIC_RELAXED),
					 job->nr);
	if (!go_on)
		__atomic_store_n(&job->error, ECANCELED, __ATOMIC_RELAXED);
	for (unsigned int i = 0; i < nr_threads; i++)
		pthread_join(threads[i], NULL);
	if (progress && !job->error)
		progress(opaque, job->nr, job->nr);
	return job->error;
}

/* Back to reserved, empty address space. */
static void unmap_part(struct backing *backing, uint64_t first, uint64_t nr)
{
	char *addr = backing->base + (first << FRAME_SHIFT);

	(void)mmap(addr, nr << FRAME_SHIFT, PROT_NONE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
	fallocate(backing->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		  (off_t)(first << FRAME_SHIFT), (off_t)(nr << FRAME_SHIFT));
}

/* Prefers MPOL_BIND: a pool that says "node 1" means it. */
static int bind_part(const struct backing *backing, char *addr, uint64_t size)
{
	unsigned long mask[16] = { 0 };
	unsigned int bits = 8 * sizeof(mask[0]);

	if (backing->host_node < 0)
		return 0;
	if ((unsigned int)backing->host_node >= bits * 16)
		return EINVAL;
	mask[(unsigned int)backing->host_node / bits] = 1ul
							<< (unsigned int)backing->host_node % bits;
	if (syscall(SYS_mbind, addr, size, MPOL_BIND, mask, bits * 16 + 1, 0))
		return errno;
	return 0;
}

/* The file grows, never shrinks: parts may come in any order. */
static int grow_file(struct backing *backing, uint64_t frames)
{
	off_t size = lseek(backing->fd, 0, SEEK_END);

	if (size >= 0 && (uint64_t)size < frames << FRAME_SHIFT)
		return ftruncate(backing->fd, (off_t)(frames << FRAME_SHIFT)) ? errno : 0;
	return size < 0 ? errno : 0;
}

static int map_part(struct backing *backing, uint64_t first, uint64_t nr)
{
	char *addr = backing->base + (first << FRAME_SHIFT);
	int ret = grow_file(backing, first + nr);

	if (ret)
		return ret;
	if (mmap(addr, nr << FRAME_SHIFT, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		 backing->fd, (off_t)(first << FRAME_SHIFT)) == MAP_FAILED)
		return errno;
	if (!backing->hugetlb)
		madvise(addr, nr << FRAME_SHIFT, MADV_HUGEPAGE);
	return bind_part(backing, addr, nr << FRAME_SHIFT);
}

/* The runs of frames that are there are mapped, what lies between them is given back. */
static int adopt_parts(struct backing *backing, const uint8_t *present)
{
	uint64_t first = 0, end;
	int ret = 0;

	for (; ret == 0 && first < backing->spanned; first = end) {
		for (end = first + 1; end < backing->spanned && !present[end] == !present[first];)
			end++;
		if (present[first]) {
			ret = map_part(backing, first, end - first);
			map_set(backing, first, end - first, true);
			backing->populated += end - first;
		} else {
			unmap_part(backing, first, end - first);
		}
	}
	return ret;
}

int backing_adopt(int host_node, uint64_t spanned_frames, bool hugetlb, int fd,
		  const uint8_t *present, struct backing **result, struct error *err)
{
	uint64_t last = spanned_frames;
	struct statfs fs;
	struct stat st;
	int errnum, ret;
	struct backing *backing = prepare(host_node, spanned_frames, hugetlb, &ret, err);

	*result = NULL;
	if (!backing) {
		close(fd);
		return ret;
	}
	backing->fd = fd;
	while (last > 0 && !present[last - 1])
		last--;
	if (fstat(fd, &st) < 0 || fstatfs(fd, &fs) < 0 ||
	    (uint64_t)st.st_size < last << FRAME_SHIFT || (fs.f_type == HUGETLBFS_MAGIC) != hugetlb)
		ret = fail(err, EBADF, "the file of the pool is not what it was");
	if (ret == 0)
		ret = reserve(backing, err);
	errnum = ret == 0 ? adopt_parts(backing, present) : 0;
	if (errnum)
		ret = fail(err, errnum, "cannot map the file of the pool: %s", strerror(errnum));
	if (ret < 0)
		backing_destroy(backing);
	else
		*result = backing;
	return ret;
}

static int populate_failed(const struct backing *backing, uint64_t nr, int errnum,
			   struct error *err)
{
	/* What the kernel says when a bound node has no hugepage left (EFAULT), or the host none.
	 */
	if (errnum == EFAULT || errnum == ENOMEM || errnum == EHWPOISON) {
		if (backing->hugetlb)
			return fail(err, ENOMEM,
				    "the host has fewer than %llu free hugepages of %s%s (%llu "
				    "free): reserve more in /sys/kernel/mm/hugepages",
				    (unsigned long long)nr, frame_size_name(),
				    backing->host_node >= 0 ? " on this node" : "",
				    (unsigned long long)backing_host_free_hugepages(
					    backing->host_node));
		return fail(err, ENOMEM, "the host has not enough memory for %llu frames of %s",
			    (unsigned long long)nr, frame_size_name());
	}
	if (errnum == ECANCELED)
		return fail(err, ECANCELED, "cancelled");
	return fail(err, errnum, "cannot set up %llu frames of %s: %s", (unsigned long long)nr,
		    frame_size_name(), strerror(errnum));
}

int backing_populate(struct backing *backing, uint64_t first, uint64_t nr,
		     backing_progress_fn progress, void *opaque, struct error *err)
{
	struct populate job = { .nr = nr };
	int errnum;

	if (!map_all(backing, first, nr, false))
		return fail(err, EINVAL, "frames %llu to %llu are not free to populate",
			    (unsigned long long)first, (unsigned long long)first + nr);
	job.addr = backing->base + (first << FRAME_SHIFT);
	errnum = map_part(backing, first, nr);
	if (!errnum)
		errnum = populate_parallel(&job, progress, opaque);
	if (errnum) {
		unmap_part(backing, first, nr);
		return populate_failed(backing, nr, errnum, err);
	}
	map_set(backing, first, nr, true);
	backing->populated += nr;
	return 0;
}

int backing_depopulate(struct backing *backing, uint64_t first, uint64_t nr)
{
	if (!map_all(backing, first, nr, true))
		return -EINVAL;
	if (fallocate(backing->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		      (off_t)(first << FRAME_SHIFT), (off_t)(nr << FRAME_SHIFT)))
		return -errno;
	unmap_part(backing, first, nr);
	map_set(backing, first, nr, false);
	backing->populated -= nr;
	return 0;
}

int backing_fd(const struct backing *backing)
{
	return backing->fd;
}

void *backing_base(const struct backing *backing)
{
	return backing->base;
}

uint64_t backing_populated(const struct backing *backing)
{
	return backing->populated;
}

uint64_t backing_host_frames(const struct backing *backing)
{
	struct stat st;

	if (fstat(backing->fd, &st))
		return 0;
	return ((uint64_t)st.st_blocks * STAT_BLOCK + FRAME_SIZE - 1) >> FRAME_SHIFT;
}

/* /proc/self/pagemap: 64 bits per 4 KiB page; bit 63 present, bits 0 to 54 its frame number. */
#define PAGEMAP_PRESENT (UINT64_C(1) << 63)
#define PAGEMAP_PFN     ((UINT64_C(1) << 55) - 1)

/* What makes a transparent hugepage. Frames of 1 GiB are hugetlb pages, whose first entry tells. */
#define THP_PAGES (1u << (FRAME_SHIFT_2M - GUEST_PAGE_SHIFT))

static uint64_t hugepage_phys(const uint64_t *entries, bool hugetlb)
{
	uint64_t pfn = entries[0] & PAGEMAP_PFN;

	if (!(entries[0] & PAGEMAP_PRESENT) || pfn % GUEST_PAGES_PER_FRAME)
		return 0;
	/* Ordinary memory: only a transparent hugepage is one physical frame. */
	for (unsigned int i = 1; !hugetlb && i < THP_PAGES; i++)
		if ((entries[i] & PAGEMAP_PFN) != pfn + i)
			return 0;
	return pfn / GUEST_PAGES_PER_FRAME;
}

int backing_phys_pfns(const struct backing *backing, uint64_t first, uint64_t nr, uint64_t *pfns)
{
	uint64_t entries[THP_PAGES];
	bool told = false;
	int ret = 0;
	int fd;

	if (!map_all(backing, first, nr, true))
		return -EINVAL;
	fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	for (uint64_t i = 0; i < nr && ret == 0; i++) {
		uintptr_t addr = (uintptr_t)backing->base + ((first + i) << FRAME_SHIFT);
		off_t at = (off_t)(addr >> GUEST_PAGE_SHIFT) * 8;
		size_t want = backing->hugetlb ? sizeof(entries[0]) : sizeof(entries);

		pfns[i] = 0;
		if (pread(fd, entries, want, at) != (ssize_t)want) {
			ret = -EIO;
			break;
		}
		pfns[i] = hugepage_phys(entries, backing->hugetlb);
		told = told || pfns[i] || (entries[0] & PAGEMAP_PFN);
	}
	close(fd);
	/* Without the right to know, the kernel says present, frame number 0. */
	return ret == 0 && !told ? -EPERM : ret;
}

uint64_t backing_host_free_hugepages(int host_node)
{
	unsigned long long free_pages = 0;
	char path[128];
	FILE *file;

	if (host_node < 0)
		snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/hugepages-%llukB/%s",
			 (unsigned long long)FRAME_SIZE >> 10, "free_hugepages");
	else
		snprintf(path, sizeof(path),
			 "/sys/devices/system/node/node%d/hugepages/hugepages-%llukB/%s", host_node,
			 (unsigned long long)FRAME_SIZE >> 10, "free_hugepages");
	file = fopen(path, "re");
	if (!file)
		return 0;
	if (fscanf(file, "%llu", &free_pages) != 1)
		free_pages = 0;
	fclose(file);
	return free_pages;
}
