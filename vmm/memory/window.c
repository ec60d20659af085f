/* SPDX-License-Identifier: MIT */
/*
 * The window: the address range through which this process and KVM see the guest's RAM.
 *
 * Its base is an empty file (the hole) under userfaultfd; pool frames are mapped over it one run at
 * a time. The hole is a hugetlb file when the pool is: over a base of small pages the mmap that
 * replaces it would have to free a page table first, which costs five times as much.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "framevisor/log.h"
#include "vmm/memory/internal.h"

#define GIB (UINT64_C(1) << 30)

/* Where a range wants to begin: congruent with its guest address modulo 1 GiB if it is that large,
 * so that pages of any size that back the guest's addresses fit the window's as well. */
static uint64_t place(uint64_t offset, const struct vm_memory_range *range)
{
	uint64_t align = range->size >= GIB ? GIB : FRAME_SIZE;
	uint64_t want = range->gpa & (align - 1);

	return offset + ((want - offset) & (align - 1));
}

/* Fills ranges[] with offsets instead of addresses; returns the window's size or -EINVAL. */
static int64_t layout_ranges(struct vm_memory *mem, const struct vm_memory_config *config)
{
	unsigned int nr_ranges = config->nr_ranges + config->nr_hotplug;
	uint64_t offset = 0;
	uint64_t frames = 0;

	if (config->nr_ranges == 0 || config->nr_ranges > GUEST_REGIONS_MAX ||
	    config->nr_hotplug > GUEST_REGIONS_MAX - config->nr_ranges)
		return -EINVAL;
	for (unsigned int i = 0; i < nr_ranges; i++) {
		bool boot = i < config->nr_ranges;
		const struct vm_memory_range *range =
			boot ? &config->ranges[i] : &config->hotplug[i - config->nr_ranges];
		uint64_t align = boot ? FRAME_SIZE : VM_MEMORY_SLOT_SIZE;

		if (range->size == 0 || (range->size | range->gpa) & (align - 1) ||
		    range->size > (UINT64_C(1) << 46) || range->gpa > (UINT64_C(1) << 52))
			return -EINVAL;
		if (i == config->nr_ranges)
			mem->nr_boot_frames = (uint32_t)frames;
		offset = place(offset, range);
		mem->ranges[i] = (struct window_range){
			.gpa = range->gpa,
			.nr_frames = bytes_to_frames(range->size),
			.hva = (uint8_t *)(uintptr_t)offset,
			.first = (uint32_t)frames,
			.node = range->node,
		};
		offset += range->size;
		frames += bytes_to_frames(range->size);
		if (frames >= NO_FRAME)
			return -EINVAL;
	}
	if (frames == 0)
		return -EINVAL;
	mem->nr_ranges = nr_ranges;
	mem->nr_boot_ranges = config->nr_ranges;
	mem->nr_frames = (uint32_t)frames;
	if (config->nr_hotplug == 0)
		mem->nr_boot_frames = mem->nr_frames;
	return (int64_t)offset;
}

static uint64_t span_up(uint64_t size)
{
	return (size + VM_MEMORY_SPAN - 1) & ~(VM_MEMORY_SPAN - 1);
}

/*
 * Reserves size bytes, and room for views, on a boundary that is one of 1 GiB as well, so that
 * offsets are congruent like addresses; and a span below it in which nothing ever is.
 */
