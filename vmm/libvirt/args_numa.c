/* SPDX-License-Identifier: MIT */
/* libvirt's -numa: a guest's nodes and how far apart they are. See args.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/libvirt/args_internal.h"
#include "vmm/libvirt/keyval.h"

/* "0-3", "2": the CPUs of a node. The key comes once for each run of them. */
static int parse_cpus(const char *text, uint64_t *cpus, struct error *err)
{
	unsigned long first, last;
	char *end;

	first = strtoul(text, &end, 10);
	last = *end == '-' ? strtoul(end + 1, &end, 10) : first;
	if (*end || end == text || first > last || last >= 64)
		return error_set(err, EINVAL, "-numa: 'cpus=%.32s' is no range of CPUs", text);
	for (unsigned long cpu = first; cpu <= last; cpu++)
		*cpus |= UINT64_C(1) << cpu;
	return 0;
}

static int parse_cell_word(struct libvirt_cell *cell, const char *word, uint64_t *node,
			   struct error *err)
{
	if (strncmp(word, "nodeid=", 7) == 0) {
		*node = strtoull(word + 7, NULL, 10);
		return *node < LIBVIRT_CELLS_MAX && word[7] >= '0' && word[7] <= '9'
			       ? 0
			       : error_set(err, EINVAL,
					   "-numa: '%.32s' is no node: a guest has at most %d, "
					   "change the number of <cell> in <numa>",
					   word, LIBVIRT_CELLS_MAX);
	}
	if (strncmp(word, "cpus=", 5) == 0)
		return parse_cpus(word + 5, &cell->cpus, err);
	if (strncmp(word, "memdev=", 7) == 0) {
		if (strlen(word + 7) >= sizeof(cell->backend))
			return error_set(err, EINVAL, "-numa: the name of the memory is too long");
		memcpy(cell->backend, word + 7, strlen(word + 7) + 1);
		return 0;
	}
	return error_set(err, ENOTSUP, "-numa: '%.64s' is not supported", word);
}

static int parse_cell(struct libvirt_request *request, char *rest, struct error *err)
{
	struct libvirt_cell cell = { .present = true };
	uint64_t node = request->nr_cells;

	while (rest) {
		int ret = parse_cell_word(&cell, strsep(&rest, ","), &node, err);

		if (ret < 0)
			return ret;
	}
	if (node >= LIBVIRT_CELLS_MAX)
		return error_set(err, ENOTSUP, "-numa: a guest has at most %d nodes",
				 LIBVIRT_CELLS_MAX);
	if (request->cells[node].present)
		return error_set(err, EINVAL, "-numa: node %u is given twice", (unsigned int)node);
	request->cells[node] = cell;
	request->nr_cells++;
	return 0;
}

/* "dist,src=0,dst=1,val=21" */
static int parse_distance(struct libvirt_request *request, const char *value, struct error *err)
{
	uint64_t from = LIBVIRT_CELLS_MAX, to = LIBVIRT_CELLS_MAX, distance = 0;
	json_t *object = keyval_parse(value, "kind", err);
	int ret = object ? 0 : -EINVAL;

	keyval_drop(object, "kind");
	if (ret == 0)
		ret = keyval_take_u64(object, "src", &from, "-numa dist", err);
	if (ret >= 0)
		ret = keyval_take_u64(object, "dst", &to, "-numa dist", err);
	if (ret >= 0)
		ret = keyval_take_u64(object, "val", &distance, "-numa dist", err);
	if (ret >= 0)
		ret = keyval_nothing_left(object, "-numa dist", err);
	json_decref(object);
	if (ret < 0)
		return ret;
	if (from >= LIBVIRT_CELLS_MAX || to >= LIBVIRT_CELLS_MAX || distance < VM_DISTANCE_LOCAL ||
	    distance > VM_DISTANCE_MAX)
		return error_set(err, ENOTSUP,
				 "-numa %.64s: distances are 10 from a node to itself and 11 to "
				 "%d otherwise; change <sibling> in <distances>",
				 value, VM_DISTANCE_MAX);
	request->distance[from][to] = (uint8_t)distance;
	return 0;
}

int libvirt_arg_numa(struct libvirt_request *request, const char *value, struct error *err)
{
	char *text = strdup(value), *rest = text;
	const char *kind;
	int ret;

	if (!text)
		return error_set(err, ENOMEM, "out of memory");
	kind = strsep(&rest, ",");
	if (strcmp(kind, "node") == 0)
		ret = parse_cell(request, rest, err);
	else if (strcmp(kind, "dist") == 0)
		ret = parse_distance(request, value, err);
	else
		ret = error_set(err, ENOTSUP,
				"-numa %.32s: caches and latencies are not supported; leave "
				"<numa> without <interconnects> and <cell> without <cache>",
				kind);
	free(text);
	return ret;
}

int libvirt_numa_distances(struct libvirt_request *request, struct error *err)
{
	struct vm_numa *numa = &request->config.numa;

	for (unsigned int i = 0; i < LIBVIRT_CELLS_MAX; i++) {
		for (unsigned int j = 0; j < LIBVIRT_CELLS_MAX; j++) {
			uint8_t there = request->distance[i][j], back = request->distance[j][i];

			if (there && (i >= numa->nr || j >= numa->nr))
				return error_set(err, EINVAL,
						 "-numa dist: from node %u to node %u, of %u", i, j,
						 numa->nr);
			/* As in QEMU, what is said of one direction is meant of both. */
			numa->distance[i][j] = there    ? there
					       : i == j ? VM_DISTANCE_LOCAL
					       : back   ? back
							: VM_DISTANCE_REMOTE;
		}
	}
	return 0;
}
