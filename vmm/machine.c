/* SPDX-License-Identifier: MIT */
/*
 * What a machine is made of: KVM's VM, guest memory, buses, interrupts, devices and vCPUs, created
 * in this order and freed in the reverse. Files and sizes are checked before anything is created,
 * and the pool owner is asked last of what can fail for a reason outside this process.
 */
#include "vmm/vm_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "framevisor/layout.h"
#include "framevisor/log.h"
#include "framevisor/size.h"
#include "vmm/boot/cpuid.h"
#include "vmm/mem_devices.h"

#define MEM_MIN       (UINT64_C(4) << 20) /* 4 MiB: boot structures and a tiny kernel */
#define MEM_MAX       (UINT64_C(1) << 52) /* x86 has no more physical address bits */
#define RAM_SLOT_BASE 0

static void machine_irq_line(void *machine, unsigned int gsi, bool level)
{
	struct vm *vm = machine;

	irq_line(vm->irq, gsi, level);
}

static struct msi_vector *machine_msi_create(void *machine)
{
	struct vm *vm = machine;

	return irq_msi_create(vm->irq);
}

static int machine_msi_set(void *machine, struct msi_vector *vector, uint64_t addr, uint32_t data)
{
	struct vm *vm = machine;

	return irq_msi_set(vm->irq, vector, addr, data);
}

static void machine_msi_raise(void *machine, struct msi_vector *vector)
{
	(void)machine;
	irq_msi_raise(vector);
}

static void machine_msi_destroy(void *machine, struct msi_vector *vector)
{
	struct vm *vm = machine;

	irq_msi_destroy(vm->irq, vector);
}

static int machine_doorbell(void *machine, const struct doorbell *bell, bool assign)
{
	struct vm *vm = machine;

	return irq_doorbell(vm->irq, bell, assign);
}

/* What ends a guest is its last instruction: Linux goes on to the next way of resetting itself, at
 * last by a triple fault, if it finds itself alive after the first. */
static void machine_power(void *machine, enum power_request request)
{
	vcpu_halt_current();
	vm_request(machine, request == POWER_REQUEST_OFF ? VM_REQUEST_POWER_OFF : VM_REQUEST_RESET);
}

static void machine_failed(void *machine)
{
	vm_request(machine, VM_REQUEST_FAILED);
}

static bool machine_queue_work_begin(void *machine)
{
	struct vm *vm = machine;

	return vm_memory_queue_work_begin(vm->memory);
}

static void machine_queue_work_end(void *machine)
{
	struct vm *vm = machine;

	vm_memory_queue_work_end(vm->memory);
}

static const struct device_host_ops machine_host_ops = {
	.irq_line = machine_irq_line,
	.msi_create = machine_msi_create,
	.msi_set = machine_msi_set,
	.msi_raise = machine_msi_raise,
	.msi_destroy = machine_msi_destroy,
	.doorbell = machine_doorbell,
	.power = machine_power,
	.queue_work_begin = machine_queue_work_begin,
	.queue_work_end = machine_queue_work_end,
};

static int check_sizes(const struct vm_config *config, struct error *err)
{
	char text[SIZE_TEXT_MAX];

	if (config->cpus == 0)
		return error_set(err, EINVAL, "a VM needs at least one CPU");
	if (config->cpus > VM_CPUS_MAX)
		return error_set(err, EINVAL, "%u CPUs are too many: the limit is %d", config->cpus,
				 VM_CPUS_MAX);
	if (config->mem_bytes < MEM_MIN)
		return error_set(err, EINVAL,
				 "memory of %s is too small: a VM needs at least 4 MiB",
				 size_format(config->mem_bytes, text, sizeof(text)));
	if (!frame_aligned(config->mem_bytes))
		return error_set(
			err, EINVAL, "memory of %s is not a multiple of %s, the size of a frame",
			size_format(config->mem_bytes, text, sizeof(text)), frame_size_name());
	if (!frame_aligned(config->mem_max) || !frame_aligned(config->mem_target) ||
	    config->mem_target < config->mem_bytes || config->mem_max < config->mem_target)
		return error_set(err, EINVAL,
				 "memory at boot, first size and ceiling must be in steps of %s "
				 "and in this order",
				 frame_size_name());
	if (config->mem_max > MEM_MAX)
		return error_set(err, EINVAL, "memory of %s is more than any machine can have",
				 size_format(config->mem_max, text, sizeof(text)));
	if (!config->kernel)
		return error_set(err, EINVAL, "no kernel was given");
	return 0;
}

