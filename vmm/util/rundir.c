/* SPDX-License-Identifier: MIT */
/*
 * The run directory: see framevisor/rundir.h.
 *
 * Liveness is a flock: the kernel drops it however its holder dies, so no pid has to be believed.
 * A lock file may be removed by its holder; whoever locks one therefore checks that the path still
 * names the inode that was locked, and starts over when it does not.
 */
#include "framevisor/rundir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define LISTEN_BACKLOG 64
/* Somebody who asks for the pid holds the lock (shared) for a moment: try again that often. */
#define LOCK_TRIES       6
#define LOCK_INTERVAL_US 5000

_Static_assert(sizeof(((struct sockaddr_un *)0)->sun_path) == RUNDIR_PATH_MAX, "sun_path");

/* The pool of the machine, which root's owner may share. */
#define SYSTEM_POOL "/run/framevisor/pool.sock"

static int format_path(char *buf, struct error *err, const char *a, const char *b, const char *c)
{
	int len = snprintf(buf, RUNDIR_PATH_MAX, "%s%s%s", a, b, c);

	if (len < 0 || len >= RUNDIR_PATH_MAX)
		return error_set(err, ENAMETOOLONG,
				 "path '%s%s%s' is too long for a socket (%d bytes, at most %d); "
				 "set FRAMEVISOR_RUNDIR to a shorter directory",
				 a, b, c, len, RUNDIR_PATH_MAX - 1);
	return 0;
}

/* A directory that others may write to, or that belongs to somebody else, would let them put a
 * socket of their own in our place. */
static int check_directory(const char *path, struct error *err)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return error_set_errno(err, errno, "cannot use run directory '%s'", path);
	if (!S_ISDIR(st.st_mode))
		return error_set(err, ENOTDIR, "run directory '%s' is not a directory", path);
	/* Root's, shared by rundir_share(): what we may do there, its modes say. */
	if (st.st_uid == 0 && geteuid() != 0 && !(st.st_mode & (S_IWGRP | S_IWOTH)))
		return 0;
	if (st.st_uid != geteuid() && geteuid() != 0)
		return error_set(err, EPERM,
				 "run directory '%s' belongs to user %u, not to user %u; set "
				 "FRAMEVISOR_RUNDIR to a directory of your own",
				 path, st.st_uid, geteuid());
	if (st.st_mode & (S_IWGRP | S_IWOTH))
		return error_set(err, EPERM,
				 "run directory '%s' is writable by other users; use chmod 700, or "
				 "set FRAMEVISOR_RUNDIR to a private directory",
				 path);
	if (faccessat(AT_FDCWD, path, W_OK | X_OK, AT_EACCESS) < 0)
		return error_set_errno(err, errno, "run directory '%s' is not writable", path);
	return 0;
}

/* Where a user's own directories are, or NULL. Not everybody is told by the environment: libvirt
 * clears it for the VMs of a session. */
static const char *users_dir(char *buf, size_t size)
{
	const char *dir = getenv("XDG_RUNTIME_DIR");
	struct stat st;

	if (dir && *dir)
		return dir;
	snprintf(buf, size, "/run/user/%u", geteuid());
	return stat(buf, &st) == 0 && S_ISDIR(st.st_mode) && st.st_uid == geteuid() ? buf : NULL;
}

bool rundir_is_users(void)
{
	const char *dir = getenv("FRAMEVISOR_RUNDIR");
	char users[32];

	return geteuid() != 0 && !(dir && *dir) && access(SYSTEM_POOL, W_OK) < 0 &&
	       users_dir(users, sizeof(users));
}

