/* SPDX-License-Identifier: MIT */
/*
 * A guest on this machine's KVM that counts in its frames all the time, in user mode (so that
 * software-shadowed hosts run it at full speed too), and compares each count with the one that it
 * keeps elsewhere. Frame 0 holds all that it needs itself; it counts in the frames behind it.
 *
 * With takes_turns it uses a frame for eight passes and has it free for the next eight: "used" is
 * set before the first write to the frame and cleared after the last one. What it finds in a frame
 * that it takes does not matter then, what it wrote while it uses it does.
 *
 * With a rest it does nothing for so many turns of a loop after each pass, so that its frames get
 * cold: a host with a fast KVM runs a pass in less than a microsecond.
 */
#ifndef KVM_COUNTER_H
#define KVM_COUNTER_H

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include "kvm_user_mode.h"
#include "vm_memory_fixture.h"

#define COUNTER_PML4    0x1000
#define COUNTER_PDPT    0x2000
#define COUNTER_PD      0x3000
#define COUNTER_TSS     0x8000
#define COUNTER_RESULTS 0x9000
#define COUNTER_STOP    0xa000
#define COUNTER_TABLE   0xb000
#define COUNTER_CODE    0x10000
#define COUNTER_DONE    (UINT64_C(1) << 29) /* no memory there: a store ends KVM_RUN */

struct counter_entry {
	uint64_t gpa;
	uint64_t count;
	uint64_t used;
	uint64_t unused;
};

struct counter_results {
	uint64_t wrong; /* counts that were not what they had to be */
	uint64_t passes;
};

struct counter {
	struct fixture *f;
	int kvm_fd, vm_fd, vcpu_fd;
	struct kvm_run *run;
	size_t run_size;
	pthread_t thread;
	unsigned int nr_frames;
	bool takes_turns;
	uint64_t rest;
	bool ended_well;
};

/* rdi table, rcx entries, rsi results, r9 stop flag, r10 where to end, r12 takes turns, r13 rest.
 */
extern const uint8_t counter_code[], counter_code_end[];
__asm__(".pushsection .rodata\n"
	"counter_code:\n"
	"1:	inc %r8\n"
	"	mov %rdi, %rbp\n"
	"	xor %r11, %r11\n"
	"2:	mov (%rbp), %rbx\n"
	"	test %r12, %r12\n"
	"	jz 3f\n"
	"	mov %r8, %rax\n"
	"	shr $3, %rax\n"
	"	add %r11, %rax\n"
	"	test $1, %al\n"
	"	jz 5f\n"
	"3:	mov 8(%rbp), %rax\n"
	"	cmpq $0, 16(%rbp)\n"
	"	jne 4f\n"
	"	movq $1, 16(%rbp)\n"
	"	mfence\n"
	"	jmp 8f\n"
	"4:	cmp %rax, (%rbx)\n"
	"	je 8f\n"
	"	incq (%rsi)\n"
	"8:	inc %rax\n"
	"	mov %rax, (%rbx)\n"
	"	mov %rax, 8(%rbp)\n"
	"	jmp 6f\n"
	"5:	movq $0, 16(%rbp)\n"
	"6:	add $32, %rbp\n"
	"	inc %r11\n"
	"	cmp %rcx, %r11\n"
	"	jb 2b\n"
	"	mov %r8, 8(%rsi)\n"
	"	mov %r13, %rax\n"
	"	test %rax, %rax\n"
	"	jz 10f\n"
	"9:	dec %rax\n"
	"	jnz 9b\n"
	"10:	cmpq $0, (%r9)\n"
	"	je 1b\n"
	"	mov %r8, (%r10)\n"
	"7:	jmp 7b\n"
	"counter_code_end:\n"
	".popsection\n");

static inline volatile struct counter_entry *counter_entry(struct counter *c, unsigned int i)
{
	return (volatile struct counter_entry *)guest_ptr(
		c->f->gm, COUNTER_TABLE + i * sizeof(struct counter_entry),
		sizeof(struct counter_entry));
}

static inline volatile struct counter_results *counter_results(struct counter *c)
{
	return guest_ptr(c->f->gm, COUNTER_RESULTS, sizeof(struct counter_results));
}

