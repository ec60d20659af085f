/* SPDX-License-Identifier: MIT */
/* The host's nodes and hugepages, over a made-up /sys and /proc; see vmm/owner/{host,hugepages}.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "framevisor/frame.h"
#include "tests/unit/skip.h"
#include "tests/unit/sleep.h"
#include "vmm/owner/host.h"
#include "vmm/owner/hugepages.h"

static char root[32];
static char record[64];

__attribute__((format(printf, 2, 3))) static void put(const char *path, const char *fmt, ...)
{
	char full[256], command[300];
	va_list args;
	FILE *file;

	snprintf(full, sizeof(full), "%s/%s", root, path);
	snprintf(command, sizeof(command), "mkdir -p \"$(dirname '%s')\"", full);
	assert_int_equal(system(command), 0);
	file = fopen(full, "w");
	assert_non_null(file);
	va_start(args, fmt);
	vfprintf(file, fmt, args);
	va_end(args);
	fclose(file);
}

static uint64_t get(const char *path)
{
	char full[256];
	uint64_t value;

	snprintf(full, sizeof(full), "%s/%s", root, path);
	assert_int_equal(host_read_u64(full, &value), 0);
	return value;
}

#define NODE(n)   "sys/devices/system/node/node" #n "/"
#define NR(n)     NODE(n) "hugepages/hugepages-2048kB/nr_hugepages"
#define FREE(n)   NODE(n) "hugepages/hugepages-2048kB/free_hugepages"
#define GLOBAL(f) "sys/kernel/mm/hugepages/hugepages-2048kB/" f

static void put_node(unsigned int nid, uint64_t total_kb, unsigned int nr, unsigned int nr_free)
{
	char path[128];

	snprintf(path, sizeof(path), "sys/devices/system/node/node%u/meminfo", nid);
	put(path,
	    "Node %u MemTotal:       %" PRIu64 " kB\nNode %u MemFree:        %" PRIu64 " kB\n"
	    "Node %u Active(file):   1024 kB\nNode %u SReclaimable:   2048 kB\n",
	    nid, total_kb, nid, total_kb / 2, nid, nid);
	snprintf(path, sizeof(path),
		 "sys/devices/system/node/node%u/hugepages/hugepages-2048kB/nr_hugepages", nid);
	put(path, "%u\n", nr);
	snprintf(path, sizeof(path),
		 "sys/devices/system/node/node%u/hugepages/hugepages-2048kB/free_hugepages", nid);
	put(path, "%u\n", nr_free);
}

static int setup(void **state)
{
	(void)state;
	snprintf(root, sizeof(root), "/tmp/fv-hp-XXXXXX");
	assert_non_null(mkdtemp(root));
	snprintf(record, sizeof(record), "%s/record", root);
	put("proc/meminfo", "MemTotal: 8388608 kB\nMemAvailable: 4194304 kB\n"
			    "Hugepagesize:       2048 kB\n");
	put("proc/sys/kernel/random/boot_id", "boot-1\n");
	put(GLOBAL("nr_hugepages"), "30\n");
	put(GLOBAL("resv_hugepages"), "0\n");
	put_node(0, 4194304, 10, 4);
	put_node(1, 4194304, 20, 0);
	put(NODE(0) "distance", "10 21\n");
	put(NODE(1) "distance", "21 10\n");
	return 0;
}

static int teardown(void **state)
{
	char command[64];

	(void)state;
	snprintf(command, sizeof(command), "rm -rf '%s'", root);
	return system(command) == 0 ? 0 : -1;
}

static void init(struct hugepages *hp, uint64_t *returned)
{
	struct host host;

	assert_int_equal(host_read(&host, root, NULL), 0);
	assert_int_equal(hugepages_init(hp, &host, root, record, returned, NULL), 0);
}

static void test_host(void **state)
{
	struct host host;

	(void)state;
	put_node(2, 0, 0, 0); /* CPUs only */
	put_node(5, 1048576, 0, 0);
	put(NODE(5) "distance", "40 41 42 10\n");
	put(NODE(1) "cpulist", "0-3\n");
	put(NODE(5) "cpulist", "\n");
	assert_int_equal(host_read(&host, root, NULL), 0);
	assert_int_equal(host.nr_nodes, 3);
	assert_int_equal(host.node[2].nid, 5);
	assert_true(host.total == UINT64_C(8) << 30 && host.available == UINT64_C(4) << 30);
	assert_true(host.node[0].total == UINT64_C(4) << 30);
	assert_true(host.node[0].available == (UINT64_C(2) << 30) + (2 << 20));
	assert_int_equal(host.distance[0][1], 21);
	assert_int_equal(host.distance[1][1], 10);
	assert_int_equal(host.distance[0][2], 20); /* node 0 does not say */
	assert_int_equal(host.distance[2][1], 41); /* fourth online, third with memory */
	assert_int_equal(host.distance[2][2], 10);
	/* Node 0 does not say that either. */
	assert_true(!host.node[0].cpuless && !host.node[1].cpuless && host.node[2].cpuless);
}

