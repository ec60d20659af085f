/* SPDX-License-Identifier: MIT */
/*
 * A filter in front of the allow-list that lets mremap only move: the new length must be the old
 * one, and not 0. It compares two arguments, which libseccomp does not offer.
 */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm/sandbox/seccomp.h"

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define LOW(n)      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[n]))
#define HIGH(n)     BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[n]) + 4)

int seccomp_check_lengths(struct error *err)
{
	/* args[1] is the old length, args[2] the new one; their halves are compared in turn. */
	struct sock_filter code[] = {
		/* 0*/ LOAD(arch),
		/* 1: other conventions are the allow-list's to refuse */
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 12),
		/* 2*/ LOAD(nr),
		/* 3*/ BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mremap, 0, 10),
		/* 4*/ HIGH(2),
		/* 5*/ BPF_STMT(BPF_MISC | BPF_TAX, 0),
		/* 6*/ HIGH(1),
		/* 7*/ BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_X, 0, 0, 7),
		/* 8*/ LOW(2),
		/* 9*/ BPF_STMT(BPF_MISC | BPF_TAX, 0),
		/*10*/ LOW(1),
		/*11*/ BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_X, 0, 0, 3),
		/*12: not 0; a lower half of 0 under an upper one is nothing that is needed */
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 2, 0),
		/*13*/ BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		/*14*/ BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		/* What realloc() understands: it copies instead. */
		/*15*/ BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOMEM),
	};
	struct sock_fprog program = { .len = sizeof(code) / sizeof(code[0]), .filter = code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) != 0)
		return error_set_errno(err, errno, "cannot limit the system calls of this process");
	return 0;
}
