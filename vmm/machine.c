/* SPDX-License-Identifier: MIT */
/*
 * What a machine is made of: KVM's VM, guest memory, buses, interrupts, devices and vCPUs, created
 * in this order and freed in the reverse. Files and sizes are checked before anything is created,
 * and the pool owner is asked last of what can fail for a reason outside this process.
 */
#include "vmm/vm_internal.h"

#include <errno.h>
#include <stdlib.h>

#include "framevisor/layout.h"
#include "framevisor/size.h"
#include "vmm/boot/cpuid.h"

#define MEM_MIN       (2 * FRAME_SIZE) /* 4 MiB: boot structures and a tiny kernel */
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

static void machine_power(void *machine, enum power_request request)
{
	vm_request(machine, request == POWER_REQUEST_OFF ? VM_REQUEST_POWER_OFF : VM_REQUEST_RESET);
}

static void machine_failed(void *machine)
{
	vm_request(machine, VM_REQUEST_FAILED);
}

static const struct device_host_ops machine_host_ops = {
	.irq_line = machine_irq_line,
	.msi_create = machine_msi_create,
	.msi_set = machine_msi_set,
	.msi_raise = machine_msi_raise,
	.msi_destroy = machine_msi_destroy,
	.doorbell = machine_doorbell,
	.power = machine_power,
};

/* RAM below and above the hole; returns the number of ranges. */
static unsigned int split_ram(uint64_t mem_bytes, struct vm_memory_range ranges[2])
{
	uint64_t low = mem_bytes < LAYOUT_LOW_RAM_END ? mem_bytes : LAYOUT_LOW_RAM_END;

	ranges[0] = (struct vm_memory_range){ .gpa = 0, .size = low };
	if (low == mem_bytes)
		return 1;
	ranges[1] = (struct vm_memory_range){ .gpa = LAYOUT_HIGH_RAM, .size = mem_bytes - low };
	return 2;
}

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
		return error_set(err, EINVAL,
				 "memory of %s is not a multiple of 2 MiB, the size of a frame",
				 size_format(config->mem_bytes, text, sizeof(text)));
	if (!config->kernel)
		return error_set(err, EINVAL, "no kernel was given");
	return 0;
}

static int open_boot(struct vm *vm, struct error *err)
{
	struct boot_config config = {
		.kernel = vm->config.kernel,
		.initrd = vm->config.initrd,
		.cmdline = vm->config.append,
		.mem_bytes = vm->config.mem_bytes,
		.cpus = vm->config.cpus,
	};

	vm->boot = boot_open(&config, err);
	return vm->boot ? 0 : -EINVAL;
}

/* Against the CPU's physical address width; 99999G and the like end here. */
static int check_address_width(const struct vm *vm, struct error *err)
{
	struct kvm_cpuid2 *supported = cpuid_supported(vm->kvm.fd, err);
	uint64_t hole = LAYOUT_HIGH_RAM - LAYOUT_LOW_RAM_END;
	unsigned int bits;

	if (!supported)
		return -EINVAL;
	bits = cpuid_phys_bits(supported);
	free(supported);
	if (bits < 64 && (vm->config.mem_bytes > UINT64_MAX - hole ||
			  vm->config.mem_bytes + hole > (1ull << bits))) {
		char text[SIZE_TEXT_MAX];

		return error_set(err, EINVAL,
				 "memory of %s is more than a guest's %u address bits can reach",
				 size_format(vm->config.mem_bytes, text, sizeof(text)), bits);
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

static int create_memory(struct vm *vm, struct error *err)
{
	struct vm_memory_range ranges[2];
	struct owner_client_config owner = {
		.vm_name = vm->config.name,
		.ram_frames = bytes_to_frames(vm->config.mem_bytes),
		.hugepages = vm->config.hugepages,
		.pool_bytes = vm->config.pool_bytes,
	};
	struct vm_memory_config memory = { .ranges = ranges, .loop = vm->loop };

	vm->client = owner_client_connect(&owner, err);
	if (!vm->client)
		return -EINVAL;
	memory.client = vm->client;
	memory.nr_ranges = split_ram(vm->config.mem_bytes, ranges);
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
	vm->devices = (struct device_set){
		.host = &vm->host,
		.serial_output = vm_console_output,
		.serial_room = vm_console_room,
		.balloon_changed = vm_balloon_changed,
		.opaque = vm,
	};
	return device_set_create(&vm->devices, err);
}

static int create_vcpus(struct vm *vm, struct error *err)
{
	struct vcpu_host host = {
		.pio = vm->pio,
		.mmio = vm->mmio,
		.memory = vm->memory,
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
		open_boot,      open_kvm,     create_memory, create_host,
		create_devices, create_vcpus, load_guest,
	};
	size_t i;
	int ret;

	ret = check_sizes(&vm->config, err);
	for (i = 0; ret == 0 && i < sizeof(steps) / sizeof(steps[0]); i++)
		ret = steps[i](vm, err);
	return ret;
}

void machine_destroy(struct vm *vm)
{
	vcpus_destroy(vm->vcpus);
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
