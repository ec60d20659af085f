/* SPDX-License-Identifier: MIT */
/*
 * All CPUs at once: started by INIT and STARTUP, they count together and each for itself, and touch
 * new frames at the same moment (several first touches of one frame). "cpus=N" on the command line
 * says how many there must be; otherwise the MADT does.
 */
#include "guest.h"

const char guest_name[] = "smp";

#define ROUNDS     2000
#define TOUCHED    8
#define TOUCH_ADDR (LAYOUT_KERNEL + 4 * FRAME_SIZE)

static volatile uint32_t go;
static uint64_t shared;
static uint64_t ready;
static uint64_t done;
static uint64_t own[AP_MAX + 1];
static uint8_t seen_ids[256];

static void work(unsigned int index)
{
	for (unsigned int i = 0; i < ROUNDS; i++) {
		__atomic_fetch_add(&shared, 1, __ATOMIC_SEQ_CST);
		own[index]++;
	}
	for (unsigned int i = 0; i < TOUCHED; i++) {
		uint64_t *word = (uint64_t *)(uintptr_t)(TOUCH_ADDR + i * FRAME_SIZE);

		__atomic_fetch_add(word, 1, __ATOMIC_SEQ_CST);
		word[1 + index] = index + 1;
	}
	__atomic_fetch_add(&done, 1, __ATOMIC_SEQ_CST);
}

void ap_start(unsigned int index)
{
	__atomic_fetch_add(&seen_ids[guest_cpu_id()], 1, __ATOMIC_SEQ_CST);
	__atomic_fetch_add(&ready, 1, __ATOMIC_SEQ_CST);
	while (!go)
		cpu_relax();
	work(index + 1);
}

static void wait_for(const uint64_t *counter, uint64_t value, const char *what)
{
	uint64_t start = rdtsc();

	while (__atomic_load_n(counter, __ATOMIC_SEQ_CST) < value) {
		if (rdtsc() - start > PATIENCE)
			guest_fail("%lu of %lu CPUs %s", *counter, value, what);
		cpu_relax();
	}
}

static void check(unsigned int cpus)
{
	if (shared != (uint64_t)cpus * ROUNDS)
		guest_fail("the shared counter is %lu, not %lu", shared, (uint64_t)cpus * ROUNDS);
	for (unsigned int i = 0; i < cpus; i++)
		if (own[i] != ROUNDS)
			guest_fail("CPU %u counted to %lu, not %u", i, own[i], ROUNDS);
	for (unsigned int i = 0; i < 256; i++)
		if (seen_ids[i] > 1)
			guest_fail("APIC ID %u was seen %u times", i, (unsigned int)seen_ids[i]);
	for (unsigned int i = 0; i < TOUCHED; i++) {
		const uint64_t *word = (const uint64_t *)(uintptr_t)(TOUCH_ADDR + i * FRAME_SIZE);

		if (word[0] != cpus)
			guest_fail("frame %u counted %lu touches, not %u", i, word[0], cpus);
		for (unsigned int c = 0; c < cpus; c++)
			if (word[1 + c] != c + 1)
				guest_fail("the write of CPU %u to frame %u is lost", c, i);
	}
}

void guest_main(void)
{
	uint8_t ids[AP_MAX];
	unsigned int cpus = acpi_cpus(ids, AP_MAX);
	unsigned int expected = (unsigned int)cmdline_number("cpus", cpus);

	if (cpus == 0 || cpus > AP_MAX)
		guest_fail("%u CPUs in the MADT", cpus);
	if (cpus != expected)
		guest_fail("%u CPUs in the MADT, not %u", cpus, expected);
	seen_ids[guest_cpu_id()]++;
	guest_start_cpus(ids, cpus);
	wait_for(&ready, cpus - 1, "came up");
	go = 1;
	work(0);
	wait_for(&done, cpus, "finished");
	check(cpus);
	print("smp: %u CPUs\n", cpus);
}
