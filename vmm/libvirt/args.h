/* SPDX-License-Identifier: MIT */
/*
 * libvirt's command line, as its qemu driver writes it, and what it means here. What it asks for
 * and cannot be had is refused with the name of the XML element to change; only what has no effect
 * on a guest is skipped.
 */
#ifndef VMM_LIBVIRT_ARGS_H
#define VMM_LIBVIRT_ARGS_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "framevisor/error.h"
#include "framevisor/rundir.h"
#include "framevisor/vm.h"

#define LIBVIRT_ID_MAX       64 /* of a device, an object, a character device */
#define LIBVIRT_DEVICES_MAX  64
#define LIBVIRT_BACKENDS_MAX 64
#define LIBVIRT_CELLS_MAX    VM_NODES_MAX
#define LIBVIRT_CHARDEVS_MAX 8
#define LIBVIRT_FDSETS_MAX   16

#define LIBVIRT_MACHINE "framevisor"
#define LIBVIRT_RAM_ID                                                             \
	"framevisor.ram" /* what libvirt calls the memory of a guest without cells \
			  */

enum libvirt_action {
	LIBVIRT_VERSION, /* print the version */
	LIBVIRT_PROBE,   /* machine "none": answer what this emulator can do */
	LIBVIRT_VM,
};

/* A place where memory comes from. Whatever libvirt calls it, here it is the pool. */
struct libvirt_backend {
	char id[LIBVIRT_ID_MAX];
	uint64_t size;
	bool hugepages; /* demanded */
	bool prealloc;
	uint64_t host_nodes; /* bit n: host node n; 0: any */
	char policy[16];     /* "bind", "preferred", "interleave", "default" or "" */
	bool used;
};

struct libvirt_device {
	char id[LIBVIRT_ID_MAX];
	char driver[LIBVIRT_ID_MAX];
};

/* A guest NUMA node. */
struct libvirt_cell {
	bool present;
	uint64_t cpus; /* bit n: CPU n */
	char backend[LIBVIRT_ID_MAX];
};

enum libvirt_chardev_kind {
	LIBVIRT_CHARDEV_NULL,
	LIBVIRT_CHARDEV_PTY,
	LIBVIRT_CHARDEV_FILE,
	LIBVIRT_CHARDEV_SOCKET,
};

struct libvirt_chardev {
	char id[LIBVIRT_ID_MAX];
	enum libvirt_chardev_kind kind;
	char path[PATH_MAX];
	int fd; /* passed by libvirt, or -1: path is to be opened */
	bool append;
};

struct libvirt_fdset {
	uint64_t set;
	int fd;
};

struct libvirt_mem_device {
	char id[LIBVIRT_ID_MAX];
	char backend[LIBVIRT_ID_MAX];
	uint64_t requested, block_size, node;
};

struct libvirt_request {
	enum libvirt_action action;
	bool daemonize;
	const char *pidfile;
	char monitor_path[RUNDIR_PATH_MAX]; /* -qmp unix:PATH; empty: none */
	bool kvm;                           /* an accelerator that is there was asked for */

	/* The VM. Its strings are those of the command line. */
	struct vm_config config;
	struct vm_mem_device mem[VM_MEM_DEVICES_MAX];
	const char *uuid;
	bool machine_given, mem_lock, balloon, serial_present;
	char ram_backend[LIBVIRT_ID_MAX];
	char entropy[LIBVIRT_ID_MAX];              /* the object of that kind, empty: none */
	char rng_source[LIBVIRT_ID_MAX];           /* what the virtio-rng device names */
	char serial[LIBVIRT_ID_MAX];               /* chardev of the serial port */
	char monitor[LIBVIRT_ID_MAX];              /* chardev of the monitor */
	uint64_t mem_size, mem_slots, mem_ceiling; /* bytes; 0: not given */

	unsigned int nr_devices, nr_backends, nr_cells, nr_chardevs, nr_fdsets, nr_mem;
	struct libvirt_device devices[LIBVIRT_DEVICES_MAX];
	struct libvirt_backend backends[LIBVIRT_BACKENDS_MAX];
	struct libvirt_cell cells[LIBVIRT_CELLS_MAX];
	uint8_t distance[LIBVIRT_CELLS_MAX][LIBVIRT_CELLS_MAX]; /* [from][to]; 0: not given */
	struct libvirt_chardev chardevs[LIBVIRT_CHARDEVS_MAX];
	struct libvirt_fdset fdsets[LIBVIRT_FDSETS_MAX];
	struct libvirt_mem_device mem_devices[VM_MEM_DEVICES_MAX];
};

/* Whether these are the arguments of libvirt and not of a person. */
bool libvirt_args_are_ours(int argc, char **argv);

/* Fills *request, which is large and zeroed before. Returns 0 or a negative errno with err set. */
int libvirt_args_parse(int argc, char **argv, struct libvirt_request *request, struct error *err);

const struct libvirt_chardev *libvirt_find_chardev(const struct libvirt_request *request,
						   const char *id);

#endif
