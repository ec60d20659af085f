/* SPDX-License-Identifier: MIT */
/*
 * bzImage by the 64-bit boot protocol (Documentation/arch/x86/boot.rst): the setup header's checks
 * and where the kernel goes. The real-mode part is not used; the protected-mode part is entered at
 * its 64-bit entry point, 0x200 behind its start.
 */
#include "vmm/boot/boot.h"

#include <errno.h>
#include <string.h>

#include "framevisor/layout.h"

#define SETUP_HEADER_OFFSET 0x1f1
#define SETUP_HEADER_JUMP   0x201       /* second byte of the jump: the header ends 0x202 + this */
#define SETUP_MAGIC         0x53726448u /* "HdrS" */
#define SETUP_BOOT_FLAG     0xaa55
#define SETUP_VERSION_MIN   0x020c /* 2.12: xloadflags */
#define SETUP_SECTS_DEFAULT 4
#define SECTOR_SIZE         512
#define ENTRY_64            0x200
#define LOADER_UNDEFINED    0xff
#define VID_MODE_NORMAL     0xffff
#define ONE_MIB             0x100000ull

_Static_assert(SETUP_HEADER_OFFSET + sizeof(struct setup_header) <= BOOT_HEAD_SIZE,
	       "the setup header lies in the head");

static uint64_t align_up(uint64_t value, uint64_t alignment)
{
	return (value + alignment - 1) & ~(alignment - 1);
}

/* Copies the header as far as the file says it reaches: fields behind belong to newer versions. */
static int read_header(const struct boot_head *head, struct setup_header *hdr, struct error *err)
{
	size_t end, len;

	if (head->len < SETUP_HEADER_OFFSET + sizeof(*hdr))
		return error_set(err, EINVAL, "kernel %s is not a bzImage: %llu bytes are too few",
				 head->name, (unsigned long long)head->file_size);
	end = 0x202u + head->data[SETUP_HEADER_JUMP];
	len = end - SETUP_HEADER_OFFSET;
	memset(hdr, 0, sizeof(*hdr));
	memcpy(hdr, head->data + SETUP_HEADER_OFFSET, len < sizeof(*hdr) ? len : sizeof(*hdr));
	return 0;
}

static int check_header(const struct boot_head *head, const struct setup_header *hdr,
			struct error *err)
{
	if (hdr->boot_flag != SETUP_BOOT_FLAG || hdr->header != SETUP_MAGIC)
		return error_set(err, EINVAL,
				 "kernel %s is neither a bzImage (no setup header) nor an ELF file",
				 head->name);
	if (hdr->version < SETUP_VERSION_MIN)
		return error_set(err, EINVAL,
				 "kernel %s is too old: boot protocol %u.%u, 2.12 is needed",
				 head->name, hdr->version >> 8, hdr->version & 0xff);
	if (!(hdr->loadflags & LOADED_HIGH))
		return error_set(err, EINVAL, "kernel %s is a zImage, not a bzImage", head->name);
	if (!(hdr->xloadflags & XLF_KERNEL_64))
		return error_set(err, EINVAL,
				 "kernel %s has no 64-bit entry point: a 64-bit kernel is needed",
				 head->name);
	if (hdr->kernel_alignment < GUEST_PAGE_SIZE ||
	    (hdr->kernel_alignment & (hdr->kernel_alignment - 1)) != 0)
		return error_set(err, EINVAL, "kernel %s is damaged: its alignment is %#x",
				 head->name, hdr->kernel_alignment);
	return 0;
}

/* The lowest address that is allowed: the kernel's own one if it cannot be moved. */
static uint64_t lowest_address(const struct setup_header *hdr)
{
	if (hdr->relocatable_kernel)
		return align_up(ONE_MIB, hdr->kernel_alignment);
	return hdr->pref_address ? hdr->pref_address : LAYOUT_KERNEL;
}

/*
 * The preferred address if the guest is large enough, else the lowest one. Returns 0 if it fits
 * nowhere.
 */
static uint64_t place(const struct setup_header *hdr, uint64_t size, uint64_t low_ram_end)
{
	uint64_t address = hdr->pref_address ? hdr->pref_address : LAYOUT_KERNEL;

	if (address >= ONE_MIB && address < low_ram_end && size <= low_ram_end - address)
		return address;
	address = lowest_address(hdr);
	if (address >= ONE_MIB && address < low_ram_end && size <= low_ram_end - address)
		return address;
	return 0;
}

static int no_place(const struct boot_head *head, const struct setup_header *hdr, uint64_t size,
		    struct error *err)
{
	uint64_t end;

	if (__builtin_add_overflow(lowest_address(hdr), size + ONE_MIB - 1, &end))
		return error_set(err, EINVAL, "kernel %s is damaged: impossible load address",
				 head->name);
	return error_set(err, EINVAL,
			 "kernel %s needs %llu MiB of memory below 3 GiB to start: give the guest "
			 "more memory",
			 head->name, (unsigned long long)(end / ONE_MIB));
}

int bzimage_parse(const struct boot_head *head, uint64_t low_ram_end, struct boot_image *image,
		  struct error *err)
{
	struct setup_header *hdr = &image->hdr;
	uint64_t setup_size, payload_size, expected_size, mem_size, address;
	int ret;

	memset(image, 0, sizeof(*image));
	ret = read_header(head, hdr, err);
	if (ret < 0)
		return ret;
	ret = check_header(head, hdr, err);
	if (ret < 0)
		return ret;

	setup_size =
		((hdr->setup_sects ? hdr->setup_sects : SETUP_SECTS_DEFAULT) + 1ull) * SECTOR_SIZE;
	payload_size = hdr->syssize * 16ull;
	if (payload_size <= ENTRY_64)
		return error_set(err, EINVAL, "kernel %s is damaged: it has no code", head->name);
	expected_size = setup_size + payload_size;
	if (head->file_size < expected_size)
		return error_set(err, EINVAL,
				 "kernel %s is truncated: its header says %llu bytes, it has %llu",
				 head->name, (unsigned long long)expected_size,
				 (unsigned long long)head->file_size);

	/* The decompressor works in place and needs init_size bytes from the load address on. */
	mem_size = hdr->init_size > payload_size ? hdr->init_size : payload_size;
	address = place(hdr, mem_size, low_ram_end);
	if (address == 0)
		return no_place(head, hdr, mem_size, err);

	image->nr_segments = 1;
	image->segments[0] = (struct boot_segment){
		.file_offset = setup_size,
		.file_size = payload_size,
		.gpa = address,
		.mem_size = payload_size,
	};
	image->entry = address + ENTRY_64;
	image->end = address + mem_size;
	image->initrd_max = hdr->initrd_addr_max ? hdr->initrd_addr_max : 0x37ffffff;
	image->cmdline_max = hdr->cmdline_size ? hdr->cmdline_size : 255;
	hdr->type_of_loader = LOADER_UNDEFINED;
	hdr->vid_mode = VID_MODE_NORMAL;
	hdr->code32_start = (uint32_t)address;
	return 0;
}
