/* SPDX-License-Identifier: MIT */
/*
 * A real framevisord with more promised than it has, and processes that act as VMMs with guests
 * whose load moves. Included by the tests of the balancer only.
 */
#ifndef TESTS_UNIT_OWNER_GUESTS_H
#define TESTS_UNIT_OWNER_GUESTS_H

#include "owner_fixture.h"

#include <sys/epoll.h>

#include <cmocka.h>

#include "framevisor/event_loop.h"
#include "vmm/owner_channel.h"

#define PATIENCE_MS 90000
#define RAM         60
#define MIN         16
#define TICK_MS     10
#define PER_TICK    2

/* What parent and child know of a guest. */
struct guest {
	uint64_t wants; /* the parent's */
	uint64_t uses, bound, tax, waits, least;
	uint32_t paused, ready;
	uint32_t clears;        /* the parent's: it takes one frame more before it gives any */
	uint32_t idle_permille; /* the parent's: what sampling would find */
	uint32_t samples;       /* it was asked for that */
	uint32_t late_ticks;    /* the parent's: how long it takes until it gives anything back */
	uint32_t moves;    /* the parent's: and whether it is seen to do something until then */
	uint32_t rejoined; /* how often */
	uint32_t refuses;  /* the parent's: it cannot be paused */
	uint32_t refused;  /* how often that was said */
	uint32_t works;    /* the parent's: what it has available goes up and down */
	uint32_t churns;   /* the parent's: it gives one frame of what is asked, and takes one */
	uint32_t starves;  /* it was refused a frame */
};

#define get(guest, field)        __atomic_load_n(&(guest)->field, __ATOMIC_SEQ_CST)
#define put(guest, field, value) __atomic_store_n(&(guest)->field, value, __ATOMIC_SEQ_CST)

struct vm {
	struct guest *guest; /* shared */
	pid_t pid;
};

/* --- the child --- */

static struct event_loop *loop;
static struct owner_client *client;
static struct owner_channel *channel;
static struct guest *me;
static struct frame_run frames[RAM]; /* one each */
static bool rejoins;                 /* the parent's: it is there for the next owner, too */
static int listen_fd;

static uint64_t ticks_taxed; /* while it runs */
static unsigned int reports;

static inline uint64_t effective(void)
{
	uint64_t goal = RAM - me->tax;

	return goal > me->uses ? goal : me->uses;
}

static inline int op_nothing(void)
{
	return -EOPNOTSUPP;
}

static inline int op_reclaim(void *opaque, const struct notice_reclaim *reclaim, uint64_t *nr)
{
	(void)opaque;
	(void)reclaim;
	(void)nr;
	return op_nothing();
}

static inline int op_move(void *opaque, const struct notice_move *move, uint64_t *nr)
{
	(void)opaque;
	(void)move;
	(void)nr;
	return op_nothing();
}

static inline int op_target(void *opaque, const struct notice_target *target, uint64_t *nr)
{
	(void)opaque;
	(void)nr;
	put(me, tax, target->tax_frames);
	return target->tax_frames + MIN > RAM ? -EINVAL : 0;
}

static inline int op_pause(void *opaque, const struct notice_pause *pause, uint64_t *nr)
{
	(void)opaque;
	(void)pause;
	(void)nr;
	if (get(me, refuses)) {
		put(me, refused, me->refused + 1);
		return -EAGAIN;
	}
	put(me, paused, 1);
	return 0;
}

static inline int op_resume(void *opaque, const struct notice_resume *resume, uint64_t *nr)
{
	(void)opaque;
	(void)resume;
	(void)nr;
	put(me, paused, 0);
	return 0;
}

static inline int op_limit(void *opaque, const struct notice_limit *limit, uint64_t *nr)
{
	(void)opaque;
	(void)limit;
	(void)nr;
	return 0;
}

static inline void op_pace(void *opaque, const struct notice_ask *ask)
{
	(void)opaque;
	put(me, samples, ask->flags & NOTICE_ASK_IDLE ? 1 : 0);
}

