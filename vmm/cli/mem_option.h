/* SPDX-License-Identifier: MIT */
/* The value of run's --mem: how much memory a VM boots with, is given, and may ever have. */
#ifndef VMM_CLI_MEM_OPTION_H
#define VMM_CLI_MEM_OPTION_H

#include <stdint.h>

#include "framevisor/error.h"

/* In bytes, multiples of FRAME_SIZE; boot <= size <= max. */
struct mem_option {
	uint64_t boot; /* there from the start, taken back by balloon only */
	uint64_t size; /* what the guest is given at first */
	uint64_t max;  /* beyond boot it is virtio-mem's */
	uint64_t min;  /* never taken away again; 0: the pool's default. At most max. */
};

/*
 * "512M"               boot = size = max
 * "512M,max=4G"        boot = size = 512M
 * "2G,boot=512M"       size = max = 2G
 * "2G,elastic=on"      the same with a boot part of a quarter, at least 256 MiB
 *
 * and max= with either of the last two, min= with all. Returns 0, or -EINVAL with a sentence that
 * quotes the text.
 */
int mem_option_parse(const char *text, struct mem_option *mem, struct error *err);

#endif
