/* SPDX-License-Identifier: MIT */
/*
 * Ports and MMIO: see framevisor/bus.h.
 *
 * The lock covers the sorted array only, never a handler: a dispatch looks its region up, counts
 * itself into the entry, drops the lock and calls the handler with what it copied. So a handler may
 * add and remove regions, its own included. bus_remove() waits until the count is zero, with one
 * exception: inside a handler (of any bus, known by a thread-local depth) it does not wait, because
 * two vCPUs that each move the region in which the other one stands would wait for ever. The entry
 * is the bus's own memory, so a handler that is still on its way back touches nothing of the
 * caller's struct bus_region.
 *
 * Who calls bus_remove() outside a handler holds no lock that the region's handlers take.
 */
#include "framevisor/bus.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct bus_entry {
	uint64_t base;
	uint64_t last; /* inclusive, so that a region may end at 2^64 */
	const struct bus_ops *ops;
	void *opaque;
	const struct bus_region *region; /* identity only */
	unsigned int running;            /* dispatches inside the handler */
	bool removed;                    /* freed by who leaves last */
};

struct bus {
	pthread_mutex_t lock;
	pthread_cond_t idle; /* some entry's running fell to zero after its removal */
	struct bus_entry **entries;
	unsigned int nr, room;
};

/* How many handlers the calling thread is in. */
static _Thread_local unsigned int handler_depth;

struct bus *bus_create(void)
{
	struct bus *bus = calloc(1, sizeof(*bus));

	if (!bus)
		return NULL;
	pthread_mutex_init(&bus->lock, NULL);
	pthread_cond_init(&bus->idle, NULL);
	return bus;
}

void bus_destroy(struct bus *bus)
{
	unsigned int i;

	if (!bus)
		return;
	for (i = 0; i < bus->nr; i++)
		free(bus->entries[i]);
	free(bus->entries);
	pthread_cond_destroy(&bus->idle);
	pthread_mutex_destroy(&bus->lock);
	free(bus);
}

/* The index of the first entry that ends at or after addr. Lock held. */
static unsigned int lower_bound(const struct bus *bus, uint64_t addr)
{
	unsigned int low = 0;
	unsigned int high = bus->nr;

	while (low < high) {
		unsigned int mid = low + (high - low) / 2;

		if (bus->entries[mid]->last < addr)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static int insert(struct bus *bus, unsigned int at, struct bus_entry *entry)
{
	unsigned int i;

	if (bus->nr == bus->room) {
		unsigned int room = bus->room ? bus->room * 2 : 16;
		struct bus_entry **entries = reallocarray(bus->entries, room, sizeof(void *));

		if (!entries)
			return -ENOMEM;
		bus->entries = entries;
		bus->room = room;
	}
	for (i = bus->nr++; i > at; i--)
		bus->entries[i] = bus->entries[i - 1];
	bus->entries[at] = entry;
	return 0;
}

int bus_add(struct bus *bus, struct bus_region *region)
{
	struct bus_entry *entry;
	unsigned int at;
	uint64_t last;
	int ret;

	if (region->size == 0 || __builtin_add_overflow(region->base, region->size - 1, &last))
		return -EINVAL;
	entry = calloc(1, sizeof(*entry));
	if (!entry)
		return -ENOMEM;
	entry->base = region->base;
	entry->last = last;
	entry->ops = region->ops;
	entry->opaque = region->opaque;
	entry->region = region;

	pthread_mutex_lock(&bus->lock);
	at = lower_bound(bus, entry->base);
	if (at < bus->nr && bus->entries[at]->base <= last)
		ret = -EEXIST;
	else
		ret = insert(bus, at, entry);
	pthread_mutex_unlock(&bus->lock);
	if (ret < 0)
		free(entry);
	return ret;
}

void bus_remove(struct bus *bus, struct bus_region *region)
{
	struct bus_entry *entry;
	unsigned int i;

	pthread_mutex_lock(&bus->lock);
	for (i = 0; i < bus->nr && bus->entries[i]->region != region; i++)
		;
	if (i == bus->nr) {
		pthread_mutex_unlock(&bus->lock);
		return;
	}
	entry = bus->entries[i];
	bus->nr--;
	for (; i < bus->nr; i++)
		bus->entries[i] = bus->entries[i + 1];

	if (handler_depth > 0 && entry->running > 0) {
		entry->removed = true; /* leave() frees it */
	} else {
		while (entry->running > 0)
			pthread_cond_wait(&bus->idle, &bus->lock);
		free(entry);
	}
	pthread_mutex_unlock(&bus->lock);
}

/* Finds the entry that holds the whole access and counts the caller in. NULL: nobody does. */
static struct bus_entry *enter(struct bus *bus, uint64_t addr, unsigned int size)
{
	struct bus_entry *entry = NULL;
	unsigned int at;

	pthread_mutex_lock(&bus->lock);
	at = lower_bound(bus, addr);
	if (at < bus->nr && bus->entries[at]->base <= addr &&
	    bus->entries[at]->last - addr >= size - 1) {
		entry = bus->entries[at];
		entry->running++;
	}
	pthread_mutex_unlock(&bus->lock);
	return entry;
}

static void leave(struct bus *bus, struct bus_entry *entry)
{
	pthread_mutex_lock(&bus->lock);
	if (--entry->running == 0) {
		if (entry->removed)
			free(entry);
		else
			pthread_cond_broadcast(&bus->idle);
	}
	pthread_mutex_unlock(&bus->lock);
}

static bool dispatch_one(struct bus *bus, uint64_t addr, uint8_t *data, unsigned int size,
			 bool is_write)
{
	struct bus_entry *entry = enter(bus, addr, size);
	uint64_t value = 0;

	if (!entry) {
		if (!is_write)
			memset(data, 0xff, size);
		return false;
	}
	handler_depth++;
	if (is_write) {
		memcpy(&value, data, size);
		entry->ops->write(entry->opaque, addr - entry->base, value, size);
	} else {
		value = entry->ops->read(entry->opaque, addr - entry->base, size);
		memcpy(data, &value, size);
	}
	handler_depth--;
	leave(bus, entry);
	return true;
}

bool bus_dispatch(struct bus *bus, uint64_t addr, void *data, unsigned int size, bool is_write)
{
	uint8_t *bytes = data;
	bool claimed = size > 0;

	/*
	 * KVM splits an access that crosses a page, so that 3, 5, 6 and 7 bytes occur too. Regions
	 * see powers of two only.
	 */
	while (size > 0) {
		unsigned int piece = size >= 8 ? 8 : size >= 4 ? 4 : size >= 2 ? 2 : 1;

		if (!dispatch_one(bus, addr, bytes, piece, is_write))
			claimed = false;
		addr += piece;
		bytes += piece;
		size -= piece;
	}
	return claimed;
}
