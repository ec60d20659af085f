/* SPDX-License-Identifier: MIT */
/*
 * The registers of a vCPU at power on, and the boot CPU's by the 64-bit boot protocol.
 *
 * KVM has no call that resets a vCPU. What it holds right after creation is the power-on state, so
 * that is saved once and written back for every start.
 */
#include "vmm/vcpu_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "framevisor/layout.h"
#include "vmm/boot/boot.h"

#define CR0_PE   (1ull << 0)
#define CR0_MP   (1ull << 1)
#define CR0_ET   (1ull << 4)
#define CR0_NE   (1ull << 5)
#define CR0_WP   (1ull << 16)
#define CR0_PG   (1ull << 31)
#define CR4_PAE  (1ull << 5)
#define EFER_LME (1ull << 8)
#define EFER_LMA (1ull << 10)
#define RFLAGS_1 0x2ull /* bit 1 is always set */

/* Local vector table entries in the LAPIC's register page, and delivery modes (SDM 11.5.1). */
#define LAPIC_LVT_LINT0   0x350
#define LAPIC_LVT_LINT1   0x360
#define LAPIC_MODE_EXTINT 0x700u
#define LAPIC_MODE_NMI    0x400u

#define MSR_IA32_MISC_ENABLE    0x1a0u
#define MISC_ENABLE_FAST_STRING 1ull
#define MSR_MTRR_DEF_TYPE       0x2ffu
#define MTRR_ENABLED_WRITE_BACK 0x806ull

/*
 * What a guest kernel changes and the next one must not find. The KVM ones make the host write into
 * guest memory, which belongs to the next kernel after a reset. The TSC and TSC_ADJUST go on: they
 * are in step between the vCPUs (but for vcpu_state_restore_tsc()), and no kernel minds their
 * value.
 */
static const uint32_t reset_msrs[] = {
	0x174,      0x175,      0x176,      /* SYSENTER_CS, _ESP, _EIP */
	0xc0000081, 0xc0000082, 0xc0000083, /* STAR, LSTAR, CSTAR */
	0xc0000084, 0xc0000102, 0xc0000103, /* SYSCALL_MASK, KERNEL_GS_BASE, TSC_AUX */
	0x277,      0x6e0,      0x48,       /* PAT, TSC_DEADLINE, SPEC_CTRL */
	0x1d9,      0x17a,      0xda0,      /* DEBUGCTL, MCG_STATUS, XSS */
	0x11,       0x12,                   /* kvm-clock, old numbers */
	0x4b564d00, 0x4b564d01,             /* kvm-clock: wall clock, system time */
	0x4b564d02, 0x4b564d06, 0x4b564d03, /* async page faults (enable, vector), steal time */
	0x4b564d04, 0x4b564d05,             /* paravirtual EOI, poll control */
};
#define NR_RESET_MSRS (sizeof(reset_msrs) / sizeof(reset_msrs[0]))
#define NR_MSRS_MAX   (NR_RESET_MSRS + 2)

struct vcpu_state {
	struct kvm_mp_state mp_state;
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_xsave xsave;
	struct kvm_xcrs xcrs;
	struct kvm_debugregs debugregs;
	struct kvm_vcpu_events events;
	struct kvm_lapic_state lapic;
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entries[NR_MSRS_MAX];
	} msrs;
};

static void set_lapic_register(struct kvm_lapic_state *lapic, unsigned int offset, uint32_t value)
{
	memcpy(lapic->regs + offset, &value, sizeof(value));
}

static void add_msr(struct vcpu_state *state, uint32_t index, uint64_t value)
{
	state->msrs.entries[state->msrs.head.nmsrs++] =
		(struct kvm_msr_entry){ .index = index, .data = value };
}

/* Those that can be read and written with this KVM and this CPUID. Both calls stop at the first
 * MSR that they do not know, so ask one by one. */
static void save_msrs(const struct vcpu *vcpu, struct vcpu_state *state)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} one;
	unsigned int i;

	for (i = 0; i < NR_RESET_MSRS; i++) {
		memset(&one, 0, sizeof(one));
		one.head.nmsrs = 1;
		one.entry.index = reset_msrs[i];
		if (ioctl(vcpu->fd, KVM_GET_MSRS, &one.head) == 1 &&
		    ioctl(vcpu->fd, KVM_SET_MSRS, &one.head) == 1)
			add_msr(state, reset_msrs[i], one.entry.data);
	}
	/* What firmware sets up: caching as memory wants it, and fast string operations. */
	add_msr(state, MSR_IA32_MISC_ENABLE, MISC_ENABLE_FAST_STRING);
	add_msr(state, MSR_MTRR_DEF_TYPE, MTRR_ENABLED_WRITE_BACK);
}

struct vcpu_state *vcpu_state_save(const struct vcpu *vcpu, struct error *err)
{
	struct vcpu_state *state = calloc(1, sizeof(*state));

