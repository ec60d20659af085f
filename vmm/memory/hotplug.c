/* SPDX-License-Identifier: MIT */
/*
 * Memory that is plugged and unplugged while the guest runs, block by block (a block is a frame).
 *
 * Plugged means: the owner has promised the VM that many frames, KVM has a slot there, a first
 * touch gets a frame. Unplugged means the opposite, but slots come and go in larger pieces, so a
 * guest can reach unplugged frames beside plugged ones, which it has no right to do. Such a touch
 * gets a zeroed frame that counts as one of the VM's: as long as it has not got all it may have,
 * nobody else is the poorer for it. Beyond that it waits, and the user is told
 * (VM_MEMORY_EVENT_OVER_LIMIT). The frame goes back with the slot, at the latest.
 */
#include <errno.h>
#include <string.h>

#include "framevisor/log.h"
#include "vmm/memory/internal.h"

/* How far ahead the owner's promise is asked for, and how much of it is kept after an unplug: a
 * slot's worth, so that a driver that plugs block by block does not ask for each. */
#define LIMIT_STEP SLOT_FRAMES

/* The frames of [gpa, +nr_frames), which must lie in one pluggable range. */
static int pluggable(const struct vm_memory *mem, uint64_t gpa, uint64_t nr_frames, uint32_t *first)
{
	uint32_t nr;
	int ret = window_frames(mem, gpa, nr_frames, first, &nr);

	if (ret)
		return ret;
	return nr == nr_frames && nr > 0 && *first >= mem->nr_boot_frames ? 0 : -EINVAL;
}

/* Frames of [first, +nr) that are plugged. They change under take_lock only, which we hold. */
static uint32_t count_plugged(struct vm_memory *mem, uint32_t first, uint32_t nr)
{
	uint32_t plugged = 0;

	pthread_mutex_lock(&mem->lock);
	for (uint32_t n = first; n < first + nr; n++)
		plugged += !(mem->frames[n].flags & GUEST_FRAME_UNPLUGGED);
	pthread_mutex_unlock(&mem->lock);
	return plugged;
}

/* Marks frames, in our records and in the accessors' view. take_lock held. */
static void set_plugged(struct vm_memory *mem, uint32_t first, uint32_t nr, bool plugged)
{
	pthread_mutex_lock(&mem->lock);
	for (uint32_t n = first; n < first + nr; n++) {
		struct guest_frame *frame = &mem->frames[n];
		struct hotplug_slot *slot = &mem->slots[(n - mem->nr_boot_frames) / SLOT_FRAMES];

		if (plugged != !!(frame->flags & GUEST_FRAME_UNPLUGGED))
			continue;
		frame->flags ^= GUEST_FRAME_UNPLUGGED;
		slot->plugged = (uint16_t)(slot->plugged + (plugged ? 1 : -1));
		stock_count_usable(mem, n, plugged ? 1 : -1);
		if (frame->flags & GUEST_FRAME_RELEASED) {
			frame->flags &= (uint16_t)~RELEASED_FLAGS;
			mem->stats.released--;
		}
	}
	mem->stats.plugged = mem->usable - mem->nr_boot_frames;
	stock_set_size(mem);
	pthread_mutex_unlock(&mem->lock);
	guest_memory_set_plugged(&mem->guest, window_frame_gpa(mem, first), nr, plugged);
}

/* Frames up to the end of the step that has the last of them. */
static uint64_t whole_steps(uint64_t frames)
{
	return frames + LIMIT_STEP - 1 - (frames - 1) % LIMIT_STEP;
}

/* need, and what follows up to the next step. A growth that is under way is asked for by its own
 * number: another one would call it off, and what became of it is said to who asks the same. */
static uint64_t ask_ahead(const struct vm_memory *mem, uint64_t need)
{
	uint64_t ahead = whole_steps(need);

	if (mem->growing && mem->asked >= need)
		return mem->asked;
	return ahead < mem->nr_frames ? ahead : mem->nr_frames;
}

/*
 * Sees to it that the owner has promised need frames; with err, whoever asked is told why not.
 * -EINPROGRESS: the pool grows for it, and what is promised meanwhile is at hand.
 */
static int raise_limit(struct vm_memory *mem, uint64_t need, bool wait, struct error *err)
{
	int (*resize)(struct owner_client * client, uint64_t ram_frames, struct error * err) =
		wait ? owner_client_resize : owner_client_resize_later;
	struct error why = { 0 };
	int ret;

	if (need <= owner_client_limit(mem->client))
		return 0;
	mem->asked = ask_ahead(mem, need);
	ret = resize(mem->client, mem->asked, &why);
	if (ret == -ENOMEM && mem->asked > need) {
		error_clear(&why);
		mem->asked = need;
		ret = resize(mem->client, need, &why);
	}
	mem->growing = ret == -EINPROGRESS;
	/* The pool may have got so far before it was refused more. */
	if (need <= owner_client_limit(mem->client))
		return 0;
	if (mem->growing)
		return ret;
	if (ret && err)
		error_set(err, -ret, "%s", why.message);
	else if (ret && !mem->said_refused)
		log_warn("%s", why.message);
	mem->said_refused = ret != 0;
	return ret;
}

/* Gives up what the owner has promised beyond what is plugged and what is reserved, but for what is
 * kept at hand; and a growth beyond that. */
