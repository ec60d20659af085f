/* SPDX-License-Identifier: MIT */
/*
 * A frame of the running guest moves to another frame of the pool: for a node, for compaction, for
 * memory that is to be taken out of use.
 *
 * The frame is made unreachable, copied past the window, and the new one mapped in its place. When
 * the call that makes it unreachable has returned, no vCPU writes to the old frame any more, and
 * whoever touches it waits until the new one is there, so no write is lost. A new mapping that is
 * not registered yet does no harm: a touch finds the content that it has to find.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "framevisor/clock.h"
#include "framevisor/log.h"
#include "vmm/memory/internal.h"
#include "vmm/memory/move.h"

/* Frames asked of the owner, and given back to it, at a time. */
#define MOVE_STEP    16
#define MOVE_STEP_1G 2
/* Records looked at under one hold of the lock. */
#define SELECT_STEP 512

static bool in_runs(const struct frame_run *runs, unsigned int nr_runs,
		    const struct guest_frame *frame)
{
	for (unsigned int i = 0; i < nr_runs; i++)
		if (runs[i].node == frame->node && frame->pool_frame >= runs[i].first &&
		    frame->pool_frame - runs[i].first < runs[i].nr)
			return true;
	return false;
}

/* Whether a frame is to be moved. Lock held. */
static bool selects(const struct mover *m, uint32_t number)
{
	const struct guest_frame *frame = &m->mem->frames[number];
	const struct vm_memory_move *move = m->move;

	if (!frame_bound(frame))
		return false;
	if (move->nr_from)
		return in_runs(move->from, move->nr_from, frame);
	if (move->of_node && window_range_of(m->mem, number)->node != move->node)
		return false;
	return bytes_to_frames(window_frame_gpa(m->mem, number) - move->gpa) < move->nr_frames &&
	       !(move->nodemask >> frame->node & 1);
}

/* All that are to be moved as of now. */
static int select_frames(struct mover *m)
{
	struct vm_memory *mem = m->mem;

	m->numbers = malloc(mem->nr_frames * sizeof(*m->numbers));
	if (!m->numbers)
		return -ENOMEM;
	for (uint32_t number = 0; number < mem->nr_frames;) {
		uint32_t end = number + SELECT_STEP;

		pthread_mutex_lock(&mem->lock);
		for (; number < end && number < mem->nr_frames; number++)
			if (selects(m, number))
				m->numbers[m->total++] = number;
		pthread_mutex_unlock(&mem->lock);
	}
	return 0;
}

static int return_old(struct mover *m)
{
	int ret = takeaway_return(m->mem, m->old, m->nr_old);

	m->nr_old = 0;
	fault_kick(m->mem); /* who was refused a frame meanwhile may have one now */
	return ret;
}

/* Another one may be moving, and what goes beyond the limit is to do for both. */
static unsigned int move_step(void)
{
	return FRAME_SHIFT == FRAME_SHIFT_1G ? MOVE_STEP_1G : MOVE_STEP;
}

/* Asks the owner for some more. */
static int get_targets(struct mover *m)
{
	uint64_t left = m->total - m->done;
	uint64_t step = move_step();
	unsigned int nr_runs = MOVE_STEP;
	int64_t got = owner_client_grant_to_move(m->mem->client, left < step ? left : step,
						 m->move->nodemask, m->targets, &nr_runs);

	if (got < 0)
		return (int)got;
	for (unsigned int i = 0; i < nr_runs; i++)
		if (!stock_run_valid(m->mem, &m->targets[i]))
			return -EPROTO;
	m->nr_targets = nr_runs;
	return 0;
}

/* The next frame to move to. 0 or a negative errno. */
static int next_target(struct mover *m, struct frame_run *one)
{
	struct frame_run *last;

	if (m->nr_targets == 0) {
		int ret = get_targets(m);

		/* In a pool that is nearly full each frame's old place is the next one's new. */
		if (ret == -ENOMEM && m->nr_old > 0)
			ret = return_old(m) < 0 ? -EPIPE : get_targets(m);
		if (ret)
			return ret;
	}
	last = &m->targets[m->nr_targets - 1];
	*one = (struct frame_run){ .first = last->first, .nr = 1, .node = last->node };
	last->first++;
	if (--last->nr == 0)
		m->nr_targets--;
	return 0;
}

/* Puts back what next_target() gave last. */
static void keep_target(struct mover *m, const struct frame_run *one)
{
	m->targets[m->nr_targets++] = *one;
}

static int copy(struct vm_memory *mem, const struct frame_run *from, const struct frame_run *to)
{
	void *src = window_view(mem, from, PROT_READ);
	void *dst = src ? window_view(mem, to, PROT_READ | PROT_WRITE) : NULL;
	int ret = dst ? 0 : -errno;

	if (dst) {
		frame_data_copy(dst, src);
		window_view_end(mem, dst, to);
	}
	if (src)
		window_view_end(mem, src, from);
	return ret;
}

