/* SPDX-License-Identifier: MIT */
/* Whether this host's KVM can run a stock kernel: see framevisor/kvm_probe.h. */
#include "framevisor/kvm_probe.h"

#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "framevisor/clock.h"
#include "vmm/boot/cpuid.h"
#include "vmm/kvm.h"

#define PROBE_MEM      0x200000ull
#define PROBE_PML4     0x1000
#define PROBE_PDPT     0x2000
#define PROBE_PD       0x3000
#define PROBE_CODE     0x8000
#define PROBE_STACK    0x20000
#define PROBE_LIMIT_MS 1900
#define PROBE_SIGNAL   SIGRTMIN
#define PROBE_PORT     0x10

/* Four million instructions. A host that emulates kernel mode does about as many in a second, and
 * Linux needs more than a thousand million to boot. Time is the thread's CPU time, so that a busy
 * host does not look slow. */
#define PROBE_LOOPS    2000000
#define PROBE_LOOPS_MS 250

/* Which steps the guest's CPUID allows; the guest code tests them in %rdi. */
#define PROBE_HAS_CX16  1u
#define PROBE_HAS_XSAVE 2u
#define PROBE_HAS_AVX   4u

enum probe_step {
	STEP_START,
	STEP_CR4,
	STEP_MSR,
	STEP_CMPXCHG16B,
	STEP_XSETBV,
	STEP_XSAVE,
	STEP_XRSTOR,
	STEP_VEX,
	STEP_LOOP,
	STEP_DONE,
	NR_STEPS,
};

/* What the guest does after it reported the step. */
static const char *const step_names[NR_STEPS] = {
	[STEP_START] = "the first instruction in 64-bit kernel mode",
	[STEP_CR4] = "mov to CR4",
	[STEP_MSR] = "wrmsr and swapgs",
	[STEP_CMPXCHG16B] = "cmpxchg16b",
	[STEP_XSETBV] = "xsetbv",
	[STEP_XSAVE] = "xsave",
	[STEP_XRSTOR] = "xrstor",
	[STEP_VEX] = "vpxor (a VEX encoded instruction)",
	[STEP_LOOP] = "a loop",
	[STEP_DONE] = "out",
};

#define ASM_STRING(x) #x
#define ASM_CONST(x)  ASM_STRING(x)

/* The guest: position independent, at PROBE_CODE, features in %edi. "report" tells enum probe_step.
 */
/* clang-format off: one instruction to a line */
__asm__(".pushsection .rodata\n"
	".macro report step\n"
	"	mov $\\step, %al\n"
	"	out %al, $" ASM_CONST(
		PROBE_PORT) "\n"
			    ".endm\n"
			    "kvm_probe_code:\n"
			    "	report 1\n"
			    "	mov %cr4, %rax\n"
			    "	or $0x600, %rax\n" /* OSFXSR, OSXMMEXCPT */
			    "	test $2, %edi\n"
			    "	jz 1f\n"
			    "	or $0x40000, %rax\n" /* OSXSAVE */
			    "1:	mov %rax, %cr4\n"
			    "	report 2\n"
			    "	mov $0xc0000102, %ecx\n" /* KERNEL_GS_BASE */
			    "	xor %edx, %edx\n"
			    "	mov $0x1000, %eax\n"
			    "	wrmsr\n"
			    "	swapgs\n"
			    "	swapgs\n"
			    "	test $1, %edi\n"
			    "	jz 2f\n"
			    "	report 3\n"
			    "	xor %eax, %eax\n"
			    "	xor %edx, %edx\n"
			    "	xor %ebx, %ebx\n"
			    "	xor %ecx, %ecx\n"
			    "	lock cmpxchg16b 0x10000\n"
			    "2:	test $2, %edi\n"
			    "	jz 4f\n"
			    "	report 4\n"
			    "	xor %ecx, %ecx\n"
			    "	xor %edx, %edx\n"
			    "	mov $3, %eax\n" /* x87, SSE */
			    "	test $4, %edi\n"
			    "	jz 3f\n"
			    "	mov $7, %eax\n" /* AVX too */
			    "3:	xsetbv\n"
			    "	mov %eax, %esi\n"
			    "	report 5\n"
			    "	mov %esi, %eax\n"
			    "	xor %edx, %edx\n"
			    "	xsave64 0x11000\n"
			    "	report 6\n"
			    "	mov %esi, %eax\n"
			    "	xor %edx, %edx\n"
			    "	xrstor64 0x11000\n"
			    /*
			     * XCR0 should survive an exit. Where it does not (QEMU's emulated SVM),
			     * Linux finds that CPUID leaf 0xd disagrees, warns and does without
			     * AVX: that is no reason to say no.
			     */
			    "	xor %ecx, %ecx\n"
			    "	xgetbv\n"
			    "	cmp %esi, %eax\n"
			    "	jne 4f\n"
			    "	test $4, %edi\n"
			    "	jz 4f\n"
			    "	report 7\n"
			    "	vpxor %ymm0, %ymm0, %ymm0\n"
			    "	vzeroupper\n"
			    "4:	report 8\n"
			    "	mov $" ASM_CONST(PROBE_LOOPS) ", %ecx\n"
							      "5:	dec %ecx\n"
							      "	jnz 5b\n"
							      "	report 9\n"
							      "6:	hlt\n"
							      "	jmp 6b\n"
							      "kvm_probe_code_end:\n"
							      ".purgem report\n"
							      ".popsection\n");
