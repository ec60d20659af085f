/* SPDX-License-Identifier: MIT */
/* A VM's process: see process.h. */
#include "vmm/cli/process.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "framevisor/rundir.h"

int process_open(pid_t pid)
{
	int fd = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;

	return fd < 0 ? -ESRCH : fd;
}

int process_open_vm(const char *name, struct error *err)
{
	pid_t pid;
	int fd;

	if (rundir_check_name(name, err) < 0)
		return -EINVAL;
	pid = rundir_vm_pid(name);
	fd = process_open(pid);
	/* Asked again: the lock's holder may have ended between the two and its number been reused.
	 */
	if (fd >= 0 && rundir_vm_pid(name) == pid)
		return fd;
	if (fd >= 0)
		close(fd);
	return error_set(err, ENOENT, "no VM named '%s' is running; 'framevisor ps' lists them",
			 name);
}

int process_wait(int pidfd, int timeout_ms)
{
	struct pollfd pollfd = { .fd = pidfd, .events = POLLIN };

	return poll(&pollfd, 1, timeout_ms) > 0;
}

int process_signal(int pidfd, int signum)
{
	return syscall(SYS_pidfd_send_signal, pidfd, signum, NULL, 0) < 0 ? -errno : 0;
}

void process_close(int pidfd)
{
	if (pidfd >= 0)
		close(pidfd);
}
