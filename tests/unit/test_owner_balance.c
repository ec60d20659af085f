/* SPDX-License-Identifier: MIT */
/*
 * A real framevisord with more promised than it has, and processes that act as VMMs with guests
 * whose load moves: memory goes to who needs it, nobody falls below its minimum, and when there is
 * none left the OOM policy stops or kills one, which goes on when there is some again.
 */
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

static uint64_t effective(void)
{
	uint64_t goal = RAM - me->tax;

	return goal > me->uses ? goal : me->uses;
}

static int op_nothing(void)
{
	return -EOPNOTSUPP;
}

static int op_reclaim(void *opaque, const struct notice_reclaim *reclaim, uint64_t *nr)
{
	(void)opaque;
	(void)reclaim;
	(void)nr;
	return op_nothing();
}

static int op_move(void *opaque, const struct notice_move *move, uint64_t *nr)
{
	(void)opaque;
	(void)move;
	(void)nr;
	return op_nothing();
}

static int op_target(void *opaque, const struct notice_target *target, uint64_t *nr)
{
	(void)opaque;
	(void)nr;
	put(me, tax, target->tax_frames);
	return target->tax_frames + MIN > RAM ? -EINVAL : 0;
}

static int op_pause(void *opaque, const struct notice_pause *pause, uint64_t *nr)
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

static int op_resume(void *opaque, const struct notice_resume *resume, uint64_t *nr)
{
	(void)opaque;
	(void)resume;
	(void)nr;
	put(me, paused, 0);
	return 0;
}

static int op_limit(void *opaque, const struct notice_limit *limit, uint64_t *nr)
{
	(void)opaque;
	(void)limit;
	(void)nr;
	return 0;
}

static void op_pace(void *opaque, const struct notice_ask *ask)
{
	(void)opaque;
	put(me, samples, ask->flags & NOTICE_ASK_IDLE ? 1 : 0);
}

static void op_status(void *opaque, struct notice_status *status)
{
	(void)opaque;
	status->flags = NOTICE_STATUS_AVAILABLE |
			(me->paused ? NOTICE_STATUS_PAUSED : NOTICE_STATUS_RUNNING);
	if (me->bound <= RAM - me->tax)
		status->flags |= NOTICE_STATUS_REACHED;
	status->ram = status->max = status->target = RAM;
	status->bound = me->bound;
	status->tax = me->tax;
	status->guest_total = effective();
	status->available = effective() - me->uses;
	if (me->moves && status->available > ticks_taxed / 100)
		status->available -= ticks_taxed / 100;
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
static bool may_give(void)
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

/* What it does not use stays its own (page cache) until its balloon has it. */
static void tick(void *opaque)
{
	(void)opaque;
	if (me->paused)
		return;
	if (me->uses > me->wants)
		put(me, uses, me->wants);
	ticks_taxed = me->tax ? ticks_taxed + 1 : 0;
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
				return;
			}
			put(me, bound, me->bound + 1);
		}
		put(me, uses, me->uses + 1);
	}
}

static void on_owner(void *opaque, uint32_t events)
{
	int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);

	(void)opaque;
	(void)events;
	if (owner_client_rejoin(client, fd, frames, (unsigned int)me->bound, NULL) < 0 ||
	    owner_channel_attach(channel, owner_client_notice_fd(client)) < 0)
		_exit(4);
	put(me, rejoined, me->rejoined + 1);
}

static void listen_for_owners(const char *name)
{
	char path[RUNDIR_PATH_MAX];

	if (rundir_vm_claim(name, NULL) < 0 || rundir_vm_join(path, name, "owner.sock", NULL) < 0)
		_exit(5);
	listen_fd = rundir_listen(path, SOCK_SEQPACKET, NULL);
	if (!event_loop_add(loop, listen_fd, EPOLLIN, on_owner, NULL))
		_exit(6);
}

static void child_main(const char *name, int adj)
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

static void start_vm(struct vm *vm, const char *name, int adj)
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