/* Makes a TAKING frame unreachable, if it is not. take_lock held. */
static int hide(struct vm_memory *mem, uint32_t number)
{
	struct guest_frame *frame = &mem->frames[number];
	bool hidden, detach;
	int ret;

	pthread_mutex_lock(&mem->lock);
	hidden = frame->flags & GUEST_FRAME_DETACHED;
	detach = park_must_detach(mem, frame);
	pthread_mutex_unlock(&mem->lock);
	if (hidden)
		return 0;
	ret = park_zap(mem, number, 1, detach);
	if (ret == 0 && detach) {
		pthread_mutex_lock(&mem->lock);
		frame->flags |= GUEST_FRAME_DETACHED;
		pthread_mutex_unlock(&mem->lock);
	}
	return ret;
}

/* The frame is in its new place (or, with an error, where it was), for everybody to touch. */
static int show(struct vm_memory *mem, uint32_t number, const struct frame_run *to, int ret,
		uint64_t since)
{
	uint64_t out_of_reach;

	pthread_mutex_lock(&mem->lock);
	if (ret == 0) {
		window_count_bound(mem, number, -1); /* binding counts it again */
		ret = window_bind(mem, number, to);
		if (ret)
			window_count_bound(mem, number, 1);
	}
	if (ret)
		park_undo(mem, number);
	else
		mem->stats.migrated++;
	if (mem->frames[number].state == FRAME_BOUND && window_continue(mem, number, 1) == -EAGAIN)
		fault_wait_for(mem, number);
	out_of_reach = now_ns() - since;
	if (out_of_reach > mem->stats.migrate_max_ns)
		mem->stats.migrate_max_ns = out_of_reach;
	pthread_mutex_unlock(&mem->lock);
	fault_kick(mem);
	return ret;
}

/* Returns 1, 0 if the frame is none to be moved any more, or a negative errno: it is where it was.
 * take_lock held. */
static int move_frame(struct mover *m, uint32_t number)
{
	struct vm_memory *mem = m->mem;
	struct frame_run from, to;
	uint64_t since;
	bool wanted;
	int ret = next_target(m, &to);

	if (ret)
		return ret;
	pthread_mutex_lock(&mem->lock);
	wanted = selects(m, number);
	if (wanted) {
		from = frame_run_of(&mem->frames[number]);
		park_take(mem, number);
	}
	pthread_mutex_unlock(&mem->lock);
	if (!wanted) {
		keep_target(m, &to);
		return 0;
	}
	since = now_ns();
	ret = hide(mem, number);
	if (ret == 0)
		ret = copy(mem, &from, &to);
	ret = show(mem, number, &to, ret, since);
	/* A frame that was copied to and is not used holds what the guest has: the owner zeroes. */
	m->old[m->nr_old++] = ret ? to : from;
	return ret ? ret : 1;
}

static int move_all(struct mover *m)
{
	int ret = 0;

	while (m->done < m->total && ret >= 0) {
		if (m->move->progress && !m->move->progress(m->move->opaque, m->done, m->total))
			return -ECANCELED;
		take_lock_background(m->mem);
		ret = move_frame(m, m->numbers[m->done]);
		take_unlock(m->mem);
		m->moved += ret > 0;
		m->done += ret >= 0;
		if (m->nr_old >= move_step() && return_old(m) < 0)
			return -EPIPE;
	}
	if (ret >= 0 && m->move->progress)
		m->move->progress(m->move->opaque, m->done, m->total);
	return ret < 0 ? ret : 0;
}

int mover_run(struct mover *m)
{
	struct frame_run targets[MOVE_STEP], old[MOVE_STEP];
	int ret = -ENOTSUP, back;

	m->targets = targets;
	m->old = old;
	pthread_rwlock_rdlock(&m->mem->hand_lock);
	if (m->mem->guest.frame_ops)
		ret = select_frames(m);
	/* Frames of the stock may be among those that are to go. */
	if (ret == 0 && m->move->nr_from)
		stock_return_all(m->mem);
	if (ret == 0)
		ret = move_all(m);
	back = return_old(m);
	takeaway_return(m->mem, m->targets, m->nr_targets);
	pthread_rwlock_unlock(&m->mem->hand_lock);
	free(m->numbers);
	m->targets = NULL;
	m->numbers = NULL;
	m->old = NULL;
	return ret ? ret : back;
}

int mover_error(const struct mover *m, int ret, struct error *err)
{
	switch (ret) {
	case -ENOTSUP:
		return error_set(err, ENOTSUP,
				 "frames of this VM cannot be moved: that needs a userfaultfd that "
				 "serves KVM and follows mremap");
	case -ENOMEM:
		return error_set(err, ENOMEM,
				 "%llu of %llu frames (%s) moved: the pool has no more free "
				 "frames there",
				 (unsigned long long)m->moved, (unsigned long long)m->total,
				 frame_size_name());
	case -ECANCELED:
		return error_set(err, ECANCELED, "stopped after %llu of %llu frames (%s)",
				 (unsigned long long)m->moved, (unsigned long long)m->total,
				 frame_size_name());
	default:
		return error_set_errno(err, -ret, "moved %llu of %llu frames (%s)",
				       (unsigned long long)m->moved, (unsigned long long)m->total,
				       frame_size_name());
	}
}

int64_t vm_memory_move_frames(struct vm_memory *mem, const struct vm_memory_move *move,
			      struct error *err)
{
	struct mover m = { .mem = mem, .move = move };
	int ret = mover_run(&m);

	if (ret == 0 || (ret == -ENOMEM && m.moved > 0))
		return (int64_t)m.moved;
	return mover_error(&m, ret, err);
}
