/* SPDX-License-Identifier: MIT */
/*
 * The run directory: /run/framevisor for root and for whom root's pool owner lets in
 * (rundir_share()), $XDG_RUNTIME_DIR/framevisor (or /run/user/UID/framevisor, where that is not
 * set) for others, $FRAMEVISOR_RUNDIR before all.
 *
 *   RUNDIR/pool.sock        pool owner, binary protocol (owner_protocol.h)
 *   RUNDIR/pool-qmp.sock    pool owner, QMP
 *   RUNDIR/pool.lock        held by the running pool owner (flock)
 *   RUNDIR/pool.ledger      who has which frame, for the next owner; pool.settings: what was set
 *   RUNDIR/pool.hugepages   how many hugepages of the host are to be given back
 *   RUNDIR/pool.log         of an owner in the background
 *   RUNDIR/vm/NAME/lock     held by the VM's process (flock); holds its pid as text
 *   RUNDIR/vm/NAME/qmp.sock
 *   RUNDIR/vm/NAME/console.sock
 *   RUNDIR/vm/NAME/owner.sock  where the next owner finds it
 *   RUNDIR/vm/NAME/log      of a VM in the background
 *
 * A directory whose lock nobody holds is what a killed process left; it is taken over or removed.
 */
#ifndef FRAMEVISOR_RUNDIR_H
#define FRAMEVISOR_RUNDIR_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "framevisor/error.h"

#define RUNDIR_PATH_MAX 108 /* sun_path of a UNIX socket, with its terminating 0 */

/* The directory's path, created with mode 0700 if create is set. Returns 0 or an error that says
 * which path and why. buf has RUNDIR_PATH_MAX bytes. */
int rundir_path(char *buf, bool create, struct error *err);

/* Whether it is a user's own by default, and not the machine's or one that was chosen. */
bool rundir_is_users(void);

/*
 * Lets the members of a group use this process's run directory: they may connect to pool.sock and
 * make a directory of their own in RUNDIR/vm. Nothing else in it is theirs, and they can neither
 * remove nor look into the VMs of others. pool.sock must exist.
 */
int rundir_share(const char *group, struct error *err);

/* RUNDIR/leaf; checks that it fits a socket address. */
int rundir_join(char *buf, const char *leaf, struct error *err);
/* RUNDIR/vm/NAME/leaf (leaf NULL: the directory itself). */
int rundir_vm_join(char *buf, const char *name, const char *leaf, struct error *err);

/* Whether name may name a VM: 1 to 63 of [A-Za-z0-9._-], not starting with a dot or a dash. */
int rundir_check_name(const char *name, struct error *err);

/*
 * Creates RUNDIR/vm/NAME and locks it for this process. Returns the lock's fd, or -EEXIST with a
 * message when a live VM has the name. rundir_vm_unclaim() removes the directory and closes the fd.
 */
int rundir_vm_claim(const char *name, struct error *err);
void rundir_vm_unclaim(const char *name, int fd);
/* Removes the directory of a VM whose process holds the lock and cannot do it. */
void rundir_vm_remove(const char *name);

/* The pid of the process that holds the VM's lock, or 0 if none does. */
pid_t rundir_vm_pid(const char *name);

/* Calls fn for each VM that is alive, in order of name. Returns the number of VMs or a negative
 * errno. */
int rundir_vm_each(void (*fn)(void *opaque, const char *name, pid_t pid), void *opaque);

/*
 * A lock file that says who lives: created, locked (flock) and filled with this process's pid.
 * Returns the fd, -EWOULDBLOCK when another process holds it, or another negative errno.
 * rundir_unlock() removes the file and closes the fd. rundir_lock_pid() returns the pid of the
 * holder, or 0 if nobody holds it.
 */
int rundir_lock(const char *path);
void rundir_unlock(const char *path, int fd);
pid_t rundir_lock_pid(const char *path);

/* Binds and listens on a UNIX socket (type SOCK_STREAM or SOCK_SEQPACKET), mode 0600, replacing a
 * stale one. Returns the fd (CLOEXEC, NONBLOCK) or an error. */
int rundir_listen(const char *path, int type, struct error *err);
int rundir_connect(const char *path, int type, struct error *err); /* blocking, CLOEXEC */

#endif