static void end_vm(struct vm *vm)
{
	kill(vm->pid, SIGKILL);
	assert_int_equal(waitpid(vm->pid, NULL, 0), vm->pid);
	munmap(vm->guest, sizeof(*vm->guest));
}

static void setting(const char *name, const char *value)
{
	json_t *reply =
		fixture_qmp("pool-set", json_pack("{s:s, s:s}", "name", name, "value", value));

	assert_non_null(reply);
	json_decref(reply);
}

static int64_t counter(const char *name)
{
	json_t *reply = fixture_qmp("query-vmstat", NULL);
	int64_t value;

	assert_true(json_is_integer(json_object_get(reply, name)));
	value = json_integer_value(json_object_get(reply, name));
	json_decref(reply);
	return value;
}

static void wait_counter(const char *name, int64_t least)
{
	uint64_t end = now_ms() + PATIENCE_MS;

	while (counter(name) < least) {
		assert_true(now_ms() < end);
		usleep(20000);
	}
}

static void wait_uses(struct vm *vm, uint64_t least)
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

static void start_owner(const char *oom_delay_ms)
{
	/* 128 frames; three guests of 60. */
	static const char *const args[] = { "--pool=256M", "--hugepages=never", NULL };

	fixture_start(args);
	setting("overcommit_memory", "0");
	setting("min_free_kbytes", "4096");
	setting("oom_delay_ms", oom_delay_ms);
}

static void test_load_moves(void **state)
{
	struct vm vms[3];

	(void)state;
	start_owner("20000"); /* on a busy machine a child may not run for seconds */
	for (int i = 0; i < 3; i++)
		start_vm(&vms[i], (const char *[]){ "a", "b", "c" }[i], 0);
	for (int phase = 0; phase < 6; phase++) {
		int busy = phase % 3;

		for (int i = 0; i < 3; i++)
			put(vms[i].guest, wants, i == busy ? 56 : 20);
		wait_uses(&vms[busy], 56);
		for (int i = 0; i < 3; i++) {
			wait_uses(&vms[i], 20);
			assert_true(get(vms[i].guest, tax) + MIN <= RAM);
		}
		fixture_validate();
	}
	assert_true(counter("tax_steps") > 0);
	assert_true(counter("pgsteal_kswapd") + counter("pgsteal_direct") > 0);
	wait_counter("reclaim_episodes", 1);
	assert_int_equal(counter("oom_pause"), 0);
	/* The pressure is over: what was taken is given back. */
	for (int i = 0; i < 2; i++)
		end_vm(&vms[i]);
	put(vms[2].guest, wants, 20);
	for (uint64_t end = now_ms() + PATIENCE_MS; get(vms[2].guest, tax);) {
		assert_true(now_ms() < end);
		usleep(20000);
	}
	end_vm(&vms[2]);
	assert_true(fixture_wait_held(0) >= 0);
}

static void wait_samples(struct vm *vm, uint32_t on)
{
	uint64_t end = now_ms() + PATIENCE_MS;

	while (get(vm->guest, samples) != on) {
		assert_true(now_ms() < end);
		usleep(5000);
	}
}

/* Two guests alike in all they say; but one uses its memory, and the other's lies idle. They are
 * asked about that when memory gets short, and the idle one pays alone. */
static void test_idle_pays(void **state)
{
	struct vm vms[3];

	(void)state;
	start_owner("20000");
	setting("reclaim_step", "50"); /* what is needed comes from one */
	for (int i = 0; i < 3; i++)
		start_vm(&vms[i], (const char *[]){ "busy", "idle", "new" }[i], 0);
	put(vms[0].guest, idle_permille, 50);
	put(vms[1].guest, idle_permille, 900);
	assert_int_equal(get(vms[0].guest, samples), 0);
	for (int i = 0; i < 2; i++) {
		put(vms[i].guest, wants, 48); /* nobody is short yet */
		wait_uses(&vms[i], 48);
		put(vms[i].guest, wants, 20);
	}
	for (int i = 0; i < 2; i++)
		wait_samples(&vms[i], 1);
	usleep(1500000); /* they have told, each by its own clock */
	put(vms[2].guest, wants, 30);
	wait_uses(&vms[2], 30);
	wait_counter("reclaim_episodes", 1);
	assert_true(get(vms[1].guest, tax) > 0);
	assert_int_equal(get(vms[0].guest, tax), 0);
	assert_int_equal(get(vms[0].guest, bound), 48);
	/* With enough memory it is not worth its price. */
	end_vm(&vms[1]);
	end_vm(&vms[0]);
	wait_samples(&vms[2], 0);
	end_vm(&vms[2]);
	assert_true(fixture_wait_held(0) >= 0);
}