static inline void op_status(void *opaque, struct notice_status *status)
{
	(void)opaque;
	status->flags = NOTICE_STATUS_AVAILABLE |
			(me->paused ? NOTICE_STATUS_PAUSED : NOTICE_STATUS_RUNNING);
	if (me->bound <= RAM - me->tax)
		status->flags |= NOTICE_STATUS_REACHED;
	if (me->starves)
		status->flags |= NOTICE_STATUS_WAITS;
	status->ram = status->max = status->target = RAM;
	status->bound = me->bound;
	status->tax = me->tax;
	status->guest_total = effective();
	status->available = effective() - me->uses;
	if (me->moves && status->available > ticks_taxed / 100)
		status->available -= ticks_taxed / 100;
	if (get(me, works) && status->available && reports++ % 2)
		status->available--;
	status->faults = me->bound;
	status->waits = me->waits;
	if (me->samples) {
		status->flags |= NOTICE_STATUS_IDLE;
		status->idle_permille = get(me, idle_permille);
	}
}

static const struct owner_channel_ops ops = {
	.reclaim = op_reclaim,
	.target = op_target,
	.move = op_move,
	.pause = op_pause,
	.resume = op_resume,
	.limit = op_limit,
	.pace = op_pace,
	.status = op_status,
};

/* A kernel that clears what it gives its balloon: also what has no frame under it. */
static inline bool may_give(void)
{
	unsigned int nr_runs = 1;

	if (!me->tax || !get(me, clears))
		return true;
	/* By then the one who grows has taken all that it is given. */
	if (ticks_taxed < 200 || owner_client_grant(client, 1, 0, &frames[me->bound], &nr_runs) < 0)
		return false;
	put(me, bound, me->bound + 1);
	put(me, clears, 0);
	return true;
}

/* Seen to give something, all the time, and gets nobody ahead. */
static inline void churn(void)
{
	unsigned int nr_runs = 1;

	if (ticks_taxed % 50 == 25 && owner_client_return(client, &frames[me->bound - 1], 1) == 0)
		put(me, bound, me->bound - 1);
	if (ticks_taxed % 50 == 0 &&
	    owner_client_grant(client, 1, 0, &frames[me->bound], &nr_runs) > 0)
		put(me, bound, me->bound + 1);
}

/* What it does not use stays its own (page cache) until its balloon has it. */
static inline void tick(void *opaque)
{
	(void)opaque;
	if (me->paused)
		return;
	if (me->uses > me->wants)
		put(me, uses, me->wants);
	ticks_taxed = me->tax ? ticks_taxed + 1 : 0;
	if (me->tax && get(me, churns)) {
		churn();
		return;
	}
	if (!may_give())
		return;
	for (int i = 0;
	     i < PER_TICK && ticks_taxed >= get(me, late_ticks) && me->bound > effective(); i++) {
		if (owner_client_return(client, &frames[me->bound - 1], 1) < 0)
			_exit(3);
		put(me, bound, me->bound - 1);
	}
	for (int i = 0; i < PER_TICK && me->uses < me->wants && me->uses < effective(); i++) {
		unsigned int nr_runs = 1;

		if (me->uses == me->bound) {
			int64_t got =
				owner_client_grant(client, 1, 0, &frames[me->bound], &nr_runs);

			if (got < 0) {
				put(me, waits, me->waits + 1);
				put(me, starves, 1);
				return;
			}
			put(me, starves, 0);
			put(me, bound, me->bound + 1);
		}
		put(me, uses, me->uses + 1);
	}
}

static inline void on_owner(void *opaque, uint32_t events)
{
	int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);

	(void)opaque;
	(void)events;
	if (owner_client_rejoin(client, fd, frames, (unsigned int)me->bound, NULL) < 0 ||
	    owner_channel_attach(channel, owner_client_notice_fd(client)) < 0)
		_exit(4);
	put(me, rejoined, me->rejoined + 1);
}

