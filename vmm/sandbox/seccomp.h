/* SPDX-License-Identifier: MIT */
/*
 * The system calls that a VM's process may make once its guest runs: an allow-list, enforced by the
 * kernel (seccomp) for all of its threads. The list, with the reason for each entry, is in
 * seccomp.c; docs/security.md says what it is for.
 *
 * What is not on the list fails with EPERM and is named on standard error, the first times. It does
 * not end the process: a forgotten entry must cost the user a feature, not the guest.
 */
#ifndef VMM_SANDBOX_SECCOMP_H
#define VMM_SANDBOX_SECCOMP_H

#include <stdint.h>

#include "framevisor/error.h"

struct seccomp_config {
	/* Descriptors from here on can only be mapped: the pool's files, and behind them the hole.
	 */
	int guarded;
	int nr_pool; /* the pool's: guarded .. guarded + nr_pool - 1 */
	int hole;    /* the hole's number, or -1 */
	/* Nothing is moved out of addresses from here to there (multiples of VM_MEMORY_SPAN), by
	 * mremap; both 0: nowhere. */
	uint64_t guard, end;
};

/* For all threads: whoever maps the pool's files waits for what is answered on the descriptor that
 * this returns (seccomp_unotify(2)), or a negative errno. Before seccomp_install(). */
int seccomp_listen(const struct seccomp_config *config, struct error *err);

/* Installs the filter for all threads of the process; there is no way back. Returns 0, or a
 * negative errno with err set, and the process must not go on. */
int seccomp_install(const struct seccomp_config *config, struct error *err);

/* The part of it that looks at mremap; sets no_new_privs. */
int seccomp_check_lengths(const struct seccomp_config *config, struct error *err);

#endif
