/* SPDX-License-Identifier: MIT */
/*
 * All RAM of the e820 map, page by page: reads zero when new, keeps a pattern of its own address.
 * Each frame of the guest is bound by its first touch here.
 */
#include "guest.h"

const char guest_name[] = "touch";

/* Below lie the boot parameters, the command line and the ACPI tables. */
#define FIRST_FREE 0x40000ull
/* Above 64 MiB a page in 16 is enough: each frame still gets 32 touches. */
#define DENSE_END   (64ull << 20)
#define SPARSE_STEP (16 * PAGE_SIZE)

static uint64_t pages;

static void each_page(void (*fn)(volatile uint64_t *word))
{
	for (unsigned int i = 0; i < nr_ram_ranges; i++) {
		uint64_t a = (ram_ranges[i].start + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1);

		while (a + PAGE_SIZE <= ram_ranges[i].end) {
			bool mine = a >= GUEST_IMAGE && a < GUEST_IMAGE_END;

			if (a >= FIRST_FREE && !mine)
				fn((volatile uint64_t *)(uintptr_t)a);
			a += a < DENSE_END ? PAGE_SIZE : SPARSE_STEP;
		}
	}
}

/* The first and the last word of a page, different on every page. */
#define LAST 511

static uint64_t pattern(volatile uint64_t *word)
{
	return (uint64_t)(uintptr_t)word * 0x9e3779b97f4a7c15ull + 1;
}

static void check_zero(volatile uint64_t *word)
{
	if (word[0] || word[LAST])
		guest_fail("new memory at 0x%lx reads 0x%lx 0x%lx", (uint64_t)(uintptr_t)word,
			   word[0], word[LAST]);
}

static void write_pattern(volatile uint64_t *word)
{
	word[0] = pattern(word);
	word[LAST] = ~pattern(word);
	pages++;
}

static void check_pattern(volatile uint64_t *word)
{
	if (word[0] != pattern(word) || word[LAST] != ~pattern(word))
		guest_fail("memory at 0x%lx reads 0x%lx, not 0x%lx", (uint64_t)(uintptr_t)word,
			   word[0], pattern(word));
}

void guest_main(void)
{
	uint64_t expected = cmdline_number("mem_mib", 0) << 20;
	uint64_t size = ram_size();

	/* The legacy hole below 1 MiB is not RAM. */
	if (expected && (size > expected || expected - size > (1u << 20)))
		guest_fail("%lu bytes of RAM, not %lu", size, expected);
	each_page(check_zero);
	each_page(write_pattern);
	each_page(check_pattern);
	print("touch: %lu MiB in %u ranges, %lu pages\n", size >> 20, nr_ram_ranges, pages);
}