static void test_host_without_numa(void **state)
{
	char command[64];
	struct host host;

	(void)state;
	snprintf(command, sizeof(command), "rm -r '%s/sys/devices'", root);
	assert_int_equal(system(command), 0);
	assert_int_equal(host_read(&host, root, NULL), 0);
	assert_int_equal(host.nr_nodes, 1);
	assert_true(host.node[0].available == UINT64_C(4) << 30);
}

static void test_host_unreadable(void **state)
{
	struct error err = { 0 };
	struct host host;

	(void)state;
	assert_int_equal(host_read(&host, "/nonexistent", &err), -ENOENT);
	assert_non_null(strstr(err.message, "/nonexistent/proc/meminfo"));
}

static void check_spread(uint64_t want, unsigned int nr, const uint64_t *room, uint64_t sum,
			 const uint64_t *expect)
{
	uint64_t part[8];

	assert_true(host_spread(want, nr, room, part) == sum);
	for (unsigned int i = 0; i < nr; i++)
		assert_true(part[i] == expect[i]);
}

static void test_spread(void **state)
{
	(void)state;
	check_spread(10, 2, (uint64_t[]){ 100, 100 }, 10, (uint64_t[]){ 5, 5 });
	check_spread(11, 2, (uint64_t[]){ 100, 100 }, 11, (uint64_t[]){ 6, 5 });
	check_spread(10, 3, (uint64_t[]){ 1, 100, 0 }, 10, (uint64_t[]){ 1, 9, 0 });
	check_spread(10, 2, (uint64_t[]){ 3, 4 }, 7, (uint64_t[]){ 3, 4 });
	check_spread(1, 3, (uint64_t[]){ 0, 0, 7 }, 1, (uint64_t[]){ 0, 0, 1 });
	check_spread(0, 1, (uint64_t[]){ 9 }, 0, (uint64_t[]){ 0 });
	check_spread(5, 1, (uint64_t[]){ 0 }, 0, (uint64_t[]){ 0 });
}

static void test_usable(void **state)
{
	struct hugepages hp;

	(void)state;
	init(&hp, NULL);
	assert_true(hugepages_supported(&hp));
	assert_true(hugepages_may_raise(&hp));
	assert_true(hugepages_usable(&hp, 0) == 4);
	assert_true(hugepages_usable(&hp, 1) == 0);
	put(GLOBAL("resv_hugepages"), "3\n");
	assert_true(hugepages_usable(&hp, 0) == 1);
	put(GLOBAL("resv_hugepages"), "9\n");
	assert_true(hugepages_usable(&hp, 0) == 0);
}

