/* SPDX-License-Identifier: MIT */
/* The checks of a bzImage and where it is placed, on headers made here; and boot_params. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "framevisor/layout.h"
#include "vmm/boot/boot.h"

#define MIB        0x100000ull
#define SETUP_SIZE (40 * 512ull)
#define PAYLOAD    (8 * MIB)

struct image_file {
	uint8_t data[BOOT_HEAD_SIZE];
	struct boot_head head;
};

/* A header like that of a distribution's kernel. */
static void init_file(struct image_file *file, struct setup_header *hdr)
{
	memset(file, 0, sizeof(*file));
	*hdr = (struct setup_header){
		.setup_sects = 39,
		.syssize = PAYLOAD / 16,
		.boot_flag = 0xaa55,
		.jump = 0x6aeb, /* jmp; the header ends at 0x202 + 0x6a */
		.header = 0x53726448,
		.version = 0x20f,
		.loadflags = LOADED_HIGH,
		.initrd_addr_max = 0x7fffffff,
		.kernel_alignment = 2 * MIB,
		.relocatable_kernel = 1,
		.xloadflags = 0x7f,
		.cmdline_size = 2047,
		.pref_address = 16 * MIB,
		.init_size = 56 * MIB,
	};
	file->head = (struct boot_head){ .name = "/boot/vmlinuz",
					 .data = file->data,
					 .len = BOOT_HEAD_SIZE,
					 .file_size = SETUP_SIZE + PAYLOAD };
}

static int parse(struct image_file *file, const struct setup_header *hdr, uint64_t ram,
		 struct boot_image *image, struct error *err)
{
	memcpy(file->data + 0x1f1, hdr, sizeof(*hdr));
	error_clear(err);
	return boot_parse(&file->head, ram, image, err);
}

static void expect_error(struct image_file *file, const struct setup_header *hdr, uint64_t ram,
			 const char *part)
{
	struct boot_image image;
	struct error err;

	assert_int_equal(parse(file, hdr, ram, &image, &err), -EINVAL);
	assert_non_null(strstr(err.message, "/boot/vmlinuz"));
	if (!strstr(err.message, part))
		fail_msg("\"%s\" is not in \"%s\"", part, err.message);
}

static void test_placement(void **state)
{
	struct image_file file;
	struct setup_header hdr;
	struct boot_image image;
	struct error err;

	(void)state;
	init_file(&file, &hdr);
	assert_int_equal(parse(&file, &hdr, 512 * MIB, &image, &err), 0);
	assert_int_equal(image.nr_segments, 1);
	assert_int_equal(image.segments[0].gpa, 16 * MIB);
	assert_int_equal(image.segments[0].file_offset, SETUP_SIZE);
	assert_int_equal(image.segments[0].file_size, PAYLOAD);
	assert_int_equal(image.entry, 16 * MIB + 0x200);
	assert_int_equal(image.end, 72 * MIB);
	assert_int_equal(image.initrd_max, 0x7fffffff);
	assert_int_equal(image.cmdline_max, 2047);

	/* 72 MiB are just enough, below that the kernel moves down, until it does not fit. */
	assert_int_equal(parse(&file, &hdr, 72 * MIB, &image, &err), 0);
	assert_int_equal(image.segments[0].gpa, 16 * MIB);
	assert_int_equal(parse(&file, &hdr, 72 * MIB - 4096, &image, &err), 0);
	assert_int_equal(image.segments[0].gpa, 2 * MIB);
	assert_int_equal(parse(&file, &hdr, 58 * MIB, &image, &err), 0);
	expect_error(&file, &hdr, 57 * MIB, "needs 58 MiB");
	hdr.relocatable_kernel = 0;
	expect_error(&file, &hdr, 64 * MIB, "needs 72 MiB");
	hdr.pref_address = UINT64_MAX;
	expect_error(&file, &hdr, 64 * MIB, "damaged");
}

static void test_hostile_headers(void **state)
{
	struct image_file file;
	struct setup_header hdr;
	struct boot_image image;
	struct error err;

	(void)state;
	init_file(&file, &hdr);
	hdr.pref_address = UINT64_MAX - MIB; /* wraps with the size: must not be used */
	assert_int_equal(parse(&file, &hdr, 512 * MIB, &image, &err), 0);
	assert_int_equal(image.segments[0].gpa, 2 * MIB);

	init_file(&file, &hdr);
	hdr.pref_address = 0x1000; /* over the boot structures */
	assert_int_equal(parse(&file, &hdr, 512 * MIB, &image, &err), 0);
	assert_int_equal(image.segments[0].gpa, 2 * MIB);

	init_file(&file, &hdr);
	hdr.kernel_alignment = 0;
	expect_error(&file, &hdr, 512 * MIB, "damaged");
	hdr.kernel_alignment = 3 * MIB;
	expect_error(&file, &hdr, 512 * MIB, "damaged");

	init_file(&file, &hdr);
	hdr.init_size = UINT32_MAX;
	expect_error(&file, &hdr, 512 * MIB, "needs 4098 MiB");
	init_file(&file, &hdr);
	hdr.syssize = 0;
	expect_error(&file, &hdr, 512 * MIB, "no code");
	hdr.syssize = UINT32_MAX;
	expect_error(&file, &hdr, 512 * MIB, "truncated");
}

