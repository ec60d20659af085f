/* SPDX-License-Identifier: MIT */
/* What vcpu.c, vcpu_state.c and vcpu_dump.c share. */
#ifndef VMM_VCPU_INTERNAL_H
#define VMM_VCPU_INTERNAL_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "framevisor/error.h"
#include "vmm/vcpu.h"

struct vcpu_state;

struct vcpu {
	struct vcpus *vcpus;
	unsigned int id;
	int fd;
	struct kvm_run *run;
	struct vcpu_state *power_on; /* registers right after creation */
	pthread_t thread;
	bool started;
	int tid; /* set before the thread parks for the first time */
	/* Under vcpus->lock: */
	bool parked;
	bool halted; /* by what ends a guest, or an unhandled exit: stays parked until a reset */
	bool triple_fault; /* since the last reset */
};

/*
 * Reads the registers that a reset must bring back, right after KVM_SET_CPUID2 (which MSRs exist
 * depends on it). NULL with err set.
 */
struct vcpu_state *vcpu_state_save(const struct vcpu *vcpu, struct error *err);
/* Puts a vCPU back to power_on; then entry != 0 makes it the boot CPU in 64-bit mode. */
int vcpu_state_reset(const struct vcpu *vcpu, uint64_t entry, struct error *err);
void vcpu_state_free(struct vcpu_state *state);
/*
 * After a triple fault: KVM on AMD clears the whole control block of the vCPU, the offset of its
 * time stamp counter with it, and still believes in the old one: the guest's clock jumps by the
 * time that the host has been up. Telling KVM the offset that it knows brings it back. Kernels
 * before 5.16 cannot be told.
 */
void vcpu_state_restore_tsc(const struct vcpu *vcpu);

/* Registers, code bytes and memory slots to stderr. why is one line without a newline. */
void vcpu_dump(const struct vcpu *vcpu, struct vm_memory *memory, const char *why);

#endif
