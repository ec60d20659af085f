/* SPDX-License-Identifier: MIT */
/*
 * What the first touch of a guest frame costs, scattered and sequential, beside the fault in which
 * the kernel zeroes a hugepage, in the same run: by a thread of this process, and by a vCPU (in
 * user mode, so that software-shadowed hosts run it at full speed too). A real pool owner serves
 * it.
 *
 * Prints "name value unit" lines, times in microseconds.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/kvm.h>
#include <linux/memfd.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "framevisor/clock.h"
#include "framevisor/event_loop.h"
#include "framevisor/log.h"
#include "framevisor/vm_memory.h"
#include "tests/bench/bench_owner.h"
#include "tests/unit/kvm_user_mode.h"

#define TOUCHES     256 /* per round */
#define ROUNDS      4
#define BOOT_FRAMES 4
#define SAMPLES     (TOUCHES * ROUNDS)
#define NR_HUGE     "/proc/sys/vm/nr_hugepages"

/* Guest-physical addresses. Frame 0 holds all that the guest program needs. */
#define GUEST_PML4    0x1000
#define GUEST_PDPT    0x2000
#define GUEST_PD      0x3000 /* three of them */
#define GUEST_TSS     0x8000
#define GUEST_CODE    0x10000
#define GUEST_ORDER   0x20000
#define GUEST_RESULT  0x40000
#define GUEST_HOTPLUG VM_MEMORY_SLOT_SIZE /* what is touched; unplugged and plugged before */
#define GUEST_DONE    (UINT64_C(2) << 30) /* no memory there: a store ends KVM_RUN */
#define GUEST_KERNEL  (UINT64_C(4) << 30) /* memory that the kernel fills by itself */
#define KERNEL_FRAMES TOUCHES

struct bench {
	struct event_loop *loop;
	pthread_t loop_thread;
	struct owner_client *client;
	struct vm_memory *mem;
	struct guest_memory *gm;
	uint8_t *kernel; /* TOUCHES frames of a file of its own, or NULL */
	int kernel_fd;
	int kvm_fd, vm_fd, vcpu_fd;
	struct kvm_run *run;
	double us_per_tick;
	double samples[SAMPLES];
	unsigned int nr_samples;
};

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static double now_us(void)
{
	return (double)now_ns() / 1e3;
}

static int compare(const void *a, const void *b)
{
	double left = *(const double *)a, right = *(const double *)b;

	return (left > right) - (left < right);
}

static void report(struct bench *b, const char *who, const char *pattern)
{
	double median, sum = 0;

	qsort(b->samples, b->nr_samples, sizeof(b->samples[0]), compare);
	median = b->samples[b->nr_samples / 2];
	for (unsigned int i = 0; i < b->nr_samples; i++)
		sum += b->samples[i];
	printf("first_touch_%s_%s_median %.1f us\n", who, pattern, median);
	printf("first_touch_%s_%s_mean %.1f us\n", who, pattern, sum / b->nr_samples);
	printf("first_touch_%s_%s_p99 %.1f us\n", who, pattern,
	       b->samples[b->nr_samples * 99 / 100]);
	b->nr_samples = 0;
}

/* Frames 0..TOUCHES-1 in the order in which they are touched; scattered: no two neighbours in a
 * row.
 */
static void make_order(unsigned int *order, bool scattered)
{
	for (unsigned int i = 0; i < TOUCHES; i++)
		order[i] = scattered ? (i * 167 + 13) % TOUCHES : i;
}

/* All that is touched goes back and is new again; the owner gets time to zero it. */
static void reset(struct bench *b)
{
	const struct guest_frame_ops *ops = b->gm->frame_ops;

	if (ops->unplug(b->gm->frame_opaque, GUEST_HOTPLUG, TOUCHES) != 0 ||
	    vm_memory_reserve_now(b->mem, TOUCHES, NULL) != 0 ||
	    ops->plug(b->gm->frame_opaque, GUEST_HOTPLUG, TOUCHES) != 0)
		die("plug");
	if (b->kernel)
		madvise(b->kernel, KERNEL_FRAMES * FRAME_SIZE, MADV_REMOVE);
	usleep(300000);
}

static void touch_plain(struct bench *b, uint8_t *base, const unsigned int *order)
{
	for (unsigned int i = 0; i < TOUCHES; i++) {
		volatile uint64_t *word = (uint64_t *)(base + order[i] * FRAME_SIZE);
		double start = now_us();

		*word = i;
		b->samples[b->nr_samples++] = now_us() - start;
	}
}

/* Position independent, user mode: rdi order, rsi results, rcx how many, r9 where to end. */
extern const uint8_t guest_code[], guest_code_end[];
__asm__(".pushsection .rodata\n"
	"guest_code:\n"
	"1:	mov (%rdi), %rbx\n"
	"	lfence\n"
	"	rdtsc\n"
	"	shl $32, %rdx\n"
	"	or %rax, %rdx\n"
	"	mov %rdx, %r8\n"
	"	mov %rcx, (%rbx)\n"
	"	lfence\n"
	"	rdtsc\n"
	"	shl $32, %rdx\n"
	"	or %rdx, %rax\n"
	"	sub %r8, %rax\n"
	"	mov %rax, (%rsi)\n"
	"	add $8, %rdi\n"
	"	add $8, %rsi\n"
	"	dec %rcx\n"
	"	jnz 1b\n"
	"	mov %rcx, (%r9)\n"
	"2:	jmp 2b\n"
	"guest_code_end:\n"
	".popsection\n");

