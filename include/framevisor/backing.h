/* SPDX-License-Identifier: MIT */
/*
 * The host memory behind one node's frames: a hugetlb memfd, or an ordinary one where there are no
 * hugepages of 2 MiB (with transparent hugepages where the host gives them to shared memory).
 *
 * Address space for all frames that the node may ever have is reserved at once; the file grows, is
 * mapped there, bound to the host node and filled part by part. A policy belongs to a mapping, not
 * to the file, so a part is populated through the very mapping that was bound. Everything is
 * populated before it is used: a host short of hugepages is an error here, never a SIGBUS later.
 *
 * Not thread safe per object: one thread at a time.
 */
#ifndef FRAMEVISOR_BACKING_H
#define FRAMEVISOR_BACKING_H

#include <stdbool.h>
#include <stdint.h>

#include "framevisor/error.h"
#include "framevisor/frame.h"

struct backing;

/*
 * host_node: memory policy of all parts, -1 for none. Errors, also told in err (which may be NULL):
 *   -EINVAL  spanned is 0 or too large for an address space
 *   -ENOMEM  no address space
 *   -ENOSYS, -EPERM, -ENOENT, ...  the host has no memfd or no hugetlb pages of this size
 */
int backing_create(int host_node, uint64_t spanned_frames, bool hugetlb, struct backing **result,
		   struct error *err);
/*
 * The file of another process, which was filled there: fd (taken over, also on failure) of an
 * object that backing_create() made with the same three values. present[] says of each frame
 * whether it is populated; of all others the file's memory is given back to the host. Errors as
 * there, and -EBADF when the file is not such a one or is too short.
 */
int backing_adopt(int host_node, uint64_t spanned_frames, bool hugetlb, int fd,
		  const uint8_t *present, struct backing **result, struct error *err);
/* Unmaps and closes; the file lives on while others have it open or mapped. NULL is ignored. */
void backing_destroy(struct backing *backing);

/* Called now and then from the calling thread. Returning false gives up (-ECANCELED). */
typedef bool (*backing_progress_fn)(void *opaque, uint64_t done_frames, uint64_t nr_frames);

/*
 * Fills frames [first, first + nr) with zeroed host memory, bound to the node, in parallel threads.
 * All or nothing. On success they are readable and writable at backing_base(), and zero. Errors:
 *   -EINVAL     outside the span, or overlaps what is populated already
 *   -ENOMEM     the host (or this node of it) does not have that many free hugepages or memory
 *   -ECANCELED  progress returned false
 *   -EPERM, ... mbind() or mmap() refused
 */
int backing_populate(struct backing *backing, uint64_t first, uint64_t nr,
		     backing_progress_fn progress, void *opaque, struct error *err);

/*
 * Gives frames [first, first + nr) back to the host (the hole is punched in the file, so the memory
 * goes even if others still map it). Returns 0, -EINVAL if not all populated, or the errno of
 * fallocate().
 */
int backing_depopulate(struct backing *backing, uint64_t first, uint64_t nr);

int backing_fd(const struct backing *backing);
void *backing_base(const struct backing *backing);
uint64_t backing_populated(const struct backing *backing); /* frames */
/* Frames of host memory that the file holds, as the host counts them. While nothing is coming or
 * going that is backing_populated(); more means that somebody wrote where a hole is. */
uint64_t backing_host_frames(const struct backing *backing);

/*
 * Host physical frame numbers (physical address / FRAME_SIZE) of frames [first, first + nr), 0
 * where not known. Returns 0, or a negative errno when the host does not tell (no CAP_SYS_ADMIN:
 * -EPERM; ordinary memory whose frames are not one hugepage gives 0 for those frames). The numbers
 * may change when the host kernel migrates a page.
 */
int backing_phys_pfns(const struct backing *backing, uint64_t first, uint64_t nr, uint64_t *pfns);

/* Hugepages of a frame's size that the host has free on host_node (-1: in all), from sysfs; 0 if
 * unknown. */
uint64_t backing_host_free_hugepages(int host_node);

#endif
