/* SPDX-License-Identifier: MIT */
/*
 * What verbs ask of the pool owner, word for word, and what they refuse before they ask. The owner
 * is this program: it greets with a frame size and says yes to everything.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "framevisor/frame.h"
#include "framevisor/rundir.h"
#include "vmm/cli/cli.h"

#define SIZE_1G  (UINT64_C(1) << FRAME_SHIFT_1G)
#define ARGS_MAX 8
#define LINE_MAX 512

struct outcome {
	int status;
	bool connected;
	json_t *request; /* the last, or NULL */
	char errors[LINE_MAX];
};

static char dir[] = "/tmp/fv-cli-XXXXXX";
static int listen_fd;

static int setup(void **state)
{
	char path[RUNDIR_PATH_MAX];
	struct error err = { 0 };

	(void)state;
	if (!mkdtemp(dir) || setenv("FRAMEVISOR_RUNDIR", dir, 1) ||
	    rundir_join(path, "pool-qmp.sock", &err))
		return -1;
	listen_fd = rundir_listen(path, SOCK_STREAM, &err);
	return listen_fd < 0;
}

static int teardown(void **state)
{
	char path[RUNDIR_PATH_MAX];
	struct error err = { 0 };

	(void)state;
	close(listen_fd);
	return rundir_join(path, "pool-qmp.sock", &err) || unlink(path) || rmdir(dir);
}

/* Until the verb hangs up. */
static void serve(FILE *client, uint64_t frame_size, struct outcome *outcome)
{
	char line[LINE_MAX];

	fprintf(client, "{\"QMP\": {\"frame-size\": %llu}}\r\n", (unsigned long long)frame_size);
	(void)fflush(client);
	while (fgets(line, sizeof(line), client)) {
		json_decref(outcome->request);
		outcome->request = json_loads(line, 0, NULL);
		(void)fputs("{\"return\": {}}\r\n", client);
		(void)fflush(client);
	}
	(void)fclose(client);
}

/* words: separated by spaces. In a process of its own: the frame size is decided once. */
static pid_t start(const char *words, int *errors)
{
	static char program[] = "framevisor";
	char text[LINE_MAX], *argv[ARGS_MAX + 1] = { program };
	int argc = 1, fds[2];
	pid_t pid;

	snprintf(text, sizeof(text), "%s", words);
	for (char *word = strtok(text, " "); word && argc < ARGS_MAX; word = strtok(NULL, " "))
		argv[argc++] = word;
	assert_int_equal(pipe(fds), 0);
	pid = fork();
	if (pid == 0) {
		close(fds[0]);
		dup2(fds[1], STDERR_FILENO);
		close(fds[1]);
		_exit(cli_main(argc, argv));
	}
	assert_true(pid > 0);
	close(fds[1]);
	*errors = fds[0];
	return pid;
}

/* To be ended with json_decref(outcome.request). */
static struct outcome run(const char *words, uint64_t frame_size)
{
	struct outcome outcome = { 0 };
	struct pollfd fds[2] = { { .fd = listen_fd, .events = POLLIN }, { .events = POLLIN } };
	pid_t pid = start(words, &fds[1].fd);
	int status;
	ssize_t n;

	assert_true(poll(fds, 2, 60000) > 0);
	if (fds[0].revents) {
		int fd = accept(listen_fd, NULL, NULL);

		assert_true(fd >= 0);
		outcome.connected = true;
		serve(fdopen(fd, "r+"), frame_size, &outcome);
	}
	n = read(fds[1].fd, outcome.errors, sizeof(outcome.errors) - 1);
	assert_true(n >= 0);
	outcome.errors[n] = '\0';
	close(fds[1].fd);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	outcome.status = WEXITSTATUS(status);
	return outcome;
}

