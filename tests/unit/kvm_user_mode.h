/* SPDX-License-Identifier: MIT */
/* The registers of a vCPU that begins in 64-bit user mode, with flat segments. */
#ifndef KVM_USER_MODE_H
#define KVM_USER_MODE_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/ioctl.h>

/* tss and pml4 are guest-physical addresses. False: the vCPU does not take them. */
static inline bool kvm_set_user_mode(int vcpu_fd, uint64_t tss, uint64_t pml4)
{
	struct kvm_segment code = { .limit = UINT32_MAX,
				    .selector = 0x1b,
				    .type = 11,
				    .present = 1,
				    .dpl = 3,
				    .s = 1,
				    .l = 1,
				    .g = 1 };
	struct kvm_segment data = { .limit = UINT32_MAX,
				    .selector = 0x23,
				    .type = 3,
				    .present = 1,
				    .dpl = 3,
				    .db = 1,
				    .s = 1,
				    .g = 1 };
	struct kvm_sregs sregs;

	if (ioctl(vcpu_fd, KVM_GET_SREGS, &sregs) != 0)
		return false;
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.tr = (struct kvm_segment){
		.base = tss, .limit = 0x67, .selector = 0x28, .type = 11, .present = 1
	};
	sregs.cr0 = 0x80000033; /* PG, NE, ET, MP, PE */
	sregs.cr3 = pml4;
	sregs.cr4 = 0x20;   /* PAE */
	sregs.efer = 0x500; /* LMA, LME */
	return ioctl(vcpu_fd, KVM_SET_SREGS, &sregs) == 0;
}

#endif