int rundir_path(char *buf, bool create, struct error *err)
{
	const char *dir = getenv("FRAMEVISOR_RUNDIR");
	const char *leaf = "";
	char users[32];
	int ret;

	if (!dir || !*dir) {
		bool system = geteuid() == 0 || access(SYSTEM_POOL, W_OK) == 0;

		leaf = "/framevisor";
		dir = system ? "/run" : users_dir(users, sizeof(users));
	}
	if (!dir || !*dir)
		return error_set(
			err, ENOENT,
			"no run directory: user %u may not use the pool of this machine "
			"('" SYSTEM_POOL "'; framevisord --group kvm lets members of a "
			"group in), and there is neither XDG_RUNTIME_DIR nor '/run/user/%u'; "
			"set FRAMEVISOR_RUNDIR to a private directory",
			geteuid(), geteuid());
	ret = format_path(buf, err, dir, leaf, "");
	if (ret < 0 || !create)
		return ret;
	if (mkdir(buf, 0700) < 0 && errno != EEXIST)
		return error_set_errno(err, errno, "cannot create run directory '%s'", buf);
	return check_directory(buf, err);
}

/* Gives path to the group, with a mode that says what that means. */
static int give_to_group(const char *path, gid_t gid, mode_t mode, struct error *err)
{
	if (chown(path, (uid_t)-1, gid) < 0 || chmod(path, mode) < 0)
		return error_set_errno(err, errno, "cannot share '%s'", path);
	return 0;
}

int rundir_share(const char *group, struct error *err)
{
	char base[RUNDIR_PATH_MAX], vms[RUNDIR_PATH_MAX], sock[RUNDIR_PATH_MAX];
	const struct group *entry = getgrnam(group);
	int ret;

	if (!entry)
		return error_set(err, ENOENT, "there is no group '%s'", group);
	ret = rundir_path(base, true, err);
	if (ret == 0)
		ret = rundir_join(vms, "vm", err);
	if (ret == 0)
		ret = rundir_join(sock, "pool.sock", err);
	if (ret < 0)
		return ret;
	if (mkdir(vms, 0700) < 0 && errno != EEXIST)
		return error_set_errno(err, errno, "cannot create directory '%s'", vms);
	/* Sticky: nobody removes the directory of another's VM. */
	ret = give_to_group(vms, entry->gr_gid, 01770, err);
	if (ret == 0)
		ret = give_to_group(sock, entry->gr_gid, 0660, err);
	return ret < 0 ? ret : give_to_group(base, entry->gr_gid, 0750, err);
}

int rundir_join(char *buf, const char *leaf, struct error *err)
{
	char dir[RUNDIR_PATH_MAX];
	int ret = rundir_path(dir, false, err);

	if (ret < 0)
		return ret;
	return format_path(buf, err, dir, "/", leaf);
}

int rundir_check_name(const char *name, struct error *err)
{
	static const char allowed[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
	size_t len = strlen(name);

	if (len < 1 || len > 63 || strspn(name, allowed) != len || name[0] == '.' || name[0] == '-')
		return error_set(err, EINVAL,
				 "'%.80s' is not a name for a VM; use 1 to 63 of A-Z a-z 0-9 . _ - "
				 "and start with a letter, a digit or _",
				 name);
	return 0;
}

int rundir_vm_join(char *buf, const char *name, const char *leaf, struct error *err)
{
	char base[RUNDIR_PATH_MAX], vm[RUNDIR_PATH_MAX];
	int ret = rundir_check_name(name, err);

	if (ret == 0)
		ret = rundir_join(base, "vm/", err);
	if (ret == 0)
		ret = format_path(vm, err, base, name, "");
	if (ret == 0)
		ret = format_path(buf, err, vm, leaf ? "/" : "", leaf ? leaf : "");
	return ret;
}

/* Whether path still names the file that fd is open on. */
static bool same_file(int fd, const char *path)
{
	struct stat a, b;

	return fstat(fd, &a) == 0 && stat(path, &b) == 0 && a.st_dev == b.st_dev &&
	       a.st_ino == b.st_ino;
}

/*
 * Opens and locks path. Returns the fd, -EWOULDBLOCK when somebody holds it, -ESTALE when the file
 * was removed meanwhile, or another negative errno.
 */
static int open_locked(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	int ret;

	if (fd < 0)
		return -errno;
	for (int i = 0; i < LOCK_TRIES; i++) {
		if (i)
			usleep(LOCK_INTERVAL_US);
		ret = flock(fd, LOCK_EX | LOCK_NB) < 0 ? -errno : 0;
		if (ret != -EWOULDBLOCK)
			break;
	}
	if (ret == 0 && !same_file(fd, path))
		ret = -ESTALE;
	if (ret < 0) {
		close(fd);
		return ret;
	}
	return fd;
}

static int write_pid(int fd)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%d\n", getpid());

	if (ftruncate(fd, 0) < 0 || pwrite(fd, text, (size_t)len, 0) < 0)
		return -errno;
	return 0;
}

