/* SPDX-License-Identifier: MIT */
/*
 * The life of framevisord: refusing to start, starting on demand, growing, ending, being killed,
 * and what it leaves behind.
 */
#include "tests/unit/owner_fixture.h"

#include "vmm/owner/host.h"
#include "tests/unit/skip.h"

#define HUGEPAGES_DIR  "/sys/kernel/mm/hugepages/hugepages-2048kB/"
#define NR_HUGEPAGES   HUGEPAGES_DIR "nr_hugepages"
#define FREE_HUGEPAGES HUGEPAGES_DIR "free_hugepages"

/* Runs a command to its end; returns its exit status and what it printed. */
static int run_command(const char *command, char *text, size_t size)
{
	FILE *out = popen(command, "re");
	size_t len;
	int status;

	assert_non_null(out);
	len = fread(text, 1, size - 1, out);
	text[len] = '\0';
	status = pclose(out);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int run_owner(const char *args, char *text, size_t size)
{
	char command[PATH_MAX + 256];

	snprintf(command, sizeof(command), "timeout 20 '%s' %s 2>&1", fixture_program, args);
	return run_command(command, text, size);
}

/* One line that names the program and says what, exit status 1, nothing left behind. */
static void check_refusal(const char *args, const char *what)
{
	char text[1024], *newline;

	assert_int_equal(run_owner(args, text, sizeof(text)), 1);
	if (!strstr(text, what))
		fail_msg("'%s' says: %s", args, text);
	assert_ptr_equal(strstr(text, "framevisord: "), text);
	newline = strchr(text, '\n');
	assert_non_null(newline);
	assert_int_equal(newline[1], '\0');
}

static void test_bad_options(void **state)
{
	(void)state;
	check_refusal("--pool", "'--pool' needs a value");
	check_refusal("--pool=0", "more than 0");
	check_refusal("--pool=x", "'x' is not a size");
	check_refusal("--pool=99999G", "larger than this machine's memory");
	check_refusal("--max=99999G", "larger than this machine's memory");
	check_refusal("--initial=99999G", "more than the");
	check_refusal("--pool=99999999999T", "too large");
	check_refusal("--pool=1G --initial=1G", "one or the other");
	check_refusal("--pool=2G --max=1G", "more than its limit of 1 GiB");
	check_refusal("--movable=0%", "from 1% to 100%");
	check_refusal("--movable=101%", "from 1% to 100%");
	check_refusal("--movable=5%%", "from 1% to 100%");
	check_refusal("--movable=x", "'x' is not a size");
	check_refusal("--pool=64M --movable=65M", "more than the pool of 64 MiB");
	check_refusal("--hugepages=some", "auto, require, never or 1G");
	check_refusal("--frobnicate", "'--frobnicate' is unknown");
	check_refusal("-x", "is unknown");
	check_refusal("pool", "'pool' is not understood");
	check_refusal("--rundir=/nonexistent/dir", "/nonexistent/dir");
	check_refusal("--rundir=/proc", "/proc");
	assert_int_equal(rmdir(fixture_dir), 0);
	assert_int_equal(mkdir(fixture_dir, 0700), 0);
}

static void test_help_and_version(void **state)
{
	char text[4096];

	(void)state;
	assert_int_equal(run_owner("--help", text, sizeof(text)), 0);
	assert_non_null(strstr(text, "--hugepages=MODE"));
	assert_int_equal(run_owner("--version", text, sizeof(text)), 0);
	assert_non_null(strstr(text, FRAMEVISOR_VERSION));
}

static void test_path_too_long(void **state)
{
	char args[300] = "--rundir=/tmp/", *end = args + strlen(args);

	(void)state;
	memset(end, 'x', 150);
	check_refusal(args, "too long");
	memset(end, 'x', 95);
	end[95] = '\0';
	check_refusal(args, "too long");
	rmdir(args + strlen("--rundir="));
}

static void test_second_owner(void **state)
{
	char text[1024];

	(void)state;
	fixture_start((const char *const[]){ "--pool=32M", "--hugepages=never", NULL });
	check_refusal("--pool=32M", "already running");
	/* For who needs one running that is as good. */
	assert_int_equal(run_owner("--on-demand", text, sizeof(text)), 0);
	assert_string_equal(text, "");
	fixture_validate();
}

static void test_json(void **state)
{
	json_t *json;
	char text[1024];

	(void)state;
	assert_int_equal(
		run_owner("--json --daemonize --pool=32M --hugepages=never", text, sizeof(text)),
		0);
	json = json_loads(text, 0, NULL);
	assert_non_null(json);
	assert_int_equal(json_integer_value(json_object_get(json, "frames")), 16);
	assert_true(json_is_false(json_object_get(json, "hugepages")));
	json_decref(json);
	json_decref(fixture_qmp("quit", NULL));
}

/* Waits until nobody holds the owner's lock. */
static bool owner_ended(int64_t ms)
{
	uint64_t deadline = now_ms() + ms;
	char lock[RUNDIR_PATH_MAX];

	assert_int_equal(rundir_join(lock, "pool.lock", NULL), 0);
	while (rundir_lock_pid(lock)) {
		if (now_ms() > deadline)
			return false;
		usleep(5000);
	}
	return true;
}

static pid_t owner_pid(void)
{
	char lock[RUNDIR_PATH_MAX];

	assert_int_equal(rundir_join(lock, "pool.lock", NULL), 0);
	return rundir_lock_pid(lock);
}

static void test_on_demand(void **state)
{
	struct owner_client_config config = { .vm_name = "a",
					      .ram_frames = 16,
					      .hugepages = HUGEPAGES_NEVER };
	struct peer a, b;
	pid_t owner;

	(void)state;
	peer_begin(&a, &config);
	assert_true(peer_ready(&a));
	owner = owner_pid();
	assert_true(owner > 0);
	/* In a session of its own: Ctrl-C for the VMM is not for it. */
	assert_int_equal(getsid(owner), owner);
	assert_int_equal(peer_do(&a, PEER_GRANT, 16), 16);
	assert_int_equal(peer_do(&a, PEER_HUGETLB, 0), 0);
	/* The second VM finds it. */
	config.vm_name = "b";
	peer_begin(&b, &config);
	assert_true(peer_ready(&b));
	assert_int_equal(owner_pid(), owner);
	peer_end(&a);
	assert_false(owner_ended(1500));
	fixture_validate();
	peer_end(&b);
	assert_true(owner_ended(3000));
	assert_int_equal(rmdir(fixture_dir), 0);
	assert_int_equal(mkdir(fixture_dir, 0700), 0);
}

#define RACERS 6

static void test_on_demand_race(void **state)
{
	struct owner_client_config config = { .ram_frames = 4, .hugepages = HUGEPAGES_NEVER };
	struct peer peers[RACERS];
	char name[8];

	(void)state;
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < RACERS; i++) {
			snprintf(name, sizeof(name), "vm%d", i);
			config.vm_name = name;
			peer_begin(&peers[i], &config);
		}
		for (int i = 0; i < RACERS; i++) {
			if (!peer_ready(&peers[i]))
				fail_msg("%s", peers[i].err.message);
		}
		for (int i = 0; i < RACERS; i++)
			assert_int_equal(peer_do(&peers[i], PEER_GRANT, 4), 4);
		/* One pool serves them all. */
		assert_int_equal(fixture_pool("held"), RACERS * 4);
		fixture_validate();
		for (int i = 0; i < RACERS; i++)
			peer_end(&peers[i]);
		/* The next round comes just when this owner thinks of leaving. */
		usleep(980000 + round * 10000);
	}
	assert_true(owner_ended(3000));
}

