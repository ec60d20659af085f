/* SPDX-License-Identifier: MIT */
/* Memory devices with a size and a request of their own: see mem_devices.h. */
#include "vmm/mem_devices.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "framevisor/clock.h"
#include "framevisor/frame.h"
#include "framevisor/layout.h"
#include "framevisor/log.h"
#include "framevisor/size.h"
#include "vmm/vm_internal.h"

#define LOOK_MS 1000

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

/* ---- A guest that is not there yet ---- */

static void arm_look(struct vm *vm)
{
	/* Not put off: one device may move all the time, and another one stand still. */
	if (vm->mem_look_timer && !vm->mem_looks) {
		event_timer_arm(vm->mem_look_timer, LOOK_MS, 0);
		vm->mem_looks = true;
	}
}

static void mem_changed(void *opaque)
{
	arm_look(opaque);
	vm_mem_changed(opaque);
}

/* A block that was refused, or that the guest could not empty: told again it tries at once, by
 * itself only after 50 s and more. */
static void watch(struct vm *vm, unsigned int index, const struct virtio_mem_stats *stats)
{
	struct mem_watch *watch = &vm->mem_watch[index];
	struct target_parts parts = {
		.has_mem = true,
		.running = vm->state == VM_STATE_RUNNING,
		.mem = *stats,
	};

	parts.mem_stall_ms = target_pace(&watch->pace, &parts);
	if (target_ask_again(&watch->ask, &parts, now_ms()))
		virtio_mem_ask_again(vm->devices.mem[index]);
}

static void look(void *opaque)
{
	struct vm *vm = opaque;

	vm->mem_looks = false;
	for (unsigned int i = 0; i < vm->nr_mem; i++) {
		struct virtio_mem_stats stats;

		vm_mem_device_stats(vm, i, &stats);
		watch(vm, i, &stats);
		if (stats.plugged != stats.requested)
			arm_look(vm);
	}
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
			.changed = mem_changed,
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
 * err set. It is asked again until all is promised: a growth may be called off or end half way.
 */
static int reserve(struct vm *vm, bool starts, struct error *err)
{
	uint64_t frames = bytes_to_frames(sum_requested(vm));

	vm->mem_promise = 0;
	if (frames && starts)
		vm->mem_promise = vm_memory_reserve_now(vm->memory, frames, err);
	else if (frames)
		vm->mem_promise = vm_memory_reserve(vm->memory, frames, err);
	if (vm->mem_promise == 0) {
		vm->mem_pause_ms = 0;
		event_timer_disarm(vm->mem_timer);
		return 0;
	}
	if (vm->mem_promise == -EINPROGRESS) {
		event_timer_arm(vm->mem_timer, TARGET_ASK_POOL_MS, 0);
		return 0;
	}
	event_timer_arm(vm->mem_timer, target_refused_pause(&vm->mem_pause_ms), 0);
	return vm->mem_promise;
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
		if (part == stats.requested)
			continue;
		ret = virtio_mem_set_requested(vm->devices.mem[i], part, err);
		vm->mem_watch[i].pace.idle_ms = 0; /* that was about another size */
		arm_look(vm);
	}
	return ret;
}

static void ask_again(void *opaque)
{
	struct vm *vm = opaque;
	struct error err = { 0 };
	bool said = vm->mem_pause_ms != 0;
	int ret = reserve(vm, false, &err);

	/* Refused, a part of it may have been promised. */
	if (ret < 0 && !said)
		log_warn("%s", err.message);
	error_clear(&err);
	if (tell(vm, &err) < 0)
		log_warn("%s", err.message);
}

int mem_devices_start(struct vm *vm, struct error *err)
{
	int ret;

	if (!vm->nr_mem)
		return 0;
	vm->mem_timer = event_timer_create(vm->loop, ask_again, vm);
	vm->mem_look_timer = event_timer_create(vm->loop, look, vm);
	if (!vm->mem_timer || !vm->mem_look_timer)
		return error_set_errno(err, errno, "cannot create a timer");
	ret = reserve(vm, true, err);
	return ret < 0 ? ret : tell(vm, err);
}

