/* SPDX-License-Identifier: MIT */
/*
 * Kernel, initrd and command line: checked before anything of the machine exists, then loaded into
 * guest memory as often as the machine starts. (x86 boot protocol, 64-bit entry; ELF64 images are
 * entered in the same state.)
 */
#ifndef VMM_BOOT_BOOT_H
#define VMM_BOOT_BOOT_H

#include <stddef.h>
#include <stdint.h>

#include "framevisor/error.h"
#include "framevisor/guest_memory.h"
#include "vmm/boot/acpi.h"

#include <asm/bootparam.h>

/* Selectors of the GDT at LAYOUT_GDT: the boot protocol's __BOOT_CS and __BOOT_DS. */
#define BOOT_CS        0x10
#define BOOT_DS        0x18
#define BOOT_TSS       0x20
#define BOOT_GDT_LIMIT (6 * 8 - 1)

/* What a bzImage's or an ELF's first bytes must tell; all parsers look at these bytes only. */
#define BOOT_HEAD_SIZE 4096

/* The command line of a guest whose user gave none. */
#define BOOT_DEFAULT_CMDLINE "console=ttyS0"

#define BOOT_SEGMENTS_MAX 16

/* Bytes of the kernel file and where they go; mem_size - file_size bytes behind are zeroed. */
struct boot_segment {
	uint64_t file_offset;
	uint64_t file_size;
	uint64_t gpa;
	uint64_t mem_size;
};

/* A kernel image that has been checked against a guest's memory. */
struct boot_image {
	unsigned int nr_segments;
	struct boot_segment segments[BOOT_SEGMENTS_MAX];
	uint64_t entry;          /* guest-physical address of the first instruction */
	uint64_t end;            /* the kernel uses nothing of its memory image from here up */
	uint64_t initrd_max;     /* highest address an initrd may use, inclusive */
	uint64_t cmdline_max;    /* without the terminating 0 */
	struct setup_header hdr; /* goes into boot_params */
};

/* A kernel file as the parsers see it. */
struct boot_head {
	const char *name;    /* for messages */
	const uint8_t *data; /* its first len bytes */
	size_t len;          /* at most BOOT_HEAD_SIZE */
	uint64_t file_size;  /* of all of it, >= len */
};

/*
 * Checks an image and decides where it is loaded. low_ram_end is the end of the guest's RAM below 4
 * GiB. Every field is taken as hostile. Returns 0 or -EINVAL with a message that names the file.
 */
int bzimage_parse(const struct boot_head *head, uint64_t low_ram_end, struct boot_image *image,
		  struct error *err);
int elf_parse(const struct boot_head *head, uint64_t low_ram_end, struct boot_image *image,
	      struct error *err);
/* Calls the one that fits the magic number. */
int boot_parse(const struct boot_head *head, uint64_t low_ram_end, struct boot_image *image,
	       struct error *err);

struct boot_config {
	const char *kernel;
	const char *initrd;  /* NULL: none */
	const char *cmdline; /* NULL: BOOT_DEFAULT_CMDLINE */
	uint64_t mem_bytes;  /* guest RAM, all that is there at boot */
	/* CPUs and memory as the guest is told; stays the caller's, as long as the boot exists. */
	const struct acpi_config *acpi;
};

struct boot;

/* Opens and checks the files; keeps them open. Returns NULL with err set. The strings are copied
 * where needed. */
struct boot *boot_open(const struct boot_config *config, struct error *err);
void boot_close(struct boot *boot);

/*
 * Writes kernel, initrd, command line, boot_params, page tables, GDT and ACPI tables into the
 * guest's memory. May be called again for a reset. First touches are served by the fault thread.
 */
int boot_load(const struct boot *boot, const struct guest_memory *gm, struct error *err);

/* The first instruction; the boot CPU's registers are those of vcpu_set_boot_state(). */
uint64_t boot_entry(const struct boot *boot);

/* Fills boot_params: header, command line, initrd, e820 map. mem_bytes as in boot_config. */
void boot_fill_params(struct boot_params *params, const struct setup_header *hdr,
		      uint64_t mem_bytes);
/* GDT and identity page tables for 4 GiB. Returns 0 or -EFAULT. */
int boot_write_cpu_tables(const struct guest_memory *gm);

#endif
