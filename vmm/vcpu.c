/* SPDX-License-Identifier: MIT */
/* vCPU threads: see vcpu.h. */
#include "vmm/vcpu.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "framevisor/clock.h"
#include "framevisor/log.h"
#include "vmm/boot/cpuid.h"
#include "vmm/vcpu_internal.h"

#define KICK_SIGNAL SIGRTMIN

/* A vCPU that is not parked after so long, while somebody waits for memory, is the one that does.
 */
#define STARVED_WAIT_MS 200
#define NO_LIMIT        UINT_MAX

enum stop { STOP_PARKED, STOP_STARVES, STOP_LATE };

struct vcpus {
	struct vcpu_host host;
	const struct kvm *kvm;
	unsigned int nr;
	struct vcpu *vcpu;
	pthread_mutex_t lock;
	pthread_cond_t changed; /* want_* changed, a vCPU parked, a reset */
	bool want_run;
	bool want_exit;
	unsigned int nr_parked;
	bool told_triple_fault; /* under lock, too */
};

/* Its delivery is all that is wanted: it ends KVM_RUN with EINTR. */
static void on_kick(int signo)
{
	(void)signo;
}

static int install_kick_handler(struct error *err)
{
	/* SA_RESTART: system calls of device models go on, KVM_RUN is never restarted. */
	struct sigaction action = { .sa_handler = on_kick, .sa_flags = SA_RESTART };

	sigemptyset(&action.sa_mask);
	if (sigaction(KICK_SIGNAL, &action, NULL) < 0)
		return error_set_errno(err, errno, "cannot install the vCPU kick signal");
	return 0;
}

/* Waits until the vCPU may run. Returns false when the thread shall end. */
static bool park(struct vcpu *vcpu)
{
	struct vcpus *vcpus = vcpu->vcpus;
	bool go_on;

	pthread_mutex_lock(&vcpus->lock);
	if (vcpus->want_exit || !vcpus->want_run || vcpu->halted) {
		vcpu->parked = true;
		vcpus->nr_parked++;
		pthread_cond_broadcast(&vcpus->changed);
		while (!vcpus->want_exit && (!vcpus->want_run || vcpu->halted))
			pthread_cond_wait(&vcpus->changed, &vcpus->lock);
		vcpu->parked = false;
		vcpus->nr_parked--;
	}
	/* Under the lock: a pause after this sets it again, and is then seen by KVM_RUN. */
	__atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_RELAXED);
	go_on = !vcpus->want_exit;
	pthread_mutex_unlock(&vcpus->lock);
	return go_on;
}

/* Makes the next park() last until vcpus_reset(). */
static void halt(struct vcpu *vcpu)
{
	pthread_mutex_lock(&vcpu->vcpus->lock);
	vcpu->halted = true;
	pthread_mutex_unlock(&vcpu->vcpus->lock);
}

static void fail(struct vcpu *vcpu, const char *why)
{
	struct vcpus *vcpus = vcpu->vcpus;

	vcpu_dump(vcpu, vcpus->host.memory, why);
	halt(vcpu);
	vcpus->host.failed(vcpus->host.machine);
}

static void handle_io(const struct vcpu *vcpu)
{
	const struct kvm_run *run = vcpu->run;
	uint8_t *data = (uint8_t *)vcpu->run + run->io.data_offset;
	uint32_t i;

	/* String instructions move count items through the same port. */
	for (i = 0; i < run->io.count; i++)
		bus_dispatch(vcpu->vcpus->host.pio, run->io.port, data + (size_t)i * run->io.size,
			     run->io.size, run->io.direction == KVM_EXIT_IO_OUT);
}

static void handle_mmio(const struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	bus_dispatch(vcpu->vcpus->host.mmio, run->mmio.phys_addr, run->mmio.data, run->mmio.len,
		     run->mmio.is_write != 0);
}

/* The one whose thread this is. */
static _Thread_local struct vcpu *current_vcpu;

void vcpu_halt_current(void)
{
	if (current_vcpu)
		halt(current_vcpu);
}