static pid_t read_pid(int fd)
{
	char text[16] = "";

	if (pread(fd, text, sizeof(text) - 1, 0) <= 0)
		return 0;
	return (pid_t)strtol(text, NULL, 10);
}

pid_t rundir_lock_pid(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	pid_t pid = 0;

	if (fd < 0)
		return 0;
	/* The holder writes its pid right after locking: give it that moment. */
	for (int i = 0; i < LOCK_TRIES && !pid; i++) {
		if (i)
			usleep(LOCK_INTERVAL_US);
		if (flock(fd, LOCK_SH | LOCK_NB) == 0)
			break;
		pid = read_pid(fd);
	}
	close(fd);
	return pid > 0 ? pid : 0;
}

int rundir_lock(const char *path)
{
	int fd, ret;

	do {
		fd = open_locked(path);
	} while (fd == -ESTALE);
	if (fd < 0)
		return fd;
	ret = write_pid(fd);
	if (ret < 0) {
		rundir_unlock(path, fd);
		return ret;
	}
	return fd;
}

void rundir_unlock(const char *path, int fd)
{
	if (fd < 0)
		return;
	unlink(path);
	close(fd);
}

/* Removes every file of a VM's directory but its lock. */
static void remove_files(const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *entry;

	if (!d)
		return;
	while ((entry = readdir(d))) {
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
		    strcmp(entry->d_name, "lock") != 0)
			unlinkat(dirfd(d), entry->d_name, 0);
	}
	closedir(d);
}

/* Where the run directory is shared, somebody else may have put something of that name there: a
 * link to a directory whose files we would remove. What is ours nobody else can replace. */
static int check_vm_directory(const char *dir, struct error *err)
{
	struct stat st;

	if (lstat(dir, &st) < 0)
		return error_set_errno(err, errno, "cannot use '%s'", dir);
	if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid())
		return error_set(err, EEXIST,
				 "'%s' belongs to user %u; choose another name for the VM", dir,
				 st.st_uid);
	return 0;
}

static int make_vm_directory(const char *dir, struct error *err)
{
	char base[RUNDIR_PATH_MAX];
	int ret = rundir_path(base, true, err);

	if (ret == 0)
		ret = rundir_join(base, "vm", err);
	if (ret < 0)
		return ret;
	if (mkdir(base, 0700) < 0 && errno != EEXIST)
		return error_set_errno(err, errno, "cannot create directory '%s'", base);
	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		return error_set_errno(err, errno, "cannot create directory '%s'", dir);
	return check_vm_directory(dir, err);
}

int rundir_vm_claim(const char *name, struct error *err)
{
	char dir[RUNDIR_PATH_MAX], lock[RUNDIR_PATH_MAX], longest[RUNDIR_PATH_MAX];
	int fd, ret;

	ret = rundir_vm_join(dir, name, NULL, err);
	if (ret == 0)
		ret = rundir_vm_join(lock, name, "lock", err);
	/* Said before anything is created: the sockets' paths have to fit as well. */
	if (ret == 0)
		ret = rundir_vm_join(longest, name, "console.sock", err);
	if (ret < 0)
		return ret;
	do {
		ret = make_vm_directory(dir, err);
		if (ret < 0)
			return ret;
		fd = rundir_lock(lock);
	} while (fd == -ENOENT); /* a VM of that name just ended and removed its directory */
	if (fd == -EWOULDBLOCK)
		return error_set(err, EEXIST,
				 "a VM named '%s' is running (pid %d); choose another --name", name,
				 rundir_lock_pid(lock));
	if (fd < 0)
		return error_set_errno(err, -fd, "cannot lock '%s'", lock);
	remove_files(dir);
	return fd;
}

