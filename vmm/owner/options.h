/* SPDX-License-Identifier: MIT */
/* framevisord's command line. */
#ifndef VMM_OWNER_OPTIONS_H
#define VMM_OWNER_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "framevisor/error.h"
#include "framevisor/owner_client.h"
#include "vmm/owner/pool.h"

enum owner_action { OWNER_ACTION_RUN, OWNER_ACTION_HELP, OWNER_ACTION_VERSION };

struct owner_options {
	enum owner_action action;
	enum hugepages_mode hugepages;
	uint64_t pool;    /* bytes; 0: grows with the VMs */
	uint64_t max;     /* bytes; 0: what the machine allows */
	uint64_t initial; /* bytes */
	struct pool_movable movable;
	const char *rundir;
	const char *group; /* whose members may run VMs on this pool, beside us; NULL: nobody */
	bool daemonize;
	bool on_demand;
	bool keep;
	bool json;
};

/* Parses the arguments. Returns 0, or -EINVAL with a sentence about the first wrong one. */
int owner_options_parse(int argc, char **argv, struct owner_options *options, struct error *err);
void owner_options_help(void);

/* "512M" or "25%", as --movable takes it. Returns 0 or -EINVAL with err set. */
int owner_options_movable(const char *text, struct pool_movable *movable, struct error *err);

#endif
