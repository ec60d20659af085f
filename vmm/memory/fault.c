/* SPDX-License-Identifier: MIT */
/*
 * The fault thread: answers each first touch of a guest frame with a zeroed frame of the pool.
 *
 * It must never wait for something that may wait for it: it touches no guest memory, allocates
 * nothing, and takes no lock that is held across mremap or an access to the window. A fault that
 * cannot be answered now (the frame is being taken away, an mremap is under way, the pool is empty)
 * goes to the waiting list, which is looked at again after a kick or after some time; the thread
 * that touched stays blocked in the kernel meanwhile.
 */
#include <errno.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "framevisor/clock.h"
#include "framevisor/log.h"
#include "vmm/memory/internal.h"

#define EVENTS_PER_READ 64

/* How long the waiting list is left alone without a kick. */
#define RETRY_MS_MIN 2
#define RETRY_MS_MAX 100

/*
 * How long the thread stays awake for the next fault while they come in quick succession: waking it
 * costs 25 to 45 us, as much again as all it does, and a vCPU that was served needs 25 to 65 us to
 * come back with the next touch. One such span is lost at the end of each succession.
 */
#define SPIN_NS 100000

/* Frames that the fault thread asks for at once beside the neighbours of a touch: the touch waits
 * for it. The loop does the rest. */
#define URGENT_FRAMES (FRAME_SHIFT == FRAME_SHIFT_2M ? 4u : 1u)

void fault_wait_for(struct vm_memory *mem, uint32_t number)
{
	struct guest_frame *frame = &mem->frames[number];

	if (frame->flags & GUEST_FRAME_WAITING)
		return;
	frame->flags |= GUEST_FRAME_WAITING;
	frame->next_waiting = NO_FRAME;
	if (mem->waiting_head == NO_FRAME)
		mem->waiting_head = number;
	else
		mem->frames[mem->waiting_tail].next_waiting = number;
	mem->waiting_tail = number;
}

void fault_note_event(struct vm_memory *mem, enum vm_memory_event event, uint64_t gpa)
{
	if (!mem->event)
		return;
	mem->events_due |= 1U << event;
	mem->event_gpa[event] = gpa;
}

/* A touch of this frame waits because the guest has all that it may have. Lock held. */
static void begin_over_limit(struct vm_memory *mem, uint32_t number)
{
	struct guest_frame *frame = &mem->frames[number];

	/* It is one of the guest's own, and there is room for another one's content. */
	if (frame->state == FRAME_SWAPPED)
		swap_pressure(mem);
	if (frame->flags & GUEST_FRAME_OVER)
		return;
	frame->flags |= GUEST_FRAME_OVER;
	mem->nr_over++;
	mem->stats.over_limit++;
	/* It is not over, as somebody may have been about to be told. */
	mem->events_due &= ~(1U << VM_MEMORY_EVENT_WITHIN_LIMIT);
	fault_note_event(mem, VM_MEMORY_EVENT_OVER_LIMIT, window_frame_gpa(mem, number));
	log_warn("the guest touches a frame beyond what it may have (at 0x%llx): it waits",
		 (unsigned long long)window_frame_gpa(mem, number));
}

/* It does not any more, or for another reason. Lock held. */
static void end_over_limit(struct vm_memory *mem, uint32_t number)
{
	struct guest_frame *frame = &mem->frames[number];

	if (!(frame->flags & GUEST_FRAME_OVER))
		return;
	frame->flags &= (uint16_t)~GUEST_FRAME_OVER;
	if (--mem->nr_over == 0)
		fault_note_event(mem, VM_MEMORY_EVENT_WITHIN_LIMIT, 0);
}

void fault_starve(struct vm_memory *mem, uint32_t number, int reason)
{
	struct guest_frame *frame = &mem->frames[number];
	bool first = !(frame->flags & GUEST_FRAME_STARVED);

	frame->flags |= GUEST_FRAME_STARVED;
	mem->starved += first;
	fault_wait_for(mem, number);
	if (reason == -EDQUOT) {
		begin_over_limit(mem, number);
		return;
	}
	end_over_limit(mem, number);
	swap_pressure(mem);
	mem->stats.waits += first;
	if (atomic_exchange(&mem->said_empty, true))
		return;
	mem->stalled_since_ns = now_ns();
	fault_note_event(mem, VM_MEMORY_EVENT_POOL_EMPTY, window_frame_gpa(mem, number));
	if (reason == -ENOMEM)
		log_warn("the pool is empty: the guest waits until frames are free");
	else
		log_warn("no frames can be had from the pool (%s): the guest waits",
			 strerror(-reason));
}

