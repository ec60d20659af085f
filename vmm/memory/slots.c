/* SPDX-License-Identifier: MIT */
/*
 * KVM's view: one memory slot per range of RAM, set once, and one per VM_MEMORY_SLOT_SIZE of a
 * pluggable range while something is plugged in it. A slot never changes when frames come and go:
 * changing one drops every mapping of the guest, and an access to a slot that is not there is an
 * MMIO exit instead of a fault.
 *
 * KVM changes a slot when no vCPU is in a fault any more (SRCU), and one that waits for a frame of
 * the pool is in one for as long as it waits. take_lock, and with it the loop, would wait as long.
 * So while the guest starves no slot is made, and empty ones stay until it does not.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "framevisor/log.h"
#include "vmm/memory/internal.h"

/* What KVM allows where it does not say (KVM_CAP_NR_MEMSLOTS). */
#define KVM_SLOTS_DEFAULT 32

/* The first frame of slots[s]. */
static uint32_t slot_frame(const struct vm_memory *mem, uint32_t s)
{
	return mem->nr_boot_frames + s * SLOT_FRAMES;
}

/* The one that a frame of a pluggable range lies in: those ranges are multiples of a slot. */
static uint32_t slot_of(const struct vm_memory *mem, uint32_t frame)
{
	return (frame - mem->nr_boot_frames) / SLOT_FRAMES;
}

int slots_create(struct vm_memory *mem, struct error *err)
{
	uint32_t nr_hotplug = mem->nr_frames - mem->nr_boot_frames;

	for (unsigned int i = 0; i < mem->nr_boot_ranges; i++)
		stock_count_usable(mem, mem->ranges[i].first, (int)mem->ranges[i].nr_frames);
	mem->stats.ram = mem->nr_boot_frames;
	mem->stats.hotplug = nr_hotplug;
	if (nr_hotplug == 0)
		return 0;
	mem->slots = calloc(nr_hotplug / SLOT_FRAMES, sizeof(*mem->slots));
	if (!mem->slots)
		return error_set(err, ENOMEM, "no memory for the records of pluggable memory");
	mem->nr_slots = nr_hotplug / SLOT_FRAMES;
	return 0;
}

/* Sets or, with size 0, removes a slot of KVM. */
static int set_region(const struct vm_memory *mem, unsigned int slot, uint32_t first, uint64_t size)
{
	struct kvm_userspace_memory_region region = {
		.slot = mem->first_slot + slot,
		.flags = 0,
		.guest_phys_addr = window_frame_gpa(mem, first),
		.memory_size = size,
		.userspace_addr = (uint64_t)(uintptr_t)window_frame_hva(mem, first),
	};

	return ioctl(mem->vm_fd, KVM_SET_USER_MEMORY_REGION, &region) == 0 ? 0 : -errno;
}

/* Makes slots[s] if KVM is there already. */
static int make_slot(struct vm_memory *mem, uint32_t s)
{
	int ret;

	if (mem->vm_fd < 0 || mem->slots[s].present)
		return 0;
	if (vm_memory_starves(mem))
		return -EBUSY;
	ret = set_region(mem, mem->nr_boot_ranges + s, slot_frame(mem, s), VM_MEMORY_SLOT_SIZE);
	if (ret) {
		log_error("KVM refuses a memory slot for plugged memory at 0x%llx: %s",
			  (unsigned long long)window_frame_gpa(mem, slot_frame(mem, s)),
			  strerror(-ret));
		return ret;
	}
	mem->slots[s].present = true;
	pthread_mutex_lock(&mem->lock);
	mem->stats.slots++;
	pthread_mutex_unlock(&mem->lock);
	return 0;
}

/* Whether a slot has to stay for now, because KVM would wait for a vCPU that waits for a frame. */
static bool put_off(struct vm_memory *mem)
{
	bool starves;

	pthread_mutex_lock(&mem->lock);
	starves = mem->starved > 0;
	mem->prune_due |= starves;
	pthread_mutex_unlock(&mem->lock);
	return starves;
}

static void remove_slot(struct vm_memory *mem, uint32_t s)
{
	int ret;

	if (!mem->slots[s].present || put_off(mem))
		return;
	ret = set_region(mem, mem->nr_boot_ranges + s, slot_frame(mem, s), 0);
	if (ret) { /* it stays, with holes that are not plugged */
		log_error("KVM does not remove a memory slot: %s", strerror(-ret));
		return;
	}
	mem->slots[s].present = false;
	pthread_mutex_lock(&mem->lock);
	mem->stats.slots--;
	pthread_mutex_unlock(&mem->lock);
}

