/* SPDX-License-Identifier: MIT */
/*
 * RESIZE: a VM that is running is promised more frames or fewer. In conversations over a pool of
 * pure metadata, and against a real pool owner that has to grow for it.
 */
#include "session_pool.h"

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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_up_and_down, session_setup, session_teardown),
		cmocka_unit_test_setup_teardown(test_refused, session_setup, session_teardown),
		cmocka_unit_test_setup_teardown(test_waits_for_growth, session_setup,
						session_teardown),
		cmocka_unit_test_setup_teardown(test_bad_packets, session_setup, session_teardown),
		cmocka_unit_test_setup_teardown(test_real_owner, fixture_setup, fixture_teardown),
	};

	return cmocka_run_group_tests(tests, fixture_setup_group, NULL);
}