/* A request to the machine, which halts this vCPU. */
static void request_power(struct vcpu *vcpu, enum power_request request)
{
	vcpu->vcpus->host.power(vcpu->vcpus->host.machine, request);
}

/* The access by which a guest ended itself has to be over before its registers are replaced: KVM
 * would go on with it in the next KVM_RUN. */
static void complete_access(const struct vcpu *vcpu)
{
	if (vcpu->run->exit_reason != KVM_EXIT_IO && vcpu->run->exit_reason != KVM_EXIT_MMIO)
		return;
	__atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_RELAXED);
	(void)ioctl(vcpu->fd, KVM_RUN, 0);
}

static void handle_system_event(struct vcpu *vcpu)
{
	switch (vcpu->run->system_event.type) {
	case KVM_SYSTEM_EVENT_SHUTDOWN:
		request_power(vcpu, POWER_REQUEST_OFF);
		break;
	case KVM_SYSTEM_EVENT_RESET:
	case KVM_SYSTEM_EVENT_CRASH:
		request_power(vcpu, POWER_REQUEST_RESET);
		break;
	default:
		fail(vcpu, "unknown KVM system event");
		break;
	}
}

static void handle_exit(struct vcpu *vcpu)
{
	const struct kvm_run *run = vcpu->run;
	char why[160];

	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		handle_io(vcpu);
		return;
	case KVM_EXIT_MMIO:
		handle_mmio(vcpu);
		return;
	case KVM_EXIT_INTR:
	case KVM_EXIT_HLT:             /* the in-kernel LAPIC handles HLT; some exits remain */
	case KVM_EXIT_IRQ_WINDOW_OPEN: /* asked for by nobody */
		return;
	case KVM_EXIT_SHUTDOWN: /* triple fault: a PC resets */
		log_warn("vCPU %u: triple fault: the guest is reset", vcpu->id);
		pthread_mutex_lock(&vcpu->vcpus->lock);
		vcpu->triple_fault = true;
		pthread_mutex_unlock(&vcpu->vcpus->lock);
		request_power(vcpu, POWER_REQUEST_RESET);
		return;
	case KVM_EXIT_SYSTEM_EVENT:
		handle_system_event(vcpu);
		return;
	case KVM_EXIT_FAIL_ENTRY:
		snprintf(why, sizeof(why), "the CPU refuses to enter the guest, reason %#llx",
			 (unsigned long long)run->fail_entry.hardware_entry_failure_reason);
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		snprintf(why, sizeof(why), "KVM internal error, suberror %u%s",
			 run->internal.suberror,
			 run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION
				 ? " (an instruction that KVM cannot emulate)"
				 : "");
		break;
	default:
		snprintf(why, sizeof(why), "unhandled exit, reason %u", run->exit_reason);
		break;
	}
	fail(vcpu, why);
}

static bool ending(struct vcpus *vcpus)
{
	bool ending;

	pthread_mutex_lock(&vcpus->lock);
	ending = vcpus->want_exit || !vcpus->want_run;
	pthread_mutex_unlock(&vcpus->lock);
	return ending;
}

/* One KVM_RUN and what follows from it. Returns false when the vCPU must go to the park. */
static bool run_once(struct vcpu *vcpu)
{
	char why[160];

	if (ioctl(vcpu->fd, KVM_RUN, 0) == 0) {
		handle_exit(vcpu);
		if (!vcpu->halted) /* written by this thread, or by a reset while parked */
			return true;
		complete_access(vcpu);
		return false;
	}
	switch (errno) {
	case EINTR:
		return false;
	case EAGAIN: /* an AP that waits for SIPI was woken */
		return true;
	case EFAULT: /* its memory is gone, and so is the machine: vm_memory_end_waits() */
		if (ending(vcpu->vcpus))
			return false;
		/* fallthrough */
	default:
		snprintf(why, sizeof(why), "KVM_RUN failed: %s", strerror(errno));
		fail(vcpu, why);
		return false;
	}
}

static void *vcpu_thread(void *arg)
{
	struct vcpu *vcpu = arg;
	char name[16];

	/* Its own: the name of another thread is a file in /proc. */
	snprintf(name, sizeof(name), "vcpu/%u", vcpu->id);
	pthread_setname_np(pthread_self(), name);
	vcpu->tid = gettid();
	current_vcpu = vcpu;
	while (park(vcpu)) {
		while (run_once(vcpu))
			;
	}
	return NULL;
}

