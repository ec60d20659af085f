/* SPDX-License-Identifier: MIT */
/*
 * A pool owner is killed and the next one takes over: who held what goes on holding it, frames of
 * requests under way are neither lost nor given twice, and who lies about its frames is cut off.
 */
#include "tests/unit/owner_fixture.h"
#include "tests/unit/owner_jobs.h"

#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "tests/unit/skip.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED true
#else
#define SANITIZED false
#endif

#define POOL_FRAMES 32

static const char *const pool_args[] = { "--pool=64M", "--hugepages=never", "--keep", NULL };

/* A VMM as far as owners can see: it listens for the next one. */
struct vmm {
	struct peer peer; /* its process; orders go over peer.fd */
};

enum vmm_order {
	VMM_GRANT,
	VMM_RETURN,
	VMM_REJOIN,
	VMM_REJOIN_LYING,
	VMM_CHECK,
	VMM_WHERE,
	VMM_DEAF,
	VMM_EXIT
};

struct vmm_state {
	struct owner_client *client;
	int listen_fd;
	struct frame_run runs[64];
	unsigned int nr_runs;
	uint64_t canary;
	const char *name;
	int64_t deaf; /* connections of its own */
};

static uint64_t *map_frame(struct vmm_state *vmm, const struct frame_run *run, uint32_t i)
{
	void *map = mmap(NULL, FRAME_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
			 owner_client_node_fd(vmm->client, run->node),
			 (off_t)frames_to_bytes(run->first + i));

	return map == MAP_FAILED ? NULL : map;
}

/* Counts the frames of its runs from the n-th on that hold value throughout; then writes fill. */
static int64_t visit(struct vmm_state *vmm, unsigned int n, uint64_t value, uint64_t fill)
{
	int64_t good = 0;

	for (; n < vmm->nr_runs; n++) {
		for (uint32_t i = 0; i < vmm->runs[n].nr; i++) {
			uint64_t *frame = map_frame(vmm, &vmm->runs[n], i), other = 0;

			if (!frame)
				return -1;
			for (size_t j = 0; j < FRAME_SIZE / sizeof(*frame); j++) {
				other |= frame[j] ^ value;
				frame[j] = fill;
			}
			good += other == 0;
			munmap(frame, FRAME_SIZE);
		}
	}
	return good;
}

/* Answers how many of the frames that came were zero. */
static int64_t vmm_grant(struct vmm_state *vmm, uint64_t nr)
{
	unsigned int n = vmm->nr_runs, nr_runs = 64 - n;
	int64_t got = owner_client_grant(vmm->client, nr, 0, vmm->runs + n, &nr_runs);

	if (got < 0)
		return got;
	vmm->nr_runs += nr_runs;
	return visit(vmm, n, 0, vmm->canary);
}

static int64_t vmm_rejoin(struct vmm_state *vmm, uint64_t foreign, bool lie)
{
	int fd = accept4(vmm->listen_fd, NULL, NULL, SOCK_CLOEXEC);
	unsigned int nr = vmm->nr_runs;

	/* What it filled its backlog with. */
	for (; vmm->deaf > 0; vmm->deaf--) {
		close(fd);
		fd = accept4(vmm->listen_fd, NULL, NULL, SOCK_CLOEXEC);
	}
	if (fd < 0)
		return -errno;
	if (lie)
		vmm->runs[nr++] = (struct frame_run){ .first = foreign, .nr = 1 };
	return owner_client_rejoin(vmm->client, fd, vmm->runs, nr, NULL);
}

/* Fills its backlog: who connects now has to wait. Answers how many that were. */
static int64_t vmm_deafen(const char *name)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	char path[RUNDIR_PATH_MAX];
	int64_t nr = 0;

	rundir_vm_join(path, name, "owner.sock", NULL);
	memcpy(addr.sun_path, path, sizeof(path));
	for (;;) {
		int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

		if (fd < 0 || connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
			return errno == EAGAIN ? nr : -errno;
		nr++;
	}
}