/* The guest keeps a descriptor of 64 bytes for each 4 KiB of plugged memory in its boot memory. */
static void check_proportion(const struct vm *vm)
{
	uint64_t descriptors = (vm->config.mem_max - vm->config.mem_bytes) / 64;
	char text[SIZE_TEXT_MAX], boot[SIZE_TEXT_MAX];

	if (descriptors > vm->config.mem_bytes / 2)
		log_warn("%s: to plug all of its memory the guest needs %s of the %s it boots "
			 "with; give it more at boot",
			 vm->config.name, size_format(descriptors, text, sizeof(text)),
			 size_format(vm->config.mem_bytes, boot, sizeof(boot)));
}

/* Completes the configuration by what it leaves open. */
static int plan_memory(struct vm *vm, struct error *err)
{
	struct vm_config *config = &vm->config;
	int ret;

	if (!config->mem_max)
		config->mem_max = config->mem_bytes;
	if (!config->mem_target)
		config->mem_target = config->mem_bytes;
	ret = check_sizes(config, err);
	if (ret < 0)
		return ret;
	ret = memory_map_check(config, err);
	if (ret < 0)
		return ret;
	vm->nr_nodes = config->numa.nr ? config->numa.nr : 1;
	memcpy(vm->nodes, config->numa.node, sizeof(vm->nodes));
	if (!config->numa.nr)
		vm->nodes[0] =
			(struct vm_numa_node){ .mem = config->mem_bytes, .max = config->mem_max };
	memory_map_create(&vm->map, vm->nodes, vm->nr_nodes);
	return config->nr_mem_devices ? mem_devices_plan(vm, err) : 0;
}

/* What the guest is told. Only where there are nodes, or memory to come, is there something to tell
 * about memory. */
static void describe(struct vm *vm)
{
	bool tell = vm->config.numa.nr || vm->map.hotplug_bytes;

	for (unsigned int i = 0; i < vm->nr_nodes; i++)
		for (unsigned int cpu = 0; cpu < vm->config.cpus; cpu++)
			if (vm->nodes[i].cpus >> cpu & 1)
				vm->cpu_node[cpu] = (uint8_t)i;
	vm->acpi = (struct acpi_config){
		.cpus = vm->config.cpus,
		.memory = vm->map.range,
		.nr_memory = tell ? vm->map.nr : 0,
		.cpu_node = vm->cpu_node,
		.distance = vm->config.numa.distance,
		.nr_nodes = vm->nr_nodes,
	};
}

/*
 * Linux brings plugged memory into use by itself only where its configuration says so, and then
 * into a zone that also takes what cannot be moved away again. Debian's 6.1 does not at all. In
 * front of what the user gave, because what follows a "--" there is not the kernel's.
 */
#define CMDLINE_ONLINE "memhp_default_state=online_movable "

static char *make_cmdline(const struct vm *vm)
{
	const char *given = vm->config.append ? vm->config.append : BOOT_DEFAULT_CMDLINE;
	bool decided = strstr(given, "memhp_default_state=") ||
		       strstr(given, "memory_hotplug.online_policy=");
	char *cmdline = NULL;

	if (asprintf(&cmdline, "%s%s", vm->map.hotplug_bytes && !decided ? CMDLINE_ONLINE : "",
		     given) < 0)
		return NULL;
	return cmdline;
}

