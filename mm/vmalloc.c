/* SPDX-License-Identifier: MIT */
/*
 * vmalloc: scattered frames at contiguous addresses. The window is divided into slots of one frame;
 * a slot points to the area that has it, so an address leads to its area with one load. A search
 * for room hops from area to area. An area's slots are its frames and the gap behind them.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "framevisor/slab.h"
#include "framevisor/vmalloc.h"
#include "mm/internal.h"
#include "mm/text.h"

#define VMALLOC_GUARD_FRAMES 1u
#define VMALLOC_EXTRA_FRAMES 1024u

struct vm_struct {
	struct list_head list; /* in the order of addresses */
	uint64_t first_slot;
	uint64_t nr_frames; /* without the gap */
	const void *caller;
	bool mapped; /* complete: visible to vread and reports */
	struct page *pages[];
};

struct vmap_state {
	pthread_mutex_t lock; /* areas and slots */
	struct list_head areas;
	void *reserved; /* as mmap() gave it, not aligned */
	size_t reserved_bytes;
	char *window;
	uint64_t nr_slots;
	uint64_t rover; /* where the next search starts */
	nodemask_t nodes;
	int fd[MAX_NUMNODES];
	struct vm_struct *slots[];
};

static struct vmap_state *vmap_get(struct mm *mm)
{
	return __atomic_load_n(&mm->vmap, __ATOMIC_ACQUIRE);
}

static char *area_addr(const struct vmap_state *vmap, const struct vm_struct *area)
{
	return vmap->window + frames_to_bytes(area->first_slot);
}

static int reserve_window(struct vmap_state *vmap)
{
	size_t bytes = frames_to_bytes(vmap->nr_slots + 1);
	void *addr =
		mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (addr == MAP_FAILED)
		return -ENOMEM;
	vmap->reserved = addr;
	vmap->reserved_bytes = bytes;
	vmap->window = (char *)(((uintptr_t)addr + FRAME_SIZE - 1) & (uintptr_t)FRAME_MASK);
	return 0;
}

int mm_vmalloc_init(struct mm *mm, const struct vmalloc_config *config)
{
	uint64_t slots = config->window_frames;
	nodemask_t nodes = 0;
	struct vmap_state *vmap;
	unsigned int nid;

	if (vmap_get(mm))
		return -EBUSY;
	for_each_node (mm, nid) {
		if (config->fd[nid] >= 0)
			nodes |= (nodemask_t)1 << nid;
	}
	if (!nodes || !mm->node[0]->base)
		return -ENODEV;
	if (!slots)
		slots = 2 * mm->hot.nr_pfns + VMALLOC_EXTRA_FRAMES;
	vmap = mm_kzalloc(mm, sizeof(*vmap) + slots * sizeof(struct vm_struct *), GFP_KERNEL);
	if (!vmap)
		return -ENOMEM;
	pthread_mutex_init(&vmap->lock, NULL);
	list_init(&vmap->areas);
	vmap->nr_slots = slots;
	vmap->nodes = nodes;
	memcpy(vmap->fd, config->fd, sizeof(vmap->fd));
	if (reserve_window(vmap)) {
		pthread_mutex_destroy(&vmap->lock);
		mm_kfree(mm, vmap);
		return -ENOMEM;
	}
	__atomic_store_n(&mm->vmap, vmap, __ATOMIC_RELEASE);
	return 0;
}

/* First slot in [from, to) with nr free ones behind it, or to. With the lock held. */
static uint64_t find_slots(const struct vmap_state *vmap, uint64_t from, uint64_t to, uint64_t nr)
{
	uint64_t start = from;
	uint64_t slot = from;

	while (slot < to && slot - start < nr) {
		const struct vm_struct *area = vmap->slots[slot];

		if (area) {
			slot = area->first_slot + area->nr_frames + VMALLOC_GUARD_FRAMES;
			start = slot;
		} else {
			slot++;
		}
	}
	return slot <= to && slot - start >= nr ? start : to;
}