void mem_devices_stop(struct vm *vm)
{
	event_timer_destroy(vm->mem_timer);
	event_timer_destroy(vm->mem_look_timer);
	vm->mem_timer = vm->mem_look_timer = NULL;
}

void mem_devices_pool_moved(struct vm *vm)
{
	if (vm->nr_mem)
		ask_again(vm);
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
	struct error ignored = { 0 };
	int ret;

	wanted.requested = bytes;
	ret = check_device(vm, &wanted, err);
	if (ret < 0)
		return ret;
	device->requested = bytes;
	vm->mem_pause_ms = 0;
	if (bytes < before)
		vm_memory_unreserve(vm->memory, bytes_to_frames(sum_requested(vm)));
	ret = reserve(vm, false, err);
	if (ret < 0 && bytes <= before)
		ret = 0; /* what the others lack is not its business */
	if (ret == 0)
		ret = tell(vm, err);
	if (ret == 0)
		return 0;
	/* The pool has called off what it was growing for. */
	device->requested = before;
	(void)reserve(vm, false, &ignored);
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

/* A device; "reached" is what it is there. */
static enum target_state judge(struct vm *vm, unsigned int index,
			       const struct virtio_mem_stats *stats, enum target_state reached)
{
	uint64_t requested = vm->mem[index].requested;
	struct target_parts parts = {
		.has_mem = true,
		.mem = *stats,
		.starves = vm_memory_starves(vm->memory),
		.in_vain = stats->plugged > requested && vm->mem_watch[index].ask.in_vain,
	};

	if (stats->plugged == requested)
		return reached;
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
	if (stats->idle_ms < TARGET_STALL_MS)
		return TARGET_MOVING;
	target_hear_guest(vm->devices.balloon, &parts.guest);
	return target_judge_blocks(&parts);
}

void vm_size_info(struct vm *vm, struct target_info *info)
{
	bool stopped = false;

	target_info(vm->target, info);
	for (unsigned int i = 0; i < vm->nr_mem; i++) {
		struct virtio_mem_stats stats;

		vm_mem_device_stats(vm, i, &stats);
		info->size += vm->mem[i].requested;
		info->actual += stats.plugged;
		info->max += vm->mem[i].id[0] ? vm->mem[i].size : 0;
		if (info->state == TARGET_REACHED || info->state == TARGET_TAXED)
			info->state = judge(vm, i, &stats, info->state);
		stopped |= target_is_stopped(info->state);
	}
	if (vm->nr_mem) {
		info->promised = frames_to_bytes(vm_memory_promised(vm->memory));
		info->text = target_state_texts[info->state];
		target_ask_why(vm->target, stopped);
	}
}

/* Those that are to have less first: the pool is not asked for more than all need. */
static int request_all(struct vm *vm, const uint64_t *parts, struct error *err)
{
	int ret = 0;

	for (unsigned int i = 0; ret == 0 && i < vm->nr_mem; i++)
		if (parts[i] < vm->mem[i].requested)
			ret = vm_mem_device_request(vm, i, parts[i], err);
	for (unsigned int i = 0; ret == 0 && i < vm->nr_mem; i++)
		if (parts[i] > vm->mem[i].requested)
			ret = vm_mem_device_request(vm, i, parts[i], err);
	return ret;
}

/* The devices are filled from the first to the last and emptied the other way round: what is left
 * of bytes is each one's, as much as it can hold. Refused, nothing has changed. */
static int distribute(struct vm *vm, uint64_t bytes, struct error *err)
{
	uint64_t parts[VM_MEM_DEVICES_MAX] = { 0 }, before[VM_MEM_DEVICES_MAX] = { 0 };
	struct error ignored = { 0 };
	int ret;

	for (unsigned int i = 0; i < vm->nr_mem; i++) {
		uint64_t part = vm->mem[i].id[0] ? vm->mem[i].size : 0;

		if (part > bytes)
			part = round_up(bytes, block_size(&vm->mem[i]));
		bytes -= part < bytes ? part : bytes;
		parts[i] = part;
		before[i] = vm->mem[i].requested;
	}
	ret = request_all(vm, parts, err);
	if (ret < 0)
		(void)request_all(vm, before, &ignored);
	return ret;
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