static int open_boot(struct vm *vm, struct error *err)
{
	char *cmdline = make_cmdline(vm);
	struct boot_config config = {
		.kernel = vm->config.kernel,
		.initrd = vm->config.initrd,
		.cmdline = cmdline,
		.mem_bytes = vm->config.mem_bytes,
		.acpi = &vm->acpi,
	};

	describe(vm);
	if (!cmdline)
		return error_set(err, ENOMEM, "out of memory");
	vm->boot = boot_open(&config, err);
	free(cmdline);
	return vm->boot ? 0 : -EINVAL;
}

/* Against the CPU's physical address width; 99999G and the like end here. */
static int check_address_width(const struct vm *vm, struct error *err)
{
	struct kvm_cpuid2 *supported = cpuid_supported(vm->kvm.fd, err);
	unsigned int bits;
	uint64_t end = vm->map.end;

	if (!supported)
		return -EINVAL;
	bits = cpuid_phys_bits(supported);
	free(supported);
	/* No overflow: MEM_MAX. */
	if (bits < 62 && end > (1ull << bits)) {
		char text[SIZE_TEXT_MAX];

		return error_set(err, EINVAL,
				 "memory of %s is more than a guest's %u address bits can reach",
				 size_format(vm->config.mem_max, text, sizeof(text)), bits);
	}
	return 0;
}

static int open_kvm(struct vm *vm, struct error *err)
{
	int ret = kvm_open(&vm->kvm, err);

	if (ret < 0)
		return ret;
	if (vm->config.cpus > vm->kvm.max_vcpus)
		return error_set(err, EINVAL, "%u CPUs are too many: this host's KVM allows %u",
				 vm->config.cpus, vm->kvm.max_vcpus);
	ret = check_address_width(vm, err);
	if (ret == 0)
		ret = kvm_create_vm(&vm->kvm, err);
	if (ret == 0)
		ret = kvm_create_platform(&vm->kvm, err);
	return ret;
}

/* Where a pool that grows for this VM grows: if all of its memory comes from certain nodes. */
static uint64_t wanted_host_nodes(const struct vm *vm)
{
	uint64_t nodes = 0;

	for (unsigned int i = 0; i < vm->nr_nodes; i++) {
		if (!vm->nodes[i].host_nodes)
			return 0;
		nodes |= vm->nodes[i].host_nodes;
	}
	return nodes;
}

/* The host's nodes are the pool's by other numbers. */
static int pool_nodes(const struct vm *vm, const struct acpi_memory *range, uint64_t host_nodes,
		      uint64_t *nodemask, struct error *err)
{
	uint64_t missing = host_nodes;

	*nodemask = 0;
	for (unsigned int nid = 0; nid < owner_client_nr_nodes(vm->client); nid++) {
		int host = owner_client_host_node(vm->client, nid);

		if (host < 0 || host >= 64 || !(host_nodes >> host & 1))
			continue;
		*nodemask |= UINT64_C(1) << nid;
		missing &= ~(UINT64_C(1) << host);
	}
	if (missing)
		return error_set(err, EINVAL,
				 "node %u: the pool has no memory in the host's node %d",
				 range->node, __builtin_ctzll(missing));
	return 0;
}

/* Listed memory devices say themselves where their frames come from, all else as its node. */
static int fill_ranges(const struct vm *vm, struct vm_memory_range *ranges, struct error *err)
{
	int ret = 0;

	for (unsigned int i = 0; i < vm->map.nr && ret == 0; i++) {
		const struct acpi_memory *range = &vm->map.range[i];
		const struct vm_numa_node *node = &vm->nodes[range->node];
		bool listed = vm->nr_mem && i >= vm->map.nr_boot;
		const struct vm_mem_device *device = &vm->mem[listed ? i - vm->map.nr_boot : 0];

		ranges[i] = (struct vm_memory_range){
			.gpa = range->base,
			.size = range->size,
			.node = (uint16_t)range->node,
			.policy = listed ? device->policy : node->policy,
		};
		ret = pool_nodes(vm, range, listed ? device->host_nodes : node->host_nodes,
				 &ranges[i].nodemask, err);
	}
	return ret;
}

