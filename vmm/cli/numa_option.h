/* SPDX-License-Identifier: MIT */
/* The values of run's --numa and --numa-dist: the guest's nodes. */
#ifndef VMM_CLI_NUMA_OPTION_H
#define VMM_CLI_NUMA_OPTION_H

#include "framevisor/error.h"
#include "framevisor/vm_numa.h"
#include "vmm/cli/mem_option.h"
#include "vmm/cli/options.h"

/*
 * Each of nodes is "node=N,cpus=A-B,mem=SIZE,max=SIZE,host-node=A-B,policy=WORD"; cpus= and
 * host-node= may be repeated in it. Numbers without gaps, in any order. When no node says cpus=,
 * mem= or max=, the VM's are shared out evenly; when one does, all are as they are said (no cpus=:
 * none; no max=: mem=). host-node= without policy= binds.
 *
 * Each of dists is "A:B=DISTANCE", both ways unless the other way is given too. What is not given
 * is 20.
 *
 * Whether it adds up to cpus and mem is not looked at here (memory_map_check()). Returns 0, or
 * -EINVAL with a sentence that quotes the text. No nodes: numa->nr is 0.
 */
int numa_option_parse(const struct cli_strings *nodes, const struct cli_strings *dists,
		      unsigned int cpus, const struct mem_option *mem, struct vm_numa *numa,
		      struct error *err);

#endif