static void test_rejected(void **state)
{
	struct image_file file;
	struct setup_header hdr;

	(void)state;
	init_file(&file, &hdr);
	hdr.header = 0;
	expect_error(&file, &hdr, 512 * MIB, "neither a bzImage");
	init_file(&file, &hdr);
	hdr.boot_flag = 0;
	expect_error(&file, &hdr, 512 * MIB, "neither a bzImage");
	init_file(&file, &hdr);
	hdr.version = 0x20b;
	expect_error(&file, &hdr, 512 * MIB, "too old");
	init_file(&file, &hdr);
	hdr.xloadflags = 0;
	expect_error(&file, &hdr, 512 * MIB, "64-bit");
	init_file(&file, &hdr);
	hdr.loadflags = 0;
	expect_error(&file, &hdr, 512 * MIB, "zImage");
	init_file(&file, &hdr);
	file.head.file_size--;
	expect_error(&file, &hdr, 512 * MIB, "truncated");
	init_file(&file, &hdr);
	file.head.file_size = file.head.len = 0x200;
	expect_error(&file, &hdr, 512 * MIB, "not a bzImage");
}

static void write_file(const char *path, const void *data, size_t len, off_t size)
{
	int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, len), len);
	assert_int_equal(ftruncate(fd, size), 0);
	close(fd);
}

static void expect_open_error(const struct boot_config *config, const char *part)
{
	struct error err = { 0 };

	assert_null(boot_open(config, &err));
	if (!strstr(err.message, part))
		fail_msg("\"%s\" is not in \"%s\"", part, err.message);
}

static void test_files(void **state)
{
	char kernel[] = "/tmp/test_bzimage.kernel.XXXXXX",
	     initrd[] = "/tmp/test_bzimage.initrd.XXXXXX";
	const struct acpi_config acpi = { .cpus = 1 };
	struct boot_config config = {
		.kernel = kernel, .initrd = initrd, .mem_bytes = 128 * MIB, .acpi = &acpi
	};
	struct image_file file;
	struct setup_header hdr;
	struct error err = { 0 };
	struct boot *boot;
	char *cmdline;

	(void)state;
	close(mkstemp(kernel));
	close(mkstemp(initrd));
	init_file(&file, &hdr);
	memcpy(file.data + 0x1f1, &hdr, sizeof(hdr));

	expect_open_error(&config, "is empty");
	write_file(kernel, file.data, sizeof(file.data), SETUP_SIZE + PAYLOAD);
	expect_open_error(&config, "is empty");
	write_file(initrd, "x", 1, 8 * MIB);
	boot = boot_open(&config, &err);
	assert_non_null(boot);
	assert_int_equal(boot_entry(boot), 16 * MIB + 0x200);
	boot_close(boot);

	/* The kernel takes up to 72 MiB: 56 are left. */
	write_file(initrd, "x", 1, 56 * MIB);
	boot = boot_open(&config, &err);
	assert_non_null(boot);
	boot_close(boot);
	write_file(initrd, "x", 1, 56 * MIB + 1);
	expect_open_error(&config, "does not fit");
	write_file(initrd, "x", 1, 4096 * MIB);
	expect_open_error(&config, "does not fit");
	config.initrd = NULL;

	cmdline = calloc(1, 2049);
	memset(cmdline, 'a', 2048);
	config.cmdline = cmdline;
	expect_open_error(&config, "2048 characters");
	cmdline[2047] = 0;
	boot = boot_open(&config, &err);
	assert_non_null(boot);
	boot_close(boot);
	free(cmdline);

	config.kernel = "/tmp";
	expect_open_error(&config, "not a regular file");
	config.kernel = "/dev/null";
	expect_open_error(&config, "not a regular file");
	config.kernel = "/nonexistent/kernel";
	expect_open_error(&config, "cannot open kernel /nonexistent/kernel");
	unlink(kernel);
	unlink(initrd);
}

static void expect_e820(const struct boot_params *params, unsigned int i, uint64_t addr,
			uint64_t end, uint32_t type)
{
	assert_true(params->e820_table[i].addr == addr);
	assert_true(params->e820_table[i].size == end - addr);
	assert_int_equal(params->e820_table[i].type, type);
}

static void test_e820(void **state)
{
	static struct boot_params params;
	struct setup_header hdr = { .boot_flag = 0xaa55 };

	(void)state;
	memset(&params, 0xff, sizeof(params));
	boot_fill_params(&params, &hdr, 512 * MIB);
	assert_int_equal(params.sentinel, 0);
	assert_int_equal(params.hdr.boot_flag, 0xaa55);
	assert_int_equal(params.acpi_rsdp_addr, LAYOUT_RSDP);
	assert_int_equal(params.e820_entries, 4);
	expect_e820(&params, 0, 0, LAYOUT_EBDA, 1);
	expect_e820(&params, 1, LAYOUT_EBDA, MIB, 2);
	expect_e820(&params, 2, MIB, 512 * MIB, 1);
	expect_e820(&params, 3, LAYOUT_ECAM, LAYOUT_ECAM + LAYOUT_ECAM_SIZE, 2);

	boot_fill_params(&params, &hdr, LAYOUT_LOW_RAM_END);
	assert_int_equal(params.e820_entries, 4);
	boot_fill_params(&params, &hdr, LAYOUT_LOW_RAM_END + 2 * MIB);
	assert_int_equal(params.e820_entries, 5);
	expect_e820(&params, 2, MIB, LAYOUT_LOW_RAM_END, 1);
	expect_e820(&params, 4, LAYOUT_HIGH_RAM, LAYOUT_HIGH_RAM + 2 * MIB, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_placement), cmocka_unit_test(test_hostile_headers),
		cmocka_unit_test(test_rejected),  cmocka_unit_test(test_files),
		cmocka_unit_test(test_e820),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
