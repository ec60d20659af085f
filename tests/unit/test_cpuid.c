/* SPDX-License-Identifier: MIT */
/* What each vCPU's CPUID says about its place in the machine. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "vmm/boot/cpuid.h"

#define ROOM 32

static struct kvm_cpuid2 *make_supported(uint32_t max_leaf)
{
	static const struct kvm_cpuid_entry2 entries[] = {
		{ .function = 0 },
		{ .function = 1, .ecx = 1u << 5 | 1u << 13, .ebx = 0x77000000, .edx = 1 },
		{ .function = 4, .index = 0, .eax = 0xfc1ffc00 | 1 << 5 | 1 },
		{ .function = 4, .index = 3, .eax = 3 << 5 | 3 },
		{ .function = 0xa, .eax = 0x07300404, .edx = 0x603 },
		{ .function = 0xb, .index = 0, .eax = 9, .ebx = 9, .edx = 9 },
		{ .function = 0x1f, .index = 0, .eax = 9 },
		{ .function = 0x40000000, .eax = 0x40000001, .ebx = 0x4b4d564b },
		{ .function = 0x80000001, .ecx = 1u << 2 | 1u << 5 },
		{ .function = 0x80000008, .eax = 0x3028, .ecx = 0x7001 },
		{ .function = 0x8000001e, .eax = 9, .ebx = 0x109, .ecx = 9 },
	};
	const unsigned int nr = sizeof(entries) / sizeof(entries[0]);
	struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + sizeof(entries));

	assert_non_null(cpuid);
	cpuid->nent = nr;
	memcpy(cpuid->entries, entries, sizeof(entries));
	cpuid->entries[0].eax = max_leaf;
	return cpuid;
}

static const struct kvm_cpuid_entry2 *look_up(const struct kvm_cpuid2 *cpuid, uint32_t function,
					      uint32_t index)
{
	unsigned int i;

	for (i = 0; i < cpuid->nent; i++) {
		if (cpuid->entries[i].function == function && cpuid->entries[i].index == index)
			return &cpuid->entries[i];
	}
	return NULL;
}

static const struct kvm_cpuid_entry2 *find(const struct kvm_cpuid2 *cpuid, uint32_t function,
					   uint32_t index)
{
	const struct kvm_cpuid_entry2 *entry = look_up(cpuid, function, index);

	if (!entry)
		abort();
	return entry;
}

static struct kvm_cpuid2 *make(const struct cpuid_config *config, uint32_t max_leaf)
{
	struct kvm_cpuid2 *supported = make_supported(max_leaf);
	struct kvm_cpuid2 *cpuid =
		calloc(1, sizeof(*cpuid) + ROOM * sizeof(struct kvm_cpuid_entry2));

	assert_non_null(cpuid);
	assert_int_equal(cpuid_for_vcpu(supported, config, cpuid, ROOM), 0);
	free(supported);
	return cpuid;
}

static void test_smp(void **state)
{
	const struct cpuid_config config = { .id = 2, .cpus = 3, .tsc_deadline = true };
	struct kvm_cpuid2 *cpuid = make(&config, 0x1f);
	const struct kvm_cpuid_entry2 *leaf = find(cpuid, 1, 0);

	(void)state;
	assert_int_equal(leaf->ebx >> 24, 2);
	assert_int_equal(leaf->ebx >> 16 & 0xff, 4); /* a power of two */
	assert_int_equal(leaf->ecx, 1u << 13 | 1u << 24 | 1u << 31);
	assert_int_equal(leaf->edx, 1u << 28 | 1);

	leaf = find(cpuid, 4, 0);
	assert_int_equal(leaf->eax >> 26, 3);         /* core ids */
	assert_int_equal(leaf->eax >> 14 & 0xfff, 0); /* level 1 is not shared */
	assert_int_equal(find(cpuid, 4, 3)->eax >> 14 & 0xfff, 3);

	leaf = find(cpuid, 0xb, 0);
	assert_int_equal(leaf->eax, 0);
	assert_int_equal(leaf->ebx, 1);
	assert_int_equal(leaf->ecx, 0x100);
	assert_int_equal(leaf->edx, 2);
	leaf = find(cpuid, 0xb, 1);
	assert_int_equal(leaf->eax, 2);
	assert_int_equal(leaf->ebx, 3);
	assert_int_equal(leaf->ecx, 0x201);
	assert_int_equal(leaf->edx, 2);
	assert_int_equal(find(cpuid, 0xb, 2)->ecx, 2);
	assert_null(look_up(cpuid, 0x1f, 0));

	assert_int_equal(find(cpuid, 0xa, 0)->eax, 0);
	assert_int_equal(find(cpuid, 0x40000000, 0)->ebx, 0x4b4d564b);
	assert_int_equal(find(cpuid, 0x80000001, 0)->ecx, 1u << 5 | 1u << 1);
	assert_int_equal(find(cpuid, 0x80000008, 0)->ecx, 2 | 2 << 12);
	assert_int_equal(find(cpuid, 0x8000001e, 0)->eax, 2);
	assert_int_equal(find(cpuid, 0x8000001e, 0)->ebx, 2);
	free(cpuid);
}

static void test_single(void **state)
{
	const struct cpuid_config config = { .cpus = 1 };
	struct kvm_cpuid2 *cpuid = make(&config, 0xa);
	const struct kvm_cpuid_entry2 *leaf = find(cpuid, 1, 0);

	(void)state;
	assert_int_equal(leaf->ecx, 1u << 13 | 1u << 31);
	assert_int_equal(leaf->edx, 1);
	assert_int_equal(leaf->ebx >> 16, 1);
	/* The CPU has no leaf 0xb: none is invented. */
	assert_null(look_up(cpuid, 0xb, 0));
	assert_int_equal(cpuid_phys_bits(cpuid), 0x28);
	free(cpuid);
}

static void test_room(void **state)
{
	const struct cpuid_config config = { .cpus = 1 };
	struct kvm_cpuid2 *supported = make_supported(0x1f);
	struct kvm_cpuid2 none = { 0 };

	(void)state;
	assert_int_equal(cpuid_for_vcpu(supported, &config, &none, supported->nent), -ENOSPC);
	assert_int_equal(cpuid_phys_bits(&none), 36);
	free(supported);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_smp),
		cmocka_unit_test(test_single),
		cmocka_unit_test(test_room),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