/* Gives the area its place. */
static int area_insert(struct vmap_state *vmap, struct vm_struct *area)
{
	uint64_t nr = area->nr_frames + VMALLOC_GUARD_FRAMES;
	struct list_head *pos;
	uint64_t start;
	uint64_t i;

	pthread_mutex_lock(&vmap->lock);
	start = find_slots(vmap, vmap->rover, vmap->nr_slots, nr);
	if (start == vmap->nr_slots)
		start = find_slots(vmap, 0, vmap->nr_slots, nr);
	if (start == vmap->nr_slots) {
		pthread_mutex_unlock(&vmap->lock);
		return -ENOMEM;
	}
	area->first_slot = start;
	vmap->rover = start + nr;
	for (i = 0; i < nr; i++)
		__atomic_store_n(&vmap->slots[start + i], area, __ATOMIC_RELEASE);
	list_for_each(pos, &vmap->areas)
	{
		if (list_entry(pos, struct vm_struct, list)->first_slot > start)
			break;
	}
	list_add_tail(&area->list, pos);
	pthread_mutex_unlock(&vmap->lock);
	return 0;
}

/*
 * Inaccessible again, and no area any more; the frames keep their content. If the host refuses
 * (vm.max_map_count), the area stays as it is: frames that are still mapped must not be freed.
 */
static bool area_remove(struct mm *mm, struct vmap_state *vmap, struct vm_struct *area)
{
	char *addr = area_addr(vmap, area);
	bool unmapped;
	uint64_t i;

	pthread_mutex_lock(&vmap->lock);
	unmapped =
		mmap(addr, frames_to_bytes(area->nr_frames), PROT_NONE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) != MAP_FAILED;
	if (unmapped) {
		list_del(&area->list);
		for (i = 0; i < area->nr_frames + VMALLOC_GUARD_FRAMES; i++)
			__atomic_store_n(&vmap->slots[area->first_slot + i], NULL,
					 __ATOMIC_RELEASE);
		if (area->first_slot < vmap->rover)
			vmap->rover = area->first_slot;
	}
	pthread_mutex_unlock(&vmap->lock);
	if (!unmapped)
		mm_message(mm, "vmalloc: the host does not unmap %p: %s; its frames are lost",
			   (void *)addr, strerror(errno));
	return unmapped;
}

/* Maps the area's frames, consecutive ones with one call. */
static int area_map(struct mm *mm, struct vmap_state *vmap, struct vm_struct *area)
{
	uint64_t done = 0;

	while (done < area->nr_frames) {
		const struct page *page = area->pages[done];
		unsigned int nid = page_to_nid(page);
		uint64_t run = 1;

		while (done + run < area->nr_frames && area->pages[done + run] == page + run &&
		       page_to_nid(page + run) == nid)
			run++;
		if (mmap(area_addr(vmap, area) + frames_to_bytes(done), frames_to_bytes(run),
			 PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, vmap->fd[nid],
			 (off_t)frames_to_bytes(mm_page_idx(mm, page))) == MAP_FAILED)
			return -errno;
		done += run;
	}
	return 0;
}

static void area_free_frames(struct mm *mm, struct vm_struct *area)
{
	uint64_t i;

	for (i = 0; i < area->nr_frames; i++)
		page_test_and_clear(area->pages[i], PAGE_FLAG(vmalloc));
	mm_free_pages_bulk(mm, area->pages, area->nr_frames, false);
}

/* All frames or none, as many as it has from node nid; without their content cleared. */
static int area_alloc_frames(struct mm *mm, struct vm_struct *area, gfp_t gfp, nodemask_t nodes,
			     int nid)
{
	nodemask_t first = nid >= 0 ? nodes & (nodemask_t)1 << nid : 0;
	uint64_t want = area->nr_frames;
	uint64_t got = 0;
	uint64_t i;

	if (first && first != nodes)
		got = mm_alloc_pages_bulk(mm, (gfp & ~__GFP_RECLAIM) | __GFP_NOWARN, first, want,
					  area->pages);

	while (got < want) {
		uint64_t more = mm_alloc_pages_bulk(mm, gfp, nodes, want - got, area->pages + got);

		if (!more)
			break;
		got += more;
	}
	for (i = 0; i < got; i++)
		page_test_and_set(area->pages[i], PAGE_FLAG(vmalloc));
	if (got == want)
		return 0;
	area->nr_frames = got;
	area_free_frames(mm, area);
	area->nr_frames = want;
	return -ENOMEM;
}