void fault_count_stall(const struct vm_memory *mem, struct vm_memory_stats *stats)
{
	uint64_t ns;

	if (!atomic_load(&mem->said_empty))
		return;
	ns = now_ns() - mem->stalled_since_ns;
	stats->stall_ns += ns;
	if (ns > stats->stall_max_ns)
		stats->stall_max_ns = ns;
}

void fault_served(struct vm_memory *mem, uint32_t number)
{
	struct guest_frame *frame = &mem->frames[number];

	mem->starved -= (frame->flags & GUEST_FRAME_STARVED) != 0;
	frame->flags &= (uint16_t)~GUEST_FRAME_STARVED;
	end_over_limit(mem, number);
	fault_count_stall(mem, &mem->stats);
	atomic_store(&mem->said_empty, false);
}

/* Takes holes that starve off the waiting list. Lock held. */
static void thin_waiting_list(struct vm_memory *mem)
{
	uint32_t number = mem->waiting_head, next;

	mem->waiting_head = NO_FRAME;
	for (; number != NO_FRAME; number = next) {
		struct guest_frame *frame = &mem->frames[number];

		next = frame->next_waiting;
		frame->flags &= (uint16_t)~GUEST_FRAME_WAITING;
		if (frame->state == FRAME_HOLE && (frame->flags & GUEST_FRAME_STARVED))
			fault_served(mem, number);
		else
			fault_wait_for(mem, number);
	}
}

void vm_memory_forget_waits(struct vm_memory *mem)
{
	pthread_mutex_lock(&mem->lock);
	if (mem->starved)
		thin_waiting_list(mem);
	pthread_mutex_unlock(&mem->lock);
	/* Who waits all the same raises its event anew. */
	for (unsigned int i = 0; mem->uffd >= 0 && i < mem->nr_ranges; i++)
		uffd_wake(mem->uffd, mem->ranges[i].hva, frames_to_bytes(mem->ranges[i].nr_frames));
	stock_wake_loop(mem);
}

bool vm_memory_starves(struct vm_memory *mem)
{
	bool starves;

	pthread_mutex_lock(&mem->lock);
	starves = mem->starved > 0;
	pthread_mutex_unlock(&mem->lock);
	return starves;
}

void fault_report(struct vm_memory *mem)
{
	uint64_t gpa[VM_MEMORY_NR_EVENTS];
	unsigned int due;

	/* All at once: WITHIN_LIMIT must not overtake the OVER_LIMIT that it ends. */
	pthread_mutex_lock(&mem->lock);
	due = mem->events_due;
	mem->events_due = 0;
	memcpy(gpa, mem->event_gpa, sizeof(gpa));
	pthread_mutex_unlock(&mem->lock);
	for (unsigned int event = 0; event < VM_MEMORY_NR_EVENTS; event++)
		if (due >> event & 1)
			mem->event(mem->event_opaque, event, gpa[event]);
}

/* Counts a touch that was answered with a new frame. Lock held. */
static void count_touch(struct vm_memory *mem, uint32_t number, uint16_t flags, uint32_t bound)
{
	mem->stats.faults++;
	mem->stats.faults_around += bound - 1;
	mem->stats.touched_released += (flags & GUEST_FRAME_RELEASED) != 0;
	mem->stats.touched_unplugged += (flags & GUEST_FRAME_UNPLUGGED) != 0;
	fault_served(mem, number);
}

/* Binds a run that was taken from the stock, from first on. Returns its length, or 0 with
 * *ret set if that cannot be; *ret as of bind_from_stock(). Lock held. */
static uint32_t bind_run(struct vm_memory *mem, uint32_t first, const struct frame_run *run,
			 int *ret)
{
	*ret = window_bind(mem, first, run);
	if (*ret) {
		stock_put(stock_of(mem, first), run);
		return 0;
	}
	*ret = window_continue(mem, first, run->nr);
	return run->nr;
}

/* Binds number and what follows it, run by run: the first wakes who waits, and what else there is
 * gets bound meanwhile. Returns how many. Lock held. */