void rundir_vm_remove(const char *name)
{
	char dir[RUNDIR_PATH_MAX], lock[RUNDIR_PATH_MAX];

	if (rundir_vm_join(dir, name, NULL, NULL) == 0 &&
	    rundir_vm_join(lock, name, "lock", NULL) == 0) {
		remove_files(dir);
		unlink(lock);
		rmdir(dir);
	}
}

void rundir_vm_unclaim(const char *name, int fd)
{
	if (fd < 0)
		return;
	rundir_vm_remove(name);
	close(fd);
}

pid_t rundir_vm_pid(const char *name)
{
	char lock[RUNDIR_PATH_MAX];

	if (rundir_vm_join(lock, name, "lock", NULL) < 0)
		return 0;
	return rundir_lock_pid(lock);
}

static int is_vm_name(const struct dirent *entry)
{
	return rundir_check_name(entry->d_name, NULL) == 0;
}

static int compare_names(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

int rundir_vm_each(void (*fn)(void *opaque, const char *name, pid_t pid), void *opaque)
{
	char base[RUNDIR_PATH_MAX];
	struct dirent **entries;
	int nr, alive = 0, ret;

	ret = rundir_join(base, "vm", NULL);
	if (ret < 0)
		return ret;
	nr = scandir(base, &entries, is_vm_name, compare_names);
	if (nr < 0)
		return errno == ENOENT ? 0 : -errno;
	for (int i = 0; i < nr; i++) {
		pid_t pid = rundir_vm_pid(entries[i]->d_name);

		if (pid) {
			fn(opaque, entries[i]->d_name, pid);
			alive++;
		}
		free(entries[i]);
	}
	free(entries);
	return alive;
}

static int make_address(struct sockaddr_un *addr, const char *path, struct error *err)
{
	size_t len = strlen(path);

	if (len >= sizeof(addr->sun_path))
		return error_set(err, ENAMETOOLONG,
				 "socket path '%s' is too long (%zu bytes, at most %zu)", path, len,
				 sizeof(addr->sun_path) - 1);
	memset(addr, 0, sizeof(*addr));
	addr->sun_family = AF_UNIX;
	memcpy(addr->sun_path, path, len);
	return 0;
}

int rundir_connect(const char *path, int type, struct error *err)
{
	struct sockaddr_un addr;
	int fd, ret;

	ret = make_address(&addr, path, err);
	if (ret < 0)
		return ret;
	fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return error_set_errno(err, errno, "cannot create a socket");
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		ret = error_set_errno(err, errno, "cannot connect to '%s'", path);
		close(fd);
		return ret;
	}
	return fd;
}

/* Binds fd; a socket file that nobody listens on any more is replaced. */
static int bind_replacing(int fd, const struct sockaddr_un *addr, int type)
{
	int other;

	if (bind(fd, (const struct sockaddr *)addr, sizeof(*addr)) == 0)
		return 0;
	if (errno != EADDRINUSE)
		return -errno;
	other = rundir_connect(addr->sun_path, type, NULL);
	if (other >= 0) {
		close(other);
		return -EADDRINUSE;
	}
	if (other != -ECONNREFUSED && other != -ENOENT)
		return -EADDRINUSE;
	unlink(addr->sun_path);
	return bind(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0 ? -errno : 0;
}

int rundir_listen(const char *path, int type, struct error *err)
{
	struct sockaddr_un addr;
	int fd, ret;

	ret = make_address(&addr, path, err);
	if (ret < 0)
		return ret;
	fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return error_set_errno(err, errno, "cannot create a socket");
	/* bind() gives the file the mode of the socket: it is private from its first moment. */
	if (fchmod(fd, 0600) < 0)
		ret = -errno;
	else
		ret = bind_replacing(fd, &addr, type);
	if (ret == 0 && listen(fd, LISTEN_BACKLOG) < 0) {
		ret = -errno;
		unlink(path);
	}
	if (ret < 0) {
		close(fd);
		if (ret == -EADDRINUSE)
			return error_set(err, EADDRINUSE, "'%s' is in use by a running process",
					 path);
		return error_set_errno(err, -ret, "cannot listen on '%s'", path);
	}
	return fd;
}
