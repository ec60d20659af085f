/* SPDX-License-Identifier: MIT */
/*
 * RESIZE: a VM that is running is promised more frames or fewer. In conversations over a pool of
 * pure metadata, and against a real pool owner that has to grow for it.
 */
#include "session_pool.h"

#include "vmm/owner/notice_packet.h"

static uint64_t committed(void)
{
	struct pool_info info;

	pool_info(pool, &info);
	return info.committed;
}

static void test_up_and_down(void **state)
{
	struct session session;

	(void)state;
	hello(&session, 1, 64);
	assert_int_equal(grant(&session, 100, 0), 64);
	assert_int_equal(resize(&session, 100), 0);
	assert_int_equal(committed(), 100);
	assert_int_equal(grant(&session, 100, 0), 36);

	/* Not below what it holds. */
	assert_int_equal(resize(&session, 99), -EBUSY);
	assert_non_null(strstr(reply.packet.resized.message, "'vm'"));
	assert_int_equal(session.ram_frames, 100);
	assert_int_equal(resize(&session, 100), 0);

	assert_int_equal(resize(&session, 140), 0);
	assert_int_equal(committed(), 140);
	assert_int_equal(resize(&session, 120), 0);
	assert_int_equal(committed(), 120);
	assert_int_equal(session_release(&session), 100);
	assert_int_equal(committed(), 0);
}

static void test_refused(void **state)
{
	struct session first, second;

	(void)state;
	hello(&first, 1, 200);
	hello(&second, 2, 200);
	assert_int_equal(resize(&second, 2 * NODE_FRAMES), -ENOMEM);
	assert_non_null(strstr(reply.packet.resized.message, "cannot grow from 400 MiB to 1 GiB"));
	assert_int_equal(committed(), 400);
	/* It goes on as before, and what the other one gives up is enough. */
	assert_int_equal(grant(&second, 10, 0), 10);
	assert_int_equal(resize(&first, 50), 0);
	assert_int_equal(resize(&second, 350), 0);
	assert_int_equal(committed(), 400);
	session_release(&first);
	session_release(&second);
}

/* The pool has to grow first: the session waits, and a failure leaves it as it was. */
static void test_waits_for_growth(void **state)
{
	struct error err = { .code = ENOMEM, .message = "no memory at all" };
	struct session session;

	(void)state;
	hello(&session, 1, 64);
	session.wanted_frames = 128;
	session.state = SESSION_WAITING;
	assert_int_equal(session_refuse(&session, &err, &reply), SESSION_REPLY);
	assert_int_equal(reply.packet.header.type, OWNER_RESIZED);
	assert_int_equal(reply.packet.header.status, -ENOMEM);
	assert_string_equal(reply.packet.resized.message, "no memory at all");
	assert_int_equal(session.state, SESSION_READY);
	assert_int_equal(session.ram_frames, 64);
	assert_int_equal(grant(&session, 100, 0), 64);
	session_release(&session);
}

static void test_bad_packets(void **state)
{
	static const uint64_t sizes[] = { 0, (UINT64_C(1) << 40) + 1, UINT64_MAX };
	union owner_packet packet = { .resize = { .header = { .type = OWNER_RESIZE,
							      .length = sizeof(packet.resize) },
						  .ram_frames = 10 } };
	struct session session;

	(void)state;
	/* Before its HELLO nobody has a size. */
	session_init(&session, pool, 1);
	assert_int_equal(handle(&session, &packet), SESSION_CUT);
	assert_string_equal(why, "request out of order");
	for (unsigned int i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		hello(&session, 1, 10);
		packet.resize.ram_frames = sizes[i];
		assert_int_equal(handle(&session, &packet), SESSION_CUT);
		assert_non_null(why);
		session_release(&session);
	}
	hello(&session, 1, 10);
	packet.resize.ram_frames = 10;
	packet.header.length = sizeof(packet.resize) - 8;
	assert_int_equal(handle(&session, &packet), SESSION_CUT);
	session_release(&session);
	packet.header.length = sizeof(packet.resize);
	packet.resize.flags = 2;
	hello(&session, 1, 10);
	assert_int_equal(handle(&session, &packet), SESSION_CUT);
	session_release(&session);
	packet.resize.flags = 0;
	/* A reply is no request. */
	hello(&session, 1, 10);
	packet.header.type = OWNER_RESIZED;
	packet.header.length = sizeof(packet.resized);
	assert_int_equal(handle(&session, &packet), SESSION_CUT);
	session_release(&session);
	assert_int_equal(committed(), 0);
}

