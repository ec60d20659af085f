/* SPDX-License-Identifier: MIT */
/* The values of run's --numa and --numa-dist: see numa_option.h. */
#include "vmm/cli/numa_option.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "framevisor/frame.h"
#include "framevisor/size.h"

/* One --numa as written. */
struct node_words {
	bool number_given, cpus_given, mem_given, max_given, policy_given;
	unsigned int number;
	struct vm_numa_node node;
};

/* A number below limit; *text is moved behind it. */
static bool take_number(const char **text, unsigned int limit, unsigned int *number)
{
	unsigned int value = 0;

	if (**text < '0' || **text > '9')
		return false;
	for (; **text >= '0' && **text <= '9'; (*text)++) {
		value = value * 10 + (unsigned int)(**text - '0');
		if (value >= limit)
			return false;
	}
	*number = value;
	return true;
}

/* "3" or "0-3", as bits. */
static int parse_list(const char *what, const char *text, uint64_t *mask, struct error *err)
{
	const char *at = text;
	unsigned int first = 0, last;
	bool ok = take_number(&at, 64, &first);

	last = first;
	if (ok && *at == '-') {
		at++;
		ok = take_number(&at, 64, &last);
	}
	if (!ok || *at || last < first)
		return error_set(err, EINVAL, "--numa: %s=%s is no number or range from 0 to 63",
				 what, text);
	for (unsigned int bit = first; bit <= last; bit++) {
		if (*mask >> bit & 1)
			return error_set(err, EINVAL, "--numa: %s=%s: %u is given twice", what,
					 text, bit);
		*mask |= UINT64_C(1) << bit;
	}
	return 0;
}

static int parse_size(const char *what, const char *text, bool *given, uint64_t *size,
		      struct error *err)
{
	struct error cause = { 0 };
	int ret;

	if (*given)
		return error_set(err, EINVAL, "--numa: %s is given twice", what);
	*given = true;
	if (strcmp(text, "0") == 0)
		return 0;
	ret = size_parse(text, size, &cause);
	if (ret < 0)
		return error_set(err, -ret, "--numa: %s: %s", what, cause.message);
	return 0;
}

static int parse_policy(const char *text, struct node_words *words, struct error *err)
{
	static const struct {
		const char *word;
		enum vm_memory_policy policy;
	} table[] = {
		{ "bind", VM_MEMORY_BIND },
		{ "preferred", VM_MEMORY_PREFERRED },
		{ "interleave", VM_MEMORY_INTERLEAVE },
	};

	if (words->policy_given)
		return error_set(err, EINVAL, "--numa: policy is given twice");
	words->policy_given = true;
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		if (strcmp(table[i].word, text) == 0) {
			words->node.policy = table[i].policy;
			return 0;
		}
	}
	return error_set(err, EINVAL, "--numa: policy is bind, preferred or interleave, not '%s'",
			 text);
}

static int parse_number(const char *text, struct node_words *words, struct error *err)
{
	const char *at = text;

	if (words->number_given)
		return error_set(err, EINVAL, "--numa: node is given twice");
	words->number_given = true;
	if (!take_number(&at, VM_NODES_MAX, &words->number) || *at)
		return error_set(err, EINVAL, "--numa: node=%s is no number from 0 to %d", text,
				 VM_NODES_MAX - 1);
	return 0;
}

static int parse_word(char *word, struct node_words *words, struct error *err)
{
	struct vm_numa_node *node = &words->node;
	char *value = strchr(word, '=');

	if (value)
		*value++ = '\0';
	if (!value)
		return error_set(err, EINVAL, "--numa: '%s' has no value; see --help", word);
	if (strcmp(word, "node") == 0)
		return parse_number(value, words, err);
	if (strcmp(word, "mem") == 0)
		return parse_size(word, value, &words->mem_given, &node->mem, err);
	if (strcmp(word, "max") == 0)
		return parse_size(word, value, &words->max_given, &node->max, err);
	if (strcmp(word, "policy") == 0)
		return parse_policy(value, words, err);
	if (strcmp(word, "host-node") == 0)
		return parse_list(word, value, &node->host_nodes, err);
	if (strcmp(word, "cpus") == 0) {
		words->cpus_given = true;
		return parse_list(word, value, &node->cpus, err);
	}
	return error_set(err, EINVAL,
			 "--numa: '%s' is none of node, cpus, mem, max, host-node, policy", word);
}