static void test_raise_and_give_back(void **state)
{
	struct hugepages hp;

	(void)state;
	init(&hp, NULL);
	assert_true(hugepages_raise(&hp, 0, 5) == 5);
	assert_true(hugepages_raise(&hp, 1, 2) == 2);
	assert_true(hugepages_raise(&hp, 0, 1) == 1);
	assert_true(get(NR(0)) == 16 && get(NR(1)) == 22);
	assert_true(hugepages_raised(&hp) == 8);
	hugepages_lower(&hp, 0, 2);
	assert_true(get(NR(0)) == 14);
	put(NR(1), "50\n"); /* somebody else added some: theirs stay */
	hugepages_give_back(&hp);
	assert_true(get(NR(0)) == 10 && get(NR(1)) == 48);
	assert_true(hugepages_raised(&hp) == 0);
	assert_int_equal(access(record, F_OK), -1);
	hugepages_give_back(&hp);
	assert_true(get(NR(0)) == 10);
}

static void test_lower_no_more_than_raised(void **state)
{
	struct hugepages hp;

	(void)state;
	init(&hp, NULL);
	assert_true(hugepages_raise(&hp, 0, 3) == 3);
	hugepages_lower(&hp, 0, 100);
	assert_true(get(NR(0)) == 10);
}

static void test_recovers_after_a_kill(void **state)
{
	struct hugepages dead, hp;
	uint64_t returned;

	(void)state;
	init(&dead, NULL);
	hugepages_raise(&dead, 0, 5);
	hugepages_raise(&dead, 1, 7);
	init(&hp, &returned);
	assert_true(returned == 12);
	assert_true(get(NR(0)) == 10 && get(NR(1)) == 20);
	assert_int_equal(access(record, F_OK), -1);
	init(&hp, &returned);
	assert_true(returned == 0);
}

/* The owner that was killed had frames of another size. */
static void test_recovers_another_size(void **state)
{
	struct hugepages hp;
	uint64_t returned;

	(void)state;
	put("sys/devices/system/node/node1/hugepages/hugepages-1048576kB/nr_hugepages", "3\n");
	put("record", "boot boot-1 pages 1048576\nnode 1 raised 2 pending 0 before 0\n");
	init(&hp, &returned);
	assert_true(returned == 2);
	assert_true(get("sys/devices/system/node/node1/hugepages/hugepages-1048576kB/"
			"nr_hugepages") == 1);
	assert_true(get(NR(1)) == 20);
	assert_int_equal(hp.page_kb, 2048);
}

/* Killed between asking the kernel and writing down what came of it. */
static void test_recovers_an_interrupted_raise(void **state)
{
	struct hugepages hp;
	uint64_t returned;

	(void)state;
	put("record", "boot boot-1\nnode 0 raised 2 pending 5 before 12\n");
	put(NR(0), "15\n"); /* three of the five came */
	init(&hp, &returned);
	assert_true(returned == 5);
	assert_true(get(NR(0)) == 10);

	put("record", "boot boot-1\nnode 1 raised 0 pending 9 before 20\n");
	init(&hp, &returned); /* none came */
	assert_true(returned == 0);
	assert_true(get(NR(1)) == 20);

	put("record", "boot boot-1\nnode 1 raised 0 pending 2 before 20\n");
	put(NR(1), "40\n"); /* more than ours came: others add too */
	init(&hp, &returned);
	assert_true(returned == 2);
	assert_true(get(NR(1)) == 38);
}

/* Killed between lowering and writing down that it was done. */
static void test_recovers_an_interrupted_lowering(void **state)
{
	struct hugepages hp;
	uint64_t returned;

	(void)state;
	put("record", "boot boot-1\nnode 0 raised 2 pending 3 before 12\n");
	put(NR(0), "12\n"); /* it took place */
	init(&hp, &returned);
	assert_true(returned == 2);
	assert_true(get(NR(0)) == 10);

	put("record", "boot boot-1\nnode 0 raised 2 pending 3 before 12\n");
	put(NR(0), "15\n"); /* it did not */
	init(&hp, &returned);
	assert_true(returned == 5);
	assert_true(get(NR(0)) == 10);
}

/* The file may be empty at the moment. */
static bool reads_as(const char *path, uint64_t expected)
{
	uint64_t value;

	return host_read_u64(path, &value) == 0 && value == expected;
}

static pid_t start_lowering(struct hugepages *hp, uint64_t nr)
{
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		hugepages_lower(hp, 0, nr);
		_exit(0);
	}
	return pid;
}