static uint32_t bind_up(struct vm_memory *mem, uint32_t number, uint32_t want, int *ret)
{
	uint32_t bound = 0;
	struct frame_run run;

	while (bound < want && *ret == 0 && stock_take(mem, number + bound, want - bound, &run) > 0)
		bound += bind_run(mem, number + bound, &run, ret);
	return bound;
}

/* Binds what it can of [*first, +want) with one run, and number in any case: a mapping costs as
 * much as a touch. Returns how many, with *first where they begin. Lock held. */
static uint32_t bind_down(struct vm_memory *mem, uint32_t number, uint32_t *first, uint32_t want,
			  int *ret)
{
	uint32_t end = *first + want;
	struct frame_run run;

	if (stock_take(mem, number, want, &run) == 0)
		return 0;
	if (run.nr >= end - number)
		*first = end - run.nr;
	else
		*first = number;
	return bind_run(mem, *first, &run, ret);
}

/*
 * Binds a hole, and the untouched frames beside it as far as that is of use: in one mapping if the
 * stock has them in one run. Lock held. Returns 0, -ENODATA (nothing in the stock for this),
 * -EAGAIN (bound; to be continued later) or an error.
 */
static int bind_from_stock(struct vm_memory *mem, uint32_t number, bool reserve)
{
	uint16_t flags = mem->frames[number].flags;
	uint32_t first, want, bound;
	int ret = 0;

	if (stock_available(stock_of(mem, number), reserve) == 0)
		return -ENODATA;
	want = around_window(mem, number, &first);
	if (first < number)
		bound = bind_down(mem, number, &first, want, &ret);
	else
		bound = bind_up(mem, number, want, &ret);
	if (bound == 0)
		return ret;
	around_bound(mem, first, bound);
	count_touch(mem, number, flags, bound);
	return ret == -EAGAIN ? -EAGAIN : 0;
}

/* Binds a hole with what the stock has or the owner gives. Lock held, but opened in between.
 * Returns as bind_from_stock(), or -ENOMEM, -EDQUOT, -EPIPE: no frame. */
static int bind_hole(struct vm_memory *mem, uint32_t number)
{
	bool reserve = mem->frames[number].flags & GUEST_FRAME_DEVICE;
	struct stock *stock = stock_of(mem, number);
	int ret = bind_from_stock(mem, number, reserve);
	uint32_t urgent;
	int64_t got;

	if (ret != -ENODATA)
		return ret;
	urgent = URGENT_FRAMES;
	if (stock->plenty && FRAME_SHIFT == FRAME_SHIFT_2M)
		urgent += around_wanted(mem, number);
	pthread_mutex_unlock(&mem->lock);
	got = stock_fill(mem, stock, STOCK_RESERVE + urgent, urgent);
	pthread_mutex_lock(&mem->lock);
	/* The lock was open: the frame may be bound by now. What came just now came for this touch,
	 * so the reserve is no reason to let it wait. */
	if (mem->frames[number].state != FRAME_HOLE)
		return 0;
	if (got < 0)
		return (int)got;
	ret = bind_from_stock(mem, number, true);
	return ret == -ENODATA ? -ENOMEM : ret;
}

/* Answers a fault on a frame, or puts it on the waiting list. */
static void serve(struct vm_memory *mem, uint32_t number, bool device)
{
	struct guest_frame *frame = &mem->frames[number];
	bool was_bound;
	int ret = 0;

	pthread_mutex_lock(&mem->lock);
	if (device)
		frame->flags |= GUEST_FRAME_DEVICE;
	was_bound = frame->state == FRAME_BOUND;
	if (frame->state == FRAME_HOLE)
		ret = bind_hole(mem, number);
	else if (frame->state == FRAME_PARKED)
		ret = park_touched(mem, number);
	else if (frame->state == FRAME_SWAPPED || frame->state == FRAME_SWAPPING_IN)
		swap_touched(mem, number);
	if (frame->state == FRAME_BOUND) {
		if (frame->flags & GUEST_FRAME_STARVED) /* somebody else put a frame there */
			fault_served(mem, number);
		frame->flags &= (uint16_t)~GUEST_FRAME_DEVICE;
		/* The frame may have been there before this event was looked at, with its
		 * toucher asleep since. */
		if (was_bound)
			ret = window_continue(mem, number, 1);
		if (ret == -EAGAIN)
			fault_wait_for(mem, number);
	} else if (frame->state == FRAME_HOLE) {
		fault_starve(mem, number, ret);
	} else if (frame->state != FRAME_SWAPPED && frame->state != FRAME_SWAPPING_IN) {
		fault_wait_for(mem, number);
	}
	pthread_mutex_unlock(&mem->lock);
}