int slots_make(struct vm_memory *mem, uint32_t first, uint32_t nr)
{
	uint32_t last = slot_of(mem, first + nr - 1);
	int ret = 0;

	for (uint32_t s = slot_of(mem, first); s <= last && ret == 0; s++)
		ret = make_slot(mem, s);
	if (ret)
		slots_prune(mem, first, nr);
	return ret;
}

/* What the guest touched in a slot in which nothing is plugged. */
static void take_strays(struct vm_memory *mem, uint32_t s)
{
	int64_t strays = takeaway_take(mem, slot_frame(mem, s), SLOT_FRAMES);

	if (strays > 0)
		log_info("took back %lld frames that the guest used without having them",
			 (long long)strays);
}

static void prune_slot(struct vm_memory *mem, uint32_t s)
{
	if (mem->slots[s].plugged > 0)
		return;
	/* Before the slot goes, so that what waits beyond the limit may have it; after it, because
	 * the guest cannot come back then. */
	if (mem->slots[s].present)
		take_strays(mem, s);
	remove_slot(mem, s);
	take_strays(mem, s);
}

void slots_prune(struct vm_memory *mem, uint32_t first, uint32_t nr)
{
	uint32_t last = slot_of(mem, first + nr - 1);

	for (uint32_t s = slot_of(mem, first); s <= last; s++)
		prune_slot(mem, s);
}

void slots_prune_late(struct vm_memory *mem)
{
	bool due;

	pthread_mutex_lock(&mem->lock);
	due = mem->prune_due && mem->starved == 0;
	if (due)
		mem->prune_due = false;
	pthread_mutex_unlock(&mem->lock);
	if (!due)
		return;
	take_lock(mem);
	for (uint32_t s = 0; s < mem->nr_slots; s++)
		if (mem->slots[s].present)
			prune_slot(mem, s);
	take_unlock(mem);
}

static int check_slot_count(const struct vm_memory *mem, struct error *err)
{
	int max = ioctl(mem->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_NR_MEMSLOTS);
	uint64_t need = (uint64_t)mem->first_slot + mem->nr_boot_ranges + mem->nr_slots;

	if (max <= 0)
		max = KVM_SLOTS_DEFAULT;
	if (need <= (uint64_t)max)
		return 0;
	return error_set(
		err, ENOSPC,
		"this kernel's KVM has %d memory slots, which allows %llu GiB of pluggable "
		"memory; use less",
		max,
		((unsigned long long)max - (need - mem->nr_slots)) * VM_MEMORY_SLOT_SIZE >> 30);
}

int vm_memory_set_slots(struct vm_memory *mem, int vm_fd, unsigned int first_slot,
			struct error *err)
{
	int ret;

	mem->vm_fd = vm_fd;
	mem->first_slot = first_slot;
	ret = check_slot_count(mem, err);
	if (ret)
		return ret;
	for (unsigned int i = 0; i < mem->nr_boot_ranges; i++) {
		const struct window_range *range = &mem->ranges[i];
		uint64_t size = frames_to_bytes(range->nr_frames);

		ret = set_region(mem, i, range->first, size);
		if (ret)
			return error_set_errno(
				err, -ret, "KVM refuses memory slot %u (0x%llx bytes at 0x%llx)",
				first_slot + i, (unsigned long long)size,
				(unsigned long long)range->gpa);
	}
	for (uint32_t s = 0; s < mem->nr_slots; s++) {
		ret = mem->slots[s].plugged ? make_slot(mem, s) : 0;
		if (ret)
			return error_set_errno(err, -ret, "KVM refuses a memory slot");
	}
	return 0;
}

static void dump_slot(struct vm_memory *mem, int fd, unsigned int slot, uint32_t first, uint64_t nr)
{
	uint64_t bound = 0;

	pthread_mutex_lock(&mem->lock);
	for (uint32_t n = 0; n < nr; n++)
		bound += frame_bound(&mem->frames[first + n]) ||
			 mem->frames[first + n].state == FRAME_TAKING;
	pthread_mutex_unlock(&mem->lock);
	dprintf(fd, "slot %u: gpa 0x%llx size 0x%llx hva %p frames %llu of %llu bound\n",
		mem->first_slot + slot, (unsigned long long)window_frame_gpa(mem, first),
		(unsigned long long)frames_to_bytes(nr), (void *)window_frame_hva(mem, first),
		(unsigned long long)bound, (unsigned long long)nr);
}

void vm_memory_dump(struct vm_memory *mem, int fd)
{
	for (unsigned int i = 0; i < mem->nr_boot_ranges; i++)
		dump_slot(mem, fd, i, mem->ranges[i].first, mem->ranges[i].nr_frames);
	for (uint32_t s = 0; s < mem->nr_slots; s++)
		if (mem->slots[s].present)
			dump_slot(mem, fd, mem->nr_boot_ranges + s, slot_frame(mem, s),
				  SLOT_FRAMES);
}
