/* SPDX-License-Identifier: MIT */
/*
 * First instruction of a guest: 64-bit mode, interrupts off, rsi = struct boot_params (the Linux
 * 64-bit boot protocol). Takes a stack, a GDT and an IDT of its own, so that nothing depends on what
 * the loader left below 1 MiB, clears .bss and calls guest_start(boot_params).
 */
	.section .text.entry, "ax"
	.globl _start
_start:
	cli
	cld
	lea boot_stack_top(%rip), %rsp
	mov %rsi, %rbx

	lea __bss_start(%rip), %rdi
	lea __bss_end(%rip), %rcx
	sub %rdi, %rcx
	shr $3, %rcx
	xor %eax, %eax
	rep stosq

	lgdt gdt_pointer(%rip)
	mov $0x18, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	pushq $0x10
	lea 1f(%rip), %rax
	push %rax
	lretq
1:
	mov %rbx, %rdi
	call guest_start
2:	hlt
	jmp 2b

/* Exceptions 0..31: vector and error code on the stack, then exception(frame). */
	.altmacro
	.macro exception_entry vector
	.balign 16
	.if !(\vector == 8 || (\vector >= 10 && \vector <= 14) || \vector == 17 || \vector == 21)
	pushq $0
	.endif
	pushq $\vector
	jmp exception_common
	.endm

	.globl exception_entries
	.balign 16
exception_entries:
	.set i, 0
	.rept 32
	exception_entry %i
	.set i, i + 1
	.endr

exception_common:
	mov %rsp, %rdi
	and $-16, %rsp
	call guest_exception
3:	hlt
	jmp 3b

	.data
	.balign 16
	.globl guest_gdt
guest_gdt:
	.quad 0
	.quad 0x00cf9b000000ffff	/* 0x08: 32-bit code, for the way up of other CPUs */
	.quad 0x00af9b000000ffff	/* 0x10: 64-bit code */
	.quad 0x00cf93000000ffff	/* 0x18: data */
guest_gdt_end:
	.globl gdt_pointer
gdt_pointer:
	.word guest_gdt_end - guest_gdt - 1
	.quad guest_gdt

	.bss
	.balign 16
	.skip 16384
boot_stack_top:
