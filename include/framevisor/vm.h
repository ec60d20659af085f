/* SPDX-License-Identifier: MIT */
/*
 * One virtual machine in this process: configuration, life cycle, and what control and CLI may ask.
 * All calls are made from the loop's thread.
 */
#ifndef FRAMEVISOR_VM_H
#define FRAMEVISOR_VM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "framevisor/error.h"
#include "framevisor/event_loop.h"
#include "framevisor/owner_client.h"
#include "framevisor/virtio_balloon.h"
#include "framevisor/virtio_mem.h"
#include "framevisor/vm_memory.h"
#include "framevisor/vm_numa.h"

#define VM_NAME_MAX 63
#define VM_CPUS_MAX 64

/* Memory devices that are listed one by one, and how many there may be in all. */
#define VM_MEM_DEVICES_MAX 16
#define VM_MEM_ID_MAX      64

struct vm_mem_device {
	char id[VM_MEM_ID_MAX]; /* its name; empty: a spare one */
	uint64_t size;          /* the most that it can hold, a multiple of its block size */
	uint64_t requested;     /* what the guest is asked to plug of it */
	uint64_t block_size;    /* 0: FRAME_SIZE */
	uint16_t node;          /* of the guest */
	/* Where its frames come from, as in struct vm_numa_node. */
	enum vm_memory_policy policy;
	uint64_t host_nodes;
};

struct vm_config {
	char name[VM_NAME_MAX + 1];
	unsigned int cpus;
	/* RAM that is there at boot. A multiple of FRAME_SIZE, at least 4 MiB. */
	uint64_t mem_bytes;
	/* Ceiling of what the guest may ever have: what is beyond mem_bytes is virtio-mem's, and a
	 * multiple of FRAME_SIZE as well. 0: mem_bytes. */
	uint64_t mem_max;
	/* What it is given at first, between mem_bytes and mem_max. 0: mem_bytes. */
	uint64_t mem_target;
	/* What is never taken away from it (0: the pool's default), its weight when memory is short
	 * (0: 1000), and its OOM score adjustment. */
	uint64_t mem_min;
	uint32_t shares;
	int oom_score_adj;
	/* The sums over its nodes are mem_bytes and mem_max. */
	struct vm_numa numa;
	/* Bind all of the boot memory before the guest runs. */
	bool prealloc;
	/* progress of that, may be NULL; done and total in frames. Returning false gives up. With
	 * it the pool that has to be filled first tells on stderr how far it is, too. */
	vm_memory_progress_fn prealloc_progress;
	void *prealloc_opaque;
	uint64_t balloon_without; /* features of the balloon that are not offered, as bits */
	bool rng;                 /* the guest has a virtio-rng */
	const char *kernel;       /* bzImage, or a flat guest-test image (ELF64) */
	const char *initrd;       /* NULL: none */
	const char *append;       /* NULL: "console=ttyS0" */
	enum hugepages_mode hugepages;
	uint64_t pool_bytes;
	/* How a pool owner is started; NULL: by this process. See struct owner_client_config. */
	int (*owner_start)(void *opaque, const struct owner_client_config *config,
			   struct error *err);
	void *owner_opaque;
	bool start_paused;
	bool no_reboot; /* a guest reset ends the VM */
	/* A guest that switches itself off or breaks leaves the VM there, stopped: a reset revives
	 * it. */
	bool no_shutdown;
	bool swap_random; /* beside swap_path and swap_bytes */
	/* Memory devices with a name and a request of their own; then mem_max and mem_target are 0.
	 * Copied. */
	const struct vm_mem_device *mem_devices;
	unsigned int nr_mem_devices;
	/* As in struct vm_memory_config. */
	const char *swap_path;
	uint64_t swap_bytes;
};

enum vm_state {
	VM_STATE_PRELAUNCH, /* created, no vCPU ran yet */
	VM_STATE_RUNNING,
	VM_STATE_PAUSED,
	VM_STATE_SHUTDOWN,       /* ended: guest power off, or quit */
	VM_STATE_INTERNAL_ERROR, /* unhandled exit; vCPUs stopped */
};

enum vm_event {
	VM_EVENT_RESUME,
	VM_EVENT_STOP,
	VM_EVENT_RESET,     /* guest or host reset; the VM goes on */
	VM_EVENT_SHUTDOWN,  /* the VM is about to end; vm_shutdown_reason() says why */
	VM_EVENT_POWERDOWN, /* system_powerdown was delivered to the guest */
	VM_EVENT_BALLOON,   /* the guest's size changed: see vm_get_target() */
	VM_EVENT_MEM,       /* virtio-mem plugged or unplugged blocks */
	/* A vCPU waits for memory: the VM has all it may have, or the pool is empty. */
	VM_EVENT_OVER_LIMIT, /* paused for it, until that ends or vm_resume() */
	VM_EVENT_POOL_EMPTY,
	/* A swapped frame cannot be read (the VM is paused), or the swap file is full. */
	VM_EVENT_SWAP_UNREADABLE,
	VM_EVENT_SWAP_FULL,
	VM_EVENT_ERROR, /* state became VM_STATE_INTERNAL_ERROR */
};
typedef void (*vm_event_fn)(void *opaque, enum vm_event event);