/* Asks one thread to come out of KVM_RUN. Lock held. */
static void kick(struct vcpu *vcpu)
{
	if (!vcpu->started)
		return;
	__atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_RELAXED);
	pthread_kill(vcpu->thread, KICK_SIGNAL);
}

static unsigned int nr_started(const struct vcpus *vcpus)
{
	unsigned int i, nr = 0;

	for (i = 0; i < vcpus->nr; i++)
		nr += vcpus->vcpu[i].started;
	return nr;
}

/* Waits until all threads are parked, or ms are over. Lock held. */
static bool wait_parked(struct vcpus *vcpus, unsigned int ms)
{
	const struct timespec until = deadline_after(ms * NS_PER_MS);

	while (vcpus->nr_parked < nr_started(vcpus))
		if (pthread_cond_clockwait(&vcpus->changed, &vcpus->lock, CLOCK_MONOTONIC,
					   &until) == ETIMEDOUT)
			return vcpus->nr_parked >= nr_started(vcpus);
	return true;
}

/* Lock held. */
static void ask_to_park(struct vcpus *vcpus)
{
	vcpus->want_run = false;
	for (unsigned int i = 0; i < vcpus->nr; i++)
		if (!vcpus->vcpu[i].parked)
			kick(&vcpus->vcpu[i]);
}

void vcpus_pause_begin(struct vcpus *vcpus)
{
	pthread_mutex_lock(&vcpus->lock);
	ask_to_park(vcpus);
	pthread_mutex_unlock(&vcpus->lock);
}

/*
 * The same, but also until one waits for a frame: it executes nothing, and parks before it does.
 * Whether a signal brings it out of that is the kernel's choice. Lock held, but opened in between.
 */
static enum stop wait_stopped(struct vcpus *vcpus, unsigned int ms)
{
	for (;;) {
		unsigned int step = ms < STARVED_WAIT_MS ? ms : STARVED_WAIT_MS;
		bool starves;

		if (wait_parked(vcpus, step))
			return STOP_PARKED;
		pthread_mutex_unlock(&vcpus->lock);
		starves = vcpus->host.memory && vm_memory_starves(vcpus->host.memory);
		pthread_mutex_lock(&vcpus->lock);
		if (starves)
			return STOP_STARVES;
		if (ms != NO_LIMIT)
			ms -= step;
		if (ms == 0)
			return STOP_LATE;
	}
}

bool vcpus_pause(struct vcpus *vcpus)
{
	enum stop stop;

	pthread_mutex_lock(&vcpus->lock);
	ask_to_park(vcpus);
	stop = wait_stopped(vcpus, NO_LIMIT);
	pthread_mutex_unlock(&vcpus->lock);
	return stop == STOP_PARKED;
}

/* Whether one had a triple fault, the first of this VM: some guests reboot like that. */
static bool first_triple_fault(struct vcpus *vcpus)
{
	bool faulted = false, told;

	pthread_mutex_lock(&vcpus->lock);
	for (unsigned int i = 0; i < vcpus->nr; i++)
		faulted |= vcpus->vcpu[i].triple_fault;
	told = vcpus->told_triple_fault;
	vcpus->told_triple_fault |= faulted;
	pthread_mutex_unlock(&vcpus->lock);
	return faulted && !told;
}

/* KVM on AMD has put the one that faulted back to its beginnings; the others stand in the same page
 * tables. */
void vcpus_tell_triple_fault(struct vcpus *vcpus)
{
	if (!first_triple_fault(vcpus))
		return;
	for (unsigned int i = 0; i < vcpus->nr; i++)
		if (!vcpus->vcpu[i].triple_fault) /* all are parked */
			vcpu_dump(&vcpus->vcpu[i], vcpus->host.memory,
				  "as it was when another one had a triple fault");
}

