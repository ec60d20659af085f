/* SPDX-License-Identifier: MIT */
/*
 * KVM's view: one memory slot per range of RAM, set once. A slot never changes when frames come and
 * go: changing one drops every mapping of the guest, and an access to a slot that is not there is
 * an MMIO exit instead of a fault.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <sys/ioctl.h>

#include "vmm/memory/internal.h"

int vm_memory_set_slots(struct vm_memory *mem, int vm_fd, unsigned int first_slot,
			struct error *err)
{
	mem->first_slot = first_slot;
	for (unsigned int i = 0; i < mem->nr_ranges; i++) {
		const struct window_range *range = &mem->ranges[i];
		struct kvm_userspace_memory_region region = {
			.slot = first_slot + i,
			.flags = 0,
			.guest_phys_addr = range->gpa,
			.memory_size = frames_to_bytes(range->nr_frames),
			.userspace_addr = (uint64_t)(uintptr_t)range->hva,
		};

		if (ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &region) != 0)
			return error_set_errno(
				err, errno, "KVM refuses memory slot %u (0x%llx bytes at 0x%llx)",
				region.slot, (unsigned long long)region.memory_size,
				(unsigned long long)region.guest_phys_addr);
	}
	return 0;
}

void vm_memory_dump(struct vm_memory *mem, int fd)
{
	for (unsigned int i = 0; i < mem->nr_ranges; i++) {
		const struct window_range *range = &mem->ranges[i];
		uint64_t bound = 0;

		pthread_mutex_lock(&mem->lock);
		for (uint32_t n = 0; n < range->nr_frames; n++)
			bound += mem->frames[range->first + n].state != FRAME_HOLE;
		pthread_mutex_unlock(&mem->lock);
		dprintf(fd, "slot %u: gpa 0x%llx size 0x%llx hva %p frames %llu of %llu bound\n",
			mem->first_slot + i, (unsigned long long)range->gpa,
			(unsigned long long)frames_to_bytes(range->nr_frames), (void *)range->hva,
			(unsigned long long)bound, (unsigned long long)range->nr_frames);
	}
}
