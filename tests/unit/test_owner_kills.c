/* SPDX-License-Identifier: MIT */
/*
 * kill -9 of pool owners, of VMs and of both at once, at random moments, under load. Processes that
 * act as VMMs take frames, look whether they are all zero, write their mark into them, look whether
 * it is still there, and give them back, all in a random order, while one after another is killed.
 *
 * After each kill: the pool conserves its frames, whoever lives goes on, and
 *
 * - no frame had two owners: a table says who has which, and nobody else's mark was in one's own;
 * - no content leaked: a frame that was just granted had nobody's mark in it, nor anything else.
 *   In the end one VM takes as many frames as all others had, and looks at
 *   every word of them.
 *
 * FRAMEVISOR_KILLS is the number of kills, FRAMEVISOR_SEED repeats their order.
 */
#include "tests/unit/owner_fixture.h"

#include <poll.h>

#define NR_VMMS     4
#define POOL_FRAMES 64
#define VMM_FRAMES  14 /* all of them fit, and not much is left over */
#define KILLS       20
#define LIMIT_MS    60000
#define MAX_VMMS    65536 /* that ever live; 0 is nobody */
#define MAX_NODES   64

/* What a VMM writes into its frames: who it is, and a random number. One mark in 16 is in every
 * word; it would be too slow for all of them to be under way often when a kill comes. The others
 * are in some words of each page. */
#define CANARY       0xca7a000000000000
#define CANARY_MASK  0xffff000000000000
#define SPARSE_WORDS 64

/* Shared with the processes: what they have seen. */
struct seen {
	uint64_t granted, returned, rejoined; /* by all that ever lived */
	uint64_t dirty;                       /* granted, but not zero */
	uint64_t leaked;                      /* of these, with somebody's mark in it */
	uint64_t foreign;                     /* held, but somebody wrote to it */
	uint64_t twice;                       /* held by two that live */
	uint64_t refused;                     /* the owner said no for no reason */
	uint32_t holder[MAX_NODES][POOL_FRAMES];
	bool dead[MAX_VMMS]; /* set before the kill: its frames may be another's any time after it
			      */
};

struct vmm {
	pid_t pid;
	unsigned int number; /* of all that ever lived, from 1 */
};

struct vmm_state {
	struct owner_client *client;
	struct seen *seen;
	unsigned int number;
	int listen_fd;
	struct frame_run held[VMM_FRAMES]; /* one frame each */
	uint64_t mark[VMM_FRAMES];
	unsigned int nr;
	uint64_t random;
};

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static void count(uint64_t *counter)
{
	__atomic_add_fetch(counter, 1, __ATOMIC_RELAXED);
}

static void refused(struct vmm_state *vmm, const char *why)
{
	fprintf(stderr, "vm-%u: the owner refuses: %s\n", vmm->number, why);
	count(&vmm->seen->refused);
}

static uint64_t new_mark(struct vmm_state *vmm)
{
	return CANARY | (uint64_t)vmm->number << 32 | (uint32_t)next_random(&vmm->random);
}

static size_t mark_step(uint64_t mark)
{
	return mark % 16 == 0 ? 1 : SPARSE_WORDS;
}

/* The words of a frame that mark is to be in, or is in: all hold value, and fill afterwards. What
 * else one of them holds is in other. */
static bool visit(struct vmm_state *vmm, const struct frame_run *run, uint64_t value, uint64_t mark,
		  uint64_t fill, uint64_t *other)
{
	uint64_t *frame = mmap(NULL, FRAME_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
			       owner_client_node_fd(vmm->client, run->node),
			       (off_t)frames_to_bytes(run->first));
	bool right = true;

	if (frame == MAP_FAILED)
		return false;
	for (size_t i = 0; i < FRAME_SIZE / sizeof(*frame); i += mark_step(mark)) {
		if (frame[i] != value) {
			*other = frame[i];
			right = false;
		}
		frame[i] = fill;
	}
	munmap(frame, FRAME_SIZE);
	return right;
}

