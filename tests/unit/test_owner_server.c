/* SPDX-License-Identifier: MIT */
/* The pool owner and its clients: real processes, a real framevisord with a small pool. */
#include "tests/unit/owner_fixture.h"

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include "tests/unit/skip.h"

#define POOL_FRAMES 64

static void start_small(void)
{
	fixture_start((const char *const[]){ "--pool=128M", NULL });
	assert_int_equal(fixture_pool("total"), POOL_FRAMES);
}

/* Frames for VMs: what the allocator does not keep for itself. */
static uint64_t room(void)
{
	json_t *pool = fixture_qmp("query-pool", NULL);
	int64_t reserve = 0;

	assert_int_equal(json_unpack(pool, "{s:{s:I}}", "settings", "reserve", &reserve), 0);
	json_decref(pool);
	assert_true(reserve > 0 && reserve < 10);
	return POOL_FRAMES - (uint64_t)reserve;
}

static void test_two_share(void **state)
{
	struct peer a, b;
	json_t *vms;

	(void)state;
	start_small();
	assert_true(peer_start(&a, "a", 20));
	assert_true(peer_start(&b, "b", 30));
	assert_int_equal(peer_do(&a, PEER_GRANT, 20), 20);
	assert_int_equal(peer_do(&b, PEER_GRANT, 30), 30);
	assert_int_equal(fixture_pool("held"), 50);
	assert_int_equal(fixture_pool("free") + fixture_pool("cached"), POOL_FRAMES - 50);
	/* All frames come zeroed, and no frame is of both. */
	assert_int_equal(peer_do(&a, PEER_DIRTY, 0), 20);
	assert_int_equal(peer_do(&b, PEER_DIRTY, 0), 30);
	fixture_validate();
	vms = fixture_qmp("query-vms", NULL);
	assert_int_equal(json_array_size(vms), 2);
	assert_string_equal(json_string_value(json_object_get(json_array_get(vms, 1), "name")),
			    "b");
	assert_int_equal(json_integer_value(json_object_get(json_array_get(vms, 1), "held")), 30);
	json_decref(vms);
	assert_int_equal(peer_do(&a, PEER_RETURN, 0), 0);
	assert_int_equal(fixture_pool("held"), 30);
	peer_end(&a);
	peer_end(&b);
	assert_true(fixture_wait_held(0) >= 0);
	fixture_validate();
}

/* What one VM wrote is never seen by the next. */
static void test_frames_are_zeroed_between(void **state)
{
	struct peer a;
	uint64_t all;

	(void)state;
	start_small();
	all = room();
	for (int round = 0; round < 2; round++) {
		assert_true(peer_start(&a, "a", all));
		assert_int_equal(peer_do(&a, PEER_GRANT, all), all);
		assert_int_equal(peer_do(&a, PEER_DIRTY, 0), all);
		assert_int_equal(peer_do(&a, PEER_RETURN, 0), 0);
		assert_int_equal(peer_do(&a, PEER_GRANT, all), all);
		assert_int_equal(peer_do(&a, PEER_DIRTY, 0), all);
		peer_end(&a);
		assert_true(fixture_wait_held(0) >= 0);
	}
	fixture_validate();
}

static void test_background_zeroing(void **state)
{
	struct peer a;

	(void)state;
	start_small();
	assert_true(peer_start(&a, "a", 40));
	assert_int_equal(peer_do(&a, PEER_GRANT, 40), 40);
	peer_end(&a);
	assert_true(fixture_wait_held(0) >= 0);
	for (int i = 0; i < 200 && fixture_pool("zeroed") < POOL_FRAMES; i++)
		usleep(10000);
	assert_int_equal(fixture_pool("zeroed"), POOL_FRAMES);
}

static void test_killed_client(void **state)
{
	struct peer a, b;
	int64_t ms;

	(void)state;
	start_small();
	assert_true(peer_start(&a, "a", 40));
	assert_true(peer_start(&b, "b", 10));
	assert_int_equal(peer_do(&a, PEER_GRANT, 40), 40);
	assert_int_equal(peer_do(&b, PEER_GRANT, 10), 10);
	kill(a.pid, SIGKILL);
	ms = fixture_wait_held(10);
	assert_in_range(ms, 0, 1000);
	print_message("frames back after %d ms\n", (int)ms);
	assert_int_equal(peer_wait(&a, 1000), SIGKILL);
	/* Its room is free for another at once. */
	assert_true(peer_start(&a, "a", 40));
	peer_end(&a);
	peer_end(&b);
	assert_true(fixture_wait_held(0) >= 0);
	fixture_validate();
}

