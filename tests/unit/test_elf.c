/* SPDX-License-Identifier: MIT */
/* The checks of an ELF64 image, on headers made here. */
#include <elf.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "vmm/boot/boot.h"

#define MIB 0x100000ull

struct elf_file {
	uint8_t data[BOOT_HEAD_SIZE];
	Elf64_Ehdr ehdr;
	Elf64_Phdr phdr[20];
};

static void init_elf(struct elf_file *file)
{
	memset(file, 0, sizeof(*file));
	memcpy(file->ehdr.e_ident, ELFMAG, SELFMAG);
	file->ehdr.e_ident[EI_CLASS] = ELFCLASS64;
	file->ehdr.e_ident[EI_DATA] = ELFDATA2LSB;
	file->ehdr.e_type = ET_EXEC;
	file->ehdr.e_machine = EM_X86_64;
	file->ehdr.e_entry = MIB + 0x10;
	file->ehdr.e_phoff = sizeof(Elf64_Ehdr);
	file->ehdr.e_phentsize = sizeof(Elf64_Phdr);
	file->ehdr.e_phnum = 2;
	file->phdr[0] = (Elf64_Phdr){ .p_type = PT_LOAD,
				      .p_offset = 0x1000,
				      .p_paddr = MIB,
				      .p_filesz = 0x800,
				      .p_memsz = 0x3000 };
	file->phdr[1] = (Elf64_Phdr){ .p_type = PT_GNU_STACK };
}

static int parse(struct elf_file *file, struct boot_image *image, struct error *err)
{
	struct boot_head head = {
		.name = "guest.elf", .data = file->data, .len = BOOT_HEAD_SIZE, .file_size = 0x1800
	};

	memcpy(file->data, &file->ehdr, sizeof(file->ehdr));
	memcpy(file->data + sizeof(file->ehdr), file->phdr, sizeof(file->phdr));
	error_clear(err);
	return boot_parse(&head, 4 * MIB, image, err);
}

static void expect_error(struct elf_file *file, const char *part)
{
	struct boot_image image;
	struct error err;

	assert_int_equal(parse(file, &image, &err), -EINVAL);
	assert_non_null(strstr(err.message, "guest.elf"));
	if (!strstr(err.message, part))
		fail_msg("\"%s\" is not in \"%s\"", part, err.message);
}

static void test_accepted(void **state)
{
	struct elf_file file;
	struct boot_image image;
	struct error err;

	(void)state;
	init_elf(&file);
	assert_int_equal(parse(&file, &image, &err), 0);
	assert_int_equal(image.nr_segments, 1);
	assert_int_equal(image.segments[0].file_offset, 0x1000);
	assert_int_equal(image.segments[0].file_size, 0x800);
	assert_int_equal(image.segments[0].mem_size, 0x3000);
	assert_int_equal(image.entry, MIB + 0x10);
	assert_int_equal(image.end, MIB + 0x3000);
}

static void test_rejected(void **state)
{
	struct elf_file file;
	unsigned int i;

	(void)state;
	init_elf(&file);
	file.ehdr.e_ident[EI_CLASS] = ELFCLASS32;
	expect_error(&file, "x86-64");
	init_elf(&file);
	file.ehdr.e_machine = EM_AARCH64;
	expect_error(&file, "x86-64");
	init_elf(&file);
	file.ehdr.e_type = ET_DYN;
	expect_error(&file, "statically linked");
	init_elf(&file);
	file.phdr[1].p_type = PT_INTERP;
	expect_error(&file, "dynamically linked");
	init_elf(&file);
	file.phdr[0].p_filesz = 0x801;
	expect_error(&file, "truncated");
	init_elf(&file);
	file.phdr[0].p_paddr = 0x7000; /* where boot_params are */
	expect_error(&file, "below 1 MiB");
	init_elf(&file);
	file.phdr[0].p_memsz = 3 * MIB + 1;
	expect_error(&file, "more memory");
	init_elf(&file);
	file.ehdr.e_entry = MIB + 0x800; /* behind what the file fills */
	expect_error(&file, "entry point");
	init_elf(&file);
	file.ehdr.e_phnum = 18;
	for (i = 1; i < 18; i++)
		file.phdr[i] = file.phdr[0];
	expect_error(&file, "more than 16 segments");
}

static void test_overflows(void **state)
{
	struct elf_file file;

	(void)state;
	init_elf(&file);
	file.phdr[0].p_paddr = UINT64_MAX - 0x100;
	expect_error(&file, "impossible");
	init_elf(&file);
	file.phdr[0].p_offset = UINT64_MAX - 0x100;
	expect_error(&file, "impossible");
	init_elf(&file);
	file.phdr[0].p_filesz = 0x4000;
	expect_error(&file, "impossible");
	init_elf(&file);
	file.ehdr.e_phoff = UINT64_MAX - 8;
	expect_error(&file, "program headers");
	init_elf(&file);
	file.ehdr.e_phoff = BOOT_HEAD_SIZE - sizeof(Elf64_Phdr);
	expect_error(&file, "program headers");
	init_elf(&file);
	file.ehdr.e_phnum = 0xffff;
	expect_error(&file, "program headers");
	init_elf(&file);
	file.ehdr.e_phentsize = 1;
	expect_error(&file, "program headers");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_accepted),
		cmocka_unit_test(test_rejected),
		cmocka_unit_test(test_overflows),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