static uint32_t *holder_of(struct vmm_state *vmm, const struct frame_run *run)
{
	return run->node < MAX_NODES && run->first < POOL_FRAMES
		       ? &vmm->seen->holder[run->node][run->first]
		       : NULL;
}

/* From now on it is this VMM's, and was nobody's who lives. */
static void hold(struct vmm_state *vmm, const struct frame_run *run)
{
	uint32_t *holder = holder_of(vmm, run), was;

	if (!holder) {
		refused(vmm, "granted a frame that the pool does not have");
		return;
	}
	was = __atomic_exchange_n(holder, vmm->number, __ATOMIC_SEQ_CST);
	if (was != 0 && !__atomic_load_n(&vmm->seen->dead[was], __ATOMIC_SEQ_CST))
		count(&vmm->seen->twice);
}

/* Up to now it was. */
static void let_go(struct vmm_state *vmm, const struct frame_run *run)
{
	uint32_t *holder = holder_of(vmm, run);

	if (holder && __atomic_exchange_n(holder, 0, __ATOMIC_SEQ_CST) != vmm->number)
		count(&vmm->seen->twice);
}

static void vmm_take_frame(struct vmm_state *vmm, const struct frame_run *run)
{
	uint64_t mark = new_mark(vmm), other = 0;

	hold(vmm, run);
	if (!visit(vmm, run, 0, mark, mark, &other)) {
		count(&vmm->seen->dirty);
		if ((other & CANARY_MASK) == CANARY)
			count(&vmm->seen->leaked);
	}
	vmm->mark[vmm->nr] = mark;
	vmm->held[vmm->nr++] = *run;
	count(&vmm->seen->granted);
}

static void vmm_take(struct vmm_state *vmm)
{
	unsigned int nr_runs = VMM_FRAMES - vmm->nr;
	struct frame_run runs[VMM_FRAMES];

	if (nr_runs == 0 || owner_client_grant(vmm->client, 1 + next_random(&vmm->random) % nr_runs,
					       0, runs, &nr_runs) < 0)
		return;
	for (unsigned int r = 0; r < nr_runs; r++) {
		for (uint32_t i = 0; i < runs[r].nr; i++) {
			struct frame_run one = { .first = runs[r].first + i,
						 .nr = 1,
						 .node = runs[r].node };

			vmm_take_frame(vmm, &one);
		}
	}
}

/* Some of the last ones. If the owner dies meanwhile they stay ours until the next one has said. */
static void vmm_give(struct vmm_state *vmm)
{
	unsigned int nr = vmm->nr ? 1 + (unsigned int)(next_random(&vmm->random) % vmm->nr) : 0;
	uint64_t other;
	int ret;

	if (nr == 0)
		return;
	for (unsigned int i = vmm->nr - nr; i < vmm->nr; i++) {
		if (!visit(vmm, &vmm->held[i], vmm->mark[i], vmm->mark[i], vmm->mark[i], &other))
			count(&vmm->seen->foreign);
		let_go(vmm, &vmm->held[i]);
	}
	ret = owner_client_return(vmm->client, &vmm->held[vmm->nr - nr], nr);
	if (ret == 0) {
		vmm->nr -= nr;
		count(&vmm->seen->returned);
		return;
	}
	/* The owner may have taken them, and begun to zero them, before it died: what was in them
	 * is lost, and nobody else has had them. */
	for (unsigned int i = vmm->nr - nr; i < vmm->nr; i++) {
		hold(vmm, &vmm->held[i]);
		visit(vmm, &vmm->held[i], 0, vmm->mark[i], vmm->mark[i], &other);
	}
	if (ret != -EPIPE)
		refused(vmm, strerror(-ret));
}

