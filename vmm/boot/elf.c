/* SPDX-License-Identifier: MIT */
/*
 * Static ELF64 images: the freestanding guest tests, and an uncompressed vmlinux. Segments go to
 * their physical addresses; the entry point is called in the state of the 64-bit boot protocol.
 */
#include "vmm/boot/boot.h"

#include <elf.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "framevisor/layout.h"

#define ONE_MIB 0x100000ull

static int check_ident(const struct boot_head *head, const Elf64_Ehdr *ehdr, struct error *err)
{
	if (ehdr->e_ident[EI_CLASS] != ELFCLASS64 || ehdr->e_ident[EI_DATA] != ELFDATA2LSB ||
	    ehdr->e_machine != EM_X86_64)
		return error_set(err, EINVAL, "kernel %s is not an ELF file for x86-64",
				 head->name);
	if (ehdr->e_type != ET_EXEC)
		return error_set(err, EINVAL, "kernel %s is not a statically linked executable",
				 head->name);
	return 0;
}

static int add_segment(const struct boot_head *head, const Elf64_Phdr *phdr, uint64_t low_ram_end,
		       struct boot_image *image, struct error *err)
{
	uint64_t end, file_end;

	if (phdr->p_memsz == 0)
		return 0;
	if (image->nr_segments == BOOT_SEGMENTS_MAX)
		return error_set(err, EINVAL, "kernel %s has more than %d segments", head->name,
				 BOOT_SEGMENTS_MAX);
	if (phdr->p_filesz > phdr->p_memsz ||
	    __builtin_add_overflow(phdr->p_paddr, phdr->p_memsz, &end) ||
	    __builtin_add_overflow(phdr->p_offset, phdr->p_filesz, &file_end))
		return error_set(err, EINVAL, "kernel %s is damaged: impossible segment sizes",
				 head->name);
	if (file_end > head->file_size)
		return error_set(err, EINVAL,
				 "kernel %s is truncated: a segment ends at byte %llu of %llu",
				 head->name, (unsigned long long)file_end,
				 (unsigned long long)head->file_size);
	if (phdr->p_paddr < ONE_MIB)
		return error_set(err, EINVAL,
				 "kernel %s has a segment at %#llx, below 1 MiB, where the boot "
				 "structures are",
				 head->name, (unsigned long long)phdr->p_paddr);
	if (end > low_ram_end)
		return error_set(err, EINVAL,
				 "kernel %s needs memory up to %#llx, the guest's ends at %#llx: "
				 "give it more memory",
				 head->name, (unsigned long long)end,
				 (unsigned long long)low_ram_end);

	image->segments[image->nr_segments++] = (struct boot_segment){
		.file_offset = phdr->p_offset,
		.file_size = phdr->p_filesz,
		.gpa = phdr->p_paddr,
		.mem_size = phdr->p_memsz,
	};
	if (end > image->end)
		image->end = end;
	return 0;
}

static bool entry_is_loaded(const struct boot_image *image)
{
	unsigned int i;

	for (i = 0; i < image->nr_segments; i++) {
		const struct boot_segment *segment = &image->segments[i];

		if (image->entry >= segment->gpa &&
		    image->entry - segment->gpa < segment->file_size)
			return true;
	}
	return false;
}

static int add_segments(const struct boot_head *head, const Elf64_Ehdr *ehdr, uint64_t low_ram_end,
			struct boot_image *image, struct error *err)
{
	unsigned int i;
	int ret;

	for (i = 0; i < ehdr->e_phnum; i++) {
		Elf64_Phdr phdr;

		memcpy(&phdr, head->data + ehdr->e_phoff + i * sizeof(phdr), sizeof(phdr));
		if (phdr.p_type == PT_INTERP)
			return error_set(err, EINVAL,
					 "kernel %s is dynamically linked: a program, not a kernel",
					 head->name);
		if (phdr.p_type != PT_LOAD)
			continue;
		ret = add_segment(head, &phdr, low_ram_end, image, err);
		if (ret < 0)
			return ret;
	}
	return 0;
}

int elf_parse(const struct boot_head *head, uint64_t low_ram_end, struct boot_image *image,
	      struct error *err)
{
	Elf64_Ehdr ehdr;
	int ret;

	memset(image, 0, sizeof(*image));
	if (head->len < sizeof(ehdr))
		return error_set(err, EINVAL, "kernel %s is truncated: no whole ELF header",
				 head->name);
	memcpy(&ehdr, head->data, sizeof(ehdr));
	ret = check_ident(head, &ehdr, err);
	if (ret < 0)
		return ret;
	/* Linkers put the program headers right behind the ELF header. */
	if (ehdr.e_phentsize != sizeof(Elf64_Phdr) || ehdr.e_phnum == 0 ||
	    ehdr.e_phoff > head->len ||
	    ehdr.e_phnum > (head->len - ehdr.e_phoff) / sizeof(Elf64_Phdr))
		return error_set(err, EINVAL,
				 "kernel %s is damaged or has its ELF program headers beyond the "
				 "first %d bytes",
				 head->name, BOOT_HEAD_SIZE);

	ret = add_segments(head, &ehdr, low_ram_end, image, err);
	if (ret < 0)
		return ret;
	image->entry = ehdr.e_entry;
	if (!entry_is_loaded(image))
		return error_set(err, EINVAL,
				 "kernel %s is damaged: its entry point %#llx is in no segment",
				 head->name, (unsigned long long)ehdr.e_entry);
	image->initrd_max = LAYOUT_LOW_RAM_END - 1;
	image->cmdline_max = LAYOUT_CMDLINE_MAX - 1;

	/* A vmlinux looks at these to see that a boot loader filled boot_params. */
	image->hdr.boot_flag = 0xaa55;
	image->hdr.header = 0x53726448; /* "HdrS" */
	image->hdr.version = 0x020f;
	image->hdr.type_of_loader = 0xff;
	image->hdr.kernel_alignment = 0x200000;
	return 0;
}