static void area_zero(struct vmap_state *vmap, struct vm_struct *area)
{
	uint64_t i;

	for (i = 0; i < area->nr_frames; i++) {
		if (!page_zeroed(area->pages[i]))
			memset(area_addr(vmap, area) + frames_to_bytes(i), 0, FRAME_SIZE);
	}
}

static void *do_vmalloc(struct mm *mm, size_t size, gfp_t gfp, int nid, const void *caller)
{
	struct vmap_state *vmap = vmap_get(mm);
	uint64_t nr = bytes_to_frames_up(size);
	struct vm_struct *area;
	nodemask_t nodes;

	if (!vmap || size == 0 || nr >= vmap->nr_slots)
		return NULL;
	nodes = vmap->nodes;
	if (nid >= 0 && (gfp & __GFP_THISNODE))
		nodes &= (nodemask_t)1 << nid;
	if (!nodes)
		return NULL;
	area = mm_kmalloc(mm, sizeof(*area) + nr * sizeof(struct page *), gfp & GFP_KERNEL);
	if (!area)
		return NULL;
	*area = (struct vm_struct){ .nr_frames = nr, .caller = caller };
	/* Zeroed frames are preferred, and the others cleared through the new mapping, which also
	 * reaches those outside the permanent one. */
	if (gfp & __GFP_ZERO)
		gfp |= __GFP_SKIP_ZERO;
	if (area_alloc_frames(mm, area, (gfp & ~(gfp_t)__GFP_THISNODE) | __GFP_HIGHMEM, nodes, nid))
		goto free_area;
	if (area_insert(vmap, area))
		goto free_frames;
	if (area_map(mm, vmap, area))
		goto remove;
	if (gfp & __GFP_ZERO)
		area_zero(vmap, area);
	__atomic_store_n(&area->mapped, true, __ATOMIC_RELEASE);
	return area_addr(vmap, area);

remove:
	if (!area_remove(mm, vmap, area))
		return NULL;
free_frames:
	area_free_frames(mm, area);
free_area:
	mm_kfree(mm, area);
	return NULL;
}

void *mm_vmalloc(struct mm *mm, size_t size)
{
	return do_vmalloc(mm, size, GFP_KERNEL, NUMA_NO_NODE, __builtin_return_address(0));
}

void *mm_vzalloc(struct mm *mm, size_t size)
{
	return do_vmalloc(mm, size, GFP_KERNEL | __GFP_ZERO, NUMA_NO_NODE,
			  __builtin_return_address(0));
}

void *mm_vmalloc_node(struct mm *mm, size_t size, gfp_t gfp, int nid)
{
	if (nid >= (int)mm->nr_nodes)
		return NULL;
	return do_vmalloc(mm, size, gfp, nid, __builtin_return_address(0));
}

/* The area that addr lies in (its gap included), or NULL. */
static struct vm_struct *find_area(const struct vmap_state *vmap, const void *addr)
{
	uint64_t slot;

	if (!vmap || (uintptr_t)addr < (uintptr_t)vmap->window)
		return NULL;
	slot = bytes_to_frames((uintptr_t)addr - (uintptr_t)vmap->window);
	return slot < vmap->nr_slots ? __atomic_load_n(&vmap->slots[slot], __ATOMIC_ACQUIRE) : NULL;
}

static void area_release(struct mm *mm, struct vmap_state *vmap, struct vm_struct *area)
{
	if (!area_remove(mm, vmap, area))
		return;
	area_free_frames(mm, area);
	mm_kfree(mm, area);
}

void mm_vfree(struct mm *mm, const void *addr)
{
	struct vmap_state *vmap = vmap_get(mm);
	struct vm_struct *area = find_area(vmap, addr);
	bool expected = true;

	if (!addr)
		return;
	/* Whoever clears mapped frees the area: a second vfree at the same time does not. */
	if (!area || area_addr(vmap, area) != (const char *)addr ||
	    !__atomic_compare_exchange_n(&area->mapped, &expected, false, false, __ATOMIC_ACQ_REL,
					 __ATOMIC_RELAXED)) {
		mm_message(mm, "vmalloc: vfree of %p, which is not the start of an area", addr);
		return;
	}
	area_release(mm, vmap, area);
}

