/* SPDX-License-Identifier: MIT */
/*
 * Starting the pool owner on demand: see owner_start.h.
 *
 * framevisord --daemonize returns when the pool is ready; until then its stderr is our pipe. It
 * writes lines "progress PERCENT" and, as everywhere, "framevisord: what is wrong".
 */
#include "vmm/owner/owner_start.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "framevisor/frame.h"
#include "framevisor/log.h"
#include "vmm/owner/fill_progress.h"

#define PROGRAM  "framevisord"
#define ARGS_MAX 8

extern char **environ;

/* What a child said that was not progress: the last line is held back, it may be the error. */
struct relay {
	char last[512];
	struct fill_progress progress;
};

static void find_program(char *path, size_t size)
{
	ssize_t len = readlink("/proc/self/exe", path, size - sizeof(PROGRAM) - 1);
	char *slash;

	if (len > 0) {
		path[len] = '\0';
		slash = strrchr(path, '/');
		if (slash) {
			memcpy(slash + 1, PROGRAM, sizeof(PROGRAM));
			if (access(path, X_OK) == 0)
				return;
		}
	}
	memcpy(path, PROGRAM, sizeof(PROGRAM));
}

static void relay_line(struct relay *relay, char *line)
{
	line[strcspn(line, "\n")] = '\0';
	if (strncmp(line, "progress ", 9) == 0) {
		fill_progress_show(&relay->progress, (unsigned int)strtoul(line + 9, NULL, 10));
		return;
	}
	if (strncmp(line, PROGRAM ": ", sizeof(PROGRAM) + 1) == 0)
		line += sizeof(PROGRAM) + 1;
	if (relay->last[0])
		log_warn("%s", relay->last);
	snprintf(relay->last, sizeof(relay->last), "%s", line);
}

static void relay_all(struct relay *relay, int fd)
{
	FILE *file = fdopen(fd, "r");
	char line[512];

	if (!file) {
		close(fd);
		return;
	}
	while (fgets(line, sizeof(line), file))
		relay_line(relay, line);
	(void)fclose(file);
	fill_progress_end(&relay->progress);
}

/* Everything that a service must not inherit from us is set straight: signals, session, fds. */
static int spawn(const char *path, char **argv, int stderr_fd, pid_t *pid)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t none, all;
	int ret;

	sigemptyset(&none);
	sigfillset(&all);
	posix_spawn_file_actions_init(&actions);
	posix_spawnattr_init(&attr);
	posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
	posix_spawn_file_actions_adddup2(&actions, stderr_fd, STDERR_FILENO);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &all);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
						POSIX_SPAWN_SETSID);
	ret = posix_spawnp(pid, path, &actions, &attr, argv, environ);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&actions);
	return -ret;
}

static int wait_for(pid_t pid, const struct relay *relay, struct error *err)
{
	int status = 0;

	while (waitpid(pid, &status, 0) < 0) {
		if (errno == EINTR)
			continue;
		return 0; /* SIGCHLD is ignored here: connecting will show how it went */
	}
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
		if (relay->last[0])
			log_warn("%s", relay->last);
		return 0;
	}
	if (relay->last[0])
		return error_set(err, EIO, "%s", relay->last);
	return error_set(err, EIO, "%s ended at its start (wait status 0x%x)", PROGRAM, status);
}

int owner_start(const struct owner_client_config *config, struct error *err)
{
	static const char *const modes[] = {
		[HUGEPAGES_AUTO] = "--hugepages=auto",
		[HUGEPAGES_REQUIRE] = "--hugepages=require",
		[HUGEPAGES_NEVER] = "--hugepages=never",
		[HUGEPAGES_GIGANTIC] = "--hugepages=1G",
	};
	struct relay relay = { 0 };
	char path[PATH_MAX], size[64], mode[32];
	char *argv[ARGS_MAX] = { (char[]){ PROGRAM }, (char[]){ "--on-demand" }, mode, size };
	int fds[2], ret;
	pid_t pid;

	snprintf(mode, sizeof(mode), "%s", modes[config->hugepages]);
	if (config->pool_bytes)
		snprintf(size, sizeof(size), "--pool=%" PRIu64 "B", config->pool_bytes);
	else if (config->host_nodes) /* it says where, in its HELLO */
		argv[3] = NULL;
	else
		snprintf(size, sizeof(size), "--initial=%" PRIu64 "B",
			 frames_to_bytes(config->ram_frames));
	find_program(path, sizeof(path));
	fill_progress_begin(&relay.progress, "filling the pool", config->tell_filling);
	if (pipe2(fds, O_CLOEXEC) < 0)
		return error_set_errno(err, errno, "cannot start %s", PROGRAM);
	ret = spawn(path, argv, fds[1], &pid);
	close(fds[1]);
	if (ret < 0) {
		close(fds[0]);
		if (ret == -ENOENT)
			return error_set(err, ENOENT,
					 "%s is neither beside this program nor in PATH", PROGRAM);
		return error_set_errno(err, -ret, "cannot start %s", path);
	}
	relay_all(&relay, fds[0]);
	return wait_for(pid, &relay, err);
}