	if (!state) {
		error_set(err, ENOMEM, "out of memory for the state of vCPU %u", vcpu->id);
		return NULL;
	}
	if (ioctl(vcpu->fd, KVM_GET_MP_STATE, &state->mp_state) < 0 ||
	    ioctl(vcpu->fd, KVM_GET_REGS, &state->regs) < 0 ||
	    ioctl(vcpu->fd, KVM_GET_SREGS, &state->sregs) < 0 ||
	    ioctl(vcpu->fd, KVM_GET_XSAVE, &state->xsave) < 0 ||
	    ioctl(vcpu->fd, KVM_GET_XCRS, &state->xcrs) < 0 ||
	    ioctl(vcpu->fd, KVM_GET_DEBUGREGS, &state->debugregs) < 0 ||
	    ioctl(vcpu->fd, KVM_GET_VCPU_EVENTS, &state->events) < 0 ||
	    ioctl(vcpu->fd, KVM_GET_LAPIC, &state->lapic) < 0) {
		error_set_errno(err, errno, "cannot read the registers of vCPU %u", vcpu->id);
		free(state);
		return NULL;
	}
	set_lapic_register(&state->lapic, LAPIC_LVT_LINT0, LAPIC_MODE_EXTINT);
	set_lapic_register(&state->lapic, LAPIC_LVT_LINT1, LAPIC_MODE_NMI);
	save_msrs(vcpu, state);
	return state;
}

void vcpu_state_free(struct vcpu_state *state)
{
	free(state);
}

/* Long mode on the tables that boot_write_cpu_tables() wrote. */
static void set_boot_sregs(struct kvm_sregs *sregs)
{
	struct kvm_segment code = {
		.selector = BOOT_CS,
		.limit = 0xffffffff,
		.type = 0xb, /* execute, read, accessed */
		.present = 1,
		.s = 1,
		.l = 1,
		.g = 1,
	};
	struct kvm_segment data = {
		.selector = BOOT_DS,
		.limit = 0xffffffff,
		.type = 0x3, /* read, write, accessed */
		.present = 1,
		.s = 1,
		.db = 1,
		.g = 1,
	};
	struct kvm_segment tss = {
		.selector = BOOT_TSS,
		.limit = 0xfffff,
		.type = 0xb, /* busy 64-bit TSS */
		.present = 1,
		.g = 1,
	};

	sregs->cs = code;
	sregs->ds = sregs->es = sregs->fs = sregs->gs = sregs->ss = data;
	sregs->tr = tss;
	sregs->gdt.base = LAYOUT_GDT;
	sregs->gdt.limit = BOOT_GDT_LIMIT;
	sregs->idt.base = 0;
	sregs->idt.limit = 0;
	sregs->cr3 = LAYOUT_PML4;
	sregs->cr4 = CR4_PAE;
	sregs->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
	sregs->efer |= EFER_LME | EFER_LMA;
}

static int set_msrs(const struct vcpu *vcpu, struct error *err)
{
	struct vcpu_state *state = vcpu->power_on;
	int done = ioctl(vcpu->fd, KVM_SET_MSRS, &state->msrs.head);

	if (done < 0)
		return error_set_errno(err, errno, "KVM_SET_MSRS failed for vCPU %u", vcpu->id);
	if ((unsigned int)done < state->msrs.head.nmsrs)
		return error_set(err, EINVAL, "KVM refuses MSR %#x of vCPU %u",
				 state->msrs.entries[done].index, vcpu->id);
	return 0;
}

void vcpu_state_restore_tsc(const struct vcpu *vcpu)
{
	uint64_t offset;
	struct kvm_device_attr attr = {
		.group = KVM_VCPU_TSC_CTRL,
		.attr = KVM_VCPU_TSC_OFFSET,
		.addr = (uint64_t)(uintptr_t)&offset,
	};

	if (ioctl(vcpu->fd, KVM_GET_DEVICE_ATTR, &attr) == 0)
		(void)ioctl(vcpu->fd, KVM_SET_DEVICE_ATTR, &attr);
}

int vcpu_state_reset(const struct vcpu *vcpu, uint64_t entry, struct error *err)
{
	const struct vcpu_state *state = vcpu->power_on;
	struct kvm_sregs sregs = state->sregs;
	struct kvm_regs regs = state->regs;

	if (entry != 0) {
		set_boot_sregs(&sregs);
		regs = (struct kvm_regs){
			.rip = entry,
			.rsi = LAYOUT_BOOT_PARAMS,
			.rsp = LAYOUT_BOOT_STACK,
			.rbp = LAYOUT_BOOT_STACK,
			.rflags = RFLAGS_1,
		};
	}
	/* The APIC mode (in sregs) comes before the LAPIC's registers, whose layout it decides. */
	if (ioctl(vcpu->fd, KVM_SET_MP_STATE, &state->mp_state) < 0 ||
	    ioctl(vcpu->fd, KVM_SET_SREGS, &sregs) < 0 ||
	    ioctl(vcpu->fd, KVM_SET_REGS, &regs) < 0 ||
	    ioctl(vcpu->fd, KVM_SET_XCRS, &state->xcrs) < 0 ||
	    ioctl(vcpu->fd, KVM_SET_XSAVE, &state->xsave) < 0 ||
	    ioctl(vcpu->fd, KVM_SET_DEBUGREGS, &state->debugregs) < 0 ||
	    ioctl(vcpu->fd, KVM_SET_LAPIC, &state->lapic) < 0 ||
	    ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, &state->events) < 0)
		return error_set_errno(err, errno, "cannot set the registers of vCPU %u", vcpu->id);
	return set_msrs(vcpu, err);
}
