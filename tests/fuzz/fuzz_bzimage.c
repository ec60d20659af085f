/* SPDX-License-Identifier: MIT */
/*
 * Kernel images: any bytes as the head of a bzImage or ELF file of any announced size. What a
 * parser accepts must lie inside the guest's memory and inside the file.
 *
 * Input: 8 bytes RAM size, 8 bytes file size, then the head.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "framevisor/layout.h"
#include "vmm/boot/boot.h"

#define ONE_MIB 0x100000ull

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int holds)
{
	if (!holds)
		abort();
}

static void check_image(const struct boot_image *image, uint64_t file_size, uint64_t ram)
{
	unsigned int i;

	check(image->nr_segments >= 1 && image->nr_segments <= BOOT_SEGMENTS_MAX);
	for (i = 0; i < image->nr_segments; i++) {
		const struct boot_segment *segment = &image->segments[i];

		check(segment->file_size <= segment->mem_size);
		check(segment->file_offset <= file_size);
		check(segment->file_size <= file_size - segment->file_offset);
		check(segment->gpa >= ONE_MIB && segment->gpa < ram);
		check(segment->mem_size <= ram - segment->gpa);
		check(segment->gpa + segment->mem_size <= image->end);
	}
	check(image->end <= ram);
	check(image->entry >= ONE_MIB && image->entry < image->end);
}

static void run(const struct boot_head *head, uint64_t ram,
		int (*parse)(const struct boot_head *, uint64_t, struct boot_image *,
			     struct error *))
{
	struct boot_image image;
	struct error err = { 0 };
	int ret = parse(head, ram, &image, &err);

	check((ret < 0) == (err.code != 0));
	if (ret == 0)
		check_image(&image, head->file_size, ram);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint64_t numbers[2];
	struct boot_head head = { .name = "fuzz" };
	uint8_t *copy;

	if (size < sizeof(numbers))
		return 0;
	memcpy(numbers, data, sizeof(numbers));
	head.len = size - sizeof(numbers);
	if (head.len > BOOT_HEAD_SIZE)
		head.len = BOOT_HEAD_SIZE;
	/* Of exactly this size, so that a read behind the end is seen. */
	copy = malloc(head.len ? head.len : 1);
	if (!copy)
		return 0;
	memcpy(copy, data + sizeof(numbers), head.len);
	head.data = copy;
	head.file_size = numbers[1] < head.len ? head.len : numbers[1];
	numbers[0] %= LAYOUT_LOW_RAM_END + 1;

	run(&head, numbers[0], boot_parse);
	run(&head, numbers[0], bzimage_parse);
	run(&head, numbers[0], elf_parse);
	free(copy);
	return 0;
}
