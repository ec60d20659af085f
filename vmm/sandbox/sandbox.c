/* SPDX-License-Identifier: MIT */
/* The order in which a VM's process is shut in: see sandbox.h. */
#include "vmm/sandbox/sandbox.h"

#include <errno.h>
#include <malloc.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>

#include "framevisor/log.h"
#include "vmm/sandbox/privileges.h"
#include "vmm/sandbox/seccomp.h"

/* Descriptors that are at least to be had beside the guarded ones: two for each vector and queue.
 */
#define FDS_WANTED 4096

enum sandbox_mode sandbox_default(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	return SANDBOX_OFF;
#else
	return SANDBOX_ON;
#endif
}

bool sandbox_prepare(enum sandbox_mode mode)
{
	if (mode == SANDBOX_OFF)
		return false;
	/* Heaps of other threads than the first are made smaller by what /proc says of overcommit,
	 * which cannot be opened by then. One for all is smaller, and busy enough for a VM. */
	mallopt(M_ARENA_MAX, 1);
	return privileges_own_mounts();
}

/*
 * The guarded descriptors are the highest that there may be, so that one comparison tells them from
 * all others, and no new descriptor gets one of their numbers or one above them.
 */
static int guard_files(const struct sandbox_config *config, struct seccomp_config *seccomp,
		       struct error *err)
{
	unsigned int nr_nodes = owner_client_nr_nodes(config->client);
	struct rlimit limit;
	int ret;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return error_set_errno(err, errno, "cannot read the limit of open files");
	if (limit.rlim_cur < FDS_WANTED || limit.rlim_cur > FDS_WANTED) {
		limit.rlim_cur = limit.rlim_max < FDS_WANTED ? limit.rlim_max : FDS_WANTED;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
	seccomp->guarded = (int)limit.rlim_cur - (int)nr_nodes - 1;
	seccomp->nr_pool = (int)nr_nodes;
	seccomp->hole = -1;
	ret = owner_client_move_files(config->client, seccomp->guarded);
	if (ret == 0 && config->memory) {
		seccomp->hole = seccomp->guarded + seccomp->nr_pool;
		ret = vm_memory_move_hole(config->memory, seccomp->hole);
	}
	if (ret < 0)
		return error_set_errno(err, -ret, "cannot set the pool's files apart");
	return 0;
}

/* Whether the keeper can decide over mappings. It looks at this process before that has another
 * user. */
static bool ask_keeper(const struct sandbox_config *config, struct seccomp_config *seccomp)
{
	const struct vm_memory_span *span = &config->span;
	const struct map_guard_config guard = {
		.pid = getpid(),
		.guarded = seccomp->guarded,
		.nr_pool = seccomp->nr_pool,
		.window = span->window,
		.views = span->views,
		.end = span->end,
	};
	struct error err = { 0 };

	if (!config->keeper || config->keeper->fd < 0)
		return false;
	if (keeper_can_guard(config->keeper, &guard, &err) < 0) {
		log_info("nobody checks which frames of the pool this VM maps: %s", err.message);
		return false;
	}
	seccomp->guard = span->guard;
	seccomp->end = span->end;
	return true;
}

static int hand_over_mappings(const struct sandbox_config *config,
			      const struct seccomp_config *seccomp, struct error *err)
{
	int listener = seccomp_listen(seccomp, err), ret;

	if (listener < 0)
		return listener;
	ret = keeper_guard(config->keeper, listener, err);
	close(listener);
	return ret;
}

int sandbox_enter(const struct sandbox_config *config, struct error *err)
{
	struct seccomp_config seccomp = { 0 };
	bool guarded = false;
	int ret;

	if (config->mode == SANDBOX_OFF) {
		log_warn("this VM runs without a sandbox");
		return 0;
	}
	json_object_seed(0); /* it opens a file for that */
	tzset();             /* so does gmtime(), the first time: when the guest reads its RTC */
	if (!config->own_mounts)
		log_debug("no mount namespace of its own: this user may not have one");
	ret = guard_files(config, &seccomp, err);
	if (ret == 0)
		guarded = ask_keeper(config, &seccomp);
	if (ret == 0)
		ret = privileges_drop(config->own_mounts, err);
	if (ret == 0 && guarded)
		ret = hand_over_mappings(config, &seccomp, err);
	if (ret == 0)
		ret = seccomp_install(&seccomp, err);
	return ret;
}