static int64_t vmm_obey(struct vmm_state *vmm, const struct peer_command *command)
{
	int64_t ret;

	switch ((enum vmm_order)command->order) {
	case VMM_GRANT:
		return vmm_grant(vmm, command->number);
	case VMM_RETURN:
		ret = owner_client_return(vmm->client, vmm->runs, vmm->nr_runs);
		if (ret == 0)
			vmm->nr_runs = 0;
		return ret;
	case VMM_REJOIN:
	case VMM_REJOIN_LYING:
		return vmm_rejoin(vmm, command->number,
				  (enum vmm_order)command->order == VMM_REJOIN_LYING);
	case VMM_CHECK:
		return visit(vmm, 0, vmm->canary, vmm->canary);
	case VMM_DEAF:
		vmm->deaf = vmm_deafen(vmm->name);
		return vmm->deaf;
	case VMM_WHERE:
		return (int64_t)vmm->runs[0].node << 48 | (int64_t)vmm->runs[0].first;
	default:
		_exit(0);
	}
}

static void vmm_main(const char *name, uint64_t ram_frames, int fd)
{
	struct owner_client_config config = { .vm_name = name, .ram_frames = ram_frames };
	static struct vmm_state vmm;
	char path[RUNDIR_PATH_MAX];
	struct peer_command command;
	struct error err = { 0 };

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	vmm.name = name;
	vmm.canary = (uint64_t)getpid() * 0x9e3779b97f4a7c15;
	if (rundir_vm_claim(name, &err) < 0 || rundir_vm_join(path, name, "owner.sock", &err) < 0)
		_exit(2);
	vmm.listen_fd = rundir_listen(path, SOCK_SEQPACKET, &err);
	fcntl(vmm.listen_fd, F_SETFL, 0); /* it waits for the owner */
	vmm.client = owner_client_connect(&config, &err);
	if (write(fd, &err, sizeof(err)) != (ssize_t)sizeof(err) || !vmm.client)
		_exit(1);
	while (read(fd, &command, sizeof(command)) == (ssize_t)sizeof(command)) {
		int64_t answer = vmm_obey(&vmm, &command);

		if (write(fd, &answer, sizeof(answer)) < 0)
			break;
	}
	_exit(0);
}

static void vmm_start(struct vmm *vmm, const char *name, uint64_t ram_frames)
{
	int fds[2];

	memset(vmm, 0, sizeof(*vmm));
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
	vmm->peer.pid = fork();
	if (vmm->peer.pid == 0) {
		close(fds[0]);
		vmm_main(name, ram_frames, fds[1]);
	}
	close(fds[1]);
	vmm->peer.fd = fds[0];
	assert_true(peer_ready(&vmm->peer));
}

static int64_t vmm_do(struct vmm *vmm, enum vmm_order order, uint64_t number)
{
	return peer_do(&vmm->peer, (enum peer_order)order, number);
}

static void vmm_kill(struct vmm *vmm)
{
	kill(vmm->peer.pid, SIGKILL);
	assert_int_equal(peer_wait(&vmm->peer, 5000), SIGKILL);
}

static void kill_owner(void)
{
	kill(fixture_owner, SIGKILL);
	assert_int_equal(fixture_wait_owner(), -2);
}

static void end_all(struct vmm *vmms, unsigned int nr)
{
	for (unsigned int i = 0; i < nr; i++)
		vmm_kill(&vmms[i]);
	assert_true(fixture_wait_held(0) >= 0);
	fixture_validate();
	kill(fixture_owner, SIGTERM);
	assert_int_equal(fixture_wait_owner(), 0);
}

static void test_frames_survive(void **state)
{
	struct vmm vmm[2];

	(void)state;
	fixture_start(pool_args);
	vmm_start(&vmm[0], "a", 12);
	vmm_start(&vmm[1], "b", 12);
	assert_int_equal(vmm_do(&vmm[0], VMM_GRANT, 7), 7);
	assert_int_equal(vmm_do(&vmm[1], VMM_GRANT, 9), 9);
	for (int round = 0; round < 3; round++) {
		kill_owner();
		/* Whatever it is asked for: the pool is what it was. */
		fixture_start((const char *const[]){ "--pool=32M", "--hugepages=never", NULL });
		assert_int_equal(vmm_do(&vmm[0], VMM_REJOIN, 0), 0);
		assert_int_equal(vmm_do(&vmm[1], VMM_REJOIN, 0), 0);
		assert_int_equal(fixture_pool("total"), POOL_FRAMES);
		assert_int_equal(fixture_pool("held"), 16 + 2 * round);
		fixture_validate();
		assert_int_equal(vmm_do(&vmm[0], VMM_CHECK, 0), 7 + round);
		assert_int_equal(vmm_do(&vmm[1], VMM_CHECK, 0), 9 + round);
		/* And goes on: what comes now is zero, and nobody else's. */
		assert_int_equal(vmm_do(&vmm[0], VMM_GRANT, 1), 1);
		assert_int_equal(vmm_do(&vmm[1], VMM_GRANT, 1), 1);
	}
	assert_int_equal(vmm_do(&vmm[0], VMM_CHECK, 0), 10);
	assert_int_equal(vmm_do(&vmm[0], VMM_RETURN, 0), 0);
	assert_int_equal(fixture_pool("held"), 12);
	end_all(vmm, 2);
}

