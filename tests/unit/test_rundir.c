/* SPDX-License-Identifier: MIT */
/* The run directory: paths, names, who lives, sockets. Each test has a directory of its own. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "framevisor/rundir.h"

static char dir[64];

static int setup(void **state)
{
	(void)state;
	snprintf(dir, sizeof(dir), "/tmp/fv-rundir-XXXXXX");
	assert_non_null(mkdtemp(dir));
	assert_int_equal(setenv("FRAMEVISOR_RUNDIR", dir, 1), 0);
	return 0;
}

static int teardown(void **state)
{
	char command[128];

	(void)state;
	snprintf(command, sizeof(command), "rm -rf '%s'", dir);
	return system(command) == 0 ? 0 : -1;
}

static void test_path_from_environment(void **state)
{
	char path[RUNDIR_PATH_MAX];

	(void)state;
	assert_int_equal(rundir_path(path, false, NULL), 0);
	assert_string_equal(path, dir);
	unsetenv("FRAMEVISOR_RUNDIR");
	assert_int_equal(rundir_path(path, false, NULL), 0);
	if (geteuid() == 0)
		assert_string_equal(path, "/run/framevisor");
}

static void test_path_is_created_private(void **state)
{
	char path[RUNDIR_PATH_MAX], sub[80];
	struct stat st;

	(void)state;
	snprintf(sub, sizeof(sub), "%s/sub", dir);
	setenv("FRAMEVISOR_RUNDIR", sub, 1);
	assert_int_equal(rundir_path(path, true, NULL), 0);
	assert_int_equal(stat(sub, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
	assert_int_equal(rundir_path(path, true, NULL), 0);
}

static void test_path_of_missing_parent(void **state)
{
	char path[RUNDIR_PATH_MAX], sub[80];
	struct error err = { 0 };

	(void)state;
	snprintf(sub, sizeof(sub), "%s/a/b", dir);
	setenv("FRAMEVISOR_RUNDIR", sub, 1);
	assert_int_equal(rundir_path(path, true, &err), -ENOENT);
	assert_non_null(strstr(err.message, sub));
}

static void test_path_that_others_may_write(void **state)
{
	char path[RUNDIR_PATH_MAX];
	struct error err = { 0 };

	(void)state;
	assert_int_equal(chmod(dir, 0777), 0);
	assert_int_equal(rundir_path(path, true, &err), -EPERM);
	assert_non_null(strstr(err.message, "writable by other users"));
	assert_int_equal(chmod(dir, 0700), 0);
}

static void test_path_that_is_a_file(void **state)
{
	char path[RUNDIR_PATH_MAX], file[80];
	FILE *f;

	(void)state;
	snprintf(file, sizeof(file), "%s/file", dir);
	f = fopen(file, "w");
	assert_non_null(f);
	fclose(f);
	setenv("FRAMEVISOR_RUNDIR", file, 1);
	assert_int_equal(rundir_path(path, true, NULL), -ENOTDIR);
}

static void test_path_too_long(void **state)
{
	char path[RUNDIR_PATH_MAX], longer[200];
	struct error err = { 0 };

	(void)state;
	memset(longer, 'a', sizeof(longer));
	longer[0] = '/';
	longer[150] = '\0';
	setenv("FRAMEVISOR_RUNDIR", longer, 1);
	assert_int_equal(rundir_path(path, false, &err), -ENAMETOOLONG);
	assert_non_null(strstr(err.message, "FRAMEVISOR_RUNDIR"));
	/* 98 bytes fit, but not with a socket behind them, nor with a VM's. */
	longer[98] = '\0';
	setenv("FRAMEVISOR_RUNDIR", longer, 1);
	assert_int_equal(rundir_join(path, "pool.sock", NULL), -ENAMETOOLONG);
	assert_int_equal(rundir_vm_claim("vm", NULL), -ENAMETOOLONG);
}

