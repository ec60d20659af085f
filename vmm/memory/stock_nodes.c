/* SPDX-License-Identifier: MIT */
/*
 * From which nodes of the pool a range of guest memory gets its frames. Ranges that want the same
 * share a stock. Policies are those of set_mempolicy(2), with a frame as the unit.
 */
#include <errno.h>
#include <stdlib.h>

#include "vmm/memory/internal.h"

/* What is kept of a node by the owner beyond what is needed, so that a driver that plugs block by
 * block does not ask for each. */
#define KEEP_STEP SLOT_FRAMES

static const struct vm_memory_range *range_config(const struct vm_memory_config *config,
						  unsigned int i)
{
	return i < config->nr_ranges ? &config->ranges[i] : &config->hotplug[i - config->nr_ranges];
}

static struct stock *find_stock(struct stocks *stocks, const struct vm_memory_range *range)
{
	for (unsigned int i = 0; i < stocks->nr; i++) {
		struct stock *stock = &stocks->stock[i];

		if (stock->policy == range->policy &&
		    (range->policy == VM_MEMORY_ANY || stock->nodemask == range->nodemask))
			return stock;
	}
	stocks->stock[stocks->nr] =
		(struct stock){ .policy = range->policy, .nodemask = range->nodemask };
	return &stocks->stock[stocks->nr++];
}

static bool nodes_exist(const struct vm_memory *mem, const struct vm_memory_range *range)
{
	unsigned int nr = owner_client_nr_nodes(mem->client);

	if (range->policy == VM_MEMORY_ANY)
		return true;
	return range->nodemask && (nr >= 64 || range->nodemask >> nr == 0);
}

int stock_create(struct vm_memory *mem, const struct vm_memory_config *config, struct error *err)
{
	struct stocks *stocks = &mem->stocks;

	stocks->stock = calloc(mem->nr_ranges, sizeof(*stocks->stock));
	if (!stocks->stock)
		return error_set(err, ENOMEM, "no memory for the stock of frames");
	for (unsigned int i = 0; i < mem->nr_ranges; i++) {
		const struct vm_memory_range *range = range_config(config, i);

		if (!nodes_exist(mem, range))
			return error_set(err, EINVAL,
					 "guest memory range at 0x%llx: the pool has no such node",
					 (unsigned long long)range->gpa);
		mem->ranges[i].stock = find_stock(stocks, range);
	}
	return 0;
}

struct stock *stock_of(const struct vm_memory *mem, uint32_t number)
{
	return window_range_of(mem, number)->stock;
}

void stock_count_usable(struct vm_memory *mem, uint32_t number, int nr)
{
	struct window_range *range = &mem->ranges[window_range_of(mem, number) - mem->ranges];

	mem->usable += (uint32_t)nr;
	range->usable += (uint32_t)nr;
	range->stock->usable += (uint32_t)nr;
}

/* A frame that the owner did not take back must not end under memory that is bound elsewhere. */
struct stock *stock_for_node(struct vm_memory *mem, unsigned int node)
{
	struct stock *other = NULL;

	for (unsigned int i = 0; i < mem->stocks.nr; i++) {
		struct stock *stock = &mem->stocks.stock[i];

		if (stock->policy != VM_MEMORY_ANY && (stock->nodemask >> node & 1))
			return stock;
		if (stock->policy != VM_MEMORY_BIND)
			other = stock;
	}
	return other;
}

/* The n-th node of a mask, from the start again at its end. */
static unsigned int nth_node(uint64_t mask, unsigned int n)
{
	for (n %= (unsigned int)__builtin_popcountll(mask); n > 0; n--)
		mask &= mask - 1;
	return (unsigned int)__builtin_ctzll(mask);
}

unsigned int stock_turn(const struct stock *stock, uint32_t number)
{
	return nth_node(stock->nodemask, number);
}