/* Frames that went out of use stay out of use, also one that a VM was still to give back. */
static void test_quarantine_survives(void **state)
{
	char message[256];
	struct vmm vmm;
	int64_t where;
	json_t *job;

	(void)state;
	fixture_start(pool_args);
	vmm_start(&vmm, "a", 12);
	assert_int_equal(vmm_do(&vmm, VMM_GRANT, 7), 7);
	where = vmm_do(&vmm, VMM_WHERE, 0);
	assert_int_equal(do_job("pool-offline-frame",
				json_pack("{s:i, s:i}", "node", 0, "index", POOL_FRAMES - 1),
				message, sizeof(message)),
			 1);
	assert_int_equal(fixture_pool("quarantined"), 1);
	job = fixture_qmp("pool-offline-frame",
			  json_pack("{s:I, s:I}", "node", (json_int_t)(where >> 48), "index",
				    (json_int_t)(where & 0xffffffffffff)));
	assert_non_null(job);
	json_decref(job);
	usleep(200000); /* it is asked to move, and will not answer */
	for (int round = 0; round < 2; round++) {
		kill_owner();
		fixture_start(pool_args);
		assert_int_equal(vmm_do(&vmm, VMM_REJOIN, 0), 0);
		assert_int_equal(fixture_pool("quarantined"), 1);
		assert_int_equal(fixture_pool("held"), 7);
		fixture_validate();
	}
	assert_int_equal(vmm_do(&vmm, VMM_RETURN, 0), 0);
	assert_int_equal(fixture_pool("quarantined"), 2);
	/* Until somebody says otherwise, to this owner or to the one before. */
	json_decref(fixture_qmp("pool-online-frame",
				json_pack("{s:i, s:i}", "node", 0, "index", POOL_FRAMES - 1)));
	kill_owner();
	fixture_start(pool_args);
	assert_int_equal(vmm_do(&vmm, VMM_REJOIN, 0), 0);
	assert_int_equal(fixture_pool("quarantined"), 1);
	end_all(&vmm, 1);
}

static int64_t vm_number(const char *name, const char *key)
{
	json_t *vms = fixture_qmp("query-vms", NULL), *vm;
	int64_t value = -1;
	size_t i;

	json_array_foreach(vms, i, vm)
	{
		if (strcmp(json_string_value(json_object_get(vm, "name")), name) == 0)
			value = json_integer_value(json_object_get(vm, key));
	}
	json_decref(vms);
	return value;
}

/* What a VM was promised while it ran counts for the next owner, too. */
static void test_limits_survive(void **state)
{
	struct vmm vmm;
	json_t *reply;

	(void)state;
	fixture_start(pool_args);
	vmm_start(&vmm, "a", 12);
	assert_int_equal(vmm_do(&vmm, VMM_GRANT, 3), 3);
	reply = fixture_qmp("vm-set", json_pack("{s:s, s:i, s:i, s:i, s:i}", "name", "a", "min", 7,
						"max", 13, "shares", 3000, "oom-score-adj", -5));
	assert_non_null(reply);
	json_decref(reply);
	for (int round = 0; round < 2; round++) {
		assert_int_equal(vm_number("a", "min"), 7);
		assert_int_equal(vm_number("a", "max"), 13);
		assert_int_equal(vm_number("a", "shares"), 3000);
		assert_int_equal(vm_number("a", "oom-score-adj"), -5);
		if (round == 1)
			break;
		kill_owner();
		fixture_start(pool_args);
		assert_int_equal(vmm_do(&vmm, VMM_REJOIN, 0), 0);
	}
	fixture_validate();
	end_all(&vmm, 1);
}

