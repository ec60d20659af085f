/* SPDX-License-Identifier: MIT */
/*
 * libvirt's -m and -object, and how they and -numa become the memory of a VM: see args.h.
 *
 * Whatever kind of memory the XML asks for, it comes from the pool. <hugepages/> demands that the
 * pool is of hugepages; prealloc is done as it says.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "framevisor/frame.h"
#include "framevisor/size.h"
#include "vmm/libvirt/args_internal.h"
#include "vmm/libvirt/keyval.h"

/* Guest physical addresses for memory that may be attached. */
#define SPARE_SPACE_MAX (UINT64_C(1) << 40)

/* ---- -m ---- */

/* "256" counts MiB; "262144k" carries its unit. libvirt writes both. */
static int take_size(json_t *object, const char *key, uint64_t *bytes, struct error *err)
{
	static const char units[] = "bkmgt";
	char text[32], *end;
	uint64_t value;
	unsigned int shift = 20;
	int ret = keyval_take_string(object, key, text, sizeof(text), "-m", err);

	if (ret <= 0)
		return ret;
	errno = 0;
	value = strtoull(text, &end, 10);
	if (*end && strchr(units, *end | 0x20)) {
		shift = 10 * (unsigned int)(strchr(units, *end | 0x20) - units);
		end++;
	}
	if (errno || end == text || *end || text[0] == '-' || value > UINT64_MAX >> shift)
		return error_set(err, EINVAL, "-m: '%s=%s' is not a size", key, text);
	*bytes = value << shift;
	return 1;
}

int libvirt_arg_m(struct libvirt_request *request, const char *value, struct error *err)
{
	json_t *object = keyval_parse(value, "size", err);
	int ret;

	if (!object)
		return -EINVAL;
	ret = take_size(object, "size", &request->mem_size, err);
	if (ret >= 0)
		ret = take_size(object, "maxmem", &request->mem_ceiling, err);
	if (ret >= 0)
		ret = keyval_take_u64(object, "slots", &request->mem_slots, "-m", err);
	if (ret >= 0)
		ret = keyval_nothing_left(object, "-m", err);
	json_decref(object);
	return ret;
}

/* ---- -object ---- */

static int take_host_nodes(json_t *object, uint64_t *mask, struct error *err)
{
	json_t *nodes = json_object_get(object, "host-nodes"), *node;
	size_t i;

	json_array_foreach(nodes, i, node)
	{
		if (!json_is_integer(node) || json_integer_value(node) < 0 ||
		    json_integer_value(node) > 63)
			return error_set(err, EINVAL,
					 "-object: 'host-nodes' names a node that "
					 "cannot be");
		*mask |= UINT64_C(1) << json_integer_value(node);
	}
	keyval_drop(object, "host-nodes");
	return 0;
}

static int check_kind(json_t *object, const char *type, struct libvirt_backend *backend,
		      struct error *err)
{
	uint64_t page = 0;
	char path[4096] = "";
	int ret = keyval_take_string(object, "mem-path", path, sizeof(path), "-object", err);

	if (ret >= 0)
		ret = keyval_take_bool(object, "hugetlb", &backend->hugepages, "-object", err);
	if (ret >= 0)
		ret = keyval_take_u64(object, "hugetlbsize", &page, "-object", err);
	if (ret < 0)
		return ret;
	if (page && page != FRAME_SIZE)
		return error_set(
			err, ENOTSUP,
			"hugepages of %llu KiB: the pool is made of 2 MiB frames; use <page "
			"size='2' unit='MiB'/>",
			(unsigned long long)(page >> 10));
	if (strcmp(type, "memory-backend-file") != 0)
		return 0;
	/* libvirt makes such a directory in a hugetlbfs; any other file is one that somebody else
	 * may want to open. */
	if (!strstr(path, "/libvirt/qemu/") || strstr(path, "/libvirt/qemu/ram/"))
		return error_set(err, ENOTSUP,
				 "memory in the file '%s' is not possible, it comes from the pool; "
				 "use <source type='memfd'/> or <hugepages/> in <memoryBacking>",
				 path);
	backend->hugepages = true;
	return 0;
}

int libvirt_parse_backend(json_t *object, const char *type, struct libvirt_backend *backend,
			  struct error *err)
{
	const char *what = "-object";
	int ret = keyval_take_string(object, "id", backend->id, sizeof(backend->id), what, err);

