/* SPDX-License-Identifier: MIT */
/*
 * kill -9 of pool owners and of VMs at random moments, under load. Processes that act as VMMs take
 * frames, look whether they are all zero, write their mark into them, look whether it is still
 * there, and give them back, all in a random order, while one process after another is killed.
 *
 * After each kill: the pool conserves its frames, whoever lives goes on, nobody ever found another
 * one's mark, in a frame that was just granted or in one that it held.
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

/* Shared with the processes: what they have seen. */
struct seen {
	uint64_t granted, returned, rejoined; /* by all that ever lived */
	uint64_t dirty;                       /* granted, but not zero */
	uint64_t foreign;                     /* held, but somebody wrote to it */
	uint64_t refused;                     /* the owner said no for no reason */
};

struct vmm {
	pid_t pid;
	unsigned int number; /* of all that ever lived */
};

struct vmm_state {
	struct owner_client *client;
	struct seen *seen;
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

/* Whether the whole frame holds value; it holds fill afterwards. Each page is looked at in a few
 * places: all of it would be too slow to be under way often when a kill comes. */
static bool visit(struct vmm_state *vmm, const struct frame_run *run, uint64_t value, uint64_t fill)
{
	uint64_t *frame = mmap(NULL, FRAME_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
			       owner_client_node_fd(vmm->client, run->node),
			       (off_t)frames_to_bytes(run->first));
	uint64_t other = 0;

	if (frame == MAP_FAILED)
		return false;
	for (size_t i = 0; i < FRAME_SIZE / sizeof(*frame); i += 64) {
		other |= frame[i] ^ value;
		frame[i] = fill;
	}
	munmap(frame, FRAME_SIZE);
	return other == 0;
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

			vmm->mark[vmm->nr] = next_random(&vmm->random);
			if (!visit(vmm, &one, 0, vmm->mark[vmm->nr]))
				count(&vmm->seen->dirty);
			vmm->held[vmm->nr++] = one;
			count(&vmm->seen->granted);
		}
	}
}

/* Some of the last ones. If the owner dies meanwhile they stay ours until the next one has said. */
static void vmm_give(struct vmm_state *vmm)
{
	unsigned int nr = vmm->nr ? 1 + (unsigned int)(next_random(&vmm->random) % vmm->nr) : 0;
	int ret;

	if (nr == 0)
		return;
	for (unsigned int i = vmm->nr - nr; i < vmm->nr; i++) {
		if (!visit(vmm, &vmm->held[i], vmm->mark[i], vmm->mark[i]))
			count(&vmm->seen->foreign);
	}
	ret = owner_client_return(vmm->client, &vmm->held[vmm->nr - nr], nr);
	if (ret == 0) {
		vmm->nr -= nr;
		count(&vmm->seen->returned);
	} else if (ret != -EPIPE) {
		count(&vmm->seen->refused);
	}
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
		count(&vmm->seen->refused);
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

static void end_process(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
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
	assert_int_equal(json_integer_value(json_object_get(reply, "total")), POOL_FRAMES);
	json_decref(reply);
}

static void check_seen(const struct seen *seen)
{
	assert_int_equal(__atomic_load_n(&seen->dirty, __ATOMIC_RELAXED), 0);
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

static void kill_and_replace_owner(void)
{
	char command[PATH_MAX + 64];

	end_owner(SIGKILL);
	snprintf(command, sizeof(command), "'%s' --on-demand --daemonize >/dev/null",
		 fixture_program);
	assert_int_equal(system(command), 0);
}

static void test_kills(void **state)
{
	uint64_t kills = number_from("FRAMEVISOR_KILLS", KILLS);
	uint64_t seed = number_from("FRAMEVISOR_SEED", (uint64_t)time(NULL)), random = seed | 1;
	struct vmm vmm[NR_VMMS];
	unsigned int number = 0, owners = 0;
	struct seen *seen = mmap(NULL, sizeof(*seen), PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	(void)state;
	assert_true(seen != MAP_FAILED);
	fixture_start((const char *const[]){ "--pool=128M", "--hugepages=never", "--keep", NULL });
	for (unsigned int i = 0; i < NR_VMMS; i++)
		vmm_start(&vmm[i], number++, seed, seen);
	wait_for_grants(seen, 10);
	for (uint64_t n = 0; n < kills; n++) {
		unsigned int who = (unsigned int)(next_random(&random) % (2 * NR_VMMS));

		usleep((useconds_t)(next_random(&random) % 20000));
		if (who >= NR_VMMS) {
			kill_and_replace_owner();
			owners++;
		} else {
			end_process(vmm[who].pid);
			vmm_start(&vmm[who], number++, seed, seen);
		}
		check_pool();
		check_seen(seen);
		wait_for_grants(seen, 20);
	}
	print_message("%llu kills (%u of owners), seed %llu: %llu frames granted, %llu times "
		      "rejoined\n",
		      (unsigned long long)kills, owners, (unsigned long long)seed,
		      (unsigned long long)seen->granted, (unsigned long long)seen->rejoined);
	for (unsigned int i = 0; i < NR_VMMS; i++)
		end_process(vmm[i].pid);
	check_seen(seen);
	assert_true(fixture_wait_held(0) >= 0);
	fixture_validate();
	assert_int_equal(fixture_pool("free") + fixture_pool("cached"), POOL_FRAMES);
	end_owner(SIGTERM);
	munmap(seen, sizeof(*seen));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		OWNER_TEST(test_kills),
	};

	return cmocka_run_group_tests(tests, fixture_setup_group, NULL);
}