bool mm_is_vmalloc_addr(struct mm *mm, const void *addr)
{
	const struct vmap_state *vmap = vmap_get(mm);

	return vmap && (uintptr_t)addr >= (uintptr_t)vmap->window &&
	       bytes_to_frames((uintptr_t)addr - (uintptr_t)vmap->window) < vmap->nr_slots;
}

struct page *mm_vmalloc_to_page(struct mm *mm, const void *addr)
{
	const struct vmap_state *vmap = vmap_get(mm);
	const struct vm_struct *area = find_area(vmap, addr);
	uint64_t index;

	if (!area || !__atomic_load_n(&area->mapped, __ATOMIC_ACQUIRE))
		return NULL;
	index = bytes_to_frames((uintptr_t)addr - (uintptr_t)area_addr(vmap, area));
	return index < area->nr_frames ? area->pages[index] : NULL;
}

size_t mm_vread(struct mm *mm, void *buf, const void *addr, size_t count)
{
	struct vmap_state *vmap = vmap_get(mm);
	const char *from = addr;
	bool any = false;
	size_t done = 0;

	if (!vmap || count == 0 || count > UINTPTR_MAX - (uintptr_t)addr)
		return 0;
	/* The lock keeps areas from going away while they are copied. */
	pthread_mutex_lock(&vmap->lock);
	while (done < count) {
		size_t left = FRAME_SIZE - ((uintptr_t)(from + done) & (FRAME_SIZE - 1));
		size_t n = left < count - done ? left : count - done;

		if (mm_vmalloc_to_page(mm, from + done)) {
			memcpy((char *)buf + done, from + done, n);
			any = true;
		} else {
			memset((char *)buf + done, 0, n);
		}
		done += n;
	}
	pthread_mutex_unlock(&vmap->lock);
	return any ? count : 0;
}

int mm_report_vmallocinfo(struct mm *mm, char *buf, size_t len)
{
	struct vmap_state *vmap = vmap_get(mm);
	struct text text = { .buf = buf, .len = len };
	struct list_head *pos;

	if (len)
		buf[0] = '\0';
	if (!vmap)
		return 0;
	pthread_mutex_lock(&vmap->lock);
	list_for_each(pos, &vmap->areas)
	{
		const struct vm_struct *area = list_entry(pos, struct vm_struct, list);
		char *start = area_addr(vmap, area);
		uint64_t frames = area->nr_frames + VMALLOC_GUARD_FRAMES;
		unsigned int nid;
		uint64_t i;

		if (!__atomic_load_n(&area->mapped, __ATOMIC_ACQUIRE))
			continue;
		text_add(&text, "%p-%p %7llu %p pages=%llu vmalloc", (void *)start,
			 (void *)(start + frames_to_bytes(frames)),
			 (unsigned long long)frames_to_bytes(frames), area->caller,
			 (unsigned long long)area->nr_frames);
		for_each_node (mm, nid) {
			uint64_t on_node = 0;

			for (i = 0; i < area->nr_frames; i++)
				on_node += page_to_nid(area->pages[i]) == nid;
			if (on_node)
				text_add(&text, " N%u=%llu", nid, (unsigned long long)on_node);
		}
		text_add(&text, "\n");
	}
	pthread_mutex_unlock(&vmap->lock);
	return (int)text.used;
}

uint64_t mm_vmalloc_exit(struct mm *mm)
{
	struct vmap_state *vmap = vmap_get(mm);
	struct list_head *pos;
	struct list_head *next;
	uint64_t nr = 0;

	if (!vmap)
		return 0;
	list_for_each_safe(pos, next, &vmap->areas)
	{
		struct vm_struct *area = list_entry(pos, struct vm_struct, list);

		mm_message(mm, "vmalloc: area %p of %llu frames, allocated by %p, was never freed",
			   (void *)area_addr(vmap, area), (unsigned long long)area->nr_frames,
			   area->caller);
		area_release(mm, vmap, area);
		nr++;
	}
	munmap(vmap->reserved, vmap->reserved_bytes);
	pthread_mutex_destroy(&vmap->lock);
	mm->vmap = NULL;
	mm_kfree(mm, vmap);
	return nr;
}
