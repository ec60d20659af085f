/* SPDX-License-Identifier: MIT */
/*
 * A VMM that was taken over: a process in the real sandbox, with frames of a real pool owner, tries
 * to reach what is not its own. It reports every attempt that was not refused.
 */
#include "tests/unit/owner_fixture.h"

#include <linux/io_uring.h>
#include <sched.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "tests/unit/skip.h"
#include "vmm/sandbox/sandbox.h"

#define OWN_FRAMES 4

/* What the malicious process knows. */
struct villain {
	struct owner_client *client;
	struct frame_run own;
	uint64_t foreign; /* a frame of another VM */
	char *map;        /* its own first frame */
	int fd;           /* the pool's file */
	int socket[2];
	pid_t victim;
	char log[4096];
	size_t len;
};

static void report(struct villain *v, const char *what)
{
	v->len += (size_t)snprintf(v->log + v->len, sizeof(v->log) - v->len, "%s; ", what);
}

/* Notes an attempt that had a result other than failure. */
static void refused(struct villain *v, const char *what, long result)
{
	if (result != -1)
		report(v, what);
}

static void try_reading(struct villain *v)
{
	/* The kernel looks at 32 bits of a descriptor, a careless filter at 64. */
	const long alias = (long)(0x100000000ull | (unsigned int)v->fd);
	struct iovec iov = { .iov_base = v->log, .iov_len = 16 };
	char buf[16];

	refused(v, "read", read(v->fd, buf, sizeof(buf)));
	refused(v, "pread", pread(v->fd, buf, sizeof(buf), 0));
	refused(v, "readv", readv(v->fd, &iov, 1));
	refused(v, "preadv", preadv(v->fd, &iov, 1, 0));
	refused(v, "write", write(v->fd, "x", 1));
	refused(v, "pwrite", pwrite(v->fd, "x", 1, 0));
	refused(v, "read of an alias", syscall(SYS_read, alias, buf, sizeof(buf)));
	refused(v, "pread of an alias", syscall(SYS_pread64, alias, buf, sizeof(buf), 0));
	refused(v, "sendfile", syscall(SYS_sendfile, v->socket[0], v->fd, NULL, 16));
	refused(v, "splice", syscall(SYS_splice, v->fd, NULL, v->socket[0], NULL, 16, 0));
	refused(v, "vmsplice", syscall(SYS_vmsplice, v->socket[0], &iov, 1, 0));
	refused(v, "io_uring", syscall(SYS_io_uring_setup, 4, &(struct io_uring_params){ 0 }));
}

static void try_freeing(struct villain *v)
{
	refused(v, "fallocate",
		fallocate(v->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			  (off_t)frames_to_bytes(v->foreign), FRAME_SIZE));
	refused(v, "ftruncate", ftruncate(v->fd, 0));
	refused(v, "fcntl seal", fcntl(v->fd, F_ADD_SEALS, F_SEAL_GROW));
	refused(v, "MADV_REMOVE", madvise(v->map, FRAME_SIZE, MADV_REMOVE));
}

static void try_reopening(struct villain *v)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", v->fd);
	refused(v, "open", open(path, O_RDWR));
	refused(v, "openat", syscall(SYS_openat, AT_FDCWD, "/", O_RDONLY));
	refused(v, "open_by_handle_at", syscall(SYS_open_by_handle_at, v->fd, path, 0));
	refused(v, "dup", dup(v->fd));
	refused(v, "dup2 to a free number", dup2(v->fd, 100));
	refused(v, "dup3", dup3(v->fd, 100, 0));
	refused(v, "F_DUPFD", fcntl(v->fd, F_DUPFD, 0));
	refused(v, "close", close(v->fd));
	refused(v, "close_range", close_range((unsigned int)v->fd, ~0u, 0));
	refused(v, "dup2 onto the pool's number", dup2(v->socket[0], v->fd));
	refused(v, "pidfd_getfd", syscall(SYS_pidfd_getfd, v->socket[0], v->fd, 0));
	refused(v, "memfd_create", memfd_create("x", 0));
}

