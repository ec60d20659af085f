/* SPDX-License-Identifier: MIT */
/* The CPUID of each vCPU: KVM's supported leaves with this machine's topology written in. */
#ifndef VMM_BOOT_CPUID_H
#define VMM_BOOT_CPUID_H

#include <linux/kvm.h>
#include <stdbool.h>

#include "framevisor/error.h"

/* KVM_GET_SUPPORTED_CPUID, with as many entries as it takes. free() it. NULL with err set. */
struct kvm_cpuid2 *cpuid_supported(int kvm_fd, struct error *err);

/* Room that cpuid_for_vcpu() may need beyond the supported entries. */
#define CPUID_EXTRA_ENTRIES 8

struct cpuid_config {
	unsigned int id;         /* of the vCPU; its APIC id */
	unsigned int cpus;       /* all cores of one package, one thread each */
	unsigned int cache_cpus; /* so many share the last cache: a power of two; 0: all */
	bool tsc_deadline;       /* KVM_CAP_TSC_DEADLINE_TIMER */
};

/*
 * Fills dst (room entries) for one vCPU from supported. Returns 0, or -ENOSPC.
 */
int cpuid_for_vcpu(const struct kvm_cpuid2 *supported, const struct cpuid_config *config,
		   struct kvm_cpuid2 *dst, unsigned int room);

/* The number of guest-physical address bits (leaf 0x80000008), 36 if the leaf is missing. */
unsigned int cpuid_phys_bits(const struct kvm_cpuid2 *cpuid);

#endif
