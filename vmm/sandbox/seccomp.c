/* SPDX-License-Identifier: MIT */
/* The allow-list: see seccomp.h and seccomp(2). */
#include "vmm/sandbox/seccomp.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <ucontext.h>
#include <unistd.h>

/* What the first argument has to be. */
enum check {
	ANY,
	FD,   /* a descriptor below the guarded ones */
	SELF, /* the process itself */
};

struct entry {
	int nr;
	enum check check;
	const char *why;
};

/*
 * No path, no new program, no other process, no new kind of descriptor: everything that a VM opens
 * is open before its guest runs. Who needs a call that is not here adds it with the reason.
 */
static const struct entry entries[] = {
	/* Waiting and waking */
	{ SCMP_SYS(futex), ANY, "locks, joining threads" },
	{ SCMP_SYS(epoll_wait), FD, "event loop" },
	{ SCMP_SYS(epoll_pwait), FD, "event loop" },
	{ SCMP_SYS(epoll_ctl), FD, "event loop" },
	{ SCMP_SYS(poll), ANY, "fault thread" },
	{ SCMP_SYS(ppoll), ANY, "fault thread" },
	{ SCMP_SYS(eventfd2), ANY, "irqfds and doorbells of queues that a driver sets up" },
	{ SCMP_SYS(timerfd_create), ANY, "timers of devices" },
	{ SCMP_SYS(timerfd_settime), FD, "timers of devices" },
	{ SCMP_SYS(clock_nanosleep), ANY, "retries" },
	{ SCMP_SYS(nanosleep), ANY, "retries" },
	{ SCMP_SYS(restart_syscall), ANY, "the kernel's own, after a signal" },
	{ SCMP_SYS(sched_yield), ANY, "spinning threads, libjansson" },
	/* Data over descriptors: sockets, console, eventfds, userfaultfd, kernel image, swap */
	{ SCMP_SYS(read), FD, "events, console, control" },
	{ SCMP_SYS(write), FD, "events, console, messages" },
	{ SCMP_SYS(writev), FD, "last words of the C library" },
	{ SCMP_SYS(pread64), FD, "kernel image at a reset, swap" },
	{ SCMP_SYS(pwrite64), FD, "swap" },
	{ SCMP_SYS(lseek), FD, "streams of the C library" },
	{ SCMP_SYS(close), FD, "connections, queues" },
	{ SCMP_SYS(shutdown), FD, "connections" },
	{ SCMP_SYS(accept4), FD, "control and console connections" },
	{ SCMP_SYS(sendto), FD, "control, pool owner; it cannot pass descriptors" },
	{ SCMP_SYS(recvfrom), FD, "control, pool owner" },
	{ SCMP_SYS(recvmsg), FD, "control, pool owner" },
	{ SCMP_SYS(getsockopt), FD, "who is at the other end" },
	{ SCMP_SYS(io_uring_enter), FD, "swap: a ring that was set up and restricted before" },
	/* Memory; mmap, mremap, mprotect and madvise are further below */
	{ SCMP_SYS(munmap), ANY, "guest memory that goes, the allocator" },
	{ SCMP_SYS(brk), ANY, "the allocator" },
	/* Threads and signals */
	{ SCMP_SYS(rseq), ANY, "threads" },
	{ SCMP_SYS(set_robust_list), ANY, "threads" },
	{ SCMP_SYS(set_tid_address), ANY, "threads" },
	{ SCMP_SYS(exit), ANY, "threads" },
	{ SCMP_SYS(exit_group), ANY, "the end" },
	{ SCMP_SYS(gettid), ANY, "threads" },
	{ SCMP_SYS(getpid), ANY, "threads" },
	{ SCMP_SYS(sched_getaffinity), ANY, "threads" },
	{ SCMP_SYS(sigaltstack), ANY, "threads" },
	{ SCMP_SYS(rt_sigaction), ANY, "threads" },
	{ SCMP_SYS(rt_sigprocmask), ANY, "threads" },
	{ SCMP_SYS(rt_sigreturn), ANY, "the end of a signal handler" },
	{ SCMP_SYS(rt_sigtimedwait), ANY, "the thread that waits for signals" },
	{ SCMP_SYS(tgkill), SELF, "kicking a vCPU out of KVM, abort()" },
	/* Facts */
	{ SCMP_SYS(clock_gettime), ANY, "time, where the vDSO does not tell" },
	{ SCMP_SYS(gettimeofday), ANY, "time" },
	{ SCMP_SYS(time), ANY, "the guest's RTC" },
	{ SCMP_SYS(getrandom), ANY, "virtio-rng, the allocator" },
	{ SCMP_SYS(fstat), FD, "files that are open" },
};