static inline void counter_set_up_frame(struct counter *c)
{
	uint64_t *words = guest_ptr(c->f->gm, 0, FRAME_SIZE);

	words[COUNTER_PML4 / 8] = COUNTER_PDPT | 7;
	words[COUNTER_PDPT / 8] = COUNTER_PD | 7;
	for (unsigned int n = 0; n < 512; n++)
		words[COUNTER_PD / 8 + n] = n * FRAME_SIZE | 0x87;
	memcpy(&words[COUNTER_CODE / 8], counter_code, (size_t)(counter_code_end - counter_code));
	for (unsigned int i = 0; i < c->nr_frames; i++)
		counter_entry(c, i)->gpa = (i + 1) * FRAME_SIZE + 64;
}

static inline bool counter_set_registers(struct counter *c)
{
	struct kvm_regs regs = { .rip = COUNTER_CODE,
				 .rflags = 2,
				 .rdi = COUNTER_TABLE,
				 .rsi = COUNTER_RESULTS,
				 .rcx = c->nr_frames,
				 .r9 = COUNTER_STOP,
				 .r10 = COUNTER_DONE,
				 .r12 = c->takes_turns,
				 .r13 = c->rest };

	return kvm_set_user_mode(c->vcpu_fd, COUNTER_TSS, COUNTER_PML4) &&
	       ioctl(c->vcpu_fd, KVM_SET_REGS, &regs) == 0;
}

static inline void *counter_thread(void *opaque)
{
	struct counter *c = opaque;

	while (ioctl(c->vcpu_fd, KVM_RUN, 0) != 0)
		if (errno != EINTR)
			return NULL;
	c->ended_well =
		c->run->exit_reason == KVM_EXIT_MMIO && c->run->mmio.phys_addr == COUNTER_DONE;
	return NULL;
}

/* Begins to count in nr_frames frames behind the first, with turns and a rest as c says. False:
 * this machine has no KVM. */
static inline bool counter_start(struct counter *c, struct fixture *f, unsigned int nr_frames)
{
	struct error err = { 0 };
	int size;

	c->f = f;
	c->nr_frames = nr_frames;
	c->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (c->kvm_fd < 0)
		return false;
	c->vm_fd = ioctl(c->kvm_fd, KVM_CREATE_VM, 0);
	assert_true(c->vm_fd >= 0);
	assert_int_equal(vm_memory_set_slots(f->mem, c->vm_fd, 0, &err), 0);
	c->vcpu_fd = ioctl(c->vm_fd, KVM_CREATE_VCPU, 0);
	size = ioctl(c->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	assert_true(c->vcpu_fd >= 0 && size > 0);
	c->run_size = (size_t)size;
	c->run = mmap(NULL, c->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, c->vcpu_fd, 0);
	assert_true(c->run != MAP_FAILED);
	counter_set_up_frame(c);
	assert_true(counter_set_registers(c));
	assert_int_equal(pthread_create(&c->thread, NULL, counter_thread, c), 0);
	return true;
}

/* Waits until the guest has made so many passes more. */
static inline void counter_wait(struct counter *c, uint64_t passes)
{
	uint64_t start = counter_results(c)->passes, since = now_ms();

	while (counter_results(c)->passes < start + passes) {
		assert_true(now_ms() - since < 60000);
		sleep_ms(1);
	}
}

/* Ends it and returns what it found wrong. */
static inline uint64_t counter_stop(struct counter *c, uint64_t *passes)
{
	uint64_t wrong;

	*(volatile uint64_t *)guest_ptr(c->f->gm, COUNTER_STOP, 8) = 1;
	pthread_join(c->thread, NULL);
	assert_true(c->ended_well);
	wrong = counter_results(c)->wrong;
	*passes = counter_results(c)->passes;
	/* What is in the frames now is what it counted last. */
	for (unsigned int i = 0; i < c->nr_frames; i++) {
		volatile struct counter_entry *entry = counter_entry(c, i);
		uint64_t *word = guest_ptr(c->f->gm, entry->gpa, 8);

		if (entry->used)
			wrong += *word != entry->count;
	}
	munmap(c->run, c->run_size);
	close(c->vcpu_fd);
	close(c->vm_fd);
	close(c->kvm_fd);
	return wrong;
}

#endif
