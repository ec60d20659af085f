/* SPDX-License-Identifier: MIT */
/*
 * Filters in front of the allow-list that do what libseccomp does not offer.
 *
 * The first lets mremap only move, and not out of where the pool's frames are mapped: the new
 * length must be the old one and not 0, and no mapping of the pool changes its address. So it is
 * enough to look at where it was mapped.
 *
 * The second asks the VM's keeper about each mapping of the pool.
 */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm/sandbox/seccomp.h"

#define LOAD(field)       BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define LOW(n)            BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[n]))
#define HIGH(n)           BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[n]) + 4)
#define JUMP(op, k, t, f) BPF_JUMP(BPF_JMP | BPF_##op | BPF_K, (uint32_t)(k), t, f)
#define SAME(t, f)        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_X, 0, t, f)
#define RETURN(what)      BPF_STMT(BPF_RET | BPF_K, what)

static int install(const struct sock_filter *code, size_t nr, unsigned int flags, struct error *err)
{
	struct sock_fprog program = { .len = (unsigned short)nr,
				      .filter = (struct sock_filter *)(uintptr_t)code };
	long ret;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return error_set_errno(err, errno, "cannot give up new privileges");
	ret = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC | flags,
		      &program);
	/* Without flags it may be the number of a thread that has another filter. */
	if (ret < 0 || (ret > 0 && flags == 0))
		return error_set_errno(err, ret < 0 ? errno : ESRCH,
				       "cannot limit the system calls of this process");
	return (int)ret;
}

int seccomp_check_lengths(const struct seccomp_config *config, struct error *err)
{
	/* args[0] is the address, args[1] the old length, args[2] the new one. */
	const struct sock_filter code[] = {
		/* 0*/ LOAD(arch),
		/* 1: other conventions are the allow-list's to refuse */
		JUMP(JEQ, AUDIT_ARCH_X86_64, 0, 15),
		/* 2*/ LOAD(nr),
		/* 3*/ JUMP(JEQ, SYS_mremap, 0, 13),
		/* 4: below a span, so that from below the guard nothing reaches over it */ HIGH(1),
		/* 5*/ JUMP(JEQ, 0, 0, 12),
		/* 6*/ HIGH(2),
		/* 7*/ JUMP(JEQ, 0, 0, 10),
		/* 8*/ LOW(2),
		/* 9*/ BPF_STMT(BPF_MISC | BPF_TAX, 0),
		/*10*/ LOW(1),
		/*11*/ SAME(0, 6),
		/*12*/ JUMP(JEQ, 0, 5, 0),
		/*13*/ HIGH(0),
		/*14*/ JUMP(JGE, config->end >> 32, 2, 0),
		/*15*/ JUMP(JGE, config->guard >> 32, 2, 1),
		/*16*/ RETURN(SECCOMP_RET_ALLOW),
		/*17*/ RETURN(SECCOMP_RET_ALLOW),
		/* What realloc() understands: it copies instead. */
		/*18*/ RETURN(SECCOMP_RET_ERRNO | ENOMEM),
	};

	return install(code, sizeof(code) / sizeof(code[0]), 0, err);
}

int seccomp_listen(const struct seccomp_config *config, struct error *err)
{
	/* The kernel looks at the lower halves of flags and descriptor. */
	const struct sock_filter code[] = {
		/* 0*/ LOAD(arch),
		/* 1*/ JUMP(JEQ, AUDIT_ARCH_X86_64, 0, 7),
		/* 2*/ LOAD(nr),
		/* 3*/ JUMP(JEQ, SYS_mmap, 0, 5),
		/* 4*/ LOW(3),
		/* 5*/ JUMP(JSET, MAP_ANONYMOUS, 3, 0),
		/* 6*/ LOW(4),
		/* 7*/ JUMP(JGE, config->guarded, 0, 1),
		/* 8*/ JUMP(JGE, config->guarded + config->nr_pool, 0, 1),
		/* 9*/ RETURN(SECCOMP_RET_ALLOW),
		/*10*/ RETURN(SECCOMP_RET_USER_NOTIF),
	};

	return install(code, sizeof(code) / sizeof(code[0]),
		       SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_TSYNC_ESRCH, err);
}
