/* SPDX-License-Identifier: MIT */
/*
 * The capability probe: libvirt starts its emulator once with the machine "none" and asks over QMP
 * what it can do. Every name in these answers makes libvirt use it, and ask for more at each start
 * of a domain: so they name what is there, and little else. The answers are in probe_data.c.
 */
#ifndef VMM_LIBVIRT_PROBE_H
#define VMM_LIBVIRT_PROBE_H

#include <stddef.h>

#include "framevisor/error.h"
#include "framevisor/qmp_server.h"
#include "vmm/libvirt/args.h"

/* Serves the probe until SIGTERM, or until nobody has been connected for a minute. Returns the
 * process's exit status; with an error before the socket listens err is set. */
int libvirt_probe(const struct libvirt_request *request, struct error *err);

/* The commands of the probe; their opaque is a struct libvirt_request. */
const struct qmp_command *libvirt_probe_commands(size_t *nr);

/* What there is none of: disks, I/O threads, jobs, TPMs. An empty list. */
int libvirt_cmd_nothing(void *opaque, json_t *args, json_t **reply, struct qmp_error *err);

/* ---- probe_data.c ---- */

/* JSON: the answer to query-qmp-schema. */
extern const char libvirt_schema_json[];

/* A type and its properties, NULL terminated. */
struct libvirt_type {
	const char *name;
	/* qom-list-types names it: libvirt then offers what it stands for. */
	bool listed;
	const char *const *properties; /* NULL: none is told */
};
extern const struct libvirt_type libvirt_types[];
extern const size_t libvirt_nr_types;

#endif