static int create_memory(struct vm *vm, struct error *err)
{
	struct vm_memory_range ranges[MEMORY_MAP_MAX];
	struct owner_client_config owner = {
		.vm_name = vm->config.name,
		.ram_frames = bytes_to_frames(vm->config.mem_bytes),
		.hugepages = vm->config.hugepages,
		.pool_bytes = vm->config.pool_bytes,
		.start = vm->config.owner_start,
		.start_opaque = vm->config.owner_opaque,
		.min_frames = bytes_to_frames(vm->config.mem_min),
		.max_frames = bytes_to_frames(vm->config.mem_max + mem_devices_room(vm)),
		.shares = vm->config.shares,
		.oom_score_adj = vm->config.oom_score_adj,
		.tell_filling = vm->config.prealloc && vm->config.prealloc_progress,
		.host_nodes = wanted_host_nodes(vm),
	};
	struct vm_memory_config memory = {
		.ranges = ranges,
		.nr_ranges = vm->map.nr_boot,
		.hotplug = ranges + vm->map.nr_boot,
		.nr_hotplug = vm->map.nr - vm->map.nr_boot,
		.loop = vm->loop,
		.swap_path = vm->config.swap_path,
		.swap_bytes = vm->config.swap_bytes,
		.swap_random = vm->config.swap_random,
		.event = vm_memory_event,
		.event_opaque = vm,
	};

	vm->client = owner_client_connect(&owner, err);
	if (!vm->client || fill_ranges(vm, ranges, err) < 0)
		return -EINVAL;
	memory.client = vm->client;
	vm->memory = vm_memory_create(&memory, err);
	if (!vm->memory)
		return -EINVAL;
	return vm_memory_set_slots(vm->memory, vm->kvm.vm_fd, RAM_SLOT_BASE, err);
}

static int create_host(struct vm *vm, struct error *err)
{
	vm->pio = bus_create();
	vm->mmio = bus_create();
	if (!vm->pio || !vm->mmio)
		return error_set(err, ENOMEM, "out of memory for the buses");
	vm->irq = irq_router_create(vm->kvm.vm_fd, vm->kvm.max_gsi_routes, err);
	if (!vm->irq)
		return -EINVAL;
	vm->chips = kvm_chips_save(&vm->kvm, err);
	if (!vm->chips)
		return -EINVAL;
	vm->host = (struct device_host){
		.mem = vm_memory_guest(vm->memory),
		.loop = vm->loop,
		.pio = vm->pio,
		.mmio = vm->mmio,
		.ops = &machine_host_ops,
		.machine = vm,
	};
	return 0;
}

static int create_devices(struct vm *vm, struct error *err)
{
	struct virtio_mem_options mem[VM_MEM_DEVICES_MAX] = { { .addr = 0 } };
	unsigned int nr_mem = 0;

	for (unsigned int i = vm->map.nr_boot; i < vm->map.nr; i++)
		mem[nr_mem++] = (struct virtio_mem_options){
			.addr = vm->map.range[i].base,
			.region_size = vm->map.range[i].size,
			.has_node = true, /* as the SRAT says */
			.node = (uint16_t)vm->map.range[i].node,
			.changed = vm_mem_changed,
			.opaque = vm,
		};
	if (vm->nr_mem)
		mem_devices_options(vm, mem[0].addr, mem);
	vm->devices = (struct device_set){
		.host = &vm->host,
		.serial_output = vm_console_output,
		.serial_room = vm_console_room,
		.balloon_changed = vm_balloon_changed,
		.opaque = vm,
		.balloon_without = vm->config.balloon_without,
		.mem_options = mem,
		.nr_mem_options = nr_mem,
		.rng = vm->config.rng,
	};
	return device_set_create(&vm->devices, err);
}