static void kill_and_wait(pid_t pid)
{
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

/*
 * The kill itself: a lease stops the owner where it opens the node's file to lower the number; a
 * pipe without a reader then stops it where it writes down that this was done.
 */
static void test_killed_after_lowering(void **state)
{
	char path[256], temp[sizeof(record) + 8];
	struct hugepages dead, hp;
	uint64_t returned;
	pid_t pid;
	int fd;

	(void)state;
	init(&dead, NULL);
	assert_true(hugepages_raise(&dead, 0, 5) == 5);
	snprintf(path, sizeof(path), "%s/%s", root, NR(0));
	snprintf(temp, sizeof(temp), "%s.new", record);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	signal(SIGIO, SIG_IGN);
	if (fcntl(fd, F_SETLEASE, F_RDLCK) < 0) {
		close(fd);
		skip_because("no leases on this file system");
	}
	pid = start_lowering(&dead, 2);
	while (fcntl(fd, F_GETLEASE) == F_RDLCK)
		sleep_ms(1);
	assert_int_equal(mkfifo(temp, 0600), 0);
	assert_int_equal(fcntl(fd, F_SETLEASE, F_UNLCK), 0);
	close(fd);
	for (unsigned int i = 0; i < 1000 && !reads_as(path, 13); i++)
		sleep_ms(1);
	assert_true(get(NR(0)) == 13);
	kill_and_wait(pid);
	assert_int_equal(unlink(temp), 0);
	init(&hp, &returned);
	assert_true(returned == 3);
	assert_true(get(NR(0)) == 10);
}

/* A record that can no longer be replaced says what is still raised: nothing is lowered, or the
 * next owner would do so again. */
static void test_no_lowering_without_a_record(void **state)
{
	char temp[sizeof(record) + 8];
	struct hugepages hp;

	(void)state;
	init(&hp, NULL);
	assert_true(hugepages_raise(&hp, 0, 5) == 5);
	snprintf(temp, sizeof(temp), "%s.new", record);
	assert_int_equal(mkdir(temp, 0700), 0);
	assert_true(hugepages_lower(&hp, 0, 2) < 0);
	assert_true(get(NR(0)) == 15 && hugepages_raised(&hp) == 5);
	assert_int_equal(rmdir(temp), 0);
	hugepages_give_back(&hp);
	assert_true(get(NR(0)) == 10);
}

/* What the kernel does not take back is still ours, and the next owner's to give back. */
static void test_failed_lowering_is_kept(void **state)
{
	struct hugepages hp, next;
	uint64_t returned;
	char path[256];

	(void)state;
	init(&hp, NULL);
	assert_true(hugepages_raise(&hp, 0, 5) == 5);
	assert_true(hugepages_raise(&hp, 1, 2) == 2);
	snprintf(path, sizeof(path), "%s/%s", root, NR(0));
	assert_int_equal(unlink(path), 0);
	assert_true(hugepages_lower(&hp, 0, 2) < 0);
	assert_true(hugepages_raised(&hp) == 7);
	hugepages_give_back(&hp);
	assert_true(hugepages_raised(&hp) == 5 && get(NR(1)) == 20);
	/* Nor can the next one, at first. */
	init(&next, &returned);
	assert_true(returned == 0 && hugepages_raised(&next) == 5);
	put(NR(0), "15\n");
	init(&next, &returned);
	assert_true(returned == 5 && get(NR(0)) == 10);
	assert_int_equal(access(record, F_OK), -1);
}

/* Another owner in the middle of changing the number: ours waits until that is written. */
static void test_waits_for_other_owners(void **state)
{
	char path[256];
	struct hugepages hp;
	pid_t pid;
	int fd;

	(void)state;
	put(GLOBAL("free_hugepages"), "4\n");
	init(&hp, NULL);
	snprintf(path, sizeof(path), "%s/%s", root, GLOBAL("free_hugepages"));
	for (int lower = 0; lower < 2; lower++) {
		fd = open(path, O_RDONLY | O_CLOEXEC);
		assert_int_equal(flock(fd, LOCK_EX), 0);
		pid = fork();
		assert_true(pid >= 0);
		if (pid == 0) {
			sleep_ms(200);
			put(NR(0), lower ? "115" : "100");
			_exit(0); /* the last to have the lock open */
		}
		close(fd);
		if (lower)
			hugepages_give_back(&hp);
		else
			assert_true(hugepages_raise(&hp, 0, 5) == 5);
		assert_true(get(NR(0)) == (lower ? 110 : 105));
		assert_int_equal(waitpid(pid, NULL, 0), pid);
	}
}

static void test_forgets_a_record_of_another_boot(void **state)
{
	struct hugepages dead, hp;
	uint64_t returned;

	(void)state;
	init(&dead, NULL);
	hugepages_raise(&dead, 0, 5);
	put("proc/sys/kernel/random/boot_id", "boot-2\n");
	init(&hp, &returned);
	assert_true(returned == 0);
	assert_true(get(NR(0)) == 15);
	assert_int_equal(access(record, F_OK), -1);
}

static void test_damaged_record(void **state)
{
	struct hugepages hp;
	uint64_t returned;

	(void)state;
	put("record",
	    "boot boot-1\nnode x\nnode 0 raised 3\n\n%%%%\nnode 1 raised 4 pending 0 before 0");
	init(&hp, &returned);
	assert_true(returned == 4);
	assert_true(get(NR(0)) == 10 && get(NR(1)) == 16);
	put("record", "%s", "");
	init(&hp, &returned);
	assert_true(returned == 0);
}

/* Without a record nothing is raised: nobody could give it back. */
static void test_no_raise_without_a_record(void **state)
{
	struct hugepages hp;

	(void)state;
	snprintf(record, sizeof(record), "%s/missing/record", root);
	init(&hp, NULL);
	assert_true(hugepages_raise(&hp, 0, 5) == 0);
	assert_true(get(NR(0)) == 10);
	assert_true(hugepages_raised(&hp) == 0);
}

static void test_one_node_uses_global_files(void **state)
{
	char command[64];
	struct hugepages hp;

	(void)state;
	snprintf(command, sizeof(command), "rm -r '%s/sys/devices'", root);
	assert_int_equal(system(command), 0);
	put(GLOBAL("free_hugepages"), "6\n");
	put(GLOBAL("resv_hugepages"), "1\n");
	init(&hp, NULL);
	assert_true(hugepages_may_raise(&hp));
	assert_true(hugepages_usable(&hp, 0) == 5);
	assert_true(hugepages_raise(&hp, 0, 4) == 4);
	assert_true(get(GLOBAL("nr_hugepages")) == 34);
	hugepages_give_back(&hp);
	assert_true(get(GLOBAL("nr_hugepages")) == 30);
}

static void test_kernel_without_hugepages(void **state)
{
	char command[64];
	struct hugepages hp;

	(void)state;
	snprintf(command, sizeof(command), "rm -r '%s/sys'", root);
	assert_int_equal(system(command), 0);
	init(&hp, NULL);
	assert_false(hugepages_supported(&hp));
	assert_true(hugepages_usable(&hp, 0) == 0);
	assert_true(hugepages_raise(&hp, 0, 4) == 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_host),
		TEST(test_host_without_numa),
		TEST(test_host_unreadable),
		TEST(test_spread),
		TEST(test_usable),
		TEST(test_raise_and_give_back),
		TEST(test_lower_no_more_than_raised),
		TEST(test_recovers_after_a_kill),
		TEST(test_recovers_an_interrupted_raise),
		TEST(test_recovers_an_interrupted_lowering),
		TEST(test_killed_after_lowering),
		TEST(test_no_lowering_without_a_record),
		TEST(test_failed_lowering_is_kept),
		TEST(test_waits_for_other_owners),
		TEST(test_recovers_another_size),
		TEST(test_forgets_a_record_of_another_boot),
		TEST(test_damaged_record),
		TEST(test_no_raise_without_a_record),
		TEST(test_one_node_uses_global_files),
		TEST(test_kernel_without_hugepages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