/* What keeps the owner from starting is what the VM's user reads. */
static void test_on_demand_refusal(void **state)
{
	struct owner_client_config config = { .vm_name = "a",
					      .ram_frames = 1,
					      .pool_bytes = UINT64_C(99999) << 30 };
	struct peer a;

	(void)state;
	peer_begin(&a, &config);
	assert_false(peer_ready(&a));
	assert_non_null(strstr(a.err.message, "larger than this machine's memory"));
	config.pool_bytes = 0;
	config.ram_frames = (UINT64_C(99999) << 30) / FRAME_SIZE;
	peer_begin(&a, &config);
	assert_false(peer_ready(&a));
	assert_non_null(strstr(a.err.message, "this machine has"));
	assert_true(owner_ended(1000));
	assert_int_equal(rmdir(fixture_dir), 0);
	assert_int_equal(mkdir(fixture_dir, 0700), 0);
}

static void test_not_found(void **state)
{
	struct owner_client_config config = { .vm_name = "a", .ram_frames = 1 };
	char *path = strdup(getenv("PATH"));
	struct peer a;

	(void)state;
	setenv("PATH", "/nonexistent", 1);
	peer_begin(&a, &config);
	assert_false(peer_ready(&a));
	assert_non_null(strstr(a.err.message, "framevisord is neither beside"));
	setenv("PATH", path, 1);
	free(path);
}