static void vmm_rejoin(struct vmm_state *vmm)
{
	int fd = accept4(vmm->listen_fd, NULL, NULL, SOCK_CLOEXEC);
	struct error err = { 0 };

	if (fd < 0)
		return;
	if (owner_client_rejoin(vmm->client, fd, vmm->held, vmm->nr, &err) == 0)
		count(&vmm->seen->rejoined);
	/* One that died meanwhile is followed by another. */
	else if (err.code != EPIPE && err.code != ECONNRESET)
		refused(vmm, err.message);
}

static void vmm_main(unsigned int number, uint64_t seed, struct seen *seen)
{
	static struct vmm_state vmm;
	char name[32], path[RUNDIR_PATH_MAX];
	struct owner_client_config config = { .vm_name = name, .ram_frames = VMM_FRAMES };
	struct pollfd next_owner;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	snprintf(name, sizeof(name), "vm-%u", number);
	vmm.seen = seen;
	vmm.number = number;
	vmm.random = (seed + number) * 0x9e3779b97f4a7c15 | 1;
	if (rundir_vm_claim(name, NULL) < 0 || rundir_vm_join(path, name, "owner.sock", NULL) < 0)
		_exit(2);
	vmm.listen_fd = rundir_listen(path, SOCK_SEQPACKET, NULL);
	while (!vmm.client)
		vmm.client = owner_client_connect(&config, NULL);
	next_owner = (struct pollfd){ .fd = vmm.listen_fd, .events = POLLIN };
	for (;;) {
		if (poll(&next_owner, 1, 0) > 0)
			vmm_rejoin(&vmm);
		else if (next_random(&vmm.random) % 2)
			vmm_take(&vmm);
		else
			vmm_give(&vmm);
	}
}

static void vmm_start(struct vmm *vmm, unsigned int number, uint64_t seed, struct seen *seen)
{
	vmm->number = number;
	vmm->pid = fork();
	if (vmm->pid == 0)
		vmm_main(number, seed, seen);
}

static void vmm_end(const struct vmm *vmm, struct seen *seen)
{
	__atomic_store_n(&seen->dead[vmm->number], true, __ATOMIC_SEQ_CST);
	kill(vmm->pid, SIGKILL);
	waitpid(vmm->pid, NULL, 0);
}

/* The pool's answer, from whatever owner there is by now; NULL if there is none at the moment. */
static json_t *ask_owner(const char *command)
{
	struct qmp_client *qmp;
	char path[RUNDIR_PATH_MAX];
	json_t *reply = NULL;

	if (rundir_join(path, "pool-qmp.sock", NULL) < 0)
		return NULL;
	qmp = qmp_client_connect(path, 5000, NULL);
	if (!qmp)
		return NULL;
	qmp_client_call(qmp, command, NULL, &reply, NULL);
	qmp_client_close(qmp);
	return reply;
}

static int64_t number_in(const json_t *reply, const char *key)
{
	return json_integer_value(json_object_get(reply, key));
}

/* An owner answers, and all its frames are where they should be. */
static void check_pool(void)
{
	uint64_t deadline = now_ms() + LIMIT_MS;
	json_t *reply = NULL;

	while (!reply && now_ms() < deadline) {
		reply = ask_owner("x-validate");
		if (!reply)
			usleep(5000);
	}
	if (!reply)
		fail_msg("no pool owner answers");
	if (!json_is_true(json_object_get(reply, "ok")))
		fail_msg("%s", json_string_value(json_object_get(reply, "message")));
	json_decref(reply);
	reply = ask_owner("query-pool");
	assert_non_null(reply);
	assert_int_equal(number_in(reply, "total"), POOL_FRAMES);
	assert_int_equal(number_in(reply, "free") + number_in(reply, "cached") +
				 number_in(reply, "held") + number_in(reply, "quarantined"),
			 POOL_FRAMES);
	json_decref(reply);
}

