/* SPDX-License-Identifier: MIT */
/* Opening, checking and loading of kernel and initrd: see boot.h. */
#include "vmm/boot/boot.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "framevisor/layout.h"
#include "framevisor/size.h"
#include "vmm/boot/acpi.h"

#define COPY_CHUNK (64 * 1024)

struct boot_file {
	char *name;
	int fd; /* -1: no such file wanted */
	uint64_t size;
};

struct boot {
	struct boot_file kernel;
	struct boot_file initrd;
	char *cmdline;
	uint64_t mem_bytes;
	const struct acpi_config *acpi;
	struct boot_image image;
	uint64_t initrd_gpa;
};

static uint64_t low_ram_end(uint64_t mem_bytes)
{
	return mem_bytes < LAYOUT_LOW_RAM_END ? mem_bytes : LAYOUT_LOW_RAM_END;
}

static int open_file(struct boot_file *file, const char *what, const char *name, struct error *err)
{
	struct stat st;

	file->name = strdup(name);
	if (!file->name)
		return error_set(err, ENOMEM, "out of memory");
	/* O_NONBLOCK: a FIFO must be refused, not waited for. */
	file->fd = open(name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (file->fd < 0)
		return error_set_errno(err, errno, "cannot open %s %s", what, name);
	if (fstat(file->fd, &st) < 0)
		return error_set_errno(err, errno, "cannot read %s %s", what, name);
	if (!S_ISREG(st.st_mode))
		return error_set(err, EINVAL, "%s %s is not a regular file", what, name);
	if (st.st_size == 0)
		return error_set(err, EINVAL, "%s %s is empty", what, name);
	file->size = (uint64_t)st.st_size;
	return 0;
}

static void close_file(struct boot_file *file)
{
	if (file->fd >= 0)
		close(file->fd);
	free(file->name);
}

/* Reads exactly len bytes. */
static int read_file(const struct boot_file *file, uint64_t offset, void *buf, size_t len,
		     struct error *err)
{
	size_t done = 0;

	while (done < len) {
		ssize_t got =
			pread(file->fd, (char *)buf + done, len - done, (off_t)(offset + done));

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return error_set_errno(err, errno, "cannot read %s", file->name);
		if (got == 0)
			return error_set(err, EIO, "%s became shorter while it was read",
					 file->name);
		done += (size_t)got;
	}
	return 0;
}

int boot_parse(const struct boot_head *head, uint64_t ram_end, struct boot_image *image,
	       struct error *err)
{
	if (head->len >= 4 && memcmp(head->data, "\177ELF", 4) == 0)
		return elf_parse(head, ram_end, image, err);
	return bzimage_parse(head, ram_end, image, err);
}

static int parse_kernel(struct boot *boot, struct error *err)
{
	uint8_t data[BOOT_HEAD_SIZE];
	struct boot_head head = {
		.name = boot->kernel.name,
		.data = data,
		.len = boot->kernel.size < sizeof(data) ? (size_t)boot->kernel.size : sizeof(data),
		.file_size = boot->kernel.size,
	};
	int ret = read_file(&boot->kernel, 0, data, head.len, err);

	if (ret < 0)
		return ret;
	return boot_parse(&head, low_ram_end(boot->mem_bytes), &boot->image, err);
}

/* As high as allowed, so that the kernel has the room above itself. */
static int place_initrd(struct boot *boot, struct error *err)
{
	uint64_t end = low_ram_end(boot->mem_bytes);
	char initrd_size[SIZE_TEXT_MAX], mem_size[SIZE_TEXT_MAX];

	if (boot->image.initrd_max < end)
		end = boot->image.initrd_max + 1;
	if (boot->initrd.size <= end)
		boot->initrd_gpa = (end - boot->initrd.size) & ~(GUEST_PAGE_SIZE - 1);
	if (boot->initrd.size > end || boot->initrd_gpa < boot->image.end)
		return error_set(err, EINVAL,
				 "initrd %s (%s) does not fit beside the kernel into %s of "
				 "memory: give the guest more",
				 boot->initrd.name,
				 size_format(boot->initrd.size, initrd_size, sizeof(initrd_size)),
				 size_format(boot->mem_bytes, mem_size, sizeof(mem_size)));
	return 0;
}

static int set_cmdline(struct boot *boot, const char *cmdline, struct error *err)
{
	uint64_t max = boot->image.cmdline_max;

	if (max > LAYOUT_CMDLINE_MAX - 1)
		max = LAYOUT_CMDLINE_MAX - 1;
	if (strlen(cmdline) > max)
		return error_set(err, EINVAL,
				 "the kernel command line has %zu characters, %s takes at most "
				 "%llu",
				 strlen(cmdline), boot->kernel.name, (unsigned long long)max);
	boot->cmdline = strdup(cmdline);
	if (!boot->cmdline)
		return error_set(err, ENOMEM, "out of memory");
	return 0;
}

static int open_all(struct boot *boot, const struct boot_config *config, struct error *err)
{
	int ret = open_file(&boot->kernel, "kernel", config->kernel, err);

	if (ret == 0 && config->initrd)
		ret = open_file(&boot->initrd, "initrd", config->initrd, err);
	if (ret == 0)
		ret = parse_kernel(boot, err);
	if (ret == 0 && config->initrd)
		ret = place_initrd(boot, err);
	if (ret == 0)
		ret = set_cmdline(boot, config->cmdline ? config->cmdline : BOOT_DEFAULT_CMDLINE,
				  err);
	return ret;
}

struct boot *boot_open(const struct boot_config *config, struct error *err)
{
	struct boot *boot = calloc(1, sizeof(*boot));

	if (!boot) {
		error_set(err, ENOMEM, "out of memory");
		return NULL;
	}
	boot->kernel.fd = -1;
	boot->initrd.fd = -1;
	boot->mem_bytes = config->mem_bytes;
	boot->acpi = config->acpi;
	if (open_all(boot, config, err) < 0) {
		boot_close(boot);
		return NULL;
	}
	return boot;
}

void boot_close(struct boot *boot)
{
	if (!boot)
		return;
	close_file(&boot->kernel);
	close_file(&boot->initrd);
	free(boot->cmdline);
	free(boot);
}

uint64_t boot_entry(const struct boot *boot)
{
	return boot->image.entry;
}

static int write_guest(const struct guest_memory *gm, uint64_t gpa, const void *src, uint64_t len,
		       struct error *err)
{
	int ret = guest_write(gm, gpa, src, len);

	if (ret < 0)
		return error_set(err, -ret, "guest memory at %#llx cannot be written",
				 (unsigned long long)gpa);
	return 0;
}

/* Copies size bytes of a file, then zeroes up to mem_size. */
static int load_bytes(const struct boot_file *file, const struct boot_segment *segment,
		      const struct guest_memory *gm, struct error *err)
{
	uint8_t *chunk = calloc(1, COPY_CHUNK);
	uint64_t done = 0;
	int ret = 0;

	if (!chunk)
		return error_set(err, ENOMEM, "out of memory");
	while (ret == 0 && done < segment->mem_size) {
		uint64_t end = done < segment->file_size ? segment->file_size : segment->mem_size;
		size_t len = end - done < COPY_CHUNK ? (size_t)(end - done) : COPY_CHUNK;

		if (done < segment->file_size)
			ret = read_file(file, segment->file_offset + done, chunk, len, err);
		else
			memset(chunk, 0, len);
		if (ret == 0)
			ret = write_guest(gm, segment->gpa + done, chunk, len, err);
		done += len;
	}
	free(chunk);
	return ret;
}

static int load_files(const struct boot *boot, const struct guest_memory *gm, struct error *err)
{
	struct boot_segment initrd = {
		.file_size = boot->initrd.size,
		.gpa = boot->initrd_gpa,
		.mem_size = boot->initrd.size,
	};
	unsigned int i;
	int ret = 0;

	for (i = 0; ret == 0 && i < boot->image.nr_segments; i++)
		ret = load_bytes(&boot->kernel, &boot->image.segments[i], gm, err);
	if (ret == 0 && boot->initrd.fd >= 0)
		ret = load_bytes(&boot->initrd, &initrd, gm, err);
	return ret;
}

static int load_acpi(const struct boot *boot, const struct guest_memory *gm, struct error *err)
{
	static const size_t room = LAYOUT_ACPI_END - LAYOUT_RSDP;
	uint8_t *tables = calloc(1, room);
	int ret;

	if (!tables)
		return error_set(err, ENOMEM, "out of memory");
	ret = acpi_build(tables, room, LAYOUT_RSDP, boot->acpi);
	if (ret < 0)
		ret = error_set(err, -ret, "the ACPI tables for %u CPUs do not fit",
				boot->acpi->cpus);
	else
		ret = write_guest(gm, LAYOUT_RSDP, tables, (uint64_t)ret, err);
	free(tables);
	return ret;
}

static int load_params(const struct boot *boot, const struct guest_memory *gm, struct error *err)
{
	struct boot_params params;
	struct setup_header hdr = boot->image.hdr;
	int ret;

	hdr.cmd_line_ptr = LAYOUT_CMDLINE;
	hdr.ramdisk_image = boot->initrd.fd >= 0 ? (uint32_t)boot->initrd_gpa : 0;
	hdr.ramdisk_size = boot->initrd.fd >= 0 ? (uint32_t)boot->initrd.size : 0;
	boot_fill_params(&params, &hdr, boot->mem_bytes);
	ret = write_guest(gm, LAYOUT_CMDLINE, boot->cmdline, strlen(boot->cmdline) + 1, err);
	if (ret == 0)
		ret = write_guest(gm, LAYOUT_BOOT_PARAMS, &params, sizeof(params), err);
	return ret;
}

int boot_load(const struct boot *boot, const struct guest_memory *gm, struct error *err)
{
	int ret = load_files(boot, gm, err);

	if (ret == 0)
		ret = load_acpi(boot, gm, err);
	if (ret == 0)
		ret = load_params(boot, gm, err);
	if (ret == 0 && boot_write_cpu_tables(gm) < 0)
		ret = error_set(err, EFAULT, "guest memory below 1 MiB cannot be written");
	return ret;
}
