/* SPDX-License-Identifier: MIT */
/*
 * A machine without KVM for tests of device models: real buses, a real event loop, plain memory as
 * guest RAM, and a struct device_host_ops that counts. The test plays the vCPU: host_in(),
 * host_out(), host_read(), host_write() are its accesses; a write that hits a doorbell becomes an
 * eventfd count, as KVM_IOEVENTFD does it.
 */
#ifndef TESTS_UNIT_DEVICE_HOST_H
#define TESTS_UNIT_DEVICE_HOST_H

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "framevisor/device_table.h"
#include "framevisor/layout.h"
#include "framevisor/log.h"

#define HOST_FRAMES      14
#define HOST_HIGH_RAM    LAYOUT_HIGH_RAM
#define HOST_PLUG_FRAMES 80                                    /* more than one word of a bitmap */
#define HOST_PLUG        (HOST_HIGH_RAM + (UINT64_C(1) << 30)) /* where the memory device is */
#define HOST_ALL_FRAMES  (HOST_FRAMES + HOST_PLUG_FRAMES)
#define HOST_LINES       24
#define HOST_DOORBELLS   16

struct msi_vector {
	uint64_t addr;
	uint32_t data;
	unsigned int nr_set;
	atomic_uint raised;
	bool has_message;
};

struct test_host {
	struct device_host host;
	struct device_host_ops ops;
	struct guest_memory mem;
	struct device_set set;
	uint8_t *ram;     /* as mapped */
	pthread_t thread; /* runs the loop */
	bool threaded;
	pthread_mutex_t lock; /* over doorbells and what frame operations record */
	struct doorbell bells[HOST_DOORBELLS];
	unsigned int nr_bells;
	atomic_bool no_doorbells; /* refuse new ones */
	atomic_uint live_msi;
	atomic_bool lines[HOST_LINES];
	atomic_uint rises[HOST_LINES];
	atomic_uint power_off, power_reset;
	atomic_bool working;   /* between queue_work_begin() and queue_work_end() */
	atomic_uint nr_worked; /* how often */
	atomic_uint balloon_changes, mem_changes, rooms;
	char output[4096];
	size_t output_len;

	uint64_t plugged[(HOST_PLUG_FRAMES + 63) / 64];
	struct virtio_mem_options mem_options;
	bool present[HOST_ALL_FRAMES];
	bool untouched[HOST_ALL_FRAMES]; /* since watch(); a test that touches clears it */
	atomic_uint nr_release, nr_back, nr_taken, nr_watch, nr_plug, nr_unplug;
	uint64_t last_release_nr;
	atomic_bool no_memory;      /* back() and plug() fail */
	atomic_uint back_limit;     /* back() of more frames fails; 0: none */
	atomic_bool release_broken; /* release() and unplug() fail */
};

/* Two adjacent regions below 4 GiB and one above: 8, 2 and 4 frames. */
static const struct {
	uint64_t gpa;
	unsigned int frames;
} host_regions[] = { { 0, 8 }, { 8 * FRAME_SIZE_2M, 2 }, { HOST_HIGH_RAM, 4 } };

static inline unsigned int host_frame(uint64_t gpa)
{
	if (gpa >= HOST_PLUG)
		return (unsigned int)(HOST_FRAMES + (gpa - HOST_PLUG) / FRAME_SIZE);
	return (unsigned int)(gpa >= HOST_HIGH_RAM ? 10 + (gpa - HOST_HIGH_RAM) / FRAME_SIZE
						   : gpa / FRAME_SIZE);
}

static inline void host_bug(const char *what)
{
	fprintf(stderr, "device broke the host's contract: %s\n", what);
	abort();
}

/* ---- device_host_ops ---- */

static inline void th_irq_line(void *machine, unsigned int gsi, bool level)
{
	struct test_host *th = machine;

	if (gsi >= HOST_LINES)
		host_bug("no such line");
	if (level && !th->lines[gsi])
		th->rises[gsi]++;
	th->lines[gsi] = level;
}

static inline struct msi_vector *th_msi_create(void *machine)
{
	struct test_host *th = machine;
	struct msi_vector *vector = calloc(1, sizeof(*vector));

	if (vector)
		th->live_msi++;
	return vector;
}

static inline int th_msi_set(void *machine, struct msi_vector *vector, uint64_t addr, uint32_t data)
{
	(void)machine;
	vector->addr = addr;
	vector->data = data;
	vector->nr_set++;
	vector->has_message = true;
	return 0;
}

/* What a guest would see: one count per message, by data value, in machine order. */
static atomic_uint th_msi_count[256];

static inline void th_msi_raise(void *machine, struct msi_vector *vector)
{
	(void)machine;
	if (!vector->has_message)
		return;
	vector->raised++;
	th_msi_count[vector->data & 0xff]++;
}

