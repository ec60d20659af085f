/* SPDX-License-Identifier: MIT */
/* Memory devices with a size and a request of their own: see mem_devices.h. */
#include "vmm/mem_devices.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "framevisor/frame.h"
#include "framevisor/layout.h"
#include "framevisor/log.h"
#include "framevisor/size.h"
#include "vmm/vm_internal.h"

static uint64_t round_up(uint64_t bytes, uint64_t unit)
{
	return (bytes + unit - 1) & ~(unit - 1);
}

static uint64_t block_size(const struct vm_mem_device *device)
{
	return device->block_size ? device->block_size : FRAME_SIZE;
}

static int check_device(const struct vm *vm, const struct vm_mem_device *device, struct error *err)
{
	uint64_t block = block_size(device);

	if (block < FRAME_SIZE || block > VM_MEMORY_SLOT_SIZE)
		return error_set(err, EINVAL,
				 "memory device '%s': its blocks may be of %s to %llu MiB",
				 device->id, frame_size_name(),
				 (unsigned long long)VM_MEMORY_SLOT_SIZE >> 20);
	if (device->node >= vm->nr_nodes)
		return error_set(err, EINVAL, "memory device '%s': there is no node %u", device->id,
				 device->node);
	if (!device->size || device->size >> 52 || device->size % block)
		return error_set(
			err, EINVAL,
			"memory device '%s': its size has to be a multiple of its blocks of "
			"%llu KiB",
			device->id, (unsigned long long)(block >> 10));
	if (device->requested > device->size || device->requested % block)
		return error_set(err, EINVAL,
				 "memory device '%s': %llu KiB are requested of it; it takes "
				 "multiples of %llu KiB up to %llu KiB",
				 device->id, (unsigned long long)(device->requested >> 10),
				 (unsigned long long)(block >> 10),
				 (unsigned long long)(device->size >> 10));
	return 0;
}

int mem_devices_plan(struct vm *vm, struct error *err)
{
	if (vm->config.nr_mem_devices > VM_MEM_DEVICES_MAX)
		return error_set(err, EINVAL, "more than %d memory devices", VM_MEM_DEVICES_MAX);
	if (vm->config.mem_max != vm->config.mem_bytes)
		return error_set(err, EINVAL, "a ceiling goes without a list of memory devices");
	for (unsigned int i = 0; i < vm->config.nr_mem_devices; i++) {
		const struct vm_mem_device *device = &vm->config.mem_devices[i];
		int ret = check_device(vm, device, err);

		if (ret < 0)
			return ret;
		vm->mem[i] = *device;
		vm->mem_capacity[i] = round_up(device->size, LAYOUT_HOTPLUG_UNIT);
	}
	vm->nr_mem = vm->config.nr_mem_devices;
	memory_map_add_devices(&vm->map, vm->config.mem_bytes, vm->mem, vm->mem_capacity,
			       vm->nr_mem);
	vm->config.mem_devices = NULL; /* the caller's */
	return 0;
}

uint64_t mem_devices_room(const struct vm *vm)
{
	uint64_t room = 0, spare = 0;

	for (unsigned int i = 0; i < vm->nr_mem; i++) {
		if (vm->mem[i].id[0])
			room += vm->mem[i].size;
		else
			spare = vm->mem[i].size;
	}
	return room + spare;
}

void mem_devices_options(struct vm *vm, uint64_t base, struct virtio_mem_options *options)
{
	uint64_t addr = base;

	for (unsigned int i = 0; i < vm->nr_mem; i++) {
		options[i] = (struct virtio_mem_options){
			.addr = addr,
			.region_size = vm->mem_capacity[i],
			.block_size = block_size(&vm->mem[i]),
			.has_node = true,
			.node = vm->mem[i].node,
			.changed = vm_mem_changed,
			.opaque = vm,
		};
		addr += vm->mem_capacity[i];
	}
}

static uint64_t sum_requested(const struct vm *vm)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < vm->nr_mem; i++)
		sum += vm->mem[i].requested;
	return sum;
}