static void check_seen(const struct seen *seen)
{
	assert_int_equal(__atomic_load_n(&seen->leaked, __ATOMIC_RELAXED), 0);
	assert_int_equal(__atomic_load_n(&seen->dirty, __ATOMIC_RELAXED), 0);
	assert_int_equal(__atomic_load_n(&seen->twice, __ATOMIC_RELAXED), 0);
	assert_int_equal(__atomic_load_n(&seen->foreign, __ATOMIC_RELAXED), 0);
	assert_int_equal(__atomic_load_n(&seen->refused, __ATOMIC_RELAXED), 0);
}

/* Waits until work goes on: frames are granted again. */
static void wait_for_grants(const struct seen *seen, uint64_t nr)
{
	uint64_t target = __atomic_load_n(&seen->granted, __ATOMIC_RELAXED) + nr;
	uint64_t deadline = now_ms() + LIMIT_MS;

	while (__atomic_load_n(&seen->granted, __ATOMIC_RELAXED) < target) {
		if (now_ms() > deadline)
			fail_msg("nobody gets frames any more");
		usleep(1000);
	}
}

static uint64_t number_from(const char *variable, uint64_t otherwise)
{
	const char *text = getenv(variable);

	return text ? strtoull(text, NULL, 10) : otherwise;
}

/* The process that holds the pool: a VM that comes while there is none starts one, too. */
static pid_t owner_pid(void)
{
	char path[RUNDIR_PATH_MAX];

	return rundir_join(path, "pool.lock", NULL) == 0 ? rundir_lock_pid(path) : 0;
}

static void end_owner(int signum)
{
	uint64_t deadline = now_ms() + LIMIT_MS;
	pid_t pid = owner_pid();

	assert_true(pid > 0);
	kill(pid, signum);
	if (pid == fixture_owner) {
		waitpid(pid, NULL, 0);
		fixture_owner = 0;
	}
	while (owner_pid() == pid) {
		assert_true(now_ms() < deadline);
		usleep(1000);
	}
}

static void replace_owner(void)
{
	char command[PATH_MAX + 64];

	snprintf(command, sizeof(command), "'%s' --on-demand --daemonize >/dev/null",
		 fixture_program);
	assert_int_equal(system(command), 0);
}

static struct seen *seen_create(void)
{
	struct seen *seen = mmap(NULL, sizeof(*seen), PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	assert_true(seen != MAP_FAILED);
	return seen;
}

/* One that lives in this process has the memory of all; not a word is to be left of anybody. */
static void take_and_search_all(struct seen *seen, unsigned int number)
{
	struct owner_client_config config = { .vm_name = "last",
					      .ram_frames = NR_VMMS * VMM_FRAMES };
	struct vmm_state vmm = { .seen = seen, .number = number };
	struct frame_run run;
	uint64_t other = 0, found = 0;
	unsigned int nr_runs = 1;

	vmm.client = owner_client_connect(&config, NULL);
	assert_non_null(vmm.client);
	for (; owner_client_grant(vmm.client, 1, 0, &run, &nr_runs) > 0; found++, nr_runs = 1) {
		hold(&vmm, &run);
		/* A mark of 0 is one in every word. */
		if (!visit(&vmm, &run, 0, 0, 0, &other))
			fail_msg("%#llx is left in frame %llu", (unsigned long long)other,
				 (unsigned long long)run.first);
	}
	owner_client_close(vmm.client);
	assert_int_equal(found, NR_VMMS * VMM_FRAMES);
	check_seen(seen);
}

/* One VMM, one owner, or both before either is replaced. Returns whether the owner was killed. */
static bool kill_one(struct vmm vmm[NR_VMMS], unsigned int *number, uint64_t random, uint64_t seed,
		     struct seen *seen)
{
	enum { VMM_ALONE, OWNER_ALONE, BOTH } what = (random >> 8) % 5 / 2;
	unsigned int who = (unsigned int)(random % NR_VMMS);