static inline void th_msi_destroy(void *machine, struct msi_vector *vector)
{
	struct test_host *th = machine;

	th->live_msi--;
	free(vector);
}

static inline int th_doorbell(void *machine, const struct doorbell *bell, bool assign)
{
	struct test_host *th = machine;
	unsigned int i;
	int ret = 0;

	pthread_mutex_lock(&th->lock);
	for (i = 0; i < th->nr_bells && th->bells[i].addr != bell->addr; i++)
		;
	if (assign && (i < th->nr_bells || th->nr_bells == HOST_DOORBELLS || th->no_doorbells))
		ret = -EEXIST;
	else if (assign)
		th->bells[th->nr_bells++] = *bell;
	else if (i < th->nr_bells && th->bells[i].fd == bell->fd)
		th->bells[i] = th->bells[--th->nr_bells];
	else
		ret = -ENOENT;
	pthread_mutex_unlock(&th->lock);
	return ret;
}

static inline void th_power(void *machine, enum power_request request)
{
	struct test_host *th = machine;

	if (request == POWER_REQUEST_OFF)
		th->power_off++;
	else
		th->power_reset++;
}

static inline bool th_queue_work_begin(void *machine)
{
	struct test_host *th = machine;

	return !atomic_exchange(&th->working, true);
}

static inline void th_queue_work_end(void *machine)
{
	struct test_host *th = machine;

	th->nr_worked++;
	if (!atomic_exchange(&th->working, false))
		host_bug("the end of queue work that did not begin");
}

/* Set before host_create(): a vCPU serves queues whose driver waits, as in a VM. */
static bool host_serves_here;

static const struct device_host_ops th_ops = {
	.irq_line = th_irq_line,
	.msi_create = th_msi_create,
	.msi_set = th_msi_set,
	.msi_raise = th_msi_raise,
	.msi_destroy = th_msi_destroy,
	.doorbell = th_doorbell,
	.power = th_power,
	.queue_work_begin = th_queue_work_begin,
	.queue_work_end = th_queue_work_end,
};

/* ---- guest_frame_ops ---- */

static inline int64_t th_release(void *opaque, uint64_t gpa, uint64_t nr)
{
	struct test_host *th = opaque;
	int64_t taken = 0;

	if (!nr)
		host_bug("release of nothing");
	if (!guest_ptr(&th->mem, gpa, nr * FRAME_SIZE) || !frame_aligned(gpa))
		host_bug("release outside RAM");
	if (th->release_broken)
		return -EIO;
	pthread_mutex_lock(&th->lock);
	for (uint64_t i = 0; i < nr; i++) {
		bool *present = &th->present[host_frame(gpa) + i];

		taken += *present;
		*present = false;
	}
	th->nr_release++;
	th->nr_taken += (unsigned int)taken;
	th->last_release_nr = nr;
	pthread_mutex_unlock(&th->lock);
	return taken;
}

static inline int th_back(void *opaque, uint64_t gpa, uint64_t nr)
{
	struct test_host *th = opaque;
	bool fails = th->no_memory || (th->back_limit && nr > th->back_limit);

	if (!nr || !frame_aligned(gpa) || !guest_ptr(&th->mem, gpa, nr * FRAME_SIZE))
		host_bug("back outside RAM");
	pthread_mutex_lock(&th->lock);
	th->nr_back++;
	if (!fails) {
		for (uint64_t i = 0; i < nr; i++)
			th->present[host_frame(gpa) + i] = true;
	}
	pthread_mutex_unlock(&th->lock);
	return fails ? -ENOMEM : 0;
}

static inline void th_check_blocks(struct test_host *th, uint64_t gpa, uint64_t nr, bool plugged)
{
	if (!nr || !frame_aligned(gpa) || gpa < HOST_PLUG ||
	    gpa + nr * FRAME_SIZE > HOST_PLUG + HOST_PLUG_FRAMES * FRAME_SIZE)
		host_bug("blocks outside the region");
	for (uint64_t i = 0; i < nr; i++) {
		if (guest_frame_valid(&th->mem, gpa + i * FRAME_SIZE) != plugged)
			host_bug("blocks in the wrong state");
	}
}

static inline int th_plug(void *opaque, uint64_t gpa, uint64_t nr)
{
	struct test_host *th = opaque;

	th_check_blocks(th, gpa, nr, false);
	th->nr_plug++;
	if (th->no_memory)
		return -ENOMEM;
	return guest_memory_set_plugged(&th->mem, gpa, nr, true);
}

