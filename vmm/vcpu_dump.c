/* SPDX-License-Identifier: MIT */
/* What is printed when a vCPU does what nobody handles. */
#include "vmm/vcpu_internal.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define CODE_BEFORE 16
#define CODE_AFTER  32

/* Dumps of several vCPUs must not mix. */
static pthread_mutex_t dump_lock = PTHREAD_MUTEX_INITIALIZER;

static void dump_regs(const struct kvm_regs *r)
{
	dprintf(STDERR_FILENO,
		"  rax %016llx rbx %016llx rcx %016llx rdx %016llx\n"
		"  rsi %016llx rdi %016llx rsp %016llx rbp %016llx\n"
		"  r8  %016llx r9  %016llx r10 %016llx r11 %016llx\n"
		"  r12 %016llx r13 %016llx r14 %016llx r15 %016llx\n"
		"  rip %016llx rflags %08llx\n",
		r->rax, r->rbx, r->rcx, r->rdx, r->rsi, r->rdi, r->rsp, r->rbp, r->r8, r->r9,
		r->r10, r->r11, r->r12, r->r13, r->r14, r->r15, r->rip, r->rflags);
}

static void dump_segment(const char *name, const struct kvm_segment *s)
{
	dprintf(STDERR_FILENO,
		"  %s  %04x base %016llx limit %08x type %x dpl %u p %u db %u l %u g %u\n", name,
		s->selector, s->base, s->limit, s->type, s->dpl, s->present, s->db, s->l, s->g);
}

static void dump_sregs(const struct kvm_sregs *s)
{
	dprintf(STDERR_FILENO,
		"  cr0 %08llx cr2 %016llx cr3 %016llx cr4 %08llx cr8 %llx efer %08llx apic "
		"%08llx\n",
		s->cr0, s->cr2, s->cr3, s->cr4, s->cr8, s->efer, s->apic_base);
	dump_segment("cs", &s->cs);
	dump_segment("ds", &s->ds);
	dump_segment("ss", &s->ss);
	dump_segment("fs", &s->fs);
	dump_segment("gs", &s->gs);
	dump_segment("tr", &s->tr);
	dprintf(STDERR_FILENO, "  gdt %016llx limit %04x, idt %016llx limit %04x\n", s->gdt.base,
		s->gdt.limit, s->idt.base, s->idt.limit);
}

/* One byte at a guest-linear address through KVM's walk of the guest's page tables. */
static int read_linear(const struct vcpu *vcpu, const struct guest_memory *gm, uint64_t address,
		       uint8_t *byte)
{
	struct kvm_translation translation = { .linear_address = address };

	if (ioctl(vcpu->fd, KVM_TRANSLATE, &translation) < 0 || !translation.valid)
		return -1;
	return guest_read(gm, translation.physical_address, byte, 1);
}

static void dump_code(const struct vcpu *vcpu, const struct guest_memory *gm, uint64_t rip)
{
	char text[(CODE_BEFORE + CODE_AFTER) * 4 + 1];
	size_t len = 0;
	uint64_t address;

	for (address = rip - CODE_BEFORE; address != rip + CODE_AFTER; address++) {
		uint8_t byte;

		if (read_linear(vcpu, gm, address, &byte) < 0)
			len += (size_t)snprintf(text + len, sizeof(text) - len, " ??");
		else if (address == rip)
			len += (size_t)snprintf(text + len, sizeof(text) - len, " <%02x>", byte);
		else
			len += (size_t)snprintf(text + len, sizeof(text) - len, " %02x", byte);
	}
	dprintf(STDERR_FILENO, "  code%s\n", text);
}

void vcpu_dump(const struct vcpu *vcpu, struct vm_memory *memory, const char *why)
{
	struct kvm_regs regs;
	struct kvm_sregs sregs;

	pthread_mutex_lock(&dump_lock);
	dprintf(STDERR_FILENO, "framevisor: vCPU %u: %s\n", vcpu->id, why);
	if (ioctl(vcpu->fd, KVM_GET_REGS, &regs) == 0 &&
	    ioctl(vcpu->fd, KVM_GET_SREGS, &sregs) == 0) {
		dump_regs(&regs);
		dump_sregs(&sregs);
		dump_code(vcpu, vm_memory_guest(memory), sregs.cs.base + regs.rip);
	}
	vm_memory_dump(memory, STDERR_FILENO);
	pthread_mutex_unlock(&dump_lock);
}