/* A process that lives on with frames mapped must not keep them from others, nor share them. */
static void test_lives_on_after_close(void **state)
{
	struct peer a;

	(void)state;
	start_small();
	assert_true(peer_start(&a, "a", 10));
	assert_int_equal(peer_do(&a, PEER_GRANT, 10), 10);
	assert_int_equal(peer_do(&a, PEER_CLOSE, 0), 0);
	assert_int_equal(fixture_pool("held"), 10);
	assert_int_equal(peer_wait(&a, 3000), SIGKILL);
	assert_in_range(fixture_wait_held(0), 0, 1000);
	/* Without frames there is nothing to be killed for. */
	assert_true(peer_start(&a, "a", 10));
	assert_int_equal(peer_do(&a, PEER_GRANT, 10), 10);
	assert_int_equal(peer_do(&a, PEER_RETURN, 0), 0);
	assert_int_equal(peer_do(&a, PEER_CLOSE, 0), 0);
	assert_int_equal(peer_wait(&a, 1500), -1);
	peer_end(&a);
	fixture_validate();
}

static void test_foreign_frame(void **state)
{
	struct frame_run run = { .nr = 1 };
	struct peer a, b;
	int64_t where;

	(void)state;
	start_small();
	assert_true(peer_start(&a, "a", 10));
	assert_true(peer_start(&b, "b", 10));
	assert_int_equal(peer_do(&a, PEER_GRANT, 5), 5);
	assert_int_equal(peer_do(&b, PEER_GRANT, 5), 5);
	where = peer_do(&a, PEER_RUN, 0);
	run.first = (uint64_t)where & 0xffffffffffff;
	run.node = (uint16_t)((uint64_t)where >> 48);
	assert_int_equal(peer_do_run(&b, PEER_GIVE, 0, run), -EPERM);
	assert_int_equal(peer_do(&b, PEER_GRANT, 1), -EPIPE);
	/* Cut off with frames mapped: it has to go. */
	assert_int_equal(peer_wait(&b, 3000), SIGKILL);
	assert_in_range(fixture_wait_held(5), 0, 1000);
	assert_int_equal(peer_do(&a, PEER_DIRTY, 0), 5);
	peer_end(&a);
	assert_true(fixture_wait_held(0) >= 0);
	fixture_validate();
}

static void test_double_return(void **state)
{
	struct frame_run run = { .nr = 1 };
	struct peer a;
	int64_t where;

	(void)state;
	start_small();
	assert_true(peer_start(&a, "a", 10));
	assert_int_equal(peer_do(&a, PEER_GRANT, 4), 4);
	where = peer_do(&a, PEER_RUN, 0);
	run.first = (uint64_t)where & 0xffffffffffff;
	run.node = (uint16_t)((uint64_t)where >> 48);
	assert_int_equal(peer_do_run(&a, PEER_GIVE, 0, run), 0);
	assert_int_equal(fixture_pool("held"), 3);
	assert_int_equal(peer_do_run(&a, PEER_GIVE, 0, run), -EPERM);
	assert_int_equal(peer_wait(&a, 3000), SIGKILL);
	assert_in_range(fixture_wait_held(0), 0, 1000);
	fixture_validate();
}

static void test_rubbish_from_a_client(void **state)
{
	static const uint64_t sizes[] = { 1, 15, 16, 32, 4000, 8000 };
	struct peer a;

	(void)state;
	start_small();
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		assert_true(peer_start(&a, "a", 10));
		assert_int_equal(peer_do(&a, PEER_SEND, sizes[i]), 0);
		peer_end(&a);
	}
	fixture_validate();
}

static int raw_connect(void)
{
	char path[RUNDIR_PATH_MAX];
	int fd;

	assert_int_equal(rundir_join(path, "pool.sock", NULL), 0);
	fd = rundir_connect(path, SOCK_SEQPACKET, NULL);
	assert_true(fd >= 0);
	return fd;
}

static struct owner_hello make_hello(uint32_t flags)
{
	return (struct owner_hello){
		.header = { .type = OWNER_HELLO, .length = sizeof(struct owner_hello) },
		.version = OWNER_PROTOCOL_VERSION,
		.flags = flags,
		.ram_frames = 4,
		.name = "raw",
	};
}

/* Whether the owner ends the connection after these bytes without an answer. */
static bool cut_off_after(const void *bytes, size_t len)
{
	int fd = raw_connect();
	char buf[16];
	bool cut;

	assert_int_equal(send(fd, bytes, len, MSG_NOSIGNAL), len);
	cut = recv(fd, buf, sizeof(buf), 0) <= 0;
	close(fd);
	return cut;
}

static void test_hostile_hello(void **state)
{
	struct owner_hello hello;

	(void)state;
	start_small();
	hello = make_hello(0);
	hello.version = 99;
	assert_true(cut_off_after(&hello, sizeof(hello)));
	hello = make_hello(0x8000);
	assert_true(cut_off_after(&hello, sizeof(hello)));
	hello = make_hello(0);
	memset(hello.name, 'x', sizeof(hello.name));
	assert_true(cut_off_after(&hello, sizeof(hello)));
	hello = make_hello(0);
	hello.ram_frames = UINT64_MAX;
	assert_true(cut_off_after(&hello, sizeof(hello)));
	hello = make_hello(0);
	hello.header.length = 7;
	assert_true(cut_off_after(&hello, sizeof(hello)));
	hello = make_hello(0);
	hello.header.type = OWNER_GRANT; /* before HELLO, too */
	assert_true(cut_off_after(&hello, sizeof(hello)));
	assert_true(cut_off_after("", 1));
	fixture_validate();
}

