/* SPDX-License-Identifier: MIT */
/* What vm.c (life cycle) and machine.c (what the machine is made of) share. */
#ifndef VMM_VM_INTERNAL_H
#define VMM_VM_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>

#include "framevisor/device.h"
#include "framevisor/device_table.h"
#include "framevisor/vm.h"
#include "vmm/boot/boot.h"
#include "vmm/irq.h"
#include "vmm/kvm.h"
#include "vmm/mem_devices.h"
#include "vmm/memory_map.h"
#include "vmm/target.h"
#include "vmm/vcpu.h"
#include "vmm/vm_owner.h"

/* Requests of vCPU threads to the loop's thread; bits of vm->requests. */
#define VM_REQUEST_POWER_OFF 1u
#define VM_REQUEST_RESET     2u
#define VM_REQUEST_FAILED    4u

struct vm {
	struct vm_config config; /* its strings are copies */
	struct event_loop *loop;
	struct vm_console console;
	vm_event_fn event_fn;
	void *event_opaque;
	enum vm_state state;
	bool waits_for_memory; /* paused by vm_memory_event(), and nobody has said otherwise */
	enum vm_shutdown_reason shutdown_reason;

	/* Any thread sets a bit and writes the eventfd; the loop's thread acts. An eventfd and not
	 * event_loop_post(), so that nothing can arrive after vm_destroy(). */
	unsigned int requests;
	int request_fd;
	struct event_timer *reset_timer; /* runs while the guest's reset waits for a vCPU */
	struct event_source *request_source;

	/* In the order in which machine_create() makes them. */
	unsigned int nr_mem; /* memory devices that the configuration lists */
	struct vm_mem_device mem[VM_MEM_DEVICES_MAX];
	uint64_t mem_capacity[VM_MEM_DEVICES_MAX]; /* size of the device's region */
	/* What the pool owner said about what they request: 0, -EINPROGRESS (the pool grows for
	 * it), or another negative errno. */
	int mem_promise;
	struct event_timer *mem_timer; /* asks it again */
	uint64_t mem_pause_ms;         /* see target_refused_pause() */
	/* Looks at them while one is not there yet; mem_looks: it is armed. */
	struct event_timer *mem_look_timer;
	bool mem_looks;
	struct mem_watch mem_watch[VM_MEM_DEVICES_MAX];
	struct vm_numa_node
		nodes[VM_NODES_MAX]; /* at least one, whether the guest is told or not */
	unsigned int nr_nodes;
	struct memory_map map;
	uint8_t cpu_node[VM_CPUS_MAX];
	struct acpi_config acpi;
	struct boot *boot;
	struct kvm kvm;
	struct owner_client *client;
	struct vm_rejoin *rejoin; /* NULL: not served */
	struct vm_memory *memory;
	struct bus *pio, *mmio;
	struct irq_router *irq;
	struct kvm_chips *chips;
	struct device_host host;
	struct device_set devices;
	struct vcpus *vcpus;
	struct target *target;
	struct vm_owner *owner; /* what the pool owner asks: vm_owner.h */
};

/* Everything from the kernel file's check to the vCPUs. On failure err is set; what exists is freed
 * by machine_destroy(), which takes a half made machine. */
int machine_create(struct vm *vm, struct error *err);
void machine_destroy(struct vm *vm);

/* Power-on state of devices, interrupt chips and vCPUs, and a fresh copy of the kernel. All vCPUs
 * are parked. */
int machine_reset(struct vm *vm, struct error *err);

void machine_pause_devices(struct vm *vm);
void machine_resume_devices(struct vm *vm);

/* Pauses the VM unless that takes longer: a vCPU that waits for memory comes when it has it.
 * Returns 0 or -EAGAIN. */
int vm_pause_within(struct vm *vm, unsigned int ms);

/* Any thread. */
void vm_request(struct vm *vm, unsigned int request);
/* vm.c's ends of the devices' callbacks. */
void vm_console_output(void *opaque, const uint8_t *data, size_t len);
void vm_console_room(void *opaque);
void vm_balloon_changed(void *opaque);
void vm_mem_changed(void *opaque);
void vm_memory_event(void *opaque, enum vm_memory_event event, uint64_t gpa);
bool vm_running(void *opaque);

#endif