enum vm_shutdown_reason {
	VM_SHUTDOWN_NONE,
	VM_SHUTDOWN_GUEST,       /* guest switched itself off */
	VM_SHUTDOWN_GUEST_RESET, /* guest reset with no_reboot */
	VM_SHUTDOWN_HOST_QUIT,   /* QMP quit */
	VM_SHUTDOWN_HOST_SIGNAL, /* SIGTERM, SIGINT */
	VM_SHUTDOWN_ERROR,
};

struct vm;

/* Where the serial console's bytes go; write never blocks the guest. Set before vm_start(). */
struct vm_console {
	/* Loop's thread or vCPU thread; must not block. */
	void (*output)(void *opaque, const uint8_t *data, size_t len);
	/* Loop's thread: the guest made room after vm_console_input() took less than it was given.
	 */
	void (*room)(void *opaque);
	void *opaque;
};

/*
 * Checks the configuration, connects to the pool owner (starting it if needed), creates the machine
 * with all devices and loads the kernel. No vCPU runs. On failure NULL with err set and nothing
 * left.
 */
struct vm *vm_create(const struct vm_config *config, struct event_loop *loop,
		     const struct vm_console *console, struct error *err);
/* Stops the vCPUs, frees everything, gives all frames back. */
void vm_destroy(struct vm *vm);

/* Creates the vCPU threads and lets them run (or leaves them paused: config->start_paused). */
int vm_start(struct vm *vm, struct error *err);

int vm_pause(struct vm *vm, struct error *err);     /* QMP stop; idempotent */
int vm_resume(struct vm *vm, struct error *err);    /* QMP cont; idempotent; not after an error */
int vm_reset(struct vm *vm, struct error *err);     /* back to the kernel's first instruction */
int vm_powerdown(struct vm *vm, struct error *err); /* presses the ACPI power button */
/* Ends the VM: vCPUs stop, VM_EVENT_SHUTDOWN is sent, then the event loop is told to quit. */
void vm_shutdown(struct vm *vm, enum vm_shutdown_reason reason);

/* One listener for all events (the control side fans out). */
void vm_set_event_handler(struct vm *vm, vm_event_fn fn, void *opaque);

const struct vm_config *vm_get_config(const struct vm *vm);
enum vm_state vm_get_state(const struct vm *vm);
/* VM_STATE_PAUSED, because the guest uses more memory than it may have: it goes on by itself when a
 * frame for it is there. */
bool vm_waits_for_memory(const struct vm *vm);
enum vm_shutdown_reason vm_get_shutdown_reason(const struct vm *vm);
/* Listens on listen_fd (SOCK_SEQPACKET; taken over on success) for a pool owner that takes over
 * from one that died; lost (may be NULL) is called when the present one ends. Before vm_start(). */
int vm_serve_owner(struct vm *vm, int listen_fd, void (*lost)(void *opaque), void *opaque,
		   struct error *err);

struct owner_client *vm_get_client(struct vm *vm); /* its connection to the pool owner */
struct vm_memory *vm_get_memory(struct vm *vm);
struct virtio_balloon *vm_get_balloon(struct vm *vm);
/* The memory devices that the target moves, one for each guest node that can have more than it
 * boots with, in their order. NULL: no more of them. */
struct virtio_mem *vm_get_mem_at(struct vm *vm, unsigned int i);
/* The host's number of a node of the pool, or -1. */
int vm_get_host_node(const struct vm *vm, unsigned int nid);
/* How much memory the guest shall have: vmm/target.h. */
struct target;
struct target *vm_get_target(struct vm *vm);

/* ---- Memory devices of config->mem_devices: vmm/mem_devices.h ---- */

/* NULL behind the last one. Spare ones are among them. */
const struct vm_mem_device *vm_mem_device(const struct vm *vm, unsigned int index);
void vm_mem_device_stats(struct vm *vm, unsigned int index, struct virtio_mem_stats *stats);
/* The index of the device of that name, or -1. */
int vm_mem_device_find(const struct vm *vm, const char *id);
/* Asks the guest to have that much plugged. The pool is asked first. */
int vm_mem_device_request(struct vm *vm, unsigned int index, uint64_t bytes, struct error *err);
/* Makes a spare device of the node the one described. Returns its index or a negative errno. */
int vm_mem_device_attach(struct vm *vm, const struct vm_mem_device *device, struct error *err);
/* Makes it a spare one again. -EBUSY while anything is plugged. */
int vm_mem_device_detach(struct vm *vm, unsigned int index, struct error *err);

/* The size of all memory of the guest: target_info() and target_set(), with those devices. */
struct target_info;
void vm_size_info(struct vm *vm, struct target_info *info);
int vm_set_size(struct vm *vm, uint64_t bytes, struct error *err);

/* Thread id of a vCPU's thread (QMP query-cpus-fast; libvirt pins by it), or 0 before vm_start().
 */
int vm_get_cpu_tid(const struct vm *vm, unsigned int cpu);

/* Bytes typed at the console, into the serial port's receiver. Returns how many were taken. */
size_t vm_console_input(struct vm *vm, const uint8_t *data, size_t len);

#endif