static void test_grows(void **state)
{
	struct peer a, b, c;
	int64_t first;

	(void)state;
	fixture_start((const char *const[]){ "--initial=16M", "--max=96M", NULL });
	first = fixture_pool("total");
	assert_true(first >= 8 && first < 16);
	assert_true(peer_start(&a, "a", 8));
	assert_int_equal(fixture_pool("total"), first); /* --initial was for this one */
	assert_true(peer_start(&b, "b", 20));
	assert_true(fixture_pool("total") >= first + 20);
	assert_int_equal(peer_do(&b, PEER_GRANT, 20), 20);
	/* The first VM's files reach the frames that came later. */
	assert_int_equal(peer_do(&a, PEER_GRANT, 8), 8);
	assert_int_equal(peer_do(&b, PEER_DIRTY, 0), 20);
	assert_int_equal(peer_do(&a, PEER_DIRTY, 0), 8);
	assert_int_equal(peer_do(&b, PEER_RETURN, 0), 0);
	assert_int_equal(peer_do(&a, PEER_RETURN, 0), 0);
	assert_int_equal(peer_do(&a, PEER_GRANT, 8), 8);
	assert_int_equal(peer_do(&a, PEER_DIRTY, 0), 8);
	/* 48 frames are the limit. */
	assert_false(peer_start(&c, "c", 30));
	assert_non_null(strstr(c.err.message, "at most 96 MiB"));
	assert_true(fixture_pool("total") <= 48);
	fixture_validate();
	peer_end(&a);
	peer_end(&b);
	assert_int_equal(fixture_wait_owner(), 0); /* without --keep it ends with its VMs */
	assert_int_equal(rmdir(fixture_dir), 0);
	assert_int_equal(mkdir(fixture_dir, 0700), 0);
}

static void test_quit(void **state)
{
	struct peer a;

	(void)state;
	fixture_start((const char *const[]){ "--pool=32M", "--hugepages=never", NULL });
	assert_true(peer_start(&a, "a", 4));
	assert_int_equal(peer_do(&a, PEER_GRANT, 4), 4);
	assert_null(fixture_qmp("quit", NULL));
	fixture_validate();
	json_decref(fixture_qmp("quit", json_pack("{s:b}", "force", 1)));
	assert_int_equal(fixture_wait_owner(), 0);
	/* The VM keeps its frames, with what it wrote, and gets no more. */
	assert_int_equal(peer_do(&a, PEER_DIRTY, 0), 4);
	assert_int_equal(peer_do(&a, PEER_DIRTY, 0), 0);
	assert_int_equal(peer_do(&a, PEER_GRANT, 1), -EPIPE);
	peer_end(&a);
}

static void test_hugepages_demanded(void **state)
{
	struct owner_client_config config = { .vm_name = "a",
					      .ram_frames = 4,
					      .hugepages = HUGEPAGES_REQUIRE };
	struct peer a;

	(void)state;
	fixture_start((const char *const[]){ "--pool=32M", "--hugepages=never", NULL });
	peer_begin(&a, &config);
	assert_false(peer_ready(&a));
	assert_non_null(strstr(a.err.message, "--hugepages=require"));
	assert_true(fixture_wait_held(0) >= 0);
}

/* As a user without rights; from a copy, because the build tree may be closed to that user. */
static int run_owner_as_nobody(const char *args, char *text, size_t size)
{
	char command[PATH_MAX + 512], copy[64];
	int status;

	snprintf(copy, sizeof(copy), "/tmp/fv-nobody-%d", getpid());
	snprintf(command, sizeof(command), "install -m 755 '%s' %s", fixture_program, copy);
	assert_int_equal(system(command), 0);
	assert_int_equal(chown(fixture_dir, 65534, 65534), 0);
	snprintf(command, sizeof(command),
		 "setpriv --reuid 65534 --regid 65534 --clear-groups %s %s 2>&1", copy, args);
	status = run_command(command, text, size);
	unlink(copy);
	return status;
}