/* clang-format on */
_Static_assert(STEP_CR4 == 1 && STEP_CMPXCHG16B == 3 && STEP_VEX == 7 && STEP_DONE == 9,
	       "the numbers that the guest reports");
extern const uint8_t kvm_probe_code[], kvm_probe_code_end[];

struct probe {
	struct kvm kvm;
	uint8_t *mem;
	int vcpu_fd;
	struct kvm_run *run;
	unsigned int features;
	enum probe_step step;
	struct timespec loop_start;
	int ret;
	struct error err;
	/* Between the probing thread and the one that watches the time. */
	pthread_mutex_t lock;
	pthread_cond_t done_cond;
	bool done;
};

static long cpu_ms_since(const struct timespec *since)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (now.tv_sec - since->tv_sec) * 1000 + (now.tv_nsec - since->tv_nsec) / 1000000;
}

static int set_memory(struct probe *probe)
{
	const uint64_t pml4e = PROBE_PDPT | 3, pdpte = PROBE_PD | 3, pde = 0x83;
	struct kvm_userspace_memory_region region = { .memory_size = PROBE_MEM };
	size_t len = (uintptr_t)kvm_probe_code_end - (uintptr_t)kvm_probe_code;
	void *mem =
		mmap(NULL, PROBE_MEM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (mem == MAP_FAILED)
		return error_set_errno(&probe->err, errno, "cannot map memory");
	probe->mem = mem;
	memcpy(probe->mem + PROBE_PML4, &pml4e, sizeof(pml4e));
	memcpy(probe->mem + PROBE_PDPT, &pdpte, sizeof(pdpte));
	memcpy(probe->mem + PROBE_PD, &pde, sizeof(pde));
	memcpy(probe->mem + PROBE_CODE, kvm_probe_code, len);
	region.userspace_addr = (uintptr_t)mem;
	if (ioctl(probe->kvm.vm_fd, KVM_SET_USER_MEMORY_REGION, &region) < 0)
		return error_set_errno(&probe->err, errno, "KVM_SET_USER_MEMORY_REGION failed");
	return 0;
}

static int set_cpuid(struct probe *probe)
{
	struct kvm_cpuid2 *cpuid = cpuid_supported(probe->kvm.fd, &probe->err);
	unsigned int i;
	int ret = 0;

	if (!cpuid)
		return -ENOTSUP;
	for (i = 0; i < cpuid->nent; i++) {
		if (cpuid->entries[i].function != 1)
			continue;
		if (cpuid->entries[i].ecx & (1u << 13))
			probe->features |= PROBE_HAS_CX16;
		if (cpuid->entries[i].ecx & (1u << 26))
			probe->features |= PROBE_HAS_XSAVE;
		if (cpuid->entries[i].ecx & (1u << 28))
			probe->features |= PROBE_HAS_AVX;
	}
	if (ioctl(probe->vcpu_fd, KVM_SET_CPUID2, cpuid) < 0)
		ret = error_set_errno(&probe->err, errno, "KVM_SET_CPUID2 failed");
	free(cpuid);
	return ret;
}

static int set_registers(struct probe *probe)
{
	const struct kvm_segment code = { .selector = 0x10,
					  .limit = 0xffffffff,
					  .type = 0xb,
					  .present = 1,
					  .s = 1,
					  .l = 1,
					  .g = 1 };
	const struct kvm_segment data = { .selector = 0x18,
					  .limit = 0xffffffff,
					  .type = 3,
					  .present = 1,
					  .s = 1,
					  .db = 1,
					  .g = 1 };
	struct kvm_regs regs = {
		.rip = PROBE_CODE, .rsp = PROBE_STACK, .rdi = probe->features, .rflags = 2
	};
	struct kvm_sregs sregs;

	if (ioctl(probe->vcpu_fd, KVM_GET_SREGS, &sregs) < 0)
		return error_set_errno(&probe->err, errno, "KVM_GET_SREGS failed");
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.cr3 = PROBE_PML4;
	sregs.cr4 = 0x20;       /* PAE */
	sregs.cr0 = 0x80010033; /* PG, WP, NE, ET, MP, PE */
	sregs.efer |= 0x500;    /* LMA, LME */
	if (ioctl(probe->vcpu_fd, KVM_SET_SREGS, &sregs) < 0 ||
	    ioctl(probe->vcpu_fd, KVM_SET_REGS, &regs) < 0)
		return error_set_errno(&probe->err, errno, "KVM refuses 64-bit mode");
	return 0;
}

static int create_guest(struct probe *probe)
{
	void *run;
	int ret = kvm_create_vm(&probe->kvm, &probe->err);

	if (ret < 0)
		return ret;
	ret = set_memory(probe);
	if (ret < 0)
		return ret;
	probe->vcpu_fd = ioctl(probe->kvm.vm_fd, KVM_CREATE_VCPU, 0);
	if (probe->vcpu_fd < 0)
		return error_set_errno(&probe->err, errno, "KVM refuses to create a vCPU");
	run = mmap(NULL, probe->kvm.run_size, PROT_READ | PROT_WRITE, MAP_SHARED, probe->vcpu_fd,
		   0);
	if (run == MAP_FAILED)
		return error_set_errno(&probe->err, errno, "cannot map the state of a vCPU");
	pthread_mutex_lock(&probe->lock);
	probe->run = run;
	pthread_mutex_unlock(&probe->lock);
	ret = set_cpuid(probe);
	return ret < 0 ? ret : set_registers(probe);
}

static int too_slow(struct probe *probe)
{
	return error_set(&probe->err, ENOTSUP,
			 "this host's KVM cannot run a stock kernel: kernel mode is too slow (%d "
			 "million instructions took more than %d ms)",
			 2 * PROBE_LOOPS / 1000000, PROBE_LOOPS_MS);
}

/* Returns 1 to go on, 0 when the guest has done everything, or an error. */
static int handle_exit(struct probe *probe)
{
	const struct kvm_run *run = probe->run;

	if (run->exit_reason == KVM_EXIT_IO && run->io.port == PROBE_PORT) {
		uint8_t step = *((const uint8_t *)run + run->io.data_offset);

		if (step == STEP_LOOP)
			clock_gettime(CLOCK_THREAD_CPUTIME_ID, &probe->loop_start);
		if (step == STEP_DONE)
			return cpu_ms_since(&probe->loop_start) > PROBE_LOOPS_MS ? too_slow(probe)
										 : 0;
		if (step < NR_STEPS)
			probe->step = step;
		return 1;
	}
	return error_set(
		&probe->err, ENOTSUP,
		"this host's KVM cannot run a stock kernel: %s does not work in kernel mode "
		"(%s)",
		step_names[probe->step],
		run->exit_reason == KVM_EXIT_SHUTDOWN ? "it raises an exception"
						      : "KVM cannot emulate it");
}

static int run_guest(struct probe *probe)
{
	int ret;

	do {
		if (ioctl(probe->vcpu_fd, KVM_RUN, 0) < 0) {
			if (errno != EINTR)
				return error_set_errno(&probe->err, errno, "KVM_RUN failed at %s",
						       step_names[probe->step]);
			if (!__atomic_load_n(&probe->run->immediate_exit, __ATOMIC_RELAXED))
				ret = 1; /* a signal of somebody else */
			else if (probe->step == STEP_LOOP)
				ret = too_slow(probe);
			else
				ret = error_set(
					&probe->err, ENOTSUP,
					"this host's KVM cannot run a stock kernel: it hangs "
					"at %s",
					step_names[probe->step]);
		} else {
			ret = handle_exit(probe);
		}
	} while (ret == 1);
	return ret;
}

static void *probe_thread(void *arg)
{
	struct probe *probe = arg;
	sigset_t kick;
	int ret;

	sigemptyset(&kick);
	sigaddset(&kick, PROBE_SIGNAL);
	pthread_sigmask(SIG_UNBLOCK, &kick, NULL); /* the caller may have blocked all signals */
	ret = create_guest(probe);
	if (ret == 0)
		ret = run_guest(probe);
	pthread_mutex_lock(&probe->lock);
	probe->ret = ret;
	probe->done = true;
	pthread_cond_signal(&probe->done_cond);
	pthread_mutex_unlock(&probe->lock);
	return NULL;
}

static void on_signal(int signo)
{
	(void)signo;
}

/* Waits for the thread; from the time limit on it kicks it out of KVM_RUN, again and again. */
static void watch(struct probe *probe, pthread_t thread)
{
	struct timespec deadline = deadline_after(PROBE_LIMIT_MS * NS_PER_MS);

	pthread_mutex_lock(&probe->lock);
	while (!probe->done) {
		if (pthread_cond_clockwait(&probe->done_cond, &probe->lock, CLOCK_MONOTONIC,
					   &deadline) != ETIMEDOUT)
			continue;
		if (probe->run)
			__atomic_store_n(&probe->run->immediate_exit, 1, __ATOMIC_RELAXED);
		pthread_kill(thread, PROBE_SIGNAL);
		deadline = deadline_after(20 * NS_PER_MS);
	}
	pthread_mutex_unlock(&probe->lock);
}

static int run_in_thread(struct probe *probe)
{
	struct sigaction action = { .sa_handler = on_signal, .sa_flags = SA_RESTART }, old;
	pthread_t thread;
	int ret;

	sigemptyset(&action.sa_mask);
	if (sigaction(PROBE_SIGNAL, &action, &old) < 0)
		return -errno;
	ret = pthread_create(&thread, NULL, probe_thread, probe);
	if (ret == 0) {
		watch(probe, thread);
		pthread_join(thread, NULL);
		ret = -probe->ret;
	}
	sigaction(PROBE_SIGNAL, &old, NULL);
	return -ret;
}

int kvm_probe_linux(struct error *err)
{
	struct probe probe = {
		.vcpu_fd = -1,
		.lock = PTHREAD_MUTEX_INITIALIZER,
		.done_cond = PTHREAD_COND_INITIALIZER,
	};
	int ret = kvm_open(&probe.kvm, err);

	if (ret < 0)
		return ret;
	ret = run_in_thread(&probe);
	if (ret < 0)
		error_set(err, -ret, "%s", probe.err.code ? probe.err.message : "cannot probe KVM");
	if (probe.run)
		munmap(probe.run, probe.kvm.run_size);
	if (probe.vcpu_fd >= 0)
		close(probe.vcpu_fd);
	kvm_close(&probe.kvm);
	if (probe.mem)
		munmap(probe.mem, PROBE_MEM);
	return ret;
}