int vcpus_pause_within(struct vcpus *vcpus, unsigned int ms)
{
	int ret = 0;

	pthread_mutex_lock(&vcpus->lock);
	ask_to_park(vcpus);
	if (wait_stopped(vcpus, ms) == STOP_LATE) {
		/* The one that did not come goes on by itself when it comes. */
		vcpus->want_run = true;
		pthread_cond_broadcast(&vcpus->changed);
		ret = -EAGAIN;
	}
	pthread_mutex_unlock(&vcpus->lock);
	return ret;
}

void vcpus_resume(struct vcpus *vcpus)
{
	unsigned int i;

	pthread_mutex_lock(&vcpus->lock);
	/* Tells a guest with kvm-clock that it was stopped, so that its soft-lockup watchdog does
	 * not complain. EINVAL: the guest has no kvm-clock, or not yet. A vCPU that is blocked in
	 * KVM_RUN would block this, too. */
	for (i = 0; vcpus->kvm->has_kvmclock_ctrl && i < vcpus->nr; i++)
		if (vcpus->vcpu[i].parked || !vcpus->vcpu[i].started)
			(void)ioctl(vcpus->vcpu[i].fd, KVM_KVMCLOCK_CTRL, 0);
	vcpus->want_run = true;
	pthread_cond_broadcast(&vcpus->changed);
	pthread_mutex_unlock(&vcpus->lock);
}

int vcpus_reset(struct vcpus *vcpus, uint64_t entry, struct error *err)
{
	unsigned int i;
	int ret;

	/* The boot CPU last: while others are reset it must not look like the LAPIC's only one. */
	for (i = vcpus->nr; i-- > 0;) {
		ret = vcpu_state_reset(&vcpus->vcpu[i], i == 0 ? entry : 0, err);
		if (ret < 0)
			return ret;
		if (vcpus->vcpu[i].triple_fault)
			vcpu_state_restore_tsc(&vcpus->vcpu[i]);
	}
	pthread_mutex_lock(&vcpus->lock);
	for (i = 0; i < vcpus->nr; i++) {
		vcpus->vcpu[i].halted = false;
		vcpus->vcpu[i].triple_fault = false;
	}
	pthread_cond_broadcast(&vcpus->changed);
	pthread_mutex_unlock(&vcpus->lock);
	return 0;
}

int vcpus_start(struct vcpus *vcpus, struct error *err)
{
	sigset_t blocked, old;
	unsigned int i;
	int ret = 0;

	/* All signals but the kick are the main thread's. A new thread inherits the mask. */
	sigfillset(&blocked);
	sigdelset(&blocked, KICK_SIGNAL);
	sigdelset(&blocked, SIGSYS); /* the sandbox's, to whoever broke its rules */
	pthread_sigmask(SIG_SETMASK, &blocked, &old);
	for (i = 0; i < vcpus->nr && ret == 0; i++) {
		struct vcpu *vcpu = &vcpus->vcpu[i];

		ret = pthread_create(&vcpu->thread, NULL, vcpu_thread, vcpu);
		if (ret != 0)
			break;
		vcpu->started = true;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (ret != 0)
		return error_set_errno(err, ret, "cannot create the thread of vCPU %u", i);
	vcpus_pause(vcpus); /* all are parked once, and have their tid */
	return 0;
}

int vcpus_tid(const struct vcpus *vcpus, unsigned int cpu)
{
	return cpu < vcpus->nr ? vcpus->vcpu[cpu].tid : 0;
}

static int set_cpuid(const struct vcpu *vcpu, const struct kvm_cpuid2 *supported, struct error *err)
{
	const struct cpuid_config config = {
		.id = vcpu->id,
		.cpus = vcpu->vcpus->nr,
		.cache_cpus = vcpu->vcpus->host.cache_cpus,
		.tsc_deadline = vcpu->vcpus->kvm->has_tsc_deadline,
	};
	unsigned int room = supported->nent + CPUID_EXTRA_ENTRIES;
	struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + room * sizeof(cpuid->entries[0]));
	int ret;

	if (!cpuid)
		return error_set(err, ENOMEM, "out of memory for CPUID");
	ret = cpuid_for_vcpu(supported, &config, cpuid, room);
	if (ret == 0 && ioctl(vcpu->fd, KVM_SET_CPUID2, cpuid) < 0)
		ret = -errno;
	free(cpuid);
	if (ret < 0)
		return error_set_errno(err, -ret, "KVM_SET_CPUID2 failed for vCPU %u", vcpu->id);
	return 0;
}