static int reserve(struct vm_memory *mem, uint64_t size)
{
	uint64_t all = span_up(size + frames_to_bytes(VIEW_FRAMES)), head;
	uint8_t *map = mmap(NULL, all + 2 * VM_MEMORY_SPAN, PROT_NONE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (map == MAP_FAILED)
		return -errno;
	head = -(uint64_t)(uintptr_t)map & (VM_MEMORY_SPAN - 1);
	if (head)
		munmap(map, head);
	if (VM_MEMORY_SPAN - head)
		munmap(map + head + VM_MEMORY_SPAN + all, VM_MEMORY_SPAN - head);
	mem->reserved = map + head + VM_MEMORY_SPAN;
	mem->reserved_size = all;
	mem->views = mem->reserved + all - frames_to_bytes(VIEW_FRAMES);
	return 0;
}

void vm_memory_span(const struct vm_memory *mem, struct vm_memory_span *span)
{
	*span = (struct vm_memory_span){
		.guard = (uint64_t)(uintptr_t)mem->reserved - VM_MEMORY_SPAN,
		.window = (uint64_t)(uintptr_t)mem->reserved,
		.views = (uint64_t)(uintptr_t)mem->views,
		.end = (uint64_t)(uintptr_t)mem->reserved + mem->reserved_size,
	};
}

/* One mapping per bound frame is the worst case, because hugetlb mappings never merge. */
static void check_map_count(const struct vm_memory *mem)
{
	FILE *f = fopen("/proc/sys/vm/max_map_count", "re");
	char line[32] = "";
	unsigned long max;

	if (!f)
		return;
	if (!fgets(line, sizeof(line), f))
		line[0] = '\0';
	fclose(f);
	max = strtoul(line, NULL, 10);
	if (max != 0 && mem->nr_frames + 1000UL > max)
		log_warn("%u frames of guest memory may need more mappings than vm.max_map_count "
			 "(%lu) allows; raise it with: sysctl vm.max_map_count=%lu",
			 mem->nr_frames, max, 2 * (mem->nr_frames + 1000UL));
}

static int create_hole(struct vm_memory *mem, struct error *err)
{
	unsigned int flags = MFD_CLOEXEC;

	if (mem->hugetlb)
		flags |=
			MFD_HUGETLB | (FRAME_SHIFT == FRAME_SHIFT_1G ? MFD_HUGE_1GB : MFD_HUGE_2MB);
	mem->hole_fd = memfd_create("framevisor-hole", flags);
	if (mem->hole_fd < 0)
		return error_set_errno(err, errno,
				       "cannot create the empty file under the guest's memory");
	if (ftruncate(mem->hole_fd, (off_t)frames_to_bytes(mem->nr_frames)) != 0)
		return error_set_errno(err, errno,
				       "cannot size the empty file under the guest's memory");
	return 0;
}

/* Pluggable: nothing of it is plugged. */
static int add_region(struct vm_memory *mem, struct window_range *range)
{
	uint64_t len = frames_to_bytes(range->nr_frames);

	if (range->first < mem->nr_boot_frames)
		return guest_memory_add_region(&mem->guest, range->gpa, len, range->hva);
	range->plugged = calloc(GUEST_PLUGGED_WORDS(len), sizeof(*range->plugged));
	if (!range->plugged)
		return -ENOMEM;
	for (uint32_t n = 0; n < range->nr_frames; n++)
		mem->frames[range->first + n].flags = GUEST_FRAME_UNPLUGGED;
	return guest_memory_add_pluggable(&mem->guest, range->gpa, len, range->hva, range->plugged);
}

/* Maps the hole over a range, still an offset, and makes it known. */
static int open_range(struct vm_memory *mem, struct window_range *range, struct error *err)
{
	uint64_t len = frames_to_bytes(range->nr_frames);
	int ret;

	range->hva = mem->reserved + (uintptr_t)range->hva;
	if (mmap(range->hva, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED,
		 mem->hole_fd, (off_t)frames_to_bytes(range->first)) == MAP_FAILED)
		return error_set_errno(err, errno, "cannot map the guest memory window");
	ret = add_region(mem, range);
	if (ret)
		return error_set_errno(err, -ret, "guest memory range at 0x%llx",
				       (unsigned long long)range->gpa);
	if (mem->uffd < 0)
		return 0;
	ret = uffd_register(mem->uffd, range->hva, len, UFFDIO_REGISTER_MODE_MISSING);
	if (ret)
		return error_set_errno(err, -ret, "cannot register guest memory with userfaultfd");
	return 0;
}

int window_create(struct vm_memory *mem, const struct vm_memory_config *config, struct error *err)
{
	int64_t size = layout_ranges(mem, config);
	int ret;

	if (size < 0)
		return error_set(
			err, EINVAL,
			"guest memory ranges must be non-empty multiples of %s (of a slot for "
			"what can be plugged), at most %d",
			frame_size_name(), GUEST_REGIONS_MAX);
	check_map_count(mem);
	mem->frames = calloc(mem->nr_frames, sizeof(*mem->frames));
	if (!mem->frames)
		return error_set(err, ENOMEM, "no memory for the records of %u guest frames",
				 mem->nr_frames);
	ret = reserve(mem, (uint64_t)size);
	if (ret)
		return error_set_errno(err, -ret, "cannot reserve %lld bytes of address space",
				       (long long)size);
	ret = create_hole(mem, err);
	if (ret)
		return ret;

	for (unsigned int i = 0; i < mem->nr_ranges && ret == 0; i++)
		ret = open_range(mem, &mem->ranges[i], err);
	return ret;
}

/* Whether the window shows a hole in the place of a frame. */
static bool shows_hole(const struct guest_frame *frame)
{
	return !frame_bound(frame) || (frame->flags & GUEST_FRAME_DETACHED);
}

void window_fill_holes(struct vm_memory *mem)
{
	pthread_mutex_lock(&mem->lock);
	for (uint32_t first = 0, nr; first < mem->nr_frames; first += nr) {
		const struct window_range *range = window_range_of(mem, first);
		uint32_t end = range->first + (uint32_t)range->nr_frames;
		bool hole = shows_hole(&mem->frames[first]);

		for (nr = 1; first + nr < end; nr++)
			if (shows_hole(&mem->frames[first + nr]) != hole)
				break;
		/* What cannot be mapped stays what it was: whoever touches it is on its own. */
		if (hole &&
		    mmap(window_frame_hva(mem, first), frames_to_bytes(nr), PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
			 0) == MAP_FAILED)
			log_warn("cannot map memory for the end: errno %d", errno);
	}
	pthread_mutex_unlock(&mem->lock);
}

void window_destroy(struct vm_memory *mem)
{
	if (mem->reserved)
		munmap(mem->reserved - VM_MEMORY_SPAN, VM_MEMORY_SPAN + mem->reserved_size);
	mem->reserved = NULL;
	if (mem->hole_fd >= 0 && !mem->hole_moved)
		close(mem->hole_fd);
	mem->hole_fd = -1;
	for (unsigned int i = 0; i < mem->nr_ranges; i++) {
		free(mem->ranges[i].plugged);
		mem->ranges[i].plugged = NULL;
	}
}

int vm_memory_move_hole(struct vm_memory *mem, int to)
{
	int ret = 0;

	pthread_mutex_lock(&mem->take_lock);
	if (dup3(mem->hole_fd, to, O_CLOEXEC) < 0) {
		ret = -errno;
	} else {
		close(mem->hole_fd);
		mem->hole_fd = to;
		mem->hole_moved = true;
	}
	pthread_mutex_unlock(&mem->take_lock);
	return ret;
}

uint32_t window_frame_at(const struct vm_memory *mem, uint64_t hva)
{
	for (unsigned int i = 0; i < mem->nr_ranges; i++) {
		const struct window_range *range = &mem->ranges[i];
		uint64_t offset = hva - (uint64_t)(uintptr_t)range->hva;

		if (bytes_to_frames(offset) < range->nr_frames)
			return range->first + (uint32_t)bytes_to_frames(offset);
	}
	return NO_FRAME;
}

const struct window_range *window_range_of(const struct vm_memory *mem, uint32_t frame)
{
	const struct window_range *range = &mem->ranges[mem->nr_ranges - 1];

	while (frame < range->first)
		range--;
	return range;
}

uint8_t *window_frame_hva(const struct vm_memory *mem, uint32_t frame)
{
	const struct window_range *range = window_range_of(mem, frame);

	return range->hva + frames_to_bytes(frame - range->first);
}

uint64_t window_frame_gpa(const struct vm_memory *mem, uint32_t frame)
{
	const struct window_range *range = window_range_of(mem, frame);

	return range->gpa + frames_to_bytes(frame - range->first);
}

int window_frames(const struct vm_memory *mem, uint64_t gpa, uint64_t nr_frames, uint32_t *first,
		  uint32_t *nr)
{
	if (!frame_aligned(gpa))
		return -EINVAL;
	for (unsigned int i = 0; i < mem->nr_ranges; i++) {
		const struct window_range *range = &mem->ranges[i];
		uint64_t offset = bytes_to_frames(gpa - range->gpa);

		if (gpa < range->gpa || offset >= range->nr_frames)
			continue;
		*first = range->first + (uint32_t)offset;
		*nr = (uint32_t)(range->nr_frames - offset);
		if (nr_frames < *nr)
			*nr = (uint32_t)nr_frames;
		return 0;
	}
	return -EINVAL;
}

/* Returns hole, or MAP_FAILED with errno set and nothing left of it. */
static void *register_hole(const struct vm_memory *mem, void *hole, uint64_t len)
{
	int ret = uffd_register(mem->uffd, hole, len, UFFDIO_REGISTER_MODE_MISSING);

	if (ret == 0)
		return hole;
	munmap(hole, len);
	errno = -ret;
	return MAP_FAILED;
}

void *window_spare_hole(const struct vm_memory *mem, uint32_t first, uint32_t nr)
{
	uint64_t len = frames_to_bytes(nr);
	uint8_t *area, *hole;
	uint64_t head;
	int ret;

	/* Hugepages are placed on hugepages. */
	if (mem->hugetlb) {
		hole = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
			    mem->hole_fd, (off_t)frames_to_bytes(first));
		return hole == MAP_FAILED ? MAP_FAILED : register_hole(mem, hole, len);
	}
	/* A frame more than needed, so that a hole in an ordinary file, too, starts on a frame. */
	area = mmap(NULL, len + FRAME_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		    -1, 0);
	if (area == MAP_FAILED)
		return MAP_FAILED;
	head = -(uint64_t)(uintptr_t)area & (FRAME_SIZE - 1);
	hole = area + head;
	if (head)
		munmap(area, head);
	munmap(hole + len, FRAME_SIZE - head);

	if (mmap(hole, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED,
		 mem->hole_fd, (off_t)frames_to_bytes(first)) == MAP_FAILED) {
		ret = errno;
		munmap(hole, len);
		errno = ret;
		return MAP_FAILED;
	}
	return register_hole(mem, hole, len);
}

