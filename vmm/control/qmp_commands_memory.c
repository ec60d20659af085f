/* SPDX-License-Identifier: MIT */
/*
 * The QMP commands and events about a VM's memory. A guest's size here is what it has in all: its
 * boot memory and what is plugged, without what is in the balloon.
 */
#include <errno.h>
#include <stdio.h>

#include "framevisor/frame.h"
#include "vmm/control/vm_control_internal.h"
#include "vmm/target.h"

/* The memory devices, as QEMU's tools would find them. */
#define MEM_ID     "mem%u"
#define MEM_PATH   "/machine/peripheral/" MEM_ID
#define MEM_MEMDEV "/objects/ram-" MEM_ID
#define MEM_NAME   48 /* room for any of them */

static uint64_t less(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

static uint64_t actual_size(struct vm *vm)
{
	struct target_info info;

	vm_size_info(vm, &info);
	return info.actual;
}

/* All memory devices as one, without those that are spare. Returns false if there is none. */
static bool mem_stats(struct vm *vm, struct virtio_mem_stats *sum)
{
	struct virtio_mem_stats stats[VM_MEM_DEVICES_MAX];
	unsigned int nr = 0;

	for (struct virtio_mem *mem; nr < VM_NODES_MAX && (mem = vm_get_mem_at(vm, nr)); nr++)
		virtio_mem_stats(mem, &stats[nr]);
	for (unsigned int i = 0; vm_mem_device(vm, i); i++)
		if (vm_mem_device(vm, i)->id[0])
			vm_mem_device_stats(vm, i, &stats[nr++]);
	if (nr)
		target_sum_mem(stats, nr, sum);
	return nr != 0;
}

static uint64_t plugged_size(struct vm *vm)
{
	struct virtio_mem_stats stats = { .plugged = 0 };

	mem_stats(vm, &stats);
	return stats.plugged;
}

/* value: the size that the guest shall have. More than its ceiling means the ceiling, as in QEMU.
 */
int vm_cmd_balloon(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct vm_control *control = opaque;
	struct error error = { 0 };
	uint64_t value;

	(void)reply;
	if (qmp_arg_u64(args, "value", &value, err) < 0)
		return -EINVAL;
	if (value == 0)
		return qmp_error_set(err, QMP_GENERIC_ERROR,
				     "parameter 'value' must be greater than 0: it is the memory "
				     "that the guest keeps, in bytes");
	if (vm_set_size(control->vm, value, &error) < 0)
		return qmp_error_from(err, &error);
	return 0;
}

int vm_cmd_query_balloon(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct vm_control *control = opaque;

	(void)args;
	(void)err;
	*reply = json_pack("{s:I}", "actual", (json_int_t)actual_size(control->vm));
	return 0;
}

static json_t *memory_device_json(struct virtio_mem *mem, unsigned int i)
{
	char id[MEM_NAME], memdev[MEM_NAME];
	struct virtio_mem_stats stats;

	snprintf(id, sizeof(id), MEM_ID, i);
	snprintf(memdev, sizeof(memdev), MEM_MEMDEV, i);
	virtio_mem_stats(mem, &stats);
	return json_pack("{s:s,s:{s:s,s:I,s:I,s:I,s:I,s:I,s:i,s:s}}", "type", "virtio-mem", "data",
			 "id", id, "memaddr", (json_int_t)stats.addr, "requested-size",
			 (json_int_t)stats.requested, "size", (json_int_t)stats.plugged, "max-size",
			 (json_int_t)stats.region_size, "block-size", (json_int_t)stats.block_size,
			 "node", (int)stats.node, "memdev", memdev);
}

int vm_cmd_query_memory_devices(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct vm_control *control = opaque;
	struct virtio_mem *mem;

	(void)args;
	(void)err;
	*reply = json_array();
	for (unsigned int i = 0; (mem = vm_get_mem_at(control->vm, i)); i++)
		json_array_append_new(*reply, memory_device_json(mem, i));
	return 0;
}

int vm_cmd_query_memory_size_summary(void *opaque, json_t *args, json_t **reply,
				     struct qmp_error *err)
{
	struct vm_control *control = opaque;

	(void)args;
	(void)err;
	*reply = json_pack("{s:I,s:I}", "base-memory",
			   (json_int_t)vm_get_config(control->vm)->mem_bytes, "plugged-memory",
			   (json_int_t)plugged_size(control->vm));
	return 0;
}

/* Begins a session of free page hints; "balloon.hinting" of query-framevisor-memory says when it
 * has ended. */
int vm_cmd_free_page_hint(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct vm_control *control = opaque;
	struct error error = { 0 };

	(void)args;
	(void)reply;
	if (virtio_balloon_start_hint(vm_get_balloon(control->vm), &error) < 0)
		return qmp_error_from(err, &error);
	return 0;
}

/* frames: how many go, the coldest first; it happens after the reply. */
int vm_cmd_swap_out(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct vm_control *control = opaque;
	uint64_t frames;

	(void)reply;
	if (qmp_arg_u64(args, "frames", &frames, err) < 0)
		return -EINVAL;
	if (vm_memory_swap_out(vm_get_memory(control->vm), frames) < 0)
		return qmp_error_set(err, QMP_GENERIC_ERROR,
				     "this VM has no swap file; start it with 'run --swap'");
	return 0;
}

/* --- query-framevisor-memory --- */

static void set_u64(json_t *object, const char *name, uint64_t value)
{
	json_object_set_new(object, name, json_integer((json_int_t)value));
}

static json_t *frames_json(struct vm *vm)
{
	struct vm_memory_stats stats;
	json_t *frames = json_object();

	vm_memory_stats(vm_get_memory(vm), &stats);
	set_u64(frames, "ram", stats.ram);
	set_u64(frames, "plugged", stats.plugged);
	set_u64(frames, "bound", stats.bound);
	set_u64(frames, "stock", stats.stock);
	set_u64(frames, "released", stats.released);
	set_u64(frames, "faults", stats.faults);
	set_u64(frames, "faults-around", stats.faults_around);
	set_u64(frames, "touched-released", stats.touched_released);
	set_u64(frames, "touched-unplugged", stats.touched_unplugged);
	set_u64(frames, "over-limit", stats.over_limit);
	set_u64(frames, "waits", stats.waits);
	set_u64(frames, "parked", stats.parked);
	set_u64(frames, "unparked", stats.unparked);
	set_u64(frames, "migrated", stats.migrated);
	set_u64(frames, "sampled", stats.sampled);
	return frames;
}

/* null without swap; frames, and bytes where the name says so. */
static json_t *swap_json(struct vm *vm)
{
	struct vm_memory_stats stats;
	json_t *swap;

	vm_memory_stats(vm_get_memory(vm), &stats);
	if (stats.swap_size == 0)
		return json_null();
	swap = json_object();
	set_u64(swap, "size-bytes", stats.swap_size);
	set_u64(swap, "used-bytes", stats.swap_used);
	set_u64(swap, "swapped", stats.swapped);
	set_u64(swap, "zero", stats.swapped_zero);
	set_u64(swap, "out", stats.swap_out);
	set_u64(swap, "out-bytes", stats.swap_out_bytes);
	set_u64(swap, "in", stats.swap_in);
	set_u64(swap, "ahead", stats.swap_ahead);
	set_u64(swap, "dropped", stats.swap_dropped);
	set_u64(swap, "errors", stats.swap_errors);
	return swap;
}

/* Bound frames by how long they have not been touched, as far as sampling knows. */
static json_t *idle_json(struct vm *vm)
{
	struct vm_memory_idle idle;
	json_t *json = json_object(), *ages = json_array();

	vm_memory_idle(vm_get_memory(vm), &idle);
	json_object_set_new(json, "sampling", json_boolean(idle.sampling));
	set_u64(json, "active", idle.active);
	set_u64(json, "inactive", idle.inactive);
	set_u64(json, "cycle-ms", idle.cycle_ms);
	for (unsigned int i = 0; i < VM_MEMORY_IDLE_AGES; i++)
		json_array_append_new(ages, json_pack("{s:I,s:I}", "age-ms",
						      (json_int_t)vm_memory_idle_ages[i], "frames",
						      (json_int_t)idle.idle[i]));
	json_object_set_new(json, "idle", ages);
	return json;
}

static json_t *target_json(struct vm *vm)
{
	struct target_info info;

	vm_size_info(vm, &info);
	return json_pack(
		"{s:I,s:I,s:I,s:I,s:I,s:I,s:s,s:s,s:I,s:I,s:I}", "promised",
		(json_int_t)info.promised, "size", (json_int_t)info.size, "actual",
		(json_int_t)info.actual, "max", (json_int_t)info.max, "tax", (json_int_t)info.tax,
		"stuck", (json_int_t)info.stuck, "state", target_state_names[info.state], "text",
		info.text, "compact-rounds", (json_int_t)info.compact_rounds, "compact-before",
		(json_int_t)info.compact_before, "compact-after", (json_int_t)info.compact_after);
}

/* target and actual are sizes of the boot memory, inflated is what the balloon holds. */
static json_t *balloon_json(struct vm *vm)
{
	uint64_t ram = vm_get_config(vm)->mem_bytes;
	struct virtio_balloon_stats stats;
	json_t *balloon = json_object();

	virtio_balloon_stats(vm_get_balloon(vm), &stats);
	json_object_set_new(balloon, "driver-ready", json_boolean(stats.driver_ready));
	json_object_set_new(balloon, "broken", json_boolean(stats.broken));
	json_object_set_new(balloon, "hinting", json_boolean(stats.hinting));
	set_u64(balloon, "accepted-features", stats.accepted);
	set_u64(balloon, "target", less(ram, stats.target));
	set_u64(balloon, "actual", less(ram, stats.actual));
	set_u64(balloon, "inflated", stats.inflated);
	set_u64(balloon, "frames-released", stats.frames_released);
	set_u64(balloon, "frames-partial", stats.frames_partial);
	set_u64(balloon, "release-errors", stats.release_errors);
	set_u64(balloon, "reported", stats.reported);
	set_u64(balloon, "frames-reported", stats.frames_reported);
	set_u64(balloon, "hinted", stats.hinted);
	set_u64(balloon, "frames-hinted", stats.frames_hinted);
	set_u64(balloon, "held", stats.held);
	return balloon;
}

static json_t *mem_json(struct vm *vm)
{
	struct virtio_mem_stats stats;
	json_t *mem;

	if (!mem_stats(vm, &stats))
		return json_null();
	mem = json_object();
	json_object_set_new(mem, "driver-ready", json_boolean(stats.driver_ready));
	json_object_set_new(mem, "broken", json_boolean(stats.broken));
	set_u64(mem, "address", stats.addr);
	set_u64(mem, "region-size", stats.region_size);
	set_u64(mem, "block-size", stats.block_size);
	set_u64(mem, "requested", stats.requested);
	set_u64(mem, "plugged", stats.plugged);
	set_u64(mem, "busy", stats.busy);
	set_u64(mem, "refused", stats.nacks + stats.errors);
	return mem;
}

static json_t *guest_json(struct vm *vm)
{
	struct virtio_balloon_guest_stats stats;
	json_t *guest, *values;

	virtio_balloon_guest_stats(vm_get_balloon(vm), &stats);
	if (!stats.valid)
		return json_null();
	values = json_object();
	for (unsigned int i = 0; i < BALLOON_STATS; i++)
		if (stats.valid >> i & 1)
			set_u64(values, virtio_balloon_stat_names[i], stats.values[i]);
	guest = json_pack("{s:b,s:o}", "stale", stats.stale, "stats", values);
	set_u64(guest, "age-ms", stats.age_ms);
	return guest;
}

/*
 * Where the VM's memory is. "frames" counts frames of frame-size bytes; "guest" is what the guest
 * says about itself, and how old that is. With refresh it is asked for new numbers, which a later
 * query finds.
 */
int vm_cmd_query_memory(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct vm_control *control = opaque;
	struct vm *vm = control->vm;
	bool refresh = false;

	if (qmp_arg_bool_optional(args, "refresh", &refresh, err) < 0)
		return -EINVAL;
	if (refresh)
		target_refresh_stats(vm_get_target(vm));
	*reply = json_pack("{s:I,s:I,s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "frame-size",
			   (json_int_t)FRAME_SIZE, "memory",
			   (json_int_t)vm_get_config(vm)->mem_bytes, "target", target_json(vm),
			   "frames", frames_json(vm), "balloon", balloon_json(vm), "virtio-mem",
			   mem_json(vm), "guest", guest_json(vm), "nodes",
			   vm_control_nodes_json(vm), "ranges", vm_control_ranges_json(vm));
	json_object_set_new(*reply, "swap", swap_json(vm));
	json_object_set_new(*reply, "idle", idle_json(vm));
	return 0;
}

/* --- events --- */

void vm_control_size_event(struct vm_control *control)
{
	if (vm_get_target(control->vm))
		qmp_server_event_limited(
			control->server, "BALLOON_CHANGE", 0,
			json_pack("{s:I}", "actual", (json_int_t)actual_size(control->vm)));
}

/* For each device, as QEMU's events do: the one that moved is among them. */
void vm_control_mem_event(struct vm_control *control)
{
	struct virtio_mem *mem;

	for (unsigned int i = 0; (mem = vm_get_mem_at(control->vm, i)); i++) {
		char id[MEM_NAME], path[MEM_NAME];
		struct virtio_mem_stats stats;

		snprintf(id, sizeof(id), MEM_ID, i);
		snprintf(path, sizeof(path), MEM_PATH, i);
		virtio_mem_stats(mem, &stats);
		qmp_server_event_limited(control->server, "MEMORY_DEVICE_SIZE_CHANGE", i,
					 json_pack("{s:s,s:I,s:s}", "id", id, "size",
						   (json_int_t)stats.plugged, "qom-path", path));
	}
}