	if (ret == 0)
		ret = error_set(err, EINVAL, "-object: 'id' is missing");
	if (ret > 0)
		ret = keyval_take_u64(object, "size", &backend->size, what, err);
	if (ret >= 0)
		ret = keyval_take_bool(object, "prealloc", &backend->prealloc, what, err);
	if (ret >= 0)
		ret = keyval_take_string(object, "policy", backend->policy, sizeof(backend->policy),
					 what, err);
	if (ret >= 0)
		ret = take_host_nodes(object, &backend->host_nodes, err);
	if (ret >= 0)
		ret = check_kind(object, type, backend, err);
	if (ret < 0)
		return ret;
	/* The pool's frames can always be shared, are never merged, and are taken as needed. */
	keyval_drop(object, "share");
	keyval_drop(object, "reserve");
	keyval_drop(object, "merge");
	keyval_drop(object, "dump");
	keyval_drop(object, "prealloc-threads");
	keyval_drop(object, "x-use-canonical-path-for-ramblock-id");
	return keyval_nothing_left(object, type, err);
}

int libvirt_backend_policy(const struct libvirt_backend *backend, enum vm_memory_policy *policy,
			   struct error *err)
{
	static const struct {
		const char *word;
		enum vm_memory_policy policy;
	} table[] = {
		{ "", VM_MEMORY_ANY },
		{ "default", VM_MEMORY_ANY },
		{ "bind", VM_MEMORY_BIND },
		{ "preferred", VM_MEMORY_PREFERRED },
		{ "interleave", VM_MEMORY_INTERLEAVE },
	};

	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		if (strcmp(table[i].word, backend->policy) != 0)
			continue;
		*policy = table[i].policy;
		if ((*policy == VM_MEMORY_ANY) == !backend->host_nodes)
			return 0;
		return error_set(err, EINVAL,
				 "memory '%s': 'policy' and 'host-nodes' go together; give "
				 "<numatune> a mode and a nodeset",
				 backend->id);
	}
	return error_set(err, ENOTSUP,
			 "memory '%s': there is no policy '%s'; use <numatune> with mode "
			 "'strict', 'preferred', 'interleave' or 'restrictive'",
			 backend->id, backend->policy);
}

static int add_object(struct libvirt_request *request, json_t *object, struct error *err)
{
	struct libvirt_backend *backend = &request->backends[request->nr_backends];
	char type[LIBVIRT_ID_MAX] = "";
	int ret = keyval_take_string(object, "qom-type", type, sizeof(type), "-object", err);

	if (ret < 0)
		return ret;
	/* The key of disk passwords: always there, and there are no disks. */
	if (strcmp(type, "secret") == 0)
		return 0;
	if (strncmp(type, "rng-", 4) == 0)
		return libvirt_arg_entropy(request, object, type, err);
	if (strncmp(type, "memory-backend-", 15) != 0)
		return error_set(err, ENOTSUP,
				 "an object of type '%s' has no meaning here; remove what asks for "
				 "it from the domain's XML",
				 type);
	if (request->nr_backends == LIBVIRT_BACKENDS_MAX)
		return error_set(err, E2BIG, "more than %d memory objects", LIBVIRT_BACKENDS_MAX);
	ret = libvirt_parse_backend(object, type, backend, err);
	if (ret == 0)
		request->nr_backends++;
	return ret;
}

int libvirt_arg_object(struct libvirt_request *request, const char *value, struct error *err)
{
	json_t *object = keyval_parse(value, "qom-type", err);
	int ret;

	if (!object)
		return -EINVAL;
	ret = add_object(request, object, err);
	json_decref(object);
	return ret;
}

/* ---- All together ---- */

static struct libvirt_backend *use_backend(struct libvirt_request *request, const char *id,
					   struct error *err)
{
	for (unsigned int i = 0; i < request->nr_backends; i++) {
		struct libvirt_backend *backend = &request->backends[i];

		if (strcmp(backend->id, id) != 0)
			continue;
		if (backend->used) {
			error_set(err, EINVAL, "memory '%s' is used twice", id);
			return NULL;
		}
		backend->used = true;
		if (backend->hugepages)
			request->config.hugepages = HUGEPAGES_REQUIRE;
		return backend;
	}
	error_set(err, EINVAL, "there is no memory '%s'", id);
	return NULL;
}

/* Adds what the memory object of that name means to *node: its size and where it comes from. */
static int use_boot_backend(struct libvirt_request *request, const char *id,
			    struct vm_numa_node *node, struct error *err)
{
	const struct libvirt_backend *backend = use_backend(request, id, err);

	if (!backend)
		return -EINVAL;
	request->config.prealloc |= backend->prealloc;
	node->mem = node->max = backend->size;
	node->host_nodes = backend->host_nodes;
	return libvirt_backend_policy(backend, &node->policy, err);
}

static int use_cells(struct libvirt_request *request, uint64_t *sum, struct error *err)
{
	struct vm_numa *numa = &request->config.numa;

	*sum = 0;
	for (unsigned int i = 0; i < request->nr_cells; i++) {
		int ret;

		if (!request->cells[i].present)
			return error_set(err, EINVAL, "-numa: node %u is missing", i);
		ret = use_boot_backend(request, request->cells[i].backend, &numa->node[i], err);
		if (ret < 0)
			return ret;
		numa->node[i].cpus = request->cells[i].cpus;
		*sum += numa->node[i].mem;
	}
	numa->nr = request->nr_cells;
	return 0;
}