/*
 * mmap as a plain system call. ThreadSanitizer takes the library's mmap() for a write to the range
 * and would report a race with the thread whose touch is answered here: it cannot see that this
 * thread is woken by the kernel afterwards.
 */
static int map_pool(uint8_t *hva, uint64_t len, int flags, int fd, uint64_t offset)
{
	return syscall(SYS_mmap, hva, len, PROT_READ | PROT_WRITE, flags, fd, offset) == -1 ? -1
											    : 0;
}

/*
 * A mapping of the pool's failed that the sandbox's keeper may have allowed: it waits for it, and
 * everybody for the keeper, until this thread is seen to do something else. An impossible call is.
 * Keeps errno.
 */
static void tell_not_mapped(int fd)
{
	int error = errno;

	syscall(SYS_mmap, NULL, 0, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0);
	errno = error;
}

int window_bind(struct vm_memory *mem, uint32_t first, const struct frame_run *run)
{
	int fd = owner_client_node_fd(mem->client, run->node);
	uint8_t *hva = window_frame_hva(mem, first);
	uint64_t len = frames_to_bytes(run->nr);
	int flags = MAP_SHARED | MAP_FIXED;
	bool silent = true;

	/*
	 * A thread that touches the frame from here on gets the pool's (zeroed) frame, before
	 * or after it is registered: there is no moment at which a write could be lost.
	 * Ordinary memory is entered into the page tables in one go, hugepages by UFFDIO_CONTINUE.
	 */
	if (!mem->hugetlb)
		flags |= MAP_POPULATE;
	if (map_pool(hva, len, flags, fd, frames_to_bytes(run->first)) != 0) {
		tell_not_mapped(fd);
		return -errno;
	}
	/* If this fails the frame works all the same, only without MINOR events. */
	if (mem->minor)
		silent = uffd_register(mem->uffd, hva, len,
				       UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR) !=
			 0;

	for (uint32_t i = 0; i < run->nr; i++) {
		struct guest_frame *frame = &mem->frames[first + i];

		frame->state = FRAME_BOUND;
		frame->node = run->node;
		frame->pool_frame = (uint32_t)run->first + i;
		if (frame->flags & GUEST_FRAME_RELEASED) {
			mem->stats.released--;
			frame->idle_ms = 0; /* what it was used for is over */
		}
		frame->flags &=
			(uint16_t) ~(RELEASED_FLAGS | GUEST_FRAME_SILENT | GUEST_FRAME_DETACHED);
		if (silent)
			frame->flags |= GUEST_FRAME_SILENT;
		frame_lru_add(mem, first + i, LIST_ACTIVE);
	}
	window_count_bound(mem, first, (int)run->nr);
	return 0;
}