static int create_target(struct vm *vm, struct error *err)
{
	uint64_t mem_max[VM_NODES_MAX];
	struct target_config config = {
		.loop = vm->loop,
		.boot = vm->config.mem_bytes,
		.max = vm->config.mem_max,
		.size = vm->config.mem_target,
		.memory = vm->memory,
		.balloon = vm->devices.balloon,
		.mem = vm->devices.mem,
		.nr_mem = vm->nr_mem ? 0 : vm->devices.nr_mem,
		.mem_max = mem_max,
		.running = vm_running,
		.opaque = vm,
	};
	unsigned int nr = 0;

	for (unsigned int i = vm->map.nr_boot; i < vm->map.nr && !vm->nr_mem; i++) {
		const struct vm_numa_node *node = &vm->nodes[vm->map.range[i].node];

		mem_max[nr++] = node->max - node->mem;
	}
	check_proportion(vm);
	vm->target = target_create(&config, err);
	if (!vm->target)
		return -EINVAL;
	return mem_devices_start(vm, err);
}

static int prealloc(struct vm *vm, struct error *err)
{
	if (!vm->config.prealloc)
		return 0;
	return vm_memory_prealloc(vm->memory, vm->config.prealloc_progress,
				  vm->config.prealloc_opaque, err);
}

static int create_vcpus(struct vm *vm, struct error *err)
{
	struct vcpu_host host = {
		.pio = vm->pio,
		.mmio = vm->mmio,
		.memory = vm->memory,
		.cache_cpus = memory_map_cache_cpus(&vm->config.numa, vm->config.cpus),
		.machine = vm,
		.power = machine_power,
		.failed = machine_failed,
	};

	vm->vcpus = vcpus_create(&vm->kvm, vm->config.cpus, &host, err);
	return vm->vcpus ? 0 : -EINVAL;
}

static int load_guest(struct vm *vm, struct error *err)
{
	int ret = boot_load(vm->boot, vm_memory_guest(vm->memory), err);

	if (ret == 0)
		ret = vcpus_reset(vm->vcpus, boot_entry(vm->boot), err);
	return ret;
}

int machine_create(struct vm *vm, struct error *err)
{
	static int (*const steps[])(struct vm *, struct error *) = {
		plan_memory,  open_boot,   open_kvm,        create_memory,
		prealloc,     create_host, create_devices,  create_target,
		create_vcpus, load_guest,  vm_owner_create,
	};
	size_t i;
	int ret = 0;

	for (i = 0; ret == 0 && i < sizeof(steps) / sizeof(steps[0]); i++)
		ret = steps[i](vm, err);
	return ret;
}

void machine_destroy(struct vm *vm)
{
	/* A vCPU that waits for a frame could not be joined. All are stopped, or about to be. */
	if (vm->memory && vm_memory_starves(vm->memory))
		vm_memory_end_waits(vm->memory);
	vcpus_destroy(vm->vcpus);
	vm_owner_destroy(vm);
	mem_devices_stop(vm);
	target_destroy(vm->target);
	vm->target = NULL;
	device_set_destroy(&vm->devices);
	irq_router_destroy(vm->irq);
	kvm_chips_free(vm->chips);
	bus_destroy(vm->pio);
	bus_destroy(vm->mmio);
	/* KVM's view of the window goes before the window. */
	kvm_close(&vm->kvm);
	if (vm->memory)
		vm_memory_destroy(vm->memory);
	if (vm->client)
		owner_client_close(vm->client);
	boot_close(vm->boot);
}

int machine_reset(struct vm *vm, struct error *err)
{
	struct device *dev;
	int ret;

	for (dev = vm->devices.last; dev; dev = dev->next)
		dev->ops->reset(dev);
	vm_memory_forget_waits(vm->memory);
	ret = kvm_chips_restore(&vm->kvm, vm->chips, err);
	if (ret == 0)
		ret = load_guest(vm, err);
	return ret;
}

void machine_pause_devices(struct vm *vm)
{
	struct device *dev;

	for (dev = vm->devices.last; dev; dev = dev->next) {
		if (dev->ops->pause)
			dev->ops->pause(dev);
	}
}

void machine_resume_devices(struct vm *vm)
{
	struct device *dev;

	for (dev = vm->devices.last; dev; dev = dev->next) {
		if (dev->ops->resume)
			dev->ops->resume(dev);
	}
}