/* Memory without cells. Where <numatune> says where it comes from, it is that of one node. */
static int use_ram(struct libvirt_request *request, uint64_t *sum, struct error *err)
{
	unsigned int cpus = request->config.cpus;
	struct vm_numa_node node = { .cpus = cpus < 64 ? (UINT64_C(1) << cpus) - 1 : UINT64_MAX };
	int ret = use_boot_backend(request, request->ram_backend, &node, err);

	if (ret < 0)
		return ret;
	*sum = node.mem;
	if (node.policy == VM_MEMORY_ANY)
		return 0;
	request->config.numa = (struct vm_numa){ .nr = 1, .node[0] = node };
	return 0;
}

static int boot_memory(struct libvirt_request *request, struct error *err)
{
	struct vm_config *config = &request->config;
	uint64_t sum = request->mem_size;
	int ret = 0;

	config->mem_bytes = request->mem_size;
	config->prealloc = request->mem_lock;
	if (request->nr_cells)
		ret = use_cells(request, &sum, err);
	else if (request->ram_backend[0])
		ret = use_ram(request, &sum, err);
	if (ret == 0)
		ret = libvirt_numa_distances(request, err);
	if (ret == 0 && sum != config->mem_bytes)
		return error_set(err, EINVAL, "-m says %llu bytes, the memory objects %llu",
				 (unsigned long long)config->mem_bytes, (unsigned long long)sum);
	return ret;
}

static unsigned int count_nodes(const struct libvirt_request *request)
{
	return request->nr_cells ? request->nr_cells : 1;
}

static int mem_devices(struct libvirt_request *request, struct error *err)
{
	unsigned int nodes = count_nodes(request);
	int ret;

	for (unsigned int i = 0; i < request->nr_mem; i++) {
		const struct libvirt_mem_device *device = &request->mem_devices[i];
		const struct libvirt_backend *backend = use_backend(request, device->backend, err);

		if (!backend)
			return -EINVAL;
		if (device->node >= nodes)
			return error_set(err, EINVAL,
					 "memory device '%s' is of node %llu, the guest has %u; "
					 "change <node> in its <target>",
					 device->id, (unsigned long long)device->node, nodes);
		request->mem[i] = (struct vm_mem_device){
			.size = backend->size,
			.requested = device->requested,
			.block_size = device->block_size,
			.node = (uint16_t)device->node,
			.host_nodes = backend->host_nodes,
		};
		ret = libvirt_backend_policy(backend, &request->mem[i].policy, err);
		if (ret < 0)
			return ret;
		snprintf(request->mem[i].id, sizeof(request->mem[i].id), "%s", device->id);
	}
	request->config.mem_devices = request->mem;
	request->config.nr_mem_devices = request->nr_mem;
	return 0;
}

/*
 * What can be attached later: a device for each slot that is free, each able to take all of what
 * <maxMemory> leaves, in turn on the guest's nodes. Address space is all that they cost.
 */
static void spare_devices(struct libvirt_request *request)
{
	uint64_t used = request->mem_size, slots = request->mem_slots;
	unsigned int nodes = count_nodes(request), nr = request->nr_mem;

	for (unsigned int i = 0; i < nr; i++)
		used += request->mem[i].size;
	if (request->mem_ceiling < used + FRAME_SIZE)
		return;
	slots = slots > nr ? (slots - nr) * nodes : 0;
	if (slots > SPARE_SPACE_MAX / (request->mem_ceiling - used))
		slots = 1 + SPARE_SPACE_MAX / (request->mem_ceiling - used);
	for (unsigned int i = 0; i < slots && nr < VM_MEM_DEVICES_MAX; i++) {
		const struct vm_numa_node *node = &request->config.numa.node[i % nodes];

		request->mem[nr++] = (struct vm_mem_device){
			.size = frames_to_bytes(bytes_to_frames(request->mem_ceiling - used)),
			.node = (uint16_t)(i % nodes),
			.policy = node->policy,
			.host_nodes = node->host_nodes,
		};
	}
	request->config.mem_devices = request->mem;
	request->config.nr_mem_devices = nr;
}

int libvirt_memory_complete(struct libvirt_request *request, struct error *err)
{
	char text[SIZE_TEXT_MAX];
	int ret;

	if (!request->mem_size)
		return error_set(err, EINVAL, "-m is missing");
	if (!frame_aligned(request->mem_size))
		return error_set(err, EINVAL,
				 "memory of %s is not a multiple of %s, the size of a frame; "
				 "change <memory>",
				 size_format(request->mem_size, text, sizeof(text)),
				 frame_size_name());
	ret = boot_memory(request, err);
	if (ret == 0)
		ret = mem_devices(request, err);
	if (ret == 0)
		spare_devices(request);
	return ret;
}