/* Tries each waiting frame once; those that still cannot be served queue up again. */
static void serve_waiting(struct vm_memory *mem)
{
	uint32_t number, next;

	pthread_mutex_lock(&mem->lock);
	number = mem->waiting_head;
	mem->waiting_head = NO_FRAME;
	pthread_mutex_unlock(&mem->lock);

	for (; number != NO_FRAME; number = next) {
		pthread_mutex_lock(&mem->lock);
		next = mem->frames[number].next_waiting;
		mem->frames[number].flags &= (uint16_t)~GUEST_FRAME_WAITING;
		pthread_mutex_unlock(&mem->lock);
		serve(mem, number, false);
	}
}

bool vm_memory_queue_work_begin(struct vm_memory *mem)
{
	static _Thread_local pid_t tid;
	int nobody = 0;

	if (!tid)
		tid = gettid();
	return atomic_compare_exchange_strong(&mem->worker_tid, &nobody, tid);
}

void vm_memory_queue_work_end(struct vm_memory *mem)
{
	atomic_store(&mem->worker_tid, 0);
}

/* Whether it is a device that touches, in the loop's thread or in that of a vCPU. 0 stands for
 * nobody. */
static bool from_device(struct vm_memory *mem, uint32_t tid)
{
	return tid != 0 && (tid == (uint32_t)atomic_load(&mem->loop_tid) ||
			    tid == (uint32_t)atomic_load(&mem->worker_tid));
}

/* Reads events until there are none. Returns false if the descriptor is broken. */
static bool read_events(struct vm_memory *mem)
{
	struct uffd_msg msgs[EVENTS_PER_READ];

	for (;;) {
		ssize_t len = read(mem->uffd, msgs, sizeof(msgs));

		if (len < 0 && errno == EINTR)
			continue;
		if (len < 0)
			return errno == EAGAIN;
		for (unsigned int i = 0; i < (size_t)len / sizeof(msgs[0]); i++) {
			uint32_t number;

			/* UFFD_EVENT_REMAP: having read it is all that mremap waits for. */
			if (msgs[i].event != UFFD_EVENT_PAGEFAULT)
				continue;
			number = window_frame_at(mem, msgs[i].arg.pagefault.address);
			if (number != NO_FRAME)
				serve(mem, number,
				      mem->tids &&
					      from_device(mem, msgs[i].arg.pagefault.feat.ptid));
		}
		if ((size_t)len < sizeof(msgs))
			return true;
	}
}

/* How the thread waits: asleep, or awake while faults come in quick succession. */
struct pace {
	uint64_t served; /* ns, when the last events were done with */
	bool quick;      /* they came within SPIN_NS of the ones before */
};

/* Waits for something to do. Returns what poll() does; 0 only when delay_ms (-1: none) is over. */
static int wait_for_events(struct vm_memory *mem, struct pollfd *fds, struct pace *pace,
			   int delay_ms)
{
	while (pace->quick && !atomic_load(&mem->stop)) {
		int ret = poll(fds, 2, 0);

		if (ret != 0)
			return ret;
		pace->quick = now_ns() - pace->served < SPIN_NS;
	}
	return poll(fds, 2, delay_ms);
}

/* Events were there to be read, and are served now. */
static void keep_pace(struct vm_memory *mem, struct pace *pace, uint64_t came, bool spun)
{
	if (spun) {
		pthread_mutex_lock(&mem->lock);
		mem->stats.spins++;
		pthread_mutex_unlock(&mem->lock);
	}
	pace->quick = mem->may_spin && came - pace->served < SPIN_NS;
	pace->served = now_ns();
}

/* When the waiting list is looked at again without a kick. */
struct retry {
	int delay;        /* ms from one time to the next */
	uint64_t next_ms; /* 0: nobody waits */
};

