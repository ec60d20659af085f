/* SPDX-License-Identifier: MIT */
/*
 * The vCPUs of one VM: a thread each, paused and let go together.
 *
 * A vCPU thread is in one of three places: inside KVM_RUN, handling an exit, or parked. Parking
 * happens only after KVM_RUN returned EINTR: then KVM has completed the previous port or MMIO
 * access, so that registers may be read or replaced. vcpus_pause() sets immediate_exit and sends a
 * signal, under the same lock under which a thread that leaves the park clears immediate_exit; so a
 * kick before, during and after KVM_RUN ends it, and none is lost.
 *
 * All functions are called from one thread, the loop's.
 */
#ifndef VMM_VCPU_H
#define VMM_VCPU_H

#include <stdbool.h>
#include <stdint.h>

#include "framevisor/bus.h"
#include "framevisor/device.h"
#include "framevisor/error.h"
#include "framevisor/vm_memory.h"
#include "vmm/kvm.h"

/* What the vCPU threads need of their machine. The functions are called in a vCPU's thread. */
struct vcpu_host {
	struct bus *pio;
	struct bus *mmio;
	struct vm_memory *memory; /* for the dump of an unhandled exit */
	unsigned int cache_cpus;  /* see struct cpuid_config */
	void *machine;
	/* Triple fault and KVM's system events. Calls vcpu_halt_current(). */
	void (*power)(void *machine, enum power_request request);
	/* An exit that nobody handles. It was dumped to stderr; the vCPU is parked. */
	void (*failed)(void *machine);
};

struct vcpus;

/* Creates the vCPUs with their CPUID, no threads. host is copied. NULL with err set. */
struct vcpus *vcpus_create(const struct kvm *kvm, unsigned int cpus, const struct vcpu_host *host,
			   struct error *err);

/* Ends the threads and frees everything. NULL is ignored. */
void vcpus_destroy(struct vcpus *vcpus);

/*
 * Power-on state for all: the boot CPU at entry in 64-bit mode with rsi = boot_params, the others
 * waiting for INIT. All threads are parked or not started yet.
 */
int vcpus_reset(struct vcpus *vcpus, uint64_t entry, struct error *err);

/* The vCPU whose exit this thread handles executes nothing more until vcpus_reset(). In any other
 * thread nothing happens. */
void vcpu_halt_current(void);

/* Starts the threads and returns when all are parked. */
int vcpus_start(struct vcpus *vcpus, struct error *err);

/* The thread id of a vCPU, 0 before vcpus_start(). */
int vcpus_tid(const struct vcpus *vcpus, unsigned int cpu);

/* Asks every thread to park and does not wait for it: one may be blocked in a touch of memory. */
void vcpus_pause_begin(struct vcpus *vcpus);
/*
 * Returns true when every thread is parked. Idempotent. false: one of them waits in the kernel for
 * a frame of guest memory and cannot be interrupted there; it executes nothing more of the guest
 * until vcpus_resume(), but its state must not be touched.
 */
bool vcpus_pause(struct vcpus *vcpus);
/*
 * The same, but for somebody who can do without: waits only so long, and then lets all go on.
 * Returns 0 when nothing of the guest is executed any more, be it that one waits for a frame, or
 * -EAGAIN: all run on as before.
 */
int vcpus_pause_within(struct vcpus *vcpus, unsigned int ms);
/* After the VM's first triple fault: writes the state of the other vCPUs to stderr. All are parked.
 */
void vcpus_tell_triple_fault(struct vcpus *vcpus);
void vcpus_resume(struct vcpus *vcpus);

#endif