/* Nobody has to come back: frames belong to a process until it ends. */
static void test_silent_and_ended(void **state)
{
	struct vmm vmm[3];

	(void)state;
	fixture_start(pool_args);
	vmm_start(&vmm[0], "silent", 8);
	vmm_start(&vmm[1], "ended", 8);
	vmm_start(&vmm[2], "late", 8);
	for (int i = 0; i < 3; i++)
		assert_int_equal(vmm_do(&vmm[i], VMM_GRANT, 5), 5);
	kill_owner();
	vmm_kill(&vmm[1]);
	fixture_start(pool_args);
	assert_int_equal(fixture_pool("held"), 10);
	/* Its frames were dirty. */
	assert_int_equal(vmm_do(&vmm[2], VMM_REJOIN, 0), 0);
	vmm_start(&vmm[1], "new", 8);
	assert_int_equal(vmm_do(&vmm[1], VMM_GRANT, 8), 8);
	assert_int_equal(vmm_do(&vmm[0], VMM_CHECK, 0), 5);
	fixture_validate();
	vmm_kill(&vmm[0]);
	assert_true(fixture_wait_held(13) >= 0);
	vmm_start(&vmm[0], "newer", 8);
	assert_int_equal(vmm_do(&vmm[0], VMM_GRANT, 8), 8);
	assert_int_equal(vmm_do(&vmm[2], VMM_CHECK, 0), 5);
	end_all(vmm, 3);
}

static void test_liar(void **state)
{
	struct vmm vmm[2];
	uint64_t foreign;

	(void)state;
	fixture_start(pool_args);
	vmm_start(&vmm[0], "liar", 8);
	vmm_start(&vmm[1], "victim", 8);
	assert_int_equal(vmm_do(&vmm[0], VMM_GRANT, 4), 4);
	assert_int_equal(vmm_do(&vmm[1], VMM_GRANT, 4), 4);
	kill_owner();
	fixture_start(pool_args);
	assert_int_equal(vmm_do(&vmm[1], VMM_REJOIN, 0), 0);
	/* A frame that is not its own, be it the victim's or a free one, whose content is not
	 * known. */
	for (foreign = 0; foreign < POOL_FRAMES; foreign += POOL_FRAMES - 1) {
		if (vmm_do(&vmm[0], VMM_REJOIN_LYING, foreign) != 0)
			break;
	}
	assert_true(foreign < POOL_FRAMES);
	/* Cut off; then it is killed, and its frames come back. */
	assert_int_equal(peer_wait(&vmm[0].peer, 20000), SIGKILL);
	assert_true(fixture_wait_held(4) >= 0);
	fixture_validate();
	assert_int_equal(vmm_do(&vmm[1], VMM_CHECK, 0), 4);
	end_all(&vmm[1], 1);
}

/* An orderly end with VMs: the next owner goes on as after a kill. Without, nothing is left. */
static void test_orderly_end(void **state)
{
	struct vmm vmm;

	(void)state;
	fixture_start(pool_args);
	vmm_start(&vmm, "stays", 8);
	assert_int_equal(vmm_do(&vmm, VMM_GRANT, 6), 6);
	kill(fixture_owner, SIGTERM);
	assert_int_equal(fixture_wait_owner(), 0);
	fixture_start(pool_args);
	assert_int_equal(vmm_do(&vmm, VMM_REJOIN, 0), 0);
	assert_int_equal(fixture_pool("held"), 6);
	assert_int_equal(vmm_do(&vmm, VMM_CHECK, 0), 6);
	end_all(&vmm, 1);
}