/* What a running machine asks of KVM, userfaultfd and a terminal. Creating a VM is over by then. */
static const unsigned long ioctls[] = {
	KVM_RUN,
	/* Interrupts and queues of devices */
	KVM_IRQ_LINE,
	KVM_IRQFD,
	KVM_IOEVENTFD,
	KVM_SET_GSI_ROUTING,
	/* Plugging memory */
	KVM_SET_USER_MEMORY_REGION,
	/* Reset, pause, and the registers of a vCPU that stopped */
	KVM_GET_REGS,
	KVM_SET_REGS,
	KVM_GET_SREGS,
	KVM_SET_SREGS,
	KVM_GET_MSRS,
	KVM_SET_MSRS,
	KVM_GET_XSAVE,
	KVM_SET_XSAVE,
	KVM_GET_XCRS,
	KVM_SET_XCRS,
	KVM_GET_DEBUGREGS,
	KVM_SET_DEBUGREGS,
	KVM_GET_VCPU_EVENTS,
	KVM_SET_VCPU_EVENTS,
	KVM_GET_MP_STATE,
	KVM_SET_MP_STATE,
	KVM_GET_LAPIC,
	KVM_SET_LAPIC,
	KVM_SET_CPUID2,
	KVM_GET_IRQCHIP,
	KVM_SET_IRQCHIP,
	KVM_GET_PIT2,
	KVM_SET_PIT2,
	KVM_KVMCLOCK_CTRL,
	KVM_GET_DEVICE_ATTR,
	KVM_SET_DEVICE_ATTR,
	KVM_TRANSLATE,
	KVM_CHECK_EXTENSION,
	/* Guest memory */
	UFFDIO_REGISTER,
	UFFDIO_UNREGISTER,
	UFFDIO_WAKE,
	UFFDIO_CONTINUE,
	/* The terminal of a console in the foreground */
	TCGETS,
	TCSETS,
	TCSETSW,
	TCSETSF,
	FIONREAD,
};

#define NAMES_MAX 512
#define TOLD_MAX  3 /* times that one refused call is told of */

static char *names[NAMES_MAX];
static unsigned int told[NAMES_MAX];

static void append(char *line, size_t size, size_t *len, const char *text)
{
	while (*text && *len < size)
		line[(*len)++] = *text++;
}

/* A refused call: named, and failed with EPERM. Only what may be done in a signal handler. */
static void on_refused(int signum, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	int nr = info->si_syscall, saved = errno;
	bool known = nr >= 0 && nr < NAMES_MAX && names[nr];
	char line[160];
	size_t len = 0;

	(void)signum;
	uc->uc_mcontext.gregs[REG_RAX] = -EPERM;
	if (known && __atomic_fetch_add(&told[nr], 1, __ATOMIC_RELAXED) >= TOLD_MAX)
		return;
	append(line, sizeof(line), &len, "framevisor: warning: the sandbox refused system call '");
	append(line, sizeof(line), &len, known ? names[nr] : "unknown");
	append(line, sizeof(line), &len, "' (run with --sandbox=off if the VM needs it)\n");
	if (write(STDERR_FILENO, line, len) < 0)
		errno = saved;
	errno = saved;
}

/* Names are looked up before: a handler must not allocate. */
static int catch_refused(struct error *err)
{
	struct sigaction action = { .sa_sigaction = on_refused, .sa_flags = SA_SIGINFO };

	for (int nr = 0; nr < NAMES_MAX && !names[NAMES_MAX - 1]; nr++) {
		if (!names[nr])
			names[nr] = seccomp_syscall_resolve_num_arch(SCMP_ARCH_X86_64, nr);
	}
	sigfillset(&action.sa_mask);
	if (sigaction(SIGSYS, &action, NULL) < 0)
		return error_set_errno(err, errno, "cannot watch the sandbox");
	return 0;
}

/* The kernel looks at the lower half only of what is an int. */
static struct scmp_arg_cmp int_is(unsigned int arg, int value)
{
	return (struct scmp_arg_cmp){ .arg = arg,
				      .op = SCMP_CMP_MASKED_EQ,
				      .datum_a = UINT32_MAX,
				      .datum_b = (uint32_t)value };
}

/* No half of the register may be ignored here: what is larger in any way is refused. */
static struct scmp_arg_cmp below(unsigned int arg, int limit)
{
	return (struct scmp_arg_cmp){ .arg = arg, .op = SCMP_CMP_LT, .datum_a = (uint64_t)limit };
}

static struct scmp_arg_cmp bits(unsigned int arg, uint64_t mask, uint64_t value)
{
	return (struct scmp_arg_cmp){
		.arg = arg, .op = SCMP_CMP_MASKED_EQ, .datum_a = mask, .datum_b = value
	};
}