static uint64_t *guest_words(struct bench *b, uint64_t gpa, uint64_t words)
{
	uint64_t *p = guest_ptr(b->gm, gpa, words * 8);

	if (!p)
		die("guest memory");
	return p;
}

/* One to one, in pages of 2 MiB, for all that the program touches. */
static void make_page_tables(struct bench *b)
{
	static const uint64_t gib[3] = { 0, GUEST_DONE, GUEST_KERNEL };

	guest_words(b, GUEST_PML4, 512)[0] = GUEST_PDPT | 7;
	for (unsigned int i = 0; i < 3; i++) {
		uint64_t pd = GUEST_PD + i * 0x1000;

		guest_words(b, GUEST_PDPT, 512)[gib[i] >> 30] = pd | 7;
		for (unsigned int n = 0; n < 512; n++)
			guest_words(b, pd, 512)[n] = (gib[i] + n * FRAME_SIZE) | 0x87;
	}
}

/* Returns false where there is no KVM. */
static bool create_vcpu(struct bench *b)
{
	static struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entries[256];
	} cpuid = { .head = { .nent = 256 } };
	struct error err = { 0 };
	int size;

	b->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	b->vm_fd = b->kvm_fd < 0 ? -1 : ioctl(b->kvm_fd, KVM_CREATE_VM, 0);
	if (b->vm_fd < 0)
		return false;
	if (vm_memory_set_slots(b->mem, b->vm_fd, 0, &err) != 0) {
		fprintf(stderr, "%s\n", err.message);
		exit(1);
	}
	if (b->kernel) {
		struct kvm_userspace_memory_region region = {
			.slot = 8,
			.guest_phys_addr = GUEST_KERNEL,
			.memory_size = KERNEL_FRAMES * FRAME_SIZE,
			.userspace_addr = (uintptr_t)b->kernel,
		};

		if (ioctl(b->vm_fd, KVM_SET_USER_MEMORY_REGION, &region) != 0)
			die("memory slot");
	}
	b->vcpu_fd = ioctl(b->vm_fd, KVM_CREATE_VCPU, 0);
	size = ioctl(b->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (b->vcpu_fd < 0 || size < 0)
		die("vCPU");
	b->run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, b->vcpu_fd, 0);
	if (b->run == MAP_FAILED || ioctl(b->kvm_fd, KVM_GET_SUPPORTED_CPUID, &cpuid) != 0 ||
	    ioctl(b->vcpu_fd, KVM_SET_CPUID2, &cpuid) != 0)
		die("vCPU");
	b->us_per_tick = 1e3 / ioctl(b->vcpu_fd, KVM_GET_TSC_KHZ, 0);
	make_page_tables(b);
	if (!kvm_set_user_mode(b->vcpu_fd, GUEST_TSS, GUEST_PML4))
		die("registers");
	memcpy(guest_words(b, GUEST_CODE, 64), guest_code, (size_t)(guest_code_end - guest_code));
	return true;
}

static void touch_vcpu(struct bench *b, uint64_t base, const unsigned int *order)
{
	uint64_t *addresses = guest_words(b, GUEST_ORDER, TOUCHES);
	uint64_t *results = guest_words(b, GUEST_RESULT, TOUCHES);
	struct kvm_regs regs = { .rip = GUEST_CODE,
				 .rflags = 2,
				 .rdi = GUEST_ORDER,
				 .rsi = GUEST_RESULT,
				 .rcx = TOUCHES,
				 .r9 = GUEST_DONE };

	for (unsigned int i = 0; i < TOUCHES; i++)
		addresses[i] = base + order[i] * FRAME_SIZE;
	if (ioctl(b->vcpu_fd, KVM_SET_REGS, &regs) != 0)
		die("KVM_SET_REGS");
	while (ioctl(b->vcpu_fd, KVM_RUN, 0) != 0)
		if (errno != EINTR)
			die("KVM_RUN");
	if (b->run->exit_reason != KVM_EXIT_MMIO || b->run->mmio.phys_addr != GUEST_DONE) {
		fprintf(stderr, "the vCPU ended with exit %u\n", b->run->exit_reason);
		exit(1);
	}
	for (unsigned int i = 0; i < TOUCHES; i++)
		b->samples[b->nr_samples++] = (double)results[i] * b->us_per_tick;
}

static long read_huge(void)
{
	FILE *f = fopen(NR_HUGE, "re");
	char line[32] = "0";

	if (!f || !fgets(line, sizeof(line), f))
		line[0] = '0';
	if (f)
		(void)fclose(f);
	return strtol(line, NULL, 10);
}

