/* SPDX-License-Identifier: MIT */
/*
 * Where a second CPU begins after STARTUP: real mode, cs:ip = vector page : 0. The code between
 * ap_trampoline and ap_trampoline_end is copied to AP_TRAMPOLINE and brings the CPU to 64-bit mode
 * on the guest's own page tables; ap_entry_64 then takes a stack and calls ap_start().
 */
#define AP_TRAMPOLINE 0x8000 /* as in guest.h */
#define AP_ADDR(symbol) (AP_TRAMPOLINE + symbol - ap_trampoline)

	.text
	.globl ap_trampoline
	.globl ap_trampoline_end
	.balign 16
	.code16
ap_trampoline:
	cli
	xor %ax, %ax
	mov %ax, %ds
	lgdtl AP_ADDR(ap_gdt_pointer)
	mov %cr0, %eax
	or $1, %eax
	mov %eax, %cr0
	ljmpl $0x08, $AP_ADDR(ap_32)

	.code32
ap_32:
	mov $0x18, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	mov %cr4, %eax
	or $0x20, %eax			/* PAE */
	mov %eax, %cr4
	mov AP_ADDR(ap_cr3), %eax
	mov %eax, %cr3
	mov $0xc0000080, %ecx		/* EFER.LME */
	rdmsr
	or $0x100, %eax
	wrmsr
	mov %cr0, %eax
	or $0x80000000, %eax
	mov %eax, %cr0
	ljmpl $0x10, $AP_ADDR(ap_64)

	.code64
ap_64:
	movabs $ap_entry_64, %rax
	jmp *%rax

	.balign 8
ap_gdt_pointer:
	.word 4 * 8 - 1
	.long guest_gdt
	.balign 8
	.globl ap_cr3
ap_cr3:
	.quad 0
ap_trampoline_end:

	.weak ap_start			/* only the guests that start CPUs have it */
ap_entry_64:
	mov $1, %eax			/* the next free stack is this CPU's */
	lock xadd %eax, ap_count(%rip)
	mov %eax, %edi
	inc %eax
	shl $12, %rax
	lea ap_stacks(%rip), %rsp
	add %rax, %rsp
	call ap_start
1:	cli
	hlt
	jmp 1b

	.bss
	.balign 16
	.globl ap_count
ap_count:
	.skip 16
	.globl ap_stacks
ap_stacks:
	.skip 64 * 4096