/* A real owner, whose pool begins with what the first VM needs and grows for the rest. */
static void test_real_owner(void **state)
{
	static const char *const args[] = { "--hugepages=never", "--max=256M", NULL };
	struct owner_client_config config = { .vm_name = "vm", .ram_frames = 16 };
	struct frame_run runs[OWNER_RUNS_MAX];
	unsigned int nr_runs = OWNER_RUNS_MAX;
	struct owner_client *client;
	struct error err = { 0 };

	(void)state;
	fixture_start(args);
	client = owner_client_connect(&config, &err);
	assert_non_null(client);
	assert_int_equal(owner_client_limit(client), 16);
	assert_int_equal(owner_client_grant(client, 64, 0, runs, &nr_runs), 16);
	nr_runs = OWNER_RUNS_MAX;
	assert_int_equal(owner_client_grant(client, 1, 0, runs, &nr_runs), -ENOMEM);

	assert_int_equal(owner_client_resize(client, 48, &err), 0);
	assert_int_equal(owner_client_limit(client), 48);
	nr_runs = OWNER_RUNS_MAX;
	assert_int_equal(owner_client_grant(client, 64, 0, runs, &nr_runs), 32);

	assert_int_equal(owner_client_resize(client, 100000, &err), -ENOMEM);
	assert_non_null(strstr(err.message, "VM 'vm' cannot grow from 96 MiB to"));
	error_clear(&err);
	assert_int_equal(owner_client_resize(client, 20, &err), -EBUSY);
	assert_true(strlen(err.message) > 0);
	assert_int_equal(owner_client_limit(client), 48);
	error_clear(&err);
	assert_int_equal(owner_client_return(client, runs, nr_runs), 0);
	assert_int_equal(owner_client_resize(client, 16, &err), 0);
	assert_int_equal(owner_client_limit(client), 16);

	/* The owner ends: said, not waited for. */
	kill(fixture_owner, SIGKILL);
	waitpid(fixture_owner, NULL, 0);
	fixture_owner = 0;
	assert_int_equal(owner_client_resize(client, 32, &err), -EPIPE);
	assert_true(strlen(err.message) > 0);
	owner_client_close(client);
}

/* Waits for a notice that the pool has grown, and answers it. */
static void wait_grown(struct owner_client *client)
{
	struct pollfd pollfd = { .fd = owner_client_notice_fd(client), .events = POLLIN };
	struct notice_done done = { .header = { .type = NOTICE_DONE, .length = sizeof(done) } };
	union notice_packet packet;

	do { /* the owner has other questions, too */
		assert_int_equal(poll(&pollfd, 1, 30000), 1);
		assert_true(recv(pollfd.fd, &packet, sizeof(packet), 0) > 0);
	} while (packet.header.type != NOTICE_GROWN);
	done.id = packet.grown.id;
	assert_int_equal(send(pollfd.fd, &done, sizeof(done), 0), sizeof(done));
}

/* Asks for it, and again whenever the pool has grown, until there is an answer. */
static int grow_to(struct owner_client *client, uint64_t frames, unsigned int *steps,
		   struct error *err)
{
	uint64_t last = owner_client_limit(client);
	int ret = owner_client_resize_later(client, frames, err);

	for (*steps = 0; ret == -EINPROGRESS; ++*steps) {
		wait_grown(client);
		ret = owner_client_resize_later(client, frames, err);
		/* Each time it has got more than it had. */
		assert_true(ret != -EINPROGRESS || owner_client_limit(client) > last);
		last = owner_client_limit(client);
	}
	return ret;
}

/*
 * Who does not want to wait is answered at once, is served like always while the pool grows, and
 * has what is there before all of it is. What cannot be is said at once, or when it turns out.
 */
static void test_later(void **state)
{
	static const char *const args[] = { "--hugepages=never", "--max=700M", NULL };
	struct owner_client_config config = { .vm_name = "vm", .ram_frames = 16 };
	struct frame_run runs[OWNER_RUNS_MAX];
	unsigned int nr_runs = OWNER_RUNS_MAX, steps;
	struct owner_client *client;
	struct error err = { 0 };
	uint64_t start;

	(void)state;
	fixture_start(args);
	client = owner_client_connect(&config, &err);
	assert_non_null(client);
	assert_int_equal(owner_client_resize_later(client, 12, &err), 0);
	assert_int_equal(owner_client_resize_later(client, 16, &err), 0);
	assert_int_equal(owner_client_resize_later(client, 100000, &err), -ENOMEM);
	assert_non_null(strstr(err.message, "VM 'vm' cannot grow from 32 MiB to"));
	error_clear(&err);

	start = now_ms();
	assert_int_equal(owner_client_resize_later(client, 316, &err), -EINPROGRESS);
	assert_int_equal(owner_client_grant(client, 16, 0, runs, &nr_runs), 16);
	assert_true(owner_client_limit(client) < 316);
	assert_int_equal(fixture_pool("held"), 16);
	/* It takes a while; these took a moment. */
	print_message("answered, given and asked in %d ms\n", (int)(now_ms() - start));
	assert_int_equal(grow_to(client, 316, &steps, &err), 0);
	print_message("grown in %d ms and %u steps\n", (int)(now_ms() - start), steps);
	assert_true(steps >= 3);
	assert_int_equal(owner_client_limit(client), 316);
	fixture_validate();

	/* Called off, and it stays as it is. */
	assert_int_equal(owner_client_resize_later(client, 340, &err), -EINPROGRESS);
	assert_int_equal(owner_client_resize(client, 16, &err), 0);
	usleep(300000);
	assert_int_equal(owner_client_resize(client, 16, &err), 0);
	assert_int_equal(owner_client_limit(client), 16);
	fixture_validate();
	assert_int_equal(owner_client_return(client, runs, nr_runs), 0);
	owner_client_close(client);
}