/* Demanded, but this user may not reserve them. */
static void test_hugepages_not_to_be_had(void **state)
{
	uint64_t nr_free = 0;
	char args[64], text[1024];

	(void)state;
	if (geteuid() != 0 || host_read_u64(FREE_HUGEPAGES, &nr_free) < 0)
		skip_because("only root may reserve hugepages");
	snprintf(args, sizeof(args), "--pool=%uM --hugepages=require",
		 (unsigned int)(nr_free + 200) * 2);
	assert_int_equal(run_owner_as_nobody(args, text, sizeof(text)), 1);
	assert_non_null(strstr(text, "hugepages of 2 MiB are missing"));
	assert_non_null(strstr(text, "may not reserve more"));
	assert_non_null(strstr(text, "vm.nr_hugepages"));
}

/* By default that is no reason to fail: one warning, and ordinary memory. */
static void test_falls_back(void **state)
{
	uint64_t nr_free = 0;
	char args[64], text[1024];
	const char *warning;

	(void)state;
	if (geteuid() != 0 || host_read_u64(FREE_HUGEPAGES, &nr_free) < 0 || nr_free > 256)
		skip_because("not root, or so many free hugepages that a pool of more is a burden");
	snprintf(args, sizeof(args), "--pool=%uM --daemonize", (unsigned int)(nr_free + 32) * 2);
	assert_int_equal(run_owner_as_nobody(args, text, sizeof(text)), 0);
	warning = strstr(text, "the pool uses ordinary memory\n");
	assert_non_null(warning);
	assert_null(strstr(warning + 1, "the pool uses ordinary memory"));
	assert_non_null(strstr(text, "ordinary memory, "));
	assert_int_equal(fixture_pool("total"), nr_free + 32);
	json_decref(fixture_qmp("quit", NULL));
	assert_true(owner_ended(5000));
	assert_int_equal(chown(fixture_dir, 0, 0), 0);
}

/* Hugepages that the pool reserved are gone with it; other programs change the number too, so a
 * difference is believed only when it comes again. */
static bool gives_back(bool kill_it)
{
	uint64_t before, during, after;

	assert_int_equal(host_read_u64(NR_HUGEPAGES, &before), 0);
	fixture_start((const char *const[]){ "--pool=64M", "--hugepages=require", NULL });
	assert_int_equal(host_read_u64(NR_HUGEPAGES, &during), 0);
	if (kill_it) {
		kill(fixture_owner, SIGKILL);
		assert_int_equal(fixture_wait_owner(), -2);
		fixture_start((const char *const[]){ "--pool=64M", "--hugepages=require", NULL });
		fixture_validate();
	}
	kill(fixture_owner, SIGTERM);
	assert_int_equal(fixture_wait_owner(), 0);
	assert_int_equal(host_read_u64(NR_HUGEPAGES, &after), 0);
	return after == before && during >= before;
}

static void check_gives_back(bool kill_it)
{
	char text[512];

	if (run_owner("--pool=64M --hugepages=require --daemonize", text, sizeof(text)) != 0)
		skip_because("no hugepages to be had on this machine");
	json_decref(fixture_qmp("quit", NULL));
	assert_true(owner_ended(5000));
	for (int i = 0; i < 5; i++) {
		if (gives_back(kill_it)) {
			assert_int_equal(rmdir(fixture_dir), 0);
			assert_int_equal(mkdir(fixture_dir, 0700), 0);
			return;
		}
		usleep(200000);
	}
	fail_msg("reserved hugepages were not given back");
}

static void test_gives_back_hugepages(void **state)
{
	(void)state;
	check_gives_back(false);
}

static void test_killed_owner(void **state)
{
	(void)state;
	check_gives_back(true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		OWNER_TEST(test_bad_options),
		OWNER_TEST(test_help_and_version),
		OWNER_TEST(test_path_too_long),
		OWNER_TEST(test_second_owner),
		OWNER_TEST(test_json),
		OWNER_TEST(test_on_demand),
		OWNER_TEST(test_on_demand_race),
		OWNER_TEST(test_on_demand_refusal),
		OWNER_TEST(test_not_found),
		OWNER_TEST(test_grows),
		OWNER_TEST(test_quit),
		OWNER_TEST(test_hugepages_demanded),
		OWNER_TEST(test_hugepages_not_to_be_had),
		OWNER_TEST(test_falls_back),
		OWNER_TEST(test_gives_back_hugepages),
		OWNER_TEST(test_killed_owner),
	};

	return cmocka_run_group_tests(tests, fixture_setup_group, NULL);
}
