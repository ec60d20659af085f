/* SPDX-License-Identifier: MIT */
/*
 * A VMM that was taken over: a process in the real sandbox, with frames of a real pool owner, tries
 * to reach what is not its own, and to keep what it gives back. It reports every attempt that was
 * not refused.
 */
#include "tests/unit/owner_fixture.h"

#include <linux/io_uring.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "tests/unit/skip.h"
#include "vmm/owner/procmap.h"
#include "vmm/sandbox/sandbox.h"

#define OWN_FRAMES 4
#define RACES      24
#define VIEWS      (UINT64_C(64) << 20) /* from the window on */

/* What the malicious process knows. */
struct villain {
	struct owner_client *client;
	struct frame_run own;
	uint64_t foreign; /* a frame of another VM */
	char *map;        /* its own first frame, somewhere in ... */
	char *window;     /* ... where a frame may be mapped once, ... */
	char *views;      /* ... and where more often */
	struct vm_memory_span span;
	int fd; /* the pool's file */
	int socket[2];
	pid_t victim;
	unsigned int seed;
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

/* Harmless as they look: what no VM does need not be there for one that was taken over. */
static void try_needless(struct villain *v)
{
	struct iovec iov = { .iov_base = v->log, .iov_len = 0 };
	struct timespec ts;
	struct rusage usage;
	int off = 0;

	refused(v, "readv", readv(v->socket[0], &iov, 1));
	refused(v, "mlock", mlock(v->log, 1));
	refused(v, "munlock", munlock(v->log, 1));
	refused(v, "membarrier", syscall(SYS_membarrier, 0, 0, 0));
	refused(v, "getcpu", syscall(SYS_getcpu, NULL, NULL, NULL));
	refused(v, "getrusage", syscall(SYS_getrusage, 0, &usage));
	refused(v, "clock_getres", syscall(SYS_clock_getres, CLOCK_MONOTONIC, &ts));
	refused(v, "FIONBIO", ioctl(v->socket[0], FIONBIO, &off));
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

/* Maps a frame of the pool, or so it says. */
static void *map_frame(const struct villain *v, void *at, uint64_t frame, int flags)
{
	return mmap(at, FRAME_SIZE, PROT_READ | PROT_WRITE, flags, v->fd,
		    (off_t)frames_to_bytes(frame));
}

static void not_mapped(struct villain *v, const char *what, const void *map)
{
	refused(v, what, map == MAP_FAILED ? -1 : 0);
}

/* Frames of others, by all ways of saying so. */
static void try_foreign(struct villain *v)
{
	const uint64_t own = v->own.first;
	const int fixed = MAP_SHARED | MAP_FIXED;
	char *at = v->views;

	not_mapped(v, "foreign frame", map_frame(v, at, v->foreign, fixed));
	not_mapped(v, "foreign frame in the window",
		   map_frame(v, v->window + 8 * FRAME_SIZE, v->foreign, fixed));
	not_mapped(v, "foreign frame, anywhere", map_frame(v, NULL, v->foreign, MAP_SHARED));
	not_mapped(v, "copy of a foreign frame",
		   map_frame(v, at, v->foreign, MAP_PRIVATE | MAP_FIXED));
	not_mapped(v, "foreign frame, present", map_frame(v, at, v->foreign, fixed | MAP_POPULATE));
	not_mapped(v, "foreign frame by another flag",
		   map_frame(v, at, v->foreign, MAP_SHARED_VALIDATE | MAP_FIXED));
	not_mapped(v, "frame of nobody", map_frame(v, at, 31, fixed));
	not_mapped(v, "frame beyond the pool", map_frame(v, at, UINT64_C(1) << 40, fixed));
	not_mapped(v, "all of the pool", mmap(at, 32 * FRAME_SIZE, PROT_READ, fixed, v->fd, 0));
	not_mapped(v, "more than its own",
		   mmap(at, (OWN_FRAMES + 1) * FRAME_SIZE, PROT_READ, fixed, v->fd,
			(off_t)frames_to_bytes(own)));
	not_mapped(v, "half of the next frame",
		   mmap(at, OWN_FRAMES * FRAME_SIZE, PROT_READ, fixed, v->fd,
			(off_t)(frames_to_bytes(own) + FRAME_SIZE / 2)));
	refused(v, "foreign frame by an alias",
		syscall(SYS_mmap, at, FRAME_SIZE, PROT_READ, fixed,
			(long)(0x100000000ull | (unsigned int)v->fd), frames_to_bytes(v->foreign)));
}

/* Its own frames where nobody would look for them. */
static void try_hiding(struct villain *v)
{
	const int move = MREMAP_MAYMOVE | MREMAP_FIXED;
	char *to = v->window + 4 * FRAME_SIZE;
	void *elsewhere = mmap(NULL, FRAME_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	not_mapped(v, "own frame anywhere", map_frame(v, NULL, v->own.first, MAP_SHARED));
	not_mapped(v, "own frame outside",
		   map_frame(v, elsewhere, v->own.first, MAP_SHARED | MAP_FIXED));
	not_mapped(v, "own frames over the end of the window",
		   mmap(v->views - FRAME_SIZE, 2 * FRAME_SIZE, PROT_READ, MAP_SHARED | MAP_FIXED,
			v->fd, (off_t)frames_to_bytes(v->own.first)));
	not_mapped(v, "own frame twice in the window",
		   map_frame(v, to, v->own.first, MAP_SHARED | MAP_FIXED));
	not_mapped(v, "own frame moved", mremap(v->map, FRAME_SIZE, FRAME_SIZE, MREMAP_MAYMOVE));
	not_mapped(v, "own frame moved in the window",
		   mremap(v->map, FRAME_SIZE, FRAME_SIZE, move, to));
	not_mapped(v, "own frames moved from below",
		   mremap(v->window - FRAME_SIZE, 2 * FRAME_SIZE, 2 * FRAME_SIZE, move, to));
	not_mapped(v, "own frames moved from far below",
		   mremap(v->window - 2 * VM_MEMORY_SPAN, 2 * VM_MEMORY_SPAN + FRAME_SIZE,
			  2 * VM_MEMORY_SPAN + FRAME_SIZE, move, to));
}

/* What a VMM needs has to work as before. */
static void check_own_frames(struct villain *v)
{
	char *view, *hole;
	long sum = 0;

	for (size_t i = 0; i < FRAME_SIZE; i += sizeof(long))
		sum |= *(long *)(v->map + i);
	if (sum)
		report(v, "its own frame was not zero");
	memset(v->map, 0x5a, FRAME_SIZE);
	view = map_frame(v, v->views, v->own.first, MAP_SHARED | MAP_FIXED);
	if (view == MAP_FAILED || *view != 0x5a)
		report(v, "its own frame cannot be viewed");
	/* A hole goes over it, as a frame is taken from a guest, and it comes back elsewhere. */
	hole = mmap(NULL, FRAME_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mremap(hole, FRAME_SIZE, FRAME_SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, v->map) != v->map)
		report(v, "its own frame cannot be taken away");
	v->map = map_frame(v, v->window + 2 * FRAME_SIZE, v->own.first, MAP_SHARED | MAP_FIXED);
	if (v->map == MAP_FAILED || *v->map != 0x5a)
		report(v, "its own frame cannot be mapped again");
	/* The same once more is no harm. */
	if (map_frame(v, v->map, v->own.first, MAP_SHARED | MAP_FIXED) != v->map)
		report(v, "its own frame cannot be mapped where it is");
	if (mmap(v->window + 16 * FRAME_SIZE, 2 * FRAME_SIZE, PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_FIXED, v->fd,
		 (off_t)frames_to_bytes(v->own.first + 2)) == MAP_FAILED)
		report(v, "a run of its own frames cannot be mapped");
}

/* Everything is refused that a VMM does not need. */
static void be_curious(struct villain *v)
{
	check_own_frames(v);
	try_reading(v);
	try_freeing(v);
	try_reopening(v);
	try_passing_on(v);
	try_others(v);
	try_needless(v);
	try_mappings(v);
	try_foreign(v);
	try_hiding(v);
	munmap(v->window, v->span.end - v->span.window);
	if (owner_client_return(v->client, &v->own, 1) != 0)
		report(v, "its own frames cannot be given back");
}

/* Keeps a frame that it gives back. It is killed when that is found out. */
static void keep_in_window(struct villain *v)
{
	if (owner_client_return(v->client, &v->own, 1) == 0)
		report(v, "gave back what it maps in its window");
	else
		sleep(60);
}

static void keep_in_views(struct villain *v)
{
	const struct frame_run one = { .first = v->own.first + 1, .nr = 1, .node = v->own.node };

	if (map_frame(v, v->views + 5 * FRAME_SIZE, one.first, MAP_SHARED | MAP_FIXED) ==
	    MAP_FAILED)
		report(v, "its own frame cannot be viewed");
	if (owner_client_return(v->client, &one, 1) == 0)
		report(v, "gave back what it maps as a view");
	else
		sleep(60);
}

/* Maps and unmaps a frame while it is given back. */
static atomic_bool given_back;

static void *flicker(void *opaque)
{
	struct villain *v = opaque;
	const uint64_t frame = v->own.first + 1;
	char *at = v->window + 20 * FRAME_SIZE;
	bool late = false;

	while (!late) {
		late = atomic_load(&given_back);
		if (map_frame(v, at, frame, MAP_SHARED | MAP_FIXED) == at && late)
			report(v, "mapped what it had given back");
		for (unsigned int i = v->seed % 4 * 5000; i; i--)
			__asm__ volatile("pause");
		mmap(at, FRAME_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	}
	return NULL;
}

static sigjmp_buf not_there;

static void on_fault(int signum)
{
	(void)signum;
	siglongjmp(not_there, 1);
}

static void race(struct villain *v)
{
	const struct frame_run one = { .first = v->own.first + 1, .nr = 1, .node = v->own.node };
	const volatile char *at = v->window + 20 * FRAME_SIZE;
	struct timespec delay = { .tv_nsec = (v->seed * 7919L % 500) * 1000 };
	pthread_t thread;

	signal(SIGSEGV, on_fault);
	if (pthread_create(&thread, NULL, flicker, v) != 0)
		_exit(6);
	nanosleep(&delay, NULL);
	if (owner_client_return(v->client, &one, 1) != 0)
		sleep(60); /* it was found out, and is about to be killed */
	/* What was mapped by then is not there any more, and what comes later is refused. */
	for (int i = 0; i < 100; i++) {
		if (sigsetjmp(not_there, 1) == 0) {
			(void)*at;
			report(v, "sees what it has given back");
			break;
		}
	}
	atomic_store(&given_back, true);
	pthread_join(thread, NULL);
}

static int reserve_span(struct villain *v)
{
	char *map = mmap(NULL, 3 * VM_MEMORY_SPAN, PROT_NONE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint64_t start = ((uint64_t)(uintptr_t)map + VM_MEMORY_SPAN - 1) & ~(VM_MEMORY_SPAN - 1);

	if (map == MAP_FAILED)
		return -1;
	v->span = (struct vm_memory_span){ .guard = start,
					   .window = start + VM_MEMORY_SPAN,
					   .views = start + VM_MEMORY_SPAN + VIEWS,
					   .end = start + 2 * VM_MEMORY_SPAN };
	v->window = map + (start - (uint64_t)(uintptr_t)map) + VM_MEMORY_SPAN;
	v->views = v->window + VIEWS;
	return 0;
}

static void villain_main(void (*deed)(struct villain *v), unsigned int seed, uint64_t foreign,
			 pid_t victim, int out)
{
	struct owner_client_config config = { .vm_name = "villain", .ram_frames = OWN_FRAMES };
	static struct villain v;
	struct sandbox_config sandbox = { .mode = SANDBOX_ON };
	struct error err = { 0 };
	unsigned int nr_runs = 1;
	struct keeper keeper;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	v.foreign = foreign;
	v.victim = victim;
	v.seed = seed;
	if (keeper_start(&keeper, "villain", &err) < 0)
		_exit(7);
	sandbox.own_mounts = sandbox_prepare(SANDBOX_ON);
	v.client = owner_client_connect(&config, &err);
	if (!v.client || socketpair(AF_UNIX, SOCK_STREAM, 0, v.socket) < 0 ||
	    reserve_span(&v) < 0 ||
	    owner_client_grant(v.client, OWN_FRAMES, 0, &v.own, &nr_runs) < OWN_FRAMES)
		_exit(2);
	sandbox.client = v.client;
	sandbox.keeper = &keeper;
	sandbox.span = v.span;
	keeper_running(&keeper);
	if (sandbox_enter(&sandbox, &err) < 0) {
		dprintf(out, "cannot enter the sandbox: %s", err.message);
		_exit(3);
	}
	v.fd = owner_client_node_fd(v.client, 0);
	v.map = map_frame(&v, v.window, v.own.first, MAP_SHARED | MAP_FIXED);
	if (v.map == MAP_FAILED)
		_exit(4);
	/* Each refusal is told of on standard error; that is not what is looked at here. */
	dup2(v.socket[1], STDERR_FILENO);
	deed(&v);
	if (write(out, v.log, v.len + 1) < 0)
		_exit(5);
	_exit(0);
}

/* Returns how the villain ended. */
static int run_villain(void (*deed)(struct villain *v), unsigned int seed)
{
	struct peer victim;
	char log[4096] = "";
	int fds[2], status;
	uint64_t foreign;
	pid_t pid;

	assert_true(peer_start(&victim, "victim", OWN_FRAMES));
	assert_int_equal(peer_do(&victim, PEER_GRANT, 1), 1);
	foreign = (uint64_t)peer_do(&victim, PEER_RUN, 0) & 0xffffffffffff;
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	pid = fork();
	if (pid == 0)
		villain_main(deed, seed, foreign, victim.pid, fds[1]);
	close(fds[1]);
	assert_true(read(fds[0], log, sizeof(log) - 1) >= 0);
	close(fds[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (log[0])
		fail_msg("not refused: %s", log);
	assert_true(fixture_wait_held(1) >= 0);
	fixture_validate();
	peer_end(&victim);
	assert_true(fixture_wait_held(0) >= 0);
	return status;
}

static void start_pool(void)
{
	int fd = procmap_open(getpid());

	if (sandbox_default() == SANDBOX_OFF)
		skip_because("the sandbox is not for a build with sanitizers");
	if (fd == -EOPNOTSUPP)
		skip_because("this kernel does not tell who maps what (PROCMAP_QUERY, Linux 6.11)");
	assert_true(fd >= 0);
	close(fd);
	fixture_start((const char *const[]){ "--pool=64M", "--hugepages=never", NULL });
}

static void test_villain(void **state)
{
	(void)state;
	start_pool();
	assert_int_equal(run_villain(be_curious, 0), 0);
}

static void expect_killed(int status)
{
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void test_kept_frames(void **state)
{
	(void)state;
	start_pool();
	expect_killed(run_villain(keep_in_window, 0));
	expect_killed(run_villain(keep_in_views, 0));
}

/* A frame that comes and goes while it is given back: found out, or gone. */
static void test_race(void **state)
{
	unsigned int killed = 0;

	(void)state;
	start_pool();
	for (unsigned int i = 0; i < RACES; i++) {
		int status = run_villain(race, i);

		if (status == 0)
			continue;
		expect_killed(status);
		killed++;
	}
	print_message("found out %u times of %u\n", killed, RACES);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		OWNER_TEST(test_villain),
		OWNER_TEST(test_kept_frames),
		OWNER_TEST(test_race),
	};

	return cmocka_run_group_tests(tests, fixture_setup_group, NULL);
}