/* Nobody waits for the growth of one that has gone. */
static void test_later_gone(void **state)
{
	static const char *const args[] = { "--hugepages=never", "--max=700M", NULL };
	struct owner_client_config config = { .vm_name = "vm", .ram_frames = 16 };
	struct owner_client *client, *other;
	struct error err = { 0 };

	(void)state;
	fixture_start(args);
	client = owner_client_connect(&config, &err);
	assert_non_null(client);
	assert_int_equal(owner_client_resize_later(client, 316, &err), -EINPROGRESS);
	owner_client_close(client);
	config.vm_name = "other";
	config.ram_frames = 200;
	other = owner_client_connect(&config, &err);
	assert_non_null(other);
	assert_int_equal(owner_client_limit(other), 200);
	fixture_validate();
	owner_client_close(other);
}

/* The host refuses, when it is asked: told after the notice, once, and asked anew the next time. */
static void test_later_refused(void **state)
{
	struct error err = { .code = ENOMEM, .message = "the host has none" };
	union owner_packet packet = { .resize = { .header = { .type = OWNER_RESIZE,
							      .length = sizeof(packet.resize) },
						  .ram_frames = 128,
						  .flags = OWNER_RESIZE_LATER } };
	struct session session;
	struct error none = { 0 };
	uint64_t missing = 7;

	(void)state;
	hello(&session, 1, 64);
	session.noticed = true;
	/* In this pool there is enough, in a larger one there would not be. */
	session.later_frames = 3 * NODE_FRAMES;
	assert_true(session_go_on(&session, &err, &missing));
	assert_int_equal(missing, 0);
	assert_int_equal(session.later_frames, 0);
	assert_int_equal(session.ram_frames, 64);
	packet.resize.ram_frames = 3 * NODE_FRAMES;
	assert_int_equal(handle(&session, &packet), SESSION_REPLY);
	assert_int_equal(reply.packet.header.status, -ENOMEM);
	assert_string_equal(reply.packet.resized.message, "the host has none");
	assert_int_equal(handle(&session, &packet), SESSION_REPLY);
	assert_string_not_equal(reply.packet.resized.message, "the host has none");
	/* Its maximum is lowered while the pool grows for more: it gets no more than that. */
	session.later_frames = 400;
	assert_int_equal(session_set_limits(
				 &session,
				 &(struct session_limits){ .max_frames = 200, .shares = 1 }, &none),
			 0);
	assert_int_equal(session.later_frames, 0);
	packet.resize.ram_frames = 400;
	assert_int_equal(handle(&session, &packet), SESSION_REPLY);
	assert_int_equal(reply.packet.header.status, -ENOMEM);
	assert_int_equal(session.ram_frames, 64);
	/* Something else is decided by itself. */
	session.later_frames = 3 * NODE_FRAMES;
	assert_true(session_go_on(&session, &err, &missing));
	packet.resize.ram_frames = 100;
	assert_int_equal(handle(&session, &packet), SESSION_REPLY);
	assert_int_equal(reply.packet.header.status, 0);
	session_release(&session);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_up_and_down, session_setup, session_teardown),
		cmocka_unit_test_setup_teardown(test_refused, session_setup, session_teardown),
		cmocka_unit_test_setup_teardown(test_waits_for_growth, session_setup,
						session_teardown),
		cmocka_unit_test_setup_teardown(test_later, fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(test_later_gone, fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(test_later_refused, session_setup,
						session_teardown),
		cmocka_unit_test_setup_teardown(test_bad_packets, session_setup, session_teardown),
		cmocka_unit_test_setup_teardown(test_real_owner, fixture_setup, fixture_teardown),
	};

	return cmocka_run_group_tests(tests, fixture_setup_group, NULL);
}