static inline int th_unplug(void *opaque, uint64_t gpa, uint64_t nr)
{
	struct test_host *th = opaque;

	th_check_blocks(th, gpa, nr, true);
	th->nr_unplug++;
	if (th->release_broken)
		return -EIO;
	guest_memory_set_plugged(&th->mem, gpa, nr, false);
	pthread_mutex_lock(&th->lock);
	for (uint64_t i = 0; i < nr; i++)
		th->present[host_frame(gpa) + i] = false;
	pthread_mutex_unlock(&th->lock);
	return 0;
}

static inline int th_watch(void *opaque, uint64_t gpa, uint64_t nr)
{
	struct test_host *th = opaque;

	pthread_mutex_lock(&th->lock);
	for (uint64_t i = 0; i < nr; i++)
		th->untouched[host_frame(gpa) + i] = true;
	pthread_mutex_unlock(&th->lock);
	th->nr_watch++;
	return th->release_broken ? -EIO : 0;
}

static inline bool th_all_zero(struct test_host *th, uint64_t gpa)
{
	const uint8_t *bytes = guest_ptr(&th->mem, gpa, FRAME_SIZE);

	return !bytes[0] && !memcmp(bytes, bytes + 1, FRAME_SIZE - 1);
}

static inline int64_t th_release_clean(void *opaque, uint64_t gpa, uint64_t nr)
{
	struct test_host *th = opaque;
	int64_t taken = 0;

	if (!nr || !frame_aligned(gpa) || !guest_ptr(&th->mem, gpa, nr * FRAME_SIZE))
		host_bug("release of clean frames outside RAM");
	if (th->release_broken)
		return -EIO;
	pthread_mutex_lock(&th->lock);
	for (uint64_t i = 0; i < nr; i++) {
		unsigned int frame = host_frame(gpa) + (unsigned int)i;

		if (!th->present[frame] ||
		    (!th->untouched[frame] && !th_all_zero(th, gpa + i * FRAME_SIZE)))
			continue;
		th->present[frame] = false;
		taken++;
	}
	pthread_mutex_unlock(&th->lock);
	return taken;
}

static const struct guest_frame_ops th_frame_ops = {
	.release = th_release,
	.release_free = th_release,
	.back = th_back,
	.plug = th_plug,
	.unplug = th_unplug,
	.watch = th_watch,
	.release_clean = th_release_clean,
};

static inline unsigned int host_present(struct test_host *th)
{
	unsigned int n = 0;

	pthread_mutex_lock(&th->lock);
	for (unsigned int i = 0; i < HOST_FRAMES; i++)
		n += th->present[i];
	pthread_mutex_unlock(&th->lock);
	return n;
}

/* ---- Callbacks of devices ---- */

static inline void th_output(void *opaque, const uint8_t *data, size_t len)
{
	struct test_host *th = opaque;

	pthread_mutex_lock(&th->lock);
	for (size_t i = 0; i < len && th->output_len < sizeof(th->output); i++)
		th->output[th->output_len++] = (char)data[i];
	pthread_mutex_unlock(&th->lock);
}

static inline void th_room(void *opaque)
{
	((struct test_host *)opaque)->rooms++;
}

static inline void th_balloon_changed(void *opaque)
{
	((struct test_host *)opaque)->balloon_changes++;
}

static inline void th_mem_changed(void *opaque)
{
	((struct test_host *)opaque)->mem_changes++;
}

/* ---- Life ---- */

static inline void *th_thread(void *opaque)
{
	struct test_host *th = opaque;

	event_loop_run(th->host.loop);
	return NULL;
}

static inline void th_map_ram(struct test_host *th)
{
	size_t size = (HOST_ALL_FRAMES + 1) * FRAME_SIZE;
	uint8_t *next;

	th->ram = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (th->ram == MAP_FAILED)
		host_bug("no memory for the test");
	next = (uint8_t *)(((uintptr_t)th->ram + FRAME_SIZE - 1) & FRAME_MASK);
	for (size_t i = 0; i < sizeof(host_regions) / sizeof(host_regions[0]); i++) {
		if (guest_memory_add_region(&th->mem, host_regions[i].gpa,
					    host_regions[i].frames * FRAME_SIZE, next) < 0)
			host_bug("cannot add a region");
		next += host_regions[i].frames * FRAME_SIZE;
	}
	if (guest_memory_add_pluggable(&th->mem, HOST_PLUG, HOST_PLUG_FRAMES * FRAME_SIZE, next,
				       th->plugged) < 0)
		host_bug("cannot add a pluggable region");
}

