/* SPDX-License-Identifier: MIT */
/* Giving up privileges: see privileges.h, user_namespaces(7), pivot_root(2). */
#include "vmm/sandbox/privileges.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Above the ranges that systemd and shadow give to users, services and containers. */
#define UID_BASE 0x70000000u

/* Any directory that every system has: it is covered by the new root in this namespace only. */
#define NEW_ROOT "/proc"

bool privileges_own_mounts(void)
{
	if (unshare(CLONE_NEWNS) < 0)
		return false;
	/* Nothing that happens here is seen outside; what is unmounted outside goes here, too. */
	return mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) == 0;
}

/* The old root lies over the new one after this, and is then taken off. */
static int empty_root(struct error *err)
{
	if (mount("none", NEW_ROOT, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=0,mode=555") <
		    0 ||
	    chdir(NEW_ROOT) < 0)
		return error_set_errno(err, errno, "cannot make an empty root directory");
	if (syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
		return error_set_errno(err, errno, "cannot change to an empty root directory");
	if (mount(NULL, "/", NULL,
		  MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
		return error_set_errno(err, errno, "cannot close the empty root directory");
	return 0;
}

/* The C library does this for every thread. The kernel takes all capabilities along. */
static int own_user(struct error *err)
{
	uid_t uid = UID_BASE + (uid_t)getpid();

	if (setgroups(0, NULL) < 0 || setresgid(uid, uid, uid) < 0 || setresuid(uid, uid, uid) < 0)
		return error_set_errno(err, errno, "cannot become user %u", uid);
	return 0;
}

/* Of the calling thread; the others have none either where the process is not root's. */
static int no_capabilities(struct error *err)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = { { 0 } };

	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	if (syscall(SYS_capset, &header, data) < 0)
		return error_set_errno(err, errno, "cannot give up capabilities");
	return 0;
}

int privileges_drop(bool own_mounts, struct error *err)
{
	int ret = own_mounts ? empty_root(err) : 0;

	if (ret == 0 && geteuid() == 0)
		ret = own_user(err);
	if (ret == 0)
		ret = no_capabilities(err);
	/* The other threads get this with the filter. */
	if (ret == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return error_set_errno(err, errno, "cannot give up new privileges");
	return ret;
}