static void try_passing_on(struct villain *v)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { .bytes = { 0 } };
	struct iovec iov = { .iov_base = v->log, .iov_len = 1 };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = &control,
			      .msg_controllen = sizeof(control) };
	struct mmsghdr many = { .msg_hdr = msg };
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(cmsg), &v->fd, sizeof(int));
	refused(v, "sendmsg", sendmsg(v->socket[0], &msg, 0));
	refused(v, "sendmmsg", sendmmsg(v->socket[0], &many, 1, 0));
	refused(v, "socket", socket(AF_UNIX, SOCK_STREAM, 0));
	refused(v, "connect", connect(v->socket[0], NULL, 0));
	refused(v, "fork", syscall(SYS_fork));
	refused(v, "vfork", syscall(SYS_vfork));
	refused(v, "clone of a process", syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));
	refused(v, "clone3", syscall(SYS_clone3, v->log, 88));
	refused(v, "execve", syscall(SYS_execve, "/bin/true", NULL, NULL));
}

static void try_others(struct villain *v)
{
	struct iovec here = { .iov_base = v->log, .iov_len = 16 };

	refused(v, "process_vm_readv",
		syscall(SYS_process_vm_readv, v->victim, &here, 1, &here, 1, 0));
	refused(v, "process_vm_writev",
		syscall(SYS_process_vm_writev, v->victim, &here, 1, &here, 1, 0));
	refused(v, "ptrace", ptrace(PTRACE_ATTACH, v->victim, NULL, NULL));
	refused(v, "kill", kill(v->victim, 0));
	refused(v, "tgkill", syscall(SYS_tgkill, v->victim, v->victim, SIGKILL));
	refused(v, "pidfd_open", syscall(SYS_pidfd_open, v->victim, 0));
	refused(v, "unshare", unshare(CLONE_NEWUSER));
	refused(v, "mount", syscall(SYS_mount, "none", "/", "tmpfs", 0, NULL));
	refused(v, "bpf", syscall(SYS_bpf, 0, NULL, 0));
	refused(v, "setuid", syscall(SYS_setuid, 0));
	refused(v, "move_pages", syscall(SYS_move_pages, v->victim, 0, NULL, NULL, NULL, 0));
	refused(v, "prctl", prctl(PR_SET_DUMPABLE, 1, 0, 0, 0));
	refused(v, "userfaultfd", syscall(SYS_userfaultfd, 0));
	refused(v, "perf_event_open", syscall(SYS_perf_event_open, NULL, 0, 0, 0, 0));
}