/* One guest has what another one needs, and is slow to give it. moves: it is seen on its way. */
static void be_slow(struct vm *vms, uint32_t late_ms, uint32_t moves)
{
	start_owner("2500");
	for (int i = 0; i < 3; i++)
		start_vm(&vms[i], (const char *[]){ "slow", "new", "other" }[i], 0);
	put(vms[0].guest, wants, 58);
	wait_uses(&vms[0], 58);
	put(vms[0].guest, late_ticks, late_ms / TICK_MS);
	put(vms[0].guest, moves, moves);
	put(vms[0].guest, wants, 10);
	put(vms[1].guest, wants, 58);
	wait_uses(&vms[1], 58);
	fixture_validate();
}

static void end_all(struct vm *vms)
{
	for (int i = 0; i < 3; i++)
		end_vm(&vms[i]);
	assert_true(fixture_wait_held(0) >= 0);
}

/* A guest whose balloon first takes what brings no frames is on its way all the same: nobody is
 * stopped. */
static void test_slow_guest(void **state)
{
	struct vm vms[3];

	(void)state;
	be_slow(vms, 8000, 1);
	assert_int_equal(counter("oom_pause"), 0);
	end_all(vms);
}

/* Paying takes a frame at first, which the one who grows has not taken. */
static void test_paying_takes_frames(void **state)
{
	struct vm vms[3];

	(void)state;
	start_owner("20000");
	for (int i = 0; i < 3; i++)
		start_vm(&vms[i], (const char *[]){ "clears", "new", "other" }[i], 0);
	put(vms[0].guest, wants, 58);
	wait_uses(&vms[0], 58);
	put(vms[0].guest, clears, 1);
	put(vms[0].guest, wants, 10);
	sleep(17); /* then it does not count as growing */
	put(vms[1].guest, wants, 58);
	wait_uses(&vms[1], 58);
	assert_int_equal(counter("oom_pause"), 0);
	end_all(vms);
}

/* Who was taxed while it was idle and goes to work is no payer: the last frames are not for it,
 * however much less it has than before. */
static void test_taxed_goes_to_work(void **state)
{
	struct vm vms[3];

	(void)state;
	start_owner("20000");
	for (int i = 0; i < 3; i++)
		start_vm(&vms[i], (const char *[]){ "back", "clears", "other" }[i], 0);
	put(vms[0].guest, wants, 58);
	wait_uses(&vms[0], 58);
	put(vms[0].guest, wants, 10);
	put(vms[1].guest, wants, 58);
	put(vms[2].guest, wants, 20);
	wait_uses(&vms[1], 58);
	wait_uses(&vms[2], 20);
	assert_true(get(vms[0].guest, tax) > 0);
	put(vms[1].guest, clears, 1);
	put(vms[1].guest, wants, 10);
	sleep(17); /* nobody counts as growing any more */
	put(vms[0].guest, wants, 58);
	wait_uses(&vms[0], 58);
	assert_int_equal(get(vms[1].guest, clears), 0);
	assert_int_equal(counter("oom_pause"), 0);
	fixture_validate();
	end_all(vms);
}

/* One that does not seem to move is stopped along with the one that waits; but it has what is
 * missing, so it goes on. */
static void test_paused_payer(void **state)
{
	struct vm vms[3];

	(void)state;
	be_slow(vms, 8000, 0);
	assert_true(counter("oom_pause") > 0);
	assert_true(counter("oom_resume") > 0);
	end_all(vms);
}

