/* SPDX-License-Identifier: MIT */
/*
 * Getting a userfaultfd that also serves faults taken inside the kernel: KVM touches guest memory
 * from KVM_RUN, so a descriptor limited to user mode (UFFD_USER_MODE_ONLY) is of no use.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "framevisor/log.h"
#include "vmm/memory/internal.h"

/* Access to the device stands for the privilege that the system call asks for. */
static int uffd_from_device(void)
{
	int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	int uffd;

	if (dev < 0)
		return -1;
	uffd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	close(dev);
	return uffd;
}

/* A userfaultfd belongs to the address space that created it, so one made here comes first: it is
 * right even if this process was forked after it connected to the pool owner. */
static int uffd_new(struct owner_client *client)
{
	int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (uffd < 0)
		uffd = uffd_from_device();
	if (uffd < 0)
		uffd = owner_client_take_uffd(client);
	return uffd;
}

int uffd_open(struct vm_memory *mem)
{
	const uint64_t missing =
		mem->hugetlb ? UFFD_FEATURE_MISSING_HUGETLBFS : UFFD_FEATURE_MISSING_SHMEM;
	/* UFFDIO_API refuses an unknown feature and succeeds only once: from the most down. */
	const uint64_t remap = missing | UFFD_FEATURE_EVENT_REMAP;
	const uint64_t wanted[] = {
		remap | UFFD_FEATURE_MINOR_HUGETLBFS | UFFD_FEATURE_THREAD_ID,
		remap | UFFD_FEATURE_THREAD_ID,
		remap,
		missing,
	};

	mem->uffd = uffd_new(mem->client);
	if (mem->uffd < 0)
		return -ENOTSUP;

	/* Ordinary memory is not registered once bound: that would keep the kernel from mapping a
	 * frame as one transparent hugepage. */
	for (unsigned int i = mem->hugetlb ? 0 : 1; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
		struct uffdio_api api = { .api = UFFD_API, .features = wanted[i] };

		if (ioctl(mem->uffd, UFFDIO_API, &api) == 0) {
			mem->minor = wanted[i] & UFFD_FEATURE_MINOR_HUGETLBFS;
			mem->remap = wanted[i] & UFFD_FEATURE_EVENT_REMAP;
			mem->tids = wanted[i] & UFFD_FEATURE_THREAD_ID;
			return 0;
		}
	}
	close(mem->uffd);
	mem->uffd = -1;
	return -ENOTSUP;
}

int uffd_register(int uffd, const void *addr, uint64_t len, uint64_t mode)
{
	struct uffdio_register reg = {
		.range = { .start = (uint64_t)(uintptr_t)addr, .len = len },
		.mode = mode,
	};

	return ioctl(uffd, UFFDIO_REGISTER, &reg) == 0 ? 0 : -errno;
}

void uffd_unregister(int uffd, const void *addr, uint64_t len)
{
	struct uffdio_range range = { .start = (uint64_t)(uintptr_t)addr, .len = len };

	ioctl(uffd, UFFDIO_UNREGISTER, &range);
}

void uffd_wake(int uffd, const void *addr, uint64_t len)
{
	struct uffdio_range range = { .start = (uint64_t)(uintptr_t)addr, .len = len };

	/* Accepted for any range of ours, registered or not; nothing else can go wrong. */
	if (ioctl(uffd, UFFDIO_WAKE, &range) != 0)
		log_error("cannot wake threads that wait for guest memory at %p: errno %d", addr,
			  errno);
}
