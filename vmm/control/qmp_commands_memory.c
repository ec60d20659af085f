/* SPDX-License-Identifier: MIT */
/*
 * The QMP commands and events about a VM's memory. A guest's size here is what it has in all: its
 * boot memory and what is plugged, without what is in the balloon.
 */
#include <errno.h>

#include "framevisor/frame.h"
#include "vmm/control/vm_control_internal.h"
#include "vmm/target.h"

/* The one memory device, as QEMU's tools would find it. */
#define MEM_ID     "mem0"
#define MEM_PATH   "/machine/peripheral/" MEM_ID
#define MEM_MEMDEV "/objects/ram-" MEM_ID

static uint64_t less(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

static uint64_t actual_size(struct vm *vm)
{
	struct target_info info;

	target_info(vm_get_target(vm), &info);
	return info.actual;
}

static uint64_t plugged_size(struct vm *vm)
{
	struct virtio_mem_stats stats = { .plugged = 0 };

	if (vm_get_mem(vm))
		virtio_mem_stats(vm_get_mem(vm), &stats);
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
	if (target_set(vm_get_target(control->vm), value, &error) < 0)
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

int vm_cmd_query_memory_devices(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct vm_control *control = opaque;
	struct virtio_mem *mem = vm_get_mem(control->vm);
	struct virtio_mem_stats stats;

	(void)args;
	(void)err;
	*reply = json_array();
	if (!mem)
		return 0;
	virtio_mem_stats(mem, &stats);
	json_array_append_new(
		*reply,
		json_pack("{s:s,s:{s:s,s:I,s:I,s:I,s:I,s:I,s:i,s:s}}", "type", "virtio-mem", "data",
			  "id", MEM_ID, "memaddr", (json_int_t)stats.addr, "requested-size",
			  (json_int_t)stats.requested, "size", (json_int_t)stats.plugged,
			  "max-size", (json_int_t)stats.region_size, "block-size",
			  (json_int_t)stats.block_size, "node", 0, "memdev", MEM_MEMDEV));
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
	return frames;
}

static json_t *target_json(struct vm *vm)
{
	struct target_info info;

	target_info(vm_get_target(vm), &info);
	return json_pack("{s:I,s:I,s:I,s:s,s:s}", "size", (json_int_t)info.size, "actual",
			 (json_int_t)info.actual, "max", (json_int_t)info.max, "state",
			 target_state_names[info.state], "text", target_state_texts[info.state]);
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
	return balloon;
}

static json_t *mem_json(struct vm *vm)
{
	struct virtio_mem_stats stats;
	json_t *mem;

	if (!vm_get_mem(vm))
		return json_null();
	mem = json_object();
	virtio_mem_stats(vm_get_mem(vm), &stats);
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
	*reply = json_pack("{s:I,s:I,s:o,s:o,s:o,s:o,s:o}", "frame-size", (json_int_t)FRAME_SIZE,
			   "memory", (json_int_t)vm_get_config(vm)->mem_bytes, "target",
			   target_json(vm), "frames", frames_json(vm), "balloon", balloon_json(vm),
			   "virtio-mem", mem_json(vm), "guest", guest_json(vm));
	return 0;
}

/* --- events --- */

void vm_control_size_event(struct vm_control *control)
{
	if (vm_get_target(control->vm))
		qmp_server_event_limited(
			control->server, "BALLOON_CHANGE",
			json_pack("{s:I}", "actual", (json_int_t)actual_size(control->vm)));
}

void vm_control_mem_event(struct vm_control *control)
{
	qmp_server_event_limited(control->server, "MEMORY_DEVICE_SIZE_CHANGE",
				 json_pack("{s:s,s:I,s:s}", "id", MEM_ID, "size",
					   (json_int_t)plugged_size(control->vm), "qom-path",
					   MEM_PATH));
}