/* All use all they have: nothing can be taken, one has to stop, and goes on when one has left. */
static void test_oom_pause(void **state)
{
	struct vm vms[3];
	json_t *pressure;

	(void)state;
	start_owner("2500");
	for (int i = 0; i < 3; i++) {
		start_vm(&vms[i], (const char *[]){ "a", "b", "c" }[i], i == 1 ? 300 : 0);
		put(vms[i].guest, wants, RAM);
	}
	wait_counter("oom_pause", 1);
	assert_int_equal(counter("oom_kill"), 0);
	for (uint64_t end = now_ms() + PATIENCE_MS; !get(vms[1].guest, paused);) {
		assert_true(now_ms() < end);
		usleep(5000);
	}
	assert_true(get(vms[1].guest, bound) >= MIN);
	pressure = fixture_qmp("query-pressure", NULL);
	assert_non_null(json_object_get(json_object_get(pressure, "some"), "avg10"));
	json_decref(pressure);
	end_vm(&vms[0]);
	wait_counter("oom_resume", 1);
	wait_uses(&vms[1], RAM);
	wait_uses(&vms[2], RAM);
	fixture_validate();
	end_vm(&vms[1]);
	end_vm(&vms[2]);
	assert_true(fixture_wait_held(0) >= 0);
}

/* One that cannot be stopped just then does not count as stopped: it is asked again. */
static void test_oom_pause_refused(void **state)
{
	struct vm vms[3];

	(void)state;
	start_owner("2500");
	for (int i = 0; i < 3; i++) {
		start_vm(&vms[i], (const char *[]){ "a", "b", "c" }[i], i == 1 ? 300 : 0);
		put(vms[i].guest, refuses, 1);
		put(vms[i].guest, wants, RAM);
	}
	for (uint64_t end = now_ms() + PATIENCE_MS; get(vms[1].guest, refused) < 2;) {
		assert_true(now_ms() < end);
		usleep(5000);
	}
	assert_int_equal(counter("oom_pause"), 0);
	put(vms[1].guest, refuses, 0);
	wait_counter("oom_pause", 1);
	end_vm(&vms[0]);
	wait_counter("oom_resume", 1);
	end_vm(&vms[1]);
	end_vm(&vms[2]);
	assert_true(fixture_wait_held(0) >= 0);
}

