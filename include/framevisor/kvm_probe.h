/* SPDX-License-Identifier: MIT */
/* Whether this host's KVM can run a stock kernel, found out by trying. */
#ifndef FRAMEVISOR_KVM_PROBE_H
#define FRAMEVISOR_KVM_PROBE_H

#include "framevisor/error.h"

/*
 * Runs instructions that stock kernels use in kernel mode in a throw-away VM of 2 MiB ordinary
 * memory. Some /dev/kvm emulate kernel mode in software: they lack instructions, or are a thousand
 * times too slow. Returns 0, or a negative errno with a message that says which instruction failed
 * or how slow it was; -ENOTSUP when KVM works but cannot run a stock kernel. Takes 2 seconds at
 * most, usually a few milliseconds. Any thread; nothing is left behind.
 */
int kvm_probe_linux(struct error *err);

#endif