void window_count_bound(struct vm_memory *mem, uint32_t number, int nr)
{
	struct window_range *range = &mem->ranges[window_range_of(mem, number) - mem->ranges];

	mem->stats.bound += (uint64_t)(int64_t)nr;
	range->stock->bound += (uint32_t)nr;
	range->bound[mem->frames[number].node] += (uint32_t)nr;
}

/* UFFDIO_CONTINUE found no page in the pool's file. The owner populates its files, so it must have
 * shrunk or lost one: let the kernel fill the frame instead of raising the same fault for ever. */
static void bind_unpopulated(struct vm_memory *mem, const uint8_t *hva)
{
	uint32_t number = window_frame_at(mem, (uint64_t)(uintptr_t)hva);
	struct uffdio_range range = { .start = (uint64_t)(uintptr_t)hva, .len = FRAME_SIZE };

	log_error("a frame of the pool has no memory behind it (guest memory at %p)",
		  (const void *)hva);
	ioctl(mem->uffd, UFFDIO_UNREGISTER, &range);
	/* Its touches raise no events from now on: only a hole can park it. */
	mem->frames[number].flags |= GUEST_FRAME_SILENT;
	uffd_wake(mem->uffd, hva, FRAME_SIZE);
}

int window_continue(struct vm_memory *mem, uint32_t first, uint32_t nr)
{
	uint8_t *hva = window_frame_hva(mem, first);
	uint8_t *end = hva + frames_to_bytes(nr);

	if (mem->uffd < 0)
		return 0;
	if (!mem->minor) {
		uffd_wake(mem->uffd, hva, frames_to_bytes(nr));
		return 0;
	}
	while (hva < end) {
		struct uffdio_continue arg = {
			.range = { .start = (uint64_t)(uintptr_t)hva,
				   .len = (uint64_t)(end - hva) },
		};

		if (ioctl(mem->uffd, UFFDIO_CONTINUE, &arg) == 0)
			break;
		if (arg.mapped > 0) { /* so far; the next round says why not further */
			hva += arg.mapped;
			continue;
		}
		if (errno == EAGAIN)
			return -EAGAIN;
		/* EEXIST: mapped already; ENOENT: not registered. Both need just a wake. */
		if (errno == EFAULT)
			bind_unpopulated(mem, hva);
		else
			uffd_wake(mem->uffd, hva, FRAME_SIZE);
		hva += FRAME_SIZE;
	}
	return 0;
}