static inline void listen_for_owners(const char *name)
{
	char path[RUNDIR_PATH_MAX];

	if (rundir_vm_claim(name, NULL) < 0 || rundir_vm_join(path, name, "owner.sock", NULL) < 0)
		_exit(5);
	listen_fd = rundir_listen(path, SOCK_SEQPACKET, NULL);
	if (!event_loop_add(loop, listen_fd, EPOLLIN, on_owner, NULL))
		_exit(6);
}

static inline void child_main(const char *name, int adj)
{
	struct owner_client_config config = {
		.vm_name = name, .ram_frames = RAM, .min_frames = MIN, .oom_score_adj = adj
	};
	struct error err = { 0 };
	struct event_timer *timer;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	loop = event_loop_create();
	if (rejoins)
		listen_for_owners(name);
	client = owner_client_connect(&config, &err);
	if (!client)
		_exit(1);
	channel = owner_channel_create(loop, owner_client_limits(client), &ops, NULL, &err);
	timer = event_timer_create(loop, tick, NULL);
	if (!channel || !timer || owner_channel_attach(channel, owner_client_notice_fd(client)) < 0)
		_exit(2);
	event_timer_arm(timer, TICK_MS, TICK_MS);
	put(me, ready, 1);
	event_loop_run(loop);
	_exit(0);
}

/* --- the parent --- */

static inline void start_vm(struct vm *vm, const char *name, int adj)
{
	vm->guest = mmap(NULL, sizeof(*vm->guest), PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(vm->guest != MAP_FAILED);
	vm->pid = fork();
	if (vm->pid == 0) {
		me = vm->guest;
		child_main(name, adj);
	}
	for (uint64_t end = now_ms() + PATIENCE_MS; !get(vm->guest, ready);) {
		assert_true(now_ms() < end);
		usleep(2000);
	}
}

static inline void end_vm(struct vm *vm)
{
	kill(vm->pid, SIGKILL);
	assert_int_equal(waitpid(vm->pid, NULL, 0), vm->pid);
	munmap(vm->guest, sizeof(*vm->guest));
}

static inline void setting(const char *name, const char *value)
{
	json_t *reply =
		fixture_qmp("pool-set", json_pack("{s:s, s:s}", "name", name, "value", value));

	assert_non_null(reply);
	json_decref(reply);
}

static inline int64_t counter(const char *name)
{
	json_t *reply = fixture_qmp("query-vmstat", NULL);
	int64_t value;

	assert_true(json_is_integer(json_object_get(reply, name)));
	value = json_integer_value(json_object_get(reply, name));
	json_decref(reply);
	return value;
}

static inline void wait_counter(const char *name, int64_t least)
{
	uint64_t end = now_ms() + PATIENCE_MS;

	while (counter(name) < least) {
		assert_true(now_ms() < end);
		usleep(20000);
	}
}

static inline void wait_uses(struct vm *vm, uint64_t least)
{
	uint64_t end = now_ms() + PATIENCE_MS;

	while (get(vm->guest, uses) < least) {
		if (now_ms() > end)
			fail_msg("uses %llu of %llu, bound %llu, tax %llu",
				 (unsigned long long)get(vm->guest, uses),
				 (unsigned long long)least,
				 (unsigned long long)get(vm->guest, bound),
				 (unsigned long long)get(vm->guest, tax));
		usleep(5000);
	}
}

static inline void start_owner(const char *oom_delay_ms)
{
	/* 128 frames; three guests of 60. */
	static const char *const args[] = { "--pool=256M", "--hugepages=never", NULL };

	fixture_start(args);
	setting("overcommit_memory", "0");
	setting("min_free_kbytes", "4096");
	setting("oom_delay_ms", oom_delay_ms);
}

static inline void end_all(struct vm *vms)
{
	for (int i = 0; i < 3; i++)
		end_vm(&vms[i]);
	assert_true(fixture_wait_held(0) >= 0);
}

#endif