static void lower_limit(struct vm_memory *mem)
{
	uint64_t limit = owner_client_limit(mem->client), wanted, target, held;

	pthread_mutex_lock(&mem->lock);
	wanted = mem->nr_boot_frames + mem->kept_plugged;
	if (wanted < mem->usable)
		wanted = mem->usable;
	held = mem->stats.bound + stock_frames(mem);
	pthread_mutex_unlock(&mem->lock);
	target = whole_steps(wanted);
	if (target < mem->first_limit)
		target = mem->first_limit;
	if (held > target)
		stock_return_all(mem);
	/* Refused while the guest holds more (frames it touched without having them): then later.
	 */
	if (target < limit || (mem->growing && mem->asked > target)) {
		owner_client_resize(mem->client, target < limit ? target : limit, NULL);
		mem->growing = false;
	}
	stock_bind(mem, NULL, 0, NULL);
}

/* The same for the node that the frames are bound to. */
static int bind_more(struct vm_memory *mem, uint32_t first, uint32_t more)
{
	struct error why = { 0 };
	int ret = stock_bind(mem, stock_of(mem, first), more, &why);

	if (ret && !mem->said_refused)
		log_warn("%s", why.message);
	mem->said_refused = ret != 0;
	if (ret)
		lower_limit(mem);
	return ret;
}

/*
 * A guest may have touched frames of a slot before it plugged them, and been given some. It shall
 * find zeroes in what it plugs: those frames go first.
 */
static int drop_strays(struct vm_memory *mem, uint32_t first, uint32_t nr)
{
	for (uint32_t number = first; number < first + nr; number++) {
		bool stray;

		pthread_mutex_lock(&mem->lock);
		stray = mem->frames[number].state != FRAME_HOLE &&
			(mem->frames[number].flags & GUEST_FRAME_UNPLUGGED);
		pthread_mutex_unlock(&mem->lock);
		if (stray) {
			int64_t taken = takeaway_take(mem, number, 1);

			if (taken < 0)
				return (int)taken;
		}
	}
	return 0;
}

int hotplug_plug(void *opaque, uint64_t gpa, uint64_t nr_frames)
{
	struct vm_memory *mem = opaque;
	uint32_t first, more;
	int ret;

	take_lock(mem);
	ret = pluggable(mem, gpa, nr_frames, &first);
	if (ret == 0) {
		more = (uint32_t)nr_frames - count_plugged(mem, first, (uint32_t)nr_frames);
		ret = raise_limit(mem, (uint64_t)mem->usable + more, false, NULL);
		if (ret == 0)
			ret = bind_more(mem, first, more);
	}
	if (ret == 0) {
		ret = drop_strays(mem, first, (uint32_t)nr_frames);
		if (ret == 0)
			ret = slots_make(mem, first, (uint32_t)nr_frames);
		if (ret)
			lower_limit(mem);
		else
			set_plugged(mem, first, (uint32_t)nr_frames, true);
	}
	take_unlock(mem);
	if (ret == 0)
		fault_kick(mem); /* who was beyond the limit may be within it now */
	return ret;
}

/* Takes plugged pieces of [first, +nr) one after the other; what goes wrong undoes the marks. */
static int unplug_frames(struct vm_memory *mem, uint32_t first, uint32_t nr)
{
	int64_t taken;

	set_plugged(mem, first, nr, false);
	taken = takeaway_take(mem, first, nr);
	if (taken < 0) {
		set_plugged(mem, first, nr, true);
		return (int)taken;
	}
	slots_prune(mem, first, nr);
	lower_limit(mem);
	return 0;
}

int hotplug_unplug(void *opaque, uint64_t gpa, uint64_t nr_frames)
{
	struct vm_memory *mem = opaque;
	uint32_t first;
	int ret;

	take_lock(mem);
	ret = pluggable(mem, gpa, nr_frames, &first);
	if (ret == 0)
		ret = unplug_frames(mem, first, (uint32_t)nr_frames);
	take_unlock(mem);
	return ret;
}

static int reserve(struct vm_memory *mem, uint64_t nr_plugged, bool wait, struct error *err)
{
	int ret;

	if (nr_plugged > mem->nr_frames - mem->nr_boot_frames)
		return error_set(err, EINVAL, "only %u frames can be plugged",
				 mem->nr_frames - mem->nr_boot_frames);
	take_lock(mem);
	ret = raise_limit(mem, mem->nr_boot_frames + nr_plugged, wait, err);
	if (ret == 0 || ret == -EINPROGRESS)
		mem->kept_plugged = nr_plugged;
	take_unlock(mem);
	return ret;
}

int vm_memory_reserve(struct vm_memory *mem, uint64_t nr_plugged, struct error *err)
{
	return reserve(mem, nr_plugged, false, err);
}

int vm_memory_reserve_now(struct vm_memory *mem, uint64_t nr_plugged, struct error *err)
{
	return reserve(mem, nr_plugged, true, err);
}

void vm_memory_unreserve(struct vm_memory *mem, uint64_t nr_plugged)
{
	take_lock(mem);
	if (nr_plugged < mem->kept_plugged)
		mem->kept_plugged = nr_plugged;
	lower_limit(mem);
	take_unlock(mem);
}

uint64_t vm_memory_promised(struct vm_memory *mem)
{
	uint64_t limit = owner_client_limit(mem->client);

	return limit > mem->nr_boot_frames ? limit - mem->nr_boot_frames : 0;
}