static bool view_bit(const struct vm_memory *mem, uint32_t slot)
{
	return mem->views_used[slot / 64] >> slot % 64 & 1;
}

static void flip_views(struct vm_memory *mem, uint32_t first, uint32_t nr)
{
	for (uint32_t slot = first; slot < first + nr; slot++)
		mem->views_used[slot / 64] ^= UINT64_C(1) << slot % 64;
}

/* Room for nr frames; NULL: there is none, errno is set. */
static uint8_t *take_view(struct vm_memory *mem, uint32_t nr)
{
	uint8_t *view = NULL;
	uint32_t free = 0;

	pthread_mutex_lock(&mem->view_lock);
	for (uint32_t slot = 0; slot < VIEW_FRAMES && !view; slot++) {
		free = view_bit(mem, slot) ? 0 : free + 1;
		if (free < nr)
			continue;
		flip_views(mem, slot + 1 - nr, nr);
		view = mem->views + frames_to_bytes(slot + 1 - nr);
	}
	pthread_mutex_unlock(&mem->view_lock);
	if (!view)
		errno = ENOMEM;
	return view;
}

static void give_view(struct vm_memory *mem, const uint8_t *view, uint32_t nr)
{
	pthread_mutex_lock(&mem->view_lock);
	flip_views(mem, bytes_to_frames((uint64_t)(view - mem->views)), nr);
	pthread_mutex_unlock(&mem->view_lock);
}

void *window_view(struct vm_memory *mem, const struct frame_run *run, int prot)
{
	int fd = owner_client_node_fd(mem->client, run->node);
	uint8_t *view = take_view(mem, run->nr);

	if (!view)
		return NULL;
	if (mmap(view, frames_to_bytes(run->nr), prot, MAP_SHARED | MAP_FIXED, fd,
		 (off_t)frames_to_bytes(run->first)) != MAP_FAILED)
		return view;
	tell_not_mapped(fd);
	give_view(mem, view, run->nr);
	return NULL;
}

void window_view_end(struct vm_memory *mem, void *view, const struct frame_run *run)
{
	/* Not unmapped: the place stays reserved. */
	if (mmap(view, frames_to_bytes(run->nr), PROT_NONE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED) {
		log_error("cannot end a view of the guest's memory: errno %d", errno);
		return; /* the place is lost */
	}
	give_view(mem, view, run->nr);
}

int window_zero(struct vm_memory *mem, const struct frame_run *run)
{
	struct frame_run part = *run;
	uint64_t end = run->first + run->nr;
	/* In parts: others need room for their views, and may have taken some. */
	uint32_t max = VIEW_FRAMES / 4;

	while (part.first < end) {
		void *view;

		part.nr = end - part.first < max ? (uint32_t)(end - part.first) : max;
		view = window_view(mem, &part, PROT_READ | PROT_WRITE);
		if (!view && (errno != ENOMEM || max == 1))
			return -errno;
		if (!view) {
			max /= 2;
			continue;
		}
		memset(view, 0, frames_to_bytes(part.nr));
		window_view_end(mem, view, &part);
		part.first += part.nr;
	}
	return 0;
}