static void test_oom_kill(void **state)
{
	struct vm vms[3];
	int status;

	(void)state;
	start_owner("2500");
	setting("oom_policy", "kill");
	for (int i = 0; i < 3; i++) {
		start_vm(&vms[i], (const char *[]){ "a", "b", "c" }[i], i == 2 ? 500 : 0);
		put(vms[i].guest, wants, RAM);
	}
	assert_int_equal(waitpid(vms[2].pid, &status, 0), vms[2].pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	munmap(vms[2].guest, sizeof(*vms[2].guest));
	wait_uses(&vms[0], RAM);
	wait_uses(&vms[1], RAM);
	assert_int_equal(counter("oom_kill"), 1);
	assert_int_equal(counter("oom_pause"), 0);
	fixture_validate();
	end_vm(&vms[0]);
	end_vm(&vms[1]);
	assert_true(fixture_wait_held(0) >= 0);
}

/* The owner is killed, and the next one finds the VMs as they are. */
static void change_owner(struct vm *vms, const char *oom_delay_ms)
{
	kill(fixture_owner, SIGKILL);
	assert_int_equal(fixture_wait_owner(), -2);
	start_owner(oom_delay_ms);
	for (int i = 0; i < 3; i++) {
		for (uint64_t end = now_ms() + PATIENCE_MS; !get(vms[i].guest, rejoined);) {
			assert_true(now_ms() < end);
			usleep(5000);
		}
	}
}

static void end_rejoined(struct vm *vms, int nr)
{
	for (int i = 0; i < nr; i++)
		end_vm(&vms[i]);
	assert_true(fixture_wait_held(0) >= 0);
	/* The VMs' directories are still there. */
	kill(fixture_owner, SIGTERM);
	assert_int_equal(fixture_wait_owner(), 0);
	rejoins = false;
}

/* What one owner took the next one gives back. */
static void test_tax_after_another_owner(void **state)
{
	struct vm vms[3];
	uint64_t tax;

	(void)state;
	rejoins = true;
	start_owner("20000");
	for (int i = 0; i < 3; i++)
		start_vm(&vms[i], (const char *[]){ "pays", "stays", "ends" }[i], 0);
	put(vms[0].guest, wants, 58);
	wait_uses(&vms[0], 58);
	put(vms[0].guest, wants, 10);
	put(vms[2].guest, wants, 58);
	put(vms[1].guest, wants, 20);
	wait_uses(&vms[2], 58);
	wait_uses(&vms[1], 20);
	sleep(1); /* nothing is under way */
	tax = get(vms[0].guest, tax);
	assert_true(tax > 0);
	change_owner(vms, "20000");
	assert_int_equal(counter("tax_steps"), 0);
	end_vm(&vms[2]);
	for (uint64_t end = now_ms() + PATIENCE_MS; get(vms[0].guest, tax);) {
		if (now_ms() > end)
			fail_msg("tax %llu, was %llu", (unsigned long long)get(vms[0].guest, tax),
				 (unsigned long long)tax);
		usleep(20000);
	}
	fixture_validate();
	end_rejoined(vms, 2);
}

/* And whom it stopped the next one lets go on. */
static void test_pause_after_another_owner(void **state)
{
	struct vm vms[3];

	(void)state;
	rejoins = true;
	start_owner("2500");
	for (int i = 0; i < 3; i++) {
		start_vm(&vms[i], (const char *[]){ "a", "b", "c" }[i], i == 1 ? 300 : 0);
		put(vms[i].guest, wants, RAM);
	}
	for (uint64_t end = now_ms() + PATIENCE_MS; !get(vms[1].guest, paused);) {
		assert_true(now_ms() < end);
		usleep(5000);
	}
	change_owner(vms, "20000");
	end_vm(&vms[0]);
	wait_counter("oom_resume", 1);
	wait_uses(&vms[1], RAM);
	fixture_validate();
	end_rejoined(vms + 1, 2);
}

static void test_bad_settings(void **state)
{
	static const char *const bad[][2] = {
		{ "oom_policy", "maybe" },   { "idle_tax", "100" },    { "idle_tax", "-1" },
		{ "reclaim_step", "0" },     { "no_such_thing", "1" }, { "overcommit_memory", "x" },
		{ "overcommit_memory", "3" }
	};
	json_t *settings;

	(void)state;
	start_owner("2500");
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_null(fixture_qmp("pool-set", json_pack("{s:s, s:s}", "name", bad[i][0],
							      "value", bad[i][1])));
	setting("idle_tax", "50");
	settings = fixture_qmp("query-settings", NULL);
	assert_int_equal(json_integer_value(json_object_get(settings, "idle_tax")), 50);
	assert_string_equal(json_string_value(json_object_get(settings, "oom_policy")), "pause");
	assert_int_equal(json_integer_value(json_object_get(settings, "overcommit_memory")), 0);
	json_decref(settings);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		OWNER_TEST(test_load_moves),
		OWNER_TEST(test_idle_pays),
		OWNER_TEST(test_slow_guest),
		OWNER_TEST(test_paused_payer),
		OWNER_TEST(test_paying_takes_frames),
		OWNER_TEST(test_taxed_goes_to_work),
		OWNER_TEST(test_oom_pause),
		OWNER_TEST(test_oom_pause_refused),
		OWNER_TEST(test_oom_kill),
		OWNER_TEST(test_tax_after_another_owner),
		OWNER_TEST(test_pause_after_another_owner),
		OWNER_TEST(test_bad_settings),
	};

	return cmocka_run_group_tests(tests, fixture_setup_group, NULL);
}