static bool retry_waits(struct vm_memory *mem, struct retry *retry)
{
	bool waiting;

	pthread_mutex_lock(&mem->lock);
	/* One that starves and is not on the list is with the thread that swaps in, which puts it
	 * back when it finds nothing for it either. */
	waiting = mem->waiting_head != NO_FRAME || mem->starved > 0;
	pthread_mutex_unlock(&mem->lock);
	if (!waiting)
		*retry = (struct retry){ .delay = RETRY_MS_MIN };
	else if (!retry->next_ms)
		retry->next_ms = now_ms() + (uint64_t)retry->delay;
	return waiting;
}

static int retry_in_ms(const struct retry *retry)
{
	uint64_t now = now_ms();

	return retry->next_ms > now ? (int)(retry->next_ms - now) : 0;
}

/* The list was looked at. After a kick things may go on quickly. */
static void retry_served(struct retry *retry, bool kicked)
{
	if (kicked)
		retry->delay = RETRY_MS_MIN;
	else if (retry->delay < RETRY_MS_MAX)
		retry->delay *= 2;
	retry->next_ms = now_ms() + (uint64_t)retry->delay;
}

static void *fault_thread(void *opaque)
{
	struct vm_memory *mem = opaque;
	struct pollfd fds[2] = {
		{ .fd = mem->uffd, .events = POLLIN },
		{ .fd = mem->kick_fd, .events = POLLIN },
	};
	struct pace pace = { 0 };
	struct retry retry = { .delay = RETRY_MS_MIN };

	pthread_setname_np(pthread_self(), "fault");
	while (!atomic_load(&mem->stop)) {
		bool waiting = retry_waits(mem, &retry), kicked;
		uint64_t count;
		int ret;

		ret = wait_for_events(mem, fds, &pace, waiting ? retry_in_ms(&retry) : -1);
		if (ret < 0 && errno != EINTR)
			break;
		kicked = ret > 0 && (fds[1].revents & POLLIN) &&
			 read(mem->kick_fd, &count, sizeof(count)) == sizeof(count);
		if (ret > 0 && fds[0].revents) {
			uint64_t came = now_ns();
			bool spun = pace.quick;

			if (!read_events(mem))
				break;
			keep_pace(mem, &pace, came, spun);
		}
		/* Not after every event: a list that waits for the pool would ask it each time. But
		 * when it is time, however many come in between. */
		if (kicked || (waiting && retry_in_ms(&retry) == 0)) {
			serve_waiting(mem);
			retry_served(&retry, kicked);
		}
		stock_wake_loop(mem);
	}
	if (!atomic_load(&mem->stop))
		log_error("the fault thread ended: errno %d; guest memory is served no more",
			  errno);
	return NULL;
}

/* With one CPU, who spins keeps the one it waits for from running. */
static bool may_spin(void)
{
	cpu_set_t cpus;

	return sched_getaffinity(0, sizeof(cpus), &cpus) == 0 && CPU_COUNT(&cpus) > 1;
}

int fault_start(struct vm_memory *mem, struct error *err)
{
	int ret;

	mem->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (mem->kick_fd < 0)
		return error_set_errno(err, errno, "cannot create an eventfd for the fault thread");
	mem->may_spin = may_spin();
	ret = background_thread(&mem->fault_thread, fault_thread, mem);
	if (ret)
		return error_set_errno(err, ret, "cannot create the fault thread");
	mem->fault_thread_runs = true;
	return 0;
}

static void kick(const struct vm_memory *mem)
{
	uint64_t one = 1;

	/* The counter cannot reach its limit: that would take 2^64 kicks that nobody read. */
	if (write(mem->kick_fd, &one, sizeof(one)) < 0 && errno != EAGAIN)
		log_error("cannot wake the fault thread: errno %d", errno);
}

void fault_kick(struct vm_memory *mem)
{
	bool waiting;

	if (!mem->fault_thread_runs)
		return;
	pthread_mutex_lock(&mem->lock);
	waiting = mem->waiting_head != NO_FRAME;
	pthread_mutex_unlock(&mem->lock);
	if (waiting)
		kick(mem);
}

void fault_stop(struct vm_memory *mem)
{
	if (mem->fault_thread_runs) {
		atomic_store(&mem->stop, true);
		kick(mem);
		pthread_join(mem->fault_thread, NULL);
		mem->fault_thread_runs = false;
	}
	if (mem->kick_fd >= 0)
		close(mem->kick_fd);
	mem->kick_fd = -1;
}