static void expect_request(const char *words, uint64_t frame_size, const char *command,
			   json_t *arguments)
{
	struct outcome outcome = run(words, frame_size);
	json_t *got = json_object_get(outcome.request, "arguments");

	if (outcome.status != CLI_OK)
		fail_msg("'%s': %s", words, outcome.errors);
	assert_string_equal(json_string_value(json_object_get(outcome.request, "execute")),
			    command);
	if (arguments ? !json_equal(got, arguments) : got != NULL)
		fail_msg("'%s' asks %s", words, json_dumps(got, JSON_ENCODE_ANY));
	json_decref(arguments);
	json_decref(outcome.request);
}

/* Nothing was asked for; the message has the part. */
static void expect_refused(const char *words, uint64_t frame_size, const char *part)
{
	struct outcome outcome = run(words, frame_size);
	json_t *command = json_object_get(outcome.request, "execute");

	assert_int_equal(outcome.status, CLI_ERROR);
	if (command)
		assert_string_equal(json_string_value(command), "qmp_capabilities");
	if (!strstr(outcome.errors, part))
		fail_msg("'%s': no \"%s\" in: %s", words, part, outcome.errors);
	json_decref(outcome.request);
}

/* Sizes are the pool's frames, whatever this process began with. */
static void test_set_sizes(void **state)
{
	(void)state;
	expect_request("set web --min 1G", SIZE_1G, "vm-set",
		       json_pack("{s:s, s:i}", "name", "web", "min", 1));
	expect_request("set web --min 1G --max 3G", SIZE_1G, "vm-set",
		       json_pack("{s:s, s:i, s:i}", "name", "web", "min", 1, "max", 3));
	expect_request("set web --min 1G --max 3G", FRAME_SIZE_2M, "vm-set",
		       json_pack("{s:s, s:i, s:i}", "name", "web", "min", 512, "max", 1536));
	expect_refused("set web --min 512M", SIZE_1G, "--min must be a multiple of 1 GiB");
	expect_refused("set web --max 1536M", SIZE_1G, "--max must be a multiple of 1 GiB");
	expect_refused("set web --max 3M", FRAME_SIZE_2M, "--max must be a multiple of 2 MiB");
	expect_refused("set web --min 0", FRAME_SIZE_2M, "--min must be a multiple of 2 MiB");
}

static void test_set_weights(void **state)
{
	struct outcome outcome = run("set web", FRAME_SIZE_2M);

	(void)state;
	/* No pool is needed to see that. */
	assert_int_equal(outcome.status, CLI_ERROR);
	assert_non_null(strstr(outcome.errors, "nothing to set"));
	assert_false(outcome.connected);
	expect_request(
		"set web --shares 2000 --oom-score-adj -7", FRAME_SIZE_2M, "vm-set",
		json_pack("{s:s, s:i, s:i}", "name", "web", "shares", 2000, "oom-score-adj", -7));
	expect_refused("set web --oom-score-adj 1001", FRAME_SIZE_2M, "--oom-score-adj must be");
}

/* A setting is all that is done, so nothing else may be asked for with it. */
static void test_pool_set(void **state)
{
	(void)state;
	expect_request("pool --set overcommit_memory=0", FRAME_SIZE_2M, "pool-set",
		       json_pack("{s:s, s:s}", "name", "overcommit_memory", "value", "0"));
	expect_refused("pool stop --set overcommit_memory=0", FRAME_SIZE_2M,
		       "'pool --set' takes no argument 'stop'");
	expect_refused("pool grow 1G --set overcommit_memory=0", FRAME_SIZE_2M,
		       "'pool --set' takes no argument 'grow'");
	expect_refused("pool --set overcommit_memory", FRAME_SIZE_2M, "--set wants NAME=VALUE");
}

/* In the kernel's format, from the owner. */
static void test_pool_slabinfo(void **state)
{
	(void)state;
	expect_request("pool slabinfo", FRAME_SIZE_2M, "query-slabinfo", NULL);
	expect_refused("pool slabinfo client", FRAME_SIZE_2M, "takes no argument 'client'");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_set_sizes),
		cmocka_unit_test(test_set_weights),
		cmocka_unit_test(test_pool_set),
		cmocka_unit_test(test_pool_slabinfo),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