static int allow_entries(scmp_filter_ctx ctx, const struct seccomp_config *config)
{
	int ret = 0;

	for (size_t i = 0; ret == 0 && i < sizeof(entries) / sizeof(entries[0]); i++) {
		const struct entry *entry = &entries[i];

		switch (entry->check) {
		case ANY:
			ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, entry->nr, 0);
			break;
		case FD:
			ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, entry->nr, 1,
					       below(0, config->guarded));
			break;
		case SELF:
			ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, entry->nr, 1,
					       int_is(0, getpid()));
			break;
		}
	}
	for (size_t i = 0; ret == 0 && i < sizeof(ioctls) / sizeof(ioctls[0]); i++)
		ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 2,
				       below(0, config->guarded), int_is(1, (int)ioctls[i]));
	return ret;
}

/* Calls of which only one use is needed. */
static int allow_special(scmp_filter_ctx ctx, const struct seccomp_config *config)
{
	const uint64_t thread = CLONE_VM | CLONE_THREAD | CLONE_SIGHAND | CLONE_FILES;
	static const int advice[] = { MADV_DONTNEED,   MADV_FREE,          MADV_HUGEPAGE,
				      MADV_NOHUGEPAGE, MADV_DONTFORK,      MADV_DONTDUMP,
				      MADV_WILLNEED,   MADV_POPULATE_WRITE };
	int guarded = config->guarded;
	int ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
				   bits(0, thread, thread)); /* threads, no processes */

	/* Its flags are in memory, where they cannot be checked; the C library then uses clone. */
	if (ret == 0)
		ret = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
	if (ret == 0) /* the name of a thread */
		ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1,
				       int_is(0, PR_SET_NAME));
	if (ret == 0) /* fstat() of the C library; a path names nothing in an empty root */
		ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(newfstatat), 2,
				       below(0, guarded), bits(3, AT_EMPTY_PATH, AT_EMPTY_PATH));
	if (ret == 0) /* the log of a VM that goes into the background */
		ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(dup2), 2, below(0, guarded),
				       below(1, guarded));
	for (int cmd = F_GETFD; ret == 0 && cmd <= F_SETFL; cmd++) /* not F_DUPFD */
		ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 2, below(0, guarded),
				       int_is(1, cmd));
	/* Not MADV_REMOVE: it would take a frame out of the pool's file. */
	for (size_t i = 0; ret == 0 && i < sizeof(advice) / sizeof(advice[0]); i++)
		ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(madvise), 1,
				       int_is(2, advice[i]));
	if (ret == 0) /* no new code */
		ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
				       bits(2, PROT_EXEC, 0));
	return ret;
}

/* Anonymous memory (no hugepages beside the pool), the hole, and the pool's files. */
static int allow_mmap(scmp_filter_ctx ctx, const struct seccomp_config *config)
{
	const uint64_t kind = MAP_ANONYMOUS | MAP_HUGETLB;
	int ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 2, bits(2, PROT_EXEC, 0),
				   bits(3, kind, MAP_ANONYMOUS));

	if (ret == 0 && config->hole >= 0)
		ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 3,
				       bits(2, PROT_EXEC, 0), bits(3, MAP_ANONYMOUS, 0),
				       int_is(4, config->hole));
	for (int i = 0; ret == 0 && i < config->nr_pool; i++)
		ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 3,
				       bits(2, PROT_EXEC, 0), bits(3, MAP_ANONYMOUS, 0),
				       int_is(4, config->guarded + i));
	/*
	 * Moving a mapping, of the same length: 0 would make a second one of the same frames, and a
	 * longer one would reach the frames behind them. The lengths are compared in
	 * seccomp_lengths.c: this library compares an argument with constants only.
	 */
	if (ret == 0)
		ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mremap), 1,
				       bits(3, MREMAP_DONTUNMAP, 0));
	return ret;
}

static int build(scmp_filter_ctx ctx, const struct seccomp_config *config)
{
	int ret = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_TSYNC, 1);

	if (ret == 0)
		ret = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2); /* a tree, not a list */
	if (ret == 0)
		ret = allow_entries(ctx, config);
	if (ret == 0)
		ret = allow_special(ctx, config);
	if (ret == 0)
		ret = allow_mmap(ctx, config);
	return ret ? ret : seccomp_load(ctx);
}

int seccomp_install(const struct seccomp_config *config, struct error *err)
{
	scmp_filter_ctx ctx;
	int ret = catch_refused(err);

	if (ret < 0)
		return ret;
	ret = seccomp_check_lengths(config, err);
	if (ret < 0)
		return ret;
	ctx = seccomp_init(SCMP_ACT_TRAP);
	if (!ctx)
		return error_set(err, ENOMEM, "no memory for the list of system calls");
	ret = build(ctx, config);
	seccomp_release(ctx);
	if (ret < 0)
		return error_set_errno(err, -ret, "cannot limit the system calls of this process");
	return 0;
}