static void add_huge(long more)
{
	FILE *f = fopen(NR_HUGE, "we");

	if (!f)
		return;
	fprintf(f, "%ld", read_huge() + more);
	(void)fclose(f);
}

static void open_kernel(struct bench *b)
{
	uint64_t len = KERNEL_FRAMES * FRAME_SIZE;

	add_huge(KERNEL_FRAMES);
	b->kernel_fd = memfd_create("kernel", MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2MB);
	if (b->kernel_fd < 0 || ftruncate(b->kernel_fd, (off_t)len) != 0)
		die("hugetlb file");
	b->kernel = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, b->kernel_fd, 0);
	if (b->kernel == MAP_FAILED)
		die("hugetlb file");
}

static void close_kernel(struct bench *b)
{
	if (!b->kernel)
		return;
	munmap(b->kernel, KERNEL_FRAMES * FRAME_SIZE);
	close(b->kernel_fd);
	add_huge(-(long)KERNEL_FRAMES);
}

static void *run_loop(void *loop)
{
	event_loop_run(loop);
	return NULL;
}

static void open_memory(struct bench *b)
{
	const struct vm_memory_range ranges[] = {
		{ .gpa = 0, .size = BOOT_FRAMES * FRAME_SIZE },
		{ .gpa = GUEST_HOTPLUG, .size = TOUCHES * FRAME_SIZE },
	};
	struct owner_client_config owner = { .vm_name = "bench",
					     .ram_frames = BOOT_FRAMES + TOUCHES };
	struct vm_memory_config config = {
		.ranges = &ranges[0], .nr_ranges = 1, .hotplug = &ranges[1], .nr_hotplug = 1
	};
	struct error err = { 0 };

	b->client = owner_client_connect(&owner, &err);
	b->loop = event_loop_create();
	config.client = b->client;
	config.loop = b->loop;
	b->mem = b->client && b->loop ? vm_memory_create(&config, &err) : NULL;
	if (!b->mem) {
		fprintf(stderr, "%s\n", err.message);
		exit(1);
	}
	b->gm = vm_memory_guest(b->mem);
	if (pthread_create(&b->loop_thread, NULL, run_loop, b->loop) != 0)
		die("thread");
}

/* The owner ends a second after its last VM; what it leaves is a lock file and a log. */
static void remove_rundir(const char *dir)
{
	static const char *const files[] = { "pool.lock", "pool.log", "vm" };
	char path[PATH_MAX];

	for (unsigned int tries = 0; tries < 100; tries++) {
		usleep(50000);
		snprintf(path, sizeof(path), "%s/pool.sock", dir);
		if (access(path, F_OK) == 0)
			continue;
		for (unsigned int i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
			snprintf(path, sizeof(path), "%s/%s", dir, files[i]);
			remove(path);
		}
		if (rmdir(dir) == 0)
			return;
	}
	fprintf(stderr, "the pool owner did not end, or left something in %s\n", dir);
}

static void measure(struct bench *b, const char *who, bool vcpu, bool kernel)
{
	static const char *const patterns[] = { "sequential", "scattered" };
	unsigned int order[TOUCHES];
	char name[64];

	snprintf(name, sizeof(name), "%s_%s", who, vcpu ? "vcpu" : "thread");
	for (unsigned int scattered = 0; scattered < 2; scattered++) {
		make_order(order, scattered);
		for (unsigned int round = 0; round < ROUNDS; round++) {
			reset(b);
			if (vcpu)
				touch_vcpu(b, kernel ? GUEST_KERNEL : GUEST_HOTPLUG, order);
			else
				touch_plain(b, kernel ? b->kernel : b->gm->regions[1].hva, order);
		}
		report(b, name, patterns[scattered]);
	}
}

int main(void)
{
	static struct bench b = { .kernel_fd = -1 };
	char dir[] = BENCH_RUNDIR;
	struct vm_memory_stats stats;

	bench_own_rundir(dir);
	open_memory(&b);
	if (owner_client_hugetlb(b.client))
		open_kernel(&b);
	printf("pool_hugepages %d bool\n", owner_client_hugetlb(b.client));
	memset(b.gm->regions[0].hva, 0, FRAME_SIZE);
	if (b.kernel)
		measure(&b, "kernel", false, true);
	measure(&b, "framevisor", false, false);
	if (create_vcpu(&b)) {
		if (b.kernel)
			measure(&b, "kernel", true, true);
		measure(&b, "framevisor", true, false);
	}
	vm_memory_stats(b.mem, &stats);
	printf("faults %llu frames\nfaults_around %llu frames\nspins %llu faults\n",
	       (unsigned long long)stats.faults, (unsigned long long)stats.faults_around,
	       (unsigned long long)stats.spins);
	if (b.vm_fd > 0) {
		close(b.vcpu_fd);
		close(b.vm_fd);
	}
	event_loop_quit(b.loop);
	pthread_join(b.loop_thread, NULL);
	vm_memory_destroy(b.mem);
	event_loop_destroy(b.loop);
	close_kernel(&b);
	owner_client_close(b.client);
	remove_rundir(dir);
	return 0;
}