/* Requests without end and without reading a reply: one client's problem, nobody else's. */
static void test_client_that_does_not_read(void **state)
{
	struct peer a, b;

	(void)state;
	start_small();
	assert_true(peer_start(&a, "a", 4));
	assert_true(peer_start(&b, "b", 10));
	assert_true(peer_do(&a, PEER_FLOOD, 0) > 4);
	assert_int_equal(peer_do(&b, PEER_GRANT, 10), 10);
	assert_int_equal(peer_wait(&a, 3000), SIGKILL);
	assert_in_range(fixture_wait_held(10), 0, 1000);
	peer_end(&b);
	assert_true(fixture_wait_held(0) >= 0);
	fixture_validate();
}

static unsigned int receive_welcome(int fd, struct owner_welcome *welcome, int *fds)
{
	char control[CMSG_SPACE(66 * sizeof(int))];
	struct iovec iov = { .iov_base = welcome, .iov_len = sizeof(*welcome) };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = control,
			      .msg_controllen = sizeof(control) };
	struct cmsghdr *cmsg;
	unsigned int nr;

	assert_int_equal(recvmsg(fd, &msg, MSG_CMSG_CLOEXEC), sizeof(*welcome));
	cmsg = CMSG_FIRSTHDR(&msg);
	if (!cmsg)
		return 0;
	nr = (unsigned int)((cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int));
	memcpy(fds, CMSG_DATA(cmsg), nr * sizeof(int));
	return nr;
}

/* A process that may not open /dev/userfaultfd gets it, and makes one of its own with it. */
static void test_userfaultfd(void **state)
{
	struct owner_hello hello = make_hello(OWNER_HELLO_WANT_UFFD);
	struct uffdio_api api = { .api = UFFD_API };
	struct owner_welcome welcome;
	int fd, uffd, fds[66];
	unsigned int nr;
	struct peer a;

	(void)state;
	start_small();
	if (access("/dev/userfaultfd", R_OK) < 0)
		skip_because("no /dev/userfaultfd to open");
	fd = raw_connect();
	assert_int_equal(send(fd, &hello, sizeof(hello), 0), sizeof(hello));
	nr = receive_welcome(fd, &welcome, fds);
	assert_int_equal(nr, welcome.nr_nodes + 2);
	assert_true(welcome.flags & OWNER_WELCOME_NOTICE);
	assert_true(welcome.flags & OWNER_WELCOME_UFFD);
	uffd = ioctl(fds[nr - 1], USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	assert_true(uffd >= 0);
	assert_int_equal(ioctl(uffd, UFFDIO_API, &api), 0);
	close(uffd);
	for (unsigned int i = 0; i < nr; i++)
		close(fds[i]);
	close(fd);
	assert_true(peer_start(&a, "a", 10));
	assert_int_equal(peer_do(&a, PEER_UFFD, 0), 1);
	assert_int_equal(peer_do(&a, PEER_UFFD, 0), 0); /* only once */
	peer_end(&a);
}

static void test_refusals(void **state)
{
	struct peer a, b;
	uint64_t all;

	(void)state;
	start_small();
	all = room();
	assert_false(peer_start(&b, "b", all + 1));
	assert_int_equal(b.err.code, ENOMEM);
	assert_non_null(strstr(b.err.message, "VM 'b' of"));
	assert_non_null(strstr(b.err.message, "2 MiB are missing"));
	assert_true(peer_start(&a, "a", all));
	assert_false(peer_start(&b, "b", 1));
	peer_end(&a);
	assert_false(peer_start(&b, "not a name", 1));
	assert_int_equal(b.err.code, EINVAL);
}

static void test_no_more_than_its_ram(void **state)
{
	struct peer a;

	(void)state;
	start_small();
	assert_true(peer_start(&a, "a", 10));
	assert_int_equal(peer_do(&a, PEER_GRANT, 20), 10);
	assert_int_equal(peer_do(&a, PEER_GRANT, 1), -ENOMEM);
	assert_int_equal(peer_do(&a, PEER_RETURN, 0), 0);
	assert_int_equal(peer_do(&a, PEER_GRANT, 10), 10);
	peer_end(&a);
	assert_true(fixture_wait_held(0) >= 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		OWNER_TEST(test_two_share),
		OWNER_TEST(test_frames_are_zeroed_between),
		OWNER_TEST(test_background_zeroing),
		OWNER_TEST(test_killed_client),
		OWNER_TEST(test_lives_on_after_close),
		OWNER_TEST(test_foreign_frame),
		OWNER_TEST(test_double_return),
		OWNER_TEST(test_rubbish_from_a_client),
		OWNER_TEST(test_hostile_hello),
		OWNER_TEST(test_client_that_does_not_read),
		OWNER_TEST(test_userfaultfd),
		OWNER_TEST(test_refusals),
		OWNER_TEST(test_no_more_than_its_ram),
	};

	return cmocka_run_group_tests(tests, fixture_setup_group, NULL);
}
