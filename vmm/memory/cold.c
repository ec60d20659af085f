/* SPDX-License-Identifier: MIT */
/*
 * Cold frames: a few of those longest in use are parked at a time. Who is touched comes back to the
 * head of the active list, who is not stays on the inactive one, and its next touch is noticed
 * without any further cost. So a frame that is cold costs one sample, a hot one a fault each time
 * the sampling comes round.
 */
#include "vmm/memory/internal.h"

/* Measured: with 8 frames per 20 ms a guest that uses all of its memory runs at 0.94 to 0.98 of its
 * speed, with 64 at 0.75 to 0.84. */
#define SAMPLE_FRAMES 8
#define PERIOD_MIN_MS 20
/* When nearly all come back; and once each frame has been looked at where nothing but the idle
 * share is wanted. What is still on the active list then is hot, and only that it is no longer has
 * to be noticed: three samples a second do, of which the first eight tell. */
#define PERIOD_MAX_MS  160
#define PERIOD_SLOW_MS 2560
/* Samples between two looks at how many came back. */
#define JUDGED      32
#define JUDGED_SLOW 8
/* Records looked at under one hold of the lock. */
#define COUNT_STEP 1024

const uint32_t vm_memory_idle_ages[VM_MEMORY_IDLE_AGES] = { 1000, 5000, 30000, 120000, 600000 };

/* A frame was sampled, or there was none to sample. Lock held. */
static void count_sample(struct vm_memory *mem, bool found)
{
	struct cold *cold = &mem->cold;

	mem->stats.sampled += found;
	if (cold->complete || !atomic_load(&cold->on))
		return;
	if (found && --cold->to_go > 0)
		return;
	cold->complete = true;
	cold->complete_at = park_clock();
}

void cold_sample(struct vm_memory *mem, uint32_t nr)
{
	for (; nr > 0; nr--) {
		uint32_t number;

		take_lock_background(mem);
		pthread_mutex_lock(&mem->lock);
		number = mem->lru[LIST_ACTIVE].tail;
		count_sample(mem, number != NO_FRAME);
		pthread_mutex_unlock(&mem->lock);
		if (number != NO_FRAME && park_frames(mem, number, 1, 0) < 0)
			number = NO_FRAME;
		take_unlock(mem);
		if (number == NO_FRAME)
			return;
	}
}

static uint32_t longest_period(const struct vm_memory *mem)
{
	return mem->cold.complete && !mem->swap ? PERIOD_SLOW_MS : PERIOD_MAX_MS;
}

/* Slower when nearly all come back: there is little to find. */
static void adapt(struct vm_memory *mem)
{
	struct cold *cold = &mem->cold;
	uint32_t longest, judged = cold->period > PERIOD_MAX_MS ? JUDGED_SLOW : JUDGED;
	uint64_t sampled, back;

	pthread_mutex_lock(&mem->lock);
	longest = longest_period(mem);
	sampled = mem->stats.sampled - cold->sampled;
	back = mem->stats.unparked - cold->unparked;
	if (sampled >= judged) {
		cold->sampled = mem->stats.sampled;
		cold->unparked = mem->stats.unparked;
	}
	pthread_mutex_unlock(&mem->lock);
	if (cold->period > longest)
		cold->period = longest; /* it begins anew */
	if (sampled < judged)
		return;
	if (8 * back >= 7 * sampled && cold->period < longest)
		cold->period *= 2;
	else if (2 * back < sampled && cold->period > PERIOD_MIN_MS)
		cold->period /= 2;
}

int cold_step(struct vm_memory *mem)
{
	struct cold *cold = &mem->cold;
	int left;

	if (cold->period == 0)
		cold->period = PERIOD_MIN_MS;
	left = (int)(cold->next - park_clock());
	if (left > 0 && left <= PERIOD_SLOW_MS)
		return left;
	cold_sample(mem, SAMPLE_FRAMES);
	adapt(mem);
	cold->next = park_clock() + cold->period;
	return (int)cold->period;
}

void vm_memory_set_sampling(struct vm_memory *mem, bool on)
{
	if (!mem->guest.frame_ops || background_start(mem, NULL) != 0)
		return;
	pthread_mutex_lock(&mem->lock);
	mem->cold.complete = false;
	mem->cold.to_go = mem->lru[LIST_ACTIVE].nr + 1;
	atomic_store(&mem->cold.on, on);
	pthread_mutex_unlock(&mem->lock);
	background_kick(mem);
}

static void count_idle(const struct vm_memory *mem, uint32_t number, uint32_t now,
		       struct vm_memory_idle *idle)
{
	const struct guest_frame *frame = &mem->frames[number];

	if (frame->state == FRAME_BOUND || frame->state == FRAME_TAKING)
		idle->active++;
	if (frame->state != FRAME_PARKED)
		return;
	idle->inactive++;
	for (unsigned int i = 0; i < VM_MEMORY_IDLE_AGES; i++)
		idle->idle[i] += now - frame->parked_at >= vm_memory_idle_ages[i];
}

void vm_memory_idle(struct vm_memory *mem, struct vm_memory_idle *idle)
{
	uint32_t now = park_clock();
	uint32_t period = mem->cold.period ? mem->cold.period : PERIOD_MIN_MS;

	*idle = (struct vm_memory_idle){ .sampling = atomic_load(&mem->cold.on) };
	pthread_mutex_lock(&mem->lock);
	if (mem->cold.complete)
		idle->complete_ms = now - mem->cold.complete_at;
	pthread_mutex_unlock(&mem->lock);
	for (uint32_t number = 0; number < mem->nr_frames;) {
		uint32_t end = number + COUNT_STEP;

		pthread_mutex_lock(&mem->lock);
		for (; number < end && number < mem->nr_frames; number++)
			count_idle(mem, number, now, idle);
		pthread_mutex_unlock(&mem->lock);
	}
	if (idle->sampling)
		idle->cycle_ms = (idle->active + SAMPLE_FRAMES - 1) / SAMPLE_FRAMES * period;
}
