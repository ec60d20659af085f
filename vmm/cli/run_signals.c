/* SPDX-License-Identifier: MIT */
/* The signals of a VM process: see run.h. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "framevisor/rundir.h"
#include "vmm/cli/run.h"
#include "vmm/control/terminal.h"

enum phase { PHASE_STARTING, PHASE_RUNNING, PHASE_ENDING };

/* Never freed: its thread lives as long as the process. */
struct run_signals {
	void (*on_signal)(void *opaque, int signum);
	void *opaque;
	sigset_t set;
	pthread_mutex_t lock; /* over the rest */
	enum phase phase;
	const char *vm_name;
	int claim_fd;
	struct event_loop *loop;
	int signum; /* the last that came while the VM ran */
};

int run_signals_status(int signum)
{
	return signum == SIGTERM ? 0 : 128 + signum;
}

static void in_loop(void *opaque)
{
	struct run_signals *signals = opaque;
	int signum;

	pthread_mutex_lock(&signals->lock);
	signum = signals->signum;
	pthread_mutex_unlock(&signals->lock);
	signals->on_signal(signals->opaque, signum);
}

/* With the lock held, so that the main thread does not go on meanwhile. */
static void handle(struct run_signals *signals, int signum)
{
	switch (signals->phase) {
	case PHASE_STARTING:
		if (signals->vm_name)
			rundir_vm_unclaim(signals->vm_name, signals->claim_fd);
		terminal_restore();
		/* A start that was called off has not worked, whatever the signal. */
		_exit(128 + signum);
	case PHASE_RUNNING:
		signals->signum = signum;
		event_loop_post(signals->loop, in_loop, signals);
		break;
	case PHASE_ENDING:
		break;
	}
}

static void *wait_for_signals(void *opaque)
{
	struct run_signals *signals = opaque;
	int signum;

	for (;;) {
		if (sigwait(&signals->set, &signum) != 0)
			continue;
		pthread_mutex_lock(&signals->lock);
		handle(signals, signum);
		pthread_mutex_unlock(&signals->lock);
	}
	return NULL;
}

/* SIGHUP stays ignored under nohup. SIGINT is taken even where a shell has ignored it for a job in
 * the background: who sends it means it, and a VM that a script started ends with the script. */
static void fill_set(sigset_t *set)
{
	struct sigaction present;

	sigemptyset(set);
	sigaddset(set, SIGINT);
	sigaddset(set, SIGTERM);
	if (sigaction(SIGHUP, NULL, &present) == 0 && present.sa_handler != SIG_IGN)
		sigaddset(set, SIGHUP);
}

struct run_signals *run_signals_create(void (*on_signal)(void *opaque, int signum), void *opaque,
				       struct error *err)
{
	struct run_signals *signals = calloc(1, sizeof(*signals));
	pthread_t thread;
	int ret;

	if (!signals) {
		error_set_errno(err, ENOMEM, "cannot prepare for signals");
		return NULL;
	}
	signals->on_signal = on_signal;
	signals->opaque = opaque;
	signals->claim_fd = -1;
	pthread_mutex_init(&signals->lock, NULL);
	fill_set(&signals->set);
	pthread_sigmask(SIG_BLOCK, &signals->set, NULL);
	ret = pthread_create(&thread, NULL, wait_for_signals, signals);
	if (ret) {
		error_set_errno(err, ret, "cannot prepare for signals");
		free(signals);
		return NULL;
	}
	pthread_detach(thread);
	return signals;
}

void run_signals_claimed(struct run_signals *signals, const char *vm_name, int claim_fd)
{
	pthread_mutex_lock(&signals->lock);
	signals->vm_name = vm_name;
	signals->claim_fd = claim_fd;
	pthread_mutex_unlock(&signals->lock);
}

void run_signals_running(struct run_signals *signals, struct event_loop *loop)
{
	pthread_mutex_lock(&signals->lock);
	signals->phase = PHASE_RUNNING;
	signals->loop = loop;
	pthread_mutex_unlock(&signals->lock);
}

void run_signals_ending(struct run_signals *signals)
{
	pthread_mutex_lock(&signals->lock);
	signals->phase = PHASE_ENDING;
	pthread_mutex_unlock(&signals->lock);
}