/* Through mappings that it has: growing one over the next frame, keeping a second one. */
static void try_mappings(struct villain *v)
{
	void *map;

	map = mremap(v->map, FRAME_SIZE, 2 * FRAME_SIZE, MREMAP_MAYMOVE);
	refused(v, "mremap that grows", map == MAP_FAILED ? -1 : 0);
	map = mremap(v->map, 0, FRAME_SIZE, MREMAP_MAYMOVE);
	refused(v, "mremap that copies a mapping", map == MAP_FAILED ? -1 : 0);
	map = mremap(v->map, 0, 0, MREMAP_MAYMOVE);
	refused(v, "mremap of nothing", map == MAP_FAILED ? -1 : 0);
	map = mmap(NULL, FRAME_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED, v->fd,
		   (off_t)frames_to_bytes(v->own.first));
	refused(v, "executable mapping of a frame", map == MAP_FAILED ? -1 : 0);
	map = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	refused(v, "executable memory", map == MAP_FAILED ? -1 : 0);
	map = mmap(NULL, FRAME_SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	refused(v, "hugepage beside the pool", map == MAP_FAILED ? -1 : 0);
	refused(v, "mprotect to code", mprotect(v->map, FRAME_SIZE, PROT_READ | PROT_EXEC));
	refused(v, "remap_file_pages",
		syscall(SYS_remap_file_pages, v->map, FRAME_SIZE, 0, v->foreign * 512, 0));
}

/* What a VMM needs has to work as before. */
static void check_own_frames(struct villain *v)
{
	char *moved;
	long sum = 0;

	for (size_t i = 0; i < FRAME_SIZE; i += sizeof(long))
		sum |= *(long *)(v->map + i);
	if (sum)
		report(v, "its own frame was not zero");
	memset(v->map, 0x5a, FRAME_SIZE);
	moved = mmap(NULL, FRAME_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd,
		     (off_t)frames_to_bytes(v->own.first));
	if (moved == MAP_FAILED || *moved != 0x5a)
		report(v, "its own frame cannot be mapped");
	if (mremap(v->map, FRAME_SIZE, FRAME_SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, moved) != moved)
		report(v, "its own frame cannot be moved");
	v->map = moved;
}

static void villain_main(enum sandbox_mode mode, uint64_t foreign, pid_t victim, int out)
{
	struct owner_client_config config = { .vm_name = "villain", .ram_frames = OWN_FRAMES };
	static struct villain v;
	struct sandbox_config sandbox = { .mode = mode };
	struct error err = { 0 };
	unsigned int nr_runs = 1;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	v.foreign = foreign;
	v.victim = victim;
	sandbox.own_mounts = sandbox_prepare(mode);
	v.client = owner_client_connect(&config, &err);
	if (!v.client || socketpair(AF_UNIX, SOCK_STREAM, 0, v.socket) < 0 ||
	    owner_client_grant(v.client, OWN_FRAMES, 0, &v.own, &nr_runs) < OWN_FRAMES)
		_exit(2);
	sandbox.client = v.client;
	if (sandbox_enter(&sandbox, &err) < 0) {
		dprintf(out, "cannot enter the sandbox: %s", err.message);
		_exit(3);
	}
	v.fd = owner_client_node_fd(v.client, 0);
	v.map = mmap(NULL, FRAME_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, v.fd,
		     (off_t)frames_to_bytes(v.own.first));
	if (v.map == MAP_FAILED)
		_exit(4);
	/* Each refusal is told of on standard error; that is not what is looked at here. */
	dup2(v.socket[1], STDERR_FILENO);
	check_own_frames(&v);
	try_reading(&v);
	try_freeing(&v);
	try_reopening(&v);
	try_passing_on(&v);
	try_others(&v);
	try_mappings(&v);
	if (owner_client_return(v.client, &v.own, 1) != 0)
		report(&v, "its own frames cannot be given back");
	if (write(out, v.log, v.len + 1) < 0)
		_exit(5);
	_exit(0);
}

static void run_villain(enum sandbox_mode mode)
{
	struct peer victim;
	char log[4096] = "";
	int fds[2], status;
	uint64_t foreign;
	pid_t pid;

	if (sandbox_default() == SANDBOX_OFF)
		skip_because("the sandbox is not for a build with sanitizers");
	fixture_start((const char *const[]){ "--pool=64M", "--hugepages=never", NULL });
	assert_true(peer_start(&victim, "victim", OWN_FRAMES));
	assert_int_equal(peer_do(&victim, PEER_GRANT, 1), 1);
	foreign = (uint64_t)peer_do(&victim, PEER_RUN, 0) & 0xffffffffffff;
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	pid = fork();
	if (pid == 0)
		villain_main(mode, foreign, victim.pid, fds[1]);
	close(fds[1]);
	assert_true(read(fds[0], log, sizeof(log) - 1) >= 0);
	close(fds[0]);
	waitpid(pid, &status, 0);
	if (log[0])
		fail_msg("not refused: %s", log);
	assert_int_equal(status, 0);
	assert_true(fixture_wait_held(1) >= 0);
	fixture_validate();
	peer_end(&victim);
}

static void test_villain(void **state)
{
	(void)state;
	run_villain(SANDBOX_ON);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		OWNER_TEST(test_villain),
	};

	return cmocka_run_group_tests(tests, fixture_setup_group, NULL);
}
