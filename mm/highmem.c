/* SPDX-License-Identifier: MIT */
/*
 * kmap: a window of a few dozen frames. A mapping stays after its last user, and is found again or
 * replaced when another frame needs the slot.
 */
#include <errno.h>
#include <sys/mman.h>
#include <time.h>

#include "mm/highmem_internal.h"

/* The first slots serve kmap(), the next ones kmap_local() (which may use the first ones too), and
 * the last one zeroing. */
#define KMAP_CLEAR_SLOT KMAP_SLOTS

static char *slot_address(const struct mm *mm, unsigned int slot)
{
	return mm->kmap.window + ((size_t)slot << FRAME_SHIFT);
}

int mm_set_highmem_backing(struct mm *mm, unsigned int nid, int fd)
{
	char *window;

	if (nid >= mm->nr_nodes || fd < 0)
		return -EINVAL;
	if (!mm->kmap.reserved) {
		/* One frame more, to align it: a hugepage is mapped at a multiple of its size. */
		size_t size = (size_t)(KMAP_SLOTS + 2) << FRAME_SHIFT;

		window = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
			      -1, 0);
		if (window == MAP_FAILED)
			return -ENOMEM;
		mm->kmap.reserved = window;
		mm->kmap.window = window + (-(uintptr_t)window & (FRAME_SIZE - 1));
	}
	mm->kmap.fd[nid] = fd + 1;
	return 0;
}

void kmap_destroy(struct mm *mm)
{
	if (mm->kmap.reserved)
		munmap(mm->kmap.reserved, (size_t)(KMAP_SLOTS + 2) << FRAME_SHIFT);
	mm->kmap.reserved = NULL;
}

/* Whether the frame can be mapped at all. */
static bool has_file(const struct mm *mm, const struct page *page)
{
	return page_zonenum(page) == ZONE_HIGHMEM && mm->kmap.fd[page_to_nid(page)] > 0;
}

static void *map_slot(struct mm *mm, unsigned int slot, const struct page *page)
{
	unsigned int nid = page_to_nid(page);
	uint64_t idx = pfn_of(mm, page) - mm->node[nid]->node_start_pfn;

	return mmap(slot_address(mm, slot), FRAME_SIZE, PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_FIXED, mm->kmap.fd[nid] - 1, (off_t)(idx << FRAME_SHIFT));
}

/* Back to reserved address space. If that fails, the slot shows its frame until it is used again.
 */
static void unmap_slot(struct mm *mm, unsigned int slot)
{
	(void)mmap(slot_address(mm, slot), FRAME_SIZE, PROT_NONE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

/* A slot with the frame, or one that can be had for it; KMAP_SLOTS: none. */
static unsigned int find_slot(const struct mm *mm, const struct page *page, unsigned int limit)
{
	unsigned int best = KMAP_SLOTS;

	for (unsigned int i = 0; i < KMAP_SLOTS; i++) {
		const struct kmap_slot *slot = &mm->kmap.slot[i];

		if (slot->page == page)
			return i;
		/* Rather an empty one than one that may be wanted again. */
		if (i < limit && slot->users == 0 &&
		    (best == KMAP_SLOTS || (!slot->page && mm->kmap.slot[best].page)))
			best = i;
	}
	return best;
}

/* NULL: all slots in use; MAP_FAILED: the host refused. */
static void *kmap_try(struct mm *mm, struct page *page, unsigned int limit)
{
	struct kmap_slot *slot;
	unsigned int found;
	void *addr = NULL;

	spin_lock(&mm->kmap.lock);
	found = find_slot(mm, page, limit);
	if (found < KMAP_SLOTS) {
		slot = &mm->kmap.slot[found];
		addr = slot_address(mm, found);
		if (slot->page != page) {
			addr = map_slot(mm, found, page);
			slot->page = addr == MAP_FAILED ? NULL : page;
		}
		slot->users += addr != MAP_FAILED;
	}
	spin_unlock(&mm->kmap.lock);
	return addr;
}

void *mm_kmap(struct mm *mm, struct page *page)
{
	const struct timespec pause = { .tv_nsec = 100000 };
	void *addr = mm_page_address(mm, page);

	if (addr || !has_file(mm, page))
		return addr;
	while ((addr = kmap_try(mm, page, KMAP_SLOTS - KMAP_LOCAL_SLOTS)) == NULL)
		nanosleep(&pause, NULL);
	return addr == MAP_FAILED ? NULL : addr;
}

void *mm_kmap_local(struct mm *mm, struct page *page)
{
	void *addr = mm_page_address(mm, page);

	if (addr || !has_file(mm, page))
		return addr;
	addr = kmap_try(mm, page, KMAP_SLOTS);
	return addr == MAP_FAILED ? NULL : addr;
}

static void put_slot(struct mm *mm, unsigned int at)
{
	if (mm->kmap.slot[at].users == 0)
		mm_message(mm, "kunmap of a frame that is not mapped");
	else
		mm->kmap.slot[at].users--;
}

void mm_kunmap(struct mm *mm, struct page *page)
{
	if (!has_file(mm, page))
		return;
	spin_lock(&mm->kmap.lock);
	for (unsigned int i = 0; i < KMAP_SLOTS; i++)
		if (mm->kmap.slot[i].page == page)
			put_slot(mm, i);
	spin_unlock(&mm->kmap.lock);
}

void mm_kunmap_local(struct mm *mm, const void *addr)
{
	uintptr_t offset = (uintptr_t)addr - (uintptr_t)mm->kmap.window;

	if (!mm->kmap.window || offset >> FRAME_SHIFT >= KMAP_SLOTS)
		return;
	spin_lock(&mm->kmap.lock);
	put_slot(mm, (unsigned int)(offset >> FRAME_SHIFT));
	spin_unlock(&mm->kmap.lock);
}

void *kmap_clear(struct mm *mm, struct page *page)
{
	void *addr = mm_page_address(mm, page);

	if (addr || !has_file(mm, page))
		return addr;
	spin_lock(&mm->kmap.clear_lock);
	addr = map_slot(mm, KMAP_CLEAR_SLOT, page);
	if (addr == MAP_FAILED)
		spin_unlock(&mm->kmap.clear_lock);
	return addr;
}

/* After a kmap_clear() of a frame without an address of its own. */
void kunmap_clear(struct mm *mm)
{
	unmap_slot(mm, KMAP_CLEAR_SLOT);
	spin_unlock(&mm->kmap.clear_lock);
}

void kmap_flush(struct mm *mm, uint64_t pfn, uint64_t nr)
{
	if (!mm->kmap.window)
		return;
	spin_lock(&mm->kmap.lock);
	for (unsigned int i = 0; i < KMAP_SLOTS; i++) {
		struct kmap_slot *slot = &mm->kmap.slot[i];

		if (slot->page && slot->users == 0 && pfn_of(mm, slot->page) - pfn < nr) {
			unmap_slot(mm, i);
			slot->page = NULL;
		}
	}
	spin_unlock(&mm->kmap.lock);
}