/* One that does not accept connections does not hold up the others. */
static void test_deaf(void **state)
{
	struct vmm vmm[2];

	(void)state;
	fixture_start(pool_args);
	vmm_start(&vmm[0], "deaf", 8);
	vmm_start(&vmm[1], "hears", 8);
	for (int i = 0; i < 2; i++)
		assert_int_equal(vmm_do(&vmm[i], VMM_GRANT, 5), 5);
	assert_true(vmm_do(&vmm[0], VMM_DEAF, 0) > 0);
	kill_owner();
	alarm(60); /* an owner that waits for it is not heard of */
	fixture_start(pool_args);
	assert_int_equal(vmm_do(&vmm[1], VMM_REJOIN, 0), 0);
	assert_int_equal(fixture_pool("held"), 10);
	/* When it hears again it is one as the others. */
	assert_int_equal(vmm_do(&vmm[0], VMM_REJOIN, 0), 0);
	alarm(0);
	assert_int_equal(vmm_do(&vmm[0], VMM_GRANT, 1), 1);
	assert_int_equal(vmm_do(&vmm[0], VMM_CHECK, 0), 6);
	fixture_validate();
	end_all(vmm, 2);
}

/* Starts an owner with little of something. Returns whether it says that it is ready. */
static bool start_with(int resource, rlim_t most)
{
	struct rlimit limit = { .rlim_cur = most, .rlim_max = most };
	char *argv[8] = { fixture_program };
	char line[512] = "";
	int fds[2];

	for (int i = 0; pool_args[i]; i++)
		argv[i + 1] = (char *)(uintptr_t)pool_args[i];
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	fixture_owner = fork();
	if (fixture_owner == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(fds[1], STDOUT_FILENO);
		setrlimit((__rlimit_resource_t)resource, &limit);
		execv(fixture_program, argv);
		_exit(127);
	}
	close(fds[1]);
	while (read(fds[0], line + strlen(line), sizeof(line) - strlen(line) - 1) > 0 &&
	       !strchr(line, '\n'))
		;
	close(fds[0]);
	return strstr(line, "ready at") != NULL;
}

static void expect_intact(struct vmm *vmm, int64_t nr)
{
	int64_t ret = -EPIPE;

	fixture_start(pool_args);
	assert_int_equal(fixture_pool("held"), nr);
	/* Connections of owners that have ended since come first. */
	for (int i = 0; i < 60 && ret < 0; i++)
		ret = vmm_do(vmm, VMM_REJOIN, 0);
	assert_int_equal(ret, 0);
	assert_int_equal(vmm_do(vmm, VMM_CHECK, 0), nr);
	fixture_validate();
}

/* An owner that cannot start, however far it comes, leaves the pool to the next one; and who cannot
 * be watched has not ended for that. */
static void test_start_without_fds(void **state)
{
	unsigned int failed = 0;
	struct vmm vmm;

	(void)state;
	fixture_start(pool_args);
	vmm_start(&vmm, "stays", 8);
	assert_int_equal(vmm_do(&vmm, VMM_GRANT, 6), 6);
	kill_owner();
	/* All of an owner's own, and what it needs for a while only. */
	for (rlim_t most = 4; most < 40; most++) {
		if (start_with(RLIMIT_NOFILE, most)) {
			kill_owner();
		} else {
			assert_int_not_equal(fixture_wait_owner(), 0);
			failed++;
		}
	}
	print_message("%u owners could not start\n", failed);
	assert_true(failed > 5);
	expect_intact(&vmm, 6);
	end_all(&vmm, 1);
}

/* After it has taken over everything, it has no room for a thread. */
static void test_start_without_threads(void **state)
{
	struct vmm vmm;

	(void)state;
	if (SANITIZED)
		skip_because("a sanitizer does not start without a stack");
	fixture_start(pool_args);
	vmm_start(&vmm, "stays", 8);
	assert_int_equal(vmm_do(&vmm, VMM_GRANT, 6), 6);
	kill_owner();
	assert_false(start_with(RLIMIT_STACK, (rlim_t)1 << 47));
	assert_int_not_equal(fixture_wait_owner(), 0);
	expect_intact(&vmm, 6);
	end_all(&vmm, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		OWNER_TEST(test_frames_survive),
		OWNER_TEST(test_limits_survive),
		OWNER_TEST(test_silent_and_ended),
		OWNER_TEST(test_liar),
		OWNER_TEST(test_orderly_end),
		OWNER_TEST(test_quarantine_survives),
		OWNER_TEST(test_deaf),
		OWNER_TEST(test_start_without_fds),
		OWNER_TEST(test_start_without_threads),
	};

	return cmocka_run_group_tests(tests, fixture_setup_group, NULL);
}
