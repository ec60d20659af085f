/* SPDX-License-Identifier: MIT */
/*
 * CPUID: see cpuid.h. Leaf numbers and fields as in Intel SDM volume 2 (CPUID) and AMD APM volume
 * 3, appendix E. The guest sees one package with a core per vCPU; APIC ids are the vCPU numbers, as
 * in the MADT.
 */
#include "vmm/boot/cpuid.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#define SUPPORTED_START 64
#define SUPPORTED_MAX   4096

#define LEAF_FEATURES      0x1u
#define LEAF_CACHES        0x4u
#define LEAF_POWER         0x6u
#define LEAF_PMU           0xau
#define LEAF_TOPOLOGY      0xbu
#define LEAF_TOPOLOGY_V2   0x1fu
#define LEAF_AMD_FEATURES  0x80000001u
#define LEAF_ADDRESS_SIZES 0x80000008u
#define LEAF_AMD_CACHES    0x8000001du
#define LEAF_AMD_TOPOLOGY  0x8000001eu
#define LEAF_AMD_TOPO_EXT  0x80000026u

#define FEATURE_ECX_VMX          (1u << 5)
#define FEATURE_ECX_TSC_DEADLINE (1u << 24)
#define FEATURE_ECX_HYPERVISOR   (1u << 31)
#define FEATURE_EDX_HTT          (1u << 28)
#define AMD_ECX_CMP_LEGACY       (1u << 1)
#define AMD_ECX_SVM              (1u << 2)
#define POWER_ECX_EPB            (1u << 3)
#define CLFLUSH_QUADWORDS        8u /* 64 bytes */

#define TOPOLOGY_SMT  1u
#define TOPOLOGY_CORE 2u

struct kvm_cpuid2 *cpuid_supported(int kvm_fd, struct error *err)
{
	unsigned int nent;

	for (nent = SUPPORTED_START; nent <= SUPPORTED_MAX; nent *= 2) {
		struct kvm_cpuid2 *cpuid =
			calloc(1, sizeof(*cpuid) + nent * sizeof(cpuid->entries[0]));

		if (!cpuid) {
			error_set(err, ENOMEM, "out of memory for CPUID");
			return NULL;
		}
		cpuid->nent = nent;
		if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid) == 0)
			return cpuid;
		free(cpuid);
		if (errno != E2BIG)
			break;
	}
	error_set_errno(err, errno, "KVM_GET_SUPPORTED_CPUID failed");
	return NULL;
}

/* Bits that hold the numbers 0 .. n - 1. */
static unsigned int bits_for(unsigned int n)
{
	unsigned int bits = 0;

	while ((1u << bits) < n)
		bits++;
	return bits;
}

static void set_features(struct kvm_cpuid_entry2 *entry, const struct cpuid_config *config)
{
	entry->ebx = (entry->ebx & 0xff) | CLFLUSH_QUADWORDS << 8 |
		     (1u << bits_for(config->cpus)) << 16 | config->id << 24;
	/* No nested guests: a reset could not bring a vCPU back out of one. */
	entry->ecx &= ~(FEATURE_ECX_VMX | FEATURE_ECX_TSC_DEADLINE);
	entry->ecx |= FEATURE_ECX_HYPERVISOR;
	if (config->tsc_deadline)
		entry->ecx |= FEATURE_ECX_TSC_DEADLINE;
	entry->edx &= ~FEATURE_EDX_HTT;
	if (config->cpus > 1)
		entry->edx |= FEATURE_EDX_HTT;
}

/* Leaf 4 and its AMD twin: EAX[25:14] ids that share the cache - 1. Levels 1 and 2 are a core's. */
static void set_cache_sharing(struct kvm_cpuid_entry2 *entry, const struct cpuid_config *config)
{
	unsigned int level = entry->eax >> 5 & 7;
	unsigned int cpus = config->cache_cpus ? config->cache_cpus : 1u << bits_for(config->cpus);
	unsigned int sharing = level >= 3 ? cpus - 1 : 0;

	if ((entry->eax & 0x1f) == 0) /* no more caches */
		return;
	entry->eax = (entry->eax & ~(0xfffu << 14)) | sharing << 14;
	if (entry->function == LEAF_CACHES) /* EAX[31:26]: core ids in the package - 1 */
		entry->eax = (entry->eax & ~(0x3fu << 26)) | ((1u << bits_for(config->cpus)) - 1)
								     << 26;
}