	if (what != VMM_ALONE)
		end_owner(SIGKILL);
	if (what != OWNER_ALONE)
		vmm_end(&vmm[who], seen);
	if (what != VMM_ALONE)
		replace_owner();
	if (what != OWNER_ALONE)
		vmm_start(&vmm[who], ++*number, seed, seen);
	return what != VMM_ALONE;
}

static void test_kills(void **state)
{
	uint64_t kills = number_from("FRAMEVISOR_KILLS", KILLS);
	uint64_t seed = number_from("FRAMEVISOR_SEED", (uint64_t)time(NULL)), random = seed | 1;
	struct vmm vmm[NR_VMMS];
	unsigned int number = 0, owners = 0;
	struct seen *seen = seen_create();

	(void)state;
	assert_true(kills < MAX_VMMS - NR_VMMS - 1);
	fixture_start((const char *const[]){ "--pool=128M", "--hugepages=never", "--keep", NULL });
	for (unsigned int i = 0; i < NR_VMMS; i++)
		vmm_start(&vmm[i], ++number, seed, seen);
	wait_for_grants(seen, 10);
	for (uint64_t n = 0; n < kills; n++) {
		usleep((useconds_t)(next_random(&random) % 20000));
		owners += kill_one(vmm, &number, next_random(&random), seed, seen);
		check_pool();
		check_seen(seen);
		wait_for_grants(seen, 20);
	}
	print_message("%llu kills (%u of owners, %u of VMs), seed %llu: %llu frames granted, %llu "
		      "times rejoined\n",
		      (unsigned long long)kills, owners, number - NR_VMMS, (unsigned long long)seed,
		      (unsigned long long)seen->granted, (unsigned long long)seen->rejoined);
	for (unsigned int i = 0; i < NR_VMMS; i++)
		vmm_end(&vmm[i], seen);
	check_seen(seen);
	assert_true(fixture_wait_held(0) >= 0);
	fixture_validate();
	assert_int_equal(fixture_pool("free") + fixture_pool("cached"), POOL_FRAMES);
	take_and_search_all(seen, ++number);
	end_owner(SIGTERM);
	munmap(seen, sizeof(*seen));
}

/* What the other test looks for is seen when it is there: a frame with two owners, one that another
 * wrote to, and content that was left in one. */
static void test_what_is_seen(void **state)
{
	struct owner_client_config config = { .vm_name = "vm", .ram_frames = VMM_FRAMES };
	struct seen *seen = seen_create();
	struct vmm_state vmm = { .seen = seen, .number = 1, .random = 1 };
	struct vmm_state other = { .seen = seen, .number = 2, .random = 2 };
	uint64_t word;

	(void)state;
	fixture_start((const char *const[]){ "--pool=128M", "--hugepages=never", "--keep", NULL });
	vmm.client = other.client = owner_client_connect(&config, NULL);
	assert_non_null(vmm.client);
	vmm_take(&vmm);
	assert_true(vmm.nr > 0);
	check_seen(seen);
	vmm_take_frame(&other, &vmm.held[0]);
	assert_int_equal(seen->dirty, 1);
	assert_int_equal(seen->leaked, 1);
	assert_int_equal(seen->twice, 1);
	assert_false(visit(&vmm, &vmm.held[0], vmm.mark[0], vmm.mark[0], 0, &word));
	assert_true(word == other.mark[0] || word == 0);
	while (seen->foreign == 0 && vmm.nr > 0)
		vmm_give(&vmm);
	assert_int_equal(seen->foreign, 1);
	assert_int_equal(seen->twice, 2);
	/* Nobody's any more when it is dead. */
	seen->dead[2] = true;
	seen->holder[0][0] = 2;
	hold(&vmm, &(struct frame_run){ .nr = 1 });
	assert_int_equal(seen->twice, 2);
	owner_client_close(vmm.client);
	munmap(seen, sizeof(*seen));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		OWNER_TEST(test_what_is_seen),
		OWNER_TEST(test_kills),
	};

	return cmocka_run_group_tests(tests, fixture_setup_group, NULL);
}