static int parse_words(const char *text, struct node_words *words, struct error *err)
{
	char *copy = strdup(text), *rest = copy;
	int ret = 0;

	if (!copy)
		return error_set(err, ENOMEM, "out of memory");
	while (rest && ret == 0)
		ret = parse_word(strsep(&rest, ","), words, err);
	free(copy);
	if (ret < 0)
		return ret;
	if (!words->number_given)
		return error_set(err, EINVAL, "--numa %s: which node? Say node=N", text);
	if (words->policy_given && !words->node.host_nodes)
		return error_set(err, EINVAL, "--numa %s: policy= goes with host-node=", text);
	if (words->node.host_nodes && !words->policy_given)
		words->node.policy = VM_MEMORY_BIND;
	return 0;
}

/* What all nodes leave open. */
struct open_words {
	bool cpus, mem, max;
};

/* The n-th of nr parts of bytes, in frames. */
static uint64_t even_part(uint64_t bytes, unsigned int n, unsigned int nr)
{
	uint64_t frames = bytes_to_frames(bytes);

	return frames_to_bytes(frames * (n + 1) / nr - frames * n / nr);
}

static void fill_defaults(struct vm_numa *numa, const struct open_words *open, unsigned int cpus,
			  const struct mem_option *mem)
{
	for (unsigned int cpu = 0; open->cpus && cpu < cpus; cpu++)
		numa->node[(uint64_t)cpu * numa->nr / cpus].cpus |= UINT64_C(1) << cpu;
	for (unsigned int i = 0; i < numa->nr; i++) {
		struct vm_numa_node *node = &numa->node[i];

		if (open->mem)
			node->mem = even_part(mem->boot, i, numa->nr);
		if (open->max)
			node->max = node->mem + even_part(mem->max - mem->boot, i, numa->nr);
		else if (!node->max)
			node->max = node->mem;
	}
}

static int parse_distance(const char *text, struct vm_numa *numa,
			  bool given[VM_NODES_MAX][VM_NODES_MAX], struct error *err)
{
	unsigned int from = 0, to = 0, distance = 0;
	const char *at = text;
	bool ok = take_number(&at, numa->nr, &from) && *at++ == ':' &&
		  take_number(&at, numa->nr, &to) && *at++ == '=' &&
		  take_number(&at, VM_DISTANCE_MAX + 1, &distance) && !*at;

	if (!ok || from == to || distance <= VM_DISTANCE_LOCAL)
		return error_set(
			err, EINVAL,
			"--numa-dist %s is not A:B=DISTANCE with two of the %u nodes and a "
			"distance from 11 to 254",
			text, numa->nr);
	if (given[from][to])
		return error_set(err, EINVAL, "--numa-dist: %u:%u is given twice", from, to);
	given[from][to] = true;
	numa->distance[from][to] = (uint8_t)distance;
	if (!given[to][from])
		numa->distance[to][from] = (uint8_t)distance;
	return 0;
}

static int parse_distances(const struct cli_strings *dists, struct vm_numa *numa, struct error *err)
{
	bool given[VM_NODES_MAX][VM_NODES_MAX] = { { false } };
	int ret = 0;

	for (unsigned int i = 0; i < VM_NODES_MAX; i++)
		for (unsigned int j = 0; j < VM_NODES_MAX; j++)
			numa->distance[i][j] = i == j ? VM_DISTANCE_LOCAL : VM_DISTANCE_REMOTE;
	for (unsigned int i = 0; i < dists->nr && ret == 0; i++)
		ret = parse_distance(dists->value[i], numa, given, err);
	return ret;
}

int numa_option_parse(const struct cli_strings *nodes, const struct cli_strings *dists,
		      unsigned int cpus, const struct mem_option *mem, struct vm_numa *numa,
		      struct error *err)
{
	struct open_words open = { .cpus = true, .mem = true, .max = true };
	bool seen[VM_NODES_MAX] = { false };

	*numa = (struct vm_numa){ .nr = nodes->nr };
	if (!nodes->nr)
		return dists->nr ? error_set(err, EINVAL, "--numa-dist goes with --numa") : 0;
	if (nodes->nr > VM_NODES_MAX)
		return error_set(err, EINVAL, "--numa: a VM has at most %d nodes", VM_NODES_MAX);
	for (unsigned int i = 0; i < nodes->nr; i++) {
		struct node_words words = { .number = 0 };
		int ret = parse_words(nodes->value[i], &words, err);

		if (ret < 0)
			return ret;
		if (words.number >= nodes->nr)
			return error_set(
				err, EINVAL,
				"--numa: node %u of %u nodes; they are numbered from 0 without "
				"gaps",
				words.number, nodes->nr);
		if (seen[words.number])
			return error_set(err, EINVAL, "--numa: node %u is given twice",
					 words.number);
		seen[words.number] = true;
		numa->node[words.number] = words.node;
		open.cpus = open.cpus && !words.cpus_given;
		open.mem = open.mem && !words.mem_given;
		open.max = open.max && !words.max_given;
	}
	fill_defaults(numa, &open, cpus, mem);
	return parse_distances(dists, numa, err);
}