/* threaded: the loop runs in a thread of its own, as in a VMM; otherwise the caller runs it. */
static inline struct test_host *host_create(bool threaded)
{
	struct test_host *th = calloc(1, sizeof(*th));
	struct error err = { 0 };

	if (!th)
		host_bug("no memory for the test");
	log_set_level(LOG_LEVEL_ERROR);
	for (unsigned int i = 0; i < 256; i++)
		th_msi_count[i] = 0;
	pthread_mutex_init(&th->lock, NULL);
	th_map_ram(th);
	for (unsigned int i = 0; i < HOST_FRAMES; i++)
		th->present[i] = true;
	th->mem.frame_ops = &th_frame_ops;
	th->mem.frame_opaque = th;
	th->host.mem = &th->mem;
	th->host.loop = event_loop_create();
	th->host.pio = bus_create();
	th->host.mmio = bus_create();
	th->ops = th_ops;
	if (!host_serves_here)
		th->ops.queue_work_begin = NULL;
	th->host.ops = &th->ops;
	th->host.machine = th;
	th->mem_options = (struct virtio_mem_options){ .addr = HOST_PLUG,
						       .region_size = HOST_PLUG_FRAMES * FRAME_SIZE,
						       .has_node = true,
						       .node = 1,
						       .changed = th_mem_changed,
						       .opaque = th };
	th->set = (struct device_set){ .host = &th->host,
				       .serial_output = th_output,
				       .serial_room = th_room,
				       .balloon_changed = th_balloon_changed,
				       .opaque = th,
				       .mem_options = &th->mem_options,
				       .nr_mem_options = 1 };
	if (device_set_create(&th->set, &err) < 0)
		host_bug(err.message);
	th->threaded = threaded;
	if (threaded)
		pthread_create(&th->thread, NULL, th_thread, th);
	return th;
}

static inline void host_destroy(struct test_host *th)
{
	if (th->threaded) {
		event_loop_quit(th->host.loop);
		pthread_join(th->thread, NULL);
	}
	device_set_destroy(&th->set);
	if (th->live_msi || th->nr_bells)
		host_bug("vectors or doorbells left behind");
	event_loop_destroy(th->host.loop);
	bus_destroy(th->host.pio);
	bus_destroy(th->host.mmio);
	munmap(th->ram, (HOST_ALL_FRAMES + 1) * FRAME_SIZE);
	pthread_mutex_destroy(&th->lock);
	free(th);
}

/* ---- Loop ---- */

struct th_call {
	void (*fn)(void *opaque);
	void *opaque;
	sem_t done;
};

static inline void th_run_call(void *opaque)
{
	struct th_call *call = opaque;

	if (call->fn)
		call->fn(call->opaque);
	sem_post(&call->done);
}

/* Runs fn (may be NULL) in the loop's thread and waits for it. */
static inline void host_call(struct test_host *th, void (*fn)(void *opaque), void *opaque)
{
	struct th_call call = { .fn = fn, .opaque = opaque };

	sem_init(&call.done, 0, 0);
	event_loop_post(th->host.loop, th_run_call, &call);
	while (sem_wait(&call.done) < 0 && errno == EINTR)
		;
	sem_destroy(&call.done);
}

/* Everything that was signalled before has been handled, and what that signalled, too. */
static inline void host_sync(struct test_host *th)
{
	for (int i = 0; i < 4; i++)
		host_call(th, NULL, NULL);
}

/* Until the machine was told nr times of something, and whatever else belongs to the same change.
 */
static inline void host_wait_told(struct test_host *th, const atomic_uint *changes, unsigned int nr)
{
	for (unsigned int i = 0; i < 1000 && atomic_load(changes) < nr; i++)
		usleep(10000);
	usleep(20000);
	host_sync(th);
}

/* ---- Accesses ---- */

static inline uint64_t host_in(struct test_host *th, uint64_t port, unsigned int size)
{
	uint64_t value = 0;

	bus_dispatch(th->host.pio, port, &value, size, false);
	return value;
}

static inline void host_out(struct test_host *th, uint64_t port, uint64_t value, unsigned int size)
{
	bus_dispatch(th->host.pio, port, &value, size, true);
}

static inline uint64_t host_read(struct test_host *th, uint64_t addr, unsigned int size)
{
	uint64_t value = 0;

	bus_dispatch(th->host.mmio, addr, &value, size, false);
	return value;
}

static inline bool th_ring_bell(struct test_host *th, uint64_t addr, unsigned int size)
{
	uint64_t one = 1;
	bool rung = false;

	pthread_mutex_lock(&th->lock);
	for (unsigned int i = 0; i < th->nr_bells; i++) {
		if (th->bells[i].addr != addr || (th->bells[i].len && th->bells[i].len != size))
			continue;
		rung = write(th->bells[i].fd, &one, sizeof(one)) == sizeof(one);
	}
	pthread_mutex_unlock(&th->lock);
	return rung;
}

static inline void host_write(struct test_host *th, uint64_t addr, uint64_t value,
			      unsigned int size)
{
	if (!th_ring_bell(th, addr, size))
		bus_dispatch(th->host.mmio, addr, &value, size, true);
}

#endif