/* The node of the mask of which the stock has the fewest frames. refill_lock held. */
static unsigned int scarcest_node(struct vm_memory *mem, const struct stock *stock)
{
	uint32_t frames[OWNER_NODES_MAX] = { 0 };
	unsigned int best = nth_node(stock->nodemask, 0);

	pthread_mutex_lock(&mem->lock);
	for (unsigned int i = 0; i < stock->nr_runs; i++)
		frames[stock->runs[i].node] += stock->runs[i].nr;
	pthread_mutex_unlock(&mem->lock);
	for (unsigned int nid = best + 1; nid < OWNER_NODES_MAX; nid++)
		if ((stock->nodemask >> nid & 1) && frames[nid] < frames[best])
			best = nid;
	return best;
}

int64_t stock_grant(struct vm_memory *mem, const struct stock *stock, uint32_t *nr,
		    struct frame_run *runs, unsigned int *nr_runs)
{
	uint64_t masks[3] = { stock->nodemask, 0, 0 };
	unsigned int nr_masks = 0, room = *nr_runs;
	int64_t got = -ENOMEM;

	if (stock->policy == VM_MEMORY_INTERLEAVE) {
		unsigned int nodes = (unsigned int)__builtin_popcountll(stock->nodemask);

		*nr = (*nr + nodes - 1) / nodes;
		masks[nr_masks++] = UINT64_C(1) << scarcest_node(mem, stock);
	}
	if (stock->policy != VM_MEMORY_ANY)
		masks[nr_masks++] = stock->nodemask;
	if (stock->policy != VM_MEMORY_BIND)
		masks[nr_masks++] = 0;
	for (unsigned int i = 0; i < nr_masks && got == -ENOMEM; i++) {
		*nr_runs = room;
		got = owner_client_grant(mem->client, *nr, masks[i], runs, nr_runs);
	}
	return got;
}

/* Frames of a node that bound ranges are to have, if more become usable in one of them. */
static uint64_t bind_demand(const struct vm_memory *mem, unsigned int nid,
			    const struct stock *grows, uint32_t more)
{
	uint64_t demand = 0;

	for (unsigned int i = 0; i < mem->stocks.nr; i++) {
		const struct stock *stock = &mem->stocks.stock[i];
		uint64_t nodes = (uint64_t)__builtin_popcountll(stock->nodemask);
		uint64_t frames = stock->usable + (stock == grows ? more : 0);

		if (stock->policy == VM_MEMORY_BIND && (stock->nodemask >> nid & 1))
			demand += (frames + nodes - 1) / nodes;
	}
	return demand;
}

int stock_bind(struct vm_memory *mem, const struct stock *stock, uint32_t more, struct error *err)
{
	for (unsigned int nid = 0; nid < owner_client_nr_nodes(mem->client); nid++) {
		uint64_t *kept = &mem->stocks.kept[nid];
		uint64_t demand = bind_demand(mem, nid, stock, more);
		uint64_t ahead = (demand + KEEP_STEP - 1) / KEEP_STEP * KEEP_STEP;
		struct error why = { 0 };
		int ret;

		if (demand <= *kept && ahead + KEEP_STEP > *kept)
			continue;
		/* What boots needs no more than it has. */
		if (*kept == 0 || demand < *kept)
			ahead = demand;
		ret = owner_client_bind(mem->client, nid, ahead, &why);
		if (ret == -ENOMEM && ahead > demand) {
			error_clear(&why);
			ahead = demand;
			ret = owner_client_bind(mem->client, nid, ahead, &why);
		}
		if (ret)
			return error_set(err, -ret, "%s", why.message);
		*kept = ahead;
	}
	return 0;
}

void stock_unbind(struct vm_memory *mem)
{
	for (unsigned int nid = 0; nid < OWNER_NODES_MAX; nid++)
		if (mem->stocks.kept[nid])
			owner_client_bind(mem->client, nid, 0, NULL);
}