/*
 * The pool promises what all of them request; what is plugged beyond that is on its way out.
 * Returns 0, also when it has to grow for a part of it, which comes later; or a negative errno with
 * err set.
 */
static int reserve(struct vm *vm, bool starts, struct error *err)
{
	uint64_t frames = bytes_to_frames(sum_requested(vm));

	vm->mem_promise = 0;
	if (frames && starts)
		vm->mem_promise = vm_memory_reserve_now(vm->memory, frames, err);
	else if (frames)
		vm->mem_promise = vm_memory_reserve(vm->memory, frames, err);
	return vm->mem_promise == -EINPROGRESS ? 0 : vm->mem_promise;
}

/* Asks the guest to plug what is requested, as far as the pool has promised it: the first ones
 * first, and none less than it has plugged already. */
static int tell(struct vm *vm, struct error *err)
{
	uint64_t left = frames_to_bytes(vm_memory_promised(vm->memory));
	int ret = 0;

	for (unsigned int i = 0; ret == 0 && i < vm->nr_mem; i++) {
		uint64_t requested = vm->mem[i].requested, part = requested;
		struct virtio_mem_stats stats;

		vm_mem_device_stats(vm, i, &stats);
		if (part > left)
			part = left & ~(block_size(&vm->mem[i]) - 1);
		if (part < stats.plugged)
			part = stats.plugged < requested ? stats.plugged : requested;
		left -= part < left ? part : left;
		if (part != stats.requested)
			ret = virtio_mem_set_requested(vm->devices.mem[i], part, err);
	}
	return ret;
}

int mem_devices_start(struct vm *vm, struct error *err)
{
	int ret = reserve(vm, true, err);

	return ret < 0 ? ret : tell(vm, err);
}

void mem_devices_pool_moved(struct vm *vm)
{
	struct error err = { 0 };

	if (!vm->nr_mem)
		return;
	if (reserve(vm, false, &err) < 0 || tell(vm, &err) < 0)
		log_warn("%s", err.message);
}

const struct vm_mem_device *vm_mem_device(const struct vm *vm, unsigned int index)
{
	return index < vm->nr_mem ? &vm->mem[index] : NULL;
}

void vm_mem_device_stats(struct vm *vm, unsigned int index, struct virtio_mem_stats *stats)
{
	virtio_mem_stats(vm->devices.mem[index], stats);
}

int vm_mem_device_find(const struct vm *vm, const char *id)
{
	for (unsigned int i = 0; i < vm->nr_mem; i++)
		if (id[0] && strcmp(vm->mem[i].id, id) == 0)
			return (int)i;
	return -1;
}

int vm_mem_device_request(struct vm *vm, unsigned int index, uint64_t bytes, struct error *err)
{
	struct vm_mem_device *device = &vm->mem[index];
	struct vm_mem_device wanted = *device;
	uint64_t before = device->requested;
	int ret;

	wanted.requested = bytes;
	ret = check_device(vm, &wanted, err);
	if (ret < 0)
		return ret;
	device->requested = bytes;
	ret = bytes > before ? reserve(vm, false, err) : 0;
	if (ret == 0)
		ret = tell(vm, err);
	if (ret < 0)
		device->requested = before;
	return ret;
}

/* The guest has found it already, so that blocks, node and where its frames come from are given. */
static bool can_become(const struct vm *vm, unsigned int i, const struct vm_mem_device *device)
{
	const struct vm_mem_device *spare = &vm->mem[i];

	return !spare->id[0] && spare->node == device->node &&
	       vm->mem_capacity[i] >= device->size && block_size(spare) == block_size(device) &&
	       spare->policy == device->policy && spare->host_nodes == device->host_nodes;
}

static int refuse_attach(const struct vm_mem_device *device, struct error *err)
{
	return error_set(err, ENOSPC,
			 "no memory device of node %u is spare for %llu MiB in blocks of %llu KiB: "
			 "they are made at the start, by <maxMemory> and its slots, in blocks of "
			 "2048 KiB, and take their frames from where the node's memory comes from",
			 device->node, (unsigned long long)(device->size >> 20),
			 (unsigned long long)(block_size(device) >> 10));
}

