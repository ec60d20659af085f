/* SPDX-License-Identifier: MIT */
/* /dev/kvm and one VM of it. Nothing else in the program opens /dev/kvm. */
#ifndef VMM_KVM_H
#define VMM_KVM_H

#include <stdbool.h>
#include <stddef.h>

#include "framevisor/error.h"

struct kvm {
	int fd;    /* /dev/kvm */
	int vm_fd; /* -1 until kvm_create_vm() */
	unsigned int max_vcpus;
	unsigned int max_gsi_routes;
	size_t run_size; /* bytes of a vCPU's struct kvm_run mapping */
	bool has_tsc_deadline;
	bool has_kvmclock_ctrl;
};

/*
 * Opens /dev/kvm and checks the API version and every capability that the machine needs. Returns 0,
 * or a negative errno with a message that says what is missing and what to do. Nothing stays open
 * on failure.
 */
int kvm_open(struct kvm *kvm, struct error *err);

/* Creates an empty VM. Returns 0 or a negative errno. */
int kvm_create_vm(struct kvm *kvm, struct error *err);

/* Gives the VM what a PC has in silicon: TSS and identity pages, PICs, IOAPIC, LAPICs, PIT. Before
 * the first vCPU is created. */
int kvm_create_platform(struct kvm *kvm, struct error *err);

/* Closes both. May be called on a struct that kvm_open() failed on. */
void kvm_close(struct kvm *kvm);

/*
 * The interrupt chips and the PIT as they were right after creation, and their way back there (a
 * machine reset). kvm_chips_save() is called once before a vCPU runs.
 */
struct kvm_chips;
struct kvm_chips *kvm_chips_save(const struct kvm *kvm, struct error *err);
int kvm_chips_restore(const struct kvm *kvm, const struct kvm_chips *chips, struct error *err);
void kvm_chips_free(struct kvm_chips *chips);

#endif