/* Changes an entry in place; false: the guest does not get the entry at all. */
static bool adjust(struct kvm_cpuid_entry2 *entry, const struct cpuid_config *config)
{
	switch (entry->function) {
	case LEAF_FEATURES:
		set_features(entry, config);
		return true;
	case LEAF_CACHES:
	case LEAF_AMD_CACHES:
		set_cache_sharing(entry, config);
		return true;
	case LEAF_POWER:
		entry->ecx &= ~POWER_ECX_EPB; /* MSR_IA32_ENERGY_PERF_BIAS is not there */
		return true;
	case LEAF_PMU: /* no performance counters: a guest's profile is not worth their MSRs */
		entry->eax = entry->ebx = entry->ecx = entry->edx = 0;
		return true;
	case LEAF_TOPOLOGY: /* added anew by add_topology() */
	case LEAF_TOPOLOGY_V2:
	case LEAF_AMD_TOPO_EXT:
		return false;
	case LEAF_AMD_FEATURES:
		entry->ecx &= ~(AMD_ECX_SVM | AMD_ECX_CMP_LEGACY);
		if (config->cpus > 1)
			entry->ecx |= AMD_ECX_CMP_LEGACY;
		return true;
	case LEAF_ADDRESS_SIZES: /* ECX[7:0] cores - 1, ECX[15:12] bits of a core's id */
		entry->ecx =
			(entry->ecx & ~0xf0ffu) | (config->cpus - 1) | bits_for(config->cpus) << 12;
		return true;
	case LEAF_AMD_TOPOLOGY:
		entry->eax = config->id;        /* extended APIC id */
		entry->ebx = config->id & 0xff; /* core id; one thread per core */
		entry->ecx = 0;                 /* node 0 of 1 */
		return true;
	default:
		return true;
	}
}

static bool is_supported(const struct kvm_cpuid2 *supported, unsigned int function)
{
	unsigned int i;
	unsigned int max = 0;

	for (i = 0; i < supported->nent; i++) {
		if (supported->entries[i].function == 0)
			max = supported->entries[i].eax;
	}
	return function <= max;
}

static void add_topology_level(struct kvm_cpuid2 *dst, unsigned int level, uint32_t shift,
			       uint32_t count, uint32_t type, unsigned int id)
{
	dst->entries[dst->nent++] = (struct kvm_cpuid_entry2){
		.function = LEAF_TOPOLOGY,
		.index = level,
		.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
		.eax = shift,
		.ebx = count,
		.ecx = type << 8 | level,
		.edx = id,
	};
}

int cpuid_for_vcpu(const struct kvm_cpuid2 *supported, const struct cpuid_config *config,
		   struct kvm_cpuid2 *dst, unsigned int room)
{
	unsigned int i;

	if (room < supported->nent + CPUID_EXTRA_ENTRIES)
		return -ENOSPC;
	dst->nent = 0;
	dst->padding = 0;
	for (i = 0; i < supported->nent; i++) {
		struct kvm_cpuid_entry2 entry = supported->entries[i];

		if (adjust(&entry, config))
			dst->entries[dst->nent++] = entry;
	}
	if (is_supported(supported, LEAF_TOPOLOGY)) {
		add_topology_level(dst, 0, 0, 1, TOPOLOGY_SMT, config->id);
		add_topology_level(dst, 1, bits_for(config->cpus), config->cpus, TOPOLOGY_CORE,
				   config->id);
		add_topology_level(dst, 2, 0, 0, 0, config->id);
	}
	return 0;
}

unsigned int cpuid_phys_bits(const struct kvm_cpuid2 *cpuid)
{
	unsigned int i;

	for (i = 0; i < cpuid->nent; i++) {
		if (cpuid->entries[i].function == LEAF_ADDRESS_SIZES)
			return cpuid->entries[i].eax & 0xff;
	}
	return 36;
}