static int create_one(struct vcpu *vcpu, const struct kvm_cpuid2 *supported, struct error *err)
{
	const struct kvm *kvm = vcpu->vcpus->kvm;
	void *run;
	int ret;

	vcpu->fd = ioctl(kvm->vm_fd, KVM_CREATE_VCPU, (unsigned long)vcpu->id);
	if (vcpu->fd < 0)
		return error_set_errno(err, errno, "KVM refuses to create vCPU %u", vcpu->id);
	run = mmap(NULL, kvm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	if (run == MAP_FAILED)
		return error_set_errno(err, errno, "cannot map the state of vCPU %u", vcpu->id);
	vcpu->run = run;
	ret = set_cpuid(vcpu, supported, err);
	if (ret < 0)
		return ret;
	vcpu->power_on = vcpu_state_save(vcpu, err);
	return vcpu->power_on ? 0 : -ENOMEM;
}

static int create_all(struct vcpus *vcpus, struct error *err)
{
	struct kvm_cpuid2 *supported = cpuid_supported(vcpus->kvm->fd, err);
	unsigned int i;
	int ret = 0;

	if (!supported)
		return -ENOMEM;
	for (i = 0; i < vcpus->nr && ret == 0; i++)
		ret = create_one(&vcpus->vcpu[i], supported, err);
	free(supported);
	return ret;
}

struct vcpus *vcpus_create(const struct kvm *kvm, unsigned int cpus, const struct vcpu_host *host,
			   struct error *err)
{
	struct vcpus *vcpus = calloc(1, sizeof(*vcpus));
	unsigned int i;

	if (!vcpus) {
		error_set(err, ENOMEM, "out of memory for %u vCPUs", cpus);
		return NULL;
	}
	vcpus->host = *host;
	vcpus->kvm = kvm;
	pthread_mutex_init(&vcpus->lock, NULL);
	pthread_cond_init(&vcpus->changed, NULL);
	vcpus->vcpu = calloc(cpus, sizeof(*vcpus->vcpu));
	if (!vcpus->vcpu) {
		error_set(err, ENOMEM, "out of memory for %u vCPUs", cpus);
		goto fail;
	}
	vcpus->nr = cpus;
	for (i = 0; i < cpus; i++) {
		vcpus->vcpu[i].vcpus = vcpus;
		vcpus->vcpu[i].id = i;
		vcpus->vcpu[i].fd = -1;
	}
	if (install_kick_handler(err) < 0 || create_all(vcpus, err) < 0)
		goto fail;
	return vcpus;
fail:
	vcpus_destroy(vcpus);
	return NULL;
}

static void stop_threads(struct vcpus *vcpus)
{
	unsigned int i;

	pthread_mutex_lock(&vcpus->lock);
	vcpus->want_exit = true;
	for (i = 0; i < vcpus->nr; i++)
		kick(&vcpus->vcpu[i]);
	pthread_cond_broadcast(&vcpus->changed);
	pthread_mutex_unlock(&vcpus->lock);
	for (i = 0; i < vcpus->nr; i++) {
		if (vcpus->vcpu[i].started)
			pthread_join(vcpus->vcpu[i].thread, NULL);
	}
}

void vcpus_destroy(struct vcpus *vcpus)
{
	unsigned int i;

	if (!vcpus)
		return;
	stop_threads(vcpus);
	for (i = 0; i < vcpus->nr; i++) {
		struct vcpu *vcpu = &vcpus->vcpu[i];

		vcpu_state_free(vcpu->power_on);
		if (vcpu->run)
			munmap(vcpu->run, vcpus->kvm->run_size);
		if (vcpu->fd >= 0)
			close(vcpu->fd);
	}
	free(vcpus->vcpu);
	pthread_cond_destroy(&vcpus->changed);
	pthread_mutex_destroy(&vcpus->lock);
	free(vcpus);
}