int vm_mem_device_attach(struct vm *vm, const struct vm_mem_device *device, struct error *err)
{
	struct vm_mem_device spare;
	unsigned int i = 0;
	int ret = check_device(vm, device, err);

	if (ret < 0)
		return ret;
	if (vm_mem_device_find(vm, device->id) >= 0)
		return error_set(err, EEXIST, "there is a memory device '%s' already", device->id);
	while (i < vm->nr_mem && !can_become(vm, i, device))
		i++;
	if (i == vm->nr_mem)
		return refuse_attach(device, err);
	spare = vm->mem[i];
	vm->mem[i] = *device;
	vm->mem[i].requested = 0;
	ret = vm_mem_device_request(vm, i, device->requested, err);
	if (ret < 0) {
		vm->mem[i] = spare;
		return ret;
	}
	return (int)i;
}

int vm_mem_device_detach(struct vm *vm, unsigned int index, struct error *err)
{
	struct vm_mem_device *device = &vm->mem[index];
	struct virtio_mem_stats stats;

	vm_mem_device_stats(vm, index, &stats);
	if (stats.plugged || device->requested)
		return error_set(err, EBUSY, "%llu MiB of memory device '%s' are plugged",
				 (unsigned long long)(stats.plugged >> 20), device->id);
	device->id[0] = '\0';
	device->size = vm->mem_capacity[index];
	return 0;
}

/* ---- The guest's size in all ---- */

static enum target_state judge(const struct vm *vm, uint64_t requested,
			       const struct virtio_mem_stats *stats)
{
	if (stats->plugged == requested)
		return TARGET_REACHED;
	if (vm->state != VM_STATE_RUNNING)
		return TARGET_PAUSED;
	if (stats->broken)
		return TARGET_MEM_BROKEN;
	if (!stats->driver_ready)
		return TARGET_NO_MEM;
	if (stats->plugged < stats->requested && stats->last_error == -ENOMEM)
		return TARGET_POOL;
	/* It has plugged all that is there. */
	if (stats->plugged == stats->requested)
		return vm->mem_promise == -EINPROGRESS ? TARGET_GROWING : TARGET_POOL;
	return stats->idle_ms < TARGET_STALL_MS ? TARGET_MOVING : TARGET_BUSY;
}

void vm_size_info(struct vm *vm, struct target_info *info)
{
	target_info(vm->target, info);
	for (unsigned int i = 0; i < vm->nr_mem; i++) {
		struct virtio_mem_stats stats;

		vm_mem_device_stats(vm, i, &stats);
		info->size += vm->mem[i].requested;
		info->actual += stats.plugged;
		info->max += vm->mem[i].id[0] ? vm->mem[i].size : 0;
		if (info->state == TARGET_REACHED)
			info->state = judge(vm, vm->mem[i].requested, &stats);
	}
	if (vm->nr_mem) {
		info->promised = frames_to_bytes(vm_memory_promised(vm->memory));
		info->text = target_state_texts[info->state];
	}
}

/* The devices are filled from the first to the last and emptied the other way round: what is left
 * of bytes is each one's, as much as it can hold. */
static int distribute(struct vm *vm, uint64_t bytes, struct error *err)
{
	for (unsigned int i = 0; i < vm->nr_mem; i++) {
		uint64_t part = vm->mem[i].id[0] ? vm->mem[i].size : 0;
		int ret;

		if (part > bytes)
			part = round_up(bytes, block_size(&vm->mem[i]));
		bytes -= part < bytes ? part : bytes;
		ret = part == vm->mem[i].requested ? 0 : vm_mem_device_request(vm, i, part, err);
		if (ret < 0)
			return ret;
	}
	return 0;
}

int vm_set_size(struct vm *vm, uint64_t bytes, struct error *err)
{
	uint64_t boot = vm->config.mem_bytes;
	int ret;

	if (!vm->nr_mem)
		return target_set(vm->target, bytes, err);
	ret = distribute(vm, bytes > boot ? bytes - boot : 0, err);
	return ret < 0 ? ret : target_set(vm->target, bytes < boot ? bytes : boot, err);
}