static void test_names(void **state)
{
	static const char *const good[] = { "a", "web-1", "A.b_c", "0", "_x" };
	static const char *const bad[] = { "",    ".",    "..",  ".hidden", "-x",    "a/b",
					   "a b", "\xc3", "a\n", "../x",    "a\x01", "a;b" };
	char name[70];

	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		assert_int_equal(rundir_check_name(good[i], NULL), 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(rundir_check_name(bad[i], NULL), -EINVAL);
	memset(name, 'n', sizeof(name));
	name[63] = '\0';
	assert_int_equal(rundir_check_name(name, NULL), 0);
	name[63] = 'n';
	name[64] = '\0';
	assert_int_equal(rundir_check_name(name, NULL), -EINVAL);
}

static void test_claim_is_exclusive(void **state)
{
	struct error err = { 0 };
	char path[RUNDIR_PATH_MAX];
	int fd = rundir_vm_claim("web", &err), status;
	pid_t child;

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(rundir_vm_pid("web"), getpid());
	child = fork();
	if (child == 0) {
		int second;

		close(fd); /* the lock belongs to the open file, which the parent has too */
		second = rundir_vm_claim("web", &err);
		_exit(second == -EEXIST && strstr(err.message, "'web' is running") ? 0 : 1);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	rundir_vm_unclaim("web", fd);
	assert_int_equal(rundir_vm_pid("web"), 0);
	assert_int_equal(rundir_vm_join(path, "web", NULL, NULL), 0);
	assert_int_equal(access(path, F_OK), -1);
}

/* A process that has the name until it is killed. */
static pid_t claimer(const char *name)
{
	int fds[2];
	char byte;
	pid_t child;

	assert_int_equal(pipe(fds), 0);
	child = fork();
	if (child == 0) {
		close(fds[0]);
		if (rundir_vm_claim(name, NULL) < 0 || write(fds[1], "", 1) != 1)
			_exit(1);
		close(fds[1]);
		pause();
		_exit(0);
	}
	close(fds[1]);
	assert_int_equal(read(fds[0], &byte, 1), 1);
	close(fds[0]);
	return child;
}

static void end(pid_t child)
{
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
}

static void test_name_of_a_killed_process(void **state)
{
	char stale[RUNDIR_PATH_MAX];
	pid_t child = claimer("web");
	FILE *file;
	int fd;

	(void)state;
	assert_int_equal(rundir_vm_pid("web"), child);
	assert_int_equal(rundir_vm_join(stale, "web", "qmp.sock", NULL), 0);
	file = fopen(stale, "w");
	assert_non_null(file);
	fclose(file);
	end(child);
	assert_int_equal(rundir_vm_pid("web"), 0);
	fd = rundir_vm_claim("web", NULL);
	assert_true(fd >= 0);
	assert_int_equal(access(stale, F_OK), -1);
	rundir_vm_unclaim("web", fd);
}

struct seen {
	unsigned int nr;
	char names[4][64];
	pid_t pids[4];
};

static void note(void *opaque, const char *name, pid_t pid)
{
	struct seen *seen = opaque;

	assert_true(seen->nr < 4);
	snprintf(seen->names[seen->nr], 64, "%s", name);
	seen->pids[seen->nr++] = pid;
}

static void test_each_alive_in_order(void **state)
{
	struct seen seen = { 0 };
	pid_t b, a, dead;

	(void)state;
	assert_int_equal(rundir_vm_each(note, &seen), 0);
	b = claimer("b");
	a = claimer("a");
	dead = claimer("dead");
	end(dead);
	assert_int_equal(rundir_vm_each(note, &seen), 2);
	assert_int_equal(seen.nr, 2);
	assert_string_equal(seen.names[0], "a");
	assert_int_equal(seen.pids[0], a);
	assert_string_equal(seen.names[1], "b");
	assert_int_equal(seen.pids[1], b);
	end(a);
	end(b);
}

/* Whoever asks who holds a lock takes it for a moment; a claim must not be lost to that. */
static void test_claim_while_others_look(void **state)
{
	pid_t looker = fork();

	(void)state;
	if (looker == 0) {
		for (;;)
			rundir_vm_pid("web");
	}
	for (int i = 0; i < 50; i++) {
		int fd = rundir_vm_claim("web", NULL);

		assert_true(fd >= 0);
		rundir_vm_unclaim("web", fd);
	}
	end(looker);
}

static void test_sockets(void **state)
{
	char path[RUNDIR_PATH_MAX];
	struct error err = { 0 };
	struct stat st;
	int fd, other;

	(void)state;
	assert_int_equal(rundir_join(path, "x.sock", NULL), 0);
	assert_int_equal(rundir_connect(path, SOCK_STREAM, NULL), -ENOENT);
	fd = rundir_listen(path, SOCK_STREAM, NULL);
	assert_true(fd >= 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	other = rundir_connect(path, SOCK_STREAM, NULL);
	assert_true(other >= 0);
	close(other);
	assert_int_equal(rundir_listen(path, SOCK_STREAM, &err), -EADDRINUSE);
	assert_non_null(strstr(err.message, path));
	close(fd); /* the file stays behind, as after a kill */
	assert_int_equal(rundir_connect(path, SOCK_STREAM, NULL), -ECONNREFUSED);
	fd = rundir_listen(path, SOCK_SEQPACKET, NULL);
	assert_true(fd >= 0);
	other = rundir_connect(path, SOCK_SEQPACKET, NULL);
	assert_true(other >= 0);
	close(other);
	close(fd);
}

/* In a run directory that a group shares, somebody may have put a link where a VM's directory goes:
 * its target must stay as it is. */
static void test_link_instead_of_directory(void **state)
{
	char vms[80], link[96], target[80], file[96];
	struct error err = { 0 };
	FILE *victim;

	(void)state;
	snprintf(vms, sizeof(vms), "%s/vm", dir);
	snprintf(link, sizeof(link), "%s/web", vms);
	snprintf(target, sizeof(target), "%s/target", dir);
	snprintf(file, sizeof(file), "%s/file", target);
	assert_int_equal(mkdir(vms, 0700), 0);
	assert_int_equal(mkdir(target, 0700), 0);
	victim = fopen(file, "we");
	assert_non_null(victim);
	assert_int_equal(fclose(victim), 0);
	assert_int_equal(symlink(target, link), 0);
	assert_int_equal(rundir_vm_claim("web", &err), -EEXIST);
	assert_non_null(strstr(err.message, "another name"));
	assert_int_equal(access(file, F_OK), 0);
	if (geteuid() == 0) { /* and a directory of somebody else's */
		assert_int_equal(unlink(link), 0);
		assert_int_equal(mkdir(link, 0700), 0);
		assert_int_equal(chown(link, 65534, 65534), 0);
		assert_int_equal(rundir_vm_claim("web", &err), -EEXIST);
	}
}

static void test_shared_with_a_group(void **state)
{
	char path[96];
	struct error err = { 0 };
	struct stat st;
	int fd;

	(void)state;
	assert_int_equal(rundir_share("no-such-group", &err), -ENOENT);
	snprintf(path, sizeof(path), "%s/pool.sock", dir);
	fd = rundir_listen(path, SOCK_SEQPACKET, &err);
	assert_true(fd >= 0);
	if (rundir_share("daemon", &err) < 0) {
		close(fd);
		skip(); /* only root, and who is in the group, may */
	}
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0660);
	assert_int_equal(stat(dir, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0750);
	snprintf(path, sizeof(path), "%s/vm", dir);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 01770);
	close(fd);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_path_from_environment),
		TEST(test_path_is_created_private),
		TEST(test_path_of_missing_parent),
		TEST(test_path_that_others_may_write),
		TEST(test_path_that_is_a_file),
		TEST(test_path_too_long),
		TEST(test_names),
		TEST(test_claim_is_exclusive),
		TEST(test_name_of_a_killed_process),
		TEST(test_each_alive_in_order),
		TEST(test_claim_while_others_look),
		TEST(test_sockets),
		TEST(test_link_instead_of_directory),
		TEST(test_shared_with_a_group),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
